//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Operate a Seawall node.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// The memcached port: HOST:PORT or unix:PATH.
    #[arg(
        long,
        short = 's',
        global = true,
        value_name = "ADDRESS",
        env = "SEAWALL_SERVER",
        default_value = "127.0.0.1:11211"
    )]
    pub server: String,
    /// The admin HTTP port.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "SEAWALL_ADMIN",
        default_value = "127.0.0.1:9150"
    )]
    pub admin: String,
    /// Longest wait for an answer, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Longest wait for an answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the server's statistics.
    Stats {
        /// Which ones.
        #[arg(value_enum, default_value = "general")]
        group: StatsGroup,
        /// Show every column of items and slabs.
        #[arg(long)]
        all: bool,
    },
    /// Watch each core's rates, live.
    Top {
        /// Time between two views, in seconds.
        #[arg(long, short = 'i', value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
        interval: f64,
        /// Show one view and leave.
        #[arg(long)]
        once: bool,
    },
    /// Show the hottest keys of each core.
    Hot {
        /// How many keys in all.
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Drop keys, or everything under a tag or namespace.
    Invalidate(InvalidateOptions),
    /// List the stored items (keys and sizes, not values).
    Dump(DumpOptions),
    /// Show every setting, its value and where it came from.
    Config {
        /// Only settings that are not at their default.
        #[arg(long)]
        changed: bool,
        /// Only settings whose name contains this.
        filter: Option<String>,
    },
    /// Check the node's health: 0 healthy, 1 with remarks, 2 not healthy.
    Check {
        /// Skip the probe that writes, reads and deletes one key.
        #[arg(long)]
        read_only: bool,
    },
    /// Show the cluster: its nodes, and how the partitions stand.
    Ring,
    /// Empty a node of the cluster: others take over its copies while it serves.
    Drain {
        /// Its name, as `ring` shows it.
        node: String,
        /// Give it partitions again.
        #[arg(long)]
        undo: bool,
        /// Do not wait until it is empty.
        #[arg(long)]
        no_wait: bool,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        patience: u64,
    },
    /// Wait until the cluster is settled: every partition has all its copies, and
    /// nothing is planned. Between the steps of a rolling restart.
    Wait {
        /// Only until every partition has all its copies.
        #[arg(long)]
        whole: bool,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        patience: u64,
    },
    /// Take an empty node out of the cluster for good.
    Forget {
        /// Its name, as `ring` shows it.
        node: String,
    },
    /// Write a snapshot now and wait for it.
    Snapshot {
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
        /// Only say how the last one went.
        #[arg(long, conflicts_with = "no_wait")]
        status: bool,
    },
}

/// A group of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsGroup {
    /// The whole node's counters.
    General,
    /// Items by slab class.
    Items,
    /// Memory by slab class.
    Slabs,
    /// The settings as memcached names them.
    Settings,
    /// Items by size.
    Sizes,
    /// Client connections.
    Conns,
}

/// What to invalidate.
#[derive(Debug, Args)]
pub struct InvalidateOptions {
    /// What the names are.
    #[arg(value_enum)]
    pub kind: InvalidateKind,
    /// Their names.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InvalidateKind {
    /// One item.
    Key,
    /// Every item that carries the tag.
    Tag,
    /// Every item of the namespace.
    Ns,
}

/// What to list.
#[derive(Debug, Args)]
pub struct DumpOptions {
    /// Print the keys alone, one a line.
    #[arg(long)]
    pub keys: bool,
    /// Only keys that begin with this.
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Stop after so many items.
    #[arg(long, short = 'n', value_name = "N")]
    pub limit: Option<u64>,
    /// Write to a file instead of the screen.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli =
            Cli::parse_from(["seawallctl", "stats", "items", "--json", "--server", "unix:/x"]);
        assert!(cli.json);
        assert_eq!(cli.server, "unix:/x");
        assert!(matches!(cli.command, Command::Stats { group: StatsGroup::Items, all: false }));
    }
}
