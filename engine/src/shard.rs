//! The verbs of one core's cache.

use crate::{Expiry, HashSeed, KeyHash, Now, Tag, Version};
use alloc::{string::String, vec::Vec};

/// The memory of a shard: a fixed region handed in by the caller.
#[derive(Debug)]
pub struct Arena {}

impl Arena {
    /// A zeroed region on the heap; for tests and tools.
    pub fn heap(bytes: usize) -> Arena {
        let _ = bytes;
        todo!()
    }
    // pub unsafe fn from_raw(base: NonNull<u8>, bytes: usize, owner: Arc<dyn Send + Sync>) -> Arena
}

/// Which items leave when memory is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// CLOCK-Pro in slot form.
    #[default]
    ClockPro,
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO.
    S3Fifo,
    /// Nothing is evicted: a full shard refuses writes (memcached `-M`).
    None,
}

/// How to build a shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Hash seed, the same on every core of a node.
    pub seed: HashSeed,
    /// Bytes of the arena that may be in use (index included); at most the arena's size.
    pub memory_bytes_max: usize,
    /// Largest value, in bytes (`-I`).
    pub value_bytes_max: usize,
    /// Most items, if bounded (trace replays).
    pub items_max: Option<u64>,
    /// Eviction policy.
    pub eviction: Eviction,
    /// Keep a version per item (off with `-C`).
    pub versions: bool,
    /// Keep the time of the last access per item, for meta `l` and `la=`.
    pub access_times: bool,
    /// Names of the configured namespaces.
    pub namespaces: Vec<String>,
    /// The byte that ends a namespace in a key.
    pub namespace_delimiter: u8,
    /// Most generations of tags kept before the oldest are folded together.
    pub tag_generations_max: usize,
    /// This node's region, 0 to 15.
    pub region: u8,
}

/// An item as a reader sees it. Borrowed from the shard.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Value length in bytes.
    pub value_bytes: u32,
    /// The first (mostly only) contiguous piece of the value.
    pub head: &'a [u8],
    // private: the rest of the chain
    /// Client flags.
    pub client_flags: u32,
    /// Expiry.
    pub expiry: Expiry,
    /// CAS unique: the version, or what the client set; 0 with `-C`.
    pub cas: u64,
    /// The key came in as base64 (meta `b`).
    pub binary_key: bool,
}

impl<'a> Item<'a> {
    /// Appends the whole value to `out`.
    pub fn copy_value_to(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!()
    }
    // pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]>
}

/// What a meta get asks beside the item.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// New expiry (gat, meta `T`).
    pub touch: Option<Expiry>,
    /// Create an empty, won item on a miss, with this expiry (meta `N`).
    pub vivify: Option<Expiry>,
    /// Hand out the right to refill when less than this many seconds are left (meta `R`).
    pub recache_seconds: Option<i64>,
    /// CAS to set on a vivified item (meta `E`).
    pub new_cas: Option<u64>,
    /// Do not count the access nor mark the item (meta `k`-only checks; see memcached's "no bump").
    pub no_bump: bool,
    /// The key is binary (meta `b`), recorded when the item is vivified.
    pub binary_key: bool,
}

/// What a read found.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// The item.
    pub item: Item<'a>,
    /// The reader won the right to refill (meta `W`).
    pub won: bool,
    /// The item is stale (meta `X`).
    pub stale: bool,
    /// Somebody else holds the right to refill (meta `Z`).
    pub token_sent: bool,
    /// The item was created by this read (meta `N`).
    pub vivified: bool,
    /// It had been read before (meta `h`).
    pub hit_before: bool,
    /// Seconds since its last access, or since its write without `access_times` (meta `l`).
    pub idle_seconds: u32,
}

/// How a write treats an existing item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Store always.
    Set,
    /// Only if absent.
    Add,
    /// Only if present.
    Replace,
    /// After the existing value.
    Append,
    /// Before the existing value.
    Prepend,
}

/// Where a written value comes from.
#[derive(Debug)]
pub enum Value<'a> {
    /// The bytes are at hand.
    Bytes(&'a [u8]),
    /// Chunks were reserved and filled before (large values).
    Reserved(Reservation),
}

/// A write.
#[derive(Debug)]
pub struct Write<'a> {
    /// How to treat an existing item.
    pub mode: WriteMode,
    /// The key, at most [`crate::KEY_BYTES_MAX`].
    pub key: &'a [u8],
    /// Its hash.
    pub hash: KeyHash,
    /// The value.
    pub value: Value<'a>,
    /// Client flags.
    pub client_flags: u32,
    /// Expiry.
    pub expiry: Expiry,
    /// Store only if the item's CAS equals this (classic `cas`, meta `C`).
    pub compare: Option<u64>,
    /// With `compare`: an older CAS still stores, but marks the item stale (meta `I`).
    pub invalidate_older: bool,
    /// CAS to set instead of the version (meta `E`).
    pub new_cas: Option<u64>,
    /// Append/prepend to a missing item stores it, with this expiry (meta `N`).
    pub vivify: Option<Expiry>,
    /// Tags to attach.
    pub tags: &'a [Tag],
    /// The key came in as base64 (meta `b`).
    pub binary_key: bool,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Stored; the CAS that the item has now.
    Stored {
        /// CAS unique of the stored item.
        cas: u64,
    },
    /// The mode's condition did not hold.
    NotStored,
    /// The CAS differs.
    Exists,
    /// A compare found no item.
    NotFound,
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// The value is longer than `-I` allows.
    TooLarge {
        /// Its length.
        value_bytes: u64,
        /// The limit.
        value_bytes_max: u64,
    },
    /// No chunk could be freed for it.
    OutOfMemory {
        /// Bytes asked for.
        value_bytes: u64,
    },
}

/// Chunks taken for a value that is still arriving. `Send`: another core may
/// fill it. It must go back by [`Shard::write`] or [`Shard::abort`].
#[derive(Debug)]
pub struct Reservation {}

impl Reservation {
    /// Copies as much of `bytes` as still fits; returns how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let _ = bytes;
        todo!()
    }
    /// Bytes still missing.
    pub fn missing(&self) -> usize {
        todo!()
    }
}

/// A value held in place while it is being sent. `Send`: another core may read
/// it. It must go back by [`Shard::unpin`].
#[derive(Debug)]
pub struct Pin {}

impl Pin {
    /// Value length in bytes.
    pub fn value_bytes(&self) -> usize {
        todo!()
    }
    /// Appends up to `len` bytes of the value from `offset` to `out`.
    pub fn copy_to(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let _ = (offset, len, out);
        todo!()
    }
}

/// A delete and its meta options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delete {
    /// Only if the CAS equals this (meta `C`).
    pub compare: Option<u64>,
    /// Mark stale instead of removing (meta `I`).
    pub invalidate: bool,
    /// With `invalidate`: the new expiry (meta `T`).
    pub expiry: Option<Expiry>,
    /// CAS to set on the stale item (meta `E`).
    pub new_cas: Option<u64>,
    /// Remove the value but keep the item (meta `x`).
    pub drop_value: bool,
}

/// How a delete ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// Removed, or marked stale.
    Deleted,
    /// The CAS differs.
    Exists,
    /// No such item.
    NotFound,
}

/// An increment or decrement.
#[derive(Clone, Copy, Debug)]
pub struct Arithmetic {
    /// By how much.
    pub delta: u64,
    /// Down (stopping at 0) instead of up (wrapping at 2^64).
    pub decrement: bool,
    /// Only if the CAS equals this.
    pub compare: Option<u64>,
    /// On a miss, store this number with this expiry.
    pub create: Option<(u64, Expiry)>,
    /// New expiry (meta `T`).
    pub touch: Option<Expiry>,
    /// CAS to set instead of the version (meta `E`).
    pub new_cas: Option<u64>,
    /// The key is binary (meta `b`).
    pub binary_key: bool,
}

/// How an increment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithmeticOutcome {
    /// The number stored now.
    Number {
        /// The number.
        value: u64,
        /// CAS unique of the item now.
        cas: u64,
        /// Its expiry.
        expiry: Expiry,
        /// It was created.
        created: bool,
    },
    /// No such item.
    NotFound,
    /// The value is not a decimal 64-bit number.
    NotNumeric,
    /// The CAS differs.
    Exists,
}

/// One core's cache.
#[derive(Debug)]
pub struct Shard {}

#[allow(unused_variables)]
impl Shard {
    /// Builds a shard over `arena`.
    pub fn new(config: ShardConfig, arena: Arena) -> Shard {
        todo!()
    }
    /// Bounded background work of one loop turn: expiry wheel, delayed flush,
    /// page moves, sweeps. At most about 50 us. True if more is waiting.
    pub fn maintain(&mut self, now: Now) -> bool {
        todo!()
    }
    /// Starts loading the cache lines that a request for `hash` will touch.
    pub fn prefetch(&self, hash: KeyHash) {
        todo!()
    }
    /// Plain get: counts, bumps.
    pub fn get(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Option<Item<'_>> {
        todo!()
    }
    /// Get with touch and the lease options.
    pub fn read(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        now: Now,
        options: &ReadOptions,
    ) -> Result<Option<Read<'_>>, StoreError> {
        todo!()
    }
    /// Stores.
    pub fn write(&mut self, write: Write<'_>, now: Now) -> Result<WriteOutcome, StoreError> {
        todo!()
    }
    /// Takes chunks for a value that will arrive in pieces.
    pub fn reserve(
        &mut self,
        key: &[u8],
        value_bytes: usize,
        now: Now,
    ) -> Result<Reservation, StoreError> {
        todo!()
    }
    /// Gives unfilled chunks back.
    pub fn abort(&mut self, reservation: Reservation) {
        todo!()
    }
    /// Holds the value of `key` in place (no counting, no bump).
    pub fn pin(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Option<Pin> {
        todo!()
    }
    /// Lets a pinned value go.
    pub fn unpin(&mut self, pin: Pin) {
        todo!()
    }
    /// Deletes, or marks stale.
    pub fn delete(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        now: Now,
        options: &Delete,
    ) -> DeleteOutcome {
        todo!()
    }
    /// Counts up or down.
    pub fn arithmetic(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        now: Now,
        options: &Arithmetic,
    ) -> Result<ArithmeticOutcome, StoreError> {
        todo!()
    }
    /// Sets the expiry; false if there is no such item.
    pub fn touch(&mut self, key: &[u8], hash: KeyHash, now: Now, expiry: Expiry) -> bool {
        todo!()
    }
    /// Everything written up to `at` (now, or later) dies at `at`.
    pub fn flush(&mut self, at: Now, now: Now) {
        todo!()
    }
    /// Everything tagged `tag` so far is dead. Its generation.
    pub fn invalidate_tag(&mut self, tag: Tag, now: Now) -> Version {
        todo!()
    }
    /// Everything in the namespace so far is dead; `None` if it is not configured.
    pub fn invalidate_namespace(&mut self, name: &[u8], now: Now) -> Option<Version> {
        todo!()
    }
}
