//! SwiGLU on the CPU: elementwise, in blocks that threads share.

use rayon::prelude::*;

use super::vector::{sigmoid, vectorised, worth_threads};

/// Elements a thread takes at a time.
const BLOCK: usize = 1 << 13;

/// `output = silu(gate)·up`.
pub fn forward(gate: &[f32], up: &[f32], output: &mut [f32]) {
    let block = |((gate, up), output): ((&[f32], &[f32]), &mut [f32])| {
        vectorised(
            #[inline(always)]
            || {
                for ((output, &z), &u) in output.iter_mut().zip(gate).zip(up) {
                    *output = z * sigmoid(z) * u;
                }
            },
        );
    };
    if worth_threads(output.len()) {
        gate.par_chunks(BLOCK)
            .zip(up.par_chunks(BLOCK))
            .zip(output.par_chunks_mut(BLOCK))
            .for_each(block);
    } else {
        block(((gate, up), output));
    }
}

/// Replaces gate and up by their gradients.
pub fn backward(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    let block = |((gate, up), gradient): ((&mut [f32], &mut [f32]), &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                for ((gate, up), &g) in gate.iter_mut().zip(up.iter_mut()).zip(gradient) {
                    let (z, u) = (*gate, *up);
                    let sigma = sigmoid(z);
                    *gate = g * u * (sigma * (1.0 + z * (1.0 - sigma)));
                    *up = g * (z * sigma);
                }
            },
        );
    };
    if worth_threads(gradient.len()) {
        gate.par_chunks_mut(BLOCK)
            .zip(up.par_chunks_mut(BLOCK))
            .zip(gradient.par_chunks(BLOCK))
            .for_each(block);
    } else {
        block(((gate, up), gradient));
    }
}
