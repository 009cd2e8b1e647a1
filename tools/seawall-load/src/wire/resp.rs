//! RESP 2, which Redis and Valkey speak.
//!
//! ```text
//! request   *N\r\n, then N times $LENGTH\r\nBYTES\r\n
//! GET       $LENGTH\r\nBYTES\r\n or $-1\r\n
//! MGET      *N\r\n, then an answer of GET for each key, in their order
//! SET       +OK\r\n
//! PING      +PONG\r\n
//! error     -TEXT\r\n
//! ```
//!
//! No set is quiet here: those that preload a server are answered too, and the
//! `PING` behind them ends the series all the same.

use super::lines::{ValueState, decimal, line};
use super::{Book, Ending, Garbage, Sink, Wire};
use crate::keys::write_decimal;

/// The reader's state.
#[derive(Debug, Default)]
pub struct Resp {
    value: ValueState,
    /// Elements of an array that are still to come, the one being read included.
    elements: u64,
}

impl Wire for Resp {
    const VALUE_ENDS_GET: bool = true;
    const FENCE_ENDS_MULTIGET: bool = false;
    const MULTIGET_NAMES_KEYS: bool = false;
    const SETS_CAN_BE_QUIET: bool = false;
    const NAME: &'static str = "resp";

    #[inline]
    fn write_get(book: &Book, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
        book.keys.write_bulk(number, out);
    }

    fn write_multiget(book: &Book, numbers: &[u64], out: &mut Vec<u8>) {
        out.push(b'*');
        write_decimal(numbers.len() as u64 + 1, out);
        out.extend_from_slice(b"\r\n$4\r\nMGET\r\n");
        for number in numbers {
            book.keys.write_bulk(*number, out);
        }
    }

    #[inline]
    fn write_set(book: &Book, number: u64, _quiet: bool, out: &mut Vec<u8>) {
        let expires = book.ttl > 0;
        out.extend_from_slice(if expires {
            b"*5\r\n$3\r\nSET\r\n"
        } else {
            b"*3\r\n$3\r\nSET\r\n"
        });
        book.keys.write_bulk(number, out);
        out.push(b'$');
        write_decimal(book.values.value_bytes(number), out);
        out.extend_from_slice(b"\r\n");
        book.values.write(number, out);
        if expires {
            out.extend_from_slice(b"\r\n$2\r\nEX\r\n$");
            let digits = book.ttl.checked_ilog10().unwrap_or(0) + 1;
            write_decimal(digits.into(), out);
            out.extend_from_slice(b"\r\n");
            write_decimal(book.ttl.into(), out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_fence(out: &mut Vec<u8>) {
        out.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    }

    #[inline]
    fn read<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Garbage> {
        let mut at = 0;
        loop {
            if self.value.is_inside() {
                at += self.value.value(&input[at..], sink)?;
                if self.value.is_inside() {
                    return Ok(at);
                }
                self.element_end(sink);
            }
            let Some((line, taken)) = line(&input[at..])? else { return Ok(at) };
            at += taken;
            match line {
                b"$-1" => {
                    sink.ending(Ending::Miss);
                    self.element_end(sink);
                }
                [b'$', length @ ..] => {
                    let value_bytes = decimal(length)?;
                    sink.value(None, value_bytes);
                    self.value = ValueState::begin(value_bytes);
                }
                // What follows is never a part of an array.
                _ if self.elements > 0 => return Err(Garbage),
                b"+OK" => sink.ending(Ending::Stored),
                b"+PONG" => sink.ending(Ending::Fence),
                [b'-', text @ ..] => sink.ending(Ending::Error(text)),
                [b'*', count @ ..] => {
                    self.elements = decimal(count)?;
                    if self.elements == 0 {
                        sink.ending(Ending::Values);
                    }
                }
                _ => return Err(Garbage),
            }
        }
    }
}

impl Resp {
    /// A value or a miss is over; the last one of an array ends the array.
    #[inline]
    fn element_end<S: Sink>(&mut self, sink: &mut S) {
        if self.elements > 0 {
            self.elements -= 1;
            if self.elements == 0 {
                sink.ending(Ending::Values);
            }
        }
    }
}
