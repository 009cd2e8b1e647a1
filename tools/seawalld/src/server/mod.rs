//! The running node and all that the control thread does for it.
//!
//! | file | owns |
//! |---|---|
//! | `mod.rs` | its life, from start to end |
//! | `advertised.rs` | where auto-discovery sends clients |
//! | `banner.rs` | the first lines of the log |
//! | `snapshots.rs` | the snapshot: loading and writing |
//! | `views.rs` | what the admin API shows |
//! | `actions.rs` | what the admin API does |
//!
//! Life: every address is bound and every core started (`start`); root is given
//! up; the snapshot is loaded and marked as loaded; clients are let in; then signals
//! decide (`run`).
//! SIGTERM, SIGINT and SIGUSR1 drain the clients, write the snapshot if there is
//! a file for it, and end. SIGHUP reads the users again.

mod actions;
mod advertised;
mod banner;
mod snapshots;
mod views;

pub use views::Unready;

use crate::cluster::{Cluster, Ending, Starting};
use crate::process;
use crate::settings::{Config, Effective};
use crate::storage::snapshot::Progress;
use anyhow::{Context, Result, bail};
use engine::snapshot::Taken;
use engine::{HashSeed, KeyHash};
use net::auth::Users;
use net::core::Shutdown;
use net::node::{Node, NodeHandle};
use snapshots::Snapshots;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// How long a core may take to answer the control thread.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the cores may take to close the connections that are left at the end.
const CUT_OFF_PATIENCE: Duration = Duration::from_secs(2);
/// How often a node without a cluster looks whether it has one.
const LEASE_LOOK_EVERY: Duration = Duration::from_millis(50);

/// One line to the log.
pub fn say(text: &str) {
    eprintln!("seawalld: {text}");
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

/// The signals that the process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    graceful: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            graceful: signal(SignalKind::user_defined1())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
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
        let advertised = advertised::advertised(&config);
        let mut node_config = config.node(&effective, &seed, users, advertised);
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
        let snapshots = config.snapshot.as_deref().map(Snapshots::claim).transpose()?;
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
        let mut signals = Signals::new()?;
        let admin = self.start_admin().await?;
        self.banner(admin);
        let ended = tokio::select! {
            outcome = self.load() => { outcome?; false }
            // Nobody was let in and the file is as it was: there is nothing to save.
            _ = signals.terminate.recv() => true,
            _ = signals.interrupt.recv() => true,
        };
        if ended {
            self.node.stop();
            return Ok(());
        }
        self.start_cluster().await?;
        self.open(background)?;
        let why = self.until_the_end(&mut signals).await;
        self.step_down().await?;
        // An error, so that whoever watches over the process starts it again.
        match why {
            Some(Ending::BegunAnew) => bail!("this node must be started again"),
            Some(Ending::Superseded) | None => Ok(()),
        }
    }

    /// Lets clients in, and says so to whoever waits for it.
    fn open(self: &Arc<Server>, background: Option<process::Background>) -> Result<()> {
        self.node.open();
        self.loading.store(false, Ordering::Release);
        if let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME")
            && let Err(error) = process::write_ports(Path::new(&path), self.node.addresses())
        {
            say(&format!("WARNING: {error:#}"));
        }
        self.say_when_ready();
        process::notify("READY=1");
        background.map_or(Ok(()), process::Background::served)
    }

    /// Resolves when the process is to end: by a signal, by a client, or by the cluster.
    async fn until_the_end(&self, signals: &mut Signals) -> Option<Ending> {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return None,
                _ = signals.interrupt.recv() => return None,
                _ = signals.graceful.recv() => return None,
                () = self.shutdown.notified() => return None,
                why = self.cluster_ending() => {
                    say(match why {
                        Ending::Superseded => "a later process of this node's name is in the cluster: this one ends",
                        Ending::BegunAnew => "the cluster was begun anew: this process ends, the next one joins it",
                    });
                    return Some(why);
                }
                _ = signals.hang_up.recv() => {
                    self.read_users_again();
                    if let Some(cluster) = self.cluster.get() {
                        cluster.read_certificates_again();
                    }
                }
            }
        }
    }

    /// Gives up what this node leads, lets clients finish, leaves the cluster, saves.
    async fn step_down(self: &Arc<Server>) -> Result<()> {
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
        tokio::task::spawn_blocking(move || server.end()).await?
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

    fn read_users_again(&self) {
        match read_users(&self.config) {
            Ok(users) => {
                *self.node.shared().users.write().expect("no holder panics") = Arc::new(users);
                say("users read again");
            }
            Err(error) => say(&format!("{error:#}; keeping the users that are known")),
        }
    }

    fn cores(&self) -> u32 {
        self.node.cores().len() as u32
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
