//! The partitions that one core of a replica takes part in, and how far it is with
//! each.
//!
//! ```text
//!            Missing --begin--> Filling --end, filled--+
//!               ^                                      v
//!   log too short                                   Joining --acked--> Joined --in sync--> InSync
//!               |                                      ^
//!            Behind <--excluded-- InSync, Joined       |
//!               +--------------- caught up ------------+
//! ```
//! From `Joining` on, writes wait for the replica. One that is excluded, or goes, may
//! still answer reads until that is settled: so long writes wait too.
//!
//! A core has tens of thousands of these and looks at them in every turn of its loop.
//! So [`Shares`] knows without a walk whether some are missing, may join or are
//! joining; a walk goes over those on their way alone. Every change of a stage passes
//! through [`Shares::change`], which keeps count.

use super::Lsn;
use crate::map::{Map, Set};
use crate::ring::Partition;
use crate::topology::Revision;
use alloc::vec::Vec;

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

    /// Whether it is on its way to be in sync.
    fn is_open(self) -> bool {
        !matches!(self, Stage::InSync | Stage::Left)
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

    /// Whether writes may wait for the replica from now on: it follows the log, and
    /// has said on this link what it has, by a topology in which that counts.
    fn may_join(&self, held: Revision) -> bool {
        self.stage == Stage::Behind && held > Revision(0) && held >= self.since
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

/// All of a replica's core. See the module.
#[derive(Debug, Default)]
pub(super) struct Shares {
    all: Map<Partition, Share>,
    /// Those on their way to be in sync.
    open: Set<Partition>,
    missing: usize,
    joining: usize,
    /// The place that the first of those that are joining waits for, or one before it.
    joining_from: Lsn,
    /// One may have become able to join since that was last looked at.
    look_for_joins: bool,
}

impl Shares {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn get(&self, partition: Partition) -> Option<&Share> {
        self.all.get(&partition)
    }

    pub fn values(&self) -> impl Iterator<Item = &Share> {
        self.all.values()
    }

    /// Changes one, which is put there first if it is not there.
    pub fn change_or_insert(
        &mut self,
        partition: Partition,
        fresh: Share,
        change: impl FnOnce(&mut Share),
    ) {
        if !self.all.contains_key(&partition) {
            self.all.insert(partition, fresh);
            self.enter(partition, fresh.stage, false);
        }
        self.change(partition, change);
    }

    /// Changes one, if it is there.
    pub fn change(&mut self, partition: Partition, change: impl FnOnce(&mut Share)) {
        let Some(share) = self.all.get_mut(&partition) else { return };
        let was = share.stage;
        change(share);
        let is = share.stage;
        if was != is {
            self.leave(partition, was, is.is_open());
            self.enter(partition, is, was.is_open());
        }
        // Also what it waits for may be less now.
        self.look_for_joins |= is == Stage::Behind;
    }

    /// Changes all that are on their way to be in sync.
    pub fn change_open(&mut self, mut change: impl FnMut(Partition, &mut Share)) {
        let open: Vec<Partition> = self.open.iter().copied().collect();
        open.into_iter().for_each(|at| self.change(at, |share| change(at, share)));
    }

    /// Takes one out.
    pub fn remove(&mut self, partition: Partition) {
        if let Some(share) = self.all.remove(&partition) {
            self.leave(partition, share.stage, false);
        }
    }

    /// Takes out those that are no copies any more, unless somebody may not know it.
    pub fn forget_left(&mut self, settled: Revision) {
        // None of these is on its way to be in sync.
        self.all.retain(|_, share| share.stage != Stage::Left || share.out > settled);
    }

    /// The replica has lost what it had: all that builds on it is missing.
    pub fn lose_all(&mut self, revision: Revision) {
        let all: Vec<Partition> = self.all.keys().copied().collect();
        all.into_iter().for_each(|at| self.change(at, |share| share.lose(revision)));
    }

    /// Those that the current fill covers, in order.
    pub fn filling(&self) -> Vec<Partition> {
        let is_filling = |at: &&Partition| self.all[*at].stage == Stage::Filling;
        let mut filling: Vec<Partition> = self.open.iter().filter(is_filling).copied().collect();
        filling.sort_unstable();
        filling
    }

    /// Those that have nothing to build on, in no order.
    pub fn missing(&self) -> impl Iterator<Item = Partition> + '_ {
        let is_missing = |at: &Partition| self.all[at].stage == Stage::Missing;
        self.open.iter().copied().filter(is_missing)
    }

    /// Whether some have nothing to build on.
    pub fn has_missing(&self) -> bool {
        self.missing > 0
    }

    /// The replica has said anew what it has: others may be able to join.
    pub fn look_again(&mut self) {
        self.look_for_joins = true;
    }

    /// Whether [`Shares::join`] may find some.
    pub fn may_join(&self, held: Revision) -> bool {
        self.look_for_joins && held > Revision(0)
    }

    /// The log was sent up to `sent`, to its end: from the next write on, all wait for
    /// those that can join.
    pub fn join(&mut self, held: Revision, sent: Lsn) {
        if !self.may_join(held) {
            return;
        }
        self.change_open(|_, share| {
            if share.may_join(held) {
                share.stage = Stage::Joining(sent);
            }
        });
        self.look_for_joins = false;
    }

    /// The replica has confirmed the log up to `acked`: those whose last gap is closed
    /// by that, in order.
    pub fn joined(&mut self, acked: Lsn) -> Vec<Partition> {
        if self.joining == 0 || acked < self.joining_from {
            return Vec::new();
        }
        let (mut joined, mut next) = (Vec::new(), NEVER);
        self.change_open(|partition, share| match share.stage {
            Stage::Joining(need) if acked >= need => {
                (share.stage, share.rewound) = (Stage::Joined, false);
                joined.push(partition);
            }
            Stage::Joining(need) => next = next.min(need),
            _ => {}
        });
        self.joining_from = next;
        joined.sort_unstable();
        joined
    }

    fn enter(&mut self, partition: Partition, stage: Stage, was_open: bool) {
        if stage.is_open() && !was_open {
            self.open.insert(partition);
        }
        match stage {
            Stage::Missing => self.missing += 1,
            Stage::Behind => self.look_for_joins = true,
            Stage::Joining(need) => {
                let first = if self.joining == 0 { need } else { self.joining_from.min(need) };
                self.joining_from = first;
                self.joining += 1;
            }
            Stage::Filling | Stage::Joined | Stage::InSync | Stage::Left => {}
        }
    }

    fn leave(&mut self, partition: Partition, stage: Stage, stays_open: bool) {
        if stage.is_open() && !stays_open {
            self.open.remove(&partition);
        }
        match stage {
            Stage::Missing => self.missing -= 1,
            Stage::Joining(_) => self.joining -= 1,
            Stage::Filling | Stage::Behind | Stage::Joined | Stage::InSync | Stage::Left => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Partitions at these stages, numbered in order.
    fn shares(stages: &[Stage]) -> Shares {
        let mut shares = Shares::default();
        for (at, stage) in stages.iter().enumerate() {
            let fresh = Share::new(*stage, Lsn(1), Revision(5));
            shares.change_or_insert(Partition(at as u32), fresh, |_| {});
        }
        shares
    }

    fn stages(shares: &Shares) -> Vec<Stage> {
        (0..shares.all.len()).map(|at| shares.all[&Partition(at as u32)].stage).collect()
    }

    #[test]
    fn those_behind_join_once_the_replica_has_said_enough() {
        let mut shares = shares(&[Stage::Behind, Stage::InSync, Stage::Missing, Stage::Behind]);
        assert!(!shares.may_join(Revision(0)), "it has said nothing on this link");
        shares.join(Revision(4), Lsn(9));
        assert_eq!(stages(&shares)[0], Stage::Behind, "what it said was by an older topology");
        assert!(!shares.may_join(Revision(4)), "nothing has changed since");
        shares.look_again();
        shares.join(Revision(5), Lsn(9));
        assert_eq!(stages(&shares)[3], Stage::Joining(Lsn(9)));
        assert_eq!(shares.joined(Lsn(8)), []);
        assert_eq!(shares.joined(Lsn(9)), [Partition(0), Partition(3)]);
        assert_eq!(shares.joined(Lsn(10)), [], "said once");
    }

    #[test]
    fn what_is_missing_is_counted_whatever_happens_to_it() {
        let mut shares = shares(&[Stage::InSync, Stage::Missing, Stage::Left]);
        assert!(shares.has_missing());
        shares.change_open(|_, share| share.stage = Stage::Filling);
        assert!(!shares.has_missing());
        assert_eq!(shares.filling(), [Partition(1)]);
        shares.lose_all(Revision(7));
        assert_eq!(stages(&shares), [Stage::Missing, Stage::Missing, Stage::Left]);
        assert!(shares.has_missing());
        shares.remove(Partition(0));
        shares.remove(Partition(1));
        assert!(!shares.has_missing() && shares.open.is_empty());
        shares.forget_left(Revision(0));
        assert!(shares.is_empty());
    }

    #[test]
    fn a_place_that_is_waited_for_is_not_forgotten_with_an_earlier_one() {
        let mut shares = shares(&[Stage::Joining(Lsn(3)), Stage::Joining(Lsn(7))]);
        shares.change(Partition(0), |share| share.exclude(Revision(6)));
        assert_eq!(shares.joined(Lsn(6)), []);
        assert_eq!(shares.joined(Lsn(7)), [Partition(1)]);
    }
}
