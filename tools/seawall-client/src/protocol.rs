//! Requests as bytes, bytes as answers: memcached's meta commands, and the few
//! text commands of Seawall's own. Nothing here waits or sends.
//!
//! ```text
//! mg <key> v f c [flags]            VA <bytes> f1 c2 [W|Z|X] + value │ EN
//! ms <key> <bytes> T60 ... + value  HD c2 │ NS │ EX │ NF
//! md <key> [flags]                  HD │ NF │ EX
//! ma <key> v [flags]                VA <bytes> + number │ NF
//! ```
//!
//! A key with a space or a control character travels in base64 with the flag `b`.

use crate::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest key on the wire.
const KEY_BYTES_MAX: usize = engine::KEY_BYTES_MAX;
/// Longest line that a server is sent; it closes the connection past 2048 bytes.
const LINE_BYTES_MAX: usize = 2000;
/// Longest line that a server may answer: a topology of 4,096 nodes and 2^18
/// partitions takes some 2 MB.
const ANSWER_LINE_BYTES_MAX: usize = 64 << 20;
/// Largest value that a server may answer: what `-I` can allow.
const ANSWER_VALUE_BYTES_MAX: usize = engine::VALUE_BYTES_MAX;
/// Values up to this size are copied out of the buffer that they arrived in,
/// so that one small value that is kept does not keep its neighbours.
const COPY_BYTES_MAX: usize = 16 << 10;
/// Beyond this many milliseconds a time is a date: memcached's 30 days.
const RELATIVE_MS_MAX: u128 = 2_592_000_000;

/// A request as it travels.
#[derive(Clone, Debug)]
pub struct Request {
    /// The line, with its end.
    pub line: Bytes,
    /// What follows: a value, to which the connection adds the line end.
    pub value: Option<Bytes>,
}

/// Builds a request's line.
#[derive(Debug)]
pub struct Line {
    text: Vec<u8>,
    encoded: bool,
}

impl Line {
    /// `verb` and the key.
    pub fn keyed(verb: &str, key: &[u8]) -> Result<Line, Error> {
        let plain = key.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
        let mut text = Vec::with_capacity(key.len() + 48);
        text.extend_from_slice(verb.as_bytes());
        text.push(b' ');
        let start = text.len();
        match plain {
            true => text.extend_from_slice(key),
            false => text.extend_from_slice(STANDARD.encode(key).as_bytes()),
        }
        match text.len() - start {
            0 => Err(Error::client("the key is empty")),
            bytes if bytes > KEY_BYTES_MAX => Err(Error::client(format!(
                "the key takes {bytes} bytes{}, {KEY_BYTES_MAX} are allowed",
                if plain { "" } else { " in base64" }
            ))),
            _ => Ok(Line { text, encoded: !plain }),
        }
    }

    /// One more word, as it stands.
    pub fn word(mut self, word: &str) -> Line {
        self.text.push(b' ');
        self.text.extend_from_slice(word.as_bytes());
        self
    }

    /// A flag with a number.
    pub fn number(self, flag: char, number: u64) -> Line {
        self.word(&format!("{flag}{number}"))
    }

    /// A flag with a time.
    pub fn time(self, flag: char, ttl: Duration) -> Line {
        self.word(&format!("{flag}{}", time(ttl, SystemTime::now())))
    }

    /// The tags.
    pub fn tags(mut self, tags: &[String]) -> Result<Line, Error> {
        if tags.is_empty() {
            return Ok(self);
        }
        if tags.len() > engine::TAGS_MAX {
            return Err(Error::client(format!(
                "{} tags; {} are allowed",
                tags.len(),
                engine::TAGS_MAX
            )));
        }
        for tag in tags {
            name(tag)?;
            if tag.contains([',', '(', ')']) {
                return Err(Error::client(format!("the tag {tag:?} has a comma or parenthesis")));
            }
        }
        self = self.word(&format!("G{}", tags.join(",")));
        Ok(self)
    }

    /// The request, with a value or without.
    pub fn end(mut self, value: Option<Bytes>) -> Result<Request, Error> {
        if self.encoded {
            self.text.extend_from_slice(b" b");
        }
        if self.text.len() > LINE_BYTES_MAX {
            return Err(Error::client(format!(
                "the request's line takes {} bytes, {LINE_BYTES_MAX} are allowed: shorter tags",
                self.text.len()
            )));
        }
        self.text.extend_from_slice(b"\r\n");
        Ok(Request { line: self.text.into(), value })
    }
}

/// A command of its own words.
pub fn command(line: &str) -> Result<Request, Error> {
    if line.len() > LINE_BYTES_MAX {
        return Err(Error::client(format!(
            "the request's line takes {} bytes, {LINE_BYTES_MAX} are allowed",
            line.len()
        )));
    }
    Ok(Request { line: format!("{line}\r\n").into(), value: None })
}

/// Checks the name of a tag or namespace.
pub fn name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Error::client(format!("{name:?} is empty or has a space: not a name")));
    }
    Ok(())
}

/// A time as `T`, `N` and `R` take it: milliseconds up to 30 days, a date beyond.
fn time(ttl: Duration, now: SystemTime) -> String {
    // What is shorter than a millisecond lives for one: 0 would mean for ever.
    let ms = ttl.as_micros().div_ceil(1000).max(1);
    if ms <= RELATIVE_MS_MAX {
        return match ms % 1000 {
            0 => (ms / 1000).to_string(),
            _ => format!("{ms}ms"),
        };
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Dates are 32-bit numbers: what would end after January 2038 ends then.
    (since.as_secs().saturating_add(ttl.as_secs())).min(i32::MAX as u64).to_string()
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `HD`, `OK`, and lines of text commands.
    Done,
    /// `VA`.
    Value,
    /// `EN`, `NF`.
    Missing,
    /// `NS`.
    NotStored,
    /// `EX`.
    Exists,
    /// `SERVER_ERROR`.
    ServerError,
    /// `CLIENT_ERROR`, `ERROR`.
    ClientError,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its kind.
    pub code: Code,
    /// The line without its end.
    pub line: Bytes,
    /// The value, of `VA`.
    pub value: Bytes,
}

impl Answer {
    /// The line for a person.
    pub fn text(&self) -> String {
        let shown = &self.line[..self.line.len().min(200)];
        String::from_utf8_lossy(shown).into_owned()
    }

    fn words(&self) -> impl Iterator<Item = &[u8]> {
        let skipped = if self.code == Code::Value { 2 } else { 1 };
        self.line.split(|byte| *byte == b' ').skip(skipped)
    }

    /// Whether the flag is there, alone.
    pub fn has(&self, flag: u8) -> bool {
        self.words().any(|word| word == [flag])
    }

    /// The number behind a flag.
    pub fn number(&self, flag: u8) -> Option<u64> {
        let word = self.words().find(|word| word.first() == Some(&flag))?;
        std::str::from_utf8(&word[1..]).ok()?.parse().ok()
    }
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A line, and a value if it says so.
    Meta,
    /// A line of text.
    Text,
    /// `CONFIG cluster 0 <bytes>`, so many bytes, and `END`.
    Config,
}

/// Takes the next answer out of `input`; none if it is not all there.
pub fn take(input: &mut BytesMut, shape: Shape) -> Result<Option<Answer>, String> {
    let Some(end) = memchr::memchr(b'\n', input) else {
        return match input.len() > ANSWER_LINE_BYTES_MAX {
            true => Err("a line without end".into()),
            false => Ok(None),
        };
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    let code = code(line, shape).ok_or_else(|| {
        let shown = &line[..line.len().min(80)];
        format!("{:?}", String::from_utf8_lossy(shown))
    })?;
    let line_bytes = line.len();
    // A value is followed by a line end, a configuration by that and `END` on a line.
    let follows = match (shape, code) {
        (_, Code::Value) => Some((1, b"\r\n".as_slice())),
        (Shape::Config, Code::Done) => Some((3, b"\r\nEND\r\n".as_slice())),
        _ => None,
    };
    let Some((place, tail)) = follows else {
        let mut line = input.split_to(end + 1);
        line.truncate(line_bytes);
        return Ok(Some(Answer { code, line: line.freeze(), value: Bytes::new() }));
    };
    let length = line.split(|byte| *byte == b' ').nth(place);
    let length = length.and_then(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
    let value_bytes = length
        .filter(|bytes| *bytes <= ANSWER_VALUE_BYTES_MAX)
        .ok_or_else(|| format!("{:?}", String::from_utf8_lossy(line)))?;
    let all = end + 1 + value_bytes + tail.len();
    if input.len() < all {
        input.reserve(all - input.len());
        return Ok(None);
    }
    if &input[all - tail.len()..all] != tail {
        return Err("a value without line end".into());
    }
    let mut line = input.split_to(end + 1);
    line.truncate(line_bytes);
    let value = match value_bytes <= COPY_BYTES_MAX {
        true => {
            let value = Bytes::copy_from_slice(&input[..value_bytes]);
            input.advance(value_bytes);
            value
        }
        false => input.split_to(value_bytes).freeze(),
    };
    input.advance(tail.len());
    Ok(Some(Answer { code, line: Bytes::copy_from_slice(&line), value }))
}

fn code(line: &[u8], shape: Shape) -> Option<Code> {
    let first = line.split(|byte| *byte == b' ').next().unwrap_or(line);
    Some(match (first, shape) {
        (b"SERVER_ERROR", _) => Code::ServerError,
        (b"CLIENT_ERROR" | b"ERROR", _) => Code::ClientError,
        (b"CONFIG", Shape::Config) => Code::Done,
        (_, Shape::Config) => return None,
        (_, Shape::Text) => Code::Done,
        (b"HD", _) => Code::Done,
        (b"VA", _) => Code::Value,
        (b"EN" | b"NF", _) => Code::Missing,
        (b"NS", _) => Code::NotStored,
        (b"EX", _) => Code::Exists,
        _ => return None,
    })
}

/// What an error of the server means for the request.
pub fn error_of(answer: &Answer) -> Error {
    let message = answer.text();
    match answer.code {
        Code::ClientError => Error::Client { message },
        _ if message.contains("too large") => Error::Client { message },
        _ => {
            let not_executed = NOT_EXECUTED.iter().any(|known| message.contains(known));
            Error::Server { message, not_executed }
        }
    }
}

/// Words of servers that did not do what they were asked.
const NOT_EXECUTED: &[&str] = &[
    "no node takes this key now",
    "this node cannot reach the cluster's majority",
    "out of memory",
];

/// Whether another node, or the same a moment later, may do better.
pub fn is_passing(answer: &Answer) -> bool {
    answer.code == Code::ServerError && {
        let message = answer.text();
        !message.contains("too large") && !message.contains("out of memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(request: &Request) -> &str {
        std::str::from_utf8(&request.line).unwrap()
    }

    #[test]
    fn keys_with_spaces_travel_in_base64() {
        let request = Line::keyed("mg", b"a b").unwrap().word("v").end(None).unwrap();
        assert_eq!(line(&request), "mg YSBi v b\r\n");
        let request = Line::keyed("mg", "schlüssel".as_bytes()).unwrap().end(None).unwrap();
        assert_eq!(line(&request), "mg schlüssel\r\n");
    }

    #[test]
    fn wrong_requests_are_not_sent() {
        assert!(Line::keyed("mg", b"").is_err());
        assert!(Line::keyed("mg", &[b'a'; 250]).is_ok());
        assert!(Line::keyed("mg", &[b'a'; 251]).is_err());
        assert!(Line::keyed("mg", &[b' '; 186]).is_ok());
        assert!(Line::keyed("mg", &[b' '; 187]).is_err());
        let tagged = |tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            Line::keyed("ms", b"k").unwrap().tags(&tags).and_then(|line| line.end(None))
        };
        assert_eq!(line(&tagged(&["red", "blue"]).unwrap()), "ms k Gred,blue\r\n");
        assert!(tagged(&["a,b"]).is_err());
        assert!(tagged(&["a b"]).is_err());
        assert!(tagged(&[""]).is_err());
        assert!(tagged(&["x"; 17]).is_err());
        let long = "x".repeat(200);
        assert!(tagged(&[long.as_str(); 16]).is_err());
    }

    #[test]
    fn times_are_milliseconds_or_dates() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(time(Duration::ZERO, now), "1ms");
        assert_eq!(time(Duration::from_micros(1), now), "1ms");
        assert_eq!(time(Duration::from_millis(250), now), "250ms");
        assert_eq!(time(Duration::from_secs(60), now), "60");
        assert_eq!(time(Duration::from_secs(2_592_000), now), "2592000");
        assert_eq!(time(Duration::from_secs(2_592_001), now), "1802592001");
        assert_eq!(time(Duration::MAX, now), i32::MAX.to_string());
    }

    #[test]
    fn answers_arrive_in_pieces() {
        let whole = b"VA 5 f7 c9 W X\r\nhello\r\nEN\r\n";
        for cut in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..cut]);
            let mut answers = Vec::new();
            while let Some(answer) = take(&mut input, Shape::Meta).unwrap() {
                answers.push(answer);
            }
            input.extend_from_slice(&whole[cut..]);
            while let Some(answer) = take(&mut input, Shape::Meta).unwrap() {
                answers.push(answer);
            }
            assert_eq!(answers.len(), 2, "cut at {cut}");
            assert_eq!(&answers[0].value[..], b"hello");
            assert_eq!((answers[0].number(b'f'), answers[0].number(b'c')), (Some(7), Some(9)));
            assert!(answers[0].has(b'W') && answers[0].has(b'X') && !answers[0].has(b'Z'));
            assert_eq!(answers[1].code, Code::Missing);
        }
    }

    #[test]
    fn a_configuration_is_one_answer() {
        let mut input = BytesMut::from(&b"CONFIG cluster 0 9\r\n7\nh|i|1\n\n\r\nEND\r\nHD\r\n"[..]);
        let answer = take(&mut input, Shape::Config).unwrap().unwrap();
        assert_eq!(&answer.value[..], b"7\nh|i|1\n\n");
        assert_eq!(take(&mut input, Shape::Meta).unwrap().unwrap().code, Code::Done);
        let mut input = BytesMut::from(&b"ERROR\r\n"[..]);
        let answer = take(&mut input, Shape::Config).unwrap().unwrap();
        assert_eq!(answer.code, Code::ClientError);
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in [&b"HELLO\r\n"[..], b"VA\r\n", b"VA x\r\n", b"VA 99999999999\r\n"] {
            assert!(take(&mut BytesMut::from(nonsense), Shape::Meta).is_err());
        }
        assert!(take(&mut BytesMut::from(&b"VA 1\r\nxxxx"[..]), Shape::Meta).is_err());
    }

    #[test]
    fn errors_say_what_was_done() {
        let error = |line: &'static str| {
            let mut input = BytesMut::from(format!("{line}\r\n").as_bytes());
            error_of(&take(&mut input, Shape::Meta).unwrap().unwrap())
        };
        assert!(error("SERVER_ERROR no node takes this key now").is_retry_safe());
        assert!(!error("SERVER_ERROR the outcome is unknown: the node was lost").is_retry_safe());
        assert!(!error("SERVER_ERROR words of the future").is_retry_safe());
        assert!(matches!(error("SERVER_ERROR object too large for cache"), Error::Client { .. }));
        assert!(matches!(error("CLIENT_ERROR bad data chunk"), Error::Client { .. }));
    }
}
