//! Scores of a tile of queries with a tile of keys, and which unit takes up which of their rows.
//!
//! [`LANES`] units share a row, each every [`LANES`]th element of it; what they know together goes through shared memory.

use cubecl::prelude::*;

use super::plan::{LANES, Plan};
use super::product::{accumulate, store, zeros};
use super::tile::Head;

/// The block of rows that a cube of the grid takes where later blocks have more to do.
#[cube]
pub fn last_first(cube: u32, cubes: u32) -> usize {
    (cubes - 1 - cube) as usize
}

/// Blocks of keys that any of the queries from `first` sees.
#[cube]
pub fn key_blocks(first: usize, length: usize, #[comptime] plan: Plan) -> usize {
    let end = min(first + plan.queries, length);
    (end + comptime!(plan.keys - 1)) / plan.keys
}

/// `1/√w`.
#[cube]
pub fn scale(#[comptime] plan: Plan) -> f32 {
    f32::new(comptime!((plan.width as f32).sqrt().recip()))
}

/// Products of the rows of a tile of queries with those of a tile of keys, left in `scratch`.
#[cube]
pub fn tile_product<F: Float>(
    queries: &SharedMemory<F>,
    keys: &SharedMemory<F>,
    scratch: &mut SharedMemory<f32>,
    #[comptime] plan: Plan,
) {
    let mut products = zeros(comptime!(plan.scores()));
    accumulate::<F>(
        &mut products,
        queries,
        comptime!(plan.rows()),
        keys,
        comptime!(plan.columns()),
        comptime!(plan.padded()),
        comptime!(plan.scores()),
    );
    store(
        &products,
        scratch,
        comptime!(plan.score_stride()),
        comptime!(plan.scores()),
    );
}

/// How often all units together, [`LANES`] a row, go over the rows of a tile of queries.
pub fn row_passes(plan: Plan) -> usize {
    plan.queries.div_ceil(plan.units / LANES)
}

/// The row of a unit in a pass; past the tile where that has fewer rows.
#[cube]
pub fn own_row(#[comptime] pass: usize, #[comptime] plan: Plan) -> usize {
    UNIT_POS as usize / LANES + comptime!(pass * (plan.units / LANES))
}

/// Sum of what the lanes of a row left.
#[cube]
pub fn lane_sum(partial: &SharedMemory<f32>, row: usize) -> f32 {
    let mut sum = partial[row * LANES];
    #[unroll]
    for lane in 1..LANES {
        sum += partial[row * LANES + lane];
    }
    sum
}

/// Sums of the products of staged rows `tile` with the same rows, from `first`, of `other` `[batch, length, d]`: each unit
/// the part of its lane, to `partial` `[rows, LANES]`.
#[cube]
pub fn partial_products<F: Float, N: Size>(
    partial: &mut SharedMemory<f32>,
    tile: &SharedMemory<F>,
    other: &Tensor<Vector<F, N>>,
    head: &Head,
    first: usize,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.width / plan.vector);
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            let mut sum = f32::new(0.0);
            let position = first + row;
            if position < head.length {
                let index = head.row(position, 0usize, 1usize, plan);
                for step in 0..comptime!(vectors.div_ceil(LANES)) {
                    let column = lane + step * LANES;
                    if column < vectors {
                        let values = other[index + column];
                        let source = row * comptime!(plan.stride()) + column * plan.vector;
                        #[unroll]
                        for element in 0..plan.vector {
                            sum += f32::cast_from(values[element])
                                * f32::cast_from(tile[source + element]);
                        }
                    }
                }
            }
            partial[row * LANES + lane] = sum;
        }
    }
}
