//! The topology as JSON, for smart clients and for people: what the `topology`
//! command answers.
//!
//! Most of it is the owners, so these are written once per distinct set of
//! copies, and each partition names its set by a fixed number of characters:
//!
//! ```text
//! {"revision":7,"name":"shop","partitions":65536,"copies":2,"seed":"1234",
//!  "nodes":[{"slot":0,"name":"a","address":"10.0.0.1:11211","core_ports":11300,
//!            "cores":4,"zone":"","up":true,"draining":false}],
//!  "sets":[[0,1],[1,0],[1,0,-2],[]],
//!  "width":1,"owners":"AABAC..."}
//!              │
//!              └ partition 2 has set 1: node 1 leads, node 0 has everything too
//! ```
//!
//! In a set the primary comes first; a copy that is still being filled is written
//! as minus its slot minus one, as it cannot be read: `-3` is slot 2. A set's
//! number is in base 64, most significant character first, over `A-Z a-z 0-9 - _`.
//! `seed` is a string because a JSON number of 64 bits is more than many parsers
//! keep.
//!
//! A thousand nodes and 65,536 partitions take some 500 KB.

use crate::topology::{Member, NodeIndex, Owners, Topology};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::fmt::{self, Write};

/// Digits of a set's number.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The topology as JSON.
pub fn json(topology: &Topology) -> String {
    let mut text = String::new();
    write_topology(&mut text, topology).expect("a string takes whatever is written");
    text
}

fn write_topology(to: &mut String, topology: &Topology) -> fmt::Result {
    write!(to, r#"{{"revision":{},"name":{}"#, topology.revision().0, Text(topology.name()))?;
    let partitions = topology.partitions().len();
    write!(to, r#","partitions":{partitions},"copies":{}"#, topology.copies_wanted())?;
    write!(to, r#","seed":"{}","nodes":["#, topology.seed())?;
    for (at, (slot, member)) in topology.nodes().enumerate() {
        to.push_str(if at > 0 { "," } else { "" });
        write_node(to, slot, member)?;
    }
    to.push_str(r#"],"sets":["#);
    let sets = Sets::of(topology);
    for (at, owners) in sets.distinct.iter().enumerate() {
        to.push_str(if at > 0 { "," } else { "" });
        write_set(to, owners)?;
    }
    let width = sets.width();
    write!(to, r#"],"width":{width},"owners":""#)?;
    to.reserve(width * partitions + 2);
    for set in &sets.of_partition {
        to.extend((0..width).rev().map(|digit| char::from(DIGITS[set >> (6 * digit) & 63])));
    }
    to.push_str("\"}");
    Ok(())
}

fn write_node(to: &mut String, slot: NodeIndex, member: &Member) -> fmt::Result {
    let node = &member.node;
    write!(to, r#"{{"slot":{},"name":{}"#, slot.0, Text(&node.name))?;
    write!(to, r#","address":{}"#, Text(&node.client_host_port()))?;
    write!(to, r#","core_ports":{},"cores":{}"#, node.core_ports, node.cores)?;
    write!(to, r#","zone":{}"#, Text(&node.zone))?;
    write!(to, r#","up":{},"draining":{}}}"#, member.up, member.draining)
}

fn write_set(to: &mut String, owners: &Owners) -> fmt::Result {
    to.push('[');
    for (at, node) in owners.copies().iter().enumerate() {
        let slot = i32::from(node.0);
        let number = if owners.is_in_sync(*node) { slot } else { -1 - slot };
        write!(to, "{}{number}", if at > 0 { "," } else { "" })?;
    }
    to.push(']');
    Ok(())
}

/// The distinct sets of copies, in the order of their first partition.
struct Sets {
    distinct: Vec<Owners>,
    of_partition: Vec<usize>,
}

impl Sets {
    fn of(topology: &Topology) -> Sets {
        let mut sets = Sets { distinct: Vec::new(), of_partition: Vec::new() };
        let mut numbers = BTreeMap::new();
        for (_, owners) in topology.partitions() {
            let number = *numbers.entry((owners.copies(), owners.in_sync)).or_insert_with(|| {
                sets.distinct.push(*owners);
                sets.distinct.len() - 1
            });
            sets.of_partition.push(number);
        }
        sets
    }

    /// Digits that number them all.
    fn width(&self) -> usize {
        let last = self.distinct.len().saturating_sub(1);
        let bits = usize::BITS - last.leading_zeros();
        bits.div_ceil(6).max(1) as usize
    }
}

/// A JSON string.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(to, "\\{character}")?,
                '\0'..='\x1f' => write!(to, "\\u{:04x}", u32::from(character))?,
                _ => to.write_char(character)?,
            }
        }
        to.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Command, Step};
    use crate::ring::Partition;
    use crate::topology::{Incarnation, Introduction};
    use serde_json::Value;

    fn topology(nodes: u16) -> Topology {
        let mut topology = Topology::default();
        let name = "a \"shop\"\\\u{1}\n\u{1f41a}".into();
        topology.apply(&Command::Create { name, ring_bits: 8, copies: 2, seed: u64::MAX });
        for at in 0..nodes {
            topology.apply(&Command::Join(Introduction {
                name: alloc::format!("node \"{at}\""),
                incarnation: Incarnation(1),
                client_address: alloc::format!("10.0.0.1:{}", 20_000 + at),
                peer_address: "10.0.0.1:9".into(),
                zone: "\tz".into(),
                weight: 100,
                cores: 4,
                core_ports: 11_300,
            }));
        }
        topology
    }

    fn sets_of(value: &Value) -> Vec<Vec<i64>> {
        let width = value["width"].as_u64().unwrap() as usize;
        let digit = |character: &u8| DIGITS.iter().position(|digit| digit == character).unwrap();
        let number = |set: &[u8]| set.iter().fold(0, |number, at| number * 64 + digit(at));
        let owners = value["owners"].as_str().unwrap().as_bytes().chunks(width);
        let copies =
            |set: &Value| set.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
        owners.map(|owners| copies(&value["sets"][number(owners)])).collect()
    }

    fn check_owners(topology: &Topology, value: &Value) {
        for ((_, owners), set) in topology.partitions().zip(sets_of(value)) {
            let slot = |node: &NodeIndex| i64::from(node.0);
            let expected: Vec<i64> = owners
                .copies()
                .iter()
                .map(|node| if owners.is_in_sync(*node) { slot(node) } else { -1 - slot(node) })
                .collect();
            assert_eq!(set, expected);
        }
    }

    #[test]
    fn a_parser_reads_what_was_written() {
        let mut topology = topology(3);
        let steps = (0..200).flat_map(|at| {
            let node = |add| NodeIndex(((at + add) % 3) as u16);
            [(Partition(at), Step::Add(node(0))), (Partition(at), Step::Add(node(1)))]
        });
        topology.apply(&Command::Steps(steps.collect()));
        topology.apply(&Command::Drain { node: NodeIndex(1), on: true });
        let value: Value = serde_json::from_str(&json(&topology)).unwrap();
        assert_eq!(value["revision"], topology.revision().0);
        assert_eq!(value["name"], topology.name());
        assert_eq!(value["partitions"], 256);
        assert_eq!(value["copies"], 2);
        assert_eq!(value["seed"], "18446744073709551615");
        assert_eq!(value["nodes"].as_array().unwrap().len(), 3);
        assert_eq!(value["nodes"][2]["name"], "node \"2\"");
        assert_eq!(value["nodes"][2]["address"], "10.0.0.1:20002");
        assert_eq!(value["nodes"][1]["zone"], "\tz");
        assert_eq!(value["nodes"][1]["draining"], true);
        assert_eq!(value["nodes"][1]["up"], true);
        assert_eq!(value["nodes"][1]["cores"], 4);
        assert_eq!(value["nodes"][1]["core_ports"], 11_300);
        assert_eq!(sets_of(&value).len(), 256);
        check_owners(&topology, &value);
    }

    #[test]
    fn more_than_64_sets_take_two_digits() {
        let mut topology = topology(100);
        let steps = (0..256).map(|at| (Partition(at), Step::Add(NodeIndex((at % 100) as u16))));
        topology.apply(&Command::Steps(steps.collect()));
        let value: Value = serde_json::from_str(&json(&topology)).unwrap();
        assert_eq!(value["width"], 2);
        check_owners(&topology, &value);
    }

    #[test]
    fn a_node_without_a_cluster_has_nothing_to_show() {
        let value: Value = serde_json::from_str(&json(&Topology::default())).unwrap();
        assert_eq!((&value["revision"], &value["owners"]), (&0.into(), &"".into()));
    }
}
