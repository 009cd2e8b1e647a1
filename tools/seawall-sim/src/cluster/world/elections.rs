//! Who leads the coordinator, and what is committed by it.

use super::World;
use crate::cluster::faults::copied_until;
use crate::cluster::hub::{Event, MS, Who};
use crate::cluster::machine::{Lead, machine_name};
use crate::cluster::reigns::Change;
use cluster::change::Command;
use cluster::keeper::Keeper;
use cluster::planner;
use cluster::ring::Partition;
use cluster::time::{Millis, at_least_us};
use cluster::topology::{Epoch, Incarnation, Keeping, Topology};
use engine::KeyHash;
use std::sync::Arc;

impl World {
    fn is_quorum(&self, leader: usize) -> bool {
        let follows = |voter: &usize| {
            *voter == leader
                || self.machines[*voter].is_awake(self.hub.at) && self.net.both_ways(leader, *voter)
        };
        (0..self.machines.len()).filter(follows).count() > self.machines.len() / 2
    }

    /// Whether somebody can commit.
    fn functional(&self) -> Option<Who> {
        let leader = self.coordinator.leader?;
        let machine = &self.machines[leader.machine];
        let lives = machine.process.as_ref().is_some_and(|process| process.who == leader);
        (lives && machine.is_awake(self.hub.at) && self.is_quorum(leader.machine)).then_some(leader)
    }

    pub(super) fn commit(&mut self, term: u64, command: &Command, late: bool) {
        let leader = self.functional().filter(|_| late || term == self.coordinator.term);
        let Some(leader) = leader else {
            // A majority may have it all the same, and a later leader finds it.
            if !late && self.hub.random.percent(40) {
                let found = self.hub.random.between(100 * MS, 900 * MS);
                let command = Box::new(command.clone());
                self.hub.after(found, Event::Commit { term, command, late: true });
            }
            return;
        };
        let before = Arc::clone(self.coordinator.latest());
        let outcome = self.coordinator.commit(command);
        self.hub.note(format!("{outcome:?}").len() as u64);
        if self.setup.log {
            eprintln!("{:>9} us  {command:?}: {outcome:?}", self.hub.at);
        }
        let after = Arc::clone(self.coordinator.latest());
        for ((partition, was), (_, is)) in before.partitions().zip(after.partitions()) {
            if was.epoch != is.epoch {
                self.begin_reign(partition, command, &before, &after);
            }
            if was.born != is.born && was.born != Epoch(0) {
                self.begin_anew(partition, &after);
            }
            self.failovers += u64::from(was.primary().is_some() && was.primary() != is.primary());
        }
        let entries = self.coordinator.committed();
        if let Some(process) = self.machines[leader.machine].process(leader) {
            process.applied = entries;
            if let Some(lead) = &mut process.lead {
                lead.wrote_at.0 = 0;
            }
            self.wake_control(leader, 100);
        }
    }

    pub(super) fn elect_if_needed(&mut self) {
        let at = self.hub.at;
        self.hub.after(25 * MS, Event::Elect);
        if self.functional().is_some() {
            self.coordinator.leaderless_since = None;
            return;
        }
        let since = *self.coordinator.leaderless_since.get_or_insert(at);
        let patience = self.hub.random.between(100 * MS, 300 * MS);
        if self.coordinator.leader.is_none() || at - since > patience {
            self.elect();
        }
    }

    /// Makes one of those the leader that reach a majority.
    pub(super) fn elect(&mut self) {
        let at = self.hub.at;
        let able =
            |machine: &usize| self.machines[*machine].is_awake(at) && self.is_quorum(*machine);
        let able: Vec<usize> = (0..self.machines.len()).filter(able).collect();
        let Some(&winner) = self.hub.random.pick(&able) else { return };
        self.coordinator.term += 1;
        let term = self.coordinator.term;
        // A bare majority votes: the others hear of it later.
        let mut voters: Vec<usize> = (0..self.machines.len())
            .filter(|voter| *voter != winner)
            .filter(|voter| {
                self.machines[*voter].is_awake(at) && self.net.both_ways(winner, *voter)
            })
            .collect();
        while voters.len() > self.machines.len() / 2 {
            let out = self.hub.random.below(voters.len() as u64) as usize;
            voters.remove(out);
        }
        voters.push(winner);
        let now = self.machines[winner].clock.millis(at);
        let mut vacant_since = Millis(0);
        for voter in voters {
            vacant_since = vacant_since.max(self.followed(voter, winner));
            self.coordinator.promised[voter] = term;
        }
        let entries = self.coordinator.committed();
        let timing = self.setup.node.timing.clone();
        let topology = Arc::clone(self.coordinator.latest());
        let Some(process) = &mut self.machines[winner].process else { return };
        process.term = term;
        process.leader = Some(winner);
        process.applied = entries;
        let acks = vec![None; self.setup.nodes];
        let zero = Millis(0);
        process.lead = Some(Lead { term, acks, wrote_at: zero, ticked_at: zero });
        let incarnation = Incarnation(process.who.life);
        let me = Keeping::new(term, machine_name(winner), incarnation, &timing);
        let limits = planner::Limits::default();
        process.keeper = Some(Keeper::new(now, vacant_since, timing, limits, me, &topology));
        process.control.on_leader();
        let who = process.who;
        self.coordinator.leader = Some(who);
        self.coordinator.leaderless_since = None;
        self.wake_control(who, 100);
    }

    /// When a voter last followed a leader, by the winner's clock, as the winner can know
    /// it from the voter's answer; perhaps too late.
    fn followed(&self, voter: usize, winner: usize) -> Millis {
        let (at, followed) = (self.hub.at, self.coordinator.followed[voter]);
        let clock = &self.machines[voter].clock;
        // Of the milliseconds one may have been seen only in part.
        let silence_ms = clock.millis(at).since(clock.millis(followed)).saturating_sub(1);
        let now = self.machines[winner].clock.millis(at);
        Millis(now.0 - at_least_us(silence_ms * 1_000) / 1_000)
    }

    /// Another epoch of a partition begins.
    fn begin_reign(
        &mut self,
        partition: Partition,
        command: &Command,
        before: &Topology,
        after: &Topology,
    ) {
        let (was, is) = (before.owners(partition), after.owners(partition));
        // Where every copy was lost, nobody had it.
        let anew = was.born != is.born;
        let hands_over = match command {
            Command::HandOver { partitions, .. } => partitions.iter().any(|of| of.0 == partition),
            _ => false,
        };
        let at = self.hub.at;
        let change = Change {
            epoch: is.epoch.0,
            // What a dead node led is taken over, not handed over.
            in_order: hands_over && was.primary().is_some_and(|past| before.is_up(past)),
            copied_until_ns: if anew { 0 } else { copied_until(&self.faults, at) * 1_000 },
        };
        let of = |hash: &KeyHash| after.ring().of(*hash) == partition;
        for (key, _) in self.hashes.iter().enumerate().filter(|(_, hash)| of(hash)) {
            self.recorder.changed(key as u32, change);
        }
    }

    /// Every in-sync copy of a partition was lost: by now its keys may be gone.
    fn begin_anew(&mut self, partition: Partition, topology: &Topology) {
        self.born += 1;
        let of = |hash: &KeyHash| topology.ring().of(*hash) == partition;
        for (key, _) in self.hashes.iter().enumerate().filter(|(_, hash)| of(hash)) {
            self.recorder.lost(key as u32, self.hub.at);
        }
    }
}
