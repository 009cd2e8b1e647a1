//! Memory: where chunks come from when there are none, and where they go.
//!
//! A chunk comes from a page of its class with room, from a free page, from an
//! eviction in the class, or, where the class has nothing to give, from a page
//! of another class that is emptied for it.

use super::Shard;
use crate::chain::{self, ChunkKind, PieceLinks};
use crate::events::{Event, Evicted};
use crate::generation::Liveness;
use crate::index::Room;
use crate::item::{self, FETCHED, TTL, View};
use crate::slab::page::Map;
use crate::{ChunkRef, ClassId, Eviction, Expiry, KeyHash};
use alloc::vec::Vec;

/// Longer chains are evicted when their head must move: every piece names it.
const CHAIN_MOVED_BYTES_MAX: usize = 1 << 20;
/// Pages looked at for the one that loses least.
const PAGES_COMPARED: usize = 8;

impl Shard {
    // ---- Taking.

    /// A chunk of the class, marked as taken. Evicts for it.
    pub(super) fn take_chunk(&mut self, class: ClassId) -> Option<ChunkRef> {
        loop {
            if let Some(page) = self.store.slab.page_with_room(class) {
                if self.store.slab.flush_sequence_of(ChunkRef::new(page, 0))
                    != self.store.slab.flush_sequence
                {
                    self.refresh_page(page, ChunkRef::NONE);
                    continue;
                }
                if let Some(at) = self.store.slab.take_chunk(class) {
                    chain::mark_taken(&mut self.store.slab, at);
                    return Some(at);
                }
            }
            self.apply_memory_limit();
            if self.store.slab.add_page(class) {
                continue;
            }
            if !self.free_some(class) {
                return None;
            }
        }
    }

    /// Frees something in the class, or a page for it.
    fn free_some(&mut self, class: ClassId) -> bool {
        if !self.evicts() {
            return self.free_dead();
        }
        if self.evict_from(class) {
            self.consider_move(class);
            return true;
        }
        self.free_page_of_another()
    }

    /// Evicts one item of the class.
    fn evict_from(&mut self, class: ClassId) -> bool {
        let Some(at) = self.policy.victim(&mut self.store, class) else { return false };
        self.evict(at);
        true
    }

    /// Frees an item that the policy has let go.
    fn evict(&mut self, at: ChunkRef) {
        let view = View::of(&self.store.slab, at);
        let liveness = self.store.liveness(at, &view);
        let hash = KeyHash::of(view.key(&self.store.slab), &self.config.seed);
        let unfetched = u64::from(view.flags & FETCHED == 0);
        let class = self.class_mut(at);
        match liveness {
            Liveness::Live => {
                class.evicted += 1;
                class.evicted_unfetched += unfetched;
                class.evicted_nonzero += u64::from(view.flags & TTL != 0);
                self.counters.evictions += 1;
                self.counters.evicted_unfetched += unfetched;
                if self.events.is_some() {
                    self.tell_evicted(at, &view);
                }
            }
            dead => {
                class.reclaimed += 1;
                self.counters.reclaimed += 1;
                self.count_dead(at, dead, unfetched);
            }
        }
        self.index.remove(hash, at);
        self.forget_bytes(at);
        self.free_unlinked(at);
    }

    /// Tells the watchers of an item that leaves alive.
    #[cold]
    fn tell_evicted(&mut self, at: ChunkRef, view: &View) {
        let (slab, now) = (&self.store.slab, self.store.now);
        let expiry = view.expiry(slab);
        let evicted = Evicted {
            key: view.key(slab),
            fetched: view.flags & FETCHED != 0,
            ttl_seconds: (expiry != Expiry::NEVER)
                .then(|| (expiry.0 / 1000).saturating_sub(now.seconds())),
            idle_seconds: self.idle_seconds(view, now),
            class: slab.class_of(at),
            value_bytes: view.value_bytes as u32,
        };
        if let Some(events) = &mut self.events {
            events.note(Event::Evicted(evicted));
        }
    }

    /// Tells the watchers what the shard did for itself.
    pub(super) fn tell(&mut self, event: Event<'_>) {
        if let Some(events) = &mut self.events {
            events.note(event);
        }
    }

    fn count_dead(&mut self, at: ChunkRef, dead: Liveness, unfetched: u64) {
        if dead == Liveness::Expired {
            self.counters.expired_unfetched += unfetched;
            self.class_mut(at).expired_unfetched += unfetched;
        }
    }

    /// Room in the index for one more item.
    pub(super) fn make_index_room(&mut self, hash: KeyHash, replaces: bool) -> Option<()> {
        if replaces {
            return Some(());
        }
        if self.config.items_max.is_some_and(|items_max| self.index.len() >= items_max) {
            self.keep_items_max();
        }
        loop {
            match self.index.make_room(hash, &self.store) {
                Room::Ready => return Some(()),
                Room::Full => return None,
                Room::NeedsPage => {}
            }
            self.apply_memory_limit();
            match self.store.slab.take_index_page() {
                // SAFETY: the slab gave the page away for good, and the arena
                // outlives the index (the order of the shard's fields).
                Some(page) => unsafe { self.index.donate(page) },
                None if self.evicts() && self.free_page_of_another() => {}
                None => return None,
            }
        }
    }

    /// Evicts while there are as many items as allowed, so that one more fits.
    fn keep_items_max(&mut self) {
        let Some(items_max) = self.config.items_max else { return };
        while self.index.len() >= items_max.max(1) && self.evicts() {
            // The classes take turns by their size.
            let largest = (0..self.store.slab.classes.len())
                .max_by_key(|class| self.store.slab.classes[*class].live)
                .map(|class| ClassId(class as u8));
            let Some(class) = largest else { return };
            if !self.evict_from(class) {
                return;
            }
        }
    }

    // ---- Giving back.

    /// Frees an item that lookup found dead.
    pub(super) fn discard_dead(
        &mut self,
        at: ChunkRef,
        hash: KeyHash,
        view: &View,
        dead: Liveness,
    ) {
        match dead {
            Liveness::Expired => {
                self.changes += 1;
                self.counters.get_expired += 1;
            }
            Liveness::Invalidated | Liveness::Live => self.counters.get_flushed += 1,
        }
        self.count_dead(at, dead, u64::from(view.flags & FETCHED == 0));
        self.unlink(at, hash);
    }

    /// Frees a dead item ahead of any request for it.
    pub(super) fn sweep_dead(&mut self, at: ChunkRef, dead: Liveness) {
        let view = View::of(&self.store.slab, at);
        self.counters.swept += 1;
        self.class_mut(at).swept_free += 1;
        self.count_dead(at, dead, u64::from(view.flags & FETCHED == 0));
        let hash = KeyHash::of(view.key(&self.store.slab), &self.config.seed);
        self.unlink(at, hash);
    }

    /// Removes an item from the index and frees it.
    pub(super) fn unlink(&mut self, at: ChunkRef, hash: KeyHash) {
        let class = self.store.slab.class_of(at);
        self.policy.removed(&mut self.store, class, at);
        self.index.remove(hash, at);
        self.forget_bytes(at);
        self.free_unlinked(at);
    }

    /// Frees an item that neither index nor policy know any more.
    pub(super) fn free_unlinked(&mut self, at: ChunkRef) {
        let next = View::of(&self.store.slab, at).next;
        self.store.slab.set_live(at, false);
        if self.store.pins.holds(at) {
            self.store.pins.orphan(at);
            chain::mark_taken(&mut self.store.slab, at);
        } else {
            self.free_chunks(at, next);
        }
    }

    /// Frees a head chunk and the pieces from `next` on.
    pub(super) fn free_chunks(&mut self, head: ChunkRef, next: ChunkRef) {
        let mut at = next;
        while at != ChunkRef::NONE {
            let next = chain::piece_links(&self.store.slab, at).next;
            self.free_chunk(at);
            at = next;
        }
        self.free_chunk(head);
    }

    fn free_chunk(&mut self, at: ChunkRef) {
        if self.store.slab.free_chunk(at) {
            self.release_page(at.page());
        }
    }

    /// Gives an empty page back.
    pub(super) fn release_page(&mut self, page: u32) {
        self.forget_due(page);
        self.counters.slabs_moved += u64::from(self.store.slab.header(page).closed);
        self.store.slab.release_page(page);
    }

    /// Counts the bytes of a linked item.
    pub(super) fn count_bytes(&mut self, at: ChunkRef) {
        let bytes = item::bytes(&self.store.slab, at) as u64;
        self.bytes += bytes;
        self.class_mut(at).mem_requested += bytes;
        if let Some(sizes) = &mut self.sizes {
            sizes.add(at, bytes as usize);
        }
    }

    /// Takes the bytes of an item off the count.
    pub(super) fn forget_bytes(&mut self, at: ChunkRef) {
        let bytes = item::bytes(&self.store.slab, at) as u64;
        self.bytes -= bytes;
        let class = self.class_mut(at);
        class.mem_requested -= bytes;
        if let Some(sizes) = &mut self.sizes {
            sizes.remove(at, bytes as usize);
        }
    }

    // ---- Whole pages.

    /// Empties a page of some class, whoever loses least by it.
    pub(super) fn free_page_of_another(&mut self) -> bool {
        // First the classes whose evicted items were missed least, for the
        // pages that they have; last those that have a single one.
        let mut order: Vec<(bool, u64, u8)> = Vec::with_capacity(self.store.slab.classes.len());
        for (number, pages) in self.store.slab.classes.iter().enumerate() {
            let count = pages.ring.len() as u64;
            if count > 0 {
                let ghost_hits = u64::from(self.policy.ghost_hits(ClassId(number as u8)));
                order.push((count == 1, ((ghost_hits + 1) << 16) / count, number as u8));
            }
        }
        order.sort_unstable();
        for (_, _, class) in order {
            if let Some(page) = self.cheapest_page(ClassId(class)) {
                self.empty_page(page);
                self.tell(Event::PageMoved { from: ClassId(class), to: None });
                return true;
            }
        }
        false
    }

    /// The page of the class that loses least, among some; none of whose
    /// chunks is busy.
    pub(super) fn cheapest_page(&mut self, class: ClassId) -> Option<u32> {
        let pages = self.store.slab.classes[usize::from(class.0)].ring.len();
        let start = self.donor;
        self.donor = self.donor.wrapping_add(PAGES_COMPARED);
        let mut best: Option<(u32, u32)> = None;
        for step in 0..pages {
            let ring = &self.store.slab.classes[usize::from(class.0)].ring;
            let page = ring[start.wrapping_add(step) % pages];
            let header = self.store.slab.header(page);
            let worth = u32::from(header.hot) * 4 + u32::from(header.used);
            if best.is_none_or(|(least, _)| worth < least)
                && header.closed == 0
                && !self.page_is_busy(page)
            {
                best = Some((worth, page));
            }
            if step >= PAGES_COMPARED && best.is_some() {
                break;
            }
        }
        best.map(|(_, page)| page)
    }

    /// Whether something in the page can be neither freed nor moved now.
    fn page_is_busy(&self, page: u32) -> bool {
        let mut slot = 0;
        while let Some(at) = self.store.slab.next_used(page, slot) {
            if self.store.is_busy(at) {
                return true;
            }
            slot = at.slot() + 1;
        }
        false
    }

    /// Frees or moves everything in a page, and frees it. Nothing in it is busy.
    fn empty_page(&mut self, page: u32) {
        if self.store.slab.header(page).used == 0 {
            return self.release_page(page);
        }
        self.store.slab.close_page(page);
        let mut slot = 0;
        while self.store.slab.page_class(page).is_some() && self.store.slab.header(page).closed == 1
        {
            let Some(at) = self.store.slab.next_used(page, slot) else {
                debug_assert!(false, "an emptied page is released with its last chunk");
                self.store.slab.open_page(page);
                return;
            };
            slot = at.slot() + 1;
            self.vacate(at);
        }
    }

    /// Empties a chunk of a closed page: what is dead or was not asked for
    /// goes, the rest moves to free chunks of its class as long as there are.
    pub(super) fn vacate(&mut self, at: ChunkRef) {
        if self.store.is_busy(at) {
            return;
        }
        let piece = chain::kind(&self.store.slab, at) == ChunkKind::Piece;
        let head = if piece { chain::piece_links(&self.store.slab, at).head } else { at };
        let view = View::of(&self.store.slab, head);
        match self.store.liveness(head, &view) {
            Liveness::Live => {}
            dead => return self.sweep_dead(head, dead),
        }
        let wanted = self.is_wanted(head);
        let moved = wanted && if piece { self.move_piece(at) } else { self.move_item(at, &view) };
        if moved {
            self.counters.slab_move_rescues += 1;
        } else {
            self.evict_from_moved_page(head);
        }
    }

    /// Whether the item was asked for lately, as far as the policy can tell
    /// without its own order (an LRU has nothing else: then everything is).
    fn is_wanted(&self, at: ChunkRef) -> bool {
        let mark = item::mark(&self.store.slab, at);
        match self.config.eviction {
            Eviction::Lru | Eviction::None => true,
            // The write was the first access.
            Eviction::Lfu => mark > 1,
            Eviction::ClockPro | Eviction::S3Fifo => {
                self.store.slab.bit(at, Map::Hot) || mark & 3 != 0
            }
        }
    }

    /// Copies an item into a free chunk of its class, if there is one.
    fn move_item(&mut self, at: ChunkRef, view: &View) -> bool {
        if view.is_chained() && view.value_bytes > CHAIN_MOVED_BYTES_MAX {
            return false;
        }
        let hash = self.store.hash_of(at);
        let class = self.store.slab.class_of(at);
        let Some(to) = self.take_free_chunk(class) else { return false };
        let slab = &mut self.store.slab;
        let ((from_offset, chunk_bytes), to_offset) = (slab.locate(at), slab.offset(to));
        slab.arena.copy(from_offset, to_offset, chunk_bytes);
        let mut piece = view.next;
        if piece != ChunkRef::NONE {
            let links = chain::piece_links(slab, piece);
            chain::set_piece_links(slab, piece, PieceLinks { previous: to, ..links });
        }
        while piece != ChunkRef::NONE {
            let links = chain::piece_links(slab, piece);
            chain::set_piece_links(slab, piece, PieceLinks { head: to, ..links });
            piece = links.next;
        }
        slab.set_live(to, true);
        self.index.replace(hash, at, to);
        if let Some(sizes) = &mut self.sizes {
            sizes.remove(at, view.bytes());
            sizes.add(to, view.bytes());
        }
        self.policy.moved(&mut self.store, class, at, class, to);
        self.note_expiry(to, view.expiry(&self.store.slab));
        self.store.slab.set_live(at, false);
        self.free_chunk(at);
        true
    }

    /// Copies a piece of a chain into a free chunk of its class, if there is one.
    fn move_piece(&mut self, at: ChunkRef) -> bool {
        let class = self.store.slab.class_of(at);
        let Some(to) = self.take_free_chunk(class) else { return false };
        let slab = &mut self.store.slab;
        let ((from_offset, chunk_bytes), to_offset) = (slab.locate(at), slab.offset(to));
        slab.arena.copy(from_offset, to_offset, chunk_bytes);
        let links = chain::piece_links(slab, to);
        if links.previous == links.head {
            View::of(slab, links.head).set_next(slab, to);
        } else {
            let before = chain::piece_links(slab, links.previous);
            chain::set_piece_links(slab, links.previous, PieceLinks { next: to, ..before });
        }
        if links.next != ChunkRef::NONE {
            let after = chain::piece_links(slab, links.next);
            chain::set_piece_links(slab, links.next, PieceLinks { previous: to, ..after });
        }
        self.free_chunk(at);
        true
    }

    /// A free chunk of the class, if there is one: nothing is freed for it.
    fn take_free_chunk(&mut self, class: ClassId) -> Option<ChunkRef> {
        let page = self.store.slab.page_with_room(class)?;
        if self.store.slab.flush_sequence_of(ChunkRef::new(page, 0))
            != self.store.slab.flush_sequence
        {
            return None;
        }
        self.store.slab.take_chunk(class)
    }

    fn evict_from_moved_page(&mut self, at: ChunkRef) {
        self.counters.slab_move_evictions += 1;
        self.counters.evictions += 1;
        let view = View::of(&self.store.slab, at);
        let unfetched = u64::from(view.flags & FETCHED == 0);
        self.counters.evicted_unfetched += unfetched;
        let class = self.class_mut(at);
        class.evicted += 1;
        class.evicted_unfetched += unfetched;
        class.evicted_nonzero += u64::from(view.flags & TTL != 0);
        if self.events.is_some() {
            self.tell_evicted(at, &view);
        }
        let hash = self.store.hash_of(at);
        self.unlink(at, hash);
    }

    // ---- Flush without versions.

    /// Frees what a flush left in a page, so that new items may go there.
    /// `except` is already new.
    pub(super) fn refresh_page(&mut self, page: u32, except: ChunkRef) {
        let mut slot = 0;
        while self.store.slab.page_class(page).is_some() {
            let Some(at) = self.store.slab.next_in_page(page, slot, Map::Live) else { break };
            slot = at.slot() + 1;
            let view = View::of(&self.store.slab, at);
            match self.store.liveness(at, &view) {
                _ if at == except => {}
                Liveness::Live => {}
                dead => self.sweep_dead(at, dead),
            }
        }
        if self.store.slab.page_class(page).is_some() {
            self.store.slab.set_flush_sequence(page);
        }
    }

    /// Frees every item without a version, whatever its page says, and lets all
    /// pages say the same.
    pub(super) fn free_unversioned(&mut self) {
        for page in 0..self.store.slab.pages_touched() {
            let mut slot = 0;
            while self.store.slab.page_class(page).is_some() {
                let Some(at) = self.store.slab.next_in_page(page, slot, Map::Live) else { break };
                slot = at.slot() + 1;
                if View::of(&self.store.slab, at).version(&self.store.slab).is_none() {
                    self.sweep_dead(at, Liveness::Invalidated);
                }
            }
            if self.store.slab.page_class(page).is_some() {
                self.store.slab.set_flush_sequence(page);
            }
        }
    }

    /// For shards that evict nothing: looks for dead items in a few pages (the
    /// wheel finds most of them ahead). False if there were none.
    fn free_dead(&mut self) -> bool {
        let pages = self.store.slab.pages_touched();
        for _ in 0..pages.min(PAGES_COMPARED as u32) {
            self.dead_page = if self.dead_page + 1 < pages { self.dead_page + 1 } else { 0 };
            let swept = self.counters.swept;
            let (page, mut slot) = (self.dead_page, 0);
            while self.store.slab.page_class(page).is_some() {
                let Some(at) = self.store.slab.next_in_page(page, slot, Map::Live) else { break };
                slot = at.slot() + 1;
                let view = View::of(&self.store.slab, at);
                match self.store.liveness(at, &view) {
                    Liveness::Live => {}
                    _ if self.store.is_busy(at) => {}
                    dead => self.sweep_dead(at, dead),
                }
            }
            if self.counters.swept != swept {
                return true;
            }
        }
        false
    }
}
