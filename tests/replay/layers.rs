//! The low-rank layer, its merge, and the pruning of moments, recorded tensor by tensor and replayed by a learner.

use burn::tensor::{Tensor, TensorData};
use burn_flex::Flex;
use harness::algorithm::MethodSwitches;
use harness::settings::{PruneMaskName, ScalingName, Settings};
use models::ops::low_rank_linear::Layer;
use models::{
    AdamW, Base, Draw, DrawRole, Draws, Dtype, FactorInit, Learner, LowRank, Mask, MomentReset,
    Network, ResetKind, Scaling, Seeded, TensorInfo, TensorRole, keep_by_magnitude,
    magnitude_quantile, ops,
};
use serde_json::Value;

use super::network::{read, write};
use super::place::Place;
use super::trajectories::reset_of;
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
        move || merges_of(folder.place(), &case, &folder.tensors(&file)?)
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

/// The linear layer of a network in whose place a recorded one is put: it has as many inputs as the network is wide, and
/// as many outputs as its intermediate layer, so both can be any.
const LAYER: &str = "model.layers.0.mlp.gate_proj";

/// A network of one block with these factors on each of its linear layers.
fn attached(
    place: Place,
    inputs: usize,
    outputs: usize,
    vocabulary: usize,
    low_rank: &LowRank,
) -> Result<Box<dyn Learner>, String> {
    let network = Network {
        hidden: inputs,
        intermediate: outputs,
        layers: 1,
        heads: 1,
        vocabulary,
        frozen_embedding_row: None,
    };
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
    let draws = Seeded { seed: 0 };
    let mut learner = place.learner(&network, &adamw, &draws)?;
    learner.attach(0, low_rank, &draws);
    Ok(learner)
}

fn merges_of(place: Place, case: &Value, tensors: &Tensors) -> Replayed {
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
    let settings = Settings {
        low_rank: true,
        rank: rank as u64,
        alpha: real(case, "lora_alpha", f64::NAN),
        scaling: if case["trainable_scaling"] == true {
            ScalingName::TanhScalar
        } else {
            ScalingName::Fixed
        },
        ..Settings::default()
    };
    let low_rank = MethodSwitches::of(&settings).low_rank.ok_or("no factors")?;
    let mut learner = attached(place, inputs, outputs, 1, &low_rank)?;
    let [weight, a, b, scalar] = ["weight", "lora_A.weight", "lora_B.weight", "scaling"]
        .map(|part| format!("{LAYER}.{part}"));
    let first_weight = tensors.floats(&format!("{name}.W0"))?;
    write(&mut *learner, &weight, &first_weight)?;
    let merges = case["merges"].as_array().ok_or("no merges")?;
    for (number, recorded) in merges.iter().enumerate() {
        let part = |part: &str| tensors.floats(&format!("{name}.m{number}.{part}"));
        let (a_before, b_before) = (part("A")?, part("B")?);
        write(&mut *learner, &a, &a_before)?;
        write(&mut *learner, &b, &b_before)?;
        let scale = match low_rank.scaling {
            Scaling::Fixed(scale) => scale,
            // What our layer makes of the scalar shows in the merged weight.
            Scaling::TanhScalar => {
                #[expect(clippy::cast_possible_truncation, reason = "recorded from f32")]
                let raw = real(recorded, "raw_scaling", f64::NAN) as f32;
                write(&mut *learner, &scalar, &[raw])?;
                real(recorded, "effective_scale", f64::NAN)
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "layers compute in f32")]
        let output = |learner: &dyn Learner| -> Result<Vec<f32>, String> {
            let layer = Layer {
                weight: Some(matrix(read(learner, &weight)?, outputs)),
                a: matrix(read(learner, &a)?, rank),
                b: matrix(read(learner, &b)?, outputs),
                mask: None,
            };
            Ok(values(ops::low_rank_linear(
                x.clone(),
                vec![layer],
                scale as f32,
            )))
        };
        let before = output(&*learner)?;
        learner.restart(number as u64, &Seeded { seed: 0 });
        let after = output(&*learner)?;
        let mut tensor = |what: &str, ours: &[f32], theirs: &[f32]| {
            deviations.tensor(
                what,
                ours,
                theirs,
                LAYER_TOLERANCE,
                format!("merge {number}"),
            );
        };
        tensor(
            "output before the merge",
            &before,
            &without_bias(part("y_before")?),
        );
        tensor(
            "merged weight",
            &read(&*learner, &weight)?,
            &part("W_after")?,
        );
        tensor(
            "output after the merge",
            &after,
            &without_bias(part("y_after")?),
        );
        tensor(
            "B after the merge",
            &read(&*learner, &b)?,
            &part("B_after")?,
        );
        if low_rank.scaling == Scaling::TanhScalar {
            tensor(
                "trained scale after the merge",
                &read(&*learner, &scalar)?,
                &floats(&serde_json::json!([recorded["scaling_after"]])),
            );
        }
        // A is theirs at random; ours must be another than before and lie in the range that theirs is from.
        let drawn = read(&*learner, &a)?;
        let kept = drawn
            .iter()
            .zip(&a_before)
            .filter(|(drawn, before)| drawn == before);
        deviations.note(
            "elements of A that are not drawn anew",
            kept.count() as f64,
            0.0,
            number,
        );
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
pub fn resets(folder: &Folder, stem: &str, recording: &Value) -> Vec<Case> {
    let place = folder.place();
    let case = |key: &str, name: &str, replay: fn(Place, &[Value]) -> Replayed| {
        let cases = recording[key].as_array().cloned().unwrap_or_default();
        Case::new(format!("{stem} {name}"), move || replay(place, &cases))
    };
    vec![
        case("tensor_cases", "single tensors", single_tensors),
        case("optimizer_cases", "whole optimizers", whole_optimizers),
        case("random", "random shares", random_shares),
    ]
}

fn single_tensors(_: Place, cases: &[Value]) -> Replayed {
    let mut deviations = Deviations::default();
    for case in cases {
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
}

/// The parts of a recorded optimizer's state.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

fn whole_optimizers(place: Place, cases: &[Value]) -> Replayed {
    let mut deviations = Deviations::default();
    for case in cases {
        whole_optimizer(place, case, &mut deviations)?;
    }
    Ok(deviations)
}

/// Our tensor in the place of a recorded one.
fn counterpart(name: &str) -> Result<String, String> {
    match name.split_once('.') {
        Some(("layer", part)) => Ok(format!("{LAYER}.{part}")),
        None if name == "norm" => Ok("model.norm.weight".into()),
        Some(("head", part)) => Ok(format!("lm_head.{part}")),
        _ => Err(format!("nothing of ours is like {name}")),
    }
}

/// Gives the recorded state to a learner, resets it, and compares what became of each parameter.
fn whole_optimizer(place: Place, case: &Value, deviations: &mut Deviations) -> Result<(), String> {
    let label = case["label"].as_str().unwrap_or_default();
    let parameters = case["before"].as_object().ok_or("no state before")?;
    let size = |name: &str, dimension: usize| {
        case["before"][name]["shape"][dimension]
            .as_u64()
            .map(|size| size as usize)
            .ok_or(format!("{label}: no shape of {name}"))
    };
    let low_rank = LowRank {
        rank: size("layer.lora_A.weight", 0)?,
        scaling: Scaling::TanhScalar,
        base: Base::Keep,
        factor_init: FactorInit::KaimingZero,
        dropout: 0.0,
    };
    let mut learner = attached(
        place,
        size("layer.lora_A.weight", 1)?,
        size("layer.lora_B.weight", 0)?,
        size("head.weight", 0)?,
        &low_rank,
    )?;
    for (name, state) in parameters {
        for moment in MOMENTS {
            let ours = format!("{}.{moment}", counterpart(name)?);
            // Our head is as wide as the norm, the recorded one is not: what it has less stays zero.
            let mut values = read(&*learner, &ours)?;
            let recorded = floats(&state[moment]);
            values
                .get_mut(..recorded.len())
                .ok_or_else(|| format!("{label}: {name} is too large"))?
                .copy_from_slice(&recorded);
            write(&mut *learner, &ours, &values)?;
        }
    }
    let (reset, reset_ratio) = reset_of(&case["args"]);
    let settings = Settings {
        reset,
        reset_ratio,
        prune_mask: PruneMaskName::Separate,
        ..Settings::default()
    };
    let MethodSwitches { reset, .. } = MethodSwitches::of(&settings);
    learner.reset_moments(0, &reset, &KeptAsRecorded(&case["after"]));

    let mut touched = Vec::new();
    for (name, before) in parameters {
        let mut changed = 0.0;
        for moment in MOMENTS {
            let (before, after) = (
                floats(&before[moment]),
                floats(&case["after"][name][moment]),
            );
            let ours = read(&*learner, &format!("{}.{moment}", counterpart(name)?))?;
            let ours = ours.get(..before.len()).unwrap_or_default();
            changed += differing(ours, &before);
            deviations.note(
                "elements that differ",
                differing(ours, &after),
                0.0,
                format!("{label} {name}.{moment}"),
            );
        }
        if changed > 0.0 {
            touched.push(name.as_str());
        }
    }
    let mut recorded: Vec<&str> = case["reset_param_names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    recorded.sort_unstable();
    touched.sort_unstable();
    deviations.same("parameters that are reset", &touched, &recorded);
    Ok(())
}

/// Which elements survive at random is the affair of the official code's generator: a draw is 1 where it kept one, and
/// 0 where it did not.
struct KeptAsRecorded<'a>(&'a Value);

impl Draws for KeptAsRecorded<'_> {
    fn values(&self, what: &Draw<'_>) -> Vec<f32> {
        let [first, second] = MOMENTS;
        let moment = if what.role == DrawRole::KeepFirst {
            first
        } else {
            second
        };
        let mut draws = vec![0.0; what.shape[0] * what.shape[1]];
        // Of the other layers of the block nothing was recorded, and their moments are zero.
        if let Some(part) = what.name.strip_prefix(LAYER) {
            let kept = floats(&self.0[format!("layer{part}")][moment]);
            for (draw, kept) in draws.iter_mut().zip(kept) {
                *draw = f32::from(u8::from(kept != 0.0));
            }
        }
        draws
    }
}

fn random_shares(place: Place, cases: &[Value]) -> Replayed {
    let mut deviations = Deviations::default();
    // The moments of all factors together have 2·50·(4·2·128 + 3·(128 + 200)) elements: 200,800, as
    // many as were recorded.
    let low_rank = LowRank {
        rank: 50,
        scaling: Scaling::Fixed(1.0),
        base: Base::Keep,
        factor_init: FactorInit::KaimingZero,
        dropout: 0.0,
    };
    let mut learner = attached(place, 128, 200, 1, &low_rank)?;
    let factors: Vec<TensorInfo> = learner
        .tensors()
        .into_iter()
        .filter(|info| {
            info.name.contains(".lora_")
                && matches!(
                    info.role,
                    TensorRole::FirstMoment | TensorRole::SecondMoment
                )
        })
        .collect();
    for (step, case) in cases.iter().enumerate() {
        let ratio = real(case, "ratio", f64::NAN);
        for info in &factors {
            write(&mut *learner, &info.name, &vec![1.0; info.elements()])?;
        }
        let reset = MomentReset {
            kind: ResetKind::Random(ratio),
            mask: Mask::Separate,
        };
        learner.reset_moments(step as u64, &reset, &Seeded { seed: 0 });
        let (mut kept, mut elements) = (0, 0);
        for info in &factors {
            let moment = read(&*learner, &info.name)?;
            kept += moment.iter().filter(|value| **value != 0.0).count();
            elements += moment.len();
        }
        let recorded = count(case, "n", 0) as f64;
        let elements = elements as f64;
        let apart = (kept as f64 / elements - real(case, "kept_fraction", f64::NAN)).abs();
        // Two independent samples of one share: in standard errors of their difference, at least one element.
        let error = (ratio * (1.0 - ratio) * (1.0 / elements + 1.0 / recorded))
            .sqrt()
            .max(1.0 / recorded);
        deviations.note(
            "share kept, in standard errors",
            apart / error,
            5.0,
            format!("ratio {ratio}"),
        );
    }
    Ok(deviations)
}
