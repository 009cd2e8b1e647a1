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
//! From `Joining` on, writes wait for it.

use super::tickets::Ticket;
use super::{Lsn, Peer};
use crate::map::Map;
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::Revision;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use engine::ScanCursor;

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
}

/// An answer that waits for this replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub lsn: Lsn,
    pub partition: Partition,
    pub ticket: Ticket,
    /// The write's number in its batch; none for a read that waits along.
    pub number: Option<u32>,
    pub since: Millis,
}

/// A fill under way.
#[derive(Debug)]
pub(super) struct Fill {
    pub number: u32,
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
    pub fills: u32,
    /// When it was last complained about.
    pub suspected: Option<Millis>,
    /// The log no longer holds what the replica lacks: nothing is sent, and
    /// nothing it confirms counts, until it is out of every in-sync set.
    pub broken: bool,
    /// It was said to have caught up, when this was the topology.
    pub reported: Option<Revision>,
    /// The replica has said what it held before, as of this topology.
    pub held: Revision,
    /// Answers to what the replica asked, to be sent.
    pub answers: Vec<u8>,
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
            fills: 0,
            suspected: None,
            broken: false,
            reported: None,
            held: Revision(0),
            answers: Vec::new(),
        }
    }

    /// Whether a write at `lsn` goes to this replica.
    pub fn takes(&self, partition: Partition, lsn: Lsn) -> bool {
        self.shares
            .get(&partition)
            .is_some_and(|share| share.stage != Stage::Missing && share.from <= lsn)
    }

    /// What is being filled is missing again.
    pub fn drop_fill(&mut self) {
        if self.fill.take().is_some() {
            for share in self.shares.values_mut() {
                if share.stage == Stage::Filling {
                    share.stage = Stage::Missing;
                }
            }
        }
    }

    /// The log no longer holds what the replica has not got: all that builds on
    /// it is missing.
    pub fn drop_all(&mut self) {
        self.drop_fill();
        for share in self.shares.values_mut() {
            share.stage = Stage::Missing;
        }
    }
}
