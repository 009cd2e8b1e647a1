//! CPU a request and throughput: Seawall, its peers, and the floor.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::page::Page;
use super::{LOAD_CPU, Options, PATIENCE, PROFILE, SERVER_CPU};
use crate::server::{Program, Server, Setup};
use crate::{build, paths, process};

/// A shape of load.
struct Shape {
    name: &'static str,
    /// The generator's arguments.
    load: &'static [&'static str],
    /// The same for Redis, where it has the like.
    redis: bool,
    /// The floor answers it.
    floor: bool,
    /// CPU and throughput ratio to reach.
    goal: &'static str,
    /// Keys with values of 4 KiB.
    large: bool,
}

const fn shape(
    name: &'static str,
    load: &'static [&'static str],
    goal: &'static str,
    redis: bool,
    floor: bool,
) -> Shape {
    Shape { name, load, redis, floor, goal, large: false }
}

const fn large(name: &'static str, load: &'static [&'static str], goal: &'static str) -> Shape {
    Shape { name, load, redis: true, floor: false, goal, large: true }
}

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    shape("lone GET", &["--ratio", "1:0"], "0.85, 1.2x", true, true),
    shape("lone SET", &["--ratio", "0:1"], "0.70, 1.4x", true, false),
    shape("text GET 32 deep", &["--ratio", "1:0", "--pipeline", "32"], "0.09, 10x", true, true),
    shape("meta `mg` 32 deep", &["--ratio", "1:0", "--pipeline", "32", "--protocol", "meta"], "0.50, 1.9x", false, false),
    shape("binary GET 32 deep", &["--ratio", "1:0", "--pipeline", "32", "--protocol", "binary"], "0.45, 2x", false, false),
    shape("SET 32 deep", &["--ratio", "0:1", "--pipeline", "32"], "0.40, 2.4x", true, false),
    shape("multiget of 50, a key", &["--ratio", "1:0", "--multiget", "50"], "0.52, 1.9x", true, true),
    shape("90/10 zipf, lone", &["--ratio", "90:10", "--distribution", "zipf"], "0.80", true, false),
    shape("90/10 zipf, 32 deep", &["--ratio", "90:10", "--distribution", "zipf", "--pipeline", "32"], "0.13", true, false),
    large("GET 4 KiB, lone", &["--ratio", "1:0"], "0.90"),
    large("GET 4 KiB, 8 deep", &["--ratio", "1:0", "--pipeline", "8"], "0.24"),
];

/// The shapes over two cores, with their goals.
#[rustfmt::skip]
const SHAPES_TWO: &[Shape] = &[
    shape("lone GET", &["--ratio", "1:0"], "1x", false, false),
    shape("lone SET", &["--ratio", "0:1"], "", false, false),
    shape("text GET 32 deep", &["--ratio", "1:0", "--pipeline", "32"], "1.2x", false, false),
    shape("meta `mg` 32 deep", &["--ratio", "1:0", "--pipeline", "32", "--protocol", "meta"], "1.2x", false, false),
    shape("binary GET 32 deep", &["--ratio", "1:0", "--pipeline", "32", "--protocol", "binary"], "1.2x", false, false),
    shape("SET 32 deep", &["--ratio", "0:1", "--pipeline", "32"], "1.2x", false, false),
    shape("multiget of 50, a key", &["--ratio", "1:0", "--multiget", "50"], "1.2x", false, false),
];

/// The large values' share of the keys, and their length.
const LARGE: &[&str] = &["--keys", "20k", "--value-bytes", "4096", "--key-prefix", "large:"];

/// One measurement.
pub struct Figure {
    /// The server's, a key.
    pub cpu_ns: f64,
    pub keys_per_second: f64,
    report: Value,
}

impl Figure {
    /// A latency of all requests, in microseconds.
    pub fn latency_us(&self, percentile: &str) -> Result<f64> {
        self.report["latency"][percentile]
            .as_f64()
            .with_context(|| format!("no latency {percentile} in {}", self.report["latency"]))
    }
}

/// Runs the generator against a server.
pub fn load(server: &Server, options: &Options, arguments: &[&str]) -> Result<Figure> {
    let json = paths::target().join("xtask/load.json");
    let mut command = Command::new(build::binary(PROFILE, "seawall-load")?);
    command.args(["--server", &server.target(), "--connections", "50", "--quiet"]);
    command.args(["--warmup", "300ms", "--cpus", LOAD_CPU]);
    if !arguments.contains(&"--keys") {
        command.args(["--keys", &options.keys]);
    }
    if !arguments.contains(&"--requests") {
        command.args(["--duration", &format!("{}ms", options.milliseconds)]);
    }
    command.args(arguments).arg("--json").arg(&json);
    command.args(["--server-pid", &server.pid().to_string()]);
    let (good, text) = process::capture(&mut command, PATIENCE)?;
    ensure!(good, "{}:\n{text}", process::describe(&command));
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let keys_per_second = report["keys_per_second"].as_f64().context("no keys_per_second")?;
    let cpu_ns =
        report["server_cpu"]["ns_per_key"].as_f64().context("no server CPU in the report")?;
    Ok(Figure { cpu_ns, keys_per_second, report })
}

/// Fills a server with both kinds of keys.
pub fn fill(server: &Server, options: &Options, protocol: &[&str]) -> Result<()> {
    let once = [&["--ratio", "1:0", "--preload", "--requests", "1000"], protocol].concat();
    load(server, options, &once)?;
    load(server, options, &[&once[..], LARGE].concat())?;
    Ok(())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A server that takes part, and what it measured in each round.
struct Peer {
    server: Server,
    protocol: &'static [&'static str],
    figures: Vec<Figure>,
}

impl Peer {
    fn new(server: Server, protocol: &'static [&'static str]) -> Peer {
        Peer { server, protocol, figures: Vec::new() }
    }

    fn cpu_ns(&self) -> f64 {
        median(self.figures.iter().map(|figure| figure.cpu_ns).collect())
    }

    /// The median of a quantity's ratio to another's, round by round.
    fn ratio(&self, to: &Peer, of: impl Fn(&Figure) -> f64) -> f64 {
        let rounds = self.figures.iter().zip(&to.figures);
        median(rounds.map(|(own, other)| of(own) / of(other)).collect())
    }
}

fn measure(peers: &mut [&mut Peer], options: &Options, shape: &Shape) -> Result<()> {
    peers.iter_mut().for_each(|peer| peer.figures.clear());
    for _ in 0..options.rounds {
        for peer in &mut *peers {
            let mut arguments = [shape.load, &["--batch"], peer.protocol].concat();
            if shape.large {
                arguments.extend_from_slice(LARGE);
            }
            let figure = load(&peer.server, options, &arguments)?;
            peer.figures.push(figure);
        }
    }
    Ok(())
}

const RESP: &[&str] = &["--protocol", "resp"];

/// Seawall's one core beside memcached's one thread, Redis, and the floor.
pub fn one_core(options: &Options, page: &mut Page) -> Result<u64> {
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let floor = Program::Floor(build::binary(PROFILE, "floor")?);
    let flags = ["-t", "1", "-m", "1024", "-c", "4096"];
    let start =
        |program: &Program, flags: &[&str]| Setup::new(program, flags).on_cpu(SERVER_CPU).start();
    let mut memcached = Peer::new(start(&Program::Memcached, &flags)?, &[]);
    let mut redis = Peer::new(start(&Program::Redis, &[])?, RESP);
    let mut ours = Peer::new(start(&seawall, &flags)?, &[]);
    let mut floor = Peer::new(start(&floor, &[])?, &[]);
    for peer in [&memcached, &redis, &ours] {
        fill(&peer.server, options, peer.protocol)?;
    }
    page.say(&format!(
        "Server CPU in ns a request (a key for multigets), 50 connections, {} keys of 30 B with values of",
        options.keys
    ));
    page.say(&format!(
        "100 B, medians of {} interleaved rounds; ratios are Seawall / memcached, round by round. The floor",
        options.rounds
    ));
    page.say("answers fixed bytes over the same ring.\n");
    page.head(&[
        "shape",
        "memcached",
        "Redis",
        "Seawall",
        "floor",
        "CPU ratio",
        "throughput",
        "to reach",
    ]);
    for shape in SHAPES {
        let mut peers = vec![&mut memcached, &mut ours];
        if shape.redis {
            peers.push(&mut redis);
        }
        if shape.floor {
            peers.push(&mut floor);
        }
        measure(&mut peers, options, shape)?;
        let shown = |peer: &Peer, there: bool| {
            if there { format!("{:.0}", peer.cpu_ns()) } else { String::new() }
        };
        page.row([
            shape.name.to_owned(),
            shown(&memcached, true),
            shown(&redis, shape.redis),
            shown(&ours, true),
            shown(&floor, shape.floor),
            format!("{:.2}", ours.ratio(&memcached, |figure| figure.cpu_ns)),
            format!("{:.1}x", ours.ratio(&memcached, |figure| figure.keys_per_second)),
            shape.goal.to_owned(),
        ]);
    }
    Ok(SHAPES.len() as u64)
}

/// Two cores beside two threads; keys spread evenly, then by a client that
/// connects to the owning core.
pub fn two_cores(options: &Options, page: &mut Page) -> Result<u64> {
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let ports = crate::server::free_port()?;
    let flags = ["-t", "2", "-m", "1024", "-c", "4096"];
    let port_text = ports.to_string();
    let own = [&flags[..], &["--core-ports", &port_text, "--hash-seed", "7"]].concat();
    let mut memcached = Peer::new(Setup::new(&Program::Memcached, &flags).start()?, &[]);
    let mut ours = Peer::new(Setup::new(&seawall, &own).start()?, &[]);
    for peer in [&memcached, &ours] {
        fill(&peer.server, options, &[])?;
    }
    page.say("Generator and servers share two CPUs. \"Owning core\": the generator connects every key to its");
    page.say("core's port. CPU in ns a request (a key for multigets); ratios as above.\n");
    page.head(&[
        "shape",
        "memcached",
        "Seawall",
        "CPU ratio",
        "throughput",
        "to reach",
        "owning core",
        "its throughput",
    ]);
    for shape in SHAPES_TWO {
        measure(&mut [&mut memcached, &mut ours], options, shape)?;
        let direct = ["--core-ports", &port_text, "--cores", "2", "--hash-seed", "7", "--batch"];
        let mut owning = Vec::new();
        if !shape.load.contains(&"--multiget") {
            for _ in 0..options.rounds {
                owning.push(load(&ours.server, options, &[shape.load, &direct].concat())?);
            }
        }
        let speed = |figures: &[Figure]| {
            median(figures.iter().map(|figure| figure.keys_per_second).collect())
        };
        let (cpu, throughput) = if owning.is_empty() {
            (String::new(), String::new())
        } else {
            let cpu = median(owning.iter().map(|figure| figure.cpu_ns).collect());
            (format!("{cpu:.0}"), format!("{:.1}x", speed(&owning) / speed(&memcached.figures)))
        };
        page.row([
            shape.name.to_owned(),
            format!("{:.0}", memcached.cpu_ns()),
            format!("{:.0}", ours.cpu_ns()),
            format!("{:.2}", ours.ratio(&memcached, |figure| figure.cpu_ns)),
            format!("{:.1}x", ours.ratio(&memcached, |figure| figure.keys_per_second)),
            shape.goal.to_owned(),
            cpu,
            throughput,
        ]);
    }
    Ok(SHAPES_TWO.len() as u64)
}
