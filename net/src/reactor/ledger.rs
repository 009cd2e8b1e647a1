//! What all connections of a core hold in buffers, and its bound.
//!
//! Every connection has bounds of its own, but many of them together, each
//! just below its bounds, could still take more memory than the machine has. So
//! the sum is bounded too. It is kept up to date: a connection is counted
//! whenever an event of it was dealt with, and the backend counts what sockets
//! did not take. Most connections hold nothing then.
//!
//! The nearer the sum comes to the bound, the less each connection may take
//! (see [`crate::allowance`]): those that read are served in smaller pieces.
//! What may still come to the bound is many connections that do not read. From
//! three quarters of it on, those are closed whose peer has taken nothing for
//! [`STUCK_MS`], those that hold most first. At the bound itself the connection
//! that holds most is closed in any case (Redis's `maxmemory-clients` decides
//! likewise).

use super::Reactor;
use super::table::Connection;
use crate::allowance::Crowding;
use crate::conn::CloseReason;
use crate::sys::socket::taken_by_peer;
use crate::sys::{Backend, Slot};
use engine::Now;

/// A peer that takes nothing of its output for so long does not read.
const STUCK_MS: u64 = 1_000;
/// Between two looks for connections to be closed: the buffers of those that were
/// closed may be freed a few turns later.
const LOOK_PAUSE_MS: u64 = 20;

/// The sum of what connections hold, without what the backend still has to send.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    counted: usize,
    /// When connections to be closed were last looked for.
    looked: Option<Now>,
}

impl Ledger {
    /// Counts a connection anew.
    #[inline]
    pub fn count(&mut self, connection: &mut Connection) {
        let bytes = connection.buffer_bytes();
        if bytes != connection.counted {
            self.counted = self.counted + bytes - connection.counted;
            connection.counted = bytes;
        }
    }

    /// A connection is gone.
    pub fn forget(&mut self, connection: &Connection) {
        self.counted -= connection.counted;
    }
}

impl Connection {
    /// Bytes of its buffers, without what the backend still has to send.
    #[inline]
    fn buffer_bytes(&self) -> usize {
        self.backlog.capacity() + self.out.capacity() + self.conn.buffer_bytes()
    }

    /// Notes how much the peer has taken so far.
    fn note_taken(&mut self, taken: u64, now: Now) {
        if self.taken.is_none_or(|(before, _)| before != taken) {
            self.taken = Some((taken, now));
        }
    }

    /// Whether the peer has taken nothing for a while.
    fn is_stuck(&self, now: Now) -> bool {
        self.taken.is_some_and(|(_, since)| now.0.saturating_sub(since.0) >= STUCK_MS)
    }
}

impl<B: Backend> Reactor<B> {
    /// Bytes that all connections hold.
    #[inline]
    pub(super) fn connection_bytes(&self) -> usize {
        self.ledger.counted + self.backend.all_unsent_bytes()
    }

    /// How much of their bound that is.
    #[inline]
    pub(super) fn crowding(&self) -> Crowding {
        Crowding::of(self.connection_bytes(), self.options.connection_bytes_max)
    }

    /// Keeps the bound.
    #[inline]
    pub(super) fn bound_buffers(&mut self) {
        let bytes = self.connection_bytes();
        if bytes > self.options.connection_bytes_max / 4 * 3 {
            self.close_greediest(bytes);
        }
    }

    /// Shows how much connections hold, and has items make room for it, up to a
    /// quarter of their memory: what clients do must not empty the cache.
    pub(super) fn show_buffers(&mut self) {
        let bytes = self.connection_bytes();
        self.core.stats.connection_bytes = bytes as u64;
        let most = self.core.shard.memory_bytes_max() / 4;
        self.core.shard.set_outside_bytes(bytes.min(most));
    }

    /// Looks whether a peer takes what is sent to it. Nobody needs to know while
    /// there is room for all.
    pub(super) fn look_whether_stuck(&mut self, slot: Slot) {
        let crowded = self.crowding() == Crowding::Tight;
        let unsent = self.backend.unsent_bytes(slot);
        let Some(connection) = self.table.get(slot) else { return };
        match self.backend.descriptor(slot) {
            Some(descriptor) if crowded && unsent > 0 => {
                connection.note_taken(taken_by_peer(descriptor), self.core.now);
            }
            _ => connection.taken = None,
        }
    }

    #[cold]
    fn close_greediest(&mut self, bytes: usize) {
        let now = self.core.now;
        if self.ledger.looked.is_some_and(|at| now.0.saturating_sub(at.0) < LOOK_PAUSE_MS) {
            return;
        }
        self.ledger.looked = Some(now);
        let bound = self.options.connection_bytes_max;
        let mut holders: Vec<(bool, usize, Slot)> = Vec::new();
        for slot in 0..self.table.slots() {
            let unsent = self.backend.unsent_bytes(slot);
            let (own, stuck) = match self.table.get(slot) {
                Some(connection) => (connection.counted, connection.is_stuck(now)),
                // Its connection is gone; only its last output is waiting.
                None => (0, unsent > 0),
            };
            if own + unsent > 0 && (stuck || bytes > bound) {
                holders.push((stuck, own + unsent, slot));
            }
        }
        holders.sort_unstable_by(|one, other| other.cmp(one));
        let mut left = bytes;
        for (stuck, held, slot) in holders {
            if left <= if stuck { bound / 2 } else { bound } {
                break;
            }
            left -= held.min(left);
            self.core.stats.memory_kicks += 1;
            if self.table.get(slot).is_some() {
                self.drop_now(slot, CloseReason::Error);
            } else {
                self.backend.abort(slot, &mut self.buffers);
            }
        }
    }
}
