//! A primary's side toward one core of a replica: what was sent, what is confirmed,
//! and which partitions it takes part in ([`Shares`]).
//!
//! A link that breaks stops a fill, and the next one goes on with it from the last
//! place that the replica has stored: a walk may be as slow as it likes, as long as
//! the log holds what was written since it began.

use super::message::FILL_ENDED;
use super::shares::{Shares, Stage};
use super::tickets::Ticket;
use super::{Lsn, Peer};
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::Revision;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use engine::ScanCursor;

/// An answer that waits for this replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub lsn: Lsn,
    pub partition: Partition,
    pub ticket: Ticket,
    /// The request's number in its batch; none for what nobody asked.
    pub number: Option<u32>,
    /// By the clock that stands still while this core does not run.
    pub since: Millis,
}

/// A fill under way.
#[derive(Debug)]
pub(super) struct Fill {
    pub number: u32,
    /// It covers partitions that lack a copy, and those alone.
    pub mends: bool,
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
    pub shares: Shares,
    pub waits: VecDeque<Wait>,
    pub fill: Option<Fill>,
    /// It does not confirm in time.
    pub late: bool,
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
            shares: Shares::default(),
            waits: VecDeque::new(),
            fill: None,
            late: false,
            suspected: None,
            broken: false,
            held: Revision(0),
            questions: Vec::new(),
            settled: Lsn(0),
            tell_settled: false,
            tell_generations: false,
        }
    }

    /// Whether a write at `lsn` goes to this replica.
    pub fn takes(&self, partition: Partition, lsn: Lsn) -> bool {
        let share = self.shares.get(partition);
        share.is_some_and(|share| share.follows() && share.from <= lsn)
    }

    /// Whether writes of the partition wait on account of the replica.
    pub fn holds_up(&self, partition: Partition, settled: Revision) -> bool {
        self.shares.get(partition).is_some_and(|share| share.holds_up(settled))
    }

    /// The link begins or ends: what was under way on it is lost.
    pub fn reset_link(&mut self) {
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
            self.shares.change_open(|_, share| {
                if share.stage == Stage::Filling {
                    share.stage = stage;
                }
            });
        }
    }

    /// The log no longer holds what the replica has not got, or the replica has
    /// lost what it had: all that builds on it is missing.
    pub fn lose_all(&mut self, revision: Revision) {
        self.fill = None;
        self.shares.lose_all(revision);
    }
}
