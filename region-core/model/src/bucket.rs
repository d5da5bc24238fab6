//! A token bucket: how often something may happen.

/// Milliseconds of a minute.
const MINUTE: u64 = 60_000;
/// What is owed is bounded by what comes in so many minutes.
const OWED: u64 = 60;

/// A bucket that holds what may happen in a minute, and fills evenly. It counts in parts of a minute, so that nothing
/// is lost by rounding. It may be overdrawn: what happens all the same is taken off what comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// How often in a minute.
    per_minute: u64,
    /// What is in it, in parts of a minute.
    level: u64,
    /// What was taken beyond it.
    owed: u64,
    /// When it was filled last, in milliseconds.
    filled_at: u64,
}

impl Bucket {
    /// A full one, at `now` in milliseconds of any clock that does not go back.
    #[must_use]
    pub fn full(per_minute: u64, now: u64) -> Self {
        Self { per_minute, level: per_minute * MINUTE, owed: 0, filled_at: now }
    }

    fn fill(&mut self, now: u64) {
        // Longer than that fills it from whatever is owed.
        let passed = now.saturating_sub(self.filled_at).min(MINUTE * (OWED + 2));
        let came = passed * self.per_minute;
        let paid = came.min(self.owed);
        self.owed -= paid;
        self.level = (self.level + came - paid).min(self.per_minute * MINUTE);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes one.
    ///
    /// # Errors
    /// In how many milliseconds there is one, when there is none; `u64::MAX` for a bucket that never fills.
    pub fn take(&mut self, now: u64) -> Result<(), u64> {
        self.fill(now);
        if self.owed == 0 && self.level >= MINUTE {
            self.level -= MINUTE;
            return Ok(());
        }
        let lacks = self.owed + MINUTE.saturating_sub(self.level);
        Err(if self.per_minute == 0 { u64::MAX } else { lacks.div_ceil(self.per_minute) })
    }

    /// Takes one that happens whether it may or not; what is owed is bounded by what comes in an hour.
    pub fn overdraw(&mut self, now: u64) {
        if self.take(now).is_err() {
            let lacks = MINUTE.saturating_sub(self.level);
            self.level = self.level.saturating_sub(MINUTE);
            self.owed = (self.owed + lacks).min(self.per_minute * MINUTE * OWED);
        }
    }

    /// Whether nothing was taken from it lately.
    pub fn is_full(&mut self, now: u64) -> bool {
        self.fill(now);
        self.level == self.per_minute * MINUTE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_overdrawn_is_paid_before_anything_is_given_again() {
        let mut bucket = Bucket::full(60, 0);
        for _ in 0..60 {
            assert_eq!(bucket.take(0), Ok(()));
        }
        assert_eq!(bucket.take(0), Err(1_000));
        bucket.overdraw(0);
        bucket.overdraw(0);
        assert_eq!(bucket.take(0), Err(3_000));
        assert_eq!(bucket.take(2_999), Err(1));
        assert_eq!(bucket.take(3_000), Ok(()));
        assert!(!bucket.is_full(3_000) && bucket.is_full(63_000));
    }

    proptest! {
        #[test]
        fn no_more_is_given_than_a_minutes_worth_and_what_came_and_the_time_told_holds(
            per_minute in 1u64..1_000,
            steps in proptest::collection::vec((0u64..5_000, any::<bool>()), 1..300),
        ) {
            let mut bucket = Bucket::full(per_minute, 0);
            let (mut now, mut given) = (0, 0);
            for (passed, overdraws) in steps {
                now += passed;
                if overdraws {
                    bucket.overdraw(now);
                    given += 1;
                } else if bucket.take(now).is_ok() {
                    given += 1;
                    prop_assert!(given <= per_minute + now * per_minute / MINUTE);
                } else {
                    let mut later = bucket;
                    let wait = later.take(now).unwrap_err();
                    prop_assert!(later.take(now + wait).is_ok());
                    let mut early = bucket;
                    prop_assert!(wait == 0 || early.take(now + wait - 1).is_err());
                }
            }
        }
    }
}
