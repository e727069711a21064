//! Singular values of single matrices, and of what the recorded trainings added to their weights.

use results::spectra::{BINS, Matrix, histogram, spectrum};
use serde_json::Value;
use std::collections::BTreeMap;

use super::network::COMMON;
use super::trajectories::replayed_weights;
use super::{Case, Deviations, Folder, Replayed, floats};

struct Tolerances {
    /// Of the largest singular value.
    value: f64,
    /// Of a norm or a rank.
    sum: f64,
    /// Values on the other side of a threshold.
    count: f64,
}

/// Of the same weights: an f64 decomposition of f32 numbers.
const RECORDED: Tolerances = Tolerances {
    value: 1e-6,
    sum: 1e-4,
    count: 0.0,
};

/// Of weights that are themselves within 3e-5 of those that were taken apart, of which an update is a small part.
const REPLAYED: Tolerances = Tolerances {
    value: 1e-3,
    sum: 1e-2,
    count: 1.0,
};

/// One case for the small matrices, one for each recorded training.
pub fn cases(folder: &Folder, stem: &str, recording: &Value) -> Vec<Case> {
    let small = recording["small"].as_array().cloned().unwrap_or_default();
    let deltas = recording["deltas"].as_array().cloned().unwrap_or_default();
    let mut trajectories: Vec<String> = Vec::new();
    for delta in &deltas {
        let name = delta["trajectory"].as_str().unwrap_or_default().to_owned();
        if !trajectories.contains(&name) {
            trajectories.push(name);
        }
    }
    let mut cases = vec![Case::new(format!("{stem} small"), move || {
        let mut deviations = Deviations::default();
        for case in &small {
            let side = |index: usize| case["shape"][index].as_u64().unwrap_or(0) as usize;
            let matrix = Matrix::new(side(0), side(1), floats(&case["matrix"]))
                .map_err(|error| error.to_string())?;
            compare(
                &mut deviations,
                case,
                &matrix,
                case["name"].as_str().unwrap_or_default(),
                &RECORDED,
            )?;
        }
        Ok(deviations)
    })];
    for trajectory in trajectories {
        let (folder, deltas) = (folder.clone(), deltas.clone());
        cases.push(Case::new(format!("{stem} {trajectory}"), move || {
            updates(&folder, &trajectory, &deltas)
        }));
    }
    cases
}

fn updates(folder: &Folder, trajectory: &str, deltas: &[Value]) -> Replayed {
    let mut deviations = Deviations::default();
    let file = format!("trajectory_{trajectory}");
    let (ended, common) = (
        folder.tensors(&format!("{file}.safetensors"))?,
        folder.tensors(&format!("{COMMON}.safetensors"))?,
    );
    let run = folder.json(&format!("{file}.json"))?;
    let mut replayed = BTreeMap::new();
    for delta in deltas
        .iter()
        .filter(|delta| delta["trajectory"] == trajectory)
    {
        let tensor = delta["tensor"].as_str().ok_or("no tensor")?;
        // What is subtracted is the weight at the end of the warm start, or the first one.
        let from_warm = delta["delta"]
            .as_str()
            .is_some_and(|delta| delta.ends_with("warm"));
        let start = match run["initial_state_key"].as_str() {
            Some(state) if from_warm && state != "init." => state.to_owned(),
            _ if from_warm => common
                .names()
                .find_map(|name| {
                    Some(name.split_once('.')?.0).filter(|state| state.starts_with("warm"))
                })
                .map_or("init.".into(), |state| format!("{state}.")),
            _ => "init.".to_owned(),
        };
        let shape = common.shape(&format!("{start}{tensor}"))?.to_vec();
        let start = common.floats(&format!("{start}{tensor}"))?;
        let final_name = format!("final.{tensor}");
        // Some recordings leave the last weights out, to be small: then they are those of our own replay.
        let (end, tolerances) = if ended.has(&final_name) {
            (ended.floats(&final_name)?, RECORDED)
        } else {
            if replayed.is_empty() {
                replayed = replayed_weights(folder, &file)?;
            }
            let weight = replayed.get(tensor).ok_or("the replay lacks a tensor")?;
            (weight.clone(), REPLAYED)
        };
        let difference = end
            .iter()
            .zip(&start)
            .map(|(end, start)| end - start)
            .collect();
        let matrix =
            Matrix::new(shape[0], shape[1], difference).map_err(|error| error.to_string())?;
        compare(&mut deviations, delta, &matrix, tensor, &tolerances)?;
    }
    Ok(deviations)
}

fn compare(
    deviations: &mut Deviations,
    recorded: &Value,
    matrix: &Matrix,
    place: &str,
    tolerances: &Tolerances,
) -> Result<(), String> {
    let ours = spectrum(matrix).map_err(|error| error.to_string())?;
    let exact = recorded["singular_values_f64"]
        .as_array()
        .ok_or("no singular values")?;
    deviations.same("how many", &ours.singular_values.len(), &exact.len());
    let largest = ours.largest().max(f64::MIN_POSITIVE);
    for (ours, theirs) in ours.singular_values.iter().zip(exact) {
        let theirs = theirs.as_f64().unwrap_or(f64::NAN);
        deviations.note(
            "singular value, of the largest",
            (ours - theirs).abs() / largest,
            tolerances.value,
            place,
        );
    }
    let mut count = |what: &str, ours: usize, theirs: &Value| {
        let theirs = theirs.as_f64().unwrap_or(f64::NAN);
        deviations.compare(what, ours as f64, theirs, tolerances.count, place);
    };
    count(
        "below 0.1",
        ours.below_small(),
        &recorded["count_below_0p1"],
    );
    let numerical_rank = &recorded["extra"]["numerical_rank_1e_minus5_rel"];
    if !numerical_rank.is_null() {
        count("numerical rank", ours.numerical_rank(), numerical_rank);
    }
    if let Some(densities) = recorded["hist50_range0to2_density"].as_array() {
        deviations.same("bins", &BINS, &densities.len());
        for (ours, theirs) in histogram(ours.singular_values.iter().copied())
            .iter()
            .zip(densities)
        {
            deviations.compare(
                "density in a bin",
                *ours,
                theirs.as_f64().unwrap_or(f64::NAN),
                1e-12,
                place,
            );
        }
    }
    let extra = &recorded["extra"];
    for (key, ours) in [
        ("effective_rank_entropy", ours.effective_rank()),
        ("stable_rank", ours.stable_rank()),
        ("nuclear", ours.nuclear_norm()),
        ("fro", ours.frobenius_norm()),
    ] {
        // A zero matrix has no ranks: theirs divides by zero.
        if let Some(theirs) = extra[key].as_f64() {
            deviations.note(
                key,
                (ours - theirs).abs() / theirs.abs().max(1.0),
                tolerances.sum,
                place,
            );
        }
    }
    Ok(())
}
