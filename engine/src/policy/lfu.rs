//! Least frequently used, with aging.
//!
//! An item's priority is the number of its accesses (up to 127) plus the *age*
//! of its class when it was last accessed; the age is the priority of the last
//! victim. So an item that was popular once is overtaken by those that are
//! popular now: Greedy-Dual-Size-Frequency (Cherkasova, 1998) at size 1.
//!
//! As the accesses have a bound, all priorities of a class lie within 128 of
//! its age. There is a list for each, in a ring, so every step takes constant
//! time, and equal priorities leave in order of their last access.

use super::list::Lists;
use super::{CellState, Cells, Victim};
use crate::{ChunkRef, ClassId};
use alloc::{boxed::Box, vec::Vec};

const PRIORITIES: u32 = 128;
const ACCESSES_MAX: u8 = 127;
/// Pinned items passed over by one search for a victim.
const STEPS_MAX: usize = 64;

#[derive(Debug)]
struct Class {
    lists: Lists<{ PRIORITIES as usize }>,
    /// Bit `p`: the list of priority `p` (modulo 128) has members.
    occupied: u128,
    /// Priority of the last victim, modulo 128.
    age: u32,
}

impl Class {
    fn new() -> Class {
        Class { lists: Lists::new(), occupied: 0, age: 0 }
    }

    fn link<C: Cells>(&mut self, cells: &mut C, at: ChunkRef, accesses: u8) {
        let priority = (self.age + u32::from(accesses)) % PRIORITIES;
        self.lists.push_newest(cells, priority as usize, at);
        self.occupied |= 1 << priority;
    }

    fn unlink<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) {
        if let Some(emptied) = self.lists.unlink(cells, at) {
            self.occupied &= !(1 << emptied);
        }
    }

    /// The lowest priority that has members, modulo 128.
    fn lowest(&self) -> Option<u32> {
        let above_age = self.occupied.rotate_right(self.age);
        (above_age != 0).then(|| (self.age + above_age.trailing_zeros()) % PRIORITIES)
    }
}

#[derive(Debug)]
pub(super) struct Lfu {
    /// Taken when the class gets its first item: 1 KiB each.
    classes: Vec<Option<Box<Class>>>,
}

impl Lfu {
    pub fn new(classes: usize) -> Lfu {
        let mut list = Vec::new();
        list.resize_with(classes, || None);
        Lfu { classes: list }
    }

    pub fn bytes(&self) -> usize {
        self.classes.capacity() * size_of::<Option<Box<Class>>>()
            + self.classes.iter().flatten().count() * size_of::<Class>()
    }

    fn class(&mut self, class: ClassId) -> &mut Class {
        self.classes[class.index()].get_or_insert_with(|| Box::new(Class::new()))
    }

    pub fn inserted<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        cells.set_mark(at, 1);
        cells.set_hot(at, false);
        self.class(class).link(cells, at, 1);
    }

    #[inline]
    pub fn touched<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        let accesses = (cells.mark(at) + 1).min(ACCESSES_MAX);
        cells.set_mark(at, accesses);
        let class = self.class(class);
        class.unlink(cells, at);
        class.link(cells, at, accesses);
    }

    pub fn removed<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        self.class(class).unlink(cells, at);
    }

    pub fn moved<C: Cells>(
        &mut self,
        cells: &mut C,
        class_from: ClassId,
        from: ChunkRef,
        class_to: ClassId,
        to: ChunkRef,
    ) {
        let accesses = cells.mark(from);
        cells.set_mark(to, accesses);
        cells.set_hot(to, false);
        if class_from == class_to {
            self.class(class_from).lists.replace(cells, from, to);
        } else {
            self.class(class_from).unlink(cells, from);
            self.class(class_to).link(cells, to, accesses);
        }
    }

    /// Who would leave next.
    pub fn oldest(&self, class: ClassId) -> Option<ChunkRef> {
        let class = self.classes[class.index()].as_deref()?;
        class.lists.oldest(class.lowest()? as usize)
    }

    pub fn victim<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<Victim> {
        let class = self.classes[class.index()].as_deref_mut()?;
        for _ in 0..STEPS_MAX {
            let lowest = class.lowest()?;
            let at = class.lists.oldest(lowest as usize)?;
            let state = cells.state(at);
            class.unlink(cells, at);
            if state == CellState::Busy {
                // It is being read right now: out of the way for a while.
                class.link(cells, at, ACCESSES_MAX);
                continue;
            }
            if state == CellState::Live {
                class.age = lowest;
            }
            return Some(Victim { at, ghost: state == CellState::Live });
        }
        None
    }
}
