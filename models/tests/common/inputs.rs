//! Reproducible inputs of operations.

/// A reproducible value in [-1, 1) for every index.
pub fn noise(seed: u64, index: usize) -> f64 {
    let mut x = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(index as u64)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 31;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 29;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

#[derive(Clone, Debug)]
pub struct Input {
    pub values: Vec<f32>,
    pub shape: [usize; 2],
}

pub fn input(seed: u64, shape: [usize; 2]) -> Input {
    Input {
        values: (0..shape[0] * shape[1])
            .map(|index| noise(seed, index) as f32)
            .collect(),
        shape,
    }
}

/// Targets below the vocabulary, every third one ignored where asked.
pub fn some_targets(seed: u64, rows: usize, vocabulary: usize, with_ignored: bool) -> Vec<i64> {
    let target = |row| ((noise(seed, row) + 1.0) / 2.0 * vocabulary as f64) as i64;
    (0..rows)
        .map(|row| {
            if with_ignored && row % 3 == 1 {
                -1
            } else {
                target(row)
            }
        })
        .collect()
}

/// Tokens below the vocabulary.
pub fn some_tokens(seed: u64, rows: usize, vocabulary: usize) -> Vec<u32> {
    let targets = some_targets(seed, rows, vocabulary, false);
    targets.into_iter().map(|target| target as u32).collect()
}
