//! The binary protocol.
//!
//! ```text
//! byte 0      1        2..4      4        5          6..8     8..12    12..16   16..24
//! magic 0x80  opcode   key len   ext len  data type  reserved body len opaque   cas
//! extras (ext len), key (key len), value (what is left of the body)
//! ```
//! An answer has magic 0x81 and a status in bytes 6..8. Seawall adds three
//! opcodes, see [`opcode`].

use super::text::never_zero;
use super::{Context, Reply, Request, Step};
use crate::limits::{INLINE_VALUE_BYTES_MAX, SASL_BYTES_MAX};
use engine::{
    Arithmetic, Delete, Expiry, KEY_BYTES_MAX, ReadOptions, Refusal, Verb, WriteMode, WriteOptions,
};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 24;
/// First byte of a request.
pub const MAGIC_REQUEST: u8 = 0x80;
/// First byte of an answer.
pub const MAGIC_RESPONSE: u8 = 0x81;

/// The opcodes.
#[allow(missing_docs)]
pub mod opcode {
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const QUIT: u8 = 0x07;
    pub const FLUSH: u8 = 0x08;
    pub const GETQ: u8 = 0x09;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const GETK: u8 = 0x0c;
    pub const GETKQ: u8 = 0x0d;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const STAT: u8 = 0x10;
    pub const SETQ: u8 = 0x11;
    pub const ADDQ: u8 = 0x12;
    pub const REPLACEQ: u8 = 0x13;
    pub const DELETEQ: u8 = 0x14;
    pub const INCREMENTQ: u8 = 0x15;
    pub const DECREMENTQ: u8 = 0x16;
    pub const QUITQ: u8 = 0x17;
    pub const FLUSHQ: u8 = 0x18;
    pub const APPENDQ: u8 = 0x19;
    pub const PREPENDQ: u8 = 0x1a;
    pub const TOUCH: u8 = 0x1c;
    pub const GAT: u8 = 0x1d;
    pub const GATQ: u8 = 0x1e;
    pub const SASL_LIST_MECHS: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const GATK: u8 = 0x23;
    pub const GATKQ: u8 = 0x24;
    /// Seawall: set with tags. Extras: flags (4), expiry (4), length of the
    /// tags (2). Body: extras, key, tags (names with commas between), value.
    pub const SET_TAGGED: u8 = 0xc0;
    /// Seawall: the same without an answer when it succeeds.
    pub const SET_TAGGED_Q: u8 = 0xc1;
    /// Seawall: invalidate. Extras: 0 for a tag, 1 for a namespace. Key: its
    /// name.
    pub const INVALIDATE: u8 = 0xc2;
}

/// Status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Status {
    Ok = 0x00,
    NotFound = 0x01,
    Exists = 0x02,
    TooBig = 0x03,
    Invalid = 0x04,
    NotStored = 0x05,
    NotNumeric = 0x06,
    AuthError = 0x20,
    UnknownCommand = 0x81,
    NoMemory = 0x82,
    Temporary = 0x86,
}

impl Status {
    /// The text that memcached sends with it.
    pub const fn text(self) -> &'static str {
        match self {
            Status::Ok => "",
            Status::NotFound => "Not found",
            Status::Exists => "Data exists for key.",
            Status::TooBig => "Too large.",
            Status::Invalid => "Invalid arguments",
            Status::NotStored => "Not stored.",
            Status::NotNumeric => "Non-numeric server-side value for incr or decr",
            Status::AuthError => "Auth failure.",
            Status::UnknownCommand => "Unknown command",
            Status::NoMemory => "Out of memory",
            Status::Temporary => "Temporary failure",
        }
    }
}

/// What an answer holds.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// An item.
    Item {
        /// With its key.
        key: bool,
        /// With its value.
        value: bool,
    },
    /// How a store in this mode ended.
    Store(WriteMode),
    /// How a delete ended.
    Delete,
    /// A number.
    Number,
}

/// What an answer repeats of its request.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The opcode as sent.
    pub opcode: u8,
    /// It is one of the quiet ones.
    pub quiet: bool,
    /// The opaque, as it came.
    pub opaque: [u8; 4],
}

/// A command that is not about one key.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Nothing but an answer.
    Noop(Frame),
    /// The version.
    Version(Frame),
    /// Close.
    Quit(Frame),
    /// Flush, in seconds by memcached's rule.
    Flush(Frame, i64),
    /// Statistics of this kind.
    Stat(Frame, &'a [u8]),
    /// The mechanisms of SASL.
    SaslList(Frame),
    /// Mechanism, message; whether it is a later step.
    Sasl(Frame, &'a [u8], &'a [u8], bool),
    /// Invalidate a tag, or a namespace.
    Invalidate(Frame, &'a [u8], bool),
}

impl Command<'_> {
    /// Its frame.
    pub fn frame(&self) -> Frame {
        match self {
            Command::Noop(frame)
            | Command::Version(frame)
            | Command::Quit(frame)
            | Command::Flush(frame, _)
            | Command::Stat(frame, _)
            | Command::SaslList(frame)
            | Command::Sasl(frame, ..)
            | Command::Invalidate(frame, ..) => *frame,
        }
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from(be32(bytes)) << 32 | u64::from(be32(&bytes[4..]))
}

/// The next step. Returns the bytes that it covers. With `login` nothing but
/// authentication is let through.
#[inline]
pub fn next<'a>(input: &'a [u8], context: &Context, sasl: bool, login: bool) -> (usize, Step<'a>) {
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else {
        return match input.first() {
            Some(first) if *first != MAGIC_REQUEST => (0, Step::Close),
            _ => (0, Step::Incomplete { need: HEADER_BYTES - input.len() }),
        };
    };
    if header[0] != MAGIC_REQUEST {
        return (0, Step::Close);
    }
    let code = header[1];
    let key_bytes = usize::from(be16(&header[2..]));
    let extra_bytes = usize::from(header[4]);
    let body_bytes = be32(&header[8..]) as usize;
    let opaque = [header[12], header[13], header[14], header[15]];
    let cas = be64(&header[16..]);
    let head_bytes = HEADER_BYTES + extra_bytes + key_bytes;
    if input.len() < head_bytes {
        return (0, Step::Incomplete { need: head_bytes - input.len() });
    }
    let frame = Frame { opcode: code, quiet: is_quiet(code), opaque };
    let error = |status, swallow, close| {
        let swallow = swallowed(swallow);
        (head_bytes, Step::BinaryError { frame, status, swallow, close })
    };
    if extra_bytes + key_bytes > body_bytes {
        return error(Status::UnknownCommand, 0, true);
    }
    let free = matches!(
        code,
        opcode::SASL_LIST_MECHS | opcode::SASL_AUTH | opcode::SASL_STEP | opcode::VERSION
    );
    if login && !free {
        return error(Status::AuthError, 0, true);
    }
    let invalid = error(Status::Invalid, 0, true);
    if key_bytes > KEY_BYTES_MAX {
        return invalid;
    }
    let extras = &input[HEADER_BYTES..HEADER_BYTES + extra_bytes];
    let key = &input[HEADER_BYTES + extra_bytes..head_bytes];
    let value_bytes = body_bytes - extra_bytes - key_bytes;
    let compare = (cas != 0).then_some(cas);
    let request =
        |verb, shape| Step::Request(Request::new(verb, key, Reply::Binary { frame, shape }));
    let plain = extra_bytes == 0 && key_bytes == 0 && body_bytes == 0;
    let covered = |step| (head_bytes, step);
    match code {
        opcode::GET | opcode::GETQ | opcode::GETK | opcode::GETKQ => {
            if extra_bytes != 0 || value_bytes != 0 || key_bytes == 0 {
                return invalid;
            }
            let key = matches!(code, opcode::GETK | opcode::GETKQ);
            covered(request(Verb::Get, Shape::Item { key, value: true }))
        }
        opcode::TOUCH | opcode::GAT | opcode::GATQ | opcode::GATK | opcode::GATKQ => {
            if extra_bytes != 4 || key_bytes == 0 {
                return invalid;
            }
            let touch = Some(context.expiry(i64::from(be32(extras))));
            let key = matches!(code, opcode::GATK | opcode::GATKQ);
            let value = code != opcode::TOUCH;
            let options = ReadOptions { touch, classic: true, value, ..ReadOptions::default() };
            covered(request(Verb::Read(options), Shape::Item { key, value }))
        }
        opcode::SET
        | opcode::SETQ
        | opcode::ADD
        | opcode::ADDQ
        | opcode::REPLACE
        | opcode::REPLACEQ
        | opcode::APPEND
        | opcode::APPENDQ
        | opcode::PREPEND
        | opcode::PREPENDQ
        | opcode::SET_TAGGED
        | opcode::SET_TAGGED_Q => {
            let mode = match code {
                opcode::ADD | opcode::ADDQ => WriteMode::Add,
                opcode::REPLACE | opcode::REPLACEQ => WriteMode::Replace,
                opcode::APPEND | opcode::APPENDQ => WriteMode::Append,
                opcode::PREPEND | opcode::PREPENDQ => WriteMode::Prepend,
                _ => WriteMode::Set,
            };
            let joins = matches!(mode, WriteMode::Append | WriteMode::Prepend);
            let tagged = code >= opcode::SET_TAGGED;
            let extra_wanted = if joins { 0 } else { 8 + 2 * usize::from(tagged) };
            if key_bytes == 0 || extra_bytes != extra_wanted {
                return invalid;
            }
            let (client_flags, expiry) = if joins {
                (0, Expiry::NEVER)
            } else {
                (be32(extras), context.expiry(i64::from(be32(&extras[4..]))))
            };
            let tag_bytes = if tagged { usize::from(be16(&extras[8..])) } else { 0 };
            if tag_bytes > value_bytes {
                return invalid;
            }
            // With a CAS every mode but the joining ones compares and sets.
            let mode = if compare.is_some() && !joins { WriteMode::Set } else { mode };
            let compare = compare.map(never_zero);
            let options = WriteOptions::classic(mode, client_flags, expiry, compare);
            store_step(frame, options, key, tag_bytes, value_bytes, head_bytes, input, context)
        }
        opcode::DELETE | opcode::DELETEQ => {
            if key_bytes == 0 || extra_bytes != 0 || value_bytes != 0 {
                return invalid;
            }
            let options = Delete { compare, ..Delete::default() };
            covered(request(Verb::Delete(options), Shape::Delete))
        }
        opcode::INCREMENT | opcode::INCREMENTQ | opcode::DECREMENT | opcode::DECREMENTQ => {
            if key_bytes == 0 || extra_bytes != 20 || value_bytes != 0 {
                return invalid;
            }
            let decrement = matches!(code, opcode::DECREMENT | opcode::DECREMENTQ);
            let seconds = be32(&extras[16..]);
            let create = (seconds != u32::MAX)
                .then(|| (be64(&extras[8..]), context.expiry(i64::from(seconds))));
            let options = Arithmetic {
                delta: be64(extras),
                decrement,
                compare,
                create,
                touch: None,
                new_cas: None,
                binary_key: false,
            };
            covered(request(Verb::Arithmetic(options), Shape::Number))
        }
        opcode::FLUSH | opcode::FLUSHQ => {
            if key_bytes != 0 || value_bytes != 0 || !(extra_bytes == 0 || extra_bytes == 4) {
                return invalid;
            }
            let seconds = if extra_bytes == 4 { i64::from(be32(extras)) } else { 0 };
            covered(Step::Frame(Command::Flush(frame, seconds)))
        }
        opcode::NOOP if plain => covered(Step::Frame(Command::Noop(frame))),
        opcode::VERSION if plain => covered(Step::Frame(Command::Version(frame))),
        opcode::QUIT | opcode::QUITQ if plain => covered(Step::Frame(Command::Quit(frame))),
        opcode::STAT if extra_bytes == 0 => covered(Step::Frame(Command::Stat(frame, key))),
        opcode::SASL_LIST_MECHS if plain && !sasl => error(Status::UnknownCommand, 0, false),
        opcode::SASL_AUTH | opcode::SASL_STEP if !sasl && extra_bytes == 0 && key_bytes > 0 => {
            error(Status::UnknownCommand, value_bytes, false)
        }
        opcode::SASL_LIST_MECHS if plain => covered(Step::Frame(Command::SaslList(frame))),
        opcode::SASL_AUTH | opcode::SASL_STEP if extra_bytes == 0 && key_bytes > 0 => {
            if key_bytes > 32 {
                return error(Status::Invalid, value_bytes, false);
            }
            if value_bytes > SASL_BYTES_MAX {
                return error(Status::NoMemory, value_bytes, false);
            }
            let Some(message) = input.get(head_bytes..head_bytes + value_bytes) else {
                return (0, Step::Incomplete { need: head_bytes + value_bytes - input.len() });
            };
            let step = code == opcode::SASL_STEP;
            (head_bytes + value_bytes, Step::Frame(Command::Sasl(frame, key, message, step)))
        }
        opcode::INVALIDATE => {
            if extra_bytes != 1 || key_bytes == 0 || value_bytes != 0 || extras[0] > 1 {
                return invalid;
            }
            covered(Step::Frame(Command::Invalidate(frame, key, extras[0] == 1)))
        }
        opcode::NOOP
        | opcode::VERSION
        | opcode::QUIT
        | opcode::QUITQ
        | opcode::STAT
        | opcode::SASL_LIST_MECHS
        | opcode::SASL_AUTH
        | opcode::SASL_STEP => invalid,
        _ => error(Status::UnknownCommand, value_bytes, false),
    }
}

/// How much of a refused value is thrown away. A length with its top bit set is
/// negative to memcached, and then there is nothing to throw away.
fn swallowed(bytes: usize) -> usize {
    if i32::try_from(bytes).is_ok() { bytes } else { 0 }
}

fn store_step<'a>(
    frame: Frame,
    options: WriteOptions,
    key: &'a [u8],
    tag_bytes: usize,
    body_bytes: usize,
    head_bytes: usize,
    input: &'a [u8],
    context: &Context,
) -> (usize, Step<'a>) {
    let reply = Reply::Binary { frame, shape: Shape::Store(options.mode) };
    let mut request = Request::new(Verb::Write(options), key, reply);
    let value_bytes = body_bytes - tag_bytes;
    if !context.fits(key.len(), options.client_flags, value_bytes) {
        let unlink = options.mode == WriteMode::Set;
        request.ask.verb = Verb::Refuse { why: Refusal::TooLarge, unlink };
        return (head_bytes, Step::Refused { request, swallow: swallowed(body_bytes) });
    }
    let value_at = head_bytes + tag_bytes;
    let end = head_bytes + body_bytes;
    if tag_bytes > 0 {
        let Some(tags) = input.get(head_bytes..value_at) else {
            return (0, Step::Incomplete { need: value_at - input.len() });
        };
        request.ask.tags = tags;
    }
    if let Some(value) = input.get(value_at..end) {
        request.ask.value = value;
        return (end, Step::Request(request));
    }
    if value_bytes > INLINE_VALUE_BYTES_MAX {
        return (value_at, Step::Large { request, value_bytes });
    }
    (0, Step::Incomplete { need: end - input.len() })
}

const fn is_quiet(code: u8) -> bool {
    matches!(
        code,
        opcode::GETQ
            | opcode::GETKQ
            | opcode::SETQ
            | opcode::ADDQ
            | opcode::REPLACEQ
            | opcode::DELETEQ
            | opcode::INCREMENTQ
            | opcode::DECREMENTQ
            | opcode::QUITQ
            | opcode::FLUSHQ
            | opcode::APPENDQ
            | opcode::PREPENDQ
            | opcode::GATQ
            | opcode::GATKQ
            | opcode::SET_TAGGED_Q
    )
}

/// Appends the header of an answer.
#[inline]
pub fn put_header(
    out: &mut Vec<u8>,
    frame: Frame,
    status: Status,
    extra_bytes: u8,
    key_bytes: u16,
    body_bytes: u32,
    cas: u64,
) {
    let mut header = [0u8; HEADER_BYTES];
    header[0] = MAGIC_RESPONSE;
    header[1] = frame.opcode;
    header[2..4].copy_from_slice(&key_bytes.to_be_bytes());
    header[4] = extra_bytes;
    header[6..8].copy_from_slice(&(status as u16).to_be_bytes());
    header[8..12].copy_from_slice(&body_bytes.to_be_bytes());
    header[12..16].copy_from_slice(&frame.opaque);
    header[16..24].copy_from_slice(&cas.to_be_bytes());
    out.extend_from_slice(&header);
}

/// Appends an error.
pub fn put_error(out: &mut Vec<u8>, frame: Frame, status: Status) {
    put_message(out, frame, status, status.text().as_bytes());
}

/// Appends an answer whose body is a text.
pub fn put_message(out: &mut Vec<u8>, frame: Frame, status: Status, text: &[u8]) {
    put_header(out, frame, status, 0, 0, text.len() as u32, 0);
    out.extend_from_slice(text);
}

/// Appends one statistic; an empty name and value end the list.
pub fn put_stat(out: &mut Vec<u8>, frame: Frame, name: &[u8], value: &[u8]) {
    put_header(out, frame, Status::Ok, 0, name.len() as u16, (name.len() + value.len()) as u32, 0);
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}
