//! Replays everything that was recorded from the official code (`Guitaricet/relora@176f376`) and says how far ours is from
//! it: `cargo test --test golden`, with a part of a case's name behind it to run only those.
//!
//! `RELORA_GOLDEN_DIR` names another folder of recordings in the same formats; without it, `tests/golden` is read. What a
//! file is shows in what it holds, and what a case needs in its own settings: no case is known by its name.
//! `RELORA_GOLDEN_DEVICE` and `RELORA_GOLDEN_PRECISION` replay on a GPU and in another precision.

#![allow(
    clippy::print_stdout,
    reason = "the deviations are what this program is for"
)]

mod replay;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use replay::{Case, Deviations, Folder, Place};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Chosen { filters, skipped } = Chosen::by(&arguments);
    let chosen = |case: &Case| {
        let named = |part: &&String| case.name.contains(part.as_str());
        (filters.is_empty() || filters.iter().any(named)) && !skipped.iter().any(named)
    };
    let folder = match Folder::named_by_environment() {
        Ok(folder) => folder,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let cases: Vec<Case> = match replay::cases(&folder) {
        Ok(cases) => cases.into_iter().filter(chosen).collect(),
        Err(error) => {
            println!("{}: {error}", folder.path().display());
            return ExitCode::FAILURE;
        }
    };
    if arguments.iter().any(|argument| argument == "--list") {
        for case in &cases {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }

    println!(
        "\nreplaying {} on {}",
        folder.path().display(),
        folder.place()
    );
    let count = cases.len();
    let mut failed = replayed(cases);
    if let Some(place) = Place::vulkan() {
        println!("\nreplaying some of them on {place}");
        let again = |case: &Case| chosen(case) && ON_VULKAN.contains(&case.name.as_str());
        match replay::cases(&folder.on(place)) {
            Ok(cases) => failed.extend(replayed(cases.into_iter().filter(again).collect())),
            Err(error) => failed.push(error),
        }
    }
    println!(
        "\n{count} cases, {} failed {}\n",
        failed.len(),
        failed.join(", ")
    );
    // A folder without a case proves nothing. A filter that names none may be meant for the other tests.
    if failed.is_empty() && (count > 0 || !filters.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Trainings that are replayed on Vulkan as well, where the machine has it: the network and its gradients, full rank with
/// accumulation, weight decay and clipping, and ReLoRA with its restarts and resets by magnitude.
const ON_VULKAN: [&str; 3] = [
    "trajectory_forward_backward",
    "trajectory_full_cosine_wd_pad_accum",
    "trajectory_relora_mag_kaiming",
];

/// Replays cases and says how far off they are; gives the names of those that are too far.
fn replayed(cases: Vec<Case>) -> Vec<String> {
    let mut failed = Vec::new();
    for Case { name, replay } in cases {
        let ended = catch_unwind(AssertUnwindSafe(replay));
        let outcome = ended.unwrap_or_else(|_| Err("panicked".into()));
        let good = match &outcome {
            Ok(deviations) => deviations.within_tolerance(),
            Err(_) => false,
        };
        println!("{} {name}", if good { "ok    " } else { "FAILED" });
        match outcome {
            Ok(deviations) => print!("{deviations}"),
            Err(error) => println!("       {error}"),
        }
        if !good {
            failed.push(name);
        }
    }
    failed
}

/// Like any test binary, this one is given the options of the test harness: parts of names concern it, to run and to skip.
#[derive(Default)]
struct Chosen<'a> {
    filters: Vec<&'a String>,
    skipped: Vec<&'a String>,
}

impl<'a> Chosen<'a> {
    fn by(arguments: &'a [String]) -> Chosen<'a> {
        let mut chosen = Chosen::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--skip" => chosen.skipped.extend(rest.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => {
                    rest.next();
                }
                option if option.starts_with('-') => {}
                _ => chosen.filters.push(argument),
            }
        }
        chosen
    }
}

// Kept here, so that the one place that prints is above.
impl std::fmt::Display for Deviations {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (exact, near): (Vec<_>, Vec<_>) = self
            .iter()
            .partition(|deviation| deviation.tolerance == 0.0 && deviation.within_tolerance());
        if !exact.is_empty() {
            let names: Vec<&str> = exact
                .iter()
                .map(|deviation| deviation.quantity.as_str())
                .collect();
            writeln!(formatter, "       the same: {}", names.join(", "))?;
        }
        for deviation in near {
            let mark = if deviation.within_tolerance() {
                ' '
            } else {
                '!'
            };
            writeln!(
                formatter,
                "      {mark}{:<44} {:>9.2e}  of at most {:.0e}{}",
                deviation.quantity,
                deviation.largest,
                deviation.tolerance,
                deviation
                    .place
                    .as_deref()
                    .map(|place| format!("  ({place})"))
                    .unwrap_or_default()
            )?;
        }
        Ok(())
    }
}
