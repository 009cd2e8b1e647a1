//! Client of a Seawall node, or of a cluster of them.
//!
//! ```no_run
//! use seawall_client::{Client, ClientOptions, SetOptions};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), seawall_client::Error> {
//! let client = Client::connect(ClientOptions::new(["10.0.0.1:11211", "10.0.0.2:11211"])).await?;
//! client.set("greeting", "hello", &SetOptions::default().ttl(Duration::from_secs(60))).await?;
//! let item = client.get("greeting").await?.expect("it was stored a moment ago");
//! assert_eq!(&item.value[..], b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # How a `get` travels
//!
//! [`Client`] hashes the key with the cluster's seed and finds the partition's
//! primary and, on it, the owning core (`routing.rs`). One task owns the
//! connection to that core (`connection.rs`): it takes requests of everybody
//! from a bounded queue, sends them without waiting for answers, and gives each
//! answer to whoever asked. If the owner cannot be reached, any other live node
//! takes the key and passes it on (`execute.rs`).
//!
//! | | |
//! |---|---|
//! | `options.rs` | every limit and its default |
//! | `error.rs` | what went wrong, and whether a retry is safe |
//! | `protocol.rs` | requests as bytes, bytes as answers |
//! | `routing.rs` | who owns a key |
//! | `connection.rs` | one pipelined connection |
//! | `pool.rs` | connections by address; the current routing |
//! | `follow.rs` | notices that the topology changes |
//! | `execute.rs` | where a request goes, and what is tried again |
//! | `verbs.rs` | get, set, delete and their like |
//! | `load.rs` | cache-aside: [`Client::get_or_load`] |
//! | `counters.rs` | what happened so far |

#![forbid(unsafe_code)]

mod connection;
mod counters;
mod error;
mod execute;
mod follow;
mod load;
mod options;
mod pool;
mod protocol;
mod routing;
mod verbs;

pub use counters::Counters;
pub use error::Error;
pub use execute::Client;
pub use load::{Loaded, NEGATIVE_FLAGS};
pub use options::{ClientOptions, CounterOptions, LoadOptions, SetOptions};
pub use verbs::{Item, Stored};
