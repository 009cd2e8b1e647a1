//! A core's replication: what decides. See the [parent](super) for the whole.

use super::lane::{Fill, Lane, Share, Stage, Wait};
use super::message::{self, Change, Message};
use super::source::Source;
use super::tickets::{Ticket, Tickets};
use super::{Effect, Log, Lsn, Peer};
use crate::map::{Map, Set};
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::{Epoch, Incarnation, NodeIndex, Revision, Topology};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::{KeyHash, Now, ScanCursor, ScanLimits, Shard, snapshot};

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
    /// At the primary.
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
    /// Items sent in fills.
    pub filled_items: u64,
    /// Replicas that went on from the log.
    pub resumed: u64,
    /// Items dropped because the node no longer holds their partition.
    pub purged: u64,
}

/// See the [parent](super).
#[derive(Debug)]
pub struct Replicator {
    limits: Limits,
    incarnation: Incarnation,
    core: u16,
    cores: u16,
    me: Option<NodeIndex>,
    topology: Arc<Topology>,
    settled: Revision,
    lease_until: Millis,
    /// Before that only primaries answer reads: an invalidation is under way.
    near_from: Millis,
    /// Partitions whose primary this node became by a revision that is not settled.
    gained: Map<Partition, Revision>,
    /// What lies here of these is not to be read, and is being dropped.
    garbage: Set<Partition>,
    purge: Option<(ScanCursor, Set<Partition>)>,
    /// Writes to these wait, for a hand-over. True: it was said that none is
    /// under way.
    paused: BTreeMap<Partition, bool>,
    log: Log,
    /// Where the log stood when this node became primary.
    promoted: Map<Partition, Lsn>,
    /// This node was primary in that epoch, and what it held then is as it was.
    reigned: Map<Partition, Epoch>,
    lanes: BTreeMap<Peer, Lane>,
    sources: BTreeMap<Peer, Source>,
    /// Keys to ask the primary about, and those already asked for.
    asks: Vec<(Partition, Box<[u8]>)>,
    asked: Set<KeyHash>,
    tickets: Tickets,
    fill_budget: u64,
    fill_budget_at: Millis,
    effects: Vec<Effect>,
    counters: Counters,
}

impl Replicator {
    /// The replicator of a core that knows of no cluster yet.
    pub fn new(limits: Limits, incarnation: Incarnation, core: u16, cores: u16) -> Replicator {
        Replicator {
            limits,
            incarnation,
            core,
            cores,
            me: None,
            topology: Arc::new(Topology::default()),
            settled: Revision(0),
            lease_until: Millis(0),
            near_from: Millis(0),
            gained: Map::default(),
            garbage: Set::default(),
            purge: None,
            paused: BTreeMap::new(),
            log: Log::new(limits.log_bytes_max),
            promoted: Map::default(),
            reigned: Map::default(),
            lanes: BTreeMap::new(),
            sources: BTreeMap::new(),
            asks: Vec::new(),
            asked: Set::default(),
            tickets: Tickets::default(),
            fill_budget: 0,
            fill_budget_at: Millis(0),
            effects: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
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
                || !self.garbage.is_empty() && self.garbage.contains(&partition)
                || access == Access::Write
                    && !self.paused.is_empty()
                    && self.paused.contains_key(&partition);
            return if leased && !taking_over { Route::Here } else { Route::Wait };
        }
        // With one replica, whatever it has is everywhere. With more, another
        // one may still lack it.
        let near = access == Access::Read
            && self.limits.read_nearest
            && now >= self.near_from
            && leased
            && owners.in_sync() == 2
            && owners.is_in_sync(me)
            && !self.garbage.contains(&partition)
            && !self.asked.contains(&hash);
        if near { Route::Here } else { Route::At(primary) }
    }

    /// Whether the node may answer for what it holds.
    #[inline]
    pub fn is_leased(&self, now: Millis) -> bool {
        now < self.lease_until
    }

    /// A request has changed the item of a key, or may have. `number` says in
    /// the completion which one it was.
    pub fn wrote(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        number: u32,
        shard: &mut Shard,
        now: Now,
        clock: Millis,
    ) {
        let partition = self.topology.ring().of(hash);
        let owners = *self.topology.owners(partition);
        if owners.copies().len() < 2 {
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
        let ticket = self.tickets.current();
        let mut waits = false;
        for (node, _) in owners.replicas() {
            let peer = self.peer_for(node, hash);
            let Some(lane) = self.lanes.get_mut(&peer) else { continue };
            if lane.shares.get(&partition).is_some_and(|share| share.stage.is_required()) {
                let number = Some(number);
                lane.waits.push_back(Wait { lsn, partition, ticket, number, since: clock });
                self.tickets.wait();
                waits = true;
            }
        }
        if waits {
            self.tickets.wrote(hash, lsn);
        }
    }

    /// Whether the last write of a key is still on its way to the replicas.
    #[inline]
    pub fn is_pending(&self, hash: KeyHash) -> bool {
        self.tickets.pending(hash).is_some()
    }

    /// A request reads a key: it waits along with the key's last write.
    pub fn reads(&mut self, hash: KeyHash, clock: Millis) {
        let Some(lsn) = self.tickets.pending(hash) else { return };
        let partition = self.topology.ring().of(hash);
        let ticket = self.tickets.current();
        for lane in self.lanes.values_mut() {
            if lane.waits.iter().any(|wait| wait.lsn == lsn) {
                lane.waits.push_back(Wait { lsn, partition, ticket, number: None, since: clock });
                self.tickets.wait();
            }
        }
    }

    /// The requests since the last call are one batch. Its ticket, if its
    /// answers must wait for [`Effect::Completed`].
    pub fn close_batch(&mut self) -> Option<Ticket> {
        self.tickets.close()
    }

    /// Batches that wait.
    pub fn batches_waiting(&self) -> usize {
        self.tickets.len()
    }

    /// The core of `node` that holds the key.
    fn peer_for(&self, node: NodeIndex, hash: KeyHash) -> Peer {
        let cores = self.topology.member(node).map_or(1, |member| member.node.cores.max(1));
        Peer { node, core: hash.core(u32::from(cores)) as u16 }
    }

    // ---- What the node is told.

    /// The node's lease runs until then, by its own clock.
    pub fn set_lease(&mut self, until: Millis) {
        self.lease_until = until;
    }

    /// Until then replicas send readers to the primary: an invalidation reaches
    /// one node after the other, and no reader may see it undone.
    pub fn suspend_near_reads(&mut self, until: Millis) {
        self.near_from = until;
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
        let old = core::mem::replace(&mut self.topology, topology);
        let topology = Arc::clone(&self.topology);
        let before = self.me;
        self.me = me;
        self.forget_past_lives(&old);
        for (partition, owners) in topology.partitions() {
            let was = if (partition.0 as usize) < old.owners.len() {
                *old.owners(partition)
            } else {
                crate::topology::Owners::NONE
            };
            let held = before.and_then(|node| was.position(node));
            let holds = me.and_then(|node| owners.position(node));
            // What is here of it, is it worth anything?
            if held.is_some() && (holds.is_none() || owners.born > was.epoch) {
                self.garbage.insert(partition);
                self.reigned.remove(&partition);
            }
            let was_primary = held == Some(0);
            let is_primary = holds == Some(0);
            if was_primary && !is_primary {
                self.step_down(partition, was.epoch, shard, now);
            }
            if is_primary {
                if !was_primary || owners.epoch != was.epoch {
                    self.take_over(partition, topology.revision());
                }
                self.share(partition, owners, &old);
            } else if let (Some(me), true) = (me, was.primary() != owners.primary()) {
                // Another primary: its word counts where the last one's last
                // words may not have reached everybody.
                if owners.is_in_sync(me)
                    && let Some(past) = was.primary()
                {
                    self.ask_about(partition, past);
                }
            }
        }
        self.ask_what_was_mine(&topology);
        self.settle_promotion(shard, now, clock);
        self.drop_lost_lanes();
        self.release();
    }

    /// Nodes that started anew have lost what they held.
    fn forget_past_lives(&mut self, old: &Topology) {
        for lane in self.lanes.values_mut() {
            let life = |topology: &Topology| {
                topology.member(lane.peer.node).map(|member| member.node.incarnation)
            };
            if life(old) != life(&self.topology) {
                lane.drop_all();
                lane.acked = Lsn(0);
                lane.open = false;
            }
        }
    }

    /// Another node is primary now, and this one may not have agreed.
    fn step_down(&mut self, partition: Partition, epoch: Epoch, shard: &mut Shard, now: Now) {
        self.gained.remove(&partition);
        self.paused.remove(&partition);
        self.promoted.remove(&partition);
        if !self.garbage.contains(&partition) {
            self.reigned.insert(partition, epoch);
        }
        let mut uncertain: Vec<Lsn> = Vec::new();
        let mut answers = Vec::new();
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
        uncertain.sort_unstable();
        uncertain.dedup();
        for lsn in uncertain {
            let Some(entry) = self.log.get(lsn) else { continue };
            let Some(key) = key_of(entry.bytes) else { continue };
            // Until the new primary has said what it is.
            shard.unlink_key(key, entry.hash, now);
            self.asks.push((partition, key.into()));
            self.asked.insert(entry.hash);
        }
        for (ticket, number) in answers {
            self.confirm(ticket, number);
        }
    }

    fn take_over(&mut self, partition: Partition, revision: Revision) {
        if revision > self.settled {
            self.gained.insert(partition, revision);
        }
        self.reigned.remove(&partition);
        self.promoted.insert(partition, self.log.next());
        self.asks.retain(|ask| ask.0 != partition);
    }

    /// Which replicas take part in a partition of which this node is primary.
    fn share(&mut self, partition: Partition, owners: &crate::topology::Owners, old: &Topology) {
        let from = self.log.next();
        for (node, in_sync) in owners.replicas() {
            let fence = |topology: &Topology| topology.member(node).map(|member| member.fence);
            // Also what was said of it before comes too late now.
            let excluded = !in_sync && fence(old) != fence(&self.topology);
            for peer in self.peers_of(node) {
                let lane = self.lanes.entry(peer).or_insert_with(|| Lane::new(peer, from));
                let share = lane.shares.entry(partition).or_insert_with(|| Share {
                    // In sync with the primary before, whose heir this node is.
                    stage: if in_sync { Stage::InSync } else { Stage::Missing },
                    from,
                });
                share.stage = match (share.stage, in_sync) {
                    (Stage::InSync, false) => Stage::Behind,
                    (Stage::Joining(_) | Stage::Joined, false) if excluded => Stage::Behind,
                    (Stage::Joining(_) | Stage::Joined, true) => Stage::InSync,
                    (stage, _) => stage,
                };
            }
        }
        for lane in self.lanes.values_mut() {
            if lane.shares.contains_key(&partition) && owners.position(lane.peer.node).is_none() {
                lane.shares.remove(&partition);
            }
        }
    }

    /// The cores of a node that hold keys of this core.
    fn peers_of(&self, node: NodeIndex) -> impl Iterator<Item = Peer> + use<> {
        let cores = self.topology.member(node).map_or(1, |member| member.node.cores.max(1));
        let range = if cores == self.cores { self.core..self.core + 1 } else { 0..cores };
        range.map(move |core| Peer { node, core })
    }

    /// What `past` sent last may not have reached every replica.
    fn ask_about(&mut self, partition: Partition, past: NodeIndex) {
        let topology = Arc::clone(&self.topology);
        let seed = engine::HashSeed::new(topology.seed());
        for (peer, source) in &mut self.sources {
            if peer.node != past {
                continue;
            }
            source.uncertain.retain(|(_, of, key)| {
                if *of != partition {
                    return true;
                }
                self.asked.insert(KeyHash::of(key, &seed));
                self.asks.push((partition, key.clone()));
                false
            });
        }
    }

    /// Questions about partitions that this node no longer holds are void.
    fn ask_what_was_mine(&mut self, topology: &Topology) {
        let Some(me) = self.me else { return };
        let seed = engine::HashSeed::new(topology.seed());
        let asked = &mut self.asked;
        self.asks.retain(|(partition, key)| {
            let owners = topology.owners(*partition);
            let holds = owners.position(me).is_some_and(|at| at > 0);
            if !holds {
                asked.remove(&KeyHash::of(key, &seed));
            }
            holds
        });
    }

    /// As a new primary: what came last from the one before is given to all
    /// replicas once more, and not read before they have it.
    fn settle_promotion(&mut self, shard: &mut Shard, now: Now, clock: Millis) {
        let Some(me) = self.me else { return };
        let topology = Arc::clone(&self.topology);
        let seed = engine::HashSeed::new(topology.seed());
        let mut mine = Vec::new();
        for source in self.sources.values_mut() {
            source.uncertain.retain(|(_, partition, key)| {
                let keep = topology.owners(*partition).primary() != Some(me);
                if !keep {
                    mine.push(key.clone());
                }
                keep
            });
        }
        for key in mine {
            self.wrote(&key, KeyHash::of(&key, &seed), 0, shard, now, clock);
        }
        // Nobody's answer waits for these, only later readers.
        self.close_batch();
    }

    /// Nodes that left, or of which nothing is wanted.
    fn drop_lost_lanes(&mut self) {
        self.lanes
            .retain(|_, lane| !lane.shares.is_empty() || !lane.waits.is_empty() || lane.connected);
    }

    /// Lets go of waits for replicas that are out, once nobody can believe
    /// otherwise.
    fn release(&mut self) {
        if self.settled < self.topology.revision() {
            return;
        }
        let mut free = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.waits.is_empty() {
                continue;
            }
            let node = lane.peer.node;
            let fence = self.topology.member(node).map(|member| member.fence);
            // A join under way may still succeed, unless an exclusion came after.
            let joining = match (lane.reported, fence) {
                (Some(known), Some(fence)) => fence <= known,
                _ => false,
            };
            if !joining {
                lane.reported = None;
            }
            let topology = &self.topology;
            let shares = &lane.shares;
            lane.waits.retain(|wait| {
                let required = topology.owners(wait.partition).is_in_sync(node)
                    || joining
                    || shares.get(&wait.partition).is_some_and(|share| share.stage.is_required());
                if !required {
                    free.push(wait.ticket);
                }
                required
            });
        }
        for ticket in free {
            self.confirm(ticket, None);
        }
    }

    fn confirm(&mut self, ticket: Ticket, unknown: Option<u32>) {
        self.counters.unknown += u64::from(unknown.is_some());
        if let Some(unknown) = self.tickets.confirm(ticket, unknown) {
            self.effects.push(Effect::Completed { ticket, unknown });
        }
    }

    // ---- Time.

    /// Complains about replicas that do not confirm, and reports pauses. Call
    /// it every few milliseconds.
    pub fn tick(&mut self, clock: Millis) {
        for lane in self.lanes.values_mut() {
            let late = lane.broken
                || lane
                    .waits
                    .front()
                    .is_some_and(|wait| clock.since(wait.since) >= self.limits.confirm_ms);
            let said =
                lane.suspected.is_some_and(|at| clock.since(at) < self.limits.confirm_ms.max(1));
            if late && !said {
                lane.suspected = Some(clock);
                self.effects.push(Effect::Suspect(lane.peer.node));
            }
        }
        self.mend();
        let lanes = &self.lanes;
        for (partition, said) in &mut self.paused {
            let idle = || {
                lanes
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
        let earned = self.limits.fill_bytes_per_second * elapsed_ms / 1000;
        if earned > 0 {
            self.fill_budget_at = clock;
            self.fill_budget =
                (self.fill_budget + earned).min(self.limits.fill_bytes_per_second / 10 + 1);
        }
    }

    /// A lane whose replica lacks what the log has lost begins anew, once the
    /// replica is in no in-sync set.
    fn mend(&mut self) {
        let next = self.log.next();
        for lane in self.lanes.values_mut().filter(|lane| lane.broken) {
            let node = lane.peer.node;
            let fence = self.topology.member(node).map(|member| member.fence);
            let joining = match (lane.reported, fence) {
                (Some(known), Some(fence)) => fence <= known,
                _ => false,
            };
            let in_sync = lane.shares.keys().any(|at| self.topology.owners(*at).is_in_sync(node));
            if !joining && !in_sync && lane.waits.is_empty() {
                lane.broken = false;
                lane.reported = None;
                lane.drop_all();
                lane.cursor = next;
            }
        }
    }

    /// Drops a little of what the node no longer holds. True: there is more.
    pub fn upkeep(&mut self, shard: &mut Shard, now: Now) -> bool {
        if self.garbage.is_empty() {
            return false;
        }
        let garbage = &self.garbage;
        let (cursor, covers) =
            self.purge.get_or_insert_with(|| (ScanCursor::default(), garbage.clone()));
        let ring = self.topology.ring();
        let items_max = self.limits.purge_items_max;
        let mut unwanted = |hash: KeyHash| covers.contains(&ring.of(hash));
        self.counters.purged += shard.purge_next(cursor, items_max, now, &mut unwanted) as u64;
        if cursor.is_done()
            && let Some((_, covers)) = self.purge.take()
        {
            self.garbage.retain(|partition| !covers.contains(partition));
        }
        !self.garbage.is_empty()
    }

    // ---- Links, as a primary.

    /// Peers that this core has something for: there should be a link to each.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.lanes.iter().filter(|(_, lane)| !lane.shares.is_empty()).map(|(peer, _)| *peer)
    }

    /// A link to a peer is there; what it must say first goes into `out`.
    pub fn connected(&mut self, peer: Peer, out: &mut Vec<u8>) {
        let next = self.log.next();
        let lane = self.lanes.entry(peer).or_insert_with(|| Lane::new(peer, next));
        lane.connected = true;
        lane.open = false;
        lane.held = Revision(0);
        lane.answers.clear();
        lane.drop_fill();
        put(&Message::Open { incarnation: self.incarnation, core: self.core }, out);
    }

    /// The link to a peer is gone.
    pub fn disconnected(&mut self, peer: Peer) {
        if let Some(lane) = self.lanes.get_mut(&peer) {
            lane.connected = false;
            lane.open = false;
            lane.answers.clear();
            lane.drop_fill();
        }
        self.drop_lost_lanes();
    }

    /// Whether [`Replicator::poll`] has something for the peer.
    pub fn has_news(&self, peer: Peer) -> bool {
        let Some(lane) = self.lanes.get(&peer) else { return false };
        lane.open
            && !lane.broken
            && (lane.cursor < self.log.next()
                || !lane.answers.is_empty()
                || lane.fill.as_ref().is_some_and(|fill| fill.ended.is_none())
                || self.wants_fill(lane)
                || lane.shares.values().any(|share| share.stage == Stage::Behind))
    }

    fn wants_fill(&self, lane: &Lane) -> bool {
        lane.fill.is_none()
            && lane.held >= self.topology.revision()
            && lane.shares.values().any(|share| share.stage == Stage::Missing)
    }

    /// What goes out to a peer now. True: there is more.
    pub fn poll(&mut self, peer: Peer, shard: &Shard, now: Now, out: &mut Vec<u8>) -> bool {
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        if !lane.open || lane.broken {
            return false;
        }
        let start = out.len();
        out.append(&mut lane.answers);
        let most = start + self.limits.send_bytes_max;
        let their_cores =
            u32::from(self.topology.member(peer.node).map_or(1, |member| member.node.cores.max(1)));
        while lane.cursor < self.log.next() && out.len() < most {
            let Some(entry) = self.log.get(lane.cursor) else {
                // It has fallen too far behind.
                lane.broken = true;
                self.effects.push(Effect::Suspect(peer.node));
                return false;
            };
            if lane.takes(entry.partition, entry.lsn)
                && entry.hash.core(their_cores) == u32::from(peer.core)
            {
                out.extend_from_slice(&(entry.bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(entry.bytes);
            }
            lane.cursor = lane.cursor.next();
        }
        let caught_up = lane.cursor == self.log.next();
        self.poll_fill(peer, their_cores, shard, now, out);
        let settled = self.settled_lsn();
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        let sent = Lsn(lane.cursor.0 - 1);
        if sent > lane.marked || out.len() > start {
            lane.marked = sent;
            put(&Message::Mark { lsn: sent, settled: settled.min(sent) }, out);
        }
        if caught_up {
            for share in lane.shares.values_mut().filter(|share| share.stage == Stage::Behind) {
                // From the next write on, all wait for it.
                share.stage = Stage::Joining(sent);
            }
        }
        self.report_joined(peer);
        self.has_news(peer)
    }

    /// Every in-sync replica has everything up to there.
    fn settled_lsn(&self) -> Lsn {
        let waits = self.lanes.values().filter_map(|lane| lane.waits.front());
        waits.map(|wait| Lsn(wait.lsn.0 - 1)).min().unwrap_or(Lsn(self.log.next().0 - 1))
    }

    fn poll_fill(
        &mut self,
        peer: Peer,
        their_cores: u32,
        shard: &Shard,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let Some(lane) = self.lanes.get(&peer) else { return };
        if self.wants_fill(lane) {
            self.begin_fill(peer, shard, out);
        }
        let (ring, next) = (self.topology.ring(), self.log.next());
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let Some(fill) = lane.fill.as_mut().filter(|fill| fill.ended.is_none()) else { return };
        let bytes = self.limits.fill_bytes_max.min(self.fill_budget as usize);
        if bytes == 0 {
            return;
        }
        let shares = &lane.shares;
        let number = fill.number;
        let (mut sent, mut items) = (0, 0);
        let mut wanted = |hash: KeyHash| {
            hash.core(their_cores) == u32::from(peer.core)
                && shares.get(&ring.of(hash)).is_some_and(|share| share.stage == Stage::Filling)
        };
        let limits = ScanLimits { items: 256, bytes };
        shard.export_next(&mut fill.cursor, limits, now, &mut wanted, &mut |_, record| {
            put(&Message::Fill { fill: number, record }, out);
            sent += record.len();
            items += 1;
        });
        self.fill_budget = self.fill_budget.saturating_sub(sent as u64);
        self.counters.filled_items += items;
        if fill.cursor.is_done() {
            fill.ended = Some(Lsn(next.0 - 1));
            put(&Message::End { fill: number }, out);
        }
    }

    /// Everything that is missing on a peer is filled in one walk.
    fn begin_fill(&mut self, peer: Peer, shard: &Shard, out: &mut Vec<u8>) {
        let from = self.log.next();
        let topology = Arc::clone(&self.topology);
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        lane.fills += 1;
        let mut partitions = Vec::new();
        for (partition, share) in &mut lane.shares {
            if share.stage == Stage::Missing {
                *share = Share { stage: Stage::Filling, from };
                partitions.push((*partition, topology.owners(*partition).epoch));
            }
        }
        partitions.sort_unstable();
        lane.fill = Some(Fill { number: lane.fills, cursor: ScanCursor::default(), ended: None });
        self.counters.fills += 1;
        put(&Message::Generations(shard.generations()), out);
        put(&Message::Begin { fill: lane.fills, partitions }, out);
    }

    /// Partitions whose last gap is closed.
    fn report_joined(&mut self, peer: Peer) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let mut joined = Vec::new();
        for (partition, share) in &mut lane.shares {
            if let Stage::Joining(need) = share.stage
                && lane.acked >= need
            {
                share.stage = Stage::Joined;
                joined.push((*partition, self.topology.owners(*partition).epoch));
            }
        }
        if joined.is_empty() {
            return;
        }
        joined.sort_unstable();
        let revision = self.topology.revision();
        lane.reported = Some(lane.reported.map_or(revision, |known| known.max(revision)));
        let Peer { node, core } = peer;
        self.effects.push(Effect::CaughtUp { node, core, partitions: joined });
    }

    /// What a replica answered. False: it makes no sense.
    pub fn replied(&mut self, peer: Peer, mut bytes: &[u8], shard: &mut Shard, now: Now) -> bool {
        while let Some((message, rest)) = take(bytes) {
            bytes = rest;
            let Some(message) = Message::read(message) else { return false };
            match message {
                Message::Opened { incarnation, lsn } => {
                    if !self.opened(peer, incarnation, lsn) {
                        return false;
                    }
                    // What was invalidated while it was away.
                    let generations = shard.generations();
                    if let Some(lane) =
                        self.lanes.get_mut(&peer).filter(|_| !generations.is_empty())
                    {
                        put(&Message::Generations(generations), &mut lane.answers);
                    }
                }
                Message::Ack { lsn } => self.acked(peer, lsn),
                Message::Filled { fill } => {
                    let Some(lane) = self.lanes.get_mut(&peer) else { continue };
                    if lane.fill.as_ref().is_some_and(|own| own.number == fill) {
                        lane.fill = None;
                        for share in lane.shares.values_mut() {
                            if share.stage == Stage::Filling {
                                share.stage = Stage::Behind;
                            }
                        }
                    }
                }
                Message::Fenced { lsn, partition, epoch } => {
                    if epoch > self.topology.owners(partition).epoch {
                        self.fenced(peer, lsn, partition);
                    }
                }
                Message::Ask { partition, key } => self.answer(peer, partition, key, shard, now),
                Message::Held { revision, partitions } => self.held(peer, revision, &partitions),
                _ => return false,
            }
        }
        bytes.is_empty()
    }

    fn opened(&mut self, peer: Peer, incarnation: Incarnation, lsn: Lsn) -> bool {
        let life = self.topology.member(peer.node).map(|member| member.node.incarnation);
        if life != Some(incarnation) {
            return false;
        }
        let (first, next) = (self.log.first(), self.log.next());
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        lane.open = true;
        let wanted = lane.shares.values().filter(|share| share.stage != Stage::Missing);
        let from = wanted.map(|share| share.from).min();
        lane.cursor = from.map_or(next, |from| from.max(lsn.next())).min(next);
        lane.marked = Lsn(lane.cursor.0 - 1);
        if from.is_some() && lane.cursor < first {
            lane.broken = true;
            self.effects.push(Effect::Suspect(peer.node));
        } else if from.is_some() {
            self.counters.resumed += 1;
        }
        self.acked(peer, lsn);
        true
    }

    fn acked(&mut self, peer: Peer, lsn: Lsn) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        lane.acked = lane.acked.max(lsn);
        if lane.broken {
            // It confirms a log in which something is missing.
            return;
        }
        while let Some(wait) = lane.waits.front().copied().filter(|wait| wait.lsn <= lane.acked) {
            lane.waits.pop_front();
            if let Some(unknown) = self.tickets.confirm(wait.ticket, None) {
                self.effects.push(Effect::Completed { ticket: wait.ticket, unknown });
            }
        }
        self.report_joined(peer);
    }

    /// A replica knows a later owner of the partition.
    fn fenced(&mut self, peer: Peer, lsn: Lsn, partition: Partition) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let mut answers = Vec::new();
        lane.waits.retain(|wait| {
            let refused = wait.partition == partition && wait.lsn == lsn;
            if refused {
                answers.push((wait.ticket, wait.number));
            }
            !refused
        });
        for (ticket, number) in answers {
            self.confirm(ticket, number);
        }
    }

    fn answer(
        &mut self,
        peer: Peer,
        partition: Partition,
        key: &[u8],
        shard: &mut Shard,
        now: Now,
    ) {
        if partition.0 as usize >= self.topology.owners.len() {
            return;
        }
        let owners = self.topology.owners(partition);
        if owners.primary() != self.me || self.me.is_none() {
            return;
        }
        let hash = shard.hash_of(key);
        let epoch = owners.epoch;
        let mut record = Vec::new();
        let found = shard.export(key, hash, now, &mut record);
        let change = if found { Change::Item(&record) } else { Change::Gone(key) };
        if let Some(lane) = self.lanes.get_mut(&peer) {
            put(&Message::Repair { partition, epoch, change }, &mut lane.answers);
        }
    }

    /// A replica was primary of these before this node: it has all that this
    /// one had when it took over.
    fn held(&mut self, peer: Peer, revision: Revision, partitions: &[(Partition, Epoch)]) {
        let (first, topology) = (self.log.first(), &self.topology);
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        lane.held = lane.held.max(revision);
        for (partition, epoch) in partitions {
            let Some(share) = lane.shares.get_mut(partition) else { continue };
            let (Some(from), Stage::Missing) = (self.promoted.get(partition), share.stage) else {
                continue;
            };
            if topology.owners(*partition).epoch.0 == epoch.0 + 1 && *from >= first {
                *share = Share { stage: Stage::Behind, from: *from };
                lane.cursor = lane.cursor.min(*from);
                lane.marked = lane.marked.min(Lsn(lane.cursor.0 - 1));
                self.counters.resumed += 1;
            }
        }
    }

    // ---- Links, as a replica.

    /// What a primary sent. Returns how many bytes are done with; the rest is
    /// to be offered again after the next change of the topology, or in a
    /// moment. What goes back is put into `out`.
    pub fn receive(
        &mut self,
        peer: Peer,
        bytes: &[u8],
        shard: &mut Shard,
        now: Now,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut used = 0;
        while let Some((message, rest)) = take(&bytes[used..]) {
            let Some(message) = Message::read(message) else {
                self.effects.push(Effect::Garbage(peer));
                return bytes.len();
            };
            match self.apply(peer, &message, shard, now, out) {
                Some(true) => used = bytes.len() - rest.len(),
                Some(false) => return used,
                None => {
                    self.effects.push(Effect::Garbage(peer));
                    return bytes.len();
                }
            }
        }
        used
    }

    /// Applies one message; false: not yet; none: it makes no sense.
    fn apply(
        &mut self,
        peer: Peer,
        message: &Message<'_>,
        shard: &mut Shard,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Option<bool> {
        match message {
            Message::Open { incarnation, core } => {
                let member = self.topology.member(peer.node);
                if member.is_none_or(|member| member.node.incarnation != *incarnation) {
                    return Some(false);
                }
                if *core != peer.core {
                    return None;
                }
                let source = self.sources.entry(peer).or_insert_with(|| Source::new(*incarnation));
                if source.incarnation != *incarnation {
                    *source = Source::new(*incarnation);
                }
                source.filling = None;
                source.told = Revision(0);
                let lsn = source.applied;
                put(&Message::Opened { incarnation: self.incarnation, lsn }, out);
            }
            Message::Write { lsn, partition, epoch, change } => {
                if partition.0 as usize >= self.topology.owners.len() {
                    return if self.topology.revision() == Revision(0) {
                        Some(false)
                    } else {
                        None
                    };
                }
                let owners = *self.topology.owners(*partition);
                if *epoch > owners.epoch {
                    // This core has not heard of that yet.
                    return Some(false);
                }
                if *epoch < owners.epoch || owners.primary() != Some(peer.node) {
                    self.counters.fenced += 1;
                    let (lsn, partition, epoch) = (*lsn, *partition, owners.epoch);
                    put(&Message::Fenced { lsn, partition, epoch }, out);
                    return Some(true);
                }
                if self.me.is_some_and(|me| owners.position(me).is_some()) {
                    let key = self.store(change, shard, now)?;
                    self.reigned.remove(partition);
                    let source = self.sources.get_mut(&peer)?;
                    source.uncertain.push_back((*lsn, *partition, key));
                    self.counters.applied += 1;
                }
            }
            Message::Mark { lsn, settled } => {
                let source = self.sources.get_mut(&peer)?;
                source.applied = source.applied.max(*lsn);
                source.settle(*settled);
                put(&Message::Ack { lsn: *lsn }, out);
            }
            Message::Begin { fill, partitions } => {
                let source = self.sources.get_mut(&peer)?;
                if source.filling != Some(*fill) {
                    source.filling = Some(*fill);
                    for (partition, epoch) in partitions {
                        let known = (partition.0 as usize) < self.topology.owners.len();
                        if known && self.topology.owners(*partition).epoch <= *epoch {
                            self.garbage.insert(*partition);
                            self.reigned.remove(partition);
                        }
                    }
                    self.purge = None;
                }
                if partitions.iter().any(|(partition, _)| self.garbage.contains(partition)) {
                    return Some(false);
                }
            }
            Message::Fill { fill, record } => {
                if self.sources.get(&peer)?.filling == Some(*fill) {
                    self.store(&Change::Item(record), shard, now)?;
                }
            }
            Message::End { fill } => put(&Message::Filled { fill: *fill }, out),
            Message::Repair { partition, epoch, change } => {
                if partition.0 as usize >= self.topology.owners.len() {
                    return None;
                }
                let owners = self.topology.owners(*partition);
                if owners.epoch == *epoch && owners.primary() == Some(peer.node) {
                    let key = self.store(change, shard, now)?;
                    self.asked.remove(&shard.hash_of(&key));
                }
            }
            Message::Generations(generations) => {
                for generation in generations {
                    shard.merge_generation(*generation);
                }
            }
            _ => return None,
        }
        Some(true)
    }

    /// Takes over the state of a key, which it returns.
    fn store(&mut self, change: &Change<'_>, shard: &mut Shard, now: Now) -> Option<Box<[u8]>> {
        match change {
            Change::Gone(key) => {
                shard.unlink_key(key, shard.hash_of(key), now);
                Some((*key).into())
            }
            Change::Item(bytes) => {
                let record = snapshot::records(bytes).next()??;
                if shard.adopt(&record, now).is_err() {
                    self.counters.unstored += 1;
                }
                Some(record.key.into())
            }
        }
    }

    /// What this replica has to say to a primary without being asked.
    pub fn poll_back(&mut self, peer: Peer, out: &mut Vec<u8>) {
        let revision = self.topology.revision();
        let Some(source) = self.sources.get_mut(&peer) else { return };
        let topology = &self.topology;
        let seed = engine::HashSeed::new(topology.seed());
        let their_cores =
            u32::from(topology.member(peer.node).map_or(1, |member| member.node.cores.max(1)));
        self.asks.retain(|(partition, key)| {
            let goes = topology.owners(*partition).primary() == Some(peer.node)
                && KeyHash::of(key, &seed).core(their_cores) == u32::from(peer.core);
            if goes {
                put(&Message::Ask { partition: *partition, key }, out);
            }
            !goes
        });
        if source.told < revision {
            source.told = revision;
            let mut partitions = Vec::new();
            if their_cores == u32::from(self.cores) {
                for (partition, epoch) in &self.reigned {
                    let owners = topology.owners(*partition);
                    if owners.primary() == Some(peer.node) && owners.epoch.0 == epoch.0 + 1 {
                        partitions.push((*partition, *epoch));
                    }
                }
            }
            partitions.sort_unstable();
            put(&Message::Held { revision, partitions }, out);
        }
    }

    /// Peers whose [`Replicator::poll_back`] has something to say.
    pub fn wants_to_tell(&self, peer: Peer) -> bool {
        self.sources.get(&peer).is_some_and(|source| source.told < self.topology.revision())
            || self
                .asks
                .iter()
                .any(|(at, _)| self.topology.owners(*at).primary() == Some(peer.node))
    }
}

/// Appends a message behind its length.
fn put(message: &Message<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    message.write(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// The first message, and what follows it; `None` if it is not all there.
fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// The key in the bytes of a write.
fn key_of(bytes: &[u8]) -> Option<&[u8]> {
    match Message::read(bytes)? {
        Message::Write { change: Change::Gone(key), .. } => Some(key),
        Message::Write { change: Change::Item(record), .. } => {
            Some(snapshot::records(record).next()??.key)
        }
        _ => None,
    }
}
