//! `Σ x²` over all elements of each of many tensors, for the global gradient norm.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// The sum of each tensor in f32 `[count]`, composed.
pub fn definition<B: Backend>(tensors: Vec<Tensor<B, 2>>) -> Tensor<B, 1> {
    let sums = tensors
        .into_iter()
        .map(|x| x.cast(DType::F32).square().sum());
    Tensor::cat(sums.collect(), 0)
}
