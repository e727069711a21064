//! Frames to files and text. Every file is written beside its place and renamed, so that nobody ever reads half of one.

mod cells;
mod comparison;
pub mod csv;
mod figures;
mod html;
pub mod json;
pub mod latex;
pub mod markdown;
pub mod parquet;
mod sections;
mod table;
mod text;

pub use comparison::{DifferentSetting, comparison};
pub use html::About;
pub use json::json;
pub use latex::latex;
pub use markdown::{markdown, spectra, tuning};

use crate::frame::Runs;
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// So many bytes as a person reads them.
#[must_use]
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A count with what is counted: `1 run`, `2 runs`, `1,234 tokens`.
#[must_use]
pub fn number_of(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Why a rendering cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The operating system refused.
    #[error("cannot write {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// polars refused.
    #[error("cannot write {}: {source}", .path.display())]
    Frame {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: polars::error::PolarsError,
    },
    /// A figure could not be drawn.
    #[error("cannot draw the figure {figure}: {source}")]
    Figure {
        /// Its name.
        figure: String,
        /// What the drawing library says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RenderError {
    fn of(
        figure: &figures::Figure,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> RenderError {
        RenderError::Figure {
            figure: figure.name.clone(),
            source,
        }
    }
}

/// Writes `<table>.csv` and `<table>.parquet` for every table, `report.md`, `report.tex`, `report.html`, and `figures/<figure>.svg`
/// and `.png` for every figure into `directory`, which is created. Returns what it wrote, in order. Equal runs and an equal
/// `about` give equal bytes.
///
/// # Errors
///
/// The directory cannot be made or a file cannot be written; files written before stay, each of them whole.
pub fn write_all(
    runs: &Runs,
    about: &About,
    directory: &Path,
) -> Result<Vec<PathBuf>, RenderError> {
    let mut written = Vec::new();
    create(directory)?;
    for (name, frame) in runs.frames() {
        let path = directory.join(format!("{name}.csv"));
        csv::write(&frame, &path)?;
        written.push(path);
        let path = directory.join(format!("{name}.parquet"));
        parquet::write(&frame, &path)?;
        written.push(path);
    }
    let mut put = |path: PathBuf, bytes: &[u8]| {
        replace(&path, bytes)?;
        written.push(path);
        Ok(())
    };
    // The tables of all three are the same.
    let chapters = sections::chapters(runs);
    let text = markdown::with_chapters(runs, &chapters);
    put(directory.join("report.md"), text.as_bytes())?;
    let text = latex::with_chapters(&chapters);
    put(directory.join("report.tex"), text.as_bytes())?;
    let figures = figures::figures(runs);
    let page = html::html(runs, about, &chapters, &figures)?;
    put(directory.join("report.html"), page.as_bytes())?;
    if !figures.is_empty() {
        create(&directory.join("figures"))?;
    }
    for figure in &figures {
        let path = |extension| directory.join(format!("figures/{}.{extension}", figure.name));
        let failed = |source| RenderError::of(figure, source);
        put(
            path("svg"),
            figures::svg(figure).map_err(failed)?.as_bytes(),
        )?;
        if let Some(bitmap) = figures::png(figure).map_err(failed)? {
            put(path("png"), &bitmap)?;
        }
    }
    Ok(written)
}

/// The report of a suite as one HTML file.
///
/// # Errors
/// A figure that cannot be drawn.
pub fn html(runs: &Runs, about: &About) -> Result<String, RenderError> {
    html::html(
        runs,
        about,
        &sections::chapters(runs),
        &figures::figures(runs),
    )
}

fn create(directory: &Path) -> Result<(), RenderError> {
    fs::create_dir_all(directory).map_err(|source| RenderError::Io {
        path: directory.to_path_buf(),
        source,
    })
}

/// Puts a file in its place in one move: the bytes go into a hidden sibling, which is synced and renamed. polars writes into
/// memory, not into the file: what its writers make of a full disk does not say that the disk is full.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), RenderError> {
    let refused = |source| RenderError::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    // Temporary files are private by default; a table is as readable as any other new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Of an error only its kind: the rest names the sibling, which nobody knows.
    let unnamed = |error: std::io::Error| refused(error.kind().into());
    let mut file = builder.tempfile_in(directory).map_err(unnamed)?;
    // Not through the temporary file's own writer, which would add its passing name to an error.
    let opened = file.as_file_mut();
    opened.write_all(bytes).map_err(refused)?;
    opened.sync_all().map_err(refused)?;
    file.persist(path).map_err(|error| refused(error.error))?;
    Ok(())
}
