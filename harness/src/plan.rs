//! The plan of a suite: its cells fixed in steps and tokens, whatever the budget was given in, so that what runs is
//! reproducible. `plan.toml` is written before the first cell starts and is all that a worker reads of the matrix.

use crate::algorithm::MethodSwitches;
use crate::exit::UserError;
use crate::files;
use crate::lengths;
use crate::matrix::Cell;
use crate::progress::{duration, thousands};
use crate::settings::NetworkName;
use crate::worker;
use anyhow::Result;
use models::{Device, Precision, cost};
use results::record::PlannedMemory;
use results::render::number_of;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

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
    /// Whether event files for TensorBoard are written.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub tensorboard: bool,
    /// The budget as given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget: Option<String>,
    /// What the budget made of the profile's steps; none where they fitted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scale: Option<Scale>,
    /// What a budget in time was turned into steps with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub calibration: Option<Calibration>,
    /// Nats of validation loss within which two methods count as equal: of the last command that declares it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub margin: Option<f64>,
    /// The cells, in the order in which they run.
    pub cells: Vec<Cell>,
}

/// Where and how many at once a plan's runs are worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Workers at once.
    pub jobs: u64,
    /// Compute threads of each.
    pub threads: u64,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// `f32`, `bf16` or `bf16-master`.
    pub precision: String,
}

/// A short measurement of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Size that was measured.
    pub size: String,
    /// On what: workers at once, threads of each, device and precision. Another command's is another measurement.
    #[serde(default)]
    pub place: Option<Place>,
    /// FLOPs per second of one worker, training it at full rank while the others do the same.
    pub flops_per_second: f64,
    /// Seconds from the start of a worker to the end of its first update.
    #[serde(default)]
    pub start_seconds: f64,
    /// Tokens of an evaluation.
    #[serde(default)]
    pub validation_tokens: u64,
}

/// Every length of the profile was divided by `unit`, and multiplied by `units`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Update steps that a unit had in the profile.
    pub unit: u64,
    /// Update steps that it has in the plan.
    pub units: u64,
}

/// Share of a run's time that goes into checkpoints: [`Journal`](crate::journal::Journal) writes them no more often.
const WRITING: f64 = 0.05;

impl Calibration {
    /// Seconds of a run: start, training, evaluation, checkpoints. As at full rank for every method: what a low-rank one
    /// saves in FLOPs it need not save in time, and a budget is a ceiling. An evaluation is the forward third of training.
    #[must_use]
    pub fn seconds(&self, cell: &Cell) -> f64 {
        self.seconds_with(cell, evaluations(cell))
    }

    /// The same with another number of evaluations than the cell's own.
    fn seconds_with(&self, cell: &Cell, evaluations: u64) -> f64 {
        let evaluated = evaluations as f64 * self.validation_tokens as f64;
        let length = cell.settings.sequence_length as usize;
        let of_a_token = |recompute| {
            cost::full_rank_flops_computed_per_token(&cell.network(), length, recompute)
        };
        let flops = cell.planned_tokens() as f64 * of_a_token(cell.settings.recompute)
            + evaluated / 3.0 * of_a_token(false);
        self.start_seconds + flops / self.flops_per_second * (1.0 + WRITING)
    }

    /// Seconds of runs of which `jobs` go at a time, each begun by the first worker that is free.
    #[must_use]
    pub fn seconds_of_all(&self, cells: &[Cell], jobs: u64) -> f64 {
        let seconds: Vec<f64> = cells.iter().map(|cell| self.seconds(cell)).collect();
        one_by_one(&seconds, jobs)
    }
}

/// Evaluations of a run, the one at its end included.
fn evaluations(cell: &Cell) -> u64 {
    let settings = &cell.settings;
    let on_the_way = (settings.steps.saturating_sub(1)).checked_div(settings.evaluate_every);
    1 + on_the_way.unwrap_or(0)
}

/// When the last of the runs that take these times ends, with `jobs` workers. It is the later the longer any of them takes.
fn one_by_one(seconds: &[f64], jobs: u64) -> f64 {
    let workers = jobs.clamp(1, seconds.len().max(1) as u64);
    let mut busy_until = vec![0.0_f64; workers as usize];
    for seconds in seconds {
        let free = busy_until
            .iter_mut()
            .min_by(|left, right| left.total_cmp(right));
        if let Some(free) = free {
            *free += seconds;
        }
    }
    busy_until.into_iter().fold(0.0, f64::max)
}

/// Name of the file in the directory of a suite.
pub const FILE: &str = "plan.toml";

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
        if let Some(Scale { unit, units }) = plan.scale
            && !(1..=unit).contains(&units)
        {
            let message = format!(
                "{}: scale.units = {units}: must be at least 1 and at most scale.unit = {unit}",
                path.display()
            );
            return Err(UserError::new(message).into());
        }
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
    /// A cell of the same name that is determined otherwise, with the fields that differ, and with the budgets if there are; a
    /// cell that could not be compared with the suite's others, or averaged with their seeds.
    pub fn over(mut self, earlier: &Plan, suite: &Path) -> Result<Plan, UserError> {
        let budgets = (earlier.budget.as_deref(), self.budget.as_deref());
        let other_budget = budgets.0.is_some() && budgets.1.is_some() && budgets.0 != budgets.1;
        // Runs of two lengths in one table, even of methods that share no directory, would be compared as if they were alike.
        if other_budget || earlier.scale != self.scale {
            return Err(UserError::new(format!(
                "{}: was sized to {}, this command to {}; give another --out, or {}",
                suite.display(),
                named(budgets.0),
                named(budgets.1),
                match budgets.0 {
                    Some(budget) => format!("the same budget (--budget \"{budget}\")"),
                    None => "no budget".to_owned(),
                }
            )));
        }
        let is_new = |cell: &&Cell| {
            let same = |old: &Cell| old.directory() == cell.directory();
            !earlier.cells.iter().any(same)
        };
        let added: Vec<Cell> = self.cells.iter().filter(is_new).cloned().collect();
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
                    "{}: made with other settings: {} has {}{}; give another --out, or the same settings",
                    suite.display(),
                    old.directory(),
                    differences.join(", "),
                    about_budgets(earlier.budget.as_deref(), self.budget.as_deref())
                )));
            }
            // Which checkpoints stay must not be forgotten because a part of the matrix was asked for.
            new.hands_over |= old.hands_over;
        }
        for new in &added {
            earlier.may_gain(new, suite)?;
        }
        let first = earlier.clone();
        if first.store.is_dir() {
            self.store = first.store;
        }
        self.device = first.device;
        self.precision = first.precision;
        (self.jobs, self.threads) = (first.jobs, first.threads);
        if first.budget.is_some() {
            (self.budget, self.scale) = (first.budget, first.scale);
        }
        self.calibration = first.calibration.or(self.calibration);
        self.margin = self.margin.or(first.margin);
        // Half of a curve would be of no use.
        self.tensorboard |= first.tensorboard;
        Ok(self)
    }

    /// Whether a run may stand in one table with this suite's: with all of its size what that size shares, with the other seeds
    /// of its method everything.
    fn may_gain(&self, new: &Cell, suite: &Path) -> Result<(), UserError> {
        for old in self.cells.iter().filter(|old| old.size == new.size) {
            let (how, [of_old, of_new]) = if old.method == new.method {
                ("averaged", [old, new].map(Cell::shared_by_method))
            } else {
                let shared = [old.shared_by_size(new), new.shared_by_size(old)];
                ("compared", shared)
            };
            let differences = differences(&of_old, &of_new);
            if !differences.is_empty() {
                return Err(UserError::new(format!(
                    "{}: {} cannot be {how} with {}, which has {}; give another --out, or the same settings",
                    suite.display(),
                    new.directory(),
                    old.directory(),
                    differences.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// Where its runs are worked on.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            jobs: self.jobs,
            threads: self.threads,
            device: self.device.clone(),
            precision: self.precision.clone(),
        }
    }

    /// Its cells with `units` steps for every `unit` of theirs.
    fn shortened(&self, unit: u64, units: u64) -> Vec<Cell> {
        let scaled = |cell: &Cell| {
            let steps = u128::from(cell.settings.steps) * u128::from(units) / u128::from(unit);
            // At most the cell's own, since `units` is at most `unit`.
            lengths::shortened(cell, steps as u64)
        };
        self.cells.iter().map(scaled).collect()
    }

    /// A line where the cells, some of which may have been added since it was sized, cost more than its budget.
    #[must_use]
    pub fn beyond_budget(&self) -> Option<String> {
        let text = self.budget.as_ref()?;
        let budget: Budget = text.parse().ok()?;
        let used = budget.used(&self.cells, self)?;
        (used > budget.amount()).then(|| {
            format!(
                "note: the {} of this suite by now cost about {} in all, more than its budget {text}: it keeps the steps \
                 that it was sized to",
                number_of(self.cells.len(), "cell"),
                match budget {
                    Budget::Time(_) => format!("{} with {} at a time", budget.of(used), self.jobs),
                    Budget::Tokens(_) | Budget::Flops(_) => budget.of(used).to_string(),
                }
            )
        })
    }

    /// Seconds that the plan's cells take with `jobs` workers, by the calibration.
    #[must_use]
    pub fn expected_seconds(&self) -> Option<f64> {
        let calibration = self.calibration.as_ref()?;
        Some(calibration.seconds_of_all(&self.cells, self.jobs))
    }
}

/// Steps come from the budget as well as from the profile: a refusal says which were at work.
fn about_budgets(old: Option<&str>, new: Option<&str>) -> String {
    if old.is_none() && new.is_none() {
        String::new()
    } else if old == new {
        format!(" (both sized to {})", named(old))
    } else {
        format!(
            " (the suite was sized to {}, this command to {})",
            named(old),
            named(new)
        )
    }
}

fn named(budget: Option<&str>) -> String {
    match budget {
        Some(budget) => format!("the budget {budget}"),
        None => "no budget".to_owned(),
    }
}

/// A field in which two `determines` differ, with both values as a person wants to see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Names from the outside in, with dots between.
    pub field: String,
    /// The first value.
    pub old: String,
    /// The second.
    pub new: String,
}

/// The fields in which two `determines` differ, each `field = old, not new`.
#[must_use]
pub fn differences(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    let told = |Difference { field, old, new }| {
        let remark = match field.as_str() {
            "data.hash" => " (another text or tokenizer: see --data)",
            _ => "",
        };
        format!("{field} = {old}, not {new}{remark}")
    };
    differing(old, new).into_iter().map(told).collect()
}

/// The fields in which two `determines` differ.
#[must_use]
pub fn differing(old: &serde_json::Value, new: &serde_json::Value) -> Vec<Difference> {
    fn walk(
        path: &str,
        old: &serde_json::Value,
        new: &serde_json::Value,
        found: &mut Vec<Difference>,
    ) {
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
            let [old, new] = [old, new].map(brief);
            let field = path.to_owned();
            found.push(Difference { field, old, new });
        }
    }
    let mut found = Vec::new();
    walk("", old, new, &mut found);
    found
}

/// A value as a person wants to see it: of a hash, its beginning.
fn brief(value: &serde_json::Value) -> String {
    match value.as_str() {
        Some(hash) if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("\"{}...\"", &hash[..12])
        }
        _ => value.to_string(),
    }
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
            Budget::Time(time) if *time < Duration::from_secs(1) => {
                write!(formatter, "{} s", time.as_secs_f64())
            }
            Budget::Time(time) => write!(formatter, "{}", duration(*time)),
            Budget::Tokens(tokens) => {
                write!(formatter, "{} tokens", thousands(tokens.ceil() as u64))
            }
            Budget::Flops(flops) => write!(formatter, "{flops:.3e} FLOPs"),
        }
    }
}

impl Budget {
    /// What of it the cells use up. None of a budget in time without a calibration.
    fn used(self, cells: &[Cell], plan: &Plan) -> Option<f64> {
        match self {
            Budget::Tokens(_) => Some(cells.iter().map(|cell| cell.planned_tokens() as f64).sum()),
            Budget::Flops(_) => Some(cells.iter().map(Cell::flops).sum()),
            Budget::Time(_) => {
                let calibration = plan.calibration.as_ref()?;
                Some(calibration.seconds_of_all(cells, plan.jobs))
            }
        }
    }

    /// What of it the plan's cells use up at most when shortened to these: it grows with the number of units. How many
    /// evaluations a shortened run has goes up and down by rounding; never has it more than the whole one, with whose
    /// number it is priced.
    fn used_at_most(self, short: &[Cell], plan: &Plan) -> Option<f64> {
        let (Budget::Time(_), Some(calibration)) = (self, &plan.calibration) else {
            return self.used(short, plan);
        };
        let runs = short.iter().zip(&plan.cells);
        let seconds: Vec<f64> = runs
            .map(|(short, long)| calibration.seconds_with(short, evaluations(long)))
            .collect();
        Some(one_by_one(&seconds, plan.jobs))
    }

    /// The amount, in seconds, tokens or FLOPs.
    fn amount(self) -> f64 {
        match self {
            Budget::Time(time) => time.as_secs_f64(),
            Budget::Tokens(most) | Budget::Flops(most) => most,
        }
    }

    /// Another amount of the same kind.
    fn of(self, amount: f64) -> Budget {
        match self {
            Budget::Time(_) => {
                Budget::Time(Duration::try_from_secs_f64(amount.ceil()).unwrap_or(Duration::MAX))
            }
            Budget::Tokens(_) => Budget::Tokens(amount),
            Budget::Flops(_) => Budget::Flops(amount),
        }
    }
}

/// Shortens every run of the plan by one common factor, so that the suite costs at most the budget: steps, warm start,
/// cycles and warm-ups keep their proportions, and every size and method its number of restarts. A plan that costs less
/// stays as it is. `matrix`: all cells of the profile, asked for or not; the factor must suit their lengths too, so that the
/// suite can grow.
///
/// # Errors
/// A budget below the shortest form of the matrix, with what that costs; a time without a calibration.
pub fn fit(plan: &mut Plan, budget: Budget, matrix: &[Cell]) -> Result<(), UserError> {
    let measured = |cost: Option<f64>| {
        cost.ok_or_else(|| UserError::new("a budget in time needs a calibration"))
    };
    if measured(budget.used(&plan.cells, plan))? <= budget.amount() {
        return Ok(());
    }
    let all = || plan.cells.iter().chain(matrix);
    let unit = lengths::unit(all());
    let cost = |units: u64| measured(budget.used_at_most(&plan.shortened(unit, units), plan));
    // The largest number that fits, by halving: costs grow with the units.
    let (mut fits, mut exceeds) = (0, unit);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        if cost(middle)? <= budget.amount() {
            fits = middle
        } else {
            exceeds = middle
        }
    }
    let smallest = plan.cells.iter().map(|cell| least_units(cell, unit)).max();
    let smallest = smallest.unwrap_or(1);
    if fits < smallest {
        let short = |cell: &Cell| 4 * unit < lengths::shortest(cell);
        if smallest == 1 && plan.cells.iter().all(short) {
            return Err(UserError::new(format!(
                "budget {budget}: the runs cannot be shortened in proportion: {}",
                lengths::without_a_unit(all())
            )));
        }
        let least = budget.of(cost(smallest)?);
        return Err(UserError::new(format!(
            "budget {budget}: too little for {}; the least is {least} (or fewer cells: --only, --seeds)",
            number_of(plan.cells.len(), "cell")
        )));
    }
    let scale = Scale { unit, units: fits };
    shorten(plan, scale, &budget.to_string())
}

/// The fewest units at which every cycle still has a restart and a warm-up.
fn least_units(cell: &Cell, unit: u64) -> u64 {
    (4 * unit).div_ceil(lengths::shortest(cell)).max(1)
}

/// Shortens every run as an earlier plan for the same budget did, whatever the cells and the machine then and now.
///
/// # Errors
/// A cell whose lengths that does not suit.
pub fn take_over(plan: &mut Plan, earlier: &Plan) -> Result<(), UserError> {
    let budget = earlier.budget.clone().unwrap_or_default();
    earlier
        .scale
        .map_or(Ok(()), |scale| shorten(plan, scale, &budget))
}

fn shorten(plan: &mut Plan, scale: Scale, budget: &str) -> Result<(), UserError> {
    plan.scale = Some(scale);
    plan.cells = plan.shortened(scale.unit, scale.units);
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

/// Memory of a cell by class in the stage that takes more, and whether that is its warm start.
#[must_use]
pub fn bytes(cell: &Cell, precision: Precision) -> (cost::Bytes, bool) {
    let own = bytes_of_own_stage(cell, precision);
    if cell.settings.warm_start {
        let full_rank = cost::bytes(&cell.network(), None, &step(cell, precision));
        if full_rank.total() > own.total() {
            return (full_rank, true);
        }
    }
    (own, false)
}

/// Memory of a cell by class after its warm start, if it has one.
#[must_use]
pub fn bytes_of_own_stage(cell: &Cell, precision: Precision) -> cost::Bytes {
    let low_rank = MethodSwitches::of(&cell.settings).low_rank;
    let step = step(cell, precision);
    cost::bytes(&cell.network(), low_rank.as_ref(), &step)
}

/// The same beside what the process holds without a network.
#[must_use]
pub fn beside_process(bytes: cost::Bytes, process: u64) -> PlannedMemory {
    let cost::Bytes {
        weights,
        gradients,
        moments,
        activations,
        logits,
        workspace,
    } = bytes;
    PlannedMemory {
        process,
        weights,
        gradients,
        moments,
        activations,
        logits,
        workspace,
    }
}

fn step(cell: &Cell, precision: Precision) -> cost::Step {
    let settings = &cell.settings;
    cost::Step {
        precision,
        rows: settings.micro_batch_size as usize,
        length: settings.sequence_length as usize,
        accumulates: settings.micro_batch_size < settings.global_batch_size,
        recompute: settings.recompute,
        on_gpu: cell.device != worker::kind(Device::Cpu),
    }
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
            initial: None,
        };
        Plan {
            schema: SCHEMA,
            profile: profile.name.clone(),
            store: PathBuf::from("store"),
            device: "cpu".into(),
            precision: "f32".into(),
            jobs: 2,
            threads: 1,
            tensorboard: false,
            budget: None,
            scale: None,
            calibration: Some(Calibration {
                size: "nano".into(),
                place: None,
                flops_per_second: 1e10,
                start_seconds: 2.0,
                validation_tokens: 0,
            }),
            margin: None,
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
            fit(&mut half, Budget::Tokens(tokens as f64 * 0.5), &[]).expect("fits");
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
        fit(&mut same, Budget::Flops(1e30), &[]).expect("fits");
        assert_eq!(same, whole);
        let message = fit(&mut same, Budget::Tokens(10.0), &[])
            .expect_err("too small")
            .to_string();
        assert!(message.contains("the least is"), "{message}");
    }

    /// By hand: 300 validation tokens at a third of the cost of training are 100 more, at the end and after every fifth of
    /// 100 steps but the last.
    #[test]
    fn time_counts_the_start_and_every_evaluation() {
        let mut cell = plan("smoke").cells.remove(0);
        (cell.settings.steps, cell.settings.evaluate_every) = (100, 20);
        let network = cell.network();
        let length = cell.settings.sequence_length as usize;
        let calibration = |validation_tokens| Calibration {
            place: None,
            size: "nano".into(),
            // One token a second, checkpoints aside.
            flops_per_second: cost::flops_per_token(&network, None, length) * 1.05,
            start_seconds: 7.0,
            validation_tokens,
        };
        let (without, with) = (
            calibration(0).seconds(&cell),
            calibration(300).seconds(&cell),
        );
        let tokens = cell.planned_tokens() as f64;
        assert!((without - 7.0 - tokens).abs() < 1e-6, "{without}");
        assert!((with - without - 500.0).abs() < 1e-6, "{with}");
        // Three of one length on two workers take as long as two one after the other.
        let cells = vec![cell; 3];
        assert_eq!(calibration(0).seconds_of_all(&cells, 2), 2.0 * without);
    }

    #[test]
    fn a_length_without_a_common_divisor_is_named_with_a_better_one() {
        let mut plan = plan("smoke");
        for cell in &mut plan.cells {
            cell.settings.steps = 2001;
            cell.settings.warm_start_steps = 400;
            cell.settings.restart_every = 400;
            cell.settings.cycle_steps = 0;
        }
        let message = fit(&mut plan, Budget::Tokens(10.0), &[])
            .expect_err("no unit")
            .to_string();
        assert!(
            message.contains("steps = 2001 has no divisor above 1 in common with")
                && message.ends_with("set a multiple of 400, e.g. steps=2000"),
            "{message}"
        );
    }

    /// As after `--only`, `--jobs` or on another machine: what was fixed once is not computed again.
    #[test]
    fn a_plan_for_the_same_budget_keeps_its_scale_whatever_is_asked_for() {
        let whole = plan("smoke");
        let tokens: u64 = whole.cells.iter().map(Cell::planned_tokens).sum();
        let mut earlier = whole.clone();
        earlier.budget = Some("half".into());
        fit(&mut earlier, Budget::Tokens(tokens as f64 / 2.0), &[]).expect("fits");
        let mut part = whole.clone();
        part.budget = earlier.budget.clone();
        part.cells.truncate(1);
        part.jobs = 7;
        take_over(&mut part, &earlier).expect("same lengths");
        assert_eq!(part.cells[0], earlier.cells[0]);
        let both = part.over(&earlier, Path::new("out")).expect("the same");
        assert_eq!((both.jobs, both.scale), (earlier.jobs, earlier.scale));

        let message = whole
            .over(&earlier, Path::new("out"))
            .expect_err("longer")
            .to_string();
        assert!(
            message.contains(
                "was sized to the budget half, this command to no budget; give another --out, or the same budget (--budget \"half\")"
            ),
            "{message}"
        );
    }

    /// Runs of two lengths must not stand in one table, which compares them as if they were alike.
    #[test]
    fn methods_that_share_no_run_share_a_length_or_a_refusal() {
        let suite = Path::new("out");
        let whole = plan("smoke");
        let of = |method: &str, budget: Option<f64>| {
            let mut part = whole.clone();
            part.cells.retain(|cell| cell.method == method);
            if let Some(share) = budget {
                let tokens: u64 = part.cells.iter().map(Cell::planned_tokens).sum();
                part.budget = Some(format!("{} tokens", tokens as f64 * share));
                fit(
                    &mut part,
                    Budget::Tokens(tokens as f64 * share),
                    &whole.cells,
                )
                .expect("fits");
            }
            part
        };
        let (short, long) = (of("full", Some(0.5)), of("relora", None));
        for (first, second, says) in [
            (
                &short,
                &long,
                "sized to the budget 15360 tokens, this command to no budget",
            ),
            (
                &long,
                &short,
                "sized to no budget, this command to the budget 15360 tokens",
            ),
        ] {
            let error = second.clone().over(first, suite).expect_err(says);
            assert!(error.to_string().contains(says), "{error}");
        }
        // A budget that was enough changes no length: with and without it the suite grows.
        let enough = of("full", Some(2.0));
        assert_eq!(enough.scale, None);
        for (first, second) in [(&enough, &long), (&long, &enough)] {
            let both = second.clone().over(first, suite).expect("one length");
            assert_eq!((both.cells.len(), both.scale), (2, None));
        }
    }

    #[test]
    fn a_suite_that_has_grown_beyond_its_budget_says_so() {
        let whole = plan("smoke");
        let calibration = whole.calibration.as_ref().expect("calibrated");
        let tokens: u64 = whole.cells.iter().map(Cell::planned_tokens).sum();
        for (budget, one_alone, both) in [
            // Each run has the same tokens.
            (
                format!("{} tokens", tokens / whole.cells.len() as u64),
                false,
                true,
            ),
            ("1h".to_owned(), false, false),
            // Three on two workers take as long as two.
            (
                format!("{}s", calibration.seconds(&whole.cells[0]) * 1.5),
                false,
                true,
            ),
            (
                format!("{}s", calibration.seconds(&whole.cells[0]) * 0.9),
                true,
                true,
            ),
        ] {
            let of = |methods: &[&str]| {
                let mut part = whole.clone();
                part.budget = Some(budget.clone());
                part.cells
                    .retain(|cell| methods.contains(&cell.method.as_str()));
                let line = part.beyond_budget();
                assert!(line.iter().all(|line| line.contains(&budget)), "{line:?}");
                line.is_some()
            };
            let found = (of(&["full"]), of(&["full", "relora", "lora"]));
            assert_eq!(found, (one_alone, both), "{budget}");
        }
    }

    /// Halving finds the largest number of units only where none costs more than one that is larger. Evaluated after every
    /// 25th of 2000 steps, 159 units would be evaluated after every step and 160 after every second, were fractions dropped.
    #[test]
    fn what_a_shortened_suite_costs_grows_with_its_units() {
        for evaluate_every in [25, 300, 400] {
            let mut whole = plan("laptop");
            if let Some(calibration) = &mut whole.calibration {
                calibration.validation_tokens = 65_536;
            }
            whole
                .cells
                .retain(|cell| cell.seed == 1 && ["full", "lora"].contains(&cell.method.as_str()));
            for cell in &mut whole.cells {
                cell.settings.evaluate_every = evaluate_every;
            }
            let unit = lengths::unit(&whole.cells);
            assert_eq!(unit, 2000);
            let budget = Budget::Time(Duration::from_secs(1));
            let mut before = 0.0;
            for units in 1..=unit {
                let short = whole.shortened(unit, units);
                let cost = budget.used_at_most(&short, &whole).expect("calibrated");
                assert!(
                    cost > before,
                    "{evaluate_every}: {units} units cost {cost}, one less {before}"
                );
                let used = budget.used(
                    &short,
                    &Plan {
                        cells: short.clone(),
                        ..whole.clone()
                    },
                );
                assert!(used.expect("calibrated") <= cost);
                for (long, short) in whole.cells.iter().zip(&short) {
                    assert!(evaluations(short) <= evaluations(long));
                }
                before = cost;
            }
            let used = budget.used(&whole.cells, &whole).expect("calibrated");
            assert!(
                (used - before).abs() <= used * 1e-12,
                "all units are the whole"
            );
        }
    }

    /// The official code's cosine with a cycle length: its cycles are no restarts, and must come out even all the same, in a
    /// run of its own as in the warm start that follows it.
    #[test]
    fn a_budget_keeps_the_cycles_of_a_cosine() {
        for method in ["full", "lora-warm-start"] {
            let set = [
                format!("methods=[\"{method}\"]").into(),
                "method.full.schedule=cosine-cycles".into(),
                "method.full.cycle_steps=500".into(),
            ];
            let profile = Profile::load("laptop", &set).expect("loads");
            let mut whole = plan("laptop");
            whole.cells =
                matrix::cells(&profile, &Surroundings::without_text(&profile)).expect("cells");
            let tokens: u64 = whole.cells.iter().map(Cell::planned_tokens).sum();
            for share in [0.9, 0.499, 0.166, 0.05] {
                let mut short = whole.clone();
                fit(&mut short, Budget::Tokens(tokens as f64 * share), &[]).expect(method);
                for cell in &short.cells {
                    let cycle = match &cell.warm_start {
                        Some(stage) => stage.cycle_steps.expect("cycles"),
                        None => cell.settings.cycle_steps,
                    };
                    assert_eq!(cell.settings.steps, 4 * cycle, "{method} {share}");
                    cell.algorithm().expect("a schedule");
                }
            }
        }
    }

    /// The factor must suit cells that are not asked for: then theirs are the lengths to name.
    #[test]
    fn the_length_without_a_common_divisor_may_be_that_of_a_cell_not_asked_for() {
        let whole = plan("laptop");
        let mut asked = whole.clone();
        asked.cells.retain(|cell| cell.method == "full");
        let mut matrix = whole.cells;
        for cell in &mut matrix {
            cell.settings.restart_every = 399;
        }
        let message = fit(&mut asked, Budget::Tokens(10.0), &matrix)
            .expect_err("no unit")
            .to_string();
        assert!(
            message.contains("restart_every = 399 has no divisor above 1 in common with"),
            "{message}"
        );
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
        for (unit, units) in [(0, 0), (4, 0), (4, 5)] {
            let mut plan = good.clone();
            plan.scale = Some(Scale { unit, units });
            plan.write(directory.path()).expect("write");
            let message = Plan::read(directory.path()).expect_err("none").to_string();
            assert!(message.contains("scale.units"), "{message}");
        }
    }

    #[test]
    fn a_plan_survives_its_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plan = plan("paper");
        plan.write(directory.path()).expect("write");
        assert_eq!(Plan::read(directory.path()).expect("read"), plan);
    }

    #[test]
    fn a_plan_of_a_program_that_could_not_recompute_is_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plan = plan("paper");
        plan.write(directory.path()).expect("write");
        let path = directory.path().join(FILE);
        let text = std::fs::read_to_string(&path).expect("a plan");
        let older: Vec<&str> = (text.lines())
            .filter(|line| !line.starts_with("recompute = "))
            .collect();
        assert!(older.len() < text.lines().count());
        std::fs::write(&path, older.join("\n")).expect("written");
        assert_eq!(Plan::read(directory.path()).expect("read"), plan);
    }
}
