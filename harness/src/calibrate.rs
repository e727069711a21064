//! A short measurement of the machine, used as the suite will use it: as many processes at once as there will be workers,
//! each with a worker's threads and allocator. In processes of their own, so that the supervisor never holds a device.
//!
//! A child reads a cell, builds its network, makes one update (a device compiles its kernels then) and says [`READY`]. When
//! all are ready their inputs are closed, and each measures at the same time as the others.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use models::{Batch, Device, Learner, Precision, Seeded, Update, cost};

use crate::cli::CalibrateOptions;
use crate::commands::print;
use crate::exit::Exit;
use crate::files::failed_to;
use crate::kernels::Kernels;
use crate::matrix::Cell;
use crate::micro_batch::{self, Room};
use crate::plan::{Calibration, Plan};
use crate::progress::warn;
use crate::settings::NetworkName;
use crate::{stop, suite, worker};

/// What a child says before it measures.
const READY: &str = "ready";

/// The least that is measured: where updates are short, so many that all children are at it together for a while.
const LEAST_TIME: Duration = Duration::from_millis(500);
const LEAST_UPDATES: u64 = 2;

/// Tokens of an update at most: more would make it no more exact. A processor is kept busy by fewer, and takes its time.
fn most_tokens(device: Device) -> usize {
    match device {
        Device::Cpu => 2048,
        Device::Cuda(_) => 8192,
    }
}

/// Measures how fast the plan's workers train its smallest size at full rank, and how long they take to start. None for a
/// plan without cells.
///
/// # Errors
/// A device that fails, a process that cannot be started.
pub fn calibrate(plan: &Plan, validation_tokens: u64) -> Result<Option<Calibration>> {
    let Some(cell) = measured(&plan.cells) else {
        return Ok(None);
    };
    warn(&format!(
        "measuring this machine: {} at full rank, {} at a time",
        cell.size, plan.jobs
    ));
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let begun = Instant::now();
    let mut children = Vec::new();
    for _ in 0..plan.jobs.max(1) {
        children.push(Measuring::start(&program, plan, cell)?);
    }
    for child in &mut children {
        let said = child.line()?;
        if said != READY {
            bail!("cannot measure this machine: a process said `{said}`");
        }
    }
    let start_seconds = begun.elapsed().as_secs_f64();
    for child in &mut children {
        drop(child.process.stdin.take());
    }
    let mut total = 0.0;
    for child in &mut children {
        let rate = child.line()?;
        let rate = rate.parse::<f64>();
        total += rate.context("cannot measure this machine")?;
    }
    for child in &mut children {
        let ended = child.process.wait();
        ended.context("cannot wait for a measuring process")?;
    }
    Ok(Some(Calibration {
        size: cell.size.clone(),
        place: Some(plan.place()),
        flops_per_second: total / children.len() as f64,
        start_seconds,
        validation_tokens,
    }))
}

/// The cell whose network is measured: of the smallest size, whichever of its methods are asked for. A matched network is a
/// smaller one than the size's own, and measured only where there is no other.
fn measured(cells: &[Cell]) -> Option<&Cell> {
    cells.iter().min_by_key(|cell| {
        let matched = cell.settings.network == NetworkName::Matched;
        (matched, cell.network().parameters())
    })
}

/// A process that measures.
struct Measuring {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Measuring {
    fn start(program: &Path, plan: &Plan, cell: &Cell) -> Result<Measuring> {
        let mut command = suite::training_process(program);
        command
            .args(["calibrate", "--device", &plan.device])
            .args(["--precision", &plan.precision])
            .args(["--threads", &plan.threads.to_string()]);
        let mut process = command.spawn().map_err(failed_to("start", program))?;
        let input = process.stdin.as_mut().context("no pipe")?;
        let mut line = serde_json::to_vec(cell)?;
        line.push(b'\n');
        // One that has failed already says so when it is listened to.
        let _ = input.write_all(&line);
        let output = BufReader::new(process.stdout.take().context("no pipe")?);
        Ok(Measuring { process, output })
    }

    /// The next line that it says; what it failed with, if it ends without.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        if read.context("cannot hear a measuring process")? > 0 {
            return Ok(line.trim_end().to_owned());
        }
        let mut messages = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            // What cannot be read cannot be told.
            let _ = stderr.read_to_string(&mut messages);
        }
        let status = self.process.wait();
        let status = status.context("cannot wait for a measuring process")?;
        let error = messages
            .lines()
            .find_map(|line| line.strip_prefix("error: "));
        Err(error.map_or_else(
            || anyhow!("cannot measure this machine: a process ended without a word ({status})"),
            |error| anyhow!("cannot measure this machine: {error}"),
        ))
    }
}

/// `relora calibrate`: what such a process does. Its input is a cell as JSON on one line, then nothing until it ends.
///
/// # Errors
/// A device that is not there, or fails; an input that is none.
pub fn measure(options: &CalibrateOptions) -> Result<Exit> {
    let device: Device = options.device.parse()?;
    let precision: Precision = options.precision.parse()?;
    worker::start_threads(options.threads)?;
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line).context("cannot read a cell")?;
    let cell: Cell = serde_json::from_str(&line).context("standard input holds no cell")?;
    cell.check()
        .map_err(|why| anyhow!("the cell on standard input: {why}"))?;

    let mut measured = cell.clone();
    let most = most_tokens(device).div_ceil((cell.settings.sequence_length as usize).max(1));
    measured.settings.micro_batch_size = cell.settings.micro_batch_size.min(most as u64);
    let room = Room::of(device, precision, 1);
    stop::without_panic(|| measure_cell(&measured, device, precision, &mut input))
        .map_err(|error| micro_batch::explained(error, device, &measured, &room))
}

/// Measures a cell's network with the cell's micro-batch, once `input` ends.
fn measure_cell(
    cell: &Cell,
    device: Device,
    precision: Precision,
    input: &mut impl BufRead,
) -> Result<Exit> {
    let (network, length) = (cell.network(), cell.settings.sequence_length as usize);
    let rows = cell.settings.micro_batch_size as usize;
    let adamw = cell.algorithm()?.adamw;
    let draws = Seeded { seed: 0 };
    let _kept_to_the_end = Kernels::open(device);
    let mut learner = models::learner(&network, &adamw, device, precision, &draws)?;
    learner.recompute_blocks(cell.settings.recompute);
    let tokens: Vec<u32> = (0..rows * length)
        .map(|index| (index * 7919 % network.vocabulary) as u32)
        .collect();
    let train = |learner: &mut dyn Learner, step: u64| -> Result<()> {
        let batch = Batch {
            inputs: &tokens,
            targets: &tokens,
            rows,
            length,
            index: step,
        };
        learner.accumulate(batch, 1.0 / tokens.len() as f64);
        learner.update(Update {
            step,
            learning_rate: 0.0,
            grad_clip: None,
        });
        learner.drain()?;
        Ok(())
    };
    train(&mut *learner, 0)?;
    print(READY)?;
    io::copy(input, &mut io::sink()).context("cannot wait for the others")?;

    let start = Instant::now();
    let mut updates = 0;
    while updates < LEAST_UPDATES || start.elapsed() < LEAST_TIME {
        updates += 1;
        train(&mut *learner, updates)?;
    }
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let flops = cost::full_rank_flops_computed_per_token(&network, length, cell.settings.recompute)
        * tokens.len() as f64;
    print(&(flops * updates as f64 / seconds).to_string())?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{Surroundings, cells};
    use crate::profile::Profile;

    /// Else the steps of a budget in time would depend on the methods that are asked for.
    #[test]
    fn what_is_measured_is_the_network_of_the_smallest_size_whatever_the_methods() {
        let profile = Profile::load("paper", &[]).expect("loads");
        let all = cells(&profile, &Surroundings::without_text(&profile)).expect("cells");
        let of = |size: &str, method: &str| {
            let mut cells = all.iter();
            let cell =
                cells.find(|cell| (cell.size.as_str(), cell.method.as_str()) == (size, method));
            cell.expect("there is one").clone()
        };
        let own = of("60m", "full").network();
        assert_ne!(of("60m", "control").network(), own);
        for methods in [
            &["control", "full"][..],
            &["control", "relora"],
            &["relora"],
            &["full", "lora"],
        ] {
            let asked: Vec<Cell> = ["130m", "60m"]
                .iter()
                .flat_map(|size| methods.iter().map(|method| of(size, method)))
                .collect();
            let measured = measured(&asked).expect("there are cells").network();
            assert_eq!(measured, own, "{methods:?}");
        }
        assert!(measured(&[]).is_none());
    }
}
