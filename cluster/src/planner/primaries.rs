//! Which of its copies leads each partition. No data moves here.

use super::draft::Draft;
use super::peers::Dense;
use crate::topology::Topology;
use alloc::{vec, vec::Vec};

impl Draft {
    fn primary_ratio(&self, node: Dense) -> u64 {
        self.quotas_primary[usize::from(node)].ratio(self.primaries[usize::from(node)])
    }

    fn lead(&mut self, partition: usize, at: usize) {
        self.primaries[usize::from(self.sets[partition].nodes[at])] += 1;
        self.sets[partition].nodes[..=at].rotate_right(1);
    }

    /// Primaries stay; where one's copy moves away, the copy whose node leads least
    /// is to lead, which often is the new one.
    pub(super) fn choose_primaries(&mut self, topology: &Topology) {
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
    pub(super) fn balance_primaries(&mut self) {
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
