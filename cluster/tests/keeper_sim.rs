//! Keeper and members over a virtual network: clocks that drift as far as they
//! may, messages that are lost, late and out of order, processes that pause, die,
//! start again while their past self still runs, and leaders that do not know
//! that they were deposed.
//!
//! What must hold at every moment: if a keeper has called a revision settled,
//! then no process that holds a lease by its own clock still acts under an older
//! revision in which it had a role that this one took from it.
//!
//! The coordinator is reduced to what a keeper relies on: voters promise terms, a
//! command is committed when a majority has it, and a new leader knows all that
//! was committed. A seed is all it takes to run a history again:
//! `SEAWALL_SEED=17 cargo test -p seawall-cluster --test keeper_sim`, and
//! `SEAWALL_SEEDS=100000` runs more of them.

use cluster::change::{Command, Outcome, Step};
use cluster::keeper::{Effect, Keeper};
use cluster::member::{Beat, BeatReply, Member};
use cluster::planner::{self, Limits, Wish};
use cluster::planning::{HandOverRequest, PlanRequest};
use cluster::ring::Partition;
use cluster::time::{Millis, Timing, at_least_us};
use cluster::topology::{Epoch, Incarnation, Introduction, Keeping, NodeIndex, Revision, Topology};
use std::collections::BinaryHeap;
use std::rc::Rc;

const SEEDS: u64 = 5_000;
/// Weather lasts until here; then all must become well again.
const STORM_US: u64 = 3_000_000;
const CALM_US: u64 = 2_500_000;
const NODES: usize = 5;
/// Nodes that may lead.
const VOTERS: usize = 3;
const TICK_US: u64 = 10_000;

/// Random numbers by Splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// A clock of its own rate: two differ by almost one part in 64.
#[derive(Clone, Copy)]
struct Clock {
    start: u64,
    millionths: u64,
}

impl Clock {
    fn new(dice: &mut Dice) -> Clock {
        let millionths = match dice.below(3) {
            0 => 1_000_000 - 7_690,
            1 => 1_000_000 + 7_690,
            _ => 1_000_000 - 7_690 + dice.below(15_380),
        };
        Clock { start: dice.below(1 << 40), millionths }
    }

    fn at(&self, real_us: u64) -> Millis {
        Millis((self.start + real_us * self.millionths / 1_000_000) / 1_000)
    }
}

/// A process: one life of a node. Several of a node may run at a time.
struct Process {
    node: usize,
    incarnation: Incarnation,
    clock: Clock,
    alive: bool,
    paused_until: u64,
    member: Member,
    timing: Timing,
    /// The highest term it heard of, and who led it.
    leader: (u64, usize),
    /// As a voter: it refuses lower terms.
    promised: u64,
    /// As a voter: when it last took something from a leader, or asked others as one.
    followed: Millis,
    leading: Option<Leading>,
}

/// What a leader has beside its process.
struct Leading {
    keeper: Keeper,
    term: u64,
    /// Commands that it knows to be committed.
    view: usize,
    leader_at: Millis,
    check: u64,
    check_began: Millis,
    acked: u64,
}

#[derive(Clone, Debug)]
enum Message {
    Beat(Beat),
    Reply(BeatReply),
    Vote {
        term: u64,
    },
    /// And for how long the voter had followed nobody.
    Voted {
        term: u64,
        silence_ms: u64,
    },
    /// Do you still know me as the leader? And what I have.
    Check {
        term: u64,
        check: u64,
        view: usize,
    },
    Checked {
        term: u64,
        check: u64,
    },
    Append {
        term: u64,
        entry: usize,
    },
    Appended {
        term: u64,
        entry: usize,
    },
}

#[derive(Debug)]
enum What {
    Tick(usize),
    Arrives {
        from: usize,
        to: usize,
        message: Message,
    },
    Confirm(usize, Revision),
    /// Somebody wants this of whoever leads.
    Ask(Command),
    Planned(usize, u64, PlanRequest, Vec<Wish>),
    Refused(NodeIndex),
    Election,
    Weather,
    Fill,
}

struct Entry {
    command: Command,
    term: u64,
    voters: u64,
    /// Its place in the log, if a majority took it from the leader of its term.
    committed_as: Option<usize>,
    /// A later leader decided about it.
    is_past: bool,
}

#[derive(Default, Debug)]
struct Seen {
    leases: u64,
    settled: u64,
    elections: u64,
    downs: u64,
    ups: u64,
    hand_overs: u64,
    given_up: u64,
    fenced: u64,
    restarts: u64,
}

struct Candidate {
    process: usize,
    term: u64,
    votes: u64,
    /// The latest moment at which one of its voters followed somebody.
    vacant_since: Millis,
}

struct World {
    dice: Dice,
    now: u64,
    order: u64,
    queue: BinaryHeap<(std::cmp::Reverse<(u64, u64)>, usize)>,
    events: Vec<Option<What>>,
    processes: Vec<Process>,
    /// The process that a node's name leads to now.
    current: [usize; NODES],
    cut: [[bool; NODES]; NODES],
    entries: Vec<Entry>,
    /// The topology after each committed command.
    log: Vec<Rc<Topology>>,
    /// Who lost a role at which revision.
    losses: Vec<(Revision, usize)>,
    told: Revision,
    lives: u64,
    candidate: Option<Candidate>,
    seen: Seen,
}

/// Settings that a process was started with; others may have others. What takes
/// seconds in a cluster takes tenths here.
fn timing(dice: &mut Dice) -> Timing {
    let timing = Timing {
        lease_ms: 150 + 50 * dice.below(3),
        leadership_ms: 60 + 20 * dice.below(3),
        repair_after_ms: 350,
        abandon_after_ms: 400,
        ..Timing::default()
    };
    timing.check().unwrap();
    timing
}

fn introduction(node: usize, incarnation: Incarnation) -> Introduction {
    Introduction {
        name: format!("node-{node}"),
        incarnation,
        weight: 100,
        cores: 1,
        ..Introduction::default()
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            dice: Dice(seed),
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            processes: Vec::new(),
            current: [0; NODES],
            cut: [[false; NODES]; NODES],
            entries: Vec::new(),
            log: vec![Rc::new(Topology::default())],
            losses: Vec::new(),
            told: Revision(0),
            lives: 0,
            candidate: None,
            seen: Seen::default(),
        };
        world.commit(&Command::Create { name: "sim".into(), ring_bits: 3, copies: 2, seed });
        for node in 0..NODES {
            world.start(node);
            let incarnation = world.processes[node].incarnation;
            world.commit(&Command::Join(introduction(node, incarnation)));
        }
        world.at(0, What::Election);
        world.at(0, What::Weather);
        world.at(0, What::Fill);
        world
    }

    fn at(&mut self, delay_us: u64, what: What) {
        self.order += 1;
        let event = self.events.len();
        self.events.push(Some(what));
        self.queue.push((std::cmp::Reverse((self.now + delay_us, self.order)), event));
    }

    /// A new process for a node, with a memory of nothing.
    fn start(&mut self, node: usize) {
        self.lives += 1;
        let incarnation = Incarnation(self.lives);
        let clock = Clock::new(&mut self.dice);
        let timing = timing(&mut self.dice);
        let process = self.processes.len();
        // What a voter promised is on its disk.
        let promised = self.processes.get(self.current[node]).map_or(0, |past| past.promised);
        self.processes.push(Process {
            node,
            incarnation,
            clock,
            alive: true,
            paused_until: 0,
            member: Member::new(format!("node-{node}"), incarnation, timing.clone()),
            timing,
            leader: (0, 0),
            promised,
            followed: clock.at(self.now),
            leading: None,
        });
        self.current[node] = process;
        self.at(self.dice.0 % TICK_US, What::Tick(process));
    }

    fn local(&self, process: usize) -> Millis {
        self.processes[process].clock.at(self.now)
    }

    fn latest(&self) -> &Rc<Topology> {
        self.log.last().expect("the empty one is there")
    }

    fn in_storm(&self) -> bool {
        self.now < STORM_US
    }

    // ---- the coordinator ----

    fn commit(&mut self, command: &Command) {
        let before = self.latest().clone();
        let mut after = Topology::clone(&before);
        if let Outcome::Applied(revision) = after.apply(command) {
            self.note_losses(&before, &after, revision);
            match command {
                Command::Down { .. } => self.seen.downs += 1,
                Command::Up { .. } => self.seen.ups += 1,
                Command::Abandon { .. } => self.seen.given_up += 1,
                _ => {}
            }
        }
        self.log.push(Rc::new(after));
    }

    /// The process that a slot stands for.
    fn process_in(&self, topology: &Topology, node: NodeIndex) -> Option<usize> {
        let incarnation = topology.member(node)?.node.incarnation;
        self.processes.iter().position(|process| process.incarnation == incarnation)
    }

    fn note_losses(&mut self, before: &Topology, after: &Topology, revision: Revision) {
        let mut losers = Vec::new();
        for ((_, was), (_, is)) in before.partitions().zip(after.partitions()) {
            for node in was.copies().iter().filter(|node| was.is_in_sync(**node)) {
                let past = self.process_in(before, *node);
                let replaced = past != self.process_in(after, *node);
                let led = was.primary() == Some(*node) && is.primary() != Some(*node);
                if replaced || led || !is.is_in_sync(*node) {
                    losers.extend(past);
                }
            }
        }
        losers.sort_unstable();
        losers.dedup();
        self.seen.fenced += losers.len() as u64;
        self.losses.extend(losers.into_iter().map(|process| (revision, process)));
    }

    fn append(&mut self, leader: usize, command: Command) {
        let Some(leading) = &self.processes[leader].leading else { return };
        let term = leading.term;
        let entry = self.entries.len();
        self.entries.push(Entry { command, term, voters: 0, committed_as: None, is_past: false });
        self.accept(leader, term, entry);
        self.broadcast(leader, VOTERS, &Message::Append { term, entry });
    }

    /// A voter takes an entry, unless it promised a later term.
    fn accept(&mut self, process: usize, term: u64, entry: usize) -> bool {
        let voter = self.processes[process].node;
        if self.processes[process].promised > term || self.entries[entry].term != term {
            return false;
        }
        self.processes[process].promised = term;
        self.processes[process].followed = self.local(process);
        let place = self.log.len();
        let entry = &mut self.entries[entry];
        entry.voters |= 1 << voter;
        let majority = entry.voters.count_ones() as usize > VOTERS / 2;
        if majority && entry.committed_as.is_none() && !entry.is_past {
            entry.committed_as = Some(place);
            let command = entry.command.clone();
            self.commit(&command);
        }
        true
    }

    /// A process hears of a term: whoever led an earlier one no longer does.
    fn hear_term(&mut self, process: usize, term: u64, leader: Option<usize>) {
        let now = self.local(process);
        let process = &mut self.processes[process];
        if process.leading.as_ref().is_some_and(|leading| leading.term < term) {
            process.leading = None;
            process.member.on_keeping(now, None);
        }
        if let Some(leader) = leader.filter(|_| process.leader.0 < term) {
            process.leader = (term, leader);
            process.member.beat_soon();
        }
    }

    fn election(&mut self) {
        let pause = if self.in_storm() { 50_000 + self.dice.below(900_000) } else { 400_000 };
        self.at(pause, What::Election);
        let leader = self.leader();
        if !self.in_storm() && leader.is_some() {
            return;
        }
        let process = self.current[self.dice.below(VOTERS as u64) as usize];
        if !self.runs(process) {
            return;
        }
        let highest = self.processes.iter().map(|process| process.promised).max();
        let term = highest.unwrap_or(0) + 1;
        self.hear_term(process, term, None);
        self.processes[process].promised = term;
        let Process { node, followed, .. } = self.processes[process];
        let votes = 1 << node;
        self.candidate = Some(Candidate { process, term, votes, vacant_since: followed });
        self.broadcast(process, VOTERS, &Message::Vote { term });
    }

    /// Who could commit something now, if anybody.
    fn leader(&self) -> Option<usize> {
        let highest = self.processes.iter().map(|process| process.promised).max()?;
        let leads = |process: &usize| {
            self.processes[*process].leading.as_ref().is_some_and(|it| it.term == highest)
        };
        self.current[..VOTERS].iter().copied().find(leads)
    }

    fn win(&mut self, process: usize, term: u64, vacant_since: Millis) {
        self.seen.elections += 1;
        // What only some voters have may or may not be in its log.
        for entry in 0..self.entries.len() {
            let past = &mut self.entries[entry];
            if past.committed_as.is_none() && !past.is_past {
                past.is_past = true;
                if past.voters != 0 && self.dice.percent(50) {
                    let command = self.entries[entry].command.clone();
                    self.commit(&command);
                }
            }
        }
        let now = self.local(process);
        let limits = Limits { filling_max: 8, filling_per_node_max: 4 };
        let Process { node, incarnation, ref timing, .. } = self.processes[process];
        let timing = timing.clone();
        let me = Keeping::new(term, format!("node-{node}"), incarnation, &timing);
        let topology = self.latest().clone();
        self.processes[process].member.on_keeping(now, Some(Millis(0)));
        self.processes[process].leading = Some(Leading {
            keeper: Keeper::new(now, vacant_since, timing, limits, me, &topology),
            term,
            view: self.log.len() - 1,
            leader_at: Millis(0),
            check: 0,
            check_began: now,
            acked: 0,
        });
        self.processes[process].leader = (term, process);
        self.processes[process].member.beat_soon();
    }

    // ---- the network ----

    fn runs(&self, process: usize) -> bool {
        self.processes[process].alive && self.processes[process].paused_until <= self.now
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let (here, there) = (self.processes[from].node, self.processes[to].node);
        if self.cut[here][there] || self.in_storm() && self.dice.percent(4) {
            return;
        }
        let delay = match self.dice.below(100) {
            0..6 if self.in_storm() => self.dice.below(500_000),
            _ => 200 + self.dice.below(3_000),
        };
        self.at(delay, What::Arrives { from, to, message });
    }

    /// To the first `nodes` nodes but the sender.
    fn broadcast(&mut self, from: usize, nodes: usize, message: &Message) {
        let current = self.current;
        for to in current.into_iter().take(nodes) {
            if to != from {
                self.send(from, to, message.clone());
            }
        }
    }

    fn arrives(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Beat(beat) => {
                let now = self.local(to);
                let Some(leading) = &mut self.processes[to].leading else { return };
                let topology = self.log[leading.view].clone();
                let reply = leading.keeper.on_beat(now, &topology, leading.leader_at, &beat);
                self.tell(to);
                self.send(to, from, Message::Reply(reply));
            }
            Message::Reply(reply) => {
                let now = self.local(to);
                let before = self.processes[to].member.lease_until();
                self.processes[to].member.on_reply(now, &reply);
                if self.processes[to].member.lease_until() > before {
                    self.seen.leases += 1;
                    self.check_invariant(&[to], Revision(0));
                }
            }
            Message::Vote { term } => {
                self.hear_term(to, term, None);
                if term > self.processes[to].promised {
                    self.processes[to].promised = term;
                    // Of the milliseconds one may have been seen only in part.
                    let silence_ms = self.local(to).since(self.processes[to].followed);
                    let silence_ms = silence_ms.saturating_sub(1);
                    self.send(to, from, Message::Voted { term, silence_ms });
                }
            }
            Message::Voted { term, silence_ms } => {
                let voter = self.processes[from].node;
                let now = self.local(to);
                let Some(candidate) = &mut self.candidate else { return };
                let is_due = candidate.process == to && candidate.term == term;
                if !is_due || self.processes[to].promised != term {
                    return;
                }
                candidate.votes |= 1 << voter;
                let followed = Millis(now.0 - at_least_us(silence_ms * 1_000) / 1_000);
                candidate.vacant_since = candidate.vacant_since.max(followed);
                if candidate.votes.count_ones() as usize > VOTERS / 2 {
                    let vacant_since = candidate.vacant_since;
                    self.candidate = None;
                    self.win(to, term, vacant_since);
                }
            }
            Message::Check { term, check, view } => {
                self.hear_term(to, term, Some(from));
                if self.processes[to].node < VOTERS && term >= self.processes[to].promised {
                    self.processes[to].promised = term;
                    self.processes[to].followed = self.local(to);
                    self.send(to, from, Message::Checked { term, check });
                }
                let revision = self.log[view].revision();
                self.processes[to].member.on_topology(revision);
                let slow = self.in_storm() && self.dice.percent(20);
                let delay = self.dice.below(if slow { 600_000 } else { 10_000 });
                if revision > self.processes[to].member.confirmed() {
                    self.at(delay, What::Confirm(to, revision));
                }
            }
            Message::Checked { term, check } => {
                let voter = self.processes[from].node;
                let committed = self.entries.iter().filter(|entry| entry.term == term);
                let view = committed.filter_map(|entry| entry.committed_as).max();
                let now = self.local(to);
                let Process { leading, member, timing, .. } = &mut self.processes[to];
                let Some(leading) = leading.as_mut().filter(|leading| leading.term == term) else {
                    return;
                };
                leading.view = leading.view.max(view.unwrap_or(0));
                if leading.check == check {
                    leading.acked |= 1 << voter;
                    if leading.acked.count_ones() as usize > VOTERS / 2 {
                        leading.leader_at = leading.leader_at.max(leading.check_began);
                        member.on_keeping(now, Some(leading.leader_at.plus(timing.leadership_ms)));
                    }
                }
            }
            Message::Append { term, entry } => {
                self.hear_term(to, term, Some(from));
                if self.accept(to, term, entry) {
                    self.send(to, from, Message::Appended { term, entry });
                }
            }
            Message::Appended { term, entry } => {
                let Some(view) = self.entries[entry].committed_as else { return };
                let Some(leading) = &mut self.processes[to].leading else { return };
                if leading.term == term {
                    leading.view = leading.view.max(view);
                }
            }
        }
    }

    // ---- the processes ----

    fn tick(&mut self, process: usize) {
        self.at(TICK_US, What::Tick(process));
        let now = self.local(process);
        if let Some(beat) = self.processes[process].member.tick(now) {
            let leader = self.processes[process].leader.1;
            if leader == process {
                self.arrives(process, process, Message::Beat(beat));
            } else {
                self.send(process, leader, Message::Beat(beat));
            }
        }
        self.lead(process, now);
    }

    fn lead(&mut self, process: usize, now: Millis) {
        let node = self.processes[process].node;
        let Some(leading) = &mut self.processes[process].leading else { return };
        let topology = self.log[leading.view].clone();
        let mut effects = Vec::new();
        leading.keeper.tick(now, &topology, &mut effects);
        let ask = now.since(leading.check_began) >= 30;
        if ask {
            leading.check += 1;
            leading.check_began = now;
            leading.acked = 1 << node;
            self.processes[process].followed = now;
        }
        let Some(leading) = &self.processes[process].leading else { return };
        let (term, check, view) = (leading.term, leading.check, leading.view);
        self.tell(process);
        if ask {
            self.broadcast(process, NODES, &Message::Check { term, check, view });
            let revision = topology.revision();
            if revision > self.processes[process].member.confirmed() {
                self.processes[process].member.on_topology(revision);
                self.at(2_000, What::Confirm(process, revision));
            }
        }
        for effect in effects {
            match effect {
                Effect::Propose(command) => self.append(process, command),
                Effect::HandOver(request) => self.hand_over(&request),
                Effect::Plan(request) => {
                    let wishes = planner::wishes(&topology, |node| request.counts(node));
                    let delay = self.dice.below(200_000);
                    self.at(delay, What::Planned(process, term, request, wishes));
                }
                Effect::Probe(node) => {
                    let target = self.process_in(&topology, node);
                    if target.is_some_and(|target| !self.processes[target].alive) {
                        self.at(1_000, What::Refused(node));
                    }
                }
            }
        }
    }

    fn hand_over(&mut self, request: &HandOverRequest) {
        let step = |partition: &Partition| (*partition, Step::HandOver(request.to));
        let steps = request.partitions.iter().map(step).collect();
        let delay = 1_000 + self.dice.below(20_000);
        self.seen.hand_overs += 1;
        self.at(delay, What::Ask(Command::Steps(steps)));
    }

    /// The primaries have filled what they were to fill.
    fn fill(&mut self) {
        self.at(30_000, What::Fill);
        let topology = self.latest().clone();
        for (node, _) in topology.nodes() {
            let lacks = topology.partitions().filter(|(_, owners)| {
                owners.replicas().any(|replica| replica == (node, false))
                    && owners.primary().is_some_and(|primary| topology.is_up(primary))
            });
            let partitions: Vec<(Partition, Epoch)> =
                lacks.map(|(partition, owners)| (partition, owners.epoch)).collect();
            if !partitions.is_empty() && topology.is_up(node) {
                self.at(
                    5_000,
                    What::Ask(Command::InSync { node, known: topology.revision(), partitions }),
                );
            }
        }
        if !self.in_storm() {
            for (node, _) in topology.nodes().filter(|(_, member)| member.draining) {
                self.at(0, What::Ask(Command::Drain { node, on: false }));
            }
        }
        // Whoever runs and is not in the topology asks to be let in.
        for process in self.current {
            let incarnation = self.processes[process].incarnation;
            if self.runs(process) && self.process_in_topology(&topology, process).is_none() {
                let node = introduction(self.processes[process].node, incarnation);
                self.at(5_000, What::Ask(Command::Join(node)));
            }
        }
    }

    fn process_in_topology(&self, topology: &Topology, process: usize) -> Option<NodeIndex> {
        let name = format!("node-{}", self.processes[process].node);
        let (node, member) = topology.named(&name)?;
        (member.node.incarnation == self.processes[process].incarnation).then_some(node)
    }

    // ---- the weather ----

    fn weather(&mut self) {
        if !self.in_storm() {
            self.clear_up();
            return;
        }
        let next = 20_000 + self.dice.below(200_000);
        self.at(next, What::Weather);
        let node = self.dice.below(NODES as u64) as usize;
        let other = self.dice.below(NODES as u64) as usize;
        let process = self.dice.below(self.processes.len() as u64) as usize;
        match self.dice.below(12) {
            0..3 => self.cut[node][other] = node != other,
            3 => (0..NODES).filter(|other| *other != node).for_each(|other| {
                (self.cut[node][other], self.cut[other][node]) = (true, true);
            }),
            4 | 5 => self.cut = [[false; NODES]; NODES],
            6 | 7 => {
                let pause = self.dice.below(700_000);
                self.processes[process].paused_until = self.now + pause;
            }
            8 => {
                // The past self may be gone, or asleep, or run on unnoticed.
                let past = self.current[node];
                match self.dice.below(3) {
                    0 => self.processes[past].alive = false,
                    1 => self.processes[past].paused_until = self.now + self.dice.below(500_000),
                    _ => {}
                }
                // A voter has one life at a time: it locks its disk.
                if node < VOTERS {
                    self.processes[past].alive = false;
                }
                self.seen.restarts += 1;
                self.start(node);
            }
            9 => {
                let topology = self.latest().clone();
                let mut primaries = topology.partitions().filter_map(|(_, owners)| {
                    Some((owners.primary()?, owners.replicas().next()?.0))
                });
                if let Some((primary, replica)) = primaries.nth(node) {
                    self.at(0, What::Ask(Command::Exclude { primary, replica, keep: 1 }));
                }
            }
            10 => self.at(0, What::Refused(NodeIndex(node as u16))),
            _ => {
                let on = self.dice.percent(30);
                self.at(0, What::Ask(Command::Drain { node: NodeIndex(node as u16), on }));
            }
        }
    }

    fn clear_up(&mut self) {
        self.cut = [[false; NODES]; NODES];
        for process in &mut self.processes {
            process.paused_until = process.paused_until.min(self.now);
        }
        for node in 0..NODES {
            if !self.processes[self.current[node]].alive {
                self.start(node);
            }
        }
    }

    // ---- what must hold ----

    /// A keeper may have called more settled. Word of that travels, at best, at once.
    fn tell(&mut self, process: usize) {
        let Some(leading) = &self.processes[process].leading else { return };
        let before = self.told;
        if leading.keeper.settled() > before {
            self.told = leading.keeper.settled();
            self.seen.settled += 1;
            let all: Vec<usize> = (0..self.processes.len()).collect();
            self.check_invariant(&all, before);
        }
    }

    fn check_invariant(&self, processes: &[usize], after: Revision) {
        for &(revision, process) in &self.losses {
            if revision > self.told || revision <= after || !processes.contains(&process) {
                continue;
            }
            let Process { alive, member, incarnation, .. } = &self.processes[process];
            let acts = *alive && member.has_lease(self.local(process));
            assert!(
                !acts || member.confirmed() >= revision,
                "at {} us {:?} of node {} acts under revision {:?} until {:?} (now {:?}), but {:?}, \
                 which took something from it, is settled",
                self.now,
                incarnation,
                self.processes[process].node,
                member.confirmed(),
                member.lease_until(),
                self.local(process),
                revision,
            );
        }
    }

    fn all_is_well(&self) {
        let topology = self.latest();
        assert_eq!(self.told, topology.revision(), "what is settled");
        for process in self.current {
            let node = self.process_in_topology(topology, process);
            assert!(node.is_some_and(|node| topology.is_up(node)), "{process} is not up");
            let member = &self.processes[process].member;
            assert!(member.has_lease(self.local(process)), "{process} has no lease");
        }
        for (partition, owners) in topology.partitions() {
            assert_eq!(owners.in_sync(), 2, "{partition:?}: {owners:?}");
        }
    }

    fn run(&mut self) {
        while let Some((std::cmp::Reverse((at, _)), event)) = self.queue.pop() {
            if at > STORM_US + CALM_US {
                break;
            }
            self.now = at;
            let what = self.events[event].take().expect("an event happens once");
            self.happens(what);
        }
        self.all_is_well();
    }

    fn happens(&mut self, what: What) {
        let process = match &what {
            What::Tick(process) | What::Confirm(process, _) | What::Planned(process, ..) => {
                Some(*process)
            }
            What::Arrives { to, .. } => Some(*to),
            _ => None,
        };
        if let Some(process) = process {
            if !self.processes[process].alive {
                return;
            }
            let wakes_at = self.processes[process].paused_until;
            if wakes_at > self.now {
                return self.at(wakes_at - self.now, what);
            }
        }
        match what {
            What::Tick(process) => self.tick(process),
            What::Arrives { from, to, message } => self.arrives(from, to, message),
            What::Confirm(process, revision) => {
                self.processes[process].member.on_confirmed(revision);
            }
            What::Planned(process, term, request, wishes) => {
                let leading = self.processes[process].leading.as_mut();
                if let Some(leading) = leading.filter(|leading| leading.term == term) {
                    leading.keeper.on_wishes(&request, wishes);
                }
            }
            What::Ask(command) => {
                if let Some(leader) = self.leader().filter(|leader| self.runs(*leader)) {
                    self.append(leader, command);
                }
            }
            What::Refused(node) => {
                let leader = self.leader();
                let leading = leader.and_then(|leader| self.processes[leader].leading.as_mut());
                if let Some(leading) = leading {
                    leading.keeper.on_refused(node);
                }
            }
            What::Election => self.election(),
            What::Weather => self.weather(),
            What::Fill => self.fill(),
        }
    }
}

#[test]
fn nobody_acts_against_what_is_settled() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let one: Option<u64> = number("SEAWALL_SEED");
    let count = number("SEAWALL_SEEDS").unwrap_or(SEEDS);
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    let mut all = Seen::default();
    for seed in seeds.clone() {
        let history = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            world.seen
        });
        let seen = match history {
            Ok(seen) => seen,
            Err(failure) => {
                println!("SEAWALL_SEED={seed}");
                std::panic::resume_unwind(failure);
            }
        };
        all.leases += seen.leases;
        all.settled += seen.settled;
        all.elections += seen.elections;
        all.downs += seen.downs;
        all.ups += seen.ups;
        all.hand_overs += seen.hand_overs;
        all.given_up += seen.given_up;
        all.fenced += seen.fenced;
        all.restarts += seen.restarts;
    }
    println!("{} histories: {all:?}", seeds.clone().count());
    if one.is_none() {
        // A storm in which nothing happens proves nothing.
        let often = [all.elections, all.downs, all.ups, all.hand_overs, all.restarts];
        assert!(often.iter().all(|happened| *happened > count), "{all:?}");
        assert!(all.given_up > count / 5, "{all:?}");
    }
}
