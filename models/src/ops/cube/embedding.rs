//! The embedding's gradient on GPUs: a cube for each row of the table adds up, in f32 and in the order of the batch, the
//! gradients of the places where its token stands. The places are sorted by token on the processor, which knows the tokens.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launching::launch;
use super::tensor::{array, cubes, dims, empty_like, from_integers, units};

/// Units that share a row of the table.
const UNITS_OF_ROW: usize = 128;

/// Places of a batch, sorted by token: those of token u are `places[starts[u]..starts[u + 1]]`, in the order of the batch.
struct Sorted {
    places: Vec<i32>,
    starts: Vec<i32>,
}

impl Sorted {
    fn new(tokens: &[u32], vocabulary: usize) -> Self {
        let mut starts = vec![0i32; vocabulary + 1];
        for &token in tokens {
            starts[token as usize + 1] += 1;
        }
        for token in 0..vocabulary {
            starts[token + 1] += starts[token];
        }
        let mut next = starts.clone();
        let mut places = vec![0i32; tokens.len()];
        for (place, &token) in tokens.iter().enumerate() {
            let next = &mut next[token as usize];
            places[*next as usize] = place as i32;
            *next += 1;
        }
        Self { places, starts }
    }
}

#[cube(launch)]
fn backward_kernel<F: Float>(
    gradient: &Array<F>,
    places: &Array<i32>,
    starts: &Array<i32>,
    d_table: &mut Array<F>,
    vocabulary: usize,
    width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let token = CUBE_POS;
    if token < vocabulary {
        let start = starts[token] as usize;
        let end = starts[token + 1] as usize;
        for column in range_stepped(UNIT_POS as usize, width, UNITS_OF_ROW) {
            let mut sum = 0.0f32;
            for number in start..end {
                sum += f32::cast_from(gradient[places[number] as usize * width + column]);
            }
            d_table[token * width + column] = F::cast_from(sum);
        }
    }
}

/// Gradient of the table `[v, d]` for gradients `[n, d]` of what tokens picked from it.
pub(super) fn backward<R: CubeRuntime>(
    tokens: &[u32],
    gradient: CubeTensor<R>,
    vocabulary: usize,
) -> CubeTensor<R> {
    let [_, width] = dims(&gradient);
    let Sorted { places, starts } = Sorted::new(tokens, vocabulary);
    let places = from_integers(&gradient, &places);
    let starts = from_integers(&gradient, &starts);
    let d_table = empty_like(&gradient, [vocabulary, width], gradient.dtype);
    let dtype = gradient.dtype.into();
    let arrays = [&gradient, &places, &starts, &d_table].map(array);
    launch(
        &gradient,
        arrays,
        move |client, [gradient, places, starts, d_table]| {
            backward_kernel::launch::<R>(
                client,
                cubes(vocabulary),
                units(UNITS_OF_ROW),
                gradient,
                places,
                starts,
                d_table,
                vocabulary,
                width,
                dtype,
            );
        },
    );
    d_table
}
