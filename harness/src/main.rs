//! The `relora` command: parse, dispatch, print one line where something is wrong, exit.

use std::process::ExitCode;

use clap::Parser;
use harness::allocator::Allocator;
use harness::cli::{Cli, Command};
use harness::{calibrate, commands, exit};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::BenchAll(options) => commands::bench_all::run(options),
        Command::Plan(options) => commands::plan::run(options),
        Command::Train(options) => commands::train::run(options),
        Command::Tune(options) => commands::tune::run(options),
        Command::Status(options) => commands::status::run(options),
        Command::Tables(options) => commands::tables::run(options),
        Command::Explain(options) => commands::explain::run(options),
        Command::Spectra(options) => commands::spectra::run(options),
        Command::Report(options) => commands::report::run(options),
        Command::Claims(options) => commands::claims::run(options),
        Command::Export(options) => commands::export::run(options),
        Command::Eval(options) => commands::eval::run(options),
        Command::BenchStep(options) => commands::bench_step::run(options),
        Command::Doctor(options) => commands::doctor::run(options),
        Command::Completions(options) => commands::completions::run(options),
        Command::Calibrate(options) => calibrate::measure(&options),
        Command::Worker(options) => commands::worker::run(options),
    };
    ended.unwrap_or_else(|error| exit::report(&error)).into()
}
