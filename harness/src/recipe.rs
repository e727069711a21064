//! Methods and dialects, as data: each is a named layer of the keys in `settings.rs`, and nothing else in the harness
//! knows a method by name.
//!
//! A preset switches the five parts of ReLoRA on and off: low-rank factors, warm start, restarts, optimizer reset and
//! jagged schedule (paper, table 6; the last line of each is the part that the preset leaves out). A dialect is a set of
//! choices in which published codes differ.

use toml::Value;

/// A named recipe.
pub struct Preset {
    /// Name in profiles, directories and tables.
    pub name: &'static str,
    /// One line for people.
    pub meaning: &'static str,
    /// The keys that it sets.
    pub layer: fn() -> Vec<(&'static str, Value)>,
}

fn on(keys: &[&'static str]) -> Vec<(&'static str, Value)> {
    keys.iter()
        .map(|key| (*key, Value::Boolean(true)))
        .collect()
}

fn named(key: &'static str, name: &str) -> (&'static str, Value) {
    (key, Value::String(name.into()))
}

const RELORA: &[&str] = &[
    "low_rank",
    "warm_start",
    "restarts",
    "optimizer_reset",
    "jagged",
    "rewarmup",
];

/// ReLoRA without one of its parts.
fn relora_without(part: &str) -> Vec<(&'static str, Value)> {
    on(RELORA)
        .into_iter()
        .filter(|(key, _)| *key != part)
        .collect()
}

/// All presets, in the order of tables.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "full",
        meaning: "full-rank training",
        layer: || on(&[]),
    },
    Preset {
        name: "control",
        meaning: "a smaller full-rank network with as many parameters as `relora` trains",
        layer: || vec![named("network", "matched")],
    },
    Preset {
        name: "lora",
        meaning: "factors over a frozen random weight, W0 + sBA",
        layer: || on(&["low_rank"]),
    },
    Preset {
        name: "low-rank",
        meaning: "factors alone, W = sBA (the paper's \"LoRA\" row)",
        layer: || {
            [
                on(&["low_rank"]),
                vec![named("base", "none"), named("factor_init", "both-kaiming")],
            ]
            .concat()
        },
    },
    Preset {
        name: "lora-warm-start",
        meaning: "factors over a warm-started weight, never merged",
        layer: || on(&["low_rank", "warm_start"]),
    },
    Preset {
        name: "relora",
        meaning: "warm start, restarts, optimizer reset, jagged schedule",
        layer: || on(RELORA),
    },
    Preset {
        name: "relora-no-restart",
        meaning: "relora whose factors are never merged",
        layer: || relora_without("restarts"),
    },
    Preset {
        name: "relora-no-optimizer-reset",
        meaning: "relora that keeps the factors' moments over a restart",
        layer: || relora_without("optimizer_reset"),
    },
    Preset {
        name: "relora-no-jagged",
        meaning: "relora with one smooth cosine",
        layer: || relora_without("jagged"),
    },
    Preset {
        name: "relora-no-warm-start",
        meaning: "relora from the random weight",
        layer: || relora_without("warm_start"),
    },
    Preset {
        name: "relora-no-rewarmup",
        meaning: "relora whose rate is restored at once after a restart",
        layer: || relora_without("rewarmup"),
    },
];

/// The preset of this name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Names of all presets.
#[must_use]
pub fn preset_names() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}

/// A value that a dialect gives to a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// One of a key's names.
    Named(&'static str),
    /// A number that may have a fraction.
    Number(f64),
    /// A whole number.
    Count(i64),
    /// On or off.
    Switch(bool),
}

impl Choice {
    /// The value as a profile writes it.
    #[must_use]
    pub fn value(self) -> Value {
        match self {
            Choice::Named(name) => Value::String(name.into()),
            Choice::Number(number) => Value::Float(number),
            Choice::Count(count) => Value::Integer(count),
            Choice::Switch(on) => Value::Boolean(on),
        }
    }
}

/// One choice in which a published code differs from ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Departure {
    /// The key.
    pub key: &'static str,
    /// Its value there.
    pub choice: Choice,
    /// The presets that it concerns; none named: all.
    pub presets: &'static [&'static str],
    /// What that code does, and where it does it.
    pub source: &'static str,
}

impl Departure {
    const fn all(key: &'static str, choice: Choice, source: &'static str) -> Departure {
        Departure {
            key,
            choice,
            presets: &[],
            source,
        }
    }

    const fn of(
        presets: &'static [&'static str],
        key: &'static str,
        choice: Choice,
        source: &'static str,
    ) -> Departure {
        Departure {
            key,
            choice,
            presets,
            source,
        }
    }

    fn concerns(&self, preset: &str) -> bool {
        self.presets.is_empty() || self.presets.contains(&preset)
    }
}

/// A named set of the choices in which published codes differ, laid over a preset.
pub struct Dialect {
    /// Name in profiles and tables.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    departures: &'static [&'static [Departure]],
}

impl Dialect {
    /// Where it departs from this project's defaults, for a preset.
    pub fn departures(&self, preset: &str) -> impl Iterator<Item = &'static Departure> {
        let all = self.departures.iter().copied().flatten();
        all.filter(move |departure| departure.concerns(preset))
    }

    /// The keys that it sets for a preset.
    #[must_use]
    pub fn layer(&self, preset: &str) -> Vec<(&'static str, Value)> {
        self.departures(preset)
            .map(|departure| (departure.key, departure.choice.value()))
            .collect()
    }
}

use Choice::{Count, Named, Number, Switch};

/// What every code that descends from the official one does.
const OFFICIAL: &[Departure] = &[
    Departure::all(
        "overlap",
        Count(0),
        "modeling_llama.py: the labels are the inputs, shifted inside the row, so that a row of T tokens has T - 1 targets",
    ),
    Departure::all(
        "loss_weight",
        Named("micro-batches"),
        "torchrun_main.py: each micro-batch's mean loss is divided by the number of micro-batches",
    ),
    Departure::all(
        "freeze_last_embedding",
        Switch(true),
        "configs/*.json: pad_token_id is -1, which torch reads as the last row: it is zero and gets no gradient",
    ),
    Departure::all(
        "prune_mask",
        Named("separate"),
        "training_utils.py: each of Adam's two moments is pruned by its own magnitudes, or its own draw",
    ),
];

/// The code at the paper's submission (`Guitaricet/relora@f52a322`).
const PAPER_2023_05: &[Departure] = &[
    Departure::all(
        "documents",
        Named("padded"),
        "peft_pretraining/dataloader.py: one document per row, truncated or padded; padding carries no loss",
    ),
    Departure::all(
        "grad_clip",
        Named("none"),
        "torchrun_main.py: clipping came on 6 August 2023, after the submission",
    ),
    Departure::all(
        "dropout",
        Number(0.1),
        "torchrun_main.py: dropout 0.1 on the input of the factors",
    ),
    Departure::all(
        "factor_init",
        Named("both-kaiming"),
        "relora.py: A and B are both drawn when the factors are attached, so that attaching changes every weight",
    ),
    Departure::all(
        "schedule_span",
        Named("whole"),
        "torchrun_main.py: after a warm start the schedule spans all steps, of which only the rest are run",
    ),
    Departure::of(
        &["lora"],
        "base",
        Named("none"),
        "relora.py: without ReLoRA and without a warm start the weight is deleted (lora_only)",
    ),
    Departure::of(
        &["relora-no-warm-start"],
        "base",
        Named("zero"),
        "relora.py: without a warm start the weight under the factors is zero, and merges fill it",
    ),
];

/// The official code as it stands (`Guitaricet/relora@176f376`).
const OFFICIAL_HEAD: &[Departure] = &[
    Departure::all(
        "documents",
        Named("packed"),
        "torchrun_main.py: a dataset that was tokenised and cut into rows beforehand",
    ),
    Departure::all(
        "grad_clip",
        Number(1.0),
        "args_utils.py: clip_grad_norm is 1.0",
    ),
    Departure::all(
        "dropout",
        Number(0.1),
        "torchrun_main.py: dropout 0.1 on the input of the factors, hard-coded",
    ),
    Departure::all(
        "factor_init",
        Named("both-zero"),
        "relora.py: A and B are zero when they are attached: no gradient reaches them before the first restart draws A",
    ),
    Departure::all(
        "schedule_span",
        Named("remaining"),
        "torchrun_main.py: the schedule spans the steps that remain after the warm start (since 28 September 2023)",
    ),
    Departure::all(
        "reset",
        Named("random"),
        "training_utils.py: the mode called zero prunes at random and keeps one element in a thousand",
    ),
    Departure::all("reset_ratio", Number(0.999), "training_utils.py: the same"),
];

/// `relora`, whole and without each of its parts.
const RELORA_PRESETS: &[&str] = &[
    "relora",
    "relora-no-restart",
    "relora-no-optimizer-reset",
    "relora-no-jagged",
    "relora-no-warm-start",
    "relora-no-rewarmup",
];

/// The comparison in the GaLore paper (arXiv 2403.03507, table 2), as far as it is published.
const GALORE_TABLE: &[Departure] = &[
    Departure::all(
        "documents",
        Named("padded"),
        "its code descends from the official one of 2023: one document per row",
    ),
    Departure::all(
        "dropout",
        Number(0.05),
        "experiments on pre-training: LoRA with dropout 0.05",
    ),
    Departure::all(
        "alpha",
        Number(32.0),
        "experiments on pre-training: LoRA with alpha 32",
    ),
    Departure::of(
        RELORA_PRESETS,
        "warm_start",
        Switch(false),
        "table 2: ReLoRA without a full-rank warm start; its other settings are not published",
    ),
];

/// All dialects.
pub const DIALECTS: &[Dialect] = &[
    Dialect {
        name: "default",
        source: "this project: each choice is the one that the paper's text states or that loses nothing",
        departures: &[],
    },
    Dialect {
        name: "paper-2023-05",
        source: "Guitaricet/relora@f52a322, the code at submission",
        departures: &[OFFICIAL, PAPER_2023_05],
    },
    Dialect {
        name: "official-head",
        source: "Guitaricet/relora@176f376, the code of 2024",
        departures: &[OFFICIAL, OFFICIAL_HEAD],
    },
    Dialect {
        name: "galore-table",
        source: "GaLore (arXiv 2403.03507), table 2",
        departures: &[OFFICIAL, GALORE_TABLE],
    },
];

/// Why this project's default is what it is, for each key in which some dialect departs from it.
pub const DEFAULTS: &[(&str, &str)] = &[
    (
        "overlap",
        "every token but the first of the text is a target, each once",
    ),
    (
        "loss_weight",
        "the mean over all targets of an update, which neither padding nor accumulation can change",
    ),
    (
        "freeze_last_embedding",
        "a padding index of -1 is a slip: every token is trained",
    ),
    (
        "prune_mask",
        "an element keeps both moments or none: a first moment over a zeroed second makes a step of m / epsilon",
    ),
    (
        "documents",
        "no token is padding, so that the planned tokens are the trained ones",
    ),
    (
        "grad_clip",
        "1.0, as the official code has had since August 2023, for all methods alike",
    ),
    (
        "dropout",
        "the paper's equations have none, and full rank trains without",
    ),
    (
        "factor_init",
        "the paper's section 3: A Kaiming, B zero, so that attaching changes no output; `low-rank`, whose weight is the product alone, draws both, since zero would be no start",
    ),
    (
        "schedule_span",
        "the schedule ends where the run ends, so that full rank and low rank end at the same share of their rates",
    ),
    (
        "base",
        "the name says it: `lora` adds to a frozen weight, `low-rank` is the factors alone",
    ),
    (
        "reset",
        "the paper's section 3: most of the moments are pruned by magnitude",
    ),
    ("reset_ratio", "the paper's section 3: 99 %"),
    ("alpha", "the profile's: the scale is alpha / rank"),
    (
        "warm_start",
        "the preset's: ReLoRA begins with full-rank steps (algorithm 1)",
    ),
];

/// The dialect of this name.
#[must_use]
pub fn dialect(name: &str) -> Option<&'static Dialect> {
    DIALECTS.iter().find(|dialect| dialect.name == name)
}

/// Names of all dialects.
#[must_use]
pub fn dialect_names() -> Vec<&'static str> {
    DIALECTS.iter().map(|dialect| dialect.name).collect()
}
