//! What is drawn of a suite. Every number comes from a table that stands beside the figures.

use super::{Axis, Figure, Layer, Mark, Panel, Point, Rectangle, Scale};
use crate::frame::Runs;
use crate::render::cells::{
    Cells, MEBIBYTE, bracketed, plus_minus, reference, rows, significant, sizes, thousands,
};
use crate::statistics::Estimate;
use polars::prelude::DataFrame;
use std::collections::BTreeMap;

/// Width and height of a panel that has a row of the page for itself, points.
const WIDE: (u32, u32) = (660, 320);
/// Of one of two side by side.
const HALF: (u32, u32) = (400, 330);
/// Height of a row with a name, and of what a panel of rows has besides, points.
const ROW: u32 = 24;
const BESIDES: u32 = 80;
/// Into how many pieces a curve is averaged: more would show the scatter of batches and not the method.
const PIECES: u64 = 60;

/// Tables that the figures are made of, made once.
struct Tables {
    perplexity: DataFrame,
    effects: DataFrame,
    recovery: DataFrame,
    throughput: DataFrame,
    memory: DataFrame,
    curves: DataFrame,
}

/// All figures of a suite that its runs have the numbers for: those of each size in the order of the sizes, then those over
/// several sizes.
pub(in crate::render) fn figures(runs: &Runs) -> Vec<Figure> {
    let tables = Tables {
        perplexity: runs.perplexity(),
        effects: runs.effects(),
        recovery: runs.recovery(),
        throughput: runs.throughput(),
        memory: runs.memory(),
        curves: runs.curves(),
    };
    let sizes = sizes(&tables.perplexity);
    let mut figures = Vec::new();
    for size in &sizes {
        let of_size = [
            differences(&tables, size),
            curves(&tables, size),
            schedule(&tables, size),
            restarts(&tables, size),
            effects(&tables, size),
            prices(&tables, size),
            memory(&tables, size),
            super::spectra::figure(runs, size),
        ];
        figures.extend(of_size.into_iter().flatten());
    }
    figures.extend(gaps(&tables, &sizes));
    figures
}

/// Names of the methods of a size in the order of its tables, which decides how each of them is drawn in every figure.
fn methods(tables: &Tables, size: &str) -> Vec<String> {
    let rows = rows(&tables.perplexity, size);
    rows.iter().filter_map(|row| row.text("method")).collect()
}

/// The difference of every method from the reference, with its interval.
fn differences(tables: &Tables, size: &str) -> Option<Figure> {
    let rows = rows(&tables.perplexity, size);
    let reference = reference(&rows)?;
    let compared: Vec<(String, Estimate, String)> = rows
        .iter()
        .filter_map(|row| {
            let difference = row.estimate("difference", "difference_pairs")?;
            let verdict = row.text("verdict").unwrap_or_default();
            Some((row.text("method")?, difference, verdict))
        })
        .collect();
    let margin = rows.iter().find_map(|row| row.number("margin"));
    let mut layers = rules(margin);
    let points = compared
        .iter()
        .enumerate()
        .map(|(at, (method, it, verdict))| {
            let says = format!("{method}: {} nats, {verdict}", plus_minus(it, true));
            interval_at(at, it, says)
        });
    layers.push(Layer {
        series: None,
        mark: Mark::Points(points.collect()),
    });
    let names: Vec<String> = compared.into_iter().map(|(method, ..)| method).collect();
    forest(Figure {
        name: format!("differences-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: validation loss minus that of {reference}"),
        caption: format!(
            "Validation loss at the end minus that of `{reference}`, paired by seed, with its 95% interval: left of zero is better. \
             An interval that excludes zero is not yet a verdict, which is over all methods of the table."
        ),
        tables: &["perplexity"],
        series: Vec::new(),
        panels: vec![Panel {
            title: format!("{size}: loss minus that of {reference}"),
            x: Axis::linear("nats per token"),
            y: Axis::rows(names),
            layers,
        }],
        across: 1,
        panel: WIDE,
    })
}

/// Main effects and interactions of the factorial.
fn effects(tables: &Tables, size: &str) -> Option<Figure> {
    let rows = rows(&tables.effects, size);
    let effects: Vec<(String, Estimate, String)> = rows
        .iter()
        .filter_map(|row| {
            let effect = row.estimate("effect", "seeds_complete")?;
            let verdict = row.text("verdict").unwrap_or_default();
            Some((row.text("effect_of")?, effect, verdict))
        })
        .collect();
    let mut layers = rules(None);
    let points = effects.iter().enumerate().map(|(at, (of, it, verdict))| {
        interval_at(
            at,
            it,
            format!("{of}: {} nats, {verdict}", plus_minus(it, true)),
        )
    });
    layers.push(Layer {
        series: None,
        mark: Mark::Points(points.collect()),
    });
    let names: Vec<String> = effects.into_iter().map(|(of, ..)| of).collect();
    forest(Figure {
        name: format!("effects-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: effects of the parts"),
        caption: "What a part does to the validation loss on average over all settings of the others, and what parts do together \
                  beyond that, with 95% intervals: left of zero is better."
            .to_owned(),
        tables: &["effects"],
        series: Vec::new(),
        panels: vec![Panel {
            title: format!("{size}: effect on the validation loss"),
            x: Axis::linear("nats per token"),
            y: Axis::rows(names),
            layers,
        }],
        across: 1,
        panel: WIDE,
    })
}

/// Zero, and the margin within which losses count as equal.
fn rules(margin: Option<f64>) -> Vec<Layer> {
    let margin = margin.into_iter().flat_map(|margin| [-margin, margin]);
    let rule = |at| Layer {
        series: None,
        mark: Mark::Vertical(at),
    };
    margin.chain([0.0]).map(rule).collect()
}

fn interval_at(row: usize, estimate: &Estimate, says: String) -> Point {
    Point {
        x_interval: estimate.interval.as_ref().map(|it| (it.low, it.high)),
        ..Point::new(estimate.point, row as f64, says)
    }
}

/// A figure of rows, as high as they need; none without a row.
fn forest(mut figure: Figure) -> Option<Figure> {
    let Scale::Rows(names) = &figure.panels.first()?.y.scale else {
        return Some(figure);
    };
    let count = u32::try_from(names.len()).ok().filter(|&count| count > 0)?;
    figure.panel.1 = count * ROW + BESIDES;
    Some(figure)
}

/// A value of a run along its training.
struct Logged {
    method: String,
    seed: u64,
    step: u64,
    tokens: f64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
}

/// Rows of the table of curves of one kind, `training` or `validation`.
fn logged(tables: &Tables, size: &str, kind: &str) -> Vec<Logged> {
    let rows = rows(&tables.curves, size);
    let of_kind = rows.iter().filter(|row| row.is("kind", kind));
    let logged = of_kind.filter_map(|row| {
        Some(Logged {
            method: row.text("method")?,
            seed: row.count("seed")?,
            step: row.count("step")?,
            tokens: row.number("tokens_seen")?,
            loss: row.number("loss"),
            learning_rate: row.number("learning_rate"),
        })
    });
    logged.collect()
}

/// Mean loss of each method, seed and piece of the training, with the tokens at its end.
type Pieces = BTreeMap<(String, u64, u64), (f64, f64)>;

fn pieces(logged: &[Logged]) -> Pieces {
    let last = logged.iter().map(|it| it.step).max().unwrap_or(0);
    let length = last.div_ceil(PIECES).max(1);
    let mut sums: BTreeMap<(String, u64, u64), (f64, f64, f64)> = BTreeMap::new();
    for it in logged {
        let Some(loss) = it.loss else { continue };
        let piece = it.step.div_ceil(length);
        let (sum, count, tokens) = sums
            .entry((it.method.clone(), it.seed, piece))
            .or_insert((0.0, 0.0, 0.0));
        *sum += loss;
        *count += 1.0;
        *tokens = tokens.max(it.tokens);
    }
    sums.into_iter()
        .map(|(key, (sum, count, tokens))| (key, (sum / count, tokens)))
        .collect()
}

/// Values of a method over its seeds, by piece: tokens, and a value for each seed.
fn over_seeds(pieces: &Pieces, method: &str) -> BTreeMap<u64, (f64, Vec<f64>)> {
    let mut over: BTreeMap<u64, (f64, Vec<f64>)> = BTreeMap::new();
    for ((of, _, piece), (loss, tokens)) in pieces {
        if of == method {
            let (most, losses) = over.entry(*piece).or_insert((0.0, Vec::new()));
            *most = most.max(*tokens);
            losses.push(*loss);
        }
    }
    over
}

/// The mean over seeds as a line and their span as a band.
fn with_band(series: usize, name: &str, over: &BTreeMap<u64, (f64, Vec<f64>)>) -> Vec<Layer> {
    let span = |values: &[f64]| {
        values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| {
                (low.min(*it), high.max(*it))
            })
    };
    let line = over.values().map(|(tokens, values)| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let (low, high) = span(values);
        let says = format!(
            "{name}: {} at {} tokens; seeds {} to {}",
            significant(mean),
            thousands(&format!("{tokens:.0}")),
            significant(low),
            significant(high)
        );
        Point::new(*tokens, mean, says)
    });
    let band = over.values().map(|(tokens, values)| {
        let (low, high) = span(values);
        (*tokens, low, high)
    });
    let series = Some(series);
    vec![
        Layer {
            series,
            mark: Mark::Band(band.collect()),
        },
        Layer {
            series,
            mark: Mark::Line(line.collect()),
        },
    ]
}

/// Every piece of a method minus that of another one with the same seed.
fn minus(pieces: &Pieces, reference: &str) -> Pieces {
    pieces
        .iter()
        .filter(|((method, ..), _)| method != reference)
        .filter_map(|((method, seed, piece), (loss, tokens))| {
            let (other, _) = pieces.get(&(reference.to_owned(), *seed, *piece))?;
            Some(((method.clone(), *seed, *piece), (loss - other, *tokens)))
        })
        .collect()
}

/// Losses along the training, and the difference from the reference on the same batches.
fn curves(tables: &Tables, size: &str) -> Option<Figure> {
    let methods = methods(tables, size);
    let training = pieces(&logged(tables, size, "training"));
    let validation = pieces(&logged(tables, size, "validation"));
    let layers = |pieces: &Pieces| -> Vec<Layer> {
        methods
            .iter()
            .enumerate()
            .flat_map(|(series, method)| with_band(series, method, &over_seeds(pieces, method)))
            .collect()
    };
    let tokens = || Axis::linear("training tokens").changeable();
    let panel = |title: String, y: Axis, layers: Vec<Layer>| Panel {
        title,
        x: tokens(),
        y,
        layers,
    };
    let nats = || Axis::linear("nats per token");
    let mut panels = vec![panel(
        format!("{size}: training loss"),
        nats().changeable(),
        layers(&training),
    )];
    let rows = rows(&tables.perplexity, size);
    if let Some(reference) = reference(&rows) {
        let mut gaps = vec![Layer {
            series: None,
            mark: Mark::Horizontal(0.0),
        }];
        gaps.extend(layers(&minus(&training, &reference)));
        panels.push(panel(
            format!("{size}: training loss minus that of {reference}, on the same batches"),
            nats(),
            gaps,
        ));
    }
    panels.push(panel(
        format!("{size}: validation loss"),
        nats().changeable(),
        layers(&validation),
    ));
    let is_empty = training.is_empty() && validation.is_empty();
    (!is_empty).then(|| Figure {
        name: format!("curves-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: loss along the training"),
        caption: format!(
            "Lines are means over seeds, each over a {PIECES}th of the training; bands reach from the lowest seed to the highest. \
             All methods see the same batches, so that differences scatter less than the losses themselves."
        ),
        tables: &["curves"],
        series: methods,
        panels,
        across: 1,
        panel: WIDE,
    })
}

/// The learning rate as it was, of the first seed.
fn schedule(tables: &Tables, size: &str) -> Option<Figure> {
    let methods = methods(tables, size);
    let logged = logged(tables, size, "training");
    let layers: Vec<Layer> = methods
        .iter()
        .enumerate()
        .filter_map(|(series, method)| {
            let of_method = || logged.iter().filter(|it| it.method == *method);
            let seed = of_method().map(|it| it.seed).min()?;
            let points = of_method().filter(|it| it.seed == seed).filter_map(|it| {
                let rate = it.learning_rate?;
                let says = format!("{method}: {} at update {}", significant_rate(rate), it.step);
                Some(Point::new(it.step as f64, rate, says))
            });
            Some(Layer {
                series: Some(series),
                mark: Mark::Line(thinned(points.collect())),
            })
        })
        .collect();
    (!layers.is_empty()).then(|| Figure {
        name: format!("schedule-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: learning rate as it was"),
        caption: "Learning rate of each logged update, as the optimizer had it (the first seed of each method).".to_owned(),
        tables: &["curves"],
        series: methods,
        panels: vec![Panel {
            title: format!("{size}: learning rate"),
            x: Axis::linear("update"),
            y: Axis::linear("learning rate").changeable(),
            layers,
        }],
        across: 1,
        panel: WIDE,
    })
}

fn significant_rate(rate: f64) -> String {
    format!("{rate:.3e}")
}

/// Most points of a line that hold something; more could not be told apart.
const MOST: usize = 300;

/// A line with at most so many points, its lowest and highest kept where it has more.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    let piece = (2 * points.len()).div_ceil(MOST);
    if piece <= 2 {
        return points;
    }
    let ends = points.chunks(piece).flat_map(|piece| {
        let by = |left: &&Point, right: &&Point| left.y.total_cmp(&right.y);
        let lowest = piece.iter().min_by(by);
        let highest = piece.iter().max_by(by);
        let mut ends: Vec<Point> = lowest.into_iter().chain(highest).cloned().collect();
        ends.sort_by(|left, right| left.x.total_cmp(&right.x));
        ends.dedup();
        ends
    });
    ends.collect()
}

/// The loss around restarts, all restarts of a method and all its seeds laid over one another.
fn restarts(tables: &Tables, size: &str) -> Option<Figure> {
    let methods = methods(tables, size);
    let recovery = rows(&tables.recovery, size);
    let logged = logged(tables, size, "training");
    let mut losses: BTreeMap<(&str, u64), Vec<(u64, f64)>> = BTreeMap::new();
    for it in &logged {
        if let Some(loss) = it.loss {
            let of_run = losses.entry((it.method.as_str(), it.seed)).or_default();
            of_run.push((it.step, loss));
        }
    }
    // By method and steps from the restart: sum and number of the losses minus those of before.
    let mut around: BTreeMap<(String, i64), (f64, u32)> = BTreeMap::new();
    for row in &recovery {
        let of_row = || {
            Some((
                row.text("method")?,
                row.count("seed")?,
                row.count("step")?,
                row.count("window_steps")?,
                row.number("loss_before")?,
            ))
        };
        let Some((method, seed, step, window, before)) = of_row() else {
            continue;
        };
        for (at, loss) in losses.get(&(method.as_str(), seed)).into_iter().flatten() {
            if at.abs_diff(step) <= 2 * window {
                let from = *at as i64 - step as i64;
                let (sum, count) = around.entry((method.clone(), from)).or_insert((0.0, 0));
                *sum += loss - before;
                *count += 1;
            }
        }
    }
    let layers: Vec<Layer> = methods
        .iter()
        .enumerate()
        .filter_map(|(series, method)| {
            let points = around.iter().filter(|((of, _), _)| of == method).map(
                |((_, from), (sum, count))| {
                    let rise = sum / f64::from(*count);
                    let says = format!("{method}: {rise:+.3} nats {from:+} updates from a restart (mean of {count})");
                    Point::new(*from as f64, rise, says)
                },
            );
            let points: Vec<Point> = points.collect();
            (!points.is_empty()).then_some(Layer {
                series: Some(series),
                mark: Mark::Line(points),
            })
        })
        .collect();
    if layers.is_empty() {
        return None;
    }
    let mut all = vec![
        Layer {
            series: None,
            mark: Mark::Vertical(0.0),
        },
        Layer {
            series: None,
            mark: Mark::Horizontal(0.0),
        },
    ];
    all.extend(layers);
    Some(Figure {
        name: format!("restarts-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: restarts under a magnifier"),
        caption: "Training loss minus its mean in the window before a restart, averaged over restarts and seeds. Methods without \
                  restarts are shown at the same updates: what they do there is the scatter of the batches."
            .to_owned(),
        tables: &["recovery", "curves"],
        series: methods,
        panels: vec![Panel {
            title: format!("{size}: loss around a restart"),
            x: Axis::linear("updates from the restart"),
            y: Axis::linear("nats above before"),
            layers: all,
        }],
        across: 1,
        panel: WIDE,
    })
}

/// Perplexity against memory and against time.
fn prices(tables: &Tables, size: &str) -> Option<Figure> {
    let methods = methods(tables, size);
    let perplexity = rows(&tables.perplexity, size);
    let throughput = rows(&tables.throughput, size);
    let memory = rows(&tables.memory, size);
    let against = |rows: &[Cells<'_>], column: &str, unit: f64, name: &str| -> Vec<Layer> {
        let layers = methods.iter().enumerate().filter_map(|(series, method)| {
            let of = |rows: &[Cells<'_>], column: &str| -> Option<Estimate> {
                let row = rows.iter().find(|row| row.is("method", method))?;
                row.estimate(column, "seeds_complete")
            };
            let y = of(&perplexity, "perplexity")?;
            let x = of(rows, column)?.point / unit;
            let says = format!(
                "{method}: perplexity {} at {} {name}",
                bracketed(&y),
                significant(x)
            );
            Some(Layer {
                series: Some(series),
                mark: Mark::Points(vec![Point {
                    y_interval: y.interval.map(|it| (it.low, it.high)),
                    ..Point::new(x, y.point, says)
                }]),
            })
        });
        layers.collect()
    };
    let panel = |title: &str, label: &str, layers: Vec<Layer>| Panel {
        title: format!("{size}: {title}"),
        x: Axis::linear(label).changeable(),
        y: Axis::linear("perplexity").changeable(),
        layers,
    };
    let panels = [
        panel(
            "against memory",
            "peak memory, MiB",
            against(&memory, "peak_memory_bytes", MEBIBYTE, "MiB"),
        ),
        panel(
            "against time",
            "training, seconds",
            against(&throughput, "training_seconds", 1.0, "seconds"),
        ),
    ];
    let panels: Vec<Panel> = panels
        .into_iter()
        .filter(|panel| !panel.layers.is_empty())
        .collect();
    (!panels.is_empty()).then(|| Figure {
        name: format!("prices-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: perplexity against what it costs"),
        caption: "Perplexity with its 95% interval against peak memory and against the seconds of training, a warm start's included. \
                  No method to the lower left of another is worse than it in either."
            .to_owned(),
        tables: &["perplexity", "memory", "throughput"],
        series: methods,
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
    let names: Vec<String> = rows.iter().filter_map(|row| row.text("method")).collect();
    let mut layers = Vec::new();
    let mut ends = vec![0.0; rows.len()];
    for (series, (class, column)) in CLASSES.iter().enumerate() {
        let mut boxes = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let bytes = row.number(column).unwrap_or(0.0) / MEBIBYTE;
            let (from, to) = (ends[at], ends[at] + bytes);
            if bytes > 0.0 {
                boxes.push(Rectangle {
                    x: (from, to),
                    y: (at as f64 - 0.35, at as f64 + 0.35),
                    says: format!("{}, {class}: {} MiB planned", names[at], significant(bytes)),
                });
            }
            ends[at] = to;
        }
        layers.push(Layer {
            series: Some(series),
            mark: Mark::Boxes(boxes),
        });
    }
    let peaks = rows.iter().enumerate().filter_map(|(at, row)| {
        let peak = row.number("peak_memory_bytes")? / MEBIBYTE;
        let says = format!("{}: {} MiB measured", names[at], significant(peak));
        Some(Point::new(peak, at as f64, says))
    });
    layers.push(Layer {
        series: Some(CLASSES.len()),
        mark: Mark::Points(peaks.collect()),
    });
    let mut series: Vec<String> = CLASSES
        .iter()
        .map(|(class, _)| (*class).to_owned())
        .collect();
    series.push("measured peak".to_owned());
    forest(Figure {
        name: format!("memory-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: memory by class"),
        caption: "What the memory plan says of the peak, by class, and the peak that was measured. What the process holds without a \
                  network is read, not planned."
            .to_owned(),
        tables: &["memory"],
        series,
        panels: vec![Panel {
            title: format!("{size}: memory at the peak"),
            x: Axis::linear("MiB"),
            y: Axis::rows(names),
            layers,
        }],
        across: 1,
        panel: WIDE,
    })
}

/// The difference from the reference against size; none of fewer than two sizes.
fn gaps(tables: &Tables, sizes: &[String]) -> Option<Figure> {
    let mut series: Vec<String> = Vec::new();
    let mut points: BTreeMap<usize, Vec<Point>> = BTreeMap::new();
    let mut compared = 0;
    for size in sizes {
        let memory = rows(&tables.memory, size);
        let perplexity = rows(&tables.perplexity, size);
        let Some(reference) = reference(&perplexity) else {
            continue;
        };
        let parameters = memory
            .iter()
            .find(|row| row.is("method", &reference))
            .and_then(|row| row.number("total_parameters"));
        let Some(parameters) = parameters else {
            continue;
        };
        compared += 1;
        for row in &perplexity {
            let Some(method) = row.text("method") else {
                continue;
            };
            if !series.contains(&method) {
                series.push(method.clone());
            }
            let place = series.iter().position(|name| *name == method);
            let difference = row.estimate("difference", "difference_pairs");
            if let Some((place, difference)) = place.zip(difference) {
                let says = format!("{method} at {size}: {} nats", plus_minus(&difference, true));
                points.entry(place).or_default().push(Point {
                    y_interval: difference.interval.map(|it| (it.low, it.high)),
                    ..Point::new(parameters, difference.point, says)
                });
            }
        }
    }
    let mut layers = vec![Layer {
        series: None,
        mark: Mark::Horizontal(0.0),
    }];
    for (place, points) in points {
        let series = Some(place);
        layers.push(Layer {
            series,
            mark: Mark::Line(points.clone()),
        });
        layers.push(Layer {
            series,
            mark: Mark::Points(points),
        });
    }
    (compared > 1).then(|| Figure {
        name: "gaps".to_owned(),
        size: None,
        title: "Difference from full rank against size".to_owned(),
        caption: "Validation loss minus that of full rank, paired by seed, with 95% intervals, against the parameters of the \
                  full-rank network."
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
        across: 1,
        panel: WIDE,
    })
}
