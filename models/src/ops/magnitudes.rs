//! Order statistics of `|x|`: what the quantile of a magnitude reset lies between.

use burn::tensor::Tensor;

use super::Backend;
use crate::fault::DeviceFault;
use crate::parameter::to_host;

/// The magnitudes at two places of their ascending order, `ranks[0] <= ranks[1] < elements`, on the processor.
///
/// # Errors
/// A fault of the device.
pub fn definition<B: Backend>(x: Tensor<B, 2>, ranks: [usize; 2]) -> Result<[f32; 2], DeviceFault> {
    Ok(at_ranks(magnitudes(&to_host(x)?), ranks))
}

/// `|values|`.
pub(crate) fn magnitudes(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value.abs()).collect()
}

/// What stands at two places of the ascending order, `ranks[0] <= ranks[1] <= ranks[0] + 1`.
pub(crate) fn at_ranks(mut magnitudes: Vec<f32>, [below, above]: [usize; 2]) -> [f32; 2] {
    let (_, &mut a, rest) = magnitudes.select_nth_unstable_by(below, f32::total_cmp);
    let next = rest.iter().copied().min_by(f32::total_cmp);
    let b = next.filter(|_| above > below).unwrap_or(a);
    [a, b]
}
