//! How a node finds its cluster, or begins one.
//!
//! A node whose disk remembers nothing asks the addresses it was given. If one
//! belongs to a cluster, its leader takes the new node in. If none does, and all
//! have answered, the one with the lowest address begins the cluster with all of
//! them; the others wait for it. Who begins draws the cluster's number, which
//! every message of Raft carries: a node is never in two clusters, even if its
//! operators gave different lists to different nodes.
//!
//! A node whose disk remembers a cluster stays with it, whatever `--join` says. If
//! the nodes of `--join` belong to another one, it says so; if its own was begun
//! anew by the operator (`recover`), it forgets it and asks to be started again.
//!
//! Later the same task tells the leader when this node's address has changed, and
//! everybody else it knows, since it may be the leader itself who is looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::node::{Engine, Node};
use super::types::{Beginning, Enrolled, Introduce, Keeper, Known, encode, kind};
use super::{disk, supervise};

/// A node that is not where it wants to be asks this often.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// One that belongs to a cluster looks whether it still does.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Leaders forwarded to, at most, before asking everybody again.
const HOPS_MAX: usize = 4;
/// The nodes of `--join` are asked for their cluster this often.
const OTHERS_EVERY: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    let mut logged: Option<(String, Instant)> = None;
    let mut looked: Option<Instant> = None;
    loop {
        let wait = match step(&node).await {
            Ok(()) => {
                if node.waits_for().is_some() {
                    node.log("this node belongs to a cluster now");
                }
                node.set_waits_for(None);
                logged = None;
                if looked.is_none_or(|at| at.elapsed() >= OTHERS_EVERY) {
                    look_for_others(&node).await;
                    looked = Some(Instant::now());
                }
                LOOK_EVERY
            }
            Err(whom) => {
                let again = logged
                    .as_ref()
                    .is_none_or(|(before, at)| *before != whom || at.elapsed() >= LOG_EVERY);
                if again {
                    node.log(&format!("waiting for {whom}"));
                    logged = Some((whom.clone(), Instant::now()));
                }
                node.set_waits_for(Some(whom));
                ASK_EVERY
            }
        };
        sleep(wait).await;
    }
}

/// One attempt; the error says for whom this node waits.
async fn step(node: &Arc<Node>) -> Result<(), String> {
    let Some(engine) = node.engine() else { return Err("its disk".into()) };
    let metrics = engine.metrics();
    let membership = metrics.membership_config.membership();
    let me = membership.get_node(&node.id());
    let stands_first = metrics.state == ServerState::Leader;
    if stands_first && node.leads() {
        let moved = me.is_none_or(|me| me.address != node.options.peer_address);
        if moved && let Enrolled::No(why) = enrol(node, &node.introduce()).await {
            return Err(format!("its own new address to be noted: {why}"));
        }
        return Ok(());
    }
    let noted = me.is_some_and(|me| me.address == node.options.peer_address);
    // One that cannot reach a majority of keepers is as lost as one without a leader.
    if noted && !stands_first && node.silence() < 2 * node.options.timing.election_max + LOOK_EVERY
    {
        return Ok(());
    }
    if membership.nodes().next().is_none()
        && let Some(beginning) = node.beginning()
    {
        // It stopped in the middle of it.
        return initialize(node, &engine, beginning.keepers).await;
    }
    let mut addresses: Vec<String> = node.options.join.clone();
    for (id, _) in membership.nodes().filter(|(id, _)| **id != node.id()) {
        addresses.extend(node.address(&metrics, *id));
    }
    addresses.sort();
    addresses.dedup();
    addresses.retain(|address| *address != node.options.peer_address);
    let (known, silent) = ask_all(node, &addresses).await;
    if node.cluster() != 0 {
        return enter(node, &known, &silent)
            .await
            .map_err(|whom| super::lost::majority(node, &metrics, &known).unwrap_or(whom));
    }
    if let Some(member) = known.iter().find(|known| known.node.cluster != 0) {
        let cluster = member.node.cluster;
        let of_it: Vec<Known> =
            known.iter().filter(|known| known.node.cluster == cluster).cloned().collect();
        return enter(node, &of_it, &silent).await;
    }
    if !silent.is_empty() {
        return Err(format!("{} (no answer yet)", silent.join(", ")));
    }
    begin(node, &engine, &known).await
}

/// Asks everybody who they are; also returns who did not answer.
async fn ask_all(node: &Arc<Node>, addresses: &[String]) -> (Vec<Known>, Vec<String>) {
    let mut asking = JoinSet::new();
    for address in addresses.iter().cloned() {
        let (peers, body) = (node.peers.clone(), encode(&node.introduce()));
        asking.spawn(async move {
            let answer = peers.call(&address, kind::WHO, body, CALL_TIMEOUT).await;
            let known = answer.ok().and_then(|bytes| postcard::from_bytes::<Known>(&bytes).ok());
            (address, known)
        });
    }
    let (mut known, mut silent) = (Vec::new(), Vec::new());
    while let Some(answer) = asking.join_next().await {
        match answer {
            // An address of its own under another name.
            Ok((_, Some(it))) if it.node.id == node.id() => {}
            Ok((_, Some(it))) => {
                node.note_address(it.node.id, &it.node.address);
                known.push(it);
            }
            Ok((address, None)) => silent.push(address),
            Err(_) => {}
        }
    }
    silent.sort();
    (known, silent)
}

/// Asks the leader of the cluster to take this node in, or to note its address.
async fn enter(node: &Arc<Node>, known: &[Known], silent: &[String]) -> Result<(), String> {
    let mut next: Vec<String> = known.iter().filter_map(|known| known.leader.clone()).collect();
    next.extend(known.iter().map(|known| known.node.address.clone()));
    next.dedup();
    next.truncate(HOPS_MAX);
    next.reverse();
    let mut why = None;
    for _ in 0..HOPS_MAX {
        let Some(address) = next.pop() else { break };
        let body = encode(&node.introduce());
        let answer = node.peers.call(&address, kind::ENROL, body, CALL_TIMEOUT).await;
        match answer.map(|bytes| postcard::from_bytes::<Enrolled>(&bytes)) {
            Ok(Ok(Enrolled::Yes)) => {
                return Err(format!("the log of {address}, which has taken it in"));
            }
            Ok(Ok(Enrolled::Ask(leader))) => {
                next.extend(leader.filter(|leader| *leader != address));
            }
            Ok(Ok(Enrolled::BegunAnew)) if node.cluster() != 0 => {
                return Err(forget(node, &address).await);
            }
            Ok(Ok(Enrolled::BegunAnew)) => {}
            Ok(Ok(Enrolled::No(text))) => why = Some(format!("{address}: {text}")),
            Ok(Err(_)) => why = Some(format!("{address}: an answer that is none")),
            Err(error) => why = Some(error.to_string()),
        }
    }
    Err(match why {
        Some(why) => format!("its cluster to take it in ({why})"),
        None if silent.is_empty() => "its cluster to have a leader".into(),
        None => format!("its cluster to have a leader (no answer from {})", silent.join(", ")),
    })
}

/// The cluster that this node remembers was begun anew: it forgets it. What it may hold
/// in memory is of the old one, so only another process of it can join the new one.
async fn forget(node: &Arc<Node>, address: &str) -> String {
    let cluster = node.cluster();
    node.forgetting.store(true, std::sync::atomic::Ordering::Relaxed);
    supervise::close(node).await;
    match disk::keep(&node.options.directory.join(disk::FILE), cluster) {
        Ok(kept) => node.log(&format!(
            "the cluster was begun anew (--cluster-recover), says {address}: this node forgets the old one, whose file is kept as {}",
            kept.display()
        )),
        Err(error) => node.log(&format!("cannot forget the old cluster: {error}")),
    }
    node.must_restart.send_replace(true);
    "its next start".into()
}

/// Asks the nodes of `--join` whether they belong to its cluster.
async fn look_for_others(node: &Arc<Node>) {
    let Some(engine) = node.engine() else { return };
    let metrics = engine.metrics();
    let membership = metrics.membership_config.membership();
    let members = membership.nodes().filter_map(|(id, _)| node.address(&metrics, *id)).collect();
    let mut join = node.options.join.clone();
    join.retain(|address| *address != node.options.peer_address);
    let strangers: Vec<String> =
        join.iter().filter(|address| !BTreeSet::contains(&members, *address)).cloned().collect();
    let answers = match strangers.is_empty() {
        true => Vec::new(),
        false => ask_all(node, &strangers).await.0,
    };
    let directory = &node.options.directory;
    let other = super::lost::other_cluster(node.cluster(), &members, &join, &answers, directory);
    node.set_other_cluster(other);
}

/// Begins a cluster, if this is the node to do so.
async fn begin(node: &Arc<Node>, engine: &Engine, known: &[Known]) -> Result<(), String> {
    let own = &node.options.peer_address;
    let lowest = known.iter().map(|known| &known.node.address).min();
    if let Some(lowest) = lowest.filter(|lowest| *lowest < own) {
        return Err(format!("{lowest} to begin the cluster"));
    }
    let mut nodes: Vec<Introduce> = known.iter().map(|known| known.node.clone()).collect();
    nodes.push(node.introduce());
    nodes.sort_by(|a, b| a.address.cmp(&b.address));
    let count = odd_floor(nodes.len().min(node.options.keepers_wanted.max(1)));
    let keepers: BTreeMap<u64, Keeper> = nodes
        .into_iter()
        .take(count)
        .map(|node| (node.id, Keeper { name: node.name, address: node.address, enrolled: 0 }))
        .collect();
    let beginning = Beginning { cluster: crate::draw() | 1, keepers: keepers.clone() };
    match node.begin(&engine.disk, beginning).await {
        Ok(true) => {}
        Ok(false) => return Err("the cluster that has just taken it in".into()),
        Err(error) => return Err(format!("its disk: {error}")),
    }
    let addresses: Vec<&str> = keepers.values().map(|keeper| &*keeper.address).collect();
    node.log(&format!("beginning a cluster with {}", addresses.join(", ")));
    initialize(node, engine, keepers).await
}

async fn initialize(
    node: &Node,
    engine: &Engine,
    keepers: BTreeMap<u64, Keeper>,
) -> Result<(), String> {
    node.stand();
    let begun = engine.raft.initialize(keepers).await;
    begun.map_err(|error| format!("its own beginning: {error}"))
}

/// The leader's side: takes a node in, or notes its address.
pub(super) async fn enrol(node: &Arc<Node>, newcomer: &Introduce) -> Enrolled {
    use openraft::ChangeMembers;
    let Some(engine) = node.engine() else { return Enrolled::No("its disk fails".into()) };
    if node.succeeds(newcomer.cluster) {
        return Enrolled::BegunAnew;
    }
    let metrics = engine.metrics();
    if metrics.state != ServerState::Leader {
        let leader = metrics.current_leader.and_then(|leader| node.address(&metrics, leader));
        return Enrolled::Ask(leader);
    }
    if !node.leads() {
        let whom = node.waits_for().unwrap_or_else(|| "a majority of its keepers".into());
        return Enrolled::No(format!("waits for {whom}"));
    }
    if newcomer.cluster != 0 && newcomer.cluster != node.cluster() {
        return Enrolled::No(format!(
            "{} remembers another cluster; to forget it, remove its coordinator's directory",
            newcomer.name
        ));
    }
    if newcomer.id == 0 || newcomer.name.is_empty() || !newcomer.address.contains(':') {
        return Enrolled::No("a node must say its name and its host:port".into());
    }
    node.note_address(newcomer.id, &newcomer.address);
    let membership = metrics.membership_config.membership();
    let known = membership.get_node(&newcomer.id);
    if known.is_some_and(|known| known.address == newcomer.address) {
        return Enrolled::Yes;
    }
    if known.is_none() {
        let same_name = membership.nodes().filter(|(_, keeper)| keeper.name == newcomer.name);
        for (id, Keeper { name, address, .. }) in same_name {
            if lives(node, *id, address).await {
                return Enrolled::No(format!("the name {name} is taken by {address}"));
            }
        }
    }
    let enrolled = match known {
        Some(known) => known.enrolled,
        None => 1 + membership.nodes().map(|(_, it)| it.enrolled).max().unwrap_or(0),
    };
    let keeper =
        Keeper { name: newcomer.name.clone(), address: newcomer.address.clone(), enrolled };
    // The number stays, only the address of the same node is another one.
    let change = ChangeMembers::SetNodes(BTreeMap::from([(newcomer.id, keeper)]));
    let verb = if known.is_some() { "has moved to" } else { "joins at" };
    match tokio::time::timeout(CALL_TIMEOUT, engine.raft.change_membership(change, true)).await {
        Ok(Ok(_)) => {
            node.log(&format!("node {} {verb} {}", newcomer.name, newcomer.address));
            Enrolled::Yes
        }
        Ok(Err(error)) => Enrolled::No(super::tend::words(&error)),
        Err(_) => Enrolled::No("no majority of keepers in time".into()),
    }
}

/// Whether the node with that number still answers at its address.
async fn lives(node: &Arc<Node>, id: u64, address: &str) -> bool {
    let body = encode(&node.introduce());
    let answer = node.peers.call(address, kind::WHO, body, CALL_TIMEOUT).await;
    let known = answer.ok().and_then(|bytes| postcard::from_bytes::<Known>(&bytes).ok());
    known.is_some_and(|known| known.node.id == id)
}

/// The largest odd number that is not larger.
pub(super) fn odd_floor(count: usize) -> usize {
    if count == 0 { 0 } else { count - 1 + count % 2 }
}

#[cfg(test)]
mod tests {
    use super::odd_floor;

    #[test]
    fn keepers_are_odd() {
        let odd: Vec<usize> = (0..8).map(odd_floor).collect();
        assert_eq!(odd, [0, 1, 1, 3, 3, 5, 5, 7]);
    }
}
