//! Base64 of binary keys in meta commands (flag `b`), as lax as memcached:
//! foreign characters are skipped, and the count of the others must be a
//! multiple of four.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const SKIP: u8 = 0x80;

static VALUES: [u8; 256] = {
    let mut table = [SKIP; 256];
    let mut i = 0;
    while i < 64 {
        table[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    table[b'=' as usize] = 0;
    table
};

/// Appends the encoding of `bytes`.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |index: u32| ALPHABET[index as usize & 63];
    let mut triples = bytes.chunks_exact(3);
    for triple in &mut triples {
        let word = u32::from(triple[0]) << 16 | u32::from(triple[1]) << 8 | u32::from(triple[2]);
        out.extend_from_slice(&[
            digit(word >> 18),
            digit(word >> 12),
            digit(word >> 6),
            digit(word),
        ]);
    }
    match *triples.remainder() {
        [one] => out.extend_from_slice(&[
            digit(u32::from(one) >> 2),
            digit(u32::from(one) << 4),
            b'=',
            b'=',
        ]),
        [one, two] => {
            let word = u32::from(one) << 8 | u32::from(two);
            out.extend_from_slice(&[digit(word >> 10), digit(word >> 4), digit(word << 2), b'=']);
        }
        _ => {}
    }
}

/// Decodes `text` into `out`; the length, or `None` if it is not base64.
pub fn decode(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let count = text.iter().filter(|byte| VALUES[usize::from(**byte)] != SKIP).count();
    if count == 0 || count % 4 != 0 || count / 4 * 3 > out.len() {
        return None;
    }
    let (mut written, mut pad, mut filled) = (0, 0, 0);
    let mut block = [0u8; 4];
    for byte in text {
        let value = VALUES[usize::from(*byte)];
        if value == SKIP {
            continue;
        }
        pad += usize::from(*byte == b'=');
        block[filled] = value;
        filled += 1;
        if filled == 4 {
            out[written] = block[0] << 2 | block[1] >> 4;
            out[written + 1] = block[1] << 4 | block[2] >> 2;
            out[written + 2] = block[2] << 6 | block[3];
            written += 3;
            filled = 0;
            if pad > 2 {
                return None;
            }
            if pad > 0 {
                written -= pad;
                break;
            }
        }
    }
    (written > 0).then_some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_every_length() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 1..=190 {
            let mut text = Vec::new();
            encode(&bytes[..len], &mut text);
            let mut back = [0; 256];
            assert_eq!(decode(&text, &mut back), Some(len));
            assert_eq!(&back[..len], &bytes[..len]);
        }
    }

    #[test]
    fn known_answers_and_refusals() {
        let mut out = [0; 16];
        assert_eq!(decode(b"Zm9v", &mut out), Some(3));
        assert_eq!(&out[..3], b"foo");
        assert_eq!(decode(b"Zm9", &mut out), None);
        assert_eq!(decode(b"", &mut out), None);
        assert_eq!(decode(b"Z===", &mut out), None);
    }
}
