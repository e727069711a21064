//! RMSNorm on GPUs: a cube for each row forward; backward, a cube for every so-many-th row, which also adds up its share of
//! the weight's gradient.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::reduce::sum_of_units;
use super::tensor::{UNITS, array, cubes, dims, empty_like, units};
use crate::ops::rms_norm::{EPSILON, gpu_parts};
use burn::tensor::DType;

/// Units that share a row: few enough that the narrow rows of small networks keep most of them at work.
const UNITS_OF_ROW: usize = 128;

/// `1/√(mean + ε)` of a sum of squares.
#[cube]
fn inverse_root(sum: f32, #[comptime] width: usize) -> f32 {
    let mean = sum / f32::cast_from(width);
    1.0 / f32::sqrt(mean + EPSILON)
}

#[cube(launch)]
fn forward_kernel<F: Float>(
    x: &Array<F>,
    weight: &Array<F>,
    output: &mut Array<F>,
    rows: usize,
    #[comptime] width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row < rows {
        let start = row * width;
        let mut sum = 0.0f32;
        for column in range_stepped(UNIT_POS as usize, width, UNITS_OF_ROW) {
            let value = f32::cast_from(x[start + column]);
            sum += value * value;
        }
        let r = inverse_root(sum_of_units(sum, UNITS_OF_ROW), width);
        for column in range_stepped(UNIT_POS as usize, width, UNITS_OF_ROW) {
            let value = f32::cast_from(x[start + column]) * r * f32::cast_from(weight[column]);
            output[start + column] = F::cast_from(value);
        }
    }
}

/// `[n, d]` of x `[n, d]` and weight `[1, d]`.
pub(super) fn forward<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
    let [rows, width] = dims(&x);
    let output = empty_like(&x, [rows, width], x.dtype);
    let dtype = x.dtype.into();
    let arrays = [&x, &weight, &output].map(array);
    launch(&x, arrays, move |client, [x, weight, output]| {
        let (cubes, units) = (cubes(rows), units(UNITS_OF_ROW));
        forward_kernel::launch::<R>(client, cubes, units, x, weight, output, rows, width, dtype);
    });
    output
}

#[cube(launch)]
fn backward_kernel<F: Float>(
    x: &Array<F>,
    weight: &Array<F>,
    gradient: &Array<F>,
    d_x: &mut Array<F>,
    d_weight_parts: &mut Array<f32>,
    rows: usize,
    parts: usize,
    #[comptime] width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let part = CUBE_POS;
    let unit = UNIT_POS as usize;
    // Each unit has columns of its own, here and below.
    let mut d_weight = SharedMemory::<f32>::new(width);
    for column in range_stepped(unit, width, UNITS_OF_ROW) {
        d_weight[column] = 0.0f32;
    }
    for row in range_stepped(part, rows, parts) {
        let start = row * width;
        let mut squares = 0.0f32;
        let mut products = 0.0f32;
        for column in range_stepped(unit, width, UNITS_OF_ROW) {
            let value = f32::cast_from(x[start + column]);
            let h = f32::cast_from(gradient[start + column]) * f32::cast_from(weight[column]);
            squares += value * value;
            products += h * value;
        }
        let r = inverse_root(sum_of_units(squares, UNITS_OF_ROW), width);
        let mean = sum_of_units(products, UNITS_OF_ROW) / f32::cast_from(width);
        for column in range_stepped(unit, width, UNITS_OF_ROW) {
            let value = f32::cast_from(x[start + column]);
            let g = f32::cast_from(gradient[start + column]);
            let h = g * f32::cast_from(weight[column]);
            d_x[start + column] = F::cast_from((h - value * (r * r * mean)) * r);
            d_weight[column] += g * value * r;
        }
    }
    for column in range_stepped(unit, width, UNITS_OF_ROW) {
        d_weight_parts[part * width + column] = d_weight[column];
    }
}

#[cube(launch)]
fn sum_parts_kernel<F: Float>(
    parts: &Array<f32>,
    sums: &mut Array<F>,
    count: usize,
    width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let column = ABSOLUTE_POS;
    if column < width {
        let mut sum = 0.0f32;
        for part in 0..count {
            sum += parts[part * width + column];
        }
        sums[column] = F::cast_from(sum);
    }
}

/// Gradients of x `[n, d]` and of the weight `[1, d]`.
pub(super) fn backward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    gradient: CubeTensor<R>,
) -> [CubeTensor<R>; 2] {
    let [rows, width] = dims(&x);
    let parts = gpu_parts(rows);
    let d_x = empty_like(&x, [rows, width], x.dtype);
    let d_weight_parts = empty_like(&x, [parts, width], DType::F32);
    let d_weight = empty_like(&x, [1, width], weight.dtype);
    let (dtype, weight_dtype) = (x.dtype.into(), weight.dtype.into());
    let arrays = [&x, &weight, &gradient, &d_x, &d_weight_parts].map(array);
    launch(
        &x,
        arrays,
        move |client, [x, weight, gradient, d_x, d_weight_parts]| {
            backward_kernel::launch::<R>(
                client,
                cubes(parts),
                units(UNITS_OF_ROW),
                x,
                weight,
                gradient,
                d_x,
                d_weight_parts,
                rows,
                parts,
                width,
                dtype,
            );
        },
    );
    let arrays = [&d_weight_parts, &d_weight].map(array);
    launch(&x, arrays, move |client, [d_weight_parts, d_weight]| {
        sum_parts_kernel::launch::<R>(
            client,
            cubes(width.div_ceil(UNITS)),
            units(UNITS),
            d_weight_parts,
            d_weight,
            parts,
            width,
            weight_dtype,
        );
    });
    [d_x, d_weight]
}
