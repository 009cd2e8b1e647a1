//! The slab as the eviction policy sees it: pages and items, and what makes an
//! item dead or untouchable.

use crate::chain;
use crate::generation::{Generations, Liveness};
use crate::index::Keys;
use crate::item::{self, View};
use crate::pins::Pins;
use crate::policy::{CellState, Cells};
use crate::slab::Slab;
use crate::slab::page::Map;
use crate::{ChunkRef, ClassId, HashSeed, KeyHash, Now};

/// Everything of a shard that an item's state depends on.
#[derive(Debug)]
pub(crate) struct Store {
    pub slab: Slab,
    pub generations: Generations,
    pub pins: Pins,
    /// The item that the current request still needs; never a victim.
    pub protected: ChunkRef,
    /// The time of the current request.
    pub now: Now,
    pub seed: HashSeed,
}

impl Store {
    /// Whether the item may be read.
    #[inline]
    pub fn liveness(&self, at: ChunkRef, view: &View) -> Liveness {
        self.generations.liveness(&self.slab, at, view, self.now)
    }

    /// The hash of the key of the item in `at`.
    pub fn hash_of(&self, at: ChunkRef) -> KeyHash {
        KeyHash::of(View::of(&self.slab, at).key(&self.slab), &self.seed)
    }

    /// Whether the chunk may be neither freed nor moved now.
    pub fn is_busy(&self, at: ChunkRef) -> bool {
        let head = match chain::kind(&self.slab, at) {
            chain::ChunkKind::Item => at,
            chain::ChunkKind::Taken => return true,
            chain::ChunkKind::Piece => chain::piece_links(&self.slab, at).head,
        };
        head == self.protected || self.pins.holds(head) || !self.slab.bit(head, Map::Live)
    }
}

impl Keys for Store {
    fn hash_of(&self, at: ChunkRef) -> KeyHash {
        Store::hash_of(self, at)
    }

    fn prefetch(&self, at: ChunkRef) {
        let offset = self.slab.offset(at);
        self.slab.arena.prefetch(offset);
        self.slab.arena.prefetch(offset + 63);
    }
}

impl Cells for Store {
    #[inline]
    fn mark(&self, at: ChunkRef) -> u8 {
        item::mark(&self.slab, at)
    }

    #[inline]
    fn set_mark(&mut self, at: ChunkRef, mark: u8) {
        item::set_mark(&mut self.slab, at, mark);
    }

    #[inline]
    fn is_hot(&self, at: ChunkRef) -> bool {
        self.slab.bit(at, Map::Hot)
    }

    fn set_hot(&mut self, at: ChunkRef, hot: bool) {
        self.slab.set_hot_bit(at, hot);
    }

    fn links(&self, at: ChunkRef) -> [u32; 2] {
        self.slab.link_words_of(at)
    }

    fn set_links(&mut self, at: ChunkRef, links: [u32; 2]) {
        self.slab.set_link_words_of(at, links);
    }

    fn state(&self, at: ChunkRef) -> CellState {
        if at == self.protected || self.pins.holds(at) {
            return CellState::Busy;
        }
        match self.liveness(at, &View::of(&self.slab, at)) {
            Liveness::Live => CellState::Live,
            Liveness::Expired | Liveness::Invalidated => CellState::Dead,
        }
    }

    fn hash(&self, at: ChunkRef) -> KeyHash {
        self.hash_of(at)
    }

    fn next_cold(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef> {
        self.slab.next_in_ring(class, after, |live, hot| live & !hot)
    }

    fn next_hot(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef> {
        self.slab.next_in_ring(class, after, |live, hot| live & hot)
    }
}
