//! Where a request executes: here, at another node, or nowhere yet.

use super::{Answer, Away, CHOOSE_US, Core, Done, HOT_US, Op, Origin, PATIENCE_MS, Request};
use super::{Turn, Waiting};
use crate::cluster::wire::{self, Passed};
use cluster::replication::{Access, Peer, Route};
use cluster::time::Millis;
use cluster::topology::NodeIndex;
use engine::KeyHash;
use std::collections::{BTreeMap, BTreeSet};

impl Core {
    /// Tries those again that wait for a route, in order for each key.
    pub(super) fn retry(&mut self, again: Vec<Waiting>, turn: &mut Turn<'_>) {
        let mut blocked = BTreeSet::new();
        for entry in again {
            if blocked.contains(&entry.request.hash.0) && turn.clock < entry.until {
                self.waiting.push_back(entry);
                continue;
            }
            uncount(&mut self.waiting_hashes, entry.request.hash);
            if turn.clock >= entry.until {
                let origin = entry.request.origin;
                self.done.push(Done::passed(origin, Answer::Refused, 0));
                continue;
            }
            let behind = self.waiting.len();
            self.step(entry.request, true, turn);
            if self.waiting.len() > behind {
                blocked.insert(entry.request.hash.0);
                if let Some(last) = self.waiting.back_mut() {
                    last.until = entry.until;
                }
            }
        }
    }

    /// One request: executes it, passes it on, or lets it wait.
    pub(super) fn step(&mut self, request: Request, again: bool, turn: &mut Turn<'_>) {
        let (hash, name) = (request.hash, self.keys.name(request.key).as_bytes());
        // A replica that was asked and could not answer is not asked again.
        let at_primary = request.op != Op::Get || again || self.replicator.is_read_at_primary(name);
        let access = if at_primary { Access::Write } else { Access::Read };
        let behind = self.replicator.is_out_of_date(hash, name)
            || !again && self.waiting_hashes.contains_key(&hash.0)
            || self.away_hashes.contains_key(&hash.0);
        let route =
            if behind { Route::Wait } else { self.replicator.route(hash, access, turn.clock) };
        let passed_on = matches!(request.origin, Origin::Link { .. });
        let until = turn.clock.plus(PATIENCE_MS);
        let lacks_copies = route == Route::Here
            && request.op != Op::Get
            && !self.replicator.has_copies_for(name, hash);
        match route {
            Route::Here if lacks_copies && passed_on => {
                self.done.push(Done::passed(request.origin, Answer::Elsewhere, 0));
            }
            Route::Here if lacks_copies => self.wait(request, until),
            Route::Here => self.execute(request, turn),
            Route::At(_) if self.has_copy(&request, turn) => self.execute(request, turn),
            Route::At(_) | Route::Wait if passed_on => {
                self.done.push(Done::passed(request.origin, Answer::Elsewhere, 0));
            }
            Route::At(node) => {
                let peer = Peer { node, core: self.core_of(node, hash) };
                let out = self.outs.entry(peer).or_default();
                if out.link.is_none() {
                    return self.wait(request, until);
                }
                let topology = self.replicator.topology();
                let primary = topology.owners(topology.ring().of(hash)).primary();
                turn.zone_reads += u64::from(primary != Some(node));
                let id = self.next_away;
                self.next_away += 1;
                let passed = Passed { id, hash: hash.0, key: request.key, op: request.op };
                wire::put_request(&passed, &mut out.requests);
                *self.away_hashes.entry(hash.0).or_default() += 1;
                self.away.insert(id, Away { peer, request, until });
            }
            Route::Wait => self.wait(request, until),
        }
    }

    pub(super) fn wait(&mut self, request: Request, until: Millis) {
        *self.waiting_hashes.entry(request.hash.0).or_default() += 1;
        self.waiting.push_back(Waiting { request, until });
    }

    /// Whether a read of a key that another node leads is answered here.
    fn has_copy(&mut self, request: &Request, turn: &Turn<'_>) -> bool {
        if request.op != Op::Get || matches!(request.origin, Origin::Link { .. }) {
            return false;
        }
        self.foreign.insert(request.key, turn.hub.at);
        let Some(until) = self.replicator.copy_until(request.hash, turn.clock) else {
            return false;
        };
        if self.value(request.key, request.hash, turn.now).is_none() {
            self.replicator.copy_is_missing(request.hash);
            return false;
        }
        self.copies_until = self.copies_until.min(until);
        self.replicator.copy_was_read();
        true
    }

    /// Every key that is read here and held elsewhere is hot for a while.
    pub(super) fn choose_copies(&mut self, turn: &Turn<'_>) {
        if turn.hub.at < self.choose_at {
            return;
        }
        self.choose_at = turn.hub.at + CHOOSE_US;
        self.foreign.retain(|_, read_at| turn.hub.at - *read_at < HOT_US);
        let names = self.foreign.keys().map(|key| self.keys.name(*key).as_bytes());
        let keys: Vec<_> = names.map(|name| (self.shard.hash_of(name), name)).collect();
        self.replicator.want_copies(&keys, &mut self.shard, turn.now);
    }

    fn core_of(&self, node: NodeIndex, hash: KeyHash) -> u16 {
        self.replicator.peer_for(node, hash).core
    }

    pub(super) fn returned_with(&mut self, id: u64, answer: Answer, epoch: u32, turn: &Turn<'_>) {
        let Some(away) = self.returned(id) else { return };
        match answer {
            Answer::Elsewhere => self.wait(away.request, away.until.max(turn.clock.plus(1))),
            _ => self.done.push(Done::passed(away.request.origin, answer, epoch)),
        }
    }

    fn returned(&mut self, id: u64) -> Option<Away> {
        let away = self.away.remove(&id)?;
        uncount(&mut self.away_hashes, away.request.hash);
        Some(away)
    }

    /// No answer will come for a request that is away.
    pub(super) fn lost(&mut self, id: u64, _clock: Millis) {
        let Some(away) = self.returned(id) else { return };
        if away.request.op == Op::Get {
            return self.wait(away.request, away.until);
        }
        self.done.push(Done::passed(away.request.origin, Answer::Unknown, 0));
    }

    pub(super) fn give_up(&mut self, turn: &Turn<'_>) {
        let late = self.away.iter().filter(|(_, away)| turn.clock >= away.until);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            let Some(away) = self.returned(id) else { continue };
            self.done.push(Done::passed(away.request.origin, Answer::Unknown, 0));
        }
    }
}

fn uncount(counts: &mut BTreeMap<u64, u32>, hash: KeyHash) {
    if let Some(count) = counts.get_mut(&hash.0) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&hash.0);
        }
    }
}
