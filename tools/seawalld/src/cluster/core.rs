//! The cluster's decisions on a data core: [`Replicator`] behind the trait that
//! `net` asks. Everything here runs on that core's thread; what the control
//! thread should know goes out through a channel, and what it tells the core
//! comes in as a task on the core.

use super::board::Board;
use super::hot::{Hot, HotSettings, is_readable};
use cluster::replication::{Access, Effect, Limits, Peer, Replicator, Route, Ticket};
use cluster::ring::Partition;
use cluster::time::Millis;
use cluster::topology::{Epoch, Incarnation, NodeIndex, Revision, Topology};
use engine::{Failure, KeyHash, Now, Shard};
use net::peering::{PeerId, Peering, Peers, Route as NetRoute};
use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// The node's clock, the same for all of its threads: the time since the machine
/// started, its sleep included, for leases of others run on while it sleeps.
#[derive(Clone, Copy, Debug)]
pub struct NodeClock;

impl NodeClock {
    /// Now.
    pub fn now(self) -> Millis {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Millis(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
    }

    /// A moment that is past, or a later one if the machine has slept since: an `Instant`
    /// does not count that.
    pub fn not_before(self, instant: Instant) -> Millis {
        // Read in this order, and rounded so, it is not too early.
        let passed = instant.elapsed().as_millis() as u64;
        Millis(self.now().0.saturating_sub(passed))
    }
}

/// What the control thread tells all cores without waking them.
#[derive(Debug)]
pub struct Standing {
    /// The node's clock.
    pub clock: NodeClock,
    /// The node's lease runs until then.
    lease_until: AtomicU64,
    cores: Box<[CoreStanding]>,
    /// Where the cores show each other hot keys.
    board: Arc<Board>,
}

/// What a core shows the control thread without waking it.
#[derive(Debug, Default)]
struct CoreStanding {
    /// The revision that it acts by.
    acts: AtomicU64,
    /// Grows while its loop turns.
    turn: AtomicU64,
}

impl Standing {
    /// No lease.
    pub fn new(clock: NodeClock) -> Arc<Standing> {
        let most = net::node::CORES_MAX as usize;
        let cores = (0..most).map(|_| CoreStanding::default()).collect();
        let board = Arc::new(Board::new(most));
        Arc::new(Standing { clock, lease_until: AtomicU64::new(0), cores, board })
    }

    /// The revision that a core acts by.
    pub fn acts(&self, core: u16) -> Revision {
        Revision(self.cores[usize::from(core)].acts.load(Ordering::Acquire))
    }

    /// A number that changes while a core's loop turns.
    pub fn turn(&self, core: u16) -> u64 {
        self.cores[usize::from(core)].turn.load(Ordering::Relaxed)
    }

    /// The lease runs until then.
    pub fn set_lease(&self, until: Millis) {
        self.lease_until.store(until.0, Ordering::Release);
    }

    /// Until when the lease runs.
    pub fn lease_until(&self) -> Millis {
        Millis(self.lease_until.load(Ordering::Acquire))
    }
}

/// What a core tells the control thread.
#[derive(Debug)]
pub enum Report {
    /// A replica has everything that this core has.
    CaughtUp {
        /// This core.
        core: u16,
        /// The replica.
        peer: Peer,
        /// The topology that this core acted by.
        known: Revision,
        /// Of these partitions.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// A replica does not confirm.
    Suspect {
        /// This core.
        core: u16,
        /// The replica.
        node: NodeIndex,
        /// It cannot catch up while it counts as in sync.
        cannot_follow: bool,
    },
    /// The core acts by a new topology.
    Acts {
        /// This core.
        core: u16,
    },
    /// No change of these partitions is under way on this core any more.
    Paused {
        /// This core.
        core: u16,
        /// The partitions.
        partitions: Vec<Partition>,
    },
    /// A link is gone.
    LinkLost {
        /// This core.
        core: u16,
        /// Where it led.
        peer: Peer,
    },
    /// A peer sent what makes no sense.
    Garbage(Peer),
}

/// See the module's text.
#[derive(Debug)]
pub struct CorePeering {
    replicator: Replicator,
    core: u16,
    standing: Arc<Standing>,
    reports: UnboundedSender<Report>,
    now: Millis,
    /// What was executed in this turn may be answered until then, and while the
    /// lease runs; at the end of time if nothing was.
    used: Cell<Option<Millis>>,
    hot: Hot,
    /// The revision that was reported as the one acted by.
    reported: Revision,
    /// Since when there has been no lease.
    leaseless_since: Millis,
    /// How long a request waits for a node, in milliseconds.
    patience_ms: u64,
    completed: VecDeque<(u64, Vec<u32>)>,
    /// Requests that wait are to be tried again.
    new_routes: bool,
    /// What a link brought made no sense.
    garbage: bool,
}

impl CorePeering {
    /// For one core. Requests wait at most `patience_ms` for a node.
    pub fn new(
        limits: Limits,
        incarnation: Incarnation,
        core: u32,
        cores: u32,
        patience_ms: u64,
        hot: HotSettings,
        standing: Arc<Standing>,
        reports: UnboundedSender<Report>,
    ) -> CorePeering {
        let now = standing.clock.now();
        let hot = Hot::new(hot, core as u16, cores as u16, Arc::clone(&standing.board));
        CorePeering {
            replicator: Replicator::new(limits, incarnation, core as u16, cores as u16),
            core: core as u16,
            standing,
            reports,
            now,
            used: Cell::new(None),
            hot,
            reported: Revision(0),
            leaseless_since: now,
            patience_ms,
            completed: VecDeque::new(),
            new_routes: false,
            garbage: false,
        }
    }

    /// That of a core, out of what the core has under way with others.
    pub fn of(peers: &mut Option<Box<Peers>>) -> Option<&mut CorePeering> {
        peers.as_mut()?.peering.as_any().downcast_mut()
    }

    /// The replicator, for metrics and for what the control thread tells it.
    pub fn replicator(&mut self) -> &mut Replicator {
        &mut self.replicator
    }

    /// Up to this revision nobody acts against the topology.
    pub fn set_settled(&mut self, settled: Revision) {
        self.replicator.set_settled(settled);
        self.new_routes = true;
    }

    /// Hand-overs that did not come about.
    pub fn resume(&mut self, partitions: &[Partition]) {
        self.replicator.resume(partitions);
        self.new_routes = true;
    }

    /// Its hot keys, and the replicator, to be looked at.
    pub fn parts(&self) -> (&Hot, &Replicator) {
        (&self.hot, &self.replicator)
    }

    /// An invalidation is under way: until it is over, or then, only primaries
    /// answer reads, and no copies.
    pub fn suspend_near_reads(&mut self, invalidation: u64, clock: Millis) {
        self.replicator.suspend_near_reads(invalidation, clock);
        self.retract();
    }

    /// What is not to be shown any more is not from here on.
    fn retract(&mut self) {
        for hash in self.replicator.withdrawn() {
            self.hot.retract(hash);
        }
    }

    /// Until when a key of another node may be answered from the copy that was
    /// granted to this core.
    fn granted_until(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        shard: &mut Shard,
        now: Now,
    ) -> Option<Millis> {
        let until = self.replicator.copy_until(hash, self.now)?;
        if !is_readable(key, hash, shard, now) {
            // Evicted or dead: that is not to be told, but to be asked again.
            self.replicator.copy_is_missing(hash);
            self.retract();
            return None;
        }
        self.replicator.copy_was_read();
        self.hot.passed(key, hash);
        Some(until)
    }

    /// Something was executed that may be answered until then.
    fn use_until(&self, until: Millis) {
        self.used.set(Some(self.used.get().map_or(until, |used| used.min(until))));
    }

    /// A new topology.
    pub fn set_topology(
        &mut self,
        topology: Arc<Topology>,
        me: Option<NodeIndex>,
        shard: &mut Shard,
        now: Now,
    ) {
        self.replicator.set_topology(topology, me, shard, now, self.now);
        self.new_routes = true;
        self.retract();
        self.take_effects();
        self.report_acts();
    }

    /// Says by which revision this core acts: not at once by one that takes a
    /// partition of which others hold copies of hot keys.
    fn report_acts(&mut self) {
        let acts = self.replicator.acts();
        if acts > self.reported {
            self.reported = acts;
            let own = &self.standing.cores[usize::from(self.core)];
            own.acts.fetch_max(acts.0, Ordering::AcqRel);
            let _ = self.reports.send(Report::Acts { core: self.core });
        }
    }

    fn take_effects(&mut self) {
        if !self.replicator.has_effects() {
            return;
        }
        let (core, known) = (self.core, self.replicator.topology().revision());
        for effect in self.replicator.effects() {
            let report = match effect {
                Effect::Completed { ticket: Ticket(ticket), unknown } => {
                    self.completed.push_back((ticket, unknown));
                    continue;
                }
                Effect::Suspect { node, cannot_follow } => {
                    Report::Suspect { core, node, cannot_follow }
                }
                Effect::CaughtUp { node, core: theirs, partitions } => {
                    Report::CaughtUp { core, peer: Peer { node, core: theirs }, known, partitions }
                }
                Effect::Paused(partitions) => Report::Paused { core, partitions },
                Effect::Garbage(peer) => {
                    self.garbage = true;
                    Report::Garbage(peer)
                }
            };
            // Without a control thread the node is ending.
            let _ = self.reports.send(report);
        }
    }
}

fn peer(id: PeerId) -> Peer {
    Peer { node: NodeIndex(id.node), core: id.core }
}

impl Peering for CorePeering {
    fn route(&self, hash: KeyHash, changes: bool) -> NetRoute {
        let access = if changes { Access::Write } else { Access::Read };
        match self.replicator.route(hash, access, self.now) {
            Route::Here => {
                self.use_until(Millis(u64::MAX));
                NetRoute::Here
            }
            _ if self.now.since(self.leaseless_since) > self.patience_ms => {
                NetRoute::Refuse(Failure::NoMajority)
            }
            Route::At(node) => {
                let core = self.replicator.peer_for(node, hash).core;
                NetRoute::At(PeerId { node: node.0, core })
            }
            Route::Wait => NetRoute::Wait,
        }
    }

    fn is_read_at_primary(&self, key: &[u8]) -> bool {
        self.replicator.is_read_at_primary(key)
    }

    fn has_copies_for(&self, key: &[u8], hash: KeyHash) -> bool {
        self.replicator.has_copies_for(key, hash)
    }

    fn is_out_of_date(&self, hash: KeyHash, key: &[u8]) -> bool {
        self.replicator.is_out_of_date(hash, key)
    }

    fn is_pending(&self, hash: KeyHash) -> bool {
        self.replicator.is_pending(hash)
    }

    fn has_copy(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        core: u32,
        shard: &mut Shard,
        now: Now,
    ) -> bool {
        let until = if core == u32::from(self.core) {
            self.granted_until(key, hash, shard, now)
        } else if self.replicator.is_leased(self.now) {
            self.hot.find(key, hash, self.now, shard, now)
        } else {
            None
        };
        let Some(until) = until else { return false };
        self.use_until(until);
        true
    }

    fn passed_on(&mut self, key: &[u8], hash: KeyHash) {
        self.hot.passed(key, hash);
    }

    fn wrote(&mut self, key: &[u8], hash: KeyHash, number: u32, shard: &mut Shard, now: Now) {
        self.replicator.wrote(key, hash, number, shard, now, self.now);
        self.retract();
    }

    fn reads(&mut self, hash: KeyHash, number: u32) {
        self.replicator.reads(hash, number, self.now);
    }

    fn close_batch(&mut self) -> Option<u64> {
        self.replicator.close_batch().map(|Ticket(ticket)| ticket)
    }

    fn completed(&mut self) -> Option<(u64, Vec<u32>)> {
        self.take_effects();
        self.completed.pop_front()
    }

    fn begin_turn(&mut self) {
        self.read_clock();
        self.used.set(None);
        self.hot.begin_turn();
        let own = &self.standing.cores[usize::from(self.core)];
        own.turn.store(self.now.0, Ordering::Relaxed);
    }

    fn read_clock(&mut self) {
        self.now = self.standing.clock.now();
        let until = self.standing.lease_until();
        self.replicator.set_lease(until);
        if self.now < until {
            self.leaseless_since = self.now;
        }
    }

    fn may_answer(&mut self) -> bool {
        let Some(until) = self.used.get() else { return true };
        self.standing.clock.now() < self.standing.lease_until().min(until)
    }

    fn connected(&mut self, id: PeerId, out: &mut Vec<u8>) {
        self.replicator.connected(peer(id), out);
        self.retract();
    }

    fn disconnected(&mut self, id: PeerId) {
        self.replicator.disconnected(peer(id));
        self.retract();
        let _ = self.reports.send(Report::LinkLost { core: self.core, peer: peer(id) });
    }

    fn poll(&mut self, id: PeerId, shard: &Shard, now: Now, out: &mut Vec<u8>) -> bool {
        let peer = peer(id);
        self.replicator.has_news(peer) && self.replicator.poll(peer, shard, now, out)
    }

    fn replied(&mut self, id: PeerId, bytes: &[u8], shard: &mut Shard, now: Now) -> bool {
        let good = self.replicator.replied(peer(id), bytes, shard, now);
        self.retract();
        good
    }

    fn receive(
        &mut self,
        id: PeerId,
        bytes: &[u8],
        shard: &mut Shard,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let used = self.replicator.receive(peer(id), bytes, shard, now, out);
        self.retract();
        self.take_effects();
        (!std::mem::take(&mut self.garbage)).then_some(used)
    }

    fn poll_back(&mut self, id: PeerId, out: &mut Vec<u8>) {
        let peer = peer(id);
        if self.replicator.wants_to_tell(peer) {
            self.replicator.poll_back(peer, out);
        }
    }

    fn upkeep(&mut self, shard: &mut Shard, now: Now) -> bool {
        // Later than all that came in this turn: grants are counted from here.
        self.replicator.tick(self.standing.clock.now());
        let more = self.replicator.upkeep(shard, now);
        self.hot.upkeep(&mut self.replicator, self.now, shard, now);
        self.retract();
        self.report_acts();
        more
    }

    fn has_new_routes(&mut self) -> bool {
        std::mem::take(&mut self.new_routes)
    }

    fn is_wanted(&self, id: PeerId) -> bool {
        self.replicator.topology().is_up(NodeIndex(id.node))
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
