//! The only writer of a run directory: manifest, records, checkpoints and result of one run, with the time that each
//! kind of work takes.
//!
//! What makes a killed run end like an undisturbed one: records are flushed and synced before a checkpoint names how many
//! of them belong to it ([`State::metrics_bytes`]); a resumed run cuts off the rest, whose steps it repeats. `result.json`
//! comes last. Nothing is written without the [`Lease`], nor after a panic on any thread of the process. Every number that
//! depends on the machine or the moment is in a field called `seconds`, `*_seconds` or `tokens_per_second`, or in those of
//! memory and of `gpu` in the result.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use models::{Learner, LossSum, Reading, ResetReport};
use results::record::{
    EvaluationRecord, Failure, GpuUse, Manifest, PlannedMemory, Record, ResetRecord, RestartRecord,
    RunResult, SCHEMA, Session, Status, StepRecord, StopRecord,
};

use crate::checkpoint::{self, Checkpoint, Clock, State};
use crate::exit::{UserError, one_line};
use crate::files::{self, FileError, failed_to};
use crate::lease::Lease;
use crate::matrix::Cell;
use crate::nvml::{Meter, Used};
use crate::plan;
use crate::progress::warn;
use crate::run::{Outcome, Progress};
use crate::stop::{self, Reason};
use crate::tensorboard::{self, EventFile};

mod look;

pub use look::{check, failure, newest_record, records, result};
use look::{damaged_line, open_with_records};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
const RESULT: &str = "result.json";
const FAILED: &str = "failed.json";

/// How often a checkpoint is due: as much work as a `kill -9` may cost.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Checkpoints that stay besides those that must: the one before the newest is there in case the newest gets damaged.
const CHECKPOINTS_KEPT: usize = 2;

/// What time and energy are spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Training,
    Evaluation,
    Other,
}

/// A point in `metrics.jsonl`.
#[derive(Clone, Debug)]
struct Mark {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Mark {
    fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// The open run directory.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    cell: Cell,
    lease: Lease,
    session: Session,
    manifest: Manifest,
    metrics: File,
    end: Mark,
    /// Where the newest evaluation's record begins: the final checkpoint leaves it out, so that a run killed between
    /// that checkpoint and its result evaluates again and still has the record once.
    before_evaluation: Mark,
    clock: Clock,
    phase: Phase,
    since: Instant,
    /// Of the GPU, where its driver can be asked.
    meter: Option<Meter>,
    newest_evaluation_seconds: f64,
    newest_logged: Logged,
    newest_checkpoint: Instant,
    /// How long writing it took.
    checkpoint_cost: Duration,
    bytes_per_target: f64,
    /// Of the process when there was no network yet.
    allocated_before: u64,
    copies_to_stdout: bool,
    /// For TensorBoard, once the run goes on.
    events: Option<EventFile>,
    writes_events: bool,
}

/// What the speed in a step's record is measured against.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    tokens_seen: u64,
    training_seconds: f64,
    tokens_per_second: f64,
}

/// Leaves word that a run's worker has failed.
///
/// # Errors
/// What the disk says; [`LostLease`](crate::lease::LostLease).
pub fn record_failure(directory: &Path, lease: &Lease, error: &str) -> Result<()> {
    lease.hold(|| {
        files::write_json(
            &directory.join(FAILED),
            &Failure {
                error: error.to_owned(),
            },
        )
    })
}

impl Journal {
    /// Opens the directory of a run that this lease covers, for the cell that it is of.
    ///
    /// # Errors
    /// Those of [`check`], before anything is written; what the disk says.
    pub fn open(directory: &Path, cell: &Cell, lease: Lease, session: Session) -> Result<Journal> {
        let manifest = match check(directory, cell)? {
            Some(manifest) => manifest,
            None => Manifest {
                schema: SCHEMA,
                row: cell.row(),
                determines: cell.determines(),
                sessions: Vec::new(),
            },
        };
        let path = directory.join(METRICS);
        let damaged = damaged_line(directory)?;
        let metrics = lease.hold(|| {
            // Going on cuts it off, which a person may want to look at.
            if let Some(line) = damaged {
                let kept = checkpoint::damaged_name(&path);
                fs::copy(&path, &kept).map_err(failed_to("copy", &path))?;
                warn(&format!(
                    "warning: {}:{line}: not a record; kept as {}, and going on from the newest checkpoint before it, if there is one",
                    path.display(),
                    kept.display()
                ));
            }
            files::remove_partials(directory)?;
            files::remove_partials(&checkpoint::folder(directory))?;
            files::remove_partials(&checkpoint::factors_folder(directory))?;
            files::write_json(&directory.join(MANIFEST), &manifest)?;
            let opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path);
            Ok(opened.map_err(failed_to("write", &path))?)
        })?;
        let start = Mark {
            bytes: 0,
            hasher: blake3::Hasher::new(),
        };
        Ok(Journal {
            directory: directory.to_owned(),
            cell: cell.clone(),
            lease,
            session,
            manifest,
            metrics,
            end: start.clone(),
            before_evaluation: start,
            clock: Clock {
                gpu: Some(Used::NOTHING),
                ..Clock::default()
            },
            phase: Phase::Other,
            since: Instant::now(),
            meter: None,
            newest_evaluation_seconds: 0.0,
            newest_logged: Logged::default(),
            newest_checkpoint: Instant::now(),
            checkpoint_cost: Duration::ZERO,
            bytes_per_target: 0.0,
            allocated_before: models::held_by_process().allocated,
            copies_to_stdout: false,
            events: None,
            writes_events: false,
        })
    }

    /// Sets the bytes of text per validation target, for the result.
    pub fn set_bytes_per_target(&mut self, bytes_per_target: f64) {
        self.bytes_per_target = bytes_per_target;
    }

    /// From now on the run's GPU is read too.
    pub fn measure(&mut self, meter: Meter) {
        meter.turn_to(self.phase);
        self.meter = Some(meter);
    }

    /// From now on every record also goes to standard output, for whoever shows them.
    pub fn copy_to_stdout(&mut self) {
        self.copies_to_stdout = true;
    }

    /// From now on every record also goes to an event file for TensorBoard, which begins anew with the records there are.
    pub fn write_events(&mut self) {
        self.writes_events = true;
    }

    /// The newest checkpoint that is what was written and whose records are there. Others are set aside with a warning.
    ///
    /// # Errors
    /// What the disk says; [`UserError`] for a checkpoint of another schema.
    pub fn newest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        let folder = checkpoint::folder(&self.directory);
        for step in checkpoint::steps(&folder)?.into_iter().rev() {
            let directory = checkpoint::at_step(&folder, step);
            match open_with_records(&directory, &self.directory) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) if error.is::<UserError>() => return Err(error),
                // A file that is there and cannot be read now may be readable later: only what is damaged is set aside.
                Err(error)
                    if error
                        .downcast_ref::<FileError>()
                        .is_some_and(|error| !error.is_not_found()) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    warn(&format!(
                        "warning: {}; going on from an earlier step",
                        one_line(&error)
                    ));
                    self.guarded(|| checkpoint::set_aside(&directory))?;
                }
            }
        }
        Ok(None)
    }

    /// The checkpoint that the `full` run of this suite has left after `step` steps, if it is this cell's warm start. One
    /// that is damaged is worth a warning, no more: the run can train those steps itself.
    ///
    /// # Errors
    /// None today; the caller treats it like [`Journal::newest_checkpoint`].
    pub fn warm_start(&self, step: u64) -> Result<Option<Checkpoint>> {
        let Some(full) = self.cell.warm_start_cell() else {
            return Ok(None);
        };
        let directory = files::parent(&self.directory).join(full.directory());
        let checkpoint = checkpoint::at_step(&checkpoint::folder(&directory), step);
        if !checkpoint.is_dir() || !matches!(check(&directory, &full), Ok(Some(_))) {
            return Ok(None);
        }
        match open_with_records(&checkpoint, &directory) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(error) => {
                warn(&format!(
                    "warning: {}; training the warm start anew",
                    one_line(&error)
                ));
                Ok(None)
            }
        }
    }

    /// Goes on from a checkpoint, this run's own or a warm start handed on: its records, its time, and the clock running.
    ///
    /// # Errors
    /// What the disk says.
    pub fn resume(&mut self, from: &Checkpoint) -> Result<()> {
        let State {
            metrics_bytes,
            clock,
            progress,
            ..
        } = from.state;
        self.note_gpu();
        let own = self.clock.gpu;
        let and_own = |used: Used| Some(used.and(own?));
        if from.run_directory() == self.directory {
            self.clock = Clock {
                other_seconds: clock.other_seconds + self.clock.other_seconds,
                gpu: clock.gpu.and_then(and_own),
                ..clock
            };
        } else {
            self.clock.gpu = clock.gpu.map(Used::of_warm_start).and_then(and_own);
            let source = from.run_directory().join(METRICS);
            let mut records = Vec::new();
            let file = File::open(&source).map_err(failed_to("read", &source))?;
            file.take(metrics_bytes)
                .read_to_end(&mut records)
                .map_err(failed_to("read", &source))?;
            self.truncate(0)?;
            self.append(&records)?;
            self.clock.training_seconds = clock.training_seconds;
            self.clock.evaluation_seconds = clock.evaluation_seconds;
            self.clock.warm_start_seconds = clock.training_seconds;
            self.clock.warm_start_tokens = progress.tokens_seen;
        }
        self.truncate(metrics_bytes)?;
        if self.end.hash() != from.state.metrics_hash {
            bail!(
                "{} has changed while it was read",
                self.directory.join(METRICS).display()
            );
        }
        self.begin_session(progress)
    }

    /// Begins at the first step: no record, no time.
    ///
    /// # Errors
    /// What the disk says.
    pub fn fresh(&mut self) -> Result<()> {
        self.truncate(0)?;
        self.begin_session(Progress::default())
    }

    /// Whether so much time has passed since the last checkpoint that it is time for one: a minute, and so much that
    /// writing them costs a large model no more than a twentieth of its time.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        self.newest_checkpoint.elapsed() >= CHECKPOINT_INTERVAL.max(self.checkpoint_cost * 20)
    }

    /// The warm start is over: the method's own speed counts from here.
    pub fn warm_start_ends(&mut self, at: Progress) {
        self.lap(Phase::Training);
        self.clock.warm_start_tokens = at.tokens_seen;
        self.clock.warm_start_seconds = self.clock.training_seconds;
        self.note_gpu();
        if let Some(joules) = self.clock.gpu.as_mut().and_then(|gpu| gpu.joules.as_mut()) {
            joules.warm_start = joules.training;
        }
    }

    /// Records a training step; `at` is the progress after it.
    ///
    /// # Errors
    /// What the disk says; [`LostLease`](crate::lease::LostLease).
    pub fn step(&mut self, at: Progress, reading: &Reading, learning_rate: f64) -> Result<()> {
        self.lap(Phase::Other);
        let training_seconds = self.clock.training_seconds;
        let Logged {
            tokens_seen,
            training_seconds: before,
            tokens_per_second,
        } = self.newest_logged;
        let seconds = training_seconds - before;
        // Steps whose losses came in one go share the speed of the first.
        let speed = if seconds > 0.0 {
            at.tokens_seen.saturating_sub(tokens_seen) as f64 / seconds
        } else {
            tokens_per_second
        };
        self.newest_logged = Logged {
            tokens_seen: at.tokens_seen,
            training_seconds,
            tokens_per_second: speed,
        };
        self.record(&Record::Step(StepRecord {
            step: at.step,
            tokens_seen: at.tokens_seen,
            loss: finite(reading.loss),
            learning_rate,
            grad_norm: finite(reading.grad_norm),
            tokens_per_second: speed,
            training_seconds,
            training_joules: self.training_joules(),
        }))?;
        self.lap(Phase::Training);
        Ok(())
    }

    /// Keeps the factors that are about to be merged, where the profile asks for it: the evidence of `relora spectra`.
    ///
    /// # Errors
    /// What the disk or the device says; [`LostLease`](crate::lease::LostLease).
    pub fn keep_factors(&mut self, at: Progress, learner: &dyn Learner) -> Result<()> {
        if !self.cell.settings.keep_factors {
            return Ok(());
        }
        self.lap(Phase::Other);
        let token = self.lease.token();
        self.guarded(|| checkpoint::write_factors(&self.directory, at.step, learner, token))?;
        self.lap(Phase::Training);
        Ok(())
    }

    /// Records that the factors were merged and drawn anew.
    ///
    /// # Errors
    /// Those of [`Journal::step`].
    pub fn restart(&mut self, at: Progress) -> Result<()> {
        self.record(&Record::Restart(RestartRecord { step: at.step }))
    }

    /// Records a reset of the factors' moments.
    ///
    /// # Errors
    /// Those of [`Journal::step`].
    pub fn reset(&mut self, at: Progress, report: ResetReport) -> Result<()> {
        let ResetReport { total, zeroed } = report;
        self.record(&Record::Reset(ResetRecord {
            step: at.step,
            moments_total: total,
            moments_zeroed: zeroed,
        }))
    }

    /// Does work whose time counts as evaluation.
    ///
    /// # Errors
    /// What the work returns.
    pub fn measuring_evaluation<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.lap(Phase::Evaluation);
        let before = self.clock.evaluation_seconds;
        let result = work();
        self.lap(Phase::Training);
        self.newest_evaluation_seconds = self.clock.evaluation_seconds - before;
        result
    }

    /// Records an evaluation, with the time of the last [`Journal::measuring_evaluation`].
    ///
    /// # Errors
    /// Those of [`Journal::step`].
    pub fn evaluation(&mut self, at: Progress, loss: LossSum) -> Result<()> {
        self.before_evaluation = self.end.clone();
        self.record(&Record::Evaluation(EvaluationRecord {
            step: at.step,
            tokens_seen: at.tokens_seen,
            validation_loss: mean(loss),
            targets: loss.targets,
            seconds: self.newest_evaluation_seconds,
        }))
    }

    /// Writes a checkpoint, then removes those that nobody needs any more. `keep`: others start from this one.
    ///
    /// # Errors
    /// What the disk or the device says; [`LostLease`](crate::lease::LostLease). The checkpoints before stay good.
    pub fn checkpoint(&mut self, at: Progress, learner: &dyn Learner, keep: bool) -> Result<()> {
        self.lap(Phase::Other);
        let end = self.end.clone();
        self.write_checkpoint(at, learner, keep, &end)?;
        self.prune(CHECKPOINTS_KEPT)?;
        self.newest_checkpoint = Instant::now();
        self.lap(Phase::Training);
        Ok(())
    }

    /// Records that the run stops before its end. No `result.json`: it can be continued.
    ///
    /// # Errors
    /// Those of [`Journal::step`].
    pub fn stop(&mut self, at: Progress, reason: Reason) -> Result<Outcome> {
        if reason != Reason::LostLease {
            self.record(&Record::Stop(StopRecord {
                step: at.step,
                reason: reason.name().into(),
            }))?;
            self.sync_metrics()?;
        }
        Ok(Outcome::Stopped(reason))
    }

    /// Ends the run for good: the last checkpoint (of a run that is complete), then `result.json`.
    ///
    /// # Errors
    /// Those of [`Journal::checkpoint`].
    pub fn finish(
        &mut self,
        at: Progress,
        outcome: Outcome,
        loss: Option<LossSum>,
        learner: &dyn Learner,
    ) -> Result<Outcome> {
        self.lap(Phase::Other);
        // Weights can overflow in the last update, whose own loss was still finite.
        let outcome = match loss {
            Some(loss) if outcome == Outcome::Complete && mean(loss).is_none() => {
                Outcome::Diverged { step: at.step }
            }
            _ => outcome,
        };
        let (status, diverged_at_step) = match outcome {
            Outcome::Complete => (Status::Complete, None),
            Outcome::Diverged { step } => (Status::Diverged, Some(step)),
            Outcome::Stopped(reason) => return self.stop(at, reason),
        };
        if status == Status::Complete {
            let mark = self.before_evaluation.clone();
            self.write_checkpoint(at, learner, false, &mark)?;
        }
        self.sync_metrics()?;
        let records = records(&self.directory)?;
        let count = |wanted: fn(&Record) -> bool| {
            records.iter().filter(|record| wanted(record)).count() as u64
        };
        let last_step = records.iter().rev().find_map(|record| {
            if let Record::Step(step) = record {
                Some(step)
            } else {
                None
            }
        });
        let last_evaluation = records.iter().rev().find_map(|record| {
            if let Record::Evaluation(evaluation) = record {
                Some(evaluation)
            } else {
                None
            }
        });
        let inventory = learner.tensors();
        let bytes = |belongs: fn(models::TensorRole) -> bool| {
            inventory
                .iter()
                .filter(|info| belongs(info.role))
                .map(|info| info.size_bytes() as u64)
                .sum()
        };
        self.lap(Phase::Other);
        self.note_peak_memory(learner);
        self.note_gpu();
        let clock = self.clock;
        let own_seconds = clock.training_seconds - clock.warm_start_seconds;
        let own_tokens = at.tokens_seen.saturating_sub(clock.warm_start_tokens) as f64;
        let result = RunResult {
            schema: SCHEMA,
            status,
            diverged_at_step,
            update_steps: at.step,
            tokens_seen: at.tokens_seen,
            validation_loss: loss.and_then(mean),
            validation_targets: loss.map_or_else(
                || last_evaluation.map_or(0, |evaluation| evaluation.targets),
                |loss| loss.targets,
            ),
            bytes_per_target: self.bytes_per_target,
            training_loss: last_step.and_then(|step| step.loss),
            tokens_per_second: if own_seconds > 0.0 {
                own_tokens / own_seconds
            } else {
                0.0
            },
            training_seconds: clock.training_seconds,
            evaluation_seconds: clock.evaluation_seconds,
            wall_seconds: clock.training_seconds + clock.evaluation_seconds + clock.other_seconds,
            peak_memory_bytes: clock.peak_memory_bytes,
            gpu: clock.gpu.map(|used| gpu_use(used, &clock, own_tokens)),
            planned_memory: self.planned_memory(),
            weight_bytes: bytes(checkpoint::is_weight),
            optimizer_state_bytes: bytes(checkpoint::is_optimizer_state),
            restarts: count(|record| matches!(record, Record::Restart(_))),
            resets: count(|record| matches!(record, Record::Reset(_))),
        };
        self.guarded(|| files::write_json(&self.directory.join(RESULT), &result))?;
        self.prune(1)?;
        Ok(outcome)
    }

    /// Leaves word that the worker has failed, for the tables; where that cannot be written either, the exit code says so.
    ///
    /// # Errors
    /// What the disk says; [`LostLease`](crate::lease::LostLease).
    pub fn fail(&self, error: &str) -> Result<()> {
        record_failure(&self.directory, &self.lease, error)
    }

    /// Lets nothing be written by a process that has lost its lease or its senses.
    fn guarded<T>(&self, write: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(panic) = stop::poisoned() {
            bail!(panic);
        }
        self.lease.hold(write)
    }

    /// Ends the stretch of time under way and begins another.
    fn lap(&mut self, next: Phase) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        match self.phase {
            Phase::Training => self.clock.training_seconds += seconds,
            Phase::Evaluation => self.clock.evaluation_seconds += seconds,
            Phase::Other => self.clock.other_seconds += seconds,
        }
        self.phase = next;
        if let Some(meter) = &self.meter {
            meter.turn_to(next);
        }
    }

    /// Adds to the clock what the GPU has used since this was last done.
    fn note_gpu(&mut self) {
        let used = self.meter.as_ref().map(Meter::used);
        let known = self.clock.gpu.zip(used);
        self.clock.gpu = known.map(|(before, since)| before.and(since));
    }

    /// Joules of training so far, to the meter's last reading.
    fn training_joules(&self) -> Option<f64> {
        let noted = self.clock.gpu?.joules?.training;
        let since = self.meter.as_ref()?.so_far().joules?.training;
        Some(noted + since)
    }

    fn begin_session(&mut self, from: Progress) -> Result<()> {
        self.session.from_step = from.step;
        self.manifest.sessions.push(self.session.clone());
        self.guarded(|| {
            files::write_json(&self.directory.join(MANIFEST), &self.manifest)?;
            Ok(files::remove(&self.directory.join(FAILED))?)
        })?;
        if self.writes_events {
            let (records, began) = (
                records(&self.directory)?,
                tensorboard::began(&self.manifest),
            );
            let begun = self.guarded(|| EventFile::begin(&self.directory, began, &records))?;
            self.events = Some(begun);
        }
        self.before_evaluation = self.end.clone();
        self.newest_checkpoint = Instant::now();
        self.lap(Phase::Training);
        let training_seconds = self.clock.training_seconds;
        self.newest_logged = Logged {
            tokens_seen: from.tokens_seen,
            training_seconds,
            tokens_per_second: 0.0,
        };
        Ok(())
    }

    /// Cuts the records to a length and hashes what stays.
    fn truncate(&mut self, bytes: u64) -> Result<()> {
        let path = self.directory.join(METRICS);
        self.guarded(|| {
            Ok(self
                .metrics
                .set_len(bytes)
                .map_err(failed_to("write", &path))?)
        })?;
        self.metrics
            .seek(SeekFrom::Start(0))
            .map_err(failed_to("read", &path))?;
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut (&self.metrics).take(bytes), &mut hasher)
            .map_err(failed_to("read", &path))?;
        self.end = Mark { bytes, hasher };
        Ok(())
    }

    /// Appends whole lines. Where they do not fit, none of them stays.
    fn append(&mut self, lines: &[u8]) -> Result<()> {
        let path = self.directory.join(METRICS);
        self.guarded(|| {
            let mut file = &self.metrics;
            let written = file
                .seek(SeekFrom::Start(self.end.bytes))
                .and_then(|_| file.write_all(lines));
            if written.is_err() {
                // Best effort: half a line lies behind the last checkpoint and is cut off on resume anyway.
                let _ = file.set_len(self.end.bytes);
            }
            Ok(written.map_err(failed_to("write", &path))?)
        })?;
        self.end.bytes += lines.len() as u64;
        self.end.hasher.update(lines);
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.append(&line)?;
        if let Some(mut events) = self.events.take() {
            self.guarded(|| events.append(record))?;
            self.events = Some(events);
        }
        if self.copies_to_stdout {
            let mut output = io::stdout().lock();
            // A supervisor that has gone away stops the run through its own channel; nobody else needs the copy.
            let _ = output.write_all(&line).and_then(|()| output.flush());
        }
        Ok(())
    }

    fn sync_metrics(&self) -> Result<()> {
        Ok(self
            .metrics
            .sync_all()
            .map_err(failed_to("write", &self.directory.join(METRICS)))?)
    }

    /// Writes the checkpoint of a step whose records end at `mark`, unless it is there.
    fn write_checkpoint(
        &mut self,
        at: Progress,
        learner: &dyn Learner,
        keep: bool,
        mark: &Mark,
    ) -> Result<()> {
        let folder = checkpoint::folder(&self.directory);
        if checkpoint::at_step(&folder, at.step).exists() {
            return Ok(());
        }
        let started = Instant::now();
        self.note_peak_memory(learner);
        self.note_gpu();
        self.sync_metrics()?;
        let partial = folder.join(files::partial_name(
            &format!("step-{}", at.step),
            self.lease.token(),
        ));
        let state = State::new(at, mark.bytes, mark.hash(), keep, self.clock);
        self.guarded(|| Ok(files::create_directory(&folder)?))?;
        let written = checkpoint::write(&partial, learner, state);
        let published =
            written.and_then(|()| self.guarded(|| checkpoint::publish(&partial, &folder, at.step)));
        if published.is_err() {
            // A full disk is a little less full then.
            let _ = files::remove(&partial);
        }
        self.checkpoint_cost = started.elapsed();
        published
    }

    fn prune(&self, newest: usize) -> Result<()> {
        self.guarded(|| checkpoint::prune(&checkpoint::folder(&self.directory), newest))
    }

    /// What the memory plan says of the stages that this run went through itself.
    fn planned_memory(&self) -> Option<PlannedMemory> {
        let precision = self.cell.precision.parse().ok()?;
        let sessions = self.manifest.sessions.iter();
        let first = sessions.map(|session| session.from_step).min()?;
        let bytes = if first < self.cell.settings.warm_start_length() {
            plan::bytes(&self.cell, precision).0
        } else {
            plan::bytes_of_own_stage(&self.cell, precision)
        };
        // The peak of a run on a GPU is that of the device's memory, of which nothing is the process's.
        let process = if self.cell.device == "cpu" {
            self.allocated_before + models::held_by_process().mapped
        } else {
            0
        };
        Some(plan::beside_process(bytes, process))
    }

    fn note_peak_memory(&mut self, learner: &dyn Learner) {
        let peak = peak_memory_bytes(learner.memory().peak_bytes, &self.cell.device);
        self.clock.peak_memory_bytes = self.clock.peak_memory_bytes.max(peak);
    }
}

/// What a run has used of its GPU, for its result; `own_tokens` of the method's own stage, after its warm start.
fn gpu_use(used: Used, clock: &Clock, own_tokens: f64) -> GpuUse {
    let joules = used.joules;
    let own = joules.map(|joules| joules.training - joules.warm_start);
    let busy = used.busy_seconds.filter(|_| clock.training_seconds > 0.0);
    GpuUse {
        training_joules: joules.map(|joules| joules.training),
        evaluation_joules: joules.map(|joules| joules.evaluation),
        joules: joules.map(|joules| joules.training + joules.evaluation + joules.other),
        joules_per_token: own.filter(|_| own_tokens > 0.0).map(|own| own / own_tokens),
        utilization: busy.map(|busy| (busy / clock.training_seconds).min(1.0)),
        peak_memory_bytes: used.peak_memory_bytes,
    }
}

/// What the learner tells of its device or, on a CPU, the memory of this process: that of a GPU it is not.
fn peak_memory_bytes(of_device: Option<u64>, device: &str) -> Option<u64> {
    of_device.or_else(|| (device == "cpu").then(process_peak_bytes).flatten())
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

fn mean(loss: LossSum) -> Option<f64> {
    finite(loss.sum / loss.targets as f64)
}

/// Largest resident memory of this process so far, bytes, where the learner cannot tell: where there is no `/proc`. (Linux
/// begins this figure with that of the process which started this one.)
#[cfg(unix)]
fn process_peak_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    // Kibibytes, except on Apple's systems.
    let unit = if cfg!(target_vendor = "apple") {
        1
    } else {
        1024
    };
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    u64::try_from(usage.max_rss()).ok().map(|peak| peak * unit)
}

#[cfg(not(unix))]
fn process_peak_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
pub(crate) mod tests;
