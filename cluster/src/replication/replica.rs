//! A core's replication: the links from its primaries.

use super::garbage::Part;
use super::message::{Change, FILL_ENDED, Message};
use super::replicator::Replicator;
use super::source::{Filling, Source, Uncertain};
use super::wire::{put, take};
use super::{Effect, Lsn, Peer};
use crate::ring::Partition;
use crate::topology::Revision;
use alloc::boxed::Box;
use alloc::vec::Vec;
use engine::{KeyHash, Now, Shard, snapshot};

impl Replicator {
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
                let past = self.sources.get(&peer);
                if past.is_some_and(|source| source.incarnation != *incarnation) {
                    self.forget_uncertain(|from, _| from == peer);
                    self.sources.remove(&peer);
                }
                let source = self.sources.entry(peer).or_insert_with(|| Source::new(*incarnation));
                source.told = Revision(0);
                source.marked = None;
                let lsn = source.applied;
                let filling = source.filling.as_ref();
                let (fill, place) =
                    filling.map_or((0, 0), |filling| (filling.number, filling.place));
                self.forget_holder(peer);
                // What was asked over the last link may be lost.
                self.asks.reopen(peer);
                let incarnation = self.incarnation;
                put(&Message::Opened { incarnation, lsn, fill, place }, out);
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
                    // Who holds a copy that this node granted when it led would not
                    // know of the write that this one confirms.
                    if self.grants.any_lost_of(*partition) {
                        return Some(false);
                    }
                    let (hash, key) = self.store(change, shard, now)?;
                    self.stored[partition.0 as usize] = true;
                    self.reigned.remove(partition);
                    self.asks.answered(hash);
                    let source = self.sources.get_mut(&peer)?;
                    let (lsn, partition) = (*lsn, *partition);
                    source.uncertain.push_back(Uncertain { lsn, partition, hash, key });
                    *self.unsettled.entry(hash).or_default() += 1;
                    self.counters.applied += 1;
                }
            }
            Message::Mark { lsn, settled } => {
                let source = self.sources.get_mut(&peer)?;
                source.applied = source.applied.max(*lsn);
                if source.marked != Some(*lsn) {
                    source.marked = Some(*lsn);
                    put(&Message::Ack { lsn: *lsn }, out);
                }
                self.settle(peer, *settled);
            }
            Message::Begin { fill, partitions } => {
                let source = self.sources.get_mut(&peer)?;
                if source.filling(*fill).is_none() {
                    let mut covers = Vec::new();
                    for (partition, epoch) in partitions {
                        let owners = self.topology.owners.get(partition.0 as usize);
                        if owners.is_some_and(|owners| owners.epoch <= *epoch) {
                            covers.push(*partition);
                        }
                    }
                    covers.sort_unstable();
                    let filling = Filling { number: *fill, covers: covers.clone(), place: 0 };
                    source.filling = Some(filling);
                    self.begin_anew(peer, &covers);
                }
                if partitions.iter().any(|(partition, _)| self.garbage.contains(*partition)) {
                    return Some(false);
                }
                for (partition, _) in partitions {
                    if let Some(stored) = self.stored.get_mut(partition.0 as usize) {
                        *stored = true;
                    }
                }
            }
            Message::Fill { fill, record } => {
                let key = snapshot::records(record).next()??.key;
                let partition = self.topology.ring().of(shard.hash_of(key));
                let source = self.sources.get_mut(&peer)?;
                let covered = source.filling(*fill).is_some() && source.covers(partition);
                // The topology may have changed since.
                let owners = self.topology.owners(partition);
                let holds = self.me.is_some_and(|me| owners.position(me).is_some());
                if covered && holds && owners.primary() == Some(peer.node) {
                    self.store(&Change::Item(record), shard, now)?;
                }
            }
            Message::Step { fill, place } => {
                if let Some(filling) = self.sources.get_mut(&peer)?.filling(*fill) {
                    filling.place = *place;
                }
            }
            Message::End { fill } => {
                let mut covers = Vec::new();
                if let Some(filling) = self.sources.get_mut(&peer)?.filling(*fill) {
                    covers = core::mem::take(&mut filling.covers);
                    filling.place = FILL_ENDED;
                }
                for partition in covers {
                    if self.topology.owners(partition).primary() == Some(peer.node) {
                        self.is_filled(peer, partition);
                    }
                }
                put(&Message::Filled { fill: *fill }, out);
            }
            Message::Want { number, have, key } => {
                self.sources.get(&peer)?;
                if !self.wanted(peer, *number, *have, key) {
                    return None;
                }
            }
            Message::Revoked { number } => self.revoked(*number),
            Message::Generations(generations) => {
                self.take_over_generations(generations, shard);
            }
            _ => return None,
        }
        Some(true)
    }

    /// What this node has of a primary's core in some partitions is worth nothing.
    fn begin_anew(&mut self, peer: Peer, partitions: &[Partition]) {
        let part = Part { core: peer.core, cores: self.topology.cores_of(peer.node) };
        for partition in partitions {
            if self.stored[partition.0 as usize] {
                self.garbage.add_part(*partition, part);
            }
            // Where nothing was missing, the others' parts are there.
            let others = (0..part.cores).map(|core| Peer { node: peer.node, core });
            let filled = self.void.entry(*partition).or_insert_with(|| others.collect());
            filled.retain(|filled| *filled != peer);
            self.reigned.remove(partition);
        }
        self.withdraw_all();
        let covered = |partition: Partition, hash: KeyHash| {
            partitions.binary_search(&partition).is_ok() && part.has(hash)
        };
        self.asks.take(covered);
        self.forget_uncertain(|_, entry| covered(entry.partition, entry.hash));
    }

    /// A primary's core has filled its part of a partition.
    fn is_filled(&mut self, peer: Peer, partition: Partition) {
        let cores = self.topology.cores_of(peer.node);
        // Those of as many cores share keys one by one.
        let all = if cores == self.cores { 1 } else { usize::from(cores) };
        let Some(filled) = self.void.get_mut(&partition) else { return };
        filled.retain(|known| known.node == peer.node && *known != peer);
        filled.push(peer);
        if filled.len() >= all {
            self.void.remove(&partition);
        }
    }

    /// Everything up to `lsn` of a primary's log is where it must be.
    fn settle(&mut self, peer: Peer, lsn: Lsn) {
        while let Some(source) = self.sources.get_mut(&peer)
            && let Some(entry) = source.uncertain.pop_front_if(|entry| entry.lsn <= lsn)
        {
            self.settle_key(entry.hash);
        }
    }

    /// Takes over the state of a key, which it returns.
    fn store(
        &mut self,
        change: &Change<'_>,
        shard: &mut Shard,
        now: Now,
    ) -> Option<(KeyHash, Box<[u8]>)> {
        let key = match change {
            Change::Gone(key) => {
                shard.unlink_key(key, shard.hash_of(key), now);
                *key
            }
            Change::Item(bytes) => {
                let record = snapshot::records(bytes).next()??;
                if shard.adopt(&record, now).is_err() {
                    self.counters.unstored += 1;
                }
                record.key
            }
        };
        let hash = shard.hash_of(key);
        self.withdraw(hash);
        Some((hash, key.into()))
    }

    /// What is to be said without being asked over a link that a peer opened: by a
    /// replica to its primary, and by a primary to a holder.
    pub fn poll_back(&mut self, peer: Peer, out: &mut Vec<u8>) {
        self.grants.poll_back(peer, out);
        let revision = self.topology.revision();
        let Some(source) = self.sources.get_mut(&peer) else { return };
        let topology = &self.topology;
        let their_cores = topology.cores_of(peer.node);
        // The questions come before it is said what is held: where the primary
        // builds on that, it has read them.
        self.asks.send(peer, u32::from(their_cores), topology, |partition, key| {
            put(&Message::Ask { partition, key }, out);
        });
        if source.told < revision {
            source.told = revision;
            let mut partitions = Vec::new();
            if their_cores == self.cores {
                for partition in &self.reigned_out {
                    let Some(epoch) = self.reigned.get(partition) else { continue };
                    let owners = topology.owners(*partition);
                    if owners.primary() == Some(peer.node) && owners.epoch.0 == epoch.0 + 1 {
                        partitions.push((*partition, *epoch));
                    }
                }
            }
            partitions.sort_unstable();
            let led = |at: &&Partition| topology.owners(**at).primary() == Some(peer.node);
            let void = self.void.iter().filter(|(partition, filled)| {
                !filled.contains(&peer) && !source.covers(**partition)
            });
            let mut lacks: Vec<Partition> = void.map(|(at, _)| *at).filter(|at| led(&at)).collect();
            lacks.sort_unstable();
            if !lacks.is_empty() {
                let fill = source.filling.as_ref().map_or(0, |filling| filling.number);
                put(&Message::Lacks { fill, partitions: lacks }, out);
            }
            put(&Message::Held { revision, partitions }, out);
        }
    }

    /// Peers whose [`Replicator::poll_back`] has something to say.
    pub fn wants_to_tell(&self, peer: Peer) -> bool {
        self.sources.get(&peer).is_some_and(|source| source.told < self.topology.revision())
            || self.asks.wants(peer.node, &self.topology)
            || self.grants.has_news(peer)
    }
}
