//! AdamW over all trainable parameters, with clipping by the global norm and a guard against what is not finite.

use burn::tensor::Tensor;

use crate::fault::DeviceFault;
use crate::ops;
use crate::parameter::{Parameter, to_host};

/// The constants of AdamW. Weight decay is decoupled and reaches every trainable parameter, norms, embeddings,
/// factors and scalars included, as in the official code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// `p ← (1 - learning rate · weight decay) p` before the step.
    pub weight_decay: f64,
}

/// One update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Number of this update, from 0.
    pub step: u64,
    /// The rate of this update.
    pub learning_rate: f64,
    /// Largest global norm of the gradient; a larger gradient is scaled down to it. `None`: never.
    pub grad_clip: Option<f64>,
}

/// What an update was, known once the device has done it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Number of the update, from 0.
    pub step: u64,
    /// Sum over its micro-batches of weight times sum of losses, before the update.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
}

impl Reading {
    /// Whether loss and gradient are numbers. Where they are not, neither this update nor any after it was applied.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// `√Σ‖g‖²` over all gradients: within a tensor as the device sums, over tensors in f64 and in the network's order.
/// Waits for the device.
pub(crate) fn global_norm<B: ops::Backend>(gradients: &[Tensor<B, 2>]) -> Result<f64, DeviceFault> {
    if gradients.is_empty() {
        return Ok(0.0);
    }
    let sums: Vec<f32> = to_host(ops::sums_of_squares(gradients.to_vec()))?;
    Ok(sums.into_iter().map(f64::from).sum::<f64>().sqrt())
}

/// `min(1, clip / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` scales; 1 without a clip.
pub(crate) fn clip_factor(norm: f64, clip: Option<f64>) -> f64 {
    clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0))
}

/// One AdamW step of all trainable parameters, in place where nothing else holds their tensors. Gradients are in the order of
/// the parameters.
pub(crate) fn adamw<B: ops::Backend>(
    parameters: Vec<&mut Parameter<B>>,
    gradients: Vec<Tensor<B, 2>>,
    step: ops::AdamStep,
) {
    let mut parameters = parameters;
    let states = parameters
        .iter_mut()
        .filter_map(|parameter| parameter.take_state())
        .collect();
    let states = ops::adamw(states, gradients, step);
    for (parameter, state) in parameters.into_iter().zip(states) {
        parameter.set_state(state);
    }
}

#[cfg(test)]
mod tests {
    use super::clip_factor;

    #[test]
    fn clipping_scales_large_gradients_only() {
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert_eq!(clip_factor(4.0, Some(1.0)), 1.0 / (4.0 + 1e-6));
        assert_eq!(clip_factor(4.0, None), 1.0);
    }
}
