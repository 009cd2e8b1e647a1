//! The binary protocol. Multigets are `GETKQ`s closed by a `NOOP`.
//!
//! ```text
//! request   80 | opcode | key length (2) | extras length | 0 | 0 0 | body length (4) | opaque (4) | cas (8) | body
//! answer    81 | opcode | key length (2) | extras length | 0 | status | body length (4) | opaque (4) | cas (8) | body
//! body      extras | key | value
//! ```

use super::{Book, Ending, Garbage, Sink, Wire};

const HEADER_BYTES: usize = 24;
const GET: u8 = 0x00;
const SET: u8 = 0x01;
const NOOP: u8 = 0x0a;
const GETKQ: u8 = 0x0d;
const SETQ: u8 = 0x11;

const STATUS_OK: u16 = 0;
const STATUS_NOT_FOUND: u16 = 1;
const STATUS_NOT_STORED: u16 = 5;

/// Longest body of an answer without a value: an error text.
const ERROR_BYTES_MAX: usize = 4096;

/// The reader's state: the position inside a value.
#[derive(Debug, Default)]
pub struct Binary {
    seen: u64,
    left: u64,
}

fn write_header(
    opcode: u8,
    key_bytes: usize,
    extras_bytes: usize,
    body_bytes: usize,
    out: &mut Vec<u8>,
) {
    let mut header = [0; HEADER_BYTES];
    header[0] = 0x80;
    header[1] = opcode;
    header[2..4].copy_from_slice(&(key_bytes as u16).to_be_bytes());
    header[4] = extras_bytes as u8;
    header[8..12].copy_from_slice(&(body_bytes as u32).to_be_bytes());
    out.extend_from_slice(&header);
}

impl Wire for Binary {
    const VALUE_ENDS_GET: bool = true;
    const FENCE_ENDS_MULTIGET: bool = true;
    const NAME: &'static str = "binary";

    #[inline]
    fn write_get(book: &Book, number: u64, out: &mut Vec<u8>) {
        let key_bytes = book.keys.key_bytes();
        write_header(GET, key_bytes, 0, key_bytes, out);
        book.keys.write(number, out);
    }

    fn write_multiget(book: &Book, numbers: &[u64], out: &mut Vec<u8>) {
        let key_bytes = book.keys.key_bytes();
        for number in numbers {
            write_header(GETKQ, key_bytes, 0, key_bytes, out);
            book.keys.write(*number, out);
        }
        Self::write_fence(out);
    }

    #[inline]
    fn write_set(book: &Book, number: u64, quiet: bool, out: &mut Vec<u8>) {
        let key_bytes = book.keys.key_bytes();
        let value_bytes = book.values.value_bytes(number) as usize;
        let opcode = if quiet { SETQ } else { SET };
        write_header(opcode, key_bytes, 8, 8 + key_bytes + value_bytes, out);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&book.ttl.to_be_bytes());
        book.keys.write(number, out);
        book.values.write(number, out);
    }

    fn write_fence(out: &mut Vec<u8>) {
        write_header(NOOP, 0, 0, 0, out);
    }

    #[inline]
    fn read<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Garbage> {
        let mut at = 0;
        loop {
            if self.left > 0 {
                let piece = self.left.min((input.len() - at) as u64) as usize;
                if piece == 0 {
                    return Ok(at);
                }
                sink.data(self.seen, &input[at..at + piece]);
                at += piece;
                self.seen += piece as u64;
                self.left -= piece as u64;
                if self.left > 0 {
                    return Ok(at);
                }
                sink.value_end();
            }
            let rest = &input[at..];
            if rest.len() < HEADER_BYTES {
                return match rest.first() {
                    Some(magic) if *magic != 0x81 => Err(Garbage),
                    _ => Ok(at),
                };
            }
            if rest[0] != 0x81 {
                return Err(Garbage);
            }
            let opcode = rest[1];
            let key_bytes = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            let extras_bytes = usize::from(rest[4]);
            let status = u16::from_be_bytes([rest[6], rest[7]]);
            let body_bytes = u32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
            let value_start = HEADER_BYTES + extras_bytes + key_bytes;
            let value_bytes = body_bytes.checked_sub(extras_bytes + key_bytes).ok_or(Garbage)?;
            let is_value = status == STATUS_OK && matches!(opcode, GET | GETKQ);
            if is_value {
                if rest.len() < value_start {
                    return Ok(at);
                }
                let key = &rest[HEADER_BYTES + extras_bytes..value_start];
                sink.value((key_bytes > 0).then_some(key), value_bytes as u64);
                at += value_start;
                self.seen = 0;
                self.left = value_bytes as u64;
                if value_bytes == 0 {
                    sink.value_end();
                }
                continue;
            }
            if body_bytes > ERROR_BYTES_MAX {
                return Err(Garbage);
            }
            if rest.len() < HEADER_BYTES + body_bytes {
                return Ok(at);
            }
            let text = &rest[value_start..HEADER_BYTES + body_bytes];
            sink.ending(match (status, opcode) {
                (STATUS_OK, NOOP) => Ending::Fence,
                (STATUS_OK, SET) => Ending::Stored,
                (STATUS_NOT_FOUND, GET | GETKQ) => Ending::Miss,
                (STATUS_NOT_FOUND | STATUS_NOT_STORED, _) => Ending::NotStored,
                _ => Ending::Error(text),
            });
            at += HEADER_BYTES + body_bytes;
        }
    }
}
