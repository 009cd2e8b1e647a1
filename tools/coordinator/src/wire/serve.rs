//! Answers other nodes.
//!
//! A task a connection: it greets, then reads calls and starts each; answers
//! leave in the order in which they are ready. A peer that has too many calls
//! under way is not read from until some are answered.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::frame::{self, Frame};
use super::hello::{self, PREFACE_BYTES, PeerInfo, Preface};
use super::{Boxed, Stream, WireSettings, tune};

/// A dialler pings at least every quarter of this, unless its machine is gone.
const SILENCES_MAX: u32 = 5;
/// Refused connections are logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Answers calls of some kinds.
pub trait Handler: Send + Sync + 'static {
    /// Which kinds.
    fn kinds(&self) -> RangeInclusive<u8>;

    /// The answer to one call.
    fn handle<'a>(&'a self, from: &'a PeerInfo, kind: u8, body: Vec<u8>) -> Boxed<'a, Vec<u8>>;
}

/// Takes over a data connection: its socket, from which exactly the preface was
/// read, and the core it is for.
pub type TakeLink = Arc<dyn Fn(TcpStream, u16) + Send + Sync>;

/// Serves connections of peers.
pub struct Server {
    settings: Arc<WireSettings>,
    handlers: Vec<Arc<dyn Handler>>,
    take_link: Option<TakeLink>,
    connections: Semaphore,
    logged: Mutex<Option<Instant>>,
}

impl Server {
    /// A server with these handlers; of two for the same kind the first is asked.
    pub fn new(
        settings: Arc<WireSettings>,
        handlers: Vec<Arc<dyn Handler>>,
        take_link: Option<TakeLink>,
    ) -> Arc<Server> {
        let connections = Semaphore::new(settings.connections_max);
        Arc::new(Server { settings, handlers, take_link, connections, logged: Mutex::new(None) })
    }

    /// Accepts and serves until the future is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        // Dropping the set ends the connections.
        let mut serving = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let server = self.clone();
                        serving.spawn(async move { server.accept_one(stream).await });
                    }
                    Err(error) => {
                        self.report(&format!("cannot accept a peer: {error}"));
                        // No descriptors are left, or similar: it will not pass at once.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
                Some(_) = serving.join_next() => {}
            }
        }
    }

    /// Serves one connection to its end.
    pub async fn accept_one(self: &Arc<Self>, mut tcp: TcpStream) {
        let Ok(from) = tcp.peer_addr() else { return };
        let Ok(_permit) = self.connections.try_acquire() else {
            let most = self.settings.connections_max;
            return self.refused(&format!("peer {from} refused: {most} connections are served"));
        };
        let patience = self.settings.greeting_timeout;
        let late = || format!("peer {from} refused: no greeting in {} ms", patience.as_millis());
        let preface = match timeout(patience, read_preface(&mut tcp)).await {
            Ok(Ok(Some(bytes))) => bytes,
            // Somebody looked whether the port is open.
            Ok(Ok(None)) => return,
            Ok(Err(why)) => return self.refused(&format!("peer {from} refused: it {why}")),
            Err(_) => return self.refused(&late()),
        };
        let preface = match Preface::decode(preface) {
            Ok(preface) => preface,
            Err(why) => {
                self.refused(&format!("peer {from} refused: it {why}"));
                // Somebody of another version may understand why.
                if Preface::is_ours(preface) && self.settings.tls.is_none() {
                    let telling = hello::refuse(&mut tcp, format!("the other end {why}"));
                    let _ = timeout(patience, telling).await;
                }
                return;
            }
        };
        if let Preface::Data { core } = preface {
            return match &self.take_link {
                Some(take_link) => take_link(tcp, core),
                None => self.report(&format!("peer {from} refused: no data links here")),
            };
        }
        match timeout(patience, self.welcome(tcp, from)).await {
            Ok(Ok((stream, peer))) => self.converse(stream, peer).await,
            Ok(Err(why)) => self.refused(&format!("peer {from} refused: {why}")),
            Err(_) => self.refused(&late()),
        }
    }

    async fn welcome(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
    ) -> Result<(Box<dyn Stream>, PeerInfo), String> {
        tune(&tcp, self.settings.silence_max).map_err(|error| error.to_string())?;
        let mut stream: Box<dyn Stream> = match &self.settings.tls {
            Some(tls) => Box::new(
                tls.accept(tcp).await.map_err(|error| format!("TLS with it failed: {error}"))?,
            ),
            None => Box::new(tcp),
        };
        let peer =
            hello::welcome(&mut stream, &self.settings, from).await.map_err(
                |error| match error {
                    hello::GreetingError::Refused(reason) => reason,
                    error => error.to_string(),
                },
            )?;
        Ok((stream, peer))
    }

    async fn converse(self: &Arc<Self>, stream: Box<dyn Stream>, peer: PeerInfo) {
        let (reader, writer) = tokio::io::split(stream);
        let (answers, to_write) = mpsc::channel(self.settings.calls_max);
        let ended = tokio::select! {
            ended = self.read_calls(reader, &peer, answers) => ended,
            ended = write_answers(writer, to_write) => ended,
        };
        if let Err(error) = ended {
            (self.settings.log)(&format!("peer {peer}: {error}; its connection is closed"));
        }
    }

    async fn read_calls(
        self: &Arc<Self>,
        mut reader: ReadHalf<Box<dyn Stream>>,
        peer: &PeerInfo,
        answers: mpsc::Sender<Frame>,
    ) -> io::Result<()> {
        let peer = Arc::new(peer.clone());
        let permits = Arc::new(Semaphore::new(self.settings.calls_max));
        let silence_max = self.settings.silence_max * SILENCES_MAX;
        // Dropping the set ends the calls of a connection that ended.
        let mut handling = tokio::task::JoinSet::new();
        loop {
            while handling.try_join_next().is_some() {}
            let next =
                timeout(silence_max, frame::read(&mut reader, self.settings.frame_bytes_max));
            let Ok(next) = next.await else {
                let why = format!("no sign of life for {} ms", silence_max.as_millis());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            };
            let Some(Frame { id, kind, body }) = next? else { return Ok(()) };
            if kind == frame::PING {
                let pong = Frame { id, kind: frame::PONG, body: Vec::new() };
                answers.send(pong).await.map_err(io::Error::other)?;
                continue;
            }
            let handler = self.handlers.iter().find(|handler| handler.kinds().contains(&kind));
            let Some(handler) = handler.filter(|_| kind < frame::KINDS_OWN).cloned() else {
                let unhandled = Frame { id, kind: frame::UNHANDLED, body: Vec::new() };
                answers.send(unhandled).await.map_err(io::Error::other)?;
                continue;
            };
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (peer, answers) = (peer.clone(), answers.clone());
            let server = self.clone();
            handling.spawn(async move {
                let body = handler.handle(&peer, kind, body).await;
                if frame::fits(body.len(), server.settings.frame_bytes_max) {
                    let _ = answers.send(Frame { id, kind: frame::ANSWER, body }).await;
                } else {
                    let bytes = body.len();
                    server.report(&format!("an answer of {bytes} bytes to {peer} fits no frame"));
                }
                drop(permit);
            });
        }
    }

    fn refused(&self, line: &str) {
        self.settings.refusals.note(line);
        self.report(line);
    }

    fn report(&self, line: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            *logged = Some(Instant::now());
            (self.settings.log)(line);
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// `None` if the peer closed without a word.
async fn read_preface(tcp: &mut TcpStream) -> Result<Option<[u8; PREFACE_BYTES]>, String> {
    let mut bytes = [0; PREFACE_BYTES];
    match tcp.read(&mut bytes[..1]).await {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(format!("broke off: {error}")),
    }
    tcp.read_exact(&mut bytes[1..]).await.map_err(|error| format!("broke off: {error}"))?;
    Ok(Some(bytes))
}

async fn write_answers(
    mut writer: WriteHalf<Box<dyn Stream>>,
    mut answers: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        frame::write(&mut writer, &answer).await?;
    }
    Ok(())
}
