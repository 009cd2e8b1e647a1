//! Which nodes hold partitions together.

use crate::topology::COPIES_MAX;
use alloc::{vec, vec::Vec};

/// A counted node's number within a draft: they are dense, slots need not be.
pub(super) type Dense = u16;

/// A partition's copies in a draft.
#[derive(Clone, Copy, Default)]
pub(super) struct Set {
    pub(super) nodes: [Dense; COPIES_MAX],
    pub(super) count: u8,
}

impl Set {
    pub(super) fn as_slice(&self) -> &[Dense] {
        &self.nodes[..usize::from(self.count)]
    }

    pub(super) fn without(mut self, node: Dense) -> Set {
        if let Some(at) = self.as_slice().iter().position(|other| *other == node) {
            self.nodes.copy_within(at + 1.., at);
            self.count -= 1;
        }
        self
    }

    pub(super) fn with(mut self, node: Dense) -> Set {
        self.nodes[usize::from(self.count)] = node;
        self.count += 1;
        self
    }
}

/// Who shares partitions with whom.
pub(super) struct Peers {
    pub(super) words: usize,
    pub(super) bits: Vec<u64>,
    /// For each node its peers, and how many partitions they share.
    pub(super) shared: Vec<Vec<(Dense, u32)>>,
}

impl Peers {
    pub(super) fn new(nodes: usize) -> Peers {
        let words = nodes.div_ceil(64);
        Peers { words, bits: vec![0; words * nodes], shared: vec![Vec::new(); nodes] }
    }

    pub(super) fn are(&self, a: Dense, b: Dense) -> bool {
        self.bits[usize::from(a) * self.words + usize::from(b) / 64] & 1 << (b % 64) != 0
    }

    pub(super) fn of(&self, node: Dense) -> &[(Dense, u32)] {
        &self.shared[usize::from(node)]
    }

    pub(super) fn count(&self, node: Dense) -> usize {
        self.of(node).len()
    }

    pub(super) fn sharing(&self, a: Dense, b: Dense) -> u32 {
        self.of(a).iter().find(|(peer, _)| *peer == b).map_or(0, |(_, shared)| *shared)
    }

    pub(super) fn join(&mut self, a: Dense, b: Dense) {
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

    pub(super) fn part(&mut self, a: Dense, b: Dense) {
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
