//! What a restart costs: the loss around it.

use super::build::{column, keys, table};
use super::{Run, Runs};
use crate::record::{Record, RowKeys};
use polars::prelude::DataFrame;
use std::collections::BTreeSet;

/// Share of the steps from one restart to the next that is looked at on either side of a restart.
const WINDOW: f64 = 0.25;

/// What a run's losses are like around a step at which some method of its size restarts.
pub(super) struct Around<'a> {
    pub(super) row: &'a RowKeys,
    step: u64,
    restarted: bool,
    /// Steps that are looked at on either side.
    window: u64,
    before: f64,
    peak: Peak,
    /// Steps behind it at which the loss is back.
    recovered_after: Option<u64>,
}

#[derive(Clone, Copy)]
struct Peak {
    step: u64,
    loss: f64,
}

impl Around<'_> {
    /// How far the loss rises.
    pub(super) fn spike(&self) -> f64 {
        self.peak.loss - self.before
    }
}

impl Runs {
    /// One row for each run and each step at which some method of its size restarts, where the steps around were logged: the
    /// mean training loss in the window before, the largest logged one in the window behind, and how many steps it took until
    /// half a window's mean was back at that of before. A window is a quarter of the steps between restarts. The runs of
    /// methods without restarts, resets and drops of the rate show what the scatter of batches alone makes of these figures: all methods see the same batches.
    #[must_use]
    pub fn recovery(&self) -> DataFrame {
        let runs: Vec<&Run> = self.iter().collect();
        let rows: Vec<Around<'_>> = runs
            .chunk_by(|left, right| left.row.size == right.row.size)
            .flat_map(around_restarts)
            .collect();
        let mut columns = keys(&rows, |around| around.row);
        columns.extend([
            column("seed", &rows, |around| around.row.seed),
            column("step", &rows, |around| around.step),
            column("restarted", &rows, |around| around.restarted),
            column("window_steps", &rows, |around| around.window),
            column("loss_before", &rows, |around| around.before),
            column("peak_loss", &rows, |around| around.peak.loss),
            column("peak_after_steps", &rows, |around| {
                around.peak.step - around.step
            }),
            column("spike", &rows, |around| around.peak.loss - around.before),
            column("recovered_after_steps", &rows, |around| {
                around.recovered_after
            }),
        ]);
        table(columns)
    }
}

pub(super) fn around_restarts<'a>(size: &[&'a Run]) -> Vec<Around<'a>> {
    let every = size
        .iter()
        .filter(|run| run.row.restarts)
        .filter_map(|run| run.row.restart_every)
        .min();
    let Some(every) = every else {
        return Vec::new();
    };
    let steps: BTreeSet<u64> = size.iter().flat_map(|run| restarts(run)).collect();
    let around = size.iter().flat_map(|run| {
        steps
            .iter()
            .filter_map(move |&step| around(run, step, every))
    });
    around.collect()
}

fn restarts(run: &Run) -> impl Iterator<Item = u64> {
    run.records.iter().filter_map(|record| match record {
        Record::Restart(restart) => Some(restart.step),
        _ => None,
    })
}

/// None where nothing was logged before the step or behind it, where the run has not got a cycle further yet, and where
/// something else happens to it near that step: a restart at another one, a reset, a rate that drops, the end of a warm start.
fn around(run: &Run, step: u64, every: u64) -> Option<Around<'_>> {
    let window = ((every as f64 * WINDOW) as u64).max(1);
    let restarted = restarts(run).any(|restart| restart == step);
    let warm = run.row.warm_start_steps.unwrap_or(0);
    let has_events = run.row.restarts || run.row.optimizer_reset || run.row.jagged;
    let is_beside = !has_events && (!run.row.warm_start || step > warm + window);
    let has_ended = run.result.is_some() || run.update_steps() >= Some(step + every);
    if !(restarted || is_beside) || !has_ended {
        return None;
    }
    let losses = |from: u64, to: u64| {
        run.records.iter().filter_map(move |record| match record {
            Record::Step(it) if it.step > from && it.step <= to => Some((it.step, it.loss?)),
            _ => None,
        })
    };
    let before = mean(losses(step.saturating_sub(window), step).map(|(_, loss)| loss))?;
    let peak = losses(step, step + window)
        .max_by(|left, right| left.1.total_cmp(&right.1))
        .map(|(step, loss)| Peak { step, loss })?;
    let smoothed = (window / 2).max(1);
    let recovered_after = losses(step, step + every).map(|(at, _)| at).find(|&at| {
        let lately = mean(losses(at - smoothed.min(at), at).map(|(_, loss)| loss));
        at >= step + smoothed && lately.is_some_and(|lately| lately <= before)
    });
    Some(Around {
        row: &run.row,
        step,
        restarted,
        window,
        before,
        peak,
        recovered_after: recovered_after.map(|at| at - step),
    })
}

/// None of no values.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
