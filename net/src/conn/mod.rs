//! A connection as a state machine, without its socket.
//!
//! The reactor hands in received bytes and takes out bytes to send. What the
//! connection needs from other cores goes into [`Core::outbox`]; what comes
//! back is handed in by [`Conn::on_answer`] and [`Conn::on_control`].
//!
//! Requests are read a window ahead, so that the cache lines of the later ones
//! are on their way while the first are executed. A request executes at once
//! if this core owns its key; otherwise it hops, and the answers behind it
//! wait their turn in [`answers`].
//!
//! After any event but `on_bytes`, ask [`Conn::is_ready`]: if it says yes, the
//! connection wants `on_bytes` with what it left unconsumed, be it empty.

mod answers;
mod command;
mod frame;
mod gather;
mod large;
mod login;

use crate::control::ControlCall;
use crate::core::{Binding, Core};
use crate::hop::{self, Answer, ConnToken};
use crate::limits::{PIN_VALUE_BYTES_MIN_CROWDED, PREFETCH_WINDOW};
use crate::proto::binary::MAGIC_REQUEST;
use crate::proto::meta::KeyBuffer;
use crate::proto::text::Position;
use crate::proto::{Context, Request, Step, binary, number, text};
use crate::reply::{self, ReplyTo, Tail};
use crate::watch::LogChunk;
use answers::Answers;
use arrayvec::ArrayVec;
use engine::{KEY_BYTES_MAX, KeyHash, Now, Outcome, Pin, Reservation};
use gather::{Dump, Gather};
use large::Large;

/// What the reactor does next for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Receive more. `need` more bytes at least make the next step possible;
    /// calling with fewer is allowed and does nothing.
    Read {
        /// Bytes missing beyond the unconsumed ones, at least 1.
        need: usize,
    },
    /// Its share of this turn is used up: call again next turn with the rest.
    Yield,
    /// Keep the rest; it waits for an answer or for its output to drain.
    Blocked,
    /// Keep the rest, and call again in about a millisecond.
    Later,
    /// Send what is in `out`, then close.
    Close,
}

/// What `on_bytes` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are done with. The rest is offered again.
    pub consumed: usize,
    /// What next.
    pub next: Next,
}

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, IPv4 or IPv6.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// Why a connection ended, for watchers of `connevents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// An error of the socket or of the protocol.
    Error,
    /// The client left, or said `quit`.
    Normal,
    /// It was silent for too long.
    IdleTimeout,
    /// `shutdown`, or the node drains.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// The first byte will tell.
    Unknown,
    Text,
    Binary,
}

/// What the connection is doing.
#[derive(Debug)]
enum Phase {
    /// Reading requests.
    Requests,
    /// Throwing away what belongs to a request that was refused.
    Swallow(usize),
    /// A large value: waiting for chunks from another core.
    Reserving(Box<Large>),
    /// A large value: no chunks for it yet.
    Waiting(Box<Large>),
    /// A large value: filling its chunks.
    Filling(Box<Large>),
    /// Waiting for all cores.
    Gathering(Box<Gather>),
    /// Passing a dump through.
    Dumping(Box<Dump>),
    /// A watcher: whatever it sends is ignored. So many of its lines were
    /// lost since the last that it got.
    Watching { lost: u64 },
    /// Nothing more is read; open answers are still sent.
    Closing,
}

/// What a blocked connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// Its output to drain.
    Output,
    /// Fewer answers outstanding.
    Room,
    /// No answer outstanding.
    Empty,
    /// A reply to something special.
    Reply,
    /// The passing of a millisecond.
    Time,
    /// Nothing any more: it came.
    Go,
}

/// One client.
#[derive(Debug)]
pub struct Conn {
    token: ConnToken,
    protocol: Protocol,
    position: Position,
    phase: Phase,
    wait: Wait,
    /// Logged in, or no login is asked for.
    trusted: bool,
    answers: Answers,
    /// The output is more than half full, so that a connection which stopped
    /// for it would stop again at once.
    crowded_output: bool,
    /// The same of the answers outstanding.
    crowded_answers: bool,
    last_command: Now,
    /// Why it ends, once it does.
    close_reason: CloseReason,
}

/// A request of the window.
struct Entry<'a> {
    request: Request<'a>,
    hash: KeyHash,
    owner: u32,
    /// Where it starts in the input, and in which position.
    start: usize,
    position: Position,
}

/// A value too long to be copied at once: it follows the bytes written, and
/// `tail` follows it.
struct Held {
    pin: Pin,
    tail: Tail,
}

/// How far a step got.
enum Flow {
    /// Go on.
    On,
    /// Stop here without having consumed the step.
    Stop(Next),
}

impl Conn {
    /// A fresh connection on `core`.
    pub fn new(token: ConnToken, core: &Core) -> Conn {
        let settings = &core.shared.settings;
        // As with memcached, SASL implies the binary protocol and the auth
        // file the text protocol.
        let protocol = match settings.binding {
            _ if settings.sasl => Protocol::Binary,
            _ if settings.auth_file.is_some() => Protocol::Text,
            Binding::Auto => Protocol::Unknown,
            Binding::Ascii => Protocol::Text,
            Binding::Binary => Protocol::Binary,
        };
        Conn {
            token,
            protocol,
            position: Position::Line,
            phase: Phase::Requests,
            wait: Wait::Nothing,
            trusted: !settings.sasl && settings.auth_file.is_none(),
            answers: Answers::default(),
            crowded_output: false,
            crowded_answers: false,
            last_command: core.now,
            // As in memcached: what nobody asked for is an error.
            close_reason: CloseReason::Error,
        }
    }

    /// Received bytes: what was left last time, then what is new.
    pub fn on_bytes(&mut self, core: &mut Core, input: &[u8], out: &mut Vec<u8>) -> Progress {
        self.wait = Wait::Nothing;
        if matches!(self.phase, Phase::Waiting(_)) {
            self.ask_again(core, out);
        }
        let mut consumed = 0;
        let before = out.len() + self.answers.held_bytes();
        let budget_before = core.allowance.requests_max;
        let mut budget = budget_before;
        let next = loop {
            let rest = &input[consumed..];
            match &mut self.phase {
                Phase::Requests => {
                    let (used, flow) = self.requests(core, rest, out, &mut budget);
                    consumed += used;
                    if let Flow::Stop(next) = flow {
                        break next;
                    }
                }
                Phase::Swallow(left) => {
                    let used = rest.len().min(*left);
                    *left -= used;
                    consumed += used;
                    if *left > 0 {
                        break Next::Read { need: *left };
                    }
                    self.phase = Phase::Requests;
                }
                Phase::Filling(_) => {
                    let (used, flow) = self.fill(core, rest, out);
                    consumed += used;
                    if let Flow::Stop(next) = flow {
                        break next;
                    }
                }
                Phase::Waiting(_) => {
                    self.wait = Wait::Time;
                    break Next::Later;
                }
                Phase::Reserving(_) | Phase::Gathering(_) | Phase::Dumping(_) => {
                    self.wait = Wait::Reply;
                    break Next::Blocked;
                }
                Phase::Watching { .. } => {
                    consumed = input.len();
                    break Next::Read { need: 1 };
                }
                Phase::Closing if self.answers.is_empty() => break Next::Close,
                Phase::Closing => {
                    consumed = input.len();
                    self.wait = Wait::Empty;
                    break Next::Blocked;
                }
            }
        };
        let put_out = (out.len() + self.answers.held_bytes()).saturating_sub(before);
        core.note_work(put_out, budget_before - budget);
        self.measure(core, out);
        Progress { consumed, next }
    }

    /// An answer from another core.
    pub fn on_answer(&mut self, answer: Answer<'_>, core: &mut Core, out: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Reserving(_)) && self.is_reserving(answer.seq) {
            self.reserved(answer, core, out);
        } else {
            self.answered(answer, core, out);
        }
        self.drain(core, out);
    }

    /// Writes the answer that another core gave, in its place.
    fn answered(&mut self, answer: Answer<'_>, core: &mut Core, out: &mut Vec<u8>) {
        let Answer { seq, from, verb, to, sent_bytes, outcome, value, pin, .. } = answer;
        // Chunks that nobody waits for any more have no outcome.
        let outcome = outcome.unwrap_or(Outcome::Missing);
        core.observer(self.token).ended(&verb, &to, sent_bytes, &outcome);
        let (pin, now) = (pin.map(|pin| (pin, from)), core.now);
        let (is_pinned, most) = (pin.is_some(), core.allowance.output_bytes_max);
        let written = self.answers.fill(seq, pin, most, out, |out| {
            let tail = reply::put(&to, &outcome, now, out).unwrap_or_default();
            if !is_pinned {
                out.extend_from_slice(value);
                tail.put(out);
            }
            tail
        });
        core.note_work(written, 0);
        if let Some(reservation) = answer.reservation {
            hop::give_back_reservation(reservation, from, core);
        }
    }

    /// `out` went out to the socket, in whole or in part; it holds what is left.
    pub fn on_drained(&mut self, core: &mut Core, out: &mut Vec<u8>) {
        match &mut self.phase {
            Phase::Dumping(_) => self.pump(core, out),
            Phase::Watching { lost } if out.is_empty() => write_lost(lost, out),
            _ => {}
        }
        self.drain(core, out);
    }

    /// Log lines for a watcher. One who does not read loses them, and is told
    /// how many before the next that he gets.
    pub fn on_log(&mut self, chunk: &LogChunk, core: &mut Core, out: &mut Vec<u8>) {
        let Phase::Watching { lost } = &mut self.phase else { return };
        let room = core.shared.settings.watcher_log_bytes.max(chunk.bytes.len());
        if out.len() + chunk.bytes.len() > room {
            *lost += chunk.lines;
            core.watch.stats.skipped += chunk.lines;
        } else {
            write_lost(lost, out);
            out.extend_from_slice(&chunk.bytes);
            core.watch.stats.sent += chunk.lines;
        }
        *lost += chunk.lost;
    }

    /// A control call that this connection sent comes back.
    // Boxed, because it travels as such.
    #[allow(clippy::boxed_local)]
    pub fn on_control(&mut self, call: Box<ControlCall>, core: &mut Core, out: &mut Vec<u8>) {
        self.gathered(*call, core, out);
        self.drain(core, out);
    }

    /// The socket is gone: gives back what other parts lent.
    pub fn on_closed(&mut self, core: &mut Core) {
        self.answers.abandon(core);
        match std::mem::replace(&mut self.phase, Phase::Closing) {
            Phase::Reserving(large) | Phase::Waiting(large) | Phase::Filling(large) => {
                large.give_back(core);
            }
            Phase::Watching { .. } => self.stop_watching(core),
            Phase::Gathering(gather) if gather.is_watch() => self.stop_watching(core),
            _ => {}
        }
    }

    /// Whether `on_bytes` should be called with the rest.
    pub fn is_ready(&self) -> bool {
        match self.wait {
            Wait::Nothing | Wait::Reply | Wait::Time => false,
            Wait::Output => !self.crowded_output,
            Wait::Room => !self.crowded_answers,
            Wait::Empty => self.answers.is_empty(),
            Wait::Go => true,
        }
    }

    /// Whether `on_bytes` should be called in about a millisecond.
    pub fn waits_for_time(&self) -> bool {
        self.wait == Wait::Time
    }

    /// Whether answers are still to come (a half-closed client must get them).
    pub fn has_pending(&self) -> bool {
        !self.answers.is_empty()
            || matches!(
                self.phase,
                Phase::Reserving(_) | Phase::Waiting(_) | Phase::Gathering(_) | Phase::Dumping(_)
            )
    }

    /// Nothing of a command was taken in that is not complete.
    pub fn is_between_commands(&self) -> bool {
        match self.phase {
            Phase::Requests => self.position == Position::Line,
            Phase::Watching { .. } | Phase::Closing => true,
            _ => false,
        }
    }

    /// Bytes of its own buffers.
    #[inline]
    pub fn buffer_bytes(&self) -> usize {
        let arriving = match &self.phase {
            Phase::Filling(large) => large.buffer_bytes(),
            _ => 0,
        };
        self.answers.buffer_bytes() + arriving
    }

    /// Its name.
    pub fn token(&self) -> ConnToken {
        self.token
    }

    /// When its last command came.
    pub fn last_command(&self) -> Now {
        self.last_command
    }

    /// Why it ends, after [`Next::Close`].
    pub fn close_reason(&self) -> CloseReason {
        self.close_reason
    }

    /// The client asked for the end.
    fn leave(&mut self, reason: CloseReason) {
        self.close_reason = reason;
        self.phase = Phase::Closing;
    }

    /// State word of `stats conns`.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Requests if self.wait == Wait::Output => "conn_mwrite",
            Phase::Requests if self.wait != Wait::Nothing => "conn_io_queue",
            Phase::Requests => "conn_read",
            Phase::Swallow(_) => "conn_swallow",
            Phase::Reserving(_) | Phase::Waiting(_) | Phase::Filling(_) => "conn_nread",
            Phase::Gathering(_) => "conn_parse_cmd",
            Phase::Dumping(_) => "conn_mwrite",
            Phase::Watching { .. } => "conn_watch",
            Phase::Closing => "conn_closing",
        }
    }

    fn drain(&mut self, core: &mut Core, out: &mut Vec<u8>) {
        if !self.answers.is_empty() {
            let before = out.len();
            self.answers.drain(core.allowance.output_bytes_max, core, out);
            core.note_work(out.len() - before, 0);
        }
        self.measure(core, out);
    }

    #[inline]
    fn measure(&mut self, core: &Core, out: &[u8]) {
        let bytes_low = core.allowance.output_bytes_max / 2;
        self.crowded_output = out.len() > bytes_low;
        self.crowded_answers = self.answers.len() > core.allowance.hops_max / 2
            || self.answers.waiting_bytes() > bytes_low;
    }

    /// Requests from the input, until something stops it.
    fn requests(
        &mut self,
        core: &mut Core,
        input: &[u8],
        out: &mut Vec<u8>,
        budget: &mut u32,
    ) -> (usize, Flow) {
        if self.protocol == Protocol::Unknown {
            match input.first() {
                None => return (0, Flow::Stop(Next::Read { need: 1 })),
                Some(&MAGIC_REQUEST) => self.protocol = Protocol::Binary,
                Some(_) => self.protocol = Protocol::Text,
            }
        }
        self.last_command = core.now;
        if !self.trusted && self.protocol == Protocol::Text {
            return self.log_in_by_text(core, input, out);
        }
        let context = Context {
            now: core.now,
            started: core.shared.started,
            value_bytes_max: core.shared.settings.value_bytes_max,
            cas: core.shared.settings.cas,
        };
        let mut at = 0;
        loop {
            // Not an array of options: filling it with nothing costs 40 instructions
            // a request.
            let mut window = ArrayVec::<Entry<'_>, PREFETCH_WINDOW>::new();
            let window_start = at;
            // Look ahead as long as there are requests, then execute them.
            let special = loop {
                if window.is_full() {
                    break None;
                }
                let position = self.position;
                // Looked at where it is: a request is long, and moved once.
                let stepped = self.step(&input[at..], &context, core);
                let (used, Step::Request(request)) = &stepped else {
                    break Some((stepped, position));
                };
                let hash = KeyHash::of(request.ask.key, &core.seed);
                let owner = hash.core(core.cores);
                if owner == core.id {
                    core.shard.prefetch_index(hash);
                }
                let start = at - window_start;
                window.push(Entry { request: *request, hash, owner, start, position });
                at += used;
            };
            // A lone request would only be looked up twice.
            if window.len() > 1 {
                for entry in window.iter().filter(|entry| entry.owner == core.id) {
                    core.shard.prefetch(entry.hash);
                }
            }
            for entry in &window {
                let flow = if *budget == 0 {
                    Flow::Stop(Next::Yield)
                } else {
                    self.dispatch(&entry.request, entry.hash, entry.owner, core, out)
                };
                if let Flow::Stop(next) = flow {
                    self.position = entry.position;
                    return (window_start + entry.start, Flow::Stop(next));
                }
                *budget -= 1;
            }
            let Some(((used, step), position)) = special else { continue };
            match self.special(used, step, &input[at..], &context, core, out) {
                (used, Flow::On) => {
                    at += used;
                    *budget = budget.saturating_sub(1);
                    if !matches!(self.phase, Phase::Requests) {
                        return (at, Flow::On);
                    }
                    if *budget == 0 {
                        return (at, Flow::Stop(Next::Yield));
                    }
                }
                (used, Flow::Stop(next)) => {
                    if used == 0 && !matches!(next, Next::Close) {
                        self.position = position;
                    }
                    return (at + used, Flow::Stop(next));
                }
            }
        }
    }

    #[inline]
    fn step<'a>(&mut self, input: &'a [u8], context: &Context, core: &Core) -> (usize, Step<'a>) {
        match self.protocol {
            Protocol::Binary => {
                binary::next(input, context, core.shared.settings.sasl, !self.trusted)
            }
            _ => text::next(&mut self.position, input, context),
        }
    }

    /// Executes a request, here or where its key lives.
    #[inline]
    fn dispatch(
        &mut self,
        request: &Request<'_>,
        hash: KeyHash,
        owner: u32,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> Flow {
        if let Some(stop) = self.congested(core, out) {
            return stop;
        }
        if let Some(peers) = &mut core.peers {
            // In a cluster only what is certain executes at once: the rest is
            // decided in a batch, and in the order of the connection.
            let free = self.answers.is_empty()
                && peers.is_free(&request.ask, hash, owner, core.id, &mut core.shard, core.now);
            if !free {
                return self.hop(request, hash, owner, core);
            }
        } else if owner != core.id {
            // With answers outstanding an earlier request may still be on its
            // way to that core: this one must not overtake it.
            if self.answers.is_empty() && core.shard.visit(&core.shared.shards, owner) {
                core.stats.visits += 1;
                let held = self.serve(request, hash, core, out);
                if !core.watch.is_idle() {
                    core.log_events();
                }
                core.shard.go_home();
                return self.sent(held, owner, core, out);
            }
            return self.hop(request, hash, owner, core);
        }
        core.stats.local_requests += 1;
        if self.answers.is_empty() {
            let held = self.serve(request, hash, core, out);
            return self.sent(held, core.id, core, out);
        }
        self.serve_behind(request, hash, core);
        Flow::On
    }

    /// Executes a request on the shard that the core is at, and writes its answer but
    /// for a long value, which is held in place.
    #[inline]
    fn serve(
        &self,
        request: &Request<'_>,
        hash: KeyHash,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> Option<Held> {
        let start = out.len();
        let left = self.execute(request, hash, core, out);
        left.and_then(|tail| hold(request, hash, tail, start, core, out))
    }

    /// The same. If the value is long, what follows it.
    #[inline]
    fn execute(
        &self,
        request: &Request<'_>,
        hash: KeyHash,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> Option<Tail> {
        let (now, copy_bytes_max) = (core.now, core.copy_bytes_max);
        let (shard, mut observer) = core.parts(self.token);
        let ask = &request.ask;
        shard.execute(ask, hash, None, now, |outcome, item| {
            let to = ReplyTo::from(request);
            observer.ended(&ask.verb, &to, ask.value.len(), outcome);
            let tail = reply::put(&to, outcome, now, out)?;
            let item = item?;
            if item.value_bytes as usize > copy_bytes_max {
                return Some(tail);
            }
            item.copy_value_to(out);
            tail.put(out);
            None
        })
    }

    /// The same behind answers that are still to come: much of it waits in place.
    fn serve_behind(&mut self, request: &Request<'_>, hash: KeyHash, core: &mut Core) {
        let mut bytes = std::mem::take(self.answers.held());
        let start = bytes.len();
        if start >= core.allowance.copying.connection_bytes_max {
            core.copy_bytes_max = core.copy_bytes_max.min(PIN_VALUE_BYTES_MIN_CROWDED);
        }
        let value = self.serve(request, hash, core, &mut bytes);
        core.copy_bytes_max = core.allowance.copied_value_bytes_max;
        *self.answers.held() = bytes;
        match value {
            Some(Held { pin, tail }) => {
                self.answers.written_with_value(start, pin, core.id, tail);
            }
            None => self.answers.written(start),
        }
    }

    /// Stores a value that came in pieces on this core's shard, and answers.
    fn serve_reserved(
        &mut self,
        request: &Request<'_>,
        hash: KeyHash,
        reservation: Reservation,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) {
        let (to, now, sent_bytes) = (ReplyTo::from(request), core.now, reservation.value_bytes());
        let reserved = Some(reservation);
        let outcome = core.shard.execute(&request.ask, hash, reserved, now, |outcome, _| *outcome);
        self.write(out, |out| {
            reply::put(&to, &outcome, now, out);
        });
        core.observer(self.token).ended(&request.ask.verb, &to, sent_bytes, &outcome);
    }

    /// The request goes to its core, and leaves a hole for its answer.
    #[inline]
    fn hop(&mut self, request: &Request<'_>, hash: KeyHash, owner: u32, core: &mut Core) -> Flow {
        if core.outbox.is_full(owner) {
            return Flow::Stop(Next::Yield);
        }
        let seq = self.answers.hole();
        core.stats.hops_sent += 1;
        core.outbox.request(owner, self.token, seq, hash, request);
        Flow::On
    }

    /// An answer is in `out`, perhaps but for a long value.
    #[inline]
    fn sent(&mut self, held: Option<Held>, owner: u32, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        if let Some(Held { pin, tail }) = held {
            self.answers.written_with_value(0, pin, owner, tail);
            self.drain(core, out);
        }
        Flow::On
    }

    /// Why no request may be executed now, if so.
    #[inline]
    fn congested(&mut self, core: &Core, out: &[u8]) -> Option<Flow> {
        let allowance = &core.allowance;
        if out.len() >= allowance.output_bytes_max {
            self.wait = Wait::Output;
            return Some(Flow::Stop(Next::Blocked));
        }
        if !self.answers.is_empty()
            && (self.answers.len() >= allowance.hops_max
                || self.answers.waiting_bytes() >= allowance.output_bytes_max)
        {
            self.wait = Wait::Room;
            return Some(Flow::Stop(Next::Blocked));
        }
        None
    }

    /// Writes an answer that is at hand, in its place.
    fn write(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.answers.is_empty() {
            write(out);
        } else {
            let start = self.answers.held_bytes();
            write(self.answers.held());
            self.answers.written(start);
        }
    }

    fn write_line(&mut self, out: &mut Vec<u8>, line: &str) {
        if !line.is_empty() {
            self.write(out, |out| {
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(b"\r\n");
            });
        }
    }

    /// Whatever is not a complete request. Returns how much of the input is
    /// done with.
    fn special(
        &mut self,
        used: usize,
        step: Step<'_>,
        input: &[u8],
        context: &Context,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> (usize, Flow) {
        match step {
            Step::Incomplete { need } => return (used, Flow::Stop(Next::Read { need })),
            Step::Close => {
                self.phase = Phase::Closing;
                return (input.len(), Flow::On);
            }
            _ => {}
        }
        if let Some(Flow::Stop(next)) = self.congested(core, out) {
            return (0, Flow::Stop(next));
        }
        match step {
            Step::Line { line, swallow } => {
                self.write_line(out, line);
                self.swallow(swallow);
            }
            Step::End => self.write(out, |out| out.extend_from_slice(b"END\r\n")),
            Step::Encoded => return self.encoded(input, context, core, out),
            Step::Refused { request, swallow } => {
                let flow = self.route(&request, core, out);
                if let Flow::Stop(next) = flow {
                    return (0, Flow::Stop(next));
                }
                self.swallow(swallow);
            }
            Step::Large { request, value_bytes } => {
                if let Flow::Stop(next) = self.start_large(&request, value_bytes, core, out) {
                    return (0, Flow::Stop(next));
                }
            }
            Step::Command(line) => {
                if let Flow::Stop(next) = self.command(line, core, out) {
                    return (0, Flow::Stop(next));
                }
            }
            Step::Frame(command) => {
                if let Flow::Stop(next) = self.frame(&command, core, out) {
                    return (0, Flow::Stop(next));
                }
            }
            Step::BinaryError { frame, status, swallow, close } => {
                self.write(out, |out| binary::put_error(out, frame, status));
                self.swallow(swallow);
                if close {
                    self.phase = Phase::Closing;
                }
            }
            Step::Request(_) | Step::Incomplete { .. } | Step::Close => {}
        }
        (used, Flow::On)
    }

    fn swallow(&mut self, bytes: usize) {
        if bytes > 0 {
            self.phase = Phase::Swallow(bytes);
        }
    }

    /// Hashes and dispatches.
    fn route(&mut self, request: &Request<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let hash = KeyHash::of(request.ask.key, &core.seed);
        self.dispatch(request, hash, hash.core(core.cores), core, out)
    }

    /// A meta command whose key is base64: parsed once more, with room for the
    /// key.
    fn encoded(
        &mut self,
        input: &[u8],
        context: &Context,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> (usize, Flow) {
        let mut buffer: KeyBuffer = [0; KEY_BYTES_MAX];
        let (used, step) = text::encoded(input, context, &mut buffer);
        match step {
            Step::Request(request) => match self.route(&request, core, out) {
                Flow::On => (used, Flow::On),
                stop => (0, stop),
            },
            // Not again: `text::encoded` never says so.
            Step::Encoded => (used, Flow::On),
            step => self.special(used, step, input, context, core, out),
        }
    }
}

/// Holds the value of the item that was just read in place, for an answer that begins
/// at `start`.
#[cold]
fn hold(
    request: &Request<'_>,
    hash: KeyHash,
    tail: Tail,
    start: usize,
    core: &mut Core,
    out: &mut Vec<u8>,
) -> Option<Held> {
    let pin = core.shard.pin_read(request.ask.key, hash);
    if pin.is_none() {
        // It died of its new expiry.
        out.truncate(start);
        reply::put(&ReplyTo::from(request), &Outcome::Missing, core.now, out);
    }
    pin.map(|pin| Held { pin, tail })
}

/// Tells a watcher how many lines it lost, if it did.
fn write_lost(lost: &mut u64, out: &mut Vec<u8>) {
    if *lost > 0 {
        out.extend_from_slice(b"skipped=");
        number::put(out, std::mem::take(lost));
        out.push(b'\n');
    }
}
