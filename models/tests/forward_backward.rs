//! Loss and gradients of the whole network against the official code's (`trajectory_forward_backward.safetensors`).

mod common;

use common::{
    cpu_learner, floats, golden, golden_network, official_targets, read_floats,
    relative_difference, tokens,
};
use models::{AdamW, Batch, Update};
use safetensors::SafeTensors;

const ROWS: usize = 4;
const LENGTH: usize = 32;

/// An f64 and an f32 rewrite of the official code agree with its losses to 1e-6.
const LOSS_TOLERANCE: f64 = 3e-6;

/// Sums over up to 128 tokens in another order.
const GRADIENT_TOLERANCE: f32 = 2e-5;

#[test]
fn loss_and_gradients_are_those_of_the_official_code() {
    let common = golden("trajectory_common.safetensors");
    let common = SafeTensors::deserialize(&common).unwrap();
    let expected = golden("trajectory_forward_backward.safetensors");
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let inputs = tokens(&common, "tokens_pad")[..ROWS * LENGTH].to_vec();
    let targets = official_targets(&inputs, LENGTH);
    let batch = Batch {
        inputs: &inputs,
        targets: &targets,
        rows: ROWS,
        length: LENGTH,
        index: 0,
    };
    let mean = 1.0 / batch.target_count() as f64;

    // With beta1 = 0 the first moment after an update is the gradient itself.
    let bare = AdamW {
        beta1: 0.0,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
    for state in ["init", "warm20"] {
        let mut learner = cpu_learner(&golden_network(), &bare, 0);
        let names: Vec<_> = common
            .names()
            .into_iter()
            .filter_map(|name| name.strip_prefix(&format!("{state}.")))
            .collect();
        assert_eq!(names.len(), 21);
        for name in &names {
            common::write_floats(
                &mut *learner,
                name,
                &floats(&common, &format!("{state}.{name}")),
            );
        }
        let evaluated = learner.evaluate(batch).unwrap();
        assert_eq!(evaluated.targets, (ROWS * (LENGTH - 1)) as u64);
        learner.accumulate(batch, mean);
        learner.update(Update {
            step: 0,
            learning_rate: 0.0,
            grad_clip: None,
        });
        let reading = learner.drain().unwrap()[0];

        let loss = f64::from(floats(&expected, &format!("{state}.loss"))[0]);
        assert!(
            (evaluated.sum * mean - loss).abs() <= LOSS_TOLERANCE,
            "{state}: {} {loss}",
            evaluated.sum * mean
        );
        assert!(
            (reading.loss - loss).abs() <= LOSS_TOLERANCE,
            "{state}: {} {loss}",
            reading.loss
        );

        let mut squares = 0.0;
        for name in &names {
            let gradient = read_floats(&*learner, &format!("{name}.exp_avg"));
            squares += gradient
                .iter()
                .map(|value| f64::from(*value).powi(2))
                .sum::<f64>();
            let Ok(view) = expected.tensor(&format!("{state}.grad.{name}")) else {
                assert_eq!(state, "init", "gradients are given for the warm state");
                continue;
            };
            assert_eq!(view.data().len(), gradient.len() * 4);
            let difference = relative_difference(
                &gradient,
                &floats(&expected, &format!("{state}.grad.{name}")),
            );
            assert!(
                difference <= GRADIENT_TOLERANCE,
                "{state}: gradient of {name} differs by {difference}"
            );
        }
        assert!(
            (reading.grad_norm / squares.sqrt() - 1.0).abs() < 1e-6,
            "{state}: norm {}",
            reading.grad_norm
        );
    }
}
