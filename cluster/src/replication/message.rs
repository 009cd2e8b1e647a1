//! What a primary's core and a replica's core say to each other.
//!
//! A link carries messages in order, each framed by its length outside of this
//! module. Numbers are little-endian.
//!
//! ```text
//! primary -> replica
//!   1 open     incarnation u64 | core u16                         first of a link
//!   2 write    lsn u64 | partition u32 | epoch u32 | record       the item is now so
//!   3 delete   lsn u64 | partition u32 | epoch u32 | key          there is no item now
//!   4 begin    fill u32 | partitions: (u32, epoch u32) ...        a fill begins
//!   5 fill     fill u32 | record                                  an item of it
//!   6 end      fill u32                                           the fill is complete
//!   8 step     fill u32 | place u64                               it has come to there
//!   7 mark     lsn u64 | lsn u64                                  nothing up to the first is
//!                                                                missing, up to the second uncertain
//!   10 generations  (scope u8 | id u64 | version u64) ...
//! holder -> primary of a hot key
//!   11 want    number u64 | have u64 | key     grant me a copy; what an earlier answer
//!                                              carried is here
//!   12 revoked number u64              that copy is gone
//! replica -> primary
//!   32 opened  incarnation u64 | lsn u64 |       it has what that primary sent up to there,
//!              fill u32 | place u64              and of that fill up to there
//!   33 ack     lsn u64                 and now up to there
//!   34 filled  fill u32                the fill is stored
//!   35 fenced  lsn u64 | partition u32 | epoch u32     not from a past owner
//!   36 ask     partition u32 | key     what is the item of this key?
//!   37 held    revision u64 | (partition u32, epoch u32) ...   it was primary, in that epoch
//!   38 lacks   fill u32 | partition u32 ...   of these it has nothing to build on
//! primary -> holder
//!   39 granted number u64 | span u32 | record     for so many milliseconds from the
//!                                      question on; no record: it is what the holder has
//!   40 denied  number u64 | why u8     no copy now
//!   41 revoke  number u64 | hash u64   give the copy up, and say so
//! ```

use crate::replication::{Denied, Lsn};
use crate::ring::Partition;
use crate::topology::{Epoch, Incarnation, Revision};
use alloc::vec::Vec;
use engine::snapshot::{Generation, GenerationScope};
use engine::{KeyHash, Version};

/// A message as read; the rest of its bytes lie where they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The primary's core introduces itself.
    Open {
        /// This life of its process.
        incarnation: Incarnation,
        /// Its core.
        core: u16,
    },
    /// What became of a key.
    Write {
        /// Where it stands in the primary's log.
        lsn: Lsn,
        /// The key's partition.
        partition: Partition,
        /// The primary's epoch there.
        epoch: Epoch,
        /// The item, or that there is none.
        change: Change<'a>,
    },
    /// A fill begins: what the replica has of these partitions is to go first.
    Begin {
        /// Its number on this link.
        fill: u32,
        /// What it covers, and the primary's epochs.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// One item of a fill.
    Fill {
        /// Which fill.
        fill: u32,
        /// The item.
        record: &'a [u8],
    },
    /// A fill has come to a place: should the link break, it goes on from there.
    Step {
        /// Which fill.
        fill: u32,
        /// The place, in the primary's words.
        place: u64,
    },
    /// All items of a fill were sent.
    End {
        /// Which fill.
        fill: u32,
    },
    /// Nothing before this place is missing: what the replica does not hold was
    /// left out.
    Mark {
        /// The place.
        lsn: Lsn,
        /// Every in-sync replica has everything up to there.
        settled: Lsn,
    },
    /// Invalidations.
    Generations(Vec<Generation>),
    /// The replica has what this primary sent up to there.
    Opened {
        /// This life of the replica's process.
        incarnation: Incarnation,
        /// The place.
        lsn: Lsn,
        /// The last fill that it began; 0 if none.
        fill: u32,
        /// What of it is stored; [`FILL_ENDED`] if all.
        place: u64,
    },
    /// It has everything up to there.
    Ack {
        /// The place.
        lsn: Lsn,
    },
    /// A fill is stored.
    Filled {
        /// Which.
        fill: u32,
    },
    /// A write was refused: it is from a past owner.
    Fenced {
        /// The write.
        lsn: Lsn,
        /// Its partition.
        partition: Partition,
        /// The epoch that the replica knows.
        epoch: Epoch,
    },
    /// By this revision, the partitions in which the replica was primary in the
    /// epoch before and whose content nobody has touched since.
    Held {
        /// The topology that it acts by.
        revision: Revision,
        /// The partitions, and its epoch as their primary.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// Of these partitions the replica has nothing that a log could be built on.
    Lacks {
        /// The last fill that it began; what that covers is not among them.
        fill: u32,
        /// The partitions.
        partitions: Vec<Partition>,
    },
    /// A core that another node's key is hot on wants a copy.
    Want {
        /// The question's.
        number: u64,
        /// It still has what the answer to this question carried; 0: nothing.
        have: u64,
        /// The key.
        key: &'a [u8],
    },
    /// It may answer reads of the key.
    Granted {
        /// The question's.
        number: u64,
        /// For so long from when it asked.
        span_ms: u32,
        /// The item; empty if the holder has it.
        record: &'a [u8],
    },
    /// It may not.
    Denied {
        /// The question's.
        number: u64,
        /// Why.
        why: Denied,
    },
    /// It may not any more.
    Revoke {
        /// The revocation's.
        number: u64,
        /// The key's.
        hash: KeyHash,
    },
    /// It does not any more.
    Revoked {
        /// The revocation's.
        number: u64,
    },
    /// What is the item of this key? It is to be written once more.
    Ask {
        /// Its partition.
        partition: Partition,
        /// The key.
        key: &'a [u8],
    },
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The item, as [`engine::snapshot::write_record`] writes it.
    Item(&'a [u8]),
    /// There is none. Its key.
    Gone(&'a [u8]),
}

/// All of a fill is stored.
pub(super) const FILL_ENDED: u64 = u64::MAX;

const OPEN: u8 = 1;
const WRITE: u8 = 2;
const DELETE: u8 = 3;
const BEGIN: u8 = 4;
const FILL: u8 = 5;
const END: u8 = 6;
const MARK: u8 = 7;
const STEP: u8 = 8;
const GENERATIONS: u8 = 10;
const WANT: u8 = 11;
const REVOKED: u8 = 12;
const OPENED: u8 = 32;
const ACK: u8 = 33;
const FILLED: u8 = 34;
const FENCED: u8 = 35;
const ASK: u8 = 36;
const HELD: u8 = 37;
const LACKS: u8 = 38;
const GRANTED: u8 = 39;
const DENIED: u8 = 40;
const REVOKE: u8 = 41;

/// Appends a write's bytes, without its content: an item's record, or the key
/// of one that is gone, follows.
pub(super) fn begin_write(
    gone: bool,
    lsn: Lsn,
    partition: Partition,
    epoch: Epoch,
    out: &mut Vec<u8>,
) {
    out.push(if gone { DELETE } else { WRITE });
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.extend_from_slice(&partition.0.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
}

impl Message<'_> {
    /// Appends its bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Message::Open { incarnation, core } => {
                out.push(OPEN);
                out.extend_from_slice(&incarnation.0.to_le_bytes());
                out.extend_from_slice(&core.to_le_bytes());
            }
            Message::Write { lsn, partition, epoch, change } => {
                begin_write(matches!(change, Change::Gone(_)), *lsn, *partition, *epoch, out);
                out.extend_from_slice(change.bytes());
            }
            Message::Begin { fill, partitions } => {
                out.push(BEGIN);
                out.extend_from_slice(&fill.to_le_bytes());
                for (partition, epoch) in partitions {
                    out.extend_from_slice(&partition.0.to_le_bytes());
                    out.extend_from_slice(&epoch.0.to_le_bytes());
                }
            }
            Message::Fill { fill, record } => {
                out.push(FILL);
                out.extend_from_slice(&fill.to_le_bytes());
                out.extend_from_slice(record);
            }
            Message::Step { fill, place } => {
                out.push(STEP);
                out.extend_from_slice(&fill.to_le_bytes());
                out.extend_from_slice(&place.to_le_bytes());
            }
            Message::End { fill } => {
                out.push(END);
                out.extend_from_slice(&fill.to_le_bytes());
            }
            Message::Mark { lsn, settled } => {
                out.push(MARK);
                out.extend_from_slice(&lsn.0.to_le_bytes());
                out.extend_from_slice(&settled.0.to_le_bytes());
            }
            Message::Generations(generations) => {
                out.push(GENERATIONS);
                for generation in generations {
                    out.push(generation.scope as u8);
                    out.extend_from_slice(&generation.id.to_le_bytes());
                    out.extend_from_slice(&generation.version.0.to_le_bytes());
                }
            }
            Message::Opened { incarnation, lsn, fill, place } => {
                out.push(OPENED);
                out.extend_from_slice(&incarnation.0.to_le_bytes());
                out.extend_from_slice(&lsn.0.to_le_bytes());
                out.extend_from_slice(&fill.to_le_bytes());
                out.extend_from_slice(&place.to_le_bytes());
            }
            Message::Ack { lsn } => {
                out.push(ACK);
                out.extend_from_slice(&lsn.0.to_le_bytes());
            }
            Message::Filled { fill } => {
                out.push(FILLED);
                out.extend_from_slice(&fill.to_le_bytes());
            }
            Message::Fenced { lsn, partition, epoch } => {
                out.push(FENCED);
                out.extend_from_slice(&lsn.0.to_le_bytes());
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            Message::Held { revision, partitions } => {
                out.push(HELD);
                out.extend_from_slice(&revision.0.to_le_bytes());
                for (partition, epoch) in partitions {
                    out.extend_from_slice(&partition.0.to_le_bytes());
                    out.extend_from_slice(&epoch.0.to_le_bytes());
                }
            }
            Message::Lacks { fill, partitions } => {
                out.push(LACKS);
                out.extend_from_slice(&fill.to_le_bytes());
                for partition in partitions {
                    out.extend_from_slice(&partition.0.to_le_bytes());
                }
            }
            Message::Want { number, have, key } => {
                out.push(WANT);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&have.to_le_bytes());
                out.extend_from_slice(key);
            }
            Message::Granted { number, span_ms, record } => {
                out.push(GRANTED);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&span_ms.to_le_bytes());
                out.extend_from_slice(record);
            }
            Message::Denied { number, why } => {
                out.push(DENIED);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(*why as u8);
            }
            Message::Revoke { number, hash } => {
                out.push(REVOKE);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&hash.0.to_le_bytes());
            }
            Message::Revoked { number } => {
                out.push(REVOKED);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Message::Ask { partition, key } => {
                out.push(ASK);
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(key);
            }
        }
    }

    /// Reads one message; `None` if these bytes are none.
    pub fn read(bytes: &[u8]) -> Option<Message<'_>> {
        let mut fields = Fields(bytes);
        let kind = fields.u8()?;
        let message = match kind {
            OPEN => Message::Open { incarnation: Incarnation(fields.u64()?), core: fields.u16()? },
            WRITE | DELETE => Message::Write {
                lsn: Lsn(fields.u64()?),
                partition: Partition(fields.u32()?),
                epoch: Epoch(fields.u32()?),
                change: fields.change(kind == DELETE),
            },
            BEGIN => Message::Begin { fill: fields.u32()?, partitions: fields.partitions()? },
            HELD => Message::Held {
                revision: Revision(fields.u64()?),
                partitions: fields.partitions()?,
            },
            FILL => Message::Fill { fill: fields.u32()?, record: fields.rest() },
            STEP => Message::Step { fill: fields.u32()?, place: fields.u64()? },
            END => Message::End { fill: fields.u32()? },
            MARK => Message::Mark { lsn: Lsn(fields.u64()?), settled: Lsn(fields.u64()?) },
            GENERATIONS => {
                let mut generations = Vec::with_capacity(fields.0.len() / 17);
                while !fields.0.is_empty() {
                    generations.push(Generation {
                        scope: GenerationScope::from_number(fields.u8()?)?,
                        id: fields.u64()?,
                        version: Version(fields.u64()?),
                    });
                }
                Message::Generations(generations)
            }
            OPENED => Message::Opened {
                incarnation: Incarnation(fields.u64()?),
                lsn: Lsn(fields.u64()?),
                fill: fields.u32()?,
                place: fields.u64()?,
            },
            ACK => Message::Ack { lsn: Lsn(fields.u64()?) },
            FILLED => Message::Filled { fill: fields.u32()? },
            FENCED => Message::Fenced {
                lsn: Lsn(fields.u64()?),
                partition: Partition(fields.u32()?),
                epoch: Epoch(fields.u32()?),
            },
            LACKS => {
                let fill = fields.u32()?;
                let mut partitions = Vec::with_capacity(fields.0.len() / 4);
                while !fields.0.is_empty() {
                    partitions.push(Partition(fields.u32()?));
                }
                Message::Lacks { fill, partitions }
            }
            WANT => {
                Message::Want { number: fields.u64()?, have: fields.u64()?, key: fields.rest() }
            }
            GRANTED => Message::Granted {
                number: fields.u64()?,
                span_ms: fields.u32()?,
                record: fields.rest(),
            },
            DENIED => {
                Message::Denied { number: fields.u64()?, why: Denied::from_number(fields.u8()?)? }
            }
            REVOKE => Message::Revoke { number: fields.u64()?, hash: KeyHash(fields.u64()?) },
            REVOKED => Message::Revoked { number: fields.u64()? },
            ASK => Message::Ask { partition: Partition(fields.u32()?), key: fields.rest() },
            _ => return None,
        };
        fields.0.is_empty().then_some(message)
    }
}

impl<'a> Change<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Change::Item(bytes) | Change::Gone(bytes) => bytes,
        }
    }
}

/// The bytes that are still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn partitions(&mut self) -> Option<Vec<(Partition, Epoch)>> {
        let mut partitions = Vec::with_capacity(self.0.len() / 8);
        while !self.0.is_empty() {
            partitions.push((Partition(self.u32()?), Epoch(self.u32()?)));
        }
        Some(partitions)
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    fn change(&mut self, gone: bool) -> Change<'a> {
        if gone { Change::Gone(self.rest()) } else { Change::Item(self.rest()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_reads_as_it_was_written() {
        let generation =
            Generation { scope: GenerationScope::Flush, id: 7, version: Version(1 << 40) };
        let place = (Lsn(3), Partition(9), Epoch(2));
        let messages = [
            Message::Open { incarnation: Incarnation(u64::MAX), core: 513 },
            Message::Write {
                lsn: place.0,
                partition: place.1,
                epoch: place.2,
                change: Change::Item(b"record"),
            },
            Message::Write {
                lsn: place.0,
                partition: place.1,
                epoch: place.2,
                change: Change::Gone(b"key"),
            },
            Message::Begin { fill: 4, partitions: alloc::vec![(place.1, place.2); 3] },
            Message::Fill { fill: 4, record: b"record" },
            Message::End { fill: 4 },
            Message::Mark { lsn: place.0, settled: Lsn(2) },
            Message::Lacks { fill: 3, partitions: alloc::vec![place.1; 2] },
            Message::Generations(alloc::vec![generation; 2]),
            Message::Opened { incarnation: Incarnation(8), lsn: place.0, fill: 3, place: 1 << 40 },
            Message::Step { fill: 3, place: 1 << 40 },
            Message::Held { revision: Revision(5), partitions: alloc::vec![(place.1, place.2); 2] },
            Message::Ack { lsn: place.0 },
            Message::Filled { fill: 4 },
            Message::Fenced { lsn: place.0, partition: place.1, epoch: place.2 },
            Message::Ask { partition: place.1, key: b"key" },
            Message::Want { number: 5, have: 4, key: b"key" },
            Message::Granted { number: 5, span_ms: 100, record: b"record" },
            Message::Granted { number: 5, span_ms: 100, record: b"" },
            Message::Denied { number: 5, why: Denied::Full },
            Message::Revoke { number: 6, hash: KeyHash(7) },
            Message::Revoked { number: 6 },
        ];
        for message in messages {
            let mut bytes = Vec::new();
            message.write(&mut bytes);
            assert_eq!(Message::read(&bytes).as_ref(), Some(&message));
            for length in 0..bytes.len().min(9) {
                // Cut short, it is another message or none, never a panic.
                let _ = Message::read(&bytes[..length]);
            }
        }
        assert_eq!(Message::read(&[]), None);
        assert_eq!(Message::read(&[99, 1, 2]), None);
        assert_eq!(Message::read(&[ACK, 1]), None);
    }
}
