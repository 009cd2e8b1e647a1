//! Answers of the binary protocol. Quiet requests answer only what their
//! sender could not assume: hits of a get, errors of everything else.

use super::{
    Held, Tail, after_delete, before_delete, copied_bytes, copy_value, observe_delete, observe_get,
    observe_set, refusal, refuse, write_classic,
};
use crate::core::Core;
use crate::proto::binary::{Frame, Status, put_error, put_header, put_message};
use crate::proto::meta::{tag_names, tags};
use crate::proto::{Dialect, Request, Store};
use engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteOutcome, Expiry, KeyHash, ReadOptions,
    Reservation, TAGS_MAX, Tag, WriteMode, WriteOutcome,
};
use std::num::NonZeroU64;

#[inline]
pub(super) fn get(
    key: &[u8],
    hash: KeyHash,
    frame: Frame,
    touch: Option<Expiry>,
    with_key: bool,
    with_value: bool,
    core: &mut Core,
    out: &mut Vec<u8>,
) -> Option<Held> {
    let (now, copy_bytes_max) = (core.now, core.copy_bytes_max);
    let item = match touch {
        None => core.shard.get(key, hash, now),
        Some(_) => {
            let options = ReadOptions { touch, classic: true, ..ReadOptions::default() };
            core.shard.read(key, hash, now, &options).ok().flatten().map(|read| read.item)
        }
    };
    let start = out.len();
    let seen = item.as_ref().map(|item| (item.class, item.value_bytes));
    let mut found = seen.is_some();
    let mut whole = true;
    if let Some(item) = item {
        let key_bytes = if with_key { key.len() } else { 0 };
        let shown_bytes = if with_value { item.value_bytes as usize } else { 0 };
        out.reserve(shown_bytes.min(copied_bytes(&item, copy_bytes_max)) + key_bytes + 28);
        put_header(
            out,
            frame,
            Status::Ok,
            4,
            key_bytes as u16,
            (4 + key_bytes + shown_bytes) as u32,
            item.cas,
        );
        out.extend_from_slice(&item.client_flags.to_be_bytes());
        if with_key {
            out.extend_from_slice(key);
        }
        whole = !with_value || copy_value(&item, copy_bytes_max, out);
    }
    observe_get(core, key, seen);
    if !whole {
        match core.shard.pin_read(key, hash) {
            Some(pin) => return Some(Held { pin, tail: Tail::Nothing }),
            None => {
                out.truncate(start);
                found = false;
            }
        }
    }
    if !found && !frame.quiet {
        if with_key {
            put_header(out, frame, Status::NotFound, 0, key.len() as u16, key.len() as u32, 0);
            out.extend_from_slice(key);
        } else {
            put_error(out, frame, Status::NotFound);
        }
    }
    None
}

#[inline]
pub(super) fn store(
    request: &Request<'_>,
    hash: KeyHash,
    frame: Frame,
    store: &Store,
    reserved: Option<Reservation>,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    observe_set(core, request.key);
    let mut tag_buffer = [Tag(NonZeroU64::MIN); TAGS_MAX];
    let mut tag_count = 0;
    if !request.flags.is_empty() {
        tag_count = tags(tag_names(request.flags).filter(|name| !name.is_empty()), &mut tag_buffer);
    }
    let outcome = write_classic(request, hash, store, &tag_buffer[..tag_count], reserved, core);
    let joins = matches!(store.mode, WriteMode::Append | WriteMode::Prepend);
    let status = match outcome {
        Ok(WriteOutcome::Stored { cas, .. }) => {
            if !frame.quiet {
                put_header(out, frame, Status::Ok, 0, 0, 0, cas);
            }
            return;
        }
        Ok(WriteOutcome::Exists) => Status::Exists,
        Ok(WriteOutcome::NotFound) if !joins => Status::NotFound,
        Ok(_) => match store.mode {
            WriteMode::Add => Status::Exists,
            WriteMode::Replace => Status::NotFound,
            _ => Status::NotStored,
        },
        Err(_) if joins => Status::NotStored,
        Err(error) => {
            if store.mode == WriteMode::Set {
                core.shard.unlink_key(request.key, hash, core.now);
            }
            return refuse(request.key, refusal(error), false, Dialect::Binary(frame), core, out);
        }
    };
    put_error(out, frame, status);
}

pub(super) fn delete(
    key: &[u8],
    hash: KeyHash,
    frame: Frame,
    compare: Option<u64>,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    observe_delete(core, key);
    let options = Delete { compare, ..Delete::default() };
    let seen = before_delete(core, key, hash);
    let outcome = core.shard.delete(key, hash, core.now, &options);
    if outcome == DeleteOutcome::Deleted {
        after_delete(core, key, "delete", seen);
    }
    match outcome {
        DeleteOutcome::Deleted if frame.quiet => {}
        DeleteOutcome::Deleted => put_header(out, frame, Status::Ok, 0, 0, 0, 0),
        DeleteOutcome::Exists => put_error(out, frame, Status::Exists),
        DeleteOutcome::NotFound => put_error(out, frame, Status::NotFound),
    }
}

pub(super) fn arithmetic(
    key: &[u8],
    hash: KeyHash,
    frame: Frame,
    delta: u64,
    decrement: bool,
    create: Option<(u64, Expiry)>,
    compare: Option<u64>,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    let options = Arithmetic {
        delta,
        decrement,
        compare,
        create,
        touch: None,
        new_cas: None,
        binary_key: false,
    };
    match core.shard.arithmetic(key, hash, core.now, &options) {
        Ok(ArithmeticOutcome::Number { .. }) if frame.quiet => {}
        Ok(ArithmeticOutcome::Number { value, cas, .. }) => {
            put_header(out, frame, Status::Ok, 0, 0, 8, cas);
            out.extend_from_slice(&value.to_be_bytes());
        }
        Ok(ArithmeticOutcome::NotFound) => put_error(out, frame, Status::NotFound),
        Ok(ArithmeticOutcome::NotNumeric) => put_error(out, frame, Status::NotNumeric),
        Ok(ArithmeticOutcome::Exists) => put_error(out, frame, Status::Exists),
        Err(_) => put_message(out, frame, Status::NoMemory, b"Out of memory incrementing value"),
    }
}
