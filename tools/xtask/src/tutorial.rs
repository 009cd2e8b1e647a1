//! The commands of docs/tutorial.md, typed into one shell as a reader would.
//!
//! A block of ```` ```console ```` has commands behind `$ `, and below each the lines
//! that must appear, in that order. `…` in a line stands for anything, and so does a
//! line `...`. The shell lives in a network of its own, where the page's
//! ports are free, with a `/tmp` of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::report::Done;
use crate::{build, install, paths, process};

/// A cluster whose node has died waits 35 s before it copies.
const PATIENCE: Duration = Duration::from_secs(120);
/// What runs in the background may print behind the command's end, but not for long.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Printed behind each command, with its number.
const MARK: &str = "== the command has ended:";

/// A command and what must appear.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// Types everything.
pub fn run() -> Result<Done> {
    build::programs()?;
    install::apt(&["netcat-openbsd"], &["nc"])?;
    install::apt(&["curl"], &["curl"])?;
    install::apt(&["iproute2"], &["ip"])?;
    let page = std::fs::read_to_string(paths::root().join("docs/tutorial.md"))?;
    let steps = steps(&page);
    ensure!(!steps.is_empty(), "docs/tutorial.md has no command");
    std::thread::scope(|scope| {
        // A thread of its own, which ends with the network that it moves into.
        let typed = scope.spawn(|| {
            process::leave_network().context("cannot make a network (are you root?)")?;
            let mut up = Command::new("ip");
            process::run(up.args(["link", "set", "lo", "up"]), PATIENCE)?;
            let mut shell = Shell::start()?;
            for (number, step) in steps.iter().enumerate() {
                shell.step(number, step)?;
            }
            Ok(Done::new(steps.len() as u64, "commands of docs/tutorial.md"))
        });
        typed.join().unwrap_or_else(|_| bail!("the reader panicked"))
    })
}

/// The commands of the page's blocks.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { command: command.into(), expected: Vec::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| inside && !line.is_empty()) {
            step.expected.push(line.into());
        }
    }
    steps
}

/// Whether the lines appear in that order.
fn appear(expected: &[String], output: &str) -> bool {
    let mut lines = output.lines();
    expected
        .iter()
        .filter(|line| *line != "...")
        .all(|wanted| lines.any(|line| is_like(wanted, line)))
}

/// Whether a line is as wanted, `…` being anything.
fn is_like(wanted: &str, line: &str) -> bool {
    let line = line.trim_end();
    let mut pieces = wanted.trim_end().split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut open = false;
    for piece in pieces {
        open = piece.is_empty();
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.is_empty() || open
}

struct Shell {
    child: Child,
    output: PathBuf,
    read: usize,
}

impl Shell {
    fn start() -> Result<Shell> {
        let folder = paths::target().join("xtask");
        std::fs::create_dir_all(&folder)?;
        let output = folder.join(format!("tutorial-{}.log", std::process::id()));
        let file = std::fs::File::create(&output)?;
        let programs = paths::target().join(build::profile());
        let path = std::env::var("PATH").unwrap_or_default();
        // Files in /tmp and processes of its own: what the page starts and leaves behind
        // ends with it. The programs may lie below /tmp, so they get a place beside it.
        // Jobs have numbers (-m), as at a terminal.
        let mut command = Command::new("unshare");
        let inside = "mount --bind \"$PROGRAMS\" /mnt && mount -t tmpfs none /tmp \
                      && exec bash --norc -m";
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["bash", "-c", inside]).env("PROGRAMS", programs);
        command.env("PATH", format!("/mnt:{path}"));
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let child = process::bind_to_parent(&mut command).spawn().context("cannot unshare")?;
        Ok(Shell { child, output, read: 0 })
    }

    /// Types a command, and waits until it has ended and all has appeared.
    fn step(&mut self, number: usize, step: &Step) -> Result<()> {
        let mut stdin = self.child.stdin.as_ref().context("the shell has its input")?;
        writeln!(stdin, "{}\necho '{MARK}' {number}", step.command)?;
        let mark = format!("{MARK} {number}");
        let mut deadline = Instant::now() + PATIENCE;
        let mut ended = false;
        loop {
            let text = read(&self.output)?;
            let new = &text[self.read..];
            if new.contains(&mark) && !ended {
                (ended, deadline) = (true, Instant::now() + BACKGROUND_PATIENCE);
            }
            if ended && appear(&step.expected, new) {
                self.read = text.len();
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "`{}` should print\n  {}\nand printed\n{new}",
                step.command,
                step.expected.join("\n  ")
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        process::kill_tree(self.child.id());
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.output);
    }
}

fn read(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_lines_are_read() {
        let page = "```console\n$ a\none\n\n$ b\n```\n$ no\n    $ no\n```\n$ no\n```\n";
        let step = |command: &str, expected: &[&str]| Step {
            command: command.into(),
            expected: expected.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(steps(page), [step("a", &["one"]), step("b", &[])]);
    }

    #[test]
    fn lines_are_compared_with_what_may_differ() {
        assert!(is_like("version …", "version 0.1.0"));
        assert!(is_like("… of … items", "3 of 4 items"));
        assert!(!is_like("… of … items", "3 of 4 items more"));
        assert!(!is_like("VA 3", "VA 30"));
        let expected = ["a…", "...", "c"].map(String::from);
        assert!(appear(&expected, "ab\nx\nc\n"));
        assert!(!appear(&expected, "c\nab\n"));
    }
}
