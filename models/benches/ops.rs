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
use models::ops::{self, AdamStep};

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

fn tokens() -> Tensor<Graph, 1, Int> {
    let tokens: Vec<i64> = (0..TOKENS)
        .map(|token| (token * 2_654_435_761 % VOCABULARY) as i64)
        .collect();
    Tensor::from_data(TensorData::new(tokens, [TOKENS]), &Default::default())
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
    training(&mut group, "own", &inputs, |[x, w]| ops::linear(x, w));
    training(&mut group, "composed", &inputs, |[x, w]| {
        ops::linear::definition(x, w)
    });
    group.finish();

    let mut group = criterion.benchmark_group("low_rank_linear");
    let weight = || Some(Tensor::from_inner(random(INTERMEDIATE, HIDDEN)));
    let inputs = [
        random(TOKENS, HIDDEN),
        random(RANK, HIDDEN),
        random(INTERMEDIATE, RANK),
    ];
    let frozen = weight();
    training(&mut group, "own", &inputs, |[x, a, b]| {
        ops::low_rank_linear(x, frozen.clone(), a, b, 0.5)
    });
    training(&mut group, "composed", &inputs, |[x, a, b]| {
        ops::low_rank_linear::definition(x, frozen.clone(), a, b, 0.5).0
    });
    group.finish();

    let mut group = criterion.benchmark_group("attention");
    let inputs = [
        random(TOKENS, HIDDEN),
        random(TOKENS, HIDDEN),
        random(TOKENS, HIDDEN),
    ];
    let three = |x: Tensor<Graph, 2>| x.reshape([SEQUENCES, LENGTH, HIDDEN]);
    training(&mut group, "own", &inputs, |[q, k, v]| {
        ops::attention(three(q), three(k), three(v), HEADS).reshape([TOKENS, HIDDEN])
    });
    training(&mut group, "composed", &inputs, |[q, k, v]| {
        ops::attention::definition(three(q), three(k), three(v), HEADS).reshape([TOKENS, HIDDEN])
    });
    group.finish();

    let mut group = criterion.benchmark_group("cross_entropy");
    let inputs = [random(TOKENS, HIDDEN), random(VOCABULARY, HIDDEN)];
    training(&mut group, "own", &inputs, |[h, w]| {
        ops::cross_entropy(h, w, tokens()).reshape([1, 1])
    });
    training(&mut group, "composed", &inputs, |[h, w]| {
        ops::cross_entropy::definition(h, w, tokens()).reshape([1, 1])
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
    let inputs = [random(TOKENS, INTERMEDIATE), random(TOKENS, INTERMEDIATE)];
    training(&mut group, "own", &inputs, |[z, u]| ops::swiglu(z, u));
    training(&mut group, "composed", &inputs, |[z, u]| {
        ops::swiglu::definition(z, u)
    });
    group.finish();

    let mut group = criterion.benchmark_group("embedding");
    let inputs = [random(VOCABULARY, HIDDEN)];
    training(&mut group, "own", &inputs, |[table]| {
        ops::embedding(table, tokens())
    });
    training(&mut group, "composed", &inputs, |[table]| {
        ops::embedding::definition(table, tokens())
    });
    group.finish();
}

fn optimizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adamw");
    let gradient = random(INTERMEDIATE, HIDDEN);
    let fresh = || {
        [
            random(INTERMEDIATE, HIDDEN),
            gradient.zeros_like(),
            gradient.zeros_like(),
        ]
    };
    group.bench_function("own", |bencher| {
        let mut state = fresh();
        bencher.iter(|| {
            let [value, first, second] =
                std::mem::replace(&mut state, [0; 3].map(|_| gradient.clone()));
            state = ops::adamw(value, gradient.clone(), first, second, step()).into();
        });
    });
    group.bench_function("composed", |bencher| {
        let mut state = fresh();
        bencher.iter(|| {
            let [value, first, second] =
                std::mem::replace(&mut state, [0; 3].map(|_| gradient.clone()));
            state = ops::adamw::definition(value, gradient.clone(), first, second, step()).into();
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("sum_of_squares");
    group.bench_function("own", |bencher| {
        bencher.iter(|| black_box(ops::sum_of_squares(gradient.clone())))
    });
    group.bench_function("composed", |bencher| {
        bencher.iter(|| black_box(ops::sum_of_squares::definition(gradient.clone())));
    });
    group.finish();
}

criterion_group!(benches, operations, optimizer);
criterion_main!(benches);
