//! A page's header and bitmaps.
//!
//! ```text
//!  0  used        u16   chunks taken (items, pieces of chains, reservations)
//!  2  live        u16   chunks that hold an item which the index knows
//!  4  hot         u16   live chunks that the policy calls hot
//!  6  hint        u16   no free chunk lies in an earlier bitmap word
//!  8  next_free   u32   the class's list of pages with a free chunk
//! 12  prev_free   u32
//! 16  position    u32   where the class's ring of pages names this page
//! 20  due         u32   second at which the expiry wheel looks here; 0 never
//! 24  wheel_next  u32   the wheel's list of pages
//! 28  wheel_prev  u32
//! 32  early       u32   items that die before `due`
//! 36  early_last  u32   the last second at which one of those dies
//! 40  closed      u32   1 while the page is being emptied: no new chunks
//! 44  wheel_place u32   which slot of the wheel lists it
//! 48  reserved
//! ```
//!
//! The bitmaps let a hand pass 64 chunks a word. They are small numbers next
//! to each other, so stepping through a class touches one or two cache lines a
//! page.

use super::arena::Plain;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 64;

/// The head of a page. Drawn above.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PageHeader {
    pub used: u16,
    pub live: u16,
    pub hot: u16,
    pub hint: u16,
    pub next_free: u32,
    pub prev_free: u32,
    pub position: u32,
    pub due: u32,
    pub wheel_next: u32,
    pub wheel_prev: u32,
    pub early: u32,
    pub early_last: u32,
    pub closed: u32,
    pub wheel_place: u32,
    pub reserved: [u32; 4],
}

const _: () = assert!(size_of::<PageHeader>() == HEADER_BYTES);

// SAFETY: integers only, and the assertion above leaves no room for padding.
unsafe impl Plain for PageHeader {}

/// Which bitmap of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    /// The chunk is taken.
    Used = 0,
    /// It holds an item that the index knows.
    Live = 1,
    /// The policy calls it hot.
    Hot = 2,
}

/// The first set bit at or after `from` of `word_at(0..words)`.
#[inline]
pub(crate) fn next_bit(from: usize, words: usize, word_at: impl Fn(usize) -> u64) -> Option<usize> {
    let mut index = from / 64;
    if index >= words {
        return None;
    }
    let mut word = word_at(index) & (u64::MAX << (from % 64));
    loop {
        if word != 0 {
            return Some(index * 64 + word.trailing_zeros() as usize);
        }
        index += 1;
        if index == words {
            return None;
        }
        word = word_at(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_bit_finds_what_a_walk_finds() {
        let words = [0u64, 1 << 63 | 1 << 5, 0, 1];
        let naive = |from: usize| (from..256).find(|bit| words[bit / 64] >> (bit % 64) & 1 == 1);
        for from in 0..300 {
            assert_eq!(next_bit(from, 4, |index| words[index]), naive(from), "from {from}");
        }
    }
}
