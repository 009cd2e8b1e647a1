//! `--scale`: a thousand nodes, their control plane alone.
//!
//! Every node's control and member, one keeper and the planner are those of the
//! daemon. There is no data: cores act at once under what they are told, and a
//! replica has caught up a little after it was added. Time goes in steps of a
//! millisecond; what is sent in one step arrives in the next. The coordinator
//! commits within two steps, and a topology reaches every node two steps later.

use super::machine::{machine_name, machine_of};
use crate::report::thousands;
use anyhow::{Result, ensure};
use cluster::change::{Command, Outcome, Step};
use cluster::keeper::{self, Keeper};
use cluster::member::{Beat, BeatReply};
use cluster::node::{Control, Effect, Report, Tell};
use cluster::planner::{self, Limits, Wish};
use cluster::planning::PlanRequest;
use cluster::replication::Peer;
use cluster::ring::Partition;
use cluster::time::{Millis, Timing};
use cluster::topology::{Epoch, Incarnation, Introduction, Keeping, NodeIndex, Revision, Topology};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A replica has caught up so long after its primary heard of it.
const FILL_MS: u64 = 100;
/// The planner needs about so long.
const PLAN_MS: u64 = 150;
/// Partitions: the default of a cluster.
const RING_BITS: u32 = 16;

/// Primary, replica, and what that one has.
type CaughtUp = (NodeIndex, NodeIndex, Vec<(Partition, Epoch)>);

struct Fleet {
    now: u64,
    nodes: Vec<Option<Control>>,
    keeper: Keeper,
    topology: Arc<Topology>,
    proposals: BTreeMap<u64, Vec<Command>>,
    topologies: BTreeMap<u64, Arc<Topology>>,
    beats: Vec<(usize, Beat)>,
    replies: Vec<(usize, BeatReply)>,
    wishes: BTreeMap<u64, (PlanRequest, Vec<Wish>)>,
    caught_up: BTreeMap<u64, Vec<CaughtUp>>,
    asked: BTreeSet<(NodeIndex, NodeIndex, Partition)>,
    beat_messages: u64,
    beat_bytes: u64,
    added: u64,
    commits: u64,
    bar: ProgressBar,
}

fn introduction(node: usize, life: u64) -> Introduction {
    Introduction {
        name: machine_name(node),
        incarnation: Incarnation(life),
        client_address: format!("10.{}.{}.{}:11211", node >> 16, node >> 8 & 255, node & 255),
        peer_address: format!("10.{}.{}.{}:11212", node >> 16, node >> 8 & 255, node & 255),
        zone: String::new(),
        weight: 100,
        cores: 1,
        core_ports: 0,
    }
}

/// Runs it, and prints what came of it.
pub fn run(nodes: usize, copies: u8) -> Result<bool> {
    ensure!(nodes >= 4, "a fleet has four nodes or more");
    let bar = ProgressBar::new(5);
    let style = "{prefix:>16} {msg:<32} [{wide_bar}] {elapsed}";
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    bar.set_prefix(format!("{nodes} nodes"));
    let say = |text: String| bar.suspend(|| println!("{text}"));
    bar.set_message("planning");
    let mut fleet = Fleet::new(nodes, copies, bar.clone());
    let bytes = fleet.topology.encode().len();
    say(format!("topology, encoded          {} bytes", thousands(bytes as u64)));
    bar.inc(1);

    bar.set_message("at rest");
    fleet.run_ms(1_500);
    (fleet.beat_messages, fleet.beat_bytes) = (0, 0);
    fleet.run_ms(1_000);
    let each = |sum: u64| sum as f64 / nodes as f64;
    say(format!(
        "heartbeats                 {:.1} messages and {:.0} bytes a node and second",
        each(fleet.beat_messages),
        each(fleet.beat_bytes)
    ));
    bar.inc(1);

    bar.set_message("one node dies");
    let dead = fleet.kill(&[nodes / 2]);
    let took = fleet.until_led(&dead);
    say(format!("death of one node          {} ms until all partitions are led", took));
    fleet.start(nodes / 2, 2);
    fleet.until_at_rest();
    bar.inc(1);

    bar.set_message("one node joins");
    fleet.added = 0;
    fleet.start(nodes, 1);
    let took = fleet.until_at_rest();
    let ideal = f64::from(1u32 << RING_BITS) * f64::from(copies) / (nodes + 1) as f64;
    say(format!(
        "a node joins               {} copies move ({ideal:.0} would be its share) in {took} ms",
        thousands(fleet.added)
    ));
    bar.inc(1);

    bar.set_message("half of the nodes die");
    let half: Vec<usize> = (1..=nodes).filter(|node| node % 2 == 1).collect();
    let commits = fleet.commits;
    let dead = fleet.kill(&half);
    let took = fleet.until_led(&dead);
    let lost = fleet.topology.partitions().filter(|(_, owners)| !fleet.has_living_copy(owners));
    say(format!(
        "death of {} nodes at once {took} ms until all partitions are led that have a copy\n\
         \x20                          ({} have none; {} commands)",
        half.len(),
        thousands(lost.count() as u64),
        thousands(fleet.commits - commits),
    ));
    bar.finish_and_clear();
    Ok(true)
}

impl Fleet {
    fn new(nodes: usize, copies: u8, bar: ProgressBar) -> Fleet {
        let mut topology = Topology::default();
        let (name, seed) = ("fleet".into(), 1);
        topology.apply(&Command::Create { name, ring_bits: RING_BITS, copies, seed });
        for node in 0..nodes {
            topology.apply(&Command::Join(introduction(node, 1)));
        }
        let wishes = planner::wishes(&topology, |_| true);
        let steps = wishes.iter().enumerate().flat_map(|(partition, wish)| {
            let add = move |node: &NodeIndex| (Partition(partition as u32), Step::Add(*node));
            wish.copies().iter().map(add)
        });
        topology.apply(&Command::Steps(steps.collect()));
        let mut all: BTreeMap<NodeIndex, Vec<(Partition, Epoch)>> = BTreeMap::new();
        for (partition, owners) in topology.partitions() {
            for (node, _) in owners.replicas() {
                all.entry(node).or_default().push((partition, owners.epoch));
            }
        }
        for (node, partitions) in all {
            topology.apply(&Command::InSync { node, known: topology.revision(), partitions });
        }
        let (timing, limits) = (Timing::default(), Limits::default());
        let me = Keeping::new(1, "keeper".into(), Incarnation(1), &timing);
        topology.apply(&Command::Keep { keeping: me.clone(), settled: topology.revision() });
        let mut fleet = Fleet {
            now: 1_000,
            nodes: Vec::new(),
            keeper: Keeper::new(Millis(1_000), Millis(1_000), timing, limits, me, &topology),
            topology: Arc::new(topology),
            proposals: BTreeMap::new(),
            topologies: BTreeMap::new(),
            beats: Vec::new(),
            replies: Vec::new(),
            wishes: BTreeMap::new(),
            caught_up: BTreeMap::new(),
            asked: BTreeSet::new(),
            beat_messages: 0,
            beat_bytes: 0,
            added: 0,
            commits: 0,
            bar,
        };
        (0..nodes).for_each(|node| fleet.start(node, 1));
        fleet
    }

    fn start(&mut self, node: usize, life: u64) {
        let now = Millis(self.now);
        let mut control = Control::new(introduction(node, life), Timing::default(), now);
        let mut effects = Vec::new();
        control.on_topology(Arc::clone(&self.topology), &mut effects);
        if node >= self.nodes.len() {
            self.nodes.resize_with(node + 1, || None);
        }
        self.nodes[node] = Some(control);
        self.act(node, effects);
    }

    /// These die. The partitions that they led, and at which revision.
    fn kill(&mut self, nodes: &[usize]) -> Vec<Partition> {
        let gone: BTreeSet<NodeIndex> = nodes.iter().filter_map(|node| self.index(*node)).collect();
        nodes.iter().for_each(|node| self.nodes[*node] = None);
        let led = self.topology.partitions();
        let led = led.filter(|(_, owners)| owners.primary().is_some_and(|p| gone.contains(&p)));
        led.map(|(partition, _)| partition).collect()
    }

    fn index(&self, node: usize) -> Option<NodeIndex> {
        self.topology.named(&machine_name(node)).map(|found| found.0)
    }

    fn control(&self, node: NodeIndex) -> Option<&Control> {
        let member = self.topology.member(node)?;
        self.nodes.get(machine_of(&member.node.name)?)?.as_ref()
    }

    fn has_living_copy(&self, owners: &cluster::topology::Owners) -> bool {
        owners.copies().iter().any(|node| owners.is_in_sync(*node) && self.control(*node).is_some())
    }

    /// Milliseconds until all of these are led by a node that may serve.
    fn until_led(&mut self, partitions: &[Partition]) -> u64 {
        let begin = self.now;
        let mut open: Vec<Partition> = partitions.to_vec();
        while self.now < begin + 30_000 {
            self.step();
            let mut serves: BTreeMap<NodeIndex, bool> = BTreeMap::new();
            let topology = Arc::clone(&self.topology);
            open.retain(|partition| {
                let owners = topology.owners(*partition);
                if !self.has_living_copy(owners) {
                    return false;
                }
                let Some(primary) = owners.primary() else { return true };
                let at = Millis(self.now);
                !*serves.entry(primary).or_insert_with(|| {
                    self.control(primary).is_some_and(|control| {
                        control.topology().revision() == topology.revision()
                            && control.member().has_lease(at)
                            && control.member().settled() >= topology.revision()
                    })
                })
            });
            if open.is_empty() {
                break;
            }
        }
        self.now - begin
    }

    fn run_ms(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// Milliseconds until nothing is proposed for a second.
    fn until_at_rest(&mut self) -> u64 {
        let begin = self.now;
        let (mut last, mut commits) = (self.now, self.commits);
        while self.now < last + 1_000 && self.now < begin + 120_000 {
            self.step();
            if self.commits != commits {
                (last, commits) = (self.now, self.commits);
            }
        }
        last - begin
    }

    fn step(&mut self) {
        self.now += 1;
        self.bar.tick();
        let now = Millis(self.now);
        // The coordinator.
        let due = self.proposals.split_off(&(self.now + 1));
        let due = std::mem::replace(&mut self.proposals, due);
        let commands: Vec<Command> = due.into_values().flatten().collect();
        if !commands.is_empty() {
            let mut next = Topology::clone(&self.topology);
            for command in &commands {
                self.commits += 1;
                let applied = matches!(next.apply(command), Outcome::Applied(_));
                if let (true, Command::Steps(steps)) = (applied, command) {
                    let adds = steps.iter().filter(|(_, step)| matches!(step, Step::Add(_)));
                    self.added += adds.count() as u64;
                }
            }
            if next.revision() > self.topology.revision() {
                self.topology = Arc::new(next);
                self.topologies.insert(self.now + 2, Arc::clone(&self.topology));
                self.find_fills();
            }
        }
        // Topologies reach the nodes.
        let later = self.topologies.split_off(&(self.now + 1));
        let due = std::mem::replace(&mut self.topologies, later);
        if let Some((_, topology)) = due.into_iter().next_back() {
            for node in 0..self.nodes.len() {
                let mut effects = Vec::new();
                if let Some(control) = &mut self.nodes[node] {
                    control.on_topology(Arc::clone(&topology), &mut effects);
                }
                self.act(node, effects);
            }
        }
        self.step_keeper(now);
        // The nodes.
        for (node, reply) in std::mem::take(&mut self.replies) {
            let mut effects = Vec::new();
            if let Some(control) = &mut self.nodes[node] {
                control.on_reply(now, &reply, &mut effects);
            }
            self.act(node, effects);
        }
        let later = self.caught_up.split_off(&(self.now + 1));
        for (primary, node, partitions) in
            std::mem::replace(&mut self.caught_up, later).into_values().flatten()
        {
            let report = Report::CaughtUp { node, core: 0, partitions };
            if let Some(at) = self.topology.member(primary).map(|m| m.node.name.clone()) {
                self.report(machine_of(&at).unwrap_or(usize::MAX), report);
            }
        }
        let first = self.now as usize % 5;
        for node in (first..self.nodes.len()).step_by(5) {
            let mut effects = Vec::new();
            if let Some(control) = &mut self.nodes[node] {
                let acts = control.topology().revision();
                control.on_report(now, 0, acts, Report::Alive, &mut effects);
                control.tick(now, &mut effects);
            }
            self.act(node, effects);
        }
    }

    fn step_keeper(&mut self, now: Millis) {
        for (node, beat) in std::mem::take(&mut self.beats) {
            let reply = self.keeper.on_beat(now, &self.topology, now, &beat);
            self.beat_messages += 2;
            let bytes = |of: Result<Vec<u8>, postcard::Error>| of.map_or(0, |of| of.len() as u64);
            self.beat_bytes +=
                bytes(postcard::to_stdvec(&beat)) + bytes(postcard::to_stdvec(&reply));
            self.replies.push((node, reply));
        }
        let later = self.wishes.split_off(&(self.now + 1));
        for (request, wishes) in std::mem::replace(&mut self.wishes, later).into_values() {
            self.keeper.on_wishes(&request, wishes);
        }
        if !self.now.is_multiple_of(10) {
            return;
        }
        let mut effects = Vec::new();
        self.keeper.tick(now, &self.topology, &mut effects);
        for effect in effects {
            match effect {
                keeper::Effect::Propose(command) => self.propose(command),
                keeper::Effect::HandOver(request) => {
                    let name = self.topology.member(request.primary).map(|m| m.node.name.clone());
                    let Some(node) = name.as_deref().and_then(machine_of) else { continue };
                    let mut effects = Vec::new();
                    if let Some(Some(control)) = self.nodes.get_mut(node) {
                        control.on_hand_over(now, &request, &mut effects);
                    }
                    self.act(node, effects);
                }
                keeper::Effect::Plan(request) => {
                    let wishes = planner::wishes(&self.topology, |node| request.counts(node));
                    self.wishes.insert(self.now + PLAN_MS, (request, wishes));
                }
                keeper::Effect::Probe(_) => {}
            }
        }
    }

    fn propose(&mut self, command: Command) {
        self.proposals.entry(self.now + 2).or_default().push(command);
    }

    fn report(&mut self, node: usize, report: Report) {
        let mut effects = Vec::new();
        if let Some(Some(control)) = self.nodes.get_mut(node) {
            let acts: Revision = control.topology().revision();
            control.on_report(Millis(self.now), 0, acts, report, &mut effects);
        }
        self.act(node, effects);
    }

    fn act(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Beat(beat) => self.beats.push((node, beat)),
                Effect::Propose(command) => self.propose(command),
                // Cores act at once.
                Effect::Tell(Tell::Topology { .. }) => self.report(node, Report::Alive),
                Effect::Tell(Tell::Pause(partitions)) => {
                    self.report(node, Report::Paused(partitions));
                }
                Effect::Tell(_)
                | Effect::Connect { .. }
                | Effect::Disconnect(_)
                | Effect::Superseded => {}
            }
        }
    }

    /// Copies that are to be filled: they will have caught up.
    fn find_fills(&mut self) {
        let mut found: BTreeMap<Peer, Vec<(NodeIndex, Partition, Epoch)>> = BTreeMap::new();
        let topology = Arc::clone(&self.topology);
        let mut open = BTreeSet::new();
        for (partition, owners) in topology.partitions() {
            let Some(primary) = owners.primary().filter(|node| topology.is_up(*node)) else {
                continue;
            };
            for (node, _) in owners.replicas().filter(|(_, in_sync)| !in_sync) {
                let key = (primary, node, partition);
                if topology.is_up(node) && !self.asked.contains(&key) {
                    let peer = Peer { node: primary, core: 0 };
                    found.entry(peer).or_default().push((node, partition, owners.epoch));
                }
                open.insert(key);
            }
        }
        self.asked = open;
        for (peer, fills) in found {
            let mut by_node: BTreeMap<NodeIndex, Vec<(Partition, Epoch)>> = BTreeMap::new();
            for (node, partition, epoch) in fills {
                by_node.entry(node).or_default().push((partition, epoch));
            }
            let due = self.caught_up.entry(self.now + FILL_MS).or_default();
            due.extend(by_node.into_iter().map(|(node, all)| (peer.node, node, all)));
        }
    }
}
