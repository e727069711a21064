//! Vectorised elementary functions and sums.
//!
//! Everything here is written so that a compiler can turn it into vector instructions, and so that its result does
//! not depend on which ones: no fused multiply-add, sums over a fixed number of lanes.

use rayon::prelude::*;

/// Lanes of a sum: four vectors of eight, enough to hide the latency of an addition.
pub const LANES: usize = 32;

/// Elements of a loop over exponentials before their sum is taken.
const PART: usize = 512;

/// Elements that are worth a second thread (some 20 µs of memory traffic).
const PARALLEL_ELEMENTS: usize = 1 << 15;

/// Runs a kernel compiled for the widest vectors that this machine has among those we compile for.
///
/// The kernel and all that it calls must be `#[inline(always)]`, else they stay compiled for the baseline.
#[inline(always)]
pub fn vectorised<R>(kernel: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn sixteen_lanes<R>(kernel: impl FnOnce() -> R) -> R {
            kernel()
        }
        #[target_feature(enable = "avx2")]
        fn eight_lanes<R>(kernel: impl FnOnce() -> R) -> R {
            kernel()
        }
        #[expect(
            unsafe_code,
            reason = "calls functions compiled for a detected instruction set"
        )]
        // SAFETY: each is called where the only feature that it requires has just been detected.
        unsafe {
            if std::is_x86_feature_detected!("avx512f") {
                return sixteen_lanes(kernel);
            }
            if std::is_x86_feature_detected!("avx2") {
                return eight_lanes(kernel);
            }
        }
    }
    kernel()
}

/// Whether an operation over so many elements is worth several threads.
pub fn worth_threads(elements: usize) -> bool {
    elements >= PARALLEL_ELEMENTS && rayon::current_num_threads() > 1
}

/// eˣ with a relative error below 2e-7 for x in [-87.3, 88.3]; beyond, the value at the nearer end; NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by its Taylor series to r⁷, whose remainder is 6e-9 there. ln 2 is
/// split in two so that n·(its first part) is exact.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves the nearest integer in the low bits
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.3 { 88.3 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let tail = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let tail = 1.0 / 120.0 + r * tail;
    let tail = 1.0 / 24.0 + r * tail;
    let tail = 1.0 / 6.0 + r * tail;
    let tail = 0.5 + r * tail;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    (1.0 + (r + r * r * tail)) * power
}

/// σ(x) = 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Σ a·b over slices of equal length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    total(sums)
}

/// Σ g·w·x over slices of equal length.
#[inline(always)]
pub fn dot3(g: &[f32], w: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (g_blocks, g_rest) = g.as_chunks::<LANES>();
    let (w_blocks, w_rest) = w.as_chunks::<LANES>();
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    for ((g, w), x) in g_blocks.iter().zip(w_blocks).zip(x_blocks) {
        for lane in 0..LANES {
            sums[lane] += g[lane] * w[lane] * x[lane];
        }
    }
    for (sum, ((g, w), x)) in sums.iter_mut().zip(g_rest.iter().zip(w_rest).zip(x_rest)) {
        *sum += g * w * x;
    }
    total(sums)
}

/// The largest element; NaN is passed over, -∞ for an empty slice.
#[inline(always)]
pub fn maximum(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], block[lane]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = larger(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Replaces each x by exp(x - shift) and returns their sum.
///
/// Exponentials and sums take turns: in one loop they took almost twice as long (too few registers).
#[inline(always)]
pub fn exponentials(x: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    for part in x.chunks_mut(PART) {
        for x in part.iter_mut() {
            *x = exp(*x - shift);
        }
        add(&mut sums, part);
    }
    total(sums)
}

/// Σ exp(x - shift).
#[inline(always)]
pub fn sum_of_exponentials(x: &[f32], shift: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut buffer = [0.0f32; PART];
    for x in x.chunks(PART) {
        let part = &mut buffer[..x.len()];
        for (part, x) in part.iter_mut().zip(x) {
            *part = exp(*x - shift);
        }
        add(&mut sums, part);
    }
    total(sums)
}

/// Adds a slice to the lanes; the remainder of a block goes to the first ones.
#[inline(always)]
fn add(sums: &mut [f32; LANES], x: &[f32]) {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = *sums;
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += block[lane];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    *sums = lanes;
}

/// Σ x² in f64.
#[inline(always)]
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let x = f64::from(block[lane]);
            sums[lane] += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(*x) * f64::from(*x);
    }
    sums.iter().sum()
}

/// Elements of an elementwise operation that a thread takes at a time.
pub const BLOCK: usize = 1 << 14;

/// `x += y`, elementwise over slices of equal length.
///
/// # Panics
///
/// Where they have not the same length.
pub fn add_to(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of a sum");
    let block = |(x, y): (&mut [f32], &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                for (x, y) in x.iter_mut().zip(y) {
                    *x += y;
                }
            },
        );
    };
    if worth_threads(x.len()) {
        x.par_chunks_mut(BLOCK)
            .zip(y.par_chunks(BLOCK))
            .for_each(block);
    } else {
        block((x, y));
    }
}

/// Multiplies every element.
#[inline(always)]
pub fn multiply(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place_of_the_exact_value() {
        let mut bits = 0u32;
        let mut worst = 0.0f64;
        while bits < u32::MAX - 5003 {
            bits += 5003;
            let x = f32::from_bits(bits);
            if (-87.3..=88.3).contains(&x) {
                let exact = f64::from(x).exp();
                worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
            }
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
    }

    #[test]
    fn exp_saturates_and_keeps_nan() {
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY) > 2e38);
        assert_eq!(exp(0.0), 1.0);
    }
}
