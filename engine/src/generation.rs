//! Generations: what has been invalidated, and until when.
//!
//! An item is live if no generation that concerns it (flush, its namespace, its
//! tags) reaches its version. Invalidating writes one number, whatever the
//! number of items; merging takes the larger number, so cores, replicas and
//! regions agree whatever the order in which they hear of it.
//!
//! Only tags that were invalidated have an entry, at most `tags_max` of them.
//! Beyond that the oldest entries are folded into the *floor*: a tagged item
//! not younger than the floor is dead, whether its tag was invalidated or not.
//! That costs misses, never a stale answer. A sweep that has freed every dead
//! item lets old entries go before it comes to that (see `shard::sweep`).

use crate::item::View;
use crate::slab::Slab;
use crate::{Now, Tag, Version};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use hashbrown::HashTable;

/// How long a generation is kept after a sweep that made it unnecessary here:
/// a replica may still be sent a write that is older.
pub(crate) const GRACE_MS: u64 = 60_000;

/// Whether an item may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    Live,
    Expired,
    /// By flush, namespace or tag.
    Invalidated,
}

/// A flush that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushAt {
    /// When it comes into force.
    pub at: Now,
    /// When it was said, to all nodes of a cluster; none if to this one alone.
    pub said: Option<Version>,
}

impl FlushAt {
    /// The last version that it kills if several nodes are to agree: what is
    /// written from its moment on lives, however late a node comes to it.
    pub fn last_before(at: Now) -> Version {
        const MS_MAX: u64 = u64::MAX >> 20;
        Version((at.0.clamp(1, MS_MAX) << 20) - 1)
    }
}

/// What has been invalidated.
#[derive(Debug)]
pub(crate) struct Generations {
    /// Everything up to this version is dead.
    pub flush: Version,
    /// When the last flush that came into force was said. It replaced those that
    /// were said before it and were still to come.
    pub flush_said: Version,
    /// The next flush.
    pub flush_at: Option<FlushAt>,
    namespaces: Vec<(String, Version)>,
    delimiter: u8,
    tags: HashTable<(Tag, Version)>,
    /// The same entries, oldest first (as they came in).
    order: VecDeque<(Tag, Version)>,
    tags_max: usize,
    /// Tagged items up to this version are dead.
    pub floor: Version,
    /// Entries folded into the floor.
    pub folded: u64,
    /// Counts invalidations, so that a sweep sees whether there was a new one.
    pub changes: u64,
}

impl Generations {
    pub fn new(namespaces: Vec<String>, delimiter: u8, tags_max: usize) -> Generations {
        Generations {
            flush: Version::ZERO,
            flush_said: Version::ZERO,
            flush_at: None,
            namespaces: namespaces.into_iter().map(|name| (name, Version::ZERO)).collect(),
            delimiter,
            tags: HashTable::new(),
            order: VecDeque::new(),
            tags_max: tags_max.max(1),
            floor: Version::ZERO,
            folded: 0,
            changes: 0,
        }
    }

    /// Bytes of heap.
    pub fn heap_bytes(&self) -> usize {
        self.tags.allocation_size() + self.order.capacity() * size_of::<(Tag, Version)>()
    }

    /// Entries of invalidated tags.
    pub fn tags(&self) -> usize {
        self.tags.len()
    }

    /// Whether the item may be read, as far as time and generations say.
    #[inline]
    pub fn liveness(&self, slab: &Slab, at: crate::ChunkRef, view: &View, now: Now) -> Liveness {
        if view.is_expired(slab, now) {
            return Liveness::Expired;
        }
        match view.version(slab) {
            None if slab.flush_sequence_of(at) != slab.flush_sequence => Liveness::Invalidated,
            None => Liveness::Live,
            Some(version) if version <= self.flush => Liveness::Invalidated,
            Some(version) if self.is_invalidated(slab, view, version) => Liveness::Invalidated,
            Some(_) => Liveness::Live,
        }
    }

    /// Whether a namespace's or tag's generation reaches `version`.
    #[inline]
    fn is_invalidated(&self, slab: &Slab, view: &View, version: Version) -> bool {
        if !self.namespaces.is_empty()
            && self.namespace_generation(view.key(slab)).is_some_and(|at| version <= at)
        {
            return true;
        }
        // Without a single invalidated tag nothing more needs reading.
        if self.tags.is_empty() && self.floor == Version::ZERO || !view.has_tags(slab) {
            return false;
        }
        version <= self.floor
            || view.tags(slab).iter().any(|tag| version <= self.tag_generation(tag))
    }

    /// Whether a write of `version` would be dead on arrival.
    pub fn reaches(&self, key: &[u8], tags: impl Iterator<Item = Tag>, version: Version) -> bool {
        let mut tags = tags.peekable();
        version <= self.flush
            || self.namespace_generation(key).is_some_and(|at| version <= at)
            || tags.peek().is_some() && version <= self.floor
            || tags.any(|tag| version <= self.tag_generation(tag))
    }

    /// Whether keys of this namespace carry a version even without `versions`.
    pub fn in_namespace(&self, key: &[u8]) -> bool {
        !self.namespaces.is_empty() && self.namespace_generation(key).is_some()
    }

    fn namespace_of<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        memchr::memchr(self.delimiter, key).map(|end| &key[..end])
    }

    fn namespace_generation(&self, key: &[u8]) -> Option<Version> {
        let name = self.namespace_of(key)?;
        self.namespaces.iter().find(|entry| entry.0.as_bytes() == name).map(|entry| entry.1)
    }

    /// The version at which the tag was last invalidated; zero if never.
    pub fn tag_generation(&self, tag: Tag) -> Version {
        self.tags.find(tag.0.get(), |entry| entry.0 == tag).map_or(Version::ZERO, |entry| entry.1)
    }

    /// Raises a tag's generation. True if it was older.
    pub fn merge_tag(&mut self, tag: Tag, version: Version) -> bool {
        if version <= self.floor || version <= self.tag_generation(tag) {
            return false;
        }
        match self.tags.find_mut(tag.0.get(), |entry| entry.0 == tag) {
            Some(entry) => entry.1 = version,
            None => {
                self.tags.insert_unique(tag.0.get(), (tag, version), |entry| entry.0.0.get());
            }
        }
        self.order.push_back((tag, version));
        self.changes += 1;
        // Entries that were raised again stand in the order more than once.
        while self.tags.len() > self.tags_max || self.order.len() > 2 * self.tags_max {
            let Some((tag, version)) = self.order.pop_front() else { break };
            if self.forget(tag, version) && self.floor < version {
                self.floor = version;
                self.folded += 1;
            }
        }
        true
    }

    /// Drops the entry if it still has this version.
    fn forget(&mut self, tag: Tag, version: Version) -> bool {
        match self.tags.find_entry(tag.0.get(), |entry| *entry == (tag, version)) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Drops entries up to `swept`, all of whose items a sweep has freed, once
    /// they are older than the grace time. At most `steps` of them.
    pub fn drop_swept(&mut self, swept: Version, now: Now, steps: usize) -> bool {
        for _ in 0..steps {
            match self.order.front().copied() {
                Some((tag, version))
                    if version <= swept && version.unix_ms() + GRACE_MS <= now.0 =>
                {
                    self.order.pop_front();
                    self.forget(tag, version);
                }
                _ => return false,
            }
        }
        true
    }

    /// Raises a namespace's generation; `None` if it is not configured.
    pub fn merge_namespace(&mut self, name: &[u8], version: Version) -> Option<bool> {
        let entry = self.namespaces.iter_mut().find(|entry| entry.0.as_bytes() == name)?;
        let raised = entry.1 < version;
        if raised {
            entry.1 = version;
            self.changes += 1;
        }
        Some(raised)
    }

    /// Raises the generation of a namespace known by its number.
    pub fn merge_namespace_id(&mut self, id: u64, version: Version) {
        for entry in &mut self.namespaces {
            if crate::shard::namespace_id(entry.0.as_bytes()) == id && entry.1 < version {
                entry.1 = version;
                self.changes += 1;
            }
        }
    }

    /// Raises the flush version, by a flush that was said then.
    pub fn merge_flush(&mut self, version: Version, said: Version) -> bool {
        let raised = self.flush < version;
        if raised {
            self.flush = version;
            self.changes += 1;
        }
        self.flush_said = self.flush_said.max(said);
        let replaced = |flush: &FlushAt| flush.said.is_some_and(|said| said <= self.flush_said);
        self.flush_at = self.flush_at.filter(|flush| !replaced(flush));
        raised
    }

    /// Takes over a flush that is to come, unless another one was said later.
    pub fn merge_flush_at(&mut self, at: Now, said: Version) {
        let known = self.flush_at.and_then(|flush| flush.said).unwrap_or(Version::ZERO);
        if said > known.max(self.flush_said) {
            self.flush_at = Some(FlushAt { at, said: Some(said) });
            self.changes += 1;
        }
    }

    /// Namespaces and their generations.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, Version)> {
        self.namespaces.iter().map(|entry| (entry.0.as_str(), entry.1))
    }

    /// Invalidated tags and their generations, in no order.
    pub fn tag_entries(&self) -> impl Iterator<Item = (Tag, Version)> {
        self.tags.iter().copied()
    }

    /// Raises the floor (from a snapshot or a peer).
    pub fn merge_floor(&mut self, version: Version) {
        if self.floor < version {
            self.floor = version;
            self.changes += 1;
        }
    }
}
