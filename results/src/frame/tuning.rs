//! Tuning: what the points that were tried of each method have come to, which of them is chosen and what all of them cost; and
//! of a suite that trains tuned methods beside those of the recipe, the two side by side.

use super::build::{column, estimate, keys, seeds, table};
use super::compare::{Compared, Group, groups};
use super::tables::comparisons;
use super::{Run, Runs};
use crate::record::Status;
use crate::statistics::{Estimate, LEVEL};
use polars::prelude::{Column, DataFrame};
use std::collections::{BTreeMap, BTreeSet};

/// What the tuning of one method at one size has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned {
    /// Size of the proxy runs.
    pub size: String,
    /// The method that is tuned.
    pub method: String,
    /// Preset that it is derived from.
    pub preset: String,
    /// Seeds of its points, ascending.
    pub seeds: Vec<u64>,
    /// Points that ran to their end with all of these seeds.
    pub complete: u64,
    /// Points of which a seed diverged: they have lost.
    pub diverged: u64,
    /// Points that cannot be judged yet: a seed failed, stopped, runs, waits, cannot be read or was tried with other points only.
    pub unfinished: u64,
    /// The best of the complete points; none where there is none.
    pub chosen: Option<Chosen>,
    /// What its points have cost so far.
    pub cost: Cost,
    /// Training FLOPs of one run as the method is tuned for, where that is known.
    pub final_flops: Option<f64>,
}

/// The point with the lowest mean validation loss among those that are complete, the first of equals.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Name under which the point was trained.
    pub point: String,
    /// Value of each setting that is tuned, as far as the method uses it.
    pub values: BTreeMap<String, f64>,
    /// Mean validation loss over its seeds, nats per token.
    pub loss: Estimate,
    /// How far the next best point lies above it, nats per token; none where no other is complete.
    pub runner_up_gap: Option<f64>,
    /// Settings beyond whose value no point was tried, each with the end, e.g. `highest learning_rate`. The best value may
    /// lie outside of the space.
    pub edges: Vec<String>,
}

/// What runs have cost: each of them is charged its warm start, whether it was handed on or not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Training targets.
    pub tokens: u64,
    /// Training FLOPs; of a run that ended early in proportion to its steps.
    pub flops: f64,
    /// Seconds of their workers; of a run without a result those of training so far.
    pub seconds: f64,
}

impl Tuned {
    /// Points that were tried.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.complete + self.diverged + self.unfinished
    }

    /// The cost in runs as the method is tuned for, by FLOPs.
    #[must_use]
    pub fn final_runs(&self) -> Option<f64> {
        Some(self.cost.flops / self.final_flops.filter(|flops| *flops > 0.0)?)
    }
}

/// All points of one method at one size, in the order of the plan; never empty.
struct Points<'a> {
    of: &'a str,
    groups: Vec<Group<'a>>,
}

impl Runs {
    /// What the tuning of each method at each size has come to, in the order of the tables; nothing for a suite that tunes
    /// nothing.
    #[must_use]
    pub fn tuned(&self) -> Vec<Tuned> {
        self.points().iter().map(Points::judged).collect()
    }

    /// One row for each method and size that is tuned: the point that is chosen, and what all points cost.
    #[must_use]
    pub fn tuning(&self) -> DataFrame {
        let rows = self.tuned();
        let chosen = |row: &Tuned| row.chosen.clone();
        let mut columns = vec![
            column("size", &rows, |row| row.size.clone()),
            column("method", &rows, |row| row.method.clone()),
            column("preset", &rows, |row| row.preset.clone()),
            column("points", &rows, Tuned::points),
            column("points_complete", &rows, |row| row.complete),
            column("points_diverged", &rows, |row| row.diverged),
            column("points_unfinished", &rows, |row| row.unfinished),
            column("chosen", &rows, |row| chosen(row).map(|it| it.point)),
            column("learning_rate", &rows, |row| {
                chosen(row)?.values.get(RATE).copied()
            }),
            column("settings", &rows, |row| {
                chosen(row).map(|it| written(&it.values))
            }),
            column("seeds_complete", &rows, |row| {
                chosen(row).map(|it| it.loss.n as u64)
            }),
        ];
        columns.extend(estimate("validation_loss", &rows, |row| {
            chosen(row).map(|it| it.loss)
        }));
        columns.extend([
            column("interval_level", &rows, |_| LEVEL),
            column("runner_up_gap", &rows, |row| chosen(row)?.runner_up_gap),
            column("edge", &rows, |row| {
                let edges = chosen(row)?.edges;
                (!edges.is_empty()).then(|| edges.join(", "))
            }),
            column("tuning_tokens", &rows, |row| row.cost.tokens),
            column("tuning_flops", &rows, |row| row.cost.flops),
            column("tuning_seconds", &rows, |row| row.cost.seconds),
            column("tuning_runs", &rows, Tuned::final_runs),
        ]);
        table(columns)
    }

    /// One row for each point that is tried of a method at a size.
    #[must_use]
    pub fn tuning_points(&self) -> DataFrame {
        let tunings: Vec<(Tuned, Points<'_>)> = self
            .points()
            .into_iter()
            .map(|points| (points.judged(), points))
            .collect();
        let rows: Vec<(&Tuned, &Points<'_>, &Group<'_>)> = tunings
            .iter()
            .flat_map(|(tuned, points)| {
                let groups = points.groups.iter();
                groups.map(move |group| (tuned, points, group))
            })
            .collect();
        let best = |tuned: &Tuned| tuned.chosen.as_ref().map(|it| it.loss.point);
        let mut columns = keys(&rows, |(.., group)| group.row());
        columns.extend([
            column("point_of", &rows, |(tuned, ..)| tuned.method.clone()),
            column("learning_rate", &rows, |(.., group)| {
                group.row().learning_rate
            }),
            column("settings", &rows, |(.., group)| written(values(group))),
        ]);
        columns.extend(seeds(&rows, |(.., group)| *group));
        columns.extend(estimate("validation_loss", &rows, |(.., group)| {
            group.mean(|result| result.validation_loss)
        }));
        columns.extend([
            column("interval_level", &rows, |_| LEVEL),
            column("behind_best", &rows, |(tuned, points, group)| {
                Some(points.complete(group)?.point - best(tuned)?)
            }),
            column("is_chosen", &rows, |(tuned, _, group)| {
                let chosen = tuned.chosen.as_ref();
                chosen.is_some_and(|it| it.point == group.row().method)
            }),
        ]);
        table(columns)
    }

    /// One row for each tuned method at each size: the method of the recipe, the tuned one, the difference in loss, and what the
    /// tuning cost.
    #[must_use]
    pub fn tuned_methods(&self) -> DataFrame {
        let rows = self.compared_with_recipes();
        let mut columns = keys(&rows, |row| row.group.row());
        columns.extend([
            column("tuned_from", &rows, |row| {
                let tuning = row.group.row().tuning.as_ref()?;
                Some(tuning.from.clone())
            }),
            column("recipe_learning_rate", &rows, |row| {
                let recipe = row.reference.as_ref()?;
                Some(recipe.row().learning_rate)
            }),
            column("learning_rate", &rows, |row| row.group.row().learning_rate),
            column("settings", &rows, |row| {
                let tuning = row.group.row().tuning.as_ref()?;
                Some(written(&tuning.values))
            }),
        ]);
        columns.extend(seeds(&rows, |row| &row.group));
        columns.push(column("recipe_seeds_complete", &rows, |row| {
            let recipe = row.reference.as_ref()?;
            Some(recipe.count(|status| status == Status::Complete))
        }));
        columns.extend(estimate("recipe_validation_loss", &rows, |row| {
            let recipe = row.reference.as_ref()?;
            recipe.mean(|result| result.validation_loss)
        }));
        columns.extend(estimate("validation_loss", &rows, Compared::loss));
        columns.push(column("interval_level", &rows, |_| LEVEL));
        columns.extend(comparisons(&rows, |row| row));
        columns.extend(charged(&rows));
        table(columns)
    }

    /// The points of each method and size, in the order of the tables.
    fn points(&self) -> Vec<Points<'_>> {
        let runs: Vec<&Run> = self.iter().collect();
        let mut found: Vec<Points<'_>> = Vec::new();
        for size in runs.chunk_by(|left, right| left.row.size == right.row.size) {
            let mut of_size: Vec<Points<'_>> = Vec::new();
            for group in groups(size) {
                let Some(point) = &group.row().point else {
                    continue;
                };
                match of_size.iter_mut().find(|known| known.of == point.of) {
                    Some(known) => known.groups.push(group),
                    None => of_size.push(Points {
                        of: &point.of,
                        groups: vec![group],
                    }),
                }
            }
            found.extend(of_size);
        }
        found
    }
}

impl Points<'_> {
    fn judged(&self) -> Tuned {
        let row = self.groups[0].row();
        let count = |wanted: &dyn Fn(&Group<'_>) -> bool| {
            self.groups.iter().filter(|group| wanted(group)).count() as u64
        };
        let complete = count(&|group| self.complete(group).is_some());
        let diverged = count(&|group| group.has_diverged());
        let runs = || self.groups.iter().flat_map(|group| &group.runs);
        let mut cost = Cost::default();
        runs().for_each(|run| cost.charge(run));
        Tuned {
            size: row.size.clone(),
            method: self.of.to_owned(),
            preset: row.preset.clone(),
            seeds: self.seeds().into_iter().collect(),
            complete,
            diverged,
            unfinished: self.groups.len() as u64 - complete - diverged,
            chosen: self.chosen(),
            cost,
            final_flops: row.point.as_ref().and_then(|point| point.final_flops),
        }
    }

    /// The seeds that some point was tried with.
    fn seeds(&self) -> BTreeSet<u64> {
        let runs = self.groups.iter().flat_map(|group| &group.runs);
        runs.map(|run| run.row.seed).collect()
    }

    /// Mean loss of a point that ran to its end with every seed that some point was tried with: means over other seeds cannot be
    /// held against one another.
    fn complete(&self, group: &Group<'_>) -> Option<Estimate> {
        let all = group
            .runs
            .iter()
            .all(|run| run.status == Status::Complete && run.validation_loss().is_some());
        let all = all && group.runs.len() == self.seeds().len();
        group.mean(|result| result.validation_loss).filter(|_| all)
    }

    fn chosen(&self) -> Option<Chosen> {
        let mut judged: Vec<(&Group<'_>, Estimate)> = self
            .groups
            .iter()
            .filter_map(|group| Some((group, self.complete(group)?)))
            .collect();
        // Stable: of equals the first stays the first.
        judged.sort_by(|(_, left), (_, right)| left.point.total_cmp(&right.point));
        let (best, loss) = *judged.first()?;
        Some(Chosen {
            point: best.row().method.clone(),
            values: values(best).clone(),
            loss,
            runner_up_gap: judged.get(1).map(|(_, next)| next.point - loss.point),
            edges: self.edges(best),
        })
    }

    /// Settings of which no point has a lower, or none a higher value than this one, though others differ. Also a point that
    /// diverged was tried: what lies beyond it is no better known.
    fn edges(&self, best: &Group<'_>) -> Vec<String> {
        let mut edges = Vec::new();
        for (setting, value) in values(best) {
            let tried = || {
                self.groups
                    .iter()
                    .filter_map(move |group| values(group).get(setting))
            };
            let (lower, higher) = (tried().any(|it| it < value), tried().any(|it| it > value));
            match (lower, higher) {
                (false, true) => edges.push(format!("lowest {setting}")),
                (true, false) => edges.push(format!("highest {setting}")),
                _ => {}
            }
        }
        edges
    }
}

impl Cost {
    fn charge(&mut self, run: &Run) {
        let share = run.update_steps().unwrap_or(0) as f64 / run.row.planned_steps.max(1) as f64;
        self.tokens += run.tokens_seen().unwrap_or(0);
        self.flops += run.row.flops * share;
        self.seconds += match (&run.result, run.last_step()) {
            (Some(result), _) => result.wall_seconds,
            (None, Some(step)) => step.training_seconds,
            (None, None) => 0.0,
        };
    }
}

/// The setting that every tuning is about.
const RATE: &str = "learning_rate";

fn values<'a>(group: &Group<'a>) -> &'a BTreeMap<String, f64> {
    static NONE: BTreeMap<String, f64> = BTreeMap::new();
    let point = group.row().point.as_ref();
    point.map_or(&NONE, |point| &point.values)
}

/// `learning_rate = 2.5e-3, rank = 8`: the rate first.
fn written(values: &BTreeMap<String, f64>) -> String {
    let (rate, others): (Vec<_>, Vec<_>) = values.iter().partition(|(setting, _)| *setting == RATE);
    let shown = rate.iter().chain(&others).map(|(setting, value)| {
        let value = if (1e-2..1e4).contains(&value.abs()) || **value == 0.0 {
            value.to_string()
        } else {
            format!("{value:e}")
        };
        format!("{setting} = {value}")
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// What the tuning of each method was charged, by its profile.
fn charged(rows: &[Compared<'_>]) -> Vec<Column> {
    let tuning = |row: &Compared<'_>| row.group.row().tuning.clone();
    vec![
        column("tuning_points", rows, |row| tuning(row)?.points),
        column("tuning_seeds", rows, |row| {
            let seeds = tuning(row)?.seeds;
            let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
            Some(seeds.join(" "))
        }),
        column("tuning_tokens", rows, |row| tuning(row)?.tokens),
        column("tuning_flops", rows, |row| tuning(row)?.flops),
        column("tuning_seconds", rows, |row| tuning(row)?.seconds),
        column("tuning_runs", rows, |row| {
            let flops = row.group.row().flops;
            Some(tuning(row)?.flops? / Some(flops).filter(|it| *it > 0.0)?)
        }),
    ]
}
