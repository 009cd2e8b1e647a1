//! The programs under test, built once.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::report::Done;
use crate::{check, paths, process};

/// A release build without link-time optimisation takes a fraction of the time.
const PROFILE: &str = "ci";
/// All in one command: features of dependencies are united over the packages of a
/// command, and each other selection would compile many crates once more.
const PROGRAMS: &[&str] =
    &["seawalld", "seawallctl", "seawall-load", "seawall-sim", "seawall-benches"];
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Builds every program that tests drive, unless this process has done so.
pub fn programs() -> Result<Done> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build(PROFILE).map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!(error))?;
    Ok(Done::new(PROGRAMS.len() as u64, format!("packages, in the profile {PROFILE}")))
}

/// Builds every program in another profile.
pub fn build(profile: &str) -> Result<()> {
    let mut command = check::cargo(&["build", "--quiet", "--profile", profile]);
    for package in PROGRAMS {
        command.args(["--package", package]);
    }
    process::run(&mut command, PATIENCE)
}

/// The path of a built program.
pub fn binary(profile: &str, name: &str) -> Result<PathBuf> {
    let path = paths::target().join(profile).join(name);
    ensure!(path.exists(), "{} was not built", path.display());
    Ok(path)
}

/// A command that runs a built program.
pub fn command(profile: &str, name: &str) -> Result<Command> {
    Ok(Command::new(binary(profile, name)?))
}

/// The profile that tests drive.
pub fn profile() -> &'static str {
    PROFILE
}
