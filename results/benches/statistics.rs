//! Time of the statistics on the few seeds of a table: they run once per row and must stay invisible beside reading the records.
//! And of the singular values of a large model, which somebody waits for.

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use results::spectra::{Matrix, spectrum};
use results::statistics::{holm, mean_interval, paired};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn statistics(criterion: &mut Criterion) {
    let left = [4.512, 4.498, 4.523, 4.507, 4.516];
    let right = [4.541, 4.520, 4.561, 4.533, 4.549];
    criterion.bench_function("mean_interval of 5", |bencher| {
        bencher.iter(|| mean_interval(black_box(&left)))
    });
    criterion.bench_function("paired of 5", |bencher| {
        bencher.iter(|| paired(black_box(&left), black_box(&right)))
    });
    let p_values: Vec<f64> = (1..=16)
        .rev()
        .map(|index| f64::from(index) / 17.0)
        .collect();
    criterion.bench_function("holm of 16", |bencher| {
        bencher.iter(|| holm(black_box(&p_values)))
    });
}

/// Linear layers of the paper's 350M model by their shapes: four of attention and three of the feed-forward network in each
/// of 24 blocks. A matrix and its transpose take the same time.
const LARGE_MODEL: [(u32, [usize; 2]); 2] = [(4 * 24, [1024, 1024]), (3 * 24, [2736, 1024])];

/// All updates of a 350M model on one core. A matrix of each shape is taken apart, and the time of each counts as often as the
/// model has such matrices, so that what is printed is the time of the whole model.
fn spectra(criterion: &mut Criterion) {
    let matrices = LARGE_MODEL.map(|(count, [rows, columns])| {
        // Any matrix of full rank: the time depends on the shape.
        let value = |index: usize| ((index * 37 + index / columns * 101) as f32).sin();
        let values = (0..rows * columns).map(value).collect();
        let matrix = Matrix::new(rows, columns, values).expect("finite values that fill the shape");
        (count, matrix)
    });
    let mut group = criterion.benchmark_group("spectra");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1));
    group.bench_function("all updates of a 350M model, one core", |bencher| {
        bencher.iter_custom(|iterations| {
            let times = matrices.iter().map(|(count, matrix)| {
                let started = Instant::now();
                for _ in 0..iterations {
                    spectrum(black_box(matrix)).expect("it converges");
                }
                started.elapsed() * *count
            });
            times.sum()
        })
    });
    group.finish();
}

criterion_group!(benches, statistics, spectra);
criterion_main!(benches);
