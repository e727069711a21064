//! Elementwise passes over many tensors at a time, one launch for a group of them: what an optimizer does with all
//! parameters. A launch for each tensor would cost the processor more than the pass costs the device.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::reduce::sum_of_units;
use super::tensor::{UNITS, array, cubes, empty_like, own, units};
use crate::ops::AdamStep;

/// Most tensors of each kind that one launch takes, where the device can have so many arguments.
const GROUP: usize = 32;

/// Arguments of a launch that are not tensors of a group: what a kernel has beside them, and its scalars.
const OTHER_ARGUMENTS: usize = 2;

/// Most cubes for one tensor; each goes on over what is left of it.
const MOST_CUBES: usize = 4096;

/// Cubes for one tensor of a sum of squares, and so partial sums of each.
const PARTS: usize = 64;

/// Cubes for a group of tensors: along y one row of cubes for each tensor.
fn cubes_of_group(longest: usize, tensors: usize) -> CubeCount {
    let across = longest.div_ceil(UNITS).clamp(1, MOST_CUBES);
    CubeCount::Static(across as u32, tensors as u32, 1)
}

/// Numbers of tensors in groups of one type and like length: a short tensor beside a long one would get cubes with nothing to
/// do. `kinds` is how many arrays a launch has for each.
fn groups<R: CubeRuntime>(tensors: &[CubeTensor<R>], kinds: usize) -> Vec<Vec<usize>> {
    let Some(first) = tensors.first() else {
        return Vec::new();
    };
    let arguments = first.client.properties().hardware.max_bindings as usize;
    let most = (arguments.saturating_sub(OTHER_ARGUMENTS) / kinds).clamp(1, GROUP);
    let key = |number: &usize| {
        let tensor = &tensors[*number];
        (
            tensor.dtype.size(),
            std::cmp::Reverse(tensor.meta.num_elements()),
        )
    };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(key);
    let of_one_type = order.chunk_by(|a, b| key(a).0 == key(b).0);
    of_one_type
        .flat_map(|numbers| numbers.chunks(most))
        .map(<[usize]>::to_vec)
        .collect()
}

fn longest<R: CubeRuntime>(tensors: &[CubeTensor<R>], group: &[usize]) -> usize {
    let lengths = group
        .iter()
        .map(|&number| tensors[number].meta.num_elements());
    lengths.max().unwrap_or(0)
}

fn arguments<R: CubeRuntime, E: CubePrimitive>(
    tensors: &[CubeTensor<R>],
    group: &[usize],
) -> SequenceArg<R, Array<E>> {
    group
        .iter()
        .map(|&number| array(&tensors[number]))
        .collect()
}

/// The first place of a unit in its row of cubes.
#[cube]
fn first_place() -> usize {
    CUBE_POS_X as usize * UNITS + UNIT_POS as usize
}

/// Units of a row of cubes.
#[cube]
fn places_across() -> usize {
    CUBE_COUNT_X as usize * UNITS
}

#[cube]
fn add<S: Float, A: Float>(sum: &mut Array<S>, addend: &Array<A>) {
    for place in range_stepped(first_place(), sum.len(), places_across()) {
        let value = f32::cast_from(sum[place]) + f32::cast_from(addend[place]);
        sum[place] = S::cast_from(value);
    }
}

#[cube(launch)]
fn add_kernel<S: Float, A: Float>(
    sums: &mut Sequence<Array<S>>,
    addends: &Sequence<Array<A>>,
    #[define(S, A)] _dtypes: [StorageType; 2],
) {
    let count = addends.len().comptime();
    #[unroll]
    for number in 0..count {
        if CUBE_POS_Y as usize == number {
            add::<S, A>(sums.index_mut(number), addends.index(number));
        }
    }
}

#[cube]
fn put<S: Float, A: Float>(
    sum: &mut Array<S>,
    before: &Sequence<Array<S>>,
    addend: &Array<A>,
    #[comptime] number: usize,
) {
    let held = before.len().comptime();
    for place in range_stepped(first_place(), sum.len(), places_across()) {
        let mut value = f32::cast_from(addend[place]);
        // A sequence of none where the sum begins here.
        if comptime!(held != 0) {
            value += f32::cast_from(before.index(number)[place]);
        }
        sum[place] = S::cast_from(value);
    }
}

#[cube(launch)]
fn put_kernel<S: Float, A: Float>(
    sums: &mut Sequence<Array<S>>,
    before: &Sequence<Array<S>>,
    addends: &Sequence<Array<A>>,
    #[define(S, A)] _dtypes: [StorageType; 2],
) {
    let count = addends.len().comptime();
    #[unroll]
    for number in 0..count {
        if CUBE_POS_Y as usize == number {
            put::<S, A>(
                sums.index_mut(number),
                before,
                addends.index(number),
                number,
            );
        }
    }
}

/// `sum + addend` of tensors of one shape, in place where nothing else holds the sum.
pub(super) fn add_to<R: CubeRuntime>(sum: CubeTensor<R>, addend: CubeTensor<R>) -> CubeTensor<R> {
    let dtype = sum.dtype;
    accumulate(vec![Some(sum)], vec![addend], dtype).remove(0)
}

/// Sums and addends of one kind, each with its number among all.
struct Sums<R: CubeRuntime> {
    numbers: Vec<usize>,
    sums: Vec<CubeTensor<R>>,
    addends: Vec<CubeTensor<R>>,
}

impl<R: CubeRuntime> Sums<R> {
    fn none() -> Self {
        Self {
            numbers: Vec::new(),
            sums: Vec::new(),
            addends: Vec::new(),
        }
    }

    fn push(&mut self, number: usize, sum: Option<CubeTensor<R>>, addend: CubeTensor<R>) {
        self.numbers.push(number);
        self.sums.extend(sum);
        self.addends.push(addend);
    }

    /// `sum ← sum + addend`.
    fn add_in_place(self) -> Vec<CubeTensor<R>> {
        let Self { sums, addends, .. } = self;
        for group in groups(&addends, 2) {
            let first = group[0];
            let cubes = cubes_of_group(longest(&addends, &group), group.len());
            let dtypes = [sums[first].dtype.into(), addends[first].dtype.into()];
            let arguments = (arguments(&sums, &group), arguments(&addends, &group));
            launch(
                &addends[first],
                arguments,
                move |client, (sums, addends)| {
                    add_kernel::launch::<R>(client, cubes, units(UNITS), sums, addends, dtypes);
                },
            );
        }
        sums
    }

    /// `sum + addend`, or the addend where there are no sums, in tensors of their own.
    fn added(self, dtype: DType) -> Vec<CubeTensor<R>> {
        let Self { sums, addends, .. } = self;
        let empty = |addend: &CubeTensor<R>| empty_like(addend, addend.meta.shape().clone(), dtype);
        let outputs: Vec<CubeTensor<R>> = addends.iter().map(empty).collect();
        for group in groups(&addends, 3) {
            let first = group[0];
            let before = if sums.is_empty() {
                SequenceArg::new()
            } else {
                arguments(&sums, &group)
            };
            let cubes = cubes_of_group(longest(&addends, &group), group.len());
            let dtypes = [dtype.into(), addends[first].dtype.into()];
            let addend = &addends[first];
            let (outputs, addends) = (arguments(&outputs, &group), arguments(&addends, &group));
            launch(
                addend,
                (outputs, before, addends),
                move |client, (sums, before, addends)| {
                    let units = units(UNITS);
                    put_kernel::launch::<R>(client, cubes, units, sums, before, addends, dtypes);
                },
            );
        }
        outputs
    }
}

/// Each sum with its addend, all sums in type `dtype` and in place where nothing else holds them; a sum that is not there yet
/// begins as the addend.
pub(super) fn accumulate<R: CubeRuntime>(
    sums: Vec<Option<CubeTensor<R>>>,
    addends: Vec<CubeTensor<R>>,
    dtype: DType,
) -> Vec<CubeTensor<R>> {
    let mut results: Vec<Option<CubeTensor<R>>> = vec![None; addends.len()];
    let [mut in_place, mut beside, mut anew] = [(); 3].map(|()| Sums::none());
    for (number, (sum, addend)) in sums.into_iter().zip(addends).enumerate() {
        match sum {
            Some(sum) if sum.can_mut() => in_place.push(number, Some(sum), addend),
            // A part of something larger, as the gradients of layers that were computed together are.
            Some(sum) => beside.push(number, Some(sum), addend),
            None if addend.dtype == dtype => results[number] = Some(addend),
            None => anew.push(number, None, addend),
        }
    }
    let numbers = [&in_place, &beside, &anew].map(|kind| kind.numbers.clone());
    let done = [
        in_place.add_in_place(),
        beside.added(dtype),
        anew.added(dtype),
    ];
    for (numbers, sums) in numbers.into_iter().zip(done) {
        for (number, sum) in numbers.into_iter().zip(sums) {
            results[number] = Some(sum);
        }
    }
    results.into_iter().flatten().collect()
}

#[cube]
fn squares<F: Float>(values: &Array<F>, parts: &mut Array<f32>, tensor: usize) {
    let mut sum = 0.0f32;
    for place in range_stepped(first_place(), values.len(), places_across()) {
        let value = f32::cast_from(values[place]);
        sum += value * value;
    }
    let sum = sum_of_units(sum, UNITS);
    if UNIT_POS == 0 {
        parts[tensor * PARTS + CUBE_POS_X as usize] = sum;
    }
}

#[cube(launch)]
fn squares_kernel<F: Float>(
    tensors: &Sequence<Array<F>>,
    numbers: &Sequence<usize>,
    parts: &mut Array<f32>,
    #[define(F)] _dtype: StorageType,
) {
    let count = tensors.len().comptime();
    #[unroll]
    for number in 0..count {
        if CUBE_POS_Y as usize == number {
            squares::<F>(tensors.index(number), parts, *numbers.index(number));
        }
    }
}

#[cube(launch)]
fn sum_parts_kernel(parts: &Array<f32>, sums: &mut Array<f32>) {
    let tensor = ABSOLUTE_POS;
    if tensor < sums.len() {
        let mut sum = 0.0f32;
        for part in 0..PARTS {
            sum += parts[tensor * PARTS + part];
        }
        sums[tensor] = sum;
    }
}

/// The sum of the squares of each tensor's elements, in f32: `[count]`.
pub(super) fn sums_of_squares<R: CubeRuntime>(tensors: Vec<CubeTensor<R>>) -> CubeTensor<R> {
    let parts = empty_like(&tensors[0], [tensors.len() * PARTS], DType::F32);
    let sums = empty_like(&tensors[0], [tensors.len()], DType::F32);
    for group in groups(&tensors, 1) {
        let cubes = CubeCount::Static(PARTS as u32, group.len() as u32, 1);
        let dtype = tensors[group[0]].dtype.into();
        let numbers = group.iter().copied().collect();
        let arguments = (arguments(&tensors, &group), numbers, array(&parts));
        launch(
            &sums,
            arguments,
            move |client, (tensors, numbers, parts)| {
                squares_kernel::launch::<R>(
                    client,
                    cubes,
                    units(UNITS),
                    tensors,
                    numbers,
                    parts,
                    dtype,
                );
            },
        );
    }
    let cubes = cubes(tensors.len().div_ceil(UNITS));
    launch(
        &sums,
        [&parts, &sums].map(array),
        move |client, [parts, sums]| {
            sum_parts_kernel::launch::<R>(client, cubes, units(UNITS), parts, sums);
        },
    );
    sums
}

/// The numbers of an update on the device, in f32.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Step {
    gradient_scale: f32,
    beta1: f32,
    /// 1 - β₁, rounded once.
    rest1: f32,
    beta2: f32,
    /// 1 - β₂, rounded once.
    rest2: f32,
    inverse_correction: f32,
    epsilon: f32,
    step_size: f32,
    decay: f32,
}

/// The parameters of an update, all kinds in the same order.
pub(super) struct Parameters<R: CubeRuntime> {
    /// Values that the update works on.
    pub full: Vec<CubeTensor<R>>,
    /// What the network computes with, where that is not the same; empty else.
    pub copies: Vec<CubeTensor<R>>,
    pub first: Vec<CubeTensor<R>>,
    pub second: Vec<CubeTensor<R>>,
}

#[cube]
fn update<V: Float, G: Float>(
    full: &mut Array<V>,
    gradient: &Array<G>,
    first: &mut Array<V>,
    second: &mut Array<V>,
    step: &Step,
) {
    for place in range_stepped(first_place(), full.len(), places_across()) {
        let g = f32::cast_from(gradient[place]) * step.gradient_scale;
        let m = step.beta1 * f32::cast_from(first[place]) + step.rest1 * g;
        let v = step.beta2 * f32::cast_from(second[place]) + step.rest2 * g * g;
        let change = step.step_size * m / (f32::sqrt(v) * step.inverse_correction + step.epsilon);
        first[place] = V::cast_from(m);
        second[place] = V::cast_from(v);
        full[place] = V::cast_from(f32::cast_from(full[place]) * step.decay - change);
    }
}

#[cube]
fn copy_rounded<V: Float, C: Float>(full: &Array<V>, copy: &mut Array<C>) {
    for place in range_stepped(first_place(), full.len(), places_across()) {
        copy[place] = C::cast_from(f32::cast_from(full[place]));
    }
}

#[cube(launch)]
fn adamw_kernel<V: Float, G: Float, C: Float>(
    full: &mut Sequence<Array<V>>,
    gradients: &Sequence<Array<G>>,
    first: &mut Sequence<Array<V>>,
    second: &mut Sequence<Array<V>>,
    copies: &mut Sequence<Array<C>>,
    step: &Step,
    #[comptime] has_copies: bool,
    #[define(V, G, C)] _dtypes: [StorageType; 3],
) {
    let count = gradients.len().comptime();
    #[unroll]
    for number in 0..count {
        if CUBE_POS_Y as usize == number {
            update::<V, G>(
                full.index_mut(number),
                gradients.index(number),
                first.index_mut(number),
                second.index_mut(number),
                step,
            );
            if has_copies {
                // Each unit reads the places that it has written itself.
                copy_rounded::<V, C>(full.index(number), copies.index_mut(number));
            }
        }
    }
}

/// One AdamW update of all parameters, in place where nothing else holds them.
pub(super) fn adamw<R: CubeRuntime>(
    parameters: Parameters<R>,
    gradients: Vec<CubeTensor<R>>,
    step: &AdamStep,
) -> Parameters<R> {
    let owned = |tensors: Vec<CubeTensor<R>>| tensors.into_iter().map(own).collect::<Vec<_>>();
    let parameters = Parameters {
        full: owned(parameters.full),
        copies: owned(parameters.copies),
        first: owned(parameters.first),
        second: owned(parameters.second),
    };
    let has_copies = !parameters.copies.is_empty();
    let kinds = 4 + usize::from(has_copies);
    for group in groups(&gradients, kinds) {
        let first = group[0];
        let full_type = parameters.full[first].dtype;
        let copy_type = parameters
            .copies
            .get(first)
            .map_or(full_type, |copy| copy.dtype);
        let copies = if has_copies {
            arguments(&parameters.copies, &group)
        } else {
            SequenceArg::new()
        };
        let cubes = cubes_of_group(longest(&gradients, &group), group.len());
        let dtypes = [full_type, gradients[first].dtype, copy_type].map(Into::into);
        let arguments = (
            arguments(&parameters.full, &group),
            arguments(&gradients, &group),
            arguments(&parameters.first, &group),
            arguments(&parameters.second, &group),
            copies,
            launched(step),
        );
        launch(
            &gradients[first],
            arguments,
            move |client, (full, gradients, first, second, copies, step)| {
                adamw_kernel::launch::<R>(
                    client,
                    cubes,
                    units(UNITS),
                    full,
                    gradients,
                    first,
                    second,
                    copies,
                    step,
                    has_copies,
                    dtypes,
                );
            },
        );
    }
    parameters
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the device computes in f32"
)]
fn launched<R: Runtime>(step: &AdamStep) -> StepLaunch<R> {
    StepLaunch::new(
        step.gradient_scale as f32,
        step.beta1 as f32,
        (1.0 - step.beta1) as f32,
        step.beta2 as f32,
        (1.0 - step.beta2) as f32,
        step.inverse_second_correction() as f32,
        step.epsilon as f32,
        step.step_size() as f32,
        step.decay() as f32,
    )
}
