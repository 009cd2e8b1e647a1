//! S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023).
//!
//! New items enter a small queue, a tenth of the class. Who is read twice there
//! goes on to the main queue, the others leave and stay as ghosts; a ghost that
//! comes back enters the main queue at once. The main queue gives an item
//! another round for each of its last three hits.
//!
//! The rules, and what happens while a cache fills, are those of libCacheSim,
//! whose figures ours are compared with. There the cache's size is known from
//! the beginning, and the items that came first fill the small queue. Here it
//! is not, so an item enters main while nothing has been evicted yet, and the
//! oldest of main goes over whenever small is less than a tenth: at the first
//! eviction both queues hold the same as there.
//!
//! Mark: bits 0 and 1 count hits. The hot bit says that the item is in main.

use super::ghosts::GhostRules;
use super::list::Lists;
use super::{CellState, Cells, Victim};
use crate::{ChunkRef, ClassId};
use alloc::vec::Vec;

const SMALL: usize = 0;
const MAIN: usize = 1;
const SMALL_PERCENT: u64 = 10;
/// A queue of ghosts, 90 to 100 live items. The table has a third more room,
/// so that hardly one is overwritten early. (Measured against libCacheSim at 1%
/// of the objects and more: within 0.13 points; without the room 0.34, without
/// making room 0.35. CLOCK-Pro is better off without either.)
pub(super) const GHOSTS: GhostRules =
    GhostRules { life_percent: 90, slots_percent: 120, returns_make_room: true };
/// Hits in the small queue that take an item to main.
const PROMOTE_HITS: u8 = 2;
const HITS_MAX: u8 = 3;
/// Most items that one search for a victim looks at. At the bound the next one
/// leaves, whatever its hits.
const STEPS_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Class {
    lists: Lists<2>,
    /// Items in small, items in main.
    items: [u32; 2],
    /// Something was evicted: the class is as large as it gets.
    full: bool,
}

impl Class {
    fn small_max(&self) -> u32 {
        let items = u64::from(self.items[SMALL]) + u64::from(self.items[MAIN]);
        (items * SMALL_PERCENT / 100) as u32
    }

    fn link<C: Cells>(&mut self, cells: &mut C, queue: usize, at: ChunkRef, hits: u8) {
        cells.set_mark(at, hits);
        cells.set_hot(at, queue == MAIN);
        self.lists.push_newest(cells, queue, at);
        self.items[queue] += 1;
    }

    fn unlink<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) {
        let queue = if cells.is_hot(at) { MAIN } else { SMALL };
        cells.set_hot(at, false);
        self.lists.unlink(cells, at);
        self.items[queue] -= 1;
    }
}

#[derive(Debug)]
pub(super) struct S3Fifo {
    classes: Vec<Class>,
}

impl S3Fifo {
    pub fn new(classes: usize) -> S3Fifo {
        S3Fifo {
            classes: alloc::vec![Class { lists: Lists::new(), items: [0; 2], full: false }; classes],
        }
    }

    pub fn bytes(&self) -> usize {
        self.classes.capacity() * size_of::<Class>()
    }

    pub fn inserted<C: Cells>(
        &mut self,
        cells: &mut C,
        class: ClassId,
        at: ChunkRef,
        returning: bool,
    ) {
        let class = &mut self.classes[class.index()];
        if class.full {
            return class.link(cells, if returning { MAIN } else { SMALL }, at, 0);
        }
        class.link(cells, MAIN, at, 0);
        if class.items[SMALL] < class.small_max()
            && let Some(oldest) = class.lists.oldest(MAIN)
        {
            class.unlink(cells, oldest);
            let hits = cells.mark(oldest);
            class.link(cells, SMALL, oldest, hits);
        }
    }

    #[inline]
    pub fn touched<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) {
        let hits = cells.mark(at);
        if hits < HITS_MAX {
            cells.set_mark(at, hits + 1);
        }
    }

    pub fn removed<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        self.classes[class.index()].unlink(cells, at);
    }

    pub fn moved<C: Cells>(
        &mut self,
        cells: &mut C,
        class_from: ClassId,
        from: ChunkRef,
        class_to: ClassId,
        to: ChunkRef,
    ) {
        let (hits, main) = (cells.mark(from), cells.is_hot(from));
        if class_from == class_to {
            cells.set_mark(to, hits);
            cells.set_hot(to, main);
            cells.set_hot(from, false);
            self.classes[class_from.index()].lists.replace(cells, from, to);
        } else {
            self.classes[class_from.index()].unlink(cells, from);
            self.classes[class_to.index()].link(cells, if main { MAIN } else { SMALL }, to, hits);
        }
    }

    /// Who is next in the small queue and in the main one.
    pub fn oldest(&self, class: ClassId) -> [Option<ChunkRef>; 2] {
        let lists = &self.classes[class.index()].lists;
        [lists.oldest(SMALL), lists.oldest(MAIN)]
    }

    pub fn victim<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<Victim> {
        let class = &mut self.classes[class.index()];
        class.full = true;
        let main_max = class.items[SMALL] + class.items[MAIN] - class.small_max();
        // A queue is chosen once; items going from small to main during the
        // search do not change that (as in the model), unless small runs dry.
        let mut queue = if class.items[MAIN] > main_max { MAIN } else { SMALL };
        for step in 0..2 * STEPS_MAX {
            let at = match class.lists.oldest(queue) {
                Some(at) => at,
                None => {
                    queue = 1 - queue;
                    class.lists.oldest(queue)?
                }
            };
            let hits = cells.mark(at);
            let state = cells.state(at);
            class.unlink(cells, at);
            match state {
                CellState::Dead => return Some(Victim { at, ghost: false }),
                // It is being read right now.
                CellState::Busy => class.link(cells, MAIN, at, hits),
                CellState::Live if step < STEPS_MAX && queue == SMALL && hits >= PROMOTE_HITS => {
                    class.link(cells, MAIN, at, 0)
                }
                CellState::Live if step < STEPS_MAX && queue == MAIN && hits > 0 => {
                    class.link(cells, MAIN, at, hits - 1)
                }
                CellState::Live => return Some(Victim { at, ghost: queue == SMALL }),
            }
        }
        None
    }
}
