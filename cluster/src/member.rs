//! A node's side of the failure detector: it beats, and from the answers it knows
//! until when it may serve.
//!
//! ```text
//! member ── Beat { confirmed, sent, healthy, ... } ──► keeper (the leader's)
//!        ◄── BeatReply { sent, lease, settled, latest } ──
//! ```
//!
//! A lease lasts from the moment the beat was *sent*, by this node's own clock:
//! so it ends here before it ends in the keeper's books, however long the two
//! messages travelled, and a node that was paused wakes up without one.
//!
//! Which node's keeper to talk to is told from outside.

use crate::time::{Millis, Timing};
use crate::topology::{Incarnation, NodeIndex, Revision};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Most suspicions that a beat carries; more at once say that it is this node
/// that hears nobody.
pub const SUSPECTS_MAX: usize = 16;

/// What a member tells the keeper, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The node.
    pub name: String,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// All its cores act under this revision or a later one.
    pub confirmed: Revision,
    /// The latest revision that it has received.
    pub known: Revision,
    /// When it was sent, by the node's own clock.
    pub sent: Millis,
    /// All its cores make progress.
    pub healthy: bool,
    /// Nodes whose connections broke.
    pub suspects: Vec<NodeIndex>,
}

/// The keeper's answer to a [`Beat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatReply {
    /// Of the beat: an answer to the process before this one is not for this one.
    pub incarnation: Incarnation,
    /// Of the beat.
    pub sent: Millis,
    /// The node may serve for a while from `sent`: for [`Timing::lease_ms`], or what
    /// follows if that is less.
    pub lease: bool,
    /// How long a lease is in the keeper's books. A node that was told a longer one
    /// must not serve for so long: others would lead what it leads meanwhile.
    pub lease_ms: u64,
    /// Nobody acts any more against a revision up to this one.
    pub settled: Revision,
    /// The keeper's revision.
    pub latest: Revision,
    /// The keeper plans nothing: no copy is to be made, moved or dropped, and no
    /// partition to be handed over.
    pub at_rest: bool,
}

/// A node's lease, and when to ask for the next.
#[derive(Debug)]
pub struct Member {
    name: String,
    incarnation: Incarnation,
    timing: Timing,
    known: Revision,
    confirmed: Revision,
    settled: Revision,
    latest: Revision,
    at_rest: bool,
    healthy: bool,
    suspects: Vec<NodeIndex>,
    lease_until: Millis,
    /// While the keeper is on this node.
    keeping_until: Option<Millis>,
    /// When it ceased to be: what it granted this node is void.
    kept_until: Millis,
    beat_at: Millis,
}

impl Member {
    /// A node that has just started: it beats at once and has no lease.
    pub fn new(name: String, incarnation: Incarnation, timing: Timing) -> Member {
        Member {
            name,
            incarnation,
            timing,
            known: Revision::default(),
            confirmed: Revision::default(),
            settled: Revision::default(),
            latest: Revision::default(),
            at_rest: false,
            healthy: true,
            suspects: Vec::new(),
            lease_until: Millis(0),
            keeping_until: None,
            kept_until: Millis(0),
            beat_at: Millis(0),
        }
    }

    /// The beat to send to the leader's keeper, if one is due.
    pub fn tick(&mut self, now: Millis) -> Option<Beat> {
        if now < self.beat_at {
            return None;
        }
        self.beat_at = now.plus(self.timing.beat_ms);
        Some(Beat {
            name: self.name.clone(),
            incarnation: self.incarnation,
            confirmed: self.confirmed,
            known: self.known,
            sent: now,
            healthy: self.healthy,
            suspects: self.suspects.clone(),
        })
    }

    /// When [`Member::tick`] has something to send.
    pub fn beat_at(&self) -> Millis {
        self.beat_at
    }

    /// The keeper answered.
    pub fn on_reply(&mut self, now: Millis, reply: &BeatReply) {
        if reply.incarnation != self.incarnation || reply.sent > now {
            return;
        }
        self.latest = self.latest.max(reply.latest);
        self.at_rest = reply.at_rest;
        self.on_settled(reply.settled);
        // What was sent within that very millisecond may have been before.
        if reply.lease && reply.sent > self.kept_until {
            let lease_ms = self.timing.lease_ms.min(reply.lease_ms);
            self.lease_until = self.lease_until.max(reply.sent.plus(lease_ms));
        }
    }

    /// A keeper said that a revision is settled.
    pub fn on_settled(&mut self, revision: Revision) {
        self.settled = self.settled.max(revision);
    }

    /// A topology arrived; the cores are being told.
    pub fn on_topology(&mut self, revision: Revision) {
        self.known = self.known.max(revision);
    }

    /// All cores act under `revision` or a later one, and nothing that they began
    /// under an older one is still under way. The keeper waits for that.
    pub fn on_confirmed(&mut self, revision: Revision) {
        if revision > self.confirmed {
            self.confirmed = revision;
            self.on_topology(revision);
            self.beat_soon();
        }
    }

    /// Whether all cores make progress.
    pub fn on_health(&mut self, healthy: bool) {
        if self.healthy != healthy {
            self.healthy = healthy;
            self.beat_soon();
        }
    }

    /// A connection to a node broke.
    pub fn on_suspect(&mut self, node: NodeIndex) {
        if !self.suspects.contains(&node) && self.suspects.len() < SUSPECTS_MAX {
            self.suspects.push(node);
            self.beat_soon();
        }
    }

    /// A connection to a node stands again, or the node is down for everybody.
    pub fn on_trust(&mut self, node: NodeIndex) {
        self.suspects.retain(|suspect| *suspect != node);
    }

    /// The keeper is on this node, and may grant leases until then; or no longer.
    ///
    /// A node that keeps the cluster serves no longer than it may grant: so when it
    /// dies its successor need not wait for a whole lease, only for what is left of
    /// its leadership. To be called before the keeper's first
    /// [`Command::Keep`](crate::change::Command::Keep) is proposed, and then with
    /// every confirmation of the leadership.
    pub fn on_keeping(&mut self, now: Millis, until: Option<Millis>) {
        if until.is_none() && self.keeping_until.is_some() {
            // What was granted here is not worth more for its granting no more.
            self.lease_until = self.lease_until();
            self.kept_until = now;
        }
        self.keeping_until = until;
    }

    /// Until when this node may serve what it owns.
    pub fn lease_until(&self) -> Millis {
        self.keeping_until.map_or(self.lease_until, |until| self.lease_until.min(until))
    }

    /// Whether this node may serve what it owns.
    pub fn has_lease(&self, now: Millis) -> bool {
        now < self.lease_until()
    }

    /// The revision under which all cores act.
    pub fn confirmed(&self) -> Revision {
        self.confirmed
    }

    /// The highest revision that is settled, as far as this node was told.
    pub fn settled(&self) -> Revision {
        self.settled
    }

    /// Whether the keeper has a later topology than this node.
    pub fn is_behind(&self) -> bool {
        self.known < self.latest
    }

    /// Whether the keeper plans nothing, by its latest answer, and this node has the
    /// topology for which it said so.
    pub fn is_at_rest(&self) -> bool {
        self.at_rest && !self.is_behind()
    }

    /// The next [`Member::tick`] beats.
    pub fn beat_soon(&mut self) {
        self.beat_at = Millis(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member::new("a".into(), Incarnation(7), Timing::default())
    }

    fn grant(sent: u64) -> BeatReply {
        BeatReply {
            incarnation: Incarnation(7),
            sent: Millis(sent),
            lease: true,
            lease_ms: Timing::default().lease_ms,
            settled: Revision(3),
            latest: Revision(5),
            at_rest: true,
        }
    }

    #[test]
    fn it_beats_at_once_and_then_in_its_rhythm() {
        let mut member = member();
        assert_eq!(member.tick(Millis(1_000)).unwrap().sent, Millis(1_000));
        assert_eq!(member.tick(Millis(1_049)), None);
        assert!(member.tick(Millis(1_050)).is_some());
        assert_eq!(member.beat_at(), Millis(1_100));
    }

    #[test]
    fn a_lease_lasts_from_the_sending_of_the_beat() {
        let mut member = member();
        member.on_reply(Millis(1_200), &grant(1_000));
        assert_eq!(member.lease_until(), Millis(1_250));
        assert!(member.has_lease(Millis(1_249)) && !member.has_lease(Millis(1_250)));
        // An older answer that comes later takes nothing away.
        member.on_reply(Millis(1_210), &grant(950));
        assert_eq!(member.lease_until(), Millis(1_250));
        assert_eq!(member.settled(), Revision(3));
        assert!(member.is_behind() && !member.is_at_rest());
        member.on_topology(Revision(5));
        assert!(member.is_at_rest(), "it has what the keeper has, which plans nothing");
    }

    #[test]
    fn a_member_that_was_told_a_longer_lease_serves_no_longer_than_the_keeper_reckons() {
        let timing = Timing { lease_ms: 1_000, ..Timing::default() };
        let mut member = Member::new("a".into(), Incarnation(7), timing);
        member.on_reply(Millis(1_200), &grant(1_000));
        assert_eq!(member.lease_until(), Millis(1_250));
        // One that was told a shorter lease serves no longer than that.
        let timing = Timing { lease_ms: 100, ..Timing::default() };
        let mut member = Member::new("a".into(), Incarnation(7), timing);
        member.on_reply(Millis(1_050), &grant(1_000));
        assert_eq!(member.lease_until(), Millis(1_100));
    }

    #[test]
    fn a_paused_member_wakes_up_without_a_lease() {
        let mut member = member();
        let beat = member.tick(Millis(1_000)).unwrap();
        // The answer waits in the socket while the node sleeps.
        member.on_reply(Millis(9_000), &grant(beat.sent.0));
        assert!(!member.has_lease(Millis(9_000)));
    }

    #[test]
    fn a_member_beside_the_keeper_serves_no_longer_than_that_may_grant() {
        let mut member = member();
        member.on_keeping(Millis(1_000), Some(Millis(1_090)));
        member.on_reply(Millis(1_001), &grant(1_000));
        assert_eq!(member.lease_until(), Millis(1_090));
        // Leadership is confirmed once more: the lease that it has is enough.
        member.on_keeping(Millis(1_040), Some(Millis(1_130)));
        assert_eq!(member.lease_until(), Millis(1_130));
        // Another node keeps: what was granted here does not last longer for that,
        // nor does what is still on its way.
        member.on_keeping(Millis(1_050), None);
        for sent in [1_049, 1_050] {
            member.on_reply(Millis(1_051), &grant(sent));
            assert_eq!(member.lease_until(), Millis(1_130));
        }
        member.on_reply(Millis(1_101), &grant(1_100));
        assert_eq!(member.lease_until(), Millis(1_350));
    }

    #[test]
    fn answers_to_another_life_or_from_the_future_count_for_nothing() {
        let mut member = member();
        member.on_reply(Millis(10), &BeatReply { incarnation: Incarnation(6), ..grant(10) });
        member.on_reply(Millis(10), &grant(11));
        assert_eq!(member.lease_until(), Millis(0));
        assert_eq!(member.settled(), Revision(0));
    }

    #[test]
    fn what_the_keeper_waits_for_is_told_at_once() {
        let mut member = member();
        member.tick(Millis(0));
        member.on_topology(Revision(4));
        assert_eq!(member.tick(Millis(1)), None);
        member.on_confirmed(Revision(4));
        let beat = member.tick(Millis(2)).unwrap();
        assert_eq!((beat.confirmed, beat.known), (Revision(4), Revision(4)));
        member.on_health(false);
        assert!(!member.tick(Millis(3)).unwrap().healthy);
        member.on_suspect(NodeIndex(2));
        member.on_suspect(NodeIndex(2));
        assert_eq!(member.tick(Millis(4)).unwrap().suspects, [NodeIndex(2)]);
        member.on_trust(NodeIndex(2));
        member.beat_soon();
        assert!(member.tick(Millis(5)).unwrap().suspects.is_empty());
    }

    #[test]
    fn suspicions_are_bounded() {
        let mut member = member();
        (0..100).for_each(|node| member.on_suspect(NodeIndex(node)));
        assert_eq!(member.tick(Millis(0)).unwrap().suspects.len(), SUSPECTS_MAX);
    }
}
