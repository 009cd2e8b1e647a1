//! `seawallctl check`: is the node healthy, and is the machine set up for it?
//!
//! Each finding is one line: `ok`, `note` (works, but could be better; exit
//! code 1) or `FAIL` (clients suffer; exit code 2), with what to do below it.

use std::fs;
use std::io::Write;
use std::time::Instant;

use serde_json::{Value, json};

use super::print_json;
use crate::admin::{Admin, list, text};
use crate::cli::Cli;
use crate::error::CtlError;
use crate::format;
use crate::memcached::Client;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Note,
    Fail,
}

/// One line of the result.
#[derive(Clone, Debug)]
struct Finding {
    level: Level,
    what: &'static str,
    text: String,
    /// What to do; empty where there is nothing to do.
    advice: String,
}

/// The lines so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, what: &'static str, text: impl Into<String>, advice: &str) {
        self.0.push(Finding { level, what, text: text.into(), advice: advice.into() });
    }

    fn ok(&mut self, what: &'static str, text: impl Into<String>) {
        self.add(Level::Ok, what, text, "");
    }
}

pub(super) fn run(
    cli: &Cli,
    admin: &Admin,
    read_only: bool,
    out: &mut dyn Write,
) -> Result<u8, CtlError> {
    let mut findings = Findings::default();
    check_server(cli, read_only, &mut findings);
    check_admin(admin, &mut findings);
    let worst = findings.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if cli.json {
        let lines = findings.0.iter().map(|finding| {
            json!({
                "level": word(finding.level).to_lowercase(),
                "check": finding.what,
                "text": finding.text,
                "advice": finding.advice,
            })
        });
        print_json(
            &json!({ "healthy": worst < Level::Fail, "findings": lines.collect::<Vec<Value>>() }),
            out,
        )?;
    } else {
        for finding in &findings.0 {
            writeln!(out, "{:<5} {:<12} {}", word(finding.level), finding.what, finding.text)?;
            for line in finding.advice.lines() {
                writeln!(out, "{:<18} {}", "", line.trim_start())?;
            }
        }
    }
    Ok(worst as u8)
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Fail => "FAIL",
    }
}

/// The memcached port: reachable, answering, storing, with memory to spare.
fn check_server(cli: &Cli, read_only: bool, findings: &mut Findings) {
    let start = Instant::now();
    let connected = Client::connect(&cli.server, cli.timeout())
        .and_then(|mut client| client.command("version").map(|version| (client, version)));
    let (mut client, version) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let text = error.to_string();
            let (text, advice) = text.split_once('\n').unwrap_or((&text, ""));
            return findings.add(Level::Fail, "server", text, advice);
        }
    };
    let took = start.elapsed();
    findings.ok(
        "server",
        format!("{} answers {} in {:.1} ms", cli.server, version.trim(), took.as_secs_f64() * 1e3),
    );
    if !read_only {
        match probe(&mut client) {
            Ok(()) => findings.ok("round trip", "a key was written, read and deleted"),
            Err(error) => findings.add(Level::Fail, "round trip", error.to_string(), ""),
        }
    }
    let stats = match client.stats("") {
        Ok(stats) => stats,
        Err(error) => return findings.add(Level::Fail, "stats", error.to_string(), ""),
    };
    let number = |name: &str| {
        stats.iter().find(|stat| stat.0 == name).and_then(|stat| stat.1.parse::<u64>().ok())
    };
    check_memory(number("bytes"), number("limit_maxbytes"), number("evictions"), findings);
    check_connections(
        number("curr_connections"),
        number("max_connections"),
        number("rejected_connections"),
        findings,
    );
    if let Some(pid) = number("pid") {
        check_process(pid, number("limit_maxbytes").unwrap_or(0), findings);
    }
}

fn check_memory(
    used: Option<u64>,
    limit: Option<u64>,
    evictions: Option<u64>,
    findings: &mut Findings,
) {
    let (Some(used), Some(limit)) = (used, limit) else { return };
    let share = format::percent(used as f64, limit as f64);
    let text = format!("{} of {} used ({share})", format::bytes(used), format::bytes(limit));
    let evicted = match evictions {
        Some(evictions) if evictions > 0 => {
            format!("{} evictions so far", format::grouped(evictions))
        }
        _ => "nothing was evicted".into(),
    };
    findings.ok("memory", format!("{text}, {evicted}"));
}

fn check_connections(
    now: Option<u64>,
    limit: Option<u64>,
    rejected: Option<u64>,
    findings: &mut Findings,
) {
    let (Some(now), Some(limit)) = (now, limit) else { return };
    let text = format!("{} of {}", format::grouped(now), format::grouped(limit));
    let rejected = rejected.unwrap_or(0);
    if rejected > 0 {
        let text = format!("{text}; {} were rejected at the limit", format::grouped(rejected));
        findings.add(
            Level::Note,
            "connections",
            text,
            "raise it:  -c N, or fewer connections a client",
        );
    } else if now * 10 > limit * 9 {
        findings.add(Level::Note, "connections", format!("{text}: nearly full"), "raise it:  -c N");
    } else {
        findings.ok("connections", text);
    }
}

/// Writes, reads and deletes a key that no application uses.
fn probe(client: &mut Client) -> Result<(), CtlError> {
    let key = format!("seawallctl:check:{}", std::process::id());
    let set = format!("set {key} 0 60 5\r\nprobe");
    let expect = |request: &str, found: String, expected: &str| match found == expected {
        true => Ok(()),
        false => Err(CtlError::Unexpected { request: request.into(), found }),
    };
    let stored = client.command(&set)?;
    expect("set of a probe key", stored, "STORED")?;
    let head = client.command(&format!("get {key}"))?;
    expect("get of the probe key", head, &format!("VALUE {key} 0 5"))?;
    let mut value = [0; 12];
    client.read_exact(&mut value)?;
    expect("value of the probe key", String::from_utf8_lossy(&value).into(), "probe\r\nEND\r\n")?;
    match client.delete(&key)? {
        true => Ok(()),
        false => Err(CtlError::Unexpected {
            request: "delete of the probe key".into(),
            found: "it was gone".into(),
        }),
    }
}

/// What the machine gives the process, where we can see it.
fn check_process(pid: u64, limit_bytes: u64, findings: &mut Findings) {
    // The process may be on another machine, or not be ours to look at.
    let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { return };
    if name.trim() != "seawalld" {
        return;
    }
    if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        let resident = kilobytes(&rollup, "Rss:") * 1024;
        let huge = (kilobytes(&rollup, "AnonHugePages:")
            + kilobytes(&rollup, "Private_Hugetlb:")
            + kilobytes(&rollup, "Shared_Hugetlb:"))
            * 1024;
        let text = format!(
            "{} of {} resident are on huge pages",
            format::bytes(huge),
            format::bytes(resident)
        );
        if huge == 0 && resident > 64 << 20 {
            findings.add(
                Level::Note,
                "huge pages",
                text,
                "a third of a pipelined get's CPU time is at stake:\n\
                 echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            );
        } else {
            findings.ok("huge pages", text);
        }
        if limit_bytes > 0 && resident > limit_bytes + limit_bytes / 4 + (64 << 20) {
            let text = format!(
                "{} resident with a limit of {}",
                format::bytes(resident),
                format::bytes(limit_bytes)
            );
            findings.add(Level::Note, "resident", text, "");
        }
    }
    if let Ok(limits) = fs::read_to_string(format!("/proc/{pid}/limits")) {
        match locked_limit(&limits) {
            Some(u64::MAX) => findings.ok("memlock", "unlimited"),
            Some(bytes) if bytes >= 8 << 20 => findings.ok("memlock", format::bytes(bytes)),
            Some(bytes) => findings.add(
                Level::Note,
                "memlock",
                format!("{}: rings need up to 8 MiB", format::bytes(bytes)),
                "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited",
            ),
            None => {}
        }
    }
}

/// The number of kB behind `name`.
fn kilobytes(rollup: &str, name: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The soft limit of locked memory in bytes.
fn locked_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        bytes => bytes.parse().ok(),
    }
}

/// The admin port: ready, and on which socket loop.
fn check_admin(admin: &Admin, findings: &mut Findings) {
    let answer = match admin.get("/readyz") {
        Ok(answer) => answer,
        Err(error) => {
            let text = error.to_string();
            let (text, advice) = text.split_once('\n').unwrap_or((&text, ""));
            return findings.add(Level::Note, "admin", text, advice);
        }
    };
    let reasons = reasons(&answer.body);
    match answer.status {
        200 => findings.ok("ready", "the node serves clients"),
        503 => findings.add(Level::Fail, "ready", reasons, ""),
        status => findings.add(
            Level::Note,
            "ready",
            format!("GET /readyz answered {status}"),
            "is --admin the admin port of a seawalld of this version?",
        ),
    }
    let Ok(cores) = admin.get_json("/cores") else { return };
    let cores = list(&cores, "cores");
    let Some(first) = cores.first() else { return };
    let backend = text(first, "backend");
    let reason = text(first, "backend_reason");
    match backend.as_str() {
        "" => {}
        "epoll" if !reason.is_empty() => findings.add(
            Level::Note,
            "socket loop",
            format!("epoll on {} cores: {reason}", cores.len()),
            "epoll costs 1.1 to 1.5 times the CPU of io_uring",
        ),
        _ => findings.ok("socket loop", format!("{backend} on {} cores", cores.len())),
    }
}

/// The reasons in a `/readyz` answer, or the answer itself.
fn reasons(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let reasons: Vec<&str> = parsed
        .as_ref()
        .map(|value| list(value, "reasons").iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if reasons.is_empty() { body.trim().into() } else { reasons.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let rollup = "00400000-7ffd rollup\nRss:               2048 kB\nAnonHugePages:      4 kB\n";
        assert_eq!(kilobytes(rollup, "Rss:"), 2048);
        assert_eq!(kilobytes(rollup, "Private_Hugetlb:"), 0);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608              unlimited            bytes\n";
        assert_eq!(locked_limit(limits), Some(8 << 20));
        assert_eq!(
            locked_limit(
                "Max locked memory         unlimited            unlimited            bytes"
            ),
            Some(u64::MAX)
        );
    }

    #[test]
    fn reasons_are_joined() {
        assert_eq!(
            reasons(r#"{"ready":false,"reasons":["loading the snapshot","no core"]}"#),
            "loading the snapshot; no core"
        );
        assert_eq!(reasons("starting\n"), "starting");
    }

    #[test]
    fn nearly_full_connections_are_noted() {
        let level = |now, limit, rejected| {
            let mut findings = Findings::default();
            check_connections(Some(now), Some(limit), Some(rejected), &mut findings);
            findings.0[0].level
        };
        assert_eq!(level(10, 1024, 0), Level::Ok);
        assert_eq!(level(1000, 1024, 0), Level::Note);
        assert_eq!(level(10, 1024, 3), Level::Note);
    }
}
