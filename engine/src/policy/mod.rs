//! Which item leaves when memory is full.
//!
//! A policy never sees items, pages or keys. It sees [`Cells`]: seven bits in
//! an item's header, one bit a chunk in its page, two link words a chunk where
//! it asks for them, and a way to step to the next chunk of a size class. The
//! engine's pages implement it, and so does a plain vector in the tests.
//!
//! The engine tells the policy what happens to an item, from [`inserted`] to
//! [`removed`] or [`victim`]; between the two the policy counts the item as its
//! own. Every call is bounded: none walks a class, whatever its size.
//!
//! [`inserted`]: AnyPolicy::inserted
//! [`removed`]: AnyPolicy::removed
//! [`victim`]: AnyPolicy::victim

mod clock_pro;
mod ghosts;
mod lfu;
mod list;
mod lru;
mod s3_fifo;

use self::clock_pro::ClockPro;
use self::ghosts::{GhostRules, Ghosts};
use self::lfu::Lfu;
use self::lru::Lru;
use self::s3_fifo::S3Fifo;
use crate::{ChunkRef, ClassId, Eviction, KeyHash};
use alloc::vec::Vec;

/// Whether the item in a chunk may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellState {
    /// It can be read, and evicted.
    Live,
    /// It expired or was invalidated: free it first, and leave no ghost.
    Dead,
    /// It is pinned by an answer still being sent: pass over it.
    Busy,
}

/// What a policy sees of the slab.
///
/// `at` always names a chunk that holds an item known to the policy.
pub trait Cells {
    /// The policy's seven bits in the item's header (the eighth bit is zero).
    fn mark(&self, at: ChunkRef) -> u8;
    /// Sets the seven bits.
    fn set_mark(&mut self, at: ChunkRef, mark: u8);
    /// The chunk's bit in its page's hot bitmap.
    fn is_hot(&self, at: ChunkRef) -> bool;
    /// Sets that bit. A policy clears it before it lets an item go.
    fn set_hot(&mut self, at: ChunkRef, hot: bool);
    /// The chunk's two link words; only asked for if [`AnyPolicy::link_words`] is 2.
    fn links(&self, at: ChunkRef) -> [u32; 2];
    /// Sets the two link words.
    fn set_links(&mut self, at: ChunkRef, links: [u32; 2]);
    /// Whether the item may be evicted.
    fn state(&self, at: ChunkRef) -> CellState;
    /// The hash of the item's key; computed anew, so asked only on eviction.
    fn hash(&self, at: ChunkRef) -> KeyHash;
    /// The next item that is not hot, in the ring of the class's pages, after
    /// `after`; the last one looked at is `after` itself. From the first page
    /// of the class if `after` is [`ChunkRef::NONE`] or lies in a page that
    /// has left the class.
    fn next_cold(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef>;
    /// The next item that is hot; otherwise like [`Cells::next_cold`].
    fn next_hot(&self, class: ClassId, after: ChunkRef) -> Option<ChunkRef>;
}

/// What a policy answers: who leaves, and whether it is worth remembering.
#[derive(Clone, Copy, Debug)]
struct Victim {
    at: ChunkRef,
    ghost: bool,
}

/// The policy of a shard, chosen at its start.
#[derive(Debug)]
pub struct AnyPolicy {
    rules: Rules,
    /// Every policy leaves ghosts: they also tell which class lacks pages.
    ghosts: Ghosts,
    /// Per class: fills of keys whose ghost was still there.
    ghost_hits: Vec<u32>,
    items: u64,
}

#[derive(Debug)]
enum Rules {
    ClockPro(ClockPro),
    Lru(Lru),
    Lfu(Lfu),
    S3Fifo(S3Fifo),
    /// Nothing is ever evicted.
    None,
}

/// One arm a policy, so that each call is a jump and the rest is inlined.
macro_rules! rules {
    ($self:ident, $policy:ident => $call:expr, $none:expr) => {
        match &mut $self.rules {
            Rules::ClockPro($policy) => $call,
            Rules::Lru($policy) => $call,
            Rules::Lfu($policy) => $call,
            Rules::S3Fifo($policy) => $call,
            Rules::None => $none,
        }
    };
}

impl AnyPolicy {
    /// A policy for a slab of `classes` size classes.
    pub fn new(eviction: Eviction, classes: usize) -> AnyPolicy {
        let (rules, ghosts) = match eviction {
            Eviction::ClockPro => (Rules::ClockPro(ClockPro::new(classes)), GhostRules::PLAIN),
            Eviction::Lru => (Rules::Lru(Lru::new(classes)), GhostRules::PLAIN),
            Eviction::Lfu => (Rules::Lfu(Lfu::new(classes)), GhostRules::PLAIN),
            Eviction::S3Fifo => (Rules::S3Fifo(S3Fifo::new(classes)), s3_fifo::GHOSTS),
            Eviction::None => (Rules::None, GhostRules::PLAIN),
        };
        AnyPolicy {
            rules,
            ghosts: Ghosts::new(ghosts),
            ghost_hits: alloc::vec![0; classes],
            items: 0,
        }
    }

    /// How many 32-bit link words a chunk needs: 0 or 2.
    pub fn link_words(&self) -> usize {
        match self.rules {
            Rules::ClockPro(_) | Rules::None => 0,
            Rules::Lru(_) | Rules::Lfu(_) | Rules::S3Fifo(_) => 2,
        }
    }

    /// Items that the policy knows.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Bytes of heap that the policy uses, ghosts included.
    pub fn bytes(&self) -> usize {
        let classes = match &self.rules {
            Rules::ClockPro(policy) => policy.bytes(),
            Rules::Lru(policy) => policy.bytes(),
            Rules::Lfu(policy) => policy.bytes(),
            Rules::S3Fifo(policy) => policy.bytes(),
            Rules::None => 0,
        };
        classes + self.ghosts.bytes() + self.ghost_hits.capacity() * size_of::<u32>()
    }

    /// A new item lies in `at`. (An item that replaces a live one of the same
    /// key keeps its standing instead: call [`moved`](AnyPolicy::moved) if its
    /// chunk changes, then [`touched`](AnyPolicy::touched).)
    pub fn inserted<C: Cells>(
        &mut self,
        cells: &mut C,
        class: ClassId,
        at: ChunkRef,
        hash: KeyHash,
    ) {
        self.items += 1;
        let returning = self.ghosts.take(hash);
        self.ghost_hits[class.index()] =
            self.ghost_hits[class.index()].saturating_add(u32::from(returning));
        match &mut self.rules {
            Rules::ClockPro(policy) => policy.inserted(cells, class, at, returning),
            Rules::Lru(policy) => policy.inserted(cells, class, at),
            Rules::Lfu(policy) => policy.inserted(cells, class, at),
            Rules::S3Fifo(policy) => policy.inserted(cells, class, at, returning),
            Rules::None => {
                cells.set_mark(at, 0);
                cells.set_hot(at, false);
            }
        }
    }

    /// The item was read or overwritten in place.
    #[inline]
    pub fn touched<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        match &mut self.rules {
            Rules::ClockPro(policy) => policy.touched(cells, class, at),
            Rules::Lru(policy) => policy.touched(cells, class, at),
            Rules::Lfu(policy) => policy.touched(cells, class, at),
            Rules::S3Fifo(policy) => policy.touched(cells, at),
            Rules::None => {}
        }
    }

    /// The item is about to be freed: deleted, expired or invalidated.
    pub fn removed<C: Cells>(&mut self, cells: &mut C, class: ClassId, at: ChunkRef) {
        self.items -= 1;
        rules!(self, policy => policy.removed(cells, class, at), {});
    }

    /// The item now lies in `to`; `from` is still readable and about to be freed.
    pub fn moved<C: Cells>(
        &mut self,
        cells: &mut C,
        class_from: ClassId,
        from: ChunkRef,
        class_to: ClassId,
        to: ChunkRef,
    ) {
        rules!(self, policy => policy.moved(cells, class_from, from, class_to, to), {
            cells.set_mark(to, 0);
            cells.set_hot(to, false);
        });
    }

    /// Chooses the item that leaves `class`, remembers it as a ghost and
    /// forgets it: the engine frees it now, without [`removed`].
    ///
    /// `None` if nothing may be evicted, or if the search came upon more pinned
    /// items than one call looks at; another call then searches on from there.
    ///
    /// [`removed`]: AnyPolicy::removed
    pub fn victim<C: Cells>(&mut self, cells: &mut C, class: ClassId) -> Option<ChunkRef> {
        let victim = rules!(self, policy => policy.victim(cells, class), None)?;
        if victim.ghost {
            self.ghosts.insert(cells.hash(victim.at), self.items);
        }
        self.items -= 1;
        Some(victim.at)
    }

    /// Shows the items that would be looked at first if something had to leave
    /// the class: the oldest of each list, or up to `looks` of those before
    /// each hand. First cold ones, then hot ones, as far as they are `wanted`.
    pub fn next_in_line<C: Cells>(
        &self,
        cells: &C,
        class: ClassId,
        wanted: [bool; 2],
        looks: usize,
        each: &mut dyn FnMut(bool, ChunkRef),
    ) {
        let [cold, hot] = match &self.rules {
            Rules::ClockPro(policy) => policy.hands(class),
            Rules::None => [ChunkRef::NONE; 2],
            Rules::Lru(policy) => {
                return policy.oldest(class).into_iter().for_each(|at| each(false, at));
            }
            Rules::Lfu(policy) => {
                return policy.oldest(class).into_iter().for_each(|at| each(false, at));
            }
            Rules::S3Fifo(policy) => {
                let [small, main] = policy.oldest(class);
                small.into_iter().for_each(|at| each(false, at));
                return main.into_iter().for_each(|at| each(true, at));
            }
        };
        let mut hands = [cold, hot];
        for _ in 0..looks {
            for (is_hot, hand) in [false, true].into_iter().zip(&mut hands) {
                let next = match is_hot {
                    _ if !wanted[usize::from(is_hot)] => None,
                    false => cells.next_cold(class, *hand),
                    true => cells.next_hot(class, *hand),
                };
                if let Some(at) = next {
                    *hand = at;
                    each(is_hot, at);
                }
            }
        }
    }

    /// Fills of items of this class that had been evicted not long before:
    /// what the class would have gained from more pages. Halved by every
    /// [`decay_ghost_hits`](AnyPolicy::decay_ghost_hits).
    pub fn ghost_hits(&self, class: ClassId) -> u32 {
        self.ghost_hits[class.index()]
    }

    /// Halves every class's ghost hits, so that they speak of the recent past.
    pub fn decay_ghost_hits(&mut self) {
        self.ghost_hits.iter_mut().for_each(|hits| *hits /= 2);
    }
}
