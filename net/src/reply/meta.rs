//! Answers of the meta commands. Flags are answered in the order in which
//! they were asked.

use super::{ReplyTo, Tail, line, make_room, refusal};
use crate::proto::meta::{Command, Reply, words};
use crate::proto::number::{self, Decimal};
use crate::proto::{NOT_NUMERIC, base64};
use crate::watch::class_number;
use engine::{Expiry, Found, Now, Outcome};

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
fn nominal_flags(to: &ReplyTo<'_>, binary: bool, out: &mut Vec<u8>) {
    for word in words(to.words) {
        match word[0] {
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, to.key, binary),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(super) fn put(
    to: &ReplyTo<'_>,
    reply: &Reply,
    outcome: &Outcome,
    now: Now,
    out: &mut Vec<u8>,
) -> Option<Tail> {
    match (reply.command, outcome) {
        (Command::Get, Outcome::Found(found)) => return item(to, reply, found, now, out),
        (Command::Get, Outcome::Failed(_)) if reply.quiet => {}
        // Errors are shown to other quiet commands, too.
        (_, Outcome::Failed(why)) => line(out, &format!("SERVER_ERROR {}", why.text())),
        (Command::Get, _) => {
            if !reply.quiet {
                out.extend_from_slice(b"EN");
                nominal_flags(to, reply.binary_key, out);
            }
        }
        (Command::Store, _) => stored(to, reply, outcome, out),
        (Command::Delete, Outcome::Deleted { .. }) if reply.quiet => {}
        (Command::Delete, _) => {
            out.extend_from_slice(match outcome {
                Outcome::Deleted { .. } => b"HD",
                Outcome::Exists => b"EX",
                _ => b"NF",
            });
            nominal_flags(to, reply.binary_key, out);
        }
        (Command::Arithmetic, _) => number(to, reply, outcome, now, out),
        (Command::Debug, Outcome::Found(found)) => debug(to.key, found, now, out),
        (Command::Debug, _) => line(out, "EN"),
    }
    None
}

/// The answer to `mg` that found an item.
#[inline]
fn item(
    to: &ReplyTo<'_>,
    reply: &Reply,
    found: &Found,
    now: Now,
    out: &mut Vec<u8>,
) -> Option<Tail> {
    if found.with_value {
        make_room(to.key.len() + to.words.len() + 64, found.value_bytes, out);
        out.extend_from_slice(b"VA ");
        number::put(out, u64::from(found.value_bytes));
    } else {
        out.extend_from_slice(b"HD");
    }
    // The answer shows what held when its flag was reached.
    let mut shown = found.expiry_before;
    for word in words(to.words) {
        match word[0] {
            b'T' => shown = reply.touch.unwrap_or(shown),
            b'N' if found.vivified => shown = reply.vivify.unwrap_or(shown),
            b's' => number_flag(out, b's', u64::from(found.value_bytes)),
            b't' => ttl_flag(out, shown, now),
            b'c' => number_flag(out, b'c', found.cas),
            b'f' => number_flag(out, b'f', u64::from(found.client_flags)),
            b'l' => number_flag(out, b'l', u64::from(found.idle_seconds)),
            b'h' => number_flag(out, b'h', u64::from(found.hit_before)),
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, to.key, found.binary_key),
            _ => {}
        }
    }
    if found.token_sent {
        flag(out, b'Z');
    }
    if found.stale {
        flag(out, b'X');
    }
    if found.won {
        flag(out, b'W');
    }
    out.extend_from_slice(b"\r\n");
    found.with_value.then_some(Tail::Line)
}

/// The answer to `ms`.
#[inline]
fn stored(to: &ReplyTo<'_>, reply: &Reply, outcome: &Outcome, out: &mut Vec<u8>) {
    // What was not stored has the length that was sent, and no CAS.
    let (mut shown_cas, mut shown_bytes) = (0, reply.sent_bytes);
    let code = match outcome {
        Outcome::Stored { .. } if reply.quiet => return,
        Outcome::Stored { cas, value_bytes, .. } => {
            (shown_cas, shown_bytes) = (*cas, *value_bytes);
            b"HD"
        }
        Outcome::Exists => b"EX",
        Outcome::NotFound => b"NF",
        Outcome::Refused(why) => return line(out, refusal(*why)),
        _ => b"NS",
    };
    out.extend_from_slice(code);
    for word in words(to.words) {
        match word[0] {
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, to.key, reply.binary_key),
            b'c' => number_flag(out, b'c', shown_cas),
            b's' => number_flag(out, b's', u64::from(shown_bytes)),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The answer to `ma`.
fn number(to: &ReplyTo<'_>, reply: &Reply, outcome: &Outcome, now: Now, out: &mut Vec<u8>) {
    let (value, cas, expiry_before, created) = match outcome {
        Outcome::Number { .. } if reply.quiet => return,
        Outcome::Number { value, cas, expiry_before, created, .. } => {
            (*value, *cas, *expiry_before, *created)
        }
        Outcome::Exists => {
            out.extend_from_slice(b"EX");
            return nominal_flags(to, reply.binary_key, out);
        }
        Outcome::NotNumeric => return line(out, NOT_NUMERIC),
        Outcome::Refused(_) => return line(out, "SERVER_ERROR out of memory"),
        _ => {
            out.extend_from_slice(b"NF");
            return nominal_flags(to, reply.binary_key, out);
        }
    };
    let digits = Decimal::new(value);
    if reply.value {
        out.extend_from_slice(b"VA ");
        number::put(out, digits.as_bytes().len() as u64);
    } else {
        out.extend_from_slice(b"HD");
    }
    let mut shown = expiry_before;
    for word in words(to.words) {
        match word[0] {
            b'T' => shown = reply.touch.unwrap_or(shown),
            b'N' if created => shown = reply.vivify.unwrap_or(shown),
            b'c' => number_flag(out, b'c', cas),
            b't' => ttl_flag(out, shown, now),
            b'O' => opaque_flag(out, word),
            b'k' => key_flag(out, to.key, reply.binary_key),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    if reply.value {
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The answer to `me`.
fn debug(key: &[u8], found: &Found, now: Now, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ME ");
    if found.binary_key {
        base64::encode(key, out);
    } else {
        out.extend_from_slice(key);
    }
    out.extend_from_slice(b" exp=");
    // memcached shows now minus expiry, the other way round than `t`.
    let expires = if found.expiry == Expiry::NEVER {
        -1
    } else {
        now.seconds() as i64 - (found.expiry.0 / 1000) as i64
    };
    number::put_signed(out, expires);
    out.extend_from_slice(b" la=");
    number::put(out, u64::from(found.idle_seconds));
    out.extend_from_slice(b" cas=");
    number::put(out, found.cas);
    out.extend_from_slice(if found.hit_before { b" fetch=yes cls=" } else { b" fetch=no cls=" });
    number::put(out, class_number(found.class));
    out.extend_from_slice(b" size=");
    number::put(out, u64::from(found.total_bytes));
    out.extend_from_slice(b"\r\n");
}
