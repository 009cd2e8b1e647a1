//! The ring: the 64-bit hash space cut into equal arcs, the partitions.
//!
//! A partition is the unit of ownership, replication and migration; it plays the
//! part of a virtual node (Dynamo's third strategy, SOSP 2007, section 6.2).
//! Equal arcs make the lookup one shift, and doubling their number splits every
//! arc in two without moving a key between the halves' owner.

use engine::KeyHash;
use serde::{Deserialize, Serialize};

/// One arc of the ring.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Partition(pub u32);

/// How finely the hash space is cut: `1 << bits` partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    bits: u32,
}

impl Ring {
    /// Partitions of a new cluster, as a power of two: 4,096. The fullest of a hundred
    /// nodes then has 1.001 of the mean; clusters of many hundreds want 65,536.
    pub const BITS_DEFAULT: u32 = 12;
    /// Most partitions: 2^24, of which a topology would take 160 MiB.
    pub const BITS_MAX: u32 = 24;

    /// A ring of `1 << bits` partitions; `None` above [`Ring::BITS_MAX`].
    pub const fn new(bits: u32) -> Option<Ring> {
        if bits <= Ring::BITS_MAX { Some(Ring { bits }) } else { None }
    }

    /// Number of partitions.
    pub const fn partitions(self) -> u32 {
        1 << self.bits
    }

    /// The partition of a key.
    pub const fn of(self, hash: KeyHash) -> Partition {
        Partition(hash.partition(self.bits))
    }
}

impl Default for Ring {
    fn default() -> Ring {
        Ring { bits: Ring::BITS_DEFAULT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_keeps_every_key_in_its_half() {
        let ring = Ring::default();
        let doubled = Ring::new(Ring::BITS_DEFAULT + 1).unwrap();
        for step in 0..10_000u64 {
            let hash = KeyHash(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert_eq!(doubled.of(hash).0 / 2, ring.of(hash).0);
        }
    }

    #[test]
    fn the_ends_of_the_hash_space_are_the_ends_of_the_ring() {
        for bits in [0, 1, 16, Ring::BITS_MAX] {
            let ring = Ring::new(bits).unwrap();
            assert_eq!(ring.of(KeyHash(0)), Partition(0));
            assert_eq!(ring.of(KeyHash(u64::MAX)), Partition(ring.partitions() - 1));
        }
        assert_eq!(Ring::new(Ring::BITS_MAX + 1), None);
    }
}
