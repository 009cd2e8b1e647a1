//! The words of the verbs: what goes into a [`Shard`](crate::Shard) and what
//! comes out.

use crate::chain::Reservation;
use crate::{CasForm, ClassId, Expiry, HashSeed, KeyHash, Tag};
use alloc::{string::String, vec::Vec};

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
    /// S3-FIFO: three queues.
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
    /// Show CAS uniques of 32 bits.
    pub short_cas: bool,
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
    /// For so long, what has expired is not freed ahead of requests, unless its room
    /// is wanted: who comes across it counts as a [change](crate::Shard::changes).
    pub expired_kept_ms: u64,
}

impl ShardConfig {
    /// How CAS uniques look.
    #[inline]
    pub fn cas_form(&self) -> CasForm {
        match (self.versions, self.short_cas) {
            (false, _) => CasForm::None,
            (true, false) => CasForm::Version,
            (true, true) => CasForm::Short,
        }
    }

    /// What a daemon's core has by default, in so many bytes.
    pub fn new(seed: HashSeed, memory_bytes_max: usize) -> ShardConfig {
        ShardConfig {
            seed,
            memory_bytes_max,
            value_bytes_max: 1 << 20,
            items_max: None,
            eviction: Eviction::ClockPro,
            versions: true,
            short_cas: false,
            access_times: false,
            namespaces: Vec::new(),
            namespace_delimiter: b':',
            tag_generations_max: 1 << 16,
            region: 0,
            expired_kept_ms: 0,
        }
    }
}

/// What a meta get asks beside the item.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ReadOptions {
    /// New expiry (gat, meta `T`).
    pub touch: Option<Expiry>,
    /// Create an empty, won item on a miss, with this expiry (meta `N`);
    /// `touch` does not apply to it.
    pub vivify: Option<Expiry>,
    /// Hand out the right to refill when less than this many seconds are left (meta `R`).
    pub recache_seconds: Option<i64>,
    /// CAS to set on a vivified item (meta `E`).
    pub new_cas: Option<u64>,
    /// Do not count the access nor mark the item (meta `k`-only checks; see memcached's "no bump").
    pub no_bump: bool,
    /// The key is binary (meta `b`), recorded when the item is vivified.
    pub binary_key: bool,
    /// With `touch` and `recache_seconds`: the right to refill depends on the
    /// expiry before the touch (the flags came in this order).
    pub recache_before_touch: bool,
    /// A read of a protocol that knows no leases (`gat`): the right to refill
    /// a stale item is not handed out.
    pub classic: bool,
    /// The value is wanted (meta `v`).
    pub value: bool,
    /// The value is not wanted of an item with this CAS (meta `C`).
    pub unless_cas: Option<u64>,
    /// When and whether the item was read before is wanted (meta `h`, `l`): it is shown
    /// anyway, but known only where the item is read.
    pub history: bool,
}

impl ReadOptions {
    /// Whether it leaves an item that is neither stale nor somebody's to refill as it is.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.touch.is_none()
            && self.vivify.is_none()
            && self.recache_seconds.is_none()
            && self.new_cas.is_none()
    }
}

/// How a write treats an existing item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// When the item expires.
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

impl<'a> Write<'a> {
    /// A plain `set` of an item that never expires.
    pub fn set(key: &'a [u8], hash: KeyHash, value: Value<'a>) -> Write<'a> {
        Write {
            mode: WriteMode::Set,
            key,
            hash,
            value,
            client_flags: 0,
            expiry: Expiry::NEVER,
            compare: None,
            invalidate_older: false,
            new_cas: None,
            vivify: None,
            tags: &[],
            binary_key: false,
        }
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Stored; the CAS that the item has now.
    Stored {
        /// CAS unique of the stored item.
        cas: u64,
        /// Bytes of its value, what it was extended by included.
        value_bytes: usize,
        /// Its expiry.
        expiry: Expiry,
        /// Its size class.
        class: ClassId,
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

/// A delete and its meta options.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Delete {
    /// Only if the CAS equals this (meta `C`).
    pub compare: Option<u64>,
    /// Mark stale instead of removing (meta `I`).
    pub invalidate: bool,
    /// With `invalidate` or `drop_value`: the new expiry (meta `T`).
    pub expiry: Option<Expiry>,
    /// CAS to set on the stale item (meta `E`).
    pub new_cas: Option<u64>,
    /// Replace the item by one without a value (meta `x`). Its expiry is
    /// `expiry`, or never.
    pub drop_value: bool,
    /// Client flags of that item (meta `F`).
    pub client_flags: u32,
}

/// How a delete ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// Removed, or marked stale.
    Deleted {
        /// Size class of the item.
        class: ClassId,
        /// Length of its value.
        value_bytes: u32,
    },
    /// The CAS differs.
    Exists,
    /// No such item.
    NotFound,
}

/// An increment or decrement.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Arithmetic {
    /// By how much.
    pub delta: u64,
    /// Down (stopping at 0) instead of up (wrapping at 2^64).
    pub decrement: bool,
    /// Only if the CAS equals this.
    pub compare: Option<u64>,
    /// On a miss, store this number with this expiry; `touch` does not apply.
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
        /// Its expiry before; never for an item that was created.
        expiry_before: Expiry,
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
