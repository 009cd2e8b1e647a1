//! Calls to other nodes, over one connection an address.
//!
//! A task an address connects when there is something to say, and again when
//! the connection breaks. A call that could not be handed over fails at once,
//! and the next attempt is made a moment later; so callers decide how long they
//! try. A call that was handed over and never answered may have been heard:
//! [`CallError`] tells the two apart.
//!
//! ```text
//! call ── permit ──> queue ──> connect, greet ──> writer ──> peer
//!   └──────────── waiting[id] <── reader <──────────────────┘
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::frame::{self, Frame};
use super::hello::{self, Preface};
use super::{Stream, WireSettings, tune};

/// An address that nobody called for so long is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The same failure of the same address is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// How long a name may take to become an address.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The peer has not heard it.
    Unreachable {
        /// Whom we called.
        address: String,
        /// What prevented it.
        why: String,
    },
    /// The connection broke before the answer: the peer may have heard it.
    Lost {
        /// Whom we called.
        address: String,
        /// What happened.
        why: String,
    },
    /// No answer in time: the peer may have heard it.
    TimedOut {
        /// Whom we called.
        address: String,
        /// How long we waited.
        after: Duration,
    },
    /// The peer has nobody for calls of this kind.
    Unhandled {
        /// Whom we called.
        address: String,
        /// The kind.
        kind: u8,
    },
    /// More than a frame holds.
    TooLong {
        /// Of the call.
        body_bytes: usize,
        /// Of a frame.
        frame_bytes_max: u32,
    },
}

impl CallError {
    /// Whether the peer may have heard the call.
    pub fn may_have_been_heard(&self) -> bool {
        matches!(self, CallError::Lost { .. } | CallError::TimedOut { .. })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable { address, why } => write!(out, "cannot reach {address}: {why}"),
            CallError::Lost { address, why } => write!(out, "lost {address}: {why}"),
            CallError::TimedOut { address, after } => {
                write!(out, "no answer from {address} in {} ms", after.as_millis())
            }
            CallError::Unhandled { address, kind } => {
                write!(out, "{address} does not answer calls of kind {kind:#04x}")
            }
            CallError::TooLong { body_bytes, frame_bytes_max } => {
                write!(out, "{body_bytes} bytes do not fit a frame of {frame_bytes_max}")
            }
        }
    }
}

impl std::error::Error for CallError {}

/// The other nodes, by address.
pub struct Peers {
    settings: Arc<WireSettings>,
    lines: Mutex<HashMap<String, Line>>,
    next_id: AtomicU64,
}

/// One address.
#[derive(Clone)]
struct Line {
    queue: mpsc::UnboundedSender<Frame>,
    waiting: Arc<Waiting>,
    permits: Arc<Semaphore>,
}

type Answer = Result<Frame, Break>;

/// Why calls of one connection get no answer.
#[derive(Clone)]
enum Break {
    Unreachable(String),
    Lost(String),
}

/// Who waits for which answer.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, oneshot::Sender<Answer>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: u64, answer: Answer) {
        if let Some(caller) = self.lock().remove(&id) {
            // A caller that no longer waits is no loss.
            let _ = caller.send(answer);
        }
    }

    fn fail_all(&self, why: &Break) {
        for (_, caller) in self.lock().drain() {
            let _ = caller.send(Err(why.clone()));
        }
    }
}

/// Takes the caller out when it gives up.
struct Waits {
    waiting: Arc<Waiting>,
    id: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

impl Peers {
    /// Nobody is called before the first [`Peers::call`].
    pub fn new(settings: Arc<WireSettings>) -> Arc<Peers> {
        Arc::new(Peers { settings, lines: Mutex::new(HashMap::new()), next_id: AtomicU64::new(1) })
    }

    /// The settings of this node's conversations.
    pub fn settings(&self) -> &Arc<WireSettings> {
        &self.settings
    }

    /// Asks the node at `address`, and waits for what it answers.
    ///
    /// Dropping the future is fine: an answer that comes later is ignored.
    pub async fn call(
        &self,
        address: &str,
        kind: u8,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        debug_assert!(kind < frame::KINDS_OWN, "the transport's own kind");
        let frame_bytes_max = self.settings.frame_bytes_max;
        if !frame::fits(body.len(), frame_bytes_max) {
            return Err(CallError::TooLong { body_bytes: body.len(), frame_bytes_max });
        }
        let answer = timeout(within, self.ask(address, kind, body)).await;
        let address = address.to_owned();
        match answer {
            Err(_) => Err(CallError::TimedOut { address, after: within }),
            Ok(Err(Break::Unreachable(why))) => Err(CallError::Unreachable { address, why }),
            Ok(Err(Break::Lost(why))) => Err(CallError::Lost { address, why }),
            Ok(Ok(answer)) if answer.kind == frame::UNHANDLED => {
                Err(CallError::Unhandled { address, kind })
            }
            Ok(Ok(answer)) => Ok(answer.body),
        }
    }

    async fn ask(&self, address: &str, kind: u8, body: Vec<u8>) -> Answer {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut frame = Frame { id, kind, body };
        loop {
            let line = self.line(address);
            // The semaphore lives as long as the line and is never closed.
            let _permit = line.permits.acquire().await;
            let (caller, answer) = oneshot::channel();
            line.waiting.lock().insert(id, caller);
            let _waits = Waits { waiting: line.waiting.clone(), id };
            match line.queue.send(frame) {
                Ok(()) => {}
                // The line went to sleep just now.
                Err(mpsc::error::SendError(unsent)) => {
                    frame = unsent;
                    continue;
                }
            }
            return answer
                .await
                .unwrap_or_else(|_| Err(Break::Lost("the connection's task ended".into())));
        }
    }

    fn line(&self, address: &str) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(address).filter(|line| !line.queue.is_closed()) {
            return line.clone();
        }
        lines.retain(|_, line| !line.queue.is_closed());
        let (queue, calls) = mpsc::unbounded_channel();
        let line = Line {
            queue,
            waiting: Arc::default(),
            permits: Arc::new(Semaphore::new(self.settings.calls_max)),
        };
        let task = Task {
            settings: self.settings.clone(),
            address: address.to_owned(),
            waiting: line.waiting.clone(),
            calls,
            logged: None,
        };
        tokio::spawn(task.run());
        lines.insert(address.to_owned(), line.clone());
        line
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Peers").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Keeps one address connected while it is called.
struct Task {
    settings: Arc<WireSettings>,
    address: String,
    waiting: Arc<Waiting>,
    calls: mpsc::UnboundedReceiver<Frame>,
    logged: Option<(String, Instant)>,
}

impl Task {
    async fn run(mut self) {
        let mut connect_at = Instant::now();
        loop {
            // Whoever gave up has taken itself out of `waiting`.
            let first = loop {
                match timeout(IDLE_MAX, self.calls.recv()).await {
                    Ok(Some(call)) if self.waiting.lock().contains_key(&call.id) => break call,
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(_) => return self.close(),
                }
            };
            sleep_until(connect_at).await;
            connect_at = Instant::now() + self.settings.retry_every;
            let why = match self.connect().await {
                Ok(stream) => match self.converse(stream, first).await {
                    Some(why) => Break::Lost(why),
                    None => return self.close(),
                },
                Err(why) => Break::Unreachable(why),
            };
            self.report(&why);
            // What is queued now was not sent either.
            if let Break::Lost(_) = &why {
                while let Ok(call) = self.calls.try_recv() {
                    self.waiting.answer(
                        call.id,
                        Err(Break::Unreachable("the connection broke just before".into())),
                    );
                }
            }
            self.waiting.fail_all(&why);
        }
    }

    /// Takes no more calls; those that slipped in find a closed queue or this.
    fn close(mut self) {
        self.calls.close();
        while let Ok(call) = self.calls.try_recv() {
            self.waiting.answer(call.id, Err(Break::Unreachable("it was idle too long".into())));
        }
    }

    async fn connect(&self) -> Result<(Box<dyn Stream>, SocketAddr), String> {
        let settings = &self.settings;
        let tcp = dial(&self.address, settings.connect_timeout).await?;
        tune(&tcp, settings.silence_max).map_err(|error| error.to_string())?;
        let from = tcp.peer_addr().map_err(|error| error.to_string())?;
        let greeted = timeout(settings.greeting_timeout, self.greet(tcp, from)).await;
        let after = settings.greeting_timeout.as_millis();
        greeted.map_err(|_| format!("no greeting in {after} ms"))?.map(|stream| (stream, from))
    }

    async fn greet(&self, mut tcp: TcpStream, from: SocketAddr) -> Result<Box<dyn Stream>, String> {
        let settings = &self.settings;
        let text = |error: io::Error| error.to_string();
        tcp.write_all(&Preface::Control.encode()).await.map_err(text)?;
        let mut stream: Box<dyn Stream> = match &settings.tls {
            Some(tls) => Box::new(
                tls.connect(&self.address, tcp)
                    .await
                    .map_err(|error| format!("TLS with it failed: {error}"))?,
            ),
            None => Box::new(tcp),
        };
        hello::greet(&mut stream, settings, from).await.map_err(|error| {
            if !matches!(error, hello::GreetingError::Io(_)) {
                settings.refusals.note(&format!("peer {}: {error}", self.address));
            }
            error.to_string()
        })?;
        Ok(stream)
    }

    /// Why the connection ended; `None` if nobody needs it any more.
    async fn converse(
        &mut self,
        (stream, _): (Box<dyn Stream>, SocketAddr),
        first: Frame,
    ) -> Option<String> {
        self.logged = None;
        let settings = self.settings.clone();
        let waiting = self.waiting.clone();
        let (reader, writer) = tokio::io::split(stream);
        let (to_writer, frames) = mpsc::unbounded_channel();
        let heard = Mutex::new(Instant::now());
        let reading = read_answers(reader, &settings, &waiting, &heard);
        let writing = write_calls(writer, frames);
        tokio::pin!(reading, writing);
        let mut called = Instant::now();
        // The writer lives as long as this function: sending cannot fail.
        let _ = to_writer.send(first);
        let mut pings = tokio::time::interval(settings.ping_every);
        loop {
            tokio::select! {
                why = &mut reading => return Some(why),
                error = &mut writing => return Some(error.to_string()),
                call = self.calls.recv() => match call {
                    Some(call) => {
                        called = Instant::now();
                        let _ = to_writer.send(call);
                    }
                    None => return None,
                },
                _ = pings.tick() => {
                    let silence = heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                    if silence >= settings.silence_max {
                        return Some(format!("no sign of life for {} ms", silence.as_millis()));
                    }
                    if called.elapsed() >= IDLE_MAX && waiting.lock().is_empty() {
                        return None;
                    }
                    if silence >= settings.ping_every {
                        let ping = Frame { id: 0, kind: frame::PING, body: Vec::new() };
                        let _ = to_writer.send(ping);
                    }
                }
            }
        }
    }

    /// A failure is worth a line when it is new, and now and then while it lasts.
    fn report(&mut self, why: &Break) {
        let text = match why {
            Break::Unreachable(why) => format!("cannot reach {}: {why}", self.address),
            Break::Lost(why) => format!("lost {}: {why}", self.address),
        };
        let known = self.logged.as_ref();
        if known.is_some_and(|(before, at)| *before == text && at.elapsed() < LOG_EVERY) {
            return;
        }
        (self.settings.log)(&text);
        self.logged = Some((text, Instant::now()));
    }
}

/// Connects to a `host:port`.
pub(crate) async fn dial(address: &str, connect_timeout: Duration) -> Result<TcpStream, String> {
    let resolved = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(address)).await;
    let candidates = match resolved {
        Ok(Ok(candidates)) => candidates,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("its name does not resolve in time".into()),
    };
    let mut why = "its name has no address".to_owned();
    for candidate in candidates {
        match timeout(connect_timeout, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no connection in {} ms", connect_timeout.as_millis()),
        }
    }
    Err(why)
}

async fn read_answers(
    mut reader: ReadHalf<Box<dyn Stream>>,
    settings: &WireSettings,
    waiting: &Waiting,
    heard: &Mutex<Instant>,
) -> String {
    loop {
        match frame::read(&mut reader, settings.frame_bytes_max).await {
            Ok(Some(frame)) => {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                match frame.kind {
                    frame::ANSWER | frame::UNHANDLED => waiting.answer(frame.id, Ok(frame)),
                    frame::PONG => {}
                    kind => return format!("it sent an answer of unknown kind {kind:#04x}"),
                }
            }
            Ok(None) => return "it closed the connection".into(),
            Err(error) => return error.to_string(),
        }
    }
}

async fn write_calls(
    mut writer: WriteHalf<Box<dyn Stream>>,
    mut frames: mpsc::UnboundedReceiver<Frame>,
) -> io::Error {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = frame::write(&mut writer, &frame).await {
            return error;
        }
    }
    io::ErrorKind::NotConnected.into()
}
