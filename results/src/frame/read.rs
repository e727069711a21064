//! From a suite's directory to [`Runs`]: every run with its manifest, its records and, where it has ended, its result.
//! Nothing is repaired and nothing is left out: a run of which a file cannot be read is one with the status `unreadable` and the
//! reason, its path and line, and the others are read all the same.

use super::{Run, Runs, Unopened};
use crate::record::{Failure, Manifest, Record, RunResult, SCHEMA, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why a suite's directory, or a run of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// There is no such directory.
    #[error("{} is not a directory; expected a suite, which holds one directory for each run", .path.display())]
    NotASuite {
        /// What was given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}:{line}:{column}: {problem}; expected {expected}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The file was written with another schema.
    #[error("{} has record schema {found}; this program reads schema {SCHEMA}", .path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// A result that says two things at once.
    #[error("{}: {problem}", .path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What does not fit together, and what would.
        problem: String,
    },
    /// Two directories claim to be the same run.
    #[error("{} and {} are both {run}; move one of them out of the suite", .first.display(), .second.display())]
    Duplicate {
        /// First directory, in the order of names.
        first: PathBuf,
        /// Second directory.
        second: PathBuf,
        /// Size, method and seed.
        run: String,
    },
}

/// Reads every run of a suite; `live` is asked, with the path of a `lease.json` that exists, whether a worker still holds it.
///
/// A run's status is that of its `result.json`; without one `running` under a live lease; `failed` where there is a
/// `failed.json`; `stopped: budget` where its last record says so; `stopped: interrupted` where it has records (it was
/// interrupted or killed, and can be continued); else `pending`. Where a file of it cannot be read or does not hold what it should,
/// it is `unreadable`. An incomplete last line of `metrics.jsonl` is what a kill
/// leaves behind, and is ignored.
///
/// # Errors
///
/// A directory that cannot be listed, two directories of one run.
pub fn read(suite_directory: &Path, live: &dyn Fn(&Path) -> bool) -> Result<Runs, FrameError> {
    if !suite_directory.is_dir() {
        return Err(FrameError::NotASuite {
            path: suite_directory.to_path_buf(),
        });
    }
    let mut runs = Vec::new();
    let mut unopened = BTreeMap::new();
    let mut claimed: BTreeMap<(String, String, u64), PathBuf> = BTreeMap::new();
    for directory in directories(suite_directory)? {
        match read_run(&directory, live) {
            Found::Run(run) => {
                let row = &run.row;
                let key = (row.size.clone(), row.method.clone(), row.seed);
                if let Some(first) = claimed.get(&key) {
                    let run = format!("{} {} with seed {}", row.size, row.method, row.seed);
                    return Err(FrameError::Duplicate {
                        first: first.clone(),
                        second: directory,
                        run,
                    });
                }
                claimed.insert(key, directory);
                runs.push(*run);
            }
            Found::Unopened(unopened_run) => {
                let name = directory.file_name().unwrap_or_default();
                unopened.insert(name.to_string_lossy().into_owned(), unopened_run);
            }
            Found::Nothing => {}
        }
    }
    Ok(Runs::new(runs, unopened))
}

/// What a directory inside a suite turns out to be.
enum Found {
    Run(Box<Run>),
    /// Claimed, or failed, before its manifest was written; or its manifest cannot be read.
    Unopened(Unopened),
    /// Something else, e.g. the tables.
    Nothing,
}

/// Directories of the suite in the order of their names, hidden ones (files being written) left out.
fn directories(suite_directory: &Path) -> Result<Vec<PathBuf>, FrameError> {
    let refused = |source| FrameError::Io {
        path: suite_directory.to_path_buf(),
        source,
    };
    let mut directories = Vec::new();
    for entry in fs::read_dir(suite_directory).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_dir() {
            directories.push(entry.path());
        }
    }
    directories.sort();
    Ok(directories)
}

fn read_run(directory: &Path, live: &dyn Fn(&Path) -> bool) -> Found {
    let path = directory.join("manifest.json");
    let found = match versioned::<Manifest>(&path, "a manifest") {
        Ok(Some(manifest)) => return Found::Run(Box::new(opened(directory, manifest, live))),
        Ok(None) => without_manifest(directory, live),
        Err(error) => Err(error),
    };
    found.unwrap_or_else(|error| {
        Found::Unopened(Unopened {
            status: Status::Unreadable,
            error: Some(error.to_string()),
        })
    })
}

/// What a directory is in which no run has been begun.
fn without_manifest(directory: &Path, live: &dyn Fn(&Path) -> bool) -> Result<Found, FrameError> {
    for file in ["metrics.jsonl", "result.json"] {
        let path = directory.join(file);
        if path.exists() {
            let problem = "stands without a manifest.json, so nobody can tell what was run; move the directory out of the suite".to_owned();
            return Err(FrameError::Contradiction { path, problem });
        }
    }
    let error = failure(directory)?;
    Ok(match (error, running(directory, live)) {
        (_, true) => Found::Unopened(Unopened {
            status: Status::Running,
            error: None,
        }),
        (Some(error), false) => Found::Unopened(Unopened {
            status: Status::Failed,
            error: Some(error),
        }),
        (None, false) => Found::Nothing,
    })
}

/// The run of a manifest. Where any other file of it cannot be read, nothing of what it has done is taken: half of it would pass
/// for the whole.
fn opened(directory: &Path, manifest: Manifest, live: &dyn Fn(&Path) -> bool) -> Run {
    let unreadable = Run {
        status: Status::Unreadable,
        sessions: manifest.sessions,
        ..Run::planned(manifest.row)
    };
    match contents(directory, live, unreadable.clone()) {
        Ok(run) => run,
        Err(error) => Run {
            error: Some(error.to_string()),
            ..unreadable
        },
    }
}

fn contents(directory: &Path, live: &dyn Fn(&Path) -> bool, run: Run) -> Result<Run, FrameError> {
    let error = failure(directory)?;
    let records: Vec<Record> = lines(
        &directory.join("metrics.jsonl"),
        "one record, an object whose `type` is step, evaluation, restart, reset or stop",
    )?;
    let spectra = lines(
        &directory.join("spectra.jsonl"),
        "the singular values of one matrix",
    )?;
    let result = result(&directory.join("result.json"))?;
    if result.is_some() {
        whole(&directory.join("metrics.jsonl"))?;
    }
    let status = match (&result, records.last()) {
        (Some(result), _) => result.status,
        // Whoever holds the lease has taken the run up again, whatever an earlier process left behind.
        (None, _) if running(directory, live) => Status::Running,
        (None, _) if error.is_some() => Status::Failed,
        (None, Some(Record::Stop(stop))) if stop.reason == "budget" => Status::StoppedBudget,
        (None, Some(_)) => Status::StoppedInterrupted,
        (None, None) => Status::Pending,
    };
    Ok(Run {
        status,
        error: error.filter(|_| status == Status::Failed),
        records,
        result,
        spectra,
        ..run
    })
}

/// The records of a run that has ended: its result came last, so that whatever they lack was taken from them afterwards.
fn whole(path: &Path) -> Result<(), FrameError> {
    match bytes(path)? {
        Some(bytes) if bytes.ends_with(b"\n") => Ok(()),
        _ => Err(FrameError::Contradiction {
            path: path.to_path_buf(),
            problem: "is cut short, though result.json says that the run has ended".to_owned(),
        }),
    }
}

/// What the last worker failed with.
fn failure(directory: &Path) -> Result<Option<String>, FrameError> {
    let failure: Option<Failure> = object(
        &directory.join("failed.json"),
        "an object with a text `error`",
    )?;
    Ok(failure.map(|failure| failure.error))
}

fn running(directory: &Path, live: &dyn Fn(&Path) -> bool) -> bool {
    let lease = directory.join("lease.json");
    lease.exists() && live(&lease)
}

/// The one field that every schema has.
#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

fn result(path: &Path) -> Result<Option<RunResult>, FrameError> {
    let Some(result) = versioned::<RunResult>(path, "a result")? else {
        return Ok(None);
    };
    let problem = match result.status {
        Status::Complete if result.validation_loss.is_none() => {
            Some("status 'complete' without a `validation_loss`".to_owned())
        }
        Status::Complete | Status::Diverged => None,
        other => Some(format!(
            "status '{}' cannot be final; a result is 'complete' or 'diverged'",
            other.name()
        )),
    };
    match problem {
        Some(problem) => Err(FrameError::Contradiction {
            path: path.to_path_buf(),
            problem,
        }),
        None => Ok(Some(result)),
    }
}

/// Whole lines of a file of records; a last line without its line feed was cut off by a kill.
fn lines<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<Vec<T>, FrameError> {
    let Some(bytes) = bytes(path)? else {
        return Ok(Vec::new());
    };
    let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else {
        return Ok(Vec::new());
    };
    bytes[..end]
        .split(|&byte| byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line)
                .map_err(|error| malformed(path, index + 1, &error, expected))
        })
        .collect()
}

/// Reads a file whose `schema` must be ours. The schema is looked at first, so that a newer file is named as such and not as
/// malformed.
fn versioned<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<Option<T>, FrameError> {
    match object::<Versioned>(path, "an object with a number `schema`")? {
        None => Ok(None),
        Some(Versioned { schema }) if schema != SCHEMA => Err(FrameError::Schema {
            path: path.to_path_buf(),
            found: schema,
        }),
        Some(_) => object(path, expected),
    }
}

fn object<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<Option<T>, FrameError> {
    let Some(bytes) = bytes(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| malformed(path, error.line(), &error, expected))
}

/// A file that is not there is None: which files a run has is what tells how it stands.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, FrameError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FrameError::Io {
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn malformed(
    path: &Path,
    line: usize,
    error: &serde_json::Error,
    expected: &'static str,
) -> FrameError {
    let text = error.to_string();
    // serde_json counts the lines of what it was given; ours are those of the file, and stand in front.
    let problem = text.split(" at line ").next().unwrap_or(&text).to_owned();
    FrameError::Malformed {
        path: path.to_path_buf(),
        line: line.max(1),
        column: error.column().max(1),
        problem,
        expected,
    }
}
