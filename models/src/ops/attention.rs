//! Causal attention with rotary positions: `O = softmax(scale·R(Q)·R(K)ᵀ + causal mask)·V` per head.
//!
//! R rotates the pair (j, j + w/2) of a head of width w at position p by the angle `p·10000^(-2j/w)` (Su et al. 2021,
//! in the half-split form of `modeling_llama.py`, Guitaricet/relora@176f376). The scores are not kept: the backward
//! pass recomputes `P = exp(S - lse)` from the log-sum-exp of each row. With `D = rowsum(dO·O)`:
//! `dV = Pᵀ·dO`, `dS = scale·P·(dO·Vᵀ - D)`, `dR(Q) = dS·R(K)`, `dR(K) = dSᵀ·R(Q)`.
//!
//! Suffixes: `_bhtw` is `[batch, heads, length, head width]`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, DType, Tensor, TensorData};

/// What the backward pass needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// Query, key (both before rotation) and value side by side `[b, t, 3d]`.
    pub query_key_value: Tensor<B, 3>,
    /// Output of the forward pass `[b, t, d]`.
    pub output: Tensor<B, 3>,
    /// Log-sum-exp of the scaled and masked scores `[b, heads, t]`, f32.
    pub log_sum_exp: Tensor<B, 3>,
    /// Number of heads.
    pub heads: usize,
}

/// Cosines and sines of the rotary angles, each row-major `[length, width / 2]`.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Cosines.
    pub cosine: Vec<f32>,
    /// Sines.
    pub sine: Vec<f32>,
    half: usize,
}

impl Rotary {
    /// The table for positions below `length` and heads of (even) `width`.
    ///
    /// Frequency and angle are rounded to f32 as in the official code, so that both see the same angles.
    pub fn new(length: usize, width: usize) -> Self {
        let half = width / 2;
        let frequency: Vec<f32> = (0..half)
            .map(|j| libm::pow(10_000.0, -2.0 * j as f64 / width as f64) as f32)
            .collect();
        let angles =
            (0..length).flat_map(|position| frequency.iter().map(move |f| position as f32 * f));
        let (sine, cosine) = angles
            .map(|angle| {
                let (sine, cosine) = libm::sincos(f64::from(angle));
                (sine as f32, cosine as f32)
            })
            .unzip();
        Self { cosine, sine, half }
    }

    /// The table of [`Rotary::new`], computed once per process and shape.
    pub fn shared(length: usize, width: usize) -> Arc<Self> {
        static TABLES: Mutex<BTreeMap<(usize, usize), Arc<Rotary>>> = Mutex::new(BTreeMap::new());
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            tables
                .entry((length, width))
                .or_insert_with(|| Arc::new(Self::new(length, width))),
        )
    }

    /// Cosines and sines at a position, each `[width / 2]`.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cosine[range.clone()], &self.sine[range])
    }
}

/// The output `[b, t, d]` from whole scores: the reference that the other forms are tested against.
pub fn definition<B: Backend>(query_key_value: Tensor<B, 3>, heads: usize) -> Tensor<B, 3> {
    let dtype = query_key_value.dtype();
    let [query_bhtw, key_bhtw, value_bhtw] = split_all(query_key_value, heads);
    let scores = Rotation::new(&query_bhtw).scores(query_bhtw, key_bhtw);
    join(softmax(scores, 3).cast(dtype).matmul(value_bhtw))
}

/// The output `[b, t, d]` and the log-sum-exp `[b, heads, t]`, composed.
pub fn forward<B: Backend>(
    query_key_value: Tensor<B, 3>,
    heads: usize,
) -> (Tensor<B, 3>, Tensor<B, 3>) {
    let dtype = query_key_value.dtype();
    let [query_bhtw, key_bhtw, value_bhtw] = split_all(query_key_value, heads);
    let scores = Rotation::new(&query_bhtw).scores(query_bhtw, key_bhtw);
    let maximum = scores.clone().max_dim(3);
    let exponentials = (scores - maximum.clone()).exp();
    let sum = exponentials.clone().sum_dim(3);
    let output = (exponentials / sum.clone()).cast(dtype).matmul(value_bhtw);
    let log_sum_exp = maximum + sum.log();
    (join(output), log_sum_exp.squeeze_dim(3))
}

/// Gradients for query, key and value, side by side `[b, t, 3d]`, composed.
pub fn backward<B: Backend>(saved: Saved<B>, gradient: Tensor<B, 3>) -> Tensor<B, 3> {
    let Saved {
        query_key_value,
        output,
        log_sum_exp,
        heads,
    } = saved;
    let dtype = query_key_value.dtype();
    let [query_bhtw, key_bhtw, value_bhtw] = split_all(query_key_value, heads);
    let rotation = Rotation::new(&query_bhtw);
    let query_bhtw = rotation.apply(query_bhtw);
    let key_bhtw = rotation.apply(key_bhtw);
    let gradient_bhtw = split(gradient, heads);
    let scores = rotation.masked_product(query_bhtw.clone(), key_bhtw.clone());
    let probabilities = (scores - log_sum_exp.unsqueeze_dim(3)).exp();
    let d_value = probabilities
        .clone()
        .cast(dtype)
        .swap_dims(2, 3)
        .matmul(gradient_bhtw.clone());
    let row_sums =
        (gradient_bhtw.clone().cast(DType::F32) * split(output, heads).cast(DType::F32)).sum_dim(3);
    let d_probabilities = gradient_bhtw
        .matmul(value_bhtw.swap_dims(2, 3))
        .cast(DType::F32);
    let d_scores = (probabilities * (d_probabilities - row_sums) * rotation.scale).cast(dtype);
    let d_query = rotation.undo(d_scores.clone().matmul(key_bhtw));
    let d_key = rotation.undo(d_scores.swap_dims(2, 3).matmul(query_bhtw));
    Tensor::cat([d_query, d_key, d_value].map(join).to_vec(), 2)
}

/// The rotary tables on the device, `[1, 1, t, w / 2]`, with the scale and the causal mask that go with them.
struct Rotation<B: Backend> {
    cosine: Tensor<B, 4>,
    sine: Tensor<B, 4>,
    scale: f32,
    mask: Tensor<B, 4, Bool>,
}

impl<B: Backend> Rotation<B> {
    fn new(query_bhtw: &Tensor<B, 4>) -> Self {
        let [_, _, length, width] = query_bhtw.dims();
        let (device, dtype) = (query_bhtw.device(), query_bhtw.dtype());
        let Rotary { cosine, sine, .. } = Rotary::new(length, width);
        let table = |values: Vec<f32>| {
            let data = TensorData::new(values, [1, 1, length, width / 2]);
            Tensor::<B, 4>::from_data(data, (&device, DType::F32)).cast(dtype)
        };
        Self {
            cosine: table(cosine),
            sine: table(sine),
            scale: (width as f32).sqrt().recip(),
            mask: Tensor::tril_mask([1, 1, length, length], 0, &device),
        }
    }

    fn apply(&self, x_bhtw: Tensor<B, 4>) -> Tensor<B, 4> {
        self.turn(x_bhtw, self.sine.clone())
    }

    /// The inverse rotation, which is also the transposed one.
    fn undo(&self, x_bhtw: Tensor<B, 4>) -> Tensor<B, 4> {
        self.turn(x_bhtw, self.sine.clone().neg())
    }

    fn turn(&self, x_bhtw: Tensor<B, 4>, sine: Tensor<B, 4>) -> Tensor<B, 4> {
        let half = x_bhtw.dims()[3] / 2;
        let left = x_bhtw.clone().narrow(3, 0, half);
        let right = x_bhtw.narrow(3, half, half);
        let cosine = self.cosine.clone();
        let turned_left = left.clone() * cosine.clone() - right.clone() * sine.clone();
        let turned_right = right * cosine + left * sine;
        Tensor::cat(vec![turned_left, turned_right], 3)
    }

    fn scores(&self, query_bhtw: Tensor<B, 4>, key_bhtw: Tensor<B, 4>) -> Tensor<B, 4> {
        self.masked_product(self.apply(query_bhtw), self.apply(key_bhtw))
    }

    /// Scaled scores in f32 `[b, heads, t, t]`, -∞ above the diagonal.
    fn masked_product(&self, query_bhtw: Tensor<B, 4>, key_bhtw: Tensor<B, 4>) -> Tensor<B, 4> {
        let scores = query_bhtw.matmul(key_bhtw.swap_dims(2, 3)).cast(DType::F32) * self.scale;
        let mask = self.mask.clone().expand(scores.dims());
        scores.mask_fill(mask, f32::NEG_INFINITY)
    }
}

/// Query, key and value out of `[b, t, 3d]`, each `[b, heads, t, w]`.
fn split_all<B: Backend>(query_key_value: Tensor<B, 3>, heads: usize) -> [Tensor<B, 4>; 3] {
    let hidden = query_key_value.dims()[2] / 3;
    [0, 1, 2].map(|number| {
        let part = query_key_value.clone();
        split(part.narrow(2, number * hidden, hidden), heads)
    })
}

/// `[b, t, d]` to `[b, heads, t, w]`.
fn split<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [batch, length, hidden] = x.dims();
    x.reshape([batch, length, heads, hidden / heads])
        .swap_dims(1, 2)
}

/// `[b, heads, t, w]` to `[b, t, d]`.
fn join<B: Backend>(x_bhtw: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, heads, length, width] = x_bhtw.dims();
    x_bhtw
        .swap_dims(1, 2)
        .reshape([batch, length, heads * width])
}
