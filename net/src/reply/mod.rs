//! The other half of the codecs: what came of a request in, bytes out. No shard,
//! no socket, no clock.
//!
//! [`put`] writes all that stands before a value. If a value follows, the caller
//! appends it from wherever it lies, and then the [`Tail`].

mod binary;
mod meta;
mod text;

use crate::proto::{NO_MEMORY, Reply, Request, TOO_LARGE};
use engine::{Now, Outcome, Refusal};

/// What the answer needs of its request.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo<'a> {
    /// How it is answered.
    pub reply: &'a Reply,
    /// The key.
    pub key: &'a [u8],
    /// The flags of a meta command.
    pub words: &'a [u8],
}

impl<'a> From<&'a Request<'_>> for ReplyTo<'a> {
    #[inline]
    fn from(request: &'a Request<'_>) -> ReplyTo<'a> {
        ReplyTo { reply: &request.reply, key: request.ask.key, words: request.words }
    }
}

/// What follows a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// Nothing: binary.
    #[default]
    Nothing,
    /// A line end.
    Line,
    /// A line end and `END`.
    LineAndEnd,
}

impl Tail {
    /// Its bytes.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Tail::Nothing => b"",
            Tail::Line => b"\r\n",
            Tail::LineAndEnd => b"\r\nEND\r\n",
        }
    }

    /// Appends it.
    #[inline]
    pub fn put(self, out: &mut Vec<u8>) {
        match self {
            Tail::Nothing => {}
            Tail::Line => out.extend_from_slice(b"\r\n"),
            Tail::LineAndEnd => out.extend_from_slice(b"\r\nEND\r\n"),
        }
    }
}

/// Writes the answer, up to a value if one follows.
#[inline(always)]
pub fn put(to: &ReplyTo<'_>, outcome: &Outcome, now: Now, out: &mut Vec<u8>) -> Option<Tail> {
    match to.reply {
        Reply::Get { cas, part } => return text::get(to.key, *cas, *part, outcome, out),
        Reply::Text { command, quiet } => {
            if !*quiet {
                text::put(*command, outcome, out);
            }
        }
        Reply::Meta(reply) => return meta::put(to, reply, outcome, now, out),
        Reply::Binary { frame, shape } => {
            return binary::put(to.key, *frame, *shape, outcome, out);
        }
    }
    None
}

/// The line that says why a store was refused.
fn refusal(why: Refusal) -> &'static str {
    match why {
        Refusal::TooLarge => TOO_LARGE,
        Refusal::OutOfMemory => NO_MEMORY,
    }
}

/// Room for a header and for a value that is not long.
#[inline]
fn make_room(header_bytes: usize, value_bytes: u32, out: &mut Vec<u8>) {
    /// Longer values grow the output when they come.
    const VALUE_BYTES_MAX: usize = 16 << 10;
    out.reserve(header_bytes + (value_bytes as usize).min(VALUE_BYTES_MAX));
}

/// Appends a line and its end.
#[inline]
fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}
