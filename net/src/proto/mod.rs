//! Pure codecs: bytes in, requests out. No shard, no socket, no clock.
//!
//! Each protocol's `next` looks at the start of the input and says in a
//! [`Step`] what stands there. A [`Request`] is about one key and can be
//! executed on the key's core, wherever that is; everything else is for the
//! connection itself.

pub mod base64;
pub mod binary;
pub mod meta;
pub mod number;
pub mod text;
pub mod tokens;

use engine::{Expiry, Now, WriteMode};
use serde::{Deserialize, Serialize};

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
    /// What to do.
    pub op: Op,
    /// The key, decoded.
    pub key: &'a [u8],
    /// The value of a store.
    pub value: &'a [u8],
    /// Meta: the flags as they stood in the line. Binary: the tags.
    pub flags: &'a [u8],
}

/// What a request does, and in which protocol it is answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Op {
    /// `get`, `gets`, `gat`, `gats`: one key of them.
    Get {
        /// Show the CAS.
        cas: bool,
        /// New expiry.
        touch: Option<Expiry>,
        /// Which key of its line it is.
        part: Part,
    },
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store(Store),
    /// `delete`.
    Delete {
        /// `noreply`.
        quiet: bool,
    },
    /// `touch`.
    Touch {
        /// New expiry.
        expiry: Expiry,
        /// `noreply`.
        quiet: bool,
    },
    /// `incr`, `decr`.
    Arithmetic {
        /// By how much.
        delta: u64,
        /// `decr`.
        decrement: bool,
        /// `noreply`.
        quiet: bool,
    },
    /// A store that can't be taken; memcached removes the old item then.
    Refused {
        /// Why.
        why: Refusal,
        /// Remove what is there.
        unlink: bool,
        /// `noreply`.
        quiet: bool,
        /// How to answer.
        dialect: Dialect,
    },
    /// `mg`.
    MetaGet(meta::Options),
    /// `ms`.
    MetaStore(meta::Options),
    /// `md`.
    MetaDelete(meta::Options),
    /// `ma`.
    MetaArithmetic(meta::Options),
    /// `me`.
    MetaDebug,
    /// Binary get, getk, touch, gat, gatk.
    BinaryGet {
        /// For the answer's header.
        frame: binary::Frame,
        /// New expiry.
        touch: Option<Expiry>,
        /// The answer carries the key.
        with_key: bool,
        /// The answer carries the value.
        with_value: bool,
    },
    /// Binary set, add, replace, append, prepend.
    BinaryStore {
        /// For the answer's header.
        frame: binary::Frame,
        /// What to store.
        store: Store,
    },
    /// Binary delete.
    BinaryDelete {
        /// For the answer's header.
        frame: binary::Frame,
        /// Only this CAS.
        compare: Option<u64>,
    },
    /// Binary increment, decrement.
    BinaryArithmetic {
        /// For the answer's header.
        frame: binary::Frame,
        /// By how much.
        delta: u64,
        /// Down.
        decrement: bool,
        /// On a miss, this number with this expiry.
        create: Option<(u64, Expiry)>,
        /// Only this CAS.
        compare: Option<u64>,
    },
}

/// Which key of a text `get` this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Where in a cluster a request may execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// At any copy of the item.
    Copy,
    /// At any copy, if that shows that nothing would change: it holds no item of
    /// the key, or one that bears no mark.
    Unmarked,
    /// Where the key may be changed: it may change the item, or hand out the
    /// right to refill it.
    Primary,
}

impl Request<'_> {
    /// Whether it may be asked again at another copy when its answer was lost.
    /// What it may leave behind is at most that the item counts as read, or as
    /// being refilled by somebody whose node is gone.
    pub fn may_be_repeated(&self) -> bool {
        match &self.op {
            Op::Get { touch, .. } | Op::BinaryGet { touch, .. } => touch.is_none(),
            Op::MetaGet(options) => {
                options.touch.is_none()
                    && options.vivify.is_none()
                    && options.recache.is_none()
                    && options.new_cas.is_none()
            }
            Op::MetaDebug => true,
            _ => false,
        }
    }

    /// Where it may execute.
    #[inline]
    pub fn needs(&self) -> Needs {
        match &self.op {
            Op::Get { touch: None, .. } | Op::BinaryGet { touch: None, .. } | Op::MetaDebug => {
                Needs::Copy
            }
            // When and whether an item was read before is known where it was read.
            Op::MetaGet(options)
                if options.touch.is_none()
                    && options.vivify.is_none()
                    && options.recache.is_none()
                    && options.new_cas.is_none()
                    && !meta::words(self.flags).any(|word| matches!(word[0], b'h' | b'l')) =>
            {
                Needs::Unmarked
            }
            _ => Needs::Primary,
        }
    }
}

/// How an answer looks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Dialect {
    /// Text, and meta's errors.
    Text,
    /// Binary.
    Binary(binary::Frame),
}

/// Why a store is refused before its value was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Longer than `-I` allows.
    TooLarge,
    /// No memory could be freed for it.
    OutOfMemory,
}

/// The scalars of a store.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Store {
    /// How it treats what is there.
    pub mode: WriteMode,
    /// Client flags.
    pub client_flags: u32,
    /// Expiry.
    pub expiry: Expiry,
    /// Only over this CAS.
    pub compare: Option<u64>,
    /// `noreply`, or a quiet opcode.
    pub quiet: bool,
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
