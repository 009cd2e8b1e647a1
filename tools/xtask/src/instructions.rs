//! `cargo xtask instructions`: what one operation costs in instructions.

use std::path::Path;

use anyhow::Result;

use crate::report::Done;
use crate::{build, callgrind};

/// What is counted is what users run.
const PROFILE: &str = "release";

/// Prints every table.
pub fn run() -> Result<Done> {
    build::tools(PROFILE, &["seawall-benches"])?;
    let figures = engine(&build::binary(PROFILE, "count_engine")?)?;
    Ok(Done::new(figures, "differences between N and 2N operations"))
}

/// Operations of the engine's table, as `count_engine` calls them.
const OPERATIONS: &[&str] =
    &["get-hit", "get-miss", "set-new", "set-over", "set-evicting", "delete"];
/// Subjects of the engine's table, and whether they evict. moka is not one of
/// them: its upkeep depends on the clock, and so would its count.
const SUBJECTS: &[(&str, bool)] = &[("engine", true), ("hashbrown", false), ("quick_cache", true)];
/// N; `count_engine` does at most twice as many.
const COUNT: u64 = 10_000;

/// Instructions of the engine's operations, beside a bare table and a cache.
fn engine(binary: &Path) -> Result<u64> {
    println!("   instructions an operation, the engine alone: 100,000 items of 30 + 100 bytes,");
    println!("   hashing the key and copying the value out included; index growth is not");
    print!("   {:<14}", "operation");
    SUBJECTS.iter().for_each(|(subject, _)| print!(" {subject:>12}"));
    println!();
    let mut figures = 0;
    for operation in OPERATIONS {
        print!("   {operation:<14}");
        for (subject, evicts) in SUBJECTS {
            if *operation == "set-evicting" && !evicts {
                print!(" {:>12}", "-");
                continue;
            }
            let each = callgrind::instructions_each(binary, &[subject, operation], COUNT)?;
            print!(" {each:>12.0}");
            figures += 1;
        }
        println!();
    }
    Ok(figures)
}
