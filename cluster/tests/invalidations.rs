//! Invalidations of the whole cluster, and what readers see while they are under way.

mod fixture;

use cluster::change::Command;
use cluster::replication::{Access, Limits, Route};
use cluster::topology::NodeIndex;
use engine::snapshot::{Generation, GenerationScope};
use engine::{Now, Version};
use fixture::{Cluster, NOW, TestNode, down, introduction, up};

/// Two nodes; the first leads everything, the second is in sync.
fn pair() -> Cluster {
    let mut cluster = Cluster::new(2, Limits::default(), |_| vec![0, 1]);
    cluster.begin();
    cluster
}

#[test]
fn the_end_of_an_invalidation_does_not_end_another_that_is_under_way() {
    let mut cluster = pair();
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
    cluster.suspend(1, 1);
    cluster.suspend(1, 2);
    // The second says that it is still there, as its second round does.
    cluster.suspend(1, 2);
    cluster.nodes[1].replicator.resume_near_reads(1);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::At(NodeIndex(0)));
    cluster.nodes[1].replicator.resume_near_reads(2);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
}

#[test]
fn nor_when_there_are_more_at_once_than_a_core_knows_by_number() {
    let mut cluster = pair();
    for invalidation in 0..100 {
        cluster.suspend(1, invalidation);
    }
    for invalidation in 1..100 {
        cluster.nodes[1].replicator.resume_near_reads(invalidation);
    }
    assert_eq!(cluster.route(1, "key", Access::Read), Route::At(NodeIndex(0)), "the first is on");
    cluster.nodes[1].replicator.resume_near_reads(0);
    cluster.outlast_invalidations();
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
}

/// Everything that was written before is dead; only node 0 knows.
fn flush(cluster: &mut Cluster) {
    let TestNode { replicator, shard, now, .. } = &mut cluster.nodes[0];
    let version = Version((now.0 + 1) << 20);
    let flush = Generation { scope: GenerationScope::Flush, id: 0, version };
    assert!(replicator.invalidate(&[flush], shard));
}

#[test]
fn a_reader_is_told_of_an_invalidation_once_the_replicas_know_of_it() {
    let mut cluster = pair();
    cluster.set("key", "before");
    cluster.settle();
    flush(&mut cluster);
    let read = cluster.get_at(0, "key");
    assert!(read.is_some() && !cluster.is_done(0, read));
    cluster.settle();
    assert_eq!(cluster.nodes[0].completed[&read.unwrap()], [], "it is answered");
    cluster.assert_holds(1, "key", None);
    assert_eq!(cluster.get_at(0, "key"), None, "the next one need not wait");
}

#[test]
fn nor_is_it_told_by_a_primary_whose_heir_has_not_heard_of_the_invalidation() {
    let mut cluster = pair();
    cluster.set("key", "before");
    cluster.settle();
    cluster.cut(0, 1);
    flush(&mut cluster);
    let read = cluster.get_at(0, "key");
    cluster.pass(1_000);
    assert!(!cluster.is_done(0, read));
    cluster.change(&down(0));
    cluster.turn();
    assert_eq!(cluster.nodes[0].completed[&read.unwrap()], [0], "what it found is not told");
    cluster.assert_holds(1, "key", Some("before"));
}

#[test]
fn who_was_left_out_of_an_invalidation_answers_as_a_replica_once_that_must_be_over() {
    let mut cluster = pair();
    cluster.cut(0, 1);
    cluster.change(&down(1));
    cluster.change(&Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 });
    cluster.heal(0, 1);
    cluster.change(&up(1));
    cluster.settle();
    cluster.assert_whole();
    assert_eq!(cluster.route(1, "key", Access::Read), Route::At(NodeIndex(0)));
    assert_eq!(cluster.route(0, "key", Access::Read), Route::Here, "the primary does");
    cluster.outlast_invalidations();
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
}

/// Everything is to die at that moment; it was said at `said`, and node 0 hears it.
fn flush_at(cluster: &mut Cluster, at: u64, said: u64) {
    let version = Version(said << 20);
    let flush = Generation { scope: GenerationScope::FlushAt, id: at, version };
    let TestNode { replicator, shard, .. } = &mut cluster.nodes[0];
    assert!(replicator.invalidate(&[flush], shard));
}

fn set_clocks(cluster: &mut Cluster, ms: u64) {
    cluster.nodes.iter_mut().for_each(|node| node.now = Now(ms));
}

#[test]
fn a_node_that_was_away_when_a_later_flush_was_said_keeps_it_too() {
    let mut cluster = pair();
    cluster.set("key", "before");
    cluster.settle();
    cluster.cut(0, 1);
    cluster.change(&down(1));
    cluster.change(&Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 });
    flush_at(&mut cluster, NOW.0 + 10_000, NOW.0);
    cluster.heal(0, 1);
    cluster.change(&up(1));
    cluster.settle();
    cluster.assert_holds(1, "key", Some("before"));
    // It leads when the moment comes, and nobody else is there.
    cluster.cut(0, 1);
    cluster.change(&down(0));
    assert_eq!(cluster.primary("key"), 1);
    set_clocks(&mut cluster, NOW.0 + 9_999);
    cluster.assert_holds(1, "key", Some("before"));
    set_clocks(&mut cluster, NOW.0 + 10_000);
    cluster.assert_holds(1, "key", None);
}

#[test]
fn a_node_that_is_filled_before_a_later_flush_keeps_it_too() {
    let mut cluster = pair();
    cluster.set("key", "before");
    cluster.settle();
    cluster.nodes[1] = TestNode::new(Limits::default(), 2);
    cluster.cut(0, 1);
    flush_at(&mut cluster, NOW.0 + 10_000, NOW.0);
    cluster.change(&Command::Join(introduction(1, 2)));
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_holds(1, "key", Some("before"));
    set_clocks(&mut cluster, NOW.0 + 10_000);
    cluster.assert_holds(1, "key", None);
}

#[test]
fn a_later_flush_spares_what_is_written_after_its_moment_on_nodes_whose_clocks_are_late() {
    let mut cluster = pair();
    cluster.set("old", "before");
    flush_at(&mut cluster, NOW.0 + 10_000, NOW.0);
    cluster.settle();
    cluster.nodes[0].now = Now(NOW.0 + 10_000);
    cluster.nodes[1].now = Now(NOW.0 + 9_000);
    cluster.set("new", "after");
    cluster.settle();
    assert_eq!(cluster.value_at(1, "old"), None, "the primary has said so");
    cluster.nodes[1].now = Now(NOW.0 + 11_000);
    cluster.assert_holds(1, "new", Some("after"));
}

#[test]
fn a_node_that_returns_after_the_moment_of_a_later_flush_spares_what_was_written_since() {
    let mut cluster = pair();
    flush_at(&mut cluster, NOW.0 + 10_000, NOW.0);
    cluster.settle();
    cluster.cut(0, 1);
    cluster.change(&down(1));
    cluster.change(&Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 });
    cluster.nodes[0].now = Now(NOW.0 + 10_000);
    cluster.set("key", "after");
    // The other one finds its own time come before it hears of anybody.
    set_clocks(&mut cluster, NOW.0 + 15_000);
    cluster.assert_holds(1, "key", None);
    cluster.heal(0, 1);
    cluster.change(&up(1));
    cluster.settle();
    cluster.change(&down(0));
    cluster.change(&up(0));
    cluster.settle();
    for node in 0..2 {
        cluster.assert_holds(node, "key", Some("after"));
    }
}

#[test]
fn of_several_flushes_the_one_that_was_said_last_counts_on_every_node() {
    let mut cluster = pair();
    cluster.set("key", "before");
    flush_at(&mut cluster, NOW.0 + 10_000, NOW.0);
    cluster.settle();
    cluster.cut(0, 1);
    cluster.change(&down(1));
    flush_at(&mut cluster, NOW.0 + 20_000, NOW.0 + 1);
    // What was said before comes late.
    flush_at(&mut cluster, NOW.0 + 5_000, NOW.0 - 1);
    cluster.heal(0, 1);
    cluster.change(&up(1));
    cluster.settle();
    set_clocks(&mut cluster, NOW.0 + 19_999);
    for node in 0..2 {
        cluster.assert_holds(node, "key", Some("before"));
    }
    set_clocks(&mut cluster, NOW.0 + 20_000);
    for node in 0..2 {
        cluster.assert_holds(node, "key", None);
    }
}

#[test]
fn a_flush_at_once_replaces_one_that_is_to_come_on_every_node() {
    let mut cluster = pair();
    flush_at(&mut cluster, NOW.0 + 10_000, NOW.0);
    cluster.settle();
    let version = Version((NOW.0 + 1) << 20);
    let flush = Generation { scope: GenerationScope::Flush, id: 0, version };
    let TestNode { replicator, shard, .. } = &mut cluster.nodes[0];
    assert!(replicator.invalidate(&[flush], shard));
    set_clocks(&mut cluster, NOW.0 + 2);
    cluster.set("key", "after");
    cluster.settle();
    set_clocks(&mut cluster, NOW.0 + 20_000);
    for node in 0..2 {
        cluster.assert_holds(node, "key", Some("after"));
    }
}
