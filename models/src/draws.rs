//! Every random number of a run, as a pure function of what it is for.
//!
//! There is no stream and no state: a draw is keyed by the run's seed, the tensor's name, its purpose and the step,
//! so that nothing random need be saved, and adding a draw moves no other.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Standard deviation of freshly drawn weights (`initializer_range` of the official configs).
const WEIGHT_STANDARD_DEVIATION: f32 = 0.02;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// The tensor's name, as in [`TensorInfo`](crate::TensorInfo).
    pub name: &'a str,
    /// What the values are for; it decides their distribution.
    pub role: DrawRole,
    /// Updates done when it is drawn; for dropout, the index of the batch.
    pub step: u64,
    /// Rows and columns; the values are row-major.
    pub shape: [usize; 2],
}

/// What drawn values are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawRole {
    /// A weight of the network: N(0, 0.02).
    Weight,
    /// The factor A `[r, in]`: uniform in ±1/√in, which is Kaiming's with a = √5.
    FactorA,
    /// The factor B `[out, r]`, where it is not zero: uniform in ±1/√r.
    FactorB,
    /// Uniform in [0, 1): the first moment is kept where it is above the ratio.
    KeepFirst,
    /// The same for the second moment.
    KeepSecond,
    /// Uniform in [0, 1): the run's part of the key of every mask of dropout, drawn once when the factors are attached.
    Dropout,
}

/// The source of random values: seeded in a run, recorded in a replay of someone else's.
pub trait Draws {
    /// Values for `what`, row-major, exactly as many as its shape has elements. The same question has the same answer.
    fn values(&self, what: &Draw<'_>) -> Vec<f32>;
}

/// Draws that follow from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The run's seed.
    pub seed: u64,
}

impl Seeded {
    /// A key of its own for each draw: BLAKE3 of all that it depends on, so that neighbouring seeds and steps share
    /// nothing.
    fn key(self, what: &Draw<'_>) -> [u8; 32] {
        let mut key = blake3::Hasher::new();
        key.update(&self.seed.to_le_bytes());
        key.update(&what.step.to_le_bytes());
        key.update(&[match what.role {
            DrawRole::Weight => 0,
            DrawRole::FactorA => 1,
            DrawRole::FactorB => 2,
            DrawRole::KeepFirst => 3,
            DrawRole::KeepSecond => 4,
            DrawRole::Dropout => 5,
        }]);
        key.update(what.name.as_bytes());
        *key.finalize().as_bytes()
    }

    /// The key of a draw for Philox4x32, which takes 64 bits.
    pub(crate) fn philox_key(self, what: &Draw<'_>) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h, ..] = self.key(what);
        [
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        ]
    }

    fn generator(self, what: &Draw<'_>) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key(what))
    }
}

/// Uniform in [0, 1) with the 24 bits that an `f32` holds.
#[expect(clippy::cast_precision_loss, reason = "24 bits are exact in f32")]
fn unit(generator: &mut ChaCha8Rng) -> f32 {
    (generator.next_u32() >> 8) as f32 / 16_777_216.0
}

impl Draws for Seeded {
    fn values(&self, what: &Draw<'_>) -> Vec<f32> {
        let mut generator = self.generator(what);
        let count = what.shape[0] * what.shape[1];
        match what.role {
            DrawRole::Weight => (0..count)
                .map(|_| {
                    let standard: f32 = StandardNormal.sample(&mut generator);
                    WEIGHT_STANDARD_DEVIATION * standard
                })
                .collect(),
            DrawRole::FactorA | DrawRole::FactorB => {
                #[expect(clippy::cast_precision_loss, reason = "a layer is narrower than 2^24")]
                let bound = 1.0 / (what.shape[1] as f32).sqrt();
                (0..count)
                    .map(|_| bound * (2.0 * unit(&mut generator) - 1.0))
                    .collect()
            }
            DrawRole::KeepFirst | DrawRole::KeepSecond | DrawRole::Dropout => {
                (0..count).map(|_| unit(&mut generator)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(name: &str, role: DrawRole, step: u64) -> Draw<'_> {
        Draw {
            name,
            role,
            step,
            shape: [64, 256],
        }
    }

    #[test]
    fn a_draw_depends_on_seed_name_role_and_step_alone() {
        let seeded = Seeded { seed: 7 };
        let values = seeded.values(&draw("a", DrawRole::KeepFirst, 3));
        assert_eq!(values, seeded.values(&draw("a", DrawRole::KeepFirst, 3)));
        assert_ne!(values, seeded.values(&draw("b", DrawRole::KeepFirst, 3)));
        assert_ne!(values, seeded.values(&draw("a", DrawRole::KeepSecond, 3)));
        assert_ne!(values, seeded.values(&draw("a", DrawRole::KeepFirst, 4)));
        assert_ne!(
            values,
            Seeded { seed: 8 }.values(&draw("a", DrawRole::KeepFirst, 3))
        );
    }

    #[test]
    fn weights_are_normal_and_factors_uniform_within_their_bound() {
        let weights = Seeded { seed: 1 }.values(&draw("w", DrawRole::Weight, 0));
        let mean = weights.iter().sum::<f32>() / weights.len() as f32;
        let deviation =
            (weights.iter().map(|value| value * value).sum::<f32>() / weights.len() as f32).sqrt();
        // 16384 draws: the standard error is 0.02/128 for the mean, about 0.02/181 for the deviation
        assert!(mean.abs() < 0.02 / 128.0 * 5.0, "{mean}");
        assert!((deviation - 0.02).abs() < 0.02 / 181.0 * 5.0, "{deviation}");

        let factors = Seeded { seed: 1 }.values(&draw("a", DrawRole::FactorA, 0));
        let largest = factors
            .iter()
            .fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(largest <= 1.0 / 16.0 && largest > 0.99 / 16.0, "{largest}");
    }
}
