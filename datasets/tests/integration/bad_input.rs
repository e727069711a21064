//! Bad text, tokenizers and folders: one line that names the file and says what would be right.

use datasets::{SourceSpec, TokenizerSpec};

use crate::support::{documents, gzip, jsonl, prepared, spec, write, zstandard};

#[test]
fn a_corpus_that_cannot_be_used_is_named_with_what_would_be_right() {
    let good = jsonl(&documents(200));
    let truncated = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    let corrupt = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 40].fill(0xaa);
        bytes
    };
    let mut nul = documents(3).join("\n").into_bytes();
    nul.extend(b"\nx\0y\n");
    let cases: [(&str, Vec<u8>, &str); 12] = [
        (
            "empty.txt",
            Vec::new(),
            "is empty; give a file that holds text",
        ),
        ("empty.jsonl.gz", Vec::new(), "is empty"),
        (
            "nul.txt",
            nul,
            "line 4 is binary, not UTF-8 text; give plain text",
        ),
        (
            "latin1.txt",
            b"first\ncaf\xe9\n".to_vec(),
            "line 2 is binary, not UTF-8 text",
        ),
        (
            "program.jsonl",
            b"\x7fELF\x02\x01\x00\x00".to_vec(),
            "line 1 is binary",
        ),
        (
            "cut.jsonl.gz",
            truncated(gzip(&good)),
            "is not a whole .gz file: it ends too early; compress or copy it again",
        ),
        (
            "cut.jsonl.zst",
            truncated(zstandard(&good)),
            "is not a whole .zst file",
        ),
        (
            "corrupt.jsonl.gz",
            corrupt(gzip(&good)),
            "is not a whole .gz file: ",
        ),
        (
            "corrupt.jsonl.zst",
            corrupt(zstandard(&good)),
            "is not a whole .zst file: ",
        ),
        ("plain.jsonl.gz", good.clone(), "is not a whole .gz file: "),
        (
            "plain.jsonl.zst",
            good.clone(),
            "is not a whole .zst file: ",
        ),
        (
            "text.jsonl",
            b"Once upon a time\nthere was\n".to_vec(),
            "2 of 2 lines are bad, more than the allowed share of 0.01",
        ),
    ];
    for (name, bytes, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), name, &bytes);
        let cache = folder.path().join("cache");
        let error = spec(&path)
            .and_then(|spec| prepared(&spec, &cache))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.contains(name), "{name} is not named: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
        // Nothing is left that could be taken for a store.
        let left = std::fs::read_dir(&cache).map_or(0, |entries| {
            entries
                .filter(|e| e.as_ref().unwrap().path().is_dir())
                .count()
        });
        assert_eq!(left, 0, "{name}");
    }
}

#[test]
fn a_path_that_holds_no_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = SourceSpec::from_path(&folder.path().join("nothing"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("nothing: no such file or folder; give text files"),
        "{missing}"
    );
    let empty = SourceSpec::from_path(folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        empty.contains("no text found in this folder; give one that holds c4 shards"),
        "{empty}"
    );
    let text = SourceSpec::Text {
        paths: vec![folder.path().into()],
    };
    let mut given = spec(&write(folder.path(), "a.txt", b"some text")).unwrap();
    given.source = text;
    let error = prepared(&given, &folder.path().join("cache"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot be read: it is a folder, not a file"),
        "{error}"
    );
    given.source = SourceSpec::Text { paths: Vec::new() };
    let error = prepared(&given, folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("no paths given"), "{error}");
}

#[test]
fn a_folder_with_text_of_two_kinds_names_both() {
    for (first, second, kinds) in [
        ("a.jsonl", "b.txt", "JSON lines (a.jsonl) and text (b.txt)"),
        (
            "c4-train.00000-of-01024.json.gz",
            "mine.jsonl",
            "C4 shards (c4-train.00000-of-01024.json.gz) and JSON lines (mine.jsonl)",
        ),
        (
            "README.md",
            "c4-validation.00000-of-00008.json.gz",
            "C4 shards (c4-validation.00000-of-00008.json.gz) and text (README.md)",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), first, b"x");
        assert!(
            SourceSpec::from_path(folder.path()).is_ok(),
            "{first} alone"
        );
        write(folder.path(), second, b"x");
        let error = SourceSpec::from_path(folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(kinds), "{error}");
    }
}

#[test]
fn a_corpus_with_the_wrong_field_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "corpus.jsonl", &jsonl(&documents(3_000)));
    let mut given = spec(&path).unwrap();
    given.source = SourceSpec::Jsonl {
        paths: vec![path],
        field: "body".into(),
    };
    let error = prepared(&given, folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("1000 of 1000 lines are bad"), "{error}");
    assert!(error.contains("no field `body`"), "{error}");
}

#[test]
fn a_text_too_small_to_divide_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.txt", b"One short text.");
    let error = prepared(&spec(&path).unwrap(), folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("split is empty (documents read: 1, "),
        "{error}"
    );
}

#[test]
fn a_tokenizer_that_is_not_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = write(folder.path(), "corpus.jsonl", &jsonl(&documents(100)));
    let without_end =
        br#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    for (name, bytes, expected) in [
        ("list.json", &b"[1, 2]"[..], "is not a tokenizer.json: "),
        ("binary.json", b"\x00\xff", "is not a tokenizer.json: "),
        (
            "model.json",
            b"{\"model\": {}}",
            "is not a tokenizer.json: ",
        ),
        (
            "endless.json",
            without_end,
            "has no token that ends a document; it needs one of </s> <|endoftext|>",
        ),
    ] {
        let mut given = spec(&text).unwrap();
        given.tokenizer = TokenizerSpec::File {
            path: write(folder.path(), name, bytes),
        };
        let error = prepared(&given, folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(name),
            "{name}: {error}"
        );
        assert!(!error.contains('\n'), "{name}: {error}");
    }
    let mut given = spec(&text).unwrap();
    given.tokenizer = TokenizerSpec::Train { vocabulary: 100 };
    let error = prepared(&given, folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("a vocabulary of 100 is too small") && error.contains("at least 257"),
        "{error}"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = write(folder.path(), "corpus.jsonl", &jsonl(&documents(100)));
    let cache = text.join("cache");
    let error = prepared(&spec(&text).unwrap(), &cache)
        .unwrap_err()
        .to_string();
    assert!(error.contains("cache: cannot be written: "), "{error}");
    assert!(
        error.contains("give a folder that you may write to"),
        "{error}"
    );
}

#[test]
fn shares_outside_their_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = write(folder.path(), "corpus.jsonl", &jsonl(&documents(100)));
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        let mut given = spec(&text).unwrap();
        given.validation.share = share;
        let error = prepared(&given, folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("validation share: the share must lie above 0 and below 1"),
            "{error}"
        );
    }
    let mut given = spec(&text).unwrap();
    given.bad_line_share = 1.5;
    let error = prepared(&given, folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("bad_line_share: the share must lie between 0 and 1, not at 1.5"),
        "{error}"
    );
}

#[test]
fn missing_crate_sources_name_the_crate_and_the_ways_out() {
    let home = tempfile::tempdir().unwrap();
    let error = datasets::source::crates::Crates::under(home.path(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(error.starts_with("the source of crate "), "{error}");
    assert!(
        error.contains("`cargo fetch --locked` brings it, `--data PATH` points to other text"),
        "{error}"
    );
}
