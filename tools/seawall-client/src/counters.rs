//! What a client did so far. Every counter only grows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a client did since it connected; see [`Client::counters`](crate::Client::counters).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// Where they are counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counting {
            $(pub $name: AtomicU64,)*
        }

        impl Counting {
            pub fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Requests, each counted once however often it was tried.
    requests,
    /// Attempts beyond the first of a request.
    retries,
    /// Attempts at another node than the owner, or at its common port.
    detours,
    /// Requests whose time was over.
    timeouts,
    /// Connections made.
    connects,
    /// Connections made where there was one before.
    reconnects,
    /// Connections that could not be made.
    connect_failures,
    /// Times that a newer topology was taken over.
    topology_changes,
    /// Keys found.
    hits,
    /// Keys not found.
    misses,
    /// Loaders run.
    loads,
    /// Loaders that failed, panicked or took too long.
    load_failures,
    /// Callers that waited for somebody else's load.
    coalesced,
    /// Stale values given out while somebody refills.
    served_stale,
    /// Loads without the cache, because it could not be asked.
    bypasses,
    /// Loaded values that were not stored: the key changed meanwhile, or the
    /// cache could not be reached.
    fills_refused,
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
