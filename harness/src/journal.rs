//! The only writer of a run directory: manifest, records, checkpoints and result of one run, with the time that each
//! kind of work takes.
//!
//! What makes a killed run end like an undisturbed one: records are flushed and synced before a checkpoint names how many
//! of them belong to it ([`State::metrics_bytes`]); a resumed run cuts off the rest, whose steps it repeats. `result.json`
//! comes last. Nothing is written without the [`Lease`], nor after a panic on any thread of the process. Every number that
//! depends on the machine or the moment is in a field called `seconds`, `*_seconds` or `tokens_per_second`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use models::{Learner, LossSum, Reading, ResetReport};
use results::record::{
    EvaluationRecord, Manifest, Record, ResetRecord, RestartRecord, RunResult, SCHEMA, Session,
    Status, StepRecord, StopRecord,
};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint, Clock, State};
use crate::exit::{UserError, one_line};
use crate::files::{self, FileError, failed_to};
use crate::lease::Lease;
use crate::matrix::Cell;
use crate::plan::differences;
use crate::progress::warn;
use crate::run::{Outcome, Progress};
use crate::stop::{self, Reason};

pub(crate) const MANIFEST: &str = "manifest.json";
const METRICS: &str = "metrics.jsonl";
const RESULT: &str = "result.json";
const FAILED: &str = "failed.json";

/// How often a checkpoint is due: as much work as a `kill -9` may cost.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Checkpoints that stay besides those that must: the one before the newest is there in case the newest gets damaged.
const CHECKPOINTS_KEPT: usize = 2;

/// What a run leaves when its worker ends with an error. The next worker removes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, on one line.
    pub error: String,
}

/// What time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
    newest_evaluation_seconds: f64,
    newest_logged: Logged,
    newest_checkpoint: Instant,
    /// How long writing it took.
    checkpoint_cost: Duration,
    bytes_per_target: f64,
    copies_to_stdout: bool,
}

/// What the speed in a step's record is measured against.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    tokens_seen: u64,
    training_seconds: f64,
    tokens_per_second: f64,
}

/// Compares a run directory with the cell that should run in it, and touches nothing. None where the run is yet to begin.
///
/// # Errors
/// [`UserError`] for a run made with other settings (naming the fields that differ), by a program with another schema, or
/// for a directory that is not a run's.
pub fn check(directory: &Path, cell: &Cell) -> Result<Option<Manifest>> {
    let path = directory.join(MANIFEST);
    // Listed before the manifest is looked for: another process may begin the run just now, and what it writes comes after
    // its manifest.
    let entries = files::entries(directory)?;
    // The schema first: another one may have other fields.
    let read = files::read_json_if_present::<serde_json::Value>(&path, "a run's manifest");
    let Some(value) = read.map_err(|error| UserError::new(error.to_string()))? else {
        let foreign = entries
            .into_iter()
            .find(|entry| !may_come_before_the_manifest(entry));
        return match foreign {
            None => Ok(None),
            Some(entry) => {
                let shown = directory.display();
                let name = entry
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Err(UserError::new(format!(
                    "{shown} holds {name} but no {MANIFEST}: not a run of this program"
                ))
                .into())
            }
        };
    };
    if value["schema"] != SCHEMA {
        let message = format!(
            "{} has schema {}, this program reads {SCHEMA}",
            path.display(),
            value["schema"]
        );
        return Err(UserError::new(message).into());
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| {
        UserError::new(format!(
            "{} is not readable as a run's manifest: {error}",
            path.display()
        ))
    })?;
    let differing = differences(&manifest.determines, &cell.determines());
    if !differing.is_empty() {
        let message = format!(
            "{} was made with other settings: {}",
            directory.display(),
            differing.join(", ")
        );
        return Err(UserError::new(message)
            .hint("name another folder with --out, or use the settings it was made with")
            .into());
    }
    Ok(Some(manifest))
}

fn may_come_before_the_manifest(entry: &Path) -> bool {
    let name = entry.file_name().unwrap_or_default();
    [crate::lease::LEASE, crate::lease::LOCK, FAILED]
        .iter()
        .any(|known| name == *known)
}

/// The result of a run that has ended for good.
///
/// # Errors
/// A result that cannot be read.
pub fn result(directory: &Path) -> Result<Option<RunResult>> {
    files::read_json_if_present(&directory.join(RESULT), "a run's result")
}

/// What the last worker failed with, if it did.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn failure(directory: &Path) -> Result<Option<Failure>> {
    files::read_json_if_present(&directory.join(FAILED), "a run's failure")
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

/// The last whole record of a run, if there is one.
///
/// # Errors
/// Records that are there and cannot be read.
pub fn newest_record(directory: &Path) -> Result<Option<Record>> {
    /// More than any record takes.
    const TAIL_BYTES: u64 = 4096;
    let path = directory.join(METRICS);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed_to("read", &path))?,
    };
    let length = file.metadata().map_err(failed_to("read", &path))?.len();
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
        .map_err(failed_to("read", &path))?;
    file.read_to_end(&mut tail)
        .map_err(failed_to("read", &path))?;
    // What follows the last line end is being written, or its process died.
    let whole = &tail[..tail.iter().rposition(|byte| *byte == b'\n').unwrap_or(0)];
    let line = whole
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    Ok(serde_json::from_slice(line).ok())
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
        let metrics = lease.hold(|| {
            files::remove_partials(directory)?;
            files::remove_partials(&checkpoint::folder(directory))?;
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
            clock: Clock::default(),
            phase: Phase::Other,
            since: Instant::now(),
            newest_evaluation_seconds: 0.0,
            newest_logged: Logged::default(),
            newest_checkpoint: Instant::now(),
            checkpoint_cost: Duration::ZERO,
            bytes_per_target: 0.0,
            copies_to_stdout: false,
        })
    }

    /// Sets the bytes of text per validation target, for the result.
    pub fn set_bytes_per_target(&mut self, bytes_per_target: f64) {
        self.bytes_per_target = bytes_per_target;
    }

    /// From now on every record also goes to standard output, for whoever shows them.
    pub fn copy_to_stdout(&mut self) {
        self.copies_to_stdout = true;
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
        if from.run_directory() == self.directory {
            self.clock = Clock {
                other_seconds: clock.other_seconds + self.clock.other_seconds,
                ..clock
            };
        } else {
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
        }))?;
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
        let records = self.records()?;
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
    }

    fn begin_session(&mut self, from: Progress) -> Result<()> {
        self.session.from_step = from.step;
        self.manifest.sessions.push(self.session.clone());
        self.guarded(|| {
            files::write_json(&self.directory.join(MANIFEST), &self.manifest)?;
            Ok(files::remove(&self.directory.join(FAILED))?)
        })?;
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
        if self.copies_to_stdout {
            let mut output = io::stdout().lock();
            // A supervisor that has gone away stops the run through its own channel; nobody else needs the copy.
            let _ = output.write_all(&line).and_then(|()| output.flush());
        }
        Ok(())
    }

    fn records(&self) -> Result<Vec<Record>> {
        let path = self.directory.join(METRICS);
        let file = File::open(&path).map_err(failed_to("read", &path))?;
        let mut records = Vec::new();
        for (index, line) in io::BufReader::new(file).lines().enumerate() {
            let line = line.map_err(failed_to("read", &path))?;
            let record = serde_json::from_str(&line)
                .with_context(|| format!("{} line {} is no record", path.display(), index + 1))?;
            records.push(record);
        }
        Ok(records)
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

    fn note_peak_memory(&mut self, learner: &dyn Learner) {
        let peak = learner.memory().peak_bytes.or_else(process_peak_bytes);
        self.clock.peak_memory_bytes = self.clock.peak_memory_bytes.max(peak);
    }
}

/// A checkpoint of a run, if its hashes hold and the run's records still begin with those that belong to it.
fn open_with_records(checkpoint: &Path, run_directory: &Path) -> Result<Checkpoint> {
    let opened = Checkpoint::open(checkpoint)?;
    let path = run_directory.join(METRICS);
    let mut file = File::open(&path).map_err(failed_to("read", &path))?;
    let found = checkpoint::hash_bytes(&mut file, opened.state.metrics_bytes)
        .map_err(failed_to("read", &path))?;
    if found.to_hex().as_str() != opened.state.metrics_hash {
        bail!(
            "{} does not begin with the records that belong to {}",
            path.display(),
            checkpoint.display()
        );
    }
    Ok(opened)
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

fn mean(loss: LossSum) -> Option<f64> {
    finite(loss.sum / loss.targets as f64)
}

/// Largest resident memory of this process so far, bytes, where the learner cannot tell.
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
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::tests::Pretend;
    use crate::lease::Claim;
    use crate::settings::Settings;
    use crate::stop::Stop;
    use std::fs;

    /// A cell of one seed and size: `full`, or `relora` whose warm start `full` can hand on.
    pub(crate) fn cell(method: &str) -> Cell {
        let settings = Settings {
            warm_start: method == "relora",
            low_rank: method == "relora",
            ..Settings::default()
        };
        let full = Settings::default();
        let warm_start = (method == "relora").then(|| {
            serde_json::json!({
                "learning_rate": full.learning_rate,
                "warmup_steps": full.warmup_steps,
                "minimum_learning_rate_ratio": full.minimum_learning_rate_ratio,
                "schedule": full.schedule,
                "grad_clip": full.grad_clip,
            })
        });
        serde_json::from_value(serde_json::json!({
            "size": "nano", "method": method, "preset": method, "seed": 1, "dialect": "default",
            "device": "cpu", "precision": "f32", "hands_over": method == "full",
            "data": { "hash": "text", "vocabulary": 64 },
            "network": { "hidden": 8, "intermediate": 16, "layers": 1, "heads": 2 },
            "settings": settings, "warm_start": warm_start,
        }))
        .expect("a cell")
    }

    fn session() -> Session {
        Session {
            version: "0".into(),
            started_unix_seconds: 0,
            from_step: 0,
            device_name: "test".into(),
            threads: 1,
        }
    }

    fn open(suite: &Path, cell: &Cell) -> Result<Journal> {
        let directory = suite.join(cell.directory());
        files::create_directory(&directory)?;
        match Lease::claim(&directory, &Stop::new(None))? {
            Claim::Taken(lease) => Journal::open(&directory, cell, lease, session()),
            Claim::Held(holder) => bail!("held by {holder:?}"),
        }
    }

    fn at(step: u64) -> Progress {
        Progress {
            step,
            tokens_seen: 100 * step,
        }
    }

    fn train(journal: &mut Journal, steps: std::ops::RangeInclusive<u64>) -> Result<()> {
        for step in steps {
            let reading = Reading {
                step: step - 1,
                loss: 4.0 / step as f64,
                grad_norm: 1.0,
            };
            journal.step(at(step), &reading, 1e-3)?;
        }
        Ok(())
    }

    fn evaluate(journal: &mut Journal, step: u64) -> Result<LossSum> {
        let loss = journal.measuring_evaluation(|| {
            Ok(LossSum {
                sum: 30.0,
                targets: 10,
            })
        })?;
        journal.evaluation(at(step), loss)?;
        Ok(loss)
    }

    /// Kind and step of every record.
    fn records(suite: &Path, cell: &Cell) -> Vec<(&'static str, u64)> {
        let text = fs::read_to_string(suite.join(cell.directory()).join(METRICS)).expect("read");
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "every line is whole"
        );
        let parse = |line| match serde_json::from_str(line).expect("a record") {
            Record::Step(record) => ("step", record.step),
            Record::Evaluation(record) => ("evaluation", record.step),
            Record::Restart(record) => ("restart", record.step),
            Record::Reset(record) => ("reset", record.step),
            Record::Stop(record) => ("stop", record.step),
        };
        text.lines().map(parse).collect()
    }

    fn suite() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    /// What a killed process leaves: its lease goes to the next one because it is dead. In one process, by dropping.
    fn resume(suite: &Path, cell: &Cell) -> (Journal, Option<u64>) {
        let mut journal = open(suite, cell).expect("opened");
        let from = journal.newest_checkpoint().expect("looked for");
        match &from {
            Some(from) => journal.resume(from).expect("resumed"),
            None => journal.fresh().expect("begun"),
        }
        (journal, from.map(|from| from.progress.step))
    }

    #[test]
    fn a_resumed_run_has_every_record_once_wherever_it_was_killed() {
        let cell = cell("full");
        let undisturbed: Vec<_> = (1..=6)
            .map(|step| ("step", step))
            .chain([("evaluation", 6)])
            .collect();
        // Killed with this many bytes of the records after the checkpoint of step 3 on the disk.
        let whole = {
            let suite = suite();
            let mut journal = resume(suite.path(), &cell).0;
            train(&mut journal, 1..=3).expect("written");
            journal
                .checkpoint(at(3), &Pretend::new(1), false)
                .expect("written");
            train(&mut journal, 4..=5).expect("written");
            journal.stop(at(5), Reason::Interrupted).expect("written");
            fs::read(suite.path().join(cell.directory()).join(METRICS)).expect("read")
        };
        let ends: Vec<usize> = (0..whole.len())
            .filter(|index| whole[*index] == b'\n')
            .map(|index| index + 1)
            .collect();
        for cut in (ends[2]..=whole.len())
            .step_by(13)
            .chain([ends[2] + 1, ends[3], whole.len()])
        {
            let suite = suite();
            let mut journal = resume(suite.path(), &cell).0;
            train(&mut journal, 1..=3).expect("written");
            journal
                .checkpoint(at(3), &Pretend::new(1), false)
                .expect("written");
            drop(journal);
            let mut file = OpenOptions::new()
                .append(true)
                .open(suite.path().join(cell.directory()).join(METRICS))
                .expect("open");
            file.write_all(&whole[ends[2]..cut]).expect("written");
            let (mut journal, from) = resume(suite.path(), &cell);
            assert_eq!(from, Some(3));
            train(&mut journal, 4..=6).expect("written");
            let loss = evaluate(&mut journal, 6).expect("written");
            journal
                .finish(at(6), Outcome::Complete, Some(loss), &Pretend::new(2))
                .expect("finished");
            assert_eq!(
                records(suite.path(), &cell),
                undisturbed,
                "cut at {cut} of {}",
                whole.len()
            );
        }
    }

    #[test]
    fn a_run_killed_between_its_last_checkpoint_and_its_result_evaluates_again_and_has_the_record_once()
     {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume(suite.path(), &cell).0;
        train(&mut journal, 1..=2).expect("written");
        let loss = evaluate(&mut journal, 2).expect("written");
        journal
            .finish(at(2), Outcome::Complete, Some(loss), &Pretend::new(1))
            .expect("finished");
        drop(journal);
        fs::remove_file(suite.path().join(cell.directory()).join(RESULT)).expect("removed");
        let (mut journal, from) = resume(suite.path(), &cell);
        assert_eq!(from, Some(2));
        let loss = evaluate(&mut journal, 2).expect("written");
        journal
            .finish(at(2), Outcome::Complete, Some(loss), &Pretend::new(1))
            .expect("finished");
        assert_eq!(
            records(suite.path(), &cell),
            [("step", 1), ("step", 2), ("evaluation", 2)]
        );
        assert!(
            result(&suite.path().join(cell.directory()))
                .expect("readable")
                .is_some()
        );
    }

    #[test]
    fn a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used() {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume(suite.path(), &cell).0;
        for step in 1..=3 {
            train(&mut journal, step..=step).expect("written");
            journal
                .checkpoint(at(step), &Pretend::new(step as u8), false)
                .expect("written");
        }
        drop(journal);
        let folder = checkpoint::folder(&suite.path().join(cell.directory()));
        assert_eq!(
            checkpoint::steps(&folder).expect("listed"),
            [2, 3],
            "the newest two"
        );
        let path = checkpoint::at_step(&folder, 3).join("moments.safetensors");
        let mut bytes = fs::read(&path).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(&path, bytes).expect("written");
        let mut journal = open(suite.path(), &cell).expect("opened");
        let from = journal
            .newest_checkpoint()
            .expect("looked for")
            .expect("the one before");
        let mut learner = Pretend::new(0);
        from.load_into(&mut learner).expect("loaded");
        assert_eq!(learner, Pretend::new(2));
        journal.resume(&from).expect("resumed");
        assert!(folder.join("step-3.damaged").is_dir());
        assert_eq!(records(suite.path(), &cell), [("step", 1), ("step", 2)]);
        train(&mut journal, 3..=3).expect("written");
        journal
            .checkpoint(at(3), &Pretend::new(3), false)
            .expect("the place is free");
        drop(journal);
        assert_eq!(resume(suite.path(), &cell).1, Some(3));
    }

    #[test]
    fn a_checkpoint_whose_records_are_gone_is_not_used() {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume(suite.path(), &cell).0;
        for step in 1..=2 {
            train(&mut journal, step..=step).expect("written");
            journal
                .checkpoint(at(step), &Pretend::new(1), false)
                .expect("written");
        }
        drop(journal);
        let path = suite.path().join(cell.directory()).join(METRICS);
        let length = fs::metadata(&path).expect("there").len();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(length - 1))
            .expect("cut");
        assert_eq!(resume(suite.path(), &cell).1, Some(1));
    }

    #[test]
    fn a_run_made_with_other_settings_is_refused_with_the_fields_and_left_alone() {
        let (suite, mut cell) = (suite(), cell("full"));
        drop(resume(suite.path(), &cell).0);
        let directory = suite.path().join(cell.directory());
        let before = fs::read(directory.join(MANIFEST)).expect("read");
        cell.settings.learning_rate = 0.5;
        cell.data.hash = "other".into();
        let error = check(&directory, &cell).expect_err("refused");
        assert!(error.is::<UserError>());
        let line = error.to_string();
        assert!(
            line.contains("data.hash = \"text\", not \"other\"")
                && line.contains("settings.learning_rate = 0.001, not 0.5"),
            "{line}"
        );
        assert!(open(suite.path(), &cell).is_err_and(|error| error.is::<UserError>()));
        assert_eq!(fs::read(directory.join(MANIFEST)).expect("read"), before);
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_alone() {
        let (suite, cell) = (suite(), cell("full"));
        let directory = suite.path().join(cell.directory());
        fs::create_dir(&directory).expect("created");
        fs::write(directory.join("thesis.tex"), "years of work").expect("written");
        let error = check(&directory, &cell).expect_err("refused");
        assert!(
            error.is::<UserError>()
                && error
                    .to_string()
                    .contains("holds thesis.tex but no manifest.json"),
            "{error}"
        );
        assert_eq!(files::entries(&directory).expect("listed").len(), 1);
        fs::rename(directory.join("thesis.tex"), directory.join(MANIFEST)).expect("renamed");
        assert!(check(&directory, &cell).is_err_and(|error| error.is::<UserError>()));
    }

    #[test]
    fn a_warm_start_is_handed_on_with_its_records_and_its_time() {
        let (suite, full, relora) = (suite(), cell("full"), cell("relora"));
        let mut journal = resume(suite.path(), &full).0;
        train(&mut journal, 1..=2).expect("written");
        std::thread::sleep(Duration::from_millis(20));
        train(&mut journal, 3..=3).expect("written");
        journal
            .checkpoint(at(3), &Pretend::new(7), true)
            .expect("written");
        train(&mut journal, 4..=5).expect("written");
        let charged = journal.clock.training_seconds;
        drop(journal);

        let mut journal = open(suite.path(), &relora).expect("opened");
        assert!(journal.newest_checkpoint().expect("looked for").is_none());
        assert!(
            journal.warm_start(2).expect("looked for").is_none(),
            "only exactly that step"
        );
        let from = journal
            .warm_start(3)
            .expect("looked for")
            .expect("handed on");
        let mut learner = Pretend::new(0);
        from.load_into(&mut learner).expect("loaded");
        assert_eq!(learner, Pretend::new(7));
        journal.resume(&from).expect("resumed");
        train(&mut journal, 4..=4).expect("written");
        assert_eq!(
            records(suite.path(), &relora),
            [("step", 1), ("step", 2), ("step", 3), ("step", 4)]
        );
        journal
            .checkpoint(at(4), &Pretend::new(8), false)
            .expect("written");
        drop(journal);

        let (mut journal, from) = resume(suite.path(), &relora);
        assert_eq!(from, Some(4), "its own now");
        let loss = evaluate(&mut journal, 4).expect("written");
        journal
            .finish(at(4), Outcome::Complete, Some(loss), &Pretend::new(8))
            .expect("finished");
        let result = result(&suite.path().join(relora.directory()))
            .expect("readable")
            .expect("there");
        assert!(
            result.training_seconds >= 0.02 && charged >= 0.02,
            "the warm start is charged"
        );
        assert!(result.wall_seconds >= result.training_seconds + result.evaluation_seconds);
        assert_eq!((result.update_steps, result.tokens_seen), (4, 400));
    }

    #[test]
    fn a_warm_start_of_another_run_or_a_damaged_one_is_not_handed_on() {
        let (suite, full, mut relora) = (suite(), cell("full"), cell("relora"));
        let mut journal = resume(suite.path(), &full).0;
        train(&mut journal, 1..=3).expect("written");
        journal
            .checkpoint(at(3), &Pretend::new(7), true)
            .expect("written");
        drop(journal);
        let handed_on = |cell: &Cell| {
            let journal = open(suite.path(), cell).expect("opened");
            journal.warm_start(3).expect("looked for").is_some()
        };
        assert!(handed_on(&relora));
        relora.seed = 2;
        relora.size = "other".into();
        assert!(!handed_on(&relora), "no full run of that size");
        let directory =
            checkpoint::at_step(&checkpoint::folder(&suite.path().join(full.directory())), 3);
        fs::write(directory.join("weights.safetensors"), "damaged").expect("written");
        assert!(!handed_on(&cell("relora")));
        assert!(
            directory.is_dir(),
            "another run's checkpoint is not ours to rename"
        );
    }

    /// The last update's own loss was finite; the weights that it left are not.
    #[test]
    fn a_run_whose_last_evaluation_is_not_finite_has_diverged() {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume(suite.path(), &cell).0;
        train(&mut journal, 1..=4).expect("written");
        let loss = LossSum {
            sum: f64::NAN,
            targets: 7,
        };
        let outcome = journal
            .finish(at(4), Outcome::Complete, Some(loss), &Pretend::new(1))
            .expect("finished");
        assert_eq!(outcome, Outcome::Diverged { step: 4 });
        let result = result(&suite.path().join(cell.directory()))
            .expect("readable")
            .expect("there");
        assert_eq!(
            (
                result.status,
                result.diverged_at_step,
                result.validation_loss
            ),
            (Status::Diverged, Some(4), None)
        );
    }

    #[test]
    fn a_result_has_the_figures_of_the_records() {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume(suite.path(), &cell).0;
        journal.set_bytes_per_target(3.5);
        train(&mut journal, 1..=4).expect("written");
        journal.restart(at(4)).expect("written");
        journal
            .reset(
                at(4),
                ResetReport {
                    total: 6,
                    zeroed: 5,
                },
            )
            .expect("written");
        let loss = evaluate(&mut journal, 4).expect("written");
        journal
            .finish(at(4), Outcome::Complete, Some(loss), &Pretend::new(1))
            .expect("finished");
        let result = result(&suite.path().join(cell.directory()))
            .expect("readable")
            .expect("there");
        assert_eq!(
            (result.status, result.diverged_at_step),
            (Status::Complete, None)
        );
        assert_eq!(
            (
                result.validation_loss,
                result.validation_targets,
                result.training_loss
            ),
            (Some(3.0), 10, Some(1.0))
        );
        assert_eq!(
            (result.restarts, result.resets, result.bytes_per_target),
            (1, 1, 3.5)
        );
        // Of `Pretend`: 6 weights of two bytes, 3 + 3 of four; moments 3 + 3 of four.
        assert_eq!(
            (result.weight_bytes, result.optimizer_state_bytes),
            (36, 24)
        );
        assert_eq!(result.peak_memory_bytes, Some(4096));
    }

    #[test]
    fn a_diverged_run_has_a_result_and_no_loss() {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume(suite.path(), &cell).0;
        train(&mut journal, 1..=1).expect("written");
        journal
            .step(
                at(2),
                &Reading {
                    step: 1,
                    loss: f64::NAN,
                    grad_norm: f64::INFINITY,
                },
                1e-3,
            )
            .expect("written");
        journal
            .finish(at(2), Outcome::Diverged { step: 2 }, None, &Pretend::new(1))
            .expect("finished");
        let result = result(&suite.path().join(cell.directory()))
            .expect("readable")
            .expect("there");
        assert_eq!(
            (
                result.status,
                result.diverged_at_step,
                result.validation_loss
            ),
            (Status::Diverged, Some(2), None)
        );
    }

    #[test]
    fn the_next_session_takes_a_failure_away_and_is_listed() {
        let (suite, cell) = (suite(), cell("full"));
        let directory = suite.path().join(cell.directory());
        let mut journal = resume(suite.path(), &cell).0;
        train(&mut journal, 1..=2).expect("written");
        journal
            .checkpoint(at(2), &Pretend::new(1), false)
            .expect("written");
        journal.fail("the device failed").expect("written");
        drop(journal);
        assert_eq!(
            failure(&directory).expect("readable").expect("there").error,
            "the device failed"
        );
        drop(resume(suite.path(), &cell));
        assert_eq!(failure(&directory).expect("readable"), None);
        let manifest: Manifest =
            files::read_json(&directory.join(MANIFEST), "a manifest").expect("readable");
        assert_eq!(
            manifest
                .sessions
                .iter()
                .map(|session| session.from_step)
                .collect::<Vec<_>>(),
            [0, 2]
        );
    }

    #[test]
    fn the_newest_record_is_the_last_whole_line() {
        let (suite, cell) = (suite(), cell("full"));
        let directory = suite.path().join(cell.directory());
        let mut journal = resume(suite.path(), &cell).0;
        assert_eq!(newest_record(&directory).expect("readable"), None);
        train(&mut journal, 1..=100).expect("written");
        journal.stop(at(100), Reason::Budget).expect("written");
        let stop = Record::Stop(StopRecord {
            step: 100,
            reason: "budget".into(),
        });
        assert_eq!(
            newest_record(&directory).expect("readable"),
            Some(stop.clone())
        );
        let mut file = OpenOptions::new()
            .append(true)
            .open(directory.join(METRICS))
            .expect("open");
        file.write_all(b"{\"type\":\"st").expect("written");
        assert_eq!(newest_record(&directory).expect("readable"), Some(stop));
    }

    /// Not a test by itself: the other process of the next test, which runs this test binary again, since a panic spoils
    /// a whole process.
    #[test]
    fn panicking_process() {
        let Some(suite) = std::env::var_os("RELORA_TEST_PANIC_DIRECTORY") else {
            return;
        };
        let mut journal = resume(Path::new(&suite), &cell("full")).0;
        train(&mut journal, 1..=2).expect("written");
        stop::poison_on_panic();
        let caught = std::thread::Builder::new()
            .name("device".into())
            .spawn(|| panic!("out of\nmemory"))
            .expect("started")
            .join();
        assert!(caught.is_err());
        let line = train(&mut journal, 3..=3).expect_err("refused").to_string();
        assert!(
            line.starts_with("panic in thread device at ") && line.ends_with(": out of memory"),
            "{line}"
        );
        assert_eq!(
            journal
                .checkpoint(at(3), &Pretend::new(1), false)
                .expect_err("refused")
                .to_string(),
            line
        );
        journal.fail(&line).expect("only the failure is written");
    }

    #[test]
    fn a_process_in_which_any_thread_has_panicked_writes_no_record_and_no_checkpoint() {
        let suite = suite();
        let mut other = std::process::Command::new(std::env::current_exe().expect("test binary"));
        other
            .args(["journal::tests::panicking_process", "--exact"])
            .env("RELORA_TEST_PANIC_DIRECTORY", suite.path());
        let output = other.output().expect("started");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        let cell = cell("full");
        assert_eq!(records(suite.path(), &cell), [("step", 1), ("step", 2)]);
        assert!(
            checkpoint::steps(&checkpoint::folder(&suite.path().join(cell.directory())))
                .expect("listed")
                .is_empty()
        );
    }

    /// A file system of 256 KiB in memory, unmounted at the end; none where we may not mount.
    #[cfg(target_os = "linux")]
    struct SmallDisk(tempfile::TempDir);

    #[cfg(target_os = "linux")]
    impl SmallDisk {
        fn mount() -> Option<SmallDisk> {
            let directory = suite();
            let mut mount = std::process::Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
                .arg(directory.path());
            let mounted = mount
                .stderr(std::process::Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
            if !mounted {
                eprintln!("skipped: a small file system cannot be mounted here");
            }
            mounted.then_some(SmallDisk(directory))
        }

        fn fill(&self) -> PathBuf {
            let path = self.0.path().join("ballast");
            let mut file = File::create(&path).expect("created");
            while file.write_all(&[0; 512]).is_ok() {}
            path
        }
    }

    #[cfg(target_os = "linux")]
    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let unmounted = std::process::Command::new("umount")
                .arg("-l")
                .arg(self.0.path())
                .status();
            assert!(unmounted.is_ok_and(|status| status.success()), "unmounted");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn on_a_full_disk_every_write_fails_with_its_path_and_the_run_goes_on_once_there_is_room() {
        let Some(disk) = SmallDisk::mount() else {
            return;
        };
        let (suite, cell) = (disk.0.path(), cell("full"));
        let full = |result: Result<()>, name: &str| {
            let line = result.expect_err("no room").to_string();
            assert!(
                line.contains(name) && line.contains("No space left on device"),
                "{line}"
            );
        };
        let ballast = disk.fill();
        full(open(suite, &cell).map(drop), "lease");
        fs::remove_file(&ballast).expect("removed");

        let mut journal = resume(suite, &cell).0;
        train(&mut journal, 1..=3).expect("room");
        journal
            .checkpoint(at(3), &Pretend::new(3), false)
            .expect("room");
        let ballast = disk.fill();
        full(train(&mut journal, 4..=400), METRICS);
        full(
            journal.checkpoint(at(4), &Pretend::new(4), false),
            "checkpoints",
        );
        full(
            journal
                .finish(at(4), Outcome::Diverged { step: 4 }, None, &Pretend::new(4))
                .map(drop),
            RESULT,
        );
        full(journal.fail("full"), FAILED);
        drop(journal);
        fs::remove_file(&ballast).expect("removed");

        let (mut journal, from) = resume(suite, &cell);
        assert_eq!(from, Some(3), "nothing lost");
        assert_eq!(
            records(suite, &cell),
            [("step", 1), ("step", 2), ("step", 3)]
        );
        train(&mut journal, 4..=4).expect("room");
        let loss = evaluate(&mut journal, 4).expect("room");
        journal
            .finish(at(4), Outcome::Complete, Some(loss), &Pretend::new(4))
            .expect("room");
        let left = fs::read_dir(checkpoint::folder(&suite.join(cell.directory())))
            .expect("listed")
            .count();
        assert_eq!(left, 1, "no half-written checkpoint stays");
    }
}
