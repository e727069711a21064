//! Output projection and loss on the CPU, tile by tile.
//!
//! Some rows at a time; of their logits a tile for each piece of the vocabulary, which one thread makes and works on while
//! it is in its caches. Each tile is normalised by its own maximum and sum at first; once all tiles of the rows are
//! there, a second round brings them to the common ones and multiplies them into the gradients. So the logits, most of
//! what a small model computes, pass through memory twice, and no result depends on which thread made it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::product::{Matrix, Threads, add_product, product, write_product};
use super::vector::{exp, exponentials, maximum, multiply, sum_of_exponentials, vectorised};

/// Rows of logits that exist at a time: 8 MB at a vocabulary of 4096, 66 MB at 32,000. Fewer would have the head and its
/// gradient pass through memory more often, more leave the caches where a vocabulary is small.
pub const BLOCK_ROWS: usize = 512;

/// Entries of the vocabulary in a tile at most.
const LARGEST_PIECE: usize = 512;

/// Parts of the gradient of the hidden states that are summed up by themselves: few enough for the memory that they take,
/// enough for the threads that there are.
pub const SUMS: usize = 16;

/// The logits of the last call, for the next: given back to the allocator, so large a piece would not always find its place
/// again, and every now and then the process would hold it twice. Each call writes them before it reads them.
static LOGITS: Mutex<Vec<f32>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Entries of the vocabulary in a tile.
fn piece(vocabulary: usize) -> usize {
    vocabulary
        .div_ceil(SUMS)
        .next_multiple_of(64)
        .min(LARGEST_PIECE)
}

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
///
/// # Panics
///
/// On a target that is not in the vocabulary.
pub fn forward(
    hidden: &[f32],
    head: &[f32],
    width: usize,
    targets: &[Option<usize>],
    wanted: [bool; 2],
) -> Output {
    let vocabulary = head.len().checked_div(width).unwrap_or(0);
    let rows = targets.len();
    let largest = targets.iter().flatten().max();
    assert!(
        largest.is_none_or(|largest| *largest < vocabulary),
        "target {largest:?} in a vocabulary of {vocabulary}"
    );
    let mut d_hidden = wanted[0].then(|| vec![0.0; rows * width]);
    let mut d_head = wanted[1].then(|| vec![0.0; head.len()]);
    let mut loss = 0.0;
    if vocabulary > 0 && rows > 0 {
        let block_rows = BLOCK_ROWS.min(rows);
        let with_gradients = wanted[0] || wanted[1];
        let kept = if with_gradients {
            block_rows * vocabulary
        } else {
            0
        };
        let mut logits = std::mem::take(&mut *lock(&LOGITS));
        if logits.len() < kept {
            logits = vec![0.0; kept];
        }
        for (number, targets) in targets.chunks(block_rows).enumerate() {
            let first = number * block_rows * width;
            let block = Block {
                hidden: &hidden[first..first + targets.len() * width],
                head,
                width,
                piece: piece(vocabulary),
                targets,
            };
            if with_gradients {
                let logits = &mut logits[..targets.len() * vocabulary];
                let tiles = block.tiles(logits);
                let norms = block.norms(&tiles);
                loss += norms.iter().map(|norm| norm.loss).sum::<f64>();
                let d_hidden = d_hidden
                    .as_mut()
                    .map(|d_hidden| &mut d_hidden[first..first + targets.len() * width]);
                block.gradients(logits, &tiles, &norms, d_hidden, d_head.as_deref_mut());
            } else {
                let norms = block.norms(&block.sums());
                loss += norms.iter().map(|norm| norm.loss).sum::<f64>();
            }
        }
        *lock(&LOGITS) = logits;
    }
    Output {
        loss,
        d_hidden,
        d_head,
    }
}

/// Some rows, and the whole head.
struct Block<'a> {
    /// `[rows, width]`
    hidden: &'a [f32],
    /// `[v, width]`
    head: &'a [f32],
    width: usize,
    /// Entries of the vocabulary in a tile.
    piece: usize,
    /// One for each row.
    targets: &'a [Option<usize>],
}

/// What is known of a row from one tile.
#[derive(Clone, Copy)]
struct Part {
    /// The largest logit in the tile.
    largest: f32,
    /// Σ exp(z - largest) over the tile.
    sum: f32,
    /// The target's logit, if it lies in the tile.
    target: Option<f32>,
}

/// What is known of a row from all tiles.
struct Norm {
    /// The largest logit.
    largest: f32,
    /// 1 / Σ exp(z - largest).
    inverse_sum: f32,
    /// 0 for a row without a target.
    loss: f64,
}

impl Block<'_> {
    fn rows(&self) -> usize {
        self.targets.len()
    }

    fn hidden(&self) -> Matrix<'_> {
        Matrix::new(self.hidden, self.rows(), self.width)
    }

    /// The tile's part of the head `[entries, width]`.
    fn piece(&self, number: usize) -> Matrix<'_> {
        let start = number * self.piece * self.width;
        let end = (start + self.piece * self.width).min(self.head.len());
        Matrix::new(
            &self.head[start..end],
            (end - start) / self.width,
            self.width,
        )
    }

    /// The place of a row's target in a tile.
    fn target(&self, row: usize, number: usize) -> Option<usize> {
        let place = self.targets[row]?.checked_sub(number * self.piece)?;
        (place < self.piece).then_some(place)
    }

    /// Fills each tile `[rows, entries]` with exp(z - its largest), and says what is known of each row from each tile.
    fn tiles(&self, logits: &mut [f32]) -> Vec<Vec<Part>> {
        let tiles = logits.par_chunks_mut(self.rows() * self.piece).enumerate();
        tiles
            .map(|(number, tile)| self.tile(number, tile, true))
            .collect()
    }

    /// The same without keeping any tile.
    fn sums(&self) -> Vec<Vec<Part>> {
        let pieces = (self.head.len() / self.width).div_ceil(self.piece);
        (0..pieces)
            .into_par_iter()
            .map_init(Vec::new, |tile, number| {
                tile.resize(self.rows() * self.piece(number).rows(), 0.0);
                self.tile(number, tile, false)
            })
            .collect()
    }

    /// The products of one tile, replaced by their exponentials where they are `kept`.
    fn tile(&self, number: usize, tile: &mut [f32], kept: bool) -> Vec<Part> {
        let piece = self.piece(number);
        write_product(tile, 1.0, self.hidden(), piece.transposed(), Threads::One);
        let mut parts = Vec::with_capacity(self.rows());
        vectorised(
            #[inline(always)]
            || {
                for (row, logits) in tile.chunks_exact_mut(piece.rows()).enumerate() {
                    let target = self.target(row, number).map(|target| logits[target]);
                    let largest = maximum(logits);
                    let sum = if kept {
                        exponentials(logits, largest)
                    } else {
                        sum_of_exponentials(logits, largest)
                    };
                    parts.push(Part {
                        largest,
                        sum,
                        target,
                    });
                }
            },
        );
        parts
    }

    /// Brings together what the tiles know of each row.
    fn norms(&self, tiles: &[Vec<Part>]) -> Vec<Norm> {
        let norm = |row: usize| {
            let parts = tiles.iter().map(|parts| parts[row]);
            let larger = |a: f32, b: f32| if b > a { b } else { a };
            let largest = parts
                .clone()
                .map(|part| part.largest)
                .fold(f32::NEG_INFINITY, larger);
            let sum: f32 = parts
                .clone()
                .map(|part| part.sum * exp(part.largest - largest))
                .sum();
            let mut targets = parts.filter_map(|part| part.target);
            let loss = targets.next().map_or(0.0, |target| {
                libm::log(f64::from(sum)) + (f64::from(largest) - f64::from(target))
            });
            Norm {
                largest,
                inverse_sum: 1.0 / sum,
                loss,
            }
        };
        (0..self.rows()).map(norm).collect()
    }

    /// Turns the tiles into gradients of the logits, writes `d_hidden` of these rows and adds to `d_head`.
    fn gradients(
        &self,
        logits: &mut [f32],
        tiles: &[Vec<Part>],
        norms: &[Norm],
        d_hidden: Option<&mut [f32]>,
        d_head: Option<&mut [f32]>,
    ) {
        let pieces = logits.len().div_ceil(self.rows() * self.piece);
        let pieces_of_sum = pieces.div_ceil(SUMS);
        let length = pieces_of_sum * self.piece;
        let sums = logits.len().div_ceil(self.rows() * length);
        let d_heads: Vec<Option<&mut [f32]>> = match d_head {
            Some(d_head) => d_head.chunks_mut(length * self.width).map(Some).collect(),
            None => (0..sums).map(|_| None).collect(),
        };
        let wants_hidden = d_hidden.is_some();
        let partial: Vec<Vec<f32>> = logits
            .par_chunks_mut(self.rows() * length)
            .zip(d_heads)
            .enumerate()
            .map(|(number, (logits, mut d_head))| {
                let mut sum = Vec::new();
                for (place, tile) in logits.chunks_mut(self.rows() * self.piece).enumerate() {
                    let number = number * pieces_of_sum + place;
                    let piece = self.piece(number);
                    self.normalise(number, tile, &tiles[number], norms);
                    let tile = Matrix::new(tile, self.rows(), piece.rows());
                    if let Some(d_head) = &mut d_head {
                        let start = place * self.piece * self.width;
                        let d_head = &mut d_head[start..start + piece.rows() * self.width];
                        add_product(d_head, 1.0, tile.transposed(), self.hidden(), Threads::One);
                    }
                    if wants_hidden {
                        if sum.is_empty() {
                            sum = product(1.0, tile, piece, Threads::One);
                        } else {
                            add_product(&mut sum, 1.0, tile, piece, Threads::One);
                        }
                    }
                }
                sum
            })
            .collect();
        if let Some(d_hidden) = d_hidden {
            let length = 64 * self.width;
            let add = |(number, d_hidden): (usize, &mut [f32])| {
                for sum in &partial {
                    let sum = &sum[number * length..];
                    for (d_hidden, sum) in d_hidden.iter_mut().zip(sum) {
                        *d_hidden += sum;
                    }
                }
            };
            d_hidden.par_chunks_mut(length).enumerate().for_each(add);
        }
    }

    /// Turns a tile into the gradients of its logits: probabilities, less one at the target; zero in a row without one.
    fn normalise(&self, number: usize, tile: &mut [f32], parts: &[Part], norms: &[Norm]) {
        let entries = tile.len() / self.rows();
        vectorised(
            #[inline(always)]
            || {
                for (row, tile) in tile.chunks_exact_mut(entries).enumerate() {
                    if self.targets[row].is_none() {
                        tile.fill(0.0);
                        continue;
                    }
                    let Norm {
                        largest,
                        inverse_sum,
                        ..
                    } = norms[row];
                    multiply(tile, exp(parts[row].largest - largest) * inverse_sum);
                    if let Some(target) = self.target(row, number) {
                        tile[target] -= 1.0;
                    }
                }
            },
        );
    }
}
