//! The storing verb, and what it takes to put an item into chunks.

use super::Shard;
use crate::chain::{self, PIECE_HEADER_BYTES, PieceLinks, Reservation};
use crate::item::{self, CHAINED, Fields, HEADER_BYTES_MAX, STALE, TOKEN_SENT, TagList, View};
use crate::{
    ChunkRef, ClassId, Expiry, KeyHash, Now, StoreError, Value, Write, WriteMode, WriteOutcome,
};

/// Stands for "some CAS that no item has" in a compare.
const NO_CAS: u64 = u64::MAX;

/// What a write does about the item that is there.
enum Decision {
    Store {
        /// Flags, expiry and lease marks to keep.
        state: u8,
        expiry: Expiry,
    },
    /// Append or prepend to it.
    Extend,
    Refuse(WriteOutcome),
}

impl Shard {
    /// Stores an item, or says why not.
    pub fn write(&mut self, write: Write<'_>, now: Now) -> Result<WriteOutcome, StoreError> {
        self.at(now);
        self.hot.record(write.key, write.hash);
        self.counters.cmd_set += 1;
        let result = self.store_uncounted(write);
        match result {
            Err(StoreError::TooLarge { .. }) => self.counters.store_too_large += 1,
            Err(_) => self.counters.store_no_memory += 1,
            Ok(_) => {}
        }
        result
    }

    pub(super) fn store_uncounted(
        &mut self,
        mut write: Write<'_>,
    ) -> Result<WriteOutcome, StoreError> {
        let value = core::mem::replace(&mut write.value, Value::Bytes(&[]));
        let found = self.lookup_to_store(write.key, write.hash);
        let (state, expiry, extend) = match self.decide(&write, found.as_ref()) {
            Decision::Refuse(outcome) => {
                self.drop_value(value);
                return Ok(outcome);
            }
            Decision::Store { state, expiry } => (state, expiry, false),
            Decision::Extend => (0, write.expiry, true),
        };
        let old_bytes = match (&found, extend) {
            (Some((_, view)), true) => view.value_bytes,
            _ => 0,
        };
        let value_bytes = old_bytes + value_len(&value);
        if value_bytes > self.config.value_bytes_max {
            self.drop_value(value);
            return Err(StoreError::TooLarge {
                value_bytes: value_bytes as u64,
                value_bytes_max: self.config.value_bytes_max as u64,
            });
        }
        let tagged = !write.tags.is_empty()
            || extend && found.as_ref().is_some_and(|(_, view)| view.has_tags(&self.store.slab));
        let version =
            self.needs_version(write.key, tagged).then(|| self.clock.next(self.store.now));
        let tags = match (&found, extend) {
            (Some((_, view)), true) => &view.tags(&self.store.slab),
            _ if write.tags.is_empty() => TagList::NONE,
            _ => &TagList::of(write.tags),
        };
        let fields = match (&found, extend) {
            // Like memcached: what is appended to keeps its expiry and flags.
            (Some((_, view)), true) => Fields {
                state: 0,
                version,
                cas: write.new_cas,
                mark: 0,
                access_second: self.access_second(),
                ..view.fields(&self.store.slab, tags)
            },
            _ => Fields {
                state,
                mark: 0,
                binary_key: write.binary_key,
                expiry,
                version,
                client_flags: write.client_flags,
                cas: write.new_cas,
                access_second: self.access_second(),
                tags,
            },
        };
        let cas = self.cas_of(&fields);
        let old = found.map(|(at, _)| at);
        let at = match (value, extend) {
            (Value::Bytes(bytes), false) => self.put(write.key, write.hash, &fields, bytes, old)?,
            (Value::Reserved(reservation), false) => {
                self.put_reserved(write.key, write.hash, &fields, reservation, old)?
            }
            (value, true) => {
                let (at, view) =
                    found.ok_or(StoreError::OutOfMemory { value_bytes: value_bytes as u64 })?;
                let front = write.mode == WriteMode::Prepend;
                self.put_extended(write.key, write.hash, &fields, (at, view), value, front)?
            }
        };
        self.counters.total_items += 1;
        let class_id = self.store.slab.class_of(at);
        let class = self.class_mut(at);
        class.cmd_set += 1;
        if old.is_none() && class.swept_free > 0 {
            // Its chunk may be another free one, but memory is memory.
            class.swept_free -= 1;
            class.reclaimed += 1;
            self.counters.reclaimed += 1;
        }
        Ok(WriteOutcome::Stored { cas, value_bytes, expiry: fields.expiry, class: class_id })
    }

    /// The CAS that clients will see of an item with these fields.
    pub(super) fn cas_of(&self, fields: &Fields<'_>) -> u64 {
        fields.cas.unwrap_or_else(|| self.config.cas_form().unique(fields.version))
    }

    pub(super) fn access_second(&self) -> Option<u32> {
        self.config.access_times.then_some(self.store.now.seconds() as u32)
    }

    fn decide(&mut self, write: &Write<'_>, found: Option<&(ChunkRef, View)>) -> Decision {
        let plain = Decision::Store { state: 0, expiry: write.expiry };
        let Some((at, view)) = found else {
            return match (write.mode, write.compare) {
                (WriteMode::Set | WriteMode::Replace, Some(_)) => {
                    self.counters.cas_misses += 1;
                    Decision::Refuse(WriteOutcome::NotFound)
                }
                (WriteMode::Set | WriteMode::Add, _) => plain,
                (WriteMode::Append | WriteMode::Prepend, _) => match write.vivify {
                    Some(expiry) => Decision::Store { state: 0, expiry },
                    None => Decision::Refuse(WriteOutcome::NotStored),
                },
                (WriteMode::Replace, None) => Decision::Refuse(WriteOutcome::NotStored),
            };
        };
        let cas = view.cas(&self.store.slab, self.config.cas_form());
        match (write.mode, write.compare) {
            (WriteMode::Add, _) => {
                // A refused add still counts as interest in the item.
                let class = self.store.slab.class_of(*at);
                self.policy.touched(&mut self.store, class, *at);
                Decision::Refuse(WriteOutcome::NotStored)
            }
            (WriteMode::Set | WriteMode::Replace, None) => plain,
            (WriteMode::Set | WriteMode::Replace, Some(compare)) => {
                if compare == cas && compare != 0 && compare != NO_CAS {
                    self.counters.cas_hits += 1;
                    self.class_mut(*at).cas_hits += 1;
                    plain
                } else if compare != 0
                    && write.invalidate_older
                    && self.config.cas_form().is_older(compare, cas)
                {
                    // The value is replaced, but stays stale: whoever holds the
                    // right to refill keeps it, and the expiry stays.
                    self.counters.cas_hits += 1;
                    self.class_mut(*at).cas_hits += 1;
                    let state = STALE | view.flags & TOKEN_SENT;
                    Decision::Store { state, expiry: view.expiry(&self.store.slab) }
                } else {
                    self.counters.cas_badval += 1;
                    self.class_mut(*at).cas_badval += 1;
                    Decision::Refuse(WriteOutcome::Exists)
                }
            }
            (WriteMode::Append | WriteMode::Prepend, compare) => match compare {
                Some(compare) if compare != 0 && compare != cas => {
                    Decision::Refuse(WriteOutcome::Exists)
                }
                _ => Decision::Extend,
            },
        }
    }

    fn drop_value(&mut self, value: Value<'_>) {
        if let Value::Reserved(reservation) = value {
            self.abort(reservation);
        }
    }

    // ---- Into chunks.

    /// The class for an item, or none if it must be chained.
    pub(super) fn class_for(
        &self,
        layout: &item::Layout,
        key_bytes: usize,
        value_bytes: usize,
    ) -> Option<ClassId> {
        let table = &self.store.slab.table;
        let class = table.of(layout.bytes(0, key_bytes, value_bytes))?;
        let chunk_bytes = usize::from(table.get(class).chunk_bytes);
        let needed = layout.bytes(chunk_bytes, key_bytes, value_bytes);
        // A wide slack takes a byte more, which may be one too many.
        if needed <= chunk_bytes { Some(class) } else { table.of(needed) }
    }

    /// Stores a value that is at hand in place of `old`.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        fields: &Fields<'_>,
        value: &[u8],
        old: Option<ChunkRef>,
    ) -> Result<ChunkRef, StoreError> {
        let layout = fields.layout(false);
        let Some(class) = self.class_for(&layout, key.len(), value.len()) else {
            let mut reservation = self.reserve_protected(key.len(), value.len(), old)?;
            reservation.fill(value);
            return self.put_reserved(key, hash, fields, reservation, old);
        };
        if let Some(at) = old
            && self.store.slab.class_of(at) == class
            && !self.store.pins.holds(at)
            && !item::is_chained(&self.store.slab, at)
            && self.same_flush(at)
        {
            return Ok(self.overwrite(at, &layout, fields, key, value));
        }
        let at = self.take_for(class, hash, old, value.len())?;
        let slab = &mut self.store.slab;
        let offset = item::encode(slab, at, &layout, fields, key, value.len(), ChunkRef::NONE);
        slab.arena.slice_mut(offset, value.len()).copy_from_slice(value);
        self.link(at, hash, fields, old);
        Ok(at)
    }

    /// Whether an item written now into this page would be dated right.
    fn same_flush(&self, at: ChunkRef) -> bool {
        self.store.slab.flush_sequence_of(at) == self.store.slab.flush_sequence
    }

    /// Writes over an item whose chunk is the right one.
    fn overwrite(
        &mut self,
        at: ChunkRef,
        layout: &item::Layout,
        fields: &Fields<'_>,
        key: &[u8],
        value: &[u8],
    ) -> ChunkRef {
        self.forget_bytes(at);
        let slab = &mut self.store.slab;
        let fields = Fields { mark: item::mark(slab, at), ..*fields };
        let offset = item::encode(slab, at, layout, &fields, key, value.len(), ChunkRef::NONE);
        slab.arena.slice_mut(offset, value.len()).copy_from_slice(value);
        self.count_bytes(at);
        self.changed(at, fields.expiry);
        let class = self.store.slab.class_of(at);
        self.policy.touched(&mut self.store, class, at);
        at
    }

    /// Takes a chunk for an item that is about to be linked, and makes room in
    /// the index. If nothing else can make room the old item goes.
    pub(super) fn take_for(
        &mut self,
        class: ClassId,
        hash: KeyHash,
        old: Option<ChunkRef>,
        value_bytes: usize,
    ) -> Result<ChunkRef, StoreError> {
        self.store.protected = old.unwrap_or(ChunkRef::NONE);
        let taken = self.make_index_room(hash, old.is_some()).and_then(|()| self.take_chunk(class));
        self.store.protected = ChunkRef::NONE;
        taken.ok_or_else(|| {
            self.class_counters[usize::from(class.0)].out_of_memory += 1;
            StoreError::OutOfMemory { value_bytes: value_bytes as u64 }
        })
    }

    /// Makes an encoded item the one that its key names.
    pub(super) fn link(
        &mut self,
        at: ChunkRef,
        hash: KeyHash,
        fields: &Fields<'_>,
        old: Option<ChunkRef>,
    ) {
        let class = self.store.slab.class_of(at);
        self.store.slab.set_live(at, true);
        match old {
            Some(old) => {
                let class_old = self.store.slab.class_of(old);
                self.index.replace(hash, old, at);
                self.policy.moved(&mut self.store, class_old, old, class, at);
                self.forget_bytes(old);
                self.free_unlinked(old);
                self.policy.touched(&mut self.store, class, at);
            }
            None => {
                self.index.insert(hash, at);
                self.policy.inserted(&mut self.store, class, at, hash);
            }
        }
        self.count_bytes(at);
        self.changed(at, fields.expiry);
    }

    /// Stores a value whose chunks were filled before.
    pub(super) fn put_reserved(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        fields: &Fields<'_>,
        reservation: Reservation,
        old: Option<ChunkRef>,
    ) -> Result<ChunkRef, StoreError> {
        debug_assert!(reservation.missing() == 0 && reservation.key_bytes == key.len());
        self.store.protected = old.unwrap_or(ChunkRef::NONE);
        let room = self.make_index_room(hash, old.is_some());
        self.store.protected = ChunkRef::NONE;
        if room.is_none() {
            let value_bytes = reservation.value_bytes as u64;
            self.abort(reservation);
            return Err(StoreError::OutOfMemory { value_bytes });
        }
        let at = reservation.head;
        self.count_arrived(reservation.value_bytes);
        let next = self.reserved_next(at);
        let layout = fields.layout(true);
        debug_assert!(layout.bytes(usize::MAX, 0, 0) <= HEADER_BYTES_MAX);
        item::encode(&mut self.store.slab, at, &layout, fields, key, reservation.value_bytes, next);
        // Its page may date from before a flush that came while it was filled.
        if !self.same_flush(at) {
            self.refresh_page(at.page(), at);
        }
        self.link(at, hash, fields, old);
        Ok(at)
    }

    /// Stores old and new value together in place of `old`.
    fn put_extended(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        fields: &Fields<'_>,
        old: (ChunkRef, View),
        value: Value<'_>,
        front: bool,
    ) -> Result<ChunkRef, StoreError> {
        let (at, view) = old;
        let added = value_len(&value);
        let total = view.value_bytes + added;
        let layout = fields.layout(false);
        let class = self.class_for(&layout, key.len(), total);
        if let (Some(class), Value::Bytes(bytes)) = (class, &value) {
            let unchanged = self.store.slab.class_of(at) == class
                && !view.is_chained()
                && !self.store.pins.holds(at)
                && self.same_flush(at);
            let target = if unchanged { at } else { self.take_for(class, hash, Some(at), total)? };
            if unchanged {
                self.forget_bytes(at);
            }
            let slab = &mut self.store.slab;
            let fields = Fields { mark: item::mark(slab, at), ..*fields };
            // The old bytes move first: in place, the header may grow over them.
            let header = layout.bytes(usize::from(slab.table.get(class).chunk_bytes), key.len(), 0);
            let start = slab.offset(target) + header;
            let (kept_at, added_at) =
                if front { (start + added, start) } else { (start, start + view.value_bytes) };
            if !view.is_chained() {
                slab.arena.copy(view.value, kept_at, view.value_bytes);
            } else {
                copy_parts(slab, &view, kept_at);
            }
            let offset = item::encode(slab, target, &layout, &fields, key, total, ChunkRef::NONE);
            debug_assert_eq!(offset, start);
            slab.arena.slice_mut(added_at, added).copy_from_slice(bytes);
            if unchanged {
                self.changes += 1;
                self.count_bytes(at);
                let class = self.store.slab.class_of(at);
                self.policy.touched(&mut self.store, class, at);
            } else {
                self.link(target, hash, &fields, Some(at));
            }
            return Ok(target);
        }
        let mut whole = match self.reserve_protected(key.len(), total, Some(at)) {
            Ok(reservation) => reservation,
            Err(error) => {
                self.drop_value(value);
                return Err(error);
            }
        };
        let slab = &self.store.slab;
        let fill_old = |whole: &mut Reservation| {
            for (offset, len) in chain::Parts::of(slab, &view) {
                whole.fill(slab.arena.slice(offset, len));
            }
        };
        let fill_new = |whole: &mut Reservation| match &value {
            Value::Bytes(bytes) => {
                whole.fill(bytes);
            }
            Value::Reserved(reservation) => reservation.copy_to(whole),
        };
        if front {
            fill_new(&mut whole);
            fill_old(&mut whole);
        } else {
            fill_old(&mut whole);
            fill_new(&mut whole);
        }
        self.drop_value(value);
        self.put_reserved(key, hash, fields, whole, Some(at))
    }

    // ---- Reservations.

    /// Takes chunks for a value that will arrive in pieces.
    pub fn reserve(
        &mut self,
        key: &[u8],
        value_bytes: usize,
        now: Now,
    ) -> Result<Reservation, StoreError> {
        self.at(now);
        if value_bytes > self.config.value_bytes_max {
            return Err(StoreError::TooLarge {
                value_bytes: value_bytes as u64,
                value_bytes_max: self.config.value_bytes_max as u64,
            });
        }
        self.reserve_protected(key.len(), value_bytes, None)
    }

    /// Takes the chunks; never evicts `old`.
    pub(super) fn reserve_protected(
        &mut self,
        key_bytes: usize,
        value_bytes: usize,
        old: Option<ChunkRef>,
    ) -> Result<Reservation, StoreError> {
        self.store.protected = old.unwrap_or(ChunkRef::NONE);
        let head = self.take_chain(key_bytes, value_bytes);
        self.store.protected = ChunkRef::NONE;
        let head = head.ok_or(StoreError::OutOfMemory { value_bytes: value_bytes as u64 })?;
        self.reserved += 1;
        self.reserved_bytes += value_bytes as u64;
        let slab = &self.store.slab;
        let parts = ReservedParts::of(slab, head, key_bytes, value_bytes);
        Ok(Reservation::new(slab, head, key_bytes, value_bytes, parts))
    }

    fn take_chain(&mut self, key_bytes: usize, value_bytes: usize) -> Option<ChunkRef> {
        // More than the whole memory would evict everything and still fail.
        if value_bytes > self.store.slab.pages_max as usize * crate::slab::arena::PAGE_BYTES {
            return None;
        }
        let table = &self.store.slab.table;
        let class = table.of(HEADER_BYTES_MAX + key_bytes + value_bytes).unwrap_or(table.largest());
        let head = self.take_chunk(class)?;
        let chunk_bytes = usize::from(self.store.slab.table.get(class).chunk_bytes);
        let mut remaining =
            value_bytes - item::head_piece_bytes(chunk_bytes, key_bytes, value_bytes);
        let mut previous = head;
        self.set_reserved_next(head, ChunkRef::NONE);
        while remaining > 0 {
            let table = &self.store.slab.table;
            let class = table.of(remaining + PIECE_HEADER_BYTES).unwrap_or(table.largest());
            let Some(piece) = self.take_chunk(class) else {
                let next = self.reserved_next(head);
                self.free_chunks(head, next);
                return None;
            };
            let links = PieceLinks { next: ChunkRef::NONE, previous, head };
            chain::set_piece_links(&mut self.store.slab, piece, links);
            if previous == head {
                self.set_reserved_next(head, piece);
            } else {
                let links = chain::piece_links(&self.store.slab, previous);
                chain::set_piece_links(
                    &mut self.store.slab,
                    previous,
                    PieceLinks { next: piece, ..links },
                );
            }
            previous = piece;
            let chunk_bytes = usize::from(self.store.slab.table.get(class).chunk_bytes);
            remaining -= remaining.min(chunk_bytes - PIECE_HEADER_BYTES);
        }
        Some(head)
    }

    /// The second chunk of a reservation, noted behind its head's mark.
    fn reserved_next(&self, head: ChunkRef) -> ChunkRef {
        reserved_next(&self.store.slab, head)
    }

    fn set_reserved_next(&mut self, head: ChunkRef, next: ChunkRef) {
        let offset = self.store.slab.offset(head);
        self.store.slab.arena.slice_mut(offset + 4, 4).copy_from_slice(&next.0.to_le_bytes());
    }

    /// Gives the chunks of a value back that will not be stored.
    pub fn abort(&mut self, reservation: Reservation) {
        self.count_arrived(reservation.value_bytes);
        let next = self.reserved_next(reservation.head);
        self.free_chunks(reservation.head, next);
    }

    fn count_arrived(&mut self, value_bytes: usize) {
        self.reserved -= 1;
        self.reserved_bytes -= value_bytes as u64;
    }
}

fn reserved_next(slab: &crate::slab::Slab, head: ChunkRef) -> ChunkRef {
    let offset = slab.offset(head);
    ChunkRef(u32::from_le_bytes(slab.arena.slice(offset + 4, 4).try_into().unwrap_or_default()))
}

fn value_len(value: &Value<'_>) -> usize {
    match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Reserved(reservation) => reservation.value_bytes,
    }
}

/// Copies a chained value into one place.
fn copy_parts(slab: &mut crate::slab::Slab, view: &View, mut to: usize) {
    debug_assert!(view.flags & CHAINED != 0);
    let mut remaining = view.value_bytes - view.head_bytes;
    slab.arena.copy(view.value, to, view.head_bytes);
    to += view.head_bytes;
    let mut next = view.next;
    while remaining > 0 && next != ChunkRef::NONE {
        let (offset, chunk_bytes) = slab.locate(next);
        let len = remaining.min(chunk_bytes - PIECE_HEADER_BYTES);
        slab.arena.copy(offset + PIECE_HEADER_BYTES, to, len);
        to += len;
        remaining -= len;
        next = chain::piece_links(slab, next).next;
    }
}

/// Where the value bytes of reserved chunks lie.
struct ReservedParts<'a> {
    slab: &'a crate::slab::Slab,
    head: Option<(usize, usize)>,
    next: ChunkRef,
    remaining: usize,
}

impl<'a> ReservedParts<'a> {
    fn of(
        slab: &'a crate::slab::Slab,
        head: ChunkRef,
        key_bytes: usize,
        value_bytes: usize,
    ) -> ReservedParts<'a> {
        let (offset, chunk_bytes) = slab.locate(head);
        let head_bytes = item::head_piece_bytes(chunk_bytes, key_bytes, value_bytes);
        ReservedParts {
            slab,
            head: Some((offset + chunk_bytes - head_bytes, head_bytes)),
            next: reserved_next(slab, head),
            remaining: value_bytes - head_bytes,
        }
    }
}

impl Iterator for ReservedParts<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.next == ChunkRef::NONE {
            return None;
        }
        let (offset, chunk_bytes) = self.slab.locate(self.next);
        let len = self.remaining.min(chunk_bytes - PIECE_HEADER_BYTES);
        self.remaining -= len;
        self.next = chain::piece_links(self.slab, self.next).next;
        Some((offset + PIECE_HEADER_BYTES, len))
    }
}
