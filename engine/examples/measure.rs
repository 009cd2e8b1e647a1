//! What an item costs in bytes, and an operation in time.
//!
//! ```sh
//! cargo run --release -p seawall-engine --example measure [-- items]
//! ```
//!
//! Prints resident bytes an item beyond key and value (pages and tables in use,
//! divided by the items) at the three sizes that `docs` quote, then the time
//! of single operations and the longest of them while the shard fills.

use engine::*;
use std::hint::black_box;
use std::time::Instant;

const SEED: u64 = 7;
const NOW: Now = Now(1_700_000_000_000);

fn shard(bytes: usize, versions: bool, eviction: Eviction) -> Shard {
    let config = ShardConfig { eviction, versions, ..ShardConfig::new(HashSeed::new(SEED), bytes) };
    Shard::new(config, Arena::heap(bytes))
}

fn key(number: u64, key_bytes: usize, out: &mut [u8; 64]) -> &[u8] {
    let mut at = key_bytes;
    let mut rest = number;
    while at > 0 {
        at -= 1;
        out[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    &out[..key_bytes]
}

fn set(shard: &mut Shard, seed: &HashSeed, key: &[u8], value: &[u8], expiry: Expiry, now: Now) {
    let write = Write { expiry, ..Write::set(key, KeyHash::of(key, seed), Value::Bytes(value)) };
    shard.write(write, now).expect("there is memory, or something to evict");
}

fn bytes_per_item(items: u64) {
    println!("resident bytes an item beyond key and value, {items} items");
    println!("{:>12} {:>18} {:>22}", "key+value", "TTL and version", "no TTL, no version");
    let seed = HashSeed::new(SEED);
    for (key_bytes, value_bytes) in [(10, 10), (20, 100), (30, 500)] {
        let mut overheads = Vec::new();
        for full in [true, false] {
            let mut shard =
                shard(items as usize * (key_bytes + value_bytes + 80), full, Eviction::ClockPro);
            let value = vec![b'v'; value_bytes];
            let expiry = if full { Expiry(NOW.0 + 3_600_000) } else { Expiry::NEVER };
            for number in 0..items {
                set(&mut shard, &seed, key(number, key_bytes, &mut [0; 64]), &value, expiry, NOW);
            }
            assert_eq!(shard.len(), items);
            let gauges = shard.stats().gauges;
            overheads.push((
                gauges.memory_bytes as f64 / items as f64 - (key_bytes + value_bytes) as f64,
                gauges.index_bytes as f64 / items as f64,
            ));
        }
        let show = |(all, index): (f64, f64)| format!("{all:.1} (index {index:.1})");
        println!(
            "{:>12} {:>18} {:>22}",
            format!("{key_bytes}+{value_bytes}"),
            show(overheads[0]),
            show(overheads[1])
        );
    }
}

/// Runs `operation` for every number and prints the mean, and the longest.
fn time(name: &str, count: u64, mut operation: impl FnMut(u64)) {
    let begin = Instant::now();
    for number in 0..count {
        operation(number);
    }
    println!("{name:>28}: {:7.1} ns", begin.elapsed().as_nanos() as f64 / count as f64);
}

fn longest(name: &str, count: u64, mut operation: impl FnMut(u64)) {
    let mut slowest = [(0, 0); 5];
    for number in 0..count {
        let begin = Instant::now();
        operation(number);
        let took = begin.elapsed().as_nanos();
        if took > slowest[4].0 {
            slowest[4] = (took, number);
            slowest.sort_unstable_by(|a, b| b.cmp(a));
        }
    }
    let shown: Vec<String> =
        slowest.iter().map(|(took, at)| format!("{} us at {at}", took / 1000)).collect();
    println!("{name:>28}: longest {}", shown.join(", "));
}

fn operations(items: u64) {
    println!("\noperations, {items} items of 30 + 100 bytes");
    let seed = HashSeed::new(SEED);
    let value = [b'v'; 100];
    let mut buffer = [0; 64];
    let mix = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let mut filled = shard(items as usize * 180, true, Eviction::ClockPro);
    time("set, new", items, |number| {
        set(&mut filled, &seed, key(number, 30, &mut buffer), &value, Expiry::NEVER, NOW);
    });
    time("set, over an old one", items, |number| {
        set(
            &mut filled,
            &seed,
            key(mix(number) % items, 30, &mut buffer),
            &value,
            Expiry::NEVER,
            NOW,
        );
    });
    time("get, hit", items, |number| {
        let key = key(mix(number) % items, 30, &mut buffer);
        black_box(filled.get(key, KeyHash::of(key, &seed), NOW).is_some());
    });
    let mut keys = vec![[0; 64]; 16];
    time("get, hit, 16 prefetched", items / 16, |number| {
        for (at, buffer) in keys.iter_mut().enumerate() {
            let key = key(mix(number * 16 + at as u64) % items, 30, buffer);
            filled.prefetch(KeyHash::of(key, &seed));
        }
        for key in &keys {
            let key = &key[..30];
            black_box(filled.get(key, KeyHash::of(key, &seed), NOW).is_some());
        }
    });
    time("get, miss", items, |number| {
        let key = key(mix(number) % items + items, 30, &mut buffer);
        black_box(filled.get(key, KeyHash::of(key, &seed), NOW).is_some());
    });
    time("delete", items, |number| {
        let key = key(number, 30, &mut buffer);
        black_box(filled.delete(key, KeyHash::of(key, &seed), NOW, &Delete::default()));
    });
    for eviction in [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo] {
        let mut small = shard(items as usize * 80, true, eviction);
        for number in 0..items {
            set(&mut small, &seed, key(number, 30, &mut buffer), &value, Expiry::NEVER, NOW);
        }
        time(&format!("set, evicting, {eviction:?}"), items, |number| {
            set(
                &mut small,
                &seed,
                key(number + items, 30, &mut buffer),
                &value,
                Expiry::NEVER,
                NOW,
            );
        });
    }
    let mut growing = shard(items as usize * 180, true, Eviction::ClockPro);
    longest("filling", items, |number| {
        set(&mut growing, &seed, key(number, 30, &mut buffer), &value, Expiry(NOW.0 + 60_000), NOW);
    });
    let mut now = NOW;
    longest("maintain, all expiring", 20_000, |_| {
        now.0 += 10;
        growing.maintain(now);
    });
    println!("{:>28}: {} of {items}", "left of them", growing.len());
    let mut small = shard(items as usize * 80, true, Eviction::ClockPro);
    longest("filling beyond memory", items, |number| {
        let value = &[b'v'; 1000][..(mix(number) % 1000) as usize];
        set(&mut small, &seed, key(number, 30, &mut buffer), value, Expiry::NEVER, NOW);
        small.maintain(Now(NOW.0 + number / 500));
    });
}

fn main() {
    let items = std::env::args().nth(1).and_then(|items| items.parse().ok()).unwrap_or(1_000_000);
    bytes_per_item(items);
    operations(items);
}
