//! The coordinator, as a model: a log of commands that a majority agrees on.
//!
//! It is linearizable by construction, since there is one log. What the cluster
//! must live with is modelled: an entry commits only while its leader reaches a
//! majority, may commit late though its proposer has given it up, leadership
//! moves, and a deposed leader does not know it yet.

use super::hub::Who;
use cluster::change::{Command, Outcome};
use cluster::topology::Topology;
use std::sync::Arc;

/// See the module's text.
#[derive(Debug)]
pub struct Coordinator {
    /// The topology after so many commands.
    states: Vec<Arc<Topology>>,
    /// The term of the last election.
    pub term: u64,
    /// Who won it.
    pub leader: Option<Who>,
    /// By voter: the latest term that it voted in or heard of. Outlives its process.
    pub promised: Vec<u64>,
    /// By voter: when it last took something from a leader, or asked others as one.
    pub followed: Vec<u64>,
    /// Since when nobody can commit.
    pub leaderless_since: Option<u64>,
}

impl Coordinator {
    /// A log that begins with this topology.
    pub fn new(voters: usize, topology: Topology) -> Coordinator {
        Coordinator {
            states: vec![Arc::new(topology)],
            term: 0,
            leader: None,
            promised: vec![0; voters],
            followed: vec![0; voters],
            leaderless_since: Some(0),
        }
    }

    /// Entries that are committed.
    pub fn committed(&self) -> usize {
        self.states.len() - 1
    }

    /// The topology after so many entries.
    pub fn state(&self, entries: usize) -> &Arc<Topology> {
        &self.states[entries]
    }

    /// The latest topology.
    pub fn latest(&self) -> &Arc<Topology> {
        &self.states[self.committed()]
    }

    /// Commits a command.
    pub fn commit(&mut self, command: &Command) -> Outcome {
        let mut next = Topology::clone(self.latest());
        let outcome = next.apply(command);
        let next = match outcome {
            Outcome::Applied(_) => Arc::new(next),
            Outcome::Refused(_) => Arc::clone(self.latest()),
        };
        self.states.push(next);
        outcome
    }
}
