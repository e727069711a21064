//! RMSNorm on the CPU, row by row.

use rayon::prelude::*;

use super::vector::{dot, dot3, vectorised, worth_threads};
use crate::ops::rms_norm::EPSILON;

/// Rows a thread takes at a time, and rows behind each partial sum of the weight's gradient.
const BLOCK_ROWS: usize = 64;

/// `output = x / √(mean(x²) + ε) · w` by rows of `weight.len()`.
pub fn forward(x: &[f32], weight: &[f32], output: &mut [f32]) {
    let width = weight.len();
    let block = |(x, output): (&[f32], &mut [f32])| {
        vectorised(
            #[inline(always)]
            || {
                for (x, output) in x.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
                    let r = inverse_root(x);
                    for ((output, &x), &w) in output.iter_mut().zip(x).zip(weight) {
                        *output = x * r * w;
                    }
                }
            },
        );
    };
    if width == 0 {
        return;
    }
    if worth_threads(x.len()) {
        let length = BLOCK_ROWS * width;
        x.par_chunks(length)
            .zip(output.par_chunks_mut(length))
            .for_each(block);
    } else {
        block((x, output));
    }
}

/// Replaces the gradient of the output by that of x, where wanted; returns the gradient of the weight,
/// `Σ_rows g·x·r` by blocks of rows in order, where wanted.
pub fn backward(
    x: &[f32],
    weight: &[f32],
    gradient: &mut [f32],
    wanted: [bool; 2],
) -> Option<Vec<f32>> {
    let width = weight.len();
    let mut total = wanted[1].then(|| vec![0.0; width]);
    if width == 0 {
        return total;
    }
    let block = |(x, gradient): (&[f32], &mut [f32])| {
        let mut sums = vec![0.0f32; if wanted[1] { width } else { 0 }];
        vectorised(
            #[inline(always)]
            || {
                for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
                    let r = inverse_root(x);
                    for ((sum, &x), &g) in sums.iter_mut().zip(x).zip(&*gradient) {
                        *sum += g * x * r;
                    }
                    if wanted[0] {
                        let c = r * r * (dot3(gradient, weight, x) / width as f32);
                        for ((g, &x), &w) in gradient.iter_mut().zip(x).zip(weight) {
                            *g = r * (*g * w - x * c);
                        }
                    }
                }
            },
        );
        sums
    };
    let length = BLOCK_ROWS * width;
    let sums: Vec<Vec<f32>> = if worth_threads(x.len()) {
        x.par_chunks(length)
            .zip(gradient.par_chunks_mut(length))
            .map(block)
            .collect()
    } else {
        x.chunks(length)
            .zip(gradient.chunks_mut(length))
            .map(block)
            .collect()
    };
    if let Some(total) = &mut total {
        for block in &sums {
            for (total, sum) in total.iter_mut().zip(block) {
                *total += sum;
            }
        }
    }
    total
}

#[inline(always)]
fn inverse_root(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + EPSILON).sqrt()
}
