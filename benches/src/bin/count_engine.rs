//! Does one operation so many times, for an instruction counter.
//!
//! ```sh
//! count_engine engine get-hit 20000
//! ```
//!
//! Everything but the operation is the same whatever the count, so the
//! difference between N and 2N operations is N operations and nothing else.
//! `cargo xtask instructions` runs it under callgrind.

use std::process::ExitCode;

use seawall_benches::stage::{Operation, Stage};
use seawall_benches::subject::{Engine, QuickCache, Subject, Table};

/// Instructions do not depend on how far away memory is, so a few items do.
const ITEMS: u64 = 100_000;
/// Most operations.
const COUNT_MAX: usize = 20_000;

fn count<S: Subject>(operation: Operation, count: usize) {
    let mut stage = match operation {
        Operation::SetEvicting => Stage::<S>::full(ITEMS),
        _ => Stage::<S>::filled(ITEMS),
    };
    stage.prepare(operation, COUNT_MAX);
    stage.run(operation, count);
    // Taking it apart would depend on the count.
    std::mem::forget(stage);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let read = || {
        let [subject, operation, count] = arguments.as_slice() else { return None };
        let operation = Operation::ALL.into_iter().find(|known| known.name() == operation)?;
        let count = count.parse().ok().filter(|count| *count <= COUNT_MAX)?;
        Some((subject.as_str(), operation, count))
    };
    match read() {
        Some((Engine::NAME, operation, times)) => count::<Engine>(operation, times),
        Some((Table::NAME, operation, times)) if operation != Operation::SetEvicting => {
            count::<Table>(operation, times)
        }
        Some((QuickCache::NAME, operation, times)) => count::<QuickCache>(operation, times),
        _ => {
            eprintln!(
                "count_engine SUBJECT OPERATION COUNT\n  \
                 subjects: engine, hashbrown (does not evict), quick_cache\n  \
                 operations: {}\n  count: up to {COUNT_MAX}",
                Operation::ALL.map(Operation::name).join(", ")
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
