//! The project's own commands: `cargo xtask test`, `check`, `differential`,
//! `soak`, `cluster`, `failover`, `handover`, `kills`, `bench`, `instructions`, `fuzz`, `sanitize`, `miri`.

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

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask <command>

  test          check, every crate's own tests, conformance, soak, cluster, differential; installs what it needs
  check         formatting, lints, dependency rules, tidy
  tidy          unused pub items, long functions, empty docs, dead links, banned words   [--record]
  conformance   memccapable and the client libraries
  bench         every figure beside memcached and Redis   [--only PART,...] [--rounds N] [--keys N]
                [--milliseconds N] [--traces FOLDER] [--save]
  instructions  instructions a request and an operation, counted by callgrind   [--record]
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

/// Of the tests: a minute or so.
const DIFFERENTIAL_STREAMS: u64 = 3_000;
/// Of the command; the tests take a part of it, in which each kind of
/// misbehaviour happens hundreds of times.
const SOAK_SECONDS: u64 = 60;
const SOAK_SECONDS_IN_TEST: u64 = 15;

fn check_all(report: &mut report::Report) -> bool {
    report.step("formatting", check::formatting);
    report.step("lints", check::lints);
    report.step("dependency rules", check::rules);
    report.step("tidy", || tidy::run(false))
}

fn conformance(report: &mut report::Report) -> Result<bool> {
    let seawalld = build::seawalld()?;
    report.step("memccapable", || suites::memccapable(&seawalld));
    Ok(report.step("client libraries", || suites::clients(&seawalld)))
}

fn soak_for(report: &mut report::Report, seconds: u64, only: Option<&str>) -> bool {
    report.step("soak", || {
        build::tools(build::profile(), &["seawalld", "seawall-load"])?;
        let seawalld = build::binary(build::profile(), "seawalld")?;
        let load = build::binary(build::profile(), "seawall-load")?;
        soak::run(&seawalld, &load, Duration::from_secs(seconds), only)
    })
}

fn dispatch() -> Result<bool> {
    let mut arguments = lexopt::Parser::from_env();
    let command = match arguments.next()? {
        None | Some(Long("help") | Short('h')) => "help".to_owned(),
        Some(Value(word)) => word.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let mut report = report::Report::new();
    match command.as_str() {
        "help" => {
            print!("{HELP}");
            return Ok(true);
        }
        "differential" => report.step("differential", || differential::command(&mut arguments)),
        "instructions" => {
            let mut record = false;
            while let Some(argument) = arguments.next()? {
                match argument {
                    Long("record") => record = true,
                    other => return Err(other.unexpected().into()),
                }
            }
            report.step("instructions", || instructions::run(record))
        }
        "bench" => {
            bench::command(&mut arguments, &mut report)?;
            true
        }
        "cluster" => {
            cluster::command(&mut arguments, &mut report)?;
            true
        }
        "failover" => {
            cluster::failover(&mut arguments, &mut report)?;
            true
        }
        "handover" => {
            cluster::handover(&mut arguments, &mut report)?;
            true
        }
        "kills" => {
            cluster::kills(&mut arguments, &mut report)?;
            true
        }
        "fuzz" => {
            let mut minutes = 10;
            while let Some(argument) = arguments.next()? {
                match argument {
                    Long("minutes") => minutes = arguments.value()?.parse()?,
                    other => return Err(other.unexpected().into()),
                }
            }
            report.step("fuzz", || fuzz::run(minutes))
        }
        "sanitize" => report.step("sanitize", sanitize::addresses),
        "miri" => report.step("miri", sanitize::miri),
        "tidy" => {
            let mut record = false;
            while let Some(argument) = arguments.next()? {
                match argument {
                    Long("record") => record = true,
                    other => return Err(other.unexpected().into()),
                }
            }
            report.step("tidy", || tidy::run(record))
        }
        "check" => check_all(&mut report),
        "conformance" => conformance(&mut report)?,
        "soak" => {
            let (mut seconds, mut only) = (SOAK_SECONDS, None);
            while let Some(argument) = arguments.next()? {
                match argument {
                    Long("seconds") => seconds = arguments.value()?.parse()?,
                    Long("only") => only = Some(arguments.value()?.string()?),
                    other => return Err(other.unexpected().into()),
                }
            }
            soak_for(&mut report, seconds, only.as_deref())
        }
        "test" => {
            check_all(&mut report);
            report.step("cargo test --workspace", || {
                // The coordinator's tests run against real ones.
                install::apt(&["etcd-server"], &["etcd"])?;
                let mut command = check::cargo(&["test", "--workspace"]);
                process::run(&mut command, Duration::from_secs(2_400))?;
                Ok(report::Done::new(1, "every crate's own tests"))
            });
            if sanitize::has_nightly() {
                report.step("sanitize", sanitize::addresses);
            } else {
                println!("== sanitize: left out, for there is no nightly toolchain");
            }
            if sanitize::has_miri() {
                report.step("miri", sanitize::miri);
            } else {
                println!("== miri: left out, for it is not installed");
            }
            conformance(&mut report)?;
            soak_for(&mut report, SOAK_SECONDS_IN_TEST, None);
            cluster::in_test(&mut report)?;
            report.step("instructions a request", instructions::gate);
            report.step("differential", || {
                // Always the same streams; `cargo xtask differential` plays others.
                let streams = DIFFERENTIAL_STREAMS.to_string();
                let arguments = ["--seed", "1", "--streams", &streams];
                differential::command(&mut lexopt::Parser::from_args(arguments))
            })
        }
        other => anyhow::bail!("`{other}` is no command\n\n{HELP}"),
    };
    Ok(report.close())
}
