//! Products of tiles in shared memory, with sums in f32.
//!
//! There is one function for both ways of multiplying, chosen when a kernel is generated: every unit its own elements of
//! the result, which works everywhere, or every plane its own fragments of 16 by 16 on tensor cores. What lies around a
//! product (how tiles are laid out, how the result is stored) is the same for both.

use cubecl::cmma;
use cubecl::prelude::*;

/// Rows and columns of a fragment.
pub const FRAGMENT: usize = 16;

/// Units that share a row of a result when units multiply; a multiple of them is every number of columns.
const UNITS_ACROSS: usize = 16;

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Units, one element after the other.
    Units,
    /// Tensor cores, which take whole planes of so many units.
    Cores(usize),
}

/// A tile of sums that the units of a cube hold together, in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Rows: a multiple of 8 for units, of 16 for tensor cores.
    pub rows: usize,
    /// Columns, a multiple of 16.
    pub columns: usize,
    /// Units of the cube.
    pub units: usize,
    /// Who computes it.
    pub engine: Engine,
}

/// How a block is dealt out to workers (units, or planes) that stand in a grid: the worker at (r, c) holds the elements, or
/// fragments, at `(r + i·down, c + j·across)`, so that neighbours read neighbouring addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Share {
    /// Workers in a column of the grid.
    down: usize,
    /// Workers in a row of it.
    across: usize,
    /// What a worker holds, rows.
    rows: usize,
    /// What a worker holds, columns.
    columns: usize,
}

impl Block {
    fn share(self) -> Share {
        match self.engine {
            Engine::Units => {
                let down = self.units / UNITS_ACROSS;
                Share {
                    down,
                    across: UNITS_ACROSS,
                    rows: self.rows / down,
                    columns: self.columns / UNITS_ACROSS,
                }
            }
            Engine::Cores(plane) => Share::of_planes(
                self.rows / FRAGMENT,
                self.columns / FRAGMENT,
                self.units / plane,
            ),
        }
    }
}

impl Share {
    /// The grid that keeps most planes busy, and among those the one whose planes load the fewest fragments.
    fn of_planes(rows: usize, columns: usize, planes: usize) -> Self {
        let divisors = |number: usize| (1..=number).filter(move |d| number.is_multiple_of(*d));
        let grids =
            divisors(rows).flat_map(|down| divisors(columns).map(move |across| (down, across)));
        let (down, across) = grids
            .filter(|(down, across)| down * across <= planes)
            .min_by_key(|(down, across)| (planes - down * across, rows / down + columns / across))
            .expect("one plane alone is always possible");
        Self {
            down,
            across,
            rows: rows / down,
            columns: columns / across,
        }
    }
}

/// How a factor lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Elements from one stored row to the next.
    pub stride: usize,
    /// Whether the stored rows are the factor's columns.
    pub transposed: bool,
}

impl Layout {
    /// Stored as it is used.
    pub fn plain(stride: usize) -> Self {
        Self {
            stride,
            transposed: false,
        }
    }

    /// The transpose of what is stored.
    pub fn transposed(stride: usize) -> Self {
        Self {
            stride,
            transposed: true,
        }
    }
}

/// What one worker holds of a [`Block`].
#[allow(
    dead_code,
    reason = "kernels are made of its expansion, which the macro derives"
)]
#[derive(CubeType)]
pub enum Accumulator {
    /// A unit's elements.
    Registers(Array<f32>),
    /// A plane's fragments.
    Fragments(Sequence<cmma::Matrix<f32>>),
}

/// A block of zeros.
#[cube]
pub fn zeros(#[comptime] block: Block) -> Accumulator {
    let share = comptime!(block.share());
    let count = comptime!(share.rows * share.columns);
    match block.engine {
        Engine::Units => {
            let mut values = Array::<f32>::new(count);
            #[unroll]
            for i in 0..count {
                values[i] = f32::new(0.0);
            }
            Accumulator::new_Registers(values)
        }
        Engine::Cores(_) => {
            let mut fragments = Sequence::<cmma::Matrix<f32>>::new();
            #[unroll]
            for _ in 0..count {
                fragments.push(cmma::Matrix::<f32>::from_value(
                    cmma::MatrixIdent::Accumulator,
                    FRAGMENT,
                    FRAGMENT,
                    FRAGMENT,
                    cmma::MatrixLayout::Undefined,
                    f32::new(0.0),
                ));
            }
            Accumulator::new_Fragments(fragments)
        }
    }
}

/// Adds `left·right`, `[rows, inner]·[inner, columns]` of the block; `inner` is a multiple of 16 on tensor cores.
///
/// All units of the cube take part; between the writing of a factor and this lies a `sync_cube`.
#[cube]
pub fn accumulate<F: Float>(
    accumulator: &mut Accumulator,
    left: &SharedMemory<F>,
    #[comptime] left_layout: Layout,
    right: &SharedMemory<F>,
    #[comptime] right_layout: Layout,
    #[comptime] inner: usize,
    #[comptime] block: Block,
) {
    match accumulator {
        Accumulator::Registers(values) => {
            accumulate_by_units::<F>(values, left, left_layout, right, right_layout, inner, block);
        }
        Accumulator::Fragments(fragments) => {
            accumulate_on_cores::<F>(
                fragments,
                left,
                left_layout,
                right,
                right_layout,
                inner,
                block,
            );
        }
    }
}

#[cube]
fn accumulate_by_units<F: Float>(
    values: &mut Array<f32>,
    left: &SharedMemory<F>,
    #[comptime] left_layout: Layout,
    right: &SharedMemory<F>,
    #[comptime] right_layout: Layout,
    #[comptime] inner: usize,
    #[comptime] block: Block,
) {
    let share = comptime!(block.share());
    let row = UNIT_POS as usize / share.across;
    let column = UNIT_POS as usize % share.across;
    let mut factors = Array::<f32>::new(share.rows);
    for k in 0..inner {
        #[unroll]
        for i in 0..share.rows {
            factors[i] = f32::cast_from(left[element_index(row + i * share.down, k, left_layout)]);
        }
        #[unroll]
        for j in 0..share.columns {
            let factor =
                f32::cast_from(right[element_index(k, column + j * share.across, right_layout)]);
            #[unroll]
            for i in 0..share.rows {
                values[i * share.columns + j] += factors[i] * factor;
            }
        }
    }
}

/// Where an element of a factor lies.
#[cube]
fn element_index(row: usize, column: usize, #[comptime] layout: Layout) -> usize {
    if layout.transposed {
        column * layout.stride + row
    } else {
        row * layout.stride + column
    }
}

#[cube]
fn accumulate_on_cores<F: Float>(
    fragments: &mut Sequence<cmma::Matrix<f32>>,
    left: &SharedMemory<F>,
    #[comptime] left_layout: Layout,
    right: &SharedMemory<F>,
    #[comptime] right_layout: Layout,
    #[comptime] inner: usize,
    #[comptime] block: Block,
) {
    let share = comptime!(block.share());
    let worker = plane_number(block);
    // A block of few fragments leaves planes without one.
    if worker < comptime!(share.down * share.across) {
        let row = worker / share.across * FRAGMENT;
        let column = worker % share.across * FRAGMENT;
        #[unroll]
        for step in 0..comptime!(inner / FRAGMENT) {
            let k = comptime!(step * FRAGMENT);
            let mut rights = Sequence::<cmma::Matrix<F>>::new();
            #[unroll]
            for j in 0..share.columns {
                let first = element_index(
                    k,
                    column + comptime!(j * share.across * FRAGMENT),
                    right_layout,
                );
                rights.push(factor::<F>(
                    right,
                    first,
                    cmma::MatrixIdent::B,
                    right_layout,
                ));
            }
            #[unroll]
            for i in 0..share.rows {
                let first =
                    element_index(row + comptime!(i * share.down * FRAGMENT), k, left_layout);
                let left = factor::<F>(left, first, cmma::MatrixIdent::A, left_layout);
                #[unroll]
                for j in 0..share.columns {
                    let sum = fragments.index(comptime!(i * share.columns + j));
                    cmma::execute::<F, F, f32, f32>(&left, rights.index(j), sum, sum);
                }
            }
        }
    }
}

/// The fragment of a factor whose first element lies at `first`.
#[cube]
fn factor<F: Float>(
    tile: &SharedMemory<F>,
    first: usize,
    #[comptime] ident: cmma::MatrixIdent,
    #[comptime] layout: Layout,
) -> cmma::Matrix<F> {
    cmma::Matrix::<F>::from_slice(
        ident,
        FRAGMENT,
        FRAGMENT,
        FRAGMENT,
        stored(layout),
        &tile.slice(first, tile.len()),
        comptime!(layout.stride as u32),
    )
}

#[cube]
fn stored(#[comptime] layout: Layout) -> cmma::MatrixLayout {
    match layout.transposed {
        true => cmma::MatrixLayout::ColMajor,
        false => cmma::MatrixLayout::RowMajor,
    }
}

/// The number of this unit's plane in the cube, on tensor cores.
#[cube]
fn plane_number(#[comptime] block: Block) -> usize {
    match block.engine {
        Engine::Units => UNIT_POS as usize,
        Engine::Cores(plane) => UNIT_POS as usize / plane,
    }
}

/// Writes the block to shared memory, rows `stride` apart.
#[cube]
pub fn store(
    accumulator: &Accumulator,
    tile: &mut SharedMemory<f32>,
    #[comptime] stride: usize,
    #[comptime] block: Block,
) {
    let share = comptime!(block.share());
    match accumulator {
        Accumulator::Registers(values) => {
            let row = UNIT_POS as usize / share.across;
            let column = UNIT_POS as usize % share.across;
            #[unroll]
            for i in 0..share.rows {
                #[unroll]
                for j in 0..share.columns {
                    let target = (row + i * share.down) * stride + column + j * share.across;
                    tile[target] = values[i * share.columns + j];
                }
            }
        }
        Accumulator::Fragments(fragments) => {
            let worker = plane_number(block);
            if worker < comptime!(share.down * share.across) {
                #[unroll]
                for i in 0..share.rows {
                    #[unroll]
                    for j in 0..share.columns {
                        let first = fragment_start(worker, i, j, stride, block);
                        let end = tile.len();
                        cmma::store(
                            &mut tile.slice_mut(first, end),
                            fragments.index(comptime!(i * share.columns + j)),
                            comptime!(stride as u32),
                            cmma::MatrixLayout::RowMajor,
                        );
                    }
                }
            }
        }
    }
}

/// Reads the block back from where [`store`] wrote it.
#[cube]
pub fn load(
    accumulator: &mut Accumulator,
    tile: &SharedMemory<f32>,
    #[comptime] stride: usize,
    #[comptime] block: Block,
) {
    let share = comptime!(block.share());
    match accumulator {
        Accumulator::Registers(values) => {
            let row = UNIT_POS as usize / share.across;
            let column = UNIT_POS as usize % share.across;
            #[unroll]
            for i in 0..share.rows {
                #[unroll]
                for j in 0..share.columns {
                    let source = (row + i * share.down) * stride + column + j * share.across;
                    values[i * share.columns + j] = tile[source];
                }
            }
        }
        Accumulator::Fragments(fragments) => {
            let worker = plane_number(block);
            if worker < comptime!(share.down * share.across) {
                #[unroll]
                for i in 0..share.rows {
                    #[unroll]
                    for j in 0..share.columns {
                        let first = fragment_start(worker, i, j, stride, block);
                        cmma::load_with_layout(
                            fragments.index(comptime!(i * share.columns + j)),
                            &tile.slice(first, tile.len()),
                            comptime!(stride as u32),
                            cmma::MatrixLayout::RowMajor,
                        );
                    }
                }
            }
        }
    }
}

/// Where a plane's fragment (i, j) begins in a tile of rows `stride` apart.
#[cube]
fn fragment_start(
    worker: usize,
    #[comptime] i: usize,
    #[comptime] j: usize,
    #[comptime] stride: usize,
    #[comptime] block: Block,
) -> usize {
    let share = comptime!(block.share());
    let row = (worker / share.across + i * share.down) * FRAGMENT;
    let column = (worker % share.across + j * share.across) * FRAGMENT;
    row * stride + column
}

#[cfg(test)]
mod tests {
    use super::{Block, Engine, Share};

    /// Every fragment belongs to one plane, and no plane is left out that a grid could have used.
    #[test]
    fn planes_share_a_block_completely() {
        // Rows and columns in fragments, planes, and the grid by hand.
        let cases = [
            ((4, 4, 4), (2, 2)),
            ((4, 2, 4), (2, 2)),
            ((2, 4, 4), (1, 4)),
            ((4, 3, 4), (4, 1)),
            ((2, 1, 4), (2, 1)),
            ((1, 1, 4), (1, 1)),
            ((2, 3, 4), (1, 3)),
        ];
        for ((rows, columns, planes), (down, across)) in cases {
            let share = Share::of_planes(rows, columns, planes);
            assert_eq!(
                (share.down, share.across),
                (down, across),
                "{rows} by {columns}"
            );
            assert_eq!(
                (share.down * share.rows, share.across * share.columns),
                (rows, columns)
            );
        }
    }

    #[test]
    fn units_share_a_block_completely() {
        for rows in [8, 16, 32, 64] {
            for columns in [16, 32, 48, 64] {
                let block = Block {
                    rows,
                    columns,
                    units: 128,
                    engine: Engine::Units,
                };
                let share = block.share();
                assert_eq!(share.down * share.across, block.units);
                assert_eq!(
                    (share.down * share.rows, share.across * share.columns),
                    (rows, columns)
                );
            }
        }
    }
}
