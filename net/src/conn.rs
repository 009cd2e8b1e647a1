//! A connection as a state machine, without its socket.
//!
//! The reactor hands in received bytes and takes out bytes to send. What the
//! connection needs from other cores goes into [`Core::outbox`]; what comes
//! back is handed in by [`Conn::on_answer`] and [`Conn::on_control`].
//!
//! After any event but `on_bytes`, ask [`Conn::is_ready`]: if it says yes, the
//! connection wants `on_bytes` with what it left unconsumed, be it empty.

use crate::control::ControlCall;
use crate::core::Core;
use crate::hop::{Answer, ConnToken};
use engine::Now;

/// What the reactor does next for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Receive more. `need` more bytes at least make the next step possible;
    /// calling with fewer is allowed and does nothing.
    Read {
        /// Bytes missing beyond the unconsumed ones, at least 1.
        need: usize,
    },
    /// Its share of this turn is used up: call again next turn with the rest.
    Yield,
    /// Keep the rest; it waits for an answer or for its output to drain.
    Blocked,
    /// Send what is in `out`, then close.
    Close,
}

/// What `on_bytes` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are done with. The rest is offered again.
    pub consumed: usize,
    /// What next.
    pub next: Next,
}

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, IPv4 or IPv6.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// Why a connection ended, for watchers of `connevents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// An error of the socket or of the protocol.
    Error,
    /// The client left, or said `quit`.
    Normal,
    /// It was silent for too long.
    IdleTimeout,
    /// `shutdown`, or the node drains.
    Shutdown,
}

/// One client.
#[derive(Debug)]
pub struct Conn {
    token: ConnToken,
    last_command: Now,
}

#[allow(unused_variables)]
impl Conn {
    /// A fresh connection on `core`.
    pub fn new(token: ConnToken, core: &Core) -> Conn {
        Conn { token, last_command: core.now }
    }
    /// Received bytes: what was left last time, then what is new.
    pub fn on_bytes(&mut self, core: &mut Core, input: &[u8], out: &mut Vec<u8>) -> Progress {
        todo!()
    }
    /// An answer from another core.
    pub fn on_answer(&mut self, answer: Answer<'_>, core: &mut Core, out: &mut Vec<u8>) {
        todo!()
    }
    /// A control call that this connection sent comes back.
    pub fn on_control(&mut self, call: Box<ControlCall>, core: &mut Core, out: &mut Vec<u8>) {
        todo!()
    }
    /// Log lines for a watcher.
    pub fn on_log(&mut self, lines: &[u8], core: &mut Core, out: &mut Vec<u8>) {
        todo!()
    }
    /// `out` went out to the socket, in whole or in part; it holds what is left.
    pub fn on_drained(&mut self, core: &mut Core, out: &mut Vec<u8>) {
        todo!()
    }
    /// The socket is gone: gives back what other parts lent.
    pub fn on_closed(&mut self, core: &mut Core) {
        todo!()
    }
    /// Whether `on_bytes` should be called with the rest.
    pub fn is_ready(&self) -> bool {
        todo!()
    }
    /// Whether answers are still to come (a half-closed client must get them).
    pub fn has_pending(&self) -> bool {
        todo!()
    }
    /// Its name.
    pub fn token(&self) -> ConnToken {
        self.token
    }
    /// When its last command came.
    pub fn last_command(&self) -> Now {
        self.last_command
    }
    /// State word of `stats conns`.
    pub fn state(&self) -> &'static str {
        todo!()
    }
}
