//! One trace, one policy, one capacity: how many requests miss.
//!
//! The real [`engine::Shard`] does the work, with index, slab and expiry, not a
//! model of it. Every request is a read; a miss is filled at once; the cache
//! starts cold and every request counts.

use crate::trace::Trace;
use anyhow::{Context, Result};
use engine::{
    Arena, Eviction, HashSeed, KeyHash, Now, Shard, ShardConfig, VALUE_BYTES_MAX, Value, Write,
};

/// Requests between two calls for background work, about a loop turn.
const MAINTAIN_EVERY: usize = 64;
/// Traces tell seconds since their start; the engine wants a date.
const START_MS: u64 = 1_700_000_000_000;
/// Value of every object when objects are counted.
const VALUE: &[u8] = b"v";
/// Memory per item, and for a start, that surely does not bound a replay whose
/// bound is a number of items.
const ITEM_BYTES_AMPLE: u64 = 160;
const SHARD_BYTES_AMPLE: u64 = 4 << 20;

/// How much the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many objects of any size.
    Objects(u64),
    /// So many bytes, the engine's own overhead included.
    Bytes(u64),
}

/// What to replay a trace through.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Who leaves when it is full.
    pub eviction: Eviction,
    /// Its size, divided evenly among the shards.
    pub capacity: Capacity,
    /// In how many shards the keys are divided by their hash.
    pub shards: u32,
    /// Seed of the hash.
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests replayed.
    pub requests: u64,
    /// Those that were not in the cache.
    pub misses: u64,
    /// Sum of the sizes of the requested objects, if known.
    pub bytes: u64,
    /// And of those that were not in the cache.
    pub bytes_missed: u64,
    /// Fills that the engine refused (an object larger than the cache).
    pub refused: u64,
}

impl Outcome {
    /// Misses per request.
    pub fn miss_ratio(&self) -> f64 {
        self.misses as f64 / self.requests.max(1) as f64
    }

    /// Missed bytes per requested byte.
    pub fn byte_miss_ratio(&self) -> f64 {
        self.bytes_missed as f64 / self.bytes.max(1) as f64
    }
}

/// Replays `trace`; tells `progress` how many requests were done, now and then.
pub fn replay(trace: &Trace, setup: &Setup, mut progress: impl FnMut(u64)) -> Result<Outcome> {
    let seed = HashSeed::new(setup.seed);
    let mut shards = shards(setup, &seed);
    // Values are never looked at, so all of them may share their bytes.
    let by_bytes = matches!(setup.capacity, Capacity::Bytes(_));
    let sizes = trace.sizes.as_deref();
    let largest = sizes.unwrap_or_default().iter().copied().max().unwrap_or(0);
    let blank = vec![0; if by_bytes { largest as usize } else { 0 }];

    let mut outcome = Outcome::default();
    for (index, &id) in trace.requests.iter().enumerate() {
        let seconds = trace.times.as_ref().map_or(0, |times| times[index]);
        let now = Now(START_MS + u64::from(seconds) * 1000);
        if index % MAINTAIN_EVERY == 0 {
            for shard in &mut shards {
                shard.maintain(now);
            }
            progress(index as u64);
        }
        let size = sizes.map_or(0, |sizes| sizes[id as usize]);
        outcome.requests += 1;
        outcome.bytes += u64::from(size);

        let key = id.to_le_bytes();
        let hash = KeyHash::of(&key, &seed);
        let shard = &mut shards[hash.core(setup.shards) as usize];
        if shard.get(&key, hash, now).is_some() {
            continue;
        }
        outcome.misses += 1;
        outcome.bytes_missed += u64::from(size);
        let value = if by_bytes { &blank[..size as usize] } else { VALUE };
        outcome.refused += u64::from(shard.write(fill(&key, hash, value), now).is_err());
    }
    progress(trace.requests.len() as u64);
    Ok(outcome)
}

/// Parts as equal as can be: the first ones get what is left over.
fn part(whole: u64, parts: u32, index: u32) -> u64 {
    whole / u64::from(parts) + u64::from(u64::from(index) < whole % u64::from(parts))
}

fn shards(setup: &Setup, seed: &HashSeed) -> Vec<Shard> {
    let shard = |index| {
        let (items_max, bytes) = match setup.capacity {
            Capacity::Objects(objects) => {
                let items = part(objects, setup.shards, index).max(1);
                (Some(items), SHARD_BYTES_AMPLE + items * ITEM_BYTES_AMPLE)
            }
            Capacity::Bytes(bytes) => (None, part(bytes, setup.shards, index)),
        };
        let config = ShardConfig {
            value_bytes_max: VALUE_BYTES_MAX,
            items_max,
            eviction: setup.eviction,
            versions: false,
            tag_generations_max: 16,
            ..ShardConfig::new(seed.clone(), bytes as usize)
        };
        Shard::new(config, Arena::heap(bytes as usize))
    };
    (0..setup.shards).map(shard).collect()
}

fn fill<'a>(key: &'a [u8], hash: KeyHash, value: &'a [u8]) -> Write<'a> {
    Write::set(key, hash, Value::Bytes(value))
}

/// A capacity as the user writes it: `10%` of the trace's objects (or bytes),
/// `5000` objects, `64m` bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CapacityText {
    /// A part of the trace, 0 to 1.
    Fraction(f64),
    /// Objects or bytes.
    Count(u64),
}

impl CapacityText {
    /// Reads it.
    pub fn parse(text: &str) -> Result<CapacityText, String> {
        let wrong = || format!("'{text}' is neither a part like 10% nor a number like 5000 or 64m");
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            let possible = percent > 0.0 && percent <= 100.0;
            return if possible {
                Ok(CapacityText::Fraction(percent / 100.0))
            } else {
                Err(format!("'{text}' is not more than 0% and at most 100%"))
            };
        }
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let count = count.checked_mul(1 << shift).filter(|&count| count > 0).ok_or_else(wrong)?;
        Ok(CapacityText::Count(count))
    }

    /// What it means for `trace`.
    pub fn of(self, trace: &Trace, by_bytes: bool) -> Result<Capacity> {
        let whole = if by_bytes {
            trace.sizes.as_ref().with_context(|| {
                format!("{} has no sizes, so it cannot be replayed with --bytes", trace.name)
            })?;
            trace.bytes()
        } else {
            u64::from(trace.objects)
        };
        let count = match self {
            CapacityText::Fraction(fraction) => ((fraction * whole as f64).round() as u64).max(1),
            CapacityText::Count(count) => count,
        };
        Ok(if by_bytes { Capacity::Bytes(count) } else { Capacity::Objects(count) })
    }

    /// The part of the trace, if it was given as one.
    pub fn fraction(self) -> Option<f64> {
        match self {
            CapacityText::Fraction(fraction) => Some(fraction),
            CapacityText::Count(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities() {
        assert_eq!(CapacityText::parse("0.1%"), Ok(CapacityText::Fraction(0.001)));
        assert_eq!(CapacityText::parse("5000"), Ok(CapacityText::Count(5000)));
        assert_eq!(CapacityText::parse("64m"), Ok(CapacityText::Count(64 << 20)));
        for wrong in ["", "0", "-1", "101%", "0%", "nan%", "x", "99999999999g"] {
            assert!(CapacityText::parse(wrong).is_err(), "{wrong}");
        }
        let trace = Trace { objects: 76_349, ..Trace::default() };
        let text = CapacityText::parse("0.1%").unwrap();
        assert_eq!(text.of(&trace, false).unwrap(), Capacity::Objects(76));
        assert!(text.of(&trace, true).unwrap_err().to_string().contains("no sizes"));
    }

    #[test]
    fn parts_add_up() {
        assert_eq!((0..7).map(|index| part(100, 7, index)).sum::<u64>(), 100);
        assert_eq!(part(100, 7, 0) - part(100, 7, 6), 1);
    }

    /// Objects asked for in a loop, a little longer than the cache.
    fn loop_of(objects: u32, requests: u32) -> Trace {
        let requests = (0..requests).map(|request| request % objects).collect();
        Trace { requests, objects, ..Trace::default() }
    }

    fn misses(trace: &Trace, eviction: Eviction, capacity: Capacity, shards: u32) -> Outcome {
        replay(trace, &Setup { eviction, capacity, shards, seed: 1 }, |_| {}).unwrap()
    }

    #[test]
    fn a_cache_that_holds_everything_misses_each_object_once() {
        let trace = loop_of(1000, 5000);
        for shards in [1, 4] {
            // Four shards get unequal parts of the keys: some room for that.
            let outcome = misses(&trace, Eviction::ClockPro, Capacity::Objects(1200), shards);
            assert_eq!((outcome.requests, outcome.misses, outcome.refused), (5000, 1000, 0));
        }
    }

    #[test]
    fn lru_never_hits_in_a_loop_and_clock_pro_does() {
        let trace = loop_of(1200, 60_000);
        assert_eq!(misses(&trace, Eviction::Lru, Capacity::Objects(1000), 1).misses, 60_000);
        let clock_pro = misses(&trace, Eviction::ClockPro, Capacity::Objects(1000), 1);
        assert!(clock_pro.misses < 30_000, "{} misses", clock_pro.misses);
    }

    #[test]
    fn bytes_are_counted() {
        let mut trace = loop_of(100, 1000);
        trace.sizes = Some(vec![10_000; 100]);
        let outcome = misses(&trace, Eviction::ClockPro, Capacity::Bytes(4 << 20), 1);
        assert_eq!((outcome.misses, outcome.bytes_missed), (100, 1_000_000));
        assert_eq!(outcome.bytes, 10_000_000);
        assert_eq!(outcome.byte_miss_ratio(), 0.1);
    }
}
