//! The history that clients write down.

use super::clients::{Ask, Going, Target};
use super::data::{Answer, Op, Store, TAGS};
use super::hub::MS;
use super::keys::Keys;
use super::reigns::{self, Change, Told};
use cluster::replication::Mode;
use history::{
    Acknowledgement, Action, Builder, History, Invalidation, KeyId, Malformed, Operation, Scope,
    Settings, TagId,
};
use std::collections::BTreeMap;
use std::sync::Arc;

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
#[derive(Debug)]
pub struct Recorder {
    builder: Builder,
    keys: Arc<Keys>,
    ids: Vec<KeyId>,
    done: Vec<(u32, Told)>,
    /// By key, changes of its primary, if it is not replicated synchronously.
    changes: BTreeMap<u32, Vec<Change>>,
    patience: Vec<Patience>,
    tags: Vec<TagId>,
    swept: Vec<Swept>,
    /// How early or late a value may expire, in microseconds.
    pub expiry_slack: u64,
    /// By key, reign and CAS unique: stores that replaced it.
    replaced: BTreeMap<(u32, usize, u64), u64>,
    /// Stores that replaced what another one had replaced already.
    lost_updates: Vec<String>,
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
}

impl Recorder {
    /// A recorder of these keys, whose values expire so early or late.
    pub fn new(keys: Arc<Keys>, expiry_slack: u64) -> Recorder {
        let mut builder = Builder::default();
        let ids: Vec<KeyId> = keys.names().map(|name| builder.key(name)).collect();
        Recorder {
            patience: vec![Patience::default(); ids.len()],
            tags: (1..=TAGS).map(|tag| builder.tag(&format!("tag {tag}"))).collect(),
            builder,
            keys,
            ids,
            done: Vec::new(),
            changes: BTreeMap::new(),
            swept: Vec::new(),
            expiry_slack,
            replaced: BTreeMap::new(),
            lost_updates: Vec::new(),
            operations: 0,
            acknowledged: 0,
            unknown: 0,
            refused: 0,
        }
    }

    /// An operation ended, well or not. It was executed in that epoch, if at all.
    pub fn ended(&mut self, client: u32, going: &Going, at: u64, answer: Answer, epoch: u32) {
        self.operations += 1;
        match going.ask {
            Ask::Key(key, op) => self.asked(client, key, op, going.invoked, at, answer, epoch),
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
            Target::Namespace(name) => Scope::Namespace(name.into()),
            Target::All => Scope::All,
        };
        let (invoked_ns, completed_ns) = (invoked * 1_000, sure.then_some(ended * 1_000));
        self.builder.invalidate(Invalidation { client, scope, invoked_ns, completed_ns });
    }

    fn asked(
        &mut self,
        client: u32,
        key: u32,
        op: Op,
        invoked: u64,
        at: u64,
        answer: Answer,
        epoch: u32,
    ) {
        let wrote = match op {
            Op::Set(store) | Op::Cas { store, .. } => Some(store),
            Op::Get | Op::Delete => None,
        };
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
            && let reign = self.reign_of(key, epoch)
            && let Some(before) = self.replaced.insert((key, reign, compare), store.value)
        {
            let (key, value) = (self.keys.name(key), store.value);
            let text = format!("lost update: {key}: {before} and {value} replaced the same value");
            self.lost_updates.push(text);
        }
        self.waited(key, invoked, at, answer.is_known());
        let (id, invoked_ns) = (self.ids[key as usize], invoked * 1_000);
        let completed_ns = (!unknown).then_some(at * 1_000);
        let operation = Operation { client, key: id, invoked_ns, completed_ns, action };
        let epoch = answer.is_known().then_some(epoch);
        self.done.push((key, Told { operation, epoch }));
    }

    fn write(&self, store: Store) -> Action {
        let ttl_ns = (store.ttl_ms > 0).then_some(u64::from(store.ttl_ms) * MS * 1_000);
        let tag = usize::from(store.tag).checked_sub(1).map(|at| self.tags[at]);
        Action::Write { value: store.value, ttl_ns, tags: tag.into_iter().collect() }
    }

    /// From now on the key may be gone, for it was lost. What was there before may
    /// still be seen, but not after somebody saw that it is not.
    pub fn lost(&mut self, key: u32, at: u64) {
        if self.keys.mode(key) != Mode::Sync {
            // Its reign ends.
            return;
        }
        let (client, action) = (u32::MAX, Action::Delete);
        let (key_id, invoked_ns) = (self.ids[key as usize], at * 1_000);
        let lost = Operation { client, key: key_id, invoked_ns, completed_ns: None, action };
        self.done.push((key, Told { operation: lost, epoch: None }));
    }

    /// Another epoch began for a key.
    pub fn changed(&mut self, key: u32, change: Change) {
        if self.keys.mode(key) != Mode::Sync {
            self.changes.entry(key).or_default().push(change);
        }
    }

    fn reign_of(&self, key: u32, epoch: u32) -> usize {
        let changes = self.changes.get(&key).map_or(&[][..], Vec::as_slice);
        reigns::reign_of(self.keys.mode(key), changes, epoch)
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

    fn covers(&self, target: Target, key: u32) -> bool {
        match target {
            Target::Namespace(name) => self.keys.namespace(key) == name,
            Target::Tag(_) | Target::All => true,
        }
    }

    /// Spans in which an invalidation of a key holds on some nodes and not on others,
    /// if it was not acknowledged: until one that covers as much is.
    pub fn unsure(&self, key: u32) -> Vec<(u64, u64)> {
        let own = self.swept.iter().filter(|swept| self.covers(swept.target, key));
        let span = |unsure: &Swept| {
            let later = own.clone().filter(|later| {
                let after = later.invoked >= unsure.ended + LATE_WORDS;
                let tags_only = matches!(later.target, Target::Tag(_));
                later.sure && after && (!tags_only || later.target == unsure.target)
            });
            (unsure.invoked, later.map(|later| later.ended).min().unwrap_or(u64::MAX))
        };
        own.clone().filter(|swept| !swept.sure).map(span).collect()
    }

    /// How strictly to judge.
    pub fn settings(&self) -> Settings {
        Settings { expiry_slack_ns: self.expiry_slack * 1_000, ..Settings::default() }
    }

    /// The history, what is violated of it by other rules than those of a register, and
    /// how many acknowledged writes are known to be lost.
    pub fn finish(mut self) -> (Result<History, Malformed>, Vec<String>, u64) {
        let (mut violations, mut lost) = (std::mem::take(&mut self.lost_updates), 0);
        let mut by_key: Vec<Vec<Told>> = vec![Vec::new(); self.ids.len()];
        for (key, told) in std::mem::take(&mut self.done) {
            by_key[key as usize].push(told);
        }
        for (key, told) in by_key.into_iter().enumerate() {
            let told = self.without_questions(key as u32, told);
            if self.keys.mode(key as u32) == Mode::Sync {
                told.into_iter().for_each(|told| self.builder.push(told.operation));
                continue;
            }
            let judged = self.judge_reigns(key as u32, &told);
            violations.extend(judged.violations);
            lost += judged.lost;
            for (reign, operations) in judged.reigns.into_iter().enumerate() {
                let name = format!("{} in reign {reign}", self.keys.name(key as u32));
                let key = self.builder.key(&name);
                for operation in operations {
                    self.builder.push(Operation { key, ..operation });
                }
            }
        }
        (self.builder.finish(), violations, lost)
    }

    fn judge_reigns(&self, key: u32, told: &[Told]) -> reigns::Judged {
        let changes = self.changes.get(&key).map_or(&[][..], Vec::as_slice);
        let gone = self.swept.iter().filter(|swept| self.covers(swept.target, key));
        let until = |swept: &Swept| if swept.sure { swept.ended * 1_000 } else { u64::MAX };
        let gone: Vec<(u64, u64)> =
            gone.map(|swept| (swept.invoked * 1_000, until(swept))).collect();
        reigns::judge(self.keys.name(key), self.keys.mode(key), changes, told, &gone)
    }

    /// Misses and deletes prove nothing where one node may see what another one does
    /// not: while it is not known whether something was invalidated, and where clocks
    /// of day differ, around the moment at which a value expires.
    fn without_questions(&self, key: u32, mut told: Vec<Told>) -> Vec<Told> {
        let unsure = self.unsure(key).into_iter();
        let mut spans: Vec<(u64, u64)> =
            unsure.map(|(from, to)| (from * 1_000, to.saturating_mul(1_000))).collect();
        let slack_ns = self.expiry_slack * 1_000;
        for Told { operation, .. } in &told {
            if let Action::Write { ttl_ns: Some(ttl_ns), .. } = operation.action {
                let from = (operation.invoked_ns + ttl_ns).saturating_sub(slack_ns);
                let to = operation.completed_by_ns().saturating_add(ttl_ns + slack_ns);
                // Where all clocks are one, it is gone for all at once.
                if slack_ns > EXACT_US * 1_000 {
                    spans.push((from, to));
                }
            }
        }
        let in_question = |operation: &Operation| {
            let (invoked_ns, completed_by_ns) = (operation.invoked_ns, operation.completed_by_ns());
            spans.iter().any(|(from, to)| invoked_ns <= *to && completed_by_ns >= *from)
        };
        told.retain(|told| told.operation.action != Action::Miss || !in_question(&told.operation));
        for Told { operation, .. } in &mut told {
            // One that found nothing leaves what others still see.
            if operation.action == Action::Delete && in_question(operation) {
                operation.completed_ns = None;
            }
        }
        told
    }
}
