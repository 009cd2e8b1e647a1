//! Who owns a key: the topology as a node tells it, and the choice it leads to.
//!
//! The partition is the key's hash by its top bits, the core by others
//! ([`KeyHash`]). A node without a cluster does not tell its seed, so all its
//! keys go to its one address.

use crate::connection::Endpoint;
use engine::{HashSeed, KeyHash};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Digits of a set's number.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Most partitions that a cluster can have.
const PARTITIONS_MAX: usize = 1 << 24;

/// What a node tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// It is alone.
    Single,
    /// It belongs to a cluster that has not begun.
    NotBegun,
    /// It belongs to a cluster.
    Cluster(Cluster),
}

/// A cluster at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// It grows with every change.
    pub revision: u64,
    /// The seed of the key hash.
    pub seed: u64,
    /// Nodes by slot.
    pub nodes: Vec<Option<Node>>,
    /// Slots of the copies that can be read, the primary first, by set.
    pub sets: Vec<Vec<u16>>,
    /// The set of each partition.
    pub owners: Vec<u32>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `HOST:PORT` for clients.
    pub address: String,
    /// The addresses of its cores, if they have some.
    pub cores: Vec<String>,
    /// It lives.
    pub up: bool,
}

#[derive(Deserialize)]
struct Told {
    revision: Option<u64>,
    seed: Option<String>,
    #[serde(default)]
    nodes: Vec<ToldNode>,
    #[serde(default)]
    sets: Vec<Vec<i32>>,
    #[serde(default)]
    width: usize,
    #[serde(default)]
    owners: String,
}

#[derive(Deserialize)]
struct ToldNode {
    #[serde(default)]
    slot: u16,
    #[serde(default)]
    address: String,
    #[serde(default)]
    core_ports: u16,
    #[serde(default)]
    cores: u16,
    #[serde(default)]
    up: bool,
}

impl Topology {
    /// Reads the answer to `topology`.
    pub fn parse(text: &[u8]) -> Result<Topology, String> {
        let told: Told = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let Some(revision) = told.revision else { return Ok(Topology::Single) };
        if told.owners.is_empty() || told.nodes.is_empty() {
            return Ok(Topology::NotBegun);
        }
        let seed = told.seed.as_deref().unwrap_or("").parse();
        let seed = seed.map_err(|_| "its seed is no number".to_owned())?;
        let mut nodes = Vec::new();
        for node in told.nodes {
            let slot = usize::from(node.slot);
            if nodes.len() <= slot {
                nodes.resize(slot + 1, None);
            }
            nodes[slot] = Some(node_of(node));
        }
        // What is being filled (written as minus the slot minus one) has not everything yet.
        let readable = |set: Vec<i32>| set.into_iter().filter_map(|at| u16::try_from(at).ok());
        let sets: Vec<Vec<u16>> =
            told.sets.into_iter().map(|set| readable(set).collect()).collect();
        let owners = owners(told.owners.as_bytes(), told.width, sets.len())?;
        Ok(Topology::Cluster(Cluster { revision, seed, nodes, sets, owners }))
    }
}

fn node_of(told: ToldNode) -> Node {
    let host = told.address.rsplit_once(':').map_or("", |(host, _)| host);
    let ports = (0..told.cores).filter_map(|core| told.core_ports.checked_add(core));
    let cores = match told.core_ports {
        0 => Vec::new(),
        _ => ports.map(|port| format!("{host}:{port}")).collect(),
    };
    Node { address: told.address, cores, up: told.up }
}

fn owners(text: &[u8], width: usize, sets: usize) -> Result<Vec<u32>, String> {
    if width == 0 || width > 4 || !text.len().is_multiple_of(width) {
        return Err(format!("its owners are not of {width} characters each"));
    }
    let partitions = text.len() / width;
    if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX {
        return Err(format!("{partitions} partitions are no power of two"));
    }
    let digit = |character: &u8| DIGITS.iter().position(|digit| digit == character);
    let number =
        |digits: &[u8]| digits.iter().try_fold(0, |number, at| Some(number * 64 + digit(at)?));
    let known = |digits: &[u8]| number(digits).filter(|set| *set < sets).map(|set| set as u32);
    let owners: Option<Vec<u32>> = text.chunks(width).map(known).collect();
    owners.ok_or_else(|| "a partition has a set that is not there".into())
}

/// A node and the connections to it.
#[derive(Debug)]
struct Way {
    general: Arc<Endpoint>,
    cores: Vec<Arc<Endpoint>>,
    up: bool,
}

impl Way {
    fn to(&self, hash: KeyHash) -> &Arc<Endpoint> {
        match self.cores.len() as u32 {
            0 => &self.general,
            cores => &self.cores[hash.core(cores) as usize],
        }
    }
}

/// How keys find their owners.
#[derive(Debug)]
pub struct Routing {
    cluster: Option<Cluster>,
    seed: HashSeed,
    ways: Vec<Option<Way>>,
    servers: Vec<Arc<Endpoint>>,
    /// Spreads what any node may take.
    next: AtomicUsize,
}

impl Routing {
    /// Prepares a topology. `endpoint` gives the connections to an address.
    pub fn new(
        topology: Topology,
        servers: Vec<Arc<Endpoint>>,
        mut endpoint: impl FnMut(&str) -> Arc<Endpoint>,
    ) -> Routing {
        let cluster = match topology {
            Topology::Cluster(cluster) => Some(cluster),
            Topology::Single | Topology::NotBegun => None,
        };
        let nodes = cluster.iter().flat_map(|cluster| &cluster.nodes);
        let ways = nodes
            .map(|node| {
                node.as_ref().map(|node| Way {
                    general: endpoint(&node.address),
                    cores: node.cores.iter().map(|core| endpoint(core)).collect(),
                    up: node.up,
                })
            })
            .collect();
        let seed = HashSeed::new(cluster.as_ref().map_or(0, |cluster| cluster.seed));
        Routing { cluster, seed, ways, servers, next: 0.into() }
    }

    /// The cluster's revision and seed; none for a node alone.
    pub fn revision(&self) -> Option<(u64, u64)> {
        self.cluster.as_ref().map(|cluster| (cluster.revision, cluster.seed))
    }

    /// The connections to nodes that the cluster has given up.
    pub fn down(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let down = self.ways.iter().flatten().filter(|way| !way.up);
        down.flat_map(|way| way.cores.iter().chain([&way.general]))
    }

    /// Where a request goes, and whether that is not where it belongs: the
    /// primary's core, an in-sync copy's, any node that lives, any that was
    /// configured. What failed a moment ago comes last.
    pub fn pick(&self, key: Option<&[u8]>, attempt: u32) -> (&Arc<Endpoint>, bool) {
        let owner = key.and_then(|key| self.owner(key));
        if let Some((endpoint, _)) = &owner
            && endpoint.is_well()
        {
            return (endpoint, false);
        }
        let copies = owner.as_ref().map_or(&[][..], |(_, copies)| copies);
        let hash = key.map(|key| KeyHash::of(key, &self.seed));
        let copies = copies
            .iter()
            .filter_map(|slot| Some(self.way(*slot).filter(|way| way.up)?.to(hash?)))
            .find(|endpoint| endpoint.is_well());
        if let Some(endpoint) = copies {
            return (endpoint, true);
        }
        let turn = self.next.fetch_add(1, Relaxed);
        let any: Vec<_> = self.any(turn).collect();
        if let Some(endpoint) = any.iter().find(|endpoint| endpoint.is_well()) {
            return (endpoint, owner.is_some());
        }
        // Everything failed a moment ago.
        match owner {
            Some((endpoint, _)) if attempt.is_multiple_of(2) => (endpoint, false),
            _ => (any[turn % any.len()], owner.is_some()),
        }
    }

    /// The owning core, and the slots of all copies.
    fn owner(&self, key: &[u8]) -> Option<(&Arc<Endpoint>, &[u16])> {
        let cluster = self.cluster.as_ref()?;
        let hash = KeyHash::of(key, &self.seed);
        let partition = hash.partition(cluster.owners.len().trailing_zeros());
        let set = cluster.owners[partition as usize];
        let copies = cluster.sets[set as usize].as_slice();
        let way = copies.iter().find_map(|slot| self.way(*slot).filter(|way| way.up))?;
        Some((way.to(hash), copies))
    }

    fn way(&self, slot: u16) -> Option<&Way> {
        self.ways.get(usize::from(slot))?.as_ref()
    }

    /// Nodes that live, then those that were configured: by these a cluster is
    /// found again that has moved away altogether. Each time from another one on.
    fn any(&self, turn: usize) -> impl Iterator<Item = &Arc<Endpoint>> {
        let up: Vec<_> = self.ways.iter().flatten().filter(|way| way.up).collect();
        let turned = move |all: usize, at: usize| (at + turn) % all;
        let nodes = up.len();
        let up = (0..nodes).map(move |at| &up[turned(nodes, at)].general);
        let servers = self.servers.len();
        up.chain((0..servers).map(move |at| &self.servers[turned(servers, at)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = r#"{"revision":11,"name":"x","partitions":4,"copies":2,
        "seed":"18177503685220547208","nodes":[
        {"slot":0,"name":"a","address":"[::1]:1","core_ports":65535,"cores":2,"zone":"","up":true,"draining":false},
        {"slot":2,"name":"b","address":"h:2","core_ports":0,"cores":4,"zone":"","up":false,"draining":false}],
        "sets":[[0,2],[2,-1]],"width":1,"owners":"ABBA"}"#;

    #[test]
    fn a_cluster_is_read() {
        let Topology::Cluster(cluster) = Topology::parse(THREE.as_bytes()).unwrap() else {
            panic!("it is one");
        };
        assert_eq!((cluster.revision, cluster.seed), (11, 18_177_503_685_220_547_208));
        assert_eq!(cluster.owners, [0, 1, 1, 0]);
        assert_eq!(cluster.sets, [vec![0, 2], vec![2]]);
        let a = cluster.nodes[0].as_ref().unwrap();
        assert_eq!(a.cores, ["[::1]:65535"], "the second would be no port");
        assert!(cluster.nodes[1].is_none());
        assert!(cluster.nodes[2].as_ref().unwrap().cores.is_empty());
    }

    #[test]
    fn a_node_alone_and_a_cluster_that_has_not_begun() {
        let single = r#"{"epoch":1,"partitions":65536,"nodes":[{"host":"h","port":1,"cores":2}]}"#;
        assert_eq!(Topology::parse(single.as_bytes()), Ok(Topology::Single));
        let none = r#"{"revision":0,"name":"","partitions":0,"copies":0,"seed":"0","nodes":[],"sets":[],"width":1,"owners":""}"#;
        assert_eq!(Topology::parse(none.as_bytes()), Ok(Topology::NotBegun));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (from, to) in [
            ("ABBA", "ABB"),
            ("ABBA", "ABBC"),
            ("ABBA", "AB A"),
            (r#""width":1"#, r#""width":0"#),
            (r#""width":1"#, r#""width":3"#),
            ("18177503685220547208", "x"),
            (r#""sets""#, "sets"),
        ] {
            assert!(Topology::parse(THREE.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
