//! Size classes: which chunk size serves an item of so many bytes.
//!
//! A page of a class is a header, three bitmaps (used, live, hot), the link
//! words of policies that ask for them, and as many equal chunks as fit:
//!
//! ```text
//! 0        64                    first                              65536
//! +--------+------+------+------+-------+---------+---------+-- - --+
//! | header | used | live | hot  | links | chunk 0 | chunk 1 |       |
//! +--------+------+------+------+-------+---------+---------+-- - --+
//! ```
//!
//! Steps are fine (4 bytes up to 256, each number of chunks in a page up to 1 KiB, then 6%),
//! because what a class rounds up is a large part of an item's overhead. Above
//! 256 bytes a chunk is whatever divides the page, so that no bytes are left at
//! its end. A shard of few pages has coarser steps: a class that holds a single
//! page can't tell its items apart.

use super::arena::PAGE_BYTES;
use super::page::HEADER_BYTES;
use crate::ClassId;
use alloc::vec::Vec;

/// Bytes of the smallest chunk; with smaller ones a page would hold more than
/// the 4,096 that a chunk reference can name.
const CHUNK_BYTES_MIN: usize = 16;
/// Chunks of the largest class in a page.
const CHUNKS_MIN: usize = 4;
/// From this chunk size on the slack takes two bytes in the item's header:
/// steps get larger than 255 bytes.
pub(crate) const WIDE_CHUNK_BYTES: usize = 1024;

/// One size class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Class {
    /// Bytes of a chunk.
    pub chunk_bytes: u16,
    /// Where in the page the first chunk begins.
    pub first: u16,
    /// Chunks in a page.
    pub slots: u16,
}

/// All size classes, ascending.
#[derive(Debug)]
pub(crate) struct ClassTable {
    classes: Vec<Class>,
    /// Class by needed whole words of four bytes; steps are no smaller.
    by_words: Vec<u8>,
}

/// How fine the steps are.
struct Steps {
    /// Chunks of round sizes, this far apart, ...
    small: usize,
    /// ... up to here.
    small_max: usize,
    /// Then each class at least this many bytes larger than the last, ...
    bytes: usize,
    /// ... and this many per mille.
    factor: usize,
}

impl ClassTable {
    /// The classes for a shard of `pages` pages.
    pub fn new(pages: usize, link_words: usize) -> ClassTable {
        let steps = match pages {
            0..64 => Steps { small: 8, small_max: 32, bytes: 8, factor: 1250 },
            64..512 => Steps { small: 8, small_max: 128, bytes: 8, factor: 1080 },
            _ => Steps { small: 4, small_max: 256, bytes: 4, factor: 1000 },
        };
        let mut classes = Vec::new();
        let mut last = 0;
        for size in (CHUNK_BYTES_MIN..=steps.small_max).step_by(steps.small) {
            classes.push(fit(size, link_words));
            last = size;
        }
        for slots in (CHUNKS_MIN..PAGE_BYTES / last).rev() {
            let chunk_bytes = (PAGE_BYTES - first_chunk(slots, link_words)) / slots;
            let factor = if last >= 1024 { steps.factor.max(1060) } else { steps.factor };
            let large_enough =
                chunk_bytes >= last + steps.bytes && chunk_bytes * 1000 >= last * factor;
            if large_enough || slots == CHUNKS_MIN && chunk_bytes > last {
                classes.push(fit(chunk_bytes, link_words));
                last = chunk_bytes;
            }
        }
        assert!(classes.len() < usize::from(u8::MAX), "a class has a byte for its number");
        let mut by_words = Vec::new();
        for words in 0..=usize::from(classes[classes.len() - 1].chunk_bytes) / 4 {
            let class = classes.partition_point(|class| usize::from(class.chunk_bytes) < words * 4);
            by_words.push(class as u8);
        }
        ClassTable { classes, by_words }
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Facts of a class.
    #[inline]
    pub fn get(&self, class: ClassId) -> Class {
        self.classes[usize::from(class.0)]
    }

    /// The smallest class whose chunks hold `bytes`.
    #[inline]
    pub fn of(&self, bytes: usize) -> Option<ClassId> {
        // The class for the whole words in it, or the next one.
        let class = *self.by_words.get(bytes / 4)?;
        if usize::from(self.classes[usize::from(class)].chunk_bytes) >= bytes {
            return Some(ClassId(class));
        }
        (usize::from(class) + 1 < self.classes.len()).then_some(ClassId(class + 1))
    }

    /// The largest class.
    pub fn largest(&self) -> ClassId {
        ClassId((self.classes.len() - 1) as u8)
    }

    /// Bytes of the largest chunk.
    #[cfg(test)]
    pub fn chunk_bytes_max(&self) -> usize {
        usize::from(self.get(self.largest()).chunk_bytes)
    }
}

/// Where the first chunk begins in a page of `slots` chunks.
fn first_chunk(slots: usize, link_words: usize) -> usize {
    (HEADER_BYTES + slots.div_ceil(64) * 8 * 3 + slots * link_words * 4).next_multiple_of(8)
}

/// As many chunks of this size as a page holds.
fn fit(chunk_bytes: usize, link_words: usize) -> Class {
    let mut slots = PAGE_BYTES / chunk_bytes;
    while first_chunk(slots, link_words) + slots * chunk_bytes > PAGE_BYTES {
        slots -= 1;
    }
    Class {
        chunk_bytes: chunk_bytes as u16,
        first: first_chunk(slots, link_words) as u16,
        slots: slots as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_finds_the_smallest_class_that_holds_it() {
        for pages in [1, 16, 64, 300, 512, 100_000] {
            for link_words in [0, 2] {
                let table = ClassTable::new(pages, link_words);
                for bytes in 1..=table.chunk_bytes_max() {
                    let class = table.of(bytes).unwrap();
                    assert!(usize::from(table.get(class).chunk_bytes) >= bytes);
                    assert!(
                        class.0 == 0
                            || usize::from(table.get(ClassId(class.0 - 1)).chunk_bytes) < bytes
                    );
                }
                assert_eq!(table.of(table.chunk_bytes_max() + 4), None);
            }
        }
    }

    #[test]
    fn chunks_fit_their_page_and_slack_fits_its_bytes() {
        for pages in [1, 64, 512] {
            for link_words in [0, 2] {
                let table = ClassTable::new(pages, link_words);
                let mut smaller = 0;
                for number in 0..table.len() {
                    let class = table.get(ClassId(number as u8));
                    let chunk_bytes = usize::from(class.chunk_bytes);
                    assert!(usize::from(class.slots) <= 4096);
                    assert!(
                        usize::from(class.first) + usize::from(class.slots) * chunk_bytes
                            <= PAGE_BYTES
                    );
                    let step = chunk_bytes - smaller;
                    // A slack below the wide bound must fit one byte.
                    if chunk_bytes < WIDE_CHUNK_BYTES {
                        assert!(step <= 256, "{chunk_bytes} after {smaller}");
                    }
                    smaller = chunk_bytes;
                }
            }
        }
    }
}
