//! What lies in a core's shard and is worth nothing: not to be read, and being
//! dropped, a little at a time.
//!
//! Where nodes have different numbers of cores, a replica's core gets a partition
//! from several cores of the primary, each of which fills its own part when it
//! has to. So what a fill replaces is the part of the core that sends it: the
//! others' parts stay.
//!
//! A node that ceases to lead a partition casts off what is not replicated
//! ([`Mode::None`]): it would be out of date if the node led again.

use super::{Mode, Modes};
use crate::map::{Map, Set};
use crate::ring::{Partition, Ring};
use alloc::vec::Vec;
use engine::{KeyHash, Now, ScanCursor, Shard};

/// The keys of one core, among so many, of some node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub core: u16,
    pub cores: u16,
}

impl Part {
    /// Whether a key is one of these.
    pub fn has(self, hash: KeyHash) -> bool {
        hash.core(u32::from(self.cores)) == u32::from(self.core)
    }
}

/// All of a partition, or these parts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extent {
    All,
    Parts(Vec<Part>),
}

impl Extent {
    fn has(&self, hash: KeyHash) -> bool {
        match self {
            Extent::All => true,
            Extent::Parts(parts) => parts.iter().any(|part| part.has(hash)),
        }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    all: Map<Partition, Extent>,
    /// Of these, keys without replication.
    unreplicated: Set<Partition>,
    /// The walk that drops it.
    walk: Option<ScanCursor>,
}

impl Garbage {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.unreplicated.is_empty()
    }

    /// Whether something of a partition is.
    #[inline]
    pub fn contains(&self, partition: Partition) -> bool {
        !self.all.is_empty() && self.all.contains_key(&partition)
    }

    /// Whether keys of a partition are that are not replicated.
    #[inline]
    pub fn contains_unreplicated(&self, partition: Partition) -> bool {
        !self.unreplicated.is_empty() && self.unreplicated.contains(&partition)
    }

    /// Keys of a partition that are not replicated.
    pub fn add_unreplicated(&mut self, partition: Partition) {
        self.unreplicated.insert(partition);
        self.walk = None;
    }

    /// All that there is of a partition.
    pub fn add(&mut self, partition: Partition) {
        self.all.insert(partition, Extent::All);
        // The walk under way may have passed it when it was worth something.
        self.walk = None;
    }

    /// A part of a partition.
    pub fn add_part(&mut self, partition: Partition, part: Part) {
        let extent = self.all.entry(partition).or_insert_with(|| Extent::Parts(Vec::new()));
        if let Extent::Parts(parts) = extent
            && !parts.contains(&part)
        {
            parts.push(part);
        }
        self.walk = None;
    }

    /// Drops what the next `items_max` items have of it. Returns how many. Of these
    /// partitions `is_empty` nothing is left.
    pub fn drop_next(
        &mut self,
        ring: Ring,
        modes: &Modes,
        items_max: usize,
        shard: &mut Shard,
        now: Now,
        is_empty: &mut dyn FnMut(Partition),
    ) -> usize {
        let (all, unreplicated) = (&self.all, &self.unreplicated);
        let mut unwanted = |hash: KeyHash, key: &[u8]| {
            let partition = ring.of(hash);
            all.get(&partition).is_some_and(|extent| extent.has(hash))
                || unreplicated.contains(&partition) && modes.of(key) == Mode::None
        };
        // Whatever is added begins another walk.
        let cursor = self.walk.get_or_insert_default();
        let dropped = shard.purge_next(cursor, items_max, now, &mut unwanted);
        if cursor.is_done() {
            self.walk = None;
            let whole = self.all.iter().filter(|(_, extent)| **extent == Extent::All);
            whole.for_each(|(partition, _)| is_empty(*partition));
            self.all.clear();
            self.unreplicated.clear();
        }
        dropped
    }
}
