//! Well-formed classic commands.

use super::keys::Pool;
use super::random::Random;
use super::stream::{Piece, Step};

/// The commands of one stream.
pub fn commands(random: &mut Random, pool: &Pool, count: usize) -> Vec<Step> {
    (0..count).map(|_| command(random, pool)).collect()
}

/// Puts syncs where memcached's answer would depend on packet borders, that is,
/// on whether it has sent its earlier answers yet:
/// - on a `get` with a key that is too long it drops those that it has not;
/// - it changes a number in a new item while one of them holds the old item.
pub fn with_syncs(steps: Vec<Step>) -> Vec<Step> {
    let mut synced = Vec::new();
    let mut read = false;
    for step in steps {
        if let Step::Send(pieces) = &step {
            let lines = || pieces.iter().flat_map(lines_of);
            if lines().any(drops_answers) || read && lines().any(changes_number) {
                synced.push(Step::Sync);
                read = false;
            }
            read |= lines().any(reads);
        }
        synced.push(step);
    }
    synced
}

/// What may be command lines of a piece.
fn lines_of(piece: &Piece) -> impl Iterator<Item = Vec<&[u8]>> {
    let bytes = match piece {
        Piece::Raw(bytes) => bytes.as_slice(),
        Piece::Cas { .. } => b"",
    };
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b' ').skip_while(|word| word.is_empty()).collect())
}

fn reads(words: Vec<&[u8]>) -> bool {
    matches!(words.first(), Some(&(b"get" | b"gets" | b"gat" | b"gats" | b"mg")))
}

fn drops_answers(words: Vec<&[u8]>) -> bool {
    reads(words.clone()) && words.iter().any(|word| word.len() > 250)
}

fn changes_number(words: Vec<&[u8]>) -> bool {
    matches!(words.first(), Some(&(b"incr" | b"decr" | b"ma")))
}

/// One command, with its data block where it has one.
pub fn command(random: &mut Random, pool: &Pool) -> Step {
    let verb: fn(&mut Random, &Pool) -> Step = random.weighted(&[
        (28, store as fn(&mut Random, &Pool) -> Step),
        (2, set_large),
        (24, get),
        (6, get_and_touch),
        (8, cas),
        (10, arithmetic),
        (6, delete),
        (4, touch),
        (2, other),
    ]);
    verb(random, pool)
}

fn noreply(random: &mut Random) -> &'static str {
    if random.chance(15) { " noreply" } else { "" }
}

fn line_and_data(line: String, value: &[u8]) -> Vec<u8> {
    [line.as_bytes(), b"\r\n", value, b"\r\n"].concat()
}

fn store(random: &mut Random, pool: &Pool) -> Step {
    let verb =
        random.weighted(&[(10, "set"), (3, "add"), (3, "replace"), (3, "append"), (3, "prepend")]);
    let value = pool.value(random);
    let (key, flags, lifetime) = (pool.key(random), pool.flags(random), pool.lifetime(random));
    let line = format!("{verb} {key} {flags} {lifetime} {}{}", value.len(), noreply(random));
    Step::raw(line_and_data(line, &value))
}

fn set_large(random: &mut Random, pool: &Pool) -> Step {
    let value = pool.large_value(random);
    Step::raw(line_and_data(format!("set {} 0 0 {}", pool.key(random), value.len()), &value))
}

fn cas(random: &mut Random, pool: &Pool) -> Step {
    let value = pool.value(random);
    let (key, flags, lifetime) = (pool.key(random), pool.flags(random), pool.lifetime(random));
    let start = format!("cas {key} {flags} {lifetime} {} ", value.len());
    if random.chance(25) {
        let line = format!("{start}18446744073709551615{}", noreply(random));
        return Step::raw(line_and_data(line, &value));
    }
    let end = line_and_data(noreply(random).to_owned(), &value);
    // Ask first, so that there is a CAS unique that may still be right.
    Step::Send(vec![
        Piece::Raw(format!("gets {key}\r\n").into_bytes()),
        Piece::Raw(start.into_bytes()),
        Piece::Cas { back: usize::from(random.chance(20)), delta: 0 },
        Piece::Raw(end),
    ])
}

fn get(random: &mut Random, pool: &Pool) -> Step {
    let verb = random.weighted(&[(3, "get"), (2, "gets")]);
    let count = random.weighted(&[(10, 1), (4, 2), (2, 7), (1, 24), (1, 25), (1, 60)]);
    let mut line = verb.to_owned();
    if random.chance(2) {
        line.push(' ');
        line.push_str(&pool.key_too_long(random));
    }
    for _ in 0..count {
        line.push(' ');
        line.push_str(&pool.key(random));
    }
    Step::raw(line + "\r\n")
}

fn get_and_touch(random: &mut Random, pool: &Pool) -> Step {
    let verb = random.weighted(&[(3, "gat"), (2, "gats")]);
    let mut line = format!("{verb} {}", pool.lifetime(random));
    for _ in 0..random.range(1, 4) {
        line.push(' ');
        line.push_str(&pool.key(random));
    }
    Step::raw(line + "\r\n")
}

fn arithmetic(random: &mut Random, pool: &Pool) -> Step {
    let verb = random.weighted(&[(3, "incr"), (2, "decr")]);
    let (key, delta) = (pool.key(random), pool.delta(random));
    Step::raw(format!("{verb} {key} {delta}{}\r\n", noreply(random)))
}

fn delete(random: &mut Random, pool: &Pool) -> Step {
    let key = pool.key(random);
    let zero = if random.chance(10) { " 0" } else { "" };
    Step::raw(format!("delete {key}{zero}{}\r\n", noreply(random)))
}

fn touch(random: &mut Random, pool: &Pool) -> Step {
    let (key, lifetime) = (pool.key(random), pool.lifetime(random));
    Step::raw(format!("touch {key} {lifetime}{}\r\n", noreply(random)))
}

fn other(random: &mut Random, pool: &Pool) -> Step {
    match random.below(4) {
        0 => Step::raw("version\r\n"),
        1 => Step::raw(format!("delete {}\r\n", pool.key_too_long(random))),
        2 => {
            let line = format!("set {} 0 0 3", pool.key_too_long(random));
            Step::raw(line_and_data(line, b"abc"))
        }
        _ => Step::raw("\r\n"),
    }
}
