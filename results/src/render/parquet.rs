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
    replace(path, |file| {
        match ParquetWriter::new(file).finish(&mut frame.clone()) {
            Ok(_bytes) => Ok(()),
            Err(source) => Err(RenderError::Frame {
                path: path.to_path_buf(),
                source,
            }),
        }
    })
}
