//! Pages and chunks: who owns which bytes of the arena.
//!
//! The slab knows free pages, the pages of each class, and which chunks of a
//! page are used, live and hot. It knows no keys: items are written into
//! chunks by `item`, named by the index, and chosen for eviction by the policy.
//!
//! A page belongs to nobody (free), to the index, or to a class. Pages in use
//! never exceed `pages_max`; when the limit shrinks, pages freed afterwards
//! are reported to the caller, who gives their memory back to the system.

pub(crate) mod arena;
pub(crate) mod class;
pub(crate) mod page;

use crate::{ChunkRef, ClassId};
use alloc::vec::Vec;
use arena::{Arena, PAGE_BYTES};
use class::{Class, ClassTable};
use page::{HEADER_BYTES, Map, PageHeader, next_bit};

/// No page.
pub(crate) const NO_PAGE: u32 = u32::MAX;
/// Class number of a page that belongs to no class.
const NO_CLASS: u8 = u8::MAX;
/// The last page index is never used (see [`ChunkRef::NONE`]).
const PAGES_MAX: usize = (1 << 20) - 1;

/// What finding a chunk takes, eight bytes a page, so that a read touches a
/// small dense table and then the item.
#[derive(Clone, Copy, Debug)]
struct PageInfo {
    chunk_bytes: u16,
    first: u16,
    class: u8,
    /// The flush sequence of the items without a version in it.
    flush_sequence: u16,
}

/// The pages of one class.
#[derive(Debug, Default)]
pub(crate) struct ClassPages {
    /// The ring that the policy's hands walk.
    pub ring: Vec<u32>,
    /// Head of the list of pages with a free chunk.
    free_head: u32,
    /// Live chunks.
    pub live: u64,
    /// Used chunks.
    pub used: u64,
    /// Hot chunks.
    pub hot: u64,
}

/// Pages and chunks.
#[derive(Debug)]
pub(crate) struct Slab {
    pub arena: Arena,
    pub table: ClassTable,
    infos: Vec<PageInfo>,
    pub classes: Vec<ClassPages>,
    /// Pages that were used and are free now. The memory of the first
    /// `given_back` is the system's; they are taken last.
    free: Vec<u32>,
    given_back: usize,
    /// Pages from here on were never used.
    fresh: u32,
    /// Pages of classes and of the index.
    pub pages_used: u32,
    /// Pages of the index.
    pub pages_index: u32,
    /// Most pages that may be used.
    pub pages_max: u32,
    link_words: usize,
    /// Given to pages as they join a class.
    pub flush_sequence: u16,
}

impl Slab {
    pub fn new(arena: Arena, link_words: usize) -> Slab {
        let pages = (arena.bytes() / PAGE_BYTES).min(PAGES_MAX);
        let table = ClassTable::new(pages, link_words);
        let info = PageInfo { chunk_bytes: 0, first: 0, class: NO_CLASS, flush_sequence: 0 };
        let classes = (0..table.len())
            .map(|_| ClassPages { free_head: NO_PAGE, ..ClassPages::default() })
            .collect();
        Slab {
            arena,
            table,
            infos: alloc::vec![info; pages],
            classes,
            free: Vec::with_capacity(pages),
            given_back: 0,
            fresh: 0,
            pages_used: 0,
            pages_index: 0,
            pages_max: pages as u32,
            link_words,
            flush_sequence: 0,
        }
    }

    /// Pages of the arena.
    pub fn pages(&self) -> u32 {
        self.infos.len() as u32
    }

    /// Pages from here on were never used.
    pub fn pages_touched(&self) -> u32 {
        self.fresh
    }

    /// Bytes of heap beside the arena.
    pub fn heap_bytes(&self) -> usize {
        self.infos.len() * (size_of::<PageInfo>() + 2 * size_of::<u32>())
            + self.classes.len() * size_of::<ClassPages>()
    }

    // ---- Where things lie.

    #[inline(always)]
    fn page_start(page: u32) -> usize {
        page as usize * PAGE_BYTES
    }

    /// Offset of a chunk in the arena.
    #[inline(always)]
    pub fn offset(&self, at: ChunkRef) -> usize {
        let info = self.infos[at.page() as usize];
        Slab::page_start(at.page())
            + usize::from(info.first)
            + at.slot() as usize * usize::from(info.chunk_bytes)
    }

    /// Offset and length of a chunk.
    #[inline(always)]
    pub fn locate(&self, at: ChunkRef) -> (usize, usize) {
        let info = self.infos[at.page() as usize];
        let chunk_bytes = usize::from(info.chunk_bytes);
        (
            Slab::page_start(at.page())
                + usize::from(info.first)
                + at.slot() as usize * chunk_bytes,
            chunk_bytes,
        )
    }

    /// The class of a chunk.
    #[inline(always)]
    pub fn class_of(&self, at: ChunkRef) -> ClassId {
        ClassId(self.infos[at.page() as usize].class)
    }

    /// The class of a page, if it belongs to one.
    #[inline]
    pub fn page_class(&self, page: u32) -> Option<ClassId> {
        let class = self.infos[page as usize].class;
        (class != NO_CLASS).then_some(ClassId(class))
    }

    /// Facts of the class of a page that belongs to one.
    pub fn page_facts(&self, page: u32) -> Class {
        self.table.get(ClassId(self.infos[page as usize].class))
    }

    /// The flush sequence of a chunk's page.
    #[inline]
    pub fn flush_sequence_of(&self, at: ChunkRef) -> u16 {
        self.infos[at.page() as usize].flush_sequence
    }

    /// Marks a page as holding nothing from before the last flush.
    pub fn set_flush_sequence(&mut self, page: u32) {
        self.infos[page as usize].flush_sequence = self.flush_sequence;
    }

    #[inline]
    pub fn header(&self, page: u32) -> &PageHeader {
        self.arena.cast(Slab::page_start(page))
    }

    #[inline]
    pub fn header_mut(&mut self, page: u32) -> &mut PageHeader {
        self.arena.cast_mut(Slab::page_start(page))
    }

    // ---- Bitmaps.

    #[inline]
    fn words(slots: usize) -> usize {
        slots.div_ceil(64)
    }

    #[inline]
    pub fn map(&self, page: u32, map: Map, slots: usize) -> &[u64] {
        let words = Slab::words(slots);
        self.arena
            .cast_slice(Slab::page_start(page) + HEADER_BYTES + map as usize * words * 8, words)
    }

    #[inline]
    fn word_mut(&mut self, at: ChunkRef, map: Map) -> &mut u64 {
        let words = Slab::words(usize::from(self.page_facts(at.page()).slots));
        let index = map as usize * words + at.slot() as usize / 64;
        self.arena.cast_mut(Slab::page_start(at.page()) + HEADER_BYTES + index * 8)
    }

    /// Whether a chunk's bit is set.
    #[inline]
    pub fn bit(&self, at: ChunkRef, map: Map) -> bool {
        let words = Slab::words(usize::from(self.page_facts(at.page()).slots));
        let index = map as usize * words + at.slot() as usize / 64;
        let word: u64 = *self.arena.cast(Slab::page_start(at.page()) + HEADER_BYTES + index * 8);
        word >> (at.slot() % 64) & 1 == 1
    }

    /// Says whether the index knows the item in a chunk.
    pub fn set_live(&mut self, at: ChunkRef, live: bool) {
        debug_assert!(self.bit(at, Map::Used) && self.bit(at, Map::Live) != live);
        *self.word_mut(at, Map::Live) ^= 1 << (at.slot() % 64);
        let step = if live { 1u16 } else { 1u16.wrapping_neg() };
        let header = self.header_mut(at.page());
        header.live = header.live.wrapping_add(step);
        let class = self.class_of(at);
        let pages = &mut self.classes[usize::from(class.0)];
        pages.live = if live { pages.live + 1 } else { pages.live - 1 };
    }

    /// Says whether the policy calls a chunk hot.
    pub fn set_hot_bit(&mut self, at: ChunkRef, hot: bool) {
        let bit = 1u64 << (at.slot() % 64);
        let word = self.word_mut(at, Map::Hot);
        if (*word & bit != 0) == hot {
            return;
        }
        *word ^= bit;
        let step = if hot { 1u16 } else { 1u16.wrapping_neg() };
        let header = self.header_mut(at.page());
        header.hot = header.hot.wrapping_add(step);
        let class = self.class_of(at);
        let pages = &mut self.classes[usize::from(class.0)];
        pages.hot = if hot { pages.hot + 1 } else { pages.hot - 1 };
    }

    /// Offset of a chunk's link words.
    fn links_offset(&self, at: ChunkRef) -> usize {
        debug_assert!(self.link_words == 2);
        let words = Slab::words(usize::from(self.page_facts(at.page()).slots));
        Slab::page_start(at.page()) + HEADER_BYTES + words * 24 + at.slot() as usize * 8
    }

    pub fn link_words_of(&self, at: ChunkRef) -> [u32; 2] {
        let both: u64 = *self.arena.cast(self.links_offset(at));
        [both as u32, (both >> 32) as u32]
    }

    pub fn set_link_words_of(&mut self, at: ChunkRef, links: [u32; 2]) {
        *self.arena.cast_mut::<u64>(self.links_offset(at)) =
            u64::from(links[0]) | u64::from(links[1]) << 32;
    }

    /// The next set bit of `word(live, hot)` after `after` in the class's ring.
    pub fn next_in_ring(
        &self,
        class: ClassId,
        after: ChunkRef,
        select: impl Fn(u64, u64) -> u64,
    ) -> Option<ChunkRef> {
        let ring = &self.classes[usize::from(class.0)].ring;
        if ring.is_empty() {
            return None;
        }
        let slots = usize::from(self.table.get(class).slots);
        let words = Slab::words(slots);
        let known = after != ChunkRef::NONE
            && (after.page() as usize) < self.infos.len()
            && self.infos[after.page() as usize].class == class.0;
        let (first, mut from) = if known {
            (self.header(after.page()).position as usize, after.slot() as usize + 1)
        } else {
            (0, 0)
        };
        let mut position = first;
        // One page more than there are: the last visit sees the first page's
        // beginning, up to `after` itself.
        for _ in 0..=ring.len() {
            let page = ring[position];
            let header = self.header(page);
            // A page without live chunks is passed without reading its maps.
            if header.live != 0 {
                let live = self.map(page, Map::Live, slots);
                let hot = self.map(page, Map::Hot, slots);
                if let Some(slot) = next_bit(from, words, |index| select(live[index], hot[index])) {
                    return Some(ChunkRef::new(page, slot as u32));
                }
            }
            from = 0;
            position = if position + 1 == ring.len() { 0 } else { position + 1 };
        }
        None
    }

    // ---- Pages.

    fn take_page(&mut self) -> Option<u32> {
        if self.pages_used >= self.pages_max {
            return None;
        }
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.fresh < self.pages() => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.given_back = self.given_back.min(self.free.len());
        self.pages_used += 1;
        Some(page)
    }

    /// Takes a page for the index; its bytes are no longer the slab's.
    pub fn take_index_page(&mut self) -> Option<core::ptr::NonNull<u8>> {
        let page = self.take_page()?;
        self.pages_index += 1;
        Some(self.arena.pointer(Slab::page_start(page), PAGE_BYTES))
    }

    /// Takes a page back that the index does not need any more.
    pub fn give_back_index_page(&mut self, page: core::ptr::NonNull<u8>) {
        let start = self.arena.pointer(0, PAGE_BYTES);
        let number = (page.addr().get() - start.addr().get()) / PAGE_BYTES;
        debug_assert!(self.infos[number].class == NO_CLASS);
        self.pages_index -= 1;
        self.pages_used -= 1;
        self.free.push(number as u32);
    }

    /// Gives a class one more page, if one may be taken.
    pub fn add_page(&mut self, class: ClassId) -> bool {
        let Some(page) = self.take_page() else { return false };
        let facts = self.table.get(class);
        self.infos[page as usize] = PageInfo {
            chunk_bytes: facts.chunk_bytes,
            first: facts.first,
            class: class.0,
            flush_sequence: self.flush_sequence,
        };
        let start = Slab::page_start(page);
        let maps = Slab::words(usize::from(facts.slots)) * 24;
        self.arena.slice_mut(start, HEADER_BYTES + maps).fill(0);
        let pages = &mut self.classes[usize::from(class.0)];
        // Room for all that it may ever have: a long ring that grew would have
        // to be copied. What is not used of it is never touched.
        if pages.ring.capacity() == 0 {
            pages.ring.reserve_exact(self.infos.len());
        }
        let position = pages.ring.len() as u32;
        pages.ring.push(page);
        *self.header_mut(page) = PageHeader {
            used: 0,
            live: 0,
            hot: 0,
            hint: 0,
            next_free: NO_PAGE,
            prev_free: NO_PAGE,
            position,
            due: 0,
            wheel_next: NO_PAGE,
            wheel_prev: NO_PAGE,
            early: 0,
            early_last: 0,
            closed: 0,
            wheel_place: 0,
            reserved: [0; 4],
        };
        self.join_free_list(page);
        true
    }

    /// Takes an unused page out of its class. The expiry wheel must have let
    /// go of it.
    pub fn release_page(&mut self, page: u32) {
        debug_assert!(self.header(page).used == 0 && self.header(page).due == 0);
        let class = self.infos[page as usize].class;
        if self.header(page).closed == 0 {
            self.leave_free_list(page);
        }
        let position = self.header(page).position as usize;
        let ring = &mut self.classes[usize::from(class)].ring;
        ring.swap_remove(position);
        if let Some(moved) = ring.get(position).copied() {
            self.header_mut(moved).position = position as u32;
        }
        self.infos[page as usize].class = NO_CLASS;
        self.free.push(page);
        self.pages_used -= 1;
    }

    /// A free page beyond the limit whose memory may still be resident.
    pub fn take_released(&mut self) -> Option<(usize, usize)> {
        let resident = self.free.len() - self.given_back;
        if self.pages_used as usize + resident <= self.pages_max as usize {
            return None;
        }
        let page = *self.free.get(self.given_back)?;
        self.given_back += 1;
        Some((Slab::page_start(page), PAGE_BYTES))
    }

    /// No new chunks from this page until it is released or opened.
    pub fn close_page(&mut self, page: u32) {
        let header = self.header_mut(page);
        if header.closed == 1 {
            return;
        }
        let full = usize::from(header.used) == usize::from(self.page_facts(page).slots);
        if !full {
            self.leave_free_list(page);
        }
        self.header_mut(page).closed = 1;
    }

    /// Chunks may be taken from this page again.
    pub fn open_page(&mut self, page: u32) {
        self.header_mut(page).closed = 0;
        if self.header(page).used < self.page_facts(page).slots {
            self.join_free_list(page);
        }
    }

    fn join_free_list(&mut self, page: u32) {
        let class = usize::from(self.infos[page as usize].class);
        let head = self.classes[class].free_head;
        let header = self.header_mut(page);
        header.next_free = head;
        header.prev_free = NO_PAGE;
        if head != NO_PAGE {
            self.header_mut(head).prev_free = page;
        }
        self.classes[class].free_head = page;
    }

    fn leave_free_list(&mut self, page: u32) {
        let class = usize::from(self.infos[page as usize].class);
        let header = self.header_mut(page);
        let (next, prev) = (header.next_free, header.prev_free);
        header.next_free = NO_PAGE;
        header.prev_free = NO_PAGE;
        if prev == NO_PAGE {
            debug_assert_eq!(self.classes[class].free_head, page);
            self.classes[class].free_head = next;
        } else {
            self.header_mut(prev).next_free = next;
        }
        if next != NO_PAGE {
            self.header_mut(next).prev_free = prev;
        }
    }

    // ---- Chunks.

    /// The page from which the class's next chunk would come.
    pub fn page_with_room(&self, class: ClassId) -> Option<u32> {
        let page = self.classes[usize::from(class.0)].free_head;
        (page != NO_PAGE).then_some(page)
    }

    /// Takes a free chunk of the class, if one of its pages has one.
    pub fn take_chunk(&mut self, class: ClassId) -> Option<ChunkRef> {
        let page = self.page_with_room(class)?;
        let slots = usize::from(self.table.get(class).slots);
        let words = Slab::words(slots);
        let hint = usize::from(self.header(page).hint);
        let used = self.map(page, Map::Used, slots);
        let slot = next_bit(hint * 64, words, |index| !used[index])?;
        debug_assert!(slot < slots, "a page in the free list has a free chunk");
        let at = ChunkRef::new(page, slot as u32);
        *self.word_mut(at, Map::Used) |= 1 << (slot % 64);
        let header = self.header_mut(page);
        header.used += 1;
        header.hint = (slot / 64) as u16;
        if usize::from(header.used) == slots {
            self.leave_free_list(page);
        }
        self.classes[usize::from(class.0)].used += 1;
        Some(at)
    }

    /// Gives a chunk back; it is neither live nor hot. True if its page holds
    /// nothing now.
    pub fn free_chunk(&mut self, at: ChunkRef) -> bool {
        debug_assert!(
            self.bit(at, Map::Used) && !self.bit(at, Map::Live) && !self.bit(at, Map::Hot)
        );
        let slots = self.page_facts(at.page()).slots;
        *self.word_mut(at, Map::Used) &= !(1 << (at.slot() % 64));
        let header = self.header_mut(at.page());
        let was_full = header.used == slots;
        header.used -= 1;
        header.hint = header.hint.min((at.slot() / 64) as u16);
        let (empty, closed) = (header.used == 0, header.closed == 1);
        if was_full && !closed {
            self.join_free_list(at.page());
        }
        let class = self.class_of(at);
        self.classes[usize::from(class.0)].used -= 1;
        empty
    }

    /// The first used chunk at or after `slot` of a page.
    pub fn next_used(&self, page: u32, slot: u32) -> Option<ChunkRef> {
        self.next_in_page(page, slot, Map::Used)
    }

    /// The first chunk at or after `slot` of a page whose bit is set.
    pub fn next_in_page(&self, page: u32, slot: u32, map: Map) -> Option<ChunkRef> {
        let slots = usize::from(self.page_facts(page).slots);
        let bits = self.map(page, map, slots);
        let slot = next_bit(slot as usize, Slab::words(slots), |index| bits[index])?;
        Some(ChunkRef::new(page, slot as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_beyond_the_limit_are_given_back_once_and_taken_last() {
        let class = ClassId(0);
        let mut slab = Slab::new(Arena::heap(8 * PAGE_BYTES), 0);
        for _ in 0..8 {
            assert!(slab.add_page(class));
        }
        (0..6).for_each(|page| slab.release_page(page));
        assert_eq!(slab.take_released(), None);
        // Two pages are in use, two more may stay.
        slab.pages_max = 4;
        let mut given = Vec::new();
        while let Some((offset, bytes)) = slab.take_released() {
            assert_eq!(bytes, PAGE_BYTES);
            given.push((offset / PAGE_BYTES) as u32);
        }
        assert_eq!(given.len(), 4);
        let mut taken = Vec::new();
        slab.pages_max = 8;
        while slab.add_page(class) {
            taken.push(*slab.classes[0].ring.last().unwrap());
        }
        assert!(taken[..2].iter().all(|page| !given.contains(page)));
        assert!(taken[2..].iter().all(|page| given.contains(page)));
        // What was taken again may be given back again.
        taken.into_iter().for_each(|page| slab.release_page(page));
        slab.pages_max = 2;
        assert_eq!(core::iter::from_fn(|| slab.take_released()).count(), 6);
    }
}
