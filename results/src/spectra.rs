//! Singular values of what training has added to a weight, and the angles between what successive restarts have merged.
//!
//! The quantities are those of figure 4 of the paper (the official repository's notebook 08): all singular values of the
//! final weight minus the one at the end of the warm start, how many of them are below 0.1, and their density in 50 bins
//! on [0, 2]. Effective, stable and numerical rank are ours.

use faer::{Mat, Side};

/// Singular values below this count as missing directions (paper, figure 4 and its text).
pub const SMALL: f64 = 0.1;

/// Bins of the histogram.
pub const BINS: usize = 50;

/// The histogram covers [0, this].
pub const HISTOGRAM_END: f64 = 2.0;

/// A singular value counts for the numerical rank if it is larger than this share of the largest: what `f32` weights
/// resolve, with some room.
pub const RANK_TOLERANCE: f64 = 1e-5;

/// A matrix in plain memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    /// Row-major.
    values: Vec<f32>,
}

/// What a matrix cannot be, or cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpectraError {
    /// The values do not fill the shape.
    #[error("{values} values are no {rows} x {columns} matrix")]
    Shape {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        columns: usize,
        /// Values given.
        values: usize,
    },
    /// A value is infinite or not a number: the run diverged.
    #[error("a matrix with values that are not finite has no singular values")]
    NotFinite,
    /// The iteration did not converge.
    #[error("the singular values of a {rows} x {columns} matrix did not converge")]
    NoConvergence {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// The factors of a product do not fit.
    #[error("B of {b_columns} columns and A of {a_rows} rows are not the factors of a product")]
    Factors {
        /// Columns of B.
        b_columns: usize,
        /// Rows of A.
        a_rows: usize,
    },
}

impl Matrix {
    /// A matrix of `rows` x `columns` row-major values.
    ///
    /// # Errors
    /// [`SpectraError::Shape`], [`SpectraError::NotFinite`].
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Matrix, SpectraError> {
        if rows.checked_mul(columns) != Some(values.len()) {
            let values = values.len();
            return Err(SpectraError::Shape {
                rows,
                columns,
                values,
            });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(SpectraError::NotFinite);
        }
        Ok(Matrix {
            rows,
            columns,
            values,
        })
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds `scale` times this matrix times `other` to the row-major `sum`.
    ///
    /// # Errors
    /// [`SpectraError::Factors`] where the two are no factors, [`SpectraError::Shape`] where `sum` is no matrix of their
    /// product's shape.
    pub fn add_product(
        &self,
        other: &Matrix,
        scale: f64,
        sum: &mut [f64],
    ) -> Result<(), SpectraError> {
        if self.columns != other.rows {
            return Err(SpectraError::Factors {
                b_columns: self.columns,
                a_rows: other.rows,
            });
        }
        if self.rows.checked_mul(other.columns) != Some(sum.len()) {
            return Err(SpectraError::Shape {
                rows: self.rows,
                columns: other.columns,
                values: sum.len(),
            });
        }
        let product = self.dense() * other.dense();
        for (row, sum) in sum.chunks_mut(other.columns.max(1)).enumerate() {
            for (column, sum) in sum.iter_mut().enumerate() {
                *sum += scale * product[(row, column)];
            }
        }
        Ok(())
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        f64::from(self.values[row * self.columns + column])
    }

    fn dense(&self) -> Mat<f64> {
        Mat::from_fn(self.rows, self.columns, |row, column| self.at(row, column))
    }

    fn transposed(&self) -> Mat<f64> {
        Mat::from_fn(self.columns, self.rows, |row, column| self.at(column, row))
    }
}

/// The singular values of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// Descending; as many as the smaller side.
    pub singular_values: Vec<f64>,
}

impl Spectrum {
    /// How many are below [`SMALL`].
    #[must_use]
    pub fn below_small(&self) -> usize {
        self.singular_values
            .iter()
            .filter(|value| **value < SMALL)
            .count()
    }

    /// The largest; 0 of an empty matrix.
    #[must_use]
    pub fn largest(&self) -> f64 {
        self.singular_values.first().copied().unwrap_or(0.0)
    }

    /// Sum of the singular values.
    #[must_use]
    pub fn nuclear_norm(&self) -> f64 {
        self.singular_values.iter().sum()
    }

    /// Root of the sum of their squares.
    #[must_use]
    pub fn frobenius_norm(&self) -> f64 {
        self.singular_values
            .iter()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt()
    }

    /// exp of the entropy of σ / Σσ (Roy and Vetterli, 2007); 0 of a zero matrix.
    #[must_use]
    pub fn effective_rank(&self) -> f64 {
        let sum = self.nuclear_norm();
        if sum == 0.0 {
            return 0.0;
        }
        let shares = self.singular_values.iter().map(|value| value / sum);
        let entropy: f64 = shares
            .filter(|share| *share > 0.0)
            .map(|share| -share * share.ln())
            .sum();
        entropy.exp()
    }

    /// Σσ² / σ_max²; 0 of a zero matrix.
    #[must_use]
    pub fn stable_rank(&self) -> f64 {
        let largest = self.largest();
        if largest == 0.0 {
            return 0.0;
        }
        self.singular_values
            .iter()
            .map(|value| (value / largest).powi(2))
            .sum()
    }

    /// How many are above [`RANK_TOLERANCE`] of the largest.
    #[must_use]
    pub fn numerical_rank(&self) -> usize {
        let least = RANK_TOLERANCE * self.largest();
        self.singular_values
            .iter()
            .filter(|value| **value > least)
            .count()
    }
}

/// Density of singular values in [`BINS`] equal bins on [0, [`HISTOGRAM_END`]], the last bin closed. Only values inside
/// count: the densities times the bin width sum to 1, or are all 0 where no value is inside.
#[must_use]
pub fn histogram(values: impl Iterator<Item = f64>) -> [f64; BINS] {
    let width = HISTOGRAM_END / BINS as f64;
    let mut counts = [0_u64; BINS];
    for value in values.filter(|value| (0.0..=HISTOGRAM_END).contains(value)) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 0 and 50"
        )]
        let bin = (value / width) as usize;
        counts[bin.min(BINS - 1)] += 1;
    }
    let inside: u64 = counts.iter().sum();
    counts.map(|count| {
        if inside == 0 {
            0.0
        } else {
            count as f64 / (inside as f64 * width)
        }
    })
}

/// The singular values of a matrix of weights, in f64.
///
/// # Errors
/// [`SpectraError::NoConvergence`].
pub fn spectrum(matrix: &Matrix) -> Result<Spectrum, SpectraError> {
    let dense = if matrix.rows >= matrix.columns {
        matrix.dense()
    } else {
        matrix.transposed()
    };
    // The eigenvalues of MᵀM are their squares. Squaring halves the digits of f64, which still leaves more than the weights'
    // own f32 has, and takes a fifth of the time.
    let gram = dense.transpose() * &dense;
    let eigenvalues = gram.self_adjoint_eigenvalues(Side::Lower);
    let eigenvalues = eigenvalues.map_err(|_| no_convergence(matrix))?;
    let singular_values = eigenvalues
        .iter()
        .rev()
        .map(|value| value.max(0.0).sqrt())
        .collect();
    Ok(Spectrum { singular_values })
}

fn no_convergence(matrix: &Matrix) -> SpectraError {
    SpectraError::NoConvergence {
        rows: matrix.rows,
        columns: matrix.columns,
    }
}

/// A merged product s·BA: its singular values and the directions that it reads and writes.
#[derive(Clone, Debug)]
pub struct Product {
    /// As many as its rank.
    pub spectrum: Spectrum,
    /// Orthonormal, `[out, k]`: what it can write to.
    output_space: Mat<f64>,
    /// Orthonormal, `[in, k]`: what it reads.
    input_space: Mat<f64>,
}

/// The product `scale`·BA of B `[out, r]` and A `[r, in]`, without forming it.
///
/// # Errors
/// [`SpectraError::Factors`], [`SpectraError::NoConvergence`].
pub fn product(b: &Matrix, a: &Matrix, scale: f64) -> Result<Product, SpectraError> {
    if b.columns != a.rows {
        return Err(SpectraError::Factors {
            b_columns: b.columns,
            a_rows: a.rows,
        });
    }
    // BA = Q_b (R_b R_aᵀ) Q_aᵀ: the small matrix in the middle has its singular values.
    let (b_qr, a_qr) = (b.dense().qr(), a.transposed().qr());
    let (b_basis, a_basis) = (b_qr.compute_thin_Q(), a_qr.compute_thin_Q());
    let middle = b_qr.thin_R() * a_qr.thin_R().transpose() * faer::Scale(scale);
    let svd = middle.svd().map_err(|_| no_convergence(b))?;
    let singular_values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let spectrum = Spectrum { singular_values };
    let rank = spectrum.numerical_rank();
    let output_space = b_basis * svd.U().subcols(0, rank);
    let input_space = a_basis * svd.V().subcols(0, rank);
    Ok(Product {
        spectrum,
        output_space,
        input_space,
    })
}

/// Principal angles between what two products write to, or read from, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Angles {
    /// The smallest: 0 where they share a direction.
    pub smallest: f64,
    /// The mean over all of them: 90 where they share nothing.
    pub mean: f64,
}

impl Product {
    /// Angles between the spaces that this product and another write to; none where one of them is zero.
    ///
    /// # Errors
    /// [`SpectraError::NoConvergence`].
    pub fn output_angles(&self, other: &Product) -> Result<Option<Angles>, SpectraError> {
        angles(&self.output_space, &other.output_space)
    }

    /// The same for the spaces that they read.
    ///
    /// # Errors
    /// [`SpectraError::NoConvergence`].
    pub fn input_angles(&self, other: &Product) -> Result<Option<Angles>, SpectraError> {
        angles(&self.input_space, &other.input_space)
    }
}

fn angles(one: &Mat<f64>, other: &Mat<f64>) -> Result<Option<Angles>, SpectraError> {
    if one.ncols() == 0 || other.ncols() == 0 || one.nrows() != other.nrows() {
        return Ok(None);
    }
    let between = one.transpose() * other;
    let cosines = between
        .singular_values()
        .map_err(|_| SpectraError::NoConvergence {
            rows: between.nrows(),
            columns: between.ncols(),
        })?;
    let degrees: Vec<f64> = cosines
        .iter()
        .map(|cosine| libm::acos(cosine.clamp(0.0, 1.0)).to_degrees())
        .collect();
    let mean = degrees.iter().sum::<f64>() / degrees.len() as f64;
    // Descending cosines are ascending angles.
    Ok(degrees.first().map(|smallest| Angles {
        smallest: *smallest,
        mean,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Matrix {
        let values = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Matrix::new(
            rows,
            columns,
            values.map(|(row, column)| value(row, column)).collect(),
        )
        .expect("a matrix")
    }

    /// Deterministic and full of different numbers in [-1, 1].
    fn wild(row: usize, column: usize) -> f32 {
        ((row * 37 + column * 101 + row * column * 7) as f32).sin()
    }

    /// Two axes of a plane and one outside it: by construction 0 and 90 degrees.
    #[test]
    fn angles_are_zero_within_a_space_and_ninety_across_it() {
        let unit = |axis: usize| matrix(6, 1, move |row, _| f32::from(u8::from(row == axis)));
        let reads = matrix(1, 4, wild);
        let of = |axis| product(&unit(axis), &reads, 1.0).expect("a product");
        let (same, across) = (of(2).output_angles(&of(2)), of(2).output_angles(&of(5)));
        assert!(same.expect("angles").expect("some").mean < 1e-6);
        assert!((across.expect("angles").expect("some").smallest - 90.0).abs() < 1e-6);
        // They read the same.
        assert!(
            of(2)
                .input_angles(&of(5))
                .expect("angles")
                .expect("some")
                .mean
                < 1e-4
        );
    }

    /// A product is taken apart without being formed: the same as forming it.
    #[test]
    fn the_spectrum_of_a_product_is_that_of_the_matrix() {
        let (b, a) = (
            matrix(20, 3, wild),
            matrix(3, 30, |row, column| wild(column + 5, row)),
        );
        let mut formed = vec![0.0; 600];
        b.add_product(&a, 0.25, &mut formed).expect("they fit");
        let formed = matrix(20, 30, |row, column| formed[row * 30 + column] as f32);
        let (ours, whole) = (
            product(&b, &a, 0.25).expect("a product"),
            spectrum(&formed).expect("a spectrum"),
        );
        assert_eq!(ours.spectrum.singular_values.len(), 3);
        assert_eq!(whole.numerical_rank(), 3);
        for (ours, whole) in ours
            .spectrum
            .singular_values
            .iter()
            .zip(&whole.singular_values)
        {
            assert!(
                (ours - whole).abs() < 1e-6 * whole.max(1.0),
                "{ours} {whole}"
            );
        }
    }

    #[test]
    fn what_is_not_a_matrix_is_refused() {
        assert!(matches!(
            Matrix::new(2, 3, vec![0.0; 5]),
            Err(SpectraError::Shape { .. })
        ));
        assert_eq!(
            Matrix::new(1, 1, vec![f32::NAN]),
            Err(SpectraError::NotFinite)
        );
        let (b, a) = (matrix(4, 2, wild), matrix(3, 4, wild));
        assert!(matches!(
            product(&b, &a, 1.0),
            Err(SpectraError::Factors { .. })
        ));
        // Each error is of what is wrong: B and A that do not fit, or a sum of another shape than theirs.
        assert_eq!(
            b.add_product(&a, 1.0, &mut [0.0; 16]),
            Err(SpectraError::Factors {
                b_columns: 2,
                a_rows: 3
            })
        );
        assert_eq!(
            b.add_product(&matrix(2, 4, wild), 1.0, &mut [0.0; 15]),
            Err(SpectraError::Shape {
                rows: 4,
                columns: 4,
                values: 15
            })
        );
    }

    #[test]
    fn a_zero_matrix_has_no_rank_and_no_angles() {
        let zero = product(&matrix(5, 2, |_, _| 0.0), &matrix(2, 5, wild), 1.0).expect("a product");
        assert_eq!(
            (
                zero.spectrum.numerical_rank(),
                zero.spectrum.effective_rank()
            ),
            (0, 0.0)
        );
        assert_eq!(zero.output_angles(&zero), Ok(None));
    }
}
