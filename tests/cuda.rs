//! What is found of CUDA before anything computes, on a machine made of stand-ins: a driver, a run-time compiler and a
//! management library of a few functions each (`tests/fixtures`), and headers of nothing but names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::plan::Plan;
use serde_json::Value;

use crate::support::{Ended, World, ended};

/// The headers that pip's wheels of CUDA 12 have, each wheel in a folder of its own.
const HEADERS: &[(&str, &[&str])] = &[
    (
        "cuda_runtime",
        &[
            "cuda_runtime.h",
            "cuda_runtime_api.h",
            "cuda_bf16.h",
            "cuda_fp16.h",
            "mma.h",
        ],
    ),
    ("cuda_nvcc", &["crt/host_config.h", "crt/mma.h"]),
    ("cuda_cccl", &["nv/target", "cuda/barrier"]),
];

/// A library from one of the sources in `tests/fixtures`.
fn library(place: &Path, source: &str, flags: &[&str]) {
    let parent = place.parent().expect("a folder");
    fs::create_dir_all(parent).expect("created");
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(source);
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-w"])
        .args(flags)
        .arg("-o")
        .arg(place)
        .arg(&source)
        .status();
    assert!(built.expect("a C compiler").success());
}

/// A world with a driver, and a `python3` that imports from `packages`, in which there is nothing yet.
fn with_driver(flags: &[&str]) -> World {
    let world = World::new();
    library(&world.path("driver/libcuda.so.1"), "cuda.c", flags);
    let python = world.path("bin/python3");
    fs::create_dir_all(world.path("bin")).expect("created");
    fs::create_dir_all(world.path("packages/nvidia")).expect("created");
    let packages = world.path("packages");
    let script = format!("#!/bin/sh\necho\necho {}\n", packages.display());
    fs::write(&python, script).expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("set");
    world
}

/// Puts the compiler where pip puts it.
fn add_compiler(world: &World) {
    let place = world.path("packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    library(&place, "cuda.c", &["-DNVRTC", "-Wl,-soname,libnvrtc.so.12"]);
}

/// Puts the headers of a wheel where pip puts them.
fn add_headers(world: &World, wheel: usize) {
    let (name, headers) = HEADERS[wheel];
    for header in headers {
        let path = world
            .path("packages/nvidia")
            .join(name)
            .join("include")
            .join(header);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, "#define CUDART_VERSION  12060\n").expect("written");
    }
}

/// The command on that machine, whatever this one has.
fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("LD_LIBRARY_PATH", world.path("driver"))
        .env("PATH", format!("{}:{path}", world.path("bin").display()))
        .env_remove("CUDA_PATH")
        .env_remove("CUDA_HOME")
        .env_remove("CONDA_PREFIX");
    command
}

fn run(mut command: Command) -> Ended {
    ended(command.spawn().expect("it starts"))
}

/// The error of a command on the stand-in GPU, one line.
fn refused(world: &World) -> String {
    let ended = run(command(
        world,
        &[
            "bench-step",
            "--size",
            "nano",
            "--method",
            "full",
            "--device",
            "cuda",
        ],
    ));
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{ended:#?}");
    ended.stderr
}

/// What the doctor says of a part.
fn found(checks: &Value, name: &str) -> String {
    let checks = checks.as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("{name} in {checks:#?}"));
    format!(
        "{}: {}",
        check["usable"],
        check["found"].as_str().expect("a text")
    )
}

fn doctor(command: Command) -> Value {
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// A machine that has a toolkit of its own needs nothing of pip: there these tests could not tell where things come from.
fn has_toolkit() -> bool {
    let is_there = [
        "/usr/local/cuda",
        "/opt/cuda",
        "/usr/include/cuda_runtime.h",
    ]
    .iter()
    .any(|place| Path::new(place).exists());
    if is_there {
        crate::support::skipped("a CUDA toolkit is installed");
    }
    is_there
}

#[test]
fn the_doctor_shows_cards_compiler_headers_and_the_management_library_wherever_they_are() {
    if has_toolkit() {
        return;
    }
    let world = with_driver(&[]);
    add_compiler(&world);
    (0..HEADERS.len()).for_each(|wheel| add_headers(&world, wheel));
    library(&world.path("driver/libnvidia-ml.so.1"), "nvml.c", &[]);
    let checks = doctor(command(&world, &["doctor", "--json"]));
    assert_eq!(
        found(&checks, "NVIDIA driver"),
        "true: libcuda.so.1 570.86.15, CUDA 12.8"
    );
    assert_eq!(
        found(&checks, "GPUs"),
        "true: cuda:0 Stand-in A, compute capability 8.9, 24.0 GiB, 18.0 GiB of it free; \
         cuda:1 Stand-in B, compute capability 8.10, 24.0 GiB, 18.0 GiB of it free"
    );
    let nvrtc = fs::canonicalize(world.path("packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
    let packages = world.path("packages/nvidia");
    let packages = packages.display();
    assert_eq!(
        found(&checks, "NVRTC"),
        format!("true: {} 12.6", nvrtc.expect("there").display())
    );
    assert_eq!(
        found(&checks, "CUDA headers"),
        format!(
            "true: {packages}/cuda_runtime/include and {packages}/cuda_nvcc/include and {packages}/cuda_cccl/include 12.6"
        )
    );
    // By the cards' identifiers: CUDA counts them the other way round.
    assert_eq!(
        found(&checks, "NVML"),
        "true: of driver 570.86.15; cuda:0 may draw 450 W; cuda:1 may draw 700 W"
    );
    assert_eq!(
        found(&checks, "CUDA"),
        "true: everything that it needs is there"
    );
    assert!(!world.path("cache/relora").exists(), "it starts nothing");
}

#[test]
fn without_the_management_library_the_doctor_says_that_energy_is_not_recorded() {
    let world = with_driver(&[]);
    let nvml = found(&doctor(command(&world, &["doctor", "--json"])), "NVML");
    // Where this machine has one of its own, it does not know these cards.
    let absent = "false: no management library (libnvidia-ml.so.1): energy is not recorded";
    assert!(nvml == absent || nvml.contains("not known"), "{nvml}");
}

#[test]
fn each_missing_part_of_cuda_is_one_line_that_says_what_would_bring_it() {
    if has_toolkit() {
        return;
    }
    let world = with_driver(&["-DOLD_DRIVER"]);
    let line = refused(&world);
    let expected = "error: --device cuda:0: the NVIDIA driver (libcuda.so.1) has no function cuMemAllocAsync; a newer driver has it";
    assert_eq!(line.trim_end(), expected);

    let world = with_driver(&[]);
    assert!(
        refused(&world).trim_end().ends_with(
            "run-time compiler was not found (libnvrtc.so); install the CUDA toolkit, or `python3 -m pip install \
             nvidia-cuda-nvrtc-cu12`"
        ),
        "{}",
        refused(&world)
    );
    add_compiler(&world);
    add_headers(&world, 0);
    let line = refused(&world);
    assert!(
        line.trim_end().ends_with(
            "header crt/host_config.h was not found, which kernels include; install the CUDA toolkit, or `python3 -m pip \
             install nvidia-cuda-nvcc-cu12 nvidia-cuda-cccl-cu12`"
        ),
        "{line}"
    );
}

/// By hand, for the tiny profile in bf16 with 64 sequences of 16 tokens an update: where all fit, all go at once. In what is
/// free below that they do not.
#[test]
fn an_open_micro_batch_is_chosen_by_the_memory_that_the_gpu_has_free() {
    if has_toolkit() {
        return;
    }
    let world = with_driver(&[]);
    add_compiler(&world);
    (0..HEADERS.len()).for_each(|wheel| add_headers(&world, wheel));
    let chosen = |free_mebibytes: &str| {
        let arguments = "bench-all --profile tiny.toml --data corpus.jsonl --device cuda --only full \
                         --set size.tiny.global_batch_size=64 --set size.tiny.micro_batch_size=0 --out";
        let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
        arguments.push(free_mebibytes);
        let mut command = command(&world, &arguments);
        command.env("STAND_IN_FREE_MIB", free_mebibytes);
        // Nothing can be computed on these cards, which is said once the plan is written.
        let ended = run(command);
        assert_eq!(ended.code, Some(3), "{ended:#?}");
        let failed = "tiny-full-seed1: failed: the device failed: ";
        assert!(ended.stderr.contains(failed), "{ended:#?}");
        let plan = Plan::read(&world.path(free_mebibytes)).expect("a plan");
        plan.cells[0].settings.micro_batch_size
    };
    assert_eq!(chosen("18000"), 64);
    let less = chosen("2");
    assert!(less < 64, "{less}");
}
