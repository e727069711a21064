//! The paper's figure 4: how the singular values of the updates are distributed.

use super::{Axis, Figure, Layer, Mark, Panel, Rectangle};
use crate::frame::{MeasuredAlike, Runs};
use crate::render::cells::significant;
use crate::spectra::{self, BINS, HISTOGRAM_END};

/// Matrices of the paper's figure 4.
const MATRICES: [&str; 5] = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"];

/// Methods that it compares, by preset: full rank, the kinds of LoRA, ReLoRA.
const PRESETS: [&str; 5] = ["full", "lora", "low-rank", "lora-warm-start", "relora"];

/// Width and height of a panel, points: its title, the method, the step that it is measured from and the matrix, must fit.
const PANEL: (u32, u32) = (250, 170);

/// Of a size: methods down, matrices across, the seeds of a method together where they are measured from the same step. None where
/// no spectra have been taken.
pub(super) fn figure(runs: &Runs, size: &str) -> Option<Figure> {
    let mut rows = runs.measured_alike();
    rows.retain(|row| row.row().size == size && PRESETS.contains(&row.row().preset.as_str()));
    let of_panel: Vec<(String, [f64; BINS])> = rows
        .iter()
        .flat_map(|row| MATRICES.map(|matrix| (title(row, matrix), histogram(row, matrix))))
        .collect();
    let highest = of_panel
        .iter()
        .flat_map(|(_, densities)| densities)
        .fold(0.0, |highest: f64, density| highest.max(*density));
    let panels: Vec<Panel> = of_panel
        .into_iter()
        .map(|(title, densities)| Panel {
            layers: vec![bars(&title, &densities)],
            title,
            x: Axis {
                limits: Some((0.0, HISTOGRAM_END)),
                ..Axis::linear("")
            },
            // One height for all, so that panels can be compared.
            y: Axis {
                limits: Some((0.0, (highest * 1.05).max(1.0))),
                ..Axis::linear("")
            },
        })
        .collect();
    (!panels.is_empty()).then(|| Figure {
        name: format!("spectra-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: singular values of the updates"),
        caption: "How the singular values of what training added to a matrix are distributed, over layers and seeds (the paper's \
                  figure 4)."
            .to_owned(),
        tables: &["spectra_histogram"],
        panels,
        across: MATRICES.len(),
        panel: PANEL,
        ..Figure::default()
    })
}

fn bars(title: &str, densities: &[f64; BINS]) -> Layer {
    let width = HISTOGRAM_END / BINS as f64;
    let bars = densities
        .iter()
        .enumerate()
        .filter(|(_, density)| **density > 0.0)
        .map(|(bin, density)| {
            let low = bin as f64 * width;
            Rectangle {
                x: (low, low + width),
                y: (0.0, *density),
                says: format!(
                    "{title}: density {} from {low:.2} to {:.2}",
                    significant(*density),
                    low + width
                ),
            }
        });
    Layer::of(Mark::Boxes(bars.collect()))
}

fn title(row: &MeasuredAlike<'_>, matrix: &str) -> String {
    format!("{} from {}, {matrix}", row.row().method, row.from_step)
}

/// Of the updates of one matrix, all layers and seeds together.
fn histogram(row: &MeasuredAlike<'_>, matrix: &str) -> [f64; BINS] {
    let updates = row.runs.iter().flat_map(|run| run.updates_of(matrix));
    spectra::histogram(updates.flat_map(|record| record.singular_values.iter().copied()))
}
