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
    /// The partitions whose primary changes.
    pub partitions: Vec<Partition>,
}

/// What a node that is about to end still leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftToHandOver {
    /// The next step: partitions that one other node can lead.
    pub next: Option<HandOverRequest>,
    /// Partitions of which no other node that stays has an in-sync copy.
    pub sole: usize,
}

/// What `node`, which is about to end, still has to hand over, at most `most` partitions
/// at a time. The first heir is served first, as one step has one heir.
pub fn left_to_hand_over(topology: &Topology, node: NodeIndex, most: usize) -> LeftToHandOver {
    let stays = |node: NodeIndex| topology.member(node).is_some_and(|m| m.up && !m.leaving);
    let mut left = LeftToHandOver::default();
    for (partition, owners) in topology.partitions() {
        if owners.primary() != Some(node) {
            continue;
        }
        let Some((to, _)) = owners.replicas().find(|(heir, in_sync)| *in_sync && stays(*heir))
        else {
            left.sole += 1;
            continue;
        };
        let fresh = || HandOverRequest { primary: node, to, partitions: Vec::new() };
        let next = left.next.get_or_insert_with(fresh);
        if next.to == to && next.partitions.len() < most {
            next.partitions.push(partition);
        }
    }
    left
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

/// The last look for steps.
#[derive(Clone, Copy, Debug)]
struct Planned {
    revision: Revision,
    at: Millis,
    /// There was nothing to do, nor will there be before something changes.
    is_done: bool,
}

/// The wishes, and what has been asked for them.
#[derive(Debug, Default)]
pub(crate) struct Planning {
    wishes: Vec<Wish>,
    basis: Basis,
    /// Wishes that were asked for, on which basis and when.
    requested: Option<(Basis, Millis)>,
    is_requested: bool,
    /// The wishes are those for the nodes that count.
    fits: bool,
    requests: u64,
    planned: Option<Planned>,
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
        self.fits = self.basis.is(topology, counted);
        let wait_ms = if self.is_requested { timing.repair_after_ms } else { timing.down_after_ms };
        let waits = self.requested.as_ref().is_some_and(|(_, at)| now.since(*at) < wait_ms);
        if waits || self.fits {
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
        let revision = topology.revision();
        let waits = self.planned.is_some_and(|last| match last.revision == revision {
            true => last.is_done || now.since(last.at) < timing.down_after_ms,
            false => now.since(last.at) < timing.beat_ms,
        });
        if waits || self.wishes.len() != topology.partitions().len() {
            return None;
        }
        let plan = planner::next_steps(topology, &self.wishes, limits, counted);
        let is_done = plan.now.is_empty() && plan.hand_overs.is_empty();
        self.planned = Some(Planned { revision, at: now, is_done });
        Some(plan)
    }
    /// Whether nothing is planned: all is as it is wished to be, or cannot be made so
    /// before a node comes or goes.
    pub(crate) fn is_done(&self, topology: &Topology) -> bool {
        let done = |last: Planned| last.is_done && last.revision == topology.revision();
        self.fits && self.planned.is_some_and(done)
    }

    /// What was planned could not be done now, and may be soon.
    pub(crate) fn look_soon(&mut self, now: Millis) {
        self.planned = Some(Planned { revision: Revision::default(), at: now, is_done: false });
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
        // In the order of the partitions, as they were planned.
        let wanted: Vec<(Partition, NodeIndex)> =
            plan.hand_overs.iter().copied().filter(|(_, to)| stays(*to)).collect();
        self.asked.retain(|partition, (to, at)| {
            wanted.binary_search(&(*partition, *to)).is_ok()
                && now.since(*at) < timing.down_after_ms
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
