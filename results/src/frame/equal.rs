//! Methods beside full rank where both have spent the same: as many tokens, as many FLOPs, as many seconds.

use super::Runs;
use super::build::{column, estimate, keys, seeds, table};
use super::compare::{Compared, Group, Losses};
use super::curve::{Currency, Curve, Read, flops_per_update};
use super::tables::comparisons;
use crate::statistics::{LEVEL, mean_interval};
use polars::prelude::DataFrame;

/// A run and that of the reference with the same seed, read where both have spent the same.
struct Pair {
    /// What the one of the two that spent less spent in all.
    budget: f64,
    own: Read,
    other: Read,
}

/// A method at a size in one currency.
struct Equal<'a> {
    currency: Currency,
    compared: Compared<'a>,
    pairs: Vec<Pair>,
}

impl Equal<'_> {
    fn mean(&self, value: impl Fn(&Pair) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.pairs.iter().map(value).collect();
        mean_interval(&values).map(|it| it.point)
    }
}

impl Runs {
    /// Three rows for each method and size, for tokens, FLOPs and seconds of training: the validation loss beside that of
    /// `full` at the same budget, which in each seed is what the one of the two that spent less spent in all. Losses are read
    /// off the evaluations, in proportion between neighbours. A seed counts where both runs were complete and the budget lies
    /// at an evaluation or between two: nothing is read before the first one, or beyond the end. Each currency is tested by
    /// itself, over all methods of the size.
    #[must_use]
    pub fn equal(&self) -> DataFrame {
        let of_currency = |currency: Currency| {
            let losses = |group: &Group<'_>, reference: &Group<'_>| -> Losses {
                let pairs = pairs(group, reference, currency);
                let losses = pairs.iter().map(|pair| (pair.own.loss, pair.other.loss));
                losses.unzip()
            };
            self.compared_by("full", &losses)
                .into_iter()
                .map(move |compared| Equal::of(compared, currency))
        };
        let [tokens, flops, seconds] = Currency::EQUAL.map(of_currency);
        let rows: Vec<Equal<'_>> = tokens
            .zip(flops)
            .zip(seconds)
            .flat_map(|((tokens, flops), seconds)| [tokens, flops, seconds])
            .collect();
        let mut columns = keys(&rows, |row| row.compared.group.row());
        columns.push(column("currency", &rows, |row| row.currency.name()));
        columns.extend(seeds(&rows, |row| &row.compared.group));
        columns.extend([
            column("budget", &rows, |row| row.mean(|pair| pair.budget)),
            column("share_of_run", &rows, |row| row.mean(|pair| pair.own.share)),
            column("share_of_reference", &rows, |row| {
                row.mean(|pair| pair.other.share)
            }),
        ]);
        columns.extend(estimate("validation_loss", &rows, |row| {
            let losses: Vec<f64> = row.pairs.iter().map(|pair| pair.own.loss).collect();
            mean_interval(&losses)
        }));
        columns.push(column("bracket", &rows, |row| {
            let widest = |pair: &Pair| pair.own.bracket.max(pair.other.bracket);
            row.pairs.iter().map(widest).reduce(f64::max)
        }));
        columns.push(column("interval_level", &rows, |_| LEVEL));
        columns.extend(comparisons(&rows, |row| &row.compared));
        table(columns)
    }
}

impl<'a> Equal<'a> {
    fn of(compared: Compared<'a>, currency: Currency) -> Equal<'a> {
        let reference = compared
            .reference
            .as_ref()
            .filter(|_| !compared.is_reference());
        let pairs = reference.map_or_else(Vec::new, |reference| {
            pairs(&compared.group, reference, currency)
        });
        Equal {
            currency,
            compared,
            pairs,
        }
    }
}

/// The seeds of which both runs can be read, ascending.
fn pairs(group: &Group<'_>, reference: &Group<'_>, currency: Currency) -> Vec<Pair> {
    let full_rank_flops = flops_per_update(reference.row());
    let read = |(run, other)| {
        let (own, other) = (
            Curve::of(run, full_rank_flops),
            Curve::of(other, full_rank_flops),
        );
        let budget = own.total(currency)?.min(other.total(currency)?);
        Some(Pair {
            budget,
            own: own.read(currency, budget)?,
            other: other.read(currency, budget)?,
        })
    };
    group
        .paired_runs(reference)
        .into_iter()
        .filter(|(run, other)| run.complete().is_some() && other.complete().is_some())
        .filter_map(read)
        .collect()
}
