//! What has expired by the primary's clock of day is gone at the replicas, whatever
//! theirs say.

mod fixture;

use cluster::replication::Limits;
use engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteOutcome, Expiry, KeyHash, Now, ReadOptions, Shard,
    Value, Write, WriteMode, WriteOutcome,
};
use fixture::{Cluster, NOW};

/// Two nodes; the first leads, and its clock is ahead: by it, `key` has expired.
fn skewed() -> Cluster {
    let mut cluster = Cluster::new(2, Limits::default(), |_| vec![0, 1]);
    cluster.settle();
    let expiry = Expiry(NOW.0 + 1_000);
    cluster.execute("key", |shard, key, hash, now| {
        let set = Write::set(key, hash, Value::Bytes(b"7"));
        shard.write(Write { expiry, ..set }, now).unwrap()
    });
    cluster.settle();
    cluster.nodes[0].now = Now(NOW.0 + 1_100);
    cluster.nodes[1].now = Now(NOW.0 + 900);
    cluster.assert_holds(1, "key", Some("7"));
    cluster
}

/// A request that finds nothing says so when the replica does not have it either.
fn answers_as_gone(request: impl FnOnce(&mut Shard, &[u8], KeyHash, Now)) {
    let mut cluster = skewed();
    let ((), ticket) = cluster.execute("key", request);
    assert!(ticket.is_some() && !cluster.is_done(0, ticket), "the replica still has it");
    cluster.settle();
    assert!(cluster.is_done(0, ticket));
    cluster.assert_holds(1, "key", None);
}

fn refused(mode: WriteMode, compare: Option<u64>, outcome: WriteOutcome) {
    answers_as_gone(|shard, key, hash, now| {
        let write = Write { mode, compare, ..Write::set(key, hash, Value::Bytes(b"8")) };
        assert_eq!(shard.write(write, now), Ok(outcome));
    });
}

#[test]
fn whatever_finds_an_expired_item_takes_it_from_the_replicas_before_its_answer() {
    answers_as_gone(|shard, key, hash, now| {
        let deleted = shard.delete(key, hash, now, &Delete::default());
        assert_eq!(deleted, DeleteOutcome::NotFound);
    });
    answers_as_gone(|shard, key, hash, now| assert!(shard.get(key, hash, now).is_none()));
    answers_as_gone(|shard, key, hash, now| {
        let options = ReadOptions { touch: Some(Expiry::NEVER), ..ReadOptions::default() };
        assert!(shard.read(key, hash, now, &options).unwrap().is_none());
    });
    answers_as_gone(|shard, key, hash, now| {
        assert!(!shard.touch(key, hash, now, Expiry::NEVER));
    });
    answers_as_gone(|shard, key, hash, now| {
        let options = Arithmetic {
            delta: 1,
            decrement: false,
            compare: None,
            create: None,
            touch: None,
            new_cas: None,
            binary_key: false,
        };
        let counted = shard.arithmetic(key, hash, now, &options);
        assert_eq!(counted, Ok(ArithmeticOutcome::NotFound));
    });
    answers_as_gone(|shard, key, hash, now| assert!(shard.inspect(key, hash, now).is_none()));
    refused(WriteMode::Set, Some(5), WriteOutcome::NotFound);
    refused(WriteMode::Replace, None, WriteOutcome::NotStored);
    refused(WriteMode::Append, None, WriteOutcome::NotStored);
    refused(WriteMode::Prepend, None, WriteOutcome::NotStored);
}

#[test]
fn what_takes_the_place_of_an_expired_item_is_what_the_replicas_get() {
    let mut cluster = skewed();
    let (outcome, _) = cluster.execute("key", |shard, key, hash, now| {
        let set = Write::set(key, hash, Value::Bytes(b"8"));
        shard.write(Write { mode: WriteMode::Add, ..set }, now).unwrap()
    });
    assert!(matches!(outcome, WriteOutcome::Stored { .. }));
    cluster.settle();
    cluster.assert_holds(1, "key", Some("8"));
}

#[test]
fn a_miss_of_what_never_was_is_told_to_nobody() {
    let mut cluster = skewed();
    let logged = cluster.nodes[0].replicator.counters().logged;
    let delete = |shard: &mut Shard, key: &[u8], hash, now| {
        shard.delete(key, hash, now, &Delete::default());
    };
    assert_eq!(cluster.execute("nothing", delete), ((), None));
    cluster.execute("key", delete);
    cluster.settle();
    assert_eq!(cluster.execute("key", delete), ((), None), "it is gone everywhere");
    assert_eq!(cluster.nodes[0].replicator.counters().logged, logged + 1);
}

#[test]
fn a_read_at_a_replica_that_finds_an_expired_item_tells_nobody() {
    let mut cluster = skewed();
    cluster.nodes[0].now = Now(NOW.0 + 900);
    cluster.nodes[1].now = Now(NOW.0 + 1_100);
    let logged = cluster.nodes[1].replicator.counters().logged;
    let (found, ticket) =
        cluster.execute_at(1, "key", |shard, key, hash, now| shard.get(key, hash, now).is_some());
    assert_eq!((found, ticket), (false, None));
    cluster.settle();
    assert_eq!(cluster.nodes[1].replicator.counters().logged, logged);
    cluster.assert_holds(0, "key", Some("7"));
}
