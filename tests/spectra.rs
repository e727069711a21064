//! `relora spectra` from whole runs: where each of them is measured from, how many products there are and of what rank, the
//! tables and the figure that come of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use results::record::{SpectrumOf, SpectrumRecord};
use safetensors::SafeTensors;

use crate::hugging_face::{floats, model, write_shapeless};
use crate::support::{World, tables};

/// Rank and scale (alpha / rank) of the tiny profile.
const RANK: usize = 4;
const SCALE: f64 = 2.0;

/// Lengths of which the cycle of 8 updates is a part with a warm start and without.
const STEPS: u64 = 40;
const WARM_START: u64 = 8;

const MATRICES: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// Singular values of a matrix of the tiny network: its smaller side, 32 of 32 x 32 and of 48 x 32.
const SIDE: usize = 32;

/// What a method's runs should come to: the step that they are measured from, and those at which products were complete.
/// Factors are merged after the first update of each cycle of 8 but the first, counted from where they were attached
/// (`Events`): after 17, 25 and 33 with a warm start and after 9 as well without. The last product stays as it is.
const EXPECTED: [(&str, u64, &[u64]); 6] = [
    ("full", WARM_START, &[]),
    ("lora", 0, &[STEPS]),
    ("low-rank", 0, &[STEPS]),
    ("lora-warm-start", WARM_START, &[STEPS]),
    ("relora", WARM_START, &[17, 25, 33, STEPS]),
    ("relora-no-warm-start", 0, &[9, 17, 25, 33, STEPS]),
];

fn spectra(world: &World, run: &str) -> Vec<SpectrumRecord> {
    let path = world.path(run).join("spectra.jsonl");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a spectrum"))
        .collect()
}

fn of<'a>(
    records: &'a [SpectrumRecord],
    quantity: SpectrumOf,
    layer: u64,
    matrix: &str,
) -> Vec<&'a SpectrumRecord> {
    let wanted = |record: &&SpectrumRecord| {
        record.quantity == quantity && record.layer == layer && record.matrix == matrix
    };
    records.iter().filter(wanted).collect()
}

/// Singular values above 1e-5 of the largest: the definition of docs/tables.md.
fn numerical_rank(singular_values: &[f64]) -> usize {
    let least = 1e-5 * singular_values[0];
    singular_values
        .iter()
        .filter(|value| **value > least)
        .count()
}

/// Tensors of the checkpoint of a step, by name.
fn weights(run: &Path, step: u64) -> BTreeMap<String, Vec<f32>> {
    let path = run.join(format!("checkpoints/step-{step}/weights.safetensors"));
    let bytes = fs::read(path).expect("a checkpoint");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    file.iter()
        .map(|(name, view)| (name.to_owned(), floats(view.data())))
        .collect()
}

/// Rows of a table as maps from the heading.
fn rows(world: &World, table: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(world.path(table)).expect("a table");
    let rows: Result<Vec<_>, _> = reader.deserialize().collect();
    rows.expect("rows")
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

/// `tiny.toml` with other methods.
fn write_profile(world: &World, methods: &[&str]) {
    let profile = fs::read_to_string(world.path("tiny.toml")).expect("a profile");
    let line = |line: &str| match line.strip_prefix("methods =") {
        Some(_) => format!("methods = {methods:?}\n"),
        None => format!("{line}\n"),
    };
    let profile: String = profile.lines().map(line).collect();
    fs::write(world.path("tiny.toml"), profile).expect("written");
}

/// That the first values are those of the product, the others nothing: what an update of one product is.
fn assert_is_its_product(update: &SpectrumRecord, product: &SpectrumRecord) {
    let largest = product.singular_values[0];
    assert!(largest > 1e-3, "{product:?}");
    let products = product.singular_values.iter().chain([&0.0; SIDE]);
    for (value, expected) in update.singular_values.iter().zip(products) {
        assert!(
            (value - expected).abs() < 1e-5 * largest,
            "{update:?} {product:?}"
        );
    }
}

#[test]
fn spectra_are_measured_from_the_warm_start_where_it_was_kept_and_else_from_the_beginning() {
    let world = World::new();
    write_profile(&world, &EXPECTED.map(|(method, ..)| method));
    let (steps, warm_start) = (
        format!("settings.steps={STEPS}"),
        format!("settings.warm_start_steps={WARM_START}"),
    );
    let set = [
        "--set",
        "settings.keep_factors=true",
        "--set",
        &steps,
        "--set",
        &warm_start,
    ];
    world.succeed(&World::suite("out", &set));
    let printed = world.succeed(&["spectra", "out"]).stdout;

    let mut records = 0;
    for (method, from_step, complete) in EXPECTED {
        let run = format!("out/tiny-{method}-seed1");
        let taken = spectra(&world, &run);
        records += taken.len();
        let merges = world.records(&run);
        let merges = merges.iter().filter(|record| record["type"] == "restart");
        if !complete.is_empty() {
            assert_eq!(complete.len(), merges.count() + 1, "{method}");
        }
        for (layer, matrix) in (0..2).flat_map(|layer| MATRICES.map(|matrix| (layer, matrix))) {
            let [update] = of(&taken, SpectrumOf::Update, layer, matrix)[..] else {
                panic!("{method} has other than one update of {layer} {matrix}");
            };
            assert_eq!(
                (update.from_step, update.step),
                (from_step, STEPS),
                "{method}"
            );
            assert_eq!(update.singular_values.len(), SIDE);
            let rank = numerical_rank(&update.singular_values);
            let bound = (!complete.is_empty()).then_some(RANK * complete.len());
            assert_eq!(
                update.rank_bound,
                bound.map(|bound| bound as u64),
                "{method}"
            );
            assert!(rank <= bound.unwrap_or(SIDE), "{method} {matrix}: {rank}");

            let products = of(&taken, SpectrumOf::Product, layer, matrix);
            let steps: Vec<u64> = products.iter().map(|product| product.step).collect();
            assert_eq!(steps, complete, "{method}");
            let mut begun = from_step;
            for (index, product) in products.iter().enumerate() {
                assert_eq!(product.from_step, begun, "{method}");
                assert_eq!(product.rank_bound, Some(RANK as u64));
                assert!(numerical_rank(&product.singular_values) <= RANK);
                assert_eq!(product.output_angles.is_some(), index > 0, "{method}");
                assert_eq!(product.input_angles.is_some(), index > 0, "{method}");
                for angles in [product.output_angles, product.input_angles]
                    .into_iter()
                    .flatten()
                {
                    assert!(0.0 <= angles.smallest && angles.smallest <= angles.mean);
                    assert!(angles.mean <= 90.0, "{angles:?}");
                }
                begun = product.step;
            }
            match products[..] {
                // Whatever the factors stand on has not moved: drawn anew here, kept from the warm start, or zero.
                [product] => assert_is_its_product(update, product),
                // What ReLoRA is for, and what full rank has anyway.
                _ => assert!(rank > RANK, "{method} {matrix}: {rank}"),
            }
        }
    }

    // The sum of the squares of the singular values is that of the elements, taken here from the checkpoints.
    let name = "model.layers.1.mlp.down_proj";
    let start = &weights(&world.path("out/tiny-full-seed1"), WARM_START)[&format!("{name}.weight")];
    for method in ["full", "relora"] {
        let run = format!("out/tiny-{method}-seed1");
        let end = weights(&world.path(&run), STEPS);
        let mut update: Vec<f64> = end[&format!("{name}.weight")]
            .iter()
            .zip(start)
            .map(|(end, start)| f64::from(*end) - f64::from(*start))
            .collect();
        if let Some(b) = end.get(&format!("{name}.lora_B.weight")) {
            let a = &end[&format!("{name}.lora_A.weight")];
            let inputs = a.len() / RANK;
            for (index, value) in update.iter_mut().enumerate() {
                let (row, column) = (index / inputs, index % inputs);
                let term = |k| f64::from(b[row * RANK + k]) * f64::from(a[k * inputs + column]);
                *value += SCALE * (0..RANK).map(term).sum::<f64>();
            }
        }
        let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let taken = spectra(&world, &run);
        let taken = &of(&taken, SpectrumOf::Update, 1, "down_proj")[0].singular_values;
        let (found, expected) = (squares(taken), squares(&update));
        assert!(expected > 1e-4, "{method}: {expected}");
        assert!(
            (found / expected - 1.0).abs() < 1e-6,
            "{method}: {found} {expected}"
        );
    }

    let table = rows(&world, "out/tables/spectra.csv");
    assert_eq!(table.len(), records);
    for row in &table {
        assert!(number(row, "below_0_1") <= number(row, "singular_values"));
        if !row["rank_bound"].is_empty() {
            assert!(
                number(row, "numerical_rank") <= number(row, "rank_bound"),
                "{row:?}"
            );
        }
    }
    let table = rows(&world, "out/tables/spectra_histogram.csv");
    assert_eq!(table.len(), EXPECTED.len() * MATRICES.len() * 50);
    for (method, from_step, _) in EXPECTED {
        let taken = spectra(&world, &format!("out/tiny-{method}-seed1"));
        for matrix in MATRICES {
            let values = (0..2).flat_map(|layer| of(&taken, SpectrumOf::Update, layer, matrix));
            // What lies beyond the paper's bins is in none of them.
            let inside = values
                .flat_map(|record| &record.singular_values)
                .filter(|value| **value <= 2.0)
                .count() as f64;
            let bins = table
                .iter()
                .filter(|row| row["method"] == method && row["matrix"] == matrix);
            let counts: Vec<f64> = bins
                .map(|row| {
                    assert_eq!(number(row, "from_step"), from_step as f64);
                    let width = number(row, "bin_high") - number(row, "bin_low");
                    number(row, "density") * width * inside
                })
                .collect();
            let whole = |count: &f64| (count - count.round()).abs() < 1e-6;
            assert!(counts.iter().all(whole), "{method} {matrix}: {counts:?}");
            assert_eq!(
                counts.iter().sum::<f64>().round(),
                inside,
                "{method} {matrix}"
            );
        }
    }

    let figure =
        fs::read_to_string(world.path("out/tables/figures/spectra-tiny.svg")).expect("a figure");
    assert!(figure.starts_with("<svg"), "{figure:.80}");
    for (method, from_step, _) in EXPECTED {
        // The paper's figure 4 has no method of the ablations.
        let drawn = method != "relora-no-warm-start";
        for matrix in ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"] {
            let title = format!("\n{method} from {from_step}, {matrix}\n");
            assert_eq!(figure.contains(&title), drawn, "{title}");
        }
        let row = |line: &str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            cells.len() > 3
                && cells[1] == format!("`{method}`")
                && cells[2] == from_step.to_string()
        };
        // Three figures of each method.
        let lines = printed.lines().filter(|line| row(line));
        assert_eq!(lines.count(), 3, "{method} in\n{printed}");
    }

    // What has been taken apart is not taken apart again.
    let before = tables(&world.path("out"));
    let again = world.succeed(&["spectra", "out"]);
    assert_eq!((again.stdout, again.stderr.as_str()), (printed, ""));
    assert_eq!(tables(&world.path("out")), before);
}

#[test]
fn spectra_of_seeds_that_are_measured_from_different_steps_are_not_averaged() {
    let world = World::new();
    // The first seed of `full` hands nothing on, since nobody was there to take it, and `relora` goes its way itself and keeps
    // nothing of it.
    write_profile(&world, &["full"]);
    world.succeed(&World::suite("out", &["--only", "full"]));
    write_profile(&world, &["full", "relora"]);
    world.succeed(&World::suite("out", &["--only", "relora"]));
    world.succeed(&World::suite(
        "out",
        &["--only", "full,relora", "--seeds", "2,3"],
    ));
    let ended = world.run(&["spectra", "out"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let says =
        "tiny-relora-seed1 has kept no checkpoint of its warm start: set keep_factors = true";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    for (run, from_step) in [
        ("full-seed1", 0),
        ("full-seed2", 10),
        ("full-seed3", 10),
        ("relora-seed2", 10),
        ("relora-seed3", 10),
    ] {
        let taken = spectra(&world, &format!("out/tiny-{run}"));
        let updates = taken
            .iter()
            .filter(|record| record.quantity == SpectrumOf::Update);
        let steps: Vec<u64> = updates.map(|record| record.from_step).collect();
        assert_eq!(steps, [from_step; 14], "{run}");
    }
    assert!(!world.path("out/tiny-relora-seed1/spectra.jsonl").exists());
    let figure =
        fs::read_to_string(world.path("out/tables/figures/spectra-tiny.svg")).expect("a figure");
    for (row, seeds) in [("full | 0", 1), ("full | 10", 2), ("relora | 10", 2)] {
        let (method, from_step) = row.split_once(" | ").expect("two cells");
        let title = format!("\n{method} from {from_step}, v_proj\n");
        assert_eq!(figure.matches(&title).count(), 1, "{title}");
        let line = |line: &&str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            cells.len() > 3 && cells[1] == format!("`{method}`") && cells[2] == from_step
        };
        let lines: Vec<&str> = ended.stdout.lines().filter(line).collect();
        assert_eq!(lines.len(), 3, "{row} in\n{}", ended.stdout);
        // The effective rank of a seed alone has no interval.
        assert_eq!(lines[1].contains("(n = 1)"), seeds == 1, "{}", lines[1]);
    }
}

#[test]
fn spectra_of_a_run_from_a_folder_are_measured_from_the_folder() {
    let world = World::new();
    write_shapeless(&world);
    model(&world, "model");
    let options = "train --init-from model --method lora --profile shapeless.toml --data corpus.jsonl --device cpu \
                   --seed 1 --out out";
    world.succeed(&options.split_whitespace().collect::<Vec<_>>());
    world.succeed(&["spectra", "out"]);
    let run = fs::read_dir(world.path("out"))
        .expect("a suite")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.join("spectra.jsonl").exists())
        .expect("a run");
    let taken = spectra(&world, run.to_str().expect("UTF-8"));
    let (updates, products): (Vec<_>, Vec<_>) = taken
        .iter()
        .partition(|record| record.quantity == SpectrumOf::Update);
    assert!(!updates.is_empty() && updates.len() == products.len());
    for (update, product) in updates.into_iter().zip(products) {
        assert_eq!(
            (update.from_step, update.rank_bound),
            (0, Some(RANK as u64))
        );
        assert_is_its_product(update, product);
    }
}
