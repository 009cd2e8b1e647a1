//! Runs every fuzz target with cargo-fuzz, which needs a nightly toolchain.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::Done;
use crate::{check, paths, process};

/// Target names and the crate that they belong to.
const TARGETS: &[(&str, &str)] =
    &[("engine", "snapshot"), ("net", "text"), ("net", "meta"), ("net", "binary")];

/// Splits `minutes` among the targets; a crash fails the step and stays in the
/// target's `artifacts`.
pub fn run(minutes: u64) -> Result<Done> {
    if !process::exists("cargo-fuzz") {
        process::run(
            &mut check::cargo(&["install", "--locked", "cargo-fuzz"]),
            Duration::from_secs(1_800),
        )?;
    }
    let seconds = (minutes * 60 / TARGETS.len() as u64).max(10);
    for (folder, target) in TARGETS {
        let mut command = std::process::Command::new("cargo");
        command.current_dir(paths::root().join(folder)).args(["+nightly", "fuzz", "run", target]);
        let limit = format!("-max_total_time={seconds}");
        command.args(["--", &limit, "-max_len=65536", "-timeout=10", "-rss_limit_mb=2048"]);
        let (good, text) = process::capture(&mut command, Duration::from_secs(seconds + 900))?;
        if !good {
            let lines: Vec<_> = text.lines().collect();
            bail!("{folder} {target}:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        println!("   {folder} {target}: {seconds} s without a crash");
    }
    Ok(Done::new(TARGETS.len() as u64, format!("{seconds} s each")))
}
