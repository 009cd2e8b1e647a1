//! What a core of a cluster's node answers itself, with a stand-in for who decides.

mod common;

use common::Node;
use engine::{KeyHash, Now, Shard};
use seawall_net::peering::{PeerId, Peering, PeeringLimits, Peers, Route};
use std::any::Any;

/// Another node is primary of every key; this one has a copy of each.
#[derive(Debug)]
struct Replica;

const PRIMARY: PeerId = PeerId { node: 1, core: 0 };

impl Peering for Replica {
    fn route(&self, _: KeyHash, changes: bool) -> Route {
        if changes { Route::At(PRIMARY) } else { Route::Here }
    }
    fn is_pending(&self, _: KeyHash) -> bool {
        false
    }
    fn has_copy(&mut self, _: &[u8], _: KeyHash, _: u32, _: &mut Shard, _: Now) -> bool {
        false
    }
    fn passed_on(&mut self, _: &[u8], _: KeyHash) {}
    fn wrote(&mut self, _: &[u8], _: KeyHash, _: u32, _: &mut Shard, _: Now) {
        panic!("a replica takes no writes of clients");
    }
    fn reads(&mut self, _: KeyHash, _: u32) {}
    fn close_batch(&mut self) -> Option<u64> {
        None
    }
    fn completed(&mut self) -> Option<(u64, Vec<u32>)> {
        None
    }
    fn begin_turn(&mut self) {}
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
    fn is_wanted(&self, _: PeerId) -> bool {
        true
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// A node with this content, then a replica.
fn node(content: &[u8]) -> (Node, usize) {
    let mut node = Node::new(1);
    let client = node.connect(0);
    node.send(client, content);
    node.receive(client);
    let peers = Peers::new(Box::new(Replica), PeeringLimits::default());
    node.cores[0].peers = Some(Box::new(peers));
    (node, client)
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
