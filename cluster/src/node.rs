//! A node's control: its membership, and the bookkeeping of its cores.
//!
//! One of these runs on a node's control thread. It stands between the keeper and
//! the coordinator on one side and the cores' [`Replicator`]s on the other, and
//! holds no data. What happens is told it, what must happen comes out as
//! [`Effect`]s, so that the daemon and the simulator run this very code.
//!
//! ```text
//!   coordinator ── topology ──►┌─────────┐── topology, lease, settled ──► every core
//!      ▲───────── commands ────│ Control │   pause, resume
//!   keeper ── replies ────────►│         │◄── what it acts under, caught up,
//!      ▲───────── beats ───────└─────────┘    paused, suspects ────────── every core
//! ```
//!
//! - A revision is confirmed to the keeper when *all* cores act under it.
//! - A replica is proposed as in sync when all pairs of cores that share keys say
//!   that it caught up. What the primary knew then is the *lowest* revision at
//!   which one of them said so: if the replica was excluded after that, the
//!   proposal fails, and those who spoke before the exclusion speak again.
//! - A hand-over pauses writes on all cores, waits until none is under way on any,
//!   and proposes the step. If that does not come about in time, writes go on.
//! - Whatever is proposed may be lost: it is proposed again until the topology
//!   shows it, or shows that it is void.
//!
//! [`Replicator`]: crate::replication::Replicator

use crate::change::Command;
use crate::member::{Beat, BeatReply, Member};
use crate::planning::HandOverRequest;
use crate::ring::Partition;
use crate::time::{Millis, Timing};
use crate::topology::{Epoch, Incarnation, Introduction, NodeIndex, Revision, Topology};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec,
    vec::Vec,
};

/// Most partitions in one proposal. Every core of the cluster takes some two
/// milliseconds for as many, and serves nobody meanwhile.
pub const PARTITIONS_MAX: usize = 4 * 1024;

/// What every core must be told. Each core gets them in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// To act under this topology from now on: `Replicator::set_topology`.
    Topology {
        /// The topology to act under.
        topology: Arc<Topology>,
        /// This node in it.
        me: Option<NodeIndex>,
    },
    /// The node's lease: `Replicator::set_lease`.
    Lease(Millis),
    /// What is settled: `Replicator::set_settled`.
    Settled(Revision),
    /// `Replicator::pause`.
    Pause(Vec<Partition>),
    /// `Replicator::resume`.
    Resume(Vec<Partition>),
}

/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to the keeper of the leader. It may get lost.
    Beat(Beat),
    /// Tell every core.
    Tell(Tell),
    /// Propose this to the coordinator. It may get lost, or come late.
    Propose(Command),
    /// Cores may open links to this node, until [`Effect::Disconnect`].
    Connect {
        /// The node to connect to.
        node: NodeIndex,
        /// This life of it: a link to another one is to be closed.
        incarnation: Incarnation,
        /// `host:port` where it listens to peers.
        address: String,
        /// Its data cores.
        cores: u16,
    },
    /// Close all links to and from this node: that life of it has ended, or it left.
    Disconnect(NodeIndex),
    /// A later process of this name is in the cluster: this one is to end.
    Superseded,
}

/// What a core says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing but that it makes progress. Each core says so, or something else,
    /// at least every [`Timing::beat_ms`].
    Alive,
    /// `replication::Effect::CaughtUp`.
    CaughtUp {
        /// The replica.
        node: NodeIndex,
        /// Its core.
        core: u16,
        /// The partitions.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// `replication::Effect::Suspect`.
    Suspect {
        /// The replica.
        node: NodeIndex,
        /// It cannot catch up while it counts as in sync.
        cannot_follow: bool,
    },
    /// `replication::Effect::Paused`.
    Paused(Vec<Partition>),
    /// A link to a node broke, or cannot be opened.
    Broken(NodeIndex),
    /// A link to a node stands.
    Stands(NodeIndex),
}

/// How far a replica's cores have caught up with this node's.
#[derive(Debug)]
struct Joining {
    epoch: Epoch,
    /// By own and replica's core: the revision that the own one acted under.
    pairs: BTreeMap<(u16, u16), Revision>,
    proposed_at: Option<Millis>,
}

#[derive(Debug)]
struct HandOver {
    to: NodeIndex,
    epoch: Epoch,
    /// The revision when writes were told to pause.
    known: Revision,
    since: Millis,
    paused: BTreeSet<u16>,
    proposed_at: Option<Millis>,
}

/// A core, as seen from here.
#[derive(Clone, Copy, Debug)]
struct Core {
    acts: Revision,
    heard_at: Millis,
}

/// See the module.
#[derive(Debug)]
pub struct Control {
    introduction: Introduction,
    timing: Timing,
    /// In-sync copies that a partition keeps, unless nodes end for good.
    min_copies: u8,
    member: Member,
    topology: Arc<Topology>,
    me: Option<NodeIndex>,
    /// It was a member once: it does not join again by itself.
    was_member: bool,
    superseded: bool,
    joined_at: Option<Millis>,
    cores: Vec<Core>,
    joining: BTreeMap<(NodeIndex, Partition), Joining>,
    hand_overs: BTreeMap<Partition, HandOver>,
    excluded_at: BTreeMap<NodeIndex, Millis>,
    /// Down, and in sync where this node is primary.
    silent: Vec<NodeIndex>,
    /// What the cores were told.
    lease_told: Millis,
    settled_told: Revision,
}

impl Control {
    /// The control of a process that has just started. Nothing of an earlier one
    /// is known here: the introduction's incarnation is a new one.
    pub fn new(introduction: Introduction, timing: Timing, now: Millis) -> Control {
        let (name, incarnation) = (introduction.name.clone(), introduction.incarnation);
        let core = Core { acts: Revision(0), heard_at: now };
        Control {
            cores: vec![core; usize::from(introduction.cores.max(1))],
            member: Member::new(name, incarnation, timing.clone()),
            introduction,
            timing,
            min_copies: 1,
            topology: Arc::default(),
            me: None,
            was_member: false,
            superseded: false,
            joined_at: None,
            joining: BTreeMap::new(),
            hand_overs: BTreeMap::new(),
            excluded_at: BTreeMap::new(),
            silent: Vec::new(),
            lease_told: Millis(0),
            settled_told: Revision(0),
        }
    }

    /// From now on no replica is left out where fewer in-sync copies than that would be
    /// left, the primary's included: writes wait for it.
    pub fn set_min_copies(&mut self, min_copies: u8) {
        self.min_copies = min_copies.max(1);
    }

    /// Its beats and its lease.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The topology that the cores were told of last.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// This node in it.
    pub fn me(&self) -> Option<NodeIndex> {
        self.me
    }

    /// Looks at the time. To be called every few milliseconds.
    pub fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.superseded {
            return;
        }
        let stalled_ms = self.timing.lease_ms;
        let healthy = self.cores.iter().all(|core| now.since(core.heard_at) < stalled_ms);
        self.member.on_health(healthy);
        effects.extend(self.member.tick(now).map(Effect::Beat));
        self.join(now, effects);
        self.propose_in_sync(now, effects);
        self.drive_hand_overs(now, effects);
        // Writes would have to wait for them. Nobody else may take them out.
        for replica in self.silent.clone() {
            self.exclude(now, replica, self.min_copies, effects);
        }
    }

    /// The keeper answered a beat.
    pub fn on_reply(&mut self, now: Millis, reply: &BeatReply, effects: &mut Vec<Effect>) {
        self.member.on_reply(now, reply);
        self.tell_member(effects);
    }

    /// The keeper is on this node, or no longer: [`Member::on_keeping`].
    pub fn on_keeping(&mut self, now: Millis, until: Option<Millis>, effects: &mut Vec<Effect>) {
        self.member.on_keeping(now, until);
        self.tell_member(effects);
    }

    /// Another node leads the coordinator: its keeper has not heard of this one, and
    /// what was proposed while nobody led is probably lost.
    pub fn on_leader(&mut self) {
        self.excluded_at.clear();
        self.beat_soon();
    }

    /// The next [`Control::tick`] beats.
    pub fn beat_soon(&mut self) {
        self.member.beat_soon();
    }

    fn tell_member(&mut self, effects: &mut Vec<Effect>) {
        if self.member.settled() > self.settled_told {
            self.settled_told = self.member.settled();
            effects.push(Effect::Tell(Tell::Settled(self.settled_told)));
        }
        if self.member.lease_until() != self.lease_told {
            self.lease_told = self.member.lease_until();
            effects.push(Effect::Tell(Tell::Lease(self.lease_told)));
        }
    }

    /// The coordinator has a new topology. One that is not newer changes nothing.
    pub fn on_topology(&mut self, topology: Arc<Topology>, effects: &mut Vec<Effect>) {
        if topology.revision() <= self.topology.revision() || self.superseded {
            return;
        }
        let old = core::mem::replace(&mut self.topology, topology);
        self.member.on_topology(self.topology.revision());
        let own = self.introduction.incarnation;
        let named = self.topology.named(&self.introduction.name);
        self.me = named.filter(|(_, found)| found.node.incarnation == own).map(|found| found.0);
        self.was_member |= self.me.is_some();
        if named.is_some_and(|(_, found)| found.node.incarnation > own) {
            self.superseded = true;
            effects.push(Effect::Superseded);
        }
        // What was proposed has come about, or something else has happened to the node:
        // what is needed from here on is another exclusion.
        let fence = |topology: &Topology, node| topology.member(node).map(|member| member.fence);
        let now = &self.topology;
        self.excluded_at.retain(|node, _| fence(&old, *node) == fence(now, *node));
        self.connect(&old, effects);
        self.forget_void(effects);
        let (topology, me) = (Arc::clone(&self.topology), self.me);
        effects.push(Effect::Tell(Tell::Topology { topology, me }));
    }

    /// Which nodes there are to talk to.
    fn connect(&mut self, old: &Topology, effects: &mut Vec<Effect>) {
        let slots = old.members().len().max(self.topology.members().len());
        for node in (0..slots).map(|slot| NodeIndex(slot as u16)) {
            let was = old.member(node).map(|member| &member.node);
            let is = self.topology.member(node).map(|member| &member.node);
            if was.is_some() && was != is {
                self.member.on_trust(node);
                effects.push(Effect::Disconnect(node));
            }
            if let Some(is) = is
                && was != Some(is)
                && is.name != self.introduction.name
            {
                let (incarnation, address) = (is.incarnation, is.peer_address.clone());
                effects.push(Effect::Connect { node, incarnation, address, cores: is.cores });
            }
            if !self.topology.is_up(node) {
                self.member.on_trust(node);
            }
        }
    }

    /// Drops what was being done and is void by the new topology.
    fn forget_void(&mut self, effects: &mut Vec<Effect>) {
        let (topology, me) = (&self.topology, self.me);
        let leads = |partition: Partition, epoch: Epoch| {
            let owners = topology.owners(partition);
            owners.epoch == epoch && owners.primary() == me && me.is_some()
        };
        self.joining.retain(|(node, partition), joining| {
            let owners = topology.owners(*partition);
            let fence = topology.member(*node).map(|member| member.fence);
            joining.pairs.retain(|_, known| fence.is_some_and(|fence| fence <= *known));
            leads(*partition, joining.epoch)
                && owners.position(*node).is_some()
                && !owners.is_in_sync(*node)
                && !joining.pairs.is_empty()
        });
        let mut resumed = Vec::new();
        self.hand_overs.retain(|partition, hand_over| {
            let HandOver { to, epoch, known, .. } = hand_over;
            let is_led = leads(*partition, *epoch);
            let comes_about =
                topology.owners(*partition).is_in_sync(*to) && topology.may_take_over(*to, *known);
            if is_led && !comes_about {
                resumed.push(*partition);
            }
            is_led && comes_about
        });
        if !resumed.is_empty() {
            effects.push(Effect::Tell(Tell::Resume(resumed)));
        }
        self.silent.clear();
        let mut down: Vec<NodeIndex> = topology.nodes().map(|(node, _)| node).collect();
        down.retain(|node| !topology.is_up(*node));
        if !down.is_empty() && me.is_some() {
            for (_, owners) in topology.partitions().filter(|(_, owners)| owners.primary() == me) {
                let in_sync = down.iter().filter(|node| owners.is_in_sync(**node));
                let fresh =
                    in_sync.filter(|node| !self.silent.contains(node) && me != Some(**node));
                let fresh: Vec<NodeIndex> = fresh.copied().collect();
                self.silent.extend(fresh);
            }
        }
    }

    /// A core says something; `acts` is the revision that it acts under.
    pub fn on_report(
        &mut self,
        now: Millis,
        core: u16,
        acts: Revision,
        report: Report,
        effects: &mut Vec<Effect>,
    ) {
        let Some(own) = self.cores.get_mut(usize::from(core)) else { return };
        own.heard_at = now;
        // What a replica has caught up with says nothing of what the core gave up.
        if !matches!(report, Report::CaughtUp { .. }) {
            own.acts = own.acts.max(acts);
        }
        let all = self.cores.iter().map(|core| core.acts).min().unwrap_or_default();
        self.member.on_confirmed(all);
        match report {
            Report::Alive => {}
            Report::CaughtUp { node, core: theirs, partitions } => {
                self.note_caught_up((core, theirs), node, acts, &partitions);
                self.propose_in_sync(now, effects);
            }
            Report::Suspect { node, cannot_follow } => {
                let fence = self.topology.member(node).map(|member| member.fence);
                // Else the core has not heard yet that it is out already.
                if fence.is_some_and(|fence| fence <= acts) {
                    let keep = if cannot_follow { 1 } else { self.min_copies };
                    self.exclude(now, node, keep, effects);
                }
            }
            Report::Paused(partitions) => {
                for partition in partitions {
                    if let Some(hand_over) = self.hand_overs.get_mut(&partition) {
                        hand_over.paused.insert(core);
                    }
                }
                // Other cores report the same; what follows is for the next tick.
            }
            Report::Broken(node) => self.member.on_suspect(node),
            Report::Stands(node) => self.member.on_trust(node),
        }
    }

    /// The keeper asks this node to hand partitions over.
    pub fn on_hand_over(
        &mut self,
        now: Millis,
        request: &HandOverRequest,
        effects: &mut Vec<Effect>,
    ) {
        let mut partitions = Vec::new();
        for partition in &request.partitions {
            if partition.0 as usize >= self.topology.owners.len()
                || self.hand_overs.contains_key(partition)
            {
                continue;
            }
            let owners = self.topology.owners(*partition);
            if self.me.is_none() || owners.primary() != self.me || !owners.is_in_sync(request.to) {
                continue;
            }
            let (to, epoch, paused) = (request.to, owners.epoch, BTreeSet::new());
            let known = self.topology.revision();
            let hand_over = HandOver { to, epoch, known, since: now, paused, proposed_at: None };
            self.hand_overs.insert(*partition, hand_over);
            partitions.push(*partition);
        }
        if !partitions.is_empty() {
            effects.push(Effect::Tell(Tell::Pause(partitions)));
        }
    }

    // ---- Proposals, each again until the topology shows what came of it.

    fn due(&self, now: Millis, last: Option<Millis>) -> bool {
        last.is_none_or(|at| now.since(at) >= self.timing.down_after_ms)
    }

    fn join(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.was_member || !self.due(now, self.joined_at) {
            return;
        }
        self.joined_at = Some(now);
        effects.push(Effect::Propose(Command::Join(self.introduction.clone())));
    }

    fn note_caught_up(
        &mut self,
        pair: (u16, u16),
        node: NodeIndex,
        acts: Revision,
        partitions: &[(Partition, Epoch)],
    ) {
        let fence = self.topology.member(node).map(|member| member.fence);
        if fence.is_none_or(|fence| fence > acts) {
            return;
        }
        for (partition, epoch) in partitions {
            if partition.0 as usize >= self.topology.owners.len() {
                continue;
            }
            let owners = self.topology.owners(*partition);
            if owners.primary() != self.me || owners.epoch != *epoch || owners.is_in_sync(node) {
                continue;
            }
            let fresh = || Joining { epoch: *epoch, pairs: BTreeMap::new(), proposed_at: None };
            let joining = self.joining.entry((node, *partition)).or_insert_with(fresh);
            joining.pairs.insert(pair, acts);
            joining.proposed_at = None;
        }
    }

    /// Pairs of cores that share keys, of this node and another.
    fn pairs(&self, node: NodeIndex) -> usize {
        let own = self.cores.len();
        let theirs = self.topology.cores_of(node);
        if usize::from(theirs) == own { own } else { own * usize::from(theirs) }
    }

    fn propose_in_sync(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let again_ms = self.timing.down_after_ms;
        let mut ready: BTreeMap<(NodeIndex, Revision), Vec<(Partition, Epoch)>> = BTreeMap::new();
        let mut pairs = BTreeMap::new();
        for (node, _) in self.joining.keys() {
            if !pairs.contains_key(node) {
                pairs.insert(*node, self.pairs(*node));
            }
        }
        for ((node, partition), joining) in &mut self.joining {
            let said = joining.proposed_at.is_some_and(|at| now.since(at) < again_ms);
            if said || joining.pairs.len() < pairs[node] {
                continue;
            }
            let Some(known) = joining.pairs.values().min() else { continue };
            joining.proposed_at = Some(now);
            ready.entry((*node, *known)).or_default().push((*partition, joining.epoch));
        }
        for ((node, known), partitions) in ready {
            for partitions in partitions.chunks(PARTITIONS_MAX) {
                let partitions = partitions.to_vec();
                effects.push(Effect::Propose(Command::InSync { node, known, partitions }));
            }
        }
    }

    /// A replica does not confirm, or is down.
    fn exclude(&mut self, now: Millis, replica: NodeIndex, keep: u8, effects: &mut Vec<Effect>) {
        let Some(primary) = self.me else { return };
        if !self.due(now, self.excluded_at.get(&replica).copied()) {
            return;
        }
        self.excluded_at.insert(replica, now);
        if keep > 1 && !self.would_exclude(primary, replica, keep) {
            return;
        }
        effects.push(Effect::Propose(Command::Exclude { primary, replica, keep }));
    }

    /// Whether an exclusion would change something. A replica that is up may be about to
    /// be in sync, which is to be undone; one that is down is not.
    fn would_exclude(&self, primary: NodeIndex, replica: NodeIndex, keep: u8) -> bool {
        let is_up = self.topology.is_up(replica);
        let led = self.topology.partitions().map(|(_, owners)| owners);
        let mut held = led.filter(|owners| {
            owners.primary() == Some(primary) && owners.position(replica).is_some()
        });
        held.any(|owners| match owners.is_in_sync(replica) {
            true => owners.in_sync() > u32::from(keep),
            false => is_up,
        })
    }

    /// Once a hand-over is proposed it may come about at any time, until the topology
    /// rules it out: writes pause until then.
    fn drive_hand_overs(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let (again_ms, cores) = (self.timing.down_after_ms, self.cores.len());
        let mut ready: BTreeMap<(NodeIndex, Revision), Vec<(Partition, Epoch)>> = BTreeMap::new();
        let mut resumed = Vec::new();
        self.hand_overs.retain(|partition, hand_over| {
            let HandOver { to, epoch, known, since, ref paused, proposed_at } = *hand_over;
            let waited_ms = now.since(proposed_at.unwrap_or(since));
            if paused.len() == cores && (proposed_at.is_none() || waited_ms >= again_ms) {
                hand_over.proposed_at = Some(now);
                ready.entry((to, known)).or_default().push((*partition, epoch));
            } else if proposed_at.is_none() && waited_ms >= again_ms {
                resumed.push(*partition);
                return false;
            }
            true
        });
        if !resumed.is_empty() {
            effects.push(Effect::Tell(Tell::Resume(resumed)));
        }
        for ((to, known), partitions) in ready {
            effects.push(Effect::Propose(Command::HandOver { to, known, partitions }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Outcome, Refusal, Step};
    use alloc::string::ToString;

    fn introduction(node: u16) -> Introduction {
        Introduction {
            name: node.to_string(),
            incarnation: Incarnation(1),
            weight: 100,
            cores: 1,
            ..Introduction::default()
        }
    }

    /// Two nodes; the first leads the one partition, both are in sync.
    fn pair() -> Topology {
        let mut topology = Topology::default();
        topology.apply(&Command::Create { name: "t".into(), ring_bits: 0, copies: 2, seed: 0 });
        let add = |node| (Partition(0), Step::Add(NodeIndex(node)));
        for node in [0, 1] {
            topology.apply(&Command::Join(introduction(node)));
        }
        topology.apply(&Command::Steps(vec![add(0), add(1)]));
        in_sync(&mut topology);
        topology
    }

    fn in_sync(topology: &mut Topology) {
        let partitions = vec![(Partition(0), Epoch(1))];
        let known = topology.revision();
        topology.apply(&Command::InSync { node: NodeIndex(1), known, partitions });
    }

    #[test]
    fn an_exclusion_that_came_about_does_not_delay_the_next() {
        let exclude = Command::Exclude { primary: NodeIndex(0), replica: NodeIndex(1), keep: 1 };
        let mut topology = pair();
        let mut control = Control::new(introduction(0), Timing::default(), Millis(1_000));
        let mut effects = Vec::new();
        control.on_topology(Arc::new(topology.clone()), &mut effects);
        let suspect = |control: &mut Control, now| {
            let (mut effects, acts) = (Vec::new(), control.topology().revision());
            control.on_report(
                Millis(now),
                0,
                acts,
                Report::Suspect { node: NodeIndex(1), cannot_follow: false },
                &mut effects,
            );
            effects.contains(&Effect::Propose(exclude.clone()))
        };
        assert!(suspect(&mut control, 1_000));
        assert!(!suspect(&mut control, 1_010), "it is under way");
        assert!(suspect(&mut control, 1_300), "it may have been lost");
        topology.apply(&exclude);
        in_sync(&mut topology);
        topology.apply(&Command::Down { node: NodeIndex(1), incarnation: Incarnation(1) });
        control.on_topology(Arc::new(topology), &mut effects);
        effects.clear();
        control.tick(Millis(1_310), &mut effects);
        assert!(effects.contains(&Effect::Propose(exclude)), "it is in sync, and down");
    }

    #[test]
    fn writes_pause_until_a_hand_over_that_was_proposed_cannot_come_about_any_more() {
        let mut topology = pair();
        let mut control = Control::new(introduction(0), Timing::default(), Millis(1_000));
        let mut effects = Vec::new();
        control.on_topology(Arc::new(topology.clone()), &mut effects);
        let (to, partitions) = (NodeIndex(1), vec![Partition(0)]);
        let request = HandOverRequest { primary: NodeIndex(0), to, partitions: partitions.clone() };
        let ask = |control: &mut Control, now: u64| {
            let mut effects = Vec::new();
            control.on_hand_over(Millis(now), &request, &mut effects);
            assert_eq!(effects, [Effect::Tell(Tell::Pause(partitions.clone()))]);
        };
        let resumed = Effect::Tell(Tell::Resume(partitions.clone()));
        let tick = |control: &mut Control, now: u64| {
            let mut effects = Vec::new();
            control.tick(Millis(now), &mut effects);
            effects.retain(|effect| {
                matches!(effect, Effect::Propose(Command::HandOver { .. })) || *effect == resumed
            });
            effects
        };
        // A write that stays under way: nothing was proposed, and it is given up.
        ask(&mut control, 1_000);
        assert_eq!(tick(&mut control, 1_299), []);
        assert_eq!(tick(&mut control, 1_300), core::slice::from_ref(&resumed));
        ask(&mut control, 2_000);
        let known = topology.revision();
        control.on_report(
            Millis(2_001),
            0,
            known,
            Report::Paused(vec![Partition(0)]),
            &mut effects,
        );
        let partitions = vec![(Partition(0), topology.owners(Partition(0)).epoch)];
        let command = Command::HandOver { to, known, partitions };
        for now in [2_001, 2_301, 2_601] {
            assert_eq!(tick(&mut control, now), [Effect::Propose(command.clone())]);
            assert_eq!(tick(&mut control, now + 299), [], "it may come about");
        }
        let exclude = Command::Exclude { primary: NodeIndex(0), replica: to, keep: 1 };
        topology.apply(&exclude);
        effects.clear();
        control.on_topology(Arc::new(topology.clone()), &mut effects);
        assert!(effects.contains(&resumed));
        // In sync again or not, what was proposed before comes too late.
        in_sync(&mut topology);
        assert_eq!(topology.apply(&command), Outcome::Refused(Refusal::Superseded));
        assert_eq!(topology.owners(Partition(0)).primary(), Some(NodeIndex(0)));
    }
}
