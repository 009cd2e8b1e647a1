//! A cluster of real processes under real faults, unmodified clients on it, and
//! the history checker as the judge.
//!
//! Every case has a cluster of its own in a network of its own. A case that fails
//! leaves its folder behind, and with XTASK_KEEP in the environment every case
//! does: the history, the errors, and what every node said.

mod clients;
mod failover;
mod faults;
mod handover;
mod kills;
mod libraries;
mod load;
mod moves;
mod network;
mod node;
mod outage;
mod scene;
mod slow;
mod strangers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lexopt::prelude::*;

pub use scene::Coordinator;

use crate::report::{Done, Report};
use crate::{build, paths, suites};
use faults::{FAULTS, Fault};
use scene::{Programs, Scene};

/// How long the rounds of a case go on, and at least one is made.
const SECONDS: u64 = 15;
const SECONDS_IN_TEST: u64 = 4;

/// `cargo xtask cluster`.
pub fn command(arguments: &mut lexopt::Parser, report: &mut Report) -> Result<()> {
    let (mut seconds, mut only, mut coordinator) = (SECONDS, None, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seconds") => seconds = arguments.value()?.parse()?,
            Long("only") => only = Some(arguments.value()?.string()?),
            Long("coordinator") => coordinator = Some(named(&arguments.value()?.string()?)?),
            other => return Err(other.unexpected().into()),
        }
    }
    let names: Vec<_> = FAULTS.iter().map(|fault| fault.name).collect();
    if let Some(only) = &only {
        ensure!(names.contains(&only.as_str()), "`{only}` is none of {}", names.join(", "));
    }
    let programs = programs()?;
    let coordinators = match coordinator {
        Some(one) => vec![one],
        None => vec![Coordinator::Embedded, Coordinator::Etcd],
    };
    for coordinator in coordinators {
        for fault in FAULTS.iter().filter(|f| only.as_ref().is_none_or(|only| only == f.name)) {
            step(report, &programs, coordinator, fault, seconds);
        }
    }
    Ok(())
}

/// `cargo xtask failover`.
pub fn failover(arguments: &mut lexopt::Parser, report: &mut Report) -> Result<()> {
    repeated("failover", 20, failover::run, arguments, report)
}

/// `cargo xtask handover`.
pub fn handover(arguments: &mut lexopt::Parser, report: &mut Report) -> Result<()> {
    repeated("handover", 5, handover::run, arguments, report)
}

/// `cargo xtask kills`.
pub fn kills(arguments: &mut lexopt::Parser, report: &mut Report) -> Result<()> {
    let (mut save, mut coordinator) = (false, Coordinator::Embedded);
    let mut all = vec![None];
    let mut options = kills::Options {
        seconds: 120,
        min_copies: None,
        settled: false,
        seed: 1,
        spinners: 1,
        flags: Vec::new(),
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seconds") => options.seconds = arguments.value()?.parse()?,
            Long("min-copies") => {
                let each = arguments.value()?.string()?;
                let each: Result<Vec<u8>, _> = each.split(',').map(str::parse).collect();
                all = each?.into_iter().map(Some).collect();
            }
            Long("spinners") => options.spinners = arguments.value()?.parse()?,
            Long("settled") => options.settled = true,
            Long("seed") => options.seed = arguments.value()?.parse()?,
            Long("flags") => {
                let flags = arguments.value()?.string()?;
                options.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
            Long("save") => save = true,
            Long("coordinator") => coordinator = named(&arguments.value()?.string()?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--save").collect();
    let words = save.then(|| words.join(" "));
    let each = |min_copies| kills::Options { min_copies, ..options.clone() };
    let all: Vec<_> = all.into_iter().map(each).collect();
    let programs = programs()?;
    report.step("kills", || kills::command(&programs, coordinator, &all, words.as_deref()));
    Ok(())
}

fn repeated(
    name: &str,
    mut runs: usize,
    run: fn(&Programs, Coordinator, usize, bool) -> Result<Done>,
    arguments: &mut lexopt::Parser,
    report: &mut Report,
) -> Result<()> {
    let (mut save, mut coordinator) = (false, Coordinator::Embedded);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("runs") => runs = arguments.value()?.parse()?,
            Long("save") => save = true,
            Long("coordinator") => coordinator = named(&arguments.value()?.string()?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    let programs = programs()?;
    report.step(name, || run(&programs, coordinator, runs, save));
    Ok(())
}

/// The part of `cargo xtask test`.
pub fn in_test(report: &mut Report) -> Result<()> {
    let programs = programs()?;
    for fault in FAULTS {
        for coordinator in fault.in_test {
            step(report, &programs, *coordinator, fault, SECONDS_IN_TEST);
        }
    }
    report.step("cluster, embedded, kills on busy CPUs", || kills::in_test(&programs));
    Ok(())
}

fn named(name: &str) -> Result<Coordinator> {
    let all = [Coordinator::Embedded, Coordinator::Etcd];
    let found = all.into_iter().find(|coordinator| coordinator.name() == name);
    found.with_context(|| format!("`{name}` is none of embedded, etcd"))
}

fn programs() -> Result<Programs> {
    build::programs()?;
    Ok(Programs {
        seawalld: build::binary(build::profile(), "seawalld")?,
        seawallctl: build::binary(build::profile(), "seawallctl")?,
        checker: build::binary(build::profile(), "seawall-sim")?,
        python: suites::python()?,
    })
}

fn step(report: &mut Report, programs: &Programs, by: Coordinator, fault: &Fault, seconds: u64) {
    report.step(&format!("cluster, {}, {}", by.name(), fault.name), || {
        in_own_network(fault.name, |folder| {
            let mut scene = Scene::new(programs, by, fault.settings, folder)?;
            let deadline = Instant::now() + Duration::from_secs(seconds);
            loop {
                (fault.round)(&mut scene)?;
                if Instant::now() >= deadline {
                    break;
                }
            }
            let seen = scene.judge()?;
            (fault.expects)(&seen)?;
            let mut words = vec![
                format!("{} operations, {}", seen.operations, seen.kinds()),
                format!("longest answer {:.0} ms", seen.longest_ms),
            ];
            if !scene.writable_ms.is_empty() {
                words.push(format!("writable again after {}", spread(&mut scene.writable_ms)));
            }
            words.append(&mut scene.notes);
            Ok(Done::new(seen.operations, words.join("; ")))
        })
    });
}

/// `p50 1 ms, max 2 ms in 3 rounds`.
fn spread(milliseconds: &mut [f64]) -> String {
    milliseconds.sort_by(f64::total_cmp);
    match milliseconds {
        [] => "nothing measured".into(),
        [.., most] => {
            let (most, rounds) = (*most, milliseconds.len());
            let median = milliseconds[rounds / 2];
            format!("{median:.0} ms (p50) to {most:.0} ms (max) in {rounds} rounds")
        }
    }
}

/// Runs something on a thread that ends with the network it makes, in a folder
/// that stays if it fails.
fn in_own_network<T: Send>(
    name: &str,
    body: impl FnOnce(&PathBuf) -> Result<T> + Send,
) -> Result<T> {
    // In memory where that is possible: what a killed process had written is there
    // either way, and a disk that others keep busy stalls for seconds.
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { paths::target().join("xtask") };
    let folder = root.join(format!("seawall-cluster-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| body(&folder));
        running.join().unwrap_or_else(|_| bail!("the case panicked"))
    });
    match outcome {
        Ok(done) if std::env::var_os("XTASK_KEEP").is_some() => {
            println!("   history and logs: {}", folder.display());
            Ok(done)
        }
        Ok(done) => {
            std::fs::remove_dir_all(&folder)?;
            Ok(done)
        }
        Err(error) => Err(anyhow::anyhow!("{error:#}\nhistory and logs: {}", folder.display())),
    }
}
