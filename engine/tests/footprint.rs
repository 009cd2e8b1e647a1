//! Bytes an item beyond key and value, against a record: whoever makes items
//! dearer is told. `cargo xtask bench --only memory` measures resident memory.

use engine::{Arena, Expiry, HashSeed, KeyHash, Now, Shard, ShardConfig, Value, Write};

const NOW: Now = Now(1_700_000_000_000);
const ITEMS: usize = 1_000_000;
/// Of the record, either way: below it the record is out of date.
const MARGIN: f64 = 0.02;

/// Pages and tables in use for a million items, an item, beyond key and value.
fn overhead(key_bytes: usize, value_bytes: usize, full: bool) -> f64 {
    let memory = ITEMS * (key_bytes + value_bytes + 80);
    let seed = HashSeed::new(7);
    let config = ShardConfig { versions: full, ..ShardConfig::new(seed.clone(), memory) };
    let mut shard = Shard::new(config, Arena::heap(memory));
    let value = vec![b'v'; value_bytes];
    let expiry = if full { Expiry(NOW.0 + 3_600_000) } else { Expiry::NEVER };
    for number in 0..ITEMS {
        let key = format!("{number:0key_bytes$}");
        let write = Write {
            expiry,
            ..Write::set(key.as_bytes(), KeyHash::of(key.as_bytes(), &seed), Value::Bytes(&value))
        };
        shard.write(write, NOW).expect("there is memory");
    }
    assert_eq!(shard.len(), ITEMS as u64);
    let bytes = shard.stats().gauges.memory_bytes as f64;
    bytes / ITEMS as f64 - (key_bytes + value_bytes) as f64
}

#[test]
fn an_item_costs_what_it_did() {
    // Key and value, then the overhead with TTL and version, and without.
    let recorded = [(10, 10, 25.2, 13.2), (20, 100, 25.5, 13.6), (30, 500, 29.8, 16.2)];
    let mut off = Vec::new();
    for (key_bytes, value_bytes, full, bare) in recorded {
        for (with_both, before) in [(true, full), (false, bare)] {
            let now = overhead(key_bytes, value_bytes, with_both);
            println!("{key_bytes}+{value_bytes}, TTL and version {with_both}: {now:.2}");
            if (now / before - 1.0).abs() > MARGIN {
                off.push(format!("{key_bytes}+{value_bytes} {with_both}: {now:.2} not {before}"));
            }
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}
