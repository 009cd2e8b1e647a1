//! A replica's side toward one core of a primary: what came from there.

use crate::replication::Lsn;
use crate::ring::Partition;
use crate::topology::{Incarnation, Revision};
use alloc::boxed::Box;
use alloc::collections::VecDeque;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Source {
    pub incarnation: Incarnation,
    /// Everything up to here is stored.
    pub applied: Lsn,
    /// Stored, and perhaps not yet everywhere: should the primary change, the
    /// new one is asked about these keys.
    pub uncertain: VecDeque<(Lsn, Partition, Box<[u8]>)>,
    /// The fill under way.
    pub filling: Option<u32>,
    /// The primary was told what this node held, as of this topology.
    pub told: Revision,
}

impl Source {
    pub fn new(incarnation: Incarnation) -> Source {
        Source {
            incarnation,
            applied: Lsn(0),
            uncertain: VecDeque::new(),
            filling: None,
            told: Revision(0),
        }
    }

    /// Everything up to `lsn` is where it must be.
    pub fn settle(&mut self, lsn: Lsn) {
        while self.uncertain.front().is_some_and(|entry| entry.0 <= lsn) {
            self.uncertain.pop_front();
        }
    }
}
