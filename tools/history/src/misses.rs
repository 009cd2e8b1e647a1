//! Whether every miss has a reason.
//!
//! "Absent" is the one value that many operations write, so it has no cluster.
//! But where it can be is known: in the *gaps* between forward zones (see
//! `zones`). What remains is to give a moment of some gap to every miss, to
//! every value of a backward zone and to every delete, such that between the
//! last value before a miss and the miss there is a delete. A sweep over time
//! decides that; it is exact because being lazy never hurts:
//!
//! - A value waits until its zone ends, or a delete happens: then it comes just
//!   before, at no cost. With it come all others that have begun.
//! - While the key is absent, a miss costs nothing: it is dealt with at once.
//! - A delete is kept until it must happen, at its end, or until a miss that
//!   ends needs one: then of those at hand the one that ends first.
//! - So after each delete the key is absent with the fewest debts, and absence
//!   beats presence: whatever can follow presence can follow absence as well.
//!
//! Deletes of unknown outcome never must happen. Expiry and invalidations count
//! as such deletes, from the moment at which they can have taken effect.

use crate::Settings;
use crate::history::KeyHistory;
use crate::operation::{Action, Operation};
use crate::violation::{Check, Evidence, Reason, Violation};
use crate::zones::{Zone, Zones};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Fails at the first miss without a reason. The zones must fit together.
pub(crate) fn explained(
    history: &KeyHistory<'_>,
    zones: &Zones,
    settings: &Settings,
) -> Result<(), Violation> {
    if zones.misses.is_empty() {
        return Ok(());
    }
    let deletes = deletes(history, settings);
    let events = events(zones, &deletes);
    let mut sweep = Sweep::new(zones, &deletes);
    for event in events {
        sweep.step(event).map_err(|miss| unexplained(history, zones, &sweep, miss))?;
    }
    Ok(())
}

/// Something that makes the key absent, at one moment of its span.
#[derive(Debug)]
struct Delete {
    from_ns: u64,
    to_ns: u64,
}

/// Deletes, certain or possible.
fn deletes(history: &KeyHistory<'_>, settings: &Settings) -> Vec<Delete> {
    let mut deletes = Vec::new();
    for operation in history.operations {
        match operation.action {
            Action::Delete => deletes
                .push(Delete { from_ns: operation.invoked_ns, to_ns: operation.completed_by_ns() }),
            Action::Write { ttl_ns: Some(ttl_ns), .. } => {
                let from_ns = expires_from_ns(operation, ttl_ns, settings);
                deletes.push(Delete { from_ns, to_ns: u64::MAX });
            }
            _ => {}
        }
    }
    deletes.extend(history.invalidations.iter().map(|invalidation| Delete {
        from_ns: invalidation.invoked_ns,
        to_ns: invalidation.completed_by_ns(),
    }));
    deletes
}

/// The earliest moment at which what `write` wrote may expire.
pub(crate) fn expires_from_ns(write: &Operation, ttl_ns: u64, settings: &Settings) -> u64 {
    let shortest_ns = ttl_ns.saturating_sub(settings.expiry_slack_ns);
    write.invoked_ns.saturating_add(shortest_ns)
}

/// What the sweep meets, in the order in which it does so at one moment:
/// everything begins before anything ends, and the gap ends last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    ValueBegins(usize),
    DeleteBegins(usize),
    MissBegins(usize),
    ValueEnds(usize),
    DeleteEnds(usize),
    MissEnds(usize),
    GapEnds(usize),
}

/// All events in order. Spans are cut to the gaps; what does not touch one is
/// left out.
fn events(zones: &Zones, deletes: &[Delete]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |from_ns, to_ns, begins: Event, ends: Event| {
        if let Some((from_ns, to_ns)) = cut(&zones.forward, from_ns, to_ns) {
            events.push((from_ns, begins));
            events.push((to_ns, ends));
        }
    };
    for (index, zone) in zones.backward.iter().enumerate() {
        let (begins, ends) = (Event::ValueBegins(index), Event::ValueEnds(index));
        add(zone.invoked_ns, zone.completed_ns, begins, ends);
    }
    for (index, delete) in deletes.iter().enumerate() {
        let (begins, ends) = (Event::DeleteBegins(index), Event::DeleteEnds(index));
        add(delete.from_ns, delete.to_ns, begins, ends);
    }
    for (index, zone) in zones.misses.iter().enumerate() {
        let (begins, ends) = (Event::MissBegins(index), Event::MissEnds(index));
        add(zone.invoked_ns, zone.completed_ns, begins, ends);
    }
    let gaps = zones.forward.iter().enumerate();
    events.extend(gaps.map(|(index, zone)| (zone.completed_ns, Event::GapEnds(index))));
    events.sort_unstable();
    events.into_iter().map(|(_, event)| event).collect()
}

/// The first and the last moment of a span that lie in a gap.
fn cut(forward: &[Zone], from_ns: u64, to_ns: u64) -> Option<(u64, u64)> {
    let around = |at_ns| {
        let before = forward.partition_point(|zone| zone.completed_ns < at_ns);
        let zone = &forward[before.checked_sub(1)?];
        (at_ns < zone.invoked_ns).then_some(zone)
    };
    let from_ns = around(from_ns).map_or(from_ns, |zone| zone.invoked_ns);
    let to_ns = around(to_ns).map_or(to_ns, |zone| zone.completed_ns);
    (from_ns <= to_ns).then_some((from_ns, to_ns))
}

/// What is known at one moment of the sweep.
#[derive(Debug)]
struct Sweep<'a> {
    zones: &'a Zones,
    deletes: &'a [Delete],
    /// Whose value is there, as an index of its write; none if absent.
    present: Option<usize>,
    /// Values that have begun and wait for their end.
    waiting: Vec<usize>,
    value_done: Vec<bool>,
    /// Deletes at hand, the one that ends first on top.
    at_hand: BinaryHeap<Reverse<(u64, usize)>>,
    delete_done: Vec<bool>,
    /// Misses that have begun and wait for absence.
    missing: Vec<usize>,
    miss_done: Vec<bool>,
}

impl<'a> Sweep<'a> {
    fn new(zones: &'a Zones, deletes: &'a [Delete]) -> Sweep<'a> {
        Sweep {
            zones,
            deletes,
            present: None,
            waiting: Vec::new(),
            value_done: vec![false; zones.backward.len()],
            at_hand: BinaryHeap::new(),
            delete_done: vec![false; deletes.len()],
            missing: Vec::new(),
            miss_done: vec![false; zones.misses.len()],
        }
    }

    /// Fails with the miss that has no reason.
    fn step(&mut self, event: Event) -> Result<(), usize> {
        match event {
            Event::ValueBegins(value) => self.waiting.push(value),
            Event::DeleteBegins(delete) => {
                self.at_hand.push(Reverse((self.deletes[delete].to_ns, delete)));
            }
            Event::MissBegins(miss) => match self.present {
                None => self.miss_done[miss] = true,
                Some(_) => self.missing.push(miss),
            },
            Event::ValueEnds(value) => {
                if !self.value_done[value] {
                    self.all_values();
                }
            }
            Event::DeleteEnds(delete) => {
                if !self.delete_done[delete] {
                    self.delete(delete);
                }
            }
            Event::MissEnds(miss) => {
                if !self.miss_done[miss] {
                    let delete = self.delete_at_hand().ok_or(miss)?;
                    self.delete(delete);
                }
            }
            Event::GapEnds(forward) => {
                self.all_values();
                self.present = Some(self.zones.forward[forward].cause);
            }
        }
        Ok(())
    }

    /// Every value that can have been there by now, has been.
    fn all_values(&mut self) {
        for value in self.waiting.drain(..) {
            self.value_done[value] = true;
            self.present = Some(self.zones.backward[value].cause);
        }
    }

    /// The delete that ends first, of those that have begun and not happened.
    fn delete_at_hand(&mut self) -> Option<usize> {
        while let Some(Reverse((_, delete))) = self.at_hand.pop() {
            if !self.delete_done[delete] {
                return Some(delete);
            }
        }
        None
    }

    fn delete(&mut self, delete: usize) {
        self.all_values();
        self.delete_done[delete] = true;
        self.present = None;
        for miss in self.missing.drain(..) {
            self.miss_done[miss] = true;
        }
    }
}

/// Shows the miss, the value that was in its way and the last delete before.
fn unexplained(
    history: &KeyHistory<'_>,
    zones: &Zones,
    sweep: &Sweep<'_>,
    miss: usize,
) -> Violation {
    let operations = history.operations;
    let miss = &operations[zones.misses[miss].cause];
    let deletes = operations.iter().filter(|operation| operation.action == Action::Delete);
    let last_delete = deletes
        .filter(|delete| delete.invoked_ns <= miss.completed_by_ns())
        .max_by_key(|delete| delete.completed_by_ns());
    let evidence = [Some(miss), sweep.present.map(|write| &operations[write]), last_delete];
    let evidence = evidence.into_iter().flatten().map(Evidence::from);
    Violation::of_key(Check::Linearizable, history.name, Reason::UnexplainedMiss, evidence)
}
