//! Sum of squares on the CPU: fixed blocks, summed in f64.

use rayon::prelude::*;

use super::vector::{self, vectorised, worth_threads};

/// Elements behind each partial sum.
const BLOCK: usize = 1 << 14;

/// `Σ x²`.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let block = |x: &[f32]| {
        vectorised(
            #[inline(always)]
            || vector::sum_of_squares(x),
        )
    };
    if worth_threads(x.len()) {
        let sums: Vec<f64> = x.par_chunks(BLOCK).map(block).collect();
        sums.iter().sum()
    } else {
        x.chunks(BLOCK).map(block).sum()
    }
}
