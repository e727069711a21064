//! The sections behind the headline: what each part does, what a restart does to the loss, what a loss costs.

use super::Section;
use crate::render::cells::{Cells, marked, plus_minus, probability, with_interval};
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
    for row in rows {
        if row.number("tokens_to_loss_ratio").is_none() {
            continue;
        }
        table.rows.push(vec![
            row.name(),
            row.number("same_loss")
                .map_or_else(String::new, |it| format!("{it:.3}")),
            row.ratio("tokens_to_loss_ratio"),
            row.ratio("flops_to_loss_ratio"),
            row.ratio("seconds_to_loss_ratio"),
        ]);
    }
    Some(Section {
        title: format!("Price of the same loss, times `{reference}`"),
        from: "prices",
        table,
        notes: "- In each seed the loss is the larger of the two final ones; what each run took to get there is read off its\n  \
                evaluations, in proportion between them. Below 1 is cheaper. The better run is\n  \
                read before its rate has come down, the worse one at its end, which brings both closer. What arithmetic alone allows at equal tokens\n  \
                stands in `prices.csv`.\n"
            .into(),
    })
}
