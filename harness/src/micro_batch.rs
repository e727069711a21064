//! The micro-batch of a size whose profile leaves it open (`micro_batch_size = 0`): as large as the memory plan allows. And
//! the answer where a device has run out of memory all the same: the micro-batch that would fit.

use anyhow::{Error, anyhow};
use models::{Device, DeviceFault, Precision};
use results::render::megabytes;

use crate::machine;
use crate::matrix::Cell;
use crate::plan;
use crate::stop;

/// Share of the memory there is that plans may fill: the rest is the system's, the text's and the allocator's.
const SHARE: f64 = 0.8;

/// What a micro-batch may take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Of what is planned.
    pub precision: Precision,
    /// Memory; none where it is not known.
    pub bytes: Option<u64>,
    /// Tokens: more at once fill the device no better.
    pub tokens: u64,
}

impl Room {
    /// The room of one of `jobs` workers on a device: of this machine's memory, or of what is free on the GPU now.
    #[must_use]
    pub fn of(device: Device, precision: Precision, jobs: u64) -> Room {
        let (bytes, tokens) = match device {
            Device::Cpu => (machine::memory(), 4096),
            Device::Cuda(index) => (models::gpu_memory(index).map(|it| it.free), 32_768),
        };
        Room {
            precision,
            bytes: bytes.map(|all| (all as f64 * SHARE) as u64 / jobs.max(1)),
            tokens,
        }
    }

    /// The same for a worker while others of the `jobs` may be at work already: its share of the whole GPU, if so much is free.
    #[must_use]
    pub fn beside_others(device: Device, precision: Precision, jobs: u64) -> Room {
        let room = Room::of(device, precision, jobs);
        let Device::Cuda(index) = device else {
            return room;
        };
        let share = models::gpu_memory(index).map(|it| it.free.min(it.total / jobs.max(1)));
        Room {
            bytes: share.map(|bytes| (bytes as f64 * SHARE) as u64),
            ..room
        }
    }
}

/// Whether an error, or what this process has panicked with, is that a device had no memory left.
#[must_use]
pub fn is_out_of_memory(error: &Error) -> bool {
    let says_so = |text: &str| DeviceFault::new(text).is_out_of_memory();
    error.chain().any(|cause| says_so(&cause.to_string()))
        || stop::poisoned().is_some_and(|panic| says_so(&panic))
}

/// What a cell's run failed with: where the device had no memory left, with the micro-batch that would fit.
#[must_use]
pub fn explained(error: Error, device: Device, cell: &Cell, room: &Room) -> Error {
    if !is_out_of_memory(&error) {
        return error;
    }
    let planned = |rows| plan::bytes(&with(cell, rows), room.precision).0.total();
    let rows = cell.settings.micro_batch_size;
    let divides = |fewer: &u64| cell.settings.global_batch_size.is_multiple_of(*fewer);
    let fits = smaller(rows, room, planned).find(divides);
    let how = fits.map(|fewer| format!("--set micro_batch_size={fewer} and another --out"));
    anyhow!(out_of_memory(device, rows, fits.zip(how)))
}

/// The micro-batches below one that a device had no room for that should find some, the largest first. The plan was wrong
/// where it had room for that one: then they take no more than the same share of what was too much.
pub fn smaller(rows: u64, room: &Room, planned: impl Fn(u64) -> u64) -> impl Iterator<Item = u64> {
    let too_much = (planned(rows) as f64 * SHARE) as u64;
    let most = room.bytes.map_or(too_much, |bytes| bytes.min(too_much));
    (1..rows).rev().filter(move |fewer| planned(*fewer) <= most)
}

/// A line on a device that had no memory left, with the micro-batch that would fit and how to ask for it.
#[must_use]
pub fn out_of_memory(device: Device, rows: u64, fits: Option<(u64, String)>) -> String {
    let fits = match fits {
        Some((fewer, how)) => format!("{fewer} would fit ({how})"),
        None => "by the memory plan not even a single sequence would fit (--recompute takes less)"
            .to_owned(),
    };
    format!("device {device} ran out of memory with a micro-batch of {rows}; {fits}")
}

/// Gives each cell that leaves its micro-batch open the one that it has in the suite's earlier plan. All others of a size
/// get the same: that of the earlier plan's first cell of the size, or the largest divisor of the global batch with which
/// each of the size's methods finds room. Returns a line for a size of which not even a single sequence does.
pub fn choose(matrix: &mut [Cell], earlier: &[Cell], room: &Room) -> Vec<String> {
    let mut notes = Vec::new();
    for cell in matrix.iter_mut().filter(|cell| is_open(cell)) {
        let own = earlier
            .iter()
            .find(|other| other.directory() == cell.directory());
        if let Some(rows) = own.map(|own| own.settings.micro_batch_size)
            && cell.settings.global_batch_size.is_multiple_of(rows)
        {
            cell.settings.micro_batch_size = rows;
        }
    }
    while let Some(open) = matrix.iter().find(|cell| is_open(cell)) {
        let size = open.size.clone();
        let of_size = |cell: &Cell| cell.size == size && is_open(cell);
        let divides = |rows: u64| {
            let mut cells = matrix.iter().filter(|cell| of_size(cell));
            cells.all(|cell| cell.settings.global_batch_size.is_multiple_of(rows))
        };
        let known = earlier
            .iter()
            .find(|cell| cell.size == size)
            .map(|cell| cell.settings.micro_batch_size)
            .filter(|rows| *rows > 0 && divides(*rows));
        let planned = |rows: u64| {
            let bytes = matrix
                .iter()
                .filter(|cell| of_size(cell))
                .map(|cell| plan::bytes(&with(cell, rows), room.precision).0.total());
            bytes.max().unwrap_or(0)
        };
        let most = (room.tokens / open.settings.sequence_length.max(1)).max(1);
        let fits = |rows: u64| room.bytes.is_none_or(|bytes| planned(rows) <= bytes);
        let rows = known.or_else(|| {
            (1..=most.min(open.settings.global_batch_size))
                .rev()
                .find(|rows| divides(*rows) && fits(*rows))
        });
        if rows.is_none() {
            notes.push(format!(
                "warning: {size}: {} are planned for a micro-batch of a single sequence, and each worker has {}; \
                 fewer --jobs or --recompute take less",
                megabytes(planned(1)),
                megabytes(room.bytes.unwrap_or(0))
            ));
        }
        let rows = rows.unwrap_or(1);
        for cell in matrix.iter_mut().filter(|cell| of_size(cell)) {
            cell.settings.micro_batch_size = rows;
        }
    }
    notes
}

fn is_open(cell: &Cell) -> bool {
    cell.settings.micro_batch_size == 0
}

fn with(cell: &Cell, rows: u64) -> Cell {
    let mut cell = cell.clone();
    cell.settings.micro_batch_size = rows;
    cell
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{Surroundings, cells};
    use crate::profile::Profile;

    /// All sizes of the paper, each with its batch of 480 to 1152 sequences of 256 or 512 tokens, left open.
    fn open() -> Vec<Cell> {
        let profile = Profile::load("paper", &["micro_batch_size=0".into()]).expect("loads");
        cells(&profile, &Surroundings::without_text(&profile)).expect("cells")
    }

    fn chosen(matrix: &[Cell], size: &str) -> Vec<u64> {
        let mut rows: Vec<u64> = matrix
            .iter()
            .filter(|cell| cell.size == size)
            .map(|cell| cell.settings.micro_batch_size)
            .collect();
        rows.dedup();
        rows
    }

    fn room(bytes: Option<u64>) -> Room {
        Room {
            precision: Precision::F32,
            bytes,
            tokens: 4096,
        }
    }

    #[test]
    fn it_is_the_largest_divisor_that_finds_room_for_every_method() {
        let mut matrix = open();
        assert_eq!(choose(&mut matrix, &[], &room(None)), [""; 0]);
        // by hand: of a batch of 480, 600, 1152 the largest divisors of at most 16 sequences of 256 tokens, or 8 of 512
        for (size, batch, rows) in [
            ("60m", 480, 16),
            ("130m", 600, 15),
            ("250m", 1152, 8),
            ("350m", 1152, 8),
        ] {
            let cell = matrix.iter().find(|cell| cell.size == size);
            assert_eq!(cell.expect("a cell").settings.global_batch_size, batch);
            assert_eq!(chosen(&matrix, size), [rows], "{size}");
        }

        let needed = |rows| {
            let of_size = matrix.iter().filter(|cell| cell.size == "60m");
            let bytes =
                of_size.map(|cell| plan::bytes(&with(cell, rows), Precision::F32).0.total());
            bytes.max().expect("a cell")
        };
        let mut tight = open();
        tight.retain(|cell| cell.size == "60m");
        assert_eq!(
            choose(&mut tight, &[], &room(Some(needed(16) - 1))),
            [""; 0]
        );
        // of 480, the largest divisor below 16
        assert_eq!(chosen(&tight, "60m"), [15]);
    }

    /// The text is that of the panic on the device's thread in cubecl-cuda 0.10.
    #[test]
    fn a_device_without_memory_is_answered_with_the_micro_batch_that_would_fit() {
        let mut matrix = open();
        choose(&mut matrix, &[], &room(None));
        let mut cell = matrix.remove(0);
        cell.settings.micro_batch_size = 60;
        let planned = |rows| plan::bytes(&with(&cell, rows), Precision::F32).0.total();
        let fault = || {
            let panic = "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 9\n  0: frame";
            Error::from(DeviceFault::new(panic))
        };
        let said = |bytes| {
            let device = Device::Cuda(0);
            explained(fault(), device, &cell, &room(bytes)).to_string()
        };
        // 480 sequences: its divisors below 60 are 48, 40, 32, 30, 24, 20 and so on
        assert_eq!(
            said(Some(planned(24))),
            "device cuda:0 ran out of memory with a micro-batch of 60; 24 would fit (--set micro_batch_size=24 and another --out)"
        );
        assert!(said(Some(planned(24) - 1)).contains("; 20 would fit"));
        // Where the plan saw room for 60, the answer is smaller all the same.
        let below = planned(60) as f64 * SHARE;
        let [fits, too_many] = [40, 48].map(|rows| planned(rows) as f64);
        assert!(
            fits <= below && below < too_many,
            "{fits} {below} {too_many}"
        );
        for bytes in [None, Some(planned(480))] {
            assert!(said(bytes).contains("; 40 would fit"), "{}", said(bytes));
        }
        assert!(said(Some(1)).contains("not even a single sequence"));

        let other = Error::from(DeviceFault::new("an illegal address"));
        let text = explained(other, Device::Cuda(0), &cell, &room(None)).to_string();
        assert_eq!(text, "the device failed: an illegal address");
    }

    #[test]
    fn what_a_suite_has_planned_stays_for_each_of_its_cells_and_others_follow_the_first() {
        let mut earlier = open();
        earlier.retain(|cell| cell.size == "60m" && cell.method != "lora");
        for cell in &mut earlier {
            cell.settings.micro_batch_size = if cell.method == "relora" { 5 } else { 12 };
        }
        let mut matrix = open();
        assert_eq!(choose(&mut matrix, &earlier, &room(None)), [""; 0]);
        for cell in matrix.iter().filter(|cell| cell.size == "60m") {
            let rows = if cell.method == "relora" { 5 } else { 12 };
            assert_eq!(cell.settings.micro_batch_size, rows, "{}", cell.method);
        }
        assert_eq!(chosen(&matrix, "130m"), [15]);
    }

    #[test]
    fn where_nothing_fits_it_is_one_with_a_warning_for_each_size() {
        let mut matrix = open();
        let sizes = {
            let mut sizes: Vec<_> = matrix.iter().map(|cell| cell.size.clone()).collect();
            sizes.dedup();
            sizes.len()
        };
        let notes = choose(&mut matrix, &[], &room(Some(1)));
        assert_eq!(notes.len(), sizes);
        assert!(notes[0].contains("single sequence"), "{}", notes[0]);
        assert!(
            matrix
                .iter()
                .all(|cell| cell.settings.micro_batch_size == 1)
        );
    }
}
