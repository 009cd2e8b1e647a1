//! Operations of the whole node, executed on every core.
//!
//! A [`ControlCall`] is sent to each core (the asking one included: the
//! reactor takes calls for its own core out of the outbox like any other) and
//! comes back with its part of the answer.

use crate::core::Core;
use crate::hop::ConnToken;
use crate::stats::CoreStats;
use engine::Now;

/// What to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ControlOp {
    /// Everything written up to that moment dies then.
    Flush {
        /// Now, or later.
        at: Now,
    },
    /// The core's counters.
    Stats,
    /// Lines of `stats conns`.
    Connections,
    /// Counters back to zero.
    ResetStats,
    /// The core's share of a new memory limit.
    MemoryLimit {
        /// Bytes for this core.
        bytes: u64,
    },
    /// Generations of tags move on.
    InvalidateTags(Vec<Vec<u8>>),
    /// Generations of namespaces move on.
    InvalidateNamespaces(Vec<Vec<u8>>),
}

/// A core's part of the answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ControlAnswer {
    /// Not executed yet.
    #[default]
    None,
    /// Done.
    Done,
    /// Counters.
    Stats(Box<CoreReport>),
    /// Text lines.
    Text(Vec<u8>),
}

/// One core's counters.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// Protocol side.
    pub core: CoreStats,
}

/// A call on its way.
#[derive(Debug)]
pub struct ControlCall {
    /// Who asks: a core, or [`crate::hop::CONTROL_PEER`].
    pub from: u32,
    /// The asking connection on that core, if one does.
    pub conn: Option<ConnToken>,
    /// For the control thread to match answers.
    pub id: u64,
    /// What to do.
    pub op: ControlOp,
    /// The answer, once it is a `ControlDone`.
    pub answer: ControlAnswer,
}

/// A connection as `stats conns` shows it.
#[derive(Clone, Debug)]
pub struct ConnSummary<'a> {
    /// Number shown before the fields; unique in the node (the reactor may use
    /// `index * cores + core`, or the descriptor).
    pub number: u64,
    /// Peer, as memcached prints it (`tcp:127.0.0.1:50000`, `unix:/path`).
    pub address: &'a str,
    /// Our side.
    pub listen_address: &'a str,
    /// State word.
    pub state: &'a str,
    /// When its last command came.
    pub last_command: Now,
}

/// The reactor's table of connections, as far as `stats conns` reads it.
pub trait Connections {
    /// Calls `each` for every connection of this core.
    fn each(&self, each: &mut dyn FnMut(ConnSummary<'_>));
}

/// Executes a call's operation on this core.
pub fn execute(op: &ControlOp, core: &mut Core, connections: &dyn Connections) -> ControlAnswer {
    let _ = (op, core, connections);
    todo!()
}
