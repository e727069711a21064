//! Records, tables and statistics: run directories in, polars frames and their renderings out.

pub mod record;
