//! The classic text protocol: golden answers, on one core and on two.

mod common;

use common::Node;
use seawall_net::core::Settings;

/// Both layouts must answer the same bytes.
fn both(script: &[(&str, &str)]) {
    for cores in [1, 2, 3] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        for (line, answer) in script {
            assert_eq!(node.ask(client, line.as_bytes()), *answer, "{line:?} on {cores} cores");
        }
    }
}

#[test]
fn store_and_read() {
    both(&[
        ("get a\r\n", "END\n"),
        ("set a 5 0 3\r\nabc\r\n", "STORED\n"),
        ("get a\r\n", "VALUE a 5 3\nabc\nEND\n"),
        ("get a b a\r\n", "VALUE a 5 3\nabc\nVALUE a 5 3\nabc\nEND\n"),
        ("  get   a  b \r\n", "VALUE a 5 3\nabc\nEND\n"),
        ("get a\n", "VALUE a 5 3\nabc\nEND\n"),
        ("add a 0 0 1\r\nx\r\n", "NOT_STORED\n"),
        ("add b 0 0 1\r\nx\r\n", "STORED\n"),
        ("replace c 0 0 1\r\nx\r\n", "NOT_STORED\n"),
        ("replace b 0 0 1\r\ny\r\n", "STORED\n"),
        ("append b 0 0 2\r\n12\r\n", "STORED\n"),
        ("prepend b 0 0 2\r\n34\r\n", "STORED\n"),
        ("append c 0 0 2\r\n12\r\n", "NOT_STORED\n"),
        ("get b c\r\n", "VALUE b 0 5\n34y12\nEND\n"),
        ("set e 4294967295 0 0\r\n\r\n", "STORED\n"),
        ("get e\r\n", "VALUE e 4294967295 0\n\nEND\n"),
        ("delete a\r\n", "DELETED\n"),
        ("delete a\r\n", "NOT_FOUND\n"),
        ("delete b 0\r\n", "DELETED\n"),
        ("delete e 0 noreply\r\nget e\r\n", "END\n"),
        ("bget e\r\n", "END\n"),
    ]);
}

#[test]
fn cas_and_counters() {
    for cores in [1, 2] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        assert_eq!(node.ask(client, b"cas k 0 0 1 1\r\nx\r\n"), "NOT_FOUND\n");
        assert_eq!(node.ask(client, b"set k 0 0 1\r\nx\r\n"), "STORED\n");
        let answer = node.ask(client, b"gets k\r\n");
        let cas = answer.lines().next().unwrap().rsplit(' ').next().unwrap().to_string();
        assert_eq!(answer, format!("VALUE k 0 1 {cas}\nx\nEND\n"));
        assert_eq!(node.ask(client, b"cas k 0 0 1 1\r\ny\r\n"), "EXISTS\n");
        assert_eq!(node.ask(client, b"cas k 0 0 1 0\r\ny\r\n"), "EXISTS\n");
        assert_eq!(node.ask(client, format!("cas k 0 0 1 {cas}\r\ny\r\n").as_bytes()), "STORED\n");
        assert_eq!(node.ask(client, b"get k\r\n"), "VALUE k 0 1\ny\nEND\n");
        assert_eq!(node.ask(client, b"incr n 1\r\n"), "NOT_FOUND\n");
        assert_eq!(
            node.ask(client, b"incr k 1\r\n"),
            "CLIENT_ERROR cannot increment or decrement non-numeric value\n"
        );
        assert_eq!(
            node.ask(client, b"set n 0 0 2\r\n99\r\nincr n 1\r\ndecr n 1\r\nget n\r\n"),
            "STORED\n100\n99\nVALUE n 0 3\n99 \nEND\n"
        );
        assert_eq!(node.ask(client, b"decr n 1000\r\n"), "0\n");
        assert_eq!(
            node.ask(client, b"incr n x\r\n"),
            "CLIENT_ERROR invalid numeric delta argument\n"
        );
        assert_eq!(
            node.ask(client, b"incr n -1\r\n"),
            "CLIENT_ERROR invalid numeric delta argument\n"
        );
        assert_eq!(
            node.ask(client, b"set n 0 0 20\r\n18446744073709551615\r\nincr n 2\r\n"),
            "STORED\n1\n"
        );
    }
}

#[test]
fn malformed_lines() {
    let long = "k".repeat(251);
    let fits = "k".repeat(250);
    both(&[
        ("\r\n", "ERROR\n"),
        ("a\r\n", "ERROR\n"),
        ("nonsense\r\n", "ERROR\n"),
        ("get\r\n", "ERROR\n"),
        ("get \r\n", "ERROR\n"),
        (&format!("get {long}\r\n"), "CLIENT_ERROR bad command line format\n"),
        (&format!("get a {long} b\r\n"), "CLIENT_ERROR bad command line format\n"),
        (&format!("get {fits} {fits}\r\n"), "END\n"),
        (&format!("set {fits} 0 0 1\r\nx\r\n"), "STORED\n"),
        (&format!("get b {fits}\r\n"), &format!("VALUE {fits} 0 1\nx\nEND\n")),
        (&format!("set {long} 0 0 1\r\n"), "CLIENT_ERROR bad command line format\n"),
        ("set a 0 0\r\n", "ERROR\n"),
        ("set a 0 0 1 2 3\r\n", "ERROR\n"),
        ("set a b 0 1\r\n", "CLIENT_ERROR bad command line format\n"),
        ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format\n"),
        ("set a 0 0 2147483646\r\n", "CLIENT_ERROR bad command line format\n"),
        ("set a 0 0 x noreply\r\n", ""),
        ("set a 0 0 3\r\nabcde\r\n", "CLIENT_ERROR bad data chunk\nERROR\n"),
        ("get a\r\n", "END\n"),
        ("set a 0 0 3 noreply\r\nabcde\r\n", "ERROR\n"),
        ("get a\r\n", "END\n"),
        (
            "delete a 5\r\n",
            "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\n",
        ),
        ("delete a noreply\r\n", ""),
        ("touch a b\r\n", "CLIENT_ERROR invalid exptime argument\n"),
        ("touch a 1\r\n", "NOT_FOUND\n"),
        ("gat x a\r\n", "CLIENT_ERROR invalid exptime argument\n"),
        ("gat 10\r\n", "END\n"),
        ("gat 10 a\r\n", "END\n"),
        ("verbosity\r\n", "ERROR\n"),
        ("verbosity 1\r\n", "OK\n"),
        ("verbosity x\r\n", "CLIENT_ERROR bad command line format\n"),
        ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\n"),
        ("flush_all 1 2 3\r\n", "ERROR\n"),
        ("flush_all noreply\r\n", ""),
        ("shutdown\r\n", "ERROR: shutdown not enabled\n"),
        ("slabs reassign 1 1\r\n", "SAME src and dst class are identical\n"),
        ("slabs automove 1\r\n", "OK\n"),
        ("slabs automove 3\r\n", "ERROR\n"),
        ("lru tune 10 20 0.1 2\r\n", "OK\n"),
        ("lru tune 50 50 0.1 2\r\n", "ERROR hot and warm pcts must not exceed 80\n"),
        ("lru_crawler sleep 2000000\r\n", "CLIENT_ERROR sleep must be one second or less\n"),
        ("lru_crawler crawl all\r\n", "OK\n"),
        ("lru_crawler disable\r\n", "OK\n"),
        ("lru_crawler metadump all\r\n", "CLIENT_ERROR lru crawler disabled\n"),
        ("cache_memlimit 1\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\n"),
        ("cache_memlimit 32\r\n", "OK\n"),
        ("watch nothing\r\n", "ERROR\n"),
        ("stats nonsense\r\n", "ERROR\n"),
        ("stats detail\r\n", "CLIENT_ERROR usage: stats detail on|off|dump\n"),
    ]);
}

#[test]
fn too_large_values_are_swallowed_and_the_old_item_goes() {
    for cores in [1, 2] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        for key in ["a", "b", "c", "d"] {
            assert_eq!(
                node.ask(client, format!("set {key} 0 0 1\r\nx\r\n").as_bytes()),
                "STORED\n"
            );
            let mut big = format!("set {key} 0 0 2000000\r\n").into_bytes();
            big.extend(vec![b'v'; 2_000_000]);
            big.extend_from_slice(format!("\r\nget {key}\r\n").as_bytes());
            assert_eq!(node.ask(client, &big), "SERVER_ERROR object too large for cache\nEND\n");
        }
    }
}

#[test]
fn byte_by_byte_is_the_same() {
    let stream: &[u8] = b"set a 1 0 3\r\nabc\r\nget a b a\r\ngets b\r\nset b 0 0 2 noreply\r\nxy\r\nmg b v t q\r\nmn\r\ndelete a\r\nversion\r\nincr b 1\r\nget a b\r\nquit\r\n";
    let mut whole = Node::new(2);
    let client = whole.connect(1);
    let expected = whole.ask(client, stream);
    assert!(whole.clients[client].closed);
    let mut node = Node::new(2);
    let client = node.connect(1);
    let mut answer = String::new();
    for byte in stream {
        answer += &node.ask(client, &[*byte]);
    }
    assert_eq!(answer, expected);
    assert!(node.clients[client].closed);
}

#[test]
fn long_lines() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    // Junk without a line end closes the connection.
    node.send(client, &vec![b'x'; 3000]);
    node.settle();
    assert!(node.clients[client].closed);
    // A list of keys may be of any length.
    let client = node.connect(0);
    for index in 0..10_000 {
        node.send(client, format!("set key{index} 0 0 3 noreply\r\nabc\r\n").as_bytes());
        node.settle();
    }
    let mut line = b"get".to_vec();
    for index in 0..10_000 {
        line.extend_from_slice(format!(" key{index}").as_bytes());
    }
    line.extend_from_slice(b"\r\n");
    let mut expected = String::new();
    for index in 0..10_000 {
        expected += &format!("VALUE key{index} 0 3\nabc\n");
    }
    expected += "END\n";
    assert_eq!(node.ask(client, &line), expected);
    for piece in line.chunks(1000) {
        node.send(client, piece);
        node.settle();
        let backlog = node.clients[client].backlog.len();
        assert!(backlog <= 16 * 1024 || !node.clients[client].out.is_empty(), "{backlog}");
    }
    let answer = node.receive(client);
    assert_eq!(String::from_utf8(answer).unwrap().replace("\r\n", "\n"), expected);
}

#[test]
fn deep_pipeline_keeps_order_and_bounds() {
    for cores in [1, 2, 3] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        let value = "v".repeat(1000);
        let mut stream = Vec::new();
        let mut expected = String::new();
        for index in 0..10_000 {
            stream.extend_from_slice(
                format!("set k{index} {index} 0 1000\r\n{value}\r\nget k{index}\r\n").as_bytes(),
            );
            expected += &format!("STORED\nVALUE k{index} {index} 1000\n{value}\nEND\n");
        }
        node.send(client, &stream);
        // Nobody reads: it must stop.
        node.settle();
        let high = node.shared.settings.output_bytes_high_water;
        assert!(node.clients[client].out.len() <= 3 * high, "{}", node.clients[client].out.len());
        assert!(!node.clients[client].backlog.is_empty());
        let mut answer = Vec::new();
        loop {
            let piece = node.receive_some(client, 50_000);
            if piece.is_empty() && node.clients[client].backlog.is_empty() {
                break;
            }
            answer.extend(piece);
        }
        assert_eq!(String::from_utf8(answer).unwrap().replace("\r\n", "\n"), expected);
        assert!(node.clients[client].out_bytes_max <= 3 * high);
    }
}

#[test]
fn large_values_travel_in_pieces() {
    for cores in [1, 2] {
        let settings = Settings {
            value_bytes_max: 64 << 20,
            memory_bytes_max: 256 << 20,
            ..Settings::default()
        };
        let mut node = Node::with(cores, settings, |_| {});
        let client = node.connect(0);
        let value: Vec<u8> = (0..20_000_000u32).map(|i| (i / 7 % 251) as u8).collect();
        for key in ["a", "b", "c"] {
            node.send(client, format!("set {key} 7 0 {}\r\n", value.len()).as_bytes());
            node.settle();
            for piece in value.chunks(100_000) {
                node.send(client, piece);
                node.settle();
                assert!(node.clients[client].backlog.is_empty());
            }
            assert_eq!(node.ask(client, b"\r\n"), "STORED\n");
        }
        node.send(client, b"get a b c x\r\nmg b v s\r\nget c\r\n");
        let got = node.receive(client);
        let mut expected = Vec::new();
        for key in ["a", "b", "c"] {
            expected.extend_from_slice(format!("VALUE {key} 7 {}\r\n", value.len()).as_bytes());
            expected.extend_from_slice(&value);
            expected.extend_from_slice(b"\r\n");
        }
        expected.extend_from_slice(format!("END\r\nVA {0} s{0}\r\n", value.len()).as_bytes());
        expected.extend_from_slice(&value);
        expected.extend_from_slice(format!("\r\nVALUE c 7 {}\r\n", value.len()).as_bytes());
        expected.extend_from_slice(&value);
        expected.extend_from_slice(b"\r\nEND\r\n");
        assert!(got == expected);
        assert!(
            node.clients[client].out_bytes_max < 2 * node.shared.settings.output_bytes_high_water
        );
        // A bad end, a client that leaves, a reader that leaves.
        node.send(client, format!("set a 7 0 {}\r\n", value.len()).as_bytes());
        node.settle();
        node.send(client, &value);
        assert_eq!(node.ask(client, b"xx"), "CLIENT_ERROR bad data chunk\n");
        node.send(client, b"get a b c\r\n");
        node.settle();
        node.close(client);
        let client = node.connect(0);
        node.send(client, format!("set b 7 0 {}\r\nabc", value.len()).as_bytes());
        node.settle();
        node.close(client);
        node.settle();
        for core in &mut node.cores {
            let gauges = core.shard.stats().gauges;
            assert_eq!((gauges.pinned, gauges.reserved), (0, 0));
        }
    }
}

#[test]
fn a_read_that_ends_a_large_value_still_sends_it() {
    let value = "v".repeat(300_000);
    for cores in [1, 2] {
        let mut node = Node::new(cores);
        let client = node.connect(0);
        for (read, head, tail) in [
            ("gat -1 a\r\n", "VALUE a 0 300000\n", "\nEND\n"),
            ("mg a T-1 v\r\n", "VA 300000\n", "\n"),
        ] {
            node.ask(client, format!("set a 0 0 {}\r\n{value}\r\n", value.len()).as_bytes());
            assert!(node.ask(client, read.as_bytes()) == format!("{head}{value}{tail}"), "{read}");
            assert_eq!(node.ask(client, b"get a\r\n"), "END\n");
        }
        for core in &node.cores {
            assert_eq!(core.shard.stats().gauges.pinned, 0);
        }
    }
}

#[test]
fn expiry_touch_and_flush() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    assert_eq!(
        node.ask(client, b"set a 0 10 1\r\nx\r\nset b 0 -1 1\r\nx\r\nset c 0 0 1\r\nx\r\n"),
        "STORED\nSTORED\nSTORED\n"
    );
    assert_eq!(node.ask(client, b"get a b c\r\n"), "VALUE a 0 1\nx\nVALUE c 0 1\nx\nEND\n");
    assert_eq!(node.ask(client, b"touch c 5\r\ngat 100 a\r\n"), "TOUCHED\nVALUE a 0 1\nx\nEND\n");
    node.advance(20_000);
    assert_eq!(node.ask(client, b"get a b c\r\n"), "VALUE a 0 1\nx\nEND\n");
    assert_eq!(
        node.ask(
            client,
            b"set d 0 0 1\r\nx\r\nflush_all\r\nget a d\r\nset e 0 0 1\r\nx\r\nget e\r\n"
        ),
        "STORED\nOK\nEND\nSTORED\nVALUE e 0 1\nx\nEND\n"
    );
    assert_eq!(node.ask(client, b"flush_all 10\r\nget e\r\n"), "OK\nVALUE e 0 1\nx\nEND\n");
    node.advance(11_000);
    assert_eq!(node.ask(client, b"get e\r\n"), "END\n");
}

#[test]
fn statistics_come_from_every_core() {
    let mut node = Node::new(3);
    let client = node.connect(2);
    for index in 0..100 {
        node.ask(
            client,
            format!("set k{index} 0 0 1\r\nx\r\nget k{index}\r\nget m{index}\r\n").as_bytes(),
        );
    }
    let stats = node.ask(client, b"stats\r\n");
    for line in [
        "STAT cmd_get 200\n",
        "STAT get_hits 100\n",
        "STAT get_misses 100\n",
        "STAT cmd_set 100\n",
        "STAT curr_items 100\n",
        "STAT threads 3\n",
        "STAT version 1.6.45\n",
        concat!("STAT seawall_version ", env!("CARGO_PKG_VERSION"), "\n"),
    ] {
        assert!(stats.contains(line), "{line} in {stats}");
    }
    assert!(stats.ends_with("END\n"));
    assert_eq!(node.ask(client, b"stats reset\r\n"), "RESET\n");
    assert!(node.ask(client, b"stats\r\n").contains("STAT cmd_get 0\n"));
    assert!(node.ask(client, b"stats settings\r\n").contains("STAT item_size_max 1048576\n"));
    assert!(node.ask(client, b"stats slabs\r\n").contains(":used_chunks 100\n"));
    assert!(node.ask(client, b"stats items\r\n").contains(":number 100\n"));
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "STAT sizes_status disabled\nEND\n");
    assert!(node.ask(client, b"stats conns\r\n").contains("STAT 0:addr tcp:127.0.0.1:1\n"));
    assert_eq!(node.ask(client, b"stats detail on\r\n"), "OK\n");
    node.ask(client, b"set u:1 0 0 1\r\nx\r\nget u:1 u:2\r\ndelete u:1\r\n");
    assert_eq!(
        node.ask(client, b"stats detail dump\r\n"),
        "PREFIX u get 2 hit 1 set 1 del 1\nEND\n"
    );
}

#[test]
fn dumps_show_every_item() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    for index in 0..5000 {
        node.send(client, format!("set k{index} 0 0 1 noreply\r\nx\r\n").as_bytes());
        node.settle();
    }
    let dump = node.ask(client, b"lru_crawler metadump all\r\nversion\r\n");
    assert_eq!(dump.matches("key=k").count(), 5000);
    let (_, last) = dump.split_at(dump.find("END").unwrap());
    assert_eq!(last, "END\nVERSION 1.6.45\n");
    assert!(dump.contains(" exp=-1 la=1800000000 cas="));
    let dump = node.ask(client, b"lru_crawler mgdump all\r\n");
    assert_eq!(dump.matches("mg k").count(), 5000);
    assert!(dump.ends_with("EN\n"));
}

#[test]
fn no_two_items_have_the_same_cas_unique() {
    let mut node = Node::new(3);
    let client = node.connect(0);
    let mut keys = String::new();
    for index in 0..100 {
        // The test's clock stands still, so every core stamps the same millisecond.
        node.ask(client, format!("set k{index} 0 0 1\r\nx\r\n").as_bytes());
        keys.push_str(&format!(" k{index}"));
    }
    let answer = node.ask(client, format!("gets{keys}\r\n").as_bytes());
    let uniques: std::collections::HashSet<&str> = answer
        .lines()
        .filter(|line| line.starts_with("VALUE"))
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert_eq!(uniques.len(), 100);
}

#[test]
fn cachedump_shows_the_items_of_a_class_in_bounds() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    assert_eq!(node.ask(client, b"stats cachedump 1 0\r\n"), "END\n");
    assert_eq!(node.ask(client, b"stats cachedump 0 0\r\n"), "END\n");
    assert_eq!(node.ask(client, b"stats cachedump 255 0\r\n"), "CLIENT_ERROR Illegal slab id\n");
    assert_eq!(
        node.ask(client, b"stats cachedump x 0\r\nstats cachedump 1\r\n"),
        "CLIENT_ERROR bad command line format\nCLIENT_ERROR bad command line\n"
    );
    for index in 0..1000 {
        let request = format!("set key{index:04} 0 0 5 noreply\r\nvalue\r\n");
        node.send(client, request.as_bytes());
        node.settle();
    }
    node.ask(client, format!("set long 0 100 2000\r\n{}\r\n", "v".repeat(2000)).as_bytes());
    let items = node.ask(client, b"stats items\r\n");
    let class_of = |bytes: &str| -> String {
        let line = items.lines().find(|line| line.ends_with(bytes)).unwrap();
        line.split(':').nth(1).unwrap().to_owned()
    };
    let (short, long) = (class_of(":number 1000"), class_of(":number 1"));
    let dump = node.ask(client, format!("stats cachedump {short} 0\r\n").as_bytes());
    assert_eq!(dump.matches("ITEM key").count(), 1000);
    assert!(dump.contains("ITEM key0123 [5 b; 0 s]\n") && dump.ends_with(" s]\nEND\n"));
    let dump = node.ask(client, format!("stats cachedump {short} 7\r\n").as_bytes());
    assert_eq!(dump.matches("ITEM key").count(), 7);
    assert!(dump.ends_with("END\n"));
    let dump = node.ask(client, format!("stats cachedump {long} 0\r\n").as_bytes());
    assert_eq!(dump, "ITEM long [2000 b; 1800000100 s]\nEND\n");
    // The other dump takes classes too, by the same numbers.
    let dump = node.ask(client, format!("lru_crawler metadump {long}\r\n").as_bytes());
    assert!(dump.starts_with("key=long exp=1800000100 ") && dump.matches("key=").count() == 1);
    let dump = node.ask(client, format!("lru_crawler metadump {long},{short}\r\n").as_bytes());
    assert_eq!(dump.matches("key=").count(), 1001);
    let answer = node.ask(client, b"lru_crawler metadump 0\r\nlru_crawler metadump 1,x\r\n");
    assert_eq!(answer, "BADCLASS invalid class id\nBADCLASS invalid class id\n");
}

#[test]
fn a_long_cachedump_ends_between_two_lines() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    let padding = "p".repeat(230);
    for index in 0..10_000 {
        let request = format!("set {padding}{index:06} 0 0 1 noreply\r\nv\r\n");
        node.send(client, request.as_bytes());
        node.settle();
    }
    let items = node.ask(client, b"stats items\r\n");
    let class = items.split(':').nth(1).unwrap();
    let dump = node.ask(client, format!("stats cachedump {class} 0\r\nmn\r\n").as_bytes());
    let dump = dump.replace('\n', "\r\n");
    let (dump, _) = dump.split_at(dump.len() - "MN\r\n".len());
    assert!(dump.len() <= 2 << 20 && dump.len() > (2 << 20) - 300, "{}", dump.len());
    assert!(dump.ends_with("[1 b; 0 s]\r\nEND\r\n"));
}

#[test]
fn an_overwritten_dead_item_is_reclaimed() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    node.ask(client, b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\nflush_all\r\n");
    node.ask(client, b"set a 0 0 1\r\ny\r\nget b\r\n");
    let stats = node.ask(client, b"stats\r\n");
    assert!(stats.contains("STAT reclaimed 1\n"), "{stats}");
    assert!(node.ask(client, b"stats items\r\n").contains(":reclaimed 1\n"));
}

#[test]
fn memory_of_an_expired_item_that_is_written_anew_is_reclaimed() {
    let mut node = Node::new(1);
    let client = node.connect(0);
    node.ask(client, b"set a 0 2 1\r\nx\r\n");
    // Freed ahead of the write, which is not what makes it reclaimed.
    for _ in 0..10 {
        node.advance(1000);
    }
    let stats = node.ask(client, b"stats\r\n");
    assert!(stats.contains("STAT crawler_reclaimed 1\n") && stats.contains("STAT reclaimed 0\n"));
    node.ask(client, b"set a 0 2 1\r\ny\r\nset b 0 0 1\r\ny\r\n");
    assert!(node.ask(client, b"stats\r\n").contains("STAT reclaimed 1\n"));
}

#[test]
fn a_watcher_who_does_not_read_is_told_what_it_lost() {
    let mut node = Node::new(2);
    let (watcher, client) = (node.connect(1), node.connect(0));
    assert_eq!(node.ask(watcher, b"watch fetchers\r\n"), "OK\n");
    let keys: String = (0..100).map(|key| format!(" k{key}")).collect();
    let mut asked = 0;
    for _ in 0..200 {
        node.send(client, format!("get{keys}\r\n").as_bytes());
        node.settle();
        for core in &mut node.cores {
            core.post_logs();
        }
        node.receive_some(client, usize::MAX);
        asked += 100;
    }
    let log = node.ask(watcher, b"");
    let shown = log.matches("type=item_get key=k").count();
    let lost: usize = log
        .split("\\n")
        .filter_map(|line| line.strip_prefix("skipped="))
        .map(|count| count.parse::<usize>().unwrap())
        .sum();
    assert!(shown > 0 && lost > 0, "{shown} shown, {lost} lost");
    assert_eq!(shown + lost, asked);
}

#[test]
fn deletes_are_watched_as_memcached_shows_them() {
    let mut node = Node::new(2);
    let (watcher, client) = (node.connect(1), node.connect(0));
    assert_eq!(node.ask(watcher, b"watch deletions\r\n"), "OK\n");
    node.ask(client, b"set foo 0 0 4\r\nvbar\r\ndelete foo\r\ndelete foo\r\n");
    let log = node.ask(watcher, b"");
    assert!(log.contains("type=deleted key=foo cmd=delete clsid="), "{log}");
    assert!(log.ends_with(" size=4\\n") && log.matches("type=").count() == 1, "{log}");
    node.ask(client, b"ms bar 2\r\nhi\r\nmd bar I\r\nmd bar C5\r\nmd bar q\r\nmn\r\n");
    let log = node.ask(watcher, b"");
    assert!(log.contains("type=deleted key=bar cmd=md clsid="), "{log}");
    assert_eq!(log.matches("type=").count(), 1, "{log}");
}

#[test]
fn short_cas_uniques_fit_32_bits_and_compare_alike() {
    let mut node = Node::with(2, Settings::default(), |config| config.short_cas = true);
    let client = node.connect(0);
    for index in 0..50 {
        node.ask(client, format!("set k{index} 0 0 1\r\nx\r\n").as_bytes());
        let answer = node.ask(client, format!("gets k{index}\r\n").as_bytes());
        let first: u64 =
            answer.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(first > 0 && first < 1 << 32, "{first}");
        let meta = node.ask(client, format!("mg k{index} c\r\n").as_bytes());
        assert_eq!(meta, format!("HD c{first}\n"));
        let cas = format!("cas k{index} 0 0 1 {first}\r\ny\r\n");
        assert_eq!(node.ask(client, cas.as_bytes()), "STORED\n");
        // Somebody else has written since.
        assert_eq!(node.ask(client, cas.as_bytes()), "EXISTS\n");
        assert_eq!(node.ask(client, format!("md k{index} C{first}\r\n").as_bytes()), "EX\n");
        // Who refills with a token that is no longer true leaves a stale item.
        let refill = format!("ms k{index} 1 I C{first}\r\nz\r\nmg k{index} v\r\n");
        assert_eq!(node.ask(client, refill.as_bytes()), "HD\nVA 1 X W\nz\n");
    }
}

#[test]
fn watchers_see_all_cores() {
    let mut node = Node::new(2);
    let watcher = node.connect(1);
    let client = node.connect(0);
    assert_eq!(node.ask(watcher, b"watch fetchers mutations\r\n"), "OK\n");
    for index in 0..10 {
        node.ask(client, format!("set k{index} 0 0 1\r\nx\r\nget k{index}\r\n").as_bytes());
    }
    let log = node.ask(watcher, b"");
    assert_eq!(log.matches("type=item_store").count(), 10, "{log}");
    assert_eq!(log.matches("type=item_get key=k").count(), 10);
    node.close(watcher);
    node.settle();
    assert!(node.cores.iter().all(|core| !core.watch.fetchers()));
}

#[test]
fn logging_in() {
    let settings = Settings { auth_file: Some("file".into()), ..Settings::default() };
    let mut node = Node::with(1, settings, |_| {});
    let client = node.connect(0);
    assert_eq!(node.ask(client, b"get a\r\n"), "CLIENT_ERROR unauthenticated\n");
    assert_eq!(
        node.ask(client, b"set a 0 0 9\r\nuser nope\r\n"),
        "CLIENT_ERROR authentication failure\n"
    );
    assert_eq!(
        node.ask(client, b"set a 0 0 4\r\nuser\r\n"),
        "CLIENT_ERROR bad authentication token format\n"
    );
    assert_eq!(node.ask(client, b"set a 0 0 9\r\nuser pass\r\nget a\r\n"), "STORED\nEND\n");
}

#[test]
fn tags_namespaces_and_discovery() {
    both(&[
        (
            "ms a 1 Gred,blue\r\nx\r\nms b 1 G(blue)\r\ny\r\nset c 0 0 1\r\nz\r\n",
            "HD\nHD\nSTORED\n",
        ),
        ("get a b c\r\n", "VALUE a 0 1\nx\nVALUE b 0 1\ny\nVALUE c 0 1\nz\nEND\n"),
        (
            "invalidate tag red\r\nget a b c\r\n",
            "INVALIDATED 1\nVALUE b 0 1\ny\nVALUE c 0 1\nz\nEND\n",
        ),
        ("invalidate tag red blue green\r\nget a b c\r\n", "INVALIDATED 3\nVALUE c 0 1\nz\nEND\n"),
        (
            "set user:1 0 0 1\r\nx\r\ninvalidate ns user\r\nget user:1\r\n",
            "STORED\nINVALIDATED 1\nEND\n",
        ),
        ("invalidate ns nothing\r\n", "INVALIDATED 0\n"),
        ("invalidate tag x noreply\r\n", ""),
        (
            "invalidate\r\n",
            "CLIENT_ERROR bad command line format.  Usage: invalidate tag|ns <name>... [noreply]\n",
        ),
        ("config get cluster\r\n", "CONFIG cluster 0 28\n1\\n127.0.0.1|127.0.0.1|11211\\n\nEND\n"),
    ]);
}

#[test]
fn watchers_see_evictions_as_memcached_shows_them() {
    let mut node =
        Node::with(2, Settings { memory_bytes_max: 4 << 20, ..Settings::default() }, |_| {});
    let watcher = node.connect(0);
    let client = node.connect(1);
    assert_eq!(node.ask(watcher, b"watch evictions sysevents\r\n"), "OK\n");
    let value = "v".repeat(300);
    let mut log = String::new();
    for number in 0..20_000 {
        node.send(client, format!("set a/{number} 0 100 300\r\n{value}\r\n").as_bytes());
        if number % 100 == 99 {
            node.receive(client);
            log.push_str(&node.ask(watcher, b""));
        }
    }
    let lines: Vec<&str> = log.split("\\n").filter(|line| line.contains("type=eviction")).collect();
    let evictions: u64 = node.cores.iter().map(|core| core.shard.stats().counters.evictions).sum();
    assert_eq!(lines.len() as u64, evictions);
    let class = node.ask(client, b"stats items\r\n");
    let class = class.split(':').nth(1).unwrap().to_owned();
    for line in &lines {
        let rest = line.split_once(" type=eviction key=a%2F").unwrap().1;
        let (number, rest) = rest.split_once(' ').unwrap();
        assert!(number.parse::<u32>().is_ok(), "{line}");
        assert_eq!(rest, format!("fetch=no ttl=100 la=0 clsid={class} size=300"));
    }
    // Every line has a number of its own, whichever core it is from.
    let mut numbers: Vec<&str> = log.split(" gid=").skip(1).map(|rest| &rest[..8]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), log.matches(" gid=").count());

    node.close(watcher);
    node.settle();
    assert!(node.cores.iter().all(|core| core.watch.is_idle()));
}

#[test]
fn a_watched_write_shows_class_ttl_and_whole_value() {
    let mut node = Node::new(1);
    let (watcher, client) = (node.connect(0), node.connect(0));
    node.ask(watcher, b"watch mutations fetchers\r\n");
    let mut log = |command: &[u8]| {
        node.ask(client, command);
        let line = node.ask(watcher, b"");
        line.split_once(" type=").unwrap().1.replace("\\n", "")
    };
    let stored = log(b"set k 0 100 2\r\nab\r\n");
    let class = stored.split_once("clsid=").unwrap().1.split(' ').next().unwrap().to_owned();
    assert_ne!(class, "0");
    assert_eq!(
        stored,
        format!("item_store key=k status=stored cmd=set ttl=100 clsid={class} cfd=1 size=2")
    );
    assert!(log(b"append k 0 0 2\r\ncd\r\n").contains("cmd=append ttl=100 clsid="));
    assert!(log(b"get k\r\n").ends_with("cfd=1 size=4"));
    assert_eq!(
        log(b"add k 0 9 1\r\nx\r\n"),
        "item_store key=k status=not_stored cmd=add ttl=9 clsid=0 cfd=1 size=1"
    );
    assert!(log(b"ms k 1 T30\r\nx\r\n").contains("status=stored cmd=set ttl=30 "));
}

#[test]
fn sizes_are_counted_when_asked_for() {
    let mut node = Node::new(2);
    let client = node.connect(0);
    for index in 0..100 {
        node.ask(client, format!("set key{index:02} 0 0 1\r\nx\r\n").as_bytes());
    }
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "STAT sizes_status disabled\nEND\n");
    // As in memcached, the switch's answer has no end.
    assert_eq!(node.ask(client, b"stats sizes_enable\r\n"), "STAT sizes_status enabled\n");
    assert_eq!(node.ask(client, b"stats sizes_enable\r\n"), "STAT sizes_status enabled\n");
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "STAT 32 100\nEND\n");
    assert!(node.ask(client, b"stats settings\r\n").contains("STAT track_sizes yes\n"));
    node.ask(client, b"append key07 0 0 25\r\nxxxxxxxxxxxxxxxxxxxxxxxxx\r\ndelete key08\r\n");
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "STAT 32 98\nSTAT 64 1\nEND\n");
    node.ask(client, b"flush_all\r\n");
    for _ in 0..10 {
        node.advance(10);
    }
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "END\n");
    assert_eq!(node.ask(client, b"stats sizes_disable\r\n"), "STAT sizes_status disabled\n");
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "STAT sizes_status disabled\nEND\n");
    assert!(node.ask(client, b"stats settings\r\n").contains("STAT track_sizes no\n"));

    let settings = Settings { track_sizes: true, ..Settings::default() };
    let mut node = Node::with(1, settings, |_| {});
    let client = node.connect(0);
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "END\n");
    node.ask(client, b"set key 0 0 1\r\nx\r\n");
    assert_eq!(node.ask(client, b"stats sizes\r\n"), "STAT 32 1\nEND\n");
}

/// Each core reads its clock once a turn, so one may be some milliseconds behind.
#[test]
fn what_is_stored_after_a_flush_lives_also_on_a_core_whose_clock_is_behind() {
    let mut node = Node::new(3);
    let client = node.connect(0);
    node.cores[0].now.0 += 5;
    assert_eq!(node.ask(client, b"set old 0 0 1\r\nx\r\nflush_all\r\n"), "STORED\nOK\n");
    for key in 0..20 {
        let set = format!("set key:{key} 0 0 1\r\nx\r\n");
        assert_eq!(node.ask(client, set.as_bytes()), "STORED\n");
    }
    node.advance(10);
    for key in 0..20 {
        let get = format!("get key:{key} old\r\n");
        let answer = format!("VALUE key:{key} 0 1\nx\nEND\n");
        assert_eq!(node.ask(client, get.as_bytes()), answer);
    }
}

#[test]
fn a_store_that_is_refused_is_shown_with_its_own_connection() {
    let settings = Settings { memory_bytes_max: 2 << 20, ..Settings::default() };
    let mut node = Node::with(2, settings, |_| {});
    let (watcher, one, other) = (node.connect(0), node.connect(0), node.connect(0));
    node.ask(watcher, b"watch mutations\r\n");
    let mut connection = |client: usize, command: &[u8], status: &str| {
        node.ask(client, command);
        let line = node.ask(watcher, b"");
        assert!(line.contains(&format!(" status={status} ")), "{line}");
        line.split_once(" cfd=").unwrap().1.split(' ').next().unwrap().to_owned()
    };
    // Keys of both cores, and a value that fits into neither.
    for key in ["a", "b", "c", "d", "e"] {
        let small = format!("set {key} 0 0 1\r\nx\r\n");
        let own = connection(one, small.as_bytes(), "stored");
        assert_ne!(connection(other, small.as_bytes(), "stored"), own);
        let mut long = format!("set {key} 0 0 1040000\r\n").into_bytes();
        long.resize(long.len() + 1_040_000, b'x');
        long.extend(b"\r\n");
        assert_eq!(connection(one, &long, "no_memory"), own, "{key}");
    }
}
