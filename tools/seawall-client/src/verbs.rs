//! The verbs: each writes its request, and reads what the answer means.

use crate::Error;
use crate::counters::count;
use crate::execute::{Client, Kind};
use crate::load::NEGATIVE_FLAGS;
use crate::options::{CounterOptions, SetOptions};
use crate::protocol::{self, Answer, Code, Line, Request, Shape};
use bytes::Bytes;
use std::time::Duration;

/// An item as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// Its value.
    pub value: Bytes,
    /// The flags that it was stored with.
    pub flags: u32,
    /// What [`Client::cas`] compares; 0 from a node that keeps none (`-C`).
    pub cas: u64,
    /// It was marked stale: somebody should refill it.
    pub stale: bool,
    /// That somebody is this caller: nobody else is asked to.
    pub won: bool,
}

/// What became of a compared write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored; the new number to compare.
    Stored(u64),
    /// The item has changed since it was read.
    Exists,
    /// There is no such item any more.
    NotFound,
}

impl Client {
    /// The item, if there is one.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>, Error> {
        let key = key.as_ref();
        let request = get_request(key)?;
        let answer = self.ask(Some(key), request, Shape::Meta, Kind::Read).await?;
        self.item(answer)
    }

    /// Items by key, each at its place. The keys of one core travel together,
    /// and all cores are asked at once; what cannot be had fails alone.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Item>, Error>> {
        let mut requests = Vec::with_capacity(keys.len());
        let mut wrong = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            match get_request(key.as_ref()) {
                Ok(request) => requests.push((key.as_ref(), request)),
                Err(error) => wrong.push((place, error)),
            }
        }
        let answers = self.ask_many(requests).await;
        let mut items: Vec<_> = answers.into_iter().map(|answer| self.item(answer?)).collect();
        for (place, error) in wrong {
            items.insert(place, Err(error));
        }
        items
    }

    /// Stores; what [`Client::cas`] compares comes back.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &SetOptions,
    ) -> Result<u64, Error> {
        let answer = self.store(key.as_ref(), value.into(), options, "").await?;
        match answer.code {
            Code::Done => Ok(answer.number(b'c').unwrap_or(0)),
            _ => Err(unexpected(&answer)),
        }
    }

    /// Stores if there is nothing yet; whether it did.
    pub async fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &SetOptions,
    ) -> Result<bool, Error> {
        stored(&self.store(key.as_ref(), value.into(), options, "ME").await?)
    }

    /// Stores if there is something already; whether it did.
    pub async fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &SetOptions,
    ) -> Result<bool, Error> {
        stored(&self.store(key.as_ref(), value.into(), options, "MR").await?)
    }

    /// Adds to the end of a value that is there; whether there is one.
    pub async fn append(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<bool, Error> {
        let options = SetOptions::default();
        stored(&self.store(key.as_ref(), value.into(), &options, "MA").await?)
    }

    /// Adds to the front of a value that is there; whether there is one.
    pub async fn prepend(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<bool, Error> {
        let options = SetOptions::default();
        stored(&self.store(key.as_ref(), value.into(), &options, "MP").await?)
    }

    /// Stores if the item is still the one that was read with this `cas`.
    pub async fn cas(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        cas: u64,
        options: &SetOptions,
    ) -> Result<Stored, Error> {
        let compare = format!("C{cas}");
        let answer = self.store(key.as_ref(), value.into(), options, &compare).await?;
        match answer.code {
            Code::Done => Ok(Stored::Stored(answer.number(b'c').unwrap_or(0))),
            Code::Exists => Ok(Stored::Exists),
            Code::Missing => Ok(Stored::NotFound),
            _ => Err(unexpected(&answer)),
        }
    }

    /// Removes; whether there was something.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = key.as_ref();
        let request = Line::keyed("md", key)?.end(None)?;
        found(&self.ask(Some(key), request, Shape::Meta, Kind::Write).await?)
    }

    /// Marks stale instead of removing: the next reader wins the right to refill,
    /// the others are served the old value meanwhile.
    pub async fn mark_stale(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = key.as_ref();
        let request = Line::keyed("md", key)?.word("I").end(None)?;
        found(&self.ask(Some(key), request, Shape::Meta, Kind::Write).await?)
    }

    /// Counts up; the new number, none if there is none. It wraps at 2^64.
    pub async fn incr(
        &self,
        key: impl AsRef<[u8]>,
        delta: u64,
        options: &CounterOptions,
    ) -> Result<Option<u64>, Error> {
        self.arithmetic(key.as_ref(), delta, "MI", options).await
    }

    /// Counts down, not below 0; the new number, none if there is none.
    pub async fn decr(
        &self,
        key: impl AsRef<[u8]>,
        delta: u64,
        options: &CounterOptions,
    ) -> Result<Option<u64>, Error> {
        self.arithmetic(key.as_ref(), delta, "MD", options).await
    }

    /// Sets the time to live, none: for ever; whether there is such an item.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<bool, Error> {
        let key = key.as_ref();
        let request = touching(Line::keyed("mg", key)?, ttl).end(None)?;
        found(&self.ask(Some(key), request, Shape::Meta, Kind::Write).await?)
    }

    /// Reads, and sets the time to live. As it changes something it is not tried
    /// again when its outcome is unknown.
    pub async fn gat(
        &self,
        key: impl AsRef<[u8]>,
        ttl: Option<Duration>,
    ) -> Result<Option<Item>, Error> {
        let key = key.as_ref();
        let line = Line::keyed("mg", key)?.word("v f c");
        let answer =
            self.ask(Some(key), touching(line, ttl).end(None)?, Shape::Meta, Kind::Write).await?;
        self.item(answer)
    }

    /// Forgets everything that bears the tag, on all nodes, before it returns.
    /// Tried again like a read: twice does no more than once, a little later.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<(), Error> {
        self.invalidate("tag", tag).await.map(|_| ())
    }

    /// Forgets everything in the namespace; whether one of that name is
    /// configured.
    pub async fn invalidate_namespace(&self, namespace: &str) -> Result<bool, Error> {
        self.invalidate("ns", namespace).await.map(|known| known > 0)
    }

    /// Forgets everything, on all nodes, before it returns.
    pub async fn flush(&self) -> Result<(), Error> {
        let request = protocol::command("flush_all")?;
        let kind = Kind::Sweep { again: false };
        let answer = self.ask(None, request, Shape::Text, kind).await?;
        match &answer.line[..] {
            b"OK" => Ok(()),
            _ => Err(unexpected(&answer)),
        }
    }

    async fn invalidate(&self, what: &str, name: &str) -> Result<u64, Error> {
        protocol::name(name)?;
        let request = protocol::command(&format!("invalidate {what} {name}"))?;
        let kind = Kind::Sweep { again: true };
        let answer = self.ask(None, request, Shape::Text, kind).await?;
        let count = answer.line.strip_prefix(b"INVALIDATED ");
        let count = count.and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
        count.ok_or_else(|| unexpected(&answer))
    }

    async fn store(
        &self,
        key: &[u8],
        value: Bytes,
        options: &SetOptions,
        flag: &str,
    ) -> Result<Answer, Error> {
        let mut line = Line::keyed("ms", key)?.word(&value.len().to_string()).word("c");
        if options.flags != 0 {
            line = line.number('F', u64::from(options.flags));
        }
        if let Some(ttl) = options.ttl {
            line = line.time('T', ttl);
        }
        if !flag.is_empty() {
            line = line.word(flag);
        }
        let request = line.tags(&options.tags)?.end(Some(value))?;
        self.ask(Some(key), request, Shape::Meta, Kind::Write).await
    }

    async fn arithmetic(
        &self,
        key: &[u8],
        delta: u64,
        mode: &str,
        options: &CounterOptions,
    ) -> Result<Option<u64>, Error> {
        let mut line = Line::keyed("ma", key)?.word("v").word(mode).number('D', delta);
        if let Some(initial) = options.initial {
            line = line.number('J', initial);
            line = match options.ttl {
                Some(ttl) => line.time('N', ttl),
                None => line.word("N0"),
            };
        }
        let answer = self.ask(Some(key), line.end(None)?, Shape::Meta, Kind::Write).await?;
        match answer.code {
            Code::Missing => Ok(None),
            Code::Value => {
                let number = std::str::from_utf8(&answer.value).ok();
                let number = number.and_then(|number| number.trim_end().parse().ok());
                number.map(Some).ok_or_else(|| unexpected(&answer))
            }
            _ => Err(unexpected(&answer)),
        }
    }

    /// What a read found.
    fn item(&self, answer: Answer) -> Result<Option<Item>, Error> {
        let found = match answer.code {
            Code::Value => Some(item_of(&answer)).filter(|item| !is_nothing(&answer, item)),
            Code::Missing => None,
            _ => return Err(unexpected(&answer)),
        };
        let counting = &self.inner.counting;
        count(if found.is_some() { &counting.hits } else { &counting.misses });
        Ok(found)
    }
}

fn get_request(key: &[u8]) -> Result<Request, Error> {
    Line::keyed("mg", key)?.word("v f c").end(None)
}

fn touching(line: Line, ttl: Option<Duration>) -> Line {
    match ttl {
        Some(ttl) => line.time('T', ttl),
        None => line.word("T0"),
    }
}

/// The item in an answer.
pub(crate) fn item_of(answer: &Answer) -> Item {
    Item {
        value: answer.value.clone(),
        flags: answer.number(b'f').unwrap_or(0) as u32,
        cas: answer.number(b'c').unwrap_or(0),
        stale: answer.has(b'X'),
        won: answer.has(b'W'),
    }
}

/// An empty item that only says that somebody loads, or that there is nothing.
pub(crate) fn is_nothing(answer: &Answer, item: &Item) -> bool {
    item.value.is_empty()
        && (item.flags == NEGATIVE_FLAGS || !item.stale && (answer.has(b'Z') || answer.has(b'W')))
}

fn stored(answer: &Answer) -> Result<bool, Error> {
    match answer.code {
        Code::Done => Ok(true),
        // `ms` with `MR` answers a missing item so, too.
        Code::NotStored | Code::Missing => Ok(false),
        _ => Err(unexpected(answer)),
    }
}

fn found(answer: &Answer) -> Result<bool, Error> {
    match answer.code {
        Code::Done => Ok(true),
        Code::Missing => Ok(false),
        _ => Err(unexpected(answer)),
    }
}

pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::Protocol { message: answer.text(), maybe_executed: true }
}
