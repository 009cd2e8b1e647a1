//! Who should be a keeper: the leader's care.
//!
//! Voters are odd in number and grow from 1 to 3 to 5 to 7 in one step each, as
//! soon as enough nodes follow closely enough. A node that left the topology, or
//! lost its disk and came back under another number, is replaced in the same
//! step if there is somebody for its place. A keeper that is merely down stays
//! one: it promised things that it still remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};
use tokio::time::{sleep, timeout};

use super::join::odd_floor;
use super::node::{Engine, Node};
use super::types::{Keeper, Metrics};

const LOOK_EVERY: Duration = Duration::from_millis(200);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A learner so close behind may vote.
const ENTRIES_BEHIND_MAX: u64 = 100;
/// More log than this is not kept for those who are behind.
const LOG_BYTES_MAX: usize = 64 << 20;

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    let mut squeezed_at = 0;
    loop {
        sleep(LOOK_EVERY).await;
        let Some(engine) = node.engine() else { continue };
        let metrics = engine.metrics();
        let applied = metrics.last_applied.map_or(0, |last| last.index);
        // Many small commands are counted by Raft; few long ones are not.
        if engine.log.written_bytes() > LOG_BYTES_MAX && applied > squeezed_at {
            squeezed_at = applied;
            let _ = engine.raft.trigger().snapshot().await;
        }
        // One that hears no majority can change nothing.
        if metrics.state != ServerState::Leader || !node.leads() {
            continue;
        }
        if let Some(change) = plan(&View::new(&node, &engine, &metrics)) {
            carry_out(&node, &engine, &metrics, change).await;
        }
    }
}

/// What the decision depends on.
#[derive(Clone, Debug, Default)]
struct View {
    me: u64,
    wanted: usize,
    /// Voters; of a change that is half done the later ones.
    voters: BTreeSet<u64>,
    half_done: bool,
    learners: BTreeSet<u64>,
    /// Learners that could vote.
    close: BTreeSet<u64>,
    /// Members that will not come back.
    gone: BTreeSet<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Voters(BTreeSet<u64>),
    Forget(BTreeSet<u64>),
}

impl View {
    fn new(node: &Node, engine: &Engine, metrics: &Metrics) -> View {
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let close = matched
            .filter_map(|(id, matched)| Some((*id, (*matched)?.index)))
            .filter(|(_, index)| index + ENTRIES_BEHIND_MAX >= last)
            .map(|(id, _)| id);
        let left = engine.machine.left();
        let mut latest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (id, keeper) in membership.nodes() {
            let newest = latest.entry(&keeper.name).or_insert((keeper.enrolled, *id));
            *newest = (*newest).max((keeper.enrolled, *id));
        }
        let is_gone = |(id, keeper): &(&u64, &Keeper)| {
            left.contains(&keeper.name) || latest.get(&*keeper.name).is_some_and(|it| it.1 != **id)
        };
        View {
            me: node.id(),
            wanted: node.options.keepers_wanted.max(1),
            voters: configs.last().cloned().unwrap_or_default(),
            half_done: configs.len() > 1,
            learners: membership.learner_ids().collect(),
            close: close.collect(),
            gone: membership.nodes().filter(is_gone).map(|(id, _)| *id).collect(),
        }
    }
}

/// The next step, if one is due.
fn plan(view: &View) -> Option<Change> {
    let staying = view.voters.difference(&view.gone).copied();
    let coming = view.learners.intersection(&view.close).filter(|id| !view.gone.contains(id));
    // The leader stays if it can: its place is not an election's matter.
    let mut candidates: Vec<u64> = staying.collect();
    candidates.sort_by_key(|id| *id != view.me);
    candidates.extend(coming.filter(|id| !view.voters.contains(id)));
    candidates.truncate(odd_floor(candidates.len().min(view.wanted)));
    let voters: BTreeSet<u64> = candidates.into_iter().collect();
    if !voters.is_empty() && (view.half_done || voters != view.voters) {
        return Some(Change::Voters(voters));
    }
    let forget: BTreeSet<u64> = view.gone.difference(&view.voters).copied().collect();
    (!forget.is_empty()).then_some(Change::Forget(forget))
}

async fn carry_out(node: &Node, engine: &Engine, metrics: &Metrics, change: Change) {
    let membership = metrics.membership_config.membership();
    let name = |id: &u64| membership.get_node(id).map_or("?", |keeper| &*keeper.name);
    let (line, change) = match change {
        Change::Voters(voters) => {
            let names: Vec<&str> = voters.iter().map(name).collect();
            (
                format!("keepers are now {}", names.join(", ")),
                ChangeMembers::ReplaceAllVoters(voters),
            )
        }
        Change::Forget(gone) => {
            let names: Vec<&str> = gone.iter().map(name).collect();
            (
                format!("{} no longer belongs to the cluster", names.join(", ")),
                ChangeMembers::RemoveNodes(gone),
            )
        }
    };
    // Those who no longer vote follow as learners.
    match timeout(CHANGE_TIMEOUT, engine.raft.change_membership(change, true)).await {
        Ok(Ok(_)) => node.log(&line),
        Ok(Err(error)) => node.log(&format!("cannot change the keepers: {}", words(&error))),
        Err(_) => node.log("cannot change the keepers: no quorum in time"),
    }
}

/// Why the members could not be changed, for an operator.
pub(super) fn words(error: &RaftError<u64, ClientWriteError<u64, Keeper>>) -> String {
    use openraft::error::ChangeMembershipError::InProgress;
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            "another node leads by now".into()
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(InProgress(_))) => {
            "another change of the members is not decided yet".into()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    /// Learners 10.. follow closely.
    fn view(voters: &[u64], learners: &[u64], gone: &[u64]) -> View {
        View {
            me: 1,
            wanted: 5,
            voters: set(voters),
            learners: set(learners),
            close: learners.iter().copied().filter(|id| *id >= 10).collect(),
            gone: set(gone),
            ..View::default()
        }
    }

    #[test]
    fn grows_by_two_when_both_are_there() {
        assert_eq!(plan(&view(&[1], &[10], &[])), None);
        assert_eq!(plan(&view(&[1], &[10, 5], &[])), None);
        assert_eq!(plan(&view(&[1], &[10, 11], &[])), Some(Change::Voters(set(&[1, 10, 11]))));
        let all = view(&[1], &[10, 11, 12, 13, 14, 15], &[]);
        assert_eq!(plan(&all), Some(Change::Voters(set(&[1, 10, 11, 12, 13]))));
        assert_eq!(plan(&view(&[1, 2, 3, 4, 5], &[10, 11], &[])), None);
    }

    #[test]
    fn replaces_who_is_gone() {
        let replaced = plan(&view(&[1, 2, 3], &[10], &[2]));
        assert_eq!(replaced, Some(Change::Voters(set(&[1, 3, 10]))));
        assert_eq!(plan(&view(&[1, 3, 10], &[2], &[2])), Some(Change::Forget(set(&[2]))));
        // Two voters would be worse than one: either's death would stop them.
        assert_eq!(plan(&view(&[1, 2, 3], &[], &[2])), Some(Change::Voters(set(&[1]))));
        // The leader itself goes, if there is another.
        assert_eq!(plan(&view(&[1, 2, 3], &[10], &[1])), Some(Change::Voters(set(&[2, 3, 10]))));
        assert_eq!(plan(&view(&[1], &[5], &[1])), None);
    }

    #[test]
    fn finishes_what_another_leader_began() {
        let half_done = View { half_done: true, ..view(&[1, 2, 3], &[], &[]) };
        assert_eq!(plan(&half_done), Some(Change::Voters(set(&[1, 2, 3]))));
    }
}
