//! The source `jsonl`: one JSON object a line, the text in one field; plain, `.gz` or `.zst`. A line is a document.

use std::path::{Path, PathBuf};

use serde::de::{Deserializer, IgnoredAny, MapAccess};

use super::{BadLine, Files, Item, Lines, Side, Source, Visitor, hash_files};
use crate::DataError;

/// The field that C4 and most other corpora keep their text in.
pub(crate) const FIELD: &str = "text";

/// JSON lines in the order given.
pub struct Jsonl {
    files: Files,
    field: String,
}

impl Jsonl {
    /// # Errors
    /// No path is given, or one is missing or a folder.
    pub fn new(paths: &[PathBuf], field: &str) -> Result<Jsonl, DataError> {
        Ok(Jsonl {
            files: Files::new(paths)?,
            field: field.into(),
        })
    }
}

/// Whether a file's name says that it holds JSON lines.
pub(crate) fn is_jsonl(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    ["", ".gz", ".zst"].iter().any(|packing| {
        name.strip_suffix(packing)
            .is_some_and(|name| name.ends_with(".jsonl") || name.ends_with(".ndjson"))
    }) || name.ends_with(".json.gz")
        || name.ends_with(".json.zst")
}

impl Source for Jsonl {
    fn fingerprint(&self, hashed: &mut dyn FnMut(u64)) -> Result<blake3::Hash, DataError> {
        hash_files(&self.files.paths, hashed)
    }

    fn size_bytes(&self) -> u64 {
        self.files.size_bytes
    }

    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        let mut before = 0;
        for path in &self.files.paths {
            match visit_file(path, &self.field, Side::ByContent, before, visitor)? {
                Some(read) => before += read,
                None => break,
            }
        }
        Ok(())
    }
}

/// Reads one file; returns its size in bytes, or `None` when the visitor broke.
pub(crate) fn visit_file(
    path: &Path,
    field: &str,
    side: Side,
    before: u64,
    visitor: &mut Visitor<'_>,
) -> Result<Option<u64>, DataError> {
    let mut lines = Lines::open(path)?;
    loop {
        let position = before + lines.position();
        let Some((line, bytes)) = lines.next_line()? else {
            return Ok(Some(lines.position()));
        };
        // JSON writes a NUL as \u0000, so a raw one at the very start is another kind of file.
        if line == 1 && bytes.contains(&0) {
            return Err(DataError::Binary {
                path: path.into(),
                line,
            });
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let item = match text_of(bytes, field) {
            Ok(text) if text.trim().is_empty() => continue,
            Ok(text) => Item::Document {
                text,
                side,
                position,
            },
            Err(reason) => Item::Bad(BadLine {
                path: path.into(),
                line,
                reason,
            }),
        };
        if visitor(item)?.is_break() {
            return Ok(None);
        }
    }
}

/// The text of a line, or what is wrong with it.
fn text_of(bytes: &[u8], field: &str) -> Result<String, String> {
    let line = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    let mut json = serde_json::Deserializer::from_str(line);
    let found = json
        .deserialize_map(FieldVisitor(field))
        .and_then(|found| json.end().map(|()| found))
        .map_err(|e| {
            // The reader counts lines and columns within the one line that it was given.
            let message = e.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            format!("not a JSON object with text in `{field}`: {message}")
        })?;
    found.map_err(|fields| match &fields[..] {
        [] => format!("no field `{field}`"),
        fields => format!("no field `{field}`, only `{}`", fields.join("`, `")),
    })
}

/// Fields that are named at most where the one that is looked for is missing.
const FIELDS_NAMED: usize = 5;

/// Takes one field of an object and skips the others without building them; of an object without it the first names.
struct FieldVisitor<'a>(&'a str);

impl<'de> serde::de::Visitor<'de> for FieldVisitor<'_> {
    type Value = Result<String, Vec<String>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut others) = (None, Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value::<String>()?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if found.is_none() && others.len() < FIELDS_NAMED {
                others.push(key);
            }
        }
        Ok(found.ok_or(others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_its_field_and_skips_the_others() {
        let line = br#"{"url": "x", "text": "Good morning\n", "n": [1, {"text": 2}]}"#;
        assert_eq!(text_of(line, "text").unwrap(), "Good morning\n");
        assert_eq!(text_of(line, "url").unwrap(), "x");
    }

    #[test]
    fn a_bad_line_says_what_is_wrong() {
        for (line, expected) in [
            (&b"{\"text\": \"a"[..], "EOF while parsing"),
            (b"[1]", "expected an object"),
            (b"{\"body\": \"a\"}", "no field `text`, only `body`"),
            (b"{}", "no field `text`"),
            (b"{\"text\": 3}", "expected a string"),
            (b"{\"text\": \"\xff\"}", "not UTF-8"),
            (b"{\"text\": \"a\"} x", "trailing characters"),
        ] {
            let reason = text_of(line, "text").unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
