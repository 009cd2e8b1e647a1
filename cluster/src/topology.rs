//! The topology: who holds each partition now.
//!
//! It is a value that only [`Command`]s change, one revision each; see
//! [`change`](crate::change). Every node that has applied the same commands has
//! the same topology, bit for bit: the coordinator orders the commands, the
//! nodes and clients follow them.
//!
//! ```text
//! revision | name | ring | copies | seed
//! members   slot 0: a, slot 1: b, slot 2: free, ...
//! owners    partition 0: epoch 7, [1, 0], in sync 0b11
//!           partition 1: epoch 3, [0, 3], in sync 0b01      (3 is still being filled)
//!           ...
//! ```
//!
//! [`Command`]: crate::change::Command

use crate::owners::OwnersTable;
use crate::ring::{Partition, Ring};
use crate::time::Timing;
use alloc::{format, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Most copies of a partition, one that is being moved included.
pub const COPIES_MAX: usize = 4;
/// Most copies that a cluster can ask for: one more is there while it moves.
pub const COPIES_WANTED_MAX: u8 = COPIES_MAX as u8 - 1;
/// Most nodes of a cluster.
pub const MEMBERS_MAX: usize = 4096;

/// A node's number in this topology: its slot in [`Topology::members`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct NodeIndex(pub u16);

/// The fencing token of a partition's ownership. It only grows; a message with a
/// lower one comes from a past owner.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u32);

/// Counts the changes of the topology. It only grows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

/// One life of a node's process: drawn at its start, larger than those before it
/// on that machine (the time of the start will do). Another one has lost what the
/// one before held in memory.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// What a node tells of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Introduction {
    /// Name, unique in the cluster.
    pub name: String,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// `host:port` of the client listener; `host|ip|port` if its user told the
    /// address beside the name.
    pub client_address: String,
    /// `host:port` where peers reach it.
    pub peer_address: String,
    /// Zone, for spreading copies; empty if there are none.
    pub zone: String,
    /// Share of the partitions relative to other nodes, in percent.
    pub weight: u16,
    /// Data cores, so that peers and clients can pick the owning one.
    pub cores: u16,
    /// Core *i* takes clients at this port + *i*; 0 if it has no ports of its own.
    pub core_ports: u16,
}

impl Introduction {
    /// Host, address (empty if it was not told) and port of the client listener.
    pub fn client_parts(&self) -> Option<(&str, &str, &str)> {
        if let Some((host, rest)) = self.client_address.split_once('|') {
            let (ip, port) = rest.split_once('|')?;
            return Some((host, ip, port));
        }
        let (host, port) = self.client_address.rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']'), "", port))
    }

    /// What to connect to, as `host:port`.
    pub fn client_host_port(&self) -> String {
        let Some((host, ip, port)) = self.client_parts() else {
            return self.client_address.clone();
        };
        let host = if ip.is_empty() { host } else { ip };
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it told of itself.
    pub node: Introduction,
    /// It is alive, as far as the keeper knows.
    pub up: bool,
    /// It is about to end, to come back soon: it hands over what it leads, keeps
    /// its copies, and is made primary of nothing.
    pub leaving: bool,
    /// It is being emptied: it gets no partitions, and gives away those it has.
    pub draining: bool,
    /// The last revision that took something from it which it might still
    /// believe to have. It gets no lease before it has confirmed this revision.
    pub fence: Revision,
}

/// Whose keeper grants leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// Of the coordinator's leader beside it; grows from one to the next.
    pub term: u64,
    /// The node.
    pub name: String,
    /// This life of it.
    pub incarnation: Incarnation,
    /// No lease that it granted, or that may still run from before, is longer.
    pub lease_ms: u64,
    /// Nor did any of these keepers grant for longer after a quorum knew it.
    pub leadership_ms: u64,
}

impl Keeping {
    /// A keeper by these settings.
    pub fn new(term: u64, name: String, incarnation: Incarnation, timing: &Timing) -> Keeping {
        let Timing { lease_ms, leadership_ms, .. } = *timing;
        Keeping { term, name, incarnation, lease_ms, leadership_ms }
    }
}

/// Who holds a partition: the primary first, then the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owners {
    /// Fencing token.
    pub epoch: Epoch,
    /// The epoch in which the partition began empty. What a node still holds
    /// from before is of no use to anybody.
    pub born: Epoch,
    pub(crate) copies: [NodeIndex; COPIES_MAX],
    pub(crate) count: u8,
    /// Bit *i*: copy *i* has every acknowledged write.
    pub(crate) in_sync: u8,
}

impl Owners {
    /// No node owns the partition.
    pub const NONE: Owners = Owners {
        epoch: Epoch(0),
        born: Epoch(0),
        copies: [NodeIndex(0); COPIES_MAX],
        count: 0,
        in_sync: 0,
    };

    /// The node that takes writes, if the partition has been given to one.
    #[inline]
    pub fn primary(&self) -> Option<NodeIndex> {
        self.copies().first().copied()
    }

    /// Primary and replicas, those that are still being filled included.
    #[inline]
    pub fn copies(&self) -> &[NodeIndex] {
        &self.copies[..usize::from(self.count)]
    }

    /// The replicas, and whether each is in sync.
    #[inline]
    pub fn replicas(&self) -> impl Iterator<Item = (NodeIndex, bool)> + '_ {
        (1..usize::from(self.count)).map(|at| (self.copies[at], self.in_sync & 1 << at != 0))
    }

    /// Where the node stands in the copies.
    #[inline]
    pub fn position(&self, node: NodeIndex) -> Option<usize> {
        self.copies().iter().position(|copy| *copy == node)
    }

    /// An in-sync replica becomes the primary. Who was it before; none if the node is
    /// no such replica.
    pub(crate) fn lead(&mut self, node: NodeIndex) -> Option<NodeIndex> {
        let is_replica = |copy: &usize| *copy > 0 && self.in_sync & 1 << copy != 0;
        let copy = self.position(node).filter(is_replica)?;
        let before = self.copies[0];
        self.promote(copy);
        Some(before)
    }

    /// Whether the node has every acknowledged write.
    #[inline]
    pub fn is_in_sync(&self, node: NodeIndex) -> bool {
        self.position(node).is_some_and(|at| self.in_sync & 1 << at != 0)
    }

    /// Copies that have every acknowledged write.
    pub fn in_sync(&self) -> u32 {
        self.in_sync.count_ones()
    }

    pub(crate) fn set_in_sync(&mut self, at: usize, on: bool) {
        self.in_sync = self.in_sync & !(1 << at) | u8::from(on) << at;
    }

    /// Appends a copy that is to be filled; false if there is no room or it is
    /// one already.
    pub(crate) fn add(&mut self, node: NodeIndex) -> bool {
        let at = usize::from(self.count);
        if at == COPIES_MAX || self.position(node).is_some() {
            return false;
        }
        self.copies[at] = node;
        self.count += 1;
        self.set_in_sync(at, false);
        true
    }

    /// Takes the copy at `at` out.
    pub(crate) fn remove(&mut self, at: usize) {
        let below = self.in_sync & ((1 << at) - 1);
        let above = self.in_sync >> (at + 1) << at;
        self.in_sync = below | above;
        self.copies.copy_within(at + 1..usize::from(self.count), at);
        self.count -= 1;
        self.copies[usize::from(self.count)] = NodeIndex(0);
    }

    /// Makes the copy at `at` the primary, under a new epoch; the old one
    /// becomes the first replica.
    pub(crate) fn promote(&mut self, at: usize) {
        let node = self.copies[at];
        let in_sync = self.in_sync & 1 << at != 0;
        self.copies.copy_within(0..at, 1);
        self.copies[0] = node;
        let above = self.in_sync & (u8::MAX << at << 1);
        let below = self.in_sync & ((1 << at) - 1);
        self.in_sync = above | below << 1 | u8::from(in_sync);
        self.epoch.0 += 1;
    }
}

/// Who holds each partition, at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    pub(crate) revision: Revision,
    pub(crate) name: String,
    pub(crate) ring: Ring,
    pub(crate) copies: u8,
    pub(crate) seed: u64,
    pub(crate) members: Vec<Option<Member>>,
    pub(crate) owners: OwnersTable,
    /// The latest keeper: nobody else has granted a lease since it said so.
    pub(crate) keeping: Option<Keeping>,
    /// A keeper said that up to there everything is settled.
    pub(crate) settled: Revision,
    /// When a life ended that the topology no longer knows.
    pub(crate) forgot: Revision,
}

impl Topology {
    /// Grows with every change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The cluster's name; empty before it was created.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ring it is cut by.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// Copies that every partition should have, the primary included.
    pub fn copies_wanted(&self) -> u8 {
        self.copies
    }

    /// Seed of the key hash, the same on every node and for smart clients.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All slots for nodes; a node that left leaves an empty one.
    pub fn members(&self) -> &[Option<Member>] {
        &self.members
    }

    /// The nodes, with their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &Member)> {
        self.members
            .iter()
            .enumerate()
            .filter_map(|(slot, member)| Some((NodeIndex(slot as u16), member.as_ref()?)))
    }

    /// The latest keeper.
    pub fn keeping(&self) -> Option<&Keeping> {
        self.keeping.as_ref()
    }

    /// Up to there everything is settled, as a keeper has said.
    pub fn settled(&self) -> Revision {
        self.settled
    }

    /// The first revision by which everything that a silent or forgotten process
    /// might believe is known to be settled, once a keeper says so.
    pub fn unsettled(&self) -> Revision {
        let down = self.nodes().filter(|(_, member)| !member.up);
        down.map(|(_, member)| member.fence).fold(self.forgot, Revision::max)
    }

    /// A life that is not in the topology any more may still hold a lease.
    pub fn has_ghosts(&self) -> bool {
        self.forgot > self.settled
    }

    /// A node by its number.
    pub fn member(&self, node: NodeIndex) -> Option<&Member> {
        self.members.get(usize::from(node.0))?.as_ref()
    }

    /// The data cores of a node, 1 if it is not there.
    pub fn cores_of(&self, node: NodeIndex) -> u16 {
        self.member(node).map_or(1, |member| member.node.cores.max(1))
    }

    /// A node by its name.
    pub fn named(&self, name: &str) -> Option<(NodeIndex, &Member)> {
        self.nodes().find(|(_, member)| member.node.name == name)
    }

    /// Whether the node is there and alive.
    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.member(node).is_some_and(|member| member.up)
    }

    /// Whether some partition's copy there is in sync.
    pub fn is_in_sync_anywhere(&self, node: NodeIndex) -> bool {
        self.owners.iter().any(|owners| owners.is_in_sync(node))
    }

    /// By number: whether a node is there and alive.
    pub(crate) fn up_by_number(&self) -> Vec<bool> {
        self.members.iter().map(|member| member.as_ref().is_some_and(|m| m.up)).collect()
    }

    /// By number: whether a node holds copies.
    pub fn holders(&self) -> Vec<bool> {
        let mut holders = alloc::vec![false; self.members.len()];
        for node in self.owners.iter().flat_map(Owners::copies) {
            holders[usize::from(node.0)] = true;
        }
        holders
    }

    /// Whether every partition has as many in-sync copies on nodes that are up as it
    /// should have, and there are partitions at all.
    pub fn is_whole(&self) -> bool {
        let is_up = self.up_by_number();
        let live = |owners: &Owners| {
            let copies = owners.copies().iter();
            copies.filter(|node| is_up[usize::from(node.0)] && owners.is_in_sync(**node)).count()
        };
        self.owners.len() > 0
            && self.owners.iter().all(|owners| live(owners) >= usize::from(self.copies))
    }

    /// Who holds a partition.
    #[inline]
    pub fn owners(&self, partition: Partition) -> &Owners {
        &self.owners[partition.0 as usize]
    }

    /// All partitions in order.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (Partition, &Owners)> {
        self.owners.iter().enumerate().map(|(at, owners)| (Partition(at as u32), owners))
    }

    /// The partitions whose owners are not those of `old`, with the owners then and
    /// now. Cheap where few changed: see [`OwnersTable`].
    pub fn changed<'a>(
        &'a self,
        old: &'a Topology,
    ) -> impl Iterator<Item = (Partition, &'a Owners, &'a Owners)> + 'a {
        self.owners.changed(&old.owners)
    }

    /// The whole topology as bytes, some 8 a partition and 64 a node.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a topology has no part that cannot be written")
    }

    /// What [`Topology::encode`] wrote; `None` if these are other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Topology> {
        let topology: Topology = postcard::from_bytes(bytes).ok()?;
        let members = topology.members.len();
        let fits = topology.owners.len() == topology.ring.partitions() as usize
            || topology.revision == Revision(0);
        let known = |owners: &Owners| {
            usize::from(owners.count) <= COPIES_MAX
                && owners.copies().iter().all(|node| usize::from(node.0) < members)
        };
        (fits && topology.owners.iter().all(known)).then_some(topology)
    }
}
