//! `L = Σ_j (log Σ_u exp z_ju - z_j,target[j])` over the targets that are not negative, with `z = h·Hᵀ`.
//!
//! `dz = softmax(z) - onehot(target)` on the counted rows, `dh = dz·H`, `dH = dzᵀ·h`. The gradients are computed in
//! the forward pass, block of rows by block of rows, so that the logits never exist as a whole; the backward pass
//! only scales them by the gradient of the loss.

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

/// Rows of logits that exist at a time in the composed form: 262 MB at a vocabulary of 32,000.
const BLOCK_ROWS: usize = 2048;

/// Blocks of a batch on GPUs. Their number does not grow with the batch, so that neither does the number of launches; logits
/// then take an eighth of what all of them would.
const MOST_GPU_BLOCKS: usize = 8;

/// Rows of the smallest block on GPUs, and of what all but the last are a multiple of: a view may begin at each.
const LEAST_GPU_ROWS: usize = 128;

/// Rows of logits that exist at a time on GPUs, for that many rows in all.
pub(crate) fn rows_of_gpu_block(rows: usize) -> usize {
    rows.div_ceil(MOST_GPU_BLOCKS)
        .next_multiple_of(LEAST_GPU_ROWS)
}

/// The loss alone `[1]`, from whole logits: the reference that the blocked forms are tested against.
pub fn definition<B: Backend>(
    hidden: Tensor<B, 2>,
    head: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
) -> Tensor<B, 1> {
    let logits = hidden.matmul(head.transpose()).cast(DType::F32);
    let (index, counted) = index_and_counted(targets);
    (log_softmax(logits, 1).gather(1, index) * counted)
        .sum()
        .neg()
}

/// The loss `[1]` (f32) and the wanted gradients for the hidden states and the head, composed by blocks of rows.
pub fn forward<B: Backend>(
    hidden: Tensor<B, 2>,
    head: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
    wanted: [bool; 2],
) -> (Tensor<B, 1>, [Option<Tensor<B, 2>>; 2]) {
    let [rows, _] = hidden.dims();
    let mut loss = Tensor::zeros([1], (&hidden.device(), DType::F32));
    let mut d_hidden = Vec::new();
    let mut d_head: Option<Tensor<B, 2>> = None;
    for start in (0..rows).step_by(BLOCK_ROWS) {
        let length = BLOCK_ROWS.min(rows - start);
        let block = hidden.clone().narrow(0, start, length);
        let (index, counted) = index_and_counted(targets.clone().narrow(0, start, length));
        let logits = block
            .clone()
            .matmul(head.clone().transpose())
            .cast(DType::F32);
        let log_probability = log_softmax(logits, 1);
        loss = loss - (log_probability.clone().gather(1, index.clone()) * counted.clone()).sum();
        if !wanted[0] && !wanted[1] {
            continue;
        }
        let d_logits = (log_probability.exp() * counted.clone())
            .scatter(1, index, counted.neg(), IndexingUpdateOp::Add)
            .cast(head.dtype());
        if wanted[1] {
            let part = d_logits.clone().transpose().matmul(block).cast(DType::F32);
            d_head = Some(match d_head {
                Some(sum) => sum + part,
                None => part,
            });
        }
        if wanted[0] {
            d_hidden.push(d_logits.matmul(head.clone()));
        }
    }
    let d_hidden = wanted[0].then(|| {
        if rows == 0 {
            hidden
        } else {
            Tensor::cat(d_hidden, 0)
        }
    });
    let d_head = d_head
        .map(|sum| sum.cast(head.dtype()))
        .or_else(|| wanted[1].then(|| head.zeros_like()));
    (loss, [d_hidden, d_head])
}

/// Column index `[n, 1]` (0 where the target is ignored) and 1 or 0 `[n, 1]` for counted or ignored rows.
fn index_and_counted<B: Backend>(targets: Tensor<B, 1, Int>) -> (Tensor<B, 2, Int>, Tensor<B, 2>) {
    let [rows] = targets.dims();
    let targets = targets.reshape([rows, 1]);
    let counted = targets
        .clone()
        .greater_equal_elem(0)
        .float()
        .cast(DType::F32);
    (targets.clamp_min(0), counted)
}
