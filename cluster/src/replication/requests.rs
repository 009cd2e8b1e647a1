//! A core's replication: the requests, where they execute, and when they are
//! answered.

use super::invalidate::NO_PARTITION;
use super::lane::Wait;
use super::replicator::{Access, Again, Replicator, Route};
use super::tickets::{Closed, Ticket};
use super::{Effect, Lsn, Mode, Peer, message};
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::NodeIndex;
use alloc::vec::Vec;
use engine::{KeyHash, Now, Shard};

impl Replicator {
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
                    && self.paused.contains(&partition);
            return if leased && !taking_over { Route::Here } else { Route::Wait };
        }
        // What it has is everywhere, but for what came last.
        let near = access == Access::Read
            && self.limits.read_nearest
            && now >= self.near_from.max(self.replica_from)
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
        let (ticket, since) = (self.tickets.current(), self.awake);
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

    /// Whether the last write of a key is still on its way to the replicas, or an
    /// invalidation is, which may be why nothing is found.
    #[inline]
    pub fn is_pending(&self, hash: KeyHash) -> bool {
        self.tickets.pending(hash).is_some() || !self.is_told()
    }

    /// A request reads a key: it waits along with the key's last write and with what
    /// was invalidated last, and if the outcome of these is unknown, what it read must
    /// not be told. `number` says in the completion which one it was.
    pub fn reads(&mut self, hash: KeyHash, number: u32, clock: Millis) {
        self.clock = clock;
        let partition = self.topology.ring().of(hash);
        let number = Some(number);
        if let Some(lsn) = self.tickets.pending(hash) {
            let ticket = self.tickets.current();
            for lane in self.lanes.values_mut() {
                if lane.waits.iter().any(|wait| wait.lsn == lsn) {
                    lane.waits.push_back(Wait {
                        lsn,
                        partition,
                        ticket,
                        number,
                        since: self.awake,
                    });
                    self.tickets.wait();
                }
            }
            self.read_waits_for_holders(lsn);
        }
        if let Some((lsn, _)) = self.untold.back().copied() {
            let peers: Vec<Peer> = self.knows_not(lsn).collect();
            for peer in peers {
                self.wait_for(peer, lsn, partition, number);
            }
        }
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

    /// One confirmation came, or will never come for this request.
    pub(super) fn confirm(&mut self, ticket: Ticket, unknown: Option<u32>) {
        self.counters.unknown += u64::from(unknown.is_some());
        if let Some(unknown) = self.tickets.confirm(ticket, unknown) {
            self.effects.push(Effect::Completed { ticket, unknown });
        }
    }
}
