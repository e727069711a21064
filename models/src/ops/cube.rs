//! The operations on GPUs, as kernels in CubeCL: written once, compiled when first used for whatever runtime Burn's backend
//! has (CUDA in the product, Vulkan in tests). One instance of each kernel serves both types of elements, which it is told at
//! launch; all sums are in f32.
//!
//! No sum of floats depends on which unit comes first, so the same launch gives the same bits. The number of
//! launches does not grow with the batch.

mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod launching;
mod linear;
mod low_rank_linear;
mod magnitudes;
mod memory;
mod multi;
mod pack;
mod product;
mod reduce;
mod rms_norm;
mod swiglu;
mod tensor;

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};

use super::dropout::Mask;
use super::{AdamState, AdamStep, Backend, Input};
use crate::fault::DeviceFault;
use launching::together;
use tensor::{unwrap, wrap};

/// Layers that one launch takes together at most.
const MOST_LAYERS: usize = 3;

/// Whether layers can be computed together: as many as a launch takes, of one shape, with dropout of one share.
fn layers_of_one_shape<B: Backend>(layers: &[super::low_rank_linear::Layer<B>]) -> bool {
    let shape = |layer: &super::low_rank_linear::Layer<B>| {
        (
            layer.a.dims(),
            layer.b.dims(),
            layer.weight.is_some(),
            layer.mask.as_ref().map(Mask::dropped),
        )
    };
    layers.len() <= MOST_LAYERS && layers.iter().all(|layer| shape(layer) == shape(&layers[0]))
}

fn unwrapped<R, F, I, BT>(
    layers: Vec<super::low_rank_linear::Layer<CubeBackend<R, F, I, BT>>>,
    scale: f32,
) -> low_rank_linear::Layers<R>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    let mut all = low_rank_linear::Layers {
        weights: Vec::new(),
        a: Vec::new(),
        b: Vec::new(),
        masks: Vec::new(),
        scale,
    };
    for layer in layers {
        all.weights.extend(layer.weight.map(unwrap));
        all.a.push(unwrap(layer.a));
        all.b.push(unwrap(layer.b));
        all.masks
            .extend(layer.mask.as_ref().map(dropout::Key::from));
    }
    all
}

impl<R, F, I, BT> Backend for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    fn packed(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(unwrap(x))
    }

    fn release_unused(device: &Self::Device) {
        R::client(device).memory_cleanup();
    }

    fn linear(x: Input<Self>, weights: Vec<Tensor<Self, 2>>) -> Tensor<Self, 2> {
        let weights = weights.into_iter().map(unwrap).collect();
        let x = unwrap(x.value());
        wrap(together(|| linear::forward(x, weights)))
    }

    fn linear_backward(
        saved: super::linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<Self, 2>>> {
        let weights = saved.weights.into_iter().map(unwrap).collect();
        let (x, gradient) = (saved.x.map(unwrap), unwrap(gradient));
        let gradients = together(|| linear::backward(x, weights, gradient, wanted));
        gradients
            .into_iter()
            .map(|gradient| gradient.map(wrap))
            .collect()
    }

    fn low_rank_linear(
        x: Input<Self>,
        layers: Vec<super::low_rank_linear::Layer<Self>>,
        scale: f32,
    ) -> Tensor<Self, 2> {
        let x = x.value();
        if !layers_of_one_shape(&layers) {
            let each = layers.into_iter();
            let outputs =
                each.map(|layer| Self::low_rank_linear(x.clone().into(), vec![layer], scale));
            return Tensor::cat(outputs.collect(), 1);
        }
        let (x, layers) = (unwrap(x), unwrapped(layers, scale));
        wrap(together(|| low_rank_linear::forward(x, layers)))
    }

    fn low_rank_linear_backward(
        saved: super::low_rank_linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<Self, 2>>> {
        if !layers_of_one_shape(&saved.layers) {
            return super::low_rank_linear::backward(saved, gradient, wanted);
        }
        let layers = unwrapped(saved.layers, saved.scale);
        let (x, gradient) = (saved.x.map(unwrap), unwrap(gradient));
        let gradients = together(|| low_rank_linear::backward(x, layers, gradient, wanted));
        gradients
            .into_iter()
            .map(|gradient| gradient.map(wrap))
            .collect()
    }

    fn attention(
        query_key_value: Tensor<Self, 3>,
        heads: usize,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        let inner = unwrap(query_key_value);
        if !attention::supports(&inner, heads) {
            return super::attention::forward(wrap(inner), heads);
        }
        let (output, log_sum_exp) = together(|| attention::forward(inner, heads));
        (wrap(output), wrap(log_sum_exp))
    }

    fn attention_backward(
        saved: super::attention::Saved<Self>,
        gradient: Tensor<Self, 3>,
    ) -> Tensor<Self, 3> {
        let query_key_value = unwrap(saved.query_key_value.clone());
        if !attention::supports(&query_key_value, saved.heads) {
            return super::attention::backward(saved, gradient);
        }
        let (output, log_sum_exp) = (unwrap(saved.output), unwrap(saved.log_sum_exp));
        let (gradient, heads) = (unwrap(gradient), saved.heads);
        wrap(together(|| {
            attention::backward(query_key_value, output, log_sum_exp, gradient, heads)
        }))
    }

    fn cross_entropy(
        hidden: Tensor<Self, 2>,
        head: Tensor<Self, 2>,
        targets: Tensor<Self, 1, Int>,
        wanted: [bool; 2],
    ) -> (Tensor<Self, 1>, [Option<Tensor<Self, 2>>; 2]) {
        if hidden.dims()[0] == 0 {
            return super::cross_entropy::forward(hidden, head, targets, wanted);
        }
        let targets = targets.into_primitive();
        let (hidden, head) = (unwrap(hidden), unwrap(head));
        let (loss, gradients) = together(|| cross_entropy::forward(hidden, head, targets, wanted));
        (wrap(loss), gradients.map(|gradient| gradient.map(wrap)))
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (x, weight) = (unwrap(x), unwrap(weight));
        wrap(together(|| rms_norm::forward(x, weight)))
    }

    fn rms_norm_backward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        wanted: [bool; 2],
    ) -> [Option<Tensor<Self, 2>>; 2] {
        let (x, weight, gradient) = (unwrap(x), unwrap(weight), unwrap(gradient));
        let [d_x, d_weight] = together(|| rms_norm::backward(x, weight, gradient));
        [
            wanted[0].then(|| wrap(d_x)),
            wanted[1].then(|| wrap(d_weight)),
        ]
    }

    fn swiglu(gate_up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let gate_up = unwrap(gate_up);
        wrap(together(|| swiglu::forward(gate_up)))
    }

    fn swiglu_backward(gate_up: Tensor<Self, 2>, gradient: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (gate_up, gradient) = (unwrap(gate_up), unwrap(gradient));
        wrap(together(|| swiglu::backward(gate_up, gradient)))
    }

    fn embedding(table: Tensor<Self, 2>, tokens: Arc<[u32]>) -> Tensor<Self, 2> {
        Self::packed(super::embedding::definition(table, &tokens))
    }

    fn embedding_backward(
        tokens: Arc<[u32]>,
        gradient: Tensor<Self, 2>,
        vocabulary: usize,
    ) -> Tensor<Self, 2> {
        let gradient = unwrap(gradient);
        wrap(together(|| {
            embedding::backward(&tokens, gradient, vocabulary)
        }))
    }

    fn accumulate(
        sums: Vec<Option<Tensor<Self, 2>>>,
        addends: Vec<Tensor<Self, 2>>,
        dtype: DType,
    ) -> Vec<Tensor<Self, 2>> {
        let sums = sums.into_iter().map(|sum| sum.map(unwrap)).collect();
        let addends = addends.into_iter().map(unwrap).collect();
        let sums = together(|| multi::accumulate(sums, addends, dtype));
        sums.into_iter().map(wrap).collect()
    }

    fn sums_of_squares(tensors: Vec<Tensor<Self, 2>>) -> Tensor<Self, 1> {
        let tensors = tensors.into_iter().map(unwrap).collect();
        wrap(together(|| multi::sums_of_squares(tensors)))
    }

    fn magnitudes(x: Tensor<Self, 2>, ranks: [usize; 2]) -> Result<[f32; 2], DeviceFault> {
        magnitudes::at_ranks(&unwrap(x), ranks)
    }

    fn adamw(
        states: Vec<AdamState<Self>>,
        gradients: Vec<Tensor<Self, 2>>,
        step: AdamStep,
    ) -> Vec<AdamState<Self>> {
        let has_copies = states.iter().any(|state| state.copy.is_some());
        let mut parameters = multi::Parameters {
            full: Vec::with_capacity(states.len()),
            copies: Vec::new(),
            first: Vec::with_capacity(states.len()),
            second: Vec::with_capacity(states.len()),
        };
        for state in states {
            parameters.full.push(unwrap(state.full));
            parameters.copies.extend(state.copy.map(unwrap));
            parameters.first.push(unwrap(state.first));
            parameters.second.push(unwrap(state.second));
        }
        let gradients = gradients.into_iter().map(unwrap).collect();
        let parameters = together(|| multi::adamw(parameters, gradients, &step));
        let mut copies = parameters.copies.into_iter();
        let moments = parameters.first.into_iter().zip(parameters.second);
        parameters
            .full
            .into_iter()
            .zip(moments)
            .map(|(full, (first, second))| AdamState {
                full: wrap(full),
                copy: copies.next().filter(|_| has_copies).map(wrap),
                first: wrap(first),
                second: wrap(second),
            })
            .collect()
    }
}
