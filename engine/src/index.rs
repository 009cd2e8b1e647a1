//! From a key's hash to its chunk.
//!
//! `hashbrown` tables of 32-bit chunk references, cut into segments of 2,048
//! slots. A full segment splits in two on its own (extendible hashing), so that
//! no insertion ever moves more than one segment's items: growth has no stall.
//!
//! Were the segments equally wide, all would fill up, and split, at about the
//! same time, and the index would swing between 44% and 87% of load. So their
//! widths in hash space differ by up to two, evenly over all widths (see
//! [`spread`]): at any time some have just split and others are about to, and
//! the load stays at 63% or more on the whole, whatever the number of items.
//!
//! A table's memory comes from pages of the arena ([`TableMemory`]), in blocks
//! of one size. The shard donates pages before they are needed; no insertion
//! allocates by itself. When items become fewer (their values grew), segments
//! that were split apart are merged again, and pages are emptied of the tables
//! that are left in them and given back: [`Index::shrink`], one segment at a
//! time.

use crate::slab::arena::{PAGE_BYTES, prefetch_line};
use crate::{ChunkRef, KeyHash};
use alloc::rc::Rc;
use alloc::vec::Vec;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::cell::RefCell;
use core::ptr::NonNull;
use hashbrown::HashTable;

/// Slots of a segment.
const SLOTS: usize = 2048;
/// Items that a segment of that many slots takes (hashbrown's 7/8).
const ITEMS_MAX: usize = SLOTS / 8 * 7;
/// A segment whose slots are used up by tombstones is rebuilt if it holds at
/// most this many items, and split if more.
const ITEMS_REBUILD_MAX: usize = ITEMS_MAX * 85 / 100;
/// Bytes of a table of [`SLOTS`]: references, one control byte a slot, and the
/// control bytes that hashbrown repeats at the end.
const BLOCK_BYTES: usize = SLOTS * 4 + SLOTS + 16;
/// Tables in a page.
const BLOCKS_PER_PAGE: usize = PAGE_BYTES / BLOCK_BYTES;
/// How many items ahead keys are asked for while a segment moves.
const READ_AHEAD: usize = 16;
/// Bits of the directory at most; far more than an arena can hold items for.
const DEPTH_MAX: u32 = 28;

/// Two halves that hold at most this many items together are merged. So few
/// that the segment does not split again at once.
const ITEMS_MERGE_MAX: usize = ITEMS_MAX / 8 * 5;
/// Free blocks that are kept when pages are given back: a page's worth, so that
/// the next splits need not take one at once.
const BLOCKS_KEPT: usize = BLOCKS_PER_PAGE;
/// Pages of the arena for one of the index at most: items of 10 + 10 bytes
/// without version and expiry take four times as much as their references.
const INDEX_SHARE: usize = 4;
/// Segments looked at in one step for two that can be merged.
const MERGE_LOOKS: usize = 256;

/// Free blocks inside index pages.
#[derive(Debug, Default)]
struct Blocks {
    free: Vec<NonNull<u8>>,
    /// Every page donated, and not given back.
    pages: Vec<NonNull<u8>>,
    /// A page of which no block is handed out any more, and its free blocks.
    emptying: Option<(NonNull<u8>, usize)>,
}

/// Whether a block lies in a page.
fn lies_in(block: NonNull<u8>, page: NonNull<u8>) -> bool {
    block.addr().get().wrapping_sub(page.addr().get()) < PAGE_BYTES
}

impl Blocks {
    /// Chooses the page with the most free blocks and hands out none of them
    /// any more.
    fn begin_emptying(&mut self) {
        let free_in =
            |page: &NonNull<u8>| self.free.iter().filter(|block| lies_in(**block, *page)).count();
        let Some(page) = self.pages.iter().copied().max_by_key(free_in) else { return };
        let before = self.free.len();
        self.free.retain(|block| !lies_in(*block, page));
        self.emptying = Some((page, before - self.free.len()));
    }

    /// Hands out the blocks of the page again.
    fn stop_emptying(&mut self, is_used: impl Fn(NonNull<u8>) -> bool) {
        let Some((page, _)) = self.emptying.take() else { return };
        self.free.extend(blocks_of(page).filter(|block| !is_used(*block)));
    }
}

/// The blocks of a page.
fn blocks_of(page: NonNull<u8>) -> impl DoubleEndedIterator<Item = NonNull<u8>> {
    // SAFETY: inside the page, which is one allocation; a multiple of 16 as
    // BLOCK_BYTES is one.
    (0..BLOCKS_PER_PAGE).map(move |number| unsafe { page.add(number * BLOCK_BYTES) })
}

/// The allocator of all tables of one index.
#[derive(Clone, Debug)]
struct TableMemory(Rc<RefCell<Blocks>>);

// SAFETY: blocks are disjoint parts of pages that the slab gave away for good;
// each is handed to one owner at a time, is large and aligned enough (checked),
// and stays valid as long as the arena, which the shard drops after its index.
// Clones share the same list.
unsafe impl Allocator for TableMemory {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() > BLOCK_BYTES || layout.align() > 16 {
            return Err(AllocError);
        }
        let block = self.0.borrow_mut().free.pop().ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        debug_assert!(layout.size() <= BLOCK_BYTES);
        let mut blocks = self.0.borrow_mut();
        match &mut blocks.emptying {
            Some((page, free)) if lies_in(block, *page) => *free += 1,
            _ => blocks.free.push(block),
        }
    }
}

#[derive(Debug)]
struct Segment {
    table: HashTable<u32, TableMemory>,
    /// Where its table lies.
    block: NonNull<u8>,
    /// How many bits of the spread hash all its items share.
    depth: u32,
    /// These bits.
    prefix: u32,
}

/// What a step of [`Index::shrink`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shrunk {
    /// There is nothing to do, or nothing was found in this step.
    Nothing,
    /// A segment was moved.
    Segment,
    /// This page is no longer in use.
    Page(NonNull<u8>),
}

/// From a key's hash to its chunk.
#[derive(Debug)]
pub(crate) struct Index {
    /// Segment by the first bits of the spread hash.
    directory: Vec<u32>,
    segments: Vec<Segment>,
    memory: TableMemory,
    depth: u32,
    len: u64,
    /// The items of a segment while they move; kept for the next time.
    moving: Vec<u32>,
    /// The segment that is looked at next for merging.
    merge_at: usize,
}

// SAFETY: the only things that are not Send are the shared block list and the
// block pointers. Every clone of the list lives inside this value and moves
// with it; the blocks are exclusively its own.
unsafe impl Send for Index {}

/// A bijection of 31-bit numbers onto 32-bit ones whose slope falls evenly from
/// 4/3 to 2/3 of the mean: equal intervals of the result get between 3/4 and
/// 3/2 of the mean number of keys, a factor of two apart.
///
/// The low eleven bits of the hash choose the slot in a segment and the top
/// seven hashbrown's tag, so this looks at those between.
#[inline(always)]
fn spread(hash: KeyHash) -> u32 {
    let x = (hash.0 >> 11) & 0x7fff_ffff;
    // x (4 - x) / 3 in fixed point.
    let y = (x * ((1u64 << 33) - x)) / 3;
    // At most 2^62; keep 32 bits.
    (y >> 30).min(u64::from(u32::MAX)) as u32
}

/// Reads the keys of items.
pub(crate) trait Keys {
    /// The hash of the key of the item in a chunk.
    fn hash_of(&self, at: ChunkRef) -> KeyHash;
    /// Starts loading that key.
    fn prefetch(&self, at: ChunkRef);
}

/// What an insertion needs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room.
    Ready,
    /// A page for tables must be donated.
    NeedsPage,
    /// The directory is as deep as it gets.
    Full,
}

impl Index {
    /// An index without memory; donate a page first. With room for the segments
    /// that an arena of so many pages may come to, so that their list and the
    /// directory never move: at ten million items that would take longer than
    /// a split.
    pub fn new(pages: usize) -> Index {
        let segments = pages / INDEX_SHARE * BLOCKS_PER_PAGE + 1;
        Index {
            directory: Vec::with_capacity(2 * segments.next_power_of_two()),
            segments: Vec::with_capacity(segments),
            memory: TableMemory(Rc::new(RefCell::new(Blocks::default()))),
            depth: 0,
            len: 0,
            moving: Vec::new(),
            merge_at: 0,
        }
    }

    /// Number of items.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of heap beside the arena, as far as they were ever used.
    pub fn heap_bytes(&self) -> usize {
        self.directory.len() * 4
            + self.segments.len() * size_of::<Segment>()
            + self.memory.0.borrow().free.capacity() * size_of::<usize>()
            + self.memory.0.borrow().pages.capacity() * size_of::<usize>()
    }

    /// Takes a page of the arena for tables.
    ///
    /// # Safety
    /// `page` points to [`PAGE_BYTES`] bytes that nobody else uses as long as
    /// the index lives.
    pub unsafe fn donate(&mut self, page: NonNull<u8>) {
        let mut blocks = self.memory.0.borrow_mut();
        blocks.pages.push(page);
        blocks.free.extend(blocks_of(page).rev());
    }

    /// A segment with a table of its own, in the next free block.
    fn new_segment(&self, depth: u32, prefix: u32) -> Segment {
        let block = *self.memory.0.borrow().free.last().expect("room was made before");
        let table = HashTable::with_capacity_in(ITEMS_MAX, self.memory.clone());
        Segment { table, block, depth, prefix }
    }

    /// Makes the directory name `number` wherever its hashes lead.
    fn direct(&mut self, number: usize) {
        let Segment { depth, prefix, .. } = self.segments[number];
        let run = 1usize << (self.depth - depth);
        let start = prefix as usize * run;
        self.directory[start..start + run].fill(number as u32);
    }

    #[inline(always)]
    fn segment_of(&self, hash: KeyHash) -> usize {
        let slot = (u64::from(spread(hash)) << self.depth) >> 32;
        self.directory[slot as usize] as usize
    }

    /// The chunk for which `same` holds, among those whose hash looks alike.
    #[inline(always)]
    pub fn find(&self, hash: KeyHash, mut same: impl FnMut(ChunkRef) -> bool) -> Option<ChunkRef> {
        if self.directory.is_empty() {
            return None;
        }
        let segment = &self.segments[self.segment_of(hash)];
        segment.table.find(hash.0, |at| same(ChunkRef(*at))).map(|at| ChunkRef(*at))
    }

    /// Starts loading the two cache lines that [`find`](Index::find) will read:
    /// hashbrown keeps the references in front of the control bytes, the last
    /// first, and begins to look where the low bits of the hash say. Were that
    /// to change, this would be useless, not wrong.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        if self.directory.is_empty() {
            return;
        }
        let control = self.segments[self.segment_of(hash)].block.as_ptr().wrapping_add(SLOTS * 4);
        let slot = hash.0 as usize % SLOTS;
        prefetch_line(control.wrapping_add(slot));
        // In the middle of the sixteen that the first group may name.
        prefetch_line(control.wrapping_sub((slot + 8) * 4));
    }

    /// Points the entry of `from` to `to`.
    pub fn replace(&mut self, hash: KeyHash, from: ChunkRef, to: ChunkRef) {
        let segment = self.segment_of(hash);
        let entry = self.segments[segment].table.find_mut(hash.0, |at| *at == from.0);
        *entry.expect("a live item has an index entry") = to.0;
    }

    /// Removes the entry of `at`.
    pub fn remove(&mut self, hash: KeyHash, at: ChunkRef) {
        let segment = self.segment_of(hash);
        match self.segments[segment].table.find_entry(hash.0, |entry| *entry == at.0) {
            Ok(entry) => {
                entry.remove();
            }
            Err(_) => unreachable!("a live item has an index entry"),
        }
        self.len -= 1;
    }

    /// Makes room for one insertion of `hash`; splits or rebuilds one segment
    /// at most.
    pub fn make_room(&mut self, hash: KeyHash, keys: &impl Keys) -> Room {
        if self.directory.is_empty() {
            if self.memory.0.borrow().free.is_empty() {
                return Room::NeedsPage;
            }
            let first = self.new_segment(0, 0);
            self.segments.push(first);
            self.directory.push(0);
        }
        loop {
            let number = self.segment_of(hash);
            let segment = &self.segments[number];
            if segment.table.capacity() > segment.table.len() {
                return Room::Ready;
            }
            if segment.table.len() <= ITEMS_REBUILD_MAX {
                self.rebuild(number, keys);
            } else if self.memory.0.borrow().free.is_empty() {
                if self.memory.0.borrow().emptying.is_none() {
                    return Room::NeedsPage;
                }
                self.keep_page();
            } else if segment.depth == DEPTH_MAX {
                return Room::Full;
            } else {
                self.split(number, keys);
            }
        }
    }

    /// Inserts; [`make_room`](Index::make_room) said that there is room.
    pub fn insert(&mut self, hash: KeyHash, at: ChunkRef) {
        let segment = self.segment_of(hash);
        let table = &mut self.segments[segment].table;
        debug_assert!(table.capacity() > table.len());
        table.insert_unique(hash.0, at.0, |_| unreachable!("room was made before"));
        self.len += 1;
    }

    /// Takes all items out of a segment, which leaves no tombstones, and shows
    /// them with their hashes.
    fn drain(
        &mut self,
        number: usize,
        keys: &impl Keys,
        mut each: impl FnMut(&mut Index, KeyHash, u32),
    ) {
        let mut moving = core::mem::take(&mut self.moving);
        moving.clear();
        moving.extend(self.segments[number].table.drain());
        // The hashes are not kept: every item is read. Asking for them ahead
        // takes most of the waiting out of it.
        for (position, at) in moving.iter().enumerate() {
            if let Some(ahead) = moving.get(position + READ_AHEAD) {
                keys.prefetch(ChunkRef(*ahead));
            }
            each(self, keys.hash_of(ChunkRef(*at)), *at);
        }
        self.moving = moving;
    }

    /// Puts the items of a segment back without the tombstones.
    fn rebuild(&mut self, number: usize, keys: &impl Keys) {
        self.drain(number, keys, |index, hash, at| {
            let table = &mut index.segments[number].table;
            table.insert_unique(hash.0, at, |_| unreachable!("the table held all of them"));
        });
    }

    /// Splits a segment by its next bit.
    fn split(&mut self, number: usize, keys: &impl Keys) {
        let Segment { depth, prefix, .. } = self.segments[number];
        if depth == self.depth {
            self.double();
        }
        let new = self.segments.len();
        let upper = self.new_segment(depth + 1, prefix * 2 + 1);
        self.segments.push(upper);
        let lower = &mut self.segments[number];
        (lower.depth, lower.prefix) = (depth + 1, prefix * 2);
        let bit = 31 - depth;
        self.drain(number, keys, |index, hash, at| {
            let half = if spread(hash) >> bit & 1 == 1 { new } else { number };
            index.segments[half]
                .table
                .insert_unique(hash.0, at, |_| unreachable!("either table holds all of them"));
        });
        self.direct(new);
    }

    /// Every entry twice, in place, from the last.
    fn double(&mut self) {
        let entries = self.directory.len();
        self.directory.resize(2 * entries, 0);
        for at in (0..entries).rev() {
            let entry = self.directory[at];
            self.directory[2 * at..2 * at + 2].fill(entry);
        }
        self.depth += 1;
    }

    /// One step toward the memory that the items need: moves one segment's
    /// items at most. Cheap when nothing is to be done.
    pub fn shrink(&mut self, keys: &impl Keys) -> Shrunk {
        let emptying = self.memory.0.borrow().emptying;
        if let Some((page, free)) = emptying {
            if free == BLOCKS_PER_PAGE {
                let mut blocks = self.memory.0.borrow_mut();
                blocks.emptying = None;
                blocks.pages.retain(|other| *other != page);
                return Shrunk::Page(page);
            }
            return self.leave_page(page, keys);
        }
        if self.memory.0.borrow().free.len() >= BLOCKS_KEPT + BLOCKS_PER_PAGE {
            self.memory.0.borrow_mut().begin_emptying();
            return Shrunk::Segment;
        }
        if self.is_sparse() { self.merge_some(keys) } else { Shrunk::Nothing }
    }

    /// Whether there may be segments to merge: growing segments never are, on
    /// the whole, less than half full.
    fn is_sparse(&self) -> bool {
        self.segments.len() > 1 && (self.len as usize) < self.segments.len() * (ITEMS_MAX / 2)
    }

    /// Moves one table out of a page that is being emptied.
    fn leave_page(&mut self, page: NonNull<u8>, keys: &impl Keys) -> Shrunk {
        let inside = |segment: &Segment| lies_in(segment.block, page);
        let number = self.segments.iter().position(inside);
        let room = !self.memory.0.borrow().free.is_empty();
        let Some(number) = number.filter(|_| room) else {
            // Splits have taken the free blocks elsewhere.
            self.keep_page();
            return Shrunk::Nothing;
        };
        let Segment { depth, prefix, .. } = self.segments[number];
        let mut new = self.new_segment(depth, prefix);
        self.drain(number, keys, |_, hash, at| {
            new.table.insert_unique(hash.0, at, |_| unreachable!("it is as large"));
        });
        self.segments[number] = new;
        Shrunk::Segment
    }

    /// The page that is being emptied is needed after all.
    fn keep_page(&mut self) {
        let used = |block| self.segments.iter().any(|segment| segment.block == block);
        self.memory.0.borrow_mut().stop_emptying(used);
    }

    /// Merges the next two halves that fit into one segment.
    fn merge_some(&mut self, keys: &impl Keys) -> Shrunk {
        for _ in 0..MERGE_LOOKS.min(self.segments.len()) {
            self.merge_at =
                if self.merge_at + 1 < self.segments.len() { self.merge_at + 1 } else { 0 };
            let Segment { depth, prefix, .. } = self.segments[self.merge_at];
            if depth == 0 {
                continue;
            }
            let twin = (prefix ^ 1) as usize;
            let twin = self.directory[twin << (self.depth - depth)] as usize;
            let items = self.segments[self.merge_at].table.len() + self.segments[twin].table.len();
            if self.segments[twin].depth == depth && items <= ITEMS_MERGE_MAX {
                self.merge(self.merge_at, twin, keys);
                return Shrunk::Segment;
            }
        }
        Shrunk::Nothing
    }

    /// Moves the items of `from` into its other half `into`, whose tombstones
    /// go on the way.
    fn merge(&mut self, into: usize, from: usize, keys: &impl Keys) {
        self.rebuild(into, keys);
        self.drain(from, keys, |index, hash, at| {
            let table = &mut index.segments[into].table;
            table.insert_unique(hash.0, at, |_| unreachable!("it has room for both"));
        });
        let merged = &mut self.segments[into];
        (merged.depth, merged.prefix) = (merged.depth - 1, merged.prefix / 2);
        self.direct(into);
        self.segments.swap_remove(from);
        if from < self.segments.len() {
            self.direct(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    /// Chunk numbers stand for their keys.
    struct Numbers;

    impl Keys for Numbers {
        fn hash_of(&self, at: ChunkRef) -> KeyHash {
            // Well mixed, as key hashes are.
            let x = u64::from(at.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            KeyHash((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
        }

        fn prefetch(&self, _: ChunkRef) {}
    }

    #[repr(align(16))]
    struct Page([u8; PAGE_BYTES]);

    /// An index over pages of the heap, and how many of them it holds.
    struct Heap {
        index: Index,
        pages: Vec<Box<Page>>,
        held: usize,
    }

    impl Heap {
        fn insert(&mut self, number: u32) {
            let hash = Numbers.hash_of(ChunkRef(number));
            loop {
                match self.index.make_room(hash, &Numbers) {
                    Room::Ready => return self.index.insert(hash, ChunkRef(number)),
                    Room::Full => panic!("far from full"),
                    Room::NeedsPage => {}
                }
                let mut page = Box::new(Page([0; PAGE_BYTES]));
                let address = NonNull::from(&mut page.0).cast();
                self.pages.push(page);
                self.held += 1;
                // SAFETY: the page is kept until the end, and used by nobody else.
                unsafe { self.index.donate(address) };
            }
        }

        fn remove(&mut self, number: u32) {
            self.index.remove(Numbers.hash_of(ChunkRef(number)), ChunkRef(number));
        }

        fn shrink_all(&mut self) {
            let mut idle = 0;
            while idle < 100 {
                match self.index.shrink(&Numbers) {
                    Shrunk::Nothing => idle += 1,
                    Shrunk::Segment => idle = 0,
                    Shrunk::Page(_) => self.held -= 1,
                }
            }
        }

        fn check(&self, numbers: impl Iterator<Item = u32>) {
            for number in numbers {
                let hash = Numbers.hash_of(ChunkRef(number));
                let found = self.index.find(hash, |at| at.0 == number);
                assert_eq!(found, Some(ChunkRef(number)));
            }
        }
    }

    #[test]
    fn an_index_of_fewer_items_gives_pages_back_and_grows_again() {
        let items = if cfg!(miri) { 8_000 } else { 200_000 };
        let mut heap = Heap { index: Index::new(1024), pages: Vec::new(), held: 0 };
        for round in 0..3 {
            (0..items).for_each(|number| heap.insert(number));
            let full = heap.held;
            (0..items).filter(|number| number % 10 != round).for_each(|number| heap.remove(number));
            heap.check((0..items).filter(|number| number % 10 == round));
            heap.shrink_all();
            assert!(heap.held < full / 3 + 3, "{} pages of {full}", heap.held);
            assert_eq!(heap.index.len(), u64::from(items / 10));
            heap.check((0..items).filter(|number| number % 10 == round));
            (0..items).filter(|number| number % 10 == round).for_each(|number| heap.remove(number));
        }
    }

    #[test]
    fn a_page_that_is_being_emptied_serves_again_when_items_come_back() {
        let items = if cfg!(miri) { 8_000 } else { 60_000 };
        let mut heap = Heap { index: Index::new(1024), pages: Vec::new(), held: 0 };
        (0..items).for_each(|number| heap.insert(number));
        (0..items).filter(|number| number % 4 != 0).for_each(|number| heap.remove(number));
        // Every step of the shrinking may be the last one before growth.
        for step in 0..200 {
            for _ in 0..step % 7 {
                if let Shrunk::Page(_) = heap.index.shrink(&Numbers) {
                    heap.held -= 1;
                }
            }
            let fresh = items + step * 300..items + (step + 1) * 300;
            fresh.clone().for_each(|number| heap.insert(number));
            heap.check(fresh);
        }
        heap.check((0..items).filter(|number| number % 4 == 0));
    }
}
