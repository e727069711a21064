//! Low-rank linear layers on the CPU.
//!
//! Nothing obliges `s·(x·Aᵀ)·Bᵀ` to pass through the rank. Of n rows, `s·B·A` costs as much to form as the detour of
//! `o·i / (o + i)` of them, less than a batch has, and added to W it is in the product that is due anyway. The gradients
//! of the factors follow from that of `B·A` as well: `dA = s·Bᵀ·dM`, `dB = s·dM·Aᵀ` with `dM = gᵀ·drop(x)`, which costs
//! less where the rank is more than about a quarter of the width (a third, where `g·B` is computed for x anyway). Each layer
//! takes the way that has fewer operations, for x first and then for its factors: its shape, the rows, whether it has a mask
//! and which gradients are wanted decide, and no value does.

use std::borrow::Cow;
use std::ops::Range;

use super::product::{Matrix, Threads, add_product, add_product_to_columns, product, products};
use super::{dropout, vector};
use crate::ops::dropout::Mask;

/// One layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// i.
    pub inputs: usize,
    /// o.
    pub outputs: usize,
    /// r.
    pub rank: usize,
    /// W `[o, i]`, frozen.
    pub weight: Option<&'a [f32]>,
    /// A `[r, i]`.
    pub a: &'a [f32],
    /// B `[o, r]`.
    pub b: &'a [f32],
    /// What A sees of the input.
    pub mask: Option<&'a Mask>,
}

/// What [`backward`] returns.
#[derive(Debug)]
pub struct Gradients {
    /// `[n, i]`, where wanted.
    pub x: Option<Vec<f32>>,
    /// A `[r, i]` and B `[o, r]` of each layer, where wanted.
    pub factors: Vec<[Option<Vec<f32>>; 2]>,
}

/// A product that holds a layer's low-rank term: `left·rightᵀ`.
struct Term<'a> {
    /// `[n, inner]`
    left: Cow<'a, [f32]>,
    /// `[o, inner]`
    right: Cow<'a, [f32]>,
    inner: usize,
}

impl<'a> Layer<'a> {
    fn a(&self) -> Matrix<'a> {
        Matrix::new(self.a, self.rank, self.inputs)
    }

    fn b(&self) -> Matrix<'a> {
        Matrix::new(self.b, self.outputs, self.rank)
    }

    /// Whether the low-rank term is in the weight's own product: both see the same input.
    fn shares_product(&self) -> bool {
        self.weight.is_some() && self.mask.is_none()
    }

    /// Whether `s·B·A` is formed for so many rows.
    fn is_formed(&self, rows: usize) -> bool {
        let (matrix, detour) = (self.outputs * self.inputs, self.outputs + self.inputs);
        let applied = if self.shares_product() {
            0
        } else {
            rows * matrix
        };
        self.rank * matrix + applied < rows * self.rank * detour
    }

    /// Whether the gradient of `B·A` is formed for those of A and of B that are wanted; `has_through_b`: `s·g·B` is computed
    /// whatever this says.
    fn is_gradient_formed(&self, rows: usize, wanted: [bool; 2], has_through_b: bool) -> bool {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let [of_a, of_b] = wanted.map(usize::from);
        let through_b = if has_through_b { 0 } else { outputs };
        let detour = of_a * (through_b + inputs) + of_b * (inputs + outputs);
        (rows + (of_a + of_b) * self.rank) * outputs * inputs < rows * self.rank * detour
    }

    /// `s·B·A` `[o, i]`, with W where it sees the same input.
    fn formed(&self, scale: f32) -> Vec<f32> {
        match self.weight {
            Some(weight) if self.shares_product() => {
                let mut sum = weight.to_vec();
                add_product(&mut sum, scale, self.b(), self.a(), Threads::Pool);
                sum
            }
            _ => product(scale, self.b(), self.a(), Threads::Pool),
        }
    }

    /// W, where [`Layer::formed`] does not hold it or is not asked for.
    fn weight_apart(&self, rows: usize) -> Option<Matrix<'a>> {
        let weight = self.weight?;
        let apart = !(self.shares_product() && self.is_formed(rows));
        apart.then(|| Matrix::new(weight, self.outputs, self.inputs))
    }

    /// `drop(x)`.
    fn dropped<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match self.mask {
            Some(mask) => Cow::Owned(dropout::masked(x, mask)),
            None => Cow::Borrowed(x),
        }
    }

    fn term(&self, x: &'a [f32], rows: usize, scale: f32) -> Term<'a> {
        let dropped = self.dropped(x);
        if self.is_formed(rows) {
            return Term {
                left: dropped,
                right: Cow::Owned(self.formed(scale)),
                inner: self.inputs,
            };
        }
        let x = Matrix::new(&dropped, rows, self.inputs);
        Term {
            left: Cow::Owned(product(scale, x, self.a().transposed(), Threads::Pool)),
            right: Cow::Borrowed(self.b),
            inner: self.rank,
        }
    }

    /// Those of dA and dB that are wanted, from the gradient of the layer's output `[n, o]` and that of `B·A`.
    fn factor_gradients_of_product(
        &self,
        x: &[f32],
        gradient: Matrix<'_>,
        scale: f32,
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let dropped = self.dropped(x);
        let x = Matrix::new(&dropped, gradient.rows(), self.inputs);
        let d_m = product(scale, gradient.transposed(), x, Threads::Pool);
        let d_m = Matrix::new(&d_m, self.outputs, self.inputs);
        let d_a = || product(1.0, self.b().transposed(), d_m, Threads::Pool);
        let d_b = || product(1.0, d_m, self.a().transposed(), Threads::Pool);
        [wanted[0].then(d_a), wanted[1].then(d_b)]
    }

    /// The same through the rank; `through_b` is `s·g·B` `[n, r]`, needed where dA is wanted.
    fn factor_gradients_through_rank(
        &self,
        x: &[f32],
        gradient: Matrix<'_>,
        through_b: Option<Matrix<'_>>,
        scale: f32,
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let dropped = self.dropped(x);
        let x = Matrix::new(&dropped, gradient.rows(), self.inputs);
        let d_a = wanted[0].then(|| {
            let through_b = through_b.expect("computed where dA is wanted").transposed();
            product(1.0, through_b, x, Threads::Pool)
        });
        let d_b = wanted[1].then(|| {
            let projected = product(1.0, x, self.a().transposed(), Threads::Pool);
            let projected = Matrix::new(&projected, gradient.rows(), self.rank);
            product(scale, gradient.transposed(), projected, Threads::Pool)
        });
        [d_a, d_b]
    }
}

/// Where the outputs of each layer lie in a row of all.
fn columns(layers: &[Layer<'_>]) -> impl Iterator<Item = Range<usize>> {
    layers.iter().scan(0, |end, layer| {
        let start = *end;
        *end += layer.outputs;
        Some(start..*end)
    })
}

/// The outputs of all layers side by side `[n, Σ o]` for x `[n, i]`.
pub fn forward<'a>(x: &'a [f32], rows: usize, layers: &[Layer<'a>], scale: f32) -> Vec<f32> {
    let terms: Vec<Term<'_>> = layers
        .iter()
        .map(|layer| layer.term(x, rows, scale))
        .collect();
    let pairs: Vec<_> = terms
        .iter()
        .zip(layers)
        .map(|(term, layer)| {
            let right = Matrix::new(&term.right, layer.outputs, term.inner);
            (
                Matrix::new(&term.left, rows, term.inner),
                right.transposed(),
            )
        })
        .collect();
    let mut output = products(1.0, &pairs, Threads::Pool);
    drop(terms);
    for (layer, columns) in layers.iter().zip(columns(layers)) {
        if let Some(weight) = layer.weight_apart(rows) {
            let x = Matrix::new(x, rows, layer.inputs);
            let weight = weight.transposed();
            add_product_to_columns(&mut output, columns, 1.0, x, weight, Threads::Pool);
        }
    }
    output
}

/// The gradients for x and for A and B of each layer, where `wanted` (in this order) and, of the factors, where there is an x
/// `[n, i]` for them, from those of the outputs `[n, Σ o]`.
pub fn backward(
    x: Option<&[f32]>,
    gradient: Matrix<'_>,
    layers: &[Layer<'_>],
    scale: f32,
    wanted: &[bool],
) -> Gradients {
    let rows = gradient.rows();
    let (wants_x, wanted) = (wanted[0], wanted[1..].chunks(2));
    let mut d_x: Option<Vec<f32>> = None;
    let mut factors = Vec::with_capacity(layers.len());
    for ((layer, columns), wanted) in layers.iter().zip(columns(layers)).zip(wanted) {
        let gradient = gradient.columns(columns);
        let wanted = [0, 1].map(|factor| x.is_some() && wanted[factor]);
        let x_passes_rank = wants_x && !layer.is_formed(rows);
        let is_gradient_formed = layer.is_gradient_formed(rows, wanted, x_passes_rank);
        let needs_through_b = x_passes_rank || (wanted[0] && !is_gradient_formed);
        let through_b = needs_through_b.then(|| product(scale, gradient, layer.b(), Threads::Pool));
        let through_b = through_b
            .as_ref()
            .map(|values| Matrix::new(values, rows, layer.rank));
        factors.push(match x {
            Some(x) if wanted != [false; 2] => {
                if is_gradient_formed {
                    layer.factor_gradients_of_product(x, gradient, scale, wanted)
                } else {
                    layer.factor_gradients_through_rank(x, gradient, through_b, scale, wanted)
                }
            }
            _ => [None, None],
        });
        if !wants_x {
            continue;
        }
        let formed = layer.is_formed(rows).then(|| layer.formed(scale));
        let (left, right) = match (&formed, through_b) {
            (Some(formed), _) => (gradient, Matrix::new(formed, layer.outputs, layer.inputs)),
            (None, Some(through_b)) => (through_b, layer.a()),
            (None, None) => unreachable!("a term that is not formed passes the rank"),
        };
        add_term(&mut d_x, left, right, layer.mask);
        if let (Some(d_x), Some(weight)) = (&mut d_x, layer.weight_apart(rows)) {
            add_product(d_x, 1.0, gradient, weight, Threads::Pool);
        }
    }
    Gradients { x: d_x, factors }
}

/// `sum += drop(left·right)`.
fn add_term(sum: &mut Option<Vec<f32>>, left: Matrix<'_>, right: Matrix<'_>, mask: Option<&Mask>) {
    if let (Some(sum), None) = (sum.as_mut(), mask) {
        return add_product(sum, 1.0, left, right, Threads::Pool);
    }
    let mut own = product(1.0, left, right, Threads::Pool);
    if let Some(mask) = mask {
        dropout::apply(&mut own, mask);
    }
    match sum {
        Some(sum) => vector::add_to(sum, &own),
        None => *sum = Some(own),
    }
}
