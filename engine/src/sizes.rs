//! How many items there are of which size, for `stats sizes`.
//!
//! Kept only while it is asked for. When that begins, a walk in slices counts
//! the items that are there already. An item is in the histogram if and only if
//! its chunk lies before the walk, so whatever is written, moved or freed
//! meanwhile is counted exactly once.

use crate::ChunkRef;
use alloc::vec::Vec;
use hashbrown::HashTable;

/// Sizes are rounded up to a multiple of this, as memcached rounds them.
const STEP_BYTES: usize = 32;

/// Items by size. A table of those sizes that occur: they are few, wherever
/// they lie.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    counts: HashTable<(u32, u32)>,
    /// The first page and slot that is not counted yet; `None`: all are.
    walk: Option<(u32, u32)>,
}

fn hash(step: u32) -> u64 {
    u64::from(step).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Sizes {
    /// Nothing is counted yet.
    pub fn new() -> Sizes {
        Sizes { counts: HashTable::new(), walk: Some((0, 0)) }
    }

    /// Where the walk goes on, if it has not ended.
    pub fn walk(&self) -> Option<(u32, u32)> {
        self.walk
    }

    /// The walk has come so far, or to its end.
    pub fn walked(&mut self, to: Option<(u32, u32)>) {
        self.walk = to;
    }

    fn holds(&self, at: ChunkRef) -> bool {
        self.walk.is_none_or(|walk| (at.page(), at.slot()) < walk)
    }

    /// An item of `bytes` lies in `at` now.
    pub fn add(&mut self, at: ChunkRef, bytes: usize) {
        if self.holds(at) {
            self.count(bytes);
        }
    }

    /// Counts an item that the walk has come to.
    pub fn count(&mut self, bytes: usize) {
        let step = bytes.div_ceil(STEP_BYTES) as u32;
        match self.counts.find_mut(hash(step), |entry| entry.0 == step) {
            Some(entry) => entry.1 += 1,
            None => {
                self.counts.insert_unique(hash(step), (step, 1), |entry| hash(entry.0));
            }
        }
    }

    /// The item of `bytes` in `at` is about to go.
    pub fn remove(&mut self, at: ChunkRef, bytes: usize) {
        if !self.holds(at) {
            return;
        }
        let step = bytes.div_ceil(STEP_BYTES) as u32;
        let Ok(mut entry) = self.counts.find_entry(hash(step), |entry| entry.0 == step) else {
            debug_assert!(false, "an item goes that was not counted");
            return;
        };
        entry.get_mut().1 -= 1;
        if entry.get().1 == 0 {
            entry.remove();
        }
    }

    /// Rounded sizes and their counts, ascending.
    pub fn list(&self) -> Vec<(u64, u64)> {
        let mut list: Vec<(u64, u64)> = self
            .counts
            .iter()
            .map(|(step, count)| (u64::from(*step) * STEP_BYTES as u64, u64::from(*count)))
            .collect();
        list.sort_unstable();
        list
    }

    /// Bytes of heap.
    pub fn heap_bytes(&self) -> usize {
        self.counts.allocation_size()
    }
}
