//! The work between requests, in slices.
//!
//! - *Expiry*: pages that are due are looked at, and their dead items freed.
//! - *Sweep*: after a flush or an invalidation, a walk frees what is dead, and
//!   lets generations go that no item needs any more.
//! - *Rebalancing*: pages go from the class that would miss them least to one
//!   that evicts items which are asked for again.
//! - *Index*: what it does not need any more when items became fewer goes back
//!   to the slab.
//! - *Limit*: pages beyond the memory limit are emptied and given back.
//! - *Sizes*: the walk that counts what was there when `stats sizes` began.
//!
//! A slice reads at most [`LOOKS`] items, and there is at most one a
//! millisecond: what is behind in background work costs a core some percent,
//! never its latency.

use super::Shard;
use crate::events::Event;
use crate::expiry::Outlook;
use crate::generation::Liveness;
use crate::index::Shrunk;
use crate::item::View;
use crate::sizes::Sizes;
use crate::slab::page::Map;
use crate::{ChunkRef, ClassId, Expiry, Now, Version};
use alloc::boxed::Box;

/// Items that a slice looks at: some 50 microseconds if none is in the cache.
const LOOKS: u32 = 512;
/// Seconds by which the wheel turns in a slice.
const WHEEL_STEPS: u32 = 4096;
/// Milliseconds between the beginnings of two sweeps. A flush does not wait.
const SWEEP_EVERY_MS: u64 = 10_000;
/// Generations dropped in a slice.
const DROPS: usize = 256;
/// Evictions after which ghost hits are halved, in parts of the items.
const DECAY_ITEMS: u64 = 32;
/// A class gets a page only if its pages miss this many times more than those
/// of the class which gives it; less would move pages to and fro.
const GAIN_MIN: u64 = 2;

/// Background work under way.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// The last slice's millisecond.
    last: Now,
    /// The page that expiry is in, and how far.
    expiring: Option<PageWalk>,
    /// The sweep under way.
    sweep: Option<Sweep>,
    /// Invalidations that a sweep has dealt with.
    swept_changes: u64,
    swept_up_to: Version,
    sweep_not_before: Now,
    swept_flush: u16,
    /// The page that is being emptied.
    moving: Option<Move>,
    /// More pages are in use than may be, and none of them can be emptied now.
    stuck: bool,
    /// Evictions at the last decay of the ghost hits.
    decayed_at: u64,
}

#[derive(Debug)]
struct PageWalk {
    page: u32,
    slot: u32,
    outlook: Outlook,
}

#[derive(Debug)]
struct Sweep {
    page: u32,
    slot: u32,
    changes: u64,
    /// Everything invalidated up to here is gone when it ends.
    up_to: Version,
    began: Now,
    examined: u64,
    reclaimed: u64,
}

#[derive(Debug)]
struct Move {
    page: u32,
    slot: u32,
    from: ClassId,
    /// Who gets the page; nobody if the limit shrank.
    to: Option<ClassId>,
}

impl Shard {
    /// Bounded background work of one loop turn. True if more is waiting.
    pub fn maintain(&mut self, now: Now) -> bool {
        self.at(now);
        if self.upkeep.last == now {
            return self.is_behind();
        }
        self.upkeep.last = now;
        self.hot.decay(now);
        let mut looks = LOOKS;
        self.apply_memory_limit();
        self.continue_move(&mut looks);
        self.expire(&mut looks);
        self.sweep(&mut looks);
        self.walk_sizes(&mut looks);
        self.shrink_index(looks);
        self.decay_ghost_hits();
        self.is_behind()
    }

    fn is_behind(&self) -> bool {
        let upkeep = &self.upkeep;
        upkeep.expiring.is_some()
            || upkeep.sweep.is_some()
            || upkeep.moving.is_some()
            || self.sizes.as_ref().is_some_and(|sizes| sizes.walk().is_some())
            || self.wheel.is_behind(self.second())
            || self.store.slab.pages_used > self.store.slab.pages_max && !upkeep.stuck
    }

    fn second(&self) -> u32 {
        self.store.now.seconds().min(u64::from(u32::MAX - 1)) as u32
    }

    // ---- Expiry.

    /// A request has written an item.
    #[inline]
    pub(super) fn changed(&mut self, at: ChunkRef, expiry: Expiry) {
        self.changes += 1;
        self.note_expiry(at, expiry);
    }

    /// Tells the wheel when an item dies.
    #[inline]
    pub(super) fn note_expiry(&mut self, at: ChunkRef, expiry: Expiry) {
        if expiry != Expiry::NEVER {
            let freed = expiry.0.saturating_add(self.config.expired_kept_ms);
            let second = freed.div_ceil(1000).min(u64::from(u32::MAX - 1)) as u32;
            let now = self.second();
            self.wheel.note(&mut self.store.slab, at.page(), second, now);
        }
    }

    /// Takes a page that is given up off the wheel.
    pub(super) fn forget_due(&mut self, page: u32) {
        self.wheel.remove(&mut self.store.slab, page);
    }

    fn expire(&mut self, looks: &mut u32) {
        let second = self.second();
        let mut steps = WHEEL_STEPS;
        while *looks > 0 {
            let walk = match self.upkeep.expiring.take() {
                Some(walk) => walk,
                None => match self.wheel.next_due(&mut self.store.slab, second, &mut steps) {
                    Some(page) => PageWalk { page, slot: 0, outlook: Outlook::new(second) },
                    None => return,
                },
            };
            self.expire_page(walk, looks);
        }
    }

    fn expire_page(&mut self, mut walk: PageWalk, looks: &mut u32) {
        // Between slices the page may have been given up, and taken again.
        while self.store.slab.page_class(walk.page).is_some() {
            let Some(at) = self.store.slab.next_in_page(walk.page, walk.slot, Map::Live) else {
                if let Some(due) = walk.outlook.due() {
                    // Items that came in meanwhile have asked for a time of their own.
                    let asked = self.store.slab.header(walk.page).due;
                    let due = if asked == 0 { due } else { due.min(asked) };
                    self.wheel.schedule(&mut self.store.slab, walk.page, due);
                }
                return;
            };
            if *looks == 0 {
                self.upkeep.expiring = Some(walk);
                return;
            }
            *looks -= 1;
            walk.slot = at.slot() + 1;
            let view = View::of(&self.store.slab, at);
            match self.liveness_ahead(at, &view) {
                Liveness::Live => {
                    let kept = self.config.expired_kept_ms.div_ceil(1000) as u32;
                    walk.outlook.add(view.expiry_second(&self.store.slab).saturating_add(kept));
                }
                dead => self.sweep_dead(at, dead),
            }
        }
    }

    /// Whether an item may be freed before a request comes across it.
    fn liveness_ahead(&self, at: ChunkRef, view: &View) -> Liveness {
        let expired = Now(self.store.now.0.saturating_sub(self.config.expired_kept_ms));
        self.store.generations.liveness(&self.store.slab, at, view, expired)
    }

    // ---- Sweep.

    fn sweep(&mut self, looks: &mut u32) {
        let now = self.store.now;
        let upkeep = &mut self.upkeep;
        let changes = self.store.generations.changes;
        let flushed = upkeep.swept_flush != self.store.slab.flush_sequence;
        if upkeep.sweep.is_none()
            && (flushed || changes != upkeep.swept_changes && now >= upkeep.sweep_not_before)
        {
            upkeep.sweep_not_before = Now(now.0 + SWEEP_EVERY_MS);
            upkeep.swept_flush = self.store.slab.flush_sequence;
            upkeep.sweep = Some(Sweep {
                page: 0,
                slot: 0,
                changes,
                up_to: self.clock.last(),
                began: now,
                examined: 0,
                reclaimed: 0,
            });
        }
        if let Some(sweep) = self.upkeep.sweep.take() {
            self.sweep_on(sweep, looks);
        }
        self.store.generations.drop_swept(self.upkeep.swept_up_to, now, DROPS);
    }

    fn sweep_on(&mut self, mut sweep: Sweep, looks: &mut u32) {
        while sweep.page < self.store.slab.pages_touched() {
            while self.store.slab.page_class(sweep.page).is_some() {
                let Some(at) = self.store.slab.next_in_page(sweep.page, sweep.slot, Map::Live)
                else {
                    break;
                };
                if *looks == 0 {
                    self.upkeep.sweep = Some(sweep);
                    return;
                }
                *looks -= 1;
                sweep.slot = at.slot() + 1;
                sweep.examined += 1;
                let view = View::of(&self.store.slab, at);
                match self.liveness_ahead(at, &view) {
                    Liveness::Live => {}
                    dead => {
                        sweep.reclaimed += 1;
                        self.sweep_dead(at, dead);
                    }
                }
            }
            *looks = looks.saturating_sub(1);
            sweep.page += 1;
            sweep.slot = 0;
            if *looks == 0 && sweep.page < self.store.slab.pages_touched() {
                self.upkeep.sweep = Some(sweep);
                return;
            }
        }
        self.upkeep.swept_changes = sweep.changes;
        self.upkeep.swept_up_to = sweep.up_to;
        self.tell(Event::Swept {
            elapsed_ms: self.store.now.0.saturating_sub(sweep.began.0),
            examined: sweep.examined,
            reclaimed: sweep.reclaimed,
        });
    }

    // ---- Sizes.

    /// Keeps a histogram of the items' sizes from now on, or no longer. What is
    /// there already is counted in slices, the first one at once.
    pub fn track_sizes(&mut self, on: bool, now: Now) {
        self.at(now);
        if on && self.sizes.is_none() {
            self.sizes = Some(Box::new(Sizes::new()));
            self.walk_sizes(&mut { LOOKS });
        } else if !on {
            self.sizes = None;
        }
    }

    fn walk_sizes(&mut self, looks: &mut u32) {
        let Some(sizes) = &mut self.sizes else { return };
        let Some((mut page, mut slot)) = sizes.walk() else { return };
        let slab = &self.store.slab;
        while page < slab.pages_touched() {
            while slab.page_class(page).is_some() {
                let Some(at) = slab.next_in_page(page, slot, Map::Live) else { break };
                if *looks == 0 {
                    return sizes.walked(Some((page, slot)));
                }
                *looks -= 1;
                slot = at.slot() + 1;
                sizes.count(View::of(slab, at).bytes());
            }
            *looks = looks.saturating_sub(1);
            (page, slot) = (page + 1, 0);
        }
        sizes.walked(None);
    }

    // ---- Rebalancing.

    /// An item of the class was evicted for want of memory. After a page's
    /// worth of them, another class may have to give a page.
    pub(super) fn consider_move(&mut self, class: ClassId) {
        let facts = self.store.slab.table.get(class);
        let pressure = &mut self.pressure[usize::from(class.0)];
        *pressure += 1;
        if *pressure < facts.slots {
            return;
        }
        *pressure = 0;
        if self.upkeep.moving.is_some() {
            return;
        }
        let hits = u64::from(self.policy.ghost_hits(class));
        let pages = self.store.slab.classes[usize::from(class.0)].ring.len() as u64;
        let mut donor: Option<(u64, u64, ClassId)> = None;
        for (number, other) in self.store.slab.classes.iter().enumerate() {
            let other_pages = other.ring.len() as u64;
            let other_class = ClassId(number as u8);
            if other_class == class || other_pages < 2 {
                continue;
            }
            let other_hits = u64::from(self.policy.ghost_hits(other_class));
            let fewer = donor.is_none_or(|(least, of, _)| other_hits * of < least * other_pages);
            if fewer {
                donor = Some((other_hits, other_pages, other_class));
            }
        }
        let Some((donor_hits, donor_pages, donor)) = donor else { return };
        // Hits per page, compared without a division.
        if hits * donor_pages > GAIN_MIN * (donor_hits + 1) * pages
            && let Some(page) = self.cheapest_page(donor)
        {
            self.store.slab.close_page(page);
            self.upkeep.moving = Some(Move { page, slot: 0, from: donor, to: Some(class) });
        }
    }

    /// Goes on with the page that is being emptied, or begins with one that is
    /// beyond the limit.
    fn continue_move(&mut self, looks: &mut u32) {
        if self.upkeep.moving.is_none() && self.store.slab.pages_used > self.store.slab.pages_max {
            self.upkeep.moving = self.page_beyond_limit();
            self.upkeep.stuck = self.upkeep.moving.is_none();
        }
        let Some(mut moving) = self.upkeep.moving.take() else { return };
        loop {
            // It may have emptied itself.
            if self.store.slab.page_class(moving.page) != Some(moving.from)
                || self.store.slab.header(moving.page).closed == 0
            {
                break;
            }
            if self.store.slab.header(moving.page).used == 0 {
                self.release_page(moving.page);
                break;
            }
            let Some(at) = self.store.slab.next_used(moving.page, moving.slot) else {
                // Something in it is pinned; the page stays.
                self.store.slab.open_page(moving.page);
                return;
            };
            if *looks == 0 {
                self.upkeep.moving = Some(moving);
                return;
            }
            *looks -= 1;
            moving.slot = at.slot() + 1;
            self.vacate(at);
        }
        let to = moving.to.filter(|class| self.store.slab.add_page(*class));
        self.tell(Event::PageMoved { from: moving.from, to });
    }

    /// Closes a page that is to be given back.
    fn page_beyond_limit(&mut self) -> Option<Move> {
        if !self.evicts() {
            return None;
        }
        let from = (0..self.store.slab.classes.len())
            .max_by_key(|class| self.store.slab.classes[*class].ring.len())
            .map(|class| ClassId(class as u8))?;
        let page = self.cheapest_page(from)?;
        self.store.slab.close_page(page);
        Some(Move { page, slot: 0, from, to: None })
    }

    // ---- Index.

    /// One step, which reads up to a segment's items; only in a slice that has
    /// little else to do.
    fn shrink_index(&mut self, looks: u32) {
        if looks < LOOKS / 2 {
            return;
        }
        if let Shrunk::Page(page) = self.index.shrink(&self.store) {
            self.store.slab.give_back_index_page(page);
        }
    }

    fn decay_ghost_hits(&mut self) {
        let evictions = self.counters.evictions;
        let since = evictions.wrapping_sub(self.upkeep.decayed_at);
        if since > self.index.len() / DECAY_ITEMS + 256 {
            self.upkeep.decayed_at = evictions;
            self.policy.decay_ghost_hits();
        }
    }
}
