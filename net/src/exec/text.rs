//! Answers of the classic text protocol.

use super::{
    Held, Tail, after_delete, before_delete, copied_bytes, copy_value, line, observe_delete,
    observe_get, observe_set, refusal, refuse, write_classic,
};
use crate::core::Core;
use crate::proto::number::{self, Decimal};
use crate::proto::{Dialect, NOT_NUMERIC, Request, Store};
use engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteOutcome, Expiry, Item, KeyHash, ReadOptions,
    Reservation, WriteMode, WriteOutcome,
};

/// `VALUE <key> <flags> <bytes> [<cas>]`.
#[inline]
fn value_line(item: &Item<'_>, key: &[u8], cas: bool, copy_bytes_max: usize, out: &mut Vec<u8>) {
    out.reserve(key.len() + copied_bytes(item, copy_bytes_max) + 64);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    if item.client_flags == 0 {
        out.extend_from_slice(b" 0 ");
    } else {
        out.push(b' ');
        number::put(out, u64::from(item.client_flags));
        out.push(b' ');
    }
    number::put(out, u64::from(item.value_bytes));
    if cas {
        out.push(b' ');
        number::put(out, item.cas);
    }
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(super) fn get(
    key: &[u8],
    hash: KeyHash,
    cas: bool,
    touch: Option<Expiry>,
    last: bool,
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
    let mut whole = true;
    let seen = item.as_ref().map(|item| (item.class, item.value_bytes));
    if let Some(item) = item {
        value_line(&item, key, cas, copy_bytes_max, out);
        whole = copy_value(&item, copy_bytes_max, out);
    }
    observe_get(core, key, seen);
    if !whole {
        match core.shard.pin_read(key, hash) {
            Some(pin) => {
                return Some(Held { pin, tail: if last { Tail::LineAndEnd } else { Tail::Line } });
            }
            // It died of its new expiry.
            None => out.truncate(start),
        }
    } else if seen.is_some() {
        out.extend_from_slice(b"\r\n");
    }
    if last {
        out.extend_from_slice(b"END\r\n");
    }
    None
}

#[inline]
pub(super) fn store(
    request: &Request<'_>,
    hash: KeyHash,
    store: &Store,
    reserved: Option<Reservation>,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    observe_set(core, request.key);
    let outcome = write_classic(request, hash, store, &[], reserved, core);
    let answer = match outcome {
        Ok(WriteOutcome::Stored { .. }) => "STORED",
        Ok(WriteOutcome::NotStored) => "NOT_STORED",
        Ok(WriteOutcome::Exists) => "EXISTS",
        Ok(WriteOutcome::NotFound) => "NOT_FOUND",
        // The joined value does not fit; the old one stays.
        Err(_) if matches!(store.mode, WriteMode::Append | WriteMode::Prepend) => "NOT_STORED",
        Err(error) => {
            if store.mode == WriteMode::Set {
                core.shard.unlink_key(request.key, hash, core.now);
            }
            return refuse(request.key, refusal(error), store.quiet, Dialect::Text, core, out);
        }
    };
    if !store.quiet {
        line(out, answer);
    }
}

pub(super) fn delete(key: &[u8], hash: KeyHash, quiet: bool, core: &mut Core, out: &mut Vec<u8>) {
    observe_delete(core, key);
    let seen = before_delete(core, key, hash);
    let outcome = core.shard.delete(key, hash, core.now, &Delete::default());
    after_delete(core, key, "delete", seen);
    if !quiet {
        line(out, if outcome == DeleteOutcome::Deleted { "DELETED" } else { "NOT_FOUND" });
    }
}

pub(super) fn touch(
    key: &[u8],
    hash: KeyHash,
    expiry: Expiry,
    quiet: bool,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    let touched = core.shard.touch(key, hash, core.now, expiry);
    if !quiet {
        line(out, if touched { "TOUCHED" } else { "NOT_FOUND" });
    }
}

pub(super) fn arithmetic(
    key: &[u8],
    hash: KeyHash,
    delta: u64,
    decrement: bool,
    quiet: bool,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    let options = Arithmetic {
        delta,
        decrement,
        compare: None,
        create: None,
        touch: None,
        new_cas: None,
        binary_key: false,
    };
    let outcome = core.shard.arithmetic(key, hash, core.now, &options);
    if quiet {
        return;
    }
    match outcome {
        Ok(ArithmeticOutcome::Number { value, .. }) => {
            out.extend_from_slice(Decimal::new(value).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Ok(ArithmeticOutcome::NotFound | ArithmeticOutcome::Exists) => line(out, "NOT_FOUND"),
        Ok(ArithmeticOutcome::NotNumeric) => line(out, NOT_NUMERIC),
        Err(_) => line(out, "SERVER_ERROR out of memory"),
    }
}
