//! What a loss costs: the tokens, operations, seconds and joules that a method needs to get where another one gets, and to a loss that is
//! the same for all methods.

use super::build::{column, interval, keys, table};
use super::compare::{Compared, Group};
use super::curve::{Currency, Curve, Spent, flops_per_update};
use super::{Run, Runs};
use crate::record::Status;
use crate::statistics::{Estimate, LEVEL, mean_interval, paired};
use polars::prelude::{Column, DataFrame};

/// The prices of one method and of the reference for the same losses, seed by seed, and those of a loss for all methods.
struct Priced<'a> {
    compared: &'a Compared<'a>,
    /// The loss that is asked for in each seed.
    losses: Vec<f64>,
    /// What the method and the reference had spent there.
    pairs: Vec<(Spent, Spent)>,
    target: Option<f64>,
    to_target: ToTarget,
}

/// What the seeds of a method needed to get to a loss.
#[derive(Default)]
struct ToTarget {
    /// Seeds that have ended, and how many of them were ever evaluated there.
    ended: u64,
    reached: u64,
    /// What each of them had spent; none where not all were there, or some at their first evaluation already.
    spent: Vec<Spent>,
}

impl Runs {
    /// One row for each method and size: how many times the tokens, operations, seconds and joules of `full` the method needs to reach
    /// the same validation loss, and how many more. In each seed the loss is the larger of the two final ones, which both runs
    /// have reached, and where a run first reached it is read off its evaluations, in proportion between neighbours. Ratios
    /// are geometric means over seeds. The target is one loss for all methods: the largest final one of the seeds of `full`,
    /// which all of them have reached.
    #[must_use]
    pub fn prices(&self) -> DataFrame {
        prices(&self.compared("full"))
    }
}

/// The table of groups that are compared with `full`.
pub(super) fn prices(compared: &[Compared<'_>]) -> DataFrame {
    let rows: Vec<Priced<'_>> = compared.iter().map(priced).collect();
    let mut columns = keys(&rows, |row| row.compared.group.row());
    columns.extend([
        column("reference", &rows, |row| {
            let reference = row.compared.reference.as_ref()?;
            Some(reference.row().method.clone())
        }),
        column("pairs", &rows, |row| row.pairs.len() as u64),
        column("same_loss", &rows, |row| {
            mean_interval(&row.losses).map(|it| it.point)
        }),
    ]);
    for currency in Currency::PRICED {
        let name = format!("{}_to_loss_ratio", currency.name());
        columns.extend(interval(&name, &rows, |row| row.ratio(currency)));
    }
    for currency in Currency::PRICED {
        let name = format!("extra_{}_to_loss", currency.name());
        columns.extend(interval(&name, &rows, |row| row.extra(currency)));
    }
    columns.push(column("flops_ratio", &rows, |row| {
        row.compared.ratio_of_rows(|row| row.flops)
    }));
    columns.extend(target(&rows));
    columns.push(column("interval_level", &rows, |_| LEVEL));
    table(columns)
}

fn target(rows: &[Priced<'_>]) -> Vec<Column> {
    let mut columns = vec![
        column("target_loss", rows, |row| row.target),
        column("target_seeds", rows, |row| row.to_target.ended),
        column("target_reached", rows, |row| row.to_target.reached),
    ];
    for currency in Currency::PRICED {
        let name = format!("{}_to_target", currency.name());
        columns.extend(interval(&name, rows, |row| row.to_target.mean(currency)));
    }
    columns
}

impl Priced<'_> {
    /// What both had spent where both are known.
    fn spent(&self, currency: Currency, value: fn(f64) -> f64) -> (Vec<f64>, Vec<f64>) {
        let known = |(own, other): &(Spent, Spent)| {
            let both = own.of(currency).zip(other.of(currency))?;
            (both.0 > 0.0 && both.1 > 0.0).then(|| (value(both.0), value(both.1)))
        };
        self.pairs.iter().filter_map(known).unzip()
    }

    fn ratio(&self, currency: Currency) -> Option<Estimate> {
        let (own, other) = self.spent(currency, f64::ln);
        Some(paired(&own, &other)?.estimate.map(f64::exp))
    }

    fn extra(&self, currency: Currency) -> Option<Estimate> {
        let (own, other) = self.spent(currency, |it| it);
        Some(paired(&own, &other)?.estimate)
    }
}

impl ToTarget {
    fn of(group: &Group<'_>, loss: f64, full_rank_flops: f64) -> ToTarget {
        let ended = group
            .runs
            .iter()
            .filter(|run| matches!(run.status, Status::Complete | Status::Diverged));
        let curves: Vec<Curve<'_>> = ended.map(|run| Curve::of(run, full_rank_flops)).collect();
        let spent: Option<Vec<Spent>> = curves.iter().map(|curve| curve.price(loss)).collect();
        ToTarget {
            ended: curves.len() as u64,
            reached: curves.iter().filter(|curve| curve.reaches(loss)).count() as u64,
            spent: spent.unwrap_or_default(),
        }
    }

    /// None where some seed has none: a mean over those that got there would flatter the method.
    fn mean(&self, currency: Currency) -> Option<Estimate> {
        let spent: Option<Vec<f64>> = self.spent.iter().map(|it| it.of(currency)).collect();
        mean_interval(&spent?)
    }
}

fn priced<'a>(compared: &'a Compared<'a>) -> Priced<'a> {
    let mut priced = Priced {
        compared,
        losses: Vec::new(),
        pairs: Vec::new(),
        target: None,
        to_target: ToTarget::default(),
    };
    let Some(reference) = &compared.reference else {
        return priced;
    };
    let full_rank_flops = flops_per_update(reference.row());
    let final_losses = reference.runs.iter().filter_map(|run| final_loss(run));
    priced.target = final_losses.reduce(f64::max);
    if let Some(loss) = priced.target {
        priced.to_target = ToTarget::of(&compared.group, loss, full_rank_flops);
    }
    if compared.is_reference() {
        return priced;
    }
    for (run, other) in compared.group.paired_runs(reference) {
        let (Some(own_loss), Some(other_loss)) = (final_loss(run), final_loss(other)) else {
            continue;
        };
        let loss = own_loss.max(other_loss);
        let price = |run| Curve::of(run, full_rank_flops).price(loss);
        if let (Some(own), Some(other)) = (price(run), price(other)) {
            priced.losses.push(loss);
            priced.pairs.push((own, other));
        }
    }
    priced
}

fn final_loss(run: &Run) -> Option<f64> {
    run.complete()?.validation_loss
}
