//! Tells the watchers and the counters of prefixes what came of a request. This
//! happens on the core of the client's connection, wherever the request was
//! executed.

use crate::core::Shared;
use crate::detail::Detail;
use crate::proto::Reply;
use crate::reply::ReplyTo;
use crate::stats::CoreStats;
use crate::watch::{Found, StoreCommand, StoreStatus, WatchLog};
use engine::{Expiry, Now, Outcome, Refusal, Verb, WriteMode, WriteOptions};
use std::sync::atomic::Ordering;

/// What a core has for those who watch a connection's requests.
pub(crate) struct Observer<'a> {
    pub core: u32,
    /// Of the connection.
    pub slot: u32,
    pub now: Now,
    pub watch: &'a mut WatchLog,
    pub detail: &'a mut Detail,
    pub stats: &'a mut CoreStats,
    pub shared: &'a Shared,
}

impl Observer<'_> {
    /// Whether anybody wants to know of this end of a request.
    #[inline]
    fn is_needed(&self, verb: &Verb, outcome: &Outcome) -> bool {
        !self.watch.is_idle()
            || self.counts_prefixes()
            || matches!(outcome, Outcome::Refused(_))
            || matches!(verb, Verb::Inspect)
    }

    #[inline]
    fn counts_prefixes(&self) -> bool {
        self.shared.detail.load(Ordering::Relaxed)
    }

    fn delimiter(&self) -> u8 {
        self.shared.settings.prefix_delimiter
    }

    /// A request ended. `sent_bytes`: the length of the value that came with it.
    #[inline]
    pub fn ended(&mut self, verb: &Verb, to: &ReplyTo<'_>, sent_bytes: usize, outcome: &Outcome) {
        if self.is_needed(verb, outcome) {
            self.tell(verb, to, sent_bytes, outcome);
        }
    }

    #[cold]
    fn tell(&mut self, verb: &Verb, to: &ReplyTo<'_>, sent_bytes: usize, outcome: &Outcome) {
        self.watch.serve(self.core, self.slot);
        match (verb, outcome) {
            (_, Outcome::Failed(_)) => {}
            (Verb::Get | Verb::Read(_), _) => self.read(to.key, outcome),
            (Verb::Write(options), _) => self.write(to.key, options, sent_bytes, outcome),
            (Verb::Delete(_), _) => self.delete(to, outcome),
            (Verb::Inspect, _) => self.stats.cmd_meta += 1,
            (Verb::Refuse { why, .. }, _) => self.refused(to.key, *why),
            (Verb::Touch(_) | Verb::Arithmetic(_), _) => {}
        }
    }

    fn read(&mut self, key: &[u8], outcome: &Outcome) {
        if self.watch.fetchers() {
            let (found, value_bytes) = match outcome {
                Outcome::Found(found) => (Found::Yes(found.class), found.value_bytes),
                _ => (Found::No, 0),
            };
            self.watch.item_get(self.now, key, found, value_bytes);
        }
        if self.counts_prefixes() {
            let hit = matches!(outcome, Outcome::Found(_));
            self.detail.get(key, self.delimiter(), hit);
        }
    }

    fn write(&mut self, key: &[u8], options: &WriteOptions, sent_bytes: usize, outcome: &Outcome) {
        if self.counts_prefixes() {
            self.detail.set(key, self.delimiter());
        }
        if self.watch.mutations() {
            self.tell_write(key, options, sent_bytes, outcome);
        }
        if let Outcome::Refused(why) = outcome {
            self.count_refusal(*why);
        }
    }

    /// What was stored is shown as it is now, so that an append shows the whole
    /// value and the expiry that it kept; what was not, as it came.
    fn tell_write(
        &mut self,
        key: &[u8],
        options: &WriteOptions,
        sent_bytes: usize,
        outcome: &Outcome,
    ) {
        let (status, shown_bytes, expiry, class) = match *outcome {
            Outcome::Stored { value_bytes, expiry, class, .. } => {
                (StoreStatus::Stored, value_bytes as usize, expiry, Some(class))
            }
            Outcome::Exists => (StoreStatus::Exists, sent_bytes, options.expiry, None),
            Outcome::NotFound => (StoreStatus::NotFound, sent_bytes, options.expiry, None),
            Outcome::Refused(why) => (status(why), sent_bytes, options.expiry, None),
            _ => (StoreStatus::NotStored, sent_bytes, options.expiry, None),
        };
        let command = StoreCommand::of(options.mode, options.compare.is_some());
        // Seconds left, 0 for ever.
        let ttl_seconds = match expiry {
            Expiry::NEVER => 0,
            expiry => (expiry.0 / 1000).saturating_sub(self.now.seconds()),
        };
        self.watch.item_store(self.now, key, status, command, shown_bytes, ttl_seconds, class);
    }

    fn delete(&mut self, to: &ReplyTo<'_>, outcome: &Outcome) {
        let (command, counts) = match to.reply {
            // What is only marked stale is still there.
            Reply::Meta(reply) if reply.stale => return,
            Reply::Meta(_) => ("md", false),
            _ => ("delete", true),
        };
        if counts && self.counts_prefixes() {
            self.detail.delete(to.key, self.delimiter());
        }
        if let Outcome::Deleted { class, value_bytes } = outcome
            && self.watch.deletions()
        {
            self.watch.item_deleted(self.now, to.key, command, *class, *value_bytes);
        }
    }

    /// A store was refused before its value came.
    pub fn refused(&mut self, key: &[u8], why: Refusal) {
        self.watch.serve(self.core, self.slot);
        self.count_refusal(why);
        if self.watch.mutations() {
            let command = StoreCommand::of(WriteMode::Set, false);
            self.watch.item_store(self.now, key, status(why), command, 0, 0, None);
        }
    }

    fn count_refusal(&mut self, why: Refusal) {
        match why {
            Refusal::TooLarge => self.stats.store_too_large += 1,
            Refusal::OutOfMemory => self.stats.store_no_memory += 1,
        }
    }
}

fn status(why: Refusal) -> StoreStatus {
    match why {
        Refusal::TooLarge => StoreStatus::TooLarge,
        Refusal::OutOfMemory => StoreStatus::NoMemory,
    }
}
