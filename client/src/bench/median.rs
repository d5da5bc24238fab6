//! The median of a few ratios, and how far it can be trusted.

use serde::Serialize;

/// A median with an interval that holds the true one.
///
/// The interval lies between two order statistics: whatever the ratios' distribution is, each of them is below the true
/// median with probability one half, so the number of those below is binomial (Conover, Practical Nonparametric
/// Statistics, 3rd edition, section 3.2). Nothing is assumed but that pairs are independent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Median {
    /// The middle value; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The probability that the interval holds the true median: 0.95 or more from six values on, below that what
    /// smallest and greatest give.
    pub confidence: f64,
}

/// The least confidence that an interval is chosen for.
const CONFIDENCE: f64 = 0.95;

impl Median {
    /// Of some values; `None` of none, and where one is not finite.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let count = sorted.len();
        let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
        // The narrowest interval that still holds the median often enough: `cut` values are left out at each end.
        let (mut cut, mut confidence) = (0, 1.0 - 2.0 * at_most(0, count));
        while 2 * (cut + 1) < count && 1.0 - 2.0 * at_most(cut + 1, count) >= CONFIDENCE {
            cut += 1;
            confidence = 1.0 - 2.0 * at_most(cut, count);
        }
        Some(Self { median, low: sorted[cut], high: sorted[count - 1 - cut], confidence: confidence.max(0.0) })
    }
}

/// The probability of at most so many heads in `count` throws of a fair coin.
fn at_most(heads: usize, count: usize) -> f64 {
    let mut probability = 0.5_f64.powf(count as f64);
    let mut sum = probability;
    for number in 1..=heads {
        probability *= (count + 1 - number) as f64 / number as f64;
        sum += probability;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Confidences as in the tables of the sign test.
    #[test]
    fn the_interval_of_ten_values_runs_from_the_second_to_the_ninth() {
        let values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        let median = Median::of(&values).expect("values");
        assert_eq!((median.median, median.low, median.high), (5.5, 2.0, 9.0));
        assert!((median.confidence - (1.0 - 22.0 / 1_024.0)).abs() < 1e-12, "{median:?}");
    }

    #[test]
    fn few_values_give_their_ends_and_say_how_little_that_is() {
        let one = Median::of(&[3.0]).expect("a value");
        assert_eq!((one.median, one.low, one.high, one.confidence), (3.0, 3.0, 3.0, 0.0));
        let five = Median::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).expect("values");
        assert_eq!((five.median, five.low, five.high, five.confidence), (3.0, 1.0, 5.0, 0.9375));
        let six = Median::of(&[6.0, 5.0, 1.0, 4.0, 2.0, 3.0]).expect("values");
        assert_eq!((six.low, six.high, six.confidence), (1.0, 6.0, 0.96875));
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        // All 2^15 ways in which fifteen values may lie on the two sides of the true median.
        let count = 15_usize;
        let values: Vec<f64> = (0..count).map(|value| value as f64).collect();
        let median = Median::of(&values).expect("values");
        let held = (0..1_u32 << count)
            .filter(|sides| {
                let below = f64::from(sides.count_ones()) - 0.5;
                median.low < below && below < median.high
            })
            .count();
        let often = held as f64 / f64::from(1_u32 << count);
        assert!((often - median.confidence).abs() < 1e-12, "{often} {median:?}");
        assert!(often >= CONFIDENCE);
    }

    #[test]
    fn nothing_and_what_is_no_number_have_no_median() {
        assert_eq!(Median::of(&[]), None);
        assert_eq!(Median::of(&[1.0, f64::NAN]), None);
        assert_eq!(Median::of(&[1.0, f64::INFINITY]), None);
    }
}
