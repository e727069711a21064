//! SwiGLU on the CPU: row by row of gate and up side by side, in blocks that threads share.

use rayon::prelude::*;

use super::vector::{BLOCK, sigmoid, vectorised, worth_threads};

/// `output = silu(gate)·up` for rows of `width` outputs.
pub fn forward(gate_up: &[f32], width: usize, output: &mut [f32]) {
    let block = |(gate_up, output): (&[f32], &mut [f32])| {
        vectorised(
            #[inline(always)]
            || {
                let rows = gate_up.chunks_exact(2 * width);
                for (gate_up, output) in rows.zip(output.chunks_exact_mut(width)) {
                    let (gate, up) = gate_up.split_at(width);
                    for ((output, &z), &u) in output.iter_mut().zip(gate).zip(up) {
                        *output = z * sigmoid(z) * u;
                    }
                }
            },
        );
    };
    if width == 0 {
        return;
    }
    if worth_threads(output.len()) {
        let length = block_length(width);
        gate_up
            .par_chunks(2 * length)
            .zip(output.par_chunks_mut(length))
            .for_each(block);
    } else {
        block((gate_up, output));
    }
}

/// Replaces gate and up by their gradients.
pub fn backward(gate_up: &mut [f32], width: usize, gradient: &[f32]) {
    let block = |(gate_up, gradient): (&mut [f32], &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                let rows = gate_up.chunks_exact_mut(2 * width);
                for (gate_up, gradient) in rows.zip(gradient.chunks_exact(width)) {
                    let (gate, up) = gate_up.split_at_mut(width);
                    for ((gate, up), &g) in gate.iter_mut().zip(up).zip(gradient) {
                        let (z, u) = (*gate, *up);
                        let sigma = sigmoid(z);
                        *gate = g * u * (sigma * (1.0 + z * (1.0 - sigma)));
                        *up = g * (z * sigma);
                    }
                }
            },
        );
    };
    if width == 0 {
        return;
    }
    if worth_threads(gradient.len()) {
        let length = block_length(width);
        gate_up
            .par_chunks_mut(2 * length)
            .zip(gradient.par_chunks(length))
            .for_each(block);
    } else {
        block((gate_up, gradient));
    }
}

/// Outputs of whole rows that a thread takes at a time.
fn block_length(width: usize) -> usize {
    BLOCK.div_ceil(width) * width
}
