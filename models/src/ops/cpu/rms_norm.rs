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
        vectorised(|| {
            for (x, output) in x.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
                let r = inverse_root(x);
                for ((output, &x), &w) in output.iter_mut().zip(x).zip(weight) {
                    *output = x * r * w;
                }
            }
        });
    };
    if width == 0 {
        return;
    }
    if worth_threads(x.len()) {
        let length = BLOCK_ROWS * width;
        x.par_chunks(length).zip(output.par_chunks_mut(length)).for_each(block);
    } else {
        block((x, output));
    }
}

/// Replaces the gradient of the output by that of x.
pub fn backward_x(x: &[f32], weight: &[f32], gradient: &mut [f32]) {
    let width = weight.len();
    let block = |(x, gradient): (&[f32], &mut [f32])| {
        vectorised(|| {
            for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
                let r = inverse_root(x);
                let c = r * r * (dot3(gradient, weight, x) / width as f32);
                for ((g, &x), &w) in gradient.iter_mut().zip(x).zip(weight) {
                    *g = r * (*g * w - x * c);
                }
            }
        });
    };
    if width == 0 {
        return;
    }
    if worth_threads(x.len()) {
        let length = BLOCK_ROWS * width;
        x.par_chunks(length).zip(gradient.par_chunks_mut(length)).for_each(block);
    } else {
        block((x, gradient));
    }
}

/// Gradient of the weight: `Σ_rows g·x·r`, by blocks of rows in order.
pub fn backward_weight(x: &[f32], gradient: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    if width == 0 {
        return total;
    }
    let length = BLOCK_ROWS * width;
    let block = |(x, gradient): (&[f32], &[f32])| {
        let mut sum = vec![0.0f32; width];
        vectorised(|| {
            for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact(width)) {
                let r = inverse_root(x);
                for ((sum, &x), &g) in sum.iter_mut().zip(x).zip(gradient) {
                    *sum += g * x * r;
                }
            }
        });
        sum
    };
    let sums: Vec<Vec<f32>> = if worth_threads(x.len()) {
        x.par_chunks(length).zip(gradient.par_chunks(length)).map(block).collect()
    } else {
        x.chunks(length).zip(gradient.chunks(length)).map(block).collect()
    };
    for sum in sums {
        for (total, sum) in total.iter_mut().zip(sum) {
            *total += sum;
        }
    }
    total
}

#[inline(always)]
fn inverse_root(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + EPSILON).sqrt()
}
