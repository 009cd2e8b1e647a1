//! The project's own commands: `cargo xtask test`, `check`, `differential`,
//! `soak`, `compare`, `memory`, `fuzz`.

mod build;
mod differential;
mod install;
mod paths;
mod process;
mod report;
mod sasl;
mod server;

use std::process::ExitCode;

use anyhow::Result;
use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask <command>

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
        other => anyhow::bail!("`{other}` is no command\n\n{HELP}"),
    };
    Ok(report.close())
}
