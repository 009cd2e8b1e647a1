//! When requests are due in an open loop.
//!
//! The times depend on the rate and the seed alone, never on the server's
//! answers: that is what makes the loop open.

use crate::distribution::Rng;
use crate::plan::Arrivals;

/// One worker's share of the arrivals, in nanoseconds since the run began.
#[derive(Clone, Debug)]
pub struct Schedule {
    next_ns: f64,
    gap_ns: f64,
    arrivals: Arrivals,
    rng: Rng,
}

impl Schedule {
    /// For worker `index` of `workers`, which share `rate` requests a second.
    pub fn new(rate: f64, arrivals: Arrivals, index: u32, workers: u32, seed: u64) -> Schedule {
        let gap_ns = 1e9 * f64::from(workers) / rate;
        let mut rng = Rng::new(seed ^ 0x7157);
        let first = match arrivals {
            // The workers' metronomes tick in turn.
            Arrivals::Constant => gap_ns * f64::from(index) / f64::from(workers),
            Arrivals::Poisson => gap_ns * rng.exponential(),
        };
        Schedule { next_ns: first, gap_ns, arrivals, rng }
    }

    /// When the next request is due.
    #[inline]
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// The next request has been dealt with.
    #[inline]
    pub fn advance(&mut self) {
        self.next_ns += match self.arrivals {
            Arrivals::Constant => self.gap_ns,
            Arrivals::Poisson => self.gap_ns * self.rng.exponential(),
        };
    }

    /// How many requests were due before `end_ns` and are still to be dealt with.
    pub fn overdue(&mut self, end_ns: u64) -> u64 {
        let mut count = 0;
        while self.next_ns() < end_ns {
            count += 1;
            self.advance();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let due: u64 = (0..4)
                .map(|index| {
                    Schedule::new(100_000.0, arrivals, index, 4, 9 + u64::from(index))
                        .overdue(1_000_000_000)
                })
                .sum();
            assert!((98_500..=101_500).contains(&due), "{arrivals:?}: {due}");
        }
    }

    #[test]
    fn metronomes_of_several_workers_interleave() {
        let first = |index| Schedule::new(1000.0, Arrivals::Constant, index, 2, 1).next_ns();
        assert_eq!((first(0), first(1)), (0, 1_000_000));
    }
}
