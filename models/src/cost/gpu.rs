//! What a training step takes of a GPU's memory: a walk through the step that notes what its operations take and give back,
//! in the order in which `learner.rs`, `llama.rs` and `ops/cube` do so.
//!
//! On GPUs memory is kept by size: what is given back is taken again by a tensor of exactly as many bytes, and by no other.
//! The shapes of a step are always the same, so there is nothing to be gained from cutting up larger pieces, no piece is ever
//! too fragmented to be used, and what a step needs is what the first one has taken. The peak is then not that of one moment:
//! it is the sum, over the sizes, of how many tensors of that size existed at most.

use std::collections::BTreeMap;

use super::{Bytes, Step};
use crate::device::Precision;
use crate::low_rank::{Base, LowRank, Scaling};
use crate::network::Network;
use crate::ops::cross_entropy::rows_of_gpu_block;
use crate::ops::rms_norm::gpu_parts;

/// Bytes to which a tensor's memory is rounded up.
const ALIGNMENT: u64 = 512;

/// A class of [`Bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Weights,
    Gradients,
    Moments,
    Activations,
    Logits,
    Workspace,
}

impl Class {
    fn of(self, bytes: &mut Bytes) -> &mut u64 {
        match self {
            Class::Weights => &mut bytes.weights,
            Class::Gradients => &mut bytes.gradients,
            Class::Moments => &mut bytes.moments,
            Class::Activations => &mut bytes.activations,
            Class::Logits => &mut bytes.logits,
            Class::Workspace => &mut bytes.workspace,
        }
    }
}

/// Tensors of one size.
#[derive(Default)]
struct Pool {
    live: u64,
    most: u64,
    /// Of the most that there were, what each of them was first taken for.
    first_taken_for: Bytes,
}

/// Memory by size.
#[derive(Default)]
struct Memory(BTreeMap<u64, Pool>);

impl Memory {
    fn take(&mut self, class: Class, bytes: u64) {
        let size = bytes.next_multiple_of(ALIGNMENT);
        let pool = self.0.entry(size).or_default();
        pool.live += 1;
        if pool.live > pool.most {
            pool.most = pool.live;
            *class.of(&mut pool.first_taken_for) += size;
        }
    }

    fn give(&mut self, bytes: u64) {
        if let Some(pool) = self.0.get_mut(&bytes.next_multiple_of(ALIGNMENT)) {
            pool.live = pool.live.saturating_sub(1);
        }
    }

    fn bytes(&self) -> Bytes {
        let mut all = Bytes::default();
        for pool in self.0.values() {
            let Bytes {
                weights,
                gradients,
                moments,
                activations,
                logits,
                workspace,
            } = pool.first_taken_for;
            all.weights += weights;
            all.gradients += gradients;
            all.moments += moments;
            all.activations += activations;
            all.logits += logits;
            all.workspace += workspace;
        }
        all
    }
}

/// Layers that read the same input.
#[derive(Clone, Copy)]
struct Layers {
    count: u64,
    /// Outputs of each.
    outputs: u64,
    inputs: u64,
}

/// A tensor that holds the gradients of some parameters of one shape.
#[derive(Clone, Copy)]
struct Gradient {
    elements: u64,
    parts: u64,
}

/// Whether layers that read the same input are computed apart all the same: each has a scalar of its own.
fn are_apart(low_rank: &LowRank) -> bool {
    low_rank.scaling == Scaling::TanhScalar
}

/// A walk through a step.
struct Walk<'a> {
    memory: Memory,
    low_rank: Option<&'a LowRank>,
    /// Tokens.
    n: u64,
    /// Hidden width.
    d: u64,
    /// Inner width of the MLP.
    i: u64,
    heads: u64,
    /// Bytes of a value.
    value: u64,
}

/// The most memory of a step by class.
pub(super) fn bytes(network: &Network, low_rank: Option<&LowRank>, step: &Step) -> Bytes {
    let (value, state, has_masters) = match step.precision {
        Precision::F32 => (4, 4, false),
        Precision::Bf16 => (2, 2, false),
        Precision::Bf16Master => (2, 4, true),
    };
    let mut walk = Walk {
        memory: Memory::default(),
        low_rank,
        n: (step.rows * step.length) as u64,
        d: network.hidden as u64,
        i: network.intermediate as u64,
        heads: network.heads as u64,
        value,
    };
    let vocabulary = network.vocabulary as u64;
    let trained = walk.parameters(network, value, state, has_masters);
    let gradients = walk.gradients(network);
    for round in 0..if step.accumulates { 2 } else { 1 } {
        if step.recompute {
            walk.recomputed(network.layers, vocabulary);
        } else {
            walk.kept(network.layers, vocabulary);
        }
        if has_masters {
            // Sums of another type than the gradients are tensors of their own from the beginning.
            for elements in trained.iter().filter(|_| round == 0) {
                walk.memory.take(Class::Gradients, elements * state);
            }
            walk.forget(&gradients, |_| true);
        } else if round > 0 {
            // Gradients that came as parts of a stack are held by one another; their sums are tensors of their own.
            for gradient in gradients.iter().filter(|gradient| gradient.parts > 1) {
                for _ in 0..gradient.parts {
                    walk.take(Class::Gradients, gradient.elements / gradient.parts);
                }
            }
            walk.forget(&gradients, |_| true);
            walk.forget(&gradients, |gradient| gradient.parts > 1);
        }
    }
    walk.memory.bytes()
}

impl Walk<'_> {
    fn take(&mut self, class: Class, elements: u64) {
        self.memory.take(class, elements * self.value);
    }

    fn give(&mut self, elements: u64) {
        self.memory.give(elements * self.value);
    }

    /// Weights and moments; returns the elements of what is trained.
    fn parameters(
        &mut self,
        network: &Network,
        value: u64,
        state: u64,
        has_masters: bool,
    ) -> Vec<u64> {
        let (d, i) = (self.d, self.i);
        let table = network.vocabulary as u64 * d;
        let linears = [d * d, d * d, d * d, d * d, i * d, i * d, d * i];
        let mut trained = vec![table, table, d];
        let mut frozen = Vec::new();
        for _ in 0..network.layers {
            trained.extend([d, d]);
            match self.low_rank {
                None => trained.extend(linears),
                Some(low_rank) => {
                    let r = low_rank.rank as u64;
                    for layers in self.groups() {
                        for _ in 0..layers.count {
                            trained.extend([r * layers.inputs, layers.outputs * r]);
                            if low_rank.scaling == Scaling::TanhScalar {
                                trained.push(1);
                            }
                        }
                    }
                    if low_rank.base != Base::None {
                        frozen.extend(linears);
                    }
                }
            }
        }
        for elements in trained.iter().chain(&frozen) {
            self.memory.take(Class::Weights, elements * value);
            if has_masters {
                self.memory.take(Class::Weights, elements * state);
            }
        }
        for elements in &trained {
            self.memory.take(Class::Moments, elements * state);
            self.memory.take(Class::Moments, elements * state);
        }
        trained
    }

    /// What a backward pass leaves.
    fn gradients(&self, network: &Network) -> Vec<Gradient> {
        let alone = |elements| Gradient { elements, parts: 1 };
        let mut all = vec![alone(network.vocabulary as u64 * self.d); 2];
        all.push(alone(self.d));
        for _ in 0..network.layers {
            all.extend([alone(self.d); 2]);
            for layers in self.groups() {
                let parts = layers.count;
                match self.low_rank {
                    None => all.extend((0..parts).map(|_| alone(layers.outputs * layers.inputs))),
                    Some(low_rank) => {
                        let factors = [layers.outputs, layers.inputs]
                            .map(|width| width * low_rank.rank as u64);
                        if are_apart(low_rank) {
                            let of_layer = factors.into_iter().chain([1]).map(alone);
                            all.extend((0..parts).flat_map(|_| of_layer.clone()));
                        } else {
                            all.extend(factors.map(|elements| Gradient {
                                elements: parts * elements,
                                parts,
                            }));
                        }
                    }
                }
            }
        }
        all
    }

    fn forget(&mut self, gradients: &[Gradient], which: impl Fn(&Gradient) -> bool) {
        for gradient in gradients.iter().filter(|gradient| which(gradient)) {
            self.give(gradient.elements);
        }
    }

    /// The four groups of a block, in its order.
    fn groups(&self) -> [Layers; 4] {
        let (d, i) = (self.d, self.i);
        let of = |count, outputs, inputs| Layers {
            count,
            outputs,
            inputs,
        };
        [of(3, d, d), of(1, d, d), of(2, i, d), of(1, d, i)]
    }

    /// Forward and backward pass that keeps what it needs.
    fn kept(&mut self, layers: usize, vocabulary: u64) {
        let x = self.n * self.d;
        self.take(Class::Activations, x);
        for _ in 0..layers {
            self.block_forward();
        }
        self.loss(vocabulary);
        for _ in 0..layers {
            self.block_backward();
        }
        self.embedding_backward(vocabulary);
    }

    /// Forward pass that keeps the inputs of blocks, and a backward pass that computes each block again.
    fn recomputed(&mut self, layers: usize, vocabulary: u64) {
        let x = self.n * self.d;
        self.take(Class::Activations, x);
        for _ in 0..layers {
            self.block_forward();
            self.forget_block();
        }
        self.loss(vocabulary);
        for _ in 0..layers {
            self.block_forward();
            // The gradient from above enters the graph by a product of it with the block's output.
            self.take(Class::Workspace, x);
            self.take(Class::Workspace, x);
            self.give(x);
            self.give(x);
            self.give(x);
            self.block_backward();
        }
        self.embedding_backward(vocabulary);
    }

    /// From the block's input, which exists, to its output; what the backward pass needs stays.
    fn block_forward(&mut self) {
        let (x, inner) = (self.n * self.d, self.n * self.i);
        let [query_key_value, output, gate_and_up, down] = self.groups();
        self.layers_forward(query_key_value, x);
        self.take(Class::Activations, x);
        self.memory
            .take(Class::Activations, self.n * self.heads * 4);
        // What a part of a block adds becomes the sum, in place.
        self.layers_forward(output, 0);
        self.layers_forward(gate_and_up, x);
        self.layers_forward(down, inner);
    }

    /// What [`Self::block_forward`] keeps between the block's input and its output is forgotten.
    fn forget_block(&mut self) {
        let x = self.n * self.d;
        self.give(3 * x);
        self.give(x);
        self.memory.give(self.n * self.heads * 4);
        self.give(x);
        self.give(self.n * 2 * self.i);
        if self.low_rank.is_some_and(are_apart) {
            for (layers, computed) in self.groups().into_iter().zip([x, 0, x, self.n * self.i]) {
                self.give(computed);
                for _ in 0..layers.count {
                    self.give(self.n * layers.outputs);
                }
            }
        }
    }

    /// The outputs of layers, which stay, from their input: `computed` elements that are computed for it, and given back.
    fn layers_forward(&mut self, layers: Layers, computed: u64) {
        self.take(Class::Workspace, computed);
        if let Some(low_rank) = self.low_rank.filter(|low_rank| are_apart(low_rank)) {
            self.apart_forward(layers, low_rank);
        } else {
            self.together_forward(layers);
            self.give(computed);
        }
    }

    /// Layers with a scalar of their own, one by one. What is computed of their input stays, and so do their products before the
    /// scalar.
    fn apart_forward(&mut self, layers: Layers, low_rank: &LowRank) {
        let (x, output) = (self.n * layers.inputs, self.n * layers.outputs);
        let projected = self.n * low_rank.rank as u64;
        for _ in 0..layers.count {
            let seen = (low_rank.dropout > 0.0).then_some(x);
            self.take_some(seen);
            self.take(Class::Workspace, projected);
            self.give_some(seen);
            self.take(Class::Workspace, output);
            self.give(projected);
            self.take(Class::Activations, output);
            self.give(output);
            // Times the scalar, and then the frozen weight's part, which is added in place.
            self.take(Class::Workspace, output);
            self.take(Class::Workspace, output);
            self.give(output);
        }
        self.take(Class::Activations, layers.count * output);
        for _ in 0..layers.count {
            self.give(output);
        }
    }

    fn together_forward(&mut self, layers: Layers) {
        let outputs = self.n * layers.count * layers.outputs;
        let Some(low_rank) = self.low_rank else {
            let packed = self.packed(layers, None);
            self.take_some(packed);
            self.take(Class::Activations, outputs);
            self.give_some(packed);
            return;
        };
        let projected = self.n * layers.count * low_rank.rank as u64;
        let seen = self.seen(layers, low_rank);
        let packed = self.packed(layers, Some(low_rank));
        self.take_some(seen);
        self.take_some(packed);
        self.take(Class::Workspace, projected);
        self.give_some(seen);
        self.take(Class::Workspace, outputs);
        self.give(projected);
        self.take(Class::Activations, outputs);
        self.give(outputs);
        self.give_some(packed);
    }

    /// The gradient of the layers' input, which stays as theirs do, from that of their outputs and from their input: `computed`
    /// elements that have been computed again for it, and are given back.
    fn layers_backward(&mut self, layers: Layers, computed: u64) {
        let (x, weight) = (self.n * layers.inputs, layers.outputs * layers.inputs);
        let Some(low_rank) = self.low_rank else {
            for _ in 0..layers.count {
                self.take(Class::Gradients, weight);
            }
            self.give(computed);
            let packed = self.packed(layers, None);
            self.take_some(packed);
            self.take(Class::Workspace, x);
            self.give_some(packed);
            return;
        };
        if are_apart(low_rank) {
            return self.apart_backward(layers, computed, low_rank);
        }
        let r = low_rank.rank as u64;
        let projected = self.n * layers.count * r;
        let seen = self.seen(layers, low_rank);
        let packed = self.packed_backward(layers, low_rank);
        self.take_some(packed);
        if layers.count > 1 {
            // The gradient's parts, side by side, are put into a stack; then it is done with.
            let parts = self.n * layers.count * layers.outputs;
            self.take(Class::Workspace, x);
            self.take(Class::Workspace, parts);
            self.give(parts);
        }
        self.take_some(seen);
        if seen.is_some() {
            self.give(computed);
        }
        if layers.count == 1 {
            self.take(Class::Workspace, x);
        }
        self.take(Class::Workspace, projected);
        self.take(Class::Gradients, layers.count * layers.outputs * r);
        self.give(projected);
        self.take(Class::Workspace, projected);
        self.take(Class::Gradients, layers.count * r * layers.inputs);
        if seen.is_none() {
            self.give(computed);
        }
        self.give_some(seen);
        self.take(Class::Workspace, layers.count * x);
        self.give(projected);
        self.give(layers.count * x);
        self.give_some(packed);
    }

    /// The same for layers with a scalar of their own, whose input has been kept.
    fn apart_backward(&mut self, layers: Layers, computed: u64, low_rank: &LowRank) {
        let (x, output) = (self.n * layers.inputs, self.n * layers.outputs);
        let r = low_rank.rank as u64;
        self.give(computed);
        for _ in 0..layers.count {
            self.take(Class::Workspace, output);
        }
        self.take(Class::Workspace, x);
        for _ in 0..layers.count {
            // Through the frozen weight; through the scalar, with what is summed up for that.
            self.take(Class::Workspace, x);
            self.take(Class::Workspace, output);
            self.take(Class::Workspace, output);
            self.give(output);
            self.give(output);
            let seen = (low_rank.dropout > 0.0).then_some(x);
            self.take_some(seen);
            self.take(Class::Workspace, self.n * r);
            self.take(Class::Gradients, layers.outputs * r);
            self.take(Class::Gradients, layers.inputs * r);
            self.give(self.n * r);
            self.give_some(seen);
            self.take(Class::Workspace, x);
            self.give(x);
            self.give(x);
            self.give(output);
            self.give(output);
        }
        self.give(computed);
    }

    /// Elements of the inputs with dropout, where there is any.
    fn seen(&self, layers: Layers, low_rank: &LowRank) -> Option<u64> {
        (low_rank.dropout > 0.0).then_some(layers.count * self.n * layers.inputs)
    }

    /// Elements of the copies that layers are put together in for the forward pass, or at full rank for either; none of a
    /// single layer.
    fn packed(&self, layers: Layers, low_rank: Option<&LowRank>) -> Option<u64> {
        let Layers {
            count,
            outputs,
            inputs,
        } = layers;
        let weights = match low_rank {
            Some(low_rank) if low_rank.base == Base::None => 0,
            _ => outputs * inputs,
        };
        let factors = low_rank.map_or(0, |low_rank| low_rank.rank as u64 * (outputs + inputs));
        (count > 1).then_some(count * (weights + factors))
    }

    /// The same for the backward pass, where factors are multiplied by the scale if the input is not (without dropout).
    fn packed_backward(&self, layers: Layers, low_rank: &LowRank) -> Option<u64> {
        let r = low_rank.rank as u64;
        let is_scaled = low_rank.dropout == 0.0 && low_rank.scaling != Scaling::Fixed(1.0);
        match self.packed(layers, Some(low_rank)) {
            Some(forward) if is_scaled => Some(forward + layers.count * r * layers.inputs),
            Some(forward) => Some(forward),
            None => is_scaled.then_some(r * (layers.inputs + layers.outputs)),
        }
    }

    fn take_some(&mut self, elements: Option<u64>) {
        if let Some(elements) = elements {
            self.take(Class::Workspace, elements);
        }
    }

    fn give_some(&mut self, elements: Option<u64>) {
        if let Some(elements) = elements {
            self.give(elements);
        }
    }

    /// The loss, the gradient of the head, and that of the last block's output in the place of that output.
    fn loss(&mut self, vocabulary: u64) {
        let (x, head) = (self.n * self.d, vocabulary * self.d);
        let block = (rows_of_gpu_block(self.n as usize) as u64).min(self.n);
        self.take(Class::Workspace, x);
        self.take(Class::Workspace, x);
        self.memory.take(Class::Workspace, self.n * 4);
        self.take(Class::Logits, block * vocabulary);
        if !self.n.is_multiple_of(block) {
            let last = self.n % block * vocabulary;
            self.take(Class::Logits, last);
            self.give(last);
        }
        self.memory.take(Class::Workspace, head * 4);
        if self.n > block {
            self.memory.take(Class::Workspace, head * 4);
            self.memory.give(head * 4);
        }
        self.give(block * vocabulary);
        if self.value != 4 {
            self.take(Class::Gradients, head);
            self.memory.give(head * 4);
        }
        self.memory.give(self.n * 4);
        // The norm before the head; its output, and then the gradient of that, are given back.
        self.give(x);
        self.norm_backward();
        self.give(x);
    }

    /// The gradient of what a norm reads, which stays in place of what it read.
    fn norm_backward(&mut self) {
        let x = self.n * self.d;
        let parts = gpu_parts(self.n as usize) as u64 * self.d * 4;
        self.take(Class::Workspace, x);
        self.memory.take(Class::Workspace, parts);
        self.take(Class::Gradients, self.d);
        self.memory.give(parts);
        self.give(x);
    }

    /// From the gradient of a block's output to that of its input, both of which exist in the end in place of one another.
    fn block_backward(&mut self) {
        let (x, gate_up, inner) = (self.n * self.d, self.n * 2 * self.i, self.n * self.i);
        let [query_key_value, output, gate_and_up, down] = self.groups();
        self.take(Class::Workspace, inner);
        self.layers_backward(down, inner);
        self.take(Class::Workspace, gate_up);
        self.give(inner);
        self.give(gate_up);
        self.normed_backward(gate_and_up, gate_up);
        self.layers_backward(output, 0);
        self.memory.take(Class::Workspace, self.n * self.heads * 4);
        self.take(Class::Workspace, 3 * x);
        self.memory.give(self.n * self.heads * 4);
        self.memory.give(self.n * self.heads * 4);
        self.give(x);
        self.give(x);
        self.give(3 * x);
        self.normed_backward(query_key_value, 3 * x);
    }

    /// Layers behind a norm, from the gradient of their outputs, which is given back. What comes out is added to the gradient
    /// that goes past them, in place.
    fn normed_backward(&mut self, layers: Layers, outputs: u64) {
        let x = self.n * self.d;
        self.take(Class::Workspace, x);
        self.layers_backward(layers, x);
        self.give(outputs);
        self.norm_backward();
        self.give(x);
        self.give(x);
    }

    /// The gradient of the embedding.
    fn embedding_backward(&mut self, vocabulary: u64) {
        self.memory.take(Class::Workspace, self.n * 4);
        self.memory.take(Class::Workspace, (vocabulary + 1) * 4);
        self.take(Class::Gradients, vocabulary * self.d);
        self.memory.give(self.n * 4);
        self.memory.give((vocabulary + 1) * 4);
        self.give(self.n * self.d);
    }
}
