//! The timing wheel that frees expired items before anybody asks for them.
//!
//! Its entries are pages, not items: linking items would cost eight bytes each.
//! A page is due when about an eighth of its items will have expired, so a
//! look at a page frees a good part of what it reads, and no item is looked at
//! more than some eight times on account of its neighbours.
//!
//! While a page fills, its due time is estimated: it follows the items that die
//! before it as soon as they are an eighth. A look counts exactly (see
//! [`Outlook`]).
//!
//! Four wheels of 256 slots, of 1, 256, 65,536 and 16,777,216 seconds a slot,
//! hold any second of a `u32`. A page moves to a finer wheel when its slot's
//! time has come.

use crate::slab::{NO_PAGE, Slab};

const LEVELS: usize = 4;
const SLOTS: usize = 256;

/// A page is looked at when one part in this many of its items is dead.
const DEAD_SHARE: u32 = 8;

/// Pages by the second at which they are due.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: [[u32; SLOTS]; LEVELS],
    /// Everything before this second has been handed out.
    current: u32,
    pages: u32,
}

impl Wheel {
    pub fn new() -> Wheel {
        Wheel { heads: [[NO_PAGE; SLOTS]; LEVELS], current: 0, pages: 0 }
    }

    /// Bytes of the tables.
    pub const fn bytes() -> usize {
        size_of::<Wheel>()
    }

    /// Where a page due at `due` belongs now.
    fn place(&self, due: u32) -> (usize, usize) {
        let differing = (due ^ self.current).checked_ilog2().unwrap_or(0) as usize;
        let level = differing / 8;
        (level, (due >> (8 * level)) as usize % SLOTS)
    }

    fn insert(&mut self, slab: &mut Slab, page: u32, due: u32) {
        let due = due.max(self.current).max(1);
        let (level, slot) = self.place(due);
        let head = self.heads[level][slot];
        let header = slab.header_mut(page);
        header.due = due;
        header.wheel_place = (level * SLOTS + slot) as u32;
        header.wheel_next = head;
        header.wheel_prev = NO_PAGE;
        if head != NO_PAGE {
            slab.header_mut(head).wheel_prev = page;
        }
        self.heads[level][slot] = page;
        self.pages += 1;
    }

    /// Takes a page off the wheel.
    pub fn remove(&mut self, slab: &mut Slab, page: u32) {
        let header = slab.header_mut(page);
        if header.due == 0 {
            return;
        }
        header.due = 0;
        (header.early, header.early_last) = (0, 0);
        let (next, prev, place) =
            (header.wheel_next, header.wheel_prev, header.wheel_place as usize);
        if prev == NO_PAGE {
            self.heads[place / SLOTS][place % SLOTS] = next;
        } else {
            slab.header_mut(prev).wheel_next = next;
        }
        if next != NO_PAGE {
            slab.header_mut(next).wheel_prev = prev;
        }
        self.pages -= 1;
    }

    /// Looks at the page again at `second`.
    pub fn schedule(&mut self, slab: &mut Slab, page: u32, second: u32) {
        self.remove(slab, page);
        self.insert(slab, page, second);
    }

    /// An item that dies at `second` was put into the page at `now`.
    #[inline]
    pub fn note(&mut self, slab: &mut Slab, page: u32, second: u32, now: u32) {
        if self.pages == 0 {
            // Nothing waits: jump.
            self.current = now;
        }
        let header = slab.header_mut(page);
        if header.due == 0 {
            self.insert(slab, page, second);
        } else if second < header.due {
            header.early += 1;
            header.early_last = header.early_last.max(second);
            if header.early * DEAD_SHARE >= u32::from(header.live) {
                let due = header.early_last;
                self.schedule(slab, page, due);
            }
        }
    }

    /// A page that is due at `now`; it is off the wheel then. Turns the wheel by
    /// at most `steps` seconds.
    pub fn next_due(&mut self, slab: &mut Slab, now: u32, steps: &mut u32) -> Option<u32> {
        if self.pages == 0 {
            self.current = now;
        }
        loop {
            let page = self.heads[0][self.current as usize % SLOTS];
            if page != NO_PAGE {
                self.remove(slab, page);
                return Some(page);
            }
            if self.current >= now || *steps == 0 {
                return None;
            }
            *steps -= 1;
            self.current += 1;
            for level in 1..LEVELS {
                if self.current.trailing_zeros() < 8 * level as u32 {
                    break;
                }
                self.cascade(slab, level);
            }
        }
    }

    /// Moves the pages of a coarse slot whose time has come to finer wheels.
    fn cascade(&mut self, slab: &mut Slab, level: usize) {
        let slot = (self.current >> (8 * level)) as usize % SLOTS;
        loop {
            let page = self.heads[level][slot];
            if page == NO_PAGE {
                return;
            }
            let header = slab.header(page);
            let (due, early, early_last) = (header.due, header.early, header.early_last);
            self.schedule(slab, page, due);
            let header = slab.header_mut(page);
            (header.early, header.early_last) = (early, early_last);
        }
    }

    /// Whether a due page waits.
    pub fn is_behind(&self, now: u32) -> bool {
        self.pages > 0
            && (self.current < now || self.heads[0][self.current as usize % SLOTS] != NO_PAGE)
    }
}

/// When the items of a page will die, counted while it is looked at.
#[derive(Debug)]
pub(crate) struct Outlook {
    now: u32,
    /// Items by how long they will live: four steps an octave of seconds.
    counts: [u16; OUTLOOK_STEPS],
    live: u32,
    last: u32,
}

const OUTLOOK_STEPS: usize = 128;

impl Outlook {
    pub fn new(now: u32) -> Outlook {
        Outlook { now, counts: [0; OUTLOOK_STEPS], live: 0, last: 0 }
    }

    /// A live item that dies at `second` (`u32::MAX`: never).
    pub fn add(&mut self, second: u32) {
        self.live += 1;
        if second != u32::MAX {
            self.counts[step_of(second.saturating_sub(self.now))] += 1;
            self.last = self.last.max(second);
        }
    }

    /// When an eighth of them will be dead, or the last one that dies at all.
    pub fn due(&self) -> Option<u32> {
        if self.last == 0 {
            return None;
        }
        let mut dead = 0;
        for (step, count) in self.counts.iter().enumerate() {
            dead += u32::from(*count);
            if dead * DEAD_SHARE >= self.live {
                return Some(
                    self.now.saturating_add(end_of(step)).min(self.last).max(self.now + 1),
                );
            }
        }
        Some(self.last.max(self.now + 1))
    }
}

/// Which quarter of an octave `seconds` lies in.
fn step_of(seconds: u32) -> usize {
    if seconds < 4 {
        return seconds as usize;
    }
    let octave = seconds.ilog2();
    (octave as usize * 4 + (seconds >> (octave - 2)) as usize % 4 - 4).min(OUTLOOK_STEPS - 1)
}

/// The last second of a step.
fn end_of(step: usize) -> u32 {
    if step < 4 {
        return step as u32;
    }
    let (octave, quarter) = ((step + 4) as u32 / 4, (step % 4) as u64);
    (((1u64 << octave) + ((quarter + 1) << (octave - 2))) - 1).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClassId;
    use crate::slab::arena::Arena;
    use alloc::vec::Vec;

    #[test]
    fn steps_cover_every_second() {
        let mut last = 0;
        for seconds in (0..10_000u32).chain([1 << 20, 1 << 30, u32::MAX]) {
            let step = step_of(seconds);
            assert!(end_of(step) >= seconds, "{seconds} in {step} which ends at {}", end_of(step));
            assert!(step >= last && (step == 0 || end_of(step - 1) < seconds), "{seconds}");
            last = step;
        }
    }

    #[test]
    fn pages_come_when_they_are_due_and_not_before() {
        let mut slab = Slab::new(Arena::heap(8 << 20), 0);
        let mut wheel = Wheel::new();
        let start = 1_700_000_000;
        assert_eq!(wheel.next_due(&mut slab, start, &mut 10), None);
        let mut expected = Vec::new();
        for page in 0..100u32 {
            assert!(slab.add_page(ClassId(3)));
            let due = start + page * page * 37;
            wheel.note(&mut slab, page, due, start);
            expected.push((due, page));
        }
        wheel.remove(&mut slab, 50);
        expected.retain(|(_, page)| *page != 50);
        wheel.schedule(&mut slab, 99, start + 7);
        expected.retain(|(_, page)| *page != 99);
        expected.push((start + 7, 99));
        expected.sort_unstable();
        let mut seen = Vec::new();
        let mut now = start;
        while seen.len() < expected.len() {
            let mut steps = 1000;
            while let Some(page) = wheel.next_due(&mut slab, now, &mut steps) {
                seen.push((now, page));
            }
            now += 1;
            assert!(now < start + 400_000);
        }
        seen.sort_unstable();
        assert_eq!(seen, expected);
    }
}
