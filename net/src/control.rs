//! Operations of the whole node, executed on every core.
//!
//! A [`ControlCall`] is sent to each core (the asking one included: the
//! reactor takes calls for its own core out of the outbox like any other) and
//! comes back with its part of the answer.

use crate::core::Core;
use crate::detail::PrefixCounts;
use crate::hop::ConnToken;
use crate::limits::DUMP_CHUNK_BYTES;
use crate::proto::{base64, number};
use crate::stats::CoreStats;
use crate::watch::{LogStats, Watcher, class_number, uri_encode};
use engine::{ClassStats, Expiry, Now, ScanCursor, ShardStats, Tag};

/// What to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ControlOp {
    /// Everything written up to that moment dies then.
    Flush {
        /// Now, or later.
        at: Now,
    },
    /// The core's counters.
    Stats,
    /// Lines of `stats conns`.
    Connections,
    /// The counters of `stats detail`.
    Detail,
    /// Counters back to zero.
    ResetStats,
    /// Items by size.
    Sizes,
    /// Keep, or no longer keep, items by size.
    TrackSizes(bool),
    /// The core's share of a new memory limit.
    MemoryLimit {
        /// Bytes for this core.
        bytes: u64,
    },
    /// Generations of tags move on.
    InvalidateTags(Vec<Vec<u8>>),
    /// Generations of namespaces move on.
    InvalidateNamespaces(Vec<Vec<u8>>),
    /// Feed a watcher.
    Watch(Watcher),
    /// No longer feed the watcher at that connection of that core.
    Unwatch(u32, ConnToken),
    /// The next part of a dump.
    Dump(DumpFormat, ScanCursor),
}

impl ControlOp {
    /// Whether it is about the items of a whole cluster, if there is one.
    pub fn concerns_cluster(&self) -> bool {
        matches!(
            self,
            ControlOp::Flush { .. }
                | ControlOp::InvalidateTags(_)
                | ControlOp::InvalidateNamespaces(_)
        )
    }
}

/// How a dump shows items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFormat {
    /// `lru_crawler metadump`.
    Metadump,
    /// `lru_crawler mgdump`: lines that can be sent back as `mg`.
    Mgdump,
    /// `stats cachedump`, and how many items of it are still wanted.
    Cachedump {
        /// Items still wanted, at most.
        items_max: u32,
    },
}

/// A core's part of the answer.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum ControlAnswer {
    /// Not executed yet.
    #[default]
    None,
    /// It is done.
    Done,
    /// How many of the named things exist here.
    Count(u64),
    /// The core's counters.
    Stats(Box<CoreReport>),
    /// Names and values.
    Pairs(Vec<(String, String)>),
    /// Rounded sizes and how many items there are of each.
    Sizes(Vec<(u64, u64)>),
    /// Counters by prefix.
    Prefixes(Vec<(Box<[u8]>, PrefixCounts)>),
    /// Text of a dump, of so many items, and where it goes on, unless it is over.
    Dump(Vec<u8>, u32, Option<ScanCursor>),
    /// It was not done, or not everywhere: why.
    Failed(String),
}

/// One core's counters.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// Which core.
    pub id: u32,
    /// Protocol side.
    pub core: CoreStats,
    /// Engine side.
    pub shard: ShardStats,
    /// Engine side, by size class.
    pub classes: Vec<ClassStats>,
    /// Watchers' logs.
    pub log: LogStats,
    /// When a delayed flush is due, or never.
    pub flush_pending: Option<Expiry>,
}

/// A call on its way.
#[derive(Debug)]
pub struct ControlCall {
    /// Who asks: a core, or [`crate::hop::CONTROL_PEER`].
    pub from: u32,
    /// The asking connection on that core, if one does.
    pub conn: Option<ConnToken>,
    /// For the asker to match answers.
    pub id: u64,
    /// What to do.
    pub op: ControlOp,
    /// The answer, once it is a `ControlDone`.
    pub answer: ControlAnswer,
}

/// A connection as `stats conns` shows it.
#[derive(Clone, Debug)]
pub struct ConnSummary<'a> {
    /// Number shown before the fields; unique in the node, and what watchers
    /// see as `cfd=`.
    pub number: u64,
    /// Peer, as memcached prints it (`tcp:127.0.0.1:50000`, `unix:/path`).
    pub address: &'a str,
    /// Our side; none for a listener.
    pub listen_address: Option<&'a str>,
    /// State word.
    pub state: &'a str,
    /// When its last command came.
    pub last_command: Now,
}

/// The reactor's table of connections, as far as `stats conns` reads it.
pub trait Connections {
    /// Calls `each` for every connection of this core.
    fn each(&self, each: &mut dyn FnMut(ConnSummary<'_>));
}

/// Executes a call's operation on this core.
pub fn execute(op: &ControlOp, core: &mut Core, connections: &dyn Connections) -> ControlAnswer {
    match op {
        ControlOp::Flush { at } => {
            // What is past is now: every core's clock is read once a turn.
            core.shard.flush((*at).max(core.now), core.now);
            ControlAnswer::Done
        }
        ControlOp::Stats => ControlAnswer::Stats(Box::new(report(core))),
        ControlOp::Connections => ControlAnswer::Pairs(connection_lines(core.now, connections)),
        ControlOp::Detail => ControlAnswer::Prefixes(core.detail.counts()),
        ControlOp::ResetStats => {
            core.stats.reset();
            core.shard.reset_stats();
            core.watch.stats = LogStats::default();
            core.detail.clear();
            ControlAnswer::Done
        }
        ControlOp::Sizes => ControlAnswer::Sizes(core.shard.sizes().unwrap_or_default()),
        ControlOp::TrackSizes(on) => {
            core.shard.track_sizes(*on, core.now);
            ControlAnswer::Done
        }
        ControlOp::MemoryLimit { bytes } => {
            core.shard.set_memory_max(*bytes as usize);
            ControlAnswer::Done
        }
        ControlOp::InvalidateTags(names) => {
            for name in names {
                core.shard.invalidate_tag(Tag::named(name), core.now);
            }
            ControlAnswer::Count(names.len() as u64)
        }
        ControlOp::InvalidateNamespaces(names) => {
            let known = names
                .iter()
                .filter(|name| core.shard.invalidate_namespace(name, core.now).is_some())
                .count();
            ControlAnswer::Count(known as u64)
        }
        ControlOp::Watch(watcher) => {
            core.watch.add(*watcher);
            core.shard.keep_events(core.watch.shard_events());
            ControlAnswer::Done
        }
        ControlOp::Unwatch(watching_core, conn) => {
            core.watch.remove(*watching_core, *conn);
            core.shard.keep_events(core.watch.shard_events());
            ControlAnswer::Done
        }
        ControlOp::Dump(format, cursor) => dump(*format, *cursor, core),
    }
}

fn report(core: &Core) -> CoreReport {
    CoreReport {
        id: core.id,
        core: core.stats,
        shard: core.shard.stats(),
        classes: core.shard.class_stats(),
        log: core.watch.stats,
        flush_pending: Some(core.shard.flush_pending()).filter(|at| *at != Expiry::NEVER),
    }
}

fn connection_lines(now: Now, connections: &dyn Connections) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    connections.each(&mut |conn| {
        let mut line =
            |field: &str, value: String| lines.push((format!("{}:{field}", conn.number), value));
        line("addr", conn.address.into());
        if let Some(address) = conn.listen_address {
            line("listen_addr", address.into());
        }
        line("state", conn.state.into());
        line(
            "secs_since_last_cmd",
            (now.seconds() - conn.last_command.seconds().min(now.seconds())).to_string(),
        );
    });
    lines
}

/// Items looked at in one step of a dump, so that a step stays far below a
/// millisecond.
const DUMP_ITEMS_MAX: usize = 256;

fn dump(format: DumpFormat, mut cursor: ScanCursor, core: &mut Core) -> ControlAnswer {
    let now = core.now;
    let mut text = Vec::with_capacity(DUMP_CHUNK_BYTES);
    let items_max = match format {
        DumpFormat::Cachedump { items_max } => DUMP_ITEMS_MAX.min(items_max as usize),
        DumpFormat::Metadump | DumpFormat::Mgdump => DUMP_ITEMS_MAX,
    };
    let mut items = 0;
    core.shard.scan_items(&mut cursor, items_max, now, &mut |scanned| {
        let item = &scanned.item;
        items += 1;
        match format {
            DumpFormat::Cachedump { .. } => {
                text.extend_from_slice(b"ITEM ");
                text.extend_from_slice(item.key);
                text.extend_from_slice(b" [");
                number::put(&mut text, u64::from(item.value_bytes));
                text.extend_from_slice(b" b; ");
                let seconds = if item.expiry == Expiry::NEVER { 0 } else { item.expiry.0 / 1000 };
                number::put(&mut text, seconds);
                text.extend_from_slice(b" s]\r\n");
            }
            DumpFormat::Metadump => {
                text.extend_from_slice(b"key=");
                uri_encode(item.key, &mut text);
                text.extend_from_slice(b" exp=");
                let seconds =
                    if item.expiry == Expiry::NEVER { -1 } else { (item.expiry.0 / 1000) as i64 };
                number::put_signed(&mut text, seconds);
                text.extend_from_slice(b" la=");
                number::put(
                    &mut text,
                    now.seconds().saturating_sub(u64::from(scanned.idle_seconds)),
                );
                text.extend_from_slice(b" cas=");
                number::put(&mut text, item.cas);
                text.extend_from_slice(if scanned.fetched {
                    b" fetch=yes cls="
                } else {
                    b" fetch=no cls="
                });
                number::put(&mut text, class_number(item.class));
                text.extend_from_slice(b" size=");
                number::put(&mut text, u64::from(item.total_bytes));
                text.push(b'\n');
            }
            DumpFormat::Mgdump => {
                text.extend_from_slice(b"mg ");
                if item.binary_key {
                    base64::encode(item.key, &mut text);
                    text.extend_from_slice(b" b");
                } else {
                    text.extend_from_slice(item.key);
                }
                text.extend_from_slice(b"\r\n");
            }
        }
    });
    let next = (!cursor.is_done()).then_some(cursor);
    ControlAnswer::Dump(text, items, next)
}
