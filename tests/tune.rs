//! `relora tune` as a person meets it: the same points for every method, a choice by validation loss, its price, a profile that
//! trains what was chosen beside the recipe, and all of it after a kill as well as before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{World, patiently, tables};

/// The tiny profile with a tuning: 26 of its 42 updates, two points, a seed of its own.
const PROFILE: &str = r#"
extends = "tiny.toml"
methods = ["full", "lora", "relora"]

[tune]
points = 2
seeds = [101]

[tune.proxy]
steps = 26
evaluate_every = 0

[tune.space]
learning_rate = { low = 1e-3, high = 1e-1 }
"#;

fn world() -> World {
    let world = World::new();
    fs::write(world.path("mine.toml"), PROFILE).expect("profile written");
    world
}

/// A command about that profile and the text of the tests, with more options behind.
fn about<'a>(command: &'a str, profile: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        command,
        "--profile",
        profile,
        "--data",
        "corpus.jsonl",
        "--device",
        "cpu",
    ];
    fixed.into_iter().chain(more.iter().copied()).collect()
}

fn tune<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    about("tune", "mine.toml", &[&["--out", out], more].concat())
}

/// Rows of a table of a suite.
fn rows(world: &World, suite: &str, table: &str) -> Vec<Value> {
    let json = world.succeed(&["tables", suite, "--table", table, "--json"]);
    serde_json::from_str(&json.stdout).expect("JSON")
}

/// Every result of a suite, by run, as it was written.
fn results(world: &World, suite: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(world.path(suite)).expect("a suite");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let results = paths.filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((name, fs::read(path.join("result.json")).ok()?))
    });
    results.collect()
}

/// Rate of the complete run of a method with the lowest loss, by the table of runs.
fn best_rate(runs: &[Value], method: &str) -> f64 {
    let points = runs.iter().filter(|run| run["point_of"] == method);
    let best = points.min_by(|left, right| {
        let loss = |run: &Value| run["validation_loss"].as_f64().expect("complete");
        loss(left).total_cmp(&loss(right))
    });
    best.expect("a point")["learning_rate"]
        .as_f64()
        .expect("a rate")
}

#[test]
fn tuning_chooses_by_loss_and_grows_and_leaves_a_profile_that_trains_both() {
    let world = world();
    let first = world.succeed(&tune("t", &[]));
    assert!(
        first.stdout.contains("### Tuning at tiny"),
        "{}",
        first.stdout
    );
    let done = results(&world, "t");
    // Two points of three methods, and `full` whose warm start is handed on.
    assert_eq!(done.len(), 7, "{:?}", done.keys());
    let profile = fs::read(world.path("t/mine-tuned.toml")).expect("a profile");

    // Again: nothing is repeated, and all comes out the same.
    let second = world.succeed(&tune("t", &[]));
    assert_eq!(second.stdout, first.stdout);
    assert!(results(&world, "t") == done);
    assert!(fs::read(world.path("t/mine-tuned.toml")).expect("a profile") == profile);

    // One point more: those that are done stay.
    let grown = world.succeed(&tune("t", &["--points", "3"]));
    let more = results(&world, "t");
    assert_eq!(more.len(), 10, "{:?}", more.keys());
    assert!(done.iter().all(|(run, result)| more[run] == *result));
    let runs = rows(&world, "t", "runs");
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in &runs {
        assert_eq!(
            (&run["seed"], &run["planned_steps"]),
            (&101.into(), &26.into())
        );
        if let Some(method) = run["point_of"].as_str() {
            let rate = run["learning_rate"].as_f64().expect("a rate");
            rates.entry(method).or_default().push(rate);
        }
    }
    // By logarithm a half, a quarter and three quarters of the way from 1e-3 to 1e-1: times 10, the roots of 10 and of 1000.
    for method in ["full", "lora", "relora"] {
        assert_eq!(rates[method], [1e-2, 3.16e-3, 3.16e-2], "{method}");
    }
    for row in rows(&world, "t", "tuning") {
        let method = row["method"].as_str().expect("a name");
        assert_eq!(row["learning_rate"], best_rate(&runs, method), "{row:#}");
        // Three runs of 26 updates of 4 sequences with 16 targets each.
        assert_eq!(row["tuning_tokens"], 3 * 26 * 4 * 16, "{row:#}");
        assert_eq!(row["points_complete"], 3);
        if method == "full" {
            // Of a run of 42 updates; full rank costs the same at every step.
            let runs = row["tuning_runs"].as_f64().expect("a number");
            assert!((runs - 3.0 * 26.0 / 42.0).abs() < 1e-9, "{row:#}");
        }
    }
    assert!(
        grown.stderr.contains("t/mine-tuned.toml"),
        "{}",
        grown.stderr
    );

    // The profile is one like any other, and trains the recipe and the tuned methods with the profile's seeds.
    let tuned = "t/mine-tuned.toml";
    let plan = world.succeed(&about("plan", tuned, &["--json"])).stdout;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let cells = plan["costs"].as_array().expect("a list").iter();
    let cells: Vec<&str> = cells.filter_map(|cost| cost["cell"].as_str()).collect();
    assert_eq!(
        cells,
        [
            "tiny-full-seed1",
            "tiny-full-tuned-seed1",
            "tiny-lora-seed1",
            "tiny-lora-tuned-seed1",
            "tiny-relora-seed1",
            "tiny-relora-tuned-seed1",
        ]
    );
    let only = [
        "--out",
        "both",
        "--only",
        "full,full-tuned",
        "--seeds",
        "1,2",
    ];
    let both = world.succeed(&about("bench-all", tuned, &only));
    assert!(
        both.stdout.contains("### Recipe and tuned"),
        "{}",
        both.stdout
    );
    let row = rows(&world, "both", "tuned").remove(0);
    assert_eq!(row["tuned_from"], "full");
    assert_eq!(
        (&row["difference_pairs"], &row["tuning_points"]),
        (&2.into(), &3.into())
    );
    // The recipe's rate is the tiny profile's.
    assert_eq!(row["recipe_learning_rate"], 3e-3);
    assert_eq!(row["learning_rate"], best_rate(&runs, "full"));
    assert_eq!(row["tuning_tokens"], 3 * 26 * 4 * 16);

    // The seed that chose must not judge; and who changes the profile keeps what he has.
    let judged = world.run(&about("plan", tuned, &["--seeds", "1,101"]));
    assert_eq!(judged.code, Some(2), "{}", judged.stderr);
    assert!(
        judged.stderr.contains("chosen by seed 101"),
        "{}",
        judged.stderr
    );
    let mine = fs::read_to_string(world.path(tuned)).expect("a profile") + "# mine\n";
    fs::write(world.path(tuned), &mine).expect("written");
    let refused = world.run(&tune("t", &["--points", "4"]));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert_eq!(
        fs::read_to_string(world.path(tuned)).expect("a profile"),
        mine
    );
    assert_eq!(results(&world, "t").len(), 10, "nothing was trained");
}

#[test]
fn a_tuning_that_is_killed_goes_on_and_ends_with_the_same_choice() {
    let world = world();
    world.succeed(&tune("undisturbed", &[]));
    let mut killed = world
        .command(&tune("disturbed", &[]))
        .spawn()
        .expect("it starts");
    patiently(|| {
        let begun = world.path("disturbed/tiny-full-seed101/metrics.jsonl");
        begun.metadata().ok().filter(|it| it.len() > 0)
    });
    killed.kill().expect("nobody has waited for it yet");
    let status = killed.wait().expect("waited for");
    assert_eq!(
        status.signal(),
        Some(Signal::SIGKILL as i32),
        "had ended before"
    );
    assert!(!world.path("disturbed/mine-tuned.toml").exists());
    world.succeed(&tune("disturbed", &[]));
    assert_eq!(
        tables(&world.path("disturbed")),
        tables(&world.path("undisturbed"))
    );
    let chosen = |suite: &str| {
        let text = fs::read_to_string(world.path(suite).join("mine-tuned.toml"));
        let table: toml::Table = text.expect("a profile").parse().expect("TOML");
        let mut sizes = table["size"]["tiny"]["method"].clone();
        for (_, method) in sizes.as_table_mut().expect("methods") {
            // Time differs.
            let _ = method
                .as_table_mut()
                .and_then(|it| it.remove("tuning_seconds"));
        }
        (table["methods"].clone(), sizes)
    };
    assert_eq!(chosen("disturbed"), chosen("undisturbed"));
}

/// A scale beyond single precision is infinite, and infinity times a factor of zeros is no number, whatever the rate.
#[test]
fn a_method_whose_every_point_diverges_is_reported_and_nothing_is_guessed() {
    let world = world();
    let set = ["--set", "method.lora.alpha=1e300", "--only", "full,lora"];
    let ended = world.succeed(&tune("t", &set));
    for part in ["nothing is chosen: `lora`", "`lora` 2 of 2"] {
        assert!(ended.stdout.contains(part), "{part} in\n{}", ended.stdout);
    }
    let text = fs::read_to_string(world.path("t/mine-tuned.toml")).expect("a profile");
    let table: toml::Table = text.parse().expect("TOML");
    let methods = table["methods"].as_array().expect("a list").iter();
    let methods: Vec<&str> = methods.filter_map(toml::Value::as_str).collect();
    assert_eq!(methods, ["full", "full-tuned", "lora"]);
    // What the command line set goes with it.
    assert_eq!(table["method"]["lora"]["alpha"].as_float(), Some(1e300));
    world.succeed(&about("plan", "t/mine-tuned.toml", &[]));

    // The same where that is every method: there is no profile, and no failure.
    let none = world.succeed(&tune("none", &[set[0], set[1], "--only", "lora"]));
    assert!(!world.path("none/mine-tuned.toml").exists());
    assert!(none.stderr.contains("no profile"), "{}", none.stderr);
}

/// One network of one block in place of two of two and four.
#[test]
fn a_smaller_size_stands_for_every_size_of_the_profile() {
    let world = world();
    let sizes = "extends = \"mine.toml\"\nsizes = [\"a\", \"b\"]\nmethods = [\"full\"]\n\
                 [size.b]\nlayers = 4\n[tune]\nsize = \"c\"\n[tune.proxy]\nlayers = 1\n";
    fs::write(world.path("sizes.toml"), sizes).expect("profile written");
    world.succeed(&about("tune", "sizes.toml", &["--out", "t"]));
    let trained = results(&world, "t");
    let runs: Vec<&String> = trained.keys().collect();
    assert_eq!(runs, ["c-full-point1-seed101", "c-full-point2-seed101"]);
    let rate = best_rate(&rows(&world, "t", "runs"), "full");
    let text = fs::read_to_string(world.path("t/sizes-tuned.toml")).expect("a profile");
    let table: toml::Table = text.parse().expect("TOML");
    for size in ["a", "b"] {
        let chosen = &table["size"][size]["method"]["full-tuned"];
        assert_eq!(chosen["learning_rate"].as_float(), Some(rate), "{size}");
    }
    // What the proxy runs are is a profile that can be priced, though the sizes that it stands for are none of its own.
    let proxy = world.succeed(&about("tune", "sizes.toml", &["--print-config"]));
    fs::write(world.path("proxy.toml"), proxy.stdout).expect("profile written");
    world.succeed(&about("plan", "proxy.toml", &[]));
    // It is not the place of what another profile's tuning chooses.
    let output = ["--out", "other", "--output", "t/sizes-tuned.toml"];
    let refused = world.run(&about("tune", "mine.toml", &output));
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(
        refused
            .stderr
            .contains("t/sizes-tuned.toml: is there already"),
        "{}",
        refused.stderr
    );
    // What it cost, in one run at either size, as the plan prices them.
    let plan = world.succeed(&about("plan", "sizes.toml", &["--json"]));
    let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let costs = plan["costs"].as_array().expect("a list").iter();
    let both: f64 = costs.filter_map(|cost| cost["flops"].as_f64()).sum();
    let row = rows(&world, "t", "tuning").remove(0);
    let flops = row["tuning_flops"].as_f64().expect("a number");
    let in_runs = row["tuning_runs"].as_f64().expect("a number");
    assert!((in_runs - flops / both).abs() < 1e-9, "{row:#}");
}

/// Both methods would be trained with the proxy's value, as one and the same.
#[test]
fn a_method_that_differs_in_what_the_proxy_sets_is_refused() {
    let world = world();
    let often = "extends = \"mine.toml\"\nmethods = [\"full\", \"relora\", \"often\"]\n\
                 [method.often]\npreset = \"relora\"\nrestart_every = 4\n[tune.proxy]\nrestart_every = 8\n";
    fs::write(world.path("often.toml"), often).expect("profile written");
    let refused = world.run(&about("tune", "often.toml", &["--out", "t"]));
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    for part in ["often.toml:5", "restart_every", "[tune.proxy]"] {
        assert!(
            refused.stderr.contains(part),
            "{part} in {}",
            refused.stderr
        );
    }
}
