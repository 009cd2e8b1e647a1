//! The decisions of a cluster, and nothing else: pure state machines and tables
//! without sockets, clocks or threads.
//!
//! | module | decides |
//! |---|---|
//! | [`ring`] | which partition a key belongs to |
//! | [`topology`] | which nodes own each partition |
//! | [`change`] | what a command changes in it |
//! | [`planner`] | which nodes should own each, and the steps there |
//! | [`planning`] | which steps are under way, and when to ask again |
//! | [`member`] | when a node beats, and until when it may serve |
//! | [`keeper`] | who is alive, who gets a lease, what is settled, and what follows |
//! | [`node`] | what a node's control does: its member, and what its cores report |
//! | [`replication`] | what a core sends its replicas, and when a write is safe |
//! | [`spread`] | whom an invalidation must reach, and when it has |
//! | [`time`] | how long all that may take |
//! | [`view`] | how clients and people see it |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod change;
pub mod keeper;
mod map;
pub mod member;
pub mod node;
mod owners;
pub mod planner;
pub mod planning;
pub mod replication;
pub mod ring;
pub mod spread;
pub mod time;
pub mod topology;
pub mod view;
