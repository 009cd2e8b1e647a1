//! Numbers as memcached reads and writes them.
//!
//! Reading follows C's `strtoul` and friends as memcached 1.6 wraps them:
//! leading white space and a sign are allowed, what follows the digits must be
//! the end or white space, results are cut to their type. It looks lax, and
//! clients depend on it.

/// White space of C's `isspace`.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// Sign and magnitude; `None` where C finds no digits, rubbish behind them, or
/// more than 64 bits.
fn parse(text: &[u8]) -> Option<(bool, u64)> {
    let mut rest = text;
    while let [first, tail @ ..] = rest
        && is_space(*first)
    {
        rest = tail;
    }
    let negative = match rest {
        [b'-', tail @ ..] => {
            rest = tail;
            true
        }
        [b'+', tail @ ..] => {
            rest = tail;
            false
        }
        _ => false,
    };
    let mut value = 0u64;
    let mut digits = 0;
    let mut overflow = false;
    for byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        digits += 1;
        match value.checked_mul(10).and_then(|v| v.checked_add(u64::from(digit))) {
            Some(next) => value = next,
            None => overflow = true,
        }
    }
    let ends_well = rest.get(digits).is_none_or(|byte| is_space(*byte));
    (digits > 0 && !overflow && ends_well).then_some((negative, value))
}

/// `safe_strtoull`.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    let (negative, value) = parse(text)?;
    let value = if negative { value.wrapping_neg() } else { value };
    // A minus is only noticed when the result looks negative.
    if (value as i64) < 0 && text.contains(&b'-') { None } else { Some(value) }
}

/// `safe_strtoul` into 32 bits: what is above them is cut off.
pub fn parse_u32(text: &[u8]) -> Option<u32> {
    parse_u64(text).map(|value| value as u32)
}

/// `safe_strtol` into 32 bits: what is above them is cut off.
pub fn parse_i32(text: &[u8]) -> Option<i32> {
    let (negative, value) = parse(text)?;
    if negative {
        (value <= 1 << 63).then(|| value.wrapping_neg() as i32)
    } else {
        (value < 1 << 63).then_some(value as i32)
    }
}

/// `safe_strtod`, as far as a tuning knob needs it.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    core::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

/// The digits "00" to "99", so that two are written per division.
static PAIRS: [u8; 200] = {
    let mut table = [0u8; 200];
    let mut i = 0;
    while i < 100 {
        table[2 * i] = b'0' + (i / 10) as u8;
        table[2 * i + 1] = b'0' + (i % 10) as u8;
        i += 1;
    }
    table
};

/// A number's decimal digits on the stack.
pub struct Decimal {
    bytes: [u8; 20],
    start: u8,
}

impl Decimal {
    /// Writes the digits of `value`.
    #[inline]
    pub fn new(mut value: u64) -> Decimal {
        let mut bytes = [0u8; 20];
        let mut at = 20;
        while value >= 100 {
            let pair = (value % 100) as usize * 2;
            value /= 100;
            at -= 2;
            bytes[at] = PAIRS[pair];
            bytes[at + 1] = PAIRS[pair + 1];
        }
        if value >= 10 {
            let pair = value as usize * 2;
            at -= 2;
            bytes[at] = PAIRS[pair];
            bytes[at + 1] = PAIRS[pair + 1];
        } else {
            at -= 1;
            bytes[at] = b'0' + value as u8;
        }
        Decimal { bytes, start: at as u8 }
    }

    /// The digits.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// Appends `value` in decimal.
#[inline]
pub fn put(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
    } else {
        out.extend_from_slice(Decimal::new(value).as_bytes());
    }
}

/// Appends `value` in decimal with its sign.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    put(out, value.unsigned_abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_c_does() {
        assert_eq!(parse_u64(b"12"), Some(12));
        assert_eq!(parse_u64(b"+12"), Some(12));
        assert_eq!(parse_u64(b"\t12\r"), Some(12));
        assert_eq!(parse_u64(b"-1"), None);
        assert_eq!(parse_u64(b"-18446744073709551615"), Some(1));
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
        assert_eq!(parse_u64(b""), None);
        assert_eq!(parse_u64(b"12a"), None);
        assert_eq!(parse_u32(b"4294967297"), Some(1));
        assert_eq!(parse_i32(b"-5"), Some(-5));
        assert_eq!(parse_i32(b"4294967295"), Some(-1));
        assert_eq!(parse_i32(b"9223372036854775808"), None);
        assert_eq!(parse_i32(b"-9223372036854775808"), Some(0));
        assert_eq!(parse_i32(b"--1"), None);
    }

    #[test]
    fn writes_every_length() {
        let mut value = 0u64;
        for digit in 0..20u64 {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
            value = value.wrapping_mul(10).wrapping_add(digit % 9 + 1);
        }
        let mut out = Vec::new();
        put(&mut out, u64::MAX);
        put_signed(&mut out, -42);
        assert_eq!(out, b"18446744073709551615-42");
    }
}
