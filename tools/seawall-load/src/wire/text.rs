//! The classic text protocol.

use super::lines::{Line, ValueState, decimal, error};
use super::{Book, Ending, Garbage, Sink, Wire};
use crate::keys::write_decimal;

/// The reader's state.
#[derive(Debug, Default)]
pub struct Text(ValueState);

impl Wire for Text {
    const VALUE_ENDS_GET: bool = false;
    const FENCE_ENDS_MULTIGET: bool = false;
    const NAME: &'static str = "text";

    #[inline]
    fn write_get(book: &Book, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"get ");
        book.keys.write(number, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_multiget(book: &Book, numbers: &[u64], out: &mut Vec<u8>) {
        out.extend_from_slice(b"get");
        for number in numbers {
            out.push(b' ');
            book.keys.write(*number, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn write_set(book: &Book, number: u64, quiet: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"set ");
        book.keys.write(number, out);
        out.extend_from_slice(b" 0 ");
        write_decimal(book.ttl.into(), out);
        out.push(b' ');
        write_decimal(book.values.value_bytes(number), out);
        out.extend_from_slice(if quiet { b" noreply\r\n" } else { b"\r\n" });
        book.values.write(number, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_fence(out: &mut Vec<u8>) {
        out.extend_from_slice(b"version\r\n");
    }

    #[inline]
    fn read<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Garbage> {
        self.0.read(input, sink, meaning)
    }
}

#[inline]
fn meaning(line: &[u8]) -> Result<Line<'_>, Garbage> {
    if let Some(rest) = line.strip_prefix(b"VALUE ") {
        // `VALUE key flags bytes [cas]`; keys hold no spaces.
        let mut words = rest.split(|byte| *byte == b' ');
        let (key, _flags, value_bytes) = (words.next(), words.next(), words.next());
        return Ok(Line::Value(key, decimal(value_bytes.ok_or(Garbage)?)?));
    }
    Ok(Line::Ending(match line {
        b"END" => Ending::Values,
        b"STORED" => Ending::Stored,
        b"NOT_STORED" | b"EXISTS" | b"NOT_FOUND" => Ending::NotStored,
        b"MN" => Ending::Fence,
        _ if line.starts_with(b"VERSION ") => Ending::Fence,
        _ => return error(line),
    }))
}
