//! A run in another number of steps: warm start, cycles and warm-ups keep their proportions, and the run its number of cycles
//! and restarts. One mechanism for `--budget`, which looks for a number, and for `relora train --steps`, which is given one.

use std::collections::BTreeSet;

use crate::exit::UserError;
use crate::matrix::Cell;
use crate::settings::{MOST_STEPS, ScheduleName, ScheduleSpan, Settings};

/// The settings that are numbers of steps and change with the number of steps.
pub const KEYS: &[&str] = &[
    "steps",
    "warm_start_steps",
    "warmup_steps",
    "restart_every",
    "cycle_steps",
    "rewarmup_steps",
    "adjust_steps",
    "evaluate_every",
];

/// How far from a number of steps that does not do those that do are looked for.
const FAR: usize = 10_000;

/// The cell in `steps` steps. Of the cycles each keeps its share, rounded down; what that leaves goes to the warm start. A
/// warm-up has at least one step. Evaluations become rarer rather than more: never are there more of them than before.
///
/// Whether the number suits the cell is for [`in_steps`] to say, or, of a share of all lengths, for [`unit`].
#[must_use]
pub fn shortened(cell: &Cell, steps: u64) -> Cell {
    let long = &cell.settings;
    let product = |length: u64, times: u64| u128::from(length) * u128::from(times);
    let exact = |length: u64| (product(length, steps) / u128::from(long.steps.max(1))) as u64;
    let about = |length: u64| if length == 0 { 0 } else { exact(length).max(1) };
    let rarer = |length: u64| product(length, steps).div_ceil(u128::from(long.steps.max(1))) as u64;

    let mut short = cell.clone();
    let settings = &mut short.settings;
    settings.steps = steps;
    settings.warm_start_steps = about(long.warm_start_steps);
    settings.warmup_steps = about(long.warmup_steps);
    settings.restart_every = exact(long.restart_every);
    settings.cycle_steps = exact(long.cycle_steps);
    settings.rewarmup_steps = about(long.rewarmup_steps);
    settings.adjust_steps = exact(long.adjust_steps);
    settings.evaluate_every = rarer(long.evaluate_every);
    // Restarts and cycles of two lengths stay in step: what both are multiples of is rounded. A method that has neither rounds
    // its warm start as those do that have, or it would not be theirs.
    let common = match periods(long).into_iter().fold(0, gcd) {
        0 if long.warm_start => gcd(long.restart_every, long.cycle()),
        common => common,
    };
    if common > 0 {
        let rounded = exact(common);
        let in_step = |length: u64| length / common * rounded;
        if long.restarts || long.cycle_steps == 0 {
            settings.restart_every = in_step(long.restart_every);
        }
        if long.has_cycles() {
            settings.cycle_steps = in_step(long.cycle_steps);
        }
        if long.warm_start {
            let stage = long.steps.saturating_sub(long.warm_start_steps);
            let stage = product(stage, rounded).div_ceil(u128::from(common)) as u64;
            settings.warm_start_steps = steps.saturating_sub(stage);
        }
    }
    if let Some(stage) = &mut short.warm_start {
        stage.warmup_steps = about(stage.warmup_steps);
        stage.cycle_steps = stage.cycle_steps.map(exact);
    }
    short
}

/// The cell in exactly these steps, shorter or longer, with as many cycles and restarts as it has.
///
/// # Errors
/// Steps that cannot be divided as the cell's are, with the nearest numbers that can.
pub fn in_steps(cell: &Cell, steps: u64) -> Result<Cell, UserError> {
    let suiting = |steps: u64| -> Result<Cell, String> {
        let short = shortened(cell, steps);
        if counts(&short) != counts(cell) {
            return Err(format!(
                "cannot be divided into the cycles of method `{}` as the profile's {} steps are",
                cell.method, cell.settings.steps
            ));
        }
        short.check().map(|()| short)
    };
    suiting(steps).map_err(|why| {
        let suits = |steps: &u64| suiting(*steps).is_ok();
        let below = (1..steps).rev().take(FAR).find(suits);
        let above = (steps.saturating_add(1)..=MOST_STEPS).take(FAR).find(suits);
        let nearest: Vec<String> = below
            .into_iter()
            .chain(above)
            .map(|steps| steps.to_string())
            .collect();
        let way_out = if nearest.is_empty() {
            String::new()
        } else {
            format!("; nearest that can: {}", nearest.join(", "))
        };
        UserError::new(format!("--steps {steps}: {why}{way_out}"))
    })
}

/// How often what comes periodically comes, and whether the last time is whole: restarts, resets, cycles of the schedule and of
/// that of the warm start.
fn counts(cell: &Cell) -> [(u64, bool); 4] {
    let settings = &cell.settings;
    let stage = settings.steps.saturating_sub(settings.warm_start_length());
    // As `schedule::Events` counts: after the first update of every cycle but the first one.
    let events = |on: bool, every: u64| {
        let events = stage.saturating_sub(1).checked_div(every);
        (events.filter(|_| on).unwrap_or(0), true)
    };
    let cycles = |on: bool, span: u64, cycle: u64| match span.checked_div(cycle) {
        Some(cycles) if on => (cycles, span.is_multiple_of(cycle)),
        _ => (0, true),
    };
    let span = match settings.schedule_span {
        ScheduleSpan::Remaining => stage,
        ScheduleSpan::Whole => settings.steps,
    };
    let cyclic = settings.jagged || settings.schedule == ScheduleName::CosineCycles;
    let of_warm_start = (cell.warm_start.as_ref()).and_then(|stage| stage.cycle_steps);
    [
        events(settings.restarts, settings.restart_every),
        events(settings.optimizer_reset, settings.cycle()),
        cycles(cyclic, span, settings.cycle()),
        cycles(
            of_warm_start.is_some(),
            settings.steps,
            of_warm_start.unwrap_or(0),
        ),
    ]
}

/// From one restart to the next, and of a cycle, where a run has these.
fn periods(settings: &Settings) -> Vec<u64> {
    let restarts = settings.restarts.then_some(settings.restart_every);
    let cycles = settings.has_cycles().then(|| settings.cycle());
    restarts.into_iter().chain(cycles).collect()
}

/// The lengths of a run that must keep their proportions, by their keys.
pub fn of(cell: &Cell) -> Vec<(&'static str, u64)> {
    let settings = &cell.settings;
    let mut lengths = vec![
        ("steps", settings.steps),
        ("warm_start_steps", settings.warm_start_length()),
    ];
    if settings.restarts || (settings.has_cycles() && settings.cycle_steps == 0) {
        lengths.push(("restart_every", settings.restart_every));
    }
    if settings.has_cycles() {
        lengths.push(("cycle_steps", settings.cycle_steps));
    }
    if let Some(cycle) = (cell.warm_start.as_ref()).and_then(|stage| stage.cycle_steps) {
        lengths.push(("method.full.cycle_steps", cycle));
    }
    lengths.retain(|(_, steps)| *steps > 0);
    lengths
}

/// The greatest length that divides all the lengths of these cells which must keep their proportions: shortened to a whole
/// share of it, all of them keep them exactly.
pub fn unit<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> u64 {
    cells
        .into_iter()
        .map(|cell| common_divisor(&of(cell)))
        .fold(0, gcd)
}

/// Which lengths have no divisor in common that would let them be shortened, and what to set instead.
pub fn without_a_unit<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> String {
    let lengths: BTreeSet<(&str, u64)> = cells.into_iter().flat_map(of).collect();
    let lengths: Vec<(&str, u64)> = lengths.into_iter().collect();
    let listed = |lengths: &[(&str, u64)]| {
        let shown: Vec<String> = lengths
            .iter()
            .map(|(key, steps)| format!("{key} = {steps}"))
            .collect();
        shown.join(", ")
    };
    let unit = common_divisor(&lengths);
    let others = |index: usize| [&lengths[..index], &lengths[index + 1..]].concat();
    let odd = (0..lengths.len()).max_by_key(|index| {
        // Of equals the longest, which a step more or less changes least.
        (common_divisor(&others(*index)), lengths[*index].1)
    });
    if let Some(index) = odd {
        let (key, steps) = lengths[index];
        let better = common_divisor(&others(index));
        if better > unit {
            let nearest = ((steps + better / 2) / better).max(1) * better;
            return format!(
                "{key} = {steps} has no divisor above {unit} in common with {}; set a multiple of {better}, e.g. {key}={nearest}",
                listed(&others(index))
            );
        }
    }
    format!(
        "{} have no divisor above {unit} in common; set multiples of one length",
        listed(&lengths)
    )
}

fn common_divisor(lengths: &[(&str, u64)]) -> u64 {
    lengths.iter().map(|(_, steps)| *steps).fold(0, gcd)
}

/// The length of a run that would become too short first.
pub fn shortest(cell: &Cell) -> u64 {
    let of_warm_start = (cell.warm_start.as_ref()).and_then(|stage| stage.cycle_steps);
    let cycles = periods(&cell.settings).into_iter().chain(of_warm_start);
    cycles.min().unwrap_or(cell.settings.steps)
}

fn gcd(left: u64, right: u64) -> u64 {
    if right == 0 {
        left
    } else {
        gcd(right, left % right)
    }
}
