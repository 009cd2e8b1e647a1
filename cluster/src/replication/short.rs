//! A core's replication: writes that have too few copies.
//!
//! With [`min_copies`](super::Limits::min_copies) of two or more, a replica that does
//! not confirm stays in the in-sync set where it is one of so few
//! ([`Command::Exclude`](crate::change::Command::Exclude)): it has every acknowledged
//! write, and may lead if this node dies. So writes wait for it. Those that come while
//! it is late do not execute; those that had executed are answered as of unknown outcome
//! when they have waited for too long. Their keys stay pending until the replica has
//! confirmed them, so nobody reads what may still be lost.

use super::replicator::Replicator;
use super::tickets::Ticket;
use super::{Effect, Mode};
use crate::map::Set;
use alloc::vec::Vec;
use engine::KeyHash;

impl Replicator {
    /// Whether a write of the key would have enough copies, as far as is known here.
    /// To be asked on the node that leads it, or for the reason why nobody takes it.
    #[inline]
    pub fn has_copies_for(&self, key: &[u8], hash: KeyHash) -> bool {
        self.limits.min_copies <= 1
            || self.modes.of(key) != Mode::Sync
            || self.would_be_copied(hash)
    }

    fn would_be_copied(&self, hash: KeyHash) -> bool {
        let owners = self.topology.owners(self.topology.ring().of(hash));
        let min = u32::from(self.limits.min_copies);
        if owners.in_sync() != min || self.me.is_none() || owners.primary() != self.me {
            return owners.in_sync() >= min;
        }
        let in_sync = owners.replicas().filter(|(_, in_sync)| *in_sync);
        let mut lanes = in_sync.filter_map(|(node, _)| self.lanes.get(&self.peer_for(node, hash)));
        lanes.all(|lane| !lane.late)
    }

    /// Answers writes that replicas have not confirmed for too long.
    pub(super) fn answer_overdue(&mut self) {
        if self.limits.min_copies <= 1 {
            return;
        }
        let (awake, answer_ms) = (self.awake, self.limits.answer_ms);
        let waits = self.lanes.values().flat_map(|lane| &lane.waits);
        let overdue =
            waits.filter(|wait| wait.number.is_some() && awake.since(wait.since) >= answer_ms);
        let tickets: Set<Ticket> = overdue.map(|wait| wait.ticket).collect();
        if tickets.is_empty() {
            return;
        }
        let mut tickets: Vec<Ticket> = tickets.into_iter().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            self.answer_early(ticket);
        }
    }

    /// Answers what waits under a ticket as of unknown outcome. Its keys stay pending.
    fn answer_early(&mut self, ticket: Ticket) {
        let mut numbers = Vec::new();
        for wait in self.lanes.values_mut().flat_map(|lane| &mut lane.waits) {
            if wait.ticket == ticket {
                numbers.extend(wait.number.take());
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        if let Some(unknown) = self.tickets.answer_early(ticket, numbers) {
            self.counters.unknown += unknown.len() as u64;
            self.effects.push(Effect::Completed { ticket, unknown });
        }
    }
}
