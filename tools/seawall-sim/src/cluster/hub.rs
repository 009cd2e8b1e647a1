//! The virtual time: what happens next.
//!
//! One queue holds everything that is going to happen, by time and by the order
//! in which it was put there. Nothing else moves the clock, so a run depends on
//! its seed alone. Time is in microseconds since the begin of the run.

use super::clients::Target;
use super::data::{Answer, CoreTell, Request};
use super::machine::Message;
use super::random::Random;
use cluster::change::Command;
use cluster::node::Report;
use cluster::planner::Wish;
use cluster::planning::PlanRequest;
use cluster::topology::{NodeIndex, Revision};
use std::collections::BTreeMap;

/// One millisecond of virtual time.
pub const MS: u64 = 1_000;

/// One life of a machine's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// The machine.
    pub machine: usize,
    /// Its life: what is meant for another one reaches nobody.
    pub life: u64,
}

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The core that opened it: it replicates and passes on.
    Opener,
    /// The core that took it.
    Acceptor,
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// The control thread looks around.
    Control { who: Who },
    /// A core's loop turns.
    Core { who: Who, core: u16 },
    /// A message of the control plane arrives.
    Message { to: usize, message: Box<Message> },
    /// A core's ring brings something from the control thread.
    Tell { who: Who, core: u16, tell: CoreTell },
    /// The control thread's ring brings something from a core.
    Report { who: Who, core: u16, acts: Revision, report: Report },
    /// Bytes of a link arrive at an end.
    Bytes { link: u64, to: End, bytes: Vec<u8> },
    /// A connection attempt arrives.
    Accept { link: u64 },
    /// A connection attempt came about.
    Connected { link: u64 },
    /// A connection attempt failed.
    Refused { who: Who, core: u16, node: NodeIndex },
    /// An end of a link learns that it is gone.
    Closed { link: u64, end: End },
    /// Nobody listens where the keeper knocked.
    ProbeRefused { who: Who, node: NodeIndex },
    /// The wishes that the keeper asked for are there.
    Planned { who: Who, request: PlanRequest, wishes: Vec<Wish> },
    /// A client's request arrives at a node.
    Request { who: Who, request: Request },
    /// A client's wish that something be invalidated does.
    Invalidate { who: Who, client: u32, operation: u64, target: Target },
    /// An answer arrives at its client. It was made in that epoch; 0 if in none.
    Answer { client: u32, operation: u64, answer: Answer, epoch: u32 },
    /// A client goes on.
    Client { client: u32 },
    /// A client's patience ends.
    Timeout { client: u32, operation: u64 },
    /// A fault begins.
    Fault(usize),
    /// A fault ends.
    Heal(usize),
    /// The coordinator's quorum has an entry, if its leader still leads.
    Commit { term: u64, command: Box<Command>, late: bool },
    /// Somebody asks whether there is a leader.
    Elect,
    /// The faults are over.
    Calm,
    /// Operators look whether it is as they wish.
    Operate,
    /// A machine's process starts, if none runs.
    Start(usize),
    /// Is the cluster whole again?
    Look,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hub {
    /// The virtual time.
    pub at: u64,
    /// Chance.
    pub random: Random,
    queue: BTreeMap<(u64, u64), Event>,
    next: u64,
    trace: u64,
}

impl Hub {
    /// An empty queue.
    pub fn new(seed: u64) -> Hub {
        let (at, next, trace) = (0, 0, 0xcbf2_9ce4_8422_2325);
        Hub { at, random: Random::new(seed), queue: BTreeMap::new(), next, trace }
    }

    /// Something will happen so many microseconds from now.
    pub fn after(&mut self, us: u64, event: Event) {
        self.queue.insert((self.at + us, self.next), event);
        self.next += 1;
    }

    /// The next thing that happens.
    pub fn pop(&mut self) -> Option<Event> {
        let ((at, number), event) = self.queue.pop_first()?;
        self.at = at;
        self.note(at);
        self.note(number);
        Some(event)
    }

    /// Adds to the fingerprint of the run.
    pub fn note(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// The fingerprint of the run.
    pub fn trace(&self) -> u64 {
        self.trace
    }
}
