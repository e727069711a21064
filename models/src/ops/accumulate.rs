//! `sum ← sum + g` for the gradients of all parameters, in the sum's type.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// Each sum with its addend, composed. A sum that is not there yet begins as the addend, in type `dtype`.
pub fn definition<B: Backend>(
    sums: Vec<Option<Tensor<B, 2>>>,
    addends: Vec<Tensor<B, 2>>,
    dtype: DType,
) -> Vec<Tensor<B, 2>> {
    let pairs = sums.into_iter().zip(addends);
    let sum = |(sum, addend): (Option<Tensor<B, 2>>, Tensor<B, 2>)| {
        let addend = addend.cast(dtype);
        match sum {
            Some(sum) => sum.add(addend),
            None => addend,
        }
    };
    pairs.map(sum).collect()
}
