//! What a keeper proposes: who is down, up again or given up, and the steps of plans.

use super::{Effect, Keeper, STEPS_MAX};
use crate::change::Command;
use crate::time::{Millis, Timing};
use crate::topology::{NodeIndex, Topology};
use alloc::vec::Vec;

impl Keeper {
    /// Proposes what follows from beats and from silence.
    pub(super) fn judge(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Timing { beat_ms, down_after_ms, abandon_after_ms, .. } = self.timing;
        let awake = self.awake;
        for life in self.lives.values_mut().flatten() {
            let Some(node) = life.node else { continue };
            let incarnation = life.incarnation;
            let silent_ms = awake.since(life.heard_at);
            // To a keeper that has just begun, a suspicion is all there is.
            let quiet = life.beat_at.is_none() || silent_ms > 2 * beat_ms;
            if life.up && life.suspected && quiet {
                let recently = |at: Millis| now.since(at) < down_after_ms;
                if !life.probed_at.is_some_and(recently) {
                    life.probed_at = Some(now);
                    effects.push(Effect::Probe(node));
                }
            }
            if life.asked_at.is_some_and(|at| now.since(at) < down_after_ms) {
                continue;
            }
            let command = if life.up {
                let gone = life.refused || !life.healthy || silent_ms >= down_after_ms;
                gone.then_some(Command::Down { node, incarnation })
            } else {
                // It must have understood that it was down, else a beat that was
                // late would call it up again.
                let beats = life.beat_at.is_some_and(|at| now.since(at) < down_after_ms)
                    && life.healthy
                    && !life.refused
                    && life.confirmed >= life.fence;
                let given_up = now.since(life.since) >= abandon_after_ms;
                if beats {
                    Some(Command::Up { node, incarnation })
                } else if given_up && self.holders[usize::from(node.0)] {
                    Some(Command::Abandon { node })
                } else {
                    None
                }
            };
            if let Some(command) = command {
                life.asked_at = Some(now);
                effects.push(Effect::Propose(command));
            }
        }
    }

    pub(super) fn plan(&mut self, now: Millis, topology: &Topology, effects: &mut Vec<Effect>) {
        let counts = self.counts(now, topology);
        let counted = |node: NodeIndex| counts[usize::from(node.0)];
        effects
            .extend(self.planning.request(now, topology, &self.timing, counted).map(Effect::Plan));
        let Some(plan) = self.planning.next(now, topology, self.limits, &self.timing, counted)
        else {
            return;
        };
        let steps: Vec<_> = plan.now.iter().take(STEPS_MAX).copied().collect();
        let moves = !steps.is_empty();
        let is_quiet = !moves && self.settled >= self.seen;
        if moves {
            effects.push(Effect::Propose(Command::Steps(steps)));
        }
        if plan.hand_overs.is_empty() {
            self.withheld_since = None;
        } else if self.may_hand_over(now, is_quiet) {
            self.withheld_since = None;
            let requests = self.planning.hand_overs(now, topology, &plan, &self.timing);
            effects.extend(requests.into_iter().map(Effect::HandOver));
        } else if !moves {
            self.planning.look_soon(now);
        }
    }

    /// Whether now is a moment to ask for hand-overs. Writes pause for as long as the
    /// coordinator takes for them, while it may have other things to do, and until what
    /// their partitions went through before is settled. So all should be quiet; but not
    /// for ever, for it may never be.
    fn may_hand_over(&mut self, now: Millis, is_quiet: bool) -> bool {
        let since = *self.withheld_since.get_or_insert(now);
        self.knows_all_leases(now)
            && (is_quiet || now.since(since) >= 2 * self.timing.down_after_ms)
    }

    /// Which slots get partitions: not those being emptied, nor the dead. A node
    /// that is only just down keeps what it had, and one without anything does
    /// not count.
    fn counts(&self, now: Millis, topology: &Topology) -> Vec<bool> {
        let mut counts = alloc::vec![false; topology.members().len()];
        let mut only_just_down = counts.clone();
        for life in self.lives.values().flatten() {
            let Some(node) = life.node else { continue };
            let at = usize::from(node.0);
            let is_recent = now.since(life.since) < self.timing.repair_after_ms;
            counts[at] = life.up;
            only_just_down[at] = !life.up && is_recent;
        }
        for (at, is_down) in only_just_down.into_iter().enumerate() {
            counts[at] |= is_down && self.holders[at];
        }
        for (node, member) in topology.nodes() {
            counts[usize::from(node.0)] &= !member.draining;
        }
        counts
    }
}
