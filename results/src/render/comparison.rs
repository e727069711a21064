//! Two suites beside each other, as Markdown.

use super::cells::{bracketed, level, marked, plus_minus, probability};
use super::markdown::counted;
use super::number_of;
use super::table::Table;
use crate::frame::{Between, Runs, Side, between, only_in};
use crate::statistics::{Estimate, SIGNIFICANCE};
use std::fmt::Write;

/// A setting that differs between two suites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferentSetting {
    /// Its name.
    pub name: String,
    /// Its value in the first suite and in the second.
    pub values: [String; 2],
    /// The methods of which it does, with their sizes; none named: all that both suites have.
    pub methods: Vec<String>,
}

/// The first suite, A, and the second, B, by their names: losses and speeds of the methods that both have, the settings that
/// differ, and what only one has. That both may be compared at all is the caller's to see.
#[must_use]
pub fn comparison(names: [&str; 2], runs: [&Runs; 2], settings: &[DifferentSetting]) -> String {
    let rows = between(runs[0], runs[1]);
    let mut text = format!(
        "# Two suites\n\n- A: `{}`, {}- B: `{}`, {}",
        names[0],
        counted(runs[0]),
        names[1],
        counted(runs[1])
    );
    for size in rows.chunk_by(|left, right| left.size == right.size) {
        let several = size.iter().any(|row| {
            let seeds = |side: &Side| side.seeds.0 > 1;
            seeds(&row.first) || seeds(&row.second)
        });
        let _ = write!(
            text,
            "\n## {}\n\n### Loss\n\n{}\n### Speed\n\n{}",
            size[0].size,
            losses(size, several).markdown(),
            speeds(size, several).markdown()
        );
    }
    text += "\n## Settings that differ\n\n";
    text += &differing(settings);
    let missing = missing(runs);
    if !missing.is_empty() {
        let _ = write!(text, "\n## Only in one of them\n\n{missing}");
    }
    text + &reading(&rows, runs, settings)
}

fn losses(rows: &[Between], several: bool) -> Table {
    let mut table = Table::new(
        &["method"],
        &["A, nats", "B, nats", "pairs", "B minus A, nats"],
    );
    table.left("B is (p)");
    for row in rows {
        let loss = |side: &Side| mean(side.loss.as_ref(), side, several);
        let difference = row.difference.as_ref();
        let verdict = match (row.verdict, row.p_adjusted) {
            (Some(verdict), Some(p)) => format!("{verdict} ({})", probability(p)),
            (Some(verdict), None) => verdict.to_owned(),
            (None, _) => "no seed complete in both".to_owned(),
        };
        table.rows.push(vec![
            format!("`{}`", row.method),
            loss(&row.first),
            loss(&row.second),
            difference.map_or(0, |it| it.n).to_string(),
            difference.map_or_else(String::new, |it| marked(plus_minus(it, true), it, several)),
            verdict,
        ]);
    }
    table
}

fn speeds(rows: &[Between], several: bool) -> Table {
    let mut table = Table::new(&["method"], &["A, tokens/s", "B, tokens/s"]);
    table.right(&if several {
        format!("B over A [{}]", level())
    } else {
        "B over A".to_owned()
    });
    for row in rows {
        let speed = |side: &Side| mean(side.tokens_per_second.as_ref(), side, several);
        let ratio = row.speed.as_ref();
        table.rows.push(vec![
            format!("`{}`", row.method),
            speed(&row.first),
            speed(&row.second),
            ratio.map_or_else(String::new, |it| marked(bracketed(it), it, several)),
        ]);
    }
    table
}

/// A mean with its interval or, where no seed is complete, how the seeds stand.
fn mean(estimate: Option<&Estimate>, side: &Side, several: bool) -> String {
    match estimate {
        Some(it) => marked(plus_minus(it, false), it, several),
        None => side.status.clone(),
    }
}

fn differing(settings: &[DifferentSetting]) -> String {
    if settings.is_empty() {
        return "None.\n".to_owned();
    }
    let line = |it: &DifferentSetting| {
        let methods = if it.methods.is_empty() {
            String::new()
        } else {
            format!(" ({})", it.methods.join(", "))
        };
        let [first, second] = &it.values;
        format!("- `{}`: {first} in A, {second} in B{methods}\n", it.name)
    };
    settings.iter().map(line).collect()
}

fn missing(runs: [&Runs; 2]) -> String {
    let sides = [("A", runs[0], runs[1]), ("B", runs[1], runs[0])];
    let line = |(name, own, other)| {
        let methods = only_in(own, other);
        let methods: Vec<String> = methods
            .into_iter()
            .map(|(size, method)| format!("`{method}` at {size}"))
            .collect();
        if methods.is_empty() {
            String::new()
        } else {
            format!("- {name}: {}\n", methods.join(", "))
        }
    };
    sides.into_iter().map(line).collect()
}

/// The processors or devices that a suite's runs were worked on, and with how many threads.
fn machines(runs: &Runs) -> String {
    let mut machines: Vec<String> = Vec::new();
    for session in runs.iter().flat_map(|run| &run.sessions) {
        let threads = number_of(session.threads, "thread");
        let machine = format!("{} with {threads}", session.machine());
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    machines.join("; ")
}

/// What of the training is not alike, so that a difference is that of the lengths too.
fn unequal(settings: &[DifferentSetting]) -> Option<String> {
    let lengths = settings
        .iter()
        .filter(|it| ["steps", "global_batch_size"].contains(&it.name.as_str()));
    let lengths: Vec<String> = lengths
        .map(|it| format!("{} = {} and {}", it.name, it.values[0], it.values[1]))
        .collect();
    (!lengths.is_empty()).then(|| format!("**unequal training**: {}", lengths.join(", ")))
}

fn reading(rows: &[Between], runs: [&Runs; 2], settings: &[DifferentSetting]) -> String {
    let tests = rows.iter().filter(|row| row.p_adjusted.is_some()).count();
    let level = level();
    let read = unequal(settings)
        .unwrap_or_else(|| "which read the same data in the same order".to_owned());
    format!(
        "\n## How to read this\n\n\
         - Both suites have read the same text with the same tokenizer and were measured on the same validation rows.\n\
         - `±` and brackets are {level} Student-t intervals over seeds. B minus A is over the seeds that both completed (pairs),\n  \
         {read}: negative is better for B. p: paired t-test, two-sided, adjusted by Holm's method\n  \
         over the {} of this page; better or worse where it is below {SIGNIFICANCE}. The other words are those of the\n  \
         tables of a suite (docs/statistics.md).\n\
         - Speeds are those of the machines: A on {}; B on {}.\n",
        number_of(tests, "comparison"),
        machines(runs[0]),
        machines(runs[1])
    )
}
