//! The contract tables, one function each.

use super::build::{column, estimate, interval, keys, seeds, switches, table};
use super::compare::{Compared, p_value};
use super::curve::{flops_per_update, own_flops};
use super::literature::published;
use super::prices::prices;
use super::{Run, Runs};
use crate::published::{self as literature, Published};
use crate::record::{
    AnglesRecord, GpuUse, PlannedMemory, Record, RowKeys, RunResult, SpectrumOf, SpectrumRecord,
};
use crate::spectra::{self, Spectrum};
use crate::statistics::LEVEL;
use polars::prelude::{Column, DataFrame};

impl Runs {
    /// Every table with its name, in the order in which they are written.
    #[must_use]
    pub fn frames(&self) -> Vec<(&'static str, DataFrame)> {
        let beside_full = self.compared("full");
        vec![
            ("runs", self.runs()),
            ("perplexity", perplexity(&beside_full)),
            ("ablations", self.ablations()),
            ("effects", self.effects()),
            ("recovery", self.recovery()),
            ("prices", prices(&beside_full)),
            ("equal", self.equal()),
            ("published", published(&beside_full)),
            ("tuned", self.tuned_methods()),
            ("tuning", self.tuning()),
            ("tuning_points", self.tuning_points()),
            ("throughput", throughput(&beside_full)),
            ("memory", memory(&beside_full)),
            ("curves", self.curves()),
            ("events", self.events()),
            ("spectra", self.spectra()),
            ("spectra_histogram", self.spectra_histogram()),
        ]
    }

    /// One row for each run, whatever its status.
    #[must_use]
    pub fn runs(&self) -> DataFrame {
        let runs: Vec<&Run> = self.iter().collect();
        let of_result =
            |value: fn(&RunResult) -> f64| move |run: &&Run| run.result.as_ref().map(value);
        let of_gpu =
            |value: fn(GpuUse) -> Option<f64>| move |run: &&Run| value(run.result.as_ref()?.gpu?);
        let mut columns = keys(&runs, |run| &run.row);
        columns.extend([
            column("seed", &runs, |run| run.row.seed),
            column("dialect", &runs, |run| run.row.dialect.clone()),
            column("status", &runs, |run| run.status.name()),
        ]);
        columns.extend(switches(&runs, |run| &run.row));
        columns.extend([
            column("learning_rate", &runs, |run| run.row.learning_rate),
            column("alpha", &runs, |run| run.row.alpha),
            column("restart_every", &runs, |run| run.row.restart_every),
            column("warm_start_steps", &runs, |run| run.row.warm_start_steps),
            column("global_batch_size", &runs, |run| run.row.global_batch_size),
            column("sequence_length", &runs, |run| run.row.sequence_length),
            column("data_hash", &runs, |run| run.row.data_hash.clone()),
            column("tokens_seen", &runs, |run| run.tokens_seen()),
            column("planned_steps", &runs, |run| run.row.planned_steps),
            column("update_steps", &runs, |run| run.update_steps()),
            column("validation_loss", &runs, |run| run.validation_loss()),
            column("perplexity", &runs, |run| {
                run.validation_loss().map(f64::exp)
            }),
            column("bits_per_byte", &runs, |run| bits_per_byte(run)),
            column("validation_targets", &runs, |run| validation_targets(run)),
            column("training_loss", &runs, |run| match &run.result {
                Some(result) => result.training_loss,
                None => run.last_step().and_then(|step| step.loss),
            }),
            column("diverged_at_step", &runs, |run| {
                run.result
                    .as_ref()
                    .and_then(|result| result.diverged_at_step)
            }),
            column("restart_count", &runs, |run| {
                let is_counted = |record: &&Record| matches!(record, Record::Restart(_));
                run.count(
                    |result| result.restarts,
                    |records| records.iter().filter(is_counted).count() as u64,
                )
            }),
            column("reset_count", &runs, |run| {
                let is_counted = |record: &&Record| matches!(record, Record::Reset(_));
                run.count(
                    |result| result.resets,
                    |records| records.iter().filter(is_counted).count() as u64,
                )
            }),
            column(
                "tokens_per_second",
                &runs,
                of_result(|result| result.tokens_per_second),
            ),
            column(
                "training_seconds",
                &runs,
                of_result(|result| result.training_seconds),
            ),
            column(
                "evaluation_seconds",
                &runs,
                of_result(|result| result.evaluation_seconds),
            ),
            column(
                "wall_seconds",
                &runs,
                of_result(|result| result.wall_seconds),
            ),
            column("peak_memory_bytes", &runs, |run| {
                run.result
                    .as_ref()
                    .and_then(|result| result.peak_memory_bytes)
            }),
            column("training_joules", &runs, of_gpu(|gpu| gpu.training_joules)),
            column(
                "evaluation_joules",
                &runs,
                of_gpu(|gpu| gpu.evaluation_joules),
            ),
            column("joules", &runs, of_gpu(|gpu| gpu.joules)),
            column(
                "joules_per_token",
                &runs,
                of_gpu(|gpu| gpu.joules_per_token),
            ),
            column("gpu_utilization", &runs, of_gpu(|gpu| gpu.utilization)),
            column("driver_peak_memory_bytes", &runs, |run| {
                run.result.as_ref()?.gpu?.peak_memory_bytes
            }),
            column("weight_bytes", &runs, |run| {
                run.result.as_ref().map(|result| result.weight_bytes)
            }),
            column("optimizer_state_bytes", &runs, |run| {
                run.result
                    .as_ref()
                    .map(|result| result.optimizer_state_bytes)
            }),
            column("total_parameters", &runs, |run| run.row.total_parameters),
            column("trainable_parameters", &runs, |run| {
                run.row.trainable_parameters
            }),
            column("flops", &runs, |run| run.row.flops),
            column("device", &runs, |run| run.row.device.clone()),
            column("precision", &runs, |run| run.row.precision.clone()),
            column("point_of", &runs, |run| {
                run.row.point.as_ref().map(|point| point.of.clone())
            }),
            column("tuned_from", &runs, |run| {
                run.row.tuning.as_ref().map(|tuning| tuning.from.clone())
            }),
            column("error", &runs, |run| run.error.clone()),
        ]);
        table(columns)
    }

    /// One row for each method and size: perplexity over the seeds that ran to their end, and the difference from `full`.
    #[must_use]
    pub fn perplexity(&self) -> DataFrame {
        perplexity(&self.compared("full"))
    }

    /// One row for each method and size: its switches, its validation loss, and the difference from `relora`.
    #[must_use]
    pub fn ablations(&self) -> DataFrame {
        let rows = self.compared("relora");
        let mut columns = keys(&rows, |row| row.group.row());
        columns.extend(switches(&rows, |row| row.group.row()));
        columns.push(column("learning_rate", &rows, |row| {
            row.group.row().learning_rate
        }));
        columns.extend(seeds(&rows, |row| &row.group));
        columns.extend(estimate("validation_loss", &rows, Compared::loss));
        columns.push(column("interval_level", &rows, |_| LEVEL));
        columns.extend(comparisons(&rows, |row| row));
        columns.extend(published_columns(&rows, |row| {
            literature::ablation_table(row.group.row())
        }));
        table(columns)
    }

    /// One row for each method and size: speed and time over the seeds that ran to their end, and the ratio to `full`.
    #[must_use]
    pub fn throughput(&self) -> DataFrame {
        throughput(&self.compared("full"))
    }

    /// One row for each method and size: parameters, bytes by class and the peak, and the ratio to `full`.
    #[must_use]
    pub fn memory(&self) -> DataFrame {
        memory(&self.compared("full"))
    }

    /// Loss against tokens in long form: one row for each logged training step and each evaluation of each run.
    #[must_use]
    pub fn curves(&self) -> DataFrame {
        let points: Vec<Point<'_>> = self
            .iter()
            .flat_map(|run| {
                run.records.iter().filter_map(|record| match record {
                    Record::Step(step) => Some(Point {
                        row: &run.row,
                        kind: "training",
                        step: step.step,
                        tokens_seen: step.tokens_seen,
                        loss: step.loss,
                        learning_rate: Some(step.learning_rate),
                        grad_norm: step.grad_norm,
                        tokens_per_second: Some(step.tokens_per_second),
                        training_seconds: Some(step.training_seconds),
                    }),
                    Record::Evaluation(evaluation) => Some(Point {
                        row: &run.row,
                        kind: "validation",
                        step: evaluation.step,
                        tokens_seen: evaluation.tokens_seen,
                        loss: evaluation.validation_loss,
                        learning_rate: None,
                        grad_norm: None,
                        tokens_per_second: None,
                        training_seconds: None,
                    }),
                    Record::Restart(_) | Record::Reset(_) | Record::Stop(_) => None,
                })
            })
            .collect();
        let mut columns = keys(&points, |point| point.row);
        columns.extend([
            column("seed", &points, |point| point.row.seed),
            column("kind", &points, |point| point.kind),
            column("step", &points, |point| point.step),
            column("tokens_seen", &points, |point| point.tokens_seen),
            column("loss", &points, |point| point.loss),
            column("learning_rate", &points, |point| point.learning_rate),
            column("grad_norm", &points, |point| point.grad_norm),
            column("tokens_per_second", &points, |point| {
                point.tokens_per_second
            }),
            column("training_seconds", &points, |point| point.training_seconds),
        ]);
        table(columns)
    }

    /// Restarts and moment resets, one row each. How a run stopped and went on is not here: it leaves no trace in the numbers.
    #[must_use]
    pub fn events(&self) -> DataFrame {
        let events: Vec<Event<'_>> = self
            .iter()
            .flat_map(|run| {
                run.records.iter().filter_map(|record| match record {
                    Record::Restart(restart) => Some(Event {
                        row: &run.row,
                        kind: "restart",
                        step: restart.step,
                        moments: None,
                    }),
                    Record::Reset(reset) => {
                        let moments = Some((reset.moments_total, reset.moments_zeroed));
                        Some(Event {
                            row: &run.row,
                            kind: "reset",
                            step: reset.step,
                            moments,
                        })
                    }
                    Record::Step(_) | Record::Evaluation(_) | Record::Stop(_) => None,
                })
            })
            .collect();
        let mut columns = keys(&events, |event| event.row);
        columns.extend([
            column("seed", &events, |event| event.row.seed),
            column("kind", &events, |event| event.kind),
            column("step", &events, |event| event.step),
            column("moments_total", &events, |event| {
                event.moments.map(|(total, _)| total)
            }),
            column("moments_zeroed", &events, |event| {
                event.moments.map(|(_, zeroed)| zeroed)
            }),
        ]);
        table(columns)
    }

    /// Singular values, summed up: one row for each matrix of each run whose spectra have been taken.
    #[must_use]
    pub fn spectra(&self) -> DataFrame {
        let rows: Vec<(&RowKeys, &SpectrumRecord, Spectrum)> = self
            .iter()
            .flat_map(|run| {
                run.spectra.iter().map(|record| {
                    let singular_values = record.singular_values.clone();
                    (&run.row, record, Spectrum { singular_values })
                })
            })
            .collect();
        let mut columns = keys(&rows, |(row, ..)| row);
        columns.extend([
            column("seed", &rows, |(row, ..)| row.seed),
            column("quantity", &rows, |(_, record, _)| quantity(record)),
            column("from_step", &rows, |(_, record, _)| record.from_step),
            column("step", &rows, |(_, record, _)| record.step),
            column("layer", &rows, |(_, record, _)| record.layer),
            column("matrix", &rows, |(_, record, _)| record.matrix.clone()),
            column("singular_values", &rows, |(.., spectrum)| {
                spectrum.singular_values.len() as u64
            }),
            column("below_0_1", &rows, |(.., spectrum)| {
                spectrum.below_small() as u64
            }),
            column("largest", &rows, |(.., spectrum)| spectrum.largest()),
            column("frobenius_norm", &rows, |(.., spectrum)| {
                spectrum.frobenius_norm()
            }),
            column("nuclear_norm", &rows, |(.., spectrum)| {
                spectrum.nuclear_norm()
            }),
            column("effective_rank", &rows, |(.., spectrum)| {
                spectrum.effective_rank()
            }),
            column("stable_rank", &rows, |(.., spectrum)| {
                spectrum.stable_rank()
            }),
            column("numerical_rank", &rows, |(.., spectrum)| {
                spectrum.numerical_rank() as u64
            }),
            column("rank_bound", &rows, |(_, record, _)| record.rank_bound),
        ]);
        for (name, angles) in [
            (
                "output_angle",
                (|record| record.output_angles) as fn(&SpectrumRecord) -> Option<AnglesRecord>,
            ),
            ("input_angle", |record| record.input_angles),
        ] {
            let smallest = |(_, record, _): &(&RowKeys, &SpectrumRecord, Spectrum)| {
                angles(record).map(|angles| angles.smallest)
            };
            let mean = |(_, record, _): &(&RowKeys, &SpectrumRecord, Spectrum)| {
                angles(record).map(|angles| angles.mean)
            };
            columns.push(column(&format!("{name}_smallest_degrees"), &rows, smallest));
            columns.push(column(&format!("{name}_mean_degrees"), &rows, mean));
        }
        table(columns)
    }

    /// The paper's figure 4 as numbers: for each run and matrix, the density of the singular values of the update over all
    /// layers, in long form.
    #[must_use]
    pub fn spectra_histogram(&self) -> DataFrame {
        let mut rows = Vec::new();
        for run in self.iter() {
            for matrix in run.matrices() {
                let values = run
                    .updates_of(matrix)
                    .flat_map(|record| record.singular_values.iter().copied());
                for (bin, density) in spectra::histogram(values).into_iter().enumerate() {
                    rows.push((run, matrix, bin, density));
                }
            }
        }
        let edge = |bin: usize| spectra::HISTOGRAM_END * bin as f64 / spectra::BINS as f64;
        let mut columns = keys(&rows, |(run, ..)| &run.row);
        columns.extend([
            column("seed", &rows, |(run, ..)| run.row.seed),
            column("from_step", &rows, |(run, ..)| run.measured_from()),
            column("matrix", &rows, |(_, matrix, ..)| (*matrix).to_owned()),
            column("bin_low", &rows, |(_, _, bin, _)| edge(*bin)),
            column("bin_high", &rows, |(_, _, bin, _)| edge(bin + 1)),
            column("density", &rows, |(.., density)| *density),
        ]);
        table(columns)
    }
}

fn perplexity(rows: &[Compared<'_>]) -> DataFrame {
    let mut columns = keys(rows, |row| row.group.row());
    columns.extend(seeds(rows, |row| &row.group));
    columns.push(column("tokens_seen", rows, |row| row.group.tokens_seen()));
    columns.extend(estimate("validation_loss", rows, Compared::loss));
    columns.extend(interval("perplexity", rows, |row| {
        row.loss().map(|loss| loss.map(f64::exp))
    }));
    columns.push(column("interval_level", rows, |_| LEVEL));
    columns.extend(comparisons(rows, |row| row));
    columns.extend(published_columns(rows, |row| {
        literature::main_table(row.group.row())
    }));
    table(columns)
}

fn throughput(rows: &[Compared<'_>]) -> DataFrame {
    let mut columns = keys(rows, |row| row.group.row());
    columns.extend(seeds(rows, |row| &row.group));
    columns.extend(estimate("tokens_per_second", rows, |row| {
        row.group.mean(tokens_per_second)
    }));
    columns.extend(interval("tokens_per_second_ratio", rows, |row| {
        row.ratio(tokens_per_second)
    }));
    columns.extend(estimate("training_seconds", rows, |row| {
        row.group.mean(|result| Some(result.training_seconds))
    }));
    columns.extend(estimate("wall_seconds", rows, |row| {
        row.group.mean(wall_seconds)
    }));
    columns.extend(interval("wall_seconds_ratio", rows, |row| {
        row.ratio(wall_seconds)
    }));
    columns.extend(interval("training_seconds_ratio", rows, |row| {
        row.ratio(|result| Some(result.training_seconds))
    }));
    columns.extend(estimate("joules_per_token", rows, |row| {
        row.group.mean(joules_per_token)
    }));
    columns.extend(interval("joules_per_token_ratio", rows, |row| {
        row.ratio(joules_per_token)
    }));
    columns.extend(estimate("kilowatt_hours", rows, |row| {
        row.group.mean(kilowatt_hours)
    }));
    columns.extend(estimate("gpu_utilization", rows, |row| {
        row.group.mean(|result| result.gpu?.utilization)
    }));
    columns.extend([
        column("flops", rows, |row| row.group.row().flops),
        column("flops_ratio", rows, |row| {
            row.ratio_of_rows(|row| row.flops)
        }),
        column("flops_per_token_ratio", rows, flops_per_token_ratio),
        column("interval_level", rows, |_| LEVEL),
    ]);
    columns.push(reference(rows, |row| row));
    table(columns)
}

fn memory(rows: &[Compared<'_>]) -> DataFrame {
    let mut columns = keys(rows, |row| row.group.row());
    columns.extend(seeds(rows, |row| &row.group));
    columns.extend([
        column("total_parameters", rows, |row| {
            row.group.row().total_parameters
        }),
        column("trainable_parameters", rows, |row| {
            row.group.row().trainable_parameters
        }),
        column("weight_bytes", rows, |row| {
            row.group.largest(|result| result.weight_bytes)
        }),
        column("optimizer_state_bytes", rows, |row| {
            row.group.largest(|result| result.optimizer_state_bytes)
        }),
        column("optimizer_state_ratio", rows, |row| {
            row.optimizer_state_ratio()
        }),
    ]);
    columns.extend(estimate("peak_memory_bytes", rows, |row| {
        row.group.mean(peak_memory_bytes)
    }));
    columns.extend(interval("peak_memory_ratio", rows, |row| {
        row.ratio(peak_memory_bytes)
    }));
    columns.extend(estimate("driver_peak_memory_bytes", rows, |row| {
        row.group
            .mean(|result| Some(result.gpu?.peak_memory_bytes? as f64))
    }));
    columns.extend(planned(rows));
    columns.push(column("interval_level", rows, |_| LEVEL));
    columns.push(reference(rows, |row| row));
    table(columns)
}

fn quantity(record: &SpectrumRecord) -> &'static str {
    match record.quantity {
        SpectrumOf::Update => "update",
        SpectrumOf::Product => "product",
    }
}

/// A row of `curves`.
struct Point<'a> {
    row: &'a RowKeys,
    kind: &'static str,
    step: u64,
    tokens_seen: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    tokens_per_second: Option<f64>,
    training_seconds: Option<f64>,
}

/// A row of `events`.
struct Event<'a> {
    row: &'a RowKeys,
    kind: &'static str,
    step: u64,
    moments: Option<(u64, u64)>,
}

/// The memory plan by class, and its share of the measured peak.
fn planned(rows: &[Compared<'_>]) -> Vec<Column> {
    type Class = fn(&PlannedMemory) -> u64;
    let classes: [(&str, Class); 8] = [
        ("planned_process_bytes", |plan| plan.process),
        ("planned_weight_bytes", |plan| plan.weights),
        ("planned_gradient_bytes", |plan| plan.gradients),
        ("planned_moment_bytes", |plan| plan.moments),
        ("planned_activation_bytes", |plan| plan.activations),
        ("planned_logit_bytes", |plan| plan.logits),
        ("planned_workspace_bytes", |plan| plan.workspace),
        ("planned_bytes", PlannedMemory::total),
    ];
    // Of the seed whose plan is largest, as it may have trained a warm start that the others were handed.
    let plan = |row: &Compared<'_>| {
        let plans = row.group.complete();
        let plans = plans.filter_map(|(_, result)| result.planned_memory);
        plans.max_by_key(PlannedMemory::total)
    };
    let mut columns: Vec<Column> = classes
        .iter()
        .map(|(name, of)| column(name, rows, |row| plan(row).as_ref().map(of)))
        .collect();
    columns.push(column("planned_ratio", rows, |row| {
        let measured = row
            .group
            .complete()
            .filter_map(|(_, it)| it.peak_memory_bytes);
        let measured = measured.max().filter(|&bytes| bytes > 0)?;
        Some(plan(row)?.total() as f64 / measured as f64)
    }));
    columns
}

/// FLOPs of a token over those of the reference, both after their warm starts: of the same steps as the tokens per second.
fn flops_per_token_ratio(row: &Compared<'_>) -> Option<f64> {
    // A warm start's updates are those of full rank at the same size.
    let full_rank = flops_per_update(row.reference.as_ref()?.row());
    row.ratio_of_rows(|row| own_flops(row, full_rank))
}

fn tokens_per_second(result: &RunResult) -> Option<f64> {
    Some(result.tokens_per_second)
}

fn wall_seconds(result: &RunResult) -> Option<f64> {
    Some(result.wall_seconds)
}

fn joules_per_token(result: &RunResult) -> Option<f64> {
    result.gpu?.joules_per_token
}

/// Of the whole run.
fn kilowatt_hours(result: &RunResult) -> Option<f64> {
    Some(result.gpu?.joules? / JOULES_PER_KILOWATT_HOUR)
}

const JOULES_PER_KILOWATT_HOUR: f64 = 3.6e6;

fn peak_memory_bytes(result: &RunResult) -> Option<f64> {
    result.peak_memory_bytes.map(|bytes| bytes as f64)
}

/// Nats per target to bits per byte of the validation text.
fn bits_per_byte(run: &Run) -> Option<f64> {
    let bytes_per_target = run
        .result
        .as_ref()
        .map(|result| result.bytes_per_target)
        .filter(|bytes| *bytes > 0.0)?;
    Some(run.validation_loss()? / std::f64::consts::LN_2 / bytes_per_target)
}

fn validation_targets(run: &Run) -> Option<u64> {
    match &run.result {
        Some(result) => Some(result.validation_targets),
        None => run.records.iter().rev().find_map(|record| match record {
            Record::Evaluation(evaluation) => Some(evaluation.targets),
            _ => None,
        }),
    }
}

fn reference<R>(rows: &[R], compared: impl Fn(&R) -> &Compared<'_>) -> Column {
    column("reference", rows, |row| {
        let reference = compared(row).reference.as_ref();
        reference.map(|reference| reference.row().method.clone())
    })
}

/// The difference from the reference, what is known of it, and the verdict.
pub(super) fn comparisons<R>(rows: &[R], compared: impl Fn(&R) -> &Compared<'_>) -> Vec<Column> {
    let mut columns = vec![reference(rows, &compared)];
    columns.extend(estimate("difference", rows, |row| {
        let difference = compared(row).difference;
        difference.map(|difference| difference.estimate)
    }));
    columns.extend([
        column("difference_bootstrap_low", rows, |row| {
            compared(row).bootstrap.map(|interval| interval.low)
        }),
        column("difference_bootstrap_high", rows, |row| {
            compared(row).bootstrap.map(|interval| interval.high)
        }),
        column("difference_pairs", rows, |row| {
            let difference = compared(row).difference;
            difference.map(|difference| difference.estimate.n as u64)
        }),
        column("difference_p", rows, |row| p_value(compared(row))),
        column("difference_p_adjusted", rows, |row| {
            compared(row).p_adjusted
        }),
        column("difference_resolvable", rows, |row| {
            compared(row).resolvable()
        }),
        column("margin", rows, |row| compared(row).margin),
        column("verdict", rows, |row| compared(row).verdict()),
    ]);
    columns
}

/// Figures from the literature, which are not ours: every column says so in its name.
pub(super) fn published_columns<R>(
    rows: &[R],
    published: impl Fn(&R) -> Option<&'static Published>,
) -> Vec<Column> {
    vec![
        column("published_perplexity", rows, |row| {
            published(row).and_then(|it| it.outcome.perplexity())
        }),
        column("published_status", rows, |row| {
            published(row).map(|it| it.outcome.status())
        }),
        column("published_tokens", rows, |row| {
            published(row).map(|it| it.tokens.as_str())
        }),
        column("published_source", rows, |row| {
            published(row).map(|it| it.source.as_str())
        }),
        column("published_certainty", rows, |row| {
            published(row).map(|it| it.certainty.as_str())
        }),
    ]
}
