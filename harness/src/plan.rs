//! The plan of a suite: its cells fixed in steps and tokens, whatever the budget was given in, so that what runs is
//! reproducible. `plan.toml` is written before the first cell starts and is all that a worker reads of the matrix.

use crate::algorithm::MethodSwitches;
use crate::exit::UserError;
use crate::files;
use crate::matrix::Cell;
use crate::settings::{NetworkName, Settings};
use anyhow::Result;
use models::{Batch, Device, Learner, Precision, Seeded, Update, cost};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Version of `plan.toml`.
pub const SCHEMA: u64 = 1;

/// A suite's plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u64,
    /// Profile that it was made from.
    pub profile: String,
    /// Directory of the token store. Like `device`, `jobs` and `threads` it is each command's own; in the file stand those of
    /// the first command on the suite, for a worker that is started by hand.
    pub store: PathBuf,
    /// Device of the workers: `cpu`, `cuda:0`.
    pub device: String,
    /// `f32`, `bf16` or `bf16-master`.
    pub precision: String,
    /// Workers at the same time.
    pub jobs: u64,
    /// Compute threads of each.
    pub threads: u64,
    /// The budget as given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget: Option<String>,
    /// What a budget in time was turned into steps with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub calibration: Option<Calibration>,
    /// The cells, in the order in which they run.
    pub cells: Vec<Cell>,
}

/// A short measurement of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Size that was measured.
    pub size: String,
    /// FLOPs per second of one worker, training it at full rank.
    pub flops_per_second: f64,
}

const FILE: &str = "plan.toml";

impl Plan {
    /// Reads a suite's plan.
    ///
    /// # Errors
    /// A folder that is no suite, a plan of another version, or one with a cell that cannot be.
    pub fn read(suite: &Path) -> Result<Plan> {
        let path = suite.join(FILE);
        if !path.exists() {
            let message = format!(
                "{}: not a suite of relora (it has no {FILE})",
                suite.display()
            );
            return Err(UserError::new(message).into());
        }
        let text = files::read_to_string(&path)?;
        let plan: Plan = toml::from_str(&text).map_err(|error| {
            UserError::new(format!(
                "{}: not a plan of this program: {}",
                path.display(),
                error.message().replace('\n', ", ")
            ))
        })?;
        if plan.schema != SCHEMA {
            let found = plan.schema;
            let message = format!(
                "{}: schema {found}, this program reads {SCHEMA}",
                path.display()
            );
            return Err(UserError::new(message).into());
        }
        // The file may have been edited: what is wrong with it is said here, before anything counts on it.
        for cell in &plan.cells {
            cell.check().map_err(|why| {
                let directory = cell.directory();
                UserError::new(format!("{}: cell {directory}: {why}", path.display()))
            })?;
        }
        Ok(plan)
    }

    /// Writes it, beside and renamed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, suite: &Path) -> Result<()> {
        files::create_directory(suite)?;
        files::write_atomically(&suite.join(FILE), toml::to_string(self)?.as_bytes())
    }

    /// This plan with the cells that `earlier` holds besides, so that a suite can grow.
    ///
    /// # Errors
    /// A cell of the same name that is determined otherwise, with the fields that differ.
    pub fn over(mut self, earlier: &Plan, suite: &Path) -> Result<Plan, UserError> {
        // A network that is matched to another one's size differs for that one's reasons: those are told first.
        let matched = |cell: &&Cell| cell.settings.network == NetworkName::Matched;
        let (derived, own): (Vec<&Cell>, Vec<&Cell>) = earlier.cells.iter().partition(matched);
        for old in own.into_iter().chain(derived) {
            let Some(new) = self
                .cells
                .iter_mut()
                .find(|cell| cell.directory() == old.directory())
            else {
                self.cells.push(old.clone());
                continue;
            };
            let differences = differences(&old.determines(), &new.determines());
            if !differences.is_empty() {
                return Err(UserError::new(format!(
                    "{}: made with other settings: {} has {}; give another --out, or the same settings",
                    suite.display(),
                    old.directory(),
                    differences.join(", ")
                )));
            }
            // Which checkpoints stay must not be forgotten because a part of the matrix was asked for.
            new.hands_over |= old.hands_over;
        }
        let first = earlier.clone();
        if first.store.is_dir() {
            self.store = first.store;
        }
        self.device = first.device;
        self.precision = first.precision;
        (self.jobs, self.threads) = (first.jobs, first.threads);
        self.calibration = first.calibration.or(self.calibration);
        Ok(self)
    }

    /// Seconds that the plan's cells take with `jobs` workers, by the calibration.
    #[must_use]
    pub fn expected_seconds(&self) -> Option<f64> {
        let rate = self.calibration.as_ref()?.flops_per_second;
        Some(self.cells.iter().map(Cell::flops).sum::<f64>() / rate / self.jobs as f64)
    }
}

/// The fields in which two `determines` differ, each `field = old, not new`.
#[must_use]
pub fn differences(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    fn walk(path: &str, old: &serde_json::Value, new: &serde_json::Value, found: &mut Vec<String>) {
        if let (Some(left), Some(right)) = (old.as_object(), new.as_object()) {
            let keys = left
                .keys()
                .chain(right.keys().filter(|key| !left.contains_key(*key)));
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let none = serde_json::Value::Null;
                walk(
                    &path,
                    left.get(key).unwrap_or(&none),
                    right.get(key).unwrap_or(&none),
                    found,
                );
            }
        } else if old != new {
            found.push(format!("{path} = {old}, not {new}"));
        }
    }
    let mut found = Vec::new();
    walk("", old, new, &mut found);
    found
}

/// How much a suite may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Wall-clock time of the whole suite.
    Time(Duration),
    /// Training targets of all cells.
    Tokens(f64),
    /// Training FLOPs of all cells.
    Flops(f64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let right =
            "must be a time (90m, 24h, 2d, 8 gpu-hours), tokens (2B tokens) or FLOPs (1e19 FLOPs)";
        let wrong = |why: &str| Err(format!("budget `{text}`: {why}"));
        let trimmed = text.trim();
        let digits = trimmed
            .char_indices()
            .find(|(index, letter)| {
                let exponent = matches!(letter, 'e' | 'E')
                    && trimmed[index + 1..].starts_with(|next: char| {
                        next.is_ascii_digit() || next == '+' || next == '-'
                    });
                let sign = matches!(letter, '+' | '-')
                    && (*index == 0 || trimmed[..*index].ends_with(['e', 'E']));
                !(letter.is_ascii_digit() || *letter == '.' || exponent || sign)
            })
            .map_or(trimmed.len(), |(index, _)| index);
        let (number, unit) = trimmed.split_at(digits);
        let Ok(number) = number.parse::<f64>() else {
            return wrong(right);
        };
        if !(number.is_finite() && number > 0.0) {
            return wrong("must be more than 0");
        }
        let unit = unit.trim();
        let seconds = |each: f64| {
            let total = number * each;
            if total > 10.0 * 365.25 * 86_400.0 {
                return wrong("more than ten years; give less, or none");
            }
            Ok(Budget::Time(Duration::from_secs_f64(total)))
        };
        match unit.to_lowercase().as_str() {
            "s" | "sec" | "seconds" => seconds(1.0),
            "m" | "min" | "minutes" => seconds(60.0),
            "h" | "hour" | "hours" | "gpu-hour" | "gpu-hours" => seconds(3600.0),
            "d" | "day" | "days" => seconds(86_400.0),
            other => {
                let (scale, kind) = match other.split_once(char::is_whitespace) {
                    Some((scale, kind)) => (scale, kind.trim()),
                    None => ("", other),
                };
                let factor = match scale {
                    "" => 1.0,
                    "k" => 1e3,
                    "m" => 1e6,
                    "b" => 1e9,
                    "t" => 1e12,
                    _ => return wrong(right),
                };
                match kind {
                    "tokens" | "token" => Ok(Budget::Tokens(number * factor)),
                    "flops" | "flop" => Ok(Budget::Flops(number * factor)),
                    _ => wrong(right),
                }
            }
        }
    }
}

impl Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Time(time) => write!(formatter, "{:.0} s", time.as_secs_f64()),
            Budget::Tokens(tokens) => write!(formatter, "{tokens:.4e} tokens"),
            Budget::Flops(flops) => write!(formatter, "{flops:.4e} FLOPs"),
        }
    }
}

/// Shortens every run of the plan by one common factor, so that the suite costs at most the budget: steps, warm start,
/// cycles and warm-ups keep their proportions, and every size and method its number of restarts. A plan that costs less
/// stays as it is.
///
/// # Errors
/// A budget below the shortest form of the matrix, with what that costs; a time without a calibration.
pub fn fit(plan: &mut Plan, budget: Budget) -> Result<(), UserError> {
    let cost = |cells: &[Cell]| match (budget, &plan.calibration) {
        (Budget::Tokens(_), _) => Ok(cells.iter().map(|cell| cell.planned_tokens() as f64).sum()),
        (Budget::Flops(_), _) => Ok(cells.iter().map(Cell::flops).sum::<f64>()),
        (Budget::Time(_), Some(calibration)) => Ok(cells.iter().map(Cell::flops).sum::<f64>()
            / calibration.flops_per_second
            / plan.jobs as f64),
        (Budget::Time(_), None) => Err(UserError::new("a budget in time needs a calibration")),
    };
    let most = match budget {
        Budget::Time(time) => time.as_secs_f64(),
        Budget::Tokens(most) | Budget::Flops(most) => most,
    };
    if cost(&plan.cells)? <= most {
        return Ok(());
    }
    let unit = plan.cells.iter().map(unit).fold(0, gcd);
    let scaled = |units: u64| -> Vec<Cell> {
        plan.cells
            .iter()
            .map(|cell| shortened(cell, unit, units))
            .collect()
    };
    // Costs grow with the units: the largest number that fits, by halving.
    let (mut fits, mut exceeds) = (0, unit);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        if cost(&scaled(middle))? <= most {
            fits = middle
        } else {
            exceeds = middle
        }
    }
    let smallest = plan
        .cells
        .iter()
        .map(|cell| least_units(cell, unit))
        .max()
        .unwrap_or(1);
    if fits < smallest {
        let least = cost(&scaled(smallest))?;
        let least = match budget {
            Budget::Time(_) => {
                Budget::Time(Duration::try_from_secs_f64(least.ceil()).unwrap_or(Duration::MAX))
            }
            Budget::Tokens(_) => Budget::Tokens(least),
            Budget::Flops(_) => Budget::Flops(least),
        };
        return Err(UserError::new(format!(
            "budget {budget}: too little for these {} cells; the least is {least} (or fewer cells: --only, --seeds)",
            plan.cells.len()
        )));
    }
    plan.cells = scaled(fits);
    for cell in &plan.cells {
        if let Err(error) = cell.check() {
            return Err(UserError::new(format!(
                "budget {budget}: {} shortened to it: {error}",
                cell.directory()
            )));
        }
    }
    Ok(())
}

/// The greatest length that divides all the lengths which must keep their proportions.
fn unit(cell: &Cell) -> u64 {
    let Settings {
        steps,
        restart_every,
        restarts,
        jagged,
        optimizer_reset,
        ..
    } = cell.settings;
    let mut lengths = vec![steps, cell.settings.warm_start_length()];
    if restarts {
        lengths.push(restart_every);
    }
    if jagged || optimizer_reset {
        lengths.push(cell.settings.cycle());
    }
    lengths.into_iter().fold(0, gcd)
}

/// The fewest units at which every cycle still has a restart and a warm-up.
fn least_units(cell: &Cell, unit: u64) -> u64 {
    let shortest = if cell.settings.restarts {
        cell.settings.restart_every
    } else {
        cell.settings.steps
    };
    (4 * unit).div_ceil(shortest).max(1)
}

fn gcd(left: u64, right: u64) -> u64 {
    if right == 0 {
        left
    } else {
        gcd(right, left % right)
    }
}

fn shortened(cell: &Cell, unit: u64, units: u64) -> Cell {
    let exact = |steps: u64| steps / unit * units + steps % unit * units / unit;
    let about = |steps: u64| if steps == 0 { 0 } else { exact(steps).max(1) };
    let mut cell = cell.clone();
    let settings = &mut cell.settings;
    settings.steps = exact(settings.steps);
    settings.warm_start_steps = exact(settings.warm_start_steps);
    settings.restart_every = exact(settings.restart_every);
    settings.cycle_steps = exact(settings.cycle_steps);
    settings.warmup_steps = about(settings.warmup_steps);
    settings.rewarmup_steps = about(settings.rewarmup_steps);
    settings.adjust_steps = exact(settings.adjust_steps);
    settings.evaluate_every = about(settings.evaluate_every);
    if let Some(stage) = &mut cell.warm_start {
        stage.warmup_steps = about(stage.warmup_steps);
    }
    cell
}

/// Measures how fast one worker trains the smallest size of the plan at full rank: the second and third of three small
/// updates on generated tokens.
///
/// # Errors
/// A device that is not there, or fails.
pub fn calibrate(
    cells: &[Cell],
    device: Device,
    precision: Precision,
) -> Result<Option<Calibration>> {
    let full_rank = cells.iter().filter(|cell| !cell.settings.low_rank);
    let smallest = full_rank.chain(cells).min_by(|left, right| {
        (left.settings.low_rank, left.network().parameters())
            .cmp(&(right.settings.low_rank, right.network().parameters()))
    });
    let Some(cell) = smallest else {
        return Ok(None);
    };
    let (network, length) = (cell.network(), cell.settings.sequence_length as usize);
    let rows = (cell.settings.micro_batch_size as usize).min(8192usize.div_ceil(length));
    let draws = Seeded { seed: 0 };
    let adamw = cell
        .algorithm()
        .map_err(|error| UserError::new(error.to_string()))?
        .adamw;
    let mut learner = models::learner(&network, &adamw, device, precision, &draws)?;
    let tokens: Vec<u32> = (0..rows * length)
        .map(|index| (index * 7919 % network.vocabulary) as u32)
        .collect();
    let train = |learner: &mut dyn Learner, step: u64| -> Result<()> {
        learner.accumulate(
            Batch {
                inputs: &tokens,
                targets: &tokens,
                rows,
                length,
                index: step,
            },
            1.0 / tokens.len() as f64,
        );
        learner.update(Update {
            step,
            learning_rate: 0.0,
            grad_clip: None,
        });
        learner.drain()?;
        Ok(())
    };
    train(&mut *learner, 0)?;
    let start = Instant::now();
    train(&mut *learner, 1)?;
    train(&mut *learner, 2)?;
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let flops = cost::flops_per_token(&network, None, length) * (2 * rows * length) as f64;
    Ok(Some(Calibration {
        size: cell.size.clone(),
        flops_per_second: flops / seconds,
    }))
}

/// Memory of a cell by class, in the stage that takes most.
#[must_use]
pub fn bytes(cell: &Cell, precision: Precision) -> cost::Bytes {
    let (rows, length) = (
        cell.settings.micro_batch_size as usize,
        cell.settings.sequence_length as usize,
    );
    let low_rank = MethodSwitches::of(&cell.settings).low_rank;
    let own = cost::bytes(&cell.network(), low_rank.as_ref(), precision, rows, length);
    if cell.settings.warm_start {
        let full_rank = cost::bytes(&cell.network(), None, precision, rows, length);
        if full_rank.total() > own.total() {
            return full_rank;
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{self, DataKeys, Surroundings};
    use crate::profile::Profile;

    fn plan(profile: &str) -> Plan {
        let profile = Profile::load(profile, &[]).expect("loads");
        let data = DataKeys {
            hash: "0".into(),
            vocabulary: profile.data.vocabulary,
        };
        let surroundings = Surroundings {
            data,
            device: "cpu".into(),
            precision: "f32".into(),
        };
        Plan {
            schema: SCHEMA,
            profile: profile.name.clone(),
            store: PathBuf::from("store"),
            device: "cpu".into(),
            precision: "f32".into(),
            jobs: 2,
            threads: 1,
            budget: None,
            calibration: Some(Calibration {
                size: "nano".into(),
                flops_per_second: 1e10,
            }),
            cells: matrix::cells(&profile, &surroundings).expect("cells"),
        }
    }

    #[test]
    fn budgets_are_read_in_every_unit_and_absurd_ones_refused() {
        for (text, expected) in [
            ("90m", Budget::Time(Duration::from_secs(5400))),
            ("24h", Budget::Time(Duration::from_secs(86_400))),
            ("8 gpu-hours", Budget::Time(Duration::from_secs(28_800))),
            ("2B tokens", Budget::Tokens(2e9)),
            ("1.5e6 tokens", Budget::Tokens(1.5e6)),
            ("1e19 FLOPs", Budget::Flops(1e19)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "0h",
            "-3h",
            "nan h",
            "1e300 d",
            "soon",
            "24",
            "2X tokens",
            "",
            "h",
        ] {
            let message = text.parse::<Budget>().expect_err(text);
            assert!(
                message.starts_with(&format!("budget `{text}`: ")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_budget_shortens_every_run_alike_and_keeps_the_restarts() {
        for profile in ["smoke", "laptop", "paper", "ablations"] {
            let whole = plan(profile);
            let tokens: u64 = whole.cells.iter().map(Cell::planned_tokens).sum();
            let mut half = whole.clone();
            fit(&mut half, Budget::Tokens(tokens as f64 * 0.5)).expect("fits");
            let left: u64 = half.cells.iter().map(Cell::planned_tokens).sum();
            assert!(
                left * 2 <= tokens && left * 5 > tokens,
                "{profile}: {left} of {tokens}"
            );
            for (long, short) in whole.cells.iter().zip(&half.cells) {
                let (long, short) = (
                    long.algorithm().expect("long"),
                    short.algorithm().expect("short"),
                );
                let count = |algorithm: &crate::algorithm::Algorithm| {
                    (1..=algorithm.steps)
                        .filter(|done| algorithm.restarts.after(*done))
                        .count()
                };
                assert_eq!(count(&long), count(&short));
            }
            let steps: std::collections::BTreeSet<_> = half
                .cells
                .iter()
                .map(|cell| (cell.size.clone(), cell.settings.steps))
                .collect();
            let sizes: std::collections::BTreeSet<_> =
                half.cells.iter().map(|cell| cell.size.clone()).collect();
            assert_eq!(
                steps.len(),
                sizes.len(),
                "every method of a size keeps the same tokens"
            );
        }
    }

    #[test]
    fn a_budget_that_suffices_changes_nothing_and_one_far_too_small_is_refused() {
        let whole = plan("smoke");
        let mut same = whole.clone();
        fit(&mut same, Budget::Flops(1e30)).expect("fits");
        assert_eq!(same, whole);
        let message = fit(&mut same, Budget::Tokens(10.0))
            .expect_err("too small")
            .to_string();
        assert!(message.contains("the least is"), "{message}");
    }

    #[test]
    fn a_suite_grows_but_never_changes() {
        let old = plan("smoke");
        let suite = Path::new("runs/smoke");
        let mut other = old.clone();
        other.cells.truncate(2);
        let grown = other.clone().over(&old, suite).expect("same settings");
        assert_eq!(grown.cells.len(), old.cells.len());
        other.cells[0].settings.learning_rate *= 2.0;
        let message = other.over(&old, suite).expect_err("differs").to_string();
        assert!(
            message.contains("settings.learning_rate = 0.003, not 0.006"),
            "{message}"
        );
    }

    #[test]
    fn the_cell_that_a_warm_start_names_is_the_one_in_the_matrix() {
        for profile in ["smoke", "laptop", "paper"] {
            let plan = plan(profile);
            for cell in plan.cells.iter().filter(|cell| cell.warm_start.is_some()) {
                let named = cell.warm_start_cell().expect("warm start");
                let full = plan
                    .cells
                    .iter()
                    .find(|other| other.directory() == named.directory())
                    .expect("full");
                assert_eq!(
                    named.determines(),
                    full.determines(),
                    "{}",
                    cell.directory()
                );
                assert!(full.hands_over);
            }
        }
    }

    /// Each of these edits, made by hand, led to a panic or to sizes that no one has.
    #[test]
    fn an_edited_plan_that_cannot_be_is_refused_with_file_cell_and_key() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let good = plan("smoke");
        let relora = good.cells.iter().position(|cell| cell.method == "relora");
        let at = relora.expect("the smoke profile has it");
        for (change, part) in [
            (
                (|cell| (cell.settings.sequence_length, cell.settings.overlap) = (0, 0))
                    as fn(&mut Cell),
                "sequence_length = 0: must be at least 1",
            ),
            (
                |cell| cell.settings.steps = 3,
                "warm_start_steps = 20: must be at least 1 and below steps = 3",
            ),
            (|cell| cell.settings.log_every = 0, "log_every = 0"),
            (|cell| cell.settings.rank = 1 << 40, "rank"),
            (|cell| cell.settings.restart_every = 7, "a cycle of 7 steps"),
            (|cell| cell.data.vocabulary = 0, "vocabulary"),
            (|cell| cell.data.vocabulary = 1 << 60, "data.vocabulary"),
            (
                |cell| cell.method = "../elsewhere".into(),
                "letters, digits",
            ),
        ] {
            let mut plan = good.clone();
            change(&mut plan.cells[at]);
            plan.write(directory.path()).expect("write");
            let message = Plan::read(directory.path()).expect_err(part).to_string();
            assert!(
                message.contains("plan.toml: cell nano-") && message.contains(part),
                "{part} in {message}"
            );
        }
    }

    #[test]
    fn a_plan_survives_its_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plan = plan("paper");
        plan.write(directory.path()).expect("write");
        assert_eq!(Plan::read(directory.path()).expect("read"), plan);
    }
}
