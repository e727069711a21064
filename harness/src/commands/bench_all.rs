//! `relora bench-all`: every cell of a profile, then the tables.

use results::frame::Run;
use results::record::Status;
use results::render::number_of;

use super::request::Request;
use super::{print, tables};
use crate::cli::MatrixOptions;
use crate::exit::{Exit, ReaderGone, one_line};
use crate::progress::warn;
use crate::suite::{self, SuiteOutcome};
use crate::tensorboard;

/// Trains what the flags ask for, as far as it is not done, and prints the tables.
///
/// # Errors
/// Those of [`Request::new`] and [`Request::plan`], and what the disk says.
pub fn run(options: MatrixOptions) -> anyhow::Result<Exit> {
    let request = Request::new(&options.suite)?.with_event_files(options.tensorboard);
    if options.print_config {
        print(&request.profile.to_toml())?;
        return Ok(Exit::Success);
    }
    train(&request, &[], options.json)
}

/// Plans, runs and tabulates. The remarks are said before anything is trained.
pub(super) fn train(request: &Request, remarks: &[String], json: bool) -> anyhow::Result<Exit> {
    let planned = request.settle()?;
    remarks
        .iter()
        .chain(&planned.notes)
        .for_each(|note| warn(note));
    let outcome = suite::run_suite(&request.directory, &planned.asked)?;
    let runs = tables::runs(&request.directory)?;
    let folder = tables::write(&runs, &request.directory)?;
    if planned.asked.tensorboard {
        // Those that had ended before anyone asked for event files.
        for cell in &planned.asked.cells {
            if let Err(error) = tensorboard::complete(&request.directory.join(cell.directory())) {
                warn(&format!("warning: no event file: {}", one_line(&error)));
            }
        }
    }
    if outcome == SuiteOutcome::Stopped && !json {
        warn(&format!(
            "stopped; the same command goes on from here (tables so far: {})",
            folder.display()
        ));
        return Ok(Exit::Stopped);
    }
    // How the suite went does not depend on whether its tables are read to the end.
    tables::show(&runs, json).or_else(|error| match error.is::<ReaderGone>() {
        true => Ok(()),
        false => Err(error),
    })?;
    warn(&format!("\ntables: {}", folder.display()));
    let is_asked = |run: &Run| {
        let name = run.row.directory();
        let mut cells = planned.asked.cells.iter();
        cells.any(|cell| cell.directory() == name)
    };
    let unreadable = runs
        .iter()
        .filter(|run| run.status == Status::Unreadable && is_asked(run))
        .count() as u64;
    if unreadable > 0 {
        warn(&format!(
            "warning: {} that had ended cannot be read, see above",
            number_of(unreadable, "run")
        ));
    }
    Ok(match outcome {
        // It has ended, but nobody can tell how.
        SuiteOutcome::Finished if unreadable > 0 => Exit::SomeCellsFailed,
        SuiteOutcome::Finished => Exit::Success,
        SuiteOutcome::SomeFailed => Exit::SomeCellsFailed,
        SuiteOutcome::Stopped => Exit::Stopped,
    })
}
