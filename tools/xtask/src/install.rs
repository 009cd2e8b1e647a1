//! Installs what is missing, and only that.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

const PATIENCE: Duration = Duration::from_secs(600);

/// Installs Debian packages unless all of these programs (or absolute paths) exist.
pub fn apt(packages: &[&str], programs: &[&str]) -> Result<()> {
    let there = |program: &&str| match program.starts_with('/') {
        true => Path::new(program).exists(),
        false => process::exists(program) || Path::new("/usr/sbin").join(program).exists(),
    };
    if programs.iter().all(there) {
        return Ok(());
    }
    static UPDATED: AtomicBool = AtomicBool::new(false);
    println!("   installing {}", packages.join(" "));
    if !UPDATED.swap(true, Ordering::Relaxed) {
        quiet(Command::new("apt-get").args(["update", "-qq"]))?;
    }
    quiet(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages),
    )
}

/// Runs a command, showing its output only when it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let (good, text) = process::capture(command, PATIENCE)?;
    if good {
        Ok(())
    } else {
        Err(anyhow::anyhow!("{}", text.trim_end())).context(process::describe(command))
    }
}
