//! The wishes as they are being made: what every partition and every node has so
//! far, and who may take one more.

use super::Wish;
use super::peers::{Dense, Peers, Set};
use super::quota::{ONE, Quota, share_out};
use super::{PEERS_MAX, PEERS_SOUGHT};
use crate::topology::{NodeIndex, Owners, Topology};
use alloc::{vec, vec::Vec};

/// Often enough: each pass moves an excess one copy further.
pub(super) const EVEN_OUT_PASSES: u32 = 8;

/// The wishes as they are being made.
pub(super) struct Draft {
    pub(super) nodes: Vec<NodeIndex>,
    pub(super) dense: Vec<Option<Dense>>,
    pub(super) zones: Vec<u16>,
    /// Copies of a partition that one zone may hold: 1 where zones suffice.
    pub(super) per_zone_max: usize,
    pub(super) copies: usize,
    pub(super) quotas: Vec<Quota>,
    pub(super) quotas_primary: Vec<Quota>,
    pub(super) load: Vec<u32>,
    pub(super) sets: Vec<Set>,
    pub(super) peers: Peers,
    /// Partitions of each node; some may have gone since.
    pub(super) held: Vec<Vec<u32>>,
    pub(super) primaries: Vec<u32>,
}

impl Draft {
    pub(super) fn new(topology: &Topology, counted: impl Fn(NodeIndex) -> bool) -> Option<Draft> {
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

    pub(super) fn ratio(&self, node: Dense) -> u64 {
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

    pub(super) fn add(&mut self, partition: usize, node: Dense) {
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

    pub(super) fn move_copy(&mut self, partition: usize, from: Dense, to: Dense) {
        self.remove(partition, from);
        self.add(partition, to);
        self.held[usize::from(to)].push(partition as u32);
    }

    /// Starts from the copies that are there, and takes out what is too much:
    /// those that crowd a zone, and those being moved away.
    pub(super) fn keep(&mut self, topology: &Topology) {
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

    /// Whether the node may become a copy beside `set`.
    pub(super) fn fits(&self, set: Set, node: Dense, leeway: Leeway) -> bool {
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

    pub(super) fn are_peers(&self, set: Set, node: Dense) -> bool {
        set.as_slice().iter().all(|other| self.peers.are(node, *other))
    }

    /// The emptiest node that is already a peer of all in `set`; of equals the
    /// one that shares least with them, so that all peers share alike.
    pub(super) fn peer_for(&self, set: Set, leeway: Leeway) -> Option<Dense> {
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
    pub(super) fn stranger_for(&self, set: Set, leeway: Leeway) -> Option<Dense> {
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

    pub(super) fn home_for(&self, set: Set) -> Option<Dense> {
        self.peer_for(set, Leeway::SOUGHT)
            .or_else(|| self.stranger_for(set, Leeway::JOINING))
            .or_else(|| self.stranger_for(set, Leeway::MORE_PEERS))
            .or_else(|| self.peer_for(set, Leeway::FULLER))
            .or_else(|| self.stranger_for(set, Leeway::ANY_PEERS))
    }

    pub(super) fn wishes(&self) -> Vec<Wish> {
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

/// How far a choice may go beyond what it should respect.
#[derive(Clone, Copy)]
pub(super) struct Leeway {
    /// Peers that the node may end up with, and those that hold the partition.
    pub(super) peers_max: usize,
    pub(super) others_peers_max: usize,
    pub(super) fullness: Fullness,
    /// Whether it may crowd a zone.
    pub(super) any_zone: bool,
}

/// How full a choice may make a node.
#[derive(Clone, Copy)]
pub(super) enum Fullness {
    /// To its share.
    Share,
    /// To where it would push.
    Most,
    /// A copy too many is better than one too few.
    Any,
}

impl Leeway {
    pub(super) const SOUGHT: Leeway = Leeway {
        peers_max: PEERS_SOUGHT,
        others_peers_max: PEERS_SOUGHT,
        fullness: Fullness::Share,
        any_zone: false,
    };
    pub(super) const JOINING: Leeway = Leeway { others_peers_max: PEERS_MAX, ..Leeway::SOUGHT };
    pub(super) const MORE_PEERS: Leeway = Leeway { peers_max: PEERS_MAX, ..Leeway::JOINING };
    pub(super) const ANY_PEERS: Leeway =
        Leeway { peers_max: usize::MAX, others_peers_max: usize::MAX, ..Leeway::SOUGHT };
    pub(super) const FULLER: Leeway = Leeway { fullness: Fullness::Most, ..Leeway::ANY_PEERS };
    pub(super) const OVERFULL: Leeway = Leeway { fullness: Fullness::Any, ..Leeway::FULLER };
    pub(super) const ANY_ZONE: Leeway = Leeway { any_zone: true, ..Leeway::OVERFULL };
}

/// An order of nodes that differs from node to node: what one finds first, its
/// neighbour does not.
pub(super) fn scatter(salt: Dense, node: Dense) -> u32 {
    let mixed = (u64::from(salt) << 16 | u64::from(node)).wrapping_add(1);
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}
