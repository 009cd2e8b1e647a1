//! What is measured: Seawall's engine, a bare hash table, and two caches.
//!
//! Every subject hashes keys with the same function (the engine's), copies the
//! value out on a hit as any server must, and is used by one thread.

use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;

use engine::{Arena, Delete, HashSeed, KeyHash, Now, Shard, ShardConfig, Value, Write};
use net::sys::memory::Mapping;

use crate::{KEY_BYTES, VALUE_BYTES};

const SEED: HashSeed = HashSeed::new(7);
const NOW: Now = Now(1_700_000_000_000);

/// Where a value is copied to.
pub type Out = [u8; VALUE_BYTES];

/// What can be measured.
pub trait Subject {
    /// Its name in tables.
    const NAME: &'static str;
    /// Whether it evicts, so that it can be full.
    const EVICTS: bool;

    /// Room for `items` items without eviction.
    fn roomy(items: u64) -> Self;
    /// Room for about `items` items; what more comes evicts.
    fn tight(items: u64) -> Self;
    /// Copies the value of a key; false if there is none.
    fn get(&mut self, key: &[u8], out: &mut Out) -> bool;
    /// Stores a value, whether or not there was one.
    fn set(&mut self, key: &[u8], value: &[u8]);
    /// Removes a key; false if there was none.
    fn delete(&mut self, key: &[u8]) -> bool;
}

/// Seawall's engine as the daemon configures it: CLOCK-Pro, versions (CAS) kept.
pub struct Engine(Shard);

/// What an item takes at most: the engine needs some 25 bytes beside key and
/// value, and its index up to twice its mean right after it has grown.
const ITEM_BYTES: u64 = (KEY_BYTES + VALUE_BYTES) as u64 + 50;
/// What an item takes when the shard is full.
const ITEM_BYTES_FULL: u64 = (KEY_BYTES + VALUE_BYTES) as u64 + 25;

/// A shard over memory that asks for huge pages, as the daemon's is.
pub fn shard(bytes: usize) -> (Shard, Arc<Mapping>) {
    let (mapping, _) = Mapping::arena(bytes, false).expect("address space for an arena");
    let mapping = Arc::new(mapping);
    // SAFETY: a fresh anonymous mapping that nobody else touches and that the
    // arena keeps mapped.
    let arena = unsafe { Arena::from_raw(mapping.base(), mapping.bytes(), mapping.clone()) };
    let config = ShardConfig::new(SEED, arena.bytes());
    (Shard::new(config, arena), mapping)
}

/// A plain set, as the text protocol's.
#[inline]
pub fn set(shard: &mut Shard, key: &[u8], value: &[u8], now: Now) {
    let write = Write::set(key, KeyHash::of(key, &SEED), Value::Bytes(value));
    black_box(shard.write(write, now)).expect("there is memory, or something to evict");
}

impl Subject for Engine {
    const NAME: &'static str = "engine";
    const EVICTS: bool = true;

    fn roomy(items: u64) -> Self {
        Engine(shard((items * ITEM_BYTES) as usize + (16 << 20)).0)
    }

    fn tight(items: u64) -> Self {
        Engine(shard((items * ITEM_BYTES_FULL) as usize).0)
    }

    #[inline]
    fn get(&mut self, key: &[u8], out: &mut Out) -> bool {
        let Some(item) = self.0.get(key, KeyHash::of(key, &SEED), NOW) else { return false };
        copy(item.head, out)
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: &[u8]) {
        set(&mut self.0, key, value, NOW);
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        let outcome = self.0.delete(key, KeyHash::of(key, &SEED), NOW, &Delete::default());
        matches!(outcome, engine::DeleteOutcome::Deleted { .. })
    }
}

#[inline]
fn copy(value: &[u8], out: &mut Out) -> bool {
    out[..value.len()].copy_from_slice(value);
    black_box(out);
    true
}

/// hashbrown's table alone, in the layout that favours it most: one allocation
/// an item, `key length | key | value`, and a set of the same length written
/// over the old one in place. It neither evicts nor expires.
pub struct Table(hashbrown::HashTable<Box<[u8]>>);

impl Table {
    #[inline]
    fn hash(key: &[u8]) -> u64 {
        KeyHash::of(key, &SEED).0
    }

    #[inline]
    fn key(record: &[u8]) -> &[u8] {
        &record[1..][..usize::from(record[0])]
    }
}

impl Subject for Table {
    const NAME: &'static str = "hashbrown";
    const EVICTS: bool = false;

    fn roomy(items: u64) -> Self {
        Table(hashbrown::HashTable::with_capacity(items as usize))
    }

    fn tight(_: u64) -> Self {
        unreachable!("a table does not evict")
    }

    #[inline]
    fn get(&mut self, key: &[u8], out: &mut Out) -> bool {
        let Some(record) = self.0.find(Self::hash(key), |record| Self::key(record) == key) else {
            return false;
        };
        copy(&record[1 + key.len()..], out)
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: &[u8]) {
        use hashbrown::hash_table::Entry;
        let entry = self.0.entry(
            Self::hash(key),
            |record| Self::key(record) == key,
            |record| Self::hash(Self::key(record)),
        );
        let build = || {
            let mut record = Vec::with_capacity(1 + key.len() + value.len());
            record.push(key.len() as u8);
            record.extend_from_slice(key);
            record.extend_from_slice(value);
            record.into_boxed_slice()
        };
        match entry {
            Entry::Occupied(mut entry) => {
                let old = &mut entry.get_mut()[1 + key.len()..];
                if old.len() == value.len() {
                    old.copy_from_slice(value);
                } else {
                    *entry.get_mut() = build();
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(build());
            }
        }
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        match self.0.find_entry(Self::hash(key), |record| Self::key(record) == key) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }
}

/// The engine's hash for the maps of others.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = KeyHash::of(bytes, &SEED).0;
    }

    /// The length that a slice hashes before its bytes: the bytes say enough.
    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

/// quick_cache in its form for one thread, every item weighing one. A set of
/// the same length is written over the old one in place here too: an insertion
/// would free and allocate, at four times the cost.
pub struct QuickCache(
    quick_cache::unsync::Cache<Box<[u8]>, Box<[u8]>, quick_cache::UnitWeighter, BuildKeyHasher>,
);

impl Subject for QuickCache {
    const NAME: &'static str = "quick_cache";
    const EVICTS: bool = true;

    fn roomy(items: u64) -> Self {
        // It evicts from its hot part before the whole is full.
        Self::tight(2 * items)
    }

    fn tight(items: u64) -> Self {
        QuickCache(quick_cache::unsync::Cache::with(
            items as usize,
            items,
            quick_cache::UnitWeighter,
            BuildKeyHasher::default(),
            Default::default(),
        ))
    }

    #[inline]
    fn get(&mut self, key: &[u8], out: &mut Out) -> bool {
        let Some(value) = self.0.get(key) else { return false };
        copy(value, out)
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: &[u8]) {
        if let Some(mut old) = self.0.get_mut(key)
            && old.len() == value.len()
        {
            old.copy_from_slice(value);
            return;
        }
        self.0.insert(key.into(), value.into());
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        self.0.remove(key).is_some()
    }
}

/// moka's cache for threads, used by one; it has no other. Its upkeep runs now
/// and then inside of its calls and is a part of their time.
pub struct Moka(moka::sync::Cache<Box<[u8]>, Arc<[u8]>, BuildKeyHasher>);

impl Subject for Moka {
    const NAME: &'static str = "moka";
    const EVICTS: bool = true;

    fn roomy(items: u64) -> Self {
        Self::tight(2 * items)
    }

    fn tight(items: u64) -> Self {
        Moka(
            moka::sync::Cache::builder()
                .max_capacity(items)
                .build_with_hasher(BuildKeyHasher::default()),
        )
    }

    #[inline]
    fn get(&mut self, key: &[u8], out: &mut Out) -> bool {
        let Some(value) = self.0.get(key) else { return false };
        copy(&value, out)
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.into(), value.into());
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        self.0.remove(key).is_some()
    }
}
