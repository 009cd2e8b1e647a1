//! What a snapshot, a dump or a replica takes out of a shard and puts in.
//!
//! A walk goes by page and slot, a slice at a time, while requests go on in
//! between. It shows every item that stays where it is from begin to end. One
//! that is written anew meanwhile may be shown twice or not at all: whoever
//! needs every write follows the writes too.

use super::Shard;
use crate::chain::{Item, Reservation};
use crate::generation::{FlushAt, Liveness};
use crate::item::{FETCHED, Fields, STALE, TOKEN_SENT, TagList, View};
use crate::slab::page::Map;
use crate::snapshot::{Generation, GenerationScope};
use crate::{
    ChunkRef, ClassId, Expiry, HashSeed, KeyHash, Now, Record, RecordValue, StoreError, Tag,
    TagBytes, Version,
};
use alloc::vec::Vec;
use core::num::NonZeroU64;

/// How far a walk has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanCursor {
    page: u32,
    slot: u32,
    pages: u32,
    done: bool,
    /// Only items of these size classes.
    only: Option<ClassSet>,
}

/// Some size classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSet([u64; 4]);

impl ClassSet {
    /// Adds one.
    pub fn add(&mut self, ClassId(class): ClassId) {
        self.0[usize::from(class) / 64] |= 1 << (class % 64);
    }

    fn contains(&self, ClassId(class): ClassId) -> bool {
        self.0[usize::from(class) / 64] >> (class % 64) & 1 != 0
    }
}

impl ScanCursor {
    /// A walk over the items of some size classes. It passes the pages of others
    /// without a look at their chunks.
    pub fn of_classes(classes: ClassSet) -> ScanCursor {
        ScanCursor { only: Some(classes), ..ScanCursor::default() }
    }

    /// Whether everything was shown.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Where the walk goes on, as a number: [`ScanCursor::at`].
    pub fn place(&self) -> u64 {
        u64::from(self.page) << 32 | u64::from(self.slot)
    }

    /// A walk that goes on at a [place](ScanCursor::place) that it had come to. What
    /// was written in between may lie behind it, as with a walk that is slow.
    pub fn at(place: u64) -> ScanCursor {
        ScanCursor { page: (place >> 32) as u32, slot: place as u32, ..ScanCursor::default() }
    }

    /// The part of the pages that was walked, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.done { 1.0 } else { f64::from(self.page) / f64::from(self.pages.max(1)) }
    }
}

/// How much one slice of a walk shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Items looked at, at most.
    pub items: usize,
    /// Bytes of keys and values; the last item may exceed it. Values that are
    /// not shown inline do not count.
    pub bytes: usize,
}

/// Chunks that a slice looks at for each item it may show, so that dead items
/// and empty pages do not make it long.
const LOOKS_PER_ITEM: usize = 8;

/// An item of a dump.
#[derive(Clone, Copy, Debug)]
pub struct ScanItem<'a> {
    /// The item.
    pub item: Item<'a>,
    /// It has been read.
    pub fetched: bool,
    /// Seconds since its last access (since its write, where that is not kept).
    pub idle_seconds: u32,
    /// Its version; [`Version::ZERO`] where none is kept.
    pub version: Version,
    /// It is stale.
    pub stale: bool,
    /// Somebody holds the right to refill it.
    pub token_sent: bool,
}

impl Shard {
    /// The hash of a key, by this node's seed.
    pub fn hash_of(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(key, &self.config.seed)
    }

    /// Shows the next live items as records. A value in several pieces is
    /// `Elsewhere`: pin it by its key.
    pub fn scan(
        &self,
        cursor: &mut ScanCursor,
        limits: ScanLimits,
        now: Now,
        each: &mut dyn FnMut(&Record<'_>),
    ) {
        self.walk(cursor, limits, now, &mut |_, view| {
            each(&self.record(view));
            view.key_bytes + if view.is_chained() { 0 } else { view.value_bytes }
        });
    }

    /// An item as a record; its value only if it is in one piece.
    pub(super) fn record(&self, view: &View) -> Record<'_> {
        let slab = &self.store.slab;
        Record {
            key: view.key(slab),
            value_bytes: view.value_bytes as u32,
            value: if view.is_chained() {
                RecordValue::Elsewhere
            } else {
                RecordValue::Inline(view.head(slab))
            },
            client_flags: view.client_flags(slab),
            expiry: view.expiry(slab),
            version: view.version(slab).unwrap_or(Version::ZERO),
            explicit_cas: view.explicit_cas(slab),
            tags: TagBytes::new(view.tag_bytes(slab)).unwrap_or_default(),
            stale: view.flags & STALE != 0,
            token_sent: view.flags & TOKEN_SENT != 0,
            fetched: view.flags & FETCHED != 0,
            binary_key: view.binary_key(),
        }
    }

    /// Shows the next live items for a dump.
    pub fn scan_items(
        &self,
        cursor: &mut ScanCursor,
        items_max: usize,
        now: Now,
        each: &mut dyn FnMut(&ScanItem<'_>),
    ) {
        let limits = ScanLimits { items: items_max, bytes: usize::MAX };
        self.walk(cursor, limits, now, &mut |at, view| {
            each(&ScanItem {
                item: self.item(at, view),
                fetched: view.flags & FETCHED != 0,
                idle_seconds: self.idle_seconds(view, now),
                version: view.version(&self.store.slab).unwrap_or(Version::ZERO),
                stale: view.flags & STALE != 0,
                token_sent: view.flags & TOKEN_SENT != 0,
            });
            0
        });
    }

    /// The walk behind both. `each` says how many bytes it showed.
    pub(super) fn walk(
        &self,
        cursor: &mut ScanCursor,
        limits: ScanLimits,
        now: Now,
        each: &mut dyn FnMut(ChunkRef, &View) -> usize,
    ) {
        let slab = &self.store.slab;
        cursor.pages = slab.pages_touched();
        let (mut items, mut bytes) = (0, 0);
        let mut looks = limits.items.max(1) * LOOKS_PER_ITEM;
        while cursor.page < cursor.pages {
            let class = slab.page_class(cursor.page);
            if class.is_some_and(|class| cursor.only.is_none_or(|only| only.contains(class))) {
                while let Some(at) = slab.next_in_page(cursor.page, cursor.slot, Map::Live) {
                    if items >= limits.items.max(1) || bytes >= limits.bytes.max(1) || looks == 0 {
                        return;
                    }
                    cursor.slot = at.slot() + 1;
                    looks -= 1;
                    let view = View::of(slab, at);
                    if self.store.generations.liveness(slab, at, &view, now) == Liveness::Live {
                        items += 1;
                        bytes += each(at, &view);
                    }
                }
            }
            cursor.page += 1;
            cursor.slot = 0;
            looks = looks.saturating_sub(1);
            if looks == 0 && cursor.page < cursor.pages {
                return;
            }
        }
        cursor.done = true;
    }

    /// Stores a record with all its state, unless what is there is as new, or
    /// it is expired or invalidated here. `value` is the filled reservation of
    /// a value that the record does not hold. True if it was stored.
    pub fn restore(
        &mut self,
        record: &Record<'_>,
        value: Option<Reservation>,
        now: Now,
    ) -> Result<bool, StoreError> {
        self.at(now);
        let hash = self.hash_of(record.key);
        let found = self.lookup(record.key, hash);
        let newer = found.as_ref().is_some_and(|(_, view)| {
            view.version(&self.store.slab)
                .is_some_and(|version| record.version != Version::ZERO && version >= record.version)
        });
        self.take_over(record, value, hash, found, newer)
    }

    /// Stores a record in place of what is there, whatever its version: the
    /// sender knows the order. One that is expired or invalidated here leaves
    /// nothing. True if it was stored.
    pub fn adopt(&mut self, record: &Record<'_>, now: Now) -> Result<bool, StoreError> {
        self.at(now);
        let hash = self.hash_of(record.key);
        let found = self.lookup(record.key, hash);
        let outcome = self.take_over(record, None, hash, found, false);
        if !matches!(outcome, Ok(true)) {
            // What is there is older than what could not be stored.
            self.unlink_key(record.key, hash, now);
        }
        outcome
    }

    fn take_over(
        &mut self,
        record: &Record<'_>,
        value: Option<Reservation>,
        hash: KeyHash,
        found: Option<(ChunkRef, View)>,
        newer: bool,
    ) -> Result<bool, StoreError> {
        let now = self.store.now;
        let versioned = record.version != Version::ZERO;
        self.clock.observe(record.version);
        let dead = record.expiry.is_past(now)
            || versioned
                && self.store.generations.reaches(record.key, record.tags.iter(), record.version);
        if newer || dead || record.key.is_empty() || record.key.len() > crate::KEY_BYTES_MAX {
            self.counters.merges_refused += u64::from(newer || dead);
            if let Some(reservation) = value {
                self.abort(reservation);
            }
            return Ok(false);
        }
        let mut tags = TagList::new();
        for tag in record.tags.iter() {
            tags.push(tag);
        }
        let needs_version = self.needs_version(record.key, !tags.is_empty());
        let version = match (needs_version, versioned) {
            (true, true) => Some(record.version),
            (true, false) => Some(self.clock.next(now)),
            (false, _) => {
                self.clock.next(now);
                None
            }
        };
        let mark = |on: bool, flag: u8| if on { flag } else { 0 };
        let fields = Fields {
            state: mark(record.stale, STALE)
                | mark(record.token_sent, TOKEN_SENT)
                | mark(record.fetched, FETCHED),
            mark: 0,
            binary_key: record.binary_key,
            expiry: record.expiry,
            version,
            client_flags: record.client_flags,
            cas: record.explicit_cas,
            access_second: self.access_second(),
            tags: &tags,
        };
        let old = found.map(|(at, _)| at);
        match (value, record.value) {
            (Some(reservation), _) => {
                self.put_reserved(record.key, hash, &fields, reservation, old)?
            }
            (None, RecordValue::Inline(bytes)) if bytes.len() <= self.config.value_bytes_max => {
                self.put(record.key, hash, &fields, bytes, old)?
            }
            (None, _) => {
                return Err(StoreError::TooLarge {
                    value_bytes: u64::from(record.value_bytes),
                    value_bytes_max: self.config.value_bytes_max as u64,
                });
            }
        };
        self.counters.total_items += 1;
        Ok(true)
    }

    /// Every invalidation that is remembered.
    pub fn generations(&self) -> Vec<Generation> {
        let generations = &self.store.generations;
        let mut all = Vec::with_capacity(generations.tags() + 2);
        let mut add = |scope, id, version: Version| {
            if version != Version::ZERO {
                all.push(Generation { scope, id, version });
            }
        };
        let said = generations.flush_said;
        let said_before = if said < generations.flush { said } else { Version::ZERO };
        add(GenerationScope::Flush, said_before.0, generations.flush);
        if let Some(FlushAt { at, said: Some(said) }) = generations.flush_at {
            add(GenerationScope::FlushAt, at.0, said);
        }
        add(GenerationScope::TagFloor, 0, generations.floor);
        for (name, version) in generations.namespaces() {
            add(GenerationScope::Namespace, namespace_id(name.as_bytes()), version);
        }
        for (tag, version) in generations.tag_entries() {
            add(GenerationScope::Tag, tag.0.get(), version);
        }
        all
    }

    /// Takes over an invalidation from elsewhere. Later writes here are past it.
    pub fn merge_generation(&mut self, generation: Generation) {
        let news = generation.version > self.clock.last();
        self.clock.observe(generation.version);
        let generations = &mut self.store.generations;
        let said = if generation.id > 0 { Version(generation.id) } else { generation.version };
        match generation.scope {
            // Items without a version only die by a flush that is later than
            // all that happened here (not by one that a snapshot remembers).
            GenerationScope::Flush if news => self.flush_up_to(generation.version, said),
            GenerationScope::Flush => {
                generations.merge_flush(generation.version, said);
            }
            GenerationScope::FlushAt => {
                generations.merge_flush_at(Now(generation.id), generation.version);
            }
            GenerationScope::TagFloor => generations.merge_floor(generation.version),
            GenerationScope::Tag => {
                if let Some(tag) = NonZeroU64::new(generation.id) {
                    generations.merge_tag(Tag(tag), generation.version);
                }
            }
            GenerationScope::Namespace => {
                generations.merge_namespace_id(generation.id, generation.version);
            }
        }
    }

    /// Takes over a flush: everything up to `version` is dead.
    pub fn merge_flush(&mut self, version: Version) {
        self.merge_generation(Generation { scope: GenerationScope::Flush, id: 0, version });
    }

    /// A number that grows whenever something is invalidated that was not before.
    pub fn invalidations(&self) -> u64 {
        self.store.generations.changes
    }

    /// The latest version given or seen.
    pub fn last_version(&self) -> Version {
        self.clock.last()
    }

    /// When everything dies next, if a flush is to come.
    pub fn flush_pending(&self) -> Expiry {
        self.store.generations.flush_at.map_or(Expiry::NEVER, |flush| Expiry(flush.at.0))
    }
}

/// A namespace by number, the same on every node.
pub fn namespace_id(name: &[u8]) -> u64 {
    KeyHash::of(name, &HashSeed::new(0)).0
}
