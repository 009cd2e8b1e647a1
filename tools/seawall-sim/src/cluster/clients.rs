//! The clients, and the history that they write down.

use super::data::{Answer, Op, key_name};
use super::hub::MS;
use super::random::Random;
use history::{Acknowledgement, Action, Builder, KeyId, Operation};
use std::collections::BTreeMap;

/// How keys and values are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Keys.
    pub keys: u32,
    /// Longest pause of a client between two requests, in microseconds.
    pub think_us: u64,
    /// Reads in a hundred requests.
    pub reads: u64,
    /// Of a hundred reads, those whose value is then replaced.
    pub replaced: u64,
    /// Bytes behind a value, at most.
    pub padding_max: u64,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    /// Its number.
    pub operation: u64,
    pub key: u32,
    pub op: Op,
    pub invoked: u64,
}

/// A client.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The machine that it talks to.
    pub machine: usize,
    pub going: Option<Going>,
    /// What it read last, to be replaced if nobody did so meanwhile.
    read: Option<(u32, u64)>,
}

impl Client {
    /// What it asks next.
    pub fn next(&mut self, random: &mut Random, load: &Load, value: u64) -> (u32, Op) {
        let padding = random.below(load.padding_max + 1) as u16;
        if let Some((key, compare)) = self.read.take().filter(|_| random.percent(load.replaced)) {
            return (key, Op::Cas { value, padding, compare });
        }
        // A quarter of the keys gets most of the requests.
        let hot = u64::from(load.keys / 4).max(1);
        let of = if random.percent(60) { hot } else { u64::from(load.keys) };
        let key = random.below(of) as u32;
        let op = match random.below(100) {
            at if at < load.reads => Op::Get,
            at if at < 92 => Op::Set { value, padding },
            _ => Op::Delete,
        };
        (key, op)
    }

    /// What it makes of an answer.
    pub fn remember(&mut self, going: &Going, answer: Answer) {
        if let Answer::Value(Some((_, cas))) = answer {
            self.read = Some((going.key, cas));
        }
    }
}

/// How long somebody waited for a key.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    /// Since when it was asked for in vain.
    since: Option<u64>,
    longest: u64,
}

/// Writes down what clients saw.
#[derive(Debug, Default)]
pub struct Recorder {
    builder: Builder,
    keys: Vec<KeyId>,
    done: Vec<(u32, Operation)>,
    patience: Vec<Patience>,
    /// By key and CAS unique: stores that replaced it.
    replaced: BTreeMap<(u32, u64), u64>,
    /// Stores that replaced what another one had replaced already.
    pub lost_updates: Vec<String>,
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
}

impl Recorder {
    /// A recorder of so many keys.
    pub fn new(keys: u32) -> Recorder {
        let mut builder = Builder::default();
        let names = (0..keys).map(|key| builder.key(&key_name(key))).collect();
        let patience = vec![Patience::default(); keys as usize];
        Recorder { builder, keys: names, patience, ..Recorder::default() }
    }

    /// An operation ended, well or not.
    pub fn ended(&mut self, client: u32, going: &Going, at: u64, answer: Answer) {
        self.operations += 1;
        let wrote = match going.op {
            Op::Set { value, .. } | Op::Cas { value, .. } => Some(value),
            Op::Get | Op::Delete => None,
        };
        let completed = !matches!(answer, Answer::Unknown | Answer::Refused | Answer::Elsewhere);
        let action = match (answer, wrote) {
            (Answer::Value(Some((value, _))), _) => Action::Hit { value },
            (Answer::Value(None), _) => Action::Miss,
            (Answer::Stored, Some(value)) => Action::write(value),
            (Answer::NotStored | Answer::Refused | Answer::Elsewhere, Some(value)) => {
                Action::Refused { value }
            }
            (Answer::Unknown, Some(value)) => Action::write(value),
            (Answer::Deleted, _) => Action::Delete,
            (Answer::Unknown, None) if going.op == Op::Delete => Action::Delete,
            _ => {
                // A read without an answer, or a delete that was not executed.
                self.refused += 1;
                return self.waited(going.key, going.invoked, at, false);
            }
        };
        let unknown = answer == Answer::Unknown;
        self.unknown += u64::from(unknown);
        self.refused += u64::from(matches!(answer, Answer::Refused | Answer::Elsewhere));
        self.acknowledged += u64::from(matches!(answer, Answer::Stored | Answer::Deleted));
        if let (Answer::Stored, Op::Cas { value, compare, .. }) = (answer, going.op)
            && let Some(before) = self.replaced.insert((going.key, compare), value)
        {
            let key = key_name(going.key);
            let text = format!("lost update: {key}: {before} and {value} replaced the same value");
            self.lost_updates.push(text);
        }
        self.waited(going.key, going.invoked, at, completed);
        let (key, invoked_ns) = (self.keys[going.key as usize], going.invoked * 1_000);
        let completed_ns = (!unknown).then_some(at * 1_000);
        self.done.push((going.key, Operation { client, key, invoked_ns, completed_ns, action }));
    }

    fn waited(&mut self, key: u32, invoked: u64, at: u64, answered: bool) {
        let patience = &mut self.patience[key as usize];
        let since = patience.since.map_or(invoked, |since| since.min(invoked));
        if answered {
            patience.longest = patience.longest.max(at - since);
            patience.since = None;
        } else {
            patience.since = Some(since);
        }
    }

    /// A node acknowledged a write.
    pub fn acknowledge(&mut self, partition: u32, epoch: u32, node: &str, at: u64) {
        let (epoch, at_ns) = (u64::from(epoch), at * 1_000);
        self.builder.acknowledge(Acknowledgement { partition, epoch, node: node.into(), at_ns });
    }

    /// From here on, all is read back.
    pub fn healed(&mut self, at: u64) {
        self.builder.healed(at * 1_000);
    }

    /// By key, the longest time in milliseconds without an answer.
    pub fn unavailable_ms(&self) -> Vec<u64> {
        self.patience.iter().map(|patience| patience.longest / MS).collect()
    }

    /// The history of the keys that `judged` takes.
    pub fn finish(
        mut self,
        judged: impl Fn(u32) -> bool,
    ) -> Result<history::History, history::Malformed> {
        let kept = self.done.into_iter().filter(|(key, _)| judged(*key));
        kept.for_each(|(_, operation)| self.builder.push(operation));
        self.builder.finish()
    }
}
