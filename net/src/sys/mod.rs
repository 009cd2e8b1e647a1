//! The kernel's side of a core: sockets, wake-ups, memory, affinity.
//!
//! [`Backend`] is the one narrow door between a core's reactor and the kernel.
//! Two stand behind it: [`uring`] (a raw io_uring, the default) and [`epoll`]
//! (where io_uring is refused). Both work the same way. The reactor hands them
//! sockets under small *slot* numbers that it chooses, calls
//! [`poll`](Backend::poll) once a turn, takes [`Event`]s until there are no
//! more, and gives each connection's whole output of the turn to one
//! [`send`](Backend::send).
//!
//! What a backend promises:
//! - bytes given to `send` go out in order, whole or not at all: the part that
//!   the socket would not take is kept here and sent on, and [`Event::Sent`]
//!   says when the last of it is gone;
//! - received bytes lie in buffers of the backend until the reactor releases
//!   them, so its memory does not grow with the number of connections;
//! - a paused slot delivers nothing new once what was under way has arrived;
//! - a closed slot delivers nothing at all but its [`Event::Closed`], after
//!   which the number may be used again.

pub mod affinity;
/// What a short send left over waits for as long as the client likes. It must
/// not hold a buffer that is much larger, from which earlier output grew.
fn keep_rest(bytes: &mut Vec<u8>, sent: &mut usize) {
    const WASTE_BYTES_MAX: usize = 4 << 10;
    let rest = bytes.len() - *sent;
    if bytes.capacity() > 2 * rest + WASTE_BYTES_MAX {
        *bytes = bytes[*sent..].to_vec();
        *sent = 0;
    }
}

#[cfg(test)]
mod backend_tests;
pub mod buffers;
pub mod epoll;
pub mod memory;
mod probe;
pub mod socket;
pub mod uring;
pub mod usage;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use buffers::Buffers;
pub use probe::{Refusal, probe};

/// Number of a connection, chosen by the reactor.
pub type Slot = u32;

/// Which way to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// A raw io_uring per core.
    Uring,
    /// epoll, `recv(2)` and `send(2)`.
    Epoll,
}

impl BackendKind {
    /// The name used on the command line and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            BackendKind::Uring => "io_uring",
            BackendKind::Epoll => "epoll",
        }
    }
}

/// What the operator asked for (`--io-backend`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// io_uring if the kernel lets us, else epoll.
    #[default]
    Auto,
    /// io_uring or do not start.
    Uring,
    /// epoll, which every kernel has.
    Epoll,
}

impl std::str::FromStr for BackendChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(BackendChoice::Auto),
            "io_uring" | "io-uring" | "uring" => Ok(BackendChoice::Uring),
            "epoll" => Ok(BackendChoice::Epoll),
            other => Err(format!("no I/O backend is called {other:?}: auto, io_uring or epoll")),
        }
    }
}

/// Sizes of a backend's queues and buffers. The defaults are the measured ones.
#[derive(Clone, Copy, Debug)]
pub struct BackendOptions {
    /// Submission queue entries; a fuller turn submits in several parts.
    pub submissions: u32,
    /// Completion queue entries. Rings are charged to the memory-lock limit:
    /// 8 MiB holds 60 rings of 1024/4096.
    pub completions: u32,
    /// Receive buffers of a core, a power of two.
    pub receive_buffers: u16,
    /// Size of each.
    pub receive_buffer_bytes: u32,
}

impl Default for BackendOptions {
    fn default() -> Self {
        BackendOptions {
            submissions: 512,
            completions: 4096,
            receive_buffers: 256,
            receive_buffer_bytes: 16 << 10,
        }
    }
}

/// Received bytes, lying in the backend until released.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer that is not released is lost to the core"]
pub struct Received {
    pub(crate) buffer: u16,
    pub(crate) bytes: u32,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A listener accepted a connection.
    Accepted {
        /// The listener's number.
        listener: u32,
        /// The connection.
        socket: OwnedFd,
    },
    /// A listener could not accept, mostly for want of file descriptors.
    AcceptFailed {
        /// The listener's number.
        listener: u32,
        /// The kernel's error number.
        errno: i32,
    },
    /// Bytes came in.
    Received {
        /// The connection.
        slot: Slot,
        /// Where they are.
        received: Received,
    },
    /// The peer will send no more; it may still read.
    Ended {
        /// The connection.
        slot: Slot,
    },
    /// The connection broke.
    Failed {
        /// The connection.
        slot: Slot,
        /// The kernel's error number.
        errno: i32,
    },
    /// The rest of a short send is out.
    Sent {
        /// The connection.
        slot: Slot,
    },
    /// The socket is gone; the slot number is free.
    Closed {
        /// The connection.
        slot: Slot,
    },
}

/// A core's way to the kernel. Used by one thread only.
pub trait Backend {
    /// Which one this is.
    fn kind(&self) -> BackendKind;

    /// Watches `wake`, an eventfd that other threads write to end a wait.
    fn watch_wake(&mut self, wake: RawFd) -> io::Result<()>;

    /// Starts accepting on a listening socket.
    fn listen(&mut self, listener: u32, socket: OwnedFd) -> io::Result<()>;

    /// Stops or resumes accepting on every listener. What was under way may
    /// still be delivered.
    fn set_accepting(&mut self, accepting: bool);

    /// Closes every listener.
    fn close_listeners(&mut self);

    /// Takes a connection in and starts receiving.
    fn attach(&mut self, slot: Slot, socket: OwnedFd) -> io::Result<()>;

    /// Stops receiving.
    fn pause(&mut self, slot: Slot);

    /// Receives again.
    fn resume(&mut self, slot: Slot);

    /// Receives as much at once as there is, or one buffer at a time, as a new
    /// connection does.
    fn set_multishot(&mut self, slot: Slot, multishot: bool);

    /// Sends `bytes`. At most one send of a slot may be under way: ask
    /// [`is_sending`](Self::is_sending) first.
    fn send(&mut self, slot: Slot, bytes: Vec<u8>, buffers: &mut Buffers);

    /// The slot's descriptor, to ask for its addresses; `None` once closed.
    fn descriptor(&self, slot: Slot) -> Option<RawFd>;

    /// Whether an earlier send is not out yet.
    fn is_sending(&self, slot: Slot) -> bool;

    /// Bytes of the buffer of a send that the socket did not take at once, for a
    /// slot that may be closed already.
    fn unsent_bytes(&self, slot: Slot) -> usize;

    /// The same of all slots together.
    fn all_unsent_bytes(&self) -> usize;

    /// Closes the connection once everything given to `send` is out.
    fn close(&mut self, slot: Slot, buffers: &mut Buffers);

    /// Closes the connection now, whatever is under way.
    fn abort(&mut self, slot: Slot, buffers: &mut Buffers);

    /// Hands everything to the kernel and waits up to `timeout` for something
    /// to happen; not at all if it is zero.
    fn poll(&mut self, timeout: Duration, buffers: &mut Buffers) -> io::Result<()>;

    /// The next thing that happened in the last `poll`.
    fn next_event(&mut self) -> Option<Event>;

    /// Whether `next_event` has one without asking the kernel.
    fn has_event(&self) -> bool;

    /// The bytes of a buffer.
    fn bytes(&self, received: &Received) -> &[u8];

    /// Gives a buffer back.
    fn release(&mut self, received: Received);

    /// Bytes of memory held for buffers and queues.
    fn memory_bytes(&self) -> usize;
}
