//! Two suites beside each other: the methods that both have, paired by the seeds that both completed.

use super::Runs;
use super::compare::{Compared, Group, final_losses, test_together};
use crate::statistics::Estimate;

/// A method at a size in two suites.
#[derive(Clone, Debug, PartialEq)]
pub struct Between {
    /// Name of the LLaMA shape.
    pub size: String,
    /// The method.
    pub method: String,
    /// The first suite's figures.
    pub first: Side,
    /// The second one's.
    pub second: Side,
    /// Validation loss of the second minus that of the first, nats per token, over the seeds that both completed.
    pub difference: Option<Estimate>,
    /// Its two-sided p-value by the paired t-test, after Holm's correction over all methods and sizes; none for one pair.
    pub p_adjusted: Option<f64>,
    /// What the difference says of the second suite, in the words of the tables.
    pub verdict: Option<&'static str>,
    /// Training targets per second of the second over those of the first: geometric mean over the seeds that both completed.
    pub speed: Option<Estimate>,
}

/// One suite's figures of a method at a size.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Mean validation loss over the complete seeds, nats per token.
    pub loss: Option<Estimate>,
    /// Mean training targets per second over them.
    pub tokens_per_second: Option<Estimate>,
    /// Number of complete seeds, and of all.
    pub seeds: (u64, u64),
    /// How the seeds stand, e.g. `complete` or `diverged at 120 (2 of 3)`.
    pub status: String,
}

impl Side {
    fn of(group: &Group<'_>) -> Side {
        Side {
            loss: group.mean(|result| result.validation_loss),
            tokens_per_second: group.mean(|result| Some(result.tokens_per_second)),
            seeds: (group.complete().count() as u64, group.runs.len() as u64),
            status: group.status(),
        }
    }
}

/// Every method and size that both suites have, in the order of the first. A margin counts where both declare the same.
#[must_use]
pub fn between(first: &Runs, second: &Runs) -> Vec<Between> {
    let margin = first.margin.filter(|margin| second.margin == Some(*margin));
    let others = second.groups();
    let mut rows: Vec<Compared<'_>> = Vec::new();
    for group in first.groups() {
        let other = others.iter().find(|other| is_same(other, &group));
        if let Some(other) = other.cloned() {
            rows.push(Compared::of(other, Some(group), margin, &final_losses));
        }
    }
    test_together(&mut rows);
    rows.iter().filter_map(row).collect()
}

/// Sizes with methods that the first suite has and the second has not.
#[must_use]
pub fn only_in(first: &Runs, second: &Runs) -> Vec<(String, String)> {
    let others = second.groups();
    let groups = first.groups().into_iter();
    groups
        .filter(|group| !others.iter().any(|other| is_same(other, group)))
        .map(|group| (group.row().size.clone(), group.row().method.clone()))
        .collect()
}

fn is_same(left: &Group<'_>, right: &Group<'_>) -> bool {
    let (left, right) = (left.row(), right.row());
    left.size == right.size && left.method == right.method
}

fn row(compared: &Compared<'_>) -> Option<Between> {
    let keys = compared.group.row();
    Some(Between {
        size: keys.size.clone(),
        method: keys.method.clone(),
        first: Side::of(compared.reference.as_ref()?),
        second: Side::of(&compared.group),
        difference: compared.difference.map(|it| it.estimate),
        p_adjusted: compared.p_adjusted,
        verdict: compared.verdict(),
        speed: compared.ratio(|result| Some(result.tokens_per_second)),
    })
}
