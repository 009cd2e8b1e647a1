//! The meta commands: golden answers, on one core and on two.

mod common;

use common::Node;
use seawall_net::core::Settings;

fn both(script: &[(&str, &str)]) {
    for cores in [1, 2] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        for (line, answer) in script {
            assert_eq!(node.ask(client, line.as_bytes()), *answer, "{line:?} on {cores} cores");
        }
    }
}

#[test]
fn reads_and_flags_in_their_order() {
    both(&[
        ("mg a v\r\n", "EN\n"),
        ("mg a k O7 q\r\nmn\r\n", "MN\n"),
        ("mg a O7 k\r\n", "EN O7 ka\n"),
        ("ms a 3 T100 F5 O1 k\r\nabc\r\n", "HD O1 ka\n"),
        ("mg a\r\n", "HD\n"),
        ("mg a v s t f k O9\r\n", "VA 3 s3 t100 f5 ka O9\nabc\n"),
        ("mg a t T30 t\r\n", "CLIENT_ERROR duplicate flag\n"),
        ("mg a t T30\r\n", "HD t100\n"),
        ("mg a T50 t\r\n", "HD t50\n"),
        ("mg a h l\r\n", "HD h1 l0\n"),
        ("mg a !\r\n", "CLIENT_ERROR invalid flag\n"),
        // Tags are given by `ms` alone, and only `md` drops a value.
        ("mg a Gred\r\n", "CLIENT_ERROR invalid flag\n"),
        ("mg a x\r\n", "CLIENT_ERROR invalid flag\n"),
        ("mg a Tx\r\n", "CLIENT_ERROR bad token in command line format\n"),
        ("mg\r\n", "ERROR\n"),
        ("mg a q v\r\nmg b q v\r\nmn\r\n", "VA 3\nabc\nMN\n"),
    ]);
}

#[test]
fn stores_and_their_modes() {
    both(&[
        ("ms a 2\r\nhi\r\n", "HD\n"),
        ("ms a 2 q\r\nhi\r\nmn\r\n", "MN\n"),
        ("ms a 1 ME\r\nx\r\n", "NS\n"),
        ("ms b 1 MR\r\nx\r\n", "NS\n"),
        ("ms b 1 MA\r\nx\r\n", "NS\n"),
        ("ms b 1 MA N60\r\nx\r\nmg b v t\r\n", "HD\nVA 1 t60\nx\n"),
        ("ms a 1 MA\r\n!\r\nms a 1 MP\r\n>\r\nmg a v\r\n", "HD\nHD\nVA 4\n>hi!\n"),
        ("ms a 1 C1\r\nx\r\n", "EX\n"),
        ("ms c 1 C1\r\nx\r\n", "NF\n"),
        ("ms a 1 MX\r\nx\r\n", "CLIENT_ERROR invalid mode for ms M token\n"),
        ("ms a*b 1 b Fx\r\nx\r\n", "CLIENT_ERROR error decoding key\n"),
        ("ms a*b 1 Fx b\r\nx\r\n", "CLIENT_ERROR error decoding key\n"),
        ("ms a*b 1 b Tx\r\nx\r\n", "CLIENT_ERROR bad token in command line format\n"),
        ("ms YQ== 1 b Fx\r\nx\r\n", "CLIENT_ERROR bad command line format\n"),
        ("ms a 1 z\r\nx\r\nmn\r\n", "CLIENT_ERROR invalid flag\nMN\n"),
        ("ms a 2 q\r\nhix\r\nmn\r\n", "CLIENT_ERROR bad data chunk\nERROR\nMN\n"),
        ("ms a\r\n", "CLIENT_ERROR bad command line format\n"),
        ("ms a 1 E77 c\r\nx\r\nmg a c\r\nms a 1 C77 c E78\r\ny\r\n", "HD c77\nHD c77\nHD c78\n"),
    ]);
}

#[test]
fn a_value_that_the_client_has_is_not_sent_again() {
    both(&[
        ("ms a 1 E5\r\nx\r\n", "HD\n"),
        ("mg a v C5\r\n", "HD\n"),
        ("mg a s v c C5 k\r\n", "HD s1 c5 ka\n"),
        ("mg a v C6\r\n", "VA 1\nx\n"),
        ("mg a v C0\r\n", "VA 1\nx\n"),
        ("mg a C5 s\r\nmg b v C5\r\n", "HD s1\nEN\n"),
        ("mg a v Cx\r\n", "CLIENT_ERROR bad token in command line format\n"),
    ]);
    // A long value, which would be sent in pieces.
    let mut node = Node::new(2);
    let client = node.connect(0);
    let value = "v".repeat(100_000);
    node.ask(client, format!("ms long 100000 E7\r\n{value}\r\n").as_bytes());
    assert_eq!(node.ask(client, b"mg long v C7 s\r\n"), "HD s100000\n");
    assert!(node.ask(client, b"mg long v C8\r\n").starts_with("VA 100000\nvvv"));
}

#[test]
fn without_cas_a_value_is_always_sent() {
    let settings = Settings { cas: false, ..Settings::default() };
    let mut node = Node::with(1, settings, |_| {});
    let client = node.connect(0);
    assert_eq!(node.ask(client, b"ms a 1\r\nx\r\nmg a v c C0\r\n"), "HD\nVA 1 c0\nx\n");
}

#[test]
fn a_store_tells_the_length_of_the_item() {
    both(&[
        ("ms b 2 s\r\nhi\r\n", "HD s2\n"),
        ("ms b 3 MA s k\r\n you\r\n", "CLIENT_ERROR bad data chunk\nERROR\n"),
        ("ms b 3 MA s k\r\nyou\r\n", "HD s5 kb\n"),
        ("ms b 1 s MP O1\r\n>\r\n", "HD s6 O1\n"),
        ("ms b 4 s c ME\r\nlate\r\n", "NS s4 c0\n"),
        ("ms b 4 s C1\r\nlate\r\n", "EX s4\n"),
        ("ms c 4 s MR\r\nlate\r\n", "NS s4\n"),
        ("ms c 4 s C1\r\nlate\r\n", "NF s4\n"),
        ("ms b 2 s q\r\nhi\r\nmn\r\n", "MN\n"),
    ]);
}

#[test]
fn a_dropped_value_leaves_a_new_item_of_its_own_life() {
    both(&[
        ("ms k 3 T1234 F5\r\nabc\r\n", "HD\n"),
        ("mg k\r\nmd k x\r\n", "HD\nHD\n"),
        ("mg k s t f h v\r\n", "VA 0 s0 t-1 f0 h0\n\n"),
        ("ms k 3 T1234\r\nabc\r\nmd k x T60\r\nmg k t v\r\n", "HD\nHD\nVA 0 t60\n\n"),
        ("ms k 3 T1234\r\nabc\r\nmd k x F9\r\nmg k t f\r\n", "HD\nHD\nHD t-1 f9\n"),
        // With I it is stale as well: the next reader may refill it.
        ("ms k 3 T1234\r\nabc\r\nmd k x I T30\r\n", "HD\nHD\n"),
        ("mg k v t\r\nmg k v\r\n", "VA 0 t30 X W\n\nVA 0 Z X\n\n"),
        // And without it what was stale is so no longer.
        ("ms k 3\r\nabc\r\nmd k I\r\nmd k x\r\nmg k v\r\n", "HD\nHD\nHD\nVA 0\n\n"),
        ("md none x\r\nmd none x q\r\nmn\r\n", "NF\nNF\nMN\n"),
        ("ms k 1 E4\r\nx\r\nmd k x C5\r\nmd k x C4 E6\r\nmg k c\r\n", "HD\nEX\nHD\nHD c6\n"),
    ]);
}

#[test]
fn a_store_with_cas_0_takes_the_servers_own() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    assert_eq!(node.ask(client, b"ms k 1 E0\r\nx\r\n"), "HD\n");
    let cas = node.ask(client, b"mg k c\r\n");
    assert!(cas.starts_with("HD c") && cas != "HD c0\n", "{cas}");
    let cas = node.ask(client, b"ms k 1 E0 c\r\nx\r\n");
    assert!(cas.starts_with("HD c") && cas != "HD c0\n", "{cas}");
    // Only a store: elsewhere memcached takes the 0 at its word.
    assert_eq!(node.ask(client, b"ma n N0 J1 E0 c\r\nma n E0 c\r\n"), "HD c0\nHD c0\n");
    assert_eq!(node.ask(client, b"md k I E0\r\nmg k c\r\n"), "HD\nHD c0 X W\n");
    assert_eq!(node.ask(client, b"mg v N0 E0 c\r\n"), "HD c0 W\n");
}

#[test]
fn binary_keys() {
    both(&[
        ("ms Zm9v 2 b k\r\nhi\r\n", "HD kZm9v b\n"),
        ("mg Zm9v b k v\r\n", "VA 2 kZm9v b\nhi\n"),
        ("mg foo v k\r\n", "VA 2 kZm9v b\nhi\n"),
        ("mg /w== b k\r\n", "EN k/w== b\n"),
        ("mg foo% b\r\n", "CLIENT_ERROR error decoding key\n"),
        ("md Zm9v b k O1\r\n", "HD kZm9v b O1\n"),
    ]);
}

#[test]
fn deletes_and_counters() {
    both(&[
        ("md a\r\n", "NF\n"),
        ("ma n\r\n", "NF\n"),
        ("ma n N60 J10 v t\r\n", "VA 2 t60\n10\n"),
        ("ma n v\r\n", "VA 2\n11\n"),
        ("ma n D5 MD v\r\n", "VA 1\n6\n"),
        ("ma n MD D100\r\nmg n v\r\n", "HD\nVA 2\n0 \n"),
        ("ma n q\r\nmn\r\n", "MN\n"),
        ("ma new N0 J7 q v\r\nmn\r\nma new v\r\n", "MN\nVA 1\n8\n"),
        ("ma n Mx\r\n", "CLIENT_ERROR invalid mode for ma M token\n"),
        ("ma n C5\r\n", "EX\n"),
        (
            "ms a 1\r\nx\r\nma a\r\n",
            "HD\nCLIENT_ERROR cannot increment or decrement non-numeric value\n",
        ),
        ("md a C5 k\r\n", "EX ka\n"),
        ("md a q\r\nmd a k O3\r\n", "NF ka O3\n"),
    ]);
}

#[test]
fn the_first_word_of_a_long_value_is_counted() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    let value = format!(" 7 {}", "q".repeat(30_000));
    node.ask(client, format!("ms a {} F5\r\n{value}\r\n", value.len()).as_bytes());
    assert_eq!(node.ask(client, b"ma a v\r\n"), "VA 1\n8\n");
    let padded = format!("VA 30003 f5\n8{}\n", " ".repeat(30_002));
    assert!(node.ask(client, b"mg a v f\r\n") == padded);
}

#[test]
fn leases() {
    both(&[
        // Created when its life is over already: seen by its creator alone.
        ("mg past N-1 v\r\nmg past v\r\n", "VA 0 W\n\nEN\n"),
        ("mg past N2592001 v\r\nmg past v\r\n", "VA 0 W\n\nEN\n"),
        ("mg a N30 v t\r\n", "VA 0 t30 W\n\n"),
        ("mg a N30 v\r\n", "VA 0 Z\n\n"),
        ("ms a 2 T100\r\nhi\r\nmg a v\r\n", "HD\nVA 2\nhi\n"),
        ("mg a R30\r\nmg a R200\r\nmg a R200\r\n", "HD\nHD W\nHD Z\n"),
        ("md a I T30\r\n", "HD\n"),
        ("gat 30 a\r\n", "VALUE a 0 2\nhi\nEND\n"),
        ("mg a v t\r\nmg a v\r\n", "VA 2 t30 X W\nhi\nVA 2 Z X\nhi\n"),
        ("ms a 3 C1 I\r\nnew\r\n", "HD\n"),
        ("mg a v\r\n", "VA 3 Z X\nnew\n"),
        ("ms a 2\r\nok\r\nmg a v\r\n", "HD\nVA 2\nok\n"),
    ]);
}

#[test]
fn times_below_a_second() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    assert_eq!(
        node.ask(client, b"ms a 1 T250ms\r\nx\r\nms b 1 T0ms\r\nx\r\n"),
        "HD\nCLIENT_ERROR bad token in command line format\n"
    );
    node.advance(200);
    assert_eq!(node.ask(client, b"mg a v\r\n"), "VA 1\nx\n");
    node.advance(60);
    assert_eq!(node.ask(client, b"mg a v\r\n"), "EN\n");
}
