//! A topology in etcd, so that the log before it can go.
//!
//! The leader writes one now and then, in parts below etcd's bound of a request;
//! the key `snapshot/meta` makes it valid, in one step. Old parts and the log go
//! after that. Somebody may just be reading them: it begins again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::topology::Topology;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Node;
use super::gateway::{GatewayError, encode, pairs, prefix_end, put, revision, unchanged};
use crate::{Role, draw};

/// etcd refuses requests of 1.5 MiB.
const PART_BYTES: usize = 512 << 10;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Parts that change while they are read are read again so often.
const ATTEMPTS: usize = 5;

/// The content of `snapshot/meta`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Meta {
    /// Commands that it stands for.
    number: u64,
    id: u64,
    parts: u32,
    bytes: u64,
}

pub(super) fn meta_key(node: &Node) -> String {
    node.key("snapshot/meta")
}

fn parts_prefix(node: &Node, id: u64) -> String {
    node.key(&format!("snapshot/{id:016x}/"))
}

/// While this node leads, it writes snapshots; runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    // The revision that was current some time ago: older ones may go.
    let mut old: Option<(i64, Instant)> = None;
    loop {
        sleep(LOOK_EVERY).await;
        if !matches!(*node.role.borrow(), Role::Leader { .. }) {
            old = None;
            continue;
        }
        if let Err(error) = step(&node, &mut old).await {
            node.trouble(&error.why);
        }
    }
}

async fn step(node: &Arc<Node>, old: &mut Option<(i64, Instant)>) -> Result<(), GatewayError> {
    let (stored, mod_revision, now) = read_meta(node).await?;
    let every = node.options.snapshot_every;
    if *node.number.borrow() >= stored.map_or(0, |stored| stored.number) + every {
        write(node, mod_revision).await?;
    }
    let history = node.options.timing.history;
    match *old {
        None => *old = Some((now, Instant::now())),
        Some((revision, at)) if at.elapsed() >= history && node.options.forget_history => {
            *old = Some((now, Instant::now()));
            let body = json!({ "revision": revision.to_string() });
            call(node, "/v3/kv/compaction", body).await?;
        }
        Some(_) => {}
    }
    Ok(())
}

async fn call(node: &Node, path: &str, body: Value) -> Result<Value, GatewayError> {
    node.gateway.call(path, body, node.options.timing.request_timeout).await
}

/// What is stored, its revision (0 if nothing), and etcd's own.
async fn read_meta(node: &Node) -> Result<(Option<Meta>, i64, i64), GatewayError> {
    let body = json!({ "key": encode(meta_key(node).as_bytes()) });
    let answer = call(node, "/v3/kv/range", body).await?;
    let pair = pairs(&answer).pop();
    let meta = pair.as_ref().and_then(|pair| postcard::from_bytes(&pair.value).ok());
    Ok((meta, pair.map_or(0, |pair| pair.mod_revision), revision(&answer)))
}

async fn write(node: &Arc<Node>, mod_revision: i64) -> Result<(), GatewayError> {
    let (topology, number) = {
        let _both = node.both();
        (node.applied.topology(), *node.number.borrow())
    };
    let bytes = tokio::task::spawn_blocking(move || topology.encode()).await.map_err(|error| {
        GatewayError { perhaps_done: false, why: format!("cannot encode the topology: {error}") }
    })?;
    let id = draw();
    let mut parts = 0;
    for part in bytes.chunks(PART_BYTES) {
        let key = format!("{}{parts:06}", parts_prefix(node, id));
        let body = json!({ "key": encode(key.as_bytes()), "value": encode(part) });
        call(node, "/v3/kv/put", body).await?;
        parts += 1;
    }
    let meta = crate::encode(&Meta { number, id, parts, bytes: bytes.len() as u64 });
    let key = meta_key(node);
    let body = json!({ "compare": [unchanged(&key, mod_revision)], "success": [put(&key, &meta)] });
    let answer = call(node, "/v3/kv/txn", body).await?;
    let current = parts_prefix(node, id);
    if answer["succeeded"].as_bool() != Some(true) {
        return delete(node, current.as_bytes(), &prefix_end(&current)).await;
    }
    // All other parts, left over ones of failed attempts included.
    let (first, last) = (node.key("snapshot/0"), node.key("snapshot/g"));
    delete(node, first.as_bytes(), current.as_bytes()).await?;
    delete(node, &prefix_end(&current), last.as_bytes()).await?;
    // Some are kept for those who are a little behind; the last one always, since
    // the next one is created after it.
    let keep = number.saturating_sub(node.options.snapshot_every / 2).min(number);
    let (first, end) = (node.key("log/"), node.key(&format!("log/{keep:020}")));
    delete(node, first.as_bytes(), end.as_bytes()).await
}

async fn delete(node: &Node, from: &[u8], to: &[u8]) -> Result<(), GatewayError> {
    let body = json!({ "key": encode(from), "range_end": encode(to) });
    call(node, "/v3/kv/deleterange", body).await?;
    Ok(())
}

/// Takes the stored topology over if it is later than what is applied; false if
/// there is none such.
pub(super) async fn load(node: &Arc<Node>) -> Result<bool, String> {
    let text = |error: GatewayError| error.to_string();
    for _ in 0..ATTEMPTS {
        let (meta, _, _) = read_meta(node).await.map_err(text)?;
        let Some(meta) = meta.filter(|meta| meta.number > *node.number.borrow()) else {
            return Ok(false);
        };
        let mut bytes = Vec::new();
        for part in 0..meta.parts {
            let key = format!("{}{part:06}", parts_prefix(node, meta.id));
            let body = json!({ "key": encode(key.as_bytes()) });
            let answer = call(node, "/v3/kv/range", body).await.map_err(text)?;
            bytes.extend(pairs(&answer).pop().into_iter().flat_map(|pair| pair.value));
        }
        if bytes.len() as u64 == meta.bytes {
            let topology = Topology::decode(&bytes)
                .ok_or("the snapshot in etcd holds no topology of this version")?;
            let _both = node.both();
            node.number.send_replace(meta.number);
            node.applied.replace(topology);
            return Ok(true);
        }
        // It was replaced meanwhile.
    }
    Err("the snapshot in etcd changes faster than it can be read, or parts are missing".into())
}
