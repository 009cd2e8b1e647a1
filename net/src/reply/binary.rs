//! Answers of the binary protocol. Quiet requests answer only what their
//! sender could not assume: hits of a get, errors of everything else.

use super::{Tail, make_room};
use crate::proto::binary::{Frame, Shape, Status, put_error, put_header, put_message};
use engine::{Found, Outcome, Refusal, WriteMode};

pub(super) fn put(
    key: &[u8],
    frame: Frame,
    shape: Shape,
    outcome: &Outcome,
    out: &mut Vec<u8>,
) -> Option<Tail> {
    let status = match (outcome, shape) {
        (Outcome::Found(found), Shape::Item { key: shows_key, .. }) => {
            return item(key, frame, found, shows_key, out);
        }
        (Outcome::Missing, Shape::Item { key: shows_key, .. }) => {
            missing(key, frame, shows_key, out);
            return None;
        }
        // An error in answer to a quiet get leaves python-binary-memcached out of
        // step: it counts as missing.
        (Outcome::Failed(_), Shape::Item { .. }) if frame.quiet => return None,
        (Outcome::Failed(why), _) => {
            put_message(out, frame, Status::Temporary, why.text().as_bytes());
            return None;
        }
        (Outcome::Number { value, cas, .. }, _) => {
            if !frame.quiet {
                put_header(out, frame, Status::Ok, 0, 0, 8, *cas);
                out.extend_from_slice(&value.to_be_bytes());
            }
            return None;
        }
        (Outcome::Refused(Refusal::TooLarge), Shape::Store(_)) => Status::TooBig,
        (Outcome::Refused(_), shape) => {
            let text: &[u8] = match shape {
                Shape::Number => b"Out of memory incrementing value",
                _ => b"Out of memory allocating item",
            };
            put_message(out, frame, Status::NoMemory, text);
            return None;
        }
        (Outcome::Stored { cas, .. }, _) => return done(frame, *cas, out),
        (Outcome::Deleted { .. } | Outcome::Touched, _) => return done(frame, 0, out),
        (Outcome::Exists, _) => Status::Exists,
        (Outcome::NotStored, Shape::Store(WriteMode::Add)) => Status::Exists,
        (Outcome::NotStored, Shape::Store(WriteMode::Append | WriteMode::Prepend)) => {
            Status::NotStored
        }
        (Outcome::NotStored, Shape::Store(WriteMode::Set)) => Status::NotStored,
        (Outcome::NotNumeric, _) => Status::NotNumeric,
        (Outcome::NotStored | Outcome::NotFound | Outcome::Missing | Outcome::Found(_), _) => {
            Status::NotFound
        }
    };
    put_error(out, frame, status);
    None
}

/// Success without a body.
#[inline]
fn done(frame: Frame, cas: u64, out: &mut Vec<u8>) -> Option<Tail> {
    if !frame.quiet {
        put_header(out, frame, Status::Ok, 0, 0, 0, cas);
    }
    None
}

#[inline]
fn item(
    key: &[u8],
    frame: Frame,
    found: &Found,
    shows_key: bool,
    out: &mut Vec<u8>,
) -> Option<Tail> {
    let key_bytes = if shows_key { key.len() } else { 0 };
    let value_bytes = if found.with_value { found.value_bytes } else { 0 };
    make_room(key_bytes + 28, value_bytes, out);
    let body_bytes = 4 + key_bytes as u32 + value_bytes;
    put_header(out, frame, Status::Ok, 4, key_bytes as u16, body_bytes, found.cas);
    out.extend_from_slice(&found.client_flags.to_be_bytes());
    if shows_key {
        out.extend_from_slice(key);
    }
    found.with_value.then_some(Tail::Nothing)
}

fn missing(key: &[u8], frame: Frame, shows_key: bool, out: &mut Vec<u8>) {
    if frame.quiet {
        return;
    }
    if shows_key {
        put_header(out, frame, Status::NotFound, 0, key.len() as u16, key.len() as u32, 0);
        out.extend_from_slice(key);
    } else {
        put_error(out, frame, Status::NotFound);
    }
}
