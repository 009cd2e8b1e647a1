//! The primary's side of hot keys: its books of who may answer reads of an item.
//!
//! A grant names a key, a holder and an end. Until that end, by these books, a
//! write of the key is not acknowledged, and nobody is told of it, before the
//! holder has confirmed that its copy is gone: it waits for that like for a
//! replica. So whoever reads at a holder reads what no acknowledged write has
//! replaced, and no later reader elsewhere has seen replaced.
//!
//! An invalidation changes items without writing them. It begins by taking back all
//! grants of every core, and goes on at each when they are gone
//! ([`Replicator::copies_are_gone`]); until its end nothing is granted.
//!
//! Two rules keep the grants out of everybody else's sight:
//!
//! - A grant ends before the node's lease does. Who waits until that lease is over
//!   has waited for all grants.
//! - A core does not say that it acts by a topology that takes a partition from it
//!   ([`Replicator::acts`]), nor that a partition is [paused](Replicator::pause),
//!   while a grant in it is alive. Who waits for that confirmation, as every new
//!   primary does, has waited for all grants.
//!
//! The clock by which a grant is counted is read after the question came, or the
//! holder's span, which begins when it sent the question, could outlast it.

use super::copies::Denied;
use super::message::Message;
use super::replicator::{Access, Replicator, Route};
use super::tickets::Ticket;
use super::wire::put;
use super::{Lsn, Peer};
use crate::map::Map;
use crate::ring::Partition;
use crate::time::{Millis, Timing};
use crate::topology::{Epoch, Revision};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use engine::{Glance, KeyHash, Now, Shard};

/// Keys that may be granted at a time.
const KEYS_MAX: usize = 1_024;
/// Questions that may wait for the next tick.
const QUESTIONS_MAX: usize = 8_192;
/// A shorter grant is not worth its messages.
const SPAN_MS_MIN: u64 = 10;
/// What a grant's two ends and the lease's may lose to whole milliseconds.
const ROUNDING_MS: u64 = 4;
/// A key that is written sooner than this after it was granted rests before it is
/// granted again, at first for so long, then ever longer, up to the last.
const PAYS_MS: u64 = 20;
const REST_MS_MIN: u64 = 20;
const REST_MS_MAX: u64 = 1_000;

#[derive(Debug)]
struct Grant {
    holder: Peer,
    until: Millis,
    /// The holder has what the answer to this question carried, or will: it is on
    /// its way.
    sent: u64,
    /// It is being taken back, under this number.
    revoked: Option<u64>,
}

/// A key that others hold.
#[derive(Debug)]
struct Granted {
    partition: Partition,
    epoch: Epoch,
    since: Millis,
    holders: Vec<Grant>,
    /// This node does not lead the partition any more, or anew.
    lost: bool,
}

/// An answer that waits for a holder.
#[derive(Clone, Copy, Debug)]
struct Wait {
    revocation: u64,
    lsn: Lsn,
    ticket: Ticket,
}

/// How long a key that is written often is left alone.
#[derive(Clone, Copy, Debug)]
struct Rest {
    ms: u64,
    until: Millis,
}

#[derive(Debug)]
struct Question {
    holder: Peer,
    number: u64,
    have: u64,
    key: Box<[u8]>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Grants {
    keys: BTreeMap<KeyHash, Granted>,
    waits: Vec<Wait>,
    rests: Map<KeyHash, Rest>,
    questions: VecDeque<Question>,
    /// What is to be said to each holder, in the order in which it was decided.
    back: BTreeMap<Peer, Vec<u8>>,
    revocations: u64,
    /// The last revocation that an invalidation waits for.
    invalidates: u64,
    /// The revision acted by before the topologies that took something.
    acted: Revision,
}

impl Grants {
    /// Whether something is to be said to a holder.
    pub fn has_news(&self, peer: Peer) -> bool {
        !self.back.is_empty() && self.back.contains_key(&peer)
    }

    /// Takes what is to be said to a holder.
    pub fn poll_back(&mut self, peer: Peer, out: &mut Vec<u8>) {
        if let Some(bytes) = self.back.remove(&peer) {
            out.extend_from_slice(&bytes);
        }
    }

    /// Whether a key of the partition is granted.
    pub fn covers(&self, partition: Partition) -> bool {
        self.keys.values().any(|granted| granted.partition == partition)
    }

    /// Whether one of the partition is, which this node does not lead any more.
    pub fn any_lost_of(&self, partition: Partition) -> bool {
        self.keys.values().any(|granted| granted.lost && granted.partition == partition)
    }

    /// Whether one is that this node does not lead any more.
    fn any_lost(&self) -> bool {
        self.keys.values().any(|granted| granted.lost)
    }

    /// The first write that waits for a holder.
    pub fn first_wait(&self) -> Option<Lsn> {
        self.waits.iter().map(|wait| wait.lsn).min()
    }

    /// Takes back what is granted of a key. The numbers to wait for.
    fn revoke(&mut self, hash: KeyHash) -> Vec<u64> {
        let Some(granted) = self.keys.get_mut(&hash) else { return Vec::new() };
        let mut numbers = Vec::new();
        for grant in &mut granted.holders {
            numbers.push(*grant.revoked.get_or_insert_with(|| {
                self.revocations += 1;
                let number = self.revocations;
                put(&Message::Revoke { number, hash }, self.back.entry(grant.holder).or_default());
                number
            }));
        }
        numbers
    }

    /// Grants that are over in some way; the revocations that waited for them.
    fn end(&mut self, mut is_over: impl FnMut(&Grant) -> bool) -> Vec<u64> {
        let mut over = Vec::new();
        self.keys.retain(|_, granted| {
            granted.holders.retain(|grant| {
                let ends = is_over(grant);
                if ends {
                    over.extend(grant.revoked);
                }
                !ends
            });
            !granted.holders.is_empty()
        });
        over
    }

    /// Answers that waited for these revocations.
    fn waited(&mut self, revocations: &[u64]) -> Vec<Ticket> {
        let mut free = Vec::new();
        if !revocations.is_empty() {
            self.waits.retain(|wait| {
                let done = revocations.contains(&wait.revocation);
                if done {
                    free.push(wait.ticket);
                }
                !done
            });
        }
        free
    }
}

impl Replicator {
    /// The revision that this core acts by, as far as others rely on that: while a
    /// grant is alive in a partition that a later one took from it, that is the one
    /// before.
    pub fn acts(&self) -> Revision {
        if self.grants.any_lost() { self.grants.acted } else { self.topology.revision() }
    }

    /// Who holds a copy of a key that this core leads.
    pub fn holders(&self, hash: KeyHash) -> impl Iterator<Item = Peer> + '_ {
        let granted = self.grants.keys.get(&hash);
        granted.into_iter().flat_map(|granted| granted.holders.iter().map(|grant| grant.holder))
    }

    /// Keys of which others hold copies.
    pub fn keys_granted(&self) -> usize {
        self.grants.keys.len()
    }

    /// A core of another node wants a copy. False: it asks too much.
    pub(super) fn wanted(&mut self, holder: Peer, number: u64, have: u64, key: &[u8]) -> bool {
        let key = Box::from(key);
        self.grants.questions.push_back(Question { holder, number, have, key });
        self.grants.questions.len() <= QUESTIONS_MAX
    }

    /// Answers the questions that came before the clock was last read.
    pub(super) fn answer_questions(&mut self, shard: &mut Shard, now: Now) {
        let mut record = Vec::new();
        for question in core::mem::take(&mut self.grants.questions) {
            record.clear();
            let number = question.number;
            let answer = match self.grant(&question, shard, now, &mut record) {
                Ok(span_ms) => {
                    self.counters.granted += 1;
                    Message::Granted { number, span_ms: span_ms as u32, record: &record }
                }
                Err(why) => Message::Denied { number, why },
            };
            put(&answer, self.grants.back.entry(question.holder).or_default());
        }
    }

    /// Decides about a question: for how long, or why not.
    fn grant(
        &mut self,
        question: &Question,
        shard: &mut Shard,
        now: Now,
        record: &mut Vec<u8>,
    ) -> Result<u64, Denied> {
        let (clock, key) = (self.clock, &question.key);
        let hash = shard.hash_of(key);
        let partition = self.topology.ring().of(hash);
        let owners = *self.topology.owners(partition);
        let serves = self.me.is_some()
            && owners.primary() == self.me
            && hash.core(u32::from(self.cores)) == u32::from(self.core)
            && self.route(hash, Access::Write, clock) == Route::Here
            && clock >= self.near_from;
        let lease_ms = self.lease_until.since(clock);
        let margin_ms = lease_ms.div_ceil(Timing::default().drift_parts) + ROUNDING_MS;
        let span_ms = self.limits.copy_ms.min(lease_ms.saturating_sub(margin_ms));
        if self.is_read_at_primary(key) {
            return Err(Denied::NotSync);
        }
        if !serves || span_ms < SPAN_MS_MIN {
            return Err(Denied::Unsettled);
        }
        let known = self.grants.keys.get(&hash);
        let revoked = known.is_some_and(|granted| {
            granted.lost || granted.holders.iter().any(|grant| grant.revoked.is_some())
        });
        if revoked || self.is_pending(hash) {
            return Err(Denied::Pending);
        }
        if self.grants.rests.get(&hash).is_some_and(|rest| clock < rest.until) {
            return Err(Denied::Rewritten);
        }
        if known.is_none() && self.grants.keys.len() >= KEYS_MAX {
            return Err(Denied::Full);
        }
        let found = shard.glance(key, hash, now);
        if found.is_marked() {
            return Err(Denied::Marked);
        }
        let Glance::Item(found) = found else { return Err(Denied::NoItem) };
        if found.item.value_bytes as usize > self.limits.copy_bytes_max {
            return Err(Denied::TooLong);
        }
        // What is granted has not changed since: it would be revoked.
        let has_it = known.is_some_and(|granted| {
            let same =
                |grant: &Grant| grant.holder == question.holder && grant.sent == question.have;
            granted.holders.iter().any(same)
        });
        if !has_it && !shard.export(key, hash, now, record) {
            return Err(Denied::NoItem);
        }
        let sent = if has_it { question.have } else { question.number };
        let until = clock.plus(Timing::default().surely_ms(span_ms));
        let (epoch, holder) = (owners.epoch, question.holder);
        let granted = self.grants.keys.entry(hash).or_insert_with(|| Granted {
            partition,
            epoch,
            since: clock,
            holders: Vec::new(),
            lost: false,
        });
        match granted.holders.iter_mut().find(|grant| grant.holder == holder) {
            Some(grant) => (grant.until, grant.sent) = (grant.until.max(until), sent),
            None => granted.holders.push(Grant { holder, until, sent, revoked: None }),
        }
        Ok(span_ms)
    }

    /// A key is about to change: its holders lose it. The revocations that the
    /// change must wait for.
    pub(super) fn revoke_for_write(&mut self, hash: KeyHash) -> Vec<u64> {
        if self.grants.keys.is_empty() {
            return Vec::new();
        }
        let clock = self.clock;
        let Some(granted) = self.grants.keys.get(&hash) else { return Vec::new() };
        let since = granted.since;
        let fresh = granted.holders.iter().all(|grant| grant.revoked.is_none());
        let numbers = self.grants.revoke(hash);
        if fresh {
            self.counters.revoked += 1;
            if clock.since(since) < PAYS_MS {
                let rest = self.grants.rests.entry(hash).or_insert(Rest { ms: 0, until: clock });
                rest.ms = (rest.ms * 2).clamp(REST_MS_MIN, REST_MS_MAX);
                rest.until = clock.plus(rest.ms);
            } else {
                self.grants.rests.remove(&hash);
            }
        }
        numbers
    }

    /// The current batch waits for these revocations.
    pub(super) fn wait_for_holders(&mut self, revocations: &[u64], lsn: Lsn) -> bool {
        let ticket = self.tickets.current();
        for revocation in revocations {
            self.grants.waits.push(Wait { revocation: *revocation, lsn, ticket });
            self.tickets.wait();
        }
        !revocations.is_empty()
    }

    /// A reader of a key waits along with its last write for the key's holders.
    pub(super) fn read_waits_for_holders(&mut self, lsn: Lsn) {
        let waits = self.grants.waits.iter().filter(|wait| wait.lsn == lsn);
        let mut revocations: Vec<u64> = waits.map(|wait| wait.revocation).collect();
        revocations.sort_unstable();
        revocations.dedup();
        self.wait_for_holders(&revocations, lsn);
    }

    /// A holder has given a copy up.
    pub(super) fn revoked(&mut self, number: u64) {
        let over = self.grants.end(|grant| grant.revoked == Some(number));
        self.free(&over);
    }

    /// A holder begins a new link: over the last one it has lost all copies.
    pub(super) fn forget_holder(&mut self, peer: Peer) {
        self.grants.questions.retain(|question| question.holder != peer);
        self.grants.back.remove(&peer);
        let over = self.grants.end(|grant| grant.holder == peer);
        self.free(&over);
    }

    /// Grants end by the books.
    pub(super) fn expire_grants(&mut self, clock: Millis) {
        if !self.grants.keys.is_empty() {
            let over = self.grants.end(|grant| clock >= grant.until);
            self.free(&over);
        }
        if self.grants.rests.len() > KEYS_MAX {
            self.grants.rests.retain(|_, rest| clock < rest.until);
        }
    }

    fn free(&mut self, revocations: &[u64]) {
        for ticket in self.grants.waited(revocations) {
            self.confirm(ticket, None);
        }
    }

    /// Takes back what is granted of a partition.
    pub(super) fn revoke_partition(&mut self, partition: Partition) {
        let keys = self.grants.keys.iter();
        let keys = keys.filter(|(_, granted)| granted.partition == partition);
        for hash in keys.map(|(hash, _)| *hash).collect::<Vec<_>>() {
            self.grants.revoke(hash);
        }
    }

    /// Takes back everything that is granted.
    pub(super) fn revoke_all(&mut self) {
        for hash in self.grants.keys.keys().copied().collect::<Vec<_>>() {
            self.grants.revoke(hash);
        }
        self.grants.invalidates = self.grants.revocations;
    }

    /// Nothing is granted any more of what was when near reads were last suspended.
    pub fn copies_are_gone(&self) -> bool {
        let last = self.grants.invalidates;
        let old = |grant: &Grant| grant.revoked.is_some_and(|number| number <= last);
        !self.grants.keys.values().any(|granted| granted.holders.iter().any(old))
    }

    /// Notes by which revision this core acts, before it is given another topology.
    pub(super) fn note_acts(&mut self) {
        self.grants.acted = self.acts();
    }

    /// Takes back what is granted of partitions that this node does not lead any
    /// more, or anew.
    pub(super) fn revoke_lost(&mut self) {
        let (topology, me) = (self.topology.clone(), self.me);
        let mut lost = Vec::new();
        for (hash, granted) in &mut self.grants.keys {
            let owners = topology.owners(granted.partition);
            if me.is_none() || owners.primary() != me || owners.epoch != granted.epoch {
                granted.lost = true;
                lost.push(*hash);
            }
        }
        for hash in lost {
            self.grants.revoke(hash);
        }
        self.grants.back.retain(|peer, _| topology.member(peer.node).is_some());
    }
}
