//! Matrix products, by the `gemm` crate.
//!
//! Each element is summed over the inner dimension by one thread in one order, so the result has the same bits on any
//! number of threads (tested). The crate cuts long sums where the caches of the machine want it; we cut them before, at a
//! fixed length, so that the bits are also those of every processor with fused multiply-add.

use std::ops::Range;

use gemm::Parallelism;

use super::vector::{dot, vectorised};

/// Terms of a sum before it is added to the destination; so many the crate never cuts (`kernel_params` of gemm-common
/// 0.19.0 leaves sums of up to 512 whole).
const INNER: usize = 512;

/// Elements of a product for which the crate would take other kernels (of up to 16 x 16 elements, and of a single row or
/// column): these sum by the lanes of the machine's vectors, so that their bits would depend on it.
const FEW: usize = 256;

/// A matrix to read: some rows and columns of a slice at given strides.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    ///
    /// # Panics
    ///
    /// Where the slice is too short for the shape.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// A row-major matrix whose rows begin `row_stride` apart.
    ///
    /// # Panics
    ///
    /// Where the slice is too short for the shape, or where rows overlap.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        // A single row has no stride of its own.
        let row_stride = if rows > 1 { row_stride } else { columns };
        assert!(
            row_stride >= columns,
            "rows of {columns} at stride {row_stride}"
        );
        assert!(
            rows == 0
                || columns == 0
                || ((rows - 1).checked_mul(row_stride))
                    .and_then(|start| start.checked_add(columns))
                    .is_some_and(|end| end <= values.len()),
            "a matrix of {rows} x {columns} at stride {row_stride} in {} values",
            values.len()
        );
        Self {
            values,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// Some of the columns of a matrix that has not been transposed.
    ///
    /// # Panics
    ///
    /// Where there are not so many, or where the matrix was transposed.
    #[must_use]
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(
            columns.end <= self.columns && self.column_stride == 1,
            "columns {columns:?} of {} at stride {}",
            self.columns,
            self.column_stride
        );
        let values = &self.values[columns.start.min(self.values.len())..];
        Self::strided(values, self.rows, columns.len(), self.row_stride)
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The transposed matrix, without moving anything.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The elements of one row, and how far apart they are.
    #[inline(always)]
    fn row(&self, row: usize) -> (&'a [f32], usize) {
        let start = (row * self.row_stride).min(self.values.len());
        (&self.values[start..], self.column_stride)
    }
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All threads of the pool.
    Pool,
    /// The calling thread.
    One,
}

/// `factor·lhs·rhs` as a new row-major vector.
pub fn product(factor: f32, lhs: Matrix<'_>, rhs: Matrix<'_>, threads: Threads) -> Vec<f32> {
    products(factor, &[(lhs, rhs)], threads)
}

/// `factor·lhs·rhs` of each pair, side by side in a new row-major vector.
///
/// # Panics
///
/// Where the products have not all the same number of rows.
pub fn products(factor: f32, pairs: &[(Matrix<'_>, Matrix<'_>)], threads: Threads) -> Vec<f32> {
    let rows = pairs.first().map_or(0, |(lhs, _)| lhs.rows);
    let columns = pairs
        .iter()
        .try_fold(0_usize, |sum, (_, rhs)| sum.checked_add(rhs.columns))
        .expect("a row of products fits memory");
    assert!(
        pairs.iter().all(|(lhs, _)| lhs.rows == rows),
        "products side by side have the same rows"
    );
    let length = rows.checked_mul(columns).expect("a product fits memory");
    let mut output: Vec<f32> = Vec::with_capacity(length);
    let mut start = 0;
    for (lhs, rhs) in pairs {
        let first = output.as_mut_ptr().wrapping_add(start);
        #[expect(
            unsafe_code,
            reason = "fresh memory is written once, by the products themselves"
        )]
        // SAFETY: the capacity holds `rows` rows of `columns` elements; this product's columns of each are
        // `start..start + rhs.columns` of them, and it reads no element before it has written it.
        unsafe {
            multiply(first, columns, false, factor, *lhs, *rhs, threads);
        }
        start += rhs.columns;
    }
    #[expect(unsafe_code, reason = "see above")]
    // SAFETY: the capacity is at least this, and the products have written all columns of all rows.
    unsafe {
        output.set_len(length);
    }
    output
}

/// Has every thread of the pool allocate what its products work in: memory of the process, whatever it trains.
pub fn prepare_threads() {
    // Large enough for blocks to be packed.
    const WIDTH: usize = 256;
    let values = vec![0.0; WIDTH * WIDTH];
    let matrix = Matrix::new(&values, WIDTH, WIDTH);
    rayon::broadcast(|_| product(1.0, matrix, matrix.transposed(), Threads::One));
}

/// `output = factor·lhs·rhs`, row-major.
///
/// # Panics
///
/// Where the output is not of the product's length.
pub fn write_product(
    output: &mut [f32],
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    assert_eq!(output.len(), lhs.rows * rhs.columns, "length of a product");
    multiply_into(output, 0..rhs.columns, false, factor, lhs, rhs, threads);
}

/// `output += factor·lhs·rhs`, row-major.
///
/// # Panics
///
/// Where the output is not of the product's length.
pub fn add_product(
    output: &mut [f32],
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    assert_eq!(output.len(), lhs.rows * rhs.columns, "length of a product");
    multiply_into(output, 0..rhs.columns, true, factor, lhs, rhs, threads);
}

/// The same into some of the columns of a wider row-major output.
///
/// # Panics
///
/// Where the output does not hold these columns of each of the product's rows.
pub fn add_product_to_columns(
    output: &mut [f32],
    columns: Range<usize>,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    multiply_into(output, columns, true, factor, lhs, rhs, threads);
}

fn multiply_into(
    output: &mut [f32],
    columns: Range<usize>,
    add: bool,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    if lhs.rows == 0 {
        return;
    }
    let row = output.len() / lhs.rows;
    assert!(
        output.len() == lhs.rows * row && columns.end <= row && columns.len() == rhs.columns,
        "a product of {} x {} into columns {columns:?} of {} values",
        lhs.rows,
        rhs.columns,
        output.len()
    );
    let first = output.as_mut_ptr().wrapping_add(columns.start);
    #[expect(unsafe_code, reason = "the gemm crate takes pointers")]
    // SAFETY: these columns of each of the rows lie in the slice.
    unsafe {
        multiply(first, row, add, factor, lhs, rhs, threads);
    }
}

/// `output = factor·lhs·rhs`, or `output += ` that, for an output whose rows begin `row` apart.
///
/// # Safety
///
/// `output` must be valid for reads and writes of `rhs.columns` elements from the start of each of `lhs.rows` rows, all of
/// them in one allocation. Without `add`, no element is read before this function has written it.
#[expect(unsafe_code, reason = "the gemm crate takes pointers")]
unsafe fn multiply(
    output: *mut f32,
    row: usize,
    add: bool,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions of a product");
    if lhs.rows * rhs.columns <= FEW || lhs.rows == 1 || rhs.columns == 1 {
        // SAFETY: as for this function.
        return unsafe { multiply_few(output, row, add, factor, lhs, rhs) };
    }
    let parallelism = match threads {
        Threads::Pool if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        Threads::Pool | Threads::One => Parallelism::None,
    };
    // A product without terms still writes its zeros.
    for start in (0..lhs.columns.max(1)).step_by(INNER) {
        // SAFETY: `Matrix` holds slices that were checked to contain every element of the shape at its strides, of which
        // these are the columns and rows from `start` on, and `output` is valid as above. A slice's length fits isize,
        // and so do strides inside it.
        unsafe {
            gemm::gemm(
                lhs.rows,
                rhs.columns,
                INNER.min(lhs.columns - start),
                output,
                1,
                row as isize,
                add || start > 0,
                lhs.values.as_ptr().wrapping_add(start * lhs.column_stride),
                lhs.column_stride as isize,
                lhs.row_stride as isize,
                rhs.values.as_ptr().wrapping_add(start * rhs.row_stride),
                rhs.column_stride as isize,
                rhs.row_stride as isize,
                1.0,
                factor,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// [`multiply`] without the crate, by one thread.
///
/// # Safety
///
/// As for [`multiply`].
#[expect(unsafe_code, reason = "the caller's output is a pointer")]
unsafe fn multiply_few(
    output: *mut f32,
    row: usize,
    add: bool,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let element = |l: usize, r: usize, sum: f32| {
        // SAFETY: as for this function.
        let place = unsafe { output.add(l * row + r) };
        // SAFETY: likewise.
        unsafe {
            *place = if add {
                *place + factor * sum
            } else {
                factor * sum
            }
        }
    };
    if lhs.rows == 1 && rhs.column_stride == 1 {
        let sums = combination(lhs, rhs);
        return (0..rhs.columns).for_each(|r| element(0, r, sums[r]));
    }
    if rhs.columns == 1 && lhs.row_stride == 1 {
        let sums = combination(rhs.transposed(), lhs.transposed());
        return (0..lhs.rows).for_each(|l| element(l, 0, sums[l]));
    }
    let rhs = rhs.transposed();
    vectorised(
        #[inline(always)]
        || {
            for l in 0..lhs.rows {
                for r in 0..rhs.rows {
                    element(l, r, sum_of_products(lhs.row(l), rhs.row(r), lhs.columns));
                }
            }
        },
    );
}

/// The single row of `factors` times a matrix whose rows are contiguous: a sum of rows, read in the order they lie in.
fn combination(factors: Matrix<'_>, matrix: Matrix<'_>) -> Vec<f32> {
    let (factors, stride) = factors.row(0);
    let factors = factors.iter().step_by(stride.max(1));
    let mut sums = vec![0.0; matrix.columns];
    vectorised(
        #[inline(always)]
        || {
            for (row, factor) in (0..matrix.rows).zip(factors) {
                for (sum, value) in sums.iter_mut().zip(matrix.row(row).0) {
                    *sum += factor * value;
                }
            }
        },
    );
    sums
}

/// Σ of the products of so many elements of two rows.
#[inline(always)]
fn sum_of_products(
    (left, left_stride): (&[f32], usize),
    (right, right_stride): (&[f32], usize),
    terms: usize,
) -> f32 {
    if left_stride == 1 && right_stride == 1 {
        return dot(&left[..terms], &right[..terms]);
    }
    let left = left.iter().step_by(left_stride.max(1));
    let right = right.iter().step_by(right_stride.max(1));
    left.zip(right)
        .take(terms)
        .map(|(left, right)| left * right)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: usize, length: usize) -> Vec<f32> {
        (0..length)
            .map(|index| {
                let mixed = (seed * 7919 + index).wrapping_mul(2_654_435_761) % 2048;
                mixed as f32 / 1024.0 - 1.0
            })
            .collect()
    }

    fn element(matrix: &Matrix<'_>, row: usize, column: usize) -> f64 {
        f64::from(matrix.values[row * matrix.row_stride + column * matrix.column_stride])
    }

    /// The definition, summed in f64.
    fn expected(lhs: &Matrix<'_>, rhs: &Matrix<'_>) -> Vec<f64> {
        let mut elements = Vec::new();
        for row in 0..lhs.rows {
            for column in 0..rhs.columns {
                let terms =
                    (0..lhs.columns).map(|k| element(lhs, row, k) * element(rhs, k, column));
                elements.push(terms.sum());
            }
        }
        elements
    }

    fn assert_close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(expected) {
            assert!(
                (f64::from(*actual) - expected).abs() < 1e-4,
                "{actual} for {expected}"
            );
        }
    }

    #[test]
    fn products_of_every_shape_and_layout_equal_their_definition() {
        for (rows, inner, columns) in [
            (0, 3, 4),
            (3, 0, 4),
            (33, 0, 34),
            (1, 40, 33),
            (40, 33, 1),
            (2, 5, 3),
            (17, 600, 31),
            (64, 1, 64),
        ] {
            let (left, right) = (noise(1, rows * inner), noise(2, inner * columns));
            for lhs in [
                Matrix::new(&left, rows, inner),
                Matrix::new(&left, inner, rows).transposed(),
            ] {
                for rhs in [
                    Matrix::new(&right, inner, columns),
                    Matrix::new(&right, columns, inner).transposed(),
                ] {
                    let expected = expected(&lhs, &rhs);
                    let plain = product(1.0, lhs, rhs, Threads::Pool);
                    assert_close(&plain, &expected);
                    let twice = products(1.0, &[(lhs, rhs), (lhs, rhs)], Threads::Pool);
                    let mut wide = vec![3.0; rows * (columns + 2)];
                    add_product_to_columns(&mut wide, 1..columns + 1, 1.0, lhs, rhs, Threads::One);
                    for row in 0..rows {
                        let own = &plain[row * columns..][..columns];
                        assert_eq!(twice[2 * row * columns..][..columns], *own);
                        assert_eq!(twice[(2 * row + 1) * columns..][..columns], *own);
                        let wide = &wide[row * (columns + 2)..][..columns + 2];
                        assert_eq!((wide[0], wide[columns + 1]), (3.0, 3.0));
                        let own: Vec<f64> = own.iter().map(|own| f64::from(*own) + 3.0).collect();
                        assert_close(&wide[1..=columns], &own);
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_sum_is_cut_at_a_fixed_length_whatever_the_caches() {
        let (rows, inner, columns) = (130, 1300, 70);
        let (left, right) = (noise(3, rows * inner), noise(4, inner * columns));
        let lhs = Matrix::new(&left, rows, inner);
        let whole = product(0.5, lhs, Matrix::new(&right, inner, columns), Threads::Pool);
        let mut parts = vec![0.0; rows * columns];
        for start in [0, 512, 1024] {
            let end = inner.min(start + 512);
            let rhs = Matrix::new(&right[start * columns..], end - start, columns);
            add_product(&mut parts, 0.5, lhs.columns(start..end), rhs, Threads::One);
        }
        assert_eq!(whole, parts);
    }
}
