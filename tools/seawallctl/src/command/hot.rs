//! `seawallctl hot`: the keys that the cores' sketches see most, and in a cluster
//! who else answers them.

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
    // Only a node of a cluster makes copies.
    let in_cluster = keys.iter().any(|key| key.get("copies").is_some());
    let mut columns = vec![
        ("core", Align::Right),
        ("share", Align::Right),
        ("requests/s", Align::Right),
        ("key", Align::Left),
    ];
    if in_cluster {
        columns.push(("copies", Align::Left));
    }
    let mut table = Table::new(columns);
    for key in &keys {
        let share = key.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        let mut row = vec![
            count(key, "core").to_string(),
            format::percent(share, 1.0),
            format::grouped(rate(key).round() as u64),
            name(key),
        ];
        if in_cluster {
            row.push(key.get("copies").map_or_else(String::new, copies));
        }
        table.row(row);
    }
    Ok(table.write(out)?)
}

/// Who beside the key's core and node answers reads of it.
fn copies(copies: &Value) -> String {
    if let Some(why) = copies.get("none").and_then(Value::as_str) {
        return format!("none: {why}");
    }
    let words = |name: &str, of: fn(&Value) -> String| {
        list(copies, name).iter().map(of).collect::<Vec<String>>().join(" ")
    };
    let cores = words("cores", Value::to_string);
    let nodes = words("nodes", |node| node.as_str().unwrap_or_default().to_owned());
    let several = list(copies, "cores").len() > 1;
    match (several, nodes.is_empty()) {
        (true, true) => format!("cores {cores}"),
        (true, false) => format!("cores {cores}, nodes {nodes}"),
        _ => format!("nodes {nodes}"),
    }
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
    fn copies_are_told_in_few_words() {
        let told = |cores: &[u32], nodes: &[&str], none: Option<&str>| {
            copies(&json!({"cores": cores, "nodes": nodes, "none": none}))
        };
        assert_eq!(told(&[1, 0], &[], None), "cores 1 0");
        assert_eq!(told(&[1], &["a", "b"], None), "nodes a b");
        assert_eq!(told(&[0, 1], &["a"], None), "cores 0 1, nodes a");
        assert_eq!(told(&[0], &[], Some("not hot enough")), "none: not hot enough");
    }

    #[test]
    fn keys_of_odd_bytes_are_shown_escaped() {
        assert_eq!(name(&json!({"key": "user:1"})), "user:1");
        assert_eq!(name(&json!({"key": "Yf9i", "encoding": "base64"})), r"a\xffb");
    }
}
