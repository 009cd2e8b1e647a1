//! Answers that wait for replicas.

use crate::map::Map;
use crate::replication::Lsn;
use alloc::vec::Vec;
use engine::KeyHash;

/// A batch of requests whose answers wait together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Confirmations that are missing.
    outstanding: usize,
    /// The keys that it has written, until then not to be read.
    keys: Vec<(KeyHash, Lsn)>,
    unknown: Vec<u32>,
    /// It was answered before all confirmations were there.
    answered: bool,
}

/// What became of a batch when it was closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Nothing waits.
    Free,
    /// It waits.
    Waits(Ticket),
    /// It was decided meanwhile; the unknown ones.
    Decided(Ticket, Vec<u32>),
}

/// A batch that was put aside.
#[derive(Debug)]
pub(super) struct Aside(Ticket, Waiting);

/// All of them, and the keys that they have written.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    last: u64,
    current: Ticket,
    open: Waiting,
    waiting: Map<Ticket, Waiting>,
    /// The last write of each key that is not yet where it must be.
    pending: Map<KeyHash, Lsn>,
}

impl Tickets {
    /// The ticket that the requests executed now will get.
    pub fn current(&self) -> Ticket {
        self.current
    }

    fn fresh(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// The current one waits for one more confirmation.
    pub fn wait(&mut self) {
        self.open.outstanding += 1;
    }

    /// The current one has written a key.
    pub fn wrote(&mut self, hash: KeyHash, lsn: Lsn) {
        self.open.keys.push((hash, lsn));
        self.pending.insert(hash, lsn);
    }

    /// The last write of a key, if it is not yet where it must be.
    pub fn pending(&self, hash: KeyHash) -> Option<Lsn> {
        if self.pending.is_empty() { None } else { self.pending.get(&hash).copied() }
    }

    /// Puts the current one aside, for one that nobody outside knows of.
    pub fn aside(&mut self) -> Aside {
        let aside = Aside(self.current, core::mem::take(&mut self.open));
        self.current = self.fresh();
        aside
    }

    /// Closes that one, and goes on with what was put aside.
    pub fn resume(&mut self, aside: Aside) {
        self.close();
        (self.current, self.open) = (aside.0, aside.1);
    }

    /// Closes the current one.
    pub fn close(&mut self) -> Closed {
        let ticket = self.current;
        let closed = core::mem::take(&mut self.open);
        if closed.outstanding > 0 {
            self.current = self.fresh();
            self.waiting.insert(ticket, closed);
            return Closed::Waits(ticket);
        }
        self.settle_keys(&closed.keys);
        if closed.unknown.is_empty() {
            return Closed::Free;
        }
        self.current = self.fresh();
        Closed::Decided(ticket, closed.unknown)
    }

    /// One confirmation came, or will never come (`unknown`). The unknown ones
    /// if it was the last.
    pub fn confirm(&mut self, ticket: Ticket, unknown: Option<u32>) -> Option<Vec<u32>> {
        if ticket == self.current {
            self.open.outstanding -= 1;
            self.open.unknown.extend(unknown);
            return None;
        }
        let waiting = self.waiting.get_mut(&ticket)?;
        waiting.outstanding -= 1;
        waiting.unknown.extend(unknown);
        if waiting.outstanding > 0 {
            return None;
        }
        let waiting = self.waiting.remove(&ticket)?;
        self.settle_keys(&waiting.keys);
        (!waiting.answered).then_some(waiting.unknown)
    }

    /// The batch is answered before its confirmations are there; until then its keys are
    /// not to be read. The requests of unknown outcome, these among them; none if it was
    /// answered before, or is not closed yet.
    pub fn answer_early(&mut self, ticket: Ticket, unknown: Vec<u32>) -> Option<Vec<u32>> {
        let waiting = self.waiting.get_mut(&ticket).filter(|waiting| !waiting.answered)?;
        waiting.answered = true;
        waiting.unknown.extend(unknown);
        Some(core::mem::take(&mut waiting.unknown))
    }

    fn settle_keys(&mut self, keys: &[(KeyHash, Lsn)]) {
        for (hash, lsn) in keys {
            if self.pending.get(hash) == Some(lsn) {
                self.pending.remove(hash);
            }
        }
    }

    /// Batches that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_keeps_its_ticket_and_its_outcome() {
        let mut tickets = Tickets::default();
        tickets.wait();
        tickets.wrote(KeyHash(1), Lsn(1));
        let before = tickets.current();
        let aside = tickets.aside();
        tickets.wait();
        tickets.wrote(KeyHash(2), Lsn(2));
        let own = tickets.current();
        tickets.resume(aside);
        assert_eq!(tickets.close(), Closed::Waits(before));
        assert_eq!(tickets.confirm(own, None), Some(Vec::new()));
        assert_eq!(
            (tickets.pending(KeyHash(1)), tickets.pending(KeyHash(2))),
            (Some(Lsn(1)), None)
        );
        assert_eq!(tickets.confirm(before, Some(7)), Some(alloc::vec![7]));
    }

    #[test]
    fn what_was_lost_before_the_batch_was_closed_is_told_all_the_same() {
        let mut tickets = Tickets::default();
        tickets.wait();
        let ticket = tickets.current();
        assert_eq!(tickets.confirm(ticket, Some(3)), None);
        assert_eq!(tickets.close(), Closed::Decided(ticket, alloc::vec![3]));
        assert_eq!(tickets.close(), Closed::Free);
    }
}
