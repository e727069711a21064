//! Head and loss on GPUs, by blocks of rows: the logits of a block become their own gradient in place.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::multi::{accumulate, add_to};
use super::product::{product, product_as, product_into, transposed};
use super::reduce::{maximum_of_units, sum_of_units};
use super::tensor::{UNITS, array, cubes, dims, empty_like, reshaped, rows, units};
use crate::ops::cross_entropy::rows_of_gpu_block;

/// A cube for each row of logits: its loss and, where wanted, the gradient of the logits in their place.
#[cube(launch)]
fn row_kernel<F: Float, I: Int>(
    logits: &mut Array<F>,
    targets: &Array<I>,
    losses: &mut Array<f32>,
    first_row: usize,
    rows: usize,
    vocabulary: usize,
    #[comptime] wanted: bool,
    #[define(F, I)] _dtypes: [StorageType; 2],
) {
    let row = CUBE_POS;
    if row < rows {
        let unit = UNIT_POS as usize;
        let start = row * vocabulary;
        let target = i32::cast_from(targets[first_row + row]);
        let counts = target >= 0;
        let mut maximum = f32::cast_from(logits[start]);
        for column in range_stepped(unit, vocabulary, UNITS) {
            maximum = max(maximum, f32::cast_from(logits[start + column]));
        }
        let maximum = maximum_of_units(maximum, UNITS);
        let mut sum = 0.0f32;
        for column in range_stepped(unit, vocabulary, UNITS) {
            sum += f32::exp(f32::cast_from(logits[start + column]) - maximum);
        }
        let sum = sum_of_units(sum, UNITS);
        // The unit that has the target's column, whose logit it will overwrite itself.
        if counts {
            if target as usize % UNITS == unit {
                let logit = f32::cast_from(logits[start + target as usize]);
                losses[first_row + row] = maximum + f32::ln(sum) - logit;
            }
        } else if unit == 0 {
            losses[first_row + row] = 0.0f32;
        }
        if wanted {
            let factor = select(counts, 1.0 / sum, 0.0f32);
            for column in range_stepped(unit, vocabulary, UNITS) {
                let mut gradient =
                    f32::exp(f32::cast_from(logits[start + column]) - maximum) * factor;
                if column as i32 == target {
                    gradient -= 1.0f32;
                }
                logits[start + column] = F::cast_from(gradient);
            }
        }
    }
}

/// One cube adds up everything.
#[cube(launch)]
fn sum_kernel(values: &Array<f32>, sum: &mut Array<f32>, count: usize) {
    let mut own = 0.0f32;
    for place in range_stepped(UNIT_POS as usize, count, UNITS) {
        own += values[place];
    }
    let all = sum_of_units(own, UNITS);
    if UNIT_POS == 0 {
        sum[0] = all;
    }
}

/// The loss `[1]` (f32) and the wanted gradients of hidden states `[n, d]` and head `[v, d]`.
pub(super) fn forward<R: CubeRuntime>(
    hidden: CubeTensor<R>,
    head: CubeTensor<R>,
    targets: CubeTensor<R>,
    wanted: [bool; 2],
) -> (CubeTensor<R>, [Option<CubeTensor<R>>; 2]) {
    let [count, width] = dims(&hidden);
    let [vocabulary, _] = dims(&head);
    let (dtype, wants_any) = (hidden.dtype, wanted.contains(&true));
    let losses = empty_like(&hidden, [count.max(1)], DType::F32);
    let d_hidden = wanted[0].then(|| empty_like(&hidden, [count, width], dtype));
    let mut d_head: Option<CubeTensor<R>> = None;
    let block_rows = rows_of_gpu_block(count);
    for start in (0..count).step_by(block_rows) {
        let length = block_rows.min(count - start);
        let block = rows(&hidden, start, length);
        let logits = product(&block, transposed(&head));
        let dtypes = [dtype.into(), targets.dtype.into()];
        let arrays = [&logits, &targets, &losses].map(array);
        launch(&hidden, arrays, move |client, [logits, targets, losses]| {
            row_kernel::launch::<R>(
                client,
                cubes(length),
                units(UNITS),
                logits,
                targets,
                losses,
                start,
                length,
                vocabulary,
                wants_any,
                dtypes,
            );
        });
        if let Some(d_hidden) = &d_hidden {
            // Blocks begin where views may: at a multiple of 128 rows.
            let output = reshaped(d_hidden, start * width, [length, width]);
            product_into(&logits, &head, &output);
        }
        if wanted[1] {
            let part = product_as(transposed(&logits), &block, DType::F32);
            d_head = Some(match d_head {
                None => part,
                Some(sum) => add_to(sum, part),
            });
        }
    }
    let loss = empty_like(&hidden, [1], DType::F32);
    let arrays = [&losses, &loss].map(array);
    launch(&hidden, arrays, move |client, [losses, loss]| {
        sum_kernel::launch::<R>(client, cubes(1), units(UNITS), losses, loss, count);
    });
    let d_head = d_head.map(|sum| {
        if sum.dtype == head.dtype {
            return sum;
        }
        accumulate(vec![None], vec![sum], head.dtype).remove(0)
    });
    (loss, [d_hidden, d_head])
}
