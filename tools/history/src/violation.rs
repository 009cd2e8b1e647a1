//! What is wrong, and the few operations that show it.

use crate::operation::{Acknowledgement, Action, Operation};
use crate::timeline;
use std::fmt;

/// The checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// [`linearizable`](crate::linearizable).
    Linearizable,
    /// [`lost_writes`](crate::lost_writes).
    LostWrites,
    /// [`invalidated_returns`](crate::invalidated_returns).
    InvalidatedReturns,
    /// [`one_primary`](crate::one_primary).
    OnePrimary,
}

impl Check {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Check::Linearizable => "linearizable",
            Check::LostWrites => "lost writes",
            Check::InvalidatedReturns => "invalidated returns",
            Check::OnePrimary => "one primary",
        }
    }
}

/// Something that must not happen, happened. Displayed, it is a small timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who noticed.
    pub check: Check,
    /// The key, or the partition.
    pub subject: String,
    /// What is wrong.
    pub reason: Reason,
    /// The operations that show it, in order of invocation.
    pub evidence: Vec<Evidence>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A read found a value that nobody wrote to this key.
    NeverWritten {
        /// The value.
        value: u64,
    },
    /// A read found a value that the server had refused.
    Refused {
        /// The value.
        value: u64,
    },
    /// A read found a value before its write was invoked.
    ReadBeforeWritten {
        /// The value.
        value: u64,
    },
    /// A read found a value past its time to live.
    Expired {
        /// The value.
        value: u64,
    },
    /// Two values had to be there at the same moment.
    Overlap {
        /// One of the values.
        value: u64,
        /// The other.
        other: u64,
    },
    /// Something else happened wholly within the time in which a value had to
    /// be there.
    Interrupted {
        /// The value that had to be there.
        value: u64,
        /// What happened meanwhile.
        by: Interruption,
    },
    /// Nothing in the history explains the miss.
    UnexplainedMiss,
    /// The read-back found nothing where an acknowledged write should be.
    Lost {
        /// Its value.
        value: u64,
    },
    /// The read-back found a value that something acknowledged had replaced.
    RolledBack {
        /// The value it found.
        value: u64,
    },
    /// A read found a value that had been invalidated.
    Invalidated {
        /// The value.
        value: u64,
    },
    /// Two nodes acknowledged writes of one partition in one epoch.
    TwoPrimaries {
        /// The epoch.
        epoch: u64,
    },
}

/// What happened while a value had to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// This value was written (and perhaps read).
    Value(u64),
    /// A delete.
    Delete,
    /// A read that found nothing.
    Miss,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NeverWritten { value } => {
                write!(out, "{value} was read, but nobody wrote it to this key")
            }
            Reason::Refused { value } => write!(out, "{value} was read, but its write was refused"),
            Reason::ReadBeforeWritten { value } => {
                write!(out, "{value} was read before it was written")
            }
            Reason::Expired { value } => write!(out, "{value} was read past its time to live"),
            Reason::Overlap { value, other } => {
                write!(out, "{value} and {other} both have to be there at one moment")
            }
            Reason::Interrupted { value, by } => {
                match by {
                    Interruption::Value(other) => write!(out, "{other} was written"),
                    Interruption::Delete => write!(out, "a delete happened"),
                    Interruption::Miss => write!(out, "a read missed"),
                }?;
                write!(out, " while {value} must have been there, before and after")
            }
            Reason::UnexplainedMiss => {
                write!(out, "a read missed, and no delete, invalidation or expiry explains it")
            }
            Reason::Lost { value } => {
                write!(out, "{value} was acknowledged, and is gone after healing")
            }
            Reason::RolledBack { value } => {
                write!(out, "{value} is back after healing, though it had been replaced")
            }
            Reason::Invalidated { value } => write!(out, "{value} was read after its invalidation"),
            Reason::TwoPrimaries { epoch } => {
                write!(out, "two nodes acknowledged writes in epoch {epoch}")
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}: {}: {}", self.check.name(), self.subject, self.reason)?;
        timeline::draw(out, &self.evidence)
    }
}

impl Violation {
    /// Of a key. `evidence` may come in any order and repeat itself.
    pub(crate) fn of_key(
        check: Check,
        key: &str,
        reason: Reason,
        evidence: impl IntoIterator<Item = Evidence>,
    ) -> Violation {
        let mut evidence: Vec<Evidence> = evidence.into_iter().collect();
        evidence.sort();
        evidence.dedup();
        Violation { check, subject: format!("key {key:?}"), reason, evidence }
    }
}

/// One thing that happened, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// When it began.
    pub from_ns: u64,
    /// When it ended; none if nobody knows.
    pub to_ns: Option<u64>,
    /// Whose it is.
    pub who: String,
    /// What it is.
    pub what: String,
}

impl From<&Operation> for Evidence {
    fn from(operation: &Operation) -> Evidence {
        let what = match &operation.action {
            Action::Write { value, ttl_ns: None, .. } => format!("write {value}"),
            Action::Write { value, ttl_ns: Some(ttl_ns), .. } => {
                format!("write {value} for {} ms", ttl_ns / 1_000_000)
            }
            Action::Refused { value } => format!("write {value}: refused"),
            Action::Delete => "delete".to_owned(),
            Action::Hit { value } => format!("read: {value}"),
            Action::Miss => "read: miss".to_owned(),
        };
        let who = format!("client {}", operation.client);
        Evidence { from_ns: operation.invoked_ns, to_ns: operation.completed_ns, who, what }
    }
}

impl From<&Acknowledgement> for Evidence {
    fn from(acknowledgement: &Acknowledgement) -> Evidence {
        let Acknowledgement { partition, epoch, node, at_ns } = acknowledgement;
        let what = format!("acknowledge for partition {partition} in epoch {epoch}");
        Evidence { from_ns: *at_ns, to_ns: Some(*at_ns), who: format!("node {node}"), what }
    }
}
