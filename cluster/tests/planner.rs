//! The planner's promises: balance, movement, zones, peers, and that its steps
//! arrive without ever lowering redundancy.

use proptest::prelude::*;
use seawall_cluster::change::{Command, Outcome, Step};
use seawall_cluster::planner::{self, Limits, PEERS_MAX, Wish};
use seawall_cluster::ring::Partition;
use seawall_cluster::topology::{
    Epoch, Incarnation, Introduction, NodeIndex, Owners, Topology,
};
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
        apply(topology, Command::InSync { node, partitions });
    }
    any
}

/// Takes steps until none is left; returns the rounds it took.
fn settle(topology: &mut Topology, limits: Limits) -> usize {
    for round in 0..1_000 {
        let counted = everyone(topology);
        let wishes = planner::wishes(topology, &counted);
        if !step(topology, &wishes, limits) {
            for ((partition, owners), wish) in topology.partitions().zip(&wishes) {
                assert!(has_arrived(owners, wish), "{partition:?}: {owners:?}, wished {wish:?}");
            }
            return round;
        }
    }
    panic!("no end of steps");
}

/// One round toward `wishes`: steps, hand-overs, filling. False if there was
/// nothing to do.
fn step(topology: &mut Topology, wishes: &[Wish], limits: Limits) -> bool {
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
    fill(topology) || !idle
}

fn has_arrived(owners: &Owners, wish: &Wish) -> bool {
    let copies: BTreeSet<_> = owners.copies().iter().collect();
    let wished: BTreeSet<_> = wish.copies().iter().collect();
    owners.primary() == wish.primary() && copies == wished
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
    println!("copies nodes | max/mean            | peers              | join: moved | leave: moved | max/mean after");
    println!("             | primaries  copies   | mean  most closest | by ideal    | by ideal     | join   leave");
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
            shares.closest(), after_join.0, after_join.1, after_leave.0, after_leave.1, started.elapsed()
        );
    }
}

#[test]
fn growth_node_by_node_keeps_balance_and_bounds_peers() {
    let mut topology = ready(14, 2, 3);
    for at in 3..120 {
        join(&mut topology, at);
        let counted = everyone(&topology);
        let wishes = planner::wishes(&topology, counted);
        let to = moved(&topology, &wishes);
        let elsewhere = to.iter().filter(|(node, _)| node.0 != at as u16).count();
        assert_eq!(elsewhere, 0, "at {at} nodes only the new one receives");
        settle(&mut topology, NO_LIMITS);
        let counted = everyone(&topology);
        let shares = Shares::of(&planner::wishes(&topology, counted));
        let (peers, peers_most) = shares.peers();
        let (primaries, copies) = shares.fullest();
        if at % 10 == 0 {
            println!("{at:4} joined: {primaries:.3} {copies:.3}, peers {peers:.1} {peers_most}");
        }
    }
    for at in 0..100 {
        apply(&mut topology, Command::Drain { node: NodeIndex(at), on: true });
        settle(&mut topology, NO_LIMITS);
        apply(&mut topology, Command::Leave { node: NodeIndex(at) });
        let counted = everyone(&topology);
        let shares = Shares::of(&planner::wishes(&topology, counted));
        let (peers, peers_most) = shares.peers();
        let (primaries, copies) = shares.fullest();
        if at % 10 == 0 {
            println!("{at:4} left: {primaries:.3} {copies:.3}, peers {peers:.1} {peers_most}");
        }
    }
}
