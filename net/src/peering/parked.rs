//! A batch from its arrival until every request in it has its answer.

use super::wire;
use crate::hop::{Batch, ConnToken, HopAnswer, Lent};
use crate::limits::PIN_VALUE_BYTES_MIN;
use engine::{Failure, Now, Outcome, Pin};
use std::time::Instant;

/// Who gets a batch back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A core of this node.
    Core(u32),
    /// A link, by which another node passed requests on.
    Link(ConnToken),
}

/// The answer of a request.
#[derive(Debug)]
pub enum Slot {
    /// It is not there yet.
    Missing,
    /// It has no answer: it gave something back.
    Nothing,
    /// Not executed here.
    Elsewhere,
    /// Its value is among the batch's, or pinned.
    Done { outcome: Outcome, start: u32, value_bytes: u32, pin: Option<Pin> },
}

/// A batch until it is complete.
#[derive(Debug)]
pub struct Parked {
    /// The requests, and the values of answers.
    pub batch: Box<Batch>,
    /// Who gets it back.
    pub home: Home,
    /// By request.
    pub slots: Vec<Slot>,
    /// Requests without an answer, or with one that is not to be told yet.
    pub missing: usize,
    /// How long its requests may wait for a node that executes them.
    pub until: Now,
    /// When one of its requests first found nobody to take it.
    pub stuck_at: Option<Instant>,
    /// Values that are longer are pinned. What goes to another node is copied.
    pub copy_bytes_max: usize,
}

/// A batch whose answers are complete.
#[derive(Debug)]
pub struct Finished {
    /// Who gets it.
    pub home: Home,
    /// The batch, its answers in place. For a link: what to send is in `frame`.
    pub batch: Box<Batch>,
    /// An answers frame for a link.
    pub frame: Vec<u8>,
}

impl Parked {
    /// A batch none of whose requests is answered.
    pub fn new(batch: Box<Batch>, home: Home, until: Now) -> Parked {
        let missing = batch.len();
        let slots = (0..missing).map(|_| Slot::Missing).collect();
        let copy_bytes_max = match home {
            Home::Core(_) => PIN_VALUE_BYTES_MIN,
            Home::Link(_) => usize::MAX,
        };
        Parked { batch, home, slots, missing, until, stuck_at: None, copy_bytes_max }
    }

    /// A request has found nobody to take it.
    pub fn note_stuck(&mut self) {
        self.stuck_at.get_or_insert_with(Instant::now);
    }

    /// All requests have their answers.
    pub fn finish(self) -> Finished {
        let Parked { mut batch, home, slots, .. } = self;
        let mut frame = Vec::new();
        match home {
            Home::Core(_) => batch.take_home(slots),
            Home::Link(_) => answer_frame(&batch, &slots, &mut frame),
        }
        Finished { home, batch, frame }
    }

    /// Puts an answer in its place; the request is not missing any more.
    pub fn fill(&mut self, index: u32, slot: Slot) {
        self.slots[index as usize] = slot;
        self.missing -= 1;
    }

    /// Puts an outcome in its place, still counted as missing.
    pub fn answer(&mut self, index: u32, outcome: Outcome, value: &[u8]) {
        let start = self.batch.values.len() as u32;
        self.batch.values.extend_from_slice(value);
        let value_bytes = value.len() as u32;
        self.slots[index as usize] = Slot::Done { outcome, start, value_bytes, pin: None };
    }

    /// The same of a failure, also in the place of what was there.
    pub fn put_failure(&mut self, index: u32, why: Failure) {
        self.answer(index, Outcome::Failed(why), b"");
    }

    /// Answers with a failure; the request is not missing any more.
    pub fn fail(&mut self, index: u32, why: Failure) {
        self.put_failure(index, why);
        self.missing -= 1;
    }
}

/// The answers of a batch that came over a link.
fn answer_frame(batch: &Batch, slots: &[Slot], frame: &mut Vec<u8>) {
    let start = wire::begin_frame(wire::ANSWERS, frame);
    for (hop, slot) in batch.requests.iter().zip(slots) {
        let (outcome, value) = match slot {
            Slot::Nothing | Slot::Missing => continue,
            Slot::Elsewhere => (None, &[][..]),
            Slot::Done { outcome, start, value_bytes, .. } => {
                let value = &batch.values[*start as usize..(start + value_bytes) as usize];
                (Some(outcome), value)
            }
        };
        wire::put_answer(hop.conn.as_number(), outcome, value, frame);
    }
    wire::end_frame(start, frame);
}

impl Batch {
    /// The answers of a batch of this node, in the order of the requests.
    fn take_home(&mut self, slots: Vec<Slot>) {
        for (index, slot) in slots.into_iter().enumerate() {
            // Only what came over a link is sent elsewhere.
            let Slot::Done { outcome, start, value_bytes, pin } = slot else { continue };
            self.answers.push(HopAnswer {
                index: index as u32,
                outcome: Some(outcome),
                start,
                value_bytes,
                lent: pin.is_some(),
            });
            self.lent.extend(pin.map(Lent::Pin));
        }
    }
}
