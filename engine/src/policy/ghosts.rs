//! Ghosts: keys that were evicted not long ago.
//!
//! Two bytes each, of which nothing but a hint is asked: a wrong answer costs a
//! slightly worse victim. A ghost is a 12-bit fingerprint and a 4-bit age in a
//! bucket of eight, which the key's hash selects:
//!
//! ```text
//! bucket   | e0 | e1 | e2 | e3 | e4 | e5 | e6 | e7 |    16 bytes
//! entry    | age (4) | fingerprint (12, never 0) |      0: empty
//! ```
//!
//! The age is the tick at which it came, and ticks are counted in evictions, so
//! that a ghost is forgotten after as many evictions as the table is meant to
//! hold. (Measured on ten traces: 12 bits cost nothing against 16, 8 bits 0.4%.)
//!
//! There is one table for all classes of a shard. It takes no memory before the
//! first eviction. When the number of live items has changed by a quarter, a
//! new table takes over while the former one only answers, until its last ghost
//! is too old to matter. Segments are taken when first written and given back a
//! few at a time, so that no call ever clears or frees a whole table.

use crate::KeyHash;
use alloc::{boxed::Box, vec::Vec};

const WAYS: usize = 8;
const SEGMENT_BUCKETS: usize = 256;
/// Smallest table: a few buckets more cost nothing and even out tiny shards.
const BUCKETS_MIN: usize = 4;
/// Buckets that each insertion clears of forgotten ghosts, in turn: enough to
/// pass all of them within two ticks.
const SWEEP_BUCKETS: usize = 2;
/// Segments freed by one call.
const SEGMENTS_FREED_MAX: usize = 2;

const TICKS: u8 = 16;
/// A ghost older than this many ticks is forgotten. The two ticks above it are
/// for the sweep, which must clear it before it looks new again.
const AGE_MAX: u8 = 13;
/// A ghost lives for 13 to 14 ticks, so in twentieths of a tick, 270.
const LIFE_TICKS_X20: u64 = 270;

const FINGERPRINT: u16 = 0x0fff;
const AGE_SHIFT: u32 = 12;

type Segment = Box<[[u16; WAYS]; SEGMENT_BUCKETS]>;

#[derive(Debug, Default)]
struct Table {
    segments: Vec<Option<Segment>>,
    buckets: usize,
}

/// Where a hash is looked for, whatever the size of the table.
#[derive(Clone, Copy)]
struct Address {
    spread: u32,
    fingerprint: u16,
}

impl Address {
    /// The shard's keys share some bits of their hash (core, partition), hence
    /// the multiplication.
    #[inline]
    fn of(hash: KeyHash) -> Address {
        let mixed = hash.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let spread = (mixed >> 32) as u32;
        let fingerprint = ((mixed ^ (mixed >> 29)) & u64::from(FINGERPRINT)) as u16;
        Address { spread, fingerprint: fingerprint.max(1) }
    }
}

impl Table {
    fn new(buckets: usize) -> Table {
        let mut segments = Vec::new();
        segments.resize_with(buckets.div_ceil(SEGMENT_BUCKETS), || None);
        Table { segments, buckets }
    }

    fn index(&self, address: Address) -> (usize, usize) {
        let bucket = (u64::from(address.spread) * self.buckets as u64) >> 32;
        (bucket as usize / SEGMENT_BUCKETS, bucket as usize % SEGMENT_BUCKETS)
    }

    /// How many segments it took for that.
    fn insert(&mut self, address: Address, tick: u8) -> usize {
        let (segment, bucket) = self.index(address);
        let new = self.segments[segment].is_none();
        let segment =
            self.segments[segment].get_or_insert_with(|| Box::new([[0; WAYS]; SEGMENT_BUCKETS]));
        let bucket = &mut segment[bucket];
        // The entry to overwrite: an empty or forgotten one, else the oldest.
        let age = |entry: u16| if entry == 0 { TICKS } else { age_of(entry, tick) };
        let (oldest, _) = bucket
            .iter()
            .enumerate()
            .map(|(way, &entry)| (way, age(entry)))
            .fold((0, 0), |best, next| if next.1 > best.1 { next } else { best });
        bucket[oldest] = u16::from(tick) << AGE_SHIFT | address.fingerprint;
        usize::from(new)
    }

    /// Clears the forgotten ghosts of one bucket.
    fn sweep(&mut self, bucket: usize, tick: u8) {
        if let Some(segment) = &mut self.segments[bucket / SEGMENT_BUCKETS] {
            for entry in &mut segment[bucket % SEGMENT_BUCKETS] {
                *entry = if age_of(*entry, tick) <= AGE_MAX { *entry } else { 0 };
            }
        }
    }

    fn take(&mut self, address: Address, tick: u8) -> bool {
        if self.buckets == 0 {
            return false;
        }
        let (segment, bucket) = self.index(address);
        let Some(segment) = &mut self.segments[segment] else { return false };
        let same = |entry: u16| {
            entry & FINGERPRINT == address.fingerprint && age_of(entry, tick) <= AGE_MAX
        };
        match segment[bucket].iter_mut().find(|entry| same(**entry)) {
            Some(entry) => {
                *entry = 0;
                true
            }
            None => false,
        }
    }
}

#[inline]
fn age_of(entry: u16, tick: u8) -> u8 {
    tick.wrapping_sub((entry >> AGE_SHIFT) as u8) % TICKS
}

/// What a policy wants of its ghosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct GhostRules {
    /// After how many evictions, per 100 live items, a ghost is forgotten.
    pub life_percent: u64,
    /// Entries in the table per 100 live items. With as many as are alive at
    /// once, one in eight or so is overwritten early in a crowded bucket.
    pub slots_percent: u64,
    /// A ghost that comes back leaves its place to the others, as in a queue of
    /// fixed length: they are remembered one eviction longer.
    pub returns_make_room: bool,
}

impl GhostRules {
    /// Two bytes an item, forgotten after as many evictions.
    pub const PLAIN: GhostRules =
        GhostRules { life_percent: 100, slots_percent: 100, returns_make_room: false };
}

/// The ghosts of one shard.
#[derive(Debug)]
pub(super) struct Ghosts {
    rules: GhostRules,
    table: Table,
    /// The table before, while it may still know something.
    former: Table,
    former_ticks: u8,
    /// Segments to give back.
    garbage: Vec<Option<Segment>>,
    /// Segments in use, in all three.
    segments: usize,
    /// The bucket to sweep next.
    sweep: usize,
    tick: u8,
    tick_inserts_left: u64,
}

impl Ghosts {
    /// No ghosts yet.
    pub fn new(rules: GhostRules) -> Ghosts {
        Ghosts {
            rules,
            table: Table::default(),
            former: Table::default(),
            former_ticks: 0,
            garbage: Vec::new(),
            segments: 0,
            sweep: 0,
            tick: 0,
            tick_inserts_left: 0,
        }
    }

    /// Remembers an evicted key; `items` are alive.
    pub fn insert(&mut self, hash: KeyHash, items: u64) {
        self.resize(items * self.rules.slots_percent / 100);
        if self.tick_inserts_left == 0 {
            self.tick = (self.tick + 1) % TICKS;
            self.tick_inserts_left = (items * self.rules.life_percent / 5 / LIFE_TICKS_X20).max(1);
            self.former_ticks = self.former_ticks.saturating_sub(1);
            if self.former_ticks == 0 {
                self.garbage.append(&mut self.former.segments);
                self.former = Table::default();
            }
        }
        self.tick_inserts_left -= 1;
        for _ in 0..SWEEP_BUCKETS {
            self.sweep = if self.sweep + 1 < self.table.buckets { self.sweep + 1 } else { 0 };
            self.table.sweep(self.sweep, self.tick);
        }
        self.segments += self.table.insert(Address::of(hash), self.tick);
    }

    /// Whether the key was evicted not long ago; forgets it, as it is back.
    pub fn take(&mut self, hash: KeyHash) -> bool {
        let address = Address::of(hash);
        let found = self.table.take(address, self.tick) || self.former.take(address, self.tick);
        self.tick_inserts_left += u64::from(found && self.rules.returns_make_room);
        found
    }

    /// Heap bytes in use.
    pub fn bytes(&self) -> usize {
        let directories = [&self.table.segments, &self.former.segments, &self.garbage];
        let entries = directories.iter().map(|directory| directory.capacity()).sum::<usize>();
        self.segments * size_of::<[[u16; WAYS]; SEGMENT_BUCKETS]>()
            + entries * size_of::<Option<Segment>>()
    }

    fn resize(&mut self, slots: u64) {
        let kept = self.garbage.len().saturating_sub(SEGMENTS_FREED_MAX);
        self.segments -= self.garbage.drain(kept..).flatten().count();

        let buckets = (slots as usize).div_ceil(WAYS).max(BUCKETS_MIN);
        let fits = buckets <= self.table.buckets + self.table.buckets / 4
            && buckets >= self.table.buckets / 2;
        // One change at a time, unless the table has become hopelessly small.
        let may = self.former.buckets == 0 || buckets > self.table.buckets * 4;
        if fits || !may {
            return;
        }
        self.garbage.append(&mut self.former.segments);
        self.former = core::mem::replace(&mut self.table, Table::new(buckets));
        self.former_ticks = if self.former.buckets == 0 { 0 } else { AGE_MAX + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashSeed;

    fn hash(key: u64) -> KeyHash {
        KeyHash::of(&key.to_le_bytes(), &HashSeed::new(1))
    }

    /// How many of `keys` are remembered, in percent; they are forgotten by that.
    fn known_percent(ghosts: &mut Ghosts, keys: core::ops::Range<u64>) -> u64 {
        let count = keys.end - keys.start;
        keys.filter(|&key| ghosts.take(hash(key))).count() as u64 * 100 / count
    }

    #[test]
    fn remembers_as_many_as_are_alive() {
        let items = 10_000;
        let mut ghosts = Ghosts::new(GhostRules::PLAIN);
        (0..100_000).for_each(|key| ghosts.insert(hash(key), items));
        assert!(known_percent(&mut ghosts, 95_000..100_000) >= 90);
        assert!(known_percent(&mut ghosts, 91_000..95_000) >= 70);
        // Forgotten, but for chance likenesses: eight entries of 12 bits.
        assert!(known_percent(&mut ghosts, 0..88_000) < 1);
        // Whoever came back is no ghost any more.
        assert!(known_percent(&mut ghosts, 95_000..100_000) < 1);
    }

    #[test]
    fn grows_and_shrinks_without_forgetting() {
        let mut ghosts = Ghosts::new(GhostRules::PLAIN);
        (0..10_000).for_each(|key| ghosts.insert(hash(key), 10_000));
        let small = ghosts.bytes();
        (10_000..15_000).for_each(|key| ghosts.insert(hash(key), 20_000));
        // Both tables answer, and the later ghosts are in the larger one.
        assert!(known_percent(&mut ghosts, 8_000..15_000) >= 90);
        (15_000..80_000).for_each(|key| ghosts.insert(hash(key), 20_000));
        assert!((2 * small - 8192..2 * small + 8192).contains(&ghosts.bytes()));
        (80_000..120_000).for_each(|key| ghosts.insert(hash(key), 1_000));
        assert!(ghosts.bytes() < small / 4, "{} bytes", ghosts.bytes());
        assert!(known_percent(&mut ghosts, 119_500..120_000) >= 90);
    }

    #[test]
    fn works_for_a_handful_of_items() {
        let mut ghosts = Ghosts::new(GhostRules { slots_percent: 1, ..GhostRules::PLAIN });
        for key in 0..1000 {
            ghosts.insert(hash(key), 1);
            assert!(ghosts.take(hash(key)));
        }
        ghosts.insert(hash(1), 0);
    }
}
