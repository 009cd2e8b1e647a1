//! Invalidations of the whole cluster, in two rounds.
//!
//! A tag, a namespace or everything is invalidated up to a *version*, and every
//! core of every node must agree on it. So the latest version of all is asked
//! for first; meanwhile only primaries answer reads, for the second round reaches
//! one node after the other, and they take back the copies of hot keys that they
//! have granted. It says what the generation is, and when every node
//! has taken it over the client is answered. A node that cannot be reached is
//! waited for until it is known to be down: it gets the generation when it comes
//! back, from whoever fills it, before it serves.

use super::control::{Shared, spawn};
use super::core::CorePeering;
use super::keeper::kind;
use cluster::topology::{NodeIndex, Revision};
use engine::snapshot::{Generation, GenerationScope};
use engine::{Now, Version};
use net::control::{ControlAnswer, ControlCall, ControlOp};
use net::core::Core;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::unbounded_channel;

/// How long replicas send readers away after the first round, at most.
const NEAR_READS_SUSPENDED_MS: u64 = 1_000;
/// A core's answer when it must be asked again: copies that it granted are not yet
/// given up.
const NOT_YET: u64 = u64::MAX;
/// How long a node may take for one round.
const ROUND_TIMEOUT: Duration = Duration::from_millis(300);
/// How long all may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a node is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Word {
    /// The latest version of all your cores; and near reads end for now.
    Latest,
    /// Take these over: `(scope, id, version)`.
    Take(Vec<(u8, u64, u64)>),
    /// Everything dies at that moment, in Unix milliseconds.
    FlushAt(u64),
}

/// Does what a client or an operator asked for.
pub fn begin(shared: &Arc<Shared>, mut call: Box<ControlCall>) {
    let shared = shared.clone();
    spawn(async move {
        call.answer = run(&shared, &call.op).await;
        shared.node().answer(call);
    });
}

/// The same for the admin API.
pub async fn run(shared: &Arc<Shared>, op: &ControlOp) -> ControlAnswer {
    let now = shared.node().clock().now();
    let done = match op {
        ControlOp::Flush { at } if *at > now => {
            return match everywhere(shared, &Word::FlushAt(at.0)).await {
                Some(_) => ControlAnswer::Done,
                None => failed(),
            };
        }
        ControlOp::Flush { .. } => generations(shared, vec![(GenerationScope::Flush, 0)]).await,
        ControlOp::InvalidateTags(names) => {
            let ids = names.iter().map(|name| net::proto::meta::tag(name).0.get());
            generations(shared, ids.map(|id| (GenerationScope::Tag, id)).collect()).await
        }
        ControlOp::InvalidateNamespaces(names) => {
            let known = names.iter().filter(|name| shared.knows_namespace(name));
            let ids: Vec<_> = known
                .map(|name| (GenerationScope::Namespace, engine::namespace_id(name)))
                .collect();
            let count = ids.len() as u64;
            return match ids.is_empty() || generations(shared, ids).await {
                true => ControlAnswer::Count(count),
                false => failed(),
            };
        }
        _ => return failed(),
    };
    match (done, op) {
        (false, _) => failed(),
        (true, ControlOp::InvalidateTags(names)) => ControlAnswer::Count(names.len() as u64),
        (true, _) => ControlAnswer::Done,
    }
}

fn failed() -> ControlAnswer {
    ControlAnswer::Failed("not every node of the cluster confirmed it; try again".into())
}

/// Both rounds.
async fn generations(shared: &Arc<Shared>, what: Vec<(GenerationScope, u64)>) -> bool {
    let Some(latest) = everywhere(shared, &Word::Latest).await else { return false };
    let version = latest.into_iter().max().unwrap_or(0);
    let taken = what.into_iter().map(|(scope, id)| (scope as u8, id, version)).collect();
    everywhere(shared, &Word::Take(taken)).await.is_some()
}

/// Asks every node, until each has answered or is out: that is, down by a revision
/// which is settled.
async fn everywhere(shared: &Arc<Shared>, word: &Word) -> Option<Vec<u64>> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut answers: Vec<(NodeIndex, u64)> = Vec::new();
    loop {
        // A node that came up meanwhile is asked, too.
        let topology = shared.topology();
        let settled = shared.standing().1;
        let mut missing = Vec::new();
        for (node, member) in topology.nodes() {
            let out = !member.up && member.fence <= settled && member.fence > Revision(0);
            if !out && !answers.iter().any(|(known, _)| *known == node) {
                missing.push((node, member.node.peer_address.clone()));
            }
        }
        if missing.is_empty() {
            return Some(answers.into_iter().map(|(_, answer)| answer).collect());
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        let asked = missing.into_iter().map(|(node, address)| {
            let (shared, word) = (shared.clone(), word.clone());
            tokio::spawn(async move { (node, ask(&shared, node, &address, &word).await) })
        });
        let mut silent = false;
        for answer in asked.collect::<Vec<_>>() {
            match answer.await {
                Ok((node, Some(answer))) => answers.push((node, answer)),
                _ => silent = true,
            }
        }
        if silent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn ask(shared: &Arc<Shared>, node: NodeIndex, address: &str, word: &Word) -> Option<u64> {
    if shared.me() == Some(node) {
        return here(shared, word).await;
    }
    let body = postcard::to_stdvec(word).ok()?;
    let answer = shared.peers.call(address, kind::SPREAD, body, ROUND_TIMEOUT).await.ok()?;
    Some(u64::from_le_bytes(answer.try_into().ok()?))
}

/// Another node asks.
pub async fn answer(shared: &Arc<Shared>, body: &[u8]) -> Vec<u8> {
    match postcard::from_bytes(body) {
        Ok(word) => match here(shared, &word).await {
            Some(answer) => answer.to_le_bytes().to_vec(),
            None => Vec::new(),
        },
        Err(_) => Vec::new(),
    }
}

/// Does it on all cores of this node.
async fn here(shared: &Arc<Shared>, word: &Word) -> Option<u64> {
    let (sender, mut answers) = unbounded_channel();
    for core in 0..shared.cores {
        let (word, sender, clock) = (word.clone(), sender.clone(), shared.clock);
        let task = Box::new(move |core: &mut Core| {
            let _ = sender.send(on_core(core, &word, clock.now().plus(NEAR_READS_SUSPENDED_MS)));
        });
        shared.tell(core, task)?;
    }
    drop(sender);
    let mut latest = 0;
    for _ in 0..shared.cores {
        latest = latest.max(answers.recv().await?);
    }
    (latest != NOT_YET).then_some(latest)
}

fn on_core(core: &mut Core, word: &Word, until: cluster::time::Millis) -> u64 {
    let Core { peers, shard, now, .. } = core;
    match word {
        Word::Latest => {
            if let Some(peering) = CorePeering::of(peers) {
                peering.suspend_near_reads(until);
            }
            // Later than everything that was written here.
            shard.last_version().0.max(now.0 << 20)
        }
        Word::Take(generations) => {
            if let Some(peering) = CorePeering::of(peers)
                && !peering.replicator().copies_are_gone()
            {
                return NOT_YET;
            }
            for (scope, id, version) in generations {
                if let Some(scope) = GenerationScope::from_number(*scope) {
                    let version = Version(*version);
                    shard.merge_generation(Generation { scope, id: *id, version });
                }
            }
            if let Some(peering) = CorePeering::of(peers) {
                peering.suspend_near_reads(cluster::time::Millis(0));
            }
            0
        }
        Word::FlushAt(at) => {
            shard.flush(Now(*at), *now);
            0
        }
    }
}
