//! The words of a command line, cut as memcached cuts them.

use crate::limits::TOKENS_MAX;

/// Ranges of the words in a line. At most [`TOKENS_MAX`] - 1 of them; the rest
/// of a longer line is not cut.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    line: &'a [u8],
    ranges: [(u32, u32); TOKENS_MAX - 1],
    count: usize,
}

impl<'a> Tokens<'a> {
    /// Cuts `line` at spaces. A NUL ends it, as it ends a C string.
    pub fn new(line: &'a [u8]) -> Tokens<'a> {
        let line = until_nul(line);
        let mut tokens = Tokens { line, ranges: [(0, 0); TOKENS_MAX - 1], count: 0 };
        let mut at = 0;
        while tokens.count < TOKENS_MAX - 1 {
            while line.get(at) == Some(&b' ') {
                at += 1;
            }
            if at == line.len() {
                break;
            }
            let end = memchr::memchr(b' ', &line[at..]).map_or(line.len(), |found| at + found);
            tokens.ranges[tokens.count] = (at as u32, end as u32);
            tokens.count += 1;
            at = end;
        }
        tokens
    }

    /// Words, and one more for the terminator: the count that memcached's
    /// rules are written in.
    pub fn count(&self) -> usize {
        self.count + 1
    }

    /// The word at `index`; empty beyond the last.
    pub fn get(&self, index: usize) -> &'a [u8] {
        if index < self.count {
            let (start, end) = self.ranges[index];
            &self.line[start as usize..end as usize]
        } else {
            &[]
        }
    }

    /// Where the word at `index` begins in the line; its end beyond the last.
    pub fn start(&self, index: usize) -> usize {
        if index < self.count { self.ranges[index].0 as usize } else { self.line.len() }
    }

    /// The last word.
    pub fn last(&self) -> &'a [u8] {
        self.get(self.count.wrapping_sub(1))
    }

    /// Whether the last word is `noreply`.
    pub fn quiet(&self) -> bool {
        self.last() == b"noreply"
    }
}

/// The line up to a NUL, which ends it for memcached.
#[inline]
pub fn until_nul(line: &[u8]) -> &[u8] {
    match memchr::memchr(0, line) {
        Some(nul) => &line[..nul],
        None => line,
    }
}

/// Index of the first byte that may end a word: a space or a control
/// character. The length if there is none.
#[inline]
pub fn word_end(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest byte found is exact; a borrow can only fool higher ones.
        let found = word.wrapping_sub(LOW * 0x21) & !word & (LOW << 7);
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let start = words.len() * 8;
    rest.iter().position(|byte| *byte <= b' ').map_or(bytes.len(), |found| start + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_like_memcached() {
        let tokens = Tokens::new(b"  set  a b ");
        assert_eq!(tokens.count(), 4);
        assert_eq!(tokens.get(0), b"set");
        assert_eq!(tokens.get(1), b"a");
        assert_eq!(tokens.start(1), 7);
        assert_eq!(tokens.last(), b"b");
        assert_eq!(tokens.get(9), b"");
        assert_eq!(Tokens::new(b"").count(), 1);
        assert_eq!(Tokens::new(b"").last(), b"");
        assert_eq!(Tokens::new(b"get a\0b c").count(), 3);
        let long = b"a ".repeat(40);
        assert_eq!(Tokens::new(&long).count(), TOKENS_MAX);
    }

    #[test]
    fn word_end_agrees_with_the_plain_loop() {
        let plain = |bytes: &[u8]| bytes.iter().position(|b| *b <= b' ').unwrap_or(bytes.len());
        for len in 0..40 {
            for at in 0..=len {
                for stop in [0u8, b'\n', b'\r', b' ', 0x1f, 0x21, 0x7f, 0x80, 0xff] {
                    let mut bytes = vec![b'x'; len];
                    if at < len {
                        bytes[at] = stop;
                        if at > 0 {
                            bytes[at - 1] = 0xa0;
                        }
                    }
                    assert_eq!(word_end(&bytes), plain(&bytes), "{bytes:?}");
                }
            }
        }
    }
}
