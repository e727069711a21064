//! `relora report`: a suite as one file to open, to send, or to put beside a paper.

use std::path::Path;

use anyhow::anyhow;
use results::render;

use super::{print, suite_directory, tables};
use crate::cli::ReportOptions;
use crate::exit::{Exit, UserError};
use crate::files;

/// Writes the report and prints where it is, or prints it where `-` is asked for. The name of the file says what it is to be.
///
/// # Errors
/// A suite that is not there or cannot be read, a file that cannot be written.
pub fn run(options: ReportOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    let runs = tables::runs(&suite)?;
    let Some(path) = options.output else {
        let folder = tables::write(&runs, &suite).map_err(|error| {
            anyhow!("{error}; --output names a single file elsewhere, and --output - prints it")
        })?;
        print(&folder.join("report.html").display().to_string())?;
        return Ok(Exit::Success);
    };
    if path == Path::new("-") {
        print(&render::markdown(&runs))?;
        return Ok(Exit::Success);
    }
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let report = match ending.to_ascii_lowercase().as_str() {
        "html" | "htm" => render::html(&runs, &tables::about(&suite)?)?,
        "tex" => render::latex(&runs),
        "md" | "markdown" | "txt" | "" => render::markdown(&runs),
        _ => {
            let message = format!(
                "--output {}: a report is .html, .md or .tex, by the ending of its file",
                path.display()
            );
            return Err(UserError::new(message).into());
        }
    };
    files::write_atomically(&path, report.as_bytes()).map_err(|error| {
        anyhow!("{error}; --output names another file, and --output - prints it")
    })?;
    print(&path.display().to_string())?;
    Ok(Exit::Success)
}
