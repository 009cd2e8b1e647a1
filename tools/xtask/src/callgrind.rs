//! Instructions, counted by valgrind.
//!
//! Times drift on shared machines; the instructions of a fixed piece of work
//! hardly do. A program that does an operation so many times is run twice, and
//! the difference is divided by the operations: whatever start and end cost
//! cancels out.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{install, paths, process};

const PATIENCE: Duration = Duration::from_secs(600);

/// Instructions of one run, in all threads of the program.
pub fn instructions(binary: &Path, arguments: &[&str]) -> Result<u64> {
    install::apt(&["valgrind"], &["valgrind"])?;
    let folder = paths::target().join("xtask");
    std::fs::create_dir_all(&folder)?;
    let profile = folder.join(format!("callgrind-{}.out", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(binary).args(arguments);
    let (good, text) = process::capture(&mut command, PATIENCE)?;
    ensure!(good, "{}:\n{text}", process::describe(&command));
    let written =
        std::fs::read_to_string(&profile).with_context(|| profile.display().to_string())?;
    std::fs::remove_file(&profile)?;
    total(&written).with_context(|| format!("no total in the profile of {}", binary.display()))
}

/// Instructions an operation of a program whose last argument says how many
/// operations it does: the difference between `count` and twice as many.
pub fn instructions_each(binary: &Path, arguments: &[&str], count: u64) -> Result<f64> {
    let run = |count: u64| {
        let count = count.to_string();
        instructions(binary, &[arguments, &[&count]].concat())
    };
    let (once, twice) = (run(count)?, run(2 * count)?);
    Ok((twice as f64 - once as f64) / count as f64)
}

/// The total of a profile: the numbers of its `summary:` line, or of its
/// `totals:` line, stand in the order of its `events:` line.
fn total(profile: &str) -> Option<u64> {
    let numbers = |name: &str| profile.lines().rev().find_map(|line| line.strip_prefix(name));
    let column = numbers("events:")?.split_whitespace().position(|event| event == "Ir")?;
    let totals = numbers("summary:").or_else(|| numbers("totals:"))?;
    totals.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn totals_are_found_in_profiles() {
        let profile = "# callgrind format\nversion: 1\npositions: line\nevents: Ir\n\
            summary: 1804899\n\nfn=(1) main\n3 12\n\ntotals: 1804870\n";
        assert_eq!(total(profile), Some(1_804_899));
        let cached = "events: Bc Ir Dr\nfn=(1) main\n3 1 12 4\n\ntotals: 7 4000000000 5\n";
        assert_eq!(total(cached), Some(4_000_000_000));
        assert_eq!(total("events: Ir\nfn=(1) main\n3 12\n"), None);
        assert_eq!(total("events: Ge\nsummary: 12\n"), None);
        assert_eq!(total(""), None);
    }
}
