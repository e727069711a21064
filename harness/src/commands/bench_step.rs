//! `relora bench-step`: how fast this machine trains a network, how much memory that takes, and where the time goes.
//!
//! It trains on generated tokens in this very process, on as many threads and with the same allocator as a worker, so that
//! what it prints is what a run would show.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use models::{Batch, Device, Learner, Network, Phases, Precision, Seeded, Update, cost};
use results::record::PlannedMemory;
use results::render::{megabytes, number_of};
use serde::Serialize;

use super::request::{Request, no_factors, one_cell, place};
use super::{print, print_json};
use crate::algorithm::{MethodSwitches, adamw};
use crate::cli::{BenchStepOptions, SuiteOptions};
use crate::exit::{Exit, UserError};
use crate::journal::Phase;
use crate::kernels::Kernels;
use crate::machine;
use crate::matrix;
use crate::micro_batch::{self, Room};
use crate::nvml::Meter;
use crate::profile::Assignment;
use crate::settings::Settings;
use crate::{plan, stop, suite, worker};

/// Steps before those that count: kernels are compiled and the allocator's pages are fetched in them.
const WARMUP_STEPS: u64 = 2;

/// Trains the steps and prints the figures.
///
/// # Errors
/// A size, method or value that cannot be, a device that is not there or fails.
pub fn run(options: BenchStepOptions) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    suite::with_training_allocator()?;
    let (settings, network) = asked(&options)?;
    let place = place(&options.place)?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = options.threads.unwrap_or(cores);
    worker::start_threads(threads)?;

    let (device, precision) = place;
    let rows = options.batch;
    let planned = |rows| planned(&options, &settings, &network, place, rows);
    let room = Room::of(device, precision, 1);
    let work = || {
        if device == Device::Cpu {
            check_memory(&planned(rows), rows, length(&options, &settings))?;
        }
        measure(&options, &settings, &network, place, threads, begun)
    };
    let measured = stop::without_panic(work).map_err(|error| {
        if !micro_batch::is_out_of_memory(&error) {
            return error;
        }
        let planned = |rows: u64| planned(rows as usize).total();
        let fewer = micro_batch::smaller(rows as u64, &room, planned).next();
        let fits = fewer.map(|fewer| (fewer, format!("--batch {fewer}")));
        anyhow!(micro_batch::out_of_memory(device, rows as u64, fits))
    })?;
    if options.json {
        print_json(&measured)?;
    } else {
        print(&measured.text())?;
    }
    Ok(Exit::Success)
}

/// Tokens of a sequence: those that are asked for, or the profile's.
fn length(options: &BenchStepOptions, settings: &Settings) -> usize {
    options.seq.unwrap_or(settings.sequence_length as usize)
}

/// Memory of a step of so many sequences.
fn planned(
    options: &BenchStepOptions,
    settings: &Settings,
    network: &Network,
    (device, precision): (Device, Precision),
    rows: usize,
) -> cost::Bytes {
    let low_rank = MethodSwitches::of(settings).low_rank;
    let step = cost::Step {
        precision,
        rows,
        length: length(options, settings),
        accumulates: false,
        recompute: settings.recompute,
        on_gpu: device != Device::Cpu,
    };
    cost::bytes(network, low_rank.as_ref(), &step)
}

/// Trains the steps.
fn measure(
    options: &BenchStepOptions,
    settings: &Settings,
    network: &Network,
    (device, precision): (Device, Precision),
    threads: u64,
    begun: Instant,
) -> anyhow::Result<Measured> {
    let (rows, length) = (options.batch, length(options, settings));
    let low_rank = MethodSwitches::of(settings).low_rank;
    let draws = Seeded { seed: 0 };
    let kernels = Kernels::open(device);
    let allocated_before = models::held_by_process().allocated;
    let mut learner = models::learner(network, &adamw(settings), device, precision, &draws)?;
    learner.recompute_blocks(settings.recompute);
    if let Some(low_rank) = &low_rank {
        learner.attach(0, low_rank, &draws);
    }
    let mut steps = Steps::new(network, rows, length, settings.grad_clip);
    steps.take(&mut *learner)?;
    let first_step = begun.elapsed();
    for _ in 1..WARMUP_STEPS {
        steps.take(&mut *learner)?;
    }
    let meter = worker::gpu(device).and_then(Meter::start);
    if let Some(meter) = &meter {
        meter.turn_to(Phase::Training);
    }
    let mut timed = Vec::new();
    let mut early_peak_memory_bytes = None;
    for step in 0..options.steps {
        timed.push(steps.take(&mut *learner)?);
        if step == options.steps / 10 {
            let by_driver = meter
                .as_ref()
                .and_then(|meter| meter.so_far().peak_memory_bytes);
            early_peak_memory_bytes = learner.memory().peak_bytes.or(by_driver);
        }
    }
    let used = meter.map(|meter| meter.used()).unwrap_or_default();
    // Before anything else is measured, which takes memory of its own.
    let peak_memory_bytes = learner.memory().peak_bytes;
    let process = match device {
        Device::Cpu => allocated_before + models::held_by_process().mapped,
        Device::Cuda(_) => 0,
    };
    drop(learner);
    drop(kernels);

    let tokens = (rows * length) as f64;
    let seconds = |of: fn(&Phases) -> Duration| {
        Spread::of(
            timed
                .iter()
                .map(|phases| of(phases).as_secs_f64())
                .collect(),
        )
    };
    let step_seconds = seconds(Phases::total);
    let flops = cost::flops_per_token(network, low_rank.as_ref(), length);
    let rates = timed
        .iter()
        .map(|phases| tokens / phases.total().as_secs_f64());
    let tokens_per_second = Spread::of(rates.collect());
    Ok(Measured {
        profile: profile_of(options).to_owned(),
        size: options.size.clone(),
        method: options.method.clone(),
        rank: low_rank.as_ref().map(|low_rank| low_rank.rank),
        device: device.to_string(),
        precision: precision.to_string(),
        threads,
        batch: rows,
        sequence_length: length,
        vocabulary: network.vocabulary,
        hidden: network.hidden,
        intermediate: network.intermediate,
        layers: network.layers,
        heads: network.heads,
        parameters: network.total_parameters(low_rank.as_ref()),
        steps: options.steps,
        flops_per_second: tokens_per_second.median * flops,
        product_flops_per_second: (device == Device::Cpu).then(product_flops_per_second),
        card_flops_per_second: card_flops_per_second(device, precision),
        tokens_per_second,
        step_seconds,
        forward_seconds: seconds(|phases| phases.forward).median,
        backward_seconds: seconds(|phases| phases.backward).median,
        update_seconds: seconds(|phases| phases.step).median,
        first_step_seconds: first_step.as_secs_f64(),
        peak_memory_bytes,
        early_peak_memory_bytes,
        joules_per_token: (used.joules)
            .map(|joules| joules.training / (tokens * options.steps as f64)),
        driver_peak_memory_bytes: used.peak_memory_bytes,
        planned_bytes: plan::beside_process(
            planned(options, settings, network, (device, precision), rows),
            process,
        ),
    })
}

/// Refuses what this process may not take: its allocation would end the process without a word.
fn check_memory(planned: &cost::Bytes, rows: usize, length: usize) -> Result<(), UserError> {
    let needed = planned.total();
    match machine::memory().filter(|there| *there < needed) {
        Some(there) => Err(UserError::new(format!(
            "--batch {rows} --seq {length}: {} are planned for it, and this process may take {}",
            megabytes(needed),
            megabytes(there)
        ))),
        None => Ok(()),
    }
}

/// The profile that is asked for, or the one that the size is meant for: of another one the rank would not fit.
fn profile_of(options: &BenchStepOptions) -> &str {
    match &options.profile {
        Some(profile) => profile,
        None if Network::is_official(&options.size) => "paper",
        None => "laptop",
    }
}

/// What a profile says of the size and the method; what it would read, and for how long, is not looked at.
fn asked(options: &BenchStepOptions) -> anyhow::Result<(Settings, Network)> {
    let BenchStepOptions {
        size, method, rank, ..
    } = options;
    let profile = profile_of(options);
    let rank = rank.map(|rank| (format!("--rank {rank}"), format!("rank={rank}")));
    let mut set = options.set.clone();
    set.extend(one_cell(format!("--size {size}"), size, method));
    set.extend(
        rank.iter()
            .map(|(typed, set)| Assignment::by_flag(typed, set)),
    );
    let suite = SuiteOptions {
        profile: Some(profile.to_owned()),
        set,
        place: options.place.clone(),
        ..SuiteOptions::default()
    };
    let profile = Request::new(&suite)?.profile;
    let vocabulary = match &profile.init_from {
        Some(init_from) => init_from.config.network.vocabulary as u64,
        None => profile.data.vocabulary,
    };
    let (settings, network) = matrix::resolved(&profile, size, method, vocabulary)?;
    match rank {
        Some((typed, _)) if !settings.low_rank => Err(no_factors(&typed, method).into()),
        _ => Ok((settings, network)),
    }
}

/// Steps on the same tokens, over and over.
struct Steps {
    tokens: Vec<u32>,
    rows: usize,
    length: usize,
    grad_clip: Option<f64>,
    taken: u64,
}

impl Steps {
    fn new(network: &Network, rows: usize, length: usize, grad_clip: Option<f64>) -> Steps {
        // Scattered over the vocabulary, so that no cache finds a pattern in the rows of the embedding.
        let token = |position: usize| position.wrapping_mul(2_654_435_761) % network.vocabulary;
        Steps {
            tokens: (0..rows * length)
                .map(|position| token(position) as u32)
                .collect(),
            rows,
            length,
            grad_clip,
            taken: 0,
        }
    }

    fn take(&mut self, learner: &mut dyn Learner) -> anyhow::Result<Phases> {
        let batch = Batch {
            inputs: &self.tokens,
            targets: &self.tokens,
            rows: self.rows,
            length: self.length,
            index: self.taken,
        };
        let update = Update {
            step: self.taken,
            learning_rate: 1e-4,
            grad_clip: self.grad_clip,
        };
        self.taken += 1;
        let phases = learner.timed_update(batch, 1.0 / self.tokens.len() as f64, update)?;
        learner.drain()?;
        Ok(phases)
    }
}

/// Operations per second that the data sheet of a GPU promises for what `precision` computes in.
fn card_flops_per_second(device: Device, precision: Precision) -> Option<f64> {
    match (device, precision) {
        (Device::Cpu, _) | (_, Precision::F32) => None,
        (Device::Cuda(index), Precision::Bf16 | Precision::Bf16Master) => {
            models::bf16_flops_per_second(&models::probe().devices.get(index)?.name)
        }
    }
}

/// Operations per second of a product of two matrices of 2048 x 2048, the best of several: what no training step on this
/// processor surpasses.
fn product_flops_per_second() -> f64 {
    use models::ops::cpu::product::{Matrix, Threads, product};
    const WIDTH: usize = 2048;
    let values: Vec<f32> = (0..WIDTH * WIDTH).map(|index| (index % 7) as f32).collect();
    let matrix = Matrix::new(&values, WIDTH, WIDTH);
    let once = |_| {
        let begun = Instant::now();
        std::hint::black_box(product(1.0, matrix, matrix, Threads::Pool));
        begun.elapsed().as_secs_f64()
    };
    let fastest = (0..8).map(once).fold(f64::INFINITY, f64::min);
    2.0 * (WIDTH as f64).powi(3) / fastest
}

/// The middle of several figures, and the middle half of them.
#[derive(Debug, PartialEq, Serialize)]
struct Spread {
    median: f64,
    lower_quartile: f64,
    upper_quartile: f64,
}

impl Spread {
    /// Quartiles by linear interpolation; zeros of nothing.
    fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * values.len().saturating_sub(1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            match (values.get(below), values.get(above)) {
                (Some(below), Some(above)) => below + (above - below) * place.fract(),
                _ => 0.0,
            }
        };
        Spread {
            median: at(0.5),
            lower_quartile: at(0.25),
            upper_quartile: at(0.75),
        }
    }
}

/// What was measured, as `--json` prints it.
#[derive(Serialize)]
struct Measured {
    profile: String,
    size: String,
    method: String,
    rank: Option<usize>,
    device: String,
    precision: String,
    threads: u64,
    batch: usize,
    sequence_length: usize,
    vocabulary: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    parameters: u64,
    steps: u64,
    tokens_per_second: Spread,
    step_seconds: Spread,
    forward_seconds: f64,
    backward_seconds: f64,
    update_seconds: f64,
    /// From the start of the command to the end of its first step.
    first_step_seconds: f64,
    /// Those that training needs ([`cost::flops_per_token`]); what is computed twice counts once.
    flops_per_second: f64,
    /// Those of a large matrix product; none where it is not measured.
    product_flops_per_second: Option<f64>,
    /// Those that the GPU's data sheet promises in this precision; none where it is not known.
    card_flops_per_second: Option<f64>,
    peak_memory_bytes: Option<u64>,
    /// The peak when a tenth of the timed steps was done, on a GPU what its driver says: where memory grows, the later one is
    /// higher.
    early_peak_memory_bytes: Option<u64>,
    /// What the GPU's driver says; none on a CPU, and where it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    joules_per_token: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_peak_memory_bytes: Option<u64>,
    planned_bytes: PlannedMemory,
}

impl Measured {
    fn text(&self) -> String {
        let rank = self
            .rank
            .map_or_else(String::new, |rank| format!(", rank {rank}"));
        let threads = number_of(self.threads, "thread");
        let Spread {
            median,
            lower_quartile,
            upper_quartile,
        } = self.tokens_per_second;
        // Of their sum, since the medians of the phases need not add up to the median of the step.
        let phases = self.forward_seconds + self.backward_seconds + self.update_seconds;
        let phase = |name: &str, seconds: f64| {
            let share = 100.0 * seconds / phases;
            format!("  {name:<20}{:.1} ms, {share:.0}%\n", seconds * 1e3)
        };
        let mut text = format!(
            "{} {}{rank}: {:.1}M parameters, {} in {}, {threads}\n\
             {} x {} tokens, vocabulary {} (profile {}); median and middle half of {} after {WARMUP_STEPS}\n\n",
            self.size,
            self.method,
            self.parameters as f64 / 1e6,
            self.device,
            self.precision,
            self.batch,
            self.sequence_length,
            self.vocabulary,
            self.profile,
            self.steps,
        );
        text += &format!(
            "{:<22}{median:.0} [{lower_quartile:.0}, {upper_quartile:.0}]\n",
            "tokens per second"
        );
        text += &format!("{:<22}{:.1} ms\n", "step", self.step_seconds.median * 1e3);
        text += &phase("forward", self.forward_seconds);
        text += &phase("backward", self.backward_seconds);
        text += &phase("norm, clip, AdamW", self.update_seconds);
        text += &format!(
            "{:<22}{:.2} s\n",
            "first step after", self.first_step_seconds
        );
        let share_of = |whose: &str, ceiling: Option<f64>| {
            ceiling.map_or_else(String::new, |ceiling| {
                let share = 100.0 * self.flops_per_second / ceiling;
                format!(", {share:.0}% of {whose} {:.1}", ceiling / 1e9)
            })
        };
        let share = share_of("a large matrix product's", self.product_flops_per_second)
            + &share_of("the data sheet's", self.card_flops_per_second);
        text += &format!(
            "{:<22}{:.1}{share}\n",
            "GFLOP/s",
            self.flops_per_second / 1e9
        );
        if let Some(peak) = self.peak_memory_bytes {
            text += &format!("{:<22}{}\n", "peak memory", megabytes(peak));
        }
        if let Some(peak) = self.driver_peak_memory_bytes {
            text += &format!("{:<22}{}\n", "GPU memory in use", megabytes(peak));
        }
        if let Some(joules) = self.joules_per_token {
            text += &format!("{:<22}{:.2} mJ\n", "energy of a token", joules * 1e3);
        }
        text += &format!(
            "{:<22}{}\n",
            "planned",
            megabytes(self.planned_bytes.total())
        );
        for (class, bytes) in self.planned_bytes.classes() {
            text += &format!("  {class:<20}{}\n", megabytes(bytes));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quartiles_of_few_figures_lie_between_them() {
        // type 7 of Hyndman and Fan, as numpy.percentile has it: [1, 2, 4, 8] at 25, 50 and 75
        let spread = Spread::of(vec![8.0, 1.0, 4.0, 2.0]);
        let expected = Spread {
            median: 3.0,
            lower_quartile: 1.75,
            upper_quartile: 5.0,
        };
        assert_eq!(spread, expected);
        assert_eq!(Spread::of(vec![7.0]).lower_quartile, 7.0);
    }
}
