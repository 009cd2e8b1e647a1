//! The admin HTTP API, on the control thread.
//!
//! It has no login of its own: it listens on loopback unless the settings say
//! otherwise, and whoever can reach it may flush the cache. [`ENDPOINTS`] is the one
//! list of what it answers: the router, the page of an unknown address and
//! docs/operations.md are made from it.

use crate::server::{Server, Unready};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post};
use cluster::change::Command;
use cluster::topology::NodeIndex;
use engine::Now;
use net::control::ControlOp;
use serde_json::{Value, json};
use std::sync::Arc;

type Shared = State<Arc<Server>>;

/// One request that is answered.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    /// Parameters, as an example; empty without any.
    query: &'static str,
    /// What it answers or does.
    help: &'static str,
    route: fn() -> MethodRouter<Arc<Server>>,
}

const fn read(
    path: &'static str,
    help: &'static str,
    route: fn() -> MethodRouter<Arc<Server>>,
) -> Endpoint {
    Endpoint { method: "GET", path, query: "", help, route }
}

const fn write(
    path: &'static str,
    query: &'static str,
    help: &'static str,
    route: fn() -> MethodRouter<Arc<Server>>,
) -> Endpoint {
    Endpoint { method: "POST", path, query, help, route }
}

/// Everything that is answered.
#[rustfmt::skip]
const ENDPOINTS: &[Endpoint] = &[
    read("/metrics", "Prometheus text: memcached_exporter's names, then `seawall_*`", || get(metrics)),
    read("/livez", "200 while every core turns its loop", || get(livez)),
    read("/readyz", "200 when clients should come, else 503 with the reasons: loading, draining, no lease from the cluster, in another cluster than the one of `cluster.join`, a core that does not answer; in a cluster also whether all partitions have all their copies, and whether nothing more is planned", || get(readyz)),
    read("/config", "every setting with value, source, default", || get(config)),
    read("/cores", "each core's counters", || get(cores)),
    read("/hot", "the hottest keys of each core; in a cluster also where they have copies", || get(hot)),
    read("/topology", "who owns the keys; in a cluster what the `topology` command answers", || get(topology)),
    read("/ring", "the cluster: nodes, partitions, coordinator", || get(ring)),
    read("/snapshot", "the state of the last snapshot, or of the one under way", || get(snapshot)),
    write("/snapshot", "", "begins a snapshot", || post(start_snapshot)),
    write("/invalidate", "tag=a&tag=b&ns=c", "invalidates tags and namespaces", || post(invalidate)),
    write("/flush", "", "invalidates everything", || post(flush)),
    write("/drain", "node=NAME&on=true", "empties a node of the cluster, or (`on=false`) no longer", || post(drain)),
    write("/forget", "node=NAME", "takes an empty node out of the cluster", || post(forget)),
];

/// The routes.
pub fn router(server: Arc<Server>) -> Router {
    let routes = Router::new();
    ENDPOINTS
        .iter()
        .fold(routes, |routes, endpoint| routes.route(endpoint.path, (endpoint.route)()))
        .fallback(|| async { (StatusCode::NOT_FOUND, unknown_page()) })
        .with_state(server)
}

/// What a request for anything else is answered with.
fn unknown_page() -> String {
    let mut text = String::from("no such page; see docs/operations.md. There are:\n");
    for endpoint in ENDPOINTS {
        text.push_str(&format!("  {:<34} {}\n", request(endpoint), endpoint.help));
    }
    text
}

/// A request as an operator would type it.
fn request(endpoint: &Endpoint) -> String {
    let Endpoint { method, path, query, .. } = endpoint;
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{method} {path}{mark}{query}")
}

/// Runs a call that waits for the cores away from the control thread's tasks.
async fn waiting<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Response> {
    let server = server.clone();
    match tokio::task::spawn_blocking(move || work(&server)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            Err((StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response())
        }
        Err(error) => {
            Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response())
        }
    }
}

async fn metrics(State(server): Shared) -> Result<Response, Response> {
    let text = waiting(&server, Server::metrics).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn livez(State(server): Shared) -> Result<&'static str, Response> {
    waiting(&server, Server::check_cores).await?;
    Ok("ok\n")
}

async fn readyz(State(server): Shared) -> Response {
    let reasons: Vec<String> = match waiting(&server, |server| Ok(server.unready())).await {
        Ok(reasons) => reasons.iter().map(Unready::to_string).collect(),
        Err(response) => return response,
    };
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!({ "ready": reasons.is_empty(), "reasons": reasons });
    if let Some((whole, settled)) = server.whole_and_settled() {
        answer["whole"] = whole.into();
        answer["settled"] = settled.into();
    }
    (status, Json(answer)).into_response()
}

async fn config(State(server): Shared) -> Json<Value> {
    Json(server.config_json())
}

async fn cores(State(server): Shared) -> Result<Json<Value>, Response> {
    waiting(&server, Server::cores_json).await.map(Json)
}

async fn hot(State(server): Shared) -> Result<Json<Value>, Response> {
    waiting(&server, Server::hot_json).await.map(Json)
}

async fn ring(State(server): Shared) -> Response {
    match server.ring_json() {
        Some(ring) => Json(ring).into_response(),
        None => (StatusCode::NOT_FOUND, "this node belongs to no cluster\n").into_response(),
    }
}

/// A node of the cluster, and what else was given.
async fn change(
    server: &Arc<Server>,
    query: Option<String>,
    command: impl FnOnce(NodeIndex, bool) -> Command,
) -> Result<Json<Value>, Response> {
    let refuse = |status, text: String| (status, text).into_response();
    let (mut name, mut on) = (None, true);
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match (&*key, &*value) {
            ("node", node) => name = Some(node.to_owned()),
            ("on", "true") => on = true,
            ("on", "false") => on = false,
            (other, _) => {
                let text = format!("unknown parameter {other:?}; there are node and on\n");
                return Err(refuse(StatusCode::BAD_REQUEST, text));
            }
        }
    }
    let Some(name) = name else {
        return Err(refuse(StatusCode::BAD_REQUEST, "which node? give ?node=NAME\n".into()));
    };
    match server.change_node(&name, |node| command(node, on)).await {
        Ok(()) => Ok(Json(json!({ "node": name, "done": true }))),
        Err(why) => Err(refuse(StatusCode::CONFLICT, format!("{why}\n"))),
    }
}

async fn drain(State(server): Shared, RawQuery(query): RawQuery) -> Result<Json<Value>, Response> {
    change(&server, query, |node, on| Command::Drain { node, on }).await
}

async fn forget(State(server): Shared, RawQuery(query): RawQuery) -> Result<Json<Value>, Response> {
    change(&server, query, |node, _| Command::Leave { node }).await
}

async fn topology(State(server): Shared) -> Result<Response, Response> {
    let text = waiting(&server, Server::topology_json).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

async fn snapshot(State(server): Shared) -> Response {
    Json(server.snapshot_report()).into_response()
}

async fn start_snapshot(State(server): Shared) -> Response {
    match server.start_snapshot() {
        Ok(()) => (StatusCode::ACCEPTED, Json(server.snapshot_report())).into_response(),
        Err(error) => (StatusCode::CONFLICT, format!("{error:#}\n")).into_response(),
    }
}

async fn invalidate(
    State(server): Shared,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Response> {
    let (mut tags, mut namespaces) = (Vec::new(), Vec::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "tag" => tags.push(value.into_owned().into_bytes()),
            "ns" => namespaces.push(value.into_owned().into_bytes()),
            other => {
                let text = format!("unknown parameter {other:?}; there are tag and ns\n");
                return Err((StatusCode::BAD_REQUEST, text).into_response());
            }
        }
    }
    if tags.is_empty() && namespaces.is_empty() {
        return Err((
            StatusCode::BAD_REQUEST,
            "nothing to invalidate: give ?tag=NAME or ?ns=NAME\n",
        )
            .into_response());
    }
    if let Some(unknown) = namespaces.iter().find(|name| !server.has_namespace(name)) {
        let text = format!("namespace {:?} is not configured\n", String::from_utf8_lossy(unknown));
        return Err((StatusCode::NOT_FOUND, text).into_response());
    }
    let invalidated = tags.len() + namespaces.len();
    if server.is_clustered() {
        let ops = [ControlOp::InvalidateTags(tags), ControlOp::InvalidateNamespaces(namespaces)];
        everywhere(&server, &ops).await?;
    } else {
        waiting(&server, move |server| server.invalidate(tags, namespaces)).await?;
    }
    Ok(Json(json!({ "invalidated": invalidated })))
}

async fn flush(State(server): Shared) -> Result<Json<Value>, Response> {
    if server.is_clustered() {
        everywhere(&server, &[ControlOp::Flush { at: Now(0) }]).await?;
    } else {
        waiting(&server, Server::flush).await?;
    }
    Ok(Json(json!({ "flushed": true })))
}

/// Does it on every node of the cluster.
async fn everywhere(server: &Arc<Server>, ops: &[ControlOp]) -> Result<(), Response> {
    for op in ops {
        if let Err(why) = server.everywhere(op).await {
            return Err((StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/operations.md.
    fn markdown() -> String {
        let mut out = String::from("| request | answer |\n|---|---|\n");
        for endpoint in ENDPOINTS {
            out.push_str(&format!("| `{}` | {} |\n", request(endpoint), endpoint.help));
        }
        out
    }

    #[test]
    fn the_operations_page_lists_every_request() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let page = std::fs::read_to_string(path).unwrap();
        let begin = page.find("| request | answer |").expect("the page has the table");
        let end = begin + page[begin..].find("\n\n").map_or(page.len() - begin, |at| at + 1);
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            let updated = format!("{}{}{}", &page[..begin], markdown(), &page[end..]);
            std::fs::write(path, updated).unwrap();
            return;
        }
        assert_eq!(
            &page[begin..end],
            markdown(),
            "docs/operations.md is out of date; run the test with UPDATE_SNAPSHOTS=1"
        );
    }

    #[test]
    fn no_request_has_two_answers_and_each_method_is_what_it_says() {
        for (at, one) in ENDPOINTS.iter().enumerate() {
            let same = |other: &&Endpoint| other.method == one.method && other.path == one.path;
            assert_eq!(ENDPOINTS.iter().position(|other| same(&other)), Some(at), "{}", one.path);
        }
    }
}
