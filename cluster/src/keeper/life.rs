//! A life of a node: what its keeper has heard of it, and granted it.

use crate::time::Millis;
use crate::topology::{Incarnation, NodeIndex, Revision};

/// One life of a node, as this keeper knows it.
#[derive(Debug)]
pub(super) struct Life {
    pub incarnation: Incarnation,
    /// Its slot, while the topology has this life.
    pub node: Option<NodeIndex>,
    pub up: bool,
    pub fence: Revision,
    /// When it was first seen here, or last seen to change between up and down.
    pub since: Millis,
    /// When it last beat.
    pub beat_at: Option<Millis>,
    /// When it last beat or changed between up and down, by the clock that stands still
    /// while the keeper does not run.
    pub heard_at: Millis,
    pub healthy: bool,
    pub confirmed: Revision,
    /// The latest revision seen up to which it had nothing to confirm.
    pub clear: Revision,
    /// A lease that was granted here has surely ended then.
    pub lease_until: Millis,
    /// Nobody listens at its address.
    pub refused: bool,
    pub suspected: bool,
    /// When something was last proposed, or probed, about it.
    pub asked_at: Option<Millis>,
    pub probed_at: Option<Millis>,
}

impl Life {
    pub fn new(incarnation: Incarnation, now: Millis, awake: Millis) -> Life {
        Life {
            incarnation,
            node: None,
            up: true,
            fence: Revision::default(),
            since: now,
            beat_at: None,
            heard_at: awake,
            healthy: true,
            confirmed: Revision::default(),
            clear: Revision::default(),
            lease_until: Millis(0),
            refused: false,
            suspected: false,
            asked_at: None,
            probed_at: None,
        }
    }

    /// Revisions up to this one it cannot act against.
    pub fn settled(&self, now: Millis, latest: Revision) -> Revision {
        if now >= self.lease_until { latest } else { self.clear.max(self.confirmed).min(latest) }
    }

    pub fn note_clear(&mut self, latest: Revision) {
        if self.node.is_some() && self.confirmed >= self.fence {
            self.clear = latest;
        }
    }
}
