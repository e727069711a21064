//! AdamW (Loshchilov & Hutter 2019), as PyTorch's `torch.optim.AdamW` computes it.
//!
//! With `g' = c·g` (c: the clip factor), `m ← β₁m + (1-β₁)g'`, `v ← β₂v + (1-β₂)g'²`,
//! `w ← (1-ηλ)·w - η/(1-β₁ᵏ) · m / (√v/√(1-β₂ᵏ) + ε)`.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// The numbers of one AdamW update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// η of this step.
    pub learning_rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε, added outside the root.
    pub epsilon: f64,
    /// λ, decoupled from the gradient.
    pub weight_decay: f64,
    /// Number of this update since the moments were zero, counted from 1; the exponent of the bias corrections.
    pub k: u64,
    /// Factor on the gradient: the clip factor, 1 where nothing is clipped.
    pub gradient_scale: f64,
}

impl AdamStep {
    /// `1 - ηλ`.
    pub(super) fn decay(&self) -> f64 {
        1.0 - self.learning_rate * self.weight_decay
    }

    /// `η / (1 - β₁ᵏ)`.
    pub(super) fn step_size(&self) -> f64 {
        self.learning_rate / (1.0 - self.power(self.beta1))
    }

    /// `1 / √(1 - β₂ᵏ)`.
    pub(super) fn inverse_second_correction(&self) -> f64 {
        (1.0 - self.power(self.beta2)).sqrt().recip()
    }

    fn power(&self, beta: f64) -> f64 {
        libm::pow(beta, self.k as f64)
    }
}

/// What AdamW changes of one parameter.
#[derive(Clone, Debug)]
pub struct AdamState<B: Backend> {
    /// The value that the update works on.
    pub full: Tensor<B, 2>,
    /// The value in the type that the network computes in, where that is another one.
    pub copy: Option<Tensor<B, 2>>,
    /// First moment m.
    pub first: Tensor<B, 2>,
    /// Second moment v.
    pub second: Tensor<B, 2>,
}

/// The state of one parameter after an update, composed.
pub fn definition<B: Backend>(
    state: AdamState<B>,
    gradient: Tensor<B, 2>,
    step: &AdamStep,
) -> AdamState<B> {
    let AdamState {
        full,
        copy,
        first,
        second,
    } = state;
    let gradient = gradient.cast(first.dtype()) * step.gradient_scale;
    let second = second * step.beta2 + gradient.clone().square() * (1.0 - step.beta2);
    let first = first * step.beta1 + gradient * (1.0 - step.beta1);
    let root = second.clone().sqrt() * step.inverse_second_correction() + step.epsilon;
    let change = (first.clone() / root * step.step_size()).cast(full.dtype());
    let full = full * step.decay() - change;
    AdamState {
        copy: copy.map(|copy| full.clone().cast(copy.dtype())),
        full,
        first,
        second,
    }
}
