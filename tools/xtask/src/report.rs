//! What ran, how long it took, what failed.
//!
//! A step returns how many checks it made, or why it failed; nothing is
//! skipped silently, and a failed step never hides those after it.

use std::time::Instant;

use anyhow::Result;

/// How a step went well.
#[derive(Debug)]
pub struct Done {
    /// Checks made; a step without anything to count makes one.
    pub checks: u64,
    /// One line for the reader.
    pub note: String,
}

impl Done {
    /// So many checks, with a word about them.
    pub fn new(checks: u64, note: impl Into<String>) -> Done {
        Done { checks, note: note.into() }
    }
}

/// The steps so far.
pub struct Report {
    started: Instant,
    lines: Vec<(String, f64, Result<Done, String>)>,
}

impl Report {
    /// An empty report; its clock starts now.
    pub fn new() -> Report {
        Report { started: Instant::now(), lines: Vec::new() }
    }

    /// Runs one step and prints its line.
    pub fn step(&mut self, name: &str, body: impl FnOnce() -> Result<Done>) -> bool {
        println!("== {name}");
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body))
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the step panicked")))
            .map_err(|error| format!("{error:#}"));
        let seconds = started.elapsed().as_secs_f64();
        match &outcome {
            Ok(done) => println!("-- ok {name}  {seconds:.1} s  {}", done.note),
            Err(why) => println!("-- FAILED {name}  {seconds:.1} s\n{why}"),
        }
        let good = outcome.is_ok();
        self.lines.push((name.to_owned(), seconds, outcome));
        good
    }

    /// Prints the table and the closing line; true when nothing failed.
    pub fn close(self) -> bool {
        println!();
        let width = self.lines.iter().map(|line| line.0.len()).max().unwrap_or(0);
        for (name, seconds, outcome) in &self.lines {
            match outcome {
                Ok(done) => {
                    println!("ok      {name:width$}  {seconds:7.1} s  {:>7} checks", done.checks)
                }
                Err(why) => {
                    let first = why.lines().next().unwrap_or_default();
                    println!("FAILED  {name:width$}  {seconds:7.1} s  {first}");
                }
            }
        }
        let passed = self.lines.iter().filter(|line| line.2.is_ok()).count();
        let failed = self.lines.len() - passed;
        println!("\n{:.0} s in all", self.started.elapsed().as_secs_f64());
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}
