//! `relora spectra`: singular values of what the runs of a suite have trained.

use results::record::Status;
use results::render;

use super::{print, print_json, suite_directory, tables};
use crate::cli::SpectraOptions;
use crate::exit::{Exit, UserError, one_line};
use crate::plan::Plan;
use crate::progress::warn;
use crate::spectra;

/// Takes the spectra of every complete run that has none yet, writes the tables anew and prints a summary.
///
/// # Errors
/// A suite that is not there or cannot be read, a run without the checkpoints that it takes, a disk that is full.
pub fn run(options: SpectraOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    let plan = Plan::read(&suite)?;
    let complete: Vec<String> = tables::read(&suite)?
        .iter()
        .filter(|run| run.status == Status::Complete)
        .map(|run| run.row.directory())
        .collect();
    let cells: Vec<_> = plan
        .cells
        .iter()
        .filter(|cell| complete.contains(&cell.directory()))
        .collect();
    if cells.is_empty() {
        let message = format!(
            "{} has no complete run to take the spectra of",
            suite.display()
        );
        return Err(UserError::new(message)
            .hint("run the command that made the suite again")
            .into());
    }
    let mut failed = false;
    for cell in cells {
        let directory = suite.join(cell.directory());
        if !spectra::taken(&directory) {
            warn(&format!("spectra of {}", cell.directory()));
            let taken = spectra::of_run(cell, &plan.cells, &suite)
                .and_then(|records| spectra::write(&directory, &records));
            if let Err(error) = taken {
                // The others have theirs.
                warn(&format!(
                    "warning: {}: {}",
                    cell.directory(),
                    one_line(&error)
                ));
                failed = true;
            }
        }
    }
    let runs = tables::runs(&suite)?;
    let folder = tables::write(&runs, &suite)?;
    if options.json {
        print_json(&render::json(&runs.spectra()))?;
    } else {
        print(&format!(
            "{}\n{}",
            render::spectra(&runs),
            folder.join("spectra*.csv, figures/spectra-*.svg").display()
        ))?;
    }
    Ok(if failed { Exit::Failure } else { Exit::Success })
}
