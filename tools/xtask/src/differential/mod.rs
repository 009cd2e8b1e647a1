//! The differential test: the same streams to Debian's memcached and to
//! Seawall, every byte of the answers compared.
//!
//! Streams are generated from a seed (`cargo xtask differential --seed 17
//! --streams 1` plays number 17 again) or written by hand in
//! `differential/cases`. The few differences that are meant stand in
//! `differential/allowed.toml`.

mod answers;
mod binary;
mod broken;
mod cases;
mod compare;
mod drive;
mod keys;
mod meant;
mod meta;
mod random;
mod shrink;
mod stream;
mod text;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::report::Done;
use crate::server::{Program, Server, Setup};
use crate::{build, paths};
use cases::CaseFile;
use compare::Allowed;
use drive::Transcript;
use keys::Pool;
use random::Random;
use stream::{Protocol, Step, Stream};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server to compare with Debian's memcached.
    pub subject: Program,
    /// Its extra flags.
    pub subject_flags: Vec<String>,
    /// First seed.
    pub seed: u64,
    /// How many generated streams.
    pub streams: u64,
    /// Stop after this time even if streams are left.
    pub time: Duration,
    /// Also play the case files.
    pub cases: bool,
    /// Play only cases whose name contains this.
    pub only: Option<String>,
    /// Stop after so many mismatches.
    pub mismatches_max: usize,
}

/// Values above the item limit need room; nothing may be evicted in between.
const SERVER_FLAGS: &[&str] = &["-m", "1024", "-c", "1000"];

/// memcached without the threads that hold an item now and then, at their own
/// time: `incr` changes a number in place only if nobody holds its item.
const MEMCACHED_QUIET: &[&str] = &["-o", "no_lru_maintainer,no_lru_crawler"];

/// Streams played at once, each on servers of its own: what damage makes of a
/// key may be any other stream's key.
const WORKERS: usize = 4;

/// Runs the plan; fails with all mismatches described.
pub fn run(plan: &Plan) -> Result<Done> {
    let allowed = Allowed::load(&paths::xtask().join("differential/allowed.toml"))?;
    let mut mismatches = Vec::new();
    let mut played = 0;
    if plan.cases {
        for file in cases::load_all(&paths::xtask().join("differential/cases"))? {
            let found = play_cases(plan, &allowed, &file)
                .with_context(|| format!("case file {}", file.name))?;
            played += found.0;
            mismatches.extend(found.1);
        }
    }
    if plan.streams > 0 {
        let found = play_generated(plan, &allowed)?;
        played += found.0;
        mismatches.extend(found.1);
    }
    if mismatches.is_empty() {
        return Ok(Done::new(played, format!("{played} streams answered alike")));
    }
    bail!("{} of {played} streams differ\n\n{}", mismatches.len(), mismatches.join("\n"))
}

/// Debian's memcached and the subject, started alike.
struct Pair {
    memcached: Server,
    subject: Server,
}

impl Pair {
    fn start(
        plan: &Plan,
        flags: &[String],
        environment: &[(String, String)],
        memcached_only: &[&str],
    ) -> Result<Pair> {
        let mut memcached = Setup::new(&Program::Memcached, SERVER_FLAGS);
        memcached.flags.extend(memcached_only.iter().map(|flag| (*flag).to_owned()));
        memcached.flags.extend_from_slice(flags);
        memcached.environment.extend_from_slice(environment);
        let mut subject = Setup::new(&plan.subject, SERVER_FLAGS);
        subject.flags.extend_from_slice(&plan.subject_flags);
        if plan.subject != Program::Memcached {
            // Without it meta `l` has nothing to tell.
            subject.flags.push("--access-times".to_owned());
        }
        subject.flags.extend_from_slice(flags);
        subject.environment.extend_from_slice(environment);
        Ok(Pair { memcached: memcached.start()?, subject: subject.start()? })
    }

    fn play(&self, stream: &Stream) -> Result<(Transcript, Transcript)> {
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| drive::play(stream, self.memcached.address));
            let ours = drive::play(stream, self.subject.address)
                .with_context(|| format!("our server, log:\n{}", self.subject.log_tail()));
            Ok((theirs.join().expect("a player panicked")?, ours?))
        })
    }

    fn difference(&self, allowed: &Allowed, stream: &Stream) -> Result<Option<String>> {
        let (theirs, ours) = self.play(stream)?;
        Ok(compare::difference(allowed, stream.protocol, &theirs, &ours))
    }

    fn empty(&self) {
        for address in [self.memcached.address, self.subject.address] {
            flush(address);
        }
    }

    /// Plays again on emptied servers.
    fn replay(&self, allowed: &Allowed, stream: &Stream) -> bool {
        self.empty();
        matches!(self.difference(allowed, stream), Ok(Some(_)))
    }

    fn describe(&self, allowed: &Allowed, stream: &Stream, words: &str, small: bool) -> String {
        let stream = if small {
            let replay = |candidate: &Stream| self.replay(allowed, &with_syncs(candidate.clone()));
            with_syncs(shrink::shrink(stream, 150, replay))
        } else {
            stream.clone()
        };
        self.empty();
        let mut text = format!("{words}\n{}", stream.as_case());
        if let Ok((theirs, ours)) = self.play(&stream) {
            if small {
                let now = compare::difference(allowed, stream.protocol, &theirs, &ours);
                text = format!("{}\n{}", now.as_deref().unwrap_or(words), stream.as_case());
            }
            for (name, transcript) in [("memcached", theirs), ("ours", ours)] {
                for session in &transcript.sessions {
                    text.push_str(&format!("   {name}: {}\n", stream::escape(&session.bytes)));
                }
            }
        }
        text
    }
}

/// Empties a server by either protocol.
fn flush(address: SocketAddr) {
    let stream = Stream {
        name: String::new(),
        protocol: Protocol::Text,
        broken: false,
        steps: vec![Step::raw("flush_all\r\n")],
        chunk_seed: None,
    };
    let _ = drive::play(&stream, address);
}

fn play_cases(plan: &Plan, allowed: &Allowed, file: &CaseFile) -> Result<(u64, Vec<String>)> {
    let wanted =
        |stream: &&Stream| plan.only.as_ref().is_none_or(|only| stream.name.contains(only));
    let streams: Vec<&Stream> = file.streams.iter().filter(wanted).collect();
    if streams.is_empty() {
        return Ok((0, Vec::new()));
    }
    let secrets = Secrets::write(file)?;
    let mut flags = file.flags.clone();
    if let Some(path) = &secrets.auth_file {
        flags.extend(["-Y".to_owned(), path.display().to_string()]);
    }
    let pair = Pair::start(plan, &flags, &secrets.environment, &[])?;
    let mut mismatches = Vec::new();
    for stream in &streams {
        if let Some(words) = pair.difference(allowed, stream)? {
            mismatches.push(pair.describe(allowed, stream, &words, false));
        }
    }
    Ok((streams.len() as u64, mismatches))
}

/// Password files of a case file.
struct Secrets {
    auth_file: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Secrets {
    fn write(file: &CaseFile) -> Result<Secrets> {
        let folder = paths::target().join("xtask").join(format!("secrets-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let mut secrets = Secrets { auth_file: None, environment: Vec::new() };
        if let Some(auth) = &file.auth {
            let path = folder.join("auth");
            std::fs::write(&path, format!("{auth}\n"))?;
            secrets.auth_file = Some(path);
        }
        if let Some(sasl) = &file.sasl {
            secrets.environment = crate::sasl::environment(&folder, sasl)?;
        }
        Ok(secrets)
    }
}

fn play_generated(plan: &Plan, allowed: &Allowed) -> Result<(u64, Vec<String>)> {
    let deadline = Instant::now() + plan.time;
    let next = AtomicU64::new(plan.seed);
    let played = AtomicU64::new(0);
    let found: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let outcome = std::thread::scope(|scope| {
        let work = || -> Result<()> {
            let pair = Pair::start(plan, &[], &[], MEMCACHED_QUIET)?;
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let enough = found.lock().expect("a worker panicked").len() >= plan.mismatches_max;
                if seed >= plan.seed + plan.streams || enough || Instant::now() > deadline {
                    return Ok(());
                }
                let stream = generate(seed);
                pair.empty();
                let words = pair
                    .difference(allowed, &stream)
                    .with_context(|| format!("{}\n{}", stream.name, stream.as_case()))?;
                played.fetch_add(1, Ordering::Relaxed);
                if let Some(words) = words {
                    let text = pair.describe(allowed, &stream, &words, true);
                    found.lock().expect("a worker panicked").push(text);
                }
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panicked"))
    });
    outcome?;
    Ok((played.into_inner(), found.into_inner().expect("a worker panicked")))
}

/// The stream of this seed: every protocol and manner comes round in turn.
fn generate(seed: u64) -> Stream {
    let mut random = Random::new(seed);
    let count = random.range(5, 60);
    let large = random.chance(5);
    let (kind, protocol): (&str, Protocol) = match seed % 6 {
        0 => ("text", Protocol::Text),
        1 => ("meta", Protocol::Text),
        2 => ("binary", Protocol::Binary),
        3 | 4 => ("broken text", Protocol::Text),
        _ => ("broken binary", Protocol::Binary),
    };
    // A line of more than 2,048 bytes closes the connection only if the server
    // happens to look before its end arrives. Where framing may break, values
    // turn into lines, so they stay short.
    let (value_bytes_max, large_bytes_max) = match kind {
        "broken text" => (300, 300),
        "meta" | "broken binary" => (300, if large { 900_000 } else { 40_000 }),
        _ => (5_000, if large { 900_000 } else { 40_000 }),
    };
    let broken = kind.starts_with("broken");
    let pool = Pool::new(seed, value_bytes_max, large_bytes_max);
    let steps = match kind {
        "text" => text::commands(&mut random, &pool, count),
        "meta" => meta::commands(&mut random, &pool, count),
        "binary" => binary::commands(&mut random, &pool, count),
        "broken text" => broken::commands(&mut random, &pool, count),
        _ => binary::broken_commands(&mut random, &pool, count),
    };
    let steps = match protocol {
        Protocol::Text => meant::without_meant(steps),
        Protocol::Binary => steps,
    };
    let chunk_seed = random.chance(60).then(|| random.next());
    let name = format!("seed {seed} ({kind})");
    with_syncs(Stream { name, protocol, broken, steps, chunk_seed })
}

/// With syncs where packet borders would decide about memcached's answers.
fn with_syncs(mut stream: Stream) -> Stream {
    stream.steps.retain(|step| *step != Step::Sync);
    stream.steps = match stream.protocol {
        Protocol::Text => text::with_syncs(stream.steps),
        Protocol::Binary => binary::with_syncs(stream.steps),
    };
    stream
}

/// `cargo xtask differential`.
pub fn command(arguments: &mut lexopt::Parser) -> Result<Done> {
    use lexopt::prelude::*;
    let mut plan = Plan {
        subject: Program::Memcached,
        subject_flags: vec!["-t".to_owned(), "2".to_owned()],
        seed: 1,
        streams: 2_000,
        time: Duration::from_secs(24 * 3_600),
        cases: true,
        only: None,
        mismatches_max: 5,
    };
    let mut subject = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seed") => plan.seed = arguments.value()?.parse()?,
            Long("streams") => plan.streams = arguments.value()?.parse()?,
            Long("minutes") => {
                plan.time = Duration::from_secs_f64(60.0 * arguments.value()?.parse::<f64>()?);
                plan.streams = u64::MAX >> 8;
            }
            Long("no-cases") => plan.cases = false,
            Long("cases") => plan.streams = 0,
            Long("only") => {
                plan.only = Some(arguments.value()?.string()?);
                plan.streams = 0;
            }
            Long("mismatches") => plan.mismatches_max = arguments.value()?.parse()?,
            Long("server") => subject = Some(PathBuf::from(arguments.value()?)),
            Long("flags") => {
                let flags = arguments.value()?.string()?;
                plan.subject_flags = flags.split_whitespace().map(str::to_owned).collect();
            }
            other => return Err(other.unexpected().into()),
        }
    }
    plan.subject = match subject {
        Some(path) if path == Path::new("memcached") => Program::Memcached,
        Some(path) => Program::Seawall(path),
        None => {
            build::programs()?;
            Program::Seawall(build::binary(build::profile(), "seawalld")?)
        }
    };
    run(&plan)
}
