//! Bytes and kernel: protocols, connections, socket loops, the mesh.
//!
//! How a `get` travels: the reactor receives bytes and hands them to the
//! connection's state machine ([`conn`]), which parses a request ([`proto`])
//! and hashes its key. If this core owns the key, the shard executes it and
//! [`reply`] writes the outcome straight into the connection's output; otherwise
//! the request hops to its owner in a batch ([`hop`]), and its outcome is written
//! when it comes home, in the order of the requests.

pub mod allowance;
pub mod auth;
pub mod clock;
pub mod conn;
pub mod control;
pub mod core;
pub mod detail;
pub mod hop;
pub mod lend;
pub mod limits;
pub mod listener;
pub mod mesh;
pub mod node;
mod observe;
pub mod peering;
pub mod proto;
pub mod reactor;
pub mod reply;
pub mod stats;
pub mod sys;
pub mod watch;

/// What `version` and `STAT version` answer: the memcached release whose meta
/// commands are spoken here. Clients and exporters look for features by it, so
/// it is one word of digits and dots: several clients fail on anything else.
pub const VERSION: &str = "1.6.45";

/// The version of Seawall itself, shown as `seawall_version` by `stats`.
pub const SEAWALL_VERSION: &str = env!("CARGO_PKG_VERSION");
