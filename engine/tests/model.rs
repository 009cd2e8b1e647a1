//! Random command streams against a naive map.
//!
//! With ample memory shard and map must agree in every answer. With little
//! memory an item may be gone, but never wrong: the map forgets what the shard
//! no longer has, and everything else must still agree.

use engine::*;
use std::collections::{BTreeMap, HashMap};

/// SplitMix64: every run is named by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Clone, Debug)]
struct Expected {
    value: Vec<u8>,
    client_flags: u32,
    expiry: Expiry,
    cas: u64,
    tags: Vec<u64>,
    stale: bool,
    token_sent: bool,
    fetched: bool,
    binary_key: bool,
}

struct Run {
    shard: Shard,
    map: HashMap<Vec<u8>, Expected>,
    random: Random,
    now: Now,
    flush_at: Option<Now>,
    ample: bool,
    versions: bool,
    keys: u64,
    pins: Vec<(Pin, Vec<u8>)>,
    reservations: Vec<Reservation>,
    memory: usize,
    /// Bytes by which tables on the heap may grow between two pages.
    heap_step: usize,
    value_max: u64,
    out_of_memory: u64,
    gone: u64,
}

const SEED: u64 = 99;

fn hash(key: &[u8]) -> KeyHash {
    KeyHash::of(key, &HashSeed::new(SEED))
}

fn tag(number: u64) -> Tag {
    Tag((number + 1).try_into().unwrap())
}

/// The number that memcached sees in a value (signs do not occur here, but in
/// front of random bytes).
fn is_number(value: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| b" \t\n\x0b\x0c\r".contains(byte);
    let text: Vec<u8> = value.iter().copied().skip_while(blank).collect();
    let text = text.strip_prefix(b"+").unwrap_or(&text);
    let end = text.iter().position(|byte| blank(byte) || *byte == 0).unwrap_or(text.len());
    let digits = std::str::from_utf8(&text[..end]).ok()?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

impl Run {
    fn new(
        seed: u64,
        eviction: Eviction,
        versions: bool,
        memory: usize,
        keys: u64,
        value_max: u64,
    ) -> Run {
        let config = ShardConfig {
            eviction,
            versions,
            access_times: seed.is_multiple_of(3),
            namespaces: vec!["n1".into(), "n2".into()],
            tag_generations_max: 64,
            region: 1,
            ..ShardConfig::new(HashSeed::new(SEED), memory)
        };
        Run {
            shard: Shard::new(config, Arena::heap(memory)),
            map: HashMap::new(),
            random: Random(seed),
            now: Now(1_700_000_000_000),
            flush_at: None,
            ample: memory >= 64 << 20,
            versions,
            keys,
            pins: Vec::new(),
            reservations: Vec::new(),
            memory,
            heap_step: 8192,
            value_max,
            out_of_memory: 0,
            gone: 0,
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.below(self.keys);
        match number % 4 {
            0 => format!("n1:{number}").into_bytes(),
            1 => format!("n2:{number}:with-a-longer-key-{}", "x".repeat((number % 200) as usize))
                .into_bytes(),
            2 => format!("k{number}").into_bytes(),
            _ => number.to_le_bytes().to_vec(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        if self.random.one_in(4) {
            return self.random.below(10_000).to_string().into_bytes();
        }
        let bound = match self.random.below(10) {
            0 => self.value_max,
            1 => 5000,
            _ => 300,
        };
        let len = self.random.below(bound.min(self.value_max) + 1);
        let first = self.random.next() as u8;
        (0..len).map(|at| first.wrapping_add((at ^ (at >> 8)) as u8)).collect()
    }

    fn expiry(&mut self) -> Expiry {
        match self.random.below(8) {
            0 => Expiry::PAST,
            1 => Expiry(self.now.0 + self.random.below(3000)),
            2 => Expiry((self.now.seconds() + self.random.below(100)) * 1000),
            3 => Expiry((self.now.seconds() + self.random.below(1_000_000)) * 1000),
            _ => Expiry::NEVER,
        }
    }

    fn advance(&mut self) {
        self.now.0 += match self.random.below(20) {
            0 => 1000,
            1 => self.random.below(200),
            2..8 => 1,
            _ => 0,
        };
        if self.random.one_in(3000) {
            self.now.0 += 400_000;
        }
        let now = self.now;
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.map.clear();
        }
        self.map.retain(|_, item| !item.expiry.is_past(now));
    }

    /// Brings the map to what the shard has of this key, if that is allowed.
    fn agree(&mut self, key: &[u8]) {
        let expected = self.map.get(key).cloned();
        let now = self.now;
        let found = self.shard.inspect(key, hash(key), now);
        match (found, expected) {
            (None, None) => {}
            (None, Some(item)) => {
                assert!(!self.ample, "lost {:?}: {:?}", key.escape_ascii(), item.expiry);
                self.gone += 1;
                self.map.remove(key);
            }
            (Some(found), None) => {
                panic!("{:?} should not be there: {found:?}", key.escape_ascii())
            }
            (Some(found), Some(item)) => {
                let mut value = Vec::new();
                found.item.copy_value_to(&mut value);
                assert!(
                    value == item.value,
                    "value of {:?}: {} and {} bytes",
                    key.escape_ascii(),
                    value.len(),
                    item.value.len()
                );
                let pieces: Vec<u8> = found.item.pieces().flatten().copied().collect();
                assert!(pieces == value);
                assert_eq!(found.item.client_flags, item.client_flags);
                assert_eq!(found.item.expiry, item.expiry);
                assert_eq!(found.item.cas, item.cas);
                assert_eq!(found.item.key, key);
                assert_eq!((found.stale, found.token_sent), (item.stale, item.token_sent));
                assert_eq!(found.fetched, item.fetched);
                assert_eq!(found.item.binary_key, item.binary_key);
            }
        }
    }

    /// The item of a key; the map and the shard agree about it.
    fn expected(&mut self, key: &[u8]) -> Option<Expected> {
        self.agree(key);
        self.map.get(key).cloned()
    }

    fn step(&mut self) {
        self.advance();
        let key = self.key();
        let item = self.expected(&key);
        match self.random.below(100) {
            0..25 => self.get(&key, item),
            25..32 => self.read(&key, item),
            32..70 => self.write(&key, item),
            70..76 => self.delete(&key, item),
            76..84 => self.arithmetic(&key, item),
            84..88 => self.touch(&key, item),
            88..91 => self.pin(&key, item),
            91..93 => self.reserve(&key),
            93 => self.invalidate(),
            94..98 => {
                self.shard.maintain(self.now);
            }
            98 if self.random.one_in(10) => self.flush(),
            _ => self.shard.prefetch(hash(&key)),
        }
        self.agree(&key);
        // What the policy keeps on the heap may grow by a step between two pages.
        let used = self.shard.memory_bytes();
        let limit = self.memory.max(256 << 10) + self.heap_step;
        assert!(used <= limit, "{used} bytes of {}", self.memory);
    }

    fn get(&mut self, key: &[u8], item: Option<Expected>) {
        let found = self.shard.get(key, hash(key), self.now).map(|item| item.cas);
        assert_eq!(found, item.map(|item| item.cas));
        if let Some(item) = self.map.get_mut(key) {
            item.fetched = true;
        }
    }

    fn read(&mut self, key: &[u8], item: Option<Expected>) {
        let options = ReadOptions {
            touch: self.random.one_in(4).then(|| self.expiry()),
            vivify: self
                .random
                .one_in(3)
                .then(|| Expiry((self.now.seconds() + 1 + self.random.below(60)) * 1000)),
            recache_seconds: self.random.one_in(3).then(|| self.random.below(100) as i64),
            new_cas: None,
            no_bump: self.random.one_in(5),
            binary_key: self.random.one_in(5),
            recache_before_touch: self.random.one_in(2),
            classic: self.random.one_in(5),
            ..ReadOptions::default()
        };
        let now = self.now;
        let read = match self.shard.read(key, hash(key), now, &options) {
            Ok(read) => read,
            Err(_) => return self.failed(key),
        };
        let Some(mut expected) = item.clone().or_else(|| {
            options.vivify.map(|expiry| Expected {
                value: Vec::new(),
                client_flags: 0,
                expiry,
                cas: read.map_or(0, |read| read.cas),
                tags: Vec::new(),
                stale: false,
                token_sent: false,
                fetched: false,
                binary_key: options.binary_key,
            })
        }) else {
            assert!(read.is_none());
            return;
        };
        let Some(read) = read else {
            // A longer header may have had no room.
            assert!(!self.ample);
            self.map.remove(key);
            return;
        };
        let before = expected.expiry;
        let mut got = Vec::new();
        read.copy_value_to(&mut got);
        assert!(got == expected.value);
        assert_eq!(read.vivified, item.is_none());
        assert_eq!((read.stale, read.token_sent), (expected.stale, expected.token_sent));
        assert_eq!(read.hit_before, expected.fetched);
        // A created item keeps the expiry that it was created with.
        let touched = options.touch.filter(|_| item.is_some()).unwrap_or(before);
        let judged = if options.recache_before_touch { before } else { touched };
        let soon = options.recache_seconds.is_some_and(|seconds| {
            judged != Expiry::NEVER && ((judged.0 / 1000) as i64) < now.seconds() as i64 + seconds
        });
        let stale = expected.stale && !options.classic;
        let won = item.is_none() || (stale || soon) && !expected.token_sent;
        assert_eq!(read.won, won);
        if read.expiry != touched {
            assert!(!self.ample && read.expiry == before, "touch without memory keeps the expiry");
        }
        expected.expiry = read.expiry;
        expected.token_sent |= won;
        expected.fetched |= !options.no_bump;
        self.keep(key, expected);
    }

    /// Notes what is stored, unless it is dead already.
    fn keep(&mut self, key: &[u8], expected: Expected) {
        if expected.expiry.is_past(self.now) {
            self.map.remove(key);
        } else {
            self.map.insert(key.to_vec(), expected);
        }
    }

    /// A request failed for want of memory: the old item is whole, or gone.
    fn failed(&mut self, key: &[u8]) {
        assert!(!self.ample, "out of memory with ample memory");
        self.out_of_memory += 1;
        if self.shard.peek(key, hash(key), self.now).is_none() {
            self.map.remove(key);
        }
    }

    fn write(&mut self, key: &[u8], item: Option<Expected>) {
        let value = self.value();
        let mode = match self.random.below(10) {
            0 => WriteMode::Add,
            1 => WriteMode::Replace,
            2 => WriteMode::Append,
            3 => WriteMode::Prepend,
            _ => WriteMode::Set,
        };
        let cas_now = item.as_ref().map_or(7, |item| item.cas);
        let compare = self.random.one_in(5).then(|| match self.random.below(3) {
            0 => cas_now,
            1 => cas_now.saturating_sub(1),
            _ => cas_now + 1,
        });
        let tags: Vec<u64> = (0..if self.random.one_in(3) { self.random.below(5) } else { 0 })
            .map(|_| self.random.below(200))
            .collect();
        let tag_list: Vec<Tag> = tags.iter().map(|number| tag(*number)).collect();
        let client_flags = if self.random.one_in(3) { self.random.next() as u32 } else { 0 };
        let expiry = self.expiry();
        let vivify = self.random.one_in(8).then(|| self.expiry());
        let new_cas = self.random.one_in(10).then(|| 1 + self.random.below(1 << 30));
        let invalidate_older = self.random.one_in(3);
        let binary_key = self.random.one_in(6);
        let reserve = self.random.one_in(4);
        let data = if reserve {
            let Ok(mut reservation) = self.shard.reserve(key, value.len(), self.now) else {
                return self.failed(key);
            };
            let mut at = 0;
            while reservation.missing() > 0 {
                let end = (at + 1 + self.random.below(9000) as usize).min(value.len());
                at += reservation.fill(&value[at..end]);
            }
            self.agree_after_eviction(key);
            Value::Reserved(reservation)
        } else {
            Value::Bytes(&value)
        };
        let item = if reserve { self.map.get(key).cloned() } else { item };
        let write = Write {
            mode,
            client_flags,
            expiry,
            compare,
            invalidate_older,
            new_cas,
            vivify,
            tags: &tag_list,
            binary_key,
            ..Write::set(key, hash(key), data)
        };
        let outcome = match self.shard.write(write, self.now) {
            Ok(outcome) => outcome,
            Err(StoreError::TooLarge { value_bytes, .. }) => {
                let old = item.map_or(0, |item| item.value.len());
                assert!(value_bytes > 1 << 20 && (old + value.len()) as u64 == value_bytes);
                return;
            }
            Err(_) => return self.failed(key),
        };
        let fresh = Expected {
            value,
            client_flags,
            expiry,
            cas: 0,
            tags,
            stale: false,
            token_sent: false,
            fetched: false,
            binary_key,
        };
        let mut stored = match (item, mode) {
            (None, WriteMode::Set | WriteMode::Replace) if compare.is_some() => {
                assert_eq!(outcome, WriteOutcome::NotFound);
                return;
            }
            (None, WriteMode::Set | WriteMode::Add) => fresh,
            (None, WriteMode::Append | WriteMode::Prepend) if vivify.is_some() => {
                Expected { expiry: vivify.unwrap(), ..fresh }
            }
            (None, _) | (Some(_), WriteMode::Add) => {
                assert_eq!(outcome, WriteOutcome::NotStored);
                return;
            }
            (Some(old), WriteMode::Set | WriteMode::Replace) => match compare {
                None => fresh,
                Some(cas) if cas == old.cas && cas != 0 => fresh,
                Some(cas) if cas < old.cas && cas != 0 && invalidate_older => Expected {
                    expiry: old.expiry,
                    stale: true,
                    token_sent: old.token_sent,
                    ..fresh
                },
                Some(_) => {
                    assert_eq!(outcome, WriteOutcome::Exists);
                    return;
                }
            },
            (Some(old), WriteMode::Append | WriteMode::Prepend) => {
                if compare.is_some_and(|cas| cas != 0 && cas != old.cas) {
                    assert_eq!(outcome, WriteOutcome::Exists);
                    return;
                }
                let value = match mode {
                    WriteMode::Append => [old.value, fresh.value].concat(),
                    _ => [fresh.value, old.value].concat(),
                };
                Expected { value, stale: false, token_sent: false, fetched: false, ..old }
            }
        };
        let WriteOutcome::Stored { cas, value_bytes, expiry, .. } = outcome else {
            panic!("{outcome:?} instead of stored")
        };
        assert_eq!((value_bytes, expiry), (stored.value.len(), stored.expiry));
        match new_cas {
            Some(new_cas) => assert_eq!(cas, new_cas),
            None => assert_eq!(cas != 0, self.versions),
        }
        stored.cas = cas;
        self.keep(key, stored);
    }

    /// Taking chunks may have evicted the key.
    fn agree_after_eviction(&mut self, key: &[u8]) {
        if self.shard.peek(key, hash(key), self.now).is_none() && self.map.remove(key).is_some() {
            assert!(!self.ample);
        }
    }

    fn delete(&mut self, key: &[u8], item: Option<Expected>) {
        let cas_now = item.as_ref().map_or(0, |item| item.cas);
        let options = Delete {
            compare: self.random.one_in(4).then(|| cas_now + self.random.below(2)),
            invalidate: self.random.one_in(3),
            expiry: self.random.one_in(2).then(|| self.expiry()),
            new_cas: self.random.one_in(6).then(|| 1 + self.random.below(1 << 30)),
            drop_value: self.random.one_in(8),
            client_flags: self.random.below(3) as u32,
        };
        let outcome = self.shard.delete(key, hash(key), self.now, &options);
        let Some(mut item) = item else {
            assert_eq!(outcome, DeleteOutcome::NotFound);
            return;
        };
        if options.compare.is_some_and(|cas| cas != item.cas) {
            assert_eq!(outcome, DeleteOutcome::Exists);
            return;
        }
        let DeleteOutcome::Deleted { value_bytes, .. } = outcome else {
            panic!("{outcome:?} of an item that is there");
        };
        assert_eq!(value_bytes as usize, item.value.len());
        if !options.invalidate && !options.drop_value {
            self.map.remove(key);
            return;
        }
        if options.drop_value {
            item.value.clear();
            item.client_flags = options.client_flags;
            item.expiry = options.expiry.unwrap_or(Expiry::NEVER);
            (item.stale, item.token_sent, item.fetched) = (false, false, false);
        }
        if options.invalidate {
            (item.stale, item.token_sent) = (true, false);
            item.expiry = options.expiry.unwrap_or(item.expiry);
        }
        match self.shard.peek(key, hash(key), self.now) {
            Some(found) => {
                assert!(found.cas != item.cas || found.cas == 0 || options.new_cas.is_some());
                item.cas = found.cas;
                self.keep(key, item);
            }
            None => {
                assert!(!self.ample || item.expiry.is_past(self.now));
                self.map.remove(key);
            }
        }
    }

    fn arithmetic(&mut self, key: &[u8], item: Option<Expected>) {
        let options = Arithmetic {
            delta: if self.random.one_in(5) { u64::MAX - 5 } else { self.random.below(2000) },
            decrement: self.random.one_in(2),
            compare: self.random.one_in(6).then(|| self.random.below(3)),
            create: self.random.one_in(2).then(|| (self.random.below(1000), self.expiry())),
            touch: self.random.one_in(6).then(|| self.expiry()),
            new_cas: self.random.one_in(8).then(|| 1 + self.random.below(1 << 30)),
            binary_key: self.random.one_in(6),
        };
        let outcome = match self.shard.arithmetic(key, hash(key), self.now, &options) {
            Ok(outcome) => outcome,
            Err(_) => return self.failed(key),
        };
        let Some(mut item) = item else {
            let Some((number, expiry)) = options.create else {
                assert_eq!(outcome, ArithmeticOutcome::NotFound);
                return;
            };
            let ArithmeticOutcome::Number { value, cas, expiry: got, expiry_before, created: true } =
                outcome
            else {
                panic!("{outcome:?}")
            };
            assert_eq!((value, got, expiry_before), (number, expiry, Expiry::NEVER));
            let fresh = Expected {
                value: number.to_string().into_bytes(),
                client_flags: 0,
                expiry: got,
                cas,
                tags: Vec::new(),
                stale: false,
                token_sent: false,
                fetched: false,
                binary_key: options.binary_key,
            };
            return self.keep(key, fresh);
        };
        // Chained values are never numbers here, nor in memcached.
        if options.compare.is_some_and(|cas| cas != 0 && cas != item.cas) && !item.value.is_empty()
        {
            assert!(matches!(outcome, ArithmeticOutcome::Exists | ArithmeticOutcome::NotNumeric));
            return;
        }
        let Some(number) = is_number(&item.value) else {
            assert_eq!(outcome, ArithmeticOutcome::NotNumeric);
            return;
        };
        // A number that was stored through a reservation lies in a chain.
        if outcome == ArithmeticOutcome::NotNumeric {
            panic!("{number} is a number");
        }
        let ArithmeticOutcome::Number { value, cas, expiry, expiry_before, created: false } =
            outcome
        else {
            panic!("{outcome:?}")
        };
        assert_eq!(expiry_before, item.expiry);
        let result = if options.decrement {
            number.saturating_sub(options.delta)
        } else {
            number.wrapping_add(options.delta)
        };
        assert_eq!(value, result);
        let mut digits = result.to_string().into_bytes();
        if digits.len() <= item.value.len()
            && !self.pins.iter().any(|(_, pinned)| *pinned == item.value)
        {
            digits.resize(item.value.len(), b' ');
        } else if digits.len() > item.value.len() {
            // A longer number is a new item.
            (item.fetched, item.stale, item.token_sent) = (false, false, false);
        } else if let Some(found) = self.shard.inspect(key, hash(key), self.now)
            && !(found.fetched || found.stale || found.token_sent)
        {
            // So is one that replaces a pinned value.
            (item.fetched, item.stale, item.token_sent) = (false, false, false);
            digits.resize(digits.len().max(found.item.value_bytes as usize), b' ');
        } else if let Some(found) = self.shard.peek(key, hash(key), self.now) {
            // Pinned values are replaced without padding.
            digits.resize(digits.len().max(found.value_bytes as usize), b' ');
        }
        item.value = digits;
        item.cas = cas;
        item.expiry = options.touch.unwrap_or(item.expiry);
        assert_eq!(expiry, item.expiry);
        self.keep(key, item);
    }

    fn touch(&mut self, key: &[u8], item: Option<Expected>) {
        let expiry = self.expiry();
        let found = self.shard.touch(key, hash(key), self.now, expiry);
        let Some(mut item) = item else {
            assert!(!found);
            return;
        };
        item.fetched = true;
        assert!(found || !self.ample);
        if found {
            item.expiry = expiry;
        }
        self.keep(key, item);
    }

    fn pin(&mut self, key: &[u8], item: Option<Expected>) {
        if self.pins.len() > 3 || self.random.one_in(3) {
            if let Some((pin, value)) = self.pins.pop() {
                let mut out = Vec::new();
                let step = 1 + self.random.below(5000) as usize;
                for offset in (0..pin.value_bytes()).step_by(step) {
                    pin.copy_to(offset, step, &mut out);
                }
                assert!(out == value, "a pinned value changed");
                self.shard.unpin(pin);
            }
            return;
        }
        let pin = self.shard.pin(key, hash(key), self.now);
        assert_eq!(pin.is_some(), item.is_some());
        if let (Some(pin), Some(item)) = (pin, item) {
            self.pins.push((pin, item.value));
        }
    }

    fn reserve(&mut self, key: &[u8]) {
        if self.reservations.len() > 2 {
            let reservation = self.reservations.remove(0);
            return self.shard.abort(reservation);
        }
        let len = self.random.below(self.value_max) as usize;
        if let Ok(mut reservation) = self.shard.reserve(key, len, self.now) {
            reservation.fill(&vec![1; len / 2]);
            self.reservations.push(reservation);
        }
        self.agree_after_eviction(key);
    }

    fn invalidate(&mut self) {
        if self.random.one_in(6) {
            let name = if self.random.one_in(2) { "n1" } else { "n2" };
            self.shard.invalidate_namespace(name.as_bytes(), self.now).unwrap();
            let prefix = format!("{name}:");
            self.map.retain(|key, _| !key.starts_with(prefix.as_bytes()));
            return;
        }
        let number = self.random.below(200);
        self.shard.invalidate_tag(tag(number), self.now);
        self.map.retain(|_, item| !item.tags.contains(&number));
        // Folded generations may take tagged items with them.
        if self.shard.stats().counters.tag_generations_folded > 0 {
            let tagged: Vec<Vec<u8>> = self
                .map
                .iter()
                .filter(|(_, item)| !item.tags.is_empty())
                .map(|(key, _)| key.clone())
                .collect();
            for key in tagged {
                if self.shard.peek(&key, hash(&key), self.now).is_none() {
                    self.map.remove(&key);
                }
            }
        }
    }

    fn flush(&mut self) {
        let delay = if self.random.one_in(2) { 0 } else { self.random.below(3000) };
        let at = Now(self.now.0 + delay);
        self.shard.flush(at, self.now);
        if delay == 0 {
            self.map.clear();
            self.flush_at = None;
        } else {
            self.flush_at = Some(at);
        }
    }

    /// A walk shows what the map has, once each, and nothing else.
    fn walk(&mut self) {
        let mut cursor = ScanCursor::default();
        let mut seen = HashMap::new();
        while !cursor.is_done() {
            self.shard.scan(
                &mut cursor,
                ScanLimits { items: 50, bytes: 100_000 },
                self.now,
                &mut |record| {
                    assert!(
                        seen.insert(record.key.to_vec(), record.value_bytes).is_none(),
                        "shown twice"
                    );
                },
            );
        }
        for (key, len) in &seen {
            assert_eq!(
                self.map.get(key).map(|item| item.value.len() as u32),
                Some(*len),
                "{:?}",
                key.escape_ascii()
            );
        }
        if self.ample {
            assert_eq!(seen.len(), self.map.len());
        }
        let stats = self.shard.stats();
        assert!(stats.gauges.curr_items >= seen.len() as u64);
    }

    fn finish(mut self) {
        for (pin, value) in std::mem::take(&mut self.pins) {
            let mut out = Vec::new();
            pin.copy_to(0, usize::MAX, &mut out);
            assert!(out == value);
            self.shard.unpin(pin);
        }
        for reservation in std::mem::take(&mut self.reservations) {
            self.shard.abort(reservation);
        }
        let keys: Vec<Vec<u8>> = self.map.keys().cloned().collect();
        for key in keys {
            self.agree(&key);
        }
        self.walk();
        let keys: Vec<Vec<u8>> = self.map.keys().cloned().collect();
        for key in keys {
            let deleted = self.shard.delete(&key, hash(&key), self.now, &Delete::default());
            assert!(matches!(deleted, DeleteOutcome::Deleted { .. }), "{deleted:?}");
        }
        // Whatever is dead and still there goes with a flush and its sweep.
        self.shard.flush(self.now, self.now);
        for _ in 0..20_000 {
            self.now.0 += 1000;
            self.shard.maintain(self.now);
            if self.shard.is_empty() {
                break;
            }
        }
        let stats = self.shard.stats();
        assert_eq!((stats.gauges.curr_items, stats.gauges.bytes), (0, 0));
        let used: u64 = self.shard.class_stats().iter().map(|class| class.used_chunks).sum();
        assert_eq!(used, 0, "chunks leaked");
    }
}

fn run(
    seed: u64,
    eviction: Eviction,
    versions: bool,
    memory: usize,
    keys: u64,
    value_max: u64,
    steps: u64,
) {
    let name = format!("seed {seed} {eviction:?} versions {versions} memory {memory} keys {keys}");
    println!("{name}");
    let mut run = Run::new(seed, eviction, versions, memory, keys, value_max);
    for step in 0..steps {
        run.step();
        if step % 5000 == 4999 {
            let keys: Vec<Vec<u8>> = run.map.keys().cloned().collect();
            for key in keys {
                run.agree(&key);
            }
            run.walk();
        }
    }
    let (failed, gone) = (run.out_of_memory, run.gone);
    let stats = run.shard.stats();
    run.finish();
    println!("  {failed} out of memory, {gone} gone, {:?}", stats.counters);
}

const ALL: [Eviction; 5] =
    [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo, Eviction::None];

#[test]
fn ample_memory() {
    for (number, eviction) in ALL.into_iter().enumerate() {
        for versions in [true, false] {
            run(1 + number as u64, eviction, versions, 64 << 20, 300, 40_000, 25_000);
        }
    }
}

#[test]
fn little_memory() {
    for (number, eviction) in ALL.into_iter().enumerate() {
        for versions in [true, false] {
            run(100 + number as u64, eviction, versions, 1 << 20, 2000, 60_000, 30_000);
            run(200 + number as u64, eviction, versions, 4 << 20, 20_000, 60_000, 40_000);
        }
    }
}

#[test]
fn hardly_any_memory() {
    for (number, eviction) in ALL.into_iter().enumerate() {
        for versions in [true, false] {
            run(300 + number as u64, eviction, versions, 256 << 10, 500, 30_000, 20_000);
        }
    }
}

/// The histogram of sizes is switched on and off while everything goes on, and
/// is compared with a count.
#[test]
fn sizes_are_counted_whatever_happens() {
    for (number, eviction) in ALL.into_iter().enumerate() {
        let mut run =
            Run::new(400 + number as u64, eviction, number % 2 == 0, 4 << 20, 20_000, 30_000);
        run.heap_step = 64 << 10;
        for step in 0..40_000 {
            run.step();
            if step % 1000 == 500 {
                run.shard.track_sizes(step % 3000 != 500, run.now);
            }
            if step % 1000 != 499 || run.shard.sizes().is_none() {
                continue;
            }
            while run.shard.maintain(run.now) {
                run.now.0 += 1;
            }
            let mut expected = BTreeMap::new();
            let mut cursor = ScanCursor::default();
            while !cursor.is_done() {
                run.shard.scan_items(&mut cursor, 1000, run.now, &mut |scanned| {
                    let size = u64::from(scanned.item.total_bytes).next_multiple_of(32);
                    *expected.entry(size).or_insert(0) += 1;
                });
            }
            let sizes = run.shard.sizes().unwrap();
            assert!(sizes.is_sorted());
            let counted: u64 = sizes.iter().map(|(_, count)| count).sum();
            assert_eq!(counted, run.shard.len(), "step {step}");
            // What is dead and still there is counted, and not shown.
            for (size, count) in expected {
                let found = sizes.iter().find(|entry| entry.0 == size);
                assert!(found.is_some_and(|entry| entry.1 >= count), "step {step}, size {size}");
            }
        }
        run.shard.track_sizes(true, run.now);
        run.finish();
    }
}
