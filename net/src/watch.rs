//! `watch`: events streamed to clients, lossy and bounded.

use crate::hop::ConnToken;

/// Log lines for one watcher.
#[derive(Debug)]
pub struct LogChunk {
    /// The watcher, on the core that receives this.
    pub conn: ConnToken,
    /// Whole lines.
    pub bytes: Vec<u8>,
}

/// The watchers that this core feeds.
#[derive(Debug, Default)]
pub struct WatchLog {}
