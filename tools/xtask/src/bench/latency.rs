//! How long answers take: at one fixed rate, and against load.

use std::process::Command;

use anyhow::{Result, ensure};

use super::page::{Page, results};
use super::speed::{fill, load, median};
use super::{LOAD_CPU, Options, PATIENCE, PROFILE, SERVER_CPU};
use crate::server::{Program, Server, Setup};
use crate::{build, process};

const PERCENTILES: &[(&str, &str)] = &[("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")];
/// What each of the servers is spoken to in.
const PROTOCOLS: [&[&str]; 3] = [&[], &[], &["--protocol", "resp"]];
/// The rates of the sweep, in parts of memcached's peak.
const SWEEP_PERCENT: &[u64] = &[10, 25, 50, 75, 90, 110];

/// memcached and Seawall, one thread each, and Redis, filled.
fn servers(options: &Options) -> Result<[Server; 3]> {
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let flags = ["-t", "1", "-m", "1024", "-c", "4096"];
    let start =
        |program: &Program, flags: &[&str]| Setup::new(program, flags).on_cpu(SERVER_CPU).start();
    let servers = [
        start(&Program::Memcached, &flags)?,
        start(&seawall, &flags)?,
        start(&Program::Redis, &[])?,
    ];
    for (server, protocol) in servers.iter().zip(PROTOCOLS) {
        fill(server, options, protocol)?;
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
    let mut rounds: [Vec<_>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for ((server, protocol), figures) in servers.iter().zip(PROTOCOLS).zip(&mut rounds) {
            let arguments = [&["--ratio", "1:0", "--rate", &rate], protocol].concat();
            figures.push(load(server, options, &arguments)?);
        }
    }
    page.say(&format!(
        "Lone GETs over 50 connections at {rate} a second, half of memcached's peak: due at times of their own,"
    ));
    page.say(&format!(
        "measured from when they were due. Microseconds, medians of {} interleaved rounds.\n",
        options.rounds
    ));
    page.head(&["", "memcached", "Redis", "Seawall", "Seawall / memcached"]);
    for (shown, name) in PERCENTILES {
        let values = |at: usize| -> Result<Vec<f64>> {
            rounds[at].iter().map(|figure| figure.latency_us(name)).collect()
        };
        let (theirs, ours) = (values(0)?, values(1)?);
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        page.row([
            (*shown).to_owned(),
            format!("{:.0}", median(theirs)),
            format!("{:.0}", median(values(2)?)),
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
    for (name, server) in ["memcached=", "Seawall=", "Redis=resp@"].iter().zip(&servers) {
        command.args(["--peer", &format!("{name}{}", server.address)]);
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
