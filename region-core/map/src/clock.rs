//! The clock that leases are counted by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Time since some fixed point, never backwards, suspends of the machine included. Clones are the same clock.
#[derive(Clone)]
pub struct MapClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl MapClock {
    /// A clock of one's own, for tests with clocks that run wrong.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for MapClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapClock").field(&self.now()).finish()
    }
}

/// `CLOCK_BOOTTIME`, which goes on while the machine is suspended: a holder whose machine slept must not believe in a
/// lease that others saw lapse (design.md 4.1).
#[must_use]
pub fn boot_clock() -> MapClock {
    MapClock::new(|| {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .expect("the kernel has CLOCK_BOOTTIME since 2.6.39");
        Duration::from(time)
    })
}
