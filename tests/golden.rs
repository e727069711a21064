//! Replays everything that was recorded from the official code (`Guitaricet/relora@176f376`) and says how far ours is from
//! it: `cargo test --test golden`, with a part of a case's name behind it to run only those.
//!
//! `RELORA_GOLDEN_DIR` names another folder of recordings in the same formats; without it, `tests/golden` is read. What a
//! file is shows in what it holds, and what a case needs in its own settings: no case is known by its name.

#![allow(
    clippy::print_stdout,
    reason = "the deviations are what this program is for"
)]

mod replay;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use replay::{Case, Deviations, Folder};

fn main() -> ExitCode {
    // Like any test binary, it is given the options of the test harness: only a filter concerns it.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = |case: &Case| filter.is_none_or(|part| case.name.contains(part.as_str()));
    let folder = Folder::named_by_environment();
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

    println!("\nreplaying {}", folder.path().display());
    let (count, mut failed) = (cases.len(), Vec::new());
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
    println!(
        "\n{count} cases, {} failed {}\n",
        failed.len(),
        failed.join(", ")
    );
    // A folder without a case, or a filter of a typo's making, proves nothing.
    if failed.is_empty() && (count > 0 || filter.is_some()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
