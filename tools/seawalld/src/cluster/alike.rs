//! What every node of a cluster must be told alike, and who was told otherwise.
//!
//! Each beat carries a digest of these settings. A keeper that has another one
//! answers with its own settings, so the node that differs can say what differs; and
//! it names those who do to everybody. Nobody is refused for it: a node that is kept
//! out is a copy less, and settings are changed by restarting one node after the
//! other. What a longer lease could do is prevented where leases are granted.

use crate::server::say;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Names of settings, and their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common(pub Vec<(String, String)>);

impl Common {
    /// The same for the same settings, in every build.
    fn digest(&self) -> u64 {
        let texts = self.0.iter().flat_map(|(name, value)| [name, value]);
        // FNV-1a, with an end to every text.
        let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
        bytes.fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// What differs, in words; nothing if nothing does.
    fn differs_from(&self, theirs: &Common) -> Option<String> {
        let find = |all: &Common, name: &str| {
            let found = all.0.iter().find(|(own, _)| own == name);
            found.map_or_else(|| "unknown".to_owned(), |(_, value)| format!("{value:?}"))
        };
        let names: BTreeSet<&String> =
            self.0.iter().chain(&theirs.0).map(|(name, _)| name).collect();
        let differing: Vec<String> = names
            .into_iter()
            .map(|name| (name, find(self, name), find(theirs, name)))
            .filter(|(_, own, other)| own != other)
            .map(|(name, own, other)| format!("{name} is {own} here and {other} there"))
            .collect();
        (!differing.is_empty()).then(|| {
            let all = differing.join("; ");
            format!("this node was told other settings than the one that keeps the cluster: {all}")
        })
    }
}

/// What a keeper says of it in its answer to a beat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its own settings, for a node whose digest is another.
    theirs: Option<Common>,
    /// Nodes that differ from it.
    odd: Vec<String>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Alike {
    own: Common,
    digest: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// What is to be said of this node.
    complaint: Option<String>,
    /// Nodes that differ from the keeper, as it said last.
    odd: Vec<String>,
    /// The same, as this node knows while it keeps.
    kept: BTreeSet<String>,
}

impl Alike {
    /// For a node with these settings.
    pub fn new(own: Common) -> Alike {
        let digest = own.digest();
        Alike { own, digest, seen: Mutex::default() }
    }

    /// What goes with a beat.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// As the keeper: a beat came with that digest. `is_member`: of those that the
    /// cluster has.
    pub fn judge(&self, name: &str, digest: u64, is_member: impl Fn(&str) -> bool) -> Verdict {
        let mut seen = self.seen.lock().expect("no holder panics");
        seen.kept.retain(|name| is_member(name));
        let differs = digest != self.digest;
        if differs && is_member(name) && seen.kept.insert(name.to_owned()) {
            say(&format!("{name} was told other settings than this node; its log says which"));
        } else if !differs && seen.kept.remove(name) {
            say(&format!("{name} has the settings of this node again"));
        }
        let odd = seen.kept.iter().cloned().collect();
        Verdict { theirs: differs.then(|| self.own.clone()), odd }
    }

    /// The keeper's answer.
    pub fn note(&self, verdict: Verdict) {
        let complaint = verdict.theirs.and_then(|theirs| self.own.differs_from(&theirs));
        let mut seen = self.seen.lock().expect("no holder panics");
        seen.odd = verdict.odd;
        if complaint == seen.complaint {
            return;
        }
        say(complaint.as_deref().unwrap_or("this node's settings are those of the keeper again"));
        seen.complaint = complaint;
    }

    /// What differs here, in words.
    pub fn complaint(&self) -> Option<String> {
        self.seen.lock().expect("no holder panics").complaint.clone()
    }

    /// Nodes that differ from the keeper.
    pub fn odd(&self) -> Vec<String> {
        self.seen.lock().expect("no holder panics").odd.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(modes: &str) -> Alike {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let settings = vec![pair("cluster.replication_of", modes), pair("cluster.lease_ms", "250")];
        Alike::new(Common(settings))
    }

    #[test]
    fn who_differs_says_both_values_until_it_differs_no_more() {
        let (keeper, odd, even) = (node("feed=async"), node("feed=none"), node("feed=async"));
        let judge = |node: &Alike, name: &str| keeper.judge(name, node.digest(), |_| true);
        odd.note(judge(&odd, "n1"));
        even.note(judge(&even, "n2"));
        let words = odd.complaint().unwrap();
        assert!(
            words.contains(r#"cluster.replication_of is "feed=none" here and "feed=async" there"#)
        );
        assert!(!words.contains("lease_ms"), "{words}");
        assert_eq!(even.complaint(), None);
        assert_eq!((odd.odd(), even.odd()), (vec!["n1".to_owned()], vec!["n1".to_owned()]));
        // Started again, as the others are.
        let odd = node("feed=async");
        odd.note(judge(&odd, "n1"));
        even.note(judge(&even, "n2"));
        assert_eq!((odd.complaint(), even.odd()), (None, Vec::new()));
    }

    #[test]
    fn a_node_that_left_is_not_named_any_more() {
        let (keeper, odd) = (node(""), node("feed=none"));
        assert_eq!(keeper.judge("n1", odd.digest(), |_| true).odd, ["n1"]);
        let verdict = keeper.judge("n2", keeper.digest(), |name| name != "n1");
        assert_eq!(verdict, Verdict::default());
    }

    #[test]
    fn a_setting_that_the_other_does_not_know_is_named() {
        let (old, new) = (Common(Vec::new()), Common(vec![("a.b".into(), "1".into())]));
        assert_ne!(old.digest(), new.digest());
        let words = old.differs_from(&new).unwrap();
        assert!(words.ends_with(r#"a.b is unknown here and "1" there"#), "{words}");
    }
}
