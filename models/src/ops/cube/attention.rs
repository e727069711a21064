//! Causal attention with rotary positions on GPUs: by tiles in shared memory, with recomputation (Dao et al. 2022,
//! "FlashAttention"). Definition and formulas: `ops/attention.rs`.
//!
//! The scores of a sequence never exist as a whole, and nothing above the diagonal is computed but within the tiles that
//! it crosses. Three kernels, each a grid of (blocks of rows, heads, sequences), so that the cubes of one head, which read
//! the same keys and values, run side by side and find these in the cache:
//!
//! - *forward* and *gradient of the queries* keep a block of queries and go over the keys up to its last row. The last
//!   block has most to do and comes first, so that no long one is left for the end.
//! - *gradients of keys and values* keep a block of keys and go over the queries from its first row.
//!
//! A cube multiplies tiles as a whole (`attention/product.rs`), leaves the result in shared memory in f32, and takes its
//! rows up again, four units a row (`attention/rows.rs`). So all that is known of where a unit's elements lie is in the
//! products. Every sum has one order: the bits of a result depend on the device and on nothing else.

mod backward;
mod forward;
mod plan;
mod product;
mod rotary;
mod rows;
mod tile;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeCount;

use self::backward::{key_value_gradient_kernel, query_gradient_kernel};
use self::forward::forward_kernel;
use self::plan::{Kernel, Plan};
use super::launching::launch;
use super::tensor::{empty_like, strided, units};

/// `query_key_value` `[b, t, 3d]`, f32 or bf16; returns the output `[b, t, d]` of the same type and the log-sum-exp of the
/// scaled scores `[b, heads, t]` in f32. One launch.
///
/// # Panics
///
/// Where [`supports`] is false of the tensor.
pub fn forward<R: CubeRuntime>(
    query_key_value: CubeTensor<R>,
    heads: usize,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let shape = AttentionShape::new(&query_key_value, heads);
    let output = empty_like(&query_key_value, shape.rows(1), query_key_value.dtype);
    let log_sum_exp = empty_like(&query_key_value, shape.statistics(), DType::F32);
    if shape.is_empty() {
        return (output, log_sum_exp);
    }
    let plan = shape.plan(Kernel::Forward, &query_key_value);
    let rotary = rotary::table(
        &query_key_value.client,
        &query_key_value.device,
        shape.length,
        shape.width,
    );
    let dtype = query_key_value.dtype.into();
    let tensors = [&query_key_value, &rotary, &output, &log_sum_exp].map(strided);
    launch(
        &query_key_value,
        tensors,
        move |client, [query_key_value, rotary, output, log_sum_exp]| {
            forward_kernel::launch::<R>(
                client,
                shape.grid(plan.queries),
                units(plan.units),
                plan.vector,
                query_key_value,
                rotary,
                output,
                log_sum_exp,
                shape.length as u32,
                plan,
                dtype,
            );
        },
    );
    (output, log_sum_exp)
}

/// The gradients of query, key and value side by side `[b, t, 3d]`, of the type of these. Two launches: what the first one
/// finds of each row, the second one reads.
///
/// `log_sum_exp` is f32, the others are of one type.
///
/// # Panics
///
/// Where [`supports`] is false of `query_key_value`.
pub fn backward<R: CubeRuntime>(
    query_key_value: CubeTensor<R>,
    output: CubeTensor<R>,
    log_sum_exp: CubeTensor<R>,
    gradient: CubeTensor<R>,
    heads: usize,
) -> CubeTensor<R> {
    let shape = AttentionShape::new(&query_key_value, heads);
    let gradients = empty_like(&query_key_value, shape.rows(3), query_key_value.dtype);
    if shape.is_empty() {
        return gradients;
    }
    let row_sums = empty_like(&query_key_value, shape.statistics(), DType::F32);
    let rotary = rotary::table(
        &query_key_value.client,
        &query_key_value.device,
        shape.length,
        shape.width,
    );
    let dtype = query_key_value.dtype.into();
    let plan = shape.plan(Kernel::Query, &query_key_value);
    let tensors = [
        &query_key_value,
        &output,
        &gradient,
        &log_sum_exp,
        &rotary,
        &row_sums,
        &gradients,
    ];
    launch(
        &query_key_value,
        tensors.map(strided),
        move |client, tensors| {
            let [
                query_key_value,
                output,
                gradient,
                log_sum_exp,
                rotary,
                row_sums,
                gradients,
            ] = tensors;
            query_gradient_kernel::launch::<R>(
                client,
                shape.grid(plan.queries),
                units(plan.units),
                plan.vector,
                query_key_value,
                output,
                gradient,
                log_sum_exp,
                rotary,
                row_sums,
                gradients,
                shape.length as u32,
                plan,
                dtype,
            );
        },
    );
    let plan = shape.plan(Kernel::KeyValue, &query_key_value);
    let tensors = [
        &query_key_value,
        &gradient,
        &log_sum_exp,
        &row_sums,
        &rotary,
        &gradients,
    ];
    launch(
        &query_key_value,
        tensors.map(strided),
        move |client, tensors| {
            let [
                query_key_value,
                gradient,
                log_sum_exp,
                row_sums,
                rotary,
                gradients,
            ] = tensors;
            key_value_gradient_kernel::launch::<R>(
                client,
                shape.grid(plan.keys),
                units(plan.units),
                plan.vector,
                query_key_value,
                gradient,
                log_sum_exp,
                row_sums,
                rotary,
                gradients,
                shape.length as u32,
                plan,
                dtype,
            );
        },
    );
    gradients
}

/// Whether the device of `query_key_value` `[b, t, 3d]` can run the kernels for it: an element type they know, an even
/// head width, tiles that fit into shared memory (f32 heads up to 112 wide where that is 32 KiB), a grid within its bounds.
pub fn supports<R: CubeRuntime>(query_key_value: &CubeTensor<R>, heads: usize) -> bool {
    let shape = AttentionShape::new(query_key_value, heads);
    let (_, most_heads, most_sequences) =
        query_key_value.client.properties().hardware.max_cube_count;
    let kernels = [Kernel::Forward, Kernel::Query, Kernel::KeyValue];
    matches!(query_key_value.dtype, DType::F32 | DType::BF16)
        && heads <= most_heads as usize
        && shape.batch <= most_sequences as usize
        && kernels
            .into_iter()
            .all(|kernel| shape.try_plan(kernel, query_key_value).is_some())
}

/// `[batch, length, heads·width]`.
#[derive(Clone, Copy)]
struct AttentionShape {
    batch: usize,
    length: usize,
    heads: usize,
    width: usize,
}

impl AttentionShape {
    fn new<R: CubeRuntime>(query_key_value: &CubeTensor<R>, heads: usize) -> Self {
        let [batch, length, parts] = query_key_value.meta.shape().dims::<3>();
        Self {
            batch,
            length,
            heads,
            width: parts / (3 * heads),
        }
    }

    fn is_empty(self) -> bool {
        self.batch * self.length * self.heads * self.width == 0
    }

    /// So many tensors of the output's shape side by side.
    fn rows(self, parts: usize) -> Shape {
        Shape::from([self.batch, self.length, parts * self.heads * self.width])
    }

    fn statistics(self) -> Shape {
        Shape::from([self.batch, self.heads, self.length])
    }

    fn try_plan<R: CubeRuntime>(self, kernel: Kernel, tensor: &CubeTensor<R>) -> Option<Plan> {
        let device = tensor.client.properties();
        Plan::new(kernel, self.width, tensor.dtype.into(), device)
    }

    fn plan<R: CubeRuntime>(self, kernel: Kernel, tensor: &CubeTensor<R>) -> Plan {
        let plan = self.try_plan(kernel, tensor);
        plan.expect("callers take the composed definition where `supports` is false")
    }

    fn grid(self, rows: usize) -> CubeCount {
        let blocks = self.length.div_ceil(rows);
        CubeCount::Static(blocks as u32, self.heads as u32, self.batch as u32)
    }
}
