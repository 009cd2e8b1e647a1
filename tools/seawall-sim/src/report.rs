//! What the replays found, as a table for people and as JSON for programs.

use crate::Policy;
use crate::replay::{Capacity, Outcome};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// One replay.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the trace.
    pub trace: String,
    /// Name of the policy.
    pub policy: String,
    /// Capacity as a part of the trace, if it was given so.
    pub fraction: Option<f64>,
    /// Capacity in objects.
    pub capacity_objects: Option<u64>,
    /// Capacity in bytes, the engine's overhead included.
    pub capacity_bytes: Option<u64>,
    /// Shards that the keys were divided among.
    pub shards: u32,
    /// Seed of the hash.
    pub seed: u64,
    /// Requests replayed.
    pub requests: u64,
    /// Requests that missed.
    pub misses: u64,
    /// Fills that the engine refused.
    pub refused: u64,
    /// Misses per request.
    pub miss_ratio: f64,
    /// Missed bytes per requested byte, when bytes are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_miss_ratio: Option<f64>,
    /// The reference's miss ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
    /// How many points ours is above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points_above_reference: Option<f64>,
}

impl Row {
    /// Of one replay.
    pub fn new(
        trace: &str,
        policy: Policy,
        fraction: Option<f64>,
        capacity: Capacity,
        shards: u32,
        seed: u64,
        outcome: &Outcome,
    ) -> Row {
        let (objects, bytes) = match capacity {
            Capacity::Objects(objects) => (Some(objects), None),
            Capacity::Bytes(bytes) => (None, Some(bytes)),
        };
        Row {
            trace: trace.to_owned(),
            policy: policy.name().to_owned(),
            fraction,
            capacity_objects: objects,
            capacity_bytes: bytes,
            shards,
            seed,
            requests: outcome.requests,
            misses: outcome.misses,
            refused: outcome.refused,
            miss_ratio: outcome.miss_ratio(),
            byte_miss_ratio: bytes.map(|_| outcome.byte_miss_ratio()),
            reference: None,
            points_above_reference: None,
        }
    }

    /// Compares with `reference`, if that has a figure for the same.
    pub fn compare(&mut self, reference: &Reference, policy: Policy) {
        let mode = if self.capacity_bytes.is_some() { "byte_mode" } else { "object_mode" };
        let Some(fraction) = self.fraction else { return };
        self.reference = reference.miss_ratio(&self.trace, mode, policy.reference_name(), fraction);
        self.points_above_reference =
            self.reference.map(|reference| (self.miss_ratio - reference) * 100.0);
    }
}

/// Miss ratios that somebody else measured, as in `reference.json`.
#[derive(Debug)]
pub struct Reference(Value);

impl Reference {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Reference> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let json = serde_json::from_str(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        Ok(Reference(json))
    }

    fn miss_ratio(&self, trace: &str, mode: &str, policy: &str, fraction: f64) -> Option<f64> {
        let mode = self.0.get("traces")?.get(trace)?.get(mode)?;
        // Fractions of byte mode are those of object mode.
        let fractions = mode.get("capacity_fraction").or_else(|| {
            self.0.get("traces")?.get(trace)?.get("object_mode")?.get("capacity_fraction")
        })?;
        let same = |value: &Value| value.as_f64().is_some_and(|f| (f - fraction).abs() < 1e-9);
        let column = fractions.as_array()?.iter().position(same)?;
        mode.get("miss_ratio")?.get(policy)?.get(column)?.as_f64()
    }
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn percent(fraction: f64) -> String {
    let text = format!("{:.2}", fraction * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn column_name(row: &Row) -> String {
    let size = match (row.capacity_objects, row.capacity_bytes) {
        (Some(objects), _) => thousands(objects),
        (None, bytes) => format!("{} MiB", thousands(bytes.unwrap_or(0) >> 20)),
    };
    match row.fraction {
        Some(fraction) => format!("{} = {size}", percent(fraction)),
        None => size,
    }
}

/// The rows of one trace: a line a policy, a column a capacity. Miss ratios in
/// percent, and behind them, where there is a reference, the points above it.
pub fn table(rows: &[Row]) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut policies: Vec<&str> = Vec::new();
    for row in rows {
        let name = column_name(row);
        if !columns.contains(&name) {
            columns.push(name);
        }
        if !policies.contains(&row.policy.as_str()) {
            policies.push(&row.policy);
        }
    }
    let compared = rows.iter().any(|row| row.reference.is_some());
    let width =
        columns.iter().map(String::len).max().unwrap_or(0).max(if compared { 16 } else { 8 });
    let mut text = format!("  {:<10}", "policy");
    for column in &columns {
        let _ = write!(text, "  {column:>width$}");
    }
    text.push('\n');
    for policy in policies {
        let _ = write!(text, "  {policy:<10}");
        for column in &columns {
            let row = rows.iter().find(|row| row.policy == policy && column_name(row) == *column);
            let cell = row.map_or_else(|| "-".to_owned(), |row| cell(row, compared));
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

fn cell(row: &Row, compared: bool) -> String {
    let ratio = format!("{:.2}", row.miss_ratio * 100.0);
    match row.points_above_reference {
        Some(points) => format!("{ratio} ({points:+.2})"),
        None if compared => format!("{ratio}        "),
        None => ratio,
    }
}

/// Mean change of misses against LRU over all traces (geometric), a line a
/// policy, a column a fraction. Empty unless LRU was replayed too, at
/// capacities given as parts of the traces.
pub fn against_lru(rows: &[Row]) -> String {
    let mut fractions: Vec<f64> = Vec::new();
    for fraction in rows.iter().filter_map(|row| row.fraction) {
        if !fractions.contains(&fraction) {
            fractions.push(fraction);
        }
    }
    let mut policies: Vec<&str> = Vec::new();
    for row in rows {
        if row.policy != "lru" && !policies.contains(&row.policy.as_str()) {
            policies.push(&row.policy);
        }
    }
    if fractions.is_empty() || policies.is_empty() || !rows.iter().any(|row| row.policy == "lru") {
        return String::new();
    }
    let mut text = format!("  {:<10}", "policy");
    for &fraction in &fractions {
        let _ = write!(text, "  {:>8}", percent(fraction));
    }
    text.push('\n');
    for policy in policies {
        let _ = write!(text, "  {policy:<10}");
        for &fraction in &fractions {
            let change = change_against_lru(rows, policy, fraction);
            let _ = match change {
                Some(change) => write!(text, "  {:>+7.1}%", change * 100.0),
                None => write!(text, "  {:>8}", "-"),
            };
        }
        text.push('\n');
    }
    text
}

fn change_against_lru(rows: &[Row], policy: &str, fraction: f64) -> Option<f64> {
    let at = |row: &&Row| row.fraction == Some(fraction);
    let logarithms: Vec<f64> = rows
        .iter()
        .filter(at)
        .filter(|row| row.policy == policy)
        .filter_map(|row| {
            let same = |other: &&Row| other.policy == "lru" && other.trace == row.trace;
            let lru = rows.iter().filter(at).find(same)?;
            Some((row.miss_ratio / lru.miss_ratio).ln())
        })
        .collect();
    let mean = logarithms.iter().sum::<f64>() / logarithms.len() as f64;
    (!logarithms.is_empty()).then(|| mean.exp() - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(trace: &str, policy: Policy, fraction: f64, misses: u64) -> Row {
        let outcome = Outcome { requests: 1000, misses, ..Outcome::default() };
        Row::new(trace, policy, Some(fraction), Capacity::Objects(1234), 1, 1, &outcome)
    }

    #[test]
    fn tables_line_up() {
        let mut rows =
            vec![row("a", Policy::Lru, 0.001, 500), row("a", Policy::ClockPro, 0.001, 450)];
        assert_eq!(
            table(&rows),
            "  policy      0.1% = 1,234\n  lru                50.00\n  clock-pro          45.00\n"
        );
        let reference = Reference(serde_json::json!({"traces": {"a": {"object_mode": {
            "capacity_fraction": [0.001], "miss_ratio": {"LRU": [0.501]}}}}}));
        rows.iter_mut().for_each(|row| row.compare(&reference, Policy::Lru));
        assert_eq!(rows[0].reference, Some(0.501));
        assert!(table(&rows).contains("50.00 (-0.10)"));
    }

    #[test]
    fn the_mean_change_is_geometric() {
        let rows = [
            row("a", Policy::Lru, 0.1, 800),
            row("a", Policy::ClockPro, 0.1, 400),
            row("b", Policy::Lru, 0.1, 400),
            row("b", Policy::ClockPro, 0.1, 800),
        ];
        assert!(against_lru(&rows).contains("+0.0%"));
        assert!(against_lru(&rows[1..2]).is_empty());
    }

    #[test]
    fn numbers() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(percent(0.001), "0.1%");
        assert_eq!(percent(0.4), "40%");
    }
}
