//! Rows of a frame as they are shown: read by the names of their columns, with the digits that their intervals allow.

use crate::statistics::{Estimate, Interval, LEVEL};
use polars::prelude::{AnyValue, DataFrame};

pub(super) fn reference(rows: &[Cells<'_>]) -> Option<String> {
    rows.iter().find_map(|row| row.text("reference"))
}

pub(super) fn sizes(frame: &DataFrame) -> Vec<String> {
    let mut sizes: Vec<String> = Vec::new();
    for row in 0..frame.height() {
        let size = Cells::new(frame, row).text("size").unwrap_or_default();
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    sizes
}

pub(super) fn rows<'a>(frame: &'a DataFrame, size: &str) -> Vec<Cells<'a>> {
    let mut rows: Vec<Cells<'a>> = (0..frame.height())
        .map(|row| Cells::new(frame, row))
        .filter(|row| row.is("size", size))
        .collect();
    let seeds = |row: &Cells<'_>| row.count("seeds_complete").or(row.count("pairs"));
    let several = rows.iter().any(|row| seeds(row) > Some(1));
    rows.iter_mut().for_each(|row| row.several = several);
    rows
}

/// A row of a frame, read by the names of its columns.
pub(super) struct Cells<'a> {
    frame: &'a DataFrame,
    row: usize,
    /// Whether a method of the size has several seeds, so that a number of one must say so.
    pub(super) several: bool,
}

impl<'a> Cells<'a> {
    pub(super) fn new(frame: &'a DataFrame, row: usize) -> Cells<'a> {
        Cells {
            frame,
            row,
            several: false,
        }
    }
}

impl Cells<'_> {
    pub(super) fn plus_minus(&self, estimate: &Estimate, signed: bool) -> String {
        marked(plus_minus(estimate, signed), estimate, self.several)
    }

    pub(super) fn bracketed(&self, estimate: &Estimate) -> String {
        marked(bracketed(estimate), estimate, self.several)
    }

    pub(super) fn value(&self, column: &str) -> AnyValue<'_> {
        self.frame
            .column(column)
            .and_then(|column| column.get(self.row))
            .unwrap_or(AnyValue::Null)
    }

    pub(super) fn text(&self, column: &str) -> Option<String> {
        match self.value(column) {
            AnyValue::Null => None,
            AnyValue::String(text) => Some(text.to_owned()),
            other => Some(other.to_string()),
        }
    }

    pub(super) fn is(&self, column: &str, text: &str) -> bool {
        self.text(column).is_some_and(|found| found == text)
    }

    pub(super) fn number(&self, column: &str) -> Option<f64> {
        self.value(column).extract::<f64>()
    }

    pub(super) fn count(&self, column: &str) -> Option<u64> {
        self.value(column).extract::<u64>()
    }

    /// Puts an estimate together again from its columns.
    pub(super) fn estimate(&self, column: &str, n: &str) -> Option<Estimate> {
        let end = |part| self.number(&format!("{column}_{part}"));
        let interval = end("low").zip(end("high")).map(|(low, high)| Interval {
            level: LEVEL,
            low,
            high,
        });
        let n = usize::try_from(self.count(n)?).ok()?;
        Some(Estimate {
            point: self.number(column)?,
            standard_error: end("standard_error"),
            interval,
            n,
        })
    }

    pub(super) fn name(&self) -> String {
        format!("`{}`", self.text("method").unwrap_or_default())
    }

    pub(super) fn seeds(&self) -> String {
        format!(
            "{} of {}",
            self.count("seeds_complete").unwrap_or(0),
            self.count("seeds_planned").unwrap_or(0)
        )
    }

    /// The estimate with its interval in brackets or, where no seed is complete, how the seeds stand.
    pub(super) fn headline(&self, column: &str) -> String {
        match self.estimate(column, "seeds_complete") {
            Some(estimate) => self.bracketed(&estimate),
            None => self.short_status(),
        }
    }

    /// How the seeds stand, where that is short.
    pub(super) fn short_status(&self) -> String {
        self.text("status")
            .filter(|status| status.chars().count() <= WIDEST_STATUS)
            .unwrap_or_else(|| "none complete".to_owned())
    }

    /// Difference and verdict; both empty for the reference.
    pub(super) fn comparison(&self) -> [String; 2] {
        let Some(difference) = self.estimate("difference", "difference_pairs") else {
            return [String::new(), String::new()];
        };
        let verdict = self.text("verdict").unwrap_or_default();
        let verdict = match self.number("difference_p_adjusted") {
            Some(p) => format!("{verdict} ({})", probability(p)),
            None => verdict,
        };
        [self.plus_minus(&difference, true), verdict]
    }

    pub(super) fn ratio(&self, column: &str) -> String {
        self.ratio_estimate(column)
            .map_or_else(String::new, |it| self.bracketed(&it))
    }

    /// The same the other way round.
    pub(super) fn inverse_ratio(&self, column: &str) -> String {
        let inverse = self.ratio_estimate(column).map(|it| Estimate {
            point: it.point.recip(),
            interval: it.interval.map(|interval| Interval {
                low: interval.high.recip(),
                high: interval.low.recip(),
                ..interval
            }),
            ..it
        });
        inverse.map_or_else(String::new, |it| self.bracketed(&it))
    }

    fn ratio_estimate(&self, column: &str) -> Option<Estimate> {
        let end = |part| self.number(&format!("{column}_{part}"));
        let interval = end("low").zip(end("high")).map(|(low, high)| Interval {
            level: LEVEL,
            low,
            high,
        });
        Some(Estimate {
            point: self.number(column)?,
            standard_error: None,
            // The ratio stands on the pairs, of which there are two or more exactly where it has an interval.
            n: if interval.is_some() { 2 } else { 1 },
            interval,
        })
    }

    pub(super) fn published(&self) -> String {
        match self.number("published_perplexity") {
            Some(perplexity) => format!("{perplexity:.2}"),
            None => self.text("published_status").unwrap_or_default(),
        }
    }

    /// Switches as letters, in the manner of the paper's ablation table.
    pub(super) fn parts(&self) -> String {
        if !self.is("low_rank", "true") {
            return "full".to_owned();
        }
        let letters = [
            ("restarts", 'R'),
            ("optimizer_reset", 'O'),
            ("jagged", 'J'),
            ("rewarmup", 'U'),
            ("warm_start", 'W'),
        ];
        letters
            .iter()
            .map(|&(switch, letter)| if self.is(switch, "true") { letter } else { '-' })
            .collect()
    }
}

/// A longer status would make its table too wide for a terminal; it stands below the table in any case.
const WIDEST_STATUS: usize = 32;

pub(super) const MEBIBYTE: f64 = 1024.0 * 1024.0;
pub(super) const GIBIBYTE: f64 = 1024.0 * MEBIBYTE;

pub(super) fn level() -> String {
    format!("{:.0}%", LEVEL * 100.0)
}

pub(super) fn scaled(estimate: &Estimate, factor: f64) -> Estimate {
    Estimate {
        standard_error: estimate.standard_error.map(|error| error * factor),
        ..estimate.map(|value| value * factor)
    }
}

/// Decimals that show the second significant digit of a half-width; none for a half-width of zero, which has no digits.
pub(super) fn decimals(half_width: f64) -> Option<usize> {
    if half_width <= 0.0 || !half_width.is_finite() {
        return None;
    }
    // A half-width of 0.023 has its first digit two places behind the point.
    let first = -half_width.log10().floor();
    Some((first + 1.0).clamp(0.0, 6.0) as usize)
}

/// A heading of numbers with their intervals in brackets, if there are any.
pub(super) fn with_interval(heading: &str, rows: &[Cells<'_>]) -> String {
    if rows.iter().any(|row| row.several) {
        format!("{heading} [{}]", level())
    } else {
        heading.to_owned()
    }
}

/// An estimate as it is shown, with `(n = 1)` where it has no interval and others of its table may have one.
pub(super) fn marked(text: String, estimate: &Estimate, several: bool) -> String {
    if several && estimate.interval.is_none() {
        text + " (n = 1)"
    } else {
        text
    }
}

/// `4.577 ± 0.023`, or without an interval `4.577`.
pub(super) fn plus_minus(estimate: &Estimate, signed: bool) -> String {
    let sign = if signed && estimate.point > 0.0 {
        "+"
    } else {
        ""
    };
    match &estimate.interval {
        Some(interval) => match decimals(interval.half_width()) {
            Some(decimals) => {
                let half_width = fixed(interval.half_width(), decimals);
                format!("{sign}{} ± {half_width}", fixed(estimate.point, decimals))
            }
            None => format!("{sign}{} ± 0", significant(estimate.point)),
        },
        None => format!("{sign}{}", significant(estimate.point)),
    }
}

/// `97.2 [95.1, 99.4]`, or without an interval `97.20`: for intervals that are not symmetric.
pub(super) fn bracketed(estimate: &Estimate) -> String {
    match &estimate.interval {
        Some(interval) => {
            // A ratio or perplexity that is known more closely than this is known well enough.
            let decimals = decimals(interval.half_width()).map(|decimals| decimals.min(3));
            let number = |value| {
                decimals.map_or_else(|| significant(value), |decimals| fixed(value, decimals))
            };
            let [point, low, high] = [estimate.point, interval.low, interval.high].map(number);
            format!("{point} [{low}, {high}]")
        }
        None => significant(estimate.point),
    }
}

pub(super) fn fixed(value: f64, decimals: usize) -> String {
    thousands(&format!("{value:.decimals$}"))
}

/// Four significant digits, but no more than four decimals: for numbers without an interval, whose last digits nobody vouches for.
pub(super) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (3.0 - value.abs().log10().floor()).clamp(0.0, 4.0) as usize;
    fixed(value, decimals)
}

/// Groups the digits before the point by three, from five digits on.
pub(super) fn thousands(number: &str) -> String {
    let (sign, unsigned) = number
        .strip_prefix('-')
        .map_or(("", number), |unsigned| ("-", unsigned));
    let (whole, fraction) = unsigned
        .find('.')
        .map_or((unsigned, ""), |point| unsigned.split_at(point));
    if whole.len() < 4 {
        return number.to_owned();
    }
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// `1.33M`, `368M`, `1.34B`.
pub(super) fn millions(parameters: f64) -> String {
    let (value, unit) = match parameters {
        parameters if parameters < 1e6 => (parameters / 1e3, "K"),
        parameters if parameters < 1e9 => (parameters / 1e6, "M"),
        _ => (parameters / 1e9, "B"),
    };
    let decimals = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.decimals$}{unit}")
}

/// `0.012`, `0.31`, `<0.001`.
pub(super) fn probability(p: f64) -> String {
    match p {
        p if p < 0.001 => "<0.001".to_owned(),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

/// `1e-3`, `2.5e-4`.
pub(super) fn rate(rate: f64) -> String {
    format!("{rate:e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(point: f64, half_width: f64) -> Estimate {
        let interval = Interval {
            level: LEVEL,
            low: point - half_width,
            high: point + half_width,
        };
        Estimate {
            point,
            standard_error: None,
            interval: Some(interval),
            n: 3,
        }
    }

    #[test]
    fn digits_follow_the_interval() {
        assert_eq!(
            plus_minus(&estimate(4.576_83, 0.023_4), false),
            "4.577 ± 0.023"
        );
        assert_eq!(plus_minus(&estimate(4.576_83, 0.23), false), "4.58 ± 0.23");
        assert_eq!(
            plus_minus(&estimate(0.000_123, 0.000_02), true),
            "+0.000123 ± 0.000020"
        );
        assert_eq!(plus_minus(&estimate(-0.113, 1.7), true), "-0.1 ± 1.7");
        assert_eq!(
            plus_minus(&estimate(12_345.6, 123.4), false),
            "12,346 ± 123"
        );
        assert_eq!(bracketed(&estimate(97.2, 2.1)), "97.2 [95.1, 99.3]");
        assert_eq!(plus_minus(&estimate(2048.0, 0.0), false), "2,048 ± 0");
    }

    #[test]
    fn one_seed_is_shown_as_such_beside_several() {
        let one = Estimate {
            point: 97.234_5,
            standard_error: None,
            interval: None,
            n: 1,
        };
        assert_eq!([plus_minus(&one, false), bracketed(&one)], ["97.23"; 2]);
        let shown = |several| marked(bracketed(&one), &one, several);
        assert_eq!([shown(true), shown(false)], ["97.23 (n = 1)", "97.23"]);
    }

    #[test]
    fn numbers_are_grouped_and_abbreviated() {
        assert_eq!(thousands("1228800"), "1,228,800");
        assert_eq!(thousands("-12345.5"), "-12,345.5");
        assert_eq!(
            [thousands("1234.5"), thousands("123.5")],
            ["1,234.5", "123.5"]
        );
        assert_eq!(
            [1.33e6, 58_176_000.0, 1.339e9, 42_000.0].map(millions),
            ["1.33M", "58.2M", "1.34B", "42.0K"]
        );
        assert_eq!(
            [0.0002, 0.0123, 0.314].map(probability),
            ["<0.001", "0.012", "0.31"]
        );
        assert_eq!([0.001, 0.000_25].map(rate), ["1e-3", "2.5e-4"]);
    }
}
