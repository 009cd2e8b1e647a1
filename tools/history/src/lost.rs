//! Whether every acknowledged write outlived the faults.
//!
//! A rollback that no read noticed is linearizable, so the keys are read back
//! once the cluster is whole again, and the answers are judged against what had
//! been acknowledged. Jepsen calls the like a set test.

use crate::history::KeyHistory;
use crate::misses::expires_from_ns;
use crate::operation::{Action, Operation};
use crate::violation::{Check, Evidence, Reason, Violation};
use crate::{Misses, Settings};

/// What the read-back of a key was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// It was read, and held what it had to hold.
    Kept,
    /// Writes were acknowledged, but nobody read the key after healing.
    NotRead,
    /// Nothing was acknowledged.
    NothingToKeep,
}

/// Whether the reads invoked at `healed_ns` or later found what had been
/// acknowledged.
///
/// A write or delete *replaces* a write that had completed before it was
/// invoked. A read may find any value that no operation replaces which was
/// acknowledged before the read was invoked: the last one, or one concurrent to
/// it, or one of unknown outcome, which is never replaced for certain. A read
/// may miss if no write was acknowledged; if a delete, acknowledged or of
/// unknown outcome, or an invalidation can have come after the acknowledged
/// writes; or if the last of them can have expired. Unless
/// [`Misses::Explained`] is asked for, a miss is as good as anything.
///
/// Values that were invalidated are left to
/// [`invalidated_returns`](crate::invalidated_returns), values that nobody
/// wrote to [`linearizable`](crate::linearizable).
pub fn lost_writes(
    history: &KeyHistory<'_>,
    healed_ns: u64,
    settings: &Settings,
) -> Result<ReadBack, Violation> {
    let operations = history.operations;
    let is_write = |operation: &&Operation| matches!(operation.action, Action::Write { .. });
    let changes =
        |operation: &&Operation| matches!(operation.action, Action::Write { .. } | Action::Delete);
    let writes = Acknowledged::new(operations.iter().filter(is_write));
    if writes.0.is_empty() {
        return Ok(ReadBack::NothingToKeep);
    }
    let changes = Acknowledged::new(operations.iter().filter(changes));
    let absences = absences(history, settings);
    let from = operations.partition_point(|operation| operation.invoked_ns < healed_ns);
    let mut outcome = ReadBack::NotRead;
    let mut written = None;
    for read in &operations[from..] {
        match read.action {
            Action::Hit { value } => {
                let written = written.get_or_insert_with(|| by_value(operations));
                let found = written.binary_search_by_key(&value, |&(value, _)| value);
                let Ok(found) = found else { continue };
                let write = written[found].1;
                outcome = ReadBack::Kept;
                let last = changes.last_before(read);
                if let Some(change) = last.filter(|last| write.precedes(last)) {
                    let reason = Reason::RolledBack { value };
                    return Err(violation(history, reason, [write, change, read]));
                }
            }
            Action::Miss if settings.misses == Misses::Explained => {
                outcome = ReadBack::Kept;
                let Some(write) = writes.last_before(read) else { continue };
                let can_be =
                    absences.partition_point(|absence| absence.from_ns <= read.completed_by_ns());
                let can_be = can_be.checked_sub(1).map(|index| absences[index].to_ns_max);
                if can_be.is_none_or(|to_ns| to_ns < write.invoked_ns) {
                    let Action::Write { value, .. } = write.action else {
                        unreachable!("writes only")
                    };
                    return Err(violation(history, Reason::Lost { value }, [write, read]));
                }
            }
            Action::Miss => outcome = ReadBack::Kept,
            Action::Write { .. } | Action::Refused { .. } | Action::Delete => {}
        }
    }
    Ok(outcome)
}

fn violation<const N: usize>(
    history: &KeyHistory<'_>,
    reason: Reason,
    evidence: [&Operation; N],
) -> Violation {
    Violation::of_key(Check::LostWrites, history.name, reason, evidence.map(Evidence::from))
}

/// Writes by value.
fn by_value(operations: &[Operation]) -> Vec<(u64, &Operation)> {
    let value = |operation| match operation {
        &Operation { action: Action::Write { value, .. }, .. } => Some((value, operation)),
        _ => None,
    };
    let mut written: Vec<_> = operations.iter().filter_map(value).collect();
    written.sort_unstable_by_key(|&(value, _)| value);
    written
}

/// Acknowledged operations in order of completion, each with the one invoked
/// last of those up to it.
struct Acknowledged<'a>(Vec<(u64, &'a Operation)>);

impl<'a> Acknowledged<'a> {
    fn new(operations: impl Iterator<Item = &'a Operation>) -> Acknowledged<'a> {
        let completed = |operation: &'a Operation| Some((operation.completed_ns?, operation));
        let mut acknowledged: Vec<_> = operations.filter_map(completed).collect();
        acknowledged.sort_by_key(|&(completed_ns, _)| completed_ns);
        let mut last: Option<&Operation> = None;
        for (_, operation) in &mut acknowledged {
            if let Some(last) = last.filter(|last| last.invoked_ns > operation.invoked_ns) {
                *operation = last;
            }
            last = Some(operation);
        }
        Acknowledged(acknowledged)
    }

    /// The one invoked last of those that had completed before `read` was
    /// invoked.
    fn last_before(&self, read: &Operation) -> Option<&'a Operation> {
        let before = self.0.partition_point(|&(completed_ns, _)| completed_ns < read.invoked_ns);
        Some(self.0[before.checked_sub(1)?].1)
    }
}

/// Something that can have made the key absent.
struct Absence {
    /// From this moment.
    from_ns: u64,
    /// It, or one that begins earlier, can follow what was invoked up to here.
    to_ns_max: u64,
}

/// In order of `from_ns`.
fn absences(history: &KeyHistory<'_>, settings: &Settings) -> Vec<Absence> {
    let mut absences = Vec::new();
    for operation in history.operations {
        let from_ns = match operation.action {
            Action::Delete => operation.invoked_ns,
            Action::Write { ttl_ns: Some(ttl_ns), .. } => {
                expires_from_ns(operation, ttl_ns, settings)
            }
            _ => continue,
        };
        // A value that expires was there after whatever its write can follow.
        absences.push(Absence { from_ns, to_ns_max: operation.completed_by_ns() });
    }
    absences.extend(history.invalidations.iter().map(|invalidation| Absence {
        from_ns: invalidation.invoked_ns,
        to_ns_max: invalidation.completed_by_ns(),
    }));
    absences.sort_unstable_by_key(|absence| absence.from_ns);
    let mut to_ns_max = 0;
    for absence in &mut absences {
        to_ns_max = to_ns_max.max(absence.to_ns_max);
        absence.to_ns_max = to_ns_max;
    }
    absences
}
