//! Replication of one core's part of the keys, as a state machine.
//!
//! Every data core of every node has a [`Replicator`]. As a primary it appends
//! each write to its [`log`] and serves every replica from there; as a replica
//! it stores what primaries send. It sends nothing itself: the bytes for a link
//! are asked of it ([`Replicator::poll`]), and what must happen beyond that
//! comes out as [`Effect`]s, so that a node and the simulator run this very code.
//!
//! What travels is state, never requests: after a request has changed a key, the
//! whole item (or that there is none) is what the replicas get. So an increment,
//! a lease or a touch is replicated like a set, and applying twice does no harm.
//!
//! ```text
//!  client      primary's core                     replica's core
//!    | set k     |                                   |
//!    |---------->| store, append to the log: lsn 7   |
//!    |           |-- write 7 (epoch 3, item k) ----->| epoch is mine? store
//!    |           |-- mark 7 ------------------------>|
//!    |           |<------------------------- ack 7 --|
//!    |<--STORED--|                                   |
//! ```
//!
//! - A write is answered when every in-sync replica has it. Reads of its key wait
//!   until then: nobody sees what could still be lost.
//! - A primary acts only under its node's lease, and as a new one only when the
//!   revision that made it so is settled, or if all who were in sync still are: its
//!   writes wait for them, and theirs are refused.
//! - A replica takes writes of its own epoch alone ([`Message::Fenced`]).
//! - A replica that comes back goes on where it was if the log reaches back so
//!   far. Else it gets a *fill*: a walk over the shard, with the log's entries
//!   in between, then the log alone. A fill whose link breaks goes on over the
//!   next one.
//! - What is invalidated is told to the replicas in front of the log's next entry.
//! - A key that is hot at a node without a copy of its partition is granted to it
//!   for a moment ([`copies`], [`grants`]); its writes wait until that is taken back.
//! - What was written and not acknowledged when a primary changed is *uncertain*:
//!   the new primary's word counts, and those who may differ ask for it.
//!
//! - That is for keys replicated [synchronously](Mode::Sync), which all are unless
//!   their namespace is said to be something else ([`Modes`]). An asynchronous
//!   write goes the same way, but nobody waits for it. Keys without replication
//!   are neither logged nor filled; a node that ceases to be the primary drops
//!   them, for what it has of them is out of date when it leads again.
//!
//! The shape is that of PacificA (Lin et al., Microsoft Research TR-2008-25):
//! primary-backup data, its configuration kept by consensus elsewhere.

mod asks;
mod copies;
mod garbage;
mod grants;
mod invalidate;
mod lane;
mod log;
mod message;
mod modes;
mod primary;
mod replica;
mod replicator;
mod requests;
mod roles;
mod shares;
mod short;
mod source;
mod tickets;
mod upkeep;
mod wire;

pub use copies::{CopyState, Denied};
pub use log::{Entry, Log, Lsn};
pub use message::{Change, Message};
pub use modes::{Mode, Modes};
pub use replicator::{Access, Counters, Limits, Replicator, Route};
pub use tickets::Ticket;

use crate::ring::Partition;
use crate::topology::{Epoch, NodeIndex};
use alloc::vec::Vec;

/// One core of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The node.
    pub node: NodeIndex,
    /// Its core.
    pub core: u16,
}

/// What must happen outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Every write of the ticket is where it must be, but for those with these
    /// numbers: of them nobody knows whether they will survive.
    Completed {
        /// Which.
        ticket: Ticket,
        /// Numbers given to [`Replicator::wrote`], in no order.
        unknown: Vec<u32>,
    },
    /// A replica does not confirm in time: ask for its exclusion.
    Suspect {
        /// The replica.
        node: NodeIndex,
        /// It cannot catch up while it counts as in sync: it lost what it had, or the
        /// log no longer reaches back to what it lacks.
        cannot_follow: bool,
    },
    /// A replica has everything that this core has for these partitions.
    CaughtUp {
        /// The replica.
        node: NodeIndex,
        /// Its core.
        core: u16,
        /// The partitions.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// No write of these partitions, which were [paused](Replicator::pause), is under way.
    Paused(Vec<Partition>),
    /// What a link brought makes no sense: close it.
    Garbage(Peer),
}
