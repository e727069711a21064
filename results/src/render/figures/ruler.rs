//! Axes: where a value comes to stand, which values are marked, and how they are written.

use super::{Axis, Mark, Panel, Scale};
use crate::render::cells::thousands;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// An axis with its ends and the values that are marked on it.
#[derive(Clone, Debug)]
pub(super) struct Ruler {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    marks: Vec<(f64, String)>,
}

impl Ruler {
    /// Both axes of a panel, with room for so many marks.
    pub(super) fn of(panel: &Panel, (across, along): (usize, usize)) -> (Ruler, Ruler) {
        let (xs, ys) = values(panel);
        (
            Ruler::along(&panel.x, &xs, across),
            Ruler::along(&panel.y, &ys, along),
        )
    }

    fn along(axis: &Axis, values: &[f64], most: usize) -> Ruler {
        let is_logarithmic = axis.scale == Scale::Logarithmic;
        if let Scale::Rows(names) = &axis.scale {
            let marks = names.iter().enumerate();
            return Ruler {
                // The first row is at the top.
                low: names.len() as f64 - 0.5,
                high: -0.5,
                is_logarithmic,
                marks: marks
                    .map(|(row, name)| (row as f64, name.clone()))
                    .collect(),
            };
        }
        let seen = values
            .iter()
            .copied()
            .filter(|value| value.is_finite() && (!is_logarithmic || *value > 0.0));
        let (low, high) = seen.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = match axis.limits {
            Some((low, high)) if !is_logarithmic => (low, high),
            _ if low > high => (1.0, 10.0),
            _ if is_logarithmic => {
                let room = (high / low).powf(0.04).max(1.02);
                (low / room, high * room)
            }
            _ => {
                let room = match (high - low) * 0.04 {
                    none if none <= 0.0 => high.abs().max(1.0) * 0.1,
                    room => room,
                };
                (low - room, high + room)
            }
        };
        let most = most.max(2);
        let powers = is_logarithmic.then(|| decades(low, high, most));
        let marks = match powers {
            // Less than a decade has hardly a power of ten in it.
            Some(powers) if powers.len() > 2 => powers
                .into_iter()
                .map(|value| (value, short(value)))
                .collect(),
            _ => labelled(&round_values(low, high, most)),
        };
        Ruler {
            low,
            high,
            is_logarithmic,
            marks,
        }
    }

    /// Where it begins and where it ends; rows begin with the last.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Whether a value has a place on it.
    pub(super) fn holds(&self, value: f64) -> bool {
        let (low, high) = (self.low.min(self.high), self.low.max(self.high));
        value.is_finite() && value >= low && value <= high
    }

    /// Letters of the longest mark.
    pub(super) fn letters(&self) -> usize {
        let letters = self.marks.iter().map(|(_, text)| text.chars().count());
        letters.max().unwrap_or(0)
    }

    /// How many marks there are.
    pub(super) fn count(&self) -> usize {
        self.marks.len()
    }
}

/// All values of x and of y that a panel must have room for.
fn values(panel: &Panel) -> (Vec<f64>, Vec<f64>) {
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for layer in panel.layers.iter().filter(|layer| !layer.is_beyond) {
        match &layer.mark {
            Mark::Line(points) | Mark::Points(points) => {
                for point in points {
                    xs.push(point.x);
                    ys.push(point.y);
                    xs.extend(
                        point
                            .x_interval
                            .iter()
                            .flat_map(|(low, high)| [*low, *high]),
                    );
                    ys.extend(
                        point
                            .y_interval
                            .iter()
                            .flat_map(|(low, high)| [*low, *high]),
                    );
                }
            }
            Mark::Band(band) => {
                for (x, low, high) in band {
                    xs.push(*x);
                    ys.extend([*low, *high]);
                }
            }
            Mark::Boxes(boxes) => {
                for it in boxes {
                    xs.extend([it.x.0, it.x.1]);
                    ys.extend([it.y.0, it.y.1]);
                }
            }
            Mark::Vertical { at, .. } => xs.push(*at),
            Mark::Horizontal(at) => ys.push(*at),
        }
    }
    (xs, ys)
}

/// Multiples of 1, 2 or 5 times a power of ten, at most so many.
fn round_values(low: f64, high: f64, most: usize) -> Vec<f64> {
    let width = (high - low) / most.max(2) as f64;
    let power = 10_f64.powf(width.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= width)
        .unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|times| times as f64 * step).collect()
}

/// Powers of ten with their doubles and fives where there is room.
fn decades(low: f64, high: f64, most: usize) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let with = |times: &[f64]| -> Vec<f64> {
        powers
            .clone()
            .flat_map(|power| times.iter().map(move |times| times * 10_f64.powi(power)))
            .filter(|value| (low..=high).contains(value))
            .collect()
    };
    let all = with(&[1.0, 2.0, 5.0]);
    if all.len() <= most {
        return all;
    }
    with(&[1.0])
}

impl Ranged for Ruler {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = if self.is_logarithmic {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        // A value far outside has its place far outside, but not where a drawing library would overflow.
        let share = if share.is_finite() {
            share.clamp(-1.0, 2.0)
        } else {
            -1.0
        };
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format_ext(&self, value: &f64) -> String {
        let near = self
            .marks
            .iter()
            .min_by(|(left, _), (right, _)| (left - value).abs().total_cmp(&(right - value).abs()));
        near.map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

/// Values at equal distances with one unit, and the decimals that tell them apart: `0.90`, `0.95`, `1.00`; `39.5K`, `40.0K`.
fn labelled(values: &[f64]) -> Vec<(f64, String)> {
    let largest = values
        .iter()
        .fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let step = values
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(largest, f64::min);
    let (unit, name) = match largest {
        largest if largest >= 1e9 => (1e9, "B".to_owned()),
        largest if largest >= 1e6 => (1e6, "M".to_owned()),
        largest if largest >= 1e4 => (1e3, "K".to_owned()),
        largest if largest > 0.0 && largest < 1e-3 => {
            let power = largest.log10().floor();
            (10_f64.powf(power), format!("e{power}"))
        }
        _ => (1.0, String::new()),
    };
    // A step of 0.25 needs its second decimal; rounding must not ask for one more.
    let decimals = (0..8)
        .find(|decimals| {
            let scaled = step / unit * 10_f64.powi(*decimals);
            (scaled - scaled.round()).abs() < 1e-6 && scaled.round() >= 1.0
        })
        .unwrap_or(8);
    let label = |value: f64| {
        // What is left of a sum that should be nothing.
        if value.abs() < step * 1e-6 {
            return "0".to_owned();
        }
        let text = format!("{:.*}", decimals as usize, value / unit);
        thousands(&text) + &name
    };
    values.iter().map(|value| (*value, label(*value))).collect()
}

/// A number by itself: `0.05`, `1,200`, `2.5M`, `8e-4`.
fn short(value: f64) -> String {
    let size = value.abs();
    let trimmed = |value: f64, decimals: usize| {
        let text = format!("{value:.decimals$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    };
    match size {
        // What is left of a sum that should be nothing.
        size if size < 1e-12 => "0".to_owned(),
        size if size < 1e-3 => {
            let text = format!("{value:.2e}");
            let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
            let digits = digits.trim_end_matches('0').trim_end_matches('.');
            format!("{digits}e{power}")
        }
        size if size < 1e4 => thousands(&trimmed(value, 4)),
        size if size < 1e6 => trimmed(value / 1e3, 2) + "K",
        size if size < 1e9 => trimmed(value / 1e6, 2) + "M",
        size if size < 1e12 => trimmed(value / 1e9, 2) + "B",
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_marked_at_round_values_inside_its_ends() {
        let linear = round_values(3.87, 8.1, 6);
        assert_eq!(linear, [4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(round_values(-0.021, 0.049, 5), [-0.02, 0.0, 0.02, 0.04]);
        assert_eq!(decades(3e-5, 2e-3, 9), [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3]);
        assert_eq!(decades(0.5, 2e6, 7), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
    }

    #[test]
    fn numbers_by_themselves_are_short() {
        assert_eq!(
            [0.05, 1200.0, 2_500_000.0, 8e-4, 0.0, -0.02, 40_000.0].map(short),
            ["0.05", "1,200", "2.5M", "8e-4", "0", "-0.02", "40K"]
        );
    }

    #[test]
    fn marks_of_an_axis_have_one_unit_and_can_be_told_apart() {
        let labels = |values: &[f64]| -> Vec<String> {
            labelled(values).into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(labels(&[0.0, 5_000.0, 10_000.0]), ["0", "5K", "10K"]);
        assert_eq!(labels(&[40_000.0, 40_005.0]), ["40.000K", "40.005K"]);
        assert_eq!(
            labels(&[9.5e-4, 1e-3, 1.05e-3]),
            ["0.00095", "0.00100", "0.00105"]
        );
        assert_eq!(labels(&[2e-4, 4e-4]), ["2e-4", "4e-4"]);
        assert_eq!(labels(&[-0.1, 0.0, 0.1]), ["-0.1", "0", "0.1"]);
        assert_eq!(labels(&[5.75, 6.0, 6.25]), ["5.75", "6.00", "6.25"]);
    }

    /// Places by hand: 10 is one of the two decades from 1 to 100.
    #[test]
    fn a_logarithmic_axis_gives_each_decade_the_same_room() {
        let ruler = Ruler {
            low: 1.0,
            high: 100.0,
            is_logarithmic: true,
            marks: Vec::new(),
        };
        assert_eq!(
            [1.0, 10.0, 100.0].map(|value| ruler.map(&value, (0, 400))),
            [0, 200, 400]
        );
        assert_eq!(ruler.map(&-1.0, (0, 400)), -400);
    }
}
