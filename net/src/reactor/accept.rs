//! New connections: their limit, and the core that they go to.
//!
//! The limit (`-c`) is memcached's. By default a client beyond it is told
//! `ERROR Too many open connections` and closed. With
//! `-o no_maxconns_fast` it waits in the listen queue instead: accepting stops
//! (`listen_disabled_num` counts that) until somebody leaves. Accepting also
//! stops for a moment when the process runs out of descriptors.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Reactor;
use super::speaker::Speaker;
use super::table::Connection;
use crate::conn::{Conn, Transport};
use crate::listener::ListenAddress;
use crate::mesh::{Life, Parcel};
use crate::sys::socket::{peer_address, send_now};
use crate::sys::{Backend, Slot};

/// What memcached says at the limit.
const TOO_MANY: &[u8] = b"ERROR Too many open connections\r\n";
/// How often a core that has stopped accepting looks whether it may again;
/// memcached's interval.
const RETRY: Duration = Duration::from_millis(10);

/// A core's part in accepting.
#[derive(Debug, Default)]
pub(super) struct Acceptor {
    /// Accepted and over the limit: they wait, if they are not refused.
    waiting: VecDeque<(u32, OwnedFd)>,
    /// On their way to a core whose queue was full.
    outgoing: VecDeque<(u32, Parcel)>,
    /// Since when accepting is suspended.
    suspended: Option<Instant>,
    /// Descriptors ran out at that moment.
    starved: Option<Instant>,
    /// Breaks ties between cores with equally many connections.
    next_core: u32,
}

impl Acceptor {
    /// How long the core may wait.
    pub fn timeout(&self, turn: Instant) -> Option<Duration> {
        let retry = (self.suspended.is_some() || !self.outgoing.is_empty()).then_some(RETRY);
        let starved = self.starved.map(|since| (since + RETRY).saturating_duration_since(turn));
        retry.into_iter().chain(starved).min()
    }
}

impl<B: Backend> Reactor<B> {
    pub(super) fn on_accepted(&mut self, listener: u32, socket: OwnedFd) {
        if self.post.doors().life() != Life::Running {
            return;
        }
        let shared = &self.core.shared;
        let limit = u64::from(shared.settings.connections_max);
        let before = shared.curr_connections.fetch_add(1, Ordering::Relaxed);
        if before < limit {
            return self.place(listener, socket);
        }
        shared.curr_connections.fetch_sub(1, Ordering::Relaxed);
        if shared.settings.connections_max_fast {
            shared.rejected_connections.fetch_add(1, Ordering::Relaxed);
            // A fresh socket takes that many bytes; if not, it is closed all
            // the same.
            let _ = send_now(socket.as_raw_fd(), TOO_MANY);
            return;
        }
        self.acceptor.waiting.push_back((listener, socket));
        self.suspend();
    }

    /// The kernel could not give us a connection, mostly for want of
    /// descriptors: try again in a moment instead of at once.
    pub(super) fn on_accept_failed(&mut self, _errno: i32) {
        if self.acceptor.starved.is_none() {
            self.acceptor.starved = Some(Instant::now());
            self.suspend();
        }
    }

    fn suspend(&mut self) {
        if self.acceptor.suspended.is_none() {
            self.acceptor.suspended = Some(Instant::now());
            self.core.shared.listen_disabled.fetch_add(1, Ordering::Relaxed);
            self.core.shared.accepting.store(false, Ordering::Relaxed);
            self.backend.set_accepting(false);
        }
    }

    /// Lets those in that waited at the limit, and accepts again.
    pub(super) fn accept_waiting(&mut self, turn: Instant) {
        while let Some((core, parcel)) = self.acceptor.outgoing.pop_front() {
            if let Err(parcel) = self.post.push(core, parcel) {
                self.acceptor.outgoing.push_front((core, parcel));
                break;
            }
        }
        let Some(since) = self.acceptor.suspended else { return };
        let limit = u64::from(self.core.shared.settings.connections_max);
        let has_room =
            |reactor: &Self| reactor.core.shared.curr_connections.load(Ordering::Relaxed) < limit;
        while has_room(self) {
            let Some((listener, socket)) = self.acceptor.waiting.pop_front() else { break };
            self.core.shared.curr_connections.fetch_add(1, Ordering::Relaxed);
            self.place(listener, socket);
        }
        if self.acceptor.starved.is_some_and(|at| turn.saturating_duration_since(at) < RETRY) {
            return;
        }
        self.acceptor.starved = None;
        if self.acceptor.waiting.is_empty() && has_room(self) {
            self.acceptor.suspended = None;
            let passed = since.elapsed().as_micros() as u64;
            self.core.shared.listen_disabled_us.fetch_add(passed, Ordering::Relaxed);
            self.core.shared.accepting.store(true, Ordering::Relaxed);
            self.backend.set_accepting(true);
        }
    }

    /// Counted: to the core that shall serve it.
    fn place(&mut self, listener: u32, socket: OwnedFd) {
        self.core.shared.total_connections.fetch_add(1, Ordering::Relaxed);
        let own = self.listeners[listener as usize].core.is_some();
        let core = if own {
            self.post.doors().count_in(self.core.id);
            self.core.id
        } else {
            self.acceptor.next_core = (self.acceptor.next_core + 1) % self.core.cores;
            self.post.doors().place(self.acceptor.next_core)
        };
        if core == self.core.id {
            return self.admit(listener, socket);
        }
        if let Err(parcel) = self.post.push(core, Parcel::Socket { socket, listener }) {
            self.acceptor.outgoing.push_back((core, parcel));
        }
    }

    /// Takes a placed connection in.
    pub(super) fn admit(&mut self, listener: u32, socket: OwnedFd) {
        let token = self.table.reserve();
        if self.backend.attach(token.index, socket).is_err() {
            // Only want of kernel memory brings us here: the socket is closed.
            self.table.cancel(token);
            return self.count_out();
        }
        let conn = Speaker::Client(Conn::new(token, &self.core));
        let connection = Connection::new(conn, listener, &self.core);
        self.table.open(token, Box::new(connection));
        if self.core.watch.connections() {
            let (ip, port, transport) = self.remote(token.index, listener);
            let now = self.core.now;
            let number = self.core.watch.connection_number(self.core.id, token.index);
            self.core.watch.connection_opened(now, &ip, port, transport, number);
        }
    }

    /// A client's address as the watchers' log names it.
    pub(super) fn remote(&self, slot: Slot, listener: u32) -> (String, u16, Transport) {
        let listener = self.listeners.get(listener as usize).map(|listener| &listener.address);
        if let Some(ListenAddress::Unix { .. }) = listener {
            return ("unix".into(), 0, Transport::Unix);
        }
        let address =
            self.backend.descriptor(slot).and_then(|descriptor| peer_address(descriptor).ok());
        match address {
            Some(address) => (address.ip().to_string(), address.port(), Transport::Tcp),
            None => ("unknown".into(), 0, Transport::Tcp),
        }
    }

    /// A connection's socket is gone.
    pub(super) fn count_out(&mut self) {
        self.post.doors().count_out(self.core.id);
        self.core.shared.curr_connections.fetch_sub(1, Ordering::Relaxed);
    }
}
