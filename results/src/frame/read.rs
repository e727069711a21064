//! From a suite's directory to [`Runs`]: every run with its manifest, its records and, where it has ended, its result.
//! Nothing is repaired and nothing is left out; what cannot be read is an error with its path and line.

use super::{Run, Runs, Unopened};
use crate::record::{Failure, Manifest, Record, RunResult, SCHEMA, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why a suite's directory cannot be read.
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
/// interrupted or killed, and can be continued); else `pending`. An incomplete last line of `metrics.jsonl` is what a kill
/// leaves behind, and is ignored.
///
/// # Errors
///
/// A directory that cannot be listed, a file that cannot be read or does not hold what it should, another schema, two
/// directories of one run.
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
        match read_run(&directory, live)? {
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
                if let Some(name) = directory.file_name().and_then(|name| name.to_str()) {
                    unopened.insert(name.to_owned(), unopened_run);
                }
            }
            Found::Nothing => {}
        }
    }
    Ok(Runs::new(runs, unopened))
}

/// What a directory inside a suite turns out to be.
enum Found {
    Run(Box<Run>),
    /// Claimed, or failed, before its manifest was written.
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

fn read_run(directory: &Path, live: &dyn Fn(&Path) -> bool) -> Result<Found, FrameError> {
    let failure: Option<Failure> = object(
        &directory.join("failed.json"),
        "an object with a text `error`",
    )?;
    let error = failure.map(|failure| failure.error);
    let lease = directory.join("lease.json");
    let running = lease.exists() && live(&lease);

    let Some(manifest) = versioned::<Manifest>(&directory.join("manifest.json"), "a manifest")?
    else {
        for file in ["metrics.jsonl", "result.json"] {
            let path = directory.join(file);
            if path.exists() {
                let problem = "stands without a manifest.json, so nobody can tell what was run; remove the directory".to_owned();
                return Err(FrameError::Contradiction { path, problem });
            }
        }
        return Ok(match (error, running) {
            (_, true) => Found::Unopened(Unopened {
                status: Status::Running,
                error: None,
            }),
            (Some(error), false) => Found::Unopened(Unopened {
                status: Status::Failed,
                error: Some(error),
            }),
            (None, false) => Found::Nothing,
        });
    };
    let records: Vec<Record> = lines(
        &directory.join("metrics.jsonl"),
        "one record, an object whose `type` is step, evaluation, restart, reset or stop",
    )?;
    let spectra = lines(
        &directory.join("spectra.jsonl"),
        "the singular values of one matrix",
    )?;
    let result = result(&directory.join("result.json"))?;
    let status = match (&result, records.last()) {
        (Some(result), _) => result.status,
        // Whoever holds the lease has taken the run up again, whatever an earlier process left behind.
        (None, _) if running => Status::Running,
        (None, _) if error.is_some() => Status::Failed,
        (None, Some(Record::Stop(stop))) if stop.reason == "budget" => Status::StoppedBudget,
        (None, Some(_)) => Status::StoppedInterrupted,
        (None, None) => Status::Pending,
    };
    let error = if status == Status::Failed {
        error
    } else {
        None
    };
    Ok(Found::Run(Box::new(Run {
        row: manifest.row,
        status,
        error,
        sessions: manifest.sessions,
        records,
        result,
        spectra,
    })))
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
