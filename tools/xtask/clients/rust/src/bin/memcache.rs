//! The `memcache` crate: binary and classic text.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

use memcache::{Client, MemcacheError};
use seawall_client_checks::{Checks, address};

fn main() -> Result<(), MemcacheError> {
    let mut check = Checks::new("rust memcache");
    for protocol in ["ascii", "binary"] {
        let client = Client::connect(format!("memcache://{}?protocol={protocol}", address()))?;
        let key = |name: &str| format!("r:{protocol}:{name}");
        client.flush()?;
        client.set(&key("a"), "text", 0)?;
        check.equal(client.get::<String>(&key("a"))?, Some("text".to_owned()));
        check.equal(client.get::<String>(&key("none"))?, None);
        let bytes: Vec<u8> = (0..=255).collect();
        client.set(&key("bytes"), &bytes[..], 0)?;
        check.equal(client.get::<Vec<u8>>(&key("bytes"))?, Some(bytes));
        check.holds(client.add(&key("a"), "no", 0).is_err());
        client.add(&key("new"), "mid", 0)?;
        check.holds(client.replace(&key("none"), "no", 0).is_err());
        client.append(&key("new"), "-end")?;
        client.prepend(&key("new"), "start-")?;
        let (value, _, cas) = client
            .get::<(String, u32, Option<u64>)>(&key("new"))?
            .expect("it was just stored");
        check.equal(value, "start-mid-end");
        let cas = match cas {
            Some(cas) => cas,
            None => {
                let name = key("new");
                let found: HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&[&name])?;
                found[&name].2.expect("gets answers a cas")
            }
        };
        check.holds(client.cas(&key("new"), "cas", 0, cas)?);
        check.holds(!client.cas(&key("new"), "again", 0, cas)?);
        client.set(&key("n"), 10, 0)?;
        check.equal(client.increment(&key("n"), 5)?, 15);
        check.equal(client.decrement(&key("n"), 20)?, 0);
        let names: Vec<String> = (0..300).map(|index| key(&format!("m{index}"))).collect();
        for name in &names {
            client.set(name, name.as_str(), 0)?;
        }
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let found: HashMap<String, String> = client.gets(&asked)?;
        check.equal(found.len(), names.len());
        check.holds(found.iter().all(|(name, value)| name == value));
        let large = vec![b'L'; 700_000];
        client.set(&key("large"), &large[..], 0)?;
        check.equal(client.get::<Vec<u8>>(&key("large"))?, Some(large));
        client.set(&key("ttl"), "x", 1)?;
        client.set(&key("ttl2"), "x", 1)?;
        check.holds(client.touch(&key("ttl2"), 100)?);
        sleep(Duration::from_millis(2_100));
        check.equal(client.get::<String>(&key("ttl"))?, None);
        check.equal(client.get::<String>(&key("ttl2"))?, Some("x".to_owned()));
        check.holds(client.delete(&key("a"))?);
        check.holds(!client.delete(&key("a"))?);
        check.holds(client.version()?[0].1.contains("1.6."));
        check.holds(client.stats()?[0].1.contains_key("curr_items"));
        client.flush()?;
        check.equal(client.get::<String>(&key("ttl2"))?, None);
    }
    check.done();
    Ok(())
}
