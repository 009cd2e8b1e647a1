//! A fixed stream of requests through parser, engine and writer, without
//! sockets: to be run under `valgrind --tool=callgrind`, which counts its
//! instructions exactly. The difference between two lengths of the stream is
//! what a request costs; `cargo xtask instructions` does that.
//!
//! ```sh
//! count_requests <shape> <requests>
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use engine::{Arena, HashSeed, Now, Shard, ShardConfig};
use net::allowance::Crowding;
use net::auth::Users;
use net::conn::Conn;
use net::core::{Core, Settings, Shared};
use net::hop::ConnToken;

const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 100;
const MEMORY_BYTES: usize = 8 << 20;
/// Requests that arrive together.
const DEPTH: usize = 32;
/// Different batches, sent round and round.
const BATCHES: usize = 256;
const START: Now = Now(1_800_000_000_000);

/// Writes one request for a key.
type Put = fn(&mut Vec<u8>, &[u8]);

const SHAPES: &[(&str, Put)] = &[
    ("get", put_get),
    ("get-miss", put_miss),
    ("mg", put_mg),
    ("binary-get", put_binary_get),
    ("set", put_set),
    ("ms", put_ms),
    ("multiget-key", put_multiget_key),
];

fn put_get(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"get ");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\n");
}

fn put_miss(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"get no");
    out.extend_from_slice(&key[2..]);
    out.extend_from_slice(b"\r\n");
}

fn put_mg(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"mg ");
    out.extend_from_slice(key);
    out.extend_from_slice(b" v\r\n");
}

fn put_binary_get(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(&[0x80, 0, 0, key.len() as u8, 0, 0, 0, 0, 0, 0, 0, key.len() as u8]);
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(key);
}

fn put_set(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"set ");
    out.extend_from_slice(key);
    out.extend_from_slice(format!(" 0 3600 {VALUE_BYTES}\r\n").as_bytes());
    out.extend_from_slice(&[b'v'; VALUE_BYTES]);
    out.extend_from_slice(b"\r\n");
}

fn put_ms(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"ms ");
    out.extend_from_slice(key);
    out.extend_from_slice(format!(" {VALUE_BYTES} T3600\r\n").as_bytes());
    out.extend_from_slice(&[b'v'; VALUE_BYTES]);
    out.extend_from_slice(b"\r\n");
}

/// A line of its own is put around the keys of a batch.
fn put_multiget_key(out: &mut Vec<u8>, key: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(key);
}

fn key(number: u32) -> Vec<u8> {
    format!("key:{number:026}").into_bytes()
}

fn batches(shape: &str, put: Put) -> Vec<Vec<u8>> {
    let mut draw = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        draw ^= draw << 13;
        draw ^= draw >> 7;
        draw ^= draw << 17;
        (draw >> 32) as u32 % KEYS
    };
    let batch = || {
        let mut bytes = Vec::new();
        if shape == "multiget-key" {
            bytes.extend_from_slice(b"get");
        }
        (0..DEPTH).for_each(|_| put(&mut bytes, &key(next())));
        if shape == "multiget-key" {
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    };
    std::iter::repeat_with(batch).take(BATCHES).collect()
}

fn core() -> Core {
    let seed = HashSeed::new(7);
    let config = ShardConfig::new(seed.clone(), MEMORY_BYTES);
    let shard = Shard::new(config, Arena::heap(MEMORY_BYTES));
    let shared = Shared::new(Settings::default(), 1, Users::default(), START);
    Core::new(0, 1, shard, seed, Arc::new(shared))
}

/// A connection, and what it has answered in the last batch.
struct Client {
    conn: Conn,
    out: Vec<u8>,
}

impl Client {
    fn new(core: &Core) -> Client {
        let conn = Conn::new(ConnToken { index: 0, generation: 1 }, core);
        Client { conn, out: Vec::with_capacity(64 << 10) }
    }

    fn send(&mut self, core: &mut Core, bytes: &[u8]) {
        self.out.clear();
        core.begin_turn(Crowding::Calm, usize::MAX);
        let progress = self.conn.on_bytes(core, bytes, &mut self.out);
        assert_eq!(progress.consumed, bytes.len(), "whole requests, executed at once");
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let shape = words.next().unwrap_or_default();
    let requests = words.next().and_then(|text| text.parse::<usize>().ok());
    let found = SHAPES.iter().find(|(name, _)| *name == shape);
    let (Some((_, put)), Some(requests)) = (found, requests) else {
        let names: Vec<_> = SHAPES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: count_requests {} <requests>", names.join("|"));
        return ExitCode::FAILURE;
    };
    let mut core = core();
    let mut filling = Client::new(&core);
    for number in 0..KEYS {
        let mut request = Vec::new();
        put_set(&mut request, &key(number));
        filling.send(&mut core, &request);
        assert_eq!(filling.out, b"STORED\r\n");
    }
    let batches = batches(&shape, *put);
    let mut client = Client::new(&core);
    for turn in 0..requests / DEPTH {
        client.send(&mut core, &batches[turn % BATCHES]);
    }
    println!("{} bytes in the last answer", client.out.len());
    ExitCode::SUCCESS
}
