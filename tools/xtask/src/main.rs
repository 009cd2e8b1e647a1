//! The project's own commands. `cargo xtask help` lists them.

mod bench;
mod build;
mod callgrind;
mod check;
mod cluster;
mod differential;
mod fuzz;
mod install;
mod instructions;
mod paths;
mod process;
mod report;
mod sanitize;
mod sasl;
mod server;
mod soak;
mod suites;
mod tidy;
mod tiers;
mod tutorial;

use std::process::ExitCode;

use anyhow::Result;
use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask <command>

  quick         check, unit tests, 20 simulated clusters: while working
  test          check, every crate's own tests, conformance, soak, cluster, differential; installs what it needs
  all           test, then 10,000 simulated clusters, every fault, soak and fuzzing at length

  check         formatting, lints, dependency rules, tidy
  tidy          unused pub items, long functions, empty docs, dead links, banned words   [--record]
  conformance   memccapable and the client libraries
  bench         every figure beside memcached and Redis   [--only PART,...] [--rounds N] [--keys N]
                [--milliseconds N] [--traces FOLDER] [--save]
  instructions  instructions a request and an operation, counted by callgrind   [--record]
  tutorial      the commands of docs/tutorial.md
  fuzz          every fuzz target in turn                 [--minutes N]
  sanitize      engine's and net's tests under AddressSanitizer   (needs a nightly toolchain)
  miri          the unsafe code's unit tests under Miri           (needs nightly and its miri)
  soak          misbehaving clients beside checked ones   [--seconds N] [--only NAME]
  cluster       nodes killed, stopped, cut off; clients' histories judged
                [--seconds N] [--only NAME] [--coordinator embedded|etcd]
  failover      from a node's SIGKILL until every key can be written   [--runs N] [--save]
                [--coordinator embedded|etcd]
  handover      between two writes of a key while its node hands over   [--runs N] [--save]
                [--coordinator embedded|etcd]
  kills         nodes killed at random on busy CPUs: which acknowledged writes are lost, and why
                [--seconds N] [--min-copies N,...] [--settled] [--seed N] [--spinners N]
                [--flags '...'] [--coordinator embedded|etcd] [--save]
  differential  generated streams to Debian's memcached and to Seawall, byte for byte
                [--seed N] [--streams N] [--minutes N] [--cases | --no-cases] [--only NAME]
                [--mismatches N] [--server PATH | --server memcached] [--flags '-t 2']
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Unless said otherwise.
const SOAK_SECONDS: u64 = 60;
const FUZZ_MINUTES: u64 = 10;

fn dispatch() -> Result<bool> {
    let mut arguments = lexopt::Parser::from_env();
    let command = match arguments.next()? {
        None | Some(Long("help") | Short('h')) => "help".to_owned(),
        Some(Value(word)) => word.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let (arguments, mut report) = (&mut arguments, report::Report::new());
    match command.as_str() {
        "help" => {
            print!("{HELP}");
            return Ok(true);
        }
        "quick" => tiers::quick(&mut report),
        "test" => tiers::test(&mut report)?,
        "all" => tiers::all(&mut report)?,
        "check" => drop(tiers::check(&mut report)),
        "tidy" => {
            let record = is_given("record", arguments)?;
            report.step("tidy", || tidy::run(record));
        }
        "conformance" => drop(tiers::conformance(&mut report)?),
        "bench" => bench::command(arguments, &mut report)?,
        "instructions" => {
            let record = is_given("record", arguments)?;
            report.step("instructions", || instructions::run(record));
        }
        "kills" => cluster::kills(arguments, &mut report)?,
        "fuzz" => {
            let (minutes, only) = number_and_name("minutes", FUZZ_MINUTES, arguments)?;
            anyhow::ensure!(only.is_none(), "fuzz runs every target: leave --only out");
            report.step("fuzz", || fuzz::run(minutes));
        }
        "tutorial" => drop(report.step("tutorial", tutorial::run)),
        "sanitize" => drop(report.step("sanitize", sanitize::addresses)),
        "miri" => drop(report.step("miri", sanitize::miri)),
        "soak" => {
            let (seconds, only) = number_and_name("seconds", SOAK_SECONDS, arguments)?;
            tiers::soak_for(&mut report, seconds, only.as_deref());
        }
        "cluster" => cluster::command(arguments, &mut report)?,
        "failover" => cluster::failover(arguments, &mut report)?,
        "handover" => cluster::handover(arguments, &mut report)?,
        "differential" => {
            report.step("differential", || differential::command(arguments));
        }
        other => anyhow::bail!("`{other}` is no command\n\n{HELP}"),
    }
    Ok(report.close())
}

/// Whether the one flag of a command is there.
fn is_given(flag: &str, arguments: &mut lexopt::Parser) -> Result<bool> {
    let mut given = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long(name) if name == flag => given = true,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(given)
}

/// The number of a command's one flag, and what `--only` names.
fn number_and_name(
    flag: &str,
    usual: u64,
    arguments: &mut lexopt::Parser,
) -> Result<(u64, Option<String>)> {
    let (mut number, mut only) = (usual, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long(name) if name == flag => number = arguments.value()?.parse()?,
            Long("only") => only = Some(arguments.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok((number, only))
}
