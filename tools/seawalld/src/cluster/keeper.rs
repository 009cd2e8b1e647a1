//! The keeper, on the node that leads the coordinator, and how beats reach it.

use super::alike::Verdict;
use super::control::{Shared, spawn};
use crate::server::say;
use cluster::change::Command;
use cluster::keeper::{Effect, Keeper};
use cluster::member::{Beat, BeatReply};
use cluster::planner::{self, Limits};
use cluster::planning::HandOverRequest;
use cluster::time::Millis;
use cluster::topology::{Keeping, Topology};
use coordinator::wire::{Boxed, Handler, PeerInfo};
use coordinator::{Confirmation, Role};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls of this module.
pub mod kind {
    /// A beat and the digest of the node's settings, answered by an
    /// [`Answer`](super::Answer).
    pub const BEAT: u8 = 0x40;
    /// A request to hand partitions over; answered by nothing.
    pub const HAND_OVER: u8 = 0x41;
    /// One round of an invalidation; answered by a number, or nothing if it failed.
    pub const SPREAD: u8 = 0x42;
    /// The last of them.
    pub const LAST: u8 = SPREAD;
}

/// How often the keeper looks at the time.
const TICK: Duration = Duration::from_millis(10);

/// The answer to a beat.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// From the keeper, with its machine's clock of day in milliseconds, and what it
    /// thinks of the node's settings.
    Reply(BeatReply, i64, Verdict),
    /// This node does not lead.
    NotLeader,
}

/// A keeper at work, and what it was last sure of.
///
/// It must never see what a later leader has changed. So it is shown only a
/// topology that was read *before* a majority said that this node still leads.
#[derive(Debug)]
pub struct Leading {
    term: u64,
    keeper: Keeper,
    leader_at: Millis,
    topology: Arc<Topology>,
}

impl Leading {
    /// Answers a beat.
    pub fn on_beat(&mut self, shared: &Shared, beat: &Beat) -> BeatReply {
        self.keeper.on_beat(shared.clock.now(), &self.topology, self.leader_at, beat)
    }
}

/// Follows the coordinator's leadership, and keeps while this node leads.
pub async fn run(shared: Arc<Shared>) {
    let mut role = shared.coordinator.role();
    loop {
        let now = role.borrow_and_update().clone();
        match now {
            Role::Leader { term } => {
                if begin(&shared, term).await {
                    keep(&shared, term).await;
                }
                *shared.leading.lock().expect("no holder panics") = None;
                shared.keeps_no_more();
            }
            Role::Follower { .. } => {
                shared.with_control(|control, _| control.on_leader());
                shared.beat.notify_one();
            }
        }
        // A changed role, or the same one to be tried again.
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

/// Makes the keeper, once a majority says that this node leads.
async fn begin(shared: &Arc<Shared>, term: u64) -> bool {
    let limits = Limits {
        filling_max: shared.config.fills_max as u32,
        filling_per_node_max: shared.config.fills_max as u32,
    };
    let started = shared.clock.now();
    // Whatever was decided before this is applied here when it comes back.
    let first = Command::Create {
        name: shared.config.name.clone(),
        ring_bits: shared.config.ring_bits,
        copies: shared.config.copies,
        seed: shared.seed,
    };
    if let Err(error) = shared.coordinator.append(first).await {
        say(&format!("cannot keep the cluster yet: {error}"));
        return false;
    }
    let topology = shared.coordinator.watch().borrow().clone();
    let Some((leader_at, confirmed)) = shared.confirm_leadership(term).await else { return false };
    shared.keeps_since(leader_at);
    let vacant_since = confirmed.vacant_since.map_or(started, |at| shared.clock.not_before(at));
    let timing = shared.config.timing.clone();
    let (name, incarnation) = (shared.config.node.clone(), shared.incarnation);
    let me = Keeping::new(term, name, incarnation, &timing);
    let keeper = Keeper::new(started, vacant_since.min(started), timing, limits, me, &topology);
    let leading = Leading { term, keeper, leader_at, topology };
    *shared.leading.lock().expect("no holder panics") = Some(leading);
    say(&format!("this node keeps the cluster from now on (term {term})"));
    shared.with_control(|control, _| control.on_leader());
    shared.beat.notify_one();
    true
}

impl Shared {
    /// Asks a majority whether this node leads in that term: since when that is sure, and
    /// what else the majority said.
    async fn confirm_leadership(&self, term: u64) -> Option<(Millis, Confirmation)> {
        // From here on spans are counted that leave out the machine's sleep, if there is
        // any: the moment is then too early, which is safe.
        let (now, began) = (self.clock.now(), Instant::now());
        let confirmed = self.coordinator.confirm_leadership().await.ok()?;
        let passed = confirmed.at.saturating_duration_since(began).as_millis() as u64;
        (confirmed.term == term).then(|| (now.plus(passed), confirmed))
    }

    /// A majority knew this node as the leader at that moment.
    fn keeps_since(self: &Arc<Shared>, leader_at: Millis) {
        let until = leader_at.plus(self.config.timing.leadership_ms);
        let now = self.clock.now();
        self.with_control(|control, effects| control.on_keeping(now, Some(until), effects));
    }

    fn keeps_no_more(self: &Arc<Shared>) {
        let now = self.clock.now();
        self.with_control(|control, effects| control.on_keeping(now, None, effects));
    }
}

async fn keep(shared: &Arc<Shared>, term: u64) {
    let mut role = shared.coordinator.role();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let confirm = spawn(confirm_again_and_again(shared.clone(), term));
    let mut effects = Vec::new();
    loop {
        tokio::select! {
            _ = role.changed() => {}
            _ = tick.tick() => {}
            () = shared.look.notified() => {}
        }
        if !matches!(*role.borrow(), Role::Leader { term: now } if now == term) {
            say("another node keeps the cluster now");
            break;
        }
        {
            let mut leading = shared.leading.lock().expect("no holder panics");
            let Some(leading) = leading.as_mut() else { break };
            leading.keeper.tick(shared.clock.now(), &leading.topology, &mut effects);
        }
        for effect in effects.drain(..) {
            act(shared, effect);
        }
    }
    confirm.abort();
}

/// Keeps asking a majority whether this node leads, and at once when the topology
/// has changed.
async fn confirm_again_and_again(shared: Arc<Shared>, term: u64) {
    let pause = Duration::from_millis((shared.config.timing.leadership_ms / 4).max(5));
    let mut watch = shared.coordinator.watch();
    loop {
        let topology = watch.borrow_and_update().clone();
        if let Some((leader_at, _)) = shared.confirm_leadership(term).await {
            let mut leading = shared.leading.lock().expect("no holder panics");
            let Some(leading) = leading.as_mut().filter(|leading| leading.term == term) else {
                return;
            };
            leading.leader_at = leading.leader_at.max(leader_at);
            leading.topology = topology;
            shared.keeps_since(leading.leader_at);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = watch.changed() => if changed.is_err() { return },
        }
    }
}

fn act(shared: &Arc<Shared>, effect: Effect) {
    match effect {
        Effect::Propose(command) => {
            if let Command::Down { node, .. } = &command {
                let name = shared.name_of(*node);
                // One that leaves in order has handed over what it led.
                match shared.topology().member(*node).is_some_and(|member| member.leaving) {
                    true => say(&format!("{name} leaves")),
                    false => say(&format!("{name} does not answer: its replicas take over")),
                }
            }
            shared.propose(command);
        }
        Effect::HandOver(request) => {
            let shared = shared.clone();
            spawn(async move { ask_hand_over(&shared, request).await });
        }
        Effect::Plan(request) => {
            let shared = shared.clone();
            spawn(async move {
                let topology = match shared.leading.lock().expect("no holder panics").as_ref() {
                    Some(leading) => leading.topology.clone(),
                    None => return,
                };
                // A large plan takes longer than a beat.
                let planning = tokio::task::spawn_blocking(move || {
                    let wishes = planner::wishes(&topology, |node| request.counts(node));
                    (request, wishes)
                });
                if let Ok((request, wishes)) = planning.await
                    && let Some(leading) = shared.leading.lock().expect("no holder panics").as_mut()
                {
                    leading.keeper.on_wishes(&request, wishes);
                }
            });
        }
        Effect::Probe(node) => {
            let shared = shared.clone();
            spawn(async move {
                let Some(address) = shared.address_of(node) else { return };
                let connecting = tokio::net::TcpStream::connect(address.as_str());
                let refused =
                    match tokio::time::timeout(Duration::from_millis(100), connecting).await {
                        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
                        _ => false,
                    };
                if refused
                    && let Some(leading) = shared.leading.lock().expect("no holder panics").as_mut()
                {
                    leading.keeper.on_refused(node);
                    shared.look.notify_one();
                }
            });
        }
    }
}

async fn ask_hand_over(shared: &Arc<Shared>, request: HandOverRequest) {
    if shared.me() == Some(request.primary) {
        return shared.hand_over(&request);
    }
    let Some(address) = shared.address_of(request.primary) else { return };
    let words = (request.to, request.partitions);
    let Ok(body) = postcard::to_stdvec(&words) else { return };
    // If it gets lost, the keeper asks again.
    let _ = shared.peers.call(&address, kind::HAND_OVER, body, Duration::from_millis(200)).await;
}

/// Answers beats and requests of other nodes.
pub struct Answers(pub Arc<Shared>);

impl Handler for Answers {
    fn kinds(&self) -> RangeInclusive<u8> {
        kind::BEAT..=kind::LAST
    }

    fn handle<'a>(&'a self, _: &'a PeerInfo, kind: u8, body: Vec<u8>) -> Boxed<'a, Vec<u8>> {
        Box::pin(async move {
            match kind {
                kind::BEAT => {
                    let answer = match postcard::from_bytes::<(Beat, u64)>(&body) {
                        Ok(beat) => self.0.on_beat(&beat),
                        Err(_) => Answer::NotLeader,
                    };
                    postcard::to_stdvec(&answer).unwrap_or_default()
                }
                kind::HAND_OVER => {
                    if let (Ok((to, partitions)), Some(primary)) =
                        (postcard::from_bytes(&body), self.0.me())
                    {
                        self.0.hand_over(&HandOverRequest { primary, to, partitions });
                    }
                    Vec::new()
                }
                kind::SPREAD => super::spread::answer(&self.0, &body).await,
                _ => Vec::new(),
            }
        })
    }
}
