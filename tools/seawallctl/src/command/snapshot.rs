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
    matches!(text(report, "state").as_str(), "writing" | "running" | "starting" | "loading")
}

fn describe(report: &Value) -> String {
    let error = text(report, "error");
    let state = text(report, "state");
    let amount = format!(
        "{} items, {}",
        format::grouped(count(report, "items")),
        format::bytes(count(report, "bytes"))
    );
    match error.as_str() {
        "" => format!("snapshot {state}: {amount}"),
        error => format!("snapshot {state}: {amount}; {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_is_described() {
        let report = json!({"state": "writing", "items": 1200, "bytes": 2048, "error": null});
        assert!(is_under_way(&report));
        assert_eq!(describe(&report), "snapshot writing: 1,200 items, 2.0 KiB");
        let report = json!({"state": "failed", "items": 0, "bytes": 0, "error": "disk full"});
        assert_eq!(describe(&report), "snapshot failed: 0 items, 0 B; disk full");
    }
}
