//! Tiles of one head: read from tensors into shared memory, written back from sums that are staged there, with the rotation
//! of queries and keys on the way.
//!
//! Units take vectors of a row in turn, so that neighbours read neighbouring addresses. The rotation pairs element j with
//! element j + w/2 of a row: a unit takes a vector of the left half and its partner of the right half.

use cubecl::prelude::*;

use super::plan::Plan;
use super::product::Engine;

/// The head, of a sequence, that a cube works on: it stands at (block, head, sequence) in the grid.
#[derive(CubeType)]
pub struct Head {
    /// First token of the sequence among all.
    token: usize,
    /// First row of the head's statistics `[batch, heads, length]`.
    statistics: usize,
    /// First element of the head in a row of all.
    column: usize,
    /// Elements of a row of all heads.
    hidden: usize,
    /// Tokens of the sequence.
    pub length: usize,
}

#[cube]
impl Head {
    /// The head of this cube.
    pub fn new(length: usize, #[comptime] plan: Plan) -> Head {
        let heads = CUBE_COUNT_Y as usize;
        let head = CUBE_POS_Y as usize;
        let sequence = CUBE_POS_Z as usize;
        Head {
            token: sequence * length,
            statistics: (sequence * heads + head) * length,
            column: head * plan.width,
            hidden: heads * plan.width,
            length,
        }
    }

    /// The vector with which the head's row begins in one of `parts` tensors that lie side by side.
    pub fn row(
        &self,
        position: usize,
        #[comptime] part: usize,
        #[comptime] parts: usize,
        #[comptime] plan: Plan,
    ) -> usize {
        (((self.token + position) * parts + part) * self.hidden + self.column) / plan.vector
    }

    /// The element of a position in `[batch, heads, length]`.
    pub fn statistic(&self, position: usize) -> usize {
        self.statistics + position
    }
}

/// Shared memory, with the alignment that fragments want where there are any.
#[cube]
pub fn shared<T: CubePrimitive>(
    #[comptime] size: usize,
    #[comptime] plan: Plan,
) -> SharedMemory<T> {
    match plan.engine {
        Engine::Units => SharedMemory::<T>::new(size),
        Engine::Cores(_) => SharedMemory::<T>::new_aligned(size, 32usize),
    }
}

/// A tile of `rows` rows of a head; what pads their width is zero and stays so.
#[cube]
pub fn head_tile<F: Float>(#[comptime] rows: usize, #[comptime] plan: Plan) -> SharedMemory<F> {
    let mut tile = shared::<F>(comptime!(rows * plan.stride()), plan);
    let padding = comptime!(plan.padded() - plan.width);
    if comptime!(padding > 0) {
        let count = comptime!(rows * padding);
        for pass in 0..comptime!(count.div_ceil(plan.units)) {
            let item = UNIT_POS as usize + pass * plan.units;
            if item < count {
                let row = item / padding;
                let column = item % padding;
                tile[row * comptime!(plan.stride()) + plan.width + column] = F::new(0.0);
            }
        }
    }
    tile
}

/// Reads rows from `first` of part `part` of three (query, key, value), rotated by their positions; zeros past the sequence.
#[cube]
#[expect(clippy::too_many_arguments, reason = "what is read, and where to")]
pub fn load_rotated<F: Float, N: Size>(
    tile: &mut SharedMemory<F>,
    source: &Tensor<Vector<F, N>>,
    rotary: &Tensor<Vector<f32, N>>,
    head: &Head,
    first: usize,
    #[comptime] part: usize,
    #[comptime] rows: usize,
    #[comptime] plan: Plan,
) {
    let half = comptime!(plan.width / 2);
    let vectors = comptime!(half / plan.vector);
    let count = comptime!(rows * vectors);
    for pass in 0..comptime!(count.div_ceil(plan.units)) {
        let item = UNIT_POS as usize + pass * plan.units;
        if item < count {
            let row = item / vectors;
            let column = item % vectors;
            let position = first + row;
            let target = row * comptime!(plan.stride()) + column * plan.vector;
            if position < head.length {
                let index = head.row(position, part, 3usize, plan) + column;
                let left = source[index];
                let right = source[index + vectors];
                let angle = position * comptime!(2 * vectors) + column;
                let cosine = rotary[angle];
                let sine = rotary[angle + vectors];
                #[unroll]
                for lane in 0..plan.vector {
                    let x = f32::cast_from(left[lane]);
                    let y = f32::cast_from(right[lane]);
                    let c = cosine[lane];
                    let s = sine[lane];
                    tile[target + lane] = F::cast_from(x * c - y * s);
                    tile[target + comptime!(half + lane)] = F::cast_from(y * c + x * s);
                }
            } else {
                #[unroll]
                for lane in 0..plan.vector {
                    tile[target + lane] = F::new(0.0);
                    tile[target + comptime!(half + lane)] = F::new(0.0);
                }
            }
        }
    }
}

/// Reads rows from `first` of part `part` of `parts`, as they are; zeros past the sequence.
#[cube]
#[expect(clippy::too_many_arguments, reason = "what is read, and where to")]
pub fn load_plain<F: Float, N: Size>(
    tile: &mut SharedMemory<F>,
    source: &Tensor<Vector<F, N>>,
    head: &Head,
    first: usize,
    #[comptime] part: usize,
    #[comptime] parts: usize,
    #[comptime] rows: usize,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.width / plan.vector);
    let count = comptime!(rows * vectors);
    for pass in 0..comptime!(count.div_ceil(plan.units)) {
        let item = UNIT_POS as usize + pass * plan.units;
        if item < count {
            let row = item / vectors;
            let column = item % vectors;
            let position = first + row;
            let target = row * comptime!(plan.stride()) + column * plan.vector;
            if position < head.length {
                let values = source[head.row(position, part, parts, plan) + column];
                #[unroll]
                for lane in 0..plan.vector {
                    tile[target + lane] = values[lane];
                }
            } else {
                #[unroll]
                for lane in 0..plan.vector {
                    tile[target + lane] = F::new(0.0);
                }
            }
        }
    }
}

/// Multiplies each row of staged sums by its factor.
#[cube]
pub fn scale_rows(
    staged: &mut SharedMemory<f32>,
    factors: &SharedMemory<f32>,
    #[comptime] rows: usize,
    #[comptime] plan: Plan,
) {
    let columns = comptime!(plan.padded());
    let count = comptime!(rows * columns);
    for pass in 0..comptime!(count.div_ceil(plan.units)) {
        let item = UNIT_POS as usize + pass * plan.units;
        if item < count {
            let row = item / columns;
            let index = row * comptime!(plan.staged_stride()) + item % columns;
            staged[index] *= factors[row];
        }
    }
}

/// Writes staged sums to rows from `first` of part `part` of `parts`, as far as the sequence goes.
#[cube]
#[expect(clippy::too_many_arguments, reason = "what is written, and where to")]
pub fn write_plain<F: Float, N: Size>(
    target: &mut Tensor<Vector<F, N>>,
    staged: &SharedMemory<f32>,
    head: &Head,
    first: usize,
    #[comptime] part: usize,
    #[comptime] parts: usize,
    #[comptime] rows: usize,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.width / plan.vector);
    let count = comptime!(rows * vectors);
    for pass in 0..comptime!(count.div_ceil(plan.units)) {
        let item = UNIT_POS as usize + pass * plan.units;
        let row = item / vectors;
        let column = item % vectors;
        let position = first + row;
        if item < count && position < head.length {
            let source = row * comptime!(plan.staged_stride()) + column * plan.vector;
            let mut values = Vector::<F, N>::empty();
            #[unroll]
            for lane in 0..plan.vector {
                values[lane] = F::cast_from(staged[source + lane]);
            }
            target[head.row(position, part, parts, plan) + column] = values;
        }
    }
}

/// Writes staged gradients of rotated rows, times `scale`, as those of the rows before their rotation, to part `part` of
/// three (query, key, value).
#[cube]
#[expect(clippy::too_many_arguments, reason = "what is written, and where to")]
pub fn write_unrotated<F: Float, N: Size>(
    target: &mut Tensor<Vector<F, N>>,
    staged: &SharedMemory<f32>,
    rotary: &Tensor<Vector<f32, N>>,
    head: &Head,
    first: usize,
    scale: f32,
    #[comptime] part: usize,
    #[comptime] rows: usize,
    #[comptime] plan: Plan,
) {
    let half = comptime!(plan.width / 2);
    let vectors = comptime!(half / plan.vector);
    let count = comptime!(rows * vectors);
    for pass in 0..comptime!(count.div_ceil(plan.units)) {
        let item = UNIT_POS as usize + pass * plan.units;
        let row = item / vectors;
        let column = item % vectors;
        let position = first + row;
        if item < count && position < head.length {
            let source = row * comptime!(plan.staged_stride()) + column * plan.vector;
            let angle = position * comptime!(2 * vectors) + column;
            let cosine = rotary[angle];
            let sine = rotary[angle + vectors];
            let mut left = Vector::<F, N>::empty();
            let mut right = Vector::<F, N>::empty();
            #[unroll]
            for lane in 0..plan.vector {
                let x = staged[source + lane] * scale;
                let y = staged[source + comptime!(half + lane)] * scale;
                left[lane] = F::cast_from(x * cosine[lane] + y * sine[lane]);
                right[lane] = F::cast_from(y * cosine[lane] - x * sine[lane]);
            }
            let index = head.row(position, part, 3usize, plan) + column;
            target[index] = left;
            target[index + vectors] = right;
        }
    }
}
