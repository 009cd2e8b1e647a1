//! What a reviewer should never have to say: formatting, lints, and who may
//! depend on whom.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::report::Done;
use crate::{paths, process};

const PATIENCE: Duration = Duration::from_secs(1_800);

/// A command of cargo, in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(arguments);
    command
}

/// `cargo fmt --check`.
pub fn formatting() -> Result<Done> {
    process::run(&mut cargo(&["fmt", "--all", "--check"]), PATIENCE)?;
    Ok(Done::new(1, "as rustfmt wants it"))
}

/// Clippy over everything, warnings denied.
pub fn lints() -> Result<Done> {
    let arguments = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    process::run(&mut cargo(&arguments), PATIENCE)?;
    Ok(Done::new(1, "no warning"))
}

/// Crates of the house that a crate must not name, test dependencies included.
const FORBIDDEN: &[(&str, &[&str])] =
    &[("engine", &["net", "cluster"]), ("net", &["cluster"]), ("cluster", &["net"])];

/// Members that nobody may import: programs and benchmarks.
const LEAVES: &[&str] = &["seawall-benches", "seawalld", "seawallctl", "seawall-sim", "xtask"];

/// The dependency rules of docs/architecture.md.
pub fn rules() -> Result<Done> {
    let mut checks = 0;
    let read = |path: &str| {
        std::fs::read_to_string(paths::root().join(path)).with_context(|| path.to_owned())
    };
    for (name, forbidden) in FORBIDDEN {
        let manifest = read(&format!("{name}/Cargo.toml"))?;
        for other in forbidden.iter().chain(LEAVES) {
            ensure!(!names(&manifest, other), "{name} must not depend on {other}");
            checks += 1;
        }
        let root = read(&format!("{name}/src/lib.rs"))?;
        if *name != "net" {
            ensure!(root.contains("#![no_std]"), "{name} must be no_std");
            checks += 1;
        }
        if *name == "cluster" {
            ensure!(root.contains("#![forbid(unsafe_code)]"), "cluster must forbid unsafe");
            checks += 1;
        }
    }
    let coordinator = read("tools/coordinator/Cargo.toml")?;
    ensure!(!names(&coordinator, "net"), "the coordinator must not depend on net");
    checks += 1;
    for entry in std::fs::read_dir(paths::root().join("tools"))? {
        let path = entry?.path().join("Cargo.toml");
        let Ok(manifest) = std::fs::read_to_string(&path) else { continue };
        for leaf in LEAVES {
            // A crate's own name stands in its own manifest.
            let owned = manifest.contains(&format!("name = \"{leaf}\""));
            if !owned && names(&manifest, leaf) {
                bail!("{} must not depend on {leaf}", path.display());
            }
            checks += 1;
        }
    }
    Ok(Done::new(checks, "engine <- net, engine <- cluster, nobody imports programs"))
}

/// Whether a manifest has a dependency of that name.
fn names(manifest: &str, dependency: &str) -> bool {
    manifest.lines().any(|line| {
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        name == dependency
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_dependency_is_seen_however_it_is_written() {
        for line in ["net.workspace = true", "net = { path = \"../net\" }", "net = \"1\""] {
            assert!(super::names(&format!("[dependencies]\n{line}\n"), "net"), "{line}");
        }
        assert!(!super::names("[dependencies]\nnetlink = \"1\"\n", "net"));
    }

    #[test]
    fn the_house_follows_its_rules() {
        super::rules().unwrap();
    }
}
