//! Who is down, up and given up, and what is planned.

use super::*;
use crate::change::Step;
use crate::planning::HAND_OVERS_PER_PRIMARY_MAX;

#[test]
fn silence_makes_down_and_a_beat_that_knows_it_makes_up() {
    let mut house = House::new(3);
    let effects = house.run(READY, READY + 1_000, 0..3);
    assert_eq!(effects, []);
    let last = READY + 950;
    let effects = house.run(last + 50, last + 300, 0..2);
    assert_eq!(effects, []);
    house.all_beat(last + 300, 0..2);
    assert_eq!(house.tick(last + 300), [down(2)]);
    // It does not ask again while that is under way.
    assert_eq!(house.run(last + 350, last + 600, 0..2), []);
    house.all_beat(last + 600, 0..2);
    assert_eq!(house.tick(last + 600), [down(2)]);
    let before = house.topology.revision();
    let revision = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
    // A beat that does not know of it was late.
    let late = house.beat(2, before);
    house.hear(last + 650, &late);
    house.all_beat(last + 650, 0..2);
    assert_eq!(house.tick(last + 650), []);
    let knowing = house.beat(2, revision);
    assert!(!house.hear(last + 660, &knowing).lease);
    assert_eq!(house.tick(last + 660), [up(2)]);
    house.apply(Command::Up { node: NodeIndex(2), incarnation: LIFE });
    let beat = house.beat(2, revision);
    assert!(house.hear(last + 670, &beat).lease);
}

#[test]
fn an_unhealthy_or_refused_node_is_down_at_once() {
    let mut house = House::new(4);
    house.run(READY, READY + 100, 0..4);
    let beat = Beat { healthy: false, ..house.beat(1, house.topology.revision()) };
    house.hear(READY + 110, &beat);
    house.keeper.on_refused(NodeIndex(3));
    assert_eq!(house.tick(READY + 110), [down(1), down(3)]);
}

#[test]
fn a_keeper_that_does_not_run_declares_nobody_dead() {
    let mut house = House::new(3);
    assert_eq!(house.run(READY, READY + 100, 0..3), []);
    // It sleeps again and again for longer than a node may be silent; what the nodes
    // sent meanwhile is not read yet when it looks at the time.
    let mut now = READY + 100;
    for _ in 0..5 {
        now += 400;
        assert_eq!(house.tick(now), []);
        house.all_beat(now, 0..3);
    }
    // Who is silent while it runs is dead, its own node too.
    let effects = house.run(now, now + 350, 0..0);
    assert_eq!(effects, [down(0), down(1), down(2)]);
}

#[test]
fn a_suspect_that_is_silent_here_too_is_probed() {
    let mut house = House::new(3);
    house.run(READY, READY + 100, 0..3);
    let beat = Beat { suspects: vec![NodeIndex(2)], ..house.beat(0, house.topology.revision()) };
    house.hear(READY + 100, &beat);
    // It was heard of 50 ms ago.
    assert_eq!(house.tick(READY + 100), []);
    assert_eq!(house.tick(READY + 150), []);
    house.hear(READY + 160, &beat);
    assert_eq!(house.tick(READY + 160), [Effect::Probe(NodeIndex(2))]);
    assert_eq!(house.tick(READY + 170), []);
}

#[test]
fn a_new_keeper_gives_nodes_time_to_find_it() {
    let mut house = House::new(3);
    house.succeed(READY, 1);
    for now in (READY..READY + 300).step_by(50) {
        assert_eq!(house.tick(now), [], "at {now}");
    }
    assert_eq!(house.tick(READY + 300), [down(0), down(1), down(2)]);
}

#[test]
fn a_keeper_that_slept_does_not_blame_the_others() {
    let mut house = House::new(3);
    house.run(READY, READY + 100, 0..3);
    assert_eq!(house.tick(READY + 2_000), []);
    assert_eq!(house.run(READY + 2_050, READY + 3_000, 0..3), []);
}

#[test]
fn the_dead_keep_their_place_are_replaced_and_given_up() {
    let mut house = House::new(4);
    house.run(READY, READY + 100, 0..4);
    house.apply(Command::Down { node: NodeIndex(3), incarnation: LIFE });
    let dead_at = READY + 100;
    // A restart would be quicker than that: nothing moves.
    let effects = house.run(dead_at, dead_at + 35_000, 0..3);
    let steps = |effects: &[Effect]| {
        let is_step = |effect: &&Effect| matches!(effect, Effect::Propose(Command::Steps(_)));
        effects.iter().filter(is_step).count()
    };
    assert_eq!(steps(&effects), 0);
    let effects = house.run(dead_at + 35_000, dead_at + 35_100, 0..3);
    assert_eq!(steps(&effects), 1);
    let abandon = Effect::Propose(Command::Abandon { node: NodeIndex(3) });
    let effects = house.run(dead_at + 35_100, dead_at + 60_000, 0..3);
    assert!(!effects.contains(&abandon));
    let effects = house.run(dead_at + 60_000, dead_at + 60_050, 0..3);
    assert_eq!(effects.iter().filter(|effect| **effect == abandon).count(), 1);
    house.apply(Command::Abandon { node: NodeIndex(3) });
    // There is nothing left to give up.
    assert!(!house.run(dead_at + 60_050, dead_at + 62_000, 0..3).contains(&abandon));
}

#[test]
fn steps_wait_for_those_before_them() {
    let mut house = House::new(3);
    house.run(READY - 400, READY + 100, 0..3);
    house.apply(Command::Join(introduction(3, LIFE)));
    let all = |house: &mut House, from, until| house.run(from, until, 0..4);
    let first = all(&mut house, READY + 100, READY + 150);
    let Effect::Propose(Command::Steps(steps)) = &first[0] else { panic!("{first:?}") };
    assert_eq!(steps.len(), Limits::default().filling_per_node_max as usize);
    // Not again, until the topology moves or it seems lost.
    assert_eq!(all(&mut house, READY + 150, READY + 400), []);
    assert_eq!(all(&mut house, READY + 400, READY + 450), first);
    house.apply(Command::Steps(steps.clone()));
    // Only now it is quiet enough for hand-overs.
    let asked = all(&mut house, READY + 450, READY + 500);
    assert!(asked.iter().all(|effect| matches!(effect, Effect::HandOver(_))), "{asked:?}");
    assert_eq!(first.len(), 1, "none before: {first:?}");
    house.fill();
    let next = all(&mut house, READY + 500, READY + 550);
    assert!(matches!(&next[0], Effect::Propose(Command::Steps(more)) if more != steps));
}

#[test]
fn plans_are_asked_for_one_at_a_time_and_not_at_every_join() {
    let mut house = House::new(3);
    let asked = |house: &mut House, now: u64| {
        house.all_beat(now, 0..3);
        let mut effects = Vec::new();
        house.keeper.tick(Millis(now), &house.topology, &mut effects);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Plan(request) => Some(request),
            _ => None,
        })
    };
    let first = asked(&mut house, READY).expect("there are no wishes yet");
    assert_eq!(first.nodes, [NodeIndex(0), NodeIndex(1), NodeIndex(2)]);
    house.apply(Command::Join(introduction(3, LIFE)));
    // It is under way, however long it takes, and then it was only just made.
    assert_eq!(asked(&mut house, READY + 1_000), None);
    let wishes = planner::wishes(&house.topology, |node| first.counts(node));
    house.keeper.on_wishes(&first, wishes);
    let second = asked(&mut house, READY + 1_050).expect("another node counts");
    assert_eq!(second.nodes.len(), 4);
    let wishes = planner::wishes(&house.topology, |node| second.counts(node));
    // An answer to an earlier question is none to this.
    house.keeper.on_wishes(&first, wishes.clone());
    assert_eq!(asked(&mut house, READY + 1_100), None);
    house.keeper.on_wishes(&second, wishes);
    house.apply(Command::Join(introduction(4, LIFE)));
    assert_eq!(asked(&mut house, READY + 1_150), None);
    assert_eq!(asked(&mut house, READY + 1_350).expect("a fifth").nodes.len(), 5);
}

/// Node 0 leads everything it holds.
fn house_of_one() -> House {
    let mut house = House::new(3);
    house.run(READY, READY + 100, 0..3);
    let steps = house
        .topology
        .partitions()
        .filter(|(_, owners)| owners.position(NodeIndex(0)).is_some_and(|at| at > 0));
    let steps = steps.map(|(partition, _)| (partition, Step::HandOver(NodeIndex(0))));
    let steps: Vec<_> = steps.collect();
    house.apply(Command::Steps(steps));
    house
}

fn requests(effects: Vec<Effect>) -> Vec<HandOverRequest> {
    let request = |effect| match effect {
        Effect::HandOver(request) => Some(request),
        _ => None,
    };
    effects.into_iter().filter_map(request).collect()
}

#[test]
fn hand_overs_wait_until_their_heirs_could_lead_at_once_but_not_for_ever() {
    let mut house = house_of_one();
    // Node 2 does not confirm that something was taken from it.
    let silent = |house: &mut House, from: u64, until: u64| {
        let mut effects = Vec::new();
        for now in (from..until).step_by(50) {
            house.all_beat(now, 0..2);
            let beat = house.beat(2, Revision(1));
            house.hear(now, &beat);
            effects.extend(house.tick(now));
        }
        requests(effects)
    };
    let begin = READY + 100;
    let patience = 2 * house.timing.down_after_ms;
    assert_eq!(silent(&mut house, begin, begin + 200), []);
    assert_ne!(silent(&mut house, begin + 200, begin + patience + 100), []);
    // It does.
    let mut house = house_of_one();
    assert_eq!(silent(&mut house, begin, begin + 200), []);
    assert_ne!(requests(house.run(begin + 200, begin + 300, 0..3)), []);
}

#[test]
fn primaries_are_asked_to_hand_over_some_at_a_time() {
    let mut house = house_of_one();
    house.succeed(READY + 100, 1);
    // Not before it knows of all leases: the pause would be long.
    let inherits_until = READY + 100 + house.timing.inheritance_ms();
    assert_eq!(requests(house.run(READY + 100, inherits_until, 0..3)), []);
    let asked = requests(house.run(inherits_until, inherits_until + 250, 0..3));
    let count: usize = asked.iter().map(|request| request.partitions.len()).sum();
    assert!(count > 0 && count <= HAND_OVERS_PER_PRIMARY_MAX);
    assert!(asked.iter().all(|request| request.primary == NodeIndex(0)));
    for request in asked {
        let step = |partition| (partition, Step::HandOver(request.to));
        house.apply(Command::Steps(request.partitions.into_iter().map(step).collect()));
    }
    let settled = house.run(inherits_until + 250, inherits_until + 2_000, 0..3);
    assert_eq!(requests(settled), []);
}
