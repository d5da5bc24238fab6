//! The clocks of a region: one that only goes forward and runs a little wrong, and a wall clock that is off and jumps.

use std::time::Duration;

use hearth_protocol::Timestamp;

use crate::random::Random;

/// The wall clock when a run begins, in milliseconds since the Unix epoch.
const START: u64 = 1_800_000_000_000;
/// How far a clock runs from true time at most, in millionths: the bound that leases count with is 1 % (design.md 4.1).
const DRIFT: u64 = 9_000;
/// How far a wall clock is off, in milliseconds.
const SKEW: u64 = 2_000;

/// The clocks of one region.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// Microseconds of this clock in a second of true time.
    rate: u64,
    /// What it says when true time is zero, in microseconds.
    offset: u64,
    /// What the wall clock is ahead by, in milliseconds from two skews before.
    ahead: u64,
    /// A jump of the wall clock, in milliseconds.
    pub(crate) jump: i64,
}

impl Clock {
    pub(crate) fn new(seed: u64, region: usize) -> Self {
        let mut random = Random::of(seed, "clock", region);
        Self {
            rate: 1_000_000 - DRIFT + random.between(0, 2 * DRIFT),
            offset: random.between(0, 86_400_000_000),
            ahead: random.between(0, 2 * SKEW),
            jump: 0,
        }
    }

    /// The clock that leases and patience are counted by, at a true time in microseconds.
    pub(crate) fn monotonic(&self, now: u64) -> Duration {
        Duration::from_micros(self.offset + now / 1_000 * self.rate / 1_000)
    }

    pub(crate) fn wall(&self, now: u64) -> Timestamp {
        let milliseconds = START + now / 1_000 + self.ahead;
        Timestamp(milliseconds.saturating_add_signed(self.jump))
    }
}
