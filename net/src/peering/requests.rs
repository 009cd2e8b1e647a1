//! Batches under way on the core that holds their keys' hashes.
//!
//! A batch is *parked* from its arrival until every request in it has its
//! answer. Each request is in one of four states: its answer is there; it
//! executed and waits for a ticket; it is *away* at another node; or it *waits*
//! for a route and is tried again in a moment.
//!
//! Requests of one key stay in order: one behind another that waits waits, too,
//! and behind a change that is away.

use super::parked::{Finished, Home, Parked, Slot};
use super::waits::Waits;
use super::wire;
use super::{PeerId, Peering, PeeringLimits, Route};
use crate::core::Core;
use crate::hop::{self, Batch, ConnToken, Copier, Kind, Lent};
use crate::proto::{self, Reply, TextCommand};
use engine::{Failure, Glance, KeyHash, Needs, Now, Request, Shard, Verb};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Of a request whose answer goes to another node: how it is answered is known there.
const NO_REPLY: Reply = Reply::Text { command: TextCommand::Store, quiet: true };

/// One request of a parked batch.
type Place = (u64, u32);

/// Which time a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The first.
    First,
    /// A later one. A replica that was asked and could not answer is not asked
    /// again: only the primary may execute it now.
    AtPrimary,
    /// A later one of a read whose node was lost: any copy may answer.
    AtAnyCopy,
}

impl Attempt {
    /// The one after this, of a request that has waited.
    fn next(self) -> Attempt {
        match self {
            Attempt::First | Attempt::AtPrimary => Attempt::AtPrimary,
            Attempt::AtAnyCopy => Attempt::AtAnyCopy,
        }
    }
}

/// A request that waits for a route.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    place: Place,
    hash: KeyHash,
    until: Now,
    next: Attempt,
}

/// A request at another node.
#[derive(Clone, Copy, Debug)]
struct Away {
    peer: PeerId,
    hash: KeyHash,
    needs: Needs,
    /// It may be asked again if its answer is lost.
    may_be_repeated: bool,
    until: Now,
}

/// The link to a peer, as far as requests go.
#[derive(Debug, Default)]
struct Outgoing {
    /// The connection, if it is there.
    link: Option<ConnToken>,
    /// Requests that were not handed to it yet.
    queue: Vec<u8>,
}

/// All of a core's. See the module's text.
#[derive(Debug)]
pub struct Peers {
    /// Who decides.
    pub peering: Box<dyn Peering>,
    /// Bounds.
    pub limits: PeeringLimits,
    next_batch: u64,
    parked: HashMap<u64, Parked>,
    waiting: VecDeque<Waiting>,
    waiting_hashes: HashMap<KeyHash, u32>,
    away: BTreeMap<u64, Away>,
    /// Changes that are away, by key.
    away_hashes: HashMap<KeyHash, u32>,
    outgoing: BTreeMap<PeerId, Outgoing>,
    /// Links that peers opened to this core.
    accepted: BTreeMap<PeerId, ConnToken>,
    /// Requests executed in this pass whose answers wait for its ticket.
    pass: Vec<Place>,
    tickets: HashMap<u64, Vec<Place>>,
    finished: Vec<Finished>,
    passed_on: u64,
    waits: Waits,
    // Boxes, because they travel as such.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Batch>>,
}

impl Peers {
    /// Nothing under way.
    pub fn new(peering: Box<dyn Peering>, limits: PeeringLimits) -> Peers {
        Peers {
            peering,
            limits,
            next_batch: 0,
            parked: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_hashes: HashMap::new(),
            away: BTreeMap::new(),
            away_hashes: HashMap::new(),
            outgoing: BTreeMap::new(),
            accepted: BTreeMap::new(),
            pass: Vec::new(),
            tickets: HashMap::new(),
            finished: Vec::new(),
            passed_on: 0,
            waits: Waits::default(),
            spare: Vec::new(),
        }
    }

    /// Whether a request may execute on this core, which is `own`, at once, and be
    /// answered. `owner`: the core that holds the hash.
    #[inline]
    pub fn is_free(
        &mut self,
        request: &Request<'_>,
        hash: KeyHash,
        owner: u32,
        own: u32,
        shard: &mut Shard,
        now: Now,
    ) -> bool {
        let needs = request.verb.needs();
        if needs == Needs::Primary {
            return false;
        }
        if owner != own {
            return self.peering.has_copy(request.key, hash, owner, shard, now);
        }
        let waits = !self.waiting.is_empty() && self.waiting_hashes.contains_key(&hash);
        match self.peering.route(hash, self.peering.is_read_at_primary(request.key)) {
            Route::Here => {
                !waits
                    && !self.peering.is_pending(hash)
                    && !self.peering.is_out_of_date(hash, request.key)
                    && match shard.glance(request.key, hash, now) {
                        // Replicas may have to hear of it before the answer.
                        Glance::Expired => false,
                        found => needs == Needs::Copy || !found.is_marked(),
                    }
            }
            Route::At(_) => !waits && self.peering.has_copy(request.key, hash, own, shard, now),
            Route::Wait | Route::Refuse(_) => false,
        }
    }

    /// Batches under way.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Requests at other nodes.
    pub fn away(&self) -> usize {
        self.away.len()
    }

    /// Requests that were passed on to other nodes so far.
    pub fn passed_on(&self) -> u64 {
        self.passed_on
    }

    /// How long those batches took of which a request found nobody to take it at
    /// first, for its partition changed hands or its owner was not in reach.
    pub fn waits(&self) -> Waits {
        self.waits
    }

    /// Bytes of requests that wait for links, at most
    /// [`link_bytes_max`](PeeringLimits::link_bytes_max) each and one request.
    pub fn queued_bytes(&self) -> usize {
        self.outgoing.values().map(|outgoing| outgoing.queue.len()).sum()
    }

    /// Requests that wait for a route.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Batches that are complete.
    pub fn finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Whether [`Peers::finished`] has something.
    pub fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Executes a batch as far as that is possible now.
    pub fn execute(&mut self, batch: Box<Batch>, home: Home, core: &mut Core) {
        self.peering.read_clock();
        let id = self.next_batch;
        self.next_batch += 1;
        let count = batch.len();
        let until = Now(core.now.0 + self.limits.patience_ms);
        let mut parked = Parked::new(batch, home, until);
        let mut copier = Copier::new(parked.batch.copying);
        for index in 0..count {
            if matches!(home, Home::Core(_)) {
                let batch = &parked.batch;
                let conn = batch.requests[index].conn;
                parked.copy_bytes_max = copier.value_bytes_max(conn, batch.values.len());
            }
            self.step((id, index as u32), &mut parked, Attempt::First, core);
        }
        self.keep(id, parked);
        self.close_pass();
    }

    /// Requests that another node passed on.
    pub fn execute_frame(&mut self, payload: &[u8], link: ConnToken, core: &mut Core) -> bool {
        let mut batch = self.spare.pop().unwrap_or_else(|| Box::new(Batch::new(0, 0)));
        let mut rest = payload;
        while !rest.is_empty() {
            let Some(((id, hash, request), behind)) = wire::take_request(rest) else {
                return false;
            };
            // The number goes home where a connection's name would.
            let name = ConnToken { index: id as u32, generation: (id >> 32) as u32 };
            let request = proto::Request { ask: request, reply: NO_REPLY, words: &[] };
            batch.push(name, 0, hash, Kind::Execute(request.ask.verb), &request);
            rest = behind;
        }
        self.execute(batch, Home::Link(link), core);
        true
    }

    /// One request: executes it, passes it on, or lets it wait.
    fn step(&mut self, place: Place, parked: &mut Parked, attempt: Attempt, core: &mut Core) {
        let hop = parked.batch.requests[place.1 as usize];
        let verb = match hop.kind {
            Kind::Execute(verb) => verb,
            Kind::Abort | Kind::Unpin => {
                match parked.batch.lent.pop_front() {
                    Some(Lent::Reservation(reservation)) => core.shard.abort(reservation),
                    Some(Lent::Pin(pin)) => core.shard.unpin(pin),
                    Some(Lent::Later) | None => {}
                }
                return parked.fill(place.1, Slot::Nothing);
            }
            // In a cluster long values arrive in one piece.
            Kind::Reserve { .. } | Kind::Commit(..) => {
                return parked.fail(place.1, Failure::Nobody);
            }
        };
        let request = hop.ask(verb, &parked.batch.bytes);
        let needs = request.verb.needs();
        let changes = match needs {
            Needs::Copy => false,
            Needs::Unmarked => core.shard.glance(request.key, hop.hash, core.now).is_marked(),
            Needs::Primary => true,
        };
        let again = attempt != Attempt::First;
        let at_primary = changes
            || attempt == Attempt::AtPrimary
            || self.peering.is_read_at_primary(request.key);
        let out_of_date = self.peering.is_out_of_date(hop.hash, request.key);
        let until = parked.until;
        let behind = out_of_date
            || !again && self.waiting_hashes.contains_key(&hop.hash)
            || self.away_hashes.contains_key(&hop.hash);
        let route = if behind { Route::Wait } else { self.peering.route(hop.hash, at_primary) };
        let passed_on = matches!(parked.home, Home::Link(_));
        let lacks_copies =
            route == Route::Here && changes && !self.peering.has_copies_for(request.key, hop.hash);
        match route {
            Route::Here if lacks_copies && passed_on => parked.fill(place.1, Slot::Elsewhere),
            Route::Here if lacks_copies => {
                parked.note_stuck();
                self.wait(place, hop.hash, until, attempt.next());
            }
            Route::Here => self.run(place, parked, verb, core),
            Route::At(_) | Route::Wait if passed_on => parked.fill(place.1, Slot::Elsewhere),
            Route::At(peer) => {
                if needs != Needs::Primary {
                    let (shard, own) = (&mut core.shard, core.id);
                    if self.peering.has_copy(request.key, hop.hash, own, shard, core.now) {
                        return self.run(place, parked, verb, core);
                    }
                    self.peering.passed_on(request.key, hop.hash);
                }
                if !self.pass_on(place, peer, hop.hash, &request, until) {
                    parked.note_stuck();
                    self.wait(place, hop.hash, until, attempt.next());
                }
            }
            Route::Wait => {
                if !behind {
                    parked.note_stuck();
                }
                self.wait(place, hop.hash, until, attempt.next());
            }
            Route::Refuse(why) => parked.fail(place.1, why),
        }
    }

    fn run(&mut self, place: Place, parked: &mut Parked, verb: Verb, core: &mut Core) {
        let copy_bytes_max = parked.copy_bytes_max;
        let Batch { requests, bytes, values, .. } = &mut *parked.batch;
        let hop = requests[place.1 as usize];
        let request = hop.ask(verb, bytes);
        core.stats.hops_served += 1;
        let start = values.len();
        let before = core.shard.changes();
        let pending = self.peering.is_pending(hop.hash);
        let (shard, now) = (&mut core.shard, core.now);
        let (outcome, pin) =
            hop::execute(&request, hop.hash, None, copy_bytes_max, shard, now, values);
        let changed = core.shard.changes() != before;
        let number = self.pass.len() as u32;
        if changed {
            self.peering.wrote(request.key, hop.hash, number, &mut core.shard, core.now);
        } else if pending {
            self.peering.reads(hop.hash, number);
        }
        let value_bytes = (values.len() - start) as u32;
        let slot = Slot::Done { outcome, start: start as u32, value_bytes, pin };
        if changed || pending {
            // It counts as missing until the ticket of this pass is through.
            parked.slots[place.1 as usize] = slot;
            self.pass.push(place);
        } else {
            parked.fill(place.1, slot);
        }
    }

    fn wait(&mut self, place: Place, hash: KeyHash, until: Now, next: Attempt) {
        self.waiting.push_back(Waiting { place, hash, until, next });
        *self.waiting_hashes.entry(hash).or_default() += 1;
    }

    /// Hands a request to a link; false if that takes none now.
    fn pass_on(
        &mut self,
        place: Place,
        peer: PeerId,
        hash: KeyHash,
        request: &Request<'_>,
        until: Now,
    ) -> bool {
        let most = self.limits.link_bytes_max;
        let Some(outgoing) = self.outgoing.get_mut(&peer) else { return false };
        if outgoing.link.is_none() || outgoing.queue.len() >= most {
            return false;
        }
        // A batch has fewer requests than 2^16.
        let id = place.0 << 16 | u64::from(place.1);
        wire::put_request(id, hash, request, &mut outgoing.queue);
        self.passed_on += 1;
        let (needs, may_be_repeated) = (request.verb.needs(), request.verb.may_be_repeated());
        self.away.insert(id, Away { peer, hash, needs, may_be_repeated, until });
        if needs == Needs::Primary {
            *self.away_hashes.entry(hash).or_default() += 1;
        }
        true
    }

    /// Answers of the pass that was just executed wait for its ticket, or not.
    fn close_pass(&mut self) {
        let places = std::mem::take(&mut self.pass);
        match self.peering.close_batch() {
            Some(ticket) => {
                self.tickets.insert(ticket, places);
            }
            None => places.into_iter().for_each(|place| self.answered(place)),
        }
    }

    /// A request of a parked batch has its answer in place.
    fn answered(&mut self, place: Place) {
        if let Some(parked) = self.parked.get_mut(&place.0) {
            parked.missing -= 1;
            if parked.missing == 0
                && let Some(parked) = self.parked.remove(&place.0)
            {
                self.finish(parked);
            }
        }
    }

    fn keep(&mut self, id: u64, parked: Parked) {
        if parked.missing == 0 {
            self.finish(parked);
        } else {
            self.parked.insert(id, parked);
        }
    }

    fn finish(&mut self, parked: Parked) {
        if let Some(at) = parked.stuck_at {
            self.waits.note(at.elapsed());
        }
        self.finished.push(parked.finish());
    }

    /// A batch for a link is done with.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        if self.spare.len() < 8 {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// Tickets that are through.
    pub fn complete(&mut self, core: &mut Core) {
        while let Some((ticket, unknown)) = self.peering.completed() {
            let Some(mut places) = self.tickets.remove(&ticket) else { continue };
            let asked_again: Vec<Place> = unknown
                .into_iter()
                .filter_map(|number| places.get(number as usize).copied())
                .filter(|place| self.take_back(*place, core))
                .collect();
            places.retain(|place| !asked_again.contains(place));
            places.into_iter().for_each(|place| self.answered(place));
        }
    }

    /// Nobody knows whether what a request changed or read will last, so its answer
    /// is not told. True: it is a read, and waits to be asked again.
    fn take_back(&mut self, place: Place, core: &mut Core) -> bool {
        let Some(parked) = self.parked.get_mut(&place.0) else { return false };
        // A long value that a reader is not told of was held for it.
        if let Slot::Done { pin: Some(pin), .. } =
            std::mem::replace(&mut parked.slots[place.1 as usize], Slot::Missing)
        {
            core.shard.unpin(pin);
        }
        let hop = parked.batch.requests[place.1 as usize];
        let may_be_repeated = match hop.kind {
            Kind::Execute(verb) => verb.may_be_repeated(),
            _ => false,
        };
        let until = parked.until;
        if !may_be_repeated {
            parked.put_failure(place.1, Failure::Unknown);
        } else if matches!(parked.home, Home::Link(_)) {
            // The node that asks knows who may be asked instead.
            parked.slots[place.1 as usize] = Slot::Elsewhere;
        } else if core.now < until {
            parked.note_stuck();
            self.wait(place, hop.hash, until, Attempt::AtPrimary);
            return true;
        } else {
            parked.put_failure(place.1, Failure::Nobody);
        }
        false
    }

    /// Why nobody has taken a request for too long.
    fn why_nobody(&self, parked: &Parked, index: u32) -> Failure {
        let hop = parked.batch.requests[index as usize];
        let Kind::Execute(verb) = hop.kind else { return Failure::Nobody };
        let request = hop.ask(verb, &parked.batch.bytes);
        let lacks_copies = request.verb.needs() == Needs::Primary
            && !self.peering.has_copies_for(request.key, hop.hash);
        if lacks_copies { Failure::TooFewCopies } else { Failure::Nobody }
    }

    /// Tries those again that wait for a route, and gives up on those that have
    /// waited too long.
    pub fn retry(&mut self, core: &mut Core) {
        if !self.waiting.is_empty() {
            let mut blocked = std::collections::HashSet::new();
            for _ in 0..self.waiting.len() {
                let Some(entry) = self.waiting.pop_front() else { break };
                if blocked.contains(&entry.hash) && core.now < entry.until {
                    self.waiting.push_back(entry);
                    continue;
                }
                count_out(&mut self.waiting_hashes, entry.hash);
                let Some(mut parked) = self.parked.remove(&entry.place.0) else { continue };
                if core.now >= entry.until {
                    let why = self.why_nobody(&parked, entry.place.1);
                    parked.put_failure(entry.place.1, why);
                    parked.missing -= 1;
                } else {
                    let behind = self.waiting.len();
                    self.step(entry.place, &mut parked, entry.next, core);
                    if self.waiting.len() > behind {
                        blocked.insert(entry.hash);
                    }
                }
                self.keep(entry.place.0, parked);
            }
            self.close_pass();
        }
        // Answers that stay away too long: the peer is alive, but does nothing.
        let now = core.now;
        let late = self.away.iter().filter(|(_, away)| now >= away.until);
        for id in late.map(|(id, _)| *id).collect::<Vec<u64>>() {
            self.lost(id, now);
        }
    }

    /// Takes a request off the list of those that are away.
    fn returned(&mut self, id: u64) -> Option<Away> {
        let away = self.away.remove(&id)?;
        if away.needs == Needs::Primary {
            count_out(&mut self.away_hashes, away.hash);
        }
        Some(away)
    }

    /// A request was away, and nobody took it.
    fn came_back(&mut self, place: Place, away: Away, next: Attempt) {
        if let Some(parked) = self.parked.get_mut(&place.0) {
            parked.note_stuck();
        }
        self.wait(place, away.hash, away.until, next);
    }

    /// No answer will come for a request that is away.
    fn lost(&mut self, id: u64, now: Now) {
        let Some(away) = self.returned(id) else { return };
        let place = (id >> 16, (id & 0xffff) as u32);
        if away.may_be_repeated && now < away.until {
            return self.came_back(place, away, Attempt::AtAnyCopy);
        }
        if let Some(parked) = self.parked.get_mut(&place.0) {
            parked.put_failure(
                place.1,
                if away.may_be_repeated { Failure::Nobody } else { Failure::Unknown },
            );
            self.answered(place);
        }
    }

    // ---- Links.

    /// A link to a peer is there; the first bytes for it go into `out`.
    pub fn connected(&mut self, peer: PeerId, link: ConnToken, out: &mut Vec<u8>) {
        self.outgoing.entry(peer).or_default().link = Some(link);
        let frame = wire::begin_frame(wire::PEERING, out);
        self.peering.connected(peer, out);
        wire::end_frame(frame, out);
    }

    /// The connection that is the link to a peer, if there is one.
    pub fn link_to(&self, peer: PeerId) -> Option<ConnToken> {
        self.outgoing.get(&peer)?.link
    }

    /// The link to a peer is gone, and with it what was away there.
    pub fn disconnected(&mut self, peer: PeerId, now: Now) {
        self.outgoing.remove(&peer);
        let gone = self.away.iter().filter(|(_, away)| away.peer == peer);
        let ids: Vec<u64> = gone.map(|(id, _)| *id).collect();
        for id in ids {
            self.lost(id, now);
        }
        self.peering.disconnected(peer);
    }

    /// A peer has opened a link to this core. The link that it had before, if any.
    pub fn accepted(&mut self, peer: PeerId, link: ConnToken) -> Option<ConnToken> {
        self.accepted.insert(peer, link)
    }

    /// Such a link is gone.
    pub fn forget_accepted(&mut self, peer: PeerId, link: ConnToken) {
        if self.accepted.get(&peer) == Some(&link) {
            self.accepted.remove(&peer);
        }
    }

    /// Links that peers opened.
    pub fn accepted_links(&self) -> impl Iterator<Item = (PeerId, ConnToken)> + '_ {
        self.accepted.iter().map(|(peer, link)| (*peer, *link))
    }

    /// What goes back to a peer that opened a link, without being asked.
    pub fn poll_back(&mut self, peer: PeerId, out: &mut Vec<u8>) {
        let frame = wire::begin_frame(wire::PEERING, out);
        self.peering.poll_back(peer, out);
        wire::end_frame(frame, out);
    }

    /// Links that are there.
    pub fn links(&self) -> impl Iterator<Item = (PeerId, ConnToken)> + '_ {
        self.outgoing.iter().filter_map(|(peer, outgoing)| Some((*peer, outgoing.link?)))
    }

    /// What goes out to a peer now. True: there is more.
    pub fn poll(&mut self, peer: PeerId, core: &Core, out: &mut Vec<u8>) -> bool {
        if let Some(outgoing) = self.outgoing.get_mut(&peer)
            && !outgoing.queue.is_empty()
        {
            let frame = wire::begin_frame(wire::REQUESTS, out);
            out.append(&mut outgoing.queue);
            wire::end_frame(frame, out);
        }
        let frame = wire::begin_frame(wire::PEERING, out);
        let more = self.peering.poll(peer, &core.shard, core.now, out);
        wire::end_frame(frame, out);
        more
    }

    /// An answers frame came over the link to a peer. False: garbage.
    pub fn answers(&mut self, payload: &[u8]) -> bool {
        let mut rest = payload;
        while !rest.is_empty() {
            let Some(((id, outcome, value), behind)) = wire::take_answer(rest) else {
                return false;
            };
            rest = behind;
            // An answer that came too late is of no use to anybody.
            let Some(away) = self.returned(id) else { continue };
            let place = (id >> 16, (id & 0xffff) as u32);
            match outcome {
                None => self.came_back(place, away, Attempt::AtPrimary),
                Some(outcome) => {
                    if let Some(parked) = self.parked.get_mut(&place.0) {
                        parked.answer(place.1, outcome, value);
                        self.answered(place);
                    }
                }
            }
        }
        true
    }
}

/// One less of those.
fn count_out(counts: &mut HashMap<KeyHash, u32>, hash: KeyHash) {
    if let Some(count) = counts.get_mut(&hash) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&hash);
        }
    }
}
