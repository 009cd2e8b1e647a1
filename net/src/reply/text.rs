//! Answers of the classic text protocol.

use super::{Tail, line, make_room, refusal};
use crate::proto::number::{self, Decimal};
use crate::proto::{NOT_NUMERIC, Part, TextCommand};
use engine::{Found, Outcome};

/// `VALUE <key> <flags> <bytes> [<cas>]`.
#[inline]
fn value_line(found: &Found, key: &[u8], cas: bool, out: &mut Vec<u8>) {
    make_room(key.len() + 64, found.value_bytes, out);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    if found.client_flags == 0 {
        out.extend_from_slice(b" 0 ");
    } else {
        out.push(b' ');
        number::put(out, u64::from(found.client_flags));
        out.push(b' ');
    }
    number::put(out, u64::from(found.value_bytes));
    if cas {
        out.push(b' ');
        number::put(out, found.cas);
    }
    out.extend_from_slice(b"\r\n");
}

/// One key of a `get`.
///
/// One of several that cannot be answered counts as missing. An error line among
/// values is no end of the answer for some clients and an end for others
/// (pylibmc, python-memcached and Node's memcached lose the connection by it).
#[inline]
pub(super) fn get(
    key: &[u8],
    cas: bool,
    part: Part,
    outcome: &Outcome,
    out: &mut Vec<u8>,
) -> Option<Tail> {
    match outcome {
        Outcome::Found(found) => {
            value_line(found, key, cas, out);
            return Some(if part.ends() { Tail::LineAndEnd } else { Tail::Line });
        }
        Outcome::Failed(why) if part == Part::Only => {
            line(out, &format!("SERVER_ERROR {}", why.text()));
        }
        _ if part.ends() => out.extend_from_slice(b"END\r\n"),
        _ => {}
    }
    None
}

/// The answer to a command that does not read.
pub(super) fn put(command: TextCommand, outcome: &Outcome, out: &mut Vec<u8>) {
    let text = match outcome {
        Outcome::Stored { .. } => "STORED",
        Outcome::NotStored => "NOT_STORED",
        Outcome::Deleted { .. } => "DELETED",
        Outcome::Touched => "TOUCHED",
        Outcome::Number { value, .. } => {
            out.extend_from_slice(Decimal::new(*value).as_bytes());
            out.extend_from_slice(b"\r\n");
            return;
        }
        Outcome::Exists if command == TextCommand::Store => "EXISTS",
        Outcome::NotNumeric => NOT_NUMERIC,
        Outcome::Refused(_) if command == TextCommand::Arithmetic => "SERVER_ERROR out of memory",
        Outcome::Refused(why) => refusal(*why),
        Outcome::Failed(why) => return line(out, &format!("SERVER_ERROR {}", why.text())),
        Outcome::Found(_) | Outcome::Missing | Outcome::Exists | Outcome::NotFound => "NOT_FOUND",
    };
    line(out, text);
}
