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

/// Names of all presets.
#[must_use]
pub fn preset_names() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}

/// A named set of the choices in which published codes differ, laid over a preset.
pub struct Dialect {
    /// Name in profiles and tables.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// The keys that it sets for a preset.
    pub layer: fn(preset: &str) -> Vec<(&'static str, Value)>,
}

/// What every code that descends from the official one does: rows of T tokens predict T - 1, micro-batches are averaged
/// as they come, the embedding of the last token is a padding row, the two moments are pruned by masks of their own.
fn official() -> Vec<(&'static str, Value)> {
    vec![
        ("overlap", Value::Integer(0)),
        named("loss_weight", "micro-batches"),
        ("freeze_last_embedding", Value::Boolean(true)),
        named("prune_mask", "separate"),
    ]
}

/// The code at the paper's submission (`Guitaricet/relora@f52a322`).
fn paper_2023_05(preset: &str) -> Vec<(&'static str, Value)> {
    let mut layer = official();
    layer.extend([
        named("documents", "padded"),
        named("grad_clip", "none"),
        ("dropout", Value::Float(0.1)),
        named("factor_init", "both-kaiming"),
        named("schedule_span", "whole"),
    ]);
    match preset {
        // Its "LoRA" deletes the weight; its ReLoRA without a warm start merges into a weight of zero.
        "lora" => layer.push(named("base", "none")),
        "relora-no-warm-start" => layer.push(named("base", "zero")),
        _ => {}
    }
    layer
}

/// The official code as it stands (`Guitaricet/relora@176f376`).
fn official_head(_preset: &str) -> Vec<(&'static str, Value)> {
    let mut layer = official();
    layer.extend([
        named("documents", "packed"),
        ("grad_clip", Value::Float(1.0)),
        ("dropout", Value::Float(0.1)),
        // No gradient reaches the factors before the first restart.
        named("factor_init", "both-zero"),
        named("schedule_span", "remaining"),
        // Its "zero" mode prunes at random and keeps one element in a thousand.
        named("reset", "random"),
        ("reset_ratio", Value::Float(0.999)),
    ]);
    layer
}

/// The comparison in the GaLore paper (arXiv 2403.03507, table 2), as far as it is published: ReLoRA without a warm start.
fn galore_table(preset: &str) -> Vec<(&'static str, Value)> {
    let mut layer = official();
    layer.extend([
        named("documents", "padded"),
        ("dropout", Value::Float(0.05)),
        ("alpha", Value::Float(32.0)),
    ]);
    if preset.starts_with("relora") {
        layer.push(("warm_start", Value::Boolean(false)));
    }
    layer
}

/// All dialects.
pub const DIALECTS: &[Dialect] = &[
    Dialect {
        name: "default",
        source: "this project: each choice is the one that the paper's text states or that loses nothing",
        layer: |_preset| Vec::new(),
    },
    Dialect {
        name: "paper-2023-05",
        source: "Guitaricet/relora@f52a322, the code at submission",
        layer: paper_2023_05,
    },
    Dialect {
        name: "official-head",
        source: "Guitaricet/relora@176f376, the code of 2024",
        layer: official_head,
    },
    Dialect {
        name: "galore-table",
        source: "GaLore (arXiv 2403.03507), table 2",
        layer: galore_table,
    },
];

/// Names of all dialects.
#[must_use]
pub fn dialect_names() -> Vec<&'static str> {
    DIALECTS.iter().map(|dialect| dialect.name).collect()
}
