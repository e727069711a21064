//! The worker process: from a run directory to the parts of its run, and from the run's end to an exit code.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use datasets::{Batches, Layout, Order, Split, Store};
use models::{Device, Gpu, Learner, Precision, Seeded, UnknownName};
use results::record::{CudaSession, Session};

use crate::exit::{Exit, UserError, one_line};
use crate::files;
use crate::hugging_face::Folder;
use crate::journal::{self, Journal};
use crate::kernels::Kernels;
use crate::lease::{Claim, Lease, LostLease};
use crate::machine::{self, processor_name};
use crate::matrix::{Cell, InitialWeights};
use crate::micro_batch::{self, Room};
use crate::nvml::{self, Meter};
use crate::plan::Plan;
use crate::progress::warn;
use crate::run::{self, Data, Outcome};
use crate::settings::Documents;
use crate::stop::{self, HELD_LINE, Reason, Stop};

/// What each command on a suite has its own of: where the arithmetic is done, and where the text lies. No number depends on
/// it. What is not given is as in `plan.toml`, where the first command has left its own.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `cpu`, `cuda:0`.
    pub device: Option<String>,
    /// Compute threads.
    pub threads: Option<u64>,
    /// Directory of the token store.
    pub store: Option<PathBuf>,
}

/// Works on a run directory of a suite until its run ends or stops. `supervised`: standard input belongs to a supervisor
/// whose end is ours ([`Stop::watch_supervisor`]).
///
/// # Errors
/// [`UserError`] for a directory that is no run of a suite, one made with other settings, or a device of another kind than
/// the run's; otherwise what kept the run from going on, which is also left in `failed.json`.
pub fn work(directory: &Path, supervised: bool, place: Place) -> Result<Exit> {
    // First of all: a terminal's Ctrl-C reaches workers too, and must find one that knows what to do.
    let stop = Stop::new(None);
    stop.install_signals()?;
    let (plan, cell) = assignment(directory)?;
    let plan = Plan {
        device: place.device.unwrap_or(plan.device),
        threads: place.threads.unwrap_or(plan.threads),
        store: place.store.unwrap_or(plan.store),
        ..plan
    };
    if kind(plan.device.parse().map_err(unknown)?) != cell.device {
        return Err(UserError::new(format!(
            "--device {}: {} is a run on {}",
            plan.device,
            directory.display(),
            cell.device
        ))
        .into());
    }
    journal::check(directory, &cell)?;
    if journal::result(directory)?.is_some() {
        return Ok(Exit::Success);
    }
    stop::poison_on_panic();
    if supervised {
        stop.watch_supervisor()?;
    }
    start_threads(plan.threads)?;
    files::create_directory(directory)?;
    let lease = match Lease::claim(directory, &stop)? {
        Claim::Taken(lease) => lease,
        Claim::Held(holder) => {
            warn(&format!(
                "{} is worked on by process {} on {}",
                directory.display(),
                holder.pid,
                holder.host
            ));
            if supervised {
                // A supervisor that has gone away needs no answer.
                let _ = writeln!(io::stdout(), "{HELD_LINE}");
            }
            return Ok(Exit::Stopped);
        }
    };
    if journal::result(directory)?.is_some() {
        return Ok(Exit::Success);
    }
    // Dropped, and with that left to others, when the learner is gone.
    let kernels = Kernels::open(plan.device.parse().map_err(unknown)?);
    let mut journal = Journal::open(directory, &cell, lease, session(&plan, &kernels))?;
    journal.copy_to_stdout();
    if plan.tensorboard {
        journal.write_events();
    }
    let device: Device = plan.device.parse().map_err(unknown)?;
    let precision: Precision = cell.precision.parse().map_err(unknown)?;
    if let Some(meter) = gpu(device).and_then(Meter::start) {
        journal.measure(meter);
    }
    // Asked before this process takes anything of it.
    let room = Room::beside_others(device, precision, plan.jobs);
    let ended = stop::without_panic(|| train(&plan, &cell, &mut journal, &stop))
        .map_err(|error| micro_batch::explained(error, device, &cell, &room));
    match ended {
        Ok(Outcome::Complete | Outcome::Diverged { .. }) => Ok(Exit::Success),
        Ok(Outcome::Stopped(_)) => Ok(Exit::Stopped),
        Err(error) => {
            // On a full disk this fails too; the exit code and the message remain.
            let recorded = journal.fail(&one_line(&error));
            if stop.reason() == Some(Reason::LostLease)
                || recorded.is_err_and(|error| error.is::<LostLease>())
            {
                // Whatever went wrong then went wrong because two worked here.
                warn(&format!(
                    "{}: another process has taken the run over",
                    directory.display()
                ));
                return Ok(Exit::Stopped);
            }
            Err(error)
        }
    }
}

/// The batches of a cell: training in the order of its seed, which no method changes; validation as it lies.
///
/// # Errors
/// A text with fewer sequences than an update needs.
pub fn data(cell: &Cell, store: &Arc<Store>) -> Result<Data> {
    let settings = &cell.settings;
    let layout = match settings.documents {
        Documents::Packed => Layout::Packed,
        Documents::Padded => Layout::Padded,
    };
    let batches = |split, order, global_batch: u64| {
        let length = settings.sequence_length as usize;
        let (global_batch, micro_batch) =
            (global_batch as usize, settings.micro_batch_size as usize);
        Batches::new(
            Arc::clone(store),
            split,
            order,
            layout,
            length,
            settings.overlap as usize,
            global_batch,
            micro_batch,
        )
    };
    Ok(Data {
        training: batches(
            Split::Training,
            Order::Seeded(cell.seed),
            settings.global_batch_size,
        )?,
        validation: batches(
            Split::Validation,
            Order::Sequential,
            settings.micro_batch_size,
        )?,
    })
}

/// Builds the parts and runs the algorithm.
fn train(plan: &Plan, cell: &Cell, journal: &mut Journal, stop: &Stop) -> Result<Outcome> {
    let store = Arc::new(Store::open(&plan.store)?);
    if store.hash() != cell.data.hash {
        let message = format!(
            "{} holds another text than this run was planned with",
            plan.store.display()
        );
        return Err(UserError::new(message)
            .hint("run the command that made the suite again: it prepares the text anew; or name its store with --store")
            .into());
    }
    let data = data(cell, &store)?;
    // Of packed rows that overlap, the stream's first token is the only one that is no target; else this is an estimate.
    let targets = store.validation_tokens().saturating_sub(1).max(1);
    journal.set_bytes_per_target(store.validation_text_bytes() as f64 / targets as f64);
    let algorithm = cell.algorithm()?;
    let draws = Seeded { seed: cell.seed };
    let device: Device = plan.device.parse().map_err(unknown)?;
    let precision: Precision = cell.precision.parse().map_err(unknown)?;
    let mut learner =
        models::learner(&cell.network(), &algorithm.adamw, device, precision, &draws)?;
    learner.recompute_blocks(cell.settings.recompute);
    // A run that goes on has them behind it.
    if let Some(initial) = &cell.initial
        && journal.newest_checkpoint()?.is_none()
    {
        start_from(initial, learner.as_mut())?;
    }
    run::run(&algorithm, learner.as_mut(), &draws, &data, journal, stop)
}

fn unknown(error: UnknownName) -> UserError {
    UserError::new(error.to_string())
}

/// Starts the threads that compute, once in a process. The calling thread is one of them: what it shares out it begins
/// itself, instead of waking others and waiting for them.
///
/// # Errors
/// More than the system has.
pub fn start_threads(threads: u64) -> Result<()> {
    let threads = usize::try_from(threads).context("too many threads")?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.use_current_thread()
        .build_global()
        .context("cannot start compute threads")?;
    models::ops::cpu::product::prepare_threads();
    Ok(())
}

/// Where a device's numbers come from: `cpu` or `cuda`, whichever it is of them.
#[must_use]
pub fn kind(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
    }
}

/// Replaces the random weights by those of a Hugging Face folder.
fn start_from(initial: &InitialWeights, learner: &mut dyn Learner) -> Result<()> {
    let folder = Folder::open(&initial.folder)?;
    if folder.hash()? != initial.hash {
        let message = format!(
            "{} holds other weights than this run was planned with",
            initial.folder.display()
        );
        return Err(UserError::new(message)
            .hint("name another folder with --out to start from what it holds now")
            .into());
    }
    folder.load_into(learner)
}

/// The plan of the suite that a run directory lies in, and the cell that it is named after.
///
/// # Errors
/// [`UserError`] for a directory that is no run of a suite.
pub fn assignment(directory: &Path) -> Result<(Plan, Cell)> {
    // By its own name, also where it was given as `.` or with `..` in it; it need not be there yet.
    let whole = std::path::absolute(directory)
        .with_context(|| format!("cannot resolve {}", directory.display()))?;
    let whole = whole.canonicalize().unwrap_or(whole);
    let plan = Plan::read(files::parent(&whole))?;
    let name = whole
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let cell = plan
        .cells
        .iter()
        .find(|cell| cell.directory() == name)
        .cloned();
    let cell = cell.ok_or_else(|| {
        UserError::unknown(
            "cell",
            &name,
            plan.cells
                .iter()
                .map(Cell::directory)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
    })?;
    Ok((plan, cell))
}

fn session(plan: &Plan, kernels: &Kernels) -> Session {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Session {
        version: env!("CARGO_PKG_VERSION").into(),
        started_unix_seconds: since_epoch.as_secs(),
        from_step: 0,
        device_name: device_name(&plan.device),
        threads: plan.threads,
        kernels: kernels.record(),
        cuda: plan.device.parse().ok().and_then(gpu).map(cuda_session),
    }
}

/// The GPU that a device is, if its driver finds it.
pub(crate) fn gpu(device: Device) -> Option<&'static Gpu> {
    match device {
        Device::Cpu => None,
        Device::Cuda(index) => models::probe().devices.get(index),
    }
}

/// The device's name as its driver gives it, or the processor's where the system tells, else its architecture.
fn device_name(device: &str) -> String {
    match device.parse() {
        Ok(Device::Cuda(index)) => {
            gpu(Device::Cuda(index)).map_or_else(|| device.to_owned(), |gpu| gpu.name.clone())
        }
        _ => processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
    }
}

/// What of CUDA this process computes with on a GPU.
fn cuda_session(gpu: &Gpu) -> CudaSession {
    let cuda = models::probe();
    let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let of_driver = cuda.driver.as_ref().and_then(|driver| driver.cuda_version);
    let of_nvrtc = cuda.nvrtc.as_ref().and_then(|nvrtc| nvrtc.version);
    CudaSession {
        compute_capability: gpu.compute_capability.map(version),
        driver: machine::nvidia_driver_version(),
        driver_cuda: of_driver.map(version),
        nvrtc: of_nvrtc.map(version),
        power_limit_watts: nvml::library().and_then(|library| library.card(gpu)?.power_limit()),
    }
}
