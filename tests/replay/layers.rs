//! The low-rank layer, its merge, and the pruning of moments, recorded tensor by tensor.

use burn::tensor::{Tensor, TensorData};
use burn_flex::Flex;
use models::{
    Draw, DrawRole, Draws, Dtype, Seeded, keep_by_magnitude, magnitude_quantile, merge, ops,
};
use serde_json::Value;

use super::{Case, Deviations, Folder, Replayed, Tensors, count, floats, real};

/// Sums of at most a few dozen terms in another order: 2e-6 of the largest element is 16 roundings of f32.
const LAYER_TOLERANCE: f64 = 2e-6;

type Matrix = Tensor<Flex, 2>;

fn matrix(values: Vec<f32>, rows: usize) -> Matrix {
    let columns = values.len() / rows.max(1);
    Matrix::from_data(
        TensorData::new(values, [rows, columns]),
        &Default::default(),
    )
}

fn values(matrix: Matrix) -> Vec<f32> {
    matrix.into_data().into_vec().unwrap_or_default()
}

/// A case for each layer: outputs before and after each of its merges, and the weight.
pub fn merges(folder: &Folder, stem: &str, recording: &Value) -> Vec<Case> {
    let cases = recording["cases"].as_array().cloned().unwrap_or_default();
    let replay = |case: Value, folder: Folder, file: String| {
        move || merges_of(&case, &folder.tensors(&file)?)
    };
    cases
        .into_iter()
        .map(|case| {
            let name = format!("{stem} {}", case["case"]);
            Case::new(
                name,
                replay(case, folder.clone(), format!("{stem}.safetensors")),
            )
        })
        .collect()
}

fn merges_of(case: &Value, tensors: &Tensors) -> Replayed {
    let mut deviations = Deviations::default();
    let name = format!("case{}", case["case"]);
    let size = |key: &str| {
        case[key]
            .as_u64()
            .map(|size| size as usize)
            .ok_or(format!("{name} has no {key}"))
    };
    let (inputs, outputs, rank) = (size("in_features")?, size("out_features")?, size("r")?);
    let x = tensors.floats(&format!("{name}.x"))?;
    let rows = x.len() / inputs;
    let x = matrix(x, rows);
    let mut weight = matrix(tensors.floats(&format!("{name}.W0"))?, outputs);
    // Our layers have no bias; where the recorded one has, it is taken off its outputs.
    let bias = if case["bias"] == true {
        tensors.floats(&format!("{name}.bias"))?
    } else {
        vec![0.0; outputs]
    };
    let without_bias = |mut output: Vec<f32>| {
        for row in output.chunks_mut(outputs) {
            row.iter_mut()
                .zip(&bias)
                .for_each(|(output, bias)| *output -= bias);
        }
        output
    };
    let merges = case["merges"].as_array().ok_or("no merges")?;
    for (number, recorded) in merges.iter().enumerate() {
        let part = |part: &str| tensors.floats(&format!("{name}.m{number}.{part}"));
        let (a, b) = (matrix(part("A")?, rank), matrix(part("B")?, outputs));
        #[expect(clippy::cast_possible_truncation, reason = "layers compute in f32")]
        let scale = real(recorded, "effective_scale", f64::NAN) as f32;
        if let Some(raw) = recorded["raw_scaling"].as_f64() {
            deviations.compare(
                "scale is tanh of the scalar",
                f64::from(scale),
                raw.tanh(),
                1e-7,
                number,
            );
        } else {
            let alpha = real(case, "lora_alpha", f64::NAN);
            deviations.compare(
                "scale is alpha / r",
                f64::from(scale),
                alpha / rank as f64,
                1e-7,
                number,
            );
        }
        let before =
            ops::low_rank_linear(x.clone(), Some(weight.clone()), a.clone(), b.clone(), scale);
        weight = merge(weight, a, b, matrix(vec![scale], 1));
        let after = ops::linear(x.clone(), weight.clone());
        let mut tensor = |what: &str, ours: Matrix, theirs: Vec<f32>| {
            deviations.tensor(
                what,
                &values(ours),
                &theirs,
                LAYER_TOLERANCE,
                format!("merge {number}"),
            );
        };
        tensor(
            "output before the merge",
            before,
            without_bias(part("y_before")?),
        );
        tensor("merged weight", weight.clone(), part("W_after")?);
        tensor(
            "output after the merge",
            after,
            without_bias(part("y_after")?),
        );
        // A is theirs at random; ours must lie in the range that theirs is from.
        let draw = Draw {
            name: "a",
            role: DrawRole::FactorA,
            step: number as u64,
            shape: [rank, inputs],
        };
        let drawn = Seeded { seed: 0 }.values(&draw);
        let largest = drawn.iter().fold(0.0_f64, |largest, value| {
            largest.max(f64::from(value.abs()))
        });
        let beyond = (largest - real(recorded, "A_bound", 0.0)).max(0.0);
        deviations.note("A drawn beyond the official bound", beyond, 1e-7, number);
    }
    Ok(deviations)
}

fn pruned(values: &[f32], ratio: f64, dtype: Dtype) -> Vec<f32> {
    let keep = keep_by_magnitude(values, ratio, dtype);
    values
        .iter()
        .zip(keep)
        .map(|(value, keep)| if keep { *value } else { 0.0 })
        .collect()
}

/// Elements that are not the same to the bit. The official code multiplies by its mask, which keeps the sign of a zero;
/// nothing depends on it.
fn differing(ours: &[f32], theirs: &[f32]) -> f64 {
    let bits = |value: &f32| if *value == 0.0 { 0 } else { value.to_bits() };
    let pairs = ours
        .iter()
        .zip(theirs)
        .filter(|(ours, theirs)| bits(ours) != bits(theirs));
    (pairs.count() + ours.len().abs_diff(theirs.len())) as f64
}

/// Single tensors, whole optimizers, and the shares that random pruning keeps.
pub fn resets(stem: &str, recording: &Value) -> Vec<Case> {
    let list = |key: &str| recording[key].as_array().cloned().unwrap_or_default();
    let (tensors, optimizers, random) = (
        list("tensor_cases"),
        list("optimizer_cases"),
        list("random"),
    );
    let single = move || {
        let mut deviations = Deviations::default();
        for case in &tensors {
            let label = format!("{} at {}", case["label"], case["ratio"]);
            let ratio = real(case, "ratio", f64::NAN);
            let (before, after) = (floats(&case["before"]), floats(&case["after"]));
            let dtype = if case["dtype"] == "bfloat16" {
                Dtype::Bf16
            } else {
                Dtype::F32
            };
            if dtype == Dtype::F32 {
                let threshold = magnitude_quantile(&before, ratio).map_or(f64::NAN, f64::from);
                deviations.compare(
                    "threshold",
                    threshold,
                    real(case, "threshold", f64::NAN),
                    0.0,
                    &label,
                );
            }
            deviations.note(
                "elements that differ",
                differing(&pruned(&before, ratio, dtype), &after),
                0.0,
                &label,
            );
        }
        Ok(deviations)
    };
    let whole = move || {
        let mut deviations = Deviations::default();
        for case in &optimizers {
            let ratio = real(&case["args"], "optimizer_magnitude_pruning", 0.0);
            let Some(before) = case["before"].as_object() else {
                return Err("no state before".into());
            };
            let factors: Vec<&str> = case["reset_param_names"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            for (name, before) in before {
                for moment in ["exp_avg", "exp_avg_sq"] {
                    let (before, after) = (
                        floats(&before[moment]),
                        floats(&case["after"][name][moment]),
                    );
                    let place = format!("{} {name}.{moment}", case["label"]);
                    // Which parameters are touched is theirs to record; how, by magnitude, is a matter of bits. Which
                    // elements survive at random is their generator's affair.
                    if !factors.contains(&name.as_str()) {
                        deviations.note(
                            "elements of other parameters that differ",
                            differing(&before, &after),
                            0.0,
                            place,
                        );
                    } else if ratio > 0.0 {
                        let ours = pruned(&before, ratio, Dtype::F32);
                        deviations.note(
                            "elements of factors that differ",
                            differing(&ours, &after),
                            0.0,
                            place,
                        );
                    }
                }
            }
        }
        Ok(deviations)
    };
    let shares = move || {
        let mut deviations = Deviations::default();
        for case in &random {
            let ratio = real(case, "ratio", f64::NAN);
            let count = count(case, "n", 0) as usize;
            let draw = Draw {
                name: "a",
                role: DrawRole::KeepFirst,
                step: 0,
                shape: [1, count],
            };
            let values = Seeded { seed: 0 }.values(&draw);
            let kept = values
                .into_iter()
                .filter(|value| f64::from(*value) > ratio)
                .count();
            let apart = (kept as f64 / count as f64 - real(case, "kept_fraction", f64::NAN)).abs();
            // Two independent samples of one share: in standard errors of their difference, at least one element.
            let error = (2.0 * ratio * (1.0 - ratio) / count as f64)
                .sqrt()
                .max(1.0 / count as f64);
            deviations.note(
                "share kept, in standard errors",
                apart / error,
                5.0,
                format!("ratio {ratio}"),
            );
        }
        Ok(deviations)
    };
    vec![
        Case::new(format!("{stem} single tensors"), single),
        Case::new(format!("{stem} whole optimizers"), whole),
        Case::new(format!("{stem} random shares"), shares),
    ]
}
