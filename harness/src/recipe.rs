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
    keys.iter().map(|key| (*key, Value::Boolean(true))).collect()
}

fn named(key: &'static str, name: &str) -> (&'static str, Value) {
    (key, Value::String(name.into()))
}

const RELORA: &[&str] = &["low_rank", "warm_start", "restarts", "optimizer_reset", "jagged", "rewarmup"];

/// ReLoRA without one of its parts.
fn relora_without(part: &str) -> Vec<(&'static str, Value)> {
    on(RELORA).into_iter().filter(|(key, _)| *key != part).collect()
}

/// All presets, in the order of tables.
pub const PRESETS: &[Preset] = &[
    Preset { name: "full", meaning: "full-rank training", layer: || on(&[]) },
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
        layer: || [on(&["low_rank"]), vec![named("base", "none"), named("factor_init", "both-kaiming")]].concat(),
    },
    Preset {
        name: "lora-warm-start",
        meaning: "factors over a warm-started weight, never merged",
        layer: || on(&["low_rank", "warm_start"]),
    },
    Preset { name: "relora", meaning: "warm start, restarts, optimizer reset, jagged schedule", layer: || on(RELORA) },
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

/// Names of all presets.
#[must_use]
pub fn preset_names() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}

/// A named set of the choices in which published codes differ, below a profile's own settings.
pub struct Dialect {
    /// Name in profiles and tables.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// The keys that it sets, over the defaults of `settings.rs`.
    pub layer: fn() -> Vec<(&'static str, Value)>,
}

/// All dialects.
pub const DIALECTS: &[Dialect] = &[Dialect {
    name: "default",
    source: "this project: each choice is the one that the paper's text states or that loses nothing",
    layer: Vec::new,
}];

/// Names of all dialects.
#[must_use]
pub fn dialect_names() -> Vec<&'static str> {
    DIALECTS.iter().map(|dialect| dialect.name).collect()
}
