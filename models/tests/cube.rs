//! The kernels for GPUs, executed on whatever Vulkan the machine has (Mesa's, in software, will do): each operation with its
//! gradients against the kernels for the processor, which `ops.rs` holds against finite differences of f64 functions and
//! against Burn's own differentiation of the definitions.
//!
//! Without Vulkan every test here says that it was skipped, and passes.

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Int, Tensor, TensorData};
use models::ops::dropout::Mask;
use models::ops::low_rank_linear::Layer;
use models::ops::{self, AdamState, AdamStep};
use models::{
    AdamW, Base, Batch, FactorInit, LowRank, MomentReset, Network, ResetKind, Scaling, Seeded,
    Update,
};
use proptest::prelude::*;

#[path = "common/inputs.rs"]
mod inputs;
#[path = "common/vulkan.rs"]
mod vulkan;

use inputs::{Input, input, noise, some_targets, some_tokens};
use vulkan::{Vulkan as Gpu, vulkan};

/// Output of an operation, and the gradients of `Σ upstream·output` for its inputs.
fn differentiate<B: ops::Backend, const N: usize>(
    inputs: &[Input; N],
    operation: impl Fn([Tensor<Autodiff<B>, 2>; N]) -> Tensor<Autodiff<B>, 2>,
) -> Vec<Vec<f32>> {
    let device = B::Device::default();
    let leaves = inputs
        .each_ref()
        .map(|input| leaf::<Autodiff<B>>(input).require_grad());
    let output = operation(leaves.clone());
    let shape = output.dims();
    let weights: Vec<f32> = (0..shape[0] * shape[1])
        .map(|index| noise(77, index) as f32)
        .collect();
    let weights = Tensor::from_data(TensorData::new(weights, shape), &device);
    let gradients = (output.clone() * weights).sum().backward();
    let gradients =
        leaves.map(|leaf| values(leaf.grad(&gradients).expect("every input has a gradient")));
    let mut all = vec![values(output.inner())];
    all.extend(gradients);
    all
}

fn leaf<B: burn::tensor::backend::Backend>(input: &Input) -> Tensor<B, 2> {
    Tensor::from_data(
        TensorData::new(input.values.clone(), input.shape),
        &B::Device::default(),
    )
}

fn integers<B: burn::tensor::backend::Backend>(values: &[i64]) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    Tensor::from_data(
        TensorData::new(values.clone(), [values.len()]),
        &B::Device::default(),
    )
}

fn values<B: burn::tensor::backend::Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().to_vec().expect("an f32 tensor")
}

/// Both agree to f32 rounding over sums of up to some hundred terms, relative to the largest value or to 1.
fn assert_agree(gpu: &[Vec<f32>], cpu: &[Vec<f32>]) {
    assert_eq!(gpu.len(), cpu.len());
    for (number, (gpu, cpu)) in gpu.iter().zip(cpu).enumerate() {
        assert_eq!(gpu.len(), cpu.len(), "elements of result {number}");
        let scale = cpu.iter().fold(1f32, |scale, x| scale.max(x.abs()));
        for (place, (gpu, cpu)) in gpu.iter().zip(cpu).enumerate() {
            let off = (gpu - cpu).abs() / scale;
            // Written so that it fails where one is not a number.
            assert!(
                off < 2e-5,
                "result {number}, element {place}: {gpu} and {cpu} ({off:e})"
            );
        }
    }
}

/// The same closure on the GPU, twice with the same bits, and on the processor.
macro_rules! assert_same {
    ($inputs:expr, $operation:expr) => {{
        let inputs = $inputs;
        let gpu = differentiate::<Gpu, _>(&inputs, $operation);
        assert_eq!(
            gpu,
            differentiate::<Gpu, _>(&inputs, $operation),
            "the same launch gives the same bits"
        );
        assert_agree(&gpu, &differentiate::<Flex, _>(&inputs, $operation));
    }};
}

macro_rules! without_vulkan_return {
    () => {
        if !vulkan() {
            return;
        }
    };
}

/// [`without_vulkan_return`] within a property.
macro_rules! without_vulkan_return_ok {
    () => {
        if !vulkan() {
            return Ok(());
        }
    };
}

fn layer<B: ops::Backend>(
    weight: Option<&Input>,
    [a, b]: [Tensor<Autodiff<B>, 2>; 2],
    mask: Option<Mask>,
) -> Layer<Autodiff<B>> {
    let weight = weight.map(leaf::<Autodiff<B>>);
    Layer { weight, a, b, mask }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear(n in 1usize..70, i in 1usize..70, outputs in prop::collection::vec(1usize..70, 3), seed in 0u64..1000) {
        without_vulkan_return_ok!();
        let [o, p, q] = [outputs[0], outputs[1], outputs[2]];
        assert_same!(
            [input(seed, [n, i]), input(seed + 1, [o, i]), input(seed + 2, [p, i]), input(seed + 3, [q, i])],
            |[x, w, v, u]| ops::linear(x, vec![w, v, u])
        );
        assert_same!([input(seed, [n, i]), input(seed + 1, [o, i])], |[x, w]| ops::linear(x, vec![w]));
    }

    #[test]
    fn low_rank_linear_of_layers_of_one_shape(
        n in 1usize..70, i in 1usize..50, o in 1usize..50, r in 1usize..20, based in any::<bool>(), masked in any::<bool>(),
        scale in prop::sample::select(vec![1.0f32, 0.25]), seed in 0u64..1000,
    ) {
        without_vulkan_return_ok!();
        let mask = |number: u32| masked.then(|| Mask::new([n, i], 0.3, [seed as u32, number]));
        let weights = [input(seed + 7, [o, i]), input(seed + 8, [o, i])];
        let weight = |number: usize| based.then(|| &weights[number]);
        assert_same!(
            [
                input(seed, [n, i]), input(seed + 1, [r, i]), input(seed + 2, [o, r]), input(seed + 3, [r, i]),
                input(seed + 4, [o, r]),
            ],
            |[x, a, b, c, d]| {
                let layers = vec![layer(weight(0), [a, b], mask(1)), layer(weight(1), [c, d], mask(2))];
                ops::low_rank_linear(x, layers, scale)
            }
        );
        assert_same!(
            [input(seed, [n, i]), input(seed + 1, [r, i]), input(seed + 2, [o, r])],
            |[x, a, b]| ops::low_rank_linear(x, vec![layer(weight(0), [a, b], mask(1))], scale)
        );
    }

    #[test]
    fn low_rank_linear_of_unlike_layers(n in 1usize..40, i in 1usize..30, o in 1usize..30, r in 1usize..9, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        let weight = input(seed + 7, [o, i]);
        assert_same!(
            [
                input(seed, [n, i]), input(seed + 1, [r, i]), input(seed + 2, [o, r]), input(seed + 3, [1, i]),
                input(seed + 4, [o + 1, 1]),
            ],
            |[x, a, b, c, d]| {
                let layers = vec![layer(Some(&weight), [a, b], None), layer(None, [c, d], None)];
                ops::low_rank_linear(x, layers, 0.5)
            }
        );
    }

    // `cube_attention.rs` has more of it.
    #[test]
    fn attention(b in 1usize..3, t in 1usize..40, heads in 1usize..4, half in 1usize..12, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        let d = heads * 2 * half;
        assert_same!([input(seed, [b * t, 3 * d])], |[qkv]| {
            ops::attention(qkv.reshape([b, t, 3 * d]), heads).reshape([b * t, d])
        });
    }

    #[test]
    fn cross_entropy(n in 1usize..400, d in 1usize..40, v in 2usize..300, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        let targets = some_targets(seed, n, v, true);
        assert_same!(
            [input(seed, [n, d]), input(seed + 1, [v, d])],
            |[hidden, head]| ops::cross_entropy(hidden, head, integers(&targets)).reshape([1, 1])
        );
    }

    #[test]
    fn rms_norm(n in 1usize..600, d in 1usize..300, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        assert_same!([input(seed, [n, d]), input(seed + 1, [1, d])], |[x, w]| ops::rms_norm(x, w));
    }

    #[test]
    fn swiglu(n in 1usize..70, d in 1usize..90, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        assert_same!(
            [input(seed, [n, d]), input(seed + 1, [n, d])],
            |[gate, up]| ops::swiglu(Tensor::cat(vec![gate, up], 1))
        );
    }

    #[test]
    fn residual(n in 1usize..70, d in 1usize..90, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        assert_same!([input(seed, [n, d]), input(seed + 1, [n, d])], |[x, f]| ops::residual(x, f));
    }

    #[test]
    fn embedding(n in 1usize..300, d in 1usize..200, v in 1usize..70, seed in 0u64..1000) {
        without_vulkan_return_ok!();
        let tokens = some_tokens(seed, n, v);
        assert_same!([input(seed, [v, d])], |[table]| ops::embedding(table, &tokens[..]));
    }

    // Up to 40 tensors: more than one launch takes.
    #[test]
    fn passes_over_all_parameters(lengths in prop::collection::vec(1usize..3000, 1..40), seed in 0u64..1000, k in 1u64..2000) {
        without_vulkan_return_ok!();
        let step = AdamStep {
            learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, k, gradient_scale: 0.7,
        };
        let of = |offset: u64| -> Vec<Input> {
            let each = lengths.iter().enumerate();
            each.map(|(number, length)| input(seed + offset + number as u64, [1, *length])).collect()
        };
        assert_agree(&all_parameters::<Gpu>(&of, step), &all_parameters::<Flex>(&of, step));
    }
}

/// Factors whose parts lie where views may begin are not copied.
#[test]
fn low_rank_linear_of_layers_with_aligned_shapes() {
    without_vulkan_return!();
    let (n, i, o, r) = (96, 64, 128, 32);
    for masked in [false, true] {
        let mask = |number: u32| masked.then(|| Mask::new([n, i], 0.1, [number, 5]));
        let weights = [7, 8, 9].map(|seed| input(seed, [o, i]));
        assert_same!(
            [
                input(1, [n, i]),
                input(2, [r, i]),
                input(3, [o, r]),
                input(4, [r, i]),
                input(5, [o, r]),
                input(6, [r, i]),
                input(7, [o, r]),
            ],
            |[x, a, b, c, d, e, f]| {
                let layers = vec![
                    layer(Some(&weights[0]), [a, b], mask(1)),
                    layer(Some(&weights[1]), [c, d], mask(2)),
                    layer(Some(&weights[2]), [e, f], mask(3)),
                ];
                ops::low_rank_linear(x, layers, 0.25)
            }
        );
    }
}

/// Order statistics of magnitudes are found to the bit, those of ties and of one element as well.
#[test]
fn magnitudes_at_ranks() {
    without_vulkan_return!();
    use ops::Backend;
    let mut tied = input(3, [40, 500]);
    tied.values
        .iter_mut()
        .for_each(|value| *value = (*value * 4.0).round());
    for values in [input(1, [1, 1]), input(2, [37, 901]), tied] {
        let last = values.values.len() - 1;
        for below in [0, last / 3, last * 99 / 100, last] {
            let ranks = [below, (below + 1).min(last)];
            let gpu = Gpu::magnitudes(leaf::<Gpu>(&values), ranks).expect("no fault");
            let cpu = Flex::magnitudes(leaf::<Flex>(&values), ranks).expect("no fault");
            assert_eq!(gpu, cpu, "at {ranks:?} of {}", last + 1);
        }
    }
}

/// What someone else holds is not written into.
#[test]
fn passes_over_all_parameters_leave_alone_what_is_shared() {
    without_vulkan_return!();
    let step = AdamStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        k: 3,
        gradient_scale: 1.0,
    };
    let tensor = |seed| leaf::<Gpu>(&input(seed, [3, 70]));
    let state = AdamState {
        full: tensor(1),
        copy: None,
        first: tensor(2),
        second: tensor(3).abs(),
    };
    let before = values(state.full.clone());
    let after = ops::adamw(vec![state.clone()], vec![tensor(4)], step).remove(0);
    assert_eq!(values(state.full), before);
    assert_ne!(values(after.full), before);

    let (shared, own) = (tensor(5), tensor(6));
    let sums = vec![Some(shared.clone()), None, Some(own)];
    let addends = vec![tensor(7), tensor(8), tensor(9)];
    let sums = ops::accumulate(sums, addends, DType::F32);
    assert_eq!(values(shared), input(5, [3, 70]).values);
    let added = |a, b| -> Vec<f32> {
        let (a, b) = (input(a, [3, 70]).values, input(b, [3, 70]).values);
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    };
    let expected = [added(5, 7), input(8, [3, 70]).values, added(6, 9)];
    assert_eq!(sums.into_iter().map(values).collect::<Vec<_>>(), expected);
}

/// A whole training: full rank, factors with dropout, a restart, a pruning of moments by magnitude.
#[test]
fn a_learner_trains_as_it_does_on_the_processor() {
    without_vulkan_return!();
    let gpu = training::<Gpu>();
    let cpu = training::<Flex>();
    for (step, (gpu, cpu)) in gpu.iter().zip(&cpu).enumerate() {
        // Rounding grows from step to step, through Adam's division by roots of small moments.
        let off = (gpu - cpu).abs() / cpu.abs();
        assert!(off < 2e-5, "number {step}: {gpu} and {cpu} ({off:e})");
    }
    assert_eq!(gpu.len(), cpu.len());
}

/// Losses and gradient norms of six updates, how many moments were pruned, and the loss of an evaluation behind them.
fn training<B: ops::Backend>() -> Vec<f64> {
    let network = Network::named("nano", 64).unwrap();
    let draws = Seeded { seed: 5 };
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };
    let mut learner =
        models::learner_on::<B>(&network, &adamw, B::Device::default(), &draws).unwrap();
    let (rows, length) = (3, 20);
    let inputs = some_tokens(1, rows * length, 64);
    let targets = some_tokens(2, rows * length, 64);
    let batch = |index| Batch {
        inputs: &inputs,
        targets: &targets,
        rows,
        length,
        index,
    };
    let low_rank = LowRank {
        rank: 8,
        scaling: Scaling::Fixed(0.5),
        base: Base::Keep,
        factor_init: FactorInit::KaimingZero,
        dropout: 0.1,
    };
    let mut pruned = 0.0;
    for step in 0..6 {
        if step == 2 {
            learner.attach(step, &low_rank, &draws);
        }
        if step == 4 {
            learner.restart(step, &draws);
            let reset = MomentReset {
                kind: ResetKind::Magnitude(0.9),
                mask: models::Mask::Joint,
            };
            let report = learner.reset_moments(step, &reset, &draws);
            pruned = report.zeroed as f64;
        }
        for part in 0..2 {
            learner.accumulate(batch(2 * step + part), 0.5 / (rows * length) as f64);
        }
        learner.update(Update {
            step,
            learning_rate: 3e-3,
            grad_clip: Some(1.0),
        });
    }
    let readings = learner.drain().unwrap();
    let mut all: Vec<f64> = readings
        .iter()
        .flat_map(|reading| [reading.loss, reading.grad_norm])
        .collect();
    all.extend([pruned, learner.evaluate(batch(0)).unwrap().sum]);
    all
}

/// What the passes over all parameters make of values, gradients and moments with seeds from 0, 1000, 2000 and 3000 on.
fn all_parameters<B: ops::Backend>(
    of: &impl Fn(u64) -> Vec<Input>,
    step: AdamStep,
) -> Vec<Vec<f32>> {
    let tensors = |offset| of(offset).iter().map(leaf::<B>).collect::<Vec<_>>();
    let states = tensors(0).into_iter().zip(tensors(2000)).zip(tensors(3000));
    let states = states.map(|((full, first), second)| AdamState {
        full,
        copy: None,
        first,
        second: second.abs(),
    });
    let mut all = vec![values(ops::sums_of_squares(tensors(1000)))];
    for state in ops::adamw(states.collect(), tensors(1000), step) {
        all.extend([state.full, state.first, state.second].map(values));
    }
    let sums = tensors(0).into_iter().map(Some).collect();
    all.extend(
        ops::accumulate(sums, tensors(1000), DType::F32)
            .into_iter()
            .map(values),
    );
    all
}

/// A vocabulary as wide as the paper's takes several rounds of a cube, and as many rows several blocks.
#[test]
fn cross_entropy_of_a_wide_vocabulary_by_blocks() {
    without_vulkan_return!();
    let (n, d, v) = (1100, 8, 3210);
    let targets = some_targets(5, n, v, true);
    assert_same!([input(1, [n, d]), input(2, [v, d])], |[hidden, head]| {
        ops::cross_entropy(hidden, head, integers(&targets)).reshape([1, 1])
    });
}

/// Gradients that nobody wants are not there, and the others the same without them.
#[test]
fn only_wanted_gradients_of_low_rank_linear() {
    without_vulkan_return!();
    use ops::Backend;
    // Widths at which views may begin, and widths at which they may not; shares of dropout that are equal, are not, are none.
    for (shape, shares) in [
        ([30, 24, 20, 6], Some([0.2, 0.2])),
        ([32, 24, 64, 8], Some([0.2, 0.2])),
        ([32, 24, 64, 8], None),
        ([30, 24, 20, 6], Some([0.2, 0.4])),
    ] {
        for wanted in (0..32u32).map(|bits| [0, 1, 2, 3, 4].map(|bit| bits >> bit & 1 == 1)) {
            let gpu = backward_of_low_rank::<Gpu>(shape, shares, &wanted);
            let cpu = backward_of_low_rank::<Flex>(shape, shares, &wanted);
            let there: Vec<bool> = gpu.iter().map(Option::is_some).collect();
            assert_eq!(there, wanted);
            let known = |all: Vec<Option<Vec<f32>>>| all.into_iter().flatten().collect::<Vec<_>>();
            assert_agree(&known(gpu), &known(cpu));
        }
    }
    fn backward_of_low_rank<B: Backend>(
        [n, i, o, r]: [usize; 4],
        shares: Option<[f64; 2]>,
        wanted: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let layer = |number: usize| Layer {
            weight: Some(leaf::<B>(&input(10 * number as u64, [o, i]))),
            a: leaf::<B>(&input(10 * number as u64 + 1, [r, i])),
            b: leaf::<B>(&input(10 * number as u64 + 2, [o, r])),
            mask: shares.map(|shares| Mask::new([n, i], shares[number], [number as u32, 9])),
        };
        let saved = ops::low_rank_linear::Saved {
            x: Some(leaf::<B>(&input(1, [n, i]))),
            layers: vec![layer(0), layer(1)],
            scale: 0.5,
        };
        let gradients =
            B::low_rank_linear_backward(saved, leaf::<B>(&input(3, [n, 2 * o])), wanted);
        gradients
            .into_iter()
            .map(|gradient| gradient.map(values))
            .collect()
    }
}
