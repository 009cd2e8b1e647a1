//! What a core of a cluster's node answers itself, with a stand-in for who decides.

mod common;

use common::Node;
use engine::{KeyHash, Now, Shard, Value, Write};
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
}
use Stand::{Holder, Leased, Primary, Replica};

const PRIMARY: PeerId = PeerId { node: 1, core: 0 };

impl Peering for Stand {
    fn route(&self, _: KeyHash, changes: bool) -> Route {
        match self {
            Primary { .. } => Route::Here,
            Leased { read, until, .. } if read < until => Route::Here,
            Leased { .. } => Route::Wait,
            Replica if !changes => Route::Here,
            _ => Route::At(PRIMARY),
        }
    }
    fn is_read_at_primary(&self, _: &[u8]) -> bool {
        false
    }

    fn is_out_of_date(&self, _: KeyHash, _: &[u8]) -> bool {
        false
    }

    fn is_pending(&self, _: KeyHash) -> bool {
        false
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
            Leased { .. } => {}
            Replica | Holder => panic!("a replica takes no writes of clients"),
        }
    }
    fn reads(&mut self, _: KeyHash, _: u32) {}
    fn close_batch(&mut self) -> Option<u64> {
        let Primary { waiting, .. } = self else { return None };
        (std::mem::take(waiting) > 0).then_some(7)
    }
    fn completed(&mut self) -> Option<(u64, Vec<u32>)> {
        None
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
