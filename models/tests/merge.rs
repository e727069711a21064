//! The property that a merge is for: it leaves the output unchanged. (The official code's own layers and merges are
//! replayed by `tests/golden.rs`.)

mod common;

use burn::tensor::TensorData;
use common::Matrix;
use models::ops::low_rank_linear::Layer;
use models::{merge, ops};
use proptest::prelude::*;

fn matrix(values: Vec<f32>, rows: usize) -> Matrix {
    let columns = values.len() / rows;
    Matrix::from_data(
        TensorData::new(values, [rows, columns]),
        &Default::default(),
    )
}

fn values(matrix: Matrix) -> Vec<f32> {
    matrix.into_data().into_vec().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merge_leaves_the_output_unchanged(
        (rows, inputs, outputs, rank) in (1usize..9, 1usize..33, 1usize..33, 1usize..9),
        scale in 0.01f32..20.0,
        seed in prop::collection::vec(-1.0f32..1.0, 97),
    ) {
        // values in ±1 from the drawn ones, a different stretch for each matrix
        let fill = |count: usize, offset: usize| {
            (0..count).map(|index| seed[(index * 31 + offset) % 97]).collect::<Vec<_>>()
        };
        let x = matrix(fill(rows * inputs, 1), rows);
        let weight = matrix(fill(outputs * inputs, 17), outputs);
        let a = matrix(fill(rank * inputs, 41), rank);
        let b = matrix(fill(outputs * rank, 73), outputs);

        let layer = Layer { weight: Some(weight.clone()), a: a.clone(), b: b.clone(), mask: None };
        let before = values(ops::low_rank_linear(x.clone(), vec![layer], scale));
        let after = values(ops::linear(x, vec![merge(weight, a, b, matrix(vec![scale], 1))]));

        // Every term is at most 1 + scale·rank, and up to inputs·rank of them are rounded in either order.
        let bound = 4.0 * f32::EPSILON * (inputs * (rank + 1)) as f32 * (1.0 + scale * rank as f32);
        for (before, after) in before.iter().zip(&after) {
            prop_assert!((before - after).abs() <= bound, "{before} became {after}, more than {bound} apart");
        }
    }
}
