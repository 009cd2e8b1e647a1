//! Answers that wait for replicas.

use crate::map::Map;
use crate::replication::Lsn;
use alloc::vec::Vec;
use engine::KeyHash;

/// A batch of requests whose answers wait together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Confirmations that are missing.
    outstanding: usize,
    /// The keys that it has written, until then not to be read.
    keys: Vec<(KeyHash, Lsn)>,
    unknown: Vec<u32>,
}

/// All of them, and the keys that they have written.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    next: u64,
    current: Waiting,
    waiting: Map<Ticket, Waiting>,
    /// The last write of each key that is not yet where it must be.
    pending: Map<KeyHash, Lsn>,
}

impl Tickets {
    /// The ticket that the requests executed now will get.
    pub fn current(&self) -> Ticket {
        Ticket(self.next)
    }

    /// The current one waits for one more confirmation.
    pub fn wait(&mut self) {
        self.current.outstanding += 1;
    }

    /// The current one has written a key.
    pub fn wrote(&mut self, hash: KeyHash, lsn: Lsn) {
        self.current.keys.push((hash, lsn));
        self.pending.insert(hash, lsn);
    }

    /// The last write of a key, if it is not yet where it must be.
    pub fn pending(&self, hash: KeyHash) -> Option<Lsn> {
        if self.pending.is_empty() { None } else { self.pending.get(&hash).copied() }
    }

    /// Closes the current one; `None` if nothing waits.
    pub fn close(&mut self) -> Option<Ticket> {
        if self.current.outstanding == 0 {
            self.settle_keys(None);
            return None;
        }
        let ticket = self.current();
        self.next += 1;
        self.waiting.insert(ticket, core::mem::take(&mut self.current));
        Some(ticket)
    }

    /// One confirmation came, or will never come (`unknown`). The unknown ones
    /// if it was the last.
    pub fn confirm(&mut self, ticket: Ticket, unknown: Option<u32>) -> Option<Vec<u32>> {
        let waiting = if ticket == self.current() {
            &mut self.current
        } else {
            self.waiting.get_mut(&ticket)?
        };
        waiting.outstanding -= 1;
        waiting.unknown.extend(unknown);
        if waiting.outstanding > 0 || ticket == self.current() {
            return None;
        }
        let waiting = self.waiting.remove(&ticket)?;
        self.settle_keys(Some(&waiting.keys));
        Some(waiting.unknown)
    }

    fn settle_keys(&mut self, keys: Option<&[(KeyHash, Lsn)]>) {
        let own = core::mem::take(&mut self.current.keys);
        for (hash, lsn) in keys.unwrap_or(&own) {
            if self.pending.get(hash) == Some(lsn) {
                self.pending.remove(hash);
            }
        }
        if keys.is_some() {
            self.current.keys = own;
        }
    }

    /// Batches that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}
