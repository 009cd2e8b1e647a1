//! What a shard counts.
//!
//! Plain numbers, copied out on demand and added up over cores with `+=`; the
//! names are those of memcached's `stats` where it has one.

use core::ops::AddAssign;

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: u64,)*
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: $name) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
    /// What happened in a shard since its start, or since the last reset.
    Counters {
        /// Lookups by reads.
        cmd_get,
        /// Reads that found an item.
        get_hits,
        /// Reads that found none.
        get_misses,
        /// Lookups that met an expired item.
        get_expired,
        /// Lookups that met an item older than a flush or an invalidation.
        get_flushed,
        /// Writes that ask to store an item.
        cmd_set,
        /// Touches, alone or with a read.
        cmd_touch,
        /// Touches that found an item.
        touch_hits,
        /// Touches that found none.
        touch_misses,
        /// Deletes that removed an item.
        delete_hits,
        /// Deletes that found none, or another CAS.
        delete_misses,
        /// Increments of an item.
        incr_hits,
        /// Increments of a missing key.
        incr_misses,
        /// Decrements of an item.
        decr_hits,
        /// Decrements of a missing key.
        decr_misses,
        /// Compares that matched.
        cas_hits,
        /// Compares without an item.
        cas_misses,
        /// Compares that did not match.
        cas_badval,
        /// Items stored, ever.
        total_items,
        /// Live items that left to make room.
        evictions,
        /// Of those, never read.
        evicted_unfetched,
        /// Dead items whose memory a new item took.
        reclaimed,
        /// Items that expired without having been read.
        expired_unfetched,
        /// Items that the expiry wheel or a sweep freed ahead of eviction.
        swept,
        /// Writes refused as too large.
        store_too_large,
        /// Writes refused for want of memory.
        store_no_memory,
        /// Writes of a peer that were older than what was there.
        merges_refused,
        /// Pages moved from one class to another.
        slabs_moved,
        /// Items evicted because their page moved.
        slab_move_evictions,
        /// Items copied because their page moved.
        slab_move_rescues,
        /// Tag generations folded into the floor.
        tag_generations_folded,
    }
}

counters! {
    /// How much is in a shard now.
    Gauges {
        /// Items that are stored.
        curr_items,
        /// Their bytes, headers included.
        bytes,
        /// Bytes that may be in use.
        limit_maxbytes,
        /// Bytes in use: pages and tables.
        memory_bytes,
        /// Of those, index pages and tables.
        index_bytes,
        /// Of those, the policy's heap (ghosts).
        policy_bytes,
        /// Pages of classes.
        pages,
        /// Pages that could still be taken.
        pages_free,
        /// Values held by answers being sent.
        pinned,
        /// Chunks given to values still arriving.
        reserved,
        /// Invalidated tags that are remembered.
        tag_generations,
    }
}

counters! {
    /// What happened in a size class.
    ClassCounters {
        /// Reads that hit.
        get_hits,
        /// Writes that ask to store an item.
        cmd_set,
        /// Deletes that hit.
        delete_hits,
        /// Increments that hit.
        incr_hits,
        /// Decrements that hit.
        decr_hits,
        /// Compares that matched.
        cas_hits,
        /// Compares that did not.
        cas_badval,
        /// Touches that hit.
        touch_hits,
        /// Live items that left to make room.
        evicted,
        /// Of those, with an expiry.
        evicted_nonzero,
        /// Of those, never read.
        evicted_unfetched,
        /// Expired without having been read.
        expired_unfetched,
        /// Dead items whose memory a new item took.
        reclaimed,
        /// Writes refused for want of memory.
        out_of_memory,
        /// Bytes that items of this class asked for.
        mem_requested,
        /// Chunks of dead items that were freed ahead, and no new item has taken.
        swept_free,
    }
}

/// A size class now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Chunks in a page.
    pub chunks_per_page: u64,
    /// Pages of the class.
    pub pages: u64,
    /// Chunks in use.
    pub used_chunks: u64,
    /// Items of the class.
    pub items: u64,
    /// Items that the policy calls hot.
    pub hot: u64,
    /// Evicted items asked for again, lately.
    pub ghost_hits: u64,
    /// Seconds since the last access (since the write, where that is not kept)
    /// of the items next to be evicted: the oldest of a few. 0 where nothing
    /// is dated.
    pub age_seconds: u64,
    /// The same of the hot items that would lose their standing next.
    pub age_hot_seconds: u64,
    /// What happened.
    pub counters: ClassCounters,
}

impl AddAssign for ClassStats {
    /// Adds what can be added; both must describe the same class.
    fn add_assign(&mut self, other: ClassStats) {
        self.chunk_bytes = self.chunk_bytes.max(other.chunk_bytes);
        self.chunks_per_page = self.chunks_per_page.max(other.chunks_per_page);
        self.pages += other.pages;
        self.used_chunks += other.used_chunks;
        self.items += other.items;
        self.hot += other.hot;
        self.ghost_hits += other.ghost_hits;
        self.age_seconds = self.age_seconds.max(other.age_seconds);
        self.age_hot_seconds = self.age_hot_seconds.max(other.age_hot_seconds);
        self.counters += other.counters;
    }
}

/// Counters and gauges of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// What happened.
    pub counters: Counters,
    /// What is there.
    pub gauges: Gauges,
}

impl AddAssign for ShardStats {
    fn add_assign(&mut self, other: ShardStats) {
        self.counters += other.counters;
        self.gauges += other.gauges;
    }
}
