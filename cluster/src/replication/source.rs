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

/// A fill, as far as it came. It goes on over the next link, should one break.
#[derive(Debug)]
pub(super) struct Filling {
    pub number: u32,
    /// The partitions that it covers, in order; nothing of them has been lost since.
    pub covers: Vec<Partition>,
    /// What is stored of it.
    pub place: u64,
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
    /// The last fill that began.
    pub filling: Option<Filling>,
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

    /// The last fill that began, if it is `fill`.
    pub fn filling(&mut self, fill: u32) -> Option<&mut Filling> {
        self.filling.as_mut().filter(|filling| filling.number == fill)
    }

    /// Whether the fill under way covers a partition.
    pub fn covers(&self, partition: Partition) -> bool {
        let covers = |filling: &Filling| filling.covers.binary_search(&partition).is_ok();
        self.filling.as_ref().is_some_and(covers)
    }

    /// What it has brought of a partition is lost.
    pub fn uncover(&mut self, partition: Partition) {
        if let Some(filling) = &mut self.filling
            && let Ok(at) = filling.covers.binary_search(&partition)
        {
            filling.covers.remove(at);
        }
    }
}
