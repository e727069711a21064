//! A run's records as an event file that TensorBoard reads, beside `metrics.jsonl` and made from it alone.
//!
//! An event file is a row of records: eight bytes of length, a checksum of those, the record, a checksum of it. A record
//! is a protocol buffer `Event`: 1 the time, 2 the step, 3 the version of the format (first record), 5 a `Summary` of
//! `Value`s, each 1 a tag and 2 a number. Checksums are CRC-32C, masked so that one of a checksum is no accident.
//!
//! The crates that write such files were last kept years ago, and the format needs no more than what stands here.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use results::record::{Manifest, Record};

use crate::files::{self, failed_to};
use crate::journal::{self, MANIFEST};

/// TensorBoard takes a file for one of events by `tfevents` in its name. It is always the same one: a run that goes on
/// writes it anew, so that no step is there twice.
pub const FILE: &str = "events.out.tfevents.relora";

/// The open event file of a run.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
    encoder: Encoder,
}

impl EventFile {
    /// Begins the file of a run anew with the records that it has. `started`: seconds since the Unix epoch at which the
    /// run began; its training steps are placed behind it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin(directory: &Path, started: f64, records: &[Record]) -> Result<EventFile> {
        let path = directory.join(FILE);
        let mut encoder = Encoder::new(started);
        let mut file = File::create(&path).map_err(failed_to("write", &path))?;
        file.write_all(&encoder.all(records))
            .map_err(failed_to("write", &path))?;
        Ok(EventFile {
            path,
            file,
            encoder,
        })
    }

    /// Adds a record; those that TensorBoard has no curve for add nothing.
    ///
    /// # Errors
    /// What the disk says.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        Ok(self
            .file
            .write_all(&self.encoder.bytes(record))
            .map_err(failed_to("write", &self.path))?)
    }
}

/// From records to what stands in a file.
#[derive(Debug)]
struct Encoder {
    started: f64,
    /// Seconds of training up to the newest record: an evaluation has no time of its own.
    training_seconds: f64,
}

impl Encoder {
    fn new(started: f64) -> Encoder {
        Encoder {
            started,
            training_seconds: 0.0,
        }
    }

    /// A file of these records.
    fn all(&mut self, records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let version = [double(1, self.started), text(3, b"brain.Event:2")].concat();
        frame(&version, &mut bytes);
        for record in records {
            bytes.extend(self.bytes(record));
        }
        bytes
    }

    fn bytes(&mut self, record: &Record) -> Vec<u8> {
        let (step, values) = match record {
            Record::Step(step) => {
                self.training_seconds = step.training_seconds;
                let values = [
                    ("loss", step.loss),
                    ("learning_rate", Some(step.learning_rate)),
                    ("grad_norm", step.grad_norm),
                    ("tokens_per_second", Some(step.tokens_per_second)),
                ];
                (step.step, values.to_vec())
            }
            Record::Evaluation(evaluation) => (
                evaluation.step,
                vec![("validation_loss", evaluation.validation_loss)],
            ),
            Record::Restart(_) | Record::Reset(_) | Record::Stop(_) => return Vec::new(),
        };
        let summary: Vec<u8> = values
            .into_iter()
            .filter_map(|(tag, value)| Some((tag, value?)))
            .flat_map(|(tag, value)| text(1, &[text(1, tag.as_bytes()), float(2, value)].concat()))
            .collect();
        let event = [
            double(1, self.started + self.training_seconds),
            integer(2, step),
            text(5, &summary),
        ];
        let mut bytes = Vec::new();
        frame(&event.concat(), &mut bytes);
        bytes
    }
}

/// Makes the event file of a run that has ended and has none.
///
/// # Errors
/// A run directory that cannot be read; what the disk says.
pub fn complete(directory: &Path) -> Result<()> {
    let path = directory.join(FILE);
    // Only of a run that nobody works on any more.
    if path.exists() || journal::result(directory)?.is_none() {
        return Ok(());
    }
    let manifest: Manifest = files::read_json(&directory.join(MANIFEST), "a run's manifest")?;
    let bytes = Encoder::new(began(&manifest)).all(&journal::records(directory)?);
    files::write_atomically(&path, &bytes)
}

/// Seconds since the Unix epoch at which the first process took a run up.
#[must_use]
pub fn began(manifest: &Manifest) -> f64 {
    manifest
        .sessions
        .first()
        .map_or(0.0, |session| session.started_unix_seconds as f64)
}

/// A record with its length and checksums.
fn frame(record: &[u8], bytes: &mut Vec<u8>) {
    let length = (record.len() as u64).to_le_bytes();
    bytes.extend(length);
    bytes.extend(masked_checksum(&length).to_le_bytes());
    bytes.extend(record);
    bytes.extend(masked_checksum(record).to_le_bytes());
}

fn masked_checksum(bytes: &[u8]) -> u32 {
    const MASK_DELTA: u32 = 0xa282_ead8;
    checksum(bytes).rotate_right(15).wrapping_add(MASK_DELTA)
}

/// CRC-32C (Castagnoli), bit by bit: records are short and few.
fn checksum(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| {
            (state >> 1) ^ (POLYNOMIAL & (state & 1).wrapping_neg())
        })
    })
}

/// A field of a protocol buffer: its number with the kind of what follows.
fn key(field: u8, kind: u8) -> u8 {
    field << 3 | kind
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn integer(field: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![key(field, 0)];
    varint(value, &mut bytes);
    bytes
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [&[key(field, 1)][..], &value.to_le_bytes()].concat()
}

fn text(field: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key(field, 2)];
    varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

/// TensorBoard's numbers are `f32`.
fn float(field: u8, value: f64) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "what the format holds")]
    let value = value as f32;
    [&[key(field, 5)][..], &value.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use results::record::{EvaluationRecord, RestartRecord, StepRecord};

    fn step(step: u64, loss: Option<f64>) -> Record {
        Record::Step(StepRecord {
            step,
            tokens_seen: 64 * step,
            loss,
            learning_rate: 0.5,
            grad_norm: Some(2.0),
            tokens_per_second: 1000.0,
            training_seconds: step as f64,
            training_joules: None,
        })
    }

    /// Frames of a file, each with its checksums compared.
    fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
            let checked = |range: std::ops::Range<usize>| {
                let sum: [u8; 4] = bytes[range.end..range.end + 4].try_into().expect("four");
                assert_eq!(
                    u32::from_le_bytes(sum),
                    masked_checksum(&bytes[range.clone()])
                );
                bytes[range].to_vec()
            };
            checked(0..8);
            frames.push(checked(12..12 + length));
            bytes = &bytes[16 + length..];
        }
        frames
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4: 32 bytes of zeros, and of ones; and the usual check value.
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_event_is_the_protocol_buffer_that_the_format_says() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let evaluation = Record::Evaluation(EvaluationRecord {
            step: 300,
            tokens_seen: 0,
            validation_loss: Some(1.5),
            targets: 1,
            seconds: 0.0,
        });
        EventFile::begin(directory.path(), 2.0, &[evaluation]).expect("written");
        let bytes = std::fs::read(directory.path().join(FILE)).expect("read");
        let [version, event] = &frames(&bytes)[..] else {
            panic!("two records");
        };
        // Encoded by hand: field 1 as a double, field 3 a text.
        let time = [&[0x09][..], &2.0f64.to_le_bytes()].concat();
        assert_eq!(
            *version,
            [&time[..], &[0x1a, 13], b"brain.Event:2"].concat()
        );
        // Field 2 the number 300 = 0b10_0101100, field 5 a summary of one value: a tag of 15 letters and a float.
        let value = [
            &[0x0a, 15][..],
            b"validation_loss",
            &[0x15, 0, 0, 0xc0, 0x3f],
        ]
        .concat();
        let summary = [&[0x2a, 24, 0x0a, 22][..], &value].concat();
        assert_eq!(*event, [&time[..], &[0x10, 0xac, 0x02], &summary].concat());
    }

    #[test]
    fn a_file_begun_anew_holds_what_one_written_in_one_go_does() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let read = || std::fs::read(directory.path().join(FILE)).expect("read");
        let restart = Record::Restart(RestartRecord { step: 1 });
        let records = [
            step(1, Some(4.0)),
            restart,
            step(2, None),
            step(3, Some(3.0)),
        ];
        EventFile::begin(directory.path(), 7.0, &records).expect("written");
        let whole = read();
        // The version and three steps; the restart has no curve.
        assert_eq!(frames(&whole).len(), 4);

        let mut events = EventFile::begin(directory.path(), 7.0, &records[..1]).expect("written");
        for record in &records[1..] {
            events.append(record).expect("appended");
        }
        assert_eq!(read(), whole);
    }
}
