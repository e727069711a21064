//! What tuning chose and what it cost, and tuned methods beside those of the recipe.

use super::{Section, unit_of_time};
use crate::render::cells::{Cells, fixed, millions, probability, rate, significant};
use crate::render::table::Table;
use std::fmt::Write;

/// The point that is chosen for each method, how clearly, and the cost of all of them.
pub(super) fn tuning_section(rows: &[Cells<'_>]) -> Option<Section> {
    rows.first()?;
    let number = |row: &Cells<'_>, column: &str| row.number(column).unwrap_or(0.0);
    let longest = rows.iter().map(|row| number(row, "tuning_seconds"));
    let (unit, seconds) = unit_of_time(longest.fold(0.0, f64::max));
    let mut table = Table::new(
        &["method"],
        &[
            "rate", "nats", "next", "points", "tokens", "FLOPs", unit, "runs",
        ],
    );
    for row in rows {
        let loss = row.estimate("validation_loss", "seeds_complete");
        table.rows.push(vec![
            row.name(),
            row.number("learning_rate")
                .map_or_else(|| "-".to_owned(), rate),
            loss.map_or_else(String::new, |it| row.plus_minus(&it, false)),
            row.number("runner_up_gap")
                .map_or_else(String::new, |it| format!("+{it:.3}")),
            of_points(row, "points_complete"),
            millions(number(row, "tuning_tokens")),
            format!("{:.2e}", number(row, "tuning_flops")),
            fixed(number(row, "tuning_seconds") / seconds, 1),
            row.number("tuning_runs")
                .map_or_else(String::new, significant),
        ]);
    }
    let mut notes = format!(
        "- Chosen is the point with the lowest mean validation loss, of those whose seeds all ran to their end. Next: how\n  \
         far the next best lies above it. Points: those that are complete. Every point stands in `tuning_points.csv`.\n\
         - Cost of all points of the method: training tokens, FLOPs, {unit} of its workers, each run charged its warm start\n  \
         even where it was handed on; runs: the same FLOPs in runs of the method as it is tuned for.\n"
    );
    notes += &all_together(rows);
    notes += &caveats(rows);
    notes += &other_settings(rows);
    Some(Section {
        title: "Tuning".into(),
        from: "tuning",
        table,
        notes,
    })
}

fn of_points(row: &Cells<'_>, column: &str) -> String {
    let count = |column: &str| row.count(column).unwrap_or(0);
    format!("{} of {}", count(column), count("points"))
}

/// The cost of the points of all methods.
fn all_together(rows: &[Cells<'_>]) -> String {
    let total = |column: &str| -> f64 { rows.iter().filter_map(|row| row.number(column)).sum() };
    let seconds = total("tuning_seconds");
    let (unit, each) = unit_of_time(seconds);
    format!(
        "- All methods together: {} tokens, {:.2e} FLOPs, {} {unit}.\n",
        millions(total("tuning_tokens")),
        total("tuning_flops"),
        fixed(seconds / each, 1),
    )
}

/// What makes a choice less than it seems.
fn caveats(rows: &[Cells<'_>]) -> String {
    let named = |shown: &dyn Fn(&Cells<'_>) -> Option<String>| -> Option<String> {
        let named: Vec<String> = rows
            .iter()
            .filter_map(|row| Some(format!("{}{}", row.name(), shown(row)?)))
            .collect();
        (!named.is_empty()).then(|| named.join(", "))
    };
    let some_of = |column: &'static str| {
        move |row: &Cells<'_>| {
            let any = row.count(column) > Some(0);
            any.then(|| format!(" {}", of_points(row, column)))
        }
    };
    let is_settled = |row: &Cells<'_>| row.count("points_unfinished") == Some(0);
    let mut text = String::new();
    let mut edges: Vec<String> = rows.iter().filter_map(|row| row.text("edge")).collect();
    edges.sort();
    edges.dedup();
    for edge in edges {
        let at_it = named(&|row| row.is("edge", &edge).then(String::new));
        let _ = writeln!(
            text,
            "- No point lies beyond the one that won ({edge}): {}. The best value\n  \
             may: try more points, or a wider space (`[tune.space]`).",
            at_it.unwrap_or_default()
        );
    }
    for (methods, what) in [
        (
            named(&some_of("points_diverged")),
            "Points that diverged, and so have lost",
        ),
        (
            named(&some_of("points_unfinished")),
            "Points that are not done, so that the choice may change",
        ),
        (
            named(&|row| (is_settled(row) && row.text("chosen").is_none()).then(String::new)),
            "No point ran to its end, so nothing is chosen",
        ),
    ] {
        if let Some(methods) = methods {
            let _ = writeln!(text, "- {what}: {methods}.");
        }
    }
    let mut points: Vec<u64> = rows.iter().filter_map(|row| row.count("points")).collect();
    points.sort_unstable();
    if let [least, .., most] = points.as_slice()
        && least < most
    {
        let _ = writeln!(
            text,
            "- **Unequal numbers of points**, {least} to {most}: who had more of them had the better chance."
        );
    }
    text
}

/// Chosen values of settings beside the rate, which have no column.
fn other_settings(rows: &[Cells<'_>]) -> String {
    let mut text = String::new();
    for row in rows {
        if let Some(settings) = row.text("settings").filter(|it| it.contains(", ")) {
            let _ = writeln!(text, "- {}: {settings}.", row.name());
        }
    }
    text
}

/// Tuned methods beside those of the recipe, with what the tuning cost.
pub(super) fn recipes_section(rows: &[Cells<'_>]) -> Option<Section> {
    rows.first()?;
    let mut table = Table::new(
        &["method"],
        &["rate", "loss", "tuned", "loss", "difference", "cost"],
    );
    for row in rows {
        let rate_of = |column: &str| row.number(column).map(rate).unwrap_or_default();
        let estimate = |column: &str, n: &str, signed| {
            let found = row.estimate(column, n);
            found.map_or_else(String::new, |it| row.plus_minus(&it, signed))
        };
        table.rows.push(vec![
            format!("`{}`", row.text("tuned_from").unwrap_or_default()),
            rate_of("recipe_learning_rate"),
            estimate("recipe_validation_loss", "recipe_seeds_complete", false),
            rate_of("learning_rate"),
            estimate("validation_loss", "seeds_complete", false),
            estimate("difference", "difference_pairs", true),
            row.number("tuning_runs")
                .map_or_else(String::new, significant),
        ]);
    }
    let mut notes = String::from(
        "- Peak learning rate and validation loss (nats) of the method as the profile has it and as tuned; difference: tuned\n  \
         minus recipe, paired by seed, negative is better. Cost: FLOPs of the tuning, in runs of the method (tokens and\n  \
         seconds in `tuned.csv`); what it took to find the recipe is not known, and not charged.\n",
    );
    notes += &verdicts(rows);
    notes += &other_settings(rows);
    Some(Section {
        title: "Recipe and tuned".into(),
        from: "tuned",
        table,
        notes,
    })
}

/// The verdicts on the differences, each with its methods.
fn verdicts(rows: &[Cells<'_>]) -> String {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let Some(verdict) = row.text("verdict") else {
            continue;
        };
        let p = row.number("difference_p_adjusted");
        let p = p.map_or_else(String::new, |p| format!(" ({})", probability(p)));
        let method = row.name() + &p;
        match found.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, methods)) => methods.push(method),
            None => found.push((verdict, vec![method])),
        }
    }
    if found.is_empty() {
        return String::new();
    }
    let parts = found
        .iter()
        .map(|(verdict, methods)| format!("{verdict}: {}", methods.join(", ")));
    format!(
        "- Verdicts, p adjusted by Holm's method over these differences: {}.\n",
        parts.collect::<Vec<_>>().join("; ")
    )
}
