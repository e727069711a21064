//! What `relora spectra` prints: the paper's count of small singular values and the effective rank of the updates.

use crate::frame::{MeasuredAlike, Run, Runs};
use crate::render::cells::{marked, plus_minus};
use crate::render::table::Table;
use crate::spectra::Spectrum;
use crate::statistics::mean_interval;

/// A number of one run's spectra of one matrix, over all layers.
type Figure = fn(&Run, &str) -> Option<f64>;

/// The spectra of a suite as Markdown: for each size one table of each figure, methods down, matrices across. Seeds that are
/// measured from different steps stand in rows of their own.
#[must_use]
pub fn spectra(runs: &Runs) -> String {
    let rows = runs.measured_alike();
    let mut text = String::new();
    for rows in rows.chunk_by(|left, right| left.row().size == right.row().size) {
        let Some(first) = rows.first().and_then(|row| row.runs.first()) else {
            continue;
        };
        text += &format!("\n## {}\n", first.row.size);
        for (title, figure) in FIGURES {
            text += &format!("\n### {title}\n\n{}", table(rows, figure).markdown());
        }
        let matrix = first.matrices().first().copied().unwrap_or_default();
        let total: usize = first
            .updates_of(matrix)
            .map(|record| record.singular_values.len())
            .sum();
        text += &format!(
            "\n- An update is the final weight, product included, minus the weight at the step `from`: the one at the end of the \
             warm start, or where that step is 0 the one that the run began with. Rows of different steps are updates of \
             different length, and no mean is over both. `{matrix}` has {total} singular values in all layers together.\n\
             - Angles lie between what one product and the one before it write to: 90 degrees where a restart found new \
             directions only. {}\n",
            if several(rows) {
                "Mean over seeds ± half of its 95% interval."
            } else {
                "One seed each, so no number has an interval (n = 1)."
            }
        );
    }
    text
}

const FIGURES: [(&str, Figure); 3] = [
    (
        "Singular values of the update below 0.1, all layers",
        |run, matrix| {
            let below = updates(run, matrix).map(|spectrum| spectrum.below_small() as f64);
            Some(below.sum())
        },
    ),
    (
        "Effective rank of the update, mean over layers",
        |run, matrix| mean(updates(run, matrix).map(|spectrum| spectrum.effective_rank())),
    ),
    (
        "Angle between successive products, degrees, mean over layers",
        |run, matrix| {
            let records = run.spectra.iter().filter(|record| record.matrix == matrix);
            mean(records.filter_map(|record| Some(record.output_angles?.mean)))
        },
    ),
];

fn updates(run: &Run, matrix: &str) -> impl Iterator<Item = Spectrum> {
    run.updates_of(matrix).map(|record| Spectrum {
        singular_values: record.singular_values.clone(),
    })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    mean_interval(&values).map(|estimate| estimate.point)
}

fn several(rows: &[MeasuredAlike<'_>]) -> bool {
    rows.iter().any(|row| row.runs.len() > 1)
}

fn table(rows: &[MeasuredAlike<'_>], figure: Figure) -> Table {
    let first = rows.first().and_then(|row| row.runs.first());
    let matrices = first.map(|run| run.matrices()).unwrap_or_default();
    let mut table = Table::new(&["method"], &["from"]);
    matrices.iter().for_each(|matrix| table.right(matrix));
    for row in rows {
        let mut cells = vec![format!("`{}`", row.row().method), row.from_step.to_string()];
        for matrix in &matrices {
            let of_seeds = row.runs.iter().filter_map(|run| figure(run, matrix));
            let estimate = mean_interval(&of_seeds.collect::<Vec<f64>>());
            cells.push(
                estimate
                    .map(|estimate| marked(plus_minus(&estimate, false), &estimate, several(rows)))
                    .unwrap_or_default(),
            );
        }
        table.rows.push(cells);
    }
    table
}
