//! Time as the cluster counts it, and how long everything may take.
//!
//! Two machines never compare clocks: each counts milliseconds on a monotonic
//! clock of its own, and only *spans* are agreed upon. What is assumed of clocks
//! is that their rates differ by less than one part in
//! [`drift_parts`](Timing::drift_parts), suspended time included: on Linux
//! `CLOCK_BOOTTIME`, as `CLOCK_MONOTONIC` stands still while a machine sleeps and
//! its lease does not.

use alloc::vec::Vec;
use core::fmt;

/// Milliseconds of one machine's monotonic clock.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment `span_ms` later.
    #[must_use]
    pub const fn plus(self, span_ms: u64) -> Millis {
        Millis(self.0.saturating_add(span_ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 if it is later.
    pub const fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Clocks of two machines differ in rate by less than one part in this many. Crystals
/// keep 100 parts in a million; 1/64 is a hundred times that and costs 5 ms of a lease.
pub const DRIFT_PARTS: u64 = 64;

/// How long a span of one machine's clock lasted on another one at least.
pub const fn at_least_us(span_us: u64) -> u64 {
    span_us - span_us.div_ceil(DRIFT_PARTS)
}

/// How long everything may take.
///
/// ```text
/// last beat ├──────────────── lease 250 ───────────────┤ the node stops serving
///           ├──────────────────── down_after 300 ──────────────┤ its replicas lead
///           ├── beat 50 ──┤
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A node beats this often.
    pub beat_ms: u64,
    /// A node may serve for this long after the beat that was answered.
    pub lease_ms: u64,
    /// A node is down when it was not heard of for this long.
    pub down_after_ms: u64,
    /// A keeper may grant leases for this long after the start of the last
    /// check in which a quorum knew it as the leader.
    pub leadership_ms: u64,
    /// Partitions that only a dead node held begin anew, empty, after this long.
    pub abandon_after_ms: u64,
    /// A node down for this long gets its copies replaced; a restart, or an outage
    /// of its network, is to be quicker, and then nothing moves.
    pub repair_after_ms: u64,
    /// Clocks may differ in rate by one part in this many.
    pub drift_parts: u64,
}

impl Default for Timing {
    /// Failover within 400 ms: 300 to notice, the rest to agree and to tell.
    fn default() -> Timing {
        Timing {
            beat_ms: 50,
            lease_ms: 250,
            down_after_ms: 300,
            leadership_ms: 100,
            abandon_after_ms: 60_000,
            repair_after_ms: 35_000,
            drift_parts: DRIFT_PARTS,
        }
    }
}

impl Timing {
    /// How long a span of another machine's clock can last on this one, of which
    /// only whole milliseconds are seen.
    pub const fn surely_ms(&self, span_ms: u64) -> u64 {
        span_ms + span_ms.div_ceil(self.drift_parts) + 1
    }

    /// How long after the last moment at which the keeper before it may have been
    /// confirmed a keeper must reckon with leases that that one granted.
    pub const fn inheritance_ms(&self) -> u64 {
        self.surely_ms(self.leadership_ms + self.lease_ms)
    }

    /// The same for the node that the keeper before was on, which serves no longer
    /// than that may grant leases.
    pub const fn succession_ms(&self) -> u64 {
        self.surely_ms(self.leadership_ms)
    }

    /// All that is wrong with these settings.
    pub fn check(&self) -> Result<(), Vec<TimingFault>> {
        let spans = [
            ("beat_ms", self.beat_ms),
            ("lease_ms", self.lease_ms),
            ("leadership_ms", self.leadership_ms),
        ];
        let mut faults: Vec<TimingFault> = spans
            .into_iter()
            .filter(|(_, span)| *span == 0)
            .map(|(setting, _)| TimingFault::Zero { setting })
            .collect();
        if self.drift_parts < 2 {
            faults.push(TimingFault::Drift { drift_parts: self.drift_parts });
            return Err(faults);
        }
        let order = [
            // One lost beat must not end a lease.
            ("two beats (2 x beat_ms)", 2 * self.beat_ms, "lease_ms", self.lease_ms),
            // Else a node is replaced while it serves, and the new owner waits.
            (
                "lease_ms and its drift",
                self.surely_ms(self.lease_ms),
                "down_after_ms",
                self.down_after_ms,
            ),
            ("leadership_ms", self.leadership_ms, "down_after_ms", self.down_after_ms),
            ("down_after_ms", self.down_after_ms, "repair_after_ms", self.repair_after_ms),
            // Copies are replaced from those that are left, before these are given up.
            ("repair_after_ms", self.repair_after_ms, "abandon_after_ms", self.abandon_after_ms),
        ];
        faults.extend(order.into_iter().filter(|(_, less, _, more)| less >= more).map(
            |(shorter, shorter_ms, longer, longer_ms)| TimingFault::Order {
                shorter,
                shorter_ms,
                longer,
                longer_ms,
            },
        ));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// Why a [`Timing`] is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimingFault {
    /// A span that cannot be nothing.
    Zero {
        /// The setting that is zero.
        setting: &'static str,
    },
    /// Clocks that may drift so far measure nothing.
    Drift {
        /// The setting.
        drift_parts: u64,
    },
    /// Two spans in the wrong order.
    Order {
        /// What must be shorter.
        shorter: &'static str,
        /// How long it is.
        shorter_ms: u64,
        /// Than which setting.
        longer: &'static str,
        /// How long that is.
        longer_ms: u64,
    },
}

impl fmt::Display for TimingFault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimingFault::Zero { setting } => write!(to, "{setting} must be more than 0"),
            TimingFault::Drift { drift_parts } => {
                write!(to, "drift_parts must be 2 or more, not {drift_parts}")
            }
            TimingFault::Order { shorter, shorter_ms, longer, longer_ms } => {
                write!(to, "{shorter}, {shorter_ms} ms, must be less than {longer}, {longer_ms} ms")
            }
        }
    }
}

impl core::error::Error for TimingFault {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_defaults_are_safe() {
        assert_eq!(Timing::default().check(), Ok(()));
    }

    #[test]
    fn a_span_of_another_clock_lasts_within_its_bounds() {
        // By a clock that is as fast or as slow as it may be, against this one.
        let drift = 1.0 / DRIFT_PARTS as f64;
        for span_ms in [0, 1, 63, 64, 65, 250, 10_000] {
            let (least_us, most_ms) =
                (at_least_us(span_ms * 1_000), Timing::default().surely_ms(span_ms));
            assert!(least_us as f64 <= span_ms as f64 * 1e3 * (1.0 - drift));
            assert!(most_ms as f64 >= span_ms as f64 * (1.0 + drift));
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let timing = Timing {
            beat_ms: 200,
            lease_ms: 300,
            repair_after_ms: 90_000,
            leadership_ms: 0,
            ..Timing::default()
        };
        let faults = timing.check().unwrap_err();
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "leadership_ms must be more than 0",
                "two beats (2 x beat_ms), 400 ms, must be less than lease_ms, 300 ms",
                "lease_ms and its drift, 306 ms, must be less than down_after_ms, 300 ms",
                "repair_after_ms, 90000 ms, must be less than abandon_after_ms, 60000 ms",
            ]
        );
    }

    #[test]
    fn clocks_that_measure_nothing_are_refused() {
        let timing = Timing { drift_parts: 0, ..Timing::default() };
        assert_eq!(timing.check().unwrap_err(), [TimingFault::Drift { drift_parts: 0 }]);
    }
}
