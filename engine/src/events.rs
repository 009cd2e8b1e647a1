//! What a shard tells whoever watches it: items evicted, pages moved, sweeps
//! that ended.
//!
//! The shard is pure, so it writes into a bounded list while somebody listens,
//! and whoever drives it takes the list at the end of a turn. While nobody
//! listens there is no list, and an eviction costs one comparison more.

use crate::ClassId;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Events kept between two takings. A watcher's buffer of 256 KiB holds fewer
/// lines than that.
const EVENTS_MAX: usize = 4096;

/// Which events are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds {
    /// [`Event::Evicted`].
    pub evictions: bool,
    /// [`Event::PageMoved`] and [`Event::Swept`].
    pub system: bool,
}

/// Something that happened in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A live item left to make room.
    Evicted(Evicted<'a>),
    /// A page was emptied for another class.
    PageMoved {
        /// Who gave it.
        from: ClassId,
        /// Who got it; `None`: it is free.
        to: Option<ClassId>,
    },
    /// A walk over all items that freed the dead ones has ended.
    Swept {
        /// How long it took.
        elapsed_ms: u64,
        /// Items that it looked at.
        examined: u64,
        /// Items that it freed.
        reclaimed: u64,
    },
}

/// An item that left to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// It had been read.
    pub fetched: bool,
    /// Seconds that it had left, if it was to expire.
    pub ttl_seconds: Option<u64>,
    /// Seconds since its last access (since its write, where that is not kept).
    pub idle_seconds: u32,
    /// Its size class.
    pub class: ClassId,
    /// The length of its value.
    pub value_bytes: u32,
}

/// An event without its key, which lies in [`Events::keys`].
#[derive(Clone, Copy, Debug)]
struct Kept {
    event: Event<'static>,
    key_bytes: usize,
}

/// Events that nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    kinds: EventKinds,
    list: Vec<Kept>,
    keys: Vec<u8>,
    dropped: u64,
}

impl Events {
    /// A list for these kinds, if any.
    pub fn of(kinds: EventKinds) -> Option<Box<Events>> {
        let wanted = kinds != EventKinds::default();
        wanted.then(|| Box::new(Events { kinds, ..Events::default() }))
    }

    /// Keeps an event, if its kind is wanted and there is room.
    pub fn note(&mut self, event: Event<'_>) {
        let (wanted, key) = match event {
            Event::Evicted(evicted) => (self.kinds.evictions, evicted.key),
            Event::PageMoved { .. } | Event::Swept { .. } => (self.kinds.system, &[][..]),
        };
        if !wanted {
            return;
        }
        if self.list.len() == EVENTS_MAX {
            self.dropped += 1;
            return;
        }
        self.keys.extend_from_slice(key);
        let event = match event {
            Event::Evicted(evicted) => Event::Evicted(Evicted { key: &[], ..evicted }),
            Event::PageMoved { from, to } => Event::PageMoved { from, to },
            Event::Swept { elapsed_ms, examined, reclaimed } => {
                Event::Swept { elapsed_ms, examined, reclaimed }
            }
        };
        self.list.push(Kept { event, key_bytes: key.len() });
    }

    /// Hands all events over, in their order; how many found no room.
    pub fn take(&mut self, each: &mut dyn FnMut(Event<'_>)) -> u64 {
        let mut key_at = 0;
        for kept in self.list.drain(..) {
            let key = &self.keys[key_at..key_at + kept.key_bytes];
            key_at += kept.key_bytes;
            each(match kept.event {
                Event::Evicted(evicted) => Event::Evicted(Evicted { key, ..evicted }),
                event => event,
            });
        }
        self.keys.clear();
        core::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_what_nobody_wants_is_not() {
        let mut events = Events::of(EventKinds { evictions: true, system: false }).unwrap();
        let evicted = Evicted {
            key: b"key",
            fetched: false,
            ttl_seconds: None,
            idle_seconds: 0,
            class: ClassId(1),
            value_bytes: 7,
        };
        events.note(Event::PageMoved { from: ClassId(1), to: None });
        for _ in 0..EVENTS_MAX + 3 {
            events.note(Event::Evicted(evicted));
        }
        let mut seen = 0;
        let dropped = events.take(&mut |event| {
            assert_eq!(event, Event::Evicted(evicted));
            seen += 1;
        });
        assert_eq!((seen, dropped), (EVENTS_MAX, 3));
        assert_eq!(events.take(&mut |_| panic!("taken twice")), 0);
        assert!(Events::of(EventKinds::default()).is_none());
    }
}
