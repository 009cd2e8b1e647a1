//! Following a plan: which wishes hold, which steps are under way, and when to
//! ask for what again.
//!
//! Wishes hold until other nodes count, or weights and zones change: a plan that is
//! followed half-way and made anew would move some things twice. They are computed
//! outside, as that may take longer than a keeper may be silent; until they come
//! the ones before are followed.

use crate::planner::{self, Limits, Plan, Wish};
use crate::ring::Partition;
use crate::time::{Millis, Timing};
use crate::topology::{NodeIndex, Revision, Topology};
use alloc::{collections::BTreeMap, string::String, vec::Vec};

/// Most partitions that one primary is asked to hand over at a time: their writes
/// pause together.
pub const HAND_OVERS_PER_PRIMARY_MAX: usize = 256;

/// Asks a primary to pause the partitions, drain them, and propose
/// [`Step::HandOver`](crate::change::Step::HandOver) itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverRequest {
    /// Who leads them now.
    pub primary: NodeIndex,
    /// Who should: it is in sync.
    pub to: NodeIndex,
    /// Which.
    pub partitions: Vec<Partition>,
}

/// Asks for the wishes for some nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRequest {
    /// The nodes that count, in order.
    pub nodes: Vec<NodeIndex>,
    number: u64,
}

impl PlanRequest {
    /// Whether a node counts.
    pub fn counts(&self, node: NodeIndex) -> bool {
        self.nodes.binary_search(&node).is_ok()
    }
}

/// What the wishes depend on beside the owners.
#[derive(Debug, Default, PartialEq, Eq)]
struct Basis {
    /// Nodes that count, their weights and zones.
    nodes: Vec<(NodeIndex, u16, String)>,
    copies: u8,
    partitions: usize,
}

impl Basis {
    fn is(&self, topology: &Topology, counted: impl Fn(NodeIndex) -> bool) -> bool {
        let nodes = self.nodes.iter().map(|(node, weight, zone)| (*node, *weight, zone.as_str()));
        self.copies == topology.copies_wanted()
            && self.partitions == topology.partitions().len()
            && nodes.eq(counting(topology, counted))
    }

    fn of(topology: &Topology, counted: impl Fn(NodeIndex) -> bool) -> Basis {
        let nodes = counting(topology, counted);
        Basis {
            nodes: nodes.map(|(node, weight, zone)| (node, weight, zone.into())).collect(),
            copies: topology.copies_wanted(),
            partitions: topology.partitions().len(),
        }
    }
}

fn counting(
    topology: &Topology,
    counted: impl Fn(NodeIndex) -> bool,
) -> impl Iterator<Item = (NodeIndex, u16, &str)> {
    let nodes = topology.nodes().filter(move |(node, _)| counted(*node));
    nodes.map(|(node, member)| (node, member.node.weight, member.node.zone.as_str()))
}

/// The wishes, and what has been asked for them.
#[derive(Debug, Default)]
pub(crate) struct Planning {
    wishes: Vec<Wish>,
    basis: Basis,
    /// Wishes that were asked for, on which basis and when.
    requested: Option<(Basis, Millis)>,
    is_requested: bool,
    requests: u64,
    /// Revision and time of the last steps.
    planned: Option<(Revision, Millis)>,
    /// Hand-overs under way: to whom, and asked when.
    asked: BTreeMap<Partition, (NodeIndex, Millis)>,
}

impl Planning {
    /// Asks for other wishes when those there are no longer fit: one request at a
    /// time, and not more often than nodes come and go.
    pub(crate) fn request(
        &mut self,
        now: Millis,
        topology: &Topology,
        timing: &Timing,
        counted: impl Fn(NodeIndex) -> bool + Copy,
    ) -> Option<PlanRequest> {
        let wait_ms = if self.is_requested { timing.repair_after_ms } else { timing.down_after_ms };
        let waits = self.requested.as_ref().is_some_and(|(_, at)| now.since(*at) < wait_ms);
        if waits || self.basis.is(topology, counted) {
            return None;
        }
        let basis = Basis::of(topology, counted);
        let nodes = basis.nodes.iter().map(|(node, ..)| *node).collect();
        self.requested = Some((basis, now));
        self.is_requested = true;
        self.requests += 1;
        Some(PlanRequest { nodes, number: self.requests })
    }

    pub(crate) fn on_wishes(&mut self, request: &PlanRequest, wishes: Vec<Wish>) {
        if !self.is_requested || request.number != self.requests {
            return;
        }
        self.is_requested = false;
        if let Some((basis, _)) = &mut self.requested {
            self.basis = core::mem::take(basis);
            self.wishes = wishes;
            self.planned = None;
        }
    }

    /// The steps to take now; nothing while the last ones are under way.
    pub(crate) fn next(
        &mut self,
        now: Millis,
        topology: &Topology,
        limits: Limits,
        timing: &Timing,
        counted: impl Fn(NodeIndex) -> bool,
    ) -> Option<Plan> {
        let waits = self.planned.is_some_and(|(revision, at)| {
            let moved = revision != topology.revision();
            now.since(at) < if moved { timing.beat_ms } else { timing.down_after_ms }
        });
        if waits || self.wishes.len() != topology.partitions().len() {
            return None;
        }
        self.planned = Some((topology.revision(), now));
        Some(planner::next_steps(topology, &self.wishes, limits, counted))
    }

    /// What was planned could not be done now, and may be soon.
    pub(crate) fn look_soon(&mut self, now: Millis) {
        self.planned = Some((Revision::default(), now));
    }

    /// Whom to ask for which hand-overs, those under way left out.
    pub(crate) fn hand_overs(
        &mut self,
        now: Millis,
        topology: &Topology,
        plan: &Plan,
        timing: &Timing,
    ) -> Vec<HandOverRequest> {
        // Who is about to end is made primary of nothing.
        let stays = |node: NodeIndex| topology.member(node).is_some_and(|member| !member.leaving);
        let wanted: BTreeMap<Partition, NodeIndex> =
            plan.hand_overs.iter().copied().filter(|(_, to)| stays(*to)).collect();
        self.asked.retain(|partition, (to, at)| {
            wanted.get(partition) == Some(to) && now.since(*at) < timing.down_after_ms
        });
        let mut by_primary: BTreeMap<NodeIndex, usize> = BTreeMap::new();
        for partition in self.asked.keys() {
            if let Some(primary) = topology.owners(*partition).primary() {
                *by_primary.entry(primary).or_default() += 1;
            }
        }
        let mut requests: BTreeMap<(NodeIndex, NodeIndex), Vec<Partition>> = BTreeMap::new();
        for (partition, to) in wanted {
            let Some(primary) = topology.owners(partition).primary() else { continue };
            let under_way = by_primary.entry(primary).or_default();
            if self.asked.contains_key(&partition) || *under_way >= HAND_OVERS_PER_PRIMARY_MAX {
                continue;
            }
            *under_way += 1;
            self.asked.insert(partition, (to, now));
            requests.entry((primary, to)).or_default().push(partition);
        }
        let request = |((primary, to), partitions)| HandOverRequest { primary, to, partitions };
        requests.into_iter().map(request).collect()
    }
}
