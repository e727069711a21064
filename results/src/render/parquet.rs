//! A frame as Parquet: for polars, pandas and DuckDB, with types kept.

use super::{RenderError, replace};
use polars::prelude::{DataFrame, ParquetWriter};
use std::path::Path;

/// Writes a frame as Parquet.
///
/// # Errors
///
/// The file cannot be written; an older one then stays as it was.
pub fn write(frame: &DataFrame, path: &Path) -> Result<(), RenderError> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .finish(&mut frame.clone())
        .map_err(|source| RenderError::Frame {
            path: path.to_path_buf(),
            source,
        })?;
    replace(path, &bytes)
}
