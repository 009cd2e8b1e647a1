//! Invalidations of the whole cluster: what the server's `spread` does, between
//! simulated nodes.

use super::{World, machine_at};
use crate::cluster::clients::Target;
use crate::cluster::data::{Answer, CoreTell};
use crate::cluster::hub::{Event, MS};
use crate::cluster::machine::{Asked, Message, Process, Spreading, machine_of};
use cluster::spread::{self, Next, Spread, Word};
use cluster::topology::{Incarnation, Revision};
use engine::namespace_id;
use engine::snapshot::GenerationScope;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node that has not answered is asked again after so long.
const ASK_AGAIN: u64 = 60 * MS;

impl World {
    pub(super) fn begin_spread(
        &mut self,
        process: &mut Process,
        client: u32,
        operation: u64,
        target: Target,
    ) {
        let now = self.machines[process.who.machine].clock.millis(self.hub.at);
        let (scope, id) = match target {
            Target::Tag(tag) => (GenerationScope::Tag, u64::from(tag)),
            Target::Namespace(name) => (GenerationScope::Namespace, namespace_id(name.as_bytes())),
            Target::All => (GenerationScope::Flush, 0),
        };
        let patience_ms = self.setup.node.limits.invalidation_ms;
        let spread = Spread::generations(operation, vec![(scope as u8, id)], now, patience_ms);
        process.spreading.push(Spreading { client, operation, spread, asked: BTreeMap::new() });
    }

    /// Goes on with those that this node carries out.
    pub(super) fn spread(&mut self, process: &mut Process) {
        let own = process.who.machine;
        let now = self.machines[own].clock.millis(self.hub.at);
        let topology = Arc::clone(process.control.topology());
        let settled = process.control.member().settled();
        for mut one in std::mem::take(&mut process.spreading) {
            let before = one.spread.word().clone();
            let next = one.spread.next(now, &topology, process.control.me(), settled);
            if *one.spread.word() != before {
                one.asked.clear();
            }
            let Next::Ask(nodes) = next else {
                let done = next == Next::Done;
                let answer = if done { Answer::Invalidated } else { Answer::Unknown };
                let (client, operation) = (one.client, one.operation);
                let late = self.hub.random.between(30, 300);
                self.hub.after(late, Event::Answer { client, operation, answer, epoch: 0 });
                for (_, member) in topology.nodes() {
                    let Some(to) = machine_of(&member.node.name) else { continue };
                    let word = one.spread.farewell();
                    self.send(own, to, Message::Word { from: own, word });
                }
                continue;
            };
            for node in nodes {
                let due = one.asked.get(&node).is_none_or(|at| self.hub.at - at >= ASK_AGAIN);
                let Some(to) = machine_at(&topology, node).filter(|_| due) else { continue };
                one.asked.insert(node, self.hub.at);
                let word = one.spread.word().clone();
                self.send(own, to, Message::Word { from: own, word });
            }
            process.spreading.push(one);
        }
    }

    /// Another node asks: the cores are to answer.
    pub(super) fn hear_word(&mut self, process: &mut Process, from: usize, word: Word) {
        let ask = self.next_ask;
        self.next_ask += 1;
        let missing = (0..process.cores.len() as u16).collect();
        let acts = Revision(u64::MAX);
        let asked = Asked { from, word: word.clone(), missing, acts, latest: 0 };
        process.asked.insert(ask, asked);
        self.tell_cores(process, &CoreTell::Word { ask, word });
    }

    /// A core has done so.
    pub(super) fn hear_core(
        &mut self,
        process: &mut Process,
        ask: u64,
        core: u16,
        acts: Revision,
        latest: u64,
    ) {
        let Some(asked) = process.asked.get_mut(&ask) else { return };
        asked.missing.remove(&core);
        asked.acts = asked.acts.min(acts);
        asked.latest = asked.latest.max(latest);
        if !asked.missing.is_empty() {
            return;
        }
        let Some(asked) = process.asked.remove(&ask) else { return };
        let incarnation = Incarnation(process.who.life);
        let answer = spread::Answer { incarnation, acts: asked.acts, latest: asked.latest };
        let own = process.who.machine;
        self.send(own, asked.from, Message::Answered { from: own, word: asked.word, answer });
    }
}

/// A node has answered.
pub fn hear_node(process: &mut Process, from: usize, word: &Word, answer: spread::Answer) {
    let topology = Arc::clone(process.control.topology());
    let at = |name: &str| machine_of(name) == Some(from);
    let node = topology.nodes().find(|(_, member)| at(&member.node.name)).map(|(node, _)| node);
    let Some(node) = node else { return };
    let meant = process.spreading.iter_mut().filter(|one| one.spread.word() == word);
    meant.for_each(|one| one.spread.on_answer(node, answer));
}
