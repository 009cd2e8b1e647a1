//! The classic text protocol.
//!
//! The commands that matter for speed (`get`, `gets`, `set`) are read in one
//! pass over their line; whatever looks unusual falls through to the careful
//! path, which cuts the line into words as memcached does and keeps its order
//! of checks, since that order decides which error a client sees.

use super::number::{parse_i32, parse_u32, parse_u64};
use super::tokens::{Tokens, until_nul, word_end};
use super::{BAD_CHUNK, BAD_FORMAT, Context, Part, Reply, Request, Step, TextCommand, meta};
use crate::limits::{INLINE_VALUE_BYTES_MAX, LINE_BYTES_MAX, MULTIGET_LINE_BYTES_MAX};
use engine::{
    Arithmetic, Delete, Expiry, KEY_BYTES_MAX, ReadOptions, Refusal, Verb, WriteMode, WriteOptions,
};
use memchr::{memchr, memrchr};

/// Where in a line the connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// Before one.
    #[default]
    Line,
    /// In the keys of a `get`.
    Keys {
        /// `gets`.
        cas: bool,
        /// `gat`.
        touch: Option<Expiry>,
        /// A key of the line was read already.
        several: bool,
    },
    /// In a line that was answered already.
    Rest,
}

/// The next step. Returns the bytes that it covers.
#[inline]
pub fn next<'a>(position: &mut Position, input: &'a [u8], context: &Context) -> (usize, Step<'a>) {
    match *position {
        Position::Line => line(position, input, context),
        Position::Keys { cas, touch, several } => key(position, input, cas, touch, several),
        Position::Rest => match memchr(b'\n', input) {
            Some(end) => {
                *position = Position::Line;
                (end + 1, Step::line(""))
            }
            None if input.is_empty() => (0, Step::Incomplete { need: 1 }),
            None => (input.len(), Step::line("")),
        },
    }
}

#[inline]
fn line<'a>(position: &mut Position, input: &'a [u8], context: &Context) -> (usize, Step<'a>) {
    match input {
        [b'g', b'e', b't', b' ', ..] => {
            if let Some(step) = get(position, input, 4, false) {
                return step;
            }
        }
        [b'g', b'e', b't', b's', b' ', ..] => {
            if let Some(step) = get(position, input, 5, true) {
                return step;
            }
        }
        [b's', b'e', b't', b' ', ..] => {
            if let Some(step) = set(input, context) {
                return step;
            }
        }
        _ => {}
    }
    let Some(newline) = memchr(b'\n', input) else {
        return without_newline(position, input);
    };
    let line = strip(&input[..newline]);
    if let [b'm', command @ (b'g' | b's' | b'd' | b'a' | b'e'), b' ', ..] = line {
        return meta::line(*command, line, newline + 1, input, context, None);
    }
    (newline + 1, careful(position, line, newline + 1, input, context)).fix()
}

/// Lets the careful path say in its step how much it covers.
trait Fix<'a> {
    fn fix(self) -> (usize, Step<'a>);
}

impl<'a> Fix<'a> for (usize, (Option<usize>, Step<'a>)) {
    fn fix(self) -> (usize, Step<'a>) {
        (self.1.0.unwrap_or(self.0), self.1.1)
    }
}

/// Removes a carriage return, unless it is all that there is.
#[inline]
fn strip(line: &[u8]) -> &[u8] {
    match line {
        [head @ .., b'\r'] if !head.is_empty() => head,
        _ => line,
    }
}

/// A line that has no end yet: memcached gives up after 2 KiB, except for a
/// list of keys, which may be of any length.
fn without_newline<'a>(position: &mut Position, input: &'a [u8]) -> (usize, Step<'a>) {
    if input.len() <= LINE_BYTES_MAX {
        return (0, Step::Incomplete { need: 1 });
    }
    let spaces = input.iter().take_while(|byte| **byte == b' ').count();
    let rest = &input[spaces..];
    let cas = rest.starts_with(b"gets ");
    if spaces > 100 || !(cas || rest.starts_with(b"get ")) {
        return (0, Step::Close);
    }
    if input.len() <= MULTIGET_LINE_BYTES_MAX {
        return (0, Step::Incomplete { need: 1 });
    }
    // Answered while it arrives. An error in it will stand behind values then.
    *position = Position::Keys { cas, touch: None, several: false };
    let consumed = spaces + if cas { 5 } else { 4 };
    (consumed, Step::line(""))
}

/// `get` and `gets`; `None` for the careful path.
#[inline(always)]
fn get<'a>(
    position: &mut Position,
    input: &'a [u8],
    at: usize,
    cas: bool,
) -> Option<(usize, Step<'a>)> {
    let key_bytes = word_end(&input[at..]);
    let end = at + key_bytes;
    if key_bytes == 0 || key_bytes > KEY_BYTES_MAX {
        return None;
    }
    let key = &input[at..end];
    let line_end = match input[end..] {
        [b'\r', b'\n', ..] => 2,
        [b'\n', ..] => 1,
        [b' ', ..] => 0,
        _ => return None,
    };
    // Written out: the step is built where it goes, and not copied.
    let get = |part| {
        Step::Request(Request {
            ask: engine::Request { verb: Verb::Get, key, tags: &[], value: &[] },
            reply: Reply::Get { cas, part },
            words: &[],
        })
    };
    if line_end > 0 {
        return Some((end + line_end, get(Part::Only)));
    }
    // Several keys: the line must be complete, and none of them too long.
    let newline = end + memchr(b'\n', &input[end..])?;
    if !keys_fit(&input[at..newline]) {
        return None;
    }
    *position = Position::Keys { cas, touch: None, several: true };
    Some((end, get(Part::Within)))
}

/// Whether no word of the line is longer than a key may be. Looks at one byte
/// in 250 only: within any 251 bytes there must be a space.
fn keys_fit(mut line: &[u8]) -> bool {
    while line.len() > KEY_BYTES_MAX {
        match memrchr(b' ', &line[..=KEY_BYTES_MAX]) {
            Some(space) => line = &line[space + 1..],
            // A carriage return is not part of the key.
            None => return line.len() == KEY_BYTES_MAX + 1 && line.ends_with(b"\r"),
        }
    }
    true
}

/// One more key of a list.
#[inline]
fn key<'a>(
    position: &mut Position,
    input: &'a [u8],
    cas: bool,
    touch: Option<Expiry>,
    several: bool,
) -> (usize, Step<'a>) {
    let last_part = if several { Part::Last } else { Part::Only };
    let mut start = 0;
    while input.get(start) == Some(&b' ') {
        start += 1;
    }
    let mut end = start;
    loop {
        end += word_end(&input[end..]);
        let line_end = match input[end..] {
            [b' ', ..] => 0,
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [0, ..] => {
                // A NUL ends the line, what follows in it is not looked at.
                *position = Position::Rest;
                if end > start && end - start <= KEY_BYTES_MAX {
                    let key = &input[start..end];
                    return (end, Step::Request(get_request(key, cas, touch, last_part)));
                }
                return (end, if end > start { Step::line(BAD_FORMAT) } else { Step::End });
            }
            [] | [b'\r'] if end - start <= KEY_BYTES_MAX + 1 => {
                return (start, Step::Incomplete { need: 1 });
            }
            [] => 0,
            // Any other control character is part of the key.
            _ => {
                end += 1;
                continue;
            }
        };
        if end - start > KEY_BYTES_MAX {
            *position = Position::Rest;
            return (end, Step::line(BAD_FORMAT));
        }
        let last = line_end > 0;
        if last {
            *position = Position::Line;
        }
        if end == start {
            return (end + line_end, Step::End);
        }
        if !last && !several {
            *position = Position::Keys { cas, touch, several: true };
        }
        let part = if last { last_part } else { Part::Within };
        let request = get_request(&input[start..end], cas, touch, part);
        return (end + line_end, Step::Request(request));
    }
}

/// A key of `get`, or of `gat` if there is a new expiry.
#[inline]
fn get_request(key: &[u8], cas: bool, touch: Option<Expiry>, part: Part) -> Request<'_> {
    let verb = match touch {
        None => Verb::Get,
        Some(_) => {
            Verb::Read(ReadOptions { touch, classic: true, value: true, ..ReadOptions::default() })
        }
    };
    Request::new(verb, key, Reply::Get { cas, part })
}

/// A few digits, and where they end.
#[inline]
fn digits(input: &[u8], mut at: usize) -> Option<(u32, usize)> {
    let start = at;
    let mut value = 0u32;
    while let Some(byte) = input.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        // Nine digits fit; longer numbers go the careful way.
        if at - start == 9 {
            return None;
        }
        value = value * 10 + u32::from(digit);
        at += 1;
    }
    (at > start).then_some((value, at))
}

/// A `set` in its usual form; `None` for the careful path.
#[inline]
fn set<'a>(input: &'a [u8], context: &Context) -> Option<(usize, Step<'a>)> {
    let key_bytes = word_end(&input[4..]);
    if key_bytes == 0 || key_bytes > KEY_BYTES_MAX {
        return None;
    }
    let end = 4 + key_bytes;
    let space = |at: usize| (input.get(at) == Some(&b' ')).then_some(at + 1);
    let (client_flags, at) = digits(input, space(end)?)?;
    let (seconds, at) = digits(input, space(at)?)?;
    let (value_bytes, at) = digits(input, space(at)?)?;
    let (quiet, body) = match input[at..] {
        [b'\r', b'\n', ..] => (false, at + 2),
        [b'\n', ..] => (false, at + 1),
        [b' ', b'n', b'o', b'r', b'e', b'p', b'l', b'y', b'\r', b'\n', ..] => (true, at + 10),
        _ => return None,
    };
    let expiry = context.expiry(i64::from(seconds));
    let options = WriteOptions::classic(WriteMode::Set, client_flags, expiry, None);
    let reply = Reply::Text { command: TextCommand::Store, quiet };
    let request = Request::new(Verb::Write(options), &input[4..end], reply);
    Some(body_of(request, value_bytes as usize, quiet, body, input))
        .filter(|_| context.fits(key_bytes, client_flags, value_bytes as usize))
}

/// The value of a store whose line ends before `body`.
pub(super) fn body_of<'a>(
    mut request: Request<'a>,
    value_bytes: usize,
    quiet: bool,
    body: usize,
    input: &'a [u8],
) -> (usize, Step<'a>) {
    let end = body + value_bytes;
    if let Some(line_end) = input.get(end..end + 2) {
        if line_end != b"\r\n" {
            return (end + 2, Step::line(if quiet { "" } else { BAD_CHUNK }));
        }
        request.ask.value = &input[body..end];
        return (end + 2, Step::Request(request));
    }
    if value_bytes > INLINE_VALUE_BYTES_MAX {
        return (body, Step::Large { request, value_bytes });
    }
    (0, Step::Incomplete { need: end + 2 - input.len() })
}

/// Any line, word by word. The first number is what the step covers where it
/// is not just the line.
fn careful<'a>(
    position: &mut Position,
    line: &'a [u8],
    line_bytes: usize,
    input: &'a [u8],
    context: &Context,
) -> (Option<usize>, Step<'a>) {
    let tokens = Tokens::new(line);
    let command = tokens.get(0);
    if command.len() < 2 {
        return (None, Step::line("ERROR"));
    }
    let simple = |step| (None, step);
    match command {
        b"mg" | b"ms" | b"md" | b"ma" | b"me" => {
            // Leading spaces or a missing key.
            let line = &line[tokens.start(0)..];
            let (covered, step) = meta::line(command[1], line, line_bytes, input, context, None);
            (Some(covered), step)
        }
        b"mn" => simple(Step::line("MN")),
        b"get" | b"gets" | b"bget" => {
            if tokens.count() < 3 {
                return simple(Step::line("ERROR"));
            }
            keys(position, &tokens, 1, line, command == b"gets", None)
        }
        b"gat" | b"gats" => {
            if tokens.count() < 3 {
                return simple(Step::line("ERROR"));
            }
            let Some(seconds) = parse_i32(tokens.get(1)) else {
                return simple(Step::line("CLIENT_ERROR invalid exptime argument"));
            };
            let touch = Some(context.expiry(i64::from(seconds)));
            keys(position, &tokens, 2, line, command == b"gats", touch)
        }
        b"set" => store(&tokens, WriteMode::Set, false, line_bytes, input, context),
        b"add" => store(&tokens, WriteMode::Add, false, line_bytes, input, context),
        b"replace" => store(&tokens, WriteMode::Replace, false, line_bytes, input, context),
        b"append" => store(&tokens, WriteMode::Append, false, line_bytes, input, context),
        b"prepend" => store(&tokens, WriteMode::Prepend, false, line_bytes, input, context),
        b"cas" => store(&tokens, WriteMode::Set, true, line_bytes, input, context),
        b"incr" | b"decr" => simple(arithmetic(&tokens, command == b"decr")),
        b"touch" => simple(touch(&tokens, context)),
        b"delete" => simple(delete(&tokens)),
        _ => simple(Step::Command(until_nul(line))),
    }
}

/// The keys of a `get` begin at word `first`.
fn keys<'a>(
    position: &mut Position,
    tokens: &Tokens<'a>,
    first: usize,
    line: &'a [u8],
    cas: bool,
    touch: Option<Expiry>,
) -> (Option<usize>, Step<'a>) {
    let start = tokens.start(first);
    if until_nul(&line[start..]).split(|byte| *byte == b' ').any(|word| word.len() > KEY_BYTES_MAX)
    {
        return (None, Step::line(BAD_FORMAT));
    }
    *position = Position::Keys { cas, touch, several: false };
    (Some(start), Step::line(""))
}

fn store<'a>(
    tokens: &Tokens<'a>,
    mode: WriteMode,
    with_cas: bool,
    line_bytes: usize,
    input: &'a [u8],
    context: &Context,
) -> (Option<usize>, Step<'a>) {
    let words = if with_cas { 7 } else { 6 };
    if tokens.count() != words && tokens.count() != words + 1 {
        return (None, Step::line("ERROR"));
    }
    let quiet = tokens.quiet();
    let wrong = (None, Step::line(if quiet { "" } else { BAD_FORMAT }));
    let key = tokens.get(1);
    if key.len() > KEY_BYTES_MAX {
        return wrong;
    }
    let (Some(client_flags), Some(seconds), Some(length)) =
        (parse_u32(tokens.get(2)), parse_i32(tokens.get(3)), parse_i32(tokens.get(4)))
    else {
        return wrong;
    };
    let mut compare = None;
    if with_cas {
        let Some(cas) = parse_u64(tokens.get(5)) else {
            return wrong;
        };
        compare = Some(never_zero(cas));
    }
    if !(0..=i32::MAX - 2).contains(&length) {
        return wrong;
    }
    let value_bytes = length as usize;
    let expiry = context.expiry(i64::from(seconds));
    let reply = Reply::Text { command: TextCommand::Store, quiet };
    if !context.fits(key.len(), client_flags, value_bytes) {
        let unlink = mode == WriteMode::Set && !with_cas;
        let request = Request::new(Verb::Refuse { why: Refusal::TooLarge, unlink }, key, reply);
        return (None, Step::Refused { request, swallow: value_bytes + 2 });
    }
    let options = WriteOptions::classic(mode, client_flags, expiry, compare);
    let request = Request::new(Verb::Write(options), key, reply);
    let (covered, step) = body_of(request, value_bytes, quiet, line_bytes, input);
    (Some(covered), step)
}

/// A CAS of 0 stands for "none" in memcached, and matches no item.
pub(super) fn never_zero(cas: u64) -> u64 {
    if cas == 0 { u64::MAX } else { cas }
}

fn arithmetic<'a>(tokens: &Tokens<'a>, decrement: bool) -> Step<'a> {
    if tokens.count() != 4 && tokens.count() != 5 {
        return Step::line("ERROR");
    }
    let quiet = tokens.quiet();
    let key = tokens.get(1);
    if key.len() > KEY_BYTES_MAX {
        return Step::line(if quiet { "" } else { BAD_FORMAT });
    }
    let Some(delta) = parse_u64(tokens.get(2)) else {
        return Step::line(if quiet { "" } else { "CLIENT_ERROR invalid numeric delta argument" });
    };
    let verb = Verb::Arithmetic(Arithmetic {
        delta,
        decrement,
        compare: None,
        create: None,
        touch: None,
        new_cas: None,
        binary_key: false,
    });
    Step::Request(Request::new(verb, key, Reply::Text { command: TextCommand::Arithmetic, quiet }))
}

fn touch<'a>(tokens: &Tokens<'a>, context: &Context) -> Step<'a> {
    if tokens.count() != 4 && tokens.count() != 5 {
        return Step::line("ERROR");
    }
    let quiet = tokens.quiet();
    let key = tokens.get(1);
    if key.len() > KEY_BYTES_MAX {
        return Step::line(if quiet { "" } else { BAD_FORMAT });
    }
    let Some(seconds) = parse_i32(tokens.get(2)) else {
        return Step::line(if quiet { "" } else { "CLIENT_ERROR invalid exptime argument" });
    };
    let verb = Verb::Touch(context.expiry(i64::from(seconds)));
    Step::Request(Request::new(verb, key, Reply::Text { command: TextCommand::Touch, quiet }))
}

fn delete<'a>(tokens: &Tokens<'a>) -> Step<'a> {
    let count = tokens.count();
    if !(3..=5).contains(&count) {
        return Step::line("ERROR");
    }
    let mut quiet = false;
    if count > 3 {
        // Ancient clients send a time, which must be 0.
        let zero = tokens.get(2) == b"0";
        quiet = tokens.quiet();
        let valid = (count == 4 && (zero || quiet)) || (count == 5 && zero && quiet);
        if !valid {
            let usage = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
            return Step::line(if quiet { "" } else { usage });
        }
    }
    let key = tokens.get(1);
    if key.len() > KEY_BYTES_MAX {
        return Step::line(if quiet { "" } else { BAD_FORMAT });
    }
    let reply = Reply::Text { command: TextCommand::Delete, quiet };
    Step::Request(Request::new(Verb::Delete(Delete::default()), key, reply))
}

/// A line that gave [`Step::Encoded`], with room for the key.
pub fn encoded<'a>(
    input: &'a [u8],
    context: &Context,
    buffer: &'a mut meta::KeyBuffer,
) -> (usize, Step<'a>) {
    let Some(newline) = memchr(b'\n', input) else {
        return (0, Step::Incomplete { need: 1 });
    };
    let line = strip(&input[..newline]);
    let start = line.iter().take_while(|byte| **byte == b' ').count();
    let line = &line[start..];
    meta::line(line[1], line, newline + 1, input, context, Some(buffer))
}
