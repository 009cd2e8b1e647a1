//! The running node and all that the control thread does for it.
//!
//! Life: every address is bound and every core started (`start`); root is given
//! up; the snapshot is loaded and marked as loaded; clients are let in; then signals
//! decide (`run`).
//! SIGTERM, SIGINT and SIGUSR1 drain the clients, write the snapshot if there is
//! a file for it, and end. SIGHUP reads the users again.

use crate::cluster::{Cluster, Ending, Starting};
use crate::metrics::{self, Page, Stats, Type};
use crate::process;
use crate::settings::{Advertise, Config, Effective, value};
use crate::storage::Storage;
use crate::storage::place::Place;
use crate::storage::snapshot::{self, Progress, Report, Shards, State};
use anyhow::{Context, Result, bail};
use cluster::change::Command;
use cluster::topology::NodeIndex;
use engine::snapshot::Taken;
use engine::{Eviction, HashSeed, KeyHash, Now, Shard, ShardConfig, ShardStats};
use net::auth::Users;
use net::control::{ControlAnswer, ControlOp};
use net::core::{Binding, Settings, Shutdown};
use net::listener::ListenAddress;
use net::node::{Node, NodeConfig, NodeHandle};
use net::reactor::ReactorOptions;
use net::stats::{self, CoreStats, Kind};
use net::sys::affinity;
use net::sys::{BackendChoice, BackendOptions};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How long a core may take to answer the control thread.
const PATIENCE: Duration = Duration::from_secs(10);
/// A core that has not turned its loop for this long is not alive.
const LIVE_PATIENCE: Duration = Duration::from_secs(2);
/// How long the cores may take to close the connections that are left at the end.
const CUT_OFF_PATIENCE: Duration = Duration::from_secs(2);
/// How often a node without a cluster looks whether it has one.
const LEASE_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a long load or save is reported.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// One line to the log.
pub fn say(text: &str) {
    eprintln!("seawalld: {text}");
}

/// Why clients should not be sent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The snapshot is still being loaded.
    Loading,
    /// The node is going away.
    Draining,
    /// The node is not part of its cluster yet, or has lost it.
    Cluster,
    /// The node is in another cluster than those that it was told to join.
    OtherCluster(String),
    /// A core does not answer.
    Core(String),
}

impl std::fmt::Display for Unready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unready::Loading => f.write_str("the snapshot is being loaded"),
            Unready::Draining => f.write_str("the node is draining"),
            Unready::Cluster => f.write_str("the node has no lease from its cluster"),
            Unready::OtherCluster(what) | Unready::Core(what) => f.write_str(what),
        }
    }
}

/// The node, its storage thread and its settings.
#[derive(Debug)]
pub struct Server {
    node: Arc<NodeHandle>,
    /// What the cluster's part was started with, until it is.
    starting: Mutex<Option<Starting>>,
    cluster: std::sync::OnceLock<Cluster>,
    config: Config,
    effective: Effective,
    seed: HashSeed,
    seed_number: u64,
    snapshots: Option<Snapshots>,
    progress: Progress,
    loading: AtomicBool,
    draining: AtomicBool,
    /// A client sent `shutdown`.
    shutdown: Arc<Notify>,
    /// Held while a snapshot is written, so that the end of the process waits for it.
    saving: Mutex<()>,
}

/// Where snapshots go, and who writes them.
#[derive(Debug)]
struct Snapshots {
    storage: Storage,
    place: Place,
}

/// One core's numbers.
struct CoreNumbers {
    shard: ShardStats,
    protocol: CoreStats,
}

impl Server {
    /// Starts every core and binds every address; nobody is let in yet.
    pub fn start(config: Config, effective: Effective) -> Result<Arc<Server>> {
        // All nodes of a cluster hash alike.
        let of_cluster = config
            .cluster
            .as_ref()
            .map(|cluster| KeyHash::of(cluster.name.as_bytes(), &HashSeed::new(0)).0);
        let number = config.hash_seed.or(of_cluster).map_or_else(random_seed, Ok)?;
        let seed = HashSeed::new(number);
        let starting = config.cluster.as_ref().map(|_| Starting::new());
        let users = read_users(&config)?;
        let mut node_config = node_config(&config, &seed, users);
        if let (Some(cluster), Some(starting)) = (&config.cluster, &starting) {
            node_config.peering = Some(starting.factory(cluster));
        }
        let node = Node::start_closed(node_config)?;
        if let Some(user) = &config.user {
            if let Some((path, _)) = &config.unix {
                process::give_socket(path, user)?;
            }
            process::become_user(user)?;
        }
        if config.lock_memory {
            // As memcached does: loudly, but it starts.
            if let Err(error) = process::lock_memory() {
                say(&format!("WARNING: {error:#}"));
            }
        }
        let snapshots = config.snapshot.as_deref().map(|path| -> Result<Snapshots> {
            let storage = Storage::start().context("cannot start the storage thread")?;
            Ok(Snapshots { storage, place: Place::claim(path)? })
        });
        let snapshots = snapshots.transpose()?;
        node.shared().verbosity.store(config.verbosity, Ordering::Relaxed);
        let shutdown = Arc::new(Notify::new());
        let asked = shutdown.clone();
        let hook = move |_: Shutdown| asked.notify_one();
        let _ = node.shared().on_shutdown.set(Box::new(hook));
        Ok(Arc::new(Server {
            node: Arc::new(node),
            starting: Mutex::new(starting),
            cluster: std::sync::OnceLock::new(),
            config,
            effective,
            seed,
            seed_number: number,
            snapshots,
            progress: Progress::default(),
            loading: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            shutdown,
            saving: Mutex::new(()),
        }))
    }

    /// Loads, serves, and ends by a signal.
    pub async fn run(self: Arc<Server>, background: Option<process::Background>) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut graceful = signal(SignalKind::user_defined1())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let admin = self.start_admin().await?;
        self.banner(admin);
        let ended = tokio::select! {
            outcome = self.load() => { outcome?; false }
            // Nobody was let in and the file is as it was: there is nothing to save.
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
        };
        if ended {
            self.node.stop();
            return Ok(());
        }
        self.start_cluster().await?;
        self.node.open();
        self.loading.store(false, Ordering::Release);
        if let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME")
            && let Err(error) = process::write_ports(Path::new(&path), self.node.addresses())
        {
            say(&format!("WARNING: {error:#}"));
        }
        self.say_when_ready();
        process::notify("READY=1");
        if let Some(background) = background {
            background.served()?;
        }
        let mut ending = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = graceful.recv() => break,
                () = self.shutdown.notified() => break,
                why = self.cluster_ending() => {
                    say(match why {
                        Ending::Superseded => "a later process of this node's name is in the cluster: this one ends",
                        Ending::BegunAnew => "the cluster was begun anew: this process ends, the next one joins it",
                    });
                    ending = Some(why);
                    break;
                }
                _ = hang_up.recv() => {
                    self.read_users_again();
                    if let Some(cluster) = self.cluster.get() {
                        cluster.read_certificates_again();
                    }
                }
            }
        }
        process::notify("STOPPING=1");
        self.draining.store(true, Ordering::Release);
        if let Some(cluster) = self.cluster.get() {
            say("handing over to other nodes");
            cluster.step_aside(Duration::from_secs(self.config.drain_seconds)).await;
        }
        // Clients are served until their connections are closed, by other nodes where
        // this one leads nothing any more. Only then may it lose its lease.
        let server = self.clone();
        tokio::task::spawn_blocking(move || server.drain()).await?;
        if let Some(cluster) = self.cluster.get() {
            cluster.leave().await;
        }
        let server = self.clone();
        tokio::task::spawn_blocking(move || server.end()).await??;
        // An error, so that whoever watches over the process starts it again.
        match ending {
            Some(Ending::BegunAnew) => bail!("this node must be started again"),
            Some(Ending::Superseded) | None => Ok(()),
        }
    }

    /// Logs that the node is ready, as soon as it is.
    fn say_when_ready(self: &Arc<Server>) {
        if self.cluster.get().is_none() {
            return say("ready");
        }
        say("open to clients; not part of a cluster yet");
        let server = self.clone();
        tokio::spawn(async move {
            while !server.cluster.get().is_some_and(|cluster| cluster.shared().standing().0) {
                tokio::time::sleep(LEASE_LOOK_EVERY).await;
            }
            say("ready");
        });
    }

    /// Lets the node look for its cluster, if it belongs to one.
    async fn start_cluster(&self) -> Result<()> {
        let starting = self.starting.lock().expect("no holder panics").take();
        let (Some(config), Some(starting)) = (self.config.cluster.clone(), starting) else {
            return Ok(());
        };
        if let Err(error) = process::run_in_real_time() {
            say(&format!(
                "no real-time priority for the control thread ({error}): on a busy machine it may be late, and the node be taken for dead"
            ));
        }
        let settings = &self.node.shared().settings;
        let (host, port) = (&settings.advertise_host, settings.advertise_port);
        let given_ip = self.config.advertise.as_ref().and_then(|given| given.ip);
        let address = match given_ip {
            Some(ip) => format!("{host}|{ip}|{port}"),
            None if host.contains(':') => format!("[{host}]:{port}"),
            None => format!("{host}:{port}"),
        };
        say(&format!(
            "cluster {:?}: node {:?}, peers on {}",
            config.name, config.node, config.advertise
        ));
        let (node, seed, ports) = (self.node.clone(), self.seed_number, self.config.core_ports);
        let namespaces = self.config.namespaces.clone();
        let cluster =
            Cluster::start(config, starting, node, seed, address, ports, namespaces).await?;
        let _ = self.cluster.set(cluster);
        Ok(())
    }

    /// Resolves when the cluster demands that this process ends.
    async fn cluster_ending(&self) -> Ending {
        match self.cluster.get() {
            Some(cluster) => cluster.ending().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the node belongs to a cluster.
    pub fn is_clustered(&self) -> bool {
        self.config.cluster.is_some()
    }

    /// Does on every node of the cluster what concerns all, or says why not.
    pub async fn everywhere(&self, op: &ControlOp) -> Result<(), String> {
        let Some(cluster) = self.cluster.get() else {
            return Err("the node has not found its cluster yet".into());
        };
        match crate::cluster::run_everywhere(cluster.shared(), op).await {
            ControlAnswer::Failed(why) => Err(why),
            _ => Ok(()),
        }
    }

    /// Changes what the cluster does with a node, or says why not.
    pub async fn change_node(
        &self,
        name: &str,
        command: impl FnOnce(NodeIndex) -> Command,
    ) -> Result<(), String> {
        let Some(cluster) = self.cluster.get() else {
            return Err("this node belongs to no cluster".into());
        };
        cluster.shared().change_node(name, command).await
    }

    /// `GET /ring`; none without a cluster.
    pub fn ring_json(&self) -> Option<Value> {
        self.cluster.get().map(|cluster| crate::cluster::ring(cluster.shared()))
    }

    /// Starts the admin API and returns where it listens. A taken default address is no
    /// reason not to serve, nor one to wait for it before serving.
    async fn start_admin(self: &Arc<Server>) -> Result<Option<SocketAddr>> {
        let Some(address) = self.config.admin else { return Ok(None) };
        if self.config.admin_required {
            let listener = crate::listen::patiently(address).await.with_context(|| {
                format!(
                    "cannot listen on the admin address {address}\n  to move it:       --admin-listen IP:PORT\n  \
                     to do without:    --admin-listen off\n  cause"
                )
            })?;
            return self.serve_admin(listener).map(Some);
        }
        if let Ok(listener) = tokio::net::TcpListener::bind(address).await {
            return self.serve_admin(listener).map(Some);
        }
        let server = self.clone();
        tokio::spawn(async move {
            let served = match crate::listen::patiently(address).await {
                Ok(listener) => server.serve_admin(listener),
                Err(error) => Err(error.into()),
            };
            match served {
                Ok(address) => say(&format!("admin API on http://{address}")),
                Err(error) => say(&format!(
                    "no admin API: its default address {address} cannot be had ({error}); see --admin-listen"
                )),
            }
        });
        Ok(None)
    }

    fn serve_admin(self: &Arc<Server>, listener: tokio::net::TcpListener) -> Result<SocketAddr> {
        let address = listener.local_addr()?;
        let router = crate::admin::router(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(address)
    }

    fn banner(&self, admin: Option<SocketAddr>) {
        let config = &self.config;
        let cores = self.node.cores();
        let count = |number: usize, word: &str| {
            format!("{number} {word}{}", if number == 1 { "" } else { "s" })
        };
        say(&format!("version {}", env!("CARGO_PKG_VERSION")));
        match self.node.refusal() {
            Some(refusal) => say(&refusal.to_string()),
            None => say(&format!("sockets: {}", cores[0].backend.name())),
        }
        let pinned = cores
            .iter()
            .filter_map(|core| core.processor)
            .map(|cpu| cpu.to_string())
            .collect::<Vec<_>>();
        let pinned = if pinned.is_empty() {
            String::new()
        } else {
            format!(", pinned to CPU {}", pinned.join(", "))
        };
        say(&format!("{}{pinned}", count(cores.len(), "core")));
        say(&format!(
            "memory: {} MiB, {} pages, values up to {}, eviction {}",
            config.memory_bytes >> 20,
            match cores[0].pages {
                net::sys::memory::Pages::Ordinary => "ordinary",
                net::sys::memory::Pages::Transparent => "transparent huge",
                net::sys::memory::Pages::Explicit => "explicit huge",
            },
            value::bytes_text(config.value_bytes_max),
            config.eviction.as_deref().unwrap_or("off"),
        ));
        if let Some(warning) = huge_pages_missing(config, cores) {
            say(&warning);
        }
        let addresses: Vec<String> =
            self.node.addresses().iter().map(ToString::to_string).collect();
        say(&format!("listening on {}", addresses.join(", ")));
        if let Some(admin) = admin {
            say(&format!("admin API on http://{admin}"));
        }
    }

    /// Loads the snapshot if it may be, and sees to it that it is not loaded again:
    /// from here on clients change items. An error: that cannot be seen to.
    async fn load(self: &Arc<Server>) -> Result<()> {
        let Some(Snapshots { place, .. }) = &self.snapshots else { return Ok(()) };
        let Some(header) = place.header() else { return Ok(()) };
        let path = place.path().display();
        match header.map(|header| snapshot::refusal(header.taken, self.config.snapshot_stale)) {
            Ok(None) => self.load_file().await?,
            Ok(Some(why)) => say(&format!(
                "not loading the snapshot {path}: {why}; starting empty\n  to load it all the same:  --snapshot-load any"
            )),
            Err(error) => say(&format!("cannot load the snapshot {path}: {error}; starting empty")),
        }
        // Not in the background: a signal that ends the start must come before or after.
        place.use_up()?;
        Ok(())
    }

    async fn load_file(self: &Arc<Server>) -> Result<()> {
        let server = self.clone();
        let mut work = tokio::task::spawn_blocking(move || {
            let snapshots = server.snapshots.as_ref().context("no snapshot file is configured")?;
            let _ = server.progress.begin(State::Loading);
            let (storage, path) = (&snapshots.storage, snapshots.place.path());
            say(&format!("loading the snapshot {}", path.display()));
            snapshot::load(&*server, storage, path, &server.progress)
        });
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome?,
                () = tokio::time::sleep(PROGRESS_EVERY) => self.say_progress("loading"),
            }
        };
        match outcome {
            Ok(_) => {
                let Report { items, value_bytes, seconds, .. } = self.progress.report();
                say(&format!(
                    "snapshot loaded: {items} items, {} MiB of values, {seconds:.1} s",
                    value_bytes >> 20
                ));
            }
            Err(error) => say(&format!("{error:#}; starting empty")),
        }
        Ok(())
    }

    fn say_progress(&self, what: &str) {
        let Report { items, fraction, .. } = self.progress.report();
        say(&format!("{what} the snapshot: {items} items, {:.0} %", fraction * 100.0));
    }

    /// Lets clients finish what they have sent, and closes their connections.
    fn drain(&self) {
        let drained = self.node.drain(Duration::from_secs(self.config.drain_seconds));
        match drained.connections_left {
            0 => say("drained"),
            left => say(&format!(
                "drained for {} s; {left} connections were still open",
                self.config.drain_seconds
            )),
        }
    }

    /// Cuts off who is left, saves, stops.
    fn end(&self) -> Result<()> {
        // With a client left, the file is no better than one taken while serving.
        let taken = match self.node.cut_off(CUT_OFF_PATIENCE) {
            0 => Taken::AtTheEnd,
            left => {
                say(&format!(
                    "{left} connections cannot be closed: a snapshot counts as taken while serving"
                ));
                Taken::WhileServing
            }
        };
        let saved = match &self.snapshots {
            Some(snapshots) => self.save(snapshots, taken),
            None => Ok(()),
        };
        self.node.stop();
        if let Some((path, _)) = &self.config.unix {
            let _ = std::fs::remove_file(path);
        }
        saved
    }

    fn save(&self, snapshots: &Snapshots, taken: Taken) -> Result<()> {
        // A snapshot asked for by the admin API may be under way: it is of the past.
        let _turn = self.saving.lock().expect("no holder panics");
        self.progress.begin(State::Saving).context("another snapshot is under way")?;
        self.write_snapshot(snapshots, taken)
    }

    fn write_snapshot(&self, snapshots: &Snapshots, taken: Taken) -> Result<()> {
        let (storage, path) = (&snapshots.storage, snapshots.place.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reporter = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    std::thread::park_timeout(PROGRESS_EVERY);
                    if !done.load(Ordering::Acquire) {
                        self.say_progress("writing");
                    }
                }
            });
            let outcome = snapshot::save(self, storage, path, &self.progress, taken);
            done.store(true, Ordering::Release);
            reporter.thread().unpark();
            let totals = outcome?;
            let seconds = self.progress.report().seconds;
            say(&format!(
                "snapshot written to {}: {} items, {seconds:.1} s",
                path.display(),
                totals.items
            ));
            Ok(())
        })
    }

    /// Begins a snapshot in the background.
    pub fn start_snapshot(self: &Arc<Server>) -> Result<()> {
        if self.snapshots.is_none() {
            bail!("no snapshot file is configured; start with --snapshot FILE");
        }
        if self.draining.load(Ordering::Acquire) || self.progress.begin(State::Saving).is_none() {
            bail!("a snapshot is under way");
        }
        let server = self.clone();
        std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            let _turn = server.saving.lock().expect("no holder panics");
            let Some(snapshots) = &server.snapshots else { return };
            if let Err(error) = server.write_snapshot(snapshots, Taken::WhileServing) {
                say(&format!("{error:#}"));
            }
        })?;
        Ok(())
    }

    fn read_users_again(&self) {
        match read_users(&self.config) {
            Ok(users) => {
                *self.node.shared().users.write().expect("no holder panics") = Arc::new(users);
                say("users read again");
            }
            Err(error) => say(&format!("{error:#}; keeping the users that are known")),
        }
    }

    /// How far the snapshot is.
    pub fn snapshot_report(&self) -> Report {
        self.progress.report()
    }

    /// Fails if a core does not turn its loop.
    pub fn check_cores(&self) -> Result<()> {
        for core in 0..self.cores() {
            self.node.on_core(core, LIVE_PATIENCE, |_| ()).with_context(|| {
                format!("core {core} does not answer within {} s", LIVE_PATIENCE.as_secs())
            })?;
        }
        Ok(())
    }

    /// Why clients should not come; empty when they should.
    pub fn unready(&self) -> Vec<Unready> {
        let mut reasons = Vec::new();
        if self.loading.load(Ordering::Acquire) {
            reasons.push(Unready::Loading);
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push(Unready::Draining);
        }
        if let Some(cluster) = self.cluster.get() {
            if !cluster.shared().standing().0 {
                reasons.push(Unready::Cluster);
            }
            if let Some(other) = cluster.shared().health().other_cluster.filter(|it| it.alone) {
                reasons.push(Unready::OtherCluster(other.what));
            }
        }
        if let Err(error) = self.check_cores() {
            reasons.push(Unready::Core(format!("{error:#}")));
        }
        reasons
    }

    /// In a cluster: whether all partitions have all their copies, and whether beyond
    /// that nothing is planned.
    pub fn whole_and_settled(&self) -> Option<(bool, bool)> {
        Some(self.cluster.get()?.shared().whole_and_settled())
    }

    fn cores(&self) -> u32 {
        self.node.cores().len() as u32
    }

    fn core_numbers(&self) -> Result<Vec<CoreNumbers>> {
        let numbers = |core: &mut net::core::Core| CoreNumbers {
            shard: core.shard.stats(),
            protocol: core.stats,
        };
        (0..self.cores()).map(|core| Ok(self.node.on_core(core, PATIENCE, numbers)?)).collect()
    }

    /// `GET /cores`.
    pub fn cores_json(&self) -> Result<Value> {
        let cores = self.core_numbers()?.into_iter().enumerate().map(|(core, numbers)| {
            let info = &self.node.cores()[core];
            let mut row = json!({
                "core": core,
                "processor": info.processor,
                "backend": info.backend.name(),
                "connections": self.node.connections(core as u32),
            });
            for (name, _, value) in metrics::core_fields(&numbers.shard, &numbers.protocol) {
                row[name] = value.into();
            }
            row
        });
        Ok(Value::Array(cores.collect()))
    }

    /// `GET /hot`.
    pub fn hot_json(&self) -> Result<Value> {
        let mut rows = Vec::new();
        let mut held = Vec::new();
        for core in 0..self.cores() {
            let (keys, placed) = self.node.on_core(core, PATIENCE, move |core| {
                let keys = core.shard.hot_keys(core.now);
                let hashes: Vec<KeyHash> = keys.iter().map(|hot| hot.hash).collect();
                let keys: Vec<_> = keys
                    .into_iter()
                    .map(|hot| (hot.key.to_vec(), hot.share, hot.per_second))
                    .collect();
                (keys, crate::cluster::placed(core, &hashes))
            })?;
            let mut places = Vec::new();
            if let Some((placed, of_others)) = placed {
                places.extend(placed.into_iter().map(Some));
                held.push(of_others);
            }
            places.resize_with(keys.len(), || None);
            for ((key, share, per_second), placed) in keys.into_iter().zip(places) {
                let (key, encoding) = match std::str::from_utf8(&key) {
                    Ok(text) => (text.to_owned(), "utf-8"),
                    Err(_) => {
                        let mut text = Vec::new();
                        net::proto::base64::encode(&key, &mut text);
                        (String::from_utf8_lossy(&text).into_owned(), "base64")
                    }
                };
                let row = json!({ "core": core, "key": key, "encoding": encoding, "share": share, "requests_per_second": per_second });
                rows.push((row, placed));
            }
        }
        let with_copies = |(mut row, placed): (Value, Option<crate::cluster::Placed>)| {
            if let (Some(placed), Some(cluster)) = (placed, self.cluster.get()) {
                row["copies"] = placed.json(&held, cluster.shared());
            }
            row
        };
        Ok(Value::Array(rows.into_iter().map(with_copies).collect()))
    }

    /// `GET /topology`.
    pub fn topology_json(&self) -> Value {
        let settings = &self.node.shared().settings;
        json!({
            "revision": 1,
            "partitions": 1,
            "nodes": [{
                "name": settings.advertise_host,
                "address": format!("{}:{}", settings.advertise_host, settings.advertise_port),
                "zone": "",
                "cores": self.cores(),
                "core_ports": self.config.core_ports,
            }],
        })
    }

    /// `GET /config`.
    pub fn config_json(&self) -> Value {
        let rows = self.effective.rows().map(|(setting, found, source)| {
            json!({
                "key": setting.key,
                "value": value::text(setting, found),
                "source": source.to_string(),
                "default": setting.default,
                "flag": format!("--{}", setting.long),
                "env": setting.env(),
                "help": setting.help,
            })
        });
        Value::Array(rows.collect())
    }

    /// Whether a namespace of that name is configured.
    pub fn has_namespace(&self, name: &[u8]) -> bool {
        self.config.namespaces.iter().any(|known| known.as_bytes() == name)
    }

    /// Invalidates tags and namespaces on every core.
    pub fn invalidate(&self, tags: Vec<Vec<u8>>, namespaces: Vec<Vec<u8>>) -> Result<()> {
        let (tags, namespaces) = (Arc::new(tags), Arc::new(namespaces));
        for core in 0..self.cores() {
            let (tags, namespaces) = (tags.clone(), namespaces.clone());
            self.node.on_core(core, PATIENCE, move |core| {
                for tag in &*tags {
                    core.shard.invalidate_tag(net::proto::meta::tag(tag), core.now);
                }
                for name in &*namespaces {
                    core.shard.invalidate_namespace(name, core.now);
                }
            })?;
        }
        Ok(())
    }

    /// Invalidates everything.
    pub fn flush(&self) -> Result<()> {
        for core in 0..self.cores() {
            self.node.on_core(core, PATIENCE, |core| core.shard.flush(core.now, core.now))?;
        }
        Ok(())
    }

    /// `GET /metrics`.
    pub fn metrics(&self) -> Result<String> {
        let mut page = Page::default();
        let mut reports = Vec::new();
        for answer in self.node.broadcast(&ControlOp::Stats, PATIENCE)? {
            if let ControlAnswer::Stats(report) = answer {
                reports.push(*report);
            }
        }
        let now = self.node.clock().now();
        let stats = |kind| -> Stats {
            stats::collect(kind, &reports, Vec::new(), now, self.node.shared())
                .into_iter()
                .collect()
        };
        let (items, slabs) = (stats(Kind::Items), stats(Kind::Slabs));
        metrics::memcached(
            &mut page,
            &stats(Kind::General),
            &stats(Kind::Settings),
            &items,
            &slabs,
        );
        metrics::cores(&mut page, reports.iter().map(|report| (&report.shard, &report.core)));
        let info = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("backend", self.node.cores()[0].backend.name()),
        ];
        if let Some(cluster) = self.cluster.get() {
            crate::cluster::add_metrics(cluster.shared(), &mut page)?;
        }
        page.add("seawall_info", Type::Gauge, "What runs here.", &info, 1);
        Ok(page.finish())
    }
}

impl Shards for Server {
    fn count(&self) -> u32 {
        self.cores()
    }

    fn owner(&self, key: &[u8]) -> u32 {
        KeyHash::of(key, &self.seed).core(self.cores())
    }

    fn on_core<T: Send + 'static>(
        &self,
        core: u32,
        task: impl FnOnce(&mut Shard, Now) -> T + Send + 'static,
    ) -> Result<T> {
        Ok(self.node.on_core(core, PATIENCE, move |core| {
            let now = core.now;
            task(&mut core.shard, now)
        })?)
    }
}

fn random_seed() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read a hash seed from /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_users(config: &Config) -> Result<Users> {
    let path = if config.sasl { config.sasl_file.as_ref() } else { config.auth_file.as_ref() };
    let Some(path) = path else { return Ok(Users::default()) };
    let text = std::fs::read(path)
        .with_context(|| format!("cannot read the users in {}", path.display()))?;
    Users::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

fn path_text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// What to say if `-L` found too few huge pages in the system's pool.
fn huge_pages_missing(config: &Config, cores: &[net::node::CoreInfo]) -> Option<String> {
    use net::sys::memory::{HUGE_PAGE_BYTES, Pages};
    let without = cores.iter().filter(|core| core.pages != Pages::Explicit).count();
    if !config.large_pages || without == 0 {
        return None;
    }
    let count = cores.len() as u64;
    let pages = (config.memory_bytes / count).div_ceil(HUGE_PAGE_BYTES as u64) * count;
    Some(format!(
        "WARNING: -L asks for explicit huge pages, and the system has too few of them: \
         {without} of {count} cores go without\n  to reserve them:  sysctl vm.nr_hugepages={pages}"
    ))
}

/// The node's part of the configuration.
fn node_config(config: &Config, seed: &HashSeed, users: Users) -> NodeConfig {
    let mut listen: Vec<ListenAddress> =
        config.tcp.iter().copied().map(ListenAddress::Tcp).collect();
    if let Some((path, mask)) = &config.unix {
        listen.push(ListenAddress::Unix { path: path.clone(), mask: *mask });
    }
    let tcp = config.tcp.first().copied();
    let (host, advertise_port) = advertised(config, tcp);
    let advertise_ip = advertised_ip(config, &host);
    let advertise_host = host;
    let usable = affinity::usable_cores();
    let cores = config.cores.unwrap_or(usable as u32);
    NodeConfig {
        settings: Settings {
            memory_bytes_max: config.memory_bytes,
            connections_max: config.connections_max,
            connections_max_fast: config.refuse_fast,
            tcp_port: tcp.map_or(0, |address| address.port()),
            listen: tcp.filter(|_| !config.tcp_any).map(|address| address.ip().to_string()),
            unix_socket: config.unix.as_ref().map(|(path, _)| path_text(path)),
            unix_mask: config.unix.as_ref().map_or(0o700, |(_, mask)| *mask),
            evictions: config.eviction.is_some(),
            eviction_policy: config.eviction.clone().unwrap_or_else(|| "none".into()),
            shutdown_command: config.enable_shutdown,
            prefix_delimiter: config.delimiter,
            detail: config.detail,
            requests_per_turn: config.requests_per_turn,
            cas: !config.disable_cas,
            cas_bits: if config.short_cas { 32 } else { 64 },
            backlog: config.backlog,
            binding: match config.protocol.as_str() {
                "ascii" => Binding::Ascii,
                "binary" => Binding::Binary,
                _ => Binding::Auto,
            },
            sasl: config.sasl,
            auth_file: config.auth_file.as_ref().map(path_text),
            value_bytes_max: config.value_bytes_max as usize,
            flush: !config.disable_flush_all,
            dump: !config.disable_dump,
            watch: !config.disable_watch,
            idle_timeout_seconds: config.idle_timeout,
            track_sizes: config.track_sizes,
            output_bytes_high_water: config.output_max,
            hops_in_flight_max: config.hops_max as usize,
            arriving_bytes_max: config.arriving_max,
            arriving_wait_ms: config.arriving_wait_ms,
            advertise_host,
            advertise_ip: advertise_ip.map_or_else(String::new, |ip| ip.to_string()),
            advertise_port,
            ..Settings::default()
        },
        users,
        cores: Some(cores),
        pin: match config.pin.as_str() {
            "yes" => true,
            "no" => false,
            _ => cores as usize == usable,
        },
        listen,
        core_ports: config.core_ports,
        backend: match config.backend.as_str() {
            "io_uring" => BackendChoice::Uring,
            "epoll" => BackendChoice::Epoll,
            _ => BackendChoice::Auto,
        },
        backend_options: BackendOptions {
            submissions: config.ring_entries,
            completions: config.ring_entries * 4,
            receive_buffers: config.receive_buffers as u16,
            ..BackendOptions::default()
        },
        reactor: ReactorOptions {
            backlog_bytes_max: config.backlog_max,
            connection_bytes_max: config.connections_memory_max / cores as usize,
            busy_poll: Duration::from_micros(config.busy_poll_us),
            ..ReactorOptions::default()
        },
        shard: ShardConfig {
            value_bytes_max: config.value_bytes_max as usize,
            eviction: match config.eviction.as_deref() {
                None => Eviction::None,
                Some("lru") => Eviction::Lru,
                Some("lfu") => Eviction::Lfu,
                Some("s3-fifo") => Eviction::S3Fifo,
                Some(_) => Eviction::ClockPro,
            },
            versions: !config.disable_cas,
            short_cas: config.short_cas,
            access_times: config.access_times,
            namespaces: config.namespaces.clone(),
            namespace_delimiter: config.delimiter,
            tag_generations_max: config.tag_generations_max,
            // Each clock may be off the keeper's by so much.
            expired_kept_ms: config.cluster.as_ref().map_or(0, |cluster| 2 * cluster.skew_max_ms),
            ..ShardConfig::new(seed.clone(), config.memory_bytes as usize)
        },
        seed: seed.clone(),
        huge_pages: config.large_pages,
        peering: None,
    }
}

/// Host and port that auto-discovery names: as configured, else as listened on, else
/// as other nodes of the cluster are told.
fn advertised(config: &Config, tcp: Option<SocketAddr>) -> (String, u16) {
    let port = tcp.map_or(11_211, |address| address.port());
    if let Some(given) = &config.advertise {
        return (given.host.clone(), given.port.unwrap_or(port));
    }
    if let Some(address) = tcp.filter(|address| !address.ip().is_unspecified()) {
        return (address.ip().to_string(), port);
    }
    // It is HOST:PORT, checked with the other settings.
    let of_peers = config.cluster.as_ref().and_then(|cluster| Advertise::parse(&cluster.advertise));
    (of_peers.map_or_else(|| "127.0.0.1".into(), |peers| peers.host), port)
}

/// The address of that host, if it was given or can be found now.
fn advertised_ip(config: &Config, host: &str) -> Option<IpAddr> {
    let given = config.advertise.as_ref().and_then(|given| given.ip);
    let found = given.or_else(|| host.parse().ok()).or_else(|| crate::names::resolve(host));
    if found.is_none() {
        say(&format!(
            "the advertised host {host} has no address here; clients are told its name alone"
        ));
    }
    found
}
