//! When memtables go to disk although they are not full: after a burst, so that what came with it does not stay in memory
//! for as long as the store has little to do, and a start reads less.

use std::time::{Duration, Instant};

/// How long is looked at a time.
pub(super) const WINDOW: Duration = Duration::from_secs(1);
/// Fewer changes than this within the time are little: leases and digests of a region that nobody uses.
const LITTLE: usize = 100;
/// So many changes are worth the files that they make.
const WORTH: usize = 10_000;

/// What was applied of late.
#[derive(Debug)]
pub(super) struct Rests {
    began: Instant,
    within: usize,
    in_memory: usize,
}

impl Rests {
    /// Of a store that has applied nothing yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, within: 0, in_memory: 0 }
    }

    /// So many changes were applied.
    pub(super) fn applied(&mut self, changes: usize) {
        self.within += changes;
        self.in_memory += changes;
    }

    /// Whether what was applied goes to disk now. It counts as gone.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if now.duration_since(self.began) < WINDOW {
            return false;
        }
        let is_due = self.within < LITTLE && self.in_memory >= WORTH;
        (self.began, self.within) = (now, 0);
        if is_due {
            self.in_memory = 0;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_to_disk_once_little_follows_it_and_a_trickle_never_does() {
        let start = Instant::now();
        let mut rests = Rests::new(start);
        rests.applied(WORTH);
        assert!(!rests.is_due(start + WINDOW), "it was within the time looked at");
        rests.applied(LITTLE);
        assert!(!rests.is_due(start + 2 * WINDOW), "it goes on");
        rests.applied(LITTLE - 1);
        assert!(!rests.is_due(start + 3 * WINDOW - Duration::from_millis(1)), "not yet");
        assert!(rests.is_due(start + 3 * WINDOW));
        for window in 4..20 {
            rests.applied(LITTLE - 1);
            assert!(!rests.is_due(start + window * WINDOW), "not worth a file");
        }
    }
}
