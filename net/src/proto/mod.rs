//! Pure codecs: bytes in, requests out. No shard, no socket, no clock.
//!
//! Each protocol's `next` looks at the start of the input and says in a
//! [`Step`] what stands there. A [`Request`] is about one key: what it asks can
//! be executed on the key's core, wherever that is, and [`Reply`] says how the
//! outcome is written ([`crate::reply`]). Everything else is for the connection
//! itself.

pub mod base64;
pub mod binary;
pub mod meta;
pub mod number;
pub mod text;
pub mod tokens;

use engine::{Expiry, Now, Verb};

/// What the codecs need to know of the world.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// This turn's time.
    pub now: Now,
    /// When the node started: absolute expiries before it are past.
    pub started: Now,
    /// Largest item (`-I`).
    pub value_bytes_max: usize,
    /// Items have a CAS.
    pub cas: bool,
}

/// Thirty days: longer expiry times are absolute.
const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

impl Context {
    /// memcached's rule: 0 is never, up to thirty days are relative, more is
    /// an absolute time. It counts whole seconds, and so do we, which spares
    /// the item two bytes.
    #[inline]
    pub fn expiry(&self, seconds: i64) -> Expiry {
        if seconds == 0 {
            Expiry::NEVER
        } else if seconds < 0 {
            Expiry::PAST
        } else if seconds <= RELATIVE_SECONDS_MAX {
            Expiry((self.now.seconds() + seconds as u64) * 1000)
        } else if seconds as u64 <= self.started.seconds() {
            Expiry::PAST
        } else {
            Expiry(seconds as u64 * 1000)
        }
    }

    /// Whether memcached would take an item of this size: its header, key and
    /// line end count against `-I` too, and clients probe for that border.
    #[inline]
    pub fn fits(&self, key_bytes: usize, client_flags: u32, value_bytes: usize) -> bool {
        let header =
            48 + 1 + 2 + if self.cas { 8 } else { 0 } + if client_flags != 0 { 4 } else { 0 };
        header + key_bytes + value_bytes <= self.value_bytes_max
    }
}

/// A command about one key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it asks.
    pub ask: engine::Request<'a>,
    /// How it is answered.
    pub reply: Reply,
    /// The flags of a meta command as they stood in the line: the answer repeats
    /// some of them.
    pub words: &'a [u8],
}

impl<'a> Request<'a> {
    /// Of a command that is answered without its flags.
    #[inline]
    pub(crate) const fn new(verb: Verb, key: &'a [u8], reply: Reply) -> Request<'a> {
        let ask = engine::Request { verb, key, tags: &[], value: &[] };
        Request { ask, reply, words: &[] }
    }
}

/// How a command is answered. It stays with the connection: who executes the
/// request never sees it.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// `get`, `gets`, `gat`, `gats`: one key of them.
    Get {
        /// Show the CAS.
        cas: bool,
        /// Which key of its line it is.
        part: Part,
    },
    /// Another classic text command.
    Text {
        /// Which.
        command: TextCommand,
        /// `noreply`.
        quiet: bool,
    },
    /// A meta command.
    Meta(meta::Reply),
    /// A binary command.
    Binary {
        /// For the answer's header.
        frame: binary::Frame,
        /// What the answer holds.
        shape: binary::Shape,
    },
}

/// A classic text command that does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextCommand {
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store,
    /// `delete`.
    Delete,
    /// `touch`.
    Touch,
    /// `incr`, `decr`.
    Arithmetic,
}

/// Which key of a text `get` this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The only one of its line: `END` follows.
    Only,
    /// More of the line follows.
    Within,
    /// The last of several: `END` follows.
    Last,
}

impl Part {
    /// Whether the command ends with this key.
    #[inline]
    pub fn ends(self) -> bool {
        self != Part::Within
    }
}

/// What stands at the start of the input.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Not all of it is here: at least `need` more bytes.
    Incomplete {
        /// Bytes missing, at least 1.
        need: usize,
    },
    /// A request, complete with its value.
    Request(Request<'a>),
    /// A store whose value is too long to wait for; it begins behind what was
    /// consumed and ends, in text, with a line end.
    Large {
        /// The request, its value empty.
        request: Request<'a>,
        /// Length of the value.
        value_bytes: usize,
    },
    /// A store that is refused; its body follows and is to be thrown away.
    Refused {
        /// The refusal, a request for the key's core.
        request: Request<'a>,
        /// Bytes to throw away.
        swallow: usize,
    },
    /// Answer this line (empty: nothing), then throw away as many bytes.
    Line {
        /// Without its line end.
        line: &'static str,
        /// Bytes to throw away.
        swallow: usize,
    },
    /// The list of keys is over.
    End,
    /// A key is base64: parse again with a buffer for it.
    Encoded,
    /// A text command that is not about one key. Its line, without line end.
    Command(&'a [u8]),
    /// A binary command that is not about one key.
    Frame(binary::Command<'a>),
    /// Answer a binary error.
    BinaryError {
        /// The request's frame.
        frame: binary::Frame,
        /// What went wrong.
        status: binary::Status,
        /// Bytes to throw away.
        swallow: usize,
        /// Close after the answer.
        close: bool,
    },
    /// Nothing to be saved here: close without a word.
    Close,
}

impl Step<'_> {
    /// A line without anything to throw away.
    pub(crate) const fn line(line: &'static str) -> Step<'static> {
        Step::Line { line, swallow: 0 }
    }
}

/// memcached's answer to most malformed lines.
pub const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
/// Answer to a value without line end.
pub const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
/// Answer to a value over `-I`.
pub const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
/// Answer when no memory can be freed.
pub const NO_MEMORY: &str = "SERVER_ERROR out of memory storing object";
/// Answer to `incr` of what is no number.
pub const NOT_NUMERIC: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_rule() {
        let started = Now(1_700_000_000_500);
        let context =
            Context { now: Now(started.0 + 10_000), started, value_bytes_max: 1 << 20, cas: true };
        assert_eq!(context.expiry(0), Expiry::NEVER);
        assert_eq!(context.expiry(-1), Expiry::PAST);
        assert_eq!(context.expiry(5), Expiry(1_700_000_015_000));
        assert_eq!(context.expiry(2_592_000), Expiry(1_702_592_010_000));
        assert_eq!(context.expiry(2_592_001), Expiry::PAST);
        assert_eq!(context.expiry(1_700_000_100), Expiry(1_700_000_100_000));
    }
}
