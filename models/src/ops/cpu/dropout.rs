//! Dropout on the CPU: the bits of a mask, and what they leave of a matrix.

use rayon::prelude::*;

use super::vector::{vectorised, worth_threads};
use crate::ops::dropout::Mask;

/// Bytes of a mask that a thread takes at a time.
const BLOCK: usize = 1 << 11;

/// Counters that are worked on side by side.
const LANES: usize = 16;

/// Decides for eight elements in each byte: a bit is set, and its element stays, where 16 bits of its own are at least
/// `dropped`.
pub fn decide(bits: &mut [u8], key: [u32; 2], dropped: u32) {
    let block = |(number, bits): (usize, &mut [u8])| {
        vectorised(
            #[inline(always)]
            || {
                for (part, bits) in bits.chunks_mut(LANES).enumerate() {
                    let first = (number * BLOCK + part * LANES) as u64;
                    let counter = |lane: usize| first + lane as u64;
                    let counters = [
                        std::array::from_fn(|lane| counter(lane) as u32),
                        std::array::from_fn(|lane| (counter(lane) >> 32) as u32),
                        [0; LANES],
                        [0; LANES],
                    ];
                    let words = philox(counters, key);
                    let mut bytes = [0u8; LANES];
                    for (word, lanes) in words.iter().enumerate() {
                        for lane in 0..LANES {
                            let low = u8::from(lanes[lane] & 0xffff >= dropped);
                            let high = u8::from(lanes[lane] >> 16 >= dropped);
                            bytes[lane] |= (low | high << 1) << (2 * word);
                        }
                    }
                    bits.copy_from_slice(&bytes[..bits.len()]);
                }
            },
        );
    };
    let blocks = bits.len().div_ceil(BLOCK);
    if blocks > 1 && worth_threads(8 * bits.len()) {
        bits.par_chunks_mut(BLOCK).enumerate().for_each(block);
    } else {
        bits.chunks_mut(BLOCK).enumerate().for_each(block);
    }
}

/// `drop(x)` as a new vector.
pub fn masked(x: &[f32], mask: &Mask) -> Vec<f32> {
    let mut values = x.to_vec();
    apply(&mut values, mask);
    values
}

/// `x = drop(x)`.
///
/// # Panics
///
/// Where the mask is of another number of elements.
pub fn apply(x: &mut [f32], mask: &Mask) {
    assert_eq!(x.len(), mask.elements(), "elements of a mask");
    let factor = mask.factor();
    let block = |(x, bits): (&mut [f32], &[u8])| {
        vectorised(
            #[inline(always)]
            || {
                for (x, bits) in x.chunks_mut(8).zip(bits) {
                    for (place, x) in x.iter_mut().enumerate() {
                        *x = kept(*x * factor, *bits, place);
                    }
                }
            },
        );
    };
    if worth_threads(x.len()) {
        x.par_chunks_mut(8 * BLOCK)
            .zip(mask.bits().par_chunks(BLOCK))
            .for_each(block);
    } else {
        block((x, mask.bits()));
    }
}

/// The value where the bit is set, else 0, without a branch.
#[inline(always)]
fn kept(value: f32, bits: u8, place: usize) -> f32 {
    let set = u32::from(bits >> place & 1);
    f32::from_bits(value.to_bits() & set.wrapping_neg())
}

/// Philox4x32-10 of several counters at once; word by word, each with a lane for every counter.
#[inline(always)]
fn philox<const L: usize>(mut counters: [[u32; L]; 4], key: [u32; 2]) -> [[u32; L]; 4] {
    let [mut key_0, mut key_1] = key;
    for _ in 0..10 {
        let [c0, c1, c2, c3] = counters;
        for lane in 0..L {
            let left = u64::from(c0[lane]) * 0xd251_1f53;
            let right = u64::from(c2[lane]) * 0xcd9e_8d57;
            counters[0][lane] = (right >> 32) as u32 ^ c1[lane] ^ key_0;
            counters[1][lane] = right as u32;
            counters[2][lane] = (left >> 32) as u32 ^ c3[lane] ^ key_1;
            counters[3][lane] = left as u32;
        }
        key_0 = key_0.wrapping_add(0x9e37_79b9);
        key_1 = key_1.wrapping_add(0xbb67_ae85);
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their generator (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_known_answers() {
        let answer = |counter: [u32; 4], key| philox(counter.map(|word| [word]), key).map(|[w]| w);
        assert_eq!(
            answer([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            answer([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            answer(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn the_share_is_dropped_and_the_mean_stays() {
        let shape = [1000, 1001];
        let count = shape[0] * shape[1];
        for share in [0.0, 0.1, 0.5, 0.9] {
            let left = masked(&vec![1.0; count], &Mask::new(shape, share, [5, 6]));
            let dropped = left.iter().filter(|x| **x == 0.0).count() as f64 / count as f64;
            let mean = left.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
            // five standard errors of a million draws, and what rounding the share to 1/65536 adds
            let error = 5.0 * (share * (1.0 - share) / count as f64).sqrt() + 1e-5;
            assert!((dropped - share).abs() <= error, "{dropped} of {share}");
            assert!((mean - 1.0).abs() <= error / (1.0 - share), "{mean}");
        }
    }

    #[test]
    fn a_mask_follows_from_its_key_alone() {
        let on = |threads: usize, key| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a thread pool");
            pool.install(|| Mask::new([301, 257], 0.3, key).bits().to_vec())
        };
        let one = on(1, [1, 2]);
        assert_eq!(one, on(3, [1, 2]));
        assert_ne!(one, on(1, [1, 3]));
        assert_ne!(one, on(1, [2, 2]));
    }
}
