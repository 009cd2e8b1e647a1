//! Commands in etcd: one key each, created by whoever is first.
//!
//! The next command's key is created on condition that it is not there and that
//! the one before is. So the log has no holes, whoever writes and however old its
//! view is; and an attempt whose answer got lost cannot take effect later under
//! another number. Everybody applies the keys in their order; whoever appended
//! hears from its own applying what became of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::gateway::{
    GatewayError, Pair, absent, encode, exists, number, pairs, prefix_end, put, revision,
};
use super::{Node, leader, snapshot};
use crate::applied::command_bytes;
use crate::{COMMAND_BYTES_MAX, CoordinatorError, draw};

/// Keys that are read at once.
const PAGE: u32 = 200;
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// A command, and whose it is.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    tag: u64,
    command: Command,
}

/// Those who wait for their command's outcome, by its tag.
#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<u64, oneshot::Sender<Outcome>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a tag out when nobody waits for it any more.
struct Waits<'a>(&'a Waiting, u64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn key(node: &Node, number: u64) -> String {
    node.key(&format!("log/{number:020}"))
}

/// Puts a command into the order.
pub(super) async fn append(
    node: &Arc<Node>,
    command: Command,
) -> Result<Outcome, CoordinatorError> {
    let bytes = command_bytes(&command);
    if bytes > COMMAND_BYTES_MAX {
        return Err(CoordinatorError::TooLong { command_bytes: bytes });
    }
    let tag = draw();
    let entry = crate::encode(&Entry { tag, command });
    let (tell, mut told) = oneshot::channel();
    node.waiting.lock().insert(tag, tell);
    let _waits = Waits(&node.waiting, tag);
    let started = Instant::now();
    let Ok(_turn) = timeout(node.options.timing.append_timeout, node.turn.lock()).await else {
        let why = "commands before it were not done in time".to_owned();
        return Err(CoordinatorError::NoLeader { waited: started.elapsed(), why });
    };
    let mut applied = node.number.subscribe();
    let mut perhaps_done = false;
    let mut why = "etcd was not asked".to_owned();
    loop {
        let rest = node.options.timing.append_timeout.saturating_sub(started.elapsed());
        if rest.is_zero() {
            return Err(if perhaps_done {
                CoordinatorError::Unknown { why }
            } else {
                CoordinatorError::NoLeader { waited: started.elapsed(), why }
            });
        }
        let last = *applied.borrow_and_update();
        match create(node, last, &entry, rest).await {
            Ok(true) => {
                return match timeout(rest, told).await {
                    Ok(Ok(outcome)) => Ok(outcome),
                    _ => Err(CoordinatorError::Unknown {
                        why: "it is in the order, but is not applied here in time".into(),
                    }),
                };
            }
            Ok(false) => why = "others were always faster".into(),
            Err(error) => {
                perhaps_done |= error.perhaps_done;
                node.trouble(&error.why);
                why = error.why;
            }
        }
        // Somebody was first, or it was this one and the answer got lost.
        tokio::select! {
            Ok(outcome) = &mut told => return Ok(outcome),
            _ = applied.changed() => {}
            () = sleep(RETRY_EVERY.min(rest)) => {}
        }
    }
}

/// Creates the key after `last`; false if that is not the end of the log.
async fn create(
    node: &Node,
    last: u64,
    entry: &[u8],
    within: Duration,
) -> Result<bool, GatewayError> {
    let next = key(node, last + 1);
    let mut conditions = vec![absent(&next)];
    match last {
        // Without a key before it, no snapshot may stand for one.
        0 => conditions.push(absent(&snapshot::meta_key(node))),
        _ => conditions.push(exists(&key(node, last))),
    }
    let body = json!({ "compare": conditions, "success": [put(&next, entry)] });
    let within = within.min(node.options.timing.request_timeout);
    let answer = node.gateway.call("/v3/kv/txn", body, within).await?;
    Ok(answer["succeeded"].as_bool() == Some(true))
}

/// Applies what is in etcd, as it comes; runs until the node stops.
pub(super) async fn follow(node: Arc<Node>) {
    loop {
        if let Err(why) = follow_once(&node).await {
            node.trouble(&why);
            node.state().stuck = Some(why);
            node.gateway.distrust();
        }
        sleep(RETRY_EVERY).await;
    }
}

/// Watches first and reads then. A watch that begins in the past is behind, and etcd
/// looks after those only ten times a second: until then this node would hold up
/// whatever must be known to all.
async fn follow_once(node: &Arc<Node>) -> Result<(), String> {
    let text = |error: GatewayError| error.to_string();
    let mut watch = node.gateway.watch(&node.key("")).await.map_err(text)?;
    catch_up(node).await?;
    node.fine();
    node.state().stuck = None;
    loop {
        // A leader writes ten times a second, so that silence is a sign. Without
        // one, catching up again costs little.
        let message = timeout(node.options.timing.silence_max, watch.next()).await;
        let Ok(message) = message else { return Ok(()) };
        let message = message?;
        if let Some(error) = message["error"]["message"].as_str() {
            return Err(error.to_owned());
        }
        let result = &message["result"];
        if result["canceled"].as_bool() == Some(true) {
            // Its history does not go back so far; the log may.
            return Ok(());
        }
        node.fine();
        for event in result["events"].as_array().into_iter().flatten() {
            if !happens(node, event)? {
                return Ok(());
            }
        }
    }
}

/// One change in etcd; false if keys are missing.
fn happens(node: &Arc<Node>, event: &Value) -> Result<bool, String> {
    let Some(pair) = Pair::parse(&event["kv"]) else { return Ok(true) };
    let deleted = event["type"].as_str() == Some("DELETE");
    if pair.key == leader::key(node) {
        leader::seen(node, (!deleted).then_some(&pair), pair.mod_revision);
    } else if !deleted && let Some(number) = log_number(node, &pair.key) {
        let last = *node.number.borrow();
        if number > last + 1 {
            return Ok(false);
        }
        if number == last + 1 {
            apply(node, &[pair])?;
        }
    }
    Ok(true)
}

fn log_number(node: &Node, key: &str) -> Option<u64> {
    key.strip_prefix(&node.key("log/"))?.parse().ok()
}

/// Reads what is not yet applied.
async fn catch_up(node: &Arc<Node>) -> Result<(), String> {
    let within = node.options.timing.request_timeout;
    let text = |error: GatewayError| error.to_string();
    let body = json!({ "key": encode(leader::key(node).as_bytes()) });
    let answer = node.gateway.call("/v3/kv/range", body, within).await.map_err(text)?;
    leader::seen(node, pairs(&answer).first(), revision(&answer));
    let mut read: Vec<Pair> = Vec::new();
    loop {
        // The last one that was read must still be there: the log is only cut behind a
        // snapshot, and never to its end.
        let last = *node.number.borrow() + read.len() as u64;
        let body = json!({
            "key": encode(key(node, last.max(1)).as_bytes()),
            "range_end": encode(&prefix_end(&node.key("log/"))),
            "limit": PAGE.to_string(),
        });
        let answer = node.gateway.call("/v3/kv/range", body, within).await.map_err(text)?;
        let page = pairs(&answer);
        let first = page.first().and_then(|pair| log_number(node, &pair.key));
        if first != Some(last.max(1)) {
            if snapshot::load(node).await? {
                read.clear();
                continue;
            }
            if last == 0 && page.is_empty() {
                return Ok(());
            }
            return Err(format!(
                "etcd has neither command {} nor a later snapshot: was it restored, or emptied?",
                last.max(1)
            ));
        }
        let there = page.len();
        read.extend(page.into_iter().skip(usize::from(last > 0)));
        if number(&answer["count"]) <= there as i64 {
            // All at once: nobody acts by what was long ago.
            return apply(node, &read);
        }
    }
}

/// Applies commands that follow each other and what is applied.
fn apply(node: &Arc<Node>, page: &[Pair]) -> Result<(), String> {
    let mut last = *node.number.borrow();
    let (mut tags, mut commands) = (Vec::new(), Vec::new());
    for pair in page {
        last += 1;
        if log_number(node, &pair.key) != Some(last) {
            return Err(format!("{} comes where command {last} belongs", pair.key));
        }
        let Entry { tag, command } = postcard::from_bytes(&pair.value)
            .map_err(|_| format!("{} in etcd holds no command of this version", pair.key))?;
        tags.push(tag);
        commands.push(command);
    }
    let outcomes = {
        let _both = node.both();
        node.number.send_replace(last);
        node.applied.apply(&commands)
    };
    let mut waiting = node.waiting.lock();
    for (tag, outcome) in tags.iter().zip(outcomes) {
        if let Some(tell) = waiting.remove(tag) {
            // Whoever gave up does not care.
            let _ = tell.send(outcome);
        }
    }
    Ok(())
}
