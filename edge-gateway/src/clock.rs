//! Time as the edge takes it: one reading holds the wall clock and a clock that never jumps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_protocol::Timestamp;

/// One reading of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the epoch: what clients see and tokens are checked by. May jump.
    pub wall: Timestamp,
    /// Milliseconds since the process started, or any other fixed instant: timeouts count by it.
    pub ticks: u64,
}

impl Moment {
    /// This moment and `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let milliseconds = millis(duration);
        Self { wall: Timestamp(self.wall.0 + milliseconds), ticks: self.ticks + milliseconds }
    }
}

/// Whole milliseconds; a duration that does not fit counts as for ever.
#[must_use]
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// Where the shell reads the time.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The time now.
    fn now(&self) -> Moment;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { wall: Timestamp(millis(wall)), ticks: millis(self.start.elapsed()) }
    }
}
