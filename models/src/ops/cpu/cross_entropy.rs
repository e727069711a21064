//! Output projection and loss on the CPU, by blocks of rows.

use rayon::prelude::*;

use super::product::{Matrix, Threads, add_product, product, write_product};
use super::vector::{
    exponentials, maximum, multiply, sum_of_exponentials, vectorised, worth_threads,
};

/// Rows of logits that exist at a time: 8 MB at a vocabulary of 4096, 66 MB at 32,000.
const BLOCK_ROWS: usize = 512;

/// What [`forward`] returns.
#[derive(Debug)]
pub struct Output {
    /// Σ over the counted rows of `log Σ exp z - z[target]`, nats.
    pub loss: f64,
    /// Gradient of the loss for the hidden states `[n, d]`.
    pub d_hidden: Option<Vec<f32>>,
    /// Gradient of the loss for the head `[v, d]`.
    pub d_head: Option<Vec<f32>>,
}

/// Loss and wanted gradients for hidden `[n, width]`, head `[v, width]` and n targets, `None` where there is none.
pub fn forward(
    hidden: &[f32],
    head: &[f32],
    width: usize,
    targets: &[Option<usize>],
    wanted: [bool; 2],
) -> Output {
    let vocabulary = head.len().checked_div(width).unwrap_or(0);
    let rows = targets.len();
    let head_matrix = Matrix::new(head, vocabulary, width);
    let with_gradients = wanted[0] || wanted[1];
    let mut d_hidden = wanted[0].then(|| vec![0.0; rows * width]);
    let mut d_head: Option<Vec<f32>> = None;
    let mut logits = vec![0.0; BLOCK_ROWS.min(rows) * vocabulary];
    let mut loss = 0.0;
    for (number, targets) in targets.chunks(BLOCK_ROWS).enumerate() {
        let range = number * BLOCK_ROWS * width..(number * BLOCK_ROWS + targets.len()) * width;
        let block = Matrix::new(&hidden[range.clone()], targets.len(), width);
        let logits = &mut logits[..targets.len() * vocabulary];
        write_product(logits, 1.0, block, head_matrix.transposed(), Threads::Pool);
        loss += losses(logits, vocabulary, targets, with_gradients);
        let d_logits = Matrix::new(logits, targets.len(), vocabulary);
        if let Some(d_hidden) = &mut d_hidden {
            write_product(
                &mut d_hidden[range],
                1.0,
                d_logits,
                head_matrix,
                Threads::Pool,
            );
        }
        if wanted[1] {
            match &mut d_head {
                Some(sum) => add_product(sum, 1.0, d_logits.transposed(), block, Threads::Pool),
                None => d_head = Some(product(1.0, d_logits.transposed(), block, Threads::Pool)),
            }
        }
    }
    let d_head = d_head.or_else(|| wanted[1].then(|| vec![0.0; head.len()]));
    Output {
        loss,
        d_hidden,
        d_head,
    }
}

/// The loss of a block of rows; with gradients, the logits are replaced by theirs.
fn losses(
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[Option<usize>],
    with_gradients: bool,
) -> f64 {
    let row = |(logits, &target): (&mut [f32], &Option<usize>)| {
        let Some(target) = target else {
            if with_gradients {
                logits.fill(0.0);
            }
            return 0.0;
        };
        vectorised(
            #[inline(always)]
            || {
                let largest = maximum(logits);
                let own = logits[target];
                let sum = if with_gradients {
                    let sum = exponentials(logits, largest);
                    multiply(logits, 1.0 / sum);
                    logits[target] -= 1.0;
                    sum
                } else {
                    sum_of_exponentials(logits, largest)
                };
                f64::from(sum).ln() + (f64::from(largest) - f64::from(own))
            },
        )
    };
    if worth_threads(logits.len()) {
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocabulary)
            .zip(targets)
            .with_min_len(8)
            .map(row)
            .collect();
        losses.iter().sum()
    } else {
        logits.chunks_mut(vocabulary).zip(targets).map(row).sum()
    }
}
