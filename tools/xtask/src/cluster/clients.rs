//! The clients, in a process of their own, and the judge of what they saw.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::node::Node;
use crate::{paths, process};

const WORKERS: &str = "6";
const CHECK_PATIENCE: Duration = Duration::from_secs(120);

/// What clients met with.
#[derive(Debug)]
pub struct Seen {
    pub operations: u64,
    /// Of those with an answer, the one that waited longest for it.
    pub longest_ms: f64,
    /// Node, what it was, how often.
    pub errors: Vec<(usize, String, u64)>,
}

impl Seen {
    /// Errors of all nodes by kind, as a line.
    pub fn kinds(&self) -> String {
        let mut kinds = std::collections::BTreeMap::<&str, u64>::new();
        for (_, kind, count) in &self.errors {
            *kinds.entry(kind).or_default() += count;
        }
        let words: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        if words.is_empty() { "no error".into() } else { words.join(", ") }
    }
}

/// Running clients; dropped, they are killed.
#[derive(Debug)]
pub struct Clients {
    child: Child,
    answers: BufReader<ChildStdout>,
    history: PathBuf,
    log: PathBuf,
}

impl Clients {
    /// Starts them; when this returns they read and write.
    pub fn start(python: &Path, nodes: &[Node], folder: &Path) -> Result<Clients> {
        let (history, log) = (folder.join("history.jsonl"), folder.join("clients.log"));
        let mut command = Command::new(python);
        command.arg(paths::xtask().join("clients/cluster/clients.py"));
        command.arg(&history).arg(WORKERS);
        command.args(nodes.iter().map(|node| node.clients().to_string()));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
        let mut child = process::bind_to_parent(&mut command).spawn().context("no clients")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let mut clients = Clients { child, answers, history, log };
        clients.answer()?;
        Ok(clients)
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        let pipe = self.child.stdin.as_mut().context("a pipe was asked for")?;
        let sent = writeln!(pipe, "{command}").and_then(|()| pipe.flush());
        sent.or_else(|error| bail!("{error}: {}", self.said()))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the clients ended: {}", self.said());
        Ok(serde_json::from_str(&line)?)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Milliseconds from a moment until every key could be written through each
    /// of these nodes.
    pub fn writable(&mut self, since_ns: u64, nodes: &[usize]) -> Result<f64> {
        let nodes: Vec<_> = nodes.iter().map(usize::to_string).collect();
        let answer = self.ask(&format!("probe {since_ns} {}", nodes.join(" ")))?;
        answer["writable_ms"].as_f64().context("some key could not be written for 20 s")
    }

    /// A node that must not answer refuses every key with an error.
    pub fn shut(&mut self, node: usize) -> Result<()> {
        let answer = self.ask(&format!("shut {node}"))?;
        let all_refused = answer["served"] == 0 && answer["silent"] == 0;
        ensure!(all_refused, "a node without a lease was asked for all keys: {answer}");
        Ok(())
    }

    /// The faults are over: reads everything back and lets the judge see it.
    pub fn judge(mut self, checker: &Path) -> Result<Seen> {
        let answer = self.ask("healed")?;
        // A worker that stumbled has seen less than it should.
        ensure!(self.said().is_empty(), "a client broke: {}", self.said());
        let mut check = Command::new(checker);
        check.args(["check", "--require", "linearizable,lost-writes", "--misses", "explained"]);
        check.arg(&self.history);
        let (good, text) = process::capture(&mut check, CHECK_PATIENCE)?;
        ensure!(good, "the history is not that of one cache: {}\n{text}", self.history.display());
        let complaints = answer["complaints"].as_array().context("no complaints")?;
        ensure!(complaints.is_empty(), "clients complain: {}", Value::from(complaints.clone()));
        let errors = answer["errors"].as_array().context("no errors")?;
        let errors = errors.iter().map(|line| {
            let count = line[2].as_u64().unwrap_or(0);
            let node = line[0].as_u64().unwrap_or(0) as usize;
            (node, line[1].as_str().unwrap_or("?").to_owned(), count)
        });
        Ok(Seen {
            operations: answer["operations"].as_u64().context("no operations")?,
            longest_ms: answer["longest_ms"].as_f64().context("no longest_ms")?,
            errors: errors.collect(),
        })
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
