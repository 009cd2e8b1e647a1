//! `seawallctl ring`, `drain`, `forget`: the cluster as this node sees it.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::print_json;
use crate::admin::{Admin, count, list, text};
use crate::error::CtlError;
use crate::format;
use crate::table::{Align, Table};

/// Between two looks at a node that is being emptied.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Shows the nodes, and how the partitions stand around the ring.
pub(super) fn run(admin: &Admin, json: bool, out: &mut dyn Write) -> Result<(), CtlError> {
    let ring = admin.get_json("/ring")?;
    if json {
        return print_json(&ring, out);
    }
    show(&ring, out)
}

fn show(ring: &Value, out: &mut dyn Write) -> Result<(), CtlError> {
    writeln!(
        out,
        "cluster {}, revision {}, {} copies, seen from {}",
        Some(text(ring, "cluster"))
            .filter(|name| !name.is_empty())
            .as_deref()
            .unwrap_or("none yet"),
        text(ring, "revision"),
        text(ring, "copies"),
        text(ring, "node")
    )?;
    remarks(ring, out)?;
    writeln!(out)?;
    picture(ring, out)?;
    writeln!(out)?;
    nodes(ring, out)
}

/// The coordinator, and all that is not as it should be.
fn remarks(ring: &Value, out: &mut dyn Write) -> Result<(), CtlError> {
    let coordinator = &ring["coordinator"];
    let leader = text(coordinator, "leader");
    writeln!(
        out,
        "coordinator {}: {}, {}",
        text(coordinator, "kind"),
        if leader.is_empty() { "no leader".into() } else { format!("{leader} leads") },
        if coordinator["quorum"] == true { "a majority answers" } else { "NO MAJORITY" },
    )?;
    let sole = list(coordinator, "keepers").len() == 1 && list(ring, "nodes").len() > 1;
    if sole && text(coordinator, "kind") == "embedded" {
        writeln!(
            out,
            "one keeper only: if it dies, nothing can be decided; a third node makes it three"
        )?;
    }
    for (name, words) in
        [("disk_error", "disk"), ("waits_for", "waiting for"), ("other_cluster", "attention")]
    {
        let value = text(coordinator, name);
        if !value.is_empty() {
            writeln!(out, "{words}: {value}")?;
        }
    }
    let clock = text(ring, "clock_complaint");
    if !clock.is_empty() {
        writeln!(out, "{clock}")?;
    }
    let settings = text(ring, "settings_complaint");
    if !settings.is_empty() {
        writeln!(out, "{settings}")?;
    }
    let odd: Vec<&str> = list(ring, "settings_differ").iter().filter_map(Value::as_str).collect();
    if !odd.is_empty() {
        writeln!(out, "other settings than the keeper: {}", odd.join(", "))?;
    }
    let refused = &ring["refused"];
    if count(refused, "count") > 0 {
        writeln!(
            out,
            "refused connections: {}, the latest {} s ago: {}",
            format::grouped(count(refused, "count")),
            text(refused, "seconds_ago"),
            text(refused, "latest")
        )?;
    }
    if ring["leased"] != true {
        writeln!(out, "this node has no lease: it answers no request")?;
    }
    Ok(())
}

fn nodes(ring: &Value, out: &mut dyn Write) -> Result<(), CtlError> {
    let mut table = Table::new([
        ("node", Align::Left),
        ("state", Align::Left),
        ("leads", Align::Right),
        ("in sync", Align::Right),
        ("filling", Align::Right),
        ("weight", Align::Right),
        ("cores", Align::Right),
        ("zone", Align::Left),
        ("address", Align::Left),
    ]);
    for node in list(ring, "nodes") {
        let state = match (node["up"] == true, node["draining"] == true) {
            (true, false) => "up",
            (true, true) => "up, emptied",
            (false, false) => "DOWN",
            (false, true) => "DOWN, emptied",
        };
        let number = |name| format::grouped(count(node, name));
        table.row(vec![
            text(node, "name"),
            state.into(),
            number("primaries"),
            number("in_sync"),
            number("filling"),
            number("weight"),
            number("cores"),
            text(node, "zone"),
            text(node, "address"),
        ]);
    }
    Ok(table.write(out)?)
}

/// One cell an arc of the ring: whole, lacking copies, or without a live one.
fn picture(ring: &Value, out: &mut dyn Write) -> Result<(), CtlError> {
    let partitions = &ring["partitions"];
    if list(ring, "arcs").is_empty() {
        return Ok(writeln!(out, "no partitions yet: this node knows of no cluster")?);
    }
    let arcs: String = list(ring, "arcs")
        .iter()
        .map(|arc| match arc.as_str() {
            Some("whole") => '█',
            Some("lacking") => '▒',
            _ => '·',
        })
        .collect();
    let number = |name| format::grouped(count(partitions, name));
    writeln!(out, "ring  {arcs}")?;
    writeln!(
        out,
        "      █ {} of {} partitions whole   ▒ {} lack copies   · {} without a live node",
        number("whole"),
        number("all"),
        number("lacking"),
        number("unavailable")
    )?;
    writeln!(out, "      {}", standing(ring))?;
    Ok(())
}

/// Whether a node may be taken away now, in words.
pub(super) fn standing(ring: &Value) -> &'static str {
    match (ring["whole"] == true, ring["settled"] == true) {
        (_, true) => "settled: every partition has all its copies, and nothing is planned",
        (true, false) => "whole, not settled: every partition has its copies, some are to be moved",
        (false, false) => "not whole: some partitions lack copies",
    }
}

/// Empties a node, or no longer, and waits for it if asked.
pub(super) fn drain(
    admin: &Admin,
    node: &str,
    undo: bool,
    wait: Option<Duration>,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, CtlError> {
    let answer = admin.post_json(&format!("/drain?node={}&on={}", encoded(node), !undo))?;
    let Some(patience) = wait.filter(|_| !undo) else {
        if json {
            print_json(&answer, out)?;
        } else {
            writeln!(
                out,
                "{node} {}",
                if undo { "gets partitions again" } else { "is being emptied" }
            )?;
        }
        return Ok(0);
    };
    let deadline = Instant::now() + patience;
    let mut said = None;
    loop {
        let ring = admin.get_json("/ring")?;
        let found = list(&ring, "nodes").iter().find(|found| text(found, "name") == node);
        let held = found.map_or(0, |node| count(node, "in_sync") + count(node, "filling"));
        if held == 0 {
            if json {
                print_json(&answer, out)?;
            } else {
                writeln!(out, "{node} is empty; it can be stopped")?;
            }
            return Ok(0);
        }
        if !json && said != Some(held) {
            said = Some(held);
            writeln!(out, "{node} holds {} copies", format::grouped(held))?;
            out.flush()?;
        }
        if Instant::now() >= deadline {
            writeln!(out, "{node} still holds {} copies", format::grouped(held))?;
            return Ok(1);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Takes an empty node out of the cluster for good.
pub(super) fn forget(
    admin: &Admin,
    node: &str,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let answer = admin.post_json(&format!("/forget?node={}", encoded(node)))?;
    if json {
        return print_json(&answer, out);
    }
    Ok(writeln!(out, "{node} is no part of the cluster any more")?)
}

/// A name as it stands in a URL.
fn encoded(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn before_there_is_a_cluster_no_ring_is_drawn() {
        let ring = json!({
            "cluster": "", "node": "a", "revision": 0, "copies": 0, "leased": false,
            "partitions": { "all": 0, "whole": 0, "lacking": 0, "unavailable": 0 },
            "arcs": [], "nodes": [],
            "coordinator": {
                "kind": "embedded", "leader": null, "quorum": false, "keepers": [],
                "waits_for": "b:1 (no answer yet)",
            },
        });
        let mut out = Vec::new();
        show(&ring, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("cluster none yet, revision 0"), "{out}");
        assert!(out.contains("waiting for: b:1 (no answer yet)\n"), "{out}");
        assert!(out.contains("no partitions yet") && !out.contains('█'), "{out}");
    }

    #[test]
    fn a_sole_keeper_of_several_nodes_is_reported() {
        let node = |name: &str| json!({ "name": name, "up": true });
        let ring = |nodes: Vec<Value>| {
            json!({
                "cluster": "tide", "node": "a", "revision": 7, "copies": 2, "leased": true,
                "partitions": {}, "arcs": [], "nodes": nodes,
                "coordinator": { "kind": "embedded", "leader": "a:1", "quorum": true, "keepers": ["a:1"] },
            })
        };
        let said = |nodes: Vec<Value>| {
            let mut out = Vec::new();
            show(&ring(nodes), &mut out).unwrap();
            String::from_utf8(out).unwrap().contains("one keeper only")
        };
        assert!(said(vec![node("a"), node("b")]) && !said(vec![node("a")]));
    }

    #[test]
    fn what_is_wrong_stands_above_the_ring() {
        let ring = json!({
            "cluster": "tide", "node": "a", "revision": 7, "copies": 2, "leased": true,
            "partitions": {}, "arcs": [], "nodes": [],
            "coordinator": {
                "kind": "embedded", "leader": "a:1", "quorum": true,
                "disk_error": "cannot write: no space left on device",
            },
            "refused": { "count": 2, "seconds_ago": 3, "latest": "peer 10.0.0.9:4711 refused: why" },
        });
        let mut out = Vec::new();
        show(&ring, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("disk: cannot write: no space left on device\n"), "{out}");
        let refused =
            "refused connections: 2, the latest 3 s ago: peer 10.0.0.9:4711 refused: why\n";
        assert!(out.contains(refused), "{out}");
    }
}
