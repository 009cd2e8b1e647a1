//! A core's replication: a new topology, and what becomes of this node in it.
//!
//! For every partition this node was something before, the primary, a replica or
//! nothing, and is something now ([`Role`]). What lies here of it may be worth
//! nothing any more; who ceases to lead sorts out what nobody has confirmed; who
//! leads knows which replicas take part; who follows says what it lacks.

use super::lane::Lane;
use super::replicator::{Again, Replicator};
use super::shares::{Share, Stage};
use super::source::Uncertain;
use super::wire::key_of;
use super::{Effect, Lsn, Peer};
use crate::map::Set;
use crate::ring::Partition;
use crate::time::Millis;
use crate::topology::{Epoch, Member, NodeIndex, Owners, Revision, Topology};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::{HashSeed, KeyHash, Now, Shard};

/// What this node is to one partition.
struct Role<'a> {
    partition: Partition,
    /// Who owned it before, and who does now.
    was: Owners,
    is: &'a Owners,
    /// This node's place among them, before and now; the first is the primary's.
    held: Option<usize>,
    holds: Option<usize>,
}

impl Role<'_> {
    fn was_primary(&self) -> bool {
        self.held == Some(0)
    }

    fn is_primary(&self) -> bool {
        self.holds == Some(0)
    }

    fn is_other_epoch(&self) -> bool {
        self.is.epoch != self.was.epoch
    }

    /// All that anybody had of it was lost.
    fn began_anew(&self) -> bool {
        self.is.born > self.was.epoch
    }
}

/// What comes of a new topology beside the roles.
#[derive(Default)]
struct News {
    /// It is the next one after that before.
    one_step: bool,
    /// Keys to be written once more.
    again: Vec<Again>,
    /// Partitions that this node has in sync, and another one leads than before.
    led_by_others: Set<Partition>,
}

impl Replicator {
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
        let one_step = topology.revision().0 == old.revision().0 + 1;
        if !one_step {
            self.steps_unknown_until = topology.revision();
        }
        let mut news = News { one_step, ..News::default() };
        let in_sync_before = self.in_sync;
        if before != me || has_other_cores(&old, &topology) {
            // All roles may be others, or other cores of some node take part.
            self.in_sync = 0;
            for (partition, owners) in topology.partitions() {
                let was = old.owners.get(partition.0 as usize).unwrap_or(&Owners::NONE);
                self.in_sync += usize::from(me.is_some_and(|me| owners.is_in_sync(me)));
                self.take_role(partition, (before, was), (me, owners), &old, &mut news);
            }
        } else {
            for (partition, was, owners) in topology.changed(&old) {
                self.in_sync -= usize::from(me.is_some_and(|me| was.is_in_sync(me)));
                self.in_sync += usize::from(me.is_some_and(|me| owners.is_in_sync(me)));
                self.take_role(partition, (me, was), (me, owners), &old, &mut news);
            }
            self.exclude_fenced(&old);
        }
        if self.in_sync > 0 && in_sync_before == 0 {
            self.begin_near_reads();
        }
        let News { mut again, led_by_others, .. } = news;
        self.sort_out(&led_by_others, &mut again);
        self.append_again(again, shard, now);
        self.release();
        self.drop_lost_lanes();
    }

    /// What this node was to a partition and is from now on.
    fn take_role(
        &mut self,
        partition: Partition,
        (before, was): (Option<NodeIndex>, &Owners),
        (me, is): (Option<NodeIndex>, &Owners),
        old: &Topology,
        news: &mut News,
    ) {
        let held = before.and_then(|node| was.position(node));
        let holds = me.and_then(|node| is.position(node));
        let role = Role { partition, was: *was, is, held, holds };
        self.judge_content(&role);
        if role.was_primary() && (!role.is_primary() || role.is_other_epoch()) {
            self.cede(&role, &mut news.again);
        }
        let first = news.one_step && self.is_settled(partition);
        if news.one_step && was != is {
            self.changed.insert(partition, self.topology.revision());
        }
        if role.is_primary() {
            self.lead(&role, first, old);
        } else if self.stand_by(&role) {
            news.led_by_others.insert(partition);
        }
        if self.reigned.contains_key(&partition) && !me.is_some_and(|me| is.is_in_sync(me)) {
            self.reigned_out.insert(partition);
        } else {
            self.reigned_out.remove(&partition);
        }
    }

    /// Nodes from which something was taken: what was about to make their copies in
    /// sync comes too late, also where the owners are the same.
    fn exclude_fenced(&mut self, old: &Topology) {
        let topology = Arc::clone(&self.topology);
        let fence = |topology: &Topology, node| topology.member(node).map(|member| member.fence);
        for lane in self.lanes.values_mut() {
            let node = lane.peer.node;
            if fence(old, node) == fence(&topology, node) {
                continue;
            }
            lane.shares.change_open(|partition, share| {
                let owners = topology.owners(partition);
                if owners.position(node).is_some() && !owners.is_in_sync(node) {
                    share.exclude(topology.revision());
                }
            });
        }
    }

    /// Whether nobody takes the owners of a partition for others than they were by the
    /// topology before this one.
    fn is_settled(&self, partition: Partition) -> bool {
        self.settled >= self.steps_unknown_until
            && (self.changed.is_empty() || !self.changed.contains_key(&partition))
    }

    /// What is here of a partition, is it worth anything?
    fn judge_content(&mut self, role: &Role<'_>) {
        let partition = role.partition;
        let stored = &mut self.stored[partition.0 as usize];
        if role.held.is_some() && (role.holds.is_none() || role.began_anew()) {
            if *stored {
                self.garbage.add(partition);
            }
            self.reigned.remove(&partition);
        }
        *stored |= self.me.is_some_and(|me| role.is.is_in_sync(me));
        if role.held.is_some() && (role.holds.is_none() || role.is_other_epoch()) {
            self.sources.values_mut().for_each(|source| source.uncover(partition));
        }
    }

    /// This node is not primary any more, or anew. The keys to be written once more
    /// go into `again`.
    fn cede(&mut self, role: &Role<'_>, again: &mut Vec<Again>) {
        if self.modes.has_none() {
            self.garbage.add_unreplicated(role.partition);
        }
        let (mut keys, complete) = self.step_down(role.partition);
        if role.is_primary() {
            again.append(&mut keys);
        } else {
            self.follow(role.partition, role.was.epoch, keys, complete);
        }
    }

    /// This node is primary. `first`: the topology is the first in which the partition
    /// may have other owners than it had when all was settled.
    fn lead(&mut self, role: &Role<'_>, first: bool, old: &Topology) {
        if !role.was_primary() || role.is_other_epoch() {
            let at_once = first
                && !role.was_primary()
                && self.modes.is_all_sync()
                && keeps_all(&role.was, role.is);
            self.take_over(role.partition, self.topology.revision(), at_once);
        }
        self.share(role.partition, role.is, old);
    }

    /// This node is a replica, or nothing. True: it is in sync, and another one leads
    /// than before, or anew.
    fn stand_by(&mut self, role: &Role<'_>) -> bool {
        if role.holds.is_none() {
            if !self.void.is_empty() {
                self.void.remove(&role.partition);
            }
            return false;
        }
        if role.held.is_none() || role.began_anew() {
            self.void.insert(role.partition, Vec::new());
        }
        role.is_other_epoch() && self.me.is_some_and(|me| role.is.is_in_sync(me))
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
        if self.paused.remove(&partition) {
            self.draining.retain(|draining| *draining != partition);
        }
        self.promoted.remove(&partition);
        self.left.remove(&partition);
        let mut uncertain: Vec<Lsn> = Vec::new();
        let mut answers = Vec::new();
        uncertain.extend(self.refused.remove(&partition).into_iter().flatten());
        for lane in self.lanes.values_mut() {
            lane.shares.remove(partition);
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
                let mut too_early = false;
                lane.shares.change_or_insert(partition, fresh, |share| {
                    if share.stage == Stage::Left {
                        *share = Share { out: share.out, ..fresh };
                    }
                    if in_sync && share.stage != Stage::InSync {
                        if !share.stage.is_required() {
                            // It was believed too early. Everybody waits for it now.
                            too_early = true;
                            share.hollow = share.stage != Stage::Behind;
                        }
                        share.stage = Stage::InSync;
                    } else if excluded || !in_sync && share.stage == Stage::InSync {
                        share.exclude(revision);
                    }
                });
                if too_early {
                    self.effects.push(Effect::Suspect { node, cannot_follow: true });
                }
            }
        }
        for lane in self.lanes.values_mut() {
            if owners.position(lane.peer.node).is_some() {
                continue;
            }
            let (settled, mut is_over, mut leaves) = (self.settled, false, false);
            lane.shares.change(partition, |share| {
                share.exclude(revision);
                is_over = share.out <= settled;
                leaves = !is_over && share.stage != Stage::Left;
                if leaves {
                    share.stage = Stage::Left;
                }
            });
            if is_over {
                lane.shares.remove(partition);
            } else if leaves {
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
}

/// Whether a node of both has another number of cores than before.
fn has_other_cores(old: &Topology, new: &Topology) -> bool {
    new.nodes().any(|(node, member)| {
        old.member(node).is_some_and(|before| before.node.cores != member.node.cores)
    })
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
