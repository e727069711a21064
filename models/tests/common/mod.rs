//! What the tests of this crate share: learners to try things on.
#![allow(dead_code, reason = "each test binary uses its own part")]

use burn_flex::Flex;
use models::{
    AdamW, Base, Batch, Device, FactorInit, Learner, LowRank, Network, Precision, Scaling, Seeded,
    TensorRole,
};

/// CPU tensors of two dimensions.
pub type Matrix = burn::tensor::Tensor<Flex, 2>;

/// Adam as the official code sets it up.
pub const ADAMW: AdamW = AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.0,
};

pub fn low_rank() -> LowRank {
    LowRank {
        rank: 4,
        scaling: Scaling::Fixed(2.0),
        base: Base::Keep,
        factor_init: FactorInit::KaimingZero,
        dropout: 0.0,
    }
}

pub fn cpu_learner(network: &Network, adamw: &AdamW, seed: u64) -> Box<dyn Learner> {
    models::learner(
        network,
        adamw,
        Device::Cpu,
        Precision::F32,
        &Seeded { seed },
    )
    .unwrap()
}

/// Rows of tokens in which each follows from the one before, so that there is something to learn.
pub struct Rows {
    pub inputs: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Rows {
    pub const COUNT: usize = 4;
    pub const LENGTH: usize = 16;

    pub fn new(seed: u64) -> Self {
        let row = |row: u64| {
            (0..=Self::LENGTH as u64)
                .map(move |position| ((seed * 31 + row * 17 + position * 7) % 61) as u32)
        };
        let rows: Vec<Vec<u32>> = (0..Self::COUNT as u64)
            .map(|number| row(number).collect())
            .collect();
        Self {
            inputs: rows
                .iter()
                .flat_map(|row| row[..Self::LENGTH].to_vec())
                .collect(),
            targets: rows.iter().flat_map(|row| row[1..].to_vec()).collect(),
        }
    }

    pub fn batch(&self, index: u64) -> Batch<'_> {
        Batch {
            inputs: &self.inputs,
            targets: &self.targets,
            rows: Self::COUNT,
            length: Self::LENGTH,
            index,
        }
    }

    /// The weight that makes the gradient that of the mean.
    pub fn weight(&self) -> f64 {
        1.0 / (Self::COUNT * Self::LENGTH) as f64
    }
}

/// Everything that a checkpoint would hold.
pub fn snapshot(learner: &dyn Learner) -> Vec<(String, TensorRole, Vec<u8>)> {
    let tensors = learner.tensors().into_iter();
    tensors
        .map(|info| {
            (
                info.name.clone(),
                info.role,
                learner.read(&info.name).unwrap(),
            )
        })
        .collect()
}

pub fn read_floats(learner: &dyn Learner, name: &str) -> Vec<f32> {
    learner
        .read(name)
        .unwrap()
        .as_chunks()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}

pub fn write_floats(learner: &mut dyn Learner, name: &str, values: &[f32]) {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    learner.write(name, &bytes).unwrap();
}

/// `max |a - b| / max |b|`.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let difference = a
        .iter()
        .zip(b)
        .fold(0.0f32, |difference, (a, b)| difference.max((a - b).abs()));
    difference / largest.max(f32::MIN_POSITIVE)
}
