//! The Seawall cache server.
//!
//! This crate puts the others together and decides nothing about keys or
//! sockets: settings (`settings`), the process (`process`), the node with its
//! admin side (`server`, `admin`, `metrics`, `listen`), the storage thread (`storage`).
//! The main thread is the control thread.

mod admin;
mod cluster;
mod listen;
mod metrics;
mod names;
mod process;
mod server;
mod settings;
mod storage;

use anyhow::Result;
use server::Server;
use settings::{Collected, Config, Intent, Problem};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As in `sysexits.h`, which memcached follows too.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    process::give_memory_back_at_once();
    let env = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let found =
        settings::collect(std::env::args_os().skip(1), env, |path| std::fs::read_to_string(path));
    match found.intent {
        Intent::Help => print!("{}", settings::help()),
        Intent::ManPage => print!("{}", settings::man_page()),
        Intent::Version => println!("seawalld {}", env!("CARGO_PKG_VERSION")),
        Intent::License => print!("{}", include_str!("../../../LICENSE")),
        Intent::CheckConfig | Intent::Recover | Intent::Run => return start(found),
    }
    ExitCode::SUCCESS
}

fn start(found: Collected) -> ExitCode {
    let mut problems = found.problems;
    let config = match Config::new(&found.effective) {
        Ok(config) => Some(config),
        Err(more) => {
            problems.extend(more);
            None
        }
    };
    let config = match config {
        Some(config) if problems.is_empty() => config,
        _ => {
            eprint!("{}", mistakes(&problems));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if found.intent == Intent::CheckConfig {
        for (setting, value, source) in found.effective.rows() {
            println!("{:<32} {:<24} {source}", setting.key, settings::value::text(setting, value));
        }
        return ExitCode::SUCCESS;
    }
    let outcome = match found.intent {
        Intent::Recover => recover(&config, &found.lost),
        _ => run(config, found.effective, &found.notes),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn mistakes(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "a mistake".to_owned(),
        many => format!("{many} mistakes"),
    };
    let mut out = format!("seawalld: {count} in the configuration\n");
    for Problem { place, text } in problems {
        out.push_str(&format!("  {place}: {text}\n"));
    }
    out
}

/// `--cluster-recover`.
fn recover(config: &Config, lost: &[String]) -> Result<()> {
    let Some(cluster) = &config.cluster else {
        anyhow::bail!(
            "cannot recover a cluster: give --cluster-listen, --node-name and --cluster-directory as this node is started with"
        );
    };
    if let Some(user) = &config.user {
        process::become_user(user)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cluster::recover(cluster, lost))
}

fn run(mut config: Config, effective: settings::Effective, notes: &[String]) -> Result<()> {
    // Before any thread exists: the fork needs that.
    let background = if config.daemon { Some(process::background()?) } else { None };
    let wanted = config.connections_max;
    config.connections_max =
        process::raise_limits(wanted, config.connections_asked, config.core_dumps)?;
    if config.connections_max < wanted {
        server::say(&process::fewer_connections(wanted, config.connections_max));
    }
    for note in notes {
        server::say(note);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pid_file = config.pid_file.clone();
    let server = Server::start(config, effective)?;
    let _pid_file = pid_file.as_deref().map(process::PidFile::create).transpose()?;
    runtime.block_on(server.run(background))
}
