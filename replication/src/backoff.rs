//! When to dial again, and how long to try. Pure: the dice are an argument.

use std::time::Duration;

/// Ceiling of the first pause.
const FIRST_CEILING: Duration = Duration::from_millis(50);

/// Every attempt of this number in a series is a patient one.
const PATIENT_EVERY: u32 = 4;

/// Pauses of a series of failed attempts: full jitter under a ceiling that doubles up to a cap, so
/// that regions that lost each other at the same moment do not dial at the same moments.
#[derive(Debug)]
pub(crate) struct Backoff {
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(cap: Duration) -> Self {
        Self { cap, failures: 0 }
    }

    /// The pause after another failure; `dice` is uniform in 0 to 1.
    pub(crate) fn pause(&mut self, dice: f64) -> Duration {
        let doubled = FIRST_CEILING.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.cap).mul_f64(dice.clamp(0.0, 1.0))
    }

    /// How long the coming attempt may take. Short attempts find a healed network soon, since QUIC
    /// repeats lost packets of a handshake ever more slowly; a patient one now and then still lets
    /// a link with a very long round trip come up. QUIC's repeats are sent 0.3, 0.9 and 2.1 s after
    /// the start: both limits lie just behind one, so that with the longest pause of 1 s there are
    /// never more than 1.2 s without a packet that may find the network healed.
    pub(crate) fn attempt_limit(&self, usual: Duration) -> Duration {
        if self.failures % PATIENT_EVERY == PATIENT_EVERY - 1 { usual * 11 / 5 } else { usual }
    }

    /// Starts a new series: the link worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let pauses: Vec<u128> = (0..8).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
        backoff.reset();
        assert_eq!(backoff.pause(0.5), Duration::from_millis(25));
    }

    #[test]
    fn a_series_of_any_length_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        backoff.failures = u32::MAX - 1;
        assert_eq!(backoff.pause(1.0), Duration::from_secs(1));
        assert_eq!(backoff.pause(1.0), Duration::from_secs(1));
    }

    #[test]
    fn every_fourth_attempt_is_patient() {
        let usual = Duration::from_secs(1);
        let mut backoff = Backoff::new(usual);
        let mut limits = Vec::new();
        for _ in 0..8 {
            limits.push(backoff.attempt_limit(usual).as_millis());
            backoff.pause(0.0);
        }
        assert_eq!(limits, [1_000, 1_000, 1_000, 2_200, 1_000, 1_000, 1_000, 2_200]);
    }
}
