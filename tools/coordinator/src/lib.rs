//! The one order in which the cluster's topology changes, and who leads.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | connections between nodes: who may speak, calls and answers |
//! | [`applied`] | the topology as applied here, and the commands that led to it |
//! | [`embedded`] | the order kept by 1, 3, 5 or 7 of the nodes, by Raft |
//! | [`etcd`] | the order kept in etcd |
//!
//! [`Coordinator`] is what the daemon sees of it. Everything runs on its one
//! control thread; what waits for the disk has a thread of its own.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use cluster::topology::Incarnation;
//! use coordinator::embedded::{Embedded, EmbeddedOptions};
//! use coordinator::wire::{Peers, Server, WireSettings};
//!
//! # async fn example(log: coordinator::Log) -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Arc::new(WireSettings::new("tide", "a", Incarnation(7), log));
//! let peers = Peers::new(settings.clone());
//! let others = ["10.0.0.2:11212".to_owned(), "10.0.0.3:11212".to_owned()];
//! let options = EmbeddedOptions::new("state".into(), "a", "10.0.0.1:11212", &others);
//! let coordinator = Embedded::start(options, peers).await?;
//! let server = Server::new(settings, vec![coordinator.handler()], None);
//! let listener = tokio::net::TcpListener::bind("10.0.0.1:11212").await?;
//! server.serve(listener).await;
//! # Ok(())
//! # }
//! ```

pub mod applied;
pub mod embedded;
pub mod etcd;
pub mod health;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use cluster::topology::{Revision, Topology};
use tokio::sync::watch;

pub use health::Health;
use wire::Boxed;

/// Takes lines for the operator.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// Longest command, encoded. etcd refuses requests of 1.5 MiB; a plan for 65,536
/// partitions has half a MiB.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// The one order in which commands change the topology.
pub trait Coordinator: Send + Sync {
    /// Puts the command into the order, on behalf of whoever leads, and tells
    /// what applying it did. An error comes within a bounded time.
    fn append(&self, command: Command) -> Boxed<'_, Result<Outcome, CoordinatorError>>;

    /// The topology as applied here. It may lag behind other nodes.
    fn watch(&self) -> watch::Receiver<Arc<Topology>>;

    /// The commands that changed the topology after `revision`, up to what is
    /// applied here; `None` if they are no longer known.
    fn commands_since(&self, revision: Revision) -> Option<Vec<Command>>;

    /// Who leads, as far as this node knows.
    fn role(&self) -> watch::Receiver<Role>;

    /// Asks a majority whether this node still leads.
    fn confirm_leadership(&self) -> Boxed<'_, Result<Confirmation, CoordinatorError>>;

    /// For the operator.
    fn health(&self) -> Health;

    /// Takes part no longer: the last call. A leader gives its place up if it can,
    /// so that others need not wait until its silence is long enough.
    fn leave(&self) -> Boxed<'_, ()>;
}

/// A majority said that this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Was taken before the majority was asked: at that time nobody else led.
    pub at: Instant,
    /// The term in which this node leads.
    pub term: u64,
    /// From then until `at` no majority confirmed any leader, neither this node nor one
    /// of an earlier term. `None` if that is not known.
    pub vacant_since: Option<Instant>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// This node.
    Leader {
        /// Grows from one leader to the next.
        term: u64,
    },
    /// Another one, or nobody.
    Follower {
        /// Where peers reach the leader, if there is one.
        leader: Option<String>,
    },
}

/// Why a command was not put into the order, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// Nobody led for so long; the command was not put into the order.
    NoLeader {
        /// How long we waited.
        waited: Duration,
        /// What was seen last.
        why: String,
    },
    /// This node does not lead (any more).
    NotLeader,
    /// The command may be in the order, or may still come into it. The topology
    /// will show it.
    Unknown {
        /// What happened.
        why: String,
    },
    /// The command was not put into the order.
    TooLong {
        /// Of the command.
        command_bytes: usize,
    },
    /// This node cannot take part.
    Disabled {
        /// What prevents it.
        why: String,
    },
}

impl fmt::Display for CoordinatorError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordinatorError::NoLeader { waited, why } => {
                write!(out, "no leader for {} ms: {why}", waited.as_millis())
            }
            CoordinatorError::NotLeader => write!(out, "this node does not lead the cluster"),
            CoordinatorError::Unknown { why } => {
                write!(out, "the change may have been made or not: {why}")
            }
            CoordinatorError::TooLong { command_bytes } => write!(
                out,
                "a change of {command_bytes} bytes is longer than {COMMAND_BYTES_MAX}: \
                 it must be cut into several"
            ),
            CoordinatorError::Disabled { why } => write!(out, "this node cannot take part: {why}"),
        }
    }
}

impl std::error::Error for CoordinatorError {}

/// As [`postcard`] writes it.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("these types have no part that cannot be written")
}

/// A number that no other process has drawn, as far as 64 bits go.
pub(crate) fn draw() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Its keys come from the operating system's generator.
    RandomState::new().hash_one(std::process::id())
}
