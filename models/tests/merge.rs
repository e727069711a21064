//! The low-rank layer and its merge against the official code's (`merge.json`, `merge.safetensors`), and the property
//! that a merge is for: it leaves the output unchanged.

mod common;

use burn::tensor::TensorData;
use common::{Matrix, floats, golden, golden_json, relative_difference};
use models::{merge, ops};
use proptest::prelude::*;
use safetensors::SafeTensors;

/// Products of at most 24 terms of order one in another order of summation: 2e-6 of the largest element is 16
/// roundings of f32.
const TOLERANCE: f32 = 2e-6;

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

#[test]
fn forward_and_merge_are_those_of_the_official_code() {
    let bytes = golden("merge.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let golden = golden_json("merge.json");
    let mut merges = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = format!("case{}", case["case"]);
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let (outputs, rank) = (size("out_features"), size("r"));
        // x is [3, 4, in]
        let x = matrix(floats(&tensors, &format!("{name}.x")), 12);
        let mut weight = matrix(floats(&tensors, &format!("{name}.W0")), outputs);
        // Our layers have no bias; where the official one has, it is taken off its outputs.
        let has_bias = case["bias"].as_bool().unwrap();
        let bias = if has_bias {
            floats(&tensors, &format!("{name}.bias"))
        } else {
            vec![0.0; outputs]
        };
        let expected_output = |key: &str| {
            let mut output = floats(&tensors, key);
            for row in output.chunks_mut(outputs) {
                row.iter_mut()
                    .zip(&bias)
                    .for_each(|(output, bias)| *output -= bias);
            }
            output
        };
        for (number, golden_merge) in case["merges"].as_array().unwrap().iter().enumerate() {
            let key = |part: &str| format!("{name}.m{number}.{part}");
            let a = matrix(floats(&tensors, &key("A")), rank);
            let b = matrix(floats(&tensors, &key("B")), outputs);
            let scale = golden_merge["effective_scale"].as_f64().unwrap() as f32;

            let before =
                ops::low_rank_linear(x.clone(), Some(weight.clone()), a.clone(), b.clone(), scale);
            weight = merge(weight, a, b, matrix(vec![scale], 1));
            let after = ops::linear(x.clone(), weight.clone());

            for (what, ours, expected) in [
                (
                    "y before",
                    values(before),
                    expected_output(&key("y_before")),
                ),
                (
                    "W after",
                    values(weight.clone()),
                    floats(&tensors, &key("W_after")),
                ),
                ("y after", values(after), expected_output(&key("y_after"))),
            ] {
                let difference = relative_difference(&ours, &expected);
                assert!(
                    difference <= TOLERANCE,
                    "{name} merge {number}: {what} differs by {difference}"
                );
            }
            // what the official code leaves of B
            assert!(
                floats(&tensors, &key("B_after"))
                    .iter()
                    .all(|value| *value == 0.0)
            );
            merges += 1;
        }
    }
    assert_eq!(merges, 10, "all of the golden file's merges");
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

        let before = values(ops::low_rank_linear(x.clone(), Some(weight.clone()), a.clone(), b.clone(), scale));
        let after = values(ops::linear(x, merge(weight, a, b, matrix(vec![scale], 1))));

        // Every term is at most 1 + scale·rank, and up to inputs·rank of them are rounded in either order.
        let bound = 4.0 * f32::EPSILON * (inputs * (rank + 1)) as f32 * (1.0 + scale * rank as f32);
        for (before, after) in before.iter().zip(&after) {
            prop_assert!((before - after).abs() <= bound, "{before} became {after}, more than {bound} apart");
        }
    }
}
