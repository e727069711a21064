//! What a run will cost, known before anything runs: operations of a token, bytes by class.

mod gpu;

use crate::device::Precision;
use crate::low_rank::{Base, LowRank, Scaling};
use crate::network::Network;
use crate::ops::cpu::cross_entropy::{BLOCK_ROWS, SUMS};

/// Floating-point operations of one token of training, forward and backward, at sequences of `length` tokens.
///
/// A matrix of P elements costs 2P forward, 2P for its input's gradient and 2P for its own, which a frozen matrix
/// does without. Attention costs `2·length·D` a layer forward, since a token sees half of its row on average, and
/// twice that backward. Recomputed scores, norms, activations and the optimizer are not counted. Low-rank terms are
/// counted as if they passed the rank, whichever way a device takes.
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

/// [`flops_per_token`] at full rank, with what is computed a second time where blocks are recomputed: their forward pass, a
/// third of what they cost. What training needs does not change with it, its time does.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn full_rank_flops_computed_per_token(
    network: &Network,
    length: usize,
    recompute: bool,
) -> f64 {
    let needed = flops_per_token(network, None, length);
    let head = 6.0 * (network.vocabulary * network.hidden) as f64;
    let again = if recompute { needed - head } else { 0.0 };
    needed + again / 3.0
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
    /// The part of the logits that exists at a time; in f32 on the CPU.
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
    /// Whether a GPU takes it, whose operations have other temporary tensors.
    pub on_gpu: bool,
}

/// Memory of a training step at its peak, without the allocator's own.
///
/// On the CPU the peak is one of the moments of a step: when the loss is computed, all activations exist, and the head's gradient
/// grows; when the last block's backward pass begins, gradients of activations join them; when the first block's does, all
/// gradients but the embedding's are there; at the end, the activations have made way for the gradients of all parameters.
/// The piece of the logits is kept from step to step. On a GPU memory is kept by size (`cost/gpu.rs`).
#[must_use]
pub fn bytes(network: &Network, low_rank: Option<&LowRank>, step: &Step) -> Bytes {
    if step.on_gpu {
        return gpu::bytes(network, low_rank, step);
    }
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
    let tokens = (step.rows * step.length) as u64;
    let logit_rows = tokens.min(BLOCK_ROWS as u64);
    let trainable = network.trainable_parameters(low_rank) * state_bytes;
    // The embedding is as large as the head.
    let table = network.vocabulary as u64 * d * state_bytes;
    let of_a_block = (trainable - 2 * table) / layers;
    let waiting = if step.accumulates { trainable } else { 0 };
    let values = |count: u64| tokens * count * value_bytes;
    let block = tokens * block_bytes(network, low_rank, value_bytes);
    // Before the loss: what the last norm reads, and the gradient that the loss leaves for what it writes.
    let around = values(2 * d);
    let sums = logit_rows * SUMS as u64 * d * 4;
    let in_a_block = values(4 * d + i);
    let moment = |gradients: u64, activations: u64, workspace: u64| Bytes {
        weights: network.total_parameters(low_rank) * (value_bytes + master_bytes),
        gradients,
        moments: 2 * trainable,
        activations,
        logits: logit_rows * network.vocabulary as u64 * 4,
        workspace,
    };
    let moments = if step.recompute {
        let inputs = values(layers * d);
        // A pass over one block ends with its gradients added to those that wait, or taken as they are.
        let (from_above, from_all, last) = if step.accumulates {
            (waiting + of_a_block, waiting + of_a_block, waiting + table)
        } else {
            (table + of_a_block, trainable - table, trainable)
        };
        vec![
            // What a block has left is free again, but in pieces in which the head's gradient finds no room.
            moment(waiting + table, inputs + around, block + sums),
            moment(from_above, inputs + around + block, in_a_block),
            moment(from_all, values(d) + block, in_a_block),
            moment(last, 0, values(d)),
        ]
    } else {
        let all = layers * block + around;
        vec![
            moment(waiting + table, all, sums),
            moment(waiting + table, all, in_a_block),
            moment(waiting + trainable - table, block, in_a_block),
            moment(waiting + trainable, 0, values(d)),
        ]
    };
    moments
        .into_iter()
        .max_by_key(Bytes::total)
        .unwrap_or_default()
}

/// Bytes that a block keeps of each token for its backward pass.
fn block_bytes(network: &Network, low_rank: Option<&LowRank>, value_bytes: u64) -> u64 {
    let (d, i) = (network.hidden as u64, network.intermediate as u64);
    // The inputs of its two norms; query, key, value and what attention makes of them; gate and up. What is normed or
    // activated is computed again when gradients are due.
    let values = 6 * d + 2 * i;
    let (scaled, masks) = match low_rank {
        None => (0, 0),
        Some(low_rank) => {
            let scaled = match low_rank.scaling {
                Scaling::Fixed(_) => 0,
                // The product before its scalar, and what layers read that are computed apart.
                Scaling::TanhScalar => 7 * d + 3 * i,
            };
            // A bit for each element that a layer reads.
            let masks = if low_rank.dropout > 0.0 {
                (6 * d + i).div_ceil(8)
            } else {
                0
            };
            (scaled, masks)
        }
    };
    (values + scaled) * value_bytes + 4 * network.heads as u64 + masks
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
    fn recomputed_blocks_cost_their_forward_pass_again() {
        let network = Network::named("60m", 32_100).unwrap();
        let needed = flops_per_token(&network, None, 256);
        let computed = |recompute| full_rank_flops_computed_per_token(&network, 256, recompute);
        assert_eq!(computed(false), needed);
        // 2 operations a weight of the linear layers, and 2·256·512 a layer of attention
        let forward = 2.0 * 25_296_896.0 + 2.0 * 256.0 * 512.0 * 8.0;
        assert_eq!(computed(true), needed + forward);
    }

    /// In bf16 with the micro-batches of the profile `paper`. What dropout takes grows with the tokens, and what moments save does
    /// not: at 60M low-rank training takes more from some 11,500 tokens on. The plan itself is held against what the driver is asked
    /// for by `just dry-runs`.
    #[test]
    fn on_a_gpu_low_rank_training_takes_less_memory_than_full_rank() {
        let low_rank = LowRank {
            rank: 128,
            scaling: Scaling::Fixed(0.25),
            base: Base::Keep,
            factor_init: FactorInit::KaimingZero,
            dropout: 0.1,
        };
        for (size, rows, length) in [
            ("60m", 40, 256),
            ("130m", 60, 256),
            ("250m", 24, 512),
            ("350m", 16, 512),
        ] {
            let network = Network::named(size, 32_100).unwrap();
            let step = Step {
                precision: Precision::Bf16,
                rows,
                length,
                accumulates: true,
                recompute: false,
                on_gpu: true,
            };
            let full = bytes(&network, None, &step).total();
            let relora = bytes(&network, Some(&low_rank), &step).total();
            assert!(relora < full, "{size}: {relora} and {full}");
            let again = Step {
                recompute: true,
                ..step
            };
            assert!(bytes(&network, None, &again).total() < full, "{size}");
        }
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
            on_gpu: false,
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
