//! Suites written to disk by the tests and read back: the frames, their files and the report, without training anything.

mod answers;
mod figures;
mod spectra;
mod suite;
mod tuning;

use polars::prelude::{AnyValue, DataFrame, ParquetReader, SerReader};
use results::frame::{FrameError, Runs, VOLATILE_COLUMNS, read};
use results::record::Status;
use results::render::{About, csv, json, latex, markdown, number_of, write_all};
use std::fs;
use suite::{Suite, evaluation, reset, restart, row, step, stop};

fn cell<'a>(frame: &'a DataFrame, method: &str, column: &str) -> AnyValue<'a> {
    let methods = frame.column("method").expect("every table has methods");
    let index = (0..frame.height())
        .find(|&index| {
            methods
                .get(index)
                .is_ok_and(|found| found == AnyValue::String(method))
        })
        .unwrap_or_else(|| panic!("no row for {method}"));
    frame
        .column(column)
        .and_then(|column| column.get(index))
        .unwrap_or_else(|_| panic!("no column {column}"))
}

fn number(frame: &DataFrame, method: &str, column: &str) -> Option<f64> {
    cell(frame, method, column).extract()
}

fn text(frame: &DataFrame, method: &str, column: &str) -> String {
    match cell(frame, method, column) {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => text.to_owned(),
        other => other.to_string(),
    }
}

fn column_of_text(frame: &DataFrame, column: &str) -> Vec<String> {
    let column = frame.column(column).expect("the column exists");
    (0..frame.height())
        .map(|index| {
            column
                .get(index)
                .expect("the row exists")
                .str_value()
                .into_owned()
        })
        .collect()
}

/// Losses of three seeds: full, relora a little worse, lora a little better but unsteady, low-rank far behind.
fn ordinary() -> Suite {
    let suite = Suite::new();
    for (seed, losses) in [
        [4.50, 4.53, 4.56, 5.10],
        [4.55, 4.575, 4.52, 5.16],
        [4.47, 4.50, 4.49, 5.06],
    ]
    .iter()
    .enumerate()
    {
        for (method, loss) in ["full", "relora", "lora", "low-rank"].iter().zip(losses) {
            suite.complete("micro", method, seed as u64, *loss);
        }
    }
    suite
}

fn ordinary_plan() -> Vec<results::record::RowKeys> {
    ["full", "low-rank", "lora", "relora"]
        .iter()
        .flat_map(|method| (0..3).map(|seed| row("micro", method, seed)))
        .collect()
}

#[test]
fn methods_come_in_the_order_of_the_plan_and_seeds_ascend() {
    let suite = ordinary();
    let runs = suite.read().with_planned(ordinary_plan());
    let methods = column_of_text(&runs.perplexity(), "method");
    assert_eq!(methods, ["full", "low-rank", "lora", "relora"]);
    let seeds = column_of_text(&runs.runs(), "seed");
    assert_eq!(
        seeds,
        ["0", "1", "2", "0", "1", "2", "0", "1", "2", "0", "1", "2"]
    );
}

#[test]
fn sizes_come_by_parameters_and_not_by_name() {
    let suite = Suite::new();
    for size in ["mini", "60m", "nano"] {
        suite.complete(size, "full", 0, 4.0);
    }
    assert_eq!(
        column_of_text(&suite.read().perplexity(), "size"),
        ["nano", "mini", "60m"]
    );
}

/// Expected values: scipy 1.17.1 on the losses of `ordinary` (mean, sem, t.interval(0.95, 2), ttest_rel), Holm by hand.
#[test]
fn perplexity_holds_means_intervals_and_paired_differences() {
    let frame = ordinary().read().with_planned(ordinary_plan()).perplexity();
    let close = |method: &str, column: &str, expected: f64| {
        let found = number(&frame, method, column).unwrap_or(f64::NAN);
        assert!(
            (found - expected).abs() < 1e-9 * expected.abs().max(1.0),
            "{method} {column}: {found} is not {expected}"
        );
    };
    close("full", "validation_loss", 4.506666666666667);
    close(
        "full",
        "validation_loss_standard_error",
        0.023333333333333345,
    );
    close("full", "validation_loss_low", 4.406271436305846);
    close("full", "perplexity", 90.61925034259669);
    close("full", "perplexity_high", 100.18935014535286);
    close("relora", "difference", 0.028333333333333616);
    close("relora", "difference_low", 0.021162245450417998);
    close("relora", "difference_p", 0.0034423510070661985);
    close("lora", "validation_loss", 4.5233333333333325);
    close(
        "lora",
        "validation_loss_standard_error",
        0.020275875100993903,
    );
    close("lora", "validation_loss_low", 4.4360932839819815);
    close("lora", "perplexity", 92.14222740320956);
    close("lora", "perplexity_high", 100.54178202900503);
    close("lora", "difference", 0.016666666666666607);
    close("lora", "difference_low", -0.09534930696021536);
    close("lora", "difference_p", 0.5876069505788396);
    close("low-rank", "difference", 0.6);
    close("low-rank", "difference_low", 0.5751586228824961);
    close("low-rank", "difference_p", 9.257973449455141e-05);
    close("low-rank", "difference_p_adjusted", 0.00027773920348365423);
    close("relora", "difference_p_adjusted", 0.006884702014132397);
    close("lora", "difference_p_adjusted", 0.5876069505788396);
    assert_eq!(text(&frame, "full", "seeds"), "0 1 2");
    assert_eq!(text(&frame, "full", "reference"), "full");
    assert_eq!(number(&frame, "full", "difference"), None);
    assert_eq!(text(&frame, "full", "verdict"), "");
    assert_eq!(text(&frame, "relora", "verdict"), "worse");
    assert_eq!(text(&frame, "lora", "verdict"), "unresolved");
    assert_eq!(text(&frame, "low-rank", "verdict"), "worse");
}

#[test]
fn ablations_compare_with_relora_and_carry_the_switches() {
    let frame = ordinary().read().with_planned(ordinary_plan()).ablations();
    assert_eq!(text(&frame, "full", "reference"), "relora");
    assert_eq!(text(&frame, "full", "verdict"), "better");
    assert_eq!(number(&frame, "relora", "difference"), None);
    assert_eq!(text(&frame, "relora", "restarts"), "true");
    assert_eq!(text(&frame, "lora", "restarts"), "false");
}

#[test]
fn a_method_of_the_preset_stands_in_where_no_method_has_its_name() {
    let suite = Suite::new();
    for seed in 0..2 {
        suite.complete_as("micro", "full-lr3e-3", "full", seed, 4.5);
        suite.complete("micro", "lora", seed, 4.6);
    }
    assert_eq!(
        text(&suite.read().perplexity(), "lora", "reference"),
        "full-lr3e-3"
    );
    suite.complete_as("micro", "full-lr1e-3", "full", 0, 4.5);
    assert_eq!(
        text(&suite.read().perplexity(), "lora", "reference"),
        "",
        "two candidates are none"
    );
}

#[test]
fn pairs_are_made_by_seed_and_only_of_seeds_that_both_completed() {
    let suite = Suite::new();
    // Seeds 0, 1, 2 against 1, 2, 3: the common ones differ by 0.1 and 0.2, the others would spoil the mean.
    for (seed, loss) in [(0, 9.0), (1, 4.0), (2, 4.5)] {
        suite.complete("micro", "full", seed, loss);
    }
    for (seed, loss) in [(1, 4.1), (2, 4.7), (3, 1.0)] {
        suite.complete("micro", "relora", seed, loss);
    }
    let runs = suite.read();
    let frame = runs.perplexity();
    let difference = number(&frame, "relora", "difference").unwrap_or(f64::NAN);
    assert!((difference - 0.15).abs() < 1e-12, "{difference}");
    assert_eq!(number(&frame, "relora", "difference_pairs"), Some(2.0));
    assert_eq!(number(&frame, "relora", "seeds_complete"), Some(3.0));
    assert!(
        markdown(&runs).contains(
            "Seeds in common with `full`, where fewer than the method's own: `relora` 2."
        )
    );
}

#[test]
fn one_seed_has_no_interval_and_no_verdict_but_unresolved() {
    let suite = Suite::new();
    suite.complete("micro", "full", 0, 4.5);
    suite.complete("micro", "relora", 0, 4.6);
    let runs = suite.read();
    let frame = runs.perplexity();
    assert_eq!(number(&frame, "relora", "validation_loss_low"), None);
    assert_eq!(number(&frame, "relora", "difference_p"), None);
    assert_eq!(text(&frame, "relora", "verdict"), "unresolved");
    // exp(4.6) = 99.48
    let row = "| `relora` | 1 of 1 |      99.48 |";
    let report = markdown(&runs);
    assert!(report.contains(row), "{report}");
    // Said once of the size, and in the explanations, and in no cell.
    assert!(report.contains("; one seed each, so no number has an interval (n = 1); "));
    assert_eq!(report.matches("n = 1").count(), 2, "{report}");
}

#[test]
fn a_count_agrees_with_its_noun() {
    assert_eq!(
        [
            number_of(0, "run"),
            number_of(1, "run"),
            number_of("1,234", "run")
        ],
        ["0 runs", "1 run", "1,234 runs"]
    );
    let suite = Suite::new();
    suite.complete("micro", "full", 0, 4.5);
    assert!(markdown(&suite.read()).contains("1 of 1 run complete.\n"));
}

#[test]
fn methods_with_unequal_numbers_of_seeds_are_said_to_be_so() {
    let suite = Suite::new();
    for (seed, loss) in [(0, 4.50), (1, 4.55), (2, 4.47)] {
        suite.complete("micro", "full", seed, loss);
    }
    suite.complete("micro", "relora", 0, 4.6);
    let report = markdown(&suite.read());
    assert!(
        report.contains("; **unequal numbers of complete seeds**, 1 to 3; "),
        "{report}"
    );
    assert!(report.contains("99.48 (n = 1)"), "{report}");
    for seed in [1, 2] {
        suite.complete("micro", "relora", seed, 4.6);
    }
    assert!(!markdown(&suite.read()).contains("unequal"));
}

/// Differences of 0.02, 0.03 and 0.04: t = 0.03 / (0.01 / sqrt 3) = 5.196, two-sided p with two degrees of freedom 0.0351,
/// twice that after Holm beside a comparison that shows nothing; 0.03 ± 4.303 * 0.00577 excludes zero.
#[test]
fn a_verdict_by_its_own_interval_stands_in_the_frames_as_it_is_printed() {
    let suite = Suite::new();
    for (seed, (full, relora, lora)) in [(4.50, 0.02, 0.1), (4.55, 0.03, -0.1), (4.47, 0.04, 0.0)]
        .into_iter()
        .enumerate()
    {
        suite.complete("micro", "full", seed as u64, full);
        suite.complete("micro", "relora", seed as u64, full + relora);
        suite.complete("micro", "lora", seed as u64, full + lora);
    }
    let runs = suite.read();
    assert_eq!(text(&runs.perplexity(), "relora", "verdict"), "worse alone");
    assert_eq!(text(&runs.ablations(), "full", "verdict"), "better alone");
    let report = markdown(&runs);
    for printed in ["worse alone (0.070)", "better alone (0.070)"] {
        assert!(report.contains(printed), "{printed} in\n{report}");
    }
}

/// Three seeds of two methods that complete and differ by far more than they scatter; one of them diverged on a fourth.
fn survivors(diverged: &str) -> Runs {
    let suite = Suite::new();
    for seed in 0..3 {
        suite.complete("micro", "full", seed, 4.50 + 0.01 * seed as f64);
        suite.complete("micro", "relora", seed, 4.30 + 0.011 * seed as f64);
    }
    for method in ["full", "relora"] {
        if method == diverged {
            suite.diverged("micro", method, 3, 120);
        } else {
            suite.complete("micro", method, 3, 4.4);
        }
    }
    suite.read()
}

#[test]
fn who_diverged_on_some_seeds_does_not_win_by_the_others() {
    let runs = survivors("relora");
    assert_eq!(
        text(&runs.perplexity(), "relora", "verdict"),
        "unresolved: diverged"
    );
    // The same difference seen from the other side: what loses to survivors loses to no one.
    assert_eq!(
        text(&runs.ablations(), "full", "verdict"),
        "unresolved: diverged"
    );
    let report = markdown(&runs);
    let table = report.lines().filter(|line| line.starts_with('|'));
    assert!(
        !table.clone().any(|line| line.contains("alone")),
        "{report}"
    );
    assert!(
        report.contains("diverged on some seeds, against `full`: `relora`.")
            && !report.contains("Smallest resolved difference"),
        "{report}"
    );
}

#[test]
fn who_loses_by_its_surviving_seeds_is_worse_all_the_same() {
    let runs = survivors("full");
    assert_eq!(text(&runs.perplexity(), "relora", "verdict"), "better");
    assert_eq!(text(&runs.ablations(), "full", "verdict"), "worse");
}

/// A suite with a run of every status.
fn troubled() -> Runs {
    let suite = Suite::new();
    for (seed, loss) in [(0, 4.50), (1, 4.55), (2, 4.47)] {
        suite.complete("micro", "full", seed, loss);
    }
    suite.complete("micro", "relora", 0, 4.53);
    suite.diverged("micro", "relora", 1, 120);
    suite.diverged("micro", "relora", 2, 95);
    for seed in 0..3 {
        suite.diverged("micro", "low-rank", seed, 40 + seed);
    }
    suite.begun(
        "micro",
        "lora",
        0,
        &[step(10, 6.0), evaluation(10, 5.9), stop(10, "budget")],
    );
    suite.begun(
        "micro",
        "lora",
        1,
        &[step(10, 6.0), stop(10, "interrupted")],
    );
    suite.begun("micro", "lora", 2, &[step(10, 6.0)]);
    suite.begun("micro", "control", 0, &[]);
    suite.file(
        "micro-control-seed0",
        "failed.json",
        r#"{"error": "out of memory at step 3"}"#,
    );
    suite.begun("micro", "control", 1, &[step(10, 6.0)]);
    suite.file("micro-control-seed1", "lease.json", "{}");
    suite.file(
        "micro-relora-no-jagged-seed0",
        "failed.json",
        r#"{"error": "no such tokenizer"}"#,
    );
    let plan = [
        "full",
        "control",
        "low-rank",
        "lora",
        "relora",
        "relora-no-jagged",
    ];
    let plan = plan
        .iter()
        .flat_map(|method| (0..3).map(|seed| row("micro", method, seed)));
    suite.read().with_planned(plan.collect())
}

#[test]
fn every_run_is_a_row_whatever_became_of_it() {
    let runs = troubled();
    let frame = runs.runs();
    assert_eq!(frame.height(), 18);
    assert_eq!(
        column_of_text(&frame, "status"),
        [
            "complete",
            "complete",
            "complete", // full
            "failed",
            "running",
            "pending", // control
            "diverged",
            "diverged",
            "diverged", // low-rank
            "stopped: budget",
            "stopped: interrupted",
            "stopped: interrupted", // lora; the last one was killed
            "complete",
            "diverged",
            "diverged", // relora
            "failed",
            "pending",
            "pending", // failed before its manifest was written
        ]
    );
    assert_eq!(
        text(&frame, "relora-no-jagged", "error"),
        "no such tokenizer"
    );
    let counts = runs.counts();
    assert_eq!(counts.first(), Some(&(Status::Complete, 4)));
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<usize>(), 18);
}

#[test]
fn means_leave_out_what_did_not_complete_and_say_so() {
    let frame = troubled().perplexity();
    assert_eq!(number(&frame, "relora", "seeds_complete"), Some(1.0));
    assert_eq!(number(&frame, "relora", "seeds_diverged"), Some(2.0));
    assert_eq!(
        text(&frame, "relora", "status"),
        "diverged at 95, 120 (2 of 3)"
    );
    assert_eq!(number(&frame, "low-rank", "perplexity"), None);
    assert_eq!(number(&frame, "lora", "seeds_unfinished"), Some(3.0));
    assert_eq!(
        text(&frame, "control", "status"),
        "failed (1 of 3), running (1 of 3), pending (1 of 3)"
    );
}

#[test]
fn an_unfinished_run_shows_its_last_evaluation_and_a_diverged_one_none() {
    let frame = troubled().runs();
    assert_eq!(number(&frame, "lora", "validation_loss"), Some(5.9));
    assert_eq!(number(&frame, "lora", "update_steps"), Some(10.0));
    assert_eq!(number(&frame, "low-rank", "validation_loss"), None);
    assert_eq!(number(&frame, "low-rank", "diverged_at_step"), Some(40.0));
}

#[test]
fn a_lease_that_nobody_holds_is_not_a_running_run() {
    let suite = Suite::new();
    suite.begun("micro", "full", 0, &[step(10, 6.0)]);
    suite.file("micro-full-seed0", "lease.json", "{}");
    let status = |live| {
        let runs = read(suite.path(), &|_| live).expect("the suite is readable");
        text(&runs.runs(), "full", "status")
    };
    assert_eq!(status(true), "running");
    assert_eq!(status(false), "stopped: interrupted");
}

#[test]
fn an_incomplete_last_line_is_ignored() {
    let suite = Suite::new();
    suite.begun("micro", "full", 0, &[step(10, 6.0)]);
    suite.append(
        "micro-full-seed0",
        "metrics.jsonl",
        r#"{"type":"step","step":20,"tok"#,
    );
    assert_eq!(suite.read().curves().height(), 1);
}

/// The suite's own folder is another one each time.
fn in_suite(text: &str, suite: &Suite) -> String {
    text.replace(&suite.path().display().to_string(), "SUITE")
}

/// Why the one run that cannot be read cannot.
fn error(suite: &Suite) -> String {
    let runs = suite.read();
    let [reason] = runs.unreadable()[..] else {
        panic!("not one: {:?}", runs.unreadable())
    };
    in_suite(reason, suite)
}

/// Whichever of its files is damaged, a run is neither averaged in nor left out in silence, and the others stand.
#[test]
fn a_run_that_cannot_be_read_is_a_row_and_part_of_no_mean() {
    for (file, damage) in [
        ("result.json", "{\"schema\": 1, "),
        ("metrics.jsonl", "{\"type\":\"step\"}\n"),
        ("failed.json", "oops"),
        ("manifest.json", "oops"),
    ] {
        let suite = ordinary();
        suite.file("micro-relora-seed1", file, damage);
        let runs = suite.read().with_planned(ordinary_plan());
        let frame = runs.perplexity();
        assert_eq!(text(&frame, "full", "seeds"), "0 1 2", "{file}");
        assert_eq!(text(&frame, "relora", "seeds"), "0 2", "{file}");
        assert_eq!(
            text(&frame, "relora", "status"),
            "unreadable (1 of 3)",
            "{file}"
        );
        assert_eq!(runs.runs().height(), 12, "{file}");
        assert_eq!(
            runs.counts(),
            [(Status::Complete, 11), (Status::Unreadable, 1)]
        );
        let reason = error(&suite);
        assert!(
            reason.starts_with(&format!("SUITE/micro-relora-seed1/{file}:1:")),
            "{reason}"
        );
        let report = in_suite(&markdown(&runs), &suite);
        let line =
            format!("- `relora` with seed 1 is left out, since it cannot be read: {reason}.\n");
        assert!(report.contains(&line), "{report}");
        assert!(
            report.contains("11 of 12 runs complete; 1 unreadable."),
            "{report}"
        );
        let left = fs::read_to_string(suite.path().join("micro-relora-seed1").join(file));
        assert_eq!(left.expect("it is still there"), damage);
    }
}

/// Nobody can tell which run it is where the plan knows none of that name.
#[test]
fn a_directory_that_is_no_row_and_cannot_be_read_is_named_in_the_report() {
    let suite = ordinary();
    suite.file("micro-relora-seed1-old", "manifest.json", "oops");
    let runs = suite.read().with_planned(ordinary_plan());
    assert_eq!(runs.counts(), [(Status::Complete, 12)]);
    let report = in_suite(&markdown(&runs), &suite);
    let line = format!(
        "Left out, since nobody can tell whose it is: {}.\n",
        error(&suite)
    );
    assert!(report.contains(&line), "{report}");
}

#[test]
fn a_corrupt_record_is_named_by_path_and_line() {
    let suite = Suite::new();
    suite.begun("micro", "full", 0, &[step(10, 6.0)]);
    suite.append(
        "micro-full-seed0",
        "metrics.jsonl",
        "{\"type\":\"step\",\"step\":\"x\"}\n",
    );
    let message = error(&suite);
    assert!(
        message.starts_with("SUITE/micro-full-seed0/metrics.jsonl:2:"),
        "{message}"
    );
    assert!(message.contains("expected one record"), "{message}");
    assert!(
        !message.contains('\n') && !message.ends_with('.'),
        "{message}"
    );
}

#[test]
fn binary_rubbish_in_the_records_is_an_error_and_no_panic() {
    let suite = Suite::new();
    suite.begun("micro", "full", 0, &[]);
    let path = suite.path().join("micro-full-seed0").join("metrics.jsonl");
    fs::write(path, [0xff, 0x00, b'\n', b'\n', 0x80, b'\n']).expect("the file can be written");
    assert!(error(&suite).starts_with("SUITE/micro-full-seed0/metrics.jsonl:1:"));
}

#[test]
fn a_broken_manifest_is_named_by_path_and_line() {
    let suite = Suite::new();
    suite.file(
        "micro-full-seed0",
        "manifest.json",
        "{\n  \"schema\": 1,\n  \"row\": }",
    );
    let message = error(&suite);
    assert!(
        message.starts_with("SUITE/micro-full-seed0/manifest.json:3:"),
        "{message}"
    );
}

#[test]
fn another_schema_is_refused_with_both_numbers() {
    let suite = Suite::new();
    suite.file(
        "micro-full-seed0",
        "manifest.json",
        r#"{"schema": 7, "unheard_of": true}"#,
    );
    assert_eq!(
        error(&suite),
        "SUITE/micro-full-seed0/manifest.json has record schema 7; this program reads schema 1"
    );
}

#[test]
fn contradictions_are_unreadable_and_duplicates_refused() {
    let suite = Suite::new();
    suite.complete("micro", "full", 0, 4.5);
    let directory = suite.path().join("micro-full-seed0");
    let copy = suite.path().join("micro-full-seed0-copy");
    fs::create_dir(&copy).expect("the copy can be made");
    fs::copy(directory.join("manifest.json"), copy.join("manifest.json"))
        .expect("the file can be copied");
    let refused = read(suite.path(), &|_| true).expect_err("one run twice");
    assert_eq!(
        in_suite(&refused.to_string(), &suite),
        "SUITE/micro-full-seed0 and SUITE/micro-full-seed0-copy are both micro full with seed 0; move one of them out of the suite"
    );
    fs::remove_file(copy.join("manifest.json")).expect("the file can be removed");
    fs::write(copy.join("metrics.jsonl"), "").expect("the file can be written");
    assert!(error(&suite).contains("stands without a manifest.json"));
    fs::remove_dir_all(&copy).expect("the copy can be removed");
    let result = fs::read_to_string(directory.join("result.json")).expect("there is a result");
    suite.file(
        "micro-full-seed0",
        "result.json",
        &result.replace("\"complete\"", "\"running\""),
    );
    assert!(error(&suite).contains("status 'running' cannot be final"));
}

#[test]
fn what_is_not_a_suite_is_named() {
    let suite = Suite::new();
    let missing = suite.path().join("missing");
    assert!(
        matches!(read(&missing, &|_| true), Err(FrameError::NotASuite { path }) if path == missing)
    );
}

#[test]
fn directories_that_are_no_runs_are_passed_over() {
    let suite = ordinary();
    write_all(
        &suite.read(),
        &About::default(),
        &suite.path().join("tables"),
    )
    .expect("the tables can be written");
    suite.file(".writing", "manifest.json", "half of");
    assert_eq!(suite.read().runs().height(), 12);
}

#[test]
fn curves_and_events_hold_every_record_in_long_form() {
    let suite = Suite::new();
    let records = [
        step(10, 6.0),
        restart(20),
        reset(20, 1000, 990),
        step(20, 5.5),
        evaluation(20, 5.4),
    ];
    suite.begun("micro", "relora", 0, &records);
    let runs = suite.read();
    let curves = runs.curves();
    assert_eq!(
        column_of_text(&curves, "kind"),
        ["training", "training", "validation"]
    );
    assert_eq!(column_of_text(&curves, "step"), ["10", "20", "20"]);
    let events = runs.events();
    assert_eq!(column_of_text(&events, "kind"), ["restart", "reset"]);
    assert_eq!(column_of_text(&events, "moments_zeroed"), ["null", "990"]);
}

#[test]
fn a_loss_that_was_not_finite_is_absent_and_never_zero() {
    let suite = Suite::new();
    let mut record = step(10, 6.0);
    record["loss"] = serde_json::Value::Null;
    suite.begun("micro", "full", 0, &[record]);
    let curves = suite.read().curves();
    assert_eq!(number(&curves, "full", "loss"), None);
}

#[test]
fn throughput_and_memory_are_ratios_to_full() {
    let suite = Suite::new();
    for seed in 0..2 {
        suite.complete_with("micro", "full", seed, |result| {
            result["tokens_per_second"] = (1000.0 + seed as f64).into();
        });
        suite.complete_with("micro", "relora", seed, |result| {
            result["tokens_per_second"] = (1500.0 + 1.5 * seed as f64).into();
            result["optimizer_state_bytes"] = 400_000.into();
            result["peak_memory_bytes"] = 50_000_000.into();
        });
    }
    let runs = suite.read();
    let throughput = runs.throughput();
    let ratio = number(&throughput, "relora", "tokens_per_second_ratio").unwrap_or(f64::NAN);
    assert!((ratio - 1.5).abs() < 1e-12, "{ratio}");
    let memory = runs.memory();
    // The helper gives `full` 800,000 bytes of moments and a peak of 100,000,000 bytes.
    assert_eq!(
        number(&memory, "relora", "optimizer_state_ratio"),
        Some(0.5)
    );
    let ratio = number(&memory, "relora", "peak_memory_ratio").unwrap_or(f64::NAN);
    assert!((ratio - 0.5).abs() < 1e-12, "{ratio}");
    assert_eq!(number(&memory, "full", "peak_memory_ratio"), None);
    // The sum of the helper's classes, and that over the peak.
    assert_eq!(number(&memory, "full", "planned_bytes"), Some(80.8e6));
    let planned = number(&memory, "full", "planned_ratio").unwrap_or(f64::NAN);
    assert!((planned - 0.808).abs() < 1e-12, "{planned}");
}

#[test]
fn published_figures_stand_apart_and_only_where_the_paper_has_them() {
    let suite = Suite::new();
    for method in ["full", "low-rank", "lora"] {
        suite.complete("60m", method, 0, 3.5);
    }
    let runs = suite.read();
    let frame = runs.perplexity();
    // Table 2 of the paper, 60M.
    assert_eq!(number(&frame, "full", "published_perplexity"), Some(33.81));
    assert_eq!(
        number(&frame, "low-rank", "published_perplexity"),
        Some(47.44)
    );
    assert_eq!(number(&frame, "lora", "published_perplexity"), None);
    assert!(text(&frame, "full", "published_source").contains("2307.05695"));
    assert!(!text(&frame, "full", "published_certainty").is_empty());
    let report = markdown(&runs);
    assert!(
        report.contains("| published |") && report.contains("Published: not ours."),
        "{report}"
    );
    assert!(!markdown(&ordinary().read()).contains("published"));
}

/// Figures of `full` at 60M in the literature: the paper's, GaLore's and four others'; the paper's code divided by one batch too
/// many, of about 94 at 60M: 33.81 to the power of 95/94 is 35.1. A rank of 8 has no figure.
#[test]
fn each_published_figure_of_what_was_trained_stands_beside_ours() {
    let suite = Suite::new();
    for seed in 0..2 {
        suite.complete("60m", "full", seed, 3.5 + 0.01 * seed as f64);
        suite.complete_row(
            results::record::RowKeys {
                rank: Some(8),
                ..row("60m", "relora", seed)
            },
            3.6,
            &[evaluation(20, 3.6)],
        );
        suite.complete("nano", "full", seed, 4.0);
    }
    let runs = suite.read();
    let frame = runs.published();
    let sources = column_of_text(&frame, "published_source");
    assert!(
        sources[0].starts_with("ReLoRA") && sources[1].starts_with("GaLore"),
        "{sources:?}"
    );
    assert_eq!(sources.len(), 6, "{sources:?}");
    assert!(
        column_of_text(&frame, "method")
            .iter()
            .all(|method| method == "full")
    );
    assert_eq!(column_of_text(&frame, "size"), ["60m"; 6]);
    assert_eq!(number(&frame, "full", "published_perplexity"), Some(33.81));
    assert_eq!(text(&frame, "full", "published_dialect"), "paper-2023-05");
    assert_eq!(
        number(&frame, "full", "published_corrected_low"),
        Some(35.1)
    );
    // exp of the mean of 3.50 and 3.51
    let ours = number(&frame, "full", "perplexity").unwrap_or(f64::NAN);
    assert!((ours - 3.505_f64.exp()).abs() < 1e-9, "{ours}");

    let report = markdown(&runs);
    let [nano, large] = ["## nano", "## 60m"].map(|chapter| {
        let rest = report.split(chapter).nth(1).unwrap_or_default();
        rest.split("\n## ").next().unwrap_or_default()
    });
    let line = "- Published figures: none, since none of the papers has a network of this size.";
    assert!(
        nano.contains(line) && !nano.contains("### Published"),
        "{nano}"
    );
    assert!(large.contains("### Published figures"), "{large}");
    assert!(
        large.contains("|     33.81 |      35.1 | another | [1]    |"),
        "{large}"
    );
    assert!(
        large.contains("the true loss is the published one times (N + 1) / N"),
        "{large}"
    );
}

/// Frames that differ in time and memory only are equal bytes once the volatile columns are gone.
#[test]
fn equal_runs_give_equal_bytes_without_the_volatile_columns() {
    let written = |speed: f64| {
        let suite = ordinary();
        for seed in 0..3 {
            suite.complete_with("micro", "full", seed, |result| {
                result["tokens_per_second"] = speed.into();
                result["wall_seconds"] = (100.0 * speed).into();
                result["peak_memory_bytes"] = (1_000_000 * speed as u64).into();
            });
        }
        let mut texts = Vec::new();
        for (name, frame) in suite.read().frames() {
            let frame = VOLATILE_COLUMNS
                .iter()
                .fold(frame, |frame, column| frame.drop(column).unwrap_or(frame));
            let path = suite.path().join(format!("{name}.csv"));
            csv::write(&frame, &path).expect("the table can be written");
            texts.push(fs::read(path).expect("the table can be read"));
        }
        texts
    };
    assert_eq!(written(10.0), written(33.0));
}

#[test]
fn written_tables_are_whole_readable_and_repeatable() {
    let suite = ordinary();
    let runs = suite.read().with_planned(ordinary_plan());
    let directory = suite.path().join("tables");
    let written =
        write_all(&runs, &About::default(), &directory).expect("the tables can be written");
    let figures = written
        .iter()
        .filter(|path| path.parent().is_some_and(|it| it.ends_with("figures")))
        .count();
    // each table twice, each figure twice, and the report as Markdown, as LaTeX and as HTML
    assert_eq!(written.len(), 2 * runs.frames().len() + figures + 3);
    assert!(figures > 0 && figures.is_multiple_of(2), "{figures}");
    let bytes = || {
        written
            .iter()
            .map(|path| fs::read(path).expect("the file exists"))
            .collect::<Vec<_>>()
    };
    let first = bytes();
    write_all(&runs, &About::default(), &directory).expect("the tables can be written again");
    assert_eq!(first, bytes());
    let files_in = |directory: &std::path::Path| {
        fs::read_dir(directory)
            .expect("the directory exists")
            .count()
    };
    assert_eq!(
        files_in(&directory) - 1 + files_in(&directory.join("figures")),
        written.len(),
        "no temporary file is left"
    );
    for (name, frame) in runs.frames() {
        let file =
            fs::File::open(directory.join(format!("{name}.parquet"))).expect("the file exists");
        let read = ParquetReader::new(file)
            .finish()
            .expect("polars reads its own Parquet");
        assert!(frame.equals_missing(&read), "{name}");
    }
}

#[test]
fn csv_keeps_every_bit_of_a_float() {
    let suite = Suite::new();
    let loss = 0.1 + 0.2;
    suite.complete("micro", "full", 0, loss);
    let path = suite.path().join("runs.csv");
    let frame = suite.read().runs();
    csv::write(&frame, &path).expect("the table can be written");
    let text = fs::read_to_string(path).expect("the table can be read");
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (header, values) = (
        lines.next().expect("a header"),
        lines.next().expect("a row"),
    );
    let index = header
        .iter()
        .position(|name| *name == "validation_loss")
        .expect("the column exists");
    assert_eq!(
        values[index].parse::<f64>().map(f64::to_bits),
        Ok(loss.to_bits())
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let suite = ordinary();
    suite.file("occupied", "tables", "a file where a directory should be");
    let path = suite.path().join("occupied").join("tables");
    let message =
        write_all(&suite.read(), &About::default(), &path).map_err(|error| error.to_string());
    assert!(
        matches!(&message, Err(message) if message.contains("occupied/tables")),
        "{message:?}"
    );
}

#[test]
fn json_has_an_object_for_each_row_and_null_for_what_is_absent() {
    let value = json(&troubled().perplexity());
    let rows = value.as_array().expect("an array");
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0]["method"], "full");
    assert_eq!(rows[0]["seeds_complete"], 3);
    assert_eq!(rows[2]["perplexity"], serde_json::Value::Null);
    assert!(
        rows[0]["perplexity"]
            .as_f64()
            .is_some_and(|perplexity| (perplexity - 90.62).abs() < 0.01),
        "exp of 4.50667"
    );
}

#[test]
fn an_empty_suite_has_empty_tables_and_a_report_that_says_so() {
    let suite = Suite::new();
    let runs = suite.read();
    assert!(runs.frames().iter().all(|(_, frame)| frame.height() == 0));
    assert_eq!(markdown(&runs), "# Results\n\nNo runs.\n");
}

/// Two seeds each of two methods on a GPU whose driver tells all, and one method on a machine where it tells nothing.
fn metered() -> Suite {
    let suite = Suite::new();
    for seed in 0..2 {
        for (method, joules_per_token) in [("full", 0.010), ("relora", 0.008)] {
            suite.complete_with("micro", method, seed, |result| {
                result["gpu"] = serde_json::json!({
                    "training_joules": 7.0e6, "evaluation_joules": 1.0e5, "joules": 7.2e6 + 3.6e4 * seed as f64,
                    "joules_per_token": joules_per_token, "utilization": 0.9, "peak_memory_bytes": 4_000_000_000_u64,
                });
            });
        }
        suite.complete("micro", "lora", seed, 4.6);
    }
    suite
}

#[test]
fn energy_stands_in_the_tables_where_the_driver_told_it_and_is_absent_elsewhere() {
    let runs = metered().read();
    let (throughput, memory) = (runs.throughput(), runs.memory());
    // by hand: 8 mJ over 10 mJ; 7.2 MJ are 2 kWh, and 36 kJ are 0.01 kWh, half of which the mean has
    for (frame, method, column, expected) in [
        (&throughput, "relora", "joules_per_token", 0.008),
        (&throughput, "relora", "joules_per_token_ratio", 0.8),
        (&throughput, "relora", "kilowatt_hours", 2.005),
        (&throughput, "full", "gpu_utilization", 0.9),
        (&memory, "full", "driver_peak_memory_bytes", 4.0e9),
    ] {
        let value = number(frame, method, column).expect(column);
        assert!((value / expected - 1.0).abs() < 1e-9, "{column}: {value}");
        assert_eq!(number(frame, "lora", column), None, "{column}");
    }
    let each = runs.runs();
    assert_eq!(number(&each, "full", "evaluation_joules"), Some(1.0e5));
    assert_eq!(number(&each, "lora", "joules"), None);
    let report = markdown(&runs);
    assert!(
        report.contains("mJ/token") && report.contains("0.8"),
        "{report}"
    );
    assert!(!markdown(&ordinary().read()).contains("mJ/token"));
}

#[test]
fn no_line_of_a_table_is_too_wide_for_a_terminal() {
    let long_names = ordinary();
    for seed in 0..3 {
        long_names.complete(
            "micro",
            "relora-no-optimizer-reset",
            seed,
            4.6 + 0.01 * seed as f64,
        );
    }
    for runs in [
        troubled(),
        ordinary().read(),
        long_names.read(),
        metered().read(),
    ] {
        for line in markdown(&runs).lines().filter(|line| line.starts_with('|')) {
            assert!(
                line.chars().count() <= 110,
                "{} characters: {line}",
                line.chars().count()
            );
        }
    }
}

#[test]
fn the_report_of_an_ordinary_suite() {
    insta::assert_snapshot!(markdown(&ordinary().read().with_planned(ordinary_plan())));
}

#[test]
fn the_tables_of_an_ordinary_suite_as_latex() {
    insta::assert_snapshot!(latex(&ordinary().read().with_planned(ordinary_plan())));
}

#[test]
fn the_report_of_a_troubled_suite() {
    insta::assert_snapshot!(markdown(&troubled()));
}

#[test]
fn the_report_with_published_figures() {
    let suite = Suite::new();
    for seed in 0..2 {
        for (method, loss) in [
            ("full", 3.50),
            ("low-rank", 3.83),
            ("lora", 3.61),
            ("relora", 3.55),
        ] {
            let loss = loss
                + 0.01 * (seed as f64)
                + if method == "lora" {
                    0.02 * seed as f64
                } else {
                    0.0
                };
            suite.complete("60m", method, seed, loss);
        }
    }
    insta::assert_snapshot!(markdown(&suite.read()));
}
