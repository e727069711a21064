//! What a run will cost, known before anything runs: operations of a token, bytes by class.

use crate::device::Precision;
use crate::low_rank::{Base, LowRank, Scaling};
use crate::network::Network;

/// Rows of logits that exist at a time; the loss is computed in pieces of so many tokens.
const LOGIT_ROWS: u64 = 512;

/// Parts in which the gradient of those rows' hidden states is summed.
const LOGIT_SUMS: u64 = 16;

/// Floating-point operations of one token of training, forward and backward, at sequences of `length` tokens.
///
/// A matrix of P elements costs 2P forward, 2P for its input's gradient and 2P for its own, which a frozen matrix
/// does without. Attention costs `2·length·D` a layer forward, since a token sees half of its row on average, and
/// twice that backward. Recomputed scores, norms, activations and the optimizer are not counted.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn flops_per_token(network: &Network, low_rank: Option<&LowRank>, length: usize) -> f64 {
    let linear = network.linear_parameters() as f64;
    let head = (network.vocabulary * network.hidden) as f64;
    let linears = match low_rank {
        None => 6.0 * linear,
        Some(low_rank) => {
            let frozen = if low_rank.base == Base::None {
                0.0
            } else {
                4.0 * linear
            };
            frozen + 6.0 * network.low_rank_parameters(low_rank) as f64
        }
    };
    let attention = 6.0 * (length * network.hidden * network.layers) as f64;
    linears + 6.0 * head + attention
}

/// Bytes of device memory by class, at the moment of a step when there are most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// All parameters, frozen ones included, and f32 masters where there are any.
    pub weights: u64,
    /// Gradients of trainable parameters that exist at that moment.
    pub gradients: u64,
    /// Two moments of each trainable parameter.
    pub moments: u64,
    /// What the backward pass needs of the forward pass.
    pub activations: u64,
    /// The part of the logits that exists at a time, in f32.
    pub logits: u64,
    /// Gradients of activations within one block, or what the head sums up those of its input in.
    pub workspace: u64,
}

impl Bytes {
    /// All classes together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Bytes {
            weights,
            gradients,
            moments,
            activations,
            logits,
            workspace,
        } = *self;
        weights + gradients + moments + activations + logits + workspace
    }
}

/// How a step is taken, as far as its memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of weights, gradients and moments.
    pub precision: Precision,
    /// Sequences of a micro-batch.
    pub rows: usize,
    /// Tokens of each.
    pub length: usize,
    /// Whether an update has several micro-batches, so that the gradients of the earlier ones wait for it.
    pub accumulates: bool,
    /// Whether blocks are computed a second time instead of kept ([`Learner::recompute_blocks`](crate::Learner)).
    pub recompute: bool,
}

/// Memory of a training step at its peak, without the allocator's own.
///
/// A step has three moments that can be its peak: when the loss is computed, all activations exist, and the head's gradient
/// grows; when the last block's backward pass begins, gradients of activations join them; at the end, the activations have
/// made way for the gradients of all parameters. The piece of the logits is kept from step to step.
#[must_use]
pub fn bytes(network: &Network, low_rank: Option<&LowRank>, step: &Step) -> Bytes {
    let (value_bytes, state_bytes, master_bytes) = match step.precision {
        Precision::F32 => (4, 4, 0),
        Precision::Bf16 => (2, 2, 0),
        Precision::Bf16Master => (2, 4, 4),
    };
    let (d, i, layers) = (
        network.hidden as u64,
        network.intermediate as u64,
        network.layers as u64,
    );
    let trainable = network.trainable_parameters(low_rank) * state_bytes;
    let head = network.vocabulary as u64 * d * state_bytes;
    let tokens = (step.rows * step.length) as u64;
    let block = block_values(network, low_rank) * value_bytes + 4 * network.heads as u64;
    // Before the loss: what the last norm reads, and the gradient that the loss leaves for what it writes.
    let around = 2 * d * value_bytes;
    let kept = if step.recompute {
        layers * d * value_bytes
    } else {
        layers * block
    };
    let logit_rows = tokens.min(LOGIT_ROWS);
    let waiting = if step.accumulates { trainable } else { 0 };
    let held = Bytes {
        weights: network.total_parameters(low_rank) * (value_bytes + master_bytes),
        gradients: waiting + head,
        moments: 2 * trainable,
        activations: tokens * (kept + around),
        logits: logit_rows * network.vocabulary as u64 * 4,
        workspace: 0,
    };
    let again = if step.recompute { tokens * block } else { 0 };
    let at_the_loss = Bytes {
        // What a block has left is free again, but in pieces in which the head's gradient finds no room.
        workspace: again + logit_rows * LOGIT_SUMS * d * 4,
        ..held
    };
    let in_a_block = Bytes {
        activations: held.activations + again,
        workspace: tokens * (4 * d + i) * value_bytes,
        ..held
    };
    let at_the_end = Bytes {
        gradients: waiting + trainable,
        activations: 0,
        workspace: tokens * d * value_bytes,
        ..held
    };
    [at_the_loss, in_a_block, at_the_end]
        .into_iter()
        .max_by_key(Bytes::total)
        .unwrap_or_default()
}

/// Values that a block keeps of each token for its backward pass.
fn block_values(network: &Network, low_rank: Option<&LowRank>) -> u64 {
    let (d, i) = (network.hidden as u64, network.intermediate as u64);
    // The inputs of its two norms; query, key, value and what attention makes of them; gate and up.
    let always = 6 * d + 2 * i;
    // What each linear layer reads. Query, key and value share it, as do gate and up, and attention keeps its output anyway.
    let read = 2 * d + i;
    let Some(low_rank) = low_rank else {
        return always + read;
    };
    let projected = 7 * low_rank.rank as u64;
    // Each layer has a mask and a masked input of its own then, and a frozen weight needs no input at all.
    let masked = 6 * d + i;
    let inputs = if low_rank.dropout > 0.0 {
        2 * masked
    } else {
        read
    };
    let scaled = match low_rank.scaling {
        Scaling::Fixed(_) => 0,
        // The product before its scalar.
        Scaling::TanhScalar => 5 * d + 2 * i,
    };
    always + inputs + projected + scaled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FactorInit;

    #[test]
    fn a_full_rank_token_costs_six_operations_a_weight_and_its_attention() {
        let network = Network::named("60m", 32_100).unwrap();
        // from the official config: 25,296,896 in linear layers, 32,100 x 512 in the head
        let expected = 6.0 * (25_296_896.0 + 32_100.0 * 512.0) + 6.0 * 256.0 * 512.0 * 8.0;
        assert_eq!(flops_per_token(&network, None, 256), expected);
    }

    #[test]
    fn low_rank_training_holds_more_weights_and_fewer_moments() {
        let network = Network::named("350m", 32_100).unwrap();
        let low_rank = LowRank {
            rank: 128,
            scaling: Scaling::Fixed(0.25),
            base: Base::Keep,
            factor_init: FactorInit::KaimingZero,
            dropout: 0.0,
        };
        let step = Step {
            precision: Precision::Bf16,
            rows: 60,
            length: 512,
            accumulates: true,
            recompute: false,
        };
        let full = bytes(&network, None, &step);
        let relora = bytes(&network, Some(&low_rank), &step);
        assert!(relora.weights > full.weights && relora.moments < full.moments);
        // arithmetic on the paper's counts: 368,174,080 parameters of 2 bytes, once and twice; 125,608,960 trainable
        assert_eq!(full.weights + full.moments, 6 * 368_174_080);
        assert_eq!(relora.moments, 4 * 125_608_960);
        // and 32,100 x 1024 of the head beside those of an earlier micro-batch
        assert_eq!(full.gradients, 2 * (368_174_080 + 32_100 * 1024));
        let again = Step {
            recompute: true,
            ..step
        };
        assert!(4 * bytes(&network, None, &again).activations < full.activations);
    }
}
