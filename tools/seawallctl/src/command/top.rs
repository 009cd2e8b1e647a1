//! `seawallctl top`: each core's rates, from two readings of `GET /cores`.
//!
//! Where the admin port does not answer, `stats` of the memcached port serve
//! as one row for the whole node; that also works against other memcacheds.

use std::io::{IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{Admin, count, list};
use crate::cli::Cli;
use crate::error::CtlError;
use crate::format;
use crate::memcached::Client;
use crate::table::{Align, Table};

/// One core's counters, or the whole node's.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counters {
    name: String,
    requests: u64,
    hits: u64,
    misses: u64,
    sets: u64,
    evictions: u64,
    hops: u64,
    items: u64,
    used_bytes: u64,
    limit_bytes: u64,
    connections: u64,
}

/// Everything at one moment.
struct Reading {
    at: Instant,
    uptime_seconds: u64,
    version: String,
    cores: Vec<Counters>,
}

pub(super) fn run(
    cli: &Cli,
    admin: &Admin,
    interval: f64,
    once: bool,
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let screen = std::io::stdout().is_terminal() && !once && !cli.json;
    let mut client = Client::connect(&cli.server, cli.timeout())?;
    let mut before = read(&mut client, admin)?;
    loop {
        sleep(Duration::from_secs_f64(interval));
        let now = read(&mut client, admin)?;
        let rates = rates(&before, &now);
        if cli.json {
            writeln!(out, "{}", to_json(&now, &rates))?;
        } else {
            if screen {
                // Home, then clear what is below: no flicker.
                write!(out, "\x1b[H\x1b[J")?;
            }
            frame(&cli.server, &now, &rates, out)?;
        }
        out.flush()?;
        if once {
            return Ok(());
        }
        before = now;
    }
}

fn read(client: &mut Client, admin: &Admin) -> Result<Reading, CtlError> {
    let at = Instant::now();
    let stats = client.stats("")?;
    let text =
        |name: &str| stats.iter().find(|stat| stat.0 == name).map_or("", |stat| stat.1.as_str());
    let number = |name: &str| text(name).parse::<u64>().unwrap_or(0);
    let mut cores = match admin.get_json("/cores") {
        Ok(answer) => list(&answer, "cores").iter().map(of_core).collect(),
        // Without an admin port there is still the node as a whole.
        Err(CtlError::Admin { .. } | CtlError::Refused { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    if cores.is_empty() {
        cores.push(Counters {
            name: "all".into(),
            requests: number("cmd_get")
                + number("cmd_set")
                + number("cmd_touch")
                + number("delete_hits")
                + number("delete_misses")
                + number("incr_hits")
                + number("incr_misses")
                + number("decr_hits")
                + number("decr_misses"),
            hits: number("get_hits"),
            misses: number("get_misses"),
            sets: number("cmd_set"),
            evictions: number("evictions"),
            hops: number("seawall_hops_sent"),
            items: number("curr_items"),
            used_bytes: number("bytes"),
            limit_bytes: number("limit_maxbytes"),
            connections: number("curr_connections"),
        });
    }
    // memcached has no version beside the one of its protocol.
    let version = match text("seawall_version") {
        "" => text("version"),
        own => own,
    };
    Ok(Reading { at, uptime_seconds: number("uptime"), version: version.into(), cores })
}

/// One row of `GET /cores`. A client's request is either executed on the core
/// of its connection, or hops to another; keys are counted where they live.
fn of_core(core: &Value) -> Counters {
    let hops = count(core, "hops_sent_total");
    let hits = count(core, "get_hits_total");
    Counters {
        name: count(core, "core").to_string(),
        requests: count(core, "local_requests_total") + hops,
        hits,
        misses: count(core, "gets_total").saturating_sub(hits),
        sets: count(core, "sets_total"),
        evictions: count(core, "evictions_total"),
        hops,
        items: count(core, "items"),
        used_bytes: count(core, "memory_bytes"),
        limit_bytes: count(core, "memory_limit_bytes"),
        connections: count(core, "connections"),
    }
}

/// Counters as rates a second; what is no counter stays.
fn rates(before: &Reading, now: &Reading) -> Vec<Counters> {
    let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
    // A server that was restarted in between starts from zero again.
    let rate = |before: u64, now: u64| {
        let grown = if now >= before { now - before } else { now };
        (grown as f64 / seconds).round() as u64
    };
    let of = |now: &Counters| {
        let none = Counters::default();
        let before = before.cores.iter().find(|core| core.name == now.name).unwrap_or(&none);
        Counters {
            name: now.name.clone(),
            requests: rate(before.requests, now.requests),
            hits: rate(before.hits, now.hits),
            misses: rate(before.misses, now.misses),
            sets: rate(before.sets, now.sets),
            evictions: rate(before.evictions, now.evictions),
            hops: rate(before.hops, now.hops),
            ..now.clone()
        }
    };
    let mut rates: Vec<Counters> = now.cores.iter().map(of).collect();
    if rates.len() > 1 {
        let sum = |field: fn(&Counters) -> u64| rates.iter().map(field).sum();
        let total = Counters {
            name: "all".into(),
            requests: sum(|core| core.requests),
            hits: sum(|core| core.hits),
            misses: sum(|core| core.misses),
            sets: sum(|core| core.sets),
            evictions: sum(|core| core.evictions),
            hops: sum(|core| core.hops),
            items: sum(|core| core.items),
            used_bytes: sum(|core| core.used_bytes),
            limit_bytes: sum(|core| core.limit_bytes),
            connections: sum(|core| core.connections),
        };
        rates.push(total);
    }
    rates
}

fn frame(
    server: &str,
    now: &Reading,
    rates: &[Counters],
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    writeln!(
        out,
        "{server}  version {}  up {}\n",
        now.version,
        format::seconds(now.uptime_seconds)
    )?;
    let heads = [
        "requests/s",
        "hit ratio",
        "sets/s",
        "evictions/s",
        "hops",
        "items",
        "memory",
        "of limit",
        "connections",
    ];
    let columns = [("core", Align::Left)].into_iter().chain(heads.map(|head| (head, Align::Right)));
    let mut table = Table::new(columns);
    for core in rates {
        table.row(vec![
            core.name.clone(),
            format::grouped(core.requests),
            format::percent(core.hits as f64, (core.hits + core.misses) as f64),
            format::grouped(core.sets),
            format::grouped(core.evictions),
            format::percent(core.hops as f64, core.requests as f64),
            format::grouped(core.items),
            format::bytes(core.used_bytes),
            format::percent(core.used_bytes as f64, core.limit_bytes as f64),
            format::grouped(core.connections),
        ]);
    }
    Ok(table.write(out)?)
}

fn to_json(now: &Reading, rates: &[Counters]) -> Value {
    let core = |core: &Counters| {
        let reads = core.hits + core.misses;
        json!({
            "core": core.name,
            "requests_per_second": core.requests,
            "hit_ratio": (reads > 0).then(|| core.hits as f64 / reads as f64),
            "sets_per_second": core.sets,
            "evictions_per_second": core.evictions,
            "hop_share": (core.requests > 0).then(|| core.hops as f64 / core.requests as f64),
            "items": core.items,
            "used_bytes": core.used_bytes,
            "limit_bytes": core.limit_bytes,
            "connections": core.connections,
        })
    };
    json!({
        "version": now.version,
        "uptime_seconds": now.uptime_seconds,
        "cores": rates.iter().map(core).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, requests: [u64; 2]) -> Reading {
        let cores = requests.iter().enumerate().map(|(index, requests)| {
            of_core(&json!({"core": index, "local_requests_total": requests / 2,
                "hops_sent_total": requests / 2, "gets_total": requests * 3 / 4,
                "get_hits_total": requests / 2, "items": 5, "memory_bytes": 1024,
                "memory_limit_bytes": 4096, "connections": 3}))
        });
        Reading { at, uptime_seconds: 90, version: "1.6".into(), cores: cores.collect() }
    }

    #[test]
    fn two_readings_become_rates() {
        let start = Instant::now();
        let before = reading(start, [1000, 5000]);
        let now = reading(start + Duration::from_secs(2), [3000, 400]);
        let rates = rates(&before, &now);
        // The second core was restarted.
        assert_eq!(rates.iter().map(|core| core.requests).collect::<Vec<_>>(), [1000, 200, 1200]);
        let mut out = Vec::new();
        frame("h:1", &now, &rates, &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("h:1  version 1.6  up 1m 30s\n"), "{text}");
        assert!(text.contains("0          1,000      66.7%"), "{text}");
        assert!(text.contains("25.0%"), "{text}");
        assert_eq!(to_json(&now, &rates)["cores"][2]["requests_per_second"], 1200);
    }
}
