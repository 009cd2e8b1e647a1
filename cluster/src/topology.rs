//! The topology: who owns each partition now.
//!
//! It is an immutable value with a revision. Cores and clients hold one, compare
//! revisions and replace it whole; nobody edits it in place.

use crate::ring::{Partition, Ring};
use alloc::{string::String, vec::Vec};

/// Most copies of a partition.
pub const COPIES_MAX: usize = 4;

/// A node's number in this topology: the index of [`Topology::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u16);

/// The fencing token of a partition's ownership. It only grows; a message with a
/// lower one comes from a past owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// A node as clients and peers know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name, unique in the cluster.
    pub name: String,
    /// `host:port` of the client listener.
    pub address: String,
    /// Zone, for spreading copies; empty if there are none.
    pub zone: String,
    /// Share of the partitions relative to other nodes, in percent.
    pub weight: u16,
    /// Data cores, so that clients can pick the owning one.
    pub cores: u16,
}

/// Who holds a partition: the primary first, then the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    /// Fencing token.
    pub epoch: Epoch,
    copies: [NodeIndex; COPIES_MAX],
    count: u8,
}

impl Owners {
    /// The owners in order; `None` if there is none, too many, or one twice.
    pub fn new(epoch: Epoch, nodes: &[NodeIndex]) -> Option<Owners> {
        let repeated = nodes.iter().enumerate().any(|(at, node)| nodes[..at].contains(node));
        if nodes.is_empty() || nodes.len() > COPIES_MAX || repeated {
            return None;
        }
        let mut copies = [NodeIndex(0); COPIES_MAX];
        copies[..nodes.len()].copy_from_slice(nodes);
        Some(Owners { epoch, copies, count: nodes.len() as u8 })
    }

    /// The node that takes writes.
    pub fn primary(&self) -> NodeIndex {
        self.copies[0]
    }

    /// Primary and replicas.
    pub fn copies(&self) -> &[NodeIndex] {
        &self.copies[..usize::from(self.count)]
    }
}

/// Why a table is no topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// It has another number of rows than the ring has partitions.
    Rows {
        /// Rows given.
        rows: usize,
        /// Partitions of the ring.
        partitions: u32,
    },
    /// A row names a node that is not listed.
    UnknownNode {
        /// The row.
        partition: Partition,
        /// The node it names.
        node: NodeIndex,
    },
}

/// Who owns each partition, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    revision: u64,
    ring: Ring,
    nodes: Vec<Node>,
    owners: Vec<Owners>,
}

impl Topology {
    /// Checks and builds a topology.
    pub fn new(
        revision: u64,
        ring: Ring,
        nodes: Vec<Node>,
        owners: Vec<Owners>,
    ) -> Result<Topology, TopologyError> {
        if owners.len() != ring.partitions() as usize {
            return Err(TopologyError::Rows { rows: owners.len(), partitions: ring.partitions() });
        }
        for (row, owner) in owners.iter().enumerate() {
            if let Some(&node) =
                owner.copies().iter().find(|node| usize::from(node.0) >= nodes.len())
            {
                return Err(TopologyError::UnknownNode { partition: Partition(row as u32), node });
            }
        }
        Ok(Topology { revision, ring, nodes, owners })
    }

    /// The topology of a node that is alone: it owns everything.
    pub fn single(node: Node) -> Topology {
        // One partition is enough where nothing can move.
        let ring = Ring::new(0).expect("0 bits are allowed");
        let owners = Owners::new(Epoch(1), &[NodeIndex(0)]).expect("one owner");
        Topology { revision: 1, ring, nodes: alloc::vec![node], owners: alloc::vec![owners] }
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The ring it is cut by.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Who holds a partition.
    pub fn owners(&self, partition: Partition) -> &Owners {
        &self.owners[partition.0 as usize]
    }

    /// Partitions of which `node` is primary.
    pub fn primaries_of(&self, node: NodeIndex) -> usize {
        self.owners.iter().filter(|owners| owners.primary() == node).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::KeyHash;

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            address: "127.0.0.1:11211".into(),
            zone: String::new(),
            weight: 100,
            cores: 2,
        }
    }

    #[test]
    fn a_single_node_owns_every_key() {
        let topology = Topology::single(node("a"));
        for hash in [0, 1 << 40, u64::MAX] {
            let owners = topology.owners(topology.ring().of(KeyHash(hash)));
            assert_eq!(owners.primary(), NodeIndex(0));
        }
        assert_eq!(topology.primaries_of(NodeIndex(0)), 1);
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused() {
        let ring = Ring::new(2).unwrap();
        let one = Owners::new(Epoch(1), &[NodeIndex(0)]).unwrap();
        let rows = |rows| Topology::new(1, ring, alloc::vec![node("a")], rows);
        assert_eq!(rows(alloc::vec![one; 3]), Err(TopologyError::Rows { rows: 3, partitions: 4 }));
        let stranger = Owners::new(Epoch(1), &[NodeIndex(7)]).unwrap();
        assert_eq!(
            rows(alloc::vec![one, one, stranger, one]),
            Err(TopologyError::UnknownNode { partition: Partition(2), node: NodeIndex(7) })
        );
        assert!(rows(alloc::vec![one; 4]).is_ok());
    }

    #[test]
    fn copies_are_distinct_and_bounded() {
        let [a, b] = [NodeIndex(0), NodeIndex(1)];
        assert_eq!(Owners::new(Epoch(1), &[]), None);
        assert_eq!(Owners::new(Epoch(1), &[a, b, a]), None);
        assert_eq!(Owners::new(Epoch(1), &[a; 5]), None);
        let owners = Owners::new(Epoch(3), &[b, a]).unwrap();
        assert_eq!((owners.primary(), owners.copies()), (b, &[b, a][..]));
    }
}
