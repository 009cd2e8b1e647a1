//! `seawallctl stats`: the `stats` answers as tables or JSON.

use std::io::Write;

use serde_json::{Map, Value};

use super::print_json;
use crate::cli::StatsGroup;
use crate::error::CtlError;
use crate::format;
use crate::memcached::Client;
use crate::table::{Align, Table};

/// The columns that say most; `--all` shows the others as well.
const ITEMS: [&str; 9] = [
    "number",
    "age",
    "mem_requested",
    "evicted",
    "evicted_unfetched",
    "expired_unfetched",
    "reclaimed",
    "outofmemory",
    "hits",
];
const SLABS: [&str; 9] = [
    "chunk_size",
    "chunks_per_page",
    "total_pages",
    "total_chunks",
    "used_chunks",
    "free_chunks",
    "get_hits",
    "cmd_set",
    "delete_hits",
];

pub(super) fn run(
    client: &mut Client,
    group: StatsGroup,
    all: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let name = match group {
        StatsGroup::General => "",
        StatsGroup::Items => "items",
        StatsGroup::Slabs => "slabs",
        StatsGroup::Settings => "settings",
        StatsGroup::Sizes => "sizes",
        StatsGroup::Conns => "conns",
    };
    let stats = client.stats(name)?;
    if json {
        return print_json(&to_json(&stats), out);
    }
    match group {
        StatsGroup::General | StatsGroup::Settings => pairs(&stats, out),
        StatsGroup::Sizes => sizes(&stats, out),
        StatsGroup::Items => grouped(&stats, "class", if all { &[] } else { &ITEMS }, out),
        StatsGroup::Slabs => grouped(&stats, "class", if all { &[] } else { &SLABS }, out),
        StatsGroup::Conns => grouped(&stats, "conn", &[], out),
    }
}

/// A flat object; what looks like a number is one.
fn to_json(stats: &[(String, String)]) -> Value {
    let value = |text: &str| match (text.parse::<u64>(), text.parse::<f64>()) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) if number.is_finite() => number.into(),
        _ => text.into(),
    };
    stats.iter().map(|(name, text)| (name.clone(), value(text))).collect::<Map<_, _>>().into()
}

/// Plain pairs, with a readable form beside bytes and times.
fn pairs(stats: &[(String, String)], out: &mut dyn Write) -> Result<(), CtlError> {
    let mut table = Table::new([("name", Align::Left), ("value", Align::Right), ("", Align::Left)]);
    for (name, value) in stats {
        table.row(vec![name.clone(), value.clone(), remark(name, value)]);
    }
    Ok(table.write(out)?)
}

fn remark(name: &str, value: &str) -> String {
    let Ok(number) = value.parse::<u64>() else { return String::new() };
    let is_bytes = name.ends_with("bytes")
        || name.starts_with("bytes")
        || matches!(name, "total_malloced" | "item_size_max" | "slab_chunk_max");
    match name {
        "uptime" => format::seconds(number),
        _ if is_bytes && number >= 1024 => format::bytes(number),
        _ => String::new(),
    }
}

/// Sizes are names here: they sort as numbers.
fn sizes(stats: &[(String, String)], out: &mut dyn Write) -> Result<(), CtlError> {
    let mut rows: Vec<(u64, &str)> = stats
        .iter()
        .filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str())))
        .collect();
    if rows.is_empty() {
        return pairs(stats, out);
    }
    rows.sort_unstable();
    let mut table = Table::new([("size", Align::Right), ("items", Align::Right)]);
    for (size, items) in rows {
        table.row(vec![size.to_string(), items.into()]);
    }
    Ok(table.write(out)?)
}

/// `[prefix:]number:field value` as one row a number and one column a field,
/// then what has no number.
fn grouped(
    stats: &[(String, String)],
    head: &str,
    wanted: &[&str],
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let mut fields: Vec<&str> = Vec::new();
    let mut rows: Vec<(u64, Vec<(&str, &str)>)> = Vec::new();
    let mut rest: Vec<(String, String)> = Vec::new();
    for (name, value) in stats {
        let Some((number, field)) = split(name) else {
            rest.push((name.clone(), value.clone()));
            continue;
        };
        if !fields.contains(&field) {
            fields.push(field);
        }
        match rows.iter_mut().rev().find(|row| row.0 == number) {
            Some(row) => row.1.push((field, value)),
            None => rows.push((number, vec![(field, value)])),
        }
    }
    if !wanted.is_empty() {
        fields.retain(|field| wanted.contains(field));
        fields.sort_by_key(|field| wanted.iter().position(|name| name == field));
    }
    if rows.is_empty() && rest.is_empty() {
        writeln!(out, "nothing yet")?;
        return Ok(());
    }
    if !rows.is_empty() {
        let is_number = |field: &str| {
            rows.iter()
                .flat_map(|row| &row.1)
                .all(|(name, value)| *name != field || value.parse::<f64>().is_ok())
        };
        let columns = fields
            .iter()
            .map(|field| (*field, if is_number(field) { Align::Right } else { Align::Left }));
        let mut table = Table::new([(head, Align::Right)].into_iter().chain(columns));
        for (number, values) in &rows {
            let cell = |field: &&str| {
                let found = values.iter().find(|(name, _)| name == field);
                found.map_or("-".to_owned(), |(_, value)| (*value).to_owned())
            };
            table.row([number.to_string()].into_iter().chain(fields.iter().map(cell)).collect());
        }
        table.write(out)?;
    }
    if !rest.is_empty() {
        if !rows.is_empty() {
            writeln!(out)?;
        }
        pairs(&rest, out)?;
    }
    Ok(())
}

/// `items:4:age` and `4:age` as `(4, "age")`.
fn split(name: &str) -> Option<(u64, &str)> {
    let (front, field) = name.rsplit_once(':')?;
    let number = front.rsplit_once(':').map_or(front, |(_, number)| number);
    Some((number.parse().ok()?, field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn classes_become_rows() {
        let stats = stats(&[
            ("1:chunk_size", "96"),
            ("1:secret", "5"),
            ("12:chunk_size", "1184"),
            ("12:get_hits", "7"),
            ("active_slabs", "2"),
        ]);
        let mut out = Vec::new();
        grouped(&stats, "class", &SLABS, &mut out).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "class  chunk_size  get_hits\n    1          96         -\n   12        1184         7\n\n\
             name          value\nactive_slabs      2\n"
        );
    }

    #[test]
    fn names_are_split_at_their_number() {
        assert_eq!(split("items:4:age"), Some((4, "age")));
        assert_eq!(split("26:addr"), Some((26, "addr")));
        assert_eq!(split("active_slabs"), None);
    }

    #[test]
    fn bytes_and_times_get_a_readable_form() {
        assert_eq!(remark("limit_maxbytes", "67108864"), "64.0 MiB");
        assert_eq!(remark("uptime", "3661"), "1h 1m");
        assert_eq!(remark("get_hits", "67108864"), "");
    }

    #[test]
    fn json_keeps_numbers_as_numbers() {
        let json =
            to_json(&stats(&[("a", "1"), ("b", "0.5"), ("version", "1.6.18"), ("n", "nan")]));
        assert_eq!(json.to_string(), r#"{"a":1,"b":0.5,"n":"nan","version":"1.6.18"}"#);
    }
}
