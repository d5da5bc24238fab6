//! Full jitter: the wait before attempt n is drawn evenly from 0 to min(30 s, 0.5 s · 2ⁿ).

use std::time::Duration;

/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(30);

/// The wait before the attempt after `failures` failures in a row; `random` is from 0 up to 1.
pub(super) fn wait(failures: u32, random: f64) -> Duration {
    let bound = Duration::from_millis(500) * 2u32.pow(failures.min(6));
    bound.min(LONGEST).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_from_half_a_second_to_thirty_seconds() {
        let bounds: Vec<_> = [0, 1, 2, 5, 6, 60].map(|failures| wait(failures, 1.0).as_millis()).into();
        assert_eq!(bounds, [500, 1_000, 2_000, 16_000, 30_000, 30_000]);
        assert_eq!(wait(9, 0.0), Duration::ZERO);
    }
}
