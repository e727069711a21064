//! The runs of one method at one size ([`Group`]) and such groups beside the one that they are compared with ([`Compared`]):
//! paired by seed, tested together, judged.

use super::{Run, Runs};
use crate::record::{RowKeys, RunResult, Status};
use crate::statistics::{
    Difference, Estimate, Interval, SIGNIFICANCE, bca, holm, mean_interval, paired, pairs_needed,
    smallest_difference, strictest_level,
};
use serde::Serialize;

/// The verdict on a difference that is surely smaller than the margin which the suite declares.
pub(crate) const TIE: &str = "tie";

/// The verdict on a difference that favours a side which diverged on some seeds: the seeds that it survived say nothing of
/// those that it did not.
pub(crate) const UNRESOLVED_DIVERGED: &str = "unresolved: diverged";

/// The verdict on a difference below zero by its own interval, but not when all methods of the table are tested at once.
pub(crate) const BETTER_ALONE: &str = "better alone";

/// The same above zero.
pub(crate) const WORSE_ALONE: &str = "worse alone";

/// How many seeds it takes to tell a method from the reference of its size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeedsNeeded {
    /// Name of the LLaMA shape.
    pub size: String,
    /// The method.
    pub method: String,
    /// What it is compared with.
    pub reference: String,
    /// Pairs of seeds by which their differences' scatter is known.
    pub measured: usize,
    /// Seeds of each; none where more than [`MOST_PAIRS`](crate::statistics::MOST_PAIRS) would be needed.
    pub needed: Option<usize>,
}

impl Runs {
    /// For each method with at least two pairs, how many seeds would find a true difference in validation loss (nats)
    /// significant in four of five suites, at the strictest level of Holm's correction over the methods of its size.
    #[must_use]
    pub fn seeds_to_resolve(&self, reference: &str, difference: f64) -> Vec<SeedsNeeded> {
        let compared = self.compared(reference);
        let needed = compared.iter().filter_map(|row| {
            let estimate = row.difference?.estimate;
            let deviation = estimate.standard_error? * (estimate.n as f64).sqrt();
            let level = strictest_level(row.comparisons);
            Some(SeedsNeeded {
                size: row.group.row().size.clone(),
                method: row.group.row().method.clone(),
                reference: row.reference.as_ref()?.row().method.clone(),
                measured: estimate.n,
                needed: pairs_needed(difference, deviation, level),
            })
        });
        needed.collect()
    }

    /// The methods of all sizes, in the order of the tables.
    pub(super) fn groups(&self) -> Vec<Group<'_>> {
        groups(&self.iter().collect::<Vec<&Run>>())
    }

    /// Groups of every size, each compared with the group that stands for `reference` at that size, by the losses at the end.
    pub(super) fn compared(&self, reference: &str) -> Vec<Compared<'_>> {
        self.compared_by(reference, &final_losses)
    }

    /// The same by other losses, which a group and its reference have seed by seed.
    pub(super) fn compared_by<'a>(
        &'a self,
        reference: &str,
        losses: &dyn Fn(&Group<'a>, &Group<'a>) -> Losses,
    ) -> Vec<Compared<'a>> {
        let runs: Vec<&Run> = self.iter().collect();
        runs.chunk_by(|left, right| left.row.size == right.row.size)
            .flat_map(|size| compare(size, reference, self.margin, losses))
            .collect()
    }

    /// Tuned methods of every size, each compared with the method of the recipe that it was tuned from.
    pub(super) fn compared_with_recipes(&self) -> Vec<Compared<'_>> {
        let runs: Vec<&Run> = self.iter().collect();
        runs.chunk_by(|left, right| left.row.size == right.row.size)
            .flat_map(|size| {
                let groups = groups(size);
                let with_recipe = groups.iter().filter_map(|group| {
                    let from = &group.row().tuning.as_ref()?.from;
                    let recipe = groups.iter().find(|other| other.row().method == *from);
                    Some((group.clone(), recipe.cloned()))
                });
                together(with_recipe.collect(), self.margin, &final_losses)
            })
            .collect()
    }
}

/// The methods of some runs, which are in the order of the tables.
pub(super) fn groups<'a>(runs: &[&'a Run]) -> Vec<Group<'a>> {
    runs.chunk_by(|left, right| {
        left.row.size == right.row.size && left.row.method == right.row.method
    })
    .map(|runs| Group {
        runs: runs.to_vec(),
    })
    .collect()
}

/// Losses of two methods by the seeds that both have, in their order.
pub(super) type Losses = (Vec<f64>, Vec<f64>);

/// Those at the end, of the seeds that both completed.
pub(super) fn final_losses(group: &Group<'_>, reference: &Group<'_>) -> Losses {
    let loss = |result: &RunResult| result.validation_loss;
    pair(&group.values(loss), &reference.values(loss))
}

/// The runs of one method at one size, seeds ascending; never empty.
#[derive(Clone)]
pub(super) struct Group<'a> {
    pub(super) runs: Vec<&'a Run>,
}

impl<'a> Group<'a> {
    /// Keys of the first seed: all but the seed are the same in the others.
    pub(super) fn row(&self) -> &'a RowKeys {
        &self.runs[0].row
    }

    pub(super) fn complete(&self) -> impl Iterator<Item = (u64, &'a RunResult)> {
        self.runs
            .iter()
            .filter_map(|run| Some((run.row.seed, run.complete()?)))
    }

    pub(super) fn has_diverged(&self) -> bool {
        self.count(|status| status == Status::Diverged) > 0
    }

    /// A figure of every complete seed that has it.
    pub(super) fn values(&self, value: impl Fn(&RunResult) -> Option<f64>) -> Vec<(u64, f64)> {
        self.complete()
            .filter_map(|(seed, result)| Some((seed, value(result)?)))
            .collect()
    }

    /// Runs of both by the seeds that both have.
    pub(super) fn paired_runs(&self, other: &Group<'a>) -> Vec<(&'a Run, &'a Run)> {
        let with_its_seed = |run: &&'a Run| {
            let other = other.runs.iter().find(|it| it.row.seed == run.row.seed)?;
            Some((*run, *other))
        };
        self.runs.iter().filter_map(with_its_seed).collect()
    }

    pub(super) fn mean(&self, value: impl Fn(&RunResult) -> Option<f64>) -> Option<Estimate> {
        let values: Vec<f64> = self
            .values(value)
            .into_iter()
            .map(|(_, value)| value)
            .collect();
        mean_interval(&values)
    }

    pub(super) fn largest(&self, value: impl Fn(&RunResult) -> u64) -> Option<u64> {
        self.complete().map(|(_, result)| value(result)).max()
    }

    /// Targets that each complete seed trained on, where that is one number.
    pub(super) fn tokens_seen(&self) -> Option<u64> {
        let mut seen = self.complete().map(|(_, result)| result.tokens_seen);
        let first = seen.next()?;
        seen.all(|tokens| tokens == first).then_some(first)
    }

    pub(super) fn seeds(&self) -> String {
        let seeds: Vec<String> = self.complete().map(|(seed, _)| seed.to_string()).collect();
        seeds.join(" ")
    }

    pub(super) fn count(&self, status: impl Fn(Status) -> bool) -> u64 {
        self.runs.iter().filter(|run| status(run.status)).count() as u64
    }

    /// How the seeds stand, e.g. `complete`, `diverged at 120 (2 of 3)`, `diverged at 120, 340 (2 of 3), pending (1 of 3)`.
    pub(super) fn status(&self) -> String {
        let mut statuses: Vec<Status> = Vec::new();
        for run in &self.runs {
            if run.status != Status::Complete && !statuses.contains(&run.status) {
                statuses.push(run.status);
            }
        }
        if statuses.is_empty() {
            return Status::Complete.name().to_owned();
        }
        let parts = statuses.into_iter().map(|status| {
            let runs: Vec<&&Run> = self
                .runs
                .iter()
                .filter(|run| run.status == status)
                .collect();
            let mut at: Vec<u64> = runs
                .iter()
                .filter_map(|run| run.result.as_ref()?.diverged_at_step)
                .collect();
            at.sort_unstable();
            at.dedup();
            let at: Vec<String> = at.iter().map(u64::to_string).collect();
            let at = if at.is_empty() {
                String::new()
            } else {
                format!(" at {}", at.join(", "))
            };
            format!(
                "{}{at} ({} of {})",
                status.name(),
                runs.len(),
                self.runs.len()
            )
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// A group beside the reference of its size.
pub(super) struct Compared<'a> {
    pub(super) group: Group<'a>,
    /// None where the size has no reference; the reference is compared with itself nowhere, but is named here too.
    pub(super) reference: Option<Group<'a>>,
    /// Validation loss, this method minus the reference, over the seeds that both ran to their end. None for the reference.
    pub(super) difference: Option<Difference>,
    /// Its interval by the bootstrap; verdicts go by the t-test.
    pub(super) bootstrap: Option<Interval>,
    /// p-value after Holm's correction over all differences of the size.
    pub(super) p_adjusted: Option<f64>,
    /// Number of the differences that are tested.
    comparisons: usize,
    /// Nats within which two losses count as equal, where the suite declares that.
    pub(super) margin: Option<f64>,
    /// p-value of a difference of the margin or more, after Holm's correction over all methods of the size.
    p_tie_adjusted: Option<f64>,
}

impl<'a> Compared<'a> {
    /// Compared, and not tested yet: see [`test_together`].
    pub(super) fn of(
        group: Group<'a>,
        reference: Option<Group<'a>>,
        margin: Option<f64>,
        losses: &dyn Fn(&Group<'a>, &Group<'a>) -> Losses,
    ) -> Compared<'a> {
        let mut row = Compared {
            group,
            reference,
            difference: None,
            bootstrap: None,
            p_adjusted: None,
            comparisons: 0,
            margin,
            p_tie_adjusted: None,
        };
        if let Some(reference) = row.reference.as_ref().filter(|_| !row.is_reference()) {
            let (left, right) = losses(&row.group, reference);
            row.difference = paired(&left, &right);
            row.bootstrap = bca(&differences(&left, &right));
        }
        row
    }
}

impl Compared<'_> {
    pub(super) fn loss(&self) -> Option<Estimate> {
        self.group.mean(|result| result.validation_loss)
    }

    /// By the runs and not by the name, which two suites may have in common.
    pub(super) fn is_reference(&self) -> bool {
        let first = self.group.row();
        let reference = self.reference.as_ref();
        reference.is_some_and(|reference| std::ptr::eq(reference.row(), first))
    }

    /// As [`judged`], but [`TIE`] where no difference is significant and all but the suite's margin can be excluded;
    /// [`UNRESOLVED_DIVERGED`] where a side has lost seeds to divergence and the others would make it the better one, or as good.
    pub(super) fn verdict(&self) -> Option<&'static str> {
        let difference = self.difference?;
        let point = difference.estimate.point;
        // Only the seeds that survived are compared: who lost some to divergence cannot win by the others, neither the
        // method nor the reference.
        let ahead = if point < 0.0 {
            Some(&self.group)
        } else {
            self.reference.as_ref().filter(|_| point > 0.0)
        };
        let significant = self.p_adjusted.is_some_and(|p| p < SIGNIFICANCE);
        let is_tie = !significant && self.p_tie_adjusted.is_some_and(|p| p < SIGNIFICANCE);
        let reference_diverged = self.reference.as_ref().is_some_and(Group::has_diverged);
        Some(match ahead {
            Some(ahead) if ahead.has_diverged() => UNRESOLVED_DIVERGED,
            _ if is_tie && (self.group.has_diverged() || reference_diverged) => UNRESOLVED_DIVERGED,
            _ if is_tie => TIE,
            _ => judged(&difference.estimate, self.p_adjusted),
        })
    }

    /// The smallest true difference that these seeds would find significant in four of five suites like this one, whatever
    /// the other methods' differences are: at the strictest level that Holm's correction takes.
    pub(super) fn resolvable(&self) -> Option<f64> {
        let level = strictest_level(self.comparisons);
        smallest_difference(&self.difference?.estimate, level)
    }

    /// Geometric mean of the paired ratios to the reference, with the interval of the mean log ratio.
    pub(super) fn ratio(
        &self,
        value: impl Fn(&RunResult) -> Option<f64> + Copy,
    ) -> Option<Estimate> {
        let logarithm =
            |result: &RunResult| value(result).filter(|value| *value > 0.0).map(f64::ln);
        let (left, right) = pair(
            &self.group.values(logarithm),
            &self.reference.as_ref()?.values(logarithm),
        );
        let difference = paired(&left, &right).filter(|_| !self.is_reference())?;
        Some(difference.estimate.map(f64::exp))
    }

    /// Ratio to the reference of what follows from the keys alone.
    pub(super) fn ratio_of_rows(&self, value: impl Fn(&RowKeys) -> f64) -> Option<f64> {
        let reference = self.reference.as_ref().filter(|_| !self.is_reference())?;
        Some(value(self.group.row()) / value(reference.row())).filter(|ratio| ratio.is_finite())
    }

    pub(super) fn optimizer_state_ratio(&self) -> Option<f64> {
        if self.is_reference() {
            return None;
        }
        let own = self.group.largest(|result| result.optimizer_state_bytes)?;
        let other = self
            .reference
            .as_ref()?
            .largest(|result| result.optimizer_state_bytes)
            .filter(|&bytes| bytes > 0)?;
        Some(own as f64 / other as f64)
    }
}

/// A difference in loss in a word: `better` or `worse` where the adjusted p-value is below the level of significance,
/// [`BETTER_ALONE`] or [`WORSE_ALONE`] where only its own interval excludes zero, else `unresolved`.
pub(super) fn judged(estimate: &Estimate, p_adjusted: Option<f64>) -> &'static str {
    let significant = p_adjusted.is_some_and(|p| p < SIGNIFICANCE);
    let interval = estimate.interval.as_ref();
    if significant && estimate.point < 0.0 {
        "better"
    } else if significant && estimate.point > 0.0 {
        "worse"
    } else if interval.is_some_and(|it| it.high < 0.0) {
        BETTER_ALONE
    } else if interval.is_some_and(|it| it.low > 0.0) {
        WORSE_ALONE
    } else {
        "unresolved"
    }
}

/// Compares the groups of one size with the one of the given name or, where there is none, with the only one of that preset. Tuned
/// methods are compared with the tuned form of that one where it was tuned too: with as much effort on either side.
fn compare<'a>(
    size: &[&'a Run],
    reference: &str,
    margin: Option<f64>,
    losses: &dyn Fn(&Group<'a>, &Group<'a>) -> Losses,
) -> Vec<Compared<'a>> {
    let groups = groups(size);
    let named = groups.iter().find(|group| group.row().method == reference);
    let mut of_preset = groups
        .iter()
        .filter(|group| group.row().preset == reference);
    let only = of_preset.next().filter(|_| of_preset.next().is_none());
    let reference = named.or(only);
    let tuned = reference.and_then(|reference| {
        groups.iter().find(|group| {
            let tuning = group.row().tuning.as_ref();
            tuning.is_some_and(|tuning| tuning.from == reference.row().method)
        })
    });
    let pairs = groups.iter().map(|group| {
        let is_tuned = group.row().tuning.is_some();
        let beside = tuned.filter(|_| is_tuned).or(reference);
        (group.clone(), beside.cloned())
    });
    together(pairs.collect(), margin, losses)
}

/// Compares each group with what stands beside it; all of them are tested together.
fn together<'a>(
    pairs: Vec<(Group<'a>, Option<Group<'a>>)>,
    margin: Option<f64>,
    losses: &dyn Fn(&Group<'a>, &Group<'a>) -> Losses,
) -> Vec<Compared<'a>> {
    let mut rows: Vec<Compared<'a>> = pairs
        .into_iter()
        .map(|(group, reference)| Compared::of(group, reference, margin, losses))
        .collect();
    test_together(&mut rows);
    rows
}

/// Holm's correction over the differences of all rows.
pub(super) fn test_together(rows: &mut [Compared<'_>]) {
    let p_values: Vec<Option<f64>> = rows.iter().map(p_value).collect();
    let comparisons = p_values.iter().flatten().count();
    for (row, p) in rows.iter_mut().zip(adjusted(&p_values)) {
        row.p_adjusted = p;
        row.comparisons = comparisons;
    }
    let ties: Vec<Option<f64>> = rows
        .iter()
        .map(|row| row.difference?.p_within(row.margin?))
        .collect();
    for (row, p) in rows.iter_mut().zip(adjusted(&ties)) {
        row.p_tie_adjusted = p;
    }
}

/// Holm's correction over those p-values that are there.
pub(super) fn adjusted(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let there: Vec<f64> = p_values.iter().copied().flatten().collect();
    let mut corrected = holm(&there).into_iter();
    p_values
        .iter()
        .map(|p| p.and_then(|_| corrected.next()))
        .collect()
}

pub(super) fn p_value(row: &Compared<'_>) -> Option<f64> {
    row.difference.and_then(|difference| difference.p)
}

fn differences(left: &[f64], right: &[f64]) -> Vec<f64> {
    let pairs = left.iter().zip(right);
    pairs.map(|(left, right)| left - right).collect()
}

/// Values of the seeds that both sides have, in the order of the seeds.
pub(crate) fn pair(left: &[(u64, f64)], right: &[(u64, f64)]) -> (Vec<f64>, Vec<f64>) {
    let common = left.iter().filter_map(|(seed, value)| {
        let (_, other) = right.iter().find(|(other, _)| other == seed)?;
        Some((*value, *other))
    });
    common.unzip()
}
