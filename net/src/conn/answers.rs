//! Answers in the order of their requests.
//!
//! While nothing is outstanding this is empty and answers go straight to the
//! output. The first request that hops, or the first value too long to copy,
//! opens a queue: holes for what is still to come, finished bytes behind them
//! in one shared buffer.

use crate::core::Core;
use crate::hop::give_back_pin;
use crate::limits::{ANSWER_BYTES_EXPECTED, PIECE_BYTES_MAX};
use crate::reply::Tail;
use engine::Pin;
use std::collections::VecDeque;

/// A value on its way out.
#[derive(Debug)]
pub(super) struct Sending {
    pin: Pin,
    owner: u32,
    offset: usize,
    tail: Tail,
}

impl Sending {
    fn new((pin, owner, tail): (Pin, u32, Tail)) -> Box<Sending> {
        Box::new(Sending { pin, owner, offset: 0, tail })
    }
}

#[derive(Debug)]
enum Slot {
    /// A hole: the answer is still to come.
    Waiting,
    /// Bytes in the shared buffer, and perhaps a value behind them.
    Ready { start: usize, end: usize, value: Option<Box<Sending>> },
}

/// The queue.
#[derive(Debug)]
pub(super) struct Answers {
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    head: u32,
    held: Vec<u8>,
    /// Slots that are holes.
    holes: usize,
    /// Bytes of the values that wait to be sent from where they lie.
    pinned_bytes: usize,
    /// What an answer to come is expected to be long.
    expected_bytes: usize,
}

/// Buffers that grew beyond this are given back when the queue empties: most
/// connections are silent most of the time.
const HELD_BYTES_KEPT: usize = 4 * 1024;
const SLOTS_KEPT: usize = 64;
/// A shared buffer that never empties is compacted from this length on.
const COMPACT_BYTES_MIN: usize = 64 * 1024;

impl Default for Answers {
    fn default() -> Answers {
        Answers {
            slots: VecDeque::new(),
            head: 0,
            held: Vec::new(),
            holes: 0,
            pinned_bytes: 0,
            expected_bytes: ANSWER_BYTES_EXPECTED,
        }
    }
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots outstanding.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes waiting behind holes.
    #[inline]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Bytes that wait behind holes, be it in place, and those that the holes are
    /// expected to bring.
    #[inline]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.held.len() + self.pinned_bytes + self.holes * self.expected_bytes
    }

    /// Bytes of memory in use.
    #[inline]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.held.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    /// A hole for an answer to come; its number.
    #[inline]
    pub(super) fn hole(&mut self) -> u32 {
        let seq = self.head.wrapping_add(self.slots.len() as u32);
        self.slots.push_back(Slot::Waiting);
        self.holes += 1;
        seq
    }

    /// Where answers behind a hole are written: write there, then
    /// [`Answers::written`] with the length before.
    #[inline]
    pub(super) fn held(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    /// What was appended to the shared buffer since it had `start` bytes is an
    /// answer.
    #[inline]
    pub(super) fn written(&mut self, start: usize) {
        let now = self.held.len();
        if start == now {
            return;
        }
        if let Some(Slot::Ready { end, value: None, .. }) = self.slots.back_mut()
            && *end == start
        {
            *end = now;
            return;
        }
        self.slots.push_back(Slot::Ready { start, end: now, value: None });
    }

    /// The same with a value behind it.
    pub(super) fn written_with_value(&mut self, start: usize, pin: Pin, owner: u32, tail: Tail) {
        self.pinned_bytes += pin.value_bytes();
        let value = Some(Sending::new((pin, owner, tail)));
        self.slots.push_back(Slot::Ready { start, end: self.held.len(), value });
    }

    /// Fills the hole `seq` with what `write` writes, and the pinned value that its
    /// tail belongs to. It goes straight to `out` if it is the first, unless `out`
    /// holds `out_bytes_max` already. Returns the bytes written.
    pub(super) fn fill(
        &mut self,
        seq: u32,
        pin: Option<(Pin, u32)>,
        out_bytes_max: usize,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Tail,
    ) -> usize {
        let index = seq.wrapping_sub(self.head) as usize;
        debug_assert!(
            matches!(self.slots.get(index), Some(Slot::Waiting)),
            "answer {seq} has no hole"
        );
        let start = self.held.len();
        let goes_out = index == 0 && out.len() < out_bytes_max;
        let into = if goes_out { out } else { &mut self.held };
        let before = into.len();
        let tail = write(into);
        let written = into.len() - before;
        let value_bytes = pin.as_ref().map_or(0, |(pin, _)| pin.value_bytes());
        self.holes -= 1;
        self.pinned_bytes += value_bytes;
        // A longer answer is believed at once, shorter ones by and by.
        let length = written + value_bytes;
        self.expected_bytes = length.max(self.expected_bytes - self.expected_bytes / 8);
        let value = pin.map(|(pin, owner)| Sending::new((pin, owner, tail)));
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot::Ready { start, end: self.held.len(), value };
        }
        written
    }

    /// Moves what is ready, in order, into `out`, until a hole or until `out`
    /// holds `out_bytes_max`.
    pub(super) fn drain(&mut self, out_bytes_max: usize, core: &mut Core, out: &mut Vec<u8>) {
        while let Some(Slot::Ready { start, end, value }) = self.slots.front_mut() {
            let bytes = (*end - *start).min(out_bytes_max.saturating_sub(out.len()));
            out.extend_from_slice(&self.held[*start..*start + bytes]);
            *start += bytes;
            if *start < *end {
                break;
            }
            if let Some(sending) = value {
                let length = sending.pin.value_bytes();
                while sending.offset < length && out.len() < out_bytes_max {
                    let room = PIECE_BYTES_MAX.min(out_bytes_max - out.len());
                    let piece = room.min(length - sending.offset);
                    sending.pin.copy_to(sending.offset, piece, out);
                    sending.offset += piece;
                    self.pinned_bytes -= piece;
                }
                if sending.offset < length {
                    break;
                }
                out.extend_from_slice(sending.tail.bytes());
                if let Some(sending) = value.take() {
                    give_back_pin(sending.pin, sending.owner, core);
                }
            }
            self.slots.pop_front();
            self.head = self.head.wrapping_add(1);
        }
        if self.slots.is_empty() {
            self.held.clear();
            if self.held.capacity() > HELD_BYTES_KEPT {
                self.held = Vec::new();
            }
            if self.slots.capacity() > SLOTS_KEPT {
                self.slots = VecDeque::new();
            }
        } else {
            self.compact();
        }
    }

    /// A connection that never falls silent would never empty the buffer: what
    /// was sent is cut off when it is the larger part.
    fn compact(&mut self) {
        if self.held.len() < COMPACT_BYTES_MIN {
            return;
        }
        // Answers that fill holes are appended: the lowest start need not be
        // the first slot's.
        let starts = self.slots.iter().filter_map(|slot| match slot {
            Slot::Ready { start, .. } => Some(*start),
            Slot::Waiting => None,
        });
        let lowest = starts.min().unwrap_or(self.held.len());
        if lowest < self.held.len() / 2 {
            return;
        }
        self.held.drain(..lowest);
        for slot in &mut self.slots {
            if let Slot::Ready { start, end, .. } = slot {
                *start -= lowest;
                *end -= lowest;
            }
        }
    }

    /// Gives back all values, and forgets the rest.
    pub(super) fn abandon(&mut self, core: &mut Core) {
        for slot in self.slots.drain(..) {
            if let Slot::Ready { value: Some(sending), .. } = slot {
                give_back_pin(sending.pin, sending.owner, core);
            }
        }
        self.held = Vec::new();
        self.holes = 0;
        self.pinned_bytes = 0;
    }
}
