//! Streams of commands and rubbish: however they are cut into packets, and on
//! however many cores, the answers are the same bytes, and nothing panics.

mod common;

use common::Node;

/// A small generator; the seed is all that a failure needs.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

fn stream(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..60 {
        let key = random.pick(&["a", "b", "cc", "ddd", "user:1", "e"]);
        let other = random.pick(&["a", "b", "cc", "zz"]);
        let length = [0, 1, 5, 100, 17_000, 70_000][random.below(6)];
        // Lines, because a line that goes on for 2 KiB closes the connection
        // if its end is not in the same packet, here as in memcached.
        let mut value = "some words in a line\r\n".repeat(length / 22 + 1);
        value.truncate(length);
        let command = match random.below(24) {
            0..4 => format!("get {key}\r\n"),
            4 => format!("get {key} {other} {key} nothing\r\n"),
            5..8 => format!("set {key} 3 0 {length}\r\n{value}\r\n"),
            8 => format!("set {key} 3 0 {length} noreply\r\n{value}\r\n"),
            9 => format!("append {key} 0 0 2\r\nhi\r\n"),
            10 => format!("delete {key}\r\n"),
            11 => format!("mg {key} v k t s O5\r\n"),
            12 => format!("mg {key} v q\r\n"),
            13 => format!("ms {key} {length} T90 Gred\r\n{value}\r\n"),
            14 => format!("ma {key} N0 J5 v\r\nincr {key} 3\r\n"),
            15 => "flush_all\r\n".into(),
            16 => "invalidate tag red\r\n".into(),
            17 => format!("set {key} 0 0 3\r\n{value}\r\n"),
            18 => format!("set {key} 0 0 99999999\r\n"),
            19 => random
                .pick(&[
                    "\r\n",
                    "get\r\n",
                    "x\0y\r\n",
                    "mg\r\n",
                    "ms a\r\n",
                    "mn\r\n",
                    "gat 1 a b\r\n",
                    "\u{80}\r\n",
                ])
                .into(),
            20 => format!("mg Zm9v b k v\r\nms Zm9v {length} b\r\n{value}\r\n"),
            21 => format!("gat 100 {key} {other}\r\n"),
            22 => format!("md {key} I\r\nmg {other} v\r\n"),
            _ => format!("touch {key} 0\r\nprepend {other} 0 0 1\r\n-\r\n"),
        };
        // A refused giant swallows what follows: only at the end.
        if command.contains("99999999") && random.below(8) > 0 {
            continue;
        }
        bytes.extend_from_slice(command.as_bytes());
        if random.below(40) == 0 {
            let at = bytes.len() - 1 - random.below(bytes.len().min(20));
            bytes[at] = random.below(256) as u8;
        }
    }
    bytes
}

#[test]
fn cut_anywhere_on_any_number_of_cores() {
    for seed in 1..=60 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let bytes = stream(&mut random);
        let mut expected = None;
        for (cores, piece) in [(1, usize::MAX), (1, 7), (2, usize::MAX), (3, 1000), (4, 3)] {
            let mut node = Node::new(cores);
            let client = node.connect(random.below(cores as usize));
            let mut got = Vec::new();
            for piece in bytes.chunks(piece.min(bytes.len())) {
                node.send(client, piece);
                if random.below(3) == 0 {
                    got.extend(node.receive_some(client, 1 + random.below(100_000)));
                }
            }
            got.extend(node.receive(client));
            let closed = node.clients[client].closed;
            let left = node.clients[client].backlog.len();
            let state = node.clients[client].conn.state();
            match &expected {
                None => expected = Some((got, closed)),
                Some(expected) => assert!(
                    *expected == (got.clone(), closed),
                    "seed {seed}, {cores} cores, pieces of {piece}, {left} left in {state}: {} bytes, not {}; first difference at {:?}",
                    got.len(),
                    expected.0.len(),
                    expected.0.iter().zip(&got).position(|(a, b)| a != b)
                ),
            }
        }
    }
}

#[test]
fn noise_never_panics() {
    let mut random = Random(77);
    for round in 0..400 {
        let mut node = Node::new(1 + round % 2);
        let client = node.connect(0);
        let mut bytes: Vec<u8> = (0..random.below(600)).map(|_| random.below(256) as u8).collect();
        if round % 3 == 0 && !bytes.is_empty() {
            bytes[0] = 0x80;
        }
        if round % 3 == 1 {
            bytes
                .iter_mut()
                .for_each(|byte| *byte = b"mgsda 01CTNq\r\n\0kvO"[usize::from(*byte) % 18]);
        }
        for piece in bytes.chunks(1 + random.below(50)) {
            node.send(client, piece);
            node.receive(client);
        }
        node.close(client);
        node.settle();
    }
}
