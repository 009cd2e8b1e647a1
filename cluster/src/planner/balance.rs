//! Balance of copies: empty nodes pull, full ones push.

use super::PEERS_SOUGHT;
use super::draft::{Draft, Leeway, scatter};
use super::peers::{Dense, Set};
use super::quota::Quota;
use alloc::{collections::BinaryHeap, vec, vec::Vec};
use core::cmp::Reverse;

impl Draft {
    /// Lists each node's partitions, those first that it shares with the peers it
    /// shares most with: what moves away evens that out.
    pub(super) fn index(&mut self) {
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
    pub(super) fn pull(&mut self) {
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
    pub(super) fn push(&mut self) {
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
}
