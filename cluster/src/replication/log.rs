//! The log of a core's writes, from which every replica is served.
//!
//! A write is appended once, in the bytes that travel, and stays until it is
//! pushed out by newer ones: the log is the queue toward each replica and the
//! memory for those that come back. Each replica has a cursor into it. Entries
//! lie in segments that are dropped whole, the oldest first, so that the log
//! takes `bytes_max` and one segment at most.
//!
//! ```text
//! segment   [entry][entry][entry]...            one allocation
//! entry     what `message` writes               found by its offset
//! ```

use crate::ring::Partition;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use engine::KeyHash;

/// A place in a core's log. The first write has 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The place behind it.
    pub const fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// Bytes at which a segment is closed.
const SEGMENT_BYTES: usize = 256 << 10;

/// An entry, as a cursor finds it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where it is.
    pub lsn: Lsn,
    /// The partition of its key.
    pub partition: Partition,
    /// The hash of its key.
    pub hash: KeyHash,
    /// The bytes that travel.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
struct Head {
    partition: Partition,
    hash: KeyHash,
    end: usize,
}

#[derive(Debug)]
struct Segment {
    first: Lsn,
    heads: Vec<Head>,
    bytes: Vec<u8>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Log {
    segments: VecDeque<Segment>,
    next: Lsn,
    bytes: usize,
    bytes_max: usize,
}

impl Log {
    /// An empty log that keeps about `bytes_max`.
    pub fn new(bytes_max: usize) -> Log {
        Log { segments: VecDeque::new(), next: Lsn(1), bytes: 0, bytes_max }
    }

    /// The place that the next write gets.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// The oldest entry that is still here, or [`Log::next`].
    pub fn first(&self) -> Lsn {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a write; `write` puts down the bytes that travel.
    pub fn append(
        &mut self,
        partition: Partition,
        hash: KeyHash,
        write: impl FnOnce(Lsn, &mut Vec<u8>),
    ) -> Lsn {
        let lsn = self.next;
        let closed =
            self.segments.back().is_none_or(|segment| segment.bytes.len() >= SEGMENT_BYTES);
        if closed {
            let bytes = Vec::with_capacity(SEGMENT_BYTES);
            self.segments.push_back(Segment { first: lsn, heads: Vec::new(), bytes });
        }
        let segment = self.segments.back_mut().expect("there is one");
        let before = segment.bytes.len();
        write(lsn, &mut segment.bytes);
        let end = segment.bytes.len();
        segment.heads.push(Head { partition, hash, end });
        self.bytes += end - before + size_of::<Head>();
        self.next = lsn.next();
        while self.bytes > self.bytes_max && self.segments.len() > 1 {
            let oldest = self.segments.pop_front().expect("there are two");
            self.bytes -= oldest.bytes.len() + oldest.heads.len() * size_of::<Head>();
        }
        lsn
    }

    /// The entry at `lsn`; `None` if it is gone or not there yet.
    pub fn get(&self, lsn: Lsn) -> Option<Entry<'_>> {
        let at = self.segments.partition_point(|segment| segment.first <= lsn).checked_sub(1)?;
        let segment = &self.segments[at];
        let index = (lsn.0 - segment.first.0) as usize;
        let head = segment.heads.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| segment.heads[before].end);
        let bytes = &segment.bytes[start..head.end];
        Some(Entry { lsn, partition: head.partition, hash: head.hash, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_found_until_newer_writes_push_it_out() {
        let mut log = Log::new(1 << 20);
        assert_eq!((log.first(), log.next()), (Lsn(1), Lsn(1)));
        for number in 1..=10_000u64 {
            let lsn = log.append(Partition(number as u32 % 7), KeyHash(number), |lsn, out| {
                out.extend_from_slice(&lsn.0.to_le_bytes());
                out.resize(out.len() + 500, 0);
            });
            assert_eq!(lsn, Lsn(number));
        }
        assert!(log.bytes() <= (1 << 20) + SEGMENT_BYTES + 1000);
        assert!(log.get(Lsn(1)).is_none() && log.get(Lsn(10_001)).is_none());
        let first = log.first();
        assert!(first > Lsn(1) && log.get(Lsn(first.0 - 1)).is_none());
        for lsn in first.0..=10_000 {
            let entry = log.get(Lsn(lsn)).unwrap();
            assert_eq!((entry.lsn, entry.hash), (Lsn(lsn), KeyHash(lsn)));
            assert_eq!(entry.bytes[..8], lsn.to_le_bytes());
            assert_eq!(entry.bytes.len(), 508);
        }
    }
}
