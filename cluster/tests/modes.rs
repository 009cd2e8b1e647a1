//! What is promised of keys that are replicated asynchronously, or not at all.

mod fixture;

use cluster::change::{Command, Step};
use cluster::replication::{Access, Limits, Mode, Modes, Route};
use cluster::ring::Partition;
use cluster::topology::{Incarnation, NodeIndex};
use fixture::Cluster;

/// Two nodes, the first leads; `a:` is asynchronous, `n:` not replicated.
fn pair() -> Cluster {
    let mut cluster = Cluster::new(2, Limits::default(), |_| vec![0, 1]);
    let namespaces = vec![(Box::from(*b"a"), Mode::Async), (Box::from(*b"n"), Mode::None)];
    let modes = Modes::new(b':', Mode::Sync, namespaces);
    for node in &mut cluster.nodes {
        node.replicator.set_modes(modes.clone());
    }
    cluster.settle();
    cluster
}

fn hand_over(cluster: &mut Cluster, to: u16) {
    let all: Vec<Partition> =
        cluster.topology.partitions().map(|(partition, _)| partition).collect();
    let steps = all.into_iter().map(|partition| (partition, Step::HandOver(NodeIndex(to))));
    cluster.change(&Command::Steps(steps.collect()));
}

#[test]
fn an_asynchronous_write_is_answered_at_once_and_arrives() {
    let mut cluster = pair();
    let ticket = cluster.set("a:1", "one");
    assert_eq!(ticket, None);
    assert!(!cluster.nodes[0].replicator.is_pending(cluster.hash("a:1")), "its readers go on");
    assert!(cluster.nodes[0].replicator.is_read_at_primary(b"a:1"));
    assert_eq!(cluster.value_at(1, "a:1"), None);
    // One of the other kind waits on.
    let ticket = cluster.set("s:1", "one");
    assert!(!cluster.is_done(0, ticket));
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    assert_eq!(cluster.value_at(1, "a:1").as_deref(), Some("one"));
}

#[test]
fn what_an_asynchronous_write_lost_does_not_come_back() {
    let mut cluster = pair();
    cluster.set("a:1", "old");
    cluster.settle();
    cluster.cut(0, 1);
    assert_eq!(cluster.set("a:1", "lost"), None);
    assert_eq!(cluster.set("a:2", "lost"), None);
    let exclude = Command::Exclude { primary: NodeIndex(1), replica: NodeIndex(0), keep: 1 };
    cluster.topology.apply(&Command::Down { node: NodeIndex(0), incarnation: Incarnation(1) });
    cluster.topology.apply(&exclude);
    cluster.tell(1);
    assert_eq!(cluster.value_at(1, "a:1").as_deref(), Some("old"));
    cluster.heal(0, 1);
    cluster.change(&Command::Up { node: NodeIndex(0), incarnation: Incarnation(1) });
    cluster.settle();
    hand_over(&mut cluster, 0);
    cluster.settle();
    assert_eq!(cluster.value_at(0, "a:1").as_deref(), Some("old"));
    assert_eq!(cluster.value_at(0, "a:2"), None);
}

#[test]
fn a_key_without_replication_has_one_copy_and_is_gone_with_its_primary() {
    let mut cluster = pair();
    assert_eq!(cluster.set("n:1", "one"), None);
    cluster.set("s:1", "one");
    cluster.settle();
    assert_eq!(cluster.value_at(1, "n:1"), None);
    assert!(cluster.nodes[1].replicator.is_read_at_primary(b"n:1"));
    hand_over(&mut cluster, 1);
    assert_eq!(cluster.route(1, "n:1", Access::Read), Route::Here);
    assert_eq!(cluster.set_at(1, "n:1", "two"), None);
    // It comes back before what the first had is dropped: nobody reads that.
    assert_eq!(cluster.value_at(0, "n:1").as_deref(), Some("one"));
    hand_over(&mut cluster, 0);
    let hash = cluster.hash("n:1");
    assert!(cluster.nodes[0].replicator.is_out_of_date(hash, b"n:1"));
    assert!(!cluster.nodes[0].replicator.is_out_of_date(cluster.hash("s:1"), b"s:1"));
    cluster.settle();
    assert!(!cluster.nodes[0].replicator.is_out_of_date(hash, b"n:1"));
    assert_eq!(cluster.value_at(0, "n:1"), None);
    assert_eq!(cluster.value_at(1, "n:1"), None, "the second has dropped its own, too");
    assert_eq!(cluster.value_at(0, "s:1").as_deref(), Some("one"));
}

#[test]
fn a_new_copy_is_not_given_what_is_not_replicated() {
    let mut cluster = pair();
    cluster.set("n:1", "one");
    cluster.set("a:1", "one");
    cluster.settle();
    let partitions: Vec<Partition> =
        cluster.topology.partitions().map(|(partition, _)| partition).collect();
    for make in [Step::Drop, Step::Add] {
        let steps = partitions.iter().map(|partition| (*partition, make(NodeIndex(1))));
        cluster.change(&Command::Steps(steps.collect()));
        cluster.settle();
    }
    cluster.assert_whole();
    assert_eq!(cluster.value_at(1, "a:1").as_deref(), Some("one"));
    assert_eq!(cluster.value_at(1, "n:1"), None);
}
