//! The factorial over the parts of ReLoRA: what each of them does on average over all settings of the others, and what two or
//! more of them do together.

use super::build::{column, estimate, table};
use super::compare::{Group, UNRESOLVED_DIVERGED, adjusted, groups, judged};
use super::{Run, Runs};
use crate::record::RowKeys;
use crate::statistics::{
    Difference, LEVEL, is_larger, mean_interval, paired, smallest_with, strictest_level,
    with_pooled_error,
};
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
    /// With the error that the effects of the size have in common, or its own where that is larger than chance allows.
    difference: Difference,
    /// Degrees of freedom of that error.
    degrees: usize,
    /// Whether a seed of a combination diverged, so that the others stand for all.
    has_diverged: bool,
    /// p-value by the scatter of this effect alone.
    alone_p: Option<f64>,
    p_adjusted: Option<f64>,
    /// Number of effects that are tested together.
    comparisons: usize,
}

impl Runs {
    /// One row for each effect and interaction at each size where all combinations of at least two parts were trained, alike but
    /// for the parts (the rate, the rank and the length too). The effect of a part is the mean validation loss with it minus
    /// that without, over all settings of the others; an interaction is half of what a part's effect gains by another one.
    /// Both are computed within each seed that all combinations completed, and averaged over those seeds. Their error is the
    /// scatter over seeds of all effects together (Box, Hunter and Hunter 2005, chapter 5): one of them alone has n - 1
    /// degrees of freedom, all of them that many each. An effect that scatters more than the others by an F-test has its own.
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
            column("effect_alone_p", &rows, |effect| effect.alone_p),
            column("effect_p", &rows, |effect| effect.difference.p),
            column("effect_p_adjusted", &rows, |effect| effect.p_adjusted),
            column("effect_resolvable", &rows, |effect| {
                let level = strictest_level(effect.comparisons);
                let error = effect.difference.estimate.standard_error?;
                Some(smallest_with(error, effect.degrees, level))
            }),
            column("verdict", &rows, |effect| {
                if effect.has_diverged {
                    UNRESOLVED_DIVERGED
                } else {
                    judged(&effect.difference.estimate, effect.p_adjusted)
                }
            }),
            column("interval_level", &rows, |_| LEVEL),
        ]);
        table(columns)
    }
}

/// None where some combination is missing, where two methods are the same one, or where they differ in more than the parts.
fn effects_of_size<'a>(size: &[&'a Run]) -> Vec<Effect<'a>> {
    let mut cells = groups(size);
    cells.retain(|group| is_cell(group.row()));
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
    let alike = |row: &RowKeys| {
        let rates = (row.learning_rate.to_bits(), row.alpha.map(f64::to_bits));
        (
            rates,
            row.rank,
            row.planned_steps,
            row.global_batch_size,
            row.sequence_length,
        )
    };
    let are_alike = cells
        .windows(2)
        .all(|pair| alike(pair[0].row()) == alike(pair[1].row()));
    if varied.len() < 2 || !all_once || !are_alike {
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
    let contrasts = |parts: &[usize]| -> Vec<f64> {
        let of_seed = |seed: &u64| {
            let signed = cells.iter().zip(&losses).map(|(cell, losses)| {
                let levels = levels(cell.row());
                let without = parts.iter().filter(|&&part| !levels[part]).count();
                let sign = if without % 2 == 0 { 1.0 } else { -1.0 };
                let loss = losses.iter().find(|(other, _)| other == seed);
                sign * loss.map_or(f64::NAN, |(_, loss)| *loss)
            });
            signed.sum::<f64>() / (cells.len() / 2) as f64
        };
        seeds.iter().map(of_seed).collect()
    };
    let all: Vec<(Vec<usize>, Vec<f64>)> = subsets(&varied)
        .into_iter()
        .map(|parts| {
            let contrasts = contrasts(&parts);
            (parts, contrasts)
        })
        .collect();
    let squares: Vec<f64> = all
        .iter()
        .filter_map(|(_, contrasts)| Some(mean_interval(contrasts)?.standard_error?.powi(2)))
        .collect();
    let of_each = seeds.len().saturating_sub(1);
    // Runs of a seed that share a beginning are not independent, so that an effect may scatter more than the others.
    let is_apart: Vec<bool> = (0..squares.len())
        .map(|it| {
            let others = squares.iter().sum::<f64>() - squares[it];
            let number = squares.len() - 1;
            is_larger(
                (squares[it], of_each),
                (others / number as f64, number * of_each),
            )
        })
        .collect();
    let together: Vec<f64> = squares
        .iter()
        .zip(&is_apart)
        .filter(|(_, is_apart)| !**is_apart)
        .map(|(square, _)| *square)
        .collect();
    let pooled = (together.iter().sum::<f64>() / together.len() as f64).sqrt();
    let has_diverged = cells.iter().any(Group::has_diverged);
    let mut effects: Vec<Effect<'a>> = all
        .into_iter()
        .enumerate()
        .filter_map(|(number, (parts, contrasts))| {
            let alone = paired(&contrasts, &vec![0.0; contrasts.len()])?;
            let shares = is_apart.get(number) == Some(&false);
            let degrees = if shares {
                together.len() * of_each
            } else {
                of_each
            };
            let difference = if shares {
                with_pooled_error(alone.estimate.point, pooled, degrees, seeds.len())
            } else {
                alone
            };
            Some(Effect {
                size: &size[0].row.size,
                parts,
                difference,
                degrees,
                has_diverged,
                alone_p: alone.p,
                p_adjusted: None,
                comparisons: 0,
            })
        })
        .collect();
    let p_values: Vec<Option<f64>> = effects.iter().map(|it| it.difference.p).collect();
    let comparisons = p_values.iter().flatten().count();
    for (effect, p) in effects.iter_mut().zip(adjusted(&p_values)) {
        effect.p_adjusted = p;
        effect.comparisons = comparisons;
    }
    effects
}

/// Whether a method can be a cell of the factorial: LoRA on a kept base, with or without the parts, re-warmed wherever the
/// rate drops.
fn is_cell(row: &RowKeys) -> bool {
    // Methods that are tuned each for itself differ in more than the parts.
    let of_recipe = row.tuning.is_none() && row.point.is_none();
    of_recipe && row.low_rank && row.base.as_deref() == Some("keep") && row.rewarmup == row.jagged
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
