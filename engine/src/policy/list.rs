//! Doubly linked lists whose links live in the slab.
//!
//! A chunk has two link words, `[older, newer]`. The ends of a list are not
//! kept apart from its members: the oldest member's `older` word and the newest
//! one's `newer` word name the list itself, as a slot of the page that no slab
//! ever has. So a member leaves its list without anybody knowing which one it
//! was in, and an empty list is one whose ends name itself.
//!
//! ```text
//! ends[l] = [oldest, newest]        l: 0xfffff << 12 | list
//!
//!   l <- older [ a ] newer -> <- older [ b ] newer -> l
//!        oldest                        newest
//! ```

use super::Cells;
use crate::ChunkRef;

const OLDER: usize = 0;
const NEWER: usize = 1;

/// What a link word holds to name list `list` itself.
const fn sentinel(list: usize) -> u32 {
    ChunkRef::new(0xf_ffff, list as u32).0
}

/// The list that a link word names, if it does not name a chunk.
const fn list_of(word: u32) -> Option<usize> {
    let at = ChunkRef(word);
    if at.page() == 0xf_ffff { Some(at.slot() as usize) } else { None }
}

/// `N` lists over one class of the slab.
#[derive(Clone, Debug)]
pub(super) struct Lists<const N: usize> {
    ends: [[u32; 2]; N],
}

impl<const N: usize> Lists<N> {
    pub fn new() -> Lists<N> {
        Lists { ends: core::array::from_fn(|list| [sentinel(list); 2]) }
    }

    /// The member that came first.
    pub fn oldest(&self, list: usize) -> Option<ChunkRef> {
        let word = self.ends[list][OLDER];
        list_of(word).is_none().then_some(ChunkRef(word))
    }

    /// The member that came last.
    pub fn newest(&self, list: usize) -> Option<ChunkRef> {
        let word = self.ends[list][NEWER];
        list_of(word).is_none().then_some(ChunkRef(word))
    }

    /// Adds a chunk that is in no list.
    pub fn push_newest<C: Cells>(&mut self, cells: &mut C, list: usize, at: ChunkRef) {
        let before = self.ends[list][NEWER];
        cells.set_links(at, [before, sentinel(list)]);
        self.set(cells, before, NEWER, at.0);
        self.ends[list][NEWER] = at.0;
    }

    /// Takes a chunk out of whichever list it is in. The list, if that was its
    /// last member.
    pub fn unlink<C: Cells>(&mut self, cells: &mut C, at: ChunkRef) -> Option<usize> {
        let [older, newer] = cells.links(at);
        self.set(cells, older, NEWER, newer);
        self.set(cells, newer, OLDER, older);
        if older == newer { list_of(older) } else { None }
    }

    /// Puts `to` in the place of `from`.
    pub fn replace<C: Cells>(&mut self, cells: &mut C, from: ChunkRef, to: ChunkRef) {
        let [older, newer] = cells.links(from);
        cells.set_links(to, [older, newer]);
        self.set(cells, older, NEWER, to.0);
        self.set(cells, newer, OLDER, to.0);
    }

    /// Sets the word of `neighbour` that looks in `direction`. Seen from a
    /// list, its oldest member is the newer neighbour of its end.
    fn set<C: Cells>(&mut self, cells: &mut C, neighbour: u32, direction: usize, word: u32) {
        match list_of(neighbour) {
            Some(list) => self.ends[list][1 - direction] = word,
            None => {
                let mut links = cells.links(ChunkRef(neighbour));
                links[direction] = word;
                cells.set_links(ChunkRef(neighbour), links);
            }
        }
    }
}
