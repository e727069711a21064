//! What is claimed of ReLoRA (`claims.toml`), held against a suite.
//!
//! A claim is judged only by what it is about: where it names sizes, runs of other sizes leave it untested, however they came
//! out. Where several methods are compared, their p-values are adjusted together.

use crate::frame::Runs;
use crate::statistics::{
    Difference, Estimate, SIGNIFICANCE, holm, mean_interval, paired, pairs_needed,
};
use serde::{Deserialize, Serialize};

/// A claim as it is made, and what would show it.
#[derive(Clone, Debug, Deserialize)]
pub struct Claim {
    /// Its number in the list.
    pub number: u64,
    /// What is claimed.
    pub statement: String,
    /// Where.
    pub source: String,
    /// Sizes that it is made of; none: of any.
    #[serde(default)]
    sizes: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Test {
    /// A lower validation loss than each of the others.
    Better { method: String, than: Vec<String> },
    /// A higher one.
    Worse { method: String, than: Vec<String> },
    /// Equal but for a margin, nats.
    Equal {
        method: String,
        to: String,
        margin: f64,
    },
    /// The difference falls from size to size.
    Narrows { method: String, to: String },
    /// The loss behind a restart rises further.
    Spikes { method: String, over: String },
    /// Successive products write to directions further apart.
    Turns { method: String, more_than: String },
    /// The update's effective rank is above the rank of one product.
    RankAboveOneProduct { method: String },
    /// Fewer singular values of the update below 0.1.
    FewerSmallValues { method: String, than: String },
    /// A smaller peak.
    LessMemory { method: String, than: String },
    /// Optimizer state over weights.
    StateToWeights {
        method: String,
        about: f64,
        within: f64,
    },
    /// What no suite can show.
    Elsewhere { needs: String },
}

/// How a claim stands by a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The figures show it.
    Reproduced,
    /// They show the contrary.
    Refuted,
    /// They are about it, and cannot tell.
    Underpowered,
    /// They are not about it.
    NotTested,
}

impl Verdict {
    /// The verdict in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Reproduced => "reproduced",
            Verdict::Refuted => "refuted",
            Verdict::Underpowered => "underpowered",
            Verdict::NotTested => "not tested",
        }
    }
}

/// A claim with what a suite says of it.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// [`Claim::number`].
    pub number: u64,
    /// [`Claim::statement`].
    pub statement: String,
    /// [`Claim::source`].
    pub source: String,
    /// How it stands.
    pub verdict: Verdict,
    /// The figures behind that, size by size; of other sizes too, which decide nothing.
    pub figures: Vec<String>,
    /// What would be needed to tell, where the suite does not.
    pub needed: Option<String>,
}

/// All claims, in their order.
///
/// # Panics
///
/// Never: the list is part of the program, and a test reads it.
#[must_use]
pub fn all() -> Vec<Claim> {
    #[derive(Deserialize)]
    struct List {
        claim: Vec<Claim>,
    }
    let list: List = toml::from_str(include_str!("claims.toml")).expect("the list is valid");
    list.claim
}

/// What a suite says of each claim.
#[must_use]
pub fn judge(runs: &Runs) -> Vec<Judgement> {
    all().into_iter().map(|claim| claim.judge(runs)).collect()
}

/// What the runs of one size say, and in figures.
struct Found {
    verdict: Verdict,
    figures: String,
    needed: Option<String>,
}

impl Claim {
    fn judge(self, runs: &Runs) -> Judgement {
        let judgement = |verdict, figures, needed| Judgement {
            number: self.number,
            statement: self.statement.clone(),
            source: self.source.clone(),
            verdict,
            figures,
            needed,
        };
        if let Test::Elsewhere { needs } = &self.test {
            return judgement(Verdict::NotTested, Vec::new(), Some(needs.clone()));
        }
        let sizes = runs.sizes();
        if let Test::Narrows { method, to } = &self.test {
            let found = narrows(runs, &sizes, method, to);
            let is_about = sizes.iter().any(|size| self.is_about(size));
            let verdict = if is_about {
                found.verdict
            } else {
                Verdict::NotTested
            };
            let figures = (!found.figures.is_empty()).then_some(found.figures);
            return judgement(verdict, figures.into_iter().collect(), found.needed);
        }
        let mut figures = Vec::new();
        let mut verdicts = Vec::new();
        let mut needed = Vec::new();
        for size in &sizes {
            let found = self.test.judge(runs, size);
            if !found.figures.is_empty() {
                figures.push(format!("{size}: {}", found.figures));
            }
            if self.is_about(size) {
                verdicts.push(found.verdict);
                needed.extend(found.needed.map(|needed| format!("{size}: {needed}")));
            }
        }
        if verdicts.is_empty() {
            let sizes = format!("runs of {}", self.sizes.join(", "));
            return judgement(Verdict::NotTested, figures, Some(sizes));
        }
        // A claim about all sizes falls with one of them, and stands where all that were trained show it.
        let verdict = [Verdict::Refuted, Verdict::Underpowered, Verdict::Reproduced]
            .into_iter()
            .find(|verdict| verdicts.contains(verdict))
            .unwrap_or(Verdict::NotTested);
        let needed = (!needed.is_empty()).then(|| needed.join("; "));
        judgement(verdict, figures, needed)
    }

    fn is_about(&self, size: &str) -> bool {
        self.sizes.is_empty() || self.sizes.iter().any(|of| of == size)
    }
}

impl Test {
    fn judge(&self, runs: &Runs, size: &str) -> Found {
        match self {
            Test::Better { method, than } => all_of(runs, size, method, than, -1.0),
            Test::Worse { method, than } => all_of(runs, size, method, than, 1.0),
            Test::Equal { method, to, margin } => equal(runs, size, method, to, *margin),
            Test::Spikes { method, over } => {
                let spikes = |method: &str| runs.spikes(size, method);
                compared(
                    &spikes(method),
                    &spikes(over),
                    1.0,
                    "nats of spike",
                    method,
                    over,
                )
            }
            Test::Turns { method, more_than } => {
                let angles = |method: &str| runs.mean_angles(size, method);
                compared(
                    &angles(method),
                    &angles(more_than),
                    1.0,
                    "degrees",
                    method,
                    more_than,
                )
            }
            Test::FewerSmallValues { method, than } => {
                let small = |method: &str| runs.small_values(size, method);
                compared(
                    &small(method),
                    &small(than),
                    -1.0,
                    "singular values below 0.1",
                    method,
                    than,
                )
            }
            Test::LessMemory { method, than } => {
                let peak = |method: &str| runs.peaks(size, method);
                compared(
                    &peak(method),
                    &peak(than),
                    -1.0,
                    "MB of peak memory",
                    method,
                    than,
                )
            }
            Test::RankAboveOneProduct { method } => rank_above(runs, size, method),
            Test::StateToWeights {
                method,
                about,
                within,
            } => state_to_weights(runs, size, method, *about, *within),
            Test::Narrows { .. } | Test::Elsewhere { .. } => not_tested(String::new()),
        }
    }
}

fn not_tested(needed: String) -> Found {
    Found {
        verdict: Verdict::NotTested,
        figures: String::new(),
        needed: (!needed.is_empty()).then_some(needed),
    }
}

fn shown(estimate: &Estimate) -> String {
    match estimate.interval {
        Some(interval) => format!("{:+.4} ± {:.4}", estimate.point, interval.half_width()),
        None => format!("{:+.4} (n = 1)", estimate.point),
    }
}

fn seeds_for(difference: &Difference, level: f64) -> String {
    let Some(error) = difference.estimate.standard_error else {
        return "at least two seeds".to_owned();
    };
    let deviation = error * (difference.estimate.n as f64).sqrt();
    match pairs_needed(difference.estimate.point, deviation, level) {
        Some(pairs) => format!("about {pairs} seeds, if the true difference is the one seen"),
        None => "more seeds than anyone trains, if the true difference is the one seen".to_owned(),
    }
}

/// Whether a method's loss is lower (`sign` -1) or higher (1) than each of the others'.
fn all_of(runs: &Runs, size: &str, method: &str, others: &[String], sign: f64) -> Found {
    let differences: Vec<(&String, Difference)> = others
        .iter()
        .filter_map(|other| Some((other, runs.difference(size, method, other)?)))
        .collect();
    if differences.is_empty() {
        return not_tested(format!("{method} and {}", others.join(", ")));
    }
    let p_values: Vec<f64> = differences
        .iter()
        .map(|(_, it)| it.p.unwrap_or(1.0))
        .collect();
    let significant: Vec<bool> = holm(&p_values).iter().map(|p| *p < SIGNIFICANCE).collect();
    let as_claimed = |it: &Difference| it.estimate.point * sign > 0.0;
    let each = || differences.iter().zip(&significant);
    let verdict = if each().any(|((_, it), significant)| *significant && !as_claimed(it)) {
        Verdict::Refuted
    } else if each().all(|((_, it), significant)| *significant && as_claimed(it)) {
        if differences.len() == others.len() {
            Verdict::Reproduced
        } else {
            Verdict::NotTested
        }
    } else {
        Verdict::Underpowered
    };
    let figures: Vec<String> = differences
        .iter()
        .map(|(other, it)| format!("{method} - {other} {} nats", shown(&it.estimate)))
        .collect();
    let level = SIGNIFICANCE / differences.len() as f64;
    let needed: Vec<String> = each()
        .filter(|(_, significant)| !**significant)
        .map(|((other, it), _)| format!("against {other} {}", seeds_for(it, level)))
        .collect();
    let missing: Vec<&str> = others
        .iter()
        .filter(|other| !differences.iter().any(|(it, _)| it == other))
        .map(String::as_str)
        .collect();
    let mut needed = needed;
    if !missing.is_empty() {
        needed.push(format!("runs of {}", missing.join(", ")));
    }
    Found {
        verdict,
        figures: figures.join(", "),
        needed: (!needed.is_empty()).then(|| needed.join(", ")),
    }
}

fn equal(runs: &Runs, size: &str, method: &str, to: &str, margin: f64) -> Found {
    let Some(difference) = runs.difference(size, method, to) else {
        return not_tested(format!("{method} and {to}"));
    };
    let outside = difference
        .estimate
        .interval
        .is_some_and(|it| it.low > margin || it.high < -margin);
    let verdict = if difference.is_within(margin) {
        Verdict::Reproduced
    } else if outside {
        Verdict::Refuted
    } else {
        Verdict::Underpowered
    };
    // To exclude the margin where there is no difference takes about as many seeds as to find one of its size.
    let needed = (verdict == Verdict::Underpowered).then(|| {
        let as_large = Difference {
            estimate: Estimate {
                point: margin,
                ..difference.estimate
            },
            ..difference
        };
        seeds_for(&as_large, SIGNIFICANCE).replace("the one seen", "zero")
    });
    Found {
        verdict,
        figures: format!(
            "{method} - {to} {} nats, margin {margin}",
            shown(&difference.estimate)
        ),
        needed,
    }
}

/// A figure of each seed of two methods, and whether the first is larger (`sign` 1) or smaller (-1).
fn compared(
    left: &[(u64, f64)],
    right: &[(u64, f64)],
    sign: f64,
    unit: &str,
    method: &str,
    other: &str,
) -> Found {
    let common = left.iter().filter_map(|(seed, value)| {
        let (_, other) = right.iter().find(|(it, _)| it == seed)?;
        Some((*value, *other))
    });
    let (left, right): (Vec<f64>, Vec<f64>) = common.unzip();
    let Some(difference) = paired(&left, &right) else {
        return not_tested(format!("{unit} of {method} and {other}"));
    };
    let significant = difference.p.is_some_and(|p| p < SIGNIFICANCE);
    let as_claimed = difference.estimate.point * sign > 0.0;
    let verdict = match (significant, as_claimed) {
        (true, true) => Verdict::Reproduced,
        (true, false) => Verdict::Refuted,
        (false, _) => Verdict::Underpowered,
    };
    Found {
        verdict,
        figures: format!("{method} - {other} {} {unit}", shown(&difference.estimate)),
        needed: (!significant).then(|| seeds_for(&difference, SIGNIFICANCE)),
    }
}

fn rank_above(runs: &Runs, size: &str, method: &str) -> Found {
    let excess = runs.rank_beyond_one_product(size, method);
    let values: Vec<f64> = excess.iter().map(|(_, value)| *value).collect();
    let Some(estimate) = mean_interval(&values) else {
        return not_tested(format!("spectra of {method} (relora spectra)"));
    };
    let verdict = match estimate.interval {
        Some(interval) if interval.low > 0.0 => Verdict::Reproduced,
        Some(interval) if interval.high < 0.0 => Verdict::Refuted,
        _ => Verdict::Underpowered,
    };
    Found {
        verdict,
        figures: format!(
            "effective rank of {method}'s update minus the rank of one product {}",
            shown(&estimate)
        ),
        needed: (verdict == Verdict::Underpowered).then(|| "more seeds".to_owned()),
    }
}

fn state_to_weights(runs: &Runs, size: &str, method: &str, about: f64, within: f64) -> Found {
    let Some(ratio) = runs.state_to_weights(size, method) else {
        return not_tested(method.to_owned());
    };
    // A count of bytes, which no seed changes.
    let verdict = if (ratio - about).abs() <= within {
        Verdict::Reproduced
    } else {
        Verdict::Refuted
    };
    Found {
        verdict,
        figures: format!("{ratio:.2} times the weights at {method}"),
        needed: None,
    }
}

/// The slope of the difference over the logarithm of the size, by least squares within each seed that all sizes have.
fn narrows(runs: &Runs, sizes: &[String], method: &str, to: &str) -> Found {
    let of_sizes: Vec<(f64, Vec<(u64, f64)>)> = sizes
        .iter()
        .filter_map(|size| {
            let gaps = runs.gaps(size, method, to);
            Some((runs.parameters(size, to)?, gaps)).filter(|(_, gaps)| !gaps.is_empty())
        })
        .collect();
    if of_sizes.len() < 2 {
        return not_tested(format!("{method} and {to} at two sizes or more"));
    }
    let seeds = of_sizes[0].1.iter().map(|(seed, _)| *seed);
    let slopes: Vec<f64> = seeds
        .filter_map(|seed| {
            let points: Vec<(f64, f64)> = of_sizes
                .iter()
                .map(|(parameters, gaps)| {
                    let (_, gap) = gaps.iter().find(|(it, _)| *it == seed)?;
                    Some((parameters.ln(), *gap))
                })
                .collect::<Option<_>>()?;
            Some(slope(&points))
        })
        .collect();
    let Some(difference) = paired(&slopes, &vec![0.0; slopes.len()]) else {
        return not_tested("a seed that is complete at all sizes".to_owned());
    };
    let significant = difference.p.is_some_and(|p| p < SIGNIFICANCE);
    let verdict = match (significant, difference.estimate.point < 0.0) {
        (true, true) => Verdict::Reproduced,
        (true, false) => Verdict::Refuted,
        (false, _) => Verdict::Underpowered,
    };
    Found {
        verdict,
        figures: format!(
            "{method} - {to}: {} nats for each e-fold of parameters",
            shown(&difference.estimate)
        ),
        needed: (!significant).then(|| seeds_for(&difference, SIGNIFICANCE)),
    }
}

fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(sum_x, sum_y), (x, y)| {
        (sum_x + x / n, sum_y + y / n)
    });
    let (covariance, variance) = points.iter().fold((0.0, 0.0), |(xy, xx), (x, y)| {
        (xy + (x - mean_x) * (y - mean_y), xx + (x - mean_x).powi(2))
    });
    covariance / variance
}
