//! Learning rates and restart events as pure functions of the update step: nothing here has state, so a resumed run
//! needs none of it saved.
//!
//! The shapes are those of the official code (`Guitaricet/relora@176f376`, `peft_pretraining/training_utils.py`), which
//! the golden numbers in `tests/golden/schedules.json` were recorded from; the jagged one is section 3 of the paper
//! ("jagged cosine": one cosine envelope, the rate set to zero at every restart and warmed up again to the envelope).

use std::f64::consts::PI;

/// A learning rate for every update: stages one after the other, each from its first update on.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    stages: Vec<(u64, Stage)>,
}

impl Schedule {
    /// One stage for the whole run.
    #[must_use]
    pub fn new(stage: Stage) -> Schedule {
        Schedule {
            stages: vec![(0, stage)],
        }
    }

    /// The same schedule, with `stage` in force from update `first` on (0-based) and its own clock starting there.
    #[must_use]
    pub fn then(mut self, first: u64, stage: Stage) -> Schedule {
        self.stages.push((first, stage));
        self
    }

    /// Learning rate of the update with this 0-based number.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        let current = self.stages.iter().rev().find(|(first, _)| *first <= step);
        current.map_or(0.0, |(first, stage)| stage.at(step - first))
    }
}

/// One schedule with a peak and a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    shape: Shape,
    peak: f64,
    warmup: u64,
    span: u64,
    minimum_ratio: f64,
}

/// The course of the rate after the first warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Straight down to zero.
    Linear,
    /// Half a cosine down to the minimum, again from the peak after every `cycle` updates.
    Cosine {
        /// Updates of one cycle; the span for a single one.
        cycle: u64,
    },
    /// The paper's jagged schedule: one cosine over the whole span, the rate zero at every restart.
    Jagged {
        /// Updates from one restart to the next.
        cycle: u64,
        /// Updates in which the rate climbs back after a restart; 1 restores it at once, 0 never drops it.
        rewarmup: u64,
        /// Updates by which the restarts come early (`adjust_step` of the official code).
        adjust: u64,
    },
}

/// A combination that has no schedule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The cosine shapes divide by it.
    #[error("minimum_learning_rate_ratio = {0}: a cosine schedule needs more than 0 and at most 1")]
    MinimumRatio(f64),
    /// Cycles must tile the span.
    #[error("a cycle of {cycle} steps does not divide the schedule's {span} steps; nearest that do: {}", .nearest.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))]
    Cycle {
        /// The cycle asked for.
        cycle: u64,
        /// The span it should divide.
        span: u64,
        /// Divisors of the span nearest to it.
        nearest: Vec<u64>,
    },
    /// The first warm-up must end before the first restart.
    #[error(
        "warmup_steps = {warmup} plus adjust_steps = {adjust} is longer than the first cycle of {cycle} steps"
    )]
    Warmup {
        /// Steps of the first warm-up.
        warmup: u64,
        /// Steps by which restarts come early.
        adjust: u64,
        /// Steps of a cycle.
        cycle: u64,
    },
}

impl Stage {
    /// A stage of `span` updates that climbs to `peak` in `warmup` of them and ends at `minimum_ratio` of it.
    ///
    /// # Errors
    /// Where the official code raises: a cosine with a minimum ratio outside (0, 1], a cycle that does not divide the
    /// span, a warm-up (and adjustment) longer than a cycle of the jagged schedule.
    pub fn new(
        shape: Shape,
        peak: f64,
        warmup: u64,
        span: u64,
        minimum_ratio: f64,
    ) -> Result<Stage, ScheduleError> {
        if shape != Shape::Linear && !(minimum_ratio > 0.0 && minimum_ratio <= 1.0) {
            return Err(ScheduleError::MinimumRatio(minimum_ratio));
        }
        if let Shape::Cosine { cycle } | Shape::Jagged { cycle, .. } = shape
            && (cycle == 0 || !span.is_multiple_of(cycle))
        {
            return Err(ScheduleError::Cycle {
                cycle,
                span,
                nearest: nearest_divisors(span, cycle),
            });
        }
        if let Shape::Jagged { cycle, adjust, .. } = shape
            && warmup + adjust > cycle
        {
            return Err(ScheduleError::Warmup {
                warmup,
                adjust,
                cycle,
            });
        }
        Ok(Stage {
            shape,
            peak,
            warmup,
            span,
            minimum_ratio,
        })
    }

    /// Learning rate of the stage's update `t` (0-based).
    #[must_use]
    pub fn at(&self, t: u64) -> f64 {
        self.peak * self.factor(t)
    }

    fn factor(&self, t: u64) -> f64 {
        let Stage { warmup, span, .. } = *self;
        match self.shape {
            Shape::Linear if t < warmup => ratio(t, warmup),
            Shape::Linear => ratio(span.saturating_sub(t), span.saturating_sub(warmup)),
            Shape::Cosine { cycle } => {
                let k = t % cycle;
                if k < warmup {
                    // The official code floors the first two updates of every later warm-up at 1e-7.
                    if t >= cycle && k < 2 {
                        1e-7
                    } else {
                        ratio(k, warmup)
                    }
                } else {
                    self.cosine(ratio(k - warmup, cycle.saturating_sub(warmup)))
                }
            }
            Shape::Jagged { .. } if t < warmup => ratio(t, warmup),
            Shape::Jagged {
                cycle,
                rewarmup,
                adjust,
            } => {
                let shifted = t + adjust;
                let (restart, since) = (shifted / cycle, shifted % cycle);
                // The test on t, not on the shifted step, is the official code's: with an adjustment the first early
                // restart has no warm-up.
                if since < rewarmup && t >= cycle {
                    let end = (restart * cycle + rewarmup) as f64 - warmup as f64;
                    ratio(since, rewarmup)
                        * self.cosine(end / span.saturating_sub(warmup).max(1) as f64)
                } else {
                    self.cosine(ratio(shifted - warmup, span.saturating_sub(warmup)))
                }
            }
        }
    }

    /// The envelope m + (1 - m)(1 + cos πp)/2 at a share `p` of the way down.
    fn cosine(&self, p: f64) -> f64 {
        self.minimum_ratio + (1.0 - self.minimum_ratio) * (0.5 * (1.0 + libm::cos(PI * p)))
    }
}

fn ratio(numerator: u64, denominator: u64) -> f64 {
    numerator as f64 / denominator.max(1) as f64
}

fn nearest_divisors(span: u64, cycle: u64) -> Vec<u64> {
    let small = (1..=span.isqrt()).filter(|divisor| span.is_multiple_of(*divisor));
    let divisors: Vec<u64> = small
        .flat_map(|divisor| [divisor, span / divisor])
        .collect();
    let below = divisors.iter().filter(|divisor| **divisor < cycle).max();
    let above = divisors.iter().filter(|divisor| **divisor > cycle).min();
    below.into_iter().chain(above).copied().collect()
}

/// The updates after which something periodic happens (a restart, a reset of the optimizer).
///
/// As in the official code's `torchrun_main.py`: with `e` updates done since the factors were attached, after every
/// update with e mod every = 1 and e > 1. So the event comes *after* the first update of a cycle, the one whose learning
/// rate the jagged schedule has set to zero, and a period of 1 has no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// Updates done when the period's clock starts.
    pub start: u64,
    /// Updates from one event to the next; 0 for no events.
    pub every: u64,
}

impl Events {
    /// No events at all.
    pub const NEVER: Events = Events { start: 0, every: 0 };

    /// Whether the event happens once `done` updates (1-based) are done.
    #[must_use]
    pub fn after(&self, done: u64) -> bool {
        let since = done.saturating_sub(self.start);
        self.every > 0 && since > 1 && since % self.every == 1
    }
}
