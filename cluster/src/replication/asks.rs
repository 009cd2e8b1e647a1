//! Keys whose state only the primary knows for certain.
//!
//! What a primary sent last may not have reached every replica when another one
//! took over. Who may differ asks the new primary, which writes the key's state
//! into its log once more. So the answer comes as a write does, in order with all
//! others. A question stays open until then, over links and primaries.

use super::Peer;
use crate::map::Map;
use crate::ring::Partition;
use crate::topology::{Epoch, NodeIndex, Topology};
use alloc::boxed::Box;
use alloc::vec::Vec;
use engine::KeyHash;

#[derive(Debug)]
struct Ask {
    partition: Partition,
    key: Box<[u8]>,
    /// Over the link to whom, in which epoch.
    sent: Option<(Peer, Epoch)>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: Map<KeyHash, Ask>,
    /// Of these, not sent.
    unsent: usize,
}

impl Asks {
    /// Whether the key's state is in question.
    #[inline]
    pub fn contains(&self, hash: KeyHash) -> bool {
        !self.open.is_empty() && self.open.contains_key(&hash)
    }

    /// Asks about a key.
    pub fn add(&mut self, partition: Partition, hash: KeyHash, key: Box<[u8]>) {
        self.open.insert(hash, Ask { partition, key, sent: None });
        self.count();
    }

    /// The key's state came.
    pub fn answered(&mut self, hash: KeyHash) {
        if !self.open.is_empty() && self.open.remove(&hash).is_some() {
            self.count();
        }
    }

    /// All questions about some keys are void; these.
    pub fn take(&mut self, of: impl Fn(Partition, KeyHash) -> bool) -> Vec<(KeyHash, Box<[u8]>)> {
        if self.open.is_empty() {
            return Vec::new();
        }
        let taken = self.open.extract_if(|hash, ask| of(ask.partition, *hash));
        let mut taken: Vec<_> = taken.map(|(hash, ask)| (hash, ask.key)).collect();
        taken.sort_unstable();
        self.count();
        taken
    }

    /// What was asked over the link to a peer is to be asked again.
    pub fn reopen(&mut self, peer: Peer) {
        for ask in self.open.values_mut() {
            ask.sent = ask.sent.filter(|(to, _)| *to != peer);
        }
        self.count();
    }

    /// What was asked of past primaries is to be asked again.
    pub fn follow(&mut self, topology: &Topology) {
        for ask in self.open.values_mut() {
            let epoch = topology.owners(ask.partition).epoch;
            ask.sent = ask.sent.filter(|(_, asked)| *asked == epoch);
        }
        self.count();
    }

    /// Whether something is to be asked of a node.
    pub fn wants(&self, node: NodeIndex, topology: &Topology) -> bool {
        let to = |ask: &Ask| topology.owners(ask.partition).primary() == Some(node);
        self.unsent > 0 && self.open.values().any(|ask| ask.sent.is_none() && to(ask))
    }

    /// Questions for one core, among so many, of a node.
    pub fn send(
        &mut self,
        peer: Peer,
        cores: u32,
        topology: &Topology,
        mut each: impl FnMut(Partition, &[u8]),
    ) {
        if self.unsent == 0 {
            return;
        }
        let mut due: Vec<KeyHash> = Vec::new();
        for (hash, ask) in &self.open {
            let primary = topology.owners(ask.partition).primary();
            let goes = primary == Some(peer.node) && hash.core(cores) == u32::from(peer.core);
            if goes && ask.sent.is_none() {
                due.push(*hash);
            }
        }
        due.sort_unstable();
        for hash in due {
            let Some(ask) = self.open.get_mut(&hash) else { continue };
            ask.sent = Some((peer, topology.owners(ask.partition).epoch));
            each(ask.partition, &ask.key);
        }
        self.count();
    }

    fn count(&mut self) {
        self.unsent = self.open.values().filter(|ask| ask.sent.is_none()).count();
    }
}
