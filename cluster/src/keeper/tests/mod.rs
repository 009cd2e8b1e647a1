//! A house of nodes with a keeper, and what it promises.

mod leases;
mod nodes;

use super::*;
use crate::change::Outcome;
use crate::planner;
use crate::ring::Partition;
use crate::topology::{Epoch, Incarnation};
use alloc::{format, vec};

const LIFE: Incarnation = Incarnation(1);
/// A keeper that has no predecessor to wait out any more.
const READY: u64 = 10_000;

fn introduction(node: u16, incarnation: Incarnation) -> Introduction {
    Introduction {
        name: format!("node-{node}"),
        incarnation,
        weight: 100,
        cores: 1,
        ..Introduction::default()
    }
}

fn keeping(term: u64, node: u16) -> Keeping {
    Keeping::new(term, format!("node-{node}"), LIFE, &Timing::default())
}

fn keep(term: u64, node: u16, settled: Revision) -> Command {
    Command::Keep { keeping: keeping(term, node), settled }
}

/// Nodes that have everything they should have, and a keeper on the first.
struct House {
    topology: Topology,
    keeper: Keeper,
    term: u64,
    timing: Timing,
    effects: Vec<Effect>,
}

impl House {
    fn new(nodes: u16) -> House {
        let mut topology = Topology::default();
        let create = Command::Create { name: "t".into(), ring_bits: 6, copies: 2, seed: 0 };
        topology.apply(&create);
        for node in 0..nodes {
            topology.apply(&Command::Join(introduction(node, LIFE)));
        }
        let timing = Timing::default();
        topology.apply(&keep(1, 0, topology.revision()));
        let (limits, me) = (Limits::default(), keeping(1, 0));
        let keeper = Keeper::new(Millis(0), Millis(0), timing.clone(), limits, me, &topology);
        let mut house = House { topology, keeper, term: 1, timing, effects: Vec::new() };
        let wishes = planner::wishes(&house.topology, |_| true);
        let plan = planner::next_steps(&house.topology, &wishes, Limits::default(), |_| true);
        house.apply(Command::Steps(plan.now));
        house.fill();
        house
    }

    /// Another keeper begins on a node, as far as it knows right after the one before.
    fn elect(&mut self, now: u64, node: u16) {
        self.elect_after(now, now, node);
    }

    /// Another keeper begins on a node, whose voters heard of none after `vacant_since`.
    fn elect_after(&mut self, vacant_since: u64, now: u64, node: u16) {
        self.term += 1;
        let (timing, limits) = (self.timing.clone(), Limits::default());
        let me = Keeping::new(self.term, format!("node-{node}"), LIFE, &timing);
        self.keeper =
            Keeper::new(Millis(now), Millis(vacant_since), timing, limits, me, &self.topology);
    }

    /// Another keeper begins on a node, and says so.
    fn succeed(&mut self, now: u64, node: u16) {
        self.elect(now, node);
        self.apply(keep(self.term, node, self.topology.settled()));
    }

    fn apply(&mut self, command: Command) -> Revision {
        match self.topology.apply(&command) {
            Outcome::Applied(revision) => revision,
            Outcome::Refused(refusal) => panic!("{command:?}: {refusal:?}"),
        }
    }

    fn fill(&mut self) {
        for node in 0..self.topology.members().len() as u16 {
            let lacking = self.topology.partitions().filter(|(_, owners)| {
                owners.replicas().any(|replica| replica == (NodeIndex(node), false))
            });
            let partitions = lacking.map(|(partition, owners)| (partition, owners.epoch));
            let partitions: Vec<(Partition, Epoch)> = partitions.collect();
            self.topology.apply(&Command::InSync {
                known: Revision(u64::MAX),
                node: NodeIndex(node),
                partitions,
            });
        }
    }

    fn beat(&self, node: u16, confirmed: Revision) -> Beat {
        Beat {
            name: format!("node-{node}"),
            incarnation: LIFE,
            confirmed,
            known: confirmed,
            sent: Millis(77),
            healthy: true,
            suspects: Vec::new(),
        }
    }

    /// A beat that arrives at `now` while leadership is beyond doubt.
    fn hear(&mut self, now: u64, beat: &Beat) -> BeatReply {
        self.keeper.on_beat(Millis(now), &self.topology, Millis(now), beat)
    }

    fn all_beat(&mut self, now: u64, nodes: core::ops::Range<u16>) {
        for node in nodes {
            let beat = self.beat(node, self.topology.revision());
            self.hear(now, &beat);
        }
    }

    /// Ticks; plans are made on the spot, and their first steps taken along.
    fn tick(&mut self, now: u64) -> Vec<Effect> {
        loop {
            let before = self.effects.len();
            self.keeper.tick(Millis(now), &self.topology, &mut self.effects);
            // What it says of itself has tests of its own.
            let says = |effect: &Effect| matches!(effect, Effect::Propose(Command::Keep { .. }));
            self.effects.retain(|effect| !says(effect));
            let plan = self.effects[before..].iter().position(is_plan);
            let Some(plan) = plan else { return core::mem::take(&mut self.effects) };
            let Effect::Plan(request) = self.effects.remove(before + plan) else {
                return vec![];
            };
            let wishes = planner::wishes(&self.topology, |node| request.counts(node));
            self.keeper.on_wishes(&request, wishes);
        }
    }

    /// Ticks; what it says of itself, if it does.
    fn said(&mut self, now: u64) -> Option<Command> {
        let mut effects = Vec::new();
        self.keeper.tick(Millis(now), &self.topology, &mut effects);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Propose(command @ Command::Keep { .. }) => Some(command),
            _ => None,
        })
    }

    /// Ticks in the rhythm, with beats of `nodes`, up to `until`.
    fn run(&mut self, from: u64, until: u64, nodes: core::ops::Range<u16>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for now in (from..until).step_by(50) {
            self.all_beat(now, nodes.clone());
            effects.extend(self.tick(now));
        }
        effects
    }

    fn lease_in_books_ms(&self) -> u64 {
        self.timing.surely_ms(self.timing.lease_ms)
    }
}

fn is_plan(effect: &Effect) -> bool {
    matches!(effect, Effect::Plan(_))
}

fn down(node: u16) -> Effect {
    Effect::Propose(Command::Down { node: NodeIndex(node), incarnation: LIFE })
}

fn up(node: u16) -> Effect {
    Effect::Propose(Command::Up { node: NodeIndex(node), incarnation: LIFE })
}
