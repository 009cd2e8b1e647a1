//! Benchmarks of the engine alone, beside maps and caches that other Rust
//! programs would use in its place.
//!
//! - [`subject`]: what is measured, behind one small trait.
//! - [`stage`]: a subject with its items, and the six operations in batches.
//! - [`huge_pages`]: gives every subject the memory that the engine has.
//!
//! `benches/engine.rs` takes times with them (`cargo bench -p seawall-benches`),
//! `bin/count_engine` is what `cargo xtask instructions` counts, and
//! `bin/growth` looks for the longest single call while a shard fills.

pub mod huge_pages;
pub mod stage;
pub mod subject;

/// What the daemon uses, and the fastest for peers that allocate every item.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads `500000` and `20m`.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(millions) => millions.parse::<u64>().ok()?.checked_mul(1_000_000),
        None => text.parse().ok(),
    }
}

/// Length of every key.
pub const KEY_BYTES: usize = 30;
/// Length of every value.
pub const VALUE_BYTES: usize = 100;
