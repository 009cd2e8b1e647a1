//! The holder's side of hot keys: items that another node leads, kept here under
//! grants.
//!
//! A core that passes on many reads of one key asks the key's primary for a copy,
//! and answers reads of it until the grant ends. What it may answer so, and for how
//! long, is the primary's decision ([`grants`](super::grants)); here it is only
//! kept to. A copy lies in the shard like any item. It goes when the primary takes
//! it back, when the link to it breaks (nothing could be taken back over that),
//! when the topology says something else about the key's partition, and when the
//! key is not hot any more.
//!
//! ```text
//! holder ── want 1, key ────────────► primary
//!        ◄── granted 1, 100 ms, record     answers reads from here
//!        ── want 2, key, have 1 ────►      in good time before the end
//!        ◄── granted 2, 100 ms             the record is as it was
//!        ◄── revoke 3, hash                a write waits
//!        ── revoked 3 ──────────────►      the copy is gone
//!        ── want 4, key ────────────►      at once: the key is still hot
//! ```
//!
//! A grant lasts from the moment the question was *sent*, by the holder's own
//! clock, so it ends here before it ends in the primary's books.

use super::message::Message;
use super::replicator::{Replicator, Route};
use super::wire::put;
use super::{Access, Peer};
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::Epoch;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use engine::{KeyHash, Now, Shard, snapshot};

/// A question that was refused is asked again after so long.
const REFUSED_PAUSE_MS: u64 = 50;
/// One that was not answered, after so long.
const UNANSWERED_MS: u64 = 1_000;

/// Why a primary grants no copy of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Denied {
    /// There is no such item.
    NoItem = 1,
    /// It is stale, or somebody is refilling it: each read may change that.
    Marked = 2,
    /// It is longer than copies may be.
    TooLong = 3,
    /// It is being written.
    Pending = 4,
    /// It is written so often that copies do not pay.
    Rewritten = 5,
    /// The partition changes hands, an invalidation is under way, or the node's
    /// lease is about to end.
    Unsettled = 6,
    /// As many keys are granted already as may be.
    Full = 7,
    /// The holder cannot store it: it has no memory for it, or takes it for expired.
    NoMemory = 8,
    /// Its namespace is not replicated synchronously.
    NotSync = 9,
}

impl Denied {
    pub(super) fn from_number(number: u8) -> Option<Denied> {
        [
            Denied::NoItem,
            Denied::Marked,
            Denied::TooLong,
            Denied::Pending,
            Denied::Rewritten,
            Denied::Unsettled,
            Denied::Full,
            Denied::NoMemory,
            Denied::NotSync,
        ]
        .into_iter()
        .find(|why| *why as u8 == number)
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Denied::NoItem => "there is no such item",
            Denied::Marked => "it is stale or being refilled",
            Denied::TooLong => "its value is too long",
            Denied::Pending => "it is being written",
            Denied::Rewritten => "it is written too often",
            Denied::Unsettled => "its partition is not settled",
            Denied::Full => "too many keys are granted",
            Denied::NoMemory => "it cannot be stored here",
            Denied::NotSync => "its namespace is not replicated synchronously",
        })
    }
}

/// How a core stands with a key that it wants a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// It has one.
    Held,
    /// It has asked.
    Asked,
    /// It was told no.
    Denied(Denied),
}

#[derive(Debug)]
struct Copy {
    key: Box<[u8]>,
    partition: Partition,
    epoch: Epoch,
    /// The primary's core.
    peer: Peer,
    /// Reads are answered until then.
    until: Millis,
    /// Something of it lies in the shard.
    stored: bool,
    /// That is what came with the answer to this question over this link; 0: it is
    /// nothing of the kind.
    have: u64,
    /// The question under way, and when it was sent.
    question: Option<(u64, Millis)>,
    ask_at: Millis,
    denied: Option<Denied>,
}

impl Copy {
    fn is_due(&self, clock: Millis) -> bool {
        match self.question {
            None => clock >= self.ask_at,
            Some((_, sent)) => clock.since(sent) >= UNANSWERED_MS,
        }
    }

    /// It is worth nothing; it is asked for anew.
    fn void(&mut self, clock: Millis) {
        (self.until, self.have, self.ask_at) = (Millis(0), 0, clock);
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Copies {
    wanted: BTreeMap<KeyHash, Copy>,
    /// Revocations that are obeyed, and not yet confirmed.
    revoked: Vec<(Peer, u64)>,
    questions: u64,
}

impl Copies {
    /// Primaries of which something is wanted.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.wanted.values().map(|copy| copy.peer)
    }

    /// Whether there is something to be said to a primary.
    pub fn has_news(&self, peer: Peer, clock: Millis) -> bool {
        self.revoked.iter().any(|(to, _)| *to == peer)
            || self.wanted.values().any(|copy| copy.peer == peer && copy.is_due(clock))
    }

    /// The link to a primary begins or ends.
    pub fn reset_link(&mut self, peer: Peer, clock: Millis) -> Vec<KeyHash> {
        self.revoked.retain(|(to, _)| *to != peer);
        let mut void = Vec::new();
        for (hash, copy) in self.wanted.iter_mut().filter(|(_, copy)| copy.peer == peer) {
            copy.void(clock);
            copy.question = None;
            void.push(*hash);
        }
        void
    }

    fn asking(&mut self, number: u64) -> Option<(KeyHash, &mut Copy)> {
        let mut all = self.wanted.iter_mut();
        let found = all.find(|(_, copy)| copy.question.is_some_and(|(own, _)| own == number));
        found.map(|(hash, copy)| (*hash, copy))
    }
}

impl Replicator {
    /// The keys of other nodes of which this core wants copies now, the hottest
    /// first. Those that it wanted before and does not name are given up.
    pub fn want_copies(&mut self, keys: &[(KeyHash, &[u8])], shard: &mut Shard, now: Now) {
        let most = self.limits.copies_max;
        let keys = &keys[..keys.len().min(most)];
        self.drop_copies(shard, now, |hash, _| !keys.iter().any(|(wanted, _)| *wanted == hash));
        for (hash, key) in keys {
            if self.copies.wanted.contains_key(hash) {
                continue;
            }
            let partition = self.topology.ring().of(*hash);
            let owners = self.topology.owners(partition);
            let (Some(me), Some(primary)) = (self.me, owners.primary()) else { continue };
            // What lies here of a partition that was held is still being dropped.
            if owners.position(me).is_some() || self.garbage.contains(partition) {
                continue;
            }
            let copy = Copy {
                key: Box::from(*key),
                partition,
                epoch: owners.epoch,
                peer: self.peer_for(primary, *hash),
                until: Millis(0),
                stored: false,
                have: 0,
                question: None,
                ask_at: self.clock,
                denied: None,
            };
            self.copies.wanted.insert(*hash, copy);
        }
    }

    /// Until when reads of a key that another node leads may be answered from the
    /// copy in the shard, if that is still there.
    #[inline]
    pub fn copy_until(&self, hash: KeyHash, clock: Millis) -> Option<Millis> {
        if self.copies.wanted.is_empty() {
            return None;
        }
        let copy = self.copies.wanted.get(&hash)?;
        let good = clock < copy.until && self.is_leased(clock) && clock >= self.near_from;
        (good && copy.have > 0).then_some(copy.until)
    }

    /// A read was answered from a copy.
    pub fn copy_was_read(&mut self) {
        self.counters.copy_reads += 1;
    }

    /// The shard has evicted a copy, or it is dead.
    pub fn copy_is_missing(&mut self, hash: KeyHash) {
        let clock = self.clock;
        if let Some(copy) = self.copies.wanted.get_mut(&hash) {
            copy.void(clock);
        }
        self.withdraw(hash);
    }

    /// Copies that may be read.
    pub fn copies_held(&self) -> usize {
        self.copies
            .wanted
            .keys()
            .filter(|hash| self.copy_until(**hash, self.clock).is_some())
            .count()
    }

    /// How it stands with a key; `None` if no copy is wanted.
    pub fn copy_state(&self, hash: KeyHash) -> Option<CopyState> {
        let copy = self.copies.wanted.get(&hash)?;
        Some(match copy.denied {
            _ if self.copy_until(hash, self.clock).is_some() => CopyState::Held,
            Some(why) => CopyState::Denied(why),
            None => CopyState::Asked,
        })
    }

    /// The link to a primary begins or ends: what was granted over it could not be
    /// taken back any more.
    pub(super) fn reset_copies(&mut self, peer: Peer) {
        for hash in self.copies.reset_link(peer, self.clock) {
            self.withdraw(hash);
        }
    }

    /// Until when this core may show other cores of its node what it holds of a
    /// key, and answer for it; it will say when it may not any more
    /// ([`Replicator::withdrawn`]).
    pub fn may_show(&self, hash: KeyHash, clock: Millis) -> Option<Millis> {
        if let Some(until) = self.copy_until(hash, clock) {
            return Some(until);
        }
        let here = clock >= self.near_from
            && !self.is_pending(hash)
            && self.route(hash, Access::Read, clock) == Route::Here;
        here.then_some(Millis(u64::MAX))
    }

    /// It shows this key from now on.
    pub fn show(&mut self, hash: KeyHash) {
        if !self.shown.contains(&hash) {
            self.shown.push(hash);
        }
    }

    /// It does not show it any more.
    pub fn unshow(&mut self, hash: KeyHash) {
        self.shown.retain(|shown| *shown != hash);
    }

    /// Keys that must not be shown any more, before anything else leaves this core.
    pub fn withdrawn(&mut self) -> impl Iterator<Item = KeyHash> + '_ {
        self.withdrawn.drain(..)
    }

    /// What this core has of a key has changed, or is about to.
    pub(super) fn withdraw(&mut self, hash: KeyHash) {
        if let Some(at) = self.shown.iter().position(|shown| *shown == hash) {
            self.withdrawn.push(self.shown.swap_remove(at));
        }
    }

    /// The same for all keys.
    pub(super) fn withdraw_all(&mut self) {
        self.withdrawn.append(&mut self.shown);
    }

    /// Copies of which the topology says something else than when they were asked
    /// for are void, and leave the shard before anything is stored in their place.
    pub(super) fn drop_moved_copies(&mut self, shard: &mut Shard, now: Now) {
        if self.copies.wanted.is_empty() {
            return;
        }
        let (topology, me) = (self.topology.clone(), self.me);
        self.drop_copies(shard, now, |_, copy| {
            let owners = topology.owners(copy.partition);
            owners.epoch != copy.epoch
                || owners.primary() != Some(copy.peer.node)
                || me.is_none_or(|me| owners.position(me).is_some())
        });
    }

    fn drop_copies(
        &mut self,
        shard: &mut Shard,
        now: Now,
        mut is_out: impl FnMut(KeyHash, &Copy) -> bool,
    ) {
        let out = self.copies.wanted.extract_if(.., |hash, copy| is_out(*hash, copy));
        for (hash, copy) in out.collect::<Vec<_>>() {
            if copy.stored {
                shard.unlink_key(&copy.key, hash, now);
            }
            self.withdraw(hash);
        }
    }

    /// Questions and confirmations for a primary.
    pub(super) fn poll_copies(&mut self, peer: Peer, out: &mut Vec<u8>) {
        let (clock, copies) = (self.clock, &mut self.copies);
        copies.revoked.retain(|(to, number)| {
            if *to == peer {
                put(&Message::Revoked { number: *number }, out);
            }
            *to != peer
        });
        for copy in copies.wanted.values_mut() {
            if copy.peer == peer && copy.is_due(clock) {
                copies.questions += 1;
                let number = copies.questions;
                copy.question = Some((number, clock));
                put(&Message::Want { number, have: copy.have, key: &copy.key }, out);
            }
        }
    }

    /// A primary grants what was asked for. False: that makes no sense.
    pub(super) fn granted(
        &mut self,
        number: u64,
        span_ms: u32,
        bytes: &[u8],
        shard: &mut Shard,
        now: Now,
    ) -> bool {
        let clock = self.clock;
        // Asked before the copy was given up, or over another link.
        let Some((hash, copy)) = self.copies.asking(number) else { return true };
        let Some((_, sent)) = copy.question.take() else { return true };
        if !bytes.is_empty() {
            let Some(Some(record)) = snapshot::records(bytes).next() else { return false };
            if *record.key != *copy.key {
                return false;
            }
            let adopted = matches!(shard.adopt(&record, now), Ok(true));
            copy.stored = true;
            copy.have = if adopted { number } else { 0 };
            if !adopted {
                copy.denied = Some(Denied::NoMemory);
                (copy.until, copy.ask_at) = (Millis(0), clock.plus(REFUSED_PAUSE_MS));
            }
            self.counters.copied += 1;
            self.withdraw(hash);
        }
        if let Some(copy) = self.copies.wanted.get_mut(&hash).filter(|copy| copy.have > 0) {
            copy.denied = None;
            copy.until = sent.plus(span_ms.into());
            // In time for one answer that is late.
            copy.ask_at = sent.plus(u64::from(span_ms) / 2);
        }
        true
    }

    /// A primary grants nothing.
    pub(super) fn denied(&mut self, number: u64, why: Denied) {
        let clock = self.clock;
        if let Some((_, copy)) = self.copies.asking(number) {
            copy.question = None;
            copy.denied = Some(why);
            copy.ask_at = clock.plus(REFUSED_PAUSE_MS);
        }
    }

    /// A primary takes a copy back.
    pub(super) fn revoke_copy(
        &mut self,
        peer: Peer,
        number: u64,
        hash: KeyHash,
        shard: &mut Shard,
        now: Now,
    ) {
        let clock = self.clock;
        if let Some(copy) = self.copies.wanted.get_mut(&hash).filter(|copy| copy.peer == peer) {
            copy.void(clock);
            if core::mem::take(&mut copy.stored) {
                shard.unlink_key(&copy.key, hash, now);
            }
        }
        self.withdraw(hash);
        self.copies.revoked.push((peer, number));
    }
}
