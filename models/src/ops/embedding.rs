//! `y[j] = E[token[j]]`, with `dE[u] = Σ_{j: token[j] = u} g[j]`.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

/// Rows of the table, composed.
pub fn definition<B: Backend>(table: Tensor<B, 2>, tokens: Tensor<B, 1, Int>) -> Tensor<B, 2> {
    table.select(0, tokens)
}

/// Gradient for the table, composed.
///
/// Summed in f32: in bf16 the sum of a frequent token would stall after some 256 equal terms.
pub fn backward<B: Backend>(
    tokens: Tensor<B, 1, Int>,
    gradient: Tensor<B, 2>,
    vocabulary: usize,
) -> Tensor<B, 2> {
    let dtype = gradient.dtype();
    let [_, width] = gradient.dims();
    Tensor::zeros([vocabulary, width], (&gradient.device(), DType::F32))
        .select_assign(0, tokens, gradient.cast(DType::F32), IndexingUpdateOp::Add)
        .cast(dtype)
}
