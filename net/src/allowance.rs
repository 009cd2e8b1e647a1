//! How much one connection may take at this moment.
//!
//! Each connection has bounds of its own, and all of a core's have one
//! together. Far below that, a connection may fill several socket buffers at
//! once. The nearer the sum comes, the less each may put out before its socket
//! has taken it, and the more values are sent from where they lie: many clients
//! that read are then served in smaller pieces, and nobody is closed.
//!
//! A turn of the core's loop has a share for everybody too: when it has put out
//! much already, each further connection gets a small piece and goes on in the
//! next turn, so that clients who ask for little do not wait behind megabytes
//! of others.
//!
//! Decided here, from numbers alone; the reactor counts, the connection obeys.

use crate::core::Settings;
use crate::limits::{
    COPIED_BYTES_PER_BATCH, COPIED_BYTES_PER_CONNECTION, COPIED_BYTES_PER_CONNECTION_CROWDED,
    CROWDED_HOPS_MAX, CROWDED_OUTPUT_BYTES, LONG_TURN_OUTPUT_BYTES, LONG_TURN_REQUESTS,
    PIN_VALUE_BYTES_MIN, PIN_VALUE_BYTES_MIN_CROWDED, TIGHT_HOPS_MAX, TIGHT_OUTPUT_BYTES,
    TURN_OUTPUT_BYTES_MAX, TURN_REQUESTS_MAX,
};

/// Bytes of values that are copied into a batch's answers; beyond them only small
/// ones are, and the others are sent from where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copying {
    /// Of one connection.
    pub connection_bytes_max: usize,
    /// Of all.
    pub batch_bytes_max: usize,
}

impl Default for Copying {
    fn default() -> Copying {
        Copying {
            connection_bytes_max: COPIED_BYTES_PER_CONNECTION,
            batch_bytes_max: COPIED_BYTES_PER_BATCH,
        }
    }
}

/// What one connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Output at which it stops executing.
    pub output_bytes_max: usize,
    /// Values read that are longer are pinned instead of copied.
    pub copied_value_bytes_max: usize,
    /// What another core copies for it.
    pub copying: Copying,
    /// Its requests under way on other cores.
    pub hops_max: usize,
    /// Its requests executed in one turn.
    pub requests_max: u32,
    /// Output of all together after which a turn counts as long ...
    pub turn_output_bytes_max: usize,
    /// ... and requests.
    pub turn_requests_max: u32,
}

/// How much of their bound a core's connections hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crowding {
    /// Less than an eighth.
    Calm,
    /// Less than a quarter.
    Crowded,
    /// At least a quarter.
    Tight,
}

impl Crowding {
    /// Of connections that hold `bytes` of `bytes_max`.
    pub fn of(bytes: usize, bytes_max: usize) -> Crowding {
        if bytes < bytes_max / 8 {
            Crowding::Calm
        } else if bytes < bytes_max / 4 {
            Crowding::Crowded
        } else {
            Crowding::Tight
        }
    }
}

impl Allowance {
    /// At the start of a turn. `bytes_max`: what all connections may hold together.
    pub fn new(settings: &Settings, crowding: Crowding, bytes_max: usize) -> Allowance {
        // The answers of a turn's requests fit into an eighth of the bound, too.
        let requests_fit = bytes_max / 8 / PIN_VALUE_BYTES_MIN_CROWDED;
        let requests_fit = requests_fit.min(TURN_REQUESTS_MAX as usize);
        let calm = Allowance {
            // Where there is room for few, one alone does not take it all.
            output_bytes_max: settings.output_bytes_high_water.min(bytes_max / 16).max(1),
            copied_value_bytes_max: PIN_VALUE_BYTES_MIN,
            copying: Copying {
                connection_bytes_max: COPIED_BYTES_PER_CONNECTION.min(bytes_max / 64),
                batch_bytes_max: COPIED_BYTES_PER_BATCH.min(bytes_max / 32),
            },
            hops_max: settings.hops_in_flight_max,
            requests_max: settings.requests_per_turn.max(1),
            turn_output_bytes_max: TURN_OUTPUT_BYTES_MAX.min(bytes_max / 8),
            turn_requests_max: requests_fit as u32,
        };
        let (output_bytes, hops) = match crowding {
            Crowding::Calm => return calm,
            Crowding::Crowded => (CROWDED_OUTPUT_BYTES, CROWDED_HOPS_MAX),
            Crowding::Tight => (TIGHT_OUTPUT_BYTES, TIGHT_HOPS_MAX),
        };
        Allowance {
            output_bytes_max: calm.output_bytes_max.min(output_bytes),
            copied_value_bytes_max: PIN_VALUE_BYTES_MIN_CROWDED,
            copying: Copying {
                connection_bytes_max: COPIED_BYTES_PER_CONNECTION_CROWDED,
                ..calm.copying
            },
            hops_max: calm.hops_max.min(hops),
            ..calm
        }
    }

    /// Whether a turn that has put out so much is a long one.
    #[inline]
    pub fn is_long_turn(&self, output_bytes: usize, requests: u32) -> bool {
        output_bytes > self.turn_output_bytes_max || requests > self.turn_requests_max
    }

    /// For the rest of a long turn.
    #[cold]
    pub fn shortened(self) -> Allowance {
        Allowance {
            output_bytes_max: self.output_bytes_max.min(LONG_TURN_OUTPUT_BYTES),
            copied_value_bytes_max: self.copied_value_bytes_max.min(LONG_TURN_OUTPUT_BYTES),
            requests_max: self.requests_max.min(LONG_TURN_REQUESTS),
            copying: Copying {
                connection_bytes_max: self
                    .copying
                    .connection_bytes_max
                    .min(COPIED_BYTES_PER_CONNECTION_CROWDED),
                ..self.copying
            },
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_held_the_less_each_may_take() {
        let settings = Settings::default();
        let levels: Vec<Allowance> = [0, 1 << 20, 7 << 20, 9 << 20, 20 << 20, 100 << 20]
            .map(|bytes| Allowance::new(&settings, Crowding::of(bytes, 64 << 20), 64 << 20))
            .to_vec();
        assert_eq!(levels[0], levels[2], "below an eighth nobody is held back");
        for pair in levels.windows(2) {
            assert!(pair[1].output_bytes_max <= pair[0].output_bytes_max);
            assert!(pair[1].copied_value_bytes_max <= pair[0].copied_value_bytes_max);
            assert!(pair[1].hops_max <= pair[0].hops_max);
        }
        // Whatever is held, and however long the turn: everybody gets on.
        let least = levels[5].shortened();
        assert!(least.output_bytes_max > 0 && least.hops_max > 0 && least.requests_max > 0);
        // So many connections at the last level stay within the bound.
        let each = 2 * least.output_bytes_max + least.hops_max * PIN_VALUE_BYTES_MIN_CROWDED;
        assert!(1024 * each <= 64 << 20, "{each}");
    }

    #[test]
    fn settings_that_allow_less_are_kept() {
        let settings = Settings {
            output_bytes_high_water: 1_000,
            hops_in_flight_max: 2,
            requests_per_turn: 3,
            ..Settings::default()
        };
        for crowding in [Crowding::Calm, Crowding::Crowded, Crowding::Tight] {
            let allowance = Allowance::new(&settings, crowding, 64 << 20).shortened();
            assert_eq!(allowance.output_bytes_max, 1_000);
            assert_eq!((allowance.hops_max, allowance.requests_max), (2, 3));
        }
    }
}
