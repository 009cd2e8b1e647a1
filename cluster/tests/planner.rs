//! The planner's promises: balance, movement, zones, peers, and that its steps
//! arrive without ever lowering redundancy.

use cluster::change::{Command, Outcome, Step};
use cluster::planner::{self, Limits, PEERS_MAX, Wish};
use cluster::ring::Partition;
use cluster::topology::{Epoch, Incarnation, Introduction, NodeIndex, Owners, Revision, Topology};
use cluster::view;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NO_LIMITS: Limits = Limits { filling_max: u32::MAX, filling_per_node_max: u32::MAX };

fn introduction(at: usize, weight: u16, zone: &str) -> Introduction {
    Introduction {
        name: format!("node-{at}"),
        incarnation: Incarnation(at as u64 + 1),
        client_address: format!("10.0.0.{at}:11211"),
        peer_address: format!("10.0.0.{at}:11311"),
        zone: zone.into(),
        weight,
        cores: 4,
        core_ports: 0,
    }
}

fn apply(topology: &mut Topology, command: Command) {
    let outcome = topology.apply(&command);
    assert!(matches!(outcome, Outcome::Applied(_)), "{command:?}: {outcome:?}");
}

fn join(topology: &mut Topology, at: usize) {
    apply(topology, Command::Join(introduction(at, 100, "")));
}

fn empty(ring_bits: u32, copies: u8) -> Topology {
    let mut topology = Topology::default();
    apply(&mut topology, Command::Create { name: "test".into(), ring_bits, copies, seed: 1 });
    topology
}

fn everyone(topology: &Topology) -> impl Fn(NodeIndex) -> bool + use<> {
    let counts: Vec<bool> = topology
        .members()
        .iter()
        .map(|member| member.as_ref().is_some_and(|member| member.up && !member.draining))
        .collect();
    move |node| counts[usize::from(node.0)]
}

/// Marks every copy that can be filled as filled.
fn fill(topology: &mut Topology) -> bool {
    let mut ready: BTreeMap<NodeIndex, Vec<(Partition, Epoch)>> = BTreeMap::new();
    for (partition, owners) in topology.partitions() {
        if !owners.primary().is_some_and(|primary| topology.is_up(primary)) {
            continue;
        }
        for (node, _) in owners.replicas().filter(|(_, in_sync)| !in_sync) {
            if topology.is_up(node) {
                ready.entry(node).or_default().push((partition, owners.epoch));
            }
        }
    }
    let any = !ready.is_empty();
    for (node, partitions) in ready {
        apply(topology, Command::InSync { known: Revision(u64::MAX), node, partitions });
    }
    any
}

/// Follows one set of wishes to its end, which must be what is wished then.
fn settle(topology: &mut Topology, limits: Limits) {
    let counted = everyone(topology);
    let wishes = planner::wishes(topology, &counted);
    for _ in 0..10_000 {
        if !(step_only(topology, &wishes, limits) | fill(topology)) {
            assert_arrived(topology, &wishes);
            assert_arrived(topology, &planner::wishes(topology, counted));
            return;
        }
    }
    panic!("no end of steps");
}

fn assert_arrived(topology: &Topology, wishes: &[Wish]) {
    for ((partition, owners), wish) in topology.partitions().zip(wishes) {
        let copies: BTreeSet<_> = owners.copies().iter().collect();
        let wished: BTreeSet<_> = wish.copies().iter().collect();
        // With too few nodes nothing is taken from those that do not count.
        let too_few = wished.len() < usize::from(topology.copies_wanted());
        let leads = wished.is_empty() || owners.primary() == wish.primary();
        let holds = copies == wished || too_few && copies.is_superset(&wished);
        assert!(leads && holds, "{partition:?}: {owners:?}, wished {wish:?}");
    }
}

/// Steps and hand-overs toward `wishes`. False if there were none.
fn step_only(topology: &mut Topology, wishes: &[Wish], limits: Limits) -> bool {
    let counted = everyone(topology);
    let plan = planner::next_steps(topology, wishes, limits, counted);
    let idle = plan.now.is_empty() && plan.hand_overs.is_empty();
    if !plan.now.is_empty() {
        apply(topology, Command::Steps(plan.now));
    }
    if !plan.hand_overs.is_empty() {
        let steps = plan.hand_overs.iter().map(|(partition, to)| (*partition, Step::HandOver(*to)));
        apply(topology, Command::Steps(steps.collect()));
    }
    !idle
}

fn ready(ring_bits: u32, copies: u8, nodes: usize) -> Topology {
    let mut topology = empty(ring_bits, copies);
    (0..nodes).for_each(|at| join(&mut topology, at));
    settle(&mut topology, NO_LIMITS);
    topology
}

#[derive(Default)]
struct Shares {
    primaries: BTreeMap<NodeIndex, usize>,
    copies: BTreeMap<NodeIndex, usize>,
    peers: BTreeMap<NodeIndex, BTreeMap<NodeIndex, usize>>,
}

impl Shares {
    fn of(wishes: &[Wish]) -> Shares {
        let mut shares = Shares::default();
        for wish in wishes {
            *shares.primaries.entry(wish.primary().unwrap()).or_default() += 1;
            for node in wish.copies() {
                *shares.copies.entry(*node).or_default() += 1;
                for other in wish.copies().iter().filter(|other| *other != node) {
                    *shares.peers.entry(*node).or_default().entry(*other).or_default() += 1;
                }
            }
        }
        shares
    }

    /// Most primaries, most copies, by the mean.
    fn fullest(&self) -> (f64, f64) {
        let fullest = |of: &BTreeMap<NodeIndex, usize>| {
            let mean = of.values().sum::<usize>() as f64 / self.copies.len() as f64;
            *of.values().max().unwrap() as f64 / mean
        };
        (fullest(&self.primaries), fullest(&self.copies))
    }

    fn peers(&self) -> (f64, usize) {
        let counts = || self.peers.values().map(BTreeMap::len);
        let peers = counts().sum::<usize>() as f64 / self.peers.len().max(1) as f64;
        (peers, counts().max().unwrap_or(0))
    }

    /// The most that one peer of one node shares with it, by the mean of peers.
    fn closest(&self) -> f64 {
        let closeness = self.peers.values().map(|peers| {
            let mean = peers.values().sum::<usize>() as f64 / peers.len() as f64;
            *peers.values().max().unwrap() as f64 / mean
        });
        closeness.fold(0.0, f64::max)
    }
}

/// Copies that are wished where there is none.
fn moved(topology: &Topology, wishes: &[Wish]) -> BTreeMap<NodeIndex, usize> {
    let mut moved = BTreeMap::new();
    for ((_, owners), wish) in topology.partitions().zip(wishes) {
        for node in wish.copies().iter().filter(|node| owners.position(**node).is_none()) {
            *moved.entry(*node).or_default() += 1;
        }
    }
    moved
}

#[test]
fn balance_movement_and_peers_at_65_536_partitions() {
    println!(
        "copies nodes | max/mean            | peers              | join: moved | leave: moved | max/mean after"
    );
    println!(
        "             | primaries  copies   | mean  most closest | by ideal    | by ideal     | join   leave"
    );
    for (copies, nodes) in
        [(1, 10), (2, 3), (2, 10), (2, 100), (2, 1_000), (3, 4), (3, 10), (3, 100), (3, 1_000)]
    {
        let started = std::time::Instant::now();
        let topology = ready(16, copies, nodes);
        let counted = everyone(&topology);
        let wishes = planner::wishes(&topology, counted);
        let shares = Shares::of(&wishes);
        let (primaries, of_copies) = shares.fullest();
        let (peers, peers_most) = shares.peers();
        if nodes == 1_000 && copies == 2 {
            let bytes = view::json(&topology).len();
            println!("as JSON: {bytes} bytes");
            assert!(bytes < 600_000);
        }
        assert!(primaries <= 1.01 && of_copies <= 1.01, "{primaries} {of_copies}");
        assert!(peers_most <= PEERS_MAX, "{peers_most} peers");

        let total = (65_536 * usize::from(copies)) as f64;
        let mut grown = topology.clone();
        join(&mut grown, nodes);
        let counted = everyone(&grown);
        let wishes = planner::wishes(&grown, counted);
        let to = moved(&grown, &wishes);
        assert_eq!(to.len(), 1, "only the new node receives");
        let joined = to[&NodeIndex(nodes as u16)] as f64 / (total / (nodes + 1) as f64);
        assert!(joined <= 1.05, "{joined}");
        let after_join = Shares::of(&wishes).fullest();
        assert!(joined > 0.98, "{joined}");

        let mut shrunk = topology.clone();
        apply(&mut shrunk, Command::Drain { node: NodeIndex(1), on: true });
        let counted = everyone(&shrunk);
        let wishes = planner::wishes(&shrunk, counted);
        let left = moved(&shrunk, &wishes).values().sum::<usize>();
        let ideal = shares.copies[&NodeIndex(1)];
        let after_leave = Shares::of(&wishes).fullest();
        // As many nodes as copies: the others have everything already.
        let left = if nodes == usize::from(copies) { 0.0 } else { left as f64 / ideal as f64 };
        assert!(left <= 1.05, "{left}");
        println!(
            "{copies:6} {nodes:5} | {primaries:9.4}  {of_copies:.4}   | {peers:5.1} {peers_most:4} {:7.2} | {joined:11.4} | {left:12.4} | {:.4} {:.4}  {:.4} {:.4}  ({:.1?})",
            shares.closest(),
            after_join.0,
            after_join.1,
            after_leave.0,
            after_leave.1,
            started.elapsed()
        );
    }
}

#[test]
fn growth_and_shrinking_node_by_node() {
    let shares = |topology: &Topology| Shares::of(&planner::wishes(topology, everyone(topology)));
    let check = |topology: &Topology, at: u16, what: &str| {
        let shares = shares(topology);
        let (primaries, copies) = shares.fullest();
        let (peers, peers_most) = shares.peers();
        if at.is_multiple_of(20) {
            println!("{at:4} {what}: {primaries:.3} {copies:.3}, peers {peers:.1} {peers_most}");
        }
        assert!(primaries <= 1.01 && copies <= 1.01, "{what} {at}: {primaries} {copies}");
        assert!(peers < PEERS_MAX as f64 + 1.0, "{peers} peers");
        assert!(peers_most <= 2 * PEERS_MAX, "{peers_most} peers");
    };
    let mut topology = ready(14, 2, 3);
    for at in 3..120 {
        join(&mut topology, usize::from(at));
        let to = moved(&topology, &planner::wishes(&topology, everyone(&topology)));
        assert!(to.keys().all(|node| node.0 == at), "{at}: only the new node receives");
        settle(&mut topology, NO_LIMITS);
        check(&topology, at, "joined");
    }
    for at in 0..100 {
        apply(&mut topology, Command::Drain { node: NodeIndex(at), on: true });
        settle(&mut topology, NO_LIMITS);
        apply(&mut topology, Command::Leave { node: NodeIndex(at) });
        check(&topology, at, "left");
    }
}

#[test]
fn weights_hold_for_primaries_and_copies() {
    let mut topology = empty(14, 2);
    for at in 0..30 {
        let weight = [50, 100, 200][at % 3];
        apply(&mut topology, Command::Join(introduction(at, weight, "")));
    }
    settle(&mut topology, NO_LIMITS);
    let shares = Shares::of(&planner::wishes(&topology, everyone(&topology)));
    for (node, member) in topology.nodes() {
        let share = f64::from(member.node.weight) / 3_500.0 * 16_384.0;
        let primaries = shares.primaries[&node] as f64 / share;
        let copies = shares.copies[&node] as f64 / (2.0 * share);
        assert!((0.98..1.01).contains(&primaries), "{node:?}: {primaries}");
        assert!((0.98..1.01).contains(&copies), "{node:?}: {copies}");
    }
}

#[test]
fn a_node_of_weight_zero_holds_nothing() {
    let mut topology = empty(8, 2);
    for at in 0..4 {
        let weight = if at == 2 { 0 } else { 100 };
        apply(&mut topology, Command::Join(introduction(at, weight, "")));
    }
    settle(&mut topology, NO_LIMITS);
    assert!(topology.partitions().all(|(_, owners)| owners.position(NodeIndex(2)).is_none()));
}

/// Copies of the partition that share the fullest zone with it.
fn crowd(topology: &Topology, wish: &Wish) -> usize {
    let zone = |node: &NodeIndex| topology.member(*node).unwrap().node.zone.as_str();
    let same = |node| wish.copies().iter().filter(|other| zone(other) == zone(node)).count();
    wish.copies().iter().map(same).max().unwrap()
}

#[test]
fn zones_hold_one_copy_each_where_they_suffice() {
    // Zones, by nodes; copies; most copies of a partition in one zone.
    let cases: [(&[usize], u8, usize); 6] = [
        (&[4, 4, 4], 2, 1),
        (&[4, 4, 4], 3, 1),
        (&[40, 30, 30], 3, 1),
        (&[1, 9], 2, 1),
        (&[2, 10, 3], 2, 1),
        (&[5, 5], 3, 2),
    ];
    for (zones, copies, crowd_max) in cases {
        let mut topology = empty(12, copies);
        for (zone, nodes) in zones.iter().enumerate() {
            for at in 0..*nodes {
                let node = introduction(zone * 100 + at, 100, &format!("zone-{zone}"));
                apply(&mut topology, Command::Join(node));
            }
        }
        settle(&mut topology, NO_LIMITS);
        let wishes = planner::wishes(&topology, everyone(&topology));
        for wish in &wishes {
            assert_eq!(wish.copies().len(), usize::from(copies));
            assert!(crowd(&topology, wish) <= crowd_max, "{zones:?} {copies}: {wish:?}");
        }
        let shares = Shares::of(&wishes);
        println!("{zones:?}, {copies} copies: {:.3?} {:?}", shares.fullest(), shares.peers());
        let nodes = zones.iter().sum::<usize>();
        let mean = wishes.len() as f64 / nodes as f64;
        let primaries = *shares.primaries.values().max().unwrap() as f64;
        assert!(primaries <= (mean * 1.01).ceil(), "{zones:?} {copies}: {primaries} of {mean}");
    }
}

#[test]
fn a_drained_node_is_emptied() {
    let mut topology = ready(12, 2, 5);
    apply(&mut topology, Command::Drain { node: NodeIndex(3), on: true });
    settle(&mut topology, Limits { filling_max: 100, filling_per_node_max: 40 });
    assert!(topology.partitions().all(|(_, owners)| owners.position(NodeIndex(3)).is_none()));
    apply(&mut topology, Command::Leave { node: NodeIndex(3) });
    assert!(topology.partitions().all(|(_, owners)| owners.in_sync() == 2));
}

#[test]
fn the_last_copies_are_not_drained_away() {
    let mut topology = ready(8, 2, 2);
    apply(&mut topology, Command::Drain { node: NodeIndex(0), on: true });
    settle(&mut topology, NO_LIMITS);
    assert!(topology.partitions().all(|(_, owners)| owners.primary() != Some(NodeIndex(0))));
    assert!(topology.partitions().all(|(_, owners)| owners.in_sync() == 2));
    apply(&mut topology, Command::Copies(1));
    settle(&mut topology, NO_LIMITS);
    apply(&mut topology, Command::Leave { node: NodeIndex(0) });
}

#[test]
fn two_deaths_are_repaired_by_those_that_live() {
    let mut topology = ready(14, 3, 20);
    for at in [4u16, 11] {
        apply(
            &mut topology,
            Command::Down { node: NodeIndex(at), incarnation: Incarnation(u64::from(at) + 1) },
        );
    }
    // As those that live do at once.
    for primary in (0..20).map(NodeIndex).filter(|node| ![4, 11].contains(&node.0)) {
        for replica in [NodeIndex(4), NodeIndex(11)] {
            apply(&mut topology, Command::Exclude { primary, replica, keep: 1 });
        }
    }
    let wishes = planner::wishes(&topology, everyone(&topology));
    let shares = Shares::of(&wishes);
    let (primaries, copies) = shares.fullest();
    assert_eq!(shares.copies.len(), 18);
    assert!(primaries <= 1.01 && copies <= 1.01, "{primaries} {copies}");
    // Those with one copy left come before those with two.
    let limits = Limits { filling_max: 50, filling_per_node_max: 50 };
    let plan = planner::next_steps(&topology, &wishes, limits, everyone(&topology));
    let in_sync = |(partition, _): &(Partition, Step)| {
        let owners = topology.owners(*partition);
        let live = |node: &&NodeIndex| owners.is_in_sync(**node) && topology.is_up(**node);
        owners.copies().iter().filter(live).count()
    };
    let adds: Vec<_> =
        plan.now.iter().filter(|(_, step)| matches!(step, Step::Add(_))).copied().collect();
    assert_eq!(adds.len(), 50);
    assert!(adds.is_sorted_by_key(in_sync) && in_sync(&adds[0]) == 1);
    settle(&mut topology, NO_LIMITS);
    assert!(topology.partitions().all(|(_, owners)| owners.in_sync() == 3));
}

#[test]
fn a_new_node_takes_the_place_of_a_dead_one() {
    let mut topology = ready(14, 2, 20);
    apply(&mut topology, Command::Down { node: NodeIndex(4), incarnation: Incarnation(5) });
    join(&mut topology, 20);
    let wishes = planner::wishes(&topology, everyone(&topology));
    let moved = moved(&topology, &wishes);
    let to_new = moved[&NodeIndex(20)] as f64;
    let all = moved.values().sum::<usize>() as f64;
    assert!(to_new / all > 0.95 && all <= 1.05 * 32_768.0 / 20.0, "{to_new} of {all}");
}

#[test]
fn limits_bound_what_is_being_filled() {
    let mut topology = ready(12, 2, 4);
    join(&mut topology, 4);
    join(&mut topology, 5);
    let wishes = planner::wishes(&topology, everyone(&topology));
    let limits = Limits { filling_max: 30, filling_per_node_max: 20 };
    for _ in 0..3 {
        let plan = planner::next_steps(&topology, &wishes, limits, everyone(&topology));
        if !plan.now.is_empty() {
            apply(&mut topology, Command::Steps(plan.now));
        }
        let filling = |node| {
            let lacks = |owners: &Owners| {
                owners.replicas().any(|replica| replica == (NodeIndex(node), false))
            };
            topology.partitions().filter(|(_, owners)| lacks(owners)).count()
        };
        assert_eq!(filling(4) + filling(5), 30);
        assert!(filling(4) <= 20 && filling(5) <= 20);
    }
}

/// Partitions whose copy is to be added, by the node that leads them.
fn adds_by_primary(topology: &Topology, wishes: &[Wish]) -> BTreeMap<u16, usize> {
    let plan = planner::next_steps(topology, wishes, NO_LIMITS, everyone(topology));
    let mut adds = BTreeMap::new();
    for (partition, step) in plan.now {
        if matches!(step, Step::Add(_)) {
            let primary = topology.owners(partition).primary().unwrap();
            *adds.entry(primary.0).or_default() += 1;
        }
    }
    adds
}

#[test]
fn a_replica_that_is_left_out_is_taken_back_before_copies_move() {
    let mut topology = ready(8, 2, 3);
    let exclude = Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 };
    apply(&mut topology, exclude);
    join(&mut topology, 3);
    let wishes = planner::wishes(&topology, everyone(&topology));
    let adds = adds_by_primary(&topology, &wishes);
    assert!(adds.contains_key(&2), "it has no part in that: {adds:?}");
    assert!(!adds.contains_key(&0) && !adds.contains_key(&1), "{adds:?}");
    assert!(fill(&mut topology));
    let adds = adds_by_primary(&topology, &wishes);
    assert!(adds.contains_key(&0), "{adds:?}");
    settle(&mut topology, NO_LIMITS);
}

#[test]
fn a_fresh_cluster_gets_all_its_copies_in_one_command() {
    let mut topology = empty(10, 3);
    (0..5).for_each(|at| join(&mut topology, at));
    let wishes = planner::wishes(&topology, everyone(&topology));
    let limits = Limits { filling_max: 1, filling_per_node_max: 1 };
    let plan = planner::next_steps(&topology, &wishes, limits, everyone(&topology));
    apply(&mut topology, Command::Steps(plan.now));
    fill(&mut topology);
    assert_arrived(&topology, &wishes);
}

/// What may befall a cluster.
#[derive(Clone, Debug)]
enum Event {
    Join,
    Die(u8),
    Return(u8),
    Restart(u8),
    Abandon(u8),
    Drain(u8, bool),
    Copies(u8),
    Step,
    Fill,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Join),
        1 => any::<u8>().prop_map(Event::Die),
        2 => any::<u8>().prop_map(Event::Return),
        1 => any::<u8>().prop_map(Event::Restart),
        1 => any::<u8>().prop_map(Event::Abandon),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        1 => (1u8..4).prop_map(Event::Copies),
        8 => Just(Event::Step),
        8 => Just(Event::Fill),
    ]
}

/// Whatever befell the cluster, steps lead to what is wished, and none of them
/// leaves a partition with fewer copies in sync than it had or should have.
fn arrives(events: Vec<Event>, limits: Limits, zones: usize) {
    let join = |topology: &mut Topology, at: usize| {
        let zone = format!("zone-{}", at % zones);
        apply(topology, Command::Join(introduction(at, [100, 50, 200][at % 3], &zone)));
    };
    let mut topology = empty(6, 2);
    (0..3).for_each(|at| join(&mut topology, at));
    settle(&mut topology, NO_LIMITS);
    let mut lives = 100;
    let guarded = |topology: &mut Topology| {
        let before = topology.clone();
        let wishes = planner::wishes(topology, everyone(topology));
        let went_on = step_only(topology, &wishes, limits);
        for ((partition, before), (_, after)) in before.partitions().zip(topology.partitions()) {
            let wanted = u32::from(topology.copies_wanted());
            assert!(
                after.in_sync() >= before.in_sync().min(wanted),
                "{partition:?}: {before:?} became {after:?}, wished {:?}",
                wishes[partition.0 as usize]
            );
        }
        went_on
    };
    for event in events {
        let nodes = topology.nodes().count() as u16;
        let node = |at: u8| NodeIndex(u16::from(at) % nodes);
        let life = |at: u8| topology.member(node(at)).unwrap().node.incarnation;
        match event {
            Event::Join => join(&mut topology, usize::from(nodes)),
            Event::Die(at) => {
                let command = Command::Down { node: node(at), incarnation: life(at) };
                topology.apply(&command);
            }
            Event::Return(at) => {
                let command = Command::Up { node: node(at), incarnation: life(at) };
                topology.apply(&command);
            }
            Event::Restart(at) => {
                lives += 1;
                let mut again = topology.member(node(at)).unwrap().node.clone();
                again.incarnation = Incarnation(lives);
                apply(&mut topology, Command::Join(again));
            }
            Event::Abandon(at) => drop(topology.apply(&Command::Abandon { node: node(at) })),
            Event::Drain(at, on) => drop(topology.apply(&Command::Drain { node: node(at), on })),
            Event::Copies(copies) => drop(topology.apply(&Command::Copies(copies))),
            Event::Step => drop(guarded(&mut topology)),
            Event::Fill => drop(fill(&mut topology)),
        }
    }
    // The dead are given up, the living are left in peace.
    let dead: Vec<_> =
        topology.nodes().filter(|(_, member)| !member.up).map(|(node, _)| node).collect();
    for node in dead {
        topology.apply(&Command::Abandon { node });
    }
    for _ in 0..1_000 {
        let went_on = guarded(&mut topology);
        if !fill(&mut topology) && !went_on {
            assert_arrived(&topology, &planner::wishes(&topology, everyone(&topology)));
            return;
        }
    }
    panic!("no end of steps");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn steps_arrive_and_keep_redundancy(
        events in proptest::collection::vec(event(), 0..40),
        filling_max in 1u32..200,
        filling_per_node_max in 1u32..50,
        zones in 1usize..5,
    ) {
        arrives(events, Limits { filling_max, filling_per_node_max }, zones);
    }
}
