//! `y_l = x·W_lᵀ` of layers that read the same input, with `dx = Σ_l g_l·W_l` and `dW_l = g_lᵀ·x`.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What the backward pass needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// Input `[n, i]`, for the gradients of the weights; `None` where all are frozen.
    pub x: Option<Tensor<B, 2>>,
    /// Weights `[o, i]`.
    pub weights: Vec<Tensor<B, 2>>,
}

/// `x·Wᵀ` of each weight, side by side, composed.
pub fn definition<B: Backend>(x: Tensor<B, 2>, weights: Vec<Tensor<B, 2>>) -> Tensor<B, 2> {
    let outputs = weights.into_iter();
    Tensor::cat(
        outputs
            .map(|weight| x.clone().matmul(weight.transpose()))
            .collect(),
        1,
    )
}

/// Gradients for x `[n, i]` and each weight `[o, i]`, composed.
pub fn backward<B: Backend>(
    saved: Saved<B>,
    gradient: Tensor<B, 2>,
    wanted: &[bool],
) -> Vec<Option<Tensor<B, 2>>> {
    let Saved { x, weights } = saved;
    let mut d_x: Option<Tensor<B, 2>> = None;
    let mut d_weights = Vec::with_capacity(weights.len());
    let mut start = 0;
    for (weight, wanted_weight) in weights.into_iter().zip(&wanted[1..]) {
        let [outputs, _] = weight.dims();
        let gradient = gradient.clone().narrow(1, start, outputs);
        start += outputs;
        d_weights.push(
            x.clone()
                .filter(|_| *wanted_weight)
                .map(|x| gradient.clone().transpose().matmul(x)),
        );
        if wanted[0] {
            let own = gradient.matmul(weight);
            d_x = Some(match d_x {
                Some(sum) => sum + own,
                None => own,
            });
        }
    }
    std::iter::once(d_x).chain(d_weights).collect()
}
