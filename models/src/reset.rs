//! Pruning of Adam's moments after a restart.
//!
//! Only the moments of the factors are touched: not those of scalars, norms, embedding and head, and not Adam's step
//! count, so no new bias correction follows. After `training_utils.py` of `Guitaricet/relora@176f376`.

use burn::tensor::{Bool, Tensor, TensorData};
use half::bf16;

use crate::draws::{Draw, DrawRole, Draws};
use crate::fault::DeviceFault;
use crate::ops::{self, magnitudes};
use crate::parameter::{Dtype, Moments, Parameter, Role, dtype_of};

/// How the factors' moments are pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MomentReset {
    /// Which elements are dropped.
    pub kind: ResetKind,
    /// Whether both moments drop the same ones.
    pub mask: Mask,
}

/// Which elements of a moment become zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ResetKind {
    /// All of them.
    Zero,
    /// All but those whose magnitude is above this quantile of their tensor's magnitudes.
    Magnitude(f64),
    /// Each with this probability.
    Random(f64),
}

/// Whether the two moments of a parameter are pruned alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// The first moment decides for both: by its own magnitudes, or by its own draw. So no element keeps a first
    /// moment over a second that is zero, which would make its next step `m / epsilon`.
    Joint,
    /// Each by its own magnitudes or draw, as in the official code.
    Separate,
}

/// What a reset did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetReport {
    /// Elements of the factors' moments, both moments counted.
    pub total: u64,
    /// Those that the reset dropped, whether or not they were zero before.
    pub zeroed: u64,
}

/// Where the quantile of so many values lies: at or between two neighbours of their ascending order.
///
/// The place is `ratio·(n - 1)` in f32. Between neighbours `a` and `b` at a distance `w` from `a` the quantile is
/// `a + w(b - a)` below one half and `b - (b - a)(1 - w)` from there on, each with one rounding: to the bit what
/// `torch.quantile` gives.
#[derive(Clone, Copy, Debug)]
struct Place {
    below: usize,
    above: usize,
    weight: f32,
}

impl Place {
    /// `None` of nothing.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "the definition is in f32"
    )]
    #[expect(clippy::cast_sign_loss, reason = "a rank is not negative")]
    fn of(ratio: f64, count: usize) -> Option<Self> {
        let last = count.checked_sub(1)?;
        let rank = (ratio as f32 * last as f32).clamp(0.0, last as f32);
        Some(Self {
            below: (rank.floor() as usize).min(last),
            above: (rank.ceil() as usize).min(last),
            weight: rank - rank.floor(),
        })
    }

    fn between(self, [a, b]: [f32; 2]) -> f32 {
        if self.weight < 0.5 {
            self.weight.mul_add(b - a, a)
        } else {
            (b - a).mul_add(-(1.0 - self.weight), b)
        }
    }
}

/// The quantile `ratio` of `|values|` with linear interpolation, in f32; `None` of nothing.
#[must_use]
pub fn magnitude_quantile(values: &[f32], ratio: f64) -> Option<f32> {
    let place = Place::of(ratio, values.len())?;
    let neighbours =
        magnitudes::at_ranks(magnitudes::magnitudes(values), [place.below, place.above]);
    Some(place.between(neighbours))
}

/// Which of a tensor's elements a magnitude reset keeps: those strictly above the quantile, so that a tensor of equal
/// elements keeps none. The quantile of a bf16 tensor is rounded to bf16 first.
#[must_use]
pub fn keep_by_magnitude(values: &[f32], ratio: f64, dtype: Dtype) -> Vec<bool> {
    let threshold = rounded(magnitude_quantile(values, ratio).unwrap_or(0.0), dtype);
    values.iter().map(|value| value.abs() > threshold).collect()
}

fn rounded(quantile: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => quantile,
        Dtype::Bf16 => bf16::from_f32(quantile).to_f32(),
    }
}

/// Prunes the moments of every factor among `parameters`. Waits for the device.
pub(crate) fn reset<'a, B: ops::Backend>(
    parameters: impl Iterator<Item = &'a mut Parameter<B>>,
    step: u64,
    reset: &MomentReset,
    draws: &dyn Draws,
) -> Result<ResetReport, DeviceFault> {
    let mut report = ResetReport::default();
    for parameter in parameters {
        if !matches!(parameter.role, Role::FactorA | Role::FactorB) {
            continue;
        }
        let (name, shape) = (parameter.name.clone(), parameter.matrix_shape());
        let Some(Moments { first, second }) = &mut parameter.moments else {
            continue;
        };
        let dropped = |moment: &Tensor<B, 2>, role: DrawRole| match reset.kind {
            ResetKind::Zero => Ok(None),
            ResetKind::Magnitude(ratio) => below_quantile(moment, ratio).map(Some),
            ResetKind::Random(ratio) => {
                let draw = Draw {
                    name: &name,
                    role,
                    step,
                    shape,
                };
                let drawn = draws.values(&draw).into_iter();
                let dropped: Vec<bool> = drawn.map(|value| f64::from(value) <= ratio).collect();
                let data = TensorData::new(dropped, shape);
                Ok(Some(Tensor::from_data(data, &moment.device())))
            }
        };
        let dropped_first = dropped(first, DrawRole::KeepFirst)?;
        let dropped_second = match reset.mask {
            Mask::Joint => dropped_first.clone(),
            Mask::Separate => dropped(second, DrawRole::KeepSecond)?,
        };
        for (moment, dropped) in [(first, dropped_first), (second, dropped_second)] {
            let elements = (shape[0] * shape[1]) as u64;
            report.total += elements;
            let pruned = match dropped {
                // All of them.
                None => {
                    report.zeroed += elements;
                    moment.zeros_like()
                }
                Some(dropped) => {
                    report.zeroed += count(&dropped)?;
                    moment.clone().mask_fill(dropped, 0.0)
                }
            };
            *moment = B::packed(pruned);
        }
    }
    Ok(report)
}

/// Which elements are not above the quantile of their magnitudes: what [`keep_by_magnitude`] drops.
fn below_quantile<B: ops::Backend>(
    moment: &Tensor<B, 2>,
    ratio: f64,
) -> Result<Tensor<B, 2, Bool>, DeviceFault> {
    let [rows, columns] = moment.dims();
    let quantile = match Place::of(ratio, rows * columns) {
        Some(place) => place.between(B::magnitudes(moment.clone(), [place.below, place.above])?),
        None => 0.0,
    };
    let threshold = rounded(quantile, dtype_of(moment));
    let kept = moment.clone().abs().greater_elem(threshold);
    Ok(kept.bool_not())
}

/// How many are set. Waits for the device.
fn count<B: ops::Backend>(flags: &Tensor<B, 2, Bool>) -> Result<u64, DeviceFault> {
    let sum = flags.clone().int().sum().try_into_data();
    let sum = sum.map_err(|error| DeviceFault::new(&error.to_string()))?;
    Ok(sum.iter::<i64>().sum::<i64>().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::draws::Seeded;
    use crate::parameter::{Placement, from_host, to_host};

    /// The official code draws and compares in the moments' own type, and keeps 0.78 % of bf16 moments at this ratio.
    #[test]
    fn random_pruning_of_bf16_moments_keeps_the_share_that_was_asked_for() {
        let placement = Placement::<Flex> {
            device: FlexDevice,
            dtype: Dtype::Bf16,
            masters: false,
        };
        let (shape, elements) = (vec![400, 500], 200_000);
        let ones = vec![1.0; elements];
        let name = "a".to_owned();
        let mut factor = Parameter::new(name, Role::FactorA, shape, ones.clone(), &placement);
        let moments = factor.moments.as_mut().expect("a factor is trained");
        moments.first = from_host(ones.clone(), &moments.first);
        moments.second = from_host(ones, &moments.second);
        let how = MomentReset {
            kind: ResetKind::Random(0.99),
            mask: Mask::Separate,
        };
        reset([&mut factor].into_iter(), 7, &how, &Seeded { seed: 3 }).unwrap();

        let Moments { first, second } = factor.moments.unwrap();
        assert_eq!(dtype_of(&first), Dtype::Bf16);
        let mut kept = 0;
        for moment in [first, second] {
            let values = to_host(moment).unwrap();
            kept += values.iter().filter(|value| **value != 0.0).count();
        }
        // Binomial: five standard errors of 1 % of 400,000 draws are 0.08 %.
        let share = kept as f64 / (2 * elements) as f64;
        assert!((share - 0.01).abs() < 0.0008, "{share}");
    }
}
