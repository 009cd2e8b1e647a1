//! Time of single operations of the engine, beside a bare hash table and two
//! caches, at a million and at ten million items of 30 + 100 bytes.
//!
//! ```sh
//! cargo bench -p seawall-benches                          # everything, some ten minutes
//! cargo bench -p seawall-benches -- 1m/engine             # what matches
//! SEAWALL_BENCH_ITEMS=1m cargo bench -p seawall-benches   # without the 10m, which need 6 GiB
//! ```
//!
//! Keys are drawn at random over all items, so nearly every operation waits for
//! memory. Operations follow each other at once, as in a pipeline, and a
//! processor begins the next ones while it waits: the fewer instructions an
//! operation has, the more of them wait together. So the figures are costs in a
//! row, not the latency of a lone operation.
//!
//! A subject is filled when the first of its benchmarks runs, and dropped before
//! the next subject is filled.

use std::cell::{OnceCell, RefCell};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use seawall_benches::stage::{Operation, Stage};
use seawall_benches::subject::{Engine, Moka, QuickCache, Subject, Table};
use seawall_benches::{huge_pages, number};

/// Sizes, unless `SEAWALL_BENCH_ITEMS` names others.
const SIZES: &str = "1m,10m";

/// The time of `count` operations, in batches.
fn time<S: Subject>(stage: &mut Stage<S>, operation: Operation, count: u64) -> Duration {
    let mut left = count;
    let mut took = Duration::ZERO;
    while left > 0 {
        let batch = left.min(stage.batch_max() as u64) as usize;
        stage.prepare(operation, batch);
        let begin = Instant::now();
        stage.run(operation, batch);
        took += begin.elapsed();
        stage.settle(operation, batch);
        left -= batch as u64;
    }
    took
}

fn bench<S: Subject>(criterion: &mut Criterion, size: &str, items: u64) {
    let mut group = criterion.benchmark_group(format!("{size}/{}", S::NAME));
    group.throughput(Throughput::Elements(1));
    let mut run = |operations: &[Operation], build: fn(u64) -> Stage<S>| {
        let stage: OnceCell<RefCell<Stage<S>>> = OnceCell::new();
        for &operation in operations {
            group.bench_function(operation.name(), |bencher| {
                let stage = stage.get_or_init(|| RefCell::new(build(items)));
                bencher.iter_custom(|count| time(&mut stage.borrow_mut(), operation, count));
            });
        }
    };
    let roomy: Vec<Operation> =
        Operation::ALL.into_iter().filter(|known| *known != Operation::SetEvicting).collect();
    run(&roomy, Stage::filled);
    if S::EVICTS {
        run(&[Operation::SetEvicting], Stage::full);
    }
    group.finish();
}

fn sizes() -> Vec<(String, u64)> {
    let text = std::env::var("SEAWALL_BENCH_ITEMS").unwrap_or_else(|_| SIZES.into());
    text.split(',')
        .map(|size| {
            let items = number(size.trim()).filter(|items| *items > 0);
            let items = items.unwrap_or_else(|| {
                panic!("SEAWALL_BENCH_ITEMS={text}: `{size}` is no number of items such as 1m")
            });
            (size.trim().to_owned(), items)
        })
        .collect()
}

fn main() {
    huge_pages::ensure();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    for (size, items) in sizes() {
        bench::<Engine>(&mut criterion, &size, items);
        bench::<Table>(&mut criterion, &size, items);
        bench::<QuickCache>(&mut criterion, &size, items);
        bench::<Moka>(&mut criterion, &size, items);
    }
    criterion.final_summary();
}
