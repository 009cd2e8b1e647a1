//! How long the zones take on long histories.
//!
//! ```text
//! cargo run --release -p seawall-history --example million [OPERATIONS]
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Chance, Use, register};
use history::{Builder, Settings, check};
use std::time::Instant;

fn main() {
    let operations = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().unwrap());
    for (keys, clients, deletes, unknown) in
        [(1, 64, 0, 0), (1, 64, 10, 1_000), (operations / 100, 16, 10, 100)]
    {
        let mut chance = Chance(1);
        let mut builder = Builder::default();
        for key in 0..keys {
            let key = builder.key(&format!("key:{key}"));
            let used =
                Use { clients, operations: operations / keys, deletes, unknown, evictions: 0 };
            for operation in register(key, used, &mut chance) {
                builder.push(operation);
            }
        }
        let begun = Instant::now();
        let history = builder.finish().unwrap();
        let sorted_ms = begun.elapsed().as_millis();
        let begun = Instant::now();
        let report = check(&history, &Settings::default());
        println!(
            "{} operations of {clients} clients on {keys} keys{}: sorted in {sorted_ms} ms, judged \
             in {} ms: {}",
            history.operations(),
            if deletes > 0 { ", with deletes and unknown outcomes" } else { "" },
            begun.elapsed().as_millis(),
            report.verdicts[0].word(),
        );
    }
}
