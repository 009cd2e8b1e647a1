//! A replica's side toward one core of a primary: what came from there.

use crate::replication::Lsn;
use crate::ring::Partition;
use crate::topology::{Incarnation, Revision};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use engine::KeyHash;

/// A write that is perhaps not everywhere.
#[derive(Debug)]
pub(super) struct Uncertain {
    pub lsn: Lsn,
    pub partition: Partition,
    pub hash: KeyHash,
    pub key: Box<[u8]>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Source {
    pub incarnation: Incarnation,
    /// Everything up to here is stored.
    pub applied: Lsn,
    /// The last mark on this link.
    pub marked: Option<Lsn>,
    /// Stored, and perhaps not yet everywhere: should the primary change, the
    /// new one is asked about these keys, and until then they are read there.
    pub uncertain: VecDeque<Uncertain>,
    /// The fill under way, and what it covers.
    pub filling: Option<(u32, Vec<Partition>)>,
    /// The primary was told what this node held, as of this topology.
    pub told: Revision,
}

impl Source {
    pub fn new(incarnation: Incarnation) -> Source {
        Source {
            incarnation,
            applied: Lsn(0),
            marked: None,
            uncertain: VecDeque::new(),
            filling: None,
            told: Revision(0),
        }
    }

    /// Whether the last fill that began on this link is `fill`.
    pub fn is_filling(&self, fill: u32) -> bool {
        self.filling.as_ref().is_some_and(|(number, _)| *number == fill)
    }
}
