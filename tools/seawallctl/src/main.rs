//! `seawallctl` looks at a Seawall node and operates it.
//!
//! Two doors lead in: the memcached port (`--server`), which [`memcached`]
//! speaks, and the admin HTTP port (`--admin`), which [`admin`] speaks. Each
//! command has a file under [`command`]; what goes wrong is a [`error::CtlError`]
//! with advice. Nothing here writes to a screen but the commands, into the
//! output that `main` gives them, so tests read what a user would.

mod admin;
mod cli;
mod command;
mod error;
mod format;
mod memcached;
mod table;

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let mut out = BufWriter::new(std::io::stdout().lock());
    let result = command::run(&cli, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => ExitCode::from(code),
        // `seawallctl dump | head` is no failure.
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(error) => {
            // What was printed so far comes first; should that fail as well,
            // the error below says enough.
            let _ = out.flush();
            eprintln!("seawallctl: {error}");
            ExitCode::from(2)
        }
    }
}
