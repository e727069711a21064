//! `relora status`: how far a suite is.

use results::frame::Run;
use results::record::Status;
use serde::Serialize;

use super::{print, print_json, suite_directory, tables};
use crate::cli::StatusOptions;
use crate::exit::Exit;

/// Prints a line for each run.
///
/// # Errors
/// A suite that is not there or cannot be read.
pub fn run(options: StatusOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    let runs = tables::runs(&suite)?;
    let rows: Vec<Row> = runs.iter().map(Row::of).collect();
    if options.json {
        print_json(&rows)?;
        return Ok(Exit::Success);
    }
    let width = rows.iter().map(|row| row.cell.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
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
    let counts: Vec<String> = runs
        .counts()
        .iter()
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    text += &format!("\n{}: {}\n", suite.display(), counts.join(", "));
    print(&text)?;
    Ok(Exit::Success)
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
