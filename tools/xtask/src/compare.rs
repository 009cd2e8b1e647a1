//! Seawall beside its peers: CPU a request and throughput, and bytes an item.
//!
//! Absolute times drift on shared machines, so everything is interleaved in
//! rounds and printed as ratios of one round, with their median.

use std::io::{BufWriter, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::report::Done;
use crate::server::{Program, Server, Setup};
use crate::{build, install, paths, process};

/// Performance is measured with what users build.
const PROFILE: &str = "release";
const SERVER_CPU: usize = 1;
const LOAD_CPU: &str = "0";
const PATIENCE: Duration = Duration::from_secs(120);

/// A shape of load: its name and the generator's arguments.
const SHAPES: &[(&str, &[&str])] = &[
    ("lone GET", &["--ratio", "1:0"]),
    ("lone SET", &["--ratio", "0:1"]),
    ("text GET, 32 deep", &["--ratio", "1:0", "--pipeline", "32"]),
    ("meta mg, 32 deep", &["--ratio", "1:0", "--pipeline", "32", "--protocol", "meta"]),
    ("binary GET, 32 deep", &["--ratio", "1:0", "--pipeline", "32", "--protocol", "binary"]),
    ("SET, 32 deep", &["--ratio", "0:1", "--pipeline", "32"]),
    ("multiget of 50, a key", &["--ratio", "1:0", "--multiget", "50"]),
];

/// One measurement.
struct Figure {
    cpu_ns: f64,
    keys_per_second: f64,
}

/// Interleaved rounds of every shape against memcached and Seawall, one core each.
pub fn speed(rounds: usize, keys: &str) -> Result<Done> {
    install::apt(&["memcached"], &["memcached"])?;
    build::tools(PROFILE, &["seawalld", "seawall-load"])?;
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let flags = ["-t", "1", "-m", "1024", "-c", "4096"];
    let peer = Setup::new(&Program::Memcached, &flags).on_cpu(SERVER_CPU).start()?;
    let ours = Setup::new(&seawall, &flags).on_cpu(SERVER_CPU).start()?;
    for server in [&peer, &ours] {
        load(server, keys, &["--ratio", "1:0", "--preload", "--requests", "1000"])?;
    }
    println!(
        "   CPU is the server's, in ns a request (a key for multigets); ratios are Seawall / memcached"
    );
    println!(
        "   {:<22} {:>10} {:>10} {:>10} {:>12}",
        "shape", "memcached", "seawalld", "CPU ratio", "throughput"
    );
    for (name, arguments) in SHAPES {
        let (mut cpu, mut speed, mut theirs_ns, mut ours_ns) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            let theirs = load(&peer, keys, arguments)?;
            let mine = load(&ours, keys, arguments)?;
            cpu.push(mine.cpu_ns / theirs.cpu_ns);
            speed.push(mine.keys_per_second / theirs.keys_per_second);
            theirs_ns.push(theirs.cpu_ns);
            ours_ns.push(mine.cpu_ns);
        }
        println!(
            "   {name:<22} {:>10.0} {:>10.0} {:>10.2} {:>11.1}x",
            median(&mut theirs_ns),
            median(&mut ours_ns),
            median(&mut cpu),
            median(&mut speed)
        );
    }
    Ok(Done::new(SHAPES.len() as u64, format!("medians of {rounds} interleaved rounds")))
}

fn load(server: &Server, keys: &str, arguments: &[&str]) -> Result<Figure> {
    let json = paths::target().join("xtask/load.json");
    let mut command = Command::new(build::binary(PROFILE, "seawall-load")?);
    command.args(["--server", &server.target(), "--connections", "50", "--keys", keys]);
    command.args(["--cpus", LOAD_CPU, "--batch", "--quiet", "--warmup", "300ms"]);
    if !arguments.contains(&"--requests") {
        command.args(["--duration", "2s"]);
    }
    command.args(arguments).arg("--json").arg(&json);
    let (good, text) =
        process::capture(command.args(["--server-pid", &server.pid().to_string()]), PATIENCE)?;
    ensure!(good, "{}:\n{text}", process::describe(&command));
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let number =
        |name: &str| report[name].as_f64().with_context(|| format!("no {name} in the report"));
    let keys_per_second = number("keys_per_second")?;
    let cpu_ns =
        report["server_cpu"]["ns_per_key"].as_f64().context("no server CPU in the report")?;
    Ok(Figure { cpu_ns, keys_per_second })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Key and value lengths of the memory table.
const SIZES: &[(usize, usize)] = &[(10, 10), (20, 100), (30, 500)];
const ITEMS: usize = 1_000_000;

/// Resident bytes an item beyond key and value, for Seawall, memcached and Redis.
pub fn memory() -> Result<Done> {
    install::apt(&["memcached"], &["memcached"])?;
    install::apt(&["redis-server"], &["redis-server"])?;
    build::tools(PROFILE, &["seawalld"])?;
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    println!("   resident bytes an item beyond key and value, {ITEMS} items");
    println!("   {:<12} {:<10} {:>12} {:>12}", "server", "key+value", "TTL+version", "neither");
    for program in [&seawall, &Program::Memcached, &Program::Redis] {
        for &(key, value) in SIZES {
            let full = overhead(program, key, value, true)?;
            let bare = overhead(program, key, value, false)?;
            println!(
                "   {:<12} {:<10} {full:>12.1} {bare:>12.1}",
                program.name(),
                format!("{key}+{value}")
            );
        }
    }
    Ok(Done::new(3 * SIZES.len() as u64, "measured as resident memory"))
}

fn overhead(program: &Program, key: usize, value: usize, full: bool) -> Result<f64> {
    let mut flags = match program {
        Program::Redis => vec![],
        _ => vec!["-t", "1", "-m", "2048"],
    };
    if !full && *program != Program::Redis {
        flags.push("-C");
    }
    let server = Setup::new(program, &flags).start()?;
    std::thread::sleep(Duration::from_millis(500));
    let before = server.resident_bytes()?;
    fill(&server, *program == Program::Redis, key, value, full)?;
    std::thread::sleep(Duration::from_millis(500));
    let grown = server.resident_bytes()?.saturating_sub(before);
    Ok(grown as f64 / ITEMS as f64 - (key + value) as f64)
}

/// Writes all items in one pipeline and waits for its end.
fn fill(server: &Server, redis: bool, key: usize, value: usize, ttl: bool) -> Result<()> {
    let stream = TcpStream::connect(server.address)?;
    let mut reader = stream.try_clone()?;
    // Redis answers every write: somebody must read while we send.
    let drain = std::thread::spawn(move || -> std::io::Result<bool> {
        let (mut tail, mut piece) = (Vec::new(), [0; 65_536]);
        loop {
            let count = reader.read(&mut piece)?;
            tail.extend_from_slice(&piece[..count]);
            tail.drain(..tail.len().saturating_sub(16));
            if count == 0 || tail.ends_with(b"END\r\n") || tail.ends_with(b"+PONG\r\n") {
                return Ok(count > 0);
            }
        }
    });
    let mut out = BufWriter::with_capacity(1 << 16, &stream);
    let value = "v".repeat(value);
    for item in 0..ITEMS {
        let length = value.len();
        match (redis, ttl) {
            (false, _) => {
                let expiry = if ttl { 86_400 } else { 0 };
                write!(out, "set {item:0key$} 0 {expiry} {length} noreply\r\n{value}\r\n")?;
            }
            (true, true) => write!(
                out,
                "*5\r\n$3\r\nSET\r\n${key}\r\n{item:0key$}\r\n${length}\r\n{value}\r\n$2\r\nEX\r\n$5\r\n86400\r\n"
            )?,
            (true, false) => {
                write!(
                    out,
                    "*3\r\n$3\r\nSET\r\n${key}\r\n{item:0key$}\r\n${length}\r\n{value}\r\n"
                )?;
            }
        }
    }
    out.write_all(if redis { b"*1\r\n$4\r\nPING\r\n" } else { b"get none\r\n" })?;
    out.flush()?;
    let answered = drain.join().ok().context("the reading thread panicked")??;
    ensure!(answered, "the server closed the connection");
    Ok(())
}
