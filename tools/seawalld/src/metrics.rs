//! The text of `/metrics`.
//!
//! The first part has the names of `memcached_exporter`, made from the same
//! `stats` answers that the exporter would have asked for, so that existing
//! dashboards and alerts work. The second part, `seawall_*`, is per core.

use engine::ShardStats;
use net::stats::CoreStats;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// `stats` answers by name.
pub type Stats = BTreeMap<String, String>;

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}
use Type::{Counter, Gauge};

/// A page of metrics being written.
#[derive(Debug, Default)]
pub struct Page {
    out: String,
    last: String,
}

impl Page {
    /// Adds a sample; the first one of a name also writes its help and type.
    pub fn add(
        &mut self,
        name: &str,
        kind: Type,
        help: &str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        self.announce(name, if kind == Counter { "counter" } else { "gauge" }, help);
        self.sample(name, labels, value);
    }

    /// Adds a histogram: by upper bound in seconds the number of those that are not
    /// above it, then that of all, and the sum of all in seconds.
    pub fn add_histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        bounds: &[(f64, u64)],
        all: (u64, f64),
    ) {
        self.announce(name, "histogram", help);
        let (count, sum) = all;
        let bounds = bounds.iter().map(|(bound, count)| (bound.to_string(), *count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), count)]) {
            let labels = [labels, &[("le", &bound)]].concat();
            self.sample(&format!("{name}_bucket"), &labels, count);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count);
    }

    /// The first sample of a name has its help and type in front.
    fn announce(&mut self, name: &str, kind: &str, help: &str) {
        if self.last != name {
            let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            name.clone_into(&mut self.last);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.out, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// The text.
    pub fn finish(self) -> String {
        self.out
    }
}

/// `stats` and `stats settings`, field by field.
const GENERAL: &[(&str, &str, Type, &str)] = &[
    ("uptime", "memcached_uptime_seconds", Counter, "Seconds since the server started."),
    ("time", "memcached_time_seconds", Gauge, "The server's clock, in Unix seconds."),
    ("rusage_user", "memcached_process_user_cpu_seconds_total", Counter, "CPU time in user mode."),
    (
        "rusage_system",
        "memcached_process_system_cpu_seconds_total",
        Counter,
        "CPU time in system mode.",
    ),
    ("bytes_read", "memcached_read_bytes_total", Counter, "Bytes received from clients."),
    ("bytes_written", "memcached_written_bytes_total", Counter, "Bytes sent to clients."),
    ("curr_connections", "memcached_current_connections", Gauge, "Open connections."),
    ("max_connections", "memcached_max_connections", Gauge, "Most connections allowed."),
    (
        "total_connections",
        "memcached_connections_total",
        Counter,
        "Connections accepted since start.",
    ),
    (
        "rejected_connections",
        "memcached_connections_rejected_total",
        Counter,
        "Connections refused at the limit.",
    ),
    (
        "conn_yields",
        "memcached_connections_yielded_total",
        Counter,
        "Turns in which a connection used up its share.",
    ),
    (
        "listen_disabled_num",
        "memcached_connections_listener_disabled_total",
        Counter,
        "Times that accepting was paused at the limit.",
    ),
    ("bytes", "memcached_current_bytes", Gauge, "Bytes of stored items."),
    ("limit_maxbytes", "memcached_limit_bytes", Gauge, "Memory limit for items and index."),
    ("curr_items", "memcached_current_items", Gauge, "Items stored."),
    ("total_items", "memcached_items_total", Counter, "Items stored since start."),
    ("evictions", "memcached_items_evicted_total", Counter, "Live items evicted for room."),
    (
        "reclaimed",
        "memcached_items_reclaimed_total",
        Counter,
        "Expired items whose memory was reused.",
    ),
    (
        "store_too_large",
        "memcached_item_too_large_total",
        Counter,
        "Writes refused because the value is too large.",
    ),
    (
        "store_no_memory",
        "memcached_item_no_memory_total",
        Counter,
        "Writes refused for want of memory.",
    ),
    (
        "direct_reclaims",
        "memcached_direct_reclaims_total",
        Counter,
        "Evictions done by a write that needed the room.",
    ),
    ("total_malloced", "memcached_malloced_bytes", Gauge, "Bytes of slab pages in use."),
    (
        "accepting_conns",
        "memcached_accepting_connections",
        Gauge,
        "Whether new connections are accepted.",
    ),
    (
        "lru_crawler_running",
        "memcached_lru_crawler_enabled",
        Gauge,
        "Whether expired items are freed in the background.",
    ),
    (
        "lru_crawler_starts",
        "memcached_lru_crawler_starts_total",
        Counter,
        "Background passes begun.",
    ),
    (
        "crawler_reclaimed",
        "memcached_lru_crawler_reclaimed_total",
        Counter,
        "Items freed by background passes.",
    ),
    (
        "crawler_items_checked",
        "memcached_lru_crawler_items_checked_total",
        Counter,
        "Items looked at by background passes.",
    ),
];

/// `stats items` (`items:<class>:<field>`) and `stats slabs` (`<class>:<field>`).
const CLASSES: &[(&str, &str, Type, &str)] = &[
    ("number", "memcached_slab_current_items", Gauge, "Items of the class."),
    ("age", "memcached_slab_items_age_seconds", Gauge, "Age of the oldest item."),
    ("evicted", "memcached_slab_items_evicted_total", Counter, "Items evicted."),
    (
        "evicted_nonzero",
        "memcached_slab_items_evicted_nonzero_total",
        Counter,
        "Evicted items that had an expiry.",
    ),
    (
        "evicted_time",
        "memcached_slab_items_evicted_time_seconds",
        Gauge,
        "Seconds since the last evicted item was used.",
    ),
    (
        "evicted_unfetched",
        "memcached_slab_items_evicted_unfetched_total",
        Counter,
        "Evicted items that were never read.",
    ),
    (
        "expired_unfetched",
        "memcached_slab_items_expired_unfetched_total",
        Counter,
        "Expired items that were never read.",
    ),
    (
        "outofmemory",
        "memcached_slab_items_outofmemory_total",
        Counter,
        "Writes refused for want of memory.",
    ),
    (
        "reclaimed",
        "memcached_slab_items_reclaimed_total",
        Counter,
        "Expired items whose memory was reused.",
    ),
    (
        "tailrepairs",
        "memcached_slab_items_tailrepairs_total",
        Counter,
        "Always 0: nothing leaks references here.",
    ),
    (
        "crawler_reclaimed",
        "memcached_slab_items_crawler_reclaimed_total",
        Counter,
        "Items freed in the background.",
    ),
    ("number_hot", "memcached_slab_hot_items", Gauge, "Hot items."),
    ("number_cold", "memcached_slab_cold_items", Gauge, "Cold items."),
    ("chunk_size", "memcached_slab_chunk_size_bytes", Gauge, "Chunk size."),
    ("chunks_per_page", "memcached_slab_chunks_per_page", Gauge, "Chunks a page."),
    ("total_pages", "memcached_slab_current_pages", Gauge, "Pages of the class."),
    ("total_chunks", "memcached_slab_current_chunks", Gauge, "Chunks of the class."),
    ("used_chunks", "memcached_slab_chunks_used", Gauge, "Chunks holding items."),
    ("free_chunks", "memcached_slab_chunks_free", Gauge, "Chunks free."),
    (
        "free_chunks_end",
        "memcached_slab_chunks_free_end",
        Gauge,
        "Always 0: pages are formatted whole.",
    ),
    (
        "mem_requested",
        "memcached_slab_mem_requested_bytes",
        Gauge,
        "Bytes of the items in the class.",
    ),
];

/// Fields of `stats slabs` that are samples of one metric, by command and status.
const CLASS_COMMANDS: &[(&str, &str, &str)] = &[
    ("get_hits", "get", "hit"),
    ("delete_hits", "delete", "hit"),
    ("incr_hits", "incr", "hit"),
    ("decr_hits", "decr", "hit"),
    ("cas_hits", "cas", "hit"),
    ("cas_badval", "cas", "badval"),
    ("touch_hits", "touch", "hit"),
    ("cmd_set", "set", "hit"),
];

fn number(stats: &Stats, name: &str) -> Option<u64> {
    stats.get(name)?.parse().ok()
}

/// Writes the part with the exporter's names.
pub fn memcached(page: &mut Page, general: &Stats, settings: &Stats, items: &Stats, slabs: &Stats) {
    page.add("memcached_up", Gauge, "Whether the server answers.", &[], 1);
    if let Some(version) = general.get("version") {
        page.add("memcached_version", Gauge, "The server's version.", &[("version", version)], 1);
    }
    commands(page, general);
    for (field, metric, kind, help) in GENERAL {
        if let Some(value) = general.get(*field) {
            page.add(metric, *kind, help, &[], value);
        }
    }
    if let Some(value) = settings.get("lru_crawler_sleep") {
        page.add("memcached_lru_crawler_sleep", Gauge, "As `stats settings` says.", &[], value);
    }
    let classes = by_class(items, "items:").chain(by_class(slabs, "")).collect::<Vec<_>>();
    for (field, metric, kind, help) in CLASSES {
        // `stats slabs` repeats no field of `stats items`, so the first one found is the one.
        for (class, name, value) in &classes {
            if name == field {
                page.add(metric, *kind, help, &[("slab", class)], value);
            }
        }
    }
    for (field, command, status) in CLASS_COMMANDS {
        for (class, name, value) in &classes {
            if name == field {
                let labels = [("slab", *class), ("command", *command), ("status", *status)];
                page.add(
                    "memcached_slab_commands_total",
                    Counter,
                    "Commands by class.",
                    &labels,
                    value,
                );
            }
        }
    }
}

fn commands(page: &mut Page, general: &Stats) {
    let mut add = |command: &str, status: &str, value: Option<u64>| {
        if let Some(value) = value {
            let labels = [("command", command), ("status", status)];
            page.add("memcached_commands_total", Counter, "Commands by outcome.", &labels, value);
        }
    };
    for command in ["get", "delete", "incr", "decr", "cas", "touch"] {
        add(command, "hit", number(general, &format!("{command}_hits")));
        add(command, "miss", number(general, &format!("{command}_misses")));
    }
    add("cas", "badval", number(general, "cas_badval"));
    add("flush", "hit", number(general, "cmd_flush"));
    let cas: u64 = ["cas_hits", "cas_misses", "cas_badval"]
        .iter()
        .filter_map(|name| number(general, name))
        .sum();
    add("set", "hit", number(general, "cmd_set").map(|sets| sets.saturating_sub(cas)));
}

/// `<prefix><class>:<field>` as (class, field, value).
fn by_class<'a>(
    stats: &'a Stats,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    stats.iter().filter_map(move |(name, value)| {
        let (class, field) = name.strip_prefix(prefix)?.split_once(':')?;
        class.bytes().all(|byte| byte.is_ascii_digit()).then_some((class, field, value.as_str()))
    })
}

/// One core's numbers as (name, type, value); `/metrics` puts `seawall_core_`
/// before the name.
pub fn core_fields(
    shard: &ShardStats,
    protocol: &CoreStats,
) -> impl Iterator<Item = (&'static str, Type, u64)> {
    let (counters, gauges) = (&shard.counters, &shard.gauges);
    [
        ("items", Gauge, gauges.curr_items),
        ("item_bytes", Gauge, gauges.bytes),
        ("memory_bytes", Gauge, gauges.memory_bytes),
        ("memory_limit_bytes", Gauge, gauges.limit_maxbytes),
        ("index_bytes", Gauge, gauges.index_bytes),
        ("policy_bytes", Gauge, gauges.policy_bytes),
        ("pages", Gauge, gauges.pages),
        ("pages_free", Gauge, gauges.pages_free),
        ("pinned_values", Gauge, gauges.pinned),
        ("reserved_values", Gauge, gauges.reserved),
        ("tag_generations", Gauge, gauges.tag_generations),
        ("connections", Gauge, protocol.connections),
        ("buffer_bytes", Gauge, protocol.buffer_bytes),
        ("connection_bytes", Gauge, protocol.connection_bytes),
        ("connections_closed_for_memory_total", Counter, protocol.memory_kicks),
        ("gets_total", Counter, counters.cmd_get),
        ("get_hits_total", Counter, counters.get_hits),
        ("sets_total", Counter, counters.cmd_set),
        ("evictions_total", Counter, counters.evictions),
        ("expired_swept_total", Counter, counters.swept),
        ("pages_moved_total", Counter, counters.slabs_moved),
        ("tag_generations_folded_total", Counter, counters.tag_generations_folded),
        ("local_requests_total", Counter, protocol.local_requests),
        ("visits_total", Counter, protocol.visits),
        ("hops_sent_total", Counter, protocol.hops_sent),
        ("hops_served_total", Counter, protocol.hops_served),
        ("turns_total", Counter, protocol.turns),
        ("read_bytes_total", Counter, protocol.bytes_read),
        ("written_bytes_total", Counter, protocol.bytes_written),
    ]
    .into_iter()
}

/// Writes the part that is per core.
pub fn cores<'a>(page: &mut Page, cores: impl Iterator<Item = (&'a ShardStats, &'a CoreStats)>) {
    let rows: Vec<Vec<_>> =
        cores.map(|(shard, protocol)| core_fields(shard, protocol).collect()).collect();
    let fields = rows.first().map_or(0, Vec::len);
    for field in 0..fields {
        for (core, row) in rows.iter().enumerate() {
            let (name, kind, value) = row[field];
            let help = "Of one core; see docs/operations.md.";
            page.add(
                &format!("seawall_core_{name}"),
                kind,
                help,
                &[("core", &core.to_string())],
                value,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `STAT name value` lines.
    fn parse_stats(text: &str) -> Stats {
        text.lines()
            .filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn stats_become_the_exporters_metrics() {
        let general = parse_stats(
            "STAT version 1.6.18\r\nSTAT get_hits 5\r\nSTAT get_misses 2\r\nSTAT cmd_set 9\r\nSTAT cas_hits 1\r\n\
             STAT cas_misses 1\r\nSTAT cas_badval 1\r\nSTAT rusage_user 0.250000\r\nSTAT curr_items 3\r\nEND\r\n",
        );
        let items = parse_stats("STAT items:4:number 3\r\nSTAT items:4:evicted 1\r\n");
        let slabs =
            parse_stats("STAT 4:chunk_size 96\r\nSTAT 4:get_hits 5\r\nSTAT active_slabs 1\r\n");
        let mut page = Page::default();
        memcached(&mut page, &general, &Stats::new(), &items, &slabs);
        let text = page.finish();
        for line in [
            "memcached_up 1",
            "memcached_version{version=\"1.6.18\"} 1",
            "memcached_commands_total{command=\"get\",status=\"hit\"} 5",
            "memcached_commands_total{command=\"set\",status=\"hit\"} 6",
            "memcached_process_user_cpu_seconds_total 0.250000",
            "memcached_slab_current_items{slab=\"4\"} 3",
            "memcached_slab_chunk_size_bytes{slab=\"4\"} 96",
            "memcached_slab_commands_total{slab=\"4\",command=\"get\",status=\"hit\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        // Prometheus refuses a page that announces a metric twice.
        let mut announced: Vec<&str> =
            text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = announced.len();
        announced.sort_unstable();
        announced.dedup();
        assert_eq!(announced.len(), all);
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut page = Page::default();
        for core in ["0", "1"] {
            page.add_histogram("w", "h", &[("core", core)], &[(0.0005, 1), (1.0, 3)], (4, 9.25));
        }
        let one = |core: &str| {
            format!(
                "w_bucket{{core=\"{core}\",le=\"0.0005\"}} 1\nw_bucket{{core=\"{core}\",le=\"1\"}} 3\n\
                 w_bucket{{core=\"{core}\",le=\"+Inf\"}} 4\nw_sum{{core=\"{core}\"}} 9.25\n\
                 w_count{{core=\"{core}\"}} 4\n"
            )
        };
        let text = page.finish();
        assert_eq!(text, format!("# HELP w h\n# TYPE w histogram\n{}{}", one("0"), one("1")));
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.add("x", Gauge, "h", &[("key", "a\"b\\c\nd")], 1);
        assert!(page.finish().ends_with("x{key=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }
}
