//! A node: its cores, their memory and mesh, its listeners; started and ended
//! as one.
//!
//! [`Node::start`] returns when every core is ready to serve, or says what is
//! wrong with numbers and advice. The [`NodeHandle`] is the control thread's
//! end: calls to cores, draining, stopping. A core that panics ends the process,
//! for a shard that may be half changed must not answer.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Arena, HashSeed, Shard, ShardConfig};

use crate::auth::Users;
use crate::clock::Clock;
use crate::control::{ControlAnswer, ControlCall, ControlOp};
use crate::core::{Core, Settings, Shared};
use crate::listener::{self, ListenAddress, ListenError, plain};
use crate::mesh::{self, Doors, Life, NodeCall, Post};
use crate::peering::link::{Cipher, End};
use crate::peering::{PeerId, Peering, PeeringLimits, Peers};
use crate::reactor::{ListenerInfo, Reactor, ReactorOptions};
use crate::sys::affinity;
use crate::sys::epoll::EpollBackend;
use crate::sys::memory::{Mapping, Pages};
use crate::sys::uring::UringBackend;
use crate::sys::{Backend, BackendChoice, BackendKind, BackendOptions, Refusal, probe};

/// Most data cores of a node: every pair of them has two queues.
pub const CORES_MAX: u32 = 256;
/// Least memory of a core: below it the shard's own tables leave no room.
pub const CORE_MEMORY_BYTES_MIN: u64 = 1 << 20;
/// Address space beyond the memory limit, so that `cache_memlimit` can raise it
/// while the node runs. Only address space: nothing is taken before it is used.
const ARENA_HEADROOM_BYTES_MIN: u64 = 1 << 30;
/// Most that one shard can address.
const ARENA_BYTES_MAX: u64 = 64 << 30;
/// How long a caller waits between two tries at a full queue.
const CALL_RETRY: Duration = Duration::from_millis(1);

/// What a node is started with.
#[derive(Debug)]
pub struct NodeConfig {
    /// What the protocol side needs, the memory limit of the whole node included.
    pub settings: Settings,
    /// Who may log in.
    pub users: Users,
    /// Data cores; `None` takes as many as there are usable ones.
    pub cores: Option<u32>,
    /// Pin each core's thread to a processor.
    pub pin: bool,
    /// Where to listen.
    pub listen: Vec<ListenAddress>,
    /// Core *i* also listens on this port + *i*, at the hosts of `listen`.
    pub core_ports: Option<u16>,
    /// Which way to the kernel.
    pub backend: BackendChoice,
    /// Sizes of its queues and buffers.
    pub backend_options: BackendOptions,
    /// Bounds of the loop.
    pub reactor: ReactorOptions,
    /// The shards; memory and item limits are the whole node's and are divided
    /// among the cores.
    pub shard: ShardConfig,
    /// Seed of the key hash, also in `shard.seed`.
    pub seed: HashSeed,
    /// Take the arenas from the system's pool of huge pages (`-L`), as far as it
    /// has enough.
    pub huge_pages: bool,
    /// For a node of a cluster: what decides about requests, made for each core.
    pub peering: Option<PeeringFactory>,
}

/// Makes the [`Peering`] of a core, which runs on that core's thread.
#[derive(Clone)]
pub struct PeeringFactory {
    /// Called with the core's number and how many there are.
    pub make: Arc<dyn Fn(u32, u32) -> Box<dyn Peering> + Send + Sync>,
    /// Bounds for each core.
    pub limits: PeeringLimits,
}

impl fmt::Debug for PeeringFactory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PeeringFactory").field("limits", &self.limits).finish()
    }
}

impl NodeConfig {
    /// A node of one core on a free port of the loopback, for tests and tools.
    pub fn local(memory_bytes_max: u64) -> NodeConfig {
        let seed = HashSeed::new(0x5ea_3a11);
        NodeConfig {
            settings: Settings { memory_bytes_max, ..Settings::default() },
            users: Users::default(),
            cores: Some(1),
            pin: false,
            listen: vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))],
            core_ports: None,
            backend: BackendChoice::Auto,
            backend_options: BackendOptions::default(),
            reactor: ReactorOptions::default(),
            shard: ShardConfig {
                access_times: true,
                ..ShardConfig::new(seed.clone(), memory_bytes_max as usize)
            },
            seed,
            huge_pages: false,
            peering: None,
        }
    }
}

/// Why a node did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum NodeError {
    /// A setting that cannot be.
    Setting(String),
    /// An address cannot be listened on.
    Listen(ListenError),
    /// io_uring was demanded and is refused.
    Backend(Refusal),
    /// The kernel would not give an arena.
    Memory {
        /// The core.
        core: u32,
        /// Bytes asked for.
        bytes: u64,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Something else of a core.
    Core {
        /// The core.
        core: u32,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl fmt::Display for NodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeError::Setting(text) => write!(formatter, "{text}"),
            NodeError::Listen(error) => write!(formatter, "{error}"),
            NodeError::Backend(refusal) => write!(
                formatter,
                "cannot use io_uring: {}\n  to allow it:   {}\n  without it:    --io-backend auto, at 1.1 to 1.5 times the CPU",
                refusal.reason, refusal.advice
            ),
            NodeError::Memory { core, bytes, error } => {
                let mebibytes = bytes.div_ceil(1 << 20);
                write!(
                    formatter,
                    "no memory for core {core}: {mebibytes} MiB: {}\n  to fit:  a smaller -m, or a higher limit (ulimit -v, vm.overcommit_memory)",
                    plain(error)
                )
            }
            NodeError::Core { core, what, error } => {
                write!(formatter, "core {core}: cannot {what}: {}", plain(error))
            }
        }
    }
}

impl std::error::Error for NodeError {}

/// Why a call to a core was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The core has ended.
    Stopped,
    /// The time was up.
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            CallError::Stopped => "the node has stopped",
            CallError::TimedOut => "a core did not answer in time",
        })
    }
}

impl std::error::Error for CallError {}

/// What the banner says of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreInfo {
    /// Its way to the kernel.
    pub backend: BackendKind,
    /// The processor it is pinned to.
    pub processor: Option<usize>,
    /// Its pages.
    pub pages: Pages,
}

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts every core and lets clients in.
    pub fn start(config: NodeConfig) -> Result<NodeHandle, NodeError> {
        let node = Node::start_closed(config)?;
        node.open();
        Ok(node)
    }

    /// Starts every core and binds every address, but lets nobody in before
    /// [`NodeHandle::open`]: time to load a snapshot.
    pub fn start_closed(config: NodeConfig) -> Result<NodeHandle, NodeError> {
        let processors = affinity::usable_processors();
        let cores = config.cores.unwrap_or_else(|| affinity::usable_cores() as u32);
        check_settings(&config, cores)?;
        let (kind, refusal) = choose_backend(&config)?;
        let (listeners, mut sockets) = bind_all(&config, cores)?;
        let (doors, posts) = mesh::build(cores).map_err(|error| NodeError::Core {
            core: 0,
            what: "make an eventfd",
            error,
        })?;

        let clock = Clock::start();
        let mut settings = config.settings.clone();
        settings.io_backend = kind.name().into();
        // What the kernel chose, where a port of 0 let it.
        if let Some(port) = listeners.iter().find_map(|info| info.address.tcp_port()) {
            for shown in [&mut settings.tcp_port, &mut settings.advertise_port] {
                *shown = if *shown == 0 { port } else { *shown };
            }
        }
        let shared = Arc::new(Shared::new(settings, cores, config.users, clock.now()));
        let plan = Arc::new(Plan {
            cores,
            clock,
            kind,
            fall_back: config.backend == BackendChoice::Auto,
            backend_options: config.backend_options,
            reactor: config.reactor,
            shard: config.shard,
            seed: config.seed,
            huge_pages: config.huge_pages,
            peering: config.peering,
            memory_bytes: config.settings.memory_bytes_max / u64::from(cores),
            listeners,
            shared: Arc::clone(&shared),
        });

        let (report, reports) = mpsc::channel();
        let mut threads = Vec::new();
        for post in posts {
            let core = post.id();
            let own = sockets.remove(0);
            // More cores than processors share them, without pinning.
            let pin = config.pin && cores as usize <= processors.len();
            let processor = pin.then(|| processors[core as usize]);
            let (plan, report) = (Arc::clone(&plan), report.clone());
            let thread = std::thread::Builder::new()
                .name(format!("seawall-core-{core}"))
                .spawn(move || core_thread(&plan, post, own, processor, &report));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    stop_all(&doors, threads);
                    return Err(NodeError::Core { core, what: "start a thread", error });
                }
            }
        }
        drop(report);
        let mut infos = vec![None; cores as usize];
        for _ in 0..cores {
            match reports.recv() {
                Ok((core, Ok(info))) => infos[core as usize] = Some(info),
                Ok((_, Err(error))) => {
                    stop_all(&doors, threads);
                    return Err(error);
                }
                Err(_) => unreachable!("a core that ends without a report has aborted the process"),
            }
        }
        Ok(NodeHandle {
            addresses: plan.listeners.iter().map(|info| info.address.clone()).collect(),
            infos: infos.into_iter().flatten().collect(),
            refusal,
            clock,
            shared,
            doors,
            threads: Mutex::new(threads),
        })
    }
}

fn check_settings(config: &NodeConfig, cores: u32) -> Result<(), NodeError> {
    let wrong = |text: String| Err(NodeError::Setting(text));
    if cores == 0 || cores > CORES_MAX {
        return wrong(format!("{cores} data cores: there must be 1 to {CORES_MAX}"));
    }
    let memory = config.settings.memory_bytes_max / u64::from(cores);
    if memory < CORE_MEMORY_BYTES_MIN {
        return wrong(format!(
            "{} KiB of memory for each of {cores} cores: at least {} KiB are needed\n  to fit:  a larger -m, or fewer cores",
            memory >> 10,
            CORE_MEMORY_BYTES_MIN >> 10,
        ));
    }
    if memory > ARENA_BYTES_MAX {
        return wrong(format!(
            "{} GiB of memory for each of {cores} cores: one can address {} GiB\n  to fit:  more cores",
            memory >> 30,
            ARENA_BYTES_MAX >> 30,
        ));
    }
    let buffer = config.backend_options.receive_buffer_bytes;
    if !(256..=1 << 20).contains(&buffer) {
        return wrong(format!("receive buffers of {buffer} bytes: 256 to 1048576 are possible"));
    }
    if config.listen.is_empty() {
        return wrong("no address to listen on".into());
    }
    Ok(())
}

fn choose_backend(config: &NodeConfig) -> Result<(BackendKind, Option<Refusal>), NodeError> {
    if config.backend == BackendChoice::Epoll {
        return Ok((BackendKind::Epoll, None));
    }
    match (probe(&config.backend_options), config.backend) {
        (Ok(kind), _) => Ok((kind, None)),
        (Err(refusal), BackendChoice::Uring) => Err(NodeError::Backend(refusal)),
        (Err(refusal), _) => Ok((BackendKind::Epoll, Some(refusal))),
    }
}

/// Sockets that a core listens on, each with its listener's number.
type CoreSockets = Vec<(u32, OwnedFd)>;

/// Binds every address. Core 0 accepts for all; core ports are their core's.
fn bind_all(
    config: &NodeConfig,
    cores: u32,
) -> Result<(Arc<[ListenerInfo]>, Vec<CoreSockets>), NodeError> {
    let mut infos: Vec<ListenerInfo> = Vec::new();
    let mut sockets: Vec<CoreSockets> = (0..cores).map(|_| Vec::new()).collect();
    let mut missing = None;
    for address in &config.listen {
        // `-p 0` with several hosts takes one free port for all of them.
        let address = match (address, infos.first().map(|info| &info.address)) {
            (ListenAddress::Tcp(wanted), Some(ListenAddress::Tcp(first))) if wanted.port() == 0 => {
                ListenAddress::Tcp(SocketAddr::new(wanted.ip(), first.port()))
            }
            _ => address.clone(),
        };
        match listener::bind(&address, config.settings.backlog) {
            Ok((socket, bound)) => {
                sockets[0].push((infos.len() as u32, socket));
                infos.push(ListenerInfo { address: bound, core: None });
            }
            // `::` where there is no IPv6: the other address serves.
            Err(error)
                if listener::is_missing_family(&error)
                    && matches!(address, ListenAddress::Tcp(a) if a.ip().is_unspecified()) =>
            {
                missing = Some(error);
            }
            Err(error) => return Err(NodeError::Listen(error)),
        }
    }
    if let (true, Some(error)) = (infos.is_empty(), missing) {
        return Err(NodeError::Listen(error));
    }
    let Some(base) = config.core_ports else { return Ok((infos.into(), sockets)) };
    let hosts: Vec<SocketAddr> = infos
        .iter()
        .filter_map(|info| match &info.address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix { .. } => None,
        })
        .collect();
    for core in 0..cores {
        let Some(port) = u16::try_from(core).ok().and_then(|core| base.checked_add(core)) else {
            return Err(NodeError::Setting(format!(
                "core ports from {base} on: there is no port for core {core}, the last is 65535"
            )));
        };
        for host in &hosts {
            let address = ListenAddress::Tcp(SocketAddr::new(host.ip(), port));
            let (socket, bound) =
                listener::bind(&address, config.settings.backlog).map_err(NodeError::Listen)?;
            sockets[core as usize].push((infos.len() as u32, socket));
            infos.push(ListenerInfo { address: bound, core: Some(core) });
        }
    }
    Ok((infos.into(), sockets))
}

/// What every core's thread is started with.
struct Plan {
    cores: u32,
    clock: Clock,
    kind: BackendKind,
    /// A core whose ring is refused takes epoll.
    fall_back: bool,
    backend_options: BackendOptions,
    reactor: ReactorOptions,
    shard: ShardConfig,
    seed: HashSeed,
    huge_pages: bool,
    memory_bytes: u64,
    listeners: Arc<[ListenerInfo]>,
    shared: Arc<Shared>,
    peering: Option<PeeringFactory>,
}

type Report = mpsc::Sender<(u32, Result<CoreInfo, NodeError>)>;

fn core_thread(
    plan: &Plan,
    post: Post,
    sockets: CoreSockets,
    processor: Option<usize>,
    report: &Report,
) {
    let core = post.id();
    let run = AssertUnwindSafe(|| serve(plan, post, sockets, processor, report));
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            // Before the report this ends the start; afterwards it ends the node.
            if let Err(mpsc::SendError((_, Err(error)))) = report.send((core, Err(error))) {
                eprintln!("seawalld: {error}; the node cannot go on");
                std::process::abort();
            }
        }
        Err(_) => {
            // The panic's own message has been printed.
            eprintln!(
                "seawalld: core {core} panicked; its part of the keys cannot be trusted, so the node ends"
            );
            std::process::abort();
        }
    }
}

/// Builds a core on its own thread, where its memory is touched first and its
/// ring belongs, and runs it.
fn serve(
    plan: &Plan,
    post: Post,
    sockets: CoreSockets,
    processor: Option<usize>,
    report: &Report,
) -> Result<(), NodeError> {
    let id = post.id();
    let failed = |what: &'static str| move |error| NodeError::Core { core: id, what, error };
    // A processor that went away meanwhile is no reason not to serve.
    let processor = processor.filter(|processor| affinity::pin_to(*processor).is_ok());
    let (memory, pages) = map_arena(plan, id)?;
    let core = build_core(plan, id, &memory);
    let info = |backend| CoreInfo { backend, processor, pages };

    if plan.kind == BackendKind::Uring {
        match UringBackend::new(&plan.backend_options) {
            Ok(backend) => {
                return serve_over(plan, backend, core, post, sockets, memory, info, report);
            }
            Err(error) if !plan.fall_back => return Err(failed("make an io_uring")(error)),
            // The probe's ring was allowed and this one is not: the
            // memory-lock limit is used up.
            Err(_) => {}
        }
    }
    let backend = EpollBackend::new(&plan.backend_options).map_err(failed("make an epoll"))?;
    serve_over(plan, backend, core, post, sockets, memory, info, report)
}

fn serve_over<B: Backend>(
    plan: &Plan,
    backend: B,
    core: Core,
    post: Post,
    sockets: CoreSockets,
    memory: Arc<Mapping>,
    info: impl Fn(BackendKind) -> CoreInfo,
    report: &Report,
) -> Result<(), NodeError> {
    let id = core.id;
    let failed = |what: &'static str| move |error| NodeError::Core { core: id, what, error };
    let kind = backend.kind();
    let listeners = Arc::clone(&plan.listeners);
    let reactor =
        Reactor::new(core, backend, post, plan.clock, plan.reactor, listeners, sockets, memory)
            .map_err(failed("watch its eventfd"))?;
    let _ = report.send((id, Ok(info(kind))));
    reactor.run().map_err(failed("wait for events"))
}

fn map_arena(plan: &Plan, core: u32) -> Result<(Arc<Mapping>, Pages), NodeError> {
    let wanted = plan.memory_bytes;
    let roomy = (wanted * 2).max(wanted + ARENA_HEADROOM_BYTES_MIN).min(ARENA_BYTES_MAX);
    // Without enough huge pages in the pool the node starts all the same, as
    // memcached does. What it got is in its `CoreInfo`.
    let explicit = plan.huge_pages.then(|| Mapping::arena(wanted as usize, true).ok()).flatten();
    let mapped = match explicit {
        Some(arena) => Ok(arena),
        // Where address space is limited, the headroom goes first.
        None => Mapping::arena(roomy as usize, false)
            .or_else(|_| Mapping::arena(wanted as usize, false)),
    };
    mapped.map(|(mapping, pages)| (Arc::new(mapping), pages)).map_err(|error| NodeError::Memory {
        core,
        bytes: wanted,
        error,
    })
}

fn build_core(plan: &Plan, id: u32, memory: &Arc<Mapping>) -> Core {
    let mut config = plan.shard.clone();
    config.seed = plan.seed.clone();
    config.memory_bytes_max = plan.memory_bytes as usize;
    config.items_max = config.items_max.map(|items| items.div_ceil(u64::from(plan.cores)));
    // SAFETY: the mapping is zeroed, readable and writable, and lives as long as
    // the `Arc` handed along. Nobody else touches it: the reactor, which also
    // holds it, only gives back ranges that the shard has declared free.
    let arena = unsafe {
        Arena::from_raw(
            memory.base(),
            memory.bytes(),
            Arc::clone(memory) as Arc<dyn Any + Send + Sync>,
        )
    };
    let shard = Shard::new(config, arena);
    let mut core = Core::new(id, plan.cores, shard, plan.seed.clone(), Arc::clone(&plan.shared));
    core.peers = plan
        .peering
        .as_ref()
        .map(|factory| Box::new(Peers::new((factory.make)(id, plan.cores), factory.limits)));
    core
}

fn stop_all(doors: &Doors, threads: Vec<JoinHandle<()>>) {
    doors.advance(Life::Stopping);
    for thread in threads {
        let _ = thread.join();
    }
}

/// How draining ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open when the time was up.
    pub connections_left: u64,
    /// How long it took.
    pub took: Duration,
}

/// The control thread's end of a running node. Share it behind an `Arc`.
#[derive(Debug)]
pub struct NodeHandle {
    addresses: Vec<ListenAddress>,
    infos: Vec<CoreInfo>,
    refusal: Option<Refusal>,
    clock: Clock,
    shared: Arc<Shared>,
    doors: Arc<Doors>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl NodeHandle {
    /// Where the node really listens, core ports last.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The first TCP address.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix { .. } => None,
        })
    }

    /// The cores.
    pub fn cores(&self) -> &[CoreInfo] {
        &self.infos
    }

    /// Why io_uring is not used, if it was tried.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// What the cores share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The node's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Hands a core a connection to or from a core of another node, by which
    /// nothing travels but the link's frames. False: the core takes nothing now,
    /// and the connection is closed.
    pub fn link(
        &self,
        core: u32,
        socket: OwnedFd,
        peer: PeerId,
        end: End,
        cipher: Option<Box<dyn Cipher>>,
    ) -> bool {
        self.doors.call(core, NodeCall::Link { socket, peer, end, cipher }).is_ok()
    }

    /// Runs `task` on a core's thread, some time soon; it comes back if the core's
    /// queue is full or the core has ended.
    pub fn tell(&self, core: u32, task: Box<dyn FnOnce(&mut Core) + Send>) -> Result<(), NodeCall> {
        self.doors.call(core, NodeCall::Task(task))
    }

    /// Gives a core's call back to it, answered.
    pub fn answer(&self, mut call: Box<ControlCall>) {
        let core = call.from;
        while self.is_running() {
            match self.doors.call(core, NodeCall::Answered(call)) {
                Err(NodeCall::Answered(back)) => call = back,
                _ => return,
            }
            std::thread::sleep(CALL_RETRY);
        }
    }

    /// Whether the cores turn their loops.
    pub fn is_running(&self) -> bool {
        self.doors.life() < Life::Stopping
    }

    /// Connections of one core.
    pub fn connections(&self, core: u32) -> u32 {
        self.doors.connections(core)
    }

    /// Hands an operation to a core; `reply` is called on the core's thread and
    /// must be short (send into a channel: a tokio oneshot, for example). The
    /// operation comes back if the core's queue is full or the core has ended.
    pub fn submit(
        &self,
        core: u32,
        op: ControlOp,
        reply: impl FnOnce(ControlAnswer) + Send + 'static,
    ) -> Result<(), NodeCall> {
        self.doors.call(core, NodeCall::Op { op, reply: Box::new(reply) })
    }

    /// Executes an operation on one core and waits for its answer. Blocks: from
    /// tokio, call it in `spawn_blocking`, or use [`submit`](Self::submit).
    pub fn call(
        &self,
        core: u32,
        op: ControlOp,
        patience: Duration,
    ) -> Result<ControlAnswer, CallError> {
        let deadline = Instant::now() + patience;
        let answer = self.ask(core, op, deadline)?;
        wait_for(&answer, deadline)
    }

    /// Executes an operation on every core, at the same time, and waits for all
    /// answers, in the order of the cores.
    pub fn broadcast(
        &self,
        op: &ControlOp,
        patience: Duration,
    ) -> Result<Vec<ControlAnswer>, CallError> {
        let deadline = Instant::now() + patience;
        let asked: Vec<_> = (0..self.doors.cores())
            .map(|core| self.ask(core, op.clone(), deadline))
            .collect::<Result<_, _>>()?;
        asked.iter().map(|answer| wait_for(answer, deadline)).collect()
    }

    fn ask(
        &self,
        core: u32,
        op: ControlOp,
        deadline: Instant,
    ) -> Result<mpsc::Receiver<ControlAnswer>, CallError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let reply = Box::new(move |answer| {
            let _ = sender.try_send(answer);
        });
        self.post(core, NodeCall::Op { op, reply }, deadline)?;
        Ok(receiver)
    }

    /// Runs `task` on a core's thread and waits for what it returns. The core
    /// serves nobody meanwhile: a task takes well below a millisecond.
    pub fn on_core<T: Send + 'static>(
        &self,
        core: u32,
        patience: Duration,
        task: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let deadline = Instant::now() + patience;
        let (sender, receiver) = mpsc::sync_channel(1);
        let task = Box::new(move |core: &mut Core| {
            let _ = sender.try_send(task(core));
        });
        self.post(core, NodeCall::Task(task), deadline)?;
        wait_for(&receiver, deadline)
    }

    fn post(&self, core: u32, mut call: NodeCall, deadline: Instant) -> Result<(), CallError> {
        while let Err(back) = self.doors.call(core, call) {
            if self.doors.life() == Life::Stopping {
                return Err(CallError::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(CallError::TimedOut);
            }
            std::thread::sleep(CALL_RETRY);
            call = back;
        }
        Ok(())
    }

    /// Lets clients in.
    pub fn open(&self) {
        self.doors.advance(Life::Running);
    }

    /// Stops accepting, lets requests under way finish, closes connections that
    /// are between two requests, for at most `grace`. Afterwards the cores have
    /// no listeners but still answer calls (a snapshot, for example).
    pub fn drain(&self, grace: Duration) -> Drained {
        let begin = Instant::now();
        self.doors.advance(Life::Draining);
        loop {
            let left = self.shared.curr_connections.load(Ordering::Relaxed);
            let took = begin.elapsed();
            if left == 0 || took >= grace {
                return Drained { connections_left: left, took };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// After [`drain`](Self::drain): closes the connections that are left, and waits
    /// until they are gone, for at most `patience`. Returns how many are not. With
    /// none, nobody changes an item any more.
    pub fn cut_off(&self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        self.doors.advance(Life::CutOff);
        loop {
            let left = self.shared.curr_connections.load(Ordering::Relaxed);
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends every core, whatever is under way, and waits for their threads.
    pub fn stop(&self) {
        let threads = match self.threads.lock() {
            Ok(mut threads) => std::mem::take(&mut *threads),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        stop_all(&self.doors, threads);
    }
}

fn wait_for<T>(answer: &mpsc::Receiver<T>, deadline: Instant) -> Result<T, CallError> {
    let left = deadline.saturating_duration_since(Instant::now());
    answer.recv_timeout(left).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => CallError::TimedOut,
        mpsc::RecvTimeoutError::Disconnected => CallError::Stopped,
    })
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.stop();
    }
}
