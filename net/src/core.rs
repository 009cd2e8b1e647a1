//! What a data core owns, and the little that all cores share.

use crate::allowance::{Allowance, Crowding};
use crate::auth::Users;
use crate::control::ControlCall;
use crate::detail::Detail;
use crate::hop::{ConnToken, Outbox};
use crate::lend::{Lenders, Seat};
use crate::limits;
use crate::observe::Observer;
use crate::peering::Peers;
use crate::stats::CoreStats;
use crate::watch::WatchLog;
use engine::{HashSeed, Now, Shard};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock, RwLock};

/// One data core: its shard, its post to the other cores, its counters. The
/// reactor owns it and lends it to a connection for each event.
#[derive(Debug)]
pub struct Core {
    /// Which core this is, from 0.
    pub id: u32,
    /// How many there are.
    pub cores: u32,
    /// The time of this loop turn.
    pub now: Now,
    /// This core's part of the keys; lent to others while the core sleeps.
    pub shard: Seat<Shard>,
    /// The node's hash secrets.
    pub seed: HashSeed,
    /// What waits to be sent to other cores.
    pub outbox: Outbox,
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// This core's protocol counters.
    pub stats: CoreStats,
    /// Events that somebody watches.
    pub watch: WatchLog,
    /// `stats detail`.
    pub detail: Detail,
    /// Connections that wait for memory for a large value.
    pub patient: usize,
    /// What a node of a cluster has under way with others.
    pub peers: Option<Box<Peers>>,
    /// Values read that are longer are pinned instead of copied.
    pub copy_bytes_max: usize,
    /// What each connection may take now.
    pub allowance: Allowance,
    /// Output and requests of this turn so far.
    turn_output_bytes: usize,
    turn_requests: u32,
    turn_is_long: bool,
}

impl Core {
    /// A core around its shard.
    pub fn new(id: u32, cores: u32, mut shard: Shard, seed: HashSeed, shared: Arc<Shared>) -> Core {
        shard.set_core(id, cores);
        shard.track_sizes(shared.settings.track_sizes, shared.started);
        let mut shard = Seat::new(shard);
        shard.enter(&shared.shards, id);
        let watch = WatchLog::new(
            shared.settings.watcher_log_bytes,
            Arc::clone(&shared.log_sequence),
            cores,
        );
        let allowance = Allowance::new(&shared.settings, Crowding::Calm, usize::MAX);
        Core {
            id,
            cores,
            now: shared.started,
            shard,
            seed,
            outbox: Outbox::new(id, cores),
            shared,
            stats: CoreStats::default(),
            watch,
            detail: Detail::default(),
            patient: 0,
            peers: None,
            copy_bytes_max: limits::PIN_VALUE_BYTES_MIN,
            allowance,
            turn_output_bytes: 0,
            turn_requests: 0,
            turn_is_long: false,
        }
    }

    /// A turn begins, while connections hold so much of their bound.
    pub fn begin_turn(&mut self, crowding: Crowding, connection_bytes_max: usize) {
        self.turn_output_bytes = 0;
        self.turn_requests = 0;
        self.turn_is_long = false;
        self.allow(Allowance::new(&self.shared.settings, crowding, connection_bytes_max));
    }

    fn allow(&mut self, allowance: Allowance) {
        self.allowance = allowance;
        self.copy_bytes_max = allowance.copied_value_bytes_max;
        self.outbox.copying = allowance.copying;
    }

    /// A connection has put out so much, and executed so many requests.
    #[inline]
    pub fn note_work(&mut self, output_bytes: usize, requests: u32) {
        self.turn_output_bytes += output_bytes;
        self.turn_requests += requests;
        if !self.turn_is_long
            && self.allowance.is_long_turn(self.turn_output_bytes, self.turn_requests)
        {
            self.turn_is_long = true;
            self.allow(self.allowance.shortened());
        }
    }

    /// The shard that it is at, and what it has for those who watch the connection.
    #[inline]
    pub(crate) fn parts(&mut self, conn: ConnToken) -> (&mut Shard, Observer<'_>) {
        let Core { id, now, watch, detail, stats, shared, shard, .. } = self;
        let (core, slot, now) = (*id, conn.index, *now);
        (shard, Observer { core, slot, now, watch, detail, stats, shared })
    }

    /// The latter alone.
    #[inline]
    pub(crate) fn observer(&mut self, conn: ConnToken) -> Observer<'_> {
        self.parts(conn).1
    }

    /// Whether this turn has done enough: what can wait is for the next.
    #[inline]
    pub fn is_long_turn(&self) -> bool {
        self.turn_is_long
    }

    /// Sends what this turn has for the watchers on its way.
    #[inline]
    pub fn post_logs(&mut self) {
        if !self.watch.is_idle() {
            self.log_events();
            self.watch.flush(&mut self.outbox);
        }
    }

    /// Logs what happened in the shard that it is at.
    pub fn log_events(&mut self) {
        let (watch, now) = (&mut self.watch, self.now);
        let dropped = self.shard.take_events(&mut |event| watch.shard_event(now, event));
        self.watch.stats.dropped += dropped;
    }
}

/// Which protocol a listener speaks (`-B`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// The first byte decides.
    #[default]
    Auto,
    /// Text and meta only.
    Ascii,
    /// Binary only.
    Binary,
}

/// What the daemon decided at start. Fields named as memcached's `stats
/// settings` names them where it has them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory for items, of the whole node (`-m`).
    pub memory_bytes_max: u64,
    /// Connections (`-c`).
    pub connections_max: u32,
    /// Answer and close at the connection limit, instead of not accepting.
    pub connections_max_fast: bool,
    /// TCP port (`-p`), for `stats settings`.
    pub tcp_port: u16,
    /// Listen address as given (`-l`), for `stats settings`.
    pub listen: Option<String>,
    /// Unix socket (`-s`).
    pub unix_socket: Option<String>,
    /// Its mask (`-a`).
    pub unix_mask: u32,
    /// Evict when full; false with `-M`.
    pub evictions: bool,
    /// Name of the eviction policy, for `stats settings`.
    pub eviction_policy: String,
    /// The `shutdown` command is allowed (`-A`).
    pub shutdown_command: bool,
    /// Slab growth factor as given (`-f`); kept for display.
    pub growth_factor: f64,
    /// Smallest chunk as given (`-n`); kept for display.
    pub chunk_bytes_min: u32,
    /// Delimiter of `stats detail` prefixes (`-D`).
    pub prefix_delimiter: u8,
    /// Count prefixes from the start (`-D`).
    pub detail: bool,
    /// Requests of a connection in one turn (`-R`).
    pub requests_per_turn: u32,
    /// Items have a CAS (`-C` switches it off).
    pub cas: bool,
    /// Bits of CAS uniques, for `stats settings`.
    pub cas_bits: u32,
    /// Listen backlog (`-b`).
    pub backlog: u32,
    /// Protocol (`-B`).
    pub binding: Binding,
    /// SASL is required on the binary protocol (`-S`).
    pub sasl: bool,
    /// Path of the text protocol's users (`-Y`); its presence requires a login.
    pub auth_file: Option<String>,
    /// Largest value (`-I`).
    pub value_bytes_max: usize,
    /// `flush_all` is allowed (`-F` forbids it).
    pub flush: bool,
    /// Dumps are allowed (`-X` forbids them).
    pub dump: bool,
    /// `watch` is allowed (`-W` forbids it).
    pub watch: bool,
    /// Seconds after which a silent connection is closed; 0 never.
    pub idle_timeout_seconds: u32,
    /// Keep items by size from the start (`-o track_sizes`).
    pub track_sizes: bool,
    /// Bytes of log kept per watcher and core.
    pub watcher_log_bytes: usize,
    /// Unsent output at which a connection stops executing.
    pub output_bytes_high_water: usize,
    /// Requests of one connection under way on other cores.
    pub hops_in_flight_max: usize,
    /// Bytes that values under way from clients may hold, all cores together;
    /// 0 is a quarter of each shard's memory.
    pub arriving_bytes_max: u64,
    /// How long a value waits for that memory before it is refused, in
    /// milliseconds.
    pub arriving_wait_ms: u64,
    /// Host that `config get cluster` and `topology` name.
    pub advertise_host: String,
    /// Its address; empty: clients must ask a resolver.
    pub advertise_ip: String,
    /// Port that they name.
    pub advertise_port: u16,
    /// Backend in use, for `stats settings` (`io_uring`, `epoll`).
    pub io_backend: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            memory_bytes_max: 64 << 20,
            connections_max: 1024,
            connections_max_fast: true,
            tcp_port: 11211,
            listen: None,
            unix_socket: None,
            unix_mask: 0o700,
            evictions: true,
            eviction_policy: "clock-pro".into(),
            shutdown_command: false,
            growth_factor: 1.25,
            chunk_bytes_min: 48,
            prefix_delimiter: b':',
            detail: false,
            requests_per_turn: limits::REQUESTS_PER_TURN_MAX,
            cas: true,
            cas_bits: 64,
            backlog: 1024,
            binding: Binding::Auto,
            sasl: false,
            auth_file: None,
            value_bytes_max: 1 << 20,
            flush: true,
            dump: true,
            watch: true,
            idle_timeout_seconds: 0,
            track_sizes: false,
            watcher_log_bytes: limits::WATCHER_LOG_BYTES,
            output_bytes_high_water: limits::OUTPUT_BYTES_HIGH_WATER,
            hops_in_flight_max: limits::HOPS_IN_FLIGHT_MAX,
            arriving_bytes_max: 0,
            arriving_wait_ms: limits::ARRIVING_WAIT_MS,
            advertise_host: "127.0.0.1".into(),
            advertise_ip: "127.0.0.1".into(),
            advertise_port: 11211,
            io_backend: "io_uring".into(),
        }
    }
}

/// How the `shutdown` command wants the node to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// As on SIGINT.
    Now,
    /// As on SIGUSR1: finish what is under way, keep what can be kept.
    Graceful,
}

/// What a node of a cluster tells clients of it.
#[derive(Clone, Debug, Default)]
pub struct ClusterText {
    /// The body that `config get cluster` answers: a version, a line of nodes.
    pub config: String,
    /// The line of JSON that `topology` answers.
    pub topology: String,
}

/// The same, made when the first client asks for it.
pub struct LazyText {
    make: Box<dyn Fn() -> ClusterText + Send + Sync>,
    made: OnceLock<ClusterText>,
}

impl LazyText {
    /// Will be what `make` returns.
    pub fn new(make: impl Fn() -> ClusterText + Send + Sync + 'static) -> LazyText {
        LazyText { make: Box::new(make), made: OnceLock::new() }
    }

    /// The text.
    pub fn get(&self) -> &ClusterText {
        self.made.get_or_init(&self.make)
    }
}

/// Called for what concerns the whole cluster. The call comes back, answered, to
/// the core that it is from ([`crate::node::NodeHandle::answer`]).
pub type ClusterHook = Box<dyn Fn(Box<ControlCall>) + Send + Sync>;

/// Called when a client sends `shutdown`.
pub type ShutdownHook = Box<dyn Fn(Shutdown) + Send + Sync>;

/// What all cores see: the settings, and counters that change per connection,
/// never per request.
pub struct Shared {
    /// The settings.
    pub settings: Settings,
    /// The shards of sleeping cores.
    pub shards: Lenders<Shard>,
    /// When the node started.
    pub started: Now,
    /// Connections open.
    pub curr_connections: AtomicU64,
    /// Connections ever accepted.
    pub total_connections: AtomicU64,
    /// Connections refused at the limit.
    pub rejected_connections: AtomicU64,
    /// Times that accepting was suspended.
    pub listen_disabled: AtomicU64,
    /// For how long in total.
    pub listen_disabled_us: AtomicU64,
    /// Whether new connections are accepted.
    pub accepting: AtomicBool,
    /// `verbosity`.
    pub verbosity: AtomicU32,
    /// `stats detail on`.
    pub detail: AtomicBool,
    /// Memory limit, changed by `cache_memlimit`.
    pub memory_bytes_max: AtomicU64,
    /// `stats sizes_enable`.
    pub track_sizes: AtomicBool,
    /// Watchers connected.
    pub watchers: AtomicU32,
    /// Number of the last line of their logs. Touched only while there are any.
    pub log_sequence: Arc<AtomicU64>,
    /// Values that are only kept to be shown again.
    pub tunables: Tunables,
    /// Users of SASL and of the auth file. Read at login only.
    pub users: RwLock<Arc<Users>>,
    /// What to do on `shutdown`.
    pub on_shutdown: OnceLock<ShutdownHook>,
    /// In a cluster: who does what concerns all of its nodes.
    pub on_cluster: OnceLock<ClusterHook>,
    /// In a cluster: what clients are told of it. Read when they ask only.
    pub cluster: RwLock<Option<Arc<LazyText>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Knobs of memcached's LRU and slab threads. They are accepted so that
/// operators' scripts keep working, and shown by `stats settings`; Seawall's
/// eviction and page moves need no tuning.
#[derive(Debug)]
pub struct Tunables {
    /// `lru_crawler enable|disable`.
    pub crawler: AtomicBool,
    /// `lru_crawler sleep`.
    pub crawler_sleep_us: AtomicU32,
    /// `lru_crawler tocrawl`.
    pub crawler_items: AtomicU32,
    /// `slabs automove`.
    pub automove: AtomicU32,
    /// `slabs automove ratio`, in hundredths.
    pub automove_ratio: AtomicU32,
    /// `lru mode`.
    pub segmented: AtomicBool,
    /// `lru temp_ttl`; negative is off.
    pub temporary_ttl: AtomicI64,
    /// `lru tune`, percent.
    pub hot_percent: AtomicU32,
    /// `lru tune`, percent.
    pub warm_percent: AtomicU32,
    /// `lru tune`, in hundredths.
    pub hot_factor: AtomicU32,
    /// `lru tune`, in hundredths.
    pub warm_factor: AtomicU32,
}

impl Default for Tunables {
    fn default() -> Tunables {
        Tunables {
            crawler: AtomicBool::new(true),
            crawler_sleep_us: AtomicU32::new(100),
            crawler_items: AtomicU32::new(0),
            automove: AtomicU32::new(1),
            automove_ratio: AtomicU32::new(80),
            segmented: AtomicBool::new(true),
            temporary_ttl: AtomicI64::new(-1),
            hot_percent: AtomicU32::new(20),
            warm_percent: AtomicU32::new(40),
            hot_factor: AtomicU32::new(20),
            warm_factor: AtomicU32::new(200),
        }
    }
}

impl Shared {
    /// What clients are told of the cluster, if the node belongs to one.
    pub fn cluster_text(&self) -> Option<Arc<LazyText>> {
        self.cluster.read().ok()?.clone()
    }

    /// Shared state of a node of `cores` that starts at `started`.
    pub fn new(settings: Settings, cores: u32, users: Users, started: Now) -> Shared {
        Shared {
            shards: Lenders::new(cores),
            started,
            curr_connections: AtomicU64::new(0),
            total_connections: AtomicU64::new(0),
            rejected_connections: AtomicU64::new(0),
            listen_disabled: AtomicU64::new(0),
            listen_disabled_us: AtomicU64::new(0),
            accepting: AtomicBool::new(true),
            verbosity: AtomicU32::new(0),
            detail: AtomicBool::new(settings.detail),
            memory_bytes_max: AtomicU64::new(settings.memory_bytes_max),
            track_sizes: AtomicBool::new(settings.track_sizes),
            watchers: AtomicU32::new(0),
            log_sequence: Arc::default(),
            tunables: Tunables::default(),
            users: RwLock::new(Arc::new(users)),
            on_shutdown: OnceLock::new(),
            on_cluster: OnceLock::new(),
            cluster: RwLock::new(None),
            settings,
        }
    }
}
