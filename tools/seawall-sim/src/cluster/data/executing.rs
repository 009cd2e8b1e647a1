//! What a request does to the shard, and when it is answered.

use super::{Answer, Core, Done, Op, Origin, Request, Store, Turn};
use crate::cluster::hub::Event;
use crate::cluster::wire;
use cluster::replication::Ticket;
use engine::{Delete, DeleteOutcome, Expiry, KeyHash, Now, Shard, Tag, Value, Write, WriteOutcome};
use std::num::NonZeroU64;
use std::sync::Arc;

impl Core {
    pub(super) fn execute(&mut self, request: Request, turn: &mut Turn<'_>) {
        let Request { origin, key, hash, op } = request;
        let keys = Arc::clone(&self.keys);
        let key = keys.name(key).as_bytes();
        let before = self.shard.changes();
        let pending = self.replicator.is_pending(hash);
        let answer = execute(&mut self.shard, key, hash, op, turn.now);
        let changed = self.shard.changes() != before;
        if turn.watch == Some(request.key) {
            let acts = self.replicator.topology().revision().0;
            let waits = if pending { ", behind its last write" } else { "" };
            self.say(turn, &format!("{op:?}: {answer:?} for {origin:?}, acts under {acts}{waits}"));
        }
        let topology = self.replicator.topology();
        let partition = topology.ring().of(hash);
        let epoch = topology.owners(partition).epoch;
        // A read may have come across what has expired.
        let acknowledges = (changed && op != Op::Get).then_some((partition.0, epoch.0));
        let number = self.pass.len() as u32;
        if changed {
            let (shard, now, clock) = (&mut self.shard, turn.now, turn.clock);
            self.replicator.wrote(key, hash, number, shard, now, clock);
        } else if pending {
            self.replicator.reads(hash, number, turn.clock);
        }
        self.pass.push(Done { origin, answer, epoch: epoch.0, acknowledges });
    }

    /// The lease ended while this turn executed: who asked gets no answer.
    pub(super) fn drop_answers(&mut self, ticket: Option<Ticket>) {
        let waiting = ticket.and_then(|ticket| self.tickets.get_mut(&ticket));
        for done in self.done.iter_mut().chain(waiting.into_iter().flatten()) {
            done.answer = Answer::Unknown;
            done.acknowledges = None;
        }
    }

    pub(super) fn answer(&mut self, turn: &mut Turn<'_>) {
        for Done { origin, answer, epoch, acknowledges } in std::mem::take(&mut self.done) {
            turn.acknowledged.extend(acknowledges);
            match origin {
                Origin::Client { client, operation } => {
                    let late = turn.hub.random.between(30, 300);
                    turn.hub.after(late, Event::Answer { client, operation, answer, epoch });
                }
                Origin::Link { peer, link, id } => {
                    let Some(own) = self.ins.get_mut(&peer).filter(|own| own.link == link) else {
                        continue;
                    };
                    let mut bytes = Vec::new();
                    wire::put_answer(id, answer, epoch, &mut bytes);
                    wire::put_frame(wire::ANSWERS, &bytes, &mut own.out);
                }
            }
        }
    }
}

/// Executes one request on the shard.
fn execute(shard: &mut Shard, key: &[u8], hash: KeyHash, op: Op, now: Now) -> Answer {
    match op {
        Op::Get => {
            let read = shard.get(key, hash, now).map(|item| {
                let mut value = Vec::new();
                item.copy_value_to(&mut value);
                let number = value.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                (number, item.cas)
            });
            Answer::Value(read)
        }
        Op::Set(store) => write(shard, key, hash, store, None, now),
        Op::Cas { store, compare } => write(shard, key, hash, store, Some(compare), now),
        Op::Delete => match shard.delete(key, hash, now, &Delete::default()) {
            DeleteOutcome::Deleted { .. } | DeleteOutcome::NotFound => Answer::Deleted,
            _ => Answer::Unknown,
        },
    }
}

fn write(
    shard: &mut Shard,
    key: &[u8],
    hash: KeyHash,
    store: Store,
    compare: Option<u64>,
    now: Now,
) -> Answer {
    let mut bytes = store.value.to_le_bytes().to_vec();
    bytes.resize(8 + usize::from(store.padding), 0);
    let tag = NonZeroU64::new(u64::from(store.tag)).map(Tag);
    let expiry = match store.ttl_ms {
        0 => Expiry::NEVER,
        ttl_ms => Expiry(now.0 + u64::from(ttl_ms)),
    };
    let set = Write::set(key, hash, Value::Bytes(&bytes));
    match shard.write(Write { compare, expiry, tags: tag.as_slice(), ..set }, now) {
        Ok(WriteOutcome::Stored { .. }) => Answer::Stored,
        _ => Answer::NotStored,
    }
}
