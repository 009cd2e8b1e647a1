//! The settings of a node that belongs to a cluster.

use super::collect::Problem;
use super::{Effective, choices};
use crate::cluster::{Common, HotSettings};
use cluster::replication::Modes;
use cluster::time::Timing;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

/// How long a keeper may grant leases after a confirmation of its leadership by etcd.
const ETCD_LEADERSHIP_MS: u64 = 150;

/// The replication log, unless said: this part of the memory limit.
const LOG_MEMORY_PART: u64 = 8;
/// Frames may be so long, however small values are.
const FRAME_BYTES_MIN: usize = 64 << 20;

/// Who keeps the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coordinator {
    /// The nodes themselves.
    Embedded,
    /// etcd: `etcd://[user:password@]host:port,...`.
    Etcd(String),
}

/// Certificates between nodes.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Chain of this node.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority's.
    pub authority: PathBuf,
    /// The name that others' certificates bear, unless it is their host.
    pub name: Option<String>,
}

/// What makes a node one of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where peers reach it.
    pub listen: SocketAddr,
    /// `host:port` that peers connect to.
    pub advertise: String,
    /// Nodes to begin or join with.
    pub join: Vec<String>,
    /// Name of the cluster.
    pub name: String,
    /// Name of the node.
    pub node: String,
    /// Where a keeper writes.
    pub directory: PathBuf,
    /// Who keeps the topology.
    pub coordinator: Coordinator,
    /// How many keep it.
    pub keepers: usize,
    /// Copies of every item, for a new cluster.
    pub copies: u8,
    /// In-sync copies that a write needs.
    pub min_copies: u8,
    /// How writes are replicated.
    pub modes: Modes,
    /// What must be equal on all nodes.
    pub common: Common,
    /// Partitions as a power of two, for a new cluster.
    pub ring_bits: u32,
    /// The node's zone.
    pub zone: String,
    /// Relative share.
    pub weight: u16,
    /// Reads may execute at replicas.
    pub read_nearest: bool,
    /// Which keys are hot, and how many of them have copies.
    pub hot: HotSettings,
    /// Milliseconds for which another node is granted a copy.
    pub hot_ms: u64,
    /// Milliseconds that a request waits for a node.
    pub patience_ms: u64,
    /// Bytes of the replication log, all cores together.
    pub log_bytes_max: u64,
    /// Bytes that wait for one link.
    pub link_bytes_max: usize,
    /// Longest frame of a link: a value and what goes with it.
    pub frame_bytes_max: usize,
    /// Bytes of fills a second and core.
    pub fill_rate: u64,
    /// Partitions being filled at a time.
    pub fills_max: usize,
    /// Patience with replicas.
    pub confirm_ms: u64,
    /// Beats, leases and what follows from silence.
    pub timing: Timing,
    /// Milliseconds that clocks of day may differ by.
    pub skew_max_ms: u64,
    /// Certificates between nodes.
    pub tls: Option<TlsConfig>,
}

impl ClusterConfig {
    /// Types the rows; `None` without `cluster.listen`.
    pub(super) fn new(
        rows: &Effective,
        value_bytes_max: u64,
        problems: &mut Vec<Problem>,
    ) -> Option<ClusterConfig> {
        let listen = listen(rows, problems)?;
        let given = |key: &str| Some(rows.text(key)).filter(|text| !text.is_empty());
        let advertise =
            given("cluster.advertise").map_or_else(|| listen.to_string(), str::to_owned);
        let coordinator = coordinator(rows, problems);
        counts(rows, problems);
        excluded(rows, problems);
        let timing = timing(rows, &coordinator, problems);
        let node = given("cluster.node").map_or_else(|| advertise.clone(), str::to_owned);
        let directory = rows
            .path("cluster.directory")
            .unwrap_or_else(|| PathBuf::from(format!("seawall-{}", node.replace(['/', ':'], "_"))));
        let tls = tls(rows, problems);
        Some(ClusterConfig {
            listen,
            advertise,
            join: rows.list("cluster.join").to_vec(),
            name: rows.text("cluster.name").to_owned(),
            node,
            directory,
            coordinator,
            keepers: rows.number("cluster.keepers") as usize,
            copies: rows.number("cluster.replicas") as u8,
            min_copies: rows.number("cluster.min_copies") as u8,
            modes: modes(rows, problems),
            common: common(rows),
            ring_bits: rows.number("cluster.partitions").trailing_zeros(),
            zone: rows.text("cluster.zone").to_owned(),
            weight: rows.number("cluster.weight") as u16,
            read_nearest: rows.choice("cluster.read_from", &choices::READ_NEAREST),
            hot: hot(rows),
            hot_ms: rows.number("cluster.hot_ms"),
            patience_ms: rows.number("cluster.patience_ms"),
            log_bytes_max: rows
                .nonzero("cluster.log_max")
                .unwrap_or(rows.number("memory.limit") / LOG_MEMORY_PART),
            link_bytes_max: rows.number("cluster.link_max") as usize,
            frame_bytes_max: (2 * value_bytes_max as usize).max(FRAME_BYTES_MIN),
            fill_rate: rows.number("cluster.fill_rate"),
            fills_max: rows.number("cluster.fills_max") as usize,
            confirm_ms: rows.number("cluster.confirm_ms"),
            timing,
            skew_max_ms: rows.number("cluster.skew_max_ms"),
            tls,
        })
    }
}

/// Where peers reach the node; none for a node that belongs to no cluster.
fn listen(rows: &Effective, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let text = rows.text("cluster.listen");
    if text.is_empty() {
        if rows.is_given("cluster.join") {
            problems.push(rows.problem(
                "cluster.join",
                "needs an address for this node, too: --cluster-listen IP:PORT".into(),
            ));
        }
        return None;
    }
    let Ok(listen) = text.parse::<SocketAddr>() else {
        problems.push(
            rows.problem("cluster.listen", format!("{text:?} is not IP:PORT or [IPv6]:PORT")),
        );
        return None;
    };
    let unreachable = listen.ip().is_unspecified() || listen.port() == 0;
    if unreachable && rows.text("cluster.advertise").is_empty() {
        problems.push(rows.problem(
            "cluster.listen",
            format!("no peer can reach {listen}: say where with --cluster-advertise HOST:PORT"),
        ));
    }
    Some(listen)
}

fn coordinator(rows: &Effective, problems: &mut Vec<Problem>) -> Coordinator {
    let text = rows.text("cluster.coordinator");
    match text.strip_prefix("etcd://") {
        _ if text == "embedded" => return Coordinator::Embedded,
        Some(hosts) if !hosts.is_empty() => return Coordinator::Etcd(text.to_owned()),
        Some(_) | None => {}
    }
    problems.push(rows.problem(
        "cluster.coordinator",
        format!("{text:?} is neither embedded nor etcd://HOST:PORT,..."),
    ));
    Coordinator::Embedded
}

fn counts(rows: &Effective, problems: &mut Vec<Problem>) {
    let keepers = rows.number("cluster.keepers");
    if keepers.is_multiple_of(2) {
        problems.push(rows.problem(
            "cluster.keepers",
            format!(
                "{keepers} keepers lose as much with one dead as {}: take 1, 3, 5 or 7",
                keepers - 1
            ),
        ));
    }
    let (copies, min_copies) = (rows.number("cluster.replicas"), rows.number("cluster.min_copies"));
    if min_copies > copies {
        problems.push(rows.problem(
            "cluster.min_copies",
            format!("{min_copies} is more than there are: cluster.replicas is {copies}"),
        ));
    }
    if !rows.number("cluster.partitions").is_power_of_two() {
        problems.push(rows.problem("cluster.partitions", "must be a power of two".into()));
    }
}

/// What a node of a cluster cannot have.
fn excluded(rows: &Effective, problems: &mut Vec<Problem>) {
    if rows.switch("protocol.disable_cas") {
        problems.push(rows.problem(
            "protocol.disable_cas",
            "a cluster needs the version of every item; leave -C out".into(),
        ));
    }
    if rows.path("snapshot.file").is_some() {
        problems.push(
            rows.problem(
                "snapshot.file",
                "a node of a cluster is filled by its peers, whose items are newer; leave it out"
                    .into(),
            ),
        );
    }
}

fn timing(rows: &Effective, coordinator: &Coordinator, problems: &mut Vec<Problem>) -> Timing {
    let leadership_ms = match coordinator {
        Coordinator::Embedded => Timing::default().leadership_ms,
        // Each confirmation is a write to its disks.
        Coordinator::Etcd(_) => ETCD_LEADERSHIP_MS,
    };
    let timing = Timing {
        beat_ms: rows.number("cluster.beat_ms"),
        lease_ms: rows.number("cluster.lease_ms"),
        down_after_ms: rows.number("cluster.down_after_ms"),
        repair_after_ms: rows.number("cluster.repair_after_ms"),
        abandon_after_ms: rows.number("cluster.abandon_after_ms"),
        leadership_ms: leadership_ms.min(rows.number("cluster.down_after_ms") / 2),
        ..Timing::default()
    };
    if let Err(faults) = timing.check() {
        for fault in faults {
            problems.push(rows.problem("cluster.lease_ms", fault.to_string()));
        }
    }
    timing
}

fn hot(rows: &Effective) -> HotSettings {
    HotSettings {
        // Reads that are to execute at primaries alone do not at copies.
        copies: match rows.choice("cluster.read_from", &choices::READ_NEAREST) {
            true => rows.number("cluster.hot_copies") as usize,
            false => 0,
        },
        share: rows.number("cluster.hot_percent") as f64 / 100.0,
        per_second: rows.number("cluster.hot_rate") as f64,
    }
}

fn modes(rows: &Effective, problems: &mut Vec<Problem>) -> Modes {
    let mut namespaces = Vec::new();
    for entry in rows.list("cluster.replication_of") {
        let parts = entry.split_once('=');
        match parts.and_then(|(name, mode)| Some((name, choices::REPLICATION.meaning(mode)?))) {
            Some((name, mode)) if !name.is_empty() => {
                namespaces.push((name.as_bytes().into(), mode));
            }
            _ => problems.push(rows.problem(
                "cluster.replication_of",
                format!("{entry:?} is not NAMESPACE=sync, =async or =none"),
            )),
        }
    }
    let delimiter = rows.text("namespace.delimiter").as_bytes()[0];
    let usual = rows.choice("cluster.replication", &choices::REPLICATION);
    Modes::new(delimiter, usual, namespaces)
}

/// What must be equal on all nodes, in one form for what means the same. (The seed of
/// the hash must be, too: a node with another one takes no topology at all.)
fn common(rows: &Effective) -> Common {
    let usual = rows.text("cluster.replication");
    let mut modes = BTreeMap::new();
    for entry in rows.list("cluster.replication_of") {
        if let Some((namespace, mode)) = entry.split_once('=') {
            // What is said first of a namespace holds.
            modes.entry(namespace).or_insert(mode);
        }
    }
    modes.retain(|_, mode| *mode != usual);
    let modes: Vec<String> = modes.iter().map(|(name, mode)| format!("{name}={mode}")).collect();
    let namespaces: BTreeSet<&str> =
        rows.list("namespace.names").iter().map(String::as_str).collect();
    let namespaces: Vec<&str> = namespaces.into_iter().collect();
    let number = |name: &str| rows.number(name).to_string();
    let all = [
        ("cluster.replication", usual.to_owned()),
        ("cluster.replication_of", modes.join(",")),
        ("cluster.min_copies", number("cluster.min_copies")),
        ("cluster.lease_ms", number("cluster.lease_ms")),
        ("cluster.down_after_ms", number("cluster.down_after_ms")),
        ("memory.value_max", number("memory.value_max")),
        ("protocol.cas_bits", rows.text("protocol.cas_bits").to_owned()),
        ("protocol.disable_cas", rows.switch("protocol.disable_cas").to_string()),
        ("namespace.delimiter", rows.text("namespace.delimiter").to_owned()),
        ("namespace.names", namespaces.join(",")),
    ];
    Common(all.map(|(name, value)| (name.to_owned(), value)).into())
}

fn tls(rows: &Effective, problems: &mut Vec<Problem>) -> Option<TlsConfig> {
    let keys = ["cluster.tls_certificate", "cluster.tls_key", "cluster.tls_ca"];
    let [certificate, key, authority] = keys.map(|key| rows.path(key));
    match (certificate, key, authority) {
        (Some(certificate), Some(key), Some(authority)) => Some(TlsConfig {
            certificate,
            key,
            authority,
            name: Some(rows.text("cluster.tls_name").to_owned()).filter(|name| !name.is_empty()),
        }),
        (None, None, None) => None,
        _ => {
            problems.push(rows.problem(
                "cluster.tls_certificate",
                "certificate, key and CA belong together: give all three or none".into(),
            ));
            None
        }
    }
}
