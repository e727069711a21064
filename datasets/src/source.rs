//! Where text comes from. A [`Source`] reads documents in a fixed order; one file below this one per kind of source.
//! This file also holds what they share: reading plain or compressed lines, bad lines, and cutting long text into documents.

pub mod c4;
pub mod crates;
pub mod jsonl;
pub mod text;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// Which text to read. Part of [`crate::DataSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceSpec {
    /// The prose in the documentation of the crates that this program is built from; with a limit, its first bytes.
    Crates {
        #[serde(default)]
        limit_bytes: Option<u64>,
    },
    /// Plain text files (plain, `.gz` or `.zst`), cut into documents at blank lines.
    Text { paths: Vec<PathBuf> },
    /// One JSON object a line (plain, `.gz` or `.zst`), the text in `field`.
    Jsonl { paths: Vec<PathBuf>, field: String },
    /// A folder of the published C4 shards, or of any of them.
    C4 { directory: PathBuf },
}

impl SourceSpec {
    /// What a person calls the text: its folder, or its files.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            SourceSpec::Crates { .. } => "the default text".to_owned(),
            SourceSpec::C4 { directory } => directory.display().to_string(),
            SourceSpec::Text { paths } | SourceSpec::Jsonl { paths, .. } => {
                let names = paths.iter().map(|path| path.display().to_string());
                names.collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Chooses the kind of source by looking at `path`: a folder of C4 shards, of JSON lines or of text, or one such file.
    ///
    /// # Errors
    /// The path is missing, cannot be listed, or is a folder without any text or with text of two kinds.
    pub fn from_path(path: &Path) -> Result<SourceSpec, DataError> {
        let metadata = std::fs::metadata(path).map_err(|e| DataError::read(path, e))?;
        if metadata.is_file() {
            let paths = vec![path.to_path_buf()];
            return Ok(if jsonl::is_jsonl(path) {
                SourceSpec::Jsonl {
                    paths,
                    field: jsonl::FIELD.into(),
                }
            } else {
                SourceSpec::Text { paths }
            });
        }
        let (mut shards, mut jsonl, mut text) = (Vec::new(), Vec::new(), Vec::new());
        for file in sorted_files(path)? {
            if c4::Shard::of(&file).is_some() {
                shards.push(file);
            } else if jsonl::is_jsonl(&file) {
                jsonl.push(file);
            } else if text::is_text(&file) {
                text.push(file);
            }
        }
        // Reading one kind would leave the others out without a word.
        let kinds = [
            ("C4 shards", &shards),
            ("JSON lines", &jsonl),
            ("text", &text),
        ];
        let found: Vec<(&str, PathBuf)> = kinds
            .into_iter()
            .filter_map(|(kind, files)| Some((kind, files.first()?.clone())))
            .collect();
        if let [first, other, ..] = &found[..] {
            return Err(DataError::MixedFolder {
                path: path.into(),
                first: first.clone(),
                other: other.clone(),
            });
        }
        if !shards.is_empty() {
            return Ok(SourceSpec::C4 {
                directory: path.to_path_buf(),
            });
        }
        if !jsonl.is_empty() {
            return Ok(SourceSpec::Jsonl {
                paths: jsonl,
                field: jsonl::FIELD.into(),
            });
        }
        if text.is_empty() {
            return Err(DataError::NothingInFolder {
                path: path.to_path_buf(),
                expected: "c4 shards, .jsonl, .json.gz, .txt or .md files",
            });
        }
        Ok(SourceSpec::Text { paths: text })
    }

    /// The reader of this source.
    ///
    /// # Errors
    /// An input is missing or unreadable.
    pub fn open(&self) -> Result<Box<dyn Source>, DataError> {
        Ok(match self {
            SourceSpec::Crates { limit_bytes } => Box::new(crates::Crates::new(*limit_bytes)?),
            SourceSpec::Text { paths } => Box::new(text::Text::new(paths)?),
            SourceSpec::Jsonl { paths, field } => Box::new(jsonl::Jsonl::new(paths, field)?),
            SourceSpec::C4 { directory } => Box::new(c4::C4::new(directory)?),
        })
    }
}

/// Text in a fixed order.
pub trait Source {
    /// A hash of everything that the text depends on, without reading the text as documents. `hashed` is told of the bytes of
    /// the inputs as they are read.
    ///
    /// # Errors
    /// An input cannot be read.
    fn fingerprint(&self, hashed: &mut dyn FnMut(u64)) -> Result<blake3::Hash, DataError>;

    /// The size of the inputs in bytes, against which [`Item::Document::position`] tells how far the reading is.
    fn size_bytes(&self) -> u64;

    /// Hands every document and every bad line to `visitor`, in the same order each time, until it breaks.
    /// Documents of the validation side come first where the source itself tells the sides apart.
    ///
    /// # Errors
    /// An input is missing, empty, binary or damaged, or the visitor failed.
    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError>;
}

/// What a [`Source`] calls for each item.
pub type Visitor<'a> = dyn FnMut(Item) -> Result<ControlFlow<()>, DataError> + 'a;

/// What a [`Source`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Document {
        text: String,
        side: Side,
        /// Bytes of the inputs read so far (compressed bytes where they are compressed).
        position: u64,
    },
    Bad(BadLine),
}

/// Where the source itself says that a document belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Training,
    Validation,
    /// The source does not say: a hash of the content decides.
    ByContent,
}

/// A line of a corpus that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadLine {
    pub path: PathBuf,
    /// Number of the line, from 1.
    pub line: u64,
    pub reason: String,
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.reason)
    }
}

/// The count of bad lines of a corpus and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadLines {
    pub bad: u64,
    /// Documents and bad lines together.
    pub lines: u64,
    /// At most [`BadLines::KEPT`].
    pub first: Vec<BadLine>,
}

impl BadLines {
    /// How many bad lines are kept with file and line.
    pub const KEPT: usize = 10;

    /// With this many lines read and not one good, the rest is not read: the wrong field or file was given.
    const HOPELESS: u64 = 1_000;

    pub(crate) fn good(&mut self) {
        self.lines += 1;
    }

    pub(crate) fn bad(&mut self, line: BadLine) {
        self.lines += 1;
        self.bad += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(line);
        }
    }

    pub(crate) fn is_hopeless(&self) -> bool {
        self.lines >= Self::HOPELESS && self.bad == self.lines
    }

    /// # Errors
    /// More than `allowed` of the lines are bad.
    pub(crate) fn check(&self, allowed: f64) -> Result<(), DataError> {
        // Counts of lines are far below 2^53, where f64 is exact.
        if self.bad as f64 <= allowed * self.lines as f64 {
            return Ok(());
        }
        let named: Vec<String> = self.first.iter().take(3).map(BadLine::to_string).collect();
        Err(DataError::BadLines {
            bad: self.bad,
            lines: self.lines,
            allowed,
            first: named.join("; "),
        })
    }
}

/// How a file is packed, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstandard,
}

impl Packing {
    fn of(path: &Path) -> Packing {
        match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstandard,
            _ => Packing::Plain,
        }
    }

    fn error(self, path: &Path, error: io::Error) -> DataError {
        let format = match self {
            Packing::Plain => return DataError::read(path, error),
            Packing::Gzip => ".gz",
            Packing::Zstandard => ".zst",
        };
        DataError::Compressed {
            path: path.to_path_buf(),
            format,
            reason: match error.kind() {
                io::ErrorKind::UnexpectedEof => "it ends too early".into(),
                _ => error.to_string(),
            },
        }
    }
}

/// The lines of a plain or compressed file, as bytes without their line end.
pub(crate) struct Lines {
    path: PathBuf,
    packing: Packing,
    reader: Box<dyn BufRead>,
    read: Rc<Cell<u64>>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// # Errors
    /// The file is missing, unreadable or empty.
    pub(crate) fn open(path: &Path) -> Result<Lines, DataError> {
        let file = File::open(path).map_err(|e| DataError::read(path, e))?;
        let metadata = file.metadata().map_err(|e| DataError::read(path, e))?;
        if metadata.len() == 0 {
            return Err(DataError::Empty { path: path.into() });
        }
        let read = Rc::new(Cell::new(0));
        let counted = Counted {
            inner: file,
            read: Rc::clone(&read),
        };
        let packing = Packing::of(path);
        let reader: Box<dyn BufRead> = match packing {
            Packing::Plain => Box::new(BufReader::with_capacity(1 << 16, counted)),
            // Shards are often several gzip members, one after the other.
            Packing::Gzip => Box::new(BufReader::with_capacity(
                1 << 16,
                flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, counted)),
            )),
            Packing::Zstandard => Box::new(BufReader::with_capacity(
                1 << 16,
                zstd::Decoder::new(counted).map_err(|e| packing.error(path, e))?,
            )),
        };
        Ok(Lines {
            path: path.into(),
            packing,
            reader,
            read,
            line: 0,
            buffer: Vec::new(),
        })
    }

    /// The next line with its number (from 1), or `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or what it is compressed with is damaged.
    pub(crate) fn next_line(&mut self) -> Result<Option<(u64, &[u8])>, DataError> {
        self.buffer.clear();
        let count = self
            .reader
            .read_until(b'\n', &mut self.buffer)
            .map_err(|e| self.packing.error(&self.path, e))?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some((self.line, line)))
    }

    /// Bytes of the file read so far, before decompression.
    pub(crate) fn position(&self) -> u64 {
        self.read.get()
    }
}

/// Counts the bytes that pass.
struct Counted {
    inner: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// The files of a folder, not of those in it, in the order of their names' bytes.
pub(crate) fn sorted_files(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| DataError::read(directory, e))? {
        let path = entry.map_err(|e| DataError::read(directory, e))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort_by(|a, b| {
        a.as_os_str()
            .as_encoded_bytes()
            .cmp(b.as_os_str().as_encoded_bytes())
    });
    Ok(files)
}

/// Files to read one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) paths: Vec<PathBuf>,
    /// Of all of them together.
    pub(crate) size_bytes: u64,
}

impl Files {
    /// # Errors
    /// No path is given, or one is missing or a folder.
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Files, DataError> {
        if paths.is_empty() {
            return Err(DataError::NoPaths);
        }
        let mut size_bytes = 0;
        for path in paths {
            let metadata = std::fs::metadata(path).map_err(|e| DataError::read(path, e))?;
            if metadata.is_dir() {
                let source =
                    io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, not a file");
                return Err(DataError::read(path, source));
            }
            size_bytes += metadata.len();
        }
        Ok(Files {
            paths: paths.to_vec(),
            size_bytes,
        })
    }
}

/// A hash of the contents of `paths`, in this order. `hashed` is told of every portion's bytes.
pub(crate) fn hash_files(
    paths: &[PathBuf],
    hashed: &mut dyn FnMut(u64),
) -> Result<blake3::Hash, DataError> {
    let mut hasher = blake3::Hasher::new();
    let mut portion = vec![0; 1 << 20];
    for path in paths {
        let mut file = File::open(path).map_err(|e| DataError::read(path, e))?;
        let mut of_file = blake3::Hasher::new();
        loop {
            match file.read(&mut portion) {
                Ok(0) => break,
                Ok(count) => {
                    of_file.update(&portion[..count]);
                    hashed(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DataError::read(path, error)),
            }
        }
        hasher.update(of_file.finalize().as_bytes());
    }
    Ok(hasher.finalize())
}

/// Gathers paragraphs into documents of bounded size.
///
/// A document ends at the first paragraph end past `target` bytes; a single paragraph longer than twice that is cut at a
/// space. Where a document ends depends only on the text since it began, so text appended later moves no earlier document.
pub(crate) struct Pieces {
    target: usize,
    separator: &'static str,
    held: String,
}

impl Pieces {
    pub(crate) fn new(target: usize, separator: &'static str) -> Pieces {
        Pieces {
            target,
            separator,
            held: String::new(),
        }
    }

    /// Adds a paragraph and returns the documents that it completes.
    pub(crate) fn push(&mut self, paragraph: &str) -> Vec<String> {
        if !self.held.is_empty() {
            self.held.push_str(self.separator);
        }
        self.held.push_str(paragraph);
        let mut complete = Vec::new();
        let mut rest = self.held.as_str();
        while rest.len() > 2 * self.target {
            let (piece, after) = rest.split_at(cut(rest, self.target));
            complete.push(piece.trim_end().to_owned());
            rest = after.trim_start();
        }
        if rest.len() >= self.target {
            complete.push(rest.to_owned());
            rest = "";
        }
        if rest.len() != self.held.len() {
            self.held = rest.to_owned();
        }
        complete
    }

    /// The rest, if there is one.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.held);
        (!rest.trim().is_empty()).then_some(rest)
    }
}

/// Where to cut `text` near `target`: after the last white space before it, else at the last character border.
fn cut(text: &str, target: usize) -> usize {
    let mut border = target;
    while !text.is_char_boundary(border) {
        border -= 1;
    }
    match text[..border].rfind(char::is_whitespace) {
        Some(space) if space > target / 2 => {
            space + text[space..].chars().next().map_or(1, char::len_utf8)
        }
        _ => border,
    }
}
