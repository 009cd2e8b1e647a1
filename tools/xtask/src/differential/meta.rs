//! Meta commands, mostly well-formed: flags in any order, now and then one
//! that the command doesn't know or that stands twice.

use super::keys::{LARGEST, Pool};
use super::random::Random;
use super::stream::{Piece, Step};

/// The commands of one stream.
pub fn commands(random: &mut Random, pool: &Pool, count: usize) -> Vec<Step> {
    (0..count).map(|_| command(random, pool)).collect()
}

/// One command, with its data block where it has one.
pub fn command(random: &mut Random, pool: &Pool) -> Step {
    let verb: fn(&mut Random, &Pool) -> Step = random.weighted(&[
        (40, get as fn(&mut Random, &Pool) -> Step),
        (28, set),
        (2, set_large),
        (12, delete),
        (16, arithmetic),
        (3, debug),
        (4, noop),
    ]);
    verb(random, pool)
}

/// A line under construction; a CAS reference may follow its text.
struct Line {
    pieces: Vec<Piece>,
    text: String,
}

impl Line {
    fn new(start: String) -> Line {
        Line { pieces: Vec::new(), text: start }
    }

    fn flag(&mut self, flag: &str) {
        self.text.push(' ');
        self.text.push_str(flag);
    }

    fn cas(&mut self, back: usize, delta: i64) {
        self.flag("C");
        self.pieces.push(Piece::Raw(std::mem::take(&mut self.text).into_bytes()));
        self.pieces.push(Piece::Cas { back, delta });
    }

    fn end(mut self, data: Option<&[u8]>) -> Step {
        self.text.push_str("\r\n");
        let mut tail = self.text.into_bytes();
        if let Some(data) = data {
            tail.extend_from_slice(data);
            tail.extend_from_slice(b"\r\n");
        }
        self.pieces.push(Piece::Raw(tail));
        Step::Send(self.pieces)
    }
}

/// The key token, and the `b` flag when it is base64.
fn key(random: &mut Random, pool: &Pool) -> (String, bool) {
    match random.below(40) {
        0..=5 => (base64(pool.key(random).as_bytes()), true),
        6 => ("not*base64".to_owned(), true),
        7 => (pool.key_too_long(random), false),
        _ => (pool.key(random), false),
    }
}

/// Draws a subset of simple flags in a random order.
fn shuffle_in(random: &mut Random, line: &mut Line, flags: &[(usize, String)]) {
    let mut drawn: Vec<&str> = flags
        .iter()
        .filter(|(percent, _)| random.chance(*percent))
        .map(|(_, flag)| flag.as_str())
        .collect();
    for index in (1..drawn.len()).rev() {
        drawn.swap(index, random.below(index + 1));
    }
    for flag in &drawn {
        line.flag(flag);
    }
    match random.below(60) {
        0 => {
            const BROKEN: [&str; 12] =
                ["!", "Z", "y", "9", "B", "O", "T", "Tabc", "N", "Fx", "C", "Cx"];
            let broken: &&str = random.pick(&BROKEN);
            line.flag(broken);
        }
        1 => {
            if let Some(flag) = drawn.first() {
                line.flag(flag);
            }
        }
        _ => {}
    }
}

fn lifetime(random: &mut Random, pool: &Pool, letter: char) -> String {
    format!("{letter}{}", pool.lifetime(random))
}

fn opaque(random: &mut Random) -> String {
    format!("O{}", random.pick(&["1", "abc", "0123456789012345678901234567890", "q/+="]))
}

fn get(random: &mut Random, pool: &Pool) -> Step {
    let (key, encoded) = key(random, pool);
    let mut line = Line::new(format!("mg {key}"));
    if encoded {
        line.flag("b");
    }
    let recache = format!("R{}", random.pick(&["10", "30", "200", "100000", "0"]));
    let flags = [
        (60, "v".to_owned()),
        (35, "c".to_owned()),
        (35, "f".to_owned()),
        (25, "k".to_owned()),
        (25, "s".to_owned()),
        (25, "t".to_owned()),
        (20, "h".to_owned()),
        (10, "l".to_owned()),
        (12, "q".to_owned()),
        (15, opaque(random)),
        (10, lifetime(random, pool, 'T')),
        (10, lifetime(random, pool, 'N')),
        (10, recache),
    ];
    shuffle_in(random, &mut line, &flags);
    line.end(None)
}

fn set(random: &mut Random, pool: &Pool) -> Step {
    let (key, encoded) = key(random, pool);
    let value = pool.value(random);
    let mut line = Line::new(String::new());
    let with_cas = random.chance(15);
    if with_cas {
        let suffix = if encoded { " b" } else { "" };
        line.text = format!("mg {key} c{suffix}\r\n");
    }
    line.text.push_str(&format!("ms {key} {}", value.len()));
    if encoded {
        line.flag("b");
    }
    if with_cas {
        line.cas(0, *random.pick(&[0, 0, 0, -1, 1]));
    } else if random.chance(5) {
        line.flag("C1");
    }
    let mode = random.pick(&["S", "s", "E", "A", "P", "R", "a", "p", "e", "r", "X"]);
    let flags = [
        (20, "c".to_owned()),
        (20, "k".to_owned()),
        (12, "q".to_owned()),
        (10, "I".to_owned()),
        (30, format!("F{}", pool.flags(random))),
        (30, lifetime(random, pool, 'T')),
        (35, format!("M{mode}")),
        (15, opaque(random)),
    ];
    shuffle_in(random, &mut line, &flags);
    line.end(Some(&value))
}

/// Nothing wrong with this one: a refused `ms` leaves its data block to be read
/// as commands, and whether a line of more than 2,048 bytes closes the
/// connection depends on when its end arrives.
fn set_large(random: &mut Random, pool: &Pool) -> Step {
    let value = pool.large_value(random);
    let line = Line::new(format!("ms {} {} T0", pool.key(random), value.len()));
    line.end(Some(&value))
}

fn delete(random: &mut Random, pool: &Pool) -> Step {
    let (key, encoded) = key(random, pool);
    let mut line = Line::new(String::new());
    let with_cas = random.chance(25);
    if with_cas {
        let suffix = if encoded { " b" } else { "" };
        line.text = format!("mg {key} c{suffix}\r\n");
    }
    line.text.push_str(&format!("md {key}"));
    if encoded {
        line.flag("b");
    }
    if with_cas {
        line.cas(0, *random.pick(&[0, 0, -1]));
    }
    let flags = [
        (25, "k".to_owned()),
        (12, "q".to_owned()),
        (45, "I".to_owned()),
        (25, lifetime(random, pool, 'T')),
        (20, opaque(random)),
    ];
    shuffle_in(random, &mut line, &flags);
    line.end(None)
}

fn arithmetic(random: &mut Random, pool: &Pool) -> Step {
    let (key, encoded) = key(random, pool);
    let mut line = Line::new(format!("ma {key}"));
    if encoded {
        line.flag("b");
    }
    let touches = random.chance(12);
    let mode = match touches {
        // Down: the new expiry of a number that gets longer is a difference that is meant.
        true => "D",
        false => *random.pick(&["I", "i", "+", "D", "d", "-", "X"]),
    };
    let largest = LARGEST.to_string();
    let initial = *random.pick(&["0", "5", &largest, "abc"]);
    let flags = [
        (50, "v".to_owned()),
        (25, "c".to_owned()),
        (25, "t".to_owned()),
        (25, "k".to_owned()),
        (12, "q".to_owned()),
        (40, format!("D{}", pool.delta(random))),
        (if touches { 100 } else { 30 }, format!("M{mode}")),
        (20, lifetime(random, pool, 'N')),
        (20, format!("J{initial}")),
        (if touches { 100 } else { 0 }, lifetime(random, pool, 'T')),
        (15, opaque(random)),
    ];
    shuffle_in(random, &mut line, &flags);
    line.end(None)
}

fn debug(random: &mut Random, pool: &Pool) -> Step {
    let (key, encoded) = key(random, pool);
    Step::raw(format!("me {key}{}\r\n", if encoded { " b" } else { "" }))
}

fn noop(random: &mut Random, _: &Pool) -> Step {
    Step::raw(*random.pick(&["mn\r\n", "mn\r\n", "mn x\r\n", "mg\r\n", "ms\r\n", "mx a\r\n"]))
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            if place <= three.len() {
                text.push(DIGITS[(word >> (18 - 6 * place) & 63) as usize] as char);
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads() {
        let encoded = ["", "f", "fo", "foo", "foob"].map(|text| super::base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
