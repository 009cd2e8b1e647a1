//! The one order in which the cluster's topology changes, and who leads.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | connections between nodes: who may speak, calls and answers |
//!
//! Everything runs on the daemon's one control thread; what waits for the disk
//! has a thread of its own.

pub mod wire;

use std::sync::Arc;

/// Takes lines for the operator.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;
