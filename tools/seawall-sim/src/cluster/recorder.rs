//! The history that clients write down.

use super::clients::{Ask, Going, Target};
use super::data::{Answer, NAMESPACE, Op, Store, TAGS, key_name};
use super::hub::MS;
use history::{
    Acknowledgement, Action, Builder, Invalidation, KeyId, Operation, Scope, Settings, TagId,
};
use std::collections::BTreeMap;

/// How long somebody waited for a key.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    /// Since when it was asked for in vain.
    since: Option<u64>,
    longest: u64,
}

/// With this slack and less, all clocks of day are one.
pub const EXACT_US: u64 = 2 * MS;

/// An invalidation that ended.
#[derive(Clone, Copy, Debug)]
struct Swept {
    target: Target,
    invoked: u64,
    ended: u64,
    /// It was acknowledged.
    sure: bool,
}

/// So long after an invalidation of unknown outcome was given up, its words may
/// still be under way.
const LATE_WORDS: u64 = 2_000 * MS;

/// Writes down what clients saw.
#[derive(Debug, Default)]
pub struct Recorder {
    builder: Builder,
    keys: Vec<KeyId>,
    done: Vec<(u32, Operation)>,
    patience: Vec<Patience>,
    tags: Vec<TagId>,
    swept: Vec<Swept>,
    /// How early or late a value may expire, in microseconds.
    pub expiry_slack: u64,
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
    /// A recorder of so many keys, whose values expire so early or late.
    pub fn new(keys: u32, expiry_slack: u64) -> Recorder {
        let mut builder = Builder::default();
        let names = (0..keys).map(|key| builder.key(&key_name(key))).collect();
        let patience = vec![Patience::default(); keys as usize];
        let tags = (1..=TAGS).map(|tag| builder.tag(&format!("tag {tag}"))).collect();
        Recorder { builder, keys: names, patience, tags, expiry_slack, ..Recorder::default() }
    }

    /// An operation ended, well or not.
    pub fn ended(&mut self, client: u32, going: &Going, at: u64, answer: Answer) {
        self.operations += 1;
        match going.ask {
            Ask::Key(key, op) => self.asked(client, key, op, going.invoked, at, answer),
            Ask::Invalidate(target) => self.swept(client, target, going.invoked, at, answer),
        }
    }

    fn swept(&mut self, client: u32, target: Target, invoked: u64, ended: u64, answer: Answer) {
        let sure = match answer {
            Answer::Invalidated => true,
            Answer::Unknown => false,
            // Nobody was there.
            _ => return,
        };
        self.swept.push(Swept { target, invoked, ended, sure });
        let scope = match target {
            Target::Tag(tag) => Scope::Tag(self.tags[usize::from(tag - 1)]),
            Target::Namespace => Scope::Namespace(NAMESPACE.into()),
            Target::All => Scope::All,
        };
        let (invoked_ns, completed_ns) = (invoked * 1_000, sure.then_some(ended * 1_000));
        self.builder.invalidate(Invalidation { client, scope, invoked_ns, completed_ns });
    }

    fn asked(&mut self, client: u32, key: u32, op: Op, invoked: u64, at: u64, answer: Answer) {
        let wrote = match op {
            Op::Set(store) | Op::Cas { store, .. } => Some(store),
            Op::Get | Op::Delete => None,
        };
        let completed = !matches!(answer, Answer::Unknown | Answer::Refused | Answer::Elsewhere);
        let action = match (answer, wrote) {
            (Answer::Value(Some((value, _))), _) => Action::Hit { value },
            (Answer::Value(None), _) => Action::Miss,
            (Answer::Stored | Answer::Unknown, Some(store)) => self.write(store),
            (Answer::NotStored | Answer::Refused | Answer::Elsewhere, Some(store)) => {
                Action::Refused { value: store.value }
            }
            (Answer::Deleted, _) => Action::Delete,
            (Answer::Unknown, None) if op == Op::Delete => Action::Delete,
            _ => {
                // A read without an answer, or a delete that was not executed.
                self.refused += 1;
                return self.waited(key, invoked, at, false);
            }
        };
        let unknown = answer == Answer::Unknown;
        self.unknown += u64::from(unknown);
        self.refused += u64::from(matches!(answer, Answer::Refused | Answer::Elsewhere));
        self.acknowledged += u64::from(matches!(answer, Answer::Stored | Answer::Deleted));
        if let (Answer::Stored, Op::Cas { store, compare }) = (answer, op)
            && let Some(before) = self.replaced.insert((key, compare), store.value)
        {
            let (key, value) = (key_name(key), store.value);
            let text = format!("lost update: {key}: {before} and {value} replaced the same value");
            self.lost_updates.push(text);
        }
        self.waited(key, invoked, at, completed);
        let (id, invoked_ns) = (self.keys[key as usize], invoked * 1_000);
        let completed_ns = (!unknown).then_some(at * 1_000);
        self.done.push((key, Operation { client, key: id, invoked_ns, completed_ns, action }));
    }

    fn write(&self, store: Store) -> Action {
        let ttl_ns = (store.ttl_ms > 0).then_some(u64::from(store.ttl_ms) * MS * 1_000);
        let tag = usize::from(store.tag).checked_sub(1).map(|at| self.tags[at]);
        Action::Write { value: store.value, ttl_ns, tags: tag.into_iter().collect() }
    }

    /// From now on the key may be gone, for it was lost. What was there before may
    /// still be seen, but not after somebody saw that it is not.
    pub fn lost(&mut self, key: u32, at: u64) {
        let (client, action) = (u32::MAX, Action::Delete);
        let (key_id, invoked_ns) = (self.keys[key as usize], at * 1_000);
        let lost = Operation { client, key: key_id, invoked_ns, completed_ns: None, action };
        self.done.push((key, lost));
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

    /// Invalidations, and those of unknown outcome.
    pub fn invalidations(&self) -> (u64, u64) {
        let unsure = self.swept.iter().filter(|swept| !swept.sure).count();
        (self.swept.len() as u64, unsure as u64)
    }

    /// Spans in which an invalidation holds on some nodes and not on others, if it
    /// was not acknowledged: until one that covers as much is.
    pub fn unsure(&self) -> Vec<(u64, u64)> {
        let unsure = self.swept.iter().filter(|swept| !swept.sure);
        let span = |unsure: &Swept| {
            let later = self.swept.iter().filter(|later| {
                let after = later.invoked >= unsure.ended + LATE_WORDS;
                later.sure && after && later.target.settles(unsure.target)
            });
            (unsure.invoked, later.map(|later| later.ended).min().unwrap_or(u64::MAX))
        };
        unsure.map(span).collect()
    }

    /// How strictly to judge.
    pub fn settings(&self) -> Settings {
        Settings { expiry_slack_ns: self.expiry_slack * 1_000, ..Settings::default() }
    }

    /// The history. Misses and deletes prove nothing
    /// where one node may see what another one does not: while it is not known whether
    /// something was invalidated, and where clocks of day differ, around the
    /// moment at which a value expires.
    pub fn finish(mut self) -> Result<history::History, history::Malformed> {
        let mut spans: Vec<(Option<KeyId>, u64, u64)> = Vec::new();
        for (from, to) in self.unsure() {
            spans.push((None, from * 1_000, to.saturating_mul(1_000)));
        }
        let slack_ns = self.expiry_slack * 1_000;
        for (_, operation) in &self.done {
            if let Action::Write { ttl_ns: Some(ttl_ns), .. } = operation.action {
                let from = (operation.invoked_ns + ttl_ns).saturating_sub(slack_ns);
                let to = operation.completed_by_ns().saturating_add(ttl_ns + slack_ns);
                // Where all clocks are one, it is gone for all at once.
                if slack_ns > EXACT_US * 1_000 {
                    spans.push((Some(operation.key), from, to));
                }
            }
        }
        let in_question = |operation: &Operation| {
            spans.iter().any(|(key, from, to)| {
                key.is_none_or(|key| key == operation.key)
                    && operation.invoked_ns <= *to
                    && operation.completed_by_ns() >= *from
            })
        };
        for (_, mut operation) in self.done {
            match operation.action {
                Action::Miss if in_question(&operation) => continue,
                // One that found nothing leaves what others still see.
                Action::Delete if in_question(&operation) => operation.completed_ns = None,
                _ => {}
            }
            self.builder.push(operation);
        }
        self.builder.finish()
    }
}
