//! The binaries under test, built once.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{paths, process};

/// A release build without link-time optimisation takes a fraction of the time.
const PROFILE: &str = "ci";

/// Builds the daemon and returns its path.
pub fn seawalld() -> Result<PathBuf> {
    tools(PROFILE, &["seawalld"])?;
    binary(PROFILE, "seawalld")
}

/// Builds these packages in this profile.
pub fn tools(profile: &str, packages: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(["build", "--quiet", "--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    process::run(&mut command, Duration::from_secs(1_800))
}

/// The path of a built binary.
pub fn binary(profile: &str, name: &str) -> Result<PathBuf> {
    let path = paths::target().join(profile).join(name);
    ensure!(path.exists(), "{} was not built", path.display());
    Ok(path)
}

/// A command that runs a built binary.
pub fn command(profile: &str, name: &str) -> Result<Command> {
    Ok(Command::new(binary(profile, name)?))
}

/// The profile used by tests.
pub fn profile() -> &'static str {
    PROFILE
}
