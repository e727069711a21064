//! What a handful of seeds can say: means with Student-t intervals, paired differences with p-values, Holm's correction for
//! several comparisons, and what so many seeds can resolve at all. An [`Estimate`] carries its interval, or the fact that one
//! value cannot have one.

mod bootstrap;
mod distributions;
mod resolution;

pub use bootstrap::bca;
pub use resolution::{
    MOST_PAIRS, POWER, pairs_needed, smallest_difference, smallest_with, strictest_level,
};

use distributions::{critical_value, f_tail, two_sided_p};
use serde::Serialize;

/// Confidence level of every interval in the tables.
pub const LEVEL: f64 = 0.95;

/// A difference is called better or worse where its Holm-adjusted p-value lies below this.
pub const SIGNIFICANCE: f64 = 0.05;

/// A mean over seeds with what is known about its error.
///
/// One value has a point and nothing else: `standard_error` and `interval` are absent, and whoever shows it shows `n = 1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub point: f64,
    /// Sample standard deviation (divisor n - 1) over √n; absent for n = 1.
    pub standard_error: Option<f64>,
    /// Student-t interval with n - 1 degrees of freedom; absent for n = 1.
    pub interval: Option<Interval>,
    /// Number of values.
    pub n: usize,
}

/// A two-sided confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Confidence level, e.g. 0.95.
    pub level: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The mean difference of paired values, with the test of its being zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Mean of left minus right over the pairs.
    pub estimate: Estimate,
    /// Two-sided p-value of the paired t-test; absent for one pair.
    pub p: Option<f64>,
}

impl Difference {
    /// p-value of the true difference being `margin` or more: one-sided, by t. None for one pair.
    #[must_use]
    pub fn p_below(&self, margin: f64) -> Option<f64> {
        let Estimate {
            point,
            standard_error,
            n,
            ..
        } = self.estimate;
        let two_sided = p_of(margin - point, standard_error?, n - 1)?;
        Some(if point < margin {
            two_sided / 2.0
        } else {
            1.0 - two_sided / 2.0
        })
    }

    /// p-value of the true difference being `margin` or more, either way: the larger of two one-sided t-tests (Schuirmann
    /// 1987). None for one pair.
    #[must_use]
    pub fn p_within(&self, margin: f64) -> Option<f64> {
        let mut away = *self;
        away.estimate.point = self.estimate.point.abs();
        away.p_below(margin)
    }
}

impl Estimate {
    /// Carries the estimate through a monotone increasing function: the ends of the interval are mapped, so it keeps its
    /// level and may become lopsided. The standard error does not survive and is absent.
    #[must_use]
    pub fn map(&self, increasing: impl Fn(f64) -> f64) -> Estimate {
        Estimate {
            point: increasing(self.point),
            standard_error: None,
            interval: self.interval.map(|interval| Interval {
                level: interval.level,
                low: increasing(interval.low),
                high: increasing(interval.high),
            }),
            n: self.n,
        }
    }
}

impl Interval {
    /// Half the width: what stands behind `±` for an interval that is symmetric about its point.
    #[must_use]
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// Mean with a Student-t interval at [`LEVEL`]. None for no values; no interval for one.
#[must_use]
pub fn mean_interval(values: &[f64]) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let n = values.len();
    let point = mean(values);
    let standard_error = (n > 1).then(|| {
        let squares: f64 = values.iter().map(|value| (value - point).powi(2)).sum();
        (squares / (n - 1) as f64 / n as f64).sqrt()
    });
    let interval = standard_error.map(|error| {
        let half = critical_value(1.0 - LEVEL, n - 1) * error;
        Interval {
            level: LEVEL,
            low: point - half,
            high: point + half,
        }
    });
    Some(Estimate {
        point,
        standard_error,
        interval,
        n,
    })
}

/// Paired difference `left - right`, value by value, with the two-sided p-value of the paired t-test. None for no pairs.
///
/// Pairs that all differ by the same amount have no spread: p is then 1 where that amount is zero and 0 elsewhere, the
/// limits of the test. Only as many values are paired as both slices have.
#[must_use]
pub fn paired(left: &[f64], right: &[f64]) -> Option<Difference> {
    let differences: Vec<f64> = left
        .iter()
        .zip(right)
        .map(|(left, right)| left - right)
        .collect();
    let estimate = mean_interval(&differences)?;
    let p = estimate
        .standard_error
        .and_then(|error| p_of(estimate.point, error, estimate.n - 1));
    Some(Difference { estimate, p })
}

/// A mean whose standard error was estimated from more than its own values, with the degrees of freedom of that error: interval
/// and p-value.
#[must_use]
pub fn with_pooled_error(point: f64, error: f64, degrees: usize, n: usize) -> Difference {
    let half = critical_value(1.0 - LEVEL, degrees) * error;
    let estimate = Estimate {
        point,
        standard_error: Some(error),
        interval: Some(Interval {
            level: LEVEL,
            low: point - half,
            high: point + half,
        }),
        n,
    };
    Difference {
        estimate,
        p: p_of(point, error, degrees),
    }
}

/// Whether a variance is larger than another one by more than chance makes it, by an F-test at [`SIGNIFICANCE`].
#[must_use]
pub fn is_larger(variance: (f64, usize), other: (f64, usize)) -> bool {
    let ratio = variance.0 / other.0;
    ratio.is_finite() && f_tail(ratio, variance.1, other.1) < SIGNIFICANCE
}

/// Two-sided p-value of a mean with its standard error; none where that is no number. Without spread p is 1 where the mean is
/// zero and 0 elsewhere, the limits of the test.
fn p_of(point: f64, error: f64, degrees: usize) -> Option<f64> {
    if !error.is_finite() {
        None
    } else if error > 0.0 {
        Some(two_sided_p(point / error, degrees))
    } else if point == 0.0 {
        Some(1.0)
    } else {
        Some(0.0)
    }
}

/// Holm's step-down adjustment (Holm 1979) of a family of p-values, in their own order: compared with a level, the adjusted
/// values keep the chance of any false rejection in the family below that level, whatever the dependence between the tests.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&left, &right| p_values[left].total_cmp(&p_values[right]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest_so_far = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        let remaining = (p_values.len() - rank) as f64;
        largest_so_far = largest_so_far.max((p_values[index] * remaining).min(1.0));
        adjusted[index] = largest_so_far;
    }
    adjusted
}

/// Arithmetic mean, summed in the order of the values, so that equal values in equal order give equal bits.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        survival: Vec<Survival>,
        quantile: Vec<Quantile>,
        paired: Vec<Paired>,
    }

    #[derive(Deserialize)]
    struct Survival {
        degrees: usize,
        t: f64,
        survival: f64,
    }

    #[derive(Deserialize)]
    struct Quantile {
        degrees: usize,
        probability: f64,
        t: f64,
    }

    #[derive(Deserialize)]
    struct Paired {
        left: Vec<f64>,
        right: Vec<f64>,
        difference: f64,
        p: f64,
        low: f64,
        high: f64,
        mean: f64,
        standard_error: f64,
        mean_low: f64,
        mean_high: f64,
    }

    #[derive(Deserialize)]
    struct Resolution {
        bca: Vec<Bootstrapped>,
        power: Vec<Power>,
        smallest: Vec<Smallest>,
        needed: Vec<Needed>,
        holm: Vec<Family>,
        normal: Vec<Normal>,
        f: Vec<Ratio>,
    }

    #[derive(Deserialize)]
    struct Ratio {
        degrees: [usize; 2],
        ratio: f64,
        above: f64,
    }

    #[derive(Deserialize)]
    struct Bootstrapped {
        values: Vec<f64>,
        low: f64,
        high: f64,
        exact: bool,
    }

    #[derive(Deserialize)]
    struct Power {
        pairs: usize,
        level: f64,
        effect: f64,
        power: f64,
    }

    #[derive(Deserialize)]
    struct Smallest {
        pairs: usize,
        level: f64,
        effect: f64,
    }

    #[derive(Deserialize)]
    struct Needed {
        effect: f64,
        level: f64,
        pairs: f64,
    }

    #[derive(Deserialize)]
    struct Family {
        p: Vec<f64>,
        adjusted: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Normal {
        z: f64,
        below: f64,
    }

    /// Values computed by scipy and statsmodels; the file says with which functions.
    fn resolution() -> Resolution {
        serde_json::from_str(include_str!("../tests/fixtures/resolution.json"))
            .expect("the fixture is valid")
    }

    /// Values computed by scipy; the file says with which functions.
    fn fixture() -> Fixture {
        serde_json::from_str(include_str!("../tests/fixtures/student_t.json"))
            .expect("the fixture is valid")
    }

    /// Relative to the larger of 1e-300 and the expected value: tails are compared by their digits, not by their size.
    fn assert_close(found: f64, expected: f64, relative: f64, what: &str) {
        assert!(
            (found - expected).abs() <= relative * expected.abs().max(1e-300),
            "{what}: {found} is not {expected}"
        );
    }

    #[test]
    fn tails_of_students_t_agree_with_scipy() {
        for case in fixture().survival {
            let found = two_sided_p(case.t, case.degrees);
            assert_close(
                found,
                2.0 * case.survival,
                1e-11,
                &format!("t {} with {} degrees", case.t, case.degrees),
            );
        }
    }

    #[test]
    fn quantiles_of_students_t_agree_with_scipy() {
        for case in fixture().quantile {
            let found = critical_value(2.0 * (1.0 - case.probability), case.degrees);
            assert_close(
                found,
                case.t,
                1e-11,
                &format!(
                    "probability {} with {} degrees",
                    case.probability, case.degrees
                ),
            );
        }
    }

    #[test]
    fn means_and_paired_differences_agree_with_scipy() {
        for case in fixture().paired {
            let found = mean_interval(&case.left).expect("there are values");
            let interval = found.interval.expect("there is more than one value");
            assert_close(found.point, case.mean, 1e-14, "mean");
            assert_close(
                found.standard_error.unwrap_or(f64::NAN),
                case.standard_error,
                1e-11,
                "standard error",
            );
            assert_close(interval.low, case.mean_low, 1e-11, "low end");
            assert_close(interval.high, case.mean_high, 1e-11, "high end");

            let found = paired(&case.left, &case.right).expect("there are pairs");
            let interval = found
                .estimate
                .interval
                .expect("there is more than one pair");
            // Differences of numbers near 4.5 that agree to 1e-2 lose three of sixteen digits.
            assert_close(found.estimate.point, case.difference, 1e-11, "difference");
            assert_close(interval.low, case.low, 1e-9, "low end of the difference");
            assert_close(interval.high, case.high, 1e-9, "high end of the difference");
            assert_close(found.p.unwrap_or(f64::NAN), case.p, 1e-9, "p-value");
        }
    }

    #[test]
    fn bootstrap_intervals_agree_with_scipy() {
        for case in resolution().bca {
            let found = bca(&case.values).expect("the values differ");
            let largest = case.values.iter().copied().fold(f64::MIN, f64::max);
            let smallest = case.values.iter().copied().fold(f64::MAX, f64::min);
            // An enumeration is the same to rounding; of draws, the ends scatter by some hundredths of the range.
            let tolerance = (largest - smallest) * if case.exact { 1e-9 } else { 0.02 };
            for (found, expected) in [(found.low, case.low), (found.high, case.high)] {
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{found} is not {expected} for {:?}",
                    case.values
                );
            }
        }
        assert_eq!(bca(&[0.5]), None);
        assert_eq!(bca(&[0.5, 0.5]), None);
    }

    #[test]
    fn normal_tails_and_quantiles_agree_with_scipy() {
        for case in resolution().normal {
            let below = distributions::normal_cdf(case.z);
            assert_close(below, case.below, 1e-13, "normal tail");
            let back = distributions::normal_quantile(case.below);
            assert!((back - case.z).abs() < 1e-12, "{back} is not {}", case.z);
        }
    }

    #[test]
    fn tails_of_f_agree_with_scipy() {
        for case in resolution().f {
            let [left, right] = case.degrees;
            let found = distributions::f_tail(case.ratio, left, right);
            assert_close(found, case.above, 1e-10, &format!("F {}", case.ratio));
        }
        assert!(is_larger((9.0, 2), (1.0, 28)) && !is_larger((2.0, 2), (1.0, 28)));
    }

    #[test]
    fn power_and_what_it_takes_agree_with_statsmodels() {
        for case in resolution().power {
            let noncentrality = case.effect * (case.pairs as f64).sqrt();
            let found = distributions::power(noncentrality, case.pairs - 1, case.level);
            let what = format!("{} pairs, effect {}", case.pairs, case.effect);
            assert_close(found, case.power, 1e-8, &what);
        }
        for case in resolution().smallest {
            let estimate = Estimate {
                point: 0.0,
                standard_error: Some(1.0 / (case.pairs as f64).sqrt()),
                interval: None,
                n: case.pairs,
            };
            let found = smallest_difference(&estimate, case.level).expect("there are pairs");
            // its solver stops that early
            assert_close(found, case.effect, 1e-5, "smallest difference");
        }
        for case in resolution().needed {
            let found = pairs_needed(case.effect, 1.0, case.level);
            assert_eq!(found, Some(case.pairs.ceil() as usize));
        }
        assert_eq!(pairs_needed(1e-6, 1.0, 0.05), None);
    }

    #[test]
    fn holm_agrees_with_statsmodels() {
        for case in resolution().holm {
            for (found, expected) in holm(&case.p).iter().zip(&case.adjusted) {
                assert_close(*found, *expected, 1e-12, "adjusted p");
            }
        }
    }

    /// By hand: mean 0.01 and standard error 0.002 over four pairs; t with three degrees has 2.3534 at 0.05 one-sided, so
    /// the interval of 90% ends at 0.01 + 0.0047.
    #[test]
    fn a_difference_is_within_a_margin_that_its_90_percent_interval_does_not_touch() {
        let is_within = |difference: &Difference, margin| {
            difference
                .p_within(margin)
                .is_some_and(|p| p < SIGNIFICANCE)
        };
        let spread = 0.002 * 3.0_f64.sqrt();
        let left = [0.01 - spread, 0.01 - spread, 0.01 + spread, 0.01 + spread];
        let difference = paired(&left, &[0.0; 4]).expect("there are pairs");
        assert!(is_within(&difference, 0.0148) && !is_within(&difference, 0.0146));
        // Below the margin, but on the far side of the other one.
        let far = paired(&[-0.02; 4], &left).expect("there are pairs");
        assert!(far.p_below(0.0148).is_some_and(|p| p < SIGNIFICANCE));
        assert!(!is_within(&far, 0.0148));
        assert!(!is_within(&paired(&[0.0], &[0.0]).expect("a pair"), 1.0));
    }

    /// Standard normal draws (Box and Muller 1958).
    fn normal_draws(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..count)
            .map(|_| {
                let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
                radius * (2.0 * std::f64::consts::PI * uniform()).cos()
            })
            .collect()
    }

    /// Losses of two methods with a true difference of 0.02 nats over seeds that move both by ten times their own noise, as
    /// ours do. How often does the interval hold the truth, and how often is a difference of none found significant?
    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        let (suites, bootstrapped) = (4000, 500);
        for (seeds, least_by_bootstrap) in [(3, 0.60), (5, 0.75), (10, 0.85), (20, 0.89)] {
            let (mut by_t, mut by_bootstrap, mut rejected) = (0, 0, 0);
            for suite in 0..suites {
                let draws = normal_draws(suite * 1000 + seeds as u64, 3 * seeds);
                let losses = |number: usize, shift: f64| {
                    let of_seed = move |(common, own): (&f64, &f64)| {
                        4.0 + shift + 0.05 * common + 0.005 * own
                    };
                    draws[..seeds]
                        .iter()
                        .zip(&draws[number * seeds..])
                        .map(of_seed)
                };
                let differences = |shift| -> Vec<f64> {
                    losses(1, shift)
                        .zip(losses(2, 0.0))
                        .map(|(left, right)| left - right)
                        .collect()
                };
                let covers = |interval: Option<Interval>| {
                    interval.is_some_and(|it| it.low <= 0.02 && 0.02 <= it.high)
                };
                let shifted = differences(0.02);
                by_t += u32::from(covers(mean_interval(&shifted).and_then(|it| it.interval)));
                if suite < bootstrapped {
                    by_bootstrap += u32::from(covers(bca(&shifted)));
                }
                let excludes_zero = |it: Interval| it.low > 0.0 || it.high < 0.0;
                let equal = mean_interval(&differences(0.0)).and_then(|it| it.interval);
                rejected += u32::from(equal.is_some_and(excludes_zero));
            }
            let of_all = |count: u32| f64::from(count) / suites as f64;
            let (by_t, rejected) = (of_all(by_t), of_all(rejected));
            let by_bootstrap = f64::from(by_bootstrap) / bootstrapped as f64;
            #[expect(clippy::print_stdout, reason = "the figures of docs/statistics.md")]
            {
                println!("| {seeds} | {by_t:.3} | {by_bootstrap:.2} | {rejected:.3} |");
            }
            // four standard errors of a share of 0.95 over the suites
            let error = 4.0 * (0.95 * 0.05 / suites as f64).sqrt();
            assert!((by_t - LEVEL).abs() < error, "{by_t}");
            assert!((rejected - SIGNIFICANCE).abs() < error, "{rejected}");
            // a bootstrap of few values covers less than it says: that is why verdicts go by t
            assert!(
                by_bootstrap > least_by_bootstrap && by_bootstrap < LEVEL + error,
                "{by_bootstrap}"
            );
        }
    }

    #[test]
    fn one_value_has_no_interval_and_no_p_value() {
        let estimate = mean_interval(&[4.5]).expect("there is a value");
        assert_eq!(
            estimate,
            Estimate {
                point: 4.5,
                standard_error: None,
                interval: None,
                n: 1
            }
        );
        assert_eq!(paired(&[4.5], &[4.25]).expect("there is a pair").p, None);
        assert_eq!(mean_interval(&[]), None);
        assert_eq!(paired(&[], &[]), None);
    }

    #[test]
    fn pairs_without_spread_take_the_limits_of_the_test() {
        assert_eq!(
            paired(&[1.0, 2.0], &[1.0, 2.0]).expect("there are pairs").p,
            Some(1.0)
        );
        assert_eq!(
            paired(&[1.5, 2.5], &[1.0, 2.0]).expect("there are pairs").p,
            Some(0.0)
        );
    }

    /// By hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 gives 0.02, 0.03, 0.06, 0.04, and the last may not fall.
    #[test]
    fn holm_steps_down_and_never_falls() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    fn losses(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(-20.0..20.0_f64, count)
    }

    proptest! {
        #[test]
        fn the_interval_holds_its_mean_and_the_mean_lies_within_the_values(values in losses(2..12)) {
            let estimate = mean_interval(&values).expect("there are values");
            let interval = estimate.interval.expect("there is more than one value");
            prop_assert!(interval.low <= estimate.point && estimate.point <= interval.high);
            let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
            let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(smallest - 1e-12 <= estimate.point && estimate.point <= largest + 1e-12);
        }

        #[test]
        fn swapping_the_sides_turns_the_sign_and_keeps_the_p_value(pairs in proptest::collection::vec((-9.0..9.0_f64, -9.0..9.0_f64), 2..10)) {
            let (left, right): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let forth = paired(&left, &right).expect("there are pairs");
            let back = paired(&right, &left).expect("there are pairs");
            prop_assert_eq!(forth.estimate.point, -back.estimate.point);
            prop_assert_eq!(forth.p, back.p);
        }

        #[test]
        fn the_p_value_is_below_the_level_exactly_where_the_interval_excludes_zero(pairs in proptest::collection::vec((-9.0..9.0_f64, -9.0..9.0_f64), 2..10)) {
            let (left, right): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let difference = paired(&left, &right).expect("there are pairs");
            let (Some(p), Some(interval)) = (difference.p, difference.estimate.interval) else {
                return Err(TestCaseError::fail("two pairs have an interval"));
            };
            // On the edge itself rounding may decide either way.
            prop_assume!((p - (1.0 - LEVEL)).abs() > 1e-9);
            prop_assert_eq!(p < 1.0 - LEVEL, interval.low > 0.0 || interval.high < 0.0);
        }

        #[test]
        fn holm_keeps_the_order_and_lies_between_the_value_and_bonferroni(p_values in proptest::collection::vec(0.0..=1.0_f64, 1..12)) {
            let adjusted = holm(&p_values);
            for (index, (&p, &q)) in p_values.iter().zip(&adjusted).enumerate() {
                prop_assert!(p <= q && q <= (p * p_values.len() as f64).min(1.0));
                for (other, &r) in p_values.iter().zip(&adjusted).skip(index + 1) {
                    prop_assert!((p <= *other) == (q <= r) || q == r);
                }
            }
        }

        #[test]
        fn an_increasing_map_keeps_the_interval_around_the_point(values in losses(2..8)) {
            let mapped = mean_interval(&values).expect("there are values").map(f64::exp);
            let interval = mapped.interval.expect("there is more than one value");
            prop_assert!(interval.low <= mapped.point && mapped.point <= interval.high);
            prop_assert_eq!(mapped.standard_error, None);
        }
    }
}
