//! Least recently used, exactly: one list a class, by last access.

use super::list::Lists;
use super::{CellState, Cells, Victim};
use crate::{ChunkRef, ClassId};
use alloc::vec::Vec;

/// Pinned items passed over by one search for a victim.
const STEPS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Lru {
    classes: Vec<Lists<1>>,
}

impl Lru {
    pub fn new(classes: usize) -> Lru {
        Lru { classes: alloc::vec![Lists::new(); classes] }
    }

    pub fn bytes(&self) -> usize {
        self.classes.capacity() * size_of::<Lists<1>>()
    }

    pub fn inserted<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        cells.set_mark(at, 0);
        cells.set_hot(at, false);
        self.classes[class.index()].push_newest(cells, 0, at);
    }

    #[inline]
    pub fn touched<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        let list = &mut self.classes[class.index()];
        if list.newest(0) != Some(at) {
            list.unlink(cells, at);
            list.push_newest(cells, 0, at);
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
        cells.set_mark(to, 0);
        cells.set_hot(to, false);
        if class_from == class_to {
            self.classes[class_from.index()].replace(cells, from, to);
        } else {
            self.classes[class_from.index()].unlink(cells, from);
            self.classes[class_to.index()].push_newest(cells, 0, to);
        }
    }

    /// Who would leave next.
    pub fn oldest(&self, class: ClassId) -> Option<ChunkRef> {
        self.classes[class.index()].oldest(0)
    }

    pub fn victim<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<Victim> {
        let list = &mut self.classes[class.index()];
        for _ in 0..STEPS_MAX {
            let at = list.oldest(0)?;
            list.unlink(cells, at);
            match cells.state(at) {
                CellState::Live => return Some(Victim { at, ghost: true }),
                CellState::Dead => return Some(Victim { at, ghost: false }),
                // It is being read right now.
                CellState::Busy => list.push_newest(cells, 0, at),
            }
        }
        None
    }
}
