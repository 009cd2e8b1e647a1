//! A whole history, by key.
//!
//! The one idea: every check but [`one_primary`](crate::one_primary) looks at
//! one key at a time, because linearizability is local (Herlihy and Wing,
//! TOPLAS 12(3), 1990): a history is linearizable if each of its objects is.
//! So operations are sorted by key and a key's history is a slice.

use crate::operation::{Acknowledgement, Action, Invalidation, KeyId, Operation, Scope, TagId};
use crate::violation::Evidence;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Collects a history.
#[derive(Debug, Default)]
pub struct Builder {
    keys: Names,
    tags: Names,
    operations: Vec<Operation>,
    invalidations: Vec<Invalidation>,
    acknowledgements: Vec<Acknowledgement>,
    healed_ns: Option<u64>,
}

/// Names and their numbers.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 names");
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }
}

impl Builder {
    /// The key of that name.
    pub fn key(&mut self, name: &str) -> KeyId {
        KeyId(self.keys.number(name))
    }

    /// The tag of that name.
    pub fn tag(&mut self, name: &str) -> TagId {
        TagId(self.tags.number(name))
    }

    /// An operation happened. Any order will do.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// An invalidation happened.
    pub fn invalidate(&mut self, invalidation: Invalidation) {
        self.invalidations.push(invalidation);
    }

    /// A node acknowledged a write.
    pub fn acknowledge(&mut self, acknowledgement: Acknowledgement) {
        self.acknowledgements.push(acknowledgement);
    }

    /// All faults have ended and the cluster is whole again; reads from here
    /// on are the read-back. Of several moments the last counts.
    pub fn healed(&mut self, at_ns: u64) {
        self.healed_ns = self.healed_ns.max(Some(at_ns));
    }

    /// The history, if the checks can work with it.
    pub fn finish(mut self) -> Result<History, Malformed> {
        self.operations.sort_by_key(|operation| (operation.key, operation.invoked_ns));
        for of_key in self.operations.chunk_by(|one, other| one.key == other.key) {
            let mut written = HashSet::new();
            for operation in of_key {
                let key = || self.keys.names[operation.key.0 as usize].clone();
                let Operation { client, invoked_ns, completed_ns, .. } = *operation;
                if completed_ns.is_some_and(|completed_ns| completed_ns < invoked_ns) {
                    return Err(Malformed::CompletedBeforeInvoked { client, invoked_ns });
                }
                match operation.action {
                    Action::Write { value, .. } | Action::Refused { value } => {
                        if !written.insert(value) {
                            return Err(Malformed::WrittenTwice { key: key(), value });
                        }
                    }
                    Action::Hit { .. } | Action::Miss if completed_ns.is_none() => {
                        return Err(Malformed::ReadWithoutEnd { client, invoked_ns });
                    }
                    Action::Hit { .. } | Action::Miss | Action::Delete => {}
                }
            }
        }
        for &Invalidation { client, invoked_ns, completed_ns, .. } in &self.invalidations {
            if completed_ns.is_some_and(|completed_ns| completed_ns < invoked_ns) {
                return Err(Malformed::CompletedBeforeInvoked { client, invoked_ns });
            }
        }
        self.acknowledgements.sort_by_key(|acknowledgement| acknowledgement.at_ns);
        let covers = Covers::new(&self.invalidations);
        Ok(History {
            keys: self.keys.names,
            tags: self.tags.names,
            operations: self.operations,
            invalidations: self.invalidations,
            covers,
            acknowledgements: self.acknowledgements,
            healed_ns: self.healed_ns,
        })
    }
}

/// Which invalidations cover what, as indices.
#[derive(Debug, Default)]
struct Covers {
    all: Vec<usize>,
    namespaces: HashMap<Box<str>, Vec<usize>>,
    tags: HashMap<TagId, Vec<usize>>,
}

impl Covers {
    fn new(invalidations: &[Invalidation]) -> Covers {
        let mut covers = Covers::default();
        for (index, invalidation) in invalidations.iter().enumerate() {
            match &invalidation.scope {
                Scope::All => covers.all.push(index),
                Scope::Namespace(name) => {
                    covers.namespaces.entry(name.clone()).or_default().push(index);
                }
                Scope::Tag(tag) => covers.tags.entry(*tag).or_default().push(index),
            }
        }
        covers
    }
}

/// A history that the checks can work with.
#[derive(Debug)]
pub struct History {
    keys: Vec<Box<str>>,
    tags: Vec<Box<str>>,
    operations: Vec<Operation>,
    invalidations: Vec<Invalidation>,
    covers: Covers,
    acknowledgements: Vec<Acknowledgement>,
    healed_ns: Option<u64>,
}

impl History {
    /// How many operations it has.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Every key's own history.
    pub fn keys(&self) -> impl Iterator<Item = KeyHistory<'_>> {
        self.operations.chunk_by(|one, other| one.key == other.key).map(|operations| {
            let name = &*self.keys[operations[0].key.0 as usize];
            let invalidations = self.covering(name, operations);
            KeyHistory { name, operations, invalidations, tags: &self.tags }
        })
    }

    /// Invalidations that may touch the key.
    fn covering(&self, key: &str, operations: &[Operation]) -> Vec<&Invalidation> {
        if self.invalidations.is_empty() {
            return Vec::new();
        }
        let mut found = self.covers.all.clone();
        // A namespace may itself contain colons: every prefix counts.
        for (colon, _) in key.match_indices(':') {
            found.extend(self.covers.namespaces.get(&key[..colon]).into_iter().flatten());
        }
        let mut tags = HashSet::new();
        for operation in operations {
            let Action::Write { tags: written, .. } = &operation.action else { continue };
            for tag in written.iter().filter(|tag| tags.insert(**tag)) {
                found.extend(self.covers.tags.get(tag).into_iter().flatten());
            }
        }
        found.into_iter().map(|index| &self.invalidations[index]).collect()
    }

    /// All invalidations.
    pub fn invalidations(&self) -> &[Invalidation] {
        &self.invalidations
    }

    /// All acknowledgements, in order of time.
    pub fn acknowledgements(&self) -> &[Acknowledgement] {
        &self.acknowledgements
    }

    /// When the last fault had ended, if the history says so.
    pub fn healed_ns(&self) -> Option<u64> {
        self.healed_ns
    }
}

/// What happened to one key.
#[derive(Clone, Debug)]
pub struct KeyHistory<'a> {
    /// The key.
    pub name: &'a str,
    /// Its operations, in order of invocation.
    pub operations: &'a [Operation],
    /// Invalidations that cover the key, or a tag that it was written with.
    pub invalidations: Vec<&'a Invalidation>,
    /// Names of tags, by their numbers.
    tags: &'a [Box<str>],
}

impl KeyHistory<'_> {
    /// An invalidation as it is shown.
    pub(crate) fn evidence(&self, invalidation: &Invalidation) -> Evidence {
        let what = match &invalidation.scope {
            Scope::Tag(tag) => format!("invalidate tag {}", self.tags[tag.0 as usize]),
            Scope::Namespace(name) => format!("invalidate namespace {name}"),
            Scope::All => "invalidate all".to_owned(),
        };
        let who = format!("client {}", invalidation.client);
        Evidence { from_ns: invalidation.invoked_ns, to_ns: invalidation.completed_ns, who, what }
    }
}

/// Why a history can't be checked: the recorder made a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Time ran backwards.
    CompletedBeforeInvoked {
        /// Whose operation.
        client: u32,
        /// When it was invoked.
        invoked_ns: u64,
    },
    /// Two writes of a key wrote the same value; nobody can tell them apart.
    WrittenTwice {
        /// The key.
        key: Box<str>,
        /// The value.
        value: u64,
    },
    /// A read has an answer but no completion.
    ReadWithoutEnd {
        /// Whose read.
        client: u32,
        /// When it was invoked.
        invoked_ns: u64,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::CompletedBeforeInvoked { client, invoked_ns } => write!(
                out,
                "client {client}'s operation of {invoked_ns} ns completed before it was invoked"
            ),
            Malformed::WrittenTwice { key, value } => write!(
                out,
                "key {key:?} was written twice with value {value}: every write needs its own \
                 (record a repeated attempt as one operation, or give it a new value)"
            ),
            Malformed::ReadWithoutEnd { client, invoked_ns } => write!(
                out,
                "client {client}'s read of {invoked_ns} ns has an answer but no completion"
            ),
        }
    }
}

impl std::error::Error for Malformed {}
