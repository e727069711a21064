//! `relora completions SHELL`: the script that makes a shell complete this command line.

use clap::CommandFactory;

use super::print;
use crate::cli::{Cli, CompletionsOptions};
use crate::exit::Exit;

/// Prints the script.
///
/// # Errors
/// Whatever standard output says.
pub fn run(options: CompletionsOptions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "relora", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
