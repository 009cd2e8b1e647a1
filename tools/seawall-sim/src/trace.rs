//! Trace files (`*.swtr.zst`): what a cache was asked for, request by request.
//!
//! zstd of one little-endian stream:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `SWTR` |
//! | u16 | version, 1 |
//! | u16 | flags: 1 = times present, 2 = sizes present |
//! | u64 | requests, n |
//! | u64 | unique objects, u |
//! | u64 | 0 |
//! | n x u32 | object of each request, 0 .. u-1 |
//! | n x u32 | seconds since the start (only with flag 1) |
//! | u x u32 | size in bytes of each object (only with flag 2) |

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

const MAGIC: [u8; 4] = *b"SWTR";
const VERSION: u16 = 1;
const FLAG_TIMES: u16 = 1;
const FLAG_SIZES: u16 = 2;
const HEADER_BYTES: usize = 32;
/// More requests than this are refused: 16 GiB of memory for the ids alone.
const REQUESTS_MAX: u64 = 1 << 32;

/// A trace in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Name of the file, without its endings.
    pub name: String,
    /// Object of each request.
    pub requests: Vec<u32>,
    /// Seconds since the start of each request, if known.
    pub times: Option<Vec<u32>>,
    /// How many objects there are.
    pub objects: u32,
    /// Bytes of each object, if known.
    pub sizes: Option<Vec<u32>>,
}

impl Trace {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Trace> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut trace = Trace::read(zstd::Decoder::new(BufReader::new(file))?)
            .with_context(|| format!("{} is no trace that can be read", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        trace.name = name.split('.').next().unwrap_or_default().to_owned();
        Ok(trace)
    }

    fn read(mut stream: impl Read) -> Result<Trace> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).context("it has no whole header")?;
        ensure!(header[..4] == MAGIC, "it does not begin with SWTR");
        let version = u16::from_le_bytes(header[4..6].try_into()?);
        ensure!(version == VERSION, "it has version {version}; this program knows {VERSION}");
        let flags = u16::from_le_bytes(header[6..8].try_into()?);
        ensure!(flags & !(FLAG_TIMES | FLAG_SIZES) == 0, "it has unknown flags {flags:#x}");
        let requests = u64::from_le_bytes(header[8..16].try_into()?);
        let objects = u64::from_le_bytes(header[16..24].try_into()?);
        ensure!(requests <= REQUESTS_MAX, "it claims {requests} requests");
        ensure!(objects <= requests, "it claims {objects} objects in {requests} requests");

        let ids = numbers(&mut stream, requests).context("its requests are cut short")?;
        let times = (flags & FLAG_TIMES != 0)
            .then(|| numbers(&mut stream, requests).context("its times are cut short"))
            .transpose()?;
        let sizes = (flags & FLAG_SIZES != 0)
            .then(|| numbers(&mut stream, objects).context("its sizes are cut short"))
            .transpose()?;
        if let Some(id) = ids.iter().find(|&&id| u64::from(id) >= objects) {
            bail!("it asks for object {id} of {objects}");
        }
        ensure!(stream.read(&mut [0])? == 0, "there is more after its end");
        Ok(Trace { name: String::new(), requests: ids, times, objects: objects as u32, sizes })
    }

    /// Sum of the sizes of all objects; 0 if unknown.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().flatten().map(|&size| u64::from(size)).sum()
    }
}

fn numbers(stream: &mut impl Read, count: u64) -> Result<Vec<u32>> {
    // In pieces, so that a false count takes no more memory than the file has.
    let mut numbers = Vec::new();
    let mut piece = vec![0; 1 << 20];
    let mut bytes_left = count * 4;
    while bytes_left > 0 {
        let bytes = bytes_left.min(piece.len() as u64) as usize;
        stream.read_exact(&mut piece[..bytes])?;
        let words = piece[..bytes].chunks_exact(4);
        numbers.extend(words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])));
        bytes_left -= bytes as u64;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(flags: u16, requests: &[u32], objects: u64, rest: &[u32]) -> Vec<u8> {
        let mut bytes = b"SWTR\x01\x00".to_vec();
        bytes.extend(flags.to_le_bytes());
        bytes.extend((requests.len() as u64).to_le_bytes());
        bytes.extend(objects.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(requests.iter().chain(rest).flat_map(|word| word.to_le_bytes()));
        bytes
    }

    #[test]
    fn reads_what_is_there() {
        let plain = Trace::read(&file(0, &[0, 1, 0], 2, &[])[..]).unwrap();
        assert_eq!(plain.requests, [0, 1, 0]);
        assert_eq!((plain.times, plain.sizes, plain.objects), (None, None, 2));
        let full = Trace::read(&file(3, &[0, 1, 0], 2, &[5, 6, 9, 100, 200])[..]).unwrap();
        assert_eq!(full.times, Some(vec![5, 6, 9]));
        assert_eq!(full.sizes, Some(vec![100, 200]));
        assert_eq!(full.bytes(), 300);
    }

    #[test]
    fn refuses_what_is_broken() {
        let says = |bytes: &[u8]| format!("{:#}", Trace::read(bytes).unwrap_err());
        let good = file(2, &[0, 1, 0], 2, &[100, 200]);
        assert!(says(b"").contains("no whole header"));
        assert!(says(&good[..good.len() - 1]).contains("sizes are cut short"));
        assert!(says(&file(0, &[], 0, &[1])).contains("more after its end"));
        assert!(says(&file(0, &[0, 7], 2, &[])).contains("object 7 of 2"));
        assert!(says(&file(8, &[0], 1, &[])).contains("unknown flags"));
        let mut other = good.clone();
        other[0] = b'X';
        assert!(says(&other).contains("SWTR"));
        let mut newer = good.clone();
        newer[4] = 2;
        assert!(says(&newer).contains("version 2"));
        let mut huge = good;
        huge[8..24].fill(0xff);
        assert!(says(&huge).contains("claims"));
    }
}
