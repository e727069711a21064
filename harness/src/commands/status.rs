//! `relora status`: how far a suite is.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use results::frame::{Run, Runs};
use results::record::{Record, Status};
use serde::Serialize;

use super::{print, print_json, suite_directory, tables};
use crate::cli::StatusOptions;
use crate::exit::Exit;
use crate::progress::duration;

/// Prints a line for each run, once or again and again.
///
/// # Errors
/// A suite that is not there or cannot be read.
pub fn run(options: StatusOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    let runs = tables::runs(&suite)?;
    if options.watch {
        return watch(&suite);
    }
    let rows: Vec<Row> = runs.iter().map(Row::of).collect();
    if options.json {
        print_json(&rows)?;
        return Ok(Exit::Success);
    }
    print(&(lines(&rows) + &summary(&suite, &runs)))?;
    Ok(Exit::Success)
}

fn lines(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.cell.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let done = row
            .update_steps
            .map_or_else(|| "?".to_owned(), |steps| steps.to_string());
        let steps = format!("{done}/{}", row.planned_steps);
        let loss = row
            .validation_loss
            .map_or_else(String::new, |loss| format!("validation loss {loss:.4}"));
        let loss = match row
            .validation_step
            .filter(|step| Some(*step) < row.update_steps)
        {
            Some(step) if !loss.is_empty() => format!("{loss} at step {step}"),
            _ => loss,
        };
        let line = format!(
            "{:<width$}  {:<20}  {steps:>13}  {loss}",
            row.cell,
            row.status.name()
        );
        text += line.trim_end();
        if let Some(error) = &row.error {
            text += &format!("\n{:<width$}  {error}", "");
        }
        text.push('\n');
    }
    text
}

fn summary(suite: &Path, runs: &Runs) -> String {
    let counts: Vec<String> = runs
        .counts()
        .iter()
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    format!("\n{}: {}\n", suite.display(), counts.join(", "))
}

/// How long until the next look.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks in a row at which nothing was running though runs have not ended, until the suite counts as left: from one run to the next,
/// or before the first one, it takes a moment.
const QUIET_LOOKS: u32 = 15;

/// Shows what is running, and how all stand, until nothing is: drawn over on a terminal, else printed where a status has changed.
fn watch(suite: &Path) -> anyhow::Result<Exit> {
    let drawn = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    drawn.set_style(ProgressStyle::with_template("{msg}").context("a valid template")?);
    let mut quiet = 0;
    let mut before: Option<Vec<Status>> = None;
    let mut failed = false;
    loop {
        let runs = match tables::read(suite) {
            // A file may be looked at in the moment in which another takes its place.
            Err(_) if before.is_some() && !failed => {
                failed = true;
                thread::sleep(PAUSE);
                continue;
            }
            runs => runs?,
        };
        failed = false;
        let shown: Vec<&Run> = runs.iter().filter(|run| is_shown(run)).collect();
        let text = lines(&shown.iter().map(|run| Row::of(run)).collect::<Vec<_>>())
            + &speeds(&shown)
            + &summary(suite, &runs);
        let statuses: Vec<Status> = runs.iter().map(|run| run.status).collect();
        let has_changed = before.as_ref() != Some(&statuses);
        quiet = if statuses.contains(&Status::Running) {
            0
        } else {
            quiet + 1
        };
        let is_over = quiet > 0 && !statuses.iter().any(waits);
        if is_over || quiet == QUIET_LOOKS {
            drawn.finish_and_clear();
            if has_changed || !drawn.is_hidden() {
                print(&text)?;
            }
            return Ok(Exit::Success);
        }
        if !drawn.is_hidden() {
            drawn.set_message(text.trim_end().to_owned());
            drawn.tick();
        } else if has_changed {
            print(&text)?;
        }
        before = Some(statuses);
        thread::sleep(PAUSE);
    }
}

/// Whether a command may take the run up yet.
fn waits(status: &Status) -> bool {
    matches!(
        status,
        Status::Pending | Status::Failed | Status::StoppedBudget | Status::StoppedInterrupted
    )
}

/// Neither done nor waiting.
fn is_shown(run: &Run) -> bool {
    !matches!(run.status, Status::Complete | Status::Pending)
}

/// How fast the running ones are, and how long they have yet to train at that speed.
fn speeds(runs: &[&Run]) -> String {
    let running = runs.iter().filter(|run| run.status == Status::Running);
    let lines = running.filter_map(|run| {
        let last = run.records.iter().rev().find_map(|record| match record {
            Record::Step(step) => Some(step),
            _ => None,
        })?;
        let left = run.row.planned_steps.saturating_sub(last.step);
        let seconds = last.training_seconds / last.step.max(1) as f64 * left as f64;
        let left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(format!(
            "{}  {:.0} tokens/s, about {} of training left\n",
            run.row.directory(),
            last.tokens_per_second,
            duration(left)
        ))
    });
    let lines: String = lines.collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{lines}")
    }
}

/// How one run stands.
#[derive(Serialize)]
struct Row {
    cell: String,
    size: String,
    method: String,
    seed: u64,
    status: Status,
    /// None, as the next, where the run cannot be read.
    update_steps: Option<u64>,
    planned_steps: u64,
    tokens_seen: Option<u64>,
    validation_loss: Option<f64>,
    /// Update steps done when that was measured.
    validation_step: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Row {
    fn of(run: &Run) -> Row {
        let keys = &run.row;
        Row {
            cell: keys.directory(),
            size: keys.size.clone(),
            method: keys.method.clone(),
            seed: keys.seed,
            status: run.status,
            update_steps: run.update_steps(),
            planned_steps: keys.planned_steps,
            tokens_seen: run.tokens_seen(),
            validation_loss: run.validation_loss(),
            validation_step: run.newest_evaluation().map(|(step, _)| step),
            error: run.error.clone(),
        }
    }
}
