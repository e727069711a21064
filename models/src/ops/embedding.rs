//! `y[j] = E[token[j]]`, with `dE[u] = Σ_{j: token[j] = u} g[j]`.
//!
//! Tokens are the processor's, which made the batch: each kind of device wants them in another order and place.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

/// Rows of the table, composed.
pub fn definition<B: Backend>(table: Tensor<B, 2>, tokens: &[u32]) -> Tensor<B, 2> {
    let indices = indices(tokens, &table.device());
    table.select(0, indices)
}

/// Gradient for the table, composed.
///
/// Summed in f32: in bf16 the sum of a frequent token would stall after some 256 equal terms.
pub fn backward<B: Backend>(
    tokens: &[u32],
    gradient: Tensor<B, 2>,
    vocabulary: usize,
) -> Tensor<B, 2> {
    let dtype = gradient.dtype();
    let [_, width] = gradient.dims();
    let indices = indices(tokens, &gradient.device());
    Tensor::zeros([vocabulary, width], (&gradient.device(), DType::F32))
        .select_assign(0, indices, gradient.cast(DType::F32), IndexingUpdateOp::Add)
        .cast(dtype)
}

fn indices<B: Backend>(tokens: &[u32], device: &B::Device) -> Tensor<B, 1, Int> {
    let indices: Vec<i32> = tokens.iter().map(|token| token.cast_signed()).collect();
    Tensor::from_data(TensorData::new(indices, [tokens.len()]), device)
}
