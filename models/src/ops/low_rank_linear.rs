//! `y_l = x·W_lᵀ + s·p_l·B_lᵀ` with `p_l = drop_l(x)·A_lᵀ` (ReLoRA, equation 1) of layers that read the same input.
//!
//! With `q_l = s·g_l·B_l`: `dA_l = q_lᵀ·drop_l(x)`, `dB_l = s·g_lᵀ·p_l`, `dx = Σ_l g_l·W_l + drop_l(q_l·A_l)`. W counts as
//! frozen: it has no gradient here. `drop` is the identity where a layer has no mask. `p` is not kept from the forward pass: with
//! it, low-rank training of a small network would need more memory than full-rank training does.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::dropout::Mask;

/// One layer, with tensors that may be in a graph or not.
#[derive(Clone, Debug)]
pub struct Layer<B: Backend> {
    /// Frozen weight W `[o, i]`; a layer without one is its low-rank term alone.
    pub weight: Option<Tensor<B, 2>>,
    /// Factor A `[r, i]`.
    pub a: Tensor<B, 2>,
    /// Factor B `[o, r]`.
    pub b: Tensor<B, 2>,
    /// What A sees of the input; all of it without one.
    pub mask: Option<Mask>,
}

impl<B: Backend> Layer<B> {
    /// o.
    pub(super) fn outputs(&self) -> usize {
        self.b.dims()[0]
    }

    /// The tensors that it has.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor<B, 2>> {
        self.weight.iter().chain([&self.a, &self.b])
    }
}

/// What the backward pass needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// Input `[n, i]`, for dA and dB; `None` where neither is wanted of any layer.
    pub x: Option<Tensor<B, 2>>,
    /// The layers, outside of any graph.
    pub layers: Vec<Layer<B>>,
    /// s.
    pub scale: f32,
}

fn times<B: Backend>(x: &Tensor<B, 2>, mask: &Option<Tensor<B, 2>>) -> Tensor<B, 2> {
    match mask {
        Some(mask) => x.clone() * mask.clone(),
        None => x.clone(),
    }
}

/// The outputs side by side `[n, Σ o]`, composed.
pub fn definition<B: Backend>(x: Tensor<B, 2>, layers: &[Layer<B>], scale: f32) -> Tensor<B, 2> {
    let output = |layer: &Layer<B>| {
        let dropped = times(&x, &layer.mask.as_ref().map(|mask| mask.multipliers(&x)));
        let projected = dropped.matmul(layer.a.clone().transpose());
        let low_rank = projected.matmul(layer.b.clone().transpose()) * scale;
        match &layer.weight {
            Some(weight) => x.clone().matmul(weight.clone().transpose()) + low_rank,
            None => low_rank,
        }
    };
    Tensor::cat(layers.iter().map(output).collect(), 1)
}

/// Gradients for x `[n, i]`, then of each layer for A `[r, i]` and B `[o, r]`, composed; `wanted` in the same order.
pub fn backward<B: Backend>(
    saved: Saved<B>,
    gradient: Tensor<B, 2>,
    wanted: &[bool],
) -> Vec<Option<Tensor<B, 2>>> {
    let Saved { x, layers, scale } = saved;
    let mut d_x: Option<Tensor<B, 2>> = None;
    let mut d_factors = Vec::with_capacity(2 * layers.len());
    let mut start = 0;
    for (layer, wanted_factors) in layers.iter().zip(wanted[1..].chunks(2)) {
        let gradient = gradient.clone().narrow(1, start, layer.outputs());
        start += layer.outputs();
        let mask = layer.mask.as_ref().map(|mask| mask.multipliers(&gradient));
        let dropped = |wanted: bool| {
            let x = x.as_ref().filter(|_| wanted);
            x.map(|x| times(x, &mask))
        };
        let through_b = gradient.clone().matmul(layer.b.clone()) * scale;
        d_factors.push(dropped(wanted_factors[0]).map(|x| through_b.clone().transpose().matmul(x)));
        d_factors.push(dropped(wanted_factors[1]).map(|x| {
            let projected = x.matmul(layer.a.clone().transpose());
            gradient.clone().transpose().matmul(projected) * scale
        }));
        if wanted[0] {
            let low_rank = times(&through_b.matmul(layer.a.clone()), &mask);
            let own = match &layer.weight {
                Some(weight) => gradient.matmul(weight.clone()) + low_rank,
                None => low_rank,
            };
            d_x = Some(match d_x {
                Some(sum) => sum + own,
                None => own,
            });
        }
    }
    std::iter::once(d_x).chain(d_factors).collect()
}
