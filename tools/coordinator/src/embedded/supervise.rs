//! Raft's life over a disk that may fail.
//!
//! When a write fails, Raft stops: this node promises nothing more, and its
//! silence lets others lead. The file is then opened anew, as after a crash,
//! until a write succeeds; then Raft starts again from what is in the file.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::time::{Instant, sleep, timeout};

use super::disk::{Disk, DiskError, read_meta, write_meta};
use super::log::{Log, meta};
use super::machine::Machine;
use super::network::Lines;
use super::node::{Engine, Node};
use super::types::{Beginning, Former, Raft};

/// A disk that failed is tried this often.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long a file that another process uses is tried again at start.
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const IN_USE_RETRY: Duration = Duration::from_millis(20);
/// How long Raft may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Is written to see whether the disk takes something again: some pages.
const PROBE_BYTES: usize = 64 << 10;

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    while !node.forgetting.load(Ordering::Relaxed) {
        let Some(engine) = node.engine() else {
            sleep(RETRY_EVERY).await;
            match reopen(&node).await {
                Ok(()) => node.log("the disk takes writes again: this node takes part"),
                Err(error) => node.set_disk_error(Some(error.to_string())),
            }
            continue;
        };
        let mut metrics = engine.raft.metrics();
        let why = loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                break fatal.to_string();
            }
            // Whoever begins to lead, or to follow, acts at once.
            node.show_role();
            if metrics.changed().await.is_err() {
                break "Raft has ended".to_owned();
            }
        };
        if node.forgetting.load(Ordering::Relaxed) {
            return;
        }
        node.set_disk_error(Some(why.clone()));
        node.log(&format!("this node takes no part in decisions: {why}"));
        close(&node).await;
        node.show_role();
    }
}

/// Stops Raft and closes the file.
pub(super) async fn close(node: &Node) {
    let Some(engine) = node.engine() else { return };
    node.set_engine(None);
    // Its tasks end in any case, at the latest with the runtime.
    let _ = timeout(STOP_TIMEOUT, engine.raft.shutdown()).await;
    engine.disk.close().await;
}

async fn reopen(node: &Arc<Node>) -> Result<(), DiskError> {
    let disk =
        Disk::open(&node.options.directory, crate::draw(), node.options.on_disk_thread).await?;
    let probed = disk.run(|database| write_meta(database, "probe", &vec![0x5a; PROBE_BYTES])).await;
    let shrunk = match probed {
        Ok(()) => disk.run(|database| write_meta(database, "probe", &[])).await,
        Err(error) => Err(error),
    };
    if let Err(error) = shrunk {
        disk.close().await;
        return Err(error);
    }
    start(node, disk).await
}

/// Opens the file and starts Raft.
pub(super) async fn open(node: &Arc<Node>) -> Result<(), DiskError> {
    let began = Instant::now();
    let disk = loop {
        let options = &node.options;
        match Disk::open(&options.directory, crate::draw(), options.on_disk_thread).await {
            // The process before this one may have been killed a moment ago.
            Err(DiskError::InUse { .. }) if began.elapsed() < IN_USE_PATIENCE => {
                sleep(IN_USE_RETRY).await;
            }
            opened => break opened?,
        }
    };
    start(node, disk).await
}

async fn start(node: &Arc<Node>, disk: Disk) -> Result<(), DiskError> {
    let started = build(node, &disk).await;
    match started {
        Ok(engine) => {
            node.hear();
            node.set_engine(Some(engine));
            node.set_disk_error(None);
            Ok(())
        }
        Err(error) => {
            disk.close().await;
            Err(error)
        }
    }
}

async fn build(node: &Arc<Node>, disk: &Disk) -> Result<Engine, DiskError> {
    let (id, cluster, beginning, former) = disk
        .run(|database| {
            let number = |bytes: Option<Vec<u8>>| -> Result<u64, redb::Error> {
                let bytes: Option<[u8; 8]> = bytes.and_then(|bytes| bytes.try_into().ok());
                Ok(bytes.map_or(0, u64::from_le_bytes))
            };
            let id = number(read_meta(database, "id")?)?;
            let cluster = number(read_meta(database, "cluster")?)?;
            let beginning = meta::<Beginning>(database, "beginning")?;
            let former = meta::<Former>(database, "former")?.unwrap_or_default();
            Ok((id, cluster, beginning, former))
        })
        .await?;
    node.id.store(id, Ordering::Relaxed);
    node.set_cluster(cluster);
    node.set_beginning(beginning);
    node.set_former(former);
    let log = Log::load(disk.clone()).await?;
    let machine = Machine::load(disk.clone(), node.applied.clone()).await?;
    let failed = |why: String| DiskError::Failed {
        path: node.options.directory.join(super::disk::FILE),
        why,
    };
    let config = config(node).validate().map_err(|error| failed(error.to_string()))?;
    let raft = Raft::new(id, Arc::new(config), Lines(node.clone()), log.clone(), machine.clone())
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(Engine { raft, disk: disk.clone(), log, machine })
}

/// Raft's own timers are off: `election` has better ones. What is left of them
/// is the time for which nobody votes for somebody else, and how long a message
/// to a follower may take.
fn config(node: &Node) -> Config {
    let timing = &node.options.timing;
    let lease_ms = timing.lease().as_millis() as u64;
    Config {
        cluster_name: node.peers.settings().cluster.clone(),
        election_timeout_max: lease_ms.max(3),
        election_timeout_min: lease_ms.max(3) - 1,
        heartbeat_interval: lease_ms.max(3) - 2,
        enable_heartbeat: false,
        enable_elect: false,
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(node.options.snapshot_every),
        max_in_snapshot_log_to_keep: node.options.snapshot_every / 2,
        purge_batch_size: (node.options.snapshot_every / 4).max(1),
        ..Config::default()
    }
}
