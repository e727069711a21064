//! Every hyper-parameter and switch of a run, each declared once: its key in a profile, its type, its default, where it
//! may be set and what it means.
//!
//! A profile, a preset and a dialect are all layers of the same keys (`profile.rs`); a [`Settings`] is what results for
//! one size and one method, checked, so that nothing behind it needs to look for nonsense again.

use serde::{Deserialize, Serialize};
use std::fmt::Display;

/// A value that a profile can give to a key.
pub trait Setting: Sized {
    /// What would be right, for the message about what was wrong.
    fn expected() -> String;
    /// Reads the value; none where it is of another kind.
    fn read(value: &toml::Value) -> Option<Self>;
    /// The value as a profile writes it.
    fn show(&self) -> toml::Value;
}

impl Setting for u64 {
    fn expected() -> String {
        "a whole number that is not negative".into()
    }
    fn read(value: &toml::Value) -> Option<u64> {
        u64::try_from(value.as_integer()?).ok()
    }
    fn show(&self) -> toml::Value {
        toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl Setting for f64 {
    fn expected() -> String {
        "a finite number".into()
    }
    fn read(value: &toml::Value) -> Option<f64> {
        let number = value
            .as_float()
            .or_else(|| value.as_integer().map(|integer| integer as f64))?;
        number.is_finite().then_some(number)
    }
    fn show(&self) -> toml::Value {
        toml::Value::Float(*self)
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn read(value: &toml::Value) -> Option<bool> {
        value.as_bool()
    }
    fn show(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text in quotes".into()
    }
    fn read(value: &toml::Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }
    fn show(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

/// A number that can be switched off with `"none"`.
impl Setting for Option<f64> {
    fn expected() -> String {
        "a finite number or \"none\"".into()
    }
    fn read(value: &toml::Value) -> Option<Option<f64>> {
        if value.as_str() == Some("none") {
            Some(None)
        } else {
            f64::read(value).map(Some)
        }
    }
    fn show(&self) -> toml::Value {
        self.map_or_else(|| toml::Value::String("none".into()), toml::Value::Float)
    }
}

/// Declares an enum whose variants are named in profiles.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant,)+ }

        impl Setting for $name {
            fn expected() -> String {
                format!("one of {}", [$(concat!("\"", $text, "\"")),+].join(", "))
            }
            fn read(value: &toml::Value) -> Option<$name> {
                match value.as_str()? { $($text => Some($name::$variant),)+ _ => None }
            }
            fn show(&self) -> toml::Value {
                toml::Value::String(match self { $($name::$variant => $text,)+ }.into())
            }
        }
    };
}

choice!(
    /// How documents become sequences.
    Documents {
        /// All documents joined by the end-of-text token and cut into rows.
        Packed = "packed",
        /// One document per row, truncated or padded; padding carries no loss (the code at the paper's submission).
        Padded = "padded",
    }
);
choice!(
    /// How the micro-batches of an update are averaged.
    LossWeight {
        /// Mean over all targets of the update: padding and accumulation cannot change it.
        Targets = "targets",
        /// Mean of the micro-batches' means, as the official code does.
        MicroBatches = "micro-batches",
    }
);
choice!(
    /// Shape of a learning rate that is not jagged.
    ScheduleName {
        /// Linear to zero.
        Linear = "linear",
        /// Cosine to the minimum.
        Cosine = "cosine",
        /// One cosine after the other, each with its warm-up and `cycle_steps` long (the official code's `cosine` with a
        /// `cycle_length`).
        CosineCycles = "cosine-cycles",
    }
);
choice!(
    /// The scale s of the low-rank product.
    ScalingName {
        /// s = alpha / rank.
        Fixed = "fixed",
        /// s = tanh of a trained scalar per layer.
        TanhScalar = "tanh-scalar",
    }
);
choice!(
    /// What stands beside the low-rank product.
    BaseName {
        /// The weight that is there when the factors are attached, frozen: random, or warm-started.
        Keep = "keep",
        /// A frozen zero weight, which restarts fill.
        Zero = "zero",
        /// Nothing: W = sBA.
        None = "none",
    }
);
choice!(
    /// How the factors begin.
    FactorInitName {
        /// A Kaiming-uniform, B zero: attaching changes no output.
        KaimingZero = "kaiming-zero",
        /// Both Kaiming-uniform.
        BothKaiming = "both-kaiming",
        /// Both zero: no gradient reaches them before the first restart.
        BothZero = "both-zero",
    }
);
choice!(
    /// What a moment reset does.
    ResetName {
        /// All moments of the factors become zero.
        Zero = "zero",
        /// The smallest `reset_ratio` by magnitude become zero.
        Magnitude = "magnitude",
        /// A random share of `reset_ratio` becomes zero.
        Random = "random",
    }
);
choice!(
    /// Which elements a reset prunes in the two moments.
    PruneMaskName {
        /// The same elements in both.
        Joint = "joint",
        /// Each moment by its own mask, as the official code does.
        Separate = "separate",
    }
);
choice!(
    /// The span of the schedule after a warm start.
    ScheduleSpan {
        /// The steps that remain, so that it ends at its minimum.
        Remaining = "remaining",
        /// The whole run's, as the code at the paper's submission did, so that it ends above its minimum.
        Whole = "whole",
    }
);
choice!(
    /// Which network a method trains.
    NetworkName {
        /// The size's own.
        Own = "own",
        /// A full-rank one with as many parameters as `relora` trains at this size.
        Matched = "matched",
    }
);

/// Where a key may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For all runs of a size alike: what must not differ between methods that are compared.
    Size,
    /// For each method.
    Method,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $scope:ident $name:ident: $kind:ty = $default:expr;)+) => {
        /// All hyper-parameters of one run.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct Settings { $($(#[$doc])* pub $name: $kind,)+ }

        impl Default for Settings {
            fn default() -> Settings {
                Settings { $($name: $default,)+ }
            }
        }

        impl Settings {
            /// Every key with the scope in which it may be set.
            pub const KEYS: &[(&str, Scope)] = &[$((stringify!($name), Scope::$scope),)+];

            /// Sets one key.
            ///
            /// # Errors
            /// What would be right, where the value is of another kind. None for an unknown key is the caller's to see.
            pub fn set(&mut self, key: &str, value: &toml::Value) -> Option<Result<(), String>> {
                match key {
                    $(stringify!($name) => Some(match <$kind as Setting>::read(value) {
                        Some(read) => { self.$name = read; Ok(()) }
                        None => Err(<$kind as Setting>::expected()),
                    }),)+
                    _ => None,
                }
            }

            /// Every key with its value as a profile writes it.
            #[must_use]
            pub fn show(&self) -> Vec<(&'static str, toml::Value)> {
                vec![$((stringify!($name), self.$name.show()),)+]
            }
        }
    };
}

settings! {
    /// Width of the hidden state; 0: that of the named size.
    Size hidden: u64 = 0;
    /// Width of the MLP; 0: that of the named size.
    Size intermediate: u64 = 0;
    /// Number of blocks; 0: that of the named size.
    Size layers: u64 = 0;
    /// Attention heads; 0: those of the named size.
    Size heads: u64 = 0;
    /// The embedding of the last token is zero and never trained (the official code's padding index).
    Size freeze_last_embedding: bool = false;
    /// Update steps in all, warm start included.
    Size steps: u64 = 10_000;
    /// Tokens of a sequence.
    Size sequence_length: u64 = 256;
    /// Sequences of an update.
    Size global_batch_size: u64 = 480;
    /// Sequences that go through the network at once; the gradients of an update's micro-batches are accumulated. 0: as many
    /// as the memory plan allows.
    Size micro_batch_size: u64 = 0;
    /// Whether the backward pass computes blocks a second time instead of keeping their activations: less memory, more time,
    /// the same numbers. An older program's plans do not have it.
    #[serde(default)]
    Size recompute: bool = false;
    /// How documents become sequences.
    Size documents: Documents = Documents::Packed;
    /// Tokens that neighbouring rows share: 1 makes every token but the first a target, 0 is the official convention.
    Size overlap: u64 = 1;
    /// How the micro-batches of an update are averaged.
    Size loss_weight: LossWeight = LossWeight::Targets;
    /// Decay of Adam's first moment.
    Size beta1: f64 = 0.9;
    /// Decay of Adam's second moment.
    Size beta2: f64 = 0.999;
    /// Added to the root of Adam's second moment.
    Size epsilon: f64 = 1e-8;
    /// Decoupled weight decay of all trainable parameters.
    Size weight_decay: f64 = 0.0;
    /// Steps between evaluations; 0: only at the end.
    Size evaluate_every: u64 = 1000;
    /// Steps between logged training steps.
    Size log_every: u64 = 10;
    /// Steps between checkpoints; 0: by time alone.
    Size checkpoint_every: u64 = 0;
    /// Whether the factors are kept as they are merged, and the weights of the warm start, for `relora spectra`.
    Size keep_factors: bool = false;
    /// Steps at full rank before the factors are attached, with the rate and schedule of `full`.
    Size warm_start_steps: u64 = 5000;
    /// Peak learning rate (of the low-rank stage, for a method with a warm start).
    Method learning_rate: f64 = 1e-3;
    /// Steps of the first warm-up (again at the start of the low-rank stage).
    Method warmup_steps: u64 = 500;
    /// Learning rate at the end of the schedule, as a share of the peak.
    Method minimum_learning_rate_ratio: f64 = 0.1;
    /// Schedule where it is not jagged.
    Method schedule: ScheduleName = ScheduleName::Cosine;
    /// Largest global L2 norm of the gradient, or "none".
    Method grad_clip: Option<f64> = Some(1.0);
    /// Whether low-rank factors are trained.
    Method low_rank: bool = false;
    /// Whether full-rank steps come first.
    Method warm_start: bool = false;
    /// Whether the product is merged and the factors drawn anew.
    Method restarts: bool = false;
    /// Whether the factors' moments are reset.
    Method optimizer_reset: bool = false;
    /// Whether the rate drops to zero at each restart.
    Method jagged: bool = false;
    /// Whether the rate climbs back over `rewarmup_steps` after a restart; otherwise it is restored at once.
    Method rewarmup: bool = false;
    /// Which network the method trains.
    Method network: NetworkName = NetworkName::Own;
    /// Rank of the factors.
    Method rank: u64 = 128;
    /// Numerator of the fixed scale s = alpha / rank.
    Method alpha: f64 = 32.0;
    /// Where the scale of the product comes from.
    Method scaling: ScalingName = ScalingName::Fixed;
    /// What stands beside the low-rank product.
    Method base: BaseName = BaseName::Keep;
    /// How the factors begin.
    Method factor_init: FactorInitName = FactorInitName::KaimingZero;
    /// Share of the factors' input that is dropped in training.
    Method dropout: f64 = 0.0;
    /// Steps from one restart to the next.
    Method restart_every: u64 = 2000;
    /// Steps of one cycle: from one moment reset, one drop of the jagged rate or one of several cosines to the next; 0: as
    /// `restart_every`.
    Method cycle_steps: u64 = 0;
    /// Steps in which the jagged rate climbs back after a restart.
    Method rewarmup_steps: u64 = 50;
    /// Steps by which the jagged schedule's restarts come early.
    Method adjust_steps: u64 = 0;
    /// What a moment reset does.
    Method reset: ResetName = ResetName::Magnitude;
    /// Share of the moments that a reset prunes.
    Method reset_ratio: f64 = 0.99;
    /// Which elements a reset prunes in the two moments.
    Method prune_mask: PruneMaskName = PruneMaskName::Joint;
    /// Span of the schedule after a warm start.
    Method schedule_span: ScheduleSpan = ScheduleSpan::Remaining;
}

/// Update steps of the longest run that can be asked for.
pub const MOST_STEPS: u64 = 1_000_000_000;

/// Most tokens of a micro-batch: with these no plan of memory overflows.
const MOST_TOKENS_AT_ONCE: u64 = 1 << 22;

/// A key whose value cannot be, and what would be right.
pub struct Wrong {
    /// The key.
    pub key: &'static str,
    /// What would be right.
    pub why: String,
}

impl Settings {
    /// Steps of a cycle, `cycle_steps` resolved.
    #[must_use]
    pub fn cycle(&self) -> u64 {
        if self.cycle_steps == 0 {
            self.restart_every
        } else {
            self.cycle_steps
        }
    }

    /// Whether the run has cycles of [`Settings::cycle`] steps: of moment resets, of the jagged rate or of several cosines.
    #[must_use]
    pub fn has_cycles(&self) -> bool {
        self.jagged || self.optimizer_reset || self.schedule == ScheduleName::CosineCycles
    }

    /// Whether a run's numbers depend on this key.
    #[must_use]
    pub fn uses(&self, key: &str) -> bool {
        let cycles = self.has_cycles();
        match key {
            // Resolved in the cell's network, or a matter of what is kept.
            "hidden" | "intermediate" | "layers" | "heads" | "network" | "checkpoint_every"
            | "keep_factors" => false,
            "recompute" => self.recompute,
            "warm_start_steps" | "schedule_span" => self.warm_start,
            "restart_every" => self.restarts || (cycles && self.cycle_steps == 0),
            "cycle_steps" => cycles,
            "adjust_steps" => self.jagged || self.optimizer_reset,
            "rewarmup" => self.jagged,
            "rewarmup_steps" => self.jagged && self.rewarmup,
            "reset" | "reset_ratio" | "prune_mask" => self.optimizer_reset,
            "schedule" => !self.jagged,
            "rank" | "alpha" | "scaling" | "base" | "factor_init" | "dropout" => self.low_rank,
            _ => true,
        }
    }

    /// Full-rank steps before the factors are attached.
    #[must_use]
    pub fn warm_start_length(&self) -> u64 {
        if self.warm_start {
            self.warm_start_steps
        } else {
            0
        }
    }

    /// Checks each value by itself and against its neighbours. The network's limits are checked where it is known.
    ///
    /// # Errors
    /// The first key whose value cannot be.
    pub fn check(&self) -> Result<(), Wrong> {
        let wrong = |key, why: String| Err(Wrong { key, why });
        let positive = |key, value: u64| {
            if value == 0 {
                wrong(key, "must be at least 1".into())
            } else {
                Ok(())
            }
        };
        let share = |key, value: f64| {
            if (0.0..1.0).contains(&value) {
                Ok(())
            } else {
                wrong(key, "must be at least 0 and below 1".into())
            }
        };
        let above_zero = |key, value: f64| {
            if value > 0.0 {
                Ok(())
            } else {
                wrong(key, "must be more than 0".into())
            }
        };
        positive("steps", self.steps)?;
        positive("sequence_length", self.sequence_length)?;
        positive("global_batch_size", self.global_batch_size)?;
        positive("log_every", self.log_every)?;
        // Larger figures are slips of the keyboard; bounded, no product of them overflows.
        for (key, value, most) in [
            ("steps", self.steps, MOST_STEPS),
            ("warmup_steps", self.warmup_steps, MOST_STEPS),
            ("restart_every", self.restart_every, MOST_STEPS),
            ("cycle_steps", self.cycle_steps, MOST_STEPS),
            ("rewarmup_steps", self.rewarmup_steps, MOST_STEPS),
            ("adjust_steps", self.adjust_steps, MOST_STEPS),
            ("sequence_length", self.sequence_length, 1 << 20),
            ("global_batch_size", self.global_batch_size, 1 << 24),
            ("hidden", self.hidden, 1 << 16),
            ("intermediate", self.intermediate, 1 << 18),
            ("layers", self.layers, 1 << 10),
            ("heads", self.heads, 1 << 10),
        ] {
            if value > most {
                return wrong(key, format!("must be at most {most}"));
            }
        }
        // Within what a double counts exactly, so that neither tokens nor FLOPs of a run can overflow.
        let tokens = u128::from(self.steps)
            * u128::from(self.global_batch_size)
            * u128::from(self.sequence_length);
        if tokens > 1 << 53 {
            return wrong(
                "steps",
                format!("times batch and sequence length that is {tokens} tokens, more than 2^53"),
            );
        }
        if self.micro_batch_size == 0 && self.loss_weight != LossWeight::Targets {
            return wrong(
                "micro_batch_size",
                format!(
                    "must be at least 1 where loss_weight = {}: the loss depends on it",
                    self.loss_weight.show()
                ),
            );
        }
        if self.micro_batch_size > 0
            && !self.global_batch_size.is_multiple_of(self.micro_batch_size)
        {
            return wrong(
                "micro_batch_size",
                format!("must divide global_batch_size = {}", self.global_batch_size),
            );
        }
        let at_once = self.micro_batch_size.saturating_mul(self.sequence_length);
        if at_once > MOST_TOKENS_AT_ONCE {
            return wrong(
                "micro_batch_size",
                format!(
                    "times sequence length that is {at_once} tokens at once, more than {MOST_TOKENS_AT_ONCE}"
                ),
            );
        }
        if self.overlap > 1 {
            return wrong("overlap", "must be 0 or 1".into());
        }
        if self.overlap == 0 && self.sequence_length < 2 {
            return wrong(
                "sequence_length",
                "must be at least 2 where overlap = 0".into(),
            );
        }
        share("beta1", self.beta1)?;
        share("beta2", self.beta2)?;
        share("dropout", self.dropout)?;
        above_zero("epsilon", self.epsilon)?;
        above_zero("learning_rate", self.learning_rate)?;
        if self.weight_decay < 0.0 {
            return wrong("weight_decay", "must be 0 or more".into());
        }
        if !(0.0..=1.0).contains(&self.reset_ratio) {
            return wrong("reset_ratio", "must be between 0 and 1".into());
        }
        if self.grad_clip.is_some_and(|clip| clip <= 0.0) {
            return wrong("grad_clip", "must be more than 0, or \"none\"".into());
        }
        if self.warm_start && (self.warm_start_steps == 0 || self.warm_start_steps >= self.steps) {
            return wrong(
                "warm_start_steps",
                format!("must be at least 1 and below steps = {}", self.steps),
            );
        }
        let stage = self.steps - self.warm_start_length();
        if self.warmup_steps >= stage && stage > 1 {
            return wrong(
                "warmup_steps",
                format!("must be below the {stage} steps of its stage"),
            );
        }
        if !self.low_rank {
            for (key, on) in [
                ("restarts", self.restarts),
                ("optimizer_reset", self.optimizer_reset),
                ("jagged", self.jagged),
                ("warm_start", self.warm_start),
            ] {
                if on {
                    return wrong(key, "needs low_rank = true".into());
                }
            }
            return Ok(());
        }
        positive("rank", self.rank)?;
        above_zero("alpha", self.alpha)?;
        if self.restarts {
            if self.restart_every < 2 {
                return wrong(
                    "restart_every",
                    "must be at least 2: a restart follows a cycle's first step".into(),
                );
            }
            if self.base == BaseName::None {
                return wrong(
                    "base",
                    "restarts merge into a weight: must be \"keep\" or \"zero\"".into(),
                );
            }
        }
        if (self.optimizer_reset || self.jagged) && self.cycle() < 2 {
            return wrong("cycle_steps", "must be at least 2".into());
        }
        if self.jagged && self.rewarmup && self.rewarmup_steps >= self.cycle() {
            return wrong(
                "rewarmup_steps",
                format!("must be below the {} steps of a cycle", self.cycle()),
            );
        }
        if self.network == NetworkName::Matched {
            return wrong(
                "network",
                "a matched network is full-rank: needs low_rank = false".into(),
            );
        }
        Ok(())
    }
}

/// The name among `names` that `typed` most probably meant, for messages: the nearest of those that begin with it, else of
/// all, unless more than half of the name would have to be changed.
#[must_use]
pub fn nearest<'a, N: AsRef<str> + ?Sized + 'a>(
    typed: &str,
    names: impl IntoIterator<Item = &'a N>,
) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    names
        .into_iter()
        .map(AsRef::as_ref)
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let begins = !typed.is_empty() && lower.starts_with(&typed);
            let distance = strsim::damerau_levenshtein(&typed, &lower);
            let near = distance * 2 <= lower.chars().count();
            (begins || near).then_some((!begins, distance, name))
        })
        .min()
        .map(|(.., name)| name)
}

/// `did you mean ...` with the nearest of the names, if one is near, then all of them.
#[must_use]
pub fn suggestion<N: AsRef<str> + Display>(typed: &str, names: &[N]) -> String {
    let all = names
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    match nearest(typed, names.iter().map(AsRef::as_ref)) {
        Some(name) => format!("did you mean `{name}`? There are: {all}"),
        None if names.is_empty() => "there are none".into(),
        None => format!("there are: {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_begins_with_what_was_typed_or_is_near_to_it() {
        let names = ["full", "relora-no-restart", "lora", "relora", "runs"];
        assert_eq!(nearest("rel", names), Some("relora"));
        assert_eq!(nearest("relora-no", names), Some("relora-no-restart"));
        assert_eq!(nearest("Reolra", names), Some("relora"));
        assert_eq!(nearest("ppl", names), None);
        assert_eq!(
            suggestion("ppl", &["full", "runs"]),
            "there are: full, runs"
        );
    }
}
