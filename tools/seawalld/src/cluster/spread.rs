//! Invalidations of the whole cluster.
//!
//! [`Spread`] decides whom to ask what, and when it is done; this carries it out:
//! words to other nodes over the peers' connections, and on this node to every
//! core.

use super::control::{Shared, spawn};
use super::core::CorePeering;
use super::keeper::kind;
use cluster::spread::{Answer, Next, PATIENCE_MS, Spread, Word};
use cluster::time::Millis;
use cluster::topology::NodeIndex;
use engine::Version;
use engine::snapshot::{Generation, GenerationScope};
use net::control::{ControlAnswer, ControlCall, ControlOp};
use net::core::Core;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::unbounded_channel;

/// How long a node may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// How long its replicas may take to confirm an invalidation: then it is asked
/// anew.
const TOLD_TIMEOUT: Duration = Duration::from_millis(250);
/// Pause before a node that has not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Pause before it is looked again whether something has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

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
            generations(shared, vec![(GenerationScope::FlushAt, at.0)]).await
        }
        ControlOp::Flush { .. } => generations(shared, vec![(GenerationScope::Flush, 0)]).await,
        ControlOp::InvalidateTags(names) => {
            let ids = names.iter().map(|name| engine::Tag::named(name).0.get());
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

async fn generations(shared: &Arc<Shared>, what: Vec<(GenerationScope, u64)>) -> bool {
    static INVALIDATIONS: AtomicU64 = AtomicU64::new(0);
    // No other node's has that number, nor one of an earlier life.
    let own = shared.incarnation.0 ^ shared.me().map_or(0, |me| u64::from(me.0) << 48);
    let number = own.wrapping_add(INVALIDATIONS.fetch_add(1, Ordering::Relaxed));
    let what = what.into_iter().map(|(scope, id)| (scope as u8, id)).collect();
    everywhere(shared, Spread::generations(number, what, shared.clock.now(), PATIENCE_MS)).await
}

/// Carries it out.
async fn everywhere(shared: &Arc<Shared>, mut spread: Spread) -> bool {
    let done = loop {
        // A node that came up meanwhile is asked, too.
        let (topology, settled) = (shared.topology(), shared.standing().1);
        let nodes = match spread.next(shared.clock.now(), &topology, shared.me(), settled) {
            Next::Done => break true,
            Next::Failed => break false,
            Next::Ask(nodes) => nodes,
        };
        let mut pause = if nodes.is_empty() { Some(LOOK_AGAIN) } else { None };
        for (node, answer) in ask_all(shared, &nodes, spread.word()).await {
            match answer {
                Some(answer) => spread.on_answer(node, answer),
                None => pause = Some(ASK_AGAIN),
            }
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    };
    let (shared, farewell) = (shared.clone(), spread.farewell());
    spawn(async move {
        let nodes: Vec<NodeIndex> = shared.topology().nodes().map(|(node, _)| node).collect();
        ask_all(&shared, &nodes, &farewell).await;
    });
    done
}

/// Asks all of them at once.
async fn ask_all(
    shared: &Arc<Shared>,
    nodes: &[NodeIndex],
    word: &Word,
) -> Vec<(NodeIndex, Option<Answer>)> {
    let asked = nodes.iter().map(|node| {
        let (shared, word, node) = (shared.clone(), word.clone(), *node);
        tokio::spawn(async move { (node, ask(&shared, node, &word).await) })
    });
    let mut answers = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        answers.extend(answer.await);
    }
    answers
}

async fn ask(shared: &Arc<Shared>, node: NodeIndex, word: &Word) -> Option<Answer> {
    if shared.me() == Some(node) {
        return here(shared, word).await;
    }
    let address = shared.address_of(node)?;
    let body = postcard::to_stdvec(word).ok()?;
    let answer = shared.peers.call(&address, kind::SPREAD, body, ANSWER_TIMEOUT).await.ok()?;
    postcard::from_bytes(&answer).ok()
}

/// Another node asks.
pub async fn answer(shared: &Arc<Shared>, body: &[u8]) -> Vec<u8> {
    match postcard::from_bytes(body) {
        Ok(word) => match here(shared, &word).await {
            Some(answer) => postcard::to_stdvec(&answer).unwrap_or_default(),
            None => Vec::new(),
        },
        Err(_) => Vec::new(),
    }
}

/// Does it on all cores of this node, again until their replicas have it, too.
async fn here(shared: &Arc<Shared>, word: &Word) -> Option<Answer> {
    let began = Instant::now();
    loop {
        let (mut latest, mut told) = (0, true);
        for (version, is_told) in on_cores(shared, word).await? {
            latest = latest.max(version);
            told &= is_told;
        }
        if told {
            let acts = (0..shared.cores).map(|core| shared.acts(core)).min().unwrap_or_default();
            return Some(Answer { incarnation: shared.incarnation, acts, latest });
        }
        if began.elapsed() >= TOLD_TIMEOUT {
            return None;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn on_cores(shared: &Arc<Shared>, word: &Word) -> Option<Vec<(u64, bool)>> {
    let (sender, mut answers) = unbounded_channel();
    for core in 0..shared.cores {
        let (word, sender, clock) = (word.clone(), sender.clone(), shared.clock);
        let task = Box::new(move |core: &mut Core| {
            let _ = sender.send(on_core(core, &word, clock.now()));
        });
        shared.tell(core, task)?;
    }
    drop(sender);
    let mut all = Vec::new();
    for _ in 0..shared.cores {
        all.push(answers.recv().await?);
    }
    Some(all)
}

/// The latest version, and whether all replicas of this core have what it was told.
fn on_core(core: &mut Core, word: &Word, clock: Millis) -> (u64, bool) {
    let Core { peers, shard, now, .. } = core;
    let Some(peering) = CorePeering::of(peers) else { return (0, false) };
    match word {
        Word::Latest(number) => {
            peering.suspend_near_reads(*number, clock);
            // Later than everything that was written here.
            (shard.last_version().0.max(now.0 << 20), true)
        }
        Word::Take(number, all) => {
            peering.suspend_near_reads(*number, clock);
            let generation = |(scope, id, version): &(u8, u64, u64)| {
                let scope = GenerationScope::from_number(*scope)?;
                Some(Generation { scope, id: *id, version: Version(*version) })
            };
            let all: Vec<Generation> = all.iter().filter_map(generation).collect();
            let replicator = peering.replicator();
            (0, replicator.invalidate(&all, shard) && replicator.is_told())
        }
        Word::Over(number) => {
            peering.replicator().resume_near_reads(*number);
            (0, true)
        }
    }
}
