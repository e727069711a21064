//! What is shown of a size, as data: tables with what must be said below them.

mod answers;
mod literature;
mod tuning;

use super::cells::{
    Cells, GIBIBYTE, MEBIBYTE, millions, plus_minus, rate, reference, rows, scaled, significant,
    sizes, thousands, with_interval,
};
use super::number_of;
use super::table::Table;
use crate::frame::{BETTER_ALONE, Runs, TIE, UNRESOLVED_DIVERGED, WORSE_ALONE};
use crate::record::Status;
use crate::statistics::Estimate;
use std::fmt::Write;

/// A table with its title and, as Markdown, what must be said below it.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) title: String,
    /// Name of the table of the suite that it is taken from.
    pub(super) from: &'static str,
    pub(super) table: Table,
    pub(super) notes: String,
}

/// All of a size.
#[derive(Clone, Debug)]
pub(super) struct Chapter {
    pub(super) size: String,
    /// What its runs have in common.
    pub(super) conditions: String,
    pub(super) sections: Vec<Section>,
}

/// Each size of a suite: perplexity, the parts of the method, speed and memory, each with what is not resolved and what is
/// missing. Everything is taken from the frames, so nothing stands here that is not in the files.
pub(super) fn chapters(runs: &Runs) -> Vec<Chapter> {
    let all_runs = runs.runs();
    let perplexity = runs.perplexity();
    let ablations = runs.ablations();
    let effects = runs.effects();
    let recovery = runs.recovery();
    let prices = runs.prices();
    let equal = runs.equal();
    let published = runs.published();
    let tuned = runs.tuned_methods();
    let tuning = runs.tuning();
    let throughput = runs.throughput();
    let memory = runs.memory();
    let chapter = |size: String| {
        let sections = [
            tuning::tuning_section(&rows(&tuning, &size)),
            perplexity_section(
                &rows(&perplexity, &size),
                &rows(&all_runs, &size),
                &literature::none_of(&rows(&published, &size), &size),
            ),
            tuning::recipes_section(&rows(&tuned, &size)),
            ablations_section(&rows(&ablations, &size)),
            answers::effects_section(&rows(&effects, &size)),
            answers::recovery_section(&rows(&recovery, &size)),
            answers::equal_section(&rows(&equal, &size)),
            answers::prices_section(&rows(&prices, &size)),
            answers::target_section(&rows(&prices, &size)),
            throughput_section(&rows(&throughput, &size)),
            answers::speedup_section(&rows(&throughput, &size)),
            energy_section(&rows(&throughput, &size)),
            memory_section(&rows(&memory, &size)),
            literature::section(&rows(&published, &size)),
        ];
        Chapter {
            conditions: conditions(&rows(&all_runs, &size), &rows(&perplexity, &size)),
            sections: sections.into_iter().flatten().collect(),
            size,
        }
    };
    sizes(&perplexity).into_iter().map(chapter).collect()
}

/// What the tuning of each size has come to, of a suite that tunes.
pub(super) fn tunings(runs: &Runs) -> Vec<(String, Section)> {
    let tuning = runs.tuning();
    let of_size = |size: String| {
        let section = tuning::tuning_section(&rows(&tuning, &size))?;
        Some((size, section))
    };
    sizes(&tuning).into_iter().filter_map(of_size).collect()
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

fn perplexity_section(
    rows: &[Cells<'_>],
    runs: &[Cells<'_>],
    unpublished: &str,
) -> Option<Section> {
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
    let notes = not_complete(rows, runs) + &differences(rows) + &published_note(rows) + unpublished;
    Some(Section {
        title: "Perplexity".into(),
        from: "perplexity",
        table,
        notes,
    })
}

fn ablations_section(rows: &[Cells<'_>]) -> Option<Section> {
    let low_rank = rows.iter().filter(|row| row.is("low_rank", "true")).count();
    let reference = reference(rows).filter(|_| low_rank > 1)?;
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
    let mut notes = String::new();
    notes += "- Parts: R restarts, O optimizer reset, J jagged schedule, U re-warm-up, W warm start; `-` is without.\n";
    if !published {
        notes += "- Rate: peak learning rate of the method's own stage; the order of methods depends on it.\n";
    }
    notes += &differences(rows);
    notes += &published_note(rows);
    Some(Section {
        title: "Parts of the method".into(),
        from: "ablations",
        table,
        notes,
    })
}

fn throughput_section(rows: &[Cells<'_>]) -> Option<Section> {
    if !rows
        .iter()
        .any(|row| row.number("tokens_per_second").is_some())
    {
        return None;
    }
    let reference = reference(rows);
    let slowest = rows
        .iter()
        .filter_map(|row| row.number("wall_seconds"))
        .fold(0.0, f64::max);
    let (unit, seconds) = unit_of_time(slowest);
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
    Some(Section {
        title: "Speed".into(),
        from: "throughput",
        table,
        notes: "- Tokens per second count training after the warm start; the times charge a warm start to the method even where it\n  was handed on.\n".into(),
    })
}

/// What the drivers of GPUs say of energy; none where no one asked them.
fn energy_section(rows: &[Cells<'_>]) -> Option<Section> {
    let known = ["joules_per_token", "kilowatt_hours", "gpu_utilization"];
    let is_known = |row: &Cells<'_>| known.iter().any(|name| row.number(name).is_some());
    if !rows.iter().any(is_known) {
        return None;
    }
    let reference = reference(rows);
    let mut table = Table::new(&["method"], &["mJ/token"]);
    if let Some(reference) = &reference {
        table.right(&with_interval(&format!("times `{reference}`"), rows));
    }
    table.right("kWh");
    table.right("GPU busy, %");
    for row in rows {
        let times = |name, factor| {
            row.estimate(name, "seeds_complete")
                .map(|it| row.plus_minus(&scaled(&it, factor), false))
                .unwrap_or_default()
        };
        let mut cells = vec![row.name(), times("joules_per_token", 1e3)];
        if reference.is_some() {
            cells.push(row.ratio("joules_per_token_ratio"));
        }
        cells.extend([
            times("kilowatt_hours", 1.0),
            times("gpu_utilization", 100.0),
        ]);
        table.rows.push(cells);
    }
    Some(Section {
        title: "Energy".into(),
        from: "throughput",
        table,
        notes: "- Of the GPU's whole card, as its driver counts it: per token in training after the warm start, kWh of the whole run,\n  \
                a warm start included even where it was handed on. Busy: the share of training in which a kernel ran.\n"
            .into(),
    })
}

/// The unit that times up to this one are shown in, and its seconds.
fn unit_of_time(most: f64) -> (&'static str, f64) {
    match most {
        seconds if seconds < 120.0 => ("s", 1.0),
        seconds if seconds < 7200.0 => ("min", 60.0),
        _ => ("h", 3600.0),
    }
}

fn memory_section(rows: &[Cells<'_>]) -> Option<Section> {
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
    Some(Section {
        title: "Memory".into(),
        from: "memory",
        table,
        notes: format!(
            "- Bytes in {unit}. Trained: parameters that the optimizer updates (in the low-rank stage, if there is one).\n\
         - Peak: the largest memory of the whole worker process (CPU) or of the device as its driver counts it (CUDA),\n  \
         activations included. What the memory plan says of it, by class, stands in `memory.csv`.\n"
        ),
    })
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
    let mut references = rows.iter().filter_map(|row| row.text("reference"));
    if let Some(tuned) = references.find(|it| *it != reference) {
        let _ = writeln!(
            text,
            "- Tuned methods are compared with `{tuned}`, which was tuned as they were."
        );
    }
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
    let margin = rows.iter().find_map(|row| row.number("margin"));
    let equal = format!(
        "Equal within the declared margin of {} nats",
        margin.unwrap_or_default()
    );
    for (what, verdicts) in [
        (
            "Resolved by their own intervals, but not all at once",
            &[BETTER_ALONE, WORSE_ALONE][..],
        ),
        (&equal, &[TIE]),
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
