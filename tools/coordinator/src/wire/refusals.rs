//! Connections between nodes that did not come about because one end did not want
//! the other: somebody else's port scan, or a mistake in somebody's settings. The
//! log has a line of it; here is how many there were, and the latest.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many, and the latest.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<(u64, Option<Refusal>)>);

/// A connection that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Who, and why.
    pub what: String,
    /// When it was refused.
    pub at: Instant,
}

impl Refusals {
    /// One more.
    pub fn note(&self, what: &str) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.0 += 1;
        refusals.1 = Some(Refusal { what: what.to_owned(), at: Instant::now() });
    }

    /// How many there were since the process started, and the latest.
    pub fn seen(&self) -> (u64, Option<Refusal>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
