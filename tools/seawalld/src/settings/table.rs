//! The one table of settings: each row yields a flag, an environment variable,
//! a TOML key, a line of help and a row of `seawallctl config`.
//!
//! memcached's own flags are the short ones, with memcached's meaning.

use super::choices;

/// What a setting holds, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On or off; the flag takes no argument.
    Switch,
    /// A whole number from `.0` to `.1`.
    Count(u64, u64),
    /// A TCP port; -1 stands for [`EPHEMERAL_PORT`].
    Port,
    /// Bytes from `.0` to `.1`; a bare number counts units of `.2` bytes, `k`, `m`, `g` say otherwise.
    Bytes(u64, u64, u64),
    /// An octal number, as in `chmod`.
    Octal,
    /// Any text.
    Text,
    /// A single byte's character.
    Character,
    /// A file or folder.
    Path,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Words or addresses, separated by commas; the flag may be repeated.
    List,
}

/// What `-p -1` becomes: any port that is free, as in memcached.
pub const EPHEMERAL_PORT: u64 = 1 << 16;

/// One row.
#[derive(Debug)]
pub struct Setting {
    /// TOML key: `section.name`.
    pub key: &'static str,
    /// memcached's letter, if there is one.
    pub short: Option<char>,
    /// Long flag without the dashes.
    pub long: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Default, written as a user would.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
}

const fn row(
    key: &'static str,
    short: Option<char>,
    long: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, short, long, kind, default, help }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Every setting, by section.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("listen.port", Some('p'), "port", Kind::Port, "11211", "TCP port; 0 turns TCP off, -1 takes a free one (MEMCACHED_PORT_FILENAME names a file for its number)"),
    row("listen.address", Some('l'), "listen", Kind::List, "", "addresses to listen on, with or without a port; empty or *: every IPv4 and IPv6 address"),
    row("listen.unix_socket", Some('s'), "unix-socket", Kind::Path, "", "Unix socket to listen on instead of TCP"),
    row("listen.unix_mask", Some('a'), "unix-mask", Kind::Octal, "700", "access mode of the Unix socket"),
    row("listen.backlog", Some('b'), "listen-backlog", Kind::Count(1, 65_535), "1024", "connections that may wait to be accepted"),
    row("listen.core_ports", None, "core-ports", Kind::Count(0, 65_535), "0", "core i also listens on this port + i, for clients that pick the owning core; 0: off"),
    row("listen.udp_port", Some('U'), "udp-port", Kind::Count(0, 65_535), "0", "there is no UDP; 0 is accepted for memcached's sake"),

    row("memory.limit", Some('m'), "memory-limit", Kind::Bytes(2 * MIB, 32 * TIB, MIB), "64", "memory for items and their index, in MiB unless k, m, g or t is given"),
    row("memory.value_max", Some('I'), "max-item-size", Kind::Bytes(KIB, GIB, 1), "1m", "largest value"),
    row("memory.arriving_max", None, "arriving-max", Kind::Bytes(0, 32 * TIB, 1), "0", "memory that values may hold while clients still send them (those above 16 KiB); 0: a quarter of the limit"),
    row("memory.arriving_wait_ms", None, "arriving-wait-ms", Kind::Count(0, 3_600_000), "1000", "milliseconds that a value waits for that memory before it is refused"),
    row("memory.eviction", None, "eviction", Kind::Choice(choices::EVICTION.words), "clock-pro", "which items leave when memory is full; clock-pro and s3-fifo keep what is read again and little of the newest, lru keeps the newest"),
    row("memory.no_eviction", Some('M'), "disable-evictions", Kind::Switch, "false", "answer an error when memory is full instead of evicting"),
    row("memory.large_pages", Some('L'), "enable-largepages", Kind::Switch, "false", "take explicit huge pages where the system has reserved enough, else warn; transparent ones are asked for in any case"),
    row("memory.lock", Some('k'), "lock-memory", Kind::Switch, "false", "lock all memory into RAM; a warning if the system refuses"),
    row("memory.access_times", None, "access-times", Kind::Switch, "false", "keep every item's last access (4 bytes each) for meta `l` and `la=` of metadump"),
    row("memory.track_sizes", None, "track-sizes", Kind::Switch, "false", "count items by size from the start, for `stats sizes`"),
    row("memory.hash_seed", None, "hash-seed", Kind::Count(0, u64::MAX), "0", "seed of the key hash; 0: a random one at each start"),

    row("cores.count", Some('t'), "threads", Kind::Count(0, 256), "0", "data cores; 0: every CPU that this process may use"),
    row("cores.pin", None, "pin-cores", Kind::Choice(choices::PIN.words), "auto", "pin each core's thread to a CPU; auto: when there are as many CPUs as cores"),
    row("cores.requests_per_turn", Some('R'), "max-reqs-per-event", Kind::Count(1, 1_000_000), "512", "requests of one connection before the others of its core get their turn"),

    row("io.backend", None, "io-backend", Kind::Choice(choices::BACKEND.words), "auto", "socket loop; auto: io_uring where the kernel allows it, else epoll"),
    row("io.ring_entries", None, "ring-entries", Kind::Count(64, 32_768), "1024", "submission queue entries of each core's io_uring"),
    row("io.receive_buffers", None, "receive-buffers", Kind::Count(16, 32_768), "256", "16 KiB receive buffers of each core; a power of two"),
    row("io.busy_poll_us", None, "busy-poll-us", Kind::Count(0, 1_000_000), "0", "microseconds that an idle core spins before it sleeps"),

    row("connections.max", Some('c'), "conn-limit", Kind::Count(1, 10_000_000), "1024", "simultaneous connections"),
    row("connections.refuse_fast", None, "maxconns-fast", Kind::Choice(choices::REFUSE_FAST.words), "yes", "past the limit: answer an error and close (yes), or leave new ones waiting (no)"),
    row("connections.idle_timeout", None, "idle-timeout", Kind::Count(0, 86_400 * 365), "0", "seconds after which an idle connection is closed; 0: never"),
    row("connections.output_max", None, "output-max", Kind::Bytes(16 * KIB, GIB, 1), "256k", "answers a connection may have waiting before its requests wait too"),
    row("connections.backlog_max", None, "backlog-max", Kind::Bytes(16 * KIB, GIB, 1), "64k", "received bytes that may wait on a connection before it is no longer read"),
    row("connections.memory_max", None, "connections-memory-max", Kind::Bytes(0, 32 * TIB, 1), "0", "memory that all connections may hold in buffers; near it each may hold less, and those that do not read are closed; 0: a quarter of memory.limit, at least 64m"),
    row("connections.hops_max", None, "hops-max", Kind::Count(16, 1_000_000), "1024", "requests of one connection that may be under way at other cores"),

    row("protocol.only", Some('B'), "protocol", Kind::Choice(choices::PROTOCOL.words), "auto", "protocol to accept; auto: by the first byte of each connection"),
    row("protocol.disable_cas", Some('C'), "disable-cas", Kind::Switch, "false", "keep no version per item (8 bytes less each, no CAS)"),
    row("protocol.cas_bits", None, "cas-bits", Kind::Choice(choices::CAS_BITS.words), "64", "bits of CAS uniques; 32 for clients that cannot read 64 (meta-memcache from 2.0 on): one in 4 billion conflicts then goes unnoticed; the same on all nodes"),
    row("protocol.disable_flush_all", Some('F'), "disable-flush-all", Kind::Switch, "false", "refuse flush_all"),
    row("protocol.disable_dump", Some('X'), "disable-dumping", Kind::Switch, "false", "refuse stats cachedump and lru_crawler metadump"),
    row("protocol.disable_watch", Some('W'), "disable-watch", Kind::Switch, "false", "refuse watch"),
    row("protocol.enable_shutdown", Some('A'), "enable-shutdown", Kind::Switch, "false", "allow the text command shutdown"),

    row("auth.file", Some('Y'), "auth-file", Kind::Path, "", "user:password lines; text clients log in with their first set"),
    row("auth.sasl", Some('S'), "enable-sasl", Kind::Switch, "false", "require SASL PLAIN of binary clients"),
    row("auth.sasl_file", None, "sasl-file", Kind::Path, "", "user:password lines for SASL; empty: MEMCACHED_SASL_PWDB"),

    row("namespace.names", None, "namespaces", Kind::List, "", "key prefixes that can be invalidated as a whole"),
    row("namespace.delimiter", Some('D'), "delimiter", Kind::Character, ":", "what ends a key's prefix; giving -D also turns `stats detail` on"),
    row("namespace.tag_generations_max", None, "tag-generations-max", Kind::Count(64, 1 << 32), "65536", "invalidated tags remembered one by one on each core; older ones are folded together"),

    row("cluster.listen", None, "cluster-listen", Kind::Text, "", "IP:PORT where other nodes reach this one; makes the node one of a cluster"),
    row("cluster.advertise", None, "cluster-advertise", Kind::Text, "", "HOST:PORT that other nodes connect to; empty: cluster.listen"),
    row("cluster.join", None, "join", Kind::List, "", "HOST:PORT of nodes to begin a cluster with, or of any node of one that exists"),
    row("cluster.name", None, "cluster-name", Kind::Text, "seawall", "name of the cluster; nodes of others are refused"),
    row("cluster.node", None, "node-name", Kind::Text, "", "name of this node, unique in the cluster; empty: the advertised address"),
    row("cluster.directory", None, "cluster-directory", Kind::Path, "", "where a keeper writes the cluster's topology (no items); empty: seawall-NODE below the working directory"),
    row("cluster.coordinator", None, "coordinator", Kind::Text, "embedded", "who keeps the topology: embedded (the nodes themselves), or etcd://HOST:PORT,..."),
    row("cluster.keepers", None, "keepers", Kind::Count(1, 7), "3", "nodes that keep the topology among themselves: 1, 3, 5 or 7"),
    row("cluster.replicas", None, "replicas", Kind::Count(1, 3), "2", "copies of every item, the first included; taken by the node that begins the cluster"),
    row("cluster.replication", None, "replication", Kind::Choice(choices::REPLICATION.words), "sync", "when a write is answered: sync, when every in-sync copy has it; async, at once, the copies follow; none, at once, and there is one copy; the same on all nodes"),
    row("cluster.replication_of", None, "replication-of", Kind::List, "", "NAMESPACE=sync|async|none for the keys of some namespaces; the same on all nodes"),
    row("cluster.partitions", None, "partitions", Kind::Count(16, 1 << 24), "4096", "parts that the keys are cut into, a power of two; taken by the node that begins the cluster; 65536 for more than 200 nodes"),
    row("cluster.zone", None, "zone", Kind::Text, "", "zone of this node: copies go to distinct zones, and reads to a copy in the same one"),
    row("cluster.weight", None, "weight", Kind::Count(1, 10_000), "100", "share of the partitions relative to other nodes"),
    row("cluster.read_from", None, "read-from", Kind::Choice(choices::READ_NEAREST.words), "nearest", "where plain reads execute: nearest, at any in-sync copy, this node's own first, then one in its zone; or at the primary"),
    row("cluster.hot_copies", None, "hot-copies", Kind::Count(0, 32), "16", "hot keys of other nodes that each core keeps copies of, and whether it shows its own hot keys to the other cores; 0: no copies"),
    row("cluster.hot_percent", None, "hot-percent", Kind::Count(0, 100), "1", "percent of a core's requests (for other nodes' keys: of the reads that it passes on) from which a key is hot"),
    row("cluster.hot_rate", None, "hot-rate", Kind::Count(1, 1_000_000_000), "1000", "requests a second, on one core, from which a key is hot"),
    row("cluster.hot_ms", None, "hot-ms", Kind::Count(20, 100), "100", "milliseconds for which another node may answer reads of a hot key before it must ask again; a write waits so long at most for a holder that does not answer"),
    row("cluster.patience_ms", None, "cluster-patience-ms", Kind::Count(10, 600_000), "2000", "milliseconds that a request may wait for a node that executes it"),
    row("cluster.log_max", None, "replication-log-max", Kind::Bytes(0, TIB, 1), "0", "memory of the replication log, beside memory.limit; 0: an eighth of it, at most 64m a core"),
    row("cluster.link_max", None, "link-max", Kind::Bytes(64 * KIB, GIB, 1), "4m", "bytes of requests that may wait for one link to another node"),
    row("cluster.fill_rate", None, "fill-rate", Kind::Bytes(64 * KIB, TIB, 1), "200m", "bytes a second that each core sends to fill replicas"),
    row("cluster.fills_max", None, "fills-max", Kind::Count(1, 1 << 24), "16384", "partitions being filled at a time"),
    row("cluster.min_copies", None, "min-copies", Kind::Count(1, 3), "1", "in-sync copies that a write needs, the first included; with fewer it waits, then it is refused"),
    row("cluster.confirm_ms", None, "confirm-ms", Kind::Count(10, 60_000), "200", "milliseconds after which a replica that does not confirm a write is left out"),
    row("cluster.beat_ms", None, "beat-ms", Kind::Count(5, 60_000), "50", "milliseconds between two signs of life"),
    row("cluster.lease_ms", None, "lease-ms", Kind::Count(20, 60_000), "250", "milliseconds that a node serves without having its lease renewed"),
    row("cluster.down_after_ms", None, "down-after-ms", Kind::Count(20, 600_000), "300", "milliseconds of silence after which a node is down and its replicas take over"),
    row("cluster.repair_after_ms", None, "repair-after-ms", Kind::Count(100, 86_400_000), "35000", "milliseconds after which the copies of a node that is down are made anew elsewhere"),
    row("cluster.abandon_after_ms", None, "abandon-after-ms", Kind::Count(200, 86_400_000), "60000", "milliseconds after which partitions that only a dead node held begin anew, empty"),
    row("cluster.skew_max_ms", None, "skew-max-ms", Kind::Count(1, 86_400_000), "500", "milliseconds by which this machine's wall clock may differ from the keeper's before a warning"),
    row("cluster.tls_certificate", None, "cluster-tls-certificate", Kind::Path, "", "PEM certificate chain of this node; with key and CA all traffic between nodes is encrypted and authenticated both ways"),
    row("cluster.tls_key", None, "cluster-tls-key", Kind::Path, "", "PEM key of the certificate"),
    row("cluster.tls_ca", None, "cluster-tls-ca", Kind::Path, "", "PEM certificates of the authority that signed all nodes' certificates"),
    row("cluster.tls_name", None, "cluster-tls-name", Kind::Text, "", "name that other nodes' certificates bear; empty: the host they are reached at"),

    row("admin.listen", None, "admin-listen", Kind::Text, "127.0.0.1:9150", "address of /metrics, /livez, /readyz and the admin API; off: none"),
    row("admin.advertise", None, "advertise", Kind::Text, "", "where `config get cluster` sends clients: HOST, HOST:PORT or HOST|IP|PORT; empty: the address listened on, or else the host of cluster.advertise"),

    row("snapshot.file", None, "snapshot", Kind::Path, "", "write the cache here on SIGTERM and load it at the next start, once"),
    row("snapshot.load", None, "snapshot-load", Kind::Choice(choices::LOAD_STALE.words), "clean", "which snapshots to load: clean, only what was written at the last clean end; any, also an older one, whose items clients may have changed or deleted since"),
    row("snapshot.drain_seconds", None, "drain-seconds", Kind::Count(0, 3_600), "5", "on SIGTERM, how long clients may finish what they sent"),

    row("process.user", Some('u'), "user", Kind::Text, "", "user to become when started as root"),
    row("process.daemon", Some('d'), "daemon", Kind::Switch, "false", "run in the background"),
    row("process.pid_file", Some('P'), "pidfile", Kind::Path, "", "write the process id here"),
    row("process.core_dumps", Some('r'), "enable-coredumps", Kind::Switch, "false", "raise the core file limit"),
    row("process.verbosity", Some('v'), "verbose", Kind::Count(0, 3), "0", "log more; -vv and -vvv log even more"),
];

/// What the value of a memcached option without effect must be, so that what
/// memcached refuses is refused here too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// None is needed; one that is there is not looked at.
    None,
    /// Anything but nothing.
    Some,
    /// A whole number from `.0` to `.1`.
    Whole(u64, u64),
    /// A number above `.0`, up to `.1`.
    Real(f64, f64),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// memcached's flags that have no effect here, with the reason (they are accepted).
pub const ACCEPTED: &[(Option<char>, &str, Argument, &str)] = &[
    (
        Some('f'),
        "slab-growth-factor",
        Argument::Real(1.0, f64::MAX),
        "size classes are fine-grained by themselves",
    ),
    (
        Some('n'),
        "slab-min-size",
        Argument::Whole(1, 1 << 20),
        "size classes are fine-grained by themselves",
    ),
    (
        Some('N'),
        "napi_ids",
        Argument::Whole(1, 1 << 20),
        "cores choose their connections themselves",
    ),
];

/// memcached's flags that would promise what Seawall does not do, with what to do instead.
pub const REFUSED: &[(Option<char>, &str, bool, &str)] = &[
    (Some('e'), "memory-file", true, "use --snapshot FILE for a warm restart"),
    (Some('Z'), "enable-ssl", false, NO_TLS),
];

const NO_TLS: &str = "TLS is not supported yet; put a TLS proxy before the node";
const NO_EXTSTORE: &str = "items are kept in memory only, there is no external storage; \
    leave all ext_* options out, and give the memory with -m";
const NO_PROXY: &str = "memcached's proxy is not part of Seawall; leave it out, or run the proxy \
    as a process of its own before the nodes";

/// What an option of memcached's `-o` means here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extended {
    /// Sets the row `.0` to `.1`, or to the option's value when `.1` is empty.
    Sets(&'static str, &'static str),
    /// Accepted without effect.
    Accepted(Argument),
    /// Refused, with why and what to do instead.
    Refused(&'static str),
}

/// memcached's `-o` options: every word that 1.6.18 to 1.6.45 know. Those that
/// set nothing here want the values that they want there.
#[rustfmt::skip]
pub const EXTENDED: &[(&str, Extended)] = &[
    ("maxconns_fast", Extended::Sets("connections.refuse_fast", "yes")),
    ("no_maxconns_fast", Extended::Sets("connections.refuse_fast", "no")),
    ("idle_timeout", Extended::Sets("connections.idle_timeout", "")),
    ("track_sizes", Extended::Sets("memory.track_sizes", "true")),
    ("hashpower", Extended::Accepted(Argument::Whole(12, 32))),
    ("no_hashexpand", Extended::Accepted(Argument::None)),
    ("hash_algorithm", Extended::Accepted(Argument::OneOf(&["jenkins", "murmur3", "xxh3"]))),
    ("tail_repair_time", Extended::Accepted(Argument::Whole(10, u32::MAX as u64))),
    ("lru_crawler", Extended::Accepted(Argument::None)),
    ("no_lru_crawler", Extended::Accepted(Argument::None)),
    ("lru_crawler_sleep", Extended::Accepted(Argument::Some)),
    ("lru_crawler_tocrawl", Extended::Accepted(Argument::Whole(0, u32::MAX as u64))),
    ("lru_maintainer", Extended::Accepted(Argument::None)),
    ("no_lru_maintainer", Extended::Accepted(Argument::None)),
    ("read_buf_mem_limit", Extended::Accepted(Argument::Whole(0, u32::MAX as u64))),
    ("resp_obj_mem_limit", Extended::Accepted(Argument::None)),
    ("hot_lru_pct", Extended::Accepted(Argument::Whole(1, 80))),
    ("warm_lru_pct", Extended::Accepted(Argument::Whole(1, 80))),
    ("hot_max_factor", Extended::Accepted(Argument::Real(0.0, f64::MAX))),
    ("warm_max_factor", Extended::Accepted(Argument::Real(0.0, f64::MAX))),
    ("temporary_ttl", Extended::Accepted(Argument::Some)),
    ("slab_reassign", Extended::Accepted(Argument::None)),
    ("no_slab_reassign", Extended::Accepted(Argument::None)),
    ("slab_automove", Extended::Accepted(Argument::None)),
    ("no_slab_automove", Extended::Accepted(Argument::None)),
    ("slab_automove_ratio", Extended::Accepted(Argument::Real(0.0, 1.0))),
    ("slab_automove_window", Extended::Accepted(Argument::Whole(3, u32::MAX as u64))),
    ("slab_automove_freeratio", Extended::Accepted(Argument::Real(0.0, f64::MAX))),
    ("slab_sizes", Extended::Accepted(Argument::Some)),
    ("slab_chunk_max", Extended::Accepted(Argument::Whole(1, u32::MAX as u64))),
    ("watcher_logbuf_size", Extended::Accepted(Argument::Whole(1, u32::MAX as u64))),
    ("worker_logbuf_size", Extended::Accepted(Argument::Whole(1, u32::MAX as u64))),
    ("modern", Extended::Accepted(Argument::None)),
    ("no_modern", Extended::Accepted(Argument::None)),
    ("no_chunked_items", Extended::Accepted(Argument::None)),
    ("sock_cookie_id", Extended::Accepted(Argument::Some)),
    ("inline_ascii_resp", Extended::Accepted(Argument::None)),
    ("no_inline_ascii_resp", Extended::Accepted(Argument::None)),
    ("no_drop_privileges", Extended::Accepted(Argument::None)),
    ("drop_privileges", Extended::Accepted(Argument::None)),
    ("ext_path", Extended::Refused(NO_EXTSTORE)), ("ext_page_size", Extended::Refused(NO_EXTSTORE)),
    ("ext_wbuf_size", Extended::Refused(NO_EXTSTORE)), ("ext_threads", Extended::Refused(NO_EXTSTORE)),
    ("ext_io_depth", Extended::Refused(NO_EXTSTORE)), ("ext_item_size", Extended::Refused(NO_EXTSTORE)),
    ("ext_item_age", Extended::Refused(NO_EXTSTORE)), ("ext_low_ttl", Extended::Refused(NO_EXTSTORE)),
    ("ext_recache_rate", Extended::Refused(NO_EXTSTORE)), ("ext_compact_under", Extended::Refused(NO_EXTSTORE)),
    ("ext_drop_under", Extended::Refused(NO_EXTSTORE)), ("ext_max_sleep", Extended::Refused(NO_EXTSTORE)),
    ("ext_max_frag", Extended::Refused(NO_EXTSTORE)), ("ext_drop_unread", Extended::Refused(NO_EXTSTORE)),
    ("ssl_chain_cert", Extended::Refused(NO_TLS)), ("ssl_key", Extended::Refused(NO_TLS)),
    ("ssl_keyformat", Extended::Refused(NO_TLS)), ("ssl_verify_mode", Extended::Refused(NO_TLS)),
    ("ssl_ciphers", Extended::Refused(NO_TLS)), ("ssl_ca_cert", Extended::Refused(NO_TLS)),
    ("ssl_wbuf_size", Extended::Refused(NO_TLS)), ("ssl_session_cache", Extended::Refused(NO_TLS)),
    ("ssl_kernel_tls", Extended::Refused(NO_TLS)), ("ssl_min_version", Extended::Refused(NO_TLS)),
    ("proxy_config", Extended::Refused(NO_PROXY)), ("proxy_arg", Extended::Refused(NO_PROXY)),
    ("proxy_uring", Extended::Refused(NO_PROXY)), ("proxy_memory_limit", Extended::Refused(NO_PROXY)),
];

impl Argument {
    /// What is wrong with this value, if anything. An empty one stands for none.
    pub fn complaint(self, text: &str) -> Option<String> {
        let (fits, wanted) = match self {
            Argument::None => (true, String::new()),
            Argument::Some => (!text.is_empty(), "a value".to_owned()),
            Argument::Whole(least, most) => (
                text.parse().is_ok_and(|number: u64| (least..=most).contains(&number)),
                format!("a whole number from {least} to {most}"),
            ),
            Argument::Real(above, most) => (
                text.parse().is_ok_and(|number: f64| number > above && number <= most),
                format!("a number above {above}"),
            ),
            Argument::OneOf(words) => {
                (words.contains(&text), format!("one of {}", words.join(", ")))
            }
        };
        (!fits).then(|| match text {
            "" => format!("needs {wanted}"),
            text => format!("{text:?} is not {wanted}"),
        })
    }
}

/// The row with this TOML key.
pub fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

impl Setting {
    /// The environment variable: `SEAWALL_` and the key in capitals.
    pub fn env(&self) -> String {
        format!("SEAWALL_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// What its value may be, for help and error texts.
    pub fn expects(&self) -> String {
        match self.kind {
            Kind::Switch => "true or false".into(),
            Kind::Count(least, most) if most == u64::MAX => {
                format!("a whole number of at least {least}")
            }
            Kind::Count(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Port => "a port from 0 to 65535, or -1".into(),
            Kind::Bytes(least, most, _) => {
                format!(
                    "a size from {} to {}",
                    super::value::bytes_text(least),
                    super::value::bytes_text(most)
                )
            }
            Kind::Octal => "an octal mode such as 700".into(),
            Kind::Text => "a text".into(),
            Kind::Character => "one ASCII character".into(),
            Kind::Path => "a path".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::List => "a comma-separated list".into(),
        }
    }

    /// The placeholder in help.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Switch => "",
            Kind::Count(..) | Kind::Port => "<num>",
            Kind::Bytes(..) => "<size>",
            Kind::Octal => "<mode>",
            Kind::Text => "<text>",
            Kind::Character => "<char>",
            Kind::Path => "<file>",
            Kind::Choice(_) => "<word>",
            Kind::List => "<list>",
        }
    }
}
