//! Order statistics of magnitudes on GPUs: a radix select. The bits of a magnitude are in the order of the magnitudes, so its
//! digits are found one after the other from the highest on, each by counting how many elements that begin with the digits
//! found so far have which next digit. Only counts leave the device, so a tensor may be of any size.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::{launch, send_gathered};
use super::tensor::{UNITS, array, units};
use crate::fault::DeviceFault;

/// Bits of a digit.
const DIGIT_BITS: u32 = 8;

/// Values of a digit.
const DIGITS: usize = 1 << DIGIT_BITS;

/// Rounds until all 32 bits are known.
const ROUNDS: u32 = 32 / DIGIT_BITS;

/// Cubes of a count; each has counters of its own, so that few units meet at one.
const MOST_CUBES: usize = 64;

/// Counts the digits that begin at bit `shift` among the elements whose higher bits are `prefix`.
///
/// Counters are added to in any order: their sums are integers.
#[cube(launch)]
fn count_kernel<F: Float>(
    x: &Array<F>,
    counts: &mut Array<Atomic<u32>>,
    prefix: u32,
    shift: u32,
    #[comptime] is_first: bool,
    #[define(F)] _dtype: StorageType,
) {
    let first = CUBE_POS_X as usize * UNITS + UNIT_POS as usize;
    for place in range_stepped(first, x.len(), CUBE_COUNT_X as usize * UNITS) {
        let bits = u32::reinterpret(f32::cast_from(x[place])) & 0x7fff_ffffu32;
        let mut is_counted = true;
        if !is_first {
            is_counted = bits >> (shift + DIGIT_BITS) == prefix;
        }
        if is_counted {
            let digit = (bits >> shift) & 0xffu32;
            counts[CUBE_POS_X as usize * DIGITS + digit as usize].fetch_add(1u32);
        }
    }
}

/// How many elements that begin with `prefix` have which digit at `shift`.
fn counts<R: CubeRuntime>(
    x: &CubeTensor<R>,
    prefix: u32,
    shift: u32,
) -> Result<Vec<u64>, DeviceFault> {
    let client = &x.client;
    let elements = x.meta.num_elements();
    let cubes = elements.div_ceil(UNITS).clamp(1, MOST_CUBES);
    let zeros = vec![0u32; cubes * DIGITS];
    send_gathered();
    let counters = client.create_from_slice(u32::as_bytes(&zeros));
    let shape = burn::tensor::Shape::from([zeros.len()]);
    let tensor = CubeTensor::new_contiguous(
        client.clone(),
        x.device.clone(),
        shape,
        counters.clone(),
        burn::tensor::DType::U32,
    );
    let (is_first, dtype) = (shift + DIGIT_BITS == 32, x.dtype.into());
    launch(x, [x, &tensor].map(array), move |client, [x, counts]| {
        let (cubes, units) = (CubeCount::Static(cubes as u32, 1, 1), units(UNITS));
        count_kernel::launch::<R>(
            client, cubes, units, x, counts, prefix, shift, is_first, dtype,
        );
    });
    send_gathered();
    let bytes = client
        .read_one(counters)
        .map_err(|error| DeviceFault::new(&format!("{error:?}")))?;
    let mut sums = vec![0u64; DIGITS];
    for (place, count) in u32::from_bytes(&bytes).iter().enumerate() {
        sums[place % DIGITS] += u64::from(*count);
    }
    Ok(sums)
}

/// The magnitude at a place of the ascending order of all magnitudes, and how many are not above it.
fn at_rank<R: CubeRuntime>(x: &CubeTensor<R>, rank: u64) -> Result<(u32, u64), DeviceFault> {
    let (mut prefix, mut below) = (0u32, 0u64);
    let mut up_to_here = 0;
    for round in 1..=ROUNDS {
        let counts = counts(x, prefix, 32 - round * DIGIT_BITS)?;
        let mut digit = 0;
        while digit + 1 < DIGITS && below + counts[digit] <= rank {
            below += counts[digit];
            digit += 1;
        }
        up_to_here = below + counts[digit];
        prefix = prefix << DIGIT_BITS | digit as u32;
    }
    Ok((prefix, up_to_here))
}

/// The magnitudes at two neighbouring places of their ascending order.
pub(super) fn at_ranks<R: CubeRuntime>(
    x: &CubeTensor<R>,
    [below, above]: [usize; 2],
) -> Result<[f32; 2], DeviceFault> {
    let (a, not_above) = at_rank(x, below as u64)?;
    let b = if above as u64 >= not_above {
        at_rank(x, above as u64)?.0
    } else {
        a
    };
    Ok([f32::from_bits(a), f32::from_bits(b)])
}
