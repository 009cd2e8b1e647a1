//! What clients may rely on while nodes come, go and fall behind.

mod fixture;

use cluster::change::{Command, Step};
use cluster::replication::{Access, Effect, Limits, Route};
use cluster::ring::Partition;
use cluster::time::Millis;
use cluster::topology::{Introduction, NodeIndex};
use fixture::{Cluster, down, introduction, up};

fn pair() -> Cluster {
    let mut cluster = Cluster::new(2, Limits::default(), |partition| {
        let first = (partition % 2) as u16;
        vec![first, 1 - first]
    });
    cluster.settle();
    cluster
}

/// Keys whose primary is `node`.
fn keys(cluster: &Cluster, node: usize, count: usize) -> Vec<String> {
    (0..)
        .map(|n| format!("key:{n}"))
        .filter(|key| cluster.primary(key) == node)
        .take(count)
        .collect()
}

/// Of keys that were there before, every third one was written meanwhile, and the next
/// one deleted.
#[track_caller]
fn assert_thirds(cluster: &mut Cluster, node: usize, keys: &[String]) {
    for (number, key) in keys.iter().enumerate() {
        let expected = [Some("meanwhile"), None, Some("before")][number % 3];
        cluster.assert_holds(node, key, expected);
    }
}

#[test]
fn a_write_is_answered_when_the_replica_has_it() {
    let mut cluster = pair();
    let key = &keys(&cluster, 0, 1)[0];
    cluster.assert_whole();
    let ticket = cluster.set(key, "one");
    assert!(ticket.is_some() && !cluster.is_done(0, ticket), "it waits for the replica");
    assert!(cluster.nodes[0].replicator.is_pending(cluster.hash(key)), "and so do its readers");
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    assert!(!cluster.nodes[0].replicator.is_pending(cluster.hash(key)));
    cluster.assert_holds(1, key, Some("one"));
    let ticket = cluster.delete(key);
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    cluster.assert_holds(1, key, None);
}

#[test]
fn requests_go_to_the_primary_and_reads_to_any_in_sync_copy() {
    let mut cluster = pair();
    cluster.begin();
    let key = &keys(&cluster, 0, 1)[0];
    assert_eq!(cluster.route(0, key, Access::Write), Route::Here);
    assert_eq!(cluster.route(1, key, Access::Write), Route::At(NodeIndex(0)));
    assert_eq!(cluster.route(1, key, Access::Read), Route::Here);
    // Without a lease nobody answers for what it holds.
    let past = cluster.clock;
    for node in &mut cluster.nodes {
        node.replicator.set_lease(past);
    }
    assert_eq!(cluster.route(0, key, Access::Read), Route::Wait);
    assert_eq!(cluster.route(1, key, Access::Read), Route::At(NodeIndex(0)));
}

#[test]
fn a_node_without_a_copy_reads_in_its_own_zone() {
    let mut cluster = Cluster::new(4, Limits::default(), |_| vec![0, 1]);
    for (node, zone) in [(0, "north"), (1, "south"), (2, "north"), (3, "south")] {
        let node = Introduction { zone: zone.into(), ..introduction(node, 1) };
        cluster.topology.apply(&Command::Join(node));
    }
    cluster.spread();
    cluster.settle();
    let [north, south] = [NodeIndex(0), NodeIndex(1)].map(Route::At);
    assert_eq!(cluster.route(2, "key", Access::Read), north);
    assert_eq!(cluster.route(3, "key", Access::Read), south);
    assert_eq!(cluster.route(3, "key", Access::Write), north);
    // Not from one that is out of sync, or down.
    cluster.change(&Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 });
    assert_eq!(cluster.route(3, "key", Access::Read), north);
    cluster.settle();
    assert_eq!(cluster.route(3, "key", Access::Read), south);
    cluster.change(&down(1));
    assert_eq!(cluster.route(3, "key", Access::Read), north);
}

#[test]
fn a_primary_whose_replica_is_silent_answers_only_when_it_is_excluded() {
    let mut cluster = pair();
    let key = &keys(&cluster, 0, 1)[0];
    cluster.cut(0, 1);
    let ticket = cluster.set(key, "alone");
    cluster.turns(60);
    assert!(!cluster.is_done(0, ticket));
    assert!(
        cluster.nodes[0]
            .effects
            .contains(&Effect::Suspect { node: NodeIndex(1), cannot_follow: false })
    );
    // Known, but perhaps not to everybody: the replica may still answer reads.
    let exclude = Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 };
    cluster.topology.apply(&exclude);
    let topology = std::sync::Arc::new(cluster.topology.clone());
    let clock = cluster.clock;
    let node = &mut cluster.nodes[0];
    node.replicator.set_topology(
        topology,
        Some(NodeIndex(0)),
        &mut node.shard,
        fixture::NOW,
        clock,
    );
    cluster.turn();
    assert!(!cluster.is_done(0, ticket));
    cluster.spread();
    cluster.turn();
    assert!(cluster.is_done(0, ticket));
    // Back again: it goes on from the log.
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_holds(1, key, Some("alone"));
    cluster.assert_whole();
    assert_eq!(cluster.nodes[0].replicator.counters().filled_items, 0, "no copy was needed");
}

#[test]
fn the_heir_has_every_answered_write_and_the_old_primary_forgets_the_others() {
    let mut cluster = pair();
    let mut keys = keys(&cluster, 0, 51);
    let new = keys.pop().unwrap();
    for key in &keys {
        cluster.set(key, "safe");
    }
    cluster.settle();
    cluster.cut(0, 1);
    let unsafe_ticket = cluster.set(&keys[0], "unsafe");
    cluster.set(&new, "unsafe");
    cluster.topology.apply(&down(0));
    // Only the heir hears of it. It goes on alone when the other is out.
    let exclude = Command::Exclude { primary: NodeIndex(1), replica: NodeIndex(0), keep: 1 };
    cluster.topology.apply(&exclude);
    cluster.tell(1);
    cluster.turn();
    assert_eq!(cluster.primary(&keys[0]), 1);
    cluster.assert_holds_all(1, &keys, "safe");
    let ticket = cluster.set(&keys[1], "later");
    assert!(cluster.is_done(1, ticket), "nobody else is in sync");
    assert!(!cluster.is_done(0, unsafe_ticket));
    // The old one comes back.
    cluster.heal(0, 1);
    cluster.change(&up(0));
    cluster.settle();
    assert_eq!(cluster.nodes[0].completed[&unsafe_ticket.unwrap()], [0], "nobody knows");
    cluster.assert_holds(0, &keys[0], Some("safe"));
    cluster.assert_holds(0, &keys[1], Some("later"));
    cluster.assert_holds(0, &new, None);
    cluster.assert_whole();
    assert_eq!(cluster.nodes[1].replicator.counters().filled_items, 0, "the log sufficed");
}

#[test]
fn writes_of_a_past_owner_are_refused() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.set(&key, "old");
    cluster.settle();
    cluster.topology.apply(&down(0));
    cluster.tell(1);
    // Node 0 has not heard of it, holds a lease in this test, and the link works.
    let ticket = cluster.set_at(0, &key, "from the past");
    cluster.turns(20);
    cluster.assert_holds(1, &key, Some("old"));
    assert!(cluster.nodes[1].replicator.counters().fenced > 0);
    assert_eq!(cluster.nodes[0].completed[&ticket.unwrap()], [0]);
}

#[test]
fn a_new_primary_serves_at_once_if_all_who_had_a_part_still_have_one() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.set(&key, "old");
    cluster.settle();
    cluster.topology.apply(&down(0));
    cluster.tell_unsettled(1);
    // The old one knows nothing, and answers what it has.
    assert_eq!(cluster.route(0, &key, Access::Read), Route::Here);
    assert_eq!(cluster.route(1, &key, Access::Read), Route::Here);
    let ticket = cluster.set_at(1, &key, "new");
    cluster.turns(5);
    assert!(!cluster.is_done(1, ticket), "the old one may still be asked");
    assert!(cluster.nodes[1].replicator.is_pending(cluster.hash(&key)));
    cluster.tell_unsettled(0);
    cluster.settle();
    assert!(cluster.is_done(1, ticket));
    cluster.assert_holds(0, &key, Some("new"));
}

#[test]
fn a_new_primary_waits_while_somebody_may_not_know_that_it_is_out() {
    let mut cluster = Cluster::new(3, Limits::default(), |_| vec![0, 1, 2]);
    cluster.settle();
    // The third copy is excluded, and may not have heard of it.
    cluster.topology.apply(&Command::Exclude {
        primary: NodeIndex(0),
        replica: NodeIndex(2),
        keep: 1,
    });
    cluster.tell_unsettled(1);
    cluster.topology.apply(&down(0));
    cluster.tell_unsettled(1);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Wait);
    let settled = cluster.topology.revision();
    cluster.nodes[1].replicator.set_settled(settled);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Here);
    // The same if both come at once.
    let mut cluster = Cluster::new(3, Limits::default(), |_| vec![0, 1, 2]);
    cluster.settle();
    cluster.topology.apply(&Command::Exclude {
        primary: NodeIndex(0),
        replica: NodeIndex(2),
        keep: 1,
    });
    cluster.topology.apply(&down(0));
    cluster.tell_unsettled(1);
    assert_eq!(cluster.route(1, "key", Access::Read), Route::Wait);
}

#[test]
fn what_else_is_not_settled_delays_no_heir_who_saw_that_its_partition_had_no_part_in_it() {
    let hand_over = |cluster: &mut Cluster, partition| {
        let steps = vec![(partition, Step::HandOver(NodeIndex(1)))];
        cluster.topology.apply(&Command::Steps(steps));
    };
    for saw in [true, false] {
        // Node 2 has a part in all but one partition.
        let mut cluster = Cluster::new(3, Limits::default(), |partition| match partition {
            0 => vec![0, 1],
            _ => vec![2, 0],
        });
        cluster.settle();
        let key = (0..).map(|at| at.to_string());
        let key = key.into_iter().find(|key| cluster.partition(key).0 == 0).unwrap();
        cluster.topology.apply(&down(2));
        if saw {
            cluster.tell_unsettled(1);
        }
        hand_over(&mut cluster, Partition(0));
        cluster.tell_unsettled(1);
        let route = if saw { Route::Here } else { Route::Wait };
        assert_eq!(cluster.route(1, &key, Access::Write), route);
    }
}

#[test]
fn a_new_primary_waits_if_its_predecessor_has_no_part_any_more() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.set(&key, "old");
    cluster.settle();
    // Another process of its name. The one before may still answer reads: no write
    // waits for it.
    cluster.topology.apply(&Command::Join(introduction(0, 2)));
    cluster.tell_unsettled(1);
    assert_eq!(cluster.route(0, &key, Access::Read), Route::Here);
    assert_eq!(cluster.route(1, &key, Access::Read), Route::Wait);
    let settled = cluster.topology.revision();
    cluster.nodes[1].replicator.set_settled(settled);
    assert_eq!(cluster.route(1, &key, Access::Read), Route::Here);
}

#[test]
fn a_node_that_starts_anew_is_filled_while_writes_go_on() {
    let mut cluster = pair();
    let (mine, theirs) = (keys(&cluster, 0, 300), keys(&cluster, 1, 300));
    for key in mine.iter().chain(&theirs) {
        cluster.set(key, "before");
    }
    cluster.settle();
    // Node 1 dies and comes back empty.
    cluster.cut(0, 1);
    cluster.change(&down(1));
    cluster.nodes[1] = fixture::TestNode::new(Limits::default(), 2);
    cluster.heal(0, 1);
    cluster.change(&Command::Join(introduction(1, 2)));
    for (number, key) in mine.iter().enumerate() {
        if number % 3 == 0 {
            cluster.set(key, "meanwhile");
        }
        if number % 3 == 1 {
            cluster.delete(key);
        }
        cluster.turn();
    }
    cluster.settle();
    assert_thirds(&mut cluster, 1, &mine);
    cluster.assert_holds_all(1, &theirs, "before");
    cluster.assert_whole();
    assert!(cluster.nodes[0].replicator.counters().filled_items > 0);
}

#[test]
fn a_write_is_answered_when_its_replica_is_filled_anew_and_nothing_else_is_written() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.cut(0, 1);
    let ticket = cluster.set(&key, "waits");
    // The replica starts again. Its life before may still serve: that is not
    // settled until it is filled.
    cluster.nodes[1] = fixture::TestNode::new(Limits::default(), 2);
    cluster.heal(0, 1);
    cluster.topology.apply(&Command::Join(introduction(1, 2)));
    cluster.tell_unsettled(0);
    cluster.tell_unsettled(1);
    assert!(!cluster.is_done(0, ticket));
    cluster.settle();
    cluster.assert_holds(1, &key, Some("waits"));
    assert!(cluster.is_done(0, ticket), "the replica has it, and serves");
}

/// Node 1 starts again, empty, and its fill is cut short after some turns.
fn half_filled(keys: &mut Vec<String>) -> Cluster {
    let limits = Limits { fill_bytes_max: 1_000, ..Limits::default() };
    let mut cluster = Cluster::new(2, limits, |_| vec![0, 1]);
    cluster.settle();
    keys.extend((0..300).map(|n| format!("key:{n}")));
    for key in keys.iter() {
        cluster.set(key, "before");
    }
    cluster.settle();
    cluster.nodes[1] = fixture::TestNode::new(limits, 2);
    cluster.cut(0, 1);
    cluster.change(&Command::Join(introduction(1, 2)));
    cluster.heal(0, 1);
    cluster.turns(8);
    let counters = cluster.nodes[0].replicator.counters();
    assert!((50..250).contains(&counters.filled_items), "{}", counters.filled_items);
    cluster.cut(0, 1);
    cluster
}

#[test]
fn a_fill_goes_on_where_its_link_broke() {
    let mut keys = Vec::new();
    let mut cluster = half_filled(&mut keys);
    // What is written meanwhile, before and behind the place that it had come to.
    for (number, key) in keys.iter().enumerate() {
        match number % 3 {
            0 => drop(cluster.set(key, "meanwhile")),
            1 => drop(cluster.delete(key)),
            _ => {}
        }
    }
    cluster.set("fresh", "meanwhile");
    cluster.heal(0, 1);
    cluster.settle();
    assert_thirds(&mut cluster, 1, &keys);
    cluster.assert_holds(1, "fresh", Some("meanwhile"));
    cluster.assert_whole();
    let counters = cluster.nodes[0].replicator.counters();
    assert_eq!((counters.fills, counters.fills_resumed), (2, 1), "the first was at the start");
    // The items of a step or two may have come twice.
    assert!(counters.filled_items < 350, "{}", counters.filled_items);
}

#[test]
fn a_fill_is_not_resumed_by_a_replica_that_has_started_again() {
    let mut keys = Vec::new();
    let mut cluster = half_filled(&mut keys);
    cluster.nodes[1] = fixture::TestNode::new(Limits::default(), 3);
    cluster.change(&Command::Join(introduction(1, 3)));
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_holds_all(1, &keys, "before");
    assert_eq!(cluster.nodes[0].replicator.counters().fills_resumed, 0);
}

#[test]
fn a_fill_is_not_resumed_where_the_log_has_lost_what_came_since() {
    let mut keys = Vec::new();
    let mut cluster = half_filled(&mut keys);
    let long = "x".repeat(100_000);
    for number in 0..300 {
        cluster.set(&format!("long:{}", number % 10), &long);
        cluster.delete(&format!("long:{}", number % 10));
    }
    for key in &keys {
        cluster.set(key, "after");
    }
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_holds_all(1, &keys, "after");
    cluster.assert_whole();
}

#[test]
fn what_a_replica_lost_during_a_fill_is_filled_anew() {
    let mut keys = Vec::new();
    let mut cluster = half_filled(&mut keys);
    let step = |step| Command::Steps((0..16).map(|at| (Partition(at), step)).collect());
    // The replica hears both, one after the other, and the primary neither in
    // between.
    cluster.topology.apply(&step(Step::Drop(NodeIndex(1))));
    cluster.tell(1);
    cluster.topology.apply(&step(Step::Add(NodeIndex(1))));
    cluster.spread();
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_holds_all(1, &keys, "before");
    cluster.assert_whole();
}

#[test]
fn a_replica_that_was_called_in_sync_in_the_middle_of_its_fill_is_filled_anew() {
    for link_breaks in [true, false] {
        let mut keys = Vec::new();
        let mut cluster = half_filled(&mut keys);
        if !link_breaks {
            cluster.heal(0, 1);
            cluster.turn();
        }
        // What somebody said of it before comes late, and counts by all the rules.
        let all = cluster.topology.partitions().map(|(at, owners)| (at, owners.epoch));
        let (partitions, known) = (all.collect(), cluster.topology.revision());
        cluster.change(&Command::InSync { node: NodeIndex(1), known, partitions });
        cluster.assert_whole();
        cluster.turn();
        assert!(
            cluster.nodes[0]
                .effects
                .contains(&Effect::Suspect { node: NodeIndex(1), cannot_follow: true })
        );
        cluster.change(&Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 });
        cluster.heal(0, 1);
        cluster.settle();
        cluster.assert_whole();
        cluster.assert_holds_all(1, &keys, "before");
    }
}

#[test]
fn a_log_that_is_too_short_means_a_fill() {
    let limits = Limits { log_bytes_max: 1 << 16, ..Limits::default() };
    let mut cluster = Cluster::new(2, limits, |_| vec![0, 1]);
    cluster.settle();
    let keys = keys(&cluster, 0, 200);
    for key in &keys {
        cluster.set(key, "before");
    }
    cluster.settle();
    cluster.cut(0, 1);
    cluster.change(&Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 });
    for _ in 0..20 {
        for key in &keys {
            cluster.set(key, &"x".repeat(300));
        }
    }
    cluster.delete(&keys[0]);
    cluster.heal(0, 1);
    cluster.settle();
    assert_eq!(cluster.value_at(1, &keys[0]), None, "deleted while it was away");
    assert_eq!(cluster.value_at(1, &keys[1]).map(|value| value.len()), Some(300));
    cluster.assert_whole();
    assert!(cluster.nodes[0].replicator.counters().filled_items > 0);
}

#[test]
fn a_hand_over_loses_nothing_and_fails_nothing() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    let partition = cluster.partition(&key);
    let ticket = cluster.set(&key, "one");
    cluster.nodes[0].replicator.pause(&[partition]);
    assert_eq!(cluster.route(0, &key, Access::Write), Route::Wait);
    assert_eq!(cluster.route(0, &key, Access::Read), Route::Here);
    assert!(!cluster.nodes[0].replicator.has_effects(), "a write is under way");
    cluster.settle();
    assert!(cluster.nodes[0].effects.contains(&Effect::Paused(vec![partition])));
    assert_eq!(cluster.nodes[0].completed[&ticket.unwrap()], [0u32; 0]);
    // Where none is, that is said at once.
    let other = keys(&cluster, 0, 16).into_iter().find(|key| cluster.partition(key) != partition);
    let other = cluster.partition(&other.unwrap());
    cluster.nodes[0].replicator.pause(&[other]);
    assert!(
        cluster.nodes[0].replicator.effects().any(|effect| effect == Effect::Paused(vec![other]))
    );
    cluster.change(&Command::Steps(vec![(partition, Step::HandOver(NodeIndex(1)))]));
    assert_eq!(cluster.route(0, &key, Access::Write), Route::At(NodeIndex(1)));
    let ticket = cluster.set(&key, "two");
    cluster.settle();
    assert!(cluster.is_done(1, ticket));
    cluster.assert_holds(0, &key, Some("two"));
}

#[test]
fn a_copy_moves_to_a_third_node_and_the_old_one_drops_it() {
    let mut cluster = Cluster::new(3, Limits::default(), |_| vec![0, 1]);
    cluster.settle();
    let keys = keys(&cluster, 0, 200);
    for key in &keys {
        cluster.set(key, "value");
    }
    cluster.settle();
    let partition = cluster.partition(&keys[0]);
    cluster.change(&Command::Steps(vec![(partition, Step::Add(NodeIndex(2)))]));
    cluster.settle();
    assert_eq!(cluster.topology.owners(partition).in_sync(), 3);
    cluster.change(&Command::Steps(vec![(partition, Step::Drop(NodeIndex(1)))]));
    cluster.settle();
    for key in &keys {
        let moved = cluster.partition(key) == partition;
        assert_eq!(cluster.value_at(1, key).is_none(), moved, "{key}");
        assert_eq!(cluster.value_at(2, key).is_some(), moved, "{key}");
    }
}

#[test]
fn a_node_full_of_other_things_is_filled_without_a_walk_over_them() {
    let limits = Limits { purge_items_max: 1, ..Default::default() };
    let mut cluster = Cluster::new(3, limits, |at| if at == 0 { vec![0, 1] } else { vec![0, 2] });
    cluster.settle();
    for key in &keys(&cluster, 0, 1000) {
        cluster.set(key, "value");
    }
    cluster.settle();
    // A link that waits for a walk holds up all that is behind, for as many turns
    // as there are items.
    let add = Command::Steps(vec![(Partition(0), Step::Add(NodeIndex(2)))]);
    cluster.change(&add);
    cluster.turns(100);
    assert!(cluster.topology.owners(Partition(0)).is_in_sync(NodeIndex(2)));
}

#[test]
fn with_three_copies_the_survivors_agree_on_what_came_last() {
    let mut cluster = Cluster::new(3, Limits::default(), |_| vec![0, 1, 2]);
    cluster.begin();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.set(&key, "safe");
    cluster.settle();
    // The last write reaches node 2 alone.
    cluster.cut(0, 1);
    cluster.set(&key, "half");
    cluster.turn();
    cluster.turn();
    cluster.assert_holds(2, &key, Some("half"));
    cluster.cut(0, 2);
    cluster.change(&down(0));
    assert_eq!(cluster.primary(&key), 1);
    assert_eq!(cluster.route(2, &key, Access::Read), Route::At(NodeIndex(1)), "it is not sure");
    cluster.change(&Command::Exclude { primary: NodeIndex(1), replica: NodeIndex(0), keep: 1 });
    cluster.settle();
    cluster.assert_holds(1, &key, Some("safe"));
    cluster.assert_holds(2, &key, Some("safe"));
    assert_eq!(cluster.route(2, &key, Access::Read), Route::Here);
}

#[test]
fn a_machine_may_have_been_up_for_years() {
    let mut cluster = pair();
    cluster.nodes[0].replicator.tick(Millis(1 << 44));
}

#[test]
fn a_replica_that_had_caught_up_and_was_excluded_catches_up_again() {
    let mut cluster = pair();
    let exclude = Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 };
    cluster.proposals_get_lost = true;
    cluster.change(&exclude);
    cluster.settle();
    assert!(cluster.topology.partitions().any(|(_, owners)| owners.in_sync() == 1));
    // What it said before does not count any more.
    cluster.proposals_get_lost = false;
    cluster.change(&exclude);
    cluster.settle();
    cluster.assert_whole();
}

#[test]
fn nobody_is_told_a_value_that_may_not_last() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.cut(0, 1);
    cluster.set(&key, "unsafe");
    let reader = cluster.get_at(0, &key).unwrap();
    cluster.change(&down(0));
    cluster.turn();
    assert_eq!(cluster.nodes[0].completed[&reader], [0]);
}

#[test]
fn a_refused_write_is_forgotten_when_its_node_hears_why() {
    let mut cluster = pair();
    let [key, other] = <[String; 2]>::try_from(keys(&cluster, 0, 2)).unwrap();
    cluster.set(&key, "old");
    cluster.settle();
    cluster.set(&other, "later, so that the first is known to be everywhere");
    cluster.settle();
    cluster.topology.apply(&down(0));
    cluster.tell(1);
    cluster.set_at(0, &key, "from the past");
    cluster.turns(20);
    assert!(cluster.nodes[1].replicator.counters().fenced > 0);
    assert_eq!(cluster.route(0, &key, Access::Read), Route::Wait, "it knows as much by now");
    cluster.change(&up(0));
    cluster.settle();
    cluster.assert_holds(0, &key, Some("old"));
}

#[test]
fn writes_wait_while_an_excluded_replica_may_still_answer_reads() {
    let mut cluster = pair();
    cluster.begin();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.set(&key, "old");
    cluster.settle();
    cluster.cut(0, 1);
    let exclude = Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 };
    cluster.topology.apply(&exclude);
    cluster.tell_unsettled(0);
    // The replica knows nothing of it, and would say "old".
    assert_eq!(cluster.route(1, &key, Access::Read), Route::Here);
    let ticket = cluster.set(&key, "new");
    cluster.turn();
    assert!(!cluster.is_done(0, ticket));
    cluster.spread();
    cluster.turn();
    assert!(cluster.is_done(0, ticket));
    // The same where it is no copy any more, and has a link or not.
    cluster.heal(0, 1);
    for cut in [false, true] {
        let partition = cluster.partition(&key);
        let add = Command::Steps(vec![(partition, Step::Add(NodeIndex(1)))]);
        cluster.change(&add);
        cluster.settle();
        if cut {
            cluster.cut(0, 1);
        }
        cluster.topology.apply(&Command::Steps(vec![(partition, Step::Drop(NodeIndex(1)))]));
        cluster.tell_unsettled(0);
        assert_eq!(cluster.route(1, &key, Access::Read), Route::Here);
        let ticket = cluster.set(&key, "newest");
        cluster.turns(5);
        let same = cluster.value_at(0, &key) == cluster.value_at(1, &key);
        assert!(same || !cluster.is_done(0, ticket));
        cluster.spread();
        cluster.settle();
        assert!(cluster.is_done(0, ticket));
    }
}

#[test]
fn what_is_not_known_to_be_everywhere_is_read_at_the_primary() {
    let mut cluster = Cluster::new(3, Limits::default(), |_| vec![0, 1, 2]);
    cluster.begin();
    let key = keys(&cluster, 0, 1)[0].clone();
    assert_eq!(cluster.route(1, &key, Access::Read), Route::Here);
    cluster.cut(0, 2);
    cluster.set(&key, "half");
    cluster.turns(5);
    cluster.assert_holds(1, &key, Some("half"));
    assert_eq!(cluster.route(1, &key, Access::Read), Route::At(NodeIndex(0)));
    cluster.heal(0, 2);
    cluster.settle();
    for node in 0..3 {
        assert_eq!(cluster.route(node, &key, Access::Read), Route::Here);
    }
}

#[test]
fn a_question_outlives_its_link() {
    let mut cluster = pair();
    let [key, other] = <[String; 2]>::try_from(keys(&cluster, 0, 2)).unwrap();
    cluster.set(&key, "safe");
    cluster.settle();
    cluster.set(&other, "later, so that the first is known to be everywhere");
    cluster.settle();
    cluster.cut(0, 1);
    cluster.set(&key, "unsafe");
    cluster.change(&down(0));
    cluster.change(&up(0));
    // Node 0 asks node 1, and the link breaks before the answer.
    cluster.proposals_get_lost = true;
    cluster.heal(0, 1);
    for turns in 1..12 {
        cluster.turns(turns);
        cluster.cut(0, 1);
        cluster.heal(0, 1);
    }
    cluster.proposals_get_lost = false;
    let exclude = Command::Exclude { primary: NodeIndex(1), replica: NodeIndex(0), keep: 1 };
    cluster.change(&exclude);
    cluster.settle();
    cluster.assert_holds(0, &key, Some("safe"));
    cluster.assert_whole();
}

#[test]
fn a_copy_that_went_and_came_back_is_filled_even_if_its_primary_saw_neither() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    cluster.set(&key, "value");
    cluster.settle();
    let partition = cluster.partition(&key);
    let (drop, add) = (Step::Drop(NodeIndex(1)), Step::Add(NodeIndex(1)));
    cluster.topology.apply(&Command::Steps(vec![(partition, drop)]));
    cluster.tell(1);
    while cluster.value_at(1, &key).is_some() {
        cluster.turn();
    }
    cluster.change(&Command::Steps(vec![(partition, add)]));
    cluster.settle();
    assert!(cluster.topology.owners(partition).is_in_sync(NodeIndex(1)));
    cluster.assert_holds(1, &key, Some("value"));
}

#[test]
fn a_primary_that_was_another_for_a_moment_gives_its_state_once_more() {
    let mut cluster = pair();
    let key = keys(&cluster, 0, 1)[0].clone();
    let partition = cluster.partition(&key);
    cluster.set(&key, "old");
    cluster.settle();
    // To node 1 and back. Node 0 only hears of the end, node 1 of all.
    for to in [1, 0] {
        let step = Step::HandOver(NodeIndex(to));
        cluster.topology.apply(&Command::Steps(vec![(partition, step)]));
        cluster.tell(1);
    }
    let ticket = cluster.set_at(0, &key, "between").unwrap();
    cluster.turns(20);
    cluster.tell(0);
    cluster.settle();
    assert_eq!(cluster.nodes[0].completed[&ticket], [0], "nobody knows");
    assert_eq!(cluster.value_at(0, &key), cluster.value_at(1, &key));
}

/// Seed 649 of the simulator, when it began to grant copies.
#[test]
fn a_write_that_was_in_the_fill_is_answered_though_nothing_is_written_after_it() {
    let mut cluster = pair();
    let key = &keys(&cluster, 0, 1)[0];
    cluster.cut(0, 1);
    let ticket = cluster.set(key, "one");
    // Its replica goes, and comes back empty, before anything of that is settled.
    cluster.topology.apply(&down(1));
    cluster.tell_unsettled(0);
    cluster.topology.apply(&Command::Join(introduction(1, 2)));
    cluster.nodes[1] = fixture::TestNode::new(Limits::default(), 2);
    cluster.tell_unsettled(0);
    cluster.tell(1);
    cluster.heal(0, 1);
    cluster.settle();
    cluster.assert_holds(1, key, Some("one"));
    assert!(cluster.is_done(0, ticket));
}

#[test]
fn what_partitions_lack_is_filled_before_copies_that_only_move() {
    let limits = Limits { fill_bytes_max: 1_000, ..Limits::default() };
    let mut cluster = Cluster::new(3, limits, |_| vec![0, 1]);
    cluster.settle();
    let keys: Vec<String> = (0..300).map(|n| format!("key:{n}")).collect();
    for key in &keys {
        cluster.set(key, "value");
    }
    cluster.settle();
    let partitions: Vec<Partition> = cluster.topology.partitions().map(|(at, _)| at).collect();
    let add = |at: &Partition| (*at, Step::Add(NodeIndex(2)));
    cluster.change(&Command::Steps(partitions.iter().map(add).collect()));
    cluster.turns(4);
    // Node 1 starts again, empty, while node 2 is being filled.
    cluster.nodes[1] = fixture::TestNode::new(limits, 2);
    cluster.cut(0, 1);
    cluster.change(&Command::Join(introduction(1, 2)));
    cluster.heal(0, 1);
    let in_sync = |cluster: &Cluster, node| {
        let mut all = cluster.topology.partitions();
        all.all(|(_, owners)| owners.is_in_sync(NodeIndex(node)))
    };
    while !in_sync(&cluster, 1) {
        assert!(cluster.turn(), "node 1 is not filled");
        assert!(!in_sync(&cluster, 2), "the copies that move came first");
    }
    cluster.settle();
    cluster.assert_holds_all(2, &keys, "value");
}
