//! How long answers take: at one fixed rate, and against load.

use std::process::Command;

use anyhow::{Result, ensure};

use super::page::{Page, results};
use super::speed::{fill, load, median};
use super::{LOAD_CPU, Options, PATIENCE, PROFILE, SERVER_CPU};
use crate::server::{Program, Server, Setup};
use crate::{build, process};

const PERCENTILES: &[(&str, &str)] = &[("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")];
/// The rates of the sweep, in parts of memcached's peak.
const SWEEP_PERCENT: &[u64] = &[10, 25, 50, 75, 90, 110];

/// memcached and Seawall, one thread each, filled.
fn servers(options: &Options) -> Result<[Server; 2]> {
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let start = |program: &Program| {
        Setup::new(program, &["-t", "1", "-m", "1024", "-c", "4096"]).on_cpu(SERVER_CPU).start()
    };
    let servers = [start(&Program::Memcached)?, start(&seawall)?];
    for server in &servers {
        fill(server, options, &[])?;
    }
    Ok(servers)
}

/// The requests a second that memcached answers at most.
fn peak(memcached: &Server, options: &Options) -> Result<f64> {
    Ok(load(memcached, options, &["--ratio", "1:0"])?.keys_per_second)
}

/// Both at half of memcached's peak, open loop.
pub fn fixed_rate(options: &Options, page: &mut Page) -> Result<u64> {
    let servers = servers(options)?;
    let rate = format!("{:.0}", peak(&servers[0], options)? / 2.0);
    let mut rounds: [Vec<_>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (server, figures) in servers.iter().zip(&mut rounds) {
            figures.push(load(server, options, &["--ratio", "1:0", "--rate", &rate])?);
        }
    }
    page.say(&format!(
        "Lone GETs over 50 connections at {rate} a second, half of memcached's peak: due at times of their own,"
    ));
    page.say(&format!(
        "measured from when they were due. Microseconds, medians of {} interleaved rounds.\n",
        options.rounds
    ));
    page.head(&["", "memcached", "Seawall", "ratio"]);
    for (shown, name) in PERCENTILES {
        let values = |at: usize| -> Result<Vec<f64>> {
            rounds[at].iter().map(|figure| figure.latency_us(name)).collect()
        };
        let (theirs, ours) = (values(0)?, values(1)?);
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        page.row([
            (*shown).to_owned(),
            format!("{:.0}", median(theirs)),
            format!("{:.0}", median(ours)),
            format!("{:.2}", median(ratios)),
        ]);
    }
    Ok(PERCENTILES.len() as u64)
}

/// A plot: latency against load.
pub fn sweep(options: &Options, page: &mut Page) -> Result<u64> {
    let servers = servers(options)?;
    let peak = peak(&servers[0], options)?;
    let rates: Vec<String> = SWEEP_PERCENT
        .iter()
        .map(|percent| format!("{:.0}", peak * *percent as f64 / 100.0))
        .collect();
    let svg = results().join("sweep.svg");
    std::fs::create_dir_all(results())?;
    let mut command = Command::new(build::binary(PROFILE, "seawall-load")?);
    command.args(["sweep", "--rates", &rates.join(","), "--rounds", &options.rounds.to_string()]);
    command.args(["--ratio", "1:0", "--keys", &options.keys, "--connections", "50"]);
    command.args(["--duration", &format!("{}ms", options.milliseconds), "--cpus", LOAD_CPU]);
    for (name, server) in ["memcached", "Seawall"].iter().zip(&servers) {
        command.args(["--peer", &format!("{name}={}", server.address)]);
    }
    if options.save {
        command.arg("--svg").arg(&svg);
    }
    let (good, text) = process::capture(&mut command, PATIENCE)?;
    ensure!(good, "{}:\n{text}", process::describe(&command));
    page.fence(text.lines().filter(|line| !line.trim().is_empty()));
    if options.save {
        page.say("\n![latency against load](sweep.svg)");
    }
    Ok(rates.len() as u64)
}
