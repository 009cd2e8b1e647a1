//! Settings from the command line, the environment and a TOML file.
//!
//! A later source wins: default, file, environment, command line. Every source
//! is read to its end and all mistakes are reported at once, each with where it
//! stands and the nearest valid name.

mod advertise;
mod choices;
mod cluster;
mod collect;
mod foreign;
mod help;
mod node;
pub mod table;
mod typed;
pub mod value;

pub use advertise::Advertise;
pub use cluster::{ClusterConfig, Coordinator};
pub use collect::{Collected, Intent, Problem, collect};
pub use help::{help, man_page};
pub use node::Advertised;
pub use typed::Config;

use value::Value;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The table's default.
    Default,
    /// A line of the TOML file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(place) | Source::Environment(place) | Source::Flag(place) => {
                f.write_str(place)
            }
        }
    }
}

/// The value in force of every setting, in the table's order.
#[derive(Clone, Debug)]
pub struct Effective(Vec<(&'static table::Setting, Value, Source)>);

impl Effective {
    /// All defaults.
    pub fn defaults() -> Effective {
        let rows = table::SETTINGS.iter().map(|setting| {
            let value =
                value::parse(setting, setting.default).expect("a test checks every default");
            (setting, value, Source::Default)
        });
        Effective(rows.collect())
    }

    /// Every row with its value and source.
    pub fn rows(&self) -> impl Iterator<Item = &(&'static table::Setting, Value, Source)> {
        self.0.iter()
    }

    fn row_mut(&mut self, key: &str) -> &mut (&'static table::Setting, Value, Source) {
        self.0.iter_mut().find(|row| row.0.key == key).expect("keys come from the table")
    }

    fn row(&self, key: &str) -> &(&'static table::Setting, Value, Source) {
        self.0.iter().find(|row| row.0.key == key).expect("keys come from the table")
    }
}
