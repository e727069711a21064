//! ReLoRA, Algorithm 1 of the paper: full-rank warm start, low-rank training, merge and restart, jagged learning rate,
//! partial optimizer reset. Which of these a run has is data in its [`Algorithm`].
//!
//! The loop knows no process, lease, terminal or backend; [`Stop`] is all it hears of them. Schedule, order of the data and
//! random draws are functions of the step, so [`Progress`] is all that a checkpoint adds to the tensors.

use crate::algorithm::Algorithm;
use crate::checkpoint::Checkpoint;
use crate::journal::Journal;
use crate::stop::{Reason, Stop};
use anyhow::Result;
use datasets::{Batches, Sequences};
use models::{Batch, Draws, Learner, LossSum, Update};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What a run reads.
pub struct Data {
    /// Training batches, a pure function of the step.
    pub training: Batches,
    /// The validation split, every target once.
    pub validation: Batches,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Update steps done.
    pub step: u64,
    /// Training targets that carried a loss so far.
    pub tokens_seen: u64,
}

impl Progress {
    fn after_update(self, tokens: u64) -> Progress {
        Progress {
            step: self.step + 1,
            tokens_seen: self.tokens_seen + tokens,
        }
    }
}

/// How a run, or this process's part in it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps done.
    Complete,
    /// Loss or gradient no longer finite.
    Diverged {
        /// The update (1-based) at which it happened.
        step: u64,
    },
    /// Stopped before its end; can be continued.
    Stopped(Reason),
}

/// Trains to the end, or to where it is told to stop.
///
/// # Errors
/// A fault of the device, of the data or of the disk. What was checkpointed stays good.
pub fn run(
    algorithm: &Algorithm,
    learner: &mut dyn Learner,
    draws: &dyn Draws,
    data: &Data,
    journal: &mut Journal,
    stop: &Stop,
) -> Result<Outcome> {
    let mut at = begin(algorithm, learner, draws, journal)?;
    if at.step > 0
        && algorithm.evaluates_after(at.step)
        && let ControlFlow::Break(stopped) =
            evaluation(algorithm, at, learner, data, journal, stop)?
    {
        return Ok(stopped); // a checkpoint never has the evaluation of its own step
    }
    let mut queued = Vec::new(); // progress after each update whose loss the device still holds
    while at.step < algorithm.steps {
        if let Some(low_rank) = algorithm.low_rank_starting(at.step) {
            learner.attach(at.step, low_rank, draws); // end of the warm start: y = xWᵀ + s(xAᵀ)Bᵀ, Adam afresh
            journal.warm_start_ends(at);
        }
        let micro_batches = data.training.update(at.step)?;
        let targets: u64 = micro_batches.iter().map(Sequences::targets).sum();
        for sequences in &micro_batches {
            let weight = algorithm.weight(sequences, targets, micro_batches.len());
            learner.accumulate(view(sequences), weight);
        }
        learner.update(Update {
            step: at.step,
            learning_rate: algorithm.schedule.at(at.step),
            grad_clip: algorithm.grad_clip(at.step),
        });
        at = at.after_update(targets);
        queued.push(at);
        if algorithm.restarts.after(at.step) {
            journal.keep_factors(at, learner)?;
            learner.restart(at.step, draws); // W += s·BA; A drawn anew, B = 0
        }
        let reset = algorithm
            .resets
            .after(at.step)
            .then(|| learner.reset_moments(at.step, &algorithm.reset, draws));

        let stopping = stop.reason();
        let checkpointing =
            stopping.is_some() || algorithm.checkpoints_after(at.step) || journal.checkpoint_due();
        let event = algorithm.restarts.after(at.step) || reset.is_some();
        if !checkpointing && !event && !algorithm.pauses_after(at.step) {
            continue; // the host runs ahead of the device
        }
        for (reading, after) in learner.drain()?.iter().zip(queued.drain(..)) {
            if algorithm.logs_after(after.step) || !reading.is_finite() {
                journal.step(after, reading, algorithm.schedule.at(reading.step))?;
            }
            if !reading.is_finite() {
                return journal.finish(
                    after,
                    Outcome::Diverged { step: after.step },
                    None,
                    learner,
                );
            }
        }
        if algorithm.restarts.after(at.step) {
            journal.restart(at)?;
        }
        if let Some(report) = reset {
            journal.reset(at, report)?;
        }
        if checkpointing {
            journal.checkpoint(at, learner, algorithm.keeps_checkpoint(at.step))?; // after restart and reset: a resume loses neither
        }
        let stopping = stopping.filter(|_| at.step < algorithm.steps);
        // After the checkpoint: one who stops a run need not wait for it, and a run that is continued makes it then, or, where
        // only the budget asked for it, forgets it.
        let evaluating = stopping.map_or(algorithm.evaluates_after(at.step), may_evaluate);
        if evaluating
            && let ControlFlow::Break(stopped) =
                evaluation(algorithm, at, learner, data, journal, stop)?
        {
            return Ok(stopped);
        }
        if let Some(reason) = stopping {
            return journal.stop(at, reason);
        }
    }
    match evaluation(algorithm, at, learner, data, journal, stop)? {
        ControlFlow::Continue(loss) => journal.finish(at, Outcome::Complete, Some(loss), learner),
        ControlFlow::Break(stopped) => Ok(stopped),
    }
}

/// Puts the learner where the run goes on: the newest good checkpoint, else the warm start that `full` has left, else step 0.
fn begin(
    algorithm: &Algorithm,
    learner: &mut dyn Learner,
    draws: &dyn Draws,
    journal: &mut Journal,
) -> Result<Progress> {
    let handed_on = |journal: &Journal| match algorithm.warm_start_steps {
        0 => Ok(None),
        steps => journal.warm_start(steps),
    };
    let Some(from) = journal
        .newest_checkpoint()?
        .map_or_else(|| handed_on(journal), |own| Ok(Some(own)))?
    else {
        journal.fresh()?;
        return Ok(Progress::default());
    };
    restore(algorithm, learner, draws, &from)?;
    journal.resume(&from)?;
    Ok(from.progress)
}

/// A checkpoint at the very end of the warm start is of the full-rank network: the loop attaches the factors then.
fn restore(
    algorithm: &Algorithm,
    learner: &mut dyn Learner,
    draws: &dyn Draws,
    from: &Checkpoint,
) -> Result<()> {
    if let Some(low_rank) = &algorithm.low_rank
        && from.progress.step > algorithm.warm_start_steps
    {
        learner.attach(algorithm.warm_start_steps, low_rank, draws);
    }
    from.load_into(learner)
}

/// Measures and records the validation loss. Where the run is told to stop meanwhile, a checkpoint takes its place: who
/// continues from there begins with this evaluation.
fn evaluation(
    algorithm: &Algorithm,
    at: Progress,
    learner: &mut dyn Learner,
    data: &Data,
    journal: &mut Journal,
    stop: &Stop,
) -> Result<ControlFlow<Outcome, LossSum>> {
    match evaluate(learner, &data.validation, journal, stop)? {
        ControlFlow::Continue(loss) => {
            journal.evaluation(at, loss)?;
            Ok(ControlFlow::Continue(loss))
        }
        ControlFlow::Break(reason) => {
            journal.checkpoint(at, learner, algorithm.keeps_checkpoint(at.step))?;
            journal.stop(at, reason).map(ControlFlow::Break)
        }
    }
}

/// Sum of the loss over all validation targets, each once. It is time of its own: never counted as training.
fn evaluate(
    learner: &mut dyn Learner,
    validation: &Batches,
    journal: &mut Journal,
    stop: &Stop,
) -> Result<ControlFlow<Reason, LossSum>> {
    journal.measuring_evaluation(|| {
        let mut total = LossSum {
            sum: 0.0,
            targets: 0,
        };
        for sequences in validation.pass() {
            if let Some(reason) = stop.reason().filter(|reason| !may_evaluate(*reason)) {
                return Ok(ControlFlow::Break(reason));
            }
            let part = learner.evaluate(view(&sequences?))?;
            total.sum += part.sum;
            total.targets += part.targets;
        }
        Ok(ControlFlow::Continue(total))
    })
}

/// A run that its budget stops is evaluated as it stands; for other reasons nobody waits that long.
fn may_evaluate(reason: Reason) -> bool {
    reason == Reason::Budget
}

pub(crate) fn view(sequences: &Sequences) -> Batch<'_> {
    Batch {
        inputs: &sequences.inputs,
        targets: &sequences.targets,
        rows: sequences.rows,
        length: sequences.length,
        index: sequences.index,
    }
}
