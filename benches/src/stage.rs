//! A subject with its items on it, and the operations, a batch at a time.
//!
//! A batch is *prepared* (its keys are drawn at random and written one after
//! the other), *run*, which is all that is measured, and *settled*. Sets of new
//! keys come after deletes of as many others, deletes are followed by sets of
//! as many new ones; so the number of items stands still, and chunks are freed
//! and taken all over memory.

use std::hint::black_box;

use crate::subject::{Out, Subject};
use crate::{KEY_BYTES, VALUE_BYTES};

/// Most keys of a batch: enough that what preparing has freed does not wait in
/// the nearest caches (64 Ki items are 10 MB), while the keys do.
pub const BATCH_MAX: usize = 1 << 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A get that finds its item.
    GetHit,
    /// A get of a key that was never stored.
    GetMiss,
    /// A set of a key that is not there; memory is free.
    SetNew,
    /// A set of a key that is there.
    SetOver,
    /// A set of a new key when memory is full.
    SetEvicting,
    /// A delete that finds its item.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 6] = [
        Operation::GetHit,
        Operation::GetMiss,
        Operation::SetNew,
        Operation::SetOver,
        Operation::SetEvicting,
        Operation::Delete,
    ];

    /// Its name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::GetHit => "get-hit",
            Operation::GetMiss => "get-miss",
            Operation::SetNew => "set-new",
            Operation::SetOver => "set-over",
            Operation::SetEvicting => "set-evicting",
            Operation::Delete => "delete",
        }
    }
}

/// A key's bytes.
pub type Key = [u8; KEY_BYTES];

/// The key with this number.
pub fn key(mut number: u64) -> Key {
    let mut key = *b"key:00000000000000000000000000";
    let mut at = KEY_BYTES;
    while number > 0 {
        at -= 1;
        key[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// Numbers of keys that are never stored begin here.
const ABSENT: u64 = 1 << 40;

/// A subject and the keys that are in it.
pub struct Stage<S> {
    subject: S,
    /// Numbers of the keys that are stored; unless it evicts.
    live: Vec<u32>,
    /// Number of the next new key.
    next: u32,
    random: u64,
    batch: Vec<Key>,
    value: [u8; VALUE_BYTES],
}

impl<S: Subject> Stage<S> {
    /// Fills a subject with `items` items.
    pub fn filled(items: u64) -> Self {
        let mut stage = Self::new(S::roomy(items));
        stage.fill(items);
        stage.live = (0..items as u32).collect();
        stage
    }

    /// Fills a subject with room for `items` items with twice as many.
    pub fn full(items: u64) -> Self {
        let mut stage = Self::new(S::tight(items));
        stage.fill(2 * items);
        stage
    }

    fn new(subject: S) -> Self {
        Stage {
            subject,
            live: Vec::new(),
            next: 0,
            random: 0x5ea_3a11,
            batch: Vec::with_capacity(BATCH_MAX),
            value: [b'v'; VALUE_BYTES],
        }
    }

    fn fill(&mut self, items: u64) {
        for number in 0..items {
            self.subject.set(&key(number), &self.value);
        }
        self.next = items as u32;
    }

    /// SplitMix64, below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * u128::from(bound)) >> 64) as u64
    }

    /// Most keys that a batch may have: few beside the items.
    pub fn batch_max(&self) -> usize {
        if self.live.is_empty() { BATCH_MAX } else { BATCH_MAX.min(self.live.len() / 4) }
    }

    /// Draws the keys of the next batch, and makes room for new ones.
    pub fn prepare(&mut self, operation: Operation, count: usize) {
        self.batch.clear();
        let items = self.live.len() as u64;
        match operation {
            Operation::GetHit | Operation::SetOver => {
                for _ in 0..count {
                    let at = self.below(items) as usize;
                    let number = self.live[at];
                    self.batch.push(key(number.into()));
                }
            }
            Operation::GetMiss => {
                for _ in 0..count {
                    let number = ABSENT + self.below(ABSENT);
                    self.batch.push(key(number));
                }
            }
            Operation::SetNew => {
                self.draw(count);
                for at in 0..count {
                    let deleted = self.subject.delete(&key(self.live[at].into()));
                    assert!(deleted, "an item was evicted");
                    self.live[at] = self.next;
                    self.next += 1;
                    self.batch.push(key(self.live[at].into()));
                }
            }
            Operation::SetEvicting => {
                for _ in 0..count {
                    self.batch.push(key(self.next.into()));
                    self.next += 1;
                }
            }
            Operation::Delete => {
                self.draw(count);
                self.batch.extend(self.live[..count].iter().map(|number| key((*number).into())));
            }
        }
    }

    /// Brings `count` items, drawn at random, to the front.
    fn draw(&mut self, count: usize) {
        let items = self.live.len() as u64;
        for at in 0..count {
            let other = at + self.below(items - at as u64) as usize;
            self.live.swap(at, other);
        }
    }

    /// Does the operation with the first `count` keys of the batch.
    #[inline(never)]
    pub fn run(&mut self, operation: Operation, count: usize) {
        let (subject, keys) = (&mut self.subject, &self.batch[..count]);
        let mut out: Out = [0; VALUE_BYTES];
        let found = match operation {
            Operation::GetHit | Operation::GetMiss => {
                keys.iter().filter(|key| subject.get(&key[..], &mut out)).count()
            }
            Operation::SetNew | Operation::SetOver | Operation::SetEvicting => {
                let value = black_box(&self.value);
                keys.iter().for_each(|key| subject.set(key, value));
                return;
            }
            Operation::Delete => keys.iter().filter(|key| subject.delete(&key[..])).count(),
        };
        let expected = if operation == Operation::GetMiss { 0 } else { count };
        assert_eq!(found, expected, "{} {}", S::NAME, operation.name());
    }

    /// Brings back the number of items that was there before.
    pub fn settle(&mut self, operation: Operation, count: usize) {
        if operation == Operation::Delete {
            for at in 0..count {
                self.live[at] = self.next;
                self.subject.set(&key(self.next.into()), &self.value);
                self.next += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Engine, Moka, QuickCache, Table};

    fn stands_still<S: Subject>() {
        let mut stage = Stage::<S>::filled(2000);
        for _ in 0..10 {
            for operation in Operation::ALL {
                if operation != Operation::SetEvicting {
                    stage.prepare(operation, 500);
                    stage.run(operation, 500);
                    stage.settle(operation, 500);
                }
            }
        }
        let mut out = [0; VALUE_BYTES];
        for number in &stage.live {
            assert!(stage.subject.get(&key((*number).into()), &mut out), "{} {number}", S::NAME);
        }
        assert_eq!((stage.live.len(), out), (2000, [b'v'; VALUE_BYTES]));
    }

    #[test]
    fn items_stand_still_whatever_is_measured() {
        stands_still::<Engine>();
        stands_still::<Table>();
        stands_still::<QuickCache>();
        stands_still::<Moka>();
    }

    #[test]
    fn a_full_subject_evicts() {
        fn evicts<S: Subject>() -> usize {
            let mut stage = Stage::<S>::full(20_000);
            stage.prepare(Operation::SetEvicting, 10_000);
            stage.run(Operation::SetEvicting, 10_000);
            let mut out = [0; VALUE_BYTES];
            (0..50_000).filter(|number| stage.subject.get(&key(*number), &mut out)).count()
        }
        for left in [evicts::<Engine>(), evicts::<QuickCache>()] {
            assert!((15_000..=22_000).contains(&left), "{left}");
        }
    }
}
