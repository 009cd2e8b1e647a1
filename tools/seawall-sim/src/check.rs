//! `check`: a history file goes in, a table of verdicts comes out.

use crate::report::thousands;
use anyhow::{Context, Result};
use clap::ValueEnum;
use history::{Check, History, Misses, Report, Settings, check, format};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, stdin};
use std::path::{Path, PathBuf};

/// The format, for `--help`. The documentation of `history::format` says more.
pub const FORMAT: &str = r#"A history is a text of lines, each a JSON object, in any order:

  {"kind":"write","client":1,"key":"user:1","value":7,"invoked_ns":10,"completed_ns":20}
  {"kind":"write","client":1,"key":"user:1","value":8,"invoked_ns":25}
  {"kind":"write","client":2,"key":"k","value":1,"invoked_ns":30,"completed_ns":40,"refused":true}
  {"kind":"write","client":2,"key":"k","value":2,"invoked_ns":45,"completed_ns":50,"ttl_ms":60000,"tags":["red"]}
  {"kind":"delete","client":3,"key":"user:1","invoked_ns":30,"completed_ns":50}
  {"kind":"read","client":4,"key":"user:1","invoked_ns":60,"completed_ns":70,"hit":8}
  {"kind":"read","client":4,"key":"user:1","invoked_ns":96,"completed_ns":99,"miss":true}
  {"kind":"invalidate","client":1,"tag":"red","invoked_ns":91,"completed_ns":95}
  {"kind":"invalidate","client":1,"namespace":"user","invoked_ns":91,"completed_ns":95}
  {"kind":"invalidate","client":1,"all":true,"invoked_ns":91,"completed_ns":95}
  {"kind":"healed","at_ns":100}
  {"kind":"acknowledge","partition":17,"epoch":4,"node":"a","at_ns":35}

Times are nanoseconds of one monotonic clock that all clients share. Stamp
invoked_ns before the first byte is sent and completed_ns after the whole answer
was received. Without completed_ns the outcome is unknown (timeout, lost
connection): it may have taken effect at any time after, or never.

Every write of a key has a value of its own, a number below 2^64. Attempts that
were repeated with the same value are one operation, from the first byte to the
last answer. A write that the server surely declined is "refused".

Reads invoked after the healed line are the read-back, which finds lost writes:
read every key once when all faults are over and the cluster is whole again.
"#;

#[derive(Debug, clap::Args)]
pub struct CheckOptions {
    /// History files, - for standard input. --help describes the format.
    #[arg(required = true, value_name = "FILE")]
    histories: Vec<PathBuf>,
    /// What a miss may mean.
    #[arg(long, value_enum, default_value = "explained", value_name = "WHAT")]
    misses: MissesOption,
    /// Items may expire so much earlier or later than their time to live says.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    expiry_slack_ms: u64,
    /// Fail as well if one of these checks had nothing to judge, or could not
    /// judge a key (that was written and not read back).
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CHECK,...")]
    require: Vec<CheckOption>,
    /// Show so many violations of each history.
    #[arg(long, default_value_t = 5, value_name = "N")]
    show: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MissesOption {
    /// Not yet written, deleted, invalidated or expired; nothing else.
    Explained,
    /// Also evicted; what was evicted does not come back.
    Evictions,
    /// Nothing: copies are evicted each on its own.
    Free,
}

impl From<MissesOption> for Misses {
    fn from(option: MissesOption) -> Misses {
        match option {
            MissesOption::Explained => Misses::Explained,
            MissesOption::Evictions => Misses::Evictions,
            MissesOption::Free => Misses::Free,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckOption {
    /// Every key behaved like one register.
    Linearizable,
    /// Every key still holds its last acknowledged write after healing.
    LostWrites,
    /// What was invalidated was never seen again.
    InvalidatedReturns,
    /// At most one node acknowledged writes per partition and epoch.
    OnePrimary,
}

impl From<CheckOption> for Check {
    fn from(option: CheckOption) -> Check {
        match option {
            CheckOption::Linearizable => Check::Linearizable,
            CheckOption::LostWrites => Check::LostWrites,
            CheckOption::InvalidatedReturns => Check::InvalidatedReturns,
            CheckOption::OnePrimary => Check::OnePrimary,
        }
    }
}

/// Judges every history; whether all is well.
pub fn check_all(options: &CheckOptions) -> Result<bool> {
    let settings = Settings {
        misses: options.misses.into(),
        expiry_slack_ns: options.expiry_slack_ms.saturating_mul(1_000_000),
    };
    let mut well = true;
    for path in &options.histories {
        let history = open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let report = check(&history, &settings);
        print!("{}", text(&path.display().to_string(), &history, &report, options.show));
        well &= report.passed();
        for check in options.require.iter().map(|&check| check.into()) {
            well &= is_complete(&report, check);
        }
    }
    Ok(well)
}

fn open(path: &Path) -> Result<History> {
    Ok(if path.as_os_str() == "-" {
        format::read(stdin().lock())?
    } else {
        format::read(BufReader::new(File::open(path)?))?
    })
}

/// Whether `check` judged something, and all that it could have judged.
fn is_complete(report: &Report, check: Check) -> bool {
    let mut verdicts = report.verdicts.iter().filter(|verdict| verdict.check == check);
    verdicts.all(|verdict| verdict.lacks.is_none() && verdict.unchecked == 0)
}

/// The verdicts as a table, and some violations.
fn text(name: &str, history: &History, report: &Report, show: usize) -> String {
    let mut text = String::new();
    let operations = count(history.operations(), "operation");
    let keys = count(history.keys().count(), "key");
    let _ = writeln!(text, "{name}: {operations} on {keys}");
    for verdict in &report.verdicts {
        let what = match verdict.check {
            Check::OnePrimary => "acknowledgement",
            _ => "key",
        };
        let mut note = match verdict.lacks {
            Some(lacks) => lacks.to_owned(),
            None => count(verdict.checked, what),
        };
        if verdict.violated > 0 && verdict.check != Check::OnePrimary {
            let _ = write!(note, ", {} violated", thousands(verdict.violated as u64));
        }
        if verdict.unchecked > 0 {
            let _ = write!(note, ", {} written but not read back", verdict.unchecked);
        }
        let _ = writeln!(text, "  {:<20} {:<12} {note}", verdict.check.name(), verdict.word());
    }
    for violation in report.violations.iter().take(show) {
        let _ = write!(text, "\n{violation}");
    }
    if let hidden @ 1.. = report.violations.len().saturating_sub(show) {
        let _ = writeln!(text, "\nand {hidden} more (--show)");
    }
    text
}

/// `1 key`, `2,000 keys`.
fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", thousands(number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(lines: &str, show: usize) -> String {
        let history = format::read(lines.as_bytes()).unwrap();
        text("h.jsonl", &history, &check(&history, &Settings::default()), show)
    }

    #[test]
    fn the_lines_of_the_help_are_a_history_that_passes() {
        let lines: Vec<&str> =
            FORMAT.lines().filter(|line| line.trim_start().starts_with('{')).collect();
        let expected = "\
h.jsonl: 7 operations on 2 keys
  linearizable         pass         2 keys
  lost writes          not checked  no key read back, 2 written but not read back
  invalidated returns  pass         2 keys
  one primary          pass         1 acknowledgement
";
        assert_eq!(judge(&lines.join("\n"), 5), expected);
    }

    #[test]
    fn what_is_required_must_have_been_judged() {
        let history = r#"
{"kind":"write","client":1,"key":"k","value":1,"invoked_ns":1,"completed_ns":2}
{"kind":"write","client":1,"key":"l","value":1,"invoked_ns":1,"completed_ns":2}
{"kind":"healed","at_ns":5}
{"kind":"read","client":2,"key":"k","invoked_ns":6,"completed_ns":7,"hit":1}
"#;
        let history = format::read(history.as_bytes()).unwrap();
        let report = check(&history, &Settings::default());
        assert!(report.passed());
        assert!(is_complete(&report, Check::Linearizable));
        assert!(!is_complete(&report, Check::LostWrites), "l was not read back");
        assert!(!is_complete(&report, Check::OnePrimary));
    }

    #[test]
    fn a_violation_is_shown() {
        let lost = r#"
{"kind":"write","client":1,"key":"k","value":1,"invoked_ns":1000000,"completed_ns":2000000}
{"kind":"write","client":1,"key":"k","value":2,"invoked_ns":3000000,"completed_ns":4000000}
{"kind":"healed","at_ns":5000000}
{"kind":"read","client":2,"key":"k","invoked_ns":6000000,"completed_ns":7000000,"hit":1}
"#;
        let expected = "\
h.jsonl: 3 operations on 1 key
  linearizable         VIOLATED     1 key, 1 violated
  lost writes          VIOLATED     1 key, 1 violated
  invalidated returns  not checked  no invalidation
  one primary          not checked  no acknowledge line

linearizable: key \"k\": 2 was written while 1 must have been there, before and after
  client 1  write 1  |===|                      0.000 .. 1.000 ms
  client 1  write 2          |===|              2.000 .. 3.000 ms
  client 2  read: 1                  |===|      5.000 .. 6.000 ms
  (milliseconds after 1000000 ns)

and 1 more (--show)
";
        assert_eq!(judge(lost, 1), expected);
    }
}
