//! Requests in a cluster: which node executes them, and when they are answered.
//!
//! A node of a cluster decides about a request on the core that holds the key's
//! hash, whichever node holds the key. Every request that does not execute at
//! once on its connection's core travels to that core in a [batch](crate::hop),
//! be it the connection's own; there it
//!
//! - executes, and its answer waits until the replicas have what it changed, or
//! - is passed on to the node that holds the key, over a [link] between the
//!   cores of the two nodes, or
//! - waits, while a partition changes hands.
//!
//! The batch goes home when all of its requests are answered.
//!
//! Who holds what, and when a write is safe, is not decided here but by a
//! [`Peering`], which this crate only asks. It lives on the core, like the shard.

pub mod link;
mod parked;
mod requests;
pub mod waits;
pub mod wire;

pub use parked::{Finished, Home};
pub use requests::Peers;

use engine::{Failure, KeyHash, Now, Shard};
use std::fmt::Debug;

/// One core of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The node's number.
    pub node: u16,
    /// Its core.
    pub core: u16,
}

/// Where a request executes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Here.
    Here,
    /// On that core of another node.
    At(PeerId),
    /// Nowhere yet; ask again in a moment.
    Wait,
    /// Nowhere, and not soon: why.
    Refuse(Failure),
}

/// Bounds of what a core does for the cluster.
#[derive(Clone, Copy, Debug)]
pub struct PeeringLimits {
    /// How long a request may wait for a node that executes it, in milliseconds.
    pub patience_ms: u64,
    /// Bytes of requests that may wait for one link.
    pub link_bytes_max: usize,
    /// Longest frame that is taken from a link.
    pub frame_bytes_max: usize,
}

impl Default for PeeringLimits {
    fn default() -> PeeringLimits {
        PeeringLimits { patience_ms: 2_000, link_bytes_max: 4 << 20, frame_bytes_max: 64 << 20 }
    }
}

/// What decides, on each core. See the module's text.
pub trait Peering: Debug + Send {
    /// Where a request for the key executes now. `changes`: it may change it, or
    /// must see what is only known where it may be changed.
    fn route(&self, hash: KeyHash, changes: bool) -> Route;

    /// Whether even a read of the key executes where it may be changed.
    fn is_read_at_primary(&self, key: &[u8]) -> bool;

    /// Whether enough copies of the key are in sync for a change of it. One that has too
    /// few waits.
    fn has_copies_for(&self, key: &[u8], hash: KeyHash) -> bool;

    /// Whether what is here of the key is out of date, for a moment.
    fn is_out_of_date(&self, hash: KeyHash, key: &[u8]) -> bool;

    /// Whether the last change of the key is still on its way to the replicas.
    fn is_pending(&self, hash: KeyHash) -> bool;

    /// Whether this core may answer a read of a key that another node or another
    /// core of this node owns: it has a copy, which is there and which the read does
    /// not change. `core`: which one holds the hash on this node.
    fn has_copy(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        core: u32,
        shard: &mut Shard,
        now: Now,
    ) -> bool;

    /// A read is passed on to the node that owns the key.
    fn passed_on(&mut self, key: &[u8], hash: KeyHash);

    /// A request has changed the key, or come across an item that has expired, as a
    /// read does at a replica, too. `number` names it in the completion.
    fn wrote(&mut self, key: &[u8], hash: KeyHash, number: u32, shard: &mut Shard, now: Now);

    /// A request has read a key that is pending: its answer waits along. `number`
    /// names it in the completion: if nobody knows whether the change will last,
    /// nobody may be told of it.
    fn reads(&mut self, hash: KeyHash, number: u32);

    /// The requests since the last call are complete. A ticket if answers wait.
    fn close_batch(&mut self) -> Option<u64>;

    /// Tickets that are done, each with the numbers of those changes of which
    /// nobody knows whether they will last.
    fn completed(&mut self) -> Option<(u64, Vec<u32>)>;

    /// A turn of the core's loop begins: reads the clock.
    fn begin_turn(&mut self);

    /// Requests came from elsewhere, perhaps long after the turn began: reads the
    /// clock again. If the process sleeps after this, what it answers then was so
    /// when they were already on their way.
    fn read_clock(&mut self);

    /// Whether what was executed in this turn may be answered. It may not if
    /// the process slept through the end of the node's lease meanwhile.
    fn may_answer(&mut self) -> bool;

    /// A link of this core to a peer is there.
    fn connected(&mut self, peer: PeerId, out: &mut Vec<u8>);

    /// It is gone.
    fn disconnected(&mut self, peer: PeerId);

    /// What goes out to a peer now, over this core's link. True: there is more.
    fn poll(&mut self, peer: PeerId, shard: &Shard, now: Now, out: &mut Vec<u8>) -> bool;

    /// What the peer sent back over that link. False: it makes no sense.
    fn replied(&mut self, peer: PeerId, bytes: &[u8], shard: &mut Shard, now: Now) -> bool;

    /// What a peer sent over its link to this core. How much of it is done with,
    /// the rest will be offered again; `None`: it makes no sense.
    fn receive(
        &mut self,
        peer: PeerId,
        bytes: &[u8],
        shard: &mut Shard,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Option<usize>;

    /// What goes back over that link without being asked.
    fn poll_back(&mut self, peer: PeerId, out: &mut Vec<u8>);

    /// Every few milliseconds. True: there is more to do at once.
    fn upkeep(&mut self, shard: &mut Shard, now: Now) -> bool;

    /// Whether [`Peering::route`] may say something else than when this was last asked:
    /// then requests that wait are tried again.
    fn has_new_routes(&mut self) -> bool;

    /// Whether the link to a peer is kept: one to a node that is gone is closed.
    fn is_wanted(&self, peer: PeerId) -> bool;

    /// To find the implementation behind the trait.
    fn as_any(&mut self) -> &mut dyn std::any::Any;
}
