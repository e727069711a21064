//! Copies between tensors and stacks of them, one launch for all.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::tensor::{
    UNITS, array, cubes_of_elements, dims, empty_like, next_beginning, reshaped, units,
};

/// Most cubes for one tensor; each goes on over what is left of it.
const MOST_CUBES: usize = 4096;

#[cube]
fn copy<F: Float>(from: &Array<F>, to: &mut Array<F>, start: usize, scale: f32) {
    let stride = CUBE_COUNT_X as usize * UNITS;
    let first = CUBE_POS_X as usize * UNITS + UNIT_POS as usize;
    for place in range_stepped(first, from.len(), stride) {
        to[start + place] = F::cast_from(f32::cast_from(from[place]) * scale);
    }
}

#[cube(launch)]
fn pack_kernel<F: Float>(
    parts: &Sequence<Array<F>>,
    starts: &Sequence<usize>,
    scales: &Sequence<f32>,
    packed: &mut Array<F>,
    #[define(F)] _dtype: StorageType,
) {
    let count = parts.len().comptime();
    #[unroll]
    for part in 0..count {
        if CUBE_POS_Y as usize == part {
            copy::<F>(
                parts.index(part),
                packed,
                *starts.index(part),
                *scales.index(part),
            );
        }
    }
}

/// A tensor to be packed, where and by what it is multiplied.
struct Part<R: CubeRuntime> {
    tensor: CubeTensor<R>,
    start: usize,
    scale: f32,
}

/// All elements of each part, in order, from its start on; `length` elements in all.
fn pack<R: CubeRuntime>(parts: &[Part<R>], length: usize) -> CubeTensor<R> {
    let first = &parts[0].tensor;
    let packed = empty_like(first, [length], first.dtype);
    let lengths = parts.iter().map(|part| part.tensor.meta.num_elements());
    let cubes = lengths
        .max()
        .unwrap_or(1)
        .div_ceil(UNITS)
        .clamp(1, MOST_CUBES);
    let cubes = CubeCount::Static(cubes as u32, parts.len() as u32, 1);
    let dtype = first.dtype.into();
    let arguments = (
        parts.iter().map(|part| array(&part.tensor)).collect(),
        parts.iter().map(|part| part.start).collect(),
        parts.iter().map(|part| part.scale).collect(),
        array(&packed),
    );
    launch(
        first,
        arguments,
        move |client, (parts, starts, scales, packed)| {
            let units = units(UNITS);
            pack_kernel::launch::<R>(client, cubes, units, parts, starts, scales, packed, dtype);
        },
    );
    packed
}

/// Matrices of as many columns, one below the other; a single one as it is.
pub(super) fn below_each_other<R: CubeRuntime>(mut matrices: Vec<CubeTensor<R>>) -> CubeTensor<R> {
    if matrices.len() == 1 {
        return matrices.remove(0);
    }
    let [_, columns] = dims(&matrices[0]);
    let mut rows = 0;
    let mut parts = Vec::with_capacity(matrices.len());
    for tensor in matrices {
        let [own, _] = dims(&tensor);
        parts.push(Part {
            tensor,
            start: rows * columns,
            scale: 1.0,
        });
        rows += own;
    }
    reshaped(&pack(&parts, rows * columns), 0, [rows, columns])
}

/// Several stacks of matrices, each of one shape and multiplied by its scale, made in one launch: `[count, rows, columns]`
/// each. What need not be copied is a view; an empty stack is none.
pub(super) fn stacks<R: CubeRuntime, const N: usize>(
    stacks: [(Vec<CubeTensor<R>>, f32); N],
) -> [Option<CubeTensor<R>>; N] {
    let shape = |stack: &(Vec<CubeTensor<R>>, f32)| {
        let [rows, columns] = dims(stack.0.first()?);
        Some([stack.0.len(), rows, columns])
    };
    let shapes = stacks.each_ref().map(shape);
    let (mut beginnings, mut parts, mut length) = ([None; N], Vec::new(), 0);
    let mut as_they_are = [const { None }; N];
    for (number, (stack, scale)) in stacks.into_iter().enumerate() {
        if stack.len() <= 1 && scale == 1.0 {
            as_they_are[number] = stack.into_iter().next();
            continue;
        }
        for tensor in stack {
            if beginnings[number].is_none() {
                length = next_beginning(&tensor, length);
                beginnings[number] = Some(length);
            }
            let elements = tensor.meta.num_elements();
            parts.push(Part {
                tensor,
                start: length,
                scale,
            });
            length += elements;
        }
    }
    let packed = (!parts.is_empty()).then(|| pack(&parts, length));
    std::array::from_fn(|number| {
        let (tensor, beginning) = match beginnings[number] {
            Some(beginning) => (packed.as_ref(), beginning),
            None => (as_they_are[number].as_ref(), 0),
        };
        Some(reshaped(tensor?, beginning, shapes[number]?))
    })
}

#[cube(launch)]
fn unpack_kernel<F: Float>(
    side_by_side: &Array<F>,
    planes: &mut Array<F>,
    count: usize,
    layers: usize,
    outputs: usize,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < count {
        let column = place % outputs;
        let layer = place / outputs % layers;
        let row = place / outputs / layers;
        let plane = count / layers;
        planes[layer * plane + row * outputs + column] = side_by_side[place];
    }
}

/// The parts of `[n, layers·outputs]` that are side by side there, as a stack `[layers, n, outputs]`.
pub(super) fn planes<R: CubeRuntime>(side_by_side: CubeTensor<R>, layers: usize) -> CubeTensor<R> {
    let [rows, columns] = dims(&side_by_side);
    let outputs = columns / layers;
    if layers == 1 {
        return reshaped(&side_by_side, 0, [1, rows, columns]);
    }
    let planes = empty_like(&side_by_side, [layers, rows, outputs], side_by_side.dtype);
    let (count, dtype) = (rows * columns, side_by_side.dtype.into());
    let arrays = [&side_by_side, &planes].map(array);
    launch(
        &side_by_side,
        arrays,
        move |client, [side_by_side, planes]| {
            unpack_kernel::launch::<R>(
                client,
                cubes_of_elements(count),
                units(UNITS),
                side_by_side,
                planes,
                count,
                layers,
                outputs,
                dtype,
            );
        },
    );
    planes
}
