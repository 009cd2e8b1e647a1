//! The order of commands, kept by some of the nodes themselves.
//!
//! Every node runs Raft (openraft); 1, 3, 5 or 7 of them vote, the *keepers*, and
//! the others follow as learners. What they agree on is the log of commands; the
//! topology is what the log makes of it.
//!
//! | module | owns |
//! |---|---|
//! | [`disk`] | the file with everything that was promised |
//! | `log`, `machine` | log and topology as Raft wants them |
//! | `network` | Raft's messages over [`wire`](crate::wire) |
//! | `election` | when a keeper asks to lead |
//! | `join` | how a node finds or begins its cluster |
//! | `lost` | what is said while no majority of keepers can be had |
//! | [`recover`] | a cluster begun anew after most keepers' directories were lost |
//! | `tend` | who should be a keeper |
//! | `serve` | answers to other nodes |
//! | `supervise` | Raft's life over a disk that may fail |
//!
//! A node whose disk fails leaves its cluster's decisions to the others, and
//! tries again; it never acknowledges what it has not written.

pub mod disk;
mod election;
mod join;
mod log;
mod lost;
mod machine;
mod network;
mod node;
pub mod recover;
mod serve;
mod supervise;
mod tend;
mod types;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use cluster::topology::{Revision, Topology};
use openraft::ServerState;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::applied::{Applied, command_bytes};
use crate::wire::{Boxed, Handler, Peers};
use crate::{COMMAND_BYTES_MAX, Confirmation, Coordinator, CoordinatorError, Health, Role};
use disk::DiskError;
use node::{Engine, Node};
use types::{Forward, Forwarded, Order, encode, kind};

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Where it remembers what it promised.
    pub directory: PathBuf,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where peers reach it, as they write it.
    pub peer_address: String,
    /// Addresses of other nodes, to find the cluster or to begin one with. Its
    /// own may be among them.
    pub join: Vec<String>,
    /// How many nodes shall decide, if there are as many: 1, 3, 5 or 7.
    pub keepers_wanted: usize,
    /// Its patience.
    pub timing: Timing,
    /// The log is cut behind a snapshot after so many commands.
    pub snapshot_every: u64,
    /// Called first on the thread that writes the file: to give it the priority of
    /// the caller's, for no keeper votes or follows before that thread has synced.
    pub on_disk_thread: fn(),
}

impl EmbeddedOptions {
    /// The usual numbers.
    pub fn new(directory: PathBuf, name: &str, peer_address: &str, join: &[String]) -> Self {
        EmbeddedOptions {
            directory,
            name: name.into(),
            peer_address: peer_address.into(),
            join: join.to_vec(),
            keepers_wanted: 3,
            timing: Timing::default(),
            snapshot_every: 1000,
            on_disk_thread: || {},
        }
    }
}

/// Patience among keepers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A leader gives a sign of life this often.
    pub heartbeat: Duration,
    /// A keeper asks to lead after a silence of at least so long. No keeper
    /// votes for another before two thirds of it have passed.
    pub election_min: Duration,
    /// And of at most so long.
    pub election_max: Duration,
    /// How long a command waits for a leader, and for a majority.
    pub append_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            append_timeout: Duration::from_secs(3),
        }
    }
}

impl Timing {
    /// How long after a sign of life nobody votes for somebody else.
    pub fn lease(&self) -> Duration {
        self.election_min * 2 / 3
    }
}

/// A node's part in the order of commands.
pub struct Embedded {
    node: Arc<Node>,
    tasks: Mutex<JoinSet<()>>,
}

impl Embedded {
    /// Opens the file, and takes part from now on. The caller serves
    /// [`Embedded::handler`] at `peer_address`.
    ///
    /// It fails if the file is not a keeper's, or cannot be opened.
    pub async fn start(
        options: EmbeddedOptions,
        peers: Arc<Peers>,
    ) -> Result<Arc<Embedded>, DiskError> {
        let node = Node::new(options, peers, Applied::new(Topology::default()));
        supervise::open(&node).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise::run(node.clone()));
        tasks.spawn(election::run(node.clone()));
        tasks.spawn(election::heartbeat(node.clone()));
        tasks.spawn(join::run(node.clone()));
        tasks.spawn(tend::run(node.clone()));
        Ok(Arc::new(Embedded { node, tasks: Mutex::new(tasks) }))
    }

    /// Answers other coordinators.
    pub fn handler(&self) -> Arc<dyn Handler> {
        Arc::new(serve::Answers(self.node.clone()))
    }

    /// Takes part no longer, and closes the file. Others notice by the silence.
    pub async fn stop(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        supervise::close(&self.node).await;
        self.node.show_role();
    }

    /// Turns true when the operator has begun the cluster anew on another node. This
    /// one has then forgotten the old one, and must be started again.
    pub fn must_restart(&self) -> watch::Receiver<bool> {
        self.node.must_restart.subscribe()
    }

    async fn put(&self, command: Command) -> Result<Outcome, CoordinatorError> {
        let bytes = command_bytes(&command);
        if bytes > COMMAND_BYTES_MAX {
            return Err(CoordinatorError::TooLong { command_bytes: bytes });
        }
        let node = &self.node;
        let started = Instant::now();
        let mut role = node.role.subscribe();
        let mut why = "no leader is known here".to_owned();
        loop {
            let rest = node.options.timing.append_timeout.saturating_sub(started.elapsed());
            if rest.is_zero() {
                return Err(match node.disk_error() {
                    Some(why) => CoordinatorError::Disabled { why },
                    None => CoordinatorError::NoLeader { waited: started.elapsed(), why },
                });
            }
            // What it is shown to be may be older than what it knows.
            let now = node.judge_role();
            let answer = match (now, node.engine()) {
                (Role::Leader { .. }, Some(engine)) => put_here(&engine, &command, rest).await,
                (Role::Follower { leader: Some(leader) }, _) => {
                    match self.put_there(&leader, &command, rest).await {
                        Ok(answer) => answer,
                        Err(text) => {
                            why = text;
                            Forwarded::NotLeader
                        }
                    }
                }
                _ => Forwarded::NotLeader,
            };
            match answer {
                Forwarded::Done(outcome) => return Ok(outcome),
                Forwarded::Unknown(why) => return Err(CoordinatorError::Unknown { why }),
                Forwarded::NotLeader => {}
            }
            // Soon there is another leader, or this one is reached.
            let pause = sleep(Duration::from_millis(10).min(rest));
            tokio::select! {
                () = pause => {}
                _ = role.changed() => {}
            }
        }
    }

    /// Asks the leader; the error says why it has not heard it.
    async fn put_there(
        &self,
        leader: &str,
        command: &Command,
        rest: Duration,
    ) -> Result<Forwarded, String> {
        let within_ms = rest.as_millis() as u32;
        let body = encode(&Forward { command: command.clone(), within_ms });
        match self.node.peers.call(leader, kind::APPEND, body, rest).await {
            Ok(answer) => Ok(postcard::from_bytes(&answer)
                .unwrap_or_else(|_| Forwarded::Unknown(format!("{leader} answers nonsense")))),
            Err(error) if error.may_have_been_heard() => Ok(Forwarded::Unknown(error.to_string())),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn confirm(&self) -> Result<Confirmation, CoordinatorError> {
        let node = &self.node;
        let end = Instant::now() + node.options.timing.election_max;
        loop {
            let Some(engine) = node.engine() else { return Err(CoordinatorError::NotLeader) };
            let heard = node.followed();
            let at = Instant::now();
            // As its own voter it hears of this leader, too.
            node.note_followed(at);
            let rest = end.saturating_duration_since(at);
            match timeout(rest, engine.raft.ensure_linearizable()).await {
                // It is the leader's first entry at least.
                Ok(Ok(Some(upto))) => {
                    let term = upto.leader_id.term;
                    let vacant_since = node.voters_followed(term).map(|theirs| theirs.max(heard));
                    return Ok(Confirmation { at, term, vacant_since });
                }
                Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => {
                    // A follower may have been slow; the next answer may come.
                    sleep(Duration::from_millis(5)).await;
                }
                Ok(Ok(None) | Err(_)) | Err(_) => return Err(CoordinatorError::NotLeader),
            }
        }
    }
}

/// Puts a command into the log, as the leader.
async fn put_here(engine: &Engine, command: &Command, within: Duration) -> Forwarded {
    let writing = engine.raft.client_write(Order(command.clone()));
    match timeout(within, writing).await {
        Err(_) => Forwarded::Unknown("no majority has it in time".into()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Forwarded::NotLeader,
        Ok(Err(error)) => Forwarded::Unknown(error.to_string()),
        Ok(Ok(written)) => match written.data {
            Some(outcome) => Forwarded::Done(outcome),
            None => Forwarded::Unknown("the log has something else in its place".into()),
        },
    }
}

impl Coordinator for Embedded {
    fn leave(&self) -> Boxed<'_, ()> {
        Box::pin(self.stop())
    }

    fn append(&self, command: Command) -> Boxed<'_, Result<Outcome, CoordinatorError>> {
        Box::pin(self.put(command))
    }

    fn watch(&self) -> watch::Receiver<Arc<Topology>> {
        self.node.applied.watch()
    }

    fn commands_since(&self, revision: Revision) -> Option<Vec<Command>> {
        self.node.applied.commands_since(revision)
    }

    fn role(&self) -> watch::Receiver<Role> {
        self.node.role.subscribe()
    }

    fn confirm_leadership(&self) -> Boxed<'_, Result<Confirmation, CoordinatorError>> {
        Box::pin(self.confirm())
    }

    fn health(&self) -> Health {
        let node = &self.node;
        let role = node.judge_role();
        let metrics = node.engine().map(|engine| engine.metrics());
        let mut health = Health {
            kind: "embedded",
            leads: matches!(role, Role::Leader { .. }),
            quorum_reachable: !matches!(role, Role::Follower { leader: None }),
            leader: match role {
                Role::Leader { .. } => Some(node.options.peer_address.clone()),
                Role::Follower { leader } => leader,
            },
            term: 0,
            keepers: Vec::new(),
            learners: Vec::new(),
            revision: node.applied.topology().revision().0,
            commands_applied: 0,
            changed_ms_ago: node.applied.changed().map(|ago| ago.as_millis() as u64),
            disk_error: node.disk_error(),
            waits_for: node.waits_for(),
            other_cluster: node.other_cluster(),
        };
        if let Some(metrics) = metrics {
            health.term = metrics.current_term;
            health.commands_applied = metrics.last_applied.map_or(0, |last| last.index);
            let membership = metrics.membership_config.membership();
            let address = |id| node.address(&metrics, id);
            health.keepers = membership.voter_ids().filter_map(address).collect();
            health.learners = membership.learner_ids().filter_map(address).collect();
            debug_assert!(!health.leads || metrics.state == ServerState::Leader || health.term > 0);
        }
        health
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Embedded").field("options", &self.node.options).finish_non_exhaustive()
    }
}
