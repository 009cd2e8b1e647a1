//! What travels on a link between two cores of two nodes.
//!
//! ```text
//! frame      length u32 | kind u8 | payload        length counts kind and payload
//!   1 requests    request ...
//!   2 answers     answer ...
//!   3 peering     bytes of the other end's `Peering`
//! request    head (postcard) | key | tags | value
//! answer     id u64 | outcome (postcard; none: not executed) | length u32 | value
//! ```
//! The core that opened the link sends requests and the peering bytes of a
//! primary; answers and the replica's bytes come back. Numbers are little-endian.

use engine::{KeyHash, Outcome, Request, Verb};
use serde::{Deserialize, Serialize};

/// Version of all of this; both ends must have the same.
pub const VERSION: u16 = 3;

/// Frame of requests.
pub const REQUESTS: u8 = 1;
/// Frame of answers.
pub const ANSWERS: u8 = 2;
/// Frame for the `Peering`.
pub const PEERING: u8 = 3;
/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 5;

#[derive(Serialize, Deserialize)]
struct Head {
    id: u64,
    hash: u64,
    verb: Verb,
    key_bytes: u32,
    tags_bytes: u32,
    value_bytes: u32,
}

/// Starts a frame; its length is filled in by [`end_frame`].
pub fn begin_frame(kind: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind]);
    start
}

/// Ends a frame; an empty one is taken back.
pub fn end_frame(start: usize, out: &mut Vec<u8>) {
    let length = out.len() - start - 4;
    if length == 1 {
        out.truncate(start);
    } else {
        out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }
}

/// What stands at the start of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// So many bytes are missing.
    Incomplete(usize),
    /// A frame and its length in all.
    Complete {
        /// What it is.
        kind: u8,
        /// Its content.
        payload: &'a [u8],
        /// Bytes of the whole frame.
        bytes: usize,
    },
    /// No frame begins like this.
    Garbage,
}

/// Reads the frame at the start of `input`.
pub fn read_frame(input: &[u8], frame_bytes_max: usize) -> Frame<'_> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else {
        return Frame::Incomplete(FRAME_HEADER_BYTES - input.len());
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > frame_bytes_max {
        return Frame::Garbage;
    }
    match rest.get(..length) {
        None => Frame::Incomplete(length - rest.len()),
        Some(frame) => Frame::Complete { kind: frame[0], payload: &frame[1..], bytes: length + 4 },
    }
}

/// Appends a request.
pub fn put_request(id: u64, hash: KeyHash, request: &Request<'_>, out: &mut Vec<u8>) {
    let head = Head {
        id,
        hash: hash.0,
        verb: request.verb,
        key_bytes: request.key.len() as u32,
        tags_bytes: request.tags.len() as u32,
        value_bytes: request.value.len() as u32,
    };
    *out = postcard::to_extend(&head, std::mem::take(out)).expect("a vector takes everything");
    out.extend_from_slice(request.key);
    out.extend_from_slice(request.tags);
    out.extend_from_slice(request.value);
}

/// What was taken from the front, and what follows it. `None`: garbage.
pub type Taken<'a, T> = Option<(T, &'a [u8])>;

/// Takes the first request.
pub fn take_request(input: &[u8]) -> Taken<'_, (u64, KeyHash, Request<'_>)> {
    let (head, rest): (Head, _) = postcard::take_from_bytes(input).ok()?;
    let (key, rest) = rest.split_at_checked(head.key_bytes as usize)?;
    let (tags, rest) = rest.split_at_checked(head.tags_bytes as usize)?;
    let (value, rest) = rest.split_at_checked(head.value_bytes as usize)?;
    if key.len() > engine::KEY_BYTES_MAX {
        return None;
    }
    Some(((head.id, KeyHash(head.hash), Request { verb: head.verb, key, tags, value }), rest))
}

/// Appends an answer. Without an outcome it says that nothing was executed: the node
/// does not hold the key, or not yet.
pub fn put_answer(id: u64, outcome: Option<&Outcome>, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_le_bytes());
    *out = postcard::to_extend(&outcome, std::mem::take(out)).expect("a vector takes everything");
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

/// Takes the first answer.
pub fn take_answer(input: &[u8]) -> Taken<'_, (u64, Option<Outcome>, &[u8])> {
    let (id, rest) = input.split_first_chunk::<8>()?;
    let (outcome, rest) = postcard::take_from_bytes(rest).ok()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(((u64::from_le_bytes(*id), outcome, value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Expiry, WriteMode, WriteOptions};

    #[test]
    fn requests_and_answers_read_as_they_were_written() {
        let options = WriteOptions::classic(WriteMode::Append, 7, Expiry(123_456), Some(u64::MAX));
        let verb = Verb::Write(options);
        let request = Request { verb, key: b"k", tags: b"f", value: b"value" };
        let mut out = Vec::new();
        let start = begin_frame(REQUESTS, &mut out);
        for id in 0..3 {
            put_request(id, KeyHash(id << 40), &request, &mut out);
        }
        end_frame(start, &mut out);
        for length in 0..out.len() {
            assert!(matches!(read_frame(&out[..length], 1 << 20), Frame::Incomplete(1..)));
        }
        let Frame::Complete { kind: REQUESTS, mut payload, bytes } = read_frame(&out, 1 << 20)
        else {
            panic!("a frame");
        };
        assert_eq!(bytes, out.len());
        for id in 0..3 {
            let ((got, hash, request), rest) = take_request(payload).unwrap();
            assert_eq!((got, hash), (id, KeyHash(id << 40)));
            assert_eq!(
                (request.key, request.tags, request.value),
                (&b"k"[..], &b"f"[..], &b"value"[..])
            );
            let Verb::Write(options) = request.verb else { panic!("{:?}", request.verb) };
            assert_eq!((options.expiry, options.mode), (Expiry(123_456), WriteMode::Append));
            payload = rest;
        }
        assert!(payload.is_empty() && take_request(payload).is_none());

        let mut out = Vec::new();
        put_answer(9, None, b"", &mut out);
        put_answer(10, Some(&Outcome::Missing), b"value", &mut out);
        let (first, rest) = take_answer(&out).unwrap();
        assert_eq!(first, (9, None, &b""[..]));
        assert_eq!(take_answer(rest).unwrap().0, (10, Some(Outcome::Missing), &b"value"[..]));
        assert!(take_answer(&rest[..rest.len() - 1]).is_none());
        assert_eq!(read_frame(&[0, 0, 0, 0, 1], 100), Frame::Garbage);
        assert_eq!(read_frame(&[255, 0, 0, 0, 1], 100), Frame::Garbage);
    }
}
