//! What a reset touches and what it leaves. (The official code's own resets are replayed by `tests/golden.rs`.)

mod common;

use common::{ADAMW, Rows, cpu_learner, low_rank, read_floats, snapshot};
use models::{
    Dtype, Learner, Mask, MomentReset, Network, ResetKind, Seeded, TensorRole, keep_by_magnitude,
};

fn pruned(values: &[f32], ratio: f64, dtype: Dtype) -> Vec<f32> {
    let keep = keep_by_magnitude(values, ratio, dtype);
    values
        .iter()
        .zip(keep)
        .map(|(value, keep)| if keep { *value } else { 0.0 })
        .collect()
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

/// `torch.quantile` refuses more than 2^24 elements; a weight of a larger model has more. Of 0, 1, 2, ... the quantile is its
/// rank, here exact in f32.
#[test]
fn a_quantile_has_no_limit_of_elements() {
    let count = (1 << 24) + 1;
    let values: Vec<f32> = (0..count).map(|index| index as f32).collect();
    assert_eq!(
        models::magnitude_quantile(&values, 0.5),
        Some((1 << 23) as f32)
    );
}
