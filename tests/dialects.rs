//! What each switch of a dialect does, from the value in a profile to what a run then computes; and every dialect through
//! the built command. Where a switch is from: `relora explain`.

use std::sync::Arc;

use datasets::store::Writer;
use datasets::{BadLines, IGNORE, Split, Store};
use harness::algorithm::{Algorithm, MethodSwitches};
use harness::matrix::{self, Cell, DataKeys, Surroundings};
use harness::plan::Plan;
use harness::profile::{Assignment, Profile};
use harness::recipe::dialect_names;
use harness::worker;
use models::{Batch, Device, Learner, LowRank, Precision, Scaling, Seeded, Update};

use crate::support::{self, World};

const VOCABULARY: usize = 64;

/// The cell of a method of the profile `smoke` in a dialect, with more assignments behind it.
fn cell(method: &str, dialect: &str, more: &[&str]) -> Cell {
    let mut assignments = vec![Assignment::from(format!("dialect={dialect}"))];
    assignments.extend(more.iter().map(|set| Assignment::from(*set)));
    let profile = Profile::load("smoke", &assignments).expect("the profile loads");
    let surroundings = Surroundings {
        data: DataKeys {
            hash: "none".into(),
            vocabulary: VOCABULARY as u64,
        },
        device: "cpu".into(),
        precision: "f32".into(),
        initial: None,
    };
    let cells = matrix::cells(&profile, &surroundings).expect("cells");
    cells
        .into_iter()
        .find(|cell| cell.method == method)
        .expect("the method is in the profile")
}

fn algorithm(cell: &Cell) -> Algorithm {
    cell.algorithm().expect("an algorithm")
}

fn low_rank(cell: &Cell) -> LowRank {
    MethodSwitches::of(&cell.settings)
        .low_rank
        .expect("a low-rank method")
}

/// A learner of the cell's network, and the same with factors attached.
fn learner(cell: &Cell) -> Box<dyn Learner> {
    let draws = Seeded { seed: cell.seed };
    models::learner(
        &cell.network(),
        &algorithm(cell).adamw,
        Device::Cpu,
        Precision::F32,
        &draws,
    )
    .expect("a learner")
}

fn attached(cell: &Cell) -> Box<dyn Learner> {
    let mut learner = learner(cell);
    learner.attach(0, &low_rank(cell), &Seeded { seed: cell.seed });
    learner
}

const ROWS: usize = 4;
const LENGTH: usize = 16;

fn tokens() -> (Vec<u32>, Vec<u32>) {
    let token = |index: usize| ((index * 29 + index / 7) % VOCABULARY) as u32;
    let inputs: Vec<u32> = (0..ROWS * LENGTH).map(token).collect();
    (inputs, (1..=ROWS * LENGTH).map(token).collect())
}

fn loss(learner: &mut dyn Learner) -> f64 {
    let (inputs, targets) = tokens();
    let batch = Batch {
        inputs: &inputs,
        targets: &targets,
        rows: ROWS,
        length: LENGTH,
        index: 0,
    };
    learner.evaluate(batch).expect("a loss").sum
}

/// One update, and the training loss that it saw.
fn train(learner: &mut dyn Learner, step: u64, index: u64) -> f64 {
    let (inputs, targets) = tokens();
    let batch = Batch {
        inputs: &inputs,
        targets: &targets,
        rows: ROWS,
        length: LENGTH,
        index,
    };
    learner.accumulate(batch, 1.0 / (ROWS * LENGTH) as f64);
    learner.update(Update {
        step,
        learning_rate: 1e-2,
        grad_clip: None,
    });
    learner.drain().expect("a reading")[0].loss
}

/// Whether every element of every tensor whose name ends so is zero; none where there is no such tensor.
fn all_zero(learner: &dyn Learner, end: &str) -> Option<bool> {
    let named = learner
        .tensors()
        .into_iter()
        .filter(|info| info.name.ends_with(end));
    let zero = |info: models::TensorInfo| {
        learner
            .read(&info.name)
            .expect("bytes")
            .iter()
            .all(|byte| *byte == 0)
    };
    named.map(zero).reduce(|all, one| all && one)
}

#[test]
fn factor_init_decides_what_attaching_changes() {
    for (dialect, a_zero, b_zero) in [
        ("default", false, true),
        ("paper-2023-05", false, false),
        ("official-head", true, true),
    ] {
        let cell = cell("lora-warm-start", dialect, &[]);
        let before = loss(&mut *learner(&cell));
        let mut attached = attached(&cell);
        assert_eq!(
            all_zero(&*attached, ".lora_A.weight"),
            Some(a_zero),
            "{dialect}"
        );
        assert_eq!(
            all_zero(&*attached, ".lora_B.weight"),
            Some(b_zero),
            "{dialect}"
        );
        // Only two drawn factors change what the network computes.
        assert_eq!(loss(&mut *attached) == before, b_zero, "{dialect}");
    }
}

#[test]
fn factors_that_are_both_zero_train_only_after_the_first_restart() {
    let cell = cell("relora", "official-head", &["dropout=0"]);
    let mut learner = attached(&cell);
    for step in 0..3 {
        train(&mut *learner, step, step);
    }
    assert_eq!(all_zero(&*learner, ".lora_A.weight"), Some(true));
    assert_eq!(all_zero(&*learner, ".lora_B.weight"), Some(true));
    learner.restart(3, &Seeded { seed: 1 });
    train(&mut *learner, 3, 3);
    assert_eq!(all_zero(&*learner, ".lora_B.weight"), Some(false));
}

#[test]
fn the_submission_s_lora_has_no_weight_and_its_relora_without_a_warm_start_a_weight_of_zero() {
    let weight =
        |method, dialect| all_zero(&*attached(&cell(method, dialect, &[])), "q_proj.weight");
    assert_eq!(weight("lora", "default"), Some(false));
    assert_eq!(weight("lora", "paper-2023-05"), None);
    assert_eq!(weight("relora-no-warm-start", "default"), Some(false));
    assert_eq!(weight("relora-no-warm-start", "paper-2023-05"), Some(true));
    assert_eq!(weight("relora-no-warm-start", "official-head"), Some(false));
}

/// Moments of a trained learner that a reset of this cell leaves: how many are not zero, of how many, and whether the two
/// moments keep the same elements.
fn kept(cell: &Cell) -> (u64, u64, bool) {
    let mut learner = attached(cell);
    learner.restart(0, &Seeded { seed: 5 }); // so that factors that begin at zero train as well
    for step in 0..4 {
        train(&mut *learner, step, step);
    }
    learner.reset_moments(4, &algorithm(cell).reset, &Seeded { seed: 1 });
    let (mut kept, mut total, mut together) = (0, 0, true);
    for info in learner.tensors() {
        let Some(name) = info
            .name
            .strip_suffix(".exp_avg")
            .filter(|name| name.contains(".lora_"))
        else {
            continue;
        };
        let words = |name: &str| {
            learner
                .read(name)
                .expect("bytes")
                .as_chunks::<4>()
                .0
                .to_vec()
        };
        let (first, second) = (words(&info.name), words(&format!("{name}.exp_avg_sq")));
        for (first, second) in first.iter().zip(&second) {
            let left = [first, second].map(|word| f32::from_le_bytes(*word) != 0.0);
            kept += left.iter().filter(|left| **left).count() as u64;
            total += 2;
            together &= left[0] == left[1];
        }
    }
    (kept, total, together)
}

#[test]
fn a_reset_keeps_one_in_a_hundred_by_magnitude_or_one_in_a_thousand_at_random() {
    let share = |dialect, more: &[&str]| {
        let (kept, total, _) = kept(&cell("relora", dialect, more));
        kept as f64 / total as f64
    };
    // A quantile in each of 28 tensors of at least 512 elements, twice.
    let by_magnitude = share("default", &[]);
    assert!((by_magnitude - 0.01).abs() < 0.002, "{by_magnitude}");
    // Some 29,000 draws: five standard errors are 0.0009.
    let at_random = share("official-head", &["dropout=0"]);
    assert!((at_random - 0.001).abs() < 0.0009, "{at_random}");
    assert_eq!(share("default", &["reset=\"zero\""]), 0.0);
}

#[test]
fn a_joint_mask_keeps_both_moments_of_an_element_and_separate_ones_do_not() {
    let together = |dialect| {
        kept(&cell(
            "relora",
            dialect,
            &["dropout=0", "reset=\"magnitude\"", "reset_ratio=0.9"],
        ))
        .2
    };
    assert!(together("default"));
    assert!(!together("official-head"));
}

#[test]
fn dropout_is_of_the_dialect_and_alpha_over_rank_is_the_scale() {
    for (dialect, share) in [
        ("default", 0.0),
        ("paper-2023-05", 0.1),
        ("official-head", 0.1),
        ("galore-table", 0.05),
    ] {
        let cell = cell("lora-warm-start", dialect, &[]);
        assert_eq!(low_rank(&cell).dropout, share, "{dialect}");
    }
    // Its effect: two passes over the same tokens see two losses, where B is not zero.
    let losses = |more: &[&str]| {
        let cell = cell("lora-warm-start", "paper-2023-05", more);
        [0, 1].map(|index| train(&mut *attached(&cell), 0, index))
    };
    let [one, other] = losses(&[]);
    assert_ne!(one, other);
    let [one, other] = losses(&["dropout=0"]);
    assert_eq!(one, other);
    // Rank 8 in this profile.
    let scale = |dialect| low_rank(&cell("lora", dialect, &[])).scaling;
    assert_eq!(scale("default"), Scaling::Fixed(1.0));
    assert_eq!(scale("galore-table"), Scaling::Fixed(4.0));
}

#[test]
fn the_submission_clips_nothing() {
    let clip = |dialect| algorithm(&cell("relora", dialect, &[])).grad_clip(59);
    assert_eq!(
        [
            clip("default"),
            clip("official-head"),
            clip("paper-2023-05")
        ],
        [Some(1.0), Some(1.0), None]
    );
}

/// A cosine of 100 steps after a warm start of 100: over the whole run's 200 it is only half way down when the run ends
/// (by its formula, with a minimum of 0.1 and no warm-up: 0.1 + 0.9 (1 + cos(99π/200)) / 2).
#[test]
fn a_schedule_over_the_whole_span_ends_half_way_down() {
    let more = [
        "settings.steps=200",
        "settings.warm_start_steps=100",
        "warmup_steps=0",
        "learning_rate=1.0",
        "settings.evaluate_every=0",
        "settings.checkpoint_every=0",
    ];
    let last = |dialect| {
        algorithm(&cell("lora-warm-start", dialect, &more))
            .schedule
            .at(199)
    };
    let cosine = |p: f64| 0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * p).cos());
    assert!((last("default") - cosine(99.0 / 100.0)).abs() < 1e-12);
    assert!((last("paper-2023-05") - cosine(99.0 / 200.0)).abs() < 1e-12);
}

/// Documents of 3, 5, ... tokens, cut and padded into rows of 64 or joined.
fn store(folder: &std::path::Path) -> Arc<Store> {
    let mut writer = Writer::create(folder, b"{}", VOCABULARY as u32, 63).expect("a store");
    for split in [Split::Training, Split::Validation] {
        for document in 0..64_u32 {
            let tokens: Vec<u32> = (0..3 + 2 * document)
                .map(|index| (index + document) % 63)
                .chain([63])
                .collect();
            writer.push(split, &tokens, 1).expect("written");
        }
    }
    writer
        .finish(None, None, BadLines::default())
        .expect("written");
    Arc::new(Store::open(folder).expect("opened"))
}

#[test]
fn rows_are_packed_or_padded_with_one_target_less_and_weigh_by_target_or_by_micro_batch() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(folder.path());
    let first = |dialect| {
        let cell = cell("full", dialect, &[]);
        let data = worker::data(&cell, &store).expect("data");
        (
            algorithm(&cell),
            data.training.update(0).expect("an update"),
        )
    };
    let masked = |sequences: &datasets::Sequences| {
        sequences
            .targets
            .iter()
            .filter(|target| **target == IGNORE)
            .count()
    };

    // Packed with overlap: every position has a target. Packed without: all but the last of a row.
    let (_, packed) = first("default");
    assert!(packed.iter().all(|sequences| masked(sequences) == 0));
    let (_, official) = first("official-head");
    assert!(
        official
            .iter()
            .all(|sequences| masked(sequences) == sequences.rows)
    );
    let (by_micro_batch, padded) = first("paper-2023-05");
    assert!(
        padded
            .iter()
            .all(|sequences| masked(sequences) > sequences.rows)
    );

    // Two micro-batches of different numbers of targets: each weighs half, or by its targets.
    let targets: u64 = padded.iter().map(datasets::Sequences::targets).sum();
    let weights = |algorithm: &Algorithm| -> Vec<f64> {
        let weight = |sequences: &datasets::Sequences| {
            algorithm.weight(sequences, targets, padded.len()) * sequences.targets() as f64
        };
        padded.iter().map(weight).collect()
    };
    assert_ne!(padded[0].targets(), padded[1].targets());
    assert!(
        weights(&by_micro_batch)
            .iter()
            .all(|weight| (weight - 0.5).abs() < 1e-12)
    );
    let (by_target, _) = first("default");
    for (weight, sequences) in weights(&by_target).iter().zip(&padded) {
        assert!((weight - sequences.targets() as f64 / targets as f64).abs() < 1e-12);
    }
}

/// The official code averages the means of its batches, which weighs a target by the batch it came in; ours is the mean
/// over targets, so that no batch size changes it. The rows here have from 1 to 15 targets. And what a run counts as seen is
/// what its rows have, counted here by hand.
#[test]
fn an_evaluation_has_every_target_once_however_it_is_batched() {
    let world = World::new();
    let cut: String = support::corpus(400)
        .lines()
        .enumerate()
        .map(|(index, line)| {
            let story: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = story["text"].as_str().expect("a text");
            let cut = serde_json::json!({ "text": text[..8 + index % 80] });
            format!("{cut}\n")
        })
        .collect();
    std::fs::write(world.path("corpus.jsonl"), cut).expect("written");
    let ended = |micro_batch: u64| -> serde_json::Value {
        let out = format!("out{micro_batch}");
        let set = format!("settings.micro_batch_size={micro_batch}");
        let more = ["--set", "settings.documents=padded", "--set", &set];
        world.succeed(&World::suite(
            &out,
            &[&more[..], &["--only", "full"]].concat(),
        ));
        let result = std::fs::read(world.path(format!("{out}/tiny-full-seed1/result.json")));
        serde_json::from_slice(&result.expect("a result")).expect("JSON")
    };
    let whole = ended(4);
    let loss = |result: &serde_json::Value| result["validation_loss"].as_f64().expect("a loss");
    for micro_batch in [1, 2] {
        let other = ended(micro_batch);
        assert!(
            (loss(&whole) - loss(&other)).abs() < 1e-5,
            "{whole:#}\n{other:#}"
        );
        assert_eq!(whole["validation_targets"], other["validation_targets"]);
    }

    let plan = Plan::read(&world.path("out4")).expect("a plan");
    let store = Arc::new(Store::open(&plan.store).expect("a store"));
    let data = worker::data(&plan.cells[0], &store).expect("data");
    let carry_a_loss = |sequences: &datasets::Sequences| {
        let targets = sequences.targets.iter();
        targets.filter(|target| **target != IGNORE).count() as u64
    };
    let seen: u64 = (0..plan.cells[0].settings.steps)
        .flat_map(|step| data.training.update(step).expect("an update"))
        .map(|sequences| carry_a_loss(&sequences))
        .sum();
    assert_eq!(whole["tokens_seen"].as_u64(), Some(seen));
    let mut rows: Vec<u64> = Vec::new();
    for sequences in data.validation.pass() {
        let sequences = sequences.expect("sequences");
        let targets = sequences.targets.chunks(sequences.length);
        rows.extend(targets.map(|row| row.iter().filter(|it| **it != IGNORE).count() as u64));
    }
    assert_eq!(
        whole["validation_targets"].as_u64(),
        Some(rows.iter().sum())
    );
    rows.sort_unstable();
    rows.dedup();
    assert!(rows.len() > 5, "rows of {rows:?} targets only");
}

#[test]
fn official_codes_freeze_the_last_row_of_the_embedding() {
    for dialect in dialect_names() {
        let frozen = cell("full", dialect, &[]).network().frozen_embedding_row;
        assert_eq!(
            frozen,
            (dialect != "default").then_some(VOCABULARY as u32 - 1),
            "{dialect}"
        );
    }
}

#[test]
fn galore_s_relora_has_no_warm_start() {
    assert!(cell("relora", "default", &[]).settings.warm_start);
    assert!(!cell("relora", "galore-table", &[]).settings.warm_start);
    assert!(
        cell("lora-warm-start", "galore-table", &[])
            .settings
            .warm_start
    );
}

/// Every dialect through the built command: a suite each, no two of them alike.
#[test]
fn every_dialect_runs_and_no_two_come_to_the_same() {
    let world = World::new();
    let mut losses: Vec<(String, Vec<f64>)> = Vec::new();
    for dialect in dialect_names() {
        let set = format!("dialect={dialect}");
        // A schedule over the remaining steps and one over all of them need cycles that divide both.
        let steps = ["settings.steps=40", "settings.warm_start_steps=8"];
        let more = [
            "--set", &set, "--set", steps[0], "--set", steps[1], "--only", "full", "--only",
            "relora",
        ];
        world.succeed(&World::suite(dialect, &more));
        let ended: Vec<f64> = ["full", "relora"]
            .iter()
            .map(|method| {
                let result =
                    std::fs::read(world.path(format!("{dialect}/tiny-{method}-seed1/result.json")))
                        .expect("a result");
                let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
                assert_eq!(result["status"], "complete", "{dialect} {method}");
                result["validation_loss"].as_f64().expect("a loss")
            })
            .collect();
        if let Some((same, _)) = losses.iter().find(|(_, known)| *known == ended) {
            panic!("{dialect} comes to the same as {same}: {ended:?}");
        }
        losses.push((dialect.to_owned(), ended));
    }
    // The difference is told.
    let told = world.succeed(&[
        "explain",
        "--dialect",
        "paper-2023-05",
        "--versus",
        "official-head",
    ]);
    for key in ["documents", "grad_clip", "factor_init", "schedule_span"] {
        assert!(told.stdout.contains(&format!("\n{key}")), "{}", told.stdout);
    }
    let unknown = support::ended(
        world
            .command(&["explain", "--dialect", "paper"])
            .spawn()
            .expect("starts"),
    );
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
}
