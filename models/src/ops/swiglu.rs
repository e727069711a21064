//! `y = silu(z)·u` with `silu(z) = z·σ(z)`.
//!
//! `dz = g·u·σ(z)·(1 + z·(1 - σ(z)))`, `du = g·silu(z)`.

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::backend::Backend;

/// `silu(gate)·up`, composed.
pub fn definition<B: Backend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    silu(gate) * up
}

/// Gradients for gate and up, composed.
pub fn backward<B: Backend>(
    gate: Tensor<B, 2>,
    up: Tensor<B, 2>,
    gradient: Tensor<B, 2>,
    wanted: [bool; 2],
) -> [Option<Tensor<B, 2>>; 2] {
    let sigma = sigmoid(gate.clone());
    let d_up = wanted[1].then(|| gradient.clone() * gate.clone() * sigma.clone());
    let d_gate = wanted[0].then(|| {
        let slope = (gate * (sigma.clone().neg() + 1.0) + 1.0) * sigma;
        gradient * up * slope
    });
    [d_gate, d_up]
}
