//! What a run will cost, known before anything runs: operations of a token, bytes by class.

use crate::device::Precision;
use crate::low_rank::{Base, LowRank};
use crate::network::Network;

/// Rows of logits that exist at a time; the loss is computed in pieces of so many tokens.
const LOGIT_ROWS: u64 = 512;

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

/// Bytes of device memory by class. Weights, gradients and moments are exact; the others are what the operations keep
/// for the backward pass, without the allocator's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// All parameters, frozen ones included, and f32 masters where there are any.
    pub weights: u64,
    /// One gradient of each trainable parameter.
    pub gradients: u64,
    /// Two moments of each trainable parameter.
    pub moments: u64,
    /// What the backward pass needs of the forward pass.
    pub activations: u64,
    /// The part of the logits that exists at a time, in f32.
    pub logits: u64,
    /// Gradients of activations within one block.
    pub workspace: u64,
}

impl Bytes {
    /// All classes together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.classes().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Every class by name.
    #[must_use]
    pub fn classes(&self) -> [(&'static str, u64); 6] {
        let Bytes {
            weights,
            gradients,
            moments,
            activations,
            logits,
            workspace,
        } = *self;
        [
            ("weights", weights),
            ("gradients", gradients),
            ("moments", moments),
            ("activations", activations),
            ("logits", logits),
            ("workspace", workspace),
        ]
    }
}

/// Memory of training with micro-batches of `rows` sequences of `length` tokens.
#[must_use]
pub fn bytes(
    network: &Network,
    low_rank: Option<&LowRank>,
    precision: Precision,
    rows: usize,
    length: usize,
) -> Bytes {
    let value_bytes = match precision {
        Precision::F32 => 4,
        Precision::Bf16 | Precision::Bf16Master => 2,
    };
    let (state_bytes, master_bytes) = match precision {
        Precision::F32 => (4, 0),
        Precision::Bf16 => (2, 0),
        Precision::Bf16Master => (4, 4),
    };
    let total = network.total_parameters(low_rank);
    let trainable = network.trainable_parameters(low_rank);
    let (d, i, layers) = (
        network.hidden as u64,
        network.intermediate as u64,
        network.layers as u64,
    );
    let tokens = (rows * length) as u64;
    // A block keeps the inputs of its two norms, the two normed states, q, k, v and the mixed values, each D wide,
    // and gate, up and their product, each I wide; besides, a log-sum-exp for each head and, where there are
    // factors, x·Aᵀ of its seven layers.
    let rank = low_rank.map_or(0, |low_rank| low_rank.rank as u64);
    let block = (8 * d + 3 * i + 7 * rank) * value_bytes + 4 * network.heads as u64;
    Bytes {
        weights: total * (value_bytes + master_bytes),
        gradients: trainable * state_bytes,
        moments: 2 * trainable * state_bytes,
        activations: tokens * (layers * block + 2 * d * value_bytes),
        logits: tokens.min(LOGIT_ROWS) * network.vocabulary as u64 * 4,
        workspace: tokens * (4 * d + 3 * i) * value_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FactorInit, Scaling};

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
        let full = bytes(&network, None, Precision::Bf16, 60, 512);
        let relora = bytes(&network, Some(&low_rank), Precision::Bf16, 60, 512);
        assert!(relora.weights > full.weights && relora.moments < full.moments);
        // arithmetic on the paper's counts: 368,174,080 parameters of 2 bytes, once and twice; 125,608,960 trainable
        assert_eq!(
            full.weights + full.gradients + full.moments,
            8 * 368_174_080
        );
        assert_eq!(relora.moments, 4 * 125_608_960);
    }
}
