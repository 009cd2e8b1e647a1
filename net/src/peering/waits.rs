//! How long requests took that found nobody to take them at first.

use std::time::Duration;

/// Upper bounds of the classes, in microseconds; one class more is above them all.
pub const BOUNDS_US: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// A histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// By class, those of no shorter one.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All together, in microseconds.
    pub sum_us: u64,
}

impl Waits {
    /// One more.
    pub fn note(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_class() {
        let mut waits = Waits::default();
        for us in [0, 500, 501, 5_000, 2_500_001, u64::MAX] {
            waits.note(Duration::from_micros(us));
        }
        let mut counts = [0; BOUNDS_US.len() + 1];
        (counts[0], counts[1], counts[3], counts[12]) = (2, 1, 1, 2);
        assert_eq!(waits, Waits { counts, sum_us: u64::MAX });
    }
}
