//! One core's cache.
//!
//! A [`Shard`] owns a slab arena, an index, an eviction policy, an expiry
//! wheel and the generations of tags and namespaces. It is pure: no socket,
//! no thread, no clock. Time comes in as [`Now`], memory as an [`Arena`],
//! randomness as the hash seed, so the daemon, the simulator and the tests run
//! this very code.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod policy;
mod record;
mod shard;
pub mod snapshot;
mod sketch;
mod types;

pub use record::{Record, RecordValue, TagBytes};
pub use shard::*;
pub use sketch::*;
pub use types::*;
