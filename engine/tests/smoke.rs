//! The verbs, one by one, on a small shard.

use engine::*;

fn config(eviction: Eviction, versions: bool, bytes: usize) -> ShardConfig {
    ShardConfig {
        eviction,
        versions,
        namespaces: vec!["user".into()],
        tag_generations_max: 100,
        ..ShardConfig::new(HashSeed::new(7), bytes)
    }
}

fn shard(eviction: Eviction, versions: bool, bytes: usize) -> Shard {
    Shard::new(config(eviction, versions, bytes), Arena::heap(bytes))
}

fn hash(key: &[u8]) -> KeyHash {
    KeyHash::of(key, &HashSeed::new(7))
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Write<'a> {
    Write::set(key, hash(key), Value::Bytes(value))
}

fn value_of(shard: &mut Shard, key: &[u8], now: Now) -> Option<Vec<u8>> {
    let item = shard.get(key, hash(key), now)?;
    let mut value = Vec::new();
    item.copy_value_to(&mut value);
    assert_eq!(value.len(), item.value_bytes as usize);
    assert_eq!(item.key, key);
    Some(value)
}

const NOW: Now = Now(1_700_000_000_000);

#[test]
fn set_get_delete() {
    for versions in [true, false] {
        let mut shard = shard(Eviction::ClockPro, versions, 4 << 20);
        for len in [0usize, 1, 10, 255, 256, 1000, 5000, 16000, 17000, 40000, 1 << 20] {
            let value: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
            shard.write(set(b"key", &value), NOW).unwrap();
            assert!(
                value_of(&mut shard, b"key", NOW).is_some_and(|got| got == value),
                "{len} bytes"
            );
        }
        assert!(matches!(
            shard.write(set(b"key", &vec![0; (1 << 20) + 1]), NOW),
            Err(StoreError::TooLarge { .. })
        ));
        let deleted = shard.delete(b"key", hash(b"key"), NOW, &Delete::default());
        assert!(matches!(deleted, DeleteOutcome::Deleted { value_bytes: 1048576, .. }));
        assert_eq!(value_of(&mut shard, b"key", NOW), None);
    }
}

#[test]
fn filling_evicts_and_never_exceeds_memory() {
    for eviction in [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo] {
        for bytes in [256 << 10, 1 << 20, 8 << 20] {
            let mut shard = shard(eviction, true, bytes);
            let mut kept = 0;
            for number in 0..60_000u64 {
                let key = format!("key-{number}");
                let value = vec![number as u8; (number * 37 % 900) as usize];
                shard
                    .write(set(key.as_bytes(), &value), NOW)
                    .unwrap_or_else(|error| panic!("{eviction:?} {bytes} {number} {error:?}"));
                assert_eq!(value_of(&mut shard, key.as_bytes(), NOW), Some(value));
            }
            for number in 0..60_000u64 {
                kept += u64::from(
                    value_of(&mut shard, format!("key-{number}").as_bytes(), NOW).is_some(),
                );
            }
            println!("{eviction:?} {bytes}: kept {kept}");
            assert!(kept > 20, "{eviction:?} {bytes}: kept {kept}");
        }
    }
}

#[test]
fn counting_and_appending() {
    let mut shard = shard(Eviction::ClockPro, true, 4 << 20);
    shard.write(set(b"n", b"10"), NOW).unwrap();
    let down = Arithmetic {
        delta: 1,
        decrement: true,
        compare: None,
        create: None,
        touch: None,
        new_cas: None,
        binary_key: false,
    };
    assert!(matches!(
        shard.arithmetic(b"n", hash(b"n"), NOW, &down).unwrap(),
        ArithmeticOutcome::Number { value: 9, .. }
    ));
    assert_eq!(value_of(&mut shard, b"n", NOW).unwrap(), b"9 ");
    let up = Arithmetic { delta: 99_999, decrement: false, ..down };
    shard.arithmetic(b"n", hash(b"n"), NOW, &up).unwrap();
    assert_eq!(value_of(&mut shard, b"n", NOW).unwrap(), b"100008");
    shard.write(Write { mode: WriteMode::Append, ..set(b"n", b"xyz") }, NOW).unwrap();
    shard.write(Write { mode: WriteMode::Prepend, ..set(b"n", b"ab") }, NOW).unwrap();
    assert_eq!(value_of(&mut shard, b"n", NOW).unwrap(), b"ab100008xyz");
    let long = vec![b'q'; 30_000];
    shard.write(Write { mode: WriteMode::Append, ..set(b"n", &long) }, NOW).unwrap();
    let value = value_of(&mut shard, b"n", NOW).unwrap();
    assert_eq!(value.len(), 30_011);
    assert!(value.starts_with(b"ab100008xyzqq"));
    shard.touch(b"n", hash(b"n"), NOW, Expiry(NOW.0 + 5000));
    assert!(value_of(&mut shard, b"n", Now(NOW.0 + 4999)).is_some());
    assert_eq!(value_of(&mut shard, b"n", Now(NOW.0 + 5000)), None);
}

#[test]
fn reservations_and_pins() {
    let mut shard = shard(Eviction::ClockPro, true, 4 << 20);
    let mut reservation = shard.reserve(b"big", 100_000, NOW).unwrap();
    let bytes: Vec<u8> = (0..100_000usize).map(|at| (at % 253) as u8).collect();
    let mut at = 0;
    while reservation.missing() > 0 {
        at += reservation.fill(&bytes[at..(at + 777).min(bytes.len())]);
    }
    shard.write(Write { value: Value::Reserved(reservation), ..set(b"big", b"") }, NOW).unwrap();
    let pin = shard.pin(b"big", hash(b"big"), NOW).unwrap();
    shard.write(set(b"big", b"small"), NOW).unwrap();
    for number in 0..20_000 {
        shard.write(set(format!("k{number}").as_bytes(), &[1; 500]), NOW).unwrap();
    }
    let mut out = Vec::new();
    for offset in (0..100_000).step_by(1000) {
        pin.copy_to(offset, 1000, &mut out);
    }
    assert!(out == bytes);
    shard.unpin(pin);
    let reservation = shard.reserve(b"big", 100_000, NOW).unwrap();
    shard.abort(reservation);
}

#[test]
fn flush_and_invalidation() {
    for versions in [true, false] {
        let mut shard = shard(Eviction::ClockPro, versions, 4 << 20);
        let tag = Tag(9.try_into().unwrap());
        shard.write(Write { tags: &[tag], ..set(b"tagged", b"1") }, NOW).unwrap();
        shard.write(set(b"user:1", b"1"), NOW).unwrap();
        shard.write(set(b"other", b"1"), NOW).unwrap();
        shard.invalidate_tag(tag, NOW);
        assert_eq!(value_of(&mut shard, b"tagged", NOW), None);
        shard.invalidate_namespace(b"user", NOW).unwrap();
        assert_eq!(value_of(&mut shard, b"user:1", NOW), None);
        assert!(value_of(&mut shard, b"other", NOW).is_some());
        shard.flush(Now(NOW.0 + 2000), NOW);
        shard.write(Write { tags: &[tag], ..set(b"tagged", b"2") }, NOW).unwrap();
        assert!(value_of(&mut shard, b"tagged", Now(NOW.0 + 1999)).is_some());
        assert_eq!(value_of(&mut shard, b"tagged", Now(NOW.0 + 2000)), None);
        assert_eq!(value_of(&mut shard, b"other", Now(NOW.0 + 2000)), None);
        shard.write(set(b"other", b"3"), Now(NOW.0 + 2000)).unwrap();
        assert!(value_of(&mut shard, b"other", Now(NOW.0 + 2000)).is_some());
    }
}

#[test]
fn leases() {
    let mut shard = shard(Eviction::ClockPro, true, 4 << 20);
    let key = b"leased";
    let vivify = ReadOptions { vivify: Some(Expiry(NOW.0 + 30_000)), ..ReadOptions::default() };
    let read = shard.read(key, hash(key), NOW, &vivify).unwrap().unwrap();
    assert!(read.won && read.vivified && !read.stale && !read.token_sent);
    let read = shard.read(key, hash(key), NOW, &vivify).unwrap().unwrap();
    assert!(!read.won && !read.vivified && read.token_sent);
    let cas = read.cas;
    let stale =
        Delete { invalidate: true, expiry: Some(Expiry(NOW.0 + 60_000)), ..Delete::default() };
    let deleted = shard.delete(key, hash(key), NOW, &stale);
    assert!(matches!(deleted, DeleteOutcome::Deleted { .. }));
    let read = shard.read(key, hash(key), NOW, &ReadOptions::default()).unwrap().unwrap();
    assert!(read.won && read.stale && !read.token_sent && read.cas > cas);
    let read = shard.read(key, hash(key), NOW, &ReadOptions::default()).unwrap().unwrap();
    assert!(!read.won && read.stale && read.token_sent);
    let late = Write { compare: Some(cas), invalidate_older: true, ..set(key, b"late") };
    assert!(matches!(shard.write(late, NOW), Ok(WriteOutcome::Stored { .. })));
    let read = shard.read(key, hash(key), NOW, &ReadOptions::default()).unwrap().unwrap();
    assert!(read.stale && read.token_sent && read.head == b"late");
    shard.write(set(key, b"fresh"), NOW).unwrap();
    let read = shard.read(key, hash(key), NOW, &ReadOptions::default()).unwrap().unwrap();
    assert!(!read.stale && !read.token_sent && !read.won);
}

#[test]
fn a_walk_restores_everything_elsewhere() {
    for versions in [true, false] {
        let mut from = shard(Eviction::ClockPro, versions, 8 << 20);
        let mut to = shard(Eviction::Lru, versions, 8 << 20);
        let tag = Tag(9.try_into().unwrap());
        for number in 0..5000u32 {
            let key = format!("key-{number}");
            let value = vec![number as u8; (number as usize * 13) % 700];
            let tags = [tag];
            from.write(
                Write {
                    client_flags: number % 3,
                    tags: &tags[..(number % 2) as usize],
                    expiry: if number % 5 == 0 { Expiry(NOW.0 + 1250) } else { Expiry::NEVER },
                    ..set(key.as_bytes(), &value)
                },
                NOW,
            )
            .unwrap();
        }
        let long = vec![3; 200_000];
        from.write(set(b"long", &long), NOW).unwrap();
        let mut cursor = ScanCursor::default();
        let mut keys = Vec::new();
        while !cursor.is_done() {
            let mut longs = Vec::new();
            let limits = ScanLimits { items: 100, bytes: 10_000 };
            from.scan(&mut cursor, limits, NOW, &mut |record| {
                keys.push(record.key.to_vec());
                match record.value {
                    RecordValue::Inline(_) => assert!(to.restore(record, None, NOW).unwrap()),
                    RecordValue::Elsewhere => longs.push((record.key.to_vec(), record.version)),
                }
            });
            for (key, version) in longs {
                let pin = from.pin(&key, hash(&key), NOW).unwrap();
                let mut reservation = to.reserve(&key, pin.value_bytes(), NOW).unwrap();
                while reservation.missing() > 0 {
                    let at = reservation.value_bytes() - reservation.missing();
                    reservation.fill(pin.piece(at));
                }
                let record = Record {
                    key: &key,
                    value_bytes: pin.value_bytes() as u32,
                    value: RecordValue::Elsewhere,
                    client_flags: 0,
                    expiry: Expiry::NEVER,
                    version,
                    explicit_cas: None,
                    tags: TagBytes::default(),
                    stale: false,
                    token_sent: false,
                    fetched: false,
                    binary_key: false,
                };
                from.unpin(pin);
                assert!(to.restore(&record, Some(reservation), NOW).unwrap());
            }
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 5001);
        for generation in from.generations() {
            to.merge_generation(generation);
        }
        for key in &keys {
            let (a, b) =
                (from.peek(key, hash(key), NOW).unwrap(), to.peek(key, hash(key), NOW).unwrap());
            assert_eq!(
                (a.value_bytes, a.client_flags, a.expiry, a.cas),
                (b.value_bytes, b.client_flags, b.expiry, b.cas)
            );
            let (mut value_a, mut value_b) = (Vec::new(), Vec::new());
            a.copy_value_to(&mut value_a);
            b.copy_value_to(&mut value_b);
            assert!(value_a == value_b);
        }
        to.invalidate_tag(tag, NOW);
        assert!(to.peek(b"key-1", hash(b"key-1"), NOW).is_none());
        assert!(to.peek(b"key-2", hash(b"key-2"), NOW).is_some());
    }
}

#[test]
fn expired_items_go_without_being_asked_for() {
    for versions in [true, false] {
        let mut shard = shard(Eviction::ClockPro, versions, 16 << 20);
        for number in 0..50_000u64 {
            let key = format!("key-{number}");
            let expiry = Expiry(NOW.0 + 1000 + number % 60_000);
            shard.write(Write { expiry, ..set(key.as_bytes(), &[1; 50]) }, NOW).unwrap();
        }
        shard.write(set(b"stays", b"1"), NOW).unwrap();
        let mut now = NOW;
        for _ in 0..70_000 / 5 {
            now.0 += 5;
            shard.maintain(now);
        }
        // Nothing is owed longer than an eighth of a page.
        assert!(shard.len() < 200, "{} left", shard.len());
        assert!(shard.stats().counters.swept > 49_000);
        for _ in 0..1000 {
            now.0 += 100;
            shard.maintain(now);
        }
        assert_eq!(shard.len(), 1);
        assert!(value_of(&mut shard, b"stays", now).is_some());
    }
}

/// Memory that one size had taken must serve the next size as well as a fresh
/// cache would, and back.
#[test]
fn pages_follow_the_sizes() {
    // A skewed draw: the square of an even one.
    let draw = |state: &mut u64, keys: u64| {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let even = (*state >> 33) as f64 / (1u64 << 31) as f64;
        (even * even * keys as f64) as u64
    };
    let phase = |shard: &mut Shard,
                 state: &mut u64,
                 name: &str,
                 keys: u64,
                 len: usize,
                 requests: u64,
                 now: &mut Now| {
        let value = vec![7; len];
        let mut hits = 0;
        for request in 0..requests {
            let key = format!("{name}{}", draw(state, keys));
            if shard.get(key.as_bytes(), hash(key.as_bytes()), *now).is_some() {
                hits += u64::from(request >= requests / 2);
            } else {
                shard.write(set(key.as_bytes(), &value), *now).unwrap();
            }
            if request % 100 == 0 {
                now.0 += 1;
                shard.maintain(*now);
            }
        }
        hits as f64 / (requests / 2) as f64
    };
    for eviction in [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo] {
        let (mut state, mut now) = (5, NOW);
        let mut shifted = shard(eviction, true, 16 << 20);
        phase(&mut shifted, &mut state, "a", 200_000, 100, 400_000, &mut now);
        let large = phase(&mut shifted, &mut state, "b", 30_000, 1000, 200_000, &mut now);
        let small = phase(&mut shifted, &mut state, "c", 200_000, 100, 800_000, &mut now);
        let mut fresh = shard(eviction, true, 16 << 20);
        let large_fresh = phase(&mut fresh, &mut state, "b", 30_000, 1000, 200_000, &mut now);
        let mut fresh = shard(eviction, true, 16 << 20);
        let small_fresh = phase(&mut fresh, &mut state, "c", 200_000, 100, 800_000, &mut now);
        println!(
            "{eviction:?}: 1 KiB {large:.3} fresh {large_fresh:.3}, 100 B {small:.3} fresh {small_fresh:.3}"
        );
        assert!(
            large > large_fresh - 0.02 && small > small_fresh - 0.02,
            "{eviction:?}: {large:.4} of {large_fresh:.4}, {small:.4} of {small_fresh:.4}"
        );
    }
}

#[test]
fn evictions_are_told_to_who_asked_and_to_nobody_else() {
    for eviction in [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo] {
        let mut shard = shard(eviction, true, 1 << 20);
        let fill = |shard: &mut Shard, from: u32, now: Now| {
            for number in from..from + 5000 {
                let key = format!("key{number:06}");
                let write =
                    Write { expiry: Expiry(NOW.0 + 100_000), ..set(key.as_bytes(), &[7; 300]) };
                shard.write(write, now).unwrap();
            }
        };
        fill(&mut shard, 0, NOW);
        assert!(shard.stats().counters.evictions > 0);
        assert_eq!(shard.take_events(&mut |_| panic!("nobody asked")), 0);

        shard.keep_events(EventKinds { evictions: true, system: false });
        let before = shard.stats().counters.evictions;
        let later = Now(NOW.0 + 7_000);
        fill(&mut shard, 5000, later);
        let evictions = shard.stats().counters.evictions - before;
        let mut told = 0;
        let dropped = shard.take_events(&mut |event| {
            let Event::Evicted(evicted) = event else { panic!("{event:?}") };
            assert!(evicted.key.starts_with(b"key") && evicted.key.len() == 9);
            assert_eq!((evicted.fetched, evicted.value_bytes), (false, 300));
            assert_eq!(evicted.ttl_seconds, Some(93));
            assert!(matches!(evicted.idle_seconds, 0 | 7));
            told += 1;
        });
        assert_eq!(told + dropped, evictions, "{eviction:?}");
        assert!(told > 1000);
    }
}

#[test]
fn a_sweep_and_a_moved_page_are_told() {
    let mut shard = shard(Eviction::ClockPro, true, 1 << 20);
    shard.keep_events(EventKinds { evictions: false, system: true });
    for number in 0..500u32 {
        shard.write(set(&number.to_le_bytes(), &[1; 400]), NOW).unwrap();
    }
    shard.flush(NOW, NOW);
    let mut now = NOW;
    while shard.maintain(now) || now == NOW {
        now.0 += 1;
    }
    let mut swept = Vec::new();
    shard.take_events(&mut |event| {
        if let Event::Swept { examined, reclaimed, .. } = event {
            swept.push((examined, reclaimed));
        }
    });
    assert_eq!(swept, [(500, 500)]);

    // One class has all pages; another one needs some.
    for number in 0..5000u32 {
        shard.write(set(&number.to_le_bytes(), &[1; 400]), now).unwrap();
    }
    for number in 0..50u32 {
        shard.write(set(&number.to_be_bytes(), &[1; 4000]), now).unwrap();
    }
    let mut moved = 0;
    shard.take_events(&mut |event| moved += u32::from(matches!(event, Event::PageMoved { .. })));
    assert!(moved > 0);
}

#[test]
fn ages_are_those_of_who_leaves_next() {
    for eviction in
        [Eviction::ClockPro, Eviction::Lru, Eviction::Lfu, Eviction::S3Fifo, Eviction::None]
    {
        let mut shard = shard(eviction, true, 4 << 20);
        for number in 0..1000u32 {
            shard.write(set(&number.to_le_bytes(), &[1; 50]), NOW).unwrap();
        }
        let later = Now(NOW.0 + 5_000);
        shard.maintain(later);
        let ages = |shard: &Shard| {
            let mut sum = ClassStats::default();
            shard.class_stats().into_iter().for_each(|class| sum += class);
            (sum.age_seconds, sum.age_hot_seconds)
        };
        let (age, age_hot) = ages(&shard);
        assert_eq!(age, 5, "{eviction:?}");
        let has_hot = matches!(eviction, Eviction::ClockPro | Eviction::S3Fifo);
        assert_eq!(age_hot, if has_hot { 5 } else { 0 }, "{eviction:?}");
        // Written anew, nothing is old.
        for number in 0..1000u32 {
            shard.write(set(&number.to_le_bytes(), &[2; 50]), later).unwrap();
        }
        assert_eq!(ages(&shard), (0, 0), "{eviction:?}");
    }
}

/// The flush sequence of pages has 16 bits.
#[test]
fn a_flush_sequence_that_comes_around_revives_nothing() {
    let mut shard = shard(Eviction::ClockPro, false, 4 << 20);
    for round in 0..2 {
        shard.write(set(b"key", b"value"), NOW).unwrap();
        for _ in 0..1 << 16 {
            shard.flush(NOW, NOW);
        }
        assert_eq!(value_of(&mut shard, b"key", NOW), None, "round {round}");
    }
    shard.write(set(b"key", b"value"), NOW).unwrap();
    assert!(value_of(&mut shard, b"key", NOW).is_some());
    assert_eq!(shard.len(), 1);
}

/// With `-M` a limit that shrinks cannot be reached; asking for another slice
/// at once would have kept the core busy for ever.
#[test]
fn a_limit_that_cannot_be_reached_is_no_work_that_waits() {
    let mut shard = shard(Eviction::None, true, 4 << 20);
    for number in 0..20_000u32 {
        let _ = shard.write(set(&number.to_le_bytes(), &[1; 300]), NOW);
    }
    shard.set_memory_max(1 << 20);
    let mut now = NOW;
    for _ in 0..100 {
        now.0 += 1;
        shard.maintain(now);
    }
    now.0 += 1;
    assert!(!shard.maintain(now));
    // Where something may be evicted, it is reached.
    let mut shard = Shard::new(config(Eviction::ClockPro, true, 4 << 20), Arena::heap(4 << 20));
    for number in 0..20_000u32 {
        shard.write(set(&number.to_le_bytes(), &[1; 300]), NOW).unwrap();
    }
    shard.set_memory_max(1 << 20);
    while shard.maintain(now) {
        now.0 += 1;
    }
    assert!(shard.memory_bytes() <= 1 << 20);
}

/// An item counted four times was taken for one that nobody had asked for.
#[test]
fn pages_that_move_take_popular_items_along_under_lfu() {
    let mut shard = shard(Eviction::Lfu, true, 1 << 20);
    let mut count = 0u32;
    while shard.stats().gauges.pages_free > 0 {
        shard.write(set(&count.to_le_bytes(), &[1; 300]), NOW).unwrap();
        count += 1;
    }
    for number in (0..count).filter(|number| number % 4 != 0) {
        let key = number.to_le_bytes();
        shard.delete(&key, hash(&key), NOW, &Delete::default());
    }
    let kept: Vec<u32> = (0..count).step_by(4).collect();
    for number in &kept {
        for _ in 0..3 {
            assert!(value_of(&mut shard, &number.to_le_bytes(), NOW).is_some());
        }
    }
    // Each of these classes needs a page, and there is room for what lies in it.
    for bytes in [900, 1300, 1900, 2600, 3500, 4500, 5500, 7000] {
        shard.write(set(format!("{bytes}").as_bytes(), &vec![1; bytes]), NOW).unwrap();
    }
    let counters = shard.stats().counters;
    assert!(counters.slab_move_rescues > 0);
    assert_eq!(counters.slab_move_evictions, 0);
    for number in &kept {
        assert!(value_of(&mut shard, &number.to_le_bytes(), NOW).is_some(), "{number}");
    }
}

#[test]
fn what_has_expired_is_kept_for_as_long_as_it_is_said_to_be_unless_room_is_wanted() {
    let config =
        ShardConfig { expired_kept_ms: 2_000, ..ShardConfig::new(HashSeed::new(1), 4 << 20) };
    let mut shard = Shard::new(config, Arena::heap(4 << 20));
    let hash = shard.hash_of(b"key");
    let set = Write::set(b"key", hash, Value::Bytes(b"value"));
    shard.write(Write { expiry: Expiry(NOW.0 + 1_500), ..set }, NOW).unwrap();
    let turns = |shard: &mut Shard, ms: std::ops::Range<u64>| {
        for ms in ms.step_by(100) {
            shard.maintain(Now(NOW.0 + ms));
        }
    };
    turns(&mut shard, 0..3_400);
    let later = Now(NOW.0 + 3_400);
    assert!(matches!(shard.glance(b"key", hash, later), Glance::Expired));
    assert!(shard.peek(b"key", hash, NOW).is_some(), "by an earlier clock it is there");
    turns(&mut shard, 3_400..5_000);
    assert!(matches!(shard.glance(b"key", hash, later), Glance::Nothing));
}
