//! What tuning chooses, what it is charged, and tuned methods beside the recipe's: expected values are computed by hand from the
//! losses that the tests lay down.

use super::suite::{Suite, evaluation, row, stop};
use super::{number, text};
use results::frame::Tuned;
use results::record::{RowKeys, Tuning, TuningPoint};
use results::render::{markdown, tuning};
use std::collections::BTreeMap;

/// A proxy run of a method at a rate; a run as the method is tuned for takes four times its FLOPs.
fn point(method: &str, name: &str, rate: f64, seed: u64) -> RowKeys {
    let keys = row("nano", method, seed);
    RowKeys {
        method: name.into(),
        learning_rate: rate,
        point: Some(TuningPoint {
            of: method.into(),
            values: BTreeMap::from([("learning_rate".to_owned(), rate)]),
            final_flops: Some(4.0 * keys.flops),
        }),
        ..keys
    }
}

/// Three points of `lora` by two seeds: the middle rate wins with 4.2, though the highest had 4.0 before it diverged by one seed.
/// Both points of `relora` diverge, and of `full` one is not done.
fn tried() -> Suite {
    let suite = Suite::new();
    let complete = |method: &str, name: &str, rate: f64, losses: [f64; 2]| {
        for (seed, loss) in (101..).zip(losses) {
            let keys = point(method, name, rate, seed);
            suite.complete_row(keys, loss, &[evaluation(20, loss)]);
        }
    };
    complete("lora", "lora-point1", 4e-3, [4.1, 4.3]);
    complete("lora", "lora-point2", 2e-3, [4.2, 4.5]);
    suite.complete_row(
        point("lora", "lora-point3", 8e-3, 101),
        4.0,
        &[evaluation(20, 4.0)],
    );
    suite.diverged_row(point("lora", "lora-point3", 8e-3, 102), 7);
    for (name, rate) in [("relora-point1", 4e-3), ("relora-point2", 2e-3)] {
        suite.diverged_row(point("relora", name, rate, 101), 7);
    }
    complete("full", "full-point1", 4e-3, [4.6, 4.6]);
    let half = suite.begun_row(
        point("full", "full-point2", 2e-3, 101),
        &[evaluation(150, 4.5), stop(150, "interrupted")],
    );
    assert_eq!(half, "nano-full-point2-seed101");
    suite
}

fn of<'a>(tuned: &'a [Tuned], method: &str) -> &'a Tuned {
    let mut tuned = tuned.iter();
    tuned.find(|it| it.method == method).expect("tuned")
}

#[test]
fn the_lowest_mean_loss_wins_among_points_that_all_seeds_completed() {
    let tuned = tried().read().tuned();
    let lora = of(&tuned, "lora");
    assert_eq!((lora.complete, lora.diverged, lora.unfinished), (2, 1, 0));
    assert_eq!(lora.seeds, [101, 102]);
    let chosen = lora.chosen.as_ref().expect("two are complete");
    assert_eq!(chosen.point, "lora-point1");
    assert!((chosen.loss.point - 4.2).abs() < 1e-12);
    // (4.2 + 4.5) / 2 - 4.2
    assert!((chosen.runner_up_gap.expect("another") - 0.15).abs() < 1e-12);
    // A higher and a lower rate were tried, the higher one though it diverged.
    assert_eq!(chosen.edges, [""; 0]);

    let full = of(&tuned, "full");
    assert_eq!((full.complete, full.unfinished), (1, 1));
    let chosen = full.chosen.as_ref().expect("one is complete");
    assert_eq!(chosen.edges, ["highest learning_rate"]);
    assert_eq!(chosen.runner_up_gap, None);

    let relora = of(&tuned, "relora");
    assert_eq!((relora.diverged, relora.chosen.is_none()), (2, true));
}

/// Complete and diverged runs of the suite have 300 of 300 steps, 614,400 tokens, and 270 + 10 x 4.5 seconds for the diverged ones.
#[test]
fn every_run_is_charged_and_a_run_that_stopped_by_its_steps() {
    let runs = tried().read();
    let tuned = runs.tuned();
    let lora = of(&tuned, "lora").cost;
    assert_eq!(lora.tokens, 6 * 614_400);
    assert_eq!(lora.flops, 6e12);
    // Losses of the complete ones sum to 21.1.
    let seconds = 6.0 * 270.0 + 10.0 * (21.1 + 4.5);
    assert!((lora.seconds - seconds).abs() < 1e-9, "{}", lora.seconds);
    // Two whole runs, and one of which half is done.
    assert_eq!(of(&tuned, "full").cost.flops, 2.5e12);
    let frame = runs.tuning();
    // A run as the methods are tuned for takes 4e12.
    assert_eq!(number(&frame, "lora", "tuning_runs"), Some(1.5));
    assert_eq!(text(&frame, "lora", "chosen"), "lora-point1");
    assert_eq!(text(&frame, "lora", "settings"), "learning_rate = 4e-3");
    assert_eq!(number(&frame, "relora", "learning_rate"), None);
    let points = runs.tuning_points();
    let behind = number(&points, "lora-point2", "behind_best").expect("complete");
    assert!((behind - 0.15).abs() < 1e-12);
    assert_eq!(text(&points, "lora-point1", "is_chosen"), "true");
    assert_eq!(number(&points, "lora-point3", "behind_best"), None);
}

#[test]
fn the_report_says_what_makes_a_choice_less_than_it_seems() {
    let suite = tried();
    suite.complete("nano", "full", 101, 4.5);
    let runs = suite.read();
    let told = tuning(&runs);
    for part in [
        "### Tuning at nano",
        "| `lora`   | 4e-3 ",
        "beyond the one that won (highest learning_rate): `full`.",
        "so have lost: `lora` 1 of 3, `relora` 2 of 2",
        "not done, so that the choice may change: `full` 1 of 2",
        "nothing is chosen: `relora`",
        "**Unequal numbers of points**, 2 to 3",
        "- All methods together: ",
    ] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
    assert!(
        told.lines().all(|line| line.chars().count() <= 120),
        "{told}"
    );
    let report = markdown(&runs);
    assert!(report.contains("### Tuning\n"), "{report}");
}

/// The tuned `lora` is 0.3 better by seed 1 and 0.1 by seed 2.
#[test]
fn tuned_methods_stand_beside_the_recipe_with_the_price_of_the_tuning() {
    let suite = Suite::new();
    for (seed, recipe, tuned) in [(1, 4.5, 4.2), (2, 4.4, 4.3)] {
        suite.complete("nano", "lora", seed, recipe);
        let keys = row("nano", "lora", seed);
        let tuning = Tuning {
            from: "lora".into(),
            values: BTreeMap::from([("learning_rate".to_owned(), 2e-3)]),
            points: Some(7),
            seeds: vec![101],
            tokens: Some(1000),
            flops: Some(2.5 * keys.flops),
            seconds: Some(30.0),
        };
        let keys = RowKeys {
            method: "lora-tuned".into(),
            learning_rate: 2e-3,
            tuning: Some(tuning),
            ..keys
        };
        suite.complete_row(keys, tuned, &[evaluation(20, tuned)]);
    }
    let runs = suite.read();
    let frame = runs.tuned_methods();
    assert_eq!(frame.height(), 1);
    let of = |column: &str| number(&frame, "lora-tuned", column).expect("a number");
    assert!((of("difference") + 0.2).abs() < 1e-12);
    assert!((of("recipe_validation_loss") - 4.45).abs() < 1e-12);
    assert!((of("validation_loss") - 4.25).abs() < 1e-12);
    assert_eq!(
        (of("recipe_learning_rate"), of("learning_rate")),
        (4e-3, 2e-3)
    );
    assert_eq!((of("tuning_runs"), of("tuning_seconds")), (2.5, 30.0));
    assert_eq!(text(&frame, "lora-tuned", "reference"), "lora");
    let report = markdown(&runs);
    for part in [
        "### Recipe and tuned",
        "| `lora` | 4e-3 |",
        "|  2e-3 |",
        "| 2.500 |",
    ] {
        assert!(report.contains(part), "{part} in\n{report}");
    }
    assert!(!report.contains("### Tuning"), "{report}");
}

/// Of `lora` the first point has both seeds; the second, better by the one that it has, cannot be held against it yet.
#[test]
fn points_are_judged_by_the_same_seeds() {
    let suite = Suite::new();
    let complete = |name: &str, rate: f64, seed: u64, loss: f64| {
        let keys = point("lora", name, rate, seed);
        suite.complete_row(keys, loss, &[evaluation(20, loss)]);
    };
    complete("lora-point1", 4e-3, 101, 4.3);
    complete("lora-point1", 4e-3, 102, 4.5);
    complete("lora-point2", 2e-3, 101, 4.2);
    let tuned = suite.read().tuned();
    let lora = of(&tuned, "lora");
    let chosen = lora.chosen.as_ref().expect("a point");
    assert_eq!((lora.complete, lora.unfinished), (1, 1));
    assert_eq!(
        (chosen.point.as_str(), chosen.runner_up_gap),
        ("lora-point1", None)
    );
    complete("lora-point2", 2e-3, 102, 4.3);
    let tuned = suite.read().tuned();
    let chosen = of(&tuned, "lora").chosen.as_ref().expect("a point");
    assert_eq!(chosen.point, "lora-point2");
}

#[test]
fn tuned_methods_are_compared_with_full_rank_as_tuned() {
    let suite = Suite::new();
    let tuned = |method: &str, loss: f64| {
        let tuning = Tuning {
            from: method.into(),
            values: BTreeMap::from([("learning_rate".to_owned(), 2e-3)]),
            points: Some(7),
            seeds: vec![101],
            tokens: None,
            flops: None,
            seconds: None,
        };
        let keys = RowKeys {
            method: format!("{method}-tuned"),
            tuning: Some(tuning),
            ..row("nano", method, 1)
        };
        suite.complete_row(keys, loss, &[evaluation(20, loss)]);
    };
    suite.complete("nano", "full", 1, 4.5);
    suite.complete("nano", "lora", 1, 4.6);
    tuned("full", 4.2);
    tuned("lora", 4.25);
    let frame = suite.read().perplexity();
    let of = |method: &str| {
        let difference = number(&frame, method, "difference");
        let rounded = difference.map(|it| (it * 1e6).round() / 1e6);
        (text(&frame, method, "reference"), rounded)
    };
    assert_eq!(of("lora"), ("full".into(), Some(0.1)));
    assert_eq!(of("lora-tuned"), ("full-tuned".into(), Some(0.05)));
    assert_eq!(of("full-tuned"), ("full-tuned".into(), None));
}
