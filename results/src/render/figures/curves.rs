//! Figures along the training: losses, the learning rate, and what happens around restarts.

use super::suite::{Tables, WIDE};
use super::{Axis, Entry, Figure, Layer, Mark, Panel, Point};
use crate::frame::{Run, Runs};
use crate::record::{Record, Status, StepRecord};
use crate::render::cells::{reference, rows, significant, thousands};
use std::collections::BTreeMap;

/// Into how many pieces a training is averaged, at most: more would show the scatter of batches and not the method.
const PIECES: u64 = 60;

/// A curve of a run: place on the axis and value, by piece of the training, by the step of an evaluation, or by the distance from a
/// restart.
type Curve = BTreeMap<i64, (f64, f64)>;

/// Runs of a size that are drawn, by method.
struct OfSize<'a> {
    runs: Vec<&'a Run>,
    /// Update steps of a piece.
    length: u64,
    /// The last logged step of any run.
    last: u64,
}

impl<'a> OfSize<'a> {
    fn new(runs: &'a Runs, size: &str) -> OfSize<'a> {
        let runs: Vec<&Run> = runs.iter().filter(|run| run.row.size == size).collect();
        let last = runs.iter().flat_map(|run| steps(run)).map(|step| step.step);
        let last = last.max().unwrap_or(0);
        OfSize {
            runs,
            length: last.div_ceil(PIECES).max(1),
            last,
        }
    }

    fn of_method(&self, method: &str) -> impl Iterator<Item = &'a Run> {
        self.runs
            .iter()
            .copied()
            .filter(move |run| run.row.method == method)
    }

    /// The runs whose mean is drawn: the complete ones, or while there are none those that have not diverged.
    fn averaged(&self, method: &str) -> Vec<&'a Run> {
        let complete: Vec<&Run> = self
            .of_method(method)
            .filter(|run| run.complete().is_some())
            .collect();
        if complete.is_empty() {
            let others = self.of_method(method);
            return others
                .filter(|run| run.status != Status::Diverged && !run.records.is_empty())
                .collect();
        }
        complete
    }

    fn diverged(&self, method: &str) -> impl Iterator<Item = &'a Run> {
        self.of_method(method)
            .filter(|run| run.status == Status::Diverged)
    }

    fn seed(&self, method: &str, seed: u64) -> Option<&'a Run> {
        self.of_method(method).find(|run| run.row.seed == seed)
    }

    /// Means over the pieces of the training that have been logged to their end. `value` of a step, or nothing where one of a
    /// piece has none: half a piece is no mean of a piece.
    fn pieces(&self, run: &Run, value: impl Fn(&StepRecord) -> Option<f64>) -> Curve {
        let logged = steps(run).map(|step| step.step).max().unwrap_or(0);
        let mut sums: BTreeMap<u64, Option<(f64, f64, f64)>> = BTreeMap::new();
        for step in steps(run) {
            let piece = step.step.div_ceil(self.length);
            if (piece * self.length).min(self.last) > logged {
                continue;
            }
            let sum = sums.entry(piece).or_insert(Some((0.0, 0.0, 0.0)));
            *sum = sum.zip(value(step)).map(|((tokens, sum, count), value)| {
                (tokens + step.tokens_seen as f64, sum + value, count + 1.0)
            });
        }
        let means = sums.into_iter().filter_map(|(piece, sum)| {
            let (tokens, sum, count) = sum?;
            Some((piece as i64, (tokens / count, sum / count)))
        });
        means.collect()
    }

    /// Pieces of the training loss minus that of the reference at the same steps with the same seed.
    fn gap(&self, run: &Run, reference: &str) -> Curve {
        let Some(reference) = self.seed(reference, run.row.seed) else {
            return Curve::new();
        };
        let losses: BTreeMap<u64, Option<f64>> = steps(reference)
            .map(|step| (step.step, step.loss))
            .collect();
        self.pieces(run, |step| {
            Some(step.loss? - losses.get(&step.step).copied().flatten()?)
        })
    }
}

fn steps(run: &Run) -> impl Iterator<Item = &StepRecord> {
    run.records.iter().filter_map(|record| match record {
        Record::Step(step) => Some(step),
        _ => None,
    })
}

fn evaluations(run: &Run) -> Curve {
    let evaluations = run.records.iter().filter_map(|record| match record {
        Record::Evaluation(it) => {
            Some((it.step as i64, (it.tokens_seen as f64, it.validation_loss?)))
        }
        _ => None,
    });
    evaluations.collect()
}

/// Where all curves have a value: the place, and their mean, lowest and highest there.
fn together(curves: &[Curve]) -> Vec<(f64, [f64; 3])> {
    let Some((first, others)) = curves.split_first() else {
        return Vec::new();
    };
    let of_all = first.iter().filter_map(|(at, (tokens, value))| {
        let others: Option<Vec<f64>> = others
            .iter()
            .map(|curve| curve.get(at).map(|(_, value)| *value))
            .collect();
        let values: Vec<f64> = others?.into_iter().chain([*value]).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some((*tokens, [mean, low, high]))
    });
    of_all.collect()
}

/// The curves of each series as a line with a band over its seeds; all bands first, so that none covers a line. `says` of a
/// place and what stands there.
fn with_bands(
    series: &[Entry],
    curves: impl Fn(&str) -> Vec<Curve>,
    says: impl Fn(f64, String) -> String,
) -> Vec<Layer> {
    let (mut bands, mut lines) = (Vec::new(), Vec::new());
    for (number, entry) in series.iter().enumerate() {
        let curves = curves(&entry.name);
        let values = together(&curves);
        if curves.len() > 1 {
            let band = values.iter().map(|(at, [_, low, high])| (*at, *low, *high));
            bands.push(Layer::in_series(number, Mark::Band(band.collect())));
        }
        let line = values.iter().map(|(at, [mean, low, high])| {
            let seeds = match curves.len() {
                1 => "one seed".to_owned(),
                count => format!(
                    "{count} seeds, {} to {}",
                    significant(*low),
                    significant(*high)
                ),
            };
            let value = format!("{}: {} ({seeds})", entry.name, significant(*mean));
            Point::new(*at, *mean, says(*at, value))
        });
        let line: Vec<Point> = line.collect();
        if !line.is_empty() {
            lines.push(Layer::in_series(number, Mark::Line(line)));
        }
    }
    bands.into_iter().chain(lines).collect()
}

/// Each diverged run as a line of its own, which the axes need not reach.
fn diverged(series: &[Entry], of_size: &OfSize<'_>, curve: impl Fn(&Run) -> Curve) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (number, entry) in series.iter().enumerate() {
        for run in of_size.diverged(&entry.name) {
            let step = run
                .result
                .as_ref()
                .and_then(|result| result.diverged_at_step);
            let step = step.map_or(String::new(), |step| format!(" at update {step}"));
            let says = format!("{}, seed {}: diverged{step}", entry.name, run.row.seed);
            let points = curve(run)
                .into_values()
                .map(|(tokens, value)| Point::new(tokens, value, says.clone()));
            layers.push(Layer {
                is_beyond: true,
                ..Layer::in_series(number, Mark::Line(points.collect()))
            });
        }
    }
    layers
}

/// Losses along the training, and the difference from the reference on the same batches.
pub(super) fn curves(runs: &Runs, tables: &Tables, size: &str) -> Option<Figure> {
    let of_size = OfSize::new(runs, size);
    let series =
        tables.legend(|method| of_size.of_method(method).any(|run| !run.records.is_empty()));
    let training = |run: &Run| of_size.pieces(run, |step| step.loss);
    let layers = |curve: &dyn Fn(&Run) -> Curve, has: &dyn Fn(&str) -> bool| -> Vec<Layer> {
        let averaged = |method: &str| -> Vec<Curve> {
            let runs = of_size.averaged(method).into_iter().filter(|_| has(method));
            runs.map(curve).filter(|curve| !curve.is_empty()).collect()
        };
        let says = |tokens: f64, value: String| {
            format!(
                "{value} after {} tokens",
                thousands(&format!("{tokens:.0}"))
            )
        };
        let mut layers = with_bands(&series, averaged, says);
        layers.extend(diverged(&series, &of_size, curve));
        layers
    };
    let panel = |title: String, y: Axis, layers: Vec<Layer>| Panel {
        title: format!("{size}: {title}"),
        x: Axis::linear("training tokens").changeable(),
        y,
        layers,
    };
    let nats = || Axis::linear("nats per token");
    let all = |_: &str| true;
    let mut panels = vec![panel(
        "training loss".to_owned(),
        nats().changeable(),
        layers(&training, &all),
    )];
    if let Some(reference) = reference(&rows(&tables.perplexity, size)) {
        let gap = |run: &Run| of_size.gap(run, &reference);
        let mut gaps = layers(&gap, &|method| method != reference);
        if !gaps.is_empty() {
            gaps.insert(0, Layer::of(Mark::Horizontal(0.0)));
        }
        let title = format!("training loss minus that of {reference}, on the same batches");
        panels.push(panel(title, nats(), gaps));
    }
    panels.push(panel(
        "validation loss".to_owned(),
        nats().changeable(),
        layers(&evaluations, &all),
    ));
    panels.retain(|panel| panel.layers.iter().any(|layer| layer.series.is_some()));
    (!panels.is_empty()).then(|| Figure {
        name: format!("curves-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: loss along the training"),
        caption: format!(
            "Means over the complete seeds (while there are none, over those under way); bands reach from the lowest seed to the \
             highest. Training losses are those of the logged updates, averaged over pieces of {} updates; validation losses stand \
             where they were taken. All methods see the same batches, so that differences scatter less than the losses themselves. A \
             run that diverged has a line of its own, as far as the axes reach.",
            thousands(&of_size.length.to_string())
        ),
        tables: &["curves"],
        series,
        panels,
        panel: WIDE,
        ..Figure::default()
    })
}

/// The learning rate as it was, of the first seed that has begun.
pub(super) fn schedule(runs: &Runs, tables: &Tables, size: &str) -> Option<Figure> {
    let of_size = OfSize::new(runs, size);
    let has_begun = |run: &&Run| steps(run).next().is_some();
    let series = tables.legend(|method| of_size.of_method(method).any(|run| has_begun(&run)));
    let layers = series.iter().enumerate().filter_map(|(number, entry)| {
        let run = of_size.of_method(&entry.name).find(has_begun)?;
        let points = steps(run).map(|step| {
            let says = format!(
                "{}: {:.3e} at update {}",
                entry.name, step.learning_rate, step.step
            );
            Point::new(step.step as f64, step.learning_rate, says)
        });
        let points = thinned(points.collect());
        Some(Layer::in_series(number, Mark::Line(points)))
    });
    let layers: Vec<Layer> = layers.collect();
    (!layers.is_empty()).then(|| Figure {
        name: format!("schedule-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: learning rate as it was"),
        caption: format!(
            "Learning rate of the logged updates, as the optimizer had it, of the first seed of each method; of more than {MOST} of \
             them the lowest and the highest of each stretch."
        ),
        tables: &["curves"],
        series,
        panels: vec![Panel {
            title: format!("{size}: learning rate"),
            x: Axis::linear("update"),
            y: Axis::linear("learning rate").changeable(),
            layers,
        }],
        panel: WIDE,
        ..Figure::default()
    })
}

/// Most points of a line that hold something; more could not be told apart.
const MOST: usize = 300;

/// A line with at most so many points: where it has more, the lowest and the highest of each stretch, and its ends.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    if points.len() <= MOST {
        return points;
    }
    let stretch = (2 * points.len()).div_ceil(MOST);
    let mut kept: Vec<Point> = points
        .chunks(stretch)
        .flat_map(|stretch| {
            let by = |left: &&Point, right: &&Point| left.y.total_cmp(&right.y);
            let ends = [stretch.iter().min_by(by), stretch.iter().max_by(by)];
            ends.into_iter().flatten().cloned()
        })
        .chain([points[0].clone(), points[points.len() - 1].clone()])
        .collect();
    kept.sort_by(|left, right| left.x.total_cmp(&right.x));
    kept.dedup();
    kept
}

/// A step that is looked at: the step, the updates of a window and the mean loss in the window before it.
type Restart = (u64, u64, f64);

/// The loss around restarts: of each seed all its restarts laid over one another, and the seeds with a band.
pub(super) fn restarts(runs: &Runs, tables: &Tables, size: &str) -> Option<Figure> {
    let of_size = OfSize::new(runs, size);
    // By method and seed.
    let mut looked_at: BTreeMap<(String, u64), Vec<Restart>> = BTreeMap::new();
    for row in rows(&tables.recovery, size) {
        let of_row = || {
            let key = (row.text("method")?, row.count("seed")?);
            let around = (
                row.count("step")?,
                row.count("window_steps")?,
                row.number("loss_before")?,
            );
            Some((key, around))
        };
        if let Some((key, around)) = of_row() {
            looked_at.entry(key).or_default().push(around);
        }
    }
    let curve = |run: &Run| -> Curve {
        let key = (run.row.method.clone(), run.row.seed);
        looked_at
            .get(&key)
            .map_or(Curve::new(), |at| around(run, at))
    };
    let curves = |method: &str| -> Vec<Curve> {
        let curves = of_size.averaged(method).into_iter().map(curve);
        curves.filter(|curve| !curve.is_empty()).collect()
    };
    let series = tables.legend(|method| !curves(method).is_empty());
    if series.is_empty() {
        return None;
    }
    let says = |from: f64, value: String| format!("{value} {from:+} updates from a restart");
    let mut layers = vec![
        Layer::of(Mark::Vertical {
            at: 0.0,
            broken: false,
        }),
        Layer::of(Mark::Horizontal(0.0)),
    ];
    layers.extend(with_bands(&series, curves, says));
    Some(Figure {
        name: format!("restarts-{size}"),
        size: Some(size.to_owned()),
        title: format!("{size}: restarts under a magnifier"),
        caption: "Training loss minus its mean in the window before a restart, averaged over the restarts of a seed; means over seeds, \
                  and bands from the lowest to the highest. Methods without restarts, resets and drops of the rate are shown at the \
                  same updates: what they do there is the scatter of the batches."
            .to_owned(),
        tables: &["recovery", "curves"],
        series,
        panels: vec![Panel {
            title: format!("{size}: loss around a restart"),
            x: Axis::linear("updates from the restart"),
            y: Axis::linear("nats above before"),
            layers,
        }],
        panel: WIDE,
        ..Figure::default()
    })
}

/// The loss of a run around some of its steps: from a window before to two behind, by
/// distance. Distances are rounded to how far apart updates are logged, or each would stand on other restarts than its neighbour.
fn around(run: &Run, looked_at: &[Restart]) -> Curve {
    let apart = steps(run)
        .zip(steps(run).skip(1))
        .map(|(step, next)| next.step.saturating_sub(step.step))
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let mut sums: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for &(at, window, before) in looked_at {
        for step in steps(run) {
            let near = step.step + window >= at && step.step <= at + 2 * window;
            if let Some(loss) = step.loss.filter(|_| near) {
                let from = step.step as f64 - at as f64;
                let (sum, count) = sums.entry((from / apart).round() as i64).or_default();
                *sum += loss - before;
                *count += 1.0;
            }
        }
    }
    let means = sums
        .into_iter()
        .map(|(from, (sum, count))| (from, (from as f64 * apart, sum / count)));
    means.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Means by hand: of (1, 3), (2, 6) where both have a value.
    #[test]
    fn a_mean_is_drawn_where_every_seed_has_a_value() {
        let curve = |values: &[(i64, f64)]| -> Curve {
            values
                .iter()
                .map(|&(at, value)| (at, (at as f64 * 10.0, value)))
                .collect()
        };
        let curves = [
            curve(&[(1, 1.0), (2, 2.0), (3, 9.0)]),
            curve(&[(1, 3.0), (2, 6.0)]),
        ];
        assert_eq!(
            together(&curves),
            [(10.0, [2.0, 1.0, 3.0]), (20.0, [4.0, 2.0, 6.0])]
        );
    }

    #[test]
    fn a_long_line_keeps_its_teeth_and_its_ends() {
        let point = |x: usize| {
            let y = if x == 5000 { 0.0 } else { x as f64 };
            Point::new(x as f64, y + 1.0, String::new())
        };
        let line: Vec<Point> = (0..10_000).map(point).collect();
        let kept = thinned(line.clone());
        assert!(kept.len() <= MOST + 2, "{}", kept.len());
        assert!(kept.contains(&point(5000)));
        assert_eq!(kept.first(), line.first());
        assert_eq!(kept.last(), line.last());
    }
}
