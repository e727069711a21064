//! Embedding on the CPU.

use rayon::prelude::*;

use super::vector::worth_threads;

/// Rows of the table whose gradient one thread takes at a time.
const BLOCK_ROWS: usize = 512;

/// Copies the rows of the table `[v, width]` that the tokens name.
pub fn forward(table: &[f32], tokens: &[u32], width: usize) -> Vec<f32> {
    let mut output = Vec::with_capacity(tokens.len() * width);
    for &token in tokens {
        output.extend_from_slice(&table[token as usize * width..][..width]);
    }
    output
}

/// Sums the rows of the gradient into the rows of a zero table `[v, width]`, in the order of the tokens.
///
/// Threads share the table, not the tokens, so that the order is the same for any number of them.
pub fn backward(tokens: &[u32], gradient: &[f32], width: usize, table: &mut [f32]) {
    let block = |first: usize, table: &mut [f32]| {
        let rows = table.len() / width;
        for (&token, gradient) in tokens.iter().zip(gradient.chunks_exact(width)) {
            let token = token as usize;
            if (first..first + rows).contains(&token) {
                let row = &mut table[(token - first) * width..][..width];
                for (sum, g) in row.iter_mut().zip(gradient) {
                    *sum += g;
                }
            }
        }
    };
    if width == 0 {
        return;
    }
    if worth_threads(gradient.len()) {
        table
            .par_chunks_mut(BLOCK_ROWS * width)
            .enumerate()
            .for_each(|(number, table)| block(number * BLOCK_ROWS, table));
    } else {
        block(0, table);
    }
}
