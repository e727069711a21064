//! Linear layers on GPUs. The weights of layers that read the same input are put below each other, which costs a pass over
//! weights and makes one large product of several.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::pack::below_each_other;
use super::product::{product, transposed};
use super::tensor::{dims, may_begin_at, rows, view};

/// `x·Wᵀ` of each weight, side by side `[n, Σ o]`.
pub(super) fn forward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weights: Vec<CubeTensor<R>>,
) -> CubeTensor<R> {
    product(&x, transposed(&below_each_other(weights)))
}

/// Gradients for x and each weight, where wanted.
pub(super) fn backward<R: CubeRuntime>(
    x: Option<CubeTensor<R>>,
    weights: Vec<CubeTensor<R>>,
    gradient: CubeTensor<R>,
    wanted: &[bool],
) -> Vec<Option<CubeTensor<R>>> {
    let outputs: Vec<usize> = weights
        .iter()
        .map(|weight| dims::<R, 2>(weight)[0])
        .collect();
    let d_weights = match x {
        Some(x) => of_weights(&x, &gradient, &outputs, &wanted[1..]),
        None => vec![None; outputs.len()],
    };
    let d_x = wanted[0].then(|| product(&gradient, &below_each_other(weights)));
    std::iter::once(d_x).chain(d_weights).collect()
}

/// `gᵀ·x` of each layer's part of the gradient, as tensors of their own where views may begin at all parts: sums go on in them
/// in place.
fn of_weights<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    outputs: &[usize],
    wanted: &[bool],
) -> Vec<Option<CubeTensor<R>>> {
    if !wanted.contains(&true) {
        return vec![None; wanted.len()];
    }
    let [count, all] = dims(gradient);
    let starts = outputs.iter().scan(0, |next, outputs| {
        let start = *next;
        *next += outputs;
        Some(start)
    });
    let parts: Vec<(usize, usize)> = starts.zip(outputs.iter().copied()).collect();
    if parts
        .iter()
        .all(|(start, _)| may_begin_at(gradient, *start))
    {
        let of_part = |(&(start, outputs), wanted): (&(usize, usize), &bool)| {
            wanted.then(|| {
                let part = view(gradient, start, [count, outputs], [all, 1]);
                product(transposed(&part), x)
            })
        };
        return parts.iter().zip(wanted).map(of_part).collect();
    }
    let joint = product(transposed(gradient), x);
    let of_part = |((start, outputs), wanted): ((usize, usize), &bool)| {
        wanted.then(|| rows(&joint, start, outputs))
    };
    parts.into_iter().zip(wanted).map(of_part).collect()
}
