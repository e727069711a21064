//! The factorial over the parts of ReLoRA: what each of them does on average over all settings of the others, and what two or
//! more of them do together.

use super::build::{column, estimate, table};
use super::compare::{Group, judged};
use super::{Run, Runs};
use crate::record::RowKeys;
use crate::statistics::{Difference, LEVEL, holm, paired, smallest_difference, strictest_level};
use polars::prelude::DataFrame;

/// A part of the method that is there or not.
type Part = (&'static str, fn(&RowKeys) -> bool);

/// The parts in the order of the paper's table 6. Re-warm-up is none of them: it goes with the jagged schedule.
const PARTS: [Part; 4] = [
    ("restarts", |row| row.restarts),
    ("optimizer_reset", |row| row.optimizer_reset),
    ("jagged", |row| row.jagged),
    ("warm_start", |row| row.warm_start),
];

/// One effect at one size.
struct Effect<'a> {
    size: &'a str,
    /// Indices into [`PARTS`].
    parts: Vec<usize>,
    difference: Difference,
    p_adjusted: Option<f64>,
    /// Number of effects that are tested together.
    comparisons: usize,
}

impl Runs {
    /// One row for each effect and interaction at each size where all combinations of at least two parts were trained. The
    /// effect of a part is the mean validation loss with it minus that without, over all settings of the others; an
    /// interaction is half of what a part's effect gains by another one (Box, Hunter and Hunter 2005, chapter 5). Both are
    /// computed within each seed that all combinations completed, and averaged over those seeds.
    #[must_use]
    pub fn effects(&self) -> DataFrame {
        let runs: Vec<&Run> = self.iter().collect();
        let rows: Vec<Effect<'_>> = runs
            .chunk_by(|left, right| left.row.size == right.row.size)
            .flat_map(effects_of_size)
            .collect();
        let name = |effect: &Effect<'_>| {
            let names: Vec<&str> = effect.parts.iter().map(|&part| PARTS[part].0).collect();
            names.join(" x ")
        };
        let mut columns = vec![
            column("size", &rows, |effect| effect.size.to_owned()),
            column("effect_of", &rows, name),
            column("order", &rows, |effect| effect.parts.len() as u64),
            column("seeds_complete", &rows, |effect| {
                effect.difference.estimate.n as u64
            }),
        ];
        columns.extend(estimate("effect", &rows, |effect| {
            Some(effect.difference.estimate)
        }));
        columns.extend([
            column("effect_p", &rows, |effect| effect.difference.p),
            column("effect_p_adjusted", &rows, |effect| effect.p_adjusted),
            column("effect_resolvable", &rows, |effect| {
                let level = strictest_level(effect.comparisons);
                smallest_difference(&effect.difference.estimate, level)
            }),
            column("verdict", &rows, |effect| {
                judged(&effect.difference.estimate, effect.p_adjusted)
            }),
            column("interval_level", &rows, |_| LEVEL),
        ]);
        table(columns)
    }
}

/// None where some combination is missing, or where two methods are the same one.
fn effects_of_size<'a>(size: &[&'a Run]) -> Vec<Effect<'a>> {
    let cells: Vec<Group<'a>> = size
        .chunk_by(|left, right| left.row.method == right.row.method)
        .map(|runs| Group {
            runs: runs.to_vec(),
        })
        .filter(|group| is_cell(group.row()))
        .collect();
    let levels = |row: &RowKeys| PARTS.map(|(_, part)| part(row));
    let varied: Vec<usize> = (0..PARTS.len())
        .filter(|&part| {
            let mut of_part = cells.iter().map(|cell| levels(cell.row())[part]);
            let first = of_part.next();
            of_part.any(|level| Some(level) != first)
        })
        .collect();
    let mut combinations: Vec<Vec<bool>> = cells
        .iter()
        .map(|cell| {
            varied
                .iter()
                .map(|&part| levels(cell.row())[part])
                .collect()
        })
        .collect();
    let all_once = {
        combinations.sort();
        combinations.dedup();
        combinations.len() == cells.len() && cells.len() == 1 << varied.len()
    };
    if varied.len() < 2 || !all_once {
        return Vec::new();
    }
    let losses: Vec<Vec<(u64, f64)>> = cells
        .iter()
        .map(|cell| cell.values(|result| result.validation_loss))
        .collect();
    let seeds: Vec<u64> = losses[0]
        .iter()
        .map(|(seed, _)| *seed)
        .filter(|seed| {
            let has = |of_cell: &Vec<(u64, f64)>| of_cell.iter().any(|(other, _)| other == seed);
            losses.iter().all(has)
        })
        .collect();
    let mut effects: Vec<Effect<'a>> = subsets(&varied)
        .into_iter()
        .filter_map(|parts| {
            let contrasts: Vec<f64> = seeds
                .iter()
                .map(|seed| {
                    let signed = cells.iter().zip(&losses).map(|(cell, losses)| {
                        let levels = levels(cell.row());
                        let without = parts.iter().filter(|&&part| !levels[part]).count();
                        let sign = if without % 2 == 0 { 1.0 } else { -1.0 };
                        let loss = losses.iter().find(|(other, _)| other == seed);
                        sign * loss.map_or(f64::NAN, |(_, loss)| *loss)
                    });
                    signed.sum::<f64>() / (cells.len() / 2) as f64
                })
                .collect();
            let difference = paired(&contrasts, &vec![0.0; contrasts.len()])?;
            Some(Effect {
                size: &size[0].row.size,
                parts,
                difference,
                p_adjusted: None,
                comparisons: 0,
            })
        })
        .collect();
    let p_values: Vec<f64> = effects.iter().filter_map(|it| it.difference.p).collect();
    // All effects have the same seeds: either each has a p-value, or none.
    for (effect, p) in effects.iter_mut().zip(holm(&p_values)) {
        effect.p_adjusted = Some(p);
        effect.comparisons = p_values.len();
    }
    effects
}

/// Whether a method can be a cell of the factorial: LoRA on a kept base, with or without the parts, re-warmed wherever the
/// rate drops.
fn is_cell(row: &RowKeys) -> bool {
    row.low_rank && row.base.as_deref() == Some("keep") && row.rewarmup == row.jagged
}

/// Every subset but the empty one, smaller ones first, each in order.
fn subsets(items: &[usize]) -> Vec<Vec<usize>> {
    let mut subsets: Vec<Vec<usize>> = (1..1_usize << items.len())
        .map(|bits| {
            let chosen = items.iter().enumerate();
            let chosen = chosen.filter(|(place, _)| bits >> place & 1 == 1);
            chosen.map(|(_, item)| *item).collect()
        })
        .collect();
    subsets.sort_by_key(|subset| (subset.len(), subset.clone()));
    subsets
}
