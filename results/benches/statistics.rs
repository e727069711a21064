//! Time of the statistics on the few seeds of a table: they run once per row and must stay invisible beside reading the records.

use criterion::{Criterion, criterion_group, criterion_main};
use results::statistics::{holm, mean_interval, paired};
use std::hint::black_box;

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

criterion_group!(benches, statistics);
criterion_main!(benches);
