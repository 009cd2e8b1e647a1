//! The end of a run: the cluster has to become whole, and every key is read back.

use super::World;
use crate::cluster::clients::Ask;
use crate::cluster::data::Op;
use crate::cluster::hub::{Event, MS};
use cluster::topology::{NodeIndex, Topology};
use std::collections::BTreeMap;

/// So long after the last fault, the cluster must be whole.
const WHOLE_WITHIN: u64 = 15_000 * MS;

impl World {
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.drained.fill(false);
        // All faults that last end now: the schedule ends with them.
        for machine in &mut self.machines {
            machine.interrupt = None;
        }
        self.hub.after(600 * MS, Event::Look);
    }

    /// Whether every partition has its copies, and nothing is under way.
    pub fn is_whole(&self) -> Result<(), String> {
        let topology = self.coordinator.latest();
        let copies = usize::from(self.setup.copies).min(self.setup.nodes);
        for (partition, owners) in topology.partitions() {
            let full = owners.in_sync() as usize == copies && owners.copies().len() == copies;
            if !full || !owners.copies().iter().all(|node| topology.is_up(*node)) {
                return Err(format!("partition {} has {owners:?}", partition.0));
            }
        }
        self.is_spread_over_zones(topology)?;
        if let Some((_, member)) = topology.nodes().find(|(_, member)| !member.up) {
            return Err(format!("{} is down", member.node.name));
        }
        for (at, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else { return Err(format!("n{at} is gone")) };
            for core in &process.cores {
                let acts = core.replicator.topology().revision();
                if acts != topology.revision() || !core.is_idle() {
                    let latest = topology.revision().0;
                    return Err(format!("n{at} of revision {latest}: {}", core.summary()));
                }
            }
            if process.control.member().settled() != topology.revision() {
                let settled = process.control.member().settled().0;
                return Err(format!("n{at}: {settled} is settled of {}", topology.revision().0));
            }
        }
        if self.clients.iter().any(|client| client.going.is_some()) {
            return Err("a client waits".into());
        }
        Ok(())
    }

    /// Whether the copies of every partition are in as many zones as can be. Nodes
    /// without a zone are together in one.
    fn is_spread_over_zones(&self, topology: &Topology) -> Result<(), String> {
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, member) in topology.nodes() {
            *zones.entry(&member.node.zone).or_default() += 1;
        }
        let most = usize::from(self.setup.copies).div_ceil(zones.len().max(1));
        for (partition, owners) in topology.partitions() {
            for zone in zones.keys() {
                let is_in = |node: &&NodeIndex| {
                    topology.member(**node).is_some_and(|member| member.node.zone == **zone)
                };
                let copies = owners.copies().iter().filter(is_in).count();
                if copies > most {
                    return Err(format!("{copies} copies of {partition:?} in zone {zone:?}"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn look(&mut self) {
        match self.is_whole() {
            Ok(()) => {
                self.whole_at = Some(self.hub.at);
                self.recorder.healed(self.hub.at);
                self.read_next(0);
            }
            Err(why) if self.hub.at > self.setup.calm_at + WHOLE_WITHIN => {
                self.problems.push(format!("not whole: {why}"));
                self.over = true;
            }
            Err(_) => self.hub.after(20 * MS, Event::Look),
        }
    }

    pub(super) fn read_next(&mut self, client: u32) {
        if self.hub.at > self.setup.calm_at + 2 * WHOLE_WITHIN {
            self.problems.push("the keys could not be read back".into());
            self.over = true;
            return;
        }
        let Some(key) = self.read_back.iter().position(|read| !read) else {
            self.over = true;
            return;
        };
        self.clients[client as usize].machine =
            self.hub.random.below(self.setup.nodes as u64) as usize;
        self.issue(client, Ask::Key(key as u32, Op::Get));
    }
}
