//! AdamW on the CPU: one pass over the four tensors, in place.

use rayon::prelude::*;

use super::vector::{vectorised, worth_threads};
use crate::ops::AdamStep;

/// Elements a thread takes at a time.
const BLOCK: usize = 1 << 13;

/// The same elements of value, gradient, first and second moment.
type Block<'a> = (((&'a mut [f32], &'a [f32]), &'a mut [f32]), &'a mut [f32]);

/// One update of value and moments.
pub fn update(
    value: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    step: &AdamStep,
) {
    let scale = step.gradient_scale as f32;
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (fresh1, fresh2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let decay = step.decay() as f32;
    let step_size = step.step_size() as f32;
    let correction = step.inverse_second_correction() as f32;
    let epsilon = step.epsilon as f32;
    let block = |(((value, gradient), first), second): Block<'_>| {
        vectorised(
            #[inline(always)]
            || {
                let moments = first.iter_mut().zip(second.iter_mut());
                for ((w, &g), (m, v)) in value.iter_mut().zip(gradient).zip(moments) {
                    let g = g * scale;
                    *m = *m * beta1 + g * fresh1;
                    *v = *v * beta2 + g * g * fresh2;
                    *w = *w * decay - step_size * (*m / (v.sqrt() * correction + epsilon));
                }
            },
        );
    };
    if worth_threads(value.len()) {
        value
            .par_chunks_mut(BLOCK)
            .zip(gradient.par_chunks(BLOCK))
            .zip(first.par_chunks_mut(BLOCK))
            .zip(second.par_chunks_mut(BLOCK))
            .for_each(block);
    } else {
        block((((value, gradient), first), second));
    }
}
