//! An item on its way: what a snapshot, a replica or a migration carries.

use crate::{Expiry, Tag, Version};
use core::num::NonZeroU64;

/// The tags of an item as they lie in it: eight bytes each, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagBytes<'a>(&'a [u8]);

impl<'a> TagBytes<'a> {
    /// Wraps `bytes`; `None` if they are not whole non-zero tags, or too many.
    pub fn new(bytes: &'a [u8]) -> Option<TagBytes<'a>> {
        let (tags, rest) = bytes.as_chunks::<8>();
        let valid = rest.is_empty()
            && tags.len() <= crate::TAGS_MAX
            && tags.iter().all(|tag| *tag != [0; 8]);
        valid.then_some(TagBytes(bytes))
    }

    /// The packed bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The tags, in the order in which the writer gave them.
    pub fn iter(self) -> impl Iterator<Item = Tag> + 'a {
        self.0
            .as_chunks::<8>()
            .0
            .iter()
            .filter_map(|tag| NonZeroU64::new(u64::from_le_bytes(*tag)).map(Tag))
    }
}

/// Where a record's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordValue<'a> {
    /// Here, in one piece.
    Inline(&'a [u8]),
    /// Too long for one piece: read it through a pin, write it through a reservation.
    Elsewhere,
}

/// An item with all its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Length of the value, wherever it is.
    pub value_bytes: u32,
    /// The value.
    pub value: RecordValue<'a>,
    /// Client flags.
    pub client_flags: u32,
    /// When the item expires.
    pub expiry: Expiry,
    /// Version; [`Version::ZERO`] where none is kept (`-C`).
    pub version: Version,
    /// The CAS that a client set (meta `E`).
    pub explicit_cas: Option<u64>,
    /// Hashes of its tags.
    pub tags: TagBytes<'a>,
    /// Marked stale (meta `md I`).
    pub stale: bool,
    /// The right to refill is out (meta `W` was answered).
    pub token_sent: bool,
    /// It was read since it was written.
    pub fetched: bool,
    /// The key came in as base64 (meta `b`).
    pub binary_key: bool,
}
