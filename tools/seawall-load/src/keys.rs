//! Keys and values as functions of a key's number, so that any answer can be
//! checked without remembering what was written.
//!
//! ```text
//! key    | prefix | 0 0 0 0 | 1 2 3 4 5 6 |     `key_bytes` in all
//! value  | mix(number), 8 bytes LE | pool[start..] and round again |
//! ```
//! where `start` also depends on the number. The pool holds random bytes, line
//! ends among them: a server that looks for them inside values is found out.

use crate::distribution::{Rng, mix};
use crate::plan::{Plan, Span};

/// Random bytes that the values are cut from.
const POOL_BYTES: usize = 64 * 1024;

/// The keys of a run.
#[derive(Clone, Debug)]
pub struct KeySpace {
    /// A key of zeros; the last digits are written over.
    template: Vec<u8>,
    /// The same as an argument of RESP, with its length and line ends.
    bulk_template: Vec<u8>,
    prefix_bytes: usize,
    /// Distinct keys.
    pub count: u64,
}

impl KeySpace {
    /// Checks that the numbers fit into the keys' length.
    pub fn new(plan: &Plan) -> Result<KeySpace, String> {
        let key_bytes = plan.key_bytes as usize;
        let digits = plan.keys.saturating_sub(1).max(1).ilog10() as usize + 1;
        let prefix = match &plan.key_prefix {
            Some(prefix) => prefix.as_str(),
            None => &"key:"[..4.min(key_bytes.saturating_sub(digits))],
        };
        if prefix.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("--key-prefix holds a space or control character; keys may not".into());
        }
        if prefix.len() + digits > key_bytes {
            return Err(format!(
                "{} keys with the prefix `{prefix}` need keys of {} bytes; --key-bytes is {key_bytes}",
                plan.keys,
                prefix.len() + digits,
            ));
        }
        let mut template = prefix.as_bytes().to_vec();
        template.resize(key_bytes, b'0');
        let head = format!("${key_bytes}\r\n");
        let bulk_template = [head.as_bytes(), &template, b"\r\n"].concat();
        Ok(KeySpace { template, bulk_template, prefix_bytes: prefix.len(), count: plan.keys })
    }

    /// Length of every key.
    #[inline]
    pub fn key_bytes(&self) -> usize {
        self.template.len()
    }

    /// Appends the key with this number.
    #[inline]
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.template);
        let end = out.len();
        write_digits(number, &mut out[end - self.template.len()..]);
    }

    /// Appends the key with this number as RESP has it: `$LENGTH\r\nKEY\r\n`.
    #[inline]
    pub fn write_bulk(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bulk_template);
        let end = out.len() - 2;
        write_digits(number, &mut out[end - self.template.len()..end]);
    }

    /// The number of a key that [`Self::write`] made.
    pub fn number(&self, key: &[u8]) -> Option<u64> {
        if key.len() != self.template.len()
            || key[..self.prefix_bytes] != self.template[..self.prefix_bytes]
        {
            return None;
        }
        key[self.prefix_bytes..].iter().try_fold(0u64, |number, byte| {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 { None } else { number.checked_mul(10)?.checked_add(digit.into()) }
        })
    }
}

/// Writes `number` right-aligned over the end of `field`.
#[inline]
fn write_digits(mut number: u64, field: &mut [u8]) {
    let mut at = field.len();
    while number >= 10 {
        let pair = (number % 100) as u8;
        number /= 100;
        field[at - 1] = b'0' + pair % 10;
        field[at - 2] = b'0' + pair / 10;
        at -= 2;
    }
    if number > 0 {
        field[at - 1] = b'0' + number as u8;
    }
}

/// Appends `number` in decimal.
#[inline]
pub fn write_decimal(number: u64, out: &mut Vec<u8>) {
    // Backwards into a field that holds any number: cheaper than to count the
    // digits first.
    let mut field = [0; 20];
    let mut at = field.len();
    let mut rest = number;
    loop {
        at -= 1;
        field[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&field[at..]);
}

/// The values of a run.
#[derive(Clone, Debug)]
pub struct Values {
    span: Span,
    pool: Vec<u8>,
}

impl Values {
    /// Values with lengths in `span`.
    pub fn new(span: Span) -> Values {
        let mut rng = Rng::new(0x05ea_3a11);
        let mut pool = Vec::with_capacity(POOL_BYTES);
        while pool.len() < POOL_BYTES {
            pool.extend_from_slice(&rng.bits().to_le_bytes());
        }
        Values { span, pool }
    }

    /// Length of the value of key `number`.
    #[inline]
    pub fn value_bytes(&self, number: u64) -> u64 {
        if self.span.min == self.span.max {
            return self.span.min.into();
        }
        let lengths = u64::from(self.span.max - self.span.min) + 1;
        u64::from(self.span.min) + mix(number ^ 0xa5a5) % lengths
    }

    /// Appends the value of key `number`.
    #[inline]
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        let value_bytes = self.value_bytes(number) as usize;
        let scattered = mix(number);
        let head = 8.min(value_bytes);
        out.extend_from_slice(&scattered.to_le_bytes()[..head]);
        let mut left = value_bytes - head;
        let mut start = scattered as usize % POOL_BYTES;
        while left > 0 {
            let piece = left.min(POOL_BYTES - start);
            out.extend_from_slice(&self.pool[start..start + piece]);
            left -= piece;
            start = 0;
        }
    }

    /// Whether `bytes` stand at `offset` in the value of key `number`.
    pub fn matches(&self, number: u64, offset: u64, bytes: &[u8]) -> bool {
        let scattered = mix(number);
        let head = scattered.to_le_bytes();
        let mut rest = bytes;
        let mut offset = offset as usize;
        if offset < 8 {
            let piece = rest.len().min(8 - offset);
            if rest[..piece] != head[offset..offset + piece] {
                return false;
            }
            rest = &rest[piece..];
            offset = 8;
        }
        let mut start = (scattered as usize % POOL_BYTES + (offset - 8)) % POOL_BYTES;
        while !rest.is_empty() {
            let piece = rest.len().min(POOL_BYTES - start);
            if rest[..piece] != self.pool[start..start + piece] {
                return false;
            }
            rest = &rest[piece..];
            start = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(keys: u64, key_bytes: u32) -> KeySpace {
        KeySpace::new(&Plan { keys, key_bytes, ..Plan::default() }).expect("fits")
    }

    #[test]
    fn keys_go_there_and_back() {
        let keys = space(1_000_000, 30);
        for number in [0, 1, 9, 10, 99, 100, 12_345, 999_999] {
            let mut key = Vec::new();
            keys.write(number, &mut key);
            assert_eq!(key, format!("key:{number:026}").as_bytes());
            assert_eq!(keys.number(&key), Some(number));
            let mut bulk = Vec::new();
            keys.write_bulk(number, &mut bulk);
            assert_eq!(bulk, [b"$30\r\n", &key[..], b"\r\n"].concat());
        }
        assert_eq!(keys.number(b"key:1"), None);
        assert_eq!(space(10, 1).key_bytes(), 1);
        assert!(KeySpace::new(&Plan { keys: 11, key_bytes: 1, ..Plan::default() }).is_err());
    }

    #[test]
    fn decimals_are_written() {
        for number in [0, 7, 10, 99, 100, 65_535, u64::MAX] {
            let mut out = b"x".to_vec();
            write_decimal(number, &mut out);
            assert_eq!(out, format!("x{number}").as_bytes());
        }
    }

    #[test]
    fn values_match_themselves_in_any_pieces() {
        let values = Values::new(Span { min: 0, max: 200_000 });
        for number in [0, 1, 77, 123_456] {
            let mut value = Vec::new();
            values.write(number, &mut value);
            assert_eq!(value.len() as u64, values.value_bytes(number));
            for piece in [1, 7, 4096, 1 << 20] {
                if piece == 1 && value.len() > 100_000 {
                    continue;
                }
                let mut offset = 0;
                for chunk in value.chunks(piece) {
                    assert!(values.matches(number, offset, chunk));
                    offset += chunk.len() as u64;
                }
            }
            if value.len() > 9 {
                value[9] ^= 1;
                assert!(!values.matches(number, 0, &value));
            }
            assert!(!values.matches(number + 1, 0, &value) || value.is_empty());
        }
    }
}
