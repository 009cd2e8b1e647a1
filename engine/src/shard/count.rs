//! What a shard tells about itself.

use super::Shard;
use crate::item::View;
use crate::slab::arena::PAGE_BYTES;
use crate::stats::{ClassCounters, ClassStats, Counters, Gauges, ShardStats};
use crate::{ClassId, HotKey, Now};
use alloc::vec::Vec;

/// Items of a class that are looked at for its age, cold and hot each.
const AGE_LOOKS: usize = 4;

impl Shard {
    /// Counters and gauges.
    pub fn stats(&self) -> ShardStats {
        let slab = &self.store.slab;
        let mut counters = self.counters;
        counters.tag_generations_folded = self.store.generations.folded;
        let index_heap = self.index.heap_bytes() as u64;
        let heap = self.heap_bytes() as u64;
        let gauges = Gauges {
            curr_items: self.index.len(),
            bytes: self.bytes,
            limit_maxbytes: self.config.memory_bytes_max as u64,
            memory_bytes: u64::from(slab.pages_used) * PAGE_BYTES as u64 + heap,
            index_bytes: u64::from(slab.pages_index) * PAGE_BYTES as u64 + index_heap,
            policy_bytes: self.policy.bytes() as u64,
            pages: u64::from(slab.pages_used - slab.pages_index),
            pages_free: u64::from(slab.pages_max.saturating_sub(slab.pages_used)),
            pinned: self.store.pins.len() as u64,
            reserved: self.reserved,
            tag_generations: self.store.generations.tags() as u64,
        };
        ShardStats { counters, gauges }
    }

    /// Every size class, also those without pages.
    pub fn class_stats(&self) -> Vec<ClassStats> {
        let slab = &self.store.slab;
        (0..slab.table.len())
            .map(|number| {
                let class = ClassId(number as u8);
                let (facts, pages) = (slab.table.get(class), &slab.classes[number]);
                let [age_seconds, age_hot_seconds] = self.ages(class);
                ClassStats {
                    chunk_bytes: u64::from(facts.chunk_bytes),
                    chunks_per_page: u64::from(facts.slots),
                    pages: pages.ring.len() as u64,
                    used_chunks: pages.used,
                    items: pages.live,
                    hot: pages.hot,
                    ghost_hits: u64::from(self.policy.ghost_hits(class)),
                    age_seconds,
                    age_hot_seconds,
                    counters: self.class_counters[number],
                }
            })
            .collect()
    }

    /// For how long the cold and the hot items of a class have not been asked
    /// for that the policy would look at next.
    fn ages(&self, class: ClassId) -> [u64; 2] {
        let slab = &self.store.slab;
        let pages = &slab.classes[usize::from(class.0)];
        let mut ages = [0; 2];
        // A walk to the next hot item is long where there is none.
        let wanted = [pages.live > pages.hot, pages.hot > 0];
        self.policy.next_in_line(&self.store, class, wanted, AGE_LOOKS, &mut |hot, at| {
            let idle = self.idle_seconds(&View::of(slab, at), self.store.now);
            let age = &mut ages[usize::from(hot)];
            *age = u64::from(idle).max(*age);
        });
        ages
    }

    /// Items by size: sizes rounded up to a multiple of 32, and how many there
    /// are of each. `None` unless [`track_sizes`](Shard::track_sizes) is on.
    pub fn sizes(&self) -> Option<Vec<(u64, u64)>> {
        self.sizes.as_ref().map(|sizes| sizes.list())
    }

    /// Sets what happened back to nothing; what is there stays.
    pub fn reset_stats(&mut self) {
        self.counters = Counters::default();
        for class in &mut self.class_counters {
            *class = ClassCounters {
                mem_requested: class.mem_requested,
                swept_free: class.swept_free,
                ..ClassCounters::default()
            };
        }
    }

    /// Number of items.
    pub fn len(&self) -> u64 {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// Bytes in use: pages and tables.
    pub fn memory_bytes(&self) -> usize {
        self.store.slab.pages_used as usize * PAGE_BYTES + self.heap_bytes()
    }

    /// The most bytes that [`set_memory_max`](Shard::set_memory_max) can allow.
    pub fn arena_bytes(&self) -> usize {
        self.store.slab.pages() as usize * PAGE_BYTES
    }

    /// Changes how many bytes may be in use (`cache_memlimit`), at most the
    /// arena's size. A smaller limit is reached by [`maintain`](Shard::maintain),
    /// slice by slice.
    pub fn set_memory_max(&mut self, bytes: usize) {
        self.config.memory_bytes_max = bytes;
        self.apply_memory_limit();
    }

    /// A range of the arena (offset, length) that is free and beyond the limit,
    /// so that its memory can be given back to the system.
    pub fn take_released(&mut self) -> Option<(usize, usize)> {
        self.store.slab.take_released()
    }

    /// The keys that take most requests now.
    pub fn hot_keys(&self, now: Now) -> Vec<HotKey<'_>> {
        self.hot.top(now)
    }
}
