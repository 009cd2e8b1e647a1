//! An invalidation of the whole cluster: whom to ask, and when it is done.
//!
//! A tag, a namespace or everything is invalidated up to a *version*, and every
//! core of every node must agree on it. So it goes in two rounds:
//!
//! 1. Every node says its latest version. From here on only primaries answer
//!    reads, for the second round reaches one node after the other.
//! 2. Every node takes the latest of these over as the generation, and answers
//!    when its replicas have it, too
//!    ([`Replicator::invalidate`](crate::replication::Replicator::invalidate)).
//!
//! Then the client is answered, and all are told that it is over.
//!
//! A flush at a later moment goes the same way: what is taken over is that it is to
//! come, and the version says which of several was said last.
//!
//! A node is left out only while it is *out*: down by a settled revision, and in
//! sync nowhere, so that it has to be brought up to date before it serves
//! anything. What brings it up to date tells it of the generation first. The second
//! round may find it in sync though the first left it out: so at first it answers as
//! primary only, for as long as an invalidation may last. Two things could be missed
//! by looking at the topology alone, and so every answer says from which life of its
//! node it comes, and by which revision that acts:
//!
//! - a node that started again since it answered knows nothing of what it said;
//! - a node that was out and is not any more may have been made so by somebody
//!   who had not heard of the invalidation. Who made it so has answered by a
//!   later revision: the round ends under no earlier one.

use crate::time::Millis;
use crate::topology::{Incarnation, NodeIndex, Revision, Topology};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How long all of it may take, unless somebody says otherwise.
pub const PATIENCE_MS: u64 = 3_000;

/// For how long a node that hears no more of it sends readers to primaries: longer
/// than it lasts, by any clock.
pub fn suspended_ms(patience_ms: u64) -> u64 {
    patience_ms + patience_ms / 4
}

/// What a node is asked. The number in front says which invalidation it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The latest version of all your cores; and near reads end for now.
    Latest(u64),
    /// Take these over: `(scope, id, version)`.
    Take(u64, Vec<(u8, u64, u64)>),
    /// It is over.
    Over(u64),
}

/// What it answers, when all of its cores have done so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its life.
    pub incarnation: Incarnation,
    /// All its cores act under this revision or a later one.
    pub acts: Revision,
    /// The latest version of its cores, if that was the question.
    pub latest: u64,
}

/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask these nodes, if they are not being asked. If there are none, wait.
    Ask(Vec<NodeIndex>),
    /// It is done everywhere.
    Done,
    /// It may have been done, on some nodes or on all.
    Failed,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Spread {
    number: u64,
    /// What is to be taken over once the first round is done: `(scope, id)`.
    what: Vec<(u8, u64)>,
    word: Word,
    until: Millis,
    answers: Vec<(NodeIndex, Answer)>,
}

impl Spread {
    /// Invalidates `(scope, id)`, and fails after that time. No other invalidation of
    /// a node has the number.
    pub fn generations(number: u64, what: Vec<(u8, u64)>, now: Millis, patience_ms: u64) -> Spread {
        let (word, until) = (Word::Latest(number), now.plus(patience_ms));
        Spread { number, what, word, until, answers: Vec::new() }
    }

    /// What is being asked.
    pub fn word(&self) -> &Word {
        &self.word
    }

    /// What to tell every node when it is done or has failed: it need not arrive.
    pub fn farewell(&self) -> Word {
        Word::Over(self.number)
    }

    /// A node answered [`Spread::word`].
    pub fn on_answer(&mut self, node: NodeIndex, answer: Answer) {
        self.answers.retain(|(known, _)| *known != node);
        self.answers.push((node, answer));
    }

    /// What must happen now, by this topology, of which so much is settled. `me` is
    /// this node in it: one that is in no cluster yet knows nobody to ask.
    pub fn next(
        &mut self,
        now: Millis,
        topology: &Topology,
        me: Option<NodeIndex>,
        settled: Revision,
    ) -> Next {
        let mut missing = self.missing(topology, settled);
        if me.is_some() && missing.is_empty() && self.is_current(topology) {
            let Word::Latest(number) = self.word else { return Next::Done };
            let latest = self.answers.iter().map(|(_, answer)| answer.latest).max().unwrap_or(0);
            let all = self.what.iter().map(|(scope, id)| (*scope, *id, latest));
            self.word = Word::Take(number, all.collect());
            self.answers.clear();
            missing = self.missing(topology, settled);
        }
        if now >= self.until { Next::Failed } else { Next::Ask(missing) }
    }

    /// Nodes that have not answered in their present life and are not out.
    fn missing(&self, topology: &Topology, settled: Revision) -> Vec<NodeIndex> {
        let answered = |node: NodeIndex, life: Incarnation| {
            let mut answers = self.answers.iter();
            answers.any(|(known, answer)| *known == node && answer.incarnation == life)
        };
        let nodes = topology.nodes().filter(|(node, member)| {
            let is_down = !member.up && member.fence <= settled;
            let is_out = is_down && !topology.is_in_sync_anywhere(*node);
            !is_out && !answered(*node, member.node.incarnation)
        });
        nodes.map(|(node, _)| node).collect()
    }

    /// Whether the topology is as late as those by which the nodes acted.
    fn is_current(&self, topology: &Topology) -> bool {
        self.answers.iter().all(|(_, answer)| answer.acts <= topology.revision())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Command, Step};
    use crate::ring::Partition;
    use crate::topology::{Epoch, Introduction};
    use alloc::string::ToString;
    use alloc::vec;

    const START: Millis = Millis(1_000);
    const A: NodeIndex = NodeIndex(0);
    const B: NodeIndex = NodeIndex(1);

    fn join(node: NodeIndex, life: u64) -> Command {
        Command::Join(Introduction {
            name: node.0.to_string(),
            incarnation: Incarnation(life),
            weight: 100,
            cores: 1,
            ..Introduction::default()
        })
    }

    /// Two nodes, one partition; `A` leads.
    fn pair(in_sync: bool) -> Topology {
        let mut topology = Topology::default();
        topology.apply(&Command::Create { name: "t".into(), ring_bits: 0, copies: 2, seed: 0 });
        topology.apply(&join(A, 1));
        topology.apply(&join(B, 1));
        let add = |node| (Partition(0), Step::Add(node));
        topology.apply(&Command::Steps(vec![add(A), add(B)]));
        if in_sync {
            let partitions = vec![(Partition(0), Epoch(1))];
            topology.apply(&Command::InSync { node: B, known: topology.revision(), partitions });
        }
        topology
    }

    fn answer(topology: &Topology, latest: u64) -> Answer {
        Answer { incarnation: Incarnation(1), acts: topology.revision(), latest }
    }

    fn spread() -> Spread {
        Spread::generations(7, vec![(3, 0)], START, PATIENCE_MS)
    }

    #[test]
    fn all_take_over_the_latest_version_of_all() {
        let topology = pair(true);
        let settled = topology.revision();
        let mut spread = spread();
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Ask(vec![A, B]));
        assert_eq!(*spread.word(), Word::Latest(7));
        spread.on_answer(B, answer(&topology, 50));
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Ask(vec![A]));
        spread.on_answer(A, answer(&topology, 40));
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Ask(vec![A, B]));
        assert_eq!(*spread.word(), Word::Take(7, vec![(3, 0, 50)]));
        spread.on_answer(A, answer(&topology, 0));
        spread.on_answer(B, answer(&topology, 0));
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Done);
    }

    #[test]
    fn a_node_is_waited_for_until_it_is_down_settled_and_in_sync_nowhere() {
        let mut topology = pair(true);
        let mut spread = spread();
        spread.on_answer(A, answer(&topology, 0));
        let mut asks =
            |topology: &Topology, settled| match spread.next(START, topology, Some(A), settled) {
                Next::Ask(nodes) => nodes,
                other => panic!("{other:?}"),
            };
        let before = topology.revision();
        topology.apply(&Command::Down { node: B, incarnation: Incarnation(1) });
        assert_eq!(asks(&topology, before), [B], "it may serve until its lease ends");
        assert_eq!(asks(&topology, topology.revision()), [B], "called up again, it is in sync");
        topology.apply(&Command::Exclude { primary: A, replica: B, keep: 1 });
        assert_eq!(asks(&topology, topology.revision()), [A], "the second round");
    }

    #[test]
    fn the_only_copy_is_waited_for_and_then_it_fails() {
        let mut topology = pair(false);
        topology.apply(&Command::Down { node: A, incarnation: Incarnation(1) });
        let settled = topology.revision();
        let mut spread = spread();
        spread.on_answer(B, answer(&topology, 0));
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Ask(vec![A]));
        let late = START.plus(PATIENCE_MS);
        assert_eq!(spread.next(late, &topology, Some(A), settled), Next::Failed);
    }

    #[test]
    fn a_node_that_has_just_started_and_knows_of_nobody_does_not_say_that_all_have_it() {
        let mut spread = spread();
        let nothing = Topology::default();
        assert_eq!(spread.next(START, &nothing, None, Revision(0)), Next::Ask(vec![]));
        assert_eq!(*spread.word(), Word::Latest(7));
        let late = START.plus(PATIENCE_MS);
        assert_eq!(spread.next(late, &nothing, None, Revision(0)), Next::Failed);
    }

    #[test]
    fn what_an_earlier_life_answered_does_not_count() {
        let mut topology = pair(true);
        let mut spread = spread();
        spread.on_answer(A, answer(&topology, 0));
        spread.on_answer(B, answer(&topology, 0));
        topology.apply(&join(B, 2));
        let settled = topology.revision();
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Ask(vec![B]));
    }

    #[test]
    fn a_round_does_not_end_under_an_earlier_topology_than_an_answer() {
        let mut topology = pair(false);
        topology.apply(&Command::Down { node: B, incarnation: Incarnation(1) });
        let (old, settled) = (topology.clone(), topology.revision());
        let mut spread = spread();
        topology.apply(&Command::Up { node: B, incarnation: Incarnation(1) });
        spread.on_answer(A, answer(&topology, 0));
        assert_eq!(spread.next(START, &old, Some(A), settled), Next::Ask(vec![]));
        assert_eq!(*spread.word(), Word::Latest(7));
        assert_eq!(spread.next(START, &topology, Some(A), settled), Next::Ask(vec![B]));
    }
}
