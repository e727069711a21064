//! What can go wrong with text and tokens: each message is one line that names the thing, its value and what would be right.

use std::io;
use std::path::{Path, PathBuf};

use crate::Split;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: no such file or folder; give text files, .jsonl files (plain, .gz or .zst) or a folder of c4 shards", path.display())]
    Missing { path: PathBuf },
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: cannot be written: {source}; give a folder that you may write to and that has room", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: is empty; give a file that holds text", path.display())]
    Empty { path: PathBuf },
    #[error("{}: line {line} is binary, not UTF-8 text; give plain text or JSON lines (compressed files end in .gz or .zst)", path.display())]
    Binary { path: PathBuf, line: u64 },
    #[error("{}: is not a whole {format} file: {reason}; compress or copy it again", path.display())]
    Compressed {
        path: PathBuf,
        format: &'static str,
        reason: String,
    },
    #[error("{}: no text found in this folder; give one that holds {expected}", path.display())]
    NothingInFolder {
        path: PathBuf,
        expected: &'static str,
    },
    #[error(
        "{}: holds {} ({}) and {} ({}), of which one kind is read; give a folder of one kind, or list its files in data.paths",
        path.display(), first.0, file_name(&first.1), other.0, file_name(&other.1)
    )]
    MixedFolder {
        /// The folder.
        path: PathBuf,
        /// A kind of text and the first file of it.
        first: (&'static str, PathBuf),
        /// Another kind, and its first file.
        other: (&'static str, PathBuf),
    },
    #[error("no paths given; give at least one file of text")]
    NoPaths,
    #[error(
        "{bad} of {lines} lines are bad, more than the allowed share of {allowed} (`bad_line_share`); the first: {first}"
    )]
    BadLines {
        bad: u64,
        lines: u64,
        allowed: f64,
        first: String,
    },
    #[error("{name}: the share must lie {right}, not at {value}")]
    Share {
        name: &'static str,
        value: f64,
        right: &'static str,
    },
    #[error(
        "{text}: the {split} split is empty (documents read: {documents}, validation share: {share}); give more text or another data.validation_share"
    )]
    EmptySplit {
        text: String,
        split: Split,
        documents: u64,
        share: f64,
    },
    #[error(
        "the first validation document alone has {tokens} tokens, more than the maximum of {maximum}; raise the maximum"
    )]
    ValidationMaximum { tokens: u64, maximum: u64 },
    #[error("{}: is not a tokenizer.json: {reason}", path.display())]
    NotTokenizer { path: PathBuf, reason: String },
    #[error(
        "{}: has no token that ends a document; it needs one of {}",
        path.display(), crate::tokenizer::END_OF_TEXT_NAMES.join(" ")
    )]
    NoEndOfText { path: PathBuf },
    #[error(
        "a vocabulary of {requested} is too small for a byte-level tokenizer; it needs at least {least} (256 bytes and the end of text)"
    )]
    Vocabulary { requested: usize, least: usize },
    #[error("the tokenizer failed: {reason}")]
    Tokenizer { reason: String },
    #[error(
        "the source of crate {name} {version} is not under {}; `cargo fetch --locked` brings it, `--data PATH` points to other text",
        registry.display()
    )]
    CrateMissing {
        name: String,
        version: String,
        registry: PathBuf,
    },
    #[error(
        "Cargo has no home folder: set CARGO_HOME or HOME, or point to other text with `--data PATH`"
    )]
    NoCargoHome,
    #[error(
        "crates.list names {entry}, which Cargo.lock does not hold; write the list again (see the header of crates.list)"
    )]
    CratesList { entry: String },
    #[error("{}: is not a whole token store: {reason}; remove this folder and prepare it again", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{name} is {value}; it must be {right}")]
    Setting {
        name: &'static str,
        value: u64,
        right: &'static str,
    },
    #[error(
        "a sequence length of {length} is longer than the corpus allows: the {split} split is less than one batch \
         (documents: {documents}, tokens: {tokens}, rows: {rows} of {needed}); give more text, shorter sequences or a smaller batch"
    )]
    TooShort {
        split: Split,
        length: usize,
        tokens: u64,
        documents: u64,
        rows: u64,
        needed: u64,
    },
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

impl DataError {
    /// A failed read, with the two commonest causes told apart.
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => DataError::Missing { path },
            _ => DataError::Read { path, source },
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        DataError::Write { path, source }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        let path = path.to_path_buf();
        DataError::Damaged {
            path,
            reason: reason.into(),
        }
    }
}
