//! Clients that write and read all the time, through whichever node takes them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::verdict::{Found, Key};
use crate::process::monotonic_ns;

pub const THREADS: usize = 8;
pub const KEYS_PER_THREAD: usize = 250;
/// Between two operations of a thread.
const PACE: Duration = Duration::from_millis(1);
/// Longer than a request may wait for a node.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// For so long a value that is not found is looked for before it counts as lost.
const LOOKED_FOR: Duration = Duration::from_secs(1);
/// For so long a key is asked for at the end, until some node answers.
const READ_BACK: Duration = Duration::from_secs(20);

/// An acknowledged write that is gone.
#[derive(Clone, Debug)]
pub struct Loss {
    pub key: String,
    pub acknowledged_ns: u64,
    pub noticed_ns: u64,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub acknowledged: u64,
    pub reads: u64,
    /// Reads that did not find what a later one found.
    pub stale: u64,
    /// Reads of what nobody wrote, or what was refused.
    pub invented: u64,
    pub errors: BTreeMap<String, u64>,
    pub losses: Vec<Loss>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.stale += other.stale;
        self.invented += other.invented;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.losses.extend(other.losses);
    }
}

/// Running clients; dropped, they end.
#[derive(Debug)]
pub struct Clients {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Tally>>>,
}

impl Clients {
    /// When this returns, every key was written.
    pub fn start(nodes: &[SocketAddr]) -> Result<Clients> {
        let ended = Arc::new(AtomicBool::new(false));
        let (told, filled) = std::sync::mpsc::channel();
        let start = |number| {
            let (ended, told) = (ended.clone(), told.clone());
            let mut client = Client::new(number, nodes.to_vec());
            std::thread::spawn(move || {
                client.fill()?;
                let _ = told.send(());
                while !ended.load(Ordering::Relaxed) {
                    sleep(PACE);
                    client.step();
                }
                client.read_back()?;
                Ok(client.tally)
            })
        };
        let threads = (0..THREADS).map(start).collect();
        drop(told);
        for _ in 0..THREADS {
            ensure!(filled.recv().is_ok(), "the keys could not be filled");
        }
        Ok(Clients { ended, threads })
    }

    /// The faults are over: every key is read once more.
    pub fn end(mut self) -> Result<Tally> {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in self.threads.drain(..) {
            all.add(thread.join().unwrap_or_else(|_| bail!("a client panicked"))?);
        }
        Ok(all)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

type Connection = BufReader<TcpStream>;

struct Client {
    number: usize,
    nodes: Vec<SocketAddr>,
    connections: Vec<Option<Connection>>,
    keys: Vec<Key>,
    written: u64,
    random: u64,
    tally: Tally,
}

impl Client {
    fn new(number: usize, nodes: Vec<SocketAddr>) -> Client {
        Client {
            number,
            connections: nodes.iter().map(|_| None).collect(),
            nodes,
            keys: vec![Key::default(); KEYS_PER_THREAD],
            written: 0,
            random: 0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1),
            tally: Tally::default(),
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 16) % below as u64) as usize
    }

    fn name(&self, at: usize) -> String {
        format!("kills:{}:{at}", self.number)
    }

    fn fill(&mut self) -> Result<()> {
        let deadline = Instant::now() + READ_BACK;
        for at in 0..self.keys.len() {
            while self.keys[at].kept().0 == 0 {
                ensure!(Instant::now() < deadline, "{}: {:?}", self.name(at), self.tally.errors);
                let node = self.random(self.nodes.len());
                self.write(at, node);
            }
        }
        self.tally = Tally::default();
        Ok(())
    }

    fn step(&mut self) {
        let (at, node) = (self.random(self.keys.len()), self.random(self.nodes.len()));
        if self.random(2) == 0 {
            self.write(at, node);
        } else {
            self.look(at, node);
        }
    }

    fn write(&mut self, at: usize, node: usize) {
        let Some(mut stream) = self.connection(node) else { return };
        self.written += 1;
        let value = self.written;
        self.keys[at].begin(value);
        let text = value.to_string();
        let request = format!("set {} 0 0 {}\r\n{text}\r\n", self.name(at), text.len());
        let sent = stream.get_mut().write_all(request.as_bytes());
        match sent.map_err(Into::into).and_then(|()| line(&mut stream)) {
            Ok(answer) if answer == "STORED" => {
                self.keys[at].acknowledged(value, monotonic_ns());
                self.tally.acknowledged += 1;
            }
            Ok(answer) if !answer.contains("the outcome is unknown") => {
                self.keys[at].refused(value);
                return self.failed(&answer);
            }
            Ok(answer) => {
                self.keys[at].unknown(value);
                return self.failed(&answer);
            }
            Err(error) => {
                self.keys[at].unknown(value);
                return self.failed(&kind(&error));
            }
        }
        self.connections[node] = Some(stream);
    }

    /// Reads a key, and counts what is wrong with what is found.
    fn look(&mut self, at: usize, node: usize) {
        let Some(found) = self.read(at, node) else { return };
        self.tally.reads += 1;
        match self.keys[at].read(found, monotonic_ns()) {
            Found::Right => {}
            Found::Invented => self.tally.invented += 1,
            Found::Missing => self.look_again(at),
        }
    }

    /// Something acknowledged was not found: it is lost, unless it turns up.
    fn look_again(&mut self, at: usize) {
        let noticed_ns = monotonic_ns();
        let (_, acknowledged_ns) = self.keys[at].kept();
        let deadline = Instant::now() + LOOKED_FOR;
        let mut last = None;
        while Instant::now() < deadline || last.is_none() {
            sleep(Duration::from_millis(20));
            let node = self.random(self.nodes.len());
            let Some(found) = self.read(at, node) else { continue };
            if self.keys[at].read(found, monotonic_ns()) == Found::Right {
                self.tally.stale += 1;
                return;
            }
            last = Some(found);
        }
        self.keys[at].is_lost(last.unwrap_or_default(), noticed_ns);
        self.tally.losses.push(Loss { key: self.name(at), acknowledged_ns, noticed_ns });
    }

    /// Asks for every key at every node until each was answered.
    fn read_back(&mut self) -> Result<()> {
        let deadline = Instant::now() + READ_BACK;
        for at in 0..self.keys.len() {
            for node in 0..self.nodes.len() {
                let before = self.tally.reads;
                while self.tally.reads == before {
                    let name = self.name(at);
                    ensure!(Instant::now() < deadline, "{name} is not answered at the end");
                    self.look(at, node);
                }
            }
        }
        Ok(())
    }

    /// The value, or 0 for none; nothing if that failed.
    fn read(&mut self, at: usize, node: usize) -> Option<u64> {
        let mut stream = self.connection(node)?;
        match ask(&mut stream, &self.name(at)) {
            Ok(value) => {
                self.connections[node] = Some(stream);
                Some(value)
            }
            Err(error) => {
                self.failed(&kind(&error));
                None
            }
        }
    }

    /// An open connection; it is put back if it can be used further.
    fn connection(&mut self, node: usize) -> Option<Connection> {
        if let Some(open) = self.connections[node].take() {
            return Some(open);
        }
        let stream = TcpStream::connect_timeout(&self.nodes[node], CONNECT_TIMEOUT).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        Some(BufReader::new(stream))
    }

    fn failed(&mut self, what: &str) {
        *self.tally.errors.entry(what.to_owned()).or_default() += 1;
    }
}

fn ask(stream: &mut Connection, key: &str) -> Result<u64> {
    stream.get_mut().write_all(format!("get {key}\r\n").as_bytes())?;
    let head = line(stream)?;
    if head == "END" {
        return Ok(0);
    }
    ensure!(head.starts_with("VALUE "), "{head}");
    let bytes: usize = head.rsplit(' ').next().unwrap_or_default().parse()?;
    let mut value = vec![0; bytes + 2];
    stream.read_exact(&mut value)?;
    ensure!(line(stream)? == "END", "an answer without its end");
    Ok(std::str::from_utf8(&value[..bytes])?.parse()?)
}

/// An error's name: those of the operating system are all one.
fn kind(error: &anyhow::Error) -> String {
    match error.downcast_ref::<std::io::Error>() {
        Some(_) => "closed".to_owned(),
        None => error.to_string(),
    }
}

fn line(stream: &mut Connection) -> Result<String> {
    let mut text = String::new();
    stream.read_line(&mut text)?;
    ensure!(text.ends_with('\n'), "closed");
    text.truncate(text.trim_end().len());
    Ok(text)
}
