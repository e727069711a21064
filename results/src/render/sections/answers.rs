//! The sections behind the headline: what each part does, what a restart does to the loss, what a loss costs, what the same costs
//! buy.

use super::Section;
use crate::render::cells::{
    Cells, marked, plus_minus, probability, reference, scaled, significant, with_interval,
};
use crate::render::table::Table;
use crate::statistics::{Estimate, mean_interval};

/// Main effects and interactions of two parts; higher ones stand in the table on disk.
pub(in crate::render) fn effects_section(rows: &[Cells<'_>]) -> Option<Section> {
    let first = rows.first()?;
    let mut table = Table::new(&["part"], &["effect, nats"]);
    table.left("verdict (p)");
    table.right("resolvable");
    for row in rows.iter().filter(|row| row.count("order") <= Some(2)) {
        let name = row.text("effect_of").unwrap_or_default();
        let verdict = row.text("verdict").unwrap_or_default();
        let verdict = match row.number("effect_p_adjusted") {
            Some(p) => format!("{verdict} ({})", probability(p)),
            None => verdict,
        };
        let effect = row.estimate("effect", "seeds_complete");
        table.rows.push(vec![
            name.replace('_', " "),
            effect.map_or_else(String::new, |it| row.plus_minus(&it, true)),
            verdict,
            row.number("effect_resolvable")
                .map_or_else(String::new, |it| format!("{it:.3}")),
        ]);
    }
    let seeds = first.count("seeds_complete").unwrap_or(0);
    let notes = format!(
        "- Mean loss of all methods with the part minus that of all without, by seed ({seeds} complete in all of them); of two\n  \
         parts, half of what one's effect gains by the other. Negative is better. p by the scatter of all effects together,\n  \
         adjusted by Holm's method over all {} of them, those\n  \
         of three and more parts included (`effects.csv`). Resolvable: the smallest true effect that four of five such suites\n  \
         would find.\n",
        rows.len()
    );
    Some(Section {
        title: "Effects of the parts".into(),
        from: "effects",
        table,
        notes,
    })
}

/// The loss around the steps at which some method restarts, by method.
pub(in crate::render) fn recovery_section(rows: &[Cells<'_>]) -> Option<Section> {
    let mut methods: Vec<String> = Vec::new();
    for row in rows {
        if !methods.contains(&row.name()) {
            methods.push(row.name());
        }
    }
    let window = rows.first()?.count("window_steps").unwrap_or(0);
    let seed = |row: &Cells<'_>| row.count("seed");
    let several = rows.iter().any(|row| seed(row) != seed(&rows[0]));
    let mut table = Table::new(
        &["method"],
        &[
            "restarts",
            "spike, nats",
            "back within the cycle",
            "after, steps",
        ],
    );
    for method in methods {
        let own: Vec<&Cells<'_>> = rows.iter().filter(|row| row.name() == method).collect();
        let restarts = own.iter().filter(|row| row.is("restarted", "true")).count();
        let mut seeds: Vec<u64> = own.iter().filter_map(|row| row.count("seed")).collect();
        seeds.dedup();
        let spikes: Vec<f64> = seeds
            .iter()
            .filter_map(|seed| {
                let of_seed = own.iter().filter(|row| row.count("seed") == Some(*seed));
                let spikes: Vec<f64> = of_seed.filter_map(|row| row.number("spike")).collect();
                (!spikes.is_empty()).then(|| spikes.iter().sum::<f64>() / spikes.len() as f64)
            })
            .collect();
        let mut after: Vec<u64> = own
            .iter()
            .filter_map(|row| row.count("recovered_after_steps"))
            .collect();
        after.sort_unstable();
        let shown = |it: Estimate| marked(plus_minus(&it, true), &it, several);
        // A run that does not come back comes last.
        let median = after.get(own.len() / 2);
        table.rows.push(vec![
            method,
            restarts.to_string(),
            mean_interval(&spikes).map_or_else(String::new, shown),
            format!("{} of {}", after.len(), own.len()),
            median.map_or_else(|| "-".to_owned(), u64::to_string),
        ]);
    }
    let notes = format!(
        "- At every step where some method restarts: the largest logged training loss of the next {window} steps over the mean of\n  \
         the {window} before, and the median of the steps until half as many are back at that mean (`-`: half never are). Methods without\n  \
         restarts, resets and drops of the rate show what the batches alone make of it, which all methods share (`recovery.csv`).\n"
    );
    Some(Section {
        title: "Around restarts".into(),
        from: "recovery",
        table,
        notes,
    })
}

/// What the same loss costs, against full rank.
pub(in crate::render) fn prices_section(rows: &[Cells<'_>]) -> Option<Section> {
    let reference = rows.iter().find_map(|row| {
        row.text("reference")
            .filter(|_| row.number("tokens_to_loss_ratio").is_some())
    })?;
    let [tokens, flops, seconds] = ["tokens", "FLOPs", "seconds"].map(|it| with_interval(it, rows));
    let mut table = Table::new(&["method"], &["nats", &tokens, &flops, &seconds]);
    let has_joules = rows
        .iter()
        .any(|row| row.number("joules_to_loss_ratio").is_some());
    if has_joules {
        table.right(&with_interval("joules", rows));
    }
    for row in rows {
        if row.number("tokens_to_loss_ratio").is_none() {
            continue;
        }
        let mut cells = vec![
            row.name(),
            row.number("same_loss")
                .map_or_else(String::new, |it| format!("{it:.3}")),
            row.ratio("tokens_to_loss_ratio"),
            row.ratio("flops_to_loss_ratio"),
            row.ratio("seconds_to_loss_ratio"),
        ];
        if has_joules {
            cells.push(row.ratio("joules_to_loss_ratio"));
        }
        table.rows.push(cells);
    }
    Some(Section {
        title: format!("Price of the same loss, times `{reference}`"),
        from: "prices",
        table,
        notes: "- In each seed the loss is the larger of the two final ones; what each run took to get there is read off its\n  \
                evaluations, in proportion between them. Below 1 is cheaper. The better run is\n  \
                read before its rate has come down, the worse one at its end, which brings both closer. How many more tokens,\n  \
                FLOPs and seconds that are stands in `prices.csv`.\n"
            .into(),
    })
}

/// What it takes each method to get to one loss.
pub(in crate::render) fn target_section(rows: &[Cells<'_>]) -> Option<Section> {
    let reference = reference(rows)?;
    let target = rows.iter().find_map(|row| row.number("target_loss"))?;
    let is_read = |row: &Cells<'_>| row.number("tokens_to_target").is_some();
    if !rows.iter().any(is_read) {
        return None;
    }
    let units = ["tokens", "flops", "seconds"].map(|name| {
        let column = format!("{name}_to_target");
        let amounts = rows.iter().filter_map(|row| row.number(&column));
        let largest = amounts.fold(0.0, f64::max);
        (column, Unit::of(name, largest))
    });
    let mut table = Table::new(&["method"], &["get there"]);
    for (_, unit) in &units {
        table.right(unit.heading);
    }
    for row in rows {
        let count = |column| row.count(column).unwrap_or(0);
        let mut cells = vec![
            row.name(),
            format!("{} of {}", count("target_reached"), count("target_seeds")),
        ];
        cells.extend(units.iter().map(|(column, unit)| {
            row.estimate(column, "target_seeds")
                .map_or_else(String::new, |it| {
                    row.plus_minus(&scaled(&it, 1.0 / unit.size), false)
                })
        }));
        table.rows.push(cells);
    }
    Some(Section {
        title: "Time to a target loss".into(),
        from: "prices",
        table,
        notes: format!(
            "- Target: {target:.4} nats, which every complete seed of `{reference}` has reached. Means are over all seeds that\n  \
             have ended, diverged ones included; empty where one of them never got there, or was there at its first evaluation.\n"
        ),
    })
}

/// In what tokens, FLOPs or seconds are shown.
struct Unit {
    heading: &'static str,
    size: f64,
}

impl Unit {
    fn of(name: &str, largest: f64) -> Unit {
        // From what on, how much one is, what it is called.
        let units: &[(f64, f64, &'static str)] = match name {
            "tokens" => &[
                (1e9, 1e9, "tokens, B"),
                (1e6, 1e6, "tokens, M"),
                (0.0, 1e3, "tokens, K"),
            ],
            "flops" => &[
                (1e18, 1e18, "EFLOPs"),
                (1e15, 1e15, "PFLOPs"),
                (1e12, 1e12, "TFLOPs"),
                (0.0, 1e9, "GFLOPs"),
            ],
            _ => &[
                (7200.0, 3600.0, "hours"),
                (120.0, 60.0, "minutes"),
                (0.0, 1.0, "seconds"),
            ],
        };
        let fitting = units.iter().find(|(from, ..)| largest >= *from);
        let (_, size, heading) = *fitting.unwrap_or(&units[units.len() - 1]);
        Unit { heading, size }
    }
}

/// Methods beside full rank at equal tokens, FLOPs and seconds.
pub(in crate::render) fn equal_section(rows: &[Cells<'_>]) -> Option<Section> {
    let reference = reference(rows)?;
    if !rows.iter().any(|row| row.number("difference").is_some()) {
        return None;
    }
    let mut table = Table::new(
        &["method", "at equal"],
        &[
            &format!("of `{reference}`"),
            "of own",
            &format!("vs `{reference}`, nats"),
        ],
    );
    table.left("verdict (p)");
    let others = rows
        .chunk_by(|left, right| left.name() == right.name())
        .filter(|method| !method[0].is("method", &reference));
    for method in others {
        let is_read = |row: &Cells<'_>| row.number("difference").is_some();
        if !method.iter().any(is_read) && !method[0].is("status", "complete") {
            let status = method[0].short_status();
            let empty = String::new;
            let cells = [
                method[0].name(),
                "-".into(),
                empty(),
                empty(),
                empty(),
                status,
            ];
            table.rows.push(cells.into());
            continue;
        }
        for row in method {
            table.rows.push(equal_row(row));
        }
    }
    let bracket = rows.iter().filter_map(|row| row.number("bracket"));
    let bracket = match bracket.fold(0.0, f64::max) {
        0.0 => String::new(),
        widest => format!(", up to {widest:.3} nats apart here,"),
    };
    let notes = format!(
        "- In each seed both runs are read at what the one that spent less spent in all: it at its end, the other on its way (how far\n  \
         through its steps each was: of `{reference}`, of own). FLOPs are counted per method, warm starts included; seconds are of\n  \
         training.\n\
         - A run that is read on its way has not brought its rate down, and between two evaluations{bracket}\n  \
         a loss is read in proportion: both count against the dearer method. Nothing is read beyond the end of a run\n  \
         or before its first evaluation (`not read`).\n\
         - p is adjusted by Holm's method over the methods, for tokens, FLOPs and seconds apart.\n{}",
        ended_early(rows)
    );
    Some(Section {
        title: "Equal tokens, FLOPs and time".into(),
        from: "equal",
        table,
        notes,
    })
}

fn equal_row(row: &Cells<'_>) -> Vec<String> {
    let share = |column| {
        row.number(column)
            .map_or_else(String::new, |share| format!("{:.0}%", 100.0 * share))
    };
    let [difference, mut verdict] = row.comparison();
    if difference.is_empty() {
        verdict = "not read".into();
    }
    let currency = row.text("currency").unwrap_or_default();
    vec![
        row.name(),
        currency.replace("flops", "FLOPs"),
        share("share_of_reference"),
        share("share_of_run"),
        difference,
        verdict,
    ]
}

/// Methods of which seeds diverged, with the step: their differences are those of the others.
fn ended_early(rows: &[Cells<'_>]) -> String {
    let diverged = rows
        .chunk_by(|left, right| left.name() == right.name())
        .map(|method| &method[0])
        .filter(|row| row.count("seeds_diverged") > Some(0));
    diverged
        .map(|row| {
            let status = row.text("status").unwrap_or_default();
            format!("- {}: {status}.\n", row.name())
        })
        .collect()
}

/// What arithmetic allows of a speed-up, beside what was measured.
pub(in crate::render) fn speedup_section(rows: &[Cells<'_>]) -> Option<Section> {
    let reference = reference(rows)?;
    let allowed = |row: &Cells<'_>, column| row.number(column).map(f64::recip);
    let differs = |row: &Cells<'_>| {
        let is_other = |ratio: Option<f64>| ratio.is_some_and(|it| it != 1.0);
        is_other(row.number("flops_per_token_ratio"))
            && row.number("tokens_per_second_ratio").is_some()
    };
    if !rows.iter().any(differs) {
        return None;
    }
    let [measured, run_measured] = ["measured", "run, measured"].map(|it| with_interval(it, rows));
    let mut table = Table::new(
        &["method"],
        &["allowed", &measured, "run, allowed", &run_measured],
    );
    for row in rows.iter().filter(|row| !row.is("method", &reference)) {
        let shown = |column| allowed(row, column).map_or_else(String::new, significant);
        table.rows.push(vec![
            row.name(),
            shown("flops_per_token_ratio"),
            row.ratio("tokens_per_second_ratio"),
            shown("flops_ratio"),
            row.inverse_ratio("training_seconds_ratio"),
        ]);
    }
    Some(Section {
        title: format!("Speed-up, allowed and measured, over `{reference}`"),
        from: "throughput",
        table,
        notes: "- What FLOPs alone would allow, beside what was measured: of tokens per second after the warm start, and of the\n  \
                training time of the whole run, warm start included. A frozen weight needs no gradient of its own, which saves\n  \
                a third of its FLOPs; the factors add theirs.\n"
            .into(),
    })
}
