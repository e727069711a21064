//! The validation curve of a run: what it had spent at each evaluation and what loss it had there, read in proportion between
//! neighbours, never before the first evaluation and never beyond the last.

use super::Run;
use crate::record::{Record, RowKeys, StepRecord};

/// What training spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Currency {
    /// Training targets.
    Tokens,
    /// Training FLOPs, counted per method.
    Flops,
    /// Seconds of training on the machine that ran it.
    Seconds,
    /// Joules of training of the GPU that ran it, where its driver told them.
    Joules,
}

impl Currency {
    /// What two methods can be made to spend alike.
    pub(super) const EQUAL: [Currency; 3] = [Currency::Tokens, Currency::Flops, Currency::Seconds];

    /// What a loss has a price in.
    pub(super) const PRICED: [Currency; 4] = [
        Currency::Tokens,
        Currency::Flops,
        Currency::Seconds,
        Currency::Joules,
    ];

    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Currency::Tokens => "tokens",
            Currency::Flops => "flops",
            Currency::Seconds => "seconds",
            Currency::Joules => "joules",
        }
    }
}

/// What a run had spent at a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    pub(super) tokens: f64,
    pub(super) flops: f64,
    /// None where no step was logged from there on.
    pub(super) seconds: Option<f64>,
    /// None there too, and where nobody told.
    pub(super) joules: Option<f64>,
}

impl Spent {
    pub(super) fn of(&self, currency: Currency) -> Option<f64> {
        match currency {
            Currency::Tokens => Some(self.tokens),
            Currency::Flops => Some(self.flops),
            Currency::Seconds => self.seconds,
            Currency::Joules => self.joules,
        }
    }
}

/// What a logged step says was spent by then.
type Logged = fn(&StepRecord) -> Option<f64>;

const SECONDS: Logged = |step| Some(step.training_seconds);
const JOULES: Logged = |step| step.training_joules;

/// A loss that was read off a curve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) loss: f64,
    /// Share of the run's steps that were done.
    pub(super) share: f64,
    /// Difference of the two evaluations that it lies between; zero where it is an evaluation's own.
    pub(super) bracket: f64,
}

#[derive(Clone, Copy)]
struct Evaluation {
    step: f64,
    tokens: f64,
    /// None where it was not finite.
    loss: Option<f64>,
}

/// A run's evaluations, and what its steps cost.
pub(super) struct Curve<'a> {
    run: &'a Run,
    warm: f64,
    full_rank_flops: f64,
    own_flops: f64,
    evaluations: Vec<Evaluation>,
}

/// FLOPs of an update of the method's own stage, where one of the warm start takes as many as are given.
pub(super) fn own_flops(row: &RowKeys, full_rank_flops: f64) -> f64 {
    let warm = row.warm_start_steps.unwrap_or(0) as f64;
    (row.flops - warm * full_rank_flops) / (row.planned_steps as f64 - warm).max(1.0)
}

/// FLOPs of an update of a method without a warm start.
pub(super) fn flops_per_update(row: &RowKeys) -> f64 {
    row.flops / row.planned_steps.max(1) as f64
}

impl<'a> Curve<'a> {
    /// The curve of a run that spends so many FLOPs in each update of a warm start.
    pub(super) fn of(run: &'a Run, full_rank_flops: f64) -> Curve<'a> {
        let evaluations = run.records.iter().filter_map(|record| match record {
            Record::Evaluation(it) => Some(Evaluation {
                step: it.step as f64,
                tokens: it.tokens_seen as f64,
                loss: it.validation_loss,
            }),
            _ => None,
        });
        Curve {
            run,
            warm: run.row.warm_start_steps.unwrap_or(0) as f64,
            full_rank_flops,
            own_flops: own_flops(&run.row, full_rank_flops),
            evaluations: evaluations.collect(),
        }
    }

    /// What it took to be at a loss or below it first; none where it never was, or was already at the first evaluation.
    pub(super) fn price(&self, loss: f64) -> Option<Spent> {
        let at = self.first_at(loss)?;
        let before = at.checked_sub(1)?;
        let (from, to) = (self.evaluations[before], self.evaluations[at]);
        let share = (from.loss? - loss) / (from.loss? - to.loss?);
        let step = from.step + share * (to.step - from.step);
        let tokens = from.tokens + share * (to.tokens - from.tokens);
        Some(self.spent(step, tokens))
    }

    /// Whether it was ever evaluated at a loss or below it.
    pub(super) fn reaches(&self, loss: f64) -> bool {
        self.first_at(loss).is_some()
    }

    fn first_at(&self, loss: f64) -> Option<usize> {
        let is_there = |it: &Evaluation| it.loss.is_some_and(|own| own <= loss);
        self.evaluations.iter().position(is_there)
    }

    /// What it had spent at its last evaluation.
    pub(super) fn total(&self, currency: Currency) -> Option<f64> {
        let end = self.evaluations.last()?;
        self.spent(end.step, end.tokens).of(currency)
    }

    /// Its loss once it had spent a budget that is no more than its total: at the end of the curve, at an evaluation, or in
    /// proportion to the steps between two of them. None before the first evaluation.
    pub(super) fn read(&self, currency: Currency, budget: f64) -> Option<Read> {
        let end = self.evaluations.last()?;
        let step = if self.total(currency)? <= budget {
            end.step
        } else {
            // Rounding must not carry it over the end.
            self.step_at(currency, budget)?.min(end.step)
        };
        let at = self.evaluations.iter().position(|it| it.step >= step)?;
        let to = self.evaluations[at];
        let share = step / end.step;
        if to.step == step {
            return Some(Read {
                loss: to.loss?,
                share,
                bracket: 0.0,
            });
        }
        let from = self.evaluations[at.checked_sub(1)?];
        let (from_loss, to_loss) = (from.loss?, to.loss?);
        let passed = (step - from.step) / (to.step - from.step);
        Some(Read {
            loss: from_loss + passed * (to_loss - from_loss),
            share,
            bracket: (from_loss - to_loss).abs(),
        })
    }

    /// Update steps at which it had spent so much.
    fn step_at(&self, currency: Currency, amount: f64) -> Option<f64> {
        let step = match currency {
            Currency::Tokens => {
                let at = self.evaluations.iter().position(|it| it.tokens >= amount)?;
                let to = self.evaluations[at];
                if to.tokens == amount {
                    return Some(to.step);
                }
                let from = self.evaluations[at.checked_sub(1)?];
                let passed = (amount - from.tokens) / (to.tokens - from.tokens);
                from.step + passed * (to.step - from.step)
            }
            Currency::Flops => {
                let beyond = amount - self.warm * self.full_rank_flops;
                if beyond <= 0.0 {
                    amount / self.full_rank_flops
                } else {
                    self.warm + beyond / self.own_flops
                }
            }
            Currency::Seconds => self.logged_step_at(SECONDS, amount)?,
            Currency::Joules => self.logged_step_at(JOULES, amount)?,
        };
        Some(step).filter(|step| step.is_finite())
    }

    fn spent(&self, step: f64, tokens: f64) -> Spent {
        let own_steps = (step - self.warm).max(0.0);
        Spent {
            tokens,
            flops: step.min(self.warm) * self.full_rank_flops + own_steps * self.own_flops,
            seconds: self.logged_at(SECONDS, step),
            joules: self.logged_at(JOULES, step),
        }
    }

    /// What was spent up to a step, in proportion between the logged ones; none beyond the last of them.
    fn logged_at(&self, spent: Logged, step: f64) -> Option<f64> {
        let (from, to) = self.logged_around(spent, |it, _| it >= step)?;
        let passed = (step - from.0) / (to.0 - from.0);
        let spent = from.1 + passed * (to.1 - from.1);
        Some(spent).filter(|spent| spent.is_finite())
    }

    /// Update steps at which so much was spent.
    fn logged_step_at(&self, spent: Logged, amount: f64) -> Option<f64> {
        let (from, to) = self.logged_around(spent, |_, it| it >= amount)?;
        let passed = (amount - from.1) / (to.1 - from.1);
        Some(from.0 + passed * (to.0 - from.0))
    }

    /// Step of the first logged one of which something is true of its step and of what was spent by then, with what was
    /// spent, and both of the one before it, or of the beginning. None where a step before it does not say.
    fn logged_around(
        &self,
        spent: Logged,
        is_there: impl Fn(f64, f64) -> bool,
    ) -> Option<((f64, f64), (f64, f64))> {
        let mut before = (0.0, 0.0);
        for record in &self.run.records {
            let Record::Step(logged) = record else {
                continue;
            };
            let here = (logged.step as f64, spent(logged)?);
            if is_there(here.0, here.1) {
                return Some((before, here));
            }
            before = here;
        }
        None
    }
}
