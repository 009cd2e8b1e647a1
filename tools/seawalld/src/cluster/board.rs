//! Where the cores of a node show each other their hottest keys.
//!
//! A core that holds a key's hash shows the item in one of its slots; any other
//! core may answer reads of the key from a copy of that, as long as the slot still
//! says so:
//!
//! ```text
//! owner   show: item, until, then its sequence number      retract: number = 0
//!                                                           before the change is told
//! reader  number? -- the one of my copy: number still the same? answer
//!                 -- another: take the item over, then the same
//! ```
//!
//! Numbers are never used twice in a slot, and the owner takes one back before
//! anybody is told of what changed. So a reader that sees its copy's number reads,
//! at that moment, what the owner would answer. That one look is all the coherence
//! there is: nobody waits for a reader.

use cluster::time::Millis;
use engine::KeyHash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Keys that a core may show.
pub const SLOTS: usize = 8;
/// Whether a slot is in use is noted this often.
const USED_EVERY_MS: u64 = 64;

/// An item as it is shown.
#[derive(Debug)]
pub struct Shown {
    /// The slot's number while it is current.
    pub sequence: u64,
    /// The key's hash.
    pub hash: KeyHash,
    /// The item, as [`engine::snapshot::write_record`] writes it.
    pub record: Vec<u8>,
}

/// One key of one core.
#[derive(Debug, Default)]
pub struct Slot {
    /// Of the key; 0: the slot is free.
    hash: AtomicU64,
    /// Of what is shown; 0: nothing at this moment.
    sequence: AtomicU64,
    /// Reads may be answered until then.
    until: AtomicU64,
    /// When another core last answered from it, roughly.
    used: AtomicU64,
    item: Mutex<Option<Arc<Shown>>>,
}

impl Slot {
    /// The key.
    pub fn hash(&self) -> KeyHash {
        KeyHash(self.hash.load(Ordering::Relaxed))
    }

    /// What is current; 0: nothing.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::SeqCst)
    }

    /// Until when it may be answered.
    pub fn until(&self) -> Millis {
        Millis(self.until.load(Ordering::SeqCst))
    }

    /// The item with this number, unless that is over, or being changed right now.
    pub fn item(&self, sequence: u64) -> Option<Arc<Shown>> {
        let item = self.item.try_lock().ok()?.clone()?;
        (item.sequence == sequence).then_some(item)
    }

    /// Nobody may answer from it from here on.
    pub fn retract(&self) {
        // Sequentially consistent: it is out of this processor before any answer.
        self.sequence.store(0, Ordering::SeqCst);
    }

    /// What is current may be answered for longer.
    pub fn extend(&self, until: Millis) {
        self.until.store(until.0, Ordering::SeqCst);
    }

    /// Notes that a core answered from it.
    pub fn note_use(&self, now: Millis) {
        let rough = now.0 / USED_EVERY_MS * USED_EVERY_MS;
        if self.used.load(Ordering::Relaxed) != rough {
            self.used.store(rough, Ordering::Relaxed);
        }
    }

    /// When a core last answered from it, roughly.
    pub fn used(&self) -> Millis {
        Millis(self.used.load(Ordering::Relaxed))
    }
}

/// All slots of a node.
#[derive(Debug)]
pub struct Board {
    /// Grows when a slot gets another key.
    changes: AtomicU64,
    cores: Box<[[Slot; SLOTS]]>,
}

impl Board {
    /// Nothing is shown.
    pub fn new(cores: usize) -> Board {
        let cores = (0..cores).map(|_| Default::default()).collect();
        Board { changes: AtomicU64::new(0), cores }
    }

    /// Changes when a slot gets another key.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The slots of a core.
    pub fn slots(&self, core: u16) -> &[Slot; SLOTS] {
        &self.cores[usize::from(core)]
    }

    /// The core shows an item in that slot of its own, for so long. Its number must
    /// not have been used there before.
    pub fn show(&self, core: u16, slot: usize, item: Shown, until: Millis) {
        let own = &self.slots(core)[slot];
        own.retract();
        let (hash, sequence) = (item.hash.0, item.sequence);
        if let Ok(mut place) = own.item.lock() {
            *place = Some(Arc::new(item));
        }
        own.extend(until);
        if own.hash.swap(hash, Ordering::Relaxed) != hash {
            own.used.store(0, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Release);
        }
        own.sequence.store(sequence, Ordering::SeqCst);
    }

    /// The slot is free.
    pub fn free(&self, core: u16, slot: usize) {
        let own = &self.slots(core)[slot];
        own.retract();
        own.hash.store(0, Ordering::Relaxed);
        if let Ok(mut place) = own.item.lock() {
            *place = None;
        }
        self.changes.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(sequence: u64) -> Shown {
        Shown { sequence, hash: KeyHash(7), record: sequence.to_le_bytes().to_vec() }
    }

    #[test]
    fn what_is_retracted_is_seen_by_nobody() {
        let board = Board::new(2);
        board.show(1, 3, shown(5), Millis(100));
        let slot = &board.slots(1)[3];
        assert_eq!((slot.hash(), slot.sequence(), slot.until()), (KeyHash(7), 5, Millis(100)));
        assert!(slot.item(5).is_some() && slot.item(4).is_none());
        slot.retract();
        assert_eq!(slot.sequence(), 0);
        let changes = board.changes();
        board.show(1, 3, shown(6), Millis(100));
        assert_eq!((slot.sequence(), board.changes()), (6, changes), "it is the same key");
        board.free(1, 3);
        assert!(board.changes() > changes && slot.item(6).is_none());
    }

    /// A reader that finds its copy's number unchanged has read no older value than
    /// was told to anybody before.
    #[test]
    fn no_reader_is_behind_what_was_told() {
        let (board, told) = (Board::new(1), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut copy = None;
                    loop {
                        let before = told.load(Ordering::SeqCst);
                        if before == 20_000 {
                            return;
                        }
                        let slot = &board.slots(0)[0];
                        let sequence = slot.sequence();
                        if sequence == 0 {
                            continue;
                        }
                        if copy.as_ref().is_none_or(|copy: &Arc<Shown>| copy.sequence != sequence) {
                            copy = slot.item(sequence);
                        }
                        let Some(copy) = &copy else { continue };
                        if slot.sequence() == sequence && copy.sequence == sequence {
                            assert!(sequence > before, "{sequence} after {before} was told");
                        }
                    }
                });
            }
            for value in 1..=20_000 {
                board.show(0, 0, shown(value), Millis(u64::MAX));
                // The next write: first nobody shows the old value, then it is told.
                board.slots(0)[0].retract();
                told.store(value, Ordering::SeqCst);
            }
        });
    }
}
