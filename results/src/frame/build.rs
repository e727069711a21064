//! Columns of a frame from rows of any kind.

use super::compare::Group;
use crate::record::{RowKeys, Status};
use crate::statistics::Estimate;
use polars::prelude::{Column, DataFrame, NamedFrom, Series};

pub(super) fn table(columns: Vec<Column>) -> DataFrame {
    DataFrame::new_infer_height(columns)
        .expect("the columns of a table are made of the same rows and have different names")
}

pub(super) fn column<R, V, P: ?Sized>(name: &str, rows: &[R], value: impl Fn(&R) -> V) -> Column
where
    Series: NamedFrom<Vec<V>, P>,
{
    Column::new(name.into(), rows.iter().map(value).collect::<Vec<V>>())
}

/// What every table begins with.
pub(super) fn keys<R>(rows: &[R], row: impl Fn(&R) -> &RowKeys) -> Vec<Column> {
    vec![
        column("size", rows, |it| row(it).size.clone()),
        column("method", rows, |it| row(it).method.clone()),
        column("preset", rows, |it| row(it).preset.clone()),
    ]
}

pub(super) fn switches<R>(rows: &[R], row: impl Fn(&R) -> &RowKeys) -> Vec<Column> {
    vec![
        column("low_rank", rows, |it| row(it).low_rank),
        column("rank", rows, |it| row(it).rank),
        column("restarts", rows, |it| row(it).restarts),
        column("optimizer_reset", rows, |it| row(it).optimizer_reset),
        column("jagged", rows, |it| row(it).jagged),
        column("rewarmup", rows, |it| row(it).rewarmup),
        column("warm_start", rows, |it| row(it).warm_start),
    ]
}

/// How many seeds a mean stands on, and what became of the others.
pub(super) fn seeds<R>(rows: &[R], group: impl Fn(&R) -> &Group<'_>) -> Vec<Column> {
    vec![
        column("seeds_planned", rows, |it| group(it).runs.len() as u64),
        column("seeds_complete", rows, |it| {
            group(it).count(|status| status == Status::Complete)
        }),
        column("seeds_diverged", rows, |it| {
            group(it).count(|status| status == Status::Diverged)
        }),
        column("seeds_unfinished", rows, |it| {
            group(it).count(|status| !matches!(status, Status::Complete | Status::Diverged))
        }),
        column("seeds", rows, |it| group(it).seeds()),
        column("status", rows, |it| group(it).status()),
    ]
}

/// An estimate as four columns: the point under its own name, then its standard error and the ends of its interval.
pub(super) fn estimate<R>(
    name: &str,
    rows: &[R],
    value: impl Fn(&R) -> Option<Estimate>,
) -> Vec<Column> {
    let mut columns = interval(name, rows, &value);
    columns.insert(
        1,
        column(&format!("{name}_standard_error"), rows, |row| {
            value(row).and_then(|it| it.standard_error)
        }),
    );
    columns
}

/// An estimate that has no standard error on its own scale, as three columns.
pub(super) fn interval<R>(
    name: &str,
    rows: &[R],
    value: impl Fn(&R) -> Option<Estimate>,
) -> Vec<Column> {
    vec![
        column(name, rows, |row| value(row).map(|it| it.point)),
        column(&format!("{name}_low"), rows, |row| {
            value(row).and_then(|it| it.interval).map(|it| it.low)
        }),
        column(&format!("{name}_high"), rows, |row| {
            value(row).and_then(|it| it.interval).map(|it| it.high)
        }),
    ]
}
