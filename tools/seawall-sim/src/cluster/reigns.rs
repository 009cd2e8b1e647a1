//! What is promised of a key that is not replicated synchronously, and whether a
//! history keeps it.
//!
//! A *reign* is the time in which one primary answers for a key, from one change
//! that may lose something to the next. Every answer says in which epoch it was
//! executed, so it is known which reign it belongs to. What must hold:
//!
//! - Within a reign the key is one register: a read sees every write that was
//!   acknowledged before it. `history` decides that, for each reign alone.
//! - No reign answers after a later one has.
//! - An *asynchronous* key begins a reign as it was at some moment before: what came
//!   after that is lost, and for good. No later reign may begin with it, and none
//!   begins with two values. A hand-over in order begins none.
//! - What the copies had had ample time to get is not lost.
//! - A key *without replication* begins every reign absent.
//!
//! ```text
//!   reign 1   5  6  7 |          7 was not yet copied: lost
//!   reign 2         6 | 8  9     begins with 6
//!   reign 3         6 | ...      may begin with 5, 6, 8, 9 or absent, not with 7
//! ```

use cluster::replication::Mode;
use history::{Action, Operation};
use std::collections::BTreeMap;

/// The primary of a key's partition changed.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The epoch that began.
    pub epoch: u32,
    /// The one before had handed over, with nothing under way.
    pub in_order: bool,
    /// What had been acknowledged by then, the copies have.
    pub copied_until_ns: u64,
}

/// An operation, and the epoch in which it was executed, if that is known.
#[derive(Clone, Debug)]
pub struct Told {
    pub operation: Operation,
    pub epoch: Option<u32>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Judged {
    /// By reign, a register's history.
    pub reigns: Vec<Vec<Operation>>,
    pub violations: Vec<String>,
    /// Acknowledged writes and deletes that are known to be lost.
    pub lost: u64,
}

/// How many reigns there were up to an epoch, the first not counted.
pub fn reign_of(mode: Mode, changes: &[Change], epoch: u32) -> usize {
    let begins = |change: &&Change| mode == Mode::None || !change.in_order;
    changes.iter().filter(begins).filter(|change| change.epoch <= epoch).count()
}

/// Judges what lies between the reigns of a key, and puts them apart. `gone` are
/// the spans in which something invalidated the key.
pub fn judge(
    name: &str,
    mode: Mode,
    changes: &[Change],
    told: &[Told],
    gone: &[(u64, u64)],
) -> Judged {
    let mut own = Judging::new(mode, changes, told, gone);
    own.look_at_order();
    own.find_heirlooms();
    own.look_at_losses(changes);
    let reigns = (0..own.count).map(|reign| own.of_reign(reign)).collect();
    let violations = own.violations.into_iter().map(|what| format!("{name}: {what}")).collect();
    Judged { reigns, violations, lost: own.lost }
}

/// The write of a value, and where it belongs.
#[derive(Clone, Copy, Debug)]
struct Birth {
    write: usize,
    /// The reign in which it was executed, or was seen first; none if it was never seen
    /// and its outcome is unknown.
    reign: Option<usize>,
    /// The first moment at which it is known to have been there in that reign.
    there_ns: u64,
}

/// With what a reign began, as far as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    Unseen,
    Value(u64),
    /// Absent, as this operation saw.
    Absent(usize),
}

struct Judging<'a> {
    mode: Mode,
    told: &'a [Told],
    gone: &'a [(u64, u64)],
    count: usize,
    /// By operation.
    reign: Vec<Option<usize>>,
    births: BTreeMap<u64, Birth>,
    begins: Vec<Begin>,
    violations: Vec<String>,
    lost: u64,
}

impl<'a> Judging<'a> {
    fn new(
        mode: Mode,
        changes: &[Change],
        told: &'a [Told],
        gone: &'a [(u64, u64)],
    ) -> Judging<'a> {
        let of = |told: &Told| told.epoch.map(|epoch| reign_of(mode, changes, epoch));
        let reign: Vec<Option<usize>> = told.iter().map(of).collect();
        let count = reign_of(mode, changes, u32::MAX) + 1;
        let births = births(told, &reign);
        let begins = vec![Begin::Unseen; count];
        let (violations, lost) = (Vec::new(), 0);
        Judging { mode, told, gone, count, reign, births, begins, violations, lost }
    }

    /// No reign answers after a later one has.
    fn look_at_order(&mut self) {
        let mut first: Vec<Option<usize>> = vec![None; self.count];
        for (at, told) in self.told.iter().enumerate() {
            let Some(reign) = self.reign[at] else { continue };
            let before = first[reign].map(|first| self.told[first].operation.completed_by_ns());
            if before.is_none_or(|before| told.operation.completed_by_ns() < before) {
                first[reign] = Some(at);
            }
        }
        for (at, told) in self.told.iter().enumerate() {
            let Some(reign) = self.reign[at] else { continue };
            let later = first[reign + 1..].iter().flatten().copied();
            let earlier =
                later.filter(|later| self.told[*later].operation.precedes(&told.operation));
            if let Some(later) = earlier.min() {
                let text = "a primary answered after a later one had";
                self.say(text, [later, at]);
                return;
            }
        }
    }

    /// With what each reign began.
    fn find_heirlooms(&mut self) {
        for (read, told) in self.told.iter().enumerate() {
            let (Action::Hit { value }, Some(reign)) = (&told.operation.action, self.reign[read])
            else {
                continue;
            };
            // One that nobody wrote is found elsewhere.
            let Some(Birth { write, reign: Some(born), .. }) = self.births.get(value).copied()
            else {
                continue;
            };
            if born == reign {
                continue;
            }
            if born > reign {
                self.say("read before it was written", [write, read]);
            } else if self.mode == Mode::None {
                self.say("a value without replication outlived its primary", [write, read]);
            } else {
                match self.begins[reign] {
                    Begin::Value(other) if other != *value => {
                        let other = self.births[&other].write;
                        self.say("a primary began with two values", [write, other, read]);
                    }
                    _ => self.begins[reign] = Begin::Value(*value),
                }
            }
        }
        for reign in 1..self.count {
            if self.begins[reign] == Begin::Unseen
                && let Some(miss) = self.first_absent(reign)
            {
                self.begins[reign] = Begin::Absent(miss);
            }
        }
    }

    /// A miss in front of whatever can have been written in a reign.
    fn first_absent(&self, reign: usize) -> Option<usize> {
        let misses = (0..self.told.len()).filter(|at| {
            self.reign[*at] == Some(reign) && self.told[*at].operation.action == Action::Miss
        });
        let miss = misses.min_by_key(|at| self.told[*at].operation.completed_by_ns())?;
        let read = &self.told[miss].operation;
        let may_be_before = |at: usize| {
            let is_write = matches!(self.told[at].operation.action, Action::Write { .. });
            let here = self.reign[at].is_none_or(|own| own == reign);
            is_write && here && !read.precedes(&self.told[at].operation)
        };
        (0..self.told.len()).all(|at| !may_be_before(at)).then_some(miss)
    }

    /// What a reign did not begin with is lost, and for good; and it may be.
    fn look_at_losses(&mut self, changes: &[Change]) {
        if self.mode == Mode::None {
            return;
        }
        let begins = changes.iter().filter(|change| !change.in_order);
        let copied: Vec<u64> = begins.map(|change| change.copied_until_ns).collect();
        for at in 0..self.told.len() {
            let operation = &self.told[at].operation;
            let (value, born) = match operation.action {
                Action::Write { value, .. } => (Some(value), self.births[&value].reign),
                Action::Delete => (None, self.reign[at]),
                _ => continue,
            };
            let Some(born) = born else { continue };
            let lost = (born + 1..self.count).find(|reign| self.is_lost(at, born, *reign));
            let Some(lost) = lost else { continue };
            self.lost += u64::from(operation.completed_ns.is_some());
            if operation.completed_by_ns() < copied[lost - 1] {
                let witness = self.witness(lost);
                self.say("lost though all copies had long had it", [at, witness]);
            }
            let again = (lost + 1..self.count).find(|reign| {
                value.is_some_and(|value| self.begins[*reign] == Begin::Value(value))
            });
            if let Some(again) = again {
                let (gone, back) = (self.witness(lost), self.witness(again));
                self.say("came back after it was lost", [at, gone, back]);
            }
        }
    }

    /// Whether a reign began with something that was there before this write or delete,
    /// which was executed in the reign `born`.
    fn is_lost(&self, at: usize, born: usize, reign: usize) -> bool {
        let change = &self.told[at].operation;
        match self.begins[reign] {
            Begin::Unseen => false,
            Begin::Value(value) => {
                let other = self.births[&value];
                let Some(there) = other.reign else { return false };
                other.write != at
                    && (there < born || there == born && other.there_ns < change.invoked_ns)
            }
            // Something may have made it absent after that.
            Begin::Absent(miss) => {
                let until_ns = self.told[miss].operation.completed_by_ns();
                let after =
                    |from_ns: u64, to_ns: u64| from_ns <= until_ns && to_ns >= change.invoked_ns;
                let absent = |told: &Told| match told.operation.action {
                    Action::Delete => {
                        after(told.operation.invoked_ns, told.operation.completed_by_ns())
                    }
                    Action::Write { ttl_ns: Some(_), .. } => {
                        after(told.operation.invoked_ns, u64::MAX)
                    }
                    _ => false,
                };
                matches!(change.action, Action::Write { .. })
                    && !self.told.iter().any(absent)
                    && !self.gone.iter().any(|(from_ns, to_ns)| after(*from_ns, *to_ns))
            }
        }
    }

    /// Who saw with what a reign began.
    fn witness(&self, reign: usize) -> usize {
        let value = match self.begins[reign] {
            Begin::Absent(miss) => return miss,
            Begin::Value(value) => value,
            Begin::Unseen => 0,
        };
        let sees = |at: &usize| {
            self.reign[*at] == Some(reign)
                && self.told[*at].operation.action == Action::Hit { value }
        };
        (0..self.told.len()).find(sees).unwrap_or_default()
    }

    /// What can have happened in a reign, and the write that it began with.
    fn of_reign(&self, reign: usize) -> Vec<Operation> {
        let heirloom = match self.begins[reign] {
            Begin::Value(value) => Some(self.births[&value].write),
            Begin::Unseen | Begin::Absent(_) => None,
        };
        let is_in = |at: &usize| {
            let own = self.reign[*at];
            own == Some(reign) || own.is_none() || Some(*at) == heirloom
        };
        (0..self.told.len()).filter(is_in).map(|at| self.told[at].operation.clone()).collect()
    }

    fn say<const N: usize>(&mut self, what: &str, evidence: [usize; N]) {
        let mut text = what.to_owned();
        for at in evidence {
            let Told { operation, epoch } = &self.told[at];
            let ms = |ns: u64| ns as f64 / 1e6;
            let until = operation.completed_ns.map_or("?".into(), |ns| format!("{:.3}", ms(ns)));
            let reign = self.reign[at].map_or("?".into(), |reign| reign.to_string());
            text += &format!(
                "\n  client {:<3} {:?}, {:.3} to {until} ms, epoch {epoch:?}, reign {reign}",
                operation.client,
                operation.action,
                ms(operation.invoked_ns),
            );
        }
        self.violations.push(text);
    }
}

/// By value.
fn births(told: &[Told], reign: &[Option<usize>]) -> BTreeMap<u64, Birth> {
    let mut births = BTreeMap::new();
    for (write, told) in told.iter().enumerate() {
        if let Action::Write { value, .. } = told.operation.action {
            let there_ns = told.operation.completed_by_ns();
            births.insert(value, Birth { write, reign: reign[write], there_ns });
        }
    }
    for (read, told) in told.iter().enumerate() {
        let Action::Hit { value } = told.operation.action else { continue };
        let (Some(birth), Some(seen)) = (births.get_mut(&value), reign[read]) else { continue };
        let seen_ns = told.operation.completed_by_ns();
        let is_first = birth.reign.is_none_or(|known| seen < known);
        if reign[birth.write].is_none() && is_first {
            (birth.reign, birth.there_ns) = (Some(seen), seen_ns);
        } else if birth.reign == Some(seen) {
            birth.there_ns = birth.there_ns.min(seen_ns);
        }
    }
    births
}

#[cfg(test)]
mod tests {
    use super::*;
    use history::Builder;

    /// Operations of one client after another, ten nanoseconds each: the epoch, and what
    /// was done.
    fn told(all: &[(u32, Action)]) -> Vec<Told> {
        let key = Builder::default().key("k");
        let at = |(at, (epoch, action)): (usize, &(u32, Action))| {
            let invoked_ns = 20 * at as u64;
            let completed_ns = (*epoch > 0).then_some(invoked_ns + 10);
            let action = action.clone();
            let operation = Operation { client: 1, key, invoked_ns, completed_ns, action };
            Told { operation, epoch: (*epoch > 0).then_some(*epoch) }
        };
        all.iter().enumerate().map(at).collect()
    }

    fn write(value: u64) -> Action {
        Action::write(value)
    }

    fn hit(value: u64) -> Action {
        Action::Hit { value }
    }

    /// Epochs 1, 2 and so on, each begun by a death.
    fn deaths(copied_until_ns: u64) -> Vec<Change> {
        (1..6).map(|epoch| Change { epoch, in_order: false, copied_until_ns }).collect()
    }

    fn judged(mode: Mode, changes: &[Change], all: &[(u32, Action)]) -> Judged {
        judge("k", mode, changes, &told(all), &[])
    }

    fn assert_says(judged: &Judged, what: &str) {
        let [text] = &judged.violations[..] else { panic!("{:?}", judged.violations) };
        assert!(text.contains(what), "{text}");
    }

    #[test]
    fn an_older_value_may_come_back_with_another_primary() {
        let all = [(1, write(5)), (1, write(6)), (1, write(7)), (2, hit(6)), (2, write(8))];
        let judged = judged(Mode::Async, &deaths(0), &all);
        assert_eq!((judged.violations.len(), judged.lost), (0, 1));
        let writes = |reign: usize| {
            let all = judged.reigns[reign].iter().map(|operation| &operation.action);
            all.filter(|action| matches!(action, Action::Write { .. })).cloned().collect::<Vec<_>>()
        };
        assert_eq!(writes(1), [write(5), write(6), write(7)]);
        assert_eq!(writes(2), [write(6), write(8)], "with what it began, and its own");
    }

    #[test]
    fn what_was_lost_stays_lost() {
        let lost = [(1, write(6)), (1, write(7)), (2, hit(6)), (3, hit(7))];
        assert_says(&judged(Mode::Async, &deaths(0), &lost), "came back after it was lost");
        let absent = [(1, write(7)), (2, Action::Miss), (3, hit(7))];
        assert_says(&judged(Mode::Async, &deaths(0), &absent), "came back after it was lost");
        // A delete may have made it absent, and be lost itself.
        let deleted = [(1, write(7)), (1, Action::Delete), (2, Action::Miss), (3, hit(7))];
        assert!(judged(Mode::Async, &deaths(0), &deleted).violations.is_empty());
        // Nobody saw with what the second began.
        let unseen = [(1, write(6)), (1, write(7)), (2, write(8)), (3, hit(7))];
        assert!(judged(Mode::Async, &deaths(0), &unseen).violations.is_empty());
    }

    #[test]
    fn a_primary_begins_with_one_value() {
        let all = [(1, write(6)), (1, write(7)), (2, hit(6)), (2, hit(7))];
        assert_says(&judged(Mode::Async, &deaths(0), &all), "began with two values");
    }

    #[test]
    fn a_past_primary_answers_no_more() {
        let all = [(1, write(6)), (2, hit(6)), (1, hit(6))];
        assert_says(&judged(Mode::Async, &deaths(0), &all), "after a later one had");
    }

    #[test]
    fn what_the_copies_had_is_not_lost() {
        let all = [(1, write(6)), (1, write(7)), (2, hit(6))];
        assert_says(&judged(Mode::Async, &deaths(100), &all), "all copies had long had it");
        let all = [(1, write(6)), (1, Action::Delete), (2, hit(6))];
        assert_says(&judged(Mode::Async, &deaths(100), &all), "all copies had long had it");
        let all = [(1, write(6)), (2, Action::Miss)];
        assert_says(&judged(Mode::Async, &deaths(100), &all), "all copies had long had it");
    }

    #[test]
    fn a_hand_over_in_order_loses_nothing() {
        let mut changes = deaths(0);
        changes[1].in_order = true;
        let all = [(1, write(6)), (1, write(7)), (2, hit(6))];
        let judged = judged(Mode::Async, &changes, &all);
        assert!(judged.violations.is_empty());
        assert_eq!(judged.reigns[1].len(), 3, "it is one register, in which this may not be");
    }

    #[test]
    fn without_replication_all_is_gone_with_the_primary() {
        let mut changes = deaths(0);
        changes[1].in_order = true;
        let all = [(1, write(6)), (2, hit(6))];
        assert_says(&judged(Mode::None, &changes, &all), "outlived its primary");
        let all = [(1, write(6)), (2, Action::Miss), (2, write(7)), (2, hit(7))];
        let judged = judged(Mode::None, &changes, &all);
        assert!(judged.violations.is_empty());
        assert_eq!(judged.reigns[2].len(), 3);
    }

    #[test]
    fn a_write_of_unknown_outcome_belongs_where_it_was_seen_first() {
        let all =
            [(1, write(6)), (0, write(7)), (1, hit(7)), (2, hit(7)), (3, hit(6)), (4, hit(7))];
        assert_says(&judged(Mode::Async, &deaths(0), &all), "came back after it was lost");
        assert_says(&judged(Mode::None, &deaths(0), &all[1..4]), "outlived its primary");
    }
}
