//! Counters of the protocols, one set per core, and what `stats` makes of
//! them.
//!
//! Names and order are memcached's, because exporters and dashboards know
//! them. What memcached measures and Seawall has nothing of is there as 0; what
//! only Seawall has comes at the end.

use crate::control::CoreReport;
use crate::core::{Binding, Settings, Shared};
use crate::sys::usage::Usage;
use crate::watch::LogStats;
use crate::{SEAWALL_VERSION, VERSION};
use engine::{ClassStats, Expiry, Now, ShardStats};
use std::sync::atomic::Ordering::Relaxed;

/// What a core counts that the engine does not see.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreStats {
    /// Bytes received. The reactor counts them.
    pub bytes_read: u64,
    /// Bytes sent. The reactor counts them.
    pub bytes_written: u64,
    /// Connections closed for silence. The reactor counts them.
    pub idle_kicks: u64,
    /// Connections closed because all of them together held too much memory.
    pub memory_kicks: u64,
    /// Bytes that connections held in buffers when they were last counted.
    pub connection_bytes: u64,
    /// Turns in which a connection used up its share.
    pub conn_yields: u64,
    /// Requests executed at the shards of cores that slept.
    pub visits: u64,
    /// Requests executed for other cores.
    pub hops_served: u64,
    /// Requests sent to other cores.
    pub hops_sent: u64,
    /// Requests for keys of this core by its own connections.
    pub local_requests: u64,
    /// `flush_all` commands.
    pub cmd_flush: u64,
    /// `me` and other meta commands that memcached counts.
    pub cmd_meta: u64,
    /// Logins tried.
    pub auth_cmds: u64,
    /// Logins refused.
    pub auth_errors: u64,
    /// Values over `-I`.
    pub store_too_large: u64,
    /// Writes refused for want of memory.
    pub store_no_memory: u64,
    /// Turns of the loop. The reactor counts them.
    pub turns: u64,
    /// Bytes held in connection buffers now. The reactor keeps it.
    pub buffer_bytes: u64,
    /// Connections on this core now. The reactor keeps it.
    pub connections: u64,
}

impl CoreStats {
    /// Counters to zero; what is true now stays.
    pub fn reset(&mut self) {
        *self = CoreStats {
            buffer_bytes: self.buffer_bytes,
            connections: self.connections,
            ..CoreStats::default()
        };
    }

    fn add(&mut self, other: &CoreStats) {
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.idle_kicks += other.idle_kicks;
        self.memory_kicks += other.memory_kicks;
        self.connection_bytes += other.connection_bytes;
        self.conn_yields += other.conn_yields;
        self.visits += other.visits;
        self.hops_served += other.hops_served;
        self.hops_sent += other.hops_sent;
        self.local_requests += other.local_requests;
        self.cmd_flush += other.cmd_flush;
        self.cmd_meta += other.cmd_meta;
        self.auth_cmds += other.auth_cmds;
        self.auth_errors += other.auth_errors;
        self.store_too_large += other.store_too_large;
        self.store_no_memory += other.store_no_memory;
        self.turns += other.turns;
        self.buffer_bytes += other.buffer_bytes;
        self.connections += other.connections;
    }
}

/// What `stats` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No argument.
    General,
    /// `settings`.
    Settings,
    /// `items`.
    Items,
    /// `slabs`.
    Slabs,
    /// `sizes`.
    Sizes,
    /// `sizes_enable`, `sizes_disable`.
    SizesSwitch,
    /// `conns`.
    Connections,
    /// Nothing but the end (binary `reset`).
    Empty,
}

/// A name and its value.
pub type Stat = (String, String);

/// The sum over the cores.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Protocol side.
    pub core: CoreStats,
    /// Engine side.
    pub shard: ShardStats,
    /// By size class. A class has the same index on every core.
    pub classes: Vec<ClassStats>,
    /// Watchers' logs.
    pub log: LogStats,
    /// When a delayed flush is due.
    pub flush_pending: Option<Expiry>,
}

impl Totals {
    /// Adds the reports up.
    pub fn of(reports: &[CoreReport]) -> Totals {
        let mut totals = Totals::default();
        for report in reports {
            totals.core.add(&report.core);
            totals.shard += report.shard;
            if totals.classes.len() < report.classes.len() {
                totals.classes.resize(report.classes.len(), ClassStats::default());
            }
            for (sum, class) in totals.classes.iter_mut().zip(&report.classes) {
                *sum += *class;
            }
            totals.log.written += report.log.written;
            totals.log.dropped += report.log.dropped;
            totals.log.skipped += report.log.skipped;
            totals.log.sent += report.log.sent;
            totals.flush_pending = totals.flush_pending.or(report.flush_pending);
        }
        totals
    }
}

/// The lines of an answer. There is one report a core; `pairs` are the lines of
/// [`Kind::Connections`] and [`Kind::Sizes`].
pub fn collect(
    kind: Kind,
    reports: &[CoreReport],
    pairs: Vec<Stat>,
    now: Now,
    shared: &Shared,
) -> Vec<Stat> {
    let totals = Totals::of(reports);
    let cores = reports.len() as u32;
    match kind {
        Kind::General => general(&totals, cores, now.seconds(), shared),
        Kind::Settings => settings(&totals, cores, shared),
        Kind::Items => items(&totals),
        Kind::Slabs => slabs(&totals),
        Kind::Sizes if shared.track_sizes.load(Relaxed) => pairs,
        Kind::Sizes | Kind::SizesSwitch => {
            let on = shared.track_sizes.load(Relaxed);
            let status = if on { "enabled" } else { "disabled" };
            vec![("sizes_status".into(), status.into())]
        }
        Kind::Connections => pairs,
        Kind::Empty => Vec::new(),
    }
}

/// Collects pairs.
#[derive(Default)]
struct Lines(Vec<Stat>);

impl Lines {
    fn put(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.into(), value.to_string()));
    }
}

/// `stats` without an argument.
pub fn general(totals: &Totals, cores: u32, now_seconds: u64, shared: &Shared) -> Vec<Stat> {
    let Totals { core, shard, log, .. } = totals;
    let (counters, gauges) = (&shard.counters, &shard.gauges);
    let settings = &shared.settings;
    let usage = Usage::of_this_process();
    let mut lines = Lines::default();
    let mut put = |name: &str, value: String| lines.put(name, value);
    let number = |value: u64| value.to_string();
    put("pid", std::process::id().to_string());
    put("uptime", number(now_seconds - shared.started.seconds().min(now_seconds)));
    put("time", number(now_seconds));
    put("version", VERSION.into());
    put("libevent", settings.io_backend.clone());
    put("pointer_size", number(usize::BITS.into()));
    put("rusage_user", usage.user);
    put("rusage_system", usage.system);
    put("max_connections", number(settings.connections_max.into()));
    put("curr_connections", number(shared.curr_connections.load(Relaxed)));
    put("total_connections", number(shared.total_connections.load(Relaxed)));
    if settings.connections_max_fast {
        put("rejected_connections", number(shared.rejected_connections.load(Relaxed)));
    }
    put("connection_structures", number(core.connections));
    put("response_obj_oom", number(0));
    put("response_obj_count", number(0));
    put("response_obj_bytes", number(0));
    put("read_buf_count", number(0));
    put("read_buf_bytes", number(core.buffer_bytes));
    put("read_buf_bytes_free", number(0));
    put("read_buf_oom", number(0));
    put("reserved_fds", number(u64::from(cores) * 5));
    put("cmd_get", number(counters.cmd_get));
    put("cmd_set", number(counters.cmd_set));
    put("cmd_flush", number(core.cmd_flush));
    put("cmd_touch", number(counters.cmd_touch));
    put("cmd_meta", number(core.cmd_meta));
    put("get_hits", number(counters.get_hits));
    put("get_misses", number(counters.get_misses));
    put("get_expired", number(counters.get_expired));
    put("get_flushed", number(counters.get_flushed));
    put("delete_misses", number(counters.delete_misses));
    put("delete_hits", number(counters.delete_hits));
    put("incr_misses", number(counters.incr_misses));
    put("incr_hits", number(counters.incr_hits));
    put("decr_misses", number(counters.decr_misses));
    put("decr_hits", number(counters.decr_hits));
    put("cas_misses", number(counters.cas_misses));
    put("cas_hits", number(counters.cas_hits));
    put("cas_badval", number(counters.cas_badval));
    put("touch_hits", number(counters.touch_hits));
    put("touch_misses", number(counters.touch_misses));
    put("store_too_large", number(core.store_too_large));
    put("store_no_memory", number(core.store_no_memory));
    put("auth_cmds", number(core.auth_cmds));
    put("auth_errors", number(core.auth_errors));
    if settings.idle_timeout_seconds > 0 {
        put("idle_kicks", number(core.idle_kicks));
    }
    put("bytes_read", number(core.bytes_read));
    put("bytes_written", number(core.bytes_written));
    put("limit_maxbytes", number(shared.memory_bytes_max.load(Relaxed)));
    put("accepting_conns", number(shared.accepting.load(Relaxed).into()));
    put("listen_disabled_num", number(shared.listen_disabled.load(Relaxed)));
    put("time_in_listen_disabled_us", number(shared.listen_disabled_us.load(Relaxed)));
    put("threads", number(cores.into()));
    put("conn_yields", number(core.conn_yields));
    put("hash_power_level", number(u64::from(gauges.curr_items.max(1).ilog2())));
    put("hash_bytes", number(gauges.index_bytes));
    put("hash_is_expanding", number(0));
    put("slab_reassign_rescues", number(counters.slab_move_rescues));
    put("slab_reassign_chunk_rescues", number(0));
    put("slab_reassign_evictions_nomem", number(counters.slab_move_evictions));
    put("slab_reassign_inline_reclaim", number(0));
    put("slab_reassign_busy_items", number(0));
    put("slab_reassign_busy_deletes", number(0));
    put("slab_reassign_running", number(0));
    put("slabs_moved", number(counters.slabs_moved));
    put("lru_crawler_running", number(0));
    put("lru_crawler_starts", number(0));
    put("lru_maintainer_juggles", number(0));
    put("malloc_fails", number(0));
    put("log_worker_dropped", number(log.dropped));
    put("log_worker_written", number(log.written));
    put("log_watcher_skipped", number(log.skipped));
    put("log_watcher_sent", number(log.sent));
    put("log_watchers", number(shared.watchers.load(Relaxed).into()));
    put("unexpected_napi_ids", number(0));
    put("round_robin_fallback", number(0));
    put("bytes", number(gauges.bytes));
    put("curr_items", number(gauges.curr_items));
    put("total_items", number(counters.total_items));
    put("slab_global_page_pool", number(gauges.pages_free));
    put("expired_unfetched", number(counters.expired_unfetched));
    put("evicted_unfetched", number(counters.evicted_unfetched));
    put("evicted_active", number(0));
    put("evictions", number(counters.evictions));
    put("reclaimed", number(counters.reclaimed));
    put("crawler_reclaimed", number(counters.swept));
    put("crawler_items_checked", number(0));
    put("lrutail_reflocked", number(0));
    put("moves_to_cold", number(0));
    put("moves_to_warm", number(0));
    put("moves_within_lru", number(0));
    put("direct_reclaims", number(0));
    put("lru_bumps_dropped", number(0));
    put("seawall_version", SEAWALL_VERSION.into());
    put("seawall_memory_bytes", number(gauges.memory_bytes));
    put("seawall_connection_bytes", number(core.connection_bytes));
    put("seawall_connections_closed_for_memory", number(core.memory_kicks));
    put("seawall_local_requests", number(core.local_requests));
    put("seawall_visits", number(core.visits));
    put("seawall_hops_sent", number(core.hops_sent));
    put("seawall_hops_served", number(core.hops_served));
    put("seawall_turns", number(core.turns));
    put("seawall_values_pinned", number(gauges.pinned));
    put("seawall_values_arriving", number(gauges.reserved));
    put("seawall_tag_generations", number(gauges.tag_generations));
    put("seawall_tag_generations_folded", number(counters.tag_generations_folded));
    lines.0
}

/// `stats settings`.
fn settings(totals: &Totals, cores: u32, shared: &Shared) -> Vec<Stat> {
    let settings: &Settings = &shared.settings;
    let tunables = &shared.tunables;
    let yes = |value: bool| if value { "yes" } else { "no" };
    let fraction = |hundredths: u32| format!("{:.2}", f64::from(hundredths) / 100.0);
    let mut lines = Lines::default();
    lines.put("maxbytes", shared.memory_bytes_max.load(Relaxed));
    lines.put("maxconns", settings.connections_max);
    lines.put("tcpport", settings.tcp_port);
    lines.put("udpport", 0);
    lines.put("inter", settings.listen.as_deref().unwrap_or("NULL"));
    lines.put("verbosity", shared.verbosity.load(Relaxed));
    let oldest =
        totals.flush_pending.map_or(0, |at| (at.0 / 1000).saturating_sub(shared.started.seconds()));
    lines.put("oldest", oldest);
    lines.put("evictions", if settings.evictions { "on" } else { "off" });
    lines.put("domain_socket", settings.unix_socket.as_deref().unwrap_or("NULL"));
    lines.put("umask", format!("{:o}", settings.unix_mask));
    lines.put("shutdown_command", yes(settings.shutdown_command));
    lines.put("growth_factor", format!("{:.2}", settings.growth_factor));
    lines.put("chunk_size", settings.chunk_bytes_min);
    lines.put("num_threads", cores);
    lines.put("num_threads_per_udp", cores);
    lines.put("stat_key_prefix", char::from(settings.prefix_delimiter));
    lines.put("detail_enabled", yes(shared.detail.load(Relaxed)));
    lines.put("reqs_per_event", settings.requests_per_turn);
    lines.put("cas_enabled", yes(settings.cas));
    lines.put("tcp_backlog", settings.backlog);
    let binding = match settings.binding {
        _ if settings.sasl => "binary",
        _ if settings.auth_file.is_some() => "ascii",
        Binding::Auto => "auto-negotiate",
        Binding::Ascii => "ascii",
        Binding::Binary => "binary",
    };
    lines.put("binding_protocol", binding);
    lines.put("auth_enabled_sasl", yes(settings.sasl));
    lines.put("auth_enabled_ascii", settings.auth_file.as_deref().unwrap_or("no"));
    lines.put("item_size_max", settings.value_bytes_max);
    lines.put("maxconns_fast", yes(settings.connections_max_fast));
    lines.put("hashpower_init", 0);
    lines.put("slab_reassign", "yes");
    lines.put("slab_automove", tunables.automove.load(Relaxed));
    lines.put("slab_automove_ratio", fraction(tunables.automove_ratio.load(Relaxed)));
    lines.put("slab_automove_window", 30);
    lines.put("slab_chunk_max", 65536);
    lines.put("lru_crawler", yes(tunables.crawler.load(Relaxed)));
    lines.put("lru_crawler_sleep", tunables.crawler_sleep_us.load(Relaxed));
    lines.put("lru_crawler_tocrawl", tunables.crawler_items.load(Relaxed));
    lines.put("tail_repair_time", 0);
    lines.put("flush_enabled", yes(settings.flush));
    lines.put("dump_enabled", yes(settings.dump));
    lines.put("hash_algorithm", "rapidhash");
    lines.put("lru_maintainer_thread", "yes");
    lines.put("lru_segmented", yes(tunables.segmented.load(Relaxed)));
    lines.put("hot_lru_pct", tunables.hot_percent.load(Relaxed));
    lines.put("warm_lru_pct", tunables.warm_percent.load(Relaxed));
    lines.put("hot_max_factor", fraction(tunables.hot_factor.load(Relaxed)));
    lines.put("warm_max_factor", fraction(tunables.warm_factor.load(Relaxed)));
    let temporary_ttl = tunables.temporary_ttl.load(Relaxed);
    lines.put("temp_lru", yes(temporary_ttl >= 0));
    lines.put("temporary_ttl", temporary_ttl.max(0));
    lines.put("idle_timeout", settings.idle_timeout_seconds);
    lines.put("watcher_logbuf_size", settings.watcher_log_bytes);
    lines.put("worker_logbuf_size", settings.watcher_log_bytes);
    lines.put("read_buf_mem_limit", 0);
    lines.put("track_sizes", yes(shared.track_sizes.load(Relaxed)));
    lines.put("inline_ascii_response", "no");
    lines.put("seawall_cas_bits", if settings.cas { settings.cas_bits } else { 0 });
    lines.put("eviction_policy", &settings.eviction_policy);
    lines.put("io_backend", &settings.io_backend);
    lines.0
}

/// `stats items`.
fn items(totals: &Totals) -> Vec<Stat> {
    let mut lines = Lines::default();
    for (index, class) in totals.classes.iter().enumerate() {
        if class.items == 0 {
            continue;
        }
        let counters = &class.counters;
        let mut put =
            |name: &str, value: u64| lines.put(&format!("items:{}:{name}", index + 1), value);
        put("number", class.items);
        put("number_hot", class.hot);
        put("number_warm", 0);
        put("number_cold", class.items.saturating_sub(class.hot));
        put("age_hot", class.age_hot_seconds);
        put("age_warm", 0);
        put("age", class.age_seconds);
        put("mem_requested", counters.mem_requested);
        put("evicted", counters.evicted);
        put("evicted_nonzero", counters.evicted_nonzero);
        put("evicted_time", 0);
        put("outofmemory", counters.out_of_memory);
        put("tailrepairs", 0);
        put("reclaimed", counters.reclaimed);
        put("expired_unfetched", counters.expired_unfetched);
        put("evicted_unfetched", counters.evicted_unfetched);
        put("evicted_active", 0);
        put("crawler_reclaimed", 0);
        put("crawler_items_checked", 0);
        put("lrutail_reflocked", 0);
        put("moves_to_cold", 0);
        put("moves_to_warm", 0);
        put("moves_within_lru", 0);
        put("direct_reclaims", 0);
        put("hits_to_hot", 0);
        put("hits_to_warm", 0);
        put("hits_to_cold", counters.get_hits);
        put("hits_to_temp", 0);
    }
    lines.0
}

/// `stats slabs`.
fn slabs(totals: &Totals) -> Vec<Stat> {
    let mut lines = Lines::default();
    let mut active = 0u64;
    for (index, class) in totals.classes.iter().enumerate() {
        if class.pages == 0 {
            continue;
        }
        active += 1;
        let counters = &class.counters;
        let chunks = class.pages * class.chunks_per_page;
        let mut put = |name: &str, value: u64| lines.put(&format!("{}:{name}", index + 1), value);
        put("chunk_size", class.chunk_bytes);
        put("chunks_per_page", class.chunks_per_page);
        put("total_pages", class.pages);
        put("total_chunks", chunks);
        put("used_chunks", class.used_chunks);
        put("free_chunks", chunks.saturating_sub(class.used_chunks));
        put("free_chunks_end", 0);
        put("get_hits", counters.get_hits);
        put("cmd_set", counters.cmd_set);
        put("delete_hits", counters.delete_hits);
        put("incr_hits", counters.incr_hits);
        put("decr_hits", counters.decr_hits);
        put("cas_hits", counters.cas_hits);
        put("cas_badval", counters.cas_badval);
        put("touch_hits", counters.touch_hits);
    }
    lines.put("active_slabs", active);
    lines.put("total_malloced", totals.shard.gauges.memory_bytes);
    lines.0
}
