//! Who leads, by a record in etcd.
//!
//! The leader writes its record again and again, each time on condition that it
//! is still the one it wrote. Others note when they saw it change, by their own
//! clocks. After a change-less while they put their own in its place, on
//! condition that it is still the one they saw. A leader that gives its place up
//! takes its record away: that is filled at once.
//!
//! Why two never lead at once: a record written at `t` (as asked, by the leader's
//! clock) is seen by others at `t` or later, and they wait from then on. The
//! leader believes in itself until `t` plus that same wait, and no longer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Node;
use super::gateway::{GatewayError, Pair, encode, number, pairs, put, revision, unchanged};
use crate::{Confirmation, CoordinatorError, Role, draw};

/// The lease is renewed so many times in its length.
const RENEWALS: u32 = 4;

/// The record.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    address: String,
    /// Drawn by each process.
    tag: u64,
    term: u64,
}

/// What this node knows of the leader.
#[derive(Default)]
pub(super) struct Leadership {
    known: Mutex<Known>,
    /// One attempt to write at a time.
    writing: tokio::sync::Mutex<()>,
    /// Nobody's record is there any more.
    vacant: Notify,
}

#[derive(Default)]
struct Known {
    /// Of this process.
    tag: u64,
    /// The record in etcd, and its revision (0 if there is none).
    record: Option<Record>,
    mod_revision: i64,
    /// etcd's revision when it was so: news may come late.
    as_of: i64,
    /// When it was seen to change.
    changed: Option<Instant>,
    /// This node's record was written by a request that began then.
    written: Option<Instant>,
    /// The term in which this node took over, and when it had seen the record change that
    /// it replaced: no earlier leader has written its own since.
    took_over: Option<(u64, Instant)>,
    /// When this node asked etcd last whether it leads.
    asked: Option<Instant>,
    lease: Option<(i64, Instant)>,
}

impl Known {
    fn is_own(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.tag == self.tag)
    }

    /// There is no record: it was taken away, or grew far older than any leader's.
    fn is_vacant(&self) -> bool {
        self.changed.is_some() && self.mod_revision == 0
    }
}

impl Leadership {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn term(&self) -> u64 {
        self.known().record.as_ref().map_or(0, |record| record.term)
    }
}

pub(super) fn key(node: &Node) -> String {
    node.key("leader")
}

fn term_key(node: &Node) -> String {
    node.key("term")
}

/// The record as etcd has it as of one of its revisions.
pub(super) fn seen(node: &Node, pair: Option<&Pair>, as_of: i64) {
    let mut known = node.leadership.known();
    if as_of > known.as_of {
        known.as_of = as_of;
        let mod_revision = pair.map_or(0, |pair| pair.mod_revision);
        if mod_revision != known.mod_revision || known.changed.is_none() {
            known.record = pair.and_then(|pair| postcard::from_bytes(&pair.value).ok());
            known.mod_revision = mod_revision;
            known.changed = Some(Instant::now());
        }
        if known.is_vacant() {
            node.leadership.vacant.notify_one();
        }
    }
    drop(known);
    show(node);
}

/// Tells those who watch the role, if it changed.
fn show(node: &Node) {
    let takeover = node.options.timing.takeover;
    let role = {
        let known = node.leadership.known();
        let fresh = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < takeover);
        match &known.record {
            Some(record) if known.is_own() && fresh(known.written) => {
                Role::Leader { term: record.term }
            }
            // A record is news for a while longer: it takes its way through etcd.
            Some(record)
                if !known.is_own()
                    && known.changed.is_some_and(|at| at.elapsed() < 2 * takeover) =>
            {
                Role::Follower { leader: Some(record.address.clone()) }
            }
            _ => Role::Follower { leader: None },
        }
    };
    node.role.send_if_modified(|shown| {
        let changed = *shown != role;
        if changed {
            *shown = role;
        }
        changed
    });
}

/// Leads if it can; runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    let timing = node.options.timing.clone();
    node.leadership.known().tag = draw();
    let mut patience = timing.takeover;
    loop {
        show(&node);
        let (own, vacant, silence) = {
            let known = node.leadership.known();
            (known.is_own(), known.is_vacant(), known.changed.map(|at| at.elapsed()))
        };
        let wait = match silence {
            _ if own => {
                match write(&node, false).await {
                    Ok(true) => {}
                    Ok(false) => (node.options.log)("this node no longer leads the cluster"),
                    Err(error) => node.trouble(&error.why),
                }
                timing.refresh
            }
            // etcd was not read yet, or cannot be followed: no leader knows less
            // than those it leads.
            None => timing.refresh / 4,
            Some(_) if node.state().stuck.is_some() => timing.refresh,
            Some(silence) if vacant || silence >= patience => match write(&node, true).await {
                Ok(true) => {
                    (node.options.log)("this node leads the cluster");
                    timing.refresh
                }
                Ok(false) => {
                    patience = timing.takeover + jitter(timing.refresh);
                    timing.refresh / 4
                }
                Err(error) => {
                    node.trouble(&error.why);
                    timing.refresh
                }
            },
            Some(silence) => (patience - silence).min(timing.refresh / 4),
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = node.leadership.vacant.notified() => {}
        }
    }
}

fn jitter(most: Duration) -> Duration {
    Duration::from_micros(draw() % (most.as_micros() as u64).max(1))
}

/// Asks etcd whether this node still leads, by writing its record.
pub(super) async fn confirm(node: &Arc<Node>) -> Result<Confirmation, CoordinatorError> {
    let at = Instant::now();
    let asked_before = {
        let mut known = node.leadership.known();
        if !known.is_own() {
            return Err(CoordinatorError::NotLeader);
        }
        known.asked.replace(at)
    };
    match write(node, false).await {
        Ok(true) => {
            let known = node.leadership.known();
            let record = known.record.as_ref().filter(|_| known.is_own());
            let term = record.ok_or(CoordinatorError::NotLeader)?.term;
            let took_over = known.took_over.filter(|took_over| took_over.0 == term);
            let vacant_since = took_over.map(|(_, seen)| asked_before.unwrap_or(seen).max(seen));
            Ok(Confirmation { at, term, vacant_since })
        }
        Ok(false) => Err(CoordinatorError::NotLeader),
        Err(error) => {
            node.trouble(&error.why);
            Err(CoordinatorError::NotLeader)
        }
    }
}

/// Writes this node's record in place of the one that is known, under a new term
/// if it was another's; false if it is no longer the one in etcd.
async fn write(node: &Arc<Node>, take_over: bool) -> Result<bool, GatewayError> {
    let _one_at_a_time = node.leadership.writing.lock().await;
    // The record may be this node's own, of an attempt whose answer got lost.
    Ok(write_once(node, take_over).await?
        || node.leadership.known().is_own() && write_once(node, false).await?)
}

async fn write_once(node: &Arc<Node>, take_over: bool) -> Result<bool, GatewayError> {
    let lease = lease(node).await?;
    let (tag, mod_revision, record, changed) = {
        let known = node.leadership.known();
        if !take_over && !known.is_own() {
            return Ok(false);
        }
        (known.tag, known.mod_revision, known.record.clone(), known.changed)
    };
    let mut conditions = vec![unchanged(&key(node), mod_revision)];
    let mut puts = Vec::new();
    let term = match record {
        Some(record) if !take_over => record.term,
        _ => {
            let (last, term_revision) = read_term(node).await?;
            conditions.push(unchanged(&term_key(node), term_revision));
            puts.push(put(&term_key(node), (last + 1).to_string().as_bytes()));
            last + 1
        }
    };
    let (name, address) = (node.options.name.clone(), node.options.peer_address.clone());
    let record = Record { name, address, tag, term };
    let mut own = put(&key(node), &crate::encode(&record));
    own["request_put"]["lease"] = json!(lease.to_string());
    puts.push(own);
    let body = json!({
        "compare": conditions,
        "success": puts,
        "failure": [{ "request_range": { "key": encode(key(node).as_bytes()) } }],
    });
    let began = Instant::now();
    let answer = call(node, "/v3/kv/txn", body).await?;
    node.fine();
    let now = revision(&answer);
    if answer["succeeded"].as_bool() != Some(true) {
        seen(node, pairs(&answer["responses"][0]["response_range"]).first(), now);
        return Ok(false);
    }
    let mut known = node.leadership.known();
    if now >= known.as_of {
        known.as_of = now;
        known.mod_revision = now;
        known.record = Some(record);
        known.changed = Some(Instant::now());
    }
    known.written = Some(began);
    if let Some(seen) = changed.filter(|_| take_over) {
        known.took_over = Some((term, seen));
    }
    drop(known);
    show(node);
    Ok(true)
}

async fn call(node: &Node, path: &str, body: Value) -> Result<Value, GatewayError> {
    // A leader that waits longer is none any more.
    node.gateway.call(path, body, node.options.timing.takeover).await
}

async fn read_term(node: &Node) -> Result<(u64, i64), GatewayError> {
    let body = json!({ "key": encode(term_key(node).as_bytes()) });
    let answer = call(node, "/v3/kv/range", body).await?;
    let Some(pair) = pairs(&answer).pop() else { return Ok((0, 0)) };
    let term = std::str::from_utf8(&pair.value).ok().and_then(|text| text.parse().ok());
    Ok((term.unwrap_or(0), pair.mod_revision))
}

/// A lease that lives for some time yet.
async fn lease(node: &Node) -> Result<i64, GatewayError> {
    let length = node.options.timing.lease;
    let held = node.leadership.known().lease;
    if let Some((id, renewed)) = held {
        if renewed.elapsed() < length / RENEWALS {
            return Ok(id);
        }
        let body = json!({ "ID": id.to_string() });
        let answer = call(node, "/v3/lease/keepalive", body).await?;
        if number(&answer["result"]["TTL"]) > 0 {
            node.leadership.known().lease = Some((id, Instant::now()));
            return Ok(id);
        }
    }
    let seconds = length.as_secs().max(2).to_string();
    let answer = call(node, "/v3/lease/grant", json!({ "TTL": seconds })).await?;
    let id = number(&answer["ID"]);
    node.leadership.known().lease = Some((id, Instant::now()));
    Ok(id)
}

/// Gives the place up.
pub(super) async fn resign(node: &Arc<Node>) {
    let (own, mod_revision) = {
        let mut known = node.leadership.known();
        let was = (known.is_own(), known.mod_revision);
        // It leads no more before anybody else can.
        *known = Known::default();
        was
    };
    show(node);
    if own {
        let delete = json!({ "request_delete_range": { "key": encode(key(node).as_bytes()) } });
        let body = json!({ "compare": [unchanged(&key(node), mod_revision)], "success": [delete] });
        // Without an answer others wait for the record to grow old.
        let _ = call(node, "/v3/kv/txn", body).await;
    }
}
