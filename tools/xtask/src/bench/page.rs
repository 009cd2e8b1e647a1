//! One result: printed as it comes, and kept in `benches/results`.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::{paths, process};

/// A page of Markdown.
pub struct Page {
    name: String,
    title: String,
    text: String,
}

impl Page {
    /// An empty one.
    pub fn new(name: &str, title: &str) -> Page {
        Page { name: name.into(), title: title.into(), text: String::new() }
    }

    /// A line.
    pub fn say(&mut self, line: &str) {
        println!("   {line}");
        let _ = writeln!(self.text, "{line}");
    }

    /// The head of a table.
    pub fn head(&mut self, columns: &[&str]) {
        self.row(columns.iter().copied());
        self.row(columns.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }));
    }

    /// A row of one.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut line = String::from("|");
        for cell in cells {
            let _ = write!(line, " {} |", cell.as_ref());
        }
        self.say(&line);
    }

    /// Lines as they are.
    pub fn fence<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        self.say("```");
        lines.for_each(|line| self.say(line));
        self.say("```");
    }

    /// What a command prints.
    pub fn output(&self, mut command: Command, patience: Duration) -> Result<String> {
        let (good, text) = process::capture(&mut command, patience)?;
        ensure!(good, "{}:\n{text}", process::describe(&command));
        Ok(text)
    }

    /// Writes it down, with the command, the machine and the commit.
    pub fn save(&self, options: &Options) -> Result<String> {
        let (rounds, keys) = (options.rounds, &options.keys);
        self.save_as(&format!("bench --only {} --rounds {rounds} --keys {keys}", self.name))
    }

    /// The same of another command.
    pub fn save_as(&self, command: &str) -> Result<String> {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(paths::root()).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
        let cpus = std::thread::available_parallelism()?;
        let page = format!(
            "# {}\n\n    cargo xtask {command}\n\n{}; commit {}; {} CPUs, {}; Linux {}\n\n{}",
            self.title,
            said("date", &["+%F"])?,
            said("git", &["rev-parse", "--short", "HEAD"])?,
            cpus,
            model.trim_start_matches([' ', '\t', ':']),
            said("uname", &["-r"])?,
            self.text
        );
        let path = results().join(format!("{}.md", self.name));
        std::fs::create_dir_all(results())?;
        std::fs::write(&path, page).with_context(|| path.display().to_string())?;
        Ok(format!("written to benches/results/{}.md", self.name))
    }
}

/// Where results are kept.
pub fn results() -> std::path::PathBuf {
    paths::root().join("benches/results")
}
