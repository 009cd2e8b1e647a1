//! A load generator for memcached-compatible servers, and for Redis and Valkey.
//!
//! How a request travels: a worker's [`schedule`] says that one is due, its
//! [`distribution`] picks a key, [`wire`] writes the bytes into the buffer of
//! a connection, a [`driver`] hands them to the kernel. Answers come back
//! through the driver, are cut by the same `wire` codec without allocating,
//! and meet their request in the [`connection`]'s queue, where the latency is
//! taken. Workers cut their counts into equal intervals; [`run()`] adds them up
//! into a [`report::Report`], which [`table`], JSON and [`svg`] show.
//!
//! Two rules make the figures honest. In an open loop (`--rate`) latency runs
//! from the moment at which a request *should* have been sent, so a server
//! that stalls cannot hide the requests that it held up (coordinated
//! omission). And the generator reports its own lateness, so that nobody
//! blames a server for a busy generator.

pub mod connection;
pub mod cpu;
pub mod distribution;
pub mod driver;
pub mod error;
pub mod keys;
pub mod options;
pub mod plan;
pub mod report;
pub mod run;
pub mod schedule;
pub mod svg;
pub mod sweep;
pub mod table;
pub mod target;
pub mod wire;
pub mod worker;

pub use error::LoadError;
pub use plan::Plan;
pub use report::Report;
pub use run::run;
