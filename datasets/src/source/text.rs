//! The source `text`: plain UTF-8 files. A document is a run of paragraphs (text between blank lines) of about 4 KiB,
//! since a book in one file must still be divided between training and validation.

use std::path::{Path, PathBuf};

use super::{Files, Item, Lines, Pieces, Side, Source, Visitor, hash_files};
use crate::DataError;

/// About two sequences of 512 tokens: long enough that most rows lie within one document, short enough that a validation
/// share of one percent holds several documents of a text of one megabyte.
const DOCUMENT_BYTES: usize = 4 << 10;

/// Plain text files in the order given.
pub struct Text {
    files: Files,
}

impl Text {
    /// # Errors
    /// No path is given, or one is missing or a folder.
    pub fn new(paths: &[PathBuf]) -> Result<Text, DataError> {
        Ok(Text {
            files: Files::new(paths)?,
        })
    }
}

/// Whether a file of a folder is taken as text.
pub(crate) fn is_text(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let name = name
        .strip_suffix(".gz")
        .or_else(|| name.strip_suffix(".zst"))
        .unwrap_or(name);
    name.ends_with(".txt") || name.ends_with(".md")
}

impl Source for Text {
    fn fingerprint(&self, hashed: &mut dyn FnMut(u64)) -> Result<blake3::Hash, DataError> {
        hash_files(&self.files.paths, hashed)
    }

    fn size_bytes(&self) -> u64 {
        self.files.size_bytes
    }

    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        let mut before = 0;
        for path in &self.files.paths {
            let mut lines = Lines::open(path)?;
            let mut pieces = Pieces::new(DOCUMENT_BYTES, "\n\n");
            let mut paragraph = String::new();
            loop {
                let position = before + lines.position();
                let mut documents = Vec::new();
                let mut ended = false;
                match lines.next_line()? {
                    Some((line, bytes)) => {
                        let text = std::str::from_utf8(bytes)
                            .ok()
                            .filter(|text| !text.contains('\0'))
                            .ok_or_else(|| DataError::Binary {
                                path: path.clone(),
                                line,
                            })?;
                        // A byte order mark is not text.
                        let text = if line == 1 {
                            text.trim_start_matches('\u{feff}')
                        } else {
                            text
                        };
                        if text.trim().is_empty() {
                            if !paragraph.is_empty() {
                                documents = pieces.push(&paragraph);
                                paragraph.clear();
                            }
                        } else {
                            // A text without blank lines must not be gathered whole.
                            if paragraph.len() >= 2 * DOCUMENT_BYTES {
                                documents = pieces.push(&paragraph);
                                paragraph.clear();
                            }
                            if !paragraph.is_empty() {
                                paragraph.push('\n');
                            }
                            paragraph.push_str(text);
                        }
                    }
                    None => {
                        ended = true;
                        if !paragraph.is_empty() {
                            documents = pieces.push(&paragraph);
                        }
                        documents.extend(pieces.finish());
                    }
                }
                for text in documents {
                    let item = Item::Document {
                        text,
                        side: Side::ByContent,
                        position,
                    };
                    if visitor(item)?.is_break() {
                        return Ok(());
                    }
                }
                if ended {
                    break;
                }
            }
            before += lines.position();
        }
        Ok(())
    }
}
