//! What clients and operators see of the cluster.

use super::control::Shared;
use cluster::topology::Topology;
use cluster::view;
use net::core::{ClusterText, LazyText};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Pieces of the ring that are shown one by one.
const ARCS: usize = 64;

/// Has clients told of this topology, and of the addresses of its nodes as soon as
/// they are known.
pub fn publish(shared: &Arc<Shared>, topology: &Arc<Topology>) {
    set_text(shared, topology);
    let hosts = topology.nodes().filter_map(|(_, member)| match member.node.client_parts()? {
        (host, "", _) => Some(host.to_owned()),
        _ => None,
    });
    let due = shared.names.due(hosts);
    if due.is_empty() {
        return;
    }
    let (shared, topology) = (shared.clone(), topology.clone());
    tokio::task::spawn_blocking(move || {
        if shared.names.ask(due) && shared.topology().revision() == topology.revision() {
            set_text(&shared, &topology);
        }
    });
}

fn set_text(shared: &Shared, topology: &Arc<Topology>) {
    if let Ok(mut text) = shared.node().shared().cluster.write() {
        let (topology, known) = (topology.clone(), shared.names.known());
        *text = Some(Arc::new(LazyText::new(move || texts(&topology, &known))));
    }
}

/// What `config get cluster` and `topology` answer. The former is a list of
/// `host|ip|port`; clients take the one or the other of the first two.
fn texts(topology: &Topology, known: &BTreeMap<String, IpAddr>) -> ClusterText {
    let mut nodes = Vec::new();
    for (_, member) in topology.nodes().filter(|(_, member)| member.up) {
        let Some((host, told, port)) = member.node.client_parts() else { continue };
        let ip = match known.get(host) {
            _ if !told.is_empty() => told.to_owned(),
            _ if host.parse::<IpAddr>().is_ok() => host.to_owned(),
            Some(ip) => ip.to_string(),
            None => String::new(),
        };
        nodes.push(format!("{host}|{ip}|{port}"));
    }
    ClusterText {
        config: format!("{}\n{}\n", topology.revision().0, nodes.join(" ")),
        topology: view::json(topology),
    }
}

/// `GET /ring`: the nodes and how the partitions stand.
pub fn ring(shared: &Shared) -> Value {
    let topology = shared.topology();
    let (leased, settled_revision) = shared.standing();
    let (whole_everywhere, settled) = shared.whole_and_settled();
    let health = shared.health();
    let slots = topology.members().len();
    let (mut primaries, mut copies, mut filling) =
        (vec![0u32; slots], vec![0u32; slots], vec![0u32; slots]);
    let (mut whole, mut lacking, mut without) = (0u32, 0u32, 0u32);
    let all = topology.partitions().count();
    // Without a cluster there is no ring to draw.
    let mut arcs = vec!["whole"; if all == 0 { 0 } else { ARCS }];
    for (partition, owners) in topology.partitions() {
        let arc = &mut arcs[partition.0 as usize * ARCS / all];
        let live = owners.copies().iter().filter(|node| topology.is_up(**node)).count();
        let wanted = usize::from(topology.copies_wanted());
        match owners.primary().filter(|primary| topology.is_up(*primary)) {
            None => {
                without += 1;
                *arc = "unavailable";
            }
            Some(_) if owners.in_sync() as usize >= wanted && live >= wanted => whole += 1,
            Some(_) => {
                lacking += 1;
                if *arc == "whole" {
                    *arc = "lacking";
                }
            }
        }
        for (at, node) in owners.copies().iter().enumerate() {
            let slot = usize::from(node.0);
            primaries[slot] += u32::from(at == 0);
            if owners.is_in_sync(*node) {
                copies[slot] += 1;
            } else {
                filling[slot] += 1;
            }
        }
    }
    let nodes: Vec<Value> = topology
        .nodes()
        .map(|(index, member)| {
            let slot = usize::from(index.0);
            json!({
                "name": member.node.name,
                "address": member.node.client_host_port(),
                "peer_address": member.node.peer_address,
                "zone": member.node.zone,
                "weight": member.node.weight,
                "cores": member.node.cores,
                "up": member.up,
                "draining": member.draining,
                "primaries": primaries[slot],
                "in_sync": copies[slot],
                "filling": filling[slot],
            })
        })
        .collect();
    let odd = shared.alike.odd();
    let (refused, latest) = shared.peers.settings().refusals.seen();
    let (links, links_wanted) = shared.links.counts(shared.cores);
    json!({
        "cluster": topology.name(),
        "node": shared.config.node,
        "revision": topology.revision().0,
        "settled_revision": settled_revision.0,
        "whole": whole_everywhere,
        "settled": settled,
        "leased": leased,
        "clock_skew_ms": shared.skew.ms(),
        "clock_complaint": shared.skew.is_too_much().then(|| shared.skew.words()),
        "settings_complaint": shared.alike.complaint(),
        "settings_differ": odd,
        "copies": topology.copies_wanted(),
        "arcs": arcs,
        "partitions": { "all": all, "whole": whole, "lacking": lacking, "unavailable": without },
        "nodes": nodes,
        "links": links,
        "links_wanted": links_wanted,
        "refused": {
            "count": refused,
            "latest": latest.as_ref().map(|refusal| refusal.what.clone()),
            "seconds_ago": latest.as_ref().map(|refusal| refusal.at.elapsed().as_secs()),
        },
        "coordinator": {
            "kind": health.kind,
            "leads": health.leads,
            "leader": health.leader,
            "term": health.term,
            "quorum": health.quorum_reachable,
            "keepers": health.keepers,
            "disk_error": health.disk_error,
            "waits_for": health.waits_for,
            "other_cluster": health.other_cluster.map(|other| other.what),
        },
    })
}
