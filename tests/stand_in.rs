//! The command on CUDA, over a driver that computes nothing (`tests/stand_in`): compiled kernels that outlast a process, and a
//! device that fails. Where the stand-in has not been made ready (`tests/stand_in/run --prepare`), these are skipped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Ended, World, ended, skipped};

/// Where `tests/stand_in/run` keeps what it has made ready; `None` where it has not.
fn prepared() -> Option<PathBuf> {
    // Beside the program, whose own folder is in that of its target where one was named to cargo.
    let program = Path::new(env!("CARGO_BIN_EXE_relora"));
    let beside = || {
        let mut folders = program.ancestors().skip(2).take(2);
        folders.find_map(|folder| Some(folder.join("stand-in")).filter(|it| it.is_dir()))
    };
    let folder = std::env::var_os("RELORA_STAND_IN").map(PathBuf::from);
    let folder = folder.or_else(beside).unwrap_or_default();
    let changed = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/stand_in/driver.c");
    let is_there = folder.join("cuda/lib/libnvrtc.so").exists()
        && changed(&folder.join("driver/libcuda.so.1")) > changed(&source);
    if !is_there {
        skipped(
            "no stand-in for a CUDA driver; `tests/stand_in/run --prepare` fetches what it needs",
        );
    }
    is_there.then_some(folder)
}

/// A command over the stand-in whose kernels are kept in the folder `kernels` of its own world.
fn over(stand_in: &Path, world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    command
        .env("CUDA_PATH", stand_in.join("cuda"))
        .env(
            "LD_LIBRARY_PATH",
            std::env::join_paths([stand_in.join("driver"), stand_in.join("cuda/lib")])
                .expect("no colon in a path"),
        )
        .env("RELORA_KERNEL_CACHE", world.path("kernels"));
    command
}

fn run(mut command: Command) -> Ended {
    ended(command.spawn().expect("it starts"))
}

/// A folder like that of CUDA's headers, with which no kernel can be compiled.
fn broken_headers(stand_in: &Path, world: &World) -> PathBuf {
    let (whole, broken) = (stand_in.join("cuda/include"), world.path("broken/include"));
    fs::create_dir_all(&broken).expect("created");
    for entry in fs::read_dir(&whole).expect("headers").flatten() {
        let place = broken.join(entry.file_name());
        match entry.file_name().to_str() {
            // Every kernel includes it.
            Some("cuda_runtime.h") => fs::write(place, "#error nothing may be compiled\n"),
            _ => symlink(entry.path(), place),
        }
        .expect("made");
    }
    world.path("broken")
}

/// Everything below a folder that is a file.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}

const STEP: &[&str] = &[
    "bench-step",
    "--size",
    "nano",
    "--method",
    "full",
    "--device",
    "cuda",
    "--steps",
    "1",
    "--json",
];

#[test]
fn kernels_are_compiled_once_and_a_damaged_folder_stops_nothing() {
    let Some(stand_in) = prepared() else { return };
    let world = World::new();
    let broken = broken_headers(&stand_in, &world);
    // What succeeds so has found all of its kernels.
    let without_compiling = || {
        let mut command = over(&stand_in, &world, STEP);
        command.env("CUDA_PATH", &broken);
        run(command)
    };
    let nothing_at_hand = without_compiling();
    assert_eq!(nothing_at_hand.code, Some(1), "{nothing_at_hand:#?}");

    let cold = run(over(&stand_in, &world, STEP));
    assert_eq!(cold.code, Some(0), "{cold:#?}");
    let kept = files_below(&world.path("kernels"));
    assert!(!kept.is_empty());
    let warm = without_compiling();
    assert_eq!(warm.code, Some(0), "{warm:#?}");

    let largest = kept
        .iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |it| it.len()));
    let largest = largest.expect("a file");
    let mut bytes = fs::read(largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).expect("damaged");
    assert_eq!(
        without_compiling().code,
        Some(1),
        "a damaged file was believed"
    );
    let again = run(over(&stand_in, &world, STEP));
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert_eq!(without_compiling().code, Some(0));
}

#[test]
fn a_run_over_the_stand_in_leaves_the_users_cache_alone_and_its_manifest_names_the_kernels() {
    let Some(stand_in) = prepared() else { return };
    let world = World::new();
    let arguments = "bench-all --profile tiny.toml --data corpus.jsonl --device cuda --out out --only full --seeds 1";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = over(&stand_in, &world, &arguments);
    command.env_remove("RELORA_KERNEL_CACHE");
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    // `World` names the folder of the user's cache.
    assert!(
        world.path("cache/relora/stores").is_dir() && !world.path("cache/relora/kernels").exists()
    );
    let kernels = |folder: &str| {
        let runs = fs::read_dir(world.path(folder)).expect("a suite").flatten();
        let manifest = runs
            .map(|entry| entry.path().join("manifest.json"))
            .find(|path| path.is_file());
        let text = fs::read_to_string(manifest.expect("a run")).expect("readable");
        let manifest: Value = serde_json::from_str(&text).expect("JSON");
        manifest["sessions"][0]["kernels"].clone()
    };
    // Burn is built without autotune.
    assert_eq!(
        kernels("out"),
        serde_json::json!({"autotune": "none", "cache": null})
    );
}

/// The driver reports an illegal address from some launch of the second step on, for good.
#[test]
fn a_device_that_fails_ends_the_run_with_one_line_and_no_checkpoint_after_it() {
    let Some(stand_in) = prepared() else { return };
    let world = World::new();
    let arguments = "bench-all --profile tiny.toml --data corpus.jsonl --device cuda --out out --only full --seeds 1";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = over(&stand_in, &world, &arguments);
    command.env("STAND_IN_FAILS_AT", "400");
    let ended = run(command);
    assert_eq!(ended.code, Some(3), "{ended:#?}");
    assert_eq!(
        ended.stderr.matches("the device failed: ").count(),
        1,
        "{ended:#?}"
    );
    assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
    let left = files_below(&world.path("out"));
    let is_there = |name: &str| left.iter().any(|path| path.ends_with(name));
    assert!(
        is_there("failed.json") && !is_there("result.json"),
        "{left:#?}"
    );
    let checkpoints = left
        .iter()
        .filter(|path| path.to_string_lossy().contains("checkpoint"));
    assert_eq!(checkpoints.count(), 0, "{left:#?}");
}
