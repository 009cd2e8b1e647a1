//! Nodes killed at random while others keep the CPUs busy: which acknowledged writes
//! are gone, and why.
//!
//! A cache that comes back from `SIGKILL` is empty. So when both nodes that hold a
//! key are killed, the second before the first was filled again, the key is gone
//! whatever was promised. That is counted apart from losses that need not be: the other node
//! lived, and was left out of the in-sync set because it answered late.

mod clients;
mod copies;
mod verdict;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::clients::{Clients, KEYS_PER_THREAD, THREADS, Tally};
use self::copies::{Book, Why};
use super::in_own_network;
use super::node::Node;
use super::scene::{Coordinator, Programs, Scene};
use crate::bench::Page;
use crate::process;
use crate::report::Done;

/// How often nodes are asked for the topology.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A node is down for up to so long.
const DOWN_MS_MAX: u64 = 500;
/// Between two kills, from and to.
const KILL_MS: (u64, u64) = (2_000, 4_000);

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Options {
    pub seconds: u64,
    pub min_copies: Option<u8>,
    /// A node is killed only when all copies are in sync.
    pub settled: bool,
    pub seed: u64,
    /// Processes on each CPU that never rest.
    pub spinners: usize,
    /// Further flags of every node.
    pub flags: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub kills: usize,
    pub tally: Tally,
    pub book: Book,
}

impl Outcome {
    /// Lost acknowledged writes, by reason.
    pub fn losses(&self) -> BTreeMap<Why, u64> {
        let mut losses: BTreeMap<Why, u64> = Why::ALL.iter().map(|why| (*why, 0)).collect();
        for loss in &self.tally.losses {
            *losses.entry(self.book.explain(loss).0).or_default() += 1;
        }
        losses
    }
}

/// Runs it, and keeps a page of it if that is wished.
pub fn command(
    programs: &Programs,
    by: Coordinator,
    all: &[Options],
    save: Option<&str>,
) -> Result<Done> {
    let title =
        format!("Nodes killed at random while the CPUs are busy ({} coordinator)", by.name());
    let mut page = Page::new(&by.page("kills"), &title);
    page.say("Three nodes of one core, 2 copies, the default number of partitions, on CPUs that other processes");
    page.say(&format!(
        "keep busy (endless loops on each: {}), at the same priority. A node at random is killed (SIGKILL)",
        all.first().map_or(0, |options| options.spinners)
    ));
    page.say(&format!(
        "every {} to {} s, and started again, empty, within {DOWN_MS_MAX} ms; {THREADS} clients write and read {} keys",
        KILL_MS.0 / 1000,
        KILL_MS.1 / 1000,
        THREADS * KEYS_PER_THREAD
    ));
    page.say("through all nodes. An acknowledged write counts as lost when nothing as new is found for a second.");
    page.say("");
    let columns = ["min_copies", "seconds", "kills", "writes", "reads", "stale reads"];
    let columns = columns.into_iter().chain(["copies left out"]).chain(Why::ALL.map(Why::name));
    page.head(&columns.collect::<Vec<_>>());
    let mut errors = Vec::new();
    let mut checks = 0;
    for options in all {
        let outcome = run(programs, by, options)?;
        let (losses, tally) = (outcome.losses(), &outcome.tally);
        let min_copies =
            options.min_copies.map_or_else(|| "1 (default)".into(), |copies| copies.to_string());
        let counts = [
            options.seconds,
            outcome.kills as u64,
            tally.acknowledged,
            tally.reads,
            tally.stale,
            outcome.book.left_out,
        ];
        let counts = counts.into_iter().chain(Why::ALL.map(|why| losses[&why]));
        page.row(std::iter::once(min_copies).chain(counts.map(|count| count.to_string())));
        ensure!(tally.invented == 0, "{} reads of what nobody wrote", tally.invented);
        checks += tally.acknowledged + tally.reads;
        errors.push((options.clone(), tally.errors.clone()));
    }
    page.say("");
    for (options, errors) in errors {
        let kinds: Vec<_> = errors.iter().map(|(kind, n)| format!("{n} × {kind}")).collect();
        let min_copies = options.min_copies.unwrap_or(1);
        page.say(&format!(
            "What clients were answered with `min_copies` {min_copies}: {}.",
            kinds.join("; ")
        ));
        page.say("");
    }
    for why in Why::ALL {
        page.say(&format!("- {}: {}", why.name(), why.words()));
    }
    if let Some(line) = save {
        println!("   {}", page.save_as(line)?);
    }
    Ok(Done::new(checks, format!("{} runs", all.len())))
}

/// The part of `cargo xtask test`: with two copies for every write nothing is lost while
/// nodes are killed that are not the last with a key.
pub fn in_test(programs: &Programs) -> Result<Done> {
    let options = Options {
        seconds: 12,
        min_copies: Some(2),
        settled: true,
        seed: 1,
        spinners: 1,
        flags: Vec::new(),
    };
    let outcome = run(programs, Coordinator::Embedded, &options)?;
    let (tally, losses) = (&outcome.tally, outcome.losses());
    ensure!(tally.losses.is_empty(), "acknowledged writes are lost: {losses:?} {:?}", tally.losses);
    ensure!(tally.stale + tally.invented == 0, "{} stale reads", tally.stale + tally.invented);
    let note = format!(
        "{} kills, {} writes, {} reads, nothing lost, nothing stale",
        outcome.kills, tally.acknowledged, tally.reads
    );
    Ok(Done::new(tally.acknowledged + tally.reads, note))
}

fn run(programs: &Programs, by: Coordinator, options: &Options) -> Result<Outcome> {
    in_own_network("kills", |folder| {
        let min_copies = options.min_copies.unwrap_or(1).to_string();
        let mut flags = vec!["--min-copies", &min_copies];
        flags.extend(options.flags.iter().map(String::as_str));
        let mut scene = Scene::without_clients(programs, by, &flags, folder)?;
        let addresses: Vec<SocketAddr> = scene.nodes.iter().map(Node::clients).collect();
        let clients = Clients::start(&addresses)?;
        let watch = Watch::start(addresses);
        let spinners = Spinners::start(options.spinners)?;
        let mut random = options.seed.wrapping_mul(2) + 1;
        let mut draw = |from: u64, to: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            from + (random >> 33) % (to - from + 1)
        };
        let (deadline, mut kills) = (Instant::now() + Duration::from_secs(options.seconds), 0);
        let mut due = Instant::now();
        loop {
            due += Duration::from_millis(draw(KILL_MS.0, KILL_MS.1));
            sleep(due.saturating_duration_since(Instant::now()));
            if Instant::now() >= deadline {
                break;
            }
            if options.settled {
                scene.wait_until_whole()?;
                watch.look();
            }
            let victim = draw(0, 2) as usize;
            scene.nodes[victim].kill()?;
            watch.killed(&scene.nodes[victim].name);
            kills += 1;
            sleep(Duration::from_millis(draw(0, DOWN_MS_MAX)));
            scene.restart(victim)?;
        }
        drop(spinners);
        scene.wait_until_whole()?;
        let tally = clients.end()?;
        let outcome = Outcome { kills, tally, book: watch.end()? };
        write_losses(&outcome, folder)?;
        Ok(outcome)
    })
}

/// What was lost, for a reader of the nodes' logs.
fn write_losses(outcome: &Outcome, folder: &std::path::Path) -> Result<()> {
    let mut text = String::new();
    for loss in &outcome.tally.losses {
        let (why, kill) = outcome.book.explain(loss);
        let (from, to) = (loss.acknowledged_ns / 1_000_000, loss.noticed_ns / 1_000_000);
        text.push_str(&format!("{} {from} ms to {to} ms: {why:?}, kill {kill:?}\n", loss.key));
    }
    Ok(std::fs::write(folder.join("losses.txt"), text)?)
}

/// Processes on each CPU that never rest.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start(of_each: usize) -> Result<Spinners> {
        let cpus = std::thread::available_parallelism()?.get();
        let start = |cpu: usize| {
            let mut command = Command::new("taskset");
            command.args(["-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null());
            process::bind_to_parent(&mut command).spawn().context("cannot start taskset")
        };
        let all = (0..of_each).flat_map(|_| 0..cpus);
        Ok(Spinners(all.map(start).collect::<Result<_>>()?))
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks the nodes who has which copies, all the time.
struct Watch {
    nodes: Vec<SocketAddr>,
    book: Arc<Mutex<Book>>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(nodes: Vec<SocketAddr>) -> Watch {
        let (book, ended) = (Arc::<Mutex<Book>>::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (nodes, book, ended) = (nodes.clone(), book.clone(), ended.clone());
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    look(&nodes, &book);
                    sleep(LOOK_EVERY);
                }
            })
        };
        Watch { nodes, book, ended, thread }
    }

    fn look(&self) {
        look(&self.nodes, &self.book);
    }

    fn killed(&self, name: &str) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.killed(name, process::monotonic_ns());
    }

    fn end(self) -> Result<Book> {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *book))
    }
}

fn look(nodes: &[SocketAddr], book: &Mutex<Book>) {
    for node in nodes {
        let Ok(topology) = topology(*node) else { continue };
        let _ = book.lock().unwrap_or_else(PoisonError::into_inner).look(&topology);
    }
}

fn topology(node: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&node, Duration::from_millis(100))?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    stream.write_all(b"topology\r\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(1 << 20)).read_line(&mut line)?;
    Ok(serde_json::from_str(line.trim_start_matches(|c| c != '{'))?)
}
