//! The verbs that change an item: delete, count, touch.

use super::Shard;
use crate::item::{self, Fields, STALE, TOKEN_SENT, TagList, View};
use crate::{
    Arithmetic, ArithmeticOutcome, ChunkRef, Delete, DeleteOutcome, Expiry, KeyHash, Now,
    StoreError,
};

/// Longest number, in digits, that is counted.
const DIGITS_MAX: usize = 20;

/// From here on memcached cuts items into chunks.
const CHUNKED_BYTES_MIN: usize = 512 << 10;

impl Shard {
    /// Deletes, or marks stale.
    pub fn delete(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        now: Now,
        options: &Delete,
    ) -> DeleteOutcome {
        self.at(now);
        let Some((at, view)) = self.lookup(key, hash) else {
            self.counters.delete_misses += 1;
            return DeleteOutcome::NotFound;
        };
        if options
            .compare
            .is_some_and(|cas| cas != view.cas(&self.store.slab, self.config.cas_form()))
        {
            self.counters.delete_misses += 1;
            return DeleteOutcome::Exists;
        }
        let deleted = DeleteOutcome::Deleted {
            class: self.store.slab.class_of(at),
            value_bytes: view.value_bytes as u32,
        };
        if !options.invalidate {
            self.counters.delete_hits += 1;
            self.class_mut(at).delete_hits += 1;
        }
        if !options.invalidate && !options.drop_value {
            self.changes += 1;
            self.unlink(at, hash);
            return deleted;
        }
        let tags = view.tags(&self.store.slab);
        let mut fields = view.fields(&self.store.slab, &tags);
        if options.drop_value {
            // As in memcached this is a new item: of the old one's expiry, flags
            // and marks nothing stays.
            fields.state = 0;
            fields.expiry = options.expiry.unwrap_or(Expiry::NEVER);
            fields.client_flags = options.client_flags;
        }
        if options.invalidate {
            // The next reader shall win the right to refill.
            fields.state = (fields.state | STALE) & !TOKEN_SENT;
            if let Some(expiry) = options.expiry {
                fields.expiry = expiry;
            }
        }
        fields.version = fields.version.map(|_| self.clock.next(self.store.now));
        fields.cas = options.new_cas;
        let changed = if options.drop_value {
            self.put(key, hash, &fields, &[], Some(at)).ok()
        } else {
            self.rewrite(at, hash, &fields)
        };
        if changed.is_none() {
            // Without memory for a longer header the item may not stay as if
            // nothing had happened.
            self.changes += 1;
            self.unlink(at, hash);
        }
        deleted
    }

    /// Counts up or down.
    pub fn arithmetic(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        now: Now,
        options: &Arithmetic,
    ) -> Result<ArithmeticOutcome, StoreError> {
        self.at(now);
        let Some((at, view)) = self.lookup(key, hash) else {
            return self.create_number(key, hash, options);
        };
        // What memcached keeps in several chunks is no number to it, whatever
        // the CAS; of shorter values only the first word matters.
        if view.value_bytes == 0 || view.value_bytes > CHUNKED_BYTES_MIN {
            return Ok(ArithmeticOutcome::NotNumeric);
        }
        let cas = view.cas(&self.store.slab, self.config.cas_form());
        if options.compare.is_some_and(|compare| compare != 0 && compare != cas) {
            return Ok(ArithmeticOutcome::Exists);
        }
        let Some(number) = parse_number(view.head(&self.store.slab)) else {
            return Ok(ArithmeticOutcome::NotNumeric);
        };
        let value = if options.decrement {
            self.counters.decr_hits += 1;
            self.class_mut(at).decr_hits += 1;
            number.saturating_sub(options.delta)
        } else {
            self.counters.incr_hits += 1;
            self.class_mut(at).incr_hits += 1;
            number.wrapping_add(options.delta)
        };
        let mut digits = [0; DIGITS_MAX];
        let digits = format_number(value, &mut digits);
        let tags = view.tags(&self.store.slab);
        let mut fields = view.fields(&self.store.slab, &tags);
        let expiry_before = fields.expiry;
        fields.version = fields.version.map(|_| self.clock.next(self.store.now));
        fields.cas = options.new_cas;
        if let Some(expiry) = options.touch {
            fields.expiry = expiry;
        }
        let error = StoreError::OutOfMemory { value_bytes: digits.len() as u64 };
        if view.is_chained() && digits.len() <= view.value_bytes {
            let mut padded = alloc::vec![b' '; view.value_bytes];
            padded[..digits.len()].copy_from_slice(digits);
            self.put(key, hash, &fields, &padded, Some(at))?;
        } else if digits.len() <= view.value_bytes && !self.store.pins.holds(at) {
            // A shorter number keeps the length: clients see trailing spaces.
            let at = self.rewrite(at, hash, &fields).ok_or(error)?;
            let view = View::of(&self.store.slab, at);
            let bytes = self.store.slab.arena.slice_mut(view.value, view.value_bytes);
            bytes[..digits.len()].copy_from_slice(digits);
            bytes[digits.len()..].fill(b' ');
            let class = self.store.slab.class_of(at);
            self.policy.touched(&mut self.store, class, at);
        } else {
            // As in memcached a longer number is a new item: never read, not
            // stale, nobody's to refill.
            fields.state = 0;
            self.put(key, hash, &fields, digits, Some(at))?;
        }
        let cas = self.cas_of(&fields);
        let expiry = fields.expiry;
        Ok(ArithmeticOutcome::Number { value, cas, expiry, expiry_before, created: false })
    }

    fn create_number(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        options: &Arithmetic,
    ) -> Result<ArithmeticOutcome, StoreError> {
        let Some((value, expiry)) = options.create else {
            match options.decrement {
                true => self.counters.decr_misses += 1,
                false => self.counters.incr_misses += 1,
            }
            return Ok(ArithmeticOutcome::NotFound);
        };
        let mut digits = [0; DIGITS_MAX];
        let digits = format_number(value, &mut digits);
        let fields = Fields {
            state: 0,
            mark: 0,
            binary_key: options.binary_key,
            expiry,
            version: self.needs_version(key, false).then(|| self.clock.next(self.store.now)),
            client_flags: 0,
            cas: options.new_cas,
            access_second: self.access_second(),
            tags: TagList::NONE,
        };
        self.put(key, hash, &fields, digits, None)?;
        self.counters.total_items += 1;
        let cas = self.cas_of(&fields);
        let expiry_before = Expiry::NEVER;
        Ok(ArithmeticOutcome::Number { value, cas, expiry, expiry_before, created: true })
    }

    /// Gives an item a new expiry; where it lies now, or `None` without memory.
    pub(super) fn set_expiry(
        &mut self,
        at: ChunkRef,
        hash: KeyHash,
        expiry: Expiry,
    ) -> Option<ChunkRef> {
        let view = View::of(&self.store.slab, at);
        let tags = view.tags(&self.store.slab);
        let fields = Fields { expiry, ..view.fields(&self.store.slab, &tags) };
        self.rewrite(at, hash, &fields)
    }

    /// Gives an item new header fields; where it lies now, or `None` without
    /// memory. The value stays.
    pub(super) fn rewrite(
        &mut self,
        at: ChunkRef,
        hash: KeyHash,
        fields: &Fields<'_>,
    ) -> Option<ChunkRef> {
        let view = View::of(&self.store.slab, at);
        if view.rewrite_in_place(&mut self.store.slab, fields) {
            self.changed(at, fields.expiry);
            return Some(at);
        }
        let mut key = [0; crate::KEY_BYTES_MAX];
        let key = &mut key[..view.key_bytes];
        key.copy_from_slice(view.key(&self.store.slab));
        if view.is_chained() {
            // The head chunk has room for any header before the value.
            self.forget_bytes(at);
            let layout = fields.layout(true);
            item::encode(
                &mut self.store.slab,
                at,
                &layout,
                fields,
                key,
                view.value_bytes,
                view.next,
            );
            self.count_bytes(at);
            self.changed(at, fields.expiry);
            return Some(at);
        }
        let layout = fields.layout(false);
        let class = self.class_for(&layout, key.len(), view.value_bytes);
        let Some(class) = class else {
            // Only a header that grew over the largest chunk comes here.
            let bytes = view.head(&self.store.slab).to_vec();
            return self.put(key, hash, fields, &bytes, Some(at)).ok();
        };
        let slab_class = self.store.slab.class_of(at);
        let in_place = slab_class == class && !self.store.pins.holds(at);
        let target = if in_place {
            at
        } else {
            self.take_for(class, hash, Some(at), view.value_bytes).ok()?
        };
        if in_place {
            self.forget_bytes(at);
        }
        let slab = &mut self.store.slab;
        let chunk_bytes = usize::from(slab.table.get(class).chunk_bytes);
        let value = slab.offset(target) + layout.bytes(chunk_bytes, key.len(), 0);
        slab.arena.copy(view.value, value, view.value_bytes);
        item::encode(slab, target, &layout, fields, key, view.value_bytes, ChunkRef::NONE);
        if in_place {
            self.count_bytes(at);
            self.changed(at, fields.expiry);
        } else {
            self.link(target, hash, fields, Some(at));
        }
        Some(target)
    }
}

/// The number at the beginning of a value, as memcached reads it: `strtoull`
/// with blanks before it, and a blank or the end behind it. A minus is let
/// through where the wrapped number is below 2^63.
fn parse_number(value: &[u8]) -> Option<u64> {
    let blank = |byte: u8| byte == b' ' || (b'\t'..=b'\r').contains(&byte);
    let start = value.iter().position(|byte| !blank(*byte))?;
    let (negative, digits) = match value[start] {
        b'-' => (true, &value[start + 1..]),
        b'+' => (false, &value[start + 1..]),
        _ => (false, &value[start..]),
    };
    let len = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if len == 0 || digits.get(len).is_some_and(|byte| !blank(*byte) && *byte != 0) {
        return None;
    }
    let mut number = 0u64;
    for digit in &digits[..len] {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if !negative {
        return Some(number);
    }
    let wrapped = number.wrapping_neg();
    ((wrapped as i64) >= 0).then_some(wrapped)
}

/// The decimal digits of `number`.
fn format_number(mut number: u64, buffer: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_memcached_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("5  ", Some(5)),
            ("  5", Some(5)),
            ("12 abc", Some(12)),
            ("12abc", None),
            ("", None),
            ("-", None),
            ("-1", None),
            ("+7", Some(7)),
            ("-18446744073709551615", Some(1)),
            ("000000000000000000000000012", Some(12)),
        ] {
            assert_eq!(parse_number(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            let mut buffer = [0; DIGITS_MAX];
            assert_eq!(format_number(number, &mut buffer), alloc::format!("{number}").as_bytes());
        }
    }
}
