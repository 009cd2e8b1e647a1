//! What operators do: nodes are emptied for a while, and processes end in order,
//! as the server's `step_aside` does it.

use super::World;
use crate::cluster::faults::What;
use crate::cluster::hub::{Event, MS};
use crate::cluster::machine::{Farewell, Message, Process, machine_name};
use cluster::change::Command;
use cluster::node::Effect;
use cluster::planning::HandOverRequest;
use cluster::topology::NodeIndex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An operator looks so often whether all is as it should be.
const OPERATE: u64 = 100 * MS;
/// A process that ends proposes again after so long.
const AGAIN_MS: u64 = 100;
/// A process that is out still lets others hear of that for so long.
const FAREWELL_MS: u64 = 150;
/// For so long it asks to be taken out before it ends all the same.
const GIVES_UP_MS: u64 = 1_000;

impl World {
    /// Asks again for what is not as it should be, at any machine that runs.
    pub(super) fn operate(&mut self) {
        self.hub.after(OPERATE, Event::Operate);
        if !self.faults.iter().any(|fault| matches!(fault.what, What::Drain(_))) {
            return;
        }
        let topology = Arc::clone(self.coordinator.latest());
        let at = self.hub.at;
        let awake: Vec<usize> =
            (0..self.machines.len()).filter(|to| self.machines[*to].is_awake(at)).collect();
        for machine in 0..self.machines.len() {
            let Some((node, member)) = topology.named(&machine_name(machine)) else { continue };
            let on = self.drained[machine];
            if member.draining == on {
                continue;
            }
            let Some(&to) = self.hub.random.pick(&awake) else { return };
            let command = Command::Drain { node, on };
            let message = Box::new(Message::Propose { command, hops: 0 });
            self.hub.after(MS, Event::Message { to, message });
        }
    }

    /// A process is told to end.
    pub(super) fn begin_farewell(&mut self, machine: usize, patience_ms: u64) {
        let now = self.machines[machine].clock.millis(self.hub.at);
        let Some(process) = &mut self.machines[machine].process else { return };
        let farewell = Farewell {
            until: now.plus(patience_ms),
            proposed_at: now,
            ends_at: None,
            hands_over: false,
        };
        let who = process.who;
        process.farewell.get_or_insert(farewell);
        self.wake_control(who, 50);
    }

    /// Goes on with its end. True: it is over.
    pub(super) fn say_farewell(
        &mut self,
        process: &mut Process,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(mut own) = process.farewell else { return false };
        let Some(node) = process.control.me() else { return true };
        let now = self.machines[process.who.machine].clock.millis(self.hub.at);
        let topology = Arc::clone(process.control.topology());
        let Some(member) = topology.member(node) else { return true };
        let incarnation = member.node.incarnation;
        let first = now == own.proposed_at;
        let mut propose = None;
        if own.ends_at.is_none() && !member.leaving && !own.hands_over {
            propose = Some(Command::Leaving { node, incarnation });
            own.hands_over = now >= own.until;
        } else if own.ends_at.is_none() {
            own.hands_over = true;
            let (requests, sole) = leads(&topology, node);
            let over = requests.is_empty() && !sole || now >= own.until;
            for (to, partitions) in requests {
                let request = HandOverRequest { primary: node, to, partitions };
                process.control.on_hand_over(now, &request, effects);
            }
            if over {
                own.ends_at = Some(now.plus(GIVES_UP_MS));
            }
        }
        if let Some(ends_at) = &mut own.ends_at {
            if member.up {
                propose = Some(Command::Down { node, incarnation });
            } else {
                *ends_at = (*ends_at).min(now.plus(FAREWELL_MS));
            }
        }
        if let Some(command) = propose.filter(|_| first || now.since(own.proposed_at) >= AGAIN_MS) {
            own.proposed_at = now;
            effects.push(Effect::Propose(command));
        }
        process.farewell = Some(own);
        own.ends_at.is_some_and(|ends_at| now >= ends_at)
    }
}

/// What a node leads: by heir, and whether some of it has none.
fn leads(
    topology: &cluster::topology::Topology,
    node: NodeIndex,
) -> (BTreeMap<NodeIndex, Vec<cluster::ring::Partition>>, bool) {
    let mut requests: BTreeMap<NodeIndex, Vec<_>> = BTreeMap::new();
    let mut sole = false;
    for (partition, owners) in topology.partitions() {
        if owners.primary() != Some(node) {
            continue;
        }
        let heir = owners.replicas().find(|(heir, in_sync)| {
            *in_sync && topology.member(*heir).is_some_and(|member| member.up && !member.leaving)
        });
        match heir {
            Some((heir, _)) => requests.entry(heir).or_default().push(partition),
            None => sole = true,
        }
    }
    (requests, sole)
}
