//! Links between this node's cores and those of others: dialled here and let in
//! here, then handed to the cores.

use super::cipher::Session;
use super::control::{Shared, spawn};
use crate::server::say;
use cluster::replication::Peer;
use cluster::topology::{Incarnation, NodeIndex};
use coordinator::wire::{self, DataLink};
use net::peering::PeerId;
use net::peering::link::{Cipher, End};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Between the first two tries to reach a core: two nodes that hear of each other one
/// after the other miss each other by so little. Doubles from try to try.
const RETRY_MIN: Duration = Duration::from_millis(4);
const RETRY_MAX: Duration = Duration::from_millis(32);
/// The same failure of a node is said this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// A node that there should be links to.
#[derive(Clone, Debug)]
struct Target {
    incarnation: Incarnation,
    address: String,
    cores: u16,
    said: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Dialling,
    /// Since then.
    Linked(Instant),
    /// Not before then is it dialled again.
    Lost(Instant),
}

/// One own core and a peer.
#[derive(Clone, Copy, Debug)]
struct Place {
    state: State,
    /// What the next failure costs.
    pause: Duration,
}

impl Place {
    const NEW: Place = Place { state: State::Dialling, pause: RETRY_MIN };

    fn lost(&mut self) {
        if matches!(self.state, State::Linked(since) if since.elapsed() > RETRY_MAX) {
            self.pause = RETRY_MIN;
        }
        self.state = State::Lost(Instant::now() + self.pause);
        self.pause = RETRY_MAX.min(2 * self.pause);
    }
}

/// Which links there are, by own core and peer.
#[derive(Debug, Default)]
pub struct Links {
    targets: Mutex<BTreeMap<NodeIndex, Target>>,
    places: Mutex<BTreeMap<(u16, Peer), Place>>,
}

impl Links {
    /// There should be links to this node.
    pub fn connect(&self, node: NodeIndex, incarnation: Incarnation, address: String, cores: u16) {
        let target = Target { incarnation, address, cores, said: None };
        self.targets.lock().expect("no holder panics").insert(node, target);
    }

    /// There should be none any more.
    pub fn disconnect(&self, node: NodeIndex) {
        self.targets.lock().expect("no holder panics").remove(&node);
    }

    fn linked(&self, core: u16, peer: Peer) {
        let mut places = self.places.lock().expect("no holder panics");
        if let Some(place) = places.get_mut(&(core, peer)) {
            place.state = State::Linked(Instant::now());
        }
    }

    /// A link is gone, or could not be made.
    pub fn lost(&self, core: u16, peer: Peer) {
        let mut places = self.places.lock().expect("no holder panics");
        if let Some(place) = places.get_mut(&(core, peer)) {
            place.lost();
        }
    }

    /// Links that stand, and those that there should be.
    pub fn counts(&self, own_cores: u16) -> (usize, usize) {
        let places = self.places.lock().expect("no holder panics");
        let standing =
            places.values().filter(|place| matches!(place.state, State::Linked(_))).count();
        let targets = self.targets.lock().expect("no holder panics");
        let wanted = targets.values().map(|target| pairs(own_cores, target.cores).count()).sum();
        (standing, wanted)
    }
}

/// The pairs of cores that share keys.
fn pairs(own: u16, theirs: u16) -> impl Iterator<Item = (u16, u16)> {
    (0..own).flat_map(move |own_core| {
        let range = if own == theirs { own_core..own_core + 1 } else { 0..theirs };
        range.map(move |core| (own_core, core))
    })
}

/// Dials whatever is missing.
pub fn dial_missing(shared: &Arc<Shared>) {
    let targets = shared.links.targets.lock().expect("no holder panics").clone();
    let now = Instant::now();
    for (node, target) in targets {
        // Links to a node that is down come back when it does.
        if !shared.is_up(node) {
            continue;
        }
        for (own, core) in pairs(shared.cores, target.cores) {
            let place = (own, Peer { node, core });
            {
                let mut places = shared.links.places.lock().expect("no holder panics");
                match places.entry(place) {
                    Entry::Vacant(vacant) => _ = vacant.insert(Place::NEW),
                    Entry::Occupied(mut there) => match there.get().state {
                        State::Lost(until) if now >= until => {
                            there.get_mut().state = State::Dialling
                        }
                        _ => continue,
                    },
                }
            }
            let (shared, target) = (shared.clone(), target.clone());
            spawn(async move { dial(&shared, place, &target).await });
        }
    }
}

async fn dial(shared: &Arc<Shared>, place: (u16, Peer), target: &Target) {
    let (own, peer) = place;
    let settings = shared.peers.settings();
    let outcome = wire::dial(settings, &target.address, own, peer.core).await;
    let failed = match outcome {
        Ok(link) if link.peer.incarnation != target.incarnation => {
            Some("another process answers there".to_owned())
        }
        Ok(link) => {
            shared.stands(own, peer.node);
            shared.links.linked(own, peer);
            if hand_in(shared, own, peer, link, End::Opened) {
                return;
            }
            Some("the core takes no link now".to_owned())
        }
        Err(error) => {
            shared.broken(own, peer.node);
            Some(error.to_string())
        }
    };
    shared.links.lost(own, peer);
    if let Some(why) = failed
        && let Some(target) =
            shared.links.targets.lock().expect("no holder panics").get_mut(&peer.node)
        && target.said.is_none_or(|at| at.elapsed() > SAY_EVERY)
    {
        target.said = Some(Instant::now());
        say(&format!("no link to {}: {why}", target.address));
    }
}

/// A peer has opened a connection for one of this node's cores.
pub fn take(shared: &Arc<Shared>, socket: TcpStream, core: u16) {
    let shared = shared.clone();
    spawn(async move {
        let link = match wire::welcome(shared.peers.settings(), socket, core).await {
            Ok(link) => link,
            Err(error) => {
                shared.peers.settings().refusals.note(&format!("a link was refused: {error}"));
                return say(&format!("a link was refused: {error}"));
            }
        };
        // One that this node has not heard of yet tries again.
        let Some(node) = shared.life_of(&link.peer.node, link.peer.incarnation) else { return };
        if core < shared.cores {
            let peer = Peer { node, core: link.core };
            hand_in(&shared, core, peer, link, End::Accepted);
        }
    });
}

fn hand_in(shared: &Shared, own: u16, peer: Peer, link: DataLink, end: End) -> bool {
    let Ok(socket) = link.socket.into_std() else { return false };
    let cipher = link.tls.map(|tls| Box::new(Session::new(tls)) as Box<dyn Cipher>);
    let id = PeerId { node: peer.node.0, core: peer.core };
    shared.node().link(u32::from(own), OwnedFd::from(socket), id, end, cipher)
}
