//! What a loss costs: the tokens, operations and seconds that a method needs to get where another one gets.

use super::build::{column, interval, keys, table};
use super::compare::Compared;
use super::{Run, Runs};
use crate::record::{Record, StepRecord};
use crate::statistics::{Estimate, LEVEL, paired};
use polars::prelude::DataFrame;

/// What it took a run to reach a loss.
#[derive(Clone, Copy)]
struct Price {
    tokens: f64,
    flops: f64,
    seconds: Option<f64>,
}

/// The prices of one method and of the reference for the same losses, seed by seed.
struct Priced<'a> {
    compared: &'a Compared<'a>,
    /// Mean over the seeds of the loss that is asked for.
    loss: Option<f64>,
    seeds: u64,
    tokens: Option<Estimate>,
    flops: Option<Estimate>,
    seconds: Option<Estimate>,
}

impl Runs {
    /// One row for each method and size: how many times the tokens, operations and seconds of `full` the method needs to reach
    /// the same validation loss. In each seed the loss is the larger of the two final ones, which both runs have reached, and
    /// where a run first reached it is read off its evaluations, in proportion between neighbours. Ratios are geometric means
    /// over seeds.
    #[must_use]
    pub fn prices(&self) -> DataFrame {
        let compared = self.compared("full");
        let rows: Vec<Priced<'_>> = compared.iter().map(priced).collect();
        let mut columns = keys(&rows, |row| row.compared.group.row());
        columns.extend([
            column("reference", &rows, |row| {
                let reference = row.compared.reference.as_ref()?;
                Some(reference.row().method.clone())
            }),
            column("pairs", &rows, |row| row.seeds),
            column("same_loss", &rows, |row| row.loss),
        ]);
        columns.extend(interval("tokens_to_loss_ratio", &rows, |row| row.tokens));
        columns.extend(interval("flops_to_loss_ratio", &rows, |row| row.flops));
        columns.extend(interval("seconds_to_loss_ratio", &rows, |row| row.seconds));
        columns.extend([
            column("flops_ratio", &rows, |row| {
                let reference = row.compared.reference.as_ref()?;
                let is_other = !row.compared.is_reference();
                is_other.then(|| row.compared.group.row().flops / reference.row().flops)
            }),
            column("interval_level", &rows, |_| LEVEL),
        ]);
        table(columns)
    }
}

fn priced<'a>(compared: &'a Compared<'a>) -> Priced<'a> {
    let mut losses = Vec::new();
    let mut pairs: Vec<(Price, Price)> = Vec::new();
    if let Some(reference) = compared
        .reference
        .as_ref()
        .filter(|_| !compared.is_reference())
    {
        let row = reference.row();
        let per_step = row.flops / row.planned_steps.max(1) as f64;
        for run in &compared.group.runs {
            let other = reference.runs.iter().find(|it| it.row.seed == run.row.seed);
            let Some(other) = other else { continue };
            let (Some(own_loss), Some(other_loss)) = (final_loss(run), final_loss(other)) else {
                continue;
            };
            let loss = own_loss.max(other_loss);
            if let (Some(own), Some(other)) =
                (price(run, loss, per_step), price(other, loss, per_step))
            {
                losses.push(loss);
                pairs.push((own, other));
            }
        }
    }
    let ratio = |value: &dyn Fn(&Price) -> Option<f64>| {
        let logarithms = |price: &Price| value(price).filter(|it| *it > 0.0).map(f64::ln);
        let (own, other): (Vec<f64>, Vec<f64>) = pairs
            .iter()
            .filter_map(|(own, other)| Some((logarithms(own)?, logarithms(other)?)))
            .unzip();
        Some(paired(&own, &other)?.estimate.map(f64::exp))
    };
    Priced {
        compared,
        loss: (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64),
        seeds: pairs.len() as u64,
        tokens: ratio(&|price| Some(price.tokens)),
        flops: ratio(&|price| Some(price.flops)),
        seconds: ratio(&|price| price.seconds),
    }
}

fn final_loss(run: &Run) -> Option<f64> {
    run.complete()?.validation_loss
}

/// What it took a run to be at a loss or below it first, with so many operations of an update at full rank; none where it never
/// was, or was already at its first evaluation.
fn price(run: &Run, loss: f64, full_rank_flops: f64) -> Option<Price> {
    let evaluations: Vec<(f64, f64, f64)> = run
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Evaluation(it) => {
                Some((it.step as f64, it.tokens_seen as f64, it.validation_loss?))
            }
            _ => None,
        })
        .collect();
    let at = evaluations.iter().position(|(.., it)| *it <= loss)?;
    let before = at.checked_sub(1)?;
    let (from_step, from_tokens, from_loss) = evaluations[before];
    let (to_step, to_tokens, to_loss) = evaluations[at];
    let share = (from_loss - loss) / (from_loss - to_loss);
    let step = from_step + share * (to_step - from_step);
    let tokens = from_tokens + share * (to_tokens - from_tokens);
    let row = &run.row;
    let warm = row.warm_start_steps.unwrap_or(0) as f64;
    let own_steps = (row.planned_steps as f64 - warm).max(1.0);
    let own_per_step = (row.flops - warm * full_rank_flops) / own_steps;
    Some(Price {
        tokens,
        flops: step.min(warm) * full_rank_flops + (step - warm).max(0.0) * own_per_step,
        seconds: seconds_at(run, step),
    })
}

/// Seconds of training up to a step, in proportion between the logged ones; none beyond the last of them.
fn seconds_at(run: &Run, step: f64) -> Option<f64> {
    let mut before: Option<&StepRecord> = None;
    for record in &run.records {
        let Record::Step(logged) = record else {
            continue;
        };
        if logged.step as f64 >= step {
            let (from_step, from_seconds) =
                before.map_or((0.0, 0.0), |it| (it.step as f64, it.training_seconds));
            let share = (step - from_step) / (logged.step as f64 - from_step);
            return Some(from_seconds + share * (logged.training_seconds - from_seconds));
        }
        before = Some(logged);
    }
    None
}
