//! Warm restart: the cache as a file, written while the cores serve.
//!
//! Saving walks one shard after the other in slices of about a megabyte, each a
//! short call on its core; between two slices the core serves as always. The
//! file is therefore no single instant: an item written during the walk may be
//! in it or not, as a cache may forget. Invalidations that came during the walk are
//! saved last, so that nothing invalidated meanwhile comes back.
//!
//! The header says whether the file was taken at a clean end or while clients were
//! served; [`refusal`] decides by it whether to load the file at all.
//!
//! Loading checks every block before it believes it. A file that turns out
//! damaged halfway is refused as a whole: what it had brought is dropped again.

use super::Storage;
use anyhow::{Context, Result, anyhow, bail};
use engine::snapshot::{self as codec, Block, Header, SnapshotError, Taken, Totals};
use engine::{Now, Pin, Record, RecordValue, Reservation, ScanCursor, ScanLimits, Shard};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// Bytes of values that one slice of a walk may bring.
const SLICE_BYTES: usize = 1 << 20;
/// Items that one slice may visit; some 0.2 ms of its core's time.
const SLICE_ITEMS: usize = 2_000;
/// A piece of a value too long for a record.
const PIECE_BYTES: usize = 1 << 20;
/// Records gathered for one core before it is asked to take them.
const RESTORE_BYTES: usize = 128 << 10;

/// The cores, as far as snapshots need them.
pub trait Shards {
    /// How many.
    fn count(&self) -> u32;
    /// The core that owns `key`.
    fn owner(&self, key: &[u8]) -> u32;
    /// Runs `task` on a core and waits for what it returns.
    fn on_core<T: Send + 'static>(
        &self,
        core: u32,
        task: impl FnOnce(&mut Shard, Now) -> T + Send + 'static,
    ) -> Result<T>;
}

/// What a snapshot is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was asked for yet.
    #[default]
    Idle,
    /// A file is being written.
    Saving,
    /// A file is being loaded.
    Loading,
    /// The last one went well.
    Done,
    /// The last one failed; `error` says why.
    Failed,
}

/// How far it is, for `GET /snapshot` and the log.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// What it is doing.
    pub state: State,
    /// Items so far.
    pub items: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Share of the work done, 0 to 1.
    pub fraction: f64,
    /// Seconds since it began, or that it took.
    pub seconds: f64,
    /// What went wrong.
    pub error: Option<String>,
}

/// A report that others may read while the work goes on.
#[derive(Debug, Default)]
pub struct Progress {
    report: Mutex<Report>,
    began: Mutex<Option<Instant>>,
}

impl Progress {
    /// The report now.
    pub fn report(&self) -> Report {
        self.report.lock().expect("no holder panics").clone()
    }

    /// Claims the work; `None` if another snapshot is under way.
    pub fn begin(&self, state: State) -> Option<()> {
        let mut report = self.report.lock().expect("no holder panics");
        if matches!(report.state, State::Saving | State::Loading) {
            return None;
        }
        *report = Report { state, ..Report::default() };
        *self.began.lock().expect("no holder panics") = Some(Instant::now());
        Some(())
    }

    fn advance(&self, totals: &Totals, fraction: f64) {
        let mut report = self.report.lock().expect("no holder panics");
        (report.items, report.value_bytes, report.fraction) =
            (totals.items, totals.value_bytes, fraction);
        report.seconds = self.seconds();
    }

    fn seconds(&self) -> f64 {
        self.began
            .lock()
            .expect("no holder panics")
            .map_or(0.0, |began| began.elapsed().as_secs_f64())
    }

    /// Records how it ended.
    pub fn end(&self, outcome: Result<&Totals, &anyhow::Error>) {
        let seconds = self.seconds();
        let mut report = self.report.lock().expect("no holder panics");
        report.seconds = seconds;
        match outcome {
            Ok(totals) => {
                (report.items, report.value_bytes, report.fraction) =
                    (totals.items, totals.value_bytes, 1.0);
                report.state = State::Done;
            }
            Err(error) => {
                report.state = State::Failed;
                report.error = Some(format!("{error:#}"));
            }
        }
    }
}

/// A slice of a shard's walk: payloads, each perhaps ending in a record whose
/// value is pinned.
struct Slice {
    parts: Vec<(Vec<u8>, Option<Pin>)>,
    items: u64,
    value_bytes: u64,
    cursor: ScanCursor,
}

fn slice(shard: &mut Shard, mut cursor: ScanCursor, now: Now) -> Slice {
    let mut parts: Vec<(Vec<u8>, Option<Vec<u8>>)> = vec![(Vec::new(), None)];
    let (mut items, mut value_bytes) = (0, 0);
    let limits = ScanLimits { items: SLICE_ITEMS, bytes: SLICE_BYTES };
    shard.scan(&mut cursor, limits, now, &mut |record: &Record<'_>| {
        let (payload, long_key) = parts.last_mut().expect("never empty");
        codec::write_record(record, payload);
        items += 1;
        value_bytes += u64::from(record.value_bytes);
        if record.value == RecordValue::Elsewhere {
            *long_key = Some(record.key.to_vec());
            parts.push((Vec::new(), None));
        }
    });
    let parts = parts.into_iter().filter(|(payload, _)| !payload.is_empty());
    let parts = parts.map(|(payload, long_key)| {
        // Nothing can have removed it since the walk: this is one call.
        let pin = long_key.and_then(|key| shard.pin(&key, shard.hash_of(&key), now));
        (payload, pin)
    });
    Slice { parts: parts.collect(), items, value_bytes, cursor }
}

/// Writes all shards to `path`.
pub fn save(
    shards: &impl Shards,
    storage: &Storage,
    path: &Path,
    progress: &Progress,
    taken: Taken,
) -> Result<Totals> {
    let outcome = save_all(shards, storage, path, progress, taken)
        .with_context(|| format!("cannot write the snapshot {}", path.display()));
    progress.end(outcome.as_ref());
    outcome
}

fn save_all(
    shards: &impl Shards,
    storage: &Storage,
    path: &Path,
    progress: &Progress,
    taken: Taken,
) -> Result<Totals> {
    super::place::check_replaceable(path)?;
    let mut file = storage.create(path)?;
    let mut totals = Totals::default();
    let created = shards.on_core(0, |_, now| now)?;
    let mut out = Vec::new();
    codec::write_header(Header { taken, created_unix_ms: created.0 }, &mut out);
    let count = shards.count();
    for core in 0..count {
        let mut cursor = ScanCursor::default();
        while !cursor.is_done() {
            let part = shards.on_core(core, move |shard, now| slice(shard, cursor, now))?;
            cursor = part.cursor;
            totals.items += part.items;
            totals.value_bytes += part.value_bytes;
            for (payload, pin) in part.parts {
                codec::write_records(&payload, &mut totals, &mut out);
                file.write(std::mem::take(&mut out))?;
                let Some(pin) = pin else { continue };
                let written = write_pieces(&pin, &mut totals, &mut file);
                shards.on_core(core, move |shard, _| shard.unpin(pin))?;
                written?;
            }
            progress.advance(&totals, (f64::from(core) + cursor.fraction()) / f64::from(count));
        }
    }
    for core in 0..count {
        // Whatever was dead before the walk is not in the file. Older generations
        // also must not reach other cores' items: their clocks may differ by a
        // few ticks within a millisecond.
        let mut generations = shards.on_core(core, |shard, _| shard.generations())?;
        generations.retain(|generation| generation.version.unix_ms() >= created.0);
        codec::write_generations(&generations, &mut totals, &mut out);
    }
    codec::write_end(&mut totals, &mut out);
    file.write(out)?;
    file.finish()?;
    Ok(totals)
}

fn write_pieces(
    pin: &Pin,
    totals: &mut Totals,
    file: &mut super::FileWriter,
) -> std::io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut offset = 0;
    while offset < pin.value_bytes() {
        let length = PIECE_BYTES.min(pin.value_bytes() - offset);
        piece.clear();
        pin.copy_to(offset, length, &mut piece);
        let mut out = Vec::with_capacity(length + codec::BLOCK_HEADER_BYTES);
        codec::write_value(&piece, totals, &mut out);
        file.write(out)?;
        offset += length;
    }
    Ok(())
}

/// Why a snapshot is not to be loaded; `stale_too`: the user wants old items as well.
pub fn refusal(taken: Taken, stale_too: bool) -> Option<&'static str> {
    match taken {
        Taken::AtTheEnd => None,
        _ if stale_too => None,
        Taken::WhileServing => {
            Some("it was taken while the node served, and clients may have changed items since")
        }
        Taken::Loaded => Some(
            "a node was started from it already and has not ended cleanly since, so clients may have changed items",
        ),
    }
}

/// Loads `path` into empty shards. On any error they are left empty.
pub fn load(
    shards: &impl Shards,
    storage: &Storage,
    path: &Path,
    progress: &Progress,
) -> Result<Totals> {
    let mut loader = Loader::new(shards);
    let mut outcome = loader.run(storage, path, progress);
    if outcome.is_err()
        && let Err(error) = loader.undo()
    {
        outcome = Err(error);
    }
    let outcome = outcome.with_context(|| format!("cannot load the snapshot {}", path.display()));
    progress.end(outcome.as_ref());
    outcome
}

/// A record whose value is still arriving in pieces.
struct Long {
    core: u32,
    record: Vec<u8>,
    reservation: Reservation,
}

struct Loader<'a, S> {
    shards: &'a S,
    pending: Vec<Vec<u8>>,
    long: Option<Long>,
    /// Bytes of a long value that is skipped because no core has room for it.
    skip: usize,
    totals: Totals,
}

impl<'a, S: Shards> Loader<'a, S> {
    fn new(shards: &'a S) -> Loader<'a, S> {
        let pending = (0..shards.count()).map(|_| Vec::new()).collect();
        Loader { shards, pending, long: None, skip: 0, totals: Totals::default() }
    }

    fn run(&mut self, storage: &Storage, path: &Path, progress: &Progress) -> Result<Totals> {
        let length = check_tail(path)?;
        let mut bytes = Vec::new();
        let mut offset = 0u64;
        for chunk in storage.read(path)? {
            bytes.extend_from_slice(&chunk?);
            let mut used = 0;
            if offset == 0 {
                codec::read_header(&bytes)?;
                used = codec::HEADER_BYTES;
            }
            while let Some((block, taken)) =
                codec::read_block(&bytes[used..], offset + used as u64, &mut self.totals)?
            {
                let at = offset + used as u64;
                used += taken;
                if self.block(block, at)? {
                    self.flush()?;
                    return Ok(self.totals.clone());
                }
            }
            bytes.drain(..used);
            offset += used as u64;
            progress.advance(&self.totals, offset as f64 / length.max(1) as f64);
        }
        Err(SnapshotError::Torn.into())
    }

    /// Takes one block; true at the end.
    fn block(&mut self, block: Block<'_>, offset: u64) -> Result<bool> {
        let malformed = || anyhow!(SnapshotError::Malformed { offset });
        if (self.long.is_some() || self.skip > 0) != matches!(block, Block::Value(_)) {
            return Err(malformed());
        }
        match block {
            Block::Records(payload) => {
                let mut records = codec::records(payload).peekable();
                while let Some(record) = records.next() {
                    let record = record.ok_or_else(malformed)?;
                    self.totals.add(&record);
                    if record.value == RecordValue::Elsewhere && records.peek().is_some() {
                        return Err(malformed());
                    }
                    self.record(&record)?;
                }
            }
            Block::Value(piece) => self.piece(piece).ok_or_else(malformed)??,
            Block::Generations(payload) => {
                for generation in codec::generations(payload) {
                    let generation = generation.ok_or_else(malformed)?;
                    for core in 0..self.shards.count() {
                        self.shards
                            .on_core(core, move |shard, _| shard.merge_generation(generation))?;
                    }
                }
            }
            Block::End { .. } => return Ok(true),
        }
        Ok(false)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        let core = self.shards.owner(record.key);
        if record.value == RecordValue::Elsewhere {
            let (key, length) = (record.key.to_vec(), record.value_bytes as usize);
            let reserved =
                self.shards.on_core(core, move |shard, now| shard.reserve(&key, length, now))?;
            match reserved {
                Ok(reservation) => {
                    let mut bytes = Vec::new();
                    codec::write_record(record, &mut bytes);
                    self.long = Some(Long { core, record: bytes, reservation });
                }
                // Less memory or a smaller `-I` than when it was written.
                Err(_) => self.skip = length,
            }
            return Ok(());
        }
        let pending = &mut self.pending[core as usize];
        codec::write_record(record, pending);
        if pending.len() >= RESTORE_BYTES { self.flush_core(core) } else { Ok(()) }
    }

    /// Takes a piece of the long value; `None` if it is longer than announced.
    fn piece(&mut self, piece: &[u8]) -> Option<Result<()>> {
        if self.skip > 0 {
            self.skip = self.skip.checked_sub(piece.len())?;
            return Some(Ok(()));
        }
        let long = self.long.as_mut()?;
        if piece.is_empty() || long.reservation.fill(piece) != piece.len() {
            return None;
        }
        if long.reservation.missing() > 0 {
            return Some(Ok(()));
        }
        let Long { core, record, reservation } = self.long.take()?;
        Some(self.shards.on_core(core, move |shard, now| {
            match codec::records(&record).flatten().next() {
                Some(record) => drop(shard.restore(&record, Some(reservation), now)),
                None => shard.abort(reservation),
            }
        }))
    }

    fn flush_core(&mut self, core: u32) -> Result<()> {
        let payload = std::mem::take(&mut self.pending[core as usize]);
        self.shards.on_core(core, move |shard, now| {
            for record in codec::records(&payload).flatten() {
                // An item that no longer fits is forgotten, as by an eviction.
                let _ = shard.restore(&record, None, now);
            }
        })
    }

    fn flush(&mut self) -> Result<()> {
        (0..self.shards.count()).try_for_each(|core| self.flush_core(core))
    }

    /// Forgets all that was loaded.
    fn undo(&mut self) -> Result<()> {
        if let Some(Long { core, reservation, .. }) = self.long.take() {
            self.shards.on_core(core, move |shard, _| shard.abort(reservation))?;
        }
        for core in 0..self.shards.count() {
            self.shards.on_core(core, |shard, now| shard.flush(now, now))?;
        }
        Ok(())
    }
}

/// Refuses a file that does not end as a snapshot does, before anything is read.
fn check_tail(path: &Path) -> Result<u64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = vec![0; codec::HEADER_BYTES.min(length as usize)];
    file.read_exact_at(&mut head, 0)?;
    codec::read_header(&head)?;
    let mut tail = [0; codec::END_BYTES];
    if length < (codec::HEADER_BYTES + tail.len()) as u64 {
        bail!(SnapshotError::Torn);
    }
    file.read_exact_at(&mut tail, length - codec::END_BYTES as u64)?;
    if !codec::is_complete(&tail) {
        bail!(SnapshotError::Torn);
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Arena, Expiry, HashSeed, KeyHash, ShardConfig, Tag, Value, Write};
    use std::num::NonZeroU64;
    use std::path::PathBuf;

    const NOW: Now = Now(1_800_000_000_000);

    /// Shards without a node around them.
    struct Bare(Vec<Mutex<Shard>>, HashSeed);

    impl Bare {
        fn new(count: u32) -> Bare {
            let seed = HashSeed::new(7);
            let config = ShardConfig {
                value_bytes_max: 4 << 20,
                tag_generations_max: 100,
                ..ShardConfig::new(seed.clone(), 16 << 20)
            };
            let shard = |_| Mutex::new(Shard::new(config.clone(), Arena::heap(16 << 20)));
            Bare((0..count).map(shard).collect(), seed)
        }

        fn set(&self, key: &[u8], value: &[u8], tags: &[Tag]) {
            let hash = KeyHash::of(key, &self.1);
            let mut shard = self.0[self.owner(key) as usize].lock().unwrap();
            let write = Write {
                mode: engine::WriteMode::Set,
                client_flags: 3,
                expiry: Expiry(NOW.0 + 1_000_250),
                tags,
                ..Write::set(key, hash, Value::Bytes(value))
            };
            shard.write(write, NOW).unwrap();
        }

        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            let mut shard = self.0[self.owner(key) as usize].lock().unwrap();
            let item = shard.get(key, KeyHash::of(key, &self.1), NOW)?;
            assert_eq!((item.client_flags, item.expiry), (3, Expiry(NOW.0 + 1_000_250)));
            let mut value = Vec::new();
            item.copy_value_to(&mut value);
            Some(value)
        }
    }

    impl Shards for Bare {
        fn count(&self) -> u32 {
            self.0.len() as u32
        }

        fn owner(&self, key: &[u8]) -> u32 {
            KeyHash::of(key, &self.1).core(self.count())
        }

        fn on_core<T: Send + 'static>(
            &self,
            core: u32,
            task: impl FnOnce(&mut Shard, Now) -> T + Send + 'static,
        ) -> Result<T> {
            Ok(task(&mut self.0[core as usize].lock().unwrap(), NOW))
        }
    }

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("seawall-snapshot-{name}-{}", std::process::id()))
    }

    #[test]
    fn long_values_and_generations_come_back() {
        let storage = Storage::start().unwrap();
        let path = file("long");
        let old = Bare::new(3);
        let tag = Tag(NonZeroU64::new(9).unwrap());
        let long: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7) as u8).collect();
        for number in 0..3_000u32 {
            old.set(format!("key{number}").as_bytes(), &number.to_le_bytes(), &[]);
        }
        old.set(b"long", &long, &[]);
        old.set(b"longer", &long[1..], &[tag]);
        old.set(b"dead", b"x", &[tag]);
        for shard in &old.0 {
            shard.lock().unwrap().invalidate_tag(tag, NOW);
        }
        let saved = save(&old, &storage, &path, &Progress::default(), Taken::AtTheEnd).unwrap();
        assert_eq!(saved.items, 3_001);

        let new = Bare::new(2);
        let progress = Progress::default();
        load(&new, &storage, &path, &progress).unwrap();
        assert_eq!(progress.report().state, State::Done);
        for number in 0..3_000u32 {
            assert_eq!(
                new.get(format!("key{number}").as_bytes()).as_deref(),
                Some(&number.to_le_bytes()[..])
            );
        }
        assert!(new.get(b"long").unwrap() == long);
        assert_eq!((new.get(b"dead"), new.get(b"longer")), (None, None));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn damage_anywhere_leaves_the_shards_empty() {
        let storage = Storage::start().unwrap();
        let path = file("damage");
        let old = Bare::new(2);
        for number in 0..2_000u32 {
            old.set(format!("key{number}").as_bytes(), &[7; 100], &[]);
        }
        save(&old, &storage, &path, &Progress::default(), Taken::AtTheEnd).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 40).chain([good.len() - 1]) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let new = Bare::new(2);
            assert!(load(&new, &storage, &path, &Progress::default()).is_err(), "byte {at}");
            assert!(
                (0..2_000).all(|number| new.get(format!("key{number}").as_bytes()).is_none()),
                "byte {at}"
            );
        }
        std::fs::remove_file(path).unwrap();
    }
}
