//! Hot keys at nodes that hold no copy of their partition.

mod fixture;

use cluster::change::Command;
use cluster::replication::{Access, CopyState, Denied, Effect, Limits, Route};
use cluster::topology::{Incarnation, NodeIndex};
use engine::{Delete, ReadOptions};
use fixture::{Cluster, NOW, TestNode};

const KEY: &str = "front page";

/// Node 0 leads every partition, node 1 is its replica, nodes 2 and 3 hold nothing.
/// The key is stored, and node 2 has a copy.
fn holding() -> Cluster {
    let mut cluster = Cluster::new(4, Limits::default(), |_| vec![0, 1]);
    cluster.begin();
    cluster.set(KEY, "one");
    cluster.settle();
    cluster.want(2, &[KEY]);
    cluster.settle();
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("one"));
    cluster
}

/// The link stalls: nobody knows yet that it is gone.
fn stall(cluster: &mut Cluster, from: usize, to: usize) {
    cluster.links.get_mut(&(from, to)).unwrap().cut = true;
}

fn holders(cluster: &Cluster) -> Vec<u16> {
    let hash = cluster.hash(KEY);
    cluster.nodes[0].replicator.holders(hash).map(|peer| peer.node.0).collect()
}

fn state(cluster: &Cluster, node: usize) -> Option<CopyState> {
    cluster.nodes[node].replicator.copy_state(cluster.hash(KEY))
}

fn acts_late(cluster: &Cluster, node: usize) -> bool {
    let replicator = &cluster.nodes[node].replicator;
    replicator.acts() < replicator.topology().revision()
}

#[test]
fn a_copy_is_kept_without_being_sent_again_while_it_is_wanted() {
    let mut cluster = holding();
    for _ in 0..10 {
        cluster.pass(50);
        assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("one"));
    }
    assert_eq!(cluster.nodes[2].replicator.counters().copied, 1);
    assert!(cluster.nodes[0].replicator.counters().granted > 5);
    // Writes go to the primary all the same.
    assert_eq!(cluster.route(2, KEY, Access::Write), Route::At(NodeIndex(0)));
    cluster.want(2, &[]);
    assert_eq!((cluster.copy_at(2, KEY), cluster.value_at(2, KEY)), (None, None));
    cluster.pass(200);
    assert_eq!(holders(&cluster), []);
}

#[test]
fn a_write_waits_until_the_holder_has_given_the_copy_up() {
    let mut cluster = holding();
    cluster.pass(50);
    stall(&mut cluster, 2, 0);
    let ticket = cluster.set(KEY, "two");
    for _ in 0..6 {
        cluster.turn();
    }
    // The replica has it, the holder still answers what was: nobody is told.
    assert_eq!(cluster.value_at(1, KEY).as_deref(), Some("two"));
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("one"));
    assert!(!cluster.is_done(0, ticket));
    assert_eq!(cluster.route(1, KEY, Access::Read), Route::At(NodeIndex(0)));
    let read = cluster.get_at(0, KEY);
    assert!(read.is_some() && !cluster.is_done(0, read));
    cluster.links.get_mut(&(2, 0)).unwrap().cut = false;
    cluster.settle();
    assert!(cluster.is_done(0, ticket) && cluster.is_done(0, read));
    assert_eq!(cluster.route(1, KEY, Access::Read), Route::Here);
    // Still hot, it was asked for again at once.
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("two"));
    assert_eq!(cluster.nodes[0].replicator.counters().revoked, 1);
}

#[test]
fn a_write_waits_for_a_silent_holder_no_longer_than_its_grant() {
    let mut cluster = holding();
    stall(&mut cluster, 2, 0);
    let ticket = cluster.set(KEY, "two");
    let began = cluster.clock;
    while !cluster.is_done(0, ticket) {
        cluster.turn();
        assert!(cluster.clock.since(began) < 150);
    }
    assert_eq!(cluster.copy_at(2, KEY), None, "its grant was over before");
    cluster.turn();
    assert_eq!(cluster.route(1, KEY, Access::Read), Route::Here);
}

#[test]
fn a_write_waits_for_holders_also_where_there_is_no_replica() {
    let mut cluster = Cluster::new(3, Limits::default(), |_| vec![0]);
    cluster.begin();
    cluster.set(KEY, "one");
    cluster.want(2, &[KEY]);
    cluster.settle();
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("one"));
    let ticket = cluster.set(KEY, "two");
    assert!(ticket.is_some() && !cluster.is_done(0, ticket));
    assert!(cluster.nodes[0].replicator.is_pending(cluster.hash(KEY)));
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    assert!(!cluster.nodes[0].replicator.is_pending(cluster.hash(KEY)));
    // Nobody holds one: nothing to wait for.
    cluster.want(2, &[]);
    cluster.pass(200);
    assert_eq!(cluster.set(KEY, "three"), None);
}

#[test]
fn what_cannot_be_granted_is_refused_with_a_reason() {
    let mut cluster = holding();
    let refused = |cluster: &mut Cluster, key: &str| {
        cluster.want(3, &[key]);
        cluster.settle();
        cluster.nodes[3].replicator.copy_state(cluster.hash(key))
    };
    assert_eq!(refused(&mut cluster, "nothing"), Some(CopyState::Denied(Denied::NoItem)));
    let hash = cluster.hash("stale");
    cluster.set("stale", "x");
    let TestNode { replicator, shard, .. } = &mut cluster.nodes[0];
    shard.delete(b"stale", hash, NOW, &Delete { invalidate: true, ..Delete::default() });
    replicator.wrote(b"stale", hash, 0, shard, NOW, cluster.clock);
    replicator.close_batch();
    cluster.settle();
    assert_eq!(refused(&mut cluster, "stale"), Some(CopyState::Denied(Denied::Marked)));
    // Somebody wins the right to refill what others hold: they lose it.
    let hash = cluster.hash(KEY);
    let options =
        ReadOptions { vivify: Some(engine::Expiry(NOW.0 + 10_000)), ..Default::default() };
    let TestNode { replicator, shard, .. } = &mut cluster.nodes[0];
    shard.unlink_key(KEY.as_bytes(), hash, NOW);
    shard.read(KEY.as_bytes(), hash, NOW, &options).unwrap();
    replicator.wrote(KEY.as_bytes(), hash, 0, shard, NOW, cluster.clock);
    replicator.close_batch();
    cluster.settle();
    assert_eq!(cluster.copy_at(2, KEY), None);
    cluster.set("long", &"x".repeat(300_000));
    cluster.settle();
    assert_eq!(refused(&mut cluster, "long"), Some(CopyState::Denied(Denied::TooLong)));
}

#[test]
fn a_key_that_is_written_all_the_time_rests() {
    let mut cluster = holding();
    let mut waited_ms = 0;
    for round in 0..8 {
        let began = cluster.clock;
        while cluster.copy_at(2, KEY).is_none() {
            cluster.turn();
        }
        waited_ms = cluster.clock.since(began);
        cluster.set(KEY, &format!("round {round}"));
        cluster.settle();
    }
    assert!((900..1_200).contains(&waited_ms), "{waited_ms}");
    cluster.pass(60);
    assert_eq!(state(&cluster, 2), Some(CopyState::Denied(Denied::Rewritten)));
    // Left alone, it comes back.
    cluster.pass(1_200);
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("round 7"));
}

#[test]
fn a_broken_link_ends_the_copy_at_once() {
    let mut cluster = holding();
    cluster.cut(2, 0);
    assert_eq!(cluster.copy_at(2, KEY), None);
    let ticket = cluster.set(KEY, "two");
    cluster.turn();
    cluster.turn();
    assert!(!cluster.is_done(0, ticket), "the primary cannot know");
    // A new link says so.
    cluster.heal(2, 0);
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("two"));
}

#[test]
fn nothing_is_granted_beyond_the_lease_and_nothing_is_read_without_one() {
    let mut cluster = holding();
    let end = cluster.clock.plus(60);
    cluster.nodes[0].replicator.set_lease(end);
    cluster.pass(40);
    let until = cluster.nodes[2].replicator.copy_until(cluster.hash(KEY), cluster.clock);
    assert!(until.is_none_or(|until| until < end.plus(60)), "granted before");
    cluster.pass(300);
    assert_eq!(cluster.copy_at(2, KEY), None);
    assert_eq!(state(&cluster, 2), Some(CopyState::Denied(Denied::Unsettled)));
    cluster.nodes[0].replicator.set_lease(cluster.clock.plus(1_000_000));
    cluster.pass(100);
    assert!(cluster.copy_at(2, KEY).is_some());
    cluster.nodes[2].replicator.set_lease(cluster.clock);
    assert_eq!(cluster.copy_at(2, KEY), None);
}

#[test]
fn while_an_invalidation_is_under_way_copies_answer_nothing() {
    let mut cluster = holding();
    cluster.suspend(2, 7);
    assert_eq!(cluster.copy_at(2, KEY), None);
    // Whether or not the holder is asked: its primary answers for it.
    stall(&mut cluster, 2, 0);
    cluster.suspend(0, 7);
    cluster.turn();
    assert!(!cluster.nodes[0].replicator.copies_are_gone());
    cluster.links.get_mut(&(2, 0)).unwrap().cut = false;
    cluster.settle();
    assert!(cluster.nodes[0].replicator.copies_are_gone());
    assert_eq!(cluster.value_at(2, KEY), None);
    cluster.want(3, &[KEY]);
    cluster.settle();
    assert_eq!(state(&cluster, 3), Some(CopyState::Denied(Denied::Unsettled)));
    for node in [0, 2] {
        cluster.nodes[node].replicator.resume_near_reads(7);
    }
    cluster.pass(60);
    assert!(cluster.nodes[0].replicator.copies_are_gone(), "these are new");
    assert!(cluster.copy_at(2, KEY).is_some() && cluster.copy_at(3, KEY).is_some());
}

#[test]
fn a_partition_is_paused_only_when_its_copies_are_gone() {
    let mut cluster = holding();
    stall(&mut cluster, 2, 0);
    let partition = cluster.partition(KEY);
    cluster.nodes[0].replicator.pause(&[partition]);
    let paused =
        |cluster: &Cluster| cluster.nodes[0].effects.contains(&Effect::Paused(vec![partition]));
    cluster.turn();
    cluster.turn();
    assert!(!paused(&cluster));
    cluster.links.get_mut(&(2, 0)).unwrap().cut = false;
    cluster.settle();
    assert!(paused(&cluster));
    assert_eq!(cluster.copy_at(2, KEY), None);
    assert_eq!(state(&cluster, 2), Some(CopyState::Denied(Denied::Unsettled)));
}

#[test]
fn a_deposed_primary_says_so_when_its_copies_are_gone() {
    for answers in [true, false] {
        let mut cluster = holding();
        if !answers {
            stall(&mut cluster, 2, 0);
        }
        let before = cluster.nodes[0].replicator.acts();
        let down = Command::Down { node: NodeIndex(0), incarnation: Incarnation(1) };
        cluster.topology.apply(&down);
        cluster.tell_unsettled(0);
        assert!(acts_late(&cluster, 0));
        assert_eq!(cluster.nodes[0].replicator.acts(), before);
        // A later revision that takes nothing does not change that.
        let up = Command::Up { node: NodeIndex(0), incarnation: Incarnation(1) };
        cluster.topology.apply(&up);
        cluster.tell_unsettled(0);
        assert_eq!(cluster.nodes[0].replicator.acts(), before);
        let began = cluster.clock;
        while acts_late(&cluster, 0) {
            assert!(answers || cluster.clock.since(began) < 150);
            cluster.turn();
        }
        assert!(answers == (cluster.clock.since(began) < 50));
        assert_eq!(cluster.copy_at(2, KEY), None);
    }
}

#[test]
fn a_deposed_primary_confirms_no_write_of_its_heir_while_its_copies_are_alive() {
    let mut cluster = holding();
    stall(&mut cluster, 2, 0);
    cluster.topology.apply(&Command::Down { node: NodeIndex(0), incarnation: Incarnation(1) });
    cluster.tell_unsettled(1);
    cluster.tell_unsettled(0);
    let ticket = cluster.set_at(1, KEY, "two");
    while cluster.copy_at(2, KEY).is_some() {
        assert!(!cluster.is_done(1, ticket), "somebody reads what was");
        cluster.turn();
    }
    cluster.pass(100);
    assert!(cluster.is_done(1, ticket));
}

#[test]
fn a_holder_that_becomes_a_replica_begins_without_the_copy() {
    let mut cluster = holding();
    stall(&mut cluster, 2, 0);
    let partition = cluster.partition(KEY);
    let step = cluster::change::Step::Add(NodeIndex(2));
    cluster.topology.apply(&Command::Steps(vec![(partition, step)]));
    cluster.tell(2);
    assert_eq!(cluster.value_at(2, KEY), None, "whatever is stored now, it is a replica's");
    cluster.tell(0);
    cluster.set(KEY, "two");
    cluster.links.get_mut(&(2, 0)).unwrap().cut = false;
    cluster.settle();
    assert_eq!(cluster.value_at(2, KEY).as_deref(), Some("two"));
    cluster.begin();
    assert_eq!(cluster.route(2, KEY, Access::Read), Route::Here);
}

#[test]
fn an_evicted_copy_is_asked_for_again() {
    let mut cluster = holding();
    let hash = cluster.hash(KEY);
    cluster.nodes[2].shard.unlink_key(KEY.as_bytes(), hash, NOW);
    assert_eq!(cluster.copy_at(2, KEY), None);
    cluster.nodes[2].replicator.copy_is_missing(hash);
    cluster.settle();
    assert_eq!(cluster.copy_at(2, KEY).as_deref(), Some("one"));
    assert_eq!(cluster.nodes[2].replicator.counters().copied, 2);
}

#[test]
fn what_is_shown_to_other_cores_is_withdrawn_before_a_write_is_answered() {
    let mut cluster = holding();
    cluster.pass(50);
    let hash = cluster.hash(KEY);
    let taken = |cluster: &mut Cluster, node: usize| {
        cluster.nodes[node].replicator.withdrawn().collect::<Vec<_>>()
    };
    for node in 0..3 {
        assert!(cluster.nodes[node].replicator.may_show(hash, cluster.clock).is_some());
        cluster.nodes[node].replicator.show(hash);
    }
    assert!(cluster.nodes[3].replicator.may_show(hash, cluster.clock).is_none());
    let ticket = cluster.set(KEY, "two");
    assert_eq!(taken(&mut cluster, 0), [hash]);
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    assert_eq!(taken(&mut cluster, 1), [hash]);
    assert_eq!(taken(&mut cluster, 2), [hash]);
    // Each has seen the write, and may show that.
    for node in 0..3 {
        assert!(cluster.nodes[node].replicator.may_show(hash, cluster.clock).is_some());
    }
    cluster.nodes[1].replicator.show(hash);
    cluster.suspend(1, 7);
    assert_eq!(taken(&mut cluster, 1), [hash]);
    assert!(cluster.nodes[1].replicator.may_show(hash, cluster.clock).is_none());
}
