//! Tails, quantiles and power of the normal distribution and of Student's t.

use std::f64::consts::{PI, SQRT_2};

/// t with P(|T| ≥ t) = `p` for Student's t with the given degrees of freedom (at least one), for 0 < p < 1.
pub fn critical_value(p: f64, degrees: usize) -> f64 {
    // The tail falls as t grows: double until t lies beyond the answer.
    let mut high = 1.0;
    while two_sided_p(high, degrees) > p {
        high *= 2.0;
    }
    where_it_turns(0.0, high, |t| two_sided_p(t, degrees) > p)
}

/// The end of the stretch from `low` on where a condition holds, which it does not at `high`: halves until no float is left
/// between.
pub fn where_it_turns(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// P(|T| ≥ |t|) for Student's t with ν degrees of freedom (at least one): I_x(ν/2, 1/2) at x = ν / (ν + t²), where I is the
/// regularised incomplete beta function. It is taken from the side on which its continued fraction converges quickly, which
/// is also the side that keeps the digits of a small p.
pub fn two_sided_p(t: f64, degrees: usize) -> f64 {
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

/// P(F ≥ f) for the ratio of two variances with so many degrees of freedom: I_x(d₂/2, d₁/2) at x = d₂ / (d₂ + d₁ f).
pub fn f_tail(f: f64, degrees: usize, other_degrees: usize) -> f64 {
    let (own, other) = (degrees as f64, other_degrees as f64);
    let whole = other + own * f;
    let (x, complement) = (other / whole, own * f / whole);
    let (a, b) = (other / 2.0, own / 2.0);
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

/// P(Z ≤ z) for the standard normal distribution.
pub fn normal_cdf(z: f64) -> f64 {
    libm::erfc(-z / SQRT_2) / 2.0
}

/// z with P(Z ≤ z) = `p` for the standard normal distribution; infinite at 0 and 1.
pub fn normal_quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    // Beyond ±40 the tail is below the smallest float.
    where_it_turns(-40.0, 40.0, |z| normal_cdf(z) < p)
}

/// The chance that a two-sided t-test at a level rejects, where its statistic is noncentral t: (Z + δ) / U with Z normal and
/// U² = χ²_ν / ν. Given U = u that is P(|Z + δ| > c·u) with the critical value c, here integrated over the density of U.
pub fn power(noncentrality: f64, degrees: usize, level: f64) -> f64 {
    let critical = critical_value(level, degrees);
    let nu = degrees as f64;
    let log_constant =
        (nu / 2.0) * (nu / 2.0).ln() + std::f64::consts::LN_2 - libm::lgamma(nu / 2.0);
    let integrand = |u: f64| {
        let log_density = log_constant + (nu - 1.0) * u.ln() - nu * u * u / 2.0;
        let density = if u > 0.0 {
            log_density.exp()
        } else if degrees == 1 {
            (2.0 / PI).sqrt()
        } else {
            0.0
        };
        let above = normal_cdf(noncentrality - critical * u);
        let below = normal_cdf(-noncentrality - critical * u);
        density * (above + below)
    };
    // U is about 1 ± 1/√(2ν); what is left out on the right is below 1e-18 of it.
    let far = 1.0 + 9.0 / nu.sqrt();
    // The normal tail falls from one to nothing within a few 1/c of δ/c: each stretch has steps of its own.
    let turn = |offset: f64| ((noncentrality + offset) / critical).clamp(0.0, far);
    let ends = [0.0, turn(-9.0), turn(9.0), far];
    ends.windows(2)
        .map(|ends| integral(ends[0], ends[1], integrand))
        .sum()
}

/// Simpson's rule over ever more steps, until that changes nothing.
fn integral(from: f64, to: f64, f: impl Fn(f64) -> f64) -> f64 {
    if to <= from {
        return 0.0;
    }
    let simpson = |steps: u32| {
        let width = (to - from) / f64::from(steps);
        let weighted = (0..=steps).map(|step| {
            let weight = match step {
                0 => 1.0,
                step if step == steps => 1.0,
                step if step % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * f(from + width * f64::from(step))
        });
        weighted.sum::<f64>() * width / 3.0
    };
    let mut steps = 64;
    let mut value = simpson(steps);
    loop {
        steps *= 2;
        let finer = simpson(steps);
        if (finer - value).abs() <= 1e-12 || steps >= 1 << 16 {
            return finer;
        }
        value = finer;
    }
}
