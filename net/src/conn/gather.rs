//! Commands that every core takes part in: sent to all, answered when the last
//! has answered. The connection executes nothing else meanwhile, and starts
//! only when its earlier requests are answered, so that `set`, `flush_all`,
//! `get` in one packet mean what they say.

use super::{Conn, Flow, Next, Phase, Wait};
use crate::control::{ControlAnswer, ControlCall, ControlOp, CoreReport, DumpFormat};
use crate::core::Core;
use crate::detail::PrefixCounts;
use crate::hop::Message;
use crate::limits::CACHEDUMP_BYTES_MAX;
use crate::proto::binary::{Frame, Status, put_error, put_header, put_message, put_stat};
use crate::proto::number;
use crate::stats::{self, Kind, Stat};
use crate::watch::{Events, Watcher};
use engine::ScanCursor;
use std::collections::BTreeMap;

/// A question to all cores, and what came back so far.
#[derive(Debug)]
pub(super) struct Gather {
    then: Then,
    outstanding: u32,
    reports: Vec<CoreReport>,
    pairs: Vec<(String, String)>,
    prefixes: BTreeMap<Box<[u8]>, PrefixCounts>,
    sizes: BTreeMap<u64, u64>,
    count: u64,
    /// Why it was not done.
    failed: Option<String>,
}

/// How the answer looks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// This line (nothing if empty).
    Line(&'static str),
    /// Statistics of a kind, as text or in binary frames.
    Stats(Kind, Option<Frame>),
    /// Counters by prefix.
    Detail(Option<Frame>),
    /// How many things were invalidated.
    Invalidated(Option<Frame>),
    /// A binary answer without a body, unless quiet.
    Frame(Frame),
    /// Log lines from now on.
    Watch,
}

/// A dump passing through, one core after the other.
#[derive(Debug)]
pub(super) struct Dump {
    format: DumpFormat,
    /// Where every core begins.
    from: ScanCursor,
    /// Bytes of text that may still go out.
    bytes_left: usize,
    peer: u32,
    cursor: Option<ScanCursor>,
    asked: bool,
}

impl Conn {
    /// Sends `op` to all cores. Waits for earlier answers first.
    pub(super) fn gather(&mut self, op: ControlOp, then: Then, core: &mut Core) -> Flow {
        if !self.answers.is_empty() {
            self.wait = Wait::Empty;
            return Flow::Stop(Next::Blocked);
        }
        let outstanding = match core.shared.on_cluster.get() {
            Some(hook) if op.concerns_cluster() => {
                hook(Box::new(self.call(op, core)));
                1
            }
            _ => {
                for peer in 0..core.cores {
                    self.ask(peer, op.clone(), core);
                }
                core.cores
            }
        };
        self.phase = Phase::Gathering(Box::new(Gather {
            then,
            outstanding,
            failed: None,
            reports: Vec::new(),
            pairs: Vec::new(),
            prefixes: BTreeMap::new(),
            sizes: BTreeMap::new(),
            count: 0,
        }));
        Flow::On
    }

    fn call(&self, op: ControlOp, core: &Core) -> ControlCall {
        ControlCall {
            from: core.id,
            conn: Some(self.token),
            id: 0,
            op,
            answer: ControlAnswer::None,
        }
    }

    fn ask(&self, peer: u32, op: ControlOp, core: &mut Core) {
        let call = self.call(op, core);
        core.outbox.post(peer, Message::Control(Box::new(call)));
    }

    /// One core has answered.
    pub(super) fn gathered(&mut self, call: ControlCall, core: &mut Core, out: &mut Vec<u8>) {
        match &mut self.phase {
            Phase::Gathering(gather) => {
                gather.add(call.answer);
                gather.outstanding -= 1;
                if gather.outstanding == 0
                    && let Phase::Gathering(gather) =
                        std::mem::replace(&mut self.phase, Phase::Requests)
                {
                    self.finish(*gather, core, out);
                    self.wait = Wait::Go;
                }
            }
            Phase::Dumping(dump) => {
                dump.asked = false;
                if let ControlAnswer::Dump(text, items, next) = call.answer {
                    dump.take(&text, items, next, out);
                }
                self.pump(core, out);
            }
            // An answer to `Unwatch`, which nobody waits for.
            _ => {}
        }
    }

    fn finish(&mut self, gather: Gather, core: &mut Core, out: &mut Vec<u8>) {
        if let Some(why) = &gather.failed {
            return match gather.then {
                Then::Frame(frame) | Then::Invalidated(Some(frame)) => {
                    put_message(out, frame, Status::Temporary, why.as_bytes());
                }
                // Whoever wants no answer gets none.
                Then::Line("") => {}
                _ => self.write_line(out, &format!("SERVER_ERROR {why}")),
            };
        }
        match gather.then {
            Then::Line(line) => self.write_line(out, line),
            Then::Frame(frame) if frame.quiet => {}
            Then::Frame(frame) => put_header(out, frame, Status::Ok, 0, 0, 0, 0),
            Then::Stats(kind, frame) => {
                let mut pairs = gather.pairs;
                pairs.extend(
                    gather.sizes.iter().map(|(size, count)| (size.to_string(), count.to_string())),
                );
                let stats = stats::collect(kind, &gather.reports, pairs, core.now, &core.shared);
                write_stats(&stats, frame, kind != Kind::SizesSwitch, out);
            }
            Then::Detail(frame) => {
                let mut text = Vec::new();
                for (prefix, counts) in &gather.prefixes {
                    text.extend_from_slice(b"PREFIX ");
                    text.extend_from_slice(prefix);
                    for (name, value) in [
                        (" get ", counts.gets),
                        (" hit ", counts.hits),
                        (" set ", counts.sets),
                        (" del ", counts.deletes),
                    ] {
                        text.extend_from_slice(name.as_bytes());
                        number::put(&mut text, value);
                    }
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"END\r\n");
                match frame {
                    None => out.extend_from_slice(&text),
                    Some(frame) => {
                        put_stat(out, frame, b"detailed", &text);
                        put_stat(out, frame, b"", b"");
                    }
                }
            }
            Then::Invalidated(None) => {
                out.extend_from_slice(b"INVALIDATED ");
                number::put(out, gather.count);
                out.extend_from_slice(b"\r\n");
            }
            Then::Invalidated(Some(frame)) if gather.count == 0 => {
                put_error(out, frame, Status::NotFound)
            }
            Then::Invalidated(Some(frame)) => put_header(out, frame, Status::Ok, 0, 0, 0, 0),
            Then::Watch => {
                out.extend_from_slice(b"OK\r\n");
                self.phase = Phase::Watching { lost: 0 };
            }
        }
    }

    /// Starts a dump.
    pub(super) fn dump(
        &mut self,
        format: DumpFormat,
        from: ScanCursor,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> Flow {
        if !self.answers.is_empty() {
            self.wait = Wait::Empty;
            return Flow::Stop(Next::Blocked);
        }
        let bytes_left = match format {
            DumpFormat::Cachedump { .. } => CACHEDUMP_BYTES_MAX - b"END\r\n".len(),
            DumpFormat::Metadump | DumpFormat::Mgdump => usize::MAX,
        };
        let dump = Dump { format, from, bytes_left, peer: 0, cursor: None, asked: false };
        self.phase = Phase::Dumping(Box::new(dump));
        self.pump(core, out);
        Flow::On
    }

    /// Asks for the next part of a dump when the last has gone out.
    pub(super) fn pump(&mut self, core: &mut Core, out: &mut Vec<u8>) {
        let Phase::Dumping(dump) = &mut self.phase else { return };
        if dump.peer >= core.cores {
            out.extend_from_slice(if dump.format == DumpFormat::Mgdump {
                b"EN\r\n"
            } else {
                b"END\r\n"
            });
            self.phase = Phase::Requests;
            self.wait = Wait::Go;
        } else if !dump.asked && out.len() < core.allowance.output_bytes_max / 2 {
            dump.asked = true;
            let op = ControlOp::Dump(dump.format, dump.cursor.take().unwrap_or(dump.from));
            let peer = dump.peer;
            self.ask(peer, op, core);
        }
    }

    /// Starts watching.
    pub(super) fn watch(&mut self, events: Events, core: &mut Core) -> Flow {
        let watcher = Watcher { core: core.id, conn: self.token, events };
        self.gather(ControlOp::Watch(watcher), Then::Watch, core)
    }

    /// The watcher left.
    pub(super) fn stop_watching(&mut self, core: &mut Core) {
        core.shared.watchers.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        for peer in 0..core.cores {
            self.ask(peer, ControlOp::Unwatch(core.id, self.token), core);
        }
    }
}

impl Dump {
    /// Passes a part on. Where the bound is reached the dump is over, between
    /// two lines.
    fn take(&mut self, text: &[u8], items: u32, next: Option<ScanCursor>, out: &mut Vec<u8>) {
        let fits = text.len().min(self.bytes_left);
        let whole = if fits == text.len() {
            fits
        } else {
            memchr::memrchr(b'\n', &text[..fits]).map_or(0, |end| end + 1)
        };
        out.extend_from_slice(&text[..whole]);
        self.bytes_left -= whole;
        let mut over = whole < text.len();
        if let DumpFormat::Cachedump { items_max } = &mut self.format {
            *items_max = items_max.saturating_sub(items);
            over |= *items_max == 0;
        }
        if over {
            self.peer = u32::MAX;
        } else if next.is_none() {
            self.peer += 1;
        }
        self.cursor = next;
    }
}

impl Gather {
    /// Whether it would have made a watcher of the connection.
    pub(super) fn is_watch(&self) -> bool {
        matches!(self.then, Then::Watch)
    }

    fn add(&mut self, answer: ControlAnswer) {
        match answer {
            ControlAnswer::Stats(report) => self.reports.push(*report),
            ControlAnswer::Pairs(pairs) => self.pairs.extend(pairs),
            ControlAnswer::Prefixes(prefixes) => {
                for (prefix, counts) in prefixes {
                    let sum = self.prefixes.entry(prefix).or_default();
                    sum.gets += counts.gets;
                    sum.hits += counts.hits;
                    sum.sets += counts.sets;
                    sum.deletes += counts.deletes;
                }
            }
            ControlAnswer::Sizes(sizes) => {
                for (size, count) in sizes {
                    *self.sizes.entry(size).or_default() += count;
                }
            }
            ControlAnswer::Failed(why) => self.failed = Some(why),
            // The same on every core.
            ControlAnswer::Count(count) => self.count = self.count.max(count),
            _ => {}
        }
    }
}

/// Writes statistics as lines or as frames.
pub(super) fn write_stats(stats: &[Stat], frame: Option<Frame>, end: bool, out: &mut Vec<u8>) {
    for (name, value) in stats {
        match frame {
            None => {
                for part in ["STAT ", name, " ", value, "\r\n"] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
            Some(frame) => put_stat(out, frame, name.as_bytes(), value.as_bytes()),
        }
    }
    match frame {
        _ if !end => {}
        None => out.extend_from_slice(b"END\r\n"),
        Some(frame) => put_stat(out, frame, b"", b""),
    }
}
