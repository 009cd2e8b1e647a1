//! CLOCK-Pro (Jiang, Chen, Zhang, USENIX ATC 2005) in slot form: no links.
//!
//! The paper's one clock of linked entries becomes the chunks themselves, in the
//! order of their pages. An item is *hot* or *cold*; new ones are cold unless
//! their ghost is still remembered. Two hands go round a class:
//!
//! - `hand_cold` looks for the victim among the cold: who was hit becomes hot,
//!   who was not leaves, and stays as a ghost while in its test period.
//! - `hand_hot` runs when there are more hot items than their share: it takes
//!   one from the counter of those that were hit, and makes the first one
//!   without hits cold, its test period over (*demoted*).
//!
//! The hot bitmap lets a hand pass 64 chunks a word. A turnover of the cold set
//! has four ticks, and hits in the very tick of insertion do not count: they
//! come from one burst of use and foretell no other (the *correlation window*).
//!
//! ```text
//! mark   6     5         4 3 2   1 0
//!        hot   demoted   age     counter
//! ```
//!
//! `hot` repeats the page's bit, so that a hit reads the item's header alone.
//! `age` is the tick of insertion; as HAND_cold comes by once a turnover, no
//! cold item is there for so long that it would look new again.

use super::{CellState, Cells, Victim};
use crate::{ChunkRef, ClassId};
use alloc::vec::Vec;

const COUNTER: u8 = 0b11;
const AGE_SHIFT: u32 = 2;
const AGE: u8 = 0b111;
const DEMOTED: u8 = 1 << 5;
const HOT: u8 = 1 << 6;

/// Cold items per 100; 10 to 20 were alike on ten traces.
const COLD_PERCENT: u64 = 15;
/// In small classes the cold items are at least this many, or a half of all: a
/// handful is turned over before it can learn anything. (Measured in 1, 16 and
/// 32 shards: a minimum of 64 costs up to 1.2 points in shards of some 150
/// items, though it gains in a single cache of less than 100.)
const COLD_MIN: u64 = 16;
/// Ticks in one turnover of the cold set. The window is one of them, half of it
/// on average: an eighth of a turnover. (A quarter on average costs a heavily
/// missing trace 0.3 points and gains nothing elsewhere.)
const TICKS: u32 = 4;
/// Most items that HAND_cold looks at before it takes the next one whatever its
/// counter. As many again for those that are pinned.
const COLD_STEPS_MAX: u32 = 32;
/// Most items that HAND_hot looks at in one call from outside, however often it
/// is set in motion. Then the one with the least counter goes, and what is left
/// of the excess is for the next call.
const HOT_STEPS_MAX: u32 = 64;

#[derive(Clone, Debug)]
struct Clock {
    hand_cold: ChunkRef,
    hand_hot: ChunkRef,
    items: u32,
    hot: u32,
    /// Cold insertions until the next tick.
    tick_inserts_left: u32,
    tick: u8,
    /// Something was evicted. Before that nobody competes, and items are made
    /// hot and cold in their shares as they come.
    full: bool,
}

impl Clock {
    fn cold_target(&self) -> u32 {
        let items = u64::from(self.items);
        (items * COLD_PERCENT / 100).max(COLD_MIN.min(items / 2)) as u32
    }

    fn hot_excess(&self) -> bool {
        self.hot + self.cold_target() > self.items
    }

    fn count_cold_insert(&mut self) {
        if self.tick_inserts_left == 0 {
            self.tick = (self.tick + 1) & AGE;
            self.tick_inserts_left = ((self.items - self.hot) / TICKS).max(1);
        }
        self.tick_inserts_left -= 1;
    }

    #[inline]
    fn in_window(&self, mark: u8) -> bool {
        self.full && mark & !COUNTER == self.tick << AGE_SHIFT
    }

    fn promote<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) {
        cells.set_mark(at, HOT);
        cells.set_hot(at, true);
        self.hot += 1;
    }

    fn demote<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) {
        cells.set_mark(at, DEMOTED);
        cells.set_hot(at, false);
        self.hot -= 1;
    }

    fn forget<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) {
        if cells.is_hot(at) {
            cells.set_hot(at, false);
            self.hot -= 1;
        }
        self.items -= 1;
    }

    /// HAND_hot: demotes one item. False if there is none that may be, or no
    /// step is left.
    fn demote_one<C: Cells>(&mut self, cells: &mut C, class: ClassId, steps: &mut u32) -> bool {
        let mut least: Option<(u8, ChunkRef)> = None;
        while *steps > 0 {
            *steps -= 1;
            let Some(at) = cells.next_hot(class, self.hand_hot) else { break };
            self.hand_hot = at;
            let mark = cells.mark(at);
            let counter = mark & COUNTER;
            match cells.state(at) {
                CellState::Busy => continue,
                CellState::Live if counter > 0 => {
                    cells.set_mark(at, mark - 1);
                    if least.is_none_or(|(least, _)| counter - 1 < least) {
                        least = Some((counter - 1, at));
                    }
                }
                CellState::Live | CellState::Dead => {
                    self.demote(cells, at);
                    return true;
                }
            }
        }
        let Some((_, at)) = least else { return false };
        self.demote(cells, at);
        true
    }

    /// Makes room among the hot. Two at most, so that a changed share is
    /// reached in small steps.
    fn balance<C: Cells>(&mut self, cells: &mut C, class: ClassId, steps: &mut u32) {
        for _ in 0..2 {
            if !self.hot_excess() || !self.demote_one(cells, class, steps) {
                return;
            }
        }
    }

    /// HAND_cold: the item that leaves, and whether as a ghost.
    fn evict<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<Victim> {
        let mut hot_steps = HOT_STEPS_MAX;
        for step in 0..2 * COLD_STEPS_MAX {
            let at = match cells.next_cold(class, self.hand_cold) {
                Some(at) => at,
                None if self.demote_one(cells, class, &mut hot_steps) => continue,
                None => return None,
            };
            self.hand_cold = at;
            let mark = cells.mark(at);
            match cells.state(at) {
                CellState::Dead => return Some(Victim { at, ghost: false }),
                // Perhaps all of the cold are pinned: let some others in.
                CellState::Busy if step % 8 == 7 => {
                    self.demote_one(cells, class, &mut hot_steps);
                }
                CellState::Busy => {}
                CellState::Live if mark & COUNTER > 0 && step < COLD_STEPS_MAX => {
                    self.promote(cells, at);
                    self.balance(cells, class, &mut hot_steps);
                }
                CellState::Live => return Some(Victim { at, ghost: mark & DEMOTED == 0 }),
            }
        }
        None
    }
}

#[derive(Debug)]
pub(super) struct ClockPro {
    classes: Vec<Clock>,
}

impl ClockPro {
    pub fn new(classes: usize) -> ClockPro {
        let clock = Clock {
            hand_cold: ChunkRef::NONE,
            hand_hot: ChunkRef::NONE,
            items: 0,
            hot: 0,
            tick_inserts_left: 0,
            tick: 0,
            full: false,
        };
        ClockPro { classes: alloc::vec![clock; classes] }
    }

    pub fn bytes(&self) -> usize {
        self.classes.capacity() * size_of::<Clock>()
    }

    pub fn inserted<C: Cells>(
        &mut self,
        cells: &mut C,
        class: ClassId,
        at: ChunkRef,
        returning: bool,
    ) {
        let clock = &mut self.classes[class.index()];
        clock.items += 1;
        if returning || (!clock.full && clock.hot + 1 + clock.cold_target() <= clock.items) {
            clock.promote(cells, at);
            if clock.full {
                clock.balance(cells, class, &mut { HOT_STEPS_MAX });
            }
        } else {
            clock.count_cold_insert();
            cells.set_mark(at, clock.tick << AGE_SHIFT);
            cells.set_hot(at, false);
        }
    }

    #[inline]
    pub fn touched<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        let mark = cells.mark(at);
        // Often it is full already: then the line is not written.
        if mark & COUNTER != COUNTER && !self.classes[class.index()].in_window(mark) {
            cells.set_mark(at, mark + 1);
        }
    }

    pub fn removed<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        self.classes[class.index()].forget(cells, at);
    }

    pub fn moved<C: Cells>(
        &mut self,
        cells: &mut C,
        class_from: ClassId,
        from: ChunkRef,
        class_to: ClassId,
        to: ChunkRef,
    ) {
        let (mark, hot) = (cells.mark(from), cells.is_hot(from));
        self.classes[class_from.index()].forget(cells, from);
        // A tick of one class says nothing in another: there it starts anew.
        let clock = &mut self.classes[class_to.index()];
        let age = if class_from == class_to || hot { mark >> AGE_SHIFT & AGE } else { clock.tick };
        cells.set_mark(to, mark & !(AGE << AGE_SHIFT) | age << AGE_SHIFT);
        cells.set_hot(to, hot);
        clock.items += 1;
        clock.hot += u32::from(hot);
    }

    /// Where HAND_cold and HAND_hot were last.
    pub fn hands(&self, class: ClassId) -> [ChunkRef; 2] {
        let clock = &self.classes[class.index()];
        [clock.hand_cold, clock.hand_hot]
    }

    pub fn victim<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<Victim> {
        let clock = &mut self.classes[class.index()];
        clock.full = true;
        let victim = clock.evict(cells, class)?;
        clock.forget(cells, victim.at);
        Some(victim)
    }
}
