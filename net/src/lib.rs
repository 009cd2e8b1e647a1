//! Bytes and kernel: protocols, connections, socket loops, the mesh.
//!
//! How a `get` travels: the reactor receives bytes and hands them to the
//! connection's state machine ([`conn`]), which parses a request ([`proto`])
//! and hashes its key. If this core owns the key, [`exec`] writes the answer
//! straight into the connection's output; otherwise the request hops to its
//! owner in a batch ([`hop`]) and its answer takes its place in the order of
//! the requests.

pub mod auth;
pub mod clock;
pub mod conn;
pub mod control;
pub mod core;
pub mod detail;
pub mod exec;
pub mod hop;
pub mod lend;
pub mod limits;
pub mod listener;
pub mod mesh;
pub mod node;
pub mod peering;
pub mod proto;
pub mod reactor;
pub mod stats;
pub mod sys;
pub mod watch;

/// What `version` answers: the memcached release whose behaviour this is, so
/// that clients which look at its digits choose well, then our own.
pub const VERSION: &str = concat!("1.6.18 seawall-", env!("CARGO_PKG_VERSION"));
