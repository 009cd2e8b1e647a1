//! The decisions of a cluster, and nothing else: pure state machines and tables
//! without sockets, clocks or threads.
//!
//! Today: the [`ring`] (which partition a key belongs to) and the [`topology`]
//! (which nodes own each partition). Everything that reacts to time or messages
//! is built on these two.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ring;
pub mod topology;
