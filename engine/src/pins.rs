//! Values held in place while they are being sent.
//!
//! Pins are rare (only values too large for a buffer are pinned), so they live
//! in a small table beside the items, and an empty table costs one comparison.

use crate::ChunkRef;
use hashbrown::HashTable;

#[derive(Clone, Copy, Debug)]
struct Pinned {
    head: ChunkRef,
    count: u32,
    /// The item is gone; its chunks are freed with the last pin.
    orphan: bool,
}

/// The pinned items of a shard.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    table: HashTable<Pinned>,
}

fn hash(head: ChunkRef) -> u64 {
    u64::from(head.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Pins {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the item is pinned.
    #[inline]
    pub fn holds(&self, head: ChunkRef) -> bool {
        !self.table.is_empty()
            && self.table.find(hash(head), |pinned| pinned.head == head).is_some()
    }

    pub fn pin(&mut self, head: ChunkRef) {
        match self.table.find_mut(hash(head), |pinned| pinned.head == head) {
            Some(pinned) => pinned.count += 1,
            None => {
                let pinned = Pinned { head, count: 1, orphan: false };
                self.table.insert_unique(hash(head), pinned, |pinned| hash(pinned.head));
            }
        }
    }

    /// The item left the index; keep its chunks until the last pin goes.
    pub fn orphan(&mut self, head: ChunkRef) {
        if let Some(pinned) = self.table.find_mut(hash(head), |pinned| pinned.head == head) {
            pinned.orphan = true;
        }
    }

    /// True if this was the last pin of an item that is gone.
    pub fn unpin(&mut self, head: ChunkRef) -> bool {
        let Ok(mut entry) = self.table.find_entry(hash(head), |pinned| pinned.head == head) else {
            debug_assert!(false, "an unpin without its pin");
            return false;
        };
        let pinned = entry.get_mut();
        pinned.count -= 1;
        if pinned.count > 0 {
            return false;
        }
        entry.remove().0.orphan
    }
}
