//! `relora train`: one cell by flags, through the same machinery as a suite of one.

use std::path::PathBuf;

use super::request::Request;
use super::{bench_all, print};
use crate::cli::{SuiteOptions, TrainOptions};
use crate::exit::Exit;

/// Trains the cell and prints its tables.
///
/// # Errors
/// Those of [`Request::new`] and [`Request::plan`], and what the disk says.
pub fn run(options: TrainOptions) -> anyhow::Result<Exit> {
    let mut set = options.set;
    // As lists of one they replace the profile's own, and --set may still say more about the cell.
    set.push(format!("sizes=[{}]", toml::Value::from(options.size)));
    set.push(format!("methods=[{}]", toml::Value::from(options.method)));
    set.extend(options.rank.map(|rank| format!("rank={rank}")));
    set.extend(options.steps.map(|steps| format!("steps={steps}")));
    let suite = SuiteOptions {
        profile: options.profile,
        out: Some(
            options
                .out
                .unwrap_or_else(|| PathBuf::from(super::RUNS).join("train")),
        ),
        set,
        seeds: options.seed.into_iter().collect(),
        place: options.place,
        text: options.text,
        ..SuiteOptions::default()
    };
    let request = Request::new(&suite)?.with_first_seed()?;
    if options.print_config {
        print(&request.profile.to_toml())?;
        return Ok(Exit::Success);
    }
    bench_all::train(&request, options.json)
}
