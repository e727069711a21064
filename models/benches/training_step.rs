//! One training step, an evaluation, and a restart, at the `micro` shape: 16 rows of 128 tokens, vocabulary 2,048.
//!
//! Threads are Rayon's: `RAYON_NUM_THREADS=1 cargo bench -p models --bench training_step`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use models::{
    AdamW, Base, Batch, Device, FactorInit, Learner, LowRank, Mask, MomentReset, Network,
    Precision, ResetKind, Scaling, Seeded, Update,
};

const ROWS: usize = 16;
const LENGTH: usize = 128;
const VOCABULARY: u32 = 2048;
const DRAWS: Seeded = Seeded { seed: 0 };

/// A learner at full rank, or with factors of rank 8 over a frozen weight.
fn learner(low_rank: bool) -> Box<dyn Learner> {
    let network = Network::named("micro", VOCABULARY as usize).expect("micro is a known name");
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
    let mut learner = models::learner(&network, &adamw, Device::Cpu, Precision::F32, &DRAWS)
        .expect("micro is a network that a processor computes in f32");
    if low_rank {
        let low_rank = LowRank {
            rank: 8,
            scaling: Scaling::Fixed(1.0),
            base: Base::Keep,
            factor_init: FactorInit::KaimingZero,
            dropout: 0.0,
        };
        learner.attach(0, &low_rank, &DRAWS);
    }
    learner
}

/// Tokens that no pattern of memory access profits from.
fn tokens() -> Vec<u32> {
    (0..(ROWS * LENGTH) as u32)
        .map(|position| position.wrapping_mul(2_654_435_761) % VOCABULARY)
        .collect()
}

fn training(criterion: &mut Criterion) {
    let tokens = tokens();
    let batch = Batch {
        inputs: &tokens,
        targets: &tokens,
        rows: ROWS,
        length: LENGTH,
        index: 0,
    };
    let mut group = criterion.benchmark_group("micro");
    group.throughput(Throughput::Elements((ROWS * LENGTH) as u64));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(6));
    for (name, low_rank) in [("full", false), ("low-rank r=8", true)] {
        let mut learner = learner(low_rank);
        let mut step = 0;
        group.bench_function(format!("training step, {name}"), |bencher| {
            bencher.iter(|| {
                learner.accumulate(batch, 1.0 / (ROWS * LENGTH) as f64);
                learner.update(Update {
                    step,
                    learning_rate: 1e-4,
                    grad_clip: Some(1.0),
                });
                step += 1;
                black_box(learner.drain().expect("a processor does not fail"))
            });
        });
        group.bench_function(format!("evaluation, {name}"), |bencher| {
            bencher.iter(|| black_box(learner.evaluate(batch).expect("a processor does not fail")));
        });
    }
    group.finish();
}

fn restarts(criterion: &mut Criterion) {
    let mut learner = learner(true);
    let mut group = criterion.benchmark_group("micro");
    group.sample_size(20);
    group.bench_function("merge and restart", |bencher| {
        bencher.iter(|| learner.restart(1, &DRAWS))
    });
    let reset = MomentReset {
        kind: ResetKind::Magnitude(0.9),
        mask: Mask::Joint,
    };
    group.bench_function("reset of moments, magnitude", |bencher| {
        bencher.iter(|| black_box(learner.reset_moments(1, &reset, &DRAWS)));
    });
    group.finish();
}

criterion_group!(benches, training, restarts);
criterion_main!(benches);
