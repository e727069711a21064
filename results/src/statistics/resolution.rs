//! What a number of seeds can tell apart, and how many it takes: the power of the paired t-test.

use super::distributions::{power, where_it_turns};
use super::{Estimate, SIGNIFICANCE};

/// How often a difference should be found where it is there.
pub const POWER: f64 = 0.8;

/// Most seeds that [`pairs_needed`] answers with.
pub const MOST_PAIRS: usize = 10_000;

/// Level of each test that Holm's correction leaves in any case to one of so many comparisons.
#[must_use]
pub fn strictest_level(comparisons: usize) -> f64 {
    SIGNIFICANCE / comparisons.max(1) as f64
}

/// The smallest true difference that as many pairs with this spread would call significant at a level in [`POWER`] of all
/// cases; none for one pair, which has no spread.
#[must_use]
pub fn smallest_difference(estimate: &Estimate, level: f64) -> Option<f64> {
    let error = estimate.standard_error?;
    Some(smallest_with(error, estimate.n - 1, level))
}

/// The same of a mean with this standard error, which has so many degrees of freedom.
#[must_use]
pub fn smallest_with(error: f64, degrees: usize, level: f64) -> f64 {
    let mut high = 1.0;
    while power(high, degrees, level) < POWER {
        high *= 2.0;
    }
    error * where_it_turns(0.0, high, |it| power(it, degrees, level) < POWER)
}

/// The least number of pairs, at least two, with which a true difference would be called significant at a level in [`POWER`]
/// of all cases, where single differences have this standard deviation; none above [`MOST_PAIRS`], nor for no difference.
#[must_use]
pub fn pairs_needed(difference: f64, deviation: f64, level: f64) -> Option<usize> {
    if difference == 0.0 {
        return None;
    }
    if deviation <= 0.0 {
        return Some(2);
    }
    let suffices = |pairs: usize| {
        let noncentrality = difference.abs() / deviation * (pairs as f64).sqrt();
        power(noncentrality, pairs - 1, level) >= POWER
    };
    if !suffices(MOST_PAIRS) {
        return None;
    }
    let (mut low, mut high) = (1, MOST_PAIRS);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if suffices(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}
