//! The snapshot file, as bytes: a pure codec that the storage thread drives.
//!
//! ```text
//! file    header, block ..., end block
//! header  "SEAWALL\n" | format u32 | taken u32 | created ms u64 | crc32 of these 24 bytes u32
//! block   kind u8 | payload length u32 | crc32 of kind, length and payload u32 | payload
//!         1 records       record ...; at most 4 MiB
//!         2 value         the next piece of the value that the last record left out
//!         3 generations   (scope u8 | id u64 | version u64) ...
//!         4 end           items u64 | value bytes u64 | crc32 of all block crcs u32 | "SEAWALL."
//! record  flags u8 | key length u8 | tags u8 | value length u32 | client flags u32
//!         | expiry u64 | version u64 | explicit cas u64 (if flagged)
//!         | tags 8 each | key | value (unless flagged as elsewhere)
//! ```
//! All numbers are little-endian. A file without its end block is torn; the end
//! block has a fixed size, so a reader can tell before it loads anything.
//! Nothing read here is trusted: lengths are checked before they are used, and a
//! reader never needs more memory than one block.

use crate::{
    Expiry, KEY_BYTES_MAX, Record, RecordValue, TAGS_MAX, TagBytes, VALUE_BYTES_MAX, Version,
};
use alloc::vec::Vec;

/// Format that this code writes and reads.
pub const FORMAT: u32 = 2;
/// Length of the header.
pub const HEADER_BYTES: usize = 28;
/// Length of a block before its payload.
pub const BLOCK_HEADER_BYTES: usize = 9;
/// Longest payload of a block.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Length of the end block, header included.
pub const END_BYTES: usize = BLOCK_HEADER_BYTES + 28;

const MAGIC: &[u8; 8] = b"SEAWALL\n";
const END_MAGIC: &[u8; 8] = b"SEAWALL.";

const STALE: u8 = 1 << 0;
const TOKEN_SENT: u8 = 1 << 1;
const FETCHED: u8 = 1 << 2;
const BINARY_KEY: u8 = 1 << 3;
const EXPLICIT_CAS: u8 = 1 << 4;
const VALUE_ELSEWHERE: u8 = 1 << 5;
const KNOWN_FLAGS: u8 = (1 << 6) - 1;

/// Why a file is no snapshot, or no longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It does not begin as a snapshot does.
    Foreign,
    /// Written in a format that this version cannot read.
    Format(u32),
    /// It ends before its end block.
    Torn,
    /// A block's checksum is wrong.
    Checksum {
        /// Offset of the block in the file.
        offset: u64,
    },
    /// A block whose checksum is right holds what no writer writes.
    Malformed {
        /// Offset of the block in the file.
        offset: u64,
    },
}

impl core::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SnapshotError::Foreign => f.write_str("it is not a Seawall snapshot"),
            SnapshotError::Format(format) => {
                write!(f, "it has format {format}; this version reads format {FORMAT}")
            }
            SnapshotError::Torn => f.write_str("it is torn: it ends before its end mark"),
            SnapshotError::Checksum { offset } => {
                write!(f, "it is damaged: wrong checksum at byte {offset}")
            }
            SnapshotError::Malformed { offset } => {
                write!(f, "it is damaged: impossible content at byte {offset}")
            }
        }
    }
}

impl core::error::Error for SnapshotError {}

/// When a snapshot was taken. What clients were answered after that moment is not in
/// it, so this decides whether it may be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// After the last client was gone: it is the last state of the cache.
    AtTheEnd = 1,
    /// While the node served clients, who may have changed items since.
    WhileServing = 2,
    /// After the last client was gone; but a node has been started from it since.
    Loaded = 3,
}

impl Taken {
    fn from_number(number: u32) -> Option<Taken> {
        match number {
            1 => Some(Taken::AtTheEnd),
            2 => Some(Taken::WhileServing),
            3 => Some(Taken::Loaded),
            _ => None,
        }
    }
}

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// When it was taken.
    pub taken: Taken,
    /// When it was begun, in Unix milliseconds.
    pub created_unix_ms: u64,
}

/// What a generation invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationScope {
    /// Items with the tag of this id.
    Tag,
    /// Items in the namespace whose name hashes to this id.
    Namespace,
    /// All tagged items.
    TagFloor,
    /// All items. Its id is when the flush was said, if that was not when it came
    /// into force.
    Flush,
    /// All items that will have been written before the moment which is its id, in
    /// Unix milliseconds. Its version is when it was said: the last one counts.
    FlushAt,
}

impl GenerationScope {
    /// The scope that is written as this number (`scope as u8`).
    pub fn from_number(number: u8) -> Option<GenerationScope> {
        match number {
            0 => Some(GenerationScope::Tag),
            1 => Some(GenerationScope::Namespace),
            2 => Some(GenerationScope::TagFloor),
            3 => Some(GenerationScope::Flush),
            4 => Some(GenerationScope::FlushAt),
            _ => None,
        }
    }
}

/// An invalidation to carry over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// What it covers.
    pub scope: GenerationScope,
    /// Which one; 0 where the scope has only one.
    pub id: u64,
    /// Versions up to this are dead.
    pub version: Version,
}

/// A block as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// Read on with [`records`].
    Records(&'a [u8]),
    /// The next piece of the last record's value.
    Value(&'a [u8]),
    /// Read on with [`generations`].
    Generations(&'a [u8]),
    /// The file is complete.
    End {
        /// Records in the file.
        items: u64,
        /// Bytes of their values.
        value_bytes: u64,
    },
}

/// The totals of a file being written or read, and the chain over its blocks.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Records so far.
    pub items: u64,
    /// Bytes of values so far.
    pub value_bytes: u64,
    chain: crc32fast::Hasher,
}

impl Totals {
    /// Counts one record.
    pub fn add(&mut self, record: &Record<'_>) {
        self.items += 1;
        self.value_bytes += u64::from(record.value_bytes);
    }
}

/// Appends the header.
pub fn write_header(header: Header, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(header.taken as u32).to_le_bytes());
    out.extend_from_slice(&header.created_unix_ms.to_le_bytes());
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Whether a file that begins with these bytes is a snapshot of any version, or the
/// beginning of one.
pub fn is_snapshot(bytes: &[u8]) -> bool {
    !bytes.is_empty() && MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())])
}

/// Reads the header at the start of a file.
pub fn read_header(bytes: &[u8]) -> Result<Header, SnapshotError> {
    if !is_snapshot(bytes) {
        return Err(SnapshotError::Foreign);
    }
    let mut fields = Fields(bytes.get(MAGIC.len()..).unwrap_or_default());
    match fields.u32() {
        None => return Err(SnapshotError::Torn),
        Some(FORMAT) => {}
        // Where its checksum stands is not known here.
        Some(format) => return Err(SnapshotError::Format(format)),
    }
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(SnapshotError::Torn)?;
    let (Some(taken), Some(created_unix_ms)) = (fields.u32(), fields.u64()) else {
        return Err(SnapshotError::Torn);
    };
    if fields.u32() != Some(crc32fast::hash(&header[..HEADER_BYTES - 4])) {
        return Err(SnapshotError::Checksum { offset: 0 });
    }
    let taken = Taken::from_number(taken).ok_or(SnapshotError::Malformed { offset: 0 })?;
    Ok(Header { taken, created_unix_ms })
}

fn block_crc(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn write_block(kind: u8, payload: &[u8], totals: &mut Totals, out: &mut Vec<u8>) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "the caller cuts blocks");
    let crc = block_crc(kind, payload);
    totals.chain.update(&crc.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Appends a block of records that [`write_record`] wrote.
pub fn write_records(payload: &[u8], totals: &mut Totals, out: &mut Vec<u8>) {
    write_block(1, payload, totals, out);
}

/// Appends a piece of the value that the last record left out.
pub fn write_value(piece: &[u8], totals: &mut Totals, out: &mut Vec<u8>) {
    write_block(2, piece, totals, out);
}

/// Appends a block of generations.
pub fn write_generations(generations: &[Generation], totals: &mut Totals, out: &mut Vec<u8>) {
    for part in generations.chunks(PAYLOAD_BYTES_MAX / 17) {
        let mut payload = Vec::with_capacity(part.len() * 17);
        for generation in part {
            payload.push(generation.scope as u8);
            payload.extend_from_slice(&generation.id.to_le_bytes());
            payload.extend_from_slice(&generation.version.0.to_le_bytes());
        }
        write_block(3, &payload, totals, out);
    }
}

/// Appends the end block.
pub fn write_end(totals: &mut Totals, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(END_BYTES);
    payload.extend_from_slice(&totals.items.to_le_bytes());
    payload.extend_from_slice(&totals.value_bytes.to_le_bytes());
    payload.extend_from_slice(&totals.chain.clone().finalize().to_le_bytes());
    payload.extend_from_slice(END_MAGIC);
    write_block(4, &payload, totals, out);
}

/// Whether a file with these last bytes was written to its end.
pub fn is_complete(tail: &[u8]) -> bool {
    tail.last_chunk::<END_BYTES>().is_some_and(|end| end[0] == 4 && end.ends_with(END_MAGIC))
}

/// Appends one record to a payload.
pub fn write_record(record: &Record<'_>, payload: &mut Vec<u8>) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = flag(record.stale, STALE)
        | flag(record.token_sent, TOKEN_SENT)
        | flag(record.fetched, FETCHED)
        | flag(record.binary_key, BINARY_KEY)
        | flag(record.explicit_cas.is_some(), EXPLICIT_CAS)
        | flag(record.value == RecordValue::Elsewhere, VALUE_ELSEWHERE);
    payload.extend_from_slice(&[
        flags,
        record.key.len() as u8,
        (record.tags.as_bytes().len() / 8) as u8,
    ]);
    payload.extend_from_slice(&record.value_bytes.to_le_bytes());
    payload.extend_from_slice(&record.client_flags.to_le_bytes());
    payload.extend_from_slice(&record.expiry.0.to_le_bytes());
    payload.extend_from_slice(&record.version.0.to_le_bytes());
    if let Some(cas) = record.explicit_cas {
        payload.extend_from_slice(&cas.to_le_bytes());
    }
    payload.extend_from_slice(record.tags.as_bytes());
    payload.extend_from_slice(record.key);
    if let RecordValue::Inline(value) = record.value {
        payload.extend_from_slice(value);
    }
}

/// Reads the block at the start of `bytes`, which begins at `offset` in the
/// file. `None`: more bytes are needed (never more than a block).
pub fn read_block<'a>(
    bytes: &'a [u8],
    offset: u64,
    totals: &mut Totals,
) -> Result<Option<(Block<'a>, usize)>, SnapshotError> {
    let malformed = SnapshotError::Malformed { offset };
    let mut fields = Fields(bytes);
    let (Some(kind), Some(length), Some(crc)) = (fields.u8(), fields.u32(), fields.u32()) else {
        return Ok(None);
    };
    if length as usize > PAYLOAD_BYTES_MAX || !(1..=4).contains(&kind) {
        return Err(malformed);
    }
    let Some(payload) = fields.bytes(length as usize) else { return Ok(None) };
    if block_crc(kind, payload) != crc {
        return Err(SnapshotError::Checksum { offset });
    }
    let block = match kind {
        1 => Block::Records(payload),
        2 => Block::Value(payload),
        3 => Block::Generations(payload),
        _ => {
            let mut fields = Fields(payload);
            let (Some(items), Some(value_bytes), Some(chain)) =
                (fields.u64(), fields.u64(), fields.u32())
            else {
                return Err(malformed);
            };
            if fields.0 != END_MAGIC {
                return Err(malformed);
            }
            if chain != totals.chain.clone().finalize()
                || (items, value_bytes) != (totals.items, totals.value_bytes)
            {
                return Err(SnapshotError::Checksum { offset });
            }
            Block::End { items, value_bytes }
        }
    };
    totals.chain.update(&crc.to_le_bytes());
    Ok(Some((block, BLOCK_HEADER_BYTES + payload.len())))
}

/// The records of a block; the first `None` in place of a record means damage.
pub fn records(payload: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut fields = Fields(payload);
    core::iter::from_fn(move || {
        if fields.0.is_empty() {
            return None;
        }
        let record = read_record(&mut fields);
        if record.is_none() {
            fields.0 = &[];
        }
        Some(record)
    })
}

fn read_record<'a>(fields: &mut Fields<'a>) -> Option<Record<'a>> {
    let (flags, key_bytes, tags) =
        (fields.u8()?, usize::from(fields.u8()?), usize::from(fields.u8()?));
    let value_bytes = fields.u32()?;
    let client_flags = fields.u32()?;
    let (expiry, version) = (Expiry(fields.u64()?), Version(fields.u64()?));
    let explicit_cas = if flags & EXPLICIT_CAS != 0 { Some(fields.u64()?) } else { None };
    let valid = flags & !KNOWN_FLAGS == 0
        && (1..=KEY_BYTES_MAX).contains(&key_bytes)
        && tags <= TAGS_MAX
        && value_bytes as usize <= VALUE_BYTES_MAX;
    if !valid {
        return None;
    }
    let tags = TagBytes::new(fields.bytes(tags * 8)?)?;
    let key = fields.bytes(key_bytes)?;
    let value = if flags & VALUE_ELSEWHERE != 0 {
        RecordValue::Elsewhere
    } else {
        RecordValue::Inline(fields.bytes(value_bytes as usize)?)
    };
    Some(Record {
        key,
        value_bytes,
        value,
        client_flags,
        expiry,
        version,
        explicit_cas,
        tags,
        stale: flags & STALE != 0,
        token_sent: flags & TOKEN_SENT != 0,
        fetched: flags & FETCHED != 0,
        binary_key: flags & BINARY_KEY != 0,
    })
}

/// The generations of a block; a `None` in place of one means damage.
pub fn generations(payload: &[u8]) -> impl Iterator<Item = Option<Generation>> {
    payload.chunks(17).map(|bytes| {
        let mut fields = Fields(bytes);
        let scope = GenerationScope::from_number(fields.u8()?)?;
        Some(Generation { scope, id: fields.u64()?, version: Version(fields.u64()?) })
    })
}

/// Reads a whole file that is in memory and counts what it holds. What the fuzz
/// target and its corpus drive; the storage thread reads block by block.
pub fn check(file: &[u8]) -> Result<Totals, SnapshotError> {
    read_header(file)?;
    if !is_complete(file) {
        return Err(SnapshotError::Torn);
    }
    let mut totals = Totals::default();
    let mut at = HEADER_BYTES;
    loop {
        let offset = at as u64;
        let malformed = SnapshotError::Malformed { offset };
        let (block, used) =
            read_block(&file[at..], offset, &mut totals)?.ok_or(SnapshotError::Torn)?;
        at += used;
        match block {
            Block::Records(payload) => {
                for record in records(payload) {
                    totals.add(&record.ok_or(malformed)?);
                }
            }
            Block::Generations(payload) => {
                for generation in generations(payload) {
                    generation.ok_or(malformed)?;
                }
            }
            Block::Value(_) => {}
            Block::End { .. } => return Ok(totals),
        }
    }
}

/// Bytes not yet read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn record<'a>(key: &'a [u8], value: &'a [u8], tags: &'a [u8]) -> Record<'a> {
        Record {
            key,
            value_bytes: value.len() as u32,
            value: RecordValue::Inline(value),
            client_flags: 7,
            expiry: Expiry(1_700_000_000_250),
            version: Version(99 << 20),
            explicit_cas: Some(5),
            tags: TagBytes::new(tags).unwrap(),
            stale: true,
            token_sent: false,
            fetched: true,
            binary_key: false,
        }
    }

    fn sample() -> Vec<u8> {
        let mut totals = Totals::default();
        let mut file = Vec::new();
        let header = Header { taken: Taken::AtTheEnd, created_unix_ms: 123 };
        write_header(header, &mut file);
        let tags = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        let mut payload = Vec::new();
        for (key, value, tags) in [(&b"a"[..], &b"one"[..], &tags[..]), (b"bb", b"", b"")] {
            let record = record(key, value, tags);
            totals.add(&record);
            write_record(&record, &mut payload);
        }
        let large =
            Record { value: RecordValue::Elsewhere, value_bytes: 6, ..record(b"large", b"", b"") };
        totals.add(&large);
        write_record(&large, &mut payload);
        write_records(&payload, &mut totals, &mut file);
        write_value(b"pie", &mut totals, &mut file);
        write_value(b"ces", &mut totals, &mut file);
        let generation = Generation { scope: GenerationScope::Tag, id: 4, version: Version(8) };
        write_generations(&[generation], &mut totals, &mut file);
        write_end(&mut totals, &mut file);
        file
    }

    /// Reads a whole file into lines.
    fn read(file: &[u8]) -> Result<Vec<std::string::String>, SnapshotError> {
        let mut lines = Vec::new();
        lines.push(format!("{:?}", read_header(file)?));
        if !is_complete(file) {
            return Err(SnapshotError::Torn);
        }
        let mut totals = Totals::default();
        let mut at = HEADER_BYTES;
        loop {
            let offset = at as u64;
            let Some((block, used)) = read_block(&file[at..], offset, &mut totals)? else {
                return Err(SnapshotError::Torn);
            };
            at += used;
            match block {
                Block::Records(payload) => {
                    for record in records(payload) {
                        let record = record.ok_or(SnapshotError::Malformed { offset })?;
                        totals.add(&record);
                        lines.push(format!("{record:?}"));
                    }
                }
                Block::Value(piece) => lines.push(format!("{piece:?}")),
                Block::Generations(payload) => {
                    for generation in generations(payload) {
                        lines.push(format!(
                            "{:?}",
                            generation.ok_or(SnapshotError::Malformed { offset })?
                        ));
                    }
                }
                Block::End { items, value_bytes } => {
                    lines.push(format!("end {items} {value_bytes}"));
                    return Ok(lines);
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let lines = read(&sample()).unwrap();
        let tags = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[1], format!("{:?}", record(b"a", b"one", &tags)));
        assert_eq!(lines[7], "end 3 9");
    }

    #[test]
    fn a_torn_file_is_refused_wherever_it_ends() {
        let file = sample();
        for end in 0..file.len() {
            let error = read(&file[..end]).expect_err("a prefix is not a snapshot");
            assert!(
                matches!(error, SnapshotError::Torn | SnapshotError::Foreign),
                "{end}: {error:?}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let file = sample();
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_header_says_when_it_was_taken() {
        for taken in [Taken::AtTheEnd, Taken::WhileServing, Taken::Loaded] {
            let (header, mut bytes) = (Header { taken, created_unix_ms: 7 }, Vec::new());
            write_header(header, &mut bytes);
            assert_eq!((bytes.len(), read_header(&bytes)), (HEADER_BYTES, Ok(header)));
        }
    }

    #[test]
    fn another_format_is_named() {
        let mut file = sample();
        file[8] = 9;
        assert_eq!(read_header(&file), Err(SnapshotError::Format(9)));
    }
}
