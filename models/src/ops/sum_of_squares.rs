//! `Σ x²` over all elements, for the global gradient norm.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// The sum in f32 `[1]`, composed.
pub fn definition<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 1> {
    x.cast(DType::F32).square().sum()
}
