//! `seawallctl snapshot`: has the node write its snapshot, and follows it.

use std::io::{IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::print_json;
use crate::admin::{Admin, count, text};
use crate::error::CtlError;
use crate::format;

/// Time between two looks at the progress.
const POLL: Duration = Duration::from_millis(250);

pub(super) fn run(
    admin: &Admin,
    wait: bool,
    status: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, CtlError> {
    let mut report =
        if status { admin.get_json("/snapshot")? } else { admin.post_json("/snapshot")? };
    let live = std::io::stderr().is_terminal() && !json;
    while wait && !status && is_under_way(&report) {
        if live {
            eprint!("\r\x1b[2K{}", describe(&report));
        }
        sleep(POLL);
        report = admin.get_json("/snapshot")?;
    }
    if live {
        eprint!("\r\x1b[2K");
    }
    if json {
        print_json(&report, out)?;
    } else {
        writeln!(out, "{}", describe(&report))?;
    }
    Ok(if text(&report, "error").is_empty() { 0 } else { 2 })
}

fn is_under_way(report: &Value) -> bool {
    matches!(text(report, "state").as_str(), "saving" | "loading")
}

fn describe(report: &Value) -> String {
    let state = text(report, "state");
    if state == "idle" {
        return "no snapshot was written or loaded since the node started".into();
    }
    let float = |name: &str| report.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let share = match is_under_way(report) {
        true => format!(" {:.0}%", 100.0 * float("fraction")),
        false => String::new(),
    };
    let line = format!(
        "snapshot {state}{share}: {} items, {} of values, {:.1} s",
        format::grouped(count(report, "items")),
        format::bytes(count(report, "value_bytes")),
        float("seconds")
    );
    match text(report, "error").as_str() {
        "" => line,
        error => format!("{line}\n  {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_is_described() {
        let report = json!({"state": "saving", "items": 1200, "value_bytes": 2048, "fraction": 0.25,
            "seconds": 1.5, "error": null});
        assert!(is_under_way(&report));
        assert_eq!(describe(&report), "snapshot saving 25%: 1,200 items, 2.0 KiB of values, 1.5 s");
        let report = json!({"state": "failed", "items": 0, "value_bytes": 0, "seconds": 0.0, "error": "disk full"});
        assert_eq!(
            describe(&report),
            "snapshot failed: 0 items, 0 B of values, 0.0 s\n  disk full"
        );
        assert!(describe(&json!({"state": "idle"})).starts_with("no snapshot"));
    }
}
