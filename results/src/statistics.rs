//! What a handful of seeds can say: means with Student-t intervals, paired differences with p-values, and Holm's correction
//! for several comparisons. An [`Estimate`] carries its interval, or the fact that one value cannot have one.

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
    let p = estimate.standard_error.map(|error| {
        if error > 0.0 {
            two_sided_p(estimate.point / error, estimate.n - 1)
        } else if estimate.point == 0.0 {
            1.0
        } else {
            0.0
        }
    });
    Some(Difference { estimate, p })
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

/// t with P(|T| ≥ t) = `p` for Student's t with the given degrees of freedom (at least one), for 0 < p < 1.
fn critical_value(p: f64, degrees: usize) -> f64 {
    // The tail falls as t grows: double until t lies beyond the answer, then halve until no float is left between.
    let mut high = 1.0;
    while two_sided_p(high, degrees) > p {
        high *= 2.0;
    }
    let mut low = 0.0;
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if two_sided_p(middle, degrees) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// P(|T| ≥ |t|) for Student's t with ν degrees of freedom (at least one): I_x(ν/2, 1/2) at x = ν / (ν + t²), where I is the
/// regularised incomplete beta function. It is taken from the side on which its continued fraction converges quickly, which
/// is also the side that keeps the digits of a small p.
fn two_sided_p(t: f64, degrees: usize) -> f64 {
    let degrees = degrees as f64;
    let square = t * t;
    if square.is_infinite() {
        return 0.0;
    }
    let (x, complement) = (degrees / (degrees + square), square / (degrees + square));
    let (a, b) = (degrees / 2.0, 0.5);
    if x < (a + 1.0) / (a + b + 2.0) {
        incomplete_beta(x, complement, a, b)
    } else {
        1.0 - incomplete_beta(complement, x, b, a)
    }
}

/// I_x(a, b) with `complement` = 1 - x, for x < (a + 1) / (a + b + 2): the prefactor x^a (1 - x)^b / (a B(a, b)) times the
/// continued fraction 1 / (1 + d₁ / (1 + d₂ / ..)) of DLMF 8.17.22, evaluated from the front (modified Lentz).
fn incomplete_beta(x: f64, complement: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let log_beta = libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let prefactor = (a * x.ln() + b * complement.ln() - log_beta).exp() / a;
    // Stands in for a denominator that happens to vanish.
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut fraction, mut numerator, mut denominator) = (1.0, 1.0, 0.0);
    // Some tens of terms suffice on this side for any number of seeds; the bound only ends what rounding keeps from settling.
    for index in 1..=10_000_u32 {
        let m = f64::from(index / 2);
        let coefficient = if index % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        denominator = 1.0 / away_from_zero(1.0 + coefficient * denominator);
        numerator = away_from_zero(1.0 + coefficient / numerator);
        let factor = numerator * denominator;
        fraction *= factor;
        if (factor - 1.0).abs() <= f64::EPSILON {
            break;
        }
    }
    prefactor / fraction
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
