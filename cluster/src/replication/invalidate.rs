//! A core's replication: invalidations.
//!
//! A generation is state of the whole core, not of a key, so it is no entry of
//! the log. It is told to every replica in front of the entries that follow it,
//! and a place in the log says when they have it: an invalidation counts as
//! taken over here once every replica that serves reads has confirmed that.
//! Until then no reader is told what this core finds, for its heir might still find
//! what is gone here. What comes over a link is told on in the same way, for who sent
//! it may know other replicas than this core. A flush that is still to come is one of
//! these: so who was away when it was said hears of it before it serves.

use super::replicator::Replicator;
use super::{Lsn, Peer};
use crate::ring::Partition;
use crate::spread::suspended_ms;
use crate::time::Millis;
use engine::snapshot::Generation;
use engine::{KeyHash, Shard};

/// No key belongs to it.
pub(super) const NO_PARTITION: Partition = Partition(u32::MAX);
/// Invalidations under way of which a core knows by number. Of one that had to make
/// room it does not hear the end: it waits as long as that may last at most.
const SUSPENSIONS_MAX: usize = 64;

impl Replicator {
    /// An invalidation is under way: it reaches one node after the other, and no
    /// reader may see it undone. So until it is over, or must be, readers are sent to
    /// the primary. What this core has granted is taken back, for whoever holds it
    /// may be one that is not asked: the invalidation goes on here when
    /// [`Replicator::copies_are_gone`].
    pub fn suspend_near_reads(&mut self, invalidation: u64, clock: Millis) {
        self.clock = clock;
        let until = self.invalidations_end();
        self.suspensions.retain(|(known, until)| *known != invalidation && clock < *until);
        if self.suspensions.len() == SUSPENSIONS_MAX {
            let (_, until) = self.suspensions.remove(0);
            self.suspended_until = self.suspended_until.max(until);
        }
        self.suspensions.push((invalidation, until));
        self.near_from = self.near_from.max(until);
        self.withdraw_all();
        self.revoke_all();
    }

    /// It is over. Others that are under way go on.
    pub fn resume_near_reads(&mut self, invalidation: u64) {
        self.suspensions.retain(|(known, _)| *known != invalidation);
        let others = self.suspensions.iter().map(|(_, until)| *until);
        self.near_from = others.fold(self.suspended_until, Millis::max);
    }

    /// This node is in sync, and was so nowhere before. It may have been left out of
    /// invalidations that are under way: it answers as a replica once these are over.
    pub(super) fn begin_near_reads(&mut self) {
        self.replica_from = self.invalidations_end();
    }

    /// By then everything that is under way now is over.
    fn invalidations_end(&self) -> Millis {
        self.clock.plus(suspended_ms(self.limits.invalidation_ms))
    }

    /// Takes over what was invalidated, and tells the replicas. False: not yet, for
    /// other nodes still hold copies that this core has granted.
    pub fn invalidate(&mut self, generations: &[Generation], shard: &mut Shard) -> bool {
        let done = self.copies_are_gone();
        if done {
            self.take_over_generations(generations, shard);
        }
        done
    }

    /// What a primary says that was invalidated.
    pub(super) fn take_over_generations(&mut self, generations: &[Generation], shard: &mut Shard) {
        self.withdraw_all();
        for generation in generations {
            shard.merge_generation(*generation);
        }
        self.tell_invalidations(shard);
    }

    /// A flush that was to come may have come into force. Each node does that by its
    /// own clock of day; the first one tells the others.
    pub(super) fn look_for_flush(&mut self, shard: &Shard) {
        if shard.invalidations() != self.invalidations {
            self.withdraw_all();
            self.revoke_all();
            self.tell_invalidations(shard);
        }
    }

    /// Tells the replicas, if there is something new.
    fn tell_invalidations(&mut self, shard: &Shard) {
        if shard.invalidations() == self.invalidations {
            return;
        }
        self.invalidations = shard.invalidations();
        for lane in self.lanes.values_mut() {
            lane.tell_generations = true;
        }
        let lsn = self.log.append(NO_PARTITION, KeyHash(0), |_, _| {});
        self.untold.push_back((lsn, self.awake));
    }

    /// Whether every replica that serves reads has what was invalidated here.
    pub fn is_told(&self) -> bool {
        self.untold.back().is_none_or(|(lsn, _)| self.knows_not(*lsn).next().is_none())
    }

    /// Replicas that serve reads and have not confirmed that place.
    pub(super) fn knows_not(&self, lsn: Lsn) -> impl Iterator<Item = Peer> + '_ {
        let settled = self.settled;
        let lanes = self.lanes.values().filter(move |lane| lane.broken || lane.acked < lsn);
        lanes
            .filter(move |lane| lane.shares.values().any(|share| share.holds_up(settled)))
            .map(|lane| lane.peer)
    }

    /// Forgets what all know. Those who have not said so in time.
    pub(super) fn untold_late(&mut self) -> alloc::vec::Vec<Peer> {
        while let Some((lsn, _)) = self.untold.front()
            && self.knows_not(*lsn).next().is_none()
        {
            self.untold.pop_front();
        }
        match self.untold.front() {
            Some((lsn, since)) if self.awake.since(*since) >= self.limits.confirm_ms => {
                self.knows_not(*lsn).collect()
            }
            _ => alloc::vec::Vec::new(),
        }
    }
}
