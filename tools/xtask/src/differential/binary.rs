//! Binary packets: every data opcode and its quiet form, and broken ones.

use super::keys::{LARGEST, Pool};
use super::random::Random;
use super::stream::{Piece, Step};

/// A request packet before its CAS is known.
struct Packet {
    opcode: u8,
    key: Vec<u8>,
    extras: Vec<u8>,
    value: Vec<u8>,
}

/// Well-formed packets.
pub fn commands(random: &mut Random, pool: &Pool, count: usize) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..count).map(|_| command(random, pool)).collect();
    if random.chance(10) {
        let quit = *random.pick(&[0x07, 0x17]);
        steps.push(packet(random, Packet::bare(quit)));
    }
    steps
}

/// Packets of which some have wrong lengths, opcodes or magic.
pub fn broken_commands(random: &mut Random, pool: &Pool, count: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..count {
        let bytes = without_cas(command(random, pool));
        steps.push(Step::raw(if random.chance(25) { damage(random, bytes) } else { bytes }));
    }
    steps
}

/// Where framing may break, a packet may become another's value, so it must not
/// hold the CAS unique that each server has invented.
fn without_cas(step: Step) -> Vec<u8> {
    let Step::Send(pieces) = step else { return Vec::new() };
    let bytes = |piece| match piece {
        Piece::Raw(bytes) => bytes,
        Piece::Cas { .. } => vec![0; 8],
    };
    pieces.into_iter().flat_map(bytes).collect()
}

/// As [`super::text::with_syncs`]: memcached changes a number in a new item
/// while an answer that it has not sent yet holds the old one.
pub fn with_syncs(steps: Vec<Step>) -> Vec<Step> {
    let mut synced = Vec::new();
    let mut read = false;
    for step in steps {
        let opcode = match &step {
            Step::Send(pieces) => pieces.first().and_then(|piece| match piece {
                Piece::Raw(head) => head.get(1),
                Piece::Cas { .. } => None,
            }),
            _ => None,
        };
        match opcode {
            Some(0x05 | 0x06 | 0x15 | 0x16) if read => {
                synced.push(Step::Sync);
                read = false;
            }
            Some(0x00 | 0x09 | 0x0c | 0x0d | 0x1d | 0x1e | 0x23 | 0x24) => read = true,
            _ => {}
        }
        synced.push(step);
    }
    synced
}

impl Packet {
    fn bare(opcode: u8) -> Packet {
        Packet { opcode, key: Vec::new(), extras: Vec::new(), value: Vec::new() }
    }
}

fn command(random: &mut Random, pool: &Pool) -> Step {
    let key = match random.below(50) {
        0 => pool.key_too_long(random),
        1 => String::new(),
        2 => "with space".to_owned() + &pool.key(random),
        _ => pool.key(random),
    }
    .into_bytes();
    let lifetime = lifetime(random);
    let quiet = random.chance(20);
    let pick = |normal: u8, silent: u8| if quiet { silent } else { normal };
    let request = match random.below(40) {
        0..=9 => {
            let opcode = *random.pick(&[0x00, 0x09, 0x0c, 0x0d]);
            Packet { opcode, key, extras: Vec::new(), value: Vec::new() }
        }
        10..=20 => {
            let opcode = match random.below(4) {
                0 | 1 => pick(0x01, 0x11),
                2 => pick(0x02, 0x12),
                _ => pick(0x03, 0x13),
            };
            let flags = *random.pick(&[0u32, 1, 0xdead_beef, u32::MAX]);
            let extras = [flags.to_be_bytes(), lifetime.to_be_bytes()].concat();
            let value =
                if random.chance(5) { pool.large_value(random) } else { pool.value(random) };
            Packet { opcode, key, extras, value }
        }
        21..=23 => Packet { opcode: pick(0x04, 0x14), key, extras: Vec::new(), value: Vec::new() },
        24..=29 => {
            let opcode = if random.chance(60) { pick(0x05, 0x15) } else { pick(0x06, 0x16) };
            let delta = *random.pick(&[0, 1, 9, 1_000, LARGEST]);
            let initial = *random.pick(&[0, 5, LARGEST]);
            let lifetime = if random.chance(40) { u32::MAX } else { lifetime };
            let mut extras = [delta.to_be_bytes(), initial.to_be_bytes()].concat();
            extras.extend(lifetime.to_be_bytes());
            Packet { opcode, key, extras, value: Vec::new() }
        }
        30..=33 => {
            let opcode = if random.chance(50) { pick(0x0e, 0x19) } else { pick(0x0f, 0x1a) };
            Packet { opcode, key, extras: Vec::new(), value: pool.value(random) }
        }
        34..=37 => {
            // touch, gat, gatq, gatk, gatkq
            let opcode = *random.pick(&[0x1c, 0x1d, 0x1e, 0x23, 0x24]);
            Packet { opcode, key, extras: lifetime.to_be_bytes().to_vec(), value: Vec::new() }
        }
        38 => Packet::bare(0x0b),
        _ => Packet::bare(0x0a),
    };
    packet(random, request)
}

fn lifetime(random: &mut Random) -> u32 {
    // As in Pool::lifetime: no clock decides the outcome.
    *random.pick(&[0, 0, 0, 0, 100, 3_600, 2_592_000, 2_592_001, 2_100_000_000])
}

fn packet(random: &mut Random, request: Packet) -> Step {
    let mut head = vec![0x80, request.opcode];
    head.extend((request.key.len() as u16).to_be_bytes());
    head.push(request.extras.len() as u8);
    head.extend([0, 0, 0]);
    let body_bytes = request.key.len() + request.extras.len() + request.value.len();
    head.extend((body_bytes as u32).to_be_bytes());
    head.extend((random.next() as u32).to_be_bytes());
    let cas = match random.below(20) {
        0 => Piece::Cas { back: 0, delta: 0 },
        1 => Piece::Cas { back: 1, delta: 0 },
        2 => Piece::Raw(u64::MAX.to_be_bytes().to_vec()),
        _ => Piece::Raw(vec![0; 8]),
    };
    let body = [request.extras, request.key, request.value].concat();
    Step::Send(vec![Piece::Raw(head), cas, Piece::Raw(body)])
}

/// Changes a header so that the packet is wrong in one way.
fn damage(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    match random.below(12) {
        0 => bytes[0] = random.next() as u8,
        1 => bytes[1] = random.range(0x1b, 0xff) as u8,
        2 => bytes[3] = random.next() as u8,
        3 => bytes[2] = random.next() as u8,
        4 => bytes[4] = *random.pick(&[0, 4, 8, 20, 21, 255]),
        5 => bytes[5] = random.next() as u8,
        6 => bytes[7] = random.next() as u8,
        7 => bytes[11] = bytes[11].wrapping_add(*random.pick(&[1, 2, 255, 8])),
        8 => bytes[10] = random.next() as u8,
        // A length with the top bit set: negative to who reads it as signed.
        9 => bytes[8] = 0xff,
        10 => bytes[1] = *random.pick(&[0x07, 0x0a, 0x0b, 0x17, 0x20, 0x21, 0x22]),
        _ => {
            let cut = random.range(1, bytes.len());
            bytes.truncate(cut);
        }
    }
    // Ours.
    if bytes.len() > 1 && matches!(bytes[1], 0xc0..=0xc2) {
        bytes[1] -= 0x10;
    }
    // An opcode that memcached does not know has no body: it would throw away
    // too many bytes, which is one of the differences that are meant.
    if bytes.len() >= 24 && !matches!(bytes[1], 0..=0x1a | 0x1c..=0x1e | 0x23 | 0x24) {
        bytes.truncate(24);
        bytes[2..12].fill(0);
    }
    // Neither flush: other streams run on the same pair of servers.
    if bytes.len() > 1 && [0x08, 0x18].contains(&bytes[1]) {
        bytes[1] = 0x0a;
    }
    bytes
}
