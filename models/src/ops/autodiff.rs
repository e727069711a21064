//! The operations as nodes of the autodiff graph.
//!
//! Each node keeps exactly the tensors that the gradients of its tracked arguments need, calls the inner backend's
//! backward function, and registers what it gets. An argument that is not tracked (a frozen weight) costs no gradient
//! and no memory.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorPrimitive};

use super::{Backend, attention, low_rank_linear};

/// What a node keeps from the forward pass, and how gradients come out of it.
trait Saved<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// Gradients of the N parents from the gradient of the output; only the wanted ones are computed.
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; N]) -> [Option<FloatTensor<B>>; N];
}

/// The backward step of any operation with N differentiable arguments.
#[derive(Debug)]
struct Node<S>(PhantomData<S>);

impl<B: Backend, S: Saved<B, N>, const N: usize> Backward<B, N> for Node<S> {
    type State = S;

    fn backward(self, ops: Ops<S, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = ops.state.gradients(gradient, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// Puts an output into the graph behind its parents; `saved` is asked for only where a gradient can flow.
fn node<B, C, S, const N: usize, const D: usize>(
    parents: [&FloatTensor<Autodiff<B, C>>; N],
    output: FloatTensor<B>,
    saved: impl FnOnce() -> S,
) -> Tensor<Autodiff<B, C>, D>
where
    B: Backend,
    C: CheckpointStrategy,
    S: Saved<B, N>,
{
    let nodes = parents.map(|parent| parent.node.clone());
    let output = match Node(PhantomData::<S>)
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prepared) => prepared.finish(saved(), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    wrap(output)
}

fn wrap<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn unwrap<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// A tensor that takes no part in the graph.
fn constant<B: Backend, C: CheckpointStrategy, const D: usize>(
    tensor: Tensor<B, D>,
) -> Tensor<Autodiff<B, C>, D> {
    Tensor::from_inner(tensor)
}

fn inner<B: Backend, C: CheckpointStrategy>(
    tokens: Tensor<Autodiff<B, C>, 1, Int>,
) -> Tensor<B, 1, Int> {
    tokens.inner()
}

/// The inner tensor of an argument, which shares its storage.
fn plain<B: Backend, C: CheckpointStrategy, const D: usize>(
    tensor: &FloatTensor<Autodiff<B, C>>,
) -> Tensor<B, D> {
    wrap(tensor.primitive.clone())
}

#[derive(Clone, Debug)]
struct Linear<B: Backend> {
    x: Option<Tensor<B, 2>>,
    weight: Option<Tensor<B, 2>>,
}

impl<B: Backend> Saved<B, 2> for Linear<B> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 2]) -> [Option<FloatTensor<B>>; 2] {
        let gradient: Tensor<B, 2> = wrap(gradient);
        let d_weight = self
            .x
            .filter(|_| wanted[1])
            .map(|x| B::linear_weight_gradient(gradient.clone(), x));
        let d_x = self
            .weight
            .filter(|_| wanted[0])
            .map(|weight| B::linear_input_gradient(gradient, weight));
        [d_x, d_weight].map(|tensor| tensor.map(unwrap))
    }
}

impl<B: Backend> Saved<B, 3> for low_rank_linear::Saved<B> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        B::low_rank_linear_backward(self, wrap(gradient), wanted).map(|tensor| tensor.map(unwrap))
    }
}

impl<B: Backend> Saved<B, 3> for attention::Saved<B> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        B::attention_backward(self, wrap(gradient), wanted).map(|tensor| tensor.map(unwrap))
    }
}

/// The gradients for a loss gradient of one, already computed.
#[derive(Clone, Debug)]
struct CrossEntropy<B: Backend>([Option<Tensor<B, 2>>; 2]);

impl<B: Backend> Saved<B, 2> for CrossEntropy<B> {
    fn gradients(
        self,
        gradient: FloatTensor<B>,
        _wanted: [bool; 2],
    ) -> [Option<FloatTensor<B>>; 2] {
        let factor: Tensor<B, 1> = wrap(gradient);
        self.0
            .map(|tensor| tensor.map(|tensor| unwrap(B::scale(tensor, factor.clone()))))
    }
}

#[derive(Clone, Debug)]
struct RmsNorm<B: Backend> {
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
}

impl<B: Backend> Saved<B, 2> for RmsNorm<B> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 2]) -> [Option<FloatTensor<B>>; 2] {
        B::rms_norm_backward(self.x, self.weight, wrap(gradient), wanted)
            .map(|tensor| tensor.map(unwrap))
    }
}

#[derive(Clone, Debug)]
struct Swiglu<B: Backend> {
    gate: Tensor<B, 2>,
    up: Tensor<B, 2>,
}

impl<B: Backend> Saved<B, 2> for Swiglu<B> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 2]) -> [Option<FloatTensor<B>>; 2] {
        B::swiglu_backward(self.gate, self.up, wrap(gradient), wanted)
            .map(|tensor| tensor.map(unwrap))
    }
}

#[derive(Clone, Debug)]
struct Embedding<B: Backend> {
    tokens: Tensor<B, 1, Int>,
    vocabulary: usize,
}

impl<B: Backend> Saved<B, 1> for Embedding<B> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [wanted[0].then(|| {
            unwrap(<B as Backend>::embedding_backward(
                self.tokens,
                wrap(gradient),
                self.vocabulary,
            ))
        })]
    }
}

impl<B: Backend, C: CheckpointStrategy> Backend for Autodiff<B, C> {
    fn linear(x: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (x, weight) = (unwrap(x), unwrap(weight));
        let output = <B as Backend>::linear(plain::<B, C, 2>(&x), plain::<B, C, 2>(&weight));
        node([&x, &weight], unwrap(output), || Linear {
            x: weight.is_tracked().then(|| plain::<B, C, 2>(&x)),
            weight: x.is_tracked().then(|| plain::<B, C, 2>(&weight)),
        })
    }

    fn low_rank_linear(
        x: Tensor<Self, 2>,
        weight: Option<Tensor<Self, 2>>,
        a: Tensor<Self, 2>,
        b: Tensor<Self, 2>,
        scale: f32,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        let weight = weight.map(unwrap);
        if let Some(weight) = weight.as_ref().filter(|weight| weight.is_tracked()) {
            // Only a frozen weight is fused; a trained one is the sum of two operations.
            let (low_rank, projected) = Self::low_rank_linear(x.clone(), None, a, b, scale);
            return (
                <Self as Backend>::linear(x, wrap(weight.clone())) + low_rank,
                projected,
            );
        }
        let weight = weight.as_ref().map(plain::<B, C, 2>);
        let (x, a, b) = (unwrap(x), unwrap(a), unwrap(b));
        let saved = low_rank_linear::Saved {
            x: Some(plain::<B, C, 2>(&x)),
            weight,
            a: Some(plain::<B, C, 2>(&a)),
            b: Some(plain::<B, C, 2>(&b)),
            projected: None,
            scale,
        };
        let (output, projected) = B::low_rank_linear(
            plain::<B, C, 2>(&x),
            saved.weight.clone(),
            plain::<B, C, 2>(&a),
            plain::<B, C, 2>(&b),
            scale,
        );
        let tracked = [&x, &a, &b].map(|tensor| tensor.is_tracked());
        let output = node([&x, &a, &b], unwrap(output), || {
            low_rank_linear::Saved {
                projected: Some(projected.clone()),
                ..saved
            }
            .keep(tracked)
        });
        (output, constant(projected))
    }

    fn attention(
        query: Tensor<Self, 3>,
        key: Tensor<Self, 3>,
        value: Tensor<Self, 3>,
        heads: usize,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        let parents = [query, key, value].map(unwrap);
        let [query, key, value] = parents.each_ref().map(plain::<B, C, 3>);
        let (output, log_sum_exp) =
            <B as Backend>::attention(query.clone(), key.clone(), value.clone(), heads);
        let output_node = node(parents.each_ref(), unwrap(output.clone()), || {
            attention::Saved {
                query,
                key,
                value,
                output,
                log_sum_exp: log_sum_exp.clone(),
                heads,
            }
        });
        (output_node, constant(log_sum_exp))
    }

    fn cross_entropy(
        hidden: Tensor<Self, 2>,
        head: Tensor<Self, 2>,
        targets: Tensor<Self, 1, Int>,
        wanted: [bool; 2],
    ) -> (Tensor<Self, 1>, [Option<Tensor<Self, 2>>; 2]) {
        let parents = [hidden, head].map(unwrap);
        let tracked = parents.each_ref().map(|parent| parent.is_tracked());
        let computed = [tracked[0] || wanted[0], tracked[1] || wanted[1]];
        let [hidden, head] = parents.each_ref().map(plain::<B, C, 2>);
        let (loss, gradients) = B::cross_entropy(hidden, head, inner(targets), computed);
        let [d_hidden, d_head] = gradients;
        let asked = [
            d_hidden.clone().filter(|_| wanted[0]),
            d_head.clone().filter(|_| wanted[1]),
        ];
        let kept = [
            d_hidden.filter(|_| tracked[0]),
            d_head.filter(|_| tracked[1]),
        ];
        let loss = node(parents.each_ref(), unwrap(loss), || CrossEntropy(kept));
        (loss, asked.map(|tensor| tensor.map(constant)))
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let parents = [x, weight].map(unwrap);
        let [x, weight] = parents.each_ref().map(plain::<B, C, 2>);
        let output = B::rms_norm(x.clone(), weight.clone());
        node(parents.each_ref(), unwrap(output), || RmsNorm { x, weight })
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let parents = [gate, up].map(unwrap);
        let [gate, up] = parents.each_ref().map(plain::<B, C, 2>);
        let output = B::swiglu(gate.clone(), up.clone());
        node(parents.each_ref(), unwrap(output), || Swiglu { gate, up })
    }

    fn embedding(table: Tensor<Self, 2>, tokens: Tensor<Self, 1, Int>) -> Tensor<Self, 2> {
        let [vocabulary, _] = table.dims();
        let (table, tokens) = (unwrap(table), inner(tokens));
        let output = <B as Backend>::embedding(plain::<B, C, 2>(&table), tokens.clone());
        node([&table], unwrap(output), || Embedding {
            tokens,
            vocabulary,
        })
    }
}
