//! Bias-corrected and accelerated bootstrap intervals of a mean (Efron 1987): a second opinion beside Student's t, which
//! takes values as normal. With few seeds neither is exact, and this one is the narrower: resamples cannot leave the range
//! of what was seen.

use super::distributions::{normal_cdf, normal_quantile};
use super::{Interval, LEVEL, mean};

/// Resamples where there are too many to take each once.
const RESAMPLES: usize = 20_000;

/// Most resamples that are enumerated: all 6^6 of six values.
const ENUMERATED: usize = 50_000;

/// The interval of a mean at [`LEVEL`]; none for fewer than two values, or where all are equal.
///
/// Of up to six values all resamples are taken once; of more, 20,000 drawn by a generator that begins at the same place
/// every time, so that the same values always have the same interval.
#[must_use]
pub fn bca(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    if n < 2 || values.iter().all(|value| *value == values[0]) {
        return None;
    }
    let mut means = resampled_means(values);
    means.sort_by(f64::total_cmp);
    let observed = mean(values);
    // Ties count half, as a mean that is as large as the observed one is neither above nor below it. Sums of the same
    // values in another order differ by rounding.
    let close = 1e-12 * observed.abs().max(means[means.len() - 1] - means[0]);
    let below = means.partition_point(|mean| *mean < observed - close);
    let up_to = means.partition_point(|mean| *mean <= observed + close);
    let bias = normal_quantile((below + up_to) as f64 / 2.0 / means.len() as f64);
    let acceleration = acceleration(values);
    let end = |probability: f64| {
        let z = bias + normal_quantile(probability);
        quantile(&means, normal_cdf(bias + z / (1.0 - acceleration * z)))
    };
    Some(Interval {
        level: LEVEL,
        low: end((1.0 - LEVEL) / 2.0),
        high: end((1.0 + LEVEL) / 2.0),
    })
}

/// A sixth of the skewness of the jackknife's means.
fn acceleration(values: &[f64]) -> f64 {
    let total: f64 = values.iter().sum();
    let without: Vec<f64> = values
        .iter()
        .map(|value| (total - value) / (values.len() - 1) as f64)
        .collect();
    let centre = mean(&without);
    let sum_of = |power: i32| {
        without
            .iter()
            .map(|it| (centre - it).powi(power))
            .sum::<f64>()
    };
    let squares = sum_of(2);
    if squares > 0.0 {
        sum_of(3) / (6.0 * squares.powf(1.5))
    } else {
        0.0
    }
}

fn resampled_means(values: &[f64]) -> Vec<f64> {
    let n = values.len();
    let all = u32::try_from(n)
        .ok()
        .and_then(|exponent| n.checked_pow(exponent))
        .filter(|all| *all <= ENUMERATED);
    let mut indices = vec![0; n];
    let mean_of =
        |indices: &[usize]| indices.iter().map(|&index| values[index]).sum::<f64>() / n as f64;
    match all {
        Some(all) => (0..all)
            .map(|number| {
                let mut rest = number;
                for index in &mut indices {
                    *index = rest % n;
                    rest /= n;
                }
                mean_of(&indices)
            })
            .collect(),
        None => {
            let mut state = 0_u64;
            (0..RESAMPLES)
                .map(|_| {
                    indices.fill_with(|| below(&mut state, n));
                    mean_of(&indices)
                })
                .collect()
        }
    }
}

/// A number below `n` by SplitMix64 (Steele, Lea and Flood 2014); of so few values the bias of the product is below 1e-17.
fn below(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    ((u128::from(mixed) * n as u128) >> 64) as usize
}

/// The quantile of sorted values, between neighbours in proportion.
fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let place = probability.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let lower = place.floor() as usize;
    let upper = (lower + 1).min(sorted.len() - 1);
    sorted[lower] + (sorted[upper] - sorted[lower]) * (place - lower as f64)
}
