//! An item in its chunk.
//!
//! ```text
//! byte 0   flags: 1 ttl, 2 version, 4 client flags, 8 chained, 16 extended,
//!          32 stale, 64 token sent (somebody refills), 128 fetched
//! byte 1   the policy's mark (7 bits), 128: the key came in as base64
//! byte 2   key length
//! byte 3   slack: bytes of the chunk behind the value. One more byte (little
//!          endian) where chunks are 1 KiB and larger
//!          then, each only where its flag says so:
//!   ttl           u32  second of death; u32::MAX never
//!   version       u64
//!   client flags  u32
//!   chained       u32 length of the whole value, u32 next chunk
//!   extended      u8: 1 sub-second, 2 explicit CAS, 4 access time,
//!                 upper five bits: number of tags; then
//!                 u16 milliseconds, u64 CAS, u32 second, 8 bytes a tag
//!          key
//!          value
//! ```
//!
//! The value's length is not stored: it is what the slack leaves. So an item
//! with TTL and version costs 16 bytes, and one without 4.
//!
//! A value too long for a chunk is *chained*: its first piece lies at the very
//! end of the head chunk, behind a fixed room for any header, so that the
//! header can change (and be written last, when the value arrived) without
//! moving the value. `chain` says how it goes on.

use crate::slab::Slab;
use crate::slab::class::WIDE_CHUNK_BYTES;
use crate::{CasForm, ChunkRef, Expiry, KEY_BYTES_MAX, Now, TAGS_MAX, Tag, Version};
use core::num::NonZeroU64;

pub(crate) const TTL: u8 = 1;
pub(crate) const VERSION: u8 = 2;
pub(crate) const CLIENT_FLAGS: u8 = 4;
pub(crate) const CHAINED: u8 = 8;
pub(crate) const EXTENDED: u8 = 16;
pub(crate) const STALE: u8 = 32;
pub(crate) const TOKEN_SENT: u8 = 64;
pub(crate) const FETCHED: u8 = 128;

const MARK: u8 = 127;
const BINARY_KEY: u8 = 128;

const SUB_SECOND: u8 = 1;
const EXPLICIT_CAS: u8 = 2;
const ACCESS_TIME: u8 = 4;

/// Room for any header in the head chunk of a chain.
pub(crate) const HEADER_BYTES_MAX: usize = 5 + 4 + 8 + 4 + 8 + 1 + 2 + 8 + 4 + 8 * TAGS_MAX;

/// Bytes of the fields named by the low four flags.
const FIELD_BYTES: [u8; 16] = {
    let mut table = [0u8; 16];
    let mut flags = 0;
    while flags < 16 {
        table[flags] =
            (4 * (flags & 1) + 8 * (flags >> 1 & 1) + 4 * (flags >> 2 & 1) + 8 * (flags >> 3 & 1))
                as u8;
        flags += 1;
    }
    table
};

/// Tags, copied out of an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TagList {
    len: u8,
    tags: [u64; TAGS_MAX],
}

impl TagList {
    const EMPTY: TagList = TagList { len: 0, tags: [0; TAGS_MAX] };
    /// No tags, for as long as anybody wants.
    pub const NONE: &'static TagList = &TagList::EMPTY;

    /// An empty list to be filled.
    pub const fn new() -> TagList {
        TagList::EMPTY
    }

    /// The first [`TAGS_MAX`] of `tags`.
    pub fn of(tags: &[Tag]) -> TagList {
        let mut list = TagList::new();
        for tag in tags.iter().take(TAGS_MAX) {
            list.tags[usize::from(list.len)] = tag.0.get();
            list.len += 1;
        }
        list
    }

    /// Adds a tag, if there is room.
    pub fn push(&mut self, tag: Tag) {
        if usize::from(self.len) < TAGS_MAX {
            self.tags[usize::from(self.len)] = tag.0.get();
            self.len += 1;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Tag> + '_ {
        self.tags[..usize::from(self.len)].iter().filter_map(|tag| NonZeroU64::new(*tag).map(Tag))
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Everything in an item's header but its lengths. The tags, which most items
/// do not have, are borrowed: the rest is copied about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'t> {
    /// `STALE | TOKEN_SENT | FETCHED`.
    pub state: u8,
    pub mark: u8,
    pub binary_key: bool,
    pub expiry: Expiry,
    pub version: Option<Version>,
    pub client_flags: u32,
    pub cas: Option<u64>,
    pub access_second: Option<u32>,
    pub tags: &'t TagList,
}

/// How an item is laid out; computed before its chunk is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    flags: u8,
    extended: u8,
    /// Header bytes with a narrow slack.
    header_bytes: usize,
}

/// The second and the millisecond in it that a header stores.
fn split_expiry(expiry: Expiry) -> (u32, u16) {
    if expiry == Expiry::NEVER {
        return (u32::MAX, 0);
    }
    let second = expiry.0 / 1000;
    if second >= u64::from(u32::MAX) {
        (u32::MAX - 1, 0)
    } else {
        (second as u32, (expiry.0 % 1000) as u16)
    }
}

impl Fields<'_> {
    pub fn layout(&self, chained: bool) -> Layout {
        let mut flags = self.state & (STALE | TOKEN_SENT | FETCHED);
        let (second, millisecond) = split_expiry(self.expiry);
        if second != u32::MAX {
            flags |= TTL;
        }
        if self.version.is_some() {
            flags |= VERSION;
        }
        if self.client_flags != 0 {
            flags |= CLIENT_FLAGS;
        }
        if chained {
            flags |= CHAINED;
        }
        let mut extended = self.tags.len << 3;
        let mut extended_bytes = 8 * usize::from(self.tags.len);
        if millisecond != 0 {
            extended |= SUB_SECOND;
            extended_bytes += 2;
        }
        if self.cas.is_some() {
            extended |= EXPLICIT_CAS;
            extended_bytes += 8;
        }
        if self.access_second.is_some() {
            extended |= ACCESS_TIME;
            extended_bytes += 4;
        }
        let mut header_bytes = 4 + usize::from(FIELD_BYTES[usize::from(flags & 15)]);
        if extended != 0 {
            flags |= EXTENDED;
            header_bytes += 1 + extended_bytes;
        }
        Layout { flags, extended, header_bytes }
    }
}

impl Layout {
    /// Bytes that an item of this layout takes in a chunk of `chunk_bytes`.
    pub fn bytes(&self, chunk_bytes: usize, key_bytes: usize, value_bytes: usize) -> usize {
        self.header_bytes + usize::from(chunk_bytes >= WIDE_CHUNK_BYTES) + key_bytes + value_bytes
    }
}

/// A cursor that writes numbers little endian.
struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(&bytes);
        self.at += N;
    }
}

/// Writes the header and key of an item into its chunk. Returns where in the
/// arena its value (of a chained item: the first piece) begins.
pub(crate) fn encode(
    slab: &mut Slab,
    at: ChunkRef,
    layout: &Layout,
    fields: &Fields<'_>,
    key: &[u8],
    value_bytes: usize,
    next: ChunkRef,
) -> usize {
    debug_assert!(key.len() <= KEY_BYTES_MAX);
    let (offset, chunk_bytes) = slab.locate(at);
    let wide = chunk_bytes >= WIDE_CHUNK_BYTES;
    let header_bytes = layout.header_bytes + usize::from(wide);
    let chained = layout.flags & CHAINED != 0;
    let (head_bytes, slack) = if chained {
        (head_piece_bytes(chunk_bytes, key.len(), value_bytes), 0)
    } else {
        (value_bytes, chunk_bytes - header_bytes - key.len() - value_bytes)
    };
    debug_assert!(wide || slack <= 255);
    let mut out = Writer { bytes: slab.arena.slice_mut(offset, header_bytes + key.len()), at: 0 };
    let second = fields.mark & MARK | if fields.binary_key { BINARY_KEY } else { 0 };
    out.put([layout.flags, second, key.len() as u8, slack as u8]);
    if wide {
        out.put([(slack >> 8) as u8]);
    }
    let (ttl, millisecond) = split_expiry(fields.expiry);
    if layout.flags & TTL != 0 {
        out.put(ttl.to_le_bytes());
    }
    if let Some(version) = fields.version {
        out.put(version.0.to_le_bytes());
    }
    if layout.flags & CLIENT_FLAGS != 0 {
        out.put(fields.client_flags.to_le_bytes());
    }
    if chained {
        out.put((value_bytes as u32).to_le_bytes());
        out.put(next.0.to_le_bytes());
    }
    if layout.flags & EXTENDED != 0 {
        out.put([layout.extended]);
        if layout.extended & SUB_SECOND != 0 {
            out.put(millisecond.to_le_bytes());
        }
        if let Some(cas) = fields.cas {
            out.put(cas.to_le_bytes());
        }
        if let Some(second) = fields.access_second {
            out.put(second.to_le_bytes());
        }
        for tag in fields.tags.iter() {
            out.put(tag.0.get().to_le_bytes());
        }
    }
    let key_at = out.at;
    out.bytes[key_at..].copy_from_slice(key);
    if chained { offset + chunk_bytes - head_bytes } else { offset + header_bytes + key.len() }
}

/// Bytes of a chained value that lie in its head chunk.
pub(crate) fn head_piece_bytes(chunk_bytes: usize, key_bytes: usize, value_bytes: usize) -> usize {
    (chunk_bytes - HEADER_BYTES_MAX - key_bytes).min(value_bytes)
}

/// A decoded header: where the parts of an item lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub flags: u8,
    second: u8,
    /// Offset of the chunk in the arena.
    pub offset: usize,
    fields: usize,
    extended: usize,
    pub key: usize,
    pub key_bytes: usize,
    pub value: usize,
    /// Bytes of the first piece.
    pub head_bytes: usize,
    /// Bytes of the whole value.
    pub value_bytes: usize,
    /// The chunk that continues the value.
    pub next: ChunkRef,
}

#[inline(always)]
fn read_u32(slab: &Slab, offset: usize) -> u32 {
    u32::from_le_bytes(slab.arena.slice(offset, 4).try_into().unwrap_or_default())
}

#[inline(always)]
fn read_u64(slab: &Slab, offset: usize) -> u64 {
    u64::from_le_bytes(slab.arena.slice(offset, 8).try_into().unwrap_or_default())
}

/// Whether the item in `at` is chained.
#[inline]
pub(crate) fn is_chained(slab: &Slab, at: ChunkRef) -> bool {
    slab.arena.slice(slab.offset(at), 1)[0] & CHAINED != 0
}

/// [`View::bytes`] of the item in `at`.
#[inline]
pub(crate) fn bytes(slab: &Slab, at: ChunkRef) -> usize {
    let (offset, chunk_bytes) = slab.locate(at);
    let start = slab.arena.slice(offset, 8);
    if start[0] & CHAINED != 0 {
        return View::of(slab, at).bytes();
    }
    let wide = if chunk_bytes >= WIDE_CHUNK_BYTES { usize::from(start[4]) << 8 } else { 0 };
    chunk_bytes - (usize::from(start[3]) | wide)
}

/// Bytes of the extended part but its first.
fn extended_bytes(extended: u8) -> usize {
    2 * usize::from(extended & 1)
        + 8 * usize::from(extended >> 1 & 1)
        + 4 * usize::from(extended >> 2 & 1)
        + 8 * usize::from(extended >> 3)
}

impl View {
    /// Decodes the item in `at`.
    #[inline]
    pub fn of(slab: &Slab, at: ChunkRef) -> View {
        let (offset, chunk_bytes) = slab.locate(at);
        let start = slab.arena.slice(offset, 8);
        let flags = start[0];
        let key_bytes = usize::from(start[2]);
        let mut slack = usize::from(start[3]);
        let mut fields = offset + 4;
        if chunk_bytes >= WIDE_CHUNK_BYTES {
            slack |= usize::from(start[4]) << 8;
            fields += 1;
        }
        let mut key = fields + usize::from(FIELD_BYTES[usize::from(flags & 15)]);
        let extended = key;
        if flags & EXTENDED != 0 {
            key += 1 + extended_bytes(slab.arena.slice(extended, 1)[0]);
        }
        let (value, head_bytes, value_bytes, next);
        if flags & CHAINED != 0 {
            let chain = fields + usize::from(FIELD_BYTES[usize::from(flags & 7)]);
            value_bytes = read_u32(slab, chain) as usize;
            next = ChunkRef(read_u32(slab, chain + 4));
            head_bytes = head_piece_bytes(chunk_bytes, key_bytes, value_bytes);
            value = offset + chunk_bytes - head_bytes;
        } else {
            value = key + key_bytes;
            value_bytes = (offset + chunk_bytes - slack).saturating_sub(value);
            head_bytes = value_bytes;
            next = ChunkRef::NONE;
        }
        View {
            flags,
            second: start[1],
            offset,
            fields,
            extended,
            key,
            key_bytes,
            value,
            head_bytes,
            value_bytes,
            next,
        }
    }

    #[inline]
    pub fn key<'a>(&self, slab: &'a Slab) -> &'a [u8] {
        slab.arena.slice(self.key, self.key_bytes)
    }

    #[inline]
    pub fn head<'a>(&self, slab: &'a Slab) -> &'a [u8] {
        slab.arena.slice(self.value, self.head_bytes)
    }

    #[inline]
    pub fn is_chained(&self) -> bool {
        self.flags & CHAINED != 0
    }

    #[inline]
    pub fn binary_key(&self) -> bool {
        self.second & BINARY_KEY != 0
    }

    /// Bytes of chunk memory that the item itself needs (its chain's chunks
    /// not counted beyond their bytes).
    pub fn bytes(&self) -> usize {
        self.key - self.offset + self.key_bytes + self.value_bytes
    }

    /// The second of death, `u32::MAX` for never.
    #[inline]
    pub fn expiry_second(&self, slab: &Slab) -> u32 {
        if self.flags & TTL == 0 { u32::MAX } else { read_u32(slab, self.fields) }
    }

    #[inline]
    pub fn expiry(&self, slab: &Slab) -> Expiry {
        match self.expiry_second(slab) {
            u32::MAX => Expiry::NEVER,
            second => Expiry(u64::from(second) * 1000 + u64::from(self.millisecond(slab))),
        }
    }

    #[inline]
    fn millisecond(&self, slab: &Slab) -> u16 {
        if self.extended_flags(slab) & SUB_SECOND == 0 {
            return 0;
        }
        u16::from_le_bytes(slab.arena.slice(self.extended + 1, 2).try_into().unwrap_or_default())
    }

    #[inline]
    pub fn is_expired(&self, slab: &Slab, now: Now) -> bool {
        self.flags & TTL != 0 && self.expiry(slab).is_past(now)
    }

    #[inline]
    pub fn version(&self, slab: &Slab) -> Option<Version> {
        if self.flags & VERSION == 0 {
            return None;
        }
        Some(Version(read_u64(slab, self.fields + 4 * usize::from(self.flags & TTL))))
    }

    #[inline]
    pub fn client_flags(&self, slab: &Slab) -> u32 {
        if self.flags & CLIENT_FLAGS == 0 {
            return 0;
        }
        read_u32(slab, self.fields + usize::from(FIELD_BYTES[usize::from(self.flags & 3)]))
    }

    #[inline]
    fn extended_flags(&self, slab: &Slab) -> u8 {
        if self.flags & EXTENDED == 0 { 0 } else { slab.arena.slice(self.extended, 1)[0] }
    }

    /// The CAS that a client set.
    #[inline]
    pub fn explicit_cas(&self, slab: &Slab) -> Option<u64> {
        let extended = self.extended_flags(slab);
        if extended & EXPLICIT_CAS == 0 {
            return None;
        }
        Some(read_u64(slab, self.extended + 1 + 2 * usize::from(extended & SUB_SECOND)))
    }

    /// What clients see as the CAS unique.
    #[inline]
    pub fn cas(&self, slab: &Slab, form: CasForm) -> u64 {
        self.explicit_cas(slab).unwrap_or_else(|| form.unique(self.version(slab)))
    }

    fn access_offset(&self, extended: u8) -> usize {
        self.extended + 1 + extended_bytes(extended & (SUB_SECOND | EXPLICIT_CAS))
    }

    /// The second of the last access, where it is kept.
    pub fn access_second(&self, slab: &Slab) -> Option<u32> {
        let extended = self.extended_flags(slab);
        (extended & ACCESS_TIME != 0).then(|| read_u32(slab, self.access_offset(extended)))
    }

    /// Notes an access, where it is kept.
    pub fn set_access_second(&self, slab: &mut Slab, second: u32) {
        let extended = self.extended_flags(slab);
        if extended & ACCESS_TIME != 0 {
            slab.arena
                .slice_mut(self.access_offset(extended), 4)
                .copy_from_slice(&second.to_le_bytes());
        }
    }

    pub fn has_tags(&self, slab: &Slab) -> bool {
        self.extended_flags(slab) >> 3 != 0
    }

    /// The tags as they lie there, eight bytes each.
    pub fn tag_bytes<'a>(&self, slab: &'a Slab) -> &'a [u8] {
        let extended = self.extended_flags(slab);
        let offset = self.extended + 1 + extended_bytes(extended & 7);
        slab.arena.slice(offset, 8 * usize::from(extended >> 3))
    }

    pub fn tags(&self, slab: &Slab) -> TagList {
        let extended = self.extended_flags(slab);
        let mut list = TagList::new();
        let mut offset = self.extended + 1 + extended_bytes(extended & 7);
        for tag in list.tags.iter_mut().take(usize::from(extended >> 3)) {
            *tag = read_u64(slab, offset);
            offset += 8;
        }
        list.len = extended >> 3;
        list
    }

    /// Everything in the header, to be written anew, with its own
    /// [`tags`](View::tags) or others.
    pub fn fields<'t>(&self, slab: &Slab, tags: &'t TagList) -> Fields<'t> {
        Fields {
            state: self.flags & (STALE | TOKEN_SENT | FETCHED),
            mark: self.second & MARK,
            binary_key: self.binary_key(),
            expiry: self.expiry(slab),
            version: self.version(slab),
            client_flags: self.client_flags(slab),
            cas: self.explicit_cas(slab),
            access_second: self.access_second(slab),
            tags,
        }
    }

    /// Replaces flags in place.
    pub fn set_flags(&mut self, slab: &mut Slab, flags: u8) {
        self.flags = flags;
        slab.arena.slice_mut(self.offset, 1)[0] = flags;
    }

    /// Replaces the next chunk of a chained item.
    pub fn set_next(&self, slab: &mut Slab, next: ChunkRef) {
        debug_assert!(self.is_chained());
        let chain = self.fields + usize::from(FIELD_BYTES[usize::from(self.flags & 7)]);
        slab.arena.slice_mut(chain + 4, 4).copy_from_slice(&next.0.to_le_bytes());
    }

    /// Writes changed fields without moving anything, if the layout allows.
    pub fn rewrite_in_place(&self, slab: &mut Slab, fields: &Fields<'_>) -> bool {
        let mut layout = fields.layout(self.is_chained());
        // A TTL field that says "never" stays; it will be wanted again.
        if self.flags & TTL != 0 && layout.flags & TTL == 0 {
            layout.flags |= TTL;
            layout.header_bytes += 4;
        }
        if layout.flags & 31 != self.flags & 31 || layout.extended != self.extended_flags(slab) {
            return false;
        }
        slab.arena.slice_mut(self.offset, 1)[0] = layout.flags;
        let mut at = self.fields;
        let mut put = |slab: &mut Slab, bytes: &[u8]| {
            slab.arena.slice_mut(at, bytes.len()).copy_from_slice(bytes);
            at += bytes.len();
        };
        let (second, millisecond) = split_expiry(fields.expiry);
        if layout.flags & TTL != 0 {
            put(slab, &second.to_le_bytes());
        }
        if let Some(version) = fields.version {
            put(slab, &version.0.to_le_bytes());
        }
        if layout.flags & CLIENT_FLAGS != 0 {
            put(slab, &fields.client_flags.to_le_bytes());
        }
        if layout.extended != 0 {
            let mut at = self.extended + 1;
            let mut put = |slab: &mut Slab, bytes: &[u8]| {
                slab.arena.slice_mut(at, bytes.len()).copy_from_slice(bytes);
                at += bytes.len();
            };
            if layout.extended & SUB_SECOND != 0 {
                put(slab, &millisecond.to_le_bytes());
            }
            if let Some(cas) = fields.cas {
                put(slab, &cas.to_le_bytes());
            }
            if let Some(second) = fields.access_second {
                put(slab, &second.to_le_bytes());
            }
        }
        true
    }
}

/// The policy's mark of an item.
#[inline]
pub(crate) fn mark(slab: &Slab, at: ChunkRef) -> u8 {
    slab.arena.slice(slab.offset(at) + 1, 1)[0] & MARK
}

/// Sets the policy's mark.
#[inline]
pub(crate) fn set_mark(slab: &mut Slab, at: ChunkRef, mark: u8) {
    let offset = slab.offset(at) + 1;
    let byte = &mut slab.arena.slice_mut(offset, 1)[0];
    *byte = *byte & BINARY_KEY | mark & MARK;
}

/// Whether the item in `at` has this key.
#[inline(always)]
pub(crate) fn has_key(slab: &Slab, at: ChunkRef, key: &[u8]) -> bool {
    let (offset, chunk_bytes) = slab.locate(at);
    let start = slab.arena.slice(offset, 4);
    if usize::from(start[2]) != key.len() {
        return false;
    }
    let flags = start[0];
    let mut key_at = offset
        + 4
        + usize::from(chunk_bytes >= WIDE_CHUNK_BYTES)
        + usize::from(FIELD_BYTES[usize::from(flags & 15)]);
    if flags & EXTENDED != 0 {
        key_at += 1 + extended_bytes(slab.arena.slice(key_at, 1)[0]);
    }
    slab.arena.slice(key_at, key.len()) == key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClassId;
    use crate::slab::arena::Arena;
    use alloc::vec::Vec;

    fn slab() -> Slab {
        Slab::new(Arena::heap(4 << 20), 0)
    }

    /// Every combination of fields comes back as it was written.
    #[test]
    fn fields_survive_their_encoding() {
        let tags: Vec<Tag> = (1..=16).filter_map(|tag| NonZeroU64::new(tag * 7).map(Tag)).collect();
        for pattern in 0..128u32 {
            for value_bytes in [0, 1, 100, 1500] {
                let mut slab = slab();
                let on = |bit: u32| pattern >> bit & 1 == 1;
                let fields = Fields {
                    state: if on(0) { STALE } else { FETCHED },
                    mark: 85,
                    binary_key: on(1),
                    expiry: if on(2) {
                        Expiry(1_700_000_000_000 + if on(3) { 250 } else { 0 })
                    } else {
                        Expiry::NEVER
                    },
                    version: on(4).then_some(Version(77 << 20)),
                    client_flags: if on(5) { 9 } else { 0 },
                    cas: on(6).then_some(42),
                    access_second: on(3).then_some(1_600_000_000),
                    tags: &TagList::of(&tags[..(pattern % 17) as usize]),
                };
                let layout = fields.layout(false);
                let needed = layout.bytes(4096, 3, value_bytes);
                let class = slab.table.of(needed).unwrap();
                assert!(slab.add_page(class));
                let at = slab.take_chunk(class).unwrap();
                let value =
                    encode(&mut slab, at, &layout, &fields, b"key", value_bytes, ChunkRef::NONE);
                slab.arena.slice_mut(value, value_bytes).fill(0xab);
                let view = View::of(&slab, at);
                assert_eq!(view.key(&slab), b"key");
                assert!(has_key(&slab, at, b"key") && !has_key(&slab, at, b"kez"));
                assert_eq!(view.value_bytes, value_bytes);
                assert!(view.head(&slab).iter().all(|byte| *byte == 0xab));
                let read_tags = view.tags(&slab);
                let read = view.fields(&slab, &read_tags);
                assert_eq!(read.state, fields.state);
                assert_eq!((read.mark, read.binary_key), (85, on(1)));
                assert_eq!(read.expiry, fields.expiry);
                assert_eq!(read.version, fields.version);
                assert_eq!((read.client_flags, read.cas), (fields.client_flags, fields.cas));
                assert_eq!(read.access_second, fields.access_second);
                assert!(read.tags.iter().eq(fields.tags.iter()));
                assert!(view.rewrite_in_place(&mut slab, &read));
                assert_eq!(View::of(&slab, at).value_bytes, value_bytes);
                assert_eq!(slab.class_of(at), class);
            }
        }
    }

    #[test]
    fn an_item_with_ttl_and_version_costs_sixteen_bytes() {
        let fields = Fields {
            state: 0,
            mark: 0,
            binary_key: false,
            expiry: Expiry(1_700_000_000_000),
            version: Some(Version(1)),
            client_flags: 0,
            cas: None,
            access_second: None,
            tags: TagList::NONE,
        };
        assert_eq!(fields.layout(false).bytes(100, 10, 10), 36);
        let bare = Fields { expiry: Expiry::NEVER, version: None, ..fields };
        assert_eq!(bare.layout(false).bytes(100, 10, 10), 24);
        assert_eq!(slab().table.of(16), Some(ClassId(0)));
    }
}
