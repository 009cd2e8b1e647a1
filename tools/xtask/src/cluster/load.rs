//! Plain traffic in numbers: threads that read and write at a fixed pace through
//! all nodes, and know what every answer must be.
//!
//! A thread has keys of its own and does one thing at a time, so it knows exactly
//! what a key holds: anything else that it reads is stale, and a miss is a loss, for
//! everything fits into memory. Answers are counted by phase. Latencies are taken
//! from when an operation was due, so that one long wait does not hide those that
//! would have come meanwhile.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// Bytes of a value.
const VALUE_BYTES: usize = 200;
/// Longer than any request may wait for a node.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Writes that are sent together when the keys are filled.
const FILL_BATCH: usize = 200;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub threads: usize,
    pub keys_per_thread: usize,
    /// Between two operations of a thread.
    pub pace: Duration,
    pub gets_percent: u64,
}

/// What happened in a phase.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub gets: u64,
    pub misses: u64,
    pub sets: u64,
    /// Reads of a value that was written over.
    pub stale: u64,
    pub errors: BTreeMap<String, u64>,
    /// Of each thread the longest time between two acknowledged writes.
    pub gaps_us: Vec<u32>,
    latencies_us: Vec<u32>,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.gets += other.gets;
        self.misses += other.misses;
        self.sets += other.sets;
        self.stale += other.stale;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.gaps_us.extend_from_slice(&other.gaps_us);
        self.latencies_us.extend_from_slice(&other.latencies_us);
    }

    /// Of 100 gets.
    pub fn hit_ratio(&self) -> f64 {
        100.0 * (self.gets - self.misses) as f64 / self.gets.max(1) as f64
    }

    /// In milliseconds.
    pub fn latency_ms(&self, part: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (last as f64 * part) as usize;
        self.latencies_us.get(at).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    }

    /// No error, and nothing stale.
    pub fn is_spotless(&self) -> Result<()> {
        ensure!(self.errors.is_empty(), "clients met with errors: {:?}", self.errors);
        self.is_true()
    }

    /// Nothing stale.
    pub fn is_true(&self) -> Result<()> {
        ensure!(self.stale == 0, "{} reads found an older value", self.stale);
        ensure!(self.gets > 0, "nothing was read");
        Ok(())
    }
}

/// What threads and their owner share.
#[derive(Debug)]
struct Common {
    phase: AtomicUsize,
    ended: AtomicBool,
    nodes: Mutex<Vec<SocketAddr>>,
}

/// Running threads; dropped, they end.
#[derive(Debug)]
pub struct Load {
    common: Arc<Common>,
    threads: Vec<JoinHandle<Result<Vec<Tally>>>>,
}

impl Load {
    /// Fills all keys, and then begins with phase 0.
    pub fn start(shape: Shape, nodes: Vec<SocketAddr>) -> Result<Load> {
        let common = Common {
            phase: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            nodes: Mutex::new(nodes),
        };
        let common = Arc::new(common);
        let (told, filled) = std::sync::mpsc::channel();
        let start = |number: usize| {
            let (common, told) = (common.clone(), told.clone());
            std::thread::spawn(move || {
                let mut thread = Thread::new(shape, number, &common)?;
                thread.fill()?;
                let _ = told.send(());
                drop(told);
                thread.run(&common)
            })
        };
        let load = Load { threads: (0..shape.threads).map(start).collect(), common };
        drop(told);
        for _ in 0..shape.threads {
            if filled.recv().is_err() {
                load.end()?;
                bail!("the keys could not be filled");
            }
        }
        Ok(load)
    }

    /// What comes from now on counts for this phase.
    pub fn phase(&self, phase: usize) {
        self.common.phase.store(phase, Ordering::Relaxed);
    }

    /// Operations go to these nodes from now on.
    pub fn nodes(&self, nodes: Vec<SocketAddr>) {
        *self.common.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        // So long may one be under way to a node that was there before.
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Ends all threads: what happened in each phase.
    pub fn end(mut self) -> Result<Vec<Tally>> {
        self.common.ended.store(true, Ordering::Relaxed);
        let mut phases: Vec<Tally> = Vec::new();
        for thread in self.threads.drain(..) {
            let of_thread = thread.join().unwrap_or_else(|_| bail!("a client panicked"))?;
            phases.resize(phases.len().max(of_thread.len()), Tally::default());
            phases.iter_mut().zip(&of_thread).for_each(|(all, one)| all.add(one));
        }
        for phase in &mut phases {
            phase.latencies_us.sort_unstable();
            phase.gaps_us.sort_unstable();
        }
        Ok(phases)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.common.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Thread {
    shape: Shape,
    number: usize,
    /// What every key holds; none where an error left that open.
    versions: Vec<Option<u32>>,
    written: u32,
    random: u64,
    nodes: Vec<SocketAddr>,
    connections: BTreeMap<SocketAddr, BufReader<TcpStream>>,
    phases: Vec<Tally>,
}

impl Thread {
    fn new(shape: Shape, number: usize, common: &Common) -> Result<Thread> {
        Ok(Thread {
            shape,
            number,
            versions: vec![None; shape.keys_per_thread],
            written: 0,
            random: 0x9e37_79b9_7f4a_7c15 ^ number as u64,
            nodes: common.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            connections: BTreeMap::new(),
            phases: Vec::new(),
        })
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % below
    }

    fn key(&self, at: usize) -> String {
        format!("load:{}:{at}", self.number)
    }

    /// The request, and what the key holds when it is done.
    fn set(&mut self, at: usize) -> (String, u32) {
        self.written += 1;
        let value = format!("{}:", self.written);
        let request =
            format!("set {} 0 0 {VALUE_BYTES}\r\n{value:.<VALUE_BYTES$}\r\n", self.key(at));
        (request, self.written)
    }

    fn fill(&mut self) -> Result<()> {
        let node = self.nodes[self.number % self.nodes.len()];
        let keys: Vec<usize> = (0..self.versions.len()).collect();
        for keys in keys.chunks(FILL_BATCH) {
            let mut requests = String::new();
            for at in keys {
                let (request, version) = self.set(*at);
                requests.push_str(&request);
                self.versions[*at] = Some(version);
            }
            let stream = self.connection(node)?;
            stream.get_mut().write_all(requests.as_bytes())?;
            for _ in keys {
                let answer = line(stream)?;
                ensure!(answer == "STORED", "a key could not be filled: {answer}");
            }
        }
        Ok(())
    }

    fn connection(&mut self, node: SocketAddr) -> Result<&mut BufReader<TcpStream>> {
        Ok(match self.connections.entry(node) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(missing) => {
                let stream = TcpStream::connect_timeout(&node, TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                missing.insert(BufReader::new(stream))
            }
        })
    }

    fn run(mut self, common: &Common) -> Result<Vec<Tally>> {
        let mut due = Instant::now();
        let mut opened_for = Vec::new();
        let mut written: Option<(usize, Instant)> = None;
        while !common.ended.load(Ordering::Relaxed) {
            due += self.shape.pace;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.nodes.clone_from(&*common.nodes.lock().unwrap_or_else(PoisonError::into_inner));
            if opened_for != self.nodes {
                // Those that go are not waited for, those that come are ready.
                let nodes = self.nodes.clone();
                opened_for.clone_from(&nodes);
                self.connections.retain(|node, _| nodes.contains(node));
                for node in nodes {
                    self.connection(node)?;
                }
                due = Instant::now();
                written = None;
            }
            let phase = common.phase.load(Ordering::Relaxed);
            self.phases.resize(self.phases.len().max(phase + 1), Tally::default());
            let at = self.random(self.versions.len() as u64) as usize;
            let node = self.random(self.nodes.len() as u64) as usize;
            let gets = self.random(100) < self.shape.gets_percent;
            let done = if gets {
                self.phases[phase].gets += 1;
                self.get(at, self.nodes[node], phase)
            } else {
                self.phases[phase].sets += 1;
                self.write(at, self.nodes[node]).inspect(|()| {
                    let now = Instant::now();
                    let before = written.replace((phase, now)).filter(|(then, _)| *then == phase);
                    let gap = before.map_or(0, |(_, at)| now.duration_since(at).as_micros() as u32);
                    let gaps = &mut self.phases[phase].gaps_us;
                    *gaps = vec![gaps.first().map_or(gap, |longest| gap.max(*longest))];
                })
            };
            let waited_us = due.elapsed().as_micros() as u32;
            let tally = &mut self.phases[phase];
            tally.latencies_us.push(waited_us);
            if let Err(error) = done {
                *tally.errors.entry(format!("{error:#}")).or_default() += 1;
                self.connections.remove(&self.nodes[node]);
            }
        }
        Ok(self.phases)
    }

    fn write(&mut self, at: usize, node: SocketAddr) -> Result<()> {
        let (request, version) = self.set(at);
        self.versions[at] = None;
        let stream = self.connection(node)?;
        stream.get_mut().write_all(request.as_bytes())?;
        let answer = line(stream)?;
        ensure!(answer == "STORED", "{answer}");
        self.versions[at] = Some(version);
        Ok(())
    }

    fn get(&mut self, at: usize, node: SocketAddr, phase: usize) -> Result<()> {
        let request = format!("get {}\r\n", self.key(at));
        let stream = self.connection(node)?;
        stream.get_mut().write_all(request.as_bytes())?;
        let answer = line(stream)?;
        if answer == "END" {
            self.phases[phase].misses += 1;
            return Ok(());
        }
        ensure!(answer.starts_with("VALUE "), "{answer}");
        let mut value = [0; VALUE_BYTES + 2];
        stream.read_exact(&mut value)?;
        ensure!(line(stream)? == "END", "an answer without its end");
        let version = value.split(|byte| *byte == b':').next().unwrap_or_default();
        let version: u32 = std::str::from_utf8(version)?.parse()?;
        match self.versions[at] {
            Some(expected) => self.phases[phase].stale += u64::from(version != expected),
            None => self.versions[at] = Some(version),
        }
        Ok(())
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut text = String::new();
    stream.read_line(&mut text)?;
    ensure!(text.ends_with('\n'), "closed");
    text.truncate(text.trim_end().len());
    Ok(text)
}
