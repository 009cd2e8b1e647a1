//! What travels on a link: frames of requests, answers and replication.
//!
//! ```text
//! frame     kind u8 | length u32 | payload
//! request   id u64 | hash u64 | key u32 | op u8 | compare u64 |
//!           value u64 | padding u16 | ttl u16 | tag u8
//! answer    id u64 | kind u8 | value u40 | epoch u24 | cas u64
//! ```
//!
//! The epoch in which it was executed is there for the judge.

use super::data::{Answer, Op, Store};

pub const REQUESTS: u8 = 1;
pub const ANSWERS: u8 = 2;
pub const PEERING: u8 = 3;

/// Appends a frame, unless it would be empty.
pub fn put_frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    if !payload.is_empty() {
        out.push(kind);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
    }
}

/// The first frame: its kind, its payload and its length as a whole.
pub fn take_frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (kind, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    Some((*kind, payload, payload.len() + 5))
}

/// A request as it travels.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub id: u64,
    pub hash: u64,
    pub key: u32,
    pub op: Op,
}

pub fn put_request(request: &Passed, out: &mut Vec<u8>) {
    let none = Store { value: 0, padding: 0, ttl_ms: 0, tag: 0 };
    let (op, store, compare) = match request.op {
        Op::Get => (0u8, none, 0),
        Op::Set(store) => (1, store, 0),
        Op::Delete => (2, none, 0),
        Op::Cas { store, compare } => (3, store, compare),
    };
    out.extend_from_slice(&request.id.to_le_bytes());
    out.extend_from_slice(&request.hash.to_le_bytes());
    out.extend_from_slice(&request.key.to_le_bytes());
    out.push(op);
    out.extend_from_slice(&compare.to_le_bytes());
    out.extend_from_slice(&store.value.to_le_bytes());
    out.extend_from_slice(&store.padding.to_le_bytes());
    out.extend_from_slice(&store.ttl_ms.to_le_bytes());
    out.push(store.tag);
}

pub fn take_request(bytes: &mut &[u8]) -> Option<Passed> {
    let id = take_u64(bytes)?;
    let hash = take_u64(bytes)?;
    let key = u32::from_le_bytes(take(bytes)?);
    let [kind] = take(bytes)?;
    let (compare, value) = (take_u64(bytes)?, take_u64(bytes)?);
    let padding = u16::from_le_bytes(take(bytes)?);
    let ttl_ms = u16::from_le_bytes(take(bytes)?);
    let [tag] = take(bytes)?;
    let store = Store { value, padding, ttl_ms, tag };
    let op = match kind {
        0 => Op::Get,
        1 => Op::Set(store),
        2 => Op::Delete,
        _ => Op::Cas { store, compare },
    };
    Some(Passed { id, hash, key, op })
}

pub fn put_answer(id: u64, answer: Answer, epoch: u32, out: &mut Vec<u8>) {
    let (kind, value, cas) = match answer {
        Answer::Value(Some((value, cas))) => (0u8, value, cas),
        Answer::Value(None) => (1, 0, 0),
        Answer::Stored => (2, 0, 0),
        Answer::NotStored => (3, 0, 0),
        Answer::Deleted => (4, 0, 0),
        Answer::Refused => (5, 0, 0),
        Answer::Unknown => (6, 0, 0),
        Answer::Elsewhere => (7, 0, 0),
        Answer::Invalidated => (8, 0, 0),
    };
    out.extend_from_slice(&id.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&value.to_le_bytes()[..5]);
    out.extend_from_slice(&epoch.to_le_bytes()[..3]);
    out.extend_from_slice(&cas.to_le_bytes());
}

pub fn take_answer(bytes: &mut &[u8]) -> Option<(u64, Answer, u32)> {
    let id = take_u64(bytes)?;
    let [kind] = take(bytes)?;
    let (both, cas) = (take_u64(bytes)?, take_u64(bytes)?);
    let (value, epoch) = (both & ((1 << 40) - 1), (both >> 40) as u32);
    let answer = match kind {
        0 => Answer::Value(Some((value, cas))),
        1 => Answer::Value(None),
        2 => Answer::Stored,
        3 => Answer::NotStored,
        4 => Answer::Deleted,
        5 => Answer::Refused,
        6 => Answer::Unknown,
        8 => Answer::Invalidated,
        _ => Answer::Elsewhere,
    };
    Some((id, answer, epoch))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}
