//! etcd's JSON gateway: requests over plain HTTP/1.1, no generated code.
//!
//! The gateway is part of every etcd since 3.4. Keys and values travel in base64,
//! 64-bit numbers as strings, and what is zero or empty is left out.
//!
//! Requests go to one server until it fails, then to the next. Some connections
//! are kept for the next requests. An error says whether the request may have
//! been heard.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::EtcdOptions;
use crate::wire::{Stream, peers::dial, tune};

/// Connections that are kept for the next requests.
const IDLE_MAX: usize = 8;
/// Longest answer: some snapshot chunks in base64.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest line of a watch: etcd's own bound of a request, in base64, and room.
const LINE_BYTES_MAX: usize = 16 << 20;
/// How long etcd may check a password.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct GatewayError {
    /// etcd may have done what was asked.
    pub perhaps_done: bool,
    /// For the operator.
    pub why: String,
}

impl fmt::Display for GatewayError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// The servers.
pub(super) struct Gateway {
    options: EtcdOptions,
    current: AtomicUsize,
    /// Which server, and a connection to it.
    idle: Mutex<Vec<(usize, Sender)>>,
    /// What shows who we are. Whoever gets a new one holds the lock meanwhile.
    token: tokio::sync::Mutex<Option<String>>,
}

impl Gateway {
    pub fn new(options: EtcdOptions) -> Arc<Gateway> {
        Arc::new(Gateway {
            options,
            current: AtomicUsize::new(0),
            idle: Mutex::default(),
            token: tokio::sync::Mutex::default(),
        })
    }

    /// Asks one of the servers.
    pub async fn call(
        self: &Arc<Self>,
        path: &str,
        body: Value,
        within: Duration,
    ) -> Result<Value, GatewayError> {
        let at = self.current.load(Ordering::Relaxed) % self.options.endpoints.len();
        let asked = timeout(within, self.ask(at, path, &body)).await;
        let answer = asked.unwrap_or_else(|_| {
            let (server, ms) = (&self.options.endpoints[at], within.as_millis());
            let why = format!("no answer from etcd at {server} in {ms} ms ({path})");
            Err(GatewayError { perhaps_done: true, why })
        });
        if answer.is_err() {
            self.leave(at);
        }
        answer
    }

    /// The next request goes elsewhere.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.options.endpoints.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        self.lock_idle().retain(|(server, _)| *server != at);
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Sender)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        self: &Arc<Self>,
        at: usize,
        path: &str,
        body: &Value,
    ) -> Result<Value, GatewayError> {
        let token = self.token(at).await?;
        let answer = self.ask_as(token.as_deref(), at, path, body).await;
        if let (Some(old), Err(error)) = (token, &answer)
            && error.why.contains("auth")
        {
            // It has expired, or the users have changed.
            let mut token = self.token.lock().await;
            if token.as_deref() == Some(&*old) {
                *token = None;
            }
        }
        answer
    }

    async fn ask_as(
        &self,
        token: Option<&str>,
        at: usize,
        path: &str,
        body: &Value,
    ) -> Result<Value, GatewayError> {
        let (sender, answer) = self.send(token, at, path, body).await?;
        let status = answer.status();
        let lost = |why: String| GatewayError { perhaps_done: true, why };
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| lost(error.to_string()))?.to_bytes();
        if !sender.is_closed() {
            let mut idle = self.lock_idle();
            if idle.len() < IDLE_MAX {
                idle.push((at, sender));
            }
        }
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| lost(error.to_string()));
        }
        let text: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = text["error"].as_str().unwrap_or("an error without a text");
        // "etcdserver: request timed out" may yet be carried out.
        let perhaps_done = !status.is_client_error();
        let why = format!("etcd at {}: {text}", self.options.endpoints[at]);
        Err(GatewayError { perhaps_done, why })
    }

    /// Sends a request, and waits until its answer begins.
    async fn send(
        &self,
        token: Option<&str>,
        at: usize,
        path: &str,
        body: &Value,
    ) -> Result<(Sender, Response<Incoming>), GatewayError> {
        let server = &self.options.endpoints[at];
        let unheard = |why: String| GatewayError {
            perhaps_done: false,
            why: format!("cannot reach etcd at {server}: {why}"),
        };
        let mut sender = match self.kept(at).await {
            Some(sender) => sender,
            None => self.connect(server).await.map_err(unheard)?,
        };
        let mut request =
            Request::post(path).header(HOST, server).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| unheard(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| GatewayError {
            perhaps_done: !error.is_canceled(),
            why: format!("lost etcd at {server}: {error}"),
        })?;
        Ok((sender, answer))
    }

    /// What shows who we are, if etcd wants to know. etcd takes its time to check
    /// a password, on purpose: one check at a time, and whoever cannot wait for
    /// it leaves it going.
    async fn token(self: &Arc<Self>, at: usize) -> Result<Option<String>, GatewayError> {
        if self.options.user.is_none() {
            return Ok(None);
        }
        if let Ok(token) = self.token.try_lock()
            && token.is_some()
        {
            return Ok(token.clone());
        }
        let gateway = self.clone();
        let checking = tokio::spawn(async move { gateway.authenticate(at).await });
        let unheard = |why: String| GatewayError { perhaps_done: false, why };
        checking
            .await
            .map_err(|error| unheard(error.to_string()))?
            .map_err(|error| unheard(error.why))
    }

    async fn authenticate(&self, at: usize) -> Result<Option<String>, GatewayError> {
        let mut token = self.token.lock().await;
        if let (None, Some((user, password))) = (&*token, &self.options.user) {
            let body = json!({ "name": user, "password": password });
            let asking = self.ask_as(None, at, "/v3/auth/authenticate", &body);
            let answer = timeout(AUTHENTICATE_TIMEOUT, asking).await.unwrap_or_else(|_| {
                let why = format!("etcd at {} checks no password", self.options.endpoints[at]);
                Err(GatewayError { perhaps_done: false, why })
            })?;
            *token = answer["token"].as_str().map(str::to_owned);
        }
        Ok(token.clone())
    }

    /// A connection that is open from before.
    async fn kept(&self, at: usize) -> Option<Sender> {
        loop {
            let mut sender = {
                let mut idle = self.lock_idle();
                let found = idle.iter().position(|(server, _)| *server == at)?;
                idle.swap_remove(found).1
            };
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self, server: &str) -> Result<Sender, String> {
        let tcp = dial(server, self.options.timing.connect_timeout).await?;
        tune(&tcp, self.options.timing.silence_max).map_err(|error| error.to_string())?;
        let stream: Box<dyn Stream> = match &self.options.tls {
            Some(tls) => {
                Box::new(tls.connect(server, tcp).await.map_err(|error| error.to_string())?)
            }
            None => Box::new(tcp),
        };
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends with the sender, or by an error that the sender sees.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Watches keys that begin so, from now on: what changes after this returns is seen.
    pub async fn watch(self: &Arc<Self>, key: &str) -> Result<Watch, GatewayError> {
        let at = self.current.load(Ordering::Relaxed) % self.options.endpoints.len();
        let opened = timeout(self.options.timing.silence_max, self.watch_at(at, key)).await;
        let opened = opened.unwrap_or_else(|_| {
            let why = format!("no watch from etcd at {} in time", self.options.endpoints[at]);
            Err(GatewayError { perhaps_done: false, why })
        });
        opened.inspect_err(|_| self.leave(at))
    }

    async fn watch_at(self: &Arc<Self>, at: usize, key: &str) -> Result<Watch, GatewayError> {
        let body = json!({ "create_request": {
            "key": encode(key.as_bytes()),
            "range_end": encode(&prefix_end(key)),
        }});
        let refused = |why: String| GatewayError {
            perhaps_done: false,
            why: format!("etcd at {} does not let us watch: {why}", self.options.endpoints[at]),
        };
        let token = self.token(at).await?;
        let (sender, answer) = self.send(token.as_deref(), at, "/v3/watch", &body).await?;
        if !answer.status().is_success() {
            return Err(refused(answer.status().to_string()));
        }
        let mut watch = Watch { _sender: sender, body: answer.into_body(), rest: Vec::new() };
        let first = watch.next().await.map_err(refused)?;
        match first["result"]["created"].as_bool() {
            Some(true) => Ok(watch),
            _ => Err(refused(first.to_string())),
        }
    }

    /// A watch gave no sign of life: its server is not asked next.
    pub fn distrust(&self) {
        self.leave(self.current.load(Ordering::Relaxed) % self.options.endpoints.len());
    }
}

/// Changes as they happen.
pub(super) struct Watch {
    _sender: Sender,
    body: Incoming,
    rest: Vec<u8>,
}

impl Watch {
    /// The next message. It may be dropped and called again.
    pub async fn next(&mut self) -> Result<Value, String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| error.to_string());
            }
            if self.rest.len() > LINE_BYTES_MAX {
                return Err("a line without an end".into());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.rest.extend_from_slice(bytes);
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("etcd closed the watch".into()),
            }
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub key: String,
    pub value: Vec<u8>,
    pub mod_revision: i64,
}

impl Pair {
    pub fn parse(pair: &Value) -> Option<Pair> {
        Some(Pair {
            key: String::from_utf8(decode(&pair["key"])?).ok()?,
            value: decode(&pair["value"]).unwrap_or_default(),
            mod_revision: number(&pair["mod_revision"]),
        })
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str()?).ok()
}

/// A 64-bit number; what is left out is zero.
pub(super) fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_i64()).unwrap_or(0)
}

/// The first key after all that begin so.
pub(super) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Text has no byte 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The pairs of a range's answer.
pub(super) fn pairs(answer: &Value) -> Vec<Pair> {
    answer["kvs"].as_array().into_iter().flatten().filter_map(Pair::parse).collect()
}

pub(super) fn revision(answer: &Value) -> i64 {
    number(&answer["header"]["revision"])
}

/// Building blocks of transactions.
pub(super) fn put(key: &str, value: &[u8]) -> Value {
    json!({ "request_put": { "key": encode(key.as_bytes()), "value": encode(value) } })
}

/// The key is there.
pub(super) fn exists(key: &str) -> Value {
    compare(key, "CREATE", "create_revision", 0, "GREATER")
}

/// The key is not there.
pub(super) fn absent(key: &str) -> Value {
    compare(key, "CREATE", "create_revision", 0, "EQUAL")
}

/// The key was last changed by that revision; 0 if it is not there.
pub(super) fn unchanged(key: &str, mod_revision: i64) -> Value {
    compare(key, "MOD", "mod_revision", mod_revision, "EQUAL")
}

fn compare(key: &str, target: &str, field: &str, number: i64, result: &str) -> Value {
    json!({
        "key": encode(key.as_bytes()), "target": target, field: number.to_string(), "result": result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_the_gateway_writes_them() {
        let answer = json!({
            "header": { "revision": "7" },
            "kvs": [{ "key": "YQ==", "mod_revision": "5", "value": "Yg==" }, { "key": "YQ==" }, {}],
        });
        assert_eq!(revision(&answer), 7);
        let read = pairs(&answer);
        assert_eq!(read.len(), 2);
        assert_eq!((&*read[0].key, &*read[0].value, read[0].mod_revision), ("a", &b"b"[..], 5));
        assert_eq!((&*read[1].value, read[1].mod_revision), (&b""[..], 0));
        assert_eq!(prefix_end("a/"), b"a0");
    }
}
