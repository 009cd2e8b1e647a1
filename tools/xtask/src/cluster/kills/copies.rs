//! Which nodes had a copy of a partition when a node was killed, and so why a write
//! is gone.
//!
//! The nodes are asked for the topology some twenty times a second. A kill takes a
//! node's copies at once, whatever the topology still says: of that node it is believed
//! again when it has noticed the death.

use std::collections::BTreeMap;

use serde_json::Value;

use super::clients::Loss;

/// By so much a note of ours may be late.
const SLACK_NS: u64 = 100_000_000;

/// Why an acknowledged write is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The last in-sync copy was killed; the other one had been killed before, and was
    /// not filled again.
    NotFilled,
    /// The last in-sync copy was killed; another node lived, and had been left out.
    LeftOut,
    /// The last in-sync copy was killed; no other node had one.
    OneCopy,
    /// A copy was in sync when the other was killed, or nobody was killed.
    Unexplained,
}

impl Why {
    pub const ALL: [Why; 4] = [Why::NotFilled, Why::LeftOut, Why::OneCopy, Why::Unexplained];

    /// The head of its column.
    pub fn name(self) -> &'static str {
        match self {
            Why::NotFilled => "lost, both copies killed",
            Why::LeftOut => "lost, other copy left out",
            Why::OneCopy => "lost, one copy",
            Why::Unexplained => "lost, unexplained",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Why::NotFilled => {
                "both were killed, one after the other, before the first was filled again"
            }
            Why::LeftOut => "the other copy lived, but had been left out of the in-sync set",
            Why::OneCopy => "no other node held the partition",
            Why::Unexplained => "an in-sync copy lived",
        }
    }
}

/// One partition, by node numbers as bits.
#[derive(Clone, Copy, Debug, Default)]
struct Copies {
    held: u32,
    in_sync: u32,
    /// Killed; the topology has not said so yet.
    doubted: u32,
    /// Left the in-sync set, and was not killed.
    left_out: u32,
}

/// One kill.
#[derive(Debug)]
struct Kill {
    at_ns: u64,
    /// By partition, what it did.
    took: Vec<Option<Why>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    revision: u64,
    seed: u64,
    /// Nodes by name, and their numbers.
    slots: BTreeMap<String, usize>,
    partitions: Vec<Copies>,
    kills: Vec<Kill>,
    /// Times that a living node was left out, in copies.
    pub left_out: u64,
}

impl Book {
    /// A node's answer to `topology`.
    pub fn look(&mut self, topology: &Value) -> Option<()> {
        let revision = topology["revision"].as_u64()?;
        if revision <= self.revision {
            return Some(());
        }
        let sets = topology["sets"].as_array()?;
        let (width, owners) = (topology["width"].as_u64()? as usize, topology["owners"].as_str()?);
        self.seed = topology["seed"].as_str()?.parse().ok()?;
        self.revision = revision;
        self.partitions.resize(topology["partitions"].as_u64()? as usize, Copies::default());
        for node in topology["nodes"].as_array()? {
            let slot = node["slot"].as_u64()? as usize;
            self.slots.insert(node["name"].as_str()?.to_owned(), slot);
        }
        let set = |digits: &[u8]| {
            let number = digits.iter().try_fold(0, |sum, digit| Some(sum * 64 + value(*digit)?))?;
            let (mut held, mut in_sync) = (0u32, 0u32);
            for copy in sets.get(number)?.as_array()? {
                let slot = copy.as_i64()?;
                held |= 1 << if slot < 0 { -1 - slot } else { slot };
                in_sync |= if slot < 0 { 0 } else { 1 << slot };
            }
            Some((held, in_sync))
        };
        let said: Option<Vec<_>> = owners.as_bytes().chunks(width).map(set).collect();
        let said = said?;
        self.believe(&said);
        for (at, (held, in_sync)) in said.into_iter().enumerate() {
            let copies = &mut self.partitions[at];
            let left = copies.now(held, in_sync);
            self.left_out += u64::from(left);
            // Only its primary leaves a copy out, and that was before it was killed.
            if left > 0
                && copies.in_sync == 0
                && let Some(kill) = self.kills.last_mut()
            {
                kill.took[at] = Some(Why::LeftOut);
            }
        }
        Some(())
    }

    /// A death is noticed when most of what the node had is said to be gone.
    fn believe(&mut self, said: &[(u32, u32)]) {
        for node in self.slots.values().map(|slot| 1 << slot) {
            let doubted = || {
                let both = self.partitions.iter().zip(said);
                both.filter(move |(copies, _)| copies.doubted & node != 0)
            };
            let still = doubted().filter(|(_, (_, in_sync))| in_sync & node != 0).count();
            if 2 * still <= doubted().count() {
                self.partitions.iter_mut().for_each(|copies| copies.doubted &= !node);
            }
        }
    }

    /// A node was killed just now.
    pub fn killed(&mut self, name: &str, at_ns: u64) {
        let Some(node) = self.slots.get(name).copied() else { return };
        let took = self.partitions.iter_mut().map(|copies| copies.killed(node)).collect();
        self.kills.push(Kill { at_ns, took });
    }

    /// Why a write is gone, and the kill that took it.
    pub fn explain(&self, loss: &Loss) -> (Why, Option<usize>) {
        let seed = engine::HashSeed::new(self.seed);
        let hash = engine::KeyHash::of(loss.key.as_bytes(), &seed);
        let partition = hash.partition(self.partitions.len().trailing_zeros()) as usize;
        let between = |kill: &Kill| {
            kill.at_ns + SLACK_NS >= loss.acknowledged_ns && kill.at_ns <= loss.noticed_ns
        };
        let mut kills = self.kills.iter().enumerate().filter(|(_, kill)| between(kill));
        let cause = kills.find_map(|(at, kill)| Some(((*kill.took.get(partition)?)?, at)));
        cause.map_or((Why::Unexplained, None), |(why, at)| (why, Some(at)))
    }
}

impl Copies {
    /// What the topology says now; how many living nodes it leaves out.
    fn now(&mut self, held: u32, in_sync: u32) -> u32 {
        let in_sync = in_sync & !self.doubted;
        // Those that were killed are not in it here any more.
        let left = self.in_sync & !in_sync & held;
        self.left_out = (self.left_out | left) & held & !in_sync;
        (self.held, self.in_sync) = (held, in_sync);
        left.count_ones()
    }

    fn killed(&mut self, node: usize) -> Option<Why> {
        let node = 1 << node;
        let had = self.in_sync & node != 0;
        self.doubted |= self.in_sync & node;
        self.in_sync &= !node;
        self.left_out &= !node;
        if !had || self.in_sync != 0 {
            return None;
        }
        Some(match self.held & !node {
            0 => Why::OneCopy,
            others if others & self.left_out != 0 => Why::LeftOut,
            _ => Why::NotFilled,
        })
    }
}

fn value(digit: u8) -> Option<usize> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    } as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One partition that nodes hold as this set says.
    fn says(book: &mut Book, revision: u64, set: &[i64]) {
        let node = |slot: u64| json!({ "slot": slot, "name": format!("node{slot}") });
        let nodes: Vec<Value> = (0..3).map(node).collect();
        let topology = json!({ "revision": revision, "partitions": 1, "seed": "7", "nodes": nodes,
            "sets": [set], "width": 1, "owners": "A" });
        book.look(&topology).unwrap();
    }

    fn why(book: &Book) -> Why {
        let key = "any".to_owned();
        book.explain(&Loss { key, acknowledged_ns: 1_000_000_000, noticed_ns: u64::MAX }).0
    }

    #[test]
    fn the_second_kill_before_the_first_is_filled_takes_both() {
        let mut book = Book::default();
        says(&mut book, 1, &[0, 1]);
        book.killed("node0", 2_000_000_000);
        assert_eq!(why(&book), Why::Unexplained);
        // What is said of the killed one is older than its death.
        says(&mut book, 2, &[1, 0]);
        book.killed("node1", 3_000_000_000);
        assert_eq!(why(&book), Why::NotFilled);
        assert_eq!(book.left_out, 0);
    }

    #[test]
    fn a_node_that_was_filled_again_has_a_copy() {
        let mut book = Book::default();
        says(&mut book, 1, &[0, 1]);
        book.killed("node0", 2_000_000_000);
        says(&mut book, 2, &[1, -1]);
        says(&mut book, 3, &[1, 0]);
        book.killed("node1", 3_000_000_000);
        assert_eq!(why(&book), Why::Unexplained);
    }

    #[test]
    fn a_living_node_that_was_left_out_is_told_from_one_that_was_killed() {
        let mut book = Book::default();
        says(&mut book, 1, &[0, 1]);
        says(&mut book, 2, &[0, -2]);
        assert_eq!(book.left_out, 1);
        book.killed("node0", 2_000_000_000);
        assert_eq!(why(&book), Why::LeftOut);
    }

    #[test]
    fn a_copy_that_was_left_out_just_before_the_kill_is_known_from_the_survivors() {
        let mut book = Book::default();
        says(&mut book, 1, &[0, 1]);
        book.killed("node0", 2_000_000_000);
        says(&mut book, 2, &[0, -2]);
        assert_eq!(why(&book), Why::LeftOut);
    }
}
