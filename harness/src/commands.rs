//! One file per command, each `run(options) -> anyhow::Result<Exit>`, and the little that they share: what is printed
//! goes through [`print`], and a suite is found by [`suite_directory`].

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use serde::Serialize;

use crate::exit::{ReaderGone, UserError};

pub mod bench_all;
pub mod bench_step;
pub mod claims;
pub mod completions;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod export;
pub mod plan;
pub mod report;
mod request;
mod side_by_side;
pub mod spectra;
pub mod status;
pub mod tables;
pub mod train;
pub mod tune;
pub mod worker;

/// The folder that suites are made in.
const RUNS: &str = "runs";

/// Writes data to standard output. Unlike `println!` it reports a reader that has gone away instead of panicking.
///
/// # Errors
/// [`ReaderGone`], or whatever else standard output says.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    let line_end = if text.ends_with('\n') { "" } else { "\n" };
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.write_all(line_end.as_bytes()))
        .and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => error.into(),
    })
}

/// Writes a value to standard output as JSON for a program to read.
///
/// # Errors
/// Whatever standard output says.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// The suite to read: the one named, by its path or by its name under `runs/`, or the one under `runs/` that was worked on last.
///
/// # Errors
/// [`UserError`] where there is no suite.
pub fn suite_directory(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = named {
        let below = Path::new(RUNS).join(directory);
        let found = [directory, &below].into_iter().find(|it| is_suite(it));
        return found
            .map(Path::to_owned)
            .ok_or_else(|| no_suite(directory).into());
    }
    let newest = suites(Path::new(RUNS))?
        .into_iter()
        .max()
        .map(|(_, directory)| directory);
    newest.ok_or_else(|| {
        UserError::new(format!(
            "no suite under {RUNS}/: run `relora bench-all` first, or name a suite"
        ))
        .into()
    })
}

fn is_suite(directory: &Path) -> bool {
    directory.join("plan.toml").is_file()
}

fn no_suite(directory: &Path) -> UserError {
    let shown = directory.display();
    let error = UserError::new(format!(
        "{shown} is not a suite: expected a directory that holds plan.toml"
    ));
    match suites(Path::new(RUNS)) {
        Ok(found) if !found.is_empty() => {
            let names: Vec<String> = found
                .iter()
                .map(|(_, directory)| directory.display().to_string())
                .collect();
            error.hint(format!("suites here: {}", names.join(", ")))
        }
        _ => error,
    }
}

/// Every suite in a folder with the time at which anything in it last changed.
fn suites(parent: &Path) -> anyhow::Result<Vec<(SystemTime, PathBuf)>> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", parent.display()));
        }
    };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|directory| is_suite(directory))
        .map(|directory| (last_change(&directory), directory))
        .collect();
    found.sort_by(|left, right| left.1.cmp(&right.1));
    Ok(found)
}

/// The latest change among a suite's run directories, its plan and its tables.
fn last_change(suite: &Path) -> SystemTime {
    let children = fs::read_dir(suite)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    children
        .flat_map(|child| [child.join("metrics.jsonl"), child])
        .filter_map(|path| {
            fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .ok()
        })
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
