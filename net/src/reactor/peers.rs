//! A core's links to other nodes, and the requests that wait for them.
//!
//! Once a turn: what is through is sent home, what waits is tried again, and
//! each link gets what there is for it, unless its socket still has something.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::Reactor;
use super::speaker::Speaker;
use super::table::Connection;
use crate::conn::CloseReason;
use crate::hop::{Batch, ConnToken, Message};
use crate::peering::link::{Cipher, End, Link};
use crate::peering::{Home, PeerId};
use crate::sys::{Backend, BackendKind, socket};

/// Between two tries of what waits for a route, and two rounds of upkeep.
const RETRY_EVERY: Duration = Duration::from_millis(1);
/// The same while nothing is under way.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Output of a link beyond which no more is put into it.
const LINK_OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Where the work for peers stands.
#[derive(Debug)]
pub(super) struct PeerWork {
    retried: Instant,
    /// There is more to do at once.
    more: bool,
}

impl PeerWork {
    pub fn new(now: Instant) -> PeerWork {
        PeerWork { retried: now, more: false }
    }
}

impl<B: Backend> Reactor<B> {
    /// A turn begins.
    #[inline]
    pub(super) fn begin_peers(&mut self) {
        if let Some(peers) = &mut self.core.peers {
            peers.peering.begin_turn();
        }
    }

    /// How long the core may sleep for all that peers need.
    pub(super) fn peers_timeout(&self) -> Option<Duration> {
        let peers = self.core.peers.as_ref()?;
        Some(if self.peer_work.more || peers.has_finished() {
            Duration::ZERO
        } else if peers.parked() > 0 {
            RETRY_EVERY
        } else {
            LOOK_EVERY
        })
    }

    /// A batch from a core of this node, be it this one.
    pub(super) fn execute_in_cluster(&mut self, batch: Box<Batch>, from: u32) {
        if let Some(mut peers) = self.core.peers.take() {
            peers.execute(batch, Home::Core(from), &mut self.core);
            self.core.peers = Some(peers);
        }
    }

    /// What the kernel and the other cores brought is done: now the peers.
    pub(super) fn serve_peers(&mut self, turn: Instant) {
        let Some(mut peers) = self.core.peers.take() else { return };
        self.peer_work.more = false;
        let due = turn.saturating_duration_since(self.peer_work.retried) >= RETRY_EVERY;
        if due {
            self.peer_work.retried = turn;
            self.peer_work.more |= peers.peering.upkeep(&mut self.core.shard, self.core.now);
        }
        if peers.peering.has_new_routes() || due {
            peers.retry(&mut self.core);
        }
        peers.complete(&mut self.core);
        let links: Vec<(PeerId, ConnToken)> = peers.links().collect();
        for (peer, token) in links {
            if !peers.peering.is_wanted(peer) {
                self.core.peers = Some(peers);
                self.drop_now(token.index, CloseReason::Normal);
                match self.core.peers.take() {
                    Some(back) => peers = back,
                    None => return,
                }
                continue;
            }
            if let Some(connection) = self.link_with_room(token) {
                let mut out = std::mem::take(&mut connection.out);
                self.peer_work.more |= peers.poll(peer, &self.core, &mut out);
                self.put_output(token, out);
            }
        }
        let accepted: Vec<(PeerId, ConnToken)> = peers.accepted_links().collect();
        for (peer, token) in accepted {
            if let Some(connection) = self.link_with_room(token) {
                let mut out = std::mem::take(&mut connection.out);
                peers.poll_back(peer, &mut out);
                self.put_output(token, out);
            }
        }
        self.core.peers = Some(peers);
        self.send_home();
        self.post.wake_touched();
    }

    /// Batches whose answers are complete.
    fn send_home(&mut self) {
        let Some(peers) = &mut self.core.peers else { return };
        if !peers.has_finished() {
            return;
        }
        for finished in peers.finished() {
            match finished.home {
                Home::Core(core) if core == self.core.id => self.on_answers(finished.batch),
                Home::Core(core) => self.send_message(core, Message::Answers(finished.batch)),
                Home::Link(token) => {
                    if let Some(connection) = self.table.by_token(token) {
                        connection.prepare_out(&mut self.buffers);
                        connection.out.extend_from_slice(&finished.frame);
                        self.note_output(token.index);
                    }
                    if let Some(peers) = &mut self.core.peers {
                        peers.recycle(finished.batch);
                    }
                }
            }
        }
    }

    /// The link's connection, its output ready to be written to, unless it has
    /// enough to send already.
    fn link_with_room(&mut self, token: ConnToken) -> Option<&mut Connection> {
        if self.backend.is_sending(token.index) {
            return None;
        }
        let buffers = &mut self.buffers;
        let connection = self.table.by_token(token)?;
        if connection.closing.is_some() || connection.out.len() > LINK_OUTPUT_BYTES_MAX {
            return None;
        }
        connection.prepare_out(buffers);
        Some(connection)
    }

    fn put_output(&mut self, token: ConnToken, out: Vec<u8>) {
        if let Some(connection) = self.table.by_token(token) {
            connection.out = out;
            self.note_output(token.index);
        }
    }

    /// Takes in a link that the control thread has made or let in.
    pub(super) fn admit_link(
        &mut self,
        socket: OwnedFd,
        peer: PeerId,
        end: End,
        cipher: Option<Box<dyn Cipher>>,
    ) {
        if self.core.peers.is_none() {
            return;
        }
        let blocks = self.backend.kind() == BackendKind::Uring;
        if socket::set_nonblocking(socket.as_raw_fd(), !blocks).is_err() {
            return;
        }
        let token = self.table.reserve();
        if self.backend.attach(token.index, socket).is_err() {
            return self.table.cancel(token);
        }
        self.links.insert(token.index);
        self.backend.set_multishot(token.index, true);
        let link = Speaker::Node(Link::new(token, peer, end, cipher));
        let connection = Box::new(Connection::new(link, 0, &self.core));
        self.table.open(token, connection);
        let Some(mut peers) = self.core.peers.take() else { return };
        let before = match end {
            End::Opened => {
                let before = peers.link_to(peer);
                if before.is_some() {
                    peers.disconnected(peer, self.core.now);
                }
                if let Some(connection) = self.table.by_token(token) {
                    connection.prepare_out(&mut self.buffers);
                    peers.connected(peer, token, &mut connection.out);
                }
                before
            }
            End::Accepted => peers.accepted(peer, token),
        };
        self.core.peers = Some(peers);
        // With a cipher the first frames may have come with the handshake.
        self.run_backlog(token.index);
        self.note_output(token.index);
        // A peer has one link each way; a new one means that the old is dead.
        if let Some(before) = before
            && self.table.by_token(before).is_some()
        {
            self.abandon(before);
        }
    }

    /// Closes a link whose part another one has taken over.
    fn abandon(&mut self, token: ConnToken) {
        // Its end must not be taken for the end of the new one.
        let peers = self.core.peers.take();
        self.drop_now(token.index, CloseReason::Error);
        self.core.peers = peers;
    }

    /// A turn ends: nothing that was executed under a lease which has run out
    /// meanwhile may be answered.
    pub(super) fn check_lease(&mut self) {
        let Some(peers) = &mut self.core.peers else { return };
        if peers.peering.may_answer() {
            return;
        }
        for slot in self.dirty.clone() {
            let client = self.table.get(slot).is_some_and(|open| open.conn.is_client());
            if client {
                self.drop_now(slot, CloseReason::Error);
            }
        }
    }
}
