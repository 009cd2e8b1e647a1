//! What the tasks of a keeper share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openraft::ServerState;
use tokio::sync::watch;

use super::EmbeddedOptions;
use super::disk::{Disk, DiskError, META, write_meta};
use super::log::Log;
use super::machine::Machine;
use super::types::{Beginning, Former, Introduce, Keeper, Metrics, Raft, encode};
use crate::applied::Applied;
use crate::health::OtherCluster;
use crate::wire::Peers;
use crate::{Log as Lines, Role};

/// Refusals of the same node are logged no more often than this.
const REFUSED_EVERY: Duration = Duration::from_secs(10);

/// One node's part in the order of commands.
pub(super) struct Node {
    pub options: EmbeddedOptions,
    pub peers: Arc<Peers>,
    pub applied: Arc<Applied>,
    pub role: watch::Sender<Role>,
    /// Drawn when the file was made.
    pub id: AtomicU64,
    /// Drawn by whoever began the cluster; 0 while this node is in none.
    cluster: AtomicU64,
    /// It has forgotten its cluster, and must be started again to find the new one.
    pub must_restart: watch::Sender<bool>,
    /// It is doing so.
    pub forgetting: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    engine: Option<Engine>,
    /// When a leader was heard last, or this node voted.
    heard: Instant,
    /// When it asked to lead last.
    stood: Option<Instant>,
    /// When something came from a leader last that this node may have accepted, or when
    /// it asked a majority whether it leads itself. What an earlier process accepted
    /// came before this one started.
    followed: Instant,
    /// The same of those who voted for this node, the latest of them, and the term.
    voters_followed: Option<(u64, Instant)>,
    /// Addresses that nodes sent, which may be newer than the membership.
    addresses: HashMap<u64, String>,
    /// When a node's refusal was logged.
    refused: HashMap<u64, Instant>,
    disk_error: Option<String>,
    waits_for: Option<String>,
    other_cluster: Option<OtherCluster>,
    beginning: Option<Beginning>,
    former: Former,
}

/// Raft over an open file. There is none while the disk fails.
#[derive(Clone)]
pub(super) struct Engine {
    pub raft: Raft,
    pub disk: Disk,
    pub log: Log,
    pub machine: Machine,
}

impl Engine {
    pub fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }
}

impl Node {
    pub fn new(options: EmbeddedOptions, peers: Arc<Peers>, applied: Arc<Applied>) -> Arc<Node> {
        let (role, _) = watch::channel(Role::Follower { leader: None });
        let inner = Inner {
            engine: None,
            heard: Instant::now(),
            stood: None,
            followed: Instant::now(),
            voters_followed: None,
            addresses: HashMap::new(),
            refused: HashMap::new(),
            disk_error: None,
            waits_for: None,
            other_cluster: None,
            beginning: None,
            former: Former::new(),
        };
        let (must_restart, _) = watch::channel(false);
        Arc::new(Node {
            options,
            peers,
            applied,
            role,
            id: AtomicU64::new(0),
            cluster: AtomicU64::new(0),
            must_restart,
            forgetting: AtomicBool::new(false),
            inner: Mutex::new(inner),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    pub fn cluster(&self) -> u64 {
        self.cluster.load(Ordering::Relaxed)
    }

    pub fn set_cluster(&self, cluster: u64) {
        self.cluster.store(cluster, Ordering::Relaxed);
    }

    pub fn introduce(&self) -> Introduce {
        Introduce {
            id: self.id(),
            name: self.options.name.clone(),
            address: self.options.peer_address.clone(),
            cluster: self.cluster(),
        }
    }

    pub fn log(&self, line: &str) {
        (self.lines())(line);
    }

    pub fn lines(&self) -> &Lines {
        &self.peers.settings().log
    }

    pub fn engine(&self) -> Option<Engine> {
        self.inner().engine.clone()
    }

    pub fn set_engine(&self, engine: Option<Engine>) {
        self.inner().engine = engine;
    }

    /// How long ago a leader gave a sign of life, or this node a vote.
    pub fn silence(&self) -> Duration {
        self.inner().heard.elapsed()
    }

    pub fn hear(&self) {
        self.inner().heard = Instant::now();
    }

    /// As a voter, this node has confirmed no leader after this moment.
    pub fn followed(&self) -> Instant {
        self.inner().followed
    }

    /// To be called before Raft is handed what came, so that it is noted in time for a
    /// vote which Raft grants afterwards.
    pub fn note_followed(&self, at: Instant) {
        let mut inner = self.inner();
        inner.followed = inner.followed.max(at);
    }

    /// The same of the voters by which this node was elected in that term, beside itself.
    pub fn voters_followed(&self, term: u64) -> Option<Instant> {
        self.inner().voters_followed.filter(|noted| noted.0 == term).map(|noted| noted.1)
    }

    /// A voter granted its vote in that term. To be called before Raft counts it.
    pub fn note_voter_followed(&self, term: u64, at: Instant) {
        let mut inner = self.inner();
        match &mut inner.voters_followed {
            Some((noted, _)) if *noted > term => {}
            Some((noted, latest)) if *noted == term => *latest = at.max(*latest),
            noted => *noted = Some((term, at)),
        }
    }

    /// It asks to lead.
    pub fn stand(&self) {
        self.inner().stood = Some(Instant::now());
    }

    pub fn address_of(&self, id: u64) -> Option<String> {
        self.inner().addresses.get(&id).cloned()
    }

    /// A node said where it is. Only members and candidates for it are noted.
    pub fn note_address(&self, id: u64, address: &str) {
        let mut inner = self.inner();
        let bound = cluster::topology::MEMBERS_MAX * 2;
        if inner.addresses.len() < bound || inner.addresses.contains_key(&id) {
            inner.addresses.insert(id, address.to_owned());
        }
    }

    /// Raft tries again and again: the same refusal is worth a line now and then.
    pub fn note_refusal(&self, id: u64, line: &str) {
        let mut inner = self.inner();
        inner.refused.retain(|_, at| at.elapsed() < REFUSED_EVERY);
        if let Entry::Vacant(vacant) = inner.refused.entry(id) {
            vacant.insert(Instant::now());
            drop(inner);
            self.log(line);
        }
    }

    pub fn disk_error(&self) -> Option<String> {
        self.inner().disk_error.clone()
    }

    pub fn set_disk_error(&self, error: Option<String>) {
        self.inner().disk_error = error;
    }

    pub fn waits_for(&self) -> Option<String> {
        self.inner().waits_for.clone()
    }

    pub fn set_waits_for(&self, whom: Option<String>) {
        self.inner().waits_for = whom;
    }

    pub fn other_cluster(&self) -> Option<OtherCluster> {
        self.inner().other_cluster.clone()
    }

    /// Notes what is known of another cluster, and logs it if that is new.
    pub fn set_other_cluster(&self, other: Option<OtherCluster>) {
        let before = std::mem::replace(&mut self.inner().other_cluster, other.clone());
        match (before, other) {
            (before, Some(other)) if before.as_ref() != Some(&other) => self.log(&other.what),
            (Some(_), None) => self.log("no node of --join belongs to another cluster any more"),
            _ => {}
        }
    }

    /// Whether this cluster took the place of that one.
    pub fn succeeds(&self, cluster: u64) -> bool {
        self.inner().former.contains(&cluster)
    }

    pub fn set_former(&self, former: Former) {
        self.inner().former = former;
    }

    /// Where peers reach a member now.
    pub fn address(&self, metrics: &Metrics, id: u64) -> Option<String> {
        let written = || {
            let membership = metrics.membership_config.membership();
            membership.get_node(&id).map(|keeper: &Keeper| keeper.address.clone())
        };
        self.address_of(id).or_else(written)
    }

    pub fn beginning(&self) -> Option<Beginning> {
        self.inner().beginning.clone()
    }

    pub fn set_beginning(&self, beginning: Option<Beginning>) {
        self.inner().beginning = beginning;
    }

    /// This node begins a cluster; false if it is in one by now.
    pub async fn begin(&self, disk: &Disk, beginning: Beginning) -> Result<bool, DiskError> {
        // Whoever takes this node in meanwhile wins.
        let cluster = beginning.cluster;
        if self.cluster.compare_exchange(0, cluster, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return Ok(false);
        }
        let bytes = encode(&beginning);
        self.set_beginning(Some(beginning));
        disk.run(move |database| {
            let writing = database.begin_write()?;
            {
                let mut meta = writing.open_table(META)?;
                meta.insert("cluster", &cluster.to_le_bytes()[..])?;
                meta.insert("beginning", &bytes[..])?;
            }
            writing.commit()?;
            Ok(true)
        })
        .await
    }

    /// This node belongs to a cluster from now on; false if to another one.
    pub async fn belong(&self, disk: &Disk, cluster: u64) -> Result<bool, DiskError> {
        let free = self.cluster.compare_exchange(0, cluster, Ordering::Relaxed, Ordering::Relaxed);
        if free.is_ok() {
            let bytes = cluster.to_le_bytes();
            disk.run(move |database| write_meta(database, "cluster", &bytes)).await?;
        }
        Ok(self.cluster() == cluster)
    }

    /// The role as it is now.
    pub fn judge_role(&self) -> Role {
        let Some(engine) = self.engine() else { return Role::Follower { leader: None } };
        let metrics = engine.metrics();
        let timing = &self.options.timing;
        if metrics.state == ServerState::Leader {
            return match self.is_known(&metrics) {
                true => Role::Leader { term: metrics.current_term },
                false => Role::Follower { leader: None },
            };
        }
        let leader = metrics
            .current_leader
            .filter(|leader| *leader != self.id() && self.silence() <= timing.election_max)
            .and_then(|leader| self.address(&metrics, leader));
        Role::Follower { leader }
    }

    /// Whether this node leads, and a majority knows it.
    pub fn leads(&self) -> bool {
        let Some(engine) = self.engine() else { return false };
        let metrics = engine.raft.metrics();
        let metrics = metrics.borrow();
        metrics.state == ServerState::Leader && self.is_known(&metrics)
    }

    /// Whether a majority knows this leader. One that hears none may have been replaced
    /// already. A process that is started again begins as what the one before was: it
    /// has not been elected.
    fn is_known(&self, metrics: &Metrics) -> bool {
        let silence_max = 2 * self.options.timing.election_max;
        let quorum_ack = metrics.millis_since_quorum_ack.map(Duration::from_millis);
        let elected = || self.inner().stood.map(|at| at.elapsed());
        quorum_ack.or_else(elected).is_some_and(|ago| ago <= silence_max)
            || metrics.membership_config.voter_ids().count() == 1
    }

    /// Tells those who watch the role, if it changed.
    pub fn show_role(&self) {
        let role = self.judge_role();
        self.role.send_if_modified(|shown| {
            let changed = *shown != role;
            if changed {
                *shown = role;
            }
            changed
        });
    }
}
