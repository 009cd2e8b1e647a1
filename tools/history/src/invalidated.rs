//! Whether anything invalidated came back.

use crate::history::KeyHistory;
use crate::operation::{Action, Invalidation, Scope, TagId};
use crate::violation::{Check, Evidence, Reason, Violation};
use std::collections::HashMap;

/// Whether no read found what an invalidation had covered.
///
/// Once an invalidation is acknowledged, no read that is invoked afterwards may
/// find a value whose write had completed before the invalidation was invoked.
/// Writes concurrent to the invalidation may live or die.
pub fn invalidated_returns(history: &KeyHistory<'_>) -> Result<(), Violation> {
    if history.invalidations.is_empty() {
        return Ok(());
    }
    let invalidations = Invalidations::new(&history.invalidations);
    let mut writes = HashMap::new();
    for write in history.operations {
        if let Action::Write { value, tags, .. } = &write.action {
            writes.insert(*value, (write, tags));
        }
    }
    for read in history.operations {
        let Action::Hit { value } = read.action else { continue };
        let Some((write, tags)) = writes.get(&value) else { continue };
        for invalidation in invalidations.last_before(read.invoked_ns, tags) {
            if write.completed_by_ns() < invalidation.invoked_ns {
                let evidence =
                    [Evidence::from(*write), history.evidence(invalidation), Evidence::from(read)];
                let reason = Reason::Invalidated { value };
                let check = Check::InvalidatedReturns;
                return Err(Violation::of_key(check, history.name, reason, evidence));
            }
        }
    }
    Ok(())
}

/// Acknowledged invalidations of one scope in order of completion, each with
/// the one invoked last of those up to it.
type Acknowledged<'a> = Vec<(u64, &'a Invalidation)>;

/// Acknowledged invalidations, by what they cover.
#[derive(Default)]
struct Invalidations<'a> {
    /// Of the key, whatever its tags.
    key: Acknowledged<'a>,
    tags: HashMap<TagId, Acknowledged<'a>>,
}

impl<'a> Invalidations<'a> {
    fn new(invalidations: &[&'a Invalidation]) -> Invalidations<'a> {
        let mut sorted = Invalidations::default();
        for &invalidation in invalidations {
            let Some(completed_ns) = invalidation.completed_ns else { continue };
            let scope = match invalidation.scope {
                Scope::Namespace(_) | Scope::All => &mut sorted.key,
                Scope::Tag(tag) => sorted.tags.entry(tag).or_default(),
            };
            scope.push((completed_ns, invalidation));
        }
        for scope in sorted.tags.values_mut().chain([&mut sorted.key]) {
            scope.sort_by_key(|&(completed_ns, _)| completed_ns);
            let mut last: Option<&Invalidation> = None;
            for (_, invalidation) in scope {
                if let Some(last) = last.filter(|last| last.invoked_ns > invalidation.invoked_ns) {
                    *invalidation = last;
                }
                last = Some(invalidation);
            }
        }
        sorted
    }

    /// Of each scope that covers the key with `tags`: the one invoked last of
    /// those acknowledged before `at_ns`.
    fn last_before(&self, at_ns: u64, tags: &[TagId]) -> impl Iterator<Item = &'a Invalidation> {
        let scopes = tags.iter().filter_map(|tag| self.tags.get(tag)).chain([&self.key]);
        scopes.filter_map(move |scope| {
            let before = scope.partition_point(|&(completed_ns, _)| completed_ns < at_ns);
            Some(scope[before.checked_sub(1)?].1)
        })
    }
}
