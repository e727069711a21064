//! What `relora spectra` prints: the paper's count of small singular values and the effective rank of the updates.

use super::{Table, plus_minus};
use crate::frame::{Run, Runs};
use crate::record::{SpectrumOf, SpectrumRecord};
use crate::spectra::Spectrum;
use crate::statistics::mean_interval;

/// A number of one run's spectra of one matrix, over all layers.
type Figure = fn(&[&SpectrumRecord]) -> Option<f64>;

/// The spectra of a suite as Markdown: for each size one table of each figure, methods down, matrices across.
#[must_use]
pub fn spectra(runs: &Runs) -> String {
    let runs: Vec<&Run> = runs.iter().filter(|run| !run.spectra.is_empty()).collect();
    let mut text = String::new();
    for size in runs.chunk_by(|left, right| left.row.size == right.row.size) {
        let Some(first) = size.first() else { continue };
        text += &format!("\n## {}\n", first.row.size);
        let total = values_of_a_matrix(first);
        for (title, figure) in figures() {
            text += &format!("\n### {title}\n\n{}", table(size, figure).text());
        }
        text += &format!(
            "\n- An update is the final weight minus the one at the end of the warm start, or minus the drawn one where there is \
             no warm start. The first matrix has {total} singular values in all layers together.\n\
             - Angles lie between what one product and the one before it write to: 90 degrees where a restart found new \
             directions only. Mean over seeds ± half of its 95% interval.\n"
        );
    }
    text
}

fn figures() -> [(&'static str, Figure); 3] {
    [
        (
            "Singular values of the update below 0.1, all layers",
            |records| {
                Some(
                    updates(records)
                        .map(|spectrum| spectrum.below_small() as f64)
                        .sum(),
                )
            },
        ),
        (
            "Effective rank of the update, mean over layers",
            |records| mean(updates(records).map(|spectrum| spectrum.effective_rank())),
        ),
        (
            "Angle between successive products, degrees, mean over layers",
            |records| {
                mean(
                    records
                        .iter()
                        .filter_map(|record| record.output_angles)
                        .map(|angles| angles.mean),
                )
            },
        ),
    ]
}

fn updates<'a>(records: &'a [&SpectrumRecord]) -> impl Iterator<Item = Spectrum> + 'a {
    let updates = records
        .iter()
        .filter(|record| record.quantity == SpectrumOf::Update);
    updates.map(|record| Spectrum {
        singular_values: record.singular_values.clone(),
    })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    mean_interval(&values).map(|estimate| estimate.point)
}

/// The matrices of a run, in the order of its records.
fn matrices(run: &Run) -> Vec<&str> {
    let mut matrices: Vec<&str> = Vec::new();
    for record in &run.spectra {
        if !matrices.contains(&record.matrix.as_str()) {
            matrices.push(&record.matrix);
        }
    }
    matrices
}

fn values_of_a_matrix(run: &Run) -> usize {
    let first = matrices(run).first().copied().unwrap_or_default();
    let records: Vec<_> = run
        .spectra
        .iter()
        .filter(|record| record.matrix == first)
        .collect();
    updates(&records)
        .map(|spectrum| spectrum.singular_values.len())
        .sum()
}

fn table(runs: &[&Run], figure: Figure) -> Table {
    let names = runs.first().map(|run| matrices(run)).unwrap_or_default();
    let mut table = Table::new(&["method"], &names);
    for method in runs.chunk_by(|left, right| left.row.method == right.row.method) {
        let Some(first) = method.first() else {
            continue;
        };
        let mut cells = vec![format!("`{}`", first.row.method)];
        for name in &names {
            let of_seed = |run: &&Run| {
                let records: Vec<_> = run
                    .spectra
                    .iter()
                    .filter(|record| record.matrix == *name)
                    .collect();
                figure(&records)
            };
            let values: Vec<f64> = method.iter().filter_map(of_seed).collect();
            cells.push(
                mean_interval(&values)
                    .map(|estimate| plus_minus(&estimate, false))
                    .unwrap_or_default(),
            );
        }
        table.rows.push(cells);
    }
    table
}
