//! Values longer than a chunk, and values that another core fills or reads.
//!
//! A chained value begins in its item's head chunk (see `item`) and goes on in
//! *pieces*:
//!
//! ```text
//! byte 0   0, 0, 255 (no key is that long: "this is a piece"), 0
//!      4   u32 next piece        8   u32 previous chunk
//!     12   u32 head chunk       16   bytes of the value
//! ```
//!
//! A chunk that is taken but not (or no longer) an item says 254 there: a
//! reservation's head, or a deleted item that is still pinned.
//!
//! [`Reservation`] and [`Pin`] carry the addresses of all their pieces, so a
//! core that does not own the shard can fill or read the bytes without looking
//! at anything that the owner changes. They keep the arena's memory mapped.

use crate::item::View;
use crate::slab::Slab;
use crate::{CasForm, ChunkRef, ClassId, Expiry};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

/// Bytes of a piece's header.
pub(crate) const PIECE_HEADER_BYTES: usize = 16;
/// Key length that marks a piece of a chain.
const IS_PIECE: u8 = 255;
/// Key length that marks a chunk which is taken but no item.
const IS_TAKEN: u8 = 254;

/// What a used chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkKind {
    Item,
    Piece,
    Taken,
}

/// What a used chunk holds.
pub(crate) fn kind(slab: &Slab, at: ChunkRef) -> ChunkKind {
    match slab.arena.slice(slab.offset(at) + 2, 1)[0] {
        IS_PIECE => ChunkKind::Piece,
        IS_TAKEN => ChunkKind::Taken,
        _ => ChunkKind::Item,
    }
}

/// Marks a chunk as taken but no item.
pub(crate) fn mark_taken(slab: &mut Slab, at: ChunkRef) {
    // One byte, because a deleted item's value may still be read by its pins.
    let offset = slab.offset(at) + 2;
    slab.arena.slice_mut(offset, 1)[0] = IS_TAKEN;
}

/// The links of a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PieceLinks {
    pub next: ChunkRef,
    pub previous: ChunkRef,
    pub head: ChunkRef,
}

pub(crate) fn piece_links(slab: &Slab, at: ChunkRef) -> PieceLinks {
    let offset = slab.offset(at);
    let word = |index: usize| {
        let bytes = slab.arena.slice(offset + 4 * index, 4);
        ChunkRef(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    PieceLinks { next: word(1), previous: word(2), head: word(3) }
}

pub(crate) fn set_piece_links(slab: &mut Slab, at: ChunkRef, links: PieceLinks) {
    let offset = slab.offset(at);
    let bytes = slab.arena.slice_mut(offset, PIECE_HEADER_BYTES);
    bytes[..4].copy_from_slice(&[0, 0, IS_PIECE, 0]);
    bytes[4..8].copy_from_slice(&links.next.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&links.previous.0.to_le_bytes());
    bytes[12..16].copy_from_slice(&links.head.0.to_le_bytes());
}

/// Offsets and lengths of the parts of a value, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    slab: &'a Slab,
    first: Option<(usize, usize)>,
    next: ChunkRef,
    remaining: usize,
}

impl<'a> Parts<'a> {
    pub fn of(slab: &'a Slab, view: &View) -> Parts<'a> {
        Parts {
            slab,
            first: Some((view.value, view.head_bytes)),
            next: view.next,
            remaining: view.value_bytes - view.head_bytes,
        }
    }
}

impl Iterator for Parts<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.next == ChunkRef::NONE || self.remaining == 0 {
            return None;
        }
        let (offset, chunk_bytes) = self.slab.locate(self.next);
        let len = (chunk_bytes - PIECE_HEADER_BYTES).min(self.remaining);
        self.remaining -= len;
        self.next = piece_links(self.slab, self.next).next;
        Some((offset + PIECE_HEADER_BYTES, len))
    }
}

/// An item as a reader sees it. Borrowed from the shard.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The first (mostly only) contiguous piece of the value.
    pub head: &'a [u8],
    /// The rest of the value.
    rest: Option<Parts<'a>>,
    /// Its scalars, and how it was found.
    pub found: Found,
}

/// The scalars of an item, and how a read found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// CAS unique: the version, or what the client set; 0 with `-C`.
    pub cas: u64,
    /// When the item expires.
    pub expiry: Expiry,
    /// Expiry before a touch; never for an item that the read created.
    pub expiry_before: Expiry,
    /// Length of the value.
    pub value_bytes: u32,
    /// Bytes of header, key and value.
    pub total_bytes: u32,
    /// Client flags.
    pub client_flags: u32,
    /// Seconds since its last access, or since its write without `access_times`
    /// (meta `l`).
    pub idle_seconds: u32,
    /// Its size class.
    pub class: ClassId,
    /// The value is wanted.
    pub with_value: bool,
    /// The key came in as base64 (meta `b`).
    pub binary_key: bool,
    /// The reader won the right to refill (meta `W`).
    pub won: bool,
    /// The item is stale (meta `X`).
    pub stale: bool,
    /// Somebody else holds the right to refill (meta `Z`).
    pub token_sent: bool,
    /// The read created the item (meta `N`).
    pub vivified: bool,
    /// It had been read before (meta `h`).
    pub hit_before: bool,
}

impl Deref for Item<'_> {
    type Target = Found;

    #[inline]
    fn deref(&self) -> &Found {
        &self.found
    }
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("key", &self.key.escape_ascii())
            .field("value_bytes", &self.value_bytes)
            .field("cas", &self.cas)
            .finish_non_exhaustive()
    }
}

impl<'a> Item<'a> {
    #[inline]
    pub(crate) fn of(slab: &'a Slab, view: &View, class: ClassId, form: CasForm) -> Item<'a> {
        let rest = view.is_chained().then(|| {
            let mut parts = Parts::of(slab, view);
            parts.first = None;
            parts
        });
        let expiry = view.expiry(slab);
        let found = Found {
            cas: view.cas(slab, form),
            expiry,
            expiry_before: expiry,
            value_bytes: view.value_bytes as u32,
            total_bytes: view.bytes() as u32,
            client_flags: view.client_flags(slab),
            idle_seconds: 0,
            class,
            with_value: true,
            binary_key: view.binary_key(),
            won: false,
            stale: false,
            token_sent: false,
            vivified: false,
            hit_before: false,
        };
        Item { key: view.key(slab), head: view.head(slab), rest, found }
    }

    /// The parts of the value, in order; `head` is the first.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let rest = self.rest.into_iter().flat_map(|parts| {
            let slab = parts.slab;
            parts.map(move |(offset, len)| slab.arena.slice(offset, len))
        });
        core::iter::once(self.head).chain(rest)
    }

    /// Appends the whole value to `out`.
    #[inline]
    pub fn copy_value_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head);
        if self.rest.is_some() {
            for piece in self.pieces().skip(1) {
                out.extend_from_slice(piece);
            }
        }
    }
}

/// One contiguous part of a value, by address.
#[derive(Clone, Copy, Debug)]
struct Part {
    address: NonNull<u8>,
    /// Bytes of the value before this part.
    start: usize,
    len: usize,
}

/// The parts of a value by address, and who keeps them mapped.
struct Addresses {
    parts: Vec<Part>,
    _owner: Arc<dyn Any + Send + Sync>,
}

impl Addresses {
    fn new(slab: &Slab, parts: impl Iterator<Item = (usize, usize)>) -> Addresses {
        let mut start = 0;
        let parts = parts
            .map(|(offset, len)| {
                let part = Part { address: slab.arena.pointer(offset, len), start, len };
                start += len;
                part
            })
            .collect();
        Addresses { parts, _owner: slab.arena.owner() }
    }

    /// The part that holds byte `offset` of the value, and what of it is left from there.
    fn at(&self, offset: usize) -> Option<(NonNull<u8>, usize)> {
        let index = self.parts.partition_point(|part| part.start + part.len <= offset);
        let part = self.parts.get(index)?;
        let skip = offset - part.start;
        // SAFETY: `skip` is below the part's length.
        Some((unsafe { part.address.add(skip) }, part.len - skip))
    }
}

/// Chunks taken for a value that is still arriving. `Send`: another core may
/// fill it. It must go back by [`Shard::write`](crate::Shard::write) or
/// [`Shard::abort`](crate::Shard::abort).
pub struct Reservation {
    pub(crate) head: ChunkRef,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    filled: usize,
    addresses: Addresses,
}

// SAFETY: the chunks are marked as taken; until the reservation comes back the
// shard neither reads nor writes their value bytes, moves them nor frees them.
// So whoever holds the reservation has them alone, on whatever thread.
unsafe impl Send for Reservation {}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("value_bytes", &self.value_bytes)
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    /// `parts` are the value bytes of the chunks from `head` on.
    pub(crate) fn new(
        slab: &Slab,
        head: ChunkRef,
        key_bytes: usize,
        value_bytes: usize,
        parts: impl Iterator<Item = (usize, usize)>,
    ) -> Reservation {
        let addresses = Addresses::new(slab, parts);
        Reservation { head, key_bytes, value_bytes, filled: 0, addresses }
    }

    /// Bytes of the value when it is complete.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Copies as much of `bytes` as still fits; returns how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let room = self.unfilled();
            if room.is_empty() {
                break;
            }
            let len = room.len().min(bytes.len() - taken);
            room[..len].copy_from_slice(&bytes[taken..taken + len]);
            taken += len;
            self.filled += len;
        }
        taken
    }

    /// The next contiguous bytes to fill; empty if nothing is missing. Say with
    /// [`filled`](Reservation::filled) how many of them were.
    pub fn unfilled(&mut self) -> &mut [u8] {
        match self.addresses.at(self.filled) {
            // SAFETY: the chunks are this reservation's alone (see Send), the
            // part is in bounds of the arena and initialised, and the arena's
            // owner keeps it mapped.
            Some((address, len)) => unsafe {
                core::slice::from_raw_parts_mut(address.as_ptr(), len)
            },
            None => &mut [],
        }
    }

    /// `len` bytes of [`unfilled`](Reservation::unfilled) hold the value now.
    pub fn filled(&mut self, len: usize) {
        self.filled = (self.filled + len).min(self.value_bytes);
    }

    /// Copies what was filled into another reservation.
    pub(crate) fn copy_to(&self, other: &mut Reservation) {
        let mut at = 0;
        while let Some((address, len)) = self.addresses.at(at) {
            // SAFETY: as in `unfilled`; this reads what it filled.
            other.fill(unsafe { core::slice::from_raw_parts(address.as_ptr(), len) });
            at += len;
        }
    }

    /// Bytes still missing.
    pub fn missing(&self) -> usize {
        self.value_bytes - self.filled
    }
}

/// A value held in place while it is being sent. `Send`: another core may read
/// it. It must go back by [`Shard::unpin`](crate::Shard::unpin).
pub struct Pin {
    pub(crate) head: ChunkRef,
    value_bytes: usize,
    client_flags: u32,
    cas: u64,
    /// The chunk that continues the value.
    next: ChunkRef,
    addresses: Addresses,
}

// SAFETY: while an item is pinned the shard does not write, move or free its
// value bytes; it only reads them, or writes other bytes of the chunk.
unsafe impl Send for Pin {}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("value_bytes", &self.value_bytes).finish_non_exhaustive()
    }
}

impl Pin {
    pub(crate) fn new(slab: &Slab, head: ChunkRef, view: &View, form: CasForm) -> Pin {
        Pin {
            head,
            value_bytes: view.value_bytes,
            client_flags: view.client_flags(slab),
            cas: view.cas(slab, form),
            next: view.next,
            addresses: Addresses::new(slab, Parts::of(slab, view)),
        }
    }

    /// The chunk that continues the value.
    pub(crate) fn continued(&self) -> ChunkRef {
        self.next
    }

    /// Value length in bytes.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The item's client flags.
    pub fn client_flags(&self) -> u32 {
        self.client_flags
    }

    /// The item's CAS unique when it was pinned.
    pub fn cas(&self) -> u64 {
        self.cas
    }

    /// The contiguous bytes of the value from `offset` on; empty at its end.
    pub fn piece(&self, offset: usize) -> &[u8] {
        match self.addresses.at(offset) {
            // SAFETY: nobody writes the value bytes while they are pinned (see
            // Send), the part is in bounds and initialised, and the arena's
            // owner keeps it mapped.
            Some((address, len)) => unsafe { core::slice::from_raw_parts(address.as_ptr(), len) },
            None => &[],
        }
    }

    /// Appends up to `len` bytes of the value from `offset` to `out`.
    pub fn copy_to(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let end = offset.saturating_add(len).min(self.value_bytes);
        let mut at = offset;
        while at < end {
            let piece = self.piece(at);
            let len = piece.len().min(end - at);
            out.extend_from_slice(&piece[..len]);
            at += len;
        }
    }
}
