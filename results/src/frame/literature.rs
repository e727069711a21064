//! Ours beside what the literature reports of the same thing.

use super::Runs;
use super::build::{column, interval, keys, seeds, table};
use super::compare::Compared;
use super::tables::published_columns;
use crate::published::{Published, figures};
use crate::statistics::LEVEL;
use polars::prelude::DataFrame;

impl Runs {
    /// One row for each method and size and each published figure for what it trains: ours over the complete seeds, the figure,
    /// its recipe and certainty, and what is known of how its loss was averaged. Empty where nobody has published anything.
    #[must_use]
    pub fn published(&self) -> DataFrame {
        published(&self.compared("full"))
    }
}

/// The table of groups that are compared with `full`.
pub(super) fn published(compared: &[Compared<'_>]) -> DataFrame {
    let rows: Vec<(&Compared<'_>, &'static Published)> = compared
        .iter()
        .flat_map(|row| figures(row.group.row()).map(move |figure| (row, figure)))
        .collect();
    let mut columns = keys(&rows, |(row, _)| row.group.row());
    columns.push(column("dialect", &rows, |(row, _)| {
        row.group.row().dialect.clone()
    }));
    columns.extend(seeds(&rows, |(row, _)| &row.group));
    columns.push(column("tokens_seen", &rows, |(row, _)| {
        row.group.tokens_seen()
    }));
    columns.extend(interval("perplexity", &rows, |(row, _)| {
        row.loss().map(|loss| loss.map(f64::exp))
    }));
    columns.push(column("interval_level", &rows, |_| LEVEL));
    columns.extend(published_columns(&rows, |(_, figure)| Some(*figure)));
    columns.extend([
        column("published_method", &rows, |(_, figure)| {
            figure.method.as_str()
        }),
        column("published_dialect", &rows, |(_, figure)| {
            Some(figure.dialect.as_str()).filter(|dialect| !dialect.is_empty())
        }),
        column("published_evaluation", &rows, |(_, figure)| {
            figure.evaluation.statement()
        }),
        column("published_corrected_low", &rows, |(_, figure)| {
            figure.corrected_low
        }),
        column("published_corrected_high", &rows, |(_, figure)| {
            figure.corrected_high
        }),
    ]);
    table(columns)
}
