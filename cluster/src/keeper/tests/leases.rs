//! Who gets a lease, and what is settled when.

use super::*;
use crate::change::Step;

#[test]
fn a_lease_needs_all_four_conditions() {
    let mut house = House::new(3);
    let latest = house.topology.revision();
    let good = house.beat(1, latest);
    let reply = house.hear(READY, &good);
    assert!(reply.lease);
    assert_eq!((reply.sent, reply.latest), (Millis(77), latest));
    // An unknown node, and another life of a known one.
    assert!(!house.hear(READY, &Beat { name: "stranger".into(), ..good.clone() }).lease);
    assert!(!house.hear(READY, &Beat { incarnation: Incarnation(2), ..good.clone() }).lease);
    // A core that stands still.
    assert!(!house.hear(READY, &Beat { healthy: false, ..good.clone() }).lease);
    // A fence that it has not confirmed.
    let fence = house.topology.member(NodeIndex(1)).unwrap().fence;
    assert!(fence > Revision(0));
    let before = Revision(fence.0 - 1);
    assert!(!house.hear(READY, &Beat { confirmed: before, ..good.clone() }).lease);
    assert!(house.hear(READY, &Beat { confirmed: fence, ..good.clone() }).lease);
    // A leader that may have been deposed.
    let leader_at = Millis(READY + 1 - house.timing.leadership_ms);
    let mut ask =
        |leader_at| house.keeper.on_beat(Millis(READY), &house.topology, leader_at, &good).lease;
    assert!(ask(leader_at));
    assert!(!ask(Millis(leader_at.0 - 1)));
    // A node that is down.
    house.apply(Command::Down { node: NodeIndex(1), incarnation: LIFE });
    let beat = house.beat(1, house.topology.revision());
    assert!(!house.hear(READY, &beat).lease);
}

#[test]
fn a_member_that_never_confirms_is_waited_out_for_exactly_its_lease() {
    let mut house = House::new(3);
    house.all_beat(READY, 0..3);
    house.tick(READY);
    let before = house.topology.revision();
    assert_eq!(house.keeper.settled(), before);
    let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
    // The others are not asked for anything: nothing was taken from them.
    let until = READY + house.lease_in_books_ms();
    for now in READY..until {
        house.tick(now);
        assert_eq!(house.keeper.settled(), before, "at {now}");
    }
    house.tick(until);
    assert!(house.keeper.settled() >= fenced);
}

#[test]
fn a_member_that_confirms_settles_at_once() {
    let mut house = House::new(3);
    house.all_beat(READY, 0..3);
    let before = house.topology.revision();
    let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
    let beat = house.beat(0, before);
    assert_eq!(house.hear(READY + 1, &beat).settled, before);
    let beat = house.beat(2, fenced);
    assert_eq!(house.hear(READY + 2, &beat).settled, fenced);
}

#[test]
fn a_second_fence_does_not_hide_the_first() {
    let mut house = House::new(4);
    house.all_beat(READY, 0..4);
    let before = house.topology.revision();
    let down = Command::Down { node: NodeIndex(2), incarnation: LIFE };
    let first = house.apply(down.clone());
    house.apply(Command::Up { node: NodeIndex(2), incarnation: LIFE });
    let second = house.apply(down);
    house.tick(READY);
    assert_eq!(house.keeper.settled(), before);
    let beat = house.beat(2, first);
    house.hear(READY, &beat);
    assert_eq!(house.keeper.settled(), first);
    let beat = house.beat(2, second);
    house.hear(READY, &beat);
    assert_eq!(house.keeper.settled(), second);
}

#[test]
fn an_earlier_life_and_a_node_that_left_are_waited_out() {
    let mut house = House::new(4);
    house.all_beat(READY, 0..4);
    let before = house.topology.revision();
    let restart = Command::Join(introduction(1, Incarnation(2)));
    let joined = house.apply(restart);
    // The new life confirms; the old one may still serve.
    let beat = Beat { incarnation: Incarnation(2), ..house.beat(1, joined) };
    assert!(house.hear(READY + 1, &beat).lease);
    assert_eq!(house.keeper.settled(), before);
    let until = READY + house.lease_in_books_ms();
    house.tick(until - 1);
    assert_eq!(house.keeper.settled(), before);
    house.tick(until);
    assert_eq!(house.keeper.settled(), joined);

    let beat = house.beat(3, joined);
    assert!(house.hear(until, &beat).lease);
    let steps = house.topology.partitions().filter_map(|(partition, owners)| {
        let other = owners.copies().iter().find(|node| **node != NodeIndex(3))?;
        owners.position(NodeIndex(3)).map(|_| (partition, *other))
    });
    let steps = steps.flat_map(|(partition, other)| {
        [(partition, Step::HandOver(other)), (partition, Step::Drop(NodeIndex(3)))]
    });
    let steps: Vec<_> = steps.collect();
    house.apply(Command::Steps(steps));
    house.topology.apply(&Command::Down { node: NodeIndex(3), incarnation: LIFE });
    house.topology.apply(&Command::Abandon { node: NodeIndex(3) });
    let left = house.apply(Command::Leave { node: NodeIndex(3) });
    house.tick(until + 1);
    assert_eq!(house.keeper.settled(), joined);
    house.tick(until + house.lease_in_books_ms());
    assert_eq!(house.keeper.settled(), left);
}

#[test]
fn a_new_keeper_waits_out_what_its_predecessor_granted() {
    let mut house = House::new(3);
    // The old one asked a quorum at 1,000, and was deposed right after.
    let asked_at = Millis(1_000);
    let beat = house.beat(2, house.topology.revision());
    let seen = house.topology.clone();
    let limits = Limits::default();
    let now = Millis(1_001);
    let mut new = Keeper::new(now, now, house.timing.clone(), limits, keeping(2, 1), &seen);
    // It goes on for as long as it may.
    let last = asked_at.plus(house.timing.leadership_ms - 1);
    assert!(house.keeper.on_beat(last, &seen, asked_at, &beat).lease);
    assert!(!house.keeper.on_beat(last.plus(1), &seen, asked_at, &beat).lease);
    let lease_ends = last.plus(house.timing.lease_ms);
    // The new one moves everything away from that node.
    let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
    let mut now = now;
    for node in [0, 1] {
        new.on_beat(now, &house.topology, now, &house.beat(node, seen.revision()));
    }
    loop {
        new.tick(now, &house.topology, &mut Vec::new());
        if new.settled() >= fenced {
            break;
        }
        now = now.plus(1);
    }
    assert!(now >= lease_ends, "settled at {now:?}, the lease ran until {lease_ends:?}");
    assert_eq!(now, Millis(1_001).plus(house.timing.inheritance_ms()));
}

#[test]
fn the_node_of_the_keeper_before_is_waited_out_for_the_rest_of_its_leadership() {
    let mut house = House::new(3);
    house.run(READY, READY + 100, 0..3);
    // The keeper died with its node; another node has everything it knew.
    house.succeed(READY + 350, 1);
    let fenced = house.apply(Command::Down { node: NodeIndex(0), incarnation: LIFE });
    house.all_beat(READY + 351, 1..3);
    let until = READY + 350 + house.timing.succession_ms();
    house.tick(until - 1);
    assert!(house.keeper.settled() < fenced);
    house.tick(until);
    assert!(house.keeper.settled() >= fenced);
    assert!(house.timing.succession_ms() < house.timing.lease_ms);
    // Another life of that node may have got its lease from anybody.
    let joined = house.apply(Command::Join(introduction(0, Incarnation(2))));
    house.elect(until, 2);
    house.all_beat(until, 1..3);
    house.tick(until + house.timing.inheritance_ms() - 1);
    assert!(house.keeper.settled() < joined);
    house.tick(until + house.timing.inheritance_ms());
    assert!(house.keeper.settled() >= joined);
}

#[test]
fn leases_of_the_keeper_before_count_from_the_last_moment_it_can_have_been_confirmed() {
    let mut house = House::new(3);
    house.run(READY, READY + 100, 0..3);
    // Its voters heard of nobody for longer than a leadership lasts.
    let vacant_since = READY + 100;
    let elected = vacant_since + house.timing.succession_ms() + 50;
    house.elect_after(vacant_since, elected, 1);
    house.apply(keep(house.term, 1, house.topology.settled()));
    let fenced = house.apply(Command::Down { node: NodeIndex(0), incarnation: LIFE });
    house.all_beat(elected, 1..3);
    house.tick(elected);
    assert!(house.keeper.settled() >= fenced, "nothing is left of the past keeper's leadership");
    // Other nodes may have a whole lease from its last moment.
    house.elect_after(vacant_since, elected, 1);
    house.apply(keep(house.term, 1, house.topology.settled()));
    let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
    let until = vacant_since + house.timing.inheritance_ms();
    house.all_beat(until - 1, 1..2);
    house.tick(until - 1);
    assert!(house.keeper.settled() < fenced);
    house.tick(until);
    assert!(house.keeper.settled() >= fenced);
}

#[test]
fn who_is_known_to_be_dead_is_not_waited_for_again() {
    let mut house = House::new(4);
    house.run(READY, READY + 100, 0..4);
    house.apply(Command::Down { node: NodeIndex(3), incarnation: LIFE });
    house.all_beat(READY + 100, 0..3);
    // It is said when its lease is over, and not before.
    assert_eq!(house.said(READY + 110), None);
    let over = READY + 100 + house.lease_in_books_ms();
    let command = house.said(over).expect("its lease is over");
    house.apply(command);
    assert!(house.topology.settled() >= house.topology.member(NodeIndex(3)).unwrap().fence);
    house.succeed(over, 1);
    let latest = house.topology.revision();
    house.all_beat(over, 0..3);
    assert_eq!(house.keeper.settled(), latest, "all that live have confirmed it");
}

#[test]
fn a_keeper_grants_nothing_before_it_is_known_to_keep() {
    let mut house = House::new(3);
    house.elect(READY, 1);
    let beat = house.beat(2, house.topology.revision());
    assert!(!house.hear(READY, &beat).lease);
    let mut effects = Vec::new();
    house.keeper.tick(Millis(READY), &house.topology, &mut effects);
    let first = keep(2, 1, house.topology.settled());
    assert!(effects.contains(&Effect::Propose(first.clone())), "{effects:?}");
    house.apply(first);
    assert!(house.hear(READY, &beat).lease);
    // What the one before wanted to say comes late.
    let late = house.topology.apply(&keep(1, 0, house.topology.revision()));
    assert_eq!(late, Outcome::Refused(crate::change::Refusal::Superseded));
}

#[test]
fn a_keeper_with_a_shorter_lease_waits_for_the_longer_ones_and_so_does_its_successor() {
    let mut house = House::new(4);
    house.run(READY, READY + 100, 0..4);
    let long = house.timing.clone();
    house.timing.lease_ms = 150;
    // The second keeper has hardly begun when the third one follows.
    for (at, node) in [(READY + 100, 1), (READY + 150, 2)] {
        house.elect(at, node);
        let said = house.said(at).expect("it begins");
        house.apply(said);
        assert_eq!(house.topology.keeping().unwrap().lease_ms, long.lease_ms);
    }
    let fenced = house.apply(Command::Down { node: NodeIndex(3), incarnation: LIFE });
    house.all_beat(READY + 150, 0..3);
    let until = READY + 150 + long.inheritance_ms();
    house.tick(until - 1);
    assert!(house.keeper.settled() < fenced, "the first keeper's lease may run");
    house.all_beat(until, 0..3);
    let said = house.said(until).expect("the longer leases are over");
    assert!(house.keeper.settled() >= fenced);
    house.apply(said);
    assert_eq!(house.topology.keeping().unwrap().lease_ms, 150, "from now on it is shorter");
}
