//! The meta commands: golden answers, on one core and on two.

mod common;

use common::Node;

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
