//! Quotas: how much of the partitions each node should have.

use alloc::{vec, vec::Vec};

/// A node's share.
#[derive(Clone, Copy, Default)]
pub(super) struct Quota {
    /// The share in 1/65,536 of a copy, for comparing how full nodes are.
    pub(super) exact: u64,
    pub(super) floor: u32,
    pub(super) ceil: u32,
    /// Below this a node pulls, up to `floor`; above `most` it pushes. Between
    /// them nothing moves for balance alone. The fullest is to stay within 1.01;
    /// that another node is emptier harms nobody, so `least` is farther off.
    pub(super) least: u32,
    pub(super) most: u32,
}

/// A copy, in the unit of shares.
pub(super) const ONE: u64 = 1 << 16;

impl Quota {
    pub(super) fn new(exact: u64) -> Quota {
        let floor = (exact / ONE) as u32;
        let ceil = exact.div_ceil(ONE) as u32;
        let least = floor - floor.min((floor / 64).max(1));
        Quota { exact, floor, ceil, least, most: ceil.max(floor + floor / 256) }
    }

    /// How full `load` copies make the node.
    pub(super) fn ratio(&self, load: u32) -> u64 {
        (u64::from(load) << 40) / self.exact.max(1)
    }
}

/// Shares `total` out by weight; no share exceeds its cap, and what one cannot
/// take goes to the others.
pub(super) fn share_out(total: u64, weights: &[u64], caps: &[u64]) -> Vec<u64> {
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
