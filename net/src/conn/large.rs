//! Values too long to wait for: chunks are taken at the owner first, and
//! filled as the bytes arrive, so that no connection ever holds such a value.

use super::{Conn, Flow, Next, Phase, Protocol, Wait};
use crate::core::Core;
use crate::hop::{self, Answer, Asked, give_back_reservation};
use crate::limits::ARRIVING_QUEUE_MAX;
use crate::proto::{BAD_CHUNK, Reply, Request};
use crate::reply::{self, ReplyTo, Tail};
use engine::{KeyHash, Now, Outcome, Refusal, Reservation, Verb};

/// A store under way. What its request borrowed from the input is kept here.
#[derive(Debug)]
pub(super) struct Large {
    verb: Verb,
    reply: Reply,
    key: Vec<u8>,
    tags: Vec<u8>,
    words: Vec<u8>,
    hash: KeyHash,
    owner: u32,
    value_bytes: usize,
    /// Until when it waits for others to arrive.
    patient_until: Now,
    /// It is counted as waiting.
    waits: bool,
    /// The hole of the question for chunks.
    seq: u32,
    reservation: Option<Reservation>,
    /// In a cluster: the value so far, since its chunks may be of another node.
    gathered: Option<Vec<u8>>,
}

impl Large {
    /// Bytes that it holds outside of any shard.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.gathered.as_ref().map_or(0, Vec::capacity)
    }

    fn request(&self) -> Request<'_> {
        let ask = engine::Request { verb: self.verb, key: &self.key, tags: &self.tags, value: &[] };
        Request { ask, reply: self.reply, words: &self.words }
    }

    fn is_quiet(&self) -> bool {
        matches!(self.reply, Reply::Text { quiet: true, .. })
    }

    /// Counts it as waiting, or not any more.
    fn set_waits(&mut self, waits: bool, core: &mut Core) {
        if waits && !self.waits {
            core.patient += 1;
        } else if !waits && self.waits {
            core.patient -= 1;
        }
        self.waits = waits;
    }

    /// The connection is gone.
    pub(super) fn give_back(mut self, core: &mut Core) {
        self.set_waits(false, core);
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
        let hash = KeyHash::of(request.ask.key, &core.seed);
        let owner = hash.core(core.cores);
        let patience_ms = core.shared.settings.arriving_wait_ms;
        let large = Box::new(Large {
            verb: request.ask.verb,
            reply: request.reply,
            key: request.ask.key.to_vec(),
            tags: request.ask.tags.to_vec(),
            words: request.words.to_vec(),
            hash,
            owner,
            value_bytes,
            patient_until: if core.patient < ARRIVING_QUEUE_MAX {
                Now(core.now.0 + patience_ms)
            } else {
                core.now
            },
            waits: false,
            seq: 0,
            reservation: None,
            gathered: core.peers.as_ref().map(|_| Vec::new()),
        });
        if large.gathered.is_some() {
            self.phase = Phase::Filling(large);
            return Flow::On;
        }
        self.ask_chunks(large, core, out)
    }

    /// Asks the owner for chunks, once more where it had none yet. The request
    /// is not consumed if the owner is too far behind to be asked.
    fn ask_chunks(&mut self, mut large: Box<Large>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let last_try = core.now >= large.patient_until;
        if large.owner != core.id {
            if core.outbox.is_full(large.owner) {
                return Flow::Stop(Next::Yield);
            }
            large.seq = self.answers.hole();
            core.stats.hops_sent += 1;
            core.outbox.reserve(
                large.owner,
                self.token,
                large.seq,
                large.hash,
                &large.request(),
                large.value_bytes,
                last_try,
            );
            self.phase = Phase::Reserving(large);
            return Flow::On;
        }
        let (request, value_bytes) = (large.request(), large.value_bytes);
        let asked = hop::reserve(&request.ask, large.hash, value_bytes, last_try, core);
        if !matches!(asked, Asked::Later) {
            core.stats.local_requests += 1;
        }
        if let Asked::Refused(why) = asked {
            let outcome = Outcome::Refused(why);
            core.observer(self.token).refused(&large.key, why);
            self.write(out, |out| {
                reply::put(&ReplyTo::from(&request), &outcome, core.now, out);
            });
        }
        self.chunks(large, asked, core);
        Flow::On
    }

    /// Asks again for the chunks of a value that has waited.
    pub(super) fn ask_again(&mut self, core: &mut Core, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.phase, Phase::Requests) {
            Phase::Waiting(large) if large.owner != core.id && core.outbox.is_full(large.owner) => {
                self.phase = Phase::Waiting(large);
            }
            Phase::Waiting(large) => {
                self.ask_chunks(large, core, out);
            }
            phase => self.phase = phase,
        }
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
        let asked = match (answer.reservation, answer.outcome) {
            (Some(reservation), _) => Asked::Chunks(reservation),
            (None, None) => Asked::Later,
            (None, Some(Outcome::Refused(why))) => Asked::Refused(why),
            (None, Some(_)) => Asked::Refused(Refusal::OutOfMemory),
        };
        let (now, out_bytes_max) = (core.now, core.allowance.output_bytes_max);
        self.answers.fill(answer.seq, None, out_bytes_max, out, |out| match answer.outcome {
            Some(outcome) => reply::put(&answer.to, &outcome, now, out).unwrap_or_default(),
            None => Tail::Nothing,
        });
        self.answers.drain(out_bytes_max, core, out);
        if let Asked::Refused(why) = asked {
            core.observer(self.token).refused(&large.key, why);
        }
        // The value may be waiting.
        self.wait = if matches!(asked, Asked::Later) { Wait::Time } else { Wait::Go };
        self.chunks(large, asked, core);
    }

    /// Fill the chunks, wait for some, or throw the value away.
    fn chunks(&mut self, mut large: Box<Large>, asked: Asked, core: &mut Core) {
        large.set_waits(matches!(asked, Asked::Later), core);
        self.phase = match asked {
            Asked::Chunks(reservation) => {
                large.reservation = Some(reservation);
                Phase::Filling(large)
            }
            Asked::Later => Phase::Waiting(large),
            Asked::Refused(_) => {
                let line_end = if self.protocol == Protocol::Binary { 0 } else { 2 };
                Phase::Swallow(large.value_bytes + line_end)
            }
        };
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
        self.last_command = core.now;
        if large.gathered.is_some() {
            return self.gather_value(core, input, out);
        }
        let Some(reservation) = &mut large.reservation else {
            return (0, Flow::On);
        };
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
            self.serve_reserved(&request, large.hash, reservation, core, out);
        } else {
            let seq = self.answers.hole();
            core.outbox.commit(large.owner, self.token, seq, large.hash, &request, reservation);
        }
        (used + line_end, Flow::On)
    }

    /// The same without chunks: the value is put together here, and then is a
    /// request like any other.
    fn gather_value(&mut self, core: &mut Core, input: &[u8], out: &mut Vec<u8>) -> (usize, Flow) {
        let line_end = if self.protocol == Protocol::Binary { 0 } else { 2 };
        let Phase::Filling(mut large) = std::mem::replace(&mut self.phase, Phase::Requests) else {
            return (0, Flow::On);
        };
        let mut value = large.gathered.take().unwrap_or_default();
        let used = input.len().min(large.value_bytes - value.len());
        value.extend_from_slice(&input[..used]);
        let rest = &input[used..];
        let missing = large.value_bytes - value.len() + line_end - rest.len().min(line_end);
        if missing > 0 {
            large.gathered = Some(value);
            self.phase = Phase::Filling(large);
            return (used, Flow::Stop(Next::Read { need: missing }));
        }
        if line_end > 0 && &rest[..2] != b"\r\n" {
            if !large.is_quiet() {
                self.write_line(out, BAD_CHUNK);
            }
            return (used + line_end, Flow::On);
        }
        let mut request = large.request();
        request.ask.value = &value;
        if let Flow::Stop(next) = self.dispatch(&request, large.hash, large.owner, core, out) {
            large.gathered = Some(value);
            self.phase = Phase::Filling(large);
            return (used, Flow::Stop(next));
        }
        (used + line_end, Flow::On)
    }
}
