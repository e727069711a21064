//! Matrix products, by the `gemm` crate.
//!
//! Its blocks depend on the shapes alone and each element is summed over the inner dimension by one thread in one
//! order, so the result has the same bits on any number of threads (tested).

use gemm::Parallelism;

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
    /// Where the slice is too short for the shape.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= values.len(),
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
    let length = lhs.rows * rhs.columns;
    if lhs.columns == 0 {
        return vec![0.0; length];
    }
    let mut output = Vec::with_capacity(length);
    #[expect(
        unsafe_code,
        reason = "fresh memory is written once, by the product itself"
    )]
    // SAFETY: the capacity is at least `length`, and a product with a non-empty inner dimension that does not read
    // its destination writes every element of it.
    unsafe {
        multiply(
            output.as_mut_ptr(),
            length,
            false,
            factor,
            lhs,
            rhs,
            threads,
        );
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
pub fn write_product(
    output: &mut [f32],
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    multiply_into(output, false, factor, lhs, rhs, threads);
}

/// `output += factor·lhs·rhs`, row-major.
pub fn add_product(
    output: &mut [f32],
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    multiply_into(output, true, factor, lhs, rhs, threads);
}

fn multiply_into(
    output: &mut [f32],
    add: bool,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    let (pointer, length) = (output.as_mut_ptr(), output.len());
    #[expect(unsafe_code, reason = "the gemm crate takes pointers")]
    // SAFETY: the pointer and the length are those of one slice.
    unsafe {
        multiply(pointer, length, add, factor, lhs, rhs, threads);
    }
}

/// `output = factor·lhs·rhs`, or `output += ` that.
///
/// # Safety
///
/// `output` must be valid for writes of `length` elements, and for reads where `add` is set.
#[expect(unsafe_code, reason = "the gemm crate takes pointers")]
unsafe fn multiply(
    output: *mut f32,
    length: usize,
    add: bool,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions of a product");
    assert_eq!(length, lhs.rows * rhs.columns, "length of a product");
    let parallelism = match threads {
        Threads::Pool if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        Threads::Pool | Threads::One => Parallelism::None,
    };
    // SAFETY: `Matrix` holds slices that were checked to contain every element of the shape at its strides, and
    // `output` is valid for the `lhs.rows * rhs.columns` elements of a row-major matrix without gaps. A slice length fits isize,
    // and so do strides inside it.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.columns,
            lhs.columns,
            output,
            1,
            rhs.columns as isize,
            add,
            lhs.values.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.values.as_ptr(),
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
