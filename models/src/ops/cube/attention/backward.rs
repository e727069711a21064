//! The kernels of the backward pass: scores recomputed from the saved log-sum-exp.

use cubecl::prelude::*;

use super::plan::{LANES, Plan};
use super::product::{accumulate, store, zeros};
use super::rows::{
    key_blocks, lane_sum, last_first, own_row, partial_products, row_passes, scale, tile_product,
};
use super::tile::{
    Head, head_tile, load_plain, load_rotated, shared, write_plain, write_unrotated,
};

/// The gradient of a block of queries, into the first part of `gradients` `[b, t, 3d]`; and `D = rowsum(dO·O)` of its rows,
/// which the other kernel reads, to `row_sums` `[b, heads, t]`.
#[cube(launch)]
#[expect(
    clippy::too_many_arguments,
    reason = "the tensors that a kernel reads and writes"
)]
pub fn query_gradient_kernel<F: Float, N: Size>(
    query_key_value: &Tensor<Vector<F, N>>,
    output: &Tensor<Vector<F, N>>,
    gradient: &Tensor<Vector<F, N>>,
    log_sum_exp: &Tensor<f32>,
    rotary: &Tensor<Vector<f32, N>>,
    row_sums: &mut Tensor<f32>,
    gradients: &mut Tensor<Vector<F, N>>,
    length: u32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let head = Head::new(length as usize, plan);
    let first = last_first(CUBE_POS_X, CUBE_COUNT_X) * plan.queries;
    let mut query = head_tile::<F>(plan.queries, plan);
    let mut upstream = head_tile::<F>(plan.queries, plan);
    let mut key = head_tile::<F>(plan.keys, plan);
    let mut value = head_tile::<F>(plan.keys, plan);
    let mut weights = shared::<F>(comptime!(plan.queries * plan.weight_stride()), plan);
    let mut scratch = shared::<f32>(comptime!(plan.scratch()), plan);
    let mut partial = SharedMemory::<f32>::new(comptime!(plan.queries * LANES));
    let mut shift = Array::<f32>::new(comptime!(row_passes(plan)));
    let mut row_sum = Array::<f32>::new(comptime!(row_passes(plan)));
    load_rotated::<F, N>(
        &mut query,
        query_key_value,
        rotary,
        &head,
        first,
        0usize,
        plan.queries,
        plan,
    );
    load_plain::<F, N>(
        &mut upstream,
        gradient,
        &head,
        first,
        0usize,
        1usize,
        plan.queries,
        plan,
    );
    sync_cube();
    partial_products::<F, N>(&mut partial, &upstream, output, &head, first, plan);
    sync_cube();
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        shift[pass] = f32::new(0.0);
        row_sum[pass] = f32::new(0.0);
        if row < plan.queries && first + row < head.length {
            let statistic = head.statistic(first + row);
            shift[pass] = log_sum_exp[statistic];
            row_sum[pass] = lane_sum(&partial, row);
            if lane == 0 {
                row_sums[statistic] = row_sum[pass];
            }
        }
    }
    let mut sums = zeros(comptime!(plan.sums()));
    for block in 0..key_blocks(first, length as usize, plan) {
        let first_key = block * plan.keys;
        load_rotated::<F, N>(
            &mut key,
            query_key_value,
            rotary,
            &head,
            first_key,
            1usize,
            plan.keys,
            plan,
        );
        load_plain::<F, N>(
            &mut value,
            query_key_value,
            &head,
            first_key,
            2usize,
            3usize,
            plan.keys,
            plan,
        );
        sync_cube();
        tile_product::<F>(&query, &key, &mut scratch, plan);
        sync_cube();
        probabilities::<F>(&scratch, &mut weights, &shift, first, first_key, plan);
        sync_cube();
        tile_product::<F>(&upstream, &value, &mut scratch, plan);
        sync_cube();
        score_gradients::<F>(&scratch, &mut weights, &row_sum, plan);
        sync_cube();
        accumulate::<F>(
            &mut sums,
            &weights,
            comptime!(plan.weights()),
            &key,
            comptime!(plan.rows()),
            plan.keys,
            comptime!(plan.sums()),
        );
        sync_cube();
    }
    store(
        &sums,
        &mut scratch,
        comptime!(plan.staged_stride()),
        comptime!(plan.sums()),
    );
    sync_cube();
    write_unrotated::<F, N>(
        gradients,
        &scratch,
        rotary,
        &head,
        first,
        scale(plan),
        0usize,
        plan.queries,
        plan,
    );
}

/// The gradients of a block of keys and of their values, into the second and third part of `gradients` `[b, t, 3d]`.
#[cube(launch)]
#[expect(
    clippy::too_many_arguments,
    reason = "the tensors that a kernel reads and writes"
)]
pub fn key_value_gradient_kernel<F: Float, N: Size>(
    query_key_value: &Tensor<Vector<F, N>>,
    gradient: &Tensor<Vector<F, N>>,
    log_sum_exp: &Tensor<f32>,
    row_sums: &Tensor<f32>,
    rotary: &Tensor<Vector<f32, N>>,
    gradients: &mut Tensor<Vector<F, N>>,
    length: u32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let head = Head::new(length as usize, plan);
    // The first block is seen by the most queries.
    let first_key = CUBE_POS_X as usize * plan.keys;
    let mut query = head_tile::<F>(plan.queries, plan);
    let mut upstream = head_tile::<F>(plan.queries, plan);
    let mut key = head_tile::<F>(plan.keys, plan);
    let mut value = head_tile::<F>(plan.keys, plan);
    let mut weights = shared::<F>(comptime!(plan.queries * plan.weight_stride()), plan);
    let mut scratch = shared::<f32>(comptime!(plan.scratch()), plan);
    let mut shift = Array::<f32>::new(comptime!(row_passes(plan)));
    let mut row_sum = Array::<f32>::new(comptime!(row_passes(plan)));
    load_rotated::<F, N>(
        &mut key,
        query_key_value,
        rotary,
        &head,
        first_key,
        1usize,
        plan.keys,
        plan,
    );
    load_plain::<F, N>(
        &mut value,
        query_key_value,
        &head,
        first_key,
        2usize,
        3usize,
        plan.keys,
        plan,
    );
    let mut key_sums = zeros(comptime!(plan.sums()));
    let mut value_sums = zeros(comptime!(plan.sums()));
    let blocks = (length as usize + comptime!(plan.queries - 1)) / plan.queries;
    for block in first_key / plan.queries..blocks {
        let first = block * plan.queries;
        load_rotated::<F, N>(
            &mut query,
            query_key_value,
            rotary,
            &head,
            first,
            0usize,
            plan.queries,
            plan,
        );
        load_plain::<F, N>(
            &mut upstream,
            gradient,
            &head,
            first,
            0usize,
            1usize,
            plan.queries,
            plan,
        );
        #[unroll]
        for pass in 0..comptime!(row_passes(plan)) {
            let row = own_row(pass, plan);
            shift[pass] = f32::new(0.0);
            row_sum[pass] = f32::new(0.0);
            if row < plan.queries && first + row < head.length {
                let statistic = head.statistic(first + row);
                shift[pass] = log_sum_exp[statistic];
                row_sum[pass] = row_sums[statistic];
            }
        }
        sync_cube();
        tile_product::<F>(&query, &key, &mut scratch, plan);
        sync_cube();
        probabilities::<F>(&scratch, &mut weights, &shift, first, first_key, plan);
        sync_cube();
        accumulate::<F>(
            &mut value_sums,
            &weights,
            comptime!(plan.weights_transposed()),
            &upstream,
            comptime!(plan.rows()),
            plan.queries,
            comptime!(plan.sums()),
        );
        tile_product::<F>(&upstream, &value, &mut scratch, plan);
        sync_cube();
        score_gradients::<F>(&scratch, &mut weights, &row_sum, plan);
        sync_cube();
        accumulate::<F>(
            &mut key_sums,
            &weights,
            comptime!(plan.weights_transposed()),
            &query,
            comptime!(plan.rows()),
            plan.queries,
            comptime!(plan.sums()),
        );
        sync_cube();
    }
    store(
        &value_sums,
        &mut scratch,
        comptime!(plan.staged_stride()),
        comptime!(plan.sums()),
    );
    sync_cube();
    write_plain::<F, N>(
        gradients, &scratch, &head, first_key, 2usize, 3usize, plan.keys, plan,
    );
    sync_cube();
    store(
        &key_sums,
        &mut scratch,
        comptime!(plan.staged_stride()),
        comptime!(plan.sums()),
    );
    sync_cube();
    write_unrotated::<F, N>(
        gradients,
        &scratch,
        rotary,
        &head,
        first_key,
        scale(plan),
        1usize,
        plan.keys,
        plan,
    );
}

/// `P = exp(S - lse)`, zero where a query does not see the key. A query past the sequence has zeros for its gradient, and
/// so no part in any sum.
#[cube]
fn probabilities<F: Float>(
    scores: &SharedMemory<f32>,
    weights: &mut SharedMemory<F>,
    shift: &Array<f32>,
    first: usize,
    first_key: usize,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            let log_sum_exp = shift[pass];
            for step in 0..comptime!(plan.keys / LANES) {
                let column = lane + step * LANES;
                let mut weight = f32::new(0.0);
                if first_key + column <= first + row {
                    let score = scores[row * comptime!(plan.score_stride()) + column] * scale(plan);
                    weight = (score - log_sum_exp).exp();
                }
                weights[row * comptime!(plan.weight_stride()) + column] = F::cast_from(weight);
            }
        }
    }
}

/// `P·(dO·Vᵀ - D)` in the place of P: the gradient of the scores but for the scale, which the sums get at the end. Each
/// unit reads the elements that it has written.
#[cube]
fn score_gradients<F: Float>(
    products: &SharedMemory<f32>,
    weights: &mut SharedMemory<F>,
    row_sum: &Array<f32>,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            let mean = row_sum[pass];
            for step in 0..comptime!(plan.keys / LANES) {
                let column = lane + step * LANES;
                let index = row * comptime!(plan.weight_stride()) + column;
                let product = products[row * comptime!(plan.score_stride()) + column];
                weights[index] = F::cast_from(f32::cast_from(weights[index]) * (product - mean));
            }
        }
    }
}
