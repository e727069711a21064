//! Algorithm 1 of the paper with its numbers filled in: what `run.rs` needs to know of a cell, and nothing else.

use crate::matrix::FullRankStage;
use crate::schedule::{Events, Schedule, ScheduleError, Shape, Stage};
use crate::settings::{
    BaseName, FactorInitName, LossWeight, PruneMaskName, ResetName, ScalingName, ScheduleName,
    ScheduleSpan, Settings,
};
use datasets::Sequences;
use models::{AdamW, Base, FactorInit, LowRank, Mask, MomentReset, ResetKind, Scaling};

/// One run of the algorithm.
#[derive(Clone, Debug, PartialEq)]
pub struct Algorithm {
    /// Update steps in all.
    pub steps: u64,
    /// Of these, steps at full rank before the factors are attached.
    pub warm_start_steps: u64,
    /// Learning rate of every update.
    pub schedule: Schedule,
    /// The optimizer.
    pub adamw: AdamW,
    /// The factors, for a low-rank method.
    pub low_rank: Option<LowRank>,
    /// When the product is merged and the factors drawn anew.
    pub restarts: Events,
    /// When the factors' moments are reset.
    pub resets: Events,
    /// What a reset does.
    pub reset: MomentReset,
    grad_clip: Option<f64>,
    warm_start_grad_clip: Option<f64>,
    loss_weight: LossWeight,
    log_every: u64,
    evaluate_every: u64,
    checkpoint_every: u64,
    /// Updates after which the checkpoint stays: others start from it, or the spectra are of what came after.
    warm_start_kept: Option<u64>,
}

/// What the switches of a method come to in the learner's terms.
pub struct MethodSwitches {
    /// The factors, for a low-rank method.
    pub low_rank: Option<LowRank>,
    /// What a reset does.
    pub reset: MomentReset,
}

impl MethodSwitches {
    /// Reads them off the settings.
    #[must_use]
    pub fn of(settings: &Settings) -> MethodSwitches {
        let low_rank = settings.low_rank.then(|| LowRank {
            rank: settings.rank as usize,
            scaling: match settings.scaling {
                ScalingName::Fixed => Scaling::Fixed(settings.alpha / settings.rank as f64),
                ScalingName::TanhScalar => Scaling::TanhScalar,
            },
            base: match settings.base {
                BaseName::Keep => Base::Keep,
                BaseName::Zero => Base::Zero,
                BaseName::None => Base::None,
            },
            factor_init: match settings.factor_init {
                FactorInitName::KaimingZero => FactorInit::KaimingZero,
                FactorInitName::BothKaiming => FactorInit::BothKaiming,
                FactorInitName::BothZero => FactorInit::BothZero,
            },
            dropout: settings.dropout,
        });
        let reset = MomentReset {
            kind: match settings.reset {
                ResetName::Zero => ResetKind::Zero,
                ResetName::Magnitude => ResetKind::Magnitude(settings.reset_ratio),
                ResetName::Random => ResetKind::Random(settings.reset_ratio),
            },
            mask: match settings.prune_mask {
                PruneMaskName::Joint => Mask::Joint,
                PruneMaskName::Separate => Mask::Separate,
            },
        };
        MethodSwitches { low_rank, reset }
    }
}

/// The optimizer's constants.
#[must_use]
pub fn adamw(settings: &Settings) -> AdamW {
    AdamW {
        beta1: settings.beta1,
        beta2: settings.beta2,
        epsilon: settings.epsilon,
        weight_decay: settings.weight_decay,
    }
}

/// The shape of a schedule that is not jagged.
fn smooth(name: ScheduleName, span: u64, cycle: u64) -> Shape {
    match name {
        ScheduleName::Linear => Shape::Linear,
        ScheduleName::Cosine => Shape::Cosine { cycle: span },
        ScheduleName::CosineCycles => Shape::Cosine { cycle },
    }
}

impl Algorithm {
    /// Fills in the numbers.
    ///
    /// # Errors
    /// A schedule that cannot be.
    pub fn new(
        settings: &Settings,
        warm_start: Option<&FullRankStage>,
        hands_over: bool,
    ) -> Result<Algorithm, ScheduleError> {
        let warm_start_steps = settings.warm_start_length();
        let span = match settings.schedule_span {
            ScheduleSpan::Remaining => settings.steps.saturating_sub(warm_start_steps),
            ScheduleSpan::Whole => settings.steps,
        };
        let Settings {
            learning_rate,
            warmup_steps,
            minimum_learning_rate_ratio,
            ..
        } = *settings;
        let shape = if settings.jagged {
            let rewarmup = if settings.rewarmup {
                settings.rewarmup_steps
            } else {
                1
            };
            Shape::Jagged {
                cycle: settings.cycle(),
                rewarmup,
                adjust: settings.adjust_steps,
            }
        } else {
            smooth(settings.schedule, span, settings.cycle())
        };
        let own = Stage::new(
            shape,
            learning_rate,
            warmup_steps,
            span,
            minimum_learning_rate_ratio,
        )?;
        let schedule = match warm_start {
            None => Schedule::new(own),
            Some(full) => Schedule::new(Stage::new(
                smooth(full.schedule, settings.steps, full.cycle_steps.unwrap_or(0)),
                full.learning_rate,
                full.warmup_steps,
                settings.steps,
                full.minimum_learning_rate_ratio,
            )?)
            .then(warm_start_steps, own),
        };
        let MethodSwitches { low_rank, reset } = MethodSwitches::of(settings);
        let events = |on: bool, every| {
            if on {
                Events {
                    start: warm_start_steps,
                    every,
                }
            } else {
                Events::NEVER
            }
        };
        Ok(Algorithm {
            steps: settings.steps,
            warm_start_steps,
            schedule,
            adamw: adamw(settings),
            low_rank,
            restarts: events(settings.restarts, settings.restart_every),
            resets: events(settings.optimizer_reset, settings.cycle()),
            reset,
            grad_clip: settings.grad_clip,
            warm_start_grad_clip: warm_start.map_or(settings.grad_clip, |full| full.grad_clip),
            loss_weight: settings.loss_weight,
            log_every: settings.log_every,
            evaluate_every: settings.evaluate_every,
            checkpoint_every: settings.checkpoint_every,
            warm_start_kept: (hands_over || (settings.keep_factors && settings.warm_start))
                .then_some(settings.warm_start_steps),
        })
    }

    /// The factors, where they are attached before the update with this 0-based number.
    #[must_use]
    pub fn low_rank_starting(&self, step: u64) -> Option<&LowRank> {
        self.low_rank
            .as_ref()
            .filter(|_| step == self.warm_start_steps)
    }

    /// Clipping threshold of the update with this 0-based number.
    #[must_use]
    pub fn grad_clip(&self, step: u64) -> Option<f64> {
        if step < self.warm_start_steps {
            self.warm_start_grad_clip
        } else {
            self.grad_clip
        }
    }

    /// Weight of a micro-batch's loss sum in an update with `targets` targets in `micro_batches` micro-batches.
    #[must_use]
    pub fn weight(&self, sequences: &Sequences, targets: u64, micro_batches: usize) -> f64 {
        match self.loss_weight {
            LossWeight::Targets => 1.0 / targets.max(1) as f64,
            LossWeight::MicroBatches => {
                1.0 / (sequences.targets().max(1) as f64 * micro_batches as f64)
            }
        }
    }

    /// Whether a training step is recorded once `done` updates are done.
    #[must_use]
    pub fn logs_after(&self, done: u64) -> bool {
        done == 1 || done == self.steps || done.is_multiple_of(self.log_every)
    }

    /// Whether the validation loss is measured then. The last evaluation is the run's own, after its loop.
    #[must_use]
    pub fn evaluates_after(&self, done: u64) -> bool {
        self.evaluate_every > 0 && done < self.steps && done.is_multiple_of(self.evaluate_every)
    }

    /// Whether a checkpoint is written then.
    #[must_use]
    pub fn checkpoints_after(&self, done: u64) -> bool {
        self.keeps_checkpoint(done)
            || (self.checkpoint_every > 0 && done.is_multiple_of(self.checkpoint_every))
    }

    /// Whether the checkpoint of this step must stay, since other runs start from it or are compared with it.
    #[must_use]
    pub fn keeps_checkpoint(&self, done: u64) -> bool {
        self.warm_start_kept == Some(done)
    }

    /// Whether the host waits for the device once `done` updates are done.
    #[must_use]
    pub fn pauses_after(&self, done: u64) -> bool {
        self.logs_after(done) || self.evaluates_after(done) || self.checkpoints_after(done)
    }
}
