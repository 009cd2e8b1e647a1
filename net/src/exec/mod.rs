//! Executes a request on the core that owns its key, and writes its answer.
//!
//! The answer is finished protocol bytes, appended to whatever the caller
//! hands in: the connection's output, or a batch on its way home.

mod binary;
mod meta;
mod text;

use crate::core::Core;
use crate::proto::{Dialect, NO_MEMORY, Op, Part, Refusal, Request, Store, TOO_LARGE};
use crate::watch::{Found, StoreCommand, StoreStatus};
use engine::{
    ClassId, Expiry, Item, KeyHash, Now, Pin, Reservation, StoreError, Tag, Value, Write,
    WriteMode, WriteOutcome,
};
use std::sync::atomic::Ordering;

/// A value too long to be copied at once: it follows the bytes written, and
/// `tail` follows it.
#[derive(Debug)]
pub struct Held {
    /// The value, held in place.
    pub pin: Pin,
    /// What comes behind it.
    pub tail: Tail,
}

/// What follows a pinned value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// Nothing: binary.
    #[default]
    Nothing,
    /// A line end.
    Line,
    /// A line end and `END`.
    LineAndEnd,
}

impl Tail {
    /// Its bytes.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Tail::Nothing => b"",
            Tail::Line => b"\r\n",
            Tail::LineAndEnd => b"\r\nEND\r\n",
        }
    }
}

/// Executes `request`, whose key this core owns. A store's value is in
/// `reserved` if it came in pieces.
#[inline]
pub fn execute(
    request: &Request<'_>,
    hash: KeyHash,
    reserved: Option<Reservation>,
    core: &mut Core,
    out: &mut Vec<u8>,
) -> Option<Held> {
    match &request.op {
        Op::Get { cas, touch, part } => {
            return text::get(request.key, hash, *cas, *touch, part.ends(), core, out);
        }
        Op::MetaGet(options) => return meta::get(request, hash, options, core, out),
        Op::BinaryGet { frame, touch, with_key, with_value } => {
            return binary::get(
                request.key,
                hash,
                *frame,
                *touch,
                *with_key,
                *with_value,
                core,
                out,
            );
        }
        Op::Store(store) => text::store(request, hash, store, reserved, core, out),
        Op::Delete { quiet } => text::delete(request.key, hash, *quiet, core, out),
        Op::Touch { expiry, quiet } => text::touch(request.key, hash, *expiry, *quiet, core, out),
        Op::Arithmetic { delta, decrement, quiet } => {
            text::arithmetic(request.key, hash, *delta, *decrement, *quiet, core, out);
        }
        Op::MetaStore(options) => meta::store(request, hash, options, reserved, core, out),
        Op::MetaDelete(options) => meta::delete(request, hash, options, core, out),
        Op::MetaArithmetic(options) => meta::arithmetic(request, hash, options, core, out),
        Op::MetaDebug => meta::debug(request.key, hash, core, out),
        Op::BinaryStore { frame, store } => {
            binary::store(request, hash, *frame, store, reserved, core, out)
        }
        Op::BinaryDelete { frame, compare } => {
            binary::delete(request.key, hash, *frame, *compare, core, out)
        }
        Op::BinaryArithmetic { frame, delta, decrement, create, compare } => {
            binary::arithmetic(
                request.key,
                hash,
                *frame,
                *delta,
                *decrement,
                *create,
                *compare,
                core,
                out,
            );
        }
        Op::Refused { why, unlink, quiet, dialect } => {
            if *unlink {
                core.shard.unlink_key(request.key, hash, core.now);
            }
            refuse(request.key, *why, *quiet, *dialect, core, out);
        }
    }
    None
}

/// What came of asking for the chunks of a value that will come in pieces.
#[derive(Debug)]
pub enum Asked {
    /// Here they are.
    Chunks(Reservation),
    /// Too many other values are arriving: ask again.
    Later,
    /// The refusal is written, as [`execute`] would.
    Refused,
}

/// Takes chunks for a value that will come in pieces. `last_try`: refuse it
/// rather than say that there is no room yet.
pub fn reserve(
    request: &Request<'_>,
    hash: KeyHash,
    value_bytes: usize,
    last_try: bool,
    core: &mut Core,
    out: &mut Vec<u8>,
) -> Asked {
    let crowded = is_crowded(core, value_bytes);
    if crowded && !last_try {
        return Asked::Later;
    }
    let taken = if crowded {
        Err(StoreError::OutOfMemory { value_bytes: value_bytes as u64 })
    } else {
        core.shard.reserve(request.key, value_bytes, core.now)
    };
    match taken {
        Ok(reservation) => Asked::Chunks(reservation),
        Err(error) => {
            let (unlink, quiet, dialect) = match &request.op {
                Op::Store(store) => (store.mode == WriteMode::Set, store.quiet, Dialect::Text),
                Op::BinaryStore { frame, store } => {
                    (store.mode == WriteMode::Set, false, Dialect::Binary(*frame))
                }
                _ => (true, false, Dialect::Text),
            };
            if unlink {
                core.shard.unlink_key(request.key, hash, core.now);
            }
            refuse(request.key, refusal(error), quiet, dialect, core, out);
            Asked::Refused
        }
    }
}

/// Whether values under way hold so much memory that this one must wait. One
/// alone may always come, whatever its length.
fn is_crowded(core: &Core, value_bytes: usize) -> bool {
    let arriving = core.shard.arriving_bytes();
    let most = match core.shared.settings.arriving_bytes_max {
        0 => core.shard.memory_bytes_max() as u64 / 4,
        node => node / u64::from(core.cores),
    };
    arriving > 0 && arriving + value_bytes as u64 > most
}

/// The answer to a request that was not executed, or whose outcome is unknown.
///
/// A key that is one of several in a `get`, and a read that asked not to hear
/// of misses, count as missing. An error line among values is no end of the
/// answer for some clients and an end for others (pylibmc, python-memcached and
/// Node's memcached lose the connection by it), and an error in answer to a
/// quiet binary get leaves python-binary-memcached out of step.
pub fn fail(op: &Op, why: &str, out: &mut Vec<u8>) {
    use crate::proto::binary::{Status, put_message};
    let quiet = match op {
        Op::Get { part: Part::Within, .. } => return,
        Op::Get { part: Part::Last, .. } => return line(out, "END"),
        Op::MetaGet(options) if options.quiet => return,
        Op::BinaryGet { frame, .. } if frame.quiet => return,
        Op::BinaryGet { frame, .. }
        | Op::BinaryStore { frame, .. }
        | Op::BinaryDelete { frame, .. }
        | Op::BinaryArithmetic { frame, .. }
        | Op::Refused { dialect: Dialect::Binary(frame), .. } => {
            return put_message(out, *frame, Status::Temporary, why.as_bytes());
        }
        Op::Store(store) => store.quiet,
        Op::Delete { quiet }
        | Op::Touch { quiet, .. }
        | Op::Arithmetic { quiet, .. }
        | Op::Refused { quiet, .. } => *quiet,
        // Errors are shown to other quiet meta commands, too.
        _ => false,
    };
    if !quiet {
        line(out, &format!("SERVER_ERROR {why}"));
    }
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::TooLarge { .. } => Refusal::TooLarge,
        _ => Refusal::OutOfMemory,
    }
}

fn refuse(
    key: &[u8],
    why: Refusal,
    quiet: bool,
    dialect: Dialect,
    core: &mut Core,
    out: &mut Vec<u8>,
) {
    use crate::proto::binary::{Status, put_error, put_message};
    let status = match why {
        Refusal::TooLarge => {
            core.stats.store_too_large += 1;
            StoreStatus::TooLarge
        }
        Refusal::OutOfMemory => {
            core.stats.store_no_memory += 1;
            StoreStatus::NoMemory
        }
    };
    if core.watch.mutations() {
        core.watch.item_store(core.now, key, status, StoreCommand::Set, 0, 0, None);
    }
    match dialect {
        Dialect::Text if quiet => {}
        Dialect::Text => line(out, if why == Refusal::TooLarge { TOO_LARGE } else { NO_MEMORY }),
        Dialect::Binary(frame) if why == Refusal::TooLarge => put_error(out, frame, Status::TooBig),
        Dialect::Binary(frame) => {
            put_message(out, frame, Status::NoMemory, b"Out of memory allocating item")
        }
    }
}

/// Where a store's value is.
fn value<'a>(request: &Request<'a>, reserved: Option<Reservation>) -> (Value<'a>, usize) {
    match reserved {
        Some(reservation) => {
            let bytes = reservation.value_bytes();
            (Value::Reserved(reservation), bytes)
        }
        None => (Value::Bytes(request.value), request.value.len()),
    }
}

/// Appends a line and its end.
#[inline]
fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Bytes of the value that [`copy_value`] appends.
#[inline]
fn copied_bytes(item: &Item<'_>, copy_bytes_max: usize) -> usize {
    let bytes = item.value_bytes as usize;
    if bytes > copy_bytes_max { 0 } else { bytes }
}

/// Appends the value if it is short enough to be copied; says otherwise.
#[inline]
fn copy_value(item: &Item<'_>, copy_bytes_max: usize, out: &mut Vec<u8>) -> bool {
    if item.value_bytes as usize > copy_bytes_max {
        return false;
    }
    if item.head.len() == item.value_bytes as usize {
        out.extend_from_slice(item.head);
    } else {
        item.copy_value_to(out);
    }
    true
}

/// Tells the watchers and the prefix counters of a read: the class and the
/// value's length of what it found.
#[inline]
fn observe_get(core: &mut Core, key: &[u8], seen: Option<(ClassId, u32)>) {
    if core.watch.fetchers() {
        let (found, value_bytes) = match seen {
            Some((class, value_bytes)) => (Found::Yes(class), value_bytes),
            None => (Found::No, 0),
        };
        core.watch.item_get(core.now, key, found, value_bytes);
    }
    if core.shared.detail.load(Ordering::Relaxed) {
        let delimiter = core.shared.settings.prefix_delimiter;
        core.detail.get(key, delimiter, seen.is_some());
    }
}

/// Tells the prefix counters of a write.
#[inline]
fn observe_set(core: &mut Core, key: &[u8]) {
    if core.shared.detail.load(Ordering::Relaxed) {
        let delimiter = core.shared.settings.prefix_delimiter;
        core.detail.set(key, delimiter);
    }
}

/// Stores as the classic protocols do, and tells the watchers.
#[inline]
fn write_classic(
    request: &Request<'_>,
    hash: KeyHash,
    store: &Store,
    tags: &[Tag],
    reserved: Option<Reservation>,
    core: &mut Core,
) -> Result<WriteOutcome, StoreError> {
    let (value, value_bytes) = value(request, reserved);
    let write = Write {
        mode: store.mode,
        client_flags: store.client_flags,
        expiry: store.expiry,
        compare: store.compare,
        tags,
        ..Write::set(request.key, hash, value)
    };
    let outcome = core.shard.write(write, core.now);
    let compares = store.compare.is_some();
    let (mode, expiry) = (store.mode, store.expiry);
    observe_store(core, request.key, hash, &outcome, mode, compares, value_bytes, expiry);
    outcome
}

/// Tells the prefix counters of a delete.
#[inline]
fn observe_delete(core: &mut Core, key: &[u8]) {
    if core.shared.detail.load(Ordering::Relaxed) {
        let delimiter = core.shared.settings.prefix_delimiter;
        core.detail.delete(key, delimiter);
    }
}

/// Size class and length of the item that a delete is about to remove, if
/// somebody watches deletes.
#[inline]
fn before_delete(core: &mut Core, key: &[u8], hash: KeyHash) -> Option<(ClassId, u32)> {
    if !core.watch.deletions() {
        return None;
    }
    core.shard.peek(key, hash, core.now).map(|item| (item.class, item.value_bytes))
}

/// Tells the watchers of the item that was deleted.
#[inline]
fn after_delete(core: &mut Core, key: &[u8], command: &str, seen: Option<(ClassId, u32)>) {
    if let Some((class, value_bytes)) = seen {
        core.watch.item_deleted(core.now, key, command, class, value_bytes);
    }
}

/// Tells the watchers how a write ended.
#[inline]
fn observe_store(
    core: &mut Core,
    key: &[u8],
    hash: KeyHash,
    outcome: &Result<WriteOutcome, StoreError>,
    mode: WriteMode,
    compares: bool,
    value_bytes: usize,
    expiry: Expiry,
) {
    if core.watch.mutations() {
        tell_store(core, key, hash, outcome, mode, compares, value_bytes, expiry);
    }
}

/// What was stored is shown as it is now, so that an append shows the whole
/// value and the expiry that it kept; what was not, as it came.
#[cold]
fn tell_store(
    core: &mut Core,
    key: &[u8],
    hash: KeyHash,
    outcome: &Result<WriteOutcome, StoreError>,
    mode: WriteMode,
    compares: bool,
    value_bytes: usize,
    expiry: Expiry,
) {
    let status = match outcome {
        Ok(WriteOutcome::Stored { .. }) => StoreStatus::Stored,
        Ok(WriteOutcome::NotStored) => StoreStatus::NotStored,
        Ok(WriteOutcome::Exists) => StoreStatus::Exists,
        Ok(WriteOutcome::NotFound) => StoreStatus::NotFound,
        Err(StoreError::TooLarge { .. }) => StoreStatus::TooLarge,
        Err(_) => StoreStatus::NoMemory,
    };
    let command = StoreCommand::of(mode, compares);
    let stored = match status {
        StoreStatus::Stored => core.shard.peek(key, hash, core.now),
        _ => None,
    };
    let (value_bytes, expiry, class) = match stored {
        Some(item) => (item.value_bytes as usize, item.expiry, Some(item.class)),
        None => (value_bytes, expiry, None),
    };
    let ttl = ttl_seconds(expiry, core.now);
    core.watch.item_store(core.now, key, status, command, value_bytes, ttl, class);
}

/// Seconds left, 0 for ever, as the watchers' log shows it.
fn ttl_seconds(expiry: Expiry, now: Now) -> u64 {
    if expiry == Expiry::NEVER { 0 } else { (expiry.0 / 1000).saturating_sub(now.seconds()) }
}
