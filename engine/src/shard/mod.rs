//! One core's cache: the verbs.
//!
//! How a get travels: [`Shard::get`] asks the index for the chunk of the key,
//! decodes the item's header, checks that it is live, raises the policy's mark,
//! and lends the item out of its page. How a set travels: [`Shard::write`]
//! looks the key up, decides, makes room in the index and takes a chunk
//! (`space` evicts for it), writes header, key and value, and links it.
//!
//! `read`, `write` and `change` hold the verbs; `space` frees memory; `upkeep`
//! works in the background; `exchange` is for snapshots and replicas.

mod change;
mod count;
mod exchange;
mod read;
mod replica;
mod space;
mod upkeep;
mod write;

pub use exchange::{ClassSet, ScanCursor, ScanItem, ScanLimits, namespace_id};
pub use read::{Glance, Inspection};

use crate::clock::HybridClock;
use crate::events::{Event, EventKinds, Events};
use crate::expiry::Wheel;
use crate::generation::{FlushAt, Generations};
use crate::index::Index;
use crate::item::View;
use crate::pins::Pins;
use crate::policy::AnyPolicy;
use crate::sizes::Sizes;
use crate::slab::Slab;
use crate::slab::arena::{Arena, PAGE_BYTES};
use crate::stats::{ClassCounters, Counters};
use crate::store::Store;
use crate::{ChunkRef, ClassId, Eviction, HotKeys, KeyHash, Now, ShardConfig, Tag, Version};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of an item that are loaded ahead; the processor follows a longer copy
/// by itself.
const PREFETCH_BYTES_MAX: usize = 256;

/// One core's cache.
#[derive(Debug)]
pub struct Shard {
    // The index's tables lie in the store's arena: it is dropped first.
    index: Index,
    store: Store,
    policy: AnyPolicy,
    clock: HybridClock,
    config: ShardConfig,
    counters: Counters,
    class_counters: Vec<ClassCounters>,
    /// The keys that take most requests.
    hot: HotKeys,
    /// Bytes of all items.
    bytes: u64,
    /// Bytes of the memory limit that others use.
    outside_bytes: usize,
    /// Values that are still arriving.
    reserved: u64,
    /// Bytes of these values.
    reserved_bytes: u64,
    wheel: Wheel,
    upkeep: upkeep::Upkeep,
    /// Evictions by class since it was last asked whether it needs a page.
    pressure: Vec<u16>,
    /// Changes of items by requests; see [`Shard::changes`].
    changes: u64,
    /// Where the last page that another class gave up was looked for.
    donor: usize,
    /// Where dead items were last looked for when nothing may be evicted.
    dead_page: u32,
    /// What happened, while somebody watches.
    events: Option<Box<Events>>,
    /// Items by size, while that is asked for.
    sizes: Option<Box<Sizes>>,
}

impl Shard {
    /// Builds a shard over `arena`.
    pub fn new(config: ShardConfig, arena: Arena) -> Shard {
        let link_words = AnyPolicy::new(config.eviction, 1).link_words();
        let slab = Slab::new(arena, link_words);
        let classes = slab.table.len();
        let generations = Generations::new(
            config.namespaces.clone(),
            config.namespace_delimiter,
            config.tag_generations_max,
        );
        let mut shard = Shard {
            index: Index::new(slab.pages() as usize),
            store: Store {
                slab,
                generations,
                pins: Pins::default(),
                protected: ChunkRef::NONE,
                now: Now(0),
                seed: config.seed.clone(),
            },
            policy: AnyPolicy::new(config.eviction, classes),
            clock: HybridClock::new(config.region),
            counters: Counters::default(),
            class_counters: alloc::vec![ClassCounters::default(); classes],
            hot: HotKeys::new(KeyHash::of(&[], &config.seed).0),
            bytes: 0,
            outside_bytes: 0,
            reserved: 0,
            reserved_bytes: 0,
            wheel: Wheel::new(),
            upkeep: upkeep::Upkeep::default(),
            pressure: alloc::vec![0; classes],
            changes: 0,
            donor: 0,
            dead_page: 0,
            events: None,
            sizes: None,
            config,
        };
        shard.apply_memory_limit();
        shard
    }

    /// Grows whenever a request changes what an item is: value, expiry, marks,
    /// or whether it is there; also when it comes across one that has expired, for
    /// others may not know that by their clocks. What is only noted about an access,
    /// what leaves for want of room, and what is freed ahead of requests does not
    /// count. Who replicates asks before and after a request.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The configuration that it was built with.
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }

    /// Bytes of pages and tables that it may use at this time.
    pub fn memory_bytes_max(&self) -> usize {
        self.config.memory_bytes_max
    }

    /// Says how many bytes of the limit are in use outside the shard, for the
    /// buffers of connections; items make room for them.
    pub fn set_outside_bytes(&mut self, bytes: usize) {
        self.outside_bytes = bytes;
        self.apply_memory_limit();
    }

    /// Bytes of values that are still arriving: chunks which nothing can free
    /// before their client has sent the rest, or is gone.
    pub fn arriving_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    /// Says which core among how many this shard belongs to, so that no two of
    /// them give the same version.
    pub fn set_core(&mut self, core: u32, cores: u32) {
        self.clock.set_core(core, cores);
    }

    /// Bytes that the shard's own tables take beside the arena.
    fn heap_bytes(&self) -> usize {
        self.store.slab.heap_bytes()
            + self.policy.bytes()
            + self.index.heap_bytes()
            + self.store.generations.heap_bytes()
            + self.class_counters.len() * (size_of::<ClassCounters>() + size_of::<u16>())
            + Wheel::bytes()
            + self.sizes.as_ref().map_or(0, |sizes| sizes.heap_bytes())
    }

    /// Pages in use and tables together stay below the limit; so pages may use
    /// what the tables leave.
    fn apply_memory_limit(&mut self) {
        let taken = self.heap_bytes() + self.outside_bytes;
        let pages = self.config.memory_bytes_max.saturating_sub(taken) / PAGE_BYTES;
        // An index page and an item page are the least that works.
        self.store.slab.pages_max = (pages as u32).clamp(2, self.store.slab.pages().max(2));
    }

    /// Entry of every verb: sets the time and fires a flush that is due.
    #[inline]
    fn at(&mut self, now: Now) {
        self.store.now = now;
        if let Some(flush) = self.store.generations.flush_at
            && flush.at <= now
        {
            self.flush_due(flush);
        }
    }

    /// Starts loading what tells where the item of `hash` lies; some dozen
    /// nanoseconds of work later [`prefetch`](Shard::prefetch) can find it
    /// without waiting.
    #[inline]
    pub fn prefetch_index(&self, hash: KeyHash) {
        self.index.prefetch(hash);
    }

    /// Starts loading the item of `hash`: its chunk, up to four cache lines.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.index.find(hash, |at| {
            let (offset, chunk_bytes) = self.store.slab.locate(at);
            for line in (0..chunk_bytes.min(PREFETCH_BYTES_MAX)).step_by(64) {
                self.store.slab.arena.prefetch(offset + line);
            }
            // It may also begin within a line and end in one more.
            self.store.slab.arena.prefetch(offset + chunk_bytes.min(PREFETCH_BYTES_MAX) - 1);
            false
        });
    }

    /// The live item of a key. A dead one is freed on the way.
    #[inline]
    fn lookup(&mut self, key: &[u8], hash: KeyHash) -> Option<(ChunkRef, View)> {
        self.find_live(key, hash, false)
    }

    /// The same for a write, which takes the place of a dead item.
    #[inline]
    fn lookup_to_store(&mut self, key: &[u8], hash: KeyHash) -> Option<(ChunkRef, View)> {
        self.find_live(key, hash, true)
    }

    #[inline]
    fn find_live(&mut self, key: &[u8], hash: KeyHash, reclaims: bool) -> Option<(ChunkRef, View)> {
        let slab = &self.store.slab;
        let at = self.index.find(hash, |at| crate::item::has_key(slab, at, key))?;
        let view = View::of(&self.store.slab, at);
        match self.store.liveness(at, &view) {
            crate::generation::Liveness::Live => Some((at, view)),
            dead => {
                if reclaims {
                    self.counters.reclaimed += 1;
                    self.class_mut(at).reclaimed += 1;
                }
                self.discard_dead(at, hash, &view, dead);
                None
            }
        }
    }

    /// The counters of the class of a chunk.
    #[inline]
    fn class_mut(&mut self, at: ChunkRef) -> &mut ClassCounters {
        let ClassId(class) = self.store.slab.class_of(at);
        &mut self.class_counters[usize::from(class)]
    }

    /// Whether an item of this key and these tags carries a version.
    fn needs_version(&self, key: &[u8], tagged: bool) -> bool {
        self.config.versions || tagged || self.store.generations.in_namespace(key)
    }

    /// Everything written up to `at` (now, or later) dies at `at`. Replaces a
    /// flush that is still to come.
    pub fn flush(&mut self, at: Now, now: Now) {
        self.at(now);
        if at <= now {
            self.flush_now();
        } else {
            self.store.generations.flush_at = Some(FlushAt { at, said: None });
        }
    }

    fn flush_now(&mut self) {
        self.store.generations.flush_at = None;
        let version = self.clock.next(self.store.now);
        self.flush_up_to(version, version);
    }

    #[cold]
    fn flush_due(&mut self, flush: FlushAt) {
        match flush.said {
            None => self.flush_now(),
            Some(said) => {
                let version = FlushAt::last_before(flush.at);
                self.clock.observe(version);
                self.flush_up_to(version, said);
            }
        }
    }

    fn flush_up_to(&mut self, version: Version, said: Version) {
        if self.store.generations.merge_flush(version, said) && self.holds_unversioned() {
            let slab = &mut self.store.slab;
            slab.flush_sequence = slab.flush_sequence.wrapping_add(1);
            // A sequence that comes around must not find pages from last time.
            if slab.flush_sequence == 0 {
                self.free_unversioned();
            }
        }
    }

    /// Whether there can be items that only the page's flush sequence dates.
    fn holds_unversioned(&self) -> bool {
        !self.config.versions
    }

    /// Everything tagged `tag` so far is dead. Its generation.
    pub fn invalidate_tag(&mut self, tag: Tag, now: Now) -> Version {
        self.at(now);
        let version = self.clock.next(now);
        self.store.generations.merge_tag(tag, version);
        version
    }

    /// Everything in the namespace so far is dead; `None` if it is not configured.
    pub fn invalidate_namespace(&mut self, name: &[u8], now: Now) -> Option<Version> {
        self.at(now);
        let version = self.clock.next(now);
        self.store.generations.merge_namespace(name, version).map(|_| version)
    }

    /// Removes an item without counting a delete (a refused write must not
    /// leave the old value). True if there was one.
    pub fn unlink_key(&mut self, key: &[u8], hash: KeyHash, now: Now) -> bool {
        self.at(now);
        let found = self.lookup(key, hash);
        if let Some((at, _)) = found {
            self.changes += 1;
            self.unlink(at, hash);
        }
        found.is_some()
    }

    /// Keeps events of these kinds from now on, for [`take_events`].
    ///
    /// [`take_events`]: Shard::take_events
    pub fn keep_events(&mut self, kinds: EventKinds) {
        self.events = Events::of(kinds);
    }

    /// Hands over what happened since the last time, in order. Returns how many
    /// events found no room.
    pub fn take_events(&mut self, each: &mut dyn FnMut(Event<'_>)) -> u64 {
        self.events.as_mut().map_or(0, |events| events.take(each))
    }

    /// Whether something is evicted when memory is full.
    fn evicts(&self) -> bool {
        self.config.eviction != Eviction::None
    }
}
