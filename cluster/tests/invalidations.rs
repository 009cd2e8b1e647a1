//! Invalidations of the whole cluster, and what readers see while they are under way.

mod fixture;

use cluster::replication::{Access, Limits, Route};
use cluster::topology::NodeIndex;
use fixture::Cluster;

/// Two nodes; the first leads everything, the second is in sync.
fn pair() -> Cluster {
    let mut cluster = Cluster::new(2, Limits::default(), |_| vec![0, 1]);
    cluster.settle();
    cluster
}

#[test]
fn the_end_of_an_invalidation_does_not_end_another_that_is_under_way() {
    let mut cluster = pair();
    let later = cluster.clock.plus(1_000);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
    cluster.nodes[1].replicator.suspend_near_reads(1, later);
    cluster.nodes[1].replicator.suspend_near_reads(2, later.plus(1));
    // The second says that it is still there, as its second round does.
    cluster.nodes[1].replicator.suspend_near_reads(2, later.plus(2));
    cluster.nodes[1].replicator.resume_near_reads(1);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::At(NodeIndex(0)));
    cluster.nodes[1].replicator.resume_near_reads(2);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
}

#[test]
fn nor_when_there_are_more_at_once_than_a_core_knows_by_number() {
    let mut cluster = pair();
    let until = cluster.clock.plus(1_000);
    for invalidation in 0..100 {
        cluster.nodes[1].replicator.suspend_near_reads(invalidation, until);
    }
    for invalidation in 1..100 {
        cluster.nodes[1].replicator.resume_near_reads(invalidation);
    }
    assert_eq!(cluster.route(1, "key", Access::Read), Route::At(NodeIndex(0)), "the first is on");
    cluster.nodes[1].replicator.resume_near_reads(0);
    cluster.pass(1_000);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
}
