//! Everything wrong that a person can type or point at: one line on standard error that names the thing, its value and
//! what would be right, exit code 2 (input) or 1 (failure), nothing overwritten, never a panic.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{Ended, World, corpus, ended};

/// What is done wrong and what must be said about it.
struct Case {
    what: &'static str,
    prepare: fn(&World),
    /// As typed, blanks between them.
    arguments: &'static str,
    code: i32,
    says: &'static [&'static str],
}

const NOTHING: fn(&World) = |_| {};

const CASES: &[Case] = &[
    Case {
        what: "an unknown profile",
        prepare: NOTHING,
        arguments: "bench-all --profile labtop --device cpu",
        code: 2,
        says: &["`labtop`", "did you mean `laptop`"],
    },
    Case {
        what: "a profile file that is not there",
        prepare: NOTHING,
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &[
            "profile `mine.toml`: there is no such profile or file",
            "smoke, laptop",
        ],
    },
    Case {
        what: "an unknown size",
        prepare: NOTHING,
        arguments: "train --profile smoke --size 60mm --method full",
        code: 2,
        says: &["size `60mm`", "did you mean `60m`"],
    },
    Case {
        what: "an unknown method",
        prepare: NOTHING,
        arguments: "train --profile smoke --size 60m --method reolra",
        code: 2,
        says: &["method `reolra`", "did you mean `relora`"],
    },
    Case {
        what: "an unknown key",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set settings.learning_rat=1",
        code: 2,
        says: &[
            "--set",
            "`settings.learning_rat`",
            "did you mean `learning_rate`",
        ],
    },
    Case {
        what: "an unknown key in a file",
        prepare: |world| {
            fs::write(
                world.path("mine.toml"),
                "extends = \"smoke\"\n[settings]\nrnk = 4\n",
            )
            .expect("written")
        },
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &["mine.toml:3:1", "`settings.rnk`", "did you mean `rank`"],
    },
    Case {
        what: "a setting at the top of a file",
        prepare: |world| {
            fs::write(world.path("mine.toml"), "extends = \"smoke\"\nsteps = 5\n").expect("written")
        },
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &[
            "mine.toml:2:1",
            "`steps`",
            "under [settings]",
            "settings.steps",
        ],
    },
    Case {
        what: "a key by its name in another program",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set lr=1e-3",
        code: 2,
        says: &["--set", "`lr`", "did you mean `learning_rate`"],
    },
    Case {
        what: "a number that is none",
        prepare: NOTHING,
        arguments: "train --profile smoke --size nano --method relora --rank abc",
        code: 2,
        says: &["abc", "--rank", "expected a whole number, 1 or more"],
    },
    Case {
        what: "a value of another kind",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set settings.steps=many",
        code: 2,
        says: &["settings.steps", "many", "a whole number"],
    },
    Case {
        what: "a part of a whole",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set settings.rank=1.5",
        code: 2,
        says: &[
            "settings.rank",
            "1.5",
            "a whole number that is not negative",
        ],
    },
    Case {
        what: "a size with half a shape",
        prepare: |world| {
            fs::write(
                world.path("mine.toml"),
                "extends = \"smoke\"\nsizes = [\"own\"]\n[size.own]\nhidden = 64\n",
            )
            .expect("written")
        },
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &["`own`", "lacks intermediate, layers, heads"],
    },
    Case {
        what: "a tuning by a seed that the profile uses",
        prepare: NOTHING,
        arguments: "tune --profile laptop --device cpu --set tune.seeds=[101,2]",
        code: 2,
        says: &[
            "tune.seeds",
            "[101, 2]",
            "seed 2 is one of the profile's own",
        ],
    },
    Case {
        what: "a tuning that the profile does not declare",
        prepare: NOTHING,
        arguments: "tune --profile smoke --device cpu",
        code: 2,
        says: &["profile `smoke`", "`tune.space`", "learning_rate = { low"],
    },
    Case {
        what: "a tuning of a method that is not there",
        prepare: NOTHING,
        arguments: "tune --profile laptop --device cpu --only reolra",
        code: 2,
        says: &["--only reolra", "profile `laptop`", "did you mean `relora`"],
    },
    Case {
        what: "no point to try",
        prepare: NOTHING,
        arguments: "tune --profile laptop --device cpu --points 0",
        code: 2,
        says: &["--points 0", "between 1 and 200"],
    },
    Case {
        what: "a rate that is tuned and set",
        prepare: NOTHING,
        arguments: "tune --profile laptop --device cpu --set learning_rate=1e-3",
        code: 2,
        says: &[
            "--set",
            "learning_rate = 0.001",
            "tune.space.learning_rate.low",
        ],
    },
    Case {
        what: "a profile to write in place of a person's",
        prepare: |world| {
            fs::write(world.path("mine.toml"), "extends = \"laptop\"\n").expect("written")
        },
        arguments: "tune --profile mine.toml --device cpu --output mine.toml",
        code: 2,
        says: &[
            "mine.toml",
            "is the profile that is tuned",
            "another --output",
        ],
    },
    Case {
        what: "a method tuned from one that is tuned",
        prepare: |world| {
            fs::write(
                world.path("mine.toml"),
                "extends = \"smoke\"\nmethods = [\"b\"]\n[method.a]\ntuned_from = \"full\"\n\
                 [method.b]\ntuned_from = \"a\"\n",
            )
            .expect("written")
        },
        arguments: "bench-all --profile mine.toml --device cpu",
        code: 2,
        says: &["mine.toml:6:1", "method.b.tuned_from", "not tuned itself"],
    },
    Case {
        what: "a list of nothing",
        prepare: |world| {
            fs::write(
                world.path("mine.toml"),
                "extends = \"smoke\"\nmethods = []\n",
            )
            .expect("written")
        },
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &["`methods` names nothing", "[\"full\", \"relora\"]"],
    },
    Case {
        what: "a method whose name begins with a dash",
        prepare: NOTHING,
        arguments: "plan --profile ablations-laptop --only ---Q --device cpu",
        code: 2,
        says: &["--only ---Q", "matches no cell"],
    },
    Case {
        what: "a negative seed",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --seeds -1",
        code: 2,
        says: &["'-1'", "--seeds", "a whole number"],
    },
    Case {
        what: "a difference of nothing to resolve",
        prepare: NOTHING,
        arguments: "plan --profile smoke --resolve 0 --device cpu",
        code: 2,
        says: &["'0'", "--resolve", "a number above 0"],
    },
    Case {
        what: "a scatter that nobody has measured",
        prepare: NOTHING,
        arguments: "plan --profile smoke --out nowhere --resolve 0.01 --device cpu",
        code: 2,
        says: &["--resolve 0.01", "nowhere", "train some first"],
    },
    Case {
        what: "a margin of nothing",
        prepare: NOTHING,
        arguments: "plan --profile smoke --set margin=0 --device cpu",
        code: 2,
        says: &["margin = 0", "must be more than 0"],
    },
    Case {
        what: "a seed that no profile could hold",
        prepare: NOTHING,
        arguments: "train --profile smoke --size nano --method lora --seed 9223372036854775808",
        code: 2,
        says: &["'9223372036854775808'", "--seed", "9223372036854775807"],
    },
    Case {
        what: "no rank",
        prepare: NOTHING,
        arguments: "train --profile smoke --size nano --method lora --rank 0",
        code: 2,
        says: &["error: --rank 0: must be"],
    },
    Case {
        what: "a folder to start from that is not there",
        prepare: NOTHING,
        arguments: "train --profile smoke --init-from nowhere --method lora",
        code: 2,
        says: &["error: --init-from nowhere: ", "no such folder"],
    },
    Case {
        what: "a size whose name could be no folder's",
        prepare: NOTHING,
        arguments: "train --profile smoke --size a/b --method lora",
        code: 2,
        says: &["error: --size a/b: sizes = [\"a/b\"]: "],
    },
    Case {
        what: "a negative alpha",
        prepare: NOTHING,
        arguments: "train --size nano --method relora --alpha -1",
        code: 2,
        says: &["'-1'", "--alpha", "a number above 0"],
    },
    Case {
        what: "a seed that is not asked for",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --only nano-relora-seed7",
        code: 2,
        says: &[
            "--only nano-relora-seed7",
            "did you mean `nano-relora-seed1`",
        ],
    },
    Case {
        what: "a run that is not there",
        prepare: NOTHING,
        arguments: "export nowhere model",
        code: 2,
        says: &["nowhere: no such run", "runs/"],
    },
    Case {
        what: "a folder that is no run",
        prepare: |world| fs::create_dir(world.path("empty")).expect("created"),
        arguments: "export empty model",
        code: 2,
        says: &[
            "empty: not a run of a suite",
            "runs/laptop/nano-relora-seed1",
        ],
    },
    Case {
        what: "a model that is not there",
        prepare: NOTHING,
        arguments: "eval nowhere --data corpus.jsonl",
        code: 2,
        says: &["nowhere: no such folder", "config.json", "relora export"],
    },
    Case {
        what: "a folder without a model",
        prepare: |world| fs::create_dir(world.path("empty")).expect("created"),
        arguments: "eval empty --data corpus.jsonl",
        code: 2,
        says: &[
            "empty: has no config.json",
            "tokenizer.json",
            "relora export",
        ],
    },
    Case {
        what: "a restart at every step",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set restart_every=1",
        code: 2,
        says: &["restart_every = 1", "must be at least 2"],
    },
    Case {
        what: "malformed TOML",
        prepare: |world| {
            fs::write(
                world.path("mine.toml"),
                "seeds = [1]\nsizes = \"nano\nmethods = 3",
            )
            .expect("written")
        },
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &["mine.toml:2:", "not valid TOML"],
    },
    Case {
        what: "a filter that matches nothing",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --only nano-relorra",
        code: 2,
        says: &["--only nano-relorra", "did you mean `nano-relora`"],
    },
    Case {
        what: "a budget of nothing",
        prepare: NOTHING,
        arguments: "plan --profile smoke --budget 0h",
        code: 2,
        says: &["budget `0h`", "more than 0"],
    },
    Case {
        what: "an absurd budget",
        prepare: NOTHING,
        arguments: "plan --profile smoke --budget 1e9d",
        code: 2,
        says: &["budget `1e9d`", "more than ten years"],
    },
    Case {
        what: "a budget in no unit",
        prepare: NOTHING,
        arguments: "plan --profile smoke --budget 24bananas",
        code: 2,
        says: &["budget `24bananas`", "24h"],
    },
    Case {
        what: "a budget below the least",
        prepare: NOTHING,
        arguments: "plan --profile tiny.toml --data corpus.jsonl --device cpu --budget 10tokens",
        code: 2,
        says: &["budget", "too little", "the least is"],
    },
    Case {
        what: "a rank for a method without factors",
        prepare: NOTHING,
        arguments: "train --profile smoke --size nano --method full --rank 4",
        code: 2,
        says: &["--rank 4", "`full`", "no low-rank factors"],
    },
    Case {
        what: "the beginning of a method's name",
        prepare: NOTHING,
        arguments: "train --profile smoke --size nano --method rel",
        code: 2,
        says: &["did you mean `relora`?"],
    },
    Case {
        what: "fewer steps than the warm start, by --set",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set steps=10",
        code: 2,
        says: &[
            "smoke.toml:",
            "warm_start_steps = 20",
            "--set steps = 10",
            "`relora train --steps`",
        ],
    },
    Case {
        what: "a cycle that does not divide what it should",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --device cpu --out out --set cycle_steps=7 --set restart_every=13",
        code: 2,
        says: &["--set", "cycle_steps = 7", "does not divide"],
    },
    Case {
        what: "a profile whose text is not there",
        prepare: NOTHING,
        arguments: "bench-all --profile paper --device cpu --out out",
        code: 2,
        says: &[
            "c4: no such file",
            "profile `paper`",
            "paper.toml:",
            "--data DIR",
            "docs/data.md",
        ],
    },
    Case {
        what: "a profile's file without its ending",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny",
        code: 2,
        says: &["`tiny`", "did you mean the file `tiny.toml`?"],
    },
    Case {
        what: "a method in a profile that is none",
        prepare: |world| {
            fs::write(
                world.path("mine.toml"),
                "extends = \"smoke\"\nmethods = [\"full\", \"mine\"]\n",
            )
            .expect("written")
        },
        arguments: "bench-all --profile mine.toml",
        code: 2,
        says: &["mine.toml:2:1", "unknown method `mine`", "[method.mine]"],
    },
    Case {
        what: "zero steps",
        prepare: NOTHING,
        arguments: "bench-all --profile smoke --set steps=0",
        code: 2,
        says: &["steps = 0", "at least 1"],
    },
    Case {
        what: "a rank larger than the layer",
        prepare: NOTHING,
        arguments: "train --profile smoke --size nano --method lora --rank 65",
        code: 2,
        says: &["--rank 65: size nano: ", "64"],
    },
    Case {
        what: "a corpus that is not there",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny.toml --data nowhere.txt --device cpu --out out",
        code: 2,
        says: &["nowhere.txt", "no such file"],
    },
    Case {
        what: "a folder without text",
        prepare: |world| fs::create_dir(world.path("folder")).expect("created"),
        arguments: "bench-all --profile tiny.toml --data folder --device cpu --out out",
        code: 2,
        says: &["folder", "no text", ".jsonl"],
    },
    Case {
        what: "an empty corpus",
        prepare: |world| fs::write(world.path("empty.txt"), "").expect("written"),
        arguments: "bench-all --profile tiny.toml --data empty.txt --device cpu --out out",
        code: 2,
        says: &["empty.txt", "empty"],
    },
    Case {
        what: "a binary corpus",
        prepare: |world| {
            fs::write(
                world.path("binary.txt"),
                [0xff, 0xfe, 0x00, 0x80, b'\n', 0xc3],
            )
            .expect("written")
        },
        arguments: "bench-all --profile tiny.toml --data binary.txt --device cpu --out out",
        code: 2,
        says: &["binary.txt", "binary"],
    },
    Case {
        what: "lines that are not JSON",
        prepare: |world| {
            fs::write(
                world.path("bad.jsonl"),
                "{\"text\": \"fine\"}\n{\"text\": 3}\nno\n",
            )
            .expect("written")
        },
        arguments: "bench-all --profile tiny.toml --data bad.jsonl --device cpu --out out",
        code: 2,
        says: &["2 of 3 lines", "bad_line_share", "bad.jsonl:2"],
    },
    Case {
        what: "a corrupt .gz",
        prepare: |world| {
            fs::write(world.path("corpus.jsonl.gz"), b"\x1f\x8b\x08\x00not really")
                .expect("written")
        },
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl.gz --device cpu --out out",
        code: 2,
        says: &["corpus.jsonl.gz", "not a whole .gz"],
    },
    Case {
        what: "a tokenizer.json that is not one",
        prepare: |world| {
            fs::write(world.path("tokenizer.json"), "{\"model\": 3}").expect("written")
        },
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --tokenizer tokenizer.json --device cpu --out out",
        code: 2,
        says: &["tokenizer.json", "not a tokenizer.json"],
    },
    Case {
        what: "a sequence longer than the corpus",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --device cpu --out out --set settings.sequence_length=100000",
        code: 2,
        says: &["sequence length of 100000", "tokens", "give more text"],
    },
    Case {
        what: "an output that is a file",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --device cpu --out tiny.toml",
        code: 2,
        says: &["tiny.toml", "is a file"],
    },
    Case {
        what: "an output folder of somebody else's",
        prepare: |world| {
            fs::create_dir(world.path("thesis")).expect("created");
            fs::write(world.path("thesis/chapter-1.tex"), "years of work").expect("written");
        },
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --device cpu --out thesis",
        code: 2,
        says: &["thesis", "no suite"],
    },
    Case {
        what: "an output folder where nothing can be created",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --device cpu --out /proc/relora",
        code: 1,
        says: &["/proc/relora", "cannot create"],
    },
    Case {
        what: "CUDA where there is none, or a GPU that does not exist",
        prepare: NOTHING,
        arguments: "bench-all --profile tiny.toml --data corpus.jsonl --device cuda:99 --out out",
        code: 2,
        says: &["cuda:99"],
    },
    Case {
        what: "a precision that the CPU has not",
        prepare: NOTHING,
        arguments: "plan --profile smoke --device cpu --precision bf16",
        code: 2,
        says: &["bf16", "f32"],
    },
    Case {
        what: "a suite that is none",
        prepare: NOTHING,
        arguments: "tables nowhere",
        code: 2,
        says: &["nowhere", "plan.toml"],
    },
    Case {
        what: "no suite at all",
        prepare: NOTHING,
        arguments: "status",
        code: 2,
        says: &["runs/", "bench-all"],
    },
    Case {
        what: "an unknown table",
        prepare: NOTHING,
        arguments: "tables --describe --table perplexities",
        code: 2,
        says: &["`perplexities`", "did you mean `perplexity`"],
    },
];

#[test]
fn everything_wrong_is_one_line_that_says_what_would_be_right() {
    let mut wrong = Vec::new();
    for case in CASES {
        let world = World::new();
        (case.prepare)(&world);
        let ended = world.run(&case.arguments.split(' ').collect::<Vec<_>>());
        if let Err(complaint) = says_so(&ended, case.code, case.says) {
            wrong.push(format!("{}: {:?} {complaint}", case.what, case.arguments));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n\n")
    );
}

/// Whether a command ended with that code and said those things on one line of standard error, without a panic.
fn says_so(ended: &Ended, code: i32, says: &[&str]) -> Result<(), String> {
    // Below the line a hint may stand, after a blank one. What takes a while is said in lines of its own.
    let lines: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| !line.starts_with("text: ") && !line.starts_with("measuring "))
        .collect();
    let line = lines.first().copied().unwrap_or_default();
    let alone = lines.get(1).is_none_or(|second| second.is_empty());
    let said = says.iter().all(|part| line.contains(part));
    let calm =
        !ended.stderr.contains("panicked") && line.starts_with("error: ") && !line.ends_with('.');
    if ended.code == Some(code) && alone && said && calm && ended.stdout.is_empty() {
        Ok(())
    } else {
        Err(format!("should say {says:?} and end {code}\n{ended:#?}"))
    }
}

#[test]
fn what_may_not_be_read_or_written_is_named_and_left_as_it_was() {
    let world = World::new();
    world.succeed(&World::suite("theirs", &["--only", "full"]));
    fs::write(
        world.path("secret.jsonl"),
        "{\"text\": \"nobody's business\"}\n",
    )
    .expect("written");
    for folder in ["secrets", "locked", "locked-cache"] {
        fs::create_dir(world.path(folder)).expect("created");
    }
    let closed = [
        ("secret.jsonl", 0o000),
        ("secrets", 0o000),
        ("locked", 0o555),
        ("locked-cache", 0o555),
        ("theirs/plan.lock", 0o444),
        ("theirs", 0o555),
    ];
    let modes = |of: &dyn Fn(u32) -> u32| {
        for (path, mode) in closed {
            fs::set_permissions(world.path(path), Permissions::from_mode(of(mode)))
                .expect("a mode");
        }
    };
    let before = contents(&world.path(""));
    modes(&|mode| mode);
    let mut wrong = Vec::new();
    for (data, out, cache, code, says) in [
        (
            "secret.jsonl",
            "new",
            "cache",
            2,
            &["secret.jsonl", "cannot be read", "Permission denied"][..],
        ),
        (
            "secrets",
            "new",
            "cache",
            2,
            &["secrets", "cannot be read", "Permission denied"],
        ),
        (
            "corpus.jsonl",
            "locked",
            "cache",
            1,
            &["cannot write locked/", "Permission denied", "--out"],
        ),
        (
            "corpus.jsonl",
            "locked/new",
            "cache",
            1,
            &["cannot create locked/new", "Permission denied", "--out"],
        ),
        (
            "corpus.jsonl",
            "theirs",
            "cache",
            1,
            &["cannot write theirs/", "Permission denied", "--out"],
        ),
        (
            "corpus.jsonl",
            "new",
            "locked-cache",
            1,
            &[
                "locked-cache/relora",
                "cannot be written",
                "Permission denied",
                "XDG_CACHE_HOME",
            ],
        ),
    ] {
        let arguments =
            format!("bench-all --profile tiny.toml --device cpu --data {data} --out {out}");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let Some(mut command) = world.command_as_ordinary_user(&arguments) else {
            return;
        };
        command.env("XDG_CACHE_HOME", world.path(cache));
        let ended = ended(command.spawn().expect("it starts"));
        if let Err(complaint) = says_so(&ended, code, says) {
            wrong.push(format!("{data} into {out}, stores in {cache}: {complaint}"));
        }
    }
    // Open again, to be looked at and for the folder to be removed.
    modes(&|mode| mode | 0o700);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(contents(&world.path("")), before);
}

/// Every file below a folder with its bytes and every folder, but for the token stores and the program.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("cache") {
            found.extend(contents(&path));
            found.insert(path, None);
        } else if path.is_file() && !path.ends_with("relora") {
            let bytes = fs::read(&path).expect("readable");
            found.insert(path, Some(bytes));
        }
    }
    found
}

/// True on every machine: where there is a GPU, its driver is told to show none.
#[test]
fn cuda_where_there_is_none_is_one_line_that_says_what_is_missing() {
    let world = World::new();
    let arguments = "bench-all --profile tiny.toml --data corpus.jsonl --device cuda --out out";
    let mut command = world.command(&arguments.split(' ').collect::<Vec<_>>());
    command.env("CUDA_VISIBLE_DEVICES", "-1");
    let ended = ended(command.spawn().expect("it starts"));
    says_so(&ended, 2, &["--device cuda:0: "]).expect("one line");
    let missing = [
        "no NVIDIA driver was found (libcuda.so.1); install it",
        "the NVIDIA driver supports CUDA",
        "the NVIDIA driver does not start",
        "the NVIDIA driver finds no GPU",
    ];
    assert!(
        missing.iter().any(|part| ended.stderr.contains(part)),
        "{ended:#?}"
    );
    assert!(!world.path("out").exists());
}

#[test]
fn what_was_there_is_left_as_it_was() {
    let world = World::new();
    fs::create_dir(world.path("thesis")).expect("created");
    fs::write(world.path("thesis/chapter-1.tex"), "years of work").expect("written");
    assert_eq!(world.run(&World::suite("thesis", &[])).code, Some(2));
    assert_eq!(
        fs::read_to_string(world.path("thesis/chapter-1.tex")).expect("still there"),
        "years of work"
    );
    assert_eq!(
        fs::read_dir(world.path("thesis"))
            .expect("a folder")
            .count(),
        1
    );
}

#[test]
fn a_suite_made_with_other_settings_is_refused_with_the_fields_that_differ() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--only", "full"]));
    let before = fs::read(world.path("out/tiny-full-seed1/result.json")).expect("a result");
    let ended = world.run(&World::suite(
        "out",
        &["--only", "full", "--set", "method.full.learning_rate=1e-2"],
    ));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    for part in ["out", "tiny-full-seed1", "learning_rate = 0.003, not 0.01"] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
    assert_eq!(
        fs::read(world.path("out/tiny-full-seed1/result.json")).expect("a result"),
        before
    );

    // Another text is another thing as well.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(world.path("corpus.jsonl"))
        .expect("opened");
    file.write_all(b"{\"text\": \"One story more, and nothing is as it was.\"}\n")
        .expect("written");
    let ended = world.run(&World::suite("out", &["--only", "full"]));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let says = "...\" (another text or tokenizer: see --data)";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    assert!(ended.stderr.contains("data.hash"), "{}", ended.stderr);
}

/// A table is one experiment: a seed trained otherwise would be averaged with the others, a method on other text compared.
#[test]
fn runs_that_could_not_stand_in_one_table_are_refused() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--only", "full"]));
    let plan = fs::read(world.path("out/plan.toml")).expect("a plan");
    let refused = |more: &[&str], says: &str| {
        let ended = world.run(&World::suite("out", more));
        assert!(says_so(&ended, 2, &[says, "--out"]).is_ok(), "{ended:#?}");
        assert_eq!(fs::read(world.path("out/plan.toml")).expect("a plan"), plan);
    };
    refused(
        &[
            "--only",
            "full",
            "--seeds",
            "2",
            "--set",
            "learning_rate=1e-2",
        ],
        "tiny-full-seed2 cannot be averaged with tiny-full-seed1, which has settings.learning_rate = 0.003, not 0.01",
    );
    refused(
        &["--only", "lora", "--set", "sequence_length=8"],
        "tiny-lora-seed1 cannot be compared with tiny-full-seed1, which has settings.sequence_length = 16, not 8",
    );
    fs::write(world.path("corpus.jsonl"), corpus(300)).expect("written");
    refused(
        &["--only", "lora"],
        "tiny-lora-seed1 cannot be compared with tiny-full-seed1, which has data.hash = ",
    );
    fs::write(world.path("corpus.jsonl"), corpus(400)).expect("written");
    // A method's own settings are its own affair, and so is what only it uses. How often one looks changes nothing.
    let mut more = vec!["--only", "relora"];
    for set in [
        "rank=2",
        "warm_start_steps=18",
        "log_every=7",
        "micro_batch_size=1",
        "dropout=0.1",
    ] {
        more.extend(["--set", set]);
    }
    world.succeed(&World::suite("out", &more));
}

#[test]
fn a_plan_over_another_suite_or_without_its_text_is_shown_with_a_line_about_that() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--only", "full"]));
    let other = ["--out", "out", "--set", "method.full.learning_rate=1e-2"];
    let ended = world.succeed(&World::tiny("plan", &other));
    for part in ["warning: out: made with other settings", "0.003, not 0.01"] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
    assert!(ended.stdout.contains("4 cells"), "{}", ended.stdout);

    let without_text = ["plan", "--profile", "mine.toml", "--device", "cpu"];
    let mine = "extends = \"tiny.toml\"\n[data]\nsource = \"path\"\npaths = [\"nowhere\"]\n";
    fs::write(world.path("mine.toml"), mine).expect("written");
    let ended = world.succeed(&without_text);
    let said = "for a vocabulary of 320";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert!(ended.stdout.contains("4 cells"), "{}", ended.stdout);
}

#[test]
fn a_run_directory_of_another_program_is_not_touched() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--only", "full"]));
    let manifest = world.path("out/tiny-full-seed1/manifest.json");
    let newer = fs::read_to_string(&manifest).expect("a manifest").replacen(
        "\"schema\": 1",
        "\"schema\": 99",
        1,
    );
    fs::write(&manifest, &newer).expect("written");
    fs::remove_file(world.path("out/tiny-full-seed1/result.json")).expect("removed");
    let ended = world.run(&World::suite("out", &["--only", "full"]));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("99"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(&manifest).expect("a manifest"), newer);
}

#[test]
fn a_number_of_steps_that_no_run_has_is_refused() {
    let world = World::new();
    for steps in ["0", "99999999999999999", "18446744073709551615"] {
        for method in ["full", "relora"] {
            let ended = world.run(&[
                "train",
                "--profile",
                "smoke",
                "--size",
                "nano",
                "--method",
                method,
                "--steps",
                steps,
            ]);
            assert_eq!(ended.code, Some(2), "{}", ended.stderr);
            let said = format!("--steps {steps}: must be at least 1 and at most 1000000000");
            assert!(ended.stderr.contains(&said), "{}", ended.stderr);
        }
    }
}

#[test]
fn an_edited_plan_is_refused_with_file_cell_and_key() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--only", "full"]));
    let path = world.path("out/plan.toml");
    let plan = fs::read_to_string(&path).expect("a plan");
    for (from, to, says) in [
        (
            "sequence_length = 16",
            "sequence_length = 0",
            "sequence_length = 0: must be at least 1",
        ),
        ("steps = 42", "steps = 0", "steps = 0: must be at least 1"),
        (
            "method = \"full\"",
            "method = \"../full\"",
            "method = \"../full\"",
        ),
    ] {
        assert!(plan.contains(from), "{from} in {plan}");
        fs::write(&path, plan.replace(from, to)).expect("written");
        for arguments in [
            &["status", "out"][..],
            &["tables", "out"],
            &["worker", "out/tiny-full-seed1"],
            &World::suite("out", &["--only", "full"]),
        ] {
            let ended = world.run(arguments);
            assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
            for part in ["out/plan.toml: cell tiny-", says] {
                assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
            }
        }
    }
}

#[test]
fn text_that_would_be_read_in_part_is_refused() {
    let world = World::new();
    for (folder, file) in [
        ("one", "c4-train.00000-of-01024.json.gz"),
        ("two", "c4-train.00001-of-01024.json.gz"),
        ("mixed", "notes.txt"),
        ("mixed", "stories.jsonl"),
    ] {
        fs::create_dir_all(world.path(folder)).expect("a folder");
        fs::copy(world.path("corpus.jsonl"), world.path(folder).join(file)).expect("copied");
    }
    for (paths, says) in [
        (
            "[\"one\", \"two\"]",
            "one and two are both folders of C4 shards",
        ),
        (
            "[\"mixed\"]",
            "mixed: holds JSON lines (stories.jsonl) and text (notes.txt)",
        ),
    ] {
        let ended = world.run(&[
            "plan",
            "--profile",
            "tiny.toml",
            "--device",
            "cpu",
            "--set",
            "data.source=path",
            "--set",
            &format!("data.paths={paths}"),
        ]);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}
