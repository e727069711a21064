//! What the parts do, what a restart does, what a loss costs and what equal costs buy, what is claimed: expected values are computed by hand from the
//! losses that the tests lay down.

use super::suite::{Suite, evaluation, restart, row, step};
use super::{number, text};
use results::claims::{self, Verdict};
use results::frame::{between, only_in};
use results::record::RowKeys;
use results::render::markdown;

/// A low-rank method with these parts.
fn with_parts(method: &str, seed: u64, restarts: bool, warm_start: bool) -> RowKeys {
    RowKeys {
        method: method.into(),
        restarts,
        warm_start,
        optimizer_reset: false,
        jagged: false,
        rewarmup: false,
        ..row("nano", "lora", seed)
    }
}

/// Losses 4.00 + 0.10 (restarts) - 0.30 (warm start) + 0.04 (both), and of each seed another level and a little of its own.
fn factorial(leave_out: &str) -> Suite {
    let suite = Suite::new();
    for (seed, level, own) in [(1, 0.0, 0.001), (2, 0.2, -0.002), (3, -0.1, 0.001)] {
        for (method, restarts, warm_start, loss) in [
            ("--", false, false, 4.00 + 0.2 * own),
            ("R-", true, false, 4.10 + own),
            ("-W", false, true, 3.70),
            ("RW", true, true, 3.84),
        ] {
            if method != leave_out {
                let keys = with_parts(method, seed, restarts, warm_start);
                let loss = loss + level;
                suite.complete_row(keys, loss, &[evaluation(20, loss)]);
            }
        }
    }
    suite
}

#[test]
fn effects_are_contrasts_within_seeds() {
    let frame = factorial("").read().effects();
    let effect = |name: &str, column: &str| -> f64 {
        let names = super::column_of_text(&frame, "effect_of");
        let row = names.iter().position(|it| it == name).expect("the effect");
        let value = frame.column(column).expect("the column").get(row);
        value.expect("the row").extract().expect("a number")
    };
    // with restarts 4.10 and 3.84, without 4.00 and 3.70; own parts of the seeds cancel: their mean is zero
    assert!((effect("restarts", "effect") - 0.12).abs() < 1e-12);
    assert!((effect("warm_start", "effect") + 0.28).abs() < 1e-12);
    // half of (3.84 - 3.70) - (4.10 - 4.00)
    assert!((effect("restarts x warm_start", "effect") - 0.02).abs() < 1e-12);
    assert_eq!(frame.height(), 3);
    // of the seeds' own parts, whose mean has an error of 0.001, 0.4 in two effects (1 - 0.2 over 2) and 0.6 in that of the warm
    // start (1 + 0.2): errors of 0.0004 and 0.0006 alone, and the root of their mean square together
    for name in ["restarts", "warm_start", "restarts x warm_start"] {
        let error = effect(name, "effect_standard_error");
        assert!((error - 0.000_476_1).abs() < 1e-6, "{name}: {error}");
    }
    // with six degrees of freedom; two would need 0.005
    assert!(effect("restarts", "effect_resolvable") < 0.003);
    assert_eq!(effect("restarts", "seeds_complete"), 3.0);

    let report = markdown(&factorial("").read());
    assert!(report.contains("### Effects of the parts"), "{report}");
    assert!(report.contains("| restarts x warm start |"), "{report}");
}

#[test]
fn without_all_combinations_there_are_no_effects() {
    assert_eq!(factorial("RW").read().effects().height(), 0);
}

/// Steps of 10, a restart every 40: windows of 10 steps. One method restarts at 40, with a rise of 0.5 that is gone at 60.
#[test]
fn a_spike_is_measured_beside_the_same_batches_without_a_restart() {
    let suite = Suite::new();
    let restarting = RowKeys {
        restart_every: Some(40),
        planned_steps: 80,
        ..row("nano", "relora", 1)
    };
    let losses = [(10, 4.4), (20, 4.3), (30, 4.2), (40, 4.1)];
    let mut records: Vec<_> = losses.iter().map(|(at, loss)| step(*at, *loss)).collect();
    records.push(restart(40));
    let after = [(50, 4.6), (60, 4.0), (70, 3.9), (80, 3.8)];
    records.extend(after.iter().map(|(at, loss)| step(*at, *loss)));
    suite.complete_row(restarting, 3.8, &records);
    let steady: Vec<_> = (1..=8)
        .map(|it| step(10 * it, 4.5 - 0.1 * it as f64))
        .collect();
    suite.complete_row(row("nano", "full", 1), 3.7, &steady);

    let frame = suite.read().recovery();
    let of = |method: &str, column: &str| number(&frame, method, column).expect("a number");
    // before: the step at 40 alone; behind: the one at 50; half a window is 5 steps, so that each is compared alone
    assert!((of("relora", "spike") - 0.5).abs() < 1e-12);
    assert_eq!(of("relora", "recovered_after_steps"), 20.0);
    assert_eq!(text(&frame, "relora", "restarted"), "true");
    assert!((of("full", "spike") + 0.1).abs() < 1e-12);
    assert_eq!(of("full", "recovered_after_steps"), 10.0);
    assert_eq!(text(&frame, "full", "restarted"), "false");
}

/// Evaluations at 100, 200 and 300 steps of 2048 targets. `relora` ends at 4.2, which `full` reaches half way from 100 (4.4) to
/// 200 (4.0): after 150 steps, so that the same loss costs twice the tokens. Its steps cost half of full rank's after a warm
/// start of 100.
#[test]
fn the_price_of_a_loss_is_read_off_the_evaluations() {
    let suite = Suite::new();
    for seed in [1, 2] {
        let full = RowKeys {
            flops: 300.0,
            ..row("nano", "full", seed)
        };
        let records = [
            evaluation(100, 4.4),
            evaluation(200, 4.0),
            evaluation(300, 3.9),
        ];
        suite.complete_row(full, 3.9, &records);
        let relora = RowKeys {
            flops: 200.0,
            warm_start_steps: Some(100),
            ..row("nano", "relora", seed)
        };
        let records = [
            evaluation(100, 4.8),
            evaluation(200, 4.4),
            evaluation(300, 4.2),
        ];
        suite.complete_row(relora, 4.2, &records);
    }
    let frame = suite.read().prices();
    let of = |column: &str| number(&frame, "relora", column).expect("a number");
    assert!((of("same_loss") - 4.2).abs() < 1e-12);
    assert!((of("tokens_to_loss_ratio") - 2.0).abs() < 1e-12);
    // 100 steps of 1 and 200 of 0.5, over 150 of 1
    assert!((of("flops_to_loss_ratio") - 200.0 / 150.0).abs() < 1e-12);
    assert!((of("flops_ratio") - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(of("pairs"), 2.0);
    assert_eq!(number(&frame, "full", "tokens_to_loss_ratio"), None);
    // the whole run and half of one; 200 operations and 150
    assert!((of("extra_tokens_to_loss") - 150.0 * 2048.0).abs() < 1e-6);
    assert!((of("extra_flops_to_loss") - 50.0).abs() < 1e-9);
    // the target is where `full` ends, and `relora` never gets there
    assert!((of("target_loss") - 3.9).abs() < 1e-12);
    assert_eq!([of("target_seeds"), of("target_reached")], [2.0, 0.0]);
    assert_eq!(number(&frame, "relora", "tokens_to_target"), None);
    let of_full = |column: &str| number(&frame, "full", column).expect("a number");
    assert_eq!(of_full("target_reached"), 2.0);
    assert!((of_full("tokens_to_target") - 300.0 * 2048.0).abs() < 1e-6);
    assert!((of_full("flops_to_target") - 300.0).abs() < 1e-9);

    // 0.5 of a step at full rank after the warm start, two thirds of the FLOPs in all
    let speed = suite.read().throughput();
    let of = |column: &str| number(&speed, "relora", column).expect("a number");
    assert!((of("flops_per_token_ratio") - 0.5).abs() < 1e-12);
    assert!((of("flops_ratio") - 2.0 / 3.0).abs() < 1e-12);
    // 250 s and ten for each nat of the final losses (the helper's): 292 s over 289 s
    assert!((of("training_seconds_ratio") - 292.0 / 289.0).abs() < 1e-12);
    let report = markdown(&suite.read());
    assert!(report.contains("Target: 3.9000 nats"), "{report}");
    // one over 0.5 and one over two thirds
    let shown = report.lines().any(|line| {
        line.starts_with("| `relora` |   2.000 |") && line.contains("|        1.500 |")
    });
    assert!(shown, "{report}");
}

/// The evaluations of the test above; `full` draws 3 J a step and `relora` 1 J. Half way from 100 to 200 steps `full` has spent
/// 450 J, and `relora` after its 300 steps 300 J.
#[test]
fn a_loss_has_a_price_in_joules_where_every_logged_step_tells_them() {
    let suite_of = |told_at_200: bool| {
        let suite = Suite::new();
        for (method, joules, losses) in [
            ("full", 3.0, [4.4, 4.0, 3.9]),
            ("relora", 1.0, [4.8, 4.4, 4.2]),
        ] {
            let mut records = Vec::new();
            for (at, loss) in [100, 200, 300].into_iter().zip(losses) {
                let mut logged = step(at, loss);
                if at != 200 || told_at_200 {
                    logged["training_joules"] = (joules * at as f64).into();
                }
                records.extend([logged, evaluation(at, loss)]);
            }
            suite.complete_row(row("nano", method, 1), losses[2], &records);
        }
        suite.read()
    };
    let frame = suite_of(true).prices();
    for (method, column, expected) in [
        ("relora", "joules_to_loss_ratio", 300.0 / 450.0),
        ("relora", "extra_joules_to_loss", -150.0),
        ("full", "joules_to_target", 900.0),
    ] {
        let value = number(&frame, method, column).expect(column);
        assert!((value - expected).abs() < 1e-9, "{column}: {value}");
    }
    assert!(markdown(&suite_of(true)).contains("joules"));
    let runs = suite_of(false);
    assert_eq!(
        number(&runs.prices(), "relora", "joules_to_loss_ratio"),
        None
    );
    assert!(!markdown(&runs).contains("joules"));
}

/// A logged step at which so many seconds had been trained.
fn timed(at: u64, seconds: f64) -> serde_json::Value {
    let mut record = step(at, 4.0);
    record["training_seconds"] = seconds.into();
    record
}

/// Full rank takes 300 steps of 1 operation and 0.1 s, ReLoRA a warm start of 100 such steps and 200 of 0.375 operations; a
/// step takes it 0.12 s.
fn suite_of_costs(full_evaluations: &[(u64, f64)], own: [f64; 2]) -> Suite {
    let suite = Suite::new();
    for (seed, own) in [1, 2].into_iter().zip(own) {
        let full = RowKeys {
            flops: 300.0,
            ..row("nano", "full", seed)
        };
        let mut records = vec![timed(100, 10.0), timed(200, 20.0), timed(300, 30.0)];
        let evaluations = full_evaluations.iter();
        records.extend(evaluations.map(|(at, loss)| evaluation(*at, *loss)));
        suite.complete_row(full, 3.9, &records);
        let relora = RowKeys {
            flops: 175.0,
            warm_start_steps: Some(100),
            ..row("nano", "relora", seed)
        };
        let records = [
            timed(100, 12.0),
            timed(200, 24.0),
            timed(300, 36.0),
            evaluation(100, 4.8 + own),
            evaluation(200, 4.4 + own),
            evaluation(300, 4.2 + own),
        ];
        suite.complete_row(relora, 4.2 + own, &records);
    }
    suite
}

/// A figure of `relora` in a currency.
fn equal(suite: &Suite, currency: &str, column: &str) -> Option<f64> {
    let frame = suite.read().equal();
    let methods = super::column_of_text(&frame, "method");
    let currencies = super::column_of_text(&frame, "currency");
    let mut names = methods.iter().zip(&currencies);
    let at = names.position(|(method, it)| method == "relora" && it == currency);
    let value = frame.column(column).expect("the column");
    value.get(at.expect("the row")).expect("the row").extract()
}

/// At equal tokens both are at their ends: 4.2 and 3.9. ReLoRA spends 100 + 200 * 0.375 = 175 operations, at which `full` is
/// three quarters of the way from 4.4 to 4.0: 4.1. `full` takes 30 s, at which ReLoRA is half way from 4.4 to 4.2: 4.3. One
/// seed of ReLoRA lies 0.02 higher, so that the mean does by 0.01, with an error of 0.01 and an interval of 12.7062 times that
/// (Student's t, one degree of freedom).
#[test]
fn methods_are_compared_where_both_have_spent_the_same() {
    let evaluations = [(100, 4.4), (200, 4.0), (300, 3.9)];
    let suite = suite_of_costs(&evaluations, [0.0, 0.02]);
    for (currency, budget, difference, of_full, of_own, bracket) in [
        ("tokens", 300.0 * 2048.0, 0.31, 1.0, 1.0, 0.0),
        ("flops", 175.0, 0.11, 175.0 / 300.0, 1.0, 0.4),
        ("seconds", 30.0, 0.41, 1.0, 250.0 / 300.0, 0.2),
    ] {
        for (column, expected) in [
            ("budget", budget),
            ("difference", difference),
            ("difference_low", difference - 0.127_062),
            ("difference_pairs", 2.0),
            ("share_of_reference", of_full),
            ("share_of_run", of_own),
            ("bracket", bracket),
        ] {
            let found = equal(&suite, currency, column).unwrap_or(f64::NAN);
            assert!(
                (found - expected).abs() < 1e-6,
                "{currency} {column}: {found} is not {expected}"
            );
        }
    }
    let report = markdown(&suite.read());
    assert!(
        report.contains("### Equal tokens, FLOPs and time"),
        "{report}"
    );
    let row = "| `relora` | FLOPs    |       58% |   100% |    +0.11 ± 0.13 |";
    assert!(report.contains(row), "{report}");
}

/// Who was evaluated only at the end, or for the first time beyond the budget, is read nowhere else.
#[test]
fn nothing_is_read_outside_the_evaluations() {
    for evaluations in [&[(300, 3.9)][..], &[(180, 4.05), (300, 3.9)]] {
        let suite = suite_of_costs(evaluations, [0.0, 0.02]);
        assert!(equal(&suite, "tokens", "difference").is_some());
        assert_eq!(equal(&suite, "flops", "difference"), None);
        assert_eq!(equal(&suite, "flops", "difference_pairs"), None);
        let report = markdown(&suite.read());
        let said =
            |line: &str| line.starts_with("| `relora` | FLOPs ") && line.contains("not read");
        assert!(report.lines().any(said), "{report}");
    }
}

#[test]
fn who_diverged_is_not_the_better_one_at_equal_cost_and_its_step_is_said() {
    let suite = suite_of_costs(&[(100, 4.9), (200, 4.7), (300, 4.6)], [0.0, 0.001]);
    suite.complete_row(row("nano", "full", 3), 4.6, &[evaluation(300, 4.6)]);
    suite.diverged("nano", "relora", 3, 120);
    for seed in [1, 2, 3] {
        suite.diverged("nano", "lora", seed, 40 + seed);
    }
    let frame = suite.read().equal();
    assert_eq!(text(&frame, "relora", "verdict"), "unresolved: diverged");
    assert_eq!(
        text(&frame, "lora", "status"),
        "diverged at 41, 42, 43 (3 of 3)"
    );
    let report = markdown(&suite.read());
    let section = report
        .split("### Equal tokens, FLOPs and time")
        .nth(1)
        .unwrap_or_default();
    assert!(
        section.contains("| diverged at 41, 42, 43 (3 of 3) |")
            && section.contains("- `relora`: diverged at 120 (1 of 3)."),
        "{report}"
    );
}

/// Seeds 0, 1, 2 beside 1, 2, 3: the common ones differ by 0.1 and 0.2, the others would spoil the mean. The helper's speed is
/// 1500 targets per second and 100 for each nat of the loss.
#[test]
fn two_suites_are_paired_by_their_common_seeds() {
    let (first, second) = (Suite::new(), Suite::new());
    for (seed, loss) in [(0, 9.0), (1, 4.0), (2, 4.5)] {
        first.complete("nano", "full", seed, loss);
        first.complete("nano", "lora", seed, loss);
    }
    for (seed, loss) in [(1, 4.1), (2, 4.7), (3, 1.0)] {
        second.complete("nano", "full", seed, loss);
        second.complete("nano", "relora", seed, loss);
    }
    let runs = [first.read(), second.read()];
    let rows = between(&runs[0], &runs[1]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let difference = rows[0].difference.expect("a difference");
    assert!((difference.point - 0.15).abs() < 1e-12 && difference.n == 2);
    assert_eq!(rows[0].verdict, Some("unresolved"));
    let speed = rows[0].speed.expect("a ratio").point;
    let expected = (1910.0 / 1900.0 * 1970.0 / 1950.0_f64).sqrt();
    assert!((speed - expected).abs() < 1e-12, "{speed}");
    let named = |method: &str| vec![("nano".to_owned(), method.to_owned())];
    assert_eq!(only_in(&runs[0], &runs[1]), named("lora"));
    assert_eq!(only_in(&runs[1], &runs[0]), named("relora"));
}

#[test]
fn a_suite_that_lost_seeds_to_divergence_is_not_better_by_the_others() {
    let (first, second) = (Suite::new(), Suite::new());
    for seed in 0..3 {
        first.complete("nano", "full", seed, 4.0 + 0.1 * seed as f64);
        second.complete("nano", "full", seed, 3.5 + 0.101 * seed as f64);
    }
    let verdict = || between(&first.read(), &second.read())[0].verdict;
    assert_eq!(verdict(), Some("better"));
    second.diverged("nano", "full", 3, 120);
    assert_eq!(verdict(), Some("unresolved: diverged"));
}

/// Losses of `relora` and others at a size, with a scatter by seed that all share and a small one of their own.
fn suite_of(size: &str, differences: &[(&str, f64)], seeds: u64) -> Suite {
    let suite = Suite::new();
    for seed in 1..=seeds {
        let own = 0.001 * (seed % 3) as f64;
        suite.complete(size, "relora", seed, 4.0 + 0.05 * seed as f64);
        for (method, difference) in differences {
            suite.complete(
                size,
                method,
                seed,
                4.0 + 0.05 * seed as f64 - difference + own,
            );
        }
    }
    suite
}

fn verdicts(suite: &Suite) -> Vec<Verdict> {
    let judgements = claims::judge(&suite.read());
    judgements.iter().map(|it| it.verdict).collect()
}

#[test]
fn a_claim_is_judged_at_its_own_sizes_and_by_all_that_it_compares() {
    // relora 0.1 above full, and below all others
    let others = [
        ("full", 0.1),
        ("control", -0.2),
        ("lora", -0.1),
        ("low-rank", -0.5),
        ("lora-warm-start", -0.05),
    ];
    let at_60m = verdicts(&suite_of("60m", &others, 5));
    assert_eq!(at_60m.len(), 14);
    assert_eq!(
        at_60m[0],
        Verdict::Refuted,
        "0.099 above full, and the margin is 0.0953"
    );
    assert_eq!(at_60m[1], Verdict::Reproduced, "better than control");
    assert_eq!(at_60m[2], Verdict::Reproduced, "better than each LoRA");
    assert_eq!(at_60m[3], Verdict::NotTested, "one size has no slope");
    assert_eq!(at_60m[4], Verdict::Reproduced, "full is not beaten at 60m");
    assert_eq!(at_60m[5], Verdict::NotTested, "not at 130m");
    assert_eq!(at_60m[12], Verdict::NotTested);

    // one comparison is missing
    let without_low_rank = verdicts(&suite_of("60m", &[others[0], others[2], others[4]], 5));
    assert_eq!(without_low_rank[2], Verdict::NotTested);

    // one seed cannot tell
    let one = verdicts(&suite_of("60m", &others, 1));
    assert_eq!(one[..3], [Verdict::Underpowered; 3]);

    let small = claims::judge(&suite_of("nano", &others, 5).read());
    assert_eq!(small[0].verdict, Verdict::NotTested);
    assert!(
        small[0].figures[0].starts_with("nano: relora - full +0.09"),
        "{:?}",
        small[0]
    );
    assert_eq!(
        small[0].needed.as_deref(),
        Some("runs of 60m, 130m, 250m, 350m")
    );
}

#[test]
fn a_gap_that_narrows_is_one_whose_slope_over_sizes_is_below_zero() {
    let suite = Suite::new();
    for seed in 1..=4 {
        let own = 0.001 * (seed % 3) as f64;
        // nano is none of the claim's sizes: its gap would turn the slope round
        for (size, gap) in [("nano", 0.0), ("60m", 0.2), ("130m", 0.05)] {
            suite.complete(size, "full", seed, 4.0 + 0.1 * seed as f64);
            suite.complete(size, "relora", seed, 4.0 + 0.1 * seed as f64 + gap + own);
        }
    }
    assert_eq!(verdicts(&suite)[3], Verdict::Reproduced);
}

#[test]
fn the_seeds_that_it_takes_follow_from_the_scatter() {
    let suite = Suite::new();
    // differences 0.02, 0.05, 0.08: a deviation of 0.03, and one comparison
    for (seed, difference) in [(1, 0.02), (2, 0.05), (3, 0.08)] {
        suite.complete("nano", "full", seed, 4.0);
        suite.complete("nano", "relora", seed, 4.0 + difference);
    }
    let needed = &suite.read().seeds_to_resolve("full", 0.03)[0];
    assert_eq!((needed.method.as_str(), needed.measured), ("relora", 3));
    // an effect of one deviation: 9.94 pairs by statsmodels (resolution.json)
    assert_eq!(needed.needed, Some(10));
}

#[test]
fn a_tie_is_declared_only_within_a_margin_that_was() {
    let suite = Suite::new();
    for (seed, difference) in [(1, 0.001), (2, -0.001), (3, 0.0), (4, 0.001)] {
        suite.complete("nano", "full", seed, 4.0 + 0.1 * seed as f64);
        suite.complete("nano", "relora", seed, 4.0 + 0.1 * seed as f64 + difference);
    }
    let verdict = |margin| {
        text(
            &suite.read().with_margin(margin).perplexity(),
            "relora",
            "verdict",
        )
    };
    assert_eq!(verdict(None), "unresolved");
    assert_eq!(verdict(Some(0.01)), "tie");
    assert_eq!(verdict(Some(0.001)), "unresolved");
}

#[test]
fn seeds_that_diverged_leave_a_claim_undecided() {
    let suite = suite_of("60m", &[("full", -0.1), ("control", -0.2)], 4);
    suite.diverged("60m", "relora", 5, 120);
    let judgement = &claims::judge(&suite.read())[1];
    assert_eq!(judgement.verdict, Verdict::Underpowered);
    let said = "60m: relora - control -0.20";
    assert!(judgement.figures[0].starts_with(said), "{judgement:?}");
    assert!(
        judgement.figures[0].ends_with("relora diverged on 1 of 5 seeds"),
        "{judgement:?}"
    );
    // one of the four sizes
    let scope = claims::judge(&suite_of("60m", &[("control", -0.2)], 4).read())[1]
        .scope
        .clone();
    assert_eq!(scope.as_deref(), Some("1 of its 4 sizes"));
}

/// The letters of the paper's table 6 as names.
#[test]
fn a_method_is_found_by_its_parts_where_none_has_the_name() {
    let suite = Suite::new();
    for seed in 1..=4 {
        let own = 0.001 * (seed % 3) as f64;
        let named = |method: &str, preset: &str| RowKeys {
            method: method.into(),
            ..row("60m", preset, seed)
        };
        for (keys, loss) in [
            (named("ROJW", "relora"), 4.0),
            (named("RO-W", "relora-no-jagged"), 4.3),
            (row("60m", "control", seed), 4.2),
        ] {
            let loss = loss + own * (loss - 4.0) * 10.0;
            suite.complete_row(keys, loss, &[evaluation(20, loss)]);
        }
    }
    let judged = claims::judge(&suite.read());
    assert_eq!(judged[1].verdict, Verdict::Reproduced, "{:?}", judged[1]);
}

/// 2.0 of the weights' bytes are the moments of `full`: 3.2 MB beside 1.6 MB.
#[test]
fn figures_of_memory_decide_their_claims() {
    let suite = Suite::new();
    for seed in 1..=3 {
        suite.complete_with("60m", "full", seed, |result| {
            result["optimizer_state_bytes"] = 3_200_000.into();
            result["peak_memory_bytes"] = (100_000_000 + 1000 * seed).into();
        });
        suite.complete_with("60m", "relora", seed, |result| {
            result["peak_memory_bytes"] = (90_000_000 + 2000 * seed).into();
        });
    }
    let verdicts = verdicts(&suite);
    assert_eq!(verdicts[10], Verdict::Reproduced);
    assert_eq!(verdicts[11], Verdict::Reproduced);
}
