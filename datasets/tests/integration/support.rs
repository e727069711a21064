//! Corpora, specifications and hand-made stores for the tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::store::Writer;
use datasets::{
    BadLines, DataError, DataSpec, SourceSpec, Split, Store, TokenizerSpec, ValidationSpec, prepare,
};

/// Distinct documents of a few sentences each, the same on every call.
pub fn documents(count: usize) -> Vec<String> {
    const WORDS: [&str; 24] = [
        "the", "rank", "of", "a", "matrix", "grows", "with", "every", "merge", "and", "then",
        "its", "factors", "begin", "again", "from", "zero", "while", "moments", "are", "pruned",
        "before", "rates", "rise",
    ];
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..count)
        .map(|number| {
            let words: Vec<&str> = (0..20 + draw(60))
                .map(|_| WORDS[draw(WORDS.len())])
                .collect();
            format!("Number {number}: {}.", words.join(" "))
        })
        .collect()
}

/// One JSON object a line, as C4 has them.
pub fn jsonl(documents: &[String]) -> Vec<u8> {
    documents
        .iter()
        .flat_map(|text| {
            let object = serde_json::json!({ "text": text, "url": "https://example.org" });
            format!("{object}\n").into_bytes()
        })
        .collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A small tokenizer trained on what lies at `path`, and a tenth of the documents held out.
pub fn spec(path: &Path) -> Result<DataSpec, DataError> {
    Ok(DataSpec {
        source: SourceSpec::from_path(path)?,
        tokenizer: TokenizerSpec::Train { vocabulary: 320 },
        validation: ValidationSpec {
            share: 0.1,
            maximum_tokens: None,
        },
        bad_line_share: 0.01,
    })
}

pub fn prepared(spec: &DataSpec, cache: &Path) -> Result<Store, DataError> {
    prepare(spec, cache, &mut |_| {})
}

/// The tokens of each document of a split.
pub fn token_documents(store: &Store, split: Split) -> Vec<Vec<u32>> {
    (0..store.documents(split))
        .map(|number| {
            let mut tokens = Vec::new();
            let range = store.document(split, number).unwrap();
            store.read(split, range, &mut tokens).unwrap();
            tokens
        })
        .collect()
}

/// The end of text in [`store_of`].
pub const END: u32 = 0;

/// A store whose two splits hold these documents as they are.
pub fn store_of(directory: &Path, vocabulary: u32, documents: &[Vec<u32>]) -> Arc<Store> {
    let mut writer = Writer::create(directory, b"{}", vocabulary, END).unwrap();
    for split in [Split::Training, Split::Validation] {
        for document in documents {
            writer.push(split, document, 1).unwrap();
        }
    }
    writer.finish(None, None, BadLines::default()).unwrap();
    Arc::new(Store::open(directory).unwrap())
}

/// Every file of a folder with its bytes, sorted by name.
pub fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}
