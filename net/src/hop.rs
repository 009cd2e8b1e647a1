//! Requests that travel to the core that owns their key, and back.
//!
//! A [`Batch`] is a box that goes to a peer full of requests and comes home
//! full of answers; its buffers are reused, so a hop allocates nothing in
//! steady state. The [`Outbox`] holds the batch being filled for each peer and
//! everything that the mesh could not take yet.

use crate::control::ControlCall;
use crate::core::Core;
use crate::limits;
use crate::watch::LogChunk;
use engine::{Pin, Reservation};
use std::collections::VecDeque;

/// Names a connection of one core. Slots are reused; the generation tells an
/// old owner from a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnToken {
    /// Slot in the reactor's table.
    pub index: u32,
    /// Counts the slot's owners.
    pub generation: u32,
}

/// The peer number of the control thread, in `from` fields.
pub const CONTROL_PEER: u32 = u32::MAX;

/// What travels over the mesh.
#[derive(Debug)]
pub enum Message {
    /// Execute these and send the box back.
    Requests(Box<Batch>),
    /// The box comes home.
    Answers(Box<Batch>),
    /// Execute on your core and send back as `ControlDone`, unless it is one-way.
    Control(Box<ControlCall>),
    /// The answer.
    ControlDone(Box<ControlCall>),
    /// Log lines for a watcher that is connected to the receiving core. No answer.
    Log(Box<LogChunk>),
}

/// Requests for one peer, then their answers.
#[derive(Debug, Default)]
pub struct Batch {
    /// The core whose connections ask.
    pub from: u32,
    /// The core that owns the keys.
    pub to: u32,
    bytes: Vec<u8>,
    reservations: Vec<Option<Reservation>>,
    pins: Vec<Option<Pin>>,
    answer_bytes: Vec<u8>,
    requests: u32,
}

/// One answer out of a batch.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Whose request it was.
    pub conn: ConnToken,
    /// Which of its requests.
    pub seq: u32,
    /// The core that answered.
    pub from: u32,
    /// Bytes for the client.
    pub bytes: &'a [u8],
    /// A value to be sent after `bytes`.
    pub pin: Option<Pin>,
    /// Chunks for a value that is arriving.
    pub reservation: Option<Reservation>,
}

impl Batch {
    /// The next answer; `None` when all have been taken.
    pub fn next_answer(&mut self) -> Option<Answer<'_>> {
        todo!()
    }
    /// Number of requests in it.
    pub fn len(&self) -> usize {
        self.requests as usize
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }
}

/// Executes all requests of `batch` on this core and leaves the answers in it.
pub fn execute_batch(batch: &mut Batch, core: &mut Core) {
    let _ = (batch, core);
    todo!()
}

/// Puts away an answer whose connection is gone: chunks and pins go back to
/// the core that lent them.
pub fn discard(answer: Answer<'_>, core: &mut Core) {
    let _ = (answer, core);
    todo!()
}

/// What waits to be sent to each peer.
#[derive(Debug)]
pub struct Outbox {
    id: u32,
    peers: Vec<Peer>,
    spare: Vec<Box<Batch>>,
}

#[derive(Debug, Default)]
struct Peer {
    filling: Option<Box<Batch>>,
    ready: VecDeque<Message>,
    /// Batches handed to the mesh that have not come home.
    travelling: u32,
}

impl Outbox {
    /// An empty outbox of core `id` among `cores`.
    pub fn new(id: u32, cores: u32) -> Outbox {
        Outbox { id, peers: (0..cores).map(|_| Peer::default()).collect(), spare: Vec::new() }
    }

    /// The next message for `peer`, oldest first; closes the batch being
    /// filled. `peer == id` yields control calls for this very core, which the
    /// reactor executes and answers itself. The mesh takes what it has room
    /// for; what it can't take goes back with [`Outbox::put_back`].
    pub fn take(&mut self, peer: u32) -> Option<Message> {
        let peer = &mut self.peers[peer as usize];
        if let Some(message) = peer.ready.pop_front() {
            return Some(message);
        }
        peer.filling.take().map(Message::Requests)
    }

    /// Returns a message that the mesh had no room for to the front.
    pub fn put_back(&mut self, peer: u32, message: Message) {
        self.peers[peer as usize].ready.push_front(message);
    }

    /// Whether something waits for `peer`.
    pub fn has_mail(&self, peer: u32) -> bool {
        let peer = &self.peers[peer as usize];
        peer.filling.is_some() || !peer.ready.is_empty()
    }

    /// Whether connections that need `peer` must wait.
    pub fn is_full(&self, peer: u32) -> bool {
        let peer = &self.peers[peer as usize];
        peer.ready.len() + peer.travelling as usize >= limits::BATCHES_PER_PEER_MAX
    }

    /// A batch that came home, its answers taken, is kept for reuse.
    pub fn recycle(&mut self, batch: Box<Batch>) {
        let _ = batch;
        todo!()
    }

    /// This core.
    pub fn id(&self) -> u32 {
        self.id
    }
}
