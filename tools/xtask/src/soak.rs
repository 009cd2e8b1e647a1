//! Clients that misbehave, beside clients whose every answer is checked.
//!
//! What must hold at the end: the checked answers were right and no key of
//! theirs was lost, the server's memory stayed bounded, it never died, and it ends by SIGTERM with code 0.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::process;
use crate::report::Done;
use crate::server::{Program, Server, Setup};

/// Memory limit of the server, in MiB.
const LIMIT_MIB: u64 = 64;
/// What all connections may hold in buffers, a quarter of the limit within it.
const CONNECTIONS_MIB: u64 = 32;
/// Beside the limit: half of those buffers, program and stacks (20 MiB), receive
/// buffers and idle ones (16 MiB), one turn's input (8 MiB), and gaps in the
/// allocator's pages (some 30 MiB).
const SLACK_BYTES: u64 = 96 << 20;
/// Between two misdeeds of a thread: they share two CPUs with the server, and
/// without it the test would show whom the kernel lets run.
const PAUSE: Duration = Duration::from_millis(5);
/// Threads of each kind of misbehaviour.
const EACH: usize = 4;

type Misbehaviour = fn(&mut TcpStream, &mut u64) -> std::io::Result<()>;

const MISBEHAVIOURS: &[(&str, Misbehaviour)] = &[
    ("never_reads", never_reads),
    ("dribbles", dribbles),
    ("leaves_in_the_middle", leaves_in_the_middle),
    ("sends_garbage", sends_garbage),
    ("giant_multiget", giant_multiget),
    ("deep_pipeline", deep_pipeline),
];

/// Runs for `duration`, with every misbehaviour or the one named `only`.
pub fn run(seawalld: &Path, load: &Path, duration: Duration, only: Option<&str>) -> Result<Done> {
    let names: Vec<_> = MISBEHAVIOURS.iter().map(|(name, _)| *name).collect();
    if let Some(only) = only {
        ensure!(names.contains(&only), "`{only}` is none of {}", names.join(", "));
    }
    let memory = LIMIT_MIB.to_string();
    let program = Program::Seawall(seawalld.to_owned());
    let buffers = format!("{CONNECTIONS_MIB}m");
    let flags = ["-t", "2", "-m", &memory, "--connections-memory-max", &buffers];
    let mut server = Setup::new(&program, &flags).start()?;
    let stop = Arc::new(AtomicBool::new(false));
    let episodes = Arc::new(AtomicU64::new(0));
    let outcome = std::thread::scope(|scope| {
        for (number, (name, kind)) in MISBEHAVIOURS.iter().enumerate() {
            if only.is_some_and(|only| only != *name) {
                continue;
            }
            for copy in 0..EACH {
                let (stop, episodes, address) = (&stop, &episodes, server.address);
                let seed = (number * EACH + copy) as u64 + 1;
                scope.spawn(move || misbehave(*kind, seed, address, stop, episodes));
            }
        }
        let outcome = behave(&mut server, load, duration);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    // The reason first: a report's table shows one line.
    let peak = outcome
        .map_err(|error| anyhow!("{error:#}\nthe server said:\n{}", stats(server.address)))?;
    ensure!(server.is_alive(), "the server died:\n{}", server.log_tail());
    let status = server.terminate(Duration::from_secs(30))?;
    ensure!(status.success(), "it ended with {status}");
    let episodes = episodes.load(Ordering::Relaxed);
    Ok(Done::new(episodes, format!("{episodes} misdeeds, at most {} MiB resident", peak >> 20)))
}

/// The server's `stats`, to tell what went wrong.
fn stats(address: SocketAddr) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"stats\r\nquit\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    ask().unwrap_or_else(|error| error.to_string())
}

/// Checked load; returns the most memory that was seen.
fn behave(server: &mut Server, load: &Path, duration: Duration) -> Result<u64> {
    let mut command = Command::new(load);
    command.args(["--server", &server.target(), "--connections", "20", "--pipeline", "8"]);
    command.args([
        "--ratio",
        "70:30",
        "--keys",
        "20000",
        "--value-bytes",
        "100",
        "--verify",
        "--preload",
    ]);
    command.args(["--duration", &duration.as_secs().to_string()]);
    let json = crate::paths::target().join("xtask/soak-load.json");
    command.arg("--json").arg(&json);
    let log = std::fs::File::create(crate::paths::target().join("xtask/soak-load.log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    let mut child =
        process::bind_to_parent(&mut command).spawn().context("cannot start seawall-load")?;
    let deadline = Instant::now() + duration + Duration::from_secs(60);
    let mut peak = 0;
    let status = loop {
        peak = peak.max(server.resident_bytes().unwrap_or(0));
        if let Some(status) =
            process::wait_until(&mut child, Instant::now() + Duration::from_millis(200))?
        {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            bail!("the checked load did not end");
        }
    };
    let text = std::fs::read_to_string(crate::paths::target().join("xtask/soak-load.log"))?;
    ensure!(status.success(), "the checked load ended with {status}:\n{text}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    // All of its keys fit into memory many times.
    let misses = report["misses"].as_u64().context("no misses in the report")?;
    ensure!(misses == 0, "{misses} of its reads missed:\n{text}");
    let bound = (LIMIT_MIB << 20) + SLACK_BYTES;
    ensure!(peak <= bound, "{} MiB resident, more than {} MiB", peak >> 20, bound >> 20);
    Ok(peak)
}

fn misbehave(
    kind: Misbehaviour,
    seed: u64,
    address: SocketAddr,
    stop: &AtomicBool,
    episodes: &AtomicU64,
) {
    let mut seed = seed;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
        // A server that cuts such a client off is right to.
        let _ = kind(&mut stream, &mut seed);
        episodes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn never_reads(stream: &mut TcpStream, _: &mut u64) -> std::io::Result<()> {
    let value = vec![b'x'; 100_000];
    stream.write_all(b"set soak:large 0 0 100000 noreply\r\n")?;
    stream.write_all(&value)?;
    stream.write_all(b"\r\n")?;
    // Until the socket takes no more.
    for _ in 0..10_000 {
        stream.write_all(b"get soak:large\r\nget soak:large\r\nget soak:large\r\n")?;
    }
    Ok(())
}

fn dribbles(stream: &mut TcpStream, seed: &mut u64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let request = format!("set soak:dribble{} 0 0 40\r\n{}\r\n", next(seed) % 100, "d".repeat(40));
    for byte in request.as_bytes() {
        stream.write_all(std::slice::from_ref(byte))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    stream.read(&mut [0; 64]).map(|_| ())
}

fn leaves_in_the_middle(stream: &mut TcpStream, seed: &mut u64) -> std::io::Result<()> {
    let length = 1 + next(seed) % 900_000;
    stream.write_all(format!("set soak:half{} 0 0 {length}\r\n", next(seed) % 50).as_bytes())?;
    stream.write_all(&vec![b'h'; (length / 2) as usize])
}

fn sends_garbage(stream: &mut TcpStream, seed: &mut u64) -> std::io::Result<()> {
    let first = [0x80, b'm', b'g', b's', 0][(next(seed) % 5) as usize];
    let mut bytes = vec![first];
    for _ in 0..next(seed) % 4_000 {
        bytes.push(next(seed) as u8);
    }
    // Random bytes must not happen to be a command that others would notice.
    if bytes.windows(5).any(|word| word.eq_ignore_ascii_case(b"flush")) {
        return Ok(());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    stream.write_all(&bytes)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    while stream.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

fn giant_multiget(stream: &mut TcpStream, _: &mut u64) -> std::io::Result<()> {
    let mut request = b"get".to_vec();
    for key in 0..10_000 {
        request.extend_from_slice(format!(" soak:many{key}").as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    let mut piece = [0; 65_536];
    while !answer.ends_with(b"END\r\n") {
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(())
}

fn deep_pipeline(stream: &mut TcpStream, _: &mut u64) -> std::io::Result<()> {
    stream.write_all(&b"mg soak:none v\r\n".repeat(10_000))?;
    let mut left = 10_000 * b"EN\r\n".len();
    let mut piece = [0; 65_536];
    while left > 0 {
        match stream.read(&mut piece)? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}
