//! Keys, values and lifetimes that generated streams draw from.
//!
//! Every stream has its own keys.

use super::random::Random;

/// What one stream draws from.
#[derive(Debug)]
pub struct Pool {
    prefix: String,
    /// Longest value of [`Pool::value`].
    value_bytes_max: usize,
    /// Longest value of [`Pool::large_value`].
    large_bytes_max: usize,
}

/// The largest number in values, deltas and initial values. memcached looks for
/// a minus behind a number above 2^63, also in what an earlier item has left in
/// that memory; so no stream counts up to there. The cases do, on fresh servers.
pub const LARGEST: u64 = 1_234_567_890_123_456_789;

impl Pool {
    /// The pool of the stream with this seed.
    pub fn new(seed: u64, value_bytes_max: usize, large_bytes_max: usize) -> Pool {
        Pool { prefix: format!("s{seed:x}."), value_bytes_max, large_bytes_max }
    }

    /// A key: mostly one of a few short ones, sometimes one at the length limit.
    pub fn key(&self, random: &mut Random) -> String {
        let index = random.below(6);
        match random.below(60) {
            0 => self.padded(250, index),
            1 => self.padded(249, index),
            2 => format!("{}Ключ{index}", self.prefix),
            _ => format!("{}{index}", self.prefix),
        }
    }

    /// A key that no server takes.
    pub fn key_too_long(&self, random: &mut Random) -> String {
        let bytes = *random.pick(&[251, 252, 300, 1_000]);
        self.padded(bytes, 0)
    }

    fn padded(&self, bytes: usize, index: usize) -> String {
        let start = format!("{}{index}", self.prefix);
        format!("{start}{}", "k".repeat(bytes - start.len()))
    }

    /// A value: numbers often enough that incr finds them.
    pub fn value(&self, random: &mut Random) -> Vec<u8> {
        let value = match random.below(24) {
            0..=7 => random.below(1_000).to_string().into_bytes(),
            8 => LARGEST.to_string().into_bytes(),
            9 => (LARGEST - 5).to_string().into_bytes(),
            10 => b"99".to_vec(),
            11 => Vec::new(),
            12 => b" 7 ".to_vec(),
            13 => b"12abc".to_vec(),
            14 => b"\r\nx".to_vec(),
            15 => b"get a\r\nEND\r\nset b 0 0 1\r\n".to_vec(),
            16 => (0..random.below(40)).map(|_| random.next() as u8).collect(),
            17 => vec![b'z'; random.below(self.value_bytes_max + 1)],
            18 => vec![b'y'; random.range(1, 5) * self.value_bytes_max / 5],
            _ => b"the quick brown fox"[..random.below(20)].to_vec(),
        };
        let mut value = value[..value.len().min(self.value_bytes_max)].to_vec();
        // When it looks for a number in a value of white space alone, or for
        // the minus of a large one, memcached reads on behind the item.
        let blank = |byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ');
        value.iter_mut().filter(|byte| **byte == b'-').for_each(|byte| *byte = b'+');
        if value.iter().all(blank) {
            value.fill(b'w');
        }
        value
    }

    /// A value that may be much longer than the ordinary ones.
    pub fn large_value(&self, random: &mut Random) -> Vec<u8> {
        vec![*random.pick(b"qrs"); random.below(self.large_bytes_max + 1)]
    }

    /// Client flags.
    pub fn flags(&self, random: &mut Random) -> &'static str {
        random.weighted(&[(6, "0"), (1, "1"), (1, "123"), (1, "4294967295"), (1, "65536")])
    }

    /// A lifetime whose outcome no clock decides: far away, or over already.
    pub fn lifetime(&self, random: &mut Random) -> &'static str {
        random.weighted(&[
            (10, "0"),
            (3, "100"),
            (1, "3600"),
            (1, "2592000"),
            // Absolute: in 1970 (over), in 2036 (far away).
            (1, "2592001"),
            (1, "2100000000"),
            (1, "-1"),
        ])
    }

    /// What incr and decr add.
    pub fn delta(&self, random: &mut Random) -> u64 {
        random.weighted(&[(6, 1), (3, 9), (2, 0), (2, 1_000), (1, LARGEST), (1, LARGEST - 1)])
    }
}
