//! A whole cluster in virtual time: machines, network, coordinator, clients.
//!
//! [`World::run`] takes one event after the other from the queue. Everything
//! that decides is the code of the cluster and the engine; what is here carries
//! bytes and messages between them.
//!
//! | module | holds |
//! |---|---|
//! | [`turns`] | cores that turn, and the links between them |
//! | [`control`] | the control thread of a node |
//! | [`spreads`] | invalidations of the whole cluster |
//! | [`elections`] | who leads the coordinator, and what is committed |
//! | [`asking`] | clients that ask, and are answered |
//! | [`harm`] | faults, as they begin and end |
//! | [`planned`] | what operators do: drain, and ends in order |
//! | [`ending`] | the cluster becomes whole, and all is read back |

mod asking;
mod control;
mod elections;
mod ending;
mod harm;
mod planned;
mod spreads;
mod turns;

use super::clients::{Client, Load};
use super::coordinator::Coordinator;
use super::data::Answer;
use super::faults::{Fault, What};
use super::hub::{Event, Hub, MS, Who};
use super::machine::{Machine, Message, NodeSetup, Process, SKEW_MS, machine_of};
use super::network::Network;
use super::recorder::{EXACT_US, Recorder};
use cluster::change::Command;
use cluster::node::Report;
use cluster::topology::{NodeIndex, Topology};
use engine::{HashSeed, KeyHash};
use std::sync::Arc;

/// When clients begin.
pub const CLIENTS_FROM: u64 = 1_000 * MS;
/// When faults begin.
pub const FAULTS_FROM: u64 = 1_500 * MS;

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
    drained: Vec<bool>,
    pub failovers: u64,
    pub garbage: u64,
    pub zone_reads: u64,
    pub problems: Vec<String>,
    /// When the cluster was whole again.
    pub whole_at: Option<u64>,
    calm: bool,
    over: bool,
    next_operation: u64,
    next_value: u64,
    next_ask: u64,
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
        let keys = Arc::clone(&setup.node.keys);
        let hash = |name: &str| KeyHash::of(name.as_bytes(), &seed);
        let mut world = World {
            net: Network::new(setup.nodes),
            coordinator: Coordinator::new(setup.nodes, topology),
            clients: vec![Client::default(); setup.clients as usize],
            recorder: Recorder::new(Arc::clone(&keys), slack(&setup)),
            hashes: keys.names().map(hash).collect(),
            born: 0,
            drained: vec![false; setup.nodes],
            failovers: 0,
            garbage: 0,
            zone_reads: 0,
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
    fn wake_control(&mut self, who: Who, within: u64) {
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
                    None => self.answered(client, operation, Answer::Unknown, 0),
                }
            }
            Event::Answer { client, operation, answer, epoch } => {
                self.answered(client, operation, answer, epoch);
            }
            Event::Client { client } => self.ask(client),
            Event::Timeout { client, operation } => {
                self.answered(client, operation, Answer::Unknown, 0);
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

fn machine_at(topology: &Topology, node: NodeIndex) -> Option<usize> {
    machine_of(&topology.member(node)?.node.name)
}
