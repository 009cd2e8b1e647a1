//! The hybrid logical clock that stamps writes.
//!
//! A stamp is the time of the write, or a little more than the last stamp if
//! that is later: stamps of one shard only grow, and one that has seen a peer's
//! stamp is past it. The lowest bits say who stamped (region, then core), so no
//! two writes have the same stamp: it is also the CAS unique, and memcached
//! never gives two items the same one.

use crate::{Now, Version};

/// Bits of the region in a version.
const REGION: u64 = 15;

/// Stamps the writes of a shard.
#[derive(Debug)]
pub(crate) struct HybridClock {
    last: u64,
    /// Region and core, in the lowest bits of every stamp.
    own: u64,
    /// Those bits.
    mask: u64,
}

impl HybridClock {
    pub fn new(region: u8) -> HybridClock {
        HybridClock { last: 0, own: u64::from(region) & REGION, mask: REGION }
    }

    /// From now on stamps are of `core` among `cores`. What they take from the
    /// counter's 16 bits it has less before it overflows.
    pub fn set_core(&mut self, core: u32, cores: u32) {
        assert!(core < cores && cores <= 1 << 12, "core {core} of {cores}");
        self.own = self.own & REGION | u64::from(core) << 4;
        self.mask = (u64::from(cores.next_power_of_two()) << 4) - 1;
    }

    /// The next stamp.
    #[inline]
    pub fn next(&mut self, now: Now) -> Version {
        // The counter overflows into the milliseconds, which keeps the order.
        let after_last = (self.last & !self.mask) + self.mask + 1;
        self.last = after_last.max(now.0 << 20) | self.own;
        Version(self.last)
    }

    /// Later stamps are past `version`.
    pub fn observe(&mut self, version: Version) {
        self.last = self.last.max(version.0);
    }

    /// The latest stamp given or seen.
    pub fn last(&self) -> Version {
        Version(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_while_time_stands_still_or_a_peer_is_ahead() {
        let mut clock = HybridClock::new(3);
        let first = clock.next(Now(1000));
        assert_eq!((first.unix_ms(), first.0 & 15), (1000, 3));
        let second = clock.next(Now(1000));
        assert!(second > first);
        clock.observe(Version(2000 << 20 | 5));
        let third = clock.next(Now(1000));
        assert!(third > Version(2000 << 20 | 5) && third.0 & 15 == 3);
        for _ in 0..200_000 {
            assert!(clock.next(Now(1000)) > third);
        }
        assert_eq!(clock.next(Now(5000)).unix_ms(), 5000);
    }

    #[test]
    fn cores_never_give_the_same_stamp() {
        let mut stamps = alloc::vec::Vec::new();
        for core in 0..3 {
            let mut clock = HybridClock::new(3);
            clock.set_core(core, 3);
            stamps.extend((0..100).map(|_| clock.next(Now(1000)).0));
            // What another core stamped does not make it step on that one's toes.
            clock.observe(Version(1000 << 20 | 200 << 6 | 3));
            stamps.extend((0..100).map(|_| clock.next(Now(1000)).0));
        }
        assert!(stamps.iter().all(|stamp| stamp & REGION == 3));
        stamps.sort_unstable();
        assert!(stamps.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
