//! The decisions of a cluster, and nothing else: pure state machines and tables
//! without sockets, clocks or threads.
//!
//! | module | decides |
//! |---|---|
//! | [`ring`] | which partition a key belongs to |
//! | [`topology`] | which nodes own each partition |
//! | [`change`] | what a command changes in it |
//! | [`replication`] | what a core sends its replicas, and when a write is safe |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod change;
mod map;
pub mod replication;
pub mod ring;
pub mod time;
pub mod topology;
