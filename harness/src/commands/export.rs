//! `relora export`: a run's newest checkpoint as a folder that `transformers` loads, merged or with the factors apart.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use datasets::tokenizer::Tokenizer;
use models::LowRank;

use crate::algorithm::MethodSwitches;
use crate::checkpoint::{self, Checkpoint};
use crate::cli::ExportOptions;
use crate::exit::{Exit, UserError, one_line};
use crate::files::{self, failed_to};
use crate::hugging_face::{Form, Model};
use crate::matrix::Cell;
use crate::progress::warn;
use crate::{journal, stop, worker};

/// Writes the folder.
///
/// # Errors
/// [`UserError`] for a directory that is no run, has no checkpoint or, with `--adapter`, no factors; for a folder to write
/// that holds something. What the disk says.
pub fn run(options: ExportOptions) -> Result<Exit> {
    let ExportOptions {
        run,
        directory,
        adapter,
    } = &options;
    let run = &run_directory(run)?;
    check_target(directory)?;
    let (plan, cell) = worker::assignment(run)?;
    journal::check(run, &cell)?;
    let checkpoint = newest(run)?;
    let low_rank = factors(&cell, checkpoint.progress.step);
    if *adapter && low_rank.is_none() {
        let message = format!(
            "--adapter: {} has no factors at step {}; leave it out",
            run.display(),
            checkpoint.progress.step
        );
        return Err(UserError::new(message).into());
    }
    // The plan's store may have been made anew, or be gone, since the run was trained.
    let gone = |what: &str| {
        UserError::new(format!(
            "{} {what} {} was trained with",
            plan.store.display(),
            run.display()
        ))
        .hint("run the command that made the suite again: it prepares the text anew")
    };
    if !plan.store.is_dir() {
        return Err(gone("is not there any more: the text and tokenizer that").into());
    }
    let store = datasets::Store::open(&plan.store)?;
    if store.hash() != cell.data.hash {
        return Err(gone("holds another text and tokenizer than").into());
    }
    let model = Model {
        network: cell.network(),
        low_rank,
        sequence_length: cell.settings.sequence_length,
        tokenizer: &Tokenizer::load(&store.tokenizer_path())?,
        weights: &checkpoint.weights()?,
    };
    let form = if *adapter {
        Form::Adapter
    } else {
        Form::Merged
    };
    write_beside(directory, |partial| model.write(partial, form))?;
    if journal::result(run)?.is_none() {
        warn(&format!(
            "note: {} has not ended; this is step {} of {}",
            run.display(),
            checkpoint.progress.step,
            cell.settings.steps
        ));
    }
    warn(&format!("exported: {}", directory.display()));
    Ok(Exit::Success)
}

/// A run by its directory, or by the one that it has under runs/.
fn run_directory(named: &Path) -> Result<PathBuf> {
    let below = Path::new(super::RUNS).join(named);
    let found = [named, &below].into_iter().find(|it| it.is_dir());
    let refused = |why: &str| {
        UserError::new(format!(
            "{}: {why}; give the directory of one, e.g. runs/laptop/nano-relora-seed1",
            named.display()
        ))
    };
    let found = found.ok_or_else(|| refused("no such run"))?;
    let whole = found.canonicalize().map_err(failed_to("resolve", found))?;
    if !super::is_suite(files::parent(&whole)) {
        return Err(refused("not a run of a suite, which holds plan.toml").into());
    }
    Ok(found.to_owned())
}

/// The newest checkpoint that is what was written.
fn newest(run: &Path) -> Result<Checkpoint> {
    let folder = checkpoint::folder(run);
    for step in checkpoint::steps(&folder)?.into_iter().rev() {
        match Checkpoint::open(&checkpoint::at_step(&folder, step)) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) if error.is::<UserError>() => return Err(error),
            Err(error) => warn(&format!("warning: {}", one_line(&error))),
        }
    }
    let message = format!(
        "{}: has no checkpoint to export; train it first, or further",
        run.display()
    );
    Err(UserError::new(message).into())
}

/// The factors that a checkpoint of this step holds: they are attached at the end of the warm start.
fn factors(cell: &Cell, step: u64) -> Option<LowRank> {
    MethodSwitches::of(&cell.settings)
        .low_rank
        .filter(|_| step > cell.settings.warm_start_length())
}

/// A folder to write must be new or empty.
fn check_target(directory: &Path) -> Result<()> {
    let there = fs::symlink_metadata(directory);
    let is_empty = |found: &fs::Metadata| {
        // A link to a folder cannot be replaced by one; what is hidden in a folder is somebody's too.
        found.is_dir() && fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
    };
    if there.is_ok_and(|found| !is_empty(&found)) {
        let message = format!(
            "{}: is there already; give a new or an empty folder",
            directory.display()
        );
        return Err(UserError::new(message).into());
    }
    Ok(())
}

/// Makes a folder beside its place and renames it, so that it is there whole or not at all.
fn write_beside(directory: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let whole = std::path::absolute(directory).map_err(failed_to("resolve", directory))?;
    let parent = files::parent(&whole);
    files::create_directory(parent)?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let partial = parent.join(files::partial_name(&name, &files::unique_token()));
    fs::create_dir(&partial).map_err(failed_to("create", directory))?;
    stop::leave_on_signals(
        "stopped before the folder was whole; nothing is kept",
        Some(partial.clone()),
    )?;
    let written = write(&partial).and_then(|()| {
        // Only an empty folder can be removed so.
        if whole.is_dir() {
            fs::remove_dir(&whole).map_err(failed_to("replace", directory))?;
        }
        fs::rename(&partial, &whole).map_err(failed_to("write", directory))?;
        stop::leave_on_signals("stopped; the folder is whole", None)?;
        Ok(files::sync_directory(parent)?)
    });
    if written.is_err() {
        // The error that stopped the writing is the one to tell.
        let _ = files::remove(&partial);
    }
    written
}
