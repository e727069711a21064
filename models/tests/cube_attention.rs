//! The attention kernels for GPUs, executed on whatever Vulkan there is, against the equations in f64.
//!
//! What runs here is all of the kernels but the fragments of tensor cores, which Vulkan in software does not have.

use burn::tensor::{Tensor, TensorData};
use models::ops::Backend;
use models::ops::attention::{Rotary, Saved};
use proptest::prelude::*;

#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "common/inputs.rs"]
mod inputs;
#[path = "common/vulkan.rs"]
mod vulkan;

use inputs::noise;
use vulkan::{Vulkan as Gpu, vulkan};

#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    length: usize,
    heads: usize,
    width: usize,
}

impl Shape {
    fn hidden(self) -> usize {
        self.heads * self.width
    }

    fn elements(self) -> usize {
        self.batch * self.length * self.hidden()
    }

    /// Where the row of a part of `parts` side by side begins.
    fn row(self, parts: usize, part: usize, [b, h, t]: [usize; 3]) -> usize {
        ((b * self.length + t) * parts + part) * self.hidden() + h * self.width
    }
}

/// Values of query, key and value side by side, and of the gradient of the output.
struct Inputs {
    query_key_value: Vec<f32>,
    gradient: Vec<f32>,
}

impl Inputs {
    fn new(shape: Shape, seed: u64, size: impl Fn(usize) -> f64) -> Self {
        let values = |seed, parts: usize| {
            let row = parts * shape.hidden();
            let value = |index| (noise(seed, index) * size(index / row % shape.length)) as f32;
            (0..parts * shape.elements()).map(value).collect()
        };
        Self {
            query_key_value: values(seed, 3),
            gradient: values(seed + 1, 1),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Results {
    output: Vec<f32>,
    log_sum_exp: Vec<f32>,
    gradients: Vec<f32>,
}

fn tensor(values: Vec<f32>, shape: [usize; 3]) -> Tensor<Gpu, 3> {
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn values(tensor: Tensor<Gpu, 3>) -> Vec<f32> {
    tensor.into_data().to_vec().expect("an f32 tensor")
}

/// What the kernels make of the inputs.
fn run(inputs: &Inputs, shape: Shape) -> Results {
    let rows = |parts| [shape.batch, shape.length, parts * shape.hidden()];
    let query_key_value = tensor(inputs.query_key_value.clone(), rows(3));
    let gradient = tensor(inputs.gradient.clone(), rows(1));
    let (output, log_sum_exp) = Gpu::attention(query_key_value.clone(), shape.heads);
    let saved = Saved {
        query_key_value,
        output: output.clone(),
        log_sum_exp: log_sum_exp.clone(),
        heads: shape.heads,
    };
    let gradients = Gpu::attention_backward(saved, gradient);
    Results {
        output: values(output),
        log_sum_exp: values(log_sum_exp),
        gradients: values(gradients),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut [f64], factor: f64, values: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// One head of one sequence, rows `[length][width]`.
struct Head {
    query: Vec<Vec<f64>>,
    key: Vec<Vec<f64>>,
    value: Vec<Vec<f64>>,
}

/// The equations of `ops/attention.rs` in f64. Angles are the table's, which is of f32.
struct Reference {
    shape: Shape,
    rotary: Rotary,
}

impl Reference {
    fn new(shape: Shape) -> Self {
        let rotary = Rotary::new(shape.length, shape.width);
        Self { shape, rotary }
    }

    /// Rotation by the angles of a position, or by their opposites.
    fn rotate(&self, row: &[f64], position: usize, sign: f64) -> Vec<f64> {
        let half = row.len() / 2;
        let (cosine, sine) = self.rotary.at(position);
        let turned = |j: usize| {
            let (c, s) = (
                f64::from(cosine[j % half]),
                sign * f64::from(sine[j % half]),
            );
            if j < half {
                row[j] * c - row[j + half] * s
            } else {
                row[j] * c + row[j - half] * s
            }
        };
        (0..row.len()).map(turned).collect()
    }

    fn head(&self, query_key_value: &[f64], b: usize, h: usize) -> Head {
        let Shape { length, width, .. } = self.shape;
        let rows = |part: usize| -> Vec<Vec<f64>> {
            let row = |t| query_key_value[self.shape.row(3, part, [b, h, t])..][..width].to_vec();
            (0..length).map(row).collect()
        };
        let rotated = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            let rows = rows.iter().enumerate();
            rows.map(|(t, row)| self.rotate(row, t, 1.0)).collect()
        };
        Head {
            query: rotated(rows(0)),
            key: rotated(rows(1)),
            value: rows(2),
        }
    }

    fn scale(&self) -> f64 {
        (self.shape.width as f64).sqrt().recip()
    }

    /// Probabilities of the keys up to t, and the log-sum-exp of their scores.
    fn probabilities(&self, head: &Head, t: usize) -> (Vec<f64>, f64) {
        let scores: Vec<f64> = (0..=t)
            .map(|s| dot(&head.query[t], &head.key[s]) * self.scale())
            .collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let log_sum_exp = largest + sum.ln();
        let probabilities = scores.iter().map(|score| (score - log_sum_exp).exp());
        (probabilities.collect(), log_sum_exp)
    }

    fn each_head(&self, mut visit: impl FnMut(usize, usize)) {
        for b in 0..self.shape.batch {
            for h in 0..self.shape.heads {
                visit(b, h);
            }
        }
    }

    /// Output and log-sum-exp.
    fn forward(&self, query_key_value: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let Shape { length, width, .. } = self.shape;
        let mut output = vec![0.0; self.shape.elements()];
        let mut statistics = Vec::new();
        self.each_head(|b, h| {
            let head = self.head(query_key_value, b, h);
            for t in 0..length {
                let (probabilities, log_sum_exp) = self.probabilities(&head, t);
                let row = &mut output[self.shape.row(1, 0, [b, h, t])..][..width];
                for (probability, value) in probabilities.iter().zip(&head.value) {
                    add(row, *probability, value);
                }
                statistics.push(log_sum_exp);
            }
        });
        (output, statistics)
    }

    /// Gradients of query, key and value side by side.
    fn backward(&self, query_key_value: &[f64], gradient: &[f64]) -> Vec<f64> {
        let Shape { length, width, .. } = self.shape;
        let mut gradients = vec![0.0; 3 * self.shape.elements()];
        self.each_head(|b, h| {
            let head = self.head(query_key_value, b, h);
            let mut sums = [0, 1, 2].map(|_| vec![vec![0.0; width]; length]);
            for t in 0..length {
                let upstream = &gradient[self.shape.row(1, 0, [b, h, t])..][..width];
                let (probabilities, _) = self.probabilities(&head, t);
                let products: Vec<f64> = (0..=t).map(|s| dot(upstream, &head.value[s])).collect();
                let mean = dot(&probabilities, &products);
                for s in 0..=t {
                    let d_score = self.scale() * probabilities[s] * (products[s] - mean);
                    add(&mut sums[0][t], d_score, &head.key[s]);
                    add(&mut sums[1][s], d_score, &head.query[t]);
                    add(&mut sums[2][s], probabilities[s], upstream);
                }
            }
            for (part, rows) in sums.iter().enumerate() {
                for (t, row) in rows.iter().enumerate() {
                    let row = if part < 2 {
                        self.rotate(row, t, -1.0)
                    } else {
                        row.clone()
                    };
                    gradients[self.shape.row(3, part, [b, h, t])..][..width].copy_from_slice(&row);
                }
            }
        });
        gradients
    }
}

fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Largest difference, relative to the largest expected value or to 1: a smaller result is the difference of larger terms
/// and carries their rounding.
fn difference(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let size = expected.iter().fold(1f64, |size, x| size.max(x.abs()));
    let worst = actual.iter().zip(expected).map(|(a, e)| {
        let difference = (f64::from(*a) - e).abs();
        if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        }
    });
    worst.fold(0.0, f64::max) / size
}

fn assert_agrees(inputs: &Inputs, shape: Shape) {
    let found = run(inputs, shape);
    let query_key_value = exact(&inputs.query_key_value);
    let reference = Reference::new(shape);
    let (output, log_sum_exp) = reference.forward(&query_key_value);
    let gradients = reference.backward(&query_key_value, &exact(&inputs.gradient));
    // Rounding of f32 over sums of up to some hundred terms.
    for (name, found, expected) in [
        ("output", &found.output, &output),
        ("log-sum-exp", &found.log_sum_exp, &log_sum_exp),
        ("gradients", &found.gradients, &gradients),
    ] {
        let worst = difference(found, expected);
        assert!(worst < 1e-5, "{name} of {shape:?} differs by {worst:e}");
    }
}

#[test]
fn the_reference_has_the_gradients_of_its_output() {
    let shape = Shape {
        batch: 2,
        length: 5,
        heads: 2,
        width: 4,
    };
    let inputs = Inputs::new(shape, 1, |_| 1.0);
    let (values, gradient) = (exact(&inputs.query_key_value), exact(&inputs.gradient));
    let reference = Reference::new(shape);
    let scalar = |values: &[f64]| dot(&reference.forward(values).0, &gradient);
    // In f64 a step of 1e-5 leaves an error near 1e-10.
    let step = 1e-5;
    for (index, expected) in reference
        .backward(&values, &gradient)
        .into_iter()
        .enumerate()
    {
        let mut moved = values.clone();
        moved[index] += step;
        let above = scalar(&moved);
        moved[index] -= 2.0 * step;
        let slope = (above - scalar(&moved)) / (2.0 * step);
        assert!(
            (slope - expected).abs() < 1e-8,
            "element {index}: {expected} and {slope}"
        );
    }
}

// Widths with and without padding, of which each is a kernel to be compiled; lengths around the rows of a tile.
proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kernels_equal_the_equations(
        batch in 1usize..4, length in 1usize..100, heads in 1usize..4,
        width in prop::sample::select(vec![2usize, 6, 16, 24, 48, 64]), seed in 0u64..1000,
    ) {
        if vulkan() {
            let shape = Shape { batch, length, heads, width };
            assert_agrees(&Inputs::new(shape, seed, |_| 1.0), shape);
        }
    }
}

#[test]
fn lengths_of_training_equal_the_equations() {
    if !vulkan() {
        return;
    }
    for (batch, length, heads, width) in [
        (1, 1, 1, 64),
        (1, 512, 2, 64),
        (1, 1024, 1, 64),
        (1, 50, 1, 112),
        (2, 513, 1, 32),
    ] {
        let shape = Shape {
            batch,
            length,
            heads,
            width,
        };
        assert_agrees(&Inputs::new(shape, 7, |_| 1.0), shape);
    }
}

/// Scores up to some thousand, growing along the sequence: references are raised at every block of keys, and most
/// exponentials vanish. Gradients of such scores are differences of f32 scores of that size, so only the output and the
/// log-sum-exp can be told.
#[test]
fn scores_that_grow_along_the_sequence_are_told_exactly() {
    if !vulkan() {
        return;
    }
    let shape = Shape {
        batch: 1,
        length: 200,
        heads: 2,
        width: 16,
    };
    for growth in [0.05, 0.3] {
        let inputs = Inputs::new(shape, 3, |position| 1.0 + growth * position as f64);
        let found = run(&inputs, shape);
        let (output, log_sum_exp) = Reference::new(shape).forward(&exact(&inputs.query_key_value));
        assert!(difference(&found.log_sum_exp, &log_sum_exp) < 1e-6);
        // A score of a thousand has an error of 1e-4, and so has its exponential.
        let worst = difference(&found.output, &output);
        assert!(worst < 2e-3, "output differs by {worst:e}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    if !vulkan() {
        return;
    }
    let shape = Shape {
        batch: 3,
        length: 131,
        heads: 3,
        width: 48,
    };
    let inputs = Inputs::new(shape, 5, |_| 1.0);
    assert_eq!(run(&inputs, shape), run(&inputs, shape));
}

#[test]
fn a_tensor_without_rows_has_an_output_without_rows() {
    if !vulkan() {
        return;
    }
    for (batch, length) in [(0, 4), (2, 0)] {
        let shape = Shape {
            batch,
            length,
            heads: 2,
            width: 8,
        };
        let empty = Results {
            output: vec![],
            log_sum_exp: vec![],
            gradients: vec![],
        };
        assert_eq!(run(&Inputs::new(shape, 5, |_| 1.0), shape), empty);
    }
}

#[test]
fn a_value_that_is_not_finite_stays_visible() {
    if !vulkan() {
        return;
    }
    let shape = Shape {
        batch: 1,
        length: 40,
        heads: 1,
        width: 16,
    };
    let mut inputs = Inputs::new(shape, 5, |_| 1.0);
    inputs.query_key_value[shape.row(3, 0, [0, 0, 20])] = f32::NAN;
    let found = run(&inputs, shape);
    let row = &found.output[shape.row(1, 0, [0, 0, 20])..][..shape.width];
    assert!(row.iter().all(|value| value.is_nan()));
    assert!(found.log_sum_exp[20].is_nan());
    assert!(
        found.output[..shape.row(1, 0, [0, 0, 20])]
            .iter()
            .all(|value| value.is_finite())
    );
}

/// A head so wide that no tile of it fits into the shared memory of any device takes the composed definition.
#[test]
fn a_head_too_wide_for_the_kernels_equals_the_equations_too() {
    if !vulkan() {
        return;
    }
    let shape = Shape {
        batch: 1,
        length: 3,
        heads: 1,
        width: 8192,
    };
    assert_agrees(&Inputs::new(shape, 9, |_| 0.1), shape);
}
