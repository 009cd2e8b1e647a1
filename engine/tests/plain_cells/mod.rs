//! A slab that is a plain vector, and a cache over it: the least that a policy
//! needs to be judged alone, without pages, index or expiry.

use engine::policy::{AnyPolicy, CellState, Cells};
use engine::{ChunkRef, ClassId, Eviction, HashSeed, KeyHash};
use std::collections::HashMap;

/// One item.
#[derive(Clone, Debug)]
pub struct Cell {
    pub key: u64,
    pub class: ClassId,
    pub mark: u8,
    pub hot: bool,
    pub links: [u32; 2],
    pub state: CellState,
}

/// Chunk `n` is `cells[n]`; the ring of a class is the vector's order.
#[derive(Debug)]
pub struct PlainCells {
    pub cells: Vec<Option<Cell>>,
    /// Chunks that the policy's hands have come to.
    pub steps: std::cell::Cell<u64>,
    seed: HashSeed,
}

impl PlainCells {
    fn cell(&self, at: ChunkRef) -> &Cell {
        self.cells[at.0 as usize].as_ref().expect("a policy asked for a free chunk")
    }

    fn cell_mut(&mut self, at: ChunkRef) -> &mut Cell {
        self.cells[at.0 as usize].as_mut().expect("a policy asked for a free chunk")
    }

    pub fn hash_of(&self, key: u64) -> KeyHash {
        KeyHash::of(&key.to_le_bytes(), &self.seed)
    }

    fn next(&self, class: ClassId, after: ChunkRef, hot: bool) -> Option<ChunkRef> {
        self.steps.set(self.steps.get() + 1);
        let count = self.cells.len();
        let start = if after == ChunkRef::NONE { 0 } else { after.0 as usize + 1 };
        (0..count).map(|step| (start + step) % count).find_map(|index| {
            let cell = self.cells[index].as_ref()?;
            (cell.class == class && cell.hot == hot).then_some(ChunkRef(index as u32))
        })
    }
}

impl Cells for PlainCells {
    fn mark(&self, at: ChunkRef) -> u8 {
        self.cell(at).mark
    }
    fn set_mark(&mut self, at: ChunkRef, mark: u8) {
        assert!(mark < 0x80, "a policy has seven bits");
        self.cell_mut(at).mark = mark;
    }
    fn is_hot(&self, at: ChunkRef) -> bool {
        self.cell(at).hot
    }
    fn set_hot(&mut self, at: ChunkRef, hot: bool) {
        self.cell_mut(at).hot = hot;
    }
    fn links(&self, at: ChunkRef) -> [u32; 2] {
        self.cell(at).links
    }
    fn set_links(&mut self, at: ChunkRef, links: [u32; 2]) {
        self.cell_mut(at).links = links;
    }
    fn state(&self, at: ChunkRef) -> CellState {
        self.cell(at).state
    }
    fn hash(&self, at: ChunkRef) -> KeyHash {
        self.hash_of(self.cell(at).key)
    }
    fn next_cold(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef> {
        self.next(class, after, false)
    }
    fn next_hot(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef> {
        self.next(class, after, true)
    }
}

/// A cache of at most `capacity` items in one or more classes.
#[derive(Debug)]
pub struct PlainCache {
    pub cells: PlainCells,
    pub policy: AnyPolicy,
    pub index: HashMap<u64, ChunkRef>,
    pub evictions: u64,
    free: Vec<u32>,
}

impl PlainCache {
    pub fn new(eviction: Eviction, capacity: usize, seed: u64) -> PlainCache {
        PlainCache {
            cells: PlainCells {
                cells: vec![None; capacity],
                steps: Default::default(),
                seed: HashSeed::new(seed),
            },
            policy: AnyPolicy::new(eviction, 4),
            index: HashMap::new(),
            evictions: 0,
            free: (0..capacity as u32).rev().collect(),
        }
    }

    /// Reads `key`, and fills it in after a miss. Whether it was a hit.
    pub fn request(&mut self, key: u64, class: ClassId) -> bool {
        if let Some(&at) = self.index.get(&key) {
            let class = self.cells.cell(at).class;
            self.policy.touched(&mut self.cells, class, at);
            return true;
        }
        if self.free.is_empty() && !self.evict(class) {
            return false;
        }
        let at = ChunkRef(self.free.pop().expect("a victim leaves a free chunk"));
        self.cells.cells[at.0 as usize] = Some(Cell {
            key,
            class,
            mark: 0x7f,
            hot: false,
            links: [0x5555_5555; 2],
            state: CellState::Live,
        });
        let hash = self.cells.hash_of(key);
        self.policy.inserted(&mut self.cells, class, at, hash);
        self.index.insert(key, at);
        false
    }

    /// Marks `key`'s item as dead, pinned or live again.
    pub fn set_state(&mut self, key: u64, state: CellState) {
        if let Some(&at) = self.index.get(&key) {
            self.cells.cell_mut(at).state = state;
        }
    }

    /// Makes room by evicting one item of `class`.
    pub fn evict(&mut self, class: ClassId) -> bool {
        let Some(at) = self.policy.victim(&mut self.cells, class) else { return false };
        assert_ne!(self.cells.state(at), CellState::Busy, "a pinned item was evicted");
        self.evictions += 1;
        self.free_chunk(at);
        true
    }

    /// Deletes `key`.
    pub fn delete(&mut self, key: u64) {
        if let Some(&at) = self.index.get(&key) {
            let class = self.cells.cell(at).class;
            self.policy.removed(&mut self.cells, class, at);
            self.free_chunk(at);
        }
    }

    /// Moves `key` to a free chunk of `class`, as page moves do.
    pub fn relocate(&mut self, key: u64, class: ClassId) {
        let (Some(&from), Some(to)) = (self.index.get(&key), self.free.pop()) else { return };
        let to = ChunkRef(to);
        let mut cell = self.cells.cell(from).clone();
        let class_from = cell.class;
        (cell.class, cell.mark, cell.hot, cell.links) = (class, 0x7f, false, [0x5555_5555; 2]);
        self.cells.cells[to.0 as usize] = Some(cell);
        self.policy.moved(&mut self.cells, class_from, from, class, to);
        self.free_chunk(from);
        self.index.insert(key, to);
    }

    fn free_chunk(&mut self, at: ChunkRef) {
        let cell = self.cells.cells[at.0 as usize].take().expect("freed once");
        assert!(!cell.hot, "a policy clears the hot bit of what it lets go");
        self.index.remove(&cell.key);
        self.free.push(at.0);
    }
}
