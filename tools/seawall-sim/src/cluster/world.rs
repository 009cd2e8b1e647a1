//! A whole cluster in virtual time: machines, network, coordinator, clients.
//!
//! [`World::run`] takes one event after the other from the queue. Everything
//! that decides is the code of the cluster and the engine; what is here carries
//! bytes and messages between them.

use super::clients::{Ask, Client, EXACT_US, Going, Load, Recorder};
use super::coordinator::Coordinator;
use super::data::{Answer, Core, CoreTell, Op, Origin, Request, Turn};
use super::faults::{Fault, What};
use super::hub::{End, Event, Hub, MS, Who};
use super::machine::{
    Lead, Machine, Message, NodeSetup, Process, SKEW_MS, machine_name, machine_of,
};
use super::network::Network;
use cluster::change::Command;
use cluster::keeper::{self, Keeper};
use cluster::node::{Effect, Report, Tell};
use cluster::planner;
use cluster::ring::Partition;
use cluster::topology::{Epoch, Incarnation, Keeping, NodeIndex, Topology};
use engine::{HashSeed, KeyHash};
use std::sync::Arc;

/// The control thread looks around so often.
const CONTROL_US: u64 = 5 * MS;
/// A core's loop turns at least so often.
const TURN_US: u64 = 5 * MS;
/// The coordinator's leader writes to all so often.
const LOG_MS: u64 = 50;
/// When clients begin.
pub const CLIENTS_FROM: u64 = 1_000 * MS;
/// When faults begin.
pub const FAULTS_FROM: u64 = 1_500 * MS;
/// So long after the last fault, the cluster must be whole.
const WHOLE_WITHIN: u64 = 15_000 * MS;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub nodes: usize,
    pub copies: u8,
    pub ring_bits: u32,
    pub node: NodeSetup,
    pub load: Load,
    pub clients: u32,
    pub calm_at: u64,
    pub drift: bool,
    /// Processes stand still now and then.
    pub pauses: bool,
    /// Print what the coordinator commits.
    pub log: bool,
    /// Print what happens to this key.
    pub watch: Option<u32>,
}

/// See the module's text.
pub struct World {
    pub setup: Setup,
    pub hub: Hub,
    pub net: Network,
    pub machines: Vec<Machine>,
    pub coordinator: Coordinator,
    pub clients: Vec<Client>,
    pub recorder: Recorder,
    pub faults: Vec<Fault>,
    pub hashes: Vec<KeyHash>,
    /// Partitions that began anew, as every in-sync copy was lost: how often.
    pub born: u64,
    /// By machine, whether an operator wants it empty.
    pub(super) drained: Vec<bool>,
    pub failovers: u64,
    pub garbage: u64,
    pub problems: Vec<String>,
    /// When the cluster was whole again.
    pub whole_at: Option<u64>,
    calm: bool,
    over: bool,
    next_operation: u64,
    next_value: u64,
    pub(super) next_ask: u64,
    read_back: Vec<bool>,
}

impl World {
    /// A cluster that is about to start.
    pub fn new(setup: Setup, mut hub: Hub, faults: Vec<Fault>) -> World {
        let machines: Vec<Machine> =
            (0..setup.nodes).map(|_| Machine::new(&mut hub.random, setup.drift)).collect();
        let mut topology = Topology::default();
        topology.apply(&Command::Create {
            name: "sim".into(),
            ring_bits: setup.ring_bits,
            copies: setup.copies,
            seed: setup.node.seed,
        });
        let seed = HashSeed::new(setup.node.seed);
        let hash = |key| KeyHash::of(super::data::key_name(key).as_bytes(), &seed);
        let mut world = World {
            net: Network::new(setup.nodes),
            coordinator: Coordinator::new(setup.nodes, topology),
            clients: vec![Client::default(); setup.clients as usize],
            recorder: Recorder::new(setup.load.keys, slack(&setup)),
            hashes: (0..setup.load.keys).map(hash).collect(),
            born: 0,
            drained: vec![false; setup.nodes],
            failovers: 0,
            garbage: 0,
            problems: Vec::new(),
            whole_at: None,
            calm: false,
            over: false,
            next_operation: 0,
            next_value: 1,
            next_ask: 1,
            read_back: vec![false; setup.load.keys as usize],
            machines,
            faults,
            hub,
            setup,
        };
        for machine in 0..world.setup.nodes {
            if !world.faults.iter().any(|fault| fault.what == What::Late(machine)) {
                world.start(machine);
            }
        }
        world.hub.after(CLIENTS_FROM, Event::Operate);
        world.hub.after(MS, Event::Elect);
        for client in 0..world.setup.clients {
            let at = CLIENTS_FROM + world.hub.random.below(50 * MS);
            world.hub.after(at, Event::Client { client });
        }
        for number in 0..world.faults.len() {
            world.hub.after(world.faults[number].from, Event::Fault(number));
        }
        world.hub.after(world.setup.calm_at, Event::Calm);
        world
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        while !self.over {
            let Some(event) = self.hub.pop() else { break };
            self.happen(event);
        }
    }

    fn start(&mut self, machine: usize) {
        let who = self.machines[machine].start(machine, &self.setup.node, self.hub.at);
        self.wake_control(who, 0);
        for core in 0..self.setup.node.cores(machine) {
            self.wake(who, core, 0);
        }
    }

    /// The control thread is to look around within so many microseconds.
    pub(super) fn wake_control(&mut self, who: Who, within: u64) {
        let at = self.hub.at + within;
        let Some(process) = self.machines[who.machine].process(who) else { return };
        if at < process.due {
            process.due = at;
            self.hub.after(within, Event::Control { who });
        }
    }

    /// A core is to turn within so many microseconds.
    fn wake(&mut self, who: Who, core: u16, within: u64) {
        let at = self.hub.at + within;
        let Some(process) = self.machines[who.machine].process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        if at < own.due {
            own.due = at;
            self.hub.after(within, Event::Core { who, core });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Control { who } => self.control_turn(who),
            Event::Core { who, core } => self.core_turn(who, core),
            Event::Message { to, message } => {
                if let Some(process) = &mut self.machines[to].process {
                    process.inbox.push_back(*message);
                    let who = process.who;
                    self.wake_control(who, 50);
                }
            }
            Event::Tell { who, core, tell } => {
                if let Some(process) = self.machines[who.machine].process(who) {
                    process.cores[usize::from(core)].tells.push_back(tell);
                    self.wake(who, core, 20);
                }
            }
            Event::Report { who, core, acts, report } => {
                if let Some(process) = self.machines[who.machine].process(who) {
                    process.reports.push_back((core, acts, report));
                    let soon = matches!(report_kind(process), ReportKind::News);
                    if soon {
                        self.wake_control(who, 50);
                    }
                }
            }
            Event::Bytes { link, to, bytes } => self.bytes(link, to, &bytes),
            Event::Accept { link } => self.accept(link),
            Event::Connected { link } => self.connected(link),
            Event::Refused { who, core, node } => {
                self.with_core(who, core, |core, turn| core.on_refused(node, turn));
            }
            Event::Closed { link, end } => self.closed(link, end),
            Event::ProbeRefused { who, node } => {
                let process = self.machines[who.machine].process(who);
                if let Some(keeper) = process.and_then(|process| process.keeper.as_mut()) {
                    keeper.on_refused(node);
                }
            }
            Event::Planned { who, request, wishes } => {
                let process = self.machines[who.machine].process(who);
                if let Some(keeper) = process.and_then(|process| process.keeper.as_mut()) {
                    keeper.on_wishes(&request, wishes);
                }
            }
            Event::Request { who, request } => self.request(who, request),
            Event::Invalidate { who, client, operation, target } => {
                match self.machines[who.machine].process(who) {
                    Some(process) => {
                        process.inbox.push_back(Message::Invalidate { client, operation, target });
                        self.wake_control(who, 50);
                    }
                    None => self.answered(client, operation, Answer::Unknown),
                }
            }
            Event::Answer { client, operation, answer } => self.answered(client, operation, answer),
            Event::Client { client } => self.ask(client),
            Event::Timeout { client, operation } => {
                self.answered(client, operation, Answer::Unknown);
            }
            Event::Fault(number) => self.begin_fault(number),
            Event::Heal(number) => self.end_fault(number),
            Event::Commit { term, command, late } => self.commit(term, &command, late),
            Event::Elect => self.elect_if_needed(),
            Event::Operate => self.operate(),
            Event::Start(machine) => {
                if self.machines[machine].process.is_none() {
                    self.start(machine);
                }
            }
            Event::Calm => self.calm_down(),
            Event::Look => self.look(),
        }
    }

    // ---- Cores and links.

    fn core_turn(&mut self, who: Who, core: u16) {
        let at = self.hub.at;
        let machine = &mut self.machines[who.machine];
        let (clock, paused_until) = (machine.clock, machine.paused_until);
        let Some(process) = machine.process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        if own.due != at {
            return;
        }
        own.due = u64::MAX;
        let asleep_until = paused_until.max(own.stalled_until);
        if asleep_until > at {
            return self.wake(who, core, asleep_until - at);
        }
        if let Some(lasts) = machine.interrupt.take() {
            // It has read the clocks, and sleeps before it does anything.
            machine.paused_until = at + lasts;
            let Some(process) = machine.process(who) else { return };
            process.cores[usize::from(core)].stale = Some((clock.millis(at), clock.now(at)));
            return self.wake(who, core, lasts);
        }
        self.with_core(who, core, |core, turn| core.turn(turn));
        let Some(process) = self.machines[who.machine].process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        own.stale = None;
        let within = if own.is_busy() { MS } else { TURN_US };
        self.wake(who, core, within);
    }

    /// Lets a core do something, and takes note of what came of it.
    fn with_core(&mut self, who: Who, core: u16, act: impl FnOnce(&mut Core, &mut Turn<'_>)) {
        let at = self.hub.at;
        let life = |machine: &Machine| machine.process.as_ref().map(|process| process.who.life);
        let lives: Vec<Option<u64>> = self.machines.iter().map(life).collect();
        let machine = &mut self.machines[who.machine];
        let now = machine.clock;
        let Some(process) = machine.process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        let (clock, wall) = own.stale.unwrap_or((now.millis(at), now.now(at)));
        let mut turn = Turn {
            hub: &mut self.hub,
            net: &mut self.net,
            lives: &lives,
            clock,
            now: wall,
            clock_at_end: now.millis(at),
            acknowledged: Vec::new(),
            garbage: 0,
            watch: self.setup.watch,
        };
        act(own, &mut turn);
        self.garbage += turn.garbage;
        let name = machine_name(who.machine);
        for (partition, epoch) in turn.acknowledged {
            self.recorder.acknowledge(partition, epoch, &name, at);
        }
    }

    fn bytes(&mut self, link: u64, to: End, bytes: &[u8]) {
        let Some(found) = self.net.link(link).filter(|_| self.net.is_alive(link)) else { return };
        let (place, peer) = match to {
            End::Opener => (found.opener, found.acceptor_peer),
            End::Acceptor => (found.acceptor, found.opener_peer),
        };
        if let Some(process) = self.machines[place.who.machine].process(place.who) {
            process.cores[usize::from(place.core)].on_bytes(link, peer, to, bytes);
            let within = self.hub.random.between(5, 100);
            self.wake(place.who, place.core, within);
        }
    }

    fn accept(&mut self, link: u64) {
        let Some(found) = self.net.link(link) else { return };
        let (place, peer) = (found.acceptor, found.opener_peer);
        let cores = usize::from(self.setup.node.cores(place.who.machine));
        let Some(process) = self.machines[place.who.machine].process(place.who) else {
            return self.net.reset(link, MS, &mut self.hub);
        };
        if usize::from(place.core) >= cores {
            return self.net.reset(link, MS, &mut self.hub);
        }
        let old = process.cores[usize::from(place.core)].on_accept(link, peer);
        if let Some(old) = old {
            self.net.reset(old, 5 * MS, &mut self.hub);
        }
        self.wake(place.who, place.core, 50);
    }

    fn connected(&mut self, link: u64) {
        if !self.net.is_alive(link) {
            return;
        }
        let Some(found) = self.net.link(link) else { return };
        let (place, peer) = (found.opener, found.acceptor_peer);
        self.with_core(place.who, place.core, |core, turn| core.on_connected(link, peer, turn));
        self.wake(place.who, place.core, 50);
    }

    fn closed(&mut self, link: u64, end: End) {
        let Some(found) = self.net.link(link) else { return };
        let (place, peer) = match end {
            End::Opener => (found.opener, found.acceptor_peer),
            End::Acceptor => (found.acceptor, found.opener_peer),
        };
        let machine = &self.machines[place.who.machine];
        if machine.paused_until > self.hub.at {
            // It learns of it when it wakes up.
            let late = machine.paused_until - self.hub.at;
            self.hub.after(late, Event::Closed { link, end });
            return;
        }
        self.with_core(place.who, place.core, |core, turn| core.on_closed(link, peer, end, turn));
        self.wake(place.who, place.core, 50);
    }

    // ---- The control thread.

    fn control_turn(&mut self, who: Who) {
        let at = self.hub.at;
        let machine = &mut self.machines[who.machine];
        let (now, paused_until) = (machine.clock.millis(at), machine.paused_until);
        let Some(process) = machine.process(who) else { return };
        if process.due != at {
            return;
        }
        process.due = u64::MAX;
        if paused_until > at {
            return self.wake_control(who, paused_until - at);
        }
        let Some(mut process) = machine.process.take() else { return };
        let mut effects = Vec::new();
        if let Some(lead) = &process.lead {
            let at = lead.confirmed_at(now, who.machine);
            let until = at.plus(self.setup.node.timing.leadership_ms);
            process.control.on_keeping(now, Some(until), &mut effects);
        }
        while let Some(message) = process.inbox.pop_front() {
            self.take_message(&mut process, message, &mut effects);
        }
        let topology = Arc::clone(self.coordinator.state(process.applied));
        process.control.on_topology(topology, &mut effects);
        while let Some((core, acts, report)) = process.reports.pop_front() {
            process.control.on_report(now, core, acts, report, &mut effects);
        }
        process.control.tick(now, &mut effects);
        self.spread(&mut process);
        let gone = self.say_farewell(&mut process, &mut effects);
        self.lead(&mut process);
        let ends = effects.contains(&Effect::Superseded);
        for effect in effects {
            self.control_effect(&mut process, effect);
        }
        self.machines[who.machine].process = Some(process);
        if gone {
            self.crash(who.machine);
            let late = self.hub.random.between(MS, 800 * MS);
            self.hub.after(late, Event::Start(who.machine));
            return;
        }
        if ends {
            self.problems.push(format!("{} ended itself at {at}", machine_name(who.machine)));
        }
        self.wake_control(who, CONTROL_US);
    }

    fn take_message(&mut self, process: &mut Process, message: Message, effects: &mut Vec<Effect>) {
        let own = process.who.machine;
        let now = self.machines[own].clock.millis(self.hub.at);
        match message {
            Message::Log { term, leader, upto, sent } => {
                if term < self.coordinator.promised[own] {
                    return;
                }
                self.coordinator.promised[own] = term;
                if term > process.term {
                    process.term = term;
                    process.leader = Some(leader);
                    process.lead = process.lead.take().filter(|lead| lead.term == term);
                    if process.lead.is_none() {
                        process.keeper = None;
                        process.control.on_keeping(now, None, effects);
                    }
                    process.control.on_leader();
                }
                process.applied = process.applied.max(upto);
                self.send(own, leader, Message::LogAck { term, from: own, sent });
            }
            Message::LogAck { term, from, sent } => {
                if let Some(lead) = process.lead.as_mut().filter(|lead| lead.term == term) {
                    lead.acks[from] = lead.acks[from].max(Some(sent));
                }
            }
            Message::Propose { command, hops } => match (&process.lead, process.leader) {
                (Some(lead), _) => {
                    let (term, late) = (lead.term, false);
                    let agreed = self.hub.random.between(300, 2_500);
                    let command = Box::new(command);
                    self.hub.after(agreed, Event::Commit { term, command, late });
                }
                (None, Some(leader)) if leader != own && hops < 2 => {
                    self.send(own, leader, Message::Propose { command, hops: hops + 1 });
                }
                _ => {}
            },
            Message::Beat { from, beat } => {
                let topology = Arc::clone(self.coordinator.state(process.applied));
                let (Some(keeper), Some(lead)) = (&mut process.keeper, &process.lead) else {
                    return;
                };
                let leader_at = lead.confirmed_at(now, own);
                let reply = keeper.on_beat(now, &topology, leader_at, &beat);
                self.send(own, from, Message::Reply(reply));
            }
            Message::Reply(reply) => process.control.on_reply(now, &reply, effects),
            Message::HandOver(request) => process.control.on_hand_over(now, &request, effects),
            Message::Invalidate { client, operation, target } => {
                self.begin_spread(process, client, operation, target);
            }
            Message::Word { from, word } => self.hear_word(process, from, word),
            Message::Said { ask, core, acts, latest } => {
                self.hear_core(process, ask, core, acts, latest);
            }
            Message::Answered { from, word, answer } => {
                super::spreads::hear_node(process, from, &word, answer);
            }
        }
    }

    /// What the coordinator's leader does beside.
    fn lead(&mut self, process: &mut Process) {
        let own = process.who.machine;
        let now = self.machines[own].clock.millis(self.hub.at);
        let Some(lead) = &mut process.lead else { return };
        let news = lead.wrote_at.0 == 0;
        if news || now.since(lead.wrote_at) >= LOG_MS {
            lead.wrote_at = now;
            let (term, leader, upto, sent) = (lead.term, own, process.applied, now);
            for to in (0..self.machines.len()).filter(|to| *to != own) {
                self.send(own, to, Message::Log { term, leader, upto, sent });
            }
        }
        let Some(lead) = &mut process.lead else { return };
        if now.since(lead.ticked_at) < 20 {
            return;
        }
        lead.ticked_at = now;
        let topology = Arc::clone(self.coordinator.state(process.applied));
        let mut effects = Vec::new();
        if let Some(keeper) = &mut process.keeper {
            keeper.tick(now, &topology, &mut effects);
        }
        for effect in effects {
            match effect {
                keeper::Effect::Propose(command) => {
                    self.send(own, own, Message::Propose { command, hops: 0 });
                }
                keeper::Effect::HandOver(request) => {
                    if let Some(to) = machine_at(&topology, request.primary) {
                        self.send(own, to, Message::HandOver(request));
                    }
                }
                keeper::Effect::Plan(request) => {
                    let wishes = planner::wishes(&topology, |node| request.counts(node));
                    let (who, late) = (process.who, self.hub.random.between(MS, 40 * MS));
                    self.hub.after(late, Event::Planned { who, request, wishes });
                }
                keeper::Effect::Probe(node) => {
                    let Some(to) = machine_at(&topology, node) else { continue };
                    if self.machines[to].process.is_none() && self.net.both_ways(own, to) {
                        let who = process.who;
                        self.hub.after(MS, Event::ProbeRefused { who, node });
                    }
                }
            }
        }
    }

    fn control_effect(&mut self, process: &mut Process, effect: Effect) {
        let own = process.who.machine;
        match effect {
            Effect::Beat(mut beat) => {
                beat.healthy &= process.farewell.is_none_or(|own| own.ends_at.is_none());
                if let Some(leader) = process.leader {
                    self.send(own, leader, Message::Beat { from: own, beat });
                }
            }
            Effect::Propose(command) => {
                self.send(own, own, Message::Propose { command, hops: 0 });
            }
            Effect::Tell(Tell::Lease(until)) => {
                process.cores.iter_mut().for_each(|core| core.set_lease(until));
            }
            Effect::Tell(tell) => self.tell_cores(process, &CoreTell::Control(tell)),
            Effect::Disconnect(node) => self.tell_cores(process, &CoreTell::Close(node)),
            Effect::Connect { .. } | Effect::Superseded => {}
        }
    }

    /// Through the rings, to each core in its own time.
    pub(super) fn tell_cores(&mut self, process: &mut Process, tell: &CoreTell) {
        let who = process.who;
        let lag = self.machines[who.machine].lag_us;
        for core in 0..self.setup.node.cores(who.machine) {
            let late = self.hub.random.between(20, 300) + self.hub.random.below(lag + 1);
            let at = &mut process.tell_at[usize::from(core)];
            *at = (self.hub.at + late).max(*at);
            let event = Event::Tell { who, core, tell: tell.clone() };
            self.hub.after(*at - self.hub.at, event);
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        for late in self.net.send(from, to, &mut self.hub) {
            self.hub.after(late, Event::Message { to, message: Box::new(message.clone()) });
        }
    }

    // ---- The coordinator.

    fn is_quorum(&self, leader: usize) -> bool {
        let follows = |voter: &usize| {
            *voter == leader
                || self.machines[*voter].is_awake(self.hub.at) && self.net.both_ways(leader, *voter)
        };
        (0..self.machines.len()).filter(follows).count() > self.machines.len() / 2
    }

    /// Whether somebody can commit.
    fn functional(&self) -> Option<Who> {
        let leader = self.coordinator.leader?;
        let machine = &self.machines[leader.machine];
        let lives = machine.process.as_ref().is_some_and(|process| process.who == leader);
        (lives && machine.is_awake(self.hub.at) && self.is_quorum(leader.machine)).then_some(leader)
    }

    fn commit(&mut self, term: u64, command: &Command, late: bool) {
        let leader = self.functional().filter(|_| late || term == self.coordinator.term);
        let Some(leader) = leader else {
            // A majority may have it all the same, and a later leader finds it.
            if !late && self.hub.random.percent(40) {
                let found = self.hub.random.between(100 * MS, 900 * MS);
                let command = Box::new(command.clone());
                self.hub.after(found, Event::Commit { term, command, late: true });
            }
            return;
        };
        let before = Arc::clone(self.coordinator.latest());
        let outcome = self.coordinator.commit(command);
        self.hub.note(format!("{outcome:?}").len() as u64);
        if self.setup.log {
            eprintln!("{:>9} us  {command:?}: {outcome:?}", self.hub.at);
        }
        let after = Arc::clone(self.coordinator.latest());
        for ((partition, was), (_, is)) in before.partitions().zip(after.partitions()) {
            if was.born != is.born && was.born != Epoch(0) {
                self.begin_anew(partition, &after);
            }
            self.failovers += u64::from(was.primary().is_some() && was.primary() != is.primary());
        }
        let entries = self.coordinator.committed();
        if let Some(process) = self.machines[leader.machine].process(leader) {
            process.applied = entries;
            if let Some(lead) = &mut process.lead {
                lead.wrote_at.0 = 0;
            }
            self.wake_control(leader, 100);
        }
    }

    fn elect_if_needed(&mut self) {
        let at = self.hub.at;
        self.hub.after(25 * MS, Event::Elect);
        if self.functional().is_some() {
            self.coordinator.leaderless_since = None;
            return;
        }
        let since = *self.coordinator.leaderless_since.get_or_insert(at);
        let patience = self.hub.random.between(100 * MS, 300 * MS);
        if self.coordinator.leader.is_none() || at - since > patience {
            self.elect();
        }
    }

    /// Makes one of those the leader that reach a majority.
    fn elect(&mut self) {
        let at = self.hub.at;
        let able =
            |machine: &usize| self.machines[*machine].is_awake(at) && self.is_quorum(*machine);
        let able: Vec<usize> = (0..self.machines.len()).filter(able).collect();
        let Some(&winner) = self.hub.random.pick(&able) else { return };
        self.coordinator.term += 1;
        let term = self.coordinator.term;
        // A bare majority votes: the others hear of it later.
        let mut voters: Vec<usize> = (0..self.machines.len())
            .filter(|voter| *voter != winner)
            .filter(|voter| {
                self.machines[*voter].is_awake(at) && self.net.both_ways(winner, *voter)
            })
            .collect();
        while voters.len() > self.machines.len() / 2 {
            let out = self.hub.random.below(voters.len() as u64) as usize;
            voters.remove(out);
        }
        voters.push(winner);
        for voter in voters {
            self.coordinator.promised[voter] = term;
        }
        let entries = self.coordinator.committed();
        let now = self.machines[winner].clock.millis(at);
        let timing = self.setup.node.timing.clone();
        let topology = Arc::clone(self.coordinator.latest());
        let Some(process) = &mut self.machines[winner].process else { return };
        process.term = term;
        process.leader = Some(winner);
        process.applied = entries;
        let acks = vec![None; self.setup.nodes];
        let zero = cluster::time::Millis(0);
        process.lead = Some(Lead { term, acks, wrote_at: zero, ticked_at: zero });
        let incarnation = Incarnation(process.who.life);
        let me = Keeping { term, name: machine_name(winner), incarnation };
        process.keeper = Some(Keeper::new(now, timing, planner::Limits::default(), me, &topology));
        process.control.on_leader();
        let who = process.who;
        self.coordinator.leader = Some(who);
        self.coordinator.leaderless_since = None;
        self.wake_control(who, 100);
    }

    // ---- Clients.

    fn ask(&mut self, client: u32) {
        if self.calm {
            return;
        }
        let value = self.next_value;
        self.next_value += 1;
        let own = &mut self.clients[client as usize];
        if self.hub.random.percent(15) {
            own.machine = self.hub.random.below(self.setup.nodes as u64) as usize;
        }
        let ask = own.next(&mut self.hub.random, &self.setup.load, value);
        self.issue(client, ask);
    }

    fn issue(&mut self, client: u32, ask: Ask) {
        let (operation, at) = (self.next_operation, self.hub.at);
        self.next_operation += 1;
        let own = &mut self.clients[client as usize];
        own.going = Some(Going { operation, ask, invoked: at });
        let mut patience = self.hub.random.between(200 * MS, 2_600 * MS);
        if matches!(ask, Ask::Invalidate(_)) {
            // It is told what became of it.
            patience = 4_000 * MS;
        }
        self.hub.after(patience, Event::Timeout { client, operation });
        let machine = own.machine;
        match self.machines[machine].process.as_ref().map(|process| process.who) {
            Some(who) => {
                let late = self.hub.random.between(30, 300);
                let event = match ask {
                    Ask::Key(key, op) => {
                        let origin = Origin::Client { client, operation };
                        let hash = self.hashes[key as usize];
                        Event::Request { who, request: Request { origin, key, hash, op } }
                    }
                    Ask::Invalidate(target) => Event::Invalidate { who, client, operation, target },
                };
                self.hub.after(late, event);
            }
            None => {
                // Nobody listens.
                let answer = Answer::Refused;
                self.hub.after(MS, Event::Answer { client, operation, answer });
            }
        }
    }

    fn request(&mut self, who: Who, request: Request) {
        let core = request.hash.core(u32::from(self.setup.node.cores(who.machine))) as u16;
        let Origin::Client { client, operation } = request.origin else { return };
        match self.machines[who.machine].process(who) {
            Some(process) => {
                process.cores[usize::from(core)].requests.push_back(request);
                self.wake(who, core, 20);
            }
            None => {
                let answer = Answer::Unknown;
                self.hub.after(MS, Event::Answer { client, operation, answer });
            }
        }
    }

    fn answered(&mut self, client: u32, operation: u64, answer: Answer) {
        let at = self.hub.at;
        let own = &mut self.clients[client as usize];
        let Some(going) = own.going.take_if(|going| going.operation == operation) else { return };
        self.hub.note(operation);
        self.hub.note(match answer {
            Answer::Value(Some((value, cas))) => value ^ cas,
            other => format!("{other:?}").len() as u64,
        });
        own.remember(&going, answer);
        let failed = matches!(answer, Answer::Unknown | Answer::Refused | Answer::Elsewhere);
        if failed {
            own.machine = self.hub.random.below(self.setup.nodes as u64) as usize;
        }
        self.recorder.ended(client, &going, at, answer);
        if self.whole_at.is_some() {
            if let Ask::Key(key, _) = going.ask {
                self.read_back[key as usize] |= !failed;
            }
            return self.read_next(client);
        }
        let think = self.hub.random.below(self.setup.load.think_us);
        self.hub.after(think, Event::Client { client });
    }

    // ---- Faults.

    fn begin_fault(&mut self, number: usize) {
        let Fault { from, to, what } = self.faults[number].clone();
        if self.calm {
            return;
        }
        let lasts = to - from;
        self.hub.after(lasts, Event::Heal(number));
        let machines = self.machines.len();
        match what {
            What::Partition(set) => self.sever(set, !set, true),
            What::OneWay(one, other) => self.sever(one, other, false),
            What::Pause { machine, in_turn: true } => {
                self.machines[machine].interrupt = Some(lasts);
            }
            What::Pause { machine, in_turn: false } => {
                let until = &mut self.machines[machine].paused_until;
                *until = (*until).max(to);
            }
            What::Stall { machine, core } => {
                if let Some(process) = &mut self.machines[machine].process {
                    process.cores[usize::from(core)].stalled_until = to;
                }
            }
            What::Crash(machine) => self.crash(machine),
            What::Reset(a, b) => {
                for link in self.net.between(a, b) {
                    self.net.reset(link, 30 * MS, &mut self.hub);
                }
            }
            What::Loss { lost, disordered } => {
                self.net.loss = lost;
                self.net.disorder = disordered;
            }
            What::Leader => self.elect(),
            What::Lag(machine) => self.machines[machine % machines].lag_us = 250 * MS,
            What::Drain(machine) => self.drained[machine] = true,
            What::Leave { machine, patience_ms } => self.begin_farewell(machine, patience_ms),
            What::Late(_) => {}
        }
    }

    fn end_fault(&mut self, number: usize) {
        match self.faults[number].what {
            What::Partition(set) => self.join(set, !set, true),
            What::OneWay(one, other) => self.join(one, other, false),
            What::Pause { .. }
            | What::Stall { .. }
            | What::Reset(..)
            | What::Leader
            | What::Leave { .. } => {}
            What::Drain(machine) => self.drained[machine] = false,
            What::Crash(machine) | What::Late(machine) => {
                if self.machines[machine].process.is_none() {
                    self.start(machine);
                }
            }
            What::Loss { .. } => {
                self.net.loss = 0;
                self.net.disorder = 0;
            }
            What::Lag(machine) => self.machines[machine].lag_us = 0,
        }
    }

    fn pairs(&self, one: u64, other: u64) -> Vec<(usize, usize)> {
        let machines = 0..self.machines.len();
        let pairs = machines.clone().flat_map(|a| machines.clone().map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b && one & 1 << a != 0 && other & 1 << b != 0).collect()
    }

    fn sever(&mut self, one: u64, other: u64, both: bool) {
        for (a, b) in self.pairs(one, other) {
            self.net.block(a, b);
            if both {
                self.net.block(b, a);
            }
            // Some connections break, others hold and come late.
            if self.hub.random.percent(50) {
                for link in self.net.between(a, b) {
                    self.net.reset(link, 400 * MS, &mut self.hub);
                }
            }
        }
    }

    fn join(&mut self, one: u64, other: u64, both: bool) {
        for (a, b) in self.pairs(one, other) {
            self.net.unblock(a, b, &mut self.hub);
            if both {
                self.net.unblock(b, a, &mut self.hub);
            }
        }
    }

    fn crash(&mut self, machine: usize) {
        if self.machines[machine].process.is_none() {
            return;
        }
        self.machines[machine].stop();
        for link in self.net.between(machine, machine) {
            self.net.reset(link, 20 * MS, &mut self.hub);
        }
    }

    /// Every in-sync copy of a partition was lost: by now its keys may be gone.
    fn begin_anew(&mut self, partition: Partition, topology: &Topology) {
        self.born += 1;
        let of = |hash: &KeyHash| topology.ring().of(*hash) == partition;
        for (key, _) in self.hashes.iter().enumerate().filter(|(_, hash)| of(hash)) {
            self.recorder.lost(key as u32, self.hub.at);
        }
    }

    // ---- The end.

    fn calm_down(&mut self) {
        self.calm = true;
        self.drained.fill(false);
        // All faults that last end now: the schedule ends with them.
        for machine in &mut self.machines {
            machine.interrupt = None;
        }
        self.hub.after(600 * MS, Event::Look);
    }

    /// Whether every partition has its copies, and nothing is under way.
    pub fn is_whole(&self) -> Result<(), String> {
        let topology = self.coordinator.latest();
        let copies = usize::from(self.setup.copies).min(self.setup.nodes);
        for (partition, owners) in topology.partitions() {
            let full = owners.in_sync() as usize == copies && owners.copies().len() == copies;
            if !full || !owners.copies().iter().all(|node| topology.is_up(*node)) {
                return Err(format!("partition {} has {owners:?}", partition.0));
            }
        }
        if let Some((_, member)) = topology.nodes().find(|(_, member)| !member.up) {
            return Err(format!("{} is down", member.node.name));
        }
        for (at, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else { return Err(format!("n{at} is gone")) };
            for core in &process.cores {
                let acts = core.replicator.topology().revision();
                if acts != topology.revision() || !core.is_idle() {
                    let latest = topology.revision().0;
                    return Err(format!("n{at} of revision {latest}: {}", core.summary()));
                }
            }
            if process.control.member().settled() != topology.revision() {
                let settled = process.control.member().settled().0;
                return Err(format!("n{at}: {settled} is settled of {}", topology.revision().0));
            }
        }
        if self.clients.iter().any(|client| client.going.is_some()) {
            return Err("a client waits".into());
        }
        Ok(())
    }

    fn look(&mut self) {
        match self.is_whole() {
            Ok(()) => {
                self.whole_at = Some(self.hub.at);
                self.recorder.healed(self.hub.at);
                self.read_next(0);
            }
            Err(why) if self.hub.at > self.setup.calm_at + WHOLE_WITHIN => {
                self.problems.push(format!("not whole: {why}"));
                self.over = true;
            }
            Err(_) => self.hub.after(20 * MS, Event::Look),
        }
    }

    fn read_next(&mut self, client: u32) {
        if self.hub.at > self.setup.calm_at + 2 * WHOLE_WITHIN {
            self.problems.push("the keys could not be read back".into());
            self.over = true;
            return;
        }
        let Some(key) = self.read_back.iter().position(|read| !read) else {
            self.over = true;
            return;
        };
        self.clients[client as usize].machine =
            self.hub.random.below(self.setup.nodes as u64) as usize;
        self.issue(client, Ask::Key(key as u32, Op::Get));
    }
}

enum ReportKind {
    News,
    Nothing,
}

fn report_kind(process: &Process) -> ReportKind {
    match process.reports.back() {
        Some((_, _, Report::Alive)) | None => ReportKind::Nothing,
        Some(_) => ReportKind::News,
    }
}

/// How early or late values may expire.
fn slack(setup: &Setup) -> u64 {
    let skew = if setup.drift { SKEW_MS * MS } else { 0 };
    // Until its lease ends, a turn that was interrupted goes on by its clock.
    let interrupted = if setup.pauses { setup.node.timing.lease_ms * MS } else { 0 };
    EXACT_US + skew + interrupted
}

pub(super) fn machine_at(topology: &Topology, node: NodeIndex) -> Option<usize> {
    machine_of(&topology.member(node)?.node.name)
}
