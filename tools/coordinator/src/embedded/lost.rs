//! What a node says while it finds no leader, or finds another cluster: which keepers
//! are missing, and what the operator can do.

use std::collections::BTreeSet;

use super::node::Node;
use super::types::{Known, Metrics};
use crate::health::OtherCluster;

/// A keeper as this node found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It answers and remembers the cluster.
    There,
    /// Somebody answers in its place who does not.
    Forgot,
    Silent,
}

/// Why there is no majority of keepers; none if there is one, or no keeper is known.
pub(super) fn majority(node: &Node, metrics: &Metrics, known: &[Known]) -> Option<String> {
    let membership = metrics.membership_config.membership();
    let found = membership.voter_ids().map(|id| {
        let keeper = membership.get_node(&id).cloned().unwrap_or_default();
        let mut same = known.iter().filter(|known| known.node.cluster == node.cluster());
        let found = if id == node.id() || same.any(|known| known.node.id == id) {
            Found::There
        } else if known.iter().any(|known| known.node.name == keeper.name) {
            Found::Forgot
        } else {
            Found::Silent
        };
        (keeper.name, found)
    });
    words(&found.collect::<Vec<_>>())
}

fn words(keepers: &[(String, Found)]) -> Option<String> {
    let needed = keepers.len() / 2 + 1;
    let there = keepers.iter().filter(|(_, found)| *found == Found::There).count();
    if keepers.is_empty() || there >= needed {
        return None;
    }
    let missing = keepers.iter().filter_map(|(name, found)| match found {
        Found::There => None,
        Found::Forgot => Some(format!("{name} has lost its cluster directory")),
        Found::Silent => Some(format!("{name} does not answer")),
    });
    let missing: Vec<String> = missing.collect();
    Some(format!(
        "a majority of its keepers, {needed} of {}: {}. Start them with the directories that they had; if those are lost for good, see --cluster-recover",
        keepers.len(),
        missing.join(", ")
    ))
}

/// Whether nodes of `--join` belong to another cluster. `members`:
/// addresses in its own.
pub(super) fn other_cluster(
    own: u64,
    members: &BTreeSet<String>,
    join: &[String],
    answers: &[Known],
    directory: &std::path::Path,
) -> Option<OtherCluster> {
    let others: BTreeSet<&str> = answers
        .iter()
        .filter(|known| known.node.cluster != 0 && known.node.cluster != own)
        .map(|known| &*known.node.address)
        .collect();
    if others.is_empty() {
        return None;
    }
    let same = answers.iter().any(|known| known.node.cluster == own);
    let alone = !same && !join.iter().any(|address| members.contains(address));
    let others = others.into_iter().collect::<Vec<_>>().join(", ");
    let what = if alone {
        format!(
            "another cluster of the same name is at {others} (--join): this node remembers one that it began itself or joined before, and serves what that one holds. To join the other:  stop this node, remove {}, start it",
            directory.join(super::disk::FILE).display()
        )
    } else {
        format!(
            "another cluster of the same name is at {others} (--join); this node is not part of it"
        )
    };
    Some(OtherCluster { what, alone })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::types::Introduce;

    #[test]
    fn a_majority_that_is_missing_is_named() {
        let keepers = |found: [Found; 3]| {
            let names = ["a", "b", "c"].map(str::to_owned);
            names.into_iter().zip(found).collect::<Vec<_>>()
        };
        let said = words(&keepers([Found::There, Found::Forgot, Found::Silent])).unwrap();
        let expected = "a majority of its keepers, 2 of 3: b has lost its cluster directory, c does not answer.";
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(words(&keepers([Found::There, Found::There, Found::Silent])), None);
        assert_eq!(words(&[]), None);
    }

    #[test]
    fn a_node_that_is_alone_in_its_cluster_is_the_one_that_is_wrong() {
        let known = |address: &str, cluster| Known {
            node: Introduce { id: 5, name: address.into(), address: address.into(), cluster },
            leader: None,
        };
        let join = ["a:1".to_owned(), "b:1".to_owned()];
        let judge = |members: &[&str], answers: &[Known]| {
            let members = members.iter().map(ToString::to_string).collect();
            other_cluster(7, &members, &join, answers, "dir".as_ref())
        };
        let alone = judge(&["me:1"], &[known("a:1", 9), known("b:1", 9)]).unwrap();
        assert!(alone.alone && alone.what.contains("at a:1, b:1"), "{alone:?}");
        assert!(alone.what.contains("remove dir/keeper.redb"), "{alone:?}");
        // One of many only says it: the others would be unready, too, by one wrong node.
        assert!(!judge(&["me:1", "a:1"], &[known("a:1", 7), known("b:1", 9)]).unwrap().alone);
        assert!(!judge(&["me:1", "a:1"], &[known("b:1", 9)]).unwrap().alone);
        assert_eq!(judge(&["me:1"], &[known("a:1", 7), known("b:1", 0)]), None);
        assert_eq!(judge(&["me:1"], &[]), None);
    }
}
