//! The kernel of the forward pass.

use cubecl::prelude::*;

use super::plan::{LANES, Plan};
use super::product::{accumulate, load, store, zeros};
use super::rows::{key_blocks, lane_sum, last_first, own_row, row_passes, scale, tile_product};
use super::tile::{Head, head_tile, load_plain, load_rotated, scale_rows, shared, write_plain};

/// Below every score; WGSL knows no infinity.
const LOWEST: f32 = -1e30;

/// How far a score may lie above its row's reference before that is raised: exponentials stay below e⁸, and sums are
/// rescaled a few times in a sequence and not at every block of keys.
const GROWTH: f32 = 8.0;

/// The output `[b, t, d]` and the log-sum-exp `[b, heads, t]` of a block of queries: exponentials of its scores above a
/// reference of each row, times the values, divided by their sum at the end.
#[cube(launch)]
pub fn forward_kernel<F: Float, N: Size>(
    query_key_value: &Tensor<Vector<F, N>>,
    rotary: &Tensor<Vector<f32, N>>,
    output: &mut Tensor<Vector<F, N>>,
    log_sum_exp: &mut Tensor<f32>,
    length: u32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let head = Head::new(length as usize, plan);
    let first = last_first(CUBE_POS_X, CUBE_COUNT_X) * plan.queries;
    let mut query = head_tile::<F>(plan.queries, plan);
    let mut key = head_tile::<F>(plan.keys, plan);
    let mut value = head_tile::<F>(plan.keys, plan);
    let mut weights = shared::<F>(comptime!(plan.queries * plan.weight_stride()), plan);
    let mut scratch = shared::<f32>(comptime!(plan.scratch()), plan);
    let mut partial = SharedMemory::<f32>::new(comptime!(plan.queries * LANES));
    let mut factors = SharedMemory::<f32>::new(plan.queries);
    let mut raised = SharedMemory::<u32>::new(1usize);
    let mut reference = Array::<f32>::new(comptime!(row_passes(plan)));
    let mut sum = Array::<f32>::new(comptime!(row_passes(plan)));
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        reference[pass] = f32::new(LOWEST);
        sum[pass] = f32::new(0.0);
    }
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
    let mut weighted = zeros(comptime!(plan.sums()));
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
        if UNIT_POS == 0 {
            raised[0] = 0u32;
        }
        sync_cube();
        tile_product::<F>(&query, &key, &mut scratch, plan);
        sync_cube();
        partial_maxima(&scratch, &mut partial, first, first_key, plan);
        sync_cube();
        raise_references(
            &partial,
            &mut reference,
            &mut sum,
            &mut factors,
            &mut raised,
            block,
            plan,
        );
        exponentials::<F>(
            &scratch,
            &mut weights,
            &reference,
            &mut sum,
            first,
            first_key,
            plan,
        );
        sync_cube();
        if raised[0] == 1 {
            store(
                &weighted,
                &mut scratch,
                comptime!(plan.staged_stride()),
                comptime!(plan.sums()),
            );
            sync_cube();
            scale_rows(&mut scratch, &factors, plan.queries, plan);
            sync_cube();
            load(
                &mut weighted,
                &scratch,
                comptime!(plan.staged_stride()),
                comptime!(plan.sums()),
            );
        }
        accumulate::<F>(
            &mut weighted,
            &weights,
            comptime!(plan.weights()),
            &value,
            comptime!(plan.rows()),
            plan.keys,
            comptime!(plan.sums()),
        );
        sync_cube();
    }
    leave_sums(&sum, &mut partial, plan);
    store(
        &weighted,
        &mut scratch,
        comptime!(plan.staged_stride()),
        comptime!(plan.sums()),
    );
    sync_cube();
    finish_rows(
        &partial,
        &reference,
        &mut factors,
        log_sum_exp,
        &head,
        first,
        plan,
    );
    sync_cube();
    scale_rows(&mut scratch, &factors, plan.queries, plan);
    sync_cube();
    write_plain::<F, N>(
        output,
        &scratch,
        &head,
        first,
        0usize,
        1usize,
        plan.queries,
        plan,
    );
}

/// Largest scaled score that each lane sees of its row, to `partial` `[queries, LANES]`.
#[cube]
fn partial_maxima(
    scores: &SharedMemory<f32>,
    partial: &mut SharedMemory<f32>,
    first: usize,
    first_key: usize,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            let mut largest = f32::new(LOWEST);
            for step in 0..comptime!(plan.keys / LANES) {
                let column = lane + step * LANES;
                if first_key + column <= first + row {
                    largest = max(
                        largest,
                        scores[row * comptime!(plan.score_stride()) + column] * scale(plan),
                    );
                }
            }
            partial[row * LANES + lane] = largest;
        }
    }
}

/// Raises the reference of the rows whose scores have grown past it: their sums shrink by the factor that is left in
/// `factors` `[queries]`, and `raised` is set where the weighted values, which the whole cube holds, have to shrink too.
#[cube]
fn raise_references(
    partial: &SharedMemory<f32>,
    reference: &mut Array<f32>,
    sum: &mut Array<f32>,
    factors: &mut SharedMemory<f32>,
    raised: &mut SharedMemory<u32>,
    block: usize,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            let mut largest = partial[row * LANES];
            #[unroll]
            for other in 1..LANES {
                largest = max(largest, partial[row * LANES + other]);
            }
            let mut factor = f32::new(1.0);
            if largest > reference[pass] + f32::new(GROWTH) {
                factor = (reference[pass] - largest).exp();
                reference[pass] = largest;
                // Before the first block there is nothing to shrink. All who write here write the same.
                if block > 0 {
                    raised[0] = 1u32;
                }
            }
            sum[pass] *= factor;
            if lane == 0 {
                factors[row] = factor;
            }
        }
    }
}

/// Exponentials of the scaled scores above the rows' references, zero where a query does not see the key: to `weights`, and
/// added to `sum`.
#[cube]
fn exponentials<F: Float>(
    scores: &SharedMemory<f32>,
    weights: &mut SharedMemory<F>,
    reference: &Array<f32>,
    sum: &mut Array<f32>,
    first: usize,
    first_key: usize,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            let base = reference[pass];
            let mut total = sum[pass];
            for step in 0..comptime!(plan.keys / LANES) {
                let column = lane + step * LANES;
                let mut weight = f32::new(0.0);
                if first_key + column <= first + row {
                    let score = scores[row * comptime!(plan.score_stride()) + column] * scale(plan);
                    weight = (score - base).exp();
                }
                weights[row * comptime!(plan.weight_stride()) + column] = F::cast_from(weight);
                total += weight;
            }
            sum[pass] = total;
        }
    }
}

/// Leaves each lane's sum in `partial` `[queries, LANES]`.
#[cube]
fn leave_sums(sum: &Array<f32>, partial: &mut SharedMemory<f32>, #[comptime] plan: Plan) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries {
            partial[row * LANES + lane] = sum[pass];
        }
    }
}

/// Writes the log-sum-exp of each row, and to `factors` what the weighted values are multiplied with.
#[cube]
fn finish_rows(
    partial: &SharedMemory<f32>,
    reference: &Array<f32>,
    factors: &mut SharedMemory<f32>,
    log_sum_exp: &mut Tensor<f32>,
    head: &Head,
    first: usize,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for pass in 0..comptime!(row_passes(plan)) {
        let row = own_row(pass, plan);
        if row < plan.queries && lane == 0 {
            let total = lane_sum(partial, row);
            factors[row] = f32::new(1.0) / total;
            let position = first + row;
            if position < head.length {
                log_sum_exp[head.statistic(position)] = reference[pass] + total.ln();
            }
        }
    }
}
