//! `relora worker`: one run directory, by the process that the supervisor starts for it, or by hand.

use crate::cli::WorkerOptions;
use crate::exit::Exit;
use crate::worker::{self, Place};

/// Works on the run until it ends or stops.
///
/// # Errors
/// Whatever keeps the run from going on.
pub fn run(options: WorkerOptions) -> anyhow::Result<Exit> {
    let place = Place {
        device: options.device,
        threads: options.threads,
        store: options.store,
    };
    worker::work(&options.directory, options.supervised, place)
}
