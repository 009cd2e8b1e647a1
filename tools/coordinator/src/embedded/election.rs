//! When a keeper asks to lead.
//!
//! Raft's library has a timer for this, drawn once and looked at every 75 ms;
//! this one draws anew each time, so that two keepers that were equally patient
//! are not so again, and keeps to the millisecond. Before a real election, which
//! makes everybody forget the present leader, it asks the others whether they
//! miss one too (Ongaro's pre-vote): a node that was cut off and returns disturbs
//! nobody, and one that is cut off does not count terms up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::node::{Engine, Node};
use super::types::{Ballot, Envelope, LogId, Metrics, encode, kind};

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    let timing = node.options.timing.clone();
    let mut not_before = Instant::now();
    loop {
        let patience = draw(timing.election_min, timing.election_max);
        // Every sign of life moves the end.
        loop {
            let rest = patience.saturating_sub(node.silence());
            if rest.is_zero() {
                break;
            }
            sleep(rest).await;
        }
        sleep_until(not_before).await;
        let Some(engine) = node.engine() else {
            sleep(timing.heartbeat).await;
            continue;
        };
        let metrics = engine.metrics();
        let membership = metrics.membership_config.membership();
        let votes = membership.voter_ids().any(|voter| voter == node.id());
        if metrics.state == ServerState::Leader || !votes {
            sleep(timing.heartbeat).await;
            continue;
        }
        if node.silence() < patience {
            continue;
        }
        if !others_agree(&node, &engine, &metrics).await {
            // They heard a little later than this node, or cannot be reached.
            not_before = Instant::now() + draw(timing.heartbeat / 4, timing.heartbeat);
        } else if node.silence() >= patience {
            node.stand();
            // It fails if Raft has stopped, which its supervisor notices.
            let _ = engine.raft.trigger().elect().await;
            // Votes that have not come by then do not count any more.
            not_before = Instant::now() + draw(timing.lease(), 2 * timing.lease());
        }
    }
}

fn draw(min: Duration, max: Duration) -> Duration {
    let span_us = max.saturating_sub(min).as_micros() as u64;
    min + Duration::from_micros(crate::draw() % span_us.max(1))
}

/// While it leads, a keeper says so.
pub(super) async fn heartbeat(node: Arc<Node>) {
    let mut beats = tokio::time::interval(node.options.timing.heartbeat);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        node.show_role();
        let Some(engine) = node.engine() else { continue };
        if engine.raft.metrics().borrow().state == ServerState::Leader {
            // As above.
            let _ = engine.raft.trigger().heartbeat().await;
        }
    }
}

/// Whether this node would vote for another one: it misses a leader too, and its log is
/// no longer than the other's. Asked in earnest, a voter refuses whose log is longer; the
/// attempt would only use up a term, which may cost the voter's own attempt.
pub(super) fn would_vote(node: &Node, engine: &Engine, ballot: &Ballot) -> bool {
    // One that leads nobody any more may vote; Raft's own lease stays underneath.
    let leads = engine.raft.metrics().borrow().state == ServerState::Leader && node.leads();
    !leads
        && !is_behind(ballot.last, engine.log.last())
        && node.silence() >= node.options.timing.lease()
}

/// Whether a log that ends there lacks something of the voter's. Older nodes do not tell.
fn is_behind(theirs: Option<LogId>, own: Option<LogId>) -> bool {
    theirs.is_some() && theirs < own
}

async fn others_agree(node: &Arc<Node>, engine: &Engine, metrics: &Metrics) -> bool {
    let membership = metrics.membership_config.membership();
    let majorities = membership.get_joint_config();
    let mut agree = BTreeSet::from([node.id()]);
    if is_quorum(majorities, &agree) {
        return true;
    }
    let within = node.options.timing.election_min;
    let mut asking = JoinSet::new();
    for voter in membership.voter_ids().filter(|voter| *voter != node.id()) {
        let Some(address) = node.address(metrics, voter) else { continue };
        let (cluster, content) = (node.cluster(), Ballot { last: engine.log.last() });
        let body = encode(&Envelope { cluster, to: voter, leads: false, content });
        let peers = node.peers.clone();
        asking.spawn(async move {
            let answer = peers.call(&address, kind::BALLOT, body, within).await.ok()?;
            let agrees: Result<bool, String> = postcard::from_bytes(&answer).ok()?;
            (agrees == Ok(true)).then_some(voter)
        });
    }
    let end = Instant::now() + within;
    while let Ok(Some(answer)) = timeout_at(end, asking.join_next()).await {
        if let Ok(Some(voter)) = answer {
            agree.insert(voter);
            if is_quorum(majorities, &agree) {
                return true;
            }
        }
    }
    false
}

/// Whether these are a majority of each of the sets.
fn is_quorum(majorities: &[BTreeSet<u64>], who: &BTreeSet<u64>) -> bool {
    majorities.iter().all(|voters| 2 * voters.intersection(who).count() > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::LeaderId;

    #[test]
    fn a_log_is_behind_by_the_term_of_its_end_first() {
        let end = |term, index| Some(LogId::new(LeaderId::new(term, 1), index));
        assert!(is_behind(end(2, 7), end(2, 8)));
        assert!(is_behind(end(2, 9), end(3, 8)));
        assert!(!is_behind(end(2, 8), end(2, 8)));
        assert!(!is_behind(end(3, 8), end(2, 9)));
        assert!(!is_behind(end(1, 1), None));
        assert!(!is_behind(None, end(2, 8)), "an older node does not say where its log ends");
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_set() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert!(is_quorum(&[set(&[1])], &set(&[1])));
        assert!(!is_quorum(&[set(&[1, 2])], &set(&[1])));
        assert!(is_quorum(&[set(&[1, 2, 3])], &set(&[1, 3, 9])));
        assert!(!is_quorum(&[set(&[1, 2, 3]), set(&[4, 5, 6])], &set(&[1, 2, 4])));
        assert!(is_quorum(&[set(&[1, 2, 3]), set(&[4, 5, 6])], &set(&[1, 2, 4, 5])));
    }
}
