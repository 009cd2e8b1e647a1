//! A core's replication: what decides. See the [parent](super) for the whole.
//!
//! Here are the requests, what the node is told, and time. What travels over
//! links is in [`primary`](super::primary) and [`replica`](super::replica).

use super::asks::Asks;
use super::copies::Copies;
use super::garbage::Garbage;
use super::grants::Grants;
use super::invalidate::NO_PARTITION;
use super::lane::{Lane, Share, Stage, Wait};
use super::message;
use super::source::{Source, Uncertain};
use super::tickets::{Closed, Ticket, Tickets};
use super::wire::key_of;
use super::{Effect, Log, Lsn, Mode, Modes, Peer};
use crate::map::{Map, Set};
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::{Epoch, Incarnation, Member, NodeIndex, Owners, Revision, Topology};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::{HashSeed, KeyHash, Now, Shard};

/// A key whose state is to be written into the log once more.
pub(super) type Again = (KeyHash, Box<[u8]>);

/// Bounds, all of one core.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the log.
    pub log_bytes_max: usize,
    /// A replica that has not confirmed for so long is complained about.
    pub confirm_ms: u64,
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            log_bytes_max: 16 << 20,
            confirm_ms: 150,
            send_bytes_max: 256 << 10,
            fill_bytes_max: 64 << 10,
            fill_bytes_per_second: 200 << 20,
            purge_items_max: 512,
            read_nearest: true,
            copies_max: 16,
            copy_bytes_max: 256 << 10,
            copy_ms: 100,
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
    /// By number: nodes of this node's zone that are up; none if it has no zone.
    zone: Box<[bool]>,
    pub(super) settled: Revision,
    pub(super) lease_until: Millis,
    /// The clock when it was last read.
    pub(super) clock: Millis,
    /// Before that only primaries answer reads: an invalidation is under way.
    pub(super) near_from: Millis,
    /// Which ones are, and until when at most.
    pub(super) suspensions: Vec<(u64, Millis)>,
    /// Until when others may be that are not among these.
    pub(super) suspended_until: Millis,
    /// What the shard says was invalidated, as far as replicas were told.
    pub(super) invalidations: u64,
    /// Places in the log where something was invalidated that some replica may
    /// not know of, and since when.
    pub(super) untold: VecDeque<(Lsn, Millis)>,
    /// Partitions whose primary this node became by a revision that is not settled.
    gained: Map<Partition, Revision>,
    /// What lies here of these is not to be read, and is being dropped.
    pub(super) garbage: Garbage,
    /// By partition: something may lie here of it. Of others nothing needs to be
    /// dropped before they are filled, which takes a walk over all items.
    pub(super) stored: Vec<bool>,
    /// This node is a copy of these, and has nothing that a log could be built on,
    /// but for what these cores of the primary have filled since.
    pub(super) void: Map<Partition, Vec<Peer>>,
    /// Writes to these wait, for a hand-over. True: it was said that none is
    /// under way.
    paused: BTreeMap<Partition, bool>,
    pub(super) log: Log,
    /// Where the log stood when this node became primary.
    pub(super) promoted: Map<Partition, Lsn>,
    /// This node was primary in that epoch, and what it held then is as it was.
    pub(super) reigned: Map<Partition, Epoch>,
    pub(super) lanes: BTreeMap<Peer, Lane>,
    /// Replicas that are no copies any more, and may not know it.
    left: Map<Partition, Vec<Peer>>,
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
    fill_budget_at: Millis,
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
            zone: Box::default(),
            settled: Revision(0),
            lease_until: Millis(0),
            clock: Millis(0),
            near_from: Millis(0),
            suspensions: Vec::new(),
            suspended_until: Millis(0),
            invalidations: 0,
            untold: VecDeque::new(),
            gained: Map::default(),
            garbage: Garbage::default(),
            stored: Vec::new(),
            void: Map::default(),
            paused: BTreeMap::new(),
            log: Log::new(limits.log_bytes_max),
            promoted: Map::default(),
            reigned: Map::default(),
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

    // ---- Requests.

    /// Where a request for this key executes now.
    #[inline]
    pub fn route(&self, hash: KeyHash, access: Access, now: Millis) -> Route {
        let Some(me) = self.me else { return Route::Wait };
        let partition = self.topology.ring().of(hash);
        let owners = self.topology.owners(partition);
        let Some(primary) = owners.primary() else { return Route::Wait };
        let leased = now < self.lease_until;
        if primary == me {
            let taking_over = !self.gained.is_empty() && self.gained.contains_key(&partition)
                || self.garbage.contains(partition)
                || !self.refused.is_empty() && self.refused.contains_key(&partition)
                || access == Access::Write
                    && !self.paused.is_empty()
                    && self.paused.contains_key(&partition);
            return if leased && !taking_over { Route::Here } else { Route::Wait };
        }
        // What it has is everywhere, but for what came last.
        let near = access == Access::Read
            && self.limits.read_nearest
            && now >= self.near_from
            && leased
            && owners.is_in_sync(me)
            && !self.garbage.contains(partition)
            && !self.asks.contains(hash)
            && (self.unsettled.is_empty() || !self.unsettled.contains_key(&hash));
        if near {
            return Route::Here;
        }
        let close = |node: NodeIndex| self.zone[usize::from(node.0)];
        if access == Access::Read
            && self.limits.read_nearest
            && !self.zone.is_empty()
            && !close(primary)
            && let Some((node, _)) =
                owners.replicas().find(|(node, in_sync)| *in_sync && *node != me && close(*node))
        {
            return Route::At(node);
        }
        Route::At(primary)
    }

    /// Whether a key is read at its primary alone: its replicas may have less than
    /// was answered.
    #[inline]
    pub fn is_read_at_primary(&self, key: &[u8]) -> bool {
        !self.modes.is_all_sync() && self.modes.of(key) != Mode::Sync
    }

    /// Whether what this node has of a key is out of date although it leads: it did
    /// before, and a key without replication has changed elsewhere since.
    #[inline]
    pub fn is_out_of_date(&self, hash: KeyHash, key: &[u8]) -> bool {
        !self.garbage.is_empty()
            && self.garbage.contains_unreplicated(self.topology.ring().of(hash))
            && self.modes.of(key) == Mode::None
    }

    /// Whether the node may answer for what it holds.
    #[inline]
    pub fn is_leased(&self, now: Millis) -> bool {
        now < self.lease_until
    }

    /// A request has changed the item of a key, or may have; or it came across one
    /// that has expired. Then the replicas drop it before the answer, for by their
    /// clocks it may not have: what a primary has answered as gone is gone. (What the
    /// shard has freed before is a miss like any other. It keeps what has expired for
    /// longer than clocks should differ.) A reader at a replica has nobody to tell.
    /// `number` says in the completion which request it was.
    pub fn wrote(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        number: u32,
        shard: &mut Shard,
        now: Now,
        clock: Millis,
    ) {
        self.clock = clock;
        let partition = self.topology.ring().of(hash);
        if self.me.is_none() || self.topology.owners(partition).primary() != self.me {
            return self.reads(hash, number, clock);
        }
        match self.modes.of(key) {
            Mode::Async => self.append_aside(|own| own.append(key, hash, None, shard, now)),
            Mode::Sync | Mode::None => self.append(key, hash, Some(number), shard, now),
        }
    }

    /// Puts the state of a key into the log.
    fn append(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        number: Option<u32>,
        shard: &mut Shard,
        now: Now,
    ) {
        self.withdraw(hash);
        let mode = self.modes.of(key);
        if mode == Mode::None {
            return;
        }
        let revocations = self.revoke_for_write(hash);
        let partition = self.topology.ring().of(hash);
        let owners = *self.topology.owners(partition);
        let left = if self.left.is_empty() { None } else { self.left.get(&partition).cloned() };
        if owners.copies().len() < 2 && left.is_none() {
            if !revocations.is_empty() {
                // Only holders wait; they do so for a place in the log.
                let lsn = self.log.append(NO_PARTITION, hash, |_, _| {});
                self.wait_for_holders(&revocations, lsn);
                self.tickets.wrote(hash, lsn);
            }
            return;
        }
        let epoch = owners.epoch;
        let lsn = self.log.append(partition, hash, |lsn, out| {
            let start = out.len();
            message::begin_write(false, lsn, partition, epoch, out);
            if !shard.export(key, hash, now, out) {
                out.truncate(start);
                message::begin_write(true, lsn, partition, epoch, out);
                out.extend_from_slice(key);
            }
        });
        self.counters.logged += 1;
        let mut waits = self.wait_for_holders(&revocations, lsn);
        for (node, _) in owners.replicas() {
            waits |= self.wait_for(self.peer_for(node, hash), lsn, partition, number);
        }
        for peer in left.into_iter().flatten() {
            if peer == self.peer_for(peer.node, hash) {
                waits |= self.wait_for(peer, lsn, partition, number);
            }
        }
        if waits && mode == Mode::Sync {
            self.tickets.wrote(hash, lsn);
        }
    }

    /// Appends what no request's answer waits for.
    fn append_aside(&mut self, append: impl FnOnce(&mut Replicator)) {
        let aside = self.tickets.aside();
        append(self);
        self.tickets.resume(aside);
    }

    /// The current batch waits for a replica, if writes do.
    fn wait_for(
        &mut self,
        peer: Peer,
        lsn: Lsn,
        partition: Partition,
        number: Option<u32>,
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        if !lane.holds_up(partition, self.settled) {
            return false;
        }
        let (ticket, since) = (self.tickets.current(), self.clock);
        lane.waits.push_back(Wait { lsn, partition, ticket, number, since });
        self.tickets.wait();
        true
    }

    /// Puts the state of keys into the log that no request has changed. Nobody's
    /// answer waits for these, only later readers.
    pub(super) fn append_again(&mut self, mut keys: Vec<Again>, shard: &mut Shard, now: Now) {
        if keys.is_empty() {
            return;
        }
        keys.sort_unstable();
        keys.dedup();
        self.append_aside(|own| {
            for (hash, key) in keys {
                own.append(&key, hash, None, shard, now);
            }
        });
    }

    /// Whether the last write of a key is still on its way to the replicas.
    #[inline]
    pub fn is_pending(&self, hash: KeyHash) -> bool {
        self.tickets.pending(hash).is_some()
    }

    /// A request reads a key: it waits along with the key's last write, and if
    /// that one's outcome is unknown, what it read must not be told. `number`
    /// says in the completion which one it was.
    pub fn reads(&mut self, hash: KeyHash, number: u32, clock: Millis) {
        let Some(lsn) = self.tickets.pending(hash) else { return };
        self.clock = clock;
        let partition = self.topology.ring().of(hash);
        let (ticket, number) = (self.tickets.current(), Some(number));
        for lane in self.lanes.values_mut() {
            if lane.waits.iter().any(|wait| wait.lsn == lsn) {
                lane.waits.push_back(Wait { lsn, partition, ticket, number, since: clock });
                self.tickets.wait();
            }
        }
        self.read_waits_for_holders(lsn);
    }

    /// The requests since the last call are one batch. Its ticket, if its
    /// answers must wait for [`Effect::Completed`].
    pub fn close_batch(&mut self) -> Option<Ticket> {
        match self.tickets.close() {
            Closed::Free => None,
            Closed::Waits(ticket) => Some(ticket),
            Closed::Decided(ticket, unknown) => {
                self.effects.push(Effect::Completed { ticket, unknown });
                Some(ticket)
            }
        }
    }

    /// Batches that wait.
    pub fn batches_waiting(&self) -> usize {
        self.tickets.len()
    }

    /// The core of `node` that holds the key.
    pub fn peer_for(&self, node: NodeIndex, hash: KeyHash) -> Peer {
        let cores = self.topology.cores_of(node);
        Peer { node, core: hash.core(u32::from(cores)) as u16 }
    }

    // ---- What the node is told.

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
        self.release();
    }

    /// Writes to these partitions wait from now on, until the topology says
    /// that another node is primary, or [`Replicator::resume`].
    pub fn pause(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.paused.entry(*partition).or_insert(false);
            self.revoke_partition(*partition);
        }
    }

    /// The hand-over did not come about.
    pub fn resume(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.paused.remove(partition);
        }
    }

    /// A new topology. `me` is this node in it.
    pub fn set_topology(
        &mut self,
        topology: Arc<Topology>,
        me: Option<NodeIndex>,
        shard: &mut Shard,
        now: Now,
        clock: Millis,
    ) {
        if topology.revision() <= self.topology.revision() {
            return;
        }
        self.clock = clock;
        self.note_acts();
        let old = core::mem::replace(&mut self.topology, topology);
        let topology = Arc::clone(&self.topology);
        let before = core::mem::replace(&mut self.me, me);
        self.zone = same_zone(&topology, me);
        self.withdraw_all();
        self.drop_moved_copies(shard, now);
        self.revoke_lost();
        self.forget_past_lives(&old);
        self.stored.resize(topology.partitions().len(), false);
        // All that was before is settled, and this is one change.
        let one_step = self.settled >= old.revision()
            && topology.revision().0 == old.revision().0 + 1
            && self.modes.is_all_sync();
        let mut again = Vec::new();
        let mut led_by_others = Set::default();
        for (partition, owners) in topology.partitions() {
            let was = old.owners.get(partition.0 as usize).copied().unwrap_or(Owners::NONE);
            let held = before.and_then(|node| was.position(node));
            let holds = me.and_then(|node| owners.position(node));
            let began_anew = owners.born > was.epoch;
            // What is here of it, is it worth anything?
            let stored = &mut self.stored[partition.0 as usize];
            if held.is_some() && (holds.is_none() || began_anew) {
                if *stored {
                    self.garbage.add(partition);
                }
                self.reigned.remove(&partition);
            }
            *stored |= me.is_some_and(|me| owners.is_in_sync(me));
            let was_primary = held == Some(0);
            let is_primary = holds == Some(0);
            let other_epoch = owners.epoch != was.epoch;
            if held.is_some() && (holds.is_none() || other_epoch) {
                self.sources.values_mut().for_each(|source| source.uncover(partition));
            }
            if was_primary && (!is_primary || other_epoch) {
                if self.modes.has_none() {
                    self.garbage.add_unreplicated(partition);
                }
                let (mut keys, complete) = self.step_down(partition);
                if is_primary {
                    again.append(&mut keys);
                } else {
                    self.follow(partition, was.epoch, keys, complete);
                }
            }
            if is_primary {
                if !was_primary || other_epoch {
                    let at_once = one_step && !was_primary && keeps_all(&was, owners);
                    self.take_over(partition, topology.revision(), at_once);
                }
                self.share(partition, owners, &old);
            } else if let Some(me) = me.filter(|_| holds.is_some()) {
                if held.is_none() || began_anew {
                    self.void.insert(partition, Vec::new());
                }
                if other_epoch && owners.is_in_sync(me) {
                    led_by_others.insert(partition);
                }
            } else if !self.void.is_empty() {
                self.void.remove(&partition);
            }
        }
        self.sort_out(&led_by_others, &mut again);
        self.lanes.values_mut().for_each(|lane| lane.unfinished = true);
        self.append_again(again, shard, now);
        self.release();
        self.drop_lost_lanes();
    }

    /// Nodes that started anew have lost what they held.
    fn forget_past_lives(&mut self, old: &Topology) {
        let revision = self.topology.revision();
        for lane in self.lanes.values_mut() {
            let life = |topology: &Topology| {
                topology.member(lane.peer.node).map(|member| member.node.incarnation)
            };
            if life(old) != life(&self.topology) {
                lane.reset_link();
                lane.lose_all(revision);
                lane.acked = Lsn(0);
            }
        }
    }

    /// This node is not primary any more, or anew. What it wrote and nobody
    /// confirmed has an unknown outcome. The keys, and whether these are all.
    fn step_down(&mut self, partition: Partition) -> (Vec<Again>, bool) {
        self.gained.remove(&partition);
        self.paused.remove(&partition);
        self.promoted.remove(&partition);
        self.left.remove(&partition);
        let mut uncertain: Vec<Lsn> = Vec::new();
        let mut answers = Vec::new();
        uncertain.extend(self.refused.remove(&partition).into_iter().flatten());
        for lane in self.lanes.values_mut() {
            lane.shares.remove(&partition);
            lane.waits.retain(|wait| {
                if wait.partition != partition {
                    return true;
                }
                uncertain.push(wait.lsn);
                answers.push((wait.ticket, wait.number));
                false
            });
        }
        for (ticket, number) in answers {
            self.confirm(ticket, number);
        }
        uncertain.sort_unstable();
        uncertain.dedup();
        let count = uncertain.len();
        let entries = uncertain.into_iter().filter_map(|lsn| self.log.get(lsn));
        let keys = entries.filter_map(|entry| Some((entry.hash, Box::from(key_of(entry.bytes)?))));
        let keys: Vec<Again> = keys.collect();
        let complete = keys.len() == count;
        (keys, complete)
    }

    /// Another node is primary of what this one led until that epoch.
    fn follow(
        &mut self,
        partition: Partition,
        epoch: Epoch,
        uncertain: Vec<Again>,
        complete: bool,
    ) {
        for (hash, key) in uncertain {
            // Nobody reads it here until the new primary has said what it is. If
            // this node leads again before, it has nothing better.
            self.asks.add(partition, hash, key);
        }
        if complete && !self.garbage.contains(partition) {
            self.reigned.insert(partition, epoch);
        } else {
            self.reigned.remove(&partition);
            self.void.insert(partition, Vec::new());
        }
    }

    /// This node is primary from now on; `at_once`: it need not wait until that is
    /// settled.
    fn take_over(&mut self, partition: Partition, revision: Revision, at_once: bool) {
        if revision > self.settled && !at_once {
            self.gained.insert(partition, revision);
        }
        self.reigned.remove(&partition);
        self.void.remove(&partition);
        self.promoted.insert(partition, self.log.next());
    }

    /// Which replicas take part in a partition of which this node is primary.
    fn share(&mut self, partition: Partition, owners: &Owners, old: &Topology) {
        let (from, revision) = (self.log.next(), self.topology.revision());
        for (node, in_sync) in owners.replicas() {
            let fence = |topology: &Topology| topology.member(node).map(|member| member.fence);
            // Also what was said of it before comes too late now.
            let excluded = !in_sync && fence(old) != fence(&self.topology);
            // In sync with the primary before, it is so with its heir.
            let stage = if in_sync { Stage::InSync } else { Stage::Missing };
            for peer in self.peers_of(node) {
                let lane = self.lanes.entry(peer).or_insert_with(|| Lane::new(peer, from));
                let fresh = Share::new(stage, from, revision);
                let share = lane.shares.entry(partition).or_insert(fresh);
                if share.stage == Stage::Left {
                    *share = Share { out: share.out, ..fresh };
                }
                if in_sync && share.stage != Stage::InSync {
                    if !share.stage.is_required() {
                        // It was believed too early. Everybody waits for it now.
                        self.effects.push(Effect::Suspect(node));
                        share.hollow = share.stage != Stage::Behind;
                    }
                    share.stage = Stage::InSync;
                } else if excluded || !in_sync && share.stage == Stage::InSync {
                    share.exclude(revision);
                }
            }
        }
        for lane in self.lanes.values_mut() {
            if owners.position(lane.peer.node).is_some() {
                continue;
            }
            let Some(share) = lane.shares.get_mut(&partition) else { continue };
            share.exclude(revision);
            if share.out <= self.settled {
                lane.shares.remove(&partition);
            } else if share.stage != Stage::Left {
                share.stage = Stage::Left;
                self.left.entry(partition).or_default().push(lane.peer);
            }
        }
    }

    /// The cores of a node that hold keys of this core.
    fn peers_of(&self, node: NodeIndex) -> impl Iterator<Item = Peer> + use<> {
        let cores = self.topology.cores_of(node);
        let range = if cores == self.cores { self.core..self.core + 1 } else { 0..cores };
        range.map(move |core| Peer { node, core })
    }

    /// What primaries sent last may not have reached everybody. Where this node
    /// leads now, its word counts and all get it once more. Where another one
    /// does, that one is asked.
    fn sort_out(&mut self, led_by_others: &Set<Partition>, again: &mut Vec<Again>) {
        let topology = Arc::clone(&self.topology);
        let Some(me) = self.me else { return };
        let leads = |partition: Partition| topology.owners(partition).primary() == Some(me);
        let holds = |partition: Partition| topology.owners(partition).position(me).is_some();
        let void = self.asks.take(|partition, _| !holds(partition));
        drop(void);
        again.extend(self.asks.take(|partition, _| leads(partition)));
        self.asks.follow(&topology);
        for (from, entry) in self.forget_uncertain(|peer, entry| {
            let owners = topology.owners(entry.partition);
            let other = owners.primary() != Some(peer.node);
            !holds(entry.partition)
                || other && led_by_others.contains(&entry.partition)
                || leads(entry.partition)
        }) {
            let Uncertain { partition, hash, key, .. } = entry;
            if leads(partition) {
                again.push((hash, key));
            } else if holds(partition) && topology.owners(partition).primary() != Some(from.node) {
                self.asks.add(partition, hash, key);
            }
        }
        let seed = HashSeed::new(topology.seed());
        for lane in self.lanes.values_mut() {
            for at in (0..lane.questions.len()).rev() {
                if leads(lane.questions[at].0) {
                    let (_, key) = lane.questions.swap_remove(at);
                    again.push((KeyHash::of(&key, &seed), key));
                }
            }
        }
    }

    /// Takes out what is not uncertain any more, or is so in another way.
    pub(super) fn forget_uncertain(
        &mut self,
        is_out: impl Fn(Peer, &Uncertain) -> bool,
    ) -> Vec<(Peer, Uncertain)> {
        let mut taken = Vec::new();
        for (peer, source) in &mut self.sources {
            if !source.uncertain.iter().any(|entry| is_out(*peer, entry)) {
                continue;
            }
            for entry in core::mem::take(&mut source.uncertain) {
                if is_out(*peer, &entry) {
                    taken.push((*peer, entry));
                } else {
                    source.uncertain.push_back(entry);
                }
            }
        }
        taken.iter().for_each(|(_, entry)| self.settle_key(entry.hash));
        taken
    }

    /// One uncertain write less of a key.
    pub(super) fn settle_key(&mut self, hash: KeyHash) {
        if let Some(count) = self.unsettled.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                self.unsettled.remove(&hash);
            }
        }
    }

    /// Nodes that left, or of which nothing is wanted.
    pub(super) fn drop_lost_lanes(&mut self) {
        self.lanes
            .retain(|_, lane| !lane.shares.is_empty() || !lane.waits.is_empty() || lane.connected);
    }

    /// Lets go of waits for replicas that are out, once nobody can believe
    /// otherwise.
    fn release(&mut self) {
        let mut free = Vec::new();
        let settled = self.settled;
        for lane in self.lanes.values_mut() {
            let shares = &lane.shares;
            let holds_up = |wait: &Wait| {
                shares.get(&wait.partition).is_some_and(|share| share.holds_up(settled))
            };
            lane.waits.retain(|wait| {
                let kept = holds_up(wait);
                if !kept {
                    free.push(wait.ticket);
                }
                kept
            });
        }
        for ticket in free {
            self.confirm(ticket, None);
        }
        if !self.left.is_empty() {
            for lane in self.lanes.values_mut() {
                lane.shares.retain(|_, share| share.stage != Stage::Left || share.out > settled);
            }
            let lanes = &self.lanes;
            self.left.retain(|partition, peers| {
                peers.retain(|peer| {
                    let share = lanes.get(peer).and_then(|lane| lane.shares.get(partition));
                    share.is_some_and(|share| share.stage == Stage::Left)
                });
                !peers.is_empty()
            });
        }
    }

    pub(super) fn confirm(&mut self, ticket: Ticket, unknown: Option<u32>) {
        self.counters.unknown += u64::from(unknown.is_some());
        if let Some(unknown) = self.tickets.confirm(ticket, unknown) {
            self.effects.push(Effect::Completed { ticket, unknown });
        }
    }

    // ---- Time.

    /// Complains about replicas that do not confirm, and reports pauses. Call
    /// it every few milliseconds.
    pub fn tick(&mut self, clock: Millis) {
        self.clock = clock;
        let untold = self.untold_late();
        self.expire_grants(clock);
        let (settled_lsn, revision) = (self.settled_lsn(), self.topology.revision());
        for lane in self.lanes.values_mut() {
            lane.tell_settled = lane.held >= revision && settled_lsn > lane.settled;
            let required = |partition: &Partition| {
                lane.shares.get(partition).is_some_and(|share| share.stage.is_required())
            };
            let old = |wait: &Wait| clock.since(wait.since) >= self.limits.confirm_ms;
            let late = if lane.broken || untold.contains(&lane.peer) {
                lane.shares.values().any(|share| share.stage.is_required())
            } else {
                lane.waits.front().is_some_and(old)
                    && lane.waits.iter().any(|wait| old(wait) && required(&wait.partition))
            };
            let said =
                lane.suspected.is_some_and(|at| clock.since(at) < self.limits.confirm_ms.max(1));
            if late && !said {
                lane.suspected = Some(clock);
                self.effects.push(Effect::Suspect(lane.peer.node));
            }
        }
        self.mend();
        let (lanes, grants) = (&self.lanes, &self.grants);
        for (partition, said) in &mut self.paused {
            let idle = || {
                !grants.covers(*partition)
                    && lanes
                        .values()
                        .all(|lane| lane.waits.iter().all(|wait| wait.partition != *partition))
            };
            if !*said && idle() {
                *said = true;
                self.effects.push(Effect::Paused(*partition));
            }
        }
        // The first time, the clock says how long the machine has been up.
        let elapsed_ms = clock.since(self.fill_budget_at).min(1000);
        let rate = self.limits.fill_bytes_per_second.min(i64::MAX as u64 / 1000) as i64;
        let earned = rate * elapsed_ms as i64 / 1000;
        if earned > 0 {
            self.fill_budget_at = clock;
            self.fill_budget = (self.fill_budget + earned).min(rate / 10 + 1);
        }
    }

    /// A lane whose replica lacks what the log has lost begins anew, once the
    /// replica is in no in-sync set.
    fn mend(&mut self) {
        let (next, settled, revision) = (self.log.next(), self.settled, self.topology.revision());
        for lane in self.lanes.values_mut().filter(|lane| lane.broken) {
            if lane.waits.is_empty() && !lane.shares.values().any(|share| share.holds_up(settled)) {
                lane.broken = false;
                lane.lose_all(revision);
                lane.cursor = next;
            }
        }
    }

    /// Tells replicas of a flush whose time has come, grants copies, and drops a
    /// little of what the node no longer holds. To be called after
    /// [`Replicator::tick`]. True: there is more.
    pub fn upkeep(&mut self, shard: &mut Shard, now: Now) -> bool {
        self.look_for_flush(shard);
        self.answer_questions(shard, now);
        if self.garbage.is_empty() {
            return false;
        }
        let (ring, items_max) = (self.topology.ring(), self.limits.purge_items_max);
        let (topology, me, stored) = (&self.topology, self.me, &mut self.stored);
        let mut is_empty = |partition: Partition| {
            let holds = me.is_some_and(|me| topology.owners(partition).position(me).is_some());
            stored[partition.0 as usize] = holds;
        };
        let modes = &self.modes;
        let dropped = self.garbage.drop_next(ring, modes, items_max, shard, now, &mut is_empty);
        self.counters.purged += dropped as u64;
        !self.garbage.is_empty()
    }
}

/// Whether everybody who had a part in the answers that were given before still has
/// one. Then nobody answers what a new primary has replaced: its writes wait for all
/// of these, the past primary included, which confirms nothing before it knows that
/// it is not that any more; and none of its own is acknowledged without the new one.
fn keeps_all(was: &Owners, is: &Owners) -> bool {
    was.in_sync() > 0
        && was.copies().iter().all(|node| !was.is_in_sync(*node) || is.is_in_sync(*node))
}

/// By number, whether a node is up and in the zone of `me`; nothing if that has none.
fn same_zone(topology: &Topology, me: Option<NodeIndex>) -> Box<[bool]> {
    let own = me.and_then(|me| topology.member(me)).map_or("", |member| &member.node.zone);
    if own.is_empty() {
        return Box::default();
    }
    let is_close = |member: &Option<Member>| {
        member.as_ref().is_some_and(|member| member.up && member.node.zone == own)
    };
    topology.members().iter().map(is_close).collect()
}
