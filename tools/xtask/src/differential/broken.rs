//! Text and meta commands with something wrong: tokens missing, doubled or
//! absurd, lengths that lie, endings that are missing.

use super::keys::Pool;
use super::random::Random;
use super::stream::{Piece, Step};
use super::{meta, text};

const ABSURD: &[&str] = &[
    "",
    "-1",
    "-2147483648",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "99999999999999999999",
    "18446744073709551616",
    "abc",
    "1a",
    "0x10",
    "+5",
    "1.5",
    "noreply",
    "get",
    "\0",
    "\t",
    "\u{7f}",
    "é",
    "*",
    "k",
    "0",
    "7",
    "norepl",
    "NOREPLY",
    "-0",
    "00005",
];

/// About half of the commands are damaged.
pub fn commands(random: &mut Random, pool: &Pool, count: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..count {
        let meta_command = random.chance(45);
        let step =
            if meta_command { meta::command(random, pool) } else { text::command(random, pool) };
        let bytes = without_cas(step);
        steps.push(Step::raw(if random.chance(50) { damage(random, bytes) } else { bytes }));
    }
    steps
}

/// CAS uniques have another length on each server. Where framing may break, a
/// command may become another's value, so here they are made up.
fn without_cas(step: Step) -> Vec<u8> {
    let Step::Send(pieces) = step else { return Vec::new() };
    let bytes = |piece| match piece {
        Piece::Raw(bytes) => bytes,
        Piece::Cas { .. } => b"18446744073709551614".to_vec(),
    };
    pieces.into_iter().flat_map(bytes).collect()
}

fn damage(random: &mut Random, bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    let mut words: Vec<Vec<u8>> = line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
    let mut ending = rest.to_vec();
    match random.below(17) {
        0 => drop(words.remove(random.below(words.len()))),
        1 => {
            let index = random.below(words.len());
            words.insert(index, words[index].clone());
        }
        2..=5 => {
            let index = random.below(words.len());
            words[index] = random.pick(ABSURD).as_bytes().to_vec();
        }
        6 => words.push(random.pick(ABSURD).as_bytes().to_vec()),
        7 => words.insert(0, Vec::new()),
        8 => words[0] = words[0].to_ascii_uppercase(),
        9 => words[0].push(b'x'),
        10 => words.truncate(1),
        11 => {
            let index = random.below(words.len());
            words.insert(index, Vec::new());
        }
        // The newline without its carriage return.
        12 => drop(ending.remove(0)),
        // The data block a bit shorter or longer than it says.
        13 if ending.len() > 4 => ending.truncate(ending.len() - random.range(1, 3)),
        14 if ending.len() > 4 => {
            let extra = *random.pick(&["x", "\r", "\n", "xx", "\r\n", "xxx"]);
            ending.splice(2..2, extra.bytes());
        }
        // No data block at all: the next command is eaten as data.
        15 => ending.truncate(2),
        _ => {
            let index = random.below(words.len());
            if let Some(byte) = words[index].first_mut() {
                *byte = random.range(0x21, 0x7e) as u8;
            }
        }
    }
    let mut damaged = words.join(&b' ');
    damaged.extend(ending);
    harmless(damaged)
}

/// Keeps damage from spelling a command that other streams would feel.
fn harmless(bytes: Vec<u8>) -> Vec<u8> {
    const FELT_BY_OTHERS: &[&[u8]] = &[b"flush_all", b"shutdown", b"watch", b"cache_memlimit"];
    let spelled = |word: &&[u8]| bytes.windows(word.len()).any(|window| window == *word);
    if FELT_BY_OTHERS.iter().any(spelled) { b"mn\r\n".to_vec() } else { bytes }
}
