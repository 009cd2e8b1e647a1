//! The meta commands: `mg ms md ma me`.
//!
//! A request keeps its flags as they stood in the line, since the answer
//! repeats some of them in their order; [`Options`] holds what they mean.
//! The flags are those of memcached 1.6.45; beyond it there are `G` (tags) and
//! times in milliseconds (`T250ms`).

use super::number::{parse_i32, parse_u32, parse_u64};
use super::text::{body_of, never_zero};
use super::tokens::until_nul;
use super::{BAD_FORMAT, Context, Dialect, Op, Refusal, Request, Step, base64};
use crate::limits::{META_TOKENS_MAX, OPAQUE_BYTES_MAX};
use engine::{Expiry, HashSeed, KEY_BYTES_MAX, KeyHash, TAGS_MAX, Tag, WriteMode};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// What the flags of a meta command ask for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Options {
    /// `M`: the letter, 0 without.
    pub mode: u8,
    /// `q`.
    pub quiet: bool,
    /// `v`.
    pub value: bool,
    /// `u`.
    pub no_bump: bool,
    /// `I`.
    pub stale: bool,
    /// `b`.
    pub binary_key: bool,
    /// `x`.
    pub drop_value: bool,
    /// `G` is among the flags.
    pub tagged: bool,
    /// `F`.
    pub client_flags: u32,
    /// `T`.
    pub touch: Option<Expiry>,
    /// `N`.
    pub vivify: Option<Expiry>,
    /// `R`, as the moment compared with the item's expiry.
    pub recache: Option<Expiry>,
    /// `C`.
    pub compare: Option<u64>,
    /// `E`.
    pub new_cas: Option<u64>,
    /// `D`.
    pub delta: u64,
    /// `J`.
    pub initial: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: 0,
            quiet: false,
            value: false,
            no_bump: false,
            stale: false,
            binary_key: false,
            drop_value: false,
            tagged: false,
            client_flags: 0,
            touch: None,
            vivify: None,
            recache: None,
            compare: None,
            new_cas: None,
            delta: 1,
            initial: 0,
        }
    }
}

/// The words of a flags slice.
#[inline]
pub fn words(flags: &[u8]) -> impl Iterator<Item = &[u8]> {
    flags.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
const OPAQUE_TOO_LONG: &str = "CLIENT_ERROR opaque token too long";
const BAD_KEY: &str = "CLIENT_ERROR error decoding key";

impl Options {
    /// Reads the flags in memcached's order of complaints: a flag that is
    /// unknown or there twice ends the reading, other mistakes are remembered
    /// and the last one is reported. To memcached a key that is no base64 is a
    /// mistake of `b`, so `key` is looked at where that stands.
    #[inline]
    fn parse(
        command: u8,
        key: &[u8],
        flags: &[u8],
        context: &Context,
    ) -> Result<Options, &'static str> {
        let mut options = Options::default();
        let mut error = None;
        // A mistake that has no words of its own.
        let mut wrong = false;
        let mut seen = 0u128;
        for word in words(flags) {
            let letter = word[0];
            let argument = &word[1..];
            if letter >= 127 || seen >> letter & 1 != 0 {
                return Err("CLIENT_ERROR duplicate flag");
            }
            seen |= 1 << letter;
            let mut number = |into: &mut Option<u64>| match parse_u64(argument) {
                Some(value) => *into = Some(value),
                None => error = Some(BAD_TOKEN),
            };
            match letter {
                b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' | b'O' | b'P' | b'L' => {}
                b'v' => options.value = true,
                b'q' => options.quiet = true,
                b'u' => options.no_bump = true,
                b'b' => {
                    options.binary_key = true;
                    if base64::decode(key, &mut [0; KEY_BYTES_MAX]).is_none() {
                        error = Some(BAD_KEY);
                    }
                }
                b'I' => options.stale = true,
                b'x' if command == b'd' => options.drop_value = true,
                b'C' => number(&mut options.compare),
                b'E' => number(&mut options.new_cas),
                b'N' | b'T' | b'R' => match expiry(argument, context) {
                    Some(time) if letter == b'N' => options.vivify = Some(time),
                    Some(time) if letter == b'T' => options.touch = Some(time),
                    Some(time) => options.recache = Some(time),
                    None => error = Some(BAD_TOKEN),
                },
                b'F' => match parse_u32(argument) {
                    Some(flags) => options.client_flags = flags,
                    None => wrong = true,
                },
                b'M' => match argument {
                    [mode] => options.mode = *mode,
                    _ => error = Some("CLIENT_ERROR incorrect length for M token"),
                },
                b'J' => match parse_u64(argument) {
                    Some(initial) => options.initial = initial,
                    None => error = Some("CLIENT_ERROR invalid numeric initial value"),
                },
                b'D' => match parse_u64(argument) {
                    Some(delta) => options.delta = delta,
                    None => error = Some("CLIENT_ERROR invalid numeric delta value"),
                },
                b'G' if command == b's' => {
                    options.tagged = true;
                    if !tag_names(argument).all(|name| !name.is_empty())
                        || tag_names(argument).count() > TAGS_MAX
                    {
                        error = Some("CLIENT_ERROR bad tags");
                    }
                }
                _ => return Err("CLIENT_ERROR invalid flag"),
            }
        }
        match error {
            Some(error) => Err(error),
            None if wrong => Err(BAD_FORMAT),
            None => Ok(options),
        }
    }
}

/// `T`, `N` and `R` take seconds by memcached's rule, or milliseconds.
fn expiry(argument: &[u8], context: &Context) -> Option<Expiry> {
    if let Some(seconds) = parse_i32(argument) {
        return Some(context.expiry(i64::from(seconds)));
    }
    let number = argument.strip_suffix(b"ms")?;
    let ms = parse_u64(number).filter(|ms| *ms > 0 && *ms <= 2_592_000_000)?;
    Some(Expiry(context.now.0 + ms))
}

/// The names in a `G` flag: separated by commas, in parentheses or not.
pub fn tag_names(argument: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bare =
        argument.strip_prefix(b"(").and_then(|rest| rest.strip_suffix(b")")).unwrap_or(argument);
    bare.split(|byte| *byte == b',')
}

/// The seed of tag names. Fixed: tags must mean the same after a restart and
/// on every node, and whoever makes two names collide only invalidates more.
static TAG_SEED: HashSeed = HashSeed::new(0x7461_6773);

/// The tag of a name.
pub fn tag(name: &[u8]) -> Tag {
    let hash = KeyHash::of(name, &TAG_SEED).0;
    Tag(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
}

/// The tags of a list of names.
pub fn tags<'n>(names: impl Iterator<Item = &'n [u8]>, into: &mut [Tag; TAGS_MAX]) -> usize {
    let mut count = 0;
    for name in names.take(TAGS_MAX) {
        into[count] = tag(name);
        count += 1;
    }
    count
}

/// The argument of flag `letter`.
pub fn argument(flags: &[u8], letter: u8) -> Option<&[u8]> {
    words(flags).find(|word| word[0] == letter).map(|word| &word[1..])
}

/// Room for a decoded key.
pub type KeyBuffer = [u8; KEY_BYTES_MAX];

/// A meta command. `line` begins with its two letters; `line_bytes` is where
/// the input goes on behind it. A base64 key needs `key_buffer`.
#[inline]
pub fn line<'a>(
    command: u8,
    line: &'a [u8],
    line_bytes: usize,
    input: &'a [u8],
    context: &Context,
    key_buffer: Option<&'a mut KeyBuffer>,
) -> (usize, Step<'a>) {
    let rest = until_nul(&line[2..]).trim_ascii_start_spaces();
    let key_end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let (key, mut flags) = (&rest[..key_end], rest[key_end..].trim_ascii_start_spaces());
    let answer = |line| (line_bytes, Step::line(line));
    if key.is_empty() {
        return answer(if command == b'e' { BAD_FORMAT } else { "ERROR" });
    }
    if key.len() > KEY_BYTES_MAX {
        return answer(BAD_FORMAT);
    }
    if command == b'e' {
        return debug(key, flags, line_bytes, key_buffer);
    }
    if command == b's' && flags.is_empty() {
        return answer(BAD_FORMAT);
    }
    // The command, its key and a terminator count too.
    if words(flags).take(META_TOKENS_MAX).count() + 3 > META_TOKENS_MAX {
        return answer(match command {
            b'g' => "CLIENT_ERROR options flags are too long",
            _ => "CLIENT_ERROR options flags too long",
        });
    }
    let mut value_bytes = 0;
    if command == b's' {
        let end = memchr::memchr(b' ', flags).unwrap_or(flags.len());
        match parse_i32(&flags[..end]) {
            Some(length) if (0..=i32::MAX - 2).contains(&length) => value_bytes = length as usize,
            _ => return answer(BAD_FORMAT),
        }
        flags = flags[end..].trim_ascii_start_spaces();
    }
    // Errors of `ms` swallow the value that follows.
    let fail = |line| {
        let swallow = if command == b's' { value_bytes + 2 } else { 0 };
        (line_bytes, Step::Line { line, swallow })
    };
    let either = |error| {
        if matches!(command, b'd' | b'a') {
            "CLIENT_ERROR invalid or duplicate flag"
        } else {
            error
        }
    };
    let options = match Options::parse(command, key, flags, context) {
        Ok(options) => options,
        Err(error) => return fail(either(error)),
    };
    let mut decoded = key;
    if options.binary_key {
        let Some(buffer) = key_buffer else {
            return (0, Step::Encoded);
        };
        match base64::decode(key, buffer) {
            Some(len) => decoded = &buffer[..len],
            None => return fail(either(BAD_KEY)),
        }
    }
    let mode_error = match (command, options.mode) {
        (b's', 0 | b'E' | b'A' | b'P' | b'R' | b'S') => None,
        (b's', _) => Some("CLIENT_ERROR invalid mode for ms M token"),
        (b'a', 0 | b'I' | b'+' | b'D' | b'-') => None,
        (b'a', _) => Some("CLIENT_ERROR invalid mode for ma M token"),
        _ => None,
    };
    if let Some(error) = mode_error {
        return fail(error);
    }
    if argument(flags, b'O').is_some_and(|opaque| opaque.len() + 1 > OPAQUE_BYTES_MAX) {
        return fail(OPAQUE_TOO_LONG);
    }
    let request = |op| Request { op, key: decoded, value: &[], flags };
    match command {
        b'g' => (line_bytes, Step::Request(request(Op::MetaGet(options)))),
        b'd' => (line_bytes, Step::Request(request(Op::MetaDelete(options)))),
        b'a' => (line_bytes, Step::Request(request(Op::MetaArithmetic(options)))),
        _ => {
            if !context.fits(decoded.len(), options.client_flags, value_bytes) {
                let op = Op::Refused {
                    why: Refusal::TooLarge,
                    unlink: true,
                    quiet: false,
                    dialect: Dialect::Text,
                };
                return (
                    line_bytes,
                    Step::Refused { request: request(op), swallow: value_bytes + 2 },
                );
            }
            body_of(request(Op::MetaStore(options)), value_bytes, false, line_bytes, input)
        }
    }
}

fn debug<'a>(
    key: &'a [u8],
    flags: &[u8],
    line_bytes: usize,
    key_buffer: Option<&'a mut KeyBuffer>,
) -> (usize, Step<'a>) {
    let mut decoded = key;
    if words(flags).next() == Some(b"b") {
        let Some(buffer) = key_buffer else {
            return (0, Step::Encoded);
        };
        match base64::decode(key, buffer) {
            Some(len) => decoded = &buffer[..len],
            None => return (line_bytes, Step::line(BAD_FORMAT)),
        }
    }
    (line_bytes, Step::Request(Request { op: Op::MetaDebug, key: decoded, value: &[], flags: &[] }))
}

/// How `ms` stores: the mode, and the CAS that it compares.
pub fn store_mode(options: &Options) -> (WriteMode, Option<u64>) {
    let compare = options.compare;
    match options.mode {
        b'E' => (WriteMode::Add, None),
        // Without a CAS to compare there is nothing wrong with any item.
        b'A' => (WriteMode::Append, compare.filter(|cas| *cas != 0)),
        b'P' => (WriteMode::Prepend, compare.filter(|cas| *cas != 0)),
        b'R' if compare.is_none() => (WriteMode::Replace, None),
        _ => (WriteMode::Set, compare.map(never_zero)),
    }
}

/// `trim_ascii_start`, of spaces alone.
trait TrimSpaces {
    fn trim_ascii_start_spaces(&self) -> &Self;
}

impl TrimSpaces for [u8] {
    #[inline]
    fn trim_ascii_start_spaces(&self) -> &[u8] {
        let mut rest = self;
        while let [b' ', tail @ ..] = rest {
            rest = tail;
        }
        rest
    }
}
