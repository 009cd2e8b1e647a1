//! The binary protocol: frames and quiet rules.

mod common;

use common::Node;
use seawall_net::core::Settings;

fn frame(opcode: u8, key: &[u8], extras: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras.len() as u8, 0, 0, 0]);
    bytes.extend(((key.len() + extras.len() + value.len()) as u32).to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    bytes.extend(cas.to_be_bytes());
    bytes.extend_from_slice(extras);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

/// Opcode, status, extras and key lengths, cas, body.
fn answers(node: &mut Node, client: usize, request: &[u8]) -> Vec<(u8, u16, u64, Vec<u8>)> {
    node.send(client, request);
    let bytes = node.receive(client);
    let mut rest = &bytes[..];
    let mut answers = Vec::new();
    while !rest.is_empty() {
        assert_eq!((rest[0], &rest[12..16]), (0x81, &[1u8, 2, 3, 4][..]));
        let body = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        let status = u16::from_be_bytes(rest[6..8].try_into().unwrap());
        let cas = u64::from_be_bytes(rest[16..24].try_into().unwrap());
        answers.push((rest[1], status, cas, rest[24..24 + body].to_vec()));
        rest = &rest[24 + body..];
    }
    answers
}

const NO_FLAGS: [u8; 8] = [0; 8];

#[test]
fn stores_reads_and_quiet_rules() {
    for cores in [1, 2] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        let mut ask = |request: &[Vec<u8>]| answers(&mut node, client, &request.concat());
        assert_eq!(ask(&[frame(0, b"a", b"", b"", 0)]), [(0, 1, 0, b"Not found".to_vec())]);
        assert_eq!(
            ask(&[frame(9, b"a", b"", b"", 0), frame(0xa, b"", b"", b"", 0)]),
            [(0xa, 0, 0, vec![])]
        );
        assert_eq!(ask(&[frame(0xc, b"a", b"", b"", 0)]), [(0xc, 1, 0, b"a".to_vec())]);
        let stored = ask(&[frame(1, b"a", &[0, 0, 0, 7, 0, 0, 0, 0], b"hi", 0)]);
        let cas = stored[0].2;
        assert!(stored[0].1 == 0 && cas > 0);
        assert_eq!(ask(&[frame(0, b"a", b"", b"", 0)]), [(0, 0, cas, b"\0\0\0\x07hi".to_vec())]);
        assert_eq!(
            ask(&[frame(0xd, b"a", b"", b"", 0)]),
            [(0xd, 0, cas, b"\0\0\0\x07ahi".to_vec())]
        );
        assert_eq!(ask(&[frame(1, b"a", &NO_FLAGS, b"x", cas + 1)])[0].1, 2);
        assert_eq!(ask(&[frame(1, b"b", &NO_FLAGS, b"x", 5)])[0].1, 1);
        assert_eq!(ask(&[frame(2, b"a", &NO_FLAGS, b"x", 0)])[0].1, 2);
        assert_eq!(ask(&[frame(3, b"b", &NO_FLAGS, b"x", 0)])[0].1, 1);
        assert_eq!(ask(&[frame(0x11, b"a", &NO_FLAGS, b"x", cas)]), []);
        assert_eq!(ask(&[frame(0x19, b"a", b"", b"y", 0), frame(0x1a, b"a", b"", b"z", 0)]), []);
        assert_eq!(ask(&[frame(0x0e, b"b", b"", b"y", 0)])[0].1, 5);
        assert_eq!(ask(&[frame(0, b"a", b"", b"", 0)])[0].3, b"\0\0\0\0zxy");
        assert_eq!(ask(&[frame(0x1c, b"a", &[0, 0, 0, 9], b"", 0)])[0].3, b"\0\0\0\0");
        assert_eq!(ask(&[frame(0x24, b"a", &[0, 0, 0, 9], b"", 0)])[0].3, b"\0\0\0\0azxy");
        let count = |delta: u64, initial: u64, expiry: u32| {
            [&delta.to_be_bytes()[..], &initial.to_be_bytes(), &expiry.to_be_bytes()].concat()
        };
        assert_eq!(ask(&[frame(5, b"n", &count(1, 40, u32::MAX), b"", 0)])[0].1, 1);
        assert_eq!(ask(&[frame(5, b"n", &count(1, 40, 0), b"", 0)])[0].3, 40u64.to_be_bytes());
        assert_eq!(ask(&[frame(5, b"n", &count(2, 40, 0), b"", 0)])[0].3, 42u64.to_be_bytes());
        assert_eq!(ask(&[frame(6, b"n", &count(50, 40, 0), b"", 0)])[0].3, 0u64.to_be_bytes());
        assert_eq!(ask(&[frame(5, b"a", &count(1, 1, 0), b"", 0)])[0].1, 6);
        assert_eq!(ask(&[frame(4, b"a", b"", b"", 0), frame(4, b"a", b"", b"", 0)]).len(), 2);
        assert_eq!(ask(&[frame(0x18, b"", b"", b"", 0), frame(9, b"n", b"", b"", 0)]), []);
        assert_eq!(ask(&[frame(0x60, b"", b"", b"", 0)])[0].1, 0x81);
        assert!(ask(&[frame(0x10, b"", b"", b"", 0)]).len() > 50);
        assert_eq!(ask(&[frame(0x10, b"nope", b"", b"", 0)])[0].1, 1);
    }
}

#[test]
fn a_length_with_its_top_bit_set_swallows_nothing() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    let mut store = frame(1, b"a", &NO_FLAGS, b"", 0);
    store[8] = 0xff;
    let noop = frame(0xa, b"", b"", b"", 0);
    let heard = answers(&mut node, client, &[store, noop].concat());
    assert_eq!(heard, [(1, 3, 0, b"Too large.".to_vec()), (0xa, 0, 0, vec![])]);
}

#[test]
fn counting_compares_the_cas_before_it_looks_at_a_long_value() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    let count = |cas| frame(5, b"a", &[0; 20], b"", cas);
    for (value_bytes, wrong_cas_status) in [(40_000, 2), (600_000, 6)] {
        let value = vec![b'v'; value_bytes];
        let stored = answers(&mut node, client, &frame(1, b"a", &NO_FLAGS, &value, 0));
        assert_eq!(answers(&mut node, client, &count(stored[0].2))[0].1, 6);
        assert_eq!(answers(&mut node, client, &count(7))[0].1, wrong_cas_status);
    }
}

#[test]
fn tags_and_invalidation() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    let mut extras = NO_FLAGS.to_vec();
    extras.extend([0, 8]);
    assert_eq!(
        answers(&mut node, client, &frame(0xc0, b"a", &extras, b"red,bluevalue", 0))[0].1,
        0
    );
    assert_eq!(answers(&mut node, client, &frame(0, b"a", b"", b"", 0))[0].3, b"\0\0\0\0value");
    assert_eq!(answers(&mut node, client, &frame(0xc2, b"blue", &[0], b"", 0))[0].1, 0);
    assert_eq!(answers(&mut node, client, &frame(0, b"a", b"", b"", 0))[0].1, 1);
    assert_eq!(answers(&mut node, client, &frame(0xc2, b"nowhere", &[1], b"", 0))[0].1, 1);
}

#[test]
fn sasl() {
    let settings = Settings { sasl: true, ..Settings::default() };
    let mut node = Node::with(1, settings, |_| {});
    let client = node.connect(0);
    assert_eq!(answers(&mut node, client, &frame(0x20, b"", b"", b"", 0))[0].3, b"PLAIN");
    assert_eq!(
        answers(&mut node, client, &frame(0x21, b"PLAIN", b"", b"\0user\0no", 0))[0].1,
        0x20
    );
    assert_eq!(
        answers(&mut node, client, &frame(0x21, b"PLAIN", b"", b"\0user\0pass", 0))[0].3,
        b"Authenticated"
    );
    assert_eq!(answers(&mut node, client, &frame(0, b"a", b"", b"", 0))[0].1, 1);
    let stranger = node.connect(0);
    assert_eq!(answers(&mut node, stranger, &frame(0, b"a", b"", b"", 0))[0].1, 0x20);
    assert!(node.clients[stranger].closed);
}
