//! `relora tables`: the tables of a suite, made again from its run directories.

use std::path::{Path, PathBuf};

use results::frame::{self, Description, Runs};
use results::render::{self, About};

use super::{print, print_json, suite_directory};
use crate::cli::TablesOptions;
use crate::exit::{Exit, UserError, one_line};
use crate::files;
use crate::lease;
use crate::matrix::Cell;
use crate::plan::{self, Plan};
use crate::progress::warn;

/// Rebuilds the files and prints the tables, or what their columns mean.
///
/// # Errors
/// A suite that is not there or cannot be read, an unknown table.
pub fn run(options: TablesOptions) -> anyhow::Result<Exit> {
    if let Some(table) = &options.table {
        check_name(table)?;
    }
    if options.describe {
        describe(options.table.as_deref(), options.json)?;
        return Ok(Exit::Success);
    }
    let suite = suite_directory(options.read.suite.as_deref())?;
    let runs = runs(&suite)?;
    // A suite that one may only read has tables too.
    if let Err(error) = write(&runs, &suite) {
        warn(&format!(
            "warning: {}; the files in {} stay as they are",
            one_line(&error),
            suite.join("tables").display()
        ));
    }
    match &options.table {
        Some(table) => show_one(&runs, table, options.json)?,
        None => show(&runs, options.json)?,
    }
    Ok(Exit::Success)
}

/// The runs of a suite as they stand, those that have not begun included; of those that cannot be read a line each.
///
/// # Errors
/// A plan that cannot be read, a directory that cannot be listed, two directories of one run.
pub(super) fn runs(suite: &Path) -> anyhow::Result<Runs> {
    let runs = read(suite)?;
    for reason in runs.unreadable() {
        warn(&format!(
            "warning: {reason}; the run is left out of every mean"
        ));
    }
    Ok(runs)
}

/// The same without a word.
///
/// # Errors
/// Those of [`runs`].
pub(super) fn read(suite: &Path) -> anyhow::Result<Runs> {
    let plan = Plan::read(suite)?;
    // A lease that cannot be read is not held by anyone that we could name.
    let live = |lease: &Path| {
        lease
            .parent()
            .is_some_and(|run| lease::holder(run).ok().flatten().is_some())
    };
    let runs = frame::read(suite, &live)?.with_margin(plan.margin);
    Ok(runs.with_planned(plan.cells.iter().map(Cell::row).collect()))
}

/// Writes every table, the figures and the reports into the suite's folder `tables`, and returns that folder.
///
/// # Errors
/// What the disk says.
pub(super) fn write(runs: &Runs, suite: &Path) -> anyhow::Result<PathBuf> {
    let folder = suite.join("tables");
    render::write_all(runs, &about(suite)?, &folder)?;
    Ok(folder)
}

/// What a report says of a suite beyond its runs.
///
/// # Errors
/// A plan that cannot be read.
pub(super) fn about(suite: &Path) -> anyhow::Result<About> {
    let plan = Plan::read(suite)?;
    // `.` has no name of its own.
    let whole = suite.canonicalize().unwrap_or_else(|_| suite.to_path_buf());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    Ok(About {
        name: name.to_string_lossy().into_owned(),
        directory: suite.display().to_string(),
        profile: plan.profile,
        plan: files::read_to_string(&suite.join(plan::FILE))?,
    })
}

/// Prints all tables.
///
/// # Errors
/// Whatever standard output says.
pub(super) fn show(runs: &Runs, json: bool) -> anyhow::Result<()> {
    if !json {
        return print(&render::markdown(runs));
    }
    let tables = runs
        .frames()
        .into_iter()
        .map(|(name, frame)| (name.to_owned(), render::json(&frame)));
    print_json(&tables.collect::<serde_json::Map<_, _>>())
}

/// Prints one table: its rows as JSON or as CSV.
fn show_one(runs: &Runs, table: &str, json: bool) -> anyhow::Result<()> {
    let frame = runs.frames().into_iter().find(|(name, _)| *name == table);
    match frame {
        Some((_, frame)) if json => print_json(&render::json(&frame)),
        Some((_, frame)) => print(&render::csv::text(&frame)?),
        None => Ok(()),
    }
}

/// Prints what every column means.
fn describe(table: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut columns = frame::describe();
    columns.retain(|column| table.is_none_or(|table| table == column.table));
    if json {
        let objects = columns.iter().map(|column| {
            let Description { table, column, meaning, unit } = column;
            serde_json::json!({ "table": table, "column": column, "meaning": meaning, "unit": unit })
        });
        return print_json(&objects.collect::<Vec<_>>());
    }
    let width = columns
        .iter()
        .map(|column| column.column.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let mut current = "";
    for Description {
        table,
        column,
        meaning,
        unit,
    } in &columns
    {
        if *table != current {
            text += &format!("\n{table}\n");
            current = table;
        }
        let unit = if unit.is_empty() || *unit == "1" {
            String::new()
        } else {
            format!(" ({unit})")
        };
        text += &format!("  {column:<width$}  {meaning}{unit}\n");
    }
    print(text.trim_start())
}

/// Names of all tables, which those of no runs tell.
fn names() -> Vec<&'static str> {
    Runs::default()
        .frames()
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

fn check_name(table: &str) -> Result<(), UserError> {
    let names = names();
    if names.contains(&table) {
        Ok(())
    } else {
        Err(UserError::unknown("table", table, names))
    }
}
