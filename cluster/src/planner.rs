//! The planner: which nodes should hold each partition, and the steps that lead
//! there from those that hold it now.
//!
//! A consistent-hashing ring with random tokens leaves the fullest of a thousand
//! nodes with a tenth more than the mean. Partitions that are *assigned* can be
//! shared out to within one: every node has a quota from its weight, and
//! [`wishes`] starts from what is there and changes only what a quota, a zone or a
//! missing copy demands. So a new node takes its share and nothing else moves.
//!
//! ```text
//! owners now ──► keep ──► fill what is missing ──► pull for the empty ──► push from the full
//!                                                          │
//!                wishes ◄── primaries, along shortest chains of hand-overs
//! ```
//!
//! A node shares partitions with some [`PEERS_SOUGHT`] others, not with all: the
//! fewer sets of nodes hold a partition together, the fewer pairs of deaths lose
//! one (copysets, Cidon et al., USENIX ATC 2013), while sixteen survivors still
//! share a dead node's load. Joins may raise that to [`PEERS_MAX`]; beyond it
//! goes only what balance or zones leave no other way for (measured: a cluster
//! grown one by one from 3 to 120 nodes has 24 peers a node, 32 at most).
//!
//! | part | |
//! |---|---|
//! | `quota` | how much each node should have |
//! | `peers` | who holds partitions together |
//! | `draft` | what everyone has so far, and who may take one more |
//! | `fill` | missing copies |
//! | `balance` | the empty pull, the full push |
//! | `primaries` | which copy leads |
//!
//! Nothing here is random: the same topology and the same counted nodes give the
//! same wishes on every machine.

mod balance;
mod draft;
mod fill;
mod peers;
mod primaries;
mod quota;

use self::draft::Draft;
use crate::change::Step;
use crate::ring::Partition;
use crate::topology::{COPIES_MAX, COPIES_WANTED_MAX, NodeIndex, Owners, Topology};
use alloc::{vec, vec::Vec};

/// Peers with which a node is meant to share its partitions.
pub const PEERS_SOUGHT: usize = 16;
/// Peers that joins and repairs may give a node.
pub const PEERS_MAX: usize = 24;

/// The copies that a partition should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wish {
    copies: [NodeIndex; COPIES_WANTED_MAX as usize],
    count: u8,
}

impl Wish {
    /// The node that should take writes; none if no node gets partitions.
    pub fn primary(&self) -> Option<NodeIndex> {
        self.copies().first().copied()
    }

    /// Primary and replicas.
    pub fn copies(&self) -> &[NodeIndex] {
        &self.copies[..usize::from(self.count)]
    }
}

/// How much may be under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Copies being filled in the cluster.
    pub filling_max: u32,
    /// Copies being filled on one node.
    pub filling_per_node_max: u32,
}

impl Default for Limits {
    /// Sixteen at a time fill a node's link; a thousand nodes may all do so.
    fn default() -> Limits {
        Limits { filling_max: 16 * 1024, filling_per_node_max: 16 }
    }
}

/// What can be done now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Steps for the coordinator, in order.
    pub now: Vec<(Partition, Step)>,
    /// Partitions that another copy should lead: asked of their primary, which
    /// pauses their writes and then proposes the step itself.
    pub hand_overs: Vec<(Partition, NodeIndex)>,
}

/// The copies that each partition should have, given the nodes that count: those
/// that are not draining, and alive or only briefly gone.
pub fn wishes(topology: &Topology, counted: impl Fn(NodeIndex) -> bool) -> Vec<Wish> {
    let Some(mut draft) = Draft::new(topology, counted) else {
        return vec![Wish::default(); topology.partitions().len()];
    };
    draft.keep(topology);
    draft.give_holes_to_empty_nodes();
    draft.fill_holes();
    draft.index();
    draft.pull();
    draft.push();
    draft.choose_primaries(topology);
    draft.balance_primaries();
    draft.wishes()
}

/// The steps toward the wishes that can be taken now.
///
/// A copy is dropped only when all wished ones are in sync, so redundancy never
/// sinks on the way. The exception costs none: where there is no place for a
/// wished copy, one goes that is not in sync, or that is beyond the number
/// wished. With fewer nodes that count than copies wanted nothing is dropped at
/// all: the last but one cannot be drained before the cluster asks for less.
/// Partitions with the fewest copies in sync are filled first, and a node that fills
/// or takes a copy that its partition lacks, be it left out or come back, has no part in
/// copies that only move until that is in sync.
pub fn next_steps(
    topology: &Topology,
    wishes: &[Wish],
    limits: Limits,
    counted: impl Fn(NodeIndex) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut filling = Filling::new(topology, limits);
    let mut missing: [Vec<(Partition, NodeIndex)>; COPIES_MAX + 1] = Default::default();
    let wanted_live = usize::from(topology.copies_wanted());
    let is_up = topology.up_by_number();
    let up = |node: &NodeIndex| is_up[usize::from(node.0)];
    let all_up = topology.nodes().all(|(_, member)| member.up);
    for ((partition, owners), wish) in topology.partitions().zip(wishes) {
        if all_up && is_as_wished(owners, wish) {
            continue;
        }
        // One that is down is in sync until its primary says otherwise.
        let live = |node: &NodeIndex| owners.is_in_sync(*node) && up(node);
        let Some(primary) = owners.primary() else {
            // Nobody holds it: there is nothing to fill it with, and no limit.
            let first = wish.copies().iter().copied().filter(|node| up(node));
            plan.now.extend(first.map(|node| (partition, Step::Add(node))));
            continue;
        };
        if !up(&primary) {
            // The others cannot be filled without it. One that became in sync
            // just before leads now.
            let heir = owners.copies().iter().find(|node| live(node));
            plan.now.extend(heir.map(|node| (partition, Step::HandOver(*node))));
            continue;
        }
        let all_live = owners.copies().iter().filter(|node| live(node)).count();
        let heir = wish.primary().filter(|wished| *wished != primary && live(wished));
        plan.hand_overs.extend(heir.map(|heir| (partition, heir)));
        // A copy that its primary has begun to fill would have to be emptied, and
        // filled anew by the next. With enough of them there is time.
        let hands_over_first = heir.is_some() && all_live >= usize::from(topology.copies_wanted());
        let wished = |node: &NodeIndex| wish.copies().contains(node);
        let superfluous = || owners.copies()[1..].iter().copied().filter(|node| !wished(node));
        let lacking = wish.copies().iter().filter(|node| owners.position(**node).is_none());
        let mut room = COPIES_MAX - owners.copies().len();
        for node in lacking.filter(|node| up(node) && !hands_over_first) {
            if room == 0 {
                let spare = all_live > usize::from(topology.copies_wanted());
                let gone = superfluous()
                    .filter(|node| spare || !owners.is_in_sync(*node))
                    .min_by_key(|node| (live(node), counted(*node)));
                plan.now.extend(gone.map(|node| (partition, Step::Drop(node))));
                break;
            }
            // Enough nodes have a copy, or are about to: this one only moves.
            let moves = owners.copies().iter().filter(|node| up(node)).count() >= wanted_live;
            if moves && (filling.mends(*node) || filling.mends(primary)) {
                continue;
            }
            room -= 1;
            missing[all_live].push((partition, *node));
        }
        let all_in_sync = wish.copies().iter().all(live);
        let enough = wish.copies().len() == usize::from(topology.copies_wanted());
        if all_in_sync && enough {
            plan.now.extend(superfluous().map(|node| (partition, Step::Drop(node))));
        }
    }
    let missing = missing.into_iter().flatten().filter(|(_, node)| filling.start(*node));
    plan.now.extend(missing.map(|(partition, node)| (partition, Step::Add(node))));
    plan
}

/// Whether exactly the wished nodes hold a partition, all of them in sync, and the
/// right one leads.
fn is_as_wished(owners: &Owners, wish: &Wish) -> bool {
    owners.copies() == wish.copies() && usize::from(owners.count) == owners.in_sync() as usize
}

/// Copies being filled: those not in sync on a node that is up, of a primary
/// that is up.
struct Filling {
    limits: Limits,
    all: u32,
    per_node: Vec<u32>,
    /// Nodes that fill or take copies which their partitions lack.
    mending: Vec<bool>,
}

impl Filling {
    fn new(topology: &Topology, limits: Limits) -> Filling {
        let slots = topology.members().len();
        let mut filling =
            Filling { limits, all: 0, per_node: vec![0; slots], mending: vec![false; slots] };
        for (_, owners) in topology.partitions() {
            if usize::from(owners.count) == owners.in_sync() as usize {
                continue;
            }
            let Some(primary) = owners.primary().filter(|primary| topology.is_up(*primary)) else {
                continue;
            };
            let live = |node: &&NodeIndex| owners.is_in_sync(**node) && topology.is_up(**node);
            let live = owners.copies().iter().filter(live).count();
            let lacks = live < usize::from(topology.copies_wanted());
            for (node, _) in owners.replicas().filter(|(_, in_sync)| !in_sync) {
                if topology.is_up(node) {
                    filling.all += 1;
                    filling.per_node[usize::from(node.0)] += 1;
                    filling.mending[usize::from(node.0)] |= lacks;
                    filling.mending[usize::from(primary.0)] |= lacks;
                }
            }
        }
        filling
    }

    fn mends(&self, node: NodeIndex) -> bool {
        self.mending[usize::from(node.0)]
    }

    fn start(&mut self, node: NodeIndex) -> bool {
        let of_node = &mut self.per_node[usize::from(node.0)];
        let fits =
            self.all < self.limits.filling_max && *of_node < self.limits.filling_per_node_max;
        if fits {
            self.all += 1;
            *of_node += 1;
        }
        fits
    }
}
