//! A core's replication: time, and what goes on beside requests.

use super::lane::Wait;
use super::replicator::Replicator;
use super::shares::Stage;
use super::{Effect, Peer};
use crate::map::Set;
use crate::ring::Partition;
use crate::time::Millis;
use alloc::vec::Vec;
use engine::{Now, Shard};

/// Time between two calls of [`Replicator::tick`] beyond which this core did not run: it
/// ticks every few milliseconds while answers wait.
const RUNS_FOR_MS: u64 = 20;

impl Replicator {
    /// Complains about replicas that do not confirm, and reports pauses. Call
    /// it every few milliseconds.
    pub fn tick(&mut self, clock: Millis) {
        let gap_ms = clock.since(self.ticked_at).min(RUNS_FOR_MS);
        (self.awake, self.ticked_at) = (self.awake.plus(gap_ms), clock);
        self.clock = clock;
        let untold = self.untold_late();
        self.expire_grants(clock);
        self.complain(&untold);
        self.answer_overdue();
        self.mend();
        self.report_paused();
        self.earn_fill_budget();
    }

    /// Says which replicas do not confirm, and looks to whom it is time to tell what
    /// is settled. `untold`: those that do not confirm an invalidation.
    fn complain(&mut self, untold: &[Peer]) {
        let (clock, awake) = (self.clock, self.awake);
        let (settled_lsn, revision) = (self.settled_lsn(), self.topology.revision());
        for lane in self.lanes.values_mut() {
            lane.tell_settled = lane.held >= revision && settled_lsn > lane.settled;
            let required = |partition: &Partition| {
                lane.shares.get(*partition).is_some_and(|share| share.stage.is_required())
            };
            let old = |wait: &Wait| awake.since(wait.since) >= self.limits.confirm_ms;
            let late = if lane.broken || untold.contains(&lane.peer) {
                lane.shares.values().any(|share| share.stage.is_required())
            } else {
                lane.waits.front().is_some_and(old)
                    && lane.waits.iter().any(|wait| old(wait) && required(&wait.partition))
            };
            lane.late = late;
            let said =
                lane.suspected.is_some_and(|at| clock.since(at) < self.limits.confirm_ms.max(1));
            if late && !said {
                lane.suspected = Some(clock);
                let (node, cannot_follow) = (lane.peer.node, lane.broken);
                self.effects.push(Effect::Suspect { node, cannot_follow });
            }
        }
    }

    /// Says of which paused partitions no write is under way any more.
    pub(super) fn report_paused(&mut self) {
        if self.draining.is_empty() {
            return;
        }
        let waits = self.lanes.values().flat_map(|lane| &lane.waits);
        let busy: Set<Partition> = waits.map(|wait| wait.partition).collect();
        let grants = &self.grants;
        let is_idle =
            |partition: &Partition| !busy.contains(partition) && !grants.covers(*partition);
        let (idle, draining) = self.draining.iter().copied().partition(is_idle);
        self.draining = draining;
        if !idle.is_empty() {
            self.effects.push(Effect::Paused(idle));
        }
    }

    /// Time brings bytes that fills may send.
    fn earn_fill_budget(&mut self) {
        let clock = self.clock;
        // The first time, the clock says how long the machine has been up.
        let elapsed_ms = clock.since(self.fill_budget_at).min(1000);
        let rate = self.limits.fill_bytes_per_second.min(i64::MAX as u64 / 1000) as i64;
        let earned = rate * elapsed_ms as i64 / 1000;
        if earned > 0 {
            self.fill_budget_at = clock;
            self.fill_budget = (self.fill_budget + earned).min(rate / 10 + 1);
        }
    }

    /// A lane whose replica lacks what the log has lost begins anew, once the
    /// replica is in no in-sync set.
    fn mend(&mut self) {
        let (next, settled, revision) = (self.log.next(), self.settled, self.topology.revision());
        for lane in self.lanes.values_mut().filter(|lane| lane.broken) {
            if lane.waits.is_empty() && !lane.shares.values().any(|share| share.holds_up(settled)) {
                lane.broken = false;
                lane.lose_all(revision);
                lane.cursor = next;
            }
        }
    }

    /// Tells replicas of a flush whose time has come, grants copies, and drops a
    /// little of what the node no longer holds. To be called after
    /// [`Replicator::tick`]. True: there is more.
    pub fn upkeep(&mut self, shard: &mut Shard, now: Now) -> bool {
        self.look_for_flush(shard);
        self.answer_questions(shard, now);
        if self.garbage.is_empty() {
            return false;
        }
        let (ring, items_max) = (self.topology.ring(), self.limits.purge_items_max);
        let (topology, me, stored) = (&self.topology, self.me, &mut self.stored);
        let mut is_empty = |partition: Partition| {
            let holds = me.is_some_and(|me| topology.owners(partition).position(me).is_some());
            stored[partition.0 as usize] = holds;
        };
        let modes = &self.modes;
        let dropped = self.garbage.drop_next(ring, modes, items_max, shard, now, &mut is_empty);
        self.counters.purged += dropped as u64;
        !self.garbage.is_empty()
    }

    /// Nodes that left, or of which nothing is wanted.
    pub(super) fn drop_lost_lanes(&mut self) {
        self.lanes
            .retain(|_, lane| !lane.shares.is_empty() || !lane.waits.is_empty() || lane.connected);
    }

    /// Lets go of waits for replicas that are out, once nobody can believe
    /// otherwise.
    pub(super) fn release(&mut self) {
        let mut free = Vec::new();
        let settled = self.settled;
        for lane in self.lanes.values_mut() {
            let shares = &lane.shares;
            let holds_up = |wait: &Wait| {
                shares.get(wait.partition).is_some_and(|share| share.holds_up(settled))
            };
            lane.waits.retain(|wait| {
                let kept = holds_up(wait);
                if !kept {
                    free.push(wait.ticket);
                }
                kept
            });
        }
        for ticket in free {
            self.confirm(ticket, None);
        }
        if !self.left.is_empty() {
            self.forget_left();
        }
    }

    /// Those that are no copies any more, and of whom it is settled that they know.
    fn forget_left(&mut self) {
        let settled = self.settled;
        for lane in self.lanes.values_mut() {
            lane.shares.forget_left(settled);
        }
        let lanes = &self.lanes;
        self.left.retain(|partition, peers| {
            peers.retain(|peer| {
                let share = lanes.get(peer).and_then(|lane| lane.shares.get(*partition));
                share.is_some_and(|share| share.stage == Stage::Left)
            });
            !peers.is_empty()
        });
    }
}
