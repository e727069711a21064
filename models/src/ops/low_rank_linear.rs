//! `y = x·Wᵀ + s·p·Bᵀ` with `p = x·Aᵀ` (ReLoRA, equation 1; W frozen).
//!
//! With `q = s·g·B`: `dx = g·W + q·A`, `dA = qᵀ·x`, `dB = s·gᵀ·p`.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What the backward pass needs of the forward pass; `None` where no wanted gradient asks for it.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// Input `[n, i]`, for dA.
    pub x: Option<Tensor<B, 2>>,
    /// Frozen weight `[o, i]`, for dx; `None` also where the layer has none.
    pub weight: Option<Tensor<B, 2>>,
    /// Factor A `[r, i]`, for dx.
    pub a: Option<Tensor<B, 2>>,
    /// Factor B `[o, r]`, for dx and dA.
    pub b: Option<Tensor<B, 2>>,
    /// `x·Aᵀ` `[n, r]`, for dB.
    pub projected: Option<Tensor<B, 2>>,
    /// s.
    pub scale: f32,
}

impl<B: Backend> Saved<B> {
    /// Drops what the wanted gradients (for x, A, B) do not need.
    pub fn keep(self, wanted: [bool; 3]) -> Self {
        let [x, a, b] = wanted;
        Self {
            x: self.x.filter(|_| a),
            weight: self.weight.filter(|_| x),
            a: self.a.filter(|_| x),
            b: self.b.filter(|_| x || a),
            projected: self.projected.filter(|_| b),
            scale: self.scale,
        }
    }
}

/// The output `[n, o]` and `x·Aᵀ` `[n, r]`, composed.
pub fn definition<B: Backend>(
    x: Tensor<B, 2>,
    weight: Option<Tensor<B, 2>>,
    a: Tensor<B, 2>,
    b: Tensor<B, 2>,
    scale: f32,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let projected = x.clone().matmul(a.transpose());
    let low_rank = projected.clone().matmul(b.transpose()) * scale;
    let output = match weight {
        Some(weight) => x.matmul(weight.transpose()) + low_rank,
        None => low_rank,
    };
    (output, projected)
}

/// Gradients for x `[n, i]`, A `[r, i]` and B `[o, r]`, composed.
pub fn backward<B: Backend>(
    saved: Saved<B>,
    gradient: Tensor<B, 2>,
    wanted: [bool; 3],
) -> [Option<Tensor<B, 2>>; 3] {
    let Saved {
        x,
        weight,
        a,
        b,
        projected,
        scale,
    } = saved;
    let through_b = b
        .filter(|_| wanted[0] || wanted[1])
        .map(|b| gradient.clone().matmul(b) * scale);
    let d_b = projected
        .filter(|_| wanted[2])
        .map(|projected| gradient.clone().transpose().matmul(projected) * scale);
    let d_a = through_b
        .clone()
        .zip(x)
        .filter(|_| wanted[1])
        .map(|(through_b, x)| through_b.transpose().matmul(x));
    let d_x = through_b
        .zip(a)
        .filter(|_| wanted[0])
        .map(|(through_b, a)| {
            let low_rank = through_b.matmul(a);
            match weight {
                Some(weight) => gradient.matmul(weight) + low_rank,
                None => low_rank,
            }
        });
    [d_x, d_a, d_b]
}
