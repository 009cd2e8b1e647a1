//! The eviction policies alone, over a slab that is a plain vector: LRU and LFU
//! against their definitions, S3-FIFO against a naive model with exact ghosts,
//! CLOCK-Pro on the access patterns it is for, and all of them under random
//! operations.

mod plain_cells;

use engine::policy::CellState;
use engine::{ClassId, Eviction};
use plain_cells::PlainCache;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

const CLASS: ClassId = ClassId(0);
const ALL: [Eviction; 4] = [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo];

/// A small generator (xorshift*), so that every run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
    fn unit(&mut self) -> f64 {
        self.next() as f64 / 2f64.powi(64)
    }
}

/// Keys of which the n-th is asked for about 1/n as often as the first.
fn zipf(random: &mut Random, keys: u64) -> u64 {
    ((keys as f64).powf(random.unit()) - 1.0) as u64
}

/// Popular keys, and now and then a scan of keys never seen again.
fn zipf_with_scans(requests: usize, keys: u64) -> Vec<u64> {
    let mut random = Random(7);
    let mut unseen = 1 << 32;
    let mut trace = Vec::new();
    while trace.len() < requests {
        if random.below(2000) == 0 {
            trace.extend(unseen..unseen + 1500);
            unseen += 1500;
        } else {
            trace.push(zipf(&mut random, keys));
        }
    }
    trace
}

fn misses(eviction: Eviction, capacity: usize, trace: &[u64]) -> u64 {
    let mut cache = PlainCache::new(eviction, capacity, 1);
    trace.iter().filter(|&&key| !cache.request(key, CLASS)).count() as u64
}

/// LRU by its definition.
fn naive_lru(capacity: usize, trace: &[u64]) -> u64 {
    let (mut by_time, mut last, mut misses) = (BTreeMap::new(), HashMap::new(), 0);
    for (time, &key) in trace.iter().enumerate() {
        match last.insert(key, time) {
            Some(before) => drop(by_time.remove(&before)),
            None => {
                misses += 1;
                if by_time.len() == capacity {
                    let (_, oldest) = by_time.pop_first().unwrap();
                    last.remove(&oldest);
                }
            }
        }
        by_time.insert(time, key);
    }
    misses
}

/// LFU with dynamic aging by its definition, accesses counted up to 127.
fn naive_lfu(capacity: usize, trace: &[u64]) -> u64 {
    let (mut queue, mut items) = (BTreeMap::new(), HashMap::new());
    let (mut age, mut misses) = (0, 0);
    for (time, &key) in trace.iter().enumerate() {
        let accesses = match items.remove(&key) {
            Some(((priority, before), accesses)) => {
                queue.remove(&(priority, before));
                127.min(accesses + 1)
            }
            None => {
                misses += 1;
                if items.len() == capacity {
                    let ((priority, _), victim) = queue.pop_first().unwrap();
                    age = priority;
                    items.remove(&victim);
                }
                1
            }
        };
        let place = (age + accesses, time);
        items.insert(key, (place, accesses));
        queue.insert(place, key);
    }
    misses
}

/// S3-FIFO as libCacheSim has it, with exact ghosts.
fn naive_s3_fifo(capacity: usize, trace: &[u64]) -> u64 {
    let (small_max, main_max) = (capacity / 10, capacity - capacity / 10);
    let ghosts_max = capacity * 9 / 10;
    let (mut small, mut main, mut hits) =
        (VecDeque::new(), VecDeque::new(), HashMap::<u64, u8>::new());
    let (mut ghosts, mut ghost_queue) = (HashMap::new(), VecDeque::new());
    let (mut evicted, mut misses) = (false, 0);
    for (time, &key) in trace.iter().enumerate() {
        if let Some(hits) = hits.get_mut(&key) {
            *hits = (*hits + 1).min(3);
            continue;
        }
        misses += 1;
        let returning = ghosts.remove(&key).is_some();
        while hits.len() == capacity {
            evicted = true;
            if main.len() > main_max || small.is_empty() {
                let at = main.pop_front().unwrap();
                match hits[&at] {
                    0 => drop(hits.remove(&at)),
                    count => {
                        hits.insert(at, count - 1);
                        main.push_back(at);
                    }
                }
            } else {
                let at = small.pop_front().unwrap();
                if hits[&at] >= 2 {
                    hits.insert(at, 0);
                    main.push_back(at);
                } else {
                    hits.remove(&at);
                    ghosts.insert(at, time);
                    ghost_queue.push_back((at, time));
                    while ghosts.len() > ghosts_max {
                        let (oldest, time) = ghost_queue.pop_front().unwrap();
                        if ghosts.get(&oldest) == Some(&time) {
                            ghosts.remove(&oldest);
                        }
                    }
                }
            }
        }
        hits.insert(key, 0);
        if returning || (!evicted && small.len() >= small_max) {
            main.push_back(key)
        } else {
            small.push_back(key)
        }
    }
    misses
}

#[test]
fn lru_is_exact() {
    let trace = zipf_with_scans(60_000, 5_000);
    for capacity in [1, 2, 7, 100, 1000] {
        assert_eq!(
            misses(Eviction::Lru, capacity, &trace),
            naive_lru(capacity, &trace),
            "capacity {capacity}"
        );
    }
}

#[test]
fn lfu_is_exact() {
    let trace = zipf_with_scans(12_000, 2_000);
    for capacity in [1, 2, 7, 100, 300] {
        assert_eq!(
            misses(Eviction::Lfu, capacity, &trace),
            naive_lfu(capacity, &trace),
            "capacity {capacity}"
        );
    }
}

/// The only difference are the ghosts: fingerprints and coarse ages here.
#[test]
fn s3_fifo_follows_its_model() {
    let trace = zipf_with_scans(200_000, 20_000);
    for capacity in [200, 1000, 4000] {
        let (ours, model) =
            (misses(Eviction::S3Fifo, capacity, &trace), naive_s3_fifo(capacity, &trace));
        assert!(
            ours.abs_diff(model) <= model / 300,
            "capacity {capacity}: {ours} misses, the model has {model}"
        );
    }
}

/// A loop a little longer than the cache is what LRU is worst at: it never
/// hits. CLOCK-Pro keeps most of the loop, as long as its length stays within
/// cache and ghosts.
#[test]
fn clock_pro_keeps_most_of_a_loop() {
    let trace: Vec<u64> = (0..100_000).map(|request| request % 1200).collect();
    assert_eq!(misses(Eviction::Lru, 1000, &trace), 100_000);
    let clock_pro = misses(Eviction::ClockPro, 1000, &trace);
    assert!(clock_pro < 45_000, "{clock_pro} misses");
}

#[test]
fn clock_pro_resists_scans() {
    let trace = zipf_with_scans(300_000, 20_000);
    for capacity in [200, 1000, 4000] {
        let (clock_pro, lru) =
            (misses(Eviction::ClockPro, capacity, &trace), misses(Eviction::Lru, capacity, &trace));
        assert!(
            clock_pro * 100 < lru * 96,
            "capacity {capacity}: {clock_pro} misses, LRU has {lru}"
        );
    }
}

/// What was popular yesterday leaves when something else is popular today.
#[test]
fn every_policy_follows_a_changed_working_set() {
    let mut random = Random(3);
    let yesterday: Vec<u64> = (0..100_000).map(|_| random.below(800)).collect();
    let today: Vec<u64> = (0..100_000).map(|_| 10_000 + random.below(800)).collect();
    for eviction in ALL {
        let mut cache = PlainCache::new(eviction, 1000, 1);
        for &key in &yesterday {
            cache.request(key, CLASS);
        }
        let misses = today.iter().filter(|&&key| !cache.request(key, CLASS)).count();
        // LFU remembers 127 accesses to each of yesterday's keys.
        let misses_max = if eviction == Eviction::Lfu { 20_000 } else { 6_000 };
        assert!(misses < misses_max, "{eviction:?}: {misses} misses");
    }
}

/// Every item can be evicted in the end, dead ones at the first sight of them,
/// pinned ones never; whatever else happened to the items before.
#[test]
fn random_operations_lose_no_item() {
    for eviction in ALL {
        for seed in 1..40 {
            let mut random = Random(seed * 0x9e37_79b9);
            let capacity = 1 + random.below(300) as usize;
            let mut cache = PlainCache::new(eviction, capacity, seed);
            let mut pinned = HashSet::new();
            for _ in 0..3000 {
                let key = random.below(600);
                let class = ClassId(random.below(3) as u8);
                match random.below(20) {
                    0 if !pinned.contains(&key) => cache.delete(key),
                    1 if !pinned.contains(&key) => cache.relocate(key, class),
                    2 if !pinned.contains(&key) => cache.set_state(key, CellState::Dead),
                    3 if pinned.len() < 10 && cache.index.contains_key(&key) => {
                        cache.set_state(key, CellState::Busy);
                        pinned.insert(key);
                    }
                    4 => pinned.drain().for_each(|key| cache.set_state(key, CellState::Live)),
                    5 => cache.policy.decay_ghost_hits(),
                    _ => {
                        cache.request(key, class);
                    }
                }
                assert_eq!(cache.policy.items(), cache.index.len() as u64);
            }
            for class in 0..3 {
                while cache.evict(ClassId(class)) {}
            }
            let left: HashSet<u64> = cache.index.keys().copied().collect();
            assert_eq!(left, pinned, "{eviction:?}, seed {seed}");
        }
    }
}

/// The hands of CLOCK-Pro stop after a fixed number of steps, though every item
/// is hot and was hit as often as can be counted.
#[test]
fn no_eviction_walks_the_class() {
    let mut cache = PlainCache::new(Eviction::ClockPro, 20_000, 1);
    for _ in 0..5 {
        for key in 0..20_000 {
            cache.request(key, CLASS);
        }
    }
    for _ in 0..1000 {
        let before = cache.cells.steps.get();
        assert!(cache.evict(CLASS));
        let steps = cache.cells.steps.get() - before;
        assert!(steps <= 128, "{steps} steps");
    }
}

/// Two bytes an item, and nothing before the first eviction.
#[test]
fn ghosts_take_two_bytes_an_item() {
    let mut cache = PlainCache::new(Eviction::ClockPro, 100_000, 1);
    let empty = cache.policy.bytes();
    for key in 0..100_000 {
        cache.request(key, CLASS);
    }
    assert_eq!(cache.policy.bytes(), empty);
    for key in 100_000..400_000 {
        cache.request(key, CLASS);
    }
    let bytes = cache.policy.bytes() - empty;
    assert!((200_000..215_000).contains(&bytes), "{bytes} bytes");
}

/// Ghost hits tell which class would gain from more memory.
#[test]
fn ghost_hits_name_the_class_that_lacks_memory() {
    let mut cache = PlainCache::new(Eviction::ClockPro, 1000, 1);
    let mut random = Random(5);
    for unseen in 0..50_000 {
        cache.request(random.below(700), ClassId(1));
        cache.request(1 << 32 | unseen, ClassId(2));
    }
    assert!(cache.policy.ghost_hits(ClassId(1)) > 100);
    assert_eq!(cache.policy.ghost_hits(ClassId(3)), 0);
    let before = cache.policy.ghost_hits(ClassId(1));
    cache.policy.decay_ghost_hits();
    assert_eq!(cache.policy.ghost_hits(ClassId(1)), before / 2);
}
