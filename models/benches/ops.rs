//! Every operation, forward and backward, against its composed definition differentiated by Burn.
//!
//! `cargo bench --profile dev -p models --bench ops` (the workspace has one profile). Shapes are those of `mini`
//! with 16 sequences of 128 tokens.

use std::hint::black_box;

use burn::backend::{Autodiff, Flex};
use burn::tensor::{Distribution, Int, Tensor, TensorData};
use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use models::ops::dropout::Mask;
use models::ops::low_rank_linear::{self, Layer};
use models::ops::{self, AdamState, AdamStep};

type Graph = Autodiff<Flex>;

const SEQUENCES: usize = 16;
const LENGTH: usize = 128;
const TOKENS: usize = SEQUENCES * LENGTH;
const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 688;
const HEADS: usize = 4;
const RANK: usize = 32;
const VOCABULARY: usize = 4096;

fn random(rows: usize, columns: usize) -> Tensor<Flex, 2> {
    Tensor::random(
        [rows, columns],
        Distribution::Uniform(-1.0, 1.0),
        &Default::default(),
    )
}

fn tokens() -> Vec<u32> {
    let token = |place: usize| (place * 2_654_435_761 % VOCABULARY) as u32;
    (0..TOKENS).map(token).collect()
}

fn targets() -> Tensor<Graph, 1, Int> {
    let targets: Vec<i64> = tokens().into_iter().map(i64::from).collect();
    Tensor::from_data(TensorData::new(targets, [TOKENS]), &Default::default())
}

fn step() -> AdamStep {
    AdamStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        k: 10,
        gradient_scale: 0.9,
    }
}

/// Times forward and backward of an operation on fresh leaves.
fn training<const N: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    inputs: &[Tensor<Flex, 2>; N],
    operation: impl Fn([Tensor<Graph, 2>; N]) -> Tensor<Graph, 2>,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let leaves = inputs
                .each_ref()
                .map(|input| Tensor::from_inner(input.clone()).require_grad());
            black_box(operation(leaves).sum().backward())
        });
    });
}

fn operations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    let inputs = [random(TOKENS, HIDDEN), random(INTERMEDIATE, HIDDEN)];
    training(&mut group, "own", &inputs, |[x, w]| ops::linear(x, vec![w]));
    training(&mut group, "composed", &inputs, |[x, w]| {
        ops::linear::definition(x, vec![w])
    });
    group.finish();

    // Query, key and value, which read the same input.
    for (name, masked) in [
        ("low_rank_linear", false),
        ("low_rank_linear_dropout", true),
    ] {
        let mut group = criterion.benchmark_group(name);
        let frozen: [_; 3] = [(); 3].map(|()| Tensor::from_inner(random(HIDDEN, HIDDEN)));
        let factor = || [random(RANK, HIDDEN), random(HIDDEN, RANK)];
        let [[a, b], [c, d], [e, f]] = [factor(), factor(), factor()];
        let inputs = [random(TOKENS, HIDDEN), a, b, c, d, e, f];
        let layers = |factors: [[Tensor<Graph, 2>; 2]; 3]| {
            (0..)
                .zip(factors)
                .zip(&frozen)
                .map(|((number, [a, b]), weight)| Layer {
                    weight: Some(weight.clone()),
                    a,
                    b,
                    mask: masked.then(|| Mask::new([TOKENS, HIDDEN], 0.1, [1, number])),
                })
                .collect::<Vec<_>>()
        };
        training(&mut group, "own", &inputs, |[x, a, b, c, d, e, f]| {
            ops::low_rank_linear(x, layers([[a, b], [c, d], [e, f]]), 0.5)
        });
        training(&mut group, "composed", &inputs, |[x, a, b, c, d, e, f]| {
            low_rank_linear::definition(x, &layers([[a, b], [c, d], [e, f]]), 0.5)
        });
        group.finish();
    }

    let mut group = criterion.benchmark_group("attention");
    let inputs = [random(TOKENS, 3 * HIDDEN)];
    let by_sequence = |x: Tensor<Graph, 2>| x.reshape([SEQUENCES, LENGTH, 3 * HIDDEN]);
    training(&mut group, "own", &inputs, |[x]| {
        ops::attention(by_sequence(x), HEADS).reshape([TOKENS, HIDDEN])
    });
    training(&mut group, "composed", &inputs, |[x]| {
        ops::attention::definition(by_sequence(x), HEADS).reshape([TOKENS, HIDDEN])
    });
    group.finish();

    let mut group = criterion.benchmark_group("cross_entropy");
    let inputs = [random(TOKENS, HIDDEN), random(VOCABULARY, HIDDEN)];
    training(&mut group, "own", &inputs, |[h, w]| {
        ops::cross_entropy(h, w, targets()).reshape([1, 1])
    });
    training(&mut group, "composed", &inputs, |[h, w]| {
        ops::cross_entropy::definition(h, w, targets()).reshape([1, 1])
    });
    group.finish();

    let mut group = criterion.benchmark_group("rms_norm");
    let inputs = [random(TOKENS, HIDDEN), random(1, HIDDEN)];
    training(&mut group, "own", &inputs, |[x, w]| ops::rms_norm(x, w));
    training(&mut group, "composed", &inputs, |[x, w]| {
        ops::rms_norm::definition(x, w)
    });
    group.finish();

    let mut group = criterion.benchmark_group("swiglu");
    let inputs = [random(TOKENS, 2 * INTERMEDIATE)];
    training(&mut group, "own", &inputs, |[x]| ops::swiglu(x));
    training(&mut group, "composed", &inputs, |[x]| {
        ops::swiglu::definition(x)
    });
    group.finish();

    let mut group = criterion.benchmark_group("residual");
    let inputs = [random(TOKENS, HIDDEN), random(TOKENS, HIDDEN)];
    training(&mut group, "own", &inputs, |[x, f]| ops::residual(x, f));
    training(&mut group, "composed", &inputs, |[x, f]| {
        ops::residual::definition(x, f)
    });
    group.finish();

    let mut group = criterion.benchmark_group("embedding");
    let inputs = [random(VOCABULARY, HIDDEN)];
    training(&mut group, "own", &inputs, |[table]| {
        ops::embedding(table, tokens())
    });
    training(&mut group, "composed", &inputs, |[table]| {
        ops::embedding::definition(table, &tokens())
    });
    group.finish();
}

fn optimizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adamw");
    let gradient = random(INTERMEDIATE, HIDDEN);
    let fresh = || AdamState {
        full: random(INTERMEDIATE, HIDDEN),
        copy: None,
        first: gradient.zeros_like(),
        second: gradient.zeros_like(),
    };
    // The state is moved through the update, as in training: it works in place.
    group.bench_function("own", |bencher| {
        let mut state = vec![fresh()];
        bencher.iter(|| {
            state = ops::adamw(std::mem::take(&mut state), vec![gradient.clone()], step());
        });
    });
    group.bench_function("composed", |bencher| {
        let mut state = vec![fresh()];
        bencher.iter(|| {
            let states = std::mem::take(&mut state).into_iter();
            let update = |state| ops::adamw::definition(state, gradient.clone(), &step());
            state = states.map(update).collect();
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("sum_of_squares");
    group.bench_function("own", |bencher| {
        bencher.iter(|| black_box(ops::sums_of_squares(vec![gradient.clone()])))
    });
    group.bench_function("composed", |bencher| {
        bencher.iter(|| black_box(ops::sum_of_squares::definition(vec![gradient.clone()])));
    });
    group.finish();
}

criterion_group!(benches, operations, optimizer);
criterion_main!(benches);
