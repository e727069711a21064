//! The tables for people: aligned Markdown that reads as well on a terminal as rendered.
//!
//! Digits follow the interval: a number is shown down to the second significant digit of its half-width, and a number that
//! has no interval says `n = 1`, or where none of a size has one, the size does. Everything is taken from the frames, so nothing stands here that is not in the CSV files.

mod answers;
mod spectra;

pub use spectra::spectra;

use crate::frame::{BETTER_ALONE, Runs, TIE, UNRESOLVED_DIVERGED, WORSE_ALONE};
use crate::record::Status;
use crate::render::number_of;
use crate::statistics::{Estimate, Interval, LEVEL, SIGNIFICANCE};
use polars::prelude::{AnyValue, DataFrame};
use std::fmt::Write;

/// The report of a suite, and the summary on the terminal: for each size perplexity, the parts of the method, speed and
/// memory, each with what is not resolved and what is missing, and at the end how to read it.
#[must_use]
pub fn markdown(runs: &Runs) -> String {
    let mut text = String::from("# Results\n\n");
    text += &standing(runs);
    if runs.iter().next().is_none() {
        return text;
    }
    let all_runs = runs.runs();
    let perplexity = runs.perplexity();
    let ablations = runs.ablations();
    let effects = runs.effects();
    let recovery = runs.recovery();
    let prices = runs.prices();
    let throughput = runs.throughput();
    let memory = runs.memory();
    for size in sizes(&perplexity) {
        let _ = write!(
            text,
            "\n## {size}\n\n{}",
            conditions(&rows(&all_runs, &size), &rows(&perplexity, &size))
        );
        text += &perplexity_section(&rows(&perplexity, &size), &rows(&all_runs, &size));
        text += &ablations_section(&rows(&ablations, &size));
        text += &answers::effects_section(&rows(&effects, &size));
        text += &answers::recovery_section(&rows(&recovery, &size));
        text += &answers::prices_section(&rows(&prices, &size));
        text += &throughput_section(&rows(&throughput, &size));
        text += &memory_section(&rows(&memory, &size));
    }
    text += &reading();
    text
}

/// How many runs stand where, and what stands nowhere.
fn standing(runs: &Runs) -> String {
    let mut text = counted(runs);
    for reason in runs.unplaced() {
        let _ = write!(
            text,
            "\nLeft out, since nobody can tell whose it is: {reason}.\n"
        );
    }
    text
}

fn counted(runs: &Runs) -> String {
    let counts = runs.counts();
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    if all == 0 {
        return "No runs.\n".to_owned();
    }
    let complete = counts
        .iter()
        .find(|(status, _)| *status == Status::Complete)
        .map_or(0, |(_, count)| *count);
    let others = counts
        .iter()
        .filter(|(status, _)| *status != Status::Complete);
    let others: Vec<String> = others
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!("; {}", others.join(", "))
    };
    format!(
        "{complete} of {} complete{others}.\n",
        number_of(all, "run")
    )
}

/// The different values of a column, in the order of the runs.
fn values(runs: &[Cells<'_>], column: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for value in runs.iter().filter_map(|run| run.text(column)) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// What was run: what a reader needs to cite a table or to make it again, as far as the runs say it.
fn recipe(runs: &[Cells<'_>]) -> String {
    let listed = |column: &str| Some(values(runs, column)).filter(|values| !values.is_empty());
    let counted = |column: &str| {
        let shown = listed(column)?
            .iter()
            .map(|value| thousands(value.trim_end_matches(".0")))
            .collect::<Vec<_>>();
        Some(shown.join(" and "))
    };
    let batch = counted("global_batch_size").zip(counted("sequence_length"));
    let updates = counted("planned_steps").map(|steps| {
        let updates = number_of(steps, "update");
        match batch {
            Some((rows, length)) => format!(
                "{updates} of {} of {}",
                number_of(rows, "sequence"),
                number_of(length, "token")
            ),
            None => updates,
        }
    });
    let tokens = listed("data_hash").map(|hashes| {
        let short: Vec<&str> = hashes
            .iter()
            .map(|hash| hash.get(..12).unwrap_or(hash))
            .collect();
        format!("tokens `{}`", short.join("` and `"))
    });
    let parts = [
        updates,
        counted("warm_start_steps").map(|steps| format!("warm start of {steps}")),
        counted("restart_every").map(|steps| format!("restart every {steps}")),
        counted("rank").map(|rank| format!("rank {rank}")),
        counted("alpha").map(|alpha| format!("alpha {alpha}")),
        listed("seed").map(|seeds| format!("seeds {}", seeds.join(", "))),
        tokens,
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}.\n", parts.join("; "))
}

/// What the runs of a size have in common, so that a reader sees whether they may be compared at all.
fn conditions(runs: &[Cells<'_>], methods: &[Cells<'_>]) -> String {
    let one_of = |name: &str| values(runs, name).join(" and ");
    let mut tokens: Vec<u64> = methods
        .iter()
        .filter_map(|row| row.count("tokens_seen"))
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    let complete = |row: &&Cells<'_>| row.count("seeds_complete") > Some(0);
    let differing = methods
        .iter()
        .filter(complete)
        .any(|row| row.count("tokens_seen").is_none());
    let tokens = match tokens.as_slice() {
        _ if differing => "**training tokens that differ between seeds**; ".to_owned(),
        [] => String::new(),
        [tokens] => format!(
            "{} training tokens for every method{}; ",
            thousands(&tokens.to_string()),
            if methods.iter().all(|row| complete(&row)) {
                ""
            } else {
                " with a complete seed"
            }
        ),
        [least, .., most] => {
            let (least, most) = (thousands(&least.to_string()), thousands(&most.to_string()));
            format!("**unequal training tokens**, {least} to {most}; ")
        }
    };
    let mut seeds: Vec<u64> = methods
        .iter()
        .filter(complete)
        .filter_map(|row| row.count("seeds_complete"))
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    let seeds = match seeds.as_slice() {
        [1] => "one seed each, so no number has an interval (n = 1); ".to_owned(),
        [least, .., most] => {
            format!("**unequal numbers of complete seeds**, {least} to {most}; ")
        }
        _ => String::new(),
    };
    let mut targets: Vec<u64> = runs
        .iter()
        .filter(|run| run.is("status", "complete"))
        .filter_map(|run| run.count("validation_targets"))
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let targets = match targets.as_slice() {
        [targets] => format!(
            "validation over {}; ",
            number_of(thousands(&targets.to_string()), "token")
        ),
        _ => String::new(),
    };
    let sentence = format!(
        "{tokens}{seeds}{targets}on {} in {}; dialect {}",
        one_of("device"),
        one_of("precision"),
        one_of("dialect")
    );
    let mut letters = sentence.chars();
    let first = letters
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.\n\n{}", letters.as_str(), recipe(runs))
}

fn perplexity_section(rows: &[Cells<'_>], runs: &[Cells<'_>]) -> String {
    let reference = reference(rows);
    let published = rows
        .iter()
        .any(|row| row.text("published_source").is_some());
    let mut table = Table::new(&["method"], &["seeds", &with_interval("perplexity", rows)]);
    if let Some(reference) = &reference {
        table.right(&format!("vs `{reference}`, nats"));
        table.left("verdict (p)");
    }
    if published {
        table.right("published");
    }
    for row in rows {
        let mut cells = vec![row.name(), row.seeds(), row.headline("perplexity")];
        if reference.is_some() {
            cells.extend(row.comparison());
        }
        if published {
            cells.push(row.published());
        }
        table.rows.push(cells);
    }
    let mut text = format!("\n### Perplexity\n\n{}\n", table.text());
    text += &not_complete(rows, runs);
    text += &differences(rows);
    text += &published_note(rows);
    text
}

fn ablations_section(rows: &[Cells<'_>]) -> String {
    let low_rank = rows.iter().filter(|row| row.is("low_rank", "true")).count();
    let Some(reference) = reference(rows).filter(|_| low_rank > 1) else {
        return String::new();
    };
    let published = rows
        .iter()
        .any(|row| row.text("published_source").is_some());
    let mut table = Table::new(&["method", "parts"], &[]);
    if !published {
        table.right("rate");
    }
    table.right("loss, nats");
    table.right(&format!("vs `{reference}`, nats"));
    table.left("verdict (p)");
    if published {
        table.right("published");
    }
    for row in rows {
        let mut cells = vec![row.name(), row.parts()];
        if !published {
            cells.push(row.number("learning_rate").map(rate).unwrap_or_default());
        }
        cells.push(
            row.estimate("validation_loss", "seeds_complete")
                .map(|it| row.plus_minus(&it, false))
                .unwrap_or_default(),
        );
        cells.extend(row.comparison());
        if published {
            cells.push(row.published());
        }
        table.rows.push(cells);
    }
    let mut text = format!("\n### Parts of the method\n\n{}\n", table.text());
    text += "- Parts: R restarts, O optimizer reset, J jagged schedule, U re-warm-up, W warm start; `-` is without.\n";
    if !published {
        text += "- Rate: peak learning rate of the method's own stage; the order of methods depends on it.\n";
    }
    text += &differences(rows);
    text += &published_note(rows);
    text
}

fn throughput_section(rows: &[Cells<'_>]) -> String {
    if !rows
        .iter()
        .any(|row| row.number("tokens_per_second").is_some())
    {
        return String::new();
    }
    let reference = reference(rows);
    let slowest = rows
        .iter()
        .filter_map(|row| row.number("wall_seconds"))
        .fold(0.0, f64::max);
    let (unit, seconds) = match slowest {
        seconds if seconds < 120.0 => ("s", 1.0),
        seconds if seconds < 7200.0 => ("min", 60.0),
        _ => ("h", 3600.0),
    };
    let mut table = Table::new(&["method"], &["tokens/s"]);
    if let Some(reference) = &reference {
        table.right(&with_interval(&format!("times `{reference}`"), rows));
    }
    table.right(&format!("training, {unit}"));
    table.right(&format!("wall time, {unit}"));
    for row in rows {
        let estimate = |name| row.estimate(name, "seeds_complete");
        let time = |name| {
            estimate(name)
                .map(|it| row.plus_minus(&scaled(&it, 1.0 / seconds), false))
                .unwrap_or_default()
        };
        let mut cells = vec![
            row.name(),
            estimate("tokens_per_second")
                .map(|it| row.plus_minus(&it, false))
                .unwrap_or_default(),
        ];
        if reference.is_some() {
            cells.push(row.ratio("tokens_per_second_ratio"));
        }
        cells.extend([time("training_seconds"), time("wall_seconds")]);
        table.rows.push(cells);
    }
    format!(
        "\n### Speed\n\n{}\n- Tokens per second count training after the warm start; the times charge a warm start to the method even where it\n  was handed on.\n",
        table.text()
    )
}

fn memory_section(rows: &[Cells<'_>]) -> String {
    let reference = reference(rows);
    let largest = rows
        .iter()
        .filter_map(|row| row.number("peak_memory_bytes"))
        .fold(0.0, f64::max);
    let (unit, bytes) = if largest < 8.0 * GIBIBYTE {
        ("MiB", MEBIBYTE)
    } else {
        ("GiB", GIBIBYTE)
    };
    let mut table = Table::new(
        &["method"],
        &["trained of all", "weights", "optimizer", "peak"],
    );
    if let Some(reference) = &reference {
        table.right(&with_interval(&format!("times `{reference}`"), rows));
    }
    for row in rows {
        let exact = |name| {
            row.number(name)
                .map(|value| significant(value / bytes))
                .unwrap_or_default()
        };
        let parameters = |name| row.number(name).map(millions).unwrap_or_default();
        let peak = row.estimate("peak_memory_bytes", "seeds_complete");
        let mut cells = vec![
            row.name(),
            format!(
                "{} of {}",
                parameters("trainable_parameters"),
                parameters("total_parameters")
            ),
            exact("weight_bytes"),
            exact("optimizer_state_bytes"),
            peak.map(|it| row.plus_minus(&scaled(&it, 1.0 / bytes), false))
                .unwrap_or_default(),
        ];
        if reference.is_some() {
            cells.push(row.ratio("peak_memory_ratio"));
        }
        table.rows.push(cells);
    }
    format!(
        "\n### Memory\n\n{}\n- Bytes in {unit}. Trained: parameters that the optimizer updates (in the low-rank stage, if there is one).\n\
         - Peak: the largest memory of the whole worker process (CPU) or of the device (CUDA, where it is not read yet),\n  \
         activations included. What the memory plan says of it, by class, stands in `memory.csv`.\n",
        table.text()
    )
}

/// What a careful reader asks before believing a table.
fn reading() -> String {
    let level = level();
    format!(
        "\n## How to read this\n\n\
         - Every mean is over the seeds that ran to their end; `±` and brackets are {level} Student-t intervals over\n  \
         seeds (n - 1 degrees of freedom, values taken as normal). `n = 1`: no interval. Perplexity is exp of the mean\n  \
         loss, its interval exp of the loss's.\n\
         - Differences are paired by seed (same data order, same draws): negative is better, and 0.01 nats is 1% of\n  \
         perplexity. What the seed does to all methods alike cancels, so compare by these, not by overlapping brackets.\n\
         - Verdicts: paired t-test, two-sided, p adjusted by Holm's method over all methods of the size; better or\n  \
         worse where the adjusted p < {SIGNIFICANCE}. `better alone`, `worse alone`: the difference's own interval\n  \
         excludes zero, but among so many comparisons one such is no surprise. `unresolved` does not mean equal:\n  \
         these seeds cannot tell. `unresolved: diverged`: the side with the lower loss lost seeds to divergence, and\n  \
         is not judged by those that it survived. `tie`: a true difference as large as the margin that the profile\n  \
         declares can be excluded (two one-sided t-tests).\n\
         - Intervals cover seeds only, not the choice of data, tokens or learning rates.\n"
    )
}

/// Methods whose seeds did not all run to their end, and why runs failed.
fn not_complete(rows: &[Cells<'_>], runs: &[Cells<'_>]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.is("status", "complete")) {
        let _ = writeln!(
            text,
            "- {}: {}.",
            row.name(),
            row.text("status").unwrap_or_default()
        );
    }
    let survivors = rows
        .iter()
        .any(|row| row.count("seeds_diverged") > Some(0) && row.count("seeds_complete") > Some(0));
    if survivors {
        text += "- Where some seeds diverged, the mean is over those that did not, which flatters the method.\n";
    }
    for run in runs {
        if let Some(error) = run.text("error") {
            let what = if run.is("status", Status::Unreadable.name()) {
                "is left out, since it cannot be read"
            } else {
                "failed"
            };
            let _ = writeln!(
                text,
                "- {} with seed {} {what}: {error}.",
                run.name(),
                run.count("seed").unwrap_or_default()
            );
        }
    }
    text
}

/// What is not resolved against the reference, the smallest difference that is, and pairs that are missing.
fn differences(rows: &[Cells<'_>]) -> String {
    let Some(reference) = reference(rows) else {
        return String::new();
    };
    let mut text = String::new();
    let compared: Vec<(&Cells<'_>, Estimate)> = rows
        .iter()
        .filter_map(|row| Some((row, row.estimate("difference", "difference_pairs")?)))
        .collect();
    let tests = rows
        .iter()
        .filter(|row| row.number("difference_p_adjusted").is_some())
        .count();
    if tests > 0 {
        let _ = writeln!(
            text,
            "- p: paired t-test against `{reference}`, adjusted by Holm's method over {} here; of the same two methods\n  \
             another table gives another p, since it tests them among others.",
            number_of(tests, "comparison")
        );
    }
    let resolved = compared
        .iter()
        .filter(|(row, _)| row.is("verdict", "better") || row.is("verdict", "worse"));
    let smallest =
        resolved.min_by(|(_, left), (_, right)| left.point.abs().total_cmp(&right.point.abs()));
    if let Some((row, difference)) = smallest {
        let _ = writeln!(
            text,
            "- Smallest resolved difference from `{reference}`: {} ({} nats).",
            row.name(),
            plus_minus(difference, true)
        );
    }
    let resolvable: Vec<f64> = rows
        .iter()
        .filter_map(|row| row.number("difference_resolvable"))
        .collect();
    if let (Some(least), Some(most)) = (
        resolvable.iter().copied().reduce(f64::min),
        resolvable.iter().copied().reduce(f64::max),
    ) {
        let _ = writeln!(
            text,
            "- What four of five such suites would find significant against `{reference}`: a true difference of {least:.3} nats or\n  \
             more, of the method whose seeds scatter most {most:.3} (`difference_resolvable`; `relora plan --resolve`)."
        );
    }
    for (what, verdicts) in [
        (
            "Resolved by their own intervals, but not all at once",
            &[BETTER_ALONE, WORSE_ALONE][..],
        ),
        ("Equal within the declared margin", &[TIE]),
        ("Not resolved", &["unresolved"]),
        (
            "Not judged, since the side that looks better diverged on some seeds",
            &[UNRESOLVED_DIVERGED],
        ),
    ] {
        let names: Vec<String> = compared
            .iter()
            .filter(|(row, _)| verdicts.iter().any(|verdict| row.is("verdict", verdict)))
            .map(|(row, _)| row.name())
            .collect();
        if !names.is_empty() {
            let _ = writeln!(
                text,
                "- {what}, against `{reference}`: {}.",
                names.join(", ")
            );
        }
    }
    let short = compared
        .iter()
        .filter(|(row, difference)| row.count("seeds_complete") > Some(difference.n as u64));
    let short: Vec<String> = short
        .map(|(row, difference)| format!("{} {}", row.name(), difference.n))
        .collect();
    if !short.is_empty() {
        let _ = writeln!(
            text,
            "- Seeds in common with `{reference}`, where fewer than the method's own: {}.",
            short.join(", ")
        );
    }
    text
}

fn published_note(rows: &[Cells<'_>]) -> String {
    let mut sources: Vec<String> = Vec::new();
    let mut certainties: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        if let (Some(source), Some(tokens), Some(certainty)) = (
            row.text("published_source"),
            row.text("published_tokens"),
            row.text("published_certainty"),
        ) {
            let source = format!("{source}, {tokens} tokens");
            if !sources.contains(&source) {
                sources.push(source);
            }
            match certainties
                .iter_mut()
                .find(|(known, _)| *known == certainty)
            {
                Some((_, methods)) => methods.push(row.name()),
                None => certainties.push((certainty, vec![row.name()])),
            }
        }
    }
    if sources.is_empty() {
        return String::new();
    }
    let certainties = certainties
        .iter()
        .map(|(certainty, methods)| format!("  {}: {certainty}.\n", methods.join(", ")));
    format!(
        "- Published: not ours. {}. One seed on C4 with T5's tokenizer:\n  \
         comparable only where data, tokens and tokenizer are the same. The paper's \"LoRA\" had no frozen weight (our\n  \
         `low-rank`), nor had its rows without a warm start before the first merge. How the figures are known:\n{}",
        sources.join("; "),
        certainties.collect::<String>()
    )
}

fn reference(rows: &[Cells<'_>]) -> Option<String> {
    rows.iter().find_map(|row| row.text("reference"))
}

fn sizes(frame: &DataFrame) -> Vec<String> {
    let mut sizes: Vec<String> = Vec::new();
    for row in 0..frame.height() {
        let size = Cells::new(frame, row).text("size").unwrap_or_default();
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    sizes
}

fn rows<'a>(frame: &'a DataFrame, size: &str) -> Vec<Cells<'a>> {
    let mut rows: Vec<Cells<'a>> = (0..frame.height())
        .map(|row| Cells::new(frame, row))
        .filter(|row| row.is("size", size))
        .collect();
    let several = rows.iter().any(|row| row.count("seeds_complete") > Some(1));
    rows.iter_mut().for_each(|row| row.several = several);
    rows
}

/// A row of a frame, read by the names of its columns.
struct Cells<'a> {
    frame: &'a DataFrame,
    row: usize,
    /// Whether a method of the size has several seeds, so that a number of one must say so.
    several: bool,
}

impl<'a> Cells<'a> {
    fn new(frame: &'a DataFrame, row: usize) -> Cells<'a> {
        Cells {
            frame,
            row,
            several: false,
        }
    }
}

impl Cells<'_> {
    fn plus_minus(&self, estimate: &Estimate, signed: bool) -> String {
        marked(plus_minus(estimate, signed), estimate, self.several)
    }

    fn bracketed(&self, estimate: &Estimate) -> String {
        marked(bracketed(estimate), estimate, self.several)
    }

    fn value(&self, column: &str) -> AnyValue<'_> {
        self.frame
            .column(column)
            .and_then(|column| column.get(self.row))
            .unwrap_or(AnyValue::Null)
    }

    fn text(&self, column: &str) -> Option<String> {
        match self.value(column) {
            AnyValue::Null => None,
            AnyValue::String(text) => Some(text.to_owned()),
            other => Some(other.to_string()),
        }
    }

    fn is(&self, column: &str, text: &str) -> bool {
        self.text(column).is_some_and(|found| found == text)
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.value(column).extract::<f64>()
    }

    fn count(&self, column: &str) -> Option<u64> {
        self.value(column).extract::<u64>()
    }

    /// Puts an estimate together again from its columns.
    fn estimate(&self, column: &str, n: &str) -> Option<Estimate> {
        let end = |part| self.number(&format!("{column}_{part}"));
        let interval = end("low").zip(end("high")).map(|(low, high)| Interval {
            level: LEVEL,
            low,
            high,
        });
        let n = usize::try_from(self.count(n)?).ok()?;
        Some(Estimate {
            point: self.number(column)?,
            standard_error: end("standard_error"),
            interval,
            n,
        })
    }

    fn name(&self) -> String {
        format!("`{}`", self.text("method").unwrap_or_default())
    }

    fn seeds(&self) -> String {
        format!(
            "{} of {}",
            self.count("seeds_complete").unwrap_or(0),
            self.count("seeds_planned").unwrap_or(0)
        )
    }

    /// The estimate with its interval in brackets or, where no seed is complete, how the seeds stand.
    fn headline(&self, column: &str) -> String {
        match self.estimate(column, "seeds_complete") {
            Some(estimate) => self.bracketed(&estimate),
            None => self
                .text("status")
                .filter(|status| status.chars().count() <= WIDEST_STATUS)
                .unwrap_or_else(|| "none complete".to_owned()),
        }
    }

    /// Difference and verdict; both empty for the reference.
    fn comparison(&self) -> [String; 2] {
        let Some(difference) = self.estimate("difference", "difference_pairs") else {
            return [String::new(), String::new()];
        };
        let verdict = self.text("verdict").unwrap_or_default();
        let verdict = match self.number("difference_p_adjusted") {
            Some(p) => format!("{verdict} ({})", probability(p)),
            None => verdict,
        };
        [self.plus_minus(&difference, true), verdict]
    }

    fn ratio(&self, column: &str) -> String {
        // The ratio stands on the pairs, of which there are two or more exactly where it has an interval.
        match (
            self.number(column),
            self.number(&format!("{column}_low")),
            self.number(&format!("{column}_high")),
        ) {
            (Some(point), Some(low), Some(high)) => self.bracketed(&Estimate {
                point,
                standard_error: None,
                interval: Some(Interval {
                    level: LEVEL,
                    low,
                    high,
                }),
                n: 2,
            }),
            (Some(point), _, _) => self.bracketed(&Estimate {
                point,
                standard_error: None,
                interval: None,
                n: 1,
            }),
            _ => String::new(),
        }
    }

    fn published(&self) -> String {
        match self.number("published_perplexity") {
            Some(perplexity) => format!("{perplexity:.2}"),
            None => self.text("published_status").unwrap_or_default(),
        }
    }

    /// Switches as letters, in the manner of the paper's ablation table.
    fn parts(&self) -> String {
        if !self.is("low_rank", "true") {
            return "full".to_owned();
        }
        let letters = [
            ("restarts", 'R'),
            ("optimizer_reset", 'O'),
            ("jagged", 'J'),
            ("rewarmup", 'U'),
            ("warm_start", 'W'),
        ];
        letters
            .iter()
            .map(|&(switch, letter)| if self.is(switch, "true") { letter } else { '-' })
            .collect()
    }
}

/// A longer status would make its table too wide for a terminal; it stands below the table in any case.
const WIDEST_STATUS: usize = 32;

const MEBIBYTE: f64 = 1024.0 * 1024.0;
const GIBIBYTE: f64 = 1024.0 * MEBIBYTE;

fn level() -> String {
    format!("{:.0}%", LEVEL * 100.0)
}

fn scaled(estimate: &Estimate, factor: f64) -> Estimate {
    Estimate {
        standard_error: estimate.standard_error.map(|error| error * factor),
        ..estimate.map(|value| value * factor)
    }
}

/// Decimals that show the second significant digit of a half-width; none for a half-width of zero, which has no digits.
fn decimals(half_width: f64) -> Option<usize> {
    if half_width <= 0.0 || !half_width.is_finite() {
        return None;
    }
    // A half-width of 0.023 has its first digit two places behind the point.
    let first = -half_width.log10().floor();
    Some((first + 1.0).clamp(0.0, 6.0) as usize)
}

/// A heading of numbers with their intervals in brackets, if there are any.
fn with_interval(heading: &str, rows: &[Cells<'_>]) -> String {
    if rows.iter().any(|row| row.several) {
        format!("{heading} [{}]", level())
    } else {
        heading.to_owned()
    }
}

/// An estimate as it is shown, with `(n = 1)` where it has no interval and others of its table may have one.
fn marked(text: String, estimate: &Estimate, several: bool) -> String {
    if several && estimate.interval.is_none() {
        text + " (n = 1)"
    } else {
        text
    }
}

/// `4.577 ± 0.023`, or without an interval `4.577`.
fn plus_minus(estimate: &Estimate, signed: bool) -> String {
    let sign = if signed && estimate.point > 0.0 {
        "+"
    } else {
        ""
    };
    match &estimate.interval {
        Some(interval) => match decimals(interval.half_width()) {
            Some(decimals) => {
                let half_width = fixed(interval.half_width(), decimals);
                format!("{sign}{} ± {half_width}", fixed(estimate.point, decimals))
            }
            None => format!("{sign}{} ± 0", significant(estimate.point)),
        },
        None => format!("{sign}{}", significant(estimate.point)),
    }
}

/// `97.2 [95.1, 99.4]`, or without an interval `97.20`: for intervals that are not symmetric.
fn bracketed(estimate: &Estimate) -> String {
    match &estimate.interval {
        Some(interval) => {
            // A ratio or perplexity that is known more closely than this is known well enough.
            let decimals = decimals(interval.half_width()).map(|decimals| decimals.min(3));
            let number = |value| {
                decimals.map_or_else(|| significant(value), |decimals| fixed(value, decimals))
            };
            let [point, low, high] = [estimate.point, interval.low, interval.high].map(number);
            format!("{point} [{low}, {high}]")
        }
        None => significant(estimate.point),
    }
}

fn fixed(value: f64, decimals: usize) -> String {
    thousands(&format!("{value:.decimals$}"))
}

/// Four significant digits, but no more than four decimals: for numbers without an interval, whose last digits nobody vouches for.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (3.0 - value.abs().log10().floor()).clamp(0.0, 4.0) as usize;
    fixed(value, decimals)
}

/// Groups the digits before the point by three, from five digits on.
fn thousands(number: &str) -> String {
    let (sign, unsigned) = number
        .strip_prefix('-')
        .map_or(("", number), |unsigned| ("-", unsigned));
    let (whole, fraction) = unsigned
        .find('.')
        .map_or((unsigned, ""), |point| unsigned.split_at(point));
    if whole.len() < 4 {
        return number.to_owned();
    }
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// `1.33M`, `368M`, `1.34B`.
fn millions(parameters: f64) -> String {
    let (value, unit) = match parameters {
        parameters if parameters < 1e6 => (parameters / 1e3, "K"),
        parameters if parameters < 1e9 => (parameters / 1e6, "M"),
        _ => (parameters / 1e9, "B"),
    };
    let decimals = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.decimals$}{unit}")
}

/// `0.012`, `0.31`, `<0.001`.
fn probability(p: f64) -> String {
    match p {
        p if p < 0.001 => "<0.001".to_owned(),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

/// `1e-3`, `2.5e-4`.
fn rate(rate: f64) -> String {
    format!("{rate:e}")
}

/// A Markdown table whose source is aligned too.
struct Table {
    headings: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

impl Table {
    /// Columns of text, then columns of numbers.
    fn new(left: &[&str], right: &[&str]) -> Table {
        let mut table = Table {
            headings: Vec::new(),
            rows: Vec::new(),
        };
        left.iter().for_each(|heading| table.left(heading));
        right.iter().for_each(|heading| table.right(heading));
        table
    }

    fn left(&mut self, heading: &str) {
        self.headings.push((heading.to_owned(), Side::Left));
    }

    fn right(&mut self, heading: &str) {
        self.headings.push((heading.to_owned(), Side::Right));
    }

    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| cell.replace('|', "\\|")).collect())
            .collect();
        let width = |column: usize, heading: &str| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(String::as_str);
            cells
                .chain([heading])
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, (heading, _))| width(column, heading))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.zip(&self.headings).zip(&widths).map(
                |((cell, (_, side)), &width)| match side {
                    Side::Left => format!("{cell:<width$}"),
                    Side::Right => format!("{cell:>width$}"),
                },
            );
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = line(&mut self.headings.iter().map(|(heading, _)| heading.as_str()));
        let rule = self
            .headings
            .iter()
            .zip(&widths)
            .map(|((_, side), &width)| match side {
                Side::Left => format!("|{}", "-".repeat(width + 2)),
                Side::Right => format!("|{}:", "-".repeat(width + 1)),
            });
        text += &rule.collect::<String>();
        text += "|\n";
        for row in &rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(point: f64, half_width: f64) -> Estimate {
        let interval = Interval {
            level: LEVEL,
            low: point - half_width,
            high: point + half_width,
        };
        Estimate {
            point,
            standard_error: None,
            interval: Some(interval),
            n: 3,
        }
    }

    #[test]
    fn digits_follow_the_interval() {
        assert_eq!(
            plus_minus(&estimate(4.576_83, 0.023_4), false),
            "4.577 ± 0.023"
        );
        assert_eq!(plus_minus(&estimate(4.576_83, 0.23), false), "4.58 ± 0.23");
        assert_eq!(
            plus_minus(&estimate(0.000_123, 0.000_02), true),
            "+0.000123 ± 0.000020"
        );
        assert_eq!(plus_minus(&estimate(-0.113, 1.7), true), "-0.1 ± 1.7");
        assert_eq!(
            plus_minus(&estimate(12_345.6, 123.4), false),
            "12,346 ± 123"
        );
        assert_eq!(bracketed(&estimate(97.2, 2.1)), "97.2 [95.1, 99.3]");
        assert_eq!(plus_minus(&estimate(2048.0, 0.0), false), "2,048 ± 0");
    }

    #[test]
    fn one_seed_is_shown_as_such_beside_several() {
        let one = Estimate {
            point: 97.234_5,
            standard_error: None,
            interval: None,
            n: 1,
        };
        assert_eq!([plus_minus(&one, false), bracketed(&one)], ["97.23"; 2]);
        let shown = |several| marked(bracketed(&one), &one, several);
        assert_eq!([shown(true), shown(false)], ["97.23 (n = 1)", "97.23"]);
    }

    #[test]
    fn numbers_are_grouped_and_abbreviated() {
        assert_eq!(thousands("1228800"), "1,228,800");
        assert_eq!(thousands("-12345.5"), "-12,345.5");
        assert_eq!(
            [thousands("1234.5"), thousands("123.5")],
            ["1,234.5", "123.5"]
        );
        assert_eq!(
            [1.33e6, 58_176_000.0, 1.339e9, 42_000.0].map(millions),
            ["1.33M", "58.2M", "1.34B", "42.0K"]
        );
        assert_eq!(
            [0.0002, 0.0123, 0.314].map(probability),
            ["<0.001", "0.012", "0.31"]
        );
        assert_eq!([0.001, 0.000_25].map(rate), ["1e-3", "2.5e-4"]);
    }
}
