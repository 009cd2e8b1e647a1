//! `seawall-sim`: what would Seawall have done?
//!
//! `replay` runs recorded requests through the engine under several eviction
//! policies and capacities, and prints how many of them miss. `check` judges
//! what clients saw of a cluster. `cluster` runs whole clusters in virtual time.

mod check;
mod cluster;
mod optimal;
mod replay;
mod report;
mod trace;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use engine::Eviction;
use indicatif::{ProgressBar, ProgressStyle};
use replay::{Capacity, CapacityText, Outcome, Setup, replay};
use report::{Reference, Row, against_lru, table, thousands};
use std::path::PathBuf;
use std::process::ExitCode;
use trace::Trace;

/// Simulates Seawall.
#[derive(Debug, Parser)]
#[command(name = "seawall-sim", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replay traces through the engine and print the miss ratios.
    ///
    /// Every request is a read and a miss is filled at once; the cache starts
    /// cold and every request counts.
    Replay(ReplayOptions),
    /// Judge what clients saw of a cluster: read a recorded history, run every
    /// check, print the verdicts.
    ///
    /// Exits with 0 if all is well, 1 if something is violated, 2 if a history
    /// cannot be read.
    #[command(after_long_help = check::FORMAT)]
    Check(check::CheckOptions),
    /// Run whole clusters in virtual time, with faults, and judge what their
    /// clients saw.
    ///
    /// A seed decides everything that happens: --seed shows a run again. Exits
    /// with 0 if all is well, 1 if something is violated.
    Cluster(cluster::ClusterOptions),
}

#[derive(Debug, clap::Args)]
struct ReplayOptions {
    /// Trace files (*.swtr.zst).
    #[arg(required = true, value_name = "TRACE")]
    traces: Vec<PathBuf>,
    /// Policies, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "NAME,...")]
    policy: Vec<PolicyOption>,
    /// Capacities, separated by commas: parts of the trace like 10%, numbers of
    /// objects like 5000, or with --bytes amounts of memory like 64m.
    #[arg(long, value_delimiter = ',', default_value = "0.1%,1%,10%,40%", value_parser = CapacityText::parse, value_name = "SIZE,...")]
    capacity: Vec<CapacityText>,
    /// Bound the memory instead of the number of objects. Needs a trace with
    /// sizes; the engine's own overhead counts.
    #[arg(long)]
    bytes: bool,
    /// Divide the keys among so many shards, as that many cores would.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "N")]
    shards: u32,
    /// Seed of the keys' hash.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Compare with the miss ratios in this file (reference.json).
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Write the results to this file, - for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyOption {
    /// All of the following.
    All,
    /// CLOCK-Pro, the default of seawalld.
    ClockPro,
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO: three queues.
    #[value(name = "s3-fifo", alias = "s3fifo")]
    S3Fifo,
    /// The limit: Belady's rule, which knows the future (not with --bytes).
    Belady,
}

/// What decides who leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// CLOCK-Pro, as the engine has it.
    ClockPro,
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO: three queues.
    S3Fifo,
    /// Knows the future.
    Belady,
}

impl Policy {
    const ALL: [Policy; 5] =
        [Policy::ClockPro, Policy::Lru, Policy::Lfu, Policy::S3Fifo, Policy::Belady];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Policy::ClockPro => "clock-pro",
            Policy::Lru => "lru",
            Policy::Lfu => "lfu",
            Policy::S3Fifo => "s3-fifo",
            Policy::Belady => "belady",
        }
    }

    /// As `reference.json` calls it.
    pub fn reference_name(self) -> &'static str {
        match self {
            Policy::ClockPro => "CLOCK-Pro slot+window",
            Policy::Lru => "LRU",
            Policy::Lfu => "GDSF",
            Policy::S3Fifo => "S3-FIFO",
            Policy::Belady => "Belady",
        }
    }

    fn eviction(self) -> Option<Eviction> {
        match self {
            Policy::ClockPro => Some(Eviction::ClockPro),
            Policy::Lru => Some(Eviction::Lru),
            Policy::Lfu => Some(Eviction::Lfu),
            Policy::S3Fifo => Some(Eviction::S3Fifo),
            Policy::Belady => None,
        }
    }
}

fn main() -> ExitCode {
    let (result, unable) = match Options::parse().command {
        Command::Replay(options) => (replay_all(&options).map(|()| true), 1),
        Command::Check(options) => (check::check_all(&options), 2),
        Command::Cluster(options) => (cluster::simulate(&options), 2),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("seawall-sim: {error:#}");
            ExitCode::from(unable)
        }
    }
}

fn policies(options: &ReplayOptions) -> Result<Vec<Policy>> {
    let mut policies = Vec::new();
    for option in &options.policy {
        let chosen: &[Policy] = match option {
            PolicyOption::All if options.bytes => &Policy::ALL[..4],
            PolicyOption::All => &Policy::ALL,
            PolicyOption::ClockPro => &[Policy::ClockPro],
            PolicyOption::Lru => &[Policy::Lru],
            PolicyOption::Lfu => &[Policy::Lfu],
            PolicyOption::S3Fifo => &[Policy::S3Fifo],
            PolicyOption::Belady => &[Policy::Belady],
        };
        for &policy in chosen {
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
    }
    let belady = options.bytes && policies.contains(&Policy::Belady);
    ensure!(!belady, "Belady's rule is no limit where objects differ in size: leave it out");
    Ok(policies)
}

fn replay_all(options: &ReplayOptions) -> Result<()> {
    let policies = policies(options)?;
    let reference = options.reference.as_deref().map(Reference::open).transpose()?;
    // Standard output is for one reader, a person or a program.
    let to_person = options.json.as_deref().is_none_or(|path| path.as_os_str() != "-");
    let mut rows = Vec::new();
    for path in &options.traces {
        let trace = Trace::open(path)?;
        let from = rows.len();
        replay_trace(&trace, &policies, options, reference.as_ref(), &mut rows)?;
        if to_person {
            print_trace(&trace, options, &rows[from..]);
        }
    }
    let means = against_lru(&rows);
    if to_person && !means.is_empty() {
        println!("change of misses against LRU, geometric mean of the traces\n{means}");
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&rows)?;
        if to_person {
            std::fs::write(path, json + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        } else {
            println!("{json}");
        }
    }
    Ok(())
}

fn print_trace(trace: &Trace, options: &ReplayOptions, rows: &[Row]) {
    let requests = thousands(trace.requests.len() as u64);
    let objects = thousands(u64::from(trace.objects));
    let shards = match options.shards {
        1 => String::new(),
        shards => format!(", in {shards} shards"),
    };
    println!("{}: {requests} requests for {objects} objects{shards}", trace.name);
    let compared = if rows.iter().any(|row| row.reference.is_some()) {
        " (points above the reference)"
    } else {
        ""
    };
    println!("  miss ratio in percent{compared} at capacity");
    println!("{}", table(rows));
}

fn replay_trace(
    trace: &Trace,
    policies: &[Policy],
    options: &ReplayOptions,
    reference: Option<&Reference>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let runs = policies.len() * options.capacity.len();
    let requests = trace.requests.len() as u64;
    let bar = ProgressBar::new(requests * runs as u64);
    let style = "{prefix:>16} {msg:<16} [{wide_bar}] {percent:>3}% {per_sec} requests, {eta} left";
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    bar.set_prefix(trace.name.clone());

    let mut done = 0;
    for &policy in policies {
        for text in &options.capacity {
            let capacity = text.of(trace, options.bytes)?;
            bar.set_message(policy.name());
            let outcome = match (policy.eviction(), capacity) {
                (Some(eviction), _) => {
                    let (shards, seed) = (options.shards, options.seed);
                    let setup = Setup { eviction, capacity, shards, seed };
                    replay(trace, &setup, |requests| bar.set_position(done + requests))?
                }
                (None, Capacity::Objects(objects)) => Outcome {
                    requests,
                    misses: optimal::misses(trace, objects),
                    ..Outcome::default()
                },
                (None, Capacity::Bytes(_)) => continue,
            };
            done += requests;
            bar.set_position(done);
            let fraction = text.fraction();
            let mut row = Row::new(
                &trace.name,
                policy,
                fraction,
                capacity,
                options.shards,
                options.seed,
                &outcome,
            );
            if let Some(reference) = reference {
                row.compare(reference, policy);
            }
            rows.push(row);
        }
    }
    bar.finish_and_clear();
    Ok(())
}
