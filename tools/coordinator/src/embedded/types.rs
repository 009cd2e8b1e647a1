//! What keepers store, and what they say to each other.

use std::collections::BTreeMap;
use std::fmt;

use cluster::change::{Command, Outcome};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The types of the keepers' Raft.
    pub(super) Types:
        D = Order,
        R = Option<Outcome>,
        NodeId = u64,
        Node = Keeper,
        SnapshotData = Vec<u8>,
);

pub(super) use crate::encode;

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Membership = openraft::StoredMembership<u64, Keeper>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Keeper>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type Metrics = openraft::RaftMetrics<u64, Keeper>;

/// A command on its way through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order(pub Command);

impl fmt::Display for Order {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

/// A node as the others know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub address: String,
    /// Counts up: of two with the same name the later one is the living one.
    pub enrolled: u64,
}

/// A cluster that this node begins. It is written down first, so that a second
/// attempt begins the same one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Beginning {
    pub cluster: u64,
    pub keepers: BTreeMap<u64, Keeper>,
}

/// Numbers of clusters that this one took the place of, latest first.
pub(super) type Former = Vec<u64>;

/// Kinds of calls between coordinators.
pub(super) mod kind {
    pub const FIRST: u8 = 0xc0;
    /// Who are you, and do you belong to a cluster? [`super::Introduce`]
    pub const WHO: u8 = 0xc0;
    /// Take me in, or note my address. [`super::Introduce`]
    pub const ENROL: u8 = 0xc1;
    /// Put a command into the order. [`super::Forward`]
    pub const APPEND: u8 = 0xc2;
    /// Would you vote for me? [`super::Envelope`] of a [`super::Ballot`]
    pub const BALLOT: u8 = 0xc3;
    /// Raft's own.
    pub const RAFT_APPEND: u8 = 0xc4;
    pub const RAFT_VOTE: u8 = 0xc5;
    pub const RAFT_SNAPSHOT: u8 = 0xc6;
    pub const LAST: u8 = 0xcf;
}

/// A node speaks of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Introduce {
    pub id: u64,
    pub name: String,
    pub address: String,
    /// The cluster it belongs to; 0 for none.
    pub cluster: u64,
}

/// Answer to [`kind::WHO`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    pub node: Introduce,
    /// Where it believes the leader to be.
    pub leader: Option<String>,
}

/// Answer to [`kind::ENROL`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Enrolled {
    Yes,
    /// Another one leads.
    Ask(Option<String>),
    /// Something else is being changed; or it cannot be.
    No(String),
    /// The cluster that the newcomer remembers was begun anew by its operator: what it
    /// remembers counts no more.
    BegunAnew,
}

/// A command for the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Forward {
    pub command: Command,
    pub within_ms: u32,
}

/// Answer to [`kind::APPEND`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Forwarded {
    Done(Outcome),
    /// It was not put into the order.
    NotLeader,
    /// It may have been.
    Unknown(String),
}

/// Around everything of Raft: a node that has lost its disk, or belongs to
/// another cluster, must not answer in the name of the one that was meant.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    pub cluster: u64,
    pub to: u64,
    /// The sender leads, and a majority knows it. One that was started again as what it
    /// was also sends, but is nobody's leader before a majority answers.
    pub leads: bool,
    pub content: T,
}

/// Would the voter vote for the sender?
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ballot {
    /// The end of the sender's log; none from an older node, which does not say it.
    pub last: Option<LogId>,
}

/// Answer to [`kind::RAFT_VOTE`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Voted {
    pub answer: openraft::raft::VoteResponse<u64>,
    /// For how long this voter had not followed any leader, by its clock.
    pub silence_us: Option<u64>,
}

/// A whole snapshot on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub bytes: Vec<u8>,
}
