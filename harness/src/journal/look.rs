//! What a run directory says, without a lease and without touching anything: whose it is, how far it is, how it ended, and
//! whether a checkpoint in it can be gone on from.

use std::fs::{self, File};
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use results::record::{Failure, Manifest, Record, RunResult, SCHEMA};

use super::{FAILED, MANIFEST, METRICS, RESULT};
use crate::checkpoint::{self, Checkpoint};
use crate::exit::UserError;
use crate::files::{self, failed_to};
use crate::matrix::Cell;
use crate::plan::differences;

/// Compares a run directory with the cell that should run in it, and touches nothing. None where the run is yet to begin.
///
/// # Errors
/// [`UserError`] for a run made with other settings (naming the fields that differ), by a program with another schema, or
/// for a directory that is not a run's.
pub fn check(directory: &Path, cell: &Cell) -> Result<Option<Manifest>> {
    let path = directory.join(MANIFEST);
    // Listed before the manifest is looked for: another process may begin the run just now, and what it writes comes after
    // its manifest.
    let entries = files::entries(directory)?;
    // The schema first: another one may have other fields.
    let read = files::read_json_if_present::<serde_json::Value>(&path, "a run's manifest");
    let Some(value) = read.map_err(|error| UserError::new(error.to_string()))? else {
        let foreign = entries
            .into_iter()
            .find(|entry| !may_come_before_the_manifest(entry));
        return match foreign {
            None => Ok(None),
            Some(entry) => {
                let shown = directory.display();
                let name = entry
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Err(UserError::new(format!(
                    "{shown} holds {name} but no {MANIFEST}: not a run of this program"
                ))
                .into())
            }
        };
    };
    if value["schema"] != SCHEMA {
        let message = format!(
            "{} has schema {}, this program reads {SCHEMA}",
            path.display(),
            value["schema"]
        );
        return Err(UserError::new(message).into());
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| {
        UserError::new(format!(
            "{} is not readable as a run's manifest: {error}",
            path.display()
        ))
    })?;
    let differing = differences(&manifest.determines, &cell.determines());
    if !differing.is_empty() {
        let message = format!(
            "{} was made with other settings: {}",
            directory.display(),
            differing.join(", ")
        );
        return Err(UserError::new(message)
            .hint("name another folder with --out, or use the settings it was made with")
            .into());
    }
    Ok(Some(manifest))
}

fn may_come_before_the_manifest(entry: &Path) -> bool {
    let name = entry.file_name().unwrap_or_default();
    [crate::lease::LEASE, crate::lease::LOCK, FAILED]
        .iter()
        .any(|known| name == *known)
}

/// The result of a run that has ended for good.
///
/// # Errors
/// A result that cannot be read.
pub fn result(directory: &Path) -> Result<Option<RunResult>> {
    files::read_json_if_present(&directory.join(RESULT), "a run's result")
}

/// What the last worker failed with, if it did.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn failure(directory: &Path) -> Result<Option<Failure>> {
    files::read_json_if_present(&directory.join(FAILED), "a run's failure")
}

/// All records of a run that nobody writes to meanwhile.
///
/// # Errors
/// A file that cannot be read, or a line that is no record.
pub fn records(directory: &Path) -> Result<Vec<Record>> {
    let path = directory.join(METRICS);
    let file = File::open(&path).map_err(failed_to("read", &path))?;
    let mut records = Vec::new();
    for (index, line) in io::BufReader::new(file).lines().enumerate() {
        let line = line.map_err(failed_to("read", &path))?;
        let record = serde_json::from_str(&line)
            .with_context(|| format!("{} line {} is no record", path.display(), index + 1))?;
        records.push(record);
    }
    Ok(records)
}

/// The first whole line among a run's records that is none, from 1.
///
/// # Errors
/// A file that is there and cannot be read.
pub(super) fn damaged_line(directory: &Path) -> Result<Option<usize>> {
    let path = directory.join(METRICS);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed_to("read", &path))?,
    };
    let is_record = |line: &[u8]| serde_json::from_slice::<Record>(line).is_ok();
    // What follows the last line end was cut off by a kill.
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    let mut whole = whole.filter(|(_, line)| line.ends_with(b"\n"));
    let damaged = whole.find(|(_, line)| !is_record(line));
    Ok(damaged.map(|(index, _)| index + 1))
}

/// The last whole record of a run, if there is one.
///
/// # Errors
/// Records that are there and cannot be read.
pub fn newest_record(directory: &Path) -> Result<Option<Record>> {
    /// More than any record takes.
    const TAIL_BYTES: u64 = 4096;
    let path = directory.join(METRICS);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed_to("read", &path))?,
    };
    let length = file.metadata().map_err(failed_to("read", &path))?.len();
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
        .map_err(failed_to("read", &path))?;
    file.read_to_end(&mut tail)
        .map_err(failed_to("read", &path))?;
    // What follows the last line end is being written, or its process died.
    let whole = &tail[..tail.iter().rposition(|byte| *byte == b'\n').unwrap_or(0)];
    let line = whole
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    Ok(serde_json::from_slice(line).ok())
}

/// A checkpoint of a run, if its hashes hold and the run's records still begin with those that belong to it.
pub(super) fn open_with_records(checkpoint: &Path, run_directory: &Path) -> Result<Checkpoint> {
    let opened = Checkpoint::open(checkpoint)?;
    let path = run_directory.join(METRICS);
    let mut file = File::open(&path).map_err(failed_to("read", &path))?;
    let found = checkpoint::hash_bytes(&mut file, opened.state.metrics_bytes)
        .map_err(failed_to("read", &path))?;
    if found.to_hex().as_str() != opened.state.metrics_hash {
        bail!(
            "{} does not begin with the records that belong to {}",
            path.display(),
            checkpoint.display()
        );
    }
    Ok(opened)
}
