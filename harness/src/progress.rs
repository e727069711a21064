//! What a person sees while a suite runs. On a terminal: a bar for the matrix with the time left, a line for each running
//! cell, and finished cells scrolling by above. Elsewhere: timestamped lines. No colour anywhere, so `NO_COLOR` has nothing
//! to switch off.
//!
//! Everything goes to standard error; standard output is for the tables.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use results::record::{Record, RunResult, StepRecord};
use results::render::number_of;

/// Says something on standard error that stops nothing, whether or not anyone still listens there.
pub fn warn(text: &str) {
    // `eprintln!` would panic where a supervisor has gone away, and a panic spoils the run.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Elsewhere than on a terminal, a running cell says how far it is at most this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A cell as the display knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Name of its run directory.
    pub name: String,
    /// Update steps planned.
    pub steps: u64,
    /// Training FLOPs planned: how much of the whole it is.
    pub flops: f64,
}

/// The display of one suite; cells go by their place in the plan.
pub struct Display {
    cells: Vec<CellProgress>,
    begun: Instant,
    form: Form,
}

struct CellProgress {
    shown: Shown,
    /// Where this command found it.
    first_step: u64,
    step: u64,
    ended: bool,
    newest_line: Option<Instant>,
}

enum Form {
    Terminal {
        all: MultiProgress,
        matrix: ProgressBar,
        running: BTreeMap<usize, ProgressBar>,
    },
    Plain(Box<dyn Write>),
}

impl Display {
    /// A display on standard error, by what that is.
    #[must_use]
    pub fn new(cells: Vec<Shown>) -> Display {
        let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        if !io::stderr().is_terminal() || dumb {
            return Display::plain(cells, Box::new(io::stderr()));
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        let matrix = all.add(ProgressBar::new(cells.len() as u64));
        matrix.set_style(style("cells {pos}/{len} [{bar:32}] {msg}"));
        Display::with_form(
            cells,
            Form::Terminal {
                all,
                matrix,
                running: BTreeMap::new(),
            },
        )
    }

    /// Timestamped lines to anything that takes text.
    #[must_use]
    pub fn plain(cells: Vec<Shown>, output: Box<dyn Write>) -> Display {
        Display::with_form(cells, Form::Plain(output))
    }

    fn with_form(cells: Vec<Shown>, form: Form) -> Display {
        let progress = |shown| CellProgress {
            shown,
            first_step: 0,
            step: 0,
            ended: false,
            newest_line: None,
        };
        Display {
            cells: cells.into_iter().map(progress).collect(),
            begun: Instant::now(),
            form,
        }
    }

    /// A worker has been started for the cell, or one elsewhere is at it.
    pub fn begins(&mut self, index: usize, elsewhere: bool) {
        let Some(cell) = self.cells.get(index) else {
            return;
        };
        let name = cell.shown.name.clone();
        match &mut self.form {
            Form::Terminal { all, running, .. } => {
                let bar = all.add(ProgressBar::new(cell.shown.steps));
                bar.set_style(style("  {prefix} {pos}/{len} {msg}"));
                bar.set_prefix(name);
                bar.set_message(if elsewhere {
                    "another process is at it"
                } else {
                    "starting"
                });
                running.insert(index, bar);
            }
            Form::Plain(_) if elsewhere => self.line(&format!("{name}: another process is at it")),
            Form::Plain(_) => self.line(&format!("{name}: start")),
        }
        self.tick();
    }

    /// A running cell goes on from this step.
    pub fn resumes(&mut self, index: usize, step: u64) {
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        (cell.first_step, cell.step) = (step, step);
        if step > 0 {
            let line = format!("{}: from the checkpoint of step {step}", cell.shown.name);
            self.line(&line);
        }
    }

    /// A running cell has written a record.
    pub fn record(&mut self, index: usize, record: &Record) {
        let (Some(cell), Record::Step(step)) = (self.cells.get_mut(index), record) else {
            return;
        };
        cell.step = step.step;
        let figures = figures(step);
        match &self.form {
            Form::Terminal { running, .. } => {
                if let Some(bar) = running.get(&index) {
                    bar.set_position(step.step);
                    bar.set_message(figures);
                }
                self.tick();
            }
            Form::Plain(_) => {
                if cell
                    .newest_line
                    .is_none_or(|before| before.elapsed() >= PLAIN_INTERVAL)
                {
                    cell.newest_line = Some(Instant::now());
                    let line = format!(
                        "{}: step {}/{}, {figures}",
                        cell.shown.name, step.step, cell.shown.steps
                    );
                    let left = self
                        .time_left()
                        .map_or_else(String::new, |left| format!(" ({} left)", duration(left)));
                    self.line(&format!("{line}{left}"));
                }
            }
        }
    }

    /// A cell has ended for good.
    pub fn finished(&mut self, index: usize, result: &RunResult) {
        let perplexity = result.validation_loss.map(f64::exp);
        let figure = match (perplexity, result.diverged_at_step) {
            (_, Some(step)) => format!("at step {step}"),
            (Some(perplexity), None) => format!("perplexity {perplexity:.2}"),
            (None, None) => "no finite validation loss".into(),
        };
        let time = duration(Duration::try_from_secs_f64(result.wall_seconds).unwrap_or_default());
        self.ends(
            index,
            &format!("{}, {figure}, {time}", result.status.name()),
            true,
        );
    }

    /// A cell has ended, or stopped, without a result.
    pub fn stopped(&mut self, index: usize, how: &str) {
        self.ends(index, how, false);
    }

    /// A cell that was done before this command.
    pub fn was_done(&mut self, index: usize) {
        if let Some(cell) = self.cells.get_mut(index) {
            cell.ended = true;
            (cell.first_step, cell.step) = (cell.shown.steps, cell.shown.steps);
        }
        self.tick();
    }

    /// Something that a running cell's worker has to say.
    pub fn note(&mut self, index: usize, text: &str) {
        let Some(cell) = self.cells.get(index) else {
            return;
        };
        let line = format!("{}: {text}", cell.shown.name);
        self.line(&line);
    }

    /// A line of the suite itself.
    pub fn line(&mut self, text: &str) {
        match &mut self.form {
            // An output that has gone away keeps no suite from going on.
            Form::Plain(output) => {
                drop(writeln!(output, "{} {text}", timestamp(SystemTime::now())))
            }
            Form::Terminal { all, .. } => drop(all.println(text)),
        }
    }

    /// Brings the matrix bar up to date.
    pub fn tick(&self) {
        if let Form::Terminal {
            matrix, running, ..
        } = &self.form
        {
            matrix.set_position(self.ended());
            let left = self
                .time_left()
                .map_or_else(String::new, |left| format!(", {} left", duration(left)));
            matrix.set_message(format!("{}{left}", duration(self.begun.elapsed())));
            running.values().for_each(ProgressBar::tick);
        }
    }

    /// Takes the bars away; the lines stay.
    pub fn close(&mut self) {
        if let Form::Terminal {
            all,
            matrix,
            running,
        } = &mut self.form
        {
            running.values().for_each(ProgressBar::finish_and_clear);
            matrix.finish_and_clear();
            drop(all.clear());
        }
        let line = format!(
            "{} of {} done after {}",
            self.ended(),
            number_of(self.cells.len(), "cell"),
            duration(self.begun.elapsed())
        );
        self.line(&line);
    }

    fn ends(&mut self, index: usize, how: &str, done: bool) {
        if let Form::Terminal { running, .. } = &mut self.form
            && let Some(bar) = running.remove(&index)
        {
            bar.finish_and_clear();
        }
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        if done {
            cell.ended = true;
            cell.step = cell.shown.steps;
        }
        let line = format!("{}: {how}", cell.shown.name);
        self.line(&line);
        self.tick();
    }

    fn ended(&self) -> u64 {
        self.cells.iter().filter(|cell| cell.ended).count() as u64
    }

    /// From the FLOPs done by this command and the time they took.
    fn time_left(&self) -> Option<Duration> {
        let share = |cell: &CellProgress, steps: u64| {
            cell.shown.flops * steps as f64 / cell.shown.steps.max(1) as f64
        };
        let done: f64 = self
            .cells
            .iter()
            .map(|cell| share(cell, cell.step.saturating_sub(cell.first_step)))
            .sum();
        let left: f64 = self
            .cells
            .iter()
            .map(|cell| share(cell, cell.shown.steps.saturating_sub(cell.step)))
            .sum();
        Duration::try_from_secs_f64(self.begun.elapsed().as_secs_f64() * left / done).ok()
    }
}

fn figures(step: &StepRecord) -> String {
    let loss = step
        .loss
        .map_or_else(|| "not finite".into(), |loss| format!("{loss:.4}"));
    format!("loss {loss}, {:.0} tokens/s", step.tokens_per_second)
}

/// The templates here are constants that parse; the default would only look different.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `45 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment as `2026-02-28T23:59:59Z` (UTC, RFC 3339).
fn timestamp(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let days_of_year = |year: u64| if is_leap(year) { 366 } else { 365 };
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let lengths = [
        31,
        if is_leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day % 3600 / 60, of_day % 60);
    format!(
        "{year}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        month + 1,
        days + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Text that a test can read after the display has taken its end.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        /// What was written, without the timestamps.
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().expect("no panic").clone();
            let text = String::from_utf8(bytes).expect("UTF-8");
            text.lines()
                .map(|line| line.split_once(' ').expect("timestamp").1.to_owned())
                .collect()
        }
    }

    fn step(step: u64) -> Record {
        Record::Step(StepRecord {
            step,
            tokens_seen: step * 100,
            loss: Some(3.25),
            learning_rate: 1e-3,
            grad_norm: Some(1.0),
            tokens_per_second: 1234.4,
            training_seconds: 1.0,
            training_joules: None,
        })
    }

    /// Checked with `date -u -d @SECONDS +%FT%TZ`.
    #[test]
    fn timestamps_are_those_of_the_calendar() {
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn durations_name_their_two_largest_units() {
        let shown = |seconds| duration(Duration::from_secs_f64(seconds));
        assert_eq!(
            [shown(0.4), shown(59.4), shown(59.6)],
            ["0 s", "59 s", "1 min 00 s"]
        );
        assert_eq!([shown(3725.0), shown(90_000.0)], ["1 h 02 min", "1 d 01 h"]);
    }

    #[test]
    fn plain_lines_say_start_progress_at_most_every_ten_seconds_and_end() {
        let page = Page::default();
        let shown = |name: &str| Shown {
            name: name.into(),
            steps: 40,
            flops: 1e9,
        };
        let mut display = Display::plain(vec![shown("a"), shown("b")], Box::new(page.clone()));
        display.was_done(0);
        display.begins(1, false);
        display.resumes(1, 8);
        display.record(1, &step(10));
        display.record(1, &step(20));
        display.stopped(1, "failed: disk full");
        display.close();
        let lines = page.lines();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!(lines[..2], ["b: start", "b: from the checkpoint of step 8"]);
        assert!(
            lines[2].starts_with("b: step 10/40, loss 3.2500, 1234 tokens/s ("),
            "{}",
            lines[2]
        );
        assert_eq!(lines[3], "b: failed: disk full");
        assert!(
            lines[4].starts_with("1 of 2 cells done after "),
            "{}",
            lines[4]
        );
        assert!(
            !page.0.lock().expect("no panic").contains(&0x1b),
            "no control codes"
        );
    }

    #[test]
    fn the_time_left_weighs_cells_by_their_flops() {
        let shown = |flops| Shown {
            name: "x".into(),
            steps: 10,
            flops,
        };
        let mut display = Display::plain(vec![shown(1.0), shown(3.0)], Box::new(io::sink()));
        display.begun = Instant::now() - Duration::from_secs(10);
        assert_eq!(display.time_left(), None, "nothing to go by yet");
        display.record(0, &step(10));
        let left = display.time_left().expect("something done").as_secs_f64();
        assert!(
            (left - 30.0).abs() < 0.5,
            "three times the work that took 10 s: {left}"
        );
    }
}
