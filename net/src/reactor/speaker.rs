//! Who speaks on a connection: a client, or another node.

use crate::conn::{CloseReason, Conn, Progress};
use crate::control::ControlCall;
use crate::core::Core;
use crate::hop::{self, Answer};
use crate::peering::link::Link;
use crate::watch::LogChunk;
use engine::Now;

/// The state machine behind a socket.
#[derive(Debug)]
pub(super) enum Speaker {
    Client(Conn),
    Node(Link),
}

impl Speaker {
    #[inline]
    pub fn on_bytes(&mut self, core: &mut Core, input: &[u8], out: &mut Vec<u8>) -> Progress {
        match self {
            Speaker::Client(conn) => conn.on_bytes(core, input, out),
            Speaker::Node(link) => link.on_bytes(core, input, out),
        }
    }

    /// An answer from another core; only clients ask.
    #[inline]
    pub fn on_answer(&mut self, answer: Answer<'_>, core: &mut Core, out: &mut Vec<u8>) {
        match self {
            Speaker::Client(conn) => conn.on_answer(answer, core, out),
            Speaker::Node(_) => hop::discard(answer, core),
        }
    }

    pub fn on_control(&mut self, call: Box<ControlCall>, core: &mut Core, out: &mut Vec<u8>) {
        if let Speaker::Client(conn) = self {
            conn.on_control(call, core, out);
        }
    }

    pub fn on_log(&mut self, chunk: &LogChunk, core: &mut Core, out: &mut Vec<u8>) {
        if let Speaker::Client(conn) = self {
            conn.on_log(chunk, core, out);
        }
    }

    #[inline]
    pub fn on_drained(&mut self, core: &mut Core, out: &mut Vec<u8>) {
        if let Speaker::Client(conn) = self {
            conn.on_drained(core, out);
        }
    }

    pub fn on_closed(&mut self, core: &mut Core) {
        match self {
            Speaker::Client(conn) => conn.on_closed(core),
            Speaker::Node(link) => link.on_closed(core),
        }
    }

    #[inline]
    pub fn is_ready(&self) -> bool {
        match self {
            Speaker::Client(conn) => conn.is_ready(),
            Speaker::Node(_) => false,
        }
    }

    #[inline]
    pub fn waits_for_time(&self) -> bool {
        match self {
            Speaker::Client(conn) => conn.waits_for_time(),
            Speaker::Node(link) => link.waits_for_time(),
        }
    }

    #[inline]
    pub fn has_pending(&self) -> bool {
        match self {
            Speaker::Client(conn) => conn.has_pending(),
            Speaker::Node(_) => false,
        }
    }

    /// Nothing of a command was taken in that is not complete.
    pub fn is_between_commands(&self) -> bool {
        match self {
            Speaker::Client(conn) => conn.is_between_commands(),
            Speaker::Node(_) => false,
        }
    }

    #[inline]
    pub fn buffer_bytes(&self) -> usize {
        match self {
            Speaker::Client(conn) => conn.buffer_bytes(),
            Speaker::Node(link) => link.buffer_bytes(),
        }
    }

    /// What was put out goes to the socket now.
    #[inline]
    pub fn seal(&mut self, out: &mut Vec<u8>) {
        if let Speaker::Node(link) = self {
            link.seal(out);
        }
    }

    /// Why it ends, if it wants to.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Speaker::Client(conn) => conn.close_reason(),
            Speaker::Node(_) => CloseReason::Normal,
        }
    }

    pub fn state(&self) -> &'static str {
        match self {
            Speaker::Client(conn) => conn.state(),
            Speaker::Node(_) => "link",
        }
    }

    /// Links have no idle timeout: they are heard of in other ways.
    pub fn is_client(&self) -> bool {
        matches!(self, Speaker::Client(_))
    }

    pub fn last_command(&self, now: Now) -> Now {
        match self {
            Speaker::Client(conn) => conn.last_command(),
            Speaker::Node(_) => now,
        }
    }
}
