//! Records, tables and statistics: run directories in, polars frames and their renderings out.
//!
//! ```text
//! run directories --frame::read--> Runs --Runs::perplexity() ..--> DataFrame --render--> CSV, Parquet, Markdown, JSON
//! ```
//!
//! [`record`] is what the harness writes, [`frame`] reads it and makes the tables, [`statistics`] says how sure they are,
//! [`published`] holds the figures of the literature, [`claims`] what is said of the method and what a suite makes of it, and [`render`] turns frames into files and text. Nothing here knows a
//! tensor, a cell or a process.

pub mod claims;
pub mod frame;
pub mod published;
pub mod record;
pub mod render;
pub mod spectra;
pub mod statistics;

pub use polars::prelude::DataFrame;
