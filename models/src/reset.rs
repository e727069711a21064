//! Pruning of Adam's moments after a restart.
//!
//! Only the moments of the factors are touched: not those of scalars, norms, embedding and head, and not Adam's step
//! count, so no new bias correction follows. After `training_utils.py` of `Guitaricet/relora@176f376`.

use half::bf16;

use crate::draws::{Draw, DrawRole, Draws};
use crate::fault::DeviceFault;
use crate::ops;
use crate::parameter::{Dtype, Moments, Parameter, Role, from_host, to_host};

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

/// The quantile `ratio` of `|values|` with linear interpolation, in f32 and to the bit what `torch.quantile` gives;
/// `None` of nothing.
///
/// The rank is `ratio·(n - 1)` in f32. Between neighbours `a` and `b` at a distance `w` from `a` it is
/// `a + w(b - a)` below one half and `b - (b - a)(1 - w)` from there on, each with one rounding.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the definition is in f32"
)]
#[expect(clippy::cast_sign_loss, reason = "a rank is not negative")]
pub fn magnitude_quantile(values: &[f32], ratio: f64) -> Option<f32> {
    let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    let last = magnitudes.len().checked_sub(1)?;
    let rank = (ratio as f32 * last as f32).clamp(0.0, last as f32);
    let below = (rank.floor() as usize).min(last);
    let above = (rank.ceil() as usize).min(last);
    let (_, &mut a, rest) = magnitudes.select_nth_unstable_by(below, f32::total_cmp);
    let b = if above > below {
        rest.iter().copied().min_by(f32::total_cmp).unwrap_or(a)
    } else {
        a
    };
    let weight = rank - rank.floor();
    Some(if weight < 0.5 {
        weight.mul_add(b - a, a)
    } else {
        (b - a).mul_add(-(1.0 - weight), b)
    })
}

/// Which of a tensor's elements a magnitude reset keeps: those strictly above the quantile, so that a tensor of equal
/// elements keeps none. The quantile of a bf16 tensor is rounded to bf16 first.
#[must_use]
pub fn keep_by_magnitude(values: &[f32], ratio: f64, dtype: Dtype) -> Vec<bool> {
    let quantile = magnitude_quantile(values, ratio).unwrap_or(0.0);
    let threshold = match dtype {
        Dtype::F32 => quantile,
        Dtype::Bf16 => bf16::from_f32(quantile).to_f32(),
    };
    values.iter().map(|value| value.abs() > threshold).collect()
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
        let shape = parameter.matrix_shape();
        let Some(Moments { first, second }) = &mut parameter.moments else {
            continue;
        };
        let dtype = crate::parameter::dtype_of(first);
        let mut moments = [to_host(first.clone())?, to_host(second.clone())?];
        let keep = |values: &[f32], role: DrawRole| match reset.kind {
            ResetKind::Zero => vec![false; values.len()],
            ResetKind::Magnitude(ratio) => keep_by_magnitude(values, ratio, dtype),
            ResetKind::Random(ratio) => {
                let draw = Draw {
                    name: &parameter.name,
                    role,
                    step,
                    shape,
                };
                draws
                    .values(&draw)
                    .into_iter()
                    .map(|value| f64::from(value) > ratio)
                    .collect()
            }
        };
        let keep_first = keep(&moments[0], DrawRole::KeepFirst);
        let keep_second = match reset.mask {
            Mask::Joint => keep_first.clone(),
            Mask::Separate => keep(&moments[1], DrawRole::KeepSecond),
        };
        for (values, keep) in moments.iter_mut().zip([keep_first, keep_second]) {
            for (value, keep) in values.iter_mut().zip(keep) {
                if !keep {
                    *value = 0.0;
                    report.zeroed += 1;
                }
            }
            report.total += values.len() as u64;
        }
        let [first_values, second_values] = moments;
        *first = from_host(first_values, first);
        *second = from_host(second_values, second);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::draws::Seeded;
    use crate::parameter::{Placement, dtype_of};

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
