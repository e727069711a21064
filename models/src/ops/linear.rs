//! `y = x·Wᵀ`, with `dx = g·W` and `dW = gᵀ·x`.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// `x·Wᵀ` for x `[n, i]` and W `[o, i]`, composed.
pub fn definition<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    x.matmul(weight.transpose())
}

/// `g·W` `[n, i]`, composed.
pub fn input_gradient<B: Backend>(gradient: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    gradient.matmul(weight)
}

/// `gᵀ·x` `[o, i]`, composed.
pub fn weight_gradient<B: Backend>(gradient: Tensor<B, 2>, x: Tensor<B, 2>) -> Tensor<B, 2> {
    gradient.transpose().matmul(x)
}
