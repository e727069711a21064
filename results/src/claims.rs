//! What is claimed of ReLoRA (`claims.toml`), held against a suite.
//!
//! A claim is judged only by what it is about: where it names sizes, runs of other sizes leave it untested, however they came
//! out. Where several methods are compared, their p-values are adjusted together, and the level is divided by the number of
//! sizes that were trained. Where a side has lost seeds to divergence, the others decide nothing.

use crate::frame::{Runs, pair};
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
    /// A lower one than not all of the others.
    NotBetterThanAll { method: String, than: Vec<String> },
    /// Higher by less than a margin, nats.
    NotWorse {
        method: String,
        than: String,
        margin: f64,
    },
    /// The difference is above zero, and falls from size to size.
    Narrows { method: String, to: String },
    /// The loss behind a restart rises further.
    Spikes { method: String, over: String },
    /// Successive products write to directions further apart.
    Turns { method: String, more_than: String },
    /// The update's effective rank is above that of its products, on average.
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
    /// Of how many of its sizes, where it names several and not all were trained.
    pub scope: Option<String>,
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
        let mut judgement = Judgement {
            number: self.number,
            statement: self.statement.clone(),
            source: self.source.clone(),
            verdict: Verdict::NotTested,
            scope: None,
            figures: Vec::new(),
            needed: None,
        };
        if let Test::Elsewhere { needs } = &self.test {
            judgement.needed = Some(needs.clone());
            return judgement;
        }
        let (own, other): (Vec<String>, Vec<String>) = runs
            .sizes()
            .into_iter()
            .partition(|size| self.is_about(size));
        let is_judged = |size: &String| match &self.test {
            Test::Narrows { method, to } => !runs.gaps(size, method, to).is_empty(),
            test => test.judge(runs, size, SIGNIFICANCE).verdict != Verdict::NotTested,
        };
        let judged = own.iter().filter(|size| is_judged(size)).count();
        let level = SIGNIFICANCE / judged.max(1) as f64;
        let (mut verdicts, mut needed) = (Vec::new(), Vec::new());
        if let Test::Narrows { method, to } = &self.test {
            let mut found = narrows(runs, &own, method, to);
            if found.verdict != Verdict::NotTested {
                for size in &own {
                    found = found.unless_diverged(runs, size, &[method, to]);
                }
            }
            verdicts.push(found.verdict);
            needed.extend(found.needed);
            judgement
                .figures
                .extend(Some(found.figures).filter(|it| !it.is_empty()));
        }
        for size in own.iter().chain(&other) {
            let found = self.test.judge(runs, size, level);
            if !found.figures.is_empty() {
                judgement.figures.push(format!("{size}: {}", found.figures));
            }
            if own.contains(size) && !matches!(self.test, Test::Narrows { .. }) {
                verdicts.push(found.verdict);
                needed.extend(found.needed.map(|needed| format!("{size}: {needed}")));
            }
        }
        // A claim about all sizes falls with one of them, and stands where all that were trained show it.
        let verdict = [Verdict::Refuted, Verdict::Underpowered, Verdict::Reproduced]
            .into_iter()
            .find(|verdict| verdicts.contains(verdict));
        judgement.verdict = verdict.unwrap_or(Verdict::NotTested);
        let missing: Vec<&str> = self
            .sizes
            .iter()
            .filter(|size| !own.contains(size))
            .map(String::as_str)
            .collect();
        if judgement.verdict != Verdict::NotTested && judged < self.sizes.len() {
            judgement.scope = Some(format!("{judged} of its {} sizes", self.sizes.len()));
        }
        if !missing.is_empty() {
            needed.push(format!("runs of {}", missing.join(", ")));
        }
        judgement.needed = (!needed.is_empty()).then(|| needed.join("; "));
        judgement
    }

    fn is_about(&self, size: &str) -> bool {
        self.sizes.is_empty() || self.sizes.iter().any(|of| of == size)
    }
}

impl Test {
    fn judge(&self, runs: &Runs, size: &str, level: f64) -> Found {
        let beside =
            |figure: &dyn Fn(&str) -> Vec<(u64, f64)>, sign, unit, method: &str, other: &str| {
                let (left, right) = (figure(method), figure(other));
                let found = compared(&left, &right, sign, level, unit, method, other);
                found.unless_diverged(runs, size, &[method, other])
            };
        match self {
            Test::Better { method, than } => all_of(runs, size, level, method, than)
                .unless_diverged(runs, size, &names(method, than)),
            Test::NotBetterThanAll { method, than } => {
                let found = all_of(runs, size, level, method, than);
                Found {
                    verdict: match found.verdict {
                        Verdict::Reproduced => Verdict::Refuted,
                        Verdict::Refuted => Verdict::Reproduced,
                        other => other,
                    },
                    ..found
                }
                .unless_diverged(runs, size, &names(method, than))
            }
            Test::NotWorse {
                method,
                than,
                margin,
            } => not_worse(runs, size, level, method, than, *margin).unless_diverged(
                runs,
                size,
                &[method, than],
            ),
            Test::Narrows { method, to } => Found {
                figures: runs
                    .difference(size, method, to)
                    .map_or_else(String::new, |it| {
                        format!("{method} - {to} {} nats", shown(&it.estimate))
                    }),
                ..not_tested(String::new())
            },
            Test::Spikes { method, over } => beside(
                &|it| runs.spikes(size, it),
                1.0,
                "nats of spike",
                method,
                over,
            ),
            Test::Turns { method, more_than } => beside(
                &|it| runs.mean_angles(size, it),
                1.0,
                "degrees",
                method,
                more_than,
            ),
            Test::FewerSmallValues { method, than } => {
                let unit = "singular values below 0.1";
                beside(&|it| runs.small_values(size, it), -1.0, unit, method, than)
            }
            Test::LessMemory { method, than } => {
                let unit = "MB of peak memory (not read on CUDA yet)";
                beside(&|it| runs.peaks(size, it), -1.0, unit, method, than)
            }
            Test::RankAboveOneProduct { method } => {
                rank_above(runs, size, level, method).unless_diverged(runs, size, &[method])
            }
            Test::StateToWeights {
                method,
                about,
                within,
            } => state_to_weights(runs, size, method, *about, *within),
            Test::Elsewhere { .. } => not_tested(String::new()),
        }
    }
}

fn names<'a>(method: &'a str, others: &'a [String]) -> Vec<&'a str> {
    std::iter::once(method)
        .chain(others.iter().map(String::as_str))
        .collect()
}

impl Found {
    /// Nothing is decided by the seeds that a side has survived.
    fn unless_diverged(mut self, runs: &Runs, size: &str, methods: &[&str]) -> Found {
        let is_missing = |method: &&str| runs.diverged(size, method).1 == 0;
        if self.verdict == Verdict::NotTested && methods.iter().any(is_missing) {
            return self;
        }
        let diverged: Vec<String> = methods
            .iter()
            .filter_map(|method| {
                let (diverged, all) = runs.diverged(size, method);
                (diverged > 0).then(|| format!("{method} diverged on {diverged} of {all} seeds"))
            })
            .collect();
        if !diverged.is_empty() {
            self.verdict = Verdict::Underpowered;
            let figures = std::iter::once(self.figures).filter(|it| !it.is_empty());
            self.figures = figures.chain(diverged).collect::<Vec<_>>().join(", ");
            self.needed = Some("a judgement by hand: divergence is an outcome".to_owned());
        }
        self
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

/// Whether a method's loss is lower than each of the others'; refuted where it is higher than one of them.
fn all_of(runs: &Runs, size: &str, level: f64, method: &str, others: &[String]) -> Found {
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
    let significant: Vec<bool> = holm(&p_values).iter().map(|p| *p < level).collect();
    let is_lower = |it: &Difference| it.estimate.point < 0.0;
    let each = || differences.iter().zip(&significant);
    let missing: Vec<&str> = others
        .iter()
        .filter(|other| !differences.iter().any(|(it, _)| it == other))
        .map(String::as_str)
        .collect();
    let verdict = if each().any(|((_, it), significant)| *significant && !is_lower(it)) {
        Verdict::Refuted
    } else if !each().all(|(_, significant)| *significant) {
        Verdict::Underpowered
    } else if missing.is_empty() {
        Verdict::Reproduced
    } else {
        Verdict::NotTested
    };
    let figures: Vec<String> = differences
        .iter()
        .map(|(other, it)| format!("{method} - {other} {} nats", shown(&it.estimate)))
        .collect();
    let strictest = level / differences.len() as f64;
    let mut needed: Vec<String> = each()
        .filter(|(_, significant)| !**significant)
        .map(|((other, it), _)| format!("against {other} {}", seeds_for(it, strictest)))
        .collect();
    if !missing.is_empty() {
        needed.push(format!("runs of {}", missing.join(", ")));
    }
    Found {
        verdict,
        figures: figures.join(", "),
        needed: (!needed.is_empty()).then(|| needed.join(", ")),
    }
}

fn not_worse(runs: &Runs, size: &str, level: f64, method: &str, than: &str, margin: f64) -> Found {
    let Some(difference) = runs.difference(size, method, than) else {
        return not_tested(format!("{method} and {than}"));
    };
    let verdict = match difference.p_below(margin) {
        Some(p) if p < level => Verdict::Reproduced,
        Some(p) if 1.0 - p < level => Verdict::Refuted,
        _ => Verdict::Underpowered,
    };
    // To exclude the margin takes the seeds that find what lies between it and the difference.
    let mut to_margin = difference;
    to_margin.estimate.point = margin - difference.estimate.point;
    Found {
        verdict,
        figures: format!(
            "{method} - {than} {} nats, margin {margin}",
            shown(&difference.estimate)
        ),
        needed: (verdict == Verdict::Underpowered).then(|| seeds_for(&to_margin, 2.0 * level)),
    }
}

/// A figure of each seed of two methods, and whether the first is larger (`sign` 1) or smaller (-1).
fn compared(
    left: &[(u64, f64)],
    right: &[(u64, f64)],
    sign: f64,
    level: f64,
    unit: &str,
    method: &str,
    other: &str,
) -> Found {
    let (left, right) = pair(left, right);
    let Some(difference) = paired(&left, &right) else {
        return not_tested(format!("{unit} of {method} and {other}"));
    };
    let figures = format!("{method} - {other} {} {unit}", shown(&difference.estimate));
    by_sign(&difference, sign, level, figures)
}

/// A difference that is claimed to lie above zero (`sign` 1) or below (-1).
fn by_sign(difference: &Difference, sign: f64, level: f64, figures: String) -> Found {
    let significant = difference.p.is_some_and(|p| p < level);
    let as_claimed = difference.estimate.point * sign > 0.0;
    Found {
        verdict: match (significant, as_claimed) {
            (true, true) => Verdict::Reproduced,
            (true, false) => Verdict::Refuted,
            (false, _) => Verdict::Underpowered,
        },
        figures,
        needed: (!significant).then(|| seeds_for(difference, level)),
    }
}

fn rank_above(runs: &Runs, size: &str, level: f64, method: &str) -> Found {
    let excess: Vec<f64> = runs
        .rank_beyond_its_products(size, method)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    let Some(difference) = paired(&excess, &vec![0.0; excess.len()]) else {
        return not_tested(format!(
            "spectra of {method}, products included (relora spectra)"
        ));
    };
    let figures = format!(
        "effective rank of {method}'s update minus the mean of its products' {}",
        shown(&difference.estimate)
    );
    by_sign(&difference, 1.0, level, figures)
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
    let mut parameters: Vec<f64> = of_sizes.iter().map(|(parameters, _)| *parameters).collect();
    parameters.dedup();
    if parameters.len() < 2 {
        return not_tested(format!("{method} and {to} at two of its sizes or more"));
    }
    let first = mean_interval(
        &of_sizes[0]
            .1
            .iter()
            .map(|(_, gap)| *gap)
            .collect::<Vec<_>>(),
    );
    if first.is_none_or(|gap| gap.point <= 0.0) {
        return not_tested(format!(
            "a gap: at the smallest size {method} is not behind {to}"
        ));
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
    let figures = format!(
        "{method} - {to}: {} nats for each e-fold of parameters",
        shown(&difference.estimate)
    );
    by_sign(&difference, -1.0, SIGNIFICANCE, figures)
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
