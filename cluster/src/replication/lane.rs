//! A primary's side toward one core of a replica: what was sent, what is
//! confirmed, which partitions it takes part in.
//!
//! ```text
//!            Missing --begin--> Filling --end, filled--+
//!               ^                                      v
//!   log too short                                   Joining --acked--> Joined --in sync--> InSync
//!               |                                      ^
//!            Behind <--excluded-- InSync, Joined       |
//!               +--------------- caught up ------------+
//! ```
//! A link that breaks stops a fill, and the next one goes on with it from the last
//! place that the replica has stored: a walk may be as slow as it likes, as long as
//! the log holds what was written since it began.
//!
//! From `Joining` on, writes wait for it. One that is excluded, or goes, may still
//! answer reads until that is settled: so long writes wait too.

use super::message::FILL_ENDED;
use super::tickets::Ticket;
use super::{Lsn, Peer};
use crate::map::Map;
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::Revision;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use engine::ScanCursor;

/// A place that no log comes to.
const NEVER: Lsn = Lsn(u64::MAX);

/// How far a replica is with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has nothing that could be built on.
    Missing,
    /// The current fill covers it.
    Filling,
    /// It has everything up to some place; the log holds the rest.
    Behind,
    /// Writes wait for it; up to this place they have not.
    Joining(Lsn),
    /// It has everything; the coordinator was asked to say so.
    Joined,
    /// The topology says so.
    InSync,
    /// It is no copy any more.
    Left,
}

impl Stage {
    /// Whether writes wait for the replica.
    pub fn is_required(self) -> bool {
        matches!(self, Stage::Joining(_) | Stage::Joined | Stage::InSync)
    }
}

/// A partition that a replica takes part in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub stage: Stage,
    /// What it gets of the log begins here.
    pub from: Lsn,
    /// The cursor went back to `from` for it: what the replica says to have
    /// stored of the log was without this partition.
    pub rewound: bool,
    /// The topology says in sync, and it had nothing to build on: that was said
    /// too early, and once it is excluded it still has nothing.
    pub hollow: bool,
    /// Only what the replica does under this revision counts: before, it may
    /// have dropped what it held.
    pub since: Revision,
    /// Until this revision is settled the replica may believe that it is in
    /// sync, and answer reads: writes wait.
    pub out: Revision,
}

impl Share {
    pub fn new(stage: Stage, from: Lsn, since: Revision) -> Share {
        Share { stage, from, rewound: false, hollow: false, since, out: Revision(0) }
    }

    /// Whether it gets writes from the log, so that what it confirms counts. One
    /// that has left does too, until it is known to know that.
    pub fn follows(&self) -> bool {
        self.stage != Stage::Missing && self.from < NEVER
    }

    /// Whether writes wait on account of the replica.
    pub fn holds_up(&self, settled: Revision) -> bool {
        self.stage.is_required() || self.out > settled
    }

    /// By this revision it is not in sync: it follows the log.
    pub fn exclude(&mut self, revision: Revision) {
        if self.stage.is_required() {
            let stage = if self.hollow { Stage::Missing } else { Stage::Behind };
            (self.stage, self.since, self.out) = (stage, revision, revision);
        }
    }

    /// It has nothing to build on.
    pub fn lose(&mut self, revision: Revision) {
        self.exclude(revision);
        if self.stage == Stage::Left {
            self.from = NEVER;
        } else {
            (self.stage, self.rewound) = (Stage::Missing, false);
        }
    }
}

/// An answer that waits for this replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub lsn: Lsn,
    pub partition: Partition,
    pub ticket: Ticket,
    /// The request's number in its batch; none for what nobody asked.
    pub number: Option<u32>,
    pub since: Millis,
}

/// A fill under way.
#[derive(Debug)]
pub(super) struct Fill {
    pub number: u32,
    /// The replica was told on this link what it covers.
    pub begun: bool,
    pub cursor: ScanCursor,
    /// The end was sent, when the log had come to here.
    pub ended: Option<Lsn>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Lane {
    pub peer: Peer,
    /// The link is there, and the replica has said what it has.
    pub open: bool,
    /// The link is there.
    pub connected: bool,
    /// The next entry to send.
    pub cursor: Lsn,
    /// The last mark sent.
    pub marked: Lsn,
    /// The last confirmed.
    pub acked: Lsn,
    pub shares: Map<Partition, Share>,
    pub waits: VecDeque<Wait>,
    pub fill: Option<Fill>,
    /// When it was last complained about.
    pub suspected: Option<Millis>,
    /// The log no longer holds what the replica lacks: nothing is sent, and
    /// nothing it confirms counts, until it is out of every in-sync set.
    pub broken: bool,
    /// The topology that the replica acts by; it has said what it held before.
    pub held: Revision,
    /// What the replica asks about partitions that this node does not lead yet.
    pub questions: Vec<(Partition, Box<[u8]>)>,
    /// It was told that everything up to there is where it must be.
    pub settled: Lsn,
    /// It is time to tell it.
    pub tell_settled: bool,
    /// The link is new: the replica is told what was invalidated meanwhile.
    pub tell_generations: bool,
    /// Some partition may be on its way to be in sync. Whatever may set one on
    /// this way raises it, so that all need not be looked at in every turn.
    pub unfinished: bool,
}

impl Lane {
    pub fn new(peer: Peer, next: Lsn) -> Lane {
        Lane {
            peer,
            open: false,
            connected: false,
            cursor: next,
            marked: Lsn(0),
            acked: Lsn(0),
            shares: Map::default(),
            waits: VecDeque::new(),
            fill: None,
            suspected: None,
            broken: false,
            held: Revision(0),
            questions: Vec::new(),
            settled: Lsn(0),
            tell_settled: false,
            tell_generations: false,
            unfinished: true,
        }
    }

    /// Looks whether some partition is on its way to be in sync.
    pub fn look(&mut self) {
        let way = |share: &Share| {
            let stage = share.stage;
            matches!(stage, Stage::Missing | Stage::Filling | Stage::Behind | Stage::Joining(_))
        };
        self.unfinished = self.unfinished && self.shares.values().any(way);
    }

    /// Whether a write at `lsn` goes to this replica.
    pub fn takes(&self, partition: Partition, lsn: Lsn) -> bool {
        let share = self.shares.get(&partition);
        share.is_some_and(|share| share.follows() && share.from <= lsn)
    }

    /// Whether writes of the partition wait on account of the replica.
    pub fn holds_up(&self, partition: Partition, settled: Revision) -> bool {
        self.shares.get(&partition).is_some_and(|share| share.holds_up(settled))
    }

    /// The link begins or ends: what was under way on it is lost.
    pub fn reset_link(&mut self) {
        self.unfinished = true;
        self.open = false;
        self.held = Revision(0);
        self.questions.clear();
        self.settled = Lsn(0);
    }

    /// The link stands again, and the replica has stored this much of that fill.
    /// True if it goes on.
    pub fn resume_fill(&mut self, number: u32, place: u64) -> bool {
        match &mut self.fill {
            Some(fill) if fill.number == number && place == FILL_ENDED => {
                self.end_fill(Stage::Behind);
                true
            }
            Some(fill) if fill.number == number => {
                (fill.begun, fill.ended) = (false, None);
                fill.cursor = ScanCursor::at(place);
                true
            }
            _ => {
                self.end_fill(Stage::Missing);
                false
            }
        }
    }

    /// The fill is over; what it covers comes to that stage.
    pub fn end_fill(&mut self, stage: Stage) {
        if self.fill.take().is_some() {
            self.unfinished = true;
            for share in self.shares.values_mut() {
                if share.stage == Stage::Filling {
                    share.stage = stage;
                }
            }
        }
    }

    /// The log no longer holds what the replica has not got, or the replica has
    /// lost what it had: all that builds on it is missing.
    pub fn lose_all(&mut self, revision: Revision) {
        self.unfinished = true;
        self.fill = None;
        self.shares.values_mut().for_each(|share| share.lose(revision));
    }
}
