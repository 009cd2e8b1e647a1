//! Values too long to wait for: chunks are taken at the owner first, and
//! filled as the bytes arrive, so that no connection ever holds such a value.

use super::{Conn, Flow, Next, Phase, Protocol, Wait};
use crate::core::Core;
use crate::exec;
use crate::hop::{Answer, give_back_reservation};
use crate::proto::{BAD_CHUNK, Op, Request};
use engine::{KeyHash, Reservation};

/// A store under way. What its request borrowed from the input is kept here.
#[derive(Debug)]
pub(super) struct Large {
    op: Op,
    key: Vec<u8>,
    flags: Vec<u8>,
    hash: KeyHash,
    owner: u32,
    value_bytes: usize,
    /// The hole of the question for chunks.
    seq: u32,
    reservation: Option<Reservation>,
}

impl Large {
    fn request(&self) -> Request<'_> {
        Request { op: self.op, key: &self.key, value: &[], flags: &self.flags }
    }

    fn is_quiet(&self) -> bool {
        matches!(self.op, Op::Store(store) if store.quiet)
    }

    /// The connection is gone.
    pub(super) fn give_back(self, core: &mut Core) {
        if let Some(reservation) = self.reservation {
            give_back_reservation(reservation, self.owner, core);
        }
    }
}

impl Conn {
    /// Takes chunks for a store, here or at the owner.
    pub(super) fn start_large(
        &mut self,
        request: &Request<'_>,
        value_bytes: usize,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> Flow {
        let hash = KeyHash::of(request.key, &core.seed);
        let owner = hash.core(core.cores);
        let mut large = Box::new(Large {
            op: request.op,
            key: request.key.to_vec(),
            flags: request.flags.to_vec(),
            hash,
            owner,
            value_bytes,
            seq: 0,
            reservation: None,
        });
        if owner != core.id {
            if core.outbox.is_full(owner) {
                return Flow::Stop(Next::Yield);
            }
            large.seq = self.answers.hole();
            core.stats.hops_sent += 1;
            core.outbox.reserve(owner, self.token, large.seq, hash, request, value_bytes);
            self.phase = Phase::Reserving(large);
            return Flow::On;
        }
        let mut taken = None;
        core.stats.local_requests += 1;
        self.write(out, |out| taken = exec::reserve(request, hash, value_bytes, core, out));
        self.chunks(large, taken);
        Flow::On
    }

    /// Whether `seq` is the question for chunks.
    pub(super) fn is_reserving(&self, seq: u32) -> bool {
        matches!(&self.phase, Phase::Reserving(large) if large.seq == seq)
    }

    /// The owner's answer: chunks, or a refusal.
    pub(super) fn reserved(&mut self, answer: Answer<'_>, core: &mut Core, out: &mut Vec<u8>) {
        let Phase::Reserving(large) = std::mem::replace(&mut self.phase, Phase::Requests) else {
            return;
        };
        self.answers.fill(answer.seq, answer.bytes, None, out);
        self.answers.drain(core.shared.settings.output_bytes_high_water, core, out);
        self.chunks(large, answer.reservation);
        // The value may be waiting.
        self.wait = Wait::Go;
    }

    /// Fill the chunks, or throw the value away.
    fn chunks(&mut self, mut large: Box<Large>, taken: Option<Reservation>) {
        if taken.is_some() {
            large.reservation = taken;
            self.phase = Phase::Filling(large);
        } else {
            let line_end = if self.protocol == Protocol::Binary { 0 } else { 2 };
            self.phase = Phase::Swallow(large.value_bytes + line_end);
        }
    }

    /// Bytes for the chunks, then the line end, then the commit.
    pub(super) fn fill(
        &mut self,
        core: &mut Core,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Flow) {
        let Phase::Filling(large) = &mut self.phase else {
            return (0, Flow::On);
        };
        let Some(reservation) = &mut large.reservation else {
            return (0, Flow::On);
        };
        self.last_command = core.now;
        let used = reservation.fill(input);
        let missing = reservation.missing();
        let line_end = if self.protocol == Protocol::Binary { 0 } else { 2 };
        let rest = &input[used..];
        if missing > 0 || rest.len() < line_end {
            return (
                used,
                Flow::Stop(Next::Read {
                    need: (missing + line_end - rest.len().min(line_end)).max(1),
                }),
            );
        }
        if let Some(Flow::Stop(next)) = self.congested(core, out) {
            return (used, Flow::Stop(next));
        }
        let Phase::Filling(mut large) = std::mem::replace(&mut self.phase, Phase::Requests) else {
            return (used, Flow::On);
        };
        let Some(reservation) = large.reservation.take() else {
            return (used, Flow::On);
        };
        if line_end > 0 && &rest[..2] != b"\r\n" {
            give_back_reservation(reservation, large.owner, core);
            if !large.is_quiet() {
                self.write_line(out, BAD_CHUNK);
            }
            return (used + line_end, Flow::On);
        }
        let request = large.request();
        if large.owner == core.id {
            core.watch.connection = self.token.index;
            self.write(out, |out| {
                exec::execute(&request, large.hash, Some(reservation), core, out);
            });
        } else {
            let seq = self.answers.hole();
            core.outbox.commit(large.owner, self.token, seq, large.hash, &request, reservation);
        }
        (used + line_end, Flow::On)
    }
}
