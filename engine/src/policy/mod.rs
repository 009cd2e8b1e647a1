//! Which item leaves when memory is full.
//!
//! A policy never sees items, pages or keys. It sees [`Cells`]: seven bits in
//! an item's header, one bit a chunk in its page, two link words a chunk where
//! it asks for them, and a way to step to the next chunk of a size class. The
//! engine's pages implement it, and so does a plain vector in the tests.
//!
//! The engine tells the policy what happens to an item, from [`inserted`] to
//! [`removed`] or [`victim`]; between the two the policy counts the item as its
//! own. Every call is bounded: none walks a class, whatever its size.
//!
//! [`inserted`]: AnyPolicy::inserted
//! [`removed`]: AnyPolicy::removed
//! [`victim`]: AnyPolicy::victim

use crate::{ChunkRef, ClassId, Eviction, KeyHash};

/// Whether the item in a chunk may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellState {
    /// It can be read, and evicted.
    Live,
    /// It expired or was invalidated: free it first, and leave no ghost.
    Dead,
    /// It is pinned by an answer still being sent: pass over it.
    Busy,
}

/// What a policy sees of the slab.
///
/// `at` always names a chunk that holds an item known to the policy.
pub trait Cells {
    /// The policy's seven bits in the item's header (the eighth bit is zero).
    fn mark(&self, at: ChunkRef) -> u8;
    /// Sets the seven bits.
    fn set_mark(&mut self, at: ChunkRef, mark: u8);
    /// The chunk's bit in its page's hot bitmap.
    fn is_hot(&self, at: ChunkRef) -> bool;
    /// Sets that bit. A policy clears it before it lets an item go.
    fn set_hot(&mut self, at: ChunkRef, hot: bool);
    /// The chunk's two link words; only asked for if [`AnyPolicy::link_words`] is 2.
    fn links(&self, at: ChunkRef) -> [u32; 2];
    /// Sets the two link words.
    fn set_links(&mut self, at: ChunkRef, links: [u32; 2]);
    /// Whether the item may be evicted.
    fn state(&self, at: ChunkRef) -> CellState;
    /// The hash of the item's key; computed anew, so asked only on eviction.
    fn hash(&self, at: ChunkRef) -> KeyHash;
    /// The next item that is not hot, in the ring of the class's pages, after
    /// `after`; the last one looked at is `after` itself. From the first page
    /// of the class if `after` is [`ChunkRef::NONE`] or lies in a page that
    /// has left the class.
    fn next_cold(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef>;
    /// The next item that is hot; otherwise like [`Cells::next_cold`].
    fn next_hot(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef>;
}

/// The policy of a shard, chosen at its start.
#[derive(Debug)]
pub struct AnyPolicy {
    eviction: Eviction,
    hands: alloc::vec::Vec<ChunkRef>,
}

impl AnyPolicy {
    /// A policy for a slab of `classes` size classes.
    pub fn new(eviction: Eviction, classes: usize) -> AnyPolicy {
        AnyPolicy { eviction, hands: alloc::vec![ChunkRef::NONE; classes] }
    }

    /// How many 32-bit link words a chunk needs: 0 or 2.
    pub fn link_words(&self) -> usize {
        match self.eviction {
            Eviction::ClockPro | Eviction::None => 0,
            Eviction::Lru | Eviction::Lfu | Eviction::S3Fifo => 2,
        }
    }

    /// Bytes of heap that the policy uses, ghosts included.
    pub fn bytes(&self) -> usize {
        self.hands.len() * size_of::<ChunkRef>()
    }

    /// A new item lies in `at`. (An item that replaces a live one of the same
    /// key keeps its standing instead: call [`moved`](AnyPolicy::moved) if its
    /// chunk changes, then [`touched`](AnyPolicy::touched).)
    pub fn inserted<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef, hash: KeyHash) {
        let _ = (class, hash);
        cells.set_mark(at, 0);
        cells.set_hot(at, false);
    }

    /// The item was read or overwritten in place.
    #[inline]
    pub fn touched<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        let _ = (cells, class, at);
    }

    /// The item is about to be freed: deleted, expired or invalidated.
    pub fn removed<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        let _ = class;
        cells.set_hot(at, false);
    }

    /// The item now lies in `to`; `from` is still readable and about to be freed.
    pub fn moved<C: Cells>(&mut self, cells: &mut C, class_from: ClassId, from: ChunkRef, class_to: ClassId, to: ChunkRef) {
        let _ = (class_from, class_to);
        cells.set_mark(to, cells.mark(from));
        cells.set_hot(to, cells.is_hot(from));
        cells.set_hot(from, false);
    }

    /// Chooses the item that leaves `class`, remembers it as a ghost and
    /// forgets it: the engine frees it now. `None` if nothing may be evicted.
    pub fn victim<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<ChunkRef> {
        let at = cells.next_cold(class, self.hands[usize::from(class.0)])?;
        self.hands[usize::from(class.0)] = at;
        Some(at)
    }

    /// Fills of items of this class that had been evicted not long before:
    /// what the class would have gained from more pages. Halved by every
    /// [`decay_ghost_hits`](AnyPolicy::decay_ghost_hits).
    pub fn ghost_hits(&self, class: ClassId) -> u32 {
        let _ = class;
        0
    }

    /// Halves every class's ghost hits, so that they speak of the recent past.
    pub fn decay_ghost_hits(&mut self) {}
}
