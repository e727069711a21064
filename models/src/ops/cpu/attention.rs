//! Causal attention on the CPU: one task per sequence and head, by blocks of query rows.
//!
//! A block sees the keys up to its last row only. Scores of a block live in a buffer of the task and are recomputed
//! in the backward pass from the saved log-sum-exp.

use rayon::prelude::*;

use super::product::{Matrix, Threads, add_product, write_product};
use super::vector::{LANES, dot, exp, exponentials, maximum, vectorised, worth_threads};
use crate::ops::attention::Rotary;

/// Query rows of a block: smaller wastes less on keys after the diagonal, larger makes better products.
const BLOCK_ROWS: usize = 64;

/// Shape of the output: `[batch, length, heads·width]`. Query, key and value lie side by side, thrice as wide.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
}

impl Shape {
    fn hidden(&self) -> usize {
        self.heads * self.width
    }

    fn elements(&self) -> usize {
        self.batch * self.length * self.hidden()
    }

    fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }

    /// Query, key and value out of a tensor that holds them side by side.
    fn parts(self, values: &[f32]) -> [Part<'_>; 3] {
        [0, 1, 2].map(|number| Part {
            values,
            shape: self,
            row: 3 * self.hidden(),
            first: number * self.hidden(),
        })
    }

    /// A tensor by itself.
    fn alone(self, values: &[f32]) -> Part<'_> {
        Part {
            values,
            shape: self,
            row: self.hidden(),
            first: 0,
        }
    }

    /// An output of so many parts side by side, cut into each task's rows of each, so that tasks can write side by side.
    fn split<'a, const PARTS: usize>(
        &self,
        output: &'a mut [f32],
    ) -> Vec<[Vec<&'a mut [f32]>; PARTS]> {
        let mut tasks: Vec<_> = (0..self.batch * self.heads)
            .map(|_| [(); PARTS].map(|()| Vec::with_capacity(self.length)))
            .collect();
        for (position, row) in output.chunks_exact_mut(PARTS * self.hidden()).enumerate() {
            let sequence = position / self.length;
            for (number, part) in row.chunks_exact_mut(self.hidden()).enumerate() {
                for (head, values) in part.chunks_exact_mut(self.width).enumerate() {
                    tasks[sequence * self.heads + head][number].push(values);
                }
            }
        }
        tasks
    }
}

/// A tensor of [`Shape`], by itself or as a part of wider rows.
#[derive(Clone, Copy)]
struct Part<'a> {
    values: &'a [f32],
    shape: Shape,
    /// How far apart rows begin.
    row: usize,
    /// Where the part begins in the first row.
    first: usize,
}

impl<'a> Part<'a> {
    /// Where a task's first row begins.
    #[inline(always)]
    fn start(&self, task: usize) -> usize {
        let Shape {
            length,
            heads,
            width,
            ..
        } = self.shape;
        (task / heads) * length * self.row + self.first + (task % heads) * width
    }

    /// Some rows of one sequence and head, as a matrix `[count, width]`.
    fn rows(&self, task: usize, first: usize, count: usize) -> Matrix<'a> {
        let start = self.start(task) + first * self.row;
        Matrix::strided(&self.values[start..], count, self.shape.width, self.row)
    }

    #[inline(always)]
    fn slice(&self, task: usize, position: usize) -> &'a [f32] {
        &self.values[self.start(task) + position * self.row..][..self.shape.width]
    }
}

/// Writes the output and the log-sum-exp of each row's scaled scores `[batch, heads, length]`.
pub fn forward(
    query_key_value: &[f32],
    shape: Shape,
    rotary: &Rotary,
    output: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    if shape.elements() == 0 {
        return;
    }
    let parts = shape.parts(query_key_value);
    let tasks = shape.split(output);
    if worth_threads(shape.elements()) {
        tasks
            .into_par_iter()
            .zip(log_sum_exp.par_chunks_exact_mut(shape.length))
            .enumerate()
            .for_each_init(
                Buffers::default,
                |buffers, (task, ([output], log_sum_exp))| {
                    forward_task(buffers, parts, rotary, task, output, log_sum_exp);
                },
            );
    } else {
        let mut buffers = Buffers::default();
        for (task, ([output], log_sum_exp)) in tasks
            .into_iter()
            .zip(log_sum_exp.chunks_exact_mut(shape.length))
            .enumerate()
        {
            forward_task(&mut buffers, parts, rotary, task, output, log_sum_exp);
        }
    }
}

/// What one thread works in; every element is written before it is read.
#[derive(Default)]
struct Buffers {
    query: Vec<f32>,
    key: Vec<f32>,
    scores: Vec<f32>,
    d_scores: Vec<f32>,
    d_query: Vec<f32>,
    d_key: Vec<f32>,
    d_value: Vec<f32>,
}

fn forward_task(
    buffers: &mut Buffers,
    [query, key, value]: [Part<'_>; 3],
    rotary: &Rotary,
    task: usize,
    mut output: Vec<&mut [f32]>,
    log_sum_exp: &mut [f32],
) {
    let shape = query.shape;
    let Shape { length, width, .. } = shape;
    rotate(&mut buffers.query, query, rotary, task, shape.scale());
    rotate(&mut buffers.key, key, rotary, task, 1.0);
    buffers.d_query.resize(BLOCK_ROWS * width, 0.0);
    for first in (0..length).step_by(BLOCK_ROWS) {
        let count = BLOCK_ROWS.min(length - first);
        let keys = first + count;
        buffers.scores.resize(count * keys, 0.0);
        let query = Matrix::new(&buffers.query[first * width..], count, width);
        let key = Matrix::new(&buffers.key, keys, width);
        write_product(
            &mut buffers.scores,
            1.0,
            query,
            key.transposed(),
            Threads::One,
        );
        let mut inverse_sums = [0.0; BLOCK_ROWS];
        vectorised(
            #[inline(always)]
            || {
                for (row, scores) in buffers.scores.chunks_exact_mut(keys).enumerate() {
                    let (scores, seen) = padded(scores, first + row + 1);
                    scores[seen..].fill(f32::NEG_INFINITY);
                    let largest = maximum(scores);
                    // A hidden score adds 1e-38 to a sum of at least one, which changes nothing.
                    let sum = exponentials(scores, largest);
                    scores[seen..].fill(0.0);
                    inverse_sums[row] = 1.0 / sum;
                    log_sum_exp[first + row] = largest + libm::logf(sum);
                }
            },
        );
        let weighted = &mut buffers.d_query[..count * width];
        let probabilities = Matrix::new(&buffers.scores, count, keys);
        write_product(
            weighted,
            1.0,
            probabilities,
            value.rows(task, 0, keys),
            Threads::One,
        );
        for ((row, weighted), inverse) in output[first..]
            .iter_mut()
            .zip(weighted.chunks_exact(width))
            .zip(inverse_sums)
        {
            for (output, weighted) in row.iter_mut().zip(weighted) {
                *output = weighted * inverse;
            }
        }
    }
}

/// The tensors of the forward pass, and the gradient of the output.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Query, key (both before rotation) and value side by side.
    pub query_key_value: &'a [f32],
    /// Output.
    pub output: &'a [f32],
    /// Log-sum-exp of the scores `[batch, heads, length]`.
    pub log_sum_exp: &'a [f32],
    /// Gradient of the output.
    pub gradient: &'a [f32],
}

/// Writes the gradients for query, key and value side by side.
pub fn backward(inputs: Inputs<'_>, shape: Shape, rotary: &Rotary, gradients: &mut [f32]) {
    if shape.elements() == 0 {
        return;
    }
    let tasks = shape.split(gradients);
    if worth_threads(shape.elements()) {
        tasks.into_par_iter().enumerate().for_each_init(
            Buffers::default,
            |buffers, (task, gradients)| {
                backward_task(buffers, inputs, shape, rotary, task, gradients);
            },
        );
    } else {
        let mut buffers = Buffers::default();
        for (task, gradients) in tasks.into_iter().enumerate() {
            backward_task(&mut buffers, inputs, shape, rotary, task, gradients);
        }
    }
}

fn backward_task(
    buffers: &mut Buffers,
    inputs: Inputs<'_>,
    shape: Shape,
    rotary: &Rotary,
    task: usize,
    [d_query, d_key, d_value]: [Vec<&mut [f32]>; 3],
) {
    let Shape { length, width, .. } = shape;
    let [query, key, value] = shape.parts(inputs.query_key_value);
    let (gradient, output) = (shape.alone(inputs.gradient), shape.alone(inputs.output));
    rotate(&mut buffers.query, query, rotary, task, shape.scale());
    rotate(&mut buffers.key, key, rotary, task, 1.0);
    for buffer in [
        &mut buffers.d_query,
        &mut buffers.d_key,
        &mut buffers.d_value,
    ] {
        buffer.clear();
        buffer.resize(length * width, 0.0);
    }
    let log_sum_exp = &inputs.log_sum_exp[task * length..][..length];
    for first in (0..length).step_by(BLOCK_ROWS) {
        let count = BLOCK_ROWS.min(length - first);
        let keys = first + count;
        let query = Matrix::new(&buffers.query[first * width..], count, width);
        let key = Matrix::new(&buffers.key, keys, width);
        let gradients = gradient.rows(task, first, count);
        buffers.scores.resize(count * keys, 0.0);
        write_product(
            &mut buffers.scores,
            1.0,
            query,
            key.transposed(),
            Threads::One,
        );
        buffers.d_scores.resize(count * keys, 0.0);
        write_product(
            &mut buffers.d_scores,
            1.0,
            gradients,
            value.rows(task, 0, keys).transposed(),
            Threads::One,
        );
        vectorised(
            #[inline(always)]
            || {
                let rows = buffers
                    .scores
                    .chunks_exact_mut(keys)
                    .zip(buffers.d_scores.chunks_exact_mut(keys));
                for (row, (scores, d_scores)) in rows.enumerate() {
                    let position = first + row;
                    let row_sum = dot(gradient.slice(task, position), output.slice(task, position));
                    let shift = log_sum_exp[position];
                    let (scores, seen) = padded(scores, position + 1);
                    let (d_scores, _) = padded(d_scores, position + 1);
                    for (s, d) in scores.iter_mut().zip(&mut *d_scores) {
                        *s = exp(*s - shift);
                        *d = *s * (*d - row_sum);
                    }
                    scores[seen..].fill(0.0);
                    d_scores[seen..].fill(0.0);
                }
            },
        );
        let probabilities = Matrix::new(&buffers.scores, count, keys);
        let d_scores = Matrix::new(&buffers.d_scores, count, keys);
        add_product(
            &mut buffers.d_value[..keys * width],
            1.0,
            probabilities.transposed(),
            gradients,
            Threads::One,
        );
        add_product(
            &mut buffers.d_key[..keys * width],
            1.0,
            d_scores.transposed(),
            query,
            Threads::One,
        );
        let d_query = &mut buffers.d_query[first * width..keys * width];
        write_product(d_query, shape.scale(), d_scores, key, Threads::One);
    }
    undo_rotation(d_query, &buffers.d_query, rotary, width);
    undo_rotation(d_key, &buffers.d_key, rotary, width);
    for (output, row) in d_value.into_iter().zip(buffers.d_value.chunks_exact(width)) {
        output.copy_from_slice(row);
    }
}

/// Zeroes what lies past the last lane block of the seen scores; returns the row up to there, whole vectors as far as
/// it goes, and how many of its scores are seen.
#[inline(always)]
fn padded(row: &mut [f32], seen: usize) -> (&mut [f32], usize) {
    let length = seen.next_multiple_of(LANES).min(row.len());
    let (row, rest) = row.split_at_mut(length);
    rest.fill(0.0);
    (row, seen)
}

/// The rows of one sequence and head, rotated by their positions and scaled, `[length, width]`.
fn rotate(output: &mut Vec<f32>, part: Part<'_>, rotary: &Rotary, task: usize, scale: f32) {
    let Shape { length, width, .. } = part.shape;
    output.resize(length * width, 0.0);
    vectorised(
        #[inline(always)]
        || {
            for (position, output) in output.chunks_exact_mut(width).enumerate() {
                let (left, right) = part.slice(task, position).split_at(width / 2);
                let (left_output, right_output) = output.split_at_mut(width / 2);
                let (cosine, sine) = rotary.at(position);
                turn(
                    left,
                    right,
                    cosine,
                    sine,
                    scale,
                    scale,
                    left_output,
                    right_output,
                );
            }
        },
    );
}

fn undo_rotation(output: Vec<&mut [f32]>, rotated: &[f32], rotary: &Rotary, width: usize) {
    vectorised(
        #[inline(always)]
        || {
            for (position, (output, rotated)) in output
                .into_iter()
                .zip(rotated.chunks_exact(width))
                .enumerate()
            {
                let (left, right) = rotated.split_at(width / 2);
                let (left_output, right_output) = output.split_at_mut(width / 2);
                let (cosine, sine) = rotary.at(position);
                turn(
                    left,
                    right,
                    cosine,
                    sine,
                    1.0,
                    -1.0,
                    left_output,
                    right_output,
                );
            }
        },
    );
}

/// Rotates the pairs (left, right) of one row; each slice on its own, so that the compiler knows them apart.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "slices inside an array or tuple are not known to be disjoint"
)]
fn turn(
    left: &[f32],
    right: &[f32],
    cosine: &[f32],
    sine: &[f32],
    cosine_factor: f32,
    sine_factor: f32,
    left_output: &mut [f32],
    right_output: &mut [f32],
) {
    let pairs = left.iter().zip(right).zip(cosine.iter().zip(sine));
    for ((left_output, right_output), ((&left, &right), (&cosine, &sine))) in
        left_output.iter_mut().zip(right_output).zip(pairs)
    {
        let (c, s) = (cosine * cosine_factor, sine * sine_factor);
        *left_output = left * c - right * s;
        *right_output = right * c + left * s;
    }
}
