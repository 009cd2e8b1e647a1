//! The node's time: the wall clock at start, plus what has passed since by the
//! monotonic clock. It never goes backwards, and every core has the same one.
//!
//! A step of the system's clock (an operator's `date -s`) does not reach it:
//! items with a relative expiry keep their length of life, as in memcached.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::Now;

/// A copyable clock; read once a loop turn.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    unix_at_start: Duration,
    start: Instant,
}

impl Clock {
    /// Starts from the wall clock's time.
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { unix_at_start: unix, start: Instant::now() }
    }

    /// The time of a moment read from the monotonic clock.
    #[inline]
    pub fn at(&self, instant: Instant) -> Now {
        let passed = instant.saturating_duration_since(self.start);
        Now((self.unix_at_start + passed).as_millis() as u64)
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_monotonic_clock() {
        let clock = Clock::start();
        let later = clock.start + Duration::from_millis(1500);
        assert_eq!(clock.at(later).0 - clock.at(clock.start).0, 1500);
        assert!(clock.now() >= clock.at(clock.start));
        // A moment before the start is the start.
        assert_eq!(clock.at(clock.start - Duration::from_secs(1)), clock.at(clock.start));
    }
}
