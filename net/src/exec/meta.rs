//! Answers of the meta commands. Flags are answered in the order in which
//! they were asked.

use super::{
    Held, Tail, after_delete, before_delete, copy_value, line, observe_get, observe_set,
    observe_store, refusal, refuse, value,
};
use crate::core::Core;
use crate::proto::meta::{Options, argument, store_mode, tag_names, tags, words};
use crate::proto::number::{self, Decimal};
use crate::proto::{Dialect, NOT_NUMERIC, Request, base64};
use crate::watch::class_number;
use engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteOutcome, Expiry, KeyHash, Now, ReadOptions,
    Reservation, TAGS_MAX, Tag, Write, WriteMode, WriteOutcome,
};
use std::num::NonZeroU64;

fn flag(out: &mut Vec<u8>, letter: u8) {
    out.extend_from_slice(&[b' ', letter]);
}

fn number_flag(out: &mut Vec<u8>, letter: u8, value: u64) {
    flag(out, letter);
    number::put(out, value);
}

fn key_flag(out: &mut Vec<u8>, key: &[u8], binary: bool) {
    flag(out, b'k');
    if binary {
        base64::encode(key, out);
        flag(out, b'b');
    } else {
        out.extend_from_slice(key);
    }
}

fn opaque_flag(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(word);
}

fn ttl_flag(out: &mut Vec<u8>, expiry: Expiry, now: Now) {
    flag(out, b't');
    if expiry == Expiry::NEVER {
        out.extend_from_slice(b"-1");
    } else {
        // Whole seconds, like the clock that they are counted by.
        number::put(out, (expiry.0 / 1000).saturating_sub(now.seconds()));
    }
}

/// Opaque and key, all that an answer without an item repeats.
fn nominal_flags(request: &Request<'_>, binary: bool, out: &mut Vec<u8>) {
    for word in words(request.flags) {
        match word[0] {
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, request.key, binary),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether `R` stands before `T`: then the old expiry decides.
fn recache_first(flags: &[u8]) -> bool {
    words(flags).find(|word| matches!(word[0], b'R' | b'T')).is_some_and(|word| word[0] == b'R')
}

/// Expiry of an item created on a miss: of `N` and `T` the later one counts.
#[inline]
fn created_expiry(options: &Options, flags: &[u8]) -> Option<Expiry> {
    let vivify = options.vivify?;
    let Some(touch) = options.touch else { return Some(vivify) };
    let last = words(flags).filter(|word| matches!(word[0], b'N' | b'T')).last();
    Some(if last.is_some_and(|word| word[0] == b'T') { touch } else { vivify })
}

#[inline]
pub(super) fn get(
    request: &Request<'_>,
    hash: KeyHash,
    options: &Options,
    core: &mut Core,
    out: &mut Vec<u8>,
) -> Option<Held> {
    let (now, copy_bytes_max) = (core.now, core.copy_bytes_max);
    // The engine counts from now; 0 and what is past never recache.
    let recache_seconds = options
        .recache
        .filter(|at| *at != Expiry::NEVER && *at != Expiry::PAST)
        .map(|at| (at.0 / 1000) as i64 - now.seconds() as i64);
    let reading = ReadOptions {
        touch: options.touch,
        vivify: created_expiry(options, request.flags),
        recache_seconds,
        new_cas: options.new_cas,
        no_bump: options.no_bump,
        binary_key: options.binary_key,
        classic: false,
        recache_before_touch: options.recache.is_some()
            && options.touch.is_some()
            && recache_first(request.flags),
    };
    let read = core.shard.read(request.key, hash, now, &reading).ok().flatten();
    let Some(read) = read else {
        observe_get(core, request.key, None);
        if !options.quiet {
            out.extend_from_slice(b"EN");
            nominal_flags(request, options.binary_key, out);
        }
        return None;
    };
    let start = out.len();
    let item = &read.item;
    // Who has the item with this CAS already does not get its value again.
    let same = item.cas != 0 && options.compare == Some(item.cas);
    let shows_value = options.value && !same;
    if shows_value {
        out.extend_from_slice(b"VA ");
        number::put(out, u64::from(item.value_bytes));
    } else {
        out.extend_from_slice(b"HD");
    }
    // The answer shows what held when its flag was reached.
    let mut shown = read.expiry_before;
    for word in words(request.flags) {
        match word[0] {
            b'T' => shown = options.touch.unwrap_or(shown),
            b'N' if read.vivified => shown = options.vivify.unwrap_or(shown),
            b's' => number_flag(out, b's', u64::from(item.value_bytes)),
            b't' => ttl_flag(out, shown, now),
            b'c' => number_flag(out, b'c', item.cas),
            b'f' => number_flag(out, b'f', u64::from(item.client_flags)),
            b'l' => number_flag(out, b'l', u64::from(read.idle_seconds)),
            b'h' => number_flag(out, b'h', u64::from(read.hit_before)),
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, item.key, item.binary_key),
            _ => {}
        }
    }
    if read.token_sent {
        flag(out, b'Z');
    }
    if read.stale {
        flag(out, b'X');
    }
    if read.won {
        flag(out, b'W');
    }
    out.extend_from_slice(b"\r\n");
    let seen = Some((item.class, item.value_bytes));
    let whole = !shows_value || copy_value(item, copy_bytes_max, out);
    observe_get(core, request.key, seen);
    if !whole {
        match core.shard.pin_read(request.key, hash) {
            Some(pin) => return Some(Held { pin, tail: Tail::Line }),
            None => {
                out.truncate(start);
                out.extend_from_slice(b"EN");
                nominal_flags(request, options.binary_key, out);
            }
        }
    } else if shows_value {
        out.extend_from_slice(b"\r\n");
    }
    None
}

#[inline]
pub(super) fn store(
    request: &Request<'_>,
    hash: KeyHash,
    options: &Options,
    reserved: Option<Reservation>,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    observe_set(core, request.key);
    let (mode, compare) = store_mode(options);
    let mut tag_buffer = [Tag(NonZeroU64::MIN); TAGS_MAX];
    let mut tag_count = 0;
    if options.tagged
        && let Some(names) = argument(request.flags, b'G')
    {
        tag_count = tags(tag_names(names), &mut tag_buffer);
    }
    let joins = matches!(mode, WriteMode::Append | WriteMode::Prepend);
    let (value, value_bytes) = value(request, reserved);
    let write = Write {
        mode,
        key: request.key,
        hash,
        value,
        client_flags: options.client_flags,
        expiry: options.touch.unwrap_or(Expiry::NEVER),
        compare,
        invalidate_older: options.stale && mode == WriteMode::Set && compare.is_some(),
        // Of a store alone, memcached takes `E0` for no wish at all.
        new_cas: options.new_cas.filter(|cas| *cas != 0),
        vivify: options.vivify.filter(|_| joins),
        tags: &tag_buffer[..tag_count],
        binary_key: options.binary_key,
    };
    let outcome = core.shard.write(write, core.now);
    let expiry = options.touch.unwrap_or(Expiry::NEVER);
    observe_store(core, request.key, hash, &outcome, mode, compare.is_some(), value_bytes, expiry);
    // What was not stored has the length that was sent, and no CAS.
    let (mut stored_cas, mut shown_bytes) = (0, value_bytes);
    let code = match outcome {
        Ok(WriteOutcome::Stored { .. }) if options.quiet => return,
        Ok(WriteOutcome::Stored { cas, value_bytes }) => {
            (stored_cas, shown_bytes) = (cas, value_bytes);
            "HD"
        }
        Ok(WriteOutcome::NotStored) => "NS",
        Ok(WriteOutcome::Exists) => "EX",
        Ok(WriteOutcome::NotFound) if joins => "NS",
        Ok(WriteOutcome::NotFound) => "NF",
        Err(_) if joins => "NS",
        Err(error) => {
            core.shard.unlink_key(request.key, hash, core.now);
            return refuse(request.key, refusal(error), false, Dialect::Text, core, out);
        }
    };
    out.extend_from_slice(code.as_bytes());
    for word in words(request.flags) {
        match word[0] {
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, request.key, options.binary_key),
            b'c' => number_flag(out, b'c', stored_cas),
            b's' => number_flag(out, b's', shown_bytes as u64),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn delete(
    request: &Request<'_>,
    hash: KeyHash,
    options: &Options,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    let deleting = Delete {
        compare: options.compare,
        invalidate: options.stale,
        expiry: options.touch,
        new_cas: options.new_cas,
        drop_value: options.drop_value,
        client_flags: options.client_flags,
    };
    let seen = before_delete(core, request.key, hash);
    let outcome = core.shard.delete(request.key, hash, core.now, &deleting);
    // What is only marked stale is still there.
    if outcome == DeleteOutcome::Deleted && !options.stale {
        after_delete(core, request.key, "md", seen);
    }
    let code = match outcome {
        DeleteOutcome::Deleted if options.quiet => return,
        DeleteOutcome::Deleted => "HD",
        DeleteOutcome::Exists => "EX",
        DeleteOutcome::NotFound => "NF",
    };
    out.extend_from_slice(code.as_bytes());
    nominal_flags(request, options.binary_key, out);
}

pub(super) fn arithmetic(
    request: &Request<'_>,
    hash: KeyHash,
    options: &Options,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    let now = core.now;
    let counting = Arithmetic {
        delta: options.delta,
        decrement: matches!(options.mode, b'D' | b'-'),
        compare: options.compare.filter(|cas| *cas != 0),
        create: created_expiry(options, request.flags).map(|expiry| (options.initial, expiry)),
        touch: options.touch,
        new_cas: options.new_cas,
        binary_key: options.binary_key,
    };
    // A `t` before a `T` shows the old time.
    let asks_before = options.touch.is_some() && argument(request.flags, b't').is_some();
    let before = if asks_before {
        core.shard.peek(request.key, hash, now).map(|item| item.expiry)
    } else {
        None
    };
    match core.shard.arithmetic(request.key, hash, now, &counting) {
        Ok(ArithmeticOutcome::Number { .. }) if options.quiet => {}
        Ok(ArithmeticOutcome::Number { value, cas, expiry, created }) => {
            let digits = Decimal::new(value);
            if options.value {
                out.extend_from_slice(b"VA ");
                number::put(out, digits.as_bytes().len() as u64);
            } else {
                out.extend_from_slice(b"HD");
            }
            let mut shown = if created { Expiry::NEVER } else { before.unwrap_or(expiry) };
            for word in words(request.flags) {
                match word[0] {
                    b'T' => shown = options.touch.unwrap_or(shown),
                    b'N' if created => shown = options.vivify.unwrap_or(shown),
                    b'c' => number_flag(out, b'c', cas),
                    b't' => ttl_flag(out, shown, now),
                    b'O' => opaque_flag(out, word),
                    b'k' => key_flag(out, request.key, options.binary_key),
                    _ => {}
                }
            }
            out.extend_from_slice(b"\r\n");
            if options.value {
                out.extend_from_slice(digits.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(ArithmeticOutcome::NotFound) => {
            out.extend_from_slice(b"NF");
            nominal_flags(request, options.binary_key, out);
        }
        Ok(ArithmeticOutcome::Exists) => {
            out.extend_from_slice(b"EX");
            nominal_flags(request, options.binary_key, out);
        }
        Ok(ArithmeticOutcome::NotNumeric) => line(out, NOT_NUMERIC),
        Err(_) => line(out, "SERVER_ERROR out of memory"),
    }
}

/// `me`: what is known about an item, without touching it.
pub(super) fn debug(key: &[u8], hash: KeyHash, core: &mut Core, out: &mut Vec<u8>) {
    core.stats.cmd_meta += 1;
    let now = core.now;
    let Some(read) = core.shard.inspect(key, hash, now) else {
        return line(out, "EN");
    };
    let item = &read.item;
    out.extend_from_slice(b"ME ");
    if item.binary_key {
        base64::encode(item.key, out);
    } else {
        out.extend_from_slice(item.key);
    }
    out.extend_from_slice(b" exp=");
    // memcached shows now minus expiry, the other way round than `t`.
    let expires = if item.expiry == Expiry::NEVER {
        -1
    } else {
        now.seconds() as i64 - (item.expiry.0 / 1000) as i64
    };
    number::put_signed(out, expires);
    out.extend_from_slice(b" la=");
    number::put(out, u64::from(read.idle_seconds));
    out.extend_from_slice(b" cas=");
    number::put(out, item.cas);
    out.extend_from_slice(if read.fetched { b" fetch=yes cls=" } else { b" fetch=no cls=" });
    number::put(out, class_number(item.class));
    out.extend_from_slice(b" size=");
    number::put(out, u64::from(item.total_bytes));
    out.extend_from_slice(b"\r\n");
}
