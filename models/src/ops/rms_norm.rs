//! `y = x·r·w` with `r = 1/√(mean(x²) + ε)` by rows (Zhang & Sennrich 2019), the statistics in f32.
//!
//! With `h = g·w`: `dx = r·(h - x·r²·mean(h·x))`, `dw = Σ_rows g·x·r`.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// ε, inside the root, as in the official code (`modeling_llama.py`, Guitaricet/relora@176f376).
pub const EPSILON: f32 = 1e-6;

/// Parts in which GPUs add up the weight's gradient, for that many rows.
pub(crate) fn gpu_parts(rows: usize) -> usize {
    rows.clamp(1, 512)
}

/// The normalised rows times the weight, composed.
pub fn definition<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let r = inverse_root(x.clone());
    (x * r).cast(dtype) * weight
}

/// Gradients for x and the weight, composed.
pub fn backward<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    gradient: Tensor<B, 2>,
    wanted: [bool; 2],
) -> [Option<Tensor<B, 2>>; 2] {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let gradient = gradient.cast(DType::F32);
    let r = inverse_root(x.clone());
    let d_weight = wanted[1].then(|| {
        (gradient.clone() * x.clone() * r.clone())
            .sum_dim(0)
            .cast(weight.dtype())
    });
    let d_x = wanted[0].then(|| {
        let h = gradient * weight.cast(DType::F32);
        let mean = (h.clone() * x.clone()).mean_dim(1);
        ((h - x * (r.clone().square() * mean)) * r).cast(dtype)
    });
    [d_x, d_weight]
}

fn inverse_root<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    (x.square().mean_dim(1) + EPSILON).sqrt().recip()
}
