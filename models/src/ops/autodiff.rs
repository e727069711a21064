//! The operations as nodes of the autodiff graph.
//!
//! Each node keeps what the gradients of its tracked arguments need (weights are shared, an input is kept only where
//! something is trained on it), calls the inner backend's backward function, and registers what it gets. An argument that
//! is not tracked (a frozen weight) costs no gradient and no memory.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorPrimitive};

use super::{Backend, Input, attention, linear, low_rank_linear};

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

/// What an operation on several layers keeps of the layers.
trait SavedOfLayers<B: Backend>: Clone + Debug + Send + 'static {
    /// Gradients for the input and for what each layer trains, in order, where `wanted`; `x` is there where a layer trains
    /// something.
    fn gradients(
        self,
        x: Option<Tensor<B, 2>>,
        gradient: Tensor<B, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<B, 2>>>;
}

#[derive(Clone, Debug)]
struct Linear<B: Backend> {
    weights: Vec<Tensor<B, 2>>,
}

impl<B: Backend> SavedOfLayers<B> for Linear<B> {
    fn gradients(
        self,
        x: Option<Tensor<B, 2>>,
        gradient: Tensor<B, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<B, 2>>> {
        let Linear { weights } = self;
        B::linear_backward(linear::Saved { x, weights }, gradient, wanted)
    }
}

#[derive(Clone, Debug)]
struct LowRankLinear<B: Backend> {
    layers: Vec<low_rank_linear::Layer<B>>,
    scale: f32,
}

impl<B: Backend> SavedOfLayers<B> for LowRankLinear<B> {
    fn gradients(
        self,
        x: Option<Tensor<B, 2>>,
        gradient: Tensor<B, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<B, 2>>> {
        let LowRankLinear { layers, scale } = self;
        B::low_rank_linear_backward(
            low_rank_linear::Saved { x, layers, scale },
            gradient,
            wanted,
        )
    }
}

/// Layers and what they read. The node's parents are what the input is computed from and what each layer trains, in order.
#[derive(Clone, Debug)]
struct Layers<B: Backend, S> {
    /// None where the input is a tensor that no gradient needs.
    input: Option<Input<B>>,
    /// Whether a layer needs the input for a gradient.
    trains: bool,
    layers: S,
}

impl<B: Backend, S: SavedOfLayers<B>, const N: usize> Saved<B, N> for Layers<B, S> {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; N]) -> [Option<FloatTensor<B>>; N] {
        let of_input = match self.input {
            Some(Input::Normed { .. }) => 2,
            _ => 1,
        };
        let (wanted_input, wanted_layers) = wanted.split_at(of_input);
        let wanted_of_layers = [&[wanted_input.contains(&true)], wanted_layers].concat();
        let x = self
            .input
            .as_ref()
            .filter(|_| self.trains)
            .map(Input::value);
        let gradients = self.layers.gradients(x, wrap(gradient), &wanted_of_layers);
        let mut gradients = gradients.into_iter();
        let d_x = gradients.next().flatten();
        let d_input = match (self.input, d_x) {
            (Some(Input::Normed { x, weight }), Some(d_x)) => {
                let wanted = [wanted_input[0], wanted_input[1]];
                B::rms_norm_backward(x, weight, d_x, wanted).to_vec()
            }
            (Some(Input::Normed { .. }), None) => vec![None, None],
            (Some(Input::Activated { gate_up }), Some(d_x)) => {
                vec![Some(B::swiglu_backward(gate_up, d_x))]
            }
            (_, d_x) => vec![d_x],
        };
        let mut all = d_input.into_iter().chain(gradients);
        wanted.map(|_| all.next().flatten().map(unwrap))
    }
}

/// What the input of layers is computed from: as parents of a node, and outside of any graph.
fn parents_of<B: Backend, C: CheckpointStrategy>(
    input: Input<Autodiff<B, C>>,
) -> (Vec<FloatTensor<Autodiff<B, C>>>, Input<B>) {
    match input {
        Input::Tensor(x) => {
            let x = unwrap(x);
            let plain = Input::Tensor(plain::<B, C, 2>(&x));
            (vec![x], plain)
        }
        Input::Normed { x, weight } => {
            let (x, weight) = (unwrap(x), unwrap(weight));
            let plain = Input::Normed {
                x: plain::<B, C, 2>(&x),
                weight: plain::<B, C, 2>(&weight),
            };
            (vec![x, weight], plain)
        }
        Input::Activated { gate_up } => {
            let gate_up = unwrap(gate_up);
            let plain = Input::Activated {
                gate_up: plain::<B, C, 2>(&gate_up),
            };
            (vec![gate_up], plain)
        }
    }
}

/// [`node`] for one to three layers on an input: the number of parents of a node is a part of its type. What the layers train
/// is `trained`.
fn node_of_layers<B, C, S>(
    (mut parents, input): (Vec<FloatTensor<Autodiff<B, C>>>, Input<B>),
    trained: Vec<FloatTensor<Autodiff<B, C>>>,
    output: Tensor<B, 2>,
    layers: S,
) -> Tensor<Autodiff<B, C>, 2>
where
    B: Backend,
    C: CheckpointStrategy,
    S: SavedOfLayers<B>,
{
    let trains = trained.iter().any(|tensor| tensor.is_tracked());
    let is_kept = trains || !matches!(input, Input::Tensor(_));
    let saved = Layers {
        input: is_kept.then_some(input),
        trains,
        layers,
    };
    parents.extend(trained);
    let parents: Vec<_> = parents.iter().collect();
    let (output, saved) = (unwrap(output), || saved);
    match *parents {
        [a, b] => node([a, b], output, saved),
        [a, b, c] => node([a, b, c], output, saved),
        [a, b, c, d] => node([a, b, c, d], output, saved),
        [a, b, c, d, e] => node([a, b, c, d, e], output, saved),
        [a, b, c, d, e, f] => node([a, b, c, d, e, f], output, saved),
        [a, b, c, d, e, f, g] => node([a, b, c, d, e, f, g], output, saved),
        [a, b, c, d, e, f, g, h] => node([a, b, c, d, e, f, g, h], output, saved),
        _ => panic!("one to three layers read the same input"),
    }
}

impl<B: Backend> Saved<B, 1> for attention::Saved<B> {
    fn gradients(
        self,
        gradient: FloatTensor<B>,
        _wanted: [bool; 1],
    ) -> [Option<FloatTensor<B>>; 1] {
        [Some(unwrap(B::attention_backward(self, wrap(gradient))))]
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
    gate_up: Tensor<B, 2>,
}

impl<B: Backend> Saved<B, 1> for Swiglu<B> {
    fn gradients(
        self,
        gradient: FloatTensor<B>,
        _wanted: [bool; 1],
    ) -> [Option<FloatTensor<B>>; 1] {
        [Some(unwrap(B::swiglu_backward(
            self.gate_up,
            wrap(gradient),
        )))]
    }
}

#[derive(Clone, Debug)]
struct Residual;

impl<B: Backend> Saved<B, 2> for Residual {
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; 2]) -> [Option<FloatTensor<B>>; 2] {
        wanted.map(|wanted| wanted.then(|| gradient.clone()))
    }
}

#[derive(Clone, Debug)]
struct Embedding {
    tokens: Arc<[u32]>,
    vocabulary: usize,
}

impl<B: Backend> Saved<B, 1> for Embedding {
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
    fn linear(x: Input<Self>, weights: Vec<Tensor<Self, 2>>) -> Tensor<Self, 2> {
        let (parents, input) = parents_of(x);
        let trained: Vec<_> = weights.into_iter().map(unwrap).collect();
        let weights: Vec<_> = trained.iter().map(plain::<B, C, 2>).collect();
        let output = <B as Backend>::linear(input.clone(), weights.clone());
        node_of_layers((parents, input), trained, output, Linear { weights })
    }

    fn low_rank_linear(
        x: Input<Self>,
        layers: Vec<low_rank_linear::Layer<Self>>,
        scale: f32,
    ) -> Tensor<Self, 2> {
        let (parents, input) = parents_of(x);
        let mut trained = Vec::with_capacity(2 * layers.len());
        let mut plain_layers = Vec::with_capacity(layers.len());
        for layer in layers {
            let (a, b) = (unwrap(layer.a), unwrap(layer.b));
            plain_layers.push(low_rank_linear::Layer {
                weight: layer.weight.map(|weight| plain::<B, C, 2>(&unwrap(weight))),
                a: plain::<B, C, 2>(&a),
                b: plain::<B, C, 2>(&b),
                mask: layer.mask,
            });
            trained.extend([a, b]);
        }
        let layers = plain_layers;
        let output = B::low_rank_linear(input.clone(), layers.clone(), scale);
        node_of_layers(
            (parents, input),
            trained,
            output,
            LowRankLinear { layers, scale },
        )
    }

    fn attention(
        query_key_value: Tensor<Self, 3>,
        heads: usize,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        let parent = unwrap(query_key_value);
        let query_key_value = plain::<B, C, 3>(&parent);
        let (output, log_sum_exp) = <B as Backend>::attention(query_key_value.clone(), heads);
        let output_node = node([&parent], unwrap(output.clone()), || attention::Saved {
            query_key_value,
            output,
            log_sum_exp: log_sum_exp.clone(),
            heads,
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

    fn swiglu(gate_up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let parent = unwrap(gate_up);
        let gate_up = plain::<B, C, 2>(&parent);
        let output = B::swiglu(gate_up.clone());
        node([&parent], unwrap(output), || Swiglu { gate_up })
    }

    fn residual(x: Tensor<Self, 2>, f: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let mut parents = [x, f].map(unwrap);
        let x = plain::<B, C, 2>(&parents[0]);
        // Taken out of its parent, which needs its place in the graph alone, so that the sum can be made in it.
        let in_its_place = parents[0].primitive.clone();
        let f = std::mem::replace(&mut parents[1].primitive, in_its_place);
        let output = B::residual(x, wrap(f));
        node(parents.each_ref(), unwrap(output), || Residual)
    }

    fn embedding(table: Tensor<Self, 2>, tokens: Arc<[u32]>) -> Tensor<Self, 2> {
        let [vocabulary, _] = table.dims();
        let table = unwrap(table);
        let output = <B as Backend>::embedding(plain::<B, C, 2>(&table), Arc::clone(&tokens));
        node([&table], unwrap(output), || Embedding {
            tokens,
            vocabulary,
        })
    }
}
