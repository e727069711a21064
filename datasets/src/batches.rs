//! Batches: which rows of a split an update sees, as a pure function of its step, in O(1).
//!
//! Rows are numbered. An order is a permutation of the numbers for each epoch that can be evaluated at any place without the
//! places before it, so a resumed run needs no cursor and every method of a seed sees the same rows.

use std::ops::Range;
use std::sync::Arc;

use crate::{DataError, Split, Store};

/// A target that carries no loss.
pub const IGNORE: u32 = u32::MAX;

/// The order of rows in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new permutation for each epoch, determined by this seed.
    Seeded(u64),
    /// As they lie in the store.
    Sequential,
}

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All documents as one stream, each followed by its end of text, cut into rows.
    Packed,
    /// A document a row, cut to the length or filled up; the end of text is a target where it fits.
    Padded,
}

/// Rows of tokens, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// `[rows, length]`
    pub inputs: Vec<u32>,
    /// `[rows, length]`, [`IGNORE`] where there is no target.
    pub targets: Vec<u32>,
    pub rows: usize,
    /// Tokens per row.
    pub length: usize,
    /// Number of this micro-batch in the run, or in the pass.
    pub index: u64,
}

impl Sequences {
    /// Targets that carry a loss.
    pub fn targets(&self) -> u64 {
        self.targets
            .iter()
            .filter(|target| **target != IGNORE)
            .count() as u64
    }
}

/// The rows of one split of a store, in one order, in batches.
#[derive(Clone, Debug)]
pub struct Batches {
    store: Arc<Store>,
    split: Split,
    order: Order,
    layout: Layout,
    length: usize,
    overlap: usize,
    global_batch: usize,
    micro_batch: usize,
    /// Rows that training draws from: in the packed layout the whole ones.
    rows: u64,
    /// Rows of a pass: in the packed layout with the rest of the stream.
    rows_of_pass: u64,
}

impl Batches {
    /// Rows of `length` tokens, `global_batch` of them an update, computed `micro_batch` at a time.
    ///
    /// With `overlap` 1, neighbouring rows of the packed layout share a token, and every token but the first of the stream is a
    /// target once. With 0, as in the official code of the paper, rows share nothing and a row of T tokens has T - 1 targets.
    ///
    /// # Errors
    /// A size is zero, `overlap` is above 1, or the split has fewer rows than an update needs.
    #[expect(
        clippy::too_many_arguments,
        reason = "eight independent settings, each named at the one call"
    )]
    pub fn new(
        store: Arc<Store>,
        split: Split,
        order: Order,
        layout: Layout,
        length: usize,
        overlap: usize,
        global_batch: usize,
        micro_batch: usize,
    ) -> Result<Batches, DataError> {
        let setting = |name, value: usize, right| DataError::Setting {
            name,
            value: value as u64,
            right,
        };
        if overlap > 1 {
            return Err(setting("overlap", overlap, "0 or 1"));
        }
        // A row of one token without the next one has no target.
        if length.saturating_add(overlap) < 2 {
            return Err(setting(
                "sequence length",
                length,
                "at least 1, and at least 2 with an overlap of 0",
            ));
        }
        if global_batch == 0 {
            return Err(setting("global batch", global_batch, "at least 1"));
        }
        if micro_batch == 0 {
            return Err(setting("micro batch", micro_batch, "at least 1"));
        }
        let (tokens, documents) = (store.tokens(split), store.documents(split));
        let long = length as u64;
        let (rows, rows_of_pass) = match layout {
            // Rows longer than all of the text would be padding for the most part, and are a slip of the user's.
            _ if long > tokens.max(store.training_tokens()) => (0, 0),
            Layout::Padded => (documents, documents),
            Layout::Packed if overlap == 1 => {
                let targets = tokens.saturating_sub(1);
                (targets / long, targets.div_ceil(long))
            }
            Layout::Packed => (tokens / long, tokens / long + u64::from(tokens % long > 1)),
        };
        let (available, needed) = match split {
            Split::Training => (rows, global_batch as u64),
            Split::Validation => (rows_of_pass, 1),
        };
        if available < needed {
            return Err(DataError::TooShort {
                split,
                length,
                tokens,
                documents,
                rows: available,
                needed,
            });
        }
        Ok(Batches {
            store,
            split,
            order,
            layout,
            length,
            overlap,
            global_batch,
            micro_batch,
            rows,
            rows_of_pass,
        })
    }

    /// The micro-batches of the update with this number (from 0). After the last row of an epoch the next epoch begins,
    /// within an update if need be, so that each epoch has every row once.
    ///
    /// # Errors
    /// The store is damaged, or the split (validation, which [`Batches::new`] accepts with one row) has fewer rows than an update.
    pub fn update(&self, step: u64) -> Result<Vec<Sequences>, DataError> {
        if self.rows < self.global_batch as u64 {
            return Err(DataError::TooShort {
                split: self.split,
                length: self.length,
                tokens: self.store.tokens(self.split),
                documents: self.store.documents(self.split),
                rows: self.rows,
                needed: self.global_batch as u64,
            });
        }
        let first = u128::from(step) * self.global_batch as u128;
        let mut numbers = Vec::with_capacity(self.global_batch);
        let mut permutation: Option<(u64, Permutation)> = None;
        for place in first..first + self.global_batch as u128 {
            let epoch = (place / u128::from(self.rows)) as u64;
            let place = (place % u128::from(self.rows)) as u64;
            numbers.push(match self.order {
                Order::Sequential => place,
                Order::Seeded(seed) => {
                    let permutation = match &permutation {
                        Some((of, permutation)) if *of == epoch => permutation,
                        _ => {
                            &permutation
                                .insert((epoch, Permutation::new(self.rows, seed, epoch)))
                                .1
                        }
                    };
                    permutation.at(place)
                }
            });
        }
        let per_update = self.micro_batches_per_update();
        numbers
            .chunks(self.micro_batch)
            .enumerate()
            .map(|(number, rows)| {
                let index = step.wrapping_mul(per_update).wrapping_add(number as u64);
                self.sequences(rows, index)
            })
            .collect()
    }

    /// Micro-batches in an update; the last is smaller where the sizes do not divide.
    pub fn micro_batches_per_update(&self) -> u64 {
        self.global_batch.div_ceil(self.micro_batch) as u64
    }

    /// Every row of the split once, as they lie in the store, in micro-batches; the last may be smaller, and the last row of the
    /// packed layout may end early. With an overlap of 1 every target of the stream is in it exactly once.
    pub fn pass(&self) -> impl Iterator<Item = Result<Sequences, DataError>> + '_ {
        let micro_batch = self.micro_batch as u64;
        (0..self.rows_of_pass.div_ceil(micro_batch)).map(move |index| {
            let first = index * micro_batch;
            let numbers: Vec<u64> = (first..(first + micro_batch).min(self.rows_of_pass)).collect();
            self.sequences(&numbers, index)
        })
    }

    fn sequences(&self, numbers: &[u64], index: u64) -> Result<Sequences, DataError> {
        let rows = numbers.len();
        let mut sequences = Sequences {
            inputs: Vec::with_capacity(rows * self.length),
            targets: Vec::with_capacity(rows * self.length),
            rows,
            length: self.length,
            index,
        };
        let mut tokens = Vec::with_capacity(self.length + 1);
        for (done, number) in numbers.iter().enumerate() {
            tokens.clear();
            self.store
                .read(self.split, self.span(*number)?, &mut tokens)?;
            let inputs = &tokens[..tokens.len().min(self.length)];
            let targets = &tokens[1.min(tokens.len())..];
            sequences.inputs.extend_from_slice(inputs);
            sequences.targets.extend_from_slice(targets);
            let filled = (done + 1) * self.length;
            sequences.inputs.resize(filled, self.store.end_of_text());
            sequences.targets.resize(filled, IGNORE);
        }
        Ok(sequences)
    }

    /// The tokens of a row: its inputs and, with an overlap, the target of the last.
    fn span(&self, number: u64) -> Result<Range<u64>, DataError> {
        let (length, overlap) = (self.length as u64, self.overlap as u64);
        let of = match self.layout {
            Layout::Packed => number * length..self.store.tokens(self.split),
            Layout::Padded => self.store.document(self.split, number)?,
        };
        Ok(of.start..of.end.min(of.start + length + overlap))
    }
}

/// A permutation of `0..size` that is evaluated at one place at a time, after Black and Rogaway, "Ciphers with arbitrary
/// finite domains" (2002): a Feistel network permutes the next even number of bits, and a result outside the domain is fed in
/// again until it falls inside (cycle walking; fewer than four rounds of it on average, since the network's domain is less than
/// four times as large).
#[derive(Clone, Copy, Debug)]
struct Permutation {
    size: u64,
    half_bits: u32,
    keys: [u64; Permutation::ROUNDS],
}

impl Permutation {
    /// Four rounds make a Feistel network a good permutation when its round function is one that cannot be told from a random
    /// function (Luby and Rackoff, 1988); ours is a mere mixer on few bits, hence twice as many.
    const ROUNDS: usize = 8;

    fn new(size: u64, seed: u64, epoch: u64) -> Permutation {
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        let mut key = mix(mix(seed) ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Permutation {
            size,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| {
                key = mix(key.wrapping_add(0x9e37_79b9_7f4a_7c15));
                key
            }),
        }
    }

    fn at(&self, place: u64) -> u64 {
        let mut value = place;
        loop {
            value = self.network(value);
            if value < self.size {
                return value;
            }
        }
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64 bits in which every bit depends on every other.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_order_is_a_permutation(size in 1_u64..3_000, seed: u64, epoch: u64) {
            let permutation = Permutation::new(size, seed, epoch);
            let mut seen: Vec<u64> = (0..size).map(|place| permutation.at(place)).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..size));
        }
    }

    #[test]
    fn an_order_has_no_trace_of_the_store_order() {
        // In a random permutation of n places a place keeps its number once on average, and the chance that two neighbours stay
        // neighbours is 1/n: about one each, Poisson. Ten of either has a chance below 1e-6.
        let size = 100_000;
        let permutation = Permutation::new(size, 7, 0);
        let order: Vec<u64> = (0..size).map(|place| permutation.at(place)).collect();
        let fixed = order
            .iter()
            .zip(0..)
            .filter(|(row, place)| **row == *place)
            .count();
        let neighbours = order
            .windows(2)
            .filter(|pair| pair[1] == pair[0] + 1)
            .count();
        assert!(
            fixed < 10 && neighbours < 10,
            "{fixed} fixed, {neighbours} neighbours"
        );
        // The mean place of the first tenth of the rows: uniform, so 0.5 n with a standard error of n / sqrt(12 * 10000) = 0.0029 n.
        let mean = order[..10_000].iter().sum::<u64>() as f64 / 10_000.0 / size as f64;
        assert!((mean - 0.5).abs() < 5.0 * 0.0029, "{mean}");
    }

    #[test]
    fn the_largest_domain_does_not_overflow() {
        let permutation = Permutation::new(u64::MAX, 1, 1);
        assert!(permutation.at(u64::MAX - 1) < u64::MAX);
    }
}
