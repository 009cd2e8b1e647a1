//! The `async-memcached` crate: classic text and meta.

use std::time::Duration;

use async_memcached::{AsciiProtocol, Client, Error, MetaProtocol};
use seawall_client_checks::{Checks, address};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut check = Checks::new("rust async-memcached");
    let mut client = Client::new(format!("tcp://{}", address())).await?;
    client.flush_all().await?;
    classic(&mut client, &mut check).await?;
    meta(&mut client, &mut check).await?;
    check.done();
    Ok(())
}

async fn data(client: &mut Client, key: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(client.get(key).await?.and_then(|value| value.data))
}

async fn classic(client: &mut Client, check: &mut Checks) -> Result<(), Error> {
    client.set("y:a", "text", None, Some(77)).await?;
    let value = client.get("y:a").await?.expect("it was just stored");
    check.equal(value.data.as_deref(), Some(&b"text"[..]));
    check.equal(value.flags, Some(77));
    check.holds(client.get("y:none").await?.is_none());
    check.holds(client.add("y:a", "no", None, None).await.is_err());
    client.add("y:new", "yes", None, None).await?;
    check.equal(data(client, "y:new").await?, Some(b"yes".to_vec()));
    client.set("y:n", 10u64, None, None).await?;
    check.equal(client.increment("y:n", 5).await?, 15);
    check.equal(client.decrement("y:n", 20).await?, 0);
    client.increment_no_reply("y:n", 3).await?;
    check.equal(data(client, "y:n").await?, Some(b"3".to_vec()));
    let pairs: Vec<(String, String)> =
        (0..300).map(|index| (format!("y:m:{index}"), format!("value {index}"))).collect();
    let pair_texts = borrowed(&pairs);
    let stored = client.set_multi(&pair_texts, None, None).await?;
    check.holds(stored.values().all(Result::is_ok));
    let found = client.get_multi(pairs.iter().map(|pair| &pair.0)).await?;
    check.equal(found.len(), 300);
    for (value, (key, want)) in found.iter().zip(&pairs) {
        check.equal(&value.key, key.as_bytes());
        check.equal(value.data.as_deref(), Some(want.as_bytes()));
    }
    let keys: Vec<&String> = pairs.iter().map(|pair| &pair.0).collect();
    client.delete_multi_no_reply(&keys).await?;
    check.equal(client.get_multi(&keys).await?.len(), 0);
    let large = "L".repeat(700_000);
    client.set("y:large", large.as_str(), None, None).await?;
    check.equal(data(client, "y:large").await?, Some(large.into_bytes()));
    client.set("y:ttl", "x", Some(1), None).await?;
    client.set("y:ttl2", "x", Some(100), None).await?;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    check.holds(client.get("y:ttl").await?.is_none());
    check.holds(client.get("y:ttl2").await?.is_some());
    client.delete("y:a").await?;
    check.holds(client.delete("y:a").await.is_err());
    check.holds(client.version().await?.contains("1.6."));
    check.holds(client.stats().await?.contains_key("curr_items"));
    let mut dumped = 0;
    let mut keys = client.dump_keys().await?;
    while let Some(entry) = keys.next().await {
        entry?;
        dumped += 1;
    }
    check.holds(dumped >= 4);
    Ok(())
}

async fn meta(client: &mut Client, check: &mut Checks) -> Result<(), Error> {
    client.meta_set("y:x", "one", false, None, Some(&["T100", "F5"])).await?;
    let flags = ["v", "c", "f", "t", "s", "h", "k"];
    let value = client.meta_get("y:x", false, Some(b"op1"), Some(&flags)).await?;
    let value = value.expect("it was just stored");
    check.equal(value.data.as_deref(), Some(&b"one"[..]));
    check.equal(value.flags, Some(5));
    check.equal(value.size, Some(3));
    check.equal(value.hit_before, Some(false));
    check.equal(value.opaque_token.as_deref(), Some(&b"op1"[..]));
    check.holds(matches!(value.ttl_remaining, Some(98..=100)));
    let cas = format!("C{}", value.cas.expect("asked for"));
    client.meta_set("y:x", "two", false, None, Some(&[&cas])).await?;
    check.holds(client.meta_set("y:x", "three", false, None, Some(&[&cas])).await.is_err());
    let counter = client.meta_increment("y:i", false, None, None, Some(&["N100", "J7", "v"])).await?;
    check.equal(counter.and_then(|value| value.data).as_deref(), Some(&b"7"[..]));
    let counter = client.meta_increment("y:i", false, None, Some(5), Some(&["v"])).await?;
    check.equal(counter.and_then(|value| value.data).as_deref(), Some(&b"12"[..]));
    let counter = client.meta_decrement("y:i", false, None, Some(2), Some(&["v"])).await?;
    check.equal(counter.and_then(|value| value.data).as_deref(), Some(&b"10"[..]));
    let items: Vec<(String, String)> =
        (0..200).map(|index| (format!("y:p:{index}"), format!("v{index}"))).collect();
    check.equal(client.meta_set_multi(&borrowed(&items), None).await?.len(), 0);
    let keys: Vec<&String> = items.iter().map(|item| &item.0).collect();
    let found = client.meta_get_multi(&keys, Some(&["v"])).await?;
    check.equal(found.len(), 200);
    // A quiet miss says nothing; the noop behind it ends the wait.
    check.holds(client.meta_get("y:none", true, None, Some(&["v"])).await?.is_none());
    // Marked stale: the first reader wins the right to refill.
    client.meta_delete("y:x", false, None, Some(&["I", "T30"])).await?;
    let stale = client.meta_get("y:x", false, None, Some(&["v"])).await?.expect("stale, not gone");
    check.equal(stale.is_stale, Some(true));
    check.equal(stale.is_recache_winner, Some(true));
    let second = client.meta_get("y:x", false, None, Some(&["v"])).await?.expect("still there");
    check.equal(second.is_recache_winner, Some(false));
    client.meta_delete("y:x", false, None, None).await?;
    check.holds(client.meta_get("y:x", false, None, Some(&["v"])).await?.is_none());
    Ok(())
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
