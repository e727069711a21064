//! Shapes of networks: the official ones by name, a few for laptops, and what each counts in parameters.
//!
//! The official shapes are the `configs/*.json` of `Guitaricet/relora@176f376`; the vocabulary is not part of a
//! shape here, because it belongs to the tokenizer.

use crate::low_rank::{Base, LowRank, Scaling};

/// The shape of a LLaMA without biases and with an untied output head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Width of the residual stream, `D`.
    pub hidden: usize,
    /// Width inside the MLP, `I`.
    pub intermediate: usize,
    /// Number of blocks, `N`.
    pub layers: usize,
    /// Attention heads in each block; `hidden / heads` is the head's width.
    pub heads: usize,
    /// Number of tokens, `V`.
    pub vocabulary: usize,
    /// A row of the embedding that is zero and never trained. The official code has one by accident: its
    /// `pad_token_id = -1` makes the last token of the vocabulary the embedding's padding.
    pub frozen_embedding_row: Option<u32>,
}

/// What makes a network, or its low-rank form, impossible.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// A width, a depth or the vocabulary is zero.
    #[error("the network's {what} is 0; it must be at least 1")]
    Zero {
        /// Which number.
        what: &'static str,
    },
    /// The heads do not share the hidden width evenly.
    #[error("{heads} heads do not divide a hidden width of {hidden}; choose a divisor of {hidden}")]
    HeadsDoNotDivide {
        /// Number of heads.
        heads: usize,
        /// Hidden width.
        hidden: usize,
    },
    /// Rotary positions turn pairs of coordinates, so a head must be of even width.
    #[error(
        "{heads} heads of a hidden width of {hidden} are {width} wide; rotary positions need an even width"
    )]
    OddHead {
        /// Number of heads.
        heads: usize,
        /// Hidden width.
        hidden: usize,
        /// Width of one head.
        width: usize,
    },
    /// The frozen row is not a row of the embedding.
    #[error("the frozen embedding row {row} is outside a vocabulary of {vocabulary}")]
    FrozenRow {
        /// The row asked for.
        row: u32,
        /// Rows there are.
        vocabulary: usize,
    },
    /// The rank is zero or above what the smallest side of a layer can have.
    #[error("rank {rank} does not fit a layer of {smallest} x {largest}; choose 1 to {smallest}")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// The smallest side of any wrapped layer.
        smallest: usize,
        /// The largest side of any wrapped layer.
        largest: usize,
    },
    /// Dropout is a share.
    #[error("dropout {dropout} is not a share; choose a number from 0 up to, but not including, 1")]
    Dropout {
        /// The value asked for.
        dropout: f64,
    },
}

/// Name, hidden, intermediate, layers, heads.
type Shape = (&'static str, usize, usize, usize, usize);

/// The official shapes, smallest first.
const OFFICIAL: [Shape; 13] = [
    ("9m", 128, 352, 4, 4),
    ("20m", 256, 688, 4, 4),
    ("35m", 384, 1024, 6, 8),
    ("40m", 416, 1024, 8, 8),
    ("60m", 512, 1376, 8, 8),
    ("71m", 512, 1368, 12, 8),
    ("100m", 640, 1708, 12, 10),
    ("130m", 768, 2048, 12, 12),
    ("250m", 768, 2560, 24, 16),
    ("350m", 1024, 2736, 24, 16),
    ("1b", 2048, 5461, 24, 32),
    ("3b", 2560, 6848, 32, 32),
    ("7b", 4096, 11008, 32, 32),
];

/// Our own shapes, for two cores and a small vocabulary; they follow the official ratio `I ≈ 8/3 D`.
const LAPTOP: [Shape; 3] = [
    ("nano", 64, 176, 2, 4),
    ("micro", 128, 352, 4, 4),
    ("mini", 256, 688, 4, 4),
];

/// The paper's control networks: for each size, the official shape that is nearest to what ReLoRA trains there.
const CONTROLS: [(&str, &str); 5] = [
    ("60m", "40m"),
    ("130m", "71m"),
    ("250m", "100m"),
    ("350m", "130m"),
    ("1b", "250m"),
];

const NAMES: [&str; 16] = [
    "nano", "micro", "mini", "9m", "20m", "35m", "40m", "60m", "71m", "100m", "130m", "250m",
    "350m", "1b", "3b", "7b",
];

fn from_shape((_, hidden, intermediate, layers, heads): Shape, vocabulary: usize) -> Network {
    Network {
        hidden,
        intermediate,
        layers,
        heads,
        vocabulary,
        frozen_embedding_row: None,
    }
}

impl Network {
    /// Every name that [`Network::named`] knows.
    #[must_use]
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Whether the paper or its code publishes a shape of that name, rather than this project.
    #[must_use]
    pub fn is_official(name: &str) -> bool {
        OFFICIAL.iter().any(|shape| shape.0 == name)
    }

    /// The shape of that name over a vocabulary of so many tokens; `None` for a name that is not known.
    #[must_use]
    pub fn named(name: &str, vocabulary: usize) -> Option<Network> {
        let shape = OFFICIAL
            .iter()
            .chain(&LAPTOP)
            .find(|shape| shape.0 == name)?;
        Some(from_shape(*shape, vocabulary))
    }

    /// Whether such a network can exist.
    ///
    /// # Errors
    /// Names the number that cannot be and what it could be.
    pub fn check(&self) -> Result<(), NetworkError> {
        for (what, value) in [
            ("hidden width", self.hidden),
            ("intermediate width", self.intermediate),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("vocabulary", self.vocabulary),
        ] {
            if value == 0 {
                return Err(NetworkError::Zero { what });
            }
        }
        let Network {
            hidden,
            heads,
            vocabulary,
            ..
        } = *self;
        if !hidden.is_multiple_of(heads) {
            return Err(NetworkError::HeadsDoNotDivide { heads, hidden });
        }
        if !(hidden / heads).is_multiple_of(2) {
            return Err(NetworkError::OddHead {
                heads,
                hidden,
                width: hidden / heads,
            });
        }
        match self.frozen_embedding_row {
            Some(row) if row as usize >= vocabulary => {
                Err(NetworkError::FrozenRow { row, vocabulary })
            }
            _ => Ok(()),
        }
    }

    /// All parameters at full rank: `2VD + N(4D² + 3DI) + (2N + 1)D`.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (d, n, v) = (
            self.hidden as u64,
            self.layers as u64,
            self.vocabulary as u64,
        );
        2 * v * d + self.linear_parameters() + (2 * n + 1) * d
    }

    /// The seven linear layers of each block, which the low-rank form freezes: `N(4D² + 3DI)`.
    #[must_use]
    pub fn linear_parameters(&self) -> u64 {
        let (d, i, n) = (
            self.hidden as u64,
            self.intermediate as u64,
            self.layers as u64,
        );
        n * (4 * d * d + 3 * d * i)
    }

    /// What the low-rank form adds: `N·r(11D + 3I)`, and `7N` learned scalings where there are any.
    #[must_use]
    pub fn low_rank_parameters(&self, low_rank: &LowRank) -> u64 {
        let (d, i, n) = (
            self.hidden as u64,
            self.intermediate as u64,
            self.layers as u64,
        );
        let scalars = match low_rank.scaling {
            Scaling::Fixed(_) => 0,
            Scaling::TanhScalar => 7 * n,
        };
        n * low_rank.rank as u64 * (11 * d + 3 * i) + scalars
    }

    /// What the optimizer trains: everything, or all but the linear layers and their factors on top.
    #[must_use]
    pub fn trainable_parameters(&self, low_rank: Option<&LowRank>) -> u64 {
        match low_rank {
            None => self.parameters(),
            Some(low_rank) => {
                self.parameters() - self.linear_parameters() + self.low_rank_parameters(low_rank)
            }
        }
    }

    /// What is held: the trainable parameters and the frozen weights, which [`Base::None`] does away with.
    #[must_use]
    pub fn total_parameters(&self, low_rank: Option<&LowRank>) -> u64 {
        let frozen = match low_rank {
            Some(LowRank {
                base: Base::Keep | Base::Zero,
                ..
            }) => self.linear_parameters(),
            Some(LowRank {
                base: Base::None, ..
            })
            | None => 0,
        };
        self.trainable_parameters(low_rank) + frozen
    }

    /// The `control` network: trained at full rank, and as near as possible to `parameters`, with the same
    /// vocabulary.
    ///
    /// For the sizes of the paper it is the official shape that the paper's control appears to be (60m: 40m,
    /// 130m: 71m, 250m: 100m, 350m: 130m, 1b: 250m). Any other shape keeps its depth and its heads, and its widths
    /// are searched: hidden up to twice its own, intermediate from 2 to 4 times the hidden one. Of those within 0.5 %
    /// of the count, the one nearest to the usual `I = 8/3 D` wins; where there is none, the one nearest to the count.
    #[must_use]
    pub fn matched(&self, parameters: u64) -> Network {
        let official = OFFICIAL.iter().find(|shape| {
            (shape.1, shape.2, shape.3, shape.4)
                == (self.hidden, self.intermediate, self.layers, self.heads)
        });
        let control = official.and_then(|shape| CONTROLS.iter().find(|pair| pair.0 == shape.0));
        if let Some(network) = control.and_then(|pair| Network::named(pair.1, self.vocabulary)) {
            return Network {
                frozen_embedding_row: self.frozen_embedding_row,
                ..network
            };
        }
        let step = 2 * self.heads.max(1);
        (step..=2 * self.hidden.max(step))
            .step_by(step)
            .flat_map(|hidden| {
                (2 * hidden..=4 * hidden).map(move |intermediate| (hidden, intermediate))
            })
            .map(|(hidden, intermediate)| Network {
                hidden,
                intermediate,
                ..self.clone()
            })
            .min_by_key(|network| {
                let miss = network.parameters().abs_diff(parameters);
                let oddness =
                    1000 * (3 * network.intermediate).abs_diff(8 * network.hidden) / network.hidden;
                let near = miss <= parameters / 200;
                (!near, if near { oddness } else { 0 }, miss, network.hidden)
            })
            .unwrap_or_else(|| self.clone())
    }
}
