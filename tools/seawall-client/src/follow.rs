//! Notices that the topology changes.
//!
//! `config get cluster` begins with the revision and names only the nodes, so it
//! is asked for every second; the topology itself, some 500 KB in a large
//! cluster, only when the revision is another. After an alarm (a connection
//! ended, a node says that it cannot serve) the question is asked at once and
//! often, because the cluster is about to decide.

use crate::connection::Endpoint;
use crate::execute::Inner;
use crate::protocol::{self, Code, Shape};
use crate::routing::{Routing, Topology};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How long after an alarm the question is asked often.
const HURRY: Duration = Duration::from_secs(3);
/// How often that is.
const HURRY_INTERVAL: Duration = Duration::from_millis(100);
/// Alarms closer to each other than this are one.
const ALARM_INTERVAL: Duration = Duration::from_millis(20);
/// Nodes that are asked before the next pause.
const ASKED_MAX: u32 = 3;
/// Time that the first of them has to answer; each other has twice as much.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// The task; it ends with the client.
pub async fn follow(inner: Weak<Inner>, alarm: Arc<Notify>, interval: Duration) {
    let mut hurry_until = Instant::now();
    loop {
        let pause = match Instant::now() < hurry_until {
            true => HURRY_INTERVAL.min(interval),
            false => interval,
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = alarm.notified() => {
                hurry_until = Instant::now() + HURRY;
                sleep(ALARM_INTERVAL).await;
            }
        }
        let Some(inner) = inner.upgrade() else { return };
        // Nobody may answer now; it is asked again soon.
        for attempt in 0..ASKED_MAX {
            let routing = inner.pool.routing();
            let (endpoint, _) = routing.pick(None, attempt);
            let time = ANSWER_TIME * (1 << attempt);
            if look(&inner, endpoint, &routing, time).await.is_ok() {
                break;
            }
        }
    }
}

/// Asks one node, and takes over what is new.
async fn look(
    inner: &Inner,
    endpoint: &Endpoint,
    routing: &Routing,
    time: Duration,
) -> Result<(), String> {
    if let Some((known, _)) = routing.revision()
        && revision(endpoint, time).await? == known
    {
        return Ok(());
    }
    // That one may be long, and the node has just answered.
    let topology = topology(endpoint, time.max(inner.options.attempt_timeout)).await?;
    if is_news(&topology, routing.revision()) {
        inner.counting.topology_changes.fetch_add(1, Relaxed);
        inner.pool.install(topology);
    }
    Ok(())
}

/// A later revision, or another cluster.
fn is_news(topology: &Topology, known: Option<(u64, u64)>) -> bool {
    match (topology, known) {
        (Topology::Cluster(_), None) => true,
        (Topology::Cluster(new), Some((revision, seed))) => {
            new.seed != seed || new.revision > revision
        }
        // A node that has just started knows nothing yet.
        (Topology::Single | Topology::NotBegun, _) => false,
    }
}

async fn revision(endpoint: &Endpoint, time: Duration) -> Result<u64, String> {
    let body = ask(endpoint, "config get cluster", Shape::Config, time).await?.1;
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let number = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
    number.ok_or_else(|| format!("{}: no revision", endpoint.address()))
}

/// What a node tells of the topology.
pub async fn topology(endpoint: &Endpoint, time: Duration) -> Result<Topology, String> {
    let text = ask(endpoint, "topology", Shape::Text, time).await?.0;
    Topology::parse(&text).map_err(|error| format!("{}: topology: {error}", endpoint.address()))
}

async fn ask(
    endpoint: &Endpoint,
    line: &str,
    shape: Shape,
    time: Duration,
) -> Result<(bytes::Bytes, bytes::Bytes), String> {
    let request = protocol::command(line).expect("it is short");
    match endpoint.ask(request, shape, Instant::now() + time).await {
        Ok(answer) if answer.code == Code::Done => Ok((answer.line, answer.value)),
        Ok(answer) => Err(format!("{}: {line}: {}", endpoint.address(), answer.text())),
        Err(failure) => {
            endpoint.avoid();
            Err(failure.why())
        }
    }
}
