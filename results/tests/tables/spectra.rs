//! Spectra written by hand and read back: cells, bins, panels and printed rows that a pencil can check.

use crate::suite::Suite;
use results::frame::Runs;
use results::render::{About, json, spectra, write_all};
use serde_json::{Value, json};
use std::fs;

/// An update of `q_proj` as a line of `spectra.jsonl`.
fn update(from_step: u64, layer: u64, singular_values: [f64; 4]) -> Value {
    json!({
        "quantity": "update", "from_step": from_step, "step": 42, "layer": layer, "matrix": "q_proj",
        "singular_values": singular_values, "rank_bound": null, "output_angles": null, "input_angles": null,
    })
}

/// A product of rank 1 of `q_proj` in block 0.
fn product(steps: [u64; 2], singular_value: f64, angles: [Value; 2]) -> Value {
    let [output_angles, input_angles] = angles;
    json!({
        "quantity": "product", "from_step": steps[0], "step": steps[1], "layer": 0, "matrix": "q_proj",
        "singular_values": [singular_value], "rank_bound": 1, "output_angles": output_angles,
        "input_angles": input_angles,
    })
}

/// Three seeds of full rank, of which the second has another start than the others, and one of ReLoRA.
fn taken() -> Suite {
    let suite = Suite::new();
    let run = |method: &str, seed, lines: &[Value]| {
        suite.complete("micro", method, seed, 4.5);
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        suite.file(
            &format!("micro-{method}-seed{seed}"),
            "spectra.jsonl",
            &lines,
        );
    };
    run(
        "full",
        0,
        &[
            update(10, 0, [4.0, 3.0, 0.0, 0.0]),
            update(10, 1, [2.0, 1.02, 3e-5, 1e-5]),
        ],
    );
    run(
        "full",
        1,
        &[update(0, 0, [0.05; 4]), update(0, 1, [0.05; 4])],
    );
    run(
        "full",
        2,
        &[
            update(10, 0, [1.02, 1.02, 0.0, 0.0]),
            update(10, 1, [1.02; 4]),
        ],
    );
    let mut of_relora = update(10, 0, [1.02, 1.02, 0.0, 0.0]);
    of_relora["rank_bound"] = 2.into();
    let angles = |smallest: f64, mean: f64| json!({ "smallest": smallest, "mean": mean });
    run(
        "relora",
        0,
        &[
            of_relora,
            product([10, 19], 1.5, [Value::Null, Value::Null]),
            product([19, 42], 0.5, [angles(30.0, 60.0), angles(90.0, 90.0)]),
        ],
    );
    suite
}

fn rows(frame: &polars::prelude::DataFrame) -> Vec<Value> {
    let table = json(frame);
    table.as_array().expect("a list of rows").clone()
}

fn assert_cells(row: &Value, expected: &[(&str, Value)]) {
    for (column, expected) in expected {
        let found = &row[*column];
        let same = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => {
                (found - expected).abs() < 1e-12 * expected.abs().max(1.0)
            }
            _ => found == expected,
        };
        assert!(same, "{column} is not {expected} in {row:#}");
    }
}

#[test]
fn spectra_hold_norms_and_ranks_of_every_record() {
    let rows = rows(&taken().read().spectra());
    assert_eq!(rows.len(), 9);
    // 4, 3, 0, 0: a right triangle; exp of the entropy of 4/7 and 3/7 is 7 / (4^(4/7) 3^(3/7)).
    assert_cells(
        &rows[0],
        &[
            ("method", "full".into()),
            ("seed", 0.into()),
            ("quantity", "update".into()),
            ("from_step", 10.into()),
            ("step", 42.into()),
            ("layer", 0.into()),
            ("matrix", "q_proj".into()),
            ("singular_values", 4.into()),
            ("below_0_1", 2.into()),
            ("largest", 4.0.into()),
            ("frobenius_norm", 5.0.into()),
            ("nuclear_norm", 7.0.into()),
            (
                "effective_rank",
                (7.0 / (4_f64.powf(4.0 / 7.0) * 3_f64.powf(3.0 / 7.0))).into(),
            ),
            ("stable_rank", (25.0 / 16.0).into()),
            ("numerical_rank", 2.into()),
            ("rank_bound", Value::Null),
            ("output_angle_mean_degrees", Value::Null),
        ],
    );
    // A hundred-thousandth of 2 lies between 3e-5 and 1e-5.
    assert_cells(
        &rows[1],
        &[
            ("layer", 1.into()),
            ("below_0_1", 2.into()),
            ("numerical_rank", 3.into()),
        ],
    );
    // Four equal values: rank 4 by every measure.
    assert_cells(
        &rows[2],
        &[
            ("seed", 1.into()),
            ("from_step", 0.into()),
            ("below_0_1", 4.into()),
            ("frobenius_norm", 0.1.into()),
            ("nuclear_norm", 0.2.into()),
            ("effective_rank", 4.0.into()),
            ("stable_rank", 4.0.into()),
            ("numerical_rank", 4.into()),
        ],
    );
    assert_cells(
        &rows[6],
        &[("method", "relora".into()), ("rank_bound", 2.into())],
    );
    assert_cells(
        &rows[8],
        &[
            ("quantity", "product".into()),
            ("from_step", 19.into()),
            ("step", 42.into()),
            ("singular_values", 1.into()),
            ("largest", 0.5.into()),
            ("rank_bound", 1.into()),
            ("output_angle_smallest_degrees", 30.0.into()),
            ("output_angle_mean_degrees", 60.0.into()),
            ("input_angle_smallest_degrees", 90.0.into()),
            ("input_angle_mean_degrees", 90.0.into()),
        ],
    );
}

/// Bins are 0.04 wide: 1.02 lies in the 26th, 2 in the last, which includes its end; 3 and 4 in none.
#[test]
fn a_histogram_is_over_the_values_within_its_bins_and_products_are_none_of_them() {
    let rows = rows(&taken().read().spectra_histogram());
    assert_eq!(rows.len(), 4 * 50);
    let filled = |method: &str, seed: u64| -> Vec<(f64, f64, f64)> {
        let of_run = rows
            .iter()
            .filter(|row| row["method"] == method && row["seed"] == seed);
        let number = |row: &Value, column: &str| row[column].as_f64().expect("a number");
        of_run
            .map(|row| {
                (
                    number(row, "bin_low"),
                    number(row, "from_step"),
                    number(row, "density"),
                )
            })
            .filter(|(.., density)| *density > 0.0)
            .collect()
    };
    for (method, seed, from_step, bins) in [
        // Six of eight are within: 0, 0, 3e-5, 1e-5; 1.02; 2.
        (
            "full",
            0,
            10.0,
            &[(0.0, 4.0 / 6.0), (1.0, 1.0 / 6.0), (1.96, 1.0 / 6.0)][..],
        ),
        ("full", 1, 0.0, &[(0.04, 1.0)]),
        ("full", 2, 10.0, &[(0.0, 2.0 / 8.0), (1.0, 6.0 / 8.0)]),
        ("relora", 0, 10.0, &[(0.0, 0.5), (1.0, 0.5)]),
    ] {
        let found = filled(method, seed);
        assert_eq!(found.len(), bins.len(), "{method} {seed}: {found:?}");
        for ((low, from, density), (bin, share)) in found.iter().zip(bins) {
            assert!((low - bin).abs() < 1e-12, "{found:?}");
            assert!((density * 0.04 - share).abs() < 1e-12, "{found:?}");
            assert_eq!(*from, from_step);
        }
    }
}

/// Below 0.1 are 4 of seed 0, 8 of seed 1 and 2 of seed 2. Seeds 0 and 2 begin at the same step: 3, and t = 12.706 (one degree
/// of freedom) times the standard error 1. With seed 1 it would be 4.7 ± 7.6.
#[test]
fn what_is_printed_averages_seeds_of_the_same_start_only() {
    let text = spectra(&taken().read());
    let below = text.split("###").nth(1).expect("a first table");
    let cells: Vec<Vec<&str>> = below
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(cells[0], ["method", "from", "q_proj"]);
    assert_eq!(
        cells[2..],
        [
            ["`full`", "0", "8.000 (n = 1)"],
            ["`full`", "10", "3 ± 13"],
            ["`relora`", "10", "2.000 (n = 1)"],
        ]
    );
    assert!(text.contains("`q_proj` has 8 singular values"), "{text}");
}

/// One bar for each bin that is not empty: 1 of `full` from 0, 3 of `full` from 10 (seeds 0 and 2 fill the first and the 26th
/// both, seed 0 the last), 2 of `relora`.
#[test]
fn the_figure_has_a_row_for_each_method_and_start() {
    let suite = taken();
    let tables = suite.path().join("tables");
    let written =
        write_all(&suite.read(), &About::default(), &tables).expect("the tables can be written");
    let path = tables.join("figures/spectra-micro.svg");
    assert!(written.contains(&path), "{written:?}");
    let figure = fs::read_to_string(path).expect("the figure is there");
    for row in ["full from 0", "full from 10", "relora from 10"] {
        for matrix in ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"] {
            let title = format!("\n{row}, {matrix}\n");
            assert_eq!(figure.matches(&title).count(), 1, "{title}");
        }
    }
    // Each bar says what it is.
    assert_eq!(figure.matches("<title>").count(), 6);
    assert_eq!(figure.matches(": density ").count(), 6);
}

#[test]
fn a_suite_without_spectra_has_neither_rows_nor_figures() {
    let suite = Suite::new();
    suite.complete("micro", "full", 0, 4.5);
    let runs: Runs = suite.read();
    assert_eq!(
        (runs.spectra().height(), runs.spectra_histogram().height()),
        (0, 0)
    );
    let written =
        write_all(&runs, &About::default(), &suite.path().join("tables")).expect("written");
    let figures = written
        .iter()
        .filter(|path| path.ends_with("figures/spectra-micro.svg"));
    assert_eq!(figures.count(), 0);
    assert_eq!(spectra(&runs), "");
}

#[test]
fn a_line_of_spectra_that_cannot_be_read_is_named_and_half_a_line_is_none() {
    let suite = taken();
    let file = "spectra.jsonl";
    suite.append("micro-full-seed0", file, "{\"quantity\":\"upd");
    assert_eq!(suite.read().spectra().height(), 9);
    suite.append("micro-full-seed0", file, "ate\"}\n");
    let runs = suite.read();
    let error = runs.unreadable().join("");
    assert!(
        error.contains("micro-full-seed0/spectra.jsonl:3:"),
        "{error}"
    );
    assert!(
        error.ends_with("expected the singular values of one matrix"),
        "{error}"
    );
}
