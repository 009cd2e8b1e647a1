//! Linearizability of one key, by zones.
//!
//! The method of P. B. Gibbons and E. Korach, "Testing shared memories", SIAM
//! Journal on Computing 26(4), 1997, for registers whose writes write distinct
//! values. A value's write and its reads are its *cluster*. From the moment `f`
//! at which the first of them completed to the moment `s` at which the last of
//! them was invoked, the register must have held the value:
//!
//! ```text
//!   write 7  |-----|                   f < s: a forward zone [f, s],
//!   read: 7           |-----|          which no other value may share
//!                  f  s
//!
//!   write 8  |-----------|             s <= f: a backward zone [s, f];
//!   read: 8        |-----------|       all can happen at any one moment of it
//!                  s     f
//! ```
//!
//! The history is linearizable if and only if nothing is read before its write
//! was invoked, no two forward zones overlap, and no backward zone lies wholly
//! inside a forward zone. That is sorting: `O(n log n)`.
//!
//! What a cache adds:
//!
//! - A write of unknown outcome counts if it was read (its `f` is then the
//!   first completion of a read), and else is as good as never done.
//! - An acknowledged delete is a write of "absent" that is read by nobody in
//!   particular: a backward zone `[invoked, completed]` of its own. One of
//!   unknown outcome forbids nothing.
//! - A miss needs a moment at which no value had to be there: a backward zone
//!   too. Under [`Misses::Evictions`] that is all (the eviction happens at that
//!   very moment); under [`Misses::Explained`] the sweep in `misses` then looks
//!   for a reason; under [`Misses::Free`] misses are left out.
//! - Nothing may be read past its time to live.

use crate::history::KeyHistory;
use crate::operation::{Action, Operation};
use crate::violation::{Check, Evidence, Interruption, Reason, Violation};
use crate::{Misses, Settings, misses};
use std::collections::HashMap;

/// The cluster of one value, or a lone delete or miss.
///
/// Operations are indices into the key's history.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// The write, or the delete or miss.
    pub cause: usize,
    /// First to complete.
    first: usize,
    /// Last to be invoked.
    last: usize,
    /// `f`: when the first of them completed.
    pub completed_ns: u64,
    /// `s`: when the last of them was invoked.
    pub invoked_ns: u64,
}

impl Zone {
    fn new(index: usize, operation: &Operation) -> Zone {
        Zone {
            cause: index,
            first: index,
            last: index,
            completed_ns: operation.completed_by_ns(),
            invoked_ns: operation.invoked_ns,
        }
    }

    fn add(&mut self, index: usize, operation: &Operation) {
        if operation.completed_by_ns() < self.completed_ns {
            (self.first, self.completed_ns) = (index, operation.completed_by_ns());
        }
        if operation.invoked_ns > self.invoked_ns {
            (self.last, self.invoked_ns) = (index, operation.invoked_ns);
        }
    }

    fn is_forward(&self) -> bool {
        self.completed_ns < self.invoked_ns
    }

    fn evidence<'a>(&self, operations: &'a [Operation]) -> impl Iterator<Item = Evidence> + 'a {
        [self.cause, self.first, self.last].into_iter().map(|index| (&operations[index]).into())
    }
}

/// The zones of a key, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    /// Times in which one value had to be there, in order.
    pub forward: Vec<Zone>,
    /// Values that can have been there for just a moment.
    pub backward: Vec<Zone>,
    /// Acknowledged deletes.
    pub deletes: Vec<Zone>,
    /// Misses, unless they say nothing.
    pub misses: Vec<Zone>,
}

/// Whether the key behaved like one register.
///
/// The key is absent at first. Each write, delete and read must have taken
/// effect at one moment between its invocation and its completion; a hit finds
/// the value written last, what a miss may find is up to `settings.misses`. An
/// operation of unknown outcome may take effect at any time after its
/// invocation, or never.
///
/// Exact for writes, deletes, hits and misses. Expiry and invalidations may
/// explain a miss more generously than they should: each may make the key
/// absent once, whatever value is there by then.
pub fn linearizable(history: &KeyHistory<'_>, settings: &Settings) -> Result<(), Violation> {
    let zones = zones(history, settings)?;
    overlaps(history, &zones)?;
    for zone in zones.backward.iter().chain(&zones.deletes).chain(&zones.misses) {
        interrupts(history, &zones.forward, zone)?;
    }
    match settings.misses {
        Misses::Explained => misses::explained(history, &zones, settings),
        Misses::Evictions | Misses::Free => Ok(()),
    }
}

fn violation(
    history: &KeyHistory<'_>,
    reason: Reason,
    evidence: impl IntoIterator<Item = Evidence>,
) -> Violation {
    Violation::of_key(Check::Linearizable, history.name, reason, evidence)
}

/// Gathers the zones; fails where a read has no business with its write.
fn zones(history: &KeyHistory<'_>, settings: &Settings) -> Result<Zones, Violation> {
    let operations = history.operations;
    let mut zones = Zones::default();
    let mut clusters: HashMap<u64, Zone> = HashMap::new();
    for (index, operation) in operations.iter().enumerate() {
        let zone = Zone::new(index, operation);
        match operation.action {
            Action::Write { value, .. } | Action::Refused { value } => {
                clusters.insert(value, zone);
            }
            Action::Delete if operation.completed_ns.is_some() => zones.deletes.push(zone),
            Action::Miss if settings.misses != Misses::Free => zones.misses.push(zone),
            Action::Delete | Action::Miss | Action::Hit { .. } => {}
        }
    }
    for (index, read) in operations.iter().enumerate() {
        let Action::Hit { value } = read.action else { continue };
        let Some(zone) = clusters.get_mut(&value) else {
            return Err(violation(history, Reason::NeverWritten { value }, [read.into()]));
        };
        let write = &operations[zone.cause];
        if let Some(reason) = never(write, read, value, settings) {
            return Err(violation(history, reason, [write.into(), read.into()]));
        }
        zone.add(index, read);
    }
    for zone in clusters.into_values() {
        let refused = matches!(operations[zone.cause].action, Action::Refused { .. });
        if refused || zone.completed_ns == u64::MAX {
            continue; // Never seen, and need not have happened.
        }
        if zone.is_forward() { &mut zones.forward } else { &mut zones.backward }.push(zone);
    }
    zones.forward.sort_unstable_by_key(|zone| zone.completed_ns);
    zones.backward.sort_unstable_by_key(|zone| (zone.invoked_ns, zone.cause));
    Ok(zones)
}

/// Why `read` can't have found what `write` wrote, whatever else happened.
fn never(write: &Operation, read: &Operation, value: u64, settings: &Settings) -> Option<Reason> {
    let Action::Write { ttl_ns, .. } = write.action else {
        return Some(Reason::Refused { value });
    };
    if read.precedes(write) {
        return Some(Reason::ReadBeforeWritten { value });
    }
    let expired_ns = write
        .completed_by_ns()
        .saturating_add(ttl_ns.unwrap_or(u64::MAX))
        .saturating_add(settings.expiry_slack_ns);
    (read.invoked_ns > expired_ns).then_some(Reason::Expired { value })
}

/// Fails where two values had to be there at once.
fn overlaps(history: &KeyHistory<'_>, zones: &Zones) -> Result<(), Violation> {
    for pair in zones.forward.windows(2) {
        let [one, other] = pair else { unreachable!("windows of two") };
        if other.completed_ns < one.invoked_ns {
            let operations = history.operations;
            let reason =
                Reason::Overlap { value: value(operations, one), other: value(operations, other) };
            let evidence = one.evidence(operations).chain(other.evidence(operations));
            return Err(violation(history, reason, evidence));
        }
    }
    Ok(())
}

/// Fails where `zone` has no moment outside the forward zones, which are
/// disjoint and in order.
fn interrupts(history: &KeyHistory<'_>, forward: &[Zone], zone: &Zone) -> Result<(), Violation> {
    let before = forward.partition_point(|around| around.completed_ns < zone.invoked_ns);
    let Some(around) = before.checked_sub(1).map(|index| &forward[index]) else { return Ok(()) };
    if zone.completed_ns >= around.invoked_ns {
        return Ok(());
    }
    let operations = history.operations;
    let by = match operations[zone.cause].action {
        Action::Delete => Interruption::Delete,
        Action::Miss => Interruption::Miss,
        Action::Write { value, .. } | Action::Refused { value } | Action::Hit { value } => {
            Interruption::Value(value)
        }
    };
    let reason = Reason::Interrupted { value: value(operations, around), by };
    let evidence = around.evidence(operations).chain(zone.evidence(operations));
    Err(violation(history, reason, evidence))
}

/// The value of a cluster.
fn value(operations: &[Operation], zone: &Zone) -> u64 {
    match operations[zone.cause].action {
        Action::Write { value, .. } => value,
        _ => unreachable!("a cluster begins with a write"),
    }
}
