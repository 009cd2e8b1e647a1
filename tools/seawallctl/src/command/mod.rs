//! One file a command.

mod check;
mod config;
mod dump;
mod hot;
mod invalidate;
mod ring;
mod snapshot;
mod stats;
mod top;
mod wait;

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::admin::Admin;
use crate::cli::{Cli, Command};
use crate::error::CtlError;
use crate::memcached::Client;

/// Carries out the command; the number is the exit code.
pub fn run(cli: &Cli, out: &mut dyn Write) -> Result<u8, CtlError> {
    let client = || Client::connect(&cli.server, cli.timeout());
    let admin = Admin::new(&cli.admin, cli.timeout());
    match &cli.command {
        Command::Stats { group, all } => stats::run(&mut client()?, *group, *all, cli.json, out)?,
        Command::Top { interval, once } => top::run(cli, &admin, *interval, *once, out)?,
        Command::Hot { limit } => hot::run(&admin, *limit, cli.json, out)?,
        Command::Invalidate(options) => {
            return invalidate::run(&mut client()?, options, cli.json, out);
        }
        Command::Dump(options) => dump::run(&mut client()?, options, cli.json, out)?,
        Command::Config { changed, filter } => {
            config::run(&admin, *changed, filter.as_deref(), cli.json, out)?;
        }
        Command::Check { read_only } => return check::run(cli, &admin, *read_only, out),
        Command::Ring => ring::run(&admin, cli.json, out)?,
        Command::Drain { node, undo, no_wait, patience } => {
            let wait = (!no_wait).then(|| Duration::from_secs(*patience));
            return ring::drain(&admin, node, *undo, wait, cli.json, out);
        }
        Command::Wait { whole, patience } => {
            return wait::run(&admin, *whole, Duration::from_secs(*patience), cli.json, out);
        }
        Command::Forget { node } => ring::forget(&admin, node, cli.json, out)?,
        Command::Snapshot { no_wait, status } => {
            return snapshot::run(&admin, !no_wait, *status, cli.json, out);
        }
    }
    Ok(0)
}

/// Prints JSON over several lines.
fn print_json(value: &Value, out: &mut dyn Write) -> Result<(), CtlError> {
    writeln!(out, "{value:#}")?;
    Ok(())
}
