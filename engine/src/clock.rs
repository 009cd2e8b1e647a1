//! The hybrid logical clock that stamps writes.
//!
//! A stamp is the time of the write, or a little more than the last stamp if
//! that is later: stamps of one shard only grow, and one that has seen a peer's
//! stamp is past it.

use crate::{Now, Version};

/// Bits of the region in a version.
const REGION: u64 = 15;

/// Stamps the writes of a shard.
#[derive(Debug)]
pub(crate) struct HybridClock {
    last: u64,
    region: u64,
}

impl HybridClock {
    pub fn new(region: u8) -> HybridClock {
        HybridClock { last: 0, region: u64::from(region) & REGION }
    }

    /// The next stamp.
    #[inline]
    pub fn next(&mut self, now: Now) -> Version {
        // The counter overflows into the milliseconds, which keeps the order.
        let after_last = (self.last & !REGION) + REGION + 1;
        self.last = after_last.max(now.0 << 20) | self.region;
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
}
