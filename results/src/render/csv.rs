//! A frame as CSV: for spreadsheets, for R and for `diff`.

use super::{RenderError, replace};
use polars::prelude::{CsvWriter, DataFrame, PolarsError, SerWriter};
use std::path::Path;

/// A frame as CSV with a header; an absent value is an empty field. A float is written with the digits that give back its
/// bits, so equal frames are equal bytes.
///
/// # Errors
///
/// polars refuses.
pub fn text(frame: &DataFrame) -> Result<String, PolarsError> {
    let mut bytes = Vec::new();
    // One thread: these frames are small, and the worker's thread count stays out of it.
    CsvWriter::new(&mut bytes)
        .n_threads(1)
        .finish(&mut frame.clone())?;
    // What polars writes of its own strings is UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a frame as [`text`] has it.
///
/// # Errors
///
/// The file cannot be written; an older one then stays as it was.
pub fn write(frame: &DataFrame, path: &Path) -> Result<(), RenderError> {
    let text = text(frame).map_err(|source| RenderError::Frame {
        path: path.to_path_buf(),
        source,
    })?;
    replace(path, text.as_bytes())
}
