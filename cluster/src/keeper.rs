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
//! old one afterwards. So the election came after `leader_at`. More than that: each
//! voter says with its vote for how long no leader had asked it anything. The voter
//! that is in both quorums was asked after `leader_at`, so the latest such moment of
//! all who voted, `vacant_since`, is not earlier than `leader_at` either. (A voter that
//! led itself counts as asked when it asked the others; one that has started since was
//! asked before. If the voters were changed in between, a leader that was elected after
//! `leader_at` asked a quorum of each set of voters on the way, and the last of these
//! has a node in common with those who voted.) So
//!
//! ```text
//! last grant of the old  <  leader_at + s(leadership)
//! end of its lease       <  leader_at + s(leadership) + s(lease)
//!                        <  vacant_since + s(leadership + lease)    (of the new)
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
//! end of that node's lease  <  leader_at + leadership  <  vacant_since + s(leadership)
//! ```
//!
//! Voters are patient for longer than that, so it is usually over when they elect.
//!
//! A new keeper finds the last such command in the topology. Who granted since must
//! have committed one of its own before, under a later term, and so before the new
//! one was elected. The command also says by which settings it grants, as its own
//! successor may have others; until it knows all leases, the longer ones of its own and
//! of the keeper before it. It also says up to which revision everything was
//! settled when the leases of all nodes that were down had ended. Who went down
//! before, or was replaced or forgotten, is not waited for once more.
//!
//! What it asks of the glue:
//! - [`Keeper::new`] comes after the election, and the topology shown to it then
//!   contains all that was committed before (read it as linearizable reads are);
//! - a node that keeps once more in the same term takes its own last check for that of
//!   a predecessor;
//! - the topology shown never goes back, and never contains what a *later* leader
//!   committed: a node that follows another leader drops its keeper first.
//!
//! What it proposes may be lost or come late. The commands are such that this
//! harms nobody; it asks again after [`Timing::down_after_ms`].

mod judge;
mod life;
#[cfg(test)]
mod tests;

use self::life::Life;
use crate::change::Command;
use crate::member::{Beat, BeatReply};
use crate::planner::{Limits, Wish};
use crate::planning::{HandOverRequest, PlanRequest, Planning};
use crate::time::{Millis, Timing};
use crate::topology::{Introduction, Keeping, NodeIndex, Revision, Topology};
use alloc::{collections::BTreeMap, string::String, vec::Vec};

/// Most steps of one command, for the reason of
/// [`PARTITIONS_MAX`](crate::node::PARTITIONS_MAX).
pub const STEPS_MAX: usize = 4 * 1024;
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

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    timing: Timing,
    limits: Limits,
    /// Leases that its predecessor granted keep to these.
    inherited: Timing,
    me: Keeping,
    /// What it says of itself while such leases may run.
    heir: Keeping,
    /// The topology says that this one keeps.
    keeps: bool,
    /// When it last proposed to say so.
    kept_at: Option<Millis>,
    /// No quorum confirmed a keeper before this one after that moment.
    vacant_since: Millis,
    /// Processes that nobody knows any more hold no lease from then on.
    ghosts_until: Millis,
    /// A clock that stands still while this keeper does not run. By it nodes are judged:
    /// what they sent while it slept may lie unread.
    awake: Millis,
    ticked_at: Millis,
    seen: Revision,
    /// By number: the node holds copies, by the topology seen.
    holders: Vec<bool>,
    settled: Revision,
    /// Since when hand-overs wait for a quiet moment.
    withheld_since: Option<Millis>,
    /// By name; several lives only while an earlier one may hold a lease.
    lives: BTreeMap<String, Vec<Life>>,
    planning: Planning,
}

impl Keeper {
    /// A keeper on the node that has just become the leader, with all that was
    /// committed before that. No quorum confirmed the keeper before it, or an earlier one
    /// on this node, after `vacant_since`: the moment of the election will do, and an
    /// earlier one, if it is known, spares waiting.
    pub fn new(
        now: Millis,
        vacant_since: Millis,
        timing: Timing,
        limits: Limits,
        me: Keeping,
        topology: &Topology,
    ) -> Keeper {
        let before = topology.keeping().unwrap_or(&me);
        let inherited = Timing {
            lease_ms: timing.lease_ms.max(before.lease_ms),
            leadership_ms: timing.leadership_ms.max(before.leadership_ms),
            ..timing.clone()
        };
        let heir = Keeping::new(me.term, me.name.clone(), me.incarnation, &inherited);
        let ghosts = if topology.has_ghosts() { inherited.inheritance_ms() } else { 0 };
        let mut keeper = Keeper {
            timing,
            limits,
            inherited,
            me,
            heir,
            keeps: false,
            kept_at: None,
            vacant_since,
            ghosts_until: vacant_since.plus(ghosts),
            awake: now,
            ticked_at: now,
            seen: Revision::default(),
            holders: Vec::new(),
            settled: topology.settled(),
            withheld_since: None,
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
                true => self.inherited.succession_ms(),
                false => self.inherited.inheritance_ms(),
            };
            let until = self.vacant_since.plus(span_ms);
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
            at_rest: self.planning.is_done(topology) && self.settled >= topology.revision(),
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
        (self.awake, self.ticked_at) = (self.awake_at(now), now);
        self.observe(now, topology);
        self.settle(now);
        self.lives.retain(|_, lives| {
            lives.retain(|life| life.node.is_some() || now < life.lease_until);
            !lives.is_empty()
        });
        self.keep(now, topology, effects);
        self.judge(now, effects);
        self.plan(now, topology, effects);
    }

    /// `now` by the clock that stands still while this keeper does not run. Of the time
    /// since the last tick, what is beyond a beat it did not run.
    fn awake_at(&self, now: Millis) -> Millis {
        self.awake.plus(now.since(self.ticked_at).min(self.timing.beat_ms))
    }

    /// Says that it keeps, and what its successor need not wait for.
    fn keep(&mut self, now: Millis, topology: &Topology, effects: &mut Vec<Effect>) {
        let gone = |life: &&Life| !life.up || life.node.is_none();
        let mut gone = self.lives.values().flatten().filter(gone);
        let is_over = gone.all(|life| now >= life.lease_until);
        let settled = if is_over { self.settled } else { topology.settled() };
        let news = topology.unsettled() > topology.settled() && settled >= topology.unsettled();
        let again = self.kept_at.is_none_or(|at| now.since(at) >= self.timing.down_after_ms);
        let keeping = if self.knows_all_leases(now) { &self.me } else { &self.heir };
        if again && (news || topology.keeping() != Some(keeping)) {
            let keeping = keeping.clone();
            self.kept_at = Some(now);
            effects.push(Effect::Propose(Command::Keep { keeping, settled }));
        }
    }

    /// Takes over what changed in the topology.
    fn observe(&mut self, now: Millis, topology: &Topology) {
        if topology.revision() <= self.seen {
            return;
        }
        self.seen = topology.revision();
        self.holders = topology.holders();
        let awake = self.awake;
        self.keeps = topology.keeping().is_some_and(|it| *it == self.me || *it == self.heir);
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
                lives.push(Life::new(incarnation, now, awake));
                lives.len() - 1
            });
            let life = &mut lives[at];
            life.node = Some(node);
            life.fence = member.fence;
            if life.up != member.up {
                life.up = member.up;
                life.since = now;
                life.heard_at = awake;
                life.asked_at = None;
                life.refused = false;
            }
            life.note_clear(self.seen);
        }
    }

    /// Notes what a beat says; whether it earns a lease.
    fn hear(&mut self, now: Millis, leader_at: Millis, beat: &Beat) -> bool {
        let (seen, awake) = (self.seen, self.awake_at(now));
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
        life.heard_at = awake;
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
        now.since(self.vacant_since) >= self.inherited.inheritance_ms()
    }

    /// The life that the topology has in a slot.
    fn life_in(&mut self, node: NodeIndex) -> Option<&mut Life> {
        self.lives.values_mut().flatten().find(|life| life.node == Some(node))
    }
}
