//! A machine: its clocks, and the process that runs on it.

use super::clients::Target;
use super::data::Core;
use super::hub::{MS, Who};
use super::keys::Keys;
use super::random::Random;
use cluster::change::Command;
use cluster::keeper::Keeper;
use cluster::member::{Beat, BeatReply};
use cluster::node::{Control, Report};
use cluster::planning::HandOverRequest;
use cluster::replication::{Counters, Limits};
use cluster::spread::{self, Spread, Word};
use cluster::time::{Millis, Timing};
use cluster::topology::{Incarnation, Introduction, NodeIndex, Revision};
use engine::Now;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Clocks of two machines differ in rate by less than one part in 64.
const DRIFT_PPM: u64 = 7_600;
/// Wall clocks are wrong by so much at most.
pub const SKEW_MS: u64 = 200;
/// The wall clock's begin.
const NOW: u64 = 1_700_000_000_000;

/// A message of the control plane.
#[derive(Clone, Debug)]
pub enum Message {
    /// The coordinator's leader: it leads, and so far its log is committed.
    Log { term: u64, leader: usize, upto: usize, sent: Millis },
    /// A voter that knows of no later term.
    LogAck { term: u64, from: usize, sent: Millis },
    /// Append this; so many have passed it on.
    Propose { command: Command, hops: u8 },
    /// To the leader's keeper.
    Beat { from: usize, beat: Beat },
    /// From there.
    Reply(BeatReply),
    /// The keeper asks a primary.
    HandOver(HandOverRequest),
    /// A client wants something invalidated.
    Invalidate { client: u32, operation: u64, target: Target },
    /// Part of an invalidation, from another node or the own one.
    Word { from: usize, word: Word },
    /// A core's answer to that.
    Said { ask: u64, core: u16, acts: Revision, latest: u64 },
    /// A node's.
    Answered { from: usize, word: Word, answer: spread::Answer },
}

/// A machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset_ms: u64,
    rate_ppm: u64,
    wall_ms: u64,
}

impl Clock {
    /// Clocks that are wrong, as clocks are, if `drift`.
    pub fn new(random: &mut Random, drift: bool) -> Clock {
        let offset_ms = random.below(1 << 40);
        let (rate, wall) = (random.between(0, 2 * DRIFT_PPM), random.below(SKEW_MS));
        let rate_ppm = if drift { 1_000_000 - DRIFT_PPM + rate } else { 1_000_000 };
        Clock { offset_ms, rate_ppm, wall_ms: NOW + if drift { wall } else { 0 } }
    }

    /// The monotonic clock at a virtual time.
    pub fn millis(&self, at: u64) -> Millis {
        Millis(self.offset_ms + at * self.rate_ppm / 1_000_000 / MS)
    }

    /// No wall clock is ahead of that.
    pub fn latest(at: u64) -> Now {
        Now(NOW + SKEW_MS + at / MS)
    }

    /// The wall clock at a virtual time.
    pub fn now(&self, at: u64) -> Now {
        Now(self.wall_ms + at / MS)
    }
}

/// What a leader of the coordinator knows of its quorum.
#[derive(Debug)]
pub struct Lead {
    /// Its term.
    pub term: u64,
    /// By voter: of the last message that it confirmed, when that was sent.
    pub acks: Vec<Option<Millis>>,
    /// When it last wrote to all.
    pub wrote_at: Millis,
    /// When the keeper last looked at the time.
    pub ticked_at: Millis,
}

impl Lead {
    /// Before this moment's quorum check nobody else led.
    pub fn confirmed_at(&self, now: Millis, own: usize) -> Millis {
        let mut acks: Vec<Millis> = (self.acks.iter().enumerate())
            .map(|(voter, ack)| if voter == own { now } else { ack.unwrap_or_default() })
            .collect();
        acks.sort_unstable();
        acks.reverse();
        acks[acks.len() / 2]
    }
}

/// An invalidation that this node carries out.
#[derive(Debug)]
pub struct Spreading {
    pub client: u32,
    pub operation: u64,
    pub spread: Spread,
    /// When a node was last asked.
    pub asked: BTreeMap<NodeIndex, u64>,
}

/// A word of another node that the cores are to answer.
#[derive(Debug)]
pub struct Asked {
    pub from: usize,
    pub word: Word,
    /// Cores that have not.
    pub missing: BTreeSet<u16>,
    pub acts: Revision,
    pub latest: u64,
}

/// How far a process is with its end.
#[derive(Clone, Copy, Debug)]
pub struct Farewell {
    /// It hands over until then, at most.
    pub until: Millis,
    /// When it last proposed something.
    pub proposed_at: Millis,
    /// It has handed over: when it has been out for so long, it ends.
    pub ends_at: Option<Millis>,
    /// It goes on with handing over.
    pub hands_over: bool,
}

/// A process of a node.
#[derive(Debug)]
pub struct Process {
    /// This life of its machine.
    pub who: Who,
    /// The node's control.
    pub control: Control,
    /// Its data cores.
    pub cores: Vec<Core>,
    /// Beside the coordinator's leader.
    pub keeper: Option<Keeper>,
    /// While it believes to lead the coordinator.
    pub lead: Option<Lead>,
    /// The latest term that it heard of, and who leads there.
    pub term: u64,
    pub leader: Option<usize>,
    /// Entries of the coordinator's log that it has applied.
    pub applied: usize,
    /// What arrived and was not yet looked at.
    pub inbox: VecDeque<Message>,
    pub reports: VecDeque<(u16, Revision, Report)>,
    pub spreading: Vec<Spreading>,
    pub asked: BTreeMap<u64, Asked>,
    /// It is about to end.
    pub farewell: Option<Farewell>,
    /// When the control thread next looks around.
    pub due: u64,
    /// When the last thing for each core arrives there.
    pub tell_at: Vec<u64>,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its clocks.
    pub clock: Clock,
    /// Its process, if it runs.
    pub process: Option<Process>,
    /// Processes that ran so far.
    pub lives: u64,
    /// The process does nothing until then.
    pub paused_until: u64,
    /// The next turn of a core is interrupted for so long.
    pub interrupt: Option<u64>,
    /// Topologies reach its cores later by this much at most.
    pub lag_us: u64,
    /// What happened in processes that ended.
    pub past: Counters,
}

/// How all nodes are set up.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// Data cores of each machine; the first so many again and again.
    pub cores: Vec<u16>,
    pub limits: Limits,
    pub timing: Timing,
    pub seed: u64,
    /// What clients use.
    pub keys: Arc<Keys>,
    /// The zone of each machine; nothing if there are none.
    pub zones: Vec<String>,
}

impl NodeSetup {
    /// Data cores of a machine.
    pub fn cores(&self, machine: usize) -> u16 {
        self.cores[machine % self.cores.len()]
    }
}

impl Machine {
    /// A machine without a process.
    pub fn new(random: &mut Random, drift: bool) -> Machine {
        Machine {
            clock: Clock::new(random, drift),
            process: None,
            lives: 0,
            paused_until: 0,
            interrupt: None,
            lag_us: 0,
            past: Counters::default(),
        }
    }

    /// A process starts, with empty memory.
    pub fn start(&mut self, machine: usize, setup: &NodeSetup, at: u64) -> Who {
        self.lives += 1;
        let who = Who { machine, life: self.lives };
        let cores = setup.cores(machine);
        let introduction = Introduction {
            name: machine_name(machine),
            incarnation: Incarnation(self.lives),
            client_address: String::new(),
            peer_address: machine_name(machine),
            zone: setup.zones.get(machine).cloned().unwrap_or_default(),
            weight: 100,
            cores,
            core_ports: 0,
        };
        let core = |core| Core::new(who, core, cores, setup);
        let mut control = Control::new(introduction, setup.timing.clone(), self.clock.millis(at));
        control.set_min_copies(setup.limits.min_copies);
        self.process = Some(Process {
            who,
            control,
            cores: (0..cores).map(core).collect(),
            keeper: None,
            lead: None,
            term: 0,
            leader: None,
            applied: 0,
            inbox: VecDeque::new(),
            reports: VecDeque::new(),
            spreading: Vec::new(),
            asked: BTreeMap::new(),
            farewell: None,
            due: u64::MAX,
            tell_at: vec![0; usize::from(cores)],
        });
        self.paused_until = 0;
        self.interrupt = None;
        who
    }

    /// The process ends, and its memory with it.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.cores.iter().for_each(|core| add(&mut self.past, core.counters()));
        }
    }

    /// What happened in all its processes.
    pub fn counters(&self) -> Counters {
        let mut sum = self.past;
        for core in self.process.iter().flat_map(|process| &process.cores) {
            add(&mut sum, core.counters());
        }
        sum
    }

    /// Its process, if it is the one that is meant.
    pub fn process(&mut self, who: Who) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.who == who)
    }

    /// Whether its process runs.
    pub fn is_awake(&self, at: u64) -> bool {
        self.process.is_some() && self.paused_until <= at
    }
}

/// The sum of what happened.
pub fn add(sum: &mut Counters, more: Counters) {
    sum.logged += more.logged;
    sum.applied += more.applied;
    sum.fenced += more.fenced;
    sum.unstored += more.unstored;
    sum.unknown += more.unknown;
    sum.fills += more.fills;
    sum.fills_resumed += more.fills_resumed;
    sum.filled_items += more.filled_items;
    sum.resumed += more.resumed;
    sum.purged += more.purged;
    sum.granted += more.granted;
    sum.revoked += more.revoked;
    sum.copied += more.copied;
    sum.copy_reads += more.copy_reads;
}

/// The name of a machine's node.
pub fn machine_name(machine: usize) -> String {
    format!("n{machine}")
}

/// The machine behind a node's name.
pub fn machine_of(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse().ok()
}
