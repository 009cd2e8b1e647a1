//! The links of a core: those that it opened, and those that it took.

use super::{Core, In, Origin, Out, RECONNECT_US, Request, Turn};
use crate::cluster::hub::{End, Event, MS, Who};
use crate::cluster::machine::machine_of;
use crate::cluster::network::Place;
use crate::cluster::wire::{self, Passed};
use cluster::node::Report;
use cluster::replication::Peer;
use cluster::topology::NodeIndex;
use engine::KeyHash;

impl Core {
    /// Bytes of a link.
    pub fn on_bytes(&mut self, link: u64, peer: Peer, to: End, bytes: &[u8]) {
        match to {
            End::Acceptor => {
                if let Some(own) = self.ins.get_mut(&peer).filter(|own| own.link == link) {
                    own.inbox.extend_from_slice(bytes);
                }
            }
            End::Opener => {
                if let Some(own) = self.outs.get_mut(&peer).filter(|own| own.link == Some(link)) {
                    own.inbox.extend_from_slice(bytes);
                }
            }
        }
    }

    /// A link that another core opened; the one that it replaces.
    pub fn on_accept(&mut self, link: u64, peer: Peer) -> Option<u64> {
        let fresh = In { link, inbox: Vec::new(), done: 0, out: Vec::new() };
        self.ins.insert(peer, fresh).map(|old| old.link)
    }

    /// A link that this core wanted.
    pub fn on_connected(&mut self, link: u64, peer: Peer, turn: &mut Turn<'_>) {
        let Some(out) = self.outs.get_mut(&peer).filter(|out| out.connecting == Some(link)) else {
            turn.net.reset(link, 1, turn.hub);
            return;
        };
        out.connecting = None;
        out.link = Some(link);
        out.inbox.clear();
        out.requests.clear();
        let mut first = Vec::new();
        self.replicator.connected(peer, &mut first);
        let mut bytes = Vec::new();
        wire::put_frame(wire::PEERING, &first, &mut bytes);
        turn.net.write(link, End::Opener, bytes, turn.hub);
        self.report(Report::Stands(peer.node), turn);
    }

    /// An attempt to connect failed.
    pub fn on_refused(&mut self, node: NodeIndex, turn: &mut Turn<'_>) {
        for (_, out) in self.outs.iter_mut().filter(|(peer, _)| peer.node == node) {
            if out.connecting.take().is_some() {
                out.retry_at = turn.hub.at + RECONNECT_US;
            }
        }
        self.report(Report::Broken(node), turn);
    }

    /// This end learns that a link is gone.
    pub fn on_closed(&mut self, link: u64, peer: Peer, end: End, turn: &mut Turn<'_>) {
        match end {
            End::Acceptor => {
                if self.ins.get(&peer).is_some_and(|own| own.link == link) {
                    self.ins.remove(&peer);
                }
            }
            End::Opener => {
                let Some(out) = self.outs.get_mut(&peer) else { return };
                if out.connecting == Some(link) {
                    out.connecting = None;
                }
                if out.link != Some(link) {
                    return;
                }
                let retry_at = turn.hub.at + turn.hub.random.below(RECONNECT_US);
                *out = Out { retry_at, ..Out::default() };
                self.replicator.disconnected(peer);
                let gone = self.away.iter().filter(|(_, away)| away.peer == peer);
                let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
                gone.into_iter().for_each(|id| self.lost(id, turn.clock));
                self.report(Report::Broken(peer.node), turn);
            }
        }
    }

    pub(super) fn take_links(&mut self, turn: &mut Turn<'_>) {
        let peers: Vec<Peer> = self.ins.keys().copied().collect();
        for peer in peers {
            if !self.take_in(peer, turn) {
                turn.garbage += 1;
                let link = self.ins[&peer].link;
                turn.net.reset(link, MS, turn.hub);
                self.ins.remove(&peer);
            }
        }
        let peers: Vec<Peer> = self.outs.keys().copied().collect();
        for peer in peers {
            let good = self.take_out(peer, turn);
            if !good && let Some(link) = self.outs.get(&peer).and_then(|out| out.link) {
                turn.garbage += 1;
                turn.net.reset(link, MS, turn.hub);
                self.on_closed(link, peer, End::Opener, turn);
            }
        }
    }

    /// What a link brought that another core opened.
    fn take_in(&mut self, peer: Peer, turn: &mut Turn<'_>) -> bool {
        let Some(own) = self.ins.get_mut(&peer) else { return true };
        let (link, inbox) = (own.link, std::mem::take(&mut own.inbox));
        let (mut done, mut used) = (own.done, 0);
        let mut out = Vec::new();
        while let Some((kind, payload, bytes)) = wire::take_frame(&inbox[used..]) {
            if kind == wire::PEERING {
                let rest = &payload[done..];
                let (shard, now) = (&mut self.shard, turn.now);
                let taken = self.replicator.receive(peer, rest, shard, now, &mut out);
                if taken < rest.len() {
                    done += taken;
                    break;
                }
            } else {
                let mut rest = payload;
                while !rest.is_empty() {
                    let Some(Passed { id, hash, key, op }) = wire::take_request(&mut rest) else {
                        return false;
                    };
                    let origin = Origin::Link { peer, link, id };
                    self.step(Request { origin, key, hash: KeyHash(hash), op }, false, turn);
                }
            }
            done = 0;
            used += bytes;
        }
        let Some(own) = self.ins.get_mut(&peer) else { return true };
        own.done = done;
        own.inbox = inbox;
        own.inbox.drain(..used);
        wire::put_frame(wire::PEERING, &out, &mut own.out);
        true
    }

    /// What came back over a link that this core opened.
    fn take_out(&mut self, peer: Peer, turn: &mut Turn<'_>) -> bool {
        let Some(out) = self.outs.get_mut(&peer).filter(|out| out.link.is_some()) else {
            return true;
        };
        let inbox = std::mem::take(&mut out.inbox);
        let mut used = 0;
        while let Some((kind, payload, bytes)) = wire::take_frame(&inbox[used..]) {
            used += bytes;
            if kind == wire::PEERING {
                if !self.replicator.replied(peer, payload, &mut self.shard, turn.now) {
                    return false;
                }
                continue;
            }
            let mut rest = payload;
            while !rest.is_empty() {
                let Some((id, answer, epoch)) = wire::take_answer(&mut rest) else { return false };
                self.returned_with(id, answer, epoch, turn);
            }
        }
        if let Some(out) = self.outs.get_mut(&peer) {
            out.inbox = inbox[used..].to_vec();
        }
        true
    }

    /// Opens the links that are wanted and not there.
    pub(super) fn connect(&mut self, turn: &mut Turn<'_>) {
        let Some(me) = self.me else { return };
        let wanted: Vec<Peer> = self.replicator.peers().collect();
        for peer in wanted {
            self.outs.entry(peer).or_default();
        }
        let topology = self.replicator.topology();
        for (peer, out) in &mut self.outs {
            if out.link.is_some() || out.connecting.is_some() || turn.hub.at < out.retry_at {
                continue;
            }
            let Some(member) = topology.member(peer.node) else { continue };
            let Some(machine) = machine_of(&member.node.name) else { continue };
            if machine == self.who.machine {
                continue;
            }
            let (own, at) = (Place { who: self.who, core: self.core }, &mut *turn.hub);
            let Some(life) =
                turn.lives[machine].filter(|_| turn.net.both_ways(own.who.machine, machine))
            else {
                out.retry_at = at.at + RECONNECT_US;
                if turn.lives[machine].is_none() && turn.net.both_ways(own.who.machine, machine) {
                    let event = Event::Refused { who: self.who, core: self.core, node: peer.node };
                    at.after(500, event);
                }
                continue;
            };
            if life != member.node.incarnation.0 {
                // The greeting says so: another life than the one that is meant.
                out.retry_at = at.at + RECONNECT_US;
                continue;
            }
            let acceptor = Place { who: Who { machine, life }, core: peer.core };
            let opener_peer = Peer { node: me, core: self.core };
            out.connecting = Some(turn.net.open(own, opener_peer, acceptor, *peer, at));
        }
    }

    pub(super) fn send(&mut self, turn: &mut Turn<'_>) {
        for (peer, out) in &mut self.outs {
            let Some(link) = out.link else { continue };
            let mut bytes = Vec::new();
            wire::put_frame(wire::REQUESTS, &std::mem::take(&mut out.requests), &mut bytes);
            let mut news = Vec::new();
            if self.replicator.has_news(*peer) {
                self.replicator.poll(*peer, &self.shard, turn.now, &mut news);
            }
            wire::put_frame(wire::PEERING, &news, &mut bytes);
            if !bytes.is_empty() {
                turn.net.write(link, End::Opener, bytes, turn.hub);
            }
        }
        for (peer, own) in &mut self.ins {
            let mut told = Vec::new();
            if self.replicator.wants_to_tell(*peer) {
                self.replicator.poll_back(*peer, &mut told);
            }
            wire::put_frame(wire::PEERING, &told, &mut own.out);
            if !own.out.is_empty() {
                let bytes = std::mem::take(&mut own.out);
                turn.net.write(own.link, End::Acceptor, bytes, turn.hub);
            }
        }
    }
}
