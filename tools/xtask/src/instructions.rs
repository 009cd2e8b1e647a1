//! `cargo xtask instructions`: what requests and operations cost in
//! instructions. Those of requests are recorded, and held by a test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use toml_edit::DocumentMut;

use crate::report::Done;
use crate::{build, callgrind, paths};

/// What users run; the table of the engine's operations is counted with it.
const PROFILE: &str = "release";

/// Prints every table; writes the requests' figures down if `record`.
pub fn run(record: bool) -> Result<Done> {
    build::build(PROFILE)?;
    let operations = engine(&build::binary(PROFILE, "count_engine")?)?;
    println!("\n   instructions a request (a key for multigets), 32 that arrive together:");
    println!("   parser, engine and writer, without sockets");
    let requests = requests()?;
    for (shape, each) in &requests {
        println!("   {shape:<14} {each:>12.0}");
    }
    if record {
        let mut text = String::from(RECORD_HEAD);
        for (shape, each) in &requests {
            text.push_str(&format!("{shape} = {each:.0}\n"));
        }
        std::fs::write(recorded_path(), text)?;
    }
    let figures = operations + requests.len() as u64;
    Ok(Done::new(figures, "differences between N and 2N operations"))
}

// ---- Requests, and the test that holds them.

/// Shapes of `count_requests`.
const SHAPES: &[&str] = &["get", "get-miss", "mg", "binary-get", "set", "ms", "multiget-key"];
/// A multiple of the batch, and of all different batches.
const REQUESTS: u64 = 16_384;
/// Above the record by more than this: somebody made requests dearer. Below
/// it: the record is out of date.
const MARGIN: f64 = 0.03;
const RECORD_HEAD: &str = "\
# Instructions a request (a key for multigets) through parser, engine and
# writer, as `cargo xtask instructions` counts them. `cargo xtask test` fails
# when one is off by more than 3%; `cargo xtask instructions --record` writes
# them anew. The counts depend on the compiler: recorded with rustc 1.95.
";

fn recorded_path() -> PathBuf {
    paths::xtask().join("instructions.toml")
}

/// Counted in the profile of the tests, whose binaries are there already.
fn requests() -> Result<Vec<(&'static str, f64)>> {
    build::programs()?;
    let binary = build::binary(build::profile(), "count_requests")?;
    let count = |shape: &&'static str| {
        Ok((*shape, callgrind::instructions_each(&binary, &[shape], REQUESTS)?))
    };
    SHAPES.iter().map(count).collect()
}

/// Compares with the record.
pub fn gate() -> Result<Done> {
    let path = recorded_path();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let recorded: DocumentMut = text.parse()?;
    let mut off = Vec::new();
    let counted = requests()?;
    for (shape, each) in &counted {
        let before = recorded
            .get(shape)
            .and_then(|item| item.as_integer())
            .with_context(|| format!("no {shape} in {}", path.display()))?
            as f64;
        println!("   {shape:<14} {each:>8.0}, recorded {before:>6.0}");
        if (each / before - 1.0).abs() > MARGIN {
            off.push(format!("{shape}: {each:.0} instead of {before:.0}"));
        }
    }
    let advice = "if that is meant: cargo xtask instructions --record";
    ensure!(off.is_empty(), "instructions a request changed:\n{}\n{advice}", off.join("\n"));
    Ok(Done::new(counted.len() as u64, "within 3% of the record"))
}

// ---- The engine alone.

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
