//! What is drawn of a suite: of each figure the numbers of a table that stands beside it, or their means.

use super::{Axis, Entry, Figure, Layer, Manner, Mark, Panel, Point, Rectangle, Scale};
use crate::frame::Runs;
use crate::render::cells::{Cells, MEBIBYTE, reference, rows, significant, sizes};
use crate::statistics::Estimate;
use polars::prelude::DataFrame;
use std::collections::BTreeMap;

/// Width and height of a panel that has a row of the page for itself, points.
pub(super) const WIDE: (u32, u32) = (660, 320);
/// Of one of two side by side.
const HALF: (u32, u32) = (400, 330);
/// Height of a row with a name, and of what a panel of rows has besides, points.
const ROW: u32 = 24;
const BESIDES: u32 = 80;

/// Tables that figures are made of, made once.
pub(super) struct Tables {
    pub(super) perplexity: DataFrame,
    effects: DataFrame,
    pub(super) recovery: DataFrame,
    throughput: DataFrame,
    memory: DataFrame,
    /// Names of all methods, which decide how each is drawn in every figure.
    methods: Vec<String>,
}

impl Tables {
    /// The legend of a figure with these methods, in the order of the suite.
    pub(super) fn legend(&self, drawn: impl Fn(&str) -> bool) -> Vec<Entry> {
        let places = self.methods.iter().enumerate();
        let drawn = places.filter(|(_, method)| drawn(method));
        drawn
            .map(|(place, method)| Entry {
                name: method.clone(),
                place,
                manner: Manner::Curve,
            })
            .collect()
    }
}

/// All figures of a suite that its runs have the numbers for: those of each size in the order of the sizes, then those over
/// several sizes.
pub(in crate::render) fn figures(runs: &Runs) -> Vec<Figure> {
    let mut methods: Vec<String> = Vec::new();
    for run in runs.iter() {
        if !methods.contains(&run.row.method) {
            methods.push(run.row.method.clone());
        }
    }
    let tables = Tables {
        perplexity: runs.perplexity(),
        effects: runs.effects(),
        recovery: runs.recovery(),
        throughput: runs.throughput(),
        memory: runs.memory(),
        methods,
    };
    let sizes = sizes(&tables.perplexity);
    let mut figures = Vec::new();
    for size in &sizes {
        let of_size = [
            differences(&tables, size),
            super::curves::curves(runs, &tables, size),
            super::curves::schedule(runs, &tables, size),
            super::curves::restarts(runs, &tables, size),
            effects(&tables, size),
            costs(&tables, size),
            memory(&tables, size),
            super::spectra::figure(runs, size),
        ];
        figures.extend(of_size.into_iter().flatten());
    }
    figures.extend(gaps(&tables, &sizes));
    figures
}

/// The difference of every method from the reference, with its interval.
fn differences(tables: &Tables, size: &str) -> Option<Figure> {
    let rows = rows(&tables.perplexity, size);
    let reference = reference(&rows)?;
    let margin = rows.iter().find_map(|row| row.number("margin"));
    let of_margin = margin.map_or(String::new(), |margin| {
        format!(" Broken lines: the margin of {margin} nats within which losses count as equal.")
    });
    forest(Figure {
        name: format!("differences-{size}"),
        title: format!("{size}: validation loss minus that of {reference}"),
        caption: format!(
            "Validation loss at the end minus that of `{reference}`, paired by seed, with its 95% interval where there are several \
             seeds: left of zero is better. An interval that excludes zero is not yet a verdict, which is over all methods of the \
             table.{of_margin}"
        ),
        tables: &["perplexity"],
        ..forest_of(
            size,
            &rows,
            ("method", "difference", "difference_pairs"),
            margin,
        )
    })
}

/// Main effects and interactions of the factorial.
fn effects(tables: &Tables, size: &str) -> Option<Figure> {
    let rows = rows(&tables.effects, size);
    forest(Figure {
        name: format!("effects-{size}"),
        title: format!("{size}: effect on the validation loss"),
        caption: "What a part does to the validation loss on average over all settings of the others, and what parts do together \
                  beyond that, with 95% intervals: left of zero is better."
            .to_owned(),
        tables: &["effects"],
        ..forest_of(size, &rows, ("effect_of", "effect", "seeds_complete"), None)
    })
}

/// An estimate for each row that has one: its name, the estimate and its number of values by the names of their columns.
fn forest_of(
    size: &str,
    rows: &[Cells<'_>],
    (name, estimate, number): (&str, &str, &str),
    margin: Option<f64>,
) -> Figure {
    let mut names = Vec::new();
    let mut points = Vec::new();
    for row in rows {
        let Some((of, it)) = row.text(name).zip(row.estimate(estimate, number)) else {
            continue;
        };
        let of = of.replace('_', " ");
        let verdict = row.text("verdict").unwrap_or_default();
        points.push(Point {
            x_interval: interval(&it),
            ..Point::new(
                it.point,
                names.len() as f64,
                format!("{of}: {} nats, {verdict}", row.plus_minus(&it, true)),
            )
        });
        names.push(of);
    }
    let margins = margin.into_iter().flat_map(|margin| [-margin, margin]);
    let mut layers: Vec<Layer> = margins
        .map(|at| Layer::of(Mark::Vertical { at, broken: true }))
        .collect();
    layers.push(Layer::of(Mark::Vertical {
        at: 0.0,
        broken: false,
    }));
    layers.push(Layer::of(Mark::Points(points)));
    Figure {
        size: Some(size.to_owned()),
        panels: vec![Panel {
            title: String::new(),
            x: Axis::linear("nats per token"),
            y: Axis::rows(names),
            layers,
        }],
        panel: WIDE,
        ..Figure::default()
    }
}

/// A figure of rows, as high as they need, with its title above them; none without a row.
fn forest(mut figure: Figure) -> Option<Figure> {
    let panel = figure.panels.first_mut()?;
    panel.title.clone_from(&figure.title);
    let Scale::Rows(names) = &panel.y.scale else {
        return None;
    };
    let count = u32::try_from(names.len()).ok().filter(|&count| count > 0)?;
    figure.panel.1 = count.saturating_mul(ROW).saturating_add(BESIDES);
    Some(figure)
}

fn interval(estimate: &Estimate) -> Option<(f64, f64)> {
    estimate.interval.as_ref().map(|it| (it.low, it.high))
}

/// Perplexity against memory and against time.
fn costs(tables: &Tables, size: &str) -> Option<Figure> {
    let perplexity = rows(&tables.perplexity, size);
    let throughput = rows(&tables.throughput, size);
    let memory = rows(&tables.memory, size);
    let point = |rows: &[Cells<'_>], column: &str, unit: f64, name: &str, method: &str| {
        let of = |rows: &[Cells<'_>], column: &str| {
            let row = rows.iter().find(|row| row.is("method", method))?;
            let estimate = row.estimate(column, "seeds_complete")?;
            Some((row.bracketed(&estimate), estimate))
        };
        let (said, y) = of(&perplexity, "perplexity")?;
        let x = of(rows, column)?.1.map(|value| value / unit);
        Some(Point {
            x_interval: interval(&x),
            y_interval: interval(&y),
            ..Point::new(
                x.point,
                y.point,
                format!(
                    "{method}: perplexity {said} at {} {name}",
                    significant(x.point)
                ),
            )
        })
    };
    let in_memory = |method: &str| point(&memory, "peak_memory_bytes", MEBIBYTE, "MiB", method);
    let in_time = |method: &str| point(&throughput, "training_seconds", 1.0, "seconds", method);
    let series = tables.legend(|method| in_memory(method).is_some() || in_time(method).is_some());
    let layers = |point: &dyn Fn(&str) -> Option<Point>| -> Vec<Layer> {
        let layers = series.iter().enumerate().filter_map(|(number, entry)| {
            Some(Layer::in_series(
                number,
                Mark::Points(vec![point(&entry.name)?]),
            ))
        });
        layers.collect()
    };
    let panel = |title: &str, label: &str, layers: Vec<Layer>| Panel {
        title: format!("{size}: {title}"),
        x: Axis::linear(label).changeable(),
        y: Axis::linear("perplexity").changeable(),
        layers,
    };
    let mut panels = vec![
        panel(
            "perplexity against memory",
            "peak memory, MiB",
            layers(&in_memory),
        ),
        panel(
            "perplexity against time",
            "training, seconds",
            layers(&in_time),
        ),
    ];
    panels.retain(|panel| !panel.layers.is_empty());
    (!panels.is_empty()).then(|| Figure {
        name: format!("costs-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: perplexity against what it costs"),
        caption: "Perplexity against peak memory and against the seconds of training, a warm start's included; means over seeds, with \
                  their 95% intervals where there are several. What is both lower and further left is better in both."
            .to_owned(),
        tables: &["throughput", "memory", "perplexity"],
        series,
        across: 2,
        panels,
        panel: HALF,
    })
}

/// Classes of the memory plan, with their columns.
const CLASSES: [(&str, &str); 7] = [
    ("process", "planned_process_bytes"),
    ("weights", "planned_weight_bytes"),
    ("gradients", "planned_gradient_bytes"),
    ("moments", "planned_moment_bytes"),
    ("activations", "planned_activation_bytes"),
    ("logits", "planned_logit_bytes"),
    ("workspace", "planned_workspace_bytes"),
];

/// The memory plan by class beside the measured peak.
fn memory(tables: &Tables, size: &str) -> Option<Figure> {
    let rows = rows(&tables.memory, size);
    let rows: Vec<&Cells<'_>> = rows
        .iter()
        .filter(|row| row.number("planned_bytes").is_some())
        .collect();
    let names: Vec<String> = rows
        .iter()
        .map(|row| row.text("method").unwrap_or_default())
        .collect();
    let mut layers = Vec::new();
    let mut ends = vec![0.0; rows.len()];
    for (series, (class, column)) in CLASSES.iter().enumerate() {
        let mut boxes = Vec::new();
        for (at, ((row, name), end)) in rows.iter().zip(&names).zip(&mut ends).enumerate() {
            let size = row.number(column).unwrap_or(0.0) / MEBIBYTE;
            if size > 0.0 {
                boxes.push(Rectangle {
                    x: (*end, *end + size),
                    y: (at as f64 - 0.35, at as f64 + 0.35),
                    says: format!("{name}, {class}: {} MiB planned", significant(size)),
                });
            }
            *end += size;
        }
        layers.push(Layer::in_series(series, Mark::Boxes(boxes)));
    }
    let peaks = rows
        .iter()
        .zip(&names)
        .enumerate()
        .filter_map(|(at, (row, name))| {
            let peak = row.estimate("peak_memory_bytes", "seeds_complete")?;
            let peak = peak.map(|bytes| bytes / MEBIBYTE);
            let said = row.plus_minus(&peak, false);
            Some(Point {
                x_interval: interval(&peak),
                ..Point::new(
                    peak.point,
                    at as f64,
                    format!("{name}: {said} MiB measured"),
                )
            })
        });
    layers.push(Layer::in_series(
        CLASSES.len(),
        Mark::Points(peaks.collect()),
    ));
    let classes = CLASSES.iter().enumerate().map(|(place, (class, _))| Entry {
        name: (*class).to_owned(),
        place,
        manner: Manner::Fill,
    });
    let measured = Entry {
        name: "measured peak".to_owned(),
        place: 0,
        manner: Manner::Curve,
    };
    forest(Figure {
        name: format!("memory-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: memory at the peak"),
        caption: "What the memory plan says of the peak, by class (of the seed with the largest plan), and the mean of the measured \
                  peaks with its 95% interval where there are several seeds. What the process holds without a network is read, not \
                  planned."
            .to_owned(),
        tables: &["memory"],
        series: classes.chain([measured]).collect(),
        panels: vec![Panel {
            title: String::new(),
            x: Axis::linear("MiB"),
            y: Axis::rows(names),
            layers,
        }],
        across: 1,
        panel: WIDE,
    })
}

/// The difference from the reference against size; none where fewer than two sizes have one.
fn gaps(tables: &Tables, sizes: &[String]) -> Option<Figure> {
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    let mut compared = 0;
    for size in sizes {
        let memory = rows(&tables.memory, size);
        let perplexity = rows(&tables.perplexity, size);
        let parameters = reference(&perplexity).and_then(|reference| {
            let row = memory.iter().find(|row| row.is("method", &reference))?;
            row.number("total_parameters")
        });
        let Some(parameters) = parameters else {
            continue;
        };
        let before: usize = points.values().map(Vec::len).sum();
        for row in &perplexity {
            let difference = row.estimate("difference", "difference_pairs");
            if let Some((method, it)) = row.text("method").zip(difference) {
                let says = format!("{method} at {size}: {} nats", row.plus_minus(&it, true));
                points.entry(method).or_default().push(Point {
                    y_interval: interval(&it),
                    ..Point::new(parameters, it.point, says)
                });
            }
        }
        compared += usize::from(points.values().map(Vec::len).sum::<usize>() > before);
    }
    let series = tables.legend(|method| points.contains_key(method));
    let mut layers = vec![Layer::of(Mark::Horizontal(0.0))];
    for (number, entry) in series.iter().enumerate() {
        let points = points.remove(&entry.name).unwrap_or_default();
        // What the points say, they say once.
        let line = points
            .iter()
            .map(|point| Point::new(point.x, point.y, String::new()));
        layers.push(Layer::in_series(number, Mark::Line(line.collect())));
        layers.push(Layer::in_series(number, Mark::Points(points)));
    }
    (compared > 1).then(|| Figure {
        name: "gaps".to_owned(),
        title: "Difference from full rank against size".to_owned(),
        caption: "Validation loss minus that of full rank, paired by seed, with 95% intervals where there are several seeds, against \
                  the parameters of the full-rank network."
            .to_owned(),
        tables: &["perplexity", "memory"],
        series,
        panels: vec![Panel {
            title: "difference from full rank against size".to_owned(),
            x: Axis {
                scale: Scale::Logarithmic,
                ..Axis::linear("parameters")
            },
            y: Axis::linear("nats per token"),
            layers,
        }],
        panel: WIDE,
        ..Figure::default()
    })
}
