//! `cargo xtask bench`: every figure that the README quotes, beside the peers.
//!
//! Absolute times drift on shared machines: peers are measured in interleaved
//! rounds, and what counts are the ratios within a round, or counts (bytes,
//! instructions, misses). Nothing here is a test.

mod latency;
mod memory;
mod page;
mod readers;
mod replication;
mod speed;
mod traces;

use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::report::{Done, Report};
use crate::{build, check, install, process};
pub use page::Page;

/// Performance is measured with what users build.
const PROFILE: &str = "release";
/// The server's CPU when it has one, and the generator's.
const SERVER_CPU: usize = 1;
const LOAD_CPU: &str = "0";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1_200);

/// What the command line asks for.
pub struct Options {
    /// Interleaved rounds of each comparison.
    rounds: usize,
    /// Keys of the speed tables.
    keys: String,
    /// Milliseconds of one measurement.
    milliseconds: u64,
    /// A folder of traces, with their reference.
    traces: Option<PathBuf>,
    /// Write the tables to benches/results.
    save: bool,
}

type Part = fn(&Options, &mut Page) -> Result<u64>;

/// Name, title, and what does it.
const PARTS: &[(&str, &str, Part)] = &[
    ("speed", "One core beside memcached and Redis", speed::one_core),
    ("cores", "Two cores beside two memcached threads", speed::two_cores),
    ("latency", "Latency at a fixed rate", latency::fixed_rate),
    ("sweep", "Latency against load", latency::sweep),
    ("readers", "Many clients that ask for much at once", readers::table),
    ("memory", "Resident bytes an item beyond key and value", memory::table),
    ("traces", "Miss ratios of real traces", traces::table),
    ("replication", "What copies and other nodes cost", replication::table),
    ("hot", "What copies of hot keys are worth", replication::hot),
    ("shift", "A shift of value sizes", shift),
    ("growth", "The longest single call", growth),
    ("engine", "The engine alone", engine),
];

/// The command.
pub fn command(arguments: &mut lexopt::Parser, report: &mut Report) -> Result<()> {
    let mut options =
        Options { rounds: 5, keys: "1m".into(), milliseconds: 2_000, traces: None, save: false };
    let mut only: Vec<String> = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("rounds") => options.rounds = arguments.value()?.parse()?,
            Long("keys") => options.keys = arguments.value()?.string()?,
            Long("milliseconds") => options.milliseconds = arguments.value()?.parse()?,
            Long("traces") => options.traces = Some(arguments.value()?.into()),
            Long("save") => options.save = true,
            Long("only") => {
                only.extend(arguments.value()?.string()?.split(',').map(str::to_owned));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let names: Vec<_> = PARTS.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = only.iter().find(|part| !names.contains(&part.as_str())) {
        bail!("`{unknown}` is none of {}", names.join(", "));
    }
    install::apt(&["memcached"], &["memcached"])?;
    install::apt(&["redis-server"], &["redis-server"])?;
    report.step("build", || {
        build::build(PROFILE)?;
        Ok(Done::new(1, "with the release profile"))
    });
    for (name, title, part) in PARTS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        report.step(name, || {
            let mut page = Page::new(name, title);
            let figures = part(&options, &mut page)?;
            let note = if options.save { page.save(&options)? } else { String::new() };
            Ok(Done::new(figures, note))
        });
    }
    Ok(())
}

/// The engine's test of size shifts prints each policy's hit ratios.
fn shift(_: &Options, page: &mut Page) -> Result<u64> {
    let mut cargo = check::cargo(&["test", "--quiet", "--package", "seawall-engine"]);
    cargo.args(["--test", "smoke", "pages_follow_the_sizes", "--", "--nocapture"]);
    let (good, text) = process::capture(&mut cargo, PATIENCE)?;
    anyhow::ensure!(good, "{text}");
    page.say("Hit ratios after values grew from 100 B to 1 KiB and shrank again, beside a fresh");
    page.say("cache's, over the second half of one turnover.\n");
    page.fence(text.lines().filter(|line| line.contains("fresh")));
    Ok(4)
}

fn growth(_: &Options, page: &mut Page) -> Result<u64> {
    let text = page.output(build::command(PROFILE, "growth")?, PATIENCE)?;
    page.fence(text.lines());
    Ok(1)
}

fn engine(_: &Options, page: &mut Page) -> Result<u64> {
    let cargo = check::cargo(&["bench", "--quiet", "--package", "seawall-benches"]);
    let text = page.output(cargo, PATIENCE * 3)?;
    page.fence(text.lines().filter(|line| line.contains("time:") || line.contains("thrpt:")));
    Ok(1)
}
