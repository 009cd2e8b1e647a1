//! What happened: operations of clients, invalidations, acknowledgements.
//!
//! An operation spans the time between its invocation and its completion, in
//! nanoseconds of one monotonic clock that all clients share. Two operations
//! are ordered only if one had completed before the other was invoked; equal
//! stamps count as concurrent.
//!
//! An operation whose outcome is unknown (timeout, lost connection) has no
//! completion: it may take effect at any time after its invocation, or never.

/// A key, as numbered by the [`Builder`](crate::Builder).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub(crate) u32);

/// A tag, as numbered by the [`Builder`](crate::Builder).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagId(pub(crate) u32);

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// For what.
    pub key: KeyId,
    /// When the client began to send.
    pub invoked_ns: u64,
    /// When the client had the answer; none if the outcome is unknown.
    pub completed_ns: Option<u64>,
    /// What was asked and answered.
    pub action: Action,
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A store of any kind that was acknowledged, or whose outcome is unknown.
    Write {
        /// Different from every other value written to this key.
        value: u64,
        /// Time to live.
        ttl_ns: Option<u64>,
        /// Tags that came with it.
        tags: Box<[TagId]>,
    },
    /// A store that the server refused. Nobody may ever read its value.
    Refused {
        /// The value.
        value: u64,
    },
    /// A delete, whether it found something or not: either way the key was
    /// absent afterwards. (That it found nothing is no evidence: a node that
    /// repeats a delete after a failover finds its own first attempt.)
    Delete,
    /// A read that found this value.
    Hit {
        /// The value.
        value: u64,
    },
    /// A read that found nothing.
    Miss,
}

impl Action {
    /// A write without time to live and tags.
    pub fn write(value: u64) -> Action {
        Action::Write { value, ttl_ns: None, tags: Box::default() }
    }
}

impl Operation {
    /// The latest moment at which it can have taken effect.
    pub fn completed_by_ns(&self) -> u64 {
        self.completed_ns.unwrap_or(u64::MAX)
    }

    /// Whether it had completed before `other` was invoked.
    pub fn precedes(&self, other: &Operation) -> bool {
        self.completed_by_ns() < other.invoked_ns
    }
}

/// What an invalidation covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Values written with this tag.
    Tag(TagId),
    /// Keys that begin with this name and a colon.
    Namespace(Box<str>),
    /// Every key.
    All,
}

/// An invalidation of many values at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// Who asked.
    pub client: u32,
    /// What it covers.
    pub scope: Scope,
    /// When the client began to send.
    pub invoked_ns: u64,
    /// When the client had the answer; none if the outcome is unknown.
    pub completed_ns: Option<u64>,
}

impl Invalidation {
    /// The latest moment at which it can have taken effect.
    pub fn completed_by_ns(&self) -> u64 {
        self.completed_ns.unwrap_or(u64::MAX)
    }
}

/// A node acknowledged a write of a partition, under an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The partition.
    pub partition: u32,
    /// The epoch that the node believed in.
    pub epoch: u64,
    /// The node.
    pub node: Box<str>,
    /// When it was seen.
    pub at_ns: u64,
}
