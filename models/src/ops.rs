//! The operations a low-rank LLaMA is made of, each a free function on tensors that model code calls.
//!
//! [`Backend`] extends Burn's trait of the same name by one method for every operation and for every backward pass.
//! The default bodies are the composed definitions (the `definition` and `backward` functions of the files under
//! `ops/`), written in Burn's own tensor operations; a device overrides what it can do faster. `Autodiff` overrides
//! the forward operations with nodes that call the inner backend's forward and backward, so that a backend never
//! sees the graph and a gradient that nobody asked for is never computed.
//!
//! Layers that read the same input (query, key and value; gate and up) are one operation, whose result holds theirs side
//! by side: they share the input's gradient, what is kept of it, and the pass over it. Where their input is a norm or an
//! activation, they are told what that is computed from ([`Input`]), and keep that.
//!
//! Shapes, here and in the files below: `n` rows (tokens), `i` inputs, `o` outputs, `r` rank, `d` hidden width,
//! `v` vocabulary, `b` batch, `t` length.

pub mod accumulate;
pub mod adamw;
pub mod attention;
mod autodiff;
pub mod cpu;
// The unit tests of this crate are a second build of it and need no GPU: compiling its kernels again would take minutes.
pub mod cross_entropy;
#[cfg(not(test))]
mod cube;
pub mod dropout;
pub mod embedding;
mod input;
pub mod linear;
pub mod low_rank_linear;
pub mod magnitudes;
pub mod residual;
pub mod rms_norm;
pub mod sum_of_squares;
pub mod swiglu;

pub use adamw::{AdamState, AdamStep};
pub use input::Input;

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor};

use crate::fault::DeviceFault;

/// A device that can run the operations of this module.
///
/// Model code is generic over this trait and calls the free functions beside it. `wanted` says for each
/// differentiable argument, in the order of the arguments, whether its gradient is needed; what is not needed is
/// returned as `None`.
pub trait Backend: burn::tensor::backend::Backend {
    /// The same tensor laid out as the kernels of the device want it. For what is kept from step to step.
    fn packed(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        x
    }

    /// Gives memory back that a pool of the device keeps for tensors of shapes that will not come again.
    fn release_unused(_device: &Self::Device) {}

    /// `x·Wᵀ` of each weight, side by side `[n, Σ o]`, for x `[n, i]` and weights `[o, i]`.
    fn linear(x: Input<Self>, weights: Vec<Tensor<Self, 2>>) -> Tensor<Self, 2> {
        linear::definition(x.value(), weights)
    }

    /// Gradients of [`Backend::linear`] for x and each weight.
    fn linear_backward(
        saved: linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<Self, 2>>> {
        linear::backward(saved, gradient, wanted)
    }

    /// `x·Wᵀ + s·(drop(x)·Aᵀ)·Bᵀ` of each layer, side by side `[n, Σ o]`.
    fn low_rank_linear(
        x: Input<Self>,
        layers: Vec<low_rank_linear::Layer<Self>>,
        scale: f32,
    ) -> Tensor<Self, 2> {
        low_rank_linear::definition(x.value(), &layers, scale)
    }

    /// Gradients of [`Backend::low_rank_linear`] for x, then A and B of each layer; W is frozen there.
    fn low_rank_linear_backward(
        saved: low_rank_linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<Self, 2>>> {
        low_rank_linear::backward(saved, gradient, wanted)
    }

    /// Causal attention with rotary positions `[b, t, d]` of query, key and value side by side `[b, t, 3d]`, and the
    /// log-sum-exp of the scaled scores `[b, heads, t]`.
    fn attention(
        query_key_value: Tensor<Self, 3>,
        heads: usize,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        attention::forward(query_key_value, heads)
    }

    /// Gradients of [`Backend::attention`] for query, key and value, side by side.
    fn attention_backward(
        saved: attention::Saved<Self>,
        gradient: Tensor<Self, 3>,
    ) -> Tensor<Self, 3> {
        attention::backward(saved, gradient)
    }

    /// Sum of `-log softmax(hidden·headᵀ)[target]` over the targets that are not negative `[1]`, and its gradients
    /// for the hidden states and the head.
    fn cross_entropy(
        hidden: Tensor<Self, 2>,
        head: Tensor<Self, 2>,
        targets: Tensor<Self, 1, Int>,
        wanted: [bool; 2],
    ) -> (Tensor<Self, 1>, [Option<Tensor<Self, 2>>; 2]) {
        cross_entropy::forward(hidden, head, targets, wanted)
    }

    /// A tensor times a scalar `[1]` that lives on the device.
    fn scale(tensor: Tensor<Self, 2>, factor: Tensor<Self, 1>) -> Tensor<Self, 2> {
        let dtype = tensor.dtype();
        tensor * factor.cast(dtype).reshape([1, 1])
    }

    /// `x / √(mean(x²) + 1e-6) · w` by rows, for x `[n, d]` and w `[1, d]`.
    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rms_norm::definition(x, weight)
    }

    /// Gradients of [`Backend::rms_norm`] for x and the weight.
    fn rms_norm_backward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        wanted: [bool; 2],
    ) -> [Option<Tensor<Self, 2>>; 2] {
        rms_norm::backward(x, weight, gradient, wanted)
    }

    /// `silu(gate)·up` `[n, i]` of gate and up side by side `[n, 2i]`.
    fn swiglu(gate_up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        swiglu::definition(gate_up)
    }

    /// Gradients of [`Backend::swiglu`] for gate and up, side by side.
    fn swiglu_backward(gate_up: Tensor<Self, 2>, gradient: Tensor<Self, 2>) -> Tensor<Self, 2> {
        swiglu::backward(gate_up, gradient)
    }

    /// `x + f`.
    fn residual(x: Tensor<Self, 2>, f: Tensor<Self, 2>) -> Tensor<Self, 2> {
        residual::definition(x, f)
    }

    /// Rows of the table `[v, d]` picked by tokens `[n]`.
    fn embedding(table: Tensor<Self, 2>, tokens: Arc<[u32]>) -> Tensor<Self, 2> {
        embedding::definition(table, &tokens)
    }

    /// Gradient of [`Backend::embedding`] for the table `[v, d]`: rows of the gradient summed by token.
    fn embedding_backward(
        tokens: Arc<[u32]>,
        gradient: Tensor<Self, 2>,
        vocabulary: usize,
    ) -> Tensor<Self, 2> {
        embedding::backward(&tokens, gradient, vocabulary)
    }

    /// Each sum with its addend, in the sum's type; a sum that is not there yet begins as the addend, in type `dtype`.
    fn accumulate(
        sums: Vec<Option<Tensor<Self, 2>>>,
        addends: Vec<Tensor<Self, 2>>,
        dtype: DType,
    ) -> Vec<Tensor<Self, 2>> {
        accumulate::definition(sums, addends, dtype)
    }

    /// The sum of the squares of each tensor's elements, in f32 `[count]`.
    fn sums_of_squares(tensors: Vec<Tensor<Self, 2>>) -> Tensor<Self, 1> {
        sum_of_squares::definition(tensors)
    }

    /// The magnitudes at two neighbouring places of their ascending order. Waits for the device.
    ///
    /// # Errors
    /// A fault of the device.
    fn magnitudes(x: Tensor<Self, 2>, ranks: [usize; 2]) -> Result<[f32; 2], DeviceFault> {
        magnitudes::definition(x, ranks)
    }

    /// One AdamW update of all parameters.
    fn adamw(
        states: Vec<AdamState<Self>>,
        gradients: Vec<Tensor<Self, 2>>,
        step: AdamStep,
    ) -> Vec<AdamState<Self>> {
        let pairs = states.into_iter().zip(gradients);
        pairs
            .map(|(state, gradient)| adamw::definition(state, gradient, &step))
            .collect()
    }
}

/// `x·Wᵀ` of one to three layers that read the same input: x `[n, i]`, weights `[o, i]`, result `[n, Σ o]`.
///
/// A weight that does not require a gradient costs none, and no activation is kept for it. Of an input that is told by what
/// it is computed from, that is kept ([`Input`]).
pub fn linear<B: Backend>(x: impl Into<Input<B>>, weights: Vec<Tensor<B, 2>>) -> Tensor<B, 2> {
    <B as Backend>::linear(x.into(), weights)
}

/// `x·Wᵀ + s·(drop(x)·Aᵀ)·Bᵀ` (ReLoRA, equation 1) of one to three layers that read the same input: x `[n, i]`, result
/// `[n, Σ o]`.
///
/// A layer without a weight is its low-rank term alone. A weight counts as frozen, whether or not it is in a graph: it gets
/// no gradient, and no activation is kept for one.
pub fn low_rank_linear<B: Backend>(
    x: impl Into<Input<B>>,
    layers: Vec<low_rank_linear::Layer<B>>,
    scale: f32,
) -> Tensor<B, 2> {
    B::low_rank_linear(x.into(), layers, scale)
}

/// Causal multi-head attention with rotary positions inside: query, key and value side by side `[b, t, 3d]`, result
/// `[b, t, d]`.
///
/// The head width `d / heads` must be even (positions rotate its halves against each other, base 10000). Scores are
/// scaled by `1/√(d / heads)`.
pub fn attention<B: Backend>(query_key_value: Tensor<B, 3>, heads: usize) -> Tensor<B, 3> {
    <B as Backend>::attention(query_key_value, heads).0
}

/// Output projection and loss in one: the *sum*, in nats, of `-log softmax(hidden·headᵀ)[target]` `[1]` over the
/// targets that are not negative. hidden `[n, d]`, head `[v, d]`, targets `[n]`.
///
/// The logits never exist as a whole.
pub fn cross_entropy<B: Backend>(
    hidden: Tensor<B, 2>,
    head: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
) -> Tensor<B, 1> {
    B::cross_entropy(hidden, head, targets, [false, false]).0
}

/// `x / √(mean(x²) + 1e-6) · w` by rows: x `[n, d]`, weight `[1, d]`.
pub fn rms_norm<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    B::rms_norm(x, weight)
}

/// `silu(gate)·up` with `silu(z) = z / (1 + e⁻ᶻ)`: gate and up side by side `[n, 2i]`, result `[n, i]`.
pub fn swiglu<B: Backend>(gate_up: Tensor<B, 2>) -> Tensor<B, 2> {
    B::swiglu(gate_up)
}

/// `x + f` `[n, d]`: what a part of a block adds to the hidden states. In place on the CPU.
pub fn residual<B: Backend>(x: Tensor<B, 2>, f: Tensor<B, 2>) -> Tensor<B, 2> {
    B::residual(x, f)
}

/// Rows of the table picked by tokens: table `[v, d]`, tokens `[n]` below v, result `[n, d]`.
pub fn embedding<B: Backend>(table: Tensor<B, 2>, tokens: impl Into<Arc<[u32]>>) -> Tensor<B, 2> {
    <B as Backend>::embedding(table, tokens.into())
}

/// Each sum with its addend, in the sum's type; a sum that is not there yet begins as the addend, in type `dtype`.
///
/// In place where the caller holds the only reference to the sums.
pub fn accumulate<B: Backend>(
    sums: Vec<Option<Tensor<B, 2>>>,
    addends: Vec<Tensor<B, 2>>,
    dtype: DType,
) -> Vec<Tensor<B, 2>> {
    B::accumulate(sums, addends, dtype)
}

/// Sum of the squares of each tensor's elements `[count]`, in f32 and in an order that does not depend on the number of
/// threads.
pub fn sums_of_squares<B: Backend>(tensors: Vec<Tensor<B, 2>>) -> Tensor<B, 1> {
    B::sums_of_squares(tensors)
}

/// One AdamW update of all parameters, with decoupled weight decay, in place where the caller holds the only reference to
/// the tensors. Gradients are in the order of the states.
pub fn adamw<B: Backend>(
    states: Vec<AdamState<B>>,
    gradients: Vec<Tensor<B, 2>>,
    step: AdamStep,
) -> Vec<AdamState<B>> {
    B::adamw(states, gradients, step)
}
