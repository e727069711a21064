//! SwiGLU on GPUs: a unit for each element.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::tensor::{UNITS, array, cubes_of_elements, dims, empty_like, units};

/// σ(z).
#[cube]
fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + f32::exp(-z))
}

#[cube(launch)]
fn forward_kernel<F: Float>(
    gate_up: &Array<F>,
    output: &mut Array<F>,
    count: usize,
    width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < count {
        let gate_place = place + place / width * width;
        let gate = f32::cast_from(gate_up[gate_place]);
        let up = f32::cast_from(gate_up[gate_place + width]);
        output[place] = F::cast_from(gate * sigmoid(gate) * up);
    }
}

/// `[n, i]` of gate and up side by side `[n, 2i]`.
pub(super) fn forward<R: CubeRuntime>(gate_up: CubeTensor<R>) -> CubeTensor<R> {
    let [rows, both] = dims(&gate_up);
    let width = both / 2;
    let output = empty_like(&gate_up, [rows, width], gate_up.dtype);
    let (count, dtype) = (rows * width, gate_up.dtype.into());
    let arrays = [&gate_up, &output].map(array);
    launch(&gate_up, arrays, move |client, [gate_up, output]| {
        let (cubes, units) = (cubes_of_elements(count), units(UNITS));
        forward_kernel::launch::<R>(client, cubes, units, gate_up, output, count, width, dtype);
    });
    output
}

#[cube(launch)]
fn backward_kernel<F: Float>(
    gate_up: &Array<F>,
    gradient: &Array<F>,
    d_gate_up: &mut Array<F>,
    count: usize,
    width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < count {
        let gate_place = place + place / width * width;
        let gate = f32::cast_from(gate_up[gate_place]);
        let up = f32::cast_from(gate_up[gate_place + width]);
        let g = f32::cast_from(gradient[place]);
        let sigma = sigmoid(gate);
        let d_gate = g * up * sigma * (1.0 + gate * (1.0 - sigma));
        d_gate_up[gate_place] = F::cast_from(d_gate);
        d_gate_up[gate_place + width] = F::cast_from(g * gate * sigma);
    }
}

/// Gradients of gate and up, side by side `[n, 2i]`.
pub(super) fn backward<R: CubeRuntime>(
    gate_up: CubeTensor<R>,
    gradient: CubeTensor<R>,
) -> CubeTensor<R> {
    let [rows, both] = dims(&gate_up);
    let width = both / 2;
    let d_gate_up = empty_like(&gate_up, [rows, both], gate_up.dtype);
    let (count, dtype) = (rows * width, gate_up.dtype.into());
    let arrays = [&gate_up, &gradient, &d_gate_up].map(array);
    launch(
        &gate_up,
        arrays,
        move |client, [gate_up, gradient, d_gate_up]| {
            backward_kernel::launch::<R>(
                client,
                cubes_of_elements(count),
                units(UNITS),
                gate_up,
                gradient,
                d_gate_up,
                count,
                width,
                dtype,
            );
        },
    );
    d_gate_up
}
