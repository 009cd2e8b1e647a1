//! The longest single call while a shard fills from empty.
//!
//! ```sh
//! cargo run --release -p seawall-benches --bin growth [-- items [rounds]]   # 20m 3
//! ```
//!
//! 20 million items of 30 + 100 bytes (4 GiB) unless another number is given.
//! The shard is filled several times with its memory touched before, so that
//! what is measured is the engine, and once with memory that the kernel hands
//! out at first touch, as a daemon that has just started has it.
//!
//! Every set is timed by the wall clock and by the thread's CPU clock (whose
//! reading is a system call, some 0.3 us that its figures contain). The second
//! leaves out that other processes ran, though not that a hypervisor did
//! something else. But the engine does the same work in every round: a call
//! that is long in one round and short in another was held up, not long. So the
//! last lines give, for the calls that were ever long, the least of all rounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use engine::Now;
use hdrhistogram::Histogram;
use net::sys::memory::Mapping;
use seawall_benches::{VALUE_BYTES, number, stage, subject};

/// Items unless told otherwise.
const ITEMS: u64 = 20_000_000;
/// Fillings of touched memory unless told otherwise.
const ROUNDS: u32 = 3;
/// Bytes an item beside which there is always room for the growing index.
const ITEM_BYTES: u64 = 190;
/// Sets between two calls of `maintain`, and a millisecond: half a million a second.
const SETS_PER_MS: u64 = 500;
/// CPU time from which a call is remembered.
const LONG_NS: u64 = 100_000;
/// How many of them are shown.
const SHOWN: usize = 10;

/// Nanoseconds that the calling thread has run.
fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes into `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Writes to every page.
fn touch(mapping: &Mapping) {
    for offset in (0..mapping.bytes()).step_by(4096) {
        // SAFETY: within the mapping, which the shard has not used yet: it
        // finds zeros as before.
        unsafe { mapping.base().add(offset).write_volatile(0) };
    }
}

/// The times of one kind of call.
struct Times {
    wall_ns: Histogram<u64>,
    cpu_ns: Histogram<u64>,
}

impl Times {
    fn new() -> Times {
        let histogram =
            || Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds are in range");
        Times { wall_ns: histogram(), cpu_ns: histogram() }
    }

    /// Does it and returns the CPU time that it took.
    fn take(&mut self, call: impl FnOnce()) -> u64 {
        let cpu_begin_ns = thread_cpu_ns();
        let begin = Instant::now();
        call();
        let wall_ns = begin.elapsed().as_nanos() as u64;
        let cpu_ns = thread_cpu_ns() - cpu_begin_ns;
        self.wall_ns.saturating_record(wall_ns.max(1));
        self.cpu_ns.saturating_record(cpu_ns.max(1));
        cpu_ns
    }

    fn show(&self, name: &str) {
        for (clock, histogram) in [("wall", &self.wall_ns), ("CPU", &self.cpu_ns)] {
            let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
            println!(
                "  {name:<9} {clock:<5} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
                at(0.5),
                at(0.999),
                at(0.9999),
                at(0.99999),
                histogram.max() as f64 / 1e3
            );
        }
    }
}

/// Fills a shard. The CPU time of long sets, by the number of the set.
fn fill(name: &str, items: u64, touched: bool) -> BTreeMap<u64, u64> {
    let (mut shard, mapping) = subject::shard((items * ITEM_BYTES) as usize + (16 << 20));
    if touched {
        touch(&mapping);
    }
    let value = [b'v'; VALUE_BYTES];
    let mut now = Now(1_700_000_000_000);
    let (mut sets, mut upkeep, mut long) = (Times::new(), Times::new(), BTreeMap::new());
    for number in 0..items {
        let key = stage::key(number);
        let cpu_ns = sets.take(|| subject::set(&mut shard, &key, &value, now));
        if cpu_ns >= LONG_NS {
            long.insert(number, cpu_ns);
        }
        if number % SETS_PER_MS == 0 {
            now.0 += 1;
            upkeep.take(|| {
                shard.maintain(now);
            });
        }
    }
    assert_eq!(shard.len(), items, "nothing was evicted");
    let memory_bytes = shard.stats().gauges.memory_bytes;
    println!("{name}: {items} items, {} MiB", memory_bytes >> 20);
    sets.show("set");
    upkeep.show("maintain");
    drop(shard);
    drop(Arc::into_inner(mapping).expect("the shard is gone"));
    long
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| match number(&text) {
        Some(number) if number > 0 => number,
        _ => {
            eprintln!("growth [ITEMS [ROUNDS]]: `{text}` is no number such as 500000 or 20m");
            std::process::exit(2)
        }
    });
    let items = arguments.next().unwrap_or(ITEMS);
    let rounds = arguments.next().unwrap_or(ROUNDS.into());
    println!(
        "  {:<9} {:<5} {:>9} {:>9} {:>9} {:>9} {:>9}   us",
        "", "clock", "p50", "p99.9", "p99.99", "p99.999", "max"
    );
    let mut long: Vec<BTreeMap<u64, u64>> = Vec::new();
    for round in 1..=rounds {
        long.push(fill(&format!("touched, round {round}"), items, true));
    }
    fill("untouched", items, false);

    // A call that some round does not remember was short there.
    let mut always: Vec<(u64, u64)> = long[0]
        .keys()
        .filter_map(|number| {
            let least = long.iter().map(|round| round.get(number).copied()).min().flatten();
            least.map(|cpu_ns| (cpu_ns, *number))
        })
        .collect();
    always.sort_unstable_by(|a, b| b.cmp(a));
    println!(
        "sets of {} us and more in every touched round: {}{}",
        LONG_NS / 1000,
        always.len(),
        if always.is_empty() { "" } else { "; the longest, by its shortest round:" }
    );
    for (cpu_ns, number) in always.iter().take(SHOWN) {
        println!("  {:>9.2} us  set {number}", *cpu_ns as f64 / 1e3);
    }
}
