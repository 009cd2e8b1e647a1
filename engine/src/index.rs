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
//! allocates by itself.

use crate::slab::arena::PAGE_BYTES;
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

/// Free blocks inside index pages.
#[derive(Debug, Default)]
struct Blocks {
    free: Vec<NonNull<u8>>,
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
        self.0.borrow_mut().free.push(block);
    }
}

#[derive(Debug)]
struct Segment {
    table: HashTable<u32, TableMemory>,
    /// How many bits of the spread hash all its items share.
    depth: u32,
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
    /// An index without memory; donate a page first.
    pub fn new() -> Index {
        Index {
            directory: Vec::new(),
            segments: Vec::new(),
            memory: TableMemory(Rc::new(RefCell::new(Blocks::default()))),
            depth: 0,
            len: 0,
            moving: Vec::new(),
        }
    }

    /// Items.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of heap beside the arena.
    pub fn heap_bytes(&self) -> usize {
        self.directory.capacity() * 4
            + self.segments.capacity() * size_of::<Segment>()
            + self.memory.0.borrow().free.capacity() * size_of::<usize>()
    }

    /// Takes a page of the arena for tables.
    ///
    /// # Safety
    /// `page` points to [`PAGE_BYTES`] bytes that nobody else uses as long as
    /// the index lives.
    pub unsafe fn donate(&mut self, page: NonNull<u8>) {
        let mut blocks = self.memory.0.borrow_mut();
        for number in (0..BLOCKS_PER_PAGE).rev() {
            // SAFETY: inside the page; a multiple of 16 as BLOCK_BYTES is one.
            blocks.free.push(unsafe { page.add(number * BLOCK_BYTES) });
        }
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
            let table = HashTable::with_capacity_in(ITEMS_MAX, self.memory.clone());
            self.segments.push(Segment { table, depth: 0 });
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
                return Room::NeedsPage;
            } else if segment.depth == DEPTH_MAX {
                return Room::Full;
            } else {
                self.split(number, hash, keys);
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

    /// Splits a segment by its next bit; `inside` is a hash that belongs to it.
    fn split(&mut self, number: usize, inside: KeyHash, keys: &impl Keys) {
        let depth = self.segments[number].depth;
        if depth == self.depth {
            self.double();
        }
        let new = self.segments.len();
        let table = HashTable::with_capacity_in(ITEMS_MAX, self.memory.clone());
        self.segments.push(Segment { table, depth: depth + 1 });
        self.segments[number].depth = depth + 1;
        let bit = 31 - depth;
        self.drain(number, keys, |index, hash, at| {
            let half = if spread(hash) >> bit & 1 == 1 { new } else { number };
            index.segments[half]
                .table
                .insert_unique(hash.0, at, |_| unreachable!("either table holds all of them"));
        });
        // The directory's run of this segment: its upper half now names the new one.
        let run = 1usize << (self.depth - depth);
        let slot = ((u64::from(spread(inside)) << self.depth) >> 32) as usize;
        let start = slot / run * run;
        self.directory[start + run / 2..start + run].fill(new as u32);
    }

    fn double(&mut self) {
        let mut directory = Vec::with_capacity(self.directory.len() * 2);
        for entry in &self.directory {
            directory.push(*entry);
            directory.push(*entry);
        }
        self.directory = directory;
        self.depth += 1;
    }
}
