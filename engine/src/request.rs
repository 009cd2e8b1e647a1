//! A request about one key, without the protocol that it came by: a [`Verb`]
//! says what is asked, an [`Outcome`] what came of it.
//!
//! Codecs turn bytes into verbs and outcomes into bytes. What lies between may
//! carry both to another core or node, and never needs to know the protocol.

use crate::chain::{Found, Item, Reservation};
use crate::{
    Arithmetic, ArithmeticOutcome, ClassId, Delete, DeleteOutcome, Expiry, Inspection, KeyHash,
    Now, ReadOptions, Shard, StoreError, TAGS_MAX, Tag, Value, Write, WriteMode, WriteOutcome,
};
use core::num::NonZeroU64;
use serde::{Deserialize, Serialize};

/// What a request asks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Verb {
    /// Read the item.
    Get,
    /// Read, and touch, or take part in refilling the item.
    Read(ReadOptions),
    /// Store the request's value.
    Write(WriteOptions),
    /// Delete, or mark stale.
    Delete(Delete),
    /// Set the expiry.
    Touch(Expiry),
    /// Count up or down.
    Arithmetic(Arithmetic),
    /// Show everything about the item, and leave it as it is.
    Inspect,
    /// A store that was refused before its value came.
    Refuse {
        /// Why it is refused.
        why: Refusal,
        /// Remove the item that is there: no reader shall find what its writer meant
        /// to replace.
        unlink: bool,
    },
}

/// The scalars of a store.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WriteOptions {
    /// How it treats what is there.
    pub mode: WriteMode,
    /// Client flags.
    pub client_flags: u32,
    /// When the item expires.
    pub expiry: Expiry,
    /// See [`Write::compare`].
    pub compare: Option<u64>,
    /// See [`Write::invalidate_older`].
    pub invalidate_older: bool,
    /// See [`Write::new_cas`].
    pub new_cas: Option<u64>,
    /// See [`Write::vivify`].
    pub vivify: Option<Expiry>,
    /// See [`Write::binary_key`].
    pub binary_key: bool,
    /// Remove the old item if the new one is refused for its size or for memory.
    pub unlink_if_refused: bool,
}

impl WriteOptions {
    /// A classic store: `set` removes the old item if it is refused, the others keep it.
    #[inline]
    pub const fn classic(
        mode: WriteMode,
        client_flags: u32,
        expiry: Expiry,
        compare: Option<u64>,
    ) -> WriteOptions {
        WriteOptions {
            mode,
            client_flags,
            expiry,
            compare,
            invalidate_older: false,
            new_cas: None,
            vivify: None,
            binary_key: false,
            unlink_if_refused: matches!(mode, WriteMode::Set),
        }
    }
}

/// A request about one key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is asked.
    pub verb: Verb,
    /// The key.
    pub key: &'a [u8],
    /// Names of the tags of a store, with commas between.
    pub tags: &'a [u8],
    /// The value of a store.
    pub value: &'a [u8],
}

/// Where in a cluster a request may execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// At any copy of the item.
    Copy,
    /// At any copy, if that shows that nothing would change: it holds no item of
    /// the key, or one that is neither stale nor somebody's to refill.
    Unmarked,
    /// Where the key may be changed: it may change the item, or hand out the
    /// right to refill it.
    Primary,
}

impl Verb {
    /// Where it may execute.
    #[inline]
    pub fn needs(&self) -> Needs {
        match self {
            Verb::Get | Verb::Inspect => Needs::Copy,
            // When and whether an item was read before is known where it was read.
            Verb::Read(options) if options.is_plain() && !options.history => Needs::Unmarked,
            _ => Needs::Primary,
        }
    }

    /// Whether it may be asked again at another copy when its answer was lost.
    /// What it may leave behind is at most that the item counts as read, or as
    /// being refilled by somebody whose node is gone.
    pub fn may_be_repeated(&self) -> bool {
        match self {
            Verb::Get | Verb::Inspect => true,
            Verb::Read(options) => options.is_plain(),
            _ => false,
        }
    }
}

/// Why a store is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Longer than `-I` allows.
    TooLarge,
    /// No memory could be freed for it.
    OutOfMemory,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        match error {
            StoreError::TooLarge { .. } => Refusal::TooLarge,
            StoreError::OutOfMemory { .. } => Refusal::OutOfMemory,
        }
    }
}

/// Why a cluster did not execute a request, or cannot say what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The node that executed it was lost before the write was safe.
    Unknown,
    /// No node took it in time.
    Nobody,
    /// The node has been without a lease for too long.
    NoMajority,
    /// The write has fewer in-sync copies than it needs.
    TooFewCopies,
}

impl Failure {
    /// The text behind `SERVER_ERROR`.
    pub const fn text(self) -> &'static str {
        match self {
            Failure::Unknown => "the outcome is unknown: the node that took it was lost",
            Failure::Nobody => "no node takes this key now",
            Failure::NoMajority => "this node cannot reach the cluster's majority",
            Failure::TooFewCopies => "too few copies of this key are in sync for a write",
        }
    }
}

/// What came of a request. The value of what was found goes along beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// An item.
    Found(Found),
    /// A read found nothing.
    Missing,
    /// The value is stored.
    Stored {
        /// CAS unique of the stored item.
        cas: u64,
        /// Length of its value, what it was extended by included.
        value_bytes: u32,
        /// Its expiry.
        expiry: Expiry,
        /// Its size class.
        class: ClassId,
    },
    /// The mode's condition did not hold.
    NotStored,
    /// The CAS differs.
    Exists,
    /// There is no such item.
    NotFound,
    /// Removed, or marked stale.
    Deleted {
        /// Size class of the item.
        class: ClassId,
        /// Length of its value.
        value_bytes: u32,
    },
    /// The item has its new expiry.
    Touched,
    /// The number was changed, or created.
    Number {
        /// The number now.
        value: u64,
        /// CAS unique of the item now.
        cas: u64,
        /// Its expiry.
        expiry: Expiry,
        /// Its expiry before; never for an item that was created.
        expiry_before: Expiry,
        /// It was created.
        created: bool,
    },
    /// The value is not a number.
    NotNumeric,
    /// The store was refused.
    Refused(Refusal),
    /// The cluster did not execute it, or cannot say what became of it.
    Failed(Failure),
}

/// What a look at an item showed.
fn found_in(seen: &Inspection<'_>) -> Found {
    Found {
        idle_seconds: seen.idle_seconds,
        stale: seen.stale,
        token_sent: seen.token_sent,
        hit_before: seen.fetched,
        with_value: false,
        ..seen.item.found
    }
}

/// The tags of a list of names with commas between; empty names are left out.
fn tags_of(names: &[u8], into: &mut [Tag; TAGS_MAX]) -> usize {
    let names = names.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    let mut count = 0;
    for name in names.take(TAGS_MAX) {
        into[count] = Tag::named(name);
        count += 1;
    }
    count
}

impl Shard {
    /// Executes a request, and hands what came of it to `then`. `reserved` holds the
    /// value of a store that came in pieces. The item goes along if its value does.
    #[inline]
    pub fn execute<R>(
        &mut self,
        request: &Request<'_>,
        hash: KeyHash,
        reserved: Option<Reservation>,
        now: Now,
        then: impl FnOnce(&Outcome, Option<&Item<'_>>) -> R,
    ) -> R {
        // `then` is called in one place, so that it is compiled into that place, and the
        // parts are no tuple, so that they are not copied.
        let (got, read, seen);
        let outcome;
        let mut item = None;
        match &request.verb {
            Verb::Get => {
                got = self.get(request.key, hash, now);
                item = got.as_ref();
                outcome = item.map_or(Outcome::Missing, |item| Outcome::Found(item.found));
            }
            Verb::Read(options) => {
                // Without memory for the item that it would create, a read is a miss.
                read = self.read(request.key, hash, now, options);
                let found = read.as_ref().ok().and_then(Option::as_ref);
                item = found.filter(|item| item.with_value);
                outcome = found.map_or(Outcome::Missing, |item| Outcome::Found(item.found));
            }
            Verb::Inspect => {
                seen = self.inspect(request.key, hash, now);
                let found = seen.as_ref().map(found_in);
                outcome = found.map_or(Outcome::Missing, Outcome::Found);
            }
            _ => outcome = self.execute_change(request, hash, reserved, now),
        }
        then(&outcome, item)
    }

    /// A request that does not read.
    fn execute_change(
        &mut self,
        request: &Request<'_>,
        hash: KeyHash,
        reserved: Option<Reservation>,
        now: Now,
    ) -> Outcome {
        let key = request.key;
        match &request.verb {
            Verb::Write(options) => self.execute_write(request, hash, options, reserved, now),
            Verb::Delete(options) => match self.delete(key, hash, now, options) {
                DeleteOutcome::Deleted { class, value_bytes } => {
                    Outcome::Deleted { class, value_bytes }
                }
                DeleteOutcome::Exists => Outcome::Exists,
                DeleteOutcome::NotFound => Outcome::NotFound,
            },
            Verb::Touch(expiry) => match self.touch(key, hash, now, *expiry) {
                true => Outcome::Touched,
                false => Outcome::NotFound,
            },
            Verb::Arithmetic(options) => self.execute_arithmetic(key, hash, options, now),
            Verb::Refuse { why, unlink } => {
                if *unlink {
                    self.unlink_key(key, hash, now);
                }
                Outcome::Refused(*why)
            }
            Verb::Get | Verb::Read(_) | Verb::Inspect => unreachable!("these read"),
        }
    }

    #[inline]
    fn execute_write(
        &mut self,
        request: &Request<'_>,
        hash: KeyHash,
        options: &WriteOptions,
        reserved: Option<Reservation>,
        now: Now,
    ) -> Outcome {
        let mut tags = [Tag(NonZeroU64::MIN); TAGS_MAX];
        let tag_count = match request.tags.is_empty() {
            true => 0,
            false => tags_of(request.tags, &mut tags),
        };
        let write = Write {
            mode: options.mode,
            key: request.key,
            hash,
            value: match reserved {
                Some(reservation) => Value::Reserved(reservation),
                None => Value::Bytes(request.value),
            },
            client_flags: options.client_flags,
            expiry: options.expiry,
            compare: options.compare,
            invalidate_older: options.invalidate_older,
            new_cas: options.new_cas,
            vivify: options.vivify,
            tags: &tags[..tag_count],
            binary_key: options.binary_key,
        };
        let extends = matches!(options.mode, WriteMode::Append | WriteMode::Prepend);
        match self.write(write, now) {
            Ok(WriteOutcome::Stored { cas, value_bytes, expiry, class }) => {
                Outcome::Stored { cas, value_bytes: value_bytes as u32, expiry, class }
            }
            Ok(WriteOutcome::NotStored) => Outcome::NotStored,
            Ok(WriteOutcome::Exists) => Outcome::Exists,
            // As in memcached, whatever keeps a value from being extended has one name.
            Ok(WriteOutcome::NotFound) | Err(_) if extends => Outcome::NotStored,
            Ok(WriteOutcome::NotFound) => Outcome::NotFound,
            Err(error) => {
                if options.unlink_if_refused {
                    self.unlink_key(request.key, hash, now);
                }
                Outcome::Refused(error.into())
            }
        }
    }

    fn execute_arithmetic(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        options: &Arithmetic,
        now: Now,
    ) -> Outcome {
        match self.arithmetic(key, hash, now, options) {
            Ok(ArithmeticOutcome::Number { value, cas, expiry, expiry_before, created }) => {
                Outcome::Number { value, cas, expiry, expiry_before, created }
            }
            Ok(ArithmeticOutcome::NotFound) => Outcome::NotFound,
            Ok(ArithmeticOutcome::Exists) => Outcome::Exists,
            Ok(ArithmeticOutcome::NotNumeric) => Outcome::NotNumeric,
            Err(error) => Outcome::Refused(error.into()),
        }
    }
}
