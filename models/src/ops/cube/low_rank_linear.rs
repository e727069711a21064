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
use super::pack::{planes, stacks};
use super::product::{product, product_into};
use super::tensor::{
    UNITS, cubes_of_elements, dims, empty_like, may_begin_at, reshaped, transposed, units, view,
};

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
    add_planes_kernel::launch::<R>(
        &planes.client.clone(),
        cubes_of_elements(layers * rows * outputs),
        units(UNITS),
        sum.clone().into_array_arg(),
        planes.into_array_arg(),
        scale,
        layers * rows * outputs,
        layers,
        outputs,
        adds,
        dtype.into(),
    );
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
    let seen = seen(&x, layers.a.len(), &layers.masks, 1.0);
    let plain = |tensors| (tensors, 1.0);
    let [weights, a, b] = stacks([layers.weights, layers.a, layers.b].map(plain));
    let (Some(a), Some(b)) = (a, b) else {
        return x;
    };
    let low_rank = product(product(seen, transposed(a)), transposed(b));
    let base = weights.map(|weights| product(x, transposed(as_matrix(&weights))));
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
    let x = x.filter(|_| wants_a || wants_b);
    let seen = x.map(|x| seen(&x, count, &masks, of_input));
    let [weights, a, scaled_a, scaled_b] = stacks([
        (weights, 1.0),
        (a.clone(), 1.0),
        (a, of_factors),
        (b, of_factors),
    ]);
    let (Some(a), Some(scaled_a), Some(scaled_b)) = (a, scaled_a, scaled_b) else {
        return wanted.iter().map(|_| None).collect();
    };
    let parts = Parts::new(&gradient, count);
    let d_b = seen
        .clone()
        .filter(|_| wants_b)
        .map(|seen| parts.transposed_times(product(seen, transposed(scaled_a))));
    let through_b = (wants_a || wanted[0]).then(|| parts.times(scaled_b));
    drop(parts);
    let pair = through_b.clone().zip(seen).filter(|_| wants_a);
    let d_a = pair.map(|(through_b, seen)| product(transposed(through_b), seen));
    let d_x = through_b.filter(|_| wanted[0]).map(|through_b| {
        let base = weights.map(|weights| product(gradient, as_matrix(&weights)));
        masked(base, product(through_b, a), &masks, of_input)
    });
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

/// The parts of a gradient `[n, layers·o]`, one for each layer.
///
/// They lie side by side, as the library's stacked products cannot read them: each is a product of its own, on a view. Where a
/// view may not begin (widths that are not multiples of some dozens), they are copied into a stack.
enum Parts<R: CubeRuntime> {
    Views(Vec<CubeTensor<R>>),
    Stack(Box<CubeTensor<R>>),
}

impl<R: CubeRuntime> Parts<R> {
    fn new(gradient: &CubeTensor<R>, layers: usize) -> Self {
        let [rows, columns] = dims(gradient);
        let outputs = columns / layers;
        if layers == 1 || !may_begin_at(gradient, outputs) {
            return Self::Stack(Box::new(planes(gradient.clone(), layers)));
        }
        let part = |layer| view(gradient, layer * outputs, [rows, outputs], [columns, 1]);
        Self::Views((0..layers).map(part).collect())
    }

    /// `g·M` of each layer, for M `[layers, o, r]`: `[layers, n, r]`.
    fn times(&self, matrices: CubeTensor<R>) -> CubeTensor<R> {
        self.each(matrices, |part, matrix| (part, matrix))
    }

    /// `gᵀ·M` of each layer, for M `[layers, n, r]`: `[layers, o, r]`.
    fn transposed_times(&self, matrices: CubeTensor<R>) -> CubeTensor<R> {
        self.each(matrices, |part, matrix| (transposed(part), matrix))
    }

    fn each(
        &self,
        matrices: CubeTensor<R>,
        factors: impl Fn(CubeTensor<R>, CubeTensor<R>) -> (CubeTensor<R>, CubeTensor<R>),
    ) -> CubeTensor<R> {
        let parts = match self {
            Self::Stack(stack) => {
                let (lhs, rhs) = factors(stack.as_ref().clone(), matrices);
                return product(lhs, rhs);
            }
            Self::Views(parts) => parts,
        };
        let pair = |(layer, part): (usize, &CubeTensor<R>)| {
            let (lhs, rhs) = factors(part.clone(), plane(&matrices, layer));
            let [rows, _] = dims(&lhs);
            let [_, columns] = dims(&rhs);
            (lhs, rhs, [rows, columns])
        };
        let pairs: Vec<_> = parts.iter().enumerate().map(pair).collect();
        let [rows, columns] = pairs[0].2;
        let stack = empty_like(&matrices, [pairs.len(), rows, columns], matrices.dtype);
        if !may_begin_at(&stack, rows * columns) {
            let products = pairs.into_iter().map(|(lhs, rhs, _)| product(lhs, rhs));
            let [stack] = stacks([(products.collect(), 1.0)]);
            return stack.unwrap_or(matrices);
        }
        for (layer, (lhs, rhs, _)) in pairs.into_iter().enumerate() {
            product_into(lhs, rhs, plane(&stack, layer));
        }
        stack
    }
}

/// One matrix of a stack: a view where one may begin there, else a copy.
fn plane<R: CubeRuntime>(stack: &CubeTensor<R>, number: usize) -> CubeTensor<R> {
    let [_, rows, columns] = dims(stack);
    let start = number * rows * columns;
    if may_begin_at(stack, start) {
        return reshaped(stack, start, [rows, columns]);
    }
    super::tensor::rows(&as_matrix(stack), number * rows, rows)
}
