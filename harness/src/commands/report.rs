//! `relora report`: a suite as one file to open, to send, or to put beside a paper; or two suites beside each other.

use std::path::Path;

use anyhow::anyhow;
use results::render;

use super::{print, side_by_side, suite_directory, tables};
use crate::cli::ReportOptions;
use crate::exit::{Exit, UserError};
use crate::files;

/// Writes the report and prints where it is, or prints it where `-` is asked for. The name of the file says what it is to be.
///
/// # Errors
/// A suite that is not there or cannot be read, two that cannot be compared, a file that cannot be written.
pub fn run(options: ReportOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    if let Some(other) = &options.other {
        return of_two([&suite, other], options.output.as_deref());
    }
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
    let report = match ending(&path).as_str() {
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
    write(&path, &report)
}

/// Of two suites there is Markdown, which is printed where no file is named.
fn of_two([suite, other]: [&Path; 2], output: Option<&Path>) -> anyhow::Result<Exit> {
    let file = output.filter(|path| *path != Path::new("-"));
    if let Some(path) = file
        && !matches!(ending(path).as_str(), "md" | "markdown" | "txt" | "")
    {
        let message = format!(
            "--output {}: two suites are compared in Markdown; name a file that ends in .md",
            path.display()
        );
        return Err(UserError::new(message).into());
    }
    let other = suite_directory(Some(other))?;
    let report = side_by_side::report([suite, &other])?;
    match file {
        Some(path) => write(path, &report),
        None => {
            print(&report)?;
            Ok(Exit::Success)
        }
    }
}

/// How the name of a file ends, in small letters and without the dot.
fn ending(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    ending.to_ascii_lowercase()
}

fn write(path: &Path, report: &str) -> anyhow::Result<Exit> {
    files::write_atomically(path, report.as_bytes()).map_err(|error| {
        anyhow!("{error}; --output names another file, and --output - prints it")
    })?;
    print(&path.display().to_string())?;
    Ok(Exit::Success)
}
