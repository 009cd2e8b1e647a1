//! Text commands that are not about one key.

use super::frame::track_sizes;
use super::gather::Then;
use super::{CloseReason, Conn, Flow, Next, Phase, Wait};
use crate::VERSION;
use crate::control::{ControlOp, DumpFormat};
use crate::core::{Core, Shutdown};
use crate::limits::WATCHERS_MAX;
use crate::proto::BAD_FORMAT;
use crate::proto::number::{parse_f64, parse_i32, parse_u32};
use crate::proto::tokens::Tokens;
use crate::stats::Kind;
use crate::watch::Events;
use engine::{ClassId, ClassSet, ScanCursor};
use std::sync::atomic::Ordering::Relaxed;

/// memcached has this many classes; a number below is never an error.
const SLAB_CLASSES_MAX: u32 = 64;

/// Verbosity that memcached knows.
const VERBOSITY_MAX: u32 = 3;

/// Smallest and largest `cache_memlimit`, in megabytes.
const MEMLIMIT_MB: std::ops::RangeInclusive<u32> = 8..=1_000_000_000;

impl Conn {
    /// Executes the command line, or says what stops it.
    pub(super) fn command(&mut self, line: &[u8], core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let tokens = Tokens::new(line);
        let count = tokens.count();
        let quiet = tokens.quiet();
        let answer = match tokens.get(0) {
            b"version" => return self.said(out, false, &format!("VERSION {VERSION}")),
            b"quit" => {
                self.leave(CloseReason::Normal);
                return Flow::On;
            }
            b"stats" => return self.stats(&tokens, core, out),
            b"flush_all" if !(2..=4).contains(&count) => "ERROR",
            b"flush_all" => return self.flush_all(&tokens, core, out),
            b"verbosity" if count != 3 && count != 4 => "ERROR",
            b"verbosity" => match parse_u32(tokens.get(1)) {
                Some(level) => {
                    core.shared.verbosity.store(level.min(VERBOSITY_MAX), Relaxed);
                    return self.said(out, quiet, "OK");
                }
                None => return self.said(out, quiet, BAD_FORMAT),
            },
            b"shutdown" => return self.shutdown(&tokens, core, out),
            b"cache_memlimit" if count != 3 && count != 4 => "ERROR",
            b"cache_memlimit" => return self.cache_memlimit(&tokens, core, out),
            b"slabs" => return self.slabs(&tokens, core, out),
            b"lru" if count < 3 => "ERROR",
            b"lru" => {
                let answer = lru(&tokens, core);
                return self.said(out, quiet, answer);
            }
            b"lru_crawler" => return self.lru_crawler(&tokens, core, out),
            b"watch" => return self.start_watch(&tokens, core, out),
            b"invalidate" => return self.invalidate(&tokens, core, out),
            b"config" if count == 4 && tokens.get(1) == b"get" && tokens.get(2) == b"cluster" => {
                let text = cluster_config(core);
                self.write(out, |out| out.extend_from_slice(text.as_bytes()));
                return Flow::On;
            }
            b"topology" if count == 2 => return self.said(out, false, &topology(core)),
            // What Debian's memcached says when it runs without TLS.
            b"refresh_certs" => "Error TLS not enabled",
            // Somebody took us for a web server.
            command if !starts_known(command) && tokens.last().starts_with(b"HTTP/") => {
                self.phase = Phase::Closing;
                return Flow::On;
            }
            _ => "ERROR",
        };
        self.said(out, false, answer)
    }

    fn said(&mut self, out: &mut Vec<u8>, quiet: bool, line: &str) -> Flow {
        if !quiet {
            self.write_line(out, line);
        }
        Flow::On
    }

    fn stats(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        if !self.answers.is_empty() {
            self.wait = Wait::Empty;
            return Flow::Stop(Next::Blocked);
        }
        let all = |kind| (ControlOp::Stats, Then::Stats(kind, None));
        let (op, then) = match tokens.get(1) {
            b"" => all(Kind::General),
            b"items" => all(Kind::Items),
            b"slabs" => all(Kind::Slabs),
            b"sizes" => (ControlOp::Sizes, Then::Stats(Kind::Sizes, None)),
            switch @ (b"sizes_enable" | b"sizes_disable") => {
                let on = track_sizes(switch, core);
                (ControlOp::TrackSizes(on), Then::Stats(Kind::SizesSwitch, None))
            }
            b"settings" => all(Kind::Settings),
            b"conns" => (ControlOp::Connections, Then::Stats(Kind::Connections, None)),
            b"reset" => (ControlOp::ResetStats, Then::Line("RESET")),
            b"detail" => match tokens.get(2) {
                b"dump" => (ControlOp::Detail, Then::Detail(None)),
                switch @ (b"on" | b"off") => {
                    core.shared.detail.store(switch == b"on", Relaxed);
                    return self.said(out, false, "OK");
                }
                _ => return self.said(out, false, "CLIENT_ERROR usage: stats detail on|off|dump"),
            },
            b"cachedump" => {
                return match cachedump(tokens, core) {
                    Ok((format, from)) => self.dump(format, from, core, out),
                    Err(answer) => self.said(out, false, answer),
                };
            }
            _ => return self.said(out, false, "ERROR"),
        };
        self.gather(op, then, core)
    }

    fn flush_all(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let quiet = tokens.quiet();
        if !self.answers.is_empty() {
            self.wait = Wait::Empty;
            return Flow::Stop(Next::Blocked);
        }
        core.stats.cmd_flush += 1;
        if !core.shared.settings.flush {
            return self.said(out, quiet, "CLIENT_ERROR flush_all not allowed");
        }
        let mut seconds = 0;
        if tokens.count() != if quiet { 3 } else { 2 } {
            match parse_i32(tokens.get(1)) {
                Some(delay) => seconds = i64::from(delay),
                None => return self.said(out, quiet, "CLIENT_ERROR invalid exptime argument"),
            }
        }
        let at = self.flush_at(seconds, core);
        self.gather(ControlOp::Flush { at }, Then::Line(if quiet { "" } else { "OK" }), core)
    }

    fn shutdown(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        if !core.shared.settings.shutdown_command {
            return self.said(out, false, "ERROR: shutdown not enabled");
        }
        let mode = match (tokens.count(), tokens.get(1)) {
            (2, _) => Shutdown::Now,
            (3, b"graceful") => Shutdown::Graceful,
            _ => return self.said(out, false, "CLIENT_ERROR invalid shutdown mode"),
        };
        if let Some(hook) = core.shared.on_shutdown.get() {
            hook(mode);
        }
        self.leave(CloseReason::Shutdown);
        Flow::On
    }

    fn cache_memlimit(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let quiet = tokens.quiet();
        let Some(megabytes) = parse_u32(tokens.get(1)) else {
            return self.said(out, quiet, "ERROR");
        };
        if megabytes < *MEMLIMIT_MB.start() {
            return self.said(out, quiet, "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m");
        }
        if megabytes > *MEMLIMIT_MB.end() {
            return self.said(
                out,
                quiet,
                "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes",
            );
        }
        let bytes = u64::from(megabytes) << 20;
        // Address space for more than the limit was reserved at start, the same on
        // every core; the limit cannot go beyond that.
        if bytes / u64::from(core.cores) > core.shard.arena_bytes() as u64 {
            return self.said(
                out,
                quiet,
                "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust",
            );
        }
        let op = ControlOp::MemoryLimit { bytes: bytes / u64::from(core.cores) };
        let flow = self.gather(op, Then::Line(if quiet { "" } else { "OK" }), core);
        if matches!(flow, Flow::On) {
            core.shared.memory_bytes_max.store(bytes, Relaxed);
        }
        flow
    }

    fn slabs(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        match (tokens.get(1), tokens.count()) {
            (b"reassign", 5) => {
                let answer = match (parse_i32(tokens.get(2)), parse_i32(tokens.get(3))) {
                    (Some(from), Some(to)) if from == to => "SAME src and dst class are identical",
                    // Pages move by their classes' hits already; a wish for a
                    // class that exists is granted without doing worse.
                    (Some(from), Some(to)) if (-1..64).contains(&from) && (1..64).contains(&to) => {
                        "OK"
                    }
                    (Some(_), Some(_)) => "BADCLASS invalid src or dst class id",
                    _ => BAD_FORMAT,
                };
                self.said(out, false, answer)
            }
            (b"automove", 4..) => {
                let tunables = &core.shared.tunables;
                let answer = if tokens.get(2) == b"ratio" {
                    match parse_f64(tokens.get(3)) {
                        Some(ratio) => {
                            tunables.automove_ratio.store(hundredths(ratio), Relaxed);
                            "OK"
                        }
                        None => "ERROR",
                    }
                } else {
                    match parse_u32(tokens.get(2)) {
                        Some(level @ 0..=2) => {
                            tunables.automove.store(level, Relaxed);
                            "OK"
                        }
                        Some(_) => "ERROR",
                        None => BAD_FORMAT,
                    }
                };
                self.said(out, tokens.quiet(), answer)
            }
            _ => self.said(out, false, "ERROR"),
        }
    }

    fn lru_crawler(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let tunables = &core.shared.tunables;
        let enabled = tunables.crawler.load(Relaxed);
        let argument = tokens.get(2);
        let answer = match (tokens.get(1), tokens.count()) {
            (b"crawl" | b"metadump" | b"mgdump", 4) if !enabled => {
                "CLIENT_ERROR lru crawler disabled"
            }
            // Expired items are swept all the time; there is nothing to start.
            (b"crawl", 4) => match dump_from(argument, core) {
                Some(_) if argument != b"hash" => "OK",
                _ => "BADCLASS invalid class id",
            },
            (b"metadump" | b"mgdump", 4) if !core.shared.settings.dump => {
                "ERROR metadump not allowed"
            }
            (dump @ (b"metadump" | b"mgdump"), 4) => {
                let Some(from) = dump_from(argument, core) else {
                    return self.said(out, false, "BADCLASS invalid class id");
                };
                let format =
                    if dump == b"metadump" { DumpFormat::Metadump } else { DumpFormat::Mgdump };
                return self.dump(format, from, core, out);
            }
            (b"tocrawl", 4) => match parse_u32(argument) {
                Some(items) => {
                    tunables.crawler_items.store(items, Relaxed);
                    "OK"
                }
                None => BAD_FORMAT,
            },
            (b"sleep", 4) => match parse_u32(argument) {
                Some(us) if us > 1_000_000 => "CLIENT_ERROR sleep must be one second or less",
                Some(us) => {
                    tunables.crawler_sleep_us.store(us, Relaxed);
                    "OK"
                }
                None => BAD_FORMAT,
            },
            (b"enable", 3) if enabled => "ERROR failed to start lru crawler thread",
            (switch @ (b"enable" | b"disable"), 3) => {
                tunables.crawler.store(switch == b"enable", Relaxed);
                "OK"
            }
            _ => "ERROR",
        };
        self.said(out, false, answer)
    }

    fn start_watch(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let quiet = tokens.quiet();
        if !core.shared.settings.watch {
            return self.said(out, quiet, "CLIENT_ERROR watch commands not allowed");
        }
        if !self.answers.is_empty() {
            self.wait = Wait::Empty;
            return Flow::Stop(Next::Blocked);
        }
        let mut events = Events::default();
        for index in 1..tokens.count() - 1 {
            match Events::named(tokens.get(index)) {
                Some(named) => events = events.and(named),
                None => return self.said(out, quiet, "ERROR"),
            }
        }
        if tokens.count() == 2 {
            events = Events::FETCHERS;
        }
        let before = core.shared.watchers.fetch_add(1, Relaxed);
        if before >= WATCHERS_MAX {
            core.shared.watchers.fetch_sub(1, Relaxed);
            return self.said(out, quiet, "WATCHER_TOO_MANY log watcher limit reached");
        }
        self.watch(events, core)
    }

    /// `invalidate tag|ns <name>... [noreply]`.
    fn invalidate(&mut self, tokens: &Tokens<'_>, core: &mut Core, out: &mut Vec<u8>) -> Flow {
        let quiet = tokens.quiet();
        let last = tokens.count() - 1 - usize::from(quiet);
        if last < 3 {
            let usage = "CLIENT_ERROR bad command line format.  Usage: invalidate tag|ns <name>... [noreply]";
            return self.said(out, quiet, usage);
        }
        let names = (2..last).map(|index| tokens.get(index).to_vec()).collect();
        let op = match tokens.get(1) {
            b"tag" => ControlOp::InvalidateTags(names),
            b"ns" => ControlOp::InvalidateNamespaces(names),
            _ => return self.said(out, quiet, BAD_FORMAT),
        };
        let then = if quiet { Then::Line("") } else { Then::Invalidated(None) };
        self.gather(op, then, core)
    }
}

/// memcached decides by the first letter; only what is left over is looked at
/// as a web request.
fn starts_known(command: &[u8]) -> bool {
    matches!(command, [b'g' | b's' | b'a' | b'c' | b'i' | b'd' | b't', ..])
        || matches!(command, [b'm', _])
}

/// Where a dump of these classes begins: a list of numbers, `all`, or `hash` for
/// all in memcached's other order.
fn dump_from(argument: &[u8], core: &Core) -> Option<ScanCursor> {
    if matches!(argument, b"all" | b"hash") {
        return Some(ScanCursor::default());
    }
    let classes_max = (core.shard.class_stats().len() as u32).max(SLAB_CLASSES_MAX - 1);
    let mut only = ClassSet::default();
    for word in argument.split(|byte| *byte == b',') {
        let class = parse_u32(word).filter(|class| (1..=classes_max).contains(class))?;
        only.add(ClassId((class - 1) as u8));
    }
    Some(ScanCursor::of_classes(only))
}

/// Which items `stats cachedump <class> <limit>` is to show, or what else it
/// answers. The dump is bounded like memcached's; `lru_crawler metadump` is not.
fn cachedump(tokens: &Tokens<'_>, core: &Core) -> Result<(DumpFormat, ScanCursor), &'static str> {
    if !core.shared.settings.dump {
        return Err("CLIENT_ERROR stats cachedump not allowed");
    }
    if tokens.count() < 5 {
        return Err("CLIENT_ERROR bad command line");
    }
    let (Some(class), Some(limit)) = (parse_u32(tokens.get(2)), parse_u32(tokens.get(3))) else {
        return Err(BAD_FORMAT);
    };
    // Clients see classes counted from 1, as `stats items` shows them. libmemcached
    // asks for one after the other until a class is illegal.
    let classes = core.shard.class_stats().len() as u32;
    match class {
        class if (1..=classes).contains(&class) => {
            let items_max = if limit == 0 { u32::MAX } else { limit };
            let mut only = ClassSet::default();
            only.add(ClassId((class - 1) as u8));
            Ok((DumpFormat::Cachedump { items_max }, ScanCursor::of_classes(only)))
        }
        class if class < SLAB_CLASSES_MAX => Err("END"),
        _ => Err("CLIENT_ERROR Illegal slab id"),
    }
}

fn hundredths(value: f64) -> u32 {
    (value * 100.0).round().clamp(0.0, f64::from(u32::MAX)) as u32
}

/// `lru tune|mode|temp_ttl`: accepted and shown again. The policies here have
/// nothing that these could tune.
fn lru(tokens: &Tokens<'_>, core: &Core) -> &'static str {
    let tunables = &core.shared.tunables;
    match (tokens.get(1), tokens.count()) {
        (b"tune", 7..) => {
            let numbers = (
                parse_u32(tokens.get(2)),
                parse_u32(tokens.get(3)),
                parse_f64(tokens.get(4)),
                parse_f64(tokens.get(5)),
            );
            let (Some(hot), Some(warm), Some(hot_factor), Some(warm_factor)) = numbers else {
                return "ERROR";
            };
            if hot.saturating_add(warm) > 80 {
                return "ERROR hot and warm pcts must not exceed 80";
            }
            if hot_factor <= 0.0 || warm_factor <= 0.0 {
                return "ERROR hot/warm age factors must be greater than 0";
            }
            tunables.hot_percent.store(hot, Relaxed);
            tunables.warm_percent.store(warm, Relaxed);
            tunables.hot_factor.store(hundredths(hot_factor), Relaxed);
            tunables.warm_factor.store(hundredths(warm_factor), Relaxed);
            "OK"
        }
        (b"mode", 4..) => match tokens.get(2) {
            mode @ (b"flat" | b"segmented") => {
                tunables.segmented.store(mode == b"segmented", Relaxed);
                "OK"
            }
            _ => "ERROR",
        },
        (b"temp_ttl", 4..) => match parse_i32(tokens.get(2)) {
            Some(ttl) => {
                tunables.temporary_ttl.store(i64::from(ttl), Relaxed);
                "OK"
            }
            None => "ERROR",
        },
        _ => "ERROR",
    }
}

/// Auto-discovery as ElastiCache clients ask for it: a version, then
/// `host|ip|port` of every node.
fn cluster_config(core: &Core) -> String {
    if let Some(text) = core.shared.cluster_text() {
        let body = &text.get().config;
        return format!("CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len());
    }
    let settings = &core.shared.settings;
    let (host, ip) = (&settings.advertise_host, &settings.advertise_ip);
    let body = format!("1\n{host}|{ip}|{}\n", settings.advertise_port);
    format!("CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len())
}

/// The topology as one line of JSON.
fn topology(core: &Core) -> String {
    if let Some(text) = core.shared.cluster_text() {
        return text.get().topology.clone();
    }
    let settings = &core.shared.settings;
    format!(
        "{{\"epoch\":1,\"partitions\":65536,\"nodes\":[{{\"host\":\"{}\",\"port\":{},\"cores\":{}}}]}}",
        settings.advertise_host.escape_default(),
        settings.advertise_port,
        core.cores
    )
}
