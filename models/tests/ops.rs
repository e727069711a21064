//! The operations against three references: their composed definitions differentiated by Burn, finite differences of
//! plain f64 functions written here, and themselves on another number of threads.

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Int, Tensor, TensorData};
use models::ops::dropout::Mask;
use models::ops::low_rank_linear::{self, Layer};
use models::ops::{self, AdamState, AdamStep};
use proptest::prelude::*;

#[path = "common/inputs.rs"]
mod inputs;

use inputs::{Input, input, noise, some_targets, some_tokens};

type Graph = Autodiff<Flex>;
type Device = burn::backend::flex::FlexDevice;

fn leaf(input: &Input) -> Tensor<Graph, 2> {
    Tensor::from_data(
        TensorData::new(input.values.clone(), input.shape),
        &Device::default(),
    )
}

fn plain(input: &Input) -> Tensor<Flex, 2> {
    leaf(input).inner()
}

fn integers(values: &[i64]) -> Tensor<Graph, 1, Int> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]),
        &Device::default(),
    )
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().to_vec().expect("an f32 tensor")
}

/// The weight of output element `index` in the scalar that is differentiated, so that no gradient is trivial.
fn upstream(index: usize) -> f64 {
    noise(77, index)
}

/// Output of an operation, and the gradients of `Σ upstream·output` for its inputs.
fn differentiate<const N: usize>(
    inputs: &[Input; N],
    operation: impl Fn([Tensor<Graph, 2>; N]) -> Tensor<Graph, 2>,
) -> (Vec<f32>, [Vec<f32>; N]) {
    let leaves = inputs.each_ref().map(|input| leaf(input).require_grad());
    let output = operation(leaves.clone());
    let shape = output.dims();
    let weights: Vec<f32> = (0..shape[0] * shape[1])
        .map(|index| upstream(index) as f32)
        .collect();
    let weights = Tensor::from_data(TensorData::new(weights, shape), &Device::default());
    let gradients = (output.clone() * weights).sum().backward();
    let gradients =
        leaves.map(|leaf| values(leaf.grad(&gradients).expect("every input has a gradient")));
    (values(output.inner()), gradients)
}

/// Largest difference, relative to the largest reference value or to 1: inputs and upstream gradients are of that size, so a
/// smaller result is the difference of larger terms and carries their rounding.
fn difference(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1f32, |scale, x| scale.max(x.abs()));
    let worst = actual.iter().zip(expected).map(|(a, e)| {
        if a.is_nan() {
            f32::INFINITY
        } else {
            (a - e).abs()
        }
    });
    worst.fold(0.0, f32::max) / scale
}

/// Both forms agree to f32 rounding over sums of up to some hundred terms.
fn assert_agree<const N: usize>(
    own: (Vec<f32>, [Vec<f32>; N]),
    reference: (Vec<f32>, [Vec<f32>; N]),
) {
    let tolerance = 2e-5;
    let worst = difference(&own.0, &reference.0);
    assert!(worst < tolerance, "output differs by {worst:e}");
    for (number, (own, reference)) in own.1.iter().zip(&reference.1).enumerate() {
        let worst = difference(own, reference);
        assert!(worst < tolerance, "gradient {number} differs by {worst:e}");
    }
}

/// Query, key and value side by side, as the operation takes them.
fn query_key_value(
    [batch, length, hidden]: [usize; 3],
    parts: [Tensor<Graph, 2>; 3],
) -> Tensor<Graph, 3> {
    Tensor::cat(parts.to_vec(), 1).reshape([batch, length, 3 * hidden])
}

fn own_attention(
    shape: [usize; 3],
    heads: usize,
    parts: [Tensor<Graph, 2>; 3],
) -> Tensor<Graph, 2> {
    let output = ops::attention(query_key_value(shape, parts), heads);
    output.reshape([shape[0] * shape[1], shape[2]])
}

fn attention_definition(
    shape: [usize; 3],
    heads: usize,
    parts: [Tensor<Graph, 2>; 3],
) -> Tensor<Graph, 2> {
    let output = ops::attention::definition(query_key_value(shape, parts), heads);
    output.reshape([shape[0] * shape[1], shape[2]])
}

fn own_swiglu([gate, up]: [Tensor<Graph, 2>; 2]) -> Tensor<Graph, 2> {
    ops::swiglu(Tensor::cat(vec![gate, up], 1))
}

fn low_rank_layer(
    weight: Option<Tensor<Graph, 2>>,
    a: Tensor<Graph, 2>,
    b: Tensor<Graph, 2>,
    mask: Option<Mask>,
) -> Layer<Graph> {
    Layer { weight, a, b, mask }
}

fn state_of(
    full: Tensor<Flex, 2>,
    first: Tensor<Flex, 2>,
    second: Tensor<Flex, 2>,
) -> AdamState<Flex> {
    AdamState {
        full,
        copy: None,
        first,
        second,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    // Which gradients are wanted decides which way they are computed; ranks on both sides of a third of the width.
    #[test]
    fn each_gradient_of_low_rank_linear_is_had_without_the_others(
        n in 1usize..70, i in 1usize..30, o in 1usize..30, r in 1usize..20, wanted in any::<[bool; 5]>(),
        masked in any::<bool>(), keeps_x in any::<bool>(), seed in 0u64..1000,
    ) {
        use ops::Backend;
        let [x, a, b, c, d] = [
            (0, [n, i]), (1, [r, i]), (2, [o, r]), (3, [1, i]), (4, [o, 1]),
        ].map(|(number, shape)| input(seed + number, shape));
        let weight = input(seed + 5, [o, i]);
        let mask = masked.then(|| Mask::new([n, i], 0.3, [seed as u32, 1]));
        let saved = low_rank_linear::Saved {
            x: keeps_x.then(|| plain(&x)),
            layers: vec![
                Layer { weight: Some(plain(&weight)), a: plain(&a), b: plain(&b), mask: mask.clone() },
                Layer { weight: None, a: plain(&c), b: plain(&d), mask: mask.clone() },
            ],
            scale: 0.25,
        };
        let gradient: Vec<f32> = (0..n * 2 * o).map(|index| upstream(index) as f32).collect();
        let gradient = plain(&Input { values: gradient, shape: [n, 2 * o] });
        let own = Flex::low_rank_linear_backward(saved.clone(), gradient.clone(), &wanted);
        let composed = low_rank_linear::backward(saved, gradient, &wanted);
        let (_, reference) = differentiate(&[x, a, b, c, d], |[x, a, b, c, d]| {
            let layers = [
                low_rank_layer(Some(leaf(&weight)), a, b, mask.clone()), low_rank_layer(None, c, d, mask.clone()),
            ];
            low_rank_linear::definition(x, &layers, 0.25)
        });
        for (number, reference) in reference.iter().enumerate() {
            // Without the input there are no gradients of the factors.
            let expected = wanted[number] && (number == 0 || keeps_x);
            for found in [&own, &composed] {
                prop_assert_eq!(found[number].is_some(), expected);
                if let Some(found) = found[number].clone() {
                    prop_assert!(difference(&values(found), reference) < 2e-5);
                }
            }
        }
    }

    #[test]
    fn linear_equals_its_definition(n in 1usize..70, i in 1usize..50, o in 1usize..50, seed in 0u64..1000) {
        let inputs = [input(seed, [n, i]), input(seed + 1, [o, i])];
        assert_agree(
            differentiate(&inputs, |[x, w]| ops::linear(x, vec![w])),
            differentiate(&inputs, |[x, w]| ops::linear::definition(x, vec![w])),
        );
        let inputs = [
            input(seed, [n, i]), input(seed + 1, [o, i]), input(seed + 2, [o + 1, i]), input(seed + 3, [1, i]),
        ];
        assert_agree(
            differentiate(&inputs, |[x, w, v, u]| ops::linear(x, vec![w, v, u])),
            differentiate(&inputs, |[x, w, v, u]| ops::linear::definition(x, vec![w, v, u])),
        );
    }

    // Two layers of their own widths and ranks, each with or without a weight, both with or without masks.
    #[test]
    fn low_rank_linear_equals_its_definition(
        n in 1usize..70, i in 1usize..50, o in 1usize..50, r in 1usize..9,
        frozen in any::<[bool; 2]>(), masked in any::<bool>(), seed in 0u64..1000,
    ) {
        let inputs = [
            input(seed, [n, i]),
            input(seed + 1, [r, i]), input(seed + 2, [o, r]),
            input(seed + 3, [r + 2, i]), input(seed + 4, [o + 3, r + 2]),
        ];
        let weights = [(o, 5), (o + 3, 6)].map(|(o, number)| leaf(&input(seed + number, [o, i])));
        let layers = |factors: [Tensor<Graph, 2>; 4]| {
            let [a, b, c, d] = factors;
            let weight = |number: usize| Some(weights[number].clone()).filter(|_| frozen[number]);
            let mask = |number: u32| masked.then(|| Mask::new([n, i], 0.3, [seed as u32, number]));
            vec![low_rank_layer(weight(0), a, b, mask(0)), low_rank_layer(weight(1), c, d, mask(1))]
        };
        assert_agree(
            differentiate(&inputs, |[x, a, b, c, d]| ops::low_rank_linear(x, layers([a, b, c, d]), 0.25)),
            differentiate(&inputs, |[x, a, b, c, d]| {
                low_rank_linear::definition(x, &layers([a, b, c, d]), 0.25)
            }),
        );
    }

    #[test]
    fn attention_equals_its_definition(
        batch in 1usize..4, length in 1usize..150, heads in 1usize..4, half in 1usize..9, seed in 0u64..1000,
    ) {
        let shape = [batch, length, heads * half * 2];
        let rows = [batch * length, shape[2]];
        let inputs = [input(seed, rows), input(seed + 1, rows), input(seed + 2, rows)];
        assert_agree(
            differentiate(&inputs, |inputs| own_attention(shape, heads, inputs)),
            differentiate(&inputs, |inputs| attention_definition(shape, heads, inputs)),
        );
    }

    #[test]
    fn cross_entropy_equals_its_definition(
        n in 1usize..600, d in 1usize..20, v in 1usize..90, ignored in any::<bool>(), seed in 0u64..1000,
    ) {
        let inputs = [input(seed, [n, d]), input(seed + 1, [v, d])];
        let targets = some_targets(seed, n, v, ignored);
        assert_agree(
            differentiate(&inputs, |[h, w]| ops::cross_entropy(h, w, integers(&targets)).reshape([1, 1])),
            differentiate(&inputs, |[h, w]| ops::cross_entropy::definition(h, w, integers(&targets)).reshape([1, 1])),
        );
    }

    #[test]
    fn rms_norm_equals_its_definition(n in 1usize..200, d in 2usize..90, seed in 0u64..1000) {
        let inputs = [input(seed, [n, d]), input(seed + 1, [1, d])];
        assert_agree(
            differentiate(&inputs, |[x, w]| ops::rms_norm(x, w)),
            differentiate(&inputs, |[x, w]| ops::rms_norm::definition(x, w)),
        );
    }

    #[test]
    fn swiglu_equals_its_definition(n in 1usize..70, d in 1usize..90, seed in 0u64..1000) {
        let mut inputs = [input(seed, [n, d]), input(seed + 1, [n, d])];
        inputs[0].values.iter_mut().for_each(|z| *z *= 12.0);
        assert_agree(
            differentiate(&inputs, own_swiglu),
            differentiate(&inputs, |[z, u]| ops::swiglu::definition(Tensor::cat(vec![z, u], 1))),
        );
    }

    #[test]
    fn residual_equals_its_definition(n in 1usize..70, d in 1usize..90, seed in 0u64..1000) {
        let inputs = [input(seed, [n, d]), input(seed + 1, [n, d])];
        assert_agree(
            differentiate(&inputs, |[x, f]| ops::residual(x, f)),
            differentiate(&inputs, |[x, f]| ops::residual::definition(x, f)),
        );
    }

    #[test]
    fn embedding_equals_its_definition(n in 1usize..300, d in 1usize..40, v in 1usize..70, seed in 0u64..1000) {
        let inputs = [input(seed, [v, d])];
        let tokens = some_tokens(seed, n, v);
        assert_agree(
            differentiate(&inputs, |[table]| ops::embedding(table, &tokens[..])),
            differentiate(&inputs, |[table]| ops::embedding::definition(table, &tokens)),
        );
    }

    #[test]
    fn adamw_and_the_sum_of_squares_equal_their_definitions(n in 1usize..90, d in 1usize..90, seed in 0u64..1000, k in 1u64..2000) {
        let [value, gradient, first, mut second] = [0, 1, 2, 3].map(|number| input(seed + number, [n, d]));
        second.values.iter_mut().for_each(|v| *v = v.abs());
        let step = AdamStep {
            learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, k, gradient_scale: 0.7,
        };
        let state = || state_of(plain(&value), plain(&first), plain(&second));
        let own = ops::adamw(vec![state()], vec![plain(&gradient)], step).remove(0);
        let reference = ops::adamw::definition(state(), plain(&gradient), &step);
        prop_assert!(difference(&values(own.full), &values(reference.full)) < 1e-6);
        prop_assert!(difference(&values(own.first), &values(reference.first)) < 1e-6);
        prop_assert!(difference(&values(own.second), &values(reference.second)) < 1e-6);
        let own = values(ops::sums_of_squares(vec![plain(&value)]));
        let reference: f64 = value.values.iter().map(|x| f64::from(*x).powi(2)).sum();
        prop_assert!((f64::from(own[0]) / reference - 1.0).abs() < 1e-7);
    }
}

// The composed backward functions serve the devices that have no kernels; no graph of Burn's goes through them.

#[test]
fn composed_backward_functions_agree_with_the_kernels() {
    use ops::Backend;
    let all = |actual: Vec<Option<Tensor<Flex, 2>>>, expected: Vec<Option<Tensor<Flex, 2>>>| {
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.into_iter().zip(expected) {
            let (actual, expected) = (actual.expect("wanted"), expected.expect("wanted"));
            assert!(difference(&values(actual), &values(expected)) < 2e-5);
        }
    };
    let [x, g] = [1, 3].map(|seed| plain(&input(seed, [37, 24])));
    let both = plain(&input(2, [37, 48]));
    let weight = plain(&input(4, [1, 24]));
    all(
        vec![Some(ops::swiglu::backward(both.clone(), g.clone()))],
        vec![Some(Flex::swiglu_backward(both.clone(), g.clone()))],
    );
    all(
        ops::rms_norm::backward(x.clone(), weight.clone(), g.clone(), [true; 2]).into(),
        Flex::rms_norm_backward(x.clone(), weight, g.clone(), [true; 2]).into(),
    );
    let tokens = some_tokens(5, 37, 11);
    all(
        vec![Some(ops::embedding::backward(&tokens, g.clone(), 11))],
        vec![Some(<Flex as Backend>::embedding_backward(
            tokens.into(),
            g.clone(),
            11,
        ))],
    );
    let saved = ops::linear::Saved {
        x: Some(x.clone()),
        weights: [6, 7].map(|seed| plain(&input(seed, [24, 24]))).to_vec(),
    };
    all(
        ops::linear::backward(saved.clone(), both.clone(), &[true; 3]),
        Flex::linear_backward(saved, both.clone(), &[true; 3]),
    );
    for masked in [false, true] {
        let layer = |number: u64, weight: bool| Layer {
            weight: weight.then(|| plain(&input(6 + number, [24, 24]))),
            a: plain(&input(8 + number, [5, 24])),
            b: plain(&input(10 + number, [24, 5])),
            mask: masked.then(|| Mask::new([37, 24], 0.2, [1, number as u32])),
        };
        let saved = low_rank_linear::Saved {
            x: Some(x.clone()),
            layers: vec![layer(0, true), layer(1, false)],
            scale: 0.5,
        };
        all(
            low_rank_linear::backward(saved.clone(), both.clone(), &[true; 5]),
            Flex::low_rank_linear_backward(saved, both.clone(), &[true; 5]),
        );
    }
    let head = plain(&input(9, [11, 24]));
    let targets = integers(&some_targets(10, 37, 11, true)).inner();
    let own = Flex::cross_entropy(x.clone(), head.clone(), targets.clone(), [true; 2]);
    let composed = ops::cross_entropy::forward(x.clone(), head, targets, [true; 2]);
    assert!(difference(&values(own.0), &values(composed.0)) < 2e-6);
    all(composed.1.into(), own.1.into());

    let parts = plain(&input(1, [2 * 70, 72])).reshape([2, 70, 72]);
    let g = plain(&input(4, [2 * 70, 24])).reshape([2, 70, 24]);
    let own = <Flex as Backend>::attention(parts.clone(), 3);
    let composed = ops::attention::forward(parts.clone(), 3);
    assert!(difference(&values(own.0.clone()), &values(composed.0)) < 2e-6);
    assert!(difference(&values(own.1.clone()), &values(composed.1)) < 2e-6);
    let saved = ops::attention::Saved {
        query_key_value: parts,
        output: own.0,
        log_sum_exp: own.1,
        heads: 3,
    };
    let flat = |tensor: Tensor<Flex, 3>| vec![Some(tensor.reshape([2 * 70, 72]))];
    all(
        flat(ops::attention::backward(saved.clone(), g.clone())),
        flat(Flex::attention_backward(saved, g)),
    );
}

// Plain f64 references, straight from the equations, on row-major slices.

fn matmul_transposed(x: &[f64], w: &[f64], inner: usize) -> Vec<f64> {
    let row = |x: &[f64]| {
        w.chunks(inner)
            .map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum())
            .collect::<Vec<f64>>()
    };
    x.chunks(inner).flat_map(row).collect()
}

fn reference_attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    [batch, length, hidden]: [usize; 3],
    heads: usize,
) -> Vec<f64> {
    let width = hidden / heads;
    let at = |x: &[f64], b: usize, t: usize, h: usize, j: usize| {
        x[(b * length + t) * hidden + h * width + j]
    };
    let rotated = |x: &[f64], b: usize, t: usize, h: usize, j: usize| {
        let half = width / 2;
        let angle = t as f64 * 10_000f64.powf(-2.0 * (j % half) as f64 / width as f64);
        let other = if j < half {
            -at(x, b, t, h, j + half)
        } else {
            at(x, b, t, h, j - half)
        };
        at(x, b, t, h, j) * angle.cos() + other * angle.sin()
    };
    let mut output = vec![0.0; q.len()];
    for b in 0..batch {
        for h in 0..heads {
            for t in 0..length {
                let score = |s| {
                    let products =
                        (0..width).map(|j| rotated(q, b, t, h, j) * rotated(k, b, s, h, j));
                    (products.sum::<f64>() / (width as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..=t).map(score).collect();
                let sum: f64 = scores.iter().sum();
                for j in 0..width {
                    let weighted = scores
                        .iter()
                        .enumerate()
                        .map(|(s, score)| score * at(v, b, s, h, j));
                    output[(b * length + t) * hidden + h * width + j] = weighted.sum::<f64>() / sum;
                }
            }
        }
    }
    output
}

fn reference_cross_entropy(h: &[f64], w: &[f64], width: usize, targets: &[i64]) -> Vec<f64> {
    let logits = matmul_transposed(h, w, width);
    let rows = logits.chunks(w.len() / width).zip(targets);
    let loss = rows
        .filter(|(_, target)| **target >= 0)
        .map(|(logits, &target)| {
            logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[target as usize]
        });
    vec![loss.sum()]
}

fn reference_rms_norm(x: &[f64], w: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| {
        let r = (x.iter().map(|x| x * x).sum::<f64>() / w.len() as f64 + 1e-6).sqrt();
        x.iter()
            .zip(w)
            .map(|(x, w)| x / r * w)
            .collect::<Vec<f64>>()
    };
    x.chunks(w.len()).flat_map(row).collect()
}

/// Compares output and gradients of an operation with an f64 function and its central differences.
fn assert_differentiates<const N: usize>(
    inputs: [Input; N],
    operation: impl Fn([Tensor<Graph, 2>; N]) -> Tensor<Graph, 2>,
    reference: impl Fn(&[Vec<f64>; N]) -> Vec<f64>,
) {
    let (output, gradients) = differentiate(&inputs, operation);
    let exact = inputs.each_ref().map(|input| {
        input
            .values
            .iter()
            .map(|x| f64::from(*x))
            .collect::<Vec<f64>>()
    });
    let expected: Vec<f32> = reference(&exact).into_iter().map(|x| x as f32).collect();
    assert!(difference(&output, &expected) < 1e-5);
    let scalar = |inputs: &[Vec<f64>; N]| -> f64 {
        let output = reference(inputs);
        // The weights are rounded as the ones that the graph sees.
        output
            .iter()
            .enumerate()
            .map(|(index, y)| y * f64::from(upstream(index) as f32))
            .sum()
    };
    // In f64 a step of 1e-5 leaves an error near 1e-10; what is compared is the rounding of the f32 kernels.
    let step = 1e-5;
    for (number, gradient) in gradients.iter().enumerate() {
        let expected: Vec<f32> = (0..gradient.len())
            .map(|index| {
                let mut moved = exact.clone();
                moved[number][index] += step;
                let above = scalar(&moved);
                moved[number][index] -= 2.0 * step;
                ((above - scalar(&moved)) / (2.0 * step)) as f32
            })
            .collect();
        let worst = difference(gradient, &expected);
        assert!(worst < 1e-5, "gradient {number} differs by {worst:e}");
    }
}

// Small, since each element of each input costs two evaluations; the shapes include one token, one row, one column.
proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_matches_finite_differences(n in 1usize..7, i in 1usize..10, o in 1usize..8, seed in 0u64..1000) {
        assert_differentiates(
            [input(seed, [n, i]), input(seed + 1, [o, i])],
            |[x, w]| ops::linear(x, vec![w]),
            |[x, w]| matmul_transposed(x, w, i),
        );
    }

    #[test]
    fn low_rank_linear_matches_finite_differences(
        n in 1usize..7, i in 1usize..10, o in 1usize..8, r in 1usize..4, frozen in any::<bool>(), seed in 0u64..1000,
    ) {
        let weight = frozen.then(|| input(seed + 3, [o, i]));
        let weight64: Option<Vec<f64>> =
            weight.as_ref().map(|weight| weight.values.iter().map(|x| f64::from(*x)).collect());
        assert_differentiates(
            [input(seed, [n, i]), input(seed + 1, [r, i]), input(seed + 2, [o, r])],
            |[x, a, b]| {
                ops::low_rank_linear(x, vec![low_rank_layer(weight.as_ref().map(leaf), a, b, None)], 0.5)
            },
            |[x, a, b]| {
                let low_rank = matmul_transposed(&matmul_transposed(x, a, i), b, r);
                let base = weight64.as_ref().map(|weight| matmul_transposed(x, weight, i));
                let base = base.unwrap_or_else(|| vec![0.0; n * o]);
                base.iter().zip(low_rank).map(|(y, z)| y + 0.5 * z).collect()
            },
        );
    }

    #[test]
    fn attention_matches_finite_differences(
        batch in 1usize..3, length in 1usize..7, heads in 1usize..3, half in 1usize..4, seed in 0u64..1000,
    ) {
        let shape = [batch, length, heads * half * 2];
        let rows = [batch * length, shape[2]];
        assert_differentiates(
            [input(seed, rows), input(seed + 1, rows), input(seed + 2, rows)],
            |inputs| own_attention(shape, heads, inputs),
            |[q, k, v]| reference_attention(q, k, v, shape, heads),
        );
    }

    #[test]
    fn cross_entropy_matches_finite_differences(
        n in 1usize..8, d in 1usize..6, v in 1usize..10, ignored in any::<bool>(), seed in 0u64..1000,
    ) {
        let targets = some_targets(seed, n, v, ignored);
        assert_differentiates(
            [input(seed, [n, d]), input(seed + 1, [v, d])],
            |[h, w]| ops::cross_entropy(h, w, integers(&targets)).reshape([1, 1]),
            |[h, w]| reference_cross_entropy(h, w, d, &targets),
        );
    }

    // Of a single column the norm is the sign, and its gradient what rounding leaves.
    #[test]
    fn rms_norm_matches_finite_differences(n in 1usize..7, d in 2usize..12, seed in 0u64..1000) {
        assert_differentiates(
            [input(seed, [n, d]), input(seed + 1, [1, d])],
            |[x, w]| ops::rms_norm(x, w),
            |[x, w]| reference_rms_norm(x, w),
        );
    }

    #[test]
    fn swiglu_matches_finite_differences(n in 1usize..7, d in 1usize..12, seed in 0u64..1000) {
        assert_differentiates(
            [input(seed, [n, d]), input(seed + 1, [n, d])],
            own_swiglu,
            |[z, u]| z.iter().zip(u).map(|(z, u)| z / (1.0 + (-z).exp()) * u).collect(),
        );
    }

    #[test]
    fn residual_matches_finite_differences(n in 1usize..7, d in 1usize..12, seed in 0u64..1000) {
        assert_differentiates(
            [input(seed, [n, d]), input(seed + 1, [n, d])],
            |[x, f]| ops::residual(x, f),
            |[x, f]| x.iter().zip(f).map(|(x, f)| x + f).collect(),
        );
    }

    #[test]
    fn embedding_matches_finite_differences(n in 1usize..9, d in 1usize..6, v in 1usize..6, seed in 0u64..1000) {
        let tokens = some_tokens(seed, n, v);
        assert_differentiates(
            [input(seed, [v, d])],
            |[table]| ops::embedding(table, &tokens[..]),
            |[table]| tokens.iter().flat_map(|&token| table[token as usize * d..][..d].to_vec()).collect(),
        );
    }
}

/// The paper's code drops the input of A alone (`relora.py`, Guitaricet/relora@176f376): the weight sees all of it.
#[test]
fn a_dropped_input_is_seen_by_the_weight_alone() {
    let (n, i, o, r) = (6, 9, 7, 3);
    let inputs = [input(1, [n, i]), input(2, [r, i]), input(3, [o, r])];
    let weight = input(4, [o, i]);
    let share = 0.4;
    let mask = Mask::new([n, i], share, [8, 9]);
    // the share in units of 1/65536
    let factor = 65_536.0 / (65_536.0 - 26_214.0);
    let kept: Vec<f64> = (0..n * i)
        .map(|index| f64::from(mask.bits()[index / 8] >> (index % 8) & 1) * factor)
        .collect();
    let kept_count = kept.iter().filter(|kept| **kept > 0.0).count();
    assert!(kept_count > 0 && kept_count < n * i);
    let weight64: Vec<f64> = weight.values.iter().map(|x| f64::from(*x)).collect();
    assert_differentiates(
        inputs,
        |[x, a, b]| {
            let layer = low_rank_layer(Some(leaf(&weight)), a, b, Some(mask.clone()));
            ops::low_rank_linear(x, vec![layer], 0.5)
        },
        |[x, a, b]| {
            let dropped: Vec<f64> = x.iter().zip(&kept).map(|(x, kept)| x * kept).collect();
            let low_rank = matmul_transposed(&matmul_transposed(&dropped, a, i), b, r);
            let base = matmul_transposed(x, &weight64, i);
            base.iter()
                .zip(low_rank)
                .map(|(y, z)| y + 0.5 * z)
                .collect()
        },
    );
}

#[test]
fn a_batch_without_counted_targets_has_no_loss_and_no_gradient() {
    let inputs = [input(1, [6, 4]), input(2, [9, 4])];
    let (loss, gradients) = differentiate(&inputs, |[h, w]| {
        ops::cross_entropy(h, w, integers(&[-1; 6])).reshape([1, 1])
    });
    assert_eq!(loss, [0.0]);
    assert!(gradients.iter().flatten().all(|g| *g == 0.0));
}

#[test]
fn a_loss_that_is_not_finite_stays_visible() {
    let mut hidden = input(1, [6, 4]);
    hidden.values[5] = f32::NAN;
    let loss = ops::cross_entropy(
        plain(&hidden),
        plain(&input(2, [9, 4])),
        integers(&[1; 6]).inner(),
    );
    assert!(values(loss)[0].is_nan());
}

#[test]
fn views_and_shared_storage_are_read_and_written_correctly() {
    let x = plain(&input(1, [12, 10]));
    let weight = plain(&input(2, [1, 6]));
    let view = x.clone().slice([2..9, 3..9]);
    let copy = Tensor::<Flex, 2>::from_data(view.clone().into_data(), &Device::default());
    let norm = values(ops::rms_norm(view.clone(), weight.clone()));
    assert_eq!(norm, values(ops::rms_norm(copy.clone(), weight)));
    let transposed = values(ops::linear(
        view.clone().transpose(),
        vec![x.clone().slice([0..4, 0..7])],
    ));
    let square = copy
        .clone()
        .transpose()
        .matmul(x.clone().slice([0..4, 0..7]).transpose());
    assert!(difference(&transposed, &values(square)) < 1e-6);
    let before = values(x.clone());
    let step = AdamStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        k: 1,
        gradient_scale: 1.0,
    };
    let state = state_of(view.clone(), view.zeros_like(), view.zeros_like());
    let updated = ops::adamw(vec![state], vec![copy.clone()], step)
        .remove(0)
        .full;
    assert_eq!(values(x), before);
    assert_ne!(values(updated), values(copy));
}

/// Output and gradients in bf16, the operation and everything that it differentiates through.
fn differentiate_bf16<const N: usize>(
    inputs: &[Input; N],
    operation: impl Fn([Tensor<Graph, 2>; N]) -> Tensor<Graph, 2>,
) -> (Vec<f32>, [Vec<f32>; N]) {
    let leaves = inputs
        .each_ref()
        .map(|input| leaf(input).cast(DType::BF16).require_grad());
    let output = operation(leaves.clone());
    let shape = output.dims();
    let weights: Vec<f32> = (0..shape[0] * shape[1])
        .map(|index| upstream(index) as f32)
        .collect();
    let weights =
        Tensor::<Graph, 2>::from_data(TensorData::new(weights, shape), &Device::default());
    let gradients = (output.clone().cast(DType::F32) * weights).sum().backward();
    let gradients = leaves.map(|leaf| {
        let gradient = leaf.grad(&gradients).expect("every input has a gradient");
        assert_eq!(gradient.dtype(), DType::BF16);
        values(gradient.cast(DType::F32))
    });
    (values(output.inner().cast(DType::F32)), gradients)
}

/// The composed definitions, which bf16 takes on every device, keep its eight bits of precision.
fn assert_bf16_agrees<const N: usize>(
    inputs: [Input; N],
    operation: impl Fn([Tensor<Graph, 2>; N]) -> Tensor<Graph, 2>,
) {
    let (output, gradients) = differentiate_bf16(&inputs, &operation);
    let (expected, expected_gradients) = differentiate(&inputs, &operation);
    assert!(difference(&output, &expected) < 0.02);
    for (gradient, expected) in gradients.iter().zip(&expected_gradients) {
        assert!(difference(gradient, expected) < 0.04);
    }
}

#[test]
fn bf16_tensors_take_the_composed_definitions() {
    let (n, d) = (24, 16);
    let x = || input(1, [n, d]);
    assert_bf16_agrees([x(), input(2, [9, d])], |[x, w]| ops::linear(x, vec![w]));
    assert_bf16_agrees([x(), input(3, [3, d]), input(4, [9, 3])], |[x, a, b]| {
        let weight = leaf(&input(2, [9, d])).cast(x.dtype());
        let mask = Mask::new([n, d], 0.1, [1, 2]);
        ops::low_rank_linear(x, vec![low_rank_layer(Some(weight), a, b, Some(mask))], 0.5)
    });
    assert_bf16_agrees([x(), input(5, [n, d]), input(6, [n, d])], |inputs| {
        own_attention([2, 12, d], 2, inputs)
    });
    assert_bf16_agrees([x(), input(7, [11, d])], |[h, w]| {
        ops::cross_entropy(h, w, integers(&some_targets(8, n, 11, true))).reshape([1, 1])
    });
    assert_bf16_agrees([x(), input(8, [1, d])], |[x, w]| ops::rms_norm(x, w));
    assert_bf16_agrees([x(), input(5, [n, d])], own_swiglu);
    assert_bf16_agrees([x(), input(5, [n, d])], |[x, f]| ops::residual(x, f));
    assert_bf16_agrees([input(7, [11, d])], |[table]| {
        ops::embedding(table, some_tokens(8, n, 11))
    });
}

/// Bits of everything that an operation returns.
fn bits<const N: usize>((output, gradients): (Vec<f32>, [Vec<f32>; N])) -> Vec<u32> {
    output
        .iter()
        .chain(gradients.iter().flatten())
        .map(|x| x.to_bits())
        .collect()
}

fn everything() -> Vec<Vec<u32>> {
    // Large enough for every kernel to share its work, odd enough for ragged blocks.
    let (n, d, i, v, r) = (1030, 96, 257, 1111, 17);
    let x = input(1, [n, d]);
    let shape = [5, 206, d];
    let step = AdamStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        k: 3,
        gradient_scale: 0.5,
    };
    let low_rank = |masked: bool| {
        let mask = |number| masked.then(|| Mask::new([n, d], 0.1, [number, 4]));
        differentiate(
            &[
                x.clone(),
                input(3, [r, d]),
                input(4, [i, r]),
                input(5, [r, d]),
                input(6, [d, r]),
            ],
            |[x, a, b, c, e]| {
                let weight = Some(leaf(&input(2, [i, d])));
                let layers = vec![
                    low_rank_layer(weight, a, b, mask(0)),
                    low_rank_layer(None, c, e, mask(1)),
                ];
                ops::low_rank_linear(x, layers, 0.5)
            },
        )
    };
    let adamw = || {
        let wide = input(9, [n, i]);
        let state = state_of(plain(&wide), plain(&wide), plain(&wide).abs());
        let state = ops::adamw(vec![state], vec![plain(&wide)], step).remove(0);
        (
            values(ops::sums_of_squares(vec![plain(&wide)])),
            [state.full, state.first, state.second].map(values),
        )
    };
    vec![
        bits(differentiate(
            &[x.clone(), input(2, [i, d]), input(3, [d, d])],
            |[x, w, v]| ops::linear(x, vec![w, v]),
        )),
        bits(low_rank(false)),
        bits(low_rank(true)),
        bits(differentiate(
            &[x.clone(), input(5, [n, d]), input(6, [n, d])],
            |inputs| own_attention(shape, 6, inputs),
        )),
        bits(differentiate(&[x.clone(), input(7, [v, d])], |[h, w]| {
            ops::cross_entropy(h, w, integers(&some_targets(8, n, v, true))).reshape([1, 1])
        })),
        bits(differentiate(&[x.clone(), input(8, [1, d])], |[x, w]| {
            ops::rms_norm(x, w)
        })),
        bits(differentiate(&[x.clone(), input(5, [n, d])], own_swiglu)),
        bits(differentiate(&[x, input(5, [n, d])], |[x, f]| {
            ops::residual(x, f)
        })),
        bits(differentiate(&[input(7, [v, d])], |[table]| {
            ops::embedding(table, some_tokens(8, n, v))
        })),
        bits(adamw()),
    ]
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a thread pool");
        pool.install(everything)
    };
    let one = on(1);
    for threads in [2, 3, 8] {
        for (number, (one, many)) in one.iter().zip(on(threads)).enumerate() {
            assert!(
                *one == many,
                "operation {number} differs on {threads} threads"
            );
        }
    }
}
