//! The reading verbs.

use super::Shard;
use crate::chain::{Item, Pin};
use crate::generation::Liveness;
use crate::item::{FETCHED, STALE, TOKEN_SENT, View};
use crate::{ChunkRef, Expiry, KeyHash, Now, ReadOptions, StoreError, Value, Write, WriteMode};

impl Shard {
    /// Plain get: counts, bumps.
    #[inline]
    pub fn get(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Option<Item<'_>> {
        self.at(now);
        self.hot.record(key, hash);
        self.counters.cmd_get += 1;
        let Some((at, mut view)) = self.lookup(key, hash) else {
            self.counters.get_misses += 1;
            return None;
        };
        self.counters.get_hits += 1;
        self.class_mut(at).get_hits += 1;
        self.bump(at, &mut view);
        Some(self.item(at, &view))
    }

    /// Notes an access to an item.
    #[inline]
    fn bump(&mut self, at: ChunkRef, view: &mut View) {
        if view.flags & FETCHED == 0 {
            view.set_flags(&mut self.store.slab, view.flags | FETCHED);
        }
        if self.config.access_times {
            view.set_access_second(&mut self.store.slab, self.store.now.seconds() as u32);
        }
        let class = self.store.slab.class_of(at);
        self.policy.touched(&mut self.store, class, at);
    }

    /// Get with touch and the lease options.
    pub fn read(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        now: Now,
        options: &ReadOptions,
    ) -> Result<Option<Item<'_>>, StoreError> {
        self.at(now);
        self.hot.record(key, hash);
        let mut vivified = false;
        let found = match (self.lookup(key, hash), options.vivify) {
            (Some(found), _) => Some(found),
            (None, None) => None,
            (None, Some(expiry)) => {
                vivified = true;
                // Who creates an item that is past sees it nevertheless, and
                // nobody else does.
                self.vivify(key, hash, expiry.max(Expiry(now.0 + 1)), options)?;
                let found = self.lookup(key, hash);
                match found {
                    Some((at, _)) if expiry.is_past(now) => self
                        .set_expiry(at, hash, expiry)
                        .map(|at| (at, View::of(&self.store.slab, at))),
                    found => found,
                }
            }
        };
        // As in memcached, a read with a touch counts as a touch, and one that
        // creates the item as a hit.
        let counters = &mut self.counters;
        match (found.is_some(), options.touch.is_some()) {
            (true, true) => {
                (counters.cmd_touch, counters.touch_hits) =
                    (counters.cmd_touch + 1, counters.touch_hits + 1)
            }
            (true, false) => {
                (counters.cmd_get, counters.get_hits) =
                    (counters.cmd_get + 1, counters.get_hits + 1)
            }
            (false, true) => {
                (counters.cmd_touch, counters.touch_misses) =
                    (counters.cmd_touch + 1, counters.touch_misses + 1);
            }
            (false, false) => {
                (counters.cmd_get, counters.get_misses) =
                    (counters.cmd_get + 1, counters.get_misses + 1)
            }
        }
        let Some((mut at, mut view)) = found else { return Ok(None) };
        match options.touch {
            Some(_) => self.class_mut(at).touch_hits += 1,
            None => self.class_mut(at).get_hits += 1,
        }

        let expiry_before = if vivified { Expiry::NEVER } else { view.expiry(&self.store.slab) };
        let hit_before = view.flags & FETCHED != 0;
        let idle_seconds = self.idle_seconds(&view, self.store.now);
        // A created item has its expiry already.
        if let Some(expiry) = options.touch.filter(|_| !vivified)
            && let Some(moved) = self.set_expiry(at, hash, expiry)
        {
            at = moved;
            view = View::of(&self.store.slab, at);
        }
        let stale = view.flags & STALE != 0;
        let token_sent = view.flags & TOKEN_SENT != 0;
        let mut won = vivified || stale && !token_sent && !options.classic;
        if let Some(seconds) = options.recache_seconds {
            let expiry = if options.recache_before_touch {
                expiry_before
            } else {
                view.expiry(&self.store.slab)
            };
            // memcached compares whole seconds.
            let soon = expiry != Expiry::NEVER
                && ((expiry.0 / 1000) as i64) < now.seconds() as i64 + seconds;
            won |= soon && !token_sent;
        }
        if won {
            self.changes += 1;
            view.set_flags(&mut self.store.slab, view.flags | TOKEN_SENT);
        }
        if !options.no_bump {
            self.bump(at, &mut view);
        }
        let mut item = self.item(at, &view);
        // Who has the item with this CAS already does not get its value again.
        let is_same = item.cas != 0 && options.unless_cas == Some(item.cas);
        let found = &mut item.found;
        found.with_value = options.value && !is_same;
        found.expiry_before = expiry_before;
        found.idle_seconds = idle_seconds;
        found.won = won;
        found.stale = stale;
        found.token_sent = token_sent;
        found.vivified = vivified;
        found.hit_before = hit_before;
        Ok(Some(item))
    }

    /// Stores the empty item that a reader with `vivify` fills.
    fn vivify(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        expiry: Expiry,
        options: &ReadOptions,
    ) -> Result<(), StoreError> {
        let write = Write {
            mode: WriteMode::Set,
            key,
            hash,
            value: Value::Bytes(&[]),
            client_flags: 0,
            expiry,
            compare: None,
            invalidate_older: false,
            new_cas: options.new_cas,
            vivify: None,
            tags: &[],
            binary_key: options.binary_key,
        };
        self.store_uncounted(write).map(|_| ())
    }

    #[inline]
    pub(super) fn item(&self, at: ChunkRef, view: &View) -> Item<'_> {
        let class = self.store.slab.class_of(at);
        Item::of(&self.store.slab, view, class, self.config.cas_form())
    }

    /// Seconds since the item was last read, or written.
    pub(super) fn idle_seconds(&self, view: &View, now: Now) -> u32 {
        let now = now.seconds();
        let then = match (view.access_second(&self.store.slab), view.version(&self.store.slab)) {
            (Some(second), _) => u64::from(second),
            (None, Some(version)) => version.unix_ms() / 1000,
            (None, None) => now,
        };
        now.saturating_sub(then) as u32
    }

    /// An item as it is: no counting, no bump.
    pub fn peek(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Option<Item<'_>> {
        self.at(now);
        let (at, view) = self.lookup(key, hash)?;
        Some(self.item(at, &view))
    }

    /// Everything that meta debug shows: no counting, no bump.
    pub fn inspect(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Option<Inspection<'_>> {
        self.at(now);
        let (at, view) = self.lookup(key, hash)?;
        Some(self.inspection(at, &view))
    }

    /// The same for who only wants to know how to go on with a request: a dead item
    /// stays, so that the request itself comes across it.
    pub fn glance(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Glance<'_> {
        self.at(now);
        let slab = &self.store.slab;
        let Some(at) = self.index.find(hash, |at| crate::item::has_key(slab, at, key)) else {
            return Glance::Nothing;
        };
        let view = View::of(&self.store.slab, at);
        match self.store.liveness(at, &view) {
            Liveness::Live => Glance::Item(self.inspection(at, &view)),
            Liveness::Expired => Glance::Expired,
            Liveness::Invalidated => Glance::Nothing,
        }
    }

    fn inspection(&self, at: ChunkRef, view: &View) -> Inspection<'_> {
        Inspection {
            item: self.item(at, view),
            stale: view.flags & STALE != 0,
            token_sent: view.flags & TOKEN_SENT != 0,
            fetched: view.flags & FETCHED != 0,
            idle_seconds: self.idle_seconds(view, self.store.now),
        }
    }

    /// Holds the value of `key` in place (no counting, no bump).
    pub fn pin(&mut self, key: &[u8], hash: KeyHash, now: Now) -> Option<Pin> {
        self.at(now);
        self.lookup(key, hash)?;
        self.pin_read(key, hash)
    }

    /// [`Shard::pin`] for who has just read the item, and may have ended its
    /// life with the touch that went with it.
    pub fn pin_read(&mut self, key: &[u8], hash: KeyHash) -> Option<Pin> {
        let slab = &self.store.slab;
        let at = self.index.find(hash, |at| crate::item::has_key(slab, at, key))?;
        let view = View::of(&self.store.slab, at);
        self.store.pins.pin(at);
        Some(Pin::new(&self.store.slab, at, &view, self.config.cas_form()))
    }

    /// Lets a pinned value go.
    pub fn unpin(&mut self, pin: Pin) {
        if self.store.pins.unpin(pin.head) {
            self.free_chunks(pin.head, pin.continued());
        }
    }

    /// Sets the expiry; false if there is no such item.
    pub fn touch(&mut self, key: &[u8], hash: KeyHash, now: Now, expiry: Expiry) -> bool {
        self.at(now);
        self.counters.cmd_touch += 1;
        let Some((at, mut view)) = self.lookup(key, hash) else {
            self.counters.touch_misses += 1;
            return false;
        };
        self.counters.touch_hits += 1;
        self.class_mut(at).touch_hits += 1;
        self.bump(at, &mut view);
        self.set_expiry(at, hash, expiry).is_some()
    }
}

/// What there is under a key.
#[derive(Clone, Copy, Debug)]
pub enum Glance<'a> {
    /// Nothing, or what was invalidated.
    Nothing,
    /// An item that has expired, and was not freed yet.
    Expired,
    /// An item.
    Item(Inspection<'a>),
}

impl Glance<'_> {
    /// Whether there is an item that is stale, or somebody's to refill.
    pub fn is_marked(&self) -> bool {
        matches!(self, Glance::Item(found) if found.stale || found.token_sent)
    }
}

/// An item and its state, for debugging.
#[derive(Clone, Copy, Debug)]
pub struct Inspection<'a> {
    /// The item.
    pub item: Item<'a>,
    /// It is stale.
    pub stale: bool,
    /// Somebody holds the right to refill it.
    pub token_sent: bool,
    /// It has been read.
    pub fetched: bool,
    /// Seconds since its last access.
    pub idle_seconds: u32,
}
