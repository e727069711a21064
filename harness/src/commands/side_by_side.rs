//! Two suites beside each other: whether they may be compared, and what of their settings differs.

use std::path::Path;

use datasets::Store;
use results::render::{DifferentSetting, comparison};
use serde_json::{Value, json};

use super::tables;
use crate::exit::UserError;
use crate::matrix::Cell;
use crate::plan::{Difference, Plan, differing};

/// What differs between two suites, as Markdown.
///
/// # Errors
/// A suite that cannot be read; suites that have no method of a size in common, or that were trained or measured on other text.
pub(super) fn report(suites: [&Path; 2]) -> anyhow::Result<String> {
    let plans = [Plan::read(suites[0])?, Plan::read(suites[1])?];
    let pairs = pairs(&plans);
    if pairs.is_empty() {
        return Err(nothing_in_common(suites, &plans).into());
    }
    same_text(suites, &plans, &pairs)?;
    let [first, second] = [tables::runs(suites[0])?, tables::runs(suites[1])?];
    let names = suites.map(|suite| suite.display().to_string());
    Ok(comparison(
        [&names[0], &names[1]],
        [&first, &second],
        &settings(&pairs),
    ))
}

/// The cells of each method and size that both suites have: of one seed, where they have one in common.
fn pairs(plans: &[Plan; 2]) -> Vec<(&Cell, &Cell)> {
    let mut pairs: Vec<(&Cell, &Cell)> = Vec::new();
    let is_same =
        |left: &Cell, right: &Cell| left.size == right.size && left.method == right.method;
    for cell in &plans[0].cells {
        let others = || plans[1].cells.iter().filter(|it| is_same(it, cell));
        let own_seed = others().find(|it| it.seed == cell.seed);
        let Some(other) = own_seed.or_else(|| others().next()) else {
            continue;
        };
        match pairs.iter_mut().find(|(it, _)| is_same(it, cell)) {
            None => pairs.push((cell, other)),
            Some(pair) if pair.0.seed != pair.1.seed && own_seed.is_some() => {
                *pair = (cell, other);
            }
            Some(_) => {}
        }
    }
    pairs
}

fn nothing_in_common(suites: [&Path; 2], plans: &[Plan; 2]) -> UserError {
    let methods = |plan: &Plan| {
        let mut names: Vec<String> = Vec::new();
        for cell in &plan.cells {
            let name = format!("{} {}", cell.size, cell.method);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    };
    let [first, second] = suites.map(Path::display);
    UserError::new(format!(
        "{first} and {second} have no method of a size in common: the first has {}, the second {}",
        methods(&plans[0]),
        methods(&plans[1])
    ))
}

/// Refuses what was trained on another text, split by another tokenizer, or measured on other validation rows.
fn same_text(
    suites: [&Path; 2],
    plans: &[Plan; 2],
    pairs: &[(&Cell, &Cell)],
) -> Result<(), UserError> {
    for (first, second) in pairs {
        let mut found = differing(&read_by(first), &read_by(second));
        if found.is_empty() {
            continue;
        }
        // Which of them it is, where the prepared text of both is still there.
        let stores =
            [(&plans[0], *first), (&plans[1], *second)].map(|(plan, cell)| parts(plan, cell));
        if let [Some(first), Some(second)] = &stores {
            found.extend(differing(first, second));
        }
        let [a, b] = suites.map(Path::display);
        let told: Vec<String> = found
            .iter()
            .map(|Difference { field, old, new }| format!("{field} = {old} and {new}"))
            .collect();
        return Err(UserError::new(format!(
            "{a} and {b} cannot be compared: at {} they have {}; both must have one text, tokenizer and validation set",
            first.size,
            told.join(", ")
        )));
    }
    Ok(())
}

/// What decides which tokens a run reads and which validation targets it is measured on.
fn read_by(cell: &Cell) -> Value {
    let settings = &cell.settings;
    json!({
        "data": cell.data,
        "sequence_length": settings.sequence_length,
        "documents": settings.documents,
        "overlap": settings.overlap,
    })
}

/// The hashes of tokenizer and splits; none where the prepared text has gone.
fn parts(plan: &Plan, cell: &Cell) -> Option<Value> {
    let store = Store::open(&plan.store).ok()?;
    let manifest = store.manifest();
    (store.hash() == cell.data.hash).then(|| {
        json!({
            "tokenizer": manifest.tokenizer_hash,
            "training": manifest.training.tokens_hash,
            "validation": manifest.validation.tokens_hash,
        })
    })
}

/// The settings in which methods differ, each with the methods of which they do; none named where all do alike.
fn settings(pairs: &[(&Cell, &Cell)]) -> Vec<DifferentSetting> {
    let mut settings: Vec<DifferentSetting> = Vec::new();
    for (first, second) in pairs {
        let [own, other] = [first, second].map(|cell| cell.without_seed());
        for Difference { field, old, new } in differing(&own, &other) {
            let method = format!("`{}` at {}", first.method, first.size);
            let name = field.strip_prefix("settings.").unwrap_or(&field);
            let values = [old, new];
            let known = settings
                .iter_mut()
                .find(|it| it.name == name && it.values == values);
            match known {
                Some(known) => known.methods.push(method),
                None => settings.push(DifferentSetting {
                    name: name.to_owned(),
                    values,
                    methods: vec![method],
                }),
            }
        }
    }
    for setting in &mut settings {
        if setting.methods.len() == pairs.len() {
            setting.methods.clear();
        }
    }
    settings
}
