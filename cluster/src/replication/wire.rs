//! How messages lie on a link: each behind its length.

use super::message::{Change, Message};
use alloc::vec::Vec;
use engine::snapshot;

/// Appends a message behind its length.
pub(super) fn put(message: &Message<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    message.write(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// The first message, and what follows it; `None` if it is not all there.
pub(super) fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// The key in the bytes of a write.
pub(super) fn key_of(bytes: &[u8]) -> Option<&[u8]> {
    match Message::read(bytes)? {
        Message::Write { change: Change::Gone(key), .. } => Some(key),
        Message::Write { change: Change::Item(record), .. } => {
            Some(snapshot::records(record).next()??.key)
        }
        _ => None,
    }
}
