//! Histories taken from a real register pass; changed so that they can't be
//! right, they are found.

mod common;

use common::{Chance, Use, k, notation, of_one_key, register};
use history::{
    Action, Check, Misses, Operation, ReadBack, Reason, Settings, check, linearizable, lost_writes,
};

const USES: [Use; 4] = [
    Use { clients: 3, operations: 60, deletes: 4, unknown: 8, evictions: 0 },
    Use { clients: 8, operations: 300, deletes: 3, unknown: 0, evictions: 0 },
    Use { clients: 24, operations: 1_000, deletes: 5, unknown: 20, evictions: 0 },
    Use { clients: 8, operations: 300, deletes: 0, unknown: 10, evictions: 30 },
];

fn settings(used: Use) -> Settings {
    let misses = if used.evictions > 0 { Misses::Evictions } else { Misses::Explained };
    Settings { misses, ..Settings::default() }
}

#[test]
fn a_real_register_is_linearizable() {
    let mut chance = Chance(1);
    for round in 0..2_000 {
        let used = USES[round % USES.len()];
        let operations = register(k(), used, &mut chance);
        let text = notation(&operations);
        let report = check(&of_one_key(operations), &settings(used));
        assert!(report.passed(), "{}\n{text}", report.violations[0]);
    }
}

/// Makes one read find a value that was surely replaced before. Where a history
/// has no such read, nothing.
fn make_stale(operations: &mut [Operation], chance: &mut Chance) -> Option<u64> {
    let from = chance.below(operations.len() as u64) as usize;
    let is_read = |one: &Operation| matches!(one.action, Action::Hit { .. } | Action::Miss);
    let read = (from..operations.len()).find(|&index| is_read(&operations[index]))?;
    let acknowledged =
        |one: &&Operation| matches!(one.action, Action::Write { .. }) && one.completed_ns.is_some();
    let writes: Vec<&Operation> = operations.iter().filter(acknowledged).collect();
    let replaced_by = |old: &&&Operation| {
        writes.iter().any(|new| old.precedes(new) && new.precedes(&operations[read]))
    };
    let old = writes.iter().rfind(replaced_by)?;
    let Action::Write { value, .. } = old.action else { unreachable!("writes only") };
    operations[read].action = Action::Hit { value };
    Some(value)
}

#[test]
fn a_stale_read_is_found() {
    let mut chance = Chance(2);
    let mut found = 0;
    for round in 0..2_000 {
        let used = USES[round % USES.len()];
        let mut operations = register(k(), used, &mut chance);
        let Some(value) = make_stale(&mut operations, &mut chance) else { continue };
        let text = notation(&operations);
        let history = of_one_key(operations);
        let key = history.keys().next().unwrap();
        let violation = linearizable(&key, &settings(used)).expect_err(&text);
        assert!(violation.evidence.len() <= 6, "{violation}");
        let evidence = violation.evidence.iter().any(|one| one.what == format!("read: {value}"));
        assert!(evidence, "{violation}\n{text}");
        found += 1;
    }
    assert!(found > 1_500, "only {found} histories could be made stale");
}

/// After the history, all is well and the key is read once.
fn read_back(operations: &mut Vec<Operation>, found: Action) -> u64 {
    let ends = operations.iter().filter_map(|one| one.completed_ns);
    let healed_ns = ends.chain(operations.iter().map(|one| one.invoked_ns)).max().unwrap() + 1;
    let (invoked_ns, completed_ns) = (healed_ns + 1, Some(healed_ns + 2));
    operations.push(Operation { client: 99, key: k(), invoked_ns, completed_ns, action: found });
    healed_ns
}

#[test]
fn a_lost_write_is_found_and_a_kept_one_is_not() {
    let mut chance = Chance(3);
    let used = Use { clients: 4, operations: 40, deletes: 0, unknown: 6, evictions: 0 };
    let settings = Settings::default();
    for _ in 0..1_000 {
        let operations = register(k(), used, &mut chance);
        let acknowledged = |one: &&Operation| {
            matches!(one.action, Action::Write { .. }) && one.completed_ns.is_some()
        };
        let writes: Vec<Operation> = operations.iter().filter(acknowledged).cloned().collect();
        let value_of = |write: &Operation| match write.action {
            Action::Write { value, .. } => value,
            _ => unreachable!("writes only"),
        };
        let last = writes.iter().max_by_key(|write| write.invoked_ns).unwrap();

        let mut missing = operations.clone();
        let healed_ns = read_back(&mut missing, Action::Miss);
        let history = of_one_key(missing);
        let result = lost_writes(&history.keys().next().unwrap(), healed_ns, &settings);
        assert_eq!(result.unwrap_err().reason, Reason::Lost { value: value_of(last) });

        for write in &writes {
            let value = value_of(write);
            let mut read = operations.clone();
            let healed_ns = read_back(&mut read, Action::Hit { value });
            let history = of_one_key(read);
            let result = lost_writes(&history.keys().next().unwrap(), healed_ns, &settings);
            match result {
                Ok(kept) => {
                    assert_eq!(kept, ReadBack::Kept);
                    assert!(!write.precedes(last));
                }
                Err(violation) => {
                    assert_eq!(violation.reason, Reason::RolledBack { value });
                    assert_eq!(violation.check, Check::LostWrites);
                    assert!(writes.iter().any(|other| write.precedes(other)));
                }
            }
        }
    }
}
