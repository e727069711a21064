//! `y = silu(z)·u` with `silu(z) = z·σ(z)`, of z and u side by side.
//!
//! `dz = g·u·σ(z)·(1 + z·(1 - σ(z)))`, `du = g·silu(z)`.

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::backend::Backend;

/// `silu(gate)·up` `[n, i]` of gate and up side by side `[n, 2i]`, composed.
pub fn definition<B: Backend>(gate_up: Tensor<B, 2>) -> Tensor<B, 2> {
    let [gate, up] = halves(gate_up);
    silu(gate) * up
}

/// Gradients for gate and up, side by side, composed.
pub fn backward<B: Backend>(gate_up: Tensor<B, 2>, gradient: Tensor<B, 2>) -> Tensor<B, 2> {
    let [gate, up] = halves(gate_up);
    let sigma = sigmoid(gate.clone());
    let d_up = gradient.clone() * gate.clone() * sigma.clone();
    let slope = (gate * (sigma.clone().neg() + 1.0) + 1.0) * sigma;
    Tensor::cat(vec![gradient * up * slope, d_up], 1)
}

fn halves<B: Backend>(gate_up: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
    let width = gate_up.dims()[1] / 2;
    [
        gate_up.clone().narrow(1, 0, width),
        gate_up.narrow(1, width, width),
    ]
}
