//! Where the copies of hot keys are, for `/hot`.

use super::control::Shared;
use super::core::CorePeering;
use cluster::replication::CopyState;
use cluster::topology::NodeIndex;
use engine::KeyHash;
use net::core::Core;
use serde_json::{Value, json};

/// What one core knows of a key that is hot on it.
#[derive(Debug)]
pub struct Placed {
    hash: KeyHash,
    off: bool,
    /// It is kept for the other cores, and shown to them at this moment.
    kept: bool,
    shown: bool,
    /// Another node leads it, and this core wants a copy.
    copy: Option<CopyState>,
    /// Nodes that this core has granted one.
    holders: Vec<NodeIndex>,
    leads: bool,
}

/// Keys of other cores that a core can answer.
#[derive(Debug, Default)]
pub struct Held(Vec<KeyHash>);

/// Asks a core, on its thread; `None` if its node belongs to no cluster.
pub fn placed(core: &mut Core, keys: &[KeyHash]) -> Option<(Vec<Placed>, Held)> {
    let peering = CorePeering::of(&mut core.peers)?;
    let (hot, replicator) = peering.parts();
    let placed = keys.iter().map(|hash| {
        let primary =
            replicator.topology().owners(replicator.topology().ring().of(*hash)).primary();
        Placed {
            hash: *hash,
            off: hot.is_off(),
            kept: hot.keeps(*hash),
            shown: hot.shows(*hash),
            copy: replicator.copy_state(*hash),
            holders: replicator.holders(*hash).map(|peer| peer.node).collect(),
            leads: primary.is_some() && primary == replicator.me(),
        }
    });
    Some((placed.collect(), Held(hot.held_keys().collect())))
}

impl Placed {
    /// As it is shown: the cores of this node that answer reads of the key, the
    /// nodes beside the key's own that do, and if there is nobody else, why.
    pub fn json(&self, held: &[Held], shared: &Shared) -> Value {
        let cores = held.len() as u32;
        let owner = self.hash.core(cores);
        let others = (0..cores).filter(|core| held[*core as usize].0.contains(&self.hash));
        let others: Vec<u32> = others.filter(|core| *core != owner).collect();
        let topology = shared.topology();
        let name = |node: &NodeIndex| {
            topology.member(*node).map_or_else(String::new, |member| member.node.name.clone())
        };
        let mut nodes: Vec<String> = self.holders.iter().map(name).collect();
        if self.copy == Some(CopyState::Held) {
            nodes.extend(shared.me().as_ref().map(name));
        }
        nodes.sort_unstable();
        nodes.dedup();
        let none = others.is_empty() && nodes.is_empty();
        let why = || match self.copy {
            _ if self.off => "copies are off".to_owned(),
            Some(CopyState::Denied(why)) => format!("refused by its primary: {why}"),
            Some(CopyState::Asked) => "its primary was asked".to_owned(),
            _ if self.shown => "no other core was asked for it".to_owned(),
            _ if self.kept => "it may not be read here now, or its value is too long".to_owned(),
            _ if cores == 1 && self.leads => "no other node finds it hot".to_owned(),
            _ => "not hot enough".to_owned(),
        };
        json!({
            "cores": std::iter::once(owner).chain(others).collect::<Vec<u32>>(),
            "nodes": nodes,
            "none": none.then(why),
        })
    }
}
