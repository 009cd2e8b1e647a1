//! The meta commands: `mg ms md ma me`.
//!
//! A request keeps its flags as they stood in the line, since the answer
//! repeats some of them in their order; [`Options`] holds what they mean until
//! it is a verb and a [`Reply`].
//! The flags are those of memcached 1.6.45; beyond it there are `G` (tags) and
//! times in milliseconds (`T250ms`).

use super::number::{parse_i32, parse_u32, parse_u64};
use super::text::{body_of, never_zero};
use super::tokens::until_nul;
use super::{BAD_FORMAT, Context, Request, Step, base64};
use crate::limits::{META_TOKENS_MAX, OPAQUE_BYTES_MAX};
use engine::{
    Arithmetic, Delete, Expiry, KEY_BYTES_MAX, ReadOptions, Refusal, TAGS_MAX, Verb, WriteMode,
    WriteOptions,
};

/// A meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `mg`.
    Get,
    /// `ms`.
    Store,
    /// `md`.
    Delete,
    /// `ma`.
    Arithmetic,
    /// `me`.
    Debug,
}

/// What the answer to a meta command needs to know of it, beside its flags in
/// their order.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Which command it is.
    pub command: Command,
    /// `q`.
    pub quiet: bool,
    /// `v`.
    pub value: bool,
    /// `b`.
    pub binary_key: bool,
    /// `I`.
    pub stale: bool,
    /// `T`.
    pub touch: Option<Expiry>,
    /// `N`.
    pub vivify: Option<Expiry>,
    /// Length of the value that was sent.
    pub sent_bytes: u32,
}

/// What the flags of a meta command ask for.
#[derive(Clone, Copy, Debug)]
struct Options {
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
    /// `h` or `l` is.
    pub history: bool,
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
            history: false,
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
                b'k' | b's' | b't' | b'c' | b'f' | b'O' | b'P' | b'L' => {}
                b'l' | b'h' => options.history = true,
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
                    let names = || tag_names(argument).split(|byte| *byte == b',');
                    if names().any(|name| name.is_empty()) || names().count() > TAGS_MAX {
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

    #[inline]
    fn reply(&self, command: Command, sent_bytes: usize) -> super::Reply {
        super::Reply::Meta(Reply {
            command,
            quiet: self.quiet,
            value: self.value,
            binary_key: self.binary_key,
            stale: self.stale,
            touch: self.touch,
            vivify: self.vivify,
            sent_bytes: sent_bytes as u32,
        })
    }

    /// Expiry of an item created on a miss: of `N` and `T` the later one counts.
    #[inline]
    fn created_expiry(&self, flags: &[u8]) -> Option<Expiry> {
        let vivify = self.vivify?;
        let Some(touch) = self.touch else { return Some(vivify) };
        let last = words(flags).filter(|word| matches!(word[0], b'N' | b'T')).last();
        Some(if last.is_some_and(|word| word[0] == b'T') { touch } else { vivify })
    }

    #[inline]
    fn get(&self, flags: &[u8], context: &Context) -> Verb {
        // The engine counts from now; 0 and what is past never recache.
        let recache_seconds = self
            .recache
            .filter(|at| *at != Expiry::NEVER && *at != Expiry::PAST)
            .map(|at| (at.0 / 1000) as i64 - context.now.seconds() as i64);
        // Where `R` stands before `T`, the old expiry decides.
        let recache_first = || {
            words(flags)
                .find(|word| matches!(word[0], b'R' | b'T'))
                .is_some_and(|word| word[0] == b'R')
        };
        Verb::Read(ReadOptions {
            touch: self.touch,
            vivify: self.created_expiry(flags),
            recache_seconds,
            new_cas: self.new_cas,
            no_bump: self.no_bump,
            binary_key: self.binary_key,
            recache_before_touch: self.recache.is_some() && self.touch.is_some() && recache_first(),
            classic: false,
            value: self.value,
            unless_cas: self.compare,
            history: self.history,
        })
    }

    #[inline]
    fn store(&self) -> Verb {
        let compare = self.compare;
        let (mode, compare) = match self.mode {
            b'E' => (WriteMode::Add, None),
            // Without a CAS to compare there is nothing wrong with any item.
            b'A' => (WriteMode::Append, compare.filter(|cas| *cas != 0)),
            b'P' => (WriteMode::Prepend, compare.filter(|cas| *cas != 0)),
            b'R' if compare.is_none() => (WriteMode::Replace, None),
            _ => (WriteMode::Set, compare.map(never_zero)),
        };
        let extends = matches!(mode, WriteMode::Append | WriteMode::Prepend);
        Verb::Write(WriteOptions {
            mode,
            client_flags: self.client_flags,
            expiry: self.touch.unwrap_or(Expiry::NEVER),
            compare,
            invalidate_older: self.stale && mode == WriteMode::Set && compare.is_some(),
            // Of a store alone, memcached takes `E0` for no wish at all.
            new_cas: self.new_cas.filter(|cas| *cas != 0),
            vivify: self.vivify.filter(|_| extends),
            binary_key: self.binary_key,
            unlink_if_refused: true,
        })
    }

    fn delete(&self) -> Verb {
        Verb::Delete(Delete {
            compare: self.compare,
            invalidate: self.stale,
            expiry: self.touch,
            new_cas: self.new_cas,
            drop_value: self.drop_value,
            client_flags: self.client_flags,
        })
    }

    fn arithmetic(&self, flags: &[u8]) -> Verb {
        Verb::Arithmetic(Arithmetic {
            delta: self.delta,
            decrement: matches!(self.mode, b'D' | b'-'),
            compare: self.compare.filter(|cas| *cas != 0),
            create: self.created_expiry(flags).map(|expiry| (self.initial, expiry)),
            touch: self.touch,
            new_cas: self.new_cas,
            binary_key: self.binary_key,
        })
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
fn tag_names(argument: &[u8]) -> &[u8] {
    argument.strip_prefix(b"(").and_then(|rest| rest.strip_suffix(b")")).unwrap_or(argument)
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
    let request = |verb, reply| Request { words: flags, ..Request::new(verb, decoded, reply) };
    let request = match command {
        b'g' => request(options.get(flags, context), options.reply(Command::Get, 0)),
        b'd' => request(options.delete(), options.reply(Command::Delete, 0)),
        b'a' => request(options.arithmetic(flags), options.reply(Command::Arithmetic, 0)),
        _ => {
            let reply = options.reply(Command::Store, value_bytes);
            if !context.fits(decoded.len(), options.client_flags, value_bytes) {
                let verb = Verb::Refuse { why: Refusal::TooLarge, unlink: true };
                let request = Request::new(verb, decoded, reply);
                return (line_bytes, Step::Refused { request, swallow: value_bytes + 2 });
            }
            let mut request = request(options.store(), reply);
            if options.tagged {
                request.ask.tags = argument(flags, b'G').map_or(&[], tag_names);
            }
            return body_of(request, value_bytes, false, line_bytes, input);
        }
    };
    (line_bytes, Step::Request(request))
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
    let reply = Options::default().reply(Command::Debug, 0);
    (line_bytes, Step::Request(Request::new(Verb::Inspect, decoded, reply)))
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
