//! A data core: its replicator, its shard, and the requests that wait.
//!
//! It does what the server's core does, without sockets: the core that owns a
//! key's hash decides where a request executes. Each call of [`Core::turn`] is
//! one turn of its loop. The clock is read once, at the begin; when the turn has
//! been interrupted since, what it executed is answered only if the lease still
//! runs.

use super::hub::{End, Event, Hub, MS, Who};
use super::machine::{Message, SKEW_MS};
use super::network::{Network, Place};
use super::wire::{self, Passed};
use cluster::node::{Report, Tell};
use cluster::replication::{Access, Counters, Effect, Limits, Peer, Replicator, Route, Ticket};
use cluster::spread::{SUSPENDED_MS, Word};
use cluster::time::Millis;
use cluster::topology::{Incarnation, NodeIndex, Revision};
use engine::snapshot::{Generation, GenerationScope};
use engine::{
    Arena, Delete, DeleteOutcome, Expiry, HashSeed, KeyHash, Now, Shard, ShardConfig, Tag, Value,
    Version, Write, WriteOutcome,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;

/// How long a request waits for a node that executes it.
const PATIENCE_MS: u64 = 2_000;
/// Pause after a failed attempt to connect.
const RECONNECT_US: u64 = 20 * MS;
/// So often a core says of which keys it wants copies: those that it passed on
/// within the time below.
const CHOOSE_US: u64 = 30 * MS;
const HOT_US: u64 = 300 * MS;
/// Bytes of a shard.
const SHARD_BYTES: usize = 8 << 20;

/// The namespace of all keys.
pub const NAMESPACE: &str = "key";
/// Tags that values can have: 1 to so many.
pub const TAGS: u8 = 2;

/// A value as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// The value: no two are the same.
    pub value: u64,
    /// So many bytes lie behind it.
    pub padding: u16,
    /// It expires after so many milliseconds; 0 if never.
    pub ttl_ms: u16,
    /// Its tag; 0 if none.
    pub tag: u8,
}

/// What a client asks about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Get,
    /// Store a value.
    Set(Store),
    /// Remove.
    Delete,
    /// Store if nothing was stored since.
    Cas { store: Store, compare: u64 },
}

/// What it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value and its CAS unique, or that there is none.
    Value(Option<(u64, u64)>),
    /// It is stored.
    Stored,
    /// The CAS unique was another, or there was none.
    NotStored,
    /// It is gone, or was not there.
    Deleted,
    /// All that was to die is dead.
    Invalidated,
    /// Not executed.
    Refused,
    /// Nobody knows.
    Unknown,
    /// Not executed: this node is not the one.
    Elsewhere,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of this node.
    Client { client: u32, operation: u64 },
    /// Another node.
    Link { peer: Peer, link: u64, id: u64 },
}

/// A request at the core that owns its key.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who asked.
    pub origin: Origin,
    /// The key's number.
    pub key: u32,
    /// And hash.
    pub hash: KeyHash,
    /// What.
    pub op: Op,
}

/// What the control thread puts into a core's ring.
#[derive(Clone, Debug)]
pub enum CoreTell {
    /// From the node's control.
    Control(Tell),
    /// Links to this node are to be closed.
    Close(NodeIndex),
    /// Part of an invalidation; it is answered under that number.
    Word { ask: u64, word: Word },
}

/// An answer that was made.
#[derive(Clone, Copy, Debug)]
struct Done {
    origin: Origin,
    answer: Answer,
    /// It acknowledges a write: of this partition, in this epoch.
    acknowledges: Option<(u32, u32)>,
}

#[derive(Debug)]
struct Away {
    peer: Peer,
    request: Request,
    until: Millis,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    until: Millis,
}

/// A link that this core opened.
#[derive(Debug, Default)]
struct Out {
    link: Option<u64>,
    connecting: Option<u64>,
    retry_at: u64,
    inbox: Vec<u8>,
    requests: Vec<u8>,
}

/// A link that this core took.
#[derive(Debug)]
struct In {
    link: u64,
    inbox: Vec<u8>,
    /// Of the first frame's payload, bytes that are done with.
    done: usize,
    out: Vec<u8>,
}

/// What a turn needs beside the core.
pub struct Turn<'a> {
    pub hub: &'a mut Hub,
    pub net: &'a mut Network,
    /// The process of each machine.
    pub lives: &'a [Option<u64>],
    /// The clocks as this turn believes them.
    pub clock: Millis,
    pub now: Now,
    /// The clock as it is.
    pub clock_at_end: Millis,
    /// Acknowledged writes: partition, epoch.
    pub acknowledged: Vec<(u32, u32)>,
    /// Frames that made no sense.
    pub garbage: u64,
    /// The key whose doings are printed.
    pub watch: Option<u32>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Core {
    who: Who,
    core: u16,
    me: Option<NodeIndex>,
    pub replicator: Replicator,
    pub shard: Shard,
    pub tells: VecDeque<CoreTell>,
    pub requests: VecDeque<Request>,
    outs: BTreeMap<Peer, Out>,
    ins: BTreeMap<Peer, In>,
    waiting: VecDeque<Waiting>,
    waiting_hashes: BTreeMap<u64, u32>,
    away: BTreeMap<u64, Away>,
    away_hashes: BTreeMap<u64, u32>,
    next_away: u64,
    /// Executed in this turn, and waiting for its ticket.
    pass: Vec<Done>,
    tickets: BTreeMap<Ticket, Vec<Done>>,
    /// To be answered at the end of the turn; the first so many of an earlier one.
    done: Vec<Done>,
    /// When it next turns.
    pub due: u64,
    /// It was interrupted in the middle of a turn, after it had read the clocks.
    pub stale: Option<(Millis, Now)>,
    /// It does nothing until then.
    pub stalled_until: u64,
    /// Keys of other nodes that were read here, and when last.
    foreign: BTreeMap<u32, u64>,
    choose_at: u64,
    /// Copies answered reads of this turn; until then they may.
    copies_until: Millis,
    /// It drops what the node no longer holds.
    purging: bool,
    reported: Revision,
    reported_at: u64,
    /// What it last held of the key that is watched.
    watched: Option<u64>,
    /// Words that its replicas must know before they are answered.
    untold: Vec<u64>,
    /// Invalidations that wait until copies of hot keys are gone.
    untaken: Vec<(u64, Vec<Generation>)>,
}

/// A key by its number.
pub fn key_name(key: u32) -> String {
    format!("key:{key}")
}

impl Core {
    /// A fresh core.
    pub fn new(who: Who, core: u16, cores: u16, limits: Limits, seed: u64) -> Core {
        let mut config = ShardConfig::new(HashSeed::new(seed), SHARD_BYTES);
        config.namespaces = vec![NAMESPACE.into()];
        config.expired_kept_ms = SKEW_MS;
        let mut shard = Shard::new(config, Arena::heap(SHARD_BYTES));
        shard.set_core(u32::from(core), u32::from(cores));
        Core {
            who,
            core,
            me: None,
            replicator: Replicator::new(limits, Incarnation(who.life), core, cores),
            shard,
            tells: VecDeque::new(),
            requests: VecDeque::new(),
            outs: BTreeMap::new(),
            ins: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_hashes: BTreeMap::new(),
            away: BTreeMap::new(),
            away_hashes: BTreeMap::new(),
            next_away: 0,
            pass: Vec::new(),
            tickets: BTreeMap::new(),
            done: Vec::new(),
            due: u64::MAX,
            stale: None,
            stalled_until: 0,
            foreign: BTreeMap::new(),
            choose_at: 0,
            copies_until: Millis(u64::MAX),
            purging: false,
            reported: Revision(0),
            reported_at: 0,
            watched: None,
            untold: Vec::new(),
            untaken: Vec::new(),
        }
    }

    /// What happened in it.
    pub fn counters(&self) -> Counters {
        self.replicator.counters()
    }

    /// Whether anything is still under way.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.away.is_empty() && self.tickets.is_empty() && !self.purging
    }

    /// In a word, for whoever looks why nothing moves.
    pub fn summary(&self) -> String {
        let links = |up: bool| self.outs.values().filter(|out| out.link.is_some() == up).count();
        format!(
            "acts under {}, {} wait, {} away, {} tickets, {} links up, {} down, peers {:?}",
            self.replicator.topology().revision().0,
            self.waiting.len(),
            self.away.len(),
            self.tickets.len(),
            links(true),
            links(false),
            self.replicator.peers().collect::<Vec<_>>(),
        )
    }

    /// The value of a key here, whoever owns it.
    pub fn value(&mut self, key: u32, hash: KeyHash, now: Now) -> Option<u64> {
        let item = self.shard.peek(key_name(key).as_bytes(), hash, now)?;
        let mut value = Vec::new();
        item.copy_value_to(&mut value);
        value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
    }

    // ---- What the network brings.

    /// Bytes of a link.
    pub fn on_bytes(&mut self, link: u64, peer: Peer, to: End, bytes: &[u8]) {
        match to {
            End::Acceptor => {
                if let Some(own) = self.ins.get_mut(&peer).filter(|own| own.link == link) {
                    own.inbox.extend_from_slice(bytes);
                }
            }
            End::Opener => {
                if let Some(own) = self.outs.get_mut(&peer).filter(|own| own.link == Some(link)) {
                    own.inbox.extend_from_slice(bytes);
                }
            }
        }
    }

    /// A link that another core opened; the one that it replaces.
    pub fn on_accept(&mut self, link: u64, peer: Peer) -> Option<u64> {
        let fresh = In { link, inbox: Vec::new(), done: 0, out: Vec::new() };
        self.ins.insert(peer, fresh).map(|old| old.link)
    }

    /// A link that this core wanted.
    pub fn on_connected(&mut self, link: u64, peer: Peer, turn: &mut Turn<'_>) {
        let Some(out) = self.outs.get_mut(&peer).filter(|out| out.connecting == Some(link)) else {
            turn.net.reset(link, 1, turn.hub);
            return;
        };
        out.connecting = None;
        out.link = Some(link);
        out.inbox.clear();
        out.requests.clear();
        let mut first = Vec::new();
        self.replicator.connected(peer, &mut first);
        let mut bytes = Vec::new();
        wire::put_frame(wire::PEERING, &first, &mut bytes);
        turn.net.write(link, End::Opener, bytes, turn.hub);
        self.report(Report::Stands(peer.node), turn);
    }

    /// An attempt to connect failed.
    pub fn on_refused(&mut self, node: NodeIndex, turn: &mut Turn<'_>) {
        for (_, out) in self.outs.iter_mut().filter(|(peer, _)| peer.node == node) {
            if out.connecting.take().is_some() {
                out.retry_at = turn.hub.at + RECONNECT_US;
            }
        }
        self.report(Report::Broken(node), turn);
    }

    /// This end learns that a link is gone.
    pub fn on_closed(&mut self, link: u64, peer: Peer, end: End, turn: &mut Turn<'_>) {
        match end {
            End::Acceptor => {
                if self.ins.get(&peer).is_some_and(|own| own.link == link) {
                    self.ins.remove(&peer);
                }
            }
            End::Opener => {
                let Some(out) = self.outs.get_mut(&peer) else { return };
                if out.connecting == Some(link) {
                    out.connecting = None;
                }
                if out.link != Some(link) {
                    return;
                }
                let retry_at = turn.hub.at + turn.hub.random.below(RECONNECT_US);
                *out = Out { retry_at, ..Out::default() };
                self.replicator.disconnected(peer);
                let gone = self.away.iter().filter(|(_, away)| away.peer == peer);
                let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
                gone.into_iter().for_each(|id| self.lost(id, turn.clock));
                self.report(Report::Broken(peer.node), turn);
            }
        }
    }

    // ---- A turn.

    /// One turn of the core's loop.
    pub fn turn(&mut self, turn: &mut Turn<'_>) {
        self.hear(turn);
        self.take_links(turn);
        let again: Vec<Waiting> = self.waiting.drain(..).collect();
        self.retry(again, turn);
        while let Some(request) = self.requests.pop_front() {
            self.step(request, false, turn);
        }
        self.give_up(turn);
        let ticket = self.replicator.close_batch();
        let pass = std::mem::take(&mut self.pass);
        match ticket {
            Some(ticket) => drop(self.tickets.insert(ticket, pass)),
            None => self.done.extend(pass),
        }
        // What was executed until here was executed under a lease that may have
        // ended while the process slept.
        let copies_until = std::mem::replace(&mut self.copies_until, Millis(u64::MAX));
        let may_answer = turn.clock_at_end == turn.clock
            || self.replicator.is_leased(turn.clock_at_end) && turn.clock_at_end < copies_until;
        if !may_answer {
            self.drop_answers(ticket);
        }
        self.replicator.tick(turn.clock_at_end);
        self.choose_copies(turn);
        self.purging = self.replicator.upkeep(&mut self.shard, turn.now);
        self.take_effects(turn);
        self.answer(turn);
        self.say_told(turn);
        self.connect(turn);
        self.send(turn);
        self.watch(turn);
        let acts = self.replicator.acts();
        if acts != self.reported || turn.hub.at - self.reported_at > 20 * MS {
            self.report(Report::Alive, turn);
        }
    }

    /// Every key that is read here and held elsewhere is hot for a while.
    fn choose_copies(&mut self, turn: &Turn<'_>) {
        if turn.hub.at < self.choose_at {
            return;
        }
        self.choose_at = turn.hub.at + CHOOSE_US;
        self.foreign.retain(|_, read_at| turn.hub.at - *read_at < HOT_US);
        let names: Vec<String> = self.foreign.keys().copied().map(key_name).collect();
        let hash = |name: &String| self.shard.hash_of(name.as_bytes());
        let keys: Vec<_> = names.iter().map(|name| (hash(name), name.as_bytes())).collect();
        self.replicator.want_copies(&keys, &mut self.shard, turn.now);
    }

    /// Whether a read of a key that another node leads is answered here.
    fn has_copy(&mut self, request: &Request, turn: &Turn<'_>) -> bool {
        if request.op != Op::Get || matches!(request.origin, Origin::Link { .. }) {
            return false;
        }
        self.foreign.insert(request.key, turn.hub.at);
        let Some(until) = self.replicator.copy_until(request.hash, turn.clock) else {
            return false;
        };
        if self.value(request.key, request.hash, turn.now).is_none() {
            self.replicator.copy_is_missing(request.hash);
            return false;
        }
        self.copies_until = self.copies_until.min(until);
        self.replicator.copy_was_read();
        true
    }

    /// Whether it should turn again soon.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
            || self.ins.values().any(|own| !own.inbox.is_empty())
            || self
                .outs
                .iter()
                .any(|(peer, out)| out.link.is_some() && self.replicator.has_news(*peer))
    }

    /// Says so when the key that is watched has changed here.
    fn watch(&mut self, turn: &Turn<'_>) {
        let Some(key) = turn.watch else { return };
        let hash = self.shard.hash_of(key_name(key).as_bytes());
        let value = self.value(key, hash, turn.now);
        if value != self.watched {
            self.watched = value;
            let topology = self.replicator.topology();
            let partition = topology.ring().of(hash);
            let owners = topology.owners(partition);
            self.say(turn, &format!("holds {value:?}; {partition:?}, {owners:?}"));
        }
    }

    fn say(&self, turn: &Turn<'_>, what: &str) {
        eprintln!("{:>9} us  n{}.{}  {what}", turn.hub.at, self.who.machine, self.core);
    }

    /// The node's lease, which its threads share.
    pub fn set_lease(&mut self, until: Millis) {
        self.replicator.set_lease(until);
    }

    fn hear(&mut self, turn: &mut Turn<'_>) {
        while let Some(tell) = self.tells.pop_front() {
            match tell {
                CoreTell::Control(Tell::Topology { topology, me }) => {
                    self.me = me;
                    let (now, clock) = (turn.now, turn.clock);
                    self.replicator.set_topology(topology, me, &mut self.shard, now, clock);
                }
                // All cores see it at once: `set_lease`.
                CoreTell::Control(Tell::Lease(_)) => {}
                CoreTell::Control(Tell::Settled(revision)) => self.replicator.set_settled(revision),
                CoreTell::Control(Tell::Pause(partitions)) => self.replicator.pause(&partitions),
                CoreTell::Control(Tell::Resume(partitions)) => self.replicator.resume(&partitions),
                CoreTell::Word { ask, word } => self.hear_word(ask, &word, turn),
                CoreTell::Close(node) => {
                    let outs = self.outs.iter().filter(|(peer, _)| peer.node == node);
                    let outs: Vec<u64> = outs.filter_map(|(_, out)| out.link).collect();
                    let ins = self.ins.iter().filter(|(peer, _)| peer.node == node);
                    let ins: Vec<u64> = ins.map(|(_, own)| own.link).collect();
                    for link in outs.into_iter().chain(ins) {
                        turn.net.reset(link, 2 * MS, turn.hub);
                    }
                }
            }
        }
    }

    /// What the server's `spread::on_core` does.
    fn hear_word(&mut self, ask: u64, word: &Word, turn: &mut Turn<'_>) {
        let (shard, until) = (&mut self.shard, turn.clock.plus(SUSPENDED_MS));
        let mut latest = 0;
        match word {
            Word::Latest(number) => {
                self.replicator.suspend_near_reads(*number, until);
                latest = shard.last_version().0.max(turn.now.0 << 20);
            }
            Word::Take(number, all) => {
                self.replicator.suspend_near_reads(*number, until);
                let generation = |(scope, id, version): &(u8, u64, u64)| {
                    let scope = GenerationScope::from_number(*scope)?;
                    Some(Generation { scope, id: *id, version: Version(*version) })
                };
                let all: Vec<Generation> = all.iter().filter_map(generation).collect();
                return self.untaken.push((ask, all));
            }
            Word::Over(number) => self.replicator.resume_near_reads(*number),
        }
        self.said(ask, latest, turn);
    }

    fn say_told(&mut self, turn: &mut Turn<'_>) {
        for (ask, all) in std::mem::take(&mut self.untaken) {
            if self.replicator.invalidate(&all, &mut self.shard) {
                self.untold.push(ask);
            } else {
                self.untaken.push((ask, all));
            }
        }
        if !self.untold.is_empty() && self.replicator.is_told() {
            std::mem::take(&mut self.untold).into_iter().for_each(|ask| self.said(ask, 0, turn));
        }
    }

    fn said(&self, ask: u64, latest: u64, turn: &mut Turn<'_>) {
        let acts = self.replicator.topology().revision();
        let message = Box::new(Message::Said { ask, core: self.core, acts, latest });
        turn.hub.after(100, Event::Message { to: self.who.machine, message });
    }

    fn take_links(&mut self, turn: &mut Turn<'_>) {
        let peers: Vec<Peer> = self.ins.keys().copied().collect();
        for peer in peers {
            if !self.take_in(peer, turn) {
                turn.garbage += 1;
                let link = self.ins[&peer].link;
                turn.net.reset(link, MS, turn.hub);
                self.ins.remove(&peer);
            }
        }
        let peers: Vec<Peer> = self.outs.keys().copied().collect();
        for peer in peers {
            let good = self.take_out(peer, turn);
            if !good && let Some(link) = self.outs.get(&peer).and_then(|out| out.link) {
                turn.garbage += 1;
                turn.net.reset(link, MS, turn.hub);
                self.on_closed(link, peer, End::Opener, turn);
            }
        }
    }

    /// What a link brought that another core opened.
    fn take_in(&mut self, peer: Peer, turn: &mut Turn<'_>) -> bool {
        let Some(own) = self.ins.get_mut(&peer) else { return true };
        let (link, inbox) = (own.link, std::mem::take(&mut own.inbox));
        let (mut done, mut used) = (own.done, 0);
        let mut out = Vec::new();
        while let Some((kind, payload, bytes)) = wire::take_frame(&inbox[used..]) {
            if kind == wire::PEERING {
                let rest = &payload[done..];
                let (shard, now) = (&mut self.shard, turn.now);
                let taken = self.replicator.receive(peer, rest, shard, now, &mut out);
                if taken < rest.len() {
                    done += taken;
                    break;
                }
            } else {
                let mut rest = payload;
                while !rest.is_empty() {
                    let Some(Passed { id, hash, key, op }) = wire::take_request(&mut rest) else {
                        return false;
                    };
                    let origin = Origin::Link { peer, link, id };
                    self.step(Request { origin, key, hash: KeyHash(hash), op }, false, turn);
                }
            }
            done = 0;
            used += bytes;
        }
        let Some(own) = self.ins.get_mut(&peer) else { return true };
        own.done = done;
        own.inbox = inbox;
        own.inbox.drain(..used);
        wire::put_frame(wire::PEERING, &out, &mut own.out);
        true
    }

    /// What came back over a link that this core opened.
    fn take_out(&mut self, peer: Peer, turn: &mut Turn<'_>) -> bool {
        let Some(out) = self.outs.get_mut(&peer).filter(|out| out.link.is_some()) else {
            return true;
        };
        let inbox = std::mem::take(&mut out.inbox);
        let mut used = 0;
        while let Some((kind, payload, bytes)) = wire::take_frame(&inbox[used..]) {
            used += bytes;
            if kind == wire::PEERING {
                if !self.replicator.replied(peer, payload, &mut self.shard, turn.now) {
                    return false;
                }
                continue;
            }
            let mut rest = payload;
            while !rest.is_empty() {
                let Some((id, answer)) = wire::take_answer(&mut rest) else { return false };
                self.returned_with(id, answer, turn);
            }
        }
        if let Some(out) = self.outs.get_mut(&peer) {
            out.inbox = inbox[used..].to_vec();
        }
        true
    }

    fn returned_with(&mut self, id: u64, answer: Answer, turn: &Turn<'_>) {
        let Some(away) = self.returned(id) else { return };
        match answer {
            Answer::Elsewhere => self.wait(away.request, away.until.max(turn.clock.plus(1))),
            _ => self.done.push(Done { origin: away.request.origin, answer, acknowledges: None }),
        }
    }

    fn returned(&mut self, id: u64) -> Option<Away> {
        let away = self.away.remove(&id)?;
        uncount(&mut self.away_hashes, away.request.hash);
        Some(away)
    }

    /// No answer will come for a request that is away.
    fn lost(&mut self, id: u64, _clock: Millis) {
        let Some(away) = self.returned(id) else { return };
        if away.request.op == Op::Get {
            return self.wait(away.request, away.until);
        }
        let origin = away.request.origin;
        self.done.push(Done { origin, answer: Answer::Unknown, acknowledges: None });
    }

    fn wait(&mut self, request: Request, until: Millis) {
        *self.waiting_hashes.entry(request.hash.0).or_default() += 1;
        self.waiting.push_back(Waiting { request, until });
    }

    /// Tries those again that wait for a route, in order for each key.
    fn retry(&mut self, again: Vec<Waiting>, turn: &mut Turn<'_>) {
        let mut blocked = BTreeSet::new();
        for entry in again {
            if blocked.contains(&entry.request.hash.0) && turn.clock < entry.until {
                self.waiting.push_back(entry);
                continue;
            }
            uncount(&mut self.waiting_hashes, entry.request.hash);
            if turn.clock >= entry.until {
                let origin = entry.request.origin;
                self.done.push(Done { origin, answer: Answer::Refused, acknowledges: None });
                continue;
            }
            let behind = self.waiting.len();
            self.step(entry.request, true, turn);
            if self.waiting.len() > behind {
                blocked.insert(entry.request.hash.0);
                if let Some(last) = self.waiting.back_mut() {
                    last.until = entry.until;
                }
            }
        }
    }

    fn give_up(&mut self, turn: &Turn<'_>) {
        let late = self.away.iter().filter(|(_, away)| turn.clock >= away.until);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            let Some(away) = self.returned(id) else { continue };
            let origin = away.request.origin;
            self.done.push(Done { origin, answer: Answer::Unknown, acknowledges: None });
        }
    }

    /// One request: executes it, passes it on, or lets it wait.
    fn step(&mut self, request: Request, again: bool, turn: &mut Turn<'_>) {
        let access = if request.op == Op::Get { Access::Read } else { Access::Write };
        let hash = request.hash;
        let behind = !again && self.waiting_hashes.contains_key(&hash.0)
            || self.away_hashes.contains_key(&hash.0);
        let route =
            if behind { Route::Wait } else { self.replicator.route(hash, access, turn.clock) };
        let passed_on = matches!(request.origin, Origin::Link { .. });
        let until = turn.clock.plus(PATIENCE_MS);
        match route {
            Route::Here => self.execute(request, turn),
            Route::At(_) if self.has_copy(&request, turn) => self.execute(request, turn),
            Route::At(_) | Route::Wait if passed_on => {
                let (origin, answer) = (request.origin, Answer::Elsewhere);
                self.done.push(Done { origin, answer, acknowledges: None });
            }
            Route::At(node) => {
                let peer = Peer { node, core: self.core_of(node, hash) };
                let out = self.outs.entry(peer).or_default();
                if out.link.is_none() {
                    return self.wait(request, until);
                }
                let id = self.next_away;
                self.next_away += 1;
                let passed = Passed { id, hash: hash.0, key: request.key, op: request.op };
                wire::put_request(&passed, &mut out.requests);
                *self.away_hashes.entry(hash.0).or_default() += 1;
                self.away.insert(id, Away { peer, request, until });
            }
            Route::Wait => self.wait(request, until),
        }
    }

    fn core_of(&self, node: NodeIndex, hash: KeyHash) -> u16 {
        self.replicator.peer_for(node, hash).core
    }

    fn execute(&mut self, request: Request, turn: &mut Turn<'_>) {
        let Request { origin, key, hash, op } = request;
        let name = key_name(key);
        let key = name.as_bytes();
        let before = self.shard.changes();
        let pending = self.replicator.is_pending(hash);
        let answer = execute(&mut self.shard, key, hash, op, turn.now);
        let changed = self.shard.changes() != before;
        if turn.watch == Some(request.key) {
            let acts = self.replicator.topology().revision().0;
            let waits = if pending { ", behind its last write" } else { "" };
            self.say(turn, &format!("{op:?}: {answer:?} for {origin:?}, acts under {acts}{waits}"));
        }
        let topology = self.replicator.topology();
        let partition = topology.ring().of(hash);
        let epoch = topology.owners(partition).epoch;
        // A read may have come across what has expired.
        let acknowledges = (changed && op != Op::Get).then_some((partition.0, epoch.0));
        let number = self.pass.len() as u32;
        if changed {
            let (shard, now, clock) = (&mut self.shard, turn.now, turn.clock);
            self.replicator.wrote(key, hash, number, shard, now, clock);
        } else if pending {
            self.replicator.reads(hash, number, turn.clock);
        }
        self.pass.push(Done { origin, answer, acknowledges });
    }

    /// The lease ended while this turn executed: who asked gets no answer.
    fn drop_answers(&mut self, ticket: Option<Ticket>) {
        let waiting = ticket.and_then(|ticket| self.tickets.get_mut(&ticket));
        for done in self.done.iter_mut().chain(waiting.into_iter().flatten()) {
            done.answer = Answer::Unknown;
            done.acknowledges = None;
        }
    }

    fn take_effects(&mut self, turn: &mut Turn<'_>) {
        let effects: Vec<Effect> = self.replicator.effects().collect();
        for effect in effects {
            match effect {
                Effect::Completed { ticket, unknown } => {
                    let Some(mut places) = self.tickets.remove(&ticket) else { continue };
                    for number in unknown {
                        if let Some(done) = places.get_mut(number as usize) {
                            done.answer = Answer::Unknown;
                            done.acknowledges = None;
                        }
                    }
                    self.done.append(&mut places);
                }
                Effect::Suspect(node) => self.report(Report::Suspect(node), turn),
                Effect::CaughtUp { node, core, partitions } => {
                    self.report(Report::CaughtUp { node, core, partitions }, turn);
                }
                Effect::Paused(partition) => self.report(Report::Paused(partition), turn),
                Effect::Garbage(peer) => {
                    turn.garbage += 1;
                    if let Some(own) = self.ins.remove(&peer) {
                        turn.net.reset(own.link, MS, turn.hub);
                    }
                }
            }
        }
    }

    fn answer(&mut self, turn: &mut Turn<'_>) {
        for Done { origin, answer, acknowledges } in std::mem::take(&mut self.done) {
            turn.acknowledged.extend(acknowledges);
            match origin {
                Origin::Client { client, operation } => {
                    let late = turn.hub.random.between(30, 300);
                    turn.hub.after(late, Event::Answer { client, operation, answer });
                }
                Origin::Link { peer, link, id } => {
                    let Some(own) = self.ins.get_mut(&peer).filter(|own| own.link == link) else {
                        continue;
                    };
                    let mut bytes = Vec::new();
                    wire::put_answer(id, answer, &mut bytes);
                    wire::put_frame(wire::ANSWERS, &bytes, &mut own.out);
                }
            }
        }
    }

    /// Opens the links that are wanted and not there.
    fn connect(&mut self, turn: &mut Turn<'_>) {
        let Some(me) = self.me else { return };
        let wanted: Vec<Peer> = self.replicator.peers().collect();
        for peer in wanted {
            self.outs.entry(peer).or_default();
        }
        let topology = self.replicator.topology();
        for (peer, out) in &mut self.outs {
            if out.link.is_some() || out.connecting.is_some() || turn.hub.at < out.retry_at {
                continue;
            }
            let Some(member) = topology.member(peer.node) else { continue };
            let Some(machine) = super::machine::machine_of(&member.node.name) else { continue };
            if machine == self.who.machine {
                continue;
            }
            let (own, at) = (Place { who: self.who, core: self.core }, &mut *turn.hub);
            let Some(life) =
                turn.lives[machine].filter(|_| turn.net.both_ways(own.who.machine, machine))
            else {
                out.retry_at = at.at + RECONNECT_US;
                if turn.lives[machine].is_none() && turn.net.both_ways(own.who.machine, machine) {
                    let event = Event::Refused { who: self.who, core: self.core, node: peer.node };
                    at.after(500, event);
                }
                continue;
            };
            if life != member.node.incarnation.0 {
                // The greeting says so: another life than the one that is meant.
                out.retry_at = at.at + RECONNECT_US;
                continue;
            }
            let acceptor = Place { who: Who { machine, life }, core: peer.core };
            let opener_peer = Peer { node: me, core: self.core };
            out.connecting = Some(turn.net.open(own, opener_peer, acceptor, *peer, at));
        }
    }

    fn send(&mut self, turn: &mut Turn<'_>) {
        for (peer, out) in &mut self.outs {
            let Some(link) = out.link else { continue };
            let mut bytes = Vec::new();
            wire::put_frame(wire::REQUESTS, &std::mem::take(&mut out.requests), &mut bytes);
            let mut news = Vec::new();
            if self.replicator.has_news(*peer) {
                self.replicator.poll(*peer, &self.shard, turn.now, &mut news);
            }
            wire::put_frame(wire::PEERING, &news, &mut bytes);
            if !bytes.is_empty() {
                turn.net.write(link, End::Opener, bytes, turn.hub);
            }
        }
        for (peer, own) in &mut self.ins {
            let mut told = Vec::new();
            if self.replicator.wants_to_tell(*peer) {
                self.replicator.poll_back(*peer, &mut told);
            }
            wire::put_frame(wire::PEERING, &told, &mut own.out);
            if !own.out.is_empty() {
                let bytes = std::mem::take(&mut own.out);
                turn.net.write(own.link, End::Acceptor, bytes, turn.hub);
            }
        }
    }

    fn report(&mut self, report: Report, turn: &mut Turn<'_>) {
        self.reported = self.replicator.acts();
        self.reported_at = turn.hub.at;
        let caught_up = matches!(report, Report::CaughtUp { .. });
        let known = self.replicator.topology().revision();
        let acts = if caught_up { known } else { self.reported };
        let (who, core) = (self.who, self.core);
        // One delay for all keeps the ring's order.
        turn.hub.after(100, Event::Report { who, core, acts, report });
    }
}

fn uncount(counts: &mut BTreeMap<u64, u32>, hash: KeyHash) {
    if let Some(count) = counts.get_mut(&hash.0) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&hash.0);
        }
    }
}

/// Executes one request on the shard.
fn execute(shard: &mut Shard, key: &[u8], hash: KeyHash, op: Op, now: Now) -> Answer {
    match op {
        Op::Get => {
            let read = shard.get(key, hash, now).map(|item| {
                let mut value = Vec::new();
                item.copy_value_to(&mut value);
                let number = value.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                (number, item.cas)
            });
            Answer::Value(read)
        }
        Op::Set(store) => write(shard, key, hash, store, None, now),
        Op::Cas { store, compare } => write(shard, key, hash, store, Some(compare), now),
        Op::Delete => match shard.delete(key, hash, now, &Delete::default()) {
            DeleteOutcome::Deleted | DeleteOutcome::NotFound => Answer::Deleted,
            _ => Answer::Unknown,
        },
    }
}

fn write(
    shard: &mut Shard,
    key: &[u8],
    hash: KeyHash,
    store: Store,
    compare: Option<u64>,
    now: Now,
) -> Answer {
    let mut bytes = store.value.to_le_bytes().to_vec();
    bytes.resize(8 + usize::from(store.padding), 0);
    let tag = NonZeroU64::new(u64::from(store.tag)).map(Tag);
    let expiry = match store.ttl_ms {
        0 => Expiry::NEVER,
        ttl_ms => Expiry(now.0 + u64::from(ttl_ms)),
    };
    let set = Write::set(key, hash, Value::Bytes(&bytes));
    match shard.write(Write { compare, expiry, tags: tag.as_slice(), ..set }, now) {
        Ok(WriteOutcome::Stored { .. }) => Answer::Stored,
        _ => Answer::NotStored,
    }
}
