//! The network between machines: links that are byte streams, and who reaches
//! whom.
//!
//! A link delivers its bytes in order, in pieces of any size. While the way is
//! blocked they are held back, as a sender's kernel does, and come late. A reset
//! loses whatever is under way in both directions; each end learns of it in its
//! own time.

use super::hub::{End, Event, Hub, MS, Who};
use cluster::replication::Peer;
use std::collections::BTreeMap;

/// A core of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The process.
    pub who: Who,
    /// Its core.
    pub core: u16,
}

#[derive(Debug, Default)]
struct Way {
    last_at: u64,
    held: Vec<Vec<u8>>,
}

/// A link between two cores.
#[derive(Debug)]
pub struct Link {
    /// Who opened it.
    pub opener: Place,
    /// Whom it reached.
    pub acceptor: Place,
    /// The opener, as the acceptor knows it.
    pub opener_peer: Peer,
    /// The acceptor, as the opener knows it.
    pub acceptor_peer: Peer,
    dead: bool,
    there: Way,
    back: Way,
}

/// See the module's text.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<u64, Link>,
    next: u64,
    /// From, to: how many faults block that way.
    blocked: Vec<Vec<u32>>,
    /// Of a hundred messages, so many are lost.
    pub loss: u64,
    /// Of a hundred messages, so many come twice, and so many very late.
    pub disorder: u64,
}

impl Network {
    /// So many machines that reach each other.
    pub fn new(machines: usize) -> Network {
        let blocked = vec![vec![0; machines]; machines];
        Network { links: BTreeMap::new(), next: 1, blocked, loss: 0, disorder: 0 }
    }

    /// Whether bytes get from one machine to another.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.blocked[from][to] == 0
    }

    /// Whether they reach each other.
    pub fn both_ways(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    /// Blocks a way.
    pub fn block(&mut self, from: usize, to: usize) {
        self.blocked[from][to] += 1;
    }

    /// Opens a way again, and lets go of what was held back.
    pub fn unblock(&mut self, from: usize, to: usize, hub: &mut Hub) {
        self.blocked[from][to] -= 1;
        if self.blocked[from][to] > 0 {
            return;
        }
        for (number, link) in &mut self.links {
            let (opener, acceptor) = (link.opener.who.machine, link.acceptor.who.machine);
            if (opener, acceptor) == (from, to) {
                link.there.release(*number, End::Acceptor, hub);
            }
            if (acceptor, opener) == (from, to) {
                link.back.release(*number, End::Opener, hub);
            }
        }
    }

    /// How long a small thing takes from machine to machine.
    pub fn latency(&self, hub: &mut Hub) -> u64 {
        let usual = hub.random.between(50, 500);
        if hub.random.percent(2) { usual + hub.random.below(20 * MS) } else { usual }
    }

    /// A message sets out: when its copies arrive, if at all.
    pub fn send(&self, from: usize, to: usize, hub: &mut Hub) -> Vec<u64> {
        let lost = !self.reaches(from, to) || hub.random.percent(self.loss);
        if lost && from != to {
            return Vec::new();
        }
        let mut copies = vec![self.latency(hub)];
        if hub.random.percent(self.disorder) {
            copies.push(hub.random.below(300 * MS));
        }
        if hub.random.percent(self.disorder) {
            copies[0] += hub.random.below(150 * MS);
        }
        copies
    }

    /// A core tries to open a link.
    pub fn open(
        &mut self,
        opener: Place,
        opener_peer: Peer,
        acceptor: Place,
        acceptor_peer: Peer,
        hub: &mut Hub,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        let there = self.latency(hub);
        let both = there + self.latency(hub);
        hub.after(there, Event::Accept { link: number });
        hub.after(both, Event::Connected { link: number });
        // Nothing comes back before the opener knows that there is a link.
        let back = Way { last_at: hub.at + both, held: Vec::new() };
        let there = Way::default();
        let link = Link { opener, acceptor, opener_peer, acceptor_peer, dead: false, there, back };
        self.links.insert(number, link);
        number
    }

    /// A link that has not been forgotten.
    pub fn link(&self, number: u64) -> Option<&Link> {
        self.links.get(&number)
    }

    /// Whether bytes that are under way on it arrive.
    pub fn is_alive(&self, number: u64) -> bool {
        self.links.get(&number).is_some_and(|link| !link.dead)
    }

    /// All links that live, between two machines in either direction, or of one
    /// machine if both are the same.
    pub fn between(&self, a: usize, b: usize) -> Vec<u64> {
        let touches = |link: &Link| {
            let ends = (link.opener.who.machine, link.acceptor.who.machine);
            if a == b { ends.0 == a || ends.1 == a } else { ends == (a, b) || ends == (b, a) }
        };
        let alive = self.links.iter().filter(|(_, link)| !link.dead && touches(link));
        alive.map(|(number, _)| *number).collect()
    }

    /// An end writes bytes.
    pub fn write(&mut self, number: u64, from: End, bytes: Vec<u8>, hub: &mut Hub) {
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.dead) else { return };
        let (opener, acceptor) = (link.opener.who.machine, link.acceptor.who.machine);
        let (way, to, blocked) = match from {
            End::Opener => (&mut link.there, End::Acceptor, self.blocked[opener][acceptor]),
            End::Acceptor => (&mut link.back, End::Opener, self.blocked[acceptor][opener]),
        };
        if blocked > 0 || !way.held.is_empty() {
            way.held.push(bytes);
        } else {
            way.deliver(number, to, bytes, hub);
        }
    }

    /// A link breaks; its ends learn of it within so many microseconds.
    pub fn reset(&mut self, number: u64, within: u64, hub: &mut Hub) {
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.dead) else { return };
        link.dead = true;
        for end in [End::Opener, End::Acceptor] {
            let late = hub.random.below(within.max(1));
            hub.after(late, Event::Closed { link: number, end });
        }
    }
}

impl Way {
    fn deliver(&mut self, number: u64, to: End, mut bytes: Vec<u8>, hub: &mut Hub) {
        while !bytes.is_empty() {
            let whole = hub.random.percent(70);
            let piece = if whole {
                bytes.len()
            } else {
                hub.random.between(1, bytes.len() as u64) as usize
            };
            let rest = bytes.split_off(piece);
            let at = (hub.at + hub.random.between(50, 400)).max(self.last_at + 1);
            self.last_at = at;
            hub.after(at - hub.at, Event::Bytes { link: number, to, bytes });
            bytes = rest;
        }
    }

    fn release(&mut self, number: u64, to: End, hub: &mut Hub) {
        for bytes in std::mem::take(&mut self.held) {
            self.deliver(number, to, bytes, hub);
        }
    }
}
