//! `relora plan`: what would run and what it would cost, before anything runs.

use std::path::Path;
use std::time::Duration;

use models::Precision;
use results::frame::SeedsNeeded;
use results::render::number_of;
use results::statistics::MOST_PAIRS;
use serde::Serialize;

use super::request::Request;
use super::{print, print_json};
use crate::cli::PlanOptions;
use crate::exit::{Exit, UserError};
use crate::matrix::Cell;
use crate::plan::{self, Plan};
use crate::progress::{duration, warn};

/// Prints the plan of what the flags ask for.
///
/// # Errors
/// Those of [`Request::new`] and [`Request::plan`], and whatever standard output says.
pub fn run(options: PlanOptions) -> anyhow::Result<Exit> {
    let PlanOptions {
        matrix: options,
        resolve,
    } = options;
    let request = Request::new(&options.suite)?.with_event_files(options.tensorboard);
    if options.print_config {
        print(&request.profile.to_toml())?;
        return Ok(Exit::Success);
    }
    let seeds = resolve
        .map(|nats| seeds_needed(&request.directory, nats))
        .transpose()?;
    let planned = request.plan(true)?;
    planned.notes.iter().for_each(|note| warn(note));
    let plan = planned.asked;
    let precision = plan.precision.parse()?;
    let rows: Vec<Row> = plan
        .cells
        .iter()
        .map(|cell| Row::of(cell, precision, &plan))
        .collect();
    if options.json {
        print_json(&Document {
            plan: &plan,
            expected_seconds: plan.expected_seconds(),
            cells: rows,
            seeds_needed: seeds.as_deref(),
        })?;
    } else {
        let seeds = seeds.zip(resolve);
        let seeds = seeds.map_or_else(String::new, |(seeds, nats)| told(&seeds, nats));
        print(&(text(&request, &plan, &rows) + &seeds))?;
    }
    Ok(Exit::Success)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    expected_seconds: Option<f64>,
    #[serde(rename = "costs")]
    cells: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seeds_needed: Option<&'a [SeedsNeeded]>,
}

/// How many seeds tell each method of a suite from `full` by so many nats.
fn seeds_needed(suite: &Path, nats: f64) -> anyhow::Result<Vec<SeedsNeeded>> {
    let seeds = if super::is_suite(suite) {
        super::tables::read(suite)?.seeds_to_resolve("full", nats)
    } else {
        Vec::new()
    };
    if seeds.is_empty() {
        let message = format!(
            "--resolve {nats}: {} has no method with two seeds that both it and `full` completed, by which the scatter would be \
             known; train some first",
            suite.display()
        );
        return Err(UserError::new(message).into());
    }
    Ok(seeds)
}

fn told(seeds: &[SeedsNeeded], nats: f64) -> String {
    let mut text = format!(
        "\nto find a true difference of {nats} nats significant in four of five suites, at the strictest level of Holm's \
         correction, by how the seeds of this suite scatter so far:\n"
    );
    let lines: Vec<Vec<String>> = seeds
        .iter()
        .map(|row| {
            let needed = match row.needed {
                Some(needed) => number_of(needed, "seed"),
                None => format!("more than {MOST_PAIRS} seeds"),
            };
            vec![
                row.size.clone(),
                format!("{} against {}", row.method, row.reference),
                needed,
                format!("by {}", number_of(row.measured, "pair")),
            ]
        })
        .collect();
    text += &aligned(&lines);
    text += "a scatter known by 2, 3, 4 or 5 pairs may in truth be as much as 32, 6, 4 or 3 times as large, or half as large, and \
             the seeds go with its square\n";
    text
}

/// The stage at full rank of a method with a warm start.
const WARM_START: &str = "warm start";

/// The costs of one cell.
#[derive(Clone, PartialEq, Serialize)]
struct Row {
    cell: String,
    size: String,
    method: String,
    seed: u64,
    update_steps: u64,
    tokens: u64,
    total_parameters: u64,
    trainable_parameters: u64,
    flops: f64,
    weight_bytes: u64,
    gradient_bytes: u64,
    moment_bytes: u64,
    activation_bytes: u64,
    logit_bytes: u64,
    workspace_bytes: u64,
    /// Stage of the run whose memory that is, the one that takes more: `warm start` or `own`.
    memory_stage: &'static str,
    expected_seconds: Option<f64>,
}

impl Row {
    fn of(cell: &Cell, precision: Precision, plan: &Plan) -> Row {
        let keys = cell.row();
        let (bytes, in_warm_start) = plan::bytes(cell, precision);
        Row {
            cell: cell.directory(),
            size: keys.size,
            method: keys.method,
            seed: keys.seed,
            update_steps: keys.planned_steps,
            tokens: cell.planned_tokens(),
            total_parameters: keys.total_parameters,
            trainable_parameters: keys.trainable_parameters,
            flops: keys.flops,
            weight_bytes: bytes.weights,
            gradient_bytes: bytes.gradients,
            moment_bytes: bytes.moments,
            activation_bytes: bytes.activations,
            logit_bytes: bytes.logits,
            workspace_bytes: bytes.workspace,
            memory_stage: if in_warm_start { WARM_START } else { "own" },
            expected_seconds: plan
                .calibration
                .as_ref()
                .map(|calibration| calibration.seconds(cell)),
        }
    }
}

impl Row {
    /// All classes together.
    fn memory_bytes(&self) -> u64 {
        self.weight_bytes
            + self.gradient_bytes
            + self.moment_bytes
            + self.activation_bytes
            + self.logit_bytes
            + self.workspace_bytes
    }

    /// Behind memory that is not the method's own stage's.
    fn mark(&self) -> &'static str {
        if self.memory_stage == WARM_START {
            "*"
        } else {
            ""
        }
    }
}

/// One line per size and method: its seeds cost the same.
fn text(request: &Request, plan: &Plan, rows: &[Row]) -> String {
    let header = [
        "size",
        "method",
        "seeds",
        "steps",
        "tokens",
        "params",
        "trained",
        "FLOPs",
        "moments",
        "memory",
        "time each",
    ];
    let mut lines: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
    for (index, row) in rows.iter().enumerate() {
        let same = |other: &&Row| other.size == row.size && other.method == row.method;
        if rows[..index].iter().any(|other| same(&other)) {
            continue;
        }
        lines.push(vec![
            row.size.clone(),
            row.method.clone(),
            rows.iter().filter(same).count().to_string(),
            row.update_steps.to_string(),
            count(row.tokens as f64),
            count(row.total_parameters as f64),
            count(row.trainable_parameters as f64),
            format!("{:.2e}", row.flops),
            bytes(row.moment_bytes) + row.mark(),
            bytes(row.memory_bytes()) + row.mark(),
            row.expected_seconds.map_or_else(|| "?".to_owned(), time),
        ]);
    }
    let times = plan.calibration.as_ref().map_or_else(String::new, |measured| {
        format!(
            "\ntime each: full rank's for as many steps, start-up and evaluation included, by a short measurement of `{}`: \
             other work on the machine lengthens it, and the runs; another method may take less or more",
            measured.size
        )
    });
    let footnote = if rows.iter().any(|row| row.memory_stage == WARM_START) {
        "\n* of the warm start at full rank, which takes more than the method's own stage"
    } else {
        ""
    };
    let batches = batches(&plan.cells);
    let total_tokens: u64 = rows.iter().map(|row| row.tokens).sum();
    let total_flops: f64 = rows.iter().map(|row| row.flops).sum();
    let mut text = format!(
        "profile {}: {}\n\n{}\n\
         params, trained: parameters held, and those that the optimizer updates in the method's own stage\n\
         memory: weights, gradients, moments, activations and logits of one worker, without the program's own (each by --json)\
         {footnote}{times}\n\
         an update: {batches}\n\n",
        request.profile.name,
        request.profile.description,
        aligned(&lines)
    );
    text += &format!(
        "{}, {}, {total_flops:.2e} FLOPs, {} at a time with {} each on {} in {}\n",
        number_of(rows.len(), "cell"),
        number_of(count(total_tokens as f64), "token"),
        plan.jobs,
        number_of(plan.threads, "thread"),
        plan.device,
        plan.precision,
    );
    if let Some(seconds) = plan.expected_seconds() {
        text += &format!("about {} in all by that measurement\n", time(seconds));
    }
    text += &format!("would go to {}\n", request.directory.display());
    text
}

/// How many sequences each size's updates have, and how many of them at a time.
fn batches(cells: &[Cell]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cell in cells {
        let settings = &cell.settings;
        let line = format!(
            "{} {} of {}, {} in a micro-batch",
            cell.size,
            number_of(settings.global_batch_size, "sequence"),
            number_of(settings.sequence_length, "token"),
            settings.micro_batch_size
        );
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("; ")
}

fn time(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Columns padded to their widest entry: the first two to the left, numbers to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells =
            line.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (entry, width))| match column {
                    0 | 1 => format!("{entry:<width$}"),
                    _ => format!("{entry:>width$}"),
                });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A number of things with three significant digits: 834, 58.1M, 2.62B.
fn count(number: f64) -> String {
    scaled(number, &["", "K", "M", "B", "T"], 1000.0)
}

fn bytes(number: u64) -> String {
    scaled(
        number as f64,
        &[" B", " KiB", " MiB", " GiB", " TiB"],
        1024.0,
    )
}

fn scaled(number: f64, units: &[&str], step: f64) -> String {
    let mut value = number;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_a_unit() {
        assert_eq!(
            [count(834.0), count(58_073_000.0), count(2.62e9)],
            ["834", "58.1M", "2.62B"]
        );
        assert_eq!(
            [bytes(512), bytes(1536), bytes(3 << 30)],
            ["512 B", "1.50 KiB", "3.00 GiB"]
        );
    }
}
