//! A batch from its arrival until every request in it has its answer.

use super::wire::{self, Status};
use crate::exec::{self, Tail};
use crate::hop::{Batch, ConnToken, HopAnswer, Kind, Lent};
use crate::proto::Op;
use engine::Now;
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
    /// It is among the batch's bytes.
    Done { start: u32, bytes: u32, tail: Tail, lent: Option<Lent> },
}

/// A batch until it is complete.
#[derive(Debug)]
pub struct Parked {
    /// The requests, and the bytes of answers.
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
        Parked { batch, home, slots, missing, until, stuck_at: None }
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

    /// Puts bytes in the place of an answer, still counted as missing.
    pub fn answer(&mut self, index: u32, bytes: &[u8]) {
        let start = self.batch.answer_bytes.len() as u32;
        self.batch.answer_bytes.extend_from_slice(bytes);
        self.slots[index as usize] =
            Slot::Done { start, bytes: bytes.len() as u32, tail: Tail::Nothing, lent: None };
    }

    /// Puts an error in the place of an answer, or of what was there, still counted
    /// as missing.
    fn put_error(&mut self, index: u32, op: &Op, why: &str) {
        let mut bytes = Vec::new();
        exec::fail(op, why, &mut bytes);
        self.answer(index, &bytes);
    }

    /// The same by the request's place alone.
    pub fn put_error_at(&mut self, index: u32, why: &str) {
        if let Kind::Execute(op) = self.batch.requests[index as usize].kind {
            self.put_error(index, &op, why);
        }
    }

    /// Answers with an error; the request is not missing any more.
    pub fn fail(&mut self, index: u32, op: &Op, why: &str) {
        self.put_error(index, op, why);
        self.missing -= 1;
    }
}

/// The answers of a batch that came over a link.
fn answer_frame(batch: &Batch, slots: &[Slot], frame: &mut Vec<u8>) {
    let start = wire::begin_frame(wire::ANSWERS, frame);
    for (hop, slot) in batch.requests.iter().zip(slots) {
        let (status, bytes) = match slot {
            Slot::Nothing | Slot::Missing => continue,
            Slot::Elsewhere => (Status::Elsewhere, &[][..]),
            Slot::Done { start, bytes, .. } => {
                (Status::Done, &batch.answer_bytes[*start as usize..(start + bytes) as usize])
            }
        };
        wire::put_answer(hop.conn.as_number(), status, bytes, frame);
    }
    wire::end_frame(start, frame);
}

impl Batch {
    /// The answers of a batch of this node, in the order of the requests.
    fn take_home(&mut self, slots: Vec<Slot>) {
        for (hop, slot) in self.requests.iter().zip(slots) {
            // Only what came over a link is sent elsewhere.
            let Slot::Done { start, bytes, tail, lent } = slot else { continue };
            let (conn, seq) = (hop.conn, hop.seq);
            self.answers.push(HopAnswer { conn, seq, start, bytes, lent: lent.is_some(), tail });
            self.lent.extend(lent);
        }
    }
}
