//! A data core: its replicator, its shard, and the requests that wait.
//!
//! It does what the server's core does, without sockets: the core that owns a
//! key's hash decides where a request executes. Each call of [`Core::turn`] is
//! one turn of its loop. The clock is read once, at the begin; when the turn has
//! been interrupted since, what it executed is answered only if the lease still
//! runs.
//!
//! | module | holds |
//! |---|---|
//! | [`links`] | the links of a core |
//! | [`routing`] | where a request executes |
//! | [`executing`] | what it does, and when it is answered |
//! | [`telling`] | what the control thread says, and is told |

mod executing;
mod links;
mod routing;
mod telling;

use super::hub::{Hub, MS, Who};
use super::keys::{Keys, NAMESPACES};
use super::machine::{NodeSetup, SKEW_MS};
use super::network::Network;
use cluster::node::{Report, Tell};
use cluster::replication::{Counters, Peer, Replicator, Ticket};
use cluster::spread::Word;
use cluster::time::Millis;
use cluster::topology::{Incarnation, NodeIndex, Revision};
use engine::snapshot::Generation;
use engine::{Arena, Glance, HashSeed, KeyHash, Now, Shard, ShardConfig};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

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

impl Answer {
    /// Whether it says what became of the request.
    pub fn is_known(self) -> bool {
        !matches!(self, Answer::Unknown | Answer::Refused | Answer::Elsewhere)
    }
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
    /// The epoch of its key's partition in which it was executed.
    epoch: u32,
    /// It acknowledges a write: of this partition, in this epoch.
    acknowledges: Option<(u32, u32)>,
}

impl Done {
    /// It was executed elsewhere, or not at all.
    fn passed(origin: Origin, answer: Answer, epoch: u32) -> Done {
        Done { origin, answer, epoch, acknowledges: None }
    }
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
    /// Reads passed on to a replica.
    pub zone_reads: u64,
    /// The key whose doings are printed.
    pub watch: Option<u32>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Core {
    who: Who,
    core: u16,
    me: Option<NodeIndex>,
    keys: Arc<Keys>,
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

impl Core {
    /// A fresh core.
    pub fn new(who: Who, core: u16, cores: u16, setup: &NodeSetup) -> Core {
        let mut config = ShardConfig::new(HashSeed::new(setup.seed), SHARD_BYTES);
        config.expired_kept_ms = SKEW_MS;
        config.namespaces = NAMESPACES.iter().map(|(name, _)| (*name).into()).collect();
        let mut shard = Shard::new(config, Arena::heap(SHARD_BYTES));
        shard.set_core(u32::from(core), u32::from(cores));
        let incarnation = Incarnation(who.life);
        let mut replicator = Replicator::new(setup.limits, incarnation, core, cores);
        replicator.set_modes(setup.keys.replication.clone());
        Core {
            who,
            core,
            me: None,
            keys: Arc::clone(&setup.keys),
            replicator,
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

    /// The value of a key here, whoever owns it. What is dead stays where it is: who is
    /// watched does what it does otherwise.
    pub fn value(&mut self, key: u32, hash: KeyHash, now: Now) -> Option<u64> {
        let key = self.keys.name(key).as_bytes();
        let Glance::Item(_) = self.shard.glance(key, hash, now) else { return None };
        let item = self.shard.peek(key, hash, now)?;
        let mut value = Vec::new();
        item.copy_value_to(&mut value);
        value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
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
        let hash = self.shard.hash_of(self.keys.name(key).as_bytes());
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
}
