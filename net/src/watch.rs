//! `watch`: events streamed to clients, lossy and bounded.
//!
//! Every core writes the events that somebody watches into one buffer per
//! watcher; at the end of a turn the buffers travel to the watcher's core as a
//! [`LogChunk`]. A buffer that is full drops lines and counts them: a watcher
//! who does not read costs nothing but his own lines, and is told how many
//! (`skipped=N`) once he reads again.

use crate::conn::{CloseReason, Transport};
use crate::hop::{ConnToken, Message, Outbox};
use crate::proto::number;
use engine::{ClassId, Event, EventKinds, Evicted, Now, WriteMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Log lines for one watcher.
#[derive(Debug)]
pub struct LogChunk {
    /// The watcher, on the core that receives this.
    pub conn: ConnToken,
    /// Whole lines.
    pub bytes: Vec<u8>,
    /// How many.
    pub lines: u64,
    /// Lines behind them that found no room in the core's buffer.
    pub lost: u64,
}

/// Kinds of events, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    /// Commands as they came. Accepted; memcached 1.6 writes none either.
    pub const RAW: Events = Events(1);
    /// Items evicted.
    pub const EVICTIONS: Events = Events(2);
    /// Items read.
    pub const FETCHERS: Events = Events(4);
    /// Items written.
    pub const MUTATIONS: Events = Events(8);
    /// Background work: pages moved, sweeps that ended.
    pub const SYSTEM: Events = Events(16);
    /// Connections opened and closed.
    pub const CONNECTIONS: Events = Events(32);
    /// Items deleted by a client.
    pub const DELETIONS: Events = Events(128);

    /// The kind that `watch` calls so.
    pub fn named(name: &[u8]) -> Option<Events> {
        match name {
            b"rawcmds" => Some(Events::RAW),
            b"evictions" => Some(Events::EVICTIONS),
            b"fetchers" => Some(Events::FETCHERS),
            b"mutations" => Some(Events::MUTATIONS),
            b"sysevents" => Some(Events::SYSTEM),
            b"connevents" => Some(Events::CONNECTIONS),
            b"deletions" => Some(Events::DELETIONS),
            // Of memcached's proxy; never written here.
            b"proxyreqs" | b"proxyevents" | b"proxyuser" => Some(Events(64)),
            _ => None,
        }
    }

    /// Events of both sets.
    pub fn and(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }

    fn overlap(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }
}

/// Who watches what.
#[derive(Clone, Copy, Debug)]
pub struct Watcher {
    /// The core of its connection.
    pub core: u32,
    /// The connection.
    pub conn: ConnToken,
    /// What it wants.
    pub events: Events,
}

/// How a read ended.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// Nothing there.
    No,
    /// A hit, of an item of this size class.
    Yes(ClassId),
}

/// How a write ended.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum StoreStatus {
    NotStored,
    Stored,
    Exists,
    NotFound,
    TooLarge,
    NoMemory,
}

/// What a write was.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum StoreCommand {
    Add,
    Set,
    Replace,
    Append,
    Prepend,
    Cas,
}

impl StoreCommand {
    /// The command of a mode.
    pub fn of(mode: WriteMode, compares: bool) -> StoreCommand {
        match mode {
            WriteMode::Set if compares => StoreCommand::Cas,
            WriteMode::Set => StoreCommand::Set,
            WriteMode::Add => StoreCommand::Add,
            WriteMode::Replace => StoreCommand::Replace,
            WriteMode::Append => StoreCommand::Append,
            WriteMode::Prepend => StoreCommand::Prepend,
        }
    }
}

/// Counters of the logs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStats {
    /// Lines written into buffers.
    pub written: u64,
    /// Lines that found no room.
    pub dropped: u64,
    /// Lines that a watcher's connection had no room for.
    pub skipped: u64,
    /// Lines handed to watchers.
    pub sent: u64,
}

#[derive(Debug)]
struct Feed {
    watcher: Watcher,
    buffer: Vec<u8>,
    lines: u64,
    lost: u64,
}

/// The watchers that this core feeds.
#[derive(Debug, Default)]
pub struct WatchLog {
    wanted: Events,
    feeds: Vec<Feed>,
    /// Number of the last line of any core.
    sequence: Arc<AtomicU64>,
    /// When the last sweep ended.
    swept: Option<Now>,
    /// Number of the connection whose request is being executed, for `cfd=`.
    connection: u64,
    /// Cores of the node.
    cores: u32,
    /// The first number of a connection; listeners have those below it.
    pub first_connection: u64,
    /// What a feed's buffer may hold.
    pub buffer_bytes_max: usize,
    /// Lines sent and dropped.
    pub stats: LogStats,
}

/// Messages for a peer above which log chunks wait in their buffers.
const WAITING_MESSAGES_MAX: usize = 8;

impl WatchLog {
    /// Nobody watches yet. Lines are numbered by `sequence`.
    pub fn new(buffer_bytes_max: usize, sequence: Arc<AtomicU64>, cores: u32) -> WatchLog {
        WatchLog { buffer_bytes_max, sequence, cores, ..WatchLog::default() }
    }

    /// The number of a connection of `core`, unique in the node: what `stats
    /// conns` and `cfd=` show.
    #[inline]
    pub fn connection_number(&self, core: u32, slot: u32) -> u64 {
        connection_number(self.first_connection, self.cores, core, slot)
    }

    /// A request of that connection is executed next.
    #[inline]
    pub fn serve(&mut self, core: u32, slot: u32) {
        self.connection = self.connection_number(core, slot);
    }

    /// Starts to feed a watcher.
    pub fn add(&mut self, watcher: Watcher) {
        self.feeds.push(Feed { watcher, buffer: Vec::new(), lines: 0, lost: 0 });
        self.wanted = self.wanted.and(watcher.events);
    }

    /// Ends the feed of a connection.
    pub fn remove(&mut self, core: u32, conn: ConnToken) {
        self.feeds.retain(|feed| !(feed.watcher.core == core && feed.watcher.conn == conn));
        self.wanted =
            self.feeds.iter().fold(Events::default(), |sum, feed| sum.and(feed.watcher.events));
    }

    /// Somebody wants reads.
    #[inline]
    pub fn fetchers(&self) -> bool {
        self.wanted.overlap(Events::FETCHERS)
    }

    /// Somebody wants writes.
    #[inline]
    pub fn mutations(&self) -> bool {
        self.wanted.overlap(Events::MUTATIONS)
    }

    /// Somebody wants deletes.
    #[inline]
    pub fn deletions(&self) -> bool {
        self.wanted.overlap(Events::DELETIONS)
    }

    /// Somebody wants connections.
    pub fn connections(&self) -> bool {
        self.wanted.overlap(Events::CONNECTIONS)
    }

    /// What the shard has to keep for the watchers.
    pub fn shard_events(&self) -> EventKinds {
        EventKinds {
            evictions: self.wanted.overlap(Events::EVICTIONS),
            system: self.wanted.overlap(Events::SYSTEM),
        }
    }

    /// Nobody watches.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.feeds.is_empty()
    }

    /// A key was read.
    #[cold]
    pub fn item_get(&mut self, now: Now, key: &[u8], found: Found, value_bytes: u32) {
        let connection = self.connection;
        let class = match found {
            Found::No => 0,
            Found::Yes(class) => class_number(class),
        };
        self.line(Events::FETCHERS, now, |out| {
            out.extend_from_slice(b"type=item_get key=");
            uri_encode(key, out);
            out.extend_from_slice(match found {
                Found::No => &b" status=not_found clsid="[..],
                Found::Yes(_) => &b" status=found clsid="[..],
            });
            number::put(out, class);
            out.extend_from_slice(b" cfd=");
            number::put(out, connection);
            out.extend_from_slice(b" size=");
            number::put(out, u64::from(value_bytes));
        });
    }

    /// A key was written.
    #[cold]
    pub fn item_store(
        &mut self,
        now: Now,
        key: &[u8],
        status: StoreStatus,
        command: StoreCommand,
        value_bytes: usize,
        ttl_seconds: u64,
        class: Option<ClassId>,
    ) {
        let connection = self.connection;
        self.line(Events::MUTATIONS, now, |out| {
            out.extend_from_slice(b"type=item_store key=");
            uri_encode(key, out);
            out.extend_from_slice(b" status=");
            out.extend_from_slice(match status {
                StoreStatus::NotStored => b"not_stored",
                StoreStatus::Stored => b"stored",
                StoreStatus::Exists => b"exists",
                StoreStatus::NotFound => b"not_found",
                StoreStatus::TooLarge => b"too_large",
                StoreStatus::NoMemory => b"no_memory",
            });
            out.extend_from_slice(b" cmd=");
            out.extend_from_slice(match command {
                StoreCommand::Add => b"add",
                StoreCommand::Set => b"set",
                StoreCommand::Replace => b"replace",
                StoreCommand::Append => b"append",
                StoreCommand::Prepend => b"prepend",
                StoreCommand::Cas => b"cas",
            });
            out.extend_from_slice(b" ttl=");
            number::put(out, ttl_seconds);
            out.extend_from_slice(b" clsid=");
            number::put(out, class.map_or(0, class_number));
            out.extend_from_slice(b" cfd=");
            number::put(out, connection);
            out.extend_from_slice(b" size=");
            number::put(out, value_bytes as u64);
        });
    }

    /// A key was deleted, by this command.
    #[cold]
    pub fn item_deleted(
        &mut self,
        now: Now,
        key: &[u8],
        command: &str,
        class: ClassId,
        value_bytes: u32,
    ) {
        self.line(Events::DELETIONS, now, |out| {
            out.extend_from_slice(b"type=deleted key=");
            uri_encode(key, out);
            out.extend_from_slice(b" cmd=");
            out.extend_from_slice(command.as_bytes());
            out.extend_from_slice(b" clsid=");
            number::put(out, class_number(class));
            out.extend_from_slice(b" size=");
            number::put(out, u64::from(value_bytes));
        });
    }

    /// Something happened in the shard.
    #[cold]
    pub fn shard_event(&mut self, now: Now, event: Event<'_>) {
        match event {
            Event::Evicted(evicted) => self.eviction(now, &evicted),
            Event::PageMoved { from, to } => self.line(Events::SYSTEM, now, |out| {
                out.extend_from_slice(b"type=slab_move src=");
                number::put(out, class_number(from));
                out.extend_from_slice(b" dst=");
                number::put(out, to.map_or(0, class_number));
            }),
            Event::Swept { elapsed_ms, examined, reclaimed } => {
                self.swept(now, elapsed_ms, examined, reclaimed);
            }
            _ => {}
        }
    }

    fn eviction(&mut self, now: Now, evicted: &Evicted<'_>) {
        self.line(Events::EVICTIONS, now, |out| {
            out.extend_from_slice(b"type=eviction key=");
            uri_encode(evicted.key, out);
            out.extend_from_slice(if evicted.fetched {
                b" fetch=yes ttl="
            } else {
                b" fetch=no ttl="
            });
            number::put_signed(out, evicted.ttl_seconds.map_or(-1, |seconds| seconds as i64));
            out.extend_from_slice(b" la=");
            number::put(out, u64::from(evicted.idle_seconds));
            out.extend_from_slice(b" clsid=");
            number::put(out, class_number(evicted.class));
            out.extend_from_slice(b" size=");
            number::put(out, u64::from(evicted.value_bytes));
        });
    }

    /// A sweep goes over all classes at once, and has no mark to fall below:
    /// those fields of memcached's line are 0.
    fn swept(&mut self, now: Now, elapsed_ms: u64, examined: u64, reclaimed: u64) {
        let last = self.swept.replace(now).unwrap_or(now);
        let since = now.seconds().saturating_sub(last.seconds());
        self.line(Events::SYSTEM, now, |out| {
            out.extend_from_slice(
                b"type=lru_crawler crawler=0 lru=all low_mark=0 next_reclaims=0 since_run=",
            );
            number::put(out, since);
            out.extend_from_slice(b" next_run=0 elapsed=");
            number::put(out, elapsed_ms / 1000);
            out.extend_from_slice(b" examined=");
            number::put(out, examined);
            out.extend_from_slice(b" reclaimed=");
            number::put(out, reclaimed);
        });
    }

    /// A connection was accepted. `address` is `ip` and port, or `unix` and 0.
    #[cold]
    pub fn connection_opened(
        &mut self,
        now: Now,
        ip: &str,
        port: u16,
        transport: Transport,
        number: u64,
    ) {
        self.line(Events::CONNECTIONS, now, |out| {
            out.extend_from_slice(b"type=conn_new ");
            remote(out, ip, port, transport);
            out.extend_from_slice(b" cfd=");
            number::put(out, number);
        });
    }

    /// A connection ended.
    #[cold]
    pub fn connection_closed(
        &mut self,
        now: Now,
        ip: &str,
        port: u16,
        transport: Transport,
        reason: CloseReason,
        number: u64,
    ) {
        self.line(Events::CONNECTIONS, now, |out| {
            out.extend_from_slice(b"type=conn_close ");
            remote(out, ip, port, transport);
            out.extend_from_slice(b" reason=");
            out.extend_from_slice(match reason {
                CloseReason::Error => b"error",
                CloseReason::Normal => b"normal",
                CloseReason::IdleTimeout => b"idle_timeout",
                CloseReason::Shutdown => b"shutdown",
            });
            out.extend_from_slice(b" cfd=");
            number::put(out, number);
        });
    }

    fn line(&mut self, event: Events, now: Now, write: impl Fn(&mut Vec<u8>)) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        for feed in &mut self.feeds {
            if !feed.watcher.events.overlap(event) {
                continue;
            }
            if feed.buffer.len() >= self.buffer_bytes_max {
                self.stats.dropped += 1;
                feed.lost += 1;
                continue;
            }
            let out = &mut feed.buffer;
            out.extend_from_slice(b"ts=");
            number::put(out, now.seconds());
            out.push(b'.');
            number::put(out, now.0 % 1000 * 1000);
            out.extend_from_slice(b" gid=");
            number::put(out, sequence);
            out.push(b' ');
            write(out);
            out.push(b'\n');
            feed.lines += 1;
            self.stats.written += 1;
        }
    }

    /// Sends what was written this turn on its way.
    #[inline]
    pub fn flush(&mut self, outbox: &mut Outbox) {
        if self.feeds.is_empty() {
            return;
        }
        for feed in &mut self.feeds {
            let nothing = feed.buffer.is_empty() && feed.lost == 0;
            if nothing || outbox.waiting(feed.watcher.core) > WAITING_MESSAGES_MAX {
                continue;
            }
            let chunk = LogChunk {
                conn: feed.watcher.conn,
                bytes: std::mem::take(&mut feed.buffer),
                lines: std::mem::take(&mut feed.lines),
                lost: std::mem::take(&mut feed.lost),
            };
            outbox.post(feed.watcher.core, Message::Log(Box::new(chunk)));
        }
    }
}

/// The number of a connection: `first` and up, each core has every `cores`th.
#[inline]
pub fn connection_number(first: u64, cores: u32, core: u32, slot: u32) -> u64 {
    first + u64::from(slot) * u64::from(cores) + u64::from(core)
}

fn remote(out: &mut Vec<u8>, ip: &str, port: u16, transport: Transport) {
    out.extend_from_slice(b"rip=");
    out.extend_from_slice(ip.as_bytes());
    out.extend_from_slice(b" rport=");
    number::put(out, u64::from(port));
    out.extend_from_slice(match transport {
        Transport::Tcp => b" transport=tcp",
        Transport::Unix => b" transport=local",
    });
}

/// A size class as `stats items` and everything else that clients see counts
/// it: from 1, so that 0 is none.
pub fn class_number(class: ClassId) -> u64 {
    u64::from(class.0) + 1
}

/// Keys in logs and dumps, as memcached writes them.
pub fn uri_encode(key: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in key {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_those_who_want_them_and_no_further_than_the_bound() {
        let mut log = WatchLog::new(200, Arc::default(), 2);
        let conn = ConnToken { index: 7, generation: 1 };
        log.add(Watcher { core: 0, conn, events: Events::FETCHERS });
        assert!(log.fetchers() && !log.mutations());
        log.first_connection = 3;
        log.serve(1, 7);
        for _ in 0..10 {
            log.item_get(Now(1_500), b"a b", Found::Yes(ClassId(4)), 3);
        }
        assert!(log.stats.dropped > 0);
        let mut outbox = Outbox::new(0, 1);
        log.flush(&mut outbox);
        let Some(Message::Log(chunk)) = outbox.take(0) else { panic!("no chunk") };
        assert_eq!(chunk.lines + chunk.lost, 10);
        assert_eq!(chunk.lost, log.stats.dropped);
        let text = String::from_utf8(chunk.bytes).unwrap();
        assert_eq!(chunk.lines, text.lines().count() as u64);
        assert_eq!(
            text.lines().next(),
            Some("ts=1.500000 gid=1 type=item_get key=a%20b status=found clsid=5 cfd=18 size=3")
        );
        assert!(text.len() < 300);
        log.remove(0, conn);
        assert!(!log.fetchers());
    }
}
