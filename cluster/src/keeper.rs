//! The keeper: who is alive, who may serve, and what nobody does any more.
//!
//! It runs beside the coordinator's leader and is made anew whenever this node
//! becomes that leader. It answers [`Beat`]s with leases, proposes the commands
//! that follow from silence, and knows when a revision is *settled*: when nobody
//! can act against it any more. Whoever is made an owner waits for that.
//!
//! # Why two owners never serve at once
//!
//! A command that takes something from a node which did not agree sets the
//! node's *fence* to the command's revision. The node stops acting against it
//! when it confirms that revision, or when its lease ends. So
//!
//! 1. a node gets a lease only when it has confirmed its fence;
//! 2. a revision is settled when every node fenced by it or before has confirmed
//!    that fence, or holds no lease.
//!
//! For the second the keeper must know of every lease. Let `s(x)` be the longest
//! that a span `x` of one clock can last on another ([`Timing::surely_ms`]).
//!
//! *Its own.* A beat is sent at σ and received at ρ ≥ σ. The member serves until
//! σ + lease by its clock. The keeper's books say until ρ + s(lease) by its own
//! clock, which is never earlier. `now` must be read after the beat was received.
//!
//! *Its predecessor's.* The keeper before may not know that it was deposed. It
//! grants only while `now < leader_at + leadership`, where `leader_at` was read
//! *before* it asked a quorum whether it still leads. One node of that quorum
//! also voted for the new leader, and did so later, as it would have refused the
//! old one afterwards. So the election came after `leader_at`, and
//!
//! ```text
//! last grant of the old  <  leader_at + s(leadership)
//! end of its lease       <  leader_at + s(leadership) + s(lease)
//!                        <  started + s(leadership + lease)         (of the new)
//! ```
//!
//! Until then ([`Timing::inheritance_ms`]) the new keeper takes every process that
//! it has not heard of for one that holds a lease, and asks for no hand-over. It
//! does grant leases, as it knows of these.
//!
//! *Less of that.* A failover should not have to wait so long only because the node
//! that died was the keeper's. So a keeper commits [`Command::Keep`] before it grants
//! anything, and its own node serves no longer than the keeper may grant
//! ([`Member::on_keeping`](crate::member::Member::on_keeping)):
//!
//! ```text
//! end of that node's lease  <  leader_at + leadership  <  started + s(leadership)
//! ```
//!
//! A new keeper finds the last such command in the topology. Who granted since must
//! have committed one of its own before, under a later term, and so before the new
//! one was elected. The command also says up to which revision everything was
//! settled when the leases of all nodes that were down had ended. Who went down
//! before, or was replaced or forgotten, is not waited for once more.
//!
//! What it asks of the glue:
//! - [`Keeper::new`] comes after the election, and the topology shown to it then
//!   contains all that was committed before (read it as linearizable reads are);
//! - the topology shown never goes back, and never contains what a *later* leader
//!   committed: a node that follows another leader drops its keeper first.
//!
//! What it proposes may be lost or come late. The commands are such that this
//! harms nobody; it asks again after [`Timing::down_after_ms`].

use crate::change::Command;
use crate::member::{Beat, BeatReply};
use crate::planner::{Limits, Wish};
use crate::planning::{HandOverRequest, PlanRequest, Planning};
use crate::time::{Millis, Timing};
use crate::topology::{Incarnation, Introduction, Keeping, NodeIndex, Revision, Topology};
use alloc::{collections::BTreeMap, string::String, vec::Vec};

/// Most steps of one command: some 100 KB.
pub const STEPS_MAX: usize = 16 * 1024;
/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Propose this to the coordinator.
    Propose(Command),
    /// Ask a primary to hand over.
    HandOver(HandOverRequest),
    /// Compute [`planner::wishes`](crate::planner::wishes) for these nodes, and
    /// call [`Keeper::on_wishes`]. It takes a tenth of a second for a thousand
    /// nodes, a second or more when many of them come or go at once; leases last
    /// a quarter of one. So this is best done beside the thread of the keeper.
    Plan(PlanRequest),
    /// Somebody lost its connection to this node, and it is silent here too: try
    /// to connect, and call [`Keeper::on_refused`] if nobody listens there.
    Probe(NodeIndex),
}

/// One life of a node, as this keeper knows it.
#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    /// Its slot, while the topology has this life.
    node: Option<NodeIndex>,
    up: bool,
    fence: Revision,
    /// When it was first seen here, or last seen to change between up and down.
    since: Millis,
    /// When it last beat.
    beat_at: Option<Millis>,
    healthy: bool,
    confirmed: Revision,
    /// The latest revision seen up to which it had nothing to confirm.
    clear: Revision,
    /// A lease that was granted here has surely ended then.
    lease_until: Millis,
    /// Nobody listens at its address.
    refused: bool,
    suspected: bool,
    /// When something was last proposed, or probed, about it.
    asked_at: Option<Millis>,
    probed_at: Option<Millis>,
}

impl Life {
    fn new(incarnation: Incarnation, now: Millis) -> Life {
        Life {
            incarnation,
            node: None,
            up: true,
            fence: Revision::default(),
            since: now,
            beat_at: None,
            healthy: true,
            confirmed: Revision::default(),
            clear: Revision::default(),
            lease_until: Millis(0),
            refused: false,
            suspected: false,
            asked_at: None,
            probed_at: None,
        }
    }

    /// Revisions up to this one it cannot act against.
    fn settled(&self, now: Millis, latest: Revision) -> Revision {
        if now >= self.lease_until { latest } else { self.clear.max(self.confirmed).min(latest) }
    }

    fn note_clear(&mut self, latest: Revision) {
        if self.node.is_some() && self.confirmed >= self.fence {
            self.clear = latest;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    timing: Timing,
    limits: Limits,
    me: Keeping,
    /// The topology says that this one keeps.
    keeps: bool,
    /// When it last proposed to say so.
    kept_at: Option<Millis>,
    started: Millis,
    /// Processes that nobody knows any more hold no lease from then on.
    ghosts_until: Millis,
    /// Silence counts from here: before, the keeper itself was not listening.
    listening_since: Millis,
    ticked_at: Millis,
    seen: Revision,
    settled: Revision,
    /// By name; several lives only while an earlier one may hold a lease.
    lives: BTreeMap<String, Vec<Life>>,
    planning: Planning,
}

impl Keeper {
    /// A keeper on the node that has just become the leader, with all that was
    /// committed before that. `now` was read after the election.
    pub fn new(
        now: Millis,
        timing: Timing,
        limits: Limits,
        me: Keeping,
        topology: &Topology,
    ) -> Keeper {
        let ghosts = if topology.has_ghosts() { timing.inheritance_ms() } else { 0 };
        let mut keeper = Keeper {
            timing,
            limits,
            me,
            keeps: false,
            kept_at: None,
            started: now,
            ghosts_until: now.plus(ghosts),
            listening_since: now,
            ticked_at: now,
            seen: Revision::default(),
            settled: topology.settled(),
            lives: BTreeMap::new(),
            planning: Planning::default(),
        };
        keeper.observe(now, topology);
        keeper.inherit(topology);
        keeper
    }

    /// Notes which leases its predecessor may have granted.
    fn inherit(&mut self, topology: &Topology) {
        for (node, member) in topology.nodes() {
            if !member.up && member.fence <= topology.settled() {
                continue;
            }
            let Introduction { name, incarnation, .. } = &member.node;
            let is_before =
                |keeping: &Keeping| (&keeping.name, &keeping.incarnation) == (name, incarnation);
            let span_ms = match topology.keeping().is_some_and(is_before) {
                true => self.timing.succession_ms(),
                false => self.timing.inheritance_ms(),
            };
            let until = self.started.plus(span_ms);
            if let Some(life) = self.life_in(node) {
                life.lease_until = until;
            }
        }
    }

    /// Answers a beat. `now` was read after the beat was received, and
    /// `leader_at` before the last quorum was asked whether this node leads.
    pub fn on_beat(
        &mut self,
        now: Millis,
        topology: &Topology,
        leader_at: Millis,
        beat: &Beat,
    ) -> BeatReply {
        self.observe(now, topology);
        let lease = self.hear(now, leader_at, beat);
        BeatReply {
            incarnation: beat.incarnation,
            sent: beat.sent,
            lease,
            lease_ms: self.timing.lease_ms,
            settled: self.settle(now),
            latest: topology.revision(),
        }
    }

    /// A connection to the node was refused: its process is gone.
    pub fn on_refused(&mut self, node: NodeIndex) {
        if let Some(life) = self.life_in(node) {
            life.refused = true;
        }
    }

    /// What [`Effect::Plan`] asked for; nothing if another request came since.
    pub fn on_wishes(&mut self, request: &PlanRequest, wishes: Vec<Wish>) {
        self.planning.on_wishes(request, wishes);
    }

    /// Up to this revision nobody can act against the topology. It only grows.
    pub fn settled(&self) -> Revision {
        self.settled
    }

    /// Looks at the time. To be called about every [`Timing::beat_ms`], and soon
    /// after the topology changed.
    pub fn tick(&mut self, now: Millis, topology: &Topology, effects: &mut Vec<Effect>) {
        if now.since(self.ticked_at) > self.timing.down_after_ms / 2 {
            // It was this keeper that slept: beats may lie unread.
            self.listening_since = now;
        }
        self.ticked_at = now;
        self.observe(now, topology);
        self.settle(now);
        self.lives.retain(|_, lives| {
            lives.retain(|life| life.node.is_some() || now < life.lease_until);
            !lives.is_empty()
        });
        self.keep(now, topology, effects);
        self.judge(now, topology, effects);
        self.plan(now, topology, effects);
    }

    /// Says that it keeps, and what its successor need not wait for.
    fn keep(&mut self, now: Millis, topology: &Topology, effects: &mut Vec<Effect>) {
        let gone = |life: &&Life| !life.up || life.node.is_none();
        let mut gone = self.lives.values().flatten().filter(gone);
        let is_over = gone.all(|life| now >= life.lease_until);
        let settled = if is_over { self.settled } else { topology.settled() };
        let news = topology.unsettled() > topology.settled() && settled >= topology.unsettled();
        let again = self.kept_at.is_none_or(|at| now.since(at) >= self.timing.down_after_ms);
        if again && (news || !self.keeps) {
            self.kept_at = Some(now);
            let keeping = self.me.clone();
            effects.push(Effect::Propose(Command::Keep { keeping, settled }));
        }
    }

    /// Takes over what changed in the topology.
    fn observe(&mut self, now: Millis, topology: &Topology) {
        if topology.revision() <= self.seen {
            return;
        }
        self.seen = topology.revision();
        self.keeps = topology.keeping() == Some(&self.me);
        for life in self.lives.values_mut().flatten() {
            life.node = None;
        }
        for (node, member) in topology.nodes() {
            let incarnation = member.node.incarnation;
            if !self.lives.contains_key(&member.node.name) {
                self.lives.insert(member.node.name.clone(), Vec::new());
            }
            let lives = self.lives.get_mut(&member.node.name).expect("it is there now");
            let at = lives.iter().position(|life| life.incarnation == incarnation);
            let at = at.unwrap_or_else(|| {
                lives.push(Life::new(incarnation, now));
                lives.len() - 1
            });
            let life = &mut lives[at];
            life.node = Some(node);
            life.fence = member.fence;
            if life.up != member.up {
                life.up = member.up;
                life.since = now;
                life.asked_at = None;
                life.refused = false;
            }
            life.note_clear(self.seen);
        }
    }

    /// Notes what a beat says; whether it earns a lease.
    fn hear(&mut self, now: Millis, leader_at: Millis, beat: &Beat) -> bool {
        let seen = self.seen;
        for suspect in &beat.suspects {
            if let Some(life) = self.life_in(*suspect) {
                life.suspected = true;
            }
        }
        let lives = self.lives.get_mut(&beat.name);
        let life = lives
            .and_then(|lives| lives.iter_mut().find(|life| life.incarnation == beat.incarnation));
        let Some(life) = life else { return false };
        life.beat_at = Some(now);
        life.healthy = beat.healthy;
        life.refused = false;
        life.suspected = false;
        life.confirmed = life.confirmed.max(beat.confirmed);
        life.note_clear(seen);
        let leads = self.keeps && now < leader_at.plus(self.timing.leadership_ms);
        let is_member = life.node.is_some() && life.up;
        let lease = leads && is_member && beat.healthy && beat.confirmed >= life.fence;
        if lease {
            let until = now.plus(self.timing.surely_ms(self.timing.lease_ms));
            life.lease_until = life.lease_until.max(until);
        }
        lease
    }

    fn settle(&mut self, now: Millis) -> Revision {
        if self.settled < self.seen && now >= self.ghosts_until {
            let lives = self.lives.values().flatten();
            let settled = lives.map(|life| life.settled(now, self.seen)).min();
            self.settled = self.settled.max(settled.unwrap_or(self.seen));
        }
        self.settled
    }

    /// Whether every lease that its predecessor granted has ended.
    fn knows_all_leases(&self, now: Millis) -> bool {
        now.since(self.started) >= self.timing.inheritance_ms()
    }

    /// Proposes what follows from beats and from silence.
    fn judge(&mut self, now: Millis, topology: &Topology, effects: &mut Vec<Effect>) {
        let Timing { beat_ms, down_after_ms, abandon_after_ms, .. } = self.timing;
        let listening_since = self.listening_since;
        for life in self.lives.values_mut().flatten() {
            let Some(node) = life.node else { continue };
            let incarnation = life.incarnation;
            let heard_at = life.beat_at.unwrap_or_default().max(life.since).max(listening_since);
            let silent_ms = now.since(heard_at);
            // To a keeper that has just begun, a suspicion is all there is.
            let quiet = life.beat_at.is_none() || silent_ms > 2 * beat_ms;
            if life.up && life.suspected && quiet {
                let recently = |at: Millis| now.since(at) < down_after_ms;
                if !life.probed_at.is_some_and(recently) {
                    life.probed_at = Some(now);
                    effects.push(Effect::Probe(node));
                }
            }
            if life.asked_at.is_some_and(|at| now.since(at) < down_after_ms) {
                continue;
            }
            let command = if life.up {
                let gone = life.refused || !life.healthy || silent_ms >= down_after_ms;
                gone.then_some(Command::Down { node, incarnation })
            } else {
                // It must have understood that it was down, else a beat that was
                // late would call it up again.
                let beats = life.beat_at.is_some_and(|at| now.since(at) < down_after_ms)
                    && life.healthy
                    && !life.refused
                    && life.confirmed >= life.fence;
                let given_up = now.since(life.since) >= abandon_after_ms;
                if beats {
                    Some(Command::Up { node, incarnation })
                } else if given_up && holds_copies(topology, node) {
                    Some(Command::Abandon { node })
                } else {
                    None
                }
            };
            if let Some(command) = command {
                life.asked_at = Some(now);
                effects.push(Effect::Propose(command));
            }
        }
    }

    fn plan(&mut self, now: Millis, topology: &Topology, effects: &mut Vec<Effect>) {
        let counts = self.counts(now, topology);
        let counted = |node: NodeIndex| counts[usize::from(node.0)];
        effects
            .extend(self.planning.request(now, topology, &self.timing, counted).map(Effect::Plan));
        let Some(plan) = self.planning.next(now, topology, self.limits, &self.timing, counted)
        else {
            return;
        };
        let steps: Vec<_> = plan.now.iter().take(STEPS_MAX).copied().collect();
        if !steps.is_empty() {
            effects.push(Effect::Propose(Command::Steps(steps)));
        }
        if self.knows_all_leases(now) {
            let requests = self.planning.hand_overs(now, topology, &plan, &self.timing);
            effects.extend(requests.into_iter().map(Effect::HandOver));
        }
    }

    /// Which slots get partitions: not those being emptied, nor the dead. A node
    /// that is only just down keeps what it had, and one without anything does
    /// not count.
    fn counts(&self, now: Millis, topology: &Topology) -> Vec<bool> {
        let mut counts = alloc::vec![false; topology.members().len()];
        let mut only_just_down = counts.clone();
        for life in self.lives.values().flatten() {
            let Some(node) = life.node else { continue };
            let at = usize::from(node.0);
            let is_recent = now.since(life.since) < self.timing.repair_after_ms;
            counts[at] = life.up;
            only_just_down[at] = !life.up && is_recent;
        }
        if only_just_down.contains(&true) {
            for node in topology.partitions().flat_map(|(_, owners)| owners.copies()) {
                counts[usize::from(node.0)] |= only_just_down[usize::from(node.0)];
            }
        }
        for (node, member) in topology.nodes() {
            counts[usize::from(node.0)] &= !member.draining;
        }
        counts
    }

    /// The life that the topology has in a slot.
    fn life_in(&mut self, node: NodeIndex) -> Option<&mut Life> {
        self.lives.values_mut().flatten().find(|life| life.node == Some(node))
    }
}

fn holds_copies(topology: &Topology, node: NodeIndex) -> bool {
    topology.partitions().any(|(_, owners)| owners.position(node).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Outcome, Step};
    use crate::planner;
    use crate::planning::HAND_OVERS_PER_PRIMARY_MAX;
    use crate::ring::Partition;
    use crate::topology::{Epoch, Introduction};
    use alloc::{format, vec};

    const LIFE: Incarnation = Incarnation(1);
    /// A keeper that has no predecessor to wait out any more.
    const READY: u64 = 10_000;

    fn introduction(node: u16, incarnation: Incarnation) -> Introduction {
        Introduction {
            name: format!("node-{node}"),
            incarnation,
            weight: 100,
            cores: 1,
            ..Introduction::default()
        }
    }

    fn keeping(term: u64, node: u16) -> Keeping {
        Keeping { term, name: format!("node-{node}"), incarnation: LIFE }
    }

    fn keep(term: u64, node: u16, settled: Revision) -> Command {
        Command::Keep { keeping: keeping(term, node), settled }
    }

    /// Nodes that have everything they should have, and a keeper on the first.
    struct House {
        topology: Topology,
        keeper: Keeper,
        term: u64,
        timing: Timing,
        effects: Vec<Effect>,
    }

    impl House {
        fn new(nodes: u16) -> House {
            let mut topology = Topology::default();
            let create = Command::Create { name: "t".into(), ring_bits: 6, copies: 2, seed: 0 };
            topology.apply(&create);
            for node in 0..nodes {
                topology.apply(&Command::Join(introduction(node, LIFE)));
            }
            let timing = Timing::default();
            topology.apply(&keep(1, 0, topology.revision()));
            let (limits, me) = (Limits::default(), keeping(1, 0));
            let keeper = Keeper::new(Millis(0), timing.clone(), limits, me, &topology);
            let mut house = House { topology, keeper, term: 1, timing, effects: Vec::new() };
            let wishes = planner::wishes(&house.topology, |_| true);
            let plan = planner::next_steps(&house.topology, &wishes, Limits::default(), |_| true);
            house.apply(Command::Steps(plan.now));
            house.fill();
            house
        }

        /// Another keeper begins on a node, and says so.
        fn succeed(&mut self, now: u64, node: u16) {
            self.term += 1;
            let (timing, limits) = (self.timing.clone(), Limits::default());
            let me = keeping(self.term, node);
            self.keeper = Keeper::new(Millis(now), timing, limits, me, &self.topology);
            self.apply(keep(self.term, node, self.topology.settled()));
        }

        fn apply(&mut self, command: Command) -> Revision {
            match self.topology.apply(&command) {
                Outcome::Applied(revision) => revision,
                Outcome::Refused(refusal) => panic!("{command:?}: {refusal:?}"),
            }
        }

        fn fill(&mut self) {
            for node in 0..self.topology.members().len() as u16 {
                let lacking = self.topology.partitions().filter(|(_, owners)| {
                    owners.replicas().any(|replica| replica == (NodeIndex(node), false))
                });
                let partitions = lacking.map(|(partition, owners)| (partition, owners.epoch));
                let partitions: Vec<(Partition, Epoch)> = partitions.collect();
                self.topology.apply(&Command::InSync {
                    known: Revision(u64::MAX),
                    node: NodeIndex(node),
                    partitions,
                });
            }
        }

        fn beat(&self, node: u16, confirmed: Revision) -> Beat {
            Beat {
                name: format!("node-{node}"),
                incarnation: LIFE,
                confirmed,
                known: confirmed,
                sent: Millis(77),
                healthy: true,
                suspects: Vec::new(),
            }
        }

        /// A beat that arrives at `now` while leadership is beyond doubt.
        fn hear(&mut self, now: u64, beat: &Beat) -> BeatReply {
            self.keeper.on_beat(Millis(now), &self.topology, Millis(now), beat)
        }

        fn all_beat(&mut self, now: u64, nodes: core::ops::Range<u16>) {
            for node in nodes {
                let beat = self.beat(node, self.topology.revision());
                self.hear(now, &beat);
            }
        }

        /// Ticks; plans are made on the spot, and their first steps taken along.
        fn tick(&mut self, now: u64) -> Vec<Effect> {
            loop {
                let before = self.effects.len();
                self.keeper.tick(Millis(now), &self.topology, &mut self.effects);
                // What it says of itself has tests of its own.
                let says =
                    |effect: &Effect| matches!(effect, Effect::Propose(Command::Keep { .. }));
                self.effects.retain(|effect| !says(effect));
                let plan = self.effects[before..].iter().position(is_plan);
                let Some(plan) = plan else { return core::mem::take(&mut self.effects) };
                let Effect::Plan(request) = self.effects.remove(before + plan) else {
                    return vec![];
                };
                let wishes = planner::wishes(&self.topology, |node| request.counts(node));
                self.keeper.on_wishes(&request, wishes);
            }
        }

        /// Ticks in the rhythm, with beats of `nodes`, up to `until`.
        fn run(&mut self, from: u64, until: u64, nodes: core::ops::Range<u16>) -> Vec<Effect> {
            let mut effects = Vec::new();
            for now in (from..until).step_by(50) {
                self.all_beat(now, nodes.clone());
                effects.extend(self.tick(now));
            }
            effects
        }

        fn lease_in_books_ms(&self) -> u64 {
            self.timing.surely_ms(self.timing.lease_ms)
        }
    }

    fn is_plan(effect: &Effect) -> bool {
        matches!(effect, Effect::Plan(_))
    }

    fn down(node: u16) -> Effect {
        Effect::Propose(Command::Down { node: NodeIndex(node), incarnation: LIFE })
    }

    fn up(node: u16) -> Effect {
        Effect::Propose(Command::Up { node: NodeIndex(node), incarnation: LIFE })
    }

    #[test]
    fn a_lease_needs_all_four_conditions() {
        let mut house = House::new(3);
        let latest = house.topology.revision();
        let good = house.beat(1, latest);
        let reply = house.hear(READY, &good);
        assert!(reply.lease);
        assert_eq!((reply.sent, reply.latest), (Millis(77), latest));
        // An unknown node, and another life of a known one.
        assert!(!house.hear(READY, &Beat { name: "stranger".into(), ..good.clone() }).lease);
        assert!(!house.hear(READY, &Beat { incarnation: Incarnation(2), ..good.clone() }).lease);
        // A core that stands still.
        assert!(!house.hear(READY, &Beat { healthy: false, ..good.clone() }).lease);
        // A fence that it has not confirmed.
        let fence = house.topology.member(NodeIndex(1)).unwrap().fence;
        assert!(fence > Revision(0));
        let before = Revision(fence.0 - 1);
        assert!(!house.hear(READY, &Beat { confirmed: before, ..good.clone() }).lease);
        assert!(house.hear(READY, &Beat { confirmed: fence, ..good.clone() }).lease);
        // A leader that may have been deposed.
        let leader_at = Millis(READY + 1 - house.timing.leadership_ms);
        let mut ask = |leader_at| {
            house.keeper.on_beat(Millis(READY), &house.topology, leader_at, &good).lease
        };
        assert!(ask(leader_at));
        assert!(!ask(Millis(leader_at.0 - 1)));
        // A node that is down.
        house.apply(Command::Down { node: NodeIndex(1), incarnation: LIFE });
        let beat = house.beat(1, house.topology.revision());
        assert!(!house.hear(READY, &beat).lease);
    }

    #[test]
    fn a_member_that_never_confirms_is_waited_out_for_exactly_its_lease() {
        let mut house = House::new(3);
        house.all_beat(READY, 0..3);
        house.tick(READY);
        let before = house.topology.revision();
        assert_eq!(house.keeper.settled(), before);
        let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
        // The others are not asked for anything: nothing was taken from them.
        let until = READY + house.lease_in_books_ms();
        for now in READY..until {
            house.tick(now);
            assert_eq!(house.keeper.settled(), before, "at {now}");
        }
        house.tick(until);
        assert!(house.keeper.settled() >= fenced);
    }

    #[test]
    fn a_member_that_confirms_settles_at_once() {
        let mut house = House::new(3);
        house.all_beat(READY, 0..3);
        let before = house.topology.revision();
        let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
        let beat = house.beat(0, before);
        assert_eq!(house.hear(READY + 1, &beat).settled, before);
        let beat = house.beat(2, fenced);
        assert_eq!(house.hear(READY + 2, &beat).settled, fenced);
    }

    #[test]
    fn a_second_fence_does_not_hide_the_first() {
        let mut house = House::new(4);
        house.all_beat(READY, 0..4);
        let before = house.topology.revision();
        let down = Command::Down { node: NodeIndex(2), incarnation: LIFE };
        let first = house.apply(down.clone());
        house.apply(Command::Up { node: NodeIndex(2), incarnation: LIFE });
        let second = house.apply(down);
        house.tick(READY);
        assert_eq!(house.keeper.settled(), before);
        let beat = house.beat(2, first);
        house.hear(READY, &beat);
        assert_eq!(house.keeper.settled(), first);
        let beat = house.beat(2, second);
        house.hear(READY, &beat);
        assert_eq!(house.keeper.settled(), second);
    }

    #[test]
    fn an_earlier_life_and_a_node_that_left_are_waited_out() {
        let mut house = House::new(4);
        house.all_beat(READY, 0..4);
        let before = house.topology.revision();
        let restart = Command::Join(introduction(1, Incarnation(2)));
        let joined = house.apply(restart);
        // The new life confirms; the old one may still serve.
        let beat = Beat { incarnation: Incarnation(2), ..house.beat(1, joined) };
        assert!(house.hear(READY + 1, &beat).lease);
        assert_eq!(house.keeper.settled(), before);
        let until = READY + house.lease_in_books_ms();
        house.tick(until - 1);
        assert_eq!(house.keeper.settled(), before);
        house.tick(until);
        assert_eq!(house.keeper.settled(), joined);

        let beat = house.beat(3, joined);
        assert!(house.hear(until, &beat).lease);
        let steps = house.topology.partitions().filter_map(|(partition, owners)| {
            let other = owners.copies().iter().find(|node| **node != NodeIndex(3))?;
            owners.position(NodeIndex(3)).map(|_| (partition, *other))
        });
        let steps = steps.flat_map(|(partition, other)| {
            [(partition, Step::HandOver(other)), (partition, Step::Drop(NodeIndex(3)))]
        });
        let steps: Vec<_> = steps.collect();
        house.apply(Command::Steps(steps));
        house.topology.apply(&Command::Down { node: NodeIndex(3), incarnation: LIFE });
        house.topology.apply(&Command::Abandon { node: NodeIndex(3) });
        let left = house.apply(Command::Leave { node: NodeIndex(3) });
        house.tick(until + 1);
        assert_eq!(house.keeper.settled(), joined);
        house.tick(until + house.lease_in_books_ms());
        assert_eq!(house.keeper.settled(), left);
    }

    #[test]
    fn a_new_keeper_waits_out_what_its_predecessor_granted() {
        let mut house = House::new(3);
        // The old one asked a quorum at 1,000, and was deposed right after.
        let asked_at = Millis(1_000);
        let beat = house.beat(2, house.topology.revision());
        let seen = house.topology.clone();
        let limits = Limits::default();
        let mut new =
            Keeper::new(Millis(1_001), house.timing.clone(), limits, keeping(2, 1), &seen);
        // It goes on for as long as it may.
        let last = asked_at.plus(house.timing.leadership_ms - 1);
        assert!(house.keeper.on_beat(last, &seen, asked_at, &beat).lease);
        assert!(!house.keeper.on_beat(last.plus(1), &seen, asked_at, &beat).lease);
        let lease_ends = last.plus(house.timing.lease_ms);
        // The new one moves everything away from that node.
        let fenced = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
        let mut now = Millis(1_001);
        for node in [0, 1] {
            new.on_beat(now, &house.topology, now, &house.beat(node, seen.revision()));
        }
        loop {
            new.tick(now, &house.topology, &mut Vec::new());
            if new.settled() >= fenced {
                break;
            }
            now = now.plus(1);
        }
        assert!(now >= lease_ends, "settled at {now:?}, the lease ran until {lease_ends:?}");
        assert_eq!(now, Millis(1_001).plus(house.timing.inheritance_ms()));
    }

    #[test]
    fn the_node_of_the_keeper_before_is_waited_out_for_the_rest_of_its_leadership() {
        let mut house = House::new(3);
        house.run(READY, READY + 100, 0..3);
        // The keeper died with its node; another node has everything it knew.
        house.succeed(READY + 350, 1);
        let fenced = house.apply(Command::Down { node: NodeIndex(0), incarnation: LIFE });
        house.all_beat(READY + 351, 1..3);
        let until = READY + 350 + house.timing.succession_ms();
        house.tick(until - 1);
        assert!(house.keeper.settled() < fenced);
        house.tick(until);
        assert!(house.keeper.settled() >= fenced);
        assert!(house.timing.succession_ms() < house.timing.lease_ms);
        // Another life of that node may have got its lease from anybody.
        let joined = house.apply(Command::Join(introduction(0, Incarnation(2))));
        house.term += 1;
        let (timing, limits) = (house.timing.clone(), Limits::default());
        let me = keeping(house.term, 2);
        house.keeper = Keeper::new(Millis(until), timing, limits, me, &house.topology);
        house.all_beat(until, 1..3);
        house.tick(until + house.timing.inheritance_ms() - 1);
        assert!(house.keeper.settled() < joined);
        house.tick(until + house.timing.inheritance_ms());
        assert!(house.keeper.settled() >= joined);
    }

    #[test]
    fn who_is_known_to_be_dead_is_not_waited_for_again() {
        let mut house = House::new(4);
        house.run(READY, READY + 100, 0..4);
        house.apply(Command::Down { node: NodeIndex(3), incarnation: LIFE });
        house.all_beat(READY + 100, 0..3);
        // It is said when its lease is over, and not before.
        let said = |house: &mut House, now: u64| {
            let mut effects = Vec::new();
            house.keeper.tick(Millis(now), &house.topology, &mut effects);
            effects.into_iter().find_map(|effect| match effect {
                Effect::Propose(command @ Command::Keep { .. }) => Some(command),
                _ => None,
            })
        };
        assert_eq!(said(&mut house, READY + 110), None);
        let over = READY + 100 + house.lease_in_books_ms();
        let command = said(&mut house, over).expect("its lease is over");
        house.apply(command);
        assert!(house.topology.settled() >= house.topology.member(NodeIndex(3)).unwrap().fence);
        house.succeed(over, 1);
        let latest = house.topology.revision();
        house.all_beat(over, 0..3);
        assert_eq!(house.keeper.settled(), latest, "all that live have confirmed it");
    }

    #[test]
    fn a_keeper_grants_nothing_before_it_is_known_to_keep() {
        let mut house = House::new(3);
        let (timing, limits) = (house.timing.clone(), Limits::default());
        house.keeper = Keeper::new(Millis(READY), timing, limits, keeping(2, 1), &house.topology);
        let beat = house.beat(2, house.topology.revision());
        assert!(!house.hear(READY, &beat).lease);
        let mut effects = Vec::new();
        house.keeper.tick(Millis(READY), &house.topology, &mut effects);
        let first = keep(2, 1, house.topology.settled());
        assert!(effects.contains(&Effect::Propose(first.clone())), "{effects:?}");
        house.apply(first);
        assert!(house.hear(READY, &beat).lease);
        // What the one before wanted to say comes late.
        let late = house.topology.apply(&keep(1, 0, house.topology.revision()));
        assert_eq!(late, Outcome::Refused(crate::change::Refusal::Superseded));
    }

    #[test]
    fn silence_makes_down_and_a_beat_that_knows_it_makes_up() {
        let mut house = House::new(3);
        let effects = house.run(READY, READY + 1_000, 0..3);
        assert_eq!(effects, []);
        let last = READY + 950;
        let effects = house.run(last + 50, last + 300, 0..2);
        assert_eq!(effects, []);
        house.all_beat(last + 300, 0..2);
        assert_eq!(house.tick(last + 300), [down(2)]);
        // It does not ask again while that is under way.
        assert_eq!(house.run(last + 350, last + 600, 0..2), []);
        house.all_beat(last + 600, 0..2);
        assert_eq!(house.tick(last + 600), [down(2)]);
        let before = house.topology.revision();
        let revision = house.apply(Command::Down { node: NodeIndex(2), incarnation: LIFE });
        // A beat that does not know of it was late.
        let late = house.beat(2, before);
        house.hear(last + 650, &late);
        house.all_beat(last + 650, 0..2);
        assert_eq!(house.tick(last + 650), []);
        let knowing = house.beat(2, revision);
        assert!(!house.hear(last + 660, &knowing).lease);
        assert_eq!(house.tick(last + 660), [up(2)]);
        house.apply(Command::Up { node: NodeIndex(2), incarnation: LIFE });
        let beat = house.beat(2, revision);
        assert!(house.hear(last + 670, &beat).lease);
    }

    #[test]
    fn an_unhealthy_or_refused_node_is_down_at_once() {
        let mut house = House::new(4);
        house.run(READY, READY + 100, 0..4);
        let beat = Beat { healthy: false, ..house.beat(1, house.topology.revision()) };
        house.hear(READY + 110, &beat);
        house.keeper.on_refused(NodeIndex(3));
        assert_eq!(house.tick(READY + 110), [down(1), down(3)]);
    }

    #[test]
    fn a_suspect_that_is_silent_here_too_is_probed() {
        let mut house = House::new(3);
        house.run(READY, READY + 100, 0..3);
        let beat =
            Beat { suspects: vec![NodeIndex(2)], ..house.beat(0, house.topology.revision()) };
        house.hear(READY + 100, &beat);
        // It was heard of 50 ms ago.
        assert_eq!(house.tick(READY + 100), []);
        house.hear(READY + 160, &beat);
        assert_eq!(house.tick(READY + 160), [Effect::Probe(NodeIndex(2))]);
        assert_eq!(house.tick(READY + 170), []);
    }

    #[test]
    fn a_new_keeper_gives_nodes_time_to_find_it() {
        let mut house = House::new(3);
        house.succeed(READY, 1);
        for now in (READY..READY + 300).step_by(50) {
            assert_eq!(house.tick(now), [], "at {now}");
        }
        assert_eq!(house.tick(READY + 300), [down(0), down(1), down(2)]);
    }

    #[test]
    fn a_keeper_that_slept_does_not_blame_the_others() {
        let mut house = House::new(3);
        house.run(READY, READY + 100, 0..3);
        assert_eq!(house.tick(READY + 2_000), []);
        assert_eq!(house.run(READY + 2_050, READY + 3_000, 0..3), []);
    }

    #[test]
    fn the_dead_keep_their_place_are_replaced_and_given_up() {
        let mut house = House::new(4);
        house.run(READY, READY + 100, 0..4);
        house.apply(Command::Down { node: NodeIndex(3), incarnation: LIFE });
        let dead_at = READY + 100;
        // A restart would be quicker than that: nothing moves.
        let effects = house.run(dead_at, dead_at + 35_000, 0..3);
        let steps = |effects: &[Effect]| {
            let is_step = |effect: &&Effect| matches!(effect, Effect::Propose(Command::Steps(_)));
            effects.iter().filter(is_step).count()
        };
        assert_eq!(steps(&effects), 0);
        let effects = house.run(dead_at + 35_000, dead_at + 35_100, 0..3);
        assert_eq!(steps(&effects), 1);
        let abandon = Effect::Propose(Command::Abandon { node: NodeIndex(3) });
        let effects = house.run(dead_at + 35_100, dead_at + 60_000, 0..3);
        assert!(!effects.contains(&abandon));
        let effects = house.run(dead_at + 60_000, dead_at + 60_050, 0..3);
        assert_eq!(effects.iter().filter(|effect| **effect == abandon).count(), 1);
        house.apply(Command::Abandon { node: NodeIndex(3) });
        // There is nothing left to give up.
        assert!(!house.run(dead_at + 60_050, dead_at + 62_000, 0..3).contains(&abandon));
    }

    #[test]
    fn steps_wait_for_those_before_them() {
        let mut house = House::new(3);
        house.run(READY - 400, READY + 100, 0..3);
        house.apply(Command::Join(introduction(3, LIFE)));
        let all = |house: &mut House, from, until| house.run(from, until, 0..4);
        let first = all(&mut house, READY + 100, READY + 150);
        let Effect::Propose(Command::Steps(steps)) = &first[0] else { panic!("{first:?}") };
        assert_eq!(steps.len(), Limits::default().filling_per_node_max as usize);
        // Not again, until the topology moves or it seems lost.
        assert_eq!(all(&mut house, READY + 150, READY + 400), []);
        assert_eq!(all(&mut house, READY + 400, READY + 450), first);
        house.apply(Command::Steps(steps.clone()));
        assert_eq!(all(&mut house, READY + 450, READY + 500), []);
        house.fill();
        let next = all(&mut house, READY + 500, READY + 550);
        assert!(matches!(&next[0], Effect::Propose(Command::Steps(more)) if more != steps));
    }

    #[test]
    fn plans_are_asked_for_one_at_a_time_and_not_at_every_join() {
        let mut house = House::new(3);
        let asked = |house: &mut House, now: u64| {
            house.all_beat(now, 0..3);
            let mut effects = Vec::new();
            house.keeper.tick(Millis(now), &house.topology, &mut effects);
            effects.into_iter().find_map(|effect| match effect {
                Effect::Plan(request) => Some(request),
                _ => None,
            })
        };
        let first = asked(&mut house, READY).expect("there are no wishes yet");
        assert_eq!(first.nodes, [NodeIndex(0), NodeIndex(1), NodeIndex(2)]);
        house.apply(Command::Join(introduction(3, LIFE)));
        // It is under way, however long it takes, and then it was only just made.
        assert_eq!(asked(&mut house, READY + 1_000), None);
        let wishes = planner::wishes(&house.topology, |node| first.counts(node));
        house.keeper.on_wishes(&first, wishes);
        let second = asked(&mut house, READY + 1_050).expect("another node counts");
        assert_eq!(second.nodes.len(), 4);
        let wishes = planner::wishes(&house.topology, |node| second.counts(node));
        // An answer to an earlier question is none to this.
        house.keeper.on_wishes(&first, wishes.clone());
        assert_eq!(asked(&mut house, READY + 1_100), None);
        house.keeper.on_wishes(&second, wishes);
        house.apply(Command::Join(introduction(4, LIFE)));
        assert_eq!(asked(&mut house, READY + 1_150), None);
        assert_eq!(asked(&mut house, READY + 1_350).expect("a fifth").nodes.len(), 5);
    }

    #[test]
    fn primaries_are_asked_to_hand_over_some_at_a_time() {
        let mut house = House::new(3);
        house.run(READY, READY + 100, 0..3);
        // Node 0 leads everything it holds.
        let steps = house
            .topology
            .partitions()
            .filter(|(_, owners)| owners.position(NodeIndex(0)).is_some_and(|at| at > 0));
        let steps = steps.map(|(partition, _)| (partition, Step::HandOver(NodeIndex(0))));
        let steps: Vec<_> = steps.collect();
        house.apply(Command::Steps(steps));
        house.succeed(READY + 100, 1);
        let requests = |effects: Vec<Effect>| -> Vec<HandOverRequest> {
            let request = |effect| match effect {
                Effect::HandOver(request) => Some(request),
                _ => None,
            };
            effects.into_iter().filter_map(request).collect()
        };
        // Not before it knows of all leases: the pause would be long.
        let inherits_until = READY + 100 + house.timing.inheritance_ms();
        assert_eq!(requests(house.run(READY + 100, inherits_until, 0..3)), []);
        let asked = requests(house.run(inherits_until, inherits_until + 400, 0..3));
        let count: usize = asked.iter().map(|request| request.partitions.len()).sum();
        assert!(count > 0 && count <= HAND_OVERS_PER_PRIMARY_MAX);
        assert!(asked.iter().all(|request| request.primary == NodeIndex(0)));
        for request in asked {
            let step = |partition| (partition, Step::HandOver(request.to));
            house.apply(Command::Steps(request.partitions.into_iter().map(step).collect()));
        }
        let settled = house.run(inherits_until + 400, inherits_until + 2_000, 0..3);
        assert_eq!(requests(settled), []);
    }
}
