//! What a core of a cluster's node answers itself, with a stand-in for who decides.

mod common;

use common::Node;
use engine::{Failure, KeyHash, Now, Shard, Value, Write};
use seawall_net::hop::ConnToken;
use seawall_net::peering::{PeerId, Peering, PeeringLimits, Peers, Route};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Another node is primary of every key.
#[derive(Debug)]
enum Stand {
    /// This one is a replica of all.
    Replica,
    /// It holds none, but for copies of hot keys.
    Holder,
    /// Not so: this one is primary of every key. So often a request has changed
    /// something, and the last so many answers wait for a replica.
    Primary { changed: usize, waiting: usize },
    /// The same for as long as its lease runs, by the clock as it was last read.
    Leased { clock: Arc<AtomicU64>, read: u64, until: u64 },
    /// This one is primary, but for keys that nobody takes.
    Refusing(Vec<KeyHash>),
    /// This one is primary, and a change of every key is on its way to a replica of
    /// which nobody will know whether it lasts.
    Uncertain { told: bool },
}
use Stand::{Holder, Leased, Primary, Refusing, Replica, Uncertain};

const PRIMARY: PeerId = PeerId { node: 1, core: 0 };

impl Peering for Stand {
    fn route(&self, hash: KeyHash, changes: bool) -> Route {
        match self {
            Refusing(keys) if keys.contains(&hash) => Route::Refuse(Failure::Nobody),
            Primary { .. } | Refusing(_) | Uncertain { .. } => Route::Here,
            Leased { read, until, .. } if read < until => Route::Here,
            Leased { .. } => Route::Wait,
            Replica if !changes => Route::Here,
            _ => Route::At(PRIMARY),
        }
    }
    fn has_copies_for(&self, _: &[u8], _: KeyHash) -> bool {
        true
    }
    fn is_read_at_primary(&self, _: &[u8]) -> bool {
        false
    }

    fn is_out_of_date(&self, _: KeyHash, _: &[u8]) -> bool {
        false
    }

    fn is_pending(&self, _: KeyHash) -> bool {
        matches!(self, Uncertain { told: false })
    }
    fn has_copy(&mut self, key: &[u8], hash: KeyHash, _: u32, shard: &mut Shard, now: Now) -> bool {
        matches!(self, Holder) && shard.peek(key, hash, now).is_some()
    }
    fn passed_on(&mut self, _: &[u8], _: KeyHash) {}
    fn wrote(&mut self, _: &[u8], _: KeyHash, _: u32, _: &mut Shard, _: Now) {
        match self {
            Primary { changed, waiting } => {
                (*changed, *waiting) = (*changed + 1, *waiting + 1);
            }
            Leased { .. } | Refusing(_) | Uncertain { .. } => {}
            Replica | Holder => panic!("a replica takes no writes of clients"),
        }
    }
    fn reads(&mut self, _: KeyHash, _: u32) {}
    fn close_batch(&mut self) -> Option<u64> {
        match self {
            Primary { waiting, .. } => (std::mem::take(waiting) > 0).then_some(7),
            Uncertain { told } => (!*told).then_some(7),
            _ => None,
        }
    }
    fn completed(&mut self) -> Option<(u64, Vec<u32>)> {
        match self {
            Uncertain { told } if !*told => {
                *told = true;
                Some((7, vec![0]))
            }
            _ => None,
        }
    }
    fn begin_turn(&mut self) {
        self.read_clock();
    }
    fn read_clock(&mut self) {
        if let Leased { clock, read, .. } = self {
            *read = clock.load(Ordering::Relaxed);
        }
    }
    fn may_answer(&mut self) -> bool {
        true
    }
    fn connected(&mut self, _: PeerId, _: &mut Vec<u8>) {}
    fn disconnected(&mut self, _: PeerId) {}
    fn poll(&mut self, _: PeerId, _: &Shard, _: Now, _: &mut Vec<u8>) -> bool {
        false
    }
    fn replied(&mut self, _: PeerId, _: &[u8], _: &mut Shard, _: Now) -> bool {
        true
    }
    fn receive(
        &mut self,
        _: PeerId,
        bytes: &[u8],
        _: &mut Shard,
        _: Now,
        _: &mut Vec<u8>,
    ) -> Option<usize> {
        Some(bytes.len())
    }
    fn poll_back(&mut self, _: PeerId, _: &mut Vec<u8>) {}
    fn upkeep(&mut self, _: &mut Shard, _: Now) -> bool {
        false
    }
    fn has_new_routes(&mut self) -> bool {
        false
    }
    fn is_wanted(&self, _: PeerId) -> bool {
        true
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// A node whose first core has this content, then one of a cluster.
fn node_of(cores: u32, content: &[u8], stand: Stand) -> (Node, usize) {
    let mut node = Node::new(cores);
    let client = node.connect(0);
    node.send(client, content);
    node.receive(client);
    let peers = Peers::new(Box::new(stand), PeeringLimits::default());
    node.cores[0].peers = Some(Box::new(peers));
    (node, client)
}

fn node(content: &[u8]) -> (Node, usize) {
    node_of(1, content, Replica)
}

fn hash(node: &Node, key: &str) -> KeyHash {
    KeyHash::of(key.as_bytes(), &node.cores[0].seed)
}

fn waiting(node: &Node) -> usize {
    node.cores[0].peers.as_ref().unwrap().waiting()
}

#[test]
fn a_plain_meta_get_is_answered_by_a_copy() {
    let (mut node, client) = node(b"set k 0 0 3\r\nabc\r\n");
    assert_eq!(node.ask(client, b"mg k v s q O7\r\n"), "VA 3 s3 O7\nabc\n");
    assert_eq!(node.ask(client, b"mg nothing v\r\n"), "EN\n");
    assert_eq!(node.cores[0].stats.hops_sent, 0, "nothing had to wait for a batch");
    // Behind another request of its connection, too.
    assert_eq!(node.ask(client, b"set k 0 0 1\r\nx\r\n"), "");
    assert_eq!((node.ask(client, b"mg k v\r\n"), waiting(&node)), (String::new(), 2));
}

#[test]
fn a_meta_get_that_may_win_or_tells_of_other_reads_goes_to_the_primary() {
    let content = b"ms stale 1\r\nx\r\nms fresh 1\r\nx\r\nmd stale I\r\n";
    for request in [
        "mg stale v",
        "mg fresh T60",
        "mg nothing N30",
        "mg fresh R30",
        "mg fresh v h",
        "mg fresh v l",
        "mg fresh E5",
    ] {
        let (mut node, client) = node(content);
        assert_eq!(node.ask(client, format!("{request}\r\n").as_bytes()), "", "{request}");
        assert_eq!(waiting(&node), 1, "{request}");
    }
    // Also where another one has the right to refill it already.
    let (mut node, client) = node(b"mg lease N30\r\n");
    assert_eq!((node.ask(client, b"mg lease v\r\n"), waiting(&node)), (String::new(), 1));
}

#[test]
fn a_copy_of_another_nodes_key_answers_reads_alone() {
    let (mut node, client) = node_of(1, b"set k 0 0 3\r\nabc\r\n", Holder);
    assert_eq!(node.ask(client, b"get k\r\n"), "VALUE k 0 3\nabc\nEND\n");
    assert_eq!(node.ask(client, b"mg k v\r\n"), "VA 3\nabc\n");
    assert_eq!((node.cores[0].stats.hops_sent, waiting(&node)), (0, 0));
    // What is not here is not missing, and writes go to the primary.
    for request in ["get nothing", "gat 10 k", "mg k T60", "delete k"] {
        let before = waiting(&node);
        assert_eq!(node.ask(client, format!("{request}\r\n").as_bytes()), "", "{request}");
        assert_eq!(waiting(&node), before + 1, "{request}");
    }
}

#[test]
fn a_copy_of_another_cores_key_spares_the_hop_unless_it_would_overtake() {
    let (mut node, client) = node_of(2, b"", Holder);
    let of_core_one = |key: &String| hash(&node, key).core(2) == 1;
    let key = (0..).map(|n| format!("k{n}")).find(of_core_one).unwrap();
    let hash = hash(&node, &key);
    let core = &mut node.cores[0];
    let copy = Write::set(key.as_bytes(), hash, Value::Bytes(b"abc"));
    core.shard.write(copy, core.now).unwrap();
    let get = format!("get {key}\r\n");
    assert_eq!(node.ask(client, get.as_bytes()), format!("VALUE {key} 0 3\nabc\nEND\n"));
    assert_eq!(node.cores[0].stats.hops_sent, 0);
    // Behind a write that is under way it follows it.
    node.send(client, format!("set {key} 0 0 1\r\nx\r\n{get}").as_bytes());
    assert_eq!(node.cores[0].stats.hops_sent, 2);
}

#[test]
fn what_a_primary_answers_as_expired_waits_until_the_replicas_know() {
    let stand = || Primary { changed: 0, waiting: 0 };
    for request in ["get k", "mg k v", "me k", "gat 10 k", "delete k", "touch k 5", "incr k 1"] {
        let (mut node, client) = node_of(1, b"set k 0 10 1\r\n7\r\n", stand());
        let changed = |node: &mut Node| {
            let peering = &mut node.cores[0].peers.as_mut().unwrap().peering;
            match peering.as_any().downcast_mut() {
                Some(Primary { changed, .. }) => *changed,
                _ => unreachable!(),
            }
        };
        assert_ne!(node.ask(client, b"get nothing\r\n"), "", "a plain miss waits for nobody");
        assert_ne!(node.ask(client, b"delete nothing\r\n"), "");
        assert_ne!(node.ask(client, b"get k\r\n"), "");
        assert_eq!(changed(&mut node), 0);
        node.cores[0].now.0 += 20_000;
        assert_eq!(node.ask(client, format!("{request}\r\n").as_bytes()), "", "{request}");
        assert_eq!(changed(&mut node), 1, "{request}");
    }
}

#[test]
fn what_came_while_the_process_slept_is_not_executed_under_the_lease_of_before() {
    let clock = Arc::new(AtomicU64::new(0));
    let stand = Leased { clock: clock.clone(), read: 0, until: 100 };
    let (mut node, client) = node_of(1, b"", stand);
    node.cores[0].peers.as_mut().unwrap().peering.begin_turn();
    assert_eq!(node.ask(client, b"set k 0 0 1\r\nx\r\n"), "STORED\n");
    // It sleeps in the middle of a turn. What another core has got meanwhile is what
    // it takes next.
    clock.store(100, Ordering::Relaxed);
    assert_eq!(node.ask(client, b"set k 0 0 1\r\ny\r\n"), "");
    assert_eq!(waiting(&node), 1);
}

/// Keys beginning with `f` are taken by nobody.
fn refusing() -> (Node, usize) {
    let (mut node, client) = node_of(1, b"set a1 0 0 1\r\nx\r\nset a2 0 0 1\r\ny\r\n", Holder);
    let keys = ["f0", "f3"].map(|key| hash(&node, key)).to_vec();
    let peers = Peers::new(Box::new(Refusing(keys)), PeeringLimits::default());
    node.cores[0].peers = Some(Box::new(peers));
    (node, client)
}

#[test]
fn a_get_of_several_keys_has_one_end_whichever_of_them_fails() {
    let (mut node, client) = refusing();
    let error = "SERVER_ERROR no node takes this key now\n";
    let (one, two) = ("VALUE a1 0 1\nx\n", "VALUE a2 0 1\ny\n");
    let both = format!("{one}{two}END\n");
    let one = format!("{one}END\n");
    for (ask, answer) in [
        ("get a1 f0", one.as_str()),
        ("get f0 a1", &one),
        ("get  f0 a1 ", &one),
        ("get f0 f3", "END\n"),
        ("get f0 ", "END\n"),
        ("get a1 f0 a2", &both),
        ("get f0 a1 a2 f3", &both),
        ("gat 10 a1 f0 a2", &both),
        ("gat 10 f0 a1 a2", &both),
        // One key, one line.
        ("get f0", error),
        (" get f0", error),
        ("gets f0", error),
        ("gat 10 f0", error),
        ("gats 10 f0", error),
        ("mg f0 v", error),
        ("mg a1 v\r\nmg f0 v\r\nmg a2 v", &format!("VA 1\nx\n{error}VA 1\ny\n")),
        ("mg a1 v q\r\nmg f0 v q O7\r\nmg a2 v q\r\nmn", "VA 1\nx\nVA 1\ny\nMN\n"),
        ("delete f0", error),
        ("set f0 0 0 1\r\nx", error),
    ] {
        let got = node.ask(client, format!("{ask}\r\n").as_bytes());
        assert_eq!(got, answer, "{ask}");
        assert_eq!(node.ask(client, b"get a1\r\n"), one, "in step after {ask}");
    }
    // With the number of the item's version.
    let got = node.ask(client, b"gets f0 a1\r\n");
    assert!(got.starts_with("VALUE a1 0 1 ") && got.ends_with("\nx\nEND\n"), "{got}");
    assert_eq!(got.lines().count(), 3);
}

#[test]
fn a_quiet_binary_get_that_fails_says_nothing() {
    const GET: u8 = 0;
    const GETQ: u8 = 9;
    const NOOP: u8 = 10;
    const GETK: u8 = 12;
    const GETKQ: u8 = 13;
    fn frame(opcode: u8, opaque: u8, key: &str) -> Vec<u8> {
        let mut frame =
            vec![0x80, opcode, 0, key.len() as u8, 0, 0, 0, 0, 0, 0, 0, key.len() as u8];
        frame.extend([0, 0, 0, opaque, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(key.as_bytes());
        frame
    }
    /// Opcode, status and opaque of each answer.
    fn heads(mut bytes: &[u8]) -> Vec<(u8, u16, u8)> {
        let mut heads = Vec::new();
        while !bytes.is_empty() {
            let body = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
            heads.push((bytes[1], u16::from_be_bytes([bytes[6], bytes[7]]), bytes[15]));
            bytes = &bytes[24 + body..];
        }
        heads
    }
    let (mut node, _) = refusing();
    let client = node.connect(0);
    let ask = [
        frame(GETKQ, 1, "f0"),
        frame(GETKQ, 2, "a1"),
        frame(GETQ, 3, "f3"),
        frame(GETK, 4, "f3"),
        frame(GET, 5, "a2"),
        frame(NOOP, 6, ""),
    ];
    node.send(client, &ask.concat());
    let got = node.receive(client);
    let temporary = 0x86;
    let expected = [(GETKQ, 0, 2), (GETK, temporary, 4), (GET, 0, 5), (NOOP, 0, 6)];
    assert_eq!(heads(&got), expected);
}

/// The other node is primary of every key, and its link is there.
fn linked(content: &[u8]) -> (Node, usize) {
    let (mut node, client) = node_of(1, content, Holder);
    let link = ConnToken { index: 999, generation: 1 };
    node.cores[0].peers.as_mut().unwrap().connected(PRIMARY, link, &mut Vec::new());
    (node, client)
}

/// The other node dies. `stand`: who is what then.
fn lose_the_primary(node: &mut Node, stand: Stand) {
    let now = node.cores[0].now;
    let peers = node.cores[0].peers.as_mut().unwrap();
    *peers.peering.as_any().downcast_mut::<Stand>().unwrap() = stand;
    peers.disconnected(PRIMARY, now);
    node.serve_peers();
}

#[test]
fn a_read_whose_node_was_lost_is_asked_again_at_another_copy() {
    let unknown = "SERVER_ERROR the outcome is unknown: the node that took it was lost\n";
    let value = "VALUE k 0 3\nabc\nEND\n";
    for (ask, answer) in [
        ("get k", value),
        ("get k nothing", value),
        ("mg k v", "VA 3\nabc\n"),
        ("mg k s v t O1", "VA 3 s3 t-1 O1\nabc\n"),
        // Only the primary knows when it was read before, but to ask does no harm.
        ("mg k v l", "VA 3 l0\nabc\n"),
        ("me nothing", "EN\n"),
        // These may have been done.
        ("gat 10 k", unknown),
        ("mg k v T10", unknown),
        ("mg k v N10", unknown),
        ("set k 0 0 1\r\nx", unknown),
        ("delete k", unknown),
        ("incr k 1", unknown),
    ] {
        let (mut node, client) = linked(b"");
        assert_eq!(node.ask(client, format!("{ask}\r\n").as_bytes()), "", "{ask}");
        assert!(node.cores[0].peers.as_ref().unwrap().away() > 0, "{ask}");
        // It dies, and this node takes its place.
        let hash = hash(&node, "k");
        let core = &mut node.cores[0];
        core.shard.write(Write::set(b"k", hash, Value::Bytes(b"abc")), core.now).unwrap();
        lose_the_primary(&mut node, Primary { changed: 0, waiting: 0 });
        let got = node.receive(client).escape_ascii().to_string().replace("\\r\\n", "\n");
        assert_eq!(got, answer, "{ask}");
    }
}

#[test]
fn a_replica_answers_what_the_lost_primary_was_asked() {
    let (mut node, client) = linked(b"");
    assert_eq!(node.ask(client, b"get k\r\n"), "");
    let hash = hash(&node, "k");
    let core = &mut node.cores[0];
    core.shard.write(Write::set(b"k", hash, Value::Bytes(b"abc")), core.now).unwrap();
    // Nobody is primary yet.
    lose_the_primary(&mut node, Replica);
    assert_eq!(node.receive(client), b"VALUE k 0 3\r\nabc\r\nEND\r\n");
}

#[test]
fn a_read_of_what_may_not_last_is_asked_again() {
    let unknown = "SERVER_ERROR the outcome is unknown: the node that took it was lost\n";
    for (ask, answer) in [
        ("get k", "VALUE k 0 3\nabc\nEND\n"),
        ("mg k v", "VA 3\nabc\n"),
        ("set k 0 0 1\r\nx", unknown),
        ("gat 10 k", unknown),
    ] {
        let (mut node, client) = node_of(1, b"set k 0 0 3\r\nabc\r\n", Uncertain { told: false });
        assert_eq!(node.ask(client, format!("{ask}\r\n").as_bytes()), "", "{ask}");
        node.serve_peers();
        let got = node.receive(client).escape_ascii().to_string().replace("\\r\\n", "\n");
        assert_eq!(got, answer, "{ask}");
    }
}
