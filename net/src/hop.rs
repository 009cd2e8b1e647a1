//! Requests that travel to the core that owns their key, and back.
//!
//! A [`Batch`] is a box that goes to a peer full of requests and comes home
//! full of outcomes; its buffers are reused, so a hop allocates nothing in
//! steady state. How each request is answered travels along in the box, unseen
//! by who executes it.
//!
//! ```text
//! requests  | conn seq hash verb reply lengths | ...      (scalars)
//! bytes     | key tags value words | ...                  (in the same order)
//! answers   | outcome, where its value is | ...
//! values    | value | value | ...
//! lent      | chunks or values that go along, in the order of use
//! ```
//!
//! The [`Outbox`] holds the batch being filled for each peer and everything
//! that the mesh could not take yet. It refuses new requests for a peer that
//! is too far behind ([`Outbox::is_full`]); what gives memory back (an unpin,
//! an abort) always finds room, its number being bounded by what was lent.

use crate::allowance::Copying;
use crate::control::ControlCall;
use crate::core::Core;
use crate::limits;
use crate::proto::{Reply, Request, TextCommand};
use crate::reply::ReplyTo;
use crate::watch::LogChunk;
use engine::{KeyHash, Now, Outcome, Pin, Refusal, Reservation, Shard, StoreError, Verb};
use std::collections::VecDeque;

/// Names a connection of one core. Slots are reused; the generation tells an
/// old owner from a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnToken {
    /// Slot in the reactor's table.
    pub index: u32,
    /// Counts the slot's owners.
    pub generation: u32,
}

impl ConnToken {
    /// Both parts as one number.
    pub(crate) fn as_number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// The peer number of the control thread, in `from` fields.
pub const CONTROL_PEER: u32 = u32::MAX;

/// What travels over the mesh.
#[derive(Debug)]
pub enum Message {
    /// Execute these and send the box back.
    Requests(Box<Batch>),
    /// The box comes home.
    Answers(Box<Batch>),
    /// Execute on your core and send back as `ControlDone`.
    Control(Box<ControlCall>),
    /// The answer.
    ControlDone(Box<ControlCall>),
    /// Log lines for a watcher that is connected to the receiving core. No answer.
    Log(Box<LogChunk>),
}

/// Requests for one peer, then their answers.
#[derive(Debug, Default)]
pub struct Batch {
    /// The core whose connections ask.
    pub from: u32,
    /// The core that owns the keys.
    pub to: u32,
    pub(crate) requests: Vec<HopRequest>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) lent: VecDeque<Lent>,
    pub(crate) answers: Vec<HopAnswer>,
    pub(crate) values: Vec<u8>,
    /// Which values are copied into the answers.
    pub(crate) copying: Copying,
    taken: usize,
}

/// Memory of the owner's arena that another core works with.
#[derive(Debug)]
pub(crate) enum Lent {
    Pin(Pin),
    Reservation(Reservation),
    /// No chunks yet.
    Later,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct HopRequest {
    pub conn: ConnToken,
    pub seq: u32,
    pub hash: KeyHash,
    pub kind: Kind,
    reply: Reply,
    /// Where its bytes begin in the batch's.
    start: u32,
    key_bytes: u32,
    tags_bytes: u32,
    value_bytes: u32,
    words_bytes: u32,
}

impl HopRequest {
    /// What it asks, out of its batch's bytes.
    pub fn ask<'a>(&self, verb: Verb, bytes: &'a [u8]) -> engine::Request<'a> {
        let (key, rest) = bytes[self.start as usize..].split_at(self.key_bytes as usize);
        let (tags, rest) = rest.split_at(self.tags_bytes as usize);
        engine::Request { verb, key, tags, value: &rest[..self.value_bytes as usize] }
    }

    /// What its answer needs of it.
    fn reply_to<'a>(&'a self, bytes: &'a [u8]) -> ReplyTo<'a> {
        let (key, rest) = bytes[self.start as usize..].split_at(self.key_bytes as usize);
        let words = &rest[(self.tags_bytes + self.value_bytes) as usize..];
        ReplyTo { reply: &self.reply, key, words: &words[..self.words_bytes as usize] }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Execute it.
    Execute(Verb),
    /// Take chunks for a value.
    Reserve { verb: Verb, value_bytes: usize, last_try: bool },
    /// Execute it with the chunks that come along, which hold so many bytes.
    Commit(Verb, usize),
    /// Take the chunks back. No answer.
    Abort,
    /// Take the value back. No answer.
    Unpin,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct HopAnswer {
    /// The request's place in its batch.
    pub index: u32,
    /// `None`: it asked for chunks, and got some or is to ask again.
    pub outcome: Option<Outcome>,
    /// Where the value lies among the batch's.
    pub start: u32,
    pub value_bytes: u32,
    pub lent: bool,
}

/// One answer out of a batch.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Whose request it was.
    pub conn: ConnToken,
    /// Which of its requests.
    pub seq: u32,
    /// The core that answered.
    pub from: u32,
    /// What was asked.
    pub verb: Verb,
    /// How it is answered.
    pub to: ReplyTo<'a>,
    /// Length of the value that came with it.
    pub sent_bytes: usize,
    /// What came of it; `None` if it asked for chunks and was not refused.
    pub outcome: Option<Outcome>,
    /// The value of what was found, if it was copied.
    pub value: &'a [u8],
    /// The same if it was not.
    pub pin: Option<Pin>,
    /// Chunks for a value that is arriving.
    pub reservation: Option<Reservation>,
    /// There are no chunks yet: ask again.
    pub later: bool,
}

impl Batch {
    pub(crate) fn new(from: u32, to: u32) -> Batch {
        Batch { from, to, ..Batch::default() }
    }

    /// Number of requests in it.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The next answer; `None` when all have been taken.
    pub fn next_answer(&mut self) -> Option<Answer<'_>> {
        let answer = *self.answers.get(self.taken)?;
        self.taken += 1;
        let start = answer.start as usize;
        let (mut pin, mut reservation, mut later) = (None, None, false);
        if answer.lent {
            match self.lent.pop_front() {
                Some(Lent::Pin(lent)) => pin = Some(lent),
                Some(Lent::Reservation(lent)) => reservation = Some(lent),
                Some(Lent::Later) => later = true,
                None => {}
            }
        }
        let hop = &self.requests[answer.index as usize];
        let (verb, sent_bytes) = match hop.kind {
            Kind::Commit(verb, value_bytes) => (verb, value_bytes),
            Kind::Execute(verb) | Kind::Reserve { verb, .. } => (verb, hop.value_bytes as usize),
            Kind::Abort | Kind::Unpin => unreachable!("what is given back is not answered"),
        };
        Some(Answer {
            conn: hop.conn,
            seq: hop.seq,
            from: self.to,
            verb,
            to: hop.reply_to(&self.bytes),
            sent_bytes,
            outcome: answer.outcome,
            value: &self.values[start..start + answer.value_bytes as usize],
            pin,
            reservation,
            later,
        })
    }

    fn is_filled(&self) -> bool {
        self.requests.len() >= limits::BATCH_REQUESTS_MAX
            || self.bytes.len() >= limits::BATCH_BYTES_MAX
    }

    pub(crate) fn push(
        &mut self,
        conn: ConnToken,
        seq: u32,
        hash: KeyHash,
        kind: Kind,
        request: &Request<'_>,
    ) {
        let ask = &request.ask;
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(ask.key);
        self.bytes.extend_from_slice(ask.tags);
        self.bytes.extend_from_slice(ask.value);
        self.bytes.extend_from_slice(request.words);
        self.requests.push(HopRequest {
            conn,
            seq,
            hash,
            kind,
            reply: request.reply,
            start,
            key_bytes: ask.key.len() as u32,
            tags_bytes: ask.tags.len() as u32,
            value_bytes: ask.value.len() as u32,
            words_bytes: request.words.len() as u32,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.requests.clear();
        self.bytes.clear();
        self.lent.clear();
        self.answers.clear();
        self.values.clear();
        self.taken = 0;
        // One huge multiget must not cost its memory forever.
        self.values.shrink_to(4 * limits::BATCH_BYTES_MAX);
        self.bytes.shrink_to(2 * limits::BATCH_BYTES_MAX);
    }
}

/// Requests prefetched ahead while a batch is executed.
const PREFETCH_DISTANCE: usize = 6;

/// Decides which values are copied into a batch's answers and which are pinned.
#[derive(Debug)]
pub(crate) struct Copier {
    copying: Copying,
    asker: ConnToken,
    /// Where the values for that connection begin.
    start: usize,
}

impl Copier {
    pub fn new(copying: Copying) -> Copier {
        Copier { copying, asker: ConnToken::default(), start: 0 }
    }

    /// The longest value that is copied for the next request, which is of `asker`,
    /// when there are so many bytes of values. Requests of one connection mostly
    /// follow each other.
    #[inline]
    pub fn value_bytes_max(&mut self, asker: ConnToken, bytes: usize) -> usize {
        if asker != self.asker {
            (self.asker, self.start) = (asker, bytes);
        }
        let copying = &self.copying;
        if bytes < copying.batch_bytes_max && bytes - self.start < copying.connection_bytes_max {
            limits::PIN_VALUE_BYTES_MIN
        } else {
            limits::PIN_VALUE_BYTES_MIN_CROWDED
        }
    }
}

/// Executes a request on this core's shard. A value that was found is appended to
/// `values` if it has at most `copy_bytes_max` bytes, and pinned otherwise.
#[inline]
pub(crate) fn execute(
    ask: &engine::Request<'_>,
    hash: KeyHash,
    reserved: Option<Reservation>,
    copy_bytes_max: usize,
    shard: &mut Shard,
    now: Now,
    values: &mut Vec<u8>,
) -> (Outcome, Option<Pin>) {
    let (outcome, is_copied) = shard.execute(ask, hash, reserved, now, |outcome, item| {
        let is_copied = item.is_none_or(|item| {
            let is_short = item.value_bytes as usize <= copy_bytes_max;
            if is_short {
                item.copy_value_to(values);
            }
            is_short
        });
        (*outcome, is_copied)
    });
    if is_copied {
        return (outcome, None);
    }
    match shard.pin_read(ask.key, hash) {
        Some(pin) => (outcome, Some(pin)),
        // It died of its new expiry.
        None => (Outcome::Missing, None),
    }
}

/// What came of asking for the chunks of a value that will come in pieces.
#[derive(Debug)]
pub enum Asked {
    /// Here they are.
    Chunks(Reservation),
    /// Too many other values are arriving: ask again.
    Later,
    /// It is refused.
    Refused(Refusal),
}

/// Takes chunks for a value that will come in pieces. `last_try`: refuse it
/// rather than say that there is no room yet.
pub fn reserve(
    ask: &engine::Request<'_>,
    hash: KeyHash,
    value_bytes: usize,
    last_try: bool,
    core: &mut Core,
) -> Asked {
    let crowded = is_crowded(core, value_bytes);
    if crowded && !last_try {
        return Asked::Later;
    }
    let taken = if crowded {
        Err(StoreError::OutOfMemory { value_bytes: value_bytes as u64 })
    } else {
        core.shard.reserve(ask.key, value_bytes, core.now)
    };
    match taken {
        Ok(reservation) => Asked::Chunks(reservation),
        Err(error) => {
            if matches!(ask.verb, Verb::Write(options) if options.unlink_if_refused) {
                core.shard.unlink_key(ask.key, hash, core.now);
            }
            Asked::Refused(error.into())
        }
    }
}

/// Whether values under way hold so much memory that this one must wait. One
/// alone may always come, whatever its length.
fn is_crowded(core: &Core, value_bytes: usize) -> bool {
    let arriving = core.shard.arriving_bytes();
    let most = match core.shared.settings.arriving_bytes_max {
        0 => core.shard.memory_bytes_max() as u64 / 4,
        node => node / u64::from(core.cores),
    };
    arriving > 0 && arriving + value_bytes as u64 > most
}

/// Executes all requests of `batch` on this core and leaves the outcomes in it.
pub fn execute_batch(batch: &mut Batch, core: &mut Core) {
    let mut copier = Copier::new(batch.copying);
    let Batch { requests, bytes, lent, answers, values, .. } = batch;
    for request in requests.iter().take(2 * PREFETCH_DISTANCE) {
        core.shard.prefetch_index(request.hash);
    }
    for request in requests.iter().take(PREFETCH_DISTANCE) {
        core.shard.prefetch(request.hash);
    }
    // What came along is in front, what goes back is put behind it.
    for (index, hop) in requests.iter().enumerate() {
        if let Some(ahead) = requests.get(index + 2 * PREFETCH_DISTANCE) {
            core.shard.prefetch_index(ahead.hash);
        }
        if let Some(ahead) = requests.get(index + PREFETCH_DISTANCE) {
            core.shard.prefetch(ahead.hash);
        }
        core.stats.hops_served += 1;
        let start = values.len();
        let copy_bytes_max = copier.value_bytes_max(hop.conn, start);
        let mut execute = |verb, reserved| {
            let ask = hop.ask(verb, bytes);
            let (shard, now) = (&mut core.shard, core.now);
            execute(&ask, hop.hash, reserved, copy_bytes_max, shard, now, values)
        };
        let (outcome, goes_back) = match hop.kind {
            Kind::Execute(verb) => {
                let (outcome, pin) = execute(verb, None);
                (Some(outcome), pin.map(Lent::Pin))
            }
            Kind::Reserve { verb, value_bytes, last_try } => {
                match reserve(&hop.ask(verb, bytes), hop.hash, value_bytes, last_try, core) {
                    Asked::Chunks(reservation) => (None, Some(Lent::Reservation(reservation))),
                    Asked::Later => (None, Some(Lent::Later)),
                    Asked::Refused(why) => (Some(Outcome::Refused(why)), None),
                }
            }
            Kind::Commit(verb, _) => {
                let Some(Lent::Reservation(reservation)) = lent.pop_front() else {
                    unreachable!("a commit brings its chunks")
                };
                (Some(execute(verb, Some(reservation)).0), None)
            }
            Kind::Abort | Kind::Unpin => {
                match lent.pop_front() {
                    Some(Lent::Reservation(reservation)) => core.shard.abort(reservation),
                    Some(Lent::Pin(pin)) => core.shard.unpin(pin),
                    Some(Lent::Later) | None => unreachable!("it brings what it gives back"),
                }
                continue;
            }
        };
        answers.push(HopAnswer {
            index: index as u32,
            outcome,
            start: start as u32,
            value_bytes: (values.len() - start) as u32,
            lent: goes_back.is_some(),
        });
        lent.extend(goes_back);
    }
}

/// Puts away an answer whose connection is gone: chunks and pins go back to
/// the core that lent them.
pub fn discard(answer: Answer<'_>, core: &mut Core) {
    if let Some(pin) = answer.pin {
        give_back_pin(pin, answer.from, core);
    }
    if let Some(reservation) = answer.reservation {
        give_back_reservation(reservation, answer.from, core);
    }
}

/// Returns a value to its owner.
pub(crate) fn give_back_pin(pin: Pin, owner: u32, core: &mut Core) {
    if owner == core.id {
        core.shard.unpin(pin);
    } else {
        core.outbox.give_back(owner, Kind::Unpin, Lent::Pin(pin));
    }
}

/// Returns chunks to their owner.
pub(crate) fn give_back_reservation(reservation: Reservation, owner: u32, core: &mut Core) {
    if owner == core.id {
        core.shard.abort(reservation);
    } else {
        core.outbox.give_back(owner, Kind::Abort, Lent::Reservation(reservation));
    }
}

/// What waits to be sent to each peer.
#[derive(Debug)]
pub struct Outbox {
    id: u32,
    /// For the batches that are begun now.
    pub(crate) copying: Copying,
    peers: Vec<Peer>,
    // Boxes, because they travel as such.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Batch>>,
}

#[derive(Debug, Default)]
struct Peer {
    filling: Option<Box<Batch>>,
    ready: VecDeque<Message>,
    /// Batches of requests that have not come home, those in `ready` included.
    away: usize,
}

impl Outbox {
    /// An empty outbox of core `id` among `cores`.
    pub fn new(id: u32, cores: u32) -> Outbox {
        Outbox {
            id,
            copying: Copying::default(),
            peers: (0..cores).map(|_| Peer::default()).collect(),
            spare: Vec::new(),
        }
    }

    /// The next message for `peer`, oldest first; closes the batch being
    /// filled. `peer == id` yields control calls and logs for this very core,
    /// which the reactor handles itself. What the mesh has no room for goes
    /// back with [`Outbox::put_back`].
    pub fn take(&mut self, peer: u32) -> Option<Message> {
        let peer = &mut self.peers[peer as usize];
        if peer.ready.is_empty() {
            peer.close();
        }
        peer.ready.pop_front()
    }

    /// Returns a message that the mesh had no room for to the front.
    pub fn put_back(&mut self, peer: u32, message: Message) {
        self.peers[peer as usize].ready.push_front(message);
    }

    /// Appends a message. Batches of requests are closed before it, so that it
    /// can't overtake them.
    pub fn post(&mut self, peer: u32, message: Message) {
        let peer = &mut self.peers[peer as usize];
        peer.close();
        peer.ready.push_back(message);
    }

    /// Whether something waits for `peer`.
    pub fn has_mail(&self, peer: u32) -> bool {
        let peer = &self.peers[peer as usize];
        peer.filling.is_some() || !peer.ready.is_empty()
    }

    /// How many messages wait for `peer`.
    pub fn waiting(&self, peer: u32) -> usize {
        self.peers[peer as usize].ready.len()
    }

    /// Whether connections that need `peer` must wait.
    #[inline]
    pub fn is_full(&self, peer: u32) -> bool {
        let peer = &self.peers[peer as usize];
        peer.away >= limits::BATCHES_PER_PEER_MAX
            && peer.filling.as_ref().is_none_or(|batch| batch.is_filled())
    }

    /// A batch that came home, its answers taken, is kept for reuse.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        let peer = &mut self.peers[batch.to as usize];
        peer.away = peer.away.saturating_sub(1);
        if self.spare.len() < 2 * self.peers.len() {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// This core.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The batch to fill for `peer`.
    fn filling(&mut self, to: u32) -> &mut Batch {
        let peer = &mut self.peers[to as usize];
        if peer.filling.as_ref().is_some_and(|batch| batch.is_filled()) {
            peer.close();
        }
        let batch = peer.filling.get_or_insert_with(|| {
            let mut batch = self.spare.pop().unwrap_or_default();
            batch.from = self.id;
            batch.to = to;
            batch
        });
        // What holds now: it may have changed since the batch was begun.
        batch.copying = self.copying;
        batch
    }

    /// A request to be executed by `owner`.
    #[inline]
    pub(crate) fn request(
        &mut self,
        owner: u32,
        conn: ConnToken,
        seq: u32,
        hash: KeyHash,
        request: &Request<'_>,
    ) {
        self.filling(owner).push(conn, seq, hash, Kind::Execute(request.ask.verb), request);
    }

    /// A store that needs chunks from `owner` first.
    pub(crate) fn reserve(
        &mut self,
        owner: u32,
        conn: ConnToken,
        seq: u32,
        hash: KeyHash,
        request: &Request<'_>,
        value_bytes: usize,
        last_try: bool,
    ) {
        let kind = Kind::Reserve { verb: request.ask.verb, value_bytes, last_try };
        self.filling(owner).push(conn, seq, hash, kind, request);
    }

    /// A store whose chunks are filled.
    pub(crate) fn commit(
        &mut self,
        owner: u32,
        conn: ConnToken,
        seq: u32,
        hash: KeyHash,
        request: &Request<'_>,
        reservation: Reservation,
    ) {
        let batch = self.filling(owner);
        let kind = Kind::Commit(request.ask.verb, reservation.value_bytes());
        batch.push(conn, seq, hash, kind, request);
        batch.lent.push_back(Lent::Reservation(reservation));
    }

    fn give_back(&mut self, owner: u32, kind: Kind, lent: Lent) {
        let batch = self.filling(owner);
        let reply = Reply::Text { command: TextCommand::Store, quiet: true };
        let nothing = Request::new(Verb::Inspect, &[], reply);
        batch.push(ConnToken::default(), 0, KeyHash(0), kind, &nothing);
        batch.lent.push_back(lent);
    }
}

impl Peer {
    /// The batch being filled joins the queue.
    fn close(&mut self) {
        if let Some(batch) = self.filling.take() {
            self.away += 1;
            self.ready.push_back(Message::Requests(batch));
        }
    }
}
