//! What text, meta and RESP share: lines that end in `\r\n`, and values between
//! them.

use super::{Ending, Garbage, Sink};

/// No answer line without a newline is longer; what is, is another protocol.
const LINE_BYTES_MAX: usize = 8192;

/// Where the reader stands inside a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValueState {
    /// Bytes of the value already seen.
    seen: u64,
    /// Bytes of the value still to come.
    left: u64,
    /// Bytes of the closing `\r\n` still to come; above 0 only inside a value.
    closing: u8,
}

/// What a line means.
pub enum Line<'a> {
    /// A value follows.
    Value(Option<&'a [u8]>, u64),
    /// The line is all.
    Ending(Ending<'a>),
}

impl ValueState {
    /// At the first byte of a value.
    #[inline]
    pub fn begin(value_bytes: u64) -> ValueState {
        ValueState { seen: 0, left: value_bytes, closing: 2 }
    }

    /// Whether bytes of a value, or of its closing line end, are still to come.
    #[inline]
    pub fn is_inside(&self) -> bool {
        self.closing > 0
    }

    /// Reads complete lines and any part of values. `meaning` judges a line.
    #[inline]
    pub fn read<S: Sink>(
        &mut self,
        input: &[u8],
        sink: &mut S,
        meaning: impl for<'a> Fn(&'a [u8]) -> Result<Line<'a>, Garbage>,
    ) -> Result<usize, Garbage> {
        let mut at = 0;
        loop {
            if self.is_inside() {
                at += self.value(&input[at..], sink)?;
                if self.is_inside() {
                    return Ok(at);
                }
            }
            let Some((line, taken)) = line(&input[at..])? else { return Ok(at) };
            at += taken;
            match meaning(line)? {
                Line::Ending(ending) => sink.ending(ending),
                Line::Value(key, value_bytes) => {
                    sink.value(key, value_bytes);
                    *self = ValueState::begin(value_bytes);
                }
            }
        }
    }

    /// Reads the value's bytes in `input`, and its line end.
    #[inline]
    pub fn value<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Garbage> {
        let piece = self.left.min(input.len() as u64) as usize;
        if piece > 0 {
            sink.data(self.seen, &input[..piece]);
            self.seen += piece as u64;
            self.left -= piece as u64;
        }
        if self.left > 0 {
            return Ok(piece);
        }
        let mut at = piece;
        while self.closing > 0 && at < input.len() {
            let expected = if self.closing == 2 { b'\r' } else { b'\n' };
            if input[at] != expected {
                return Err(Garbage);
            }
            self.closing -= 1;
            at += 1;
        }
        if self.closing == 0 {
            sink.value_end();
        }
        Ok(at)
    }
}

/// The line at the beginning of `input` without its end, and the bytes of both;
/// none where its end has not come.
#[inline]
pub fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, Garbage> {
    let Some(newline) = memchr::memchr(b'\n', input) else {
        return if input.len() > LINE_BYTES_MAX { Err(Garbage) } else { Ok(None) };
    };
    let line = &input[..newline];
    Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), newline + 1)))
}

/// The error lines of text and meta.
pub fn error(line: &[u8]) -> Result<Line<'_>, Garbage> {
    let is_error = line.starts_with(b"SERVER_ERROR")
        || line.starts_with(b"CLIENT_ERROR")
        || line.starts_with(b"ERROR");
    if is_error { Ok(Line::Ending(Ending::Error(line))) } else { Err(Garbage) }
}

/// A decimal number that fills `bytes`.
#[inline]
pub fn decimal(bytes: &[u8]) -> Result<u64, Garbage> {
    if bytes.is_empty() || bytes.len() > 10 {
        return Err(Garbage);
    }
    bytes.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { Err(Garbage) } else { Ok(number * 10 + u64::from(digit)) }
    })
}
