//! The LLaMA of the paper's code: pre-norm, RMSNorm, rotary positions, SwiGLU, no biases, an untied head.
//!
//! Shapes are in the names: `b` rows of a batch, `t` tokens of a row, `n = b·t`, `d` hidden width. After
//! `modeling_llama.py` of `Guitaricet/relora@176f376`.

use burn::tensor::{Int, Tensor, TensorData};

use crate::draws::{Draw, DrawRole, Seeded};
use crate::low_rank::{Linear, together};
use crate::ops::Input;
use crate::ops::dropout::Mask;
use crate::{Batch, IGNORE, ops};

/// The network with a `P` in each parameter's place: parameters to keep, tensors to compute with.
pub(crate) struct Llama<P> {
    /// `[v, d]`
    pub embedding: P,
    pub blocks: Vec<Block<P>>,
    /// `[1, d]`
    pub norm: P,
    /// `[v, d]`
    pub head: P,
}

/// One block: attention and MLP, each behind a norm.
pub(crate) struct Block<P> {
    pub attention_norm: P,
    pub query: Linear<P>,
    pub key: Linear<P>,
    pub value: Linear<P>,
    pub output: Linear<P>,
    pub mlp_norm: P,
    pub gate: Linear<P>,
    pub up: Linear<P>,
    pub down: Linear<P>,
}

/// What a pass through the network needs besides weights and tokens.
pub(crate) struct Pass<'a> {
    pub heads: usize,
    /// `s` of the low-rank layers where it is fixed.
    pub scale: f32,
    /// `None` when evaluating.
    pub dropout: Option<&'a Dropout>,
}

/// Dropout of one micro-batch: each layer's mask follows from the key, the layer and the batch.
pub(crate) struct Dropout {
    /// Share of elements that become 0.
    pub share: f64,
    pub key: Seeded,
    /// [`Batch::index`]
    pub batch_index: u64,
}

/// The sum of the losses of all targets in the batch that carry one, `[1]`: on a plain backend to evaluate, on
/// `Autodiff` of it to train.
pub(crate) fn forward<B: ops::Backend>(
    weights: &Llama<Tensor<B, 2>>,
    batch: Batch<'_>,
    pass: &Pass<'_>,
) -> Tensor<B, 1> {
    let mut hidden_nd = embed(weights, batch);
    for block in &weights.blocks {
        hidden_nd = block.forward(hidden_nd, batch, pass);
    }
    loss(weights, hidden_nd, batch)
}

/// What the first block reads `[n, d]`.
pub(crate) fn embed<B: ops::Backend>(
    weights: &Llama<Tensor<B, 2>>,
    batch: Batch<'_>,
) -> Tensor<B, 2> {
    ops::embedding(weights.embedding.clone(), batch.inputs)
}

/// The loss `[1]` of what the last block leaves `[n, d]`.
pub(crate) fn loss<B: ops::Backend>(
    weights: &Llama<Tensor<B, 2>>,
    hidden_nd: Tensor<B, 2>,
    batch: Batch<'_>,
) -> Tensor<B, 1> {
    let targets = indices(batch.targets, &hidden_nd.device());
    let normed_nd = ops::rms_norm(hidden_nd, weights.norm.clone());
    ops::cross_entropy(normed_nd, weights.head.clone(), targets)
}

impl<B: ops::Backend> Block<Tensor<B, 2>> {
    /// Hidden states `[n, d]` with what attention and MLP add to them.
    pub(crate) fn forward(
        &self,
        hidden_nd: Tensor<B, 2>,
        batch: Batch<'_>,
        pass: &Pass<'_>,
    ) -> Tensor<B, 2> {
        let [n, d] = hidden_nd.dims();

        let normed = Input::Normed {
            x: hidden_nd.clone(),
            weight: self.attention_norm.clone(),
        };
        let query_key_value = together([&self.query, &self.key, &self.value], normed, pass);
        let query_key_value = query_key_value.reshape([batch.rows, batch.length, 3 * d]);
        let mixed_nd = ops::attention(query_key_value, pass.heads).reshape([n, d]);
        let hidden_nd = ops::residual(hidden_nd, self.output.forward(mixed_nd, pass));

        let normed = Input::Normed {
            x: hidden_nd.clone(),
            weight: self.mlp_norm.clone(),
        };
        let gate_up = together([&self.gate, &self.up], normed, pass);
        let activated = Input::Activated { gate_up };
        ops::residual(hidden_nd, self.down.forward(activated, pass))
    }
}

/// Tokens on the device, `-1` for [`IGNORE`].
fn indices<B: ops::Backend>(tokens: &[u32], device: &B::Device) -> Tensor<B, 1, Int> {
    let index = |&token: &u32| {
        if token == IGNORE {
            -1
        } else {
            token.cast_signed()
        }
    };
    let indices: Vec<i32> = tokens.iter().map(index).collect();
    Tensor::from_data(TensorData::new(indices, [tokens.len()]), device)
}

impl Pass<'_> {
    /// What the factors of a layer see of its input of this shape; all of it without dropout.
    pub(crate) fn mask(&self, module: &str, shape: [usize; 2]) -> Option<Mask> {
        let dropout = self.dropout?;
        let draw = Draw {
            name: module,
            role: DrawRole::Dropout,
            step: dropout.batch_index,
            shape,
        };
        Some(Mask::new(
            shape,
            dropout.share,
            dropout.key.philox_key(&draw),
        ))
    }
}

impl<P> Llama<P> {
    /// The same network with `f` of each parameter.
    pub(crate) fn map<Q>(&self, mut f: impl FnMut(&P) -> Q) -> Llama<Q> {
        Llama {
            embedding: f(&self.embedding),
            blocks: self.blocks.iter().map(|block| block.map(&mut f)).collect(),
            norm: f(&self.norm),
            head: f(&self.head),
        }
    }

    /// Every parameter, in the order in which it is used.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &P> {
        let blocks = self.blocks.iter().flat_map(Block::iter);
        [&self.embedding]
            .into_iter()
            .chain(blocks)
            .chain([&self.norm, &self.head])
    }

    /// The same, to change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut P> {
        let blocks = self.blocks.iter_mut().flat_map(Block::iter_mut);
        [&mut self.embedding]
            .into_iter()
            .chain(blocks)
            .chain([&mut self.norm, &mut self.head])
    }

    /// Every linear layer.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<P>> {
        self.blocks.iter_mut().flat_map(
            |Block {
                 query,
                 key,
                 value,
                 output,
                 gate,
                 up,
                 down,
                 ..
             }| { [query, key, value, output, gate, up, down] },
        )
    }
}

impl<P> Block<P> {
    fn map<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> Block<Q> {
        Block {
            attention_norm: f(&self.attention_norm),
            query: self.query.map(f),
            key: self.key.map(f),
            value: self.value.map(f),
            output: self.output.map(f),
            mlp_norm: f(&self.mlp_norm),
            gate: self.gate.map(f),
            up: self.up.map(f),
            down: self.down.map(f),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &P> {
        let attention = [&self.query, &self.key, &self.value, &self.output]
            .into_iter()
            .flat_map(Linear::iter);
        let mlp = [&self.gate, &self.up, &self.down]
            .into_iter()
            .flat_map(Linear::iter);
        [&self.attention_norm]
            .into_iter()
            .chain(attention)
            .chain([&self.mlp_norm])
            .chain(mlp)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut P> {
        let Block {
            attention_norm,
            query,
            key,
            value,
            output,
            mlp_norm,
            gate,
            up,
            down,
        } = self;
        let attention = [query, key, value, output]
            .into_iter()
            .flat_map(Linear::iter_mut);
        let mlp = [gate, up, down].into_iter().flat_map(Linear::iter_mut);
        [attention_norm]
            .into_iter()
            .chain(attention)
            .chain([mlp_norm])
            .chain(mlp)
    }
}
