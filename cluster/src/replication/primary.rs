//! A core's replication: the links to its replicas.

use super::invalidate::NO_PARTITION;
use super::lane::{Fill, Lane, Wait};
use super::message::Message;
use super::replicator::Replicator;
use super::shares::{Share, Stage};
use super::wire::{put, take};
use super::{Effect, Lsn, Mode, Peer};
use crate::ring::Partition;
use crate::topology::{Epoch, Incarnation, Revision};
use alloc::vec::Vec;
use engine::{KeyHash, Now, ScanCursor, ScanLimits, Shard};

/// Most questions of a replica that are kept until this node leads.
const QUESTIONS_MAX: usize = 1 << 20;

impl Replicator {
    /// Peers that this core has something for, some perhaps twice: there should be
    /// a link to each.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        let replicas = self.lanes.iter().filter(|(_, lane)| !lane.shares.is_empty());
        replicas.map(|(peer, _)| *peer).chain(self.copies.peers())
    }

    /// A link to a peer is there; what it must say first goes into `out`.
    pub fn connected(&mut self, peer: Peer, out: &mut Vec<u8>) {
        let next = self.log.next();
        let lane = self.lanes.entry(peer).or_insert_with(|| Lane::new(peer, next));
        lane.reset_link();
        lane.connected = true;
        self.reset_copies(peer);
        put(&Message::Open { incarnation: self.incarnation, core: self.core }, out);
    }

    /// The link to a peer is gone.
    pub fn disconnected(&mut self, peer: Peer) {
        if let Some(lane) = self.lanes.get_mut(&peer) {
            lane.reset_link();
            lane.connected = false;
        }
        self.reset_copies(peer);
        self.drop_lost_lanes();
    }

    /// Whether [`Replicator::poll`] has something for the peer.
    pub fn has_news(&self, peer: Peer) -> bool {
        let Some(lane) = self.lanes.get(&peer) else { return false };
        let fills = self.fill_budget > 0
            // One that has used up its share of time is no reason to turn.
            && lane.fill.as_ref().is_some_and(|fill| fill.ended.is_none())
            && self.may_fill(lane);
        lane.open && self.copies.has_news(peer, self.clock)
            || lane.open
                && !lane.broken
                && (lane.cursor < self.log.next()
                    || lane.tell_settled
                    || lane.tell_generations
                    || fills
                    || self.wants_fill(lane)
                    || lane.shares.may_join(lane.held))
    }

    fn wants_fill(&self, lane: &Lane) -> bool {
        lane.fill.is_none() && lane.shares.has_missing() && lane.held >= self.topology.revision()
    }

    /// Whether a lane's fill is to go on now: those that mend come first.
    fn may_fill(&self, lane: &Lane) -> bool {
        let mends = |lane: &Lane| {
            let goes_on = |fill: &Fill| fill.mends && fill.ended.is_none();
            lane.open && !lane.broken && lane.fill.as_ref().is_some_and(goes_on)
        };
        lane.fill.as_ref().is_some_and(|fill| fill.mends) || !self.lanes.values().any(mends)
    }

    /// What goes out to a peer now. True: there is more.
    pub fn poll(&mut self, peer: Peer, shard: &Shard, now: Now, out: &mut Vec<u8>) -> bool {
        if self.lanes.get(&peer).is_some_and(|lane| lane.open) {
            self.poll_copies(peer, out);
        }
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        if !lane.open || lane.broken {
            return false;
        }
        let start = out.len();
        if core::mem::take(&mut lane.tell_generations) {
            put(&Message::Generations(shard.generations()), out);
        }
        let most = start + self.limits.send_bytes_max;
        let their_cores = u32::from(self.topology.cores_of(peer.node));
        while lane.cursor < self.log.next() && out.len() < most {
            let Some(entry) = self.log.get(lane.cursor) else {
                // It has fallen too far behind.
                lane.broken = true;
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
        let (settled, revision) = (self.settled_lsn(), self.topology.revision());
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        let sent = Lsn(lane.cursor.0 - 1);
        let settled = if lane.held >= revision { settled.min(sent) } else { lane.settled };
        lane.tell_settled &= settled > lane.settled;
        if sent > lane.marked || out.len() > start || lane.tell_settled {
            lane.marked = sent;
            lane.settled = settled;
            lane.tell_settled = false;
            put(&Message::Mark { lsn: sent, settled }, out);
        }
        if caught_up {
            lane.shares.join(lane.held, sent);
        }
        self.report_joined(peer);
        self.has_news(peer)
    }

    /// Every in-sync replica has everything up to there. A replica is sent only
    /// when it acts under as late a topology as this core: what this one gave up
    /// when it was deposed is not settled, and the replica must know that first.
    pub(super) fn settled_lsn(&self) -> Lsn {
        let waits = self.lanes.values().filter_map(|lane| lane.waits.front());
        let refused = self.refused.values().flatten().copied();
        let first = waits.map(|wait| wait.lsn).chain(refused).chain(self.grants.first_wait()).min();
        Lsn(first.unwrap_or(self.log.next()).0 - 1)
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
            self.begin_fill(peer);
        }
        self.tell_begin(peer, shard, out);
        if self.lanes.get(&peer).is_none_or(|lane| !self.may_fill(lane)) {
            return;
        }
        let (ring, next) = (self.topology.ring(), self.log.next());
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let Some(fill) = lane.fill.as_mut().filter(|fill| fill.ended.is_none()) else { return };
        let budget = usize::try_from(self.fill_budget).unwrap_or(0);
        let bytes = self.limits.fill_bytes_max.min(budget);
        if bytes == 0 {
            return;
        }
        let shares = &lane.shares;
        let number = fill.number;
        let (mut sent, mut items) = (0, 0);
        // What other cores of this node own lies here as a copy at most.
        let (own, cores) = (u32::from(self.core), u32::from(self.cores));
        let modes = self.modes.has_none().then_some(&self.modes);
        let mut wanted = |hash: KeyHash, key: &[u8]| {
            hash.core(cores) == own
                && hash.core(their_cores) == u32::from(peer.core)
                && modes.is_none_or(|modes| modes.of(key) != Mode::None)
                && shares.get(ring.of(hash)).is_some_and(|share| share.stage == Stage::Filling)
        };
        let limits = ScanLimits { items: 256, bytes };
        shard.export_next(&mut fill.cursor, limits, now, &mut wanted, &mut |_, record| {
            put(&Message::Fill { fill: number, record }, out);
            sent += record.len();
            items += 1;
        });
        self.fill_budget -= sent as i64;
        self.counters.filled_items += items;
        if items > 0 {
            put(&Message::Step { fill: number, place: fill.cursor.place() }, out);
        }
        if fill.cursor.is_done() {
            fill.ended = Some(Lsn(next.0 - 1));
            put(&Message::End { fill: number }, out);
        }
    }

    /// Everything that is missing on a peer is filled in one walk; but if some of it is
    /// what its partitions lack, a walk for that goes before.
    fn begin_fill(&mut self, peer: Peer) {
        let from = self.log.next();
        let (topology, wanted) = (&self.topology, u32::from(self.topology.copies_wanted()));
        let lacks = |partition: Partition| topology.owners(partition).in_sync() < wanted;
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let mends = lane.shares.missing().any(lacks);
        lane.shares.change_open(|partition, share| {
            if share.stage == Stage::Missing && (!mends || lacks(partition)) {
                (share.stage, share.from, share.rewound) = (Stage::Filling, from, false);
                share.hollow = false;
            }
        });
        self.counters.fills += 1;
        // No other fill of this life has that number, whatever becomes of the lane.
        let (number, cursor) = (self.counters.fills as u32, ScanCursor::default());
        lane.fill = Some(Fill { number, mends, begun: false, cursor, ended: None });
    }

    /// What the fill covers is the first that a replica hears of it on a link.
    fn tell_begin(&mut self, peer: Peer, shard: &Shard, out: &mut Vec<u8>) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let Some(fill) = lane.fill.as_mut().filter(|fill| !fill.begun) else { return };
        fill.begun = true;
        let epoch = |partition: Partition| self.topology.owners(partition).epoch;
        let filling = lane.shares.filling().into_iter();
        let partitions = filling.map(|partition| (partition, epoch(partition))).collect();
        put(&Message::Generations(shard.generations()), out);
        put(&Message::Begin { fill: fill.number, partitions }, out);
    }

    /// Partitions whose last gap is closed.
    fn report_joined(&mut self, peer: Peer) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let joined = lane.shares.joined(lane.acked);
        if joined.is_empty() {
            return;
        }
        // It has what waited for it while it was not even to be sent: that was in
        // the fill. Nothing new may ever come that it would confirm.
        self.confirm_acked(peer);
        let Peer { node, core } = peer;
        let epoch = |partition: Partition| self.topology.owners(partition).epoch;
        let partitions = joined.into_iter().map(|at| (at, epoch(at))).collect();
        self.effects.push(Effect::CaughtUp { node, core, partitions });
    }

    /// What a replica answered. False: it is a protocol violation.
    pub fn replied(&mut self, peer: Peer, mut bytes: &[u8], shard: &mut Shard, now: Now) -> bool {
        while let Some((message, rest)) = take(bytes) {
            bytes = rest;
            let Some(message) = Message::read(message) else { return false };
            match message {
                Message::Opened { incarnation, lsn, fill, place } => {
                    if !self.opened(peer, incarnation, lsn, (fill, place)) {
                        return false;
                    }
                }
                Message::Ack { lsn } => self.acked(peer, lsn),
                Message::Filled { fill } => {
                    let Some(lane) = self.lanes.get_mut(&peer) else { continue };
                    if lane.fill.as_ref().is_some_and(|own| own.number == fill) {
                        lane.end_fill(Stage::Behind);
                    }
                }
                Message::Fenced { lsn, partition, epoch } => {
                    let Some(owners) = self.topology.owners.get(partition.0 as usize) else {
                        return false;
                    };
                    if epoch > owners.epoch {
                        self.fenced(peer, lsn, partition);
                    }
                }
                Message::Ask { partition, key } => {
                    if !self.asked(peer, partition, key, shard, now) {
                        return false;
                    }
                }
                Message::Held { revision, partitions } => self.held(peer, revision, &partitions),
                Message::Lacks { fill, partitions } => self.lacks(peer, fill, &partitions),
                Message::Granted { number, span_ms, record } => {
                    if !self.granted(number, span_ms, record, shard, now) {
                        return false;
                    }
                }
                Message::Denied { number, why } => self.denied(number, why),
                Message::Revoke { number, hash } => {
                    self.revoke_copy(peer, number, hash, shard, now);
                }
                _ => return false,
            }
        }
        // It may have been the last write that a hand-over waits for.
        self.report_paused();
        bytes.is_empty()
    }

    fn opened(
        &mut self,
        peer: Peer,
        incarnation: Incarnation,
        lsn: Lsn,
        (fill, place): (u32, u64),
    ) -> bool {
        let life = self.topology.member(peer.node).map(|member| member.node.incarnation);
        if life != Some(incarnation) {
            return false;
        }
        let (first, next) = (self.log.first(), self.log.next());
        let Some(lane) = self.lanes.get_mut(&peer) else { return false };
        lane.open = true;
        lane.tell_generations = true;
        if lane.resume_fill(fill, place) {
            self.counters.fills_resumed += 1;
        }
        let needs = |share: &Share| {
            if share.rewound { share.from } else { share.from.max(lsn.next()) }
        };
        let followers = lane.shares.values().filter(|share| share.follows());
        let from = followers.map(needs).min();
        lane.cursor = from.unwrap_or(next).min(next);
        lane.marked = Lsn(lane.cursor.0 - 1);
        if from.is_some() && lane.cursor < first {
            lane.broken = true;
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
        self.confirm_acked(peer);
        self.report_joined(peer);
    }

    /// Answers that waited for what a replica has by now.
    fn confirm_acked(&mut self, peer: Peer) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let (acked, shares) = (lane.acked, &lane.shares);
        // Where a replica has lost what it had, its next life confirms nothing
        // for the one before.
        let stays = |wait: &Wait| shares.get(wait.partition).is_some_and(|share| !share.follows());
        let mut done = Vec::new();
        while let Some(wait) = lane.waits.front().filter(|wait| wait.lsn <= acked && !stays(wait)) {
            done.push(wait.ticket);
            lane.waits.pop_front();
        }
        if lane.waits.front().is_some_and(|wait| wait.lsn <= acked) {
            lane.waits.retain(|wait| {
                let kept = wait.lsn > acked || stays(wait);
                if !kept {
                    done.push(wait.ticket);
                }
                kept
            });
        }
        done.into_iter().for_each(|ticket| self.confirm(ticket, None));
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
        if !answers.is_empty() {
            self.refused.entry(partition).or_default().push(lsn);
        }
        for (ticket, number) in answers {
            self.confirm(ticket, number);
        }
    }

    /// A replica is not sure of a key. False: it asks too much.
    fn asked(
        &mut self,
        peer: Peer,
        partition: Partition,
        key: &[u8],
        shard: &mut Shard,
        now: Now,
    ) -> bool {
        let Some(owners) = self.topology.owners.get(partition.0 as usize) else { return false };
        if self.me.is_some() && owners.primary() == self.me {
            let hash = shard.hash_of(key);
            self.append_again(alloc::vec![(hash, key.into())], shard, now);
            return true;
        }
        // It may have heard earlier than this core that this node leads.
        let Some(lane) = self.lanes.get_mut(&peer) else { return true };
        lane.questions.push((partition, key.into()));
        lane.questions.len() <= QUESTIONS_MAX
    }

    /// A replica was primary of these before this node: it has all that this
    /// one had when it took over.
    fn held(&mut self, peer: Peer, revision: Revision, partitions: &[(Partition, Epoch)]) {
        let (first, topology) = (self.log.first(), &self.topology);
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        lane.held = lane.held.max(revision);
        lane.shares.look_again();
        let mut went_back = None;
        for (partition, epoch) in partitions {
            let Some(from) = self.promoted.get(partition) else { continue };
            if topology.owners(*partition).epoch.0 != epoch.0 + 1 || *from < first {
                continue;
            }
            lane.shares.change(*partition, |share| {
                if share.stage == Stage::Missing {
                    (share.stage, share.from, share.rewound) = (Stage::Behind, *from, true);
                    went_back = Some(went_back.map_or(*from, |least: Lsn| least.min(*from)));
                    self.counters.resumed += 1;
                }
            });
        }
        if let Some(from) = went_back {
            lane.cursor = lane.cursor.min(from);
            lane.marked = lane.marked.min(Lsn(lane.cursor.0 - 1));
            // What it has confirmed so far was without these. This gives it
            // something new to confirm.
            self.log.append(NO_PARTITION, KeyHash(0), |_, _| {});
        }
    }

    /// A replica has nothing of these, as it knows them.
    fn lacks(&mut self, peer: Peer, fill: u32, partitions: &[Partition]) {
        let revision = self.topology.revision();
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let known = lane.fill.as_ref().is_some_and(|own| own.number == fill);
        let mut is_in_sync = false;
        for partition in partitions {
            lane.shares.change(*partition, |share| match share.stage {
                Stage::Behind | Stage::Joining(_) | Stage::Joined => share.lose(revision),
                // It lost what it had stored of the fill, if it has heard of it.
                Stage::Filling if known => share.lose(revision),
                // It must be taken out first.
                Stage::InSync => is_in_sync = true,
                Stage::Missing | Stage::Filling | Stage::Left => {}
            });
        }
        if is_in_sync {
            self.effects.push(Effect::Suspect { node: peer.node, cannot_follow: true });
        }
    }
}
