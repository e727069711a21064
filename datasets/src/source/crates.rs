//! The source `crates`, the default: English prose in the documentation of the crates that this program is built from.
//!
//! Cargo unpacks their sources before it can build us, and `Cargo.lock` pins their contents by checksum, so this text is
//! there on every machine that built the program, with the same bytes for one `Cargo.lock`, without a download of ours.
//! `crates.list` names only crates that every build unpacks, on every platform; a test keeps it so.
//!
//! A document is the prose of one file: doc comments of a Rust file (`///`, `//!`), or a Markdown file, without code, tables,
//! links, changelogs and licences. A paragraph that occurred before, in any file, is dropped.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::{Item, Pieces, Side, Source, Visitor};
use crate::DataError;

/// Goes into the fingerprint: to be raised whenever this file reads other text out of the same crates.
const TEXT_VERSION: u32 = 1;

/// A file with less prose than this gives no document: it is a heading or a sentence, and no text to model.
const LEAST_DOCUMENT_BYTES: usize = 200;

/// Most files are shorter and stay whole. Longer ones are cut, or a few large files would decide what validation holds.
const DOCUMENT_BYTES: usize = 16 << 10;

const LIST: &str = include_str!("crates.list");
const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));

/// A crate of `Cargo.lock` that is on the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    pub name: String,
    pub version: String,
    pub checksum: String,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The crates that are read, sorted by name, then version.
///
/// # Errors
/// The list names a crate that `Cargo.lock` does not hold.
pub fn listed() -> Result<Vec<Crate>, DataError> {
    let lock: Lock =
        toml::from_str(LOCK).expect("Cargo.lock is compiled in, and cargo built us from it");
    let mut crates = Vec::new();
    for entry in entries() {
        let (name, compatible) = entry.split_once('@').unwrap_or((entry, ""));
        let package = lock.package.iter().find_map(|package| {
            let checksum = package.checksum.as_ref()?;
            (package.name == name && compatible_version(&package.version) == compatible)
                .then(|| (package.version.clone(), checksum.clone()))
        });
        let Some((version, checksum)) = package else {
            return Err(DataError::CratesList {
                entry: entry.into(),
            });
        };
        crates.push(Crate {
            name: name.into(),
            version,
            checksum,
        });
    }
    crates.sort();
    Ok(crates)
}

/// The entries of `crates.list`: `name@version`, the version shortened by [`compatible_version`].
pub fn entries() -> impl Iterator<Item = &'static str> {
    LIST.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The part of a version that a compatible update keeps (`1` of 1.2.3, `0.39` of 0.39.1, `0.0.4` of 0.0.4).
/// Cargo never locks two versions of one crate that share it, so with the name it says which one is meant.
pub fn compatible_version(version: &str) -> &str {
    let version = version.split(['+', '-']).next().unwrap_or(version);
    let mut dots = version.match_indices('.').map(|(at, _)| at);
    let (first, second) = (dots.next(), dots.next());
    match (first, second) {
        (Some(first), Some(second)) if &version[..first] == "0" => {
            if &version[first + 1..second] == "0" {
                version
            } else {
                &version[..second]
            }
        }
        (Some(first), _) => &version[..first],
        _ => version,
    }
}

/// The prose of the listed crates.
pub struct Crates {
    limit_bytes: Option<u64>,
    crates: Vec<Crate>,
    directories: Vec<PathBuf>,
    /// Reading costs seconds and the tokenizer needs the text before the store does.
    documents: OnceCell<Vec<String>>,
}

impl Crates {
    /// Finds the unpacked sources under Cargo's home.
    ///
    /// # Errors
    /// Cargo has no home, or the source of a crate is not there.
    pub fn new(limit_bytes: Option<u64>) -> Result<Crates, DataError> {
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
            .ok_or(DataError::NoCargoHome)?;
        Crates::under(&home, limit_bytes)
    }

    /// The same with Cargo's home given.
    ///
    /// # Errors
    /// The source of a crate is not there.
    pub fn under(cargo_home: &Path, limit_bytes: Option<u64>) -> Result<Crates, DataError> {
        let registry = cargo_home.join("registry").join("src");
        // One folder per registry or mirror of it. Which one does not matter: Cargo holds every package to the checksum of
        // Cargo.lock when it downloads it. What it unpacked is not checked again, neither by Cargo nor here.
        let mut indexes: Vec<PathBuf> = std::fs::read_dir(&registry)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        indexes.sort();
        let crates = listed()?;
        let mut directories = Vec::with_capacity(crates.len());
        for Crate { name, version, .. } in &crates {
            let directory = indexes
                .iter()
                .map(|index| index.join(format!("{name}-{version}")))
                // Cargo writes this file last, so a folder without it was left half unpacked.
                .find(|directory| directory.join(".cargo-ok").is_file());
            directories.push(directory.ok_or_else(|| DataError::CrateMissing {
                name: name.clone(),
                version: version.clone(),
                registry: registry.clone(),
            })?);
        }
        Ok(Crates {
            limit_bytes,
            crates,
            directories,
            documents: OnceCell::new(),
        })
    }

    fn documents(&self) -> Result<&[String], DataError> {
        if let Some(documents) = self.documents.get() {
            return Ok(documents);
        }
        let documents = self.read()?;
        Ok(self.documents.get_or_init(|| documents))
    }

    fn read(&self) -> Result<Vec<String>, DataError> {
        let mut seen = HashSet::new();
        let mut documents = Vec::new();
        let mut bytes = 0;
        // Crates are read a few at a time in parallel; which paragraph came first is then decided in the fixed order.
        for directories in self.directories.chunks(32) {
            let files: Vec<Vec<Vec<String>>> = directories
                .par_iter()
                .map(|directory| prose_of_crate(directory))
                .collect::<Result<_, DataError>>()?;
            for paragraphs in files.into_iter().flatten() {
                let mut pieces = Pieces::new(DOCUMENT_BYTES, "\n");
                let mut found = Vec::new();
                for paragraph in paragraphs {
                    if seen.insert(fingerprint_of_paragraph(&paragraph)) {
                        found.extend(pieces.push(&paragraph));
                    }
                }
                found.extend(pieces.finish());
                for document in found {
                    if document.len() < LEAST_DOCUMENT_BYTES {
                        continue;
                    }
                    bytes += document.len() as u64;
                    documents.push(document);
                    if self.limit_bytes.is_some_and(|limit| bytes >= limit) {
                        return Ok(documents);
                    }
                }
            }
        }
        Ok(documents)
    }
}

impl Source for Crates {
    fn fingerprint(&self, _hashed: &mut dyn FnMut(u64)) -> Result<blake3::Hash, DataError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&TEXT_VERSION.to_le_bytes());
        for Crate {
            name,
            version,
            checksum,
        } in &self.crates
        {
            hasher.update(format!("{name} {version} {checksum}\n").as_bytes());
        }
        Ok(hasher.finalize())
    }

    fn size_bytes(&self) -> u64 {
        self.documents().map_or(0, |documents| {
            documents.iter().map(|text| text.len() as u64).sum()
        })
    }

    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        let mut position = 0;
        for text in self.documents()? {
            position += text.len() as u64;
            let item = Item::Document {
                text: text.clone(),
                side: Side::ByContent,
                position,
            };
            if let ControlFlow::Break(()) = visitor(item)? {
                break;
            }
        }
        Ok(())
    }
}

/// The paragraphs of every file of a crate, files in the order of the bytes of their `/`-separated paths.
fn prose_of_crate(directory: &Path) -> Result<Vec<Vec<String>>, DataError> {
    let mut files = Vec::new();
    collect_files(directory, "", &mut files)?;
    files.sort();
    let mut prose = Vec::new();
    for (relative, path) in files {
        let bytes = std::fs::read(&path).map_err(|e| DataError::read(&path, e))?;
        // Test data of a crate may be anything; text that is not UTF-8 is not prose.
        let Ok(text) = std::str::from_utf8(&bytes) else {
            continue;
        };
        prose.push(if relative.ends_with(".rs") {
            rust_prose(text)
        } else {
            markdown_prose(text.lines())
        });
    }
    Ok(prose)
}

/// Rust and Markdown files under `directory` with their relative paths; links are not followed.
fn collect_files(
    directory: &Path,
    prefix: &str,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<(), DataError> {
    let read = |e| DataError::read(directory, e);
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        let kind = entry.file_type().map_err(read)?;
        // A name that is not UTF-8 cannot be unpacked on every platform.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let relative = format!("{prefix}{name}");
        if kind.is_dir() {
            collect_files(&entry.path(), &format!("{relative}/"), files)?;
        } else if kind.is_file() && is_read(&name) {
            files.push((relative, entry.path()));
        }
    }
    Ok(())
}

fn is_read(name: &str) -> bool {
    const BOILERPLATE: [&str; 13] = [
        "change",
        "history",
        "release",
        "news",
        "licen",
        "copying",
        "copyright",
        "code_of_conduct",
        "code-of-conduct",
        "notice",
        "security",
        "authors",
        "third",
    ];
    if name.ends_with(".rs") {
        return true;
    }
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".md") && !BOILERPLATE.iter().any(|start| lower.starts_with(start))
}

/// The paragraphs of the doc comments of a Rust file.
fn rust_prose(text: &str) -> Vec<String> {
    let mut paragraphs = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    let mut kind = "";
    for line in text.lines() {
        let line = line.trim();
        let doc = ["///", "//!"]
            .into_iter()
            .find_map(|marker| Some((marker, line.strip_prefix(marker)?)))
            // Four slashes are a plain comment, often a ruler.
            .filter(|(marker, rest)| *marker == "//!" || !rest.starts_with('/'));
        match doc {
            Some((marker, rest)) => {
                if marker != kind {
                    paragraphs.extend(markdown_prose(block.drain(..)));
                    kind = marker;
                }
                block.push(rest.strip_prefix(' ').unwrap_or(rest));
            }
            None if !block.is_empty() => paragraphs.extend(markdown_prose(block.drain(..))),
            None => {}
        }
    }
    paragraphs.extend(markdown_prose(block.into_iter()));
    paragraphs
}

/// The paragraphs of Markdown, each on one line: text, headings and list items, without code blocks, tables, HTML, rulers
/// and link targets.
fn markdown_prose<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut paragraphs = Vec::new();
    let mut paragraph = String::new();
    let mut fence: Option<&str> = None;
    let mut html = false;
    let mut after_blank = true;
    let mut in_list = false;
    let close = |paragraph: &mut String, paragraphs: &mut Vec<String>| {
        let text = plain(paragraph);
        if is_prose(&text) {
            paragraphs.push(text);
        }
        paragraph.clear();
    };
    for raw in lines {
        let line = raw.trim();
        if let Some(open) = fence {
            if line.starts_with(open) && line.trim_start_matches(&open[..1]).is_empty() {
                fence = None;
            }
            continue;
        }
        if html {
            html = !line.contains("-->");
            continue;
        }
        if let Some(open) = fence_of(line) {
            close(&mut paragraph, &mut paragraphs);
            fence = Some(open);
            continue;
        }
        if line.starts_with("<!--") {
            close(&mut paragraph, &mut paragraphs);
            html = !line.contains("-->");
            continue;
        }
        if line.is_empty() {
            close(&mut paragraph, &mut paragraphs);
            after_blank = true;
            continue;
        }
        let indented = raw.starts_with("    ") || raw.starts_with('\t');
        if !indented && after_blank && !is_list_item(line) && !raw.starts_with(' ') {
            in_list = false;
        }
        let code = indented && !in_list && paragraph.is_empty() && after_blank;
        let ruler = line
            .chars()
            .all(|c| matches!(c, '-' | '=' | '*' | '_' | '+' | ' ' | '#' | '~'));
        let skipped = line.starts_with('|')
            || line.starts_with('<')
            || line.starts_with("[![")
            || line.starts_with("![")
            || (line.starts_with('[') && line.contains("]: "));
        if code {
            // The lines of an indented code block follow each other, so `after_blank` stays.
            continue;
        }
        after_blank = false;
        if ruler || skipped {
            close(&mut paragraph, &mut paragraphs);
        } else if line.starts_with('#') {
            close(&mut paragraph, &mut paragraphs);
            paragraph.push_str(line.trim_matches(['#', ' ']));
            close(&mut paragraph, &mut paragraphs);
        } else if is_list_item(line) {
            close(&mut paragraph, &mut paragraphs);
            in_list = true;
            paragraph.push_str(line);
        } else {
            let line = line.trim_start_matches(['>', ' ']);
            if !paragraph.is_empty() && !line.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line);
        }
    }
    close(&mut paragraph, &mut paragraphs);
    paragraphs
}

/// The opening characters of a fenced code block.
fn fence_of(line: &str) -> Option<&str> {
    ["`", "~"].into_iter().find_map(|mark| {
        let length = line.len() - line.trim_start_matches(mark).len();
        // Inline code may open a line with three marks and close them on it.
        (length >= 3 && !line[length..].contains(mark)).then(|| &line[..length])
    })
}

fn is_list_item(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() < line.len() {
        return rest.starts_with(". ") || rest.starts_with(") ");
    }
    ["- ", "* ", "+ "].iter().any(|mark| line.starts_with(mark))
}

/// Takes links, images and emphasis out of a paragraph and keeps their text; code spans stay, they are part of sentences.
fn plain(paragraph: &str) -> String {
    let mut text = String::with_capacity(paragraph.len());
    let mut rest = paragraph;
    while let Some(at) = rest.find(['[', '*', '`']) {
        text.push_str(&rest[..at]);
        let (mark, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = match mark {
            b'*' => after.strip_prefix('*').unwrap_or(after),
            b'`' => {
                // Up to the closing mark, nothing is markup.
                let end = after.find('`').map_or(after.len(), |end| end + 1);
                text.push('`');
                text.push_str(&after[..end]);
                &after[end..]
            }
            _ => match link(after) {
                Some((shown, beyond)) => {
                    if text.ends_with('!') {
                        text.pop();
                    } else {
                        text.push_str(&plain(shown));
                    }
                    beyond
                }
                None => {
                    text.push('[');
                    after
                }
            },
        };
    }
    text.push_str(rest);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Splits what follows a `[` into the text of a link and what comes after the link: `text](target)`, `text][name]`, `text]`.
fn link(after: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let end = after.char_indices().find_map(|(at, c)| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })?;
    let (shown, rest) = (&after[..end], &after[end + 1..]);
    for (open, close) in [('(', ')'), ('[', ']')] {
        if let Some(target) = rest.strip_prefix(open)
            && let Some(end) = target.find(close)
        {
            return Some((shown, &target[end + 1..]));
        }
    }
    // `[Type]` and [`Type`] are links of rustdoc; anything else, such as `[0, 1)` or `[b, t]`, is not.
    let name = shown.trim_matches('`');
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '!' | '(' | ')' | '@'));
    (is_name && (name.len() > 2 || shown.starts_with('`'))).then_some((shown, rest))
}

/// Whether a paragraph is text rather than data: three words at least, mostly letters, mostly ASCII.
fn is_prose(text: &str) -> bool {
    let words = text
        .split(' ')
        .filter(|word| word.bytes().any(|b| b.is_ascii_alphabetic()))
        .count();
    let letters = text
        .bytes()
        .filter(|b| b.is_ascii_alphabetic() || *b == b' ')
        .count();
    words >= 3 && letters * 4 >= text.len() * 3
}

/// Equal for paragraphs that differ only in case, digits, punctuation and space: tables of constants and numbered variants of
/// one sentence are then one paragraph.
fn fingerprint_of_paragraph(paragraph: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let normalised: Vec<u8> = paragraph
        .bytes()
        .filter(|b| b.is_ascii_alphabetic() || !b.is_ascii())
        .map(|b| b.to_ascii_lowercase())
        .collect();
    hasher.update(&normalised);
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatible_versions_are_those_of_cargo() {
        for (version, expected) in [
            ("1.2.3", "1"),
            ("0.39.1", "0.39"),
            ("0.0.4", "0.0.4"),
            ("1.11.1+lz4-1.10.0", "1"),
            ("10.0.0-rc.1", "10"),
        ] {
            assert_eq!(compatible_version(version), expected);
        }
    }

    #[test]
    fn doc_comments_give_their_prose_and_no_code() {
        let source = "\
//! A module about *many* things,
//! see [`Other`] and [the book](https://example.org/book).
//!
//! ```
//! let code_is_not_prose = true;
//! ```
//!
//!     indented code is not prose either
use x;
//// a ruler of slashes is a comment
/// # Examples of what it does
/// - first of all this
///   goes on here
/// - and then comes that
#[inline]
fn f() {} // not a doc comment at all
";
        assert_eq!(
            rust_prose(source),
            [
                "A module about many things, see `Other` and the book.",
                "Examples of what it does",
                "- first of all this goes on here",
                "- and then comes that",
            ]
        );
    }

    #[test]
    fn markdown_gives_its_prose_without_tables_badges_and_link_targets() {
        let text = "Title of the thing\n===\n\n[![badge](a)](b)\n<p align=center>\n\n| a | b |\n|--|--|\n\n\
                    It lies within [0, 1) and has the shape [b, t]\nor `a*b[c]`, ![picture](x.png) as shown.\n\n[name]: https://example.org\n\
                    ~~~text\nno prose in here\n~~~\n<!-- a remark that\nnobody should see -->\nThe end of it.\n";
        assert_eq!(
            markdown_prose(text.lines()),
            [
                "Title of the thing",
                "It lies within [0, 1) and has the shape [b, t] or `a*b[c]`, as shown.",
                "The end of it.",
            ]
        );
    }

    #[test]
    fn data_is_not_prose() {
        assert!(is_prose("Returns the number of elements."));
        assert!(!is_prose("Returns it."));
        assert!(!is_prose("0x00 0x01 0x02 a b c 0x03 0x04 0x05"));
    }

    #[test]
    fn variants_of_a_sentence_are_one_paragraph() {
        let of = fingerprint_of_paragraph;
        assert_eq!(
            of("Reads 16 bits, then stops."),
            of("reads 32 bits then stops")
        );
        assert_ne!(of("Reads 16 bits."), of("Writes 16 bits."));
    }
}
