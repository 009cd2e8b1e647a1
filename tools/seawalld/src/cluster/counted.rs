//! The cluster in `/metrics`.

use super::control::Shared;
use super::core::CorePeering;
use crate::metrics::{Page, Type};
use cluster::replication::Counters;
use net::peering::waits::{BOUNDS_US, Waits};
use std::time::Duration;

/// How long a core may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One core's numbers.
struct CoreCounts {
    counters: Counters,
    log_bytes: usize,
    unconfirmed: usize,
    uncertain: usize,
    parked: usize,
    away: usize,
    waiting: usize,
    queued_bytes: usize,
    passed_on: u64,
    waits: Waits,
    copies_held: usize,
    keys_granted: usize,
    keys_shown: usize,
    core_copies: usize,
    core_copy_reads: u64,
}

/// Adds the cluster's samples. Waits for the cores: not for the control thread.
pub fn add(shared: &Shared, page: &mut Page) -> anyhow::Result<()> {
    let topology = shared.topology();
    let (leased, settled) = shared.standing();
    let health = shared.health();
    let (links, wanted) = shared.links.counts(shared.cores);
    let gauges: [(&str, &str, u64); 12] = [
        ("seawall_cluster_revision", "Revision of the topology.", topology.revision().0),
        ("seawall_cluster_settled", "Revision that nobody can act against.", settled.0),
        ("seawall_cluster_leased", "The node may serve.", leased.into()),
        (
            "seawall_cluster_quorum",
            "A majority of keepers answers.",
            health.quorum_reachable.into(),
        ),
        ("seawall_cluster_leads", "The node keeps the cluster.", health.leads.into()),
        ("seawall_cluster_nodes", "Nodes of the cluster.", topology.nodes().count() as u64),
        (
            "seawall_cluster_nodes_up",
            "Nodes that are up.",
            topology.nodes().filter(|(_, member)| member.up).count() as u64,
        ),
        (
            "seawall_cluster_clock_skew_milliseconds",
            "By how much this machine's clock of day differs from the keeper's, either way.",
            shared.skew.ms().unsigned_abs(),
        ),
        (
            "seawall_cluster_settings_differ",
            "This node was told other settings than the keeper.",
            shared.alike.complaint().is_some().into(),
        ),
        (
            "seawall_cluster_nodes_settings_differ",
            "Nodes that were told other settings than the keeper.",
            shared.alike.odd().len() as u64,
        ),
        ("seawall_cluster_links", "Links to other nodes that stand.", links as u64),
        ("seawall_cluster_links_wanted", "Links that there should be.", wanted as u64),
    ];
    for (name, help, value) in gauges {
        page.add(name, Type::Gauge, help, &[], value);
    }
    let mut cores = Vec::new();
    for core in 0..shared.cores {
        let counts = shared.node().on_core(u32::from(core), PATIENCE, |core| {
            let peers = core.peers.as_mut()?;
            let (parked, away, waiting) = (peers.parked(), peers.away(), peers.waiting());
            let (queued_bytes, passed_on) = (peers.queued_bytes(), peers.passed_on());
            let waits = peers.waits();
            let (hot, replicator) = CorePeering::of(&mut core.peers)?.parts();
            Some(CoreCounts {
                counters: replicator.counters(),
                log_bytes: replicator.log_bytes(),
                unconfirmed: replicator.unconfirmed(),
                uncertain: replicator.uncertain(),
                parked,
                away,
                waiting,
                queued_bytes,
                passed_on,
                waits,
                copies_held: replicator.copies_held(),
                keys_granted: replicator.keys_granted(),
                keys_shown: hot.shown(),
                core_copies: hot.held_keys().count(),
                core_copy_reads: hot.reads(),
            })
        })?;
        cores.extend(counts);
    }
    type Get = fn(&CoreCounts) -> u64;
    let series: &[(&str, Type, &str, Get)] = &[
        ("seawall_replication_logged_total", Type::Counter, "Writes put into the log.", |c| {
            c.counters.logged
        }),
        ("seawall_replication_applied_total", Type::Counter, "Writes taken from primaries.", |c| {
            c.counters.applied
        }),
        (
            "seawall_replication_fenced_total",
            Type::Counter,
            "Writes refused as from a past owner.",
            |c| c.counters.fenced,
        ),
        (
            "seawall_replication_unstored_total",
            Type::Counter,
            "Records that found no memory here.",
            |c| c.counters.unstored,
        ),
        (
            "seawall_replication_unknown_total",
            Type::Counter,
            "Writes whose outcome nobody knows.",
            |c| c.counters.unknown,
        ),
        ("seawall_replication_fills_total", Type::Counter, "Fills of replicas begun.", |c| {
            c.counters.fills
        }),
        (
            "seawall_replication_fills_resumed_total",
            Type::Counter,
            "Fills that went on where a link broke.",
            |c| c.counters.fills_resumed,
        ),
        ("seawall_replication_filled_items_total", Type::Counter, "Items sent in fills.", |c| {
            c.counters.filled_items
        }),
        (
            "seawall_replication_resumed_total",
            Type::Counter,
            "Replicas that went on from the log.",
            |c| c.counters.resumed,
        ),
        (
            "seawall_replication_purged_total",
            Type::Counter,
            "Items dropped with their partition.",
            |c| c.counters.purged,
        ),
        ("seawall_replication_log_bytes", Type::Gauge, "Memory of the replication log.", |c| {
            c.log_bytes as u64
        }),
        (
            "seawall_replication_unconfirmed",
            Type::Gauge,
            "Confirmations of replicas that answers wait for.",
            |c| c.unconfirmed as u64,
        ),
        (
            "seawall_replication_uncertain",
            Type::Gauge,
            "Writes taken from primaries that are perhaps not everywhere.",
            |c| c.uncertain as u64,
        ),
        ("seawall_cluster_batches", Type::Gauge, "Batches of requests under way.", |c| {
            c.parked as u64
        }),
        ("seawall_cluster_requests_away", Type::Gauge, "Requests at other nodes.", |c| {
            c.away as u64
        }),
        ("seawall_cluster_requests_waiting", Type::Gauge, "Requests that wait for a node.", |c| {
            c.waiting as u64
        }),
        (
            "seawall_cluster_requests_passed_on_total",
            Type::Counter,
            "Requests passed on to other nodes.",
            |c| c.passed_on,
        ),
        (
            "seawall_cluster_link_queue_bytes",
            Type::Gauge,
            "Requests that wait for links to other nodes.",
            |c| c.queued_bytes as u64,
        ),
        (
            "seawall_hot_copies",
            Type::Gauge,
            "Copies of other nodes' hot keys that may be read here.",
            |c| c.copies_held as u64,
        ),
        (
            "seawall_hot_copies_received_total",
            Type::Counter,
            "Times that such a copy came here.",
            |c| c.counters.copied,
        ),
        (
            "seawall_hot_copy_reads_total",
            Type::Counter,
            "Reads of other nodes' keys that were answered here.",
            |c| c.counters.copy_reads,
        ),
        ("seawall_hot_keys_granted", Type::Gauge, "Keys that other nodes have copies of.", |c| {
            c.keys_granted as u64
        }),
        (
            "seawall_hot_granted_total",
            Type::Counter,
            "Times that a key was granted to another node, again included.",
            |c| c.counters.granted,
        ),
        (
            "seawall_hot_revoked_total",
            Type::Counter,
            "Writes that took a key's copies back.",
            |c| c.counters.revoked,
        ),
        ("seawall_hot_keys_shown", Type::Gauge, "Keys that other cores may answer.", |c| {
            c.keys_shown as u64
        }),
        ("seawall_hot_core_copies", Type::Gauge, "Copies of other cores' hot keys.", |c| {
            c.core_copies as u64
        }),
        (
            "seawall_hot_core_copy_reads_total",
            Type::Counter,
            "Reads of other cores' keys that were answered here.",
            |c| c.core_copy_reads,
        ),
    ];
    for (name, kind, help, get) in series {
        for (core, counts) in cores.iter().enumerate() {
            page.add(name, *kind, help, &[("core", &core.to_string())], get(counts));
        }
    }
    for (core, counts) in cores.iter().enumerate() {
        add_waits(core, &counts.waits, page);
    }
    Ok(())
}

fn add_waits(core: usize, waits: &Waits, page: &mut Page) {
    let mut count = 0;
    let bounds = BOUNDS_US.iter().zip(waits.counts).map(|(bound_us, more)| {
        count += more;
        (*bound_us as f64 / 1e6, count)
    });
    let bounds: Vec<(f64, u64)> = bounds.collect();
    page.add_histogram(
        "seawall_cluster_wait_seconds",
        "How long batches took of which a request found nobody to take it at first.",
        &[("core", &core.to_string())],
        &bounds,
        (waits.counts.iter().sum(), waits.sum_us as f64 / 1e6),
    );
}
