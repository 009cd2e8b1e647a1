//! The words that every other module and crate uses: hashes, versions, times.

use core::num::NonZeroU64;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

/// The moment at which an operation happens, in milliseconds since the Unix
/// epoch. The caller reads a clock once a loop turn; it never goes backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

impl Now {
    /// Whole seconds since the Unix epoch.
    #[inline]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

/// When an item dies: milliseconds since the Unix epoch, or never.
///
/// Expiries on a whole second take four bytes in an item, others two more.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Expiry(pub u64);

impl Expiry {
    /// The item does not expire.
    pub const NEVER: Expiry = Expiry(u64::MAX);
    /// The item is dead on arrival.
    pub const PAST: Expiry = Expiry(0);

    /// Whether an item with this expiry is dead at `now`.
    #[inline]
    pub const fn is_past(self, now: Now) -> bool {
        self.0 <= now.0
    }
}

/// The one seeded 64-bit hash of a key. Disjoint bits serve the partition (the
/// top bits), the core (bits 16 to 47) and the slot in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

/// The secrets behind [`KeyHash`], derived once from the node's (in a cluster:
/// the cluster's) seed, so that nobody outside can choose colliding keys.
#[derive(Clone, Debug)]
pub struct HashSeed(RapidSecrets);

impl HashSeed {
    /// Derives the secrets. The same seed gives the same hashes on every machine.
    pub const fn new(seed: u64) -> HashSeed {
        HashSeed(RapidSecrets::seed(seed))
    }
}

impl KeyHash {
    /// Hashes `key` (rapidhash v3, whose output is fixed across releases).
    #[inline]
    pub fn of(key: &[u8], seed: &HashSeed) -> KeyHash {
        KeyHash(rapidhash_v3_inline::<true, false, false>(key, &seed.0))
    }

    /// The partition among `1 << bits`.
    #[inline]
    pub const fn partition(self, bits: u32) -> u32 {
        if bits == 0 { 0 } else { (self.0 >> (64 - bits)) as u32 }
    }

    /// The owning core among `cores`.
    #[inline]
    pub const fn core(self, cores: u32) -> u32 {
        (((self.0 >> 16) as u32 as u64 * cores as u64) >> 32) as u32
    }
}

/// Hybrid logical clock stamp of a write; larger is later.
///
/// `milliseconds (44 bits) | counter and core (16 bits) | region (4 bits)`. It
/// is also the item's CAS unique unless the client sets one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// No write has this version.
    pub const ZERO: Version = Version(0);

    /// Milliseconds since the Unix epoch at which it was stamped.
    #[inline]
    pub const fn unix_ms(self) -> u64 {
        self.0 >> 20
    }
}

/// What clients see as the CAS unique of an item that they set none on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CasForm {
    /// Nothing: 0.
    None,
    /// The item's version, 64 bits.
    #[default]
    Version,
    /// 32 bits made of the version, for clients that cannot read more.
    ///
    /// Two versions have the same with a chance of 1 in 2^32, however long
    /// apart they are. A compare looks at the item as it is now alone, so that
    /// is the chance that a write which came in between goes unnoticed.
    Short,
}

impl CasForm {
    /// The CAS unique of an item of this version; never 0 unless there is none.
    #[inline]
    pub fn unique(self, version: Option<Version>) -> u64 {
        match (self, version) {
            (CasForm::None, _) | (_, None) => 0,
            (CasForm::Version, Some(version)) => version.0,
            (CasForm::Short, Some(version)) => u64::from(short(version.0).max(1)),
        }
    }

    /// Whether `older` was the CAS unique of an item before `newer`, given that they
    /// differ. Short ones have no order, but what a client holds was read earlier.
    pub fn is_older(self, older: u64, newer: u64) -> bool {
        self == CasForm::Short || older < newer
    }
}

/// 32 bits in which each bit of the version counts. The last bits alone would
/// be the same for two writes that are 4,096 milliseconds apart.
#[inline]
fn short(version: u64) -> u32 {
    let mixed = (version ^ version >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed >> 32) as u32
}

/// A label that a writer attaches to an item: the 64-bit hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub NonZeroU64);

/// The seed of tag names. Fixed: tags must mean the same after a restart and
/// on every node, and whoever makes two names collide only invalidates more.
static TAG_SEED: HashSeed = HashSeed::new(0x7461_6773);

impl Tag {
    /// The tag of a name.
    pub fn named(name: &[u8]) -> Tag {
        Tag(NonZeroU64::new(KeyHash::of(name, &TAG_SEED).0).unwrap_or(NonZeroU64::MIN))
    }
}

/// Most tags that one item can carry.
pub const TAGS_MAX: usize = 16;
/// Longest key, in bytes; memcached's bound.
pub const KEY_BYTES_MAX: usize = 250;
/// Largest value that `-I` can allow, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// Where an item lies: `page (20 bits) | slot in the page (12 bits)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef(pub u32);

impl ChunkRef {
    /// No chunk. The last page index is never used, so policies may also
    /// encode other ends of lists as slots of that page.
    pub const NONE: ChunkRef = ChunkRef(u32::MAX);

    /// The chunk in `slot` of `page`.
    #[inline]
    pub const fn new(page: u32, slot: u32) -> ChunkRef {
        ChunkRef(page << 12 | slot)
    }

    /// Index of its page.
    #[inline]
    pub const fn page(self) -> u32 {
        self.0 >> 12
    }

    /// Its slot in the page.
    #[inline]
    pub const fn slot(self) -> u32 {
        self.0 & 0xfff
    }
}

/// A size class of the slab.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ClassId(pub u8);

impl ClassId {
    /// As the index of a table with one entry a class.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn short_cas_uniques_differ_whatever_the_distance_of_the_writes() {
        let version = |ms: u64, counter: u64| Version(ms << 20 | counter << 4);
        let unique = |version| CasForm::Short.unique(Some(version));
        let start = 1_800_000_000_000;
        let mut seen = BTreeSet::new();
        // The same counter in milliseconds that are powers of two apart, and many
        // writes within one.
        let versions = (0..4096)
            .map(|step| version(start + step * 4096, 0))
            .chain((1..4096).map(|counter| version(start, counter)))
            .chain((0..40).map(|shift| version(start + (1 << shift) + 1, 0)));
        for version in versions {
            let unique = unique(version);
            assert!(unique != 0 && unique <= u64::from(u32::MAX));
            assert!(seen.insert(unique), "{version:?}");
        }
        assert_eq!(CasForm::Short.unique(None), 0);
        assert_eq!(CasForm::None.unique(Some(Version(5))), 0);
        assert_eq!(CasForm::Version.unique(Some(Version(5))), 5);
    }
}
