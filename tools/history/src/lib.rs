//! `history`: what clients saw of a cache cluster, and whether it may be so.
//!
//! A test program notes every operation with the moments at which it was
//! invoked and completed; faults happen meanwhile. Afterwards the history is
//! judged, without knowing anything of the cluster's insides:
//!
//! | check | what it promises |
//! |---|---|
//! | [`linearizable`] | every key behaved like one register: each operation took effect at one moment between its invocation and its completion |
//! | [`lost_writes`] | after healing, every key still holds its last acknowledged write |
//! | [`invalidated_returns`] | what was invalidated was never seen again |
//! | [`one_primary`] | at most one node acknowledged writes per partition and epoch |
//!
//! [`check`] runs them all. They need distinct values: no two writes of a key
//! write the same one. That makes deciding cheap (`O(n log n)`, where the
//! general problem is NP-complete) and is easy for a test program.
//!
//! The map: [`operation`] is what happened, [`History`] holds it by key,
//! [`mod@format`] reads it from a file. `zones` and `misses` decide
//! linearizability, the other checks have a file each, `timeline` draws the
//! evidence, `report` puts the verdicts together.
//!
//! ```
//! use history::{Action, Builder, Operation, Settings, check};
//!
//! let mut builder = Builder::default();
//! let key = builder.key("user:1");
//! let mut did = |client, invoked_ns, completed_ns, action| {
//!     builder.push(Operation { client, key, invoked_ns, completed_ns, action });
//! };
//! did(1, 10, Some(20), Action::write(7));
//! did(2, 30, Some(40), Action::write(8));
//! did(1, 50, Some(60), Action::Hit { value: 7 }); // Stale.
//! let report = check(&builder.finish().unwrap(), &Settings::default());
//! assert!(!report.passed());
//! ```

#![forbid(unsafe_code)]

pub mod format;
pub mod operation;

mod history;
mod invalidated;
mod lost;
mod misses;
mod primary;
mod report;
mod timeline;
mod violation;
mod zones;

pub use history::{Builder, History, KeyHistory, Malformed};
pub use invalidated::invalidated_returns;
pub use lost::{ReadBack, lost_writes};
pub use operation::{Acknowledgement, Action, Invalidation, KeyId, Operation, Scope, TagId};
pub use primary::one_primary;
pub use report::{Report, Verdict, check};
pub use violation::{Check, Evidence, Reason, Violation};
pub use zones::linearizable;

/// What a miss may mean.
///
/// A cache forgets by design, so a miss is no error in itself. How much a
/// history may be asked to explain depends on how its keys were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misses {
    /// A miss must have a reason in the history: the key was not yet written,
    /// was deleted, invalidated or expired. For clusters whose data fits.
    #[default]
    Explained,
    /// Memory pressure may explain any miss, but what was evicted does not
    /// come back: after the miss, the value is gone. For one copy under
    /// pressure.
    Evictions,
    /// A miss says nothing. For copies that are evicted each on its own, where
    /// one reader misses what the next one finds elsewhere.
    Free,
}

/// How strictly to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What a miss may mean.
    pub misses: Misses,
    /// An item may expire so much earlier or later than its time to live says.
    pub expiry_slack_ns: u64,
}

impl Default for Settings {
    /// One second of slack: the grain of memcached's times to live.
    fn default() -> Settings {
        Settings { misses: Misses::default(), expiry_slack_ns: 1_000_000_000 }
    }
}
