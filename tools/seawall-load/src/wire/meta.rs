//! The meta protocol. Multigets ask quietly and close with `mn`.

use super::lines::{Line, ValueState, decimal, error};
use super::{Book, Ending, Garbage, Sink, Wire};
use crate::keys::write_decimal;

/// The reader's state.
#[derive(Debug, Default)]
pub struct Meta(ValueState);

impl Wire for Meta {
    const VALUE_ENDS_GET: bool = true;
    const FENCE_ENDS_MULTIGET: bool = true;
    const NAME: &'static str = "meta";

    #[inline]
    fn write_get(book: &Book, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"mg ");
        book.keys.write(number, out);
        out.extend_from_slice(b" v\r\n");
    }

    fn write_multiget(book: &Book, numbers: &[u64], out: &mut Vec<u8>) {
        for number in numbers {
            out.extend_from_slice(b"mg ");
            book.keys.write(*number, out);
            out.extend_from_slice(b" k q v\r\n");
        }
        Self::write_fence(out);
    }

    #[inline]
    fn write_set(book: &Book, number: u64, quiet: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"ms ");
        book.keys.write(number, out);
        out.push(b' ');
        write_decimal(book.values.value_bytes(number), out);
        if quiet {
            out.extend_from_slice(b" q");
        }
        if book.ttl > 0 {
            out.extend_from_slice(b" T");
            write_decimal(book.ttl.into(), out);
        }
        out.extend_from_slice(b"\r\n");
        book.values.write(number, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_fence(out: &mut Vec<u8>) {
        out.extend_from_slice(b"mn\r\n");
    }

    #[inline]
    fn read<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Garbage> {
        self.0.read(input, sink, meaning)
    }
}

#[inline]
fn meaning(line: &[u8]) -> Result<Line<'_>, Garbage> {
    if let Some(rest) = line.strip_prefix(b"VA ") {
        let mut words = rest.split(|byte| *byte == b' ');
        let value_bytes = decimal(words.next().ok_or(Garbage)?)?;
        let key = words.find(|word| word.first() == Some(&b'k')).map(|word| &word[1..]);
        return Ok(Line::Value(key, value_bytes));
    }
    // Return flags may follow the two letters.
    let word = line.split(|byte| *byte == b' ').next().unwrap_or(line);
    Ok(Line::Ending(match word {
        b"EN" | b"NF" => Ending::Miss,
        b"HD" => Ending::Stored,
        b"NS" | b"EX" => Ending::NotStored,
        b"MN" => Ending::Fence,
        _ => return error(line),
    }))
}
