//! The lock-free post between the cores of a node.
//!
//! Every ordered pair of cores has a bounded queue with one producer and one
//! consumer. A core puts at most one wake-up a turn on a peer, and none if the
//! peer is awake: before it waits in the kernel, a core raises its *sleeping*
//! flag and looks at its queues once more; whoever finds the flag up after
//! pushing lowers it and writes the peer's eventfd.
//!
//! ```text
//! producer                       consumer
//! push                           sleeping = true
//! fence (sequentially consistent)  fence
//! if sleeping: wake              if a queue holds something: stay awake
//! ```
//! One of the two fences comes first; so either the consumer sees the push or
//! the producer sees the flag.
//!
//! Nothing is lost and nothing locks up: a push into a full queue gives the
//! parcel back, its sender keeps it and tries again next turn, and every core
//! empties its inbound queues before anything else, whether or not it can send.
//! The batches that may travel to a peer are bounded by the outbox
//! ([`crate::limits::BATCHES_PER_PEER_MAX`]), answers travel only where
//! requests came from, and [`QUEUE_PARCELS`] leaves room beyond both.
//!
//! The control thread is one more peer: it has a queue into every core
//! ([`NodeCall`]), and answers come by a callback that the call carries.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::control::{ControlAnswer, ControlCall, ControlOp};
use crate::core::Core;
use crate::hop::Message;
use crate::peering::PeerId;
use crate::peering::link::{Cipher, End};
use crate::sys::socket::WakeFd;

/// Parcels that fit into the queue of one pair of cores.
pub const QUEUE_PARCELS: usize = 64;
/// Calls of the control thread that may wait for one core.
pub const NODE_CALLS: usize = 64;

/// What travels from core to core.
#[derive(Debug)]
pub enum Parcel {
    /// Requests, answers, control calls, log lines.
    Message(Message),
    /// A connection that the receiving core shall serve.
    Socket {
        /// The connection.
        socket: OwnedFd,
        /// The listener that it came in by.
        listener: u32,
    },
}

/// A call of the control thread. Its answer is delivered on the core's thread,
/// so the callback must be short and must not wait.
pub enum NodeCall {
    /// One of the operations that clients can ask for, too.
    Op {
        /// What to do.
        op: ControlOp,
        /// Takes the answer.
        reply: Box<dyn FnOnce(ControlAnswer) + Send>,
    },
    /// Anything else (a slice of a snapshot): it answers by itself.
    Task(Box<dyn FnOnce(&mut Core) + Send>),
    /// A call of this core that the control thread has answered.
    Answered(Box<ControlCall>),
    /// A connection to or from a core of another node.
    Link {
        /// The connection; nothing is read from it but the link's frames.
        socket: OwnedFd,
        /// The other core.
        peer: PeerId,
        /// Which end of it this is.
        end: End,
        /// What keeps it secret.
        cipher: Option<Box<dyn Cipher>>,
    },
}

impl std::fmt::Debug for NodeCall {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NodeCall::Op { op, .. } => formatter.debug_tuple("Op").field(op).finish(),
            NodeCall::Task(_) => formatter.write_str("Task"),
            NodeCall::Answered(call) => formatter.debug_tuple("Answered").field(call).finish(),
            NodeCall::Link { peer, end, .. } => {
                formatter.debug_tuple("Link").field(peer).field(end).finish()
            }
        }
    }
}

/// Where the node stands in its life. Only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Life {
    /// The cores answer calls; nobody can connect yet.
    Closed = 0,
    /// Clients are served.
    Running = 1,
    /// No new connections; what is under way is finished, idle ones are closed.
    Draining = 2,
    /// No clients: those that are left are cut off. The cores answer calls.
    CutOff = 3,
    /// The cores end their loops.
    Stopping = 4,
}

/// A core as the others see it.
#[derive(Debug)]
struct Door {
    sleeping: AtomicBool,
    wake: WakeFd,
    /// Connections it serves, those on their way to it included.
    connections: AtomicU32,
    calls: ArrayQueue<NodeCall>,
    /// Its loop has ended.
    gone: AtomicBool,
}

/// What all cores and the control thread share of the mesh.
#[derive(Debug)]
pub struct Doors {
    doors: Box<[CachePadded<Door>]>,
    life: AtomicU8,
}

impl Doors {
    /// Number of cores.
    pub fn cores(&self) -> u32 {
        self.doors.len() as u32
    }

    /// Where the node stands.
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Closed,
            1 => Life::Running,
            2 => Life::Draining,
            3 => Life::CutOff,
            _ => Life::Stopping,
        }
    }

    /// Moves the node's life on and wakes every core to see it.
    pub fn advance(&self, life: Life) {
        self.life.fetch_max(life as u8, Ordering::AcqRel);
        for door in &self.doors {
            door.wake.wake();
        }
    }

    /// Hands a call to a core. A full queue, or a core that has ended, gives it back.
    pub fn call(&self, core: u32, call: NodeCall) -> Result<(), NodeCall> {
        let door = &self.doors[core as usize];
        if door.gone.load(Ordering::Acquire) {
            return Err(call);
        }
        door.calls.push(call)?;
        fence(Ordering::SeqCst);
        door.rouse();
        Ok(())
    }

    /// Connections that a core serves.
    pub fn connections(&self, core: u32) -> u32 {
        self.doors[core as usize].connections.load(Ordering::Relaxed)
    }

    /// Chooses the core for a new connection, the one with the fewest, and
    /// counts it there. `preferred` wins a tie.
    pub fn place(&self, preferred: u32) -> u32 {
        let count = |core: u32| self.connections(core);
        let mut best = preferred;
        for step in 1..self.cores() {
            let core = (preferred + step) % self.cores();
            if count(core) < count(best) {
                best = core;
            }
        }
        self.count_in(best);
        best
    }

    /// Counts a connection in.
    pub fn count_in(&self, core: u32) {
        self.doors[core as usize].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection out.
    pub fn count_out(&self, core: u32) {
        self.doors[core as usize].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Door {
    /// Wakes the core if it sleeps. The caller has pushed, then fenced.
    fn rouse(&self) {
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.wake.wake();
        }
    }
}

/// One core's end of all its queues.
#[derive(Debug)]
pub struct Post {
    id: u32,
    doors: Arc<Doors>,
    to: Vec<Option<Producer<Parcel>>>,
    from: Vec<Option<Consumer<Parcel>>>,
    /// Peers pushed to in this turn.
    touched: Vec<bool>,
    touched_any: bool,
}

/// Builds the mesh of `cores` cores.
pub fn build(cores: u32) -> io::Result<(Arc<Doors>, Vec<Post>)> {
    let doors = (0..cores)
        .map(|_| {
            Ok(CachePadded::new(Door {
                sleeping: AtomicBool::new(false),
                wake: WakeFd::new()?,
                connections: AtomicU32::new(0),
                calls: ArrayQueue::new(NODE_CALLS),
                gone: AtomicBool::new(false),
            }))
        })
        .collect::<io::Result<Box<[_]>>>()?;
    let doors = Arc::new(Doors { doors, life: AtomicU8::new(Life::Closed as u8) });
    let none = |_| (0..cores).map(|_| None).collect::<Vec<_>>();
    let mut to: Vec<Vec<Option<Producer<Parcel>>>> = (0..cores).map(none).collect();
    let mut from: Vec<Vec<Option<Consumer<Parcel>>>> =
        (0..cores).map(|_| (0..cores).map(|_| None).collect()).collect();
    for sender in 0..cores as usize {
        for receiver in 0..cores as usize {
            if sender != receiver {
                let (producer, consumer) = RingBuffer::new(QUEUE_PARCELS);
                to[sender][receiver] = Some(producer);
                from[receiver][sender] = Some(consumer);
            }
        }
    }
    let posts = to
        .into_iter()
        .zip(from)
        .enumerate()
        .map(|(id, (to, from))| Post {
            id: id as u32,
            doors: Arc::clone(&doors),
            to,
            from,
            touched: vec![false; cores as usize],
            touched_any: false,
        })
        .collect();
    Ok((doors, posts))
}

impl Post {
    /// This core.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What all share.
    pub fn doors(&self) -> &Arc<Doors> {
        &self.doors
    }

    /// The eventfd that ends this core's wait.
    pub fn wake_fd(&self) -> i32 {
        self.doors.doors[self.id as usize].wake.raw()
    }

    /// Sends to a peer, which learns of it at [`wake_touched`](Self::wake_touched).
    /// A full queue gives the parcel back.
    pub fn push(&mut self, peer: u32, parcel: Parcel) -> Result<(), Parcel> {
        let Some(queue) = self.to[peer as usize].as_mut() else { return Err(parcel) };
        queue.push(parcel).map_err(|rtrb::PushError::Full(parcel)| parcel)?;
        self.touched[peer as usize] = true;
        self.touched_any = true;
        Ok(())
    }

    /// The next parcel of a peer.
    pub fn pop(&mut self, peer: u32) -> Option<Parcel> {
        self.from[peer as usize].as_mut()?.pop().ok()
    }

    /// The next call of the control thread.
    pub fn pop_call(&mut self) -> Option<NodeCall> {
        self.doors.doors[self.id as usize].calls.pop()
    }

    /// Wakes those peers that were pushed to in this turn and sleep.
    pub fn wake_touched(&mut self) {
        if !self.touched_any {
            return;
        }
        self.touched_any = false;
        fence(Ordering::SeqCst);
        for (peer, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.doors.doors[peer].rouse();
            }
        }
    }

    /// Announces that this core will wait. False: something has come in, do not.
    pub fn prepare_sleep(&mut self) -> bool {
        let door = &self.doors.doors[self.id as usize];
        door.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_mail() {
            self.doors.doors[self.id as usize].sleeping.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The wait is over.
    pub fn awake(&self) {
        self.doors.doors[self.id as usize].sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether anything waits in the inbound queues.
    pub fn has_mail(&self) -> bool {
        !self.doors.doors[self.id as usize].calls.is_empty()
            || self.from.iter().flatten().any(|queue| !queue.is_empty())
    }

    /// This core's loop has ended: calls to it are refused from now on, and
    /// those that wait are dropped, which their callers notice.
    pub fn leave(&mut self) {
        self.doors.doors[self.id as usize].gone.store(true, Ordering::Release);
        while self.pop_call().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlCall;
    use crate::hop::CONTROL_PEER;

    fn letter(id: u64) -> Parcel {
        Parcel::Message(Message::Control(Box::new(ControlCall {
            from: CONTROL_PEER,
            conn: None,
            id,
            op: ControlOp::Stats,
            answer: ControlAnswer::None,
        })))
    }

    fn number(parcel: Parcel) -> u64 {
        match parcel {
            Parcel::Message(Message::Control(call)) => call.id,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the eventfd as a backend does.
    fn wait(post: &Post) {
        let mut poll = libc::pollfd { fd: post.wake_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, described truly.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
        assert_eq!(ready, 1, "a wake-up was lost");
        post.doors.doors[post.id as usize].wake.clear();
    }

    #[test]
    fn parcels_arrive_in_order_and_a_full_queue_gives_them_back() {
        let (_, mut posts) = build(2).unwrap();
        let mut b = posts.pop().unwrap();
        let mut a = posts.pop().unwrap();
        for id in 0..QUEUE_PARCELS as u64 {
            a.push(1, letter(id)).unwrap();
        }
        let refused = a.push(1, letter(99)).unwrap_err();
        assert_eq!(number(refused), 99);
        assert!(!b.prepare_sleep(), "mail waits");
        for id in 0..QUEUE_PARCELS as u64 {
            assert_eq!(number(b.pop(0).unwrap()), id);
        }
        assert!(b.pop(0).is_none() && b.prepare_sleep());
    }

    /// Two cores that sleep whenever they can play ping-pong: if the flag and
    /// the fences were wrong, a wake-up would be missing sooner or later.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u64 = 20_000;
        let (_, mut posts) = build(2).unwrap();
        let b = posts.pop().unwrap();
        let a = posts.pop().unwrap();
        let play = |mut post: Post, peer: u32, serves: bool| {
            move || {
                if serves {
                    post.push(peer, letter(0)).unwrap();
                    post.wake_touched();
                }
                loop {
                    let Some(parcel) = post.pop(peer) else {
                        if post.prepare_sleep() {
                            wait(&post);
                            post.awake();
                        }
                        continue;
                    };
                    let round = number(parcel);
                    if round < ROUNDS {
                        post.push(peer, letter(round + 1)).unwrap();
                        post.wake_touched();
                    }
                    if round + 1 >= ROUNDS {
                        return;
                    }
                }
            }
        };
        let other = std::thread::spawn(play(b, 0, false));
        play(a, 1, true)();
        other.join().unwrap();
    }

    #[test]
    fn new_connections_go_where_the_fewest_are() {
        let (doors, _posts) = build(3).unwrap();
        let placed: Vec<u32> = (0..9).map(|turn| doors.place(turn % 3)).collect();
        for core in 0..3 {
            assert_eq!(placed.iter().filter(|at| **at == core).count(), 3, "{placed:?}");
        }
        doors.count_out(1);
        assert_eq!(doors.place(0), 1);
    }

    #[test]
    fn a_call_to_a_core_that_left_comes_back() {
        let (doors, mut posts) = build(1).unwrap();
        let call = || NodeCall::Op { op: ControlOp::Stats, reply: Box::new(|_| {}) };
        doors.call(0, call()).unwrap();
        assert!(posts[0].has_mail());
        posts[0].leave();
        assert!(doors.call(0, call()).is_err());
    }
}
