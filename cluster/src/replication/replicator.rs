//! A core's replication: what decides. See the [parent](super) for the whole.
//!
//! Here are what it knows, and what the node tells it but for topologies: those are
//! in [`roles`](super::roles), [`requests`](super::requests) and time
//! ([`upkeep`](super::upkeep)) beside. What travels over links is in
//! [`primary`](super::primary) and [`replica`](super::replica).

use super::asks::Asks;
use super::copies::Copies;
use super::garbage::Garbage;
use super::grants::Grants;
use super::lane::Lane;
use super::source::Source;
use super::tickets::Tickets;
use super::{Effect, Log, Lsn, Modes, Peer};
use crate::map::{Map, Set};
use crate::ring::Partition;
use crate::spread::PATIENCE_MS;
use crate::time::Millis;
use crate::topology::{Epoch, Incarnation, NodeIndex, Revision, Topology};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::KeyHash;

/// A key whose state is to be written into the log once more.
pub(super) type Again = (KeyHash, Box<[u8]>);

/// Bounds, all of one core.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the log.
    pub log_bytes_max: usize,
    /// A replica that has not confirmed for so long is complained about.
    pub confirm_ms: u64,
    /// In-sync copies that a write needs, the primary's included.
    pub min_copies: u8,
    /// With more than one: a write that replicas have not confirmed for so long is
    /// answered as of unknown outcome.
    pub answer_ms: u64,
    /// Bytes handed to a link at once.
    pub send_bytes_max: usize,
    /// Of these, bytes of a fill.
    pub fill_bytes_max: usize,
    /// Bytes of fills in a second, to all replicas together.
    pub fill_bytes_per_second: u64,
    /// Items looked at in one step of dropping what the node no longer holds.
    pub purge_items_max: usize,
    /// Reads of partitions that the node holds in sync are answered here.
    pub read_nearest: bool,
    /// Hot keys of other nodes that copies are held of.
    pub copies_max: usize,
    /// Longest value of such a copy, in bytes.
    pub copy_bytes_max: usize,
    /// How long a copy is granted to another node, unless it asks again.
    pub copy_ms: u64,
    /// How long an invalidation may take.
    pub invalidation_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            log_bytes_max: 16 << 20,
            confirm_ms: 150,
            min_copies: 1,
            answer_ms: 2_000,
            send_bytes_max: 256 << 10,
            fill_bytes_max: 64 << 10,
            fill_bytes_per_second: 200 << 20,
            purge_items_max: 512,
            read_nearest: true,
            copies_max: 16,
            copy_bytes_max: 256 << 10,
            copy_ms: 100,
            invalidation_ms: PATIENCE_MS,
        }
    }
}

/// What a request does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It changes nothing.
    Read,
    /// It may change it.
    Write,
}

/// Where a request executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On this node.
    Here,
    /// At the primary, or for a read at a replica in this node's zone, if that is in
    /// sync; should it not answer, a write's place is the right one.
    At(NodeIndex),
    /// Nowhere yet: ask again in a moment.
    Wait,
}

/// What happened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Writes put into the log.
    pub logged: u64,
    /// Writes taken from primaries.
    pub applied: u64,
    /// Writes refused as from a past owner.
    pub fenced: u64,
    /// Records that did not fit into memory here.
    pub unstored: u64,
    /// Writes whose outcome nobody knows.
    pub unknown: u64,
    /// Fills begun.
    pub fills: u64,
    /// Fills that went on where a link broke.
    pub fills_resumed: u64,
    /// Items sent in fills.
    pub filled_items: u64,
    /// Replicas that went on from the log.
    pub resumed: u64,
    /// Items dropped because the node no longer holds their partition.
    pub purged: u64,
    /// Times that a copy of a key was granted to another node, again included.
    pub granted: u64,
    /// Writes before which granted copies were taken back.
    pub revoked: u64,
    /// Copies of other nodes' keys that came here.
    pub copied: u64,
    /// Reads that were answered from these.
    pub copy_reads: u64,
}

/// See the [parent](super).
#[derive(Debug)]
pub struct Replicator {
    pub(super) limits: Limits,
    pub(super) modes: Modes,
    pub(super) incarnation: Incarnation,
    pub(super) core: u16,
    pub(super) cores: u16,
    pub(super) me: Option<NodeIndex>,
    pub(super) topology: Arc<Topology>,
    /// Partitions that this node has in sync.
    pub(super) in_sync: usize,
    /// By number: nodes of this node's zone that are up; none if it has no zone.
    pub(super) zone: Box<[bool]>,
    pub(super) settled: Revision,
    pub(super) lease_until: Millis,
    /// The clock when it was last read.
    pub(super) clock: Millis,
    /// A clock that stands still while this core does not run: confirmations that came
    /// meanwhile lie unread. How long a replica has not confirmed is counted by it.
    pub(super) awake: Millis,
    pub(super) ticked_at: Millis,
    /// Before that only primaries answer reads: an invalidation is under way.
    pub(super) near_from: Millis,
    /// Invalidations under way, and until when at most.
    pub(super) suspensions: Vec<(u64, Millis)>,
    /// Until when others may be that are not among these.
    pub(super) suspended_until: Millis,
    /// Before that this node answers nothing as a replica.
    pub(super) replica_from: Millis,
    /// What the shard says was invalidated, as far as replicas were told.
    pub(super) invalidations: u64,
    /// Places in the log where something was invalidated that some replica may
    /// not know of, and since when.
    pub(super) untold: VecDeque<(Lsn, Millis)>,
    /// Partitions whose primary this node became by a revision that is not settled.
    pub(super) gained: Map<Partition, Revision>,
    /// Partitions whose owners changed by a revision that is not settled.
    pub(super) changed: Map<Partition, Revision>,
    /// Before that more may have changed than this node has seen: it got a topology
    /// that was not the next one.
    pub(super) steps_unknown_until: Revision,
    /// What lies here of these is not to be read, and is being dropped.
    pub(super) garbage: Garbage,
    /// By partition: something may lie here of it. Of others nothing needs to be
    /// dropped before they are filled, which takes a walk over all items.
    pub(super) stored: Vec<bool>,
    /// This node is a copy of these, and has nothing that a log could be built on,
    /// but for what these cores of the primary have filled since.
    pub(super) void: Map<Partition, Vec<Peer>>,
    /// Writes to these wait, for a hand-over.
    pub(super) paused: Set<Partition>,
    /// Of these, those of which it was not said yet that no write is under way.
    pub(super) draining: Vec<Partition>,
    pub(super) log: Log,
    /// Where the log stood when this node became primary.
    pub(super) promoted: Map<Partition, Lsn>,
    /// This node was primary in that epoch, and what it held then is as it was.
    pub(super) reigned: Map<Partition, Epoch>,
    /// Of these, those that this node has not in sync any more: whoever leads them may
    /// not know what it has.
    pub(super) reigned_out: Set<Partition>,
    pub(super) lanes: BTreeMap<Peer, Lane>,
    /// Replicas that are no copies any more, and may not know it.
    pub(super) left: Map<Partition, Vec<Peer>>,
    /// Writes that a replica refused, as it knows a later owner. This core has
    /// them, and who else does is not known: the partition is not served any more.
    pub(super) refused: BTreeMap<Partition, Vec<Lsn>>,
    pub(super) sources: BTreeMap<Peer, Source>,
    /// Writes from primaries that are perhaps not everywhere, by key.
    pub(super) unsettled: Map<KeyHash, u32>,
    pub(super) asks: Asks,
    pub(super) tickets: Tickets,
    pub(super) copies: Copies,
    pub(super) grants: Grants,
    /// Keys that other cores of this node answer as this one has told them.
    pub(super) shown: Vec<KeyHash>,
    /// Those that they must not any more.
    pub(super) withdrawn: Vec<KeyHash>,
    /// Bytes that fills may send now. The last item may exceed it: then it is less
    /// than nothing.
    pub(super) fill_budget: i64,
    pub(super) fill_budget_at: Millis,
    pub(super) effects: Vec<Effect>,
    pub(super) counters: Counters,
}

impl Replicator {
    /// The replicator of a core that knows of no cluster yet.
    pub fn new(limits: Limits, incarnation: Incarnation, core: u16, cores: u16) -> Replicator {
        Replicator {
            limits,
            modes: Modes::default(),
            incarnation,
            core,
            cores,
            me: None,
            topology: Arc::new(Topology::default()),
            in_sync: 0,
            zone: Box::default(),
            settled: Revision(0),
            lease_until: Millis(0),
            clock: Millis(0),
            awake: Millis(0),
            ticked_at: Millis(0),
            near_from: Millis(0),
            suspensions: Vec::new(),
            suspended_until: Millis(0),
            replica_from: Millis(0),
            invalidations: 0,
            untold: VecDeque::new(),
            gained: Map::default(),
            changed: Map::default(),
            steps_unknown_until: Revision(0),
            garbage: Garbage::default(),
            stored: Vec::new(),
            void: Map::default(),
            paused: Set::default(),
            draining: Vec::new(),
            log: Log::new(limits.log_bytes_max),
            promoted: Map::default(),
            reigned: Map::default(),
            reigned_out: Set::default(),
            lanes: BTreeMap::new(),
            left: Map::default(),
            refused: BTreeMap::new(),
            sources: BTreeMap::new(),
            unsettled: Map::default(),
            asks: Asks::default(),
            tickets: Tickets::default(),
            copies: Copies::default(),
            grants: Grants::default(),
            shown: Vec::new(),
            withdrawn: Vec::new(),
            fill_budget: 0,
            fill_budget_at: Millis(0),
            effects: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// How writes are replicated; to be said before the first request.
    pub fn set_modes(&mut self, modes: Modes) {
        self.modes = modes;
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// This node in the topology it acts by.
    pub fn me(&self) -> Option<NodeIndex> {
        self.me
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// Confirmations that answers wait for.
    pub fn unconfirmed(&self) -> usize {
        self.lanes.values().map(|lane| lane.waits.len()).sum()
    }

    /// Writes taken from primaries that are perhaps not everywhere; as many as
    /// their logs hold at most.
    pub fn uncertain(&self) -> usize {
        self.sources.values().map(|source| source.uncertain.len()).sum()
    }

    /// The topology it acts by.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// What must happen outside.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Whether [`Replicator::effects`] has something.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// The node's lease runs until then, by its own clock.
    pub fn set_lease(&mut self, until: Millis) {
        self.lease_until = until;
    }

    /// Nobody acts by a revision before this one any more.
    pub fn set_settled(&mut self, settled: Revision) {
        if settled <= self.settled {
            return;
        }
        self.settled = settled;
        self.gained.retain(|_, revision| *revision > settled);
        self.changed.retain(|_, revision| *revision > settled);
        self.release();
    }

    /// Writes to these partitions wait from now on, until the topology says
    /// that another node is primary, or [`Replicator::resume`].
    pub fn pause(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if self.paused.insert(*partition) {
                self.draining.push(*partition);
            }
            self.revoke_partition(*partition);
        }
        self.report_paused();
    }

    /// The hand-over did not come about.
    pub fn resume(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.paused.remove(partition);
        }
        self.draining.retain(|partition| self.paused.contains(partition));
    }
}
