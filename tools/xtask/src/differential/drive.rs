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
    /// The server was asked one more thing at the end and did not answer: it
    /// had closed, or took the question for data.
    pub deaf: bool,
}

/// The answers to one stream.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// One per connection.
    pub sessions: Vec<Session>,
    /// How long it took: as far as the clock may have gone on in between.
    pub took: Duration,
}

/// How long a server may take to answer or to close.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a sync may take: for ever, as far as a busy machine is concerned.
const SYNC_PATIENCE: Duration = Duration::from_secs(20);

/// A stream that may break its framing ends at the first sync that is not
/// answered in this time: what a server would do with the rest depended on
/// packet borders.
const SYNC_PATIENCE_BROKEN: Duration = Duration::from_millis(1_500);

/// Where a binary header has its CAS.
const CAS_AT: usize = 16;

/// Runs the stream.
pub fn play(stream: &Stream, address: SocketAddr) -> Result<Transcript> {
    let mut random = stream.chunk_seed.map(Random::new);
    let begin = Instant::now();
    let mut sessions = Vec::new();
    let mut client = Client::connect(address, stream)?;
    let mut pending: Vec<u8> = Vec::new();
    for step in &stream.steps {
        match step {
            Step::Send(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Raw(bytes) => pending.extend(bytes),
                        Piece::Cas { back, delta } => {
                            // All complete commands before this one are answered first.
                            let begun = match stream.protocol {
                                Protocol::Text => pending.iter().rev().position(|b| *b == b'\n'),
                                Protocol::Binary => Some(CAS_AT),
                            };
                            let begun = begun.unwrap_or(pending.len()).min(pending.len());
                            let line = pending.split_off(pending.len() - begun);
                            client.send(&std::mem::replace(&mut pending, line), random.as_mut());
                            client.sync();
                            let cas = client.learned(*back).wrapping_add_signed(*delta);
                            match stream.protocol {
                                Protocol::Text => pending.extend(cas.to_string().bytes()),
                                Protocol::Binary => pending.extend(cas.to_be_bytes()),
                            }
                        }
                    }
                }
                continue;
            }
            _ => client.send(&std::mem::take(&mut pending), random.as_mut()),
        }
        match step {
            Step::Send(_) => {}
            Step::Sync => {
                client.sync();
                if client.lost && stream.broken {
                    sessions.push(client.finish(Some(LAST_PROBE)));
                    return Ok(Transcript { sessions, took: begin.elapsed() });
                }
            }
            Step::Flush => thread::sleep(Duration::from_millis(30)),
            Step::Sleep(ms) => thread::sleep(Duration::from_millis(*ms)),
            Step::Reconnect => {
                let next = Client::connect(address, stream)?;
                sessions.push(std::mem::replace(&mut client, next).finish(None));
            }
        }
    }
    client.send(&pending, random.as_mut());
    client.send(&probe(stream.protocol, LAST_PROBE), None);
    sessions.push(client.finish(Some(LAST_PROBE)));
    Ok(Transcript { sessions, took: begin.elapsed() })
}

/// The number of the probe that ends a stream.
const LAST_PROBE: u32 = 0xffff;

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
    broken: bool,
    received: Arc<(Mutex<Received>, Condvar)>,
    reader: JoinHandle<()>,
    syncs: u32,
    /// A sync went unanswered.
    lost: bool,
}

impl Client {
    fn connect(address: SocketAddr, stream: &Stream) -> Result<Client> {
        let socket = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let received = Arc::new((Mutex::new(Received::default()), Condvar::new()));
        let reader = {
            let (socket, received) = (socket.try_clone()?, received.clone());
            thread::spawn(move || read_all(socket, &received))
        };
        let (protocol, broken) = (stream.protocol, stream.broken);
        Ok(Client { socket, protocol, broken, received, reader, syncs: 0, lost: false })
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
        let patience = if self.broken { SYNC_PATIENCE_BROKEN } else { SYNC_PATIENCE };
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

    fn learned(&self, back: usize) -> u64 {
        let received = self.received.0.lock().expect("the reader panicked");
        let values = answers::cas_values(self.protocol, &received.bytes);
        values.iter().rev().nth(back).copied().unwrap_or(1)
    }

    fn finish(self, last_probe: Option<u32>) -> Session {
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.reader.join();
        let mut received = self.received.0.lock().expect("the reader panicked");
        let bytes = std::mem::take(&mut received.bytes);
        let deaf = last_probe.is_some_and(|number| !is_probe_answer(self.protocol, number, &bytes));
        Session { bytes, ended: received.ended.unwrap_or(Ended::Hung), deaf }
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
