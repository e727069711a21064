//! `relora bench-all`: every cell of a profile, then the tables.

use std::path::PathBuf;

use results::frame::{Run, Runs};
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
    let trained = carry_out(request, remarks)?;
    if trained.outcome == SuiteOutcome::Stopped && !json {
        return Ok(trained.stopped());
    }
    unless_unread(tables::show(&trained.runs, json))?;
    warn(&format!("\ntables: {}", trained.tables.display()));
    Ok(trained.exit())
}

/// A suite that was worked on, and its tables.
pub(super) struct Trained {
    /// How it ended.
    pub(super) outcome: SuiteOutcome,
    /// All its runs as they stand.
    pub(super) runs: Runs,
    /// The folder that its tables were written to.
    pub(super) tables: PathBuf,
    /// Runs that were asked for and had ended, but cannot be read.
    unreadable: u64,
}

/// Plans and runs what is asked for, and writes the tables. The remarks are said before anything is trained.
///
/// # Errors
/// Those of [`Request::settle`] and [`suite::run_suite`], and what the disk says.
pub(super) fn carry_out(request: &Request, remarks: &[String]) -> anyhow::Result<Trained> {
    let planned = request.settle()?;
    remarks
        .iter()
        .chain(&planned.notes)
        .for_each(|note| warn(note));
    let outcome = suite::run_suite(&request.directory, &planned.asked)?;
    let runs = tables::runs(&request.directory)?;
    let tables = tables::write(&runs, &request.directory)?;
    if planned.asked.tensorboard {
        // Those that had ended before anyone asked for event files.
        for cell in &planned.asked.cells {
            if let Err(error) = tensorboard::complete(&request.directory.join(cell.directory())) {
                warn(&format!("warning: no event file: {}", one_line(&error)));
            }
        }
    }
    let is_asked = |run: &Run| {
        let name = run.row.directory();
        let mut cells = planned.asked.cells.iter();
        cells.any(|cell| cell.directory() == name)
    };
    let unreadable = runs
        .iter()
        .filter(|run| run.status == Status::Unreadable && is_asked(run))
        .count() as u64;
    Ok(Trained {
        outcome,
        runs,
        tables,
        unreadable,
    })
}

impl Trained {
    /// Says that the suite was stopped.
    pub(super) fn stopped(&self) -> Exit {
        warn(&format!(
            "stopped; the same command goes on from here (tables so far: {})",
            self.tables.display()
        ));
        Exit::Stopped
    }

    /// How the command ends; what had ended and cannot be read is said.
    pub(super) fn exit(&self) -> Exit {
        if self.unreadable > 0 {
            warn(&format!(
                "warning: {} that had ended cannot be read, see above",
                number_of(self.unreadable, "run")
            ));
        }
        match self.outcome {
            // It has ended, but nobody can tell how.
            SuiteOutcome::Finished if self.unreadable > 0 => Exit::SomeCellsFailed,
            SuiteOutcome::Finished => Exit::Success,
            SuiteOutcome::SomeFailed => Exit::SomeCellsFailed,
            SuiteOutcome::Stopped => Exit::Stopped,
        }
    }
}

/// How a suite went does not depend on whether its tables are read to the end.
pub(super) fn unless_unread(shown: anyhow::Result<()>) -> anyhow::Result<()> {
    shown.or_else(|error| match error.is::<ReaderGone>() {
        true => Ok(()),
        false => Err(error),
    })
}
