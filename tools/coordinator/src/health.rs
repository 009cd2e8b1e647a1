//! What an operator wants to know of the coordinator.

use std::fmt;

use serde::Serialize;

/// A look at the coordinator from this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// `embedded` or `etcd`.
    pub kind: &'static str,
    /// This node leads.
    pub leads: bool,
    /// Where peers reach the leader.
    pub leader: Option<String>,
    /// Grows from one leader to the next.
    pub term: u64,
    /// Changes can be made, as far as this node knows.
    pub quorum_reachable: bool,
    /// Those among which changes are decided: addresses.
    pub keepers: Vec<String>,
    /// Nodes that follow without a vote: addresses.
    pub learners: Vec<String>,
    /// Revision of the topology here.
    pub revision: u64,
    /// Position of the last command applied here in the order of all.
    pub commands_applied: u64,
    /// How long ago the topology changed here, if it did since the start.
    pub changed_ms_ago: Option<u64>,
    /// The disk does not take what it must.
    pub disk_error: Option<String>,
    /// What a node that is not yet part of a cluster waits for.
    pub waits_for: Option<String>,
    /// A node of `--join` belongs to another cluster.
    pub other_cluster: Option<OtherCluster>,
}

/// A node of `--join` belongs to another cluster than this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherCluster {
    /// Which nodes, and what to do.
    pub what: String,
    /// No node of `--join` belongs to the cluster of this one: this node is most likely
    /// the one that is wrong.
    pub alone: bool,
}

impl fmt::Display for Health {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leader = match &self.leader {
            _ if self.leads => "this node",
            Some(leader) => leader,
            None => "nobody",
        };
        writeln!(out, "coordinator  {}", self.kind)?;
        writeln!(out, "leader       {leader} (term {})", self.term)?;
        let quorum = if self.quorum_reachable { "reachable" } else { "NOT REACHABLE" };
        writeln!(out, "quorum       {quorum}")?;
        writeln!(out, "keepers      {}", self.keepers.join(" "))?;
        if !self.learners.is_empty() {
            writeln!(out, "learners     {}", self.learners.join(" "))?;
        }
        writeln!(out, "revision     {} (command {})", self.revision, self.commands_applied)?;
        if let Some(ms) = self.changed_ms_ago {
            writeln!(out, "changed      {ms} ms ago")?;
        }
        if let Some(error) = &self.disk_error {
            writeln!(out, "disk         {error}")?;
        }
        if let Some(wait) = &self.waits_for {
            writeln!(out, "waits for    {wait}")?;
        }
        if let Some(other) = &self.other_cluster {
            writeln!(out, "other        {}", other.what)?;
        }
        Ok(())
    }
}
