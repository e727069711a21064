//! Pruning of moments against the official code's (`resets.json`): to the bit where it is by magnitude, as a share
//! where it is random.

mod common;

use common::{ADAMW, Rows, cpu_learner, golden_json, low_rank, read_floats, snapshot};
use models::{
    Draw, DrawRole, Draws, Dtype, Learner, Mask, MomentReset, Network, ResetKind, Seeded,
    TensorRole, keep_by_magnitude, magnitude_quantile,
};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}

fn pruned(values: &[f32], ratio: f64, dtype: Dtype) -> Vec<f32> {
    let keep = keep_by_magnitude(values, ratio, dtype);
    values
        .iter()
        .zip(keep)
        .map(|(value, keep)| if keep { *value } else { 0.0 })
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // the official code multiplies by its mask, which keeps the sign of a zero; we do not care for it
    values
        .iter()
        .map(|value| if *value == 0.0 { 0 } else { value.to_bits() })
        .collect()
}

#[test]
fn single_tensors_are_pruned_to_the_bit_as_the_official_code_prunes_them() {
    let golden = golden_json("resets.json");
    let cases = golden["tensor_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 64);
    for case in cases {
        let label = format!("{} {} at {}", case["label"], case["shape"], case["ratio"]);
        let ratio = case["ratio"].as_f64().unwrap();
        let (before, after) = (numbers(&case["before"]), numbers(&case["after"]));
        let dtype = if case["dtype"] == "bfloat16" {
            Dtype::Bf16
        } else {
            Dtype::F32
        };
        if dtype == Dtype::F32 {
            let threshold = case["threshold"].as_f64().unwrap() as f32;
            assert_eq!(
                magnitude_quantile(&before, ratio),
                Some(threshold),
                "{label}"
            );
        }
        assert_eq!(
            bits(&pruned(&before, ratio, dtype)),
            bits(&after),
            "{label}"
        );
    }
}

#[test]
fn an_optimizer_s_factors_are_pruned_as_the_official_code_prunes_them() {
    let golden = golden_json("resets.json");
    let mut compared = 0;
    for case in golden["optimizer_cases"].as_array().unwrap() {
        let ratio = case["args"]["optimizer_magnitude_pruning"]
            .as_f64()
            .unwrap();
        if ratio == 0.0 {
            continue; // random: which elements survive is torch's generator's affair
        }
        for name in case["reset_param_names"].as_array().unwrap() {
            for moment in ["exp_avg", "exp_avg_sq"] {
                let name = name.as_str().unwrap();
                let before = numbers(&case["before"][name][moment]);
                let after = numbers(&case["after"][name][moment]);
                assert_eq!(
                    bits(&pruned(&before, ratio, Dtype::F32)),
                    bits(&after),
                    "{name} {moment}"
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 8);
}

/// A learner whose moments are all non-zero where they can be.
fn trained() -> Box<dyn Learner> {
    let network = Network::named("nano", 64).unwrap();
    let mut learner = cpu_learner(&network, &ADAMW, 3);
    let draws = Seeded { seed: 3 };
    learner.attach(0, &low_rank(), &draws);
    for step in 0..4 {
        let rows = Rows::new(step);
        learner.accumulate(rows.batch(step), rows.weight());
        learner.update(models::Update {
            step,
            learning_rate: 1e-3,
            grad_clip: None,
        });
    }
    learner
}

fn is_factor_moment(name: &str, role: TensorRole) -> bool {
    name.contains("lora_") && matches!(role, TensorRole::FirstMoment | TensorRole::SecondMoment)
}

#[test]
fn a_reset_touches_the_moments_of_factors_and_nothing_else() {
    for kind in [
        ResetKind::Zero,
        ResetKind::Magnitude(0.9),
        ResetKind::Random(0.9),
    ] {
        let mut learner = trained();
        let before = snapshot(&*learner);
        let reset = MomentReset {
            kind,
            mask: Mask::Separate,
        };
        let report = learner.reset_moments(4, &reset, &Seeded { seed: 3 });
        let mut total = 0;
        for ((name, role, before), (_, _, after)) in before.iter().zip(snapshot(&*learner)) {
            if is_factor_moment(name, *role) {
                assert_ne!(*before, after, "{kind:?} leaves {name}");
                total += before.len() as u64 / 4;
            } else {
                assert_eq!(*before, after, "{kind:?} changes {name}");
            }
        }
        assert_eq!(report.total, total);
        let share = report.zeroed as f64 / report.total as f64;
        match kind {
            ResetKind::Zero => assert_eq!(report.zeroed, report.total),
            // a quantile in each of 56 tensors of 256 to 704 elements
            ResetKind::Magnitude(ratio) => assert!((share - ratio).abs() < 0.005, "{share}"),
            // five standard errors of 27,000 draws
            ResetKind::Random(ratio) => assert!((share - ratio).abs() < 0.01, "{share}"),
        }
    }
}

#[test]
fn a_joint_mask_keeps_the_two_moments_of_an_element_together() {
    for (mask, joint) in [(Mask::Joint, true), (Mask::Separate, false)] {
        for kind in [ResetKind::Magnitude(0.9), ResetKind::Random(0.9)] {
            let mut learner = trained();
            let name = "model.layers.0.mlp.up_proj.lora_B.weight";
            let first_before = read_floats(&*learner, &format!("{name}.exp_avg"));
            learner.reset_moments(4, &MomentReset { kind, mask }, &Seeded { seed: 3 });
            let first = read_floats(&*learner, &format!("{name}.exp_avg"));
            let second = read_floats(&*learner, &format!("{name}.exp_avg_sq"));
            let together = first
                .iter()
                .zip(&second)
                .all(|(first, second)| (*first == 0.0) == (*second == 0.0));
            assert_eq!(together, joint, "{kind:?} {mask:?}");
            if let (ResetKind::Magnitude(ratio), true) = (kind, joint) {
                assert_eq!(
                    first,
                    pruned(&first_before, ratio, Dtype::F32),
                    "the first moment decides"
                );
            }
        }
    }
}

#[test]
fn random_draws_keep_the_share_that_the_official_code_keeps() {
    let golden = golden_json("resets.json");
    for case in golden["random"].as_array().unwrap() {
        let ratio = case["ratio"].as_f64().unwrap();
        let count = case["n"].as_u64().unwrap() as usize;
        let draw = Draw {
            name: "a",
            role: DrawRole::KeepFirst,
            step: 0,
            shape: [1, count],
        };
        let kept = Seeded { seed: 0 }
            .values(&draw)
            .into_iter()
            .filter(|value| f64::from(*value) > ratio)
            .count();
        // two independent samples of the same share: five standard errors of their difference
        let error = (2.0 * ratio * (1.0 - ratio) / count as f64).sqrt();
        let difference = kept as f64 / count as f64 - case["kept_fraction"].as_f64().unwrap();
        assert!(
            difference.abs() <= 5.0 * error,
            "ratio {ratio}: {difference}"
        );
    }
}
