//! Low-rank linear layers on GPUs. Layers of one shape that read the same input are computed as a stack: each product is one
//! launch for all of them.
//!
//! With `drop` of each layer as in the definition: `p = drop(x)·Aᵀ`, `y = x·Wᵀ + s·(p·Bᵀ)`. Backward, s goes with whatever is
//! copied anyway. Without dropout that are the factors: `p' = x·(sA)ᵀ`, `q' = g·(sB)`, `dA = q'ᵀ·x`, `dB = gᵀ·p'`,
//! `dx = g·W + Σ q'·A`; with it the input: `x' = s·drop(x)`, `p' = x'·Aᵀ`, `q = g·B`, `dA = qᵀ·x'`, `dB = gᵀ·p'`,
//! `dx = g·W + Σ s·drop(q·A)`.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::dropout::{Key, dropped, masked};
use super::launching::launch;
use super::pack::{planes, stacks};
use super::product::{product, transposed};
use super::tensor::{UNITS, array, cubes_of_elements, dims, empty_like, units, view};

/// Layers of one shape.
pub(super) struct Layers<R: CubeRuntime> {
    /// Weights `[o, i]`; none where the layers are their low-rank terms alone.
    pub weights: Vec<CubeTensor<R>>,
    /// Factors A `[r, i]`.
    pub a: Vec<CubeTensor<R>>,
    /// Factors B `[o, r]`.
    pub b: Vec<CubeTensor<R>>,
    /// What A sees of the input, for each layer; nothing where they see all of it.
    pub masks: Vec<Key>,
    /// s.
    pub scale: f32,
}

#[cube(launch)]
fn add_planes_kernel<F: Float>(
    sum: &mut Array<F>,
    planes: &Array<F>,
    scale: f32,
    count: usize,
    layers: usize,
    outputs: usize,
    #[comptime] adds: bool,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < count {
        let column = place % outputs;
        let layer = place / outputs % layers;
        let row = place / outputs / layers;
        let plane = count / layers;
        let value = f32::cast_from(planes[layer * plane + row * outputs + column]) * scale;
        if adds {
            sum[place] = F::cast_from(f32::cast_from(sum[place]) + value);
        } else {
            sum[place] = F::cast_from(value);
        }
    }
}

/// `sum + scale·planes`, in place, the planes `[layers, n, outputs]` side by side `[n, layers·outputs]`.
fn add_planes<R: CubeRuntime>(
    sum: Option<CubeTensor<R>>,
    planes: CubeTensor<R>,
    scale: f32,
) -> CubeTensor<R> {
    let [layers, rows, outputs] = dims(&planes);
    let adds = sum.is_some();
    let dtype = planes.dtype;
    let sum = sum.unwrap_or_else(|| empty_like(&planes, [rows, layers * outputs], dtype));
    let (count, dtype) = (layers * rows * outputs, dtype.into());
    let arrays = [&sum, &planes].map(array);
    launch(&sum, arrays, move |client, [sum, planes]| {
        add_planes_kernel::launch::<R>(
            client,
            cubes_of_elements(count),
            units(UNITS),
            sum,
            planes,
            scale,
            count,
            layers,
            outputs,
            adds,
            dtype,
        );
    });
    sum
}

/// A stack as one matrix: `[count·rows, columns]`.
fn as_matrix<R: CubeRuntime>(stack: &CubeTensor<R>) -> CubeTensor<R> {
    let [count, rows, columns] = dims(stack);
    view(stack, 0, [count * rows, columns], [columns, 1])
}

/// What A of each layer sees of x `[n, i]`, times `scale` where there are masks: `[layers, n, i]`, the same for all where there
/// is none.
fn seen<R: CubeRuntime>(
    x: &CubeTensor<R>,
    layers: usize,
    masks: &[Key],
    scale: f32,
) -> CubeTensor<R> {
    let [rows, inputs] = dims(x);
    if masks.is_empty() {
        return view(x, 0, [layers, rows, inputs], [0, inputs, 1]);
    }
    dropped(x, masks, scale)
}

/// The outputs side by side `[n, Σ o]`.
pub(super) fn forward<R: CubeRuntime>(x: CubeTensor<R>, layers: Layers<R>) -> CubeTensor<R> {
    let count = layers.a.len();
    let plain = |tensors| (tensors, 1.0);
    let [weights, a, b] = stacks([layers.weights, layers.a, layers.b].map(plain));
    let (Some(a), Some(b)) = (a, b) else {
        return x;
    };
    let low_rank = {
        let through_a = product(&seen(&x, count, &layers.masks, 1.0), transposed(&a));
        product(&through_a, transposed(&b))
    };
    let base = weights.map(|weights| product(&x, transposed(&as_matrix(&weights))));
    add_planes(base, low_rank, layers.scale)
}

/// Gradients for x, then A and B of each layer, where wanted.
pub(super) fn backward<R: CubeRuntime>(
    x: Option<CubeTensor<R>>,
    layers: Layers<R>,
    gradient: CubeTensor<R>,
    wanted: &[bool],
) -> Vec<Option<CubeTensor<R>>> {
    let Layers {
        weights,
        a,
        b,
        masks,
        scale,
    } = layers;
    let count = a.len();
    let wants_a = wanted[1..].iter().step_by(2).any(|wanted| *wanted);
    let wants_b = wanted[2..].iter().step_by(2).any(|wanted| *wanted);
    let (of_factors, of_input) = if masks.is_empty() {
        (scale, 1.0)
    } else {
        (1.0, scale)
    };
    // Times one A is itself: its stack serves twice.
    let to_scale = if of_factors == 1.0 {
        Vec::new()
    } else {
        a.clone()
    };
    let [weights, a, scaled_a, scaled_b] = stacks([
        (weights, 1.0),
        (a, 1.0),
        (to_scale, of_factors),
        (b, of_factors),
    ]);
    let (Some(a), Some(scaled_b)) = (a, scaled_b) else {
        return wanted.iter().map(|_| None).collect();
    };
    let scaled_a = scaled_a.unwrap_or_else(|| a.clone());
    let x = x.filter(|_| wants_a || wants_b);
    let see = || x.map(|x| seen(&x, count, &masks, of_input));
    let base = |gradient: &CubeTensor<R>| {
        let weights = weights.filter(|_| wanted[0])?;
        Some(product(gradient, &as_matrix(&weights)))
    };
    // Gradients that lie side by side cannot be read by stacked products and are copied: done with the gradient itself before
    // the input with dropout, which is as large, is made, they take no memory more. Else that of x is free first.
    let (seen, base, parts) = if count == 1 {
        let seen = see();
        (seen, base(&gradient), planes(gradient, 1))
    } else {
        let base = base(&gradient);
        let parts = planes(gradient, count);
        (see(), base, parts)
    };
    let d_b = seen.as_ref().filter(|_| wants_b).map(|seen| {
        let through_a = product(seen, transposed(&scaled_a));
        product(transposed(&parts), &through_a)
    });
    drop(scaled_a);
    let through_b = (wants_a || wanted[0]).then(|| product(&parts, &scaled_b));
    drop(parts);
    drop(scaled_b);
    let pair = through_b.as_ref().zip(seen.as_ref());
    let d_a = pair
        .filter(|_| wants_a)
        .map(|(through_b, seen)| product(transposed(through_b), seen));
    drop(seen);
    let d_x = through_b.filter(|_| wanted[0]).map(|through_b| {
        let planes = product(&through_b, &a);
        drop(through_b);
        masked(base, planes, &masks, of_input)
    });
    drop(a);
    let mut gradients = vec![d_x];
    for (layer, wanted) in wanted[1..].chunks(2).enumerate() {
        gradients.push(
            d_a.as_ref()
                .filter(|_| wanted[0])
                .map(|stack| plane(stack, layer)),
        );
        gradients.push(
            d_b.as_ref()
                .filter(|_| wanted[1])
                .map(|stack| plane(stack, layer)),
        );
    }
    gradients
}

/// One matrix of a stack: a view where one may begin there, else a copy.
fn plane<R: CubeRuntime>(stack: &CubeTensor<R>, number: usize) -> CubeTensor<R> {
    let [_, rows, _] = dims(stack);
    super::tensor::rows(&as_matrix(stack), number * rows, rows)
}
