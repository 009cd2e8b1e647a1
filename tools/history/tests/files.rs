//! Histories in files: what the format says, and the checks that need more than
//! one register.

mod common;

use history::format::{self, Line};
use history::{Check, Report, Settings, check};

/// The lines of the format's documentation.
fn documented() -> String {
    let source = include_str!("../src/format.rs");
    let lines = source.lines().filter_map(|line| line.strip_prefix("//! {"));
    lines.map(|line| format!("{{{line}\n")).collect()
}

fn judge(lines: &str) -> Report {
    judge_with(lines, Settings::default())
}

fn judge_with(lines: &str, settings: Settings) -> Report {
    check(&format::read(lines.as_bytes()).unwrap(), &settings)
}

fn violated(report: &Report) -> Vec<Check> {
    report.violations.iter().map(|violation| violation.check).collect()
}

#[test]
fn the_documented_lines_are_read_and_written_as_they_stand() {
    let text = documented();
    let mut written = Vec::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        format::write_line(&mut written, &line).unwrap();
    }
    assert_eq!(String::from_utf8(written).unwrap(), text);
    assert_eq!(format::read(text.as_bytes()).unwrap().operations(), 7);
}

#[test]
fn mistakes_are_named_with_their_line() {
    let good = r#"{"kind":"write","client":1,"key":"k","value":1,"invoked_ns":1}"#;
    for (line, expected) in [
        ("nonsense", "line 3: expected ident, column 2"),
        (
            r#"{"kind":"wrote"}"#,
            "line 3: unknown variant `wrote`, expected one of `write`, `delete`, `read`, \
             `invalidate`, `healed`, `acknowledge`, column 15",
        ),
        (
            r#"{"kind":"delete","client":1,"key":"k","invoked":1}"#,
            "line 3: unknown field `invoked`, expected one of `client`, `key`, `invoked_ns`, \
             `completed_ns`",
        ),
        (
            r#"{"kind":"read","client":1,"key":"k","invoked_ns":1,"completed_ns":2}"#,
            "line 3: a read has either a hit or a miss",
        ),
        (
            r#"{"kind":"invalidate","client":1,"invoked_ns":1,"completed_ns":2}"#,
            "line 3: an invalidation has one of tag, namespace and all",
        ),
        (
            r#"{"kind":"write","client":1,"key":"k","value":2,"invoked_ns":1,"refused":true}"#,
            "line 3: a refused write has a completed_ns",
        ),
        (
            good,
            "key \"k\" was written twice with value 1: every write needs its own (record a \
             repeated attempt as one operation, or give it a new value)",
        ),
        (
            r#"{"kind":"delete","client":1,"key":"k","invoked_ns":5,"completed_ns":4}"#,
            "client 1's operation of 5 ns completed before it was invoked",
        ),
        (
            r#"{"kind":"read","client":1,"key":"k","invoked_ns":5,"miss":true}"#,
            "client 1's read of 5 ns has an answer but no completion",
        ),
    ] {
        let error = format::read(format!("{good}\n\n{line}\n").as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn a_read_without_an_answer_is_left_out() {
    let line = r#"{"kind":"read","client":1,"key":"k","invoked_ns":5}"#;
    assert_eq!(format::read(line.as_bytes()).unwrap().operations(), 0);
}

/// One write of a tagged key in a namespace, one invalidation and one read.
fn invalidation(scope: &str, invoked_ns: u64, completed_ns: &str) -> String {
    format!(
        r#"{{"kind":"write","client":1,"key":"a:b:k","value":1,"invoked_ns":10,"completed_ns":20,"tags":["red","blue"]}}
{{"kind":"invalidate","client":2,{scope},"invoked_ns":{invoked_ns},"completed_ns":{completed_ns}}}
{{"kind":"read","client":3,"key":"a:b:k","invoked_ns":60,"completed_ns":70,"#
    )
}

#[test]
fn what_was_invalidated_may_not_come_back() {
    let hit = "\"hit\":1}";
    for scope in [
        r#""tag":"red""#,
        r#""tag":"blue""#,
        r#""namespace":"a""#,
        r#""namespace":"a:b""#,
        r#""all":true"#,
    ] {
        let report = judge(&(invalidation(scope, 30, "40") + hit));
        assert_eq!(violated(&report), [Check::InvalidatedReturns], "{scope}");
        // Concurrent to the write, or to the read, or never acknowledged.
        for (invoked_ns, completed_ns) in [(20, "40"), (30, "60"), (30, "null")] {
            let report = judge(&(invalidation(scope, invoked_ns, completed_ns) + hit));
            assert!(report.passed(), "{scope} {invoked_ns} {completed_ns}");
        }
        // It explains a miss.
        assert!(judge(&(invalidation(scope, 30, "40") + "\"miss\":true}")).passed());
    }
    for scope in [r#""tag":"green""#, r#""namespace":"b""#, r#""namespace":"a:b:k""#] {
        let report = judge(&(invalidation(scope, 30, "40") + hit));
        assert!(report.passed(), "{scope}");
        let report = judge(&(invalidation(scope, 30, "40") + "\"miss\":true}"));
        assert_eq!(violated(&report), [Check::Linearizable], "{scope}");
    }
}

#[test]
fn an_earlier_invalidation_that_was_acknowledged_later_does_not_hide_one() {
    let text = r#"
{"kind":"invalidate","client":4,"all":true,"invoked_ns":5,"completed_ns":50}
"#
    .to_owned()
        + &invalidation(r#""all":true"#, 30, "40")
        + "\"hit\":1}";
    assert_eq!(violated(&judge(&text)), [Check::InvalidatedReturns]);
}

#[test]
fn expiry_explains_a_miss_and_forbids_a_hit() {
    let write = r#"{"kind":"write","client":1,"key":"k","value":1,"invoked_ns":1000000,"completed_ns":2000000,"ttl_ms":10}
"#;
    let at = |from_ms: u64, answer: &str| {
        let (from, to) = (from_ms * 1_000_000, (from_ms + 1) * 1_000_000);
        let read = r#"{"kind":"read","client":2,"key":"k""#;
        format!(r#"{write}{read},"invoked_ns":{from},"completed_ns":{to},{answer}}}"#)
    };
    let settings = Settings { expiry_slack_ns: 1_000_000, ..Settings::default() };
    let judge = |from_ms, answer| judge_with(&at(from_ms, answer), settings).passed();
    let (hit, miss) = (r#""hit":1"#, r#""miss":true"#);
    assert!(judge(5, hit) && judge(13, hit) && !judge(14, hit));
    assert!(!judge(5, miss) && !judge(8, miss) && judge(9, miss) && judge(100, miss));
}

#[test]
fn an_epoch_has_one_primary() {
    let line = |epoch: u64, node: &str| {
        format!(
            "{{\"kind\":\"acknowledge\",\"partition\":7,\"epoch\":{epoch},\"node\":\"{node}\",\
             \"at_ns\":{epoch}}}\n"
        )
    };
    assert!(judge(&(line(1, "a") + &line(1, "a") + &line(2, "b"))).passed());
    let report = judge(&(line(1, "a") + &line(2, "b") + &line(2, "a") + &line(2, "c")));
    assert_eq!(
        report.violations[0].to_string(),
        "one primary: partition 7: two nodes acknowledged writes in epoch 2\n  \
         node b  acknowledge for partition 7 in epoch 2  |      0.000 .. 0.000 ms\n  \
         node a  acknowledge for partition 7 in epoch 2  |      0.000 .. 0.000 ms\n  \
         (milliseconds after 2 ns)\n"
    );
}

#[test]
fn a_report_says_what_it_could_not_judge() {
    let report = judge(&documented());
    let words: Vec<_> = report.verdicts.iter().map(|verdict| verdict.word()).collect();
    assert_eq!(words, ["pass", "not checked", "pass", "pass"]);
    let lacks: Vec<_> = report.verdicts.iter().map(|verdict| verdict.lacks).collect();
    assert_eq!(lacks, [None, Some("no key read back"), None, None]);
    // Both keys hold acknowledged writes, and nobody read them after healing.
    assert_eq!(report.verdicts[1].unchecked, 2);
}
