//! The command as a person meets it: help, plan, a whole small suite with its tables, the commands that read.

use std::fs;
use std::path::Path;

use clap::Parser;
use harness::cli::Cli;
use harness::matrix::Cell;
use harness::plan::Plan;
use serde_json::Value;

use crate::support::{World, tables};

/// Help of every command, frozen: a change of words is a change that users see.
#[test]
fn help_reads_as_it_did() {
    let world = World::new();
    for command in [
        "",
        "bench-all",
        "plan",
        "train",
        "tune",
        "status",
        "tables",
        "report",
        "spectra",
        "explain",
        "export",
        "eval",
        "bench-step",
        "doctor",
        "completions",
    ] {
        let arguments: Vec<&str> = if command.is_empty() {
            vec!["--help"]
        } else {
            vec![command, "--help"]
        };
        let name = if command.is_empty() {
            "help".to_owned()
        } else {
            format!("help-{command}")
        };
        insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, world.succeed(&arguments).stdout);
        });
    }
}

/// Whoever copies a command from the documents gets what it says, not a lesson in its flags.
#[test]
fn every_command_of_the_documents_is_one_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    let docs = fs::read_dir(root.join("docs")).expect("docs");
    documents.extend(docs.map(|entry| entry.expect("an entry").path()));
    let mut found = 0;
    for document in documents {
        let text = fs::read_to_string(&document).expect("a document");
        // Every second part stands between fences.
        for line in text.split("```").skip(1).step_by(2).flat_map(str::lines) {
            let line = line.split(" #").next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let named = match (words.next(), words.next()) {
                (Some("cargo"), Some("bench-all")) => vec!["relora", "bench-all"],
                (Some("cargo"), Some("relora")) => vec!["relora"],
                (Some("relora"), Some(command)) => vec!["relora", command],
                _ => continue,
            };
            let arguments: Vec<&str> = named.into_iter().chain(words).collect();
            if let Err(error) = Cli::try_parse_from(&arguments) {
                panic!("{}: {line}\n{error}", document.display());
            }
            found += 1;
        }
    }
    assert!(found > 20, "{found} commands");
}

/// docs/fidelity.md says of each difference which test pins it.
#[test]
fn every_test_that_the_table_of_differences_names_exists() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *text += &fs::read_to_string(&path).expect("a source");
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for folder in ["harness", "models", "datasets", "results", "tests"] {
        sources(&root.join(folder), &mut text);
    }
    let table = fs::read_to_string(root.join("docs/fidelity.md")).expect("the table");
    // Names of tests are sentences; those of settings and recordings are shorter, or begin with a kind.
    let named: Vec<&str> = (table.split('`').skip(1).step_by(2))
        .filter(|name| name.matches('_').count() >= 4 && !name.starts_with("trajectory_"))
        .collect();
    assert!(named.len() > 25, "{named:?}");
    for name in named {
        let before = text
            .split(&format!("fn {name}("))
            .next()
            .unwrap_or_default();
        let pinned = before.len() < text.len() && before.trim_end().ends_with("#[test]");
        assert!(pinned, "{name}");
    }
}

#[test]
fn help_and_configuration_touch_neither_device_nor_text() {
    let world = World::new();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["bench-all", "--profile", "paper", "--print-config"],
        &["plan", "--profile", "ablations", "--print-config"],
        &[
            "train",
            "--profile",
            "smoke",
            "--size",
            "nano",
            "--method",
            "relora",
            "--print-config",
        ],
        &["completions", "bash"],
    ] {
        // Without a home there are no crates to read and nowhere to keep anything.
        let child = world
            .command(arguments)
            .env_remove("HOME")
            .env("CARGO_HOME", "/nowhere")
            .spawn()
            .expect("it starts");
        let ended = crate::support::ended(child);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:#?}");
    }
    assert!(!world.path("cache").exists() && !world.path("runs").exists());
}

#[test]
fn the_printed_configuration_is_a_profile_that_means_the_same() {
    let world = World::new();
    for profile in [
        "smoke",
        "laptop",
        "paper",
        "ablations",
        "ablations-laptop",
        "gpu-check",
        "tiny.toml",
    ] {
        let first = world
            .succeed(&[
                "bench-all",
                "--profile",
                profile,
                "--set",
                "weight_decay=0.01",
                "--jobs",
                "3",
                "--print-config",
            ])
            .stdout;
        fs::write(world.path("copied.toml"), &first).expect("written");
        let second = world
            .succeed(&["bench-all", "--profile", "copied.toml", "--print-config"])
            .stdout;
        assert_eq!(first, second, "{profile}");
        assert!(first.contains("weight_decay = 0.01"), "{profile}");
        assert!(first.contains("jobs = 3"), "{profile}");
    }
}

#[test]
fn a_plan_says_what_would_run_and_runs_nothing() {
    let world = World::new();
    let arguments = World::tiny("plan", &["--out", "out"]);
    let text = world.succeed(&arguments).stdout;
    for part in [
        "relora",
        "low-rank",
        "tokens",
        "trained",
        "FLOPs",
        "moments",
        "4 cells",
        "\ntime each: full rank's for as many steps, ",
        "by a short measurement of `tiny`",
        "would go to out",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json = world
        .succeed(&[&arguments[..], &["--json"]].concat())
        .stdout;
    let plan: Value = serde_json::from_str(&json).expect("JSON");
    let costs = plan["costs"].as_array().expect("a list");
    assert_eq!(costs.len(), 4);
    for cost in costs {
        // 42 updates of 4 sequences with 16 targets each.
        assert_eq!(cost["tokens"], 42 * 4 * 16, "{cost:#}");
        assert!(
            cost["flops"].as_f64() > Some(0.0) && cost["expected_seconds"].as_f64() > Some(0.0),
            "{cost:#}"
        );
    }
    assert!(!world.path("out").exists());
}

#[test]
fn a_budget_shortens_every_run_in_proportion() {
    let world = World::new();
    let arguments = World::tiny(
        "plan",
        &[
            "--set",
            "settings.steps=420",
            "--set",
            "settings.warm_start_steps=100",
            "--set",
            "settings.restart_every=80",
            "--budget",
            "54K tokens",
            "--json",
        ],
    );
    let json = world.succeed(&arguments).stdout;
    let plan: Value = serde_json::from_str(&json).expect("JSON");
    let tokens: u64 = plan["costs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|cost| cost["tokens"].as_u64().expect("a count"))
        .sum();
    // Half of 4 x 420 x 64: the largest multiple of all lengths' common unit that fits into 54,000.
    assert_eq!(tokens, 4 * 210 * 64);
}

#[test]
fn a_suite_leaves_tables_of_every_kind() {
    let world = World::new();
    let ended = world.succeed(&World::suite("out", &["--seeds", "1,2"]));
    for part in ["relora", "perplexity", "95%", "8 of 8 runs complete"] {
        assert!(ended.stdout.contains(part), "{part} in\n{}", ended.stdout);
    }
    assert!(ended.stderr.contains("out/tables"), "{}", ended.stderr);
    for name in [
        "runs",
        "perplexity",
        "throughput",
        "memory",
        "ablations",
        "curves",
        "events",
        "spectra",
        "spectra_histogram",
    ] {
        for extension in ["csv", "parquet"] {
            assert!(
                world
                    .path(format!("out/tables/{name}.{extension}"))
                    .is_file(),
                "{name}.{extension}"
            );
        }
    }

    // What the commands that read say is what the suite says.
    let printed = world.succeed(&["tables", "out"]).stdout;
    assert_eq!(printed, ended.stdout);
    let before = tables(&world.path("out"));
    let json: Value =
        serde_json::from_str(&world.succeed(&["tables", "out", "--json"]).stdout).expect("JSON");
    assert_eq!(json["runs"].as_array().map(Vec::len), Some(8));
    assert_eq!(tables(&world.path("out")), before);
    let runs: Value = serde_json::from_str(
        &world
            .succeed(&["tables", "out", "--table", "runs", "--json"])
            .stdout,
    )
    .expect("JSON");
    for run in runs.as_array().expect("a list") {
        assert_eq!(run["status"], "complete");
        assert_eq!(run["tokens_seen"], 42 * 4 * 16);
        // The text is far from random: every method learns something from 2,688 tokens, ln 320 = 5.77 being ignorance.
        assert!(run["validation_loss"].as_f64() < Some(5.7), "{run:#}");
    }
    let described = world.succeed(&["tables", "out", "--describe"]).stdout;
    assert!(
        described.contains("validation_loss") && described.contains("nats"),
        "{described}"
    );

    let report = world.succeed(&["report", "out"]).stdout;
    assert!(
        fs::read_to_string(world.path(report.trim()))
            .expect("a report")
            .contains("relora")
    );
    let status = world.succeed(&["status", "out"]).stdout;
    assert!(
        status.contains("42/42") && status.contains("8 complete"),
        "{status}"
    );
    // A copy that stands anywhere can be read as well: nothing in a suite points to where it was made.
    fs::rename(world.path("out"), world.path("moved")).expect("moved");
    assert_eq!(world.succeed(&["tables", "moved"]).stdout, printed);
    // Where nothing can be written they are printed all the same.
    fs::remove_dir_all(world.path("moved/tables")).expect("removed");
    fs::write(world.path("moved/tables"), "mine").expect("written");
    let only_read = world.succeed(&["tables", "moved"]);
    assert_eq!(only_read.stdout, printed);
    assert!(
        only_read.stderr.contains("stay as they are"),
        "{}",
        only_read.stderr
    );
}

#[test]
fn one_cell_by_flags_is_the_same_run_as_in_a_suite() {
    let world = World::new();
    let one = [
        "--size", "tiny", "--method", "relora", "--rank", "2", "--seed", "5", "--out", "one",
    ];
    let ended = world.succeed(&World::tiny("train", &one));
    let said = "rank 2, alpha 4: scale 2, as in the profile";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    world.succeed(&World::suite(
        "many",
        // The profile's scale, 8 / 4, goes with the rank that a flag gives.
        &[
            "--seeds", "5", "--set", "rank=2", "--set", "alpha=4", "--only", "relora",
        ],
    ));
    let weights = |suite: &str| {
        fs::read(
            world
                .path(suite)
                .join("tiny-relora-seed5/checkpoints/step-42/weights.safetensors"),
        )
    };
    assert!(weights("one").expect("weights") == weights("many").expect("weights"));
}

#[test]
fn the_order_of_tables_is_the_profile_s_and_small_text_is_said_to_be_small() {
    let world = World::new();
    let few = ["--set", "data.validation_tokens=300", "--set", "steps=42"];
    let grown = |only, seeds| {
        let asked = [&["--only", only, "--seeds", seeds], &few[..]].concat();
        world.succeed(&World::suite("runs/grown", &asked))
    };
    let ended = grown("relora,lora", "1-2");
    let small = "warning: tiny: validation is over";
    assert!(ended.stderr.contains(small), "{}", ended.stderr);
    grown("full", "1");
    let status = world.succeed(&["status", "grown", "--json"]).stdout;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let cells: Vec<&str> = status
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|run| run["cell"].as_str())
        .collect();
    assert_eq!(
        cells,
        [
            "tiny-full-seed1",
            "tiny-lora-seed1",
            "tiny-lora-seed2",
            "tiny-relora-seed1",
            "tiny-relora-seed2"
        ]
    );
    let report = world.succeed(&["report", "--output", "-", "grown"]).stdout;
    assert!(report.starts_with("# Results"), "{report}");
    assert!(!world.path("-").exists());

    let long = ["--set", "steps=4202", "--only", "lora"];
    let ended = world.succeed(&World::tiny("plan", &long));
    let several = "note: passes over the training text";
    assert!(ended.stderr.contains(several), "{}", ended.stderr);
}

/// Validation losses of `full` by seed.
fn losses_of_full(world: &World, suite: &str) -> Vec<f64> {
    let runs = world.succeed(&["tables", suite, "--table", "runs", "--json"]);
    let runs: Value = serde_json::from_str(&runs.stdout).expect("JSON");
    let runs = runs.as_array().expect("a list");
    runs.iter()
        .filter(|run| run["method"] == "full")
        .map(|run| run["validation_loss"].as_f64().expect("a loss"))
        .collect()
}

#[test]
fn two_suites_are_compared_by_the_seeds_of_both_where_they_read_the_same_text() {
    let world = World::new();
    let make = |out, more: &[&str]| world.succeed(&World::suite(out, more));
    make("a", &["--only", "full,lora", "--seeds", "1-2"]);
    let rate = ["--set", "settings.learning_rate=6e-3"];
    make(
        "b",
        &[&["--only", "full,relora", "--seeds", "1-2"], &rate[..]].concat(),
    );
    let report = world.succeed(&["report", "a", "b"]).stdout;
    for said in [
        "- A: `a`, 4 of 4 runs complete.",
        "- `learning_rate`: 0.003 in A, 0.006 in B",
        "- A: `lora` at tiny",
        "- B: `relora` at tiny",
    ] {
        assert!(report.contains(said), "{said} in\n{report}");
    }
    // The mean of the two differences, to the digits that its interval leaves.
    let [a, b] = ["a", "b"].map(|suite| losses_of_full(&world, suite));
    let mean = (b[0] - a[0] + b[1] - a[1]) / 2.0;
    let row = report.lines().find(|line| line.starts_with("| `full`"));
    let cells: Vec<&str> = row.expect("a row").split('|').map(str::trim).collect();
    assert_eq!(cells[4], "2", "pairs");
    let shown = cells[5].split(' ').next().expect("a number");
    let decimals = shown.split('.').nth(1).map_or(0, str::len) as i32;
    let found: f64 = shown.parse().expect("a number");
    assert!(
        (found - mean).abs() <= 0.5001 * 10_f64.powi(-decimals),
        "{mean} in\n{report}"
    );
    let written = ["report", "a", "b", "--output", "both.md"];
    assert_eq!(world.succeed(&written).stdout, "both.md\n");
    let both = fs::read_to_string(world.path("both.md")).expect("a report");
    assert_eq!(both, report);

    // Rows of another length are other validation rows, and another text is another text.
    make(
        "short",
        &["--only", "full", "--set", "settings.sequence_length=8"],
    );
    fs::write(world.path("other.jsonl"), crate::support::corpus(300)).expect("written");
    let other = World::suite("other", &["--only", "full"]);
    let other: Vec<&str> = (other.iter())
        .map(|word| {
            if *word == "corpus.jsonl" {
                "other.jsonl"
            } else {
                *word
            }
        })
        .collect();
    world.succeed(&other);
    make("lora", &["--only", "low-rank"]);
    for (with, says) in [
        (
            "short",
            &["at tiny they have sequence_length = 16 and 8;"][..],
        ),
        (
            "other",
            &[
                "data.hash = ",
                ", training = ",
                ", validation = ",
                " and \"",
            ],
        ),
        (
            "lora",
            &[
                "a and lora have no method of a size in common: the first has tiny full, tiny lora, the second tiny low-rank",
            ],
        ),
        ("nowhere", &["nowhere is not a suite"]),
    ] {
        let refused = world.run(&["report", "a", with, "--output", "refused.md"]);
        assert_eq!(refused.code, Some(2), "{refused:#?}");
        for said in says {
            assert!(refused.stderr.contains(said), "{said} in {refused:#?}");
        }
        assert!(!world.path("refused.md").exists());
    }
    let as_html = world.run(&["report", "a", "b", "--output", "both.html"]);
    assert_eq!(as_html.code, Some(2), "{as_html:#?}");
    let says = "--output both.html: two suites are compared in Markdown";
    assert!(as_html.stderr.contains(says), "{as_html:#?}");
}

#[test]
fn a_suite_is_watched_from_another_terminal_until_it_ends() {
    let world = World::new();
    let long = long(4000);
    let set: Vec<&str> = long.iter().map(String::as_str).collect();
    let arguments = World::suite("out", &[&set[..], &["--only", "full"]].concat());
    let suite = world.command(&arguments).spawn().expect("it starts");
    let metrics = world.path("out/tiny-full-seed1/metrics.jsonl");
    crate::support::patiently(|| fs::metadata(&metrics).ok().filter(|it| it.len() > 0));
    let watched = world.succeed(&["status", "out", "--watch"]).stdout;
    assert_eq!(crate::support::ended(suite).code, Some(0));
    let (before, after) = watched
        .split_once("\nout: 1 running\n")
        .unwrap_or_else(|| panic!("{watched}"));
    assert!(
        before.contains("tiny-full-seed1  running") && before.contains("/4000"),
        "{watched}"
    );
    assert!(before.contains("tokens/s, about "), "{watched}");
    assert!(after.ends_with("\nout: 1 complete\n"), "{watched}");
}

#[test]
fn threads_and_jobs_change_no_bit() {
    let world = World::new();
    world.succeed(&World::suite("one", &["--jobs", "1"]));
    world.succeed(&World::suite("two", &["--jobs", "2"]));
    assert_eq!(tables(&world.path("one")), tables(&world.path("two")));
}

#[test]
fn a_run_that_diverges_is_a_result() {
    let world = World::new();
    let ended = world.succeed(&World::suite(
        "out",
        &[
            "--only",
            "full",
            "--set",
            "learning_rate=1e30",
            "--set",
            "grad_clip=none",
        ],
    ));
    let runs: Value = serde_json::from_str(
        &world
            .succeed(&["tables", "out", "--table", "runs", "--json"])
            .stdout,
    )
    .expect("JSON");
    assert_eq!(runs[0]["status"], "diverged", "{}", ended.stdout);
    assert_eq!(runs[0]["perplexity"], Value::Null);
    // The rate of the first update is zero, the second's moves the weights out of all bounds, and the third sees that.
    let result = fs::read(world.path("out/tiny-full-seed1/result.json")).expect("a result");
    let result: Value = serde_json::from_slice(&result).expect("JSON");
    assert_eq!(result["diverged_at_step"], 3, "{result:#}");
}

#[test]
fn the_doctor_says_what_is_here() {
    let world = World::new();
    let text = world.succeed(&["doctor"]).stdout;
    for part in [
        "processor",
        "memory",
        "default text",
        "NVIDIA driver",
        "NVRTC",
        "bench-all",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let checks: Value =
        serde_json::from_str(&world.succeed(&["doctor", "--json"]).stdout).expect("JSON");
    assert!(checks.as_array().expect("a list").len() > 5);
}

#[test]
fn a_completion_script_knows_the_names_of_profiles_methods_and_sizes() {
    let script = World::new().succeed(&["completions", "bash"]).stdout;
    for name in ["laptop-rates", "relora-no-jagged", "130m", "official-head"] {
        assert!(script.contains(name), "{name}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let mut child = world
        .command(&["completions", "bash"])
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let ended = crate::support::ended(child);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_suite_goes_on_when_nobody_reads_what_it_says() {
    let world = World::new();
    let start = |arguments: &[&str]| world.command(arguments).spawn().expect("it starts");
    let mut child = start(&World::suite("out", &["--only", "full"]));
    drop(child.stderr.take());
    assert_eq!(crate::support::ended(child).code, Some(0));
    // Nor does an error need a listener.
    let mut child = start(&["tables", "nowhere"]);
    drop(child.stderr.take());
    assert_eq!(crate::support::ended(child).code, Some(2));

    // A folder where a worker would write keeps its cell from running: that is what the exit code is about, and not who
    // reads the tables.
    fs::create_dir_all(world.path("out/tiny-lora-seed1/lease.lock")).expect("created");
    let mut child = start(&World::suite("out", &["--only", "lora"]));
    drop(child.stdout.take());
    let ended = crate::support::ended(child);
    assert_eq!(ended.code, Some(3), "{ended:#?}");
}

/// Two terminals, or two nodes with a cache of their own, on one suite.
#[test]
fn a_second_command_works_in_its_own_place_and_leaves_the_plan_that_of_the_first() {
    let world = World::new();
    let placed = || {
        let plan = fs::read_to_string(world.path("out/plan.toml")).expect("a plan");
        let plan: toml::Value = toml::from_str(&plan).expect("TOML");
        ["store", "device", "jobs", "threads"].map(|key| plan[key].clone())
    };
    let threads = |cell: &str| {
        let manifest = fs::read(world.path(format!("out/{cell}/manifest.json")));
        let manifest: Value = serde_json::from_slice(&manifest.expect("read")).expect("JSON");
        manifest["sessions"][0]["threads"].as_u64()
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    world.succeed(&World::suite("out", &["--only", "full", "--jobs", "1"]));
    let first = placed();
    // A worker that opened the first one's store would fail.
    for entry in fs::read_dir(first[0].as_str().expect("a path")).expect("a store") {
        fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    let second = world
        .command(&World::suite(
            "out",
            &["--only", "lora", "--only", "low-rank", "--jobs", "2"],
        ))
        .env("XDG_CACHE_HOME", world.path("another-cache"))
        .spawn()
        .expect("it starts");
    let second = crate::support::ended(second);
    assert_eq!(second.code, Some(0), "{second:#?}");
    assert_eq!(threads("tiny-full-seed1"), Some(cores));
    assert_eq!(threads("tiny-lora-seed1"), Some((cores / 2).max(1)));
    assert_eq!(placed(), first);
}

/// A profile of the tiny size that takes long, its lengths multiples of its own tenth.
fn long(steps: u64) -> Vec<String> {
    let tenth = steps / 10;
    [
        format!("steps={steps}"),
        format!("warm_start_steps={tenth}"),
        format!("restart_every={tenth}"),
        format!("evaluate_every={}", steps / 4),
        "checkpoint_every=0".into(),
        "log_every=100".into(),
    ]
    .into_iter()
    .flat_map(|set| ["--set".into(), format!("settings.{set}")])
    .collect()
}

#[test]
fn a_budget_is_turned_into_steps_once() {
    let world = World::new();
    let long = long(400);
    let suite = |more: &[&str]| {
        let set: Vec<&str> = long.iter().map(String::as_str).collect();
        let more = [&set[..], more].concat();
        world.run(&World::suite("out", &more))
    };
    // A third of one run's 400 x 64 targets, and no whole share of its lengths: 13 of 40 units.
    let budget = ["--budget", "8500 tokens"];
    let first = suite(&[&budget[..], &["--only", "full"]].concat());
    assert_eq!(first.code, Some(0), "{first:#?}");
    // Five times the cells would be a fifth of the steps each.
    let more = [
        "--only", "full", "--only", "relora", "--seeds", "1,2", "--jobs", "2",
    ];
    let second = suite(&[&budget[..], &more[..]].concat());
    assert_eq!(second.code, Some(0), "{second:#?}");
    let status = world.succeed(&["status", "out", "--json"]).stdout;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let steps: Vec<Option<u64>> = (status.as_array().expect("a list").iter())
        .map(|run| run["update_steps"].as_u64())
        .collect();
    assert_eq!(steps, [Some(130); 4]);
    let other = suite(&["--budget", "6400 tokens", "--only", "full"]);
    assert_eq!(other.code, Some(2), "{other:#?}");
    assert!(
        other
            .stderr
            .contains("sized to the budget 8500 tokens, this command to the budget 6400 tokens"),
        "{other:#?}"
    );
    // A method that the suite does not hold yet would be of another length.
    let none = suite(&["--only", "lora"]);
    assert_eq!(none.code, Some(2), "{none:#?}");
    let says = "sized to the budget 8500 tokens, this command to no budget";
    assert!(none.stderr.contains(says), "{none:#?}");
    let grown = suite(&[&budget[..], &["--only", "lora"]].concat());
    assert_eq!(grown.code, Some(0), "{grown:#?}");
    let says = "note: the 5 cells of this suite by now cost about 41,600 tokens in all";
    assert!(grown.stderr.contains(says), "{grown:#?}");
}

#[test]
fn one_run_in_another_number_of_steps_says_what_becomes_of_its_lengths() {
    let world = World::new();
    let train = |method: &str, steps: &str| {
        world.run(&[
            "train",
            "--profile",
            "tiny.toml",
            "--data",
            "corpus.jsonl",
            "--device",
            "cpu",
            "--size",
            "tiny",
            "--method",
            method,
            "--steps",
            steps,
        ])
    };
    let ended = train("relora", "23");
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    for part in [
        "in proportion: steps=23, ",
        ", warm_start_steps=7, ",
        ", method.relora.restart_every=4",
    ] {
        assert!(ended.stderr.contains(part), "{ended:#?}");
    }
    let refused = train("relora", "2");
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(
        refused.stderr.contains("error: --steps 2: "),
        "{refused:#?}"
    );
}

#[test]
fn a_budget_that_was_enough_is_enough_when_the_command_is_repeated() {
    let world = World::new();
    for budget in ["1h", "1B tokens"] {
        let out = budget.replace(' ', "-");
        for more in [
            &["--only", "full"][..],
            &["--only", "full"],
            &["--only", "full,lora"],
        ] {
            let ended = world.run(&World::suite(&out, &[&["--budget", budget], more].concat()));
            assert_eq!(ended.code, Some(0), "{budget} {more:?} {ended:#?}");
        }
    }
}

#[test]
fn a_plan_counts_evaluations_and_starts() {
    let world = World::new();
    let set = ["--json", "--set", "settings.evaluate_every=1"];
    let plan = world.succeed(&World::tiny("plan", &set)).stdout;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let number = |value: &Value| value.as_f64().expect("a number");
    let calibration = &plan["calibration"];
    assert!(number(&calibration["start_seconds"]) > 0.0, "{calibration}");
    let full = &plan["costs"][0];
    assert_eq!(full["method"], "full");
    // 42 evaluations, forward only.
    let evaluated = 42.0 * number(&calibration["validation_tokens"]) / 3.0;
    let of_one_token = number(&full["flops"]) / number(&full["tokens"]);
    let computed = of_one_token * (number(&full["tokens"]) + evaluated);
    let least =
        number(&calibration["start_seconds"]) + computed / number(&calibration["flops_per_second"]);
    assert!(evaluated > number(&full["tokens"]), "{evaluated}");
    assert!(number(&full["expected_seconds"]) >= least, "{full} {least}");
}

/// What it took to measure is a machine's own affair, and this one may have become busier since: three more tries.
#[test]
fn a_suite_sized_to_a_time_is_complete_at_its_end() {
    let world = World::new();
    let long = long(200_000);
    let set: Vec<&str> = long.iter().map(String::as_str).collect();
    let more = [
        "--only", "full", "--only", "relora", "--jobs", "1", "--budget", "4s",
    ];
    let completes = |out: &&str| {
        let ended = world.run(&World::suite(out, &[&set[..], &more[..]].concat()));
        let status = world.succeed(&["status", out]).stdout;
        assert!(!status.contains("200000"), "not shortened: {status}");
        let complete = status.contains(": 2 complete");
        assert_eq!(
            ended.code,
            Some(if complete { 0 } else { 75 }),
            "{ended:#?}"
        );
        complete
    };
    assert!(["1st", "2nd", "3rd", "4th"].iter().any(completes));
}

/// The activations of one block instead of all of them, and otherwise the same suite.
#[test]
fn recomputed_blocks_need_less_memory_and_leave_the_same_tables() {
    let world = World::new();
    let only = ["--only", "full,relora", "--set", "dropout=0.1"];
    world.succeed(&World::suite("kept", &only));
    world.succeed(&World::suite(
        "again",
        &[&only[..], &["--recompute"]].concat(),
    ));
    assert_eq!(tables(&world.path("kept")), tables(&world.path("again")));
    let planned = |suite: &str| {
        let path = world.path(suite).join("tiny-full-seed1/result.json");
        let text = fs::read_to_string(path).expect("a result");
        let result: Value = serde_json::from_str(&text).expect("JSON");
        let activations = result.pointer("/planned_memory/activations");
        activations.and_then(Value::as_u64).expect("a number")
    };
    assert!(planned("again") < planned("kept"));
    let refused = world.run(&World::suite("kept", &["--only", "lora", "--recompute"]));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("recompute"), "{}", refused.stderr);
}

/// Four sequences of 16 tokens find room anywhere; a suite goes on with the micro-batch that it began with.
#[test]
fn a_micro_batch_that_is_left_open_is_chosen_and_then_kept() {
    let world = World::new();
    let open = "size.tiny.micro_batch_size=0";
    let two = "size.tiny.micro_batch_size=2";
    let chosen = |suite: &str| -> Vec<u64> {
        let plan = Plan::read(&world.path(suite)).expect("a plan");
        let rows = |cell: &Cell| cell.settings.micro_batch_size;
        plan.cells.iter().map(rows).collect()
    };
    world.succeed(&World::suite("new", &["--only", "full", "--set", open]));
    assert_eq!(chosen("new"), [4]);
    let plan = world.succeed(&World::tiny("plan", &["--set", two]));
    let update = "an update: tiny 4 sequences of 16 tokens, 2 in a micro-batch\n";
    assert!(plan.stdout.contains(update), "{}", plan.stdout);

    world.succeed(&World::suite("begun", &["--only", "full", "--set", two]));
    world.succeed(&World::suite("begun", &["--only", "lora", "--set", open]));
    assert_eq!(chosen("begun"), [2, 2]);

    let by_micro_batch = ["--set", open, "--set", "loss_weight=micro-batches"];
    let refused = world.run(&World::suite("other", &by_micro_batch));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let names = "micro_batch_size = 0";
    assert!(refused.stderr.contains(names), "{}", refused.stderr);
}

/// Beyond its tables a suite says what its seeds could tell, and what of the claims about ReLoRA it shows.
#[test]
fn a_suite_answers_what_it_can_resolve_and_what_of_the_claims_it_shows() {
    let world = World::new();
    let only = [
        "--only",
        "full,relora",
        "--seeds",
        "1,2",
        "--set",
        "margin=9",
    ];
    world.succeed(&World::suite("out", &only));

    let seeds = ["--out", "out", "--seeds", "1,2", "--resolve", "0.5"];
    let plan = world.succeed(&World::tiny("plan", &seeds)).stdout;
    assert!(plan.contains("relora against full"), "{plan}");
    assert!(plan.contains("by 2 pairs"), "{plan}");

    let claims = world.succeed(&["claims", "out"]).stdout;
    assert!(
        claims.contains("1. ReLoRA trains as well as full rank: not tested"),
        "{claims}"
    );
    assert!(
        claims.contains("needed: runs of 60m, 130m, 250m, 350m"),
        "{claims}"
    );
    assert!(claims.contains("tiny: relora - full "), "{claims}");
    assert!(claims.contains("out: 14 claims, "), "{claims}");
    let json = world.succeed(&["claims", "out", "--json"]).stdout;
    let judged: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
    assert_eq!(judged.len(), 14);
    assert!(judged.iter().all(|claim| claim["source"].is_string()));

    // Two seeds of a tiny network are far less than nine nats apart.
    let table = ["tables", "out", "--table", "perplexity", "--json"];
    let rows: serde_json::Value =
        serde_json::from_str(&world.succeed(&table).stdout).expect("JSON");
    let relora = rows
        .as_array()
        .expect("rows")
        .iter()
        .find(|row| row["method"] == "relora");
    assert_eq!(relora.expect("a row")["verdict"], "tie");

    // Nothing runs, so that it ends by itself.
    let watched = world.succeed(&["status", "out", "--watch"]).stdout;
    assert!(watched.contains("out: 4 complete"), "{watched}");
}

/// What `bench-step` prints hangs together, and the operations of a token are those of the network by hand.
#[test]
fn bench_step_measures_what_it_says() {
    let world = World::new();
    let arguments = [
        "bench-step",
        "--size",
        "nano",
        "--method",
        "relora",
        "--profile",
        "laptop",
        "--batch",
        "2",
        "--seq",
        "32",
        "--steps",
        "3",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--json",
    ];
    let measured: Value = serde_json::from_str(&world.succeed(&arguments).stdout).expect("JSON");
    let number = |pointer: &str| {
        measured
            .pointer(pointer)
            .and_then(Value::as_f64)
            .expect("a number")
    };
    // nano, rank 8, vocabulary 2048, length 32: 2 blocks of 4·64² + 3·64·176 weights, frozen (4 each); their factors of
    // 8·(4·(64 + 64) + 3·(64 + 176)), trained (6 each); the head (6 each); attention, 6·length·width a block
    let blocks = 2.0 * (4.0 * 64.0 * 64.0 + 3.0 * 64.0 * 176.0);
    let factors = 2.0 * 8.0 * (4.0 * 128.0 + 3.0 * 240.0);
    let flops = 4.0 * blocks + 6.0 * factors + 6.0 * 2048.0 * 64.0 + 2.0 * 6.0 * 32.0 * 64.0;
    let found = number("/flops_per_second") / number("/tokens_per_second/median");
    assert!((found / flops - 1.0).abs() < 1e-9, "{found} {flops}");
    let step = number("/step_seconds/median");
    let rate = number("/tokens_per_second/median") * step / 64.0;
    assert!(
        (rate - 1.0).abs() < 1e-9,
        "an odd number of steps has one in the middle: {rate}"
    );
    for phase in ["/forward_seconds", "/backward_seconds", "/update_seconds"] {
        assert!(
            number(phase) > 0.0 && number(phase) < number("/first_step_seconds"),
            "{phase}"
        );
    }
    assert!(number("/peak_memory_bytes") > number("/planned_bytes/moments"));
    for (arguments, expected) in [
        (
            &["--size", "nano", "--method", "full", "--rank", "4"][..],
            "--rank 4: method `full` trains no low-rank factors",
        ),
        (&["--size", "9x", "--method", "full"], "unknown size `9x`"),
        (
            &["--size", "nano", "--method", "full", "--steps", "0"],
            "expected a whole number",
        ),
        (
            &["--size", "nano", "--method", "full", "--threads", "5000"],
            "expected a whole number, 1 to 1024",
        ),
        (
            &[
                "--size", "nano", "--method", "full", "--batch", "65536", "--seq", "1048576",
                "--device", "cpu",
            ],
            "--batch 65536 --seq 1048576: ",
        ),
    ] {
        let ended = world.run(&[&["bench-step"], arguments].concat());
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}
