//! `relora report`: a suite as one Markdown file to put beside a paper or an issue.

use std::path::Path;

use anyhow::anyhow;

use super::{print, suite_directory, tables};
use crate::cli::ReportOptions;
use crate::exit::Exit;
use crate::files;

/// Writes the report and prints where it is, or prints it where `-` is asked for.
///
/// # Errors
/// A suite that is not there or cannot be read, a file that cannot be written.
pub fn run(options: ReportOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    let runs = tables::runs(&suite)?;
    let report = results::render::markdown(&runs);
    let path = options.output.unwrap_or_else(|| suite.join("report.md"));
    if path == Path::new("-") {
        print(&report)?;
        return Ok(Exit::Success);
    }
    files::write_atomically(&path, report.as_bytes()).map_err(|error| {
        anyhow!("{error}; --output names another file, and --output - prints it")
    })?;
    print(&path.display().to_string())?;
    Ok(Exit::Success)
}
