//! All checks of a history, and their verdicts.

use crate::history::History;
use crate::violation::{Check, Violation};
use crate::{ReadBack, Settings, invalidated_returns, linearizable, lost_writes, one_primary};

/// What the checks say.
#[derive(Clone, Debug)]
pub struct Report {
    /// One verdict a check.
    pub verdicts: Vec<Verdict>,
    /// The first violation of each check and key.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether there is no violation.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The check.
    pub check: Check,
    /// Keys that were judged (for [`Check::OnePrimary`]: acknowledgements).
    pub checked: usize,
    /// Keys that the check would have judged but could not: never read back.
    pub unchecked: usize,
    /// Keys with a violation (for [`Check::OnePrimary`]: one at most).
    pub violated: usize,
    /// What the history lacks, if nothing could be judged.
    pub lacks: Option<&'static str>,
}

impl Verdict {
    fn new(check: Check) -> Verdict {
        Verdict { check, checked: 0, unchecked: 0, violated: 0, lacks: None }
    }

    /// In a word.
    pub fn word(&self) -> &'static str {
        match (self.violated, self.lacks) {
            (0, None) => "pass",
            (0, Some(_)) => "not checked",
            (1.., _) => "VIOLATED",
        }
    }
}

/// Runs all checks.
pub fn check(history: &History, settings: &Settings) -> Report {
    let mut violations = Vec::new();
    let mut zones = Verdict::new(Check::Linearizable);
    let mut lost = Verdict::new(Check::LostWrites);
    let mut invalidated = Verdict::new(Check::InvalidatedReturns);
    let mut primary = Verdict::new(Check::OnePrimary);

    let mut count = |verdict: &mut Verdict, result: Result<(), Violation>| {
        verdict.checked += 1;
        if let Err(violation) = result {
            verdict.violated += 1;
            violations.push(violation);
        }
    };
    for key in history.keys() {
        count(&mut zones, linearizable(&key, settings));
        if let Some(healed_ns) = history.healed_ns() {
            match lost_writes(&key, healed_ns, settings) {
                Ok(ReadBack::NothingToKeep) => {}
                Ok(ReadBack::NotRead) => lost.unchecked += 1,
                Ok(ReadBack::Kept) => count(&mut lost, Ok(())),
                Err(violation) => count(&mut lost, Err(violation)),
            }
        }
        if !key.invalidations.is_empty() {
            count(&mut invalidated, invalidated_returns(&key));
        }
    }
    if !history.acknowledgements().is_empty() {
        count(&mut primary, one_primary(history.acknowledgements()));
        primary.checked = history.acknowledgements().len();
    }

    lacks(&mut zones, "no operation");
    let no_read = if history.healed_ns().is_some() { "no key read back" } else { "no healed line" };
    lacks(&mut lost, no_read);
    lacks(&mut invalidated, "no invalidation");
    lacks(&mut primary, "no acknowledge line");
    Report { verdicts: vec![zones, lost, invalidated, primary], violations }
}

fn lacks(verdict: &mut Verdict, what: &'static str) {
    if verdict.checked == 0 {
        verdict.lacks = Some(what);
    }
}
