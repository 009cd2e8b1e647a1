//! The hot keys of a core: which few keys take most of its requests.
//!
//! One request in sixteen (on average, with uneven gaps, so that no client's
//! rhythm hides a key) is looked at. The 32 hottest keys have exact counters.
//! Every other key votes in one of 1,024 buckets, where the holder of the
//! majority survives (Boyer and Moore; as a sketch: MV-Sketch, INFOCOM 2019);
//! a candidate with more votes than the least of the 32 takes its place.
//!
//! ```text
//! sampled key -- among the 32? -- yes: its counter + 16
//!                  | no
//!                bucket: same candidate?  yes: votes + 16, perhaps promoted
//!                                         no:  votes - 16, at 0 replaced
//! ```
//!
//! Counters speak of the last eight seconds or so: every second they lose an
//! eighth. A key with a thousandth of the requests or more is found. It all
//! takes 17 KiB a core and about a nanosecond a request.

use crate::{KEY_BYTES_MAX, KeyHash, Now};
use alloc::{boxed::Box, vec::Vec};

/// Keys that are counted apart.
pub const HOT_KEYS_MAX: usize = 32;

const BUCKETS: usize = 1024;
/// Mean gap between two samples, in requests; so much does a sample count.
const SAMPLE_REQUESTS: u32 = 16;
/// Votes below which nobody is promoted: two samples in one bucket.
const PROMOTE_VOTES: u32 = 2 * SAMPLE_REQUESTS;
/// Every second the counters lose one part in `1 << DECAY_SHIFT`.
const DECAY_SHIFT: u32 = 3;
/// After so many seconds without a look, nothing is left of a counter.
const DECAYS_MAX: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    fingerprint: u32,
    votes: u32,
}

#[derive(Clone, Copy, Debug)]
struct StoredKey {
    bytes: [u8; KEY_BYTES_MAX],
    len: u8,
}

/// A key and how hot it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HotKey<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its hash.
    pub hash: KeyHash,
    /// Its part of the core's requests, 0 to 1.
    pub share: f64,
    /// Its requests a second.
    pub per_second: f64,
}

/// The hot keys of one core.
#[derive(Debug)]
pub struct HotKeys {
    /// Requests until the next sample.
    gap: u32,
    random: u64,
    /// The sampled keys' hashes, apart from the rest so that a search reads
    /// four cache lines. Hash 0 with counter 0: free.
    hashes: [u64; HOT_KEYS_MAX],
    counters: [u32; HOT_KEYS_MAX],
    keys: Box<[StoredKey; HOT_KEYS_MAX]>,
    candidates: Box<[Candidate; BUCKETS]>,
    /// Requests of all keys, decayed like the counters.
    total: u64,
    /// Seconds for which the counters speak, decayed like them, in 1/1000.
    weight_ms: u64,
    last_decay: Now,
}

impl HotKeys {
    /// Knows no key yet. `seed` decides which requests are looked at.
    pub fn new(seed: u64) -> HotKeys {
        HotKeys {
            gap: SAMPLE_REQUESTS,
            random: seed | 1,
            hashes: [0; HOT_KEYS_MAX],
            counters: [0; HOT_KEYS_MAX],
            keys: Box::new([StoredKey { bytes: [0; KEY_BYTES_MAX], len: 0 }; HOT_KEYS_MAX]),
            candidates: Box::new([Candidate { fingerprint: 0, votes: 0 }; BUCKETS]),
            total: 0,
            weight_ms: 0,
            last_decay: Now(0),
        }
    }

    /// A request for `key`. Mostly a decrement and a branch.
    #[inline]
    pub fn record(&mut self, key: &[u8], hash: KeyHash) {
        self.gap -= 1;
        if self.gap == 0 {
            self.sample(key, hash);
        }
    }

    /// Lets the past fade; to be called about once a second, more often does
    /// no harm. Bounded: some microseconds when a second has passed.
    pub fn decay(&mut self, now: Now) {
        let passed_ms = now.0.saturating_sub(self.last_decay.0);
        if self.last_decay == Now(0) {
            self.last_decay = now;
        } else if passed_ms >= 1000 {
            self.last_decay = now;
            let steps = passed_ms / 1000;
            if steps > DECAYS_MAX {
                self.forget();
            }
            for _ in 0..steps.min(DECAYS_MAX) {
                self.decay_once(passed_ms / steps);
            }
        }
    }

    /// The hottest keys, hottest first.
    pub fn top(&self, now: Now) -> Vec<HotKey<'_>> {
        // The second that has not been decayed yet counts as well.
        let pending_ms =
            if self.last_decay == Now(0) { 0 } else { now.0.saturating_sub(self.last_decay.0) };
        let seconds = (self.weight_ms + pending_ms).max(1) as f64 / 1000.0;
        let total = self.total.max(1) as f64;
        let known = |slot: usize| HotKey {
            key: &self.keys[slot].bytes[..usize::from(self.keys[slot].len)],
            hash: KeyHash(self.hashes[slot]),
            share: f64::from(self.counters[slot]) / total,
            per_second: f64::from(self.counters[slot]) / seconds,
        };
        let mut top: Vec<HotKey<'_>> =
            (0..HOT_KEYS_MAX).filter(|&slot| self.counters[slot] > 0).map(known).collect();
        top.sort_unstable_by(|a, b| b.share.total_cmp(&a.share));
        top
    }

    /// Heap bytes in use.
    pub const fn bytes(&self) -> usize {
        size_of::<[StoredKey; HOT_KEYS_MAX]>() + size_of::<[Candidate; BUCKETS]>()
    }

    #[cold]
    #[inline(never)]
    fn sample(&mut self, key: &[u8], hash: KeyHash) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // 1 to 31, 16 on average.
        self.gap = 1 + (((self.random >> 32) * u64::from(2 * SAMPLE_REQUESTS - 1)) >> 32) as u32;
        self.total += u64::from(SAMPLE_REQUESTS);

        if let Some(slot) = self.slot_of(hash) {
            self.counters[slot] = self.counters[slot].saturating_add(SAMPLE_REQUESTS);
            return;
        }
        // Bits that differ within a core: above the ones that chose it.
        let mixed = hash.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let candidate = &mut self.candidates[(mixed >> 54) as usize];
        let fingerprint = (mixed >> 16) as u32;
        if candidate.fingerprint == fingerprint {
            candidate.votes = candidate.votes.saturating_add(SAMPLE_REQUESTS);
        } else if candidate.votes > SAMPLE_REQUESTS {
            candidate.votes -= SAMPLE_REQUESTS;
        } else {
            *candidate = Candidate { fingerprint, votes: SAMPLE_REQUESTS };
        }
        let Candidate { fingerprint: winner, votes } = *candidate;
        if winner == fingerprint && votes >= PROMOTE_VOTES {
            self.promote(key, hash, votes);
        }
    }

    fn slot_of(&self, hash: KeyHash) -> Option<usize> {
        self.hashes.iter().position(|&known| known == hash.0)
    }

    fn promote(&mut self, key: &[u8], hash: KeyHash, votes: u32) {
        let (least, &counter) = self
            .counters
            .iter()
            .enumerate()
            .min_by_key(|&(_, counter)| counter)
            .expect("there are 32");
        if votes <= counter || key.len() > KEY_BYTES_MAX {
            return;
        }
        self.hashes[least] = hash.0;
        self.counters[least] = votes;
        self.keys[least].bytes[..key.len()].copy_from_slice(key);
        self.keys[least].len = key.len() as u8;
    }

    fn forget(&mut self) {
        self.hashes.fill(0);
        self.counters.fill(0);
        self.candidates.fill(Candidate { fingerprint: 0, votes: 0 });
        self.total = 0;
    }

    /// Ends a second that took `lasted_ms`.
    fn decay_once(&mut self, lasted_ms: u64) {
        let decayed = |counter: u32| counter - counter.div_ceil(1 << DECAY_SHIFT);
        for (hash, counter) in self.hashes.iter_mut().zip(&mut self.counters) {
            *counter = decayed(*counter);
            if *counter == 0 {
                *hash = 0;
            }
        }
        for candidate in self.candidates.iter_mut() {
            candidate.votes = decayed(candidate.votes);
        }
        self.total -= self.total.div_ceil(1 << DECAY_SHIFT);
        self.weight_ms += lasted_ms;
        self.weight_ms -= self.weight_ms.div_ceil(1 << DECAY_SHIFT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashSeed;
    use std::{format, string::String, vec::Vec};

    fn hash(key: &str) -> KeyHash {
        KeyHash::of(key.as_bytes(), &HashSeed::new(1))
    }

    /// Feeds `seconds` of 100,000 requests each: `hot` takes `percent` of
    /// them, the others go to a million keys.
    fn feed(sketch: &mut HotKeys, hot: &str, percent: u32, seconds: core::ops::Range<u64>) {
        let mut random = 88172645463325252u64;
        for second in seconds {
            sketch.decay(Now(second * 1000));
            for request in 0..100_000u32 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                if request % 100 < percent {
                    sketch.record(hot.as_bytes(), hash(hot));
                } else {
                    let key = format!("key{}", random % 1_000_000);
                    sketch.record(key.as_bytes(), hash(&key));
                }
            }
        }
    }

    #[test]
    fn finds_a_hot_key_and_its_rate() {
        let mut sketch = HotKeys::new(42);
        feed(&mut sketch, "front page", 2, 1..6);
        let top = sketch.top(Now(6000));
        assert_eq!(top[0].key, b"front page");
        assert_eq!(top[0].hash, hash("front page"));
        assert!((0.016..0.024).contains(&top[0].share), "share {}", top[0].share);
        assert!((1600.0..2400.0).contains(&top[0].per_second), "{} a second", top[0].per_second);
        assert!(top[1].share < 0.002);
    }

    #[test]
    fn forgets_what_has_become_cold() {
        let mut sketch = HotKeys::new(42);
        feed(&mut sketch, "yesterday", 30, 1..4);
        feed(&mut sketch, "today", 30, 4..14);
        let keys: Vec<&[u8]> = sketch.top(Now(14_000)).iter().map(|hot| hot.key).collect();
        assert_eq!(keys[0], b"today");
        feed(&mut sketch, "today", 30, 14..100);
        assert!(sketch.top(Now(100_000)).iter().all(|hot| hot.key != b"yesterday"));
        sketch.decay(Now(10_000_000));
        assert!(sketch.top(Now(10_000_000)).is_empty());
    }

    #[test]
    fn ranks_many_hot_keys() {
        let mut sketch = HotKeys::new(42);
        let keys: Vec<String> = (0..20).map(|n| format!("hot{n}")).collect();
        let mut rank = 0u64;
        for request in 0..1_000_000u64 {
            rank = rank.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Key n is asked for with probability 2^-(n+1), at most 1/1024.
            let n = (rank >> 32).leading_zeros().saturating_sub(32).min(9) as usize;
            if request % 2 == 0 {
                sketch.record(keys[n].as_bytes(), hash(&keys[n]));
            } else {
                let other = format!("other{request}");
                sketch.record(other.as_bytes(), hash(&other));
            }
        }
        let top = sketch.top(Now(0));
        for (n, hot) in top.iter().take(5).enumerate() {
            assert_eq!(hot.key, keys[n].as_bytes());
        }
    }

    #[test]
    fn a_regular_rhythm_hides_nothing() {
        let mut sketch = HotKeys::new(42);
        let keys: Vec<String> = (0..16).map(|n| format!("key{n}")).collect();
        for request in 0..160_000 {
            let key = &keys[request % 16];
            sketch.record(key.as_bytes(), hash(key));
        }
        let top = sketch.top(Now(0));
        assert_eq!(top.len(), 16);
        assert!(top.iter().all(|hot| (0.05..0.08).contains(&hot.share)));
    }
}
