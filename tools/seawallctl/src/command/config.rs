//! `seawallctl config`: every setting with its value and where it came from.

use std::io::Write;

use serde_json::Value;

use super::print_json;
use crate::admin::{Admin, list, text};
use crate::error::CtlError;
use crate::table::{Align, Table};

pub(super) fn run(
    admin: &Admin,
    changed: bool,
    filter: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let answer = admin.get_json("/config")?;
    let settings: Vec<&Value> = list(&answer, "settings")
        .iter()
        .filter(|setting| !changed || is_changed(setting))
        .filter(|setting| filter.is_none_or(|filter| text(setting, "key").contains(filter)))
        .collect();
    if json {
        return print_json(&settings.into_iter().cloned().collect::<Vec<_>>().into(), out);
    }
    if settings.is_empty() {
        writeln!(
            out,
            "{}",
            if changed { "every setting is at its default" } else { "no such setting" }
        )?;
        return Ok(());
    }
    let mut table = Table::new([
        ("setting", Align::Left),
        ("value", Align::Left),
        ("source", Align::Left),
        ("default", Align::Left),
    ]);
    for setting in settings {
        let default = if is_changed(setting) { shown(setting, "default") } else { String::new() };
        table.row(vec![
            text(setting, "key"),
            shown(setting, "value"),
            text(setting, "source"),
            default,
        ]);
    }
    Ok(table.write(out)?)
}

fn is_changed(setting: &Value) -> bool {
    text(setting, "value") != text(setting, "default")
}

/// An empty value shows as a dash.
fn shown(setting: &Value, name: &str) -> String {
    let text = text(setting, name);
    if text.is_empty() { "-".into() } else { text }
}
