//! This node as one of a cluster: the parts that decide, from `cluster` and the
//! coordinator, put onto sockets, clocks and cores.
//!
//! | file | owns |
//! |---|---|
//! | `core.rs` | the replicator of each data core, on that core's thread |
//! | `hot.rs` | which keys are hot on a core, and which copies it holds |
//! | `board.rs` | where cores show each other their hot keys |
//! | `control.rs` | the control thread's loop: beats, leases, topology, reports |
//! | `keeper.rs` | the keeper, while this node leads the coordinator |
//! | `links.rs` | links to and from other nodes' cores |
//! | `cipher.rs` | TLS on such a link |
//! | `recover.rs` | the cluster begun anew on this node |
//! | `spread.rs` | invalidations of the whole cluster |
//! | `alike.rs` | what all nodes must be told alike, and who was told otherwise |
//! | `skew.rs` | how far this machine's clock of day is from the keeper's |
//! | `counted.rs` | its metrics |
//! | `placed.rs` | where copies of hot keys are |
//! | `shown.rs` | what clients and operators see of it |

mod alike;
mod board;
mod cipher;
mod control;
mod core;
mod counted;
mod hot;
mod keeper;
mod links;
mod placed;
mod recover;
mod shown;
mod skew;
mod spread;

pub use alike::Common;
pub use control::{Cluster, Ending, Starting};
pub use counted::add as add_metrics;
pub use hot::HotSettings;
pub use placed::{Placed, placed};
pub use recover::recover;
pub use shown::ring;
pub use spread::run as run_everywhere;
