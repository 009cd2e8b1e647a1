//! `seawallctl hot`: the keys that the cores' sketches see most.

use std::io::Write;

use base64::Engine;
use serde_json::Value;

use super::print_json;
use crate::admin::{Admin, count, list, text};
use crate::error::CtlError;
use crate::format;
use crate::table::{Align, Table};

pub(super) fn run(
    admin: &Admin,
    limit: usize,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let answer = admin.get_json("/hot")?;
    let mut keys = list(&answer, "keys").to_vec();
    let rate = |key: &Value| key.get("requests_per_second").and_then(Value::as_f64).unwrap_or(0.0);
    keys.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
    keys.truncate(limit);
    if json {
        return print_json(&keys.into(), out);
    }
    if keys.is_empty() {
        writeln!(out, "no key is hot")?;
        return Ok(());
    }
    let mut table = Table::new([
        ("core", Align::Right),
        ("share", Align::Right),
        ("requests/s", Align::Right),
        ("key", Align::Left),
    ]);
    for key in &keys {
        let share = key.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        table.row(vec![
            count(key, "core").to_string(),
            format::percent(share, 1.0),
            format::grouped(rate(key).round() as u64),
            name(key),
        ]);
    }
    Ok(table.write(out)?)
}

/// The key as it can be shown.
fn name(key: &Value) -> String {
    let name = text(key, "key");
    if text(key, "encoding") != "base64" {
        return format::printable(name.as_bytes());
    }
    match base64::engine::general_purpose::STANDARD.decode(&name) {
        Ok(bytes) => format::printable(&bytes),
        Err(_) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_of_odd_bytes_are_shown_escaped() {
        assert_eq!(name(&json!({"key": "user:1"})), "user:1");
        assert_eq!(name(&json!({"key": "Yf9i", "encoding": "base64"})), r"a\xffb");
    }
}
