//! Figures of frames as SVG: what a paper would print, in files that stand alone.

use crate::frame::{Run, Runs};
use crate::record::SpectrumOf;
use crate::spectra::{self, BINS, HISTOGRAM_END};
use plotters::prelude::*;
use std::error::Error;

/// Matrices of the paper's figure 4.
const MATRICES: [&str; 5] = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"];

/// Methods that it compares, by preset: full rank, the kinds of LoRA, ReLoRA.
const PRESETS: [&str; 5] = ["full", "lora", "low-rank", "lora-warm-start", "relora"];

/// Width and height of one panel, pixels.
const PANEL: (u32, u32) = (220, 150);

/// A dark blue that prints as a dark grey.
const INK: RGBColor = RGBColor(31, 78, 121);

/// The paper's figure 4 for each size: how the singular values of the updates are distributed, methods down, matrices
/// across, the seeds of a method together. Names of the files with their content; none where no spectra have been taken.
///
/// # Errors
/// What the drawing library says.
pub fn spectra(runs: &Runs) -> Result<Vec<(String, String)>, Box<dyn Error + Send + Sync>> {
    let shown = |run: &&Run| !run.spectra.is_empty() && PRESETS.contains(&run.row.preset.as_str());
    let runs: Vec<&Run> = runs.iter().filter(shown).collect();
    let sizes = runs.chunk_by(|left, right| left.row.size == right.row.size);
    sizes
        .map(|size| {
            let name = size.first().map_or("", |run| run.row.size.as_str());
            Ok((
                format!("spectra-{name}.svg"),
                panels(size).map_err(|error| error.to_string())?,
            ))
        })
        .collect()
}

fn panels(runs: &[&Run]) -> Result<String, Box<dyn Error>> {
    let methods: Vec<&[&Run]> = runs
        .chunk_by(|left, right| left.row.method == right.row.method)
        .collect();
    let (columns, rows) = (MATRICES.len(), methods.len());
    let histograms: Vec<[f64; BINS]> = methods
        .iter()
        .flat_map(|method| {
            MATRICES.map(|matrix| spectra::histogram(values(method, matrix).into_iter()))
        })
        .collect();
    let highest = histograms
        .iter()
        .flatten()
        .fold(0.0, |highest: f64, density| highest.max(*density));

    let mut text = String::new();
    {
        let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        for (panel, (index, histogram)) in area
            .split_evenly((rows, columns))
            .iter()
            .zip(histograms.iter().enumerate())
        {
            let method = methods
                .get(index / columns)
                .and_then(|method| method.first());
            let method = method.map_or("", |run| run.row.method.as_str());
            let title = format!("{method}, {}", MATRICES[index % columns]);
            let mut chart = ChartBuilder::on(panel)
                .caption(title, ("sans-serif", 13))
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
                histogram
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

/// The singular values of the updates of one matrix, of all layers and seeds.
fn values(runs: &[&Run], matrix: &str) -> Vec<f64> {
    let records = runs.iter().flat_map(|run| &run.spectra);
    let updates =
        records.filter(|record| record.quantity == SpectrumOf::Update && record.matrix == matrix);
    updates
        .flat_map(|record| record.singular_values.iter().copied())
        .collect()
}
