//! Figures of frames as SVG: what a paper would print, in files that stand alone.

use crate::frame::{MeasuredAlike, Runs};
use crate::spectra::{self, BINS, HISTOGRAM_END};
use plotters::prelude::*;
use std::error::Error;

/// Matrices of the paper's figure 4.
const MATRICES: [&str; 5] = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"];

/// Methods that it compares, by preset: full rank, the kinds of LoRA, ReLoRA.
const PRESETS: [&str; 5] = ["full", "lora", "low-rank", "lora-warm-start", "relora"];

/// Width and height of one panel, pixels.
const PANEL: (u32, u32) = (220, 150);

/// Height of the letters of a panel's title, pixels: the method, the step that it is measured from and the matrix fit.
const TITLE: u32 = 11;

/// A dark blue that prints as a dark grey.
const INK: RGBColor = RGBColor(31, 78, 121);

/// The paper's figure 4 for each size: how the singular values of the updates are distributed, methods down, matrices
/// across, the seeds of a method together where they are measured from the same step. Names of the files with their
/// content; none where no spectra have been taken.
///
/// # Errors
/// What the drawing library says.
pub fn spectra(runs: &Runs) -> Result<Vec<(String, String)>, Box<dyn Error + Send + Sync>> {
    let mut rows = runs.measured_alike();
    rows.retain(|row| PRESETS.contains(&row.row().preset.as_str()));
    rows.chunk_by(|left, right| left.row().size == right.row().size)
        .map(|rows| {
            let name = rows.first().map_or("", |row| row.row().size.as_str());
            Ok((
                format!("spectra-{name}.svg"),
                panels(rows).map_err(|error| error.to_string())?,
            ))
        })
        .collect()
}

fn panels(rows: &[MeasuredAlike<'_>]) -> Result<String, Box<dyn Error>> {
    let panels: Vec<(String, [f64; BINS])> = rows
        .iter()
        .flat_map(|row| MATRICES.map(|matrix| (title(row, matrix), histogram(row, matrix))))
        .collect();
    let highest = panels
        .iter()
        .flat_map(|(_, densities)| densities)
        .fold(0.0, |highest: f64, density| highest.max(*density));

    let mut text = String::new();
    {
        let (across, down) = (MATRICES.len(), rows.len());
        let size = (PANEL.0 * across as u32, PANEL.1 * down as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        for (panel, (title, densities)) in area.split_evenly((down, across)).iter().zip(&panels) {
            let mut chart = ChartBuilder::on(panel)
                .caption(title, ("sans-serif", TITLE))
                .margin(6)
                .x_label_area_size(20)
                .y_label_area_size(34)
                .build_cartesian_2d(0.0..HISTOGRAM_END, 0.0..(highest * 1.05).max(1.0))?;
            chart
                .configure_mesh()
                .disable_mesh()
                .x_labels(5)
                .y_labels(4)
                .label_style(("sans-serif", 10))
                .draw()?;
            let width = HISTOGRAM_END / BINS as f64;
            chart.draw_series(
                densities
                    .iter()
                    .enumerate()
                    .filter(|(_, density)| **density > 0.0)
                    .map(|(bin, density)| {
                        let low = bin as f64 * width;
                        Rectangle::new([(low, 0.0), (low + width, *density)], INK.filled())
                    }),
            )?;
        }
        area.present()?;
    }
    Ok(text)
}

fn title(row: &MeasuredAlike<'_>, matrix: &str) -> String {
    format!("{} from {}, {matrix}", row.row().method, row.from_step)
}

/// Of the updates of one matrix, all layers and seeds together.
fn histogram(row: &MeasuredAlike<'_>, matrix: &str) -> [f64; BINS] {
    let updates = row.runs.iter().flat_map(|run| run.updates_of(matrix));
    spectra::histogram(updates.flat_map(|record| record.singular_values.iter().copied()))
}
