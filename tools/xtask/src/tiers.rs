//! The three tiers of checks: what one runs while working, before a merge, and
//! before a release.
//!
//! | tier | what | on two cores |
//! |---|---|---|
//! | `quick` | check, unit tests, some seeds of the simulator | minutes |
//! | `test` | everything that a merge needs, and what CI runs | about 40 minutes |
//! | `all` | `test`, and long: simulated clusters, fuzzing, soak, every fault | hours |
//!
//! Programs are built in one profile by one command ([`build::programs`]), so that no
//! crate is compiled again because another selection of packages wants other features.

use std::time::Duration;

use anyhow::Result;

use crate::report::{Done, Report};
use crate::{
    build, check, cluster, differential, fuzz, install, instructions, process, sanitize, soak,
    suites, tidy, tutorial,
};

/// Of the tests: a minute or so.
const DIFFERENTIAL_STREAMS: u64 = 3_000;
/// Each kind of misbehaviour happens hundreds of times within it.
const SOAK_SECONDS_IN_TEST: u64 = 15;
const SOAK_SECONDS_IN_ALL: u64 = 600;
/// Seeds of whole simulated clusters.
const SEEDS_IN_QUICK: u64 = 20;
const SEEDS_IN_ALL: u64 = 10_000;
const FUZZ_MINUTES_IN_ALL: u64 = 40;
/// The simulator's unit tests that play hundreds of seeds: `quick` plays its own.
const LONG_UNIT_TESTS: &str = "cluster::tests::";

/// Formatting, lints, dependency rules, tidy.
pub fn check(report: &mut Report) -> bool {
    let mut good = report.step("formatting", check::formatting);
    good &= report.step("tidy", || tidy::run(false));
    good &= report.step("dependency rules", check::rules);
    good & report.step("lints", check::lints)
}

/// What one runs while working.
pub fn quick(report: &mut Report) {
    check(report);
    report.step("unit tests", || {
        let arguments = ["test", "--quiet", "--workspace", "--lib", "--bins"];
        let mut command = check::cargo(&arguments);
        command.args(["--", "--skip", LONG_UNIT_TESTS]);
        process::run(&mut command, Duration::from_secs(1_800))?;
        Ok(Done::new(1, "every crate's unit tests"))
    });
    seeds(report, SEEDS_IN_QUICK);
}

/// What a merge needs.
pub fn test(report: &mut Report) -> Result<()> {
    check(report);
    if !report.step("programs", build::programs) {
        return Ok(());
    }
    report.step("cargo test --workspace", workspace);
    match sanitize::has_nightly() {
        true => drop(report.step("sanitize", sanitize::addresses)),
        false => println!("== sanitize: left out, for there is no nightly toolchain"),
    }
    match sanitize::has_miri() {
        true => drop(report.step("miri", sanitize::miri)),
        false => println!("== miri: left out, for it is not installed"),
    }
    conformance(report)?;
    report.step("tutorial", tutorial::run);
    soak_for(report, SOAK_SECONDS_IN_TEST, None);
    cluster::in_test(report)?;
    report.step("instructions a request", instructions::gate);
    report.step("differential", || {
        // Always the same streams; `cargo xtask differential` plays others.
        let streams = DIFFERENTIAL_STREAMS.to_string();
        let arguments = ["--seed", "1", "--streams", &streams];
        differential::command(&mut lexopt::Parser::from_args(arguments))
    });
    Ok(())
}

/// What a release needs: `test`, then the same at length.
pub fn all(report: &mut Report) -> Result<()> {
    test(report)?;
    seeds(report, SEEDS_IN_ALL);
    cluster::command(&mut lexopt::Parser::from_args([""; 0]), report)?;
    soak_for(report, SOAK_SECONDS_IN_ALL, None);
    match sanitize::has_nightly() {
        true => drop(report.step("fuzz", || fuzz::run(FUZZ_MINUTES_IN_ALL))),
        false => println!("== fuzz: left out, for there is no nightly toolchain"),
    }
    Ok(())
}

fn workspace() -> Result<Done> {
    // The coordinator's tests run against real ones.
    install::apt(&["etcd-server"], &["etcd"])?;
    let mut command = check::cargo(&["test", "--workspace"]);
    // The client's tests would build the daemon with yet other features.
    command.env("SEAWALLD", build::binary(build::profile(), "seawalld")?);
    process::run(&mut command, Duration::from_secs(2_400))?;
    Ok(Done::new(1, "every crate's own tests"))
}

/// Whole clusters in virtual time.
fn seeds(report: &mut Report, count: u64) -> bool {
    report.step("simulated clusters", || {
        build::programs()?;
        let mut command =
            std::process::Command::new(build::binary(build::profile(), "seawall-sim")?);
        command.args(["cluster", "--seeds", &count.to_string()]);
        process::run(&mut command, Duration::from_secs(60 + count * 10))?;
        Ok(Done::new(count, "seeds without a violation"))
    })
}

/// Tests that others wrote.
pub fn conformance(report: &mut Report) -> Result<bool> {
    build::programs()?;
    let seawalld = build::binary(build::profile(), "seawalld")?;
    let good = report.step("memccapable", || suites::memccapable(&seawalld));
    Ok(report.step("client libraries", || suites::clients(&seawalld)) && good)
}

/// Misbehaving clients beside checked ones.
pub fn soak_for(report: &mut Report, seconds: u64, only: Option<&str>) -> bool {
    report.step("soak", || {
        build::programs()?;
        let (seawalld, load) = (
            build::binary(build::profile(), "seawalld")?,
            build::binary(build::profile(), "seawall-load")?,
        );
        soak::run(&seawalld, &load, Duration::from_secs(seconds), only)
    })
}
