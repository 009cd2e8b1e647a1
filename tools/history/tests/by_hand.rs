//! Small histories, made by hand: right ones, wrong ones, and why.

mod common;

use common::history;
use history::{Check, Misses, ReadBack, Reason, Settings, Violation, linearizable, lost_writes};

fn judge(text: &str, misses: Misses) -> Result<(), Violation> {
    let history = history(text);
    let key = history.keys().next().unwrap();
    linearizable(&key, &Settings { misses, ..Settings::default() })
}

#[test]
fn these_are_linearizable() {
    for text in [
        "w1 10 20; r1 30 40",
        "m 10 20; w1 30 40; d 50 60; m 70 80",
        // Concurrent to its write, a read may find it or not.
        "w1 10 40; m 20 30; r1 20 30",
        // Two concurrent writes, read one after the other.
        "w1 10 40; w2 10 40; r1 50 55; r1 60 65",
        "w1 10 40; w2 10 40; r2 50 55; r2 60 65",
        "w1 10 40; w2 10 90; r1 50 55; r2 60 65",
        // An unknown outcome: at any time, or never.
        "w1 10 20; w2 30 ?; r1 40 50; r2 60 70",
        "w1 10 20; w2 30 ?; r1 40 50; r1 60 70",
        "w1 10 20; d 30 ?; r1 40 50; m 60 70",
        // One delete serves many misses.
        "w1 10 20; d 15 80; m 30 40; m 50 60; m 70 80",
        // It happens between two writes, though it lasts longer than both.
        "w1 10 20; d 15 80; m 30 40; w2 50 60; r2 65 70",
        // The delete that ends first serves the first miss.
        "w1 10 20; d 25 60; d 25 99; m 30 40; w2 65 70; m 80 90",
        "w1 10 20; d 25 ?; d 25 60; m 30 40; w2 65 70; m 80 90",
        // A write waits for a delete: then the key is absent all the while.
        "m 10 20; w1 15 60; d 40 50; m 70 80",
        // Equal moments are concurrent.
        "w1 10 20; w2 20 30; r1 30 40",
        "w1 10 20; m 20 30; d 30 40",
    ] {
        if let Err(violation) = judge(text, Misses::Explained) {
            panic!("{text}\n{violation}");
        }
    }
}

#[test]
fn these_are_not() {
    for (text, wrong) in [
        ("w1 10 20; r2 30 40", "2 was read, but nobody wrote it"),
        ("x1 10 20; r1 30 40", "1 was read, but its write was refused"),
        ("r1 10 20; w1 30 40", "1 was read before it was written"),
        ("w1 10 20; w2 30 40; r1 50 60", "2 was written while 1 must have been there"),
        ("w1 10 20; d 30 40; r1 50 60", "a delete happened while 1 must have been there"),
        ("w1 10 20; m 30 40; r1 50 60", "a read missed while 1 must have been there"),
        // Both are read after both were written, in both orders.
        ("w1 10 40; w2 10 40; r1 50 55; r2 60 65; r1 70 75", "both have to be there"),
        ("w1 10 40; w2 10 40; r1 50 55; r2 60 65; r1 70 75; r2 80 85", "both have to be there"),
        // Once seen, an unknown outcome is known.
        ("w1 10 20; w2 30 ?; r2 40 50; r1 60 70", "2 was written while 1"),
        ("w1 10 20; m 30 40", "a read missed, and no delete"),
        ("w1 10 20; d 30 40; w2 50 60; m 70 80", "a read missed, and no delete"),
        // One delete can't come before and after a write.
        ("w1 10 20; d 15 ?; m 30 40; w2 50 60; m 70 80", "a read missed, and no delete"),
    ] {
        let violation = judge(text, Misses::Explained).expect_err(text);
        assert!(violation.reason.to_string().contains(wrong), "{text}\n{violation}");
        assert_eq!(violation.check, Check::Linearizable);
    }
}

#[test]
fn a_miss_means_what_the_settings_say() {
    let for_pressure = "w1 10 20; m 30 40";
    assert!(judge(for_pressure, Misses::Explained).is_err());
    assert!(judge(for_pressure, Misses::Evictions).is_ok());
    assert!(judge(for_pressure, Misses::Free).is_ok());
    let comes_back = "w1 10 20; m 30 40; r1 50 60";
    assert!(judge(comes_back, Misses::Explained).is_err());
    assert!(judge(comes_back, Misses::Evictions).is_err());
    assert!(judge(comes_back, Misses::Free).is_ok());
}

#[test]
fn the_read_back_finds_the_last_write_or_one_concurrent_to_it() {
    let judge = |text: &str| {
        let history = history(text);
        let result = lost_writes(&history.keys().next().unwrap(), 100, &Settings::default());
        result.map_err(|violation| violation.reason)
    };
    assert_eq!(judge("w1 10 20; r1 100 110"), Ok(ReadBack::Kept));
    assert_eq!(judge("w1 10 20; r1 99 110"), Ok(ReadBack::NotRead));
    assert_eq!(judge("w1 10 ?; m 100 110"), Ok(ReadBack::NothingToKeep));
    assert_eq!(judge("w1 10 20; m 100 110"), Err(Reason::Lost { value: 1 }));
    assert_eq!(judge("w1 10 20; d 30 ?; m 100 110"), Ok(ReadBack::Kept));
    assert_eq!(judge("d 1 2; w1 10 20; m 100 110"), Err(Reason::Lost { value: 1 }));
    assert_eq!(judge("d 1 ?; w1 10 20; m 100 110"), Ok(ReadBack::Kept));
    assert_eq!(judge("w1 10 20; w2 30 40; r1 100 110"), Err(Reason::RolledBack { value: 1 }));
    assert_eq!(judge("w1 10 20; d 30 40; r1 100 110"), Err(Reason::RolledBack { value: 1 }));
    assert_eq!(judge("w1 10 35; w2 30 40; r1 100 110"), Ok(ReadBack::Kept));
    assert_eq!(judge("w1 10 ?; w2 30 40; r1 100 110"), Ok(ReadBack::Kept));
    // A rollback that nobody noticed before.
    assert_eq!(judge("w1 10 20; w2 30 40; r1 105 110"), Err(Reason::RolledBack { value: 1 }));
    // Writes after healing count too.
    assert_eq!(judge("w1 10 20; w2 101 102; r1 105 110"), Err(Reason::RolledBack { value: 1 }));
    assert_eq!(judge("w1 10 20; w2 101 108; r1 105 110"), Ok(ReadBack::Kept));
}

#[test]
fn a_violation_is_a_small_timeline() {
    let violation = judge("w1 10 20; w2 30 40; d 32 ?; r1 50 60", Misses::Explained).unwrap_err();
    let expected = "\
linearizable: key \"k\": 2 was written while 1 must have been there, before and after
  client 1  write 1  |===|                      0.000 .. 0.000 ms
  client 2  write 2          |===|              0.000 .. 0.000 ms
  client 4  read: 1                  |===|      0.000 .. 0.000 ms
  (milliseconds after 10 ns)
";
    assert_eq!(violation.to_string(), expected);
}
