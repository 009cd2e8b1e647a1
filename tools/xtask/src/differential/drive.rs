//! Plays a stream against one server and writes down its answers.
//!
//! A thread reads all the time, so neither side can block the other. At the
//! end the client asks one more thing (to see whether the server still
//! understands commands), closes its half and reads to the end: no guessing
//! when an answer is complete.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::answers;
use super::random::Random;
use super::stream::{Piece, Protocol, Step, Stream};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server closed, at the latest after we did.
    Closed,
    /// It kept quiet for [`PATIENCE`] with our half closed.
    Hung,
}

impl Ended {
    /// For messages.
    pub fn words(self) -> &'static str {
        match self {
            Ended::Closed => "closed the connection",
            Ended::Hung => "left the connection hanging",
        }
    }
}

/// The answers on one connection.
#[derive(Clone, Debug)]
pub struct Session {
    /// Every byte.
    pub bytes: Vec<u8>,
    /// How it ended.
    pub ended: Ended,
}

/// The answers to one stream.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// One per connection.
    pub sessions: Vec<Session>,
}

/// How long a server may take to answer or to close.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a sync may take. Streams that broke their framing never sync.
const SYNC_PATIENCE: Duration = Duration::from_millis(400);

/// How the bytes reach the server; a server's answers should not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Cut as the stream says.
    AsCut,
    /// In as few packets as possible.
    Whole,
    /// Every command waits until the server has been quiet for a moment.
    OneByOne,
}

/// Runs the stream.
pub fn play(stream: &Stream, address: SocketAddr, pace: Pace) -> Result<Transcript> {
    let mut random = stream.chunk_seed.filter(|_| pace == Pace::AsCut).map(Random::new);
    let mut sessions = Vec::new();
    let mut client = Client::connect(address, stream.protocol)?;
    let mut pending: Vec<u8> = Vec::new();
    for step in &stream.steps {
        match step {
            Step::Send(pieces) => {
                if pieces.iter().any(|piece| matches!(piece, Piece::Cas { .. })) {
                    client.send(&std::mem::take(&mut pending), random.as_mut());
                    client.sync();
                }
                for piece in pieces {
                    match piece {
                        Piece::Raw(bytes) => pending.extend(bytes),
                        Piece::Cas { back, delta } => {
                            let cas = client.learned(*back).wrapping_add_signed(*delta);
                            match stream.protocol {
                                Protocol::Text => pending.extend(cas.to_string().bytes()),
                                Protocol::Binary => pending.extend(cas.to_be_bytes()),
                            }
                        }
                    }
                }
                if pace == Pace::OneByOne {
                    client.send(&std::mem::take(&mut pending), None);
                    client.wait_for_quiet();
                }
                continue;
            }
            _ => client.send(&std::mem::take(&mut pending), random.as_mut()),
        }
        match step {
            Step::Send(_) => {}
            Step::Sync => client.sync(),
            Step::Flush => thread::sleep(Duration::from_millis(30)),
            Step::Sleep(ms) => thread::sleep(Duration::from_millis(*ms)),
            Step::Reconnect => {
                let next = Client::connect(address, stream.protocol)?;
                sessions.push(std::mem::replace(&mut client, next).finish());
            }
        }
    }
    client.send(&pending, random.as_mut());
    client.send(&probe(stream.protocol, 0xffff), None);
    sessions.push(client.finish());
    Ok(Transcript { sessions })
}

/// Something both servers answer in a way that can't be mistaken.
fn probe(protocol: Protocol, number: u32) -> Vec<u8> {
    match protocol {
        Protocol::Text => format!("md seawall-sync Osync{number}\r\n").into_bytes(),
        Protocol::Binary => {
            let mut packet = vec![0x80, 0x0a];
            packet.extend([0; 10]);
            packet.extend((0x5eaf_0000 + number).to_be_bytes());
            packet.extend([0; 8]);
            packet
        }
    }
}

fn is_probe_answer(protocol: Protocol, number: u32, answers: &[u8]) -> bool {
    match protocol {
        Protocol::Text => answers.ends_with(format!("NF Osync{number}\r\n").as_bytes()),
        Protocol::Binary => {
            let opaque = (0x5eaf_0000 + number).to_be_bytes();
            answers.len() >= 24 && answers[answers.len() - 12..answers.len() - 8] == opaque
        }
    }
}

/// What the reading thread has seen.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    ended: Option<Ended>,
}

struct Client {
    socket: TcpStream,
    protocol: Protocol,
    received: Arc<(Mutex<Received>, Condvar)>,
    reader: JoinHandle<()>,
    syncs: u32,
    /// A sync went unanswered: framing is broken, later ones need not wait long.
    lost: bool,
}

impl Client {
    fn connect(address: SocketAddr, protocol: Protocol) -> Result<Client> {
        let socket = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let received = Arc::new((Mutex::new(Received::default()), Condvar::new()));
        let reader = {
            let (socket, received) = (socket.try_clone()?, received.clone());
            thread::spawn(move || read_all(socket, &received))
        };
        Ok(Client { socket, protocol, received, reader, syncs: 0, lost: false })
    }

    /// Sends, in one piece or cut by chance. A server that closed early is no
    /// error here: the transcript shows it.
    fn send(&mut self, bytes: &[u8], random: Option<&mut Random>) {
        let Some(random) = random else {
            let _ = self.socket.write_all(bytes);
            return;
        };
        let chunk_most = *random.pick(&[1, 7, 60, 500, 1_400, 20_000]);
        let mut rest = bytes;
        let mut cuts = 0;
        while !rest.is_empty() {
            // Past some hundred packets more cuts only cost time.
            let most = if cuts < 200 { chunk_most } else { usize::MAX };
            let (chunk, after) = rest.split_at(random.range(1, most.min(1 << 20)).min(rest.len()));
            if self.socket.write_all(chunk).is_err() {
                return;
            }
            rest = after;
            cuts += 1;
            if random.chance(5) {
                thread::sleep(Duration::from_micros(300));
            }
        }
    }

    /// Waits until the server has answered everything so far.
    fn sync(&mut self) {
        self.syncs += 1;
        let _ = self.socket.write_all(&probe(self.protocol, self.syncs));
        let (lock, changed) = &*self.received;
        let patience = if self.lost { SYNC_PATIENCE / 20 } else { SYNC_PATIENCE };
        let deadline = Instant::now() + patience;
        let mut received = lock.lock().expect("the reader panicked");
        while received.ended.is_none()
            && !is_probe_answer(self.protocol, self.syncs, &received.bytes)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.lost = true;
                return;
            }
            received = changed.wait_timeout(received, left).expect("the reader panicked").0;
        }
    }

    fn received_bytes(&self) -> usize {
        self.received.0.lock().expect("the reader panicked").bytes.len()
    }

    fn wait_for_quiet(&self) {
        let mut before = self.received_bytes();
        loop {
            thread::sleep(Duration::from_millis(4));
            let now = self.received_bytes();
            if now == before {
                return;
            }
            before = now;
        }
    }

    fn learned(&self, back: usize) -> u64 {
        let received = self.received.0.lock().expect("the reader panicked");
        let values = answers::cas_values(self.protocol, &received.bytes);
        values.iter().rev().nth(back).copied().unwrap_or(1)
    }

    fn finish(self) -> Session {
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.reader.join();
        let mut received = self.received.0.lock().expect("the reader panicked");
        Session {
            bytes: std::mem::take(&mut received.bytes),
            ended: received.ended.unwrap_or(Ended::Hung),
        }
    }
}

fn read_all(mut socket: TcpStream, received: &(Mutex<Received>, Condvar)) {
    // Streams sleep for at most a few seconds while nothing is answered.
    let _ = socket.set_read_timeout(Some(PATIENCE * 2));
    let mut buffer = vec![0; 64 << 10];
    let ended = loop {
        match socket.read(&mut buffer) {
            Ok(0) => break Ended::Closed,
            Ok(count) => {
                let mut received = received.0.lock().expect("the client panicked");
                received.bytes.extend_from_slice(&buffer[..count]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break Ended::Hung,
            // A reset: the server closed without reading the rest of what we sent.
            Err(_) => break Ended::Closed,
        }
        received.1.notify_all();
    };
    received.0.lock().expect("the client panicked").ended = Some(ended);
    received.1.notify_all();
}
