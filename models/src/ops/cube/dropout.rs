//! Dropout on GPUs: the same bits as on the CPU, from the same counters, never stored.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::tensor::{UNITS, array, cubes_of_elements, dims, empty_like, units};
use crate::ops::dropout::Mask;

/// What decides which elements of a layer's input stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    words: [u32; 2],
    dropped: u32,
    factor: f32,
}

impl From<&Mask> for Key {
    fn from(mask: &Mask) -> Self {
        Self {
            words: mask.key(),
            dropped: mask.dropped(),
            factor: mask.factor(),
        }
    }
}

/// Elements that one counter decides for.
const ELEMENTS_OF_COUNTER: usize = 8;

/// Philox4x32-10 of a counter whose two upper words are zero: each word decides for two elements.
#[cube]
fn philox(low: u32, high: u32, key_low: u32, key_high: u32) -> (u32, u32, u32, u32) {
    let mut c0 = low;
    let mut c1 = high;
    let mut c2 = 0u32;
    let mut c3 = 0u32;
    let mut k0 = key_low;
    let mut k1 = key_high;
    #[unroll]
    for _ in 0..10 {
        let left_high = u32::mul_hi(c0, 0xd251_1f53u32);
        let left_low = c0 * 0xd251_1f53u32;
        let right_high = u32::mul_hi(c2, 0xcd9e_8d57u32);
        let right_low = c2 * 0xcd9e_8d57u32;
        c0 = right_high ^ c1 ^ k0;
        c1 = right_low;
        c2 = left_high ^ c3 ^ k1;
        c3 = left_low;
        k0 += 0x9e37_79b9u32;
        k1 += 0xbb67_ae85u32;
    }
    (c0, c1, c2, c3)
}

/// 1 or 0 as a word of a counter decides for the first (`half` 0) or second (16) of its two elements.
#[cube]
fn kept(word: u32, half: u32, dropped: u32) -> f32 {
    let share = (word >> half) & 0xffffu32;
    select(share >= dropped, 1.0f32, 0.0f32)
}

/// The four words of a counter by number.
#[cube]
fn word_of(words: (u32, u32, u32, u32), #[comptime] number: usize) -> u32 {
    if comptime!(number == 0) {
        words.0
    } else if comptime!(number == 1) {
        words.1
    } else if comptime!(number == 2) {
        words.2
    } else {
        words.3
    }
}

/// The keys of up to three layers as scalars.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Keys {
    low_0: u32,
    high_0: u32,
    low_1: u32,
    high_1: u32,
    low_2: u32,
    high_2: u32,
    dropped: u32,
    factor: f32,
}

/// The key of a layer that is known when the kernel runs.
#[cube]
fn key_of(keys: &Keys, layer: usize) -> (u32, u32) {
    let low = select(
        layer == 0,
        keys.low_0,
        select(layer == 1, keys.low_1, keys.low_2),
    );
    let high = select(
        layer == 0,
        keys.high_0,
        select(layer == 1, keys.high_1, keys.high_2),
    );
    (low, high)
}

/// The keys as scalars; `scale` goes with the factor by which what stays grows.
fn arguments<R: Runtime>(keys: &[Key], scale: f32) -> KeysLaunch<R> {
    let word = |layer: usize, word: usize| keys.get(layer).map_or(0, |key| key.words[word]);
    let (dropped, factor) = keys
        .first()
        .map_or((0, 1.0), |key| (key.dropped, key.factor));
    KeysLaunch::new(
        word(0, 0),
        word(0, 1),
        word(1, 0),
        word(1, 1),
        word(2, 0),
        word(2, 1),
        dropped,
        factor * scale,
    )
}

#[cube(launch)]
fn dropped_kernel<F: Float>(
    x: &Array<F>,
    output: &mut Array<F>,
    keys: &Keys,
    elements: usize,
    counters: usize,
    layers: usize,
    #[define(F)] _dtype: StorageType,
) {
    let counter = ABSOLUTE_POS % counters;
    let layer = ABSOLUTE_POS / counters;
    if layer < layers {
        let (low, high) = key_of(keys, layer);
        // A mask has fewer than 2^35 elements: the upper word of its counters is zero.
        let words = philox(counter as u32, 0u32, low, high);
        let first = counter * ELEMENTS_OF_COUNTER;
        #[unroll]
        for number in 0..ELEMENTS_OF_COUNTER {
            let place = first + number;
            if place < elements {
                let word = word_of(words, comptime!(number / 2));
                let keep = kept(word, comptime!((number % 2 * 16) as u32), keys.dropped);
                let value = f32::cast_from(x[place]) * keys.factor * keep;
                output[layer * elements + place] = F::cast_from(value);
            }
        }
    }
}

/// `scale·drop(x)` of each layer, for x `[n, i]`: `[layers, n, i]`.
pub(super) fn dropped<R: CubeRuntime>(
    x: &CubeTensor<R>,
    keys: &[Key],
    scale: f32,
) -> CubeTensor<R> {
    let [rows, inputs] = dims(x);
    let elements = rows * inputs;
    let counters = elements.div_ceil(ELEMENTS_OF_COUNTER);
    let output = empty_like(x, [keys.len(), rows, inputs], x.dtype);
    let (layers, dtype) = (keys.len(), x.dtype.into());
    let arguments = (array(x), array(&output), arguments(keys, scale));
    launch(x, arguments, move |client, (x, output, keys)| {
        dropped_kernel::launch::<R>(
            client,
            cubes_of_elements(layers * counters),
            units(UNITS),
            x,
            output,
            keys,
            elements,
            counters,
            layers,
            dtype,
        );
    });
    output
}

#[cube(launch)]
fn masked_kernel<F: Float>(
    sum: &mut Array<F>,
    planes: &Array<F>,
    keys: &Keys,
    elements: usize,
    counters: usize,
    #[comptime] layers: usize,
    #[comptime] masks: bool,
    #[comptime] adds: bool,
    #[define(F)] _dtype: StorageType,
) {
    let counter = ABSOLUTE_POS;
    if counter < counters {
        let first = counter * ELEMENTS_OF_COUNTER;
        let mut sums = Array::<f32>::new(ELEMENTS_OF_COUNTER);
        #[unroll]
        for number in 0..ELEMENTS_OF_COUNTER {
            sums[number] = 0.0f32;
        }
        #[unroll]
        for layer in 0..layers {
            if masks {
                let (low, high) = key_of(keys, layer.runtime());
                let words = philox(counter as u32, 0u32, low, high);
                #[unroll]
                for number in 0..ELEMENTS_OF_COUNTER {
                    let place = first + number;
                    if place < elements {
                        let word = word_of(words, comptime!(number / 2));
                        let keep = kept(word, comptime!((number % 2 * 16) as u32), keys.dropped);
                        let value = f32::cast_from(planes[layer * elements + place]);
                        sums[number] += value * keys.factor * keep;
                    }
                }
            } else {
                #[unroll]
                for number in 0..ELEMENTS_OF_COUNTER {
                    let place = first + number;
                    if place < elements {
                        sums[number] +=
                            f32::cast_from(planes[layer * elements + place]) * keys.factor;
                    }
                }
            }
        }
        #[unroll]
        for number in 0..ELEMENTS_OF_COUNTER {
            let place = first + number;
            if place < elements {
                if adds {
                    sum[place] = F::cast_from(f32::cast_from(sum[place]) + sums[number]);
                } else {
                    sum[place] = F::cast_from(sums[number]);
                }
            }
        }
    }
}

/// `sum + Σ scale·drop(planes)`, in place, for a sum `[n, i]` and planes `[layers, n, i]`; without keys all of them stay.
pub(super) fn masked<R: CubeRuntime>(
    sum: Option<CubeTensor<R>>,
    planes: CubeTensor<R>,
    keys: &[Key],
    scale: f32,
) -> CubeTensor<R> {
    let [layers, rows, inputs] = dims(&planes);
    let elements = rows * inputs;
    let counters = elements.div_ceil(ELEMENTS_OF_COUNTER);
    let dtype = planes.dtype;
    let adds = sum.is_some();
    let sum = sum.unwrap_or_else(|| empty_like(&planes, [rows, inputs], dtype));
    let (masks, dtype) = (!keys.is_empty(), dtype.into());
    let arguments = (array(&sum), array(&planes), arguments(keys, scale));
    launch(&sum, arguments, move |client, (sum, planes, keys)| {
        masked_kernel::launch::<R>(
            client,
            cubes_of_elements(counters),
            units(UNITS),
            sum,
            planes,
            keys,
            elements,
            counters,
            layers,
            masks,
            adds,
            dtype,
        );
    });
    sum
}
