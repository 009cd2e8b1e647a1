//! One core's cache.
//!
//! A [`Shard`] owns a slab arena, an index, an eviction policy, an expiry
//! wheel and the generations of tags and namespaces. It is pure: no socket,
//! no thread, no clock. Time comes in as [`Now`], memory as an [`Arena`],
//! randomness as the hash seed, so the daemon, the simulator and the tests run
//! this very code.
//!
//! The map, downhill:
//!
//! - `shard`: the verbs, and the work between requests.
//! - `store`: what makes an item live, dead or untouchable.
//! - `index` (hash to chunk), [`policy`] (who leaves), `expiry` (who dies
//!   when), `generation` (who was invalidated), `pins` (who is being sent).
//! - `item` (one item's bytes), `chain` (values longer than a chunk).
//! - `events` (what watchers see), `sizes` (their histogram).
//! - `slab`: pages, classes and the arena. Nearly all unsafe code is in
//!   `slab::arena`.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod chain;
mod clock;
mod events;
mod expiry;
mod generation;
mod index;
mod item;
mod pins;
pub mod policy;
mod record;
mod request;
mod shard;
mod sizes;
mod sketch;
mod slab;
pub mod snapshot;
mod stats;
mod store;
mod types;
mod verbs;

pub use chain::{Found, Item, Pin, Reservation};
pub use events::{Event, EventKinds, Evicted};
pub use record::{Record, RecordValue, TagBytes};
pub use request::*;
pub use shard::*;
pub use sketch::*;
pub use slab::arena::{Arena, PAGE_BYTES};
pub use stats::*;
pub use types::*;
pub use verbs::*;
