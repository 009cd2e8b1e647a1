//! Cache-aside in one call, with one load at a time.
//!
//! A read of a missing key leaves an empty item and *wins* (`W`): it is the one
//! that loads. Until it has stored, for the length of the *lease*, other readers
//! find the empty item taken (`Z`) and wait. In this process they wait for the
//! same load, a *flight*; in others they look again. So a value is loaded once,
//! however many ask.
//!
//! ```text
//! mg k v f c N10 R30 ─ EN → (made) VA 0 W   load, then  ms k … C<cas>
//!                    ├ VA 0 Z               wait
//!                    ├ VA n                 a hit
//!                    ├ VA n W  (or X W)     stale: serve it, load behind its back
//!                    └ VA n Z  (or X Z)     stale: serve it
//! ```
//!
//! The value is stored only if the item is still the one that was won: what was
//! deleted or written meanwhile stays so. A value with `stale_for` lives that much
//! longer than its time to live, and is refilled in that last part (`R`).
//!
//! A load that fails gives the lease back, and everybody who waits is told.
//!
//! What it cannot do: an empty item bears no tags, so a tag that is invalidated
//! while a value of it is being loaded does not reach that value. Where that
//! matters delete the key as well: then the load is not stored.

use crate::Error;
use crate::counters::count;
use crate::execute::{Client, Kind, random};
use crate::options::{LoadOptions, SetOptions};
use crate::protocol::{Code, Line, Shape};
use crate::verbs::{Stored, is_nothing, item_of};
use bytes::Bytes;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

/// Client flags of the empty item that says that the origin has nothing.
pub const NEGATIVE_FLAGS: u32 = 0x4e4f_4e45; // "NONE"

/// How often a process looks whether another has loaded: first, and at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// What a loader gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// The value.
    pub value: Bytes,
    /// Tags, besides those of the options.
    pub tags: Vec<String>,
    /// Time to live, instead of that of the options.
    pub ttl: Option<Duration>,
}

impl Loaded {
    /// A value.
    pub fn new(value: impl Into<Bytes>) -> Loaded {
        Loaded { value: value.into(), ..Loaded::default() }
    }

    /// With one more tag.
    pub fn tag(mut self, tag: impl Into<String>) -> Loaded {
        self.tags.push(tag.into());
        self
    }

    /// With this time to live, whatever the options say.
    pub fn ttl(mut self, ttl: Duration) -> Loaded {
        self.ttl = Some(ttl);
        self
    }
}

impl<V: Into<Bytes>> From<V> for Loaded {
    fn from(value: V) -> Loaded {
        Loaded::new(value)
    }
}

type Outcome = Result<Option<Bytes>, Error>;

/// The loads under way, by key.
#[derive(Debug)]
pub struct Flights {
    by_key: Mutex<HashMap<Vec<u8>, Flight>>,
    next: AtomicU64,
    /// Loaders that may run.
    places: Semaphore,
}

impl Flights {
    /// With at most so many loaders at a time.
    pub fn new(loads_max: usize) -> Flights {
        let places = Semaphore::new(loads_max.min(Semaphore::MAX_PERMITS));
        Flights { by_key: Mutex::default(), next: AtomicU64::new(0), places }
    }
}

/// A load under way: its number, and where its outcome will be.
#[derive(Clone, Debug)]
struct Flight {
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// A flight's entry, which goes with it.
struct Entry {
    client: Client,
    key: Vec<u8>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut flights = self.client.inner.flights.by_key.lock().expect("no holder panics");
        // A later flight for the key may have taken the place.
        if flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            flights.remove(&self.key);
        }
    }
}

/// The right to refill an item, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    /// The item, to be replaced only while it is this one.
    cas: u64,
    /// It is an empty item, made for the lease; otherwise a stale one.
    made: bool,
    /// This reader has won it. Otherwise somebody else has: look again, and load
    /// only when he does not.
    ours: bool,
}

/// What the cache says.
enum Found {
    Hit(Option<Bytes>),
    /// With the stale value, if one may be served.
    Refill(Lease, Option<Option<Bytes>>),
}

impl Client {
    /// The cached value of `key`, or what `load` gives, which is stored.
    ///
    /// Of all that ask for a missing key, in this process and others, one runs
    /// its loader and the rest wait for it. The loader runs in a task of its own
    /// and goes on if the caller is dropped. `None` from it means that the origin
    /// has no such thing: that is remembered if the options say for how long.
    ///
    /// When the cache cannot be asked, the loader is run without it (still one at
    /// a time in this process), unless the options need the cache. The errors of
    /// a loader, its panic, and its taking too long are [`Error::Load`].
    pub async fn get_or_load<L, F, V, E>(
        &self,
        key: impl AsRef<[u8]>,
        options: &LoadOptions,
        load: L,
    ) -> Result<Option<Bytes>, Error>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
        V: Into<Loaded> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        let key = key.as_ref();
        let counting = &self.inner.counting;
        let (lease, stale) = match self.look(key, options).await {
            Ok(Found::Hit(value)) => {
                count(&counting.hits);
                return Ok(value);
            }
            Ok(Found::Refill(lease, stale)) => (Some(lease), stale),
            Err(error) if options.needs_cache || !error.is_passing() => return Err(error),
            Err(_) => {
                count(&counting.bypasses);
                (None, None)
            }
        };
        if let Some(value) = stale {
            count(&counting.hits);
            count(&counting.served_stale);
            // Whoever has the right refills behind the reader's back.
            if lease.is_some_and(|lease| lease.ours) {
                self.fly(key, lease, true, options, load);
            }
            return Ok(value);
        }
        count(&counting.misses);
        let mut flight = self.fly(key, lease, false, options, load);
        match flight.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            _ => Err(load_error("the load's task has ended")),
        }
    }

    /// Reads, and becomes the one that loads if nobody is.
    async fn look(&self, key: &[u8], options: &LoadOptions) -> Result<Found, Error> {
        let mut line = Line::keyed("mg", key)?.word("v f c").time('N', options.lease);
        if let Some(stale_for) = options.stale_for {
            line = line.time('R', whole_seconds(stale_for));
        }
        // Tried again like a read: a lease that was won unnoticed runs out.
        let answer = self.ask(Some(key), line.end(None)?, Shape::Meta, Kind::Read).await?;
        if answer.code != Code::Value {
            return Err(crate::verbs::unexpected(&answer));
        }
        let item = item_of(&answer);
        let value = match item.flags {
            NEGATIVE_FLAGS if item.value.is_empty() => None,
            _ => Some(item.value.clone()),
        };
        let placeholder = is_nothing(&answer, &item) && item.flags != NEGATIVE_FLAGS;
        let serves = !placeholder && options.stale_for.is_some();
        let refill = item.won || answer.has(b'Z') && (placeholder || item.stale || serves);
        Ok(match refill {
            true => {
                let lease = Lease { cas: item.cas, made: placeholder, ours: item.won };
                Found::Refill(lease, serves.then_some(value))
            }
            false => Found::Hit(value),
        })
    }

    /// The flight for `key`: the one under way, or a new one. Nobody waits for one
    /// that is `behind` a reader's back.
    fn fly<L, F, V, E>(
        &self,
        key: &[u8],
        lease: Option<Lease>,
        behind: bool,
        options: &LoadOptions,
        load: L,
    ) -> watch::Receiver<Option<Outcome>>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
        V: Into<Loaded> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        let flights = &self.inner.flights;
        let (sender, receiver) = watch::channel(None);
        let number = flights.next.fetch_add(1, Relaxed);
        {
            let mut by_key = flights.by_key.lock().expect("no holder panics");
            // Whoever won must load, even if a flight is under way: that one only
            // waits, or began before the key was deleted.
            if !lease.is_some_and(|lease| lease.ours)
                && let Some(flight) = by_key.get(key)
            {
                count(&self.inner.counting.coalesced);
                return flight.outcome.clone();
            }
            by_key.insert(key.to_vec(), Flight { number, outcome: receiver.clone() });
        }
        let entry = Entry { client: self.clone(), key: key.to_vec(), number };
        let options = options.clone();
        tokio::spawn(async move {
            let outcome = entry.client.land(&entry.key, lease, behind, &options, load).await;
            // First the entry, then the news: who comes later looks for himself.
            drop(entry);
            let _ = sender.send(Some(outcome));
        });
        receiver
    }

    /// A flight: waits for others, loads, stores.
    async fn land<L, F, V, E>(
        &self,
        key: &[u8],
        mut lease: Option<Lease>,
        behind: bool,
        options: &LoadOptions,
        load: L,
    ) -> Outcome
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
        V: Into<Loaded> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        if lease.is_some_and(|lease| !lease.ours) {
            match self.wait(key, options).await {
                Ok(Found::Hit(value)) => {
                    count(&self.inner.counting.coalesced);
                    return Ok(value);
                }
                Ok(Found::Refill(won, _)) => lease = Some(won),
                Err(error) if options.needs_cache => return Err(error),
                Err(_) => {
                    count(&self.inner.counting.bypasses);
                    lease = None;
                }
            }
        }
        let places = &self.inner.flights.places;
        let place = match places.try_acquire() {
            Err(_) if behind => {
                self.release(key, lease).await;
                return Err(load_error("too many loads are under way"));
            }
            Err(_) => places.acquire().await.ok(),
            place => place.ok(),
        };
        count(&self.inner.counting.loads);
        let outcome = run(options.load_timeout, load).await;
        drop(place);
        match outcome {
            Ok(loaded) => {
                let value = loaded.as_ref().map(|loaded| loaded.value.clone());
                if !self.fill(key, lease, options, loaded).await {
                    count(&self.inner.counting.fills_refused);
                }
                Ok(value)
            }
            Err(error) => {
                count(&self.inner.counting.load_failures);
                self.release(key, lease).await;
                Err(error)
            }
        }
    }

    /// Looks until somebody else has loaded, or his lease is over.
    async fn wait(&self, key: &[u8], options: &LoadOptions) -> Result<Found, Error> {
        let until = Instant::now() + options.lease;
        let mut pause = LOOK_INTERVAL;
        loop {
            sleep(pause.mul_f64(0.5 + 0.5 * random())).await;
            pause = (pause * 2).min(LOOK_INTERVAL_MAX);
            match self.look(key, options).await? {
                Found::Refill(Lease { ours: false, .. }, Some(value)) => {
                    return Ok(Found::Hit(value));
                }
                Found::Refill(Lease { ours: false, .. }, None) if Instant::now() < until => {}
                // Won, or whoever has the lease does not use it.
                found => return Ok(found),
            }
        }
    }

    /// Stores what was loaded; whether it did. Without a lease nothing is stored:
    /// the cache could not be asked a moment ago.
    async fn fill(
        &self,
        key: &[u8],
        lease: Option<Lease>,
        options: &LoadOptions,
        loaded: Option<Loaded>,
    ) -> bool {
        let Some(lease) = lease else { return false };
        let mut set = SetOptions::default().flags(options.flags);
        set.tags.clone_from(&options.tags);
        let (value, ttl) = match (loaded, options.negative_ttl) {
            (Some(loaded), _) => {
                set.tags.extend(loaded.tags);
                (loaded.value, loaded.ttl.or(options.ttl))
            }
            (None, Some(ttl)) => {
                set.flags = NEGATIVE_FLAGS;
                (Bytes::new(), Some(ttl))
            }
            // There is nothing, and that is not to be remembered.
            (None, None) => return self.change(key, lease.cas, "").await,
        };
        set.ttl = ttl.map(|ttl| lifetime(ttl, options, random()));
        match lease.cas {
            // A node that keeps no versions (`-C`): better a value that may be a
            // little old, for its time to live, than none.
            0 => self.set(key, value, &set).await.is_ok(),
            cas => matches!(self.cas(key, value, cas, &set).await, Ok(Stored::Stored(_))),
        }
    }

    /// Gives the lease back, so that the next reader wins it.
    async fn release(&self, key: &[u8], lease: Option<Lease>) {
        match lease {
            Some(lease) if lease.made => self.change(key, lease.cas, "").await,
            // Marked stale once more it is nobody's to refill.
            Some(lease) => self.change(key, lease.cas, "I").await,
            None => false,
        };
    }

    /// `md` of the item that was won. If it fails the lease runs out by itself.
    async fn change(&self, key: &[u8], cas: u64, flag: &str) -> bool {
        if cas == 0 {
            return false;
        }
        let line = Line::keyed("md", key).map(|line| line.number('C', cas));
        let line = line.map(|line| if flag.is_empty() { line } else { line.word(flag) });
        let Ok(request) = line.and_then(|line| line.end(None)) else { return false };
        let answer = self.ask(Some(key), request, Shape::Meta, Kind::Write).await;
        answer.is_ok_and(|answer| answer.code == Code::Done)
    }
}

/// Runs a loader in a task of its own: its panic is an error like others.
async fn run<L, F, V, E>(time: Duration, load: L) -> Result<Option<Loaded>, Error>
where
    L: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<Option<V>, E>> + Send + 'static,
    V: Into<Loaded> + Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
{
    let task = tokio::spawn(async move { load().await });
    let abort = task.abort_handle();
    match timeout(time, task).await {
        Ok(Ok(Ok(loaded))) => Ok(loaded.map(Into::into)),
        Ok(Ok(Err(error))) => Err(Error::Load(Arc::from(error.into()))),
        Ok(Err(_)) => Err(load_error("it panicked")),
        Err(_) => {
            abort.abort();
            Err(load_error(format!("it took more than {time:?}")))
        }
    }
}

fn load_error(what: impl Into<String>) -> Error {
    Error::Load(Arc::from(Box::<dyn StdError + Send + Sync>::from(what.into())))
}

/// How long an item lives: its time to live, a part of it taken off by chance,
/// and the time that it may be stale.
fn lifetime(ttl: Duration, options: &LoadOptions, chance: f64) -> Duration {
    let jitter = options.ttl_jitter.clamp(0.0, 1.0) * chance;
    let stale = options.stale_for.map_or(Duration::ZERO, whole_seconds);
    ttl.mul_f64(1.0 - jitter).saturating_add(stale)
}

/// `R` compares whole seconds.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_shortened_by_chance_and_lengthened_by_staleness() {
        let ttl = Duration::from_secs(100);
        let options = LoadOptions::default();
        assert_eq!(lifetime(ttl, &options, 0.9), ttl);
        let options = options.ttl_jitter(0.2).stale_for(Duration::from_millis(1500));
        assert_eq!(lifetime(ttl, &options, 0.0), Duration::from_secs(102));
        assert_eq!(lifetime(ttl, &options, 0.5), Duration::from_secs(92));
        let options = LoadOptions::default().ttl_jitter(7.0);
        assert_eq!(lifetime(ttl, &options, 1.0), Duration::ZERO);
    }
}
