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
//! Nothing here is random: the same topology and the same counted nodes give the
//! same wishes on every machine.

use crate::change::Step;
use crate::ring::Partition;
use crate::topology::{COPIES_MAX, COPIES_WANTED_MAX, NodeIndex, Owners, Topology};
use alloc::{collections::BinaryHeap, vec, vec::Vec};
use core::cmp::Reverse;

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
/// Partitions with the fewest copies in sync are filled first.
pub fn next_steps(
    topology: &Topology,
    wishes: &[Wish],
    limits: Limits,
    counted: impl Fn(NodeIndex) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut filling = Filling::new(topology, limits);
    let mut missing: [Vec<(Partition, NodeIndex)>; COPIES_MAX + 1] = Default::default();
    for ((partition, owners), wish) in topology.partitions().zip(wishes) {
        let up = |node: &NodeIndex| topology.is_up(*node);
        let Some(primary) = owners.primary() else {
            // Nobody holds it: there is nothing to fill it with, and no limit.
            let first = wish.copies().iter().copied().filter(|node| up(node));
            plan.now.extend(first.map(|node| (partition, Step::Add(node))));
            continue;
        };
        if !up(&primary) {
            // The others cannot be filled without it. One that became in sync
            // just before leads now.
            let heir = owners.copies().iter().find(|node| owners.is_in_sync(**node) && up(node));
            plan.now.extend(heir.map(|node| (partition, Step::HandOver(*node))));
            continue;
        }
        if let Some(wished) = wish.primary().filter(|wished| *wished != primary)
            && owners.is_in_sync(wished)
            && up(&wished)
        {
            plan.hand_overs.push((partition, wished));
        }
        let wished = |node: &NodeIndex| wish.copies().contains(node);
        let superfluous = || owners.copies()[1..].iter().copied().filter(|node| !wished(node));
        let lacking = wish.copies().iter().filter(|node| owners.position(**node).is_none());
        let mut room = COPIES_MAX - owners.copies().len();
        for node in lacking.filter(|node| up(node)) {
            if room == 0 {
                let spare = owners.in_sync() > u32::from(topology.copies_wanted());
                let gone = superfluous()
                    .filter(|node| spare || !owners.is_in_sync(*node))
                    .min_by_key(|node| (owners.is_in_sync(*node), counted(*node)));
                plan.now.extend(gone.map(|node| (partition, Step::Drop(node))));
                break;
            }
            room -= 1;
            missing[owners.in_sync() as usize].push((partition, *node));
        }
        let all_in_sync = wish.copies().iter().all(|node| owners.is_in_sync(*node));
        let enough = wish.copies().len() == usize::from(topology.copies_wanted());
        if all_in_sync && enough {
            plan.now.extend(superfluous().map(|node| (partition, Step::Drop(node))));
        }
    }
    let missing = missing.into_iter().flatten().filter(|(_, node)| filling.start(*node));
    plan.now.extend(missing.map(|(partition, node)| (partition, Step::Add(node))));
    plan
}

/// Copies being filled: those not in sync on a node that is up, of a primary
/// that is up.
struct Filling {
    limits: Limits,
    all: u32,
    per_node: Vec<u32>,
}

impl Filling {
    fn new(topology: &Topology, limits: Limits) -> Filling {
        let mut filling = Filling { limits, all: 0, per_node: vec![0; topology.members().len()] };
        for (_, owners) in topology.partitions() {
            if !owners.primary().is_some_and(|primary| topology.is_up(primary)) {
                continue;
            }
            for (node, _) in owners.replicas().filter(|(_, in_sync)| !in_sync) {
                if topology.is_up(node) {
                    filling.all += 1;
                    filling.per_node[usize::from(node.0)] += 1;
                }
            }
        }
        filling
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

/// A counted node's number within a draft: they are dense, slots need not be.
type Dense = u16;

/// A node's share.
#[derive(Clone, Copy, Default)]
struct Quota {
    /// The share in 1/65,536 of a copy, for comparing how full nodes are.
    exact: u64,
    floor: u32,
    ceil: u32,
    /// Below this a node pulls, up to `floor`; above `most` it pushes. Between
    /// them nothing moves for balance alone. The fullest is to stay within 1.01;
    /// that another node is emptier harms nobody, so `least` is farther off.
    least: u32,
    most: u32,
}

const ONE: u64 = 1 << 16;

/// Often enough: each pass moves an excess one copy further.
const EVEN_OUT_PASSES: u32 = 8;

/// Odd, so that its multiples visit all of a power of two.
const STRIDE: usize = 0x9e37_79b1;

impl Quota {
    fn new(exact: u64) -> Quota {
        let floor = (exact / ONE) as u32;
        let ceil = exact.div_ceil(ONE) as u32;
        let least = floor - floor.min((floor / 64).max(1));
        Quota { exact, floor, ceil, least, most: ceil.max(floor + floor / 256) }
    }

    /// How full `load` copies make the node.
    fn ratio(&self, load: u32) -> u64 {
        (u64::from(load) << 40) / self.exact.max(1)
    }
}

/// Shares `total` out by weight; no share exceeds its cap, and what one cannot
/// take goes to the others.
fn share_out(total: u64, weights: &[u64], caps: &[u64]) -> Vec<u64> {
    let mut shares = vec![None; weights.len()];
    let mut left = total;
    loop {
        let open = |at: &usize| shares[*at].is_none();
        let weight: u64 = (0..weights.len()).filter(open).map(|at| weights[at]).sum();
        let share = |at: usize| {
            let share = u128::from(left) * u128::from(weights[at]);
            share.div_ceil(u128::from(weight.max(1))) as u64
        };
        let capped: Vec<usize> =
            (0..weights.len()).filter(open).filter(|at| share(*at) > caps[*at]).collect();
        if capped.is_empty() {
            return (0..weights.len()).map(|at| shares[at].unwrap_or_else(|| share(at))).collect();
        }
        for at in capped {
            shares[at] = Some(caps[at]);
            left = left.saturating_sub(caps[at]);
        }
    }
}

/// A partition's copies in a draft.
#[derive(Clone, Copy, Default)]
struct Set {
    nodes: [Dense; COPIES_MAX],
    count: u8,
}

impl Set {
    fn as_slice(&self) -> &[Dense] {
        &self.nodes[..usize::from(self.count)]
    }

    fn without(mut self, node: Dense) -> Set {
        if let Some(at) = self.as_slice().iter().position(|other| *other == node) {
            self.nodes.copy_within(at + 1.., at);
            self.count -= 1;
        }
        self
    }

    fn with(mut self, node: Dense) -> Set {
        self.nodes[usize::from(self.count)] = node;
        self.count += 1;
        self
    }
}

/// Who shares partitions with whom.
struct Peers {
    words: usize,
    bits: Vec<u64>,
    /// For each node its peers, and how many partitions they share.
    shared: Vec<Vec<(Dense, u32)>>,
}

impl Peers {
    fn new(nodes: usize) -> Peers {
        let words = nodes.div_ceil(64);
        Peers { words, bits: vec![0; words * nodes], shared: vec![Vec::new(); nodes] }
    }

    fn are(&self, a: Dense, b: Dense) -> bool {
        self.bits[usize::from(a) * self.words + usize::from(b) / 64] & 1 << (b % 64) != 0
    }

    fn of(&self, node: Dense) -> &[(Dense, u32)] {
        &self.shared[usize::from(node)]
    }

    fn count(&self, node: Dense) -> usize {
        self.of(node).len()
    }

    fn sharing(&self, a: Dense, b: Dense) -> u32 {
        self.of(a).iter().find(|(peer, _)| *peer == b).map_or(0, |(_, shared)| *shared)
    }

    fn join(&mut self, a: Dense, b: Dense) {
        for (a, b) in [(a, b), (b, a)] {
            let shared = &mut self.shared[usize::from(a)];
            match shared.iter_mut().find(|(peer, _)| *peer == b) {
                Some((_, partitions)) => *partitions += 1,
                None => {
                    shared.push((b, 1));
                    self.bits[usize::from(a) * self.words + usize::from(b) / 64] |= 1 << (b % 64);
                }
            }
        }
    }

    fn part(&mut self, a: Dense, b: Dense) {
        for (a, b) in [(a, b), (b, a)] {
            let shared = &mut self.shared[usize::from(a)];
            let Some(at) = shared.iter().position(|(peer, _)| *peer == b) else { continue };
            shared[at].1 -= 1;
            if shared[at].1 == 0 {
                shared.swap_remove(at);
                self.bits[usize::from(a) * self.words + usize::from(b) / 64] &= !(1 << (b % 64));
            }
        }
    }
}

/// How far a choice may go beyond what it should respect.
#[derive(Clone, Copy)]
struct Leeway {
    /// Peers that the node may end up with, and those that hold the partition.
    peers_max: usize,
    others_peers_max: usize,
    fullness: Fullness,
    /// Whether it may crowd a zone.
    any_zone: bool,
}

/// How full a choice may make a node.
#[derive(Clone, Copy)]
enum Fullness {
    /// To its share.
    Share,
    /// To where it would push.
    Most,
    /// A copy too many is better than one too few.
    Any,
}

impl Leeway {
    const SOUGHT: Leeway = Leeway {
        peers_max: PEERS_SOUGHT,
        others_peers_max: PEERS_SOUGHT,
        fullness: Fullness::Share,
        any_zone: false,
    };
    const JOINING: Leeway = Leeway { others_peers_max: PEERS_MAX, ..Leeway::SOUGHT };
    const MORE_PEERS: Leeway = Leeway { peers_max: PEERS_MAX, ..Leeway::JOINING };
    const ANY_PEERS: Leeway =
        Leeway { peers_max: usize::MAX, others_peers_max: usize::MAX, ..Leeway::SOUGHT };
    const FULLER: Leeway = Leeway { fullness: Fullness::Most, ..Leeway::ANY_PEERS };
    const OVERFULL: Leeway = Leeway { fullness: Fullness::Any, ..Leeway::FULLER };
    const ANY_ZONE: Leeway = Leeway { any_zone: true, ..Leeway::OVERFULL };
}

/// The wishes as they are being made.
struct Draft {
    nodes: Vec<NodeIndex>,
    dense: Vec<Option<Dense>>,
    zones: Vec<u16>,
    /// Copies of a partition that one zone may hold: 1 where zones suffice.
    per_zone_max: usize,
    copies: usize,
    quotas: Vec<Quota>,
    quotas_primary: Vec<Quota>,
    load: Vec<u32>,
    sets: Vec<Set>,
    peers: Peers,
    /// Partitions of each node; some may have gone since.
    held: Vec<Vec<u32>>,
    primaries: Vec<u32>,
}

impl Draft {
    fn new(topology: &Topology, counted: impl Fn(NodeIndex) -> bool) -> Option<Draft> {
        let mut draft = Draft {
            nodes: Vec::new(),
            dense: vec![None; topology.members().len()],
            zones: Vec::new(),
            per_zone_max: 1,
            copies: 0,
            quotas: Vec::new(),
            quotas_primary: Vec::new(),
            load: Vec::new(),
            sets: vec![Set::default(); topology.partitions().len()],
            peers: Peers::new(0),
            held: Vec::new(),
            primaries: Vec::new(),
        };
        let mut names: Vec<&str> = Vec::new();
        let mut weights = Vec::new();
        for (node, member) in topology.nodes() {
            if member.node.weight == 0 || !counted(node) {
                continue;
            }
            draft.dense[usize::from(node.0)] = Some(draft.nodes.len() as Dense);
            draft.nodes.push(node);
            weights.push(u64::from(member.node.weight));
            let zone = member.node.zone.as_str();
            let known = names.iter().position(|name| *name == zone);
            draft.zones.push(known.unwrap_or_else(|| {
                names.push(zone);
                names.len() - 1
            }) as u16);
        }
        let count = draft.nodes.len();
        draft.copies = usize::from(topology.copies_wanted()).min(count);
        if draft.copies == 0 {
            return None;
        }
        draft.per_zone_max = draft.copies.div_ceil(names.len());
        draft.set_quotas(names.len(), &weights);
        draft.load = vec![0; count];
        draft.peers = Peers::new(count);
        draft.primaries = vec![0; count];
        Some(draft)
    }

    /// A zone holds no partition more often than it may, a node none twice:
    /// within that, shares go by weight.
    fn set_quotas(&mut self, zones: usize, weights: &[u64]) {
        let all = self.sets.len() as u64 * ONE;
        let mut of_zone = vec![Vec::new(); zones];
        for (node, zone) in self.zones.iter().enumerate() {
            of_zone[usize::from(*zone)].push(node);
        }
        let zone_weights: Vec<u64> =
            of_zone.iter().map(|nodes| nodes.iter().map(|node| weights[*node]).sum()).collect();
        let zone_caps: Vec<u64> =
            of_zone.iter().map(|nodes| all * nodes.len().min(self.per_zone_max) as u64).collect();
        let mut shares = vec![0; weights.len()];
        let zone_shares = share_out(all * self.copies as u64, &zone_weights, &zone_caps);
        for (nodes, share) in of_zone.iter().zip(zone_shares) {
            let weights: Vec<u64> = nodes.iter().map(|node| weights[*node]).collect();
            let parts = share_out(share, &weights, &vec![all; nodes.len()]);
            for (node, part) in nodes.iter().zip(parts) {
                shares[*node] = part;
            }
        }
        self.quotas_primary =
            share_out(all, weights, &shares).into_iter().map(Quota::new).collect();
        self.quotas = shares.into_iter().map(Quota::new).collect();
    }

    fn ratio(&self, node: Dense) -> u64 {
        self.quotas[usize::from(node)].ratio(self.load[usize::from(node)])
    }

    fn has_room(&self, node: Dense, fullness: Fullness) -> bool {
        let quota = &self.quotas[usize::from(node)];
        let load = self.load[usize::from(node)];
        match fullness {
            Fullness::Share => load < quota.ceil,
            Fullness::Most => load < quota.most,
            Fullness::Any => true,
        }
    }

    fn zone_has_room(&self, set: Set, node: Dense) -> bool {
        let zone = self.zones[usize::from(node)];
        let there = set.as_slice().iter().filter(|other| self.zones[usize::from(**other)] == zone);
        there.count() < self.per_zone_max
    }

    fn add(&mut self, partition: usize, node: Dense) {
        let set = self.sets[partition];
        for other in set.as_slice() {
            self.peers.join(node, *other);
        }
        self.sets[partition] = set.with(node);
        self.load[usize::from(node)] += 1;
    }

    fn remove(&mut self, partition: usize, node: Dense) {
        let set = self.sets[partition].without(node);
        for other in set.as_slice() {
            self.peers.part(node, *other);
        }
        self.sets[partition] = set;
        self.load[usize::from(node)] -= 1;
    }

    fn move_copy(&mut self, partition: usize, from: Dense, to: Dense) {
        self.remove(partition, from);
        self.add(partition, to);
        self.held[usize::from(to)].push(partition as u32);
    }

    /// Starts from the copies that are there, and takes out what is too much:
    /// those that crowd a zone, and those being moved away.
    fn keep(&mut self, topology: &Topology) {
        for (partition, owners) in topology.partitions() {
            for copy in owners.copies() {
                if let Some(node) = self.dense[usize::from(copy.0)] {
                    self.add(partition.0 as usize, node);
                }
            }
        }
        let mut spared = Vec::new();
        for (partition, owners) in topology.partitions() {
            let partition = partition.0 as usize;
            while let Some(node) = self.surplus(partition, owners) {
                self.remove(partition, node);
                spared.push((partition, node));
            }
        }
        self.even_out(spared);
    }

    /// Which of a partition's copies goes was chosen in the order of the
    /// partitions; a later choice may call for another earlier one.
    fn even_out(&mut self, mut spared: Vec<(usize, Dense)>) {
        for _ in 0..EVEN_OUT_PASSES {
            let mut changed = false;
            for (partition, gone) in &mut spared {
                let set = self.sets[*partition];
                let fullest = set.as_slice().iter().copied().max_by_key(|node| self.ratio(*node));
                let Some(full) = fullest else { continue };
                if self.load[usize::from(full)] > self.quotas[usize::from(full)].ceil
                    && self.load[usize::from(*gone)] < self.quotas[usize::from(*gone)].floor
                    && self.zone_has_room(set.without(full), *gone)
                {
                    self.remove(*partition, full);
                    self.add(*partition, *gone);
                    *gone = full;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// The copy that goes first, if one must.
    fn surplus(&self, partition: usize, owners: &Owners) -> Option<Dense> {
        let set = self.sets[partition];
        let crowds = |node: &Dense| !self.zone_has_room(set.without(*node), *node);
        let mut going: Vec<Dense> = set.as_slice().iter().copied().filter(crowds).collect();
        if going.is_empty() {
            if set.as_slice().len() <= self.copies {
                return None;
            }
            going.extend(set.as_slice());
        }
        // A copy that is still being filled goes before one in sync, unless its
        // node needs it more: else a move would be undone half-way.
        let load = |node: Dense| (self.load[usize::from(node)], self.quotas[usize::from(node)]);
        let in_sync = |node: Dense| owners.is_in_sync(self.nodes[usize::from(node)]);
        let crowded = going.iter().any(|node| in_sync(*node) && load(*node).0 > load(*node).1.most);
        let idle = |node: Dense| !in_sync(node) && !crowded && load(node).0 > load(node).1.floor;
        // Whoever leads is of no account: else a hand-over would change the wish
        // that asked for it.
        let salt = partition as Dense;
        going.into_iter().max_by_key(|node| (idle(*node), self.ratio(*node), scatter(salt, *node)))
    }

    fn lacking(&self, partition: usize) -> usize {
        self.copies - self.sets[partition].as_slice().len()
    }

    /// Where a new node replaces another, it takes over what the other had.
    fn give_holes_to_empty_nodes(&mut self) {
        let mut holes: Vec<usize> = (0..self.sets.len())
            .filter(|partition| self.lacking(*partition) > 0 && self.sets[*partition].count > 0)
            .collect();
        if holes.is_empty() {
            return;
        }
        for node in self.empty_nodes() {
            let quota = self.quotas[usize::from(node)];
            if self.load[usize::from(node)] > quota.floor / 2 {
                break;
            }
            holes.retain(|partition| {
                if self.load[usize::from(node)] < quota.floor
                    && self.fits(self.sets[*partition], node, Leeway::JOINING)
                {
                    self.add(*partition, node);
                }
                self.lacking(*partition) > 0
            });
        }
    }

    /// Nodes with less than they should have, emptiest first.
    fn empty_nodes(&self) -> Vec<Dense> {
        let is_empty =
            |node: &Dense| self.load[usize::from(*node)] < self.quotas[usize::from(*node)].least;
        let mut nodes: Vec<Dense> = (0..self.nodes.len() as Dense).filter(is_empty).collect();
        nodes.sort_by_key(|node| (self.ratio(*node), *node));
        nodes
    }

    /// Whether the node may become a copy beside `set`.
    fn fits(&self, set: Set, node: Dense, leeway: Leeway) -> bool {
        if set.as_slice().contains(&node)
            || !self.has_room(node, leeway.fullness)
            || !(leeway.any_zone || self.zone_has_room(set, node))
        {
            return false;
        }
        let strangers = set.as_slice().iter().filter(|other| !self.peers.are(node, **other));
        let mut count = 0;
        for other in strangers {
            count += 1;
            if self.peers.count(*other) >= leeway.others_peers_max {
                return false;
            }
        }
        count == 0 || self.peers.count(node) + count <= leeway.peers_max
    }

    fn are_peers(&self, set: Set, node: Dense) -> bool {
        set.as_slice().iter().all(|other| self.peers.are(node, *other))
    }

    /// The emptiest node that is already a peer of all in `set`; of equals the
    /// one that shares least with them, so that all peers share alike.
    fn peer_for(&self, set: Set, leeway: Leeway) -> Option<Dense> {
        let (first, others) = set.as_slice().split_first()?;
        let peers = self.peers.of(*first).iter();
        peers
            .filter(|(node, _)| {
                others.iter().all(|other| self.peers.are(*other, *node))
                    && self.fits(set, *node, leeway)
            })
            .min_by_key(|(node, shared)| (self.ratio(*node), *shared, *node))
            .map(|(node, _)| *node)
    }

    /// The emptiest node that `leeway` lets in.
    fn stranger_for(&self, set: Set, leeway: Leeway) -> Option<Dense> {
        let salt = set.as_slice().first().copied().unwrap_or_default();
        (0..self.nodes.len() as Dense).filter(|node| self.fits(set, *node, leeway)).min_by_key(
            |node| {
                // Beyond their bound, those who have fewest peers get more.
                let beyond = leeway.peers_max == usize::MAX;
                let peers = if beyond { self.peers.count(*node) } else { 0 };
                (peers, self.ratio(*node), scatter(salt, *node))
            },
        )
    }

    fn home_for(&self, set: Set) -> Option<Dense> {
        self.peer_for(set, Leeway::SOUGHT)
            .or_else(|| self.stranger_for(set, Leeway::JOINING))
            .or_else(|| self.stranger_for(set, Leeway::MORE_PEERS))
            .or_else(|| self.peer_for(set, Leeway::FULLER))
            .or_else(|| self.stranger_for(set, Leeway::ANY_PEERS))
    }

    /// Gives every partition its missing copies.
    fn fill_holes(&mut self) {
        let entry = |draft: &Draft, node: Dense| {
            let load = draft.load[usize::from(node)];
            Reverse((draft.ratio(node), scatter(load as Dense, node), node))
        };
        let mut emptiest: BinaryHeap<_> =
            (0..self.nodes.len() as Dense).map(|node| entry(self, node)).collect();
        let partitions = self.sets.len();
        // Far from each other one after the other: neighbours on the ring may all
        // lack a copy beside the same node, which cannot be that copy.
        for partition in (0..partitions).map(|at| at.wrapping_mul(STRIDE) % partitions) {
            if self.lacking(partition) == 0 {
                continue;
            }
            if self.sets[partition].count == 0 {
                // Loads have only grown since a node's entry was made.
                let node = loop {
                    let Some(Reverse((ratio, _, node))) = emptiest.pop() else { return };
                    if ratio == self.ratio(node) {
                        break node;
                    }
                    emptiest.push(entry(self, node));
                };
                self.add(partition, node);
                emptiest.push(entry(self, node));
                self.add_peers(partition);
            }
            while self.lacking(partition) > 0 {
                let set = self.sets[partition];
                let home = self
                    .home_for(set)
                    .or_else(|| self.stranger_for(set, Leeway::FULLER))
                    .or_else(|| self.stranger_for(set, Leeway::OVERFULL))
                    .or_else(|| self.stranger_for(set, Leeway::ANY_ZONE))
                    .expect("no more copies are wanted than there are nodes");
                self.add(partition, home);
            }
        }
    }

    /// Beside a first copy: strangers while it has few peers, so that every node
    /// finds its sixteen; then those peers that are emptiest together.
    fn add_peers(&mut self, partition: usize) {
        let first = self.sets[partition];
        let mut set = first;
        while set.as_slice().len() < self.copies {
            let Some(node) = self.all_strangers_for(set) else { break };
            set = set.with(node);
        }
        if set.as_slice().len() < self.copies {
            set = self.peers_together(first).unwrap_or(first);
        }
        for node in &set.as_slice()[1..] {
            self.add(partition, *node);
        }
    }

    fn all_strangers_for(&self, set: Set) -> Option<Dense> {
        let room = self.copies - 1;
        let first = set.as_slice()[0];
        if self.peers.count(first) + room > PEERS_SOUGHT {
            return None;
        }
        (0..self.nodes.len() as Dense)
            .filter(|node| {
                self.peers.count(*node) + room <= PEERS_SOUGHT
                    && set.as_slice().iter().all(|other| !self.peers.are(*node, *other))
                    && self.fits(set, *node, Leeway::SOUGHT)
            })
            .min_by_key(|node| (self.ratio(*node), scatter(first, *node)))
    }

    fn peers_together(&self, set: Set) -> Option<Set> {
        let first = set.as_slice()[0];
        match self.copies - set.as_slice().len() {
            1 => self.peer_for(set, Leeway::SOUGHT).map(|node| set.with(node)),
            _ => self
                .peers
                .of(first)
                .iter()
                .filter(|(node, _)| self.fits(set, *node, Leeway::SOUGHT))
                .filter_map(|(node, shared)| {
                    let pair = set.with(*node);
                    let third = self.peer_for(pair, Leeway::SOUGHT)?;
                    let fuller = self.ratio(*node).max(self.ratio(third));
                    Some((fuller, *shared, pair.with(third)))
                })
                .min_by_key(|(fuller, shared, set)| (*fuller, *shared, set.nodes))
                .map(|(_, _, set)| set),
        }
    }

    /// Lists each node's partitions, those first that it shares with the peers it
    /// shares most with: what moves away evens that out.
    fn index(&mut self) {
        self.held = self.load.iter().map(|load| Vec::with_capacity(*load as usize)).collect();
        for (partition, set) in self.sets.iter().enumerate() {
            for node in set.as_slice() {
                self.held[usize::from(*node)].push(partition as u32);
            }
        }
        let mut left = vec![0; self.nodes.len()];
        for (node, held) in self.held.iter_mut().enumerate() {
            let node = node as Dense;
            for (peer, shared) in self.peers.of(node) {
                left[usize::from(*peer)] = *shared;
            }
            // What would still be shared once the partition had gone.
            held.sort_by_cached_key(|partition| {
                let rest = self.sets[*partition as usize].without(node);
                let shared = rest.as_slice().iter().map(|other| {
                    left[usize::from(*other)] -= 1;
                    left[usize::from(*other)]
                });
                Reverse(shared.max().unwrap_or(0))
            });
        }
    }

    /// Empty nodes take from the fullest, one copy at a time: first what others
    /// have too much of, wherever it is, then from those that can spare one.
    fn pull(&mut self) {
        let too_full = |quota: &Quota| quota.most;
        let full = |quota: &Quota| quota.ceil;
        let sparing = |quota: &Quota| quota.floor;
        for node in self.empty_nodes() {
            self.pull_for(node, Leeway::JOINING, full);
            self.pull_for(node, Leeway::MORE_PEERS, full);
            self.pull_for(node, Leeway::ANY_PEERS, too_full);
            self.pull_for(node, Leeway::JOINING, sparing);
            self.pull_for(node, Leeway::MORE_PEERS, sparing);
            self.pull_for(node, Leeway::ANY_PEERS, sparing);
        }
    }

    fn pull_for(&mut self, node: Dense, leeway: Leeway, keeps: impl Fn(&Quota) -> u32) {
        let wanted = self.quotas[usize::from(node)].floor;
        let mut donors: BinaryHeap<(u64, Reverse<u32>, Dense)> = BinaryHeap::new();
        let mut looked_at: Vec<usize> = Vec::new();
        let mut has_strangers: Vec<bool> = Vec::new();
        let mut peers_before = usize::MAX;
        while self.load[usize::from(node)] < wanted {
            if self.peers.count(node) != peers_before {
                // New peers: partitions passed over may fit now.
                peers_before = self.peers.count(node);
                looked_at = vec![0; self.nodes.len()];
                has_strangers = vec![peers_before + 1 < self.nodes.len(); self.nodes.len()];
                donors = (0..self.nodes.len() as Dense)
                    .filter(|donor| *donor != node)
                    .map(|donor| (self.ratio(donor), Reverse(scatter(node, donor)), donor))
                    .collect();
            }
            let Some((_, tie, donor)) = donors.pop() else { return };
            if self.load[usize::from(donor)] <= keeps(&self.quotas[usize::from(donor)]) {
                continue;
            }
            // Peers up to the sixteen first, then what they have.
            let looked_at = &mut looked_at[usize::from(donor)];
            let has_strangers = &mut has_strangers[usize::from(donor)];
            let mut partition = None;
            if *has_strangers && self.peers.count(node) < PEERS_SOUGHT {
                partition = self.by_new_peer(donor, node, leeway);
                *has_strangers = partition.is_some();
            }
            partition = partition.or_else(|| self.among_peers(donor, node, leeway, looked_at));
            if *has_strangers && partition.is_none() {
                partition = self.by_new_peer(donor, node, leeway);
                *has_strangers = partition.is_some();
            }
            let Some(partition) = partition else { continue };
            self.move_copy(partition, donor, node);
            donors.push((self.ratio(donor), tie, donor));
        }
    }

    /// A partition whose other copies are peers of `node`.
    fn among_peers(
        &self,
        donor: Dense,
        node: Dense,
        leeway: Leeway,
        looked_at: &mut usize,
    ) -> Option<usize> {
        let held = &self.held[usize::from(donor)];
        while let Some(partition) = held.get(*looked_at).map(|partition| *partition as usize) {
            *looked_at += 1;
            if let Some(rest) = self.rest(partition, donor)
                && self.are_peers(rest, node)
                && self.fits(rest, node, leeway)
            {
                return Some(partition);
            }
        }
        None
    }

    /// The other copies, if `node` still is one.
    fn rest(&self, partition: usize, node: Dense) -> Option<Set> {
        let set = self.sets[partition];
        set.as_slice().contains(&node).then(|| set.without(node))
    }

    /// A partition by which `node` gets a new peer: rather one that has too few,
    /// and shares much with the donor; of those with enough the one that shares
    /// least, so that a peer is replaced and not added.
    fn by_new_peer(&self, donor: Dense, node: Dense, leeway: Leeway) -> Option<usize> {
        if self.peers.count(node) >= leeway.peers_max {
            return None;
        }
        let held = self.held[usize::from(donor)].iter().map(|partition| *partition as usize);
        held.filter_map(|partition| Some((partition, self.rest(partition, donor)?)))
            .filter(|(_, rest)| !self.are_peers(*rest, node) && self.fits(*rest, node, leeway))
            .min_by_key(|(partition, rest)| {
                let others = || rest.as_slice().iter();
                let enough = others().any(|other| self.peers.count(*other) >= PEERS_SOUGHT);
                let shared = others().map(|other| self.peers.sharing(donor, *other)).sum::<u32>();
                (enough, if enough { shared } else { u32::MAX - shared }, *partition)
            })
            .map(|(partition, _)| partition)
    }

    /// Nodes with too much give the rest to whoever has room.
    fn push(&mut self) {
        for node in 0..self.nodes.len() as Dense {
            for known in [true, false] {
                for at in 0..self.held[usize::from(node)].len() {
                    if self.load[usize::from(node)] <= self.quotas[usize::from(node)].most {
                        break;
                    }
                    let partition = self.held[usize::from(node)][at] as usize;
                    let Some(rest) = self.rest(partition, node) else { continue };
                    let to = if known {
                        self.peer_for(rest, Leeway::SOUGHT)
                    } else {
                        self.home_for(rest)
                    };
                    if let Some(to) = to.filter(|to| *to != node) {
                        self.move_copy(partition, node, to);
                    }
                }
            }
        }
    }

    fn primary_ratio(&self, node: Dense) -> u64 {
        self.quotas_primary[usize::from(node)].ratio(self.primaries[usize::from(node)])
    }

    fn lead(&mut self, partition: usize, at: usize) {
        self.primaries[usize::from(self.sets[partition].nodes[at])] += 1;
        self.sets[partition].nodes[..=at].rotate_right(1);
    }

    /// Primaries stay; where one's copy moves away, the copy whose node leads least
    /// is to lead, which often is the new one.
    fn choose_primaries(&mut self, topology: &Topology) {
        let mut open = Vec::new();
        for (partition, owners) in topology.partitions() {
            let set = &self.sets[partition.0 as usize];
            let primary = owners.primary().and_then(|node| self.dense[usize::from(node.0)]);
            match set.as_slice().iter().position(|node| Some(*node) == primary) {
                Some(at) => self.lead(partition.0 as usize, at),
                None => open.push((partition.0 as usize, *owners)),
            }
        }
        for (partition, owners) in open {
            let nodes = self.sets[partition];
            let rank = |at: &usize| {
                let node = nodes.nodes[*at];
                (self.primary_ratio(node), !owners.is_in_sync(self.nodes[usize::from(node)]), *at)
            };
            let at = (0..nodes.as_slice().len()).min_by_key(rank);
            self.lead(partition, at.expect("every partition has a copy by now"));
        }
    }

    /// Hands primaries from nodes with too many to nodes with too few, along
    /// chains of copies if need be. No data moves.
    fn balance_primaries(&mut self) {
        self.hand_over_directly();
        let count = self.nodes.len();
        let mut leading: Vec<Vec<u32>> = vec![Vec::new(); count];
        for (partition, set) in self.sets.iter().enumerate() {
            leading[usize::from(set.nodes[0])].push(partition as u32);
        }
        let mut stuck = vec![false; count];
        loop {
            let over = |node: &usize| {
                self.primaries[*node] > self.quotas_primary[*node].most && !stuck[*node]
            };
            let under = |node: &usize| {
                self.primaries[*node] < self.quotas_primary[*node].least && !stuck[*node]
            };
            let path = if let Some(from) = (0..count).find(over) {
                let path = self.chain(&leading, from, true);
                stuck[from] |= path.is_empty();
                path
            } else if let Some(to) = (0..count).find(under) {
                let path = self.chain(&leading, to, false);
                stuck[to] |= path.is_empty();
                path
            } else {
                return;
            };
            for (partition, to) in path {
                let set = &mut self.sets[partition];
                let from = usize::from(set.nodes[0]);
                let at = set.as_slice().iter().position(|node| *node == to).expect("it is a copy");
                set.nodes.swap(0, at);
                self.primaries[from] -= 1;
                self.primaries[usize::from(to)] += 1;
                leading[from].retain(|other| *other as usize != partition);
                leading[usize::from(to)].push(partition as u32);
            }
        }
    }

    /// The common case in two passes, first from the most crowded.
    fn hand_over_directly(&mut self) {
        for urgent in [true, false] {
            for partition in 0..self.sets.len() {
                let set = self.sets[partition];
                let from = usize::from(set.nodes[0]);
                let quota = self.quotas_primary[from];
                let enough = if urgent { quota.most } else { quota.floor };
                if self.primaries[from] <= enough {
                    continue;
                }
                let to = set.as_slice()[1..].iter().copied().filter(|to| {
                    let quota = self.quotas_primary[usize::from(*to)];
                    let bound = if urgent { quota.floor } else { quota.least };
                    self.primaries[usize::from(*to)] < bound
                });
                if let Some(to) = to.min_by_key(|to| (self.primary_ratio(*to), *to)) {
                    self.primaries[from] -= 1;
                    self.primaries[usize::from(to)] += 1;
                    let at = set.as_slice().iter().position(|node| *node == to);
                    self.sets[partition].nodes.swap(0, at.expect("it is a copy"));
                }
            }
        }
    }

    /// The shortest chain of hand-overs by which `start` leads one partition
    /// fewer (`away`) or one more. Each element: a partition, and who leads it then.
    fn chain(&self, leading: &[Vec<u32>], start: usize, away: bool) -> Vec<(usize, Dense)> {
        let mut reached: Vec<Option<(usize, usize)>> = vec![None; self.nodes.len()];
        reached[start] = Some((usize::MAX, start));
        let mut queue = vec![start];
        let mut next = 0;
        let ends = |node: usize| {
            let quota = self.quotas_primary[node];
            if away {
                self.primaries[node] < quota.ceil
            } else {
                self.primaries[node] > quota.floor
            }
        };
        while let Some(&node) = queue.get(next) {
            next += 1;
            // Away: to the other copies of what it leads. Toward: from the
            // leaders of what it holds.
            let partitions = if away { &leading[node] } else { &self.held[node] };
            for &partition in partitions {
                let set = self.sets[partition as usize];
                if !set.as_slice().contains(&(node as Dense)) {
                    continue;
                }
                let others = if away { &set.as_slice()[1..] } else { &set.as_slice()[..1] };
                for other in others.iter().map(|other| usize::from(*other)) {
                    if reached[other].is_some() {
                        continue;
                    }
                    reached[other] = Some((partition as usize, node));
                    if ends(other) {
                        return trace(&reached, start, other, away);
                    }
                    queue.push(other);
                }
            }
        }
        Vec::new()
    }

    fn wishes(&self) -> Vec<Wish> {
        let wish = |set: &Set| {
            let mut wish = Wish { count: set.count, ..Wish::default() };
            for (copy, node) in wish.copies.iter_mut().zip(set.as_slice()) {
                *copy = self.nodes[usize::from(*node)];
            }
            wish
        };
        self.sets.iter().map(wish).collect()
    }
}

/// The hand-overs from `start` to `end`, the last one first, so that each node
/// on the way has received before it gives.
fn trace(
    reached: &[Option<(usize, usize)>],
    start: usize,
    end: usize,
    away: bool,
) -> Vec<(usize, Dense)> {
    let mut path = Vec::new();
    let mut node = end;
    while node != start {
        let (partition, before) = reached[node].expect("the chain is unbroken");
        path.push((partition, if away { node } else { before } as Dense));
        node = before;
    }
    path
}

/// An order of nodes that differs from node to node: what one finds first, its
/// neighbour does not.
fn scatter(salt: Dense, node: Dense) -> u32 {
    let mixed = (u64::from(salt) << 16 | u64::from(node)).wrapping_add(1);
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}
