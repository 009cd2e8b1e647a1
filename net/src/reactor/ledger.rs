//! What all connections of a core hold in buffers, and its bound.
//!
//! Every connection has bounds of its own, but many of them together, each
//! just below its bounds, could still take more memory than the machine has: a
//! client that sends without end while its answers wait, or never reads them.
//! So the sum is bounded too. Past the bound the connection that holds most is
//! closed, until the sum is below it; that is the one at fault more often than
//! any other (Redis's `maxmemory-clients` decides likewise).
//!
//! Counting every buffer exactly at every change would cost each request
//! something. Instead the sum is counted once a second, and whatever might have
//! been added since is put on top; only when that passes the bound is it
//! counted anew. The bound is kept at the end of each turn, in which at most
//! the core's receive buffers come in.

use super::Reactor;
use super::table::Connection;
use crate::conn::CloseReason;
use crate::sys::{Backend, Slot};

/// The sum, between two counts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// As last counted.
    counted: usize,
    /// Bytes that buffers may have grown by since; some may be gone again.
    added: usize,
}

impl Ledger {
    /// Bytes that may stay in a buffer beyond this turn.
    #[inline]
    pub fn add(&mut self, bytes: usize) {
        // A buffer that must grow doubles.
        self.added += 2 * bytes;
    }

    /// Connections cannot hold more than this.
    fn most(&self) -> usize {
        self.counted + self.added
    }
}

impl Connection {
    /// Bytes of its buffers, without what the backend still has to send.
    fn buffer_bytes(&self) -> usize {
        self.backlog.capacity() + self.out.capacity() + self.conn.buffer_bytes()
    }
}

impl<B: Backend> Reactor<B> {
    /// Keeps the bound.
    #[inline]
    pub(super) fn bound_buffers(&mut self) {
        if self.ledger.most() > self.options.connection_bytes_max {
            self.close_greediest();
        }
    }

    /// Counts what every connection holds; who holds most, and how much.
    pub(super) fn count_buffers(&mut self) -> Option<(Slot, usize)> {
        let mut sum = 0;
        let mut greediest = None;
        for slot in 0..self.table.slots() {
            let own = self.table.get(slot).map_or(0, |connection| connection.buffer_bytes());
            let bytes = own + self.backend.unsent_bytes(slot);
            sum += bytes;
            if bytes > 0 && greediest.is_none_or(|(_, most)| bytes > most) {
                greediest = Some((slot, bytes));
            }
        }
        self.ledger = Ledger { counted: sum, added: 0 };
        self.core.stats.connection_bytes = sum as u64;
        // Items make room for buffers, up to a quarter of their memory: what
        // clients do must not empty the cache.
        let most = self.core.shard.memory_bytes_max() / 4;
        self.core.shard.set_outside_bytes(sum.min(most));
        greediest
    }

    #[cold]
    fn close_greediest(&mut self) {
        while let Some((slot, bytes)) = self.count_buffers() {
            if self.ledger.most() <= self.options.connection_bytes_max {
                return;
            }
            self.core.stats.memory_kicks += 1;
            if self.table.get(slot).is_some() {
                self.drop_now(slot, CloseReason::Error);
            } else {
                // Its connection is gone; only its last output was waiting.
                self.backend.abort(slot, &mut self.buffers);
            }
            self.ledger.counted -= bytes.min(self.ledger.counted);
            if self.backend.unsent_bytes(slot) > 0 {
                // It is being cancelled, and its bytes go with that.
                return;
            }
        }
    }
}
