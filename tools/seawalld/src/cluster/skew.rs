//! How far this machine's clock of day is from that of the keeper's machine.
//!
//! Items expire by the clock of day of each node that holds them, so that clocks
//! which differ make an item go earlier here than there. What a primary has found
//! expired it takes from its replicas, as far as it still knows of it: a node keeps
//! what has expired for twice what clocks may differ by. Beyond that nothing is done
//! about it but to say so.

use crate::server::say;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A beat that took longer says too little.
const ROUND_TRIP_MS_MAX: i64 = 200;

/// The clock of day, in milliseconds since 1970.
pub fn clock_of_day() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// What was seen last.
#[derive(Debug)]
pub struct Skew {
    max_ms: i64,
    ms: AtomicI64,
    said: AtomicBool,
}

impl Skew {
    /// Says so when it is more than `max_ms`.
    pub fn new(max_ms: u64) -> Skew {
        Skew { max_ms: max_ms as i64, ms: AtomicI64::new(0), said: AtomicBool::new(false) }
    }

    /// This clock less the keeper's, in milliseconds.
    pub fn ms(&self) -> i64 {
        self.ms.load(Ordering::Relaxed)
    }

    /// Whether it is more than it should be.
    pub fn is_too_much(&self) -> bool {
        self.ms().abs() > self.max_ms
    }

    /// A beat left at `sent`, the keeper answered when its clock showed `theirs`,
    /// and the answer was here at `back`.
    pub fn note(&self, sent: i64, theirs: i64, back: i64) {
        if !(0..=ROUND_TRIP_MS_MAX).contains(&(back - sent)) {
            return;
        }
        let ms = sent + (back - sent) / 2 - theirs;
        self.ms.store(ms, Ordering::Relaxed);
        let too_much = self.is_too_much();
        if self.said.swap(too_much, Ordering::Relaxed) == too_much {
            return;
        }
        if too_much {
            say(&self.words());
        } else {
            say("this machine's clock is again close to that of the keeper's");
        }
    }

    /// What an operator should know.
    pub fn words(&self) -> String {
        let ms = self.ms();
        let (way, when) = if ms > 0 { ("ahead of", "early") } else { ("behind", "late") };
        format!(
            "this machine's clock is {} ms {way} that of the keeper's: items expire {when} here",
            ms.abs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_way_there_and_back_is_taken_off() {
        let skew = Skew::new(500);
        skew.note(10_000, 10_040, 10_100);
        assert_eq!((skew.ms(), skew.is_too_much()), (10, false));
        skew.note(20_000, 22_000, 20_020);
        assert_eq!((skew.ms(), skew.is_too_much()), (-1_990, true));
        assert!(skew.words().contains("1990 ms behind"), "{}", skew.words());
        // A clock that was set meanwhile, and an answer that took its time.
        skew.note(20_000, 20_000, 19_000);
        skew.note(20_000, 20_000, 21_000);
        assert_eq!(skew.ms(), -1_990);
        skew.note(20_000, 18_000, 20_000);
        assert!(skew.words().contains("2000 ms ahead"), "{}", skew.words());
        skew.note(20_000, 20_000, 20_000);
        assert!(!skew.is_too_much());
    }
}
