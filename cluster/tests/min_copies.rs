//! What writes that need two copies may rely on when replicas are late or gone.

mod fixture;

use cluster::change::{Command, Step};
use cluster::replication::{Access, Effect, Limits, Route};
use cluster::ring::Partition;
use cluster::topology::NodeIndex;
use fixture::{Cluster, down, introduction};

fn limits() -> Limits {
    Limits { min_copies: 2, answer_ms: 1_000, ..Limits::default() }
}

/// The first of `nodes` leads all partitions, the second has a copy of each.
fn led_by_the_first(nodes: usize) -> Cluster {
    let mut cluster = Cluster::new(nodes, limits(), |_| vec![0, 1]);
    cluster.begin();
    cluster
}

fn has_copies(cluster: &Cluster, node: usize, key: &str) -> bool {
    cluster.nodes[node].replicator.has_copies_for(key.as_bytes(), cluster.hash(key))
}

fn exclude(keep: u8) -> Command {
    Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep }
}

#[test]
fn a_replica_that_is_late_leads_with_every_acknowledged_write() {
    let mut cluster = led_by_the_first(2);
    let ticket = cluster.set("key", "acknowledged");
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    // It gets no CPU for a while, and is complained about.
    cluster.cut(0, 1);
    let ticket = cluster.set("key", "under way");
    cluster.pass(400);
    let suspect = Effect::Suspect { node: NodeIndex(1), cannot_follow: false };
    assert!(cluster.nodes[0].effects.contains(&suspect));
    cluster.change(&exclude(2));
    assert!(!cluster.is_done(0, ticket), "it is not acknowledged with one copy");
    assert!(!has_copies(&cluster, 0, "other"), "and what comes now waits");
    assert_eq!(cluster.route(0, "other", Access::Read), Route::Here, "but reads");
    // Then the primary dies.
    cluster.change(&down(0));
    assert_eq!(cluster.primary("key"), 1);
    cluster.assert_holds(1, "key", Some("acknowledged"));
}

#[test]
fn when_a_late_replica_confirms_all_goes_on() {
    let mut cluster = led_by_the_first(2);
    cluster.cut(0, 1);
    let ticket = cluster.set("key", "late");
    cluster.pass(400);
    assert!(!cluster.is_done(0, ticket) && !has_copies(&cluster, 0, "key"));
    cluster.heal(0, 1);
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    assert_eq!(cluster.nodes[0].completed[&ticket.unwrap()], [], "it is known what became of it");
    assert!(has_copies(&cluster, 0, "key"));
    cluster.assert_holds(1, "key", Some("late"));
}

#[test]
fn what_waits_for_too_long_is_answered_and_not_read_before_it_is_confirmed() {
    let mut cluster = led_by_the_first(2);
    cluster.cut(0, 1);
    let write = cluster.set("key", "unsure");
    let read = cluster.get_at(0, "key");
    cluster.pass(900);
    assert!(!cluster.is_done(0, write));
    cluster.pass(200);
    for ticket in [write, read] {
        assert_eq!(cluster.nodes[0].completed[&ticket.unwrap()], [0], "the outcome is unknown");
    }
    let hash = cluster.hash("key");
    assert!(cluster.nodes[0].replicator.is_pending(hash), "a reader waits");
    let again = cluster.get_at(0, "key");
    cluster.nodes[0].completed.clear();
    cluster.heal(0, 1);
    cluster.settle();
    assert!(!cluster.nodes[0].replicator.is_pending(hash));
    assert_eq!(cluster.nodes[0].completed[&again.unwrap()], []);
    let answered = &cluster.nodes[0].completed;
    assert!(!answered.contains_key(&write.unwrap()), "one request has one answer");
}

#[test]
fn writes_go_on_with_another_copy_in_place_of_a_dead_one() {
    let mut cluster = led_by_the_first(3);
    cluster.change(&down(1));
    cluster.cut(0, 1);
    let ticket = cluster.set("key", "waits");
    cluster.pass(400);
    cluster.change(&exclude(2));
    assert!(!cluster.is_done(0, ticket));
    let steps = (0..16).map(|at| (Partition(at), Step::Add(NodeIndex(2)))).collect();
    cluster.change(&Command::Steps(steps));
    cluster.settle();
    // Now there are enough without it.
    cluster.change(&exclude(2));
    cluster.settle();
    assert!(cluster.is_done(0, ticket) && has_copies(&cluster, 0, "key"));
    cluster.assert_holds(2, "key", Some("waits"));
}

#[test]
fn a_replica_that_started_again_is_filled_before_writes_go_on() {
    let mut cluster = led_by_the_first(2);
    cluster.set("key", "before");
    cluster.settle();
    cluster.cut(0, 1);
    cluster.nodes[1] = fixture::TestNode::new(limits(), 2);
    cluster.change(&Command::Join(introduction(1, 2)));
    assert!(!has_copies(&cluster, 0, "key") && !has_copies(&cluster, 1, "key"));
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_whole();
    assert!(has_copies(&cluster, 0, "key") && has_copies(&cluster, 1, "key"));
    cluster.assert_holds(1, "key", Some("before"));
}
