//! The control thread's side of a node in a cluster.
//!
//! [`Control`] decides, this carries out: beats to the keeper, the topology to
//! the cores, proposals to the coordinator, what cores report back to it. All of
//! it runs as tasks of the control thread, so its locks are never waited for.

use super::alike::Alike;
use super::core::{CorePeering, NodeClock, Report, Standing};
use super::keeper::{self, Answer, Answers, Leading, kind};
use super::links::{self, Links};
use super::skew::{self, Skew};
use crate::names::Names;
use crate::server::say;
use crate::settings::{ClusterConfig, Coordinator as Choice};
use anyhow::{Context, Result};
use cluster::change::{Command, Outcome, Refusal};
use cluster::member::Beat;
use cluster::node::{Control, Effect, Report as NodeReport, Tell};
use cluster::planning::{self, HAND_OVERS_PER_PRIMARY_MAX, HandOverRequest};
use cluster::replication::Limits;
use cluster::time::Millis;
use cluster::topology::{Incarnation, Introduction, NodeIndex, Revision, Topology};
use coordinator::embedded::{Embedded, EmbeddedOptions};
use coordinator::etcd::{Etcd, EtcdOptions};
use coordinator::wire::{Peers, Server, Tls, TlsFiles, WireSettings};
use coordinator::{Coordinator, Health, Role};
use net::control::ControlCall;
use net::core::Core;
use net::mesh::NodeCall;
use net::node::{NodeHandle, PeeringFactory};
use net::peering::PeeringLimits;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// How often the control looks at the time.
const TICK: Duration = Duration::from_millis(5);
/// How often a node that hands over looks what is left, if nothing changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A node that is further behind than so many changes of the topology jumps to the
/// latest.
const STEPS_FOLLOWED_MAX: u64 = 64;
/// Reports of cores that are taken before the time is looked at.
const REPORTS_AT_ONCE: usize = 1024;
/// How long a node that ends stays after it is out: others hear of that with the
/// next sign of life at the latest, and until then send requests here. Shorter
/// than a lease, for its own clients are still served.
const FAREWELL_BEATS: u64 = 3;
/// How long a node that ends waits until a hand-over would not be waited for. Longer
/// than a new keeper reckons with the leases of the one before.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);
/// How long giving up the lead may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two beats while something is not settled yet. Whoever became primary by
/// it serves nothing until then; it is so for some milliseconds after a change.
const UNSETTLED_BEAT: Duration = Duration::from_millis(2);
/// How long a beat may be under way.
const BEAT_TIMEOUT: Duration = Duration::from_millis(200);

/// A task of the control thread.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

/// How this node speaks to others.
pub fn wire_settings(
    config: &ClusterConfig,
    incarnation: Incarnation,
) -> Result<Arc<WireSettings>> {
    let log: coordinator::Log = Arc::new(|line: &str| say(line));
    let mut settings = WireSettings::new(&config.name, &config.node, incarnation, log);
    if let Some(tls) = &config.tls {
        let files = TlsFiles {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            authority: tls.authority.clone(),
            name: tls.name.clone(),
        };
        settings.tls = Some(Arc::new(Tls::load(files).context("cannot use the certificates")?));
    }
    Ok(Arc::new(settings))
}

/// Why a node of a cluster must end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A later process of its name is in the cluster.
    Superseded,
    /// The operator began the cluster anew: another process of this node can join it.
    BegunAnew,
}

/// What is made before the cores are started, for they need it.
#[derive(Debug)]
pub struct Starting {
    incarnation: Incarnation,
    standing: Arc<Standing>,
    reports: UnboundedReceiver<Report>,
    sender: UnboundedSender<Report>,
}

impl Starting {
    /// Draws this life of the process: later ones are greater.
    pub fn new() -> Starting {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let (sender, reports) = unbounded_channel();
        Starting {
            incarnation: Incarnation(since_epoch.map_or(1, |since| since.as_nanos() as u64)),
            standing: Standing::new(NodeClock),
            reports,
            sender,
        }
    }

    /// What makes each core's part.
    pub fn factory(&self, config: &ClusterConfig) -> PeeringFactory {
        let (incarnation, standing) = (self.incarnation, self.standing.clone());
        let sender = self.sender.clone();
        let config = config.clone();
        let limits = PeeringLimits {
            patience_ms: config.patience_ms,
            link_bytes_max: config.link_bytes_max,
            frame_bytes_max: config.frame_bytes_max,
        };
        let patience = config.patience_ms;
        let make = move |core: u32, cores: u32| {
            let limits = Limits {
                log_bytes_max: (config.log_bytes_max as usize / cores as usize).min(64 << 20),
                confirm_ms: config.confirm_ms,
                min_copies: config.min_copies,
                answer_ms: config.patience_ms,
                fill_bytes_per_second: config.fill_rate,
                read_nearest: config.read_nearest,
                copies_max: config.hot.copies,
                // So that whoever succeeds this node as a keeper need not know of copies.
                copy_ms: config.hot_ms.min(config.timing.leadership_ms),
                ..Limits::default()
            };
            let (standing, sender, hot) = (standing.clone(), sender.clone(), config.hot);
            let mut peering =
                CorePeering::new(limits, incarnation, core, cores, patience, hot, standing, sender);
            peering.replicator().set_modes(config.modes.clone());
            Box::new(peering) as Box<dyn net::peering::Peering>
        };
        PeeringFactory { make: Arc::new(make), limits }
    }
}

/// All that the tasks share.
pub struct Shared {
    pub config: ClusterConfig,
    pub seed: u64,
    pub cores: u16,
    pub incarnation: Incarnation,
    pub clock: NodeClock,
    pub coordinator: Arc<dyn Coordinator>,
    pub peers: Arc<Peers>,
    pub links: Links,
    pub namespaces: Vec<String>,
    /// Addresses of nodes that are known by name.
    pub names: Names,
    pub leading: Mutex<Option<Leading>>,
    /// Of this machine's clock.
    pub skew: Skew,
    /// What all nodes must be told alike.
    pub alike: Alike,
    /// A beat is due now.
    pub beat: Notify,
    /// The keeper here, if there is one, has something to look at.
    pub look: Notify,
    control: Mutex<Control>,
    standing: Arc<Standing>,
    node: Arc<NodeHandle>,
    ending_why: watch::Sender<Option<Ending>>,
    /// The node has been taken out, or is about to be, and goes.
    ending: AtomicBool,
}

/// The running part. Dropping it ends nothing; the process does.
pub struct Cluster {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.shared.config.node).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts everything: from here on the node looks for its cluster.
    pub async fn start(
        config: ClusterConfig,
        starting: Starting,
        node: Arc<NodeHandle>,
        seed: u64,
        client_address: String,
        core_ports: Option<u16>,
        namespaces: Vec<String>,
    ) -> Result<Cluster> {
        let incarnation = starting.incarnation;
        let settings = wire_settings(&config, incarnation)?;
        let listener = crate::listen::patiently(config.listen).await.with_context(|| {
            format!(
                "cannot listen for other nodes on {}\n  to move it:    --cluster-listen IP:PORT\n  cause",
                config.listen
            )
        })?;
        let peers = Peers::new(settings.clone());
        let mut must_restart = None;
        let (coordinator, handler) = match &config.coordinator {
            Choice::Embedded => {
                let mut options = EmbeddedOptions::new(
                    config.directory.clone(),
                    &config.node,
                    &config.advertise,
                    &config.join,
                );
                options.keepers_wanted = config.keepers;
                // Refused, it was refused to the control thread, too, which said so.
                options.on_disk_thread = || {
                    let _ = crate::process::run_in_real_time();
                };
                let embedded =
                    Embedded::start(options, peers.clone()).await.with_context(|| {
                        format!("cannot keep the topology in {}", config.directory.display())
                    })?;
                let handler = embedded.handler();
                must_restart = Some(embedded.must_restart());
                (embedded as Arc<dyn Coordinator>, Some(handler))
            }
            Choice::Etcd(url) => {
                let log = settings.log.clone();
                let options =
                    EtcdOptions::new(url, &config.name, &config.node, &config.advertise, log)
                        .map_err(|why| anyhow::anyhow!("cannot use {url}: {why}"))?;
                (Etcd::start(options) as Arc<dyn Coordinator>, None)
            }
        };
        let cores = node.cores().len() as u16;
        let introduction = Introduction {
            name: config.node.clone(),
            incarnation,
            client_address,
            peer_address: config.advertise.clone(),
            zone: config.zone.clone(),
            weight: config.weight,
            cores,
            core_ports: core_ports.unwrap_or(0),
        };
        let clock = starting.standing.clock;
        let mut control = Control::new(introduction, config.timing.clone(), clock.now());
        control.set_min_copies(config.min_copies);
        let shared = Arc::new(Shared {
            skew: Skew::new(config.skew_max_ms),
            alike: Alike::new(config.common.clone()),
            config,
            seed,
            cores,
            incarnation,
            clock,
            coordinator,
            peers,
            links: Links::default(),
            namespaces,
            names: Names::default(),
            leading: Mutex::new(None),
            beat: Notify::new(),
            look: Notify::new(),
            control: Mutex::new(control),
            standing: starting.standing,
            node,
            ending_why: watch::channel(None).0,
            ending: AtomicBool::new(false),
        });
        let spread = shared.clone();
        let hook = move |call| super::spread::begin(&spread, call);
        let _ = shared.node().shared().on_cluster.set(on_this_runtime(hook));
        let take = shared.clone();
        let take_link = Arc::new(move |socket, core| links::take(&take, socket, core));
        let mut handlers: Vec<Arc<dyn coordinator::wire::Handler>> =
            vec![Arc::new(Answers(shared.clone()))];
        handlers.extend(handler);
        let server = Server::new(settings, handlers, Some(take_link));
        spawn(server.serve(listener));
        spawn(follow_topology(shared.clone()));
        spawn(tick(shared.clone()));
        spawn(take_reports(shared.clone(), starting.reports));
        spawn(keeper::run(shared.clone()));
        if let Some(mut must_restart) = must_restart {
            let shared = shared.clone();
            spawn(async move {
                if must_restart.wait_for(|must| *must).await.is_ok() {
                    shared.ending_why.send_replace(Some(Ending::BegunAnew));
                }
            });
        }
        Ok(Cluster { shared })
    }

    /// What the tasks share, for those who show it.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes new certificates for connections that are made from now on; if they
    /// are bad, the old ones stay.
    pub fn read_certificates_again(&self) {
        match self.shared.peers.settings().tls.as_ref().map(|tls| tls.reload()) {
            None => {}
            Some(Ok(())) => say("certificates read again"),
            Some(Err(error)) => say(&format!("{error}; keeping the certificates that are known")),
        }
    }

    /// Before the node ends: others take over what it leads, without a failed
    /// request. It is still a member, and passes requests on.
    pub async fn step_aside(&self, patience: Duration) {
        let shared = &self.shared;
        let Some(node) = shared.me() else { return };
        let incarnation = shared.incarnation;
        let deadline = tokio::time::Instant::now() + patience;
        let _ = shared.coordinator.append(Command::Leaving { node, incarnation }).await;
        let mut watch = shared.coordinator.watch();
        let mut sole = 0;
        // A keeper that leads only since a moment ago settles nothing yet: heirs would
        // wait for it before they serve. And until the last step is settled, other
        // nodes may still send requests here.
        let mut settle_by = tokio::time::Instant::now() + SETTLE_PATIENCE;
        let mut begun = false;
        while tokio::time::Instant::now() < deadline {
            let topology = shared.topology();
            let settled = shared.standing().1 >= topology.revision()
                || tokio::time::Instant::now() >= settle_by;
            let left = planning::left_to_hand_over(&topology, node, HAND_OVERS_PER_PRIMARY_MAX);
            sole = left.sole;
            match left.next {
                Some(request) if begun || settled => {
                    begun = true;
                    shared.hand_over(&request);
                    settle_by = tokio::time::Instant::now() + SETTLE_PATIENCE;
                }
                None if sole == 0 && settled => break,
                _ => {}
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, watch.changed()).await;
        }
        if sole > 0 {
            say(&format!("{sole} partitions have no other copy; what they hold is lost"));
        }
    }

    /// The node is gone for all: it has no clients any more.
    pub async fn leave(&self) {
        let shared = &self.shared;
        let Some(node) = shared.me() else { return };
        let incarnation = shared.incarnation;
        shared.ending.store(true, Ordering::Relaxed);
        let _ = shared.coordinator.append(Command::Down { node, incarnation }).await;
        let timing = &shared.config.timing;
        let farewell_ms = (FAREWELL_BEATS * timing.beat_ms).min(timing.lease_ms * 2 / 3);
        tokio::time::sleep(Duration::from_millis(farewell_ms)).await;
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, shared.coordinator.leave()).await;
    }

    /// Resolves when this process must end.
    pub async fn ending(&self) -> Ending {
        let mut why = self.shared.ending_why.subscribe();
        match why.wait_for(Option::is_some).await.map(|why| *why) {
            Ok(Some(why)) => why,
            _ => std::future::pending().await,
        }
    }
}

impl Shared {
    /// The node.
    pub fn node(&self) -> &NodeHandle {
        &self.node
    }

    /// The topology that the cores act by, or soon will.
    pub fn topology(&self) -> Arc<Topology> {
        self.control.lock().expect("no holder panics").topology().clone()
    }

    /// This node's number.
    pub fn me(&self) -> Option<NodeIndex> {
        self.control.lock().expect("no holder panics").me()
    }

    /// Whether the node has a lease, and what it knows to be settled.
    pub fn standing(&self) -> (bool, Revision) {
        let control = self.control.lock().expect("no holder panics");
        (control.member().has_lease(self.clock.now()), control.member().settled())
    }

    /// Whether every partition has all its copies, and whether beyond that the keeper
    /// plans nothing: then a node can be taken away without a key losing its last copy.
    pub fn whole_and_settled(&self) -> (bool, bool) {
        let (topology, at_rest) = {
            let control = self.control.lock().expect("no holder panics");
            let member = control.member();
            let at_rest = member.has_lease(self.clock.now()) && member.is_at_rest();
            (control.topology().clone(), at_rest)
        };
        let whole = topology.is_whole();
        (whole, whole && at_rest)
    }

    /// The coordinator's state.
    pub fn health(&self) -> Health {
        self.coordinator.health()
    }

    /// A node's name, for people.
    pub fn name_of(&self, node: NodeIndex) -> String {
        let topology = self.coordinator.watch().borrow().clone();
        topology.member(node).map_or_else(|| "?".into(), |member| member.node.name.clone())
    }

    /// Where peers reach a node.
    pub fn address_of(&self, node: NodeIndex) -> Option<String> {
        let topology = self.coordinator.watch().borrow().clone();
        topology.member(node).map(|member| member.node.peer_address.clone())
    }

    /// The number of that life of a node.
    pub fn life_of(&self, name: &str, incarnation: Incarnation) -> Option<NodeIndex> {
        let topology = self.topology();
        let (node, member) = topology.named(name)?;
        (member.node.incarnation == incarnation).then_some(node)
    }

    /// Whether a node is up.
    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.topology().is_up(node)
    }

    /// Lets the control decide, and does what it says.
    pub fn with_control(self: &Arc<Shared>, decide: impl FnOnce(&mut Control, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        decide(&mut self.control.lock().expect("no holder panics"), &mut effects);
        for effect in effects {
            self.act(effect);
        }
    }

    fn act(self: &Arc<Shared>, effect: Effect) {
        match effect {
            Effect::Beat(beat) => {
                let shared = self.clone();
                spawn(async move { send_beat(&shared, beat).await });
            }
            Effect::Tell(Tell::Lease(until)) => self.standing.set_lease(until),
            Effect::Tell(tell) => {
                if let Tell::Topology { topology, .. } = &tell {
                    super::shown::publish(self, topology);
                }
                self.tell_cores(&tell);
            }
            Effect::Propose(command) => self.propose(command),
            Effect::Connect { node, incarnation, address, cores } => {
                self.links.connect(node, incarnation, address, cores);
            }
            Effect::Disconnect(node) => self.links.disconnect(node),
            Effect::Superseded => {
                self.ending_why.send_replace(Some(Ending::Superseded));
            }
        }
    }

    /// Tells every core, in order; a core whose queue is full gets it later.
    fn tell_cores(self: &Arc<Shared>, tell: &Tell) {
        for core in 0..self.cores {
            let tell = tell.clone();
            if self.tell(core, Box::new(move |core| on_core(core, tell))).is_none() {
                return;
            }
        }
    }

    /// Runs something on a core, some time soon; none if the node is ending.
    pub fn tell(&self, core: u16, mut task: Box<dyn FnOnce(&mut Core) + Send>) -> Option<()> {
        // The queue holds dozens of tasks, and the core takes them each turn.
        while let Err(NodeCall::Task(back)) = self.node().tell(u32::from(core), task) {
            if !self.node().is_running() {
                return None;
            }
            task = back;
            std::thread::sleep(Duration::from_micros(200));
        }
        Some(())
    }

    /// Whether a namespace of that name is configured.
    pub fn knows_namespace(&self, name: &[u8]) -> bool {
        self.namespaces.iter().any(|known| known.as_bytes() == name)
    }

    /// Puts a command into the coordinator's order. It may fail: whoever wants it
    /// proposes it again.
    pub fn propose(self: &Arc<Shared>, command: Command) {
        let shared = self.clone();
        spawn(async move {
            let _ = shared.coordinator.append(command).await;
        });
    }

    /// Changes what the cluster does with a node, or says why not.
    pub async fn change_node(
        &self,
        name: &str,
        command: impl FnOnce(NodeIndex) -> Command,
    ) -> Result<(), String> {
        let found = self.topology().named(name).map(|(node, _)| node);
        let node = found.ok_or_else(|| format!("the cluster has no node {name:?}"))?;
        match self.coordinator.append(command(node)).await {
            Ok(Outcome::Applied(_) | Outcome::Refused(Refusal::Superseded)) => Ok(()),
            Ok(Outcome::Refused(Refusal::NotEmpty)) => {
                Err(format!("{name} still holds partitions: drain it first"))
            }
            Ok(Outcome::Refused(refusal)) => Err(format!("refused: {refusal:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The keeper asks this node to hand partitions over.
    pub fn hand_over(self: &Arc<Shared>, request: &HandOverRequest) {
        let now = self.clock.now();
        self.with_control(|control, effects| control.on_hand_over(now, request, effects));
    }

    /// A beat of some node, with the digest of its settings, for the keeper that is
    /// here or not.
    pub fn on_beat(self: &Arc<Shared>, (beat, digest): &(Beat, u64)) -> Answer {
        let reply = match self.leading.lock().expect("no holder panics").as_mut() {
            Some(leading) => leading.on_beat(self, beat),
            None => return Answer::NotLeader,
        };
        let topology = self.topology();
        let is_member = |name: &str| topology.named(name).is_some();
        let verdict = self.alike.judge(&beat.name, *digest, is_member);
        Answer::Reply(reply, skew::clock_of_day(), verdict)
    }

    /// A link to a node stands.
    pub fn stands(self: &Arc<Shared>, core: u16, node: NodeIndex) {
        self.report(core, NodeReport::Stands(node));
    }

    /// A link to a node broke, or could not be made.
    pub fn broken(self: &Arc<Shared>, core: u16, node: NodeIndex) {
        self.report(core, NodeReport::Broken(node));
    }

    /// The revision that a core acts by.
    pub fn acts(&self, core: u16) -> Revision {
        self.standing.acts(core)
    }

    fn report(self: &Arc<Shared>, core: u16, report: NodeReport) {
        let (now, acts) = (self.clock.now(), self.standing.acts(core));
        self.with_control(|control, effects| control.on_report(now, core, acts, report, effects));
    }
}

/// A hook that cores call: what it starts runs on this thread.
fn on_this_runtime(
    hook: impl Fn(Box<ControlCall>) + Send + Sync + 'static,
) -> net::core::ClusterHook {
    let runtime = tokio::runtime::Handle::current();
    Box::new(move |call| {
        let _here = runtime.enter();
        hook(call);
    })
}

/// A core is told something, on its own thread.
fn on_core(core: &mut Core, tell: Tell) {
    let Core { peers, shard, now, .. } = core;
    let Some(peering) = CorePeering::of(peers) else { return };
    match tell {
        Tell::Topology { topology, me } => peering.set_topology(topology, me, shard, *now),
        Tell::Lease(_) => {}
        Tell::Settled(revision) => peering.set_settled(revision),
        Tell::Pause(partitions) => peering.replicator().pause(&partitions),
        Tell::Resume(partitions) => peering.resume(&partitions),
    }
}

async fn follow_topology(shared: Arc<Shared>) {
    let mut watch = shared.coordinator.watch();
    loop {
        let topology = watch.borrow_and_update().clone();
        if topology.name().is_empty() || topology.seed() == shared.seed {
            for step in steps_to(&shared, topology) {
                shared.with_control(|control, effects| control.on_topology(step, effects));
            }
        } else {
            say(&format!(
                "this node hashes keys with another seed than cluster {:?}: --hash-seed {} on all nodes, or on none",
                topology.name(),
                topology.seed()
            ));
        }
        if watch.changed().await.is_err() {
            return;
        }
    }
}

/// The topologies that lead from the one acted by to a later one. Whoever sees each of
/// them can lead at once by a hand-over: between two that are not neighbours a partition
/// may have had owners that are not known here, and it must wait until all is settled.
fn steps_to(shared: &Shared, latest: Arc<Topology>) -> Vec<Arc<Topology>> {
    let mut step = shared.topology();
    let behind = latest.revision().0.saturating_sub(step.revision().0);
    if !(2..=STEPS_FOLLOWED_MAX).contains(&behind) || step.name().is_empty() {
        return vec![latest];
    }
    let Some(commands) = shared.coordinator.commands_since(step.revision()) else {
        return vec![latest];
    };
    let mut steps = Vec::new();
    for command in commands {
        if matches!(Arc::make_mut(&mut step).apply(&command), Outcome::Applied(_)) {
            steps.push(step.clone());
        }
    }
    steps
}

async fn tick(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut heard = vec![0; usize::from(shared.cores)];
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shared.beat.notified() => {}
        }
        for core in 0..shared.cores {
            let turn = shared.standing.turn(core);
            if turn != heard[usize::from(core)] {
                heard[usize::from(core)] = turn;
                shared.report(core, NodeReport::Alive);
            }
        }
        let now = shared.clock.now();
        shared.with_control(|control, effects| control.tick(now, effects));
        links::dial_missing(&shared);
    }
}

async fn take_reports(shared: Arc<Shared>, mut reports: UnboundedReceiver<Report>) {
    let mut together = Vec::new();
    while reports.recv_many(&mut together, REPORTS_AT_ONCE).await > 0 {
        for report in together.drain(..) {
            take_report(&shared, report);
        }
        // What became confirmed is told to the keeper at once.
        let now = shared.clock.now();
        shared.with_control(|control, effects| control.tick(now, effects));
    }
}

fn take_report(shared: &Arc<Shared>, report: Report) {
    let acts = |core| shared.standing.acts(core);
    let (core, acts, report) = match report {
        Report::CaughtUp { core, peer, known, partitions } => {
            let report = NodeReport::CaughtUp { node: peer.node, core: peer.core, partitions };
            (core, known, report)
        }
        Report::Suspect { core, node, cannot_follow } => {
            (core, acts(core), NodeReport::Suspect { node, cannot_follow })
        }
        Report::Paused { core, partitions } => (core, acts(core), NodeReport::Paused(partitions)),
        Report::Acts { core } => (core, acts(core), NodeReport::Alive),
        Report::LinkLost { core, peer } => {
            shared.links.lost(core, peer);
            (core, acts(core), NodeReport::Broken(peer.node))
        }
        Report::Garbage(peer) => {
            return say(&format!(
                "{} sent on a link what makes no sense; the link was closed",
                shared.name_of(peer.node)
            ));
        }
    };
    let now = shared.clock.now();
    shared.with_control(|control, effects| control.on_report(now, core, acts, report, effects));
}

async fn send_beat(shared: &Arc<Shared>, mut beat: Beat) {
    // One that ends still says that it knows that it is out, or others would wait
    // until its lease were surely over; but it is not to be called up again.
    beat.healthy &= !shared.ending.load(Ordering::Relaxed);
    let sent = skew::clock_of_day();
    let role = shared.coordinator.role().borrow().clone();
    let beat = (beat, shared.alike.digest());
    let answer = match role {
        Role::Leader { .. } => shared.on_beat(&beat),
        Role::Follower { leader: Some(address) } => {
            let Ok(body) = postcard::to_stdvec(&beat) else { return };
            let call = shared.peers.call(&address, kind::BEAT, body, BEAT_TIMEOUT);
            let Ok(answer) = call.await else { return };
            match postcard::from_bytes(&answer) {
                Ok(answer) => answer,
                Err(_) => return,
            }
        }
        Role::Follower { leader: None } => return,
    };
    let Answer::Reply(reply, theirs, verdict) = answer else { return };
    shared.skew.note(sent, theirs, skew::clock_of_day());
    shared.alike.note(verdict);
    let now: Millis = shared.clock.now();
    shared.with_control(|control, effects| control.on_reply(now, &reply, effects));
    // What is not settled yet will be soon: ask before the next beat is due. The
    // keeper may know less than this node: it must first be sure that it still leads.
    if reply.settled < reply.latest.max(shared.topology().revision()) {
        let shared = shared.clone();
        spawn(async move {
            tokio::time::sleep(UNSETTLED_BEAT).await;
            shared.with_control(|control, _| control.beat_soon());
            shared.beat.notify_one();
        });
    }
}
