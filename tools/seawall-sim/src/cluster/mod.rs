//! `cluster`: whole clusters in virtual time, as many as there are seeds.
//!
//! The replicators, shards, keepers, members and planners are those of the
//! daemon; the machines, their clocks, the network between them and the
//! coordinator are simulated. A seed decides everything that happens. What the
//! clients saw is judged by the checks of the `history` crate.
//!
//! Where every in-sync copy of a partition is lost, the loss counts as a delete
//! that may take effect from the moment at which the partition begins anew. What
//! is not judged: misses while an invalidation has failed half-way, and with clocks
//! of day that differ, misses and deletes around the moment at which a value
//! expires. A `flush_all` for later is not among what clients do.
//!
//! | module | holds |
//! |---|---|
//! | [`hub`] | the virtual time: what happens next |
//! | [`world`] | the cluster, and how one thing leads to another |
//! | [`machine`] | clocks, processes, their control |
//! | [`data`] | a data core and the requests in it |
//! | [`network`] | links and reachability |
//! | [`coordinator`] | the log of commands |
//! | [`faults`] | what goes wrong |
//! | [`clients`] | who asks |
//! | [`keys`] | what about |
//! | [`recorder`] | what they saw |
//! | [`judge`] | whether that may be |
//! | [`reigns`] | whether it may be of what is not replicated synchronously |
//! | [`scale`] | the control plane of a thousand nodes |

mod clients;
mod coordinator;
mod data;
mod faults;
mod hub;
mod judge;
mod keys;
mod machine;
mod network;
mod random;
mod recorder;
mod reigns;
mod scale;
mod wire;
mod world;

use crate::report::thousands;
use anyhow::{Context, Result, ensure};
use clients::Load;
use cluster::replication::Limits;
use cluster::spread::PATIENCE_MS;
use cluster::time::Timing;
use faults::FaultKind;
use hub::{Hub, MS};
use indicatif::{ProgressBar, ProgressStyle};
use judge::{Verdict, judge};
use keys::Keys;
use machine::NodeSetup;
use random::Random;
use std::path::PathBuf;
use std::sync::Arc;
use world::{FAULTS_FROM, Setup, World};

#[derive(Debug, clap::Args)]
pub struct ClusterOptions {
    /// How many seeds to run. 100 unless said otherwise; 1 with --seed.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Run this seed alone, or the first of several.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=16), value_name = "N")]
    nodes: u64,
    /// Copies of every partition.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3), value_name = "N")]
    copies: u8,
    /// In-sync copies that a write needs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3), value_name = "N")]
    min_copies: u8,
    /// Data cores of the nodes: of the first, of the second, and so on from the
    /// begin.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=8), value_name = "N,...")]
    cores: Vec<u16>,
    /// Virtual time during which clients and faults are at work.
    #[arg(long, default_value_t = 5_000, value_name = "MS")]
    duration_ms: u64,
    /// What goes wrong, and what clients and operators do beside.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all", value_name = "KIND,...")]
    faults: Vec<FaultKind>,
    /// Instead: the control plane of so many nodes and 65,536 partitions, without
    /// data. How large, how chatty, and how fast when nodes die or join.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u64).range(4..=4096))]
    scale: Option<u64>,
    /// Write the verdict of every seed to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show so many seeds with violations.
    #[arg(long, default_value_t = 3, value_name = "N")]
    show: usize,
    /// Print to standard error what the coordinator commits.
    #[arg(long)]
    log: bool,
    /// Print to standard error what happens to the key of this number.
    #[arg(long, value_name = "N")]
    watch: Option<u32>,
}

/// Each node is in one of two or three zones, or in none.
fn zones(nodes: u64, random: &mut Random) -> Vec<String> {
    let count = random.between(2, 3);
    let zone = |_| match random.below(10 * count + 1) {
        0 => String::new(),
        drawn => format!("z{}", drawn % count),
    };
    (0..nodes).map(zone).collect()
}

/// Runs a seed.
fn run(options: &ClusterOptions, seed: u64) -> Verdict {
    let mut hub = Hub::new(seed);
    let kinds = FaultKind::chosen(&options.faults);
    let random = &mut hub.random;
    let heavy = random.percent(25);
    let slow = kinds.contains(&FaultKind::Cut) && random.percent(60);
    let slow_rate = if slow { random.between(500, 4_000) << if heavy { 6 } else { 0 } } else { 0 };
    let limits = Limits {
        log_bytes_max: if heavy { 1 << 16 } else { 4 << 20 },
        fill_bytes_max: random.between(64, 16 << 10) as usize,
        fill_bytes_per_second: if slow { slow_rate } else { 64 << 20 },
        purge_items_max: random.between(1, 64) as usize,
        min_copies: options.min_copies,
        // Nodes that come back answer soon as replicas, as the real ones do.
        invalidation_ms: if seed.is_multiple_of(4) { PATIENCE_MS } else { PATIENCE_MS / 4 },
        ..Limits::default()
    };
    let gives_up = kinds.contains(&FaultKind::Abandon) && random.percent(50);
    let timing = Timing {
        repair_after_ms: if random.percent(50) || gives_up { 800 } else { 10_000 },
        abandon_after_ms: if gives_up { 1_200 } else { 600_000 },
        ..Timing::default()
    };
    let seed_of_hashes = random.next();
    // Where few keys are read, and little is written, copies of them live long.
    let few = random.percent(40);
    let load = Load {
        keys: if few { random.between(2, 6) } else { random.between(4, 40) } as u32,
        think_us: random.between(1, 40) * MS,
        reads: if few { 92 } else { 50 },
        replaced: if few { 4 } else { 40 },
        padding_max: if heavy { 6_000 } else { 100 },
        invalidates: kinds.contains(&FaultKind::Invalidate),
        expires: kinds.contains(&FaultKind::Expire),
    };
    let mixed = kinds.contains(&FaultKind::Modes) && random.percent(60);
    let keys = if mixed { Keys::mixed(load.keys, random) } else { Keys::all_sync(load.keys) };
    // What is out of date lies about for long where little is looked at in a step.
    let slow_purge = mixed && random.percent(60);
    let purge_items_max = if slow_purge { 1 } else { limits.purge_items_max };
    let limits = Limits { purge_items_max, ..limits };
    let zones = match kinds.contains(&FaultKind::Zones) && random.percent(60) {
        true => zones(options.nodes, random),
        false => Vec::new(),
    };
    // Some operators want reads at primaries alone.
    let read_nearest = zones.is_empty() || random.percent(85);
    let node = NodeSetup {
        cores: options.cores.clone(),
        limits: Limits { read_nearest, ..limits },
        timing,
        seed: seed_of_hashes,
        keys: Arc::new(keys),
        zones,
    };
    let calm_at = FAULTS_FROM + options.duration_ms * MS;
    let watch = options.watch.filter(|key| *key < load.keys);
    let clients = random.between(2, 12) as u32;
    let nodes = options.nodes as usize;
    let cores = |machine| node.cores(machine);
    let faults = faults::schedule(random, &kinds, nodes, &cores, FAULTS_FROM, calm_at);
    let setup = Setup {
        seed,
        nodes,
        copies: options.copies,
        ring_bits: 4,
        node,
        load,
        clients,
        calm_at,
        drift: kinds.contains(&FaultKind::Drift),
        pauses: kinds.contains(&FaultKind::Pause),
        log: options.log,
        watch,
    };
    let mut world = World::new(setup, hub, faults);
    world.run();
    judge(world)
}

/// Runs all seeds; true if nothing is violated.
pub fn simulate(options: &ClusterOptions) -> Result<bool> {
    if let Some(nodes) = options.scale {
        return scale::run(nodes as usize, options.copies);
    }
    ensure!(u64::from(options.copies) <= options.nodes, "there are fewer nodes than copies");
    ensure!(options.min_copies <= options.copies, "a write needs more copies than there are");
    let seeds = options.seeds.unwrap_or(if options.seed.is_some() { 1 } else { 100 });
    let first = options.seed.unwrap_or(1);
    let bar = ProgressBar::new(seeds);
    let style = "{prefix:>16} {msg:<16} [{wide_bar}] {percent:>3}% {per_sec} seeds, {eta} left";
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    bar.set_prefix("cluster");
    let mut verdicts = Vec::new();
    let mut shown = 0;
    for seed in first..first + seeds {
        let verdict = run(options, seed);
        bar.inc(1);
        if !verdict.violations.is_empty() {
            if shown < options.show {
                bar.suspend(|| print_failure(&verdict));
            }
            shown += 1;
            bar.set_message(format!("{shown} failed"));
        }
        verdicts.push(verdict);
    }
    bar.finish_and_clear();
    print_totals(&verdicts);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&verdicts)?;
        std::fs::write(path, json + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(shown == 0)
}

fn print_failure(verdict: &Verdict) {
    println!("seed {} is violated; its faults:", verdict.seed);
    for fault in &verdict.faults {
        println!("  {fault}");
    }
    for violation in verdict.violations.iter().take(5) {
        println!("{violation}");
    }
}

fn print_totals(verdicts: &[Verdict]) {
    let sum = |of: fn(&Verdict) -> u64| thousands(verdicts.iter().map(of).sum());
    let mut gaps: Vec<u64> = verdicts.iter().flat_map(|v| v.unavailable_ms.clone()).collect();
    gaps.sort_unstable();
    let whole = verdicts.iter().filter_map(|verdict| verdict.whole_after_ms).max();
    let failed = verdicts.iter().filter(|verdict| !verdict.violations.is_empty());
    println!("seeds                    {}", thousands(verdicts.len() as u64));
    println!("operations               {}", sum(|v| v.operations));
    println!("  acknowledged writes    {}", sum(|v| v.acknowledged));
    println!("  of unknown outcome     {}", sum(|v| v.unknown));
    println!("  refused                {}", sum(|v| v.refused));
    println!("invalidations            {}", sum(|v| v.invalidations));
    println!("  of unknown outcome     {}", sum(|v| v.unsure));
    println!("primaries replaced       {}", sum(|v| v.failovers));
    println!("fills                    {}", sum(|v| v.fills));
    println!("  resumed                {}", sum(|v| v.fills_resumed));
    println!("resumed from the log     {}", sum(|v| v.resumes));
    println!("writes fenced            {}", sum(|v| v.fenced));
    println!("hot keys granted         {}", sum(|v| v.granted));
    println!("  reads there            {}", sum(|v| v.copy_reads));
    println!("  taken back for writes  {}", sum(|v| v.revoked));
    println!("reads sent within a zone {}", sum(|v| v.zone_reads));
    println!("links with garbage       {}", sum(|v| v.garbage));
    println!("partitions begun anew    {}", sum(|v| v.born));
    println!("asynchronous writes lost {}", sum(|v| v.lost_asynchronous));
    println!(
        "longest unavailability   p50 {} ms, max {} ms of a key",
        thousands(gaps.get(gaps.len() / 2).copied().unwrap_or(0)),
        thousands(gaps.last().copied().unwrap_or(0)),
    );
    println!("whole again after        {} ms at most", thousands(whole.unwrap_or(0)));
    println!("seeds with violations    {}", failed.count());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: ClusterOptions,
    }

    fn options(line: &str) -> ClusterOptions {
        Command::parse_from(std::iter::once("test").chain(line.split_whitespace())).options
    }

    fn assert_good(line: &str, seeds: std::ops::Range<u64>) -> Vec<Verdict> {
        let options = options(line);
        let check = |seed| {
            let verdict = run(&options, seed);
            let violations = verdict.violations.join("\n");
            assert!(verdict.violations.is_empty(), "seed {seed} with {line}:\n{violations}");
            verdict
        };
        seeds.map(check).collect()
    }

    #[test]
    fn a_seed_is_one_run() {
        for line in ["", "--nodes 5 --copies 3 --cores 2"] {
            let options = options(line);
            let (once, again, other) = (run(&options, 7), run(&options, 7), run(&options, 8));
            assert_eq!(once.trace, again.trace);
            assert_eq!(once.operations, again.operations);
            assert_ne!(once.trace, other.trace);
        }
    }

    #[test]
    fn nothing_is_lost_or_unknown_without_faults() {
        let options = options("--faults none --duration-ms 1500");
        let mut copy_reads = 0;
        for seed in 0..10 {
            let verdict = run(&options, seed);
            assert!(verdict.violations.is_empty(), "{}", verdict.violations.join("\n"));
            assert_eq!((verdict.unknown, verdict.refused, verdict.born), (0, 0, 0));
            // Some seeds write little.
            assert!(verdict.acknowledged > 25);
            copy_reads += verdict.copy_reads;
        }
        assert!(copy_reads > 50, "hot keys had copies");
    }

    #[test]
    fn two_copies_keep_every_promise() {
        assert_good("--duration-ms 2000", 0..150);
    }

    #[test]
    fn three_copies_keep_every_promise() {
        assert_good("--duration-ms 2000 --copies 3", 1_000..1_070);
    }

    /// A new primary that served at once, whatever its revision, was seen in one of
    /// these seeds.
    #[test]
    fn a_new_primary_waits_for_whom_it_does_not_count() {
        assert_good("--duration-ms 3000 --copies 3 --faults unheard", 1_040..1_070);
        assert_good("--duration-ms 3000 --copies 3 --faults unheard --nodes 4", 255..285);
    }

    /// A replica's core once dropped what one core of its primary had filled when
    /// the next one began.
    #[test]
    fn nodes_of_different_numbers_of_cores_keep_every_promise() {
        assert_good("--duration-ms 2000 --cores 1,2,3 --nodes 4 --faults drain", 1..20);
        assert_good("--duration-ms 2000 --cores 1,2,3 --nodes 4", 3_000..3_050);
    }

    #[test]
    fn a_drain_fails_no_request() {
        let options = options("--faults drain,modes --nodes 4 --duration-ms 2500");
        for seed in 0..20 {
            let verdict = run(&options, seed);
            assert!(verdict.violations.is_empty(), "{}", verdict.violations.join("\n"));
            assert_eq!((verdict.unknown, verdict.refused, verdict.born), (0, 0, 0));
            assert_eq!(verdict.lost_asynchronous, 0);
        }
    }

    /// With one clock for all, what has expired is gone for all at once.
    #[test]
    fn what_has_expired_stays_away() {
        let faults = "partition,one-way,stall,crash,reset,loss,leader,lag,expire,leave";
        assert_good(&format!("--duration-ms 2000 --faults {faults}"), 4_000..4_060);
    }

    #[test]
    fn what_was_invalidated_stays_away() {
        assert_good("--faults crash,pause,reset,invalidate,leave --duration-ms 2000", 0..60);
    }

    #[test]
    fn fills_go_on_where_links_broke() {
        let seen =
            assert_good("--duration-ms 3000 --faults cut,crash,drain,partition", 6_000..6_060);
        let resumed: u64 = seen.iter().map(|verdict| verdict.fills_resumed).sum();
        assert!(resumed > 0, "no link broke during a fill");
    }

    #[test]
    fn several_cores_keep_every_promise() {
        assert_good("--duration-ms 2000 --cores 2 --nodes 4", 2_000..2_070);
    }

    #[test]
    fn copies_of_hot_keys_keep_every_promise() {
        assert_good("--duration-ms 2000 --nodes 5 --copies 1", 3_000..3_050);
        assert_good("--duration-ms 2000 --nodes 5", 4_000..4_050);
    }

    /// Asynchronous writes are lost now and then, and never otherwise than promised.
    #[test]
    fn every_mode_of_replication_keeps_its_promises() {
        assert_good("--duration-ms 2000 --copies 3", 7_000..7_040);
        let seen = assert_good(
            "--faults partition,crash,reset,lag,cut,modes --duration-ms 3000",
            8_000..8_080,
        );
        let lost: u64 = seen.iter().map(|verdict| verdict.lost_asynchronous).sum();
        assert!(lost > 0, "no asynchronous write was lost");
    }

    /// Copies are in as many zones as can be when all is whole, or it never is.
    #[test]
    fn zones_keep_every_promise() {
        let seen = assert_good("--duration-ms 2000 --nodes 5 --copies 2", 9_000..9_060);
        let zone_reads: u64 = seen.iter().map(|verdict| verdict.zone_reads).sum();
        assert!(zone_reads > 0, "no read went to a copy in the same zone");
        assert_good("--duration-ms 2000 --nodes 4 --copies 3", 9_100..9_130);
    }

    /// What went wrong in the seeds below.
    const THEN: &str = "partition,one-way,pause,stall,crash,reset,loss,leader,lag,drift";

    /// Each of these seeds once showed a bug.
    #[test]
    fn what_was_found_stays_found() {
        for (line, seed) in [
            ("", 1_007),
            ("", 1_141),
            ("", 1_244),
            ("", 20_488),
            ("--cores 2", 8_003),
            ("--cores 2", 8_072),
            ("--cores 2", 8_164),
            ("--nodes 5", 6_335),
            ("--copies 3", 5_366),
        ] {
            assert_good(&format!("{line} --faults {THEN}"), seed..seed + 1);
        }
    }
}
