//! Missing copies, and who gets them.

use super::PEERS_SOUGHT;
use super::draft::{Draft, Leeway, scatter};
use super::peers::{Dense, Set};
use alloc::{collections::BinaryHeap, vec::Vec};
use core::cmp::Reverse;

/// Odd, so that its multiples visit all of a power of two.
const STRIDE: usize = 0x9e37_79b1;

impl Draft {
    fn lacking(&self, partition: usize) -> usize {
        self.copies - self.sets[partition].as_slice().len()
    }

    /// Where a new node replaces another, it takes over what the other had.
    pub(super) fn give_holes_to_empty_nodes(&mut self) {
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
    pub(super) fn empty_nodes(&self) -> Vec<Dense> {
        let is_empty =
            |node: &Dense| self.load[usize::from(*node)] < self.quotas[usize::from(*node)].least;
        let mut nodes: Vec<Dense> = (0..self.nodes.len() as Dense).filter(is_empty).collect();
        nodes.sort_by_key(|node| (self.ratio(*node), *node));
        nodes
    }

    /// Gives every partition its missing copies.
    pub(super) fn fill_holes(&mut self) {
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
}
